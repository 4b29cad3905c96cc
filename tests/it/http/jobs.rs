//! Following jobs: the status with every field, long-poll, lists, issues, timeline, cancel.

use super::{Answer, FHIR, call, get, post_bundle, small, with_member};
use crate::engine::scripted::{Act, Scripted, workflow};
use crate::support::app::{Setup, TestApp, job_of, step_of};
use crate::support::submit;
use chartgate::ids::JobId;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

async fn scripted_app() -> (TestApp, Arc<Scripted>) {
    let scripted = Scripted::new();
    let setup = Setup {
        handlers: vec![("test.scripted", Arc::clone(&scripted) as _)],
        workflows: vec![("scripted", workflow("scripted", "none"))],
        ..Setup::default()
    };
    (TestApp::with(setup).await, scripted)
}

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn path(job: &str) -> String {
    format!("/v1/ingestion/jobs/{job}")
}

#[tokio::test]
async fn the_status_has_every_field_of_the_contract_before_and_after_the_end() {
    let app = TestApp::start().await;
    let body = small(1);
    let job = job_of(&app.submit(body.clone()).await.1);
    let sender = app.organization.sender.clone();
    let fields = BTreeSet::from([
        "jobId",
        "organizationId",
        "workflow",
        "workflowVersion",
        "source",
        "status",
        "currentStep",
        "steps",
        "progress",
        "resourceCount",
        "result",
        "error",
        "payload",
        "message",
        "submittedBy",
        "round",
        "createdAt",
        "startedAt",
        "finishedAt",
        "updatedAt",
    ]);
    let step_fields = BTreeSet::from([
        "name",
        "status",
        "attempts",
        "maxAttempts",
        "startedAt",
        "finishedAt",
        "nextAttemptAt",
        "error",
        "output",
    ]);
    let queued = get(&app, &sender, &path(&job)).await;
    assert_eq!(queued.header("retry-after"), Some("1"));
    let view = queued.json();
    assert_eq!(names(&view), fields);
    let expected = json!({
        "jobId": job, "organizationId": app.organization.id, "workflow": "fhir-bundle", "workflowVersion": 1, "source": "webhook",
        "status": "queued", "currentStep": "validate", "progress": {"done": 0, "total": 3, "unit": "entries"},
        "resourceCount": {"Patient": 1, "Observation": 2}, "result": null, "error": null, "round": 1,
        "payload": {"sha256": super::sha256(&body), "sizeBytes": body.len(), "contentType": "application/fhir+json"},
        "submittedBy": format!("key:{}", sender.split('_').nth(1).unwrap()), "startedAt": null, "finishedAt": null,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&view[name], value, "{name}");
    }
    let steps = ["validate", "store_raw", "link_patient", "extract_findings", "audit"];
    assert_eq!(
        view["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect::<Vec<_>>(),
        steps
    );
    assert!(view["steps"].as_array().unwrap().iter().all(|step| step["status"] == "pending" && step["attempts"] == 0));

    let workers = app.workers();
    app.wait_for(&job, "succeeded").await;
    let ended = get(&app, &app.organization.reader, &path(&job)).await;
    assert_eq!(ended.header("retry-after"), None);
    let view = ended.json();
    assert_eq!(names(&view), fields);
    assert_eq!(view["progress"], json!({"done": 3, "total": 3, "unit": "entries"}));
    assert_eq!(names(&view["result"]), BTreeSet::from(["resources", "findings", "issues", "patients"]));
    assert_eq!(view["result"]["patients"], json!({"linked": 1, "pending": 0, "review": 0}));
    assert_eq!(
        (&view["result"]["resources"], &view["result"]["findings"], &view["result"]["issues"]),
        (&json!(3), &json!(2), &json!(0))
    );
    let mut last = OffsetDateTime::parse(view["createdAt"].as_str().unwrap(), &Rfc3339).unwrap();
    for step in view["steps"].as_array().unwrap() {
        assert_eq!(names(step), step_fields);
        assert_eq!(
            (&step["status"], &step["attempts"], &step["error"]),
            (&json!("succeeded"), &json!(1), &Value::Null)
        );
        assert!(step["maxAttempts"].as_u64().unwrap() >= 10);
        let finished = OffsetDateTime::parse(step["finishedAt"].as_str().unwrap(), &Rfc3339).unwrap();
        assert!(finished >= last && finished.offset().is_utc());
        last = finished;
    }
    assert_eq!(view["finishedAt"], step_of(&view, "audit")["finishedAt"]);
    workers.stop().await;
}

#[tokio::test]
async fn a_failed_job_says_why_who_must_act_and_what_to_do() {
    let app = TestApp::start().await;
    let workers = app.workers();
    let mut broken: Value = serde_json::from_slice(&small(1)).unwrap();
    broken["entry"][1]["resource"]["effectiveDateTime"] = json!("CANARY");
    let job = job_of(&app.submit(broken.to_string()).await.1);
    let view = app.wait_for(&job, "failed").await;
    assert_eq!((&view["error"]["code"], &view["error"]["class"]), (&json!("validation_failed"), &json!("sender")));
    assert_eq!(names(&view["error"]), BTreeSet::from(["code", "class", "message", "action"]));
    assert_eq!(view["currentStep"], "validate");
    let statuses: Vec<&str> =
        view["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["failed", "succeeded", "skipped", "skipped", "succeeded"]);
    assert!(!view.to_string().contains("CANARY"));
    workers.stop().await;
}

#[tokio::test]
async fn a_long_poll_answers_at_the_change_and_respects_its_time() {
    let (app, scripted) = scripted_app().await;
    scripted.script("first", &[Act::RetryAfter(Duration::from_hours(1))]);
    let job = submit::submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    let sender = app.organization.sender.clone();
    let started = Instant::now();
    let first = get(&app, &sender, &format!("{}?wait=1", path(&job))).await;
    assert!(started.elapsed() >= Duration::from_secs(1) && started.elapsed() < Duration::from_secs(5));
    let tag = first.header("etag").unwrap().to_owned();
    assert_eq!(first.json()["status"], "queued");

    // Known already: 304 without a body, at once or after the wait.
    let known = [("if-none-match", tag.as_str())];
    let same = call(&app, Method::GET, &path(&job), &sender, &known, "").await;
    assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some(tag.as_str())));
    let started = Instant::now();
    let same = call(&app, Method::GET, &format!("{}?wait=1", path(&job)), &sender, &known, "").await;
    assert!(same.status == 304 && started.elapsed() >= Duration::from_secs(1));
    for list in [format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        let same = call(&app, Method::GET, &path(&job), &sender, &[("if-none-match", &list)], "").await;
        assert_eq!(same.status, 304, "{list}");
    }

    // Something else is known: the present state is news.
    let other =
        call(&app, Method::GET, &format!("{}?wait=25", path(&job)), &sender, &[("if-none-match", "\"x\"")], "").await;
    assert_eq!(other.status, 200);

    let long_path = format!("{}?wait=25", path(&job));
    let waiting = call(&app, Method::GET, &long_path, &sender, &known, "");
    let change = async {
        let path = format!("{}/cancel", path(&job));
        app.post(&app.organization.sender, &path, &json!({})).await
    };
    let started = Instant::now();
    let (changed, (cancelled, _)) = tokio::join!(waiting, change);
    assert_eq!((cancelled, changed.status, &changed.json()["status"]), (200, 200, &json!("cancelled")));
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_ne!(changed.header("etag").unwrap(), tag);
    // Nothing more will change: answered at once, whatever the wait is.
    let started = Instant::now();
    let ended = get(&app, &sender, &format!("{}?wait=60", path(&job))).await;
    assert!(ended.status == 200 && started.elapsed() < Duration::from_secs(5));
    for bad in ["x", "-1", "1.5", "", "99999999999999999999"] {
        get(&app, &sender, &format!("{}?wait={bad}", path(&job))).await.problem(400, "invalid_parameter");
    }
}

