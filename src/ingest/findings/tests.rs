use super::*;
use crate::ingest::fhir::{sample, split};
use serde_json::{Value as Json, json};

/// The findings of one resource; every piece of evidence is the value that its pointer names.
fn findings(resources: &[Json]) -> Vec<Finding> {
    let entries: Vec<Json> = resources.iter().map(|resource| json!({ "resource": resource })).collect();
    let body = json!({"resourceType": "Bundle", "type": "batch", "entry": entries}).to_string();
    of_body(body.as_bytes())
}

fn of_body(body: &[u8]) -> Vec<Finding> {
    let tree: Json = serde_json::from_slice(body).unwrap();
    let bundle = split::split(body).unwrap();
    let medications = Medications::of(&bundle);
    let mut all = Vec::new();
    for entry in &bundle.entries {
        for finding in of_resource(entry.index, entry.resource.as_ref().unwrap(), &medications) {
            assert!(!finding.evidence.is_empty());
            for evidence in &finding.evidence {
                let slice: Json = serde_json::from_slice(&body[evidence.span.clone()]).unwrap();
                assert_eq!(Some(&slice), tree.pointer(&evidence.pointer), "{}", evidence.pointer);
            }
            all.push(finding);
        }
    }
    all
}

fn one(resource: Json) -> Finding {
    let mut all = findings(&[resource]);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn observation(with: &Json) -> Json {
    let mut resource = json!({"resourceType": "Observation", "status": "final", "code": {"coding": [{"system": "http://loinc.org", "code": "2345-7"}]}});
    resource.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    resource
}

fn quantity(value: &str) -> Json {
    json!({"value": serde_json::from_str::<Json>(value).unwrap(), "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"})
}

#[test]
fn a_decimal_keeps_its_text() {
    let body = br#"{"resourceType": "Bundle", "type": "batch", "entry": [{"resource": {"resourceType": "Observation", "status": "final",
        "code": {"text": "x"}, "valueQuantity": {"value": 1.20E+2, "comparator": "<", "unit": "mg"}}}]}"#;
    let finding = of_body(body).remove(0);
    assert_eq!(finding.value.text.as_deref(), Some("1.20E+2"));
    assert_eq!(finding.value.comparator.as_deref(), Some("<"));
    assert_eq!((finding.value.unit.as_deref(), finding.value.ucum.as_deref()), (Some("mg"), None));
}

#[test]
fn a_panel_is_one_finding_a_component() {
    let part = |code: &str, value: u32| json!({"code": {"coding": [{"system": "http://loinc.org", "code": code}]}, "valueQuantity": {"value": value, "unit": "mm[Hg]"}});
    let panel = observation(
        &json!({"category": [{"coding": [{"code": "misspelt"}]}], "component": [part("8480-6", 120), part("8462-4", 80)]}),
    );
    let all = findings(std::slice::from_ref(&panel));
    assert_eq!(all.iter().map(|finding| finding.ordinal).collect::<Vec<_>>(), [1, 2]);
    assert!(all.iter().all(|finding| finding.category == "vital"));
    assert_eq!(all[1].value.text.as_deref(), Some("80"));
    assert_eq!(all[1].evidence[0].fhirpath, "Bundle.entry[0].resource.component[1]");
    let mut with_value = panel;
    with_value["valueString"] = json!("normal");
    assert_eq!(findings(&[with_value]).len(), 3);
}

#[test]
fn each_type_of_value_is_kept() {
    for (member, value, kind, text) in [
        ("valueCodeableConcept", json!({"coding": [{"code": "c", "display": "shown"}]}), "code", Some("shown")),
        ("valueString", json!("a\nb"), "string", Some("a\nb")),
        ("valueBoolean", json!(false), "boolean", Some("false")),
        ("valueInteger", json!(7), "integer", Some("7")),
        ("valueDateTime", json!("2020-01"), "datetime", Some("2020-01")),
        ("valueRange", json!({"low": {"value": 1}}), "range", None),
        ("valueRatio", json!({"numerator": {"value": 1}}), "ratio", None),
        ("valueSampledData", json!({"period": 1}), "other", None),
        ("dataAbsentReason", json!({"coding": [{"code": "unknown"}]}), "absent", Some("unknown")),
    ] {
        let finding = one(observation(&json!({ member: value })));
        assert_eq!((finding.value.kind, finding.value.text.as_deref()), (Some(kind), text), "{member}");
    }
    assert_eq!(one(observation(&json!({}))).value.kind, None);
}

