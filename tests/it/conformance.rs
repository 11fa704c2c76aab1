//! The commit layer against a hub that fails: at each request, for a while or for good, and kill -9 at each request.
//! What must hold is always the same: the same bytes, one commit, and nothing sent twice that had arrived.

use crate::hubs::{Hub, Proxy, REPO, TOKEN, colleague_meanwhile, command, light};
use crate::support::run;
use hfbuild::hub::embedded::{Fault, Options};
use hfbuild::hub::{HubClient, RepoId, RepoKind, Token};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

fn hub() -> Hub {
    Hub::start(Options::default())
}

/// What an undisturbed first publish asks for, and what it leaves.
fn undisturbed() -> &'static (Vec<String>, Vec<(String, String)>) {
    type Seen = (Vec<String>, Vec<(String, String)>);
    static SEEN: OnceLock<Seen> = OnceLock::new();
    SEEN.get_or_init(|| {
        let (hub, project) = (hub(), light());
        hub.publish(&project, &[]).code(0);
        (hub.asked(), hub.listing())
    })
}

#[test]
fn each_request_may_fail_three_times_in_a_row() {
    let (requests, listing) = undisturbed();
    let mut points: Vec<&str> = requests.iter().map(String::as_str).collect();
    points.sort_unstable();
    points.dedup();
    assert!(points.contains(&"lfs.put") && points.contains(&"commit.after"), "{points:?}");
    for point in points {
        let (hub, project) = (hub(), light());
        hub.will(point, &[Fault::Status(503), Fault::DropConnection, Fault::Throttle { retry_after: 0 }]);
        let run = hub.publish(&project, &[]);
        assert_eq!(run.code, 0, "{point}: {}", run.stderr);
        assert_eq!(hub.commits(), 1, "{point}: {}", run.stderr);
        assert_eq!(&hub.listing(), listing, "{point}");
        hub.asked();
        hub.publish(&project, &[]).code(0);
        assert_eq!(hub.asked(), ["revision"], "{point}");
    }
}

#[test]
fn killed_at_each_request_the_next_run_ends_with_the_same_bytes_and_one_commit() {
    let (requests, listing) = undisturbed();
    for (kill_at, point) in requests.iter().enumerate() {
        let (hub, project) = (hub(), light());
        let pid = Arc::new(AtomicI32::new(0));
        let (of, killed) = (pid.clone(), Arc::new(AtomicBool::new(false)));
        let done = killed.clone();
        hub.at_each(move |_, nth| {
            // or the next, where two came at once
            if nth >= kill_at && !done.swap(true, Ordering::SeqCst) {
                while of.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                let pid = nix::unistd::Pid::from_raw(of.load(Ordering::SeqCst));
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("the kill");
                return Fault::DropConnection;
            }
            Fault::None
        });
        let mut child = hub.spawn(&project);
        pid.store(child.id() as i32, Ordering::SeqCst);
        assert!(!child.wait().unwrap().success(), "killed at request {kill_at}, {point}");
        let run = hub.publish(&project, &[]).code(0);
        assert_eq!(hub.commits(), 1, "killed at request {kill_at}, {point}: {}", run.stderr);
        assert_eq!(&hub.listing(), listing, "killed at request {kill_at}, {point}");
        let puts = hub.asked().iter().filter(|p| *p == "lfs.put").count();
        if !point.starts_with("lfs.") {
            assert_eq!(puts, 3, "killed at request {kill_at}, {point}: a blob that had arrived was sent again");
        }
        hub.publish(&project, &[]).code(0).says("remote unchanged");
    }
}

