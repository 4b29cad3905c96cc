//! Purges and legal holds over HTTP: what readers and senders are told afterwards, and what forbids it.

mod patient;
mod retention;

use crate::bulk::{Bulk, Order, gzip};
use crate::http::{BUNDLE, call, get, sha256, small};
use crate::support::app::{TestApp, job_of};
use chartgate::audit::Actor;
use chartgate::ingest::erasure::Eraser;
use chartgate::ingest::fhir::sample;
use chartgate::ingest::linking::acts::By;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

async fn purge_what(app: &TestApp, what: &Value) -> (u16, Value) {
    app.post(&app.organization.admin, "/v1/admin/purge", what).await
}

async fn purge(app: &TestApp, payload: &str, dry_run: bool) -> (u16, Value) {
    purge_what(app, &json!({"payload": payload, "reason": "sent by mistake", "dryRun": dry_run})).await
}

/// What the sender calls the patient of a small Bundle.
fn patient_id(seed: u64) -> String {
    let bundle: Value = serde_json::from_slice(&small(seed)).unwrap();
    let mut entries = bundle["entry"].as_array().unwrap().iter().map(|entry| &entry["resource"]);
    let patient = entries.find(|resource| resource["resourceType"] == "Patient").unwrap();
    patient["id"].as_str().unwrap().to_owned()
}

/// Work until nothing waits.
async fn run_all(app: &TestApp) {
    let workers = app.workers();
    app.run_until_idle().await;
    workers.stop().await;
}

async fn ingested(app: &TestApp, seed: u64) -> (String, String) {
    let body = small(seed);
    let job = job_of(&app.submit(body.clone()).await.1);
    let workers = app.workers();
    app.wait_for(&job, "succeeded").await;
    workers.stop().await;
    (job, sha256(&body))
}

#[tokio::test]
async fn an_erased_payload_is_gone_for_readers_and_is_not_taken_again() {
    let app = TestApp::start().await;
    let (job, payload) = ingested(&app, 1).await;
    let (other_job, other) = ingested(&app, 2).await;
    let reader = &app.organization.reader;
    let mrn = sample::mrn(1, 0);
    let view = get(&app, reader, &format!("/ingest/clinical/{mrn}")).await.json();
    let finding = view["clinical_data"]["labs"][0]["finding_id"].as_str().unwrap().to_owned();
    let objects = app.app.objects.clone();
    let raw = |payload: &str| format!("raw/{}/{payload}", app.organization.id);
    assert!(objects.head(&raw(&payload)).await.unwrap().is_some());

    let (status, erasure) = purge(&app, &payload, false).await;
    assert_eq!(
        (status, &erasure["status"], &erasure["payload"]),
        (200, &json!("finished"), &json!(payload)),
        "{erasure}"
    );
    assert_eq!(erasure["counts"]["objects"], 1, "{erasure}");
    assert!(objects.head(&raw(&payload)).await.unwrap().is_none());
    get(&app, reader, &format!("/v1/payloads/{payload}")).await.problem(410, "payload_purged");
    get(&app, reader, &format!("/v1/findings/{finding}/evidence")).await.problem(404, "finding_not_found");
    let view = get(&app, reader, &format!("/ingest/clinical/{mrn}")).await.json();
    assert_eq!((&view["status"], &view["event_count"]), (&json!("not_found"), &json!(0)));

    // Sent again: by its bytes, under a key of its own, and under one that others use.
    let headers = [("content-type", "application/fhir+json")];
    let sender = &app.organization.sender;
    for _ in 0..2 {
        call(&app, Method::POST, BUNDLE, sender, &headers, small(1)).await.problem(410, "payload_purged");
    }
    let keyed = [headers[0], ("idempotency-key", "fresh")];
    call(&app, Method::POST, BUNDLE, sender, &keyed, small(1)).await.problem(410, "payload_purged");
    assert_eq!(app.count("select count(*) from jobs").await, 2);
    assert_eq!(app.count("select count(*) from idempotency_keys").await, 2);
    assert_eq!(app.count("select count(*) from queue").await, 0);
    assert_eq!(call(&app, Method::POST, BUNDLE, sender, &keyed, small(3)).await.status, 202, "the key is free");
    // The job tells what it was; doing it again fails with a word that says why.
    assert_eq!(app.job(&job).await["status"], "succeeded");
    let retry = json!({"from": "start", "version": "pinned", "reason": "x"});
    assert_eq!(app.post(&app.organization.admin, &format!("/v1/admin/jobs/{job}/retry"), &retry).await.0, 202);
    let workers = app.workers();
    let failed = app.wait_for(&job, "failed").await;
    workers.stop().await;
    assert_eq!((&failed["error"]["code"], &failed["error"]["class"]), (&json!("payload_purged"), &json!("sender")));

    // Nobody else is touched, and the same call again says the same.
    assert_eq!(app.job(&other_job).await["status"], "succeeded");
    assert_eq!(get(&app, reader, &format!("/v1/payloads/{other}")).await.status, 200);
    let (status, again) = purge(&app, &payload, false).await;
    assert_eq!((status, &again), (200, &erasure));
    assert_eq!(app.count("select count(*) from audit_records where event = 'payload.purged'").await, 1);
    assert_eq!(purge(&app, &"0".repeat(64), false).await.0, 404);
    assert_eq!(purge(&app, &payload.to_uppercase(), false).await.0, 400);
}

