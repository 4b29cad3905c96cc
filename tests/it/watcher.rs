//! The watcher: whatever is told of an object, however often and in whatever order, it becomes bytes of one job.

mod faults;
mod moto;

use crate::http::{call, get};
use crate::support::app::{TestApp, job_of};
use crate::support::objects::{BUCKET, raw};
use chartgate::app::App;
use chartgate::db::{DbError, Scope};
use chartgate::ids::{JobId, OrganizationId};
use chartgate::uploads::expiry;
use chartgate::uploads::watcher::store::{generation_of, of_job};
use chartgate::uploads::watcher::{Hint, Sources, TakenUp};
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const EVENTS: &str = "/v1/events/s3";
const REFUSED: &str = "/v1/admin/objects/refused";

async fn ask(app: &TestApp) -> Value {
    let (status, answer) = app.post(&app.organization.sender, "/v1/ingestion/upload-url", &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn put(answer: &Value, body: &[u8]) -> u16 {
    let given = answer["headers"].as_object().unwrap();
    let mut headers: Vec<(String, String)> =
        given.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
    headers.push(("content-length".to_owned(), body.len().to_string()));
    raw("PUT", answer["uploadUrl"].as_str().unwrap(), &headers, body).await.0
}

async fn uploaded(app: &TestApp, body: &[u8]) -> Value {
    let answer = ask(app).await;
    assert_eq!(put(&answer, body).await, 200);
    answer
}

fn key_of(answer: &Value) -> &str {
    answer["s3Key"].as_str().unwrap()
}

fn record(event: &str, bucket: &str, key: &str) -> Value {
    json!({"eventName": event, "s3": {"bucket": {"name": bucket}, "object": {"key": key.replace('/', "%2F")}}})
}

async fn notify(app: &TestApp, records: &[Value]) -> Value {
    let (status, answer) = app.post(&app.platform, EVENTS, &json!({"Records": records})).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn complete(app: &TestApp, answer: &Value) -> (u16, Value) {
    let path = format!("/v1/ingestion/uploads/{}/complete", answer["uploadId"].as_str().unwrap());
    app.post(&app.organization.sender, &path, &json!({})).await
}

async fn take(app: &App, key: &str) -> TakenUp {
    app.watcher.take_up(Hint::Sweep, BUCKET, key).await.unwrap()
}

async fn status(app: &TestApp, answer: &Value) -> Value {
    app.job(&job_of(answer)).await["status"].clone()
}

/// Rows that say that an object was taken up by this hint.
async fn found_by(app: &TestApp, hint: &str) -> i64 {
    sqlx::query_scalar("select count(*) from ingested_objects where status = 'ingested' and source = $1")
        .bind(hint)
        .fetch_one(&mut app.owner().await)
        .await
        .unwrap()
}

/// One row of each kind for each object, and the records agree.
async fn assert_each_once(app: &TestApp, objects: usize) {
    let objects = i64::try_from(objects).unwrap();
    for query in [
        "select count(*) from queue",
        "select count(distinct job_id) from queue",
        "select count(*) from jobs where status = 'queued' and source = 'upload' and size_bytes > 0",
        "select count(*) from ingested_objects where status = 'ingested'",
        "select count(distinct job_id) from ingested_objects",
        "select count(*) from audit_records where event = 'upload.arrived'",
        "select count(*) from queue q join ingested_objects o using (organization_id, job_id) where q.step = 0 and q.state = 'ready'",
    ] {
        assert_eq!(app.count(query).await, objects, "{query}");
    }
}

#[tokio::test]
async fn each_hint_alone_takes_an_object_up_once() {
    let mut app = TestApp::start().await;

    let told = ask(&app).await;
    let (code, early) = complete(&app, &told).await;
    assert_eq!((code, &early["code"]), (409, &json!("object_not_there")));
    assert_eq!(put(&told, b"{}").await, 200);
    for _ in 0..2 {
        let (code, view) = complete(&app, &told).await;
        assert_eq!((code, &view["status"], &view["jobId"]), (200, &json!("queued"), &told["jobId"]), "{view}");
    }
    assert_eq!(found_by(&app, "completion").await, 1);

    let noticed = uploaded(&app, b"{}").await;
    let created = [record("ObjectCreated:Put", BUCKET, key_of(&noticed))];
    let counts = |answer: &Value| ["takenUp", "known", "refused", "ignored"].map(|name| answer[name].as_u64().unwrap());
    assert_eq!(counts(&notify(&app, &created).await), [1, 0, 0, 0]);
    assert_eq!(counts(&notify(&app, &created).await), [0, 1, 0, 0]);

    let swept = uploaded(&app, b"{}").await;
    let first = app.app.watcher.sweep().await.unwrap();
    assert_eq!((first.listed, first.known, first.taken_up), (3, 2, 1), "{first:?}");
    let second = app.app.watcher.sweep().await.unwrap();
    assert_eq!((second.listed, second.known, second.taken_up, second.failed), (3, 3, 0, 0), "{second:?}");
    assert_eq!(status(&app, &swept).await, "queued");

    // The first sweep of a running watcher is over when it has found this one; the next one is half a minute away.
    let (_, nothing) = tokio::sync::mpsc::unbounded_channel();
    let created = std::mem::replace(&mut app.objects.created, nothing);
    let stop = CancellationToken::new();
    let sources = Sources { store: Some(created), queue: None };
    let running = tokio::spawn(app.app.watcher.clone().run(sources, stop.clone()));
    let mut seen = 0;
    for _ in 0..400 {
        seen = found_by(&app, "store").await;
        if seen > 0 {
            break;
        }
        uploaded(&app, b"{}").await;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(seen > 0, "the store's own event was not followed");
    stop.cancel();
    running.await.unwrap();
    let all = app.app.watcher.sweep().await.unwrap();
    assert_each_once(&app, all.listed).await;
}

#[tokio::test]
async fn hints_that_are_lost_doubled_and_reordered_make_one_job_an_object() {
    let objects: usize = std::env::var("CHARTGATE_TEST_OBJECTS").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    let app = TestApp::start().await;
    let body = |n: usize| format!("{{\"resourceType\":\"Basic\",\"id\":\"{n}\"}}\n").into_bytes();
    let answers: Vec<Value> = futures::stream::iter(0..objects)
        .map(|n| {
            let app = &app;
            async move { uploaded(app, &body(n)).await }
        })
        .buffer_unordered(4)
        .collect()
        .await;
    // Each object: no hint, or up to six of all kinds, in any order.
    let mut hints: Vec<(usize, u8)> = (0..objects)
        .flat_map(|object| (0..rand::random_range(0..=6)).map(move |_| (object, rand::random_range(0..3u8))))
        .collect();
    for at in (1..hints.len()).rev() {
        hints.swap(at, rand::random_range(0..=at));
    }
    println!("{} hints of {objects} objects", hints.len());
    let told = futures::stream::iter(hints).for_each_concurrent(6, |(object, kind)| {
        let (app, answer) = (&app, &answers[object]);
        async move {
            match kind {
                0 => assert_eq!(complete(app, answer).await.0, 200),
                1 => {
                    notify(app, &[record("s3:ObjectCreated:Put", BUCKET, key_of(answer))]).await;
                }
                _ => {
                    take(&app.app, key_of(answer)).await;
                }
            }
        }
    });
    let sweeping = async {
        for _ in 0..2 {
            app.app.watcher.sweep().await.unwrap();
        }
    };
    tokio::join!(told, sweeping);
    // What no hint told of.
    let last = app.app.watcher.sweep().await.unwrap();
    assert_eq!((last.listed, last.failed), (objects, 0));
    assert_each_once(&app, objects).await;
    let again = app.app.watcher.sweep().await.unwrap();
    assert_eq!((again.known, again.taken_up), (objects, 0), "known ones are not asked for");
}

#[tokio::test]
async fn forged_foreign_and_other_events_change_nothing() {
    let app = TestApp::start().await;
    let mine = uploaded(&app, b"{}").await;
    let waiting = ask(&app).await;
    let records = [
        record("ObjectRemoved:Delete", BUCKET, key_of(&mine)),
        record("ObjectCreated:Put", "other-bucket", key_of(&mine)),
        record("ObjectCreated:Put", BUCKET, "raw/org/abc"),
        record("ObjectCreated:Put", BUCKET, "../incoming/fhir/x"),
        // Its object did not come.
        record("ObjectCreated:Put", BUCKET, key_of(&waiting)),
        record("ObjectCreated:Put", BUCKET, &format!("incoming/fhir/{}/x.json", app.organization.id)),
        json!({"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": BUCKET}, "object": {"key": "incoming%2Fa%00b"}}}),
        json!({"eventName": "ObjectCreated:Put"}),
        json!([]),
    ];
    assert_eq!(notify(&app, &records).await, json!({"takenUp": 0, "known": 0, "refused": 0, "ignored": 9}));
    let test_event =
        json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-03-01T10:00:00.000Z", "Bucket": BUCKET});
    let (code, answer) = app.post(&app.platform, EVENTS, &test_event).await;
    assert_eq!((code, answer), (200, json!({"takenUp": 0, "known": 0, "refused": 0, "ignored": 0})));
    assert_each_once(&app, 0).await;
    assert_eq!(app.count("select count(*) from ingested_objects").await, 0);
    for answer in [&mine, &waiting] {
        assert_eq!(status(&app, answer).await, "awaiting_upload");
    }

    let json_body: &[(&str, &str)] = &[("content-type", "application/json")];
    let send = |body: Vec<u8>| call(&app, Method::POST, EVENTS, &app.platform, json_body, body);
    send(b"{\"Records\": [".to_vec()).await.problem(400, "invalid_json");
    send(vec![b' '; (1 << 20) + 1]).await.problem(413, "payload_too_large");
    let many: Vec<Value> = (0..1001).map(|n| record("ObjectCreated:Put", "b", &n.to_string())).collect();
    send(json!({"Records": many}).to_string().into_bytes()).await.problem(400, "invalid_request");
    let typed: &[(&str, &str)] = &[("content-type", "text/plain")];
    call(&app, Method::POST, EVENTS, &app.platform, typed, "{}").await.problem(415, "unsupported_media_type");
    call(&app, Method::POST, EVENTS, &app.organization.sender, json_body, "{}").await.problem(403, "forbidden");
    let other = app.organization("Other Hospital").await;
    let path = format!("/v1/ingestion/uploads/{}/complete", mine["uploadId"].as_str().unwrap());
    call(&app, Method::POST, &path, &other.sender, &[], "").await.problem(404, "job_not_found");
    assert_each_once(&app, 0).await;
}

#[tokio::test]
async fn a_late_object_revives_its_expired_job_and_a_cancelled_one_stays() {
    let app = TestApp::start().await;
    let (late, cancelled) = (ask(&app).await, ask(&app).await);
    let path = format!("/v1/ingestion/jobs/{}/cancel", job_of(&cancelled));
    assert_eq!(app.post(&app.organization.sender, &path, &json!({})).await.0, 200);
    app.advance(Duration::from_hours(26)).await;
    assert_eq!(expiry::expire(&app.app.db).await.unwrap(), 1);
    assert_eq!(status(&app, &late).await, "expired");
    for answer in [&late, &cancelled] {
        assert_eq!(put(answer, b"{}").await, 200);
    }
    let swept = app.app.watcher.sweep().await.unwrap();
    assert_eq!((swept.taken_up, swept.refused), (1, 1), "{swept:?}");
    let view = app.job(&job_of(&late)).await;
    assert_eq!((&view["status"], &view["finishedAt"]), (&json!("queued"), &Value::Null));
    assert_eq!(status(&app, &cancelled).await, "cancelled");
    assert_eq!(expiry::expire(&app.app.db).await.unwrap(), 0);
    assert_each_once(&app, 1).await;
    let refused = get(&app, &app.platform, REFUSED).await.json();
    assert_eq!(refused["objects"].as_array().unwrap().len(), 1);
    assert_eq!(refused["objects"][0]["reason"], "upload_cancelled");
}

#[tokio::test]
async fn objects_of_others_are_taken_up_or_refused_by_what_they_say() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let (own, stranger) = (app.organization.id, OrganizationId::new());
    app.app
        .db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move {
                sqlx::query("update organizations set status = 'paused' where id = $1")
                    .bind(own)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
        .unwrap();
    let waiting = ask(&app).await;
    let upload = waiting["uploadId"].as_str().unwrap();
    let said = |name: &'static str, value: &dyn std::fmt::Display| (name, value.to_string());
    let theirs = key_of(&waiting).replace(&own.to_string(), &other.id.to_string());
    let puts: Vec<(String, Vec<_>, Option<&str>)> = vec![
        (format!("incoming/fhir/{own}/Doe Jane+1.ndjson"), vec![], None),
        (format!("incoming/fhir/{own}/deep/er/x"), vec![said("organization_id", &own)], None),
        (format!("incoming/fhir/{own}/y.json"), vec![said("organization_id", &other.id)], Some("metadata_disagree")),
        (format!("incoming/fhir/{own}/z.json"), vec![said("upload_id", &upload)], Some("metadata_disagree")),
        (format!("incoming/fhir/{own}/w.json"), vec![said("organization_id", &"Jane")], Some("metadata_disagree")),
        // The key of an upload, without what its URL signs.
        (key_of(&waiting).to_owned(), vec![], Some("metadata_disagree")),
        // An upload of one organization below another one's name.
        (theirs, vec![said("organization_id", &own), said("upload_id", &upload)], Some("metadata_disagree")),
        (format!("incoming/fhir/{stranger}/x.json"), vec![], Some("organization_unknown")),
        ("incoming/fhir/Jane Doe/x.json".to_owned(), vec![], Some("organization_unknown")),
        ("incoming/Jane.json".to_owned(), vec![], Some("organization_unknown")),
    ];
    for (key, metadata, _) in &puts {
        app.objects.objects.put(key, "{}".into(), "application/json", metadata).await.unwrap();
    }
    app.objects.objects.put(&format!("incoming/fhir/{own}/"), "".into(), "text/plain", &[]).await.unwrap();
    let swept = app.app.watcher.sweep().await.unwrap();
    assert_eq!((swept.listed, swept.taken_up, swept.refused, swept.failed), (11, 2, 8, 0), "{swept:?}");
    for (key, _, reason) in &puts {
        let stored: Option<String> = sqlx::query_scalar("select reason from ingested_objects where storage_key = $1")
            .bind(key)
            .fetch_one(&mut app.owner().await)
            .await
            .unwrap();
        assert_eq!(stored.as_deref(), *reason, "{key}");
    }
    assert_each_once(&app, 2).await;
    let jobs = "select count(*) from jobs where submitted_by = 'watcher' and source_label = 'default' and workflow = 'bulk-upload'";
    assert_eq!(app.count(jobs).await, 2);
    assert_eq!(status(&app, &waiting).await, "awaiting_upload");

    let refused = get(&app, &app.platform, &format!("{REFUSED}?limit=500")).await.json();
    assert_eq!(refused["objects"].as_array().unwrap().len(), 8);
    assert!(!refused.to_string().contains("Jane") && refused.to_string().contains(&own.to_string()), "{refused}");
    get(&app, &app.platform, &format!("{REFUSED}?limit=0")).await.problem(400, "invalid_parameter");
    get(&app, &app.organization.admin, REFUSED).await.problem(403, "forbidden");
    assert_eq!(app.count("select count(*) from audit_records where event = 'upload.refused'").await, 8);
    let again = app.app.watcher.sweep().await.unwrap();
    assert_eq!((again.known, again.taken_up + again.refused), (10, 0), "{again:?}");
}

#[tokio::test]
async fn pages_of_refused_objects_leave_none_out_though_they_were_seen_at_one_instant() {
    let app = TestApp::start().await;
    let rows = "insert into ingested_objects (bucket, storage_key, generation, status, reason, source, first_seen_at, size_bytes)
                select 'b', 'incoming/' || n, 'g', 'refused', 'organization_unknown', 'sweep',
                       timestamptz '2026-01-01' + n / 5 * interval '1 s', n from generate_series(0, 19) n";
    sqlx::query(rows).execute(&mut app.owner().await).await.unwrap();
    let (mut sizes, mut before) = (Vec::new(), String::new());
    loop {
        let page = get(&app, &app.platform, &format!("{REFUSED}?limit=3{before}")).await.json();
        let objects = page["objects"].as_array().unwrap();
        let Some(last) = objects.last() else { break };
        before = format!("&before={}", last["firstSeenAt"].as_str().unwrap());
        sizes.extend(objects.iter().map(|object| object["sizeBytes"].as_i64().unwrap()));
    }
    sizes.sort_unstable();
    assert_eq!(sizes, (0..20).collect::<Vec<i64>>());
}

#[tokio::test]
async fn watchers_that_race_for_an_object_make_one_job() {
    let app = TestApp::start().await;
    let foreign = format!("incoming/fhir/{}/nightly.ndjson", app.organization.id);
    app.objects.objects.put(&foreign, "{}".into(), "application/fhir+ndjson", &[]).await.unwrap();
    let ours = uploaded(&app, b"{}").await;
    let second =
        App::build(app.app.config.clone(), app.owner_options.clone(), app.objects.objects.clone()).await.unwrap();
    for key in [key_of(&ours), foreign.as_str()] {
        let races = (0..12).map(|n| {
            let watching: &Arc<App> = if n % 2 == 0 { &app.app } else { &second };
            take(watching, key)
        });
        let taken = futures::future::join_all(races).await;
        let won = taken.iter().filter(|taken| matches!(taken, TakenUp::Job(..))).count();
        let lost = taken.iter().filter(|taken| **taken == TakenUp::Known).count();
        assert_eq!((won, lost), (1, 11), "{taken:?}");
    }
    assert_each_once(&app, 2).await;

    // The job's steps find their object, of this organization only.
    let job: JobId = job_of(&ours).parse().unwrap();
    let head = app.objects.objects.head(key_of(&ours)).await.unwrap().unwrap();
    let look = async |organization: OrganizationId| {
        let found = app.app.db.unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(of_job(connection, organization, job))
        });
        found.await.unwrap()
    };
    let object = look(app.organization.id).await.unwrap();
    assert_eq!((object.storage_key.as_str(), object.generation), (key_of(&ours), generation_of(&head)));
    assert_eq!((object.etag, object.size_bytes, object.removed_at), (head.etag, 2, None));
    assert!(look(app.organization("Other Hospital").await.id).await.is_none());
}

