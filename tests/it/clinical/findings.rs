//! What is stored of findings: once, by the newest extractor, as written, and named by medications of other Bundles.

use super::{Accepted, Clinic, bundle, condition, items, patient};
use chartgate::ids::FindingId;
use chartgate::ingest::fhir::sample;
use chartgate::ingest::findings::{self, EXTRACTOR_VERSION, RULES};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn every_rule_of_evidence_is_documented_and_every_documented_one_exists() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clinical.md")).unwrap();
    let section = page.split("## Evidence").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut documented: Vec<&str> =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(rule, _)| rule)).collect();
    let mut rules = RULES.to_vec();
    documented.sort_unstable();
    rules.sort_unstable();
    assert_eq!(documented, rules);
}

/// Make the stored findings those of another extractor version.
async fn set_version(clinic: &Clinic, version: i32) {
    clinic
        .unit(move |connection| {
            Box::pin(async move {
                sqlx::query("update findings set extractor_version = $1")
                    .bind(version)
                    .execute(&mut *connection)
                    .await?;
                let events = "update shown_events set extractor_version = $1";
                sqlx::query(events).bind(version).execute(connection).await?;
                Ok(())
            })
        })
        .await;
}

async fn extract_again(clinic: &Clinic, accepted: Accepted) -> (Value, Value) {
    let output = clinic.step(accepted, "extract_findings", toml::Table::new()).await.unwrap();
    (output["new"].clone(), output["superseded"].clone())
}

#[tokio::test]
async fn a_newer_extractor_supersedes_and_never_doubles() {
    let clinic = Clinic::open().await;
    let accepted = clinic.accept(&sample::bundle(31, 1, sample::Size::Full), "default").await;
    let outputs = clinic.process(accepted).await.unwrap();
    let count = outputs["extract_findings"]["findings"].clone();
    let before = clinic.view(&sample::mrn(31, 0)).await;
    let old: FindingId = serde_json::from_value(items(&before, "labs")[0]["finding_id"].clone()).unwrap();
    set_version(&clinic, EXTRACTOR_VERSION - 1).await;
    assert_eq!(extract_again(&clinic, accepted).await, (count.clone(), count.clone()));
    assert_eq!(extract_again(&clinic, accepted).await, (json!(0), json!(0)));
    let total = i64::try_from(count.as_u64().unwrap()).unwrap();
    assert_eq!(clinic.count("select count(*) from findings where superseded_by is null").await, total);
    assert_eq!(clinic.count("select count(*) from findings").await, 2 * total);
    let astray = "select count(*) from findings o join findings n on n.id = o.superseded_by
                  where (n.event_id, n.ordinal) is distinct from (o.event_id, o.ordinal)";
    assert_eq!(clinic.count(astray).await, 0);
    let changes = "select count(*) from audit_records where event = 'findings.stored' and action = 'C'";
    assert_eq!(clinic.count(changes).await, 2);
    // The view shows the newer ones only; the older one's evidence stays.
    let after = clinic.view(&sample::mrn(31, 0)).await;
    assert_eq!(items(&after, "labs").len(), items(&before, "labs").len());
    let new: FindingId = serde_json::from_value(items(&after, "labs")[0]["finding_id"].clone()).unwrap();
    let organization = clinic.organization;
    let (provenance, evidence) = clinic
        .unit(move |connection| {
            Box::pin(async move {
                let provenance = findings::store::provenance(connection, organization, old).await?.unwrap();
                Ok((provenance, findings::evidence(connection, organization, old).await?))
            })
        })
        .await;
    assert_eq!((provenance.superseded_by, provenance.job_id), (Some(new), accepted.job));
    assert!(!evidence.is_empty());
}

