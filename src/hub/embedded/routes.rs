//! Which URL means what, and who may ask it.
//!
//! Reads a request's path into a [`Route`], checks host, origin, token and read-only, asks about faults, and calls the
//! handler. Knows the shape of URLs and nothing of what lies behind them.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;

use super::answer::{Answer, Outcome, Refused, broken};
use super::store::Store;
use super::xet::routes::{self as xet, Cas};
use super::{Fault, Options, api, commit, files, lfs, listing, pages, pulls};
use crate::hub::repo::{RepoId, RepoKind};

/// All that handlers share.
pub(super) struct Hub {
    pub store: Store,
    pub options: Options,
    pub port: u16,
    pub secret: [u64; 4],
}

/// One request, less its body.
pub(super) struct Ask {
    pub method: Method,
    pub headers: HeaderMap,
    pub query: Vec<(String, String)>,
    /// `http://host:port` as the client wrote it.
    pub base: String,
    /// The path as it came.
    pub path: String,
    /// Whether it may see what is private: it has the hub's token, or the hub asks for none.
    pub trusted: bool,
}

impl Ask {
    /// The last value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.query.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
    /// Whether a parameter says yes.
    pub fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| matches!(value, "" | "1" | "true" | "True"))
    }
}

/// What a URL means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Home,
    WhoAmI,
    Create,
    Delete,
    Yaml,
    Repos(RepoKind),
    LfsObject(String),
    LfsPart(String, u32),
    LfsComplete(String),
    /// The xet storage of this name.
    Xet(String, Cas),
    Repo(RepoId, Part),
}

/// What a URL means below a repository. Revisions and paths are decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Info,
    Revision(String),
    Tree(String, String),
    Paths(String),
    Refs,
    Commits(String),
    Preupload(String),
    Commit(String),
    Tag(String),
    Branch(String),
    Settings,
    Access,
    /// What stands behind `discussions`.
    Discussions(Vec<String>),
    /// A token to write to xet storage, or to read from it.
    XetToken(bool, String),
    Resolve(String, String),
    Raw(String, String),
    LfsBatch,
    LfsVerify,
    FrontPage,
    TreePage(String, String),
    FilePage(String, String),
    CommitsPage(String),
    CommitPage(String),
}

/// Reads a path. `None`: there is no such URL.
pub(super) fn route(path: &str) -> Option<Route> {
    let decoded: Option<Vec<String>> = path.split('/').skip(1).filter(|part| !part.is_empty()).map(decode).collect();
    let decoded = decoded?;
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [] => Some(Route::Home),
        ["api", rest @ ..] => api_route(rest),
        ["datasets", ns, name, rest @ ..] => web_route(RepoKind::Dataset, ns, name, rest),
        ["spaces", ns, name, rest @ ..] => web_route(RepoKind::Space, ns, name, rest),
        [ns, name, rest @ ..] => web_route(RepoKind::Model, ns, name, rest),
        _ => None,
    }
}

fn api_route(parts: &[&str]) -> Option<Route> {
    Some(match parts {
        ["whoami-v2"] => Route::WhoAmI,
        ["repos", "create"] => Route::Create,
        ["repos", "delete"] => Route::Delete,
        ["validate-yaml"] => Route::Yaml,
        ["lfs", "objects", oid] => Route::LfsObject((*oid).to_owned()),
        ["lfs", "objects", oid, "parts", number] => Route::LfsPart((*oid).to_owned(), number.parse().ok()?),
        ["lfs", "objects", oid, "complete"] => Route::LfsComplete((*oid).to_owned()),
        ["xet", id, rest @ ..] => Route::Xet((*id).to_owned(), xet::route(rest)),
        [kind] => Route::Repos(RepoKind::from_plural(kind)?),
        [kind, ns, name, rest @ ..] => {
            let repo = RepoId::new(RepoKind::from_plural(kind)?, &format!("{ns}/{name}")).ok()?;
            Route::Repo(repo, api_part(rest)?)
        }
        _ => return None,
    })
}

fn api_part(parts: &[&str]) -> Option<Part> {
    let own = |text: &&str| (*text).to_owned();
    Some(match parts {
        [] => Part::Info,
        ["revision", rev] => Part::Revision(own(rev)),
        ["tree", rev, path @ ..] => Part::Tree(own(rev), path.join("/")),
        ["paths-info", rev] => Part::Paths(own(rev)),
        ["refs"] => Part::Refs,
        ["commits", rev] => Part::Commits(own(rev)),
        ["preupload", rev] => Part::Preupload(own(rev)),
        ["commit", rev] => Part::Commit(own(rev)),
        ["tag", name] => Part::Tag(own(name)),
        ["branch", name] => Part::Branch(own(name)),
        ["settings"] => Part::Settings,
        ["auth-check"] => Part::Access,
        ["discussions", rest @ ..] => Part::Discussions(rest.iter().map(own).collect()),
        ["xet-read-token", rev] => Part::XetToken(false, own(rev)),
        ["xet-write-token", rev] => Part::XetToken(true, own(rev)),
        _ => return None,
    })
}

