//! The client against the embedded hub: the commit layer, its refusals, and answers that get lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::client::{
    CommitOutcome, CommitRequest, HubClient, LfsObject, Operation, Preupload, Progress, Retry, Token, Uploaded,
};
use super::embedded::{EmbeddedHub, Fault, Faults, Options, Running};
use super::repo::{RepoId, RepoKind};
use crate::core::error::ErrorKind;

/// Faults by point, each used up in order.
#[derive(Default)]
struct Script(Mutex<BTreeMap<String, Vec<Fault>>>);

impl Script {
    fn of(faults: &[(&str, &[Fault])]) -> Arc<Script> {
        let map = faults.iter().map(|(point, list)| ((*point).to_owned(), list.to_vec())).collect();
        Arc::new(Script(Mutex::new(map)))
    }
}

impl Faults for Script {
    fn at(&self, point: &str) -> Fault {
        let mut map = self.0.lock().unwrap();
        match map.get_mut(point) {
            Some(list) if !list.is_empty() => list.remove(0),
            _ => Fault::None,
        }
    }
}

/// A hub in a folder of its own, and a client of it.
struct Bench {
    dir: tempfile::TempDir,
    hub: Running,
    client: HubClient,
    repo: RepoId,
}

const PATIENCE: Retry = Retry { tries: 2, base: Duration::from_millis(1), cap: Duration::from_secs(5) };

impl Bench {
    async fn with(options: Options) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let token = options.token.as_deref().and_then(Token::new);
        let hub = EmbeddedHub::start(&dir.path().join("hub"), options).await.unwrap();
        let client = HubClient::with_retry(hub.url(), token, PATIENCE).unwrap();
        let repo = RepoId::new(RepoKind::Model, "acme/tiny").unwrap();
        client.create_repo(&repo, false, None).await.unwrap();
        Bench { dir, hub, client, repo }
    }

    async fn new() -> Bench {
        Self::with(Options::default()).await
    }

    async fn faulty(faults: &[(&str, &[Fault])]) -> Bench {
        Self::with(Options { faults: Some(Script::of(faults)), ..Options::default() }).await
    }

    async fn head(&self) -> String {
        self.client.head(&self.repo, "main").await.unwrap().unwrap().sha
    }

    fn object(&self, name: &str, content: &[u8]) -> LfsObject {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let sha256 = hex::encode(Sha256::digest(content));
        LfsObject { name: name.into(), sha256, size: content.len() as u64, path }
    }

    async fn upload(&self, objects: &[LfsObject]) -> (Uploaded, u64) {
        let sent = Arc::new(AtomicU64::new(0));
        let count = sent.clone();
        let progress: Progress = Arc::new(move |bytes| {
            count.fetch_add(bytes, Ordering::Relaxed);
        });
        let uploaded = self.client.upload_lfs(&self.repo, "main", objects, progress).await.unwrap();
        (uploaded, sent.load(Ordering::Relaxed))
    }

    async fn commit(&self, parent: &str, description: &str, operations: Vec<Operation>) -> CommitOutcome {
        let request = request(parent, description, operations);
        self.client.commit(&self.repo, "main", &request).await.unwrap()
    }
}

fn request(parent: &str, description: &str, operations: Vec<Operation>) -> CommitRequest {
    CommitRequest { summary: "publish".into(), description: description.into(), parent: parent.into(), operations }
}

fn add(path: &str, content: &[u8]) -> Operation {
    Operation::AddRegular { path: path.into(), bytes: content.into() }
}

fn add_lfs(path: &str, object: &LfsObject) -> Operation {
    Operation::AddLfs { path: path.into(), sha256: object.sha256.clone(), size: object.size }
}

fn landed(outcome: CommitOutcome) -> String {
    match outcome {
        CommitOutcome::Landed { oid, .. } => oid,
        other => panic!("expected a landed commit, found {other:?}"),
    }
}

