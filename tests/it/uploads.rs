//! Presigned uploads: what a URL admits, and the job that waits for it.

use crate::http::{call, get};
use crate::support::app::{TestApp, job_of};
use crate::support::objects::raw;
use chartgate::ids::UploadId;
use chartgate::uploads::expiry;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

const PATH: &str = "/v1/ingestion/upload-url";

async fn ask(app: &TestApp, body: &Value) -> Value {
    let (status, answer) = app.post(&app.organization.sender, PATH, body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// All headers of the answer; `content-length` unless it is among them.
fn headers(answer: &Value, body: &[u8]) -> Vec<(String, String)> {
    let given = answer["headers"].as_object().unwrap();
    let mut headers: Vec<(String, String)> =
        given.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        headers.push(("content-length".to_owned(), body.len().to_string()));
    }
    headers
}

async fn put(answer: &Value, body: &[u8]) -> u16 {
    raw("PUT", answer["uploadUrl"].as_str().unwrap(), &headers(answer, body), body).await.0
}

#[tokio::test]
async fn an_upload_url_takes_one_object_and_its_job_is_there_at_once() {
    let app = TestApp::start().await;
    // Without any body: the defaults.
    let answer = call(&app, Method::POST, PATH, &app.organization.sender, &[], "").await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    let id: UploadId = answer["uploadId"].as_str().unwrap().parse().unwrap();
    let organization = app.organization.id;
    let key = answer["s3Key"].as_str().unwrap();
    assert!(
        key.starts_with(&format!("incoming/fhir/{organization}/20")) && key.ends_with(&format!("/{id}.json")),
        "{key}"
    );
    assert_eq!((&answer["method"], &answer["expiresIn"]), (&json!("PUT"), &json!(3600)));
    assert_eq!(answer["instructions"].as_object().unwrap().len(), 4);
    let given = &answer["headers"];
    assert_eq!(given["Content-Type"], "application/fhir+json");
    assert_eq!(given["If-None-Match"], "*");
    assert_eq!(given["x-amz-meta-organization_id"], json!(organization));
    assert_eq!(given["x-amz-meta-upload_id"], json!(id));
    assert!(given["x-amz-meta-uploaded_by"].as_str().unwrap().starts_with("key:"));
    assert!(given["Host"].is_null() && given["host"].is_null() && given["Content-Length"].is_null(), "{given}");

    let job = job_of(&answer);
    for id in [job.as_str(), answer["uploadId"].as_str().unwrap()] {
        for key in [&app.organization.sender, &app.platform] {
            let view = get(&app, key, &format!("/v1/ingestion/jobs/{id}")).await.json();
            assert_eq!(
                (&view["jobId"], &view["status"], &view["source"]),
                (&json!(job), &json!("awaiting_upload"), &json!("upload"))
            );
            assert_eq!((&view["workflow"], &view["payload"]), (&json!("bulk-upload"), &Value::Null));
        }
    }
    let list =
        get(&app, &app.organization.reader, "/v1/ingestion/jobs?status=awaiting_upload&source=upload").await.json();
    assert_eq!(list["jobs"][0]["jobId"], json!(job));
    let other = app.organization("Other Hospital").await;
    get(&app, &other.sender, &format!("/v1/ingestion/jobs/{id}")).await.problem(404, "job_not_found");

    assert_eq!(put(&answer, b"{}").await, 200);
    let head = app.objects.objects.head(key).await.unwrap().unwrap();
    assert_eq!(head.metadata["upload_id"], id.to_string());
    assert_eq!(head.metadata["organization_id"], organization.to_string());
    // Once.
    assert_eq!(put(&answer, b"[]").await, 412);
    assert_eq!(app.objects.objects.get(key).await.unwrap(), "{}");
    let audited = "select count(*) from audit_records a join uploads u on u.job_id = a.job_id
                   where a.event = 'upload.created' and a.actor = u.uploaded_by and a.resource like 'upload_%'";
    assert_eq!(app.count(audited).await, 1);
}

#[tokio::test]
async fn what_was_declared_is_what_s3_takes() {
    let app = TestApp::start().await;
    let body = b"{\"resourceType\":\"Patient\"}\n";
    let asked = json!({
        "contentType": "application/fhir+ndjson", "sizeBytes": body.len(), "sha256": hex::encode(Sha256::digest(body)).to_uppercase(),
        "filename": "Jane Doe 1970-01-01.ndjson.gz",
    });
    let answer = ask(&app, &asked).await;
    let key = answer["s3Key"].as_str().unwrap();
    assert!(key.ends_with(".ndjson.gz") && !answer.to_string().contains("Jane"), "{answer}");
    assert_eq!(answer["headers"]["Content-Length"], body.len().to_string());
    let url = answer["uploadUrl"].as_str().unwrap();
    let other = [b"X", &body[1..]].concat();
    let mut extra = headers(&answer, body);
    extra.push(("x-amz-meta-job_id".to_owned(), "1".to_owned()));
    let mut longer = headers(&answer, body);
    longer
        .iter_mut()
        .filter(|(name, _)| name == "Content-Length")
        .for_each(|(_, value)| *value = (body.len() + 1).to_string());
    let typed = |kind: &str| {
        let mut headers = headers(&answer, body);
        headers.iter_mut().filter(|(name, _)| name == "Content-Type").for_each(|(_, value)| kind.clone_into(value));
        headers
    };
    for (what, headers, bytes, status) in [
        ("other bytes", headers(&answer, body), other.as_slice(), 400),
        ("metadata of one's own", extra, body.as_slice(), 403),
        ("a longer body", longer, &[body.as_slice(), b"\n"].concat(), 403),
        ("another type", typed("application/json"), body, 403),
    ] {
        assert_eq!(raw("PUT", url, &headers, bytes).await.0, status, "{what}");
        assert_eq!(app.objects.objects.head(key).await.unwrap(), None, "{what}");
    }
    let theirs = url.replace(&app.organization.id.to_string(), &app.organization("Other").await.id.to_string());
    assert_eq!(raw("PUT", &theirs, &headers(&answer, body), body).await.0, 403);
    assert_eq!(put(&answer, body).await, 200);
    assert_eq!(
        app.count("select count(*) from uploads where declared_size_bytes = 27 and length(declared_sha256) = 32").await,
        1
    );
}

#[tokio::test]
async fn what_cannot_be_uploaded_is_said_and_leaves_nothing() {
    let app = TestApp::start().await;
    for (body, said) in [
        (
            json!({"contentType": "text/csv"}),
            "application/fhir+json, application/json, application/fhir+ndjson, application/x-ndjson",
        ),
        (json!({"contentType": "Application/JSON"}), "one of"),
        (json!({"sizeBytes": 5_368_709_121_u64}), "5 GB"),
        (json!({"sizeBytes": 0}), "at least 1"),
        (json!({"sizeBytes": -1}), "at least 1"),
        (json!({"sizeBytes": 1.5}), "API description"),
        (json!({"sha256": "abc"}), "hexadecimal"),
        (json!({"sha256": "g".repeat(64)}), "hexadecimal"),
        (json!({"bucket": "mine"}), "API description"),
        (json!([]), "object"),
    ] {
        let (status, problem) = app.post(&app.organization.sender, PATH, &body).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")), "{body}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{body}: {problem}");
    }
    let broken =
        call(&app, Method::POST, PATH, &app.organization.sender, &[("content-type", "application/json")], "{").await;
    broken.problem(400, "invalid_request");
    ask(&app, &json!({"sizeBytes": 5_368_709_120_u64})).await;
    ask(&app, &Value::Null).await;
    assert_eq!(app.count("select count(*) from uploads").await, 2);
    assert_eq!(app.count("select count(*) from jobs where status = 'awaiting_upload'").await, 2);
}

#[tokio::test]
async fn an_upload_that_never_comes_expires_a_day_after_its_url() {
    let app = TestApp::start().await;
    let (waiting, cancelled) = (ask(&app, &json!({})).await, ask(&app, &json!({})).await);
    let other = app.organization("Other Hospital").await;
    let (_, theirs) = app.post(&other.sender, PATH, &json!({})).await;
    let path = |answer: &Value, act: &str| format!("/v1/ingestion/jobs/{}{act}", answer["uploadId"].as_str().unwrap());
    let (status, view) = app.post(&app.organization.sender, &path(&cancelled, "/cancel"), &json!({})).await;
    assert_eq!((status, &view["status"]), (200, &json!("cancelled")), "{view}");
    app.advance(Duration::from_hours(25) - Duration::from_mins(1)).await;
    assert_eq!(expiry::expire(&app.app.db).await.unwrap(), 0);
    app.advance(Duration::from_mins(2)).await;
    assert_eq!(expiry::expire(&app.app.db).await.unwrap(), 2);
    assert_eq!(expiry::expire(&app.app.db).await.unwrap(), 0);
    for (answer, status) in [(&waiting, "expired"), (&theirs, "expired"), (&cancelled, "cancelled")] {
        let view = app.job(&job_of(answer)).await;
        assert_eq!(view["status"], status);
        assert!(view["finishedAt"].is_string(), "{view}");
        // Only its object can give it another round.
        let retry = format!("/v1/admin/jobs/{}/retry", job_of(answer));
        let (status, problem) = app.post(&app.platform, &retry, &json!({"reason": "x"})).await;
        assert_eq!((status, &problem["code"]), (409, &json!("job_not_finished")), "{problem}");
    }
    let (status, problem) = app.post(&app.organization.sender, &path(&waiting, "/cancel"), &json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("job_is_terminal")));
    let records = "select count(*) from audit_records where event = 'job.expired' and actor = 'sweeper' and authentication = 'internal'";
    assert_eq!(app.count(records).await, 2);
    // What a late object needs is still there.
    assert_eq!(app.count("select count(*) from uploads where closed_at is not null and arrived_at is null").await, 3);
    assert_eq!(app.count("select count(*) from queue").await, 0);
}
