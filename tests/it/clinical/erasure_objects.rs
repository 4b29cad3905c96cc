//! Objects of erasures: what cannot be deleted, what comes late, and what is somebody else's.

use super::Clinic;
use super::erasure::{by, end_jobs, hash, ingest_all, purge};
use super::linking_decisions::patient_of;
use super::linking_rules::{about, person};
use crate::bulk::{Bulk, File, Order, gzip};
use crate::support::faulty_s3::FaultyS3;
use chartgate::config::RetentionConfig;
use chartgate::db::{DbError, Scope};
use chartgate::ids::{JobId, OrganizationId};
use chartgate::ingest::erasure::retention::Retention;
use chartgate::ingest::erasure::{EraseError, Eraser, Target};
use chartgate::objects::{Objects, ObjectsOptions};
use chartgate::uploads::watcher::store::generation_of;
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

const AMY: &str = "Shaw Amy 1987-02-20";
const BOB: &str = "Reed Bob 1950-11-03";

fn body(resources: &[Value]) -> (String, &'static str) {
    (super::bundle("batch", resources).to_string(), "ehr")
}

fn raw(organization: OrganizationId, body: &str) -> String {
    format!("raw/{organization}/{}", hex::encode(hash(body)))
}

fn eraser(clinic: &Clinic) -> Eraser {
    Eraser::new(clinic.db.clone(), clinic.objects.objects.clone())
}

/// With an object storage that does what it is told.
fn eraser_at(clinic: &Clinic, endpoint: String, timeout: Duration) -> Eraser {
    let options = ObjectsOptions { endpoint: Some(endpoint), timeout, ..clinic.objects.client_options() };
    Eraser::new(clinic.db.clone(), Objects::connect(&options))
}

async fn advance(clinic: &Clinic, hours: i64) {
    sqlx::query(
        "insert into clock_offset (offset_us) values ($1 * 3600000000)
         on conflict (single) do update set offset_us = clock_offset.offset_us + excluded.offset_us",
    )
    .bind(hours)
    .execute(&mut clinic.owner().await)
    .await
    .unwrap();
}

async fn run_sql(clinic: &Clinic, sql: &'static str) {
    sqlx::query(sql).execute(&mut clinic.owner().await).await.unwrap();
}

async fn is_there(clinic: &Clinic, key: &str) -> bool {
    clinic.objects.objects.head(key).await.unwrap().is_some()
}

#[tokio::test]
async fn an_object_that_cannot_be_deleted_keeps_nothing_else_from_going() {
    let clinic = Clinic::open().await;
    let mut amys = [
        body(&[person("a", &["h|1"], AMY), about("c", "urn:uuid:a")]),
        body(&[person("a", &["h|1"], AMY), about("d", "urn:uuid:a")]),
    ];
    let bob = body(&[person("b", &["h|2"], BOB)]);
    ingest_all(&clinic, &[&amys[0], &amys[1], &bob]).await;
    // The first in the order of keys is locked.
    amys.sort_by_key(|body| hash(&body.0));
    let faulty = FaultyS3::start(&clinic.objects.endpoint());
    let locked = hex::encode(hash(&amys[0].0));
    faulty.refuse(move |method, path| {
        (*method == Method::DELETE && path.ends_with(&locked)).then_some((403, "AccessDenied"))
    });
    let eraser = eraser_at(&clinic, faulty.endpoint(), Duration::from_secs(5));
    let target = Target::Patient { patient: patient_of(&clinic, "1").await, shared_too: false };
    let stuck = eraser.purge(clinic.organization, target, by(), Duration::from_mins(1)).await;
    assert!(matches!(stuck, Err(EraseError::Objects(_))), "{stuck:?}");
    let [first, second] = [0, 1].map(|n: usize| raw(clinic.organization, &amys[n].0));
    assert!(is_there(&clinic, &first).await);
    assert!(!is_there(&clinic, &second).await, "the object behind it is gone");

    // An erasure behind it, of which nothing but the decision was done.
    let begun = eraser.purge(clinic.organization, hash(&bob.0), by(), Duration::ZERO).await.unwrap();
    assert_eq!(begun.status, "rows");
    assert!(matches!(eraser.finish_all().await, Err(EraseError::Objects(_))), "it says that one is stuck");
    assert!(!is_there(&clinic, &raw(clinic.organization, &bob.0)).await);
    assert_eq!(purge(&clinic, &bob.0).await.unwrap().status, "finished");
    assert_eq!(
        clinic.count("select count(*) from erasures where status <> 'finished' and failed_at is not null").await,
        1
    );

    faulty.refuse(|_, _| None);
    assert_eq!(eraser.finish_all().await.unwrap(), 1);
    assert!(!is_there(&clinic, &first).await);
}

