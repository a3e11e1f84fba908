//! Answers: what all of them have, and refusals that say what is wrong, where, and what was expected.

use std::borrow::Cow;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde_json::json;

pub(super) type Answer = Response<Full<Bytes>>;

const JSON: &str = "application/json";

/// An answer that loads nothing, is kept by nobody, and is used by no other page.
pub(super) fn answer(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(content.into()));
    *answer.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// An answer in JSON.
pub(super) fn json_answer(status: StatusCode, content: &serde_json::Value) -> Answer {
    let mut text = content.to_string();
    text.push('\n');
    answer(status, JSON, text)
}

/// Why a request is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// What is wrong.
    pub(super) what: Cow<'static, str>,
    /// The place: a header, a parameter, a member of the body.
    pub(super) place: Cow<'static, str>,
    /// What would be right, and what to do.
    pub(super) expected: Cow<'static, str>,
    /// The methods that the path has.
    allow: Option<&'static str>,
    retry_after_seconds: Option<u32>,
}

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        what: impl Into<Cow<'static, str>>,
        place: impl Into<Cow<'static, str>>,
        expected: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (what, place, expected) = (what.into(), place.into(), expected.into());
        Self { status, what, place, expected, allow: None, retry_after_seconds: None }
    }

    /// The path has other methods.
    pub(super) fn method(allowed: &'static str) -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self { allow: Some(allowed), ..Self::new(status, "this path has no such method", "method", allowed) }
    }

    pub(super) const fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    pub(super) fn into_answer(self) -> Answer {
        let Self { status, what, place, expected, allow, retry_after_seconds } = self;
        let content = json!({ "error": { "what": what, "where": place, "expected": expected } });
        let mut answer = json_answer(status, &content);
        let headers = answer.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"jmqt\""));
        }
        if let Some(allow) = allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(seconds) = retry_after_seconds {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        answer
    }
}