#[tokio::test]
async fn publish_and_look() {
    let bench = Bench::new().await;
    let weights = bench.object("w", &vec![7; 3_000_000]);
    let asked = [("model.safetensors", weights.size), ("README.md", 4), ("empty.bin", 0)]
        .map(|(path, size)| Preupload { path: path.into(), size, sample: b"x".into() });
    let verdicts = bench.client.preupload(&bench.repo, "main", &asked).await.unwrap();
    assert!(verdicts["model.safetensors"].lfs && !verdicts["README.md"].lfs && !verdicts["empty.bin"].lfs);

    let (uploaded, sent) = bench.upload(std::slice::from_ref(&weights)).await;
    assert_eq!(uploaded, Uploaded { sent: 1, skipped: 0, bytes: weights.size, xet: 0 });
    assert_eq!(sent, weights.size);
    let operations = vec![add_lfs("model.safetensors", &weights), add("a b/ü.txt", b"text"), add("empty.bin", b"")];
    let oid = landed(bench.commit(&bench.head().await, "", operations).await);
    assert_eq!(bench.head().await, oid);

    let tree = bench.client.tree(&bench.repo, "main").await.unwrap();
    assert_eq!(tree["model.safetensors"].sha256.as_deref(), Some(weights.sha256.as_str()));
    assert_eq!(tree["model.safetensors"].size, weights.size);
    assert_eq!((tree["empty.bin"].git_sha1.as_str(), tree["empty.bin"].size), (EMPTY, 0));
    assert_eq!(tree.len(), 4);
    let text = bench.client.download_small(&bench.repo, &oid, "a b/ü.txt").await.unwrap();
    assert_eq!(text.as_deref(), Some(b"text".as_slice()));
    assert_eq!(bench.client.download_small(&bench.repo, "main", "no").await.unwrap(), None);

    // Once more: the hub has the content, nothing is read.
    std::fs::remove_file(&weights.path).unwrap();
    assert_eq!(bench.upload(&[weights]).await, (Uploaded { sent: 0, skipped: 1, bytes: 0, xet: 0 }, 0));
    assert_eq!(landed(bench.commit(&oid, "", vec![Operation::Delete { path: "empty.bin".into() }]).await).len(), 40);
    assert_eq!(bench.client.tree(&bench.repo, "main").await.unwrap().len(), 3);
}

const EMPTY: &str = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";

#[tokio::test]
async fn parts_make_a_whole() {
    let bench = Bench::with(Options { multipart: Some(1 << 20), ..Options::default() }).await;
    let content: Vec<u8> = (0..2_500_000u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let objects = [bench.object("large", &content), bench.object("small", b"small")];
    let (uploaded, sent) = bench.upload(&objects).await;
    assert_eq!((uploaded.sent, sent), (2, 2_500_005));
    landed(bench.commit(&bench.head().await, "", vec![add_lfs("x.bin", &objects[0])]).await);
    assert_eq!(bench.client.download_small(&bench.repo, "main", "x.bin").await.unwrap(), Some(content));
}

#[tokio::test]
async fn a_part_that_fails_is_sent_again() {
    let faults: &[(&str, &[Fault])] = &[("lfs.put", &[Fault::Status(500), Fault::DropConnection])];
    let bench = Bench::faulty(faults).await;
    let object = bench.object("w", &vec![1; 300_000]);
    let (uploaded, sent) = bench.upload(std::slice::from_ref(&object)).await;
    assert_eq!((uploaded.sent, sent), (1, 300_000));
}

#[tokio::test]
async fn a_file_that_changed_is_not_sent() {
    let bench = Bench::new().await;
    let object = bench.object("w", b"12345");
    std::fs::write(&object.path, b"123456").unwrap();
    let nothing: Progress = Arc::new(|_| {});
    let error = bench.client.upload_lfs(&bench.repo, "main", &[object], nothing).await.unwrap_err();
    assert!(error.message().contains("changed while it was published"), "{error}");
}

#[tokio::test]
async fn a_parent_that_moved() {
    let bench = Bench::new().await;
    let first = bench.head().await;
    let second = landed(bench.commit(&first, "", vec![add("a", b"1")]).await);
    assert_eq!(bench.commit(&first, "", vec![add("a", b"2")]).await, CommitOutcome::ParentMoved);
    assert_eq!(bench.head().await, second);
}

#[tokio::test]
async fn of_two_commits_on_one_parent_one_lands() {
    let bench = Bench::new().await;
    let head = bench.head().await;
    let commits = (0..8).map(|n| bench.commit(&head, "", vec![add("a", &[n])])).collect::<Vec<_>>();
    let outcomes = futures_util::future::join_all(commits).await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == CommitOutcome::ParentMoved).count(), 7);
}