#[tokio::test]
async fn a_hold_or_a_job_at_work_forbids_the_purge() {
    let app = TestApp::start().await;
    let (_, payload) = ingested(&app, 1).await;
    let admin = &app.organization.admin;
    let patient = get(&app, &app.organization.reader, &format!("/ingest/clinical/{}", sample::mrn(1, 0))).await.json();
    let patient = patient["patient"]["id"].as_str().unwrap();
    for held in [json!({"payload": payload}), json!({"patient": patient}), json!({"organization": true})] {
        let mut body = held.clone();
        body["reason"] = json!("litigation");
        let (status, hold) = app.post(admin, "/v1/admin/holds", &body).await;
        assert_eq!(status, 201, "{hold}");
        for dry_run in [true, false] {
            let (status, refused) = purge(&app, &payload, dry_run).await;
            assert_eq!((status, &refused["code"]), (409, &json!("legal_hold")), "{held}");
        }
        let path = format!("/v1/admin/holds/{}", hold["holdId"].as_str().unwrap());
        for _ in 0..2 {
            let lifted = call(&app, Method::DELETE, &path, admin, &[], "").await;
            assert_eq!((lifted.status, lifted.json()["liftedAt"].is_string()), (200, true));
        }
    }
    let holds = get(&app, admin, "/v1/admin/holds").await.json();
    assert_eq!(holds["holds"].as_array().map(Vec::len), Some(3));
    for (event, expected) in [("hold.placed", 3), ("hold.lifted", 3)] {
        let records = get(&app, admin, &format!("/v1/admin/audit?event={event}")).await.json();
        assert_eq!(records["records"].as_array().map(Vec::len), Some(expected), "{event}");
    }
    for (body, status) in [
        (json!({"reason": "x"}), 400),
        (json!({"organization": true, "patient": patient, "reason": "x"}), 400),
        (json!({"payload": "abc", "reason": "x"}), 400),
        (json!({"organization": true, "reason": " "}), 400),
    ] {
        assert_eq!(app.post(admin, "/v1/admin/holds", &body).await.0, status, "{body}");
    }

    let waiting = small(2);
    let job = job_of(&app.submit(waiting.clone()).await.1);
    let (status, refused) = purge(&app, &sha256(&waiting), false).await;
    assert_eq!((status, &refused["code"]), (409, &json!("job_not_finished")));
    assert_eq!(app.post(admin, &format!("/v1/ingestion/jobs/{job}/cancel"), &json!({})).await.0, 200);
    assert_eq!(purge(&app, &sha256(&waiting), false).await.0, 200);
    assert_eq!(purge(&app, &payload, true).await.1["counts"]["payloads"], 1);
}

