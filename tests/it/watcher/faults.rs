//! An S3 that refuses single requests, or is away: what cannot be looked at or deleted keeps nothing else waiting.

use super::found_by;
use crate::support::app::{Setup, TestApp};
use crate::support::faulty_s3::FaultyS3;
use crate::support::objects::{BUCKET, TestObjects};
use chartgate::auth::store::insert_organization;
use chartgate::db::{DbError, Scope};
use chartgate::ids::OrganizationId;
use chartgate::objects::{Objects, ObjectsOptions};
use chartgate::uploads::watcher::WatchError;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An application that reaches its S3 through one that can be told to refuse.
async fn app() -> (TestApp, FaultyS3) {
    let faulty: Arc<Mutex<Option<FaultyS3>>> = Arc::default();
    let slot = Arc::clone(&faulty);
    let through = Box::new(move |objects: &TestObjects| {
        let faulty = FaultyS3::start(&objects.endpoint());
        let options = ObjectsOptions { endpoint: Some(faulty.endpoint()), ..objects.client_options() };
        *slot.lock().unwrap() = Some(faulty);
        Objects::connect(&options)
    });
    let app = TestApp::with(Setup { s3: Some(through), ..Setup::default() }).await;
    let faulty = faulty.lock().unwrap().clone().unwrap();
    (app, faulty)
}

async fn put(app: &TestApp, key: &str) {
    app.objects.objects.put(key, "{}".into(), "application/json", &[]).await.unwrap();
}

#[tokio::test]
async fn an_object_that_cannot_be_looked_at_keeps_none_behind_it_waiting() {
    let (app, s3) = app().await;
    for name in 0..20 {
        put(&app, &format!("incoming/fhir/{}/{name:02}.json", app.organization.id)).await;
    }
    s3.refuse(|method, path| (method == "HEAD" && path.ends_with("/03.json")).then_some((503, "SlowDown")));
    let swept = app.app.watcher.sweep().await.unwrap();
    assert_eq!((swept.listed, swept.taken_up, swept.failed), (20, 19, 1), "{swept:?}");
    s3.refuse(|_, _| None);
    let swept = app.app.watcher.sweep().await.unwrap();
    assert_eq!((swept.known, swept.taken_up, swept.failed), (19, 1, 0), "{swept:?}");
    assert_eq!(found_by(&app, "sweep").await, 20);
    // An S3 that is away is not asked for every object.
    for name in 20..60 {
        put(&app, &format!("incoming/fhir/{}/{name:02}.json", app.organization.id)).await;
    }
    let asked: Arc<Mutex<usize>> = Arc::default();
    let count = Arc::clone(&asked);
    s3.refuse(move |method, _| {
        let is_head = method == "HEAD";
        *count.lock().unwrap() += usize::from(is_head);
        is_head.then_some((503, "SlowDown"))
    });
    let ended = app.app.watcher.sweep().await;
    assert!(matches!(&ended, Err(WatchError::Objects(error)) if error.is_transient()), "{ended:?}");
    // Ten in a row, those that were on their way, and each tried twice.
    assert!(*asked.lock().unwrap() <= 2 * 16, "{}", asked.lock().unwrap());
}

#[tokio::test]
async fn an_object_that_cannot_be_deleted_is_left_for_a_day_and_the_others_go() {
    let (app, s3) = app().await;
    for name in ["a", "b", "c"] {
        put(&app, &format!("incoming/{name}.json")).await;
    }
    assert_eq!(app.app.watcher.sweep().await.unwrap().refused, 3);
    app.objects.sdk().create_multipart_upload().bucket(BUCKET).key("incoming/big").send().await.unwrap();
    app.advance(Duration::from_hours(24 * 31)).await;
    s3.refuse(|method, path| (method == "DELETE" && path.ends_with("/a.json")).then_some((405, "MethodNotAllowed")));
    let tidied = app.app.watcher.tidy().await.unwrap();
    assert_eq!((tidied.removed, tidied.failed, tidied.aborted), (2, 1, 1), "{tidied:?}");
    s3.refuse(|_, _| None);
    let tidied = app.app.watcher.tidy().await.unwrap();
    assert_eq!((tidied.removed, tidied.failed), (0, 0), "{tidied:?}");
    app.advance(Duration::from_hours(25)).await;
    assert_eq!(app.app.watcher.tidy().await.unwrap().removed, 1);
    assert!(app.objects.objects.list("incoming/", None, 10).await.unwrap().is_empty());
    assert_eq!(app.count("select count(*) from audit_records where event = 'upload.removed'").await, 3);
}

/// In a thread of its own, for a rule that must not wait for this runtime.
fn run_as_owner(owner: &PgConnectOptions, statement: &'static str, key: String) {
    let owner = owner.clone();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut connection = PgConnection::connect_with(&owner).await.unwrap();
            sqlx::query(statement).bind(key).execute(&mut connection).await.unwrap();
        });
    };
    std::thread::spawn(run).join().unwrap();
}

