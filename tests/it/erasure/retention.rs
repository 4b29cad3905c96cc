//! What is over its age goes by itself.

use super::{ingested, patient_id, run_all};
use crate::bulk::{Bulk, Order, gzip};
use crate::clinical::{bundle, condition};
use crate::http::{BUNDLE, call, get, sha256, small};
use crate::support::app::{TestApp, job_of};
use chartgate::config::RetentionConfig;
use chartgate::ingest::erasure::Eraser;
use chartgate::ingest::erasure::retention::Retention;
use chartgate::ingest::fhir::sample;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

fn eraser(app: &TestApp) -> Eraser {
    Eraser::new(app.app.db.clone(), app.app.objects.clone())
}

fn retention(app: &TestApp, jobs: u32, payloads: u32, findings: u32) -> Retention {
    let days = |days: u32| (days > 0).then_some(days);
    let (jobs_days, payloads_days, findings_days) = (days(jobs), days(payloads), days(findings));
    Retention::new(eraser(app), RetentionConfig { jobs_days, payloads_days, findings_days })
}

async fn run(app: &TestApp, job: &str) {
    let workers = app.workers();
    app.wait_for(job, "succeeded").await;
    workers.stop().await;
}

async fn event_count(app: &TestApp, seed: u64) -> Value {
    let path = format!("/ingest/clinical/{}", sample::mrn(seed, 0));
    get(app, &app.organization.reader, &path).await.json()["event_count"].clone()
}

async fn payload_status(app: &TestApp, payload: &str) -> u16 {
    get(app, &app.organization.reader, &format!("/v1/payloads/{payload}")).await.status
}

async fn send_again(app: &TestApp, seed: u64, key: Option<&str>) -> Value {
    let mut headers = vec![("content-type", "application/fhir+json")];
    headers.extend(key.map(|key| ("idempotency-key", key)));
    let answer = call(app, Method::POST, BUNDLE, &app.organization.sender, &headers, small(seed)).await;
    assert_eq!(answer.status, 202);
    answer.json()
}

#[tokio::test]
async fn what_is_over_its_age_goes_and_what_is_younger_held_or_live_stays() {
    let app = TestApp::start().await;
    let (admin, reader) = (&app.organization.admin, &app.organization.reader);
    let (held_job, held) = ingested(&app, 1).await;
    let (job, payload) = ingested(&app, 2).await;
    let (_, of_held_patient) = ingested(&app, 5).await;
    let live = job_of(&app.submit(small(4)).await.1);
    let path = format!("/ingest/clinical/{}", sample::mrn(5, 0));
    let patient = get(&app, reader, &path).await.json()["patient"]["id"].clone();
    let mut holds = Vec::new();
    for hold in [json!({"payload": held, "reason": "x"}), json!({"patient": patient, "reason": "x"})] {
        holds.push(app.post(admin, "/v1/admin/holds", &hold).await.1["holdId"].as_str().unwrap().to_owned());
    }
    let retention = retention(&app, 15, 5, 10);
    assert_eq!(retention.round().await.unwrap(), 0, "all is young");
    app.advance(20 * DAY).await;
    let young = {
        let workers = app.workers();
        let job = job_of(&app.submit(small(3)).await.1);
        app.wait_for(&live, "succeeded").await;
        app.wait_for(&job, "succeeded").await;
        workers.stop().await;
        job
    };
    for one in [&job, &held_job] {
        let job: chartgate::ids::JobId = one.parse().unwrap();
        let sql = "insert into job_traces (organization_id, job_id, round, context) values ($1, $2, 1, decode(repeat('01', 25), 'hex'))";
        sqlx::query(sql).bind(app.organization.id).bind(job).execute(&mut app.owner().await).await.unwrap();
    }
    // Live again, and as old as the others.
    let retry = json!({"from": "start", "version": "pinned", "reason": "x"});
    assert_eq!(app.post(admin, &format!("/v1/admin/jobs/{live}/retry"), &retry).await.0, 202);

    assert_eq!(retention.round().await.unwrap(), 1);
    get(&app, reader, &format!("/v1/payloads/{payload}")).await.problem(410, "payload_expired");
    let raw = format!("raw/{}/{payload}", app.organization.id);
    assert!(app.app.objects.head(&raw).await.unwrap().is_none());
    assert_eq!(event_count(&app, 2).await, 0);
    assert_eq!(app.job(&job).await["status"], "succeeded", "the job goes when nothing is left of what it brought");
    app.advance(Duration::from_hours(7)).await;
    assert_eq!(retention.round().await.unwrap(), 1);
    assert_eq!(get(&app, reader, &format!("/v1/ingestion/jobs/{job}")).await.status, 404);
    assert_eq!(payload_status(&app, &payload).await, 404);
    for (left, expected) in [
        ("select count(*) from jobs", 4),
        ("select count(*) from idempotency_keys", 4),
        ("select count(distinct job_id) from job_steps", 4),
        ("select count(*) from job_traces", 1),
        ("select count(*) from patients", 4),
        ("select count(*) from audit_records where event = 'retention.begun'", 2),
        (
            "select count(*) from audit_records where event = 'retention.applied' and purpose like 'retention of jobs 15 d%'",
            2,
        ),
    ] {
        assert_eq!(app.count(left).await, expected, "{left}");
    }
    // Who was held, young or live has everything.
    for (seed, payload) in [(1, held.as_str()), (5, &of_held_patient), (3, &sha256(&small(3))), (4, &sha256(&small(4)))]
    {
        assert!(event_count(&app, seed).await.as_u64() > Some(0), "{seed}");
        assert_eq!(payload_status(&app, payload).await, 200, "{seed}");
    }
    run(&app, &live).await;
    assert_eq!(app.job(&young).await["status"], "succeeded");

    // A hold that is lifted holds no longer, and a round that finds nothing writes nothing.
    for hold in holds {
        assert_eq!(call(&app, Method::DELETE, &format!("/v1/admin/holds/{hold}"), admin, &[], "").await.status, 200);
    }
    assert_eq!(retention.round().await.unwrap(), 0, "the next round is not due");
    app.advance(Duration::from_hours(7)).await;
    assert_eq!(retention.round().await.unwrap(), 1);
    assert_eq!((event_count(&app, 1).await, event_count(&app, 5).await), (json!(0), json!(0)));
    app.advance(Duration::from_hours(7)).await;
    assert_eq!(retention.round().await.unwrap(), 1);
    assert_eq!(get(&app, reader, &format!("/v1/ingestion/jobs/{held_job}")).await.status, 404);
    app.advance(Duration::from_hours(7)).await;
    assert_eq!(retention.round().await.unwrap(), 0);

    // Nobody remembers these bytes: they may come again.
    let again = send_again(&app, 2, None).await;
    assert_eq!(again["duplicate"], false);
    run(&app, again["jobId"].as_str().unwrap()).await;
    assert!(event_count(&app, 2).await.as_u64() > Some(0));
    assert_eq!(payload_status(&app, &payload).await, 200);
}

