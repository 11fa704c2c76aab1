//! What stands between hfbuild and a hub: proxies, tokens in odd places, names that lead elsewhere, and no network at all.

use crate::hubs::{Hub, REPO, TOKEN, light};
use crate::support::{Project, Run, run};
use hfbuild::hub::embedded::Options;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// A server that keeps the head of each request, and answers what it is told to, by the request's path.
struct Server {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(vec![]));
        let log = heads.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream);
                let mut head = String::new();
                while reader.read_line(&mut head).is_ok_and(|n| n > 2) {}
                let length =
                    head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
                let _ = reader.by_ref().take(length.unwrap_or(0)).read_to_end(&mut vec![]);
                let path = head.split_whitespace().nth(1).unwrap_or_default().to_string();
                log.lock().unwrap().push(head);
                let _ = reader.get_mut().write_all(answer(&path).as_bytes());
            }
        });
        Server { url, heads }
    }

    fn heads(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().unwrap())
    }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn not_there(_: &str) -> String {
    answer("404 Not Found\r\nX-Error-Code: RepoNotFound", r#"{"error":"Repository not found"}"#)
}

#[test]
fn a_hub_on_loopback_is_never_reached_through_a_proxy_over_lfs_or_xet() {
    let proxy = Server::start(|_| answer("502 Bad Gateway", "nothing"));
    for xet in [false, true] {
        let hub = Hub::start(Options { xet, ..Options::default() });
        let project = light();
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            project.write("a.bin", name);
            run(hub.command(&project, &[]).env(name, &proxy.url).env("no_proxy", "elsewhere.example")).code(0);
            run(project.command(&["plan", "--endpoint", "embedded"]).env(name, &proxy.url)).code(0);
        }
        assert!(hub.commits() >= 3);
    }
    assert_eq!(proxy.heads(), Vec::<String>::new());
}

#[test]
fn a_404_that_is_no_hubs_is_not_taken_for_a_repo_that_is_missing() {
    // a proxy, a login page of the network: none names what is missing as a hub does
    for body in ["<html>no such page</html>", r#"{"error":"not found"}"#] {
        let server = Server::start(move |_| answer("404 Not Found", body));
        for command in ["plan", "status", "verify", "build"] {
            let run = run(crate::hubs::command(&light(), &[command], &server.url).env("HF_TOKEN", TOKEN)).code(4);
            let run = run.says("answered 404, without the `X-Error-Code`").says("a proxy or a login page");
            run.never_says("gone").never_says("no repo");
        }
    }
    // and what was published is not called gone: neither drift nor made anew
    let hub = Hub::start(Options::default());
    let project = light();
    hub.publish(&project, &[]).code(0);
    project.write("a.bin", "new");
    hub.asked();
    hub.at_each(|_, _| hfbuild::hub::embedded::Fault::Status(404));
    for args in [&["plan"][..], &["verify"], &["--overwrite"]] {
        hub.publish(&project, args).code(4).says("X-Error-Code").never_says("gone");
    }
    assert!(!hub.asked().iter().any(|point| point == "create"));
}

/// A call that asks `server` something, with another account's token in the home folder.
fn plan(server: &Server, env: &[(&str, &str)]) -> Run {
    let project = light();
    project.write(".cache/huggingface/token", "hf_theOtherAccounts");
    run(project.command(&["plan", "--endpoint", &server.url]).envs(env.iter().copied()))
}

#[test]
fn no_other_accounts_token_is_sent_in_the_place_of_one_that_is_none() {
    let server = Server::start(not_there);
    let sent = |env: &[(&str, &str)]| {
        plan(&server, env).code(0);
        let heads = server.heads();
        let line =
            |head: &String| head.lines().find(|l| l.to_lowercase().starts_with("authorization:")).map(str::to_string);
        heads.iter().find_map(line).map(|line| line.rsplit(' ').next().unwrap().to_string())
    };
    assert_eq!(sent(&[]).as_deref(), Some("hf_theOtherAccounts"));
    assert_eq!(sent(&[("HF_TOKEN", "hf_mine")]).as_deref(), Some("hf_mine"));
    assert_eq!(sent(&[("HF_TOKEN_PATH", "/nope/token")]), None);
    for none in ["hf_ bad", "Bearer hf_x", "hf_a\nhf_b", "hf_\u{e4}"] {
        plan(&server, &[("HF_TOKEN", none)])
            .code(4)
            .says("`HF_TOKEN` holds something that is no token")
            .never_says(none);
        assert!(server.heads().is_empty(), "{none}");
    }
    let project = light();
    let mut build = project.command(&["--endpoint", &server.url]);
    run(build.env("HF_TOKEN_PATH", "/nope/token"))
        .code(4)
        .says("`HF_TOKEN_PATH` names `/nope/token`, where no token is");
    assert!(server.heads().is_empty());
}