#[test]
fn an_interpretation_is_derived_only_where_one_range_clearly_applies() {
    let with = |value: &str, ranges: Json, more: Json| {
        let mut resource = observation(&json!({"valueQuantity": quantity(value), "referenceRange": ranges}));
        resource.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let finding = one(resource);
        (finding.interpretation, finding.interpretation_source)
    };
    let range = json!([{"low": quantity("70"), "high": quantity("99")}]);
    let derived = |value: &str| with(value, range.clone(), json!({})).0;
    assert_eq!(derived("70.0").as_deref(), Some("N"));
    assert_eq!(derived("69.9").as_deref(), Some("L"));
    assert_eq!(derived("99.5").as_deref(), Some("H"));
    let declared = json!({"interpretation": [{"coding": [{"code": "HH"}]}]});
    assert_eq!(with("80", range.clone(), declared), (Some("HH".to_owned()), Some("declared")));
    let two = json!([range[0], range[0]]);
    let other_unit = json!([{"low": {"value": 3.9, "unit": "mmol/L"}}]);
    let for_some = json!([{"low": quantity("70"), "appliesTo": [{"text": "x"}]}]);
    for unclear in [two, other_unit, for_some, json!([{"text": "70-99"}])] {
        assert_eq!(with("50", unclear, json!({})).0, None);
    }
}

#[test]
fn negations_are_told_from_assertions() {
    let subject = json!({"reference": "Patient/p"});
    for resource in [
        json!({"resourceType": "Condition", "subject": subject, "verificationStatus": {"coding": [{"code": "refuted"}]}}),
        json!({"resourceType": "AllergyIntolerance", "patient": subject, "code": {"coding": [{"code": "716186003"}]}}),
        json!({"resourceType": "Immunization", "status": "not-done"}),
        json!({"resourceType": "Procedure", "status": "not-done"}),
        json!({"resourceType": "MedicationRequest", "doNotPerform": true}),
        json!({"resourceType": "MedicationStatement", "status": "not-taken"}),
        json!({"resourceType": "MedicationAdministration", "status": "not-done"}),
    ] {
        let finding = one(resource);
        assert!(finding.negated && finding.kind == "negation", "{}", finding.category);
    }
    assert!(!one(json!({"resourceType": "Immunization", "status": "completed"})).negated);
}

#[test]
fn a_medication_is_found_where_it_is_said() {
    let contained = json!({"resourceType": "MedicationRequest", "contained": [{"id": "x"}, {"id": "m", "code": {"text": "aspirin"}}],
        "medicationReference": {"reference": "#m"}});
    assert_eq!(one(contained).code.text.as_deref(), Some("aspirin"));
    let elsewhere = json!({"resourceType": "MedicationRequest", "medicationReference": {"reference": "Medication/m", "display": "shown"}});
    let medication = json!({"resourceType": "Medication", "id": "m", "code": {"coding": [{"code": "1191"}]}});
    let all = findings(&[elsewhere.clone(), medication]);
    assert_eq!((all[0].code.code.as_deref(), all[0].code.text.as_deref()), (Some("1191"), Some("shown")));
    assert_eq!(all[0].evidence[1].pointer, "/entry/1/resource/code");
    assert_eq!(one(elsewhere).code.text.as_deref(), Some("shown"));
}

#[test]
fn times_keep_their_precision() {
    let finding = one(json!({"resourceType": "Condition", "onsetDateTime": "1988-07", "abatementDateTime": "1990"}));
    assert_eq!((finding.effective.precision, finding.effective.end_text.as_deref()), (Some("month"), Some("1990")));
    let finding = one(
        json!({"resourceType": "Encounter", "class": {"code": "AMB"}, "period": {"start": "2020-01-01T00:00:00Z"}}),
    );
    assert_eq!((finding.effective.precision, finding.value.text.as_deref()), (Some("second"), Some("AMB")));
}

#[test]
fn every_sample_yields_findings_with_evidence() {
    let all = of_body(&sample::bundle(3, 2, sample::Size::Full));
    for category in
        ["vital", "lab", "medication", "problem", "allergy", "immunization", "procedure", "report", "encounter"]
    {
        assert!(all.iter().any(|finding| finding.category == category), "{category}");
    }
}