#[tokio::test]
async fn bytes_go_and_what_was_taken_from_them_stays() {
    let app = TestApp::start().await;
    let (job, payload) = ingested(&app, 1).await;
    let retention = retention(&app, 0, 5, 0);
    let events = event_count(&app, 1).await;
    app.advance(6 * DAY).await;
    assert_eq!(retention.round().await.unwrap(), 1);
    assert_eq!(payload_status(&app, &payload).await, 410);
    assert_eq!(event_count(&app, 1).await, events);
    assert_eq!(send_again(&app, 1, None).await["jobId"], json!(job), "the key is the job's, which is kept");
    let retry = json!({"from": "start", "version": "pinned", "reason": "x"});
    let path = format!("/v1/admin/jobs/{job}/retry");
    assert_eq!(app.post(&app.organization.admin, &path, &retry).await.0, 202);
    let workers = app.workers();
    let failed = app.wait_for(&job, "failed").await;
    assert_eq!((&failed["error"]["code"], &failed["error"]["class"]), (&json!("payload_expired"), &json!("sender")));
    workers.stop().await;
    // Under another key they come anew, and are young.
    let again = send_again(&app, 1, Some("once-more")).await;
    run(&app, again["jobId"].as_str().unwrap()).await;
    assert_eq!(payload_status(&app, &payload).await, 200);
    assert_eq!(event_count(&app, 1).await, events);
    app.advance(Duration::from_hours(7)).await;
    assert_eq!(retention.round().await.unwrap(), 0);
    assert_eq!(payload_status(&app, &payload).await, 200);
}