fn web_route(kind: RepoKind, ns: &str, name: &str, parts: &[&str]) -> Option<Route> {
    let own = |text: &&str| (*text).to_owned();
    let (bare, git) = name.strip_suffix(".git").map_or((name, false), |bare| (bare, true));
    let part = match parts {
        ["info", "lfs", "objects", "batch"] if git => Part::LfsBatch,
        ["info", "lfs", "verify"] if git => Part::LfsVerify,
        _ if git => return None,
        [] => Part::FrontPage,
        ["resolve", rev, path @ ..] if !path.is_empty() => Part::Resolve(own(rev), path.join("/")),
        ["raw", rev, path @ ..] if !path.is_empty() => Part::Raw(own(rev), path.join("/")),
        ["tree", rev, path @ ..] => Part::TreePage(own(rev), path.join("/")),
        ["blob", rev, path @ ..] if !path.is_empty() => Part::FilePage(own(rev), path.join("/")),
        ["commits", rev] => Part::CommitsPage(own(rev)),
        ["commit", oid] => Part::CommitPage(own(oid)),
        _ => return None,
    };
    Some(Route::Repo(RepoId::new(kind, &format!("{ns}/{bare}")).ok()?, part))
}

impl Route {
    /// Its name among the points of [`super::Faults`].
    fn point(&self) -> &'static str {
        match self {
            Route::Home => "page",
            Route::WhoAmI => "whoami",
            Route::Create => "create",
            Route::Delete => "delete",
            Route::Yaml => "yaml",
            Route::Repos(_) => "repos",
            Route::LfsObject(_) => "lfs.put",
            Route::LfsPart(..) => "lfs.part",
            Route::LfsComplete(_) => "lfs.complete",
            Route::Xet(_, cas) => cas.point(),
            Route::Repo(_, part) => part.point(),
        }
    }

    /// Whether it changes nothing although it is no GET.
    fn only_asks(&self) -> bool {
        matches!(self, Route::Yaml | Route::Repo(_, Part::Paths(_)))
    }

    /// Whether it prepares a change although it is a GET.
    fn will_write(&self) -> bool {
        matches!(self, Route::Repo(_, Part::XetToken(true, _)))
    }

    /// Whether it carries a grant or a token of its own in place of the hub's token.
    fn has_grant(&self) -> bool {
        matches!(self, Route::LfsObject(_) | Route::LfsPart(..) | Route::LfsComplete(_) | Route::Xet(..))
    }
}

impl Part {
    fn point(&self) -> &'static str {
        match self {
            Part::Info => "info",
            Part::Revision(_) => "revision",
            Part::Tree(..) => "tree",
            Part::Paths(_) => "paths",
            Part::Refs => "refs",
            Part::Commits(_) => "commits",
            Part::Preupload(_) => "preupload",
            Part::Commit(_) => "commit.before",
            Part::Tag(_) => "tag",
            Part::Branch(_) => "branch",
            Part::Settings => "settings",
            Part::Access => "access",
            Part::Discussions(_) => "discussions",
            Part::XetToken(..) => "xet.token",
            Part::Resolve(..) | Part::Raw(..) => "resolve",
            Part::LfsBatch => "lfs.batch",
            Part::LfsVerify => "lfs.verify",
            _ => "page",
        }
    }
}

/// The service that axum runs.
pub(super) fn service(hub: Arc<Hub>) -> Router {
    Router::new().fallback(handle).with_state(hub)
}

async fn handle(State(hub): State<Arc<Hub>>, request: Request) -> Result<Response, Infallible> {
    let mut answer = fulfil(hub, request).await.unwrap_or_else(Refused::answer);
    let headers = answer.headers_mut();
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.entry("referrer-policy").or_insert(HeaderValue::from_static("no-referrer"));
    Ok(answer)
}

async fn fulfil(hub: Arc<Hub>, request: Request) -> Outcome {
    let (head, body) = request.into_parts();
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let known = ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{}", hub.port));
    if !known.contains(&host) {
        return Err(Refused::new(403, "this hub answers to its loopback address only"));
    }
    let mut ask = Ask {
        trusted: false,
        query: head.uri.query().map(form).unwrap_or_default(),
        base: format!("http://{host}"),
        path: head.uri.path().to_owned(),
        method: head.method,
        headers: head.headers,
    };
    let route = route(&ask.path).ok_or_else(Refused::no_route)?;
    ask.trusted = has_token(&hub, &ask);
    admit(&hub, &ask, &route)?;
    if let Some(answer) = hub.fault(route.point()) {
        return Ok(answer);
    }
    dispatch(hub, ask, route, body).await
}

