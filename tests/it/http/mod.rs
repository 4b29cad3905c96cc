//! The HTTP API as callers meet it: every answer through a real connection, every refusal as a problem document.

mod admin;
mod bad_input;
mod corpus;
mod cors;
mod described;
mod disconnects;
mod events;
mod idempotency;
mod intake;
mod jobs;
mod matrix;
mod metrics;
mod mutations;
mod outage;
mod reviews;
mod roles;
mod wire;

use crate::support::app::TestApp;
use chartgate::ingest::fhir::sample::{self, Size};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const BUNDLE: &str = "/v1/ingestion/fhir/Bundle";
pub const FHIR: (&str, &str) = ("content-type", "application/fhir+json");

/// A whole answer.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}: {:?}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// The problem document of that code, complete.
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}: {text}", self.status);
        let problem = self.json();
        assert_eq!((self.status, problem["code"].as_str()), (status, Some(code)), "{text}");
        assert_eq!(problem["type"], format!("/docs/errors/{code}"));
        assert_eq!(problem["status"], status);
        for member in ["title", "detail", "action", "requestId", "error"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {text}");
        }
        assert!(problem["retryable"].is_boolean());
        assert_eq!(problem["error"], problem["detail"]);
        assert_eq!(problem["requestId"].as_str(), self.header("x-request-id"));
        problem
    }
}

/// One request. The key is left out when it is empty.
pub async fn call(
    app: &TestApp,
    method: Method,
    path: &str,
    key: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> Answer {
    let mut request = app.client.request(method, format!("{}{path}", app.url)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if !key.is_empty() {
        request = request.bearer_auth(key);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
}

pub async fn get(app: &TestApp, key: &str, path: &str) -> Answer {
    call(app, Method::GET, path, key, &[], "").await
}

pub async fn post_bundle(app: &TestApp, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Answer {
    call(app, Method::POST, BUNDLE, &app.organization.sender, headers, body).await
}

pub fn sha256(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

pub fn gzip(body: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// A valid small Bundle of its own patient.
pub fn small(seed: u64) -> Vec<u8> {
    sample::bundle(seed, 1, Size::Small)
}

/// A collection of one Patient with this member.
pub fn with_member(name: &str, value: &Value) -> Value {
    let mut patient = json!({"resourceType": "Patient", "id": "p"});
    patient[name] = value.clone();
    json!({"resourceType": "Bundle", "type": "collection", "entry": [{"fullUrl": "urn:uuid:p", "resource": patient}]})
}

/// Every value of these headers that a problem must not depend on.
pub fn content_type(headers: &HeaderMap) -> &str {
    headers[CONTENT_TYPE].to_str().unwrap()
}