#[tokio::test]
async fn a_lost_answer_is_found_by_its_nonce() {
    for fault in [Fault::DropConnection, Fault::Status(502)] {
        let bench = Bench::faulty(&[("commit.after", &[fault])]).await;
        let parent = bench.head().await;
        let outcome = bench.commit(&parent, "nonce 42", vec![add("a", b"1")]).await;
        assert!(matches!(outcome, CommitOutcome::Unknown { .. }), "{outcome:?}");
        let since = bench.client.commits_since(&bench.repo, "main", &parent, 100).await.unwrap();
        assert_eq!(since.len(), 1);
        assert_eq!((since[0].message.as_str(), &since[0].id), ("nonce 42", &bench.head().await));
        assert_eq!(since[0].author.as_deref(), Some("local"));
    }
}

#[tokio::test]
async fn a_commit_is_sent_once() {
    let faults: &[(&str, &[Fault])] =
        &[("commit.before", &[Fault::Status(500), Fault::Throttle { retry_after: 9 }, Fault::Status(403)])];
    let bench = Bench::faulty(faults).await;
    let parent = bench.head().await;
    let commit = || bench.commit(&parent, "", vec![add("a", b"1")]);
    assert!(matches!(commit().await, CommitOutcome::Unknown { .. }));
    assert_eq!(commit().await, CommitOutcome::Throttled { wait: Some(Duration::from_secs(9)) });
    let refused = request(&parent, "", vec![add("a", b"1")]);
    let error = bench.client.commit(&bench.repo, "main", &refused).await.unwrap_err();
    assert_eq!((error.kind(), error.message().contains("403")), (ErrorKind::Hub, true));
    assert_eq!(bench.head().await, parent);
}

#[tokio::test]
async fn a_hub_that_is_gone_surely_took_no_commit() {
    let bench = Bench::new().await;
    let request = request("0", "", vec![add("a", b"1")]);
    let Bench { hub, client, repo, dir: _dir } = bench;
    hub.stop().await;
    // The first request may still find a connection that is being closed; the next cannot.
    let _ = client.commit(&repo, "main", &request).await;
    let error = client.commit(&repo, "main", &request).await.unwrap_err();
    assert!(error.message().contains("cannot reach the hub"), "{error}");
}

#[tokio::test]
async fn what_the_hub_asks_for_is_waited() {
    let faults: &[(&str, &[Fault])] = &[
        ("revision", &[Fault::Throttle { retry_after: 1 }]),
        ("refs", &[Fault::Throttle { retry_after: 1 }, Fault::Status(503)]),
        ("tree", &[Fault::Throttle { retry_after: 600 }]),
        ("yaml", &[Fault::Status(500), Fault::Status(500), Fault::Status(500)]),
    ];
    let bench = Bench::faulty(faults).await;
    let start = Instant::now();
    bench.head().await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    bench.client.refs(&bench.repo).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(2));
    let error = bench.client.tree(&bench.repo, "main").await.unwrap_err();
    assert!(error.message().contains("rate limit"), "{error}");
    let error = bench.client.validate_yaml("", RepoKind::Model).await.unwrap_err();
    assert!(error.message().contains("the hub failed"), "{error}");
}

