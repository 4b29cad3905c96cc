//! After a patient was erased everything is as if no payload had told of them.

use super::erasure::{by, hash, ingest_all, purge, rows};
use super::linking_decisions::{merge, patient_of};
use super::linking_order::state;
use super::linking_rules::{about, person};
use super::{Clinic, bundle};
use chartgate::ids::PatientId;
use chartgate::ingest::erasure::{EraseError, Eraser, Erasure, Target};
use serde_json::Value;
use std::time::Duration;

const AMY: &str = "Shaw Amy 1987-02-20";
const BOB: &str = "Reed Bob 1950-11-03";

fn body(resources: &[Value]) -> (String, &'static str) {
    (bundle("batch", resources).to_string(), "ehr")
}

async fn forget(clinic: &Clinic, patient: PatientId, shared_too: bool) -> Result<Erasure, EraseError> {
    let eraser = Eraser::new(clinic.db.clone(), clinic.objects.objects.clone());
    let target = Target::Patient { patient, shared_too };
    let planned = eraser.rehearse(clinic.organization, target, by()).await;
    let done = eraser.purge(clinic.organization, target, by(), Duration::from_mins(1)).await;
    match (&planned, &done) {
        (Ok(planned), Ok(done)) => {
            assert_eq!((&planned.counts, planned.payloads), (&done.counts, done.payloads), "planned as done");
        }
        (Err(planned), Err(done)) => assert_eq!(planned.to_string(), done.to_string()),
        _ => panic!("planned: {planned:?}, done: {done:?}"),
    }
    done
}

#[tokio::test]
async fn of_an_erased_patient_nothing_is_left_and_of_others_all_that_other_payloads_say() {
    let amy = body(&[person("a", &["h|1"], AMY), about("c", "urn:uuid:a")]);
    let bob = body(&[person("b", &["h|2"], BOB), about("d", "urn:uuid:b")]);
    let both = body(&[
        person("a", &["h|1"], AMY),
        about("e", "urn:uuid:a"),
        person("b", &["h|2"], BOB),
        about("f", "urn:uuid:b"),
    ]);
    let by_number = body(&[about("g", "id:h|1")]);
    let clinic = Clinic::open().await;
    ingest_all(&clinic, &[&amy, &bob, &both, &by_number]).await;
    let (patient, before) = (patient_of(&clinic, "1").await, (rows(&clinic).await, state(&clinic).await));
    let refused = forget(&clinic, patient, false).await.unwrap_err();
    assert!(matches!(refused, EraseError::Shared { shared: 1, payloads: 3 }), "{refused}");
    assert_eq!((rows(&clinic).await, state(&clinic).await), before, "a refusal changes nothing");

    let done = forget(&clinic, patient, true).await.unwrap();
    assert_eq!((done.status.as_str(), done.patient, done.payloads), ("finished", Some(patient), 3), "{done:?}");
    let without = Clinic::open().await;
    ingest_all(&without, &[&bob]).await;
    assert_eq!(rows(&clinic).await, rows(&without).await);
    assert_eq!(state(&clinic).await, state(&without).await);
    assert_eq!(clinic.view("1").await.event_count, 0);
    assert_eq!(clinic.count("select count(*) from patients").await, 1);
    // Each payload is told by itself, too: so a restored backup can be put right.
    let told =
        "select count(*) from audit_records where event in ('patient.purge_begun', 'patient.purged', 'payload.purged')";
    assert_eq!(clinic.count(told).await, 5);
    assert_eq!(purge(&clinic, &both.0).await.unwrap().erasure_id, done.erasure_id, "the payload went with the patient");
    assert_eq!(forget(&clinic, patient, false).await.unwrap().erasure_id, done.erasure_id, "again, it is told again");
}

#[tokio::test]
async fn what_only_one_patient_has_is_erased_without_a_question() {
    let clinic = Clinic::open().await;
    let [amy, bob] = [("a", "h|1", AMY), ("b", "h|2", BOB)].map(|(id, number, who)| {
        body(&[person(id, &[number], who), about(&format!("c{id}"), &format!("urn:uuid:{id}"))])
    });
    ingest_all(&clinic, &[&amy, &bob]).await;
    let patient = patient_of(&clinic, "1").await;
    let view = clinic.view("2").await;
    let done = forget(&clinic, patient, false).await.unwrap();
    assert_eq!((done.payloads, done.counts.get("patients")), (1, Some(&1)), "{done:?}");
    let now = clinic.view("2").await;
    assert_eq!((now.event_count, now.patient), (view.event_count, view.patient), "the other one is as before");
    assert!(matches!(forget(&clinic, PatientId::new(), false).await, Err(EraseError::PatientNotFound)));
}

