//! Outbound callbacks: who is told of what, how often, and what may be called.

mod crash;
mod guard;
mod messages;
pub mod receiver;
mod registration;
mod slow;
mod tls;

use crate::support::app::{Setup, TestApp};
use chartgate::callbacks::dispatch;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// An application whose callbacks may reach receivers of this machine by http.
pub async fn app() -> TestApp {
    TestApp::with(Setup {
        configure: |config| {
            config.callbacks.allow_http = true;
            config.callbacks.allow_private = vec!["127.0.0.0/8".parse().unwrap()];
        },
        ..Setup::default()
    })
    .await
}

/// Register; the id and the secret.
pub async fn register(app: &TestApp, body: Value) -> (String, String) {
    let (status, created) = app.post(&app.organization.admin, "/v1/admin/callbacks", &body).await;
    assert_eq!(status, 201, "{created}");
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{created}")).to_owned();
    (text(&created["callback"]["callbackId"]), text(&created["secret"]))
}

pub async fn register_url(app: &TestApp, url: &str) -> (String, String) {
    register(app, json!({ "url": url })).await
}

pub async fn callback(app: &TestApp, id: &str) -> Value {
    let (status, view) = app.get(&app.organization.admin, &format!("/v1/admin/callbacks/{id}")).await;
    assert_eq!(status, 200, "{view}");
    view
}

pub async fn patch(app: &TestApp, id: &str, body: &Value) -> (u16, Value) {
    let path = format!("{}/v1/admin/callbacks/{id}", app.url);
    let request = app.client.request(Method::PATCH, path).bearer_auth(&app.organization.admin).json(body);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or(Value::Null))
}

/// The log of a callback, newest first.
pub async fn deliveries(app: &TestApp, id: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/admin/callbacks/{id}/deliveries?limit=200{cursor}");
        let (status, page) = app.get(&app.organization.admin, &path).await;
        assert_eq!(status, 200, "{page}");
        all.extend(page["deliveries"].as_array().unwrap().clone());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

/// Once what the dispatcher does all the time.
pub async fn dispatch(app: &TestApp) -> usize {
    let made = dispatch::dispatch(&app.app.db, &app.app.catalog).await.unwrap();
    app.app.wake.signal();
    made
}

/// Wait until that query answers that number.
pub async fn wait_until(app: &TestApp, query: &'static str, wanted: i64) {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let count = app.count(query).await;
        if count == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{query}: {count}, not {wanted}, after a minute");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Until nothing can run now: what is left in the queue waits for its time.
pub async fn run_until_nothing_is_due(app: &TestApp) {
    let due = "select count(*) from queue where state <> 'delayed' or run_at <= chartgate_now()";
    wait_until(app, due, 0).await;
}

/// Dispatch and deliver until no message waits and no delivery is due.
pub async fn run_until_idle(app: &TestApp) {
    loop {
        let made = dispatch(app).await;
        run_until_nothing_is_due(app).await;
        if made == 0 {
            return;
        }
    }
}
