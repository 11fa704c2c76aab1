//! One request to a hub: URL, token, retry, and what a refusal means in words.
//!
//! Knows HTTP and the hub's error conventions. Knows no endpoint of the API. The token is sent to the endpoint's own
//! origin only (never to the storage hosts that LFS actions name), and no error holds a header or a query.

use std::future::Future;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::token::Token;
use crate::core::error::{Error, Result};

/// How often and how patiently a request that changes nothing twice is sent again.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// How many further tries after the first.
    pub tries: u32,
    /// The first pause; each further one is twice as long.
    pub base: Duration,
    /// No pause is longer. A hub that asks for more is not waited for.
    pub cap: Duration,
}

/// How often a connection is tried that nobody takes.
const CONNECTS: u32 = 3;

impl Default for Retry {
    /// Five further tries from half a second on; the cap is a little above the Hub's window of five minutes.
    fn default() -> Self {
        Retry { tries: 5, base: Duration::from_millis(500), cap: Duration::from_secs(310) }
    }
}

impl Retry {
    /// The pause before try number `nth` (from 1), or `None` when it is not worth it.
    pub fn pause(&self, nth: u32, asked: Option<Duration>) -> Option<Duration> {
        let own = self.base.saturating_mul(1 << nth.saturating_sub(1).min(16)).min(self.cap);
        match asked {
            _ if nth > self.tries => None,
            Some(asked) if asked > self.cap => None,
            Some(asked) => Some(asked.max(self.base.saturating_mul(nth).min(self.cap))), // none is hammered
            None => Some(own),
        }
    }
}

/// What a request is for: its name in errors, and which right it needs.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub method: Method,
    /// Relative to the endpoint, without a leading slash, encoded, without a query.
    pub path: String,
    /// The scope that a 403 misses, in words.
    pub needs: &'static str,
}

/// The right to read.
pub(super) const READ: &str = "read access to the repository";
/// The right to write.
pub(super) const WRITE: &str =
    "the role `write` or, when it is fine-grained, `write access to contents` of the namespace";

impl Call {
    pub fn get(path: String) -> Self {
        Call { method: Method::GET, path, needs: READ }
    }
    pub fn post(path: String) -> Self {
        Call { method: Method::POST, path, needs: WRITE }
    }
    fn named(&self) -> String {
        format!("`{} /{}`", self.method, self.path)
    }
}

/// Why a request has no good answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The hub answered with something other than success.
    Refused(Refusal),
    /// There is no answer. `sent`: the request may have arrived.
    Lost { sent: bool, reason: String },
    /// It failed on our side.
    Ours(Error),
}

/// An answer that is no success.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    pub status: u16,
    /// The hub's own words: `X-Error-Message`, or `error` of the body.
    pub message: Option<String>,
    /// `X-Error-Code`, e.g. `RepoNotFound`.
    pub code: Option<String>,
    /// How long the hub asks to wait.
    pub wait: Option<Duration>,
    /// The body, cut to 64 KiB.
    pub body: Vec<u8>,
}

impl Failure {
    /// Whether the same request may succeed a little later.
    pub fn passes(&self) -> bool {
        match self {
            Failure::Refused(refusal) => matches!(refusal.status, 408 | 429 | 500 | 502 | 503 | 504),
            Failure::Lost { .. } => true,
            Failure::Ours(_) => false,
        }
    }

    /// The status, when there is an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Failure::Refused(refusal) => Some(refusal.status),
            _ => None,
        }
    }

    /// Whether the hub says that the repository, the revision or the file is not there. It does so in a header of its own:
    /// a 404 without that comes from a proxy, a login page of the network, or no hub at all, and says nothing of them.
    /// (`huggingface_hub` 2.4 draws the line there too: `hf_raise_for_status`.)
    pub fn is_missing(&self) -> bool {
        matches!(self, Failure::Refused(refusal) if refusal.status == 404 && refusal.code.is_some())
    }

    /// Whether the hub says that of the file alone.
    pub fn is_missing_file(&self) -> bool {
        matches!(self, Failure::Refused(refusal) if self.is_missing() && refusal.code.as_deref() == Some("EntryNotFound"))
    }

    fn wait(&self) -> Option<Duration> {
        match self {
            Failure::Refused(refusal) => refusal.wait,
            _ => None,
        }
    }

    /// From the transport's error, without its URL: a signed URL is a secret.
    pub fn of_transport(error: reqwest::Error) -> Self {
        if error.is_redirect() {
            return Failure::Ours(
                Error::hub("the hub sends from one address to the next without end")
                    .hint("is the endpoint right? it is the hub's root, e.g. `https://huggingface.co`"),
            );
        }
        let sent = !(error.is_connect() || error.is_builder());
        let error = error.without_url();
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            let words = inner.to_string();
            if !reason.contains(&words) {
                reason = format!("{reason}: {words}");
            }
            source = inner.source();
        }
        Failure::Lost { sent, reason }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Ours(error)
    }
}