#[test]
fn a_lost_answer_with_a_colleagues_commit_on_top_makes_no_second_commit() {
    let (hub, project) = (hub(), light());
    let (url, landed) = (hub.url().to_string(), AtomicBool::new(false));
    hub.at_each(move |point, _| match point {
        "commit.after" if !landed.swap(true, Ordering::SeqCst) => {
            colleague_meanwhile(url.clone(), "notes \u{1b}[31mof mine", "notes.md");
            Fault::DropConnection
        }
        _ => Fault::None,
    });
    hub.publish(&project, &[]).code(0).says("the answer to the commit was lost").says("it had landed already");
    assert_eq!(hub.commits(), 2, "ours and the colleague's");
    hub.asked();
    hub.publish(&project, &[]).code(0).says("remote unchanged");
    assert_eq!(hub.commits(), 2);
    assert!(hub.has("notes.md") && hub.has("a.bin"));
}

#[test]
fn a_branch_that_moved_is_planned_again_and_who_moved_it_is_said() {
    let (hub, project) = (hub(), light());
    hub.publish(&project, &[]).code(0);
    hub.asked();
    project.write("a.bin", "new content");
    let (url, moved) = (hub.url().to_string(), AtomicBool::new(false));
    hub.at_each(move |point, _| {
        if point == "commit.before" && !moved.swap(true, Ordering::SeqCst) {
            colleague_meanwhile(url.clone(), "notes \u{1b}[31mof mine", "notes.md");
        }
        Fault::None
    });
    let run = hub.publish(&project, &[]).code(0).says("`main` was moved meanwhile").says("planning again");
    assert!(run.stderr.contains("local: \"notes  [31mof mine\" ("), "{}", run.stderr);
    run.never_says("\u{1b}"); // what a colleague wrote does not steer the terminal
    let puts = hub.asked().iter().filter(|p| *p == "lfs.put").count();
    assert_eq!((hub.commits(), puts), (3, 1), "the content is not sent again");
    assert!(hub.has("notes.md") && hub.text("a.bin") == "new content");
}

#[test]
fn a_refusal_for_good_is_said_once_and_not_tried_again() {
    for (point, status, words) in [
        ("preupload", 403, "write access to contents"),
        ("commit.before", 403, "write access to contents"),
        ("lfs.batch", 401, "refused the token"),
        ("create", 403, "write access to contents"),
        ("whoami", 401, "refused the token"),
    ] {
        let (hub, project) = (hub(), light());
        hub.at_each(move |asked, _| if asked == point { Fault::Status(status) } else { Fault::None });
        let run = hub.publish(&project, &[]).code(4).says(words).says(&status.to_string()).never_says(TOKEN);
        assert_eq!(run.stderr.matches(words).count(), 1, "{}", run.stderr);
        assert_eq!(hub.asked().iter().filter(|p| *p == point).count(), 1, "{point}");
        assert_eq!(hub.commits(), 0);
    }
}

#[test]
fn a_rate_limit_that_asks_for_too_long_ends_the_run_and_names_it() {
    let (hub, project) = (hub(), light());
    hub.at_each(|point, _| if point == "tree" { Fault::Throttle { retry_after: 4000 } } else { Fault::None });
    hub.publish(&project, &[]).code(4).says("rate limit").says("nothing is lost");
}

#[test]
fn the_hubs_own_rate_limit_header_is_obeyed_at_each_request_that_may_meet_it() {
    for point in ["revision", "tree", "preupload", "lfs.batch", "lfs.put", "commit.before"] {
        let (hub, project) = (hub(), light());
        hub.once(point, Fault::Exhausted { reset: 2 });
        let begun = std::time::Instant::now();
        hub.publish(&project, &[]).code(0);
        assert!(begun.elapsed() >= std::time::Duration::from_secs(2), "{point}: {:?}", begun.elapsed());
        assert_eq!(hub.commits(), 1);
        if point == "tree" {
            continue; // it proves what was committed
        }
        // more than is waited for ends the run, with nothing committed and nothing to look for later
        project.write("a.bin", "new content");
        hub.at_each(move |asked, _| if asked == point { Fault::Exhausted { reset: 4000 } } else { Fault::None });
        hub.publish(&project, &[]).code(4).says("rate limit");
        hub.asked();
        hub.publish(&project, &[]).code(0).never_says("cut off");
        assert_eq!(hub.commits(), 2);
    }
}

