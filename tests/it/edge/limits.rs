//! Rates, depth of the queue, memory for bodies: each is refused with its code and a `Retry-After`, and nothing is lost.

use super::PATIENCE;
use crate::http::{Answer, FHIR, call, get, gzip, post_bundle, small};
use crate::support::app::{Setup, TestApp};
use axum::body::Body;
use axum::http::Request;
use chartgate::config::LimitsConfig;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tower::ServiceExt as _;

async fn app_with(limits: impl FnOnce(&mut LimitsConfig) + Send + 'static) -> TestApp {
    TestApp::with(Setup { limits: Box::new(limits), ..Setup::default() }).await
}

fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").unwrap_or_else(|| panic!("no Retry-After: {}", answer.status)).parse().unwrap()
}

const JOBS: &str = "/v1/ingestion/jobs";

#[tokio::test]
async fn an_organization_over_its_rate_is_told_so_and_others_are_not_touched() {
    let app = app_with(|limits| (limits.requests_per_second, limits.burst) = (1, 3)).await;
    let other = app.organization("Other Hospital").await;
    let (sender, reader) = (app.organization.sender.clone(), app.organization.reader.clone());
    let mut refused = None;
    for number in 0..20 {
        // Another key and a made-up address are still the same organization.
        let (key, forged) = if number % 2 == 0 { (&sender, "192.0.2.1") } else { (&reader, "192.0.2.2") };
        let answer = call(&app, Method::GET, JOBS, key, &[("x-forwarded-for", forged)], "").await;
        assert_eq!(answer.header("ratelimit-policy"), Some("\"organization\";q=3;w=3"), "{}", answer.status);
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        assert!(answer.header("ratelimit").unwrap().starts_with("\"organization\";r="));
    }
    let refused = refused.expect("twenty requests at once are too many");
    refused.problem(429, "rate_limited");
    assert_eq!((retry_after(&refused), refused.header("ratelimit")), (1, Some("\"organization\";r=0;t=1")));
    assert_eq!(get(&app, &other.sender, JOBS).await.status, 200);
    // The platform's keys belong to nobody whom a rate could be set for; routes without a key have none.
    for _ in 0..5 {
        assert_eq!(get(&app, &app.platform, "/v1/admin/organizations").await.header("ratelimit"), None);
        assert_eq!(get(&app, "", "/health/live").await.status, 200);
    }
}

#[tokio::test]
async fn the_platform_sets_an_organizations_own_rate_and_its_administrator_cannot() {
    let app = TestApp::start().await;
    let path = format!("/v1/admin/organizations/{}/settings", app.organization.id);
    let put = |key: String, settings: Value| {
        let (app, path) = (&app, path.clone());
        async move {
            call(app, Method::PUT, &path, &key, &[("content-type", "application/json")], settings.to_string()).await
        }
    };
    let (platform, admin) = (app.platform.clone(), app.organization.admin.clone());
    assert_eq!(get(&app, &app.organization.sender, JOBS).await.header("ratelimit"), None);
    let rate = json!({"requestsPerSecond": 2, "burst": 1000});
    let set = put(platform.clone(), json!({"rateLimit": rate})).await;
    assert_eq!((set.status, &set.json()["rateLimit"]), (200, &rate));
    let started = Instant::now();
    while get(&app, &app.organization.sender, JOBS).await.header("ratelimit-policy")
        != Some("\"organization\";q=1000;w=500")
    {
        assert!(started.elapsed() < PATIENCE, "a new rate is in force within seconds");
        tokio::task::yield_now().await;
    }
    put(admin.clone(), json!({"rateLimit": {"requestsPerSecond": 1000}})).await.problem(403, "forbidden");
    // Left out, or sent back as it came, it stays.
    for settings in [json!({"timeZone": "Europe/Berlin"}), json!({"rateLimit": rate})] {
        let kept = put(admin.clone(), settings).await;
        assert_eq!((kept.status, &kept.json()["rateLimit"]), (200, &rate));
    }
    for bad in [
        json!({"requestsPerSecond": 0}),
        json!({"requestsPerSecond": 1, "burst": 0}),
        json!({"requestsPerSecond": 1_000_001}),
        json!({"requestsPerSecond": -1}),
        json!({"burst": 1}),
        json!([1, 2]),
    ] {
        put(platform.clone(), json!({"rateLimit": bad})).await.problem(400, "invalid_request");
    }
    let cleared = put(platform, json!({})).await;
    assert_eq!((cleared.status, &cleared.json()["rateLimit"]), (200, &Value::Null));
}

