//! The embedded hub by its URLs: what loading by `from_pretrained` needs of `resolve`, tokens, the choice of a transfer,
//! and large content that is never whole in memory.

use crate::support::{Project, Served};
use hfbuild::hub::embedded::{EmbeddedHub, Options, Running};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const SHA: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// A hub with `acme/tiny`: `config.json`, and `model.bin` in LFS, both of a few bytes.
struct Bench {
    hub: Running,
    http: Client,
    head: String,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn with(options: Options) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let hub = EmbeddedHub::start(dir.path(), options).await.unwrap();
        let mut bench = Bench { hub, http: Client::new(), head: String::new(), _dir: dir };
        bench.post("/api/repos/create", json!({"name": "tiny", "organization": "acme"})).await;
        let batch = bench.batch(&["basic"], SHA, 5).await;
        let put = batch["objects"][0]["actions"]["upload"]["href"].as_str().unwrap();
        assert_eq!(bench.http.put(put).body("hello").send().await.unwrap().status(), 200);
        let lines = [
            json!({"key": "header", "value": {"summary": "first"}}),
            json!({"key": "file", "value": {"path": "config.json", "content": "{}", "encoding": "utf-8"}}),
            json!({"key": "lfsFile", "value": {"path": "model.bin", "algo": "sha256", "oid": SHA, "size": 5}}),
        ];
        let body = lines.map(|line| line.to_string()).join("\n");
        let request = bench.ask(Method::POST, "/api/models/acme/tiny/commit/main").body(body);
        let said: Value = request.send().await.unwrap().json().await.unwrap();
        bench.head = said["commitOid"].as_str().unwrap().to_owned();
        bench
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.hub.url()))
    }

    async fn get(&self, path: &str, headers: &[(&'static str, &str)]) -> Response {
        let request = headers.iter().fold(self.ask(Method::GET, path), |r, (name, value)| r.header(*name, *value));
        request.send().await.unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let response = self.ask(Method::POST, path).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.unwrap()
    }

    async fn batch(&self, transfers: &[&str], oid: &str, size: u64) -> Value {
        let body = json!({"operation": "upload", "transfers": transfers, "objects": [{"oid": oid, "size": size}]});
        self.post("/acme/tiny.git/info/lfs/objects/batch", body).await
    }
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn resolve_says_what_loaders_ask_for() {
    let bench = Bench::with(Options::default()).await;
    for (path, size, lfs) in [("config.json", "2", false), ("model.bin", "5", true)] {
        let url = format!("/acme/tiny/resolve/main/{path}");
        let head = bench.ask(Method::HEAD, &url).header("accept-encoding", "identity").send().await.unwrap();
        let get = bench.get(&url, &[]).await;
        for response in [&head, &get] {
            assert_eq!((response.status(), header(response, "content-length")), (StatusCode::OK, size), "{path}");
            assert_eq!((header(response, "x-repo-commit"), header(response, "accept-ranges")), (&*bench.head, "bytes"));
            assert_eq!(header(response, "x-linked-size"), if lfs { size } else { "" });
            assert_eq!(header(response, "x-linked-etag"), if lfs { header(response, "etag") } else { "" });
        }
        let etag = header(&head, "etag").to_owned();
        assert_eq!(etag == format!("\"{SHA}\""), lfs, "{etag}");
        assert_eq!(head.bytes().await.unwrap().len(), 0);
        assert_eq!(get.bytes().await.unwrap().len().to_string(), size);
        for value in [etag.clone(), format!("\"other\", W/{etag}")] {
            let same = bench.get(&url, &[("if-none-match", &value)]).await;
            assert_eq!((same.status(), header(&same, "etag")), (StatusCode::NOT_MODIFIED, &*etag));
        }
        assert_eq!(bench.get(&url, &[("if-none-match", "\"other\"")]).await.status(), 200);
    }
    for revision in [bench.head.as_str(), "refs%2Fheads%2Fmain"] {
        assert_eq!(bench.get(&format!("/acme/tiny/resolve/{revision}/config.json"), &[]).await.status(), 200);
    }
}

#[tokio::test]
async fn a_download_that_broke_off_goes_on() {
    let bench = Bench::with(Options::default()).await;
    let url = "/acme/tiny/resolve/main/model.bin";
    let part = async |range: &str| bench.get(url, &[("range", range)]).await;
    for (range, content, said) in [
        ("bytes=2-", "llo", "bytes 2-4/5"),
        ("bytes=1-2", "el", "bytes 1-2/5"),
        ("bytes=-2", "lo", "bytes 3-4/5"),
        ("bytes=4-99", "o", "bytes 4-4/5"),
    ] {
        let response = part(range).await;
        assert_eq!((response.status(), header(&response, "content-range")), (StatusCode::PARTIAL_CONTENT, said));
        assert_eq!(response.text().await.unwrap(), content, "{range}");
    }
    let beyond = part("bytes=5-").await;
    assert_eq!((beyond.status(), header(&beyond, "content-range")), (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */5"));
    // What was begun is of another content: all of it is sent again.
    let changed = bench.get(url, &[("range", "bytes=2-"), ("if-range", "\"other\"")]).await;
    assert_eq!((changed.status(), changed.text().await.unwrap().as_str()), (StatusCode::OK, "hello"));
    let same = bench.get(url, &[("range", "bytes=2-"), ("if-range", &format!("\"{SHA}\""))]).await;
    assert_eq!(same.text().await.unwrap(), "llo");
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let bench = Bench::with(Options::default()).await;
    for (path, code) in [
        ("/acme/tiny/resolve/main/none.json", "EntryNotFound"),
        ("/acme/tiny/resolve/none/config.json", "RevisionNotFound"),
        ("/acme/none/resolve/main/config.json", "RepoNotFound"),
        ("/api/models/acme/none", "RepoNotFound"),
        ("/api/models/acme/tiny/revision/none", "RevisionNotFound"),
        ("/api/models/acme/tiny/tree/main/none", "EntryNotFound"),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let response = bench.ask(method, path).send().await.unwrap();
            assert_eq!((response.status(), header(&response, "x-error-code")), (StatusCode::NOT_FOUND, code), "{path}");
            assert!(!header(&response, "x-error-message").is_empty());
        }
    }
}

#[tokio::test]
async fn xet_is_chosen_when_both_sides_have_it() {
    let (off, on) = (Options::default(), Options { xet: true, ..Options::default() });
    let other = "ab".repeat(32);
    let bench = Bench::with(off).await;
    assert_eq!(bench.batch(&["xet", "basic"], &other, 9).await["transfer"], "basic");
    let token = "/api/models/acme/tiny/xet-write-token/main";
    assert_eq!(bench.get(token, &[]).await.status(), 404);
    let head = bench.get("/acme/tiny/resolve/main/model.bin", &[]).await;
    assert_eq!(header(&head, "x-xet-hash"), "");

    let bench = Bench::with(on).await;
    assert_eq!(bench.batch(&["basic", "multipart"], &other, 9).await["transfer"], "basic");
    let said = bench.batch(&["basic", "xet"], &other, 9).await;
    let upload = &said["objects"][0]["actions"]["upload"];
    assert_eq!((&said["transfer"], &upload["href"]), (&json!("xet"), &upload["header"]["X-Xet-Cas-Url"]));
    assert_eq!(bench.batch(&["xet"], SHA, 5).await["objects"][0].get("actions"), None, "it is there already");
    let wrong = bench.batch(&["xet"], SHA, 6).await;
    assert_eq!(wrong["objects"][0]["error"]["code"], 422);
    // What came over LFS has no xet hash.
    let head = bench.get("/acme/tiny/resolve/main/model.bin", &[]).await;
    assert_eq!(header(&head, "x-xet-hash"), "");
}

#[tokio::test]
async fn xet_storage_opens_to_its_own_tokens_only() {
    let bench = Bench::with(Options { xet: true, ..Options::default() }).await;
    let token = async |kind: &str| {
        let response = bench.get(&format!("/api/models/acme/tiny/xet-{kind}-token/main"), &[]).await;
        assert_eq!(response.status(), 200);
        let said = ["x-xet-cas-url", "x-xet-access-token", "x-xet-token-expiration"];
        let said = said.map(|name| header(&response, name).to_owned());
        let body: Value = response.json().await.unwrap();
        assert_eq!([&body["casUrl"], &body["accessToken"]], [&json!(said[0]), &json!(said[1])]);
        assert_eq!(body["exp"].to_string(), said[2]);
        let ahead = body["exp"].as_i64().unwrap() - jiff::Timestamp::now().as_second();
        assert!(ahead > 600, "{ahead} s");
        (said[0].clone(), said[1].clone())
    };
    let (url, read) = token("read").await;
    let (_, write) = token("write").await;
    let hash = "ab".repeat(32);
    let xorb = format!("{url}/v1/xorbs/default/{hash}");
    let post = async |url: &str, token: &str, body: &'static [u8]| {
        let response = bench.http.post(url).bearer_auth(token).body(body).send().await.unwrap();
        response.status().as_u16()
    };
    assert_eq!(post(&xorb, &read, b"x").await, 401);
    assert_eq!(post(&xorb, "", b"x").await, 401);
    let later = write.replacen(&write[6..12], "9999999999999", 1);
    assert_eq!(post(&xorb, &later, b"x").await, 401, "a token's end is part of it");
    assert_eq!(post(&xorb, &write, b"no chunks at all").await, 400);
    assert_eq!(post(&format!("{url}/v1/shards"), &write, b"no shard at all").await, 400);
    assert_eq!(post(&format!("{url}/v1/shards"), &write, &[0xff; 4096]).await, 400);
    assert_eq!(post(&xorb.replace(&url, &format!("{}/api/xet/other", bench.hub.url())), &write, b"x").await, 404);
    let get = async |url: String| bench.http.get(url).bearer_auth(&read).send().await.unwrap().status().as_u16();
    assert_eq!(get(format!("{url}/v1/reconstructions/{hash}")).await, 404);
    assert_eq!(get(format!("{url}/v1/reconstructions/..%2F..%2Flock")).await, 404);
    assert_eq!(get(format!("{url}/v1/chunks/default-merkledb/{hash}")).await, 404);
    assert_eq!(get(format!("{url}/fetch/{hash}?grant=00")).await, 403);
}

#[tokio::test]
async fn a_hub_that_is_read_only_gives_no_token_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { xet: true, read_only: true, ..Options::default() };
    let hub = EmbeddedHub::start(dir.path(), options).await.unwrap();
    let url = format!("{}/api/models/acme/tiny/xet-write-token/main", hub.url());
    assert_eq!(reqwest::get(url).await.unwrap().status(), 403);
    assert!(!dir.path().join("xet").exists());
}

/// 300 MB of zeros: the server may hold a tenth of it.
#[tokio::test]
async fn large_content_is_never_whole_in_memory() {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 300;
    let project = Project::empty();
    project.write("publish.toml", "");
    let hub = Served::of(&project);
    let (http, zeros) = (Client::new(), bytes::Bytes::from(vec![0; PIECE]));
    let mut hash = Sha256::new();
    (0..PIECES).for_each(|_| hash.update(&zeros));
    let (oid, size) = (hex::encode(hash.finalize()), PIECES * PIECE);
    let post = async |path: &str, body: String| {
        let response = http.post(format!("{}{path}", hub.url)).body(body).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.json::<Value>().await.unwrap()
    };
    post("/api/repos/create", json!({"name": "a/large"}).to_string()).await;
    let batch = json!({"operation": "upload", "transfers": ["basic"], "objects": [{"oid": oid, "size": size}]});
    let batch = post("/a/large.git/info/lfs/objects/batch", batch.to_string()).await;
    let pieces = futures_util::stream::iter((0..PIECES).map(move |_| Ok::<_, std::io::Error>(zeros.clone())));
    let put = http.put(batch["objects"][0]["actions"]["upload"]["href"].as_str().unwrap());
    assert_eq!(put.body(reqwest::Body::wrap_stream(pieces)).send().await.unwrap().status(), 200);
    let header = json!({"key": "header", "value": {"summary": "large"}});
    let file = json!({"key": "lfsFile", "value": {"path": "large.bin", "algo": "sha256", "oid": oid, "size": size}});
    post("/api/models/a/large/commit/main", format!("{header}\n{file}")).await;
    let mut back = http.get(format!("{}/a/large/resolve/main/large.bin", hub.url)).send().await.unwrap();
    let mut got = 0;
    while let Some(piece) = back.chunk().await.unwrap() {
        got += piece.len();
    }
    assert_eq!(got, size);
    let peak = hub.peak();
    assert!(peak < 100 << 20, "the hub held {} MiB", peak >> 20);
}
