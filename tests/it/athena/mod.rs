//! The Athena gateway: events in over HTTP, through the workers, and out again.

mod chart;
mod intake;
mod traffic;

use crate::http::{Answer, call, get};
use crate::support::app::TestApp;
use reqwest::Method;
use serde_json::{Value, json};

pub const EVENT: &str = "/ingest/athena";
pub const BATCH: &str = "/ingest/athena/batch";
const JSON: (&str, &str) = ("content-type", "application/json");

pub async fn post(app: &TestApp, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    call(app, Method::POST, path, &app.organization.sender, &[JSON], body).await
}

/// The 202 of an event.
pub async fn taken(app: &TestApp, event: &Value) -> Value {
    let answer = post(app, EVENT, event.to_string()).await;
    assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

pub fn vitals(patient: &str, pulse: u32) -> Value {
    json!({"athena_patient_id": patient, "event_type": "vitals", "payload": {"pulse": pulse, "bp": "120/80"}})
}

pub async fn events(app: &TestApp, patient: &str) -> Vec<Value> {
    let page = get(app, &app.organization.reader, &format!("/ingest/events/{patient}")).await.json();
    page["events"].as_array().unwrap().clone()
}