/// The endpoint, the token and the two connection pools.
pub(super) struct Http {
    pub endpoint: String,
    origin: (String, Option<String>, Option<u16>),
    pub token: Option<Token>,
    /// For the API: an answer that stalls is given up.
    api: Client,
    /// For content: as long as bytes move, nothing is given up.
    bulk: Client,
    pub retry: Retry,
}

/// Sent with every request.
pub(super) const USER_AGENT: &str = concat!("hfbuild/", env!("CARGO_PKG_VERSION"));

impl Http {
    pub fn new(endpoint: &str, token: Option<Token>, retry: Retry) -> Result<Self> {
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        let url = address_of(&endpoint)?;
        let shared = || {
            Client::builder()
                .user_agent(USER_AGENT)
                .connect_timeout(Duration::from_secs(15))
                .tcp_keepalive(Duration::from_secs(30))
        };
        let client = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|e| Error::hub("cannot set up the HTTP client").cause(e.without_url().to_string()))
        };
        Ok(Http {
            origin: origin(&url),
            token,
            api: client(shared().read_timeout(Duration::from_secs(180)))?,
            bulk: client(shared().tcp_user_timeout(Duration::from_secs(120)))?,
            retry,
            endpoint,
        })
    }

    /// A request to the API.
    pub fn api(&self, call: &Call) -> RequestBuilder {
        let request = self.api.request(call.method.clone(), format!("{}/{}", self.endpoint, call.path));
        self.authorize(request)
    }

    /// A request to an address that the hub named, with the token only when it is the hub's own.
    pub fn elsewhere(&self, method: Method, url: &Url) -> RequestBuilder {
        let request = self.bulk.request(method, url.clone());
        if self.is_own(url) { self.authorize(request) } else { request }
    }

    /// Whether an address is the hub's own, not that of another host.
    pub fn is_own(&self, url: &Url) -> bool {
        origin(url) == self.origin
    }

    /// A request to a further page of the API, at the address that the hub named.
    pub fn page(&self, url: &Url) -> RequestBuilder {
        let request = self.api.get(url.clone());
        if self.is_own(url) { self.authorize(request) } else { request }
    }

    /// Reads an address that the hub named, which may be relative to the endpoint.
    pub fn address(&self, href: &str) -> Result<Url> {
        let base = Url::parse(&format!("{}/", self.endpoint)).map_err(|e| Error::bug(e.to_string()))?;
        let url = base.join(href).map_err(|e| Error::hub("the hub named a malformed address").cause(e.to_string()))?;
        Ok(url)
    }

    fn authorize(&self, request: RequestBuilder) -> RequestBuilder {
        let Some(token) = &self.token else { return request };
        match HeaderValue::from_str(&format!("Bearer {}", token.secret())) {
            Ok(mut value) => {
                value.set_sensitive(true);
                request.header(AUTHORIZATION, value)
            }
            Err(_) => request,
        }
    }

    /// Runs `attempt` until it succeeds, fails for good or the tries are used up. Only for idempotent requests.
    pub async fn retrying<T, F, Fut>(&self, mut attempt: F) -> Result<T, Failure>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let mut nth = 0;
        loop {
            let failure = match attempt().await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            nth += 1;
            if matches!(failure, Failure::Lost { sent: false, .. }) && nth >= CONNECTS {
                return Err(failure); // nobody is there: more patience would only look like a hang
            }
            match self.retry.pause(nth, failure.wait()) {
                Some(pause) if failure.passes() => tokio::time::sleep(pause).await,
                _ => return Err(failure),
            }
        }
    }

    /// One idempotent request with an optional JSON body, its answer whole.
    pub async fn fetch(&self, call: &Call, body: Option<&(impl Serialize + Sync)>) -> Result<Answer, Failure> {
        self.retrying(|| async {
            let request = self.api(call);
            let request = if let Some(body) = body { request.json(body) } else { request };
            Answer::of(send(request).await?).await
        })
        .await
    }

    /// The same, its answer read as JSON.
    pub async fn json<T: DeserializeOwned>(
        &self,
        call: &Call,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, Failure> {
        let answer = self.fetch(call, body).await?;
        Ok(answer.json(call)?)
    }

    /// The failure of `call` in words.
    pub fn explain(&self, call: &Call, failure: Failure) -> Error {
        match failure {
            Failure::Ours(error) => error,
            Failure::Lost { reason, .. } => {
                Error::hub(format!("cannot reach the hub: {} had no answer", call.named())).cause(reason).hint(format!(
                    "is `{}` the right address, and is the network up? nothing is lost, run it again",
                    self.endpoint
                ))
            }
            Failure::Refused(refusal) => self.explain_refusal(call, refusal),
        }
    }

    fn explain_refusal(&self, call: &Call, refusal: Refusal) -> Error {
        let said = format!("{} answered {}", call.named(), refusal.status);
        let error = match (refusal.status, &self.token) {
            (401, Some(_)) => Error::hub(format!("the Hub refused the token: {said}")).hint(
                "it may have expired or belong to another hub: make a new one in the hub's settings and set `HF_TOKEN`",
            ),
            (401, None) => Error::hub(format!("the Hub asks for a token: {said}")).hint(
                "set `HF_TOKEN`, or log in with `hf auth login`; a repository that is private or missing asks too",
            ),
            (403, _) => {
                Error::hub(format!("the token does not allow this: {said}")).hint(format!("it needs {}", call.needs))
            }
            (404, _) if refusal.code.is_none() => Error::hub(format!(
                "{said}, without the `X-Error-Code` with which a hub says what is missing"
            ))
            .hint(format!(
                "a proxy or a login page of the network may have answered, or no hub: is `{}` the right address?",
                self.endpoint
            )),
            (404, _) => {
                let what = match refusal.code.as_deref() {
                    Some("RevisionNotFound") => "the revision does not exist",
                    Some("EntryNotFound") => "the file does not exist",
                    Some("RepoNotFound") => "the repository does not exist",
                    _ => "not found",
                };
                Error::hub(format!("{what}: {said}")).hint("is the repository's name right, and may the token see it?")
            }
            (413, _) => Error::hub(format!("too large for the hub: {said}"))
                .hint("fewer or smaller files in one commit may pass; large ones belong in LFS"),
            (429, _) => Error::hub(format!("the hub's rate limit is used up: {said}"))
                .hint("wait some minutes and run it again; nothing is lost"),
            (status, _) if status >= 500 => Error::hub(format!("the hub failed: {said}"))
                .hint("this is the hub's trouble: run it again later, nothing is lost"),
            _ => Error::hub(said),
        };
        match refusal.message {
            Some(message) => error.cause(message),
            None => error,
        }
    }
}