#[tokio::test]
async fn an_address_that_fails_to_authenticate_too_often_is_held_off_and_good_keys_there_are_not() {
    let app = app_with(|limits| limits.failed_authentications_per_minute = 5).await;
    let fail = |number: usize| {
        let app = &app;
        async move { call(app, Method::GET, JOBS, "cgk_x", &[("x-forwarded-for", &format!("192.0.2.{number}"))], "").await }
    };
    for number in 0..5 {
        fail(number).await.problem(401, "unauthenticated");
    }
    for number in 5..10 {
        let answer = fail(number).await;
        answer.problem(429, "rate_limited");
        assert!((1..=12).contains(&retry_after(&answer)));
    }
    assert_eq!(get(&app, &app.organization.sender, JOBS).await.status, 200);
    let denied = app.count("select count(*) from audit_records where event = 'access.denied'").await;
    assert!((1..=5).contains(&denied), "a flood does not fill the audit log: {denied}");
}

async fn event(app: &TestApp, number: usize) -> Answer {
    let body = json!({"athena_patient_id": number.to_string(), "event_type": "lab", "payload": {"n": number}});
    let media_type = [("content-type", "application/json")];
    call(app, Method::POST, "/ingest/athena", &app.organization.sender, &media_type, body.to_string()).await
}

async fn upload(app: &TestApp, key: &str) -> Answer {
    call(app, Method::POST, "/v1/ingestion/upload-url", key, &[], "").await
}

#[tokio::test]
async fn a_full_queue_refuses_uploads_first_and_takes_all_again_when_it_has_drained() {
    let app = app_with(|limits| limits.queue_organization = 10).await;
    let other = app.organization("Other Hospital").await;
    app.app.limits.sample(&app.app.db).await;
    for number in 0..8 {
        assert_eq!(upload(&app, &app.organization.sender).await.status, 200, "{number}");
        assert_eq!(event(&app, number).await.status, 202, "{number}");
    }
    app.app.limits.sample(&app.app.db).await;
    upload(&app, &app.organization.sender).await.problem(429, "organization_queue_full");
    assert_eq!(upload(&app, &other.sender).await.status, 200);
    let mut number = 8;
    while event(&app, number).await.status == 202 {
        number += 1;
        assert!(number <= 10, "more than the queue holds were taken");
    }
    let full = event(&app, 11).await;
    full.problem(429, "organization_queue_full");
    assert_eq!(retry_after(&full), 60, "nothing drains");
    post_bundle(&app, &[FHIR], small(1)).await.problem(429, "organization_queue_full");
    // What records nothing is not refused.
    let checked = call(
        &app,
        Method::POST,
        "/v1/ingestion/fhir/Bundle?validateOnly=true",
        &app.organization.sender,
        &[FHIR],
        small(1),
    );
    assert_eq!(checked.await.status, 200);
    let workers = app.workers();
    app.run_until_idle().await;
    let started = Instant::now();
    while event(&app, 12).await.status != 202 {
        assert!(started.elapsed() < PATIENCE, "the queue is empty");
        tokio::task::yield_now().await;
    }
    workers.stop().await;
    assert_eq!(
        app.count("select count(*) from jobs where source = 'athena' and status = 'queued'").await
            + app.count("select count(*) from jobs where source = 'athena' and finished_at is not null").await,
        i64::try_from(number).unwrap() + 1
    );
    // What the workers ended is persisted with their last report: the drain rate comes from it.
    assert!(app.count("select sum(jobs_ended)::bigint from workers").await >= i64::try_from(number).unwrap());
}

#[tokio::test]
async fn the_whole_queue_has_its_mark_too_and_batches_count_by_their_events() {
    let app = app_with(|limits| (limits.queue_organization, limits.queue_total) = (0, 20)).await;
    app.app.limits.sample(&app.app.db).await;
    let events: Vec<Value> = (0..20)
        .map(|number| json!({"athena_patient_id": number.to_string(), "event_type": "lab", "payload": {"n": number}}))
        .collect();
    let (status, _) = app.post(&app.organization.sender, "/ingest/athena/batch", &json!(events)).await;
    assert_eq!(status, 202);
    let full = event(&app, 100).await;
    full.problem(503, "queue_full");
    assert!(retry_after(&full) >= 1);
    let other = app.organization("Other Hospital").await;
    upload(&app, &other.sender).await.problem(503, "queue_full");
}

#[tokio::test]
async fn bodies_wait_shortly_for_memory_and_are_then_refused() {
    let app = app_with(|limits| limits.body_bytes_total = 32 << 20).await;
    let held = app.app.limits.bodies.share();
    held.cover(app.app.limits.bodies.free()).await.unwrap();
    for body in [small(1), gzip(&small(1))] {
        let encoding = if body[0] == 0x1f { "gzip" } else { "identity" };
        let answer = post_bundle(&app, &[FHIR, ("content-encoding", encoding)], body).await;
        answer.problem(503, "overloaded");
        assert_eq!(retry_after(&answer), 2);
    }
    let mut waiting = tokio::spawn({
        let request = app.client.post(format!("{}/v1/ingestion/fhir/Bundle", app.url)).body(small(1));
        request.bearer_auth(&app.organization.sender).header(FHIR.0, FHIR.1).send()
    });
    // Neither refused nor taken: it waits.
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut waiting).await.is_err());
    drop(held);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 202);
    let started = Instant::now();
    while app.app.limits.bodies.free() != 32 << 20 {
        assert!(started.elapsed() < PATIENCE, "memory was not given back");
        tokio::task::yield_now().await;
    }
}