/// Whether this request may be fulfilled.
fn admit(hub: &Hub, ask: &Ask, route: &Route) -> Result<(), Refused> {
    let writes = route.will_write() || (!matches!(ask.method, Method::GET | Method::HEAD) && !route.only_asks());
    if writes && hub.options.read_only {
        return Err(Refused::new(403, "this hub is served read-only: publish with `hfbuild` itself"));
    }
    if let Some(origin) = ask.headers.get(header::ORIGIN).filter(|_| writes)
        && origin.as_bytes() != ask.base.as_bytes()
    {
        return Err(Refused::new(403, "a page of another site may not write here"));
    }
    if ask.trusted || route.has_grant() {
        return Ok(());
    }
    if ask.headers.contains_key(header::AUTHORIZATION) {
        return Err(Refused::new(401, "Invalid credentials in Authorization header"));
    }
    if writes || *route == Route::WhoAmI {
        return Err(Refused::new(401, "Invalid username or password."));
    }
    hub.refuse_private(route)
}

fn has_token(hub: &Hub, ask: &Ask) -> bool {
    let given = ask.headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    hub.options.token.as_ref().is_none_or(|token| given == Some(format!("Bearer {token}").as_bytes()))
}

impl Hub {
    /// The repositories of a kind that this request may know of.
    pub fn repos(&self, ask: &Ask, kind: RepoKind) -> Vec<RepoId> {
        let open = |repo: &RepoId| matches!(self.store.repo(repo), Ok(Some(record)) if !record.private);
        self.store.repos(kind).into_iter().filter(|repo| ask.trusted || open(repo)).collect()
    }

    fn refuse_private(&self, route: &Route) -> Result<(), Refused> {
        match route {
            Route::Repo(repo, _) if self.store.repo(repo)?.is_some_and(|record| record.private) => {
                Err(Refused { code: Some("RepoNotFound"), ..Refused::new(401, "Invalid username or password.") })
            }
            _ => Ok(()),
        }
    }

    /// The answer that a fault gives in place of the true one.
    pub fn fault(&self, point: &str) -> Option<Answer> {
        match self.options.faults.as_ref()?.at(point) {
            Fault::None => None,
            Fault::Status(status) => Some(Refused::new(status, "made to fail by a test").answer()),
            Fault::DropConnection => Some(broken()),
            Fault::Exhausted { reset } => {
                let mut answer = Refused::new(429, "too many requests, says a test").answer();
                let limit = HeaderValue::from_str(&format!("\"api\";r=0;t={reset}"));
                limit.into_iter().for_each(|limit| drop(answer.headers_mut().insert("ratelimit", limit)));
                Some(answer)
            }
            Fault::Throttle { retry_after } => {
                let mut answer = Refused::new(429, "too many requests, says a test").answer();
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
                Some(answer)
            }
        }
    }
}

async fn dispatch(hub: Arc<Hub>, ask: Ask, route: Route, body: Body) -> Outcome {
    // What streams, first.
    match &route {
        Route::LfsObject(oid) if ask.method == Method::PUT => return lfs::put(&hub, &ask, oid, body).await,
        Route::LfsObject(oid) => return files::object(&hub, &ask, oid).await,
        Route::Xet(id, cas) => return xet::fulfil(&hub, &ask, id, cas, body).await,
        Route::LfsPart(oid, number) => return lfs::put_part(&hub, &ask, oid, *number, body).await,
        Route::Repo(repo, Part::Resolve(rev, path)) => return files::resolve(&hub, &ask, repo, rev, path).await,
        Route::Repo(repo, Part::Commit(rev)) if ask.method == Method::POST => {
            return commit::receive(hub.clone(), ask, repo.clone(), rev.clone(), body).await;
        }
        _ => {}
    }
    const MOST: usize = 64 << 20;
    let body = axum::body::to_bytes(body, MOST).await.map_err(|_| Refused::new(413, "the body is too large"))?;
    let done = tokio::task::spawn_blocking(move || answer_whole(&hub, &ask, route, &body)).await;
    done.unwrap_or_else(|_| Err(Refused::new(500, "the embedded hub failed: this is a bug of hfbuild")))
}