/// Whether this can be a hub's address.
///
/// # Errors
/// It cannot. What may be a user, a password or a signature in it is not said.
pub fn check_endpoint(endpoint: &str) -> Result<()> {
    address_of(endpoint.trim()).map(drop)
}

fn address_of(endpoint: &str) -> Result<Url> {
    let shown = endpoint.rsplit_once('@').map_or(endpoint, |(_, host)| host);
    let shown = shown.split(['?', '#']).next().unwrap_or_default();
    let bad = |why: String| {
        Error::hub(format!("`{shown}` is no hub's address"))
            .cause(why)
            .hint("write it as `https://host` or `http://127.0.0.1:port`; a token belongs in `HF_TOKEN`")
    };
    let url = Url::parse(endpoint).map_err(|e| bad(e.to_string()))?;
    let more =
        !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some();
    if !matches!(url.scheme(), "http" | "https") || more {
        return Err(bad("only `http` and `https` without user, query and fragment are possible".to_owned()));
    }
    Ok(url)
}

fn origin(url: &Url) -> (String, Option<String>, Option<u16>) {
    (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default())
}

/// Sends once; a status that is no success is a [`Failure::Refused`].
pub(super) async fn send(request: RequestBuilder) -> Result<Response, Failure> {
    let response = request.send().await.map_err(Failure::of_transport)?;
    if response.status().is_success() { Ok(response) } else { Err(Failure::Refused(refusal(response).await)) }
}

/// A whole answer.
pub(super) struct Answer {
    pub headers: HeaderMap,
    pub body: bytes::Bytes,
}

impl Answer {
    pub async fn of(response: Response) -> Result<Self, Failure> {
        let headers = response.headers().clone();
        let body = response.bytes().await.map_err(Failure::of_transport)?;
        Ok(Answer { headers, body })
    }

    pub fn json<T: DeserializeOwned>(&self, call: &Call) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| {
            Error::hub(format!("{} answered something that cannot be read", call.named()))
                .cause(e.to_string())
                .hint("is this the address of a hub?")
        })
    }
}