#[tokio::test]
async fn who_was_merged_goes_with_whom_they_were_merged_into() {
    let clinic = Clinic::open().await;
    let amy = body(&[person("a", &["h|1"], AMY), about("c", "urn:uuid:a")]);
    let amys = body(&[person("b", &["h|2"], "Shaw-Lee Amy 1987-02-20"), about("d", "urn:uuid:b")]);
    ingest_all(&clinic, &[&amy, &amys]).await;
    let (stays, goes) = (patient_of(&clinic, "1").await, patient_of(&clinic, "2").await);
    merge(&clinic, goes, stays).await.unwrap();
    let done = forget(&clinic, goes, false).await.unwrap();
    assert_eq!((done.patient, done.payloads), (Some(stays), 2), "{done:?}");
    for left in
        ["patients", "patient_statements", "patient_identifiers", "clinical_events", "findings", "patient_event_counts"]
    {
        let count: i64 = clinic
            .unit(move |connection| {
                Box::pin(async move {
                    let sql = sqlx::AssertSqlSafe(format!("select count(*) from {left}"));
                    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
                })
            })
            .await;
        assert_eq!(count, 0, "{left}");
    }
}

#[tokio::test]
async fn an_erased_payload_takes_the_demographics_of_who_was_merged_with_it() {
    let clinic = Clinic::open().await;
    let amy = body(&[person("a", &["h|1"], AMY)]);
    let other = body(&[person("b", &["h|2"], "Canary Zoe 1987-02-20")]);
    ingest_all(&clinic, &[&amy, &other]).await;
    let (stays, goes) = (patient_of(&clinic, "1").await, patient_of(&clinic, "2").await);
    merge(&clinic, goes, stays).await.unwrap();
    let eraser = Eraser::new(clinic.db.clone(), clinic.objects.objects.clone());
    let done = eraser.purge(clinic.organization, hash(&other.0), by(), Duration::from_mins(1)).await.unwrap();
    assert_eq!(done.status, "finished");
    assert_eq!(clinic.count("select count(*) from patients where family = 'Canary'").await, 0);
    assert_eq!(clinic.count("select count(*) from patients where family = 'Shaw'").await, 1);
}

#[tokio::test]
async fn what_is_somebody_elses_now_tells_no_more_that_it_was_the_patients_once() {
    let clinic = Clinic::open().await;
    let amy = body(&[person("a", &["h|1"], AMY)]);
    let bob = body(&[person("b", &["h|2"], BOB), about("d", "urn:uuid:b")]);
    ingest_all(&clinic, &[&amy, &bob]).await;
    let (patient, other) = (patient_of(&clinic, "1").await, patient_of(&clinic, "2").await);
    // An event of Bob's was linked to Amy first; whether two others are Amy or Bob was decided, and is asked.
    sqlx::query(
        "insert into patient_links (organization_id, id, event_id, patient_id, status, method, rule_version, actor, created_at)
         select organization_id, gen_random_uuid(), id, $1, 'linked', 'test', 1, 'test', chartgate_now()
         from clinical_events
         where patient_id = $2",
    )
    .bind(patient)
    .bind(other)
    .execute(&mut clinic.owner().await)
    .await
    .unwrap();
    for (status, answer) in [("decided", Some(patient)), ("superseded", None), ("open", None)] {
        sqlx::query(
            "insert into reviews (organization_id, id, event_id, status, reason, candidates, fingerprint, patient_id, created_at)
             select organization_id, gen_random_uuid(), id, $1, 'possible_duplicate', $2, decode(md5($1), 'hex'), $3, chartgate_now()
             from clinical_events
             where patient_id = $4
             limit 1",
        )
        .bind(status)
        .bind(serde_json::json!([{"patient": patient, "score": 0.7}, {"patient": other, "score": 0.6}]))
        .bind(answer)
        .bind(other)
        .execute(&mut clinic.owner().await)
        .await
        .unwrap();
    }
    forget(&clinic, patient, false).await.unwrap();
    let mut owner = clinic.owner().await;
    for (rows, expected) in [
        ("select count(*) from patient_links where patient_id = $1", 0),
        ("select count(*) from reviews where patient_id = $1 or candidates::text like '%' || $2 || '%'", 0),
        ("select count(*) from reviews where $1::uuid is not null and candidates::text like '%' || $3 || '%'", 3),
    ] {
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("{rows} and $2 <> $3")))
            .bind(patient)
            .bind(patient.to_string())
            .bind(other.to_string())
            .fetch_one(&mut owner)
            .await
            .unwrap();
        assert_eq!(count, expected, "{rows}");
    }
}