#[tokio::test]
async fn each_filter_of_the_list_filters() {
    let (app, scripted) = scripted_app().await;
    let scripted_job = submit::submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    let workers = app.workers();
    let succeeded = app.wait_for(&scripted_job, "succeeded").await;
    scripted.script("first", &[Act::Ours]);
    let failed = submit::submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    app.wait_for(&failed, "failed").await;
    scripted.script("first", &[Act::RetryAfter(Duration::from_hours(1))]);
    let retrying = submit::submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    app.wait_for(&retrying, "retrying").await;
    workers.stop().await;
    let queued = job_of(&app.submit(small(1)).await.1);
    let cancelled = job_of(&app.submit(small(2)).await.1);
    app.post(&app.organization.admin, &format!("{}/cancel", path(&cancelled)), &json!({})).await;
    let instant = |job: &Value| job["createdAt"].as_str().unwrap().to_owned();
    let failed_at = instant(&app.job(&failed).await);
    let all = [&cancelled, &queued, &retrying, &failed, &scripted_job];
    for (query, expected) in [
        (String::new(), all.to_vec()),
        ("status=succeeded".to_owned(), vec![&scripted_job]),
        ("status=failed".to_owned(), vec![&failed]),
        ("status=retrying".to_owned(), vec![&retrying]),
        ("status=queued".to_owned(), vec![&queued]),
        ("status=cancelled".to_owned(), vec![&cancelled]),
        ("status=running".to_owned(), vec![]),
        ("status=awaiting_upload".to_owned(), vec![]),
        ("status=succeeded_with_issues".to_owned(), vec![]),
        ("workflow=fhir-bundle".to_owned(), vec![&cancelled, &queued]),
        ("workflow=scripted".to_owned(), vec![&retrying, &failed, &scripted_job]),
        ("workflow=".to_owned(), vec![]),
        ("workflow=%27%20or%201=1".to_owned(), vec![]),
        ("source=webhook".to_owned(), all.to_vec()),
        ("source=upload".to_owned(), vec![]),
        ("errorCode=test_bug".to_owned(), vec![&failed]),
        ("errorCode=other".to_owned(), vec![]),
        (format!("createdAfter={failed_at}"), vec![&cancelled, &queued, &retrying, &failed]),
        (format!("createdBefore={failed_at}"), vec![&scripted_job]),
        (
            format!("createdAfter={}&createdBefore={failed_at}&status=succeeded", instant(&succeeded)),
            vec![&scripted_job],
        ),
        ("workflow=scripted&status=cancelled".to_owned(), vec![]),
        ("limit=2".to_owned(), vec![&cancelled, &queued]),
    ] {
        let page = get(&app, &app.organization.sender, &format!("/v1/ingestion/jobs?{query}")).await;
        assert_eq!(page.status, 200, "{query}: {}", page.json());
        let page = page.json();
        let found: Vec<&str> =
            page["jobs"].as_array().unwrap().iter().map(|job| job["jobId"].as_str().unwrap()).collect();
        assert_eq!(found, expected, "{query}");
    }
    for bad in [
        "status=done",
        "status=",
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "cursor=x",
        "cursor=",
        "createdAfter=yesterday",
        "createdBefore=2026-01-01",
        "since=1",
        "status=failed&status=queued",
        "cursor=org_01h455vb4pex5vsknk084sn02q",
    ] {
        get(&app, &app.organization.sender, &format!("/v1/ingestion/jobs?{bad}"))
            .await
            .problem(400, "invalid_parameter");
    }
}

