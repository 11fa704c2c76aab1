//! Content over xet, against the embedded hub's storage, which checks every hash of what it is sent; and read back by
//! the official Python client.

use crate::hubs::{Hub, Proxy, REPO, TOKEN, command, light};
use crate::support::{python, run};
use hfbuild::hub::client::{LfsObject, Progress, Uploaded};
use hfbuild::hub::embedded::{Fault, Options};
use hfbuild::hub::{HubClient, RepoId, RepoKind, Token};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn hub() -> Hub {
    Hub::start(Options { xet: true, ..Options::default() })
}

/// Bytes that neither compress nor repeat: xorshift64.
fn noise(bytes: usize, mut seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        out.extend_from_slice(&seed.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

fn count(asked: &[String], point: &str) -> usize {
    asked.iter().filter(|p| *p == point).count()
}

/// One file through the client library, with the folder in which it keeps what it knows.
fn upload(hub: &Hub, folder: &Path, name: &str, content: &[u8]) -> (Uploaded, u64) {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    let sha256 = hex::encode(Sha256::digest(content));
    let object = LfsObject { name: name.into(), sha256, size: content.len() as u64, path };
    let client = HubClient::new(hub.url(), Token::new(TOKEN)).unwrap().keeping(folder.join("xet"));
    let repo = RepoId::new(RepoKind::Model, REPO).unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let count = told.clone();
    let progress: Progress = Arc::new(move |bytes| {
        count.fetch_add(bytes, Ordering::Relaxed);
    });
    hub.runtime.block_on(async {
        client.create_repo(&repo, false, None).await.unwrap();
        let uploaded = client.upload_lfs(&repo, "main", &[object], progress).await.unwrap();
        (uploaded, told.load(Ordering::Relaxed))
    })
}

#[test]
fn what_is_sent_over_xet_is_read_back_by_the_python_client_byte_for_byte() {
    let (hub, project) = (hub(), light());
    let large = noise(5_000_000, 1);
    std::fs::write(project.path("a.bin"), &large).unwrap();
    hub.publish(&project, &[]).code(0);
    let asked = hub.asked();
    assert!(count(&asked, "xet.xorb") > 0 && count(&asked, "lfs.put") == 0, "{asked:?}");
    let code = format!(
        "from huggingface_hub import snapshot_download as d\nprint(d('{REPO}', local_dir='down', token=False))"
    );
    let mut python = Command::new(python());
    python.args(["-c", &code]).current_dir(project.path(".")).env("HF_ENDPOINT", hub.url());
    python.env("HF_HOME", project.path("home")).env("HF_HUB_DISABLE_TELEMETRY", "1").env_remove("HF_HUB_DISABLE_XET");
    run(&mut python).code(0);
    let asked = hub.asked();
    assert!(count(&asked, "xet.pieces") > 0, "Python used xet: {asked:?}");
    assert!(std::fs::read(project.path("down/a.bin")).unwrap() == large);
    assert_eq!(project.read("down/b.bin"), "content of b");
    // the same again: one request; the same content in a new cache: nothing is sent either
    hub.publish(&project, &[]).code(0);
    assert_eq!(hub.asked(), ["revision"]);
    std::fs::remove_dir_all(project.path("cache")).unwrap();
    project.write("publish.toml", &project.read("publish.toml").replace("\"a.bin\" = \"a\"", "\"z.bin\" = \"a\""));
    hub.publish(&project, &[]).code(0);
    assert!(!hub.asked().iter().any(|p| p.starts_with("xet.")));
}

/// A chunk has up to 128 KiB, 64 on the average; an insertion changes one or two. So how much is sent depends on where the
/// insertion falls. Python's client sends the same blocks to the byte. What was noted of earlier transfers does not go along.
#[test]
fn a_kilobyte_inserted_into_a_hundred_megabytes_sends_one_or_two_chunks() {
    let (hub, folder) = (hub(), tempfile::tempdir().unwrap());
    let mut content = noise(100_000_000, 2);
    let (first, told) = upload(&hub, folder.path(), "first", &content);
    assert!(first.sent == 1 && first.xet >= 100_000_000, "{first:?}");
    assert_eq!(told, 100_000_000);
    assert!(!noted(&folder.path().join("xet")), "what was noted on the way would be sent once more");
    let mut sent = Vec::new();
    for (nth, place) in [50_000_000, 10_000_000, 33_333_333, 71_000_000, 92_000_000].into_iter().enumerate() {
        content.splice(place..place, noise(1_000, 3 + nth as u64));
        let (next, told) = upload(&hub, folder.path(), "next", &content);
        assert_eq!(told, content.len() as u64, "what the hub has is told as done");
        sent.push(next.xet);
    }
    println!("sent: {sent:?}");
    sent.sort_unstable();
    assert!(sent[0] < 100_000 && sent[4] < 270_000, "two chunks are 256 KiB at most: {sent:?}");
    assert_eq!(upload(&hub, folder.path(), "again", &content).0, Uploaded { skipped: 1, ..Uploaded::default() });
}

/// Whether hf-xet has noted a block that arrived.
fn noted(cache: &Path) -> bool {
    let mut files = walkdir::WalkDir::new(cache).into_iter().flatten().filter(|e| e.file_type().is_file());
    files.any(|e| e.path().to_string_lossy().contains("xorb_metadata/"))
}

#[test]
fn killed_or_interrupted_in_the_middle_the_next_run_sends_the_rest() {
    for (signal, code) in [(nix::sys::signal::Signal::SIGKILL, None), (nix::sys::signal::Signal::SIGINT, Some(130))] {
        let (hub, project) = (hub(), light());
        std::fs::write(project.path("a.bin"), noise(150_000_000, 5)).unwrap();
        let pid = Arc::new(AtomicI32::new(0));
        let (of, sent, cache) = (pid.clone(), AtomicUsize::new(0), project.path("cache/xet"));
        hub.at_each(move |point, _| {
            if point == "xet.xorb" && sent.fetch_add(1, Ordering::SeqCst) == 1 {
                let begun = Instant::now();
                while !noted(&cache) && begun.elapsed() < Duration::from_secs(60) {
                    std::thread::yield_now(); // the first block arrives and is noted
                }
                let pid = nix::unistd::Pid::from_raw(of.load(Ordering::SeqCst));
                nix::sys::signal::kill(pid, signal).expect("the signal");
                return Fault::DropConnection;
            }
            Fault::None
        });
        let mut child = hub.spawn(&project);
        pid.store(child.id() as i32, Ordering::SeqCst);
        assert_eq!(child.wait().unwrap().code(), code);
        assert!(noted(&project.path("cache/xet")), "what arrived is noted");
        assert_eq!(hub.commits(), 0);
        hub.asked();
        hub.publish(&project, &[]).code(0);
        let again = count(&hub.asked(), "xet.xorb");
        assert!((1..=2).contains(&again), "of 3 blocks {again} were sent by the second run");
        assert_eq!(hub.commits(), 1);
    }
}

#[test]
fn a_token_that_ends_meanwhile_is_renewed_and_one_that_is_refused_is_asked_for_once_more() {
    let (hub, project) = (hub(), light());
    let proxy = Proxy::before(&hub); // its tokens end within seconds
    run(&mut command(&project, &[], &proxy.url)).code(0);
    assert!(count(&hub.asked(), "xet.token") > 1);
    project.write("a.bin", "new content");
    hub.once("xet.xorb", Fault::Status(401));
    hub.publish(&project, &[]).code(0);
    assert_eq!((hub.commits(), hub.text("a.bin").as_str()), (2, "new content"));
    project.write("a.bin", "newer content");
    hub.at_each(|point, _| if point == "xet.xorb" { Fault::Status(401) } else { Fault::None });
    hub.publish(&project, &[]).code(4).says("` refused the token").never_says(TOKEN);
    hub.at_each(|point, _| if point == "xet.token" { Fault::Status(403) } else { Fault::None });
    let run = hub.publish(&project, &[]).code(4).says("write access to contents").never_says(TOKEN);
    assert_eq!(run.stderr.matches("write access to contents").count(), 1);
}

#[test]
fn a_hub_that_chooses_xet_and_gives_no_token_is_sent_the_content_by_lfs() {
    let (hub, project) = (hub(), light());
    hub.at_each(|point, _| if point == "xet.token" { Fault::Status(404) } else { Fault::None });
    hub.publish(&project, &[]).code(0);
    let asked = hub.asked();
    assert_eq!((count(&asked, "lfs.put"), count(&asked, "xet.xorb"), hub.commits()), (3, 0, 1));
}

#[test]
fn failures_of_the_storage_that_pass_are_ridden_out() {
    let (hub, project) = (hub(), light());
    hub.will("xet.xorb", &[Fault::Throttle { retry_after: 0 }, Fault::DropConnection]);
    hub.will("xet.shard", &[Fault::Status(503), Fault::DropConnection]);
    let mut publish = hub.command(&project, &[]);
    run(publish.env("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms")).code(0);
    assert_eq!((hub.commits(), hub.text("c.bin").as_str()), (1, "content of c"));
}
