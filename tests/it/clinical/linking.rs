//! Versions of resources, and whose each event is.

use super::{Clinic, bundle, condition, items, patient};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use std::sync::Arc;

const CURRENT_TWICE: &str =
    "select count(*) from (select resource_type, resource_key from clinical_events where is_current
    group by 1, 2 having count(*) > 1) t";

fn observation(id: &str, value: u32) -> Value {
    json!({"resourceType": "Observation", "id": id, "status": "final", "code": {"text": "x"}, "subject": {"reference": "Patient/p"},
        "valueInteger": value})
}

async fn current_value(clinic: &Clinic) -> i64 {
    clinic
        .count(
            "select f.value_number::bigint from clinical_events e join findings f on f.event_id = e.id
             where e.resource_type = 'Observation' and e.is_current",
        )
        .await
}

#[tokio::test]
async fn the_same_bytes_again_are_no_new_event() {
    let clinic = Clinic::open().await;
    let resources = [patient("p", "1", "1987"), condition("c", "Patient/p")];
    clinic.ingest(&bundle("batch", &resources)).await;
    let again = clinic.ingest(&bundle("collection", &resources)).await;
    assert_eq!((&again["link_patient"]["events"], &again["link_patient"]["unchanged"]), (&json!(0), &json!(2)));
    assert_eq!(again["link_patient"]["linked"], 2);
    assert_eq!(clinic.count("select count(*) from clinical_events").await, 2);
}

#[tokio::test]
async fn the_order_of_acceptance_decides_which_version_is_current_not_the_order_of_processing() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
        let clinic = Clinic::open().await;
        let mut accepted = Vec::new();
        // The third goes back to the first's bytes, in another Bundle.
        for (kind, value) in [("batch", 1), ("batch", 2), ("collection", 1)] {
            let body = bundle(kind, &[observation("o", value)]).to_string();
            accepted.push(clinic.accept(body.as_bytes(), "default").await);
        }
        for index in order {
            clinic.process(accepted[index]).await.unwrap();
        }
        assert_eq!(current_value(&clinic).await, 1, "{order:?}");
        assert_eq!(clinic.count(CURRENT_TWICE).await, 0);
    }
}

#[tokio::test]
async fn a_later_last_updated_is_current_whatever_came_last() {
    for order in [[0, 1], [1, 0]] {
        let clinic = Clinic::open().await;
        let mut newer = observation("o", 2);
        newer["meta"] = json!({"lastUpdated": "2026-02-01T00:00:00Z"});
        let mut older = observation("o", 1);
        older["meta"] = json!({"lastUpdated": "2026-01-31T23:00:00-05:00"});
        older["meta"]["lastUpdated"] = json!("2026-01-31T00:00:00Z");
        let mut accepted = Vec::new();
        for resource in [newer, older] {
            accepted.push(clinic.accept(bundle("batch", &[resource]).to_string().as_bytes(), "default").await);
        }
        for index in order {
            clinic.process(accepted[index]).await.unwrap();
        }
        assert_eq!(current_value(&clinic).await, 2);
    }
}

#[tokio::test]
async fn two_versions_in_one_bundle_leave_the_later_entry_current() {
    let clinic = Clinic::open().await;
    let mut body =
        bundle("batch", &[observation("o", 1), observation("o", 2), observation("o", 1), observation("o", 3)]);
    for (index, entry) in body["entry"].as_array_mut().unwrap().iter_mut().enumerate() {
        entry["fullUrl"] = json!(format!("urn:uuid:{index}"));
    }
    clinic.ingest(&body).await;
    assert_eq!(clinic.count("select count(*) from clinical_events").await, 3);
    assert_eq!(current_value(&clinic).await, 3);
    assert_eq!(clinic.count(CURRENT_TWICE).await, 0);
}

#[tokio::test]
async fn concurrent_versions_of_one_resource_leave_one_current() {
    let clinic = Arc::new(Clinic::open().await);
    let mut accepted = Vec::new();
    for value in 1..=12 {
        let body = bundle("batch", &[observation("o", value), patient("p", "1", "1987")]).to_string();
        accepted.push(clinic.accept(body.as_bytes(), "default").await);
    }
    let runs = accepted.into_iter().map(|accepted| {
        let clinic = Arc::clone(&clinic);
        tokio::spawn(async move { clinic.process(accepted).await.unwrap() })
    });
    futures::future::join_all(runs).await.into_iter().for_each(|run| drop(run.unwrap()));
    assert_eq!(current_value(&clinic).await, 12);
    assert_eq!(clinic.count(CURRENT_TWICE).await, 0);
    assert_eq!(clinic.count("select count(*) from patients").await, 1);
    assert_eq!(clinic.count("select count(*) from clinical_events where link_status <> 'linked'").await, 0);
}