#[tokio::test]
async fn pages_hold_every_job_once_while_others_arrive() {
    let app = TestApp::start().await;
    let mut existing = BTreeSet::new();
    for seed in 0..45 {
        existing.insert(job_of(&app.submit(small(seed)).await.1));
    }
    let (mut listed, mut cursor, mut turns) = (Vec::new(), String::new(), 0);
    let mut seed = 1000;
    loop {
        let page = get(&app, &app.organization.sender, &format!("/v1/ingestion/jobs?limit=7{cursor}")).await.json();
        let jobs = page["jobs"].as_array().unwrap();
        listed.extend(jobs.iter().map(|job| job["jobId"].as_str().unwrap().to_owned()));
        turns += 1;
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
        let arriving = (0..4).map(|_| {
            seed += 1;
            app.submit(small(seed))
        });
        futures::future::join_all(arriving).await;
    }
    let distinct: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(distinct.len(), listed.len(), "a job was shown twice");
    assert!(existing.is_subset(&distinct), "a job was left out");
    assert!(listed.windows(2).all(|pair| pair[0] > pair[1]), "not newest first");
    assert!(turns >= 7, "{turns}");
}

#[tokio::test]
async fn issues_come_as_json_as_lines_and_as_an_operation_outcome() {
    let app = TestApp::start().await;
    let workers = app.workers();
    let mut batch = with_member("birthDate", &json!("CANARY"));
    batch["entry"]
        .as_array_mut()
        .unwrap()
        .push(json!({"fullUrl": "urn:uuid:q", "resource": {"resourceType": "Patient", "id": "q"}}));
    let text = batch.to_string();
    let job = job_of(&app.submit(text.clone()).await.1);
    let view = app.wait_for(&job, "succeeded_with_issues").await;
    assert_eq!(view["result"]["issues"], 1);
    let reader = app.organization.reader.clone();
    let list_path = format!("{}/issues", path(&job));
    let plain = get(&app, &reader, &list_path).await;
    let issue = plain.json()["issues"][0].clone();
    assert_eq!(
        names(&issue),
        BTreeSet::from(["severity", "code", "entry", "line", "expression", "pointer", "offset", "message"])
    );
    assert_eq!((&issue["severity"], &issue["entry"]), (&json!("error"), &json!(0)));
    assert_eq!(issue["expression"], "Bundle.entry[0].resource.birthDate");
    assert_eq!(issue["pointer"], "/entry/0/resource/birthDate");
    assert!(text[usize::try_from(issue["offset"].as_u64().unwrap()).unwrap()..].starts_with("\"CANARY\""));
    let as_lines = call(&app, Method::GET, &list_path, &reader, &[("accept", "application/x-ndjson")], "").await;
    assert_eq!(as_lines.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(serde_json::from_slice::<Value>(&as_lines.body).unwrap(), issue);
    let outcome = call(&app, Method::GET, &list_path, &reader, &[("accept", "application/fhir+json")], "").await;
    assert_eq!(outcome.header("content-type"), Some("application/fhir+json"));
    let outcome = outcome.json();
    assert_eq!(outcome["resourceType"], "OperationOutcome");
    assert_eq!(outcome["issue"][0]["expression"], json!(["Bundle.entry[0].resource.birthDate"]));
    assert_eq!(outcome["issue"][0]["code"], issue["code"]);
    assert!(!format!("{issue}{outcome}").contains("CANARY"));

    let clean = job_of(&app.submit(small(1)).await.1);
    app.wait_for(&clean, "succeeded").await;
    let list_path = format!("{}/issues", path(&clean));
    assert_eq!(get(&app, &reader, &list_path).await.json(), json!({"issues": []}));
    let outcome = call(&app, Method::GET, &list_path, &reader, &[("accept", "application/fhir+json")], "").await.json();
    assert_eq!(
        (outcome["issue"].as_array().unwrap().len(), &outcome["issue"][0]["severity"]),
        (1, &json!("information"))
    );
    workers.stop().await;
}

#[tokio::test]
async fn the_timeline_tells_every_step_in_the_order_of_time() {
    let app = TestApp::start().await;
    let workers = app.workers();
    let job = job_of(&app.submit(small(1)).await.1);
    app.wait_for(&job, "succeeded").await;
    let timeline = get(&app, &app.organization.reader, &format!("{}/timeline", path(&job))).await.json();
    let entries = timeline["entries"].as_array().unwrap();
    assert_eq!(entries[0]["event"], "job.accepted");
    let steps: Vec<&str> = entries
        .iter()
        .filter(|entry| entry["event"] == "step.succeeded")
        .map(|entry| entry["step"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["validate", "store_raw", "link_patient", "extract_findings", "audit"]);
    let times: Vec<OffsetDateTime> =
        entries.iter().map(|entry| OffsetDateTime::parse(entry["at"].as_str().unwrap(), &Rfc3339).unwrap()).collect();
    assert!(times.is_sorted());
    workers.stop().await;
}

#[tokio::test]
async fn a_cancel_may_give_a_reason_or_no_body_and_ends_the_job_once() {
    let app = TestApp::start().await;
    let sender = app.organization.sender.clone();
    for (seed, headers, body) in [
        (1, vec![], String::new()),
        (2, vec![("content-type", "application/json")], "{}".to_owned()),
        (3, vec![("content-type", "application/json")], json!({"reason": "sent by mistake"}).to_string()),
    ] {
        let job = job_of(&app.submit(small(seed)).await.1);
        let cancel = format!("{}/cancel", path(&job));
        let answer = call(&app, Method::POST, &cancel, &sender, &headers, body).await;
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("cancelled")));
        call(&app, Method::POST, &cancel, &sender, &[], "").await.problem(409, "job_is_terminal");
    }
    let job = job_of(&app.submit(small(4)).await.1);
    let cancel = format!("{}/cancel", path(&job));
    let json_type = ("content-type", "application/json");
    for (headers, body, status, code) in [
        (vec![("content-type", "text/plain")], "x".to_owned(), 415, "unsupported_media_type"),
        (vec![json_type], "{".to_owned(), 400, "invalid_request"),
        (vec![json_type], json!({"why": "x"}).to_string(), 400, "invalid_request"),
        (vec![json_type], json!({"reason": 1}).to_string(), 400, "invalid_request"),
        (vec![json_type], "{\"reason\": \"\\u0000\"}".to_owned(), 400, "invalid_string"),
        (vec![json_type], json!({"reason": "x".repeat(70_000)}).to_string(), 413, "payload_too_large"),
    ] {
        call(&app, Method::POST, &cancel, &sender, &headers, body).await.problem(status, code);
    }
    // Many at once: one cancels, the others are told that it has ended.
    let cancels = (0..16).map(|_| call(&app, Method::POST, &cancel, &sender, &[], ""));
    let statuses: Vec<u16> = futures::future::join_all(cancels).await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 409].contains(status)));
    assert_eq!(app.count("select count(*) from audit_records where event = 'job.cancelled'").await, 4);
}

