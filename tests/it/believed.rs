//! What is believed of a remote, and what becomes of a tag: colleagues who put things back, edit the record, quote a
//! commit or publish from elsewhere.

use crate::hubs::{Hub, REPO, TOKEN};
use crate::past::{commits, file, get, next, tags, two_versions};
use crate::publish::light;
use hfbuild::hub::client::Operation;
use hfbuild::hub::embedded::{Fault, Options};
use serde_json::Value as Json;

#[test]
fn what_a_colleague_put_back_with_its_record_is_drift_to_the_cache_and_to_a_fresh_clone() {
    let (hub, project) = two_versions();
    let first = commits(&hub)[1].clone();
    let put_back = ["data.bin", "README.md", "provenance.json"];
    let back = |path: &str| hub.colleague("the new one is broken", path, file(&hub, &first, path).as_bytes());
    put_back.iter().for_each(|path| back(path));
    let clone = light();
    next(&clone, "second", "1.1.0");
    for seen_by in [&project, &clone] {
        hub.publish(seen_by, &["plan"]).prints("data.bin: changed");
        hub.publish(seen_by, &[]).code(5).says("`data.bin` (changed there)");
        hub.publish(seen_by, &["verify"]).code(5).says("`data.bin` (changed there)");
    }
    hub.publish(&project, &["status"]).prints("the new one is broken");
    assert_eq!(file(&hub, "main", "data.bin"), "one", "the colleague's word stands");
    hub.publish(&project, &["--overwrite"]).code(0);
    assert_eq!(file(&hub, "main", "data.bin"), "second");
}

#[test]
fn a_colleagues_commit_on_top_is_no_publish_of_ours() {
    let (hub, project) = two_versions();
    let ours = commits(&hub)[0].clone();
    hub.colleague("Upload notes.md", "notes.md", b"mine\n");
    hub.publish(&project, &[]).code(0).says("remote unchanged");
    hub.asked();
    hub.publish(&project, &[]).code(0).says("remote unchanged");
    assert_eq!(hub.asked(), ["revision"], "what was seen there is known");
    hub.publish(&project, &["history"]).code(0).says("2 publishes").never_says("Upload notes.md");
    hub.publish(&project, &["verify"]).code(0).prints(&ours[..7]);
    let laptop = light();
    next(&laptop, "second", "1.1.0");
    hub.publish(&laptop, &[]).code(0).says("remote unchanged");
    hub.publish(&laptop, &["history"]).code(0).says("2 publishes").never_says("Upload notes.md");
}

#[test]
fn a_tag_that_could_not_be_set_is_set_by_the_next_run_that_can() {
    let (hub, project) = (Hub::start(Options::default()), light());
    let refused = || hub.at_each(|point, _| if point == "tag" { Fault::Status(403) } else { Fault::None });
    refused();
    hub.publish(&project, &[]).code(4).says("Published").says("without its tag");
    for _ in 0..2 {
        refused();
        hub.publish(&project, &[]).code(4).says("403");
    }
    assert_eq!((tags(&hub).len(), hub.commits()), (0, 1));
    hub.asked();
    hub.publish(&project, &[]).code(0).says("`v1.0.0`");
    assert_eq!(tags(&hub), [("v1.0.0".to_string(), commits(&hub)[0].clone())]);
    hub.asked();
    hub.publish(&project, &[]).code(0).says("remote unchanged");
    assert_eq!(hub.asked(), ["revision"]);
    // a tag that the manifest names later
    project.write("publish.toml", &project.read("publish.toml").replace("v{project.version}", "later"));
    hub.publish(&project, &[]).code(0).says("`later`");
    assert_eq!((tags(&hub).len(), hub.commits()), (2, 1));
}

#[test]
fn a_tag_or_a_commit_as_revision_is_refused_before_any_stage() {
    let (hub, project) = two_versions();
    let (manifest, first) = (project.read("publish.toml"), commits(&hub)[1].clone());
    project.write("data.bin", "third");
    for (revision, what) in [("v1.0.0", "a tag"), (first.as_str(), "a commit")] {
        project.write("publish.toml", &manifest.replace("tag = ", &format!("revision = \"{revision}\"\ntag = ")));
        hub.publish(&project, &[]).code(4).says(&format!("is {what} of")).never_says("Running");
    }
    assert_eq!(hub.commits(), 2);
}

#[test]
fn a_commit_that_quotes_a_publish_is_none() {
    let (hub, project) = two_versions();
    let list: Json = serde_json::from_str(&get(&hub, &format!("api/models/{REPO}/commits/main"))).unwrap();
    let quoted = format!("Revert\n\n{}", list[0]["message"].as_str().unwrap());
    hub.runtime.block_on(async {
        let client = hfbuild::hub::HubClient::new(hub.url(), hfbuild::hub::Token::new(TOKEN)).unwrap();
        let repo = hfbuild::hub::RepoId::new(hfbuild::hub::RepoKind::Model, REPO).unwrap();
        let parent = client.head(&repo, "main").await.unwrap().unwrap().sha;
        let operations = vec![Operation::AddRegular { path: "notes.md".into(), bytes: b"mine".to_vec() }];
        let request =
            hfbuild::hub::client::CommitRequest { summary: "Revert".into(), description: quoted, parent, operations };
        client.commit(&repo, "main", &request).await.unwrap();
    });
    assert_eq!(hub.commits(), 3);
    hub.publish(&project, &["history"]).code(0).says("2 publishes");
    hub.publish(&light(), &["history"]).code(0).says("2 publishes");
}

#[test]
fn a_publish_from_elsewhere_is_named_by_whoever_goes_over_it() {
    let (hub, project) = two_versions();
    let laptop = light();
    next(&laptop, "from the laptop", "1.2.0");
    hub.publish(&laptop, &[]).code(0).never_says("elsewhere");
    let line = format!("was published from elsewhere since: {} \"light 1.2.0", &commits(&hub)[0][..7]);
    hub.publish(&project, &["plan"]).code(0).says(&line);
    hub.publish(&project, &[]).code(0).says(&line);
    hub.publish(&project, &[]).code(0).never_says("elsewhere");
    hub.publish(&laptop, &["rollback"]).code(0);
    hub.publish(&project, &["plan"]).code(0).says("a rollback to");
}

#[test]
fn a_rollback_is_refused_where_every_change_is_proposed() {
    let (hub, project) = two_versions();
    let manifest = project.read("publish.toml");
    project.write("publish.toml", &manifest.replace("tag = ", "pull_request = true\ntag = "));
    hub.publish(&project, &["rollback"]).code(2).says("`pull_request = true` proposes every change");
    assert_eq!(hub.commits(), 2);
}
