//! Bulk files through the whole house: queue, fan-out, workers, HTTP.

use super::{gzip, many_lines, patient_line};
use crate::support::app::{TestApp, step_of};
use chartgate::db::{DbError, Scope};
use chartgate::ids::{JobId, OrganizationId};
use chartgate::uploads::watcher::store::generation_of;
use serde_json::{Value, json};
use std::time::Duration;

/// PUT a file, and what the watcher does then.
pub(super) async fn take_up(app: &TestApp, body: Vec<u8>) -> String {
    take_up_of(app, app.organization.id, body).await
}

/// The same for an organization.
pub(super) async fn take_up_of(app: &TestApp, organization: OrganizationId, body: Vec<u8>) -> String {
    let job = JobId::new();
    let key = format!("incoming/fhir/{organization}/{job}.ndjson");
    let objects = &app.objects.objects;
    objects.put(&key, body.into(), "application/fhir+ndjson", &[]).await.unwrap();
    let head = objects.head(&key).await.unwrap().unwrap();
    let bucket = objects.bucket().to_owned();
    let version = app.app.catalog.latest("bulk-upload").unwrap().version;
    app.app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let seq: i64 = sqlx::query_scalar(
                    "insert into jobs (organization_id, id, workflow, workflow_version, source, status, seq, submitted_by,
                                       created_at, updated_at)
                     values ($1, $2, 'bulk-upload', $3, 'upload', 'queued', nextval('job_seq'), 'test', chartgate_now(), chartgate_now())
                     returning seq",
                )
                .bind(organization)
                .bind(job)
                .bind(version)
                .fetch_one(&mut *connection)
                .await?;
                sqlx::query(
                    "insert into ingested_objects (bucket, storage_key, generation, organization_id, job_id, status, source,
                                                   first_seen_at, etag, size_bytes, content_type)
                     values ($1, $2, $3, $4, $5, 'ingested', 'test', chartgate_now(), $6, $7, $8)",
                )
                .bind(bucket)
                .bind(&key)
                .bind(generation_of(&head))
                .bind(organization)
                .bind(job)
                .bind(&head.etag)
                .bind(i64::try_from(head.size).unwrap())
                .bind(&head.content_type)
                .execute(&mut *connection)
                .await?;
                sqlx::query("select enqueue_job($1, $2, $3, null, 10::smallint, 'bulk-upload', $4, 1, 0::smallint, chartgate_now())")
                    .bind(organization)
                    .bind(job)
                    .bind(seq)
                    .bind(version)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
        .unwrap();
    app.app.wake.signal();
    job.to_string()
}

