//! Object storage goes away and comes back.

use super::{get, sha256, small};
use crate::support::app::{Setup, TestApp, TestWorkers, Through, job_of, step_of};
use crate::support::forwarder::Forwarder;
use chartgate::engine::EngineOptions;
use chartgate::objects::{Objects, ObjectsOptions};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// An application whose object storage can be switched off.
async fn app_behind_a_switch() -> (TestApp, Arc<Forwarder>) {
    let forwarder = Arc::new(OnceCell::new());
    let setup = Setup { s3: Some(through(Arc::clone(&forwarder))), ..Setup::default() };
    let app = TestApp::with(setup).await;
    let forwarder = Arc::clone(forwarder.get().unwrap());
    (app, forwarder)
}

fn through(cell: Arc<OnceCell<Arc<Forwarder>>>) -> Through {
    Box::new(move |objects| {
        let target = objects.endpoint().strip_prefix("http://").unwrap().to_owned();
        let forwarder = Arc::new(Forwarder::start(target));
        let endpoint = Some(format!("http://{}", forwarder.address()));
        cell.set(forwarder).ok().unwrap();
        Objects::connect(&ObjectsOptions { endpoint, timeout: Duration::from_secs(2), ..objects.client_options() })
    })
}

fn workers(app: &TestApp) -> TestWorkers {
    let poll = Duration::from_millis(20);
    app.workers_with(EngineOptions { poll, ..EngineOptions::default() })
}

#[tokio::test]
async fn a_job_waits_for_object_storage_and_succeeds_by_itself_when_it_is_back() {
    let (app, forwarder) = app_behind_a_switch().await;
    let workers = workers(&app);
    forwarder.switch(false);
    let ready = get(&app, "", "/health/ready").await;
    let ready_body = ready.json();
    assert_eq!((ready.status, &ready_body["status"]), (200, &json!("ok")), "jobs are still accepted");
    let storage = &ready_body["dependencies"][1];
    assert_eq!(
        (&storage["name"], &storage["ok"], storage["reason"].is_string()),
        (&json!("object_store"), &json!(false), true)
    );
    let health = get(&app, "", "/ingest/health").await;
    let health_body = health.json();
    let words = [&health_body["status"], &health_body["database"], &health_body["object_store"]];
    assert_eq!((health.status, words), (200, [&json!("degraded"), &json!("healthy"), &json!("unhealthy")]));

    let body = small(1);
    let job = job_of(&app.submit(body.clone()).await.1);
    let view = app
        .wait_until(&job, "retrying at store_raw", |view| {
            view["status"] == "retrying"
                && view["currentStep"] == "store_raw"
                && step_of(view, "store_raw")["error"].is_object()
        })
        .await;
    let step = step_of(&view, "store_raw");
    assert_eq!(
        (&step["error"]["code"], &step["error"]["class"]),
        (&json!("object_store_unavailable"), &json!("transient"))
    );
    assert!(step["attempts"].as_u64() >= Some(1) && step["nextAttemptAt"].is_string(), "{step}");
    assert_eq!(step_of(&view, "validate")["status"], "succeeded");
    assert_eq!((&view["error"], &view["finishedAt"]), (&json!(null), &json!(null)));
    // The bytes are readable meanwhile: they are still in the row.
    let payload = format!("/v1/payloads/{}", sha256(&body));
    assert!(get(&app, &app.organization.reader, &payload).await.body == body);
    // A second attempt fails too, and the wait grows.
    app.wait_until(&job, "behind its second attempt", |view| {
        view["status"] == "retrying" && step_of(view, "store_raw")["attempts"].as_u64() >= Some(2)
    })
    .await;

    forwarder.switch(true);
    app.advance(Duration::from_mins(10)).await;
    let view = app.wait_for(&job, "succeeded").await;
    assert!(step_of(&view, "store_raw")["attempts"].as_u64() >= Some(3), "{view}");
    assert_eq!(view["round"], 1, "nobody had to act");
    let (_, timeline) = app.get(&app.organization.sender, &format!("/v1/ingestion/jobs/{job}/timeline")).await;
    let failed = timeline["entries"].as_array().unwrap().iter().filter(|entry| entry["event"] == "attempt.failed");
    assert!(failed.clone().count() >= 2);
    assert!(
        failed
            .clone()
            .all(|entry| entry["nextAttemptAt"].is_string() && entry["error"]["code"] == "object_store_unavailable")
    );
    workers.stop().await;
}

#[tokio::test]
async fn a_payload_in_object_storage_that_is_away_is_a_503_and_comes_back() {
    let (app, forwarder) = app_behind_a_switch().await;
    let workers = workers(&app);
    let body = small(1);
    let job = job_of(&app.submit(body.clone()).await.1);
    app.wait_for(&job, "succeeded").await;
    forwarder.switch(false);
    let path = format!("/v1/payloads/{}", sha256(&body));
    let away = get(&app, &app.organization.reader, &path).await;
    away.problem(503, "object_store_unavailable");
    assert!(away.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    forwarder.switch(true);
    assert!(get(&app, &app.organization.reader, &path).await.body == body);
    workers.stop().await;
}
