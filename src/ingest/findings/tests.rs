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
        ("valueSampledData", json!({"period": 1}), "sampled_data", None),
        ("valuePeriod", json!({"start": "2020"}), "period", None),
        ("valueTime", json!("10:30:00"), "time", Some("10:30:00")),
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
    let for_an_age = json!([{"low": quantity("70"), "age": {"high": {"value": 18}}}]);
    let critical = json!([{"low": quantity("70"), "type": {"coding": [{"code": "treatment"}]}}]);
    let about = json!([{"low": {"value": 70, "comparator": ">", "unit": "mg/dL"}}]);
    let reversed = json!([{"low": quantity("99"), "high": quantity("70")}]);
    for unclear in [two, other_unit, for_some, for_an_age, critical.clone(), about, reversed, json!([{"text": "low"}])]
    {
        assert_eq!(with("50", unclear, json!({})).0, None);
    }
    let beside_another_type = json!([critical[0], range[0]]);
    assert_eq!(with("75", beside_another_type, json!({})), (Some("N".to_owned()), Some("derived")));
    assert_eq!(with("50", json!([{"text": "70-99"}]), json!({})).0.as_deref(), Some("L"));
    let absent = json!({"referenceRange": range, "dataAbsentReason": {"coding": [{"code": "unknown"}]}});
    assert_eq!(one(observation(&absent)).interpretation, None);
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

/// A derived interpretation names the range that it comes from.
#[test]
fn a_derived_interpretation_has_its_range_as_evidence() {
    let body = br#"{"resourceType": "Bundle", "type": "batch", "entry": [{"resource": {"resourceType": "Observation", "code": {"text": "x"},
        "valueQuantity": {"value": 99.0000000000000000001}, "referenceRange": [{"low": {"value": 70}, "type": {"text": "other"}}, {"high": {"value": 99}}]}}]}"#;
    let finding = of_body(body).remove(0);
    assert_eq!(finding.interpretation.as_deref(), Some("H"));
    let last = finding.evidence.last().unwrap();
    assert_eq!((last.rule, last.pointer.as_str()), ("observation.range", "/entry/0/resource/referenceRange/1"));
}

fn details(finding: &Finding) -> Json {
    finding.details.as_deref().map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default()
}

#[test]
fn observations_keep_what_they_rest_on() {
    let site = json!({"coding": [{"system": "http://snomed.info/sct", "code": "368209003", "display": "Right arm"}]});
    let finding = one(observation(
        &json!({"category": [{"coding": [{"code": "survey"}]}, {"coding": [{"code": "sdoh"}]}],
        "hasMember": [{"reference": "Observation/m"}], "bodySite": site, "performer": [{"reference": "Practitioner/p"}],
        "effectiveTiming": {"event": ["2020-02"]}, "issued": "2020-03-01T00:00:00Z", "encounter": {"reference": "Encounter/e"}}),
    ));
    assert_eq!((finding.category, finding.laterality), ("survey", Some("right")));
    assert_eq!((finding.effective.text.as_deref(), finding.effective.precision), (Some("2020-02"), Some("month")));
    assert_eq!(
        (finding.issued.as_deref(), finding.encounter.as_deref()),
        (Some("2020-03-01T00:00:00Z"), Some("Encounter/e"))
    );
    assert_eq!(details(&finding)["hasMember"][0]["reference"], "Observation/m");
    assert_eq!(details(&finding)["category"][1]["coding"][0]["code"], "sdoh");
    let component = json!({"code": {"text": "x"}, "dataAbsentReason": {"text": "not asked"}});
    let absent = one(observation(&json!({ "component": [component] })));
    assert_eq!((absent.value.kind, absent.value.text.as_deref()), (Some("absent"), Some("not asked")));
}