#[tokio::test]
async fn an_erased_athena_event_is_in_no_list_and_in_no_count() {
    let app = TestApp::start().await;
    let sender = &app.organization.sender;
    let event = |pulse: u32| json!({"athena_patient_id": "A-1", "event_type": "vitals", "payload": {"pulse": pulse}});
    let mut payloads = Vec::new();
    for pulse in [60, 61] {
        let body = event(pulse).to_string();
        let headers = [("content-type", "application/json")];
        let taken = call(&app, Method::POST, "/ingest/athena", sender, &headers, body.clone()).await.json();
        payloads.push((sha256(body.as_bytes()), taken["job_id"].as_str().unwrap().to_owned()));
    }
    let workers = app.workers();
    for (_, job) in &payloads {
        app.wait_for(job, "succeeded").await;
    }
    workers.stop().await;
    let (status, erasure) = purge(&app, &payloads[0].0, false).await;
    assert_eq!((status, &erasure["counts"]["athena_events"]), (200, &json!(1)), "{erasure}");
    let reader = &app.organization.reader;
    let list = get(&app, reader, "/ingest/events/A-1").await.json();
    assert_eq!(list["events"].as_array().map(Vec::len), Some(1), "{list}");
    let figures = get(&app, reader, "/ingest/stats").await.json();
    assert_eq!(figures["received"].as_u64().or(figures["total_events"].as_u64()), Some(1), "{figures}");
    // The same event, also with its members in another order.
    let again = r#"{"event_type": "vitals", "payload": {"pulse": 60}, "athena_patient_id": "A-1"}"#;
    for body in [event(60).to_string(), again.to_owned()] {
        let headers = [("content-type", "application/json")];
        call(&app, Method::POST, "/ingest/athena", sender, &headers, body).await.problem(410, "payload_purged");
    }
    // In a batch it is refused by itself.
    let batch = json!({"events": [event(60), event(61), event(62)]});
    let (status, answer) = app.post(sender, "/ingest/athena/batch", &batch).await;
    let results: Vec<(&str, &str)> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["status"].as_str().unwrap(), one["code"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(status, 202, "{answer}");
    assert_eq!(results, [("rejected", "payload_purged"), ("duplicate", ""), ("accepted", "")], "{answer}");
    run_all(&app).await;
    let vitals = get(&app, reader, "/ingest/clinical/A-1").await.json()["clinical_data"]["vitals"].clone();
    assert_eq!(vitals.as_array().map(Vec::len), Some(2), "{vitals}");
}

#[tokio::test]
async fn an_erased_file_leaves_no_object_and_is_refused_when_it_is_uploaded_again() {
    let bulk = Bulk::open().await;
    let lines: String = (0..40)
        .map(|n| json!({"resourceType": "Patient", "id": format!("p{n}"), "gender": "female"}).to_string() + "\n")
        .collect();
    let body = gzip(lines.as_bytes());
    let file = bulk.take_up(&body, "ehr").await;
    let ended = bulk.run(&file, Order::Forwards).await;
    assert_eq!(ended.code(), "none", "{ended:?}");
    bulk.clinic
        .unit(|connection| {
            Box::pin(async move {
                sqlx::query("update jobs set status = 'succeeded', finished_at = chartgate_now()")
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await;
    let objects = &bulk.clinic.objects.objects;
    assert!(!objects.list("", None, 1000).await.unwrap().is_empty());
    let eraser = Eraser::new(bulk.clinic.db.clone(), objects.clone());
    let by = By { actor: Actor::internal("test"), reason: "a test".to_owned() };
    let hash: [u8; 32] = Sha256::digest(&body).into();
    let done = eraser.purge(bulk.clinic.organization, hash, by, Duration::from_mins(1)).await.unwrap();
    assert_eq!((done.status.as_str(), done.counts.get("clinical_events")), ("finished", Some(&40)), "{done:?}");
    let left: Vec<String> = objects.list("", None, 1000).await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(bulk.clinic.count("select count(*) from clinical_events").await, 0);
    let again = bulk.take_up(&body, "ehr").await;
    assert_eq!(bulk.run(&again, Order::Forwards).await.code(), "payload_purged");
    assert!(objects.list("raw/", None, 10).await.unwrap().is_empty(), "nothing is kept of it");
}
