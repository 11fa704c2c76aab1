//! Answers of the embedded hub: JSON, refusals in the Hub's words and headers, and the headers all share.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use futures_util::stream;
use serde::Serialize;
use serde_json::json;

use crate::core::error::Error;

pub(super) type Answer = Response<Body>;
pub(super) type Outcome = Result<Answer, Refused>;

/// A request that is not fulfilled, and why, in words for its sender.
#[derive(Debug)]
pub(super) struct Refused {
    pub status: u16,
    pub code: Option<&'static str>,
    pub message: String,
}

impl Refused {
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Refused { status, code: None, message: message.into() }
    }
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }
    pub fn no_route() -> Self {
        Self::new(404, "the embedded hub has no such page")
    }
    pub fn no_repo() -> Self {
        Refused { status: 404, code: Some("RepoNotFound"), message: "repository not found".into() }
    }
    pub fn no_revision(revision: &str) -> Self {
        let message = format!("invalid revision `{revision}`");
        Refused { status: 404, code: Some("RevisionNotFound"), message }
    }
    pub fn no_entry(path: &str) -> Self {
        Refused { status: 404, code: Some("EntryNotFound"), message: format!("no file `{path}` at this revision") }
    }

    pub fn answer(self) -> Answer {
        let mut answer = json_answer(self.status, &json!({ "error": self.message }));
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                answer.headers_mut().insert(name, value);
            }
        };
        if let Some(code) = self.code {
            set("x-error-code", code);
        }
        let ascii: String = self.message.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect();
        set("x-error-message", &ascii);
        answer
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::new(500, error.to_string())
    }
}

/// `value` as JSON.
pub(super) fn json_answer(status: u16, value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).unwrap_or_default();
    answer(status, "application/json; charset=utf-8", body)
}

pub(super) fn ok_json(value: &impl Serialize) -> Outcome {
    Ok(json_answer(200, value))
}

/// An answer with a whole body.
pub(super) fn answer(status: u16, content_type: &'static str, body: impl Into<Body>) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// An answer that breaks off: headers promise a body that never comes.
pub(super) fn broken() -> Answer {
    let nothing = stream::iter([Err::<Vec<u8>, _>(std::io::Error::other("dropped on purpose"))]);
    let mut answer = answer(200, "application/json", Body::from_stream(nothing));
    answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("1000"));
    answer
}
