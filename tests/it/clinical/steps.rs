//! Validation, raw storage, findings and the closing audit.

use super::{Clinic, bundle, condition, patient};
use chartgate::engine::handler::{ErrorClass, Facts};
use chartgate::ingest::fhir::sample;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

#[tokio::test]
async fn a_bundle_goes_through_all_five_steps() {
    let clinic = Clinic::open().await;
    let body = sample::bundle(11, 2, sample::Size::Full);
    let outputs = clinic.ingest_from(&body, "default").await.unwrap();
    assert_eq!(outputs["validate"]["errors"], 0);
    assert_eq!(outputs["link_patient"]["patients_new"], 2);
    assert_eq!(outputs["link_patient"]["pending"], 0);
    assert_eq!(outputs["link_patient"]["events"], outputs["validate"]["resources"]);
    assert_eq!(outputs["audit"]["with_issues"], false);
    let result = &outputs["audit"]["result"];
    assert_eq!(result["patients"], json!({"linked": 2, "pending": 0, "review": 0}));
    assert_eq!(result["findings"], outputs["extract_findings"]["findings"]);
    let findings = i64::try_from(result["findings"].as_u64().unwrap()).unwrap();
    assert_eq!(clinic.count("select count(*) from findings").await, findings);
    let unproven =
        "select count(*) from findings f where not exists (select from finding_evidence e where e.finding_id = f.id)";
    assert_eq!(clinic.count(unproven).await, 0);
    assert_eq!(clinic.count("select count(*) from audit_records where event = 'patient.linked'").await, 2);
    assert_eq!(clinic.count("select count(*) from audit_records where event = 'job.closed'").await, 1);
}

#[tokio::test]
async fn every_step_may_run_twice() {
    let clinic = Clinic::open().await;
    let accepted = clinic.accept(&sample::bundle(12, 1, sample::Size::Full), "default").await;
    let first = clinic.process(accepted).await.unwrap();
    let rows = "select (select count(*) from clinical_events) * 1000000 + (select count(*) from findings) * 1000
                     + (select count(*) from patient_links) + (select count(*) from patients)";
    let before = clinic.count(rows).await;
    let second = clinic.process(accepted).await.unwrap();
    assert_eq!(clinic.count(rows).await, before);
    assert_eq!(second["extract_findings"]["findings"], first["extract_findings"]["findings"]);
    assert_eq!(second["link_patient"]["linked"], first["link_patient"]["linked"]);
    assert_eq!(second["link_patient"]["events"], 0);
}