#[test]
fn what_somebody_puts_into_a_new_repo_while_the_stages_run_is_not_published_over() {
    let (hub, project) = (hub(), light());
    let (url, first) = (hub.url().to_string(), AtomicBool::new(true));
    hub.at_each(move |point, _| {
        if point == "create" && first.swap(false, Ordering::SeqCst) {
            let url = url.clone();
            let theirs = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let client = HubClient::new(&url, Token::new(TOKEN)).unwrap();
                    client.create_repo(&RepoId::new(RepoKind::Model, REPO).unwrap(), false, None).await.unwrap();
                });
                colleague_meanwhile(url, "mine first", "a.bin");
            };
            std::thread::spawn(theirs).join().unwrap();
        }
        Fault::None
    });
    hub.publish(&project, &[]).code(5).says("`a.bin` (not of ours)");
    assert_eq!((hub.commits(), hub.text("a.bin").as_str()), (1, "mine\n"));
}

#[test]
fn what_somebody_adds_to_the_record_is_not_deleted_as_ours() {
    let (hub, project) = (hub(), light());
    hub.publish(&project, &[]).code(0);
    hub.colleague("notes", "notes.md", b"mine\n");
    let record = hub.text("provenance.json");
    let digest = "0".repeat(64);
    let entry = format!(
        "\"managed\": {{\n        \"notes.md\": {{\"size\": 5, \"sha256\": \"{digest}\", \"git_sha1\": null}},"
    );
    let edited = record.replacen("\"managed\": {", &entry, 1);
    assert_ne!(edited, record);
    hub.colleague("a hand in the record", "provenance.json", edited.as_bytes());
    hub.publish(&project, &["--overwrite"]).code(0);
    assert!(hub.has("notes.md"));
}

#[test]
fn an_address_that_expired_is_asked_for_again() {
    let (hub, project) = (hub(), light());
    hub.once("lfs.put", Fault::Status(403));
    hub.publish(&project, &[]).code(0);
    let asked = hub.asked();
    let count = |point: &str| asked.iter().filter(|p| *p == point).count();
    assert_eq!((count("lfs.batch"), count("lfs.put"), hub.commits()), (2, 4, 1));
    assert_eq!(hub.text("a.bin"), "content of a");
    // and one that is never good is no endless loop
    project.write("a.bin", "new content");
    hub.at_each(|point, _| if point == "lfs.put" { Fault::Status(403) } else { Fault::None });
    hub.publish(&project, &[]).code(4).says("403");
    assert_eq!(hub.asked().iter().filter(|p| *p == "lfs.put").count(), 3);
}

#[test]
fn a_file_that_the_repo_has_elsewhere_is_copied_and_nothing_is_sent() {
    for refused in [false, true] {
        let (hub, project) = (hub(), light());
        hub.publish(&project, &[]).code(0);
        hub.asked();
        project.write(
            "publish.toml",
            &project.read("publish.toml").replace("\"a.bin\" = \"a\"", "\"moved/z.bin\" = \"a\""),
        );
        if refused {
            hub.once("commit.before", Fault::Status(422)); // a hub that knows no copies
        }
        hub.publish(&project, &[]).code(0);
        let asked = hub.asked();
        assert!(!asked.iter().any(|p| p.starts_with("lfs.")), "{asked:?}");
        assert_eq!(hub.commits(), 2);
        assert!(hub.text("moved/z.bin") == "content of a" && !hub.has("a.bin"));
    }
}