#[tokio::test]
async fn what_retention_left_when_it_died_is_finished_and_takes_nothing_that_came_again() {
    let app = TestApp::start().await;
    let (_, payload) = ingested(&app, 1).await;
    let (_, other) = ingested(&app, 2).await;
    app.advance(20 * DAY).await;
    retention(&app, 0, 5, 10).decide(app.organization.id).await.unwrap();
    assert_eq!((payload_status(&app, &payload).await, payload_status(&app, &other).await), (410, 410));
    assert!(app.count("select count(*) from clinical_events").await > 0, "what takes batches waits");
    // Before the rest is done, one of them comes again, and its copy is put where the old one was.
    let again = send_again(&app, 1, Some("once-more")).await;
    run(&app, again["jobId"].as_str().unwrap()).await;
    assert_eq!(eraser(&app).finish_all().await.unwrap(), 1);
    assert_eq!((payload_status(&app, &payload).await, payload_status(&app, &other).await), (200, 410));
    let raw = |payload: &str| format!("raw/{}/{payload}", app.organization.id);
    assert!(app.app.objects.head(&raw(&payload)).await.unwrap().is_some());
    assert!(app.app.objects.head(&raw(&other)).await.unwrap().is_none());
    assert!(event_count(&app, 1).await.as_u64() > Some(0), "its events are the later job's now");
    assert_eq!(event_count(&app, 2).await, 0);
    assert_eq!(app.count("select count(*) from erased_objects").await, 0);
    assert_eq!(app.count("select count(*) from erasures where status <> 'finished'").await, 0);
}

#[tokio::test]
async fn who_somebody_is_stays_known_as_long_as_anything_is_kept_of_them() {
    let app = TestApp::start().await;
    let mrn = sample::mrn(1, 0);
    let view = async || get(&app, &app.organization.reader, &format!("/ingest/clinical/{mrn}")).await.json();
    let (job, _) = ingested(&app, 1).await;
    let patient = view().await["patient"]["id"].clone();
    app.advance(20 * DAY).await;
    let later = bundle("batch", &[condition("later", &format!("Patient/{}", patient_id(1)))]);
    assert_eq!(app.submit(later.to_string()).await.0, 202);
    run_all(&app).await;
    let retention = retention(&app, 15, 10, 10);
    assert_eq!(retention.round().await.unwrap(), 1);
    let now = view().await;
    assert_eq!((&now["patient"]["id"], &now["status"]), (&patient, &json!("found")), "{now}");
    assert_eq!(app.count("select count(*) from clinical_events where resource_type <> 'Patient'").await, 1);
    app.advance(Duration::from_hours(7)).await;
    assert_eq!(retention.round().await.unwrap(), 0, "what is spared is not looked for again and again");
    assert_eq!(app.job(&job).await["status"], "succeeded", "and so does its job");
    app.advance(7 * DAY).await;
    assert_eq!(retention.round().await.unwrap(), 1, "but after a week");
    assert_eq!(view().await["patient"]["id"], patient, "which took nothing");
    app.advance(4 * DAY).await;
    assert_eq!(retention.round().await.unwrap(), 1);
    assert_eq!(app.count("select count(*) from clinical_events where resource_type <> 'Patient'").await, 0);
    assert_eq!(app.count("select count(*) from patients").await, 1, "what was spared four days ago is not looked at");
    app.advance(4 * DAY).await;
    assert_eq!(retention.round().await.unwrap(), 1);
    assert_eq!(app.count("select count(*) from clinical_events").await, 0);
    assert_eq!(app.count("select count(*) from patients").await, 0);
}

#[tokio::test]
async fn an_athena_event_over_its_age_is_new_when_it_comes_again() {
    let app = TestApp::start().await;
    let event = json!({"athena_patient_id": "A-1", "event_type": "vitals", "payload": {"pulse": 60}, "captured_at": "2026-01-31T12:00:00Z"});
    let send = async || app.post(&app.organization.sender, "/ingest/athena", &event).await.1;
    let first = send().await;
    run(&app, first["job_id"].as_str().unwrap()).await;
    let retention = retention(&app, 0, 0, 10);
    app.advance(9 * DAY).await;
    assert_eq!(retention.round().await.unwrap(), 0);
    assert_eq!(send().await["event_id"], first["event_id"]);
    app.advance(2 * DAY).await;
    assert_eq!(retention.round().await.unwrap(), 1);
    let listed = get(&app, &app.organization.reader, "/ingest/events/A-1").await.json();
    assert_eq!(listed["events"].as_array().map(Vec::len), Some(0), "{listed}");
    for empty in
        ["athena_events", "event_sightings", "clinical_events", "findings", "patient_links", "idempotency_keys"]
    {
        let sql = sqlx::AssertSqlSafe(format!("select count(*) from {empty}"));
        let rows: i64 = sqlx::query_scalar(sql).fetch_one(&mut app.owner().await).await.unwrap();
        assert_eq!(rows, 0, "{empty}");
    }
    let again = send().await;
    assert_eq!(again["status"], "accepted", "{again}");
    assert_ne!(again["event_id"], first["event_id"]);
    run(&app, again["job_id"].as_str().unwrap()).await;
    let listed = get(&app, &app.organization.reader, "/ingest/events/A-1").await.json();
    assert_eq!(listed["events"].as_array().map(Vec::len), Some(1), "{listed}");
}

