//! Hubs for tests: the embedded one with a hook at each request, and a proxy that makes it behave as other hubs do.

use crate::support::{Project, Run, history, run};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use hfbuild::hub::client::{CommitOutcome, CommitRequest, Operation};
use hfbuild::hub::embedded::{EmbeddedHub, Fault, Faults, Options, Running};
use hfbuild::hub::{HubClient, RepoId, RepoKind, Token};
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

pub const REPO: &str = "d-oit/tinydit-cats";
pub const TOKEN: &str = "hf_aTokenThatMustNeverBeSeenAnywhere77";

/// Requests that come at once are asked about at once.
type Hook = Arc<dyn Fn(&str, usize) -> Fault + Send + Sync>;

/// Notes requests, makes the next ones at some points go wrong, and asks a hook about the others.
#[derive(Default)]
struct Script {
    asked: Mutex<Vec<String>>,
    next: Mutex<HashMap<String, VecDeque<Fault>>>,
    hook: Mutex<Option<Hook>>,
}

impl Faults for Script {
    fn at(&self, point: &str) -> Fault {
        let nth = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(point.to_string());
            asked.len() - 1
        };
        if let Some(fault) = self.next.lock().unwrap().get_mut(point).and_then(VecDeque::pop_front) {
            return fault;
        }
        let Some(hook) = self.hook.lock().unwrap().clone() else { return Fault::None };
        tokio::task::block_in_place(|| hook(point, nth)) // other requests are served meanwhile, those of the hook too
    }
}

/// The embedded hub over HTTP, with a token.
pub struct Hub {
    script: Arc<Script>,
    running: Option<Running>,
    pub runtime: tokio::runtime::Runtime,
    pub dir: tempfile::TempDir,
}

impl Hub {
    pub fn start(options: Options) -> Hub {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let (script, dir) = (Arc::new(Script::default()), tempfile::tempdir().unwrap());
        let options = Options { token: Some(TOKEN.into()), faults: Some(script.clone()), ..options };
        let running = runtime.block_on(EmbeddedHub::start(dir.path(), options)).unwrap();
        Hub { script, running: Some(running), runtime, dir }
    }
    pub fn url(&self) -> &str {
        self.running.as_ref().unwrap().url()
    }
    /// What happens at each request from now on; its name and its number are given.
    pub fn at_each(&self, hook: impl Fn(&str, usize) -> Fault + Send + Sync + 'static) {
        *self.script.hook.lock().unwrap() = Some(Arc::new(hook));
    }
    /// These faults, the next times that `point` is asked for.
    pub fn will(&self, point: &str, faults: &[Fault]) {
        self.script.next.lock().unwrap().insert(point.into(), faults.iter().cloned().collect());
    }
    /// One fault, the next time that `point` is asked for.
    pub fn once(&self, point: &str, fault: Fault) {
        self.will(point, &[fault]);
    }
    /// The requests since the last time.
    pub fn asked(&self) -> Vec<String> {
        *self.script.hook.lock().unwrap() = None;
        std::mem::take(&mut *self.script.asked.lock().unwrap())
    }
    pub fn command(&self, project: &Project, args: &[&str]) -> Command {
        command(project, args, self.url())
    }
    pub fn publish(&self, project: &Project, args: &[&str]) -> Run {
        run(&mut self.command(project, args))
    }
    pub fn spawn(&self, project: &Project) -> Child {
        self.command(project, &["-q"]).stderr(Stdio::null()).spawn().unwrap()
    }
    /// Commits beside the hub's own first one.
    pub fn commits(&self) -> usize {
        history(self.dir.path(), REPO)
    }
    /// Every file with its content's id.
    pub fn listing(&self) -> Vec<(String, String)> {
        let url = format!("{}/api/models/{REPO}/tree/main?recursive=true", self.url());
        let text = self.runtime.block_on(async { reqwest::get(url).await.unwrap().text().await.unwrap() });
        let entries: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let files = entries.iter().filter(|entry| entry["type"] == "file");
        files.map(|f| (f["path"].as_str().unwrap().into(), f["oid"].as_str().unwrap().into())).collect()
    }
    pub fn has(&self, path: &str) -> bool {
        self.listing().iter().any(|(there, _)| there == path)
    }
    pub fn text(&self, path: &str) -> String {
        let url = format!("{}/{REPO}/resolve/main/{path}", self.url());
        self.runtime.block_on(async { reqwest::get(url).await.unwrap().text().await.unwrap() })
    }
    /// A colleague's commit.
    pub fn colleague(&self, title: &str, path: &str, content: &[u8]) {
        self.colleague_does(title, Operation::AddRegular { path: path.into(), bytes: content.to_vec() });
    }
    /// Any commit of a colleague's.
    pub fn colleague_does(&self, title: &str, operation: Operation) {
        self.runtime.block_on(colleague(self.url().to_string(), title, operation));
    }
}

/// The same from within a hook, which runs on the hub's own threads.
pub fn colleague_meanwhile(url: String, title: &'static str, path: &'static str) {
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let operation = Operation::AddRegular { path: path.into(), bytes: b"mine\n".to_vec() };
        runtime.block_on(colleague(url, title, operation));
    };
    std::thread::spawn(work).join().expect("the colleague's commit");
}

async fn colleague(url: String, title: &str, operation: Operation) {
    let client = HubClient::new(&url, Token::new(TOKEN)).unwrap();
    let repo = RepoId::new(RepoKind::Model, REPO).unwrap();
    let parent = client.head(&repo, "main").await.unwrap().unwrap().sha;
    let operations = vec![operation];
    let request = CommitRequest { summary: title.into(), description: String::new(), parent, operations };
    let outcome = client.commit(&repo, "main", &request).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Landed { .. }), "{outcome:?}");
}