#[tokio::test]
async fn retention_that_is_stuck_in_one_organization_goes_on_in_the_others() {
    let mut clinic = Clinic::open().await;
    let (first, stuck) = (clinic.organization, body(&[person("a", &["h|1"], AMY)]));
    ingest_all(&clinic, &[&stuck]).await;
    let second = OrganizationId::new();
    clinic
        .db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move {
                sqlx::query("insert into organizations (id, name, settings) values ($1, $1::uuid::text, '{}')")
                    .bind(second)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
        .unwrap();
    clinic.organization = second;
    let other = body(&[person("b", &["h|2"], BOB)]);
    ingest_all(&clinic, &[&other]).await;
    advance(&clinic, 24 * 20).await;
    let faulty = FaultyS3::start(&clinic.objects.endpoint());
    let locked = hex::encode(hash(&stuck.0));
    faulty.refuse(move |method, path| {
        (*method == Method::DELETE && path.ends_with(&locked)).then_some((403, "AccessDenied"))
    });
    let config = RetentionConfig { jobs_days: None, payloads_days: Some(5), findings_days: None };
    let retention = Retention::new(eraser_at(&clinic, faulty.endpoint(), Duration::from_secs(5)), config);
    assert!(matches!(retention.round().await, Err(EraseError::Objects(_))));
    assert!(is_there(&clinic, &raw(first, &stuck.0)).await);
    assert!(!is_there(&clinic, &raw(second, &other.0)).await);
    faulty.refuse(|_, _| None);
    assert_eq!(eraser(&clinic).finish_all().await.unwrap(), 1);
    assert!(!is_there(&clinic, &raw(first, &stuck.0)).await);
}

#[tokio::test]
async fn what_a_worker_puts_after_the_purge_is_found_and_goes() {
    let clinic = Clinic::open().await;
    let sent = body(&[person("a", &["h|1"], AMY)]);
    ingest_all(&clinic, &[&sent]).await;
    run_sql(&clinic, "update jobs set status = 'cancelled'").await;
    assert_eq!(purge(&clinic, &sent.0).await.unwrap().status, "finished");
    let (eraser, key) = (eraser(&clinic), raw(clinic.organization, &sent.0));
    assert_eq!(eraser.look_again().await.unwrap(), 0, "not yet");
    // Once within the hour, once within the day.
    for (hours, waiting) in [(2, 1), (24, 0)] {
        clinic.objects.objects.put(&key, sent.0.clone().into(), "application/fhir+json", &[]).await.unwrap();
        advance(&clinic, hours).await;
        assert_eq!(eraser.look_again().await.unwrap(), 1);
        assert!(!is_there(&clinic, &key).await);
        assert_eq!(eraser.look_again().await.unwrap(), 0);
        assert_eq!(clinic.count("select count(*) from erased_objects").await, waiting);
    }
    let told = "select count(*) from audit_records where event = 'erasure.objects_found_again'";
    assert_eq!(clinic.count(told).await, 2);
    assert_eq!(purge(&clinic, &sent.0).await.unwrap().counts.get("objects"), Some(&3), "the erasure counts them");
}

#[tokio::test]
async fn of_a_job_that_ended_long_ago_nothing_is_looked_for_again() {
    let clinic = Clinic::open().await;
    let sent = body(&[person("a", &["h|1"], AMY)]);
    ingest_all(&clinic, &[&sent]).await;
    advance(&clinic, 25).await;
    assert_eq!(purge(&clinic, &sent.0).await.unwrap().status, "finished");
    assert_eq!(clinic.count("select count(*) from erased_objects").await, 0);
}

/// A file of so many Patients, ingested.
async fn ingested(bulk: &Bulk, patients: usize) -> (File, [u8; 32]) {
    let line = |n| json!({"resourceType": "Patient", "id": format!("p{n}"), "gender": "female"}).to_string() + "\n";
    let body = gzip((0..patients).map(line).collect::<String>().as_bytes());
    let file = bulk.take_up(&body, "ehr").await;
    assert_eq!(bulk.run(&file, Order::Forwards).await.code(), "none");
    end_jobs(&bulk.clinic).await;
    (file, Sha256::digest(&body).into())
}

#[tokio::test]
async fn a_file_that_was_cancelled_in_its_copy_can_be_erased() {
    let bulk = Bulk::open().await;
    let (_, hash) = ingested(&bulk, 3).await;
    // As if the copy had ended behind the cancellation: no row says that it is there.
    run_sql(&bulk.clinic, "delete from payloads").await;
    run_sql(&bulk.clinic, "update jobs set status = 'cancelled'").await;
    let (eraser, organization) = (eraser(&bulk.clinic), bulk.clinic.organization);
    let done = eraser.purge(organization, hash, by(), Duration::from_mins(1)).await.unwrap();
    assert_eq!(done.status, "finished");
    assert!(bulk.clinic.objects.objects.list("raw/", None, 10).await.unwrap().is_empty());
    assert_eq!(bulk.clinic.count("select count(*) from payloads where purged_at is not null").await, 1);
    let unknown = eraser.purge(organization, [0; 32], by(), Duration::from_mins(1)).await;
    assert!(matches!(unknown, Err(EraseError::PayloadNotFound)));
}

#[tokio::test]
async fn a_newer_object_under_the_same_name_stays_and_the_name_of_the_erased_one_goes() {
    let bulk = Bulk::open().await;
    let ((replaced, first), (kept, second)) = (ingested(&bulk, 3).await, ingested(&bulk, 4).await);
    let objects = &bulk.clinic.objects.objects;
    // Put by others: no upload of ours.
    run_sql(&bulk.clinic, "update ingested_objects set upload_id = null").await;
    run_sql(&bulk.clinic, "delete from uploads").await;
    objects.put(&replaced.key, "the next night's".into(), "application/fhir+ndjson", &[]).await.unwrap();
    let head = objects.head(&replaced.key).await.unwrap().unwrap();
    let (organization, key, generation) = (bulk.clinic.organization, replaced.key.clone(), generation_of(&head));
    sqlx::query(
        "insert into ingested_objects (bucket, storage_key, generation, organization_id, job_id, status, source, first_seen_at, etag)
         values ($1, $2, $3, $4, $5, 'ingested', 'test', chartgate_now(), $6)",
    )
    .bind(objects.bucket())
    .bind(key)
    .bind(generation)
    .bind(organization)
    .bind(JobId::new())
    .bind(&head.etag)
    .execute(&mut bulk.clinic.owner().await)
    .await
    .unwrap();
    for hash in [first, second] {
        let planned = eraser(&bulk.clinic).rehearse(organization, hash, by()).await.unwrap();
        let done = eraser(&bulk.clinic).purge(organization, hash, by(), Duration::from_mins(1)).await.unwrap();
        assert_eq!((done.status.as_str(), &done.counts), ("finished", &planned.counts));
    }
    assert_eq!(objects.get(&replaced.key).await.unwrap(), "the next night's");
    assert!(!is_there(&bulk.clinic, &kept.key).await);
    for (rows, expected) in [
        ("select count(*) from ingested_objects where removed_at is null and storage_key like 'incoming/%'", 1),
        ("select count(*) from ingested_objects where removed_at is not null and storage_key like 'erased/%'", 2),
    ] {
        assert_eq!(bulk.clinic.count(rows).await, expected, "{rows}");
    }
}

#[tokio::test]
async fn the_name_of_an_object_that_went_before_goes_with_the_payload() {
    let bulk = Bulk::open().await;
    let (_, hash) = ingested(&bulk, 3).await;
    run_sql(&bulk.clinic, "update ingested_objects set upload_id = null, removed_at = chartgate_now()").await;
    eraser(&bulk.clinic).purge(bulk.clinic.organization, hash, by(), Duration::from_mins(1)).await.unwrap();
    let named = "select count(*) from ingested_objects where storage_key like 'incoming/%'";
    assert_eq!(bulk.clinic.count(named).await, 0);
}

#[tokio::test]
async fn a_dry_run_of_a_large_file_only_counts_and_counts_all_objects() {
    let bulk = Bulk::open().await;
    let (file, hash) = ingested(&bulk, 2_100).await;
    let (objects, organization) = (&bulk.clinic.objects.objects, bulk.clinic.organization);
    // More texts than one listing tells.
    futures::stream::iter(0..1_010)
        .for_each_concurrent(20, |n| async move {
            let key = format!("chunks/{organization}/{}/more/{n}", file.job);
            objects.put(&key, "x".into(), "text/plain", &[]).await.unwrap();
        })
        .await;
    let planned = eraser(&bulk.clinic).rehearse(organization, hash, by()).await.unwrap();
    assert_eq!((planned.status.as_str(), planned.estimated), ("planned", true));
    let done = eraser(&bulk.clinic).purge(organization, hash, by(), Duration::from_mins(5)).await.unwrap();
    assert_eq!((done.status.as_str(), done.estimated), ("finished", false));
    for counted in ["clinical_events", "findings", "patient_links", "bulk_plans", "payloads", "objects"] {
        assert_eq!(planned.counts.get(counted), done.counts.get(counted), "{counted}");
    }
    assert_eq!(planned.counts.get("clinical_events"), Some(&2_100));
    assert!(planned.counts.get("objects") > Some(&1_010), "{planned:?}");
}

#[tokio::test]
async fn a_dry_run_waits_for_nobody_who_decides_and_tells_nothing_without_object_storage() {
    let clinic = Clinic::open().await;
    let sent = body(&[person("a", &["h|1"], AMY)]);
    ingest_all(&clinic, &[&sent]).await;
    let faulty = FaultyS3::start(&clinic.objects.endpoint());
    faulty.refuse(|_, _| Some((403, "AccessDenied")));
    let away = eraser_at(&clinic, faulty.endpoint(), Duration::from_secs(5));
    let uncounted = away.rehearse(clinic.organization, hash(&sent.0), by()).await;
    assert!(matches!(uncounted, Err(EraseError::Uncounted(_))), "{uncounted:?}");
    assert_eq!(clinic.count("select count(*) from payloads where purged_at is not null").await, 0);

    let mut owner = clinic.owner().await;
    let lock = "select pg_advisory_lock(hashtextextended('chartgate.holds:' || $1::uuid::text, 0))";
    sqlx::query(lock).bind(clinic.organization).execute(&mut owner).await.unwrap();
    let eraser = eraser(&clinic);
    let rehearsal = eraser.rehearse(clinic.organization, hash(&sent.0), by());
    let lost = tokio::time::timeout(Duration::from_secs(20), rehearsal).await.expect("it does not wait for the lock");
    assert!(matches!(lost, Err(EraseError::Db(DbError::Conflict(_)))), "{lost:?}");
}

#[tokio::test]
async fn a_purge_answers_in_time_whatever_object_storage_does() {
    let clinic = Clinic::open().await;
    let sent = body(&[person("a", &["h|1"], AMY)]);
    ingest_all(&clinic, &[&sent]).await;
    // It takes connections, and never answers.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", mute.local_addr().unwrap());
    let eraser = eraser_at(&clinic, endpoint, Duration::from_secs(40));
    let purge = eraser.purge(clinic.organization, hash(&sent.0), by(), Duration::from_secs(2));
    let answer = tokio::time::timeout(Duration::from_secs(20), purge).await.expect("it answers in time");
    assert_eq!(answer.unwrap().status, "objects");
}

#[tokio::test]
async fn a_job_that_is_tried_again_while_the_purge_decides_is_seen() {
    let clinic = Clinic::open().await;
    let sent = body(&[person("a", &["h|1"], AMY)]);
    ingest_all(&clinic, &[&sent]).await;
    let mut owner = clinic.owner().await;
    sqlx::raw_sql("begin; update jobs set status = 'queued', finished_at = null").execute(&mut owner).await.unwrap();
    let (eraser, organization, sha256) = (eraser(&clinic), clinic.organization, hash(&sent.0));
    let purge = tokio::spawn(async move { eraser.purge(organization, sha256, by(), Duration::from_mins(1)).await });
    let mut watch = clinic.owner().await;
    let waits = "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'";
    while !purge.is_finished() && sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut watch).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    sqlx::raw_sql("commit").execute(&mut owner).await.unwrap();
    let decided = purge.await.unwrap();
    assert!(matches!(decided, Err(EraseError::JobNotFinished)), "{decided:?}");
    assert_eq!(clinic.count("select count(*) from payloads where purged_at is not null").await, 0);
}