#[tokio::test]
async fn an_object_that_is_gone_or_replaced_makes_no_second_job() {
    let app = TestApp::start().await;
    let gone = uploaded(&app, b"{}").await;
    app.objects.objects.delete(key_of(&gone)).await.unwrap();
    assert_eq!(take(&app.app, key_of(&gone)).await, TakenUp::Absent);
    assert_eq!(status(&app, &gone).await, "awaiting_upload");
    // The URL is still good.
    assert_eq!(put(&gone, b"{}").await, 200);
    assert!(matches!(take(&app.app, key_of(&gone)).await, TakenUp::Job(..)));
    // Another object under the same key.
    app.objects.objects.delete(key_of(&gone)).await.unwrap();
    assert_eq!(put(&gone, b"[1]").await, 200);
    assert_eq!(take(&app.app, key_of(&gone)).await, TakenUp::Refused("upload_repeated"));
    assert_eq!(complete(&app, &gone).await.0, 200);
    assert_each_once(&app, 1).await;
}

#[tokio::test]
async fn what_is_of_no_more_use_is_deleted_and_nothing_earlier() {
    let app = TestApp::start().await;
    let objects = &app.objects.objects;
    let (stored, unstored, running) =
        (uploaded(&app, b"{}").await, uploaded(&app, b"[]").await, uploaded(&app, b"[1]").await);
    let refused = "incoming/nobody.json";
    objects.put(refused, "{}".into(), "application/json", &[]).await.unwrap();
    app.app.watcher.sweep().await.unwrap();
    // Of somebody else, and of a worker that was killed while it wrote an outcome file.
    for key in ["incoming/fhir/big", "outcomes/org/job.ndjson"] {
        let unfinished = app.objects.sdk().create_multipart_upload().bucket(BUCKET).key(key).send().await.unwrap();
        assert!(unfinished.upload_id.is_some());
    }
    let ended = [(&stored, true), (&unstored, false)];
    for (answer, has_bytes) in ended {
        let job: JobId = job_of(answer).parse().unwrap();
        let mut owner = app.owner().await;
        let (organization, id) = (app.organization.id, job.0);
        if has_bytes {
            sqlx::query(
                "insert into payloads values ($1, sha256('{}'), 2, 'application/json', null, 'raw/x', now(), now())",
            )
            .bind(organization)
            .execute(&mut owner)
            .await
            .unwrap();
            sqlx::query("update jobs set payload_sha256 = sha256('{}') where id = $1")
                .bind(id)
                .execute(&mut owner)
                .await
                .unwrap();
        }
        sqlx::query("update jobs set status = 'succeeded', finished_at = chartgate_now() where id = $1")
            .bind(id)
            .execute(&mut owner)
            .await
            .unwrap();
        sqlx::query("delete from queue where job_id = $1").bind(id).execute(&mut owner).await.unwrap();
    }
    let there = async |answer: &Value| objects.head(key_of(answer)).await.unwrap().is_some();

    // Its URL would admit a second PUT.
    assert_eq!(app.app.watcher.tidy().await.unwrap().removed, 0);
    assert!(there(&stored).await);
    app.advance(Duration::from_mins(61)).await;
    let tidied = app.app.watcher.tidy().await.unwrap();
    assert_eq!((tidied.removed, tidied.aborted), (1, 0));
    assert!(!there(&stored).await && there(&unstored).await && there(&running).await);

    app.advance(Duration::from_hours(24)).await;
    let tidied = app.app.watcher.tidy().await.unwrap();
    assert_eq!((tidied.removed, tidied.aborted), (0, 2), "the multipart uploads");
    assert!(objects.unfinished_uploads("").await.unwrap().is_empty());
    assert!(objects.head(refused).await.unwrap().is_some());

    app.advance(Duration::from_hours(24 * 29)).await;
    assert_eq!(app.app.watcher.tidy().await.unwrap().removed, 2);
    assert!(objects.head(refused).await.unwrap().is_none() && !there(&unstored).await);
    assert!(there(&running).await, "its job has not ended");
    assert_eq!(app.app.watcher.tidy().await.unwrap().removed, 0);
    assert_eq!(app.count("select count(*) from audit_records where event = 'upload.removed'").await, 3);
    assert_eq!(app.count("select count(*) from ingested_objects where removed_at is not null").await, 3);
}