#[tokio::test]
async fn tokens() {
    let bench = Bench::with(Options { token: Some("right".into()), ..Options::default() }).await;
    let who = bench.client.whoami().await.unwrap().unwrap();
    assert_eq!((who.name.as_str(), who.role.as_deref()), ("local", Some("write")));
    let object = bench.object("w", b"by grant");
    assert_eq!(bench.upload(&[object]).await.0.sent, 1);

    let other = |token| HubClient::with_retry(bench.hub.url(), token, PATIENCE).unwrap();
    for (client, said) in [(other(Token::new("s3cret-wrong")), "refused the token"), (other(None), "asks for a token")]
    {
        let whoami = client.whoami().await.unwrap_err();
        let create = client.create_repo(&RepoId::new(RepoKind::Model, "a/b").unwrap(), false, None).await.unwrap_err();
        let parent = request(&bench.head().await, "", vec![add("a", b"1")]);
        let commit = client.commit(&bench.repo, "main", &parent).await.unwrap_err();
        for error in [whoami, create, commit] {
            assert!(error.message().contains(said) && error.message().contains("401"), "{error}");
            assert!(error.hint_text().is_some() && !format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }
    // Reading is free, and a hidden repository is hidden.
    assert!(other(None).head(&bench.repo, "main").await.unwrap().is_some());
    let hidden = RepoId::new(RepoKind::Model, "acme/hidden").unwrap();
    bench.client.create_repo(&hidden, true, None).await.unwrap();
    assert_eq!(bench.client.head(&hidden, "main").await.unwrap().unwrap().private, Some(true));
    assert!(other(None).head(&hidden, "main").await.is_err());
}

#[tokio::test]
async fn what_does_not_exist() {
    let bench = Bench::new().await;
    let none = RepoId::new(RepoKind::Dataset, "acme/tiny").unwrap();
    assert_eq!(bench.client.head(&none, "main").await.unwrap(), None);
    assert_eq!(bench.client.head(&bench.repo, "no").await.unwrap(), None);
    let error = bench.client.tree(&none, "main").await.unwrap_err();
    assert!(error.message().starts_with("the repository does not exist"), "{error}");
    let missing = LfsObject { name: "x".into(), sha256: "0".repeat(64), size: 1, path: "x".into() };
    let request = request(&bench.head().await, "", vec![add_lfs("x", &missing)]);
    let error = bench.client.commit(&bench.repo, "main", &request).await.unwrap_err();
    assert!(error.to_string().contains("was not uploaded"), "{error}");
}

#[tokio::test]
async fn long_listings_come_in_pages() {
    let bench = Bench::new().await;
    let operations = (0..2_300).map(|n| add(&format!("dir {}/{n}", n % 7), b"x")).collect();
    let first = landed(bench.commit(&bench.head().await, "", operations).await);
    assert_eq!(bench.client.tree(&bench.repo, "main").await.unwrap().len(), 2_301);
    let mut head = first.clone();
    for n in 0..60 {
        head = landed(bench.commit(&head, &format!("{n}"), vec![add("n", &[n])]).await);
    }
    let since = bench.client.commits_since(&bench.repo, "main", &first, 1_000).await.unwrap();
    assert_eq!((since.len(), since[0].message.as_str()), (60, "59"));
    assert_eq!(bench.client.commits_since(&bench.repo, "main", &first, 5).await.unwrap().len(), 5);
}

#[tokio::test]
async fn tags_are_set_once() {
    let bench = Bench::new().await;
    let first = bench.head().await;
    bench.client.create_tag(&bench.repo, "v1/x", &first).await.unwrap();
    bench.client.create_tag(&bench.repo, "v1/x", &first).await.unwrap();
    let second = landed(bench.commit(&first, "", vec![add("a", b"1")]).await);
    let error = bench.client.create_tag(&bench.repo, "v1/x", &second).await.unwrap_err();
    assert!(error.message().contains("already points to"), "{error}");
    assert_eq!(bench.client.tags(&bench.repo).await.unwrap()["v1/x"], first);
    assert_eq!(bench.client.head(&bench.repo, "v1/x").await.unwrap().unwrap().sha, first);
    bench.client.delete_tag(&bench.repo, "v1/x").await.unwrap();
    bench.client.delete_tag(&bench.repo, "v1/x").await.unwrap();
}

#[tokio::test]
async fn front_matter_is_checked() {
    let bench = Bench::new().await;
    let check = async |text: &str| bench.client.validate_yaml(text, RepoKind::Model).await.unwrap().unwrap();
    assert_eq!(check("---\nlicense: mit\n---\n").await.errors, Vec::<String>::new());
    assert_eq!(check("---\nwidget: 3\n---\n").await.errors, ["\"widget\" must be an array"]);
    assert_eq!(check("no front matter").await.warnings.len(), 1);
}

#[tokio::test]
async fn one_writes_many_read() {
    let bench = Bench::new().await;
    let root = bench.dir.path().join("hub");
    let start = |read_only| EmbeddedHub::start(&root, Options { read_only, ..Options::default() });
    let second = start(false).await.err().expect("a second writer is refused");
    assert_eq!(second.kind(), ErrorKind::Locked);
    assert_eq!(EmbeddedHub::writer_of(&root).as_deref(), Some(bench.hub.url()));
    let reader = start(true).await.unwrap();
    let client = HubClient::with_retry(reader.url(), None, PATIENCE).unwrap();
    let head = landed(bench.commit(&bench.head().await, "", vec![add("a", b"1")]).await);
    assert_eq!(client.head(&bench.repo, "main").await.unwrap().unwrap().sha, head);
    let error = client.commit(&bench.repo, "main", &request(&head, "", vec![add("a", b"2")])).await.unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    bench.hub.stop().await;
    assert_eq!(EmbeddedHub::writer_of(&root), None);
}

#[tokio::test]
async fn strangers_and_paths_that_lead_out_are_refused() {
    let bench = Bench::new().await;
    let head = bench.head().await;
    for path in ["../x", "a//b", "/x", ".git/config", "a\\b", "a/./b", ""] {
        let request = request(&head, "", vec![add(path, b"1")]);
        assert!(bench.client.commit(&bench.repo, "main", &request).await.is_err(), "{path}");
    }
    let http = reqwest::Client::new();
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    let url = bench.hub.url();
    assert_eq!(status(http.get(url).header("host", "evil.example")).await, 403);
    assert_eq!(status(http.get(format!("{url}/acme/tiny/resolve/main/..%2F..%2Flock"))).await, 404);
    let post = http.post(format!("{url}/api/repos/create")).header("origin", "https://evil.example");
    assert_eq!(status(post.body("{\"name\":\"a/b\"}")).await, 403);
    let grant = http.put(format!("{url}/api/lfs/objects/{}?size=1&grant=0", "0".repeat(64)));
    assert_eq!(status(grant.body("x")).await, 403);
}

#[tokio::test]
async fn pages_show_and_escape() {
    let bench = Bench::new().await;
    let card = b"---\nlicense: mit\n---\n# Tiny <b>\n\n![cat](samples/cat.png)\n";
    let operations = vec![add("README.md", card), add("samples/<x>.html", b"<script>1</script>")];
    let oid = landed(bench.commit(&bench.head().await, "why & how", operations).await);
    let get = async |path: &str| {
        let response = reqwest::get(format!("{}{path}", bench.hub.url())).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        (kind, response.text().await.unwrap())
    };
    assert!(get("/").await.1.contains("acme/tiny"));
    let front = get("/acme/tiny").await.1;
    assert!(front.contains("<h1>Tiny &lt;b&gt;</h1>") && front.contains("/acme/tiny/resolve/main/samples/cat.png"));
    assert!(get("/acme/tiny/tree/main/samples").await.1.contains("&lt;x&gt;.html"));
    assert!(get("/acme/tiny/blob/main/samples/%3Cx%3E.html").await.1.contains("&lt;script&gt;"));
    assert!(get("/acme/tiny/resolve/main/samples/%3Cx%3E.html").await.0.starts_with("text/plain"));
    assert!(get("/acme/tiny/commits/main").await.1.contains("initial commit"));
    assert!(get(&format!("/acme/tiny/commit/{oid}")).await.1.contains("why &amp; how"));
}

#[tokio::test]
async fn a_kill_in_the_middle_leaves_no_half_commit() {
    let bench = Bench::new().await;
    let head = bench.head().await;
    // What a killed writer leaves: content and a commit that no ref names, and a temporary file.
    let root = bench.dir.path().join("hub");
    std::fs::write(root.join("tmp/.tmpABC"), b"half").unwrap();
    let orphan = root.join("repos/models/acme/tiny/commits").join(format!("{}.json", "0".repeat(40)));
    std::fs::write(&orphan, b"{").unwrap();
    assert_eq!(bench.head().await, head);
    landed(bench.commit(&head, "", vec![add("a", b"1")]).await);
    assert!(Path::new(&orphan).exists());
}