#[tokio::test]
async fn a_transaction_with_an_error_fails_as_a_whole_and_says_why() {
    let clinic = Clinic::open().await;
    let body = bundle("transaction", &[patient("p", "1", "1987-02-30"), condition("c", "urn:uuid:p")]);
    let accepted = clinic.accept(body.to_string().as_bytes(), "default").await;
    let error = clinic.step(accepted, "validate", toml::Table::new()).await.unwrap_err();
    assert_eq!((error.class, error.code), (ErrorClass::Sender, "validation_failed"));
    assert!(!format!("{error:?}").contains("1987"));
    let found = "select count(*) from issues where expression = 'Bundle.entry[0].resource.birthDate' and pointer = '/entry/0/resource/birthDate'";
    assert_eq!(clinic.count(found).await, 1);
    // The bytes are kept all the same.
    clinic.step(accepted, "store_raw", toml::Table::new()).await.unwrap();
    assert_eq!(clinic.count("select count(*) from payloads where body is null").await, 1);
    let skip = toml::Table::from_iter([("on_error".to_owned(), toml::Value::from("skip"))]);
    let output = clinic.step(accepted, "validate", skip).await.unwrap();
    assert_eq!((&output["rejected"], &output["errors"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn a_batch_goes_on_without_its_bad_entries() {
    let clinic = Clinic::open().await;
    let bad = json!({"resourceType": "Observation", "id": "o", "subject": {"reference": "urn:uuid:p"}});
    let body = bundle("batch", &[patient("p", "1", "1987-02-20"), bad, condition("c", "urn:uuid:p")]);
    let outputs = clinic.ingest(&body).await;
    assert_eq!(outputs["validate"]["rejected"], 1);
    assert_eq!(outputs["link_patient"]["events"], 2);
    assert_eq!(outputs["audit"]["with_issues"], true);
    assert_eq!(outputs["audit"]["result"]["resources"], 2);
    assert_eq!(clinic.count("select count(*) from clinical_events where resource_type = 'Observation'").await, 0);
}

#[tokio::test]
async fn raw_bytes_are_stored_once_under_their_hash() {
    let clinic = Clinic::open().await;
    let body = sample::bundle(13, 1, sample::Size::Small);
    let accepted = clinic.accept(&body, "default").await;
    clinic.process(accepted).await.unwrap();
    let key = format!("raw/{}/{}", clinic.organization, hex::encode(Sha256::digest(&body)));
    assert_eq!(clinic.objects.objects.get(&key).await.unwrap(), body);
    let head = clinic.objects.objects.head(&key).await.unwrap().unwrap();
    assert_eq!(head.metadata["job_id"], accepted.job.to_string());
    assert_eq!(head.metadata["organization_id"], clinic.organization.to_string());
    assert_eq!((head.metadata["bundle_type"].as_str(), head.metadata["entry_count"].as_str()), ("transaction", "3"));
    // A second job of the same bytes finds them stored.
    let again = clinic.accept(&body, "default").await;
    assert_eq!(clinic.step(again, "store_raw", toml::Table::new()).await.unwrap()["already_stored"], true);
}

#[tokio::test]
async fn a_stored_payload_with_other_bytes_is_refused() {
    let clinic = Clinic::open().await;
    let accepted = clinic.accept(&sample::bundle(14, 1, sample::Size::Small), "default").await;
    clinic
        .unit(|connection| {
            Box::pin(async move {
                sqlx::query("update payloads set body = '{}'").execute(connection).await?;
                Ok(())
            })
        })
        .await;
    let error = clinic.step(accepted, "validate", toml::Table::new()).await.unwrap_err();
    assert_eq!((error.class, error.code), (ErrorClass::Ours, "payload_corrupt"));
}

#[tokio::test]
async fn numbers_beyond_every_bound_are_no_error_of_ours() {
    let clinic = Clinic::open().await;
    let body = bundle(
        "batch",
        &[
            patient("p", "1", "1987"),
            json!({"resourceType": "Observation", "id": "o", "status": "final",
        "code": {"text": "x"}, "subject": {"reference": "urn:uuid:p"}, "valueQuantity": {"value": "BIG", "unit": "mg"}}),
        ],
    );
    let body = body.to_string().replace("\"BIG\"", "1e99999");
    let outputs = clinic.ingest_from(body.as_bytes(), "default").await.unwrap();
    assert_eq!((&outputs["validate"]["rejected"], &outputs["validate"]["errors"]), (&json!(1), &json!(1)));
    assert_eq!(clinic.count("select count(*) from clinical_events").await, 1);
}

#[tokio::test]
async fn findings_complete_events_that_an_earlier_job_stored() {
    let clinic = Clinic::open().await;
    let body = sample::bundle(15, 1, sample::Size::Full);
    let first = clinic.accept(&body, "default").await;
    clinic.step(first, "link_patient", toml::Table::new()).await.unwrap();
    // That job got no further; another one brings the same resources in other bytes.
    let tree: Value = serde_json::from_slice(&body).unwrap();
    let mut entries = tree["entry"].as_array().unwrap().clone();
    entries.pop();
    let changed = json!({"resourceType": "Bundle", "type": "transaction", "entry": entries});
    let outputs = clinic.ingest(&changed).await;
    assert_eq!(outputs["link_patient"]["events"], 0);
    assert_eq!(outputs["extract_findings"]["new"], outputs["extract_findings"]["findings"]);
}

#[tokio::test]
async fn every_entry_is_accounted_for() {
    let clinic = Clinic::open().await;
    let observation = json!({"resourceType": "Observation", "id": "o", "status": "final", "code": {"text": "x"},
        "subject": {"reference": "Patient/p"}});
    let resources = [
        patient("p", "1", "1987"),
        observation.clone(),
        observation.clone(),
        json!({"resourceType": "Observation", "id": "bad"}),
        json!({"resourceType": "Organization", "id": "h", "name": "x"}),
    ];
    let bundle = |bundle_type: &str| {
        let mut body = bundle(bundle_type, &resources);
        // The same resource a second time, under no URL: with the same one it would be an error.
        body["entry"][2].as_object_mut().unwrap().remove("fullUrl");
        body
    };
    let mut outputs = clinic.ingest(&bundle("collection")).await;
    let facts = |outputs: &HashMap<&'static str, Facts>| {
        let validate = &outputs["validate"];
        let link = &outputs["link_patient"];
        let found = &outputs["extract_findings"];
        json!([
            validate["resources"],
            validate["rejected"],
            link["events"],
            link["unchanged"],
            link["repeated"],
            found["entries"],
            found["left_out"]
        ])
    };
    let left_out = json!({"demographics": 1, "type_without_findings": 1});
    assert_eq!(facts(&outputs), json!([5, 1, 3, 0, 1, 2, left_out]));
    // The same resources in another Bundle: stored before.
    outputs = clinic.ingest(&bundle("batch")).await;
    assert_eq!(facts(&outputs), json!([5, 1, 0, 3, 1, 2, left_out]));
}