#[tokio::test]
async fn an_organization_has_only_so_many_uploads_that_wait() {
    let app = TestApp::start().await;
    app.app
        .db
        .unit::<_, DbError, _>(Scope::Organization(app.organization.id), {
            let organization = app.organization.id;
            move |connection| {
                Box::pin(async move {
                    sqlx::query(
                        "insert into uploads (organization_id, id, job_id, bucket, storage_key, content_type, expires_at, created_at)
                         select $1, gen_random_uuid(), gen_random_uuid(), 'b', 'k', 'application/json', now(), now() from generate_series(1, 9999)",
                    )
                    .bind(organization)
                    .execute(connection)
                    .await?;
                    Ok(())
                })
            }
        })
        .await
        .unwrap();
    let last = ask(&app).await;
    let refused = call(&app, Method::POST, "/v1/ingestion/upload-url", &app.organization.sender, &[], "").await;
    assert_eq!(refused.problem(429, "too_many_uploads")["retryable"], true);
    // One that is cancelled waits for nothing any more.
    let path = format!("/v1/ingestion/jobs/{}/cancel", job_of(&last));
    assert_eq!(app.post(&app.organization.sender, &path, &json!({})).await.0, 200);
    let last = ask(&app).await;
    let refused = call(&app, Method::POST, "/v1/ingestion/upload-url", &app.organization.sender, &[], "").await;
    refused.problem(429, "too_many_uploads");
    let other = app.organization("Other Hospital").await;
    assert_eq!(app.post(&other.sender, "/v1/ingestion/upload-url", &json!({})).await.0, 200);
    // One that has its object does not count.
    assert_eq!(put(&last, b"{}").await, 200);
    assert_eq!(complete(&app, &last).await.0, 200);
    ask(&app).await;
}
