//! What becomes of failed attempts.

use super::scripted::{Act, Scripted, workflow};
use crate::support::app::{Setup, TestApp, step_of};
use crate::support::submit::submit;
use chartgate::engine::EngineOptions;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

pub async fn scripted_app() -> (TestApp, Arc<Scripted>) {
    let scripted = Scripted::new();
    let setup = Setup {
        handlers: vec![("test.scripted", Arc::clone(&scripted) as _)],
        workflows: vec![("scripted", workflow("scripted", "none")), ("in-order", workflow("in-order", "organization"))],
        ..Setup::default()
    };
    (TestApp::with(setup).await, scripted)
}

#[tokio::test]
async fn a_transient_failure_shows_its_next_attempt_and_succeeds_by_itself() {
    let (app, scripted) = scripted_app().await;
    scripted.script("middle", &[Act::RetryAfter(Duration::from_secs(30)), Act::Transient]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    let view = app.wait_for(&job, "retrying").await;
    let step = step_of(&view, "middle");
    assert_eq!(step["status"], "retrying");
    assert_eq!(step["error"]["code"], "test_away");
    assert_eq!(step["error"]["class"], "transient");
    assert_eq!(step["attempts"], 1);
    assert!(step["nextAttemptAt"].is_string(), "{step}");
    assert_eq!(view["currentStep"], "middle");
    // The dependency asked for 30 s: not a moment sooner, by the database's clock.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(scripted.runs_of("middle"), 1);
    app.advance(Duration::from_secs(31)).await;
    let view = app.wait_for(&job, "succeeded").await;
    assert_eq!(step_of(&view, "middle")["attempts"], 3);
    let (_, timeline) = app.get(&app.platform, &format!("/v1/ingestion/jobs/{job}/timeline")).await;
    let failed: Vec<_> =
        timeline["entries"].as_array().unwrap().iter().filter(|entry| entry["event"] == "attempt.failed").collect();
    assert_eq!(failed.len(), 2, "{timeline:#}");
    workers.stop().await;
}

#[tokio::test]
async fn bad_data_are_never_repeated_and_the_closing_steps_still_run() {
    let (app, scripted) = scripted_app().await;
    scripted.script("first", &[Act::Sender]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    let view = app.wait_for(&job, "failed").await;
    let states: Vec<_> =
        view["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["failed", "succeeded", "skipped", "succeeded"]);
    assert_eq!(view["error"]["code"], "test_bad_data");
    assert_eq!(view["error"]["class"], "sender");
    assert!(view["error"]["action"].as_str().unwrap().contains("send it again"));
    assert_eq!(scripted.runs_of("first"), 1);
    assert!(scripted.runs.lock().unwrap().iter().filter(|(_, step, _)| step == "last").all(|(_, _, failed)| *failed));
    workers.stop().await;
}

#[tokio::test]
async fn a_bug_or_a_panic_parks_the_job_at_once() {
    let (app, scripted) = scripted_app().await;
    let workers = app.workers();
    for (act, code) in [(Act::Ours, "test_bug"), (Act::Panic, "handler_panicked")] {
        scripted.script("middle", &[act]);
        let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
        let view = app.wait_for(&job, "failed").await;
        assert_eq!(view["error"]["code"], code);
        assert_eq!(view["error"]["class"], "ours");
        assert_eq!(step_of(&view, "middle")["attempts"], 1);
    }
    workers.stop().await;
}

#[tokio::test]
async fn a_spent_budget_fails_the_job_with_the_first_error_although_a_closing_step_fails_too() {
    let (app, scripted) = scripted_app().await;
    scripted.script("first", &vec![Act::Transient; 4]);
    scripted.script("last", &[Act::Ours]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    let view = app.wait_for(&job, "failed").await;
    assert_eq!(step_of(&view, "first")["attempts"], 4);
    assert_eq!(view["error"]["code"], "test_away");
    let states: Vec<_> =
        view["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["failed", "succeeded", "skipped", "failed"]);
    let closed = app.count("select count(*) from audit_records where event = 'job.failed'").await;
    assert_eq!(closed, 1);
    workers.stop().await;
}

#[tokio::test]
async fn a_step_that_takes_too_long_is_tried_again() {
    let (app, scripted) = scripted_app().await;
    scripted.script("first", &[Act::Slow(Duration::from_secs(20))]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    let view = app.wait_for(&job, "succeeded").await;
    assert_eq!(step_of(&view, "first")["attempts"], 2);
    assert_eq!(app.count("select count(*) from step_attempts where error_code = 'step_timeout'").await, 1);
    workers.stop().await;
}

#[tokio::test]
async fn an_administrators_retry_resumes_at_the_failed_step_and_keeps_the_history() {
    let (app, scripted) = scripted_app().await;
    scripted.script("middle", &[Act::Ours, Act::Ours]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    app.wait_for(&job, "failed").await;
    let path = format!("/v1/admin/jobs/{job}/retry");
    let (status, problem) = app.post(&app.organization.sender, &path, &json!({ "reason": "no" })).await;
    assert_eq!((status, problem["code"].as_str().unwrap()), (403, "forbidden"));
    let (status, problem) =
        app.post(&app.organization.admin, &path, &json!({ "from": "nowhere", "reason": "try" })).await;
    assert_eq!((status, problem["code"].as_str().unwrap()), (400, "invalid_request"));

    let (status, view) =
        app.post(&app.organization.admin, &path, &json!({ "from": "failed_step", "reason": "mended" })).await;
    assert_eq!((status, view["round"].as_i64().unwrap()), (202, 2), "{view}");
    app.wait_for(&job, "failed").await;
    assert_eq!(scripted.runs_of("first"), 1, "earlier steps count from the first round");
    let (status, _) = app.post(&app.organization.admin, &path, &json!({ "reason": "mended again" })).await;
    assert_eq!(status, 202);
    let view = app.wait_for(&job, "succeeded").await;
    assert_eq!(view["round"], 3);
    assert_eq!(view["error"], json!(null));
    assert_eq!(scripted.runs_of("first"), 1);
    assert_eq!(scripted.runs_of("middle"), 3);
    let (_, timeline) = app.get(&app.organization.sender, &format!("/v1/ingestion/jobs/{job}/timeline")).await;
    let events =
        |event: &str| timeline["entries"].as_array().unwrap().iter().filter(|entry| entry["event"] == event).count();
    assert_eq!((events("attempt.failed"), events("job.retried"), events("step.failed")), (2, 2, 2), "{timeline:#}");

    let (status, _) = app.post(&app.organization.admin, &path, &json!({ "from": "start", "reason": "all over" })).await;
    assert_eq!(status, 202);
    app.wait_for(&job, "succeeded").await;
    assert_eq!(scripted.runs_of("first"), 2);
    workers.stop().await;
}

#[tokio::test]
async fn a_job_that_has_not_ended_cannot_be_retried_and_one_that_has_cannot_be_cancelled() {
    let (app, scripted) = scripted_app().await;
    scripted.script("first", &[Act::RetryAfter(Duration::from_mins(10))]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    app.wait_for(&job, "retrying").await;
    let (status, problem) =
        app.post(&app.organization.admin, &format!("/v1/admin/jobs/{job}/retry"), &json!({ "reason": "x" })).await;
    assert_eq!((status, problem["code"].as_str().unwrap()), (409, "job_not_finished"));
    let cancel = format!("/v1/ingestion/jobs/{job}/cancel");
    let (status, view) = app.post(&app.organization.sender, &cancel, &json!({ "reason": "sent by mistake" })).await;
    assert_eq!((status, view["status"].as_str().unwrap()), (200, "cancelled"));
    let (status, problem) = app.post(&app.organization.sender, &cancel, &json!({})).await;
    assert_eq!((status, problem["code"].as_str().unwrap()), (409, "job_is_terminal"));
    assert_eq!(app.count("select count(*) from queue").await, 0);
    workers.stop().await;
}

#[tokio::test]
async fn the_commit_of_a_step_that_was_cancelled_while_it_ran_is_refused_and_counted() {
    let (app, scripted) = scripted_app().await;
    scripted.script("middle", &[Act::Slow(Duration::from_millis(700))]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    app.wait_until(&job, "in its middle step", |view| step_of(view, "middle")["status"] == "running").await;
    let (status, _) = app.post(&app.organization.sender, &format!("/v1/ingestion/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!(status, 200);
    let stale = || workers.engine.counters.stale_commits.load(std::sync::atomic::Ordering::Relaxed);
    for _ in 0..200 {
        if stale() > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stale(), 1);
    let view = app.job(&job).await;
    assert_eq!(view["status"], "cancelled");
    assert_eq!(step_of(&view, "first")["status"], "succeeded", "committed steps stay");
    assert_eq!(app.count("select count(*) from job_steps where name = 'middle'").await, 0);
    workers.stop().await;
}

#[tokio::test]
async fn many_jobs_are_retried_by_filter_after_a_dry_run_and_a_canary_that_fails_stops_it() {
    let (app, scripted) = scripted_app().await;
    scripted.script("middle", &vec![Act::Ours; 5 + 1]);
    let workers = app.workers();
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(submit(&app, app.organization.id, "scripted", None).await.job.to_string());
    }
    for job in &jobs {
        app.wait_for(job, "failed").await;
    }
    let (_, failures) = app.get(&app.organization.admin, "/v1/admin/failures").await;
    assert_eq!(failures["failures"][0]["count"], 5);
    assert_eq!(failures["failures"][0]["code"], "test_bug");
    let request = |extra: serde_json::Value| {
        let mut request = json!({ "filter": { "errorCode": "test_bug" }, "reason": "mended" });
        request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        request
    };
    let (status, operation) =
        app.post(&app.organization.admin, "/v1/admin/jobs/retry", &request(json!({ "dryRun": true }))).await;
    assert_eq!((status, operation["matched"].as_i64().unwrap()), (200, 5));
    assert_eq!(scripted.runs_of("middle"), 5, "a dry run retries nothing");

    // The sixth scripted failure meets the canary.
    let ended = operate(&app, &request(json!({ "canary": 1 }))).await;
    assert_eq!((ended["status"].as_str().unwrap(), ended["done"].as_i64().unwrap()), ("stopped", 1), "{ended}");
    let ended = operate(&app, &request(json!({ "canary": 1, "ratePerSecond": 1000 }))).await;
    assert_eq!((ended["status"].as_str().unwrap(), ended["done"].as_i64().unwrap()), ("succeeded", 5), "{ended}");
    for job in &jobs {
        app.wait_for(job, "succeeded").await;
    }
    workers.stop().await;
}

async fn operate(app: &TestApp, request: &serde_json::Value) -> serde_json::Value {
    let (status, mut operation) = app.post(&app.organization.admin, "/v1/admin/jobs/retry", request).await;
    assert_eq!(status, 202, "{operation}");
    let path = format!("/v1/admin/operations/{}", operation["operationId"].as_str().unwrap());
    for _ in 0..500 {
        if operation["status"] != "running" && operation["status"] != "canary" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        operation = app.get(&app.organization.admin, &path).await.1;
    }
    operation
}

#[tokio::test]
async fn a_job_that_would_miss_its_deadline_is_not_tried_again() {
    let scripted = Scripted::new();
    let text = workflow("hurried", "none").replace("ordering", "deadline = \"1m\"\nordering");
    let setup = Setup {
        handlers: vec![("test.scripted", Arc::clone(&scripted) as _)],
        workflows: vec![("hurried", text)],
        ..Setup::default()
    };
    let app = TestApp::with(setup).await;
    scripted.script("first", &[Act::RetryAfter(Duration::from_mins(2))]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "hurried", None).await.job.to_string();
    let view = app.wait_for(&job, "failed").await;
    assert_eq!(view["error"]["code"], "test_away");
    assert_eq!(scripted.runs_of("first"), 1);
    workers.stop().await;
}

#[tokio::test]
async fn a_shutdown_hands_jobs_back_without_counting_an_attempt() {
    let (app, scripted) = scripted_app().await;
    scripted.script("first", &[Act::Slow(Duration::from_millis(400))]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    app.wait_for(&job, "running").await;
    workers.stop().await;
    // The running step finished; the next one was handed back.
    assert_eq!(app.count("select count(*) from queue where state = 'ready' and step = 1 and attempts = 0").await, 1);
    let workers = app.workers_with(EngineOptions { poll: Duration::from_millis(20), ..EngineOptions::default() });
    let view = app.wait_for(&job, "succeeded").await;
    assert_eq!(step_of(&view, "kept")["attempts"], 1);
    assert_eq!(scripted.runs_of("first"), 1);
    workers.stop().await;
}

#[tokio::test]
async fn a_head_that_is_stuck_in_backoff_steps_aside_and_keeps_retrying() {
    let (app, scripted) = scripted_app().await;
    scripted.script("first", &[Act::RetryAfter(Duration::from_hours(1))]);
    let options = EngineOptions {
        lane_hold_max: Duration::from_mins(15),
        lease: Duration::from_secs(2),
        poll: Duration::from_millis(20),
        ..EngineOptions::default()
    };
    let workers = app.workers_with(options);
    let head = submit(&app, app.organization.id, "in-order", None).await.job.to_string();
    app.wait_for(&head, "retrying").await;
    let behind = submit(&app, app.organization.id, "in-order", None).await.job.to_string();
    assert_eq!(app.job(&behind).await["message"], "Waiting for an earlier job of the same lane.");
    app.advance(Duration::from_secs(901)).await;
    app.wait_for(&behind, "succeeded").await;
    assert_eq!(app.job(&head).await["status"], "retrying");
    let (_, timeline) = app.get(&app.platform, &format!("/v1/ingestion/jobs/{head}/timeline")).await;
    assert!(timeline["entries"].as_array().unwrap().iter().any(|entry| entry["event"] == "job.stepped_aside"));
    app.advance(Duration::from_hours(1)).await;
    app.wait_for(&head, "succeeded").await;
    workers.stop().await;
}

#[tokio::test]
async fn a_step_of_a_cancelled_job_is_given_up() {
    let (app, scripted) = scripted_app().await;
    scripted.script("first", &[Act::Slow(Duration::from_secs(4))]);
    let lease = Duration::from_secs(2);
    let workers =
        app.workers_with(EngineOptions { poll: Duration::from_millis(20), lease, ..EngineOptions::default() });
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    app.wait_for(&job, "running").await;
    let (status, _) = app.post(&app.platform, &format!("/v1/ingestion/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!(status, 200);
    let begun = std::time::Instant::now();
    while workers.workers.in_flight() > 0 {
        assert!(begun.elapsed() < Duration::from_millis(3500), "the step goes on for nobody");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(app.job(&job).await["status"], "cancelled");
    workers.stop().await;
}