#[tokio::test]
async fn a_file_over_its_age_leaves_no_object_and_is_ingested_when_it_comes_again() {
    let bulk = Bulk::open().await;
    let lines: String = (0..40)
        .map(|n| json!({"resourceType": "Patient", "id": format!("p{n}"), "gender": "female"}).to_string() + "\n")
        .collect();
    let body = gzip(lines.as_bytes());
    let file = bulk.take_up(&body, "ehr").await;
    assert_eq!(bulk.run(&file, Order::Forwards).await.code(), "none");
    let end = "update jobs set status = 'succeeded', finished_at = chartgate_now() where status = 'queued'";
    let older = "insert into clock_offset (offset_us) values (1728000000000)
                 on conflict (single) do update set offset_us = clock_offset.offset_us + excluded.offset_us";
    for sql in [end, older] {
        sqlx::query(sql).execute(&mut bulk.clinic.owner().await).await.unwrap();
    }
    let objects = &bulk.clinic.objects.objects;
    let eraser = Eraser::new(bulk.clinic.db.clone(), objects.clone());
    let config = RetentionConfig { jobs_days: None, payloads_days: Some(10), findings_days: Some(10) };
    assert_eq!(Retention::new(eraser, config).round().await.unwrap(), 1);
    assert_eq!(bulk.clinic.count("select count(*) from clinical_events").await, 0);
    let left: Vec<String> = objects.list("", None, 100).await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert!(
        left.iter().all(|key| key.starts_with("outcomes/")),
        "what became of each line goes with the job: {left:?}"
    );
    let again = bulk.take_up(&body, "ehr").await;
    assert_eq!(bulk.run(&again, Order::Forwards).await.code(), "none");
    assert_eq!(bulk.clinic.count("select count(*) from clinical_events").await, 40);
    assert_eq!(objects.list("raw/", None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_says_who_somebody_is_goes_in_the_round_that_takes_the_last_of_them() {
    let app = TestApp::start().await;
    let first = bundle("batch", &[crate::clinical::patient("a", "1", "1990-01-01")]).to_string();
    let job = job_of(&app.submit(first).await.1);
    run(&app, &job).await;
    let later = bundle("batch", &[condition("later", "Patient/a")]).to_string();
    let job = job_of(&app.submit(later).await.1);
    run(&app, &job).await;
    app.advance(20 * DAY).await;
    // The Patient is looked at first, while the other is there; then once more.
    assert_eq!(retention(&app, 0, 0, 10).round().await.unwrap(), 1);
    assert_eq!(app.count("select count(*) from clinical_events").await, 0);
    assert_eq!(app.count("select count(*) from patients").await, 0);
}

#[tokio::test]
async fn the_bytes_of_who_is_held_stay_also_if_another_job_of_them_ended_before_anybody_knew_whose_they_are() {
    let app = TestApp::start().await;
    let admin = &app.organization.admin;
    let (_, payload) = ingested(&app, 1).await;
    let path = format!("/ingest/clinical/{}", sample::mrn(1, 0));
    let patient = get(&app, &app.organization.reader, &path).await.json()["patient"]["id"].clone();
    let hold = json!({"patient": patient, "reason": "litigation"});
    let (_, hold) = app.post(admin, "/v1/admin/holds", &hold).await;
    let again = send_again(&app, 1, Some("once-more")).await;
    let cancel = format!("/v1/ingestion/jobs/{}/cancel", again["jobId"].as_str().unwrap());
    assert_eq!(app.post(admin, &cancel, &json!({})).await.0, 200);
    let retention = retention(&app, 0, 5, 10);
    app.advance(20 * DAY).await;
    assert_eq!(retention.round().await.unwrap(), 0);
    assert_eq!(payload_status(&app, &payload).await, 200);
    assert!(event_count(&app, 1).await.as_u64() > Some(0));
    let path = format!("/v1/admin/holds/{}", hold["holdId"].as_str().unwrap());
    assert_eq!(call(&app, Method::DELETE, &path, admin, &[], "").await.status, 200);
    app.advance(Duration::from_hours(7)).await;
    assert_eq!(retention.round().await.unwrap(), 1);
    assert_eq!(payload_status(&app, &payload).await, 410);
}