#[tokio::test]
async fn one_number_is_one_patient_across_sources_and_another_system_is_another() {
    let clinic = Clinic::open().await;
    clinic.ingest_from(bundle("batch", &[patient("a", "0042", "1987")]).to_string().as_bytes(), "lab").await.unwrap();
    clinic
        .ingest_from(bundle("batch", &[patient("b", "0042", "1987-02-20")]).to_string().as_bytes(), "ward")
        .await
        .unwrap();
    assert_eq!(clinic.count("select count(*) from patients").await, 1);
    assert_eq!(clinic.count("select count(*) from patient_links where method = 'mrn_exact'").await, 1);
    let mut elsewhere = patient("c", "0042", "1990");
    elsewhere["identifier"][0]["system"] = json!("urn:other");
    clinic.ingest(&bundle("batch", &[elsewhere, patient("d", "42", "1990")])).await;
    assert_eq!(clinic.count("select count(*) from patients").await, 3);
}

#[tokio::test]
async fn a_contradicting_birth_date_is_a_review_and_no_link() {
    let clinic = Clinic::open().await;
    clinic.ingest(&bundle("batch", &[patient("a", "1", "1987-02-20")])).await;
    let outputs =
        clinic.ingest(&bundle("batch", &[patient("b", "1", "1990-01-01"), condition("c", "urn:uuid:b")])).await;
    assert_eq!((&outputs["link_patient"]["review"], &outputs["link_patient"]["pending"]), (&json!(1), &json!(1)));
    assert_eq!(outputs["audit"]["result"]["patients"], json!({"linked": 0, "pending": 1, "review": 1}));
    assert_eq!(clinic.count("select count(*) from reviews where status = 'open' and reason = 'birth_date'").await, 1);
    assert_eq!(clinic.count("select count(*) from patients where birth_date = '1987-02-20'").await, 1);
    let view = clinic.view("1").await;
    assert!(items(&view, "problems").is_empty());
    // Asked again with the same bytes, it is the same question.
    clinic.ingest(&bundle("collection", &[patient("b", "1", "1990-01-01")])).await;
    assert_eq!(clinic.count("select count(*) from reviews").await, 1);
}

#[tokio::test]
async fn a_reused_resource_id_is_a_review() {
    let clinic = Clinic::open().await;
    clinic.ingest(&bundle("batch", &[patient("a", "1", "1987-02-20")])).await;
    let outputs = clinic.ingest(&bundle("batch", &[patient("a", "2", "1987-02-20")])).await;
    assert_eq!(outputs["link_patient"]["review"], 1);
    assert_eq!(clinic.count("select count(*) from reviews where reason = 'mrn_changed'").await, 1);
}

#[tokio::test]
async fn a_patient_without_a_number_is_known_by_its_id() {
    let clinic = Clinic::open().await;
    let anonymous = json!({"resourceType": "Patient", "id": "p", "birthDate": "1987"});
    clinic.ingest(&bundle("batch", &[anonymous, condition("c1", "Patient/p")])).await;
    // Its number comes later; it is the same patient.
    clinic.ingest(&bundle("batch", &[patient("p", "77", "1987-02-20"), condition("c2", "Patient/p")])).await;
    assert_eq!(clinic.count("select count(*) from patients").await, 1);
    assert_eq!(items(&clinic.view("77").await, "problems").len(), 2);
    // Another source's `Patient/p` is somebody else.
    clinic.ingest_from(bundle("batch", &[condition("c3", "Patient/p")]).to_string().as_bytes(), "ward").await.unwrap();
    assert_eq!(clinic.count("select count(*) from clinical_events where link_status = 'pending'").await, 1);
}

