//! What a hub's storage of large files refuses, and where it is: named by the file's path in the repo and by the storage's
//! own host.

use crate::hubs::{Hub, Proxy, command, light};
use crate::support::{Run, run};
use axum::body::{Body, Bytes};
use axum::response::Response;
use hfbuild::hub::embedded::Options;
use serde_json::{Value as Json, json};

fn answer(status: u16, body: &Json) -> Response {
    Response::builder().status(status).body(Body::from(body.to_string())).unwrap()
}

/// The answer to a batch of LFS that has this for each object.
fn each(body: &Bytes, said: &Json) -> Response {
    let asked: Json = serde_json::from_slice(body).unwrap();
    let objects = asked["objects"].as_array().unwrap().iter().map(|object| {
        let mut object = object.as_object().unwrap().clone();
        object.extend(said.as_object().unwrap().clone());
        object
    });
    answer(200, &json!({"transfer": "basic", "objects": objects.collect::<Vec<_>>()}))
}

/// A first publish to a hub whose batches of LFS answer so.
fn publish(said: Json) -> Run {
    let (hub, project) = (Hub::start(Options::default()), light());
    let proxy = Proxy::answering(&hub, move |path, body| path.ends_with("/objects/batch").then(|| each(body, &said)));
    let run = run(&mut command(&project, &[], &proxy.url)).code(4);
    assert_eq!(hub.commits(), 0);
    run.never_says("cache/blobs")
}

#[test]
fn an_object_that_the_hub_does_not_take_is_named_by_its_path_in_the_repo() {
    let run = publish(json!({"error": {"code": 507, "message": "storage quota exceeded"}}));
    run.says("the hub does not take `").says(".bin`").says("storage quota exceeded");
}

#[test]
fn a_storage_that_cannot_be_reached_is_named_by_its_own_host_and_its_signature_is_not_said() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{nobody}/bucket/object?X-Signature=s3cret");
    let run = publish(json!({"actions": {"upload": {"href": url}}}));
    let run = run.says(&format!("cannot reach the storage `http://{nobody}`")).says(".bin`: ");
    run.never_says("is the right address").never_says("right address").never_says("s3cret");
}

#[test]
fn a_storage_that_refuses_is_named_by_its_own_host_and_the_token_is_not_blamed() {
    let hub = Hub::start(Options::default());
    let storage = Proxy::answering(&hub, |_, _| Some(answer(403, &json!({"message": "SignatureDoesNotMatch"}))));
    let run = publish(json!({"actions": {"upload": {"href": format!("{}/bucket/object", storage.url)}}}));
    let run = run.says(&format!("the storage `{}` answered 403 to `PUT /bucket/object`", storage.url));
    run.says(".bin`: ").says("SignatureDoesNotMatch").never_says("the token");
}

#[test]
fn a_storage_of_xet_that_cannot_be_reached_is_named_by_its_own_host() {
    let (hub, project) = (Hub::start(Options { xet: true, ..Options::default() }), light());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let grant = json!({
        "accessToken": "t", "exp": jiff::Timestamp::now().as_second() + 900, "casUrl": format!("http://{nobody}"),
    });
    let proxy = Proxy::answering(&hub, move |path, _| path.contains("/xet-write-token/").then(|| answer(200, &grant)));
    let mut build = command(&project, &[], &proxy.url);
    let run = run(build.env("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms")).code(4);
    run.says(&format!("the Hub's storage `http://{nobody}` cannot be reached"))
        .says("may this machine reach that host");
}