#[test]
fn conditions_keep_course_severity_and_side() {
    let finding = one(
        json!({"resourceType": "Condition", "code": {"text": "otitis"}, "severity": {"coding": [{"code": "6736007"}]},
        "category": [{"coding": [{"code": "encounter-diagnosis"}]}], "bodySite": [{"text": "Left ear"}], "onsetAge": {"value": 4.50, "unit": "a"},
        "abatementString": "at school age", "recordedDate": "2001-02-03", "asserter": {"reference": "Patient/p"},
        "stage": [{"summary": {"text": "II"}}], "evidence": [{"detail": [{"reference": "Observation/o"}]}]}),
    );
    assert_eq!((finding.severity.as_deref(), finding.laterality), (Some("6736007"), Some("left")));
    assert_eq!(
        (finding.effective.text.as_deref(), finding.effective.end_text.as_deref()),
        (None, Some("at school age"))
    );
    assert_eq!(finding.performer.as_deref(), Some(r#"{"reference":"Patient/p"}"#));
    let details = details(&finding);
    assert_eq!(details["onsetAge"]["unit"], "a");
    assert_eq!((details["stage"].is_array(), details["evidence"].is_array()), (true, true));
    let period = one(json!({"resourceType": "Condition", "onsetPeriod": {"start": "2000", "end": "2001"}}));
    assert_eq!((period.effective.text.as_deref(), period.effective.end_text), (Some("2000"), None));
}

#[test]
fn an_allergys_criticality_is_not_its_severity() {
    let finding = one(
        json!({"resourceType": "AllergyIntolerance", "criticality": "high", "type": "allergy", "category": ["food"],
        "reaction": [{"substance": {"text": "peanut"}, "manifestation": [{"text": "hives"}], "severity": "mild"},
            {"manifestation": [{"text": "wheeze"}], "severity": "moderate", "exposureRoute": {"text": "oral"}}]}),
    );
    assert_eq!((finding.criticality.as_deref(), finding.severity.as_deref()), (Some("high"), Some("moderate")));
    assert_eq!((finding.code.text.as_deref(), finding.evidence[0].rule), (Some("peanut"), "allergy.code"));
    assert!(finding.reactions.unwrap().contains("exposureRoute"));
}

#[test]
fn acts_keep_their_particulars() {
    let immunization = one(
        json!({"resourceType": "Immunization", "status": "completed", "vaccineCode": {"text": "MMR"}, "lotNumber": "L1",
        "site": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActSite", "code": "LA"}]}, "primarySource": true,
        "doseQuantity": {"value": 0.5, "unit": "mL"}, "performer": [{"actor": {"reference": "Practitioner/p"}}], "reaction": [{"date": "2020"}]}),
    );
    assert_eq!((immunization.laterality, immunization.reactions.is_some()), (Some("left"), true));
    assert_eq!(details(&immunization), json!({"lotNumber": "L1", "primarySource": true}));
    let procedure = one(
        json!({"resourceType": "Procedure", "status": "not-done", "statusReason": {"text": "refused"}, "outcome": {"text": "none"},
        "performedPeriod": {"start": "2020-01-01", "end": "2020-01-02"}, "reasonCode": [{"text": "pain"}], "performer": [{"actor": {}}]}),
    );
    assert_eq!((procedure.negated, procedure.effective.end_text.as_deref()), (true, Some("2020-01-02")));
    assert_eq!(details(&procedure)["statusReason"]["text"], "refused");
    let report = one(
        json!({"resourceType": "DiagnosticReport", "status": "final", "code": {"text": "CBC"}, "result": [{"reference": "Observation/o"}],
        "conclusionCode": [{"text": "anemia"}], "presentedForm": [{"contentType": "application/pdf", "data": "AAAA", "hash": "aGFzaA=="}]}),
    );
    assert_eq!(details(&report)["result"][0]["reference"], "Observation/o");
    assert_eq!(details(&report)["presentedForm"], json!([{"contentType": "application/pdf", "hash": "aGFzaA=="}]));
    let encounter = one(
        json!({"resourceType": "Encounter", "status": "finished", "class": {"code": "AMB"}, "type": [{"text": "a"}, {"text": "b"}],
        "participant": [{"individual": {"reference": "Practitioner/p"}}], "reasonCode": [{"text": "cough"}], "location": [{"location": {}}]}),
    );
    assert_eq!((encounter.performer.is_some(), details(&encounter)["type"][1]["text"].as_str()), (true, Some("b")));
    let document = one(
        json!({"resourceType": "DocumentReference", "status": "current", "type": {"text": "note"}, "description": "A note",
        "date": "2020-05-05T10:00:00+02:00", "context": {"encounter": [{"reference": "Encounter/e"}]},
        "content": [{"attachment": {"contentType": "text/plain", "data": "QUJD", "url": "Binary/1", "size": 3}, "format": {"code": "f"}}]}),
    );
    assert_eq!((document.encounter.as_deref(), document.value.text.as_deref()), (Some("Encounter/e"), Some("A note")));
    assert_eq!(
        details(&document)["content"],
        json!([{"format": {"code": "f"}, "attachment": {"contentType": "text/plain", "url": "Binary/1", "size": 3}}])
    );
}

#[test]
fn medications_keep_why_and_how_and_point_to_what_is_elsewhere() {
    let request = one(
        json!({"resourceType": "MedicationRequest", "status": "active", "intent": "order", "medicationReference": {"reference": "Medication/m/_history/2"},
        "dosageInstruction": [{"text": "1 tablet", "route": {"text": "oral"}}], "reasonCode": [{"text": "pain"}], "requester": {"reference": "Practitioner/p"}}),
    );
    assert_eq!(request.medication_reference.as_deref(), Some("Medication/m"));
    assert_eq!((details(&request)["intent"].as_str(), request.performer.is_some()), (Some("order"), true));
    for elsewhere in ["http://other/Medication/m", "urn:uuid:1", "#gone", "Medication/", "Medication/a b"] {
        let other = one(json!({"resourceType": "MedicationRequest", "medicationReference": {"reference": elsewhere}}));
        assert_eq!(other.medication_reference, None, "{elsewhere}");
    }
    let medication =
        one(json!({"resourceType": "Medication", "code": {"text": "aspirin"}, "form": {"text": "tablet"}}));
    assert_eq!(
        (medication.code.text.as_deref(), details(&medication)["form"]["text"].as_str()),
        (Some("aspirin"), Some("tablet"))
    );
}

#[test]
fn json_of_a_resource_is_kept_as_written() {
    let body = br#"{"resourceType": "Bundle", "type": "batch", "entry": [{"resource": {"resourceType": "MedicationAdministration", "status": "completed",
        "medicationCodeableConcept": {"text": "x"}, "dosage": {"dose": {"value": 1.20E+2, "unit": "mg"}}, "note":  [ {"text":"a"} ]}}]}"#;
    let finding = of_body(body).remove(0);
    assert_eq!(finding.dosage.as_deref(), Some(r#"{"dose": {"value": 1.20E+2, "unit": "mg"}}"#));
    assert_eq!(finding.details.as_deref(), Some(r#"{"note":[ {"text":"a"} ]}"#));
}
