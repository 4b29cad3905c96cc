//! `/metrics` and `/ingest/health`. Counters are the process's, and other tests run in it too: only growth is told.

use super::{FHIR, call, get, post_bundle, small};
use crate::support::app::{TestApp, job_of};
use chartgate::ingest::fhir::sample;
use chartgate::telemetry::metrics::{Kind, METRICS};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use std::collections::BTreeMap;

/// Series (name and labels as written) → value; every line is parsed.
async fn scrape(app: &TestApp) -> BTreeMap<String, f64> {
    let answer = get(app, "", "/metrics").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    let text = String::from_utf8(answer.body).unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        })
        .collect()
}

fn growth(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, series: &str) -> f64 {
    let value = after.get(series).unwrap_or_else(|| panic!("{series} is missing: {:#?}", after.keys()));
    value - before.get(series).unwrap_or(&0.0)
}

#[tokio::test]
async fn what_a_job_does_from_its_post_to_a_read_is_counted() {
    let app = TestApp::start().await;
    let workers = app.workers();
    let before = scrape(&app).await;
    let job = job_of(&post_bundle(&app, &[FHIR], small(1)).await.json());
    assert_eq!(post_bundle(&app, &[FHIR], small(1)).await.json()["duplicate"], true);
    post_bundle(&app, &[FHIR], "{").await.problem(400, "invalid_json");
    app.wait_for(&job, "succeeded").await;
    let invalid = super::with_member("birthDate", &json!("1950-02-30"));
    let invalid = job_of(&post_bundle(&app, &[FHIR], invalid.to_string()).await.json());
    app.wait_for(&invalid, "succeeded_with_issues").await;
    let refused = json!({"resourceType": "Bundle", "type": "transaction", "entry": [{"resource": {"resourceType": "Patient", "x": 1}}]});
    let refused = job_of(&post_bundle(&app, &[FHIR], refused.to_string()).await.json());
    app.wait_for(&refused, "failed").await;
    for mrn in [sample::mrn(1, 0).as_str(), "nobody"] {
        assert_eq!(get(&app, &app.organization.reader, &format!("/ingest/clinical/{mrn}")).await.status, 200);
    }
    let event = |payload: i32, at: &str| json!({"athena_patient_id": "7", "event_type": "lab", "payload": {"n": payload}, "captured_at": at});
    let (monday, tuesday) = ("2026-01-05T00:00:00Z", "2026-01-06T00:00:00Z");
    for (events, status) in [
        (json!({"events": [event(1, monday), event(1, tuesday), event(2, monday), {}]}), 202),
        (json!([event(1, monday)]), 202),
        (json!({"events": []}), 400),
    ] {
        let (answered, text) = app.post(&app.organization.sender, "/ingest/athena/batch", &events).await;
        assert_eq!(answered, status, "{text}");
    }
    assert_eq!(app.post(&app.organization.sender, "/ingest/athena", &event(3, monday)).await.0, 202);
    assert_eq!(app.post(&app.organization.sender, "/ingest/athena", &json!({})).await.0, 400);
    call(&app, Method::from_bytes(b"BREW").unwrap(), "/no/such/route", "", &[], "").await.problem(404, "not_found");
    workers.stop().await;
    let after = scrape(&app).await;
    for (series, least) in [
        (r#"chartgate_intake_accepted_total{source="webhook"}"#, 3.0),
        (r#"chartgate_intake_duplicates_total{source="webhook"}"#, 1.0),
        (r#"chartgate_intake_rejected_total{code="invalid_json",source="webhook"}"#, 1.0),
        (r#"chartgate_intake_duration_seconds_count{source="webhook"}"#, 4.0),
        (r#"chartgate_intake_accepted_total{source="athena"}"#, 3.0),
        (r#"chartgate_intake_duplicates_total{source="athena"}"#, 2.0),
        ("chartgate_intake_sightings_total", 1.0),
        (r#"chartgate_intake_rejected_total{code="invalid_event",source="athena"}"#, 3.0),
        (r#"chartgate_intake_duration_seconds_count{source="athena"}"#, 3.0),
        (r#"chartgate_jobs_ended_total{status="succeeded",workflow="fhir-bundle"}"#, 1.0),
        (r#"chartgate_jobs_ended_total{status="succeeded_with_issues",workflow="fhir-bundle"}"#, 1.0),
        (r#"chartgate_jobs_ended_total{status="failed",workflow="fhir-bundle"}"#, 1.0),
        (r#"chartgate_job_lag_seconds_count{workflow="fhir-bundle"}"#, 3.0),
        (r#"chartgate_step_duration_seconds_count{outcome="succeeded",step="audit",workflow="fhir-bundle"}"#, 3.0),
        (r#"chartgate_step_duration_seconds_count{outcome="failed",step="validate",workflow="fhir-bundle"}"#, 1.0),
        (
            r#"chartgate_steps_failed_total{class="sender",code="validation_failed",step="validate",workflow="fhir-bundle"}"#,
            1.0,
        ),
        (r#"chartgate_clinical_fetches_total{status="found"}"#, 1.0),
        (r#"chartgate_clinical_fetches_total{status="not_found"}"#, 1.0),
        (r#"chartgate_clinical_fetch_duration_seconds_count{status="found"}"#, 1.0),
        (
            r#"chartgate_http_request_duration_seconds_count{method="GET",route="/ingest/clinical/{mrn}",status="2xx"}"#,
            2.0,
        ),
        (r#"chartgate_http_request_duration_seconds_count{method="other",route="(none)",status="4xx"}"#, 1.0),
    ] {
        let grown = growth(&before, &after, series);
        assert!(grown >= least, "{series} grew by {grown}");
    }
    // Whatever ran in this process: no series but the described ones, no label of anybody's.
    for series in after.keys() {
        let name = series.split('{').next().unwrap();
        let described = METRICS.iter().any(|metric| match metric.kind {
            Kind::Counter | Kind::Gauge => name == metric.name,
            Kind::Histogram(_) => {
                name.strip_prefix(metric.name).is_some_and(|rest| ["_bucket", "_sum", "_count"].contains(&rest))
            }
        });
        assert!(described, "{series}");
        for secret in [sample::mrn(1, 0), job.clone(), app.organization.id.to_string(), "nobody".to_owned()] {
            assert!(!series.contains(&secret), "{series}");
        }
    }
}

#[tokio::test]
async fn health_for_senders_says_what_is_usable() {
    let app = TestApp::start().await;
    let health = get(&app, "", "/ingest/health").await;
    let body = health.json();
    assert_eq!((health.status, health.header("cache-control")), (200, Some("no-store")));
    for (member, value) in [
        ("status", "healthy"),
        ("service", "chartgate"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("database", "healthy"),
        ("object_store", "healthy"),
    ] {
        assert_eq!(body[member], value);
    }
    let format = &time::format_description::well_known::Rfc3339;
    assert!(time::OffsetDateTime::parse(body["timestamp"].as_str().unwrap(), format).is_ok());
}

#[tokio::test]
async fn health_for_senders_is_unhealthy_while_the_database_is_away() {
    let app = TestApp::start().await;
    let name = app.owner_options.get_database().unwrap().to_owned();
    let mut elsewhere = PgConnection::connect_with(&app.owner_options.clone().database("postgres")).await.unwrap();
    for statement in [
        format!("alter database {name} allow_connections false"),
        format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut elsewhere).await.unwrap();
    }
    let health = get(&app, "", "/ingest/health").await;
    let body = health.json();
    assert_eq!(
        (health.status, &body["status"], &body["database"], &body["object_store"]),
        (503, &json!("unhealthy"), &json!("unhealthy"), &json!("healthy"))
    );
}