/// Requests whose body and answer are small.
fn answer_whole(hub: &Hub, ask: &Ask, route: Route, body: &Bytes) -> Outcome {
    let (get, post) = (matches!(ask.method, Method::GET | Method::HEAD), ask.method == Method::POST);
    let (repo, part) = match route {
        Route::Home if get => return pages::home(hub, ask),
        Route::WhoAmI if get => return api::whoami(),
        Route::Create if post => return api::create(hub, ask, body),
        Route::Delete if ask.method == Method::DELETE => return api::delete(hub, body),
        Route::Yaml if post => return api::validate_yaml(body),
        Route::Repos(kind) if get => return listing::repos(hub, ask, kind),
        Route::LfsComplete(oid) if post => return lfs::complete(hub, ask, &oid, body),
        Route::Repo(repo, part) => (repo, part),
        _ => return Err(Refused::new(405, "this method is not offered here")),
    };
    match part {
        Part::Info if get => listing::info(hub, ask, &repo, "main"),
        Part::Revision(rev) if get => listing::info(hub, ask, &repo, &rev),
        Part::Tree(rev, path) if get => listing::tree(hub, ask, &repo, &rev, &path),
        Part::Paths(rev) if post => listing::paths(hub, ask, &repo, &rev, body),
        Part::Refs if get => api::refs(hub, ask, &repo),
        Part::Commits(rev) if get => listing::commits(hub, ask, &repo, &rev),
        Part::Preupload(rev) if post => api::preupload(hub, &repo, &rev, body),
        Part::Tag(rev) if post => api::create_tag(hub, &repo, &rev, body),
        Part::Tag(name) if ask.method == Method::DELETE => api::delete_tag(hub, &repo, &name),
        Part::Branch(name) if post => api::create_branch(hub, &repo, &name, body),
        Part::Branch(name) if ask.method == Method::DELETE => api::delete_branch(hub, &repo, &name),
        Part::Settings if ask.method == Method::PUT => api::settings(hub, &repo, body),
        Part::Access if get => api::access(hub, &repo),
        Part::Discussions(rest) if get || post => pulls::answer(hub, ask, &repo, &rest, body),
        Part::XetToken(write, rev) if get => xet::token(hub, ask, &repo, write, &rev),
        Part::Raw(rev, path) if get => files::raw(hub, &repo, &rev, &path),
        Part::LfsBatch if post => lfs::batch(hub, ask, &repo, body),
        Part::LfsVerify if post => lfs::verify(hub, body),
        Part::FrontPage if get => pages::front(hub, &repo),
        Part::TreePage(rev, path) if get => pages::tree(hub, &repo, &rev, &path),
        Part::FilePage(rev, path) if get => pages::file(hub, &repo, &rev, &path),
        Part::CommitsPage(rev) if get => pages::commits(hub, &repo, &rev),
        Part::CommitPage(oid) if get => pages::commit(hub, &repo, &oid),
        _ => Err(Refused::new(405, "this method is not offered here")),
    }
}

/// Undoes percent-encoding; `None` when it is no UTF-8 then.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'%', [high, low, after @ ..]) => match hex::decode([*high, *low]) {
                Ok(value) => {
                    bytes.extend(value);
                    rest = after;
                }
                Err(_) => bytes.push(byte),
            },
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Reads `a=1&b=2`, a query or a form.
pub(super) fn form(text: &str) -> Vec<(String, String)> {
    let plain = |text: &str| decode(&text.replace('+', " ")).unwrap_or_default();
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (plain(k), plain(v))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> RepoId {
        RepoId::new(RepoKind::Model, name).unwrap()
    }

    #[test]
    fn urls_and_what_they_mean() {
        let part = |path: &str| match route(path) {
            Some(Route::Repo(repo, part)) if repo == model("a/b") => Some(part),
            _ => None,
        };
        assert_eq!(route("/"), Some(Route::Home));
        assert_eq!(route("/api/models"), Some(Route::Repos(RepoKind::Model)));
        assert_eq!(part("/a/b"), Some(Part::FrontPage));
        assert_eq!(part("/api/models/a/b/revision/x%2Fy"), Some(Part::Revision("x/y".into())));
        assert_eq!(part("/api/models/a/b/tree/main/c%2Fd%20e"), Some(Part::Tree("main".into(), "c/d e".into())));
        assert_eq!(part("/a/b/resolve/main/%C3%BC.txt"), Some(Part::Resolve("main".into(), "ü.txt".into())));
        assert_eq!(part("/a/b.git/info/lfs/objects/batch"), Some(Part::LfsBatch));
        assert_eq!(part("/api/models/a/b/xet-write-token/main"), Some(Part::XetToken(true, "main".into())));
        assert_eq!(route("/api/xet/0a/v1/shards"), Some(Route::Xet("0a".into(), Cas::Shards)));
        assert_eq!(route("/api/models/a/../refs"), None);
        assert_eq!(route("/%2e%2e/b"), None);
        assert!(
            matches!(route("/datasets/a/b/resolve/main/x"), Some(Route::Repo(r, _)) if r.kind() == RepoKind::Dataset)
        );
    }

    #[test]
    fn forms() {
        let pairs = form("paths=a+b&paths=%C3%BC&expand");
        let expected = [("paths", "a b"), ("paths", "ü"), ("expand", "")];
        assert_eq!(pairs, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(decode("%zz%").as_deref(), Some("%zz%"));
    }
}
