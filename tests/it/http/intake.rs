//! The 202, the bytes that it promises to keep, and the answers that record nothing.

use super::{Answer, BUNDLE, FHIR, call, get, gzip, post_bundle, sha256, small};
use crate::support::app::{TestApp, job_of, step_of};
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const RECORDED: &str =
    "select (select count(*) from jobs) + (select count(*) from queue) + (select count(*) from payloads)
    + (select count(*) from idempotency_keys)";

fn check_accepted(answer: &Answer, body: &[u8]) -> String {
    let accepted = answer.json();
    assert_eq!(answer.status, 202, "{accepted}");
    let job = job_of(&accepted);
    let path = format!("/v1/ingestion/jobs/{job}");
    assert_eq!(answer.header("location"), Some(path.as_str()));
    assert_eq!(answer.header("content-location"), Some(path.as_str()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let created = OffsetDateTime::parse(accepted["createdAt"].as_str().unwrap(), &Rfc3339).unwrap();
    assert!(created.offset().is_utc());
    assert_eq!(
        accepted,
        json!({
            "jobId": job,
            "status": "accepted",
            "message": "Bundle accepted for processing",
            "resourceCount": {"Patient": 1, "Observation": 2},
            "createdAt": accepted["createdAt"],
            "sha256": sha256(body),
            "sizeBytes": body.len(),
            "duplicate": false,
        })
    );
    job
}

#[tokio::test]
async fn the_202_says_what_was_accepted_and_where_to_follow_it() {
    let app = TestApp::start().await;
    let body = small(1);
    let job = check_accepted(&post_bundle(&app, &[FHIR], body.clone()).await, &body);
    let status = get(&app, &app.organization.sender, &format!("/v1/ingestion/jobs/{job}")).await.json();
    assert_eq!(
        status["payload"],
        json!({"sha256": sha256(&body), "sizeBytes": body.len(), "contentType": "application/fhir+json"})
    );
}

#[tokio::test]
async fn the_content_type_may_be_plain_json_in_any_case_with_parameters() {
    let app = TestApp::start().await;
    for (seed, media_type) in
        ["application/json", "Application/FHIR+JSON; charset=utf-8", "application/fhir+json;fhirVersion=4.0"]
            .into_iter()
            .enumerate()
    {
        let body = small(seed as u64);
        check_accepted(&post_bundle(&app, &[("content-type", media_type)], body.clone()).await, &body);
    }
}

#[tokio::test]
async fn gzip_is_undone_before_anything_is_counted_and_both_forms_are_one_payload() {
    let app = TestApp::start().await;
    let body = small(1);
    let zipped = post_bundle(&app, &[FHIR, ("content-encoding", "gzip")], gzip(&body)).await;
    let job = check_accepted(&zipped, &body);
    // Two members, as `cat a.gz b.gz` makes them, are one body.
    let halves = [gzip(&body[..100]), gzip(&body[100..])].concat();
    for (encoding, sent) in [("x-gzip", halves), ("identity", body.clone())] {
        let again = post_bundle(&app, &[FHIR, ("content-encoding", encoding)], sent).await.json();
        assert_eq!((&again["jobId"], &again["duplicate"]), (&json!(job), &json!(true)));
        assert_eq!(again["sha256"], sha256(&body));
    }
}

#[tokio::test]
async fn the_exact_bytes_come_back_before_and_after_they_are_in_object_storage() {
    let app = TestApp::start().await;
    // Odd but valid: a byte order mark, white space, escapes and characters beyond the first plane.
    let mut body = b"\xef\xbb\xbf \r\n\t".to_vec();
    body.extend_from_slice(
        r#"{"type":"collection","entry":[{"fullUrl":"urn:uuid:p","resource":{"id":"p","name":[{"family":"\u00e4\/😀"}],"resourceType":"Patient"}}],"resourceType":"Bundle"}"#
            .as_bytes(),
    );
    body.extend_from_slice(b"\n\n");
    let answer = post_bundle(&app, &[FHIR], body.clone()).await;
    assert_eq!(answer.status, 202, "{:?}", String::from_utf8_lossy(&answer.body));
    let job = job_of(&answer.json());
    let path = format!("/v1/payloads/{}", sha256(&body));
    for stored in [0, 1] {
        let count = app.count("select count(*) from payloads where storage_key is not null and body is null").await;
        assert_eq!(count, stored);
        let payload = get(&app, &app.organization.reader, &path).await;
        assert_eq!((payload.status, payload.header("content-type")), (200, Some("application/fhir+json")));
        assert_eq!(payload.header("etag"), Some(format!("\"{}\"", sha256(&body)).as_str()));
        assert_eq!(payload.header("cache-control"), Some("no-store"));
        assert_eq!(payload.header("content-disposition"), Some("attachment"));
        assert!(payload.body == body, "the bytes differ");
        if stored == 0 {
            let workers = app.workers();
            let view = app.wait_for(&job, "succeeded").await;
            assert_eq!(step_of(&view, "store_raw")["output"]["size_bytes"], body.len());
            workers.stop().await;
        }
    }
    assert_eq!(app.count("select count(*) from audit_records where event = 'payload.read'").await, 2);
}

#[tokio::test]
async fn validate_only_tells_every_issue_and_records_nothing() {
    let app = TestApp::start().await;
    let path = format!("{BUNDLE}?validateOnly=true");
    let sender = app.organization.sender.clone();
    let checked = call(&app, Method::POST, &path, &sender, &[FHIR], small(1)).await;
    assert_eq!(checked.status, 200);
    assert_eq!(checked.json(), json!({"valid": true, "resourceCount": {"Patient": 1, "Observation": 2}, "issues": []}));
    let mut broken: Value = serde_json::from_slice(&small(1)).unwrap();
    broken["entry"][0]["resource"]["birthDate"] = json!("1987-02-31");
    let checked = call(&app, Method::POST, &path, &sender, &[FHIR], broken.to_string()).await.json();
    assert_eq!(checked["valid"], false);
    let issue = &checked["issues"][0];
    assert_eq!(issue["expression"], "Bundle.entry[0].resource.birthDate");
    assert_eq!(issue["pointer"], "/entry/0/resource/birthDate");
    let offset = usize::try_from(issue["offset"].as_u64().unwrap()).unwrap();
    assert!(broken.to_string()[offset..].starts_with("\"1987-02-31\""));
    call(&app, Method::POST, &path, &sender, &[FHIR], "{").await.problem(400, "invalid_json");
    assert_eq!(app.count(RECORDED).await, 0);
    // The parameter is a switch, and `false` is the ordinary intake.
    let accepted = call(&app, Method::POST, &format!("{BUNDLE}?validateOnly=false"), &sender, &[FHIR], small(1)).await;
    check_accepted(&accepted, &small(1));
}

#[tokio::test]
async fn an_administrator_may_submit_and_nothing_is_recorded_of_a_refusal() {
    let app = TestApp::start().await;
    for (key, status) in [(&app.organization.reader, 403), (&app.platform, 403), (&app.organization.admin, 202)] {
        assert_eq!(app.count(RECORDED).await, 0);
        assert_eq!(call(&app, Method::POST, BUNDLE, key, &[FHIR], small(1)).await.status, status);
    }
}

#[tokio::test]
async fn a_callers_request_id_comes_back_unless_it_is_no_sane_token() {
    let app = TestApp::start().await;
    for sane in ["a", "4bf92f35-77b3.4da6_a3ce", &"x".repeat(64)] {
        let answer = call(&app, Method::GET, "/health/live", "", &[("x-request-id", sane)], "").await;
        assert_eq!(answer.header("x-request-id"), Some(sane));
        let refused = call(&app, Method::GET, "/v1/ingestion/jobs", "", &[("x-request-id", sane)], "").await;
        assert_eq!(refused.problem(401, "unauthenticated")["requestId"], sane);
    }
    for odd in ["", "a b", "<script>", "a;b", "a\tb", "x\"", "%0d%0aSet-Cookie:a", &"x".repeat(65)] {
        let answer = call(&app, Method::GET, "/health/live", "", &[("x-request-id", odd)], "").await;
        let ours = answer.header("x-request-id").unwrap();
        assert!(ours.starts_with("req_") && ours.len() == 30, "{odd:?} became {ours}");
    }
}

#[tokio::test]
async fn many_large_bodies_at_once_are_all_accepted_over_few_connections() {
    let app = TestApp::start().await;
    let posts = (0..100).map(|seed| {
        let mut body = small(seed);
        body.resize(300 * 1024, b' ');
        app.submit(body)
    });
    let connections = async {
        let mut owner = app.owner().await;
        let mut most = 0;
        loop {
            let query = "select count(*) from pg_stat_activity where datname = current_database()";
            let now: i64 = sqlx::query_scalar(query).fetch_one(&mut owner).await.unwrap();
            most = most.max(now);
            let jobs: i64 = sqlx::query_scalar("select count(*) from jobs").fetch_one(&mut owner).await.unwrap();
            if jobs == 100 {
                return most;
            }
        }
    };
    let (answers, most) = tokio::join!(futures::future::join_all(posts), connections);
    assert!(answers.iter().all(|(status, _)| *status == 202));
    // The pool, the committers, the listener and the observers have theirs.
    assert!(most <= 12 + 8 + 6, "{most} connections");
}