/// hfbuild against a hub with the token.
pub fn command(project: &Project, args: &[&str], url: &str) -> Command {
    let mut command = project.command(args);
    command.args(["--endpoint", url]).env("HF_TOKEN", TOKEN);
    command
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.stop());
        }
    }
}

/// A project that publishes quickly: a card, and three files that the hub takes by LFS.
pub fn light() -> Project {
    let project = Project::with(
        r##"
[project]
name = "light"
version = "1.0.0"
license = "apache-2.0"
[hub]
repo = "d-oit/tinydit-cats"
tag = "v{project.version}"
[artifact.a]
kind = "files"
paths = ["a.bin"]
[artifact.b]
kind = "files"
paths = ["b.bin"]
[artifact.c]
kind = "files"
paths = ["c.bin"]
[artifact.card]
kind = "card"
template = "card.md.hbs"
facts = ["a"]
[artifact.publish]
kind = "upload"
files = { "README.md" = "card", "a.bin" = "a", "b.bin" = "b", "c.bin" = "c" }
"##,
    );
    project.write("card.md.hbs", "---\nlicense: {{project.license}}\n---\n# {{project.name}}\n\n{{a.bytes}} bytes.\n");
    for name in ["a", "b", "c"] {
        project.write(&format!("{name}.bin"), &format!("content of {name}"));
    }
    project
}

/// A proxy before the embedded hub that answers as other self-hosted hubs do: it ignores `parentCommit`, its commit ids
/// have 64 digits, `commitUrl` is relative, tokens for xet end in 20 seconds.
pub struct Proxy {
    pub url: String,
    _task: tokio::task::JoinHandle<()>,
}

/// What a proxy answers itself to a path and a body; nothing: the hub is asked.
type Own = dyn Fn(&str, &Bytes) -> Option<Response> + Send + Sync;

/// The hub behind a proxy, and what the proxy answers itself.
#[derive(Clone)]
struct Behind {
    inner: Arc<String>,
    own: Arc<Own>,
}

/// Headers of one connection.
const LENGTHS: [&str; 3] = ["host", "content-length", "transfer-encoding"];
/// What makes 64 digits of 40.
const TAIL: &str = "abcabcabcabcabcabcabcabc";

impl Proxy {
    pub fn before(hub: &Hub) -> Proxy {
        Proxy::answering(hub, |_, _| None)
    }

    /// One that answers some requests itself.
    pub fn answering(hub: &Hub, own: impl Fn(&str, &Bytes) -> Option<Response> + Send + Sync + 'static) -> Proxy {
        let behind = Behind { inner: Arc::new(hub.url().to_string()), own: Arc::new(own) };
        hub.runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let service = axum::Router::new().fallback(forward).with_state(behind);
            let task = tokio::spawn(async move { drop(axum::serve(listener, service).await) });
            Proxy { url, _task: task }
        })
    }
}

async fn forward(State(Behind { inner, own }): State<Behind>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let host = format!("http://{}", head.headers["host"].to_str().unwrap());
    let path = head.uri.path_and_query().unwrap().as_str().replace(TAIL, "");
    let mut body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    if let Some(own) = own(&path, &body) {
        return own;
    }
    if path.contains("/commit/") {
        body = without_parent(&body);
    }
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let mut asked = client.request(head.method, format!("{inner}{path}")).body(body);
    for (name, value) in head.headers.iter().filter(|(name, _)| !LENGTHS.contains(&name.as_str())) {
        asked = asked.header(name, value);
    }
    let answer = asked.send().await.unwrap();
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| !LENGTHS.contains(&name.as_str())) {
        response = response.header(name, value);
    }
    let bytes = answer.bytes().await.unwrap();
    let bytes = if path.contains("/tree/") { bytes } else { reworded(&bytes, &inner, &host) };
    response.body(Body::from(bytes)).unwrap()
}

fn without_parent(body: &Bytes) -> Bytes {
    let text = String::from_utf8(body.to_vec()).unwrap();
    let (header, rest) = text.split_once('\n').unwrap();
    let mut header: Value = serde_json::from_str(header).unwrap();
    let parent = header["value"].as_object_mut().unwrap().remove("parentCommit").expect("a commit names its parent");
    assert_eq!(parent.as_str().unwrap().len(), 64, "the parent is named as this hub names it");
    format!("{header}\n{}", rest.replace(TAIL, "")).into()
}

fn reworded(bytes: &Bytes, inner: &str, host: &str) -> Bytes {
    let Ok(text) = std::str::from_utf8(bytes) else { return bytes.clone() };
    let Ok(mut value) = serde_json::from_str::<Value>(&text.replace(inner, host)) else { return bytes.clone() };
    reword(&mut value);
    serde_json::to_vec(&value).unwrap().into()
}

fn reword(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(reword),
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if key == "exp" {
                    *value = (jiff::Timestamp::now().as_second() + 20).into();
                }
                match (key.as_str(), value.as_str()) {
                    ("commitUrl", Some(url)) => *value = url.splitn(4, '/').nth(3).unwrap().into(),
                    ("sha" | "id" | "commitOid" | "targetCommit", Some(id)) if id.len() == 40 => {
                        *value = format!("{id}{TAIL}").into();
                    }
                    _ => reword(value),
                }
            }
        }
        _ => {}
    }
}