#[test]
fn only_a_mirror_deletes_what_others_put_there_and_never_the_attributes() {
    let (hub, project) = (hub(), light());
    hub.publish(&project, &[]).code(0);
    hub.colleague("notes of mine", "notes/mine.md", b"mine\n");
    hub.publish(&project, &[]).code(0).says("remote unchanged");
    assert!(hub.has("notes/mine.md"));
    project.write("publish.toml", &project.read("publish.toml").replace("[hub]", "[hub]\nmirror = true"));
    hub.publish(&project, &["plan"]).code(0).prints("- notes/mine.md").never_says("- .gitattributes");
    hub.publish(&project, &[]).code(0).says("1 deleted");
    assert!(!hub.has("notes/mine.md") && hub.has(".gitattributes") && hub.has("a.bin"));
    hub.publish(&project, &[]).code(0).says("remote unchanged");
    assert_eq!(hub.commits(), 3);
}

#[test]
fn a_hub_of_another_kind_is_published_to_all_the_same() {
    let (hub, project) = (hub(), light());
    let proxy = Proxy::before(&hub);
    let publish = || run(&mut command(&project, &[], &proxy.url));
    publish().code(0).says("published ");
    assert_eq!((hub.commits(), &hub.listing()), (1, &undisturbed().1));
    publish().code(0).says("remote unchanged");
    // a lost answer is found there as well
    project.write("a.bin", "new content");
    hub.once("commit.after", Fault::DropConnection);
    publish().code(0).says("it had landed already");
    assert_eq!((hub.commits(), hub.text("a.bin").as_str()), (2, "new content"));
    // it does not compare parents: so the head is looked at once more after the content was sent
    project.write("a.bin", "newer content");
    let (url, moved) = (hub.url().to_string(), AtomicBool::new(false));
    hub.at_each(move |point, _| {
        if point == "lfs.verify" && !moved.swap(true, Ordering::SeqCst) {
            colleague_meanwhile(url.clone(), "my card", "README.md");
        }
        Fault::None
    });
    publish().code(5).says("was moved meanwhile by local: \"my card\"").says("`README.md` (changed there)");
    assert_eq!(hub.commits(), 3, "the colleague's card is not overwritten");
    assert_eq!(hub.text("README.md"), "mine\n");
}

#[test]
fn a_commit_whose_answers_stay_away_is_given_up_and_taken_up_again() {
    for fault in [Fault::Status(500), Fault::DropConnection] {
        let (hub, project) = (hub(), light());
        hub.at_each(move |point, _| if point == "commit.before" { fault } else { Fault::None });
        hub.publish(&project, &[]).code(4).says("sent 3 times and did not land");
        assert_eq!(hub.asked().iter().filter(|p| *p == "commit.before").count(), 3);
        hub.publish(&project, &[]).code(0);
        assert_eq!(hub.commits(), 1);
    }
}

#[test]
fn a_hub_that_throttles_the_commit_for_ever_is_given_up() {
    for (retry_after, tries) in [(0, 6), (4000, 1)] {
        let (hub, project) = (hub(), light());
        let throttle = move |point: &str| point == "commit.before";
        hub.at_each(move |point, _| if throttle(point) { Fault::Throttle { retry_after } } else { Fault::None });
        let run = hub.publish(&project, &[]).code(4).says("rate limit is used up").says("nothing is lost");
        assert_eq!(hub.asked().iter().filter(|p| throttle(p)).count(), tries, "{}", run.stderr);
        // nothing is looked for, and no content is sent again
        hub.publish(&project, &[]).code(0).never_says("cut off");
        assert!(!hub.asked().iter().any(|p| p == "lfs.put"));
        assert_eq!(hub.commits(), 1);
    }
}

#[test]
fn a_commit_that_was_surely_refused_is_not_looked_for() {
    for status in [400, 403, 413, 422] {
        let (hub, project) = (hub(), light());
        hub.will("commit.before", &[Fault::Status(status)]);
        hub.publish(&project, &[]).code(4).says(&status.to_string());
        hub.publish(&project, &[]).code(0).never_says("cut off");
        assert_eq!(hub.commits(), 1);
    }
}