#[tokio::test]
async fn an_object_whose_job_is_retried_while_others_are_deleted_stays() {
    let (app, s3) = app().await;
    for name in ["a", "b", "c"] {
        put(&app, &format!("incoming/fhir/{}/{name}.json", app.organization.id)).await;
    }
    assert_eq!(app.app.watcher.sweep().await.unwrap().taken_up, 3);
    let jobs = app.get(&app.organization.admin, "/v1/ingestion/jobs").await.1;
    for job in jobs["jobs"].as_array().unwrap() {
        let path = format!("/v1/ingestion/jobs/{}/cancel", job["jobId"].as_str().unwrap());
        assert_eq!(app.post(&app.organization.sender, &path, &json!({})).await.0, 200);
    }
    app.advance(Duration::from_hours(24 * 31)).await;
    // When the first is deleted, the jobs of the others are retried, as `retry_job()` leaves them.
    let owner = app.owner_options.clone();
    let retried: Arc<Mutex<bool>> = Arc::default();
    let done = Arc::clone(&retried);
    s3.refuse(move |method, path| {
        let is_first = method == "DELETE" && !std::mem::replace(&mut *done.lock().unwrap(), true);
        if is_first {
            let retry = "update jobs set status = 'queued', finished_at = null
                         where id in (select job_id from ingested_objects where $1 not like '%' || storage_key)";
            run_as_owner(&owner, retry, path.to_owned());
        }
        None
    });
    let tidied = app.app.watcher.tidy().await.unwrap();
    assert_eq!((tidied.removed, tidied.failed), (1, 0), "{tidied:?}");
    assert!(*retried.lock().unwrap());
    assert_eq!(app.objects.objects.list("incoming/", None, 10).await.unwrap().len(), 2);
    assert_eq!(app.count("select count(*) from ingested_objects where removed_at is null").await, 2);
}

#[tokio::test]
async fn multipart_uploads_are_aborted_and_texts_deleted_though_no_object_can_be() {
    let (app, s3) = app().await;
    for name in 0..15 {
        put(&app, &format!("incoming/{name:02}.json")).await;
    }
    assert_eq!(app.app.watcher.sweep().await.unwrap().refused, 15);
    for key in ["incoming/big", "outcomes/big"] {
        app.objects.sdk().create_multipart_upload().bucket(BUCKET).key(key).send().await.unwrap();
    }
    app.advance(Duration::from_hours(24 * 31)).await;
    s3.refuse(|method, path| (method == "DELETE" && path.contains(".json")).then_some((403, "AccessDenied")));
    // After ten in a row it is given up for this time; the next time begins with the others.
    assert!(app.app.watcher.tidy().await.is_err());
    assert!(app.objects.objects.unfinished_uploads("").await.unwrap().is_empty());
    assert_eq!(app.count("select count(*) from ingested_objects where removal_failed_at is not null").await, 10);
    s3.refuse(|_, _| None);
    assert_eq!(app.app.watcher.tidy().await.unwrap().removed, 5);
    app.advance(Duration::from_hours(25)).await;
    assert_eq!(app.app.watcher.tidy().await.unwrap().removed, 10);
}

#[tokio::test]
async fn a_precondition_that_fails_without_a_word_is_another_object() {
    let (app, s3) = app().await;
    put(&app, "k").await;
    let head = app.objects.objects.head("k").await.unwrap().unwrap();
    s3.refuse(|method, _| (method == "DELETE").then_some((412, "")));
    app.app.objects.delete_matching("k", &head.etag).await.unwrap();
    assert!(app.objects.objects.head("k").await.unwrap().is_some());
}

/// Make the stored object look as if so many bytes had been put: a hole, and the record behind it.
fn swell(dir: &Path, key: &str, size: u64) {
    let name = hex::encode(Sha256::digest(key));
    let path = dir.join("buckets").join(BUCKET).join("objects").join(&name[..2]).join(&name);
    let mut file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let footer = bytes.len() - 16;
    let length = usize::try_from(u64::from_le_bytes(bytes[footer..footer + 8].try_into().unwrap())).unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&bytes[footer - length..footer]).unwrap();
    record["size"] = size.into();
    let record = serde_json::to_vec(&record).unwrap();
    file.set_len(0).unwrap();
    file.seek(SeekFrom::Start(size)).unwrap();
    file.write_all(&record).unwrap();
    file.write_all(&(record.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&bytes[footer + 8..]).unwrap();
}

#[tokio::test]
async fn an_object_that_is_larger_than_one_put_carries_is_refused() {
    let organization = OrganizationId::new();
    let name = |name: &str| format!("incoming/fhir/{organization}/{name}.ndjson");
    let store = TestObjects::start().await;
    for key in [name("largest"), name("larger")] {
        store.objects.put(&key, "{}".into(), "application/fhir+ndjson", &[]).await.unwrap();
    }
    let store = store
        .restart(|dir| {
            swell(&dir, &name("largest"), 5 << 30);
            swell(&dir, &name("larger"), (5 << 30) + 1);
        })
        .await;
    let objects = store.objects.clone();
    let app = TestApp::with(Setup { s3: Some(Box::new(move |_| objects.clone())), ..Setup::default() }).await;
    app.app
        .db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move { insert_organization(connection, organization, "Large Hospital").await })
        })
        .await
        .unwrap()
        .unwrap();
    let swept = app.app.watcher.sweep().await.unwrap();
    assert_eq!((swept.taken_up, swept.refused), (1, 1), "{swept:?}");
    let refused: (String, i64) =
        sqlx::query_as("select reason, size_bytes from ingested_objects where status = 'refused'")
            .fetch_one(&mut app.owner().await)
            .await
            .unwrap();
    assert_eq!(refused, ("too_large".to_owned(), (5 << 30) + 1));
}