#[tokio::test]
async fn malformed_unknown_and_foreign_ids_get_the_same_404_to_the_byte() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let foreign = job_of(&app.submit_as(&other.sender, None, small(1)).await.1);
    let ids = [
        foreign.clone(),
        JobId::new().to_string(),
        "job_x".to_owned(),
        "x".to_owned(),
        foreign.to_uppercase(),
        format!("{foreign}x"),
        foreign.replace("job_", "org_"),
        "%00".to_owned(),
        "%ff".to_owned(),
        "job_81h455vb4pex5vsknk084sn02q".to_owned(),
        "9".repeat(4_000),
        "00000000-0000-0000-0000-000000000000".to_owned(),
    ];
    let same_id = ("x-request-id", "same");
    for (method, suffix) in [
        (Method::GET, ""),
        (Method::GET, "?wait=0"),
        (Method::GET, "/timeline"),
        (Method::GET, "/issues"),
        (Method::GET, "/outcomes"),
        (Method::POST, "/cancel"),
    ] {
        let mut bodies = BTreeSet::new();
        let mut headers = BTreeSet::new();
        for id in &ids {
            let path = format!("/v1/ingestion/jobs/{id}{suffix}");
            let answer = call(&app, method.clone(), &path, &app.organization.sender, &[same_id], "").await;
            answer.problem(404, "job_not_found");
            headers.insert(shown_headers(&answer));
            bodies.insert(answer.body);
        }
        assert_eq!((bodies.len(), headers.len()), (1, 1), "{method} {suffix}");
    }
    let retry = json!({"reason": "x"});
    for id in &ids {
        let (status, problem) = app.post(&app.organization.admin, &format!("/v1/admin/jobs/{id}/retry"), &retry).await;
        assert_eq!((status, &problem["code"]), (404, &json!("job_not_found")), "{id}");
    }
    assert_eq!(app.job(&foreign).await["status"], "queued");
}

/// Everything but the time of day.
fn shown_headers(answer: &Answer) -> String {
    let mut lines: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| name.as_str() != "date")
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    lines.sort();
    lines.join("\n")
}

#[tokio::test]
async fn a_head_request_is_a_get_without_its_body() {
    let app = TestApp::start().await;
    let job = job_of(&post_bundle(&app, &[FHIR], small(1)).await.json());
    let head = call(&app, Method::HEAD, &path(&job), &app.organization.sender, &[], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("etag"), get(&app, &app.organization.sender, &path(&job)).await.header("etag"));
}
