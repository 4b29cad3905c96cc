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

/// Wait until every job is at its end. The tests' PostgreSQL has no autovacuum, and this queue is a busy one.
pub async fn drain(app: &TestApp) {
    let mut owner = app.owner().await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(20);
    loop {
        sqlx::raw_sql("vacuum (analyze) queue").execute(&mut owner).await.unwrap();
        let rows: i64 = sqlx::query_scalar("select count(*) from queue").fetch_one(&mut owner).await.unwrap();
        if rows == 0 {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{rows} rows are still in the queue");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}