#[tokio::test]
async fn an_older_extractor_leaves_newer_findings_alone() {
    let clinic = Clinic::open().await;
    let accepted = clinic.accept(&sample::bundle(32, 1, sample::Size::Small), "default").await;
    clinic.process(accepted).await.unwrap();
    set_version(&clinic, EXTRACTOR_VERSION + 1).await;
    assert_eq!(extract_again(&clinic, accepted).await, (json!(0), json!(0)));
    // What both stored at the same instant: the newer one is shown.
    clinic
        .unit(|connection| {
            Box::pin(async move {
                sqlx::query(
                    "insert into findings (organization_id, id, event_id, ordinal, category, kind, code_text, extractor_version, created_at)
                     select organization_id, gen_random_uuid(), event_id, ordinal, category, kind, 'older', 1, created_at from findings",
                )
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await;
    let view = clinic.view(&sample::mrn(32, 0)).await;
    for item in ["labs", "vitals"].into_iter().flat_map(|category| items(&view, category)) {
        assert_ne!(item["name"], "older");
        assert!(!item["evidence"].as_array().unwrap().is_empty());
    }
}

fn prescription() -> Value {
    json!({"resourceType": "MedicationRequest", "id": "r", "status": "active", "intent": "order", "authoredOn": "2024-01",
        "medicationReference": {"reference": "Medication/m"}, "subject": {"reference": "Patient/p"}})
}

fn medication(name: &str) -> Value {
    json!({"resourceType": "Medication", "id": "m", "code": {"coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": name}], "text": name}})
}

#[tokio::test]
async fn a_medication_of_another_bundle_is_named_whichever_comes_first() {
    for medication_first in [true, false] {
        let clinic = Clinic::open().await;
        let person = bundle("batch", &[patient("p", "1", "1987"), prescription()]);
        let drug = bundle("batch", &[medication("aspirin")]);
        let order = if medication_first { [&drug, &person] } else { [&person, &drug] };
        for body in order {
            clinic.ingest(body).await;
        }
        // Another source's medication of that id is another one.
        clinic.ingest_from(bundle("batch", &[medication("poison")]).to_string().as_bytes(), "elsewhere").await.unwrap();
        let view = clinic.view("1").await;
        let [item] = items(&view, "medications").as_slice() else { panic!("one item") };
        assert_eq!((&item["name"], &item["code"]["code"]), (&json!("aspirin"), &json!("aspirin")));
        assert_eq!(item["medication_reference"], "Medication/m");
        let quoted = item["evidence"].as_array().unwrap().last().unwrap();
        assert_eq!(quoted["pointer"], "/entry/0/resource/code");
        let body = drug.to_string();
        let offset = |name: &str| usize::try_from(quoted[name].as_u64().unwrap()).unwrap();
        assert_eq!(body[offset("start")..offset("end")], drug["entry"][0]["resource"]["code"].to_string());
        // A corrected medication corrects the name.
        clinic.ingest(&bundle("batch", &[medication("acetylsalicylic acid")])).await;
        assert_eq!(items(&clinic.view("1").await, "medications")[0]["name"], "acetylsalicylic acid");
    }
}

#[tokio::test]
async fn numbers_are_shown_as_written_wherever_they_stand() {
    let clinic = Clinic::open().await;
    let resources = [
        patient("p", "1", "1987"),
        json!({"resourceType": "Observation", "id": "o", "status": "final", "category": [{"coding": [{"code": "laboratory"}]}],
            "code": {"text": "x"}, "subject": {"reference": "urn:uuid:p"}, "valueQuantity": {"value": "ONE", "unit": "mg"},
            "referenceRange": [{"low": {"value": "TWO", "unit": "mg"}}], "effectiveDateTime": "2024-02-29T08:00:00+14:00"}),
        json!({"resourceType": "MedicationRequest", "id": "r", "status": "active", "intent": "order", "subject": {"reference": "urn:uuid:p"},
            "medicationCodeableConcept": {"text": "y"}, "dosageInstruction": [{"doseAndRate": [{"doseQuantity": {"value": "THREE"}}]}]}),
    ];
    let body = bundle("batch", &resources).to_string();
    let body = body.replace("\"ONE\"", "1.20E+2").replace("\"TWO\"", "0.10").replace("\"THREE\"", "5.00e-1");
    clinic.ingest_from(body.as_bytes(), "default").await.unwrap();
    let view = clinic.view("1").await;
    let answer = String::from_utf8(view.json()).unwrap();
    for written in [r#""value":"1.20E+2""#, r#"[{"low":{"unit":"mg","value":0.10}}]"#, r#"{"value":5.00e-1}"#] {
        assert!(answer.contains(written), "{written} is not in {answer}");
    }
    let lab = &items(&view, "labs")[0];
    assert_eq!(
        (&lab["effective"], &lab["effective_precision"]),
        (&json!("2024-02-29T08:00:00+14:00"), &json!("second"))
    );
    assert_eq!(lab["interpretation"], "N");
    assert_eq!(clinic.count("select count(*) from findings where value_number = 120").await, 1);
    let at = "select count(*) from findings where effective_at = '2024-02-28 18:00:00+00'";
    assert_eq!(clinic.count(at).await, 1);
}

/// Many numbers of JSON's grammar through all steps: the text is as written, and `numeric` has the same value as an
/// independent decimal library reads.
#[tokio::test]
async fn stored_decimals_are_the_text_and_the_value_that_was_sent() {
    let clinic = Clinic::open().await;
    let fraction = prop::option::of("[0-9]{1,20}|0{1,5}");
    let exponent = prop::option::of("[eE][+-]?[0-9]{1,2}");
    let number = ("-?(0|[1-9][0-9]{0,20})", fraction, exponent).prop_map(|(whole, fraction, exponent)| {
        format!(
            "{whole}{}{}",
            fraction.map(|digits| format!(".{digits}")).unwrap_or_default(),
            exponent.unwrap_or_default()
        )
    });
    let mut runner = TestRunner::deterministic();
    let numbers: Vec<String> = (0..500).map(|_| number.new_tree(&mut runner).unwrap().current()).collect();
    let observation = |(index, number): (usize, &String)| {
        format!(
            r#"{{"resource": {{"resourceType": "Observation", "id": "o{index}", "status": "final", "code": {{"text": "x"}},
                "subject": {{"reference": "Patient/p"}}, "valueQuantity": {{"value": {number}, "unit": "mg"}}}}}}"#
        )
    };
    let entries: Vec<String> = numbers.iter().enumerate().map(observation).collect();
    let body = format!(r#"{{"resourceType": "Bundle", "type": "collection", "entry": [{}]}}"#, entries.join(","));
    clinic.ingest_from(body.as_bytes(), "default").await.unwrap();
    let rows: Vec<(String, String, String)> = clinic
        .unit(|connection| {
            Box::pin(async move {
                let sql = "select e.resource_key, f.value_text, f.value_number::text
                           from findings f join clinical_events e on e.id = f.event_id";
                Ok(sqlx::query_as(sql).fetch_all(connection).await?)
            })
        })
        .await;
    assert_eq!(rows.len(), numbers.len());
    for (key, text, value) in rows {
        let sent = &numbers[key[1..].parse::<usize>().unwrap()];
        assert_eq!(&text, sent);
        let read = |text: &str| text.parse::<bigdecimal::BigDecimal>().unwrap();
        assert_eq!(read(&value), read(sent), "{sent}");
    }
}

#[tokio::test]
async fn a_rejected_entry_has_no_findings() {
    let clinic = Clinic::open().await;
    let bad = json!({"resourceType": "Observation", "id": "bad", "subject": {"reference": "urn:uuid:p"}, "code": {"text": "x"}, "valueString": "y"});
    let outputs =
        clinic.ingest(&bundle("batch", &[patient("p", "1", "1987"), bad, condition("c", "urn:uuid:p")])).await;
    assert_eq!(outputs["validate"]["rejected"], 1);
    assert_eq!((&outputs["extract_findings"]["findings"], &outputs["extract_findings"]["new"]), (&json!(1), &json!(1)));
    assert_eq!(clinic.count("select count(*) from findings where category <> 'problem'").await, 0);
}