/// A Bundle of that size: white space around it is part of its bytes.
fn padded(bytes: usize) -> Vec<u8> {
    let mut body = small(1);
    body.resize(bytes, b' ');
    body
}

#[tokio::test]
async fn the_budget_stays_with_a_body_whose_sender_hung_up_until_it_is_committed() {
    const SIZE: usize = 4 << 20;
    let app = app_with(|limits| limits.body_bytes_total = 32 << 20).await;
    let all = app.app.limits.bodies.free();
    let mut owner = app.owner().await;
    // Commits stand still.
    sqlx::raw_sql("begin; lock table payloads in access exclusive mode").execute(&mut owner).await.unwrap();
    let request = Request::post("/v1/ingestion/fhir/Bundle")
        .header("authorization", format!("Bearer {}", app.organization.sender))
        .header(FHIR.0, FHIR.1)
        .body(Body::from(padded(SIZE)))
        .unwrap();
    let asking = tokio::spawn(chartgate::http::router(Arc::clone(&app.app), axum::Router::new()).oneshot(request));
    let waits = "select count(*) from pg_locks where not granted and relation = 'payloads'::regclass";
    let started = Instant::now();
    while app.count(waits).await == 0 {
        assert!(started.elapsed() < PATIENCE, "the commit stands before the lock");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    assert!(all - app.app.limits.bodies.free() >= SIZE as u64, "the body is still in memory");
    sqlx::raw_sql("rollback").execute(&mut owner).await.unwrap();
    let started = Instant::now();
    while app.app.limits.bodies.free() != all {
        assert!(started.elapsed() < PATIENCE, "memory was not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(app.count("select count(*) from jobs").await, 1, "what was begun is taken");
}

#[tokio::test]
async fn a_large_payload_that_is_not_stored_yet_is_read_out_of_the_budget() {
    let app = TestApp::start().await;
    let accepted = post_bundle(&app, &[FHIR], padded(1 << 20)).await.json();
    let path = format!("/v1/payloads/{}", accepted["sha256"].as_str().unwrap());
    let held = app.app.limits.bodies.share();
    held.cover(app.app.limits.bodies.free()).await.unwrap();
    get(&app, &app.organization.reader, &path).await.problem(503, "overloaded");
    drop(held);
    assert_eq!(get(&app, &app.organization.reader, &path).await.body, padded(1 << 20));
    // Once it is in object storage, it comes as a stream, and takes nothing of the budget.
    let workers = app.workers();
    app.run_until_idle().await;
    workers.stop().await;
    let held = app.app.limits.bodies.share();
    held.cover(app.app.limits.bodies.free()).await.unwrap();
    assert_eq!(get(&app, &app.organization.reader, &path).await.body, padded(1 << 20));
}

#[tokio::test]
async fn validations_are_computed_a_few_at_once() {
    let app = app_with(|limits| limits.validations = 2).await;
    let path = "/v1/ingestion/fhir/Bundle?validateOnly=true";
    let validate = || call(&app, Method::POST, path, &app.organization.sender, &[FHIR], small(1));
    assert_eq!(validate().await.status, 200);
    let held = Arc::clone(&app.app.limits.validations).acquire_many_owned(2).await.unwrap();
    let answer = validate().await;
    answer.problem(503, "overloaded");
    assert_eq!(retry_after(&answer), 2);
    assert_eq!(post_bundle(&app, &[FHIR], small(1)).await.status, 202, "submissions go on");
    drop(held);
    assert_eq!(validate().await.status, 200);
}

#[tokio::test]
async fn a_pool_without_a_free_connection_is_a_503_with_retry_after() {
    let app = TestApp::with(Setup { connections: 2, ..Setup::default() }).await;
    // The key is known before.
    assert_eq!(get(&app, &app.organization.sender, JOBS).await.status, 200);
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(app.app.db.pool().acquire().await.unwrap());
    }
    let answer = get(&app, &app.organization.sender, JOBS).await;
    answer.problem(503, "database_unavailable");
    assert!(retry_after(&answer) >= 1);
    drop(held);
    assert_eq!(get(&app, &app.organization.sender, JOBS).await.status, 200);
}

#[tokio::test]
async fn what_limits_refused_is_counted() {
    let app = app_with(|limits| (limits.requests_per_second, limits.burst) = (1, 1)).await;
    let counted = || async {
        let text = String::from_utf8(get(&app, "", "/metrics").await.body).unwrap();
        let line =
            text.lines().find(|line| line.starts_with(r#"chartgate_requests_limited_total{code="rate_limited"}"#));
        line.unwrap().rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let before = counted().await;
    let started = Instant::now();
    while get(&app, &app.organization.sender, JOBS).await.status != 429 {
        assert!(started.elapsed() < Duration::from_secs(20), "requests in a row are more than one a second");
    }
    assert!(counted().await > before);
}