#[test]
fn an_address_with_a_credential_in_it_is_never_said_again() {
    let project = light();
    for address in [format!("http://me:{TOKEN}@127.0.0.1:9"), format!("http://127.0.0.1:9?token={TOKEN}")] {
        for command in ["plan", "status", "history", "explain", "build"] {
            let args: &[&str] = if command == "explain" { &["explain", "publish"] } else { &[command] };
            let mut flag = project.command(args);
            run(flag.args(["--endpoint", &address])).code(4).says("is no hub's address").never_says(TOKEN);
            let mut variable = project.command(args);
            run(variable.env("HF_ENDPOINT", &address)).code(4).never_says(TOKEN);
        }
    }
}

#[test]
fn a_repo_that_was_renamed_is_said_before_anything_is_sent_there() {
    let hub = Hub::start(Options::default());
    let project = light();
    hub.publish(&project, &[]).code(0);
    let (to, old) = (hub.url().to_string(), "d-oit/older-name");
    let leads = Server::start(move |path| {
        let to = format!("{to}{}", path.replace(old, REPO));
        answer(&format!("307 Temporary Redirect\r\nLocation: {to}"), "")
    });
    let other = light();
    other.write("publish.toml", &other.read("publish.toml").replace(REPO, old));
    other.write("a.bin", "other content");
    let plan = run(&mut other.command(&["plan", "--endpoint", &leads.url])).code(0);
    plan.says(&format!("`{old}` is called `{REPO}` now"));
    run(&mut other.command(&["status", "--endpoint", &leads.url])).code(0).prints(&format!("called {REPO} now"));
}

#[test]
fn a_hub_that_does_not_say_whose_token_it_is_can_be_published_to() {
    let hub = Hub::start(Options::default());
    hub.will("whoami", &[hfbuild::hub::embedded::Fault::Status(404)]);
    hub.publish(&light(), &[]).code(0);
    assert_eq!(hub.commits(), 1);
}

#[test]
fn a_hub_on_loopback_that_wants_a_token_says_so_before_any_stage_runs() {
    let hub = Hub::start(Options::default());
    let project = light();
    let refused = run(hub.command(&project, &[]).env_remove("HF_TOKEN")).code(4).says("the Hub asks for a token");
    assert!(!refused.stderr.contains("Running"), "{}", refused.stderr);
}

#[test]
fn status_and_history_say_what_this_machine_knows_without_a_network() {
    let hub = Hub::start(Options::default());
    let project = light();
    hub.publish(&project, &[]).code(0);
    let url = hub.url().to_string();
    let with =
        |project: &Project, args: &[&str]| run(project.command(args).args(["--endpoint", &url]).env("HF_TOKEN", TOKEN));
    hub.asked();
    with(&project, &["status", "--offline"]).code(0).prints("last publish  d-oit/tinydit-cats at").prints("not asked");
    with(&project, &["history", "--offline"]).code(0).prints("+5 of 5").says("1 publish");
    assert!(hub.asked().is_empty());
    drop(hub);
    let status = with(&project, &["status"]).code(0).prints("last publish  d-oit/tinydit-cats at");
    status.prints("published").says("the remote cannot be asked");
    with(&project, &["history"]).code(0).prints("+5 of 5").says("the remote cannot be asked");
    // nothing is known of a hub that was never published to, but of the artifacts
    let never = run(&mut project.command(&["status", "--endpoint", "http://127.0.0.1:1"])).code(4);
    never.prints("up to date").says("cannot reach the hub");
}