#[tokio::test]
async fn pending_events_are_linked_when_their_patient_arrives() {
    let clinic = Clinic::open().await;
    let by_number = json!({"resourceType": "Condition", "id": "n", "subject": {"identifier": {"system": "urn:hospital", "value": "5"}}});
    let by_url = condition("u", "https://ehr.example/fhir/Patient/p");
    let outputs = clinic.ingest(&bundle("batch", &[condition("r", "Patient/p"), by_number, by_url])).await;
    assert_eq!(outputs["link_patient"]["pending"], 3);
    let mut arriving = bundle("batch", &[patient("p", "5", "1987")]);
    arriving["entry"][0]["fullUrl"] = json!("https://ehr.example/fhir/Patient/p");
    let outputs = clinic.ingest(&arriving).await;
    assert_eq!(outputs["link_patient"]["completed"], 3);
    assert_eq!(items(&clinic.view("5").await, "problems").len(), 3);
    let history = "select count(*) from patient_links l join patient_links o on o.id = l.supersedes
                   where l.status = 'linked' and o.status = 'pending'";
    assert_eq!(clinic.count(history).await, 3);
    // Later ones are linked at once, by each kind of reference.
    let outputs = clinic
        .ingest(&bundle(
            "batch",
            &[condition("r2", "Patient/p"), condition("u2", "https://ehr.example/fhir/Patient/p")],
        ))
        .await;
    assert_eq!(outputs["link_patient"]["linked"], 2);
}

#[tokio::test]
async fn a_patient_and_its_events_in_two_racing_jobs_find_each_other() {
    let clinic = Arc::new(Clinic::open().await);
    for round in 0..25 {
        let id = format!("p{round}");
        let events = bundle("batch", &[condition(&format!("c{round}"), &format!("Patient/{id}"))]);
        let arriving = bundle("batch", &[patient(&id, &format!("10{round}"), "1987")]);
        let runs = [events, arriving].map(|body| {
            let clinic = Arc::clone(&clinic);
            tokio::spawn(async move { clinic.ingest(&body).await })
        });
        futures::future::join_all(runs).await.into_iter().for_each(|run| drop(run.unwrap()));
    }
    assert_eq!(clinic.count("select count(*) from clinical_events where link_status = 'pending'").await, 0);
    assert_eq!(clinic.count("select count(*) from clinical_events where link_status = 'linked'").await, 50);
}

#[tokio::test]
async fn systems_that_the_organization_named_hold_numbers_without_a_type() {
    let clinic = Clinic::with_settings(json!({"mrn_systems": ["urn:untyped"]})).await;
    let mut untyped = patient("p", "9", "1987");
    untyped["identifier"] = json!([{"system": "urn:untyped", "value": "9"}, {"system": "urn:else", "value": "8"}]);
    clinic.ingest(&bundle("batch", &[untyped])).await;
    assert_eq!(clinic.count("select count(*) from patient_identifiers where system = 'urn:untyped'").await, 1);
    assert_eq!(clinic.count("select count(*) from patient_identifiers").await, 1);
}

#[tokio::test]
async fn patients_from_before_statements_were_kept_are_known_by_number_and_id() {
    let clinic = Clinic::open().await;
    clinic.ingest(&bundle("batch", &[patient("p", "1", "1987-02-20"), condition("c", "Patient/p")])).await;
    let mut owner = PgConnection::connect_with(clinic.db.options()).await.unwrap();
    // As the release before left it, then what the migration does with it.
    let before = "delete from patient_statement_keys; delete from patient_statements;
                  update clinical_events set statement_id = null, demographics = null";
    sqlx::raw_sql(before).execute(&mut owner).await.unwrap();
    let migration = std::fs::read_to_string("migrations/0009_reviews_and_decisions.sql").unwrap();
    let backfill = &migration[migration.find("insert into patient_statements").unwrap()..];
    sqlx::raw_sql(sqlx::AssertSqlSafe(backfill.to_owned())).execute(&mut owner).await.unwrap();
    let outputs = clinic.ingest(&bundle("batch", &[condition("d", "Patient/p"), patient("q", "1", "1987")])).await;
    assert_eq!(outputs["link_patient"]["linked"], 2);
    clinic.ingest(&bundle("batch", &[patient("r", "1", "1990")])).await;
    assert_eq!(clinic.count("select count(*) from reviews where reason = 'birth_date'").await, 1);
    assert_eq!(clinic.count("select count(*) from patients").await, 1);
    assert_eq!(items(&clinic.view("1").await, "problems").len(), 2);
    // The very same resource again is the same patient, whatever its fingerprint was then.
    clinic.ingest(&bundle("collection", &[patient("p", "1", "1987-02-20")])).await;
    assert_eq!(clinic.count("select count(*) from clinical_events where link_status = 'linked'").await, 4);
}