async fn text(app: &TestApp, path: &str, accept: &str) -> (u16, Vec<u8>) {
    let request = app.client.get(format!("{}{path}", app.url)).bearer_auth(&app.organization.reader);
    let answer = request.header("accept", accept).send().await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_several_chunks_goes_through_its_workflow() {
    let app = TestApp::start().await;
    let workers = app.workers();
    let mut lines = many_lines(10, 9_000);
    lines.insert(4_000, "no json".to_owned());
    lines.extend((0..10).map(|n| patient_line(&format!("p{n}"), &n.to_string())));
    let body = gzip(lines.join("\n").as_bytes());
    let job = take_up(&app, body.clone()).await;
    let view = app.wait_for(&job, "succeeded_with_issues").await;
    assert_eq!((&view["result"]["resources"], &view["result"]["findings"]), (&json!(9_010), &json!(9_000)), "{view:#}");
    assert_eq!(view["resourceCount"], json!({"Observation": 9_000, "Patient": 10}));
    assert_eq!(step_of(&view, "validate")["output"]["shape"], "ndjson");
    assert!(step_of(&view, "validate")["output"]["chunks"].as_u64().unwrap() > 1, "{view:#}");
    assert_eq!(view["payload"]["sizeBytes"], body.len());
    assert_eq!(app.count("select count(*) from clinical_events where link_status = 'linked'").await, 9_010);
    // The payload is read as it was stored, the outcome file by its line.
    let payload = format!("/v1/payloads/{}", view["payload"]["sha256"].as_str().unwrap());
    assert!(text(&app, &payload, "*/*").await == (200, body.clone()));
    let (status, outcomes) = text(&app, &format!("/v1/ingestion/jobs/{job}/outcomes"), "*/*").await;
    let outcome: Value = serde_json::from_slice(&outcomes).unwrap();
    assert_eq!((status, &outcome["line"], &view["result"]["outcomes"]["lines"]), (200, &json!(4_001), &json!(1)));
    // The same bytes by another URL.
    let again = take_up(&app, body).await;
    let view = app.wait_for(&again, "succeeded").await;
    assert_eq!((&view["duplicateOf"], &view["result"]["duplicateOf"]), (&json!(job), &json!(job)), "{view:#}");
    let (status, _) = text(&app, &format!("/v1/ingestion/jobs/{again}/outcomes"), "*/*").await;
    assert_eq!(status, 404);
    workers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_read_fails_with_its_code_and_its_bytes_are_kept() {
    let app = TestApp::start().await;
    let workers = app.workers();
    let mut body = gzip(patient_line("p1", "1").as_bytes());
    body.truncate(body.len() - 10);
    let job = take_up(&app, body.clone()).await;
    let view = app.wait_for(&job, "failed").await;
    assert_eq!(
        (&view["error"]["code"], &view["error"]["class"]),
        (&json!("gzip_truncated"), &json!("sender")),
        "{view:#}"
    );
    let payload = format!("/v1/payloads/{}", view["payload"]["sha256"].as_str().unwrap());
    assert!(text(&app, &payload, "*/*").await == (200, body));
    workers.stop().await;
}

/// How many texts of chunks of a job there are.
async fn texts(app: &TestApp, job: &str) -> usize {
    let prefix = format!("chunks/{}/{job}/", app.organization.id);
    app.objects.objects.list(&prefix, None, 1000).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_of_chunks_that_no_plan_names_are_deleted_when_their_job_has_ended() {
    let app = TestApp::start().await;
    let workers = app.workers();
    let body = gzip(many_lines(10, 9_000).join("\n").as_bytes());
    let named = take_up(&app, body.clone()).await;
    app.wait_for(&named, "succeeded").await;
    assert_eq!(app.count("select count(*) from chunk_texts").await, 0, "its plan names them");
    // Ingested before; damaged behind its first chunk.
    let duplicate = take_up(&app, body.clone()).await;
    app.wait_for(&duplicate, "succeeded").await;
    let damaged = take_up(&app, body[..body.len() - 9].to_vec()).await;
    app.wait_for(&damaged, "failed").await;
    // A later round plans anew.
    let retry = json!({"reason": "a test", "from": "validate"});
    let (status, answer) = app.post(&app.platform, &format!("/v1/admin/jobs/{named}/retry"), &retry).await;
    assert!((200..300).contains(&status), "{answer}");
    app.wait_until(&named, "ended again", |view| view["round"] == 2 && view["status"] == "succeeded").await;
    let counts = async || (texts(&app, &named).await, texts(&app, &duplicate).await, texts(&app, &damaged).await);
    let before = counts().await;
    assert!(before.0 == 4 && before.1 == 2 && before.2 >= 1, "{before:?}");
    assert_eq!(app.count("select count(*) from chunk_texts").await, 3);

    // Of a job that is at work nothing is touched.
    workers.stop().await;
    let mut owner = app.owner().await;
    let at_work = "update jobs set status = 'queued', finished_at = null";
    sqlx::query(at_work).execute(&mut owner).await.unwrap();
    assert_eq!(app.app.watcher.tidy().await.unwrap().texts, 0);
    // As if the bytes had never been stored: the objects are kept for a month.
    sqlx::query("delete from payloads").execute(&mut owner).await.unwrap();
    let ended = "update jobs set status = 'succeeded', finished_at = chartgate_now()";
    sqlx::query(ended).execute(&mut owner).await.unwrap();
    let tidied = app.app.watcher.tidy().await.unwrap();
    assert_eq!((tidied.texts, tidied.failed), (2 + before.1 + before.2, 0));
    assert_eq!(counts().await, (2, 0, 0));
    let removed = "select coalesce(sum((detail->>'objects')::bigint), 0)::bigint from audit_records where event = 'texts.removed'";
    assert_eq!(app.count(removed).await, i64::try_from(tidied.texts).unwrap());
    // What a worker that stood still puts afterwards is found a day later; then they are forgotten.
    let plan: uuid::Uuid = sqlx::query_scalar("select plan_id from chunk_texts where job_id = $1")
        .bind(duplicate.parse::<JobId>().unwrap())
        .fetch_one(&mut app.owner().await)
        .await
        .unwrap();
    let late = format!("chunks/{}/{duplicate}/{plan}/7", app.organization.id);
    app.objects.objects.put(&late, "{}".into(), "application/octet-stream", &[]).await.unwrap();
    assert_eq!(app.app.watcher.tidy().await.unwrap().texts, 0);
    app.advance(Duration::from_hours(25)).await;
    assert_eq!(app.app.watcher.tidy().await.unwrap().texts, 1);
    assert_eq!(app.count("select count(*) from chunk_texts").await, 0);
    assert_eq!(counts().await, (2, 0, 0));

    // Given up: neither its object nor a copy of it is there any more.
    app.advance(Duration::from_hours(24 * 31)).await;
    let tidied = app.app.watcher.tidy().await.unwrap();
    assert_eq!((tidied.removed, tidied.texts), (3, 2), "{tidied:?}");
    assert_eq!(counts().await, (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_issues_come_as_a_stream_and_in_pages_in_order_of_the_lines() {
    let app = TestApp::start().await;
    let workers = app.workers();
    let lines: Vec<String> = (0..3_500)
        .map(|n| if n % 7 == 0 { patient_line(&format!("p{n}"), &n.to_string()) } else { "no json".to_owned() })
        .collect();
    let job = take_up(&app, lines.join("\n").into_bytes()).await;
    app.wait_for(&job, "succeeded_with_issues").await;
    let path = format!("/v1/ingestion/jobs/{job}/issues");
    let (_, stream) = text(&app, &path, "application/x-ndjson").await;
    let streamed: Vec<u64> = std::str::from_utf8(&stream)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["line"].as_u64().unwrap())
        .collect();
    assert_eq!(streamed, (1..=3_500).filter(|line| (line - 1) % 7 != 0).collect::<Vec<_>>());
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = app.get(&app.organization.reader, &format!("{path}?limit=1000{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        paged.extend(page["issues"].as_array().unwrap().iter().map(|issue| issue["line"].as_u64().unwrap()));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, streamed);
    let (status, _) = app.get(&app.organization.reader, &format!("{path}?cursor=1.2")).await;
    assert_eq!(status, 400);
    workers.stop().await;
}
