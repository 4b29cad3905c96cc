//! The purge of a patient over HTTP.

use super::{ingested, patient_id, purge_what, run_all};
use crate::clinical::{bundle, condition};
use crate::http::{BUNDLE, call, get, sha256, small};
use crate::support::app::{TestApp, job_of};
use chartgate::ingest::fhir::sample;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

async fn view(app: &TestApp, mrn: &str) -> Value {
    get(app, &app.organization.reader, &format!("/ingest/clinical/{mrn}")).await.json()
}

/// Tables in which that patient's id still stands, in whatever column.
async fn tables_with(app: &TestApp, patient: &str) -> Vec<String> {
    let patient: chartgate::ids::PatientId = patient.parse().unwrap();
    let mut owner = app.owner().await;
    let columns: Vec<(String, String)> = sqlx::query_as(
        "select table_name::text, column_name::text
         from information_schema.columns
         where table_schema = 'public'
           and column_name in ('patient_id', 'into_patient_id', 'merged_into')
         union all
         select 'patients', 'id'
         order by 1, 2",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert!(columns.len() > 8, "{columns:?}");
    let mut found = Vec::new();
    for (table, column) in columns {
        let sql = AssertSqlSafe(format!("select count(*) from {table} where {column} = $1"));
        let rows: i64 = sqlx::query_scalar(sql).bind(patient).fetch_one(&mut owner).await.unwrap();
        if rows > 0 {
            found.push(table);
        }
    }
    found
}

#[tokio::test]
async fn a_patient_is_erased_with_all_payloads_that_tell_of_them() {
    let app = TestApp::start().await;
    let admin = &app.organization.admin;
    let (mrn, other) = (sample::mrn(1, 0), sample::mrn(2, 0));
    let (job, first) = ingested(&app, 1).await;
    ingested(&app, 2).await;
    let afterwards = bundle("batch", &[condition("later", &format!("Patient/{}", patient_id(1)))]).to_string();
    assert_eq!(app.submit(afterwards.clone()).await.0, 202);
    run_all(&app).await;
    let patient = view(&app, &mrn).await["patient"]["id"].as_str().unwrap().to_owned();
    let others = view(&app, &other).await;
    let what = |dry_run: bool| json!({"patient": patient, "reason": "asked to be forgotten", "dryRun": dry_run});

    // What forbids it: a hold on the patient, on one of the payloads; a job of these bytes that has not ended.
    for held in [json!({"patient": patient}), json!({"payload": first}), json!({"organization": true})] {
        let mut hold = held.clone();
        hold["reason"] = json!("litigation");
        let (_, hold) = app.post(admin, "/v1/admin/holds", &hold).await;
        for dry_run in [true, false] {
            let (status, refused) = purge_what(&app, &what(dry_run)).await;
            assert_eq!((status, &refused["code"]), (409, &json!("legal_hold")), "{held}");
        }
        let path = format!("/v1/admin/holds/{}", hold["holdId"].as_str().unwrap());
        assert_eq!(call(&app, Method::DELETE, &path, admin, &[], "").await.status, 200);
    }
    let keyed = [("content-type", "application/fhir+json"), ("idempotency-key", "again")];
    let again = call(&app, Method::POST, BUNDLE, &app.organization.sender, &keyed, small(1)).await.json();
    assert_eq!(purge_what(&app, &what(false)).await.1["code"], "job_not_finished");
    let path =
        format!("/v1/admin/jobs/{}/cancel", again["jobId"].as_str().unwrap()).replace("admin/jobs", "ingestion/jobs");
    assert_eq!(app.post(admin, &path, &json!({})).await.0, 200);

    let (status, planned) = purge_what(&app, &what(true)).await;
    assert_eq!((status, &planned["status"], &planned["payloads"]), (200, &json!("planned"), &json!(2)), "{planned}");
    let (status, done) = purge_what(&app, &what(false)).await;
    assert_eq!((status, &done["status"], &done["patient"]), (200, &json!("finished"), &json!(patient)), "{done}");
    assert_eq!((&done["counts"], &done["payloads"]), (&planned["counts"], &planned["payloads"]));
    assert_eq!(view(&app, &other).await, others, "nobody else is touched");
    assert_eq!(view(&app, &mrn).await["status"], "not_found");
    assert_eq!(
        tables_with(&app, &patient).await,
        ["audit_records", "erasures", "legal_holds"],
        "the trail, and nothing else"
    );
    assert_eq!(app.job(&job).await["status"], "succeeded", "the job tells what it was");
    for body in [small(1), afterwards.clone().into_bytes()] {
        let headers = [("content-type", "application/fhir+json")];
        call(&app, Method::POST, BUNDLE, &app.organization.sender, &headers, body.clone())
            .await
            .problem(410, "payload_purged");
        let path = format!("/v1/payloads/{}", sha256(&body));
        get(&app, &app.organization.reader, &path).await.problem(410, "payload_purged");
    }
    let records = get(&app, admin, "/v1/admin/audit?event=patient.purged").await.json();
    assert_eq!(records["records"].as_array().map(Vec::len), Some(1));
    assert_eq!(purge_what(&app, &what(false)).await, (200, done), "again, it is told again");

    for (body, status) in [
        (json!({"reason": "x"}), 400),
        (json!({"patient": patient, "payload": first, "reason": "x"}), 400),
        (json!({"payload": first, "sharedPayloads": "purge", "reason": "x"}), 400),
        (json!({"patient": patient, "sharedPayloads": "cut", "reason": "x"}), 400),
        (json!({"patient": "mrn-1", "reason": "x"}), 400),
        (json!({"patient": chartgate::ids::PatientId::new().to_string(), "reason": "x"}), 404),
    ] {
        assert_eq!(purge_what(&app, &body).await.0, status, "{body}");
    }
}

#[tokio::test]
async fn payloads_that_tell_of_others_refuse_the_purge_unless_they_may_go_whole() {
    let app = TestApp::start().await;
    let both = sample::bundle(1, 2, sample::Size::Small);
    let job = job_of(&app.submit(both).await.1);
    let workers = app.workers();
    app.wait_for(&job, "succeeded").await;
    workers.stop().await;
    let patient = view(&app, &sample::mrn(1, 0)).await["patient"]["id"].clone();
    let mut body = json!({"patient": patient, "reason": "x"});
    let (status, refused) = purge_what(&app, &body).await;
    assert_eq!((status, &refused["code"]), (409, &json!("payload_shared")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().starts_with("1 of 1 payloads"), "{refused}");
    body["sharedPayloads"] = json!("purge");
    let (status, done) = purge_what(&app, &body).await;
    assert_eq!((status, &done["status"], &done["counts"]["patients"]), (200, &json!("finished"), &json!(2)), "{done}");
    assert_eq!(view(&app, &sample::mrn(1, 1)).await["status"], "not_found");
}
