//! What a reader gets for a medical record number.

use super::{Clinic, bundle, condition, items, patient};
use chartgate::ids::FindingId;
use chartgate::ingest::fhir::sample;
use chartgate::ingest::findings;
use chartgate::ingest::view::{ClinicalQuery, ITEMS_MAX, ViewStatus, clinical};
use serde_json::{Value, json};

#[tokio::test]
async fn a_patient_is_shown_by_category_with_evidence() {
    let clinic = Clinic::open().await;
    let body = sample::bundle(21, 1, sample::Size::Full);
    clinic.ingest_from(&body, "default").await.unwrap();
    let view = clinic.view(&sample::mrn(21, 0)).await;
    assert_eq!(view.status, ViewStatus::Found);
    for (category, expected) in [
        ("medications", 2),
        ("problems", 2),
        ("allergies", 1),
        ("labs", 12),
        ("vitals", 20),
        ("immunizations", 2),
        ("procedures", 4),
        ("encounters", 4),
        ("documents", 0),
        ("reports", 4),
        ("other", 0),
    ] {
        assert_eq!(items(&view, category).len(), expected, "{category}");
    }
    let panel = items(&view, "vitals").iter().find(|item| item["name"] == "Blood pressure panel").unwrap();
    assert_eq!(panel["components"].as_array().unwrap().len(), 2);
    let component = &panel["components"][0];
    let evidence = &component["evidence"][0];
    let slice = &body[usize::try_from(evidence["start"].as_u64().unwrap()).unwrap()
        ..usize::try_from(evidence["end"].as_u64().unwrap()).unwrap()];
    let quoted: Value = serde_json::from_slice(slice).unwrap();
    assert_eq!(quoted["valueQuantity"]["value"].to_string(), component["value"].as_str().unwrap());
    let finding: FindingId = serde_json::from_value(component["finding_id"].clone()).unwrap();
    let organization = clinic.organization;
    let stored = clinic.unit(move |connection| Box::pin(findings::evidence(connection, organization, finding))).await;
    assert_eq!((stored.len(), stored[0].quote.as_slice()), (1, slice));
    let answer = serde_json::to_value(&view).unwrap();
    assert_eq!(answer["sources"], json!(["default"]));
    assert_eq!(answer["event_count"], 52);
    assert!(
        answer["patient"]["birth_date"].is_string() && answer["clinical_data"]["demographics"]["family"].is_string()
    );
}

#[tokio::test]
async fn nothing_known_is_not_found_and_events_that_wait_are_found_without_a_patient() {
    let clinic = Clinic::open().await;
    assert_eq!(clinic.view("404").await.status, ViewStatus::NotFound);
    let waiting = json!({"resourceType": "Condition", "id": "n", "subject": {"identifier": {"system": "urn:hospital", "value": "5|6"}}});
    clinic.ingest(&bundle("batch", &[waiting])).await;
    let view = clinic.view("5|6").await;
    assert_eq!((view.status, view.patient.is_none(), view.event_count), (ViewStatus::Found, true, 1));
    assert_eq!(items(&view, "problems").len(), 1);
    assert_eq!(clinic.view_with("5|6", Some("urn:hospital"), false).await.status, ViewStatus::Found);
    assert_eq!(clinic.view_with("5|6", Some("urn:other"), false).await.status, ViewStatus::NotFound);
}

#[tokio::test]
async fn one_number_in_two_systems_is_ambiguous_until_the_system_is_named() {
    let clinic = Clinic::open().await;
    let mut other = patient("b", "123456", "1950");
    other["identifier"][0]["system"] = json!("urn:other");
    clinic.ingest(&bundle("batch", &[patient("a", "123456", "1987"), other])).await;
    let view = clinic.view("123456").await;
    assert_eq!(
        (view.status, view.systems),
        (ViewStatus::Ambiguous, vec!["urn:hospital".to_owned(), "urn:other".to_owned()])
    );
    let view = clinic.view_with("123456", Some("urn:other"), false).await;
    assert_eq!(view.patient.unwrap()["birth_date"], "1950");
}

#[tokio::test]
async fn a_corrected_resource_supersedes_and_errors_leave_the_current_view() {
    let clinic = Clinic::open().await;
    let mut resolved = condition("c", "Patient/p");
    resolved["clinicalStatus"] = json!({"coding": [{"code": "resolved"}]});
    let mut wrong = condition("w", "Patient/p");
    wrong["verificationStatus"] = json!({"coding": [{"code": "entered-in-error"}]});
    clinic.ingest(&bundle("batch", &[patient("p", "1", "1987"), condition("c", "Patient/p")])).await;
    clinic.ingest(&bundle("batch", &[resolved, wrong])).await;
    let view = clinic.view("1").await;
    let problems = items(&view, "problems");
    assert_eq!((problems.len(), &problems[0]["clinical_status"]), (1, &json!("resolved")));
    assert_eq!(items(&clinic.view_with("1", None, true).await, "problems").len(), 3);
}

#[tokio::test]
async fn a_long_category_has_a_cursor() {
    let clinic = Clinic::open().await;
    let mut resources = vec![patient("p", "1", "1987")];
    resources.extend((0..1_005).map(|number| condition(&format!("c{number}"), "Patient/p")));
    clinic.ingest(&bundle("batch", &resources)).await;
    let view = clinic.view("1").await;
    assert_eq!(items(&view, "problems").len(), 1_000);
    let (organization, cursor) = (clinic.organization, view.next["problems"].parse().ok());
    let rest = clinic
        .unit(move |connection| {
            Box::pin(async move {
                let query = ClinicalQuery { mrn: "1", system: None, history: false, cursor, limit: ITEMS_MAX };
                clinical(connection, organization, query).await
            })
        })
        .await;
    assert_eq!((items(&rest, "problems").len(), rest.next.len()), (5, 0));
    let mut ids: Vec<String> = items(&view, "problems")
        .iter()
        .chain(items(&rest, "problems"))
        .map(|item| item["event_id"].to_string())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1_005);
}