async fn refusal(mut response: Response) -> Refusal {
    let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.trim().to_owned());
    let (code, said) = (header("x-error-code"), header("x-error-message"));
    let (status, wait) = (response.status().as_u16(), asked_wait(response.headers()));
    let mut body = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        body.extend_from_slice(&piece);
        if body.len() > 64 << 10 {
            break;
        }
    }
    let message = said.filter(|m| !m.is_empty()).or_else(|| error_in(&body)).map(|m| m.chars().take(500).collect());
    Refusal { status, message, code, wait, body }
}

fn error_in(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = value.get("error").or_else(|| value.get("message"))?;
    error.as_str().or_else(|| error.get("message")?.as_str()).map(str::to_owned)
}

/// What the hub asks for: `Retry-After` in seconds or as a date, or else `RateLimit: "api";r=0;t=55`.
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    if let Some(after) = text(RETRY_AFTER.as_str()) {
        if let Ok(seconds) = after.trim().parse() {
            return Some(Duration::from_secs(seconds));
        }
        let until = jiff::fmt::rfc2822::parse(after.trim()).ok()?.timestamp();
        let wait = until.as_second() - jiff::Timestamp::now().as_second();
        return Some(Duration::from_secs(wait.max(0).unsigned_abs()));
    }
    let limit = text("ratelimit")?;
    let of = |key: &str| limit.split(';').find_map(|part| part.trim().strip_prefix(key)?.parse::<u64>().ok());
    (of("r=")? == 0).then(|| of("t=").map(Duration::from_secs)).flatten()
}

/// Percent-encodes everything but unreserved characters, so that `text` is one segment of a path.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Percent-encodes a path, segment by segment.
pub(super) fn segments(path: &str) -> String {
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| ((*k).parse().unwrap(), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn the_wait_that_the_hub_asks_for() {
        let wait = |pairs| asked_wait(&headers(pairs)).map(|d| d.as_secs());
        assert_eq!(wait(&[("retry-after", "7"), ("ratelimit", "\"api\";r=0;t=55")]), Some(7));
        assert_eq!(wait(&[("ratelimit", "\"api\";r=0;t=55")]), Some(55));
        assert_eq!(wait(&[("ratelimit", "\"api\";r=3;t=55")]), None);
        assert_eq!(wait(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]), Some(0));
        assert_eq!(wait(&[]), None);
    }

    #[test]
    fn no_credential_of_an_address_gets_into_an_error() {
        for bad in
            ["http://me:s3cret@127.0.0.1:1", "http://127.0.0.1:1?token=s3cret", "s3cret@host/x", "http://h:1/#s3cret"]
        {
            let said = Http::new(bad, None, Retry::default()).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(!said.contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn pauses_grow_and_end() {
        let retry = Retry { tries: 3, base: Duration::from_secs(1), cap: Duration::from_secs(3) };
        let pause = |nth, asked: Option<u64>| retry.pause(nth, asked.map(Duration::from_secs)).map(|d| d.as_secs());
        assert_eq!((pause(1, None), pause(2, None), pause(3, None), pause(4, None)), (Some(1), Some(2), Some(3), None));
        assert_eq!((pause(1, Some(3)), pause(1, Some(4))), (Some(3), None));
        assert_eq!((pause(1, Some(0)), pause(3, Some(0)), pause(4, Some(0))), (Some(1), Some(3), None));
    }

    #[test]
    fn an_address_with_a_credential_is_refused_without_saying_it() {
        for address in ["http://me:hf_secret@127.0.0.1:1", "http://:hf_secret@host", "https://host?token=hf_secret"] {
            let error = check_endpoint(address).unwrap_err();
            assert!(error.message().contains("is no hub's address"), "{error}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
        assert!(check_endpoint("http://host#part").is_err() && check_endpoint("http://host:1/hub").is_ok());
    }

    #[test]
    fn revisions_are_one_segment() {
        assert_eq!(segment("feature/ä b"), "feature%2F%C3%A4%20b");
        assert_eq!(segments("a b/c#d"), "a%20b/c%23d");
    }

    #[test]
    fn the_token_stays_at_home() {
        let http = Http::new("http://127.0.0.1:9", Token::new("secret"), Retry::default()).unwrap();
        let goes = |url: &str| {
            let request = http.elsewhere(Method::PUT, &Url::parse(url).unwrap()).build().unwrap();
            request.headers().contains_key(AUTHORIZATION)
        };
        assert!(goes("http://127.0.0.1:9/lfs/x"));
        assert!(!goes("http://127.0.0.1:10/lfs/x"));
        assert!(!goes("https://storage.example/x"));
    }
}
