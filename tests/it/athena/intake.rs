//! What a 202 of the gateway says, and what a repetition does.

use super::{BATCH, EVENT, events, post, taken, vitals};
use crate::http::{call, get, sha256};
use crate::support::app::TestApp;
use chartgate::ingest::athena::counts;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashSet;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_in_other_clothes_is_a_duplicate_and_another_value_is_not() {
    let app = TestApp::start().await;
    let first =
        post(&app, EVENT, r#"{"athena_patient_id":"700","event_type":"vitals","payload":{"pulse":72,"bp":"120/80"}}"#)
            .await;
    assert_eq!(first.status, 202);
    let (location, first) = (first.header("location").unwrap().to_owned(), first.json());
    assert_eq!(first["status"], "accepted");
    assert_eq!(location, format!("/v1/ingestion/jobs/{}", first["job_id"].as_str().unwrap()));
    assert!(first["event_id"].as_str().unwrap().starts_with("evt_") && first["message"].is_string());

    let again = post(&app, EVENT, "{\n \"payload\" : {\"bp\":\"120\\/80\", \"pulse\":7.2e1},\n\"event_type\":\"vitals\", \"athena_patient_id\": \"700\"}").await.json();
    assert_eq!(
        (&again["status"], &again["event_id"], &again["job_id"]),
        (&json!("duplicate"), &first["event_id"], &first["job_id"])
    );
    let other = taken(&app, &vitals("700", 73)).await;
    assert_eq!(other["status"], "accepted");
    assert_ne!(other["event_id"], first["event_id"]);
    // Another patient, another organization: other events.
    assert_eq!(taken(&app, &vitals("701", 72)).await["status"], "accepted");
    let foreign = app.organization("Elsewhere").await;
    let theirs = call(
        &app,
        Method::POST,
        EVENT,
        &foreign.sender,
        &[("content-type", "application/json")],
        vitals("700", 72).to_string(),
    );
    assert_eq!(theirs.await.json()["status"], "accepted");
    assert_eq!(app.count("select count(*) from jobs where source = 'athena'").await, 4);
    assert_eq!(events(&app, "700").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_captured_at_another_time_is_a_sighting_with_a_job_of_its_own() {
    let app = TestApp::start().await;
    let at = |captured: Value| {
        let mut event = vitals("710", 80);
        event["captured_at"] = captured;
        event
    };
    let first = taken(&app, &at(json!("2026-03-01T10:00:00Z"))).await;
    // The same instant, or none: nothing new.
    for same in [json!("2026-03-01T10:00:00Z"), json!("2026-03-01T05:00:00.000-05:00"), Value::Null] {
        let again = taken(&app, &at(same)).await;
        assert_eq!((&again["status"], &again["job_id"]), (&json!("duplicate"), &first["job_id"]), "{again}");
    }
    let week_later = taken(&app, &at(json!("2026-03-08T10:00:00Z"))).await;
    assert_eq!((&week_later["status"], &week_later["event_id"]), (&json!("duplicate"), &first["event_id"]));
    assert_ne!(week_later["job_id"], first["job_id"]);
    // Its repetition finds it, also what cannot be read as a time.
    assert_eq!(taken(&app, &at(json!("2026-03-08T11:00:00+01:00"))).await["job_id"], week_later["job_id"]);
    let unreadable = taken(&app, &at(json!("last week"))).await;
    assert_eq!(taken(&app, &at(json!("last week"))).await["job_id"], unreadable["job_id"]);

    let listed = events(&app, "710").await;
    assert_eq!(listed.len(), 1);
    let captured: Vec<&str> =
        listed[0]["sightings"].as_array().unwrap().iter().map(|one| one["captured_at"].as_str().unwrap()).collect();
    assert_eq!(captured, ["2026-03-01T10:00:00Z", "2026-03-08T10:00:00Z", "last week"]);
    assert_eq!(app.count("select count(*) from jobs where source = 'athena'").await, 3);
    let stats = get(&app, &app.organization.reader, "/ingest/stats").await.json();
    assert_eq!(
        (&stats["total_events"], &stats["total_sightings"], &stats["total_duplicates"]),
        (&json!(1), &json!(2), &json!(5))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_posted_64_times_at_once_makes_one_job() {
    let app = TestApp::start().await;
    let event = vitals("720", 64);
    let answers = futures::future::join_all((0..64).map(|_| taken(&app, &event))).await;
    let jobs: HashSet<&str> = answers.iter().map(|answer| answer["job_id"].as_str().unwrap()).collect();
    let ids: HashSet<&str> = answers.iter().map(|answer| answer["event_id"].as_str().unwrap()).collect();
    assert_eq!((jobs.len(), ids.len()), (1, 1));
    assert_eq!(answers.iter().filter(|answer| answer["status"] == "accepted").count(), 1);
    // A restart in between changes nothing.
    let app = app.rebuilt(Vec::new()).await;
    let again = taken(&app, &event).await;
    assert_eq!((&again["status"], &again["event_id"]), (&json!("duplicate"), &answers[0]["event_id"]));
    assert_eq!(app.count("select count(*) from jobs").await, 1);
    assert_eq!(app.count("select count(*) from athena_events").await, 1);
    // 64 sightings at another time at once: one more job.
    let mut later = event.clone();
    later["captured_at"] = json!("2026-04-01T00:00:00Z");
    let answers = futures::future::join_all((0..64).map(|_| taken(&app, &later))).await;
    let jobs: HashSet<&str> = answers.iter().map(|answer| answer["job_id"].as_str().unwrap()).collect();
    assert_eq!(jobs.len(), 1);
    assert_eq!(app.count("select count(*) from jobs").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exact_bytes_of_an_event_are_kept() {
    let app = TestApp::start().await;
    let body = "  {\"athena_patient_id\" : 730,\"event_type\":\"note\", \"extra\":[1,2],\"payload\":{\"text\":\"gr\\u00fc\\u00df\"}}\n";
    let answer = post(&app, EVENT, body).await.json();
    let listed = events(&app, "730").await;
    assert_eq!(listed[0]["event_id"], answer["event_id"]);
    let hash = sha256(body.as_bytes());
    assert_eq!(listed[0]["payload_sha256"].as_str(), Some(hash.as_str()));
    let kept = get(&app, &app.organization.reader, &format!("/v1/payloads/{hash}")).await;
    assert_eq!(String::from_utf8(kept.body).unwrap(), body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_event_is_refused_by_the_name_of_its_member_and_nothing_is_recorded() {
    let app = TestApp::start().await;
    for (body, code, pointer) in [
        ("", "empty_body", None),
        ("{", "invalid_json", None),
        ("7", "invalid_event", None),
        (r#"{"event_type":"lab","payload":{}}"#, "invalid_event", Some("/athena_patient_id")),
        (r#"{"athena_patient_id":{},"event_type":"lab","payload":{}}"#, "invalid_event", Some("/athena_patient_id")),
        (r#"{"athena_patient_id":"1","payload":{}}"#, "invalid_event", Some("/event_type")),
        (r#"{"athena_patient_id":"1","event_type":"lab"}"#, "invalid_event", Some("/payload")),
        (r#"{"athena_patient_id":"1","event_type":"lab","payload":{"a":1,"a":2}}"#, "duplicate_key", None),
        (r#"{"athena_patient_id":"1","event_type":"lab","payload":{"a":"\ud800"}}"#, "invalid_string", None),
    ] {
        let problem = post(&app, EVENT, body).await.problem(400, code);
        assert_eq!(problem["pointer"].as_str(), pointer, "{body}");
    }
    call(&app, Method::POST, EVENT, &app.organization.sender, &[("content-type", "text/plain")], "{}")
        .await
        .problem(415, "unsupported_media_type");
    let large = json!({"athena_patient_id": "1", "event_type": "lab", "payload": {"x": "y".repeat(5 << 20)}});
    post(&app, EVENT, large.to_string()).await.problem(413, "payload_too_large");
    assert_eq!(app.count("select count(*) from jobs").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_of_a_batch_has_its_own_answer_and_its_own_bytes() {
    let app = TestApp::start().await;
    let known = taken(&app, &vitals("740", 60)).await;
    let batch = json!({"events": [
        vitals("740", 61), vitals("740", 60), {"athena_patient_id": "740"}, vitals("741", 62), vitals("740", 61), 17,
    ]});
    let answer = post(&app, BATCH, batch.to_string()).await;
    assert_eq!(answer.status, 202);
    let answer = answer.json();
    let statuses: Vec<&str> =
        answer["results"].as_array().unwrap().iter().map(|one| one["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["accepted", "duplicate", "rejected", "accepted", "duplicate", "rejected"], "{answer:#}");
    assert_eq!((&answer["accepted"], &answer["duplicates"], &answer["rejected"]), (&json!(2), &json!(2), &json!(2)));
    assert_eq!(answer["results"][1]["event_id"], known["event_id"]);
    assert_eq!(answer["results"][4]["event_id"], answer["results"][0]["event_id"]);
    assert_eq!(
        (&answer["results"][2]["code"], &answer["results"][2]["pointer"]),
        (&json!("invalid_event"), &json!("/event_type"))
    );
    // The array itself does as well.
    let array = json!([vitals("742", 1), vitals("742", 2)]).to_string();
    assert_eq!(post(&app, BATCH, array).await.json()["accepted"], 2);
    let bytes = vitals("742", 2).to_string();
    let kept = get(&app, &app.organization.reader, &format!("/v1/payloads/{}", sha256(bytes.as_bytes()))).await;
    assert_eq!(kept.body, bytes.as_bytes());
    for (body, code) in [
        (json!({"events": []}), "invalid_event"),
        (json!({"event": [vitals("1", 1)]}), "invalid_event"),
        (json!({"events": vec![vitals("1", 1); 501]}), "invalid_event"),
    ] {
        post(&app, BATCH, body.to_string()).await.problem(400, code);
    }
    let full: Vec<Value> = (0..500).map(|pulse| vitals(&format!("{}", 1000 + pulse % 7), pulse)).collect();
    let answer = post(&app, BATCH, json!({ "events": full }).to_string()).await.json();
    assert_eq!(answer["accepted"], 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_newest_first_page_by_page_and_by_type() {
    let app = TestApp::start().await;
    let mut posted = Vec::new();
    for pulse in 0..5 {
        posted.push(taken(&app, &vitals("750", pulse)).await["event_id"].clone());
    }
    let note = json!({"athena_patient_id": "750", "event_type": "insurance", "event_subtype": "card", "source_endpoint": "/chart",
                      "captured_at": "soon", "payload": {"x": 1}});
    posted.push(taken(&app, &note).await["event_id"].clone());
    posted.reverse();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(&app, &app.organization.reader, &format!("/ingest/events/750?limit=4{cursor}")).await.json();
        seen.extend(page["events"].as_array().unwrap().iter().map(|event| event["event_id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, posted);
    let of = async |query: &str| {
        let page = get(&app, &app.organization.reader, &format!("/ingest/events/750?{query}")).await.json();
        page["events"].as_array().unwrap().clone()
    };
    assert_eq!(of("event_type=vital_signs").await.len(), 5);
    assert_eq!(of("event_type=lab").await.len(), 0);
    assert_eq!(of("event_type=INSURANCE").await.len(), 1, "large and small letters mean the same");
    let insurance = of("event_type=insurance").await;
    assert_eq!(insurance.len(), 1);
    let shown = &insurance[0];
    assert_eq!(
        (&shown["kind"], &shown["event_subtype"], &shown["source_endpoint"], &shown["captured_at"], &shown["status"]),
        (&json!("other"), &json!("card"), &json!("/chart"), &json!("soon"), &json!("queued"))
    );
    // Of an unknown patient, and of another organization's: none.
    assert!(events(&app, "751").await.is_empty());
    let foreign = app.organization("Elsewhere").await;
    let page = get(&app, &foreign.reader, "/ingest/events/750").await.json();
    assert_eq!(page["events"], json!([]));
    for bad in ["limit=0", "limit=201", "cursor=nothing", "cursor=job_01h455vb4pex5vsknk084sn02q", "type=lab"] {
        get(&app, &app.organization.reader, &format!("/ingest/events/750?{bad}"))
            .await
            .problem(400, "invalid_parameter");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_say_the_same_before_and_after_they_are_folded() {
    let app = TestApp::start().await;
    for pulse in 0..40 {
        taken(&app, &vitals("760", pulse)).await;
        taken(&app, &vitals("760", pulse)).await;
    }
    let note = json!({"athena_patient_id": "760", "event_type": "note", "payload": {"text": "well"}});
    taken(&app, &note).await;
    let stats = async || get(&app, &app.organization.reader, "/ingest/stats").await.json();
    let waiting = stats().await;
    assert!(waiting["lag_seconds"].as_f64().unwrap() >= 0.0);
    let workers = app.workers();
    app.run_until_idle().await;
    workers.stop().await;
    let before = stats().await;
    assert_eq!(before["by_type"], json!({"document": 1, "vital": 40}));
    assert_eq!(before["by_status"], json!({"succeeded": 41}), "{before:#}");
    assert_eq!((&before["total_events"], &before["total_duplicates"]), (&json!(41), &json!(40)));
    assert_eq!(before["lag_seconds"], Value::Null);
    let minutes = before["last_hour"].as_array().unwrap();
    assert_eq!(minutes.len(), 60);
    let sum = |name: &str| minutes.iter().map(|minute| minute[name].as_i64().unwrap()).sum::<i64>();
    assert_eq!((sum("received"), sum("duplicates"), sum("processed"), sum("failed")), (41, 40, 41, 0));
    let rows = "select count(*) from athena_counts";
    let unfolded = app.count(rows).await;
    counts::fold(&app.app.db).await.unwrap();
    assert!(app.count(rows).await < unfolded.min(20), "{unfolded}");
    let after = stats().await;
    assert_eq!(
        (&after["by_type"], &after["by_status"], &after["last_hour"]),
        (&before["by_type"], &before["by_status"], &before["last_hour"])
    );
    // A day later only the sums are left.
    app.advance(std::time::Duration::from_hours(24)).await;
    counts::fold(&app.app.db).await.unwrap();
    let later = stats().await;
    assert_eq!((&later["total_events"], &later["by_status"]), (&before["total_events"], &before["by_status"]));
    assert!(later["last_hour"].as_array().unwrap().iter().all(|minute| minute["received"] == 0));
}
