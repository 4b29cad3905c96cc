use super::mrn::IDENTIFIER_TYPES;
use super::*;
use crate::ingest::fhir::node::Node;
use crate::ingest::fhir::split;
use serde_json::{Value, json};

fn mrns(identifiers: &Value, systems: &[&str]) -> Vec<String> {
    let body = json!({ "identifier": identifiers }).to_string();
    let patient = Node::parse(body.as_bytes()).unwrap().object().unwrap();
    let systems: Vec<String> = systems.iter().map(|system| (*system).to_owned()).collect();
    let rules = MrnRules { systems, ..MrnRules::default() };
    patient_mrns(&patient, &rules).iter().map(Mrn::key).collect()
}

fn typed(code: &str, value: &str) -> Value {
    json!({"type": {"coding": [{"system": IDENTIFIER_TYPES, "code": code}]}, "system": "urn:s", "value": value})
}

#[test]
fn only_medical_record_numbers_count() {
    assert_eq!(mrns(&json!([typed("MR", " 00123 ")]), &[]), ["mrn:urn:s|00123"]);
    for code in ["SS", "AN", "VN", "DL"] {
        assert!(mrns(&json!([typed(code, "123")]), &["urn:s"]).is_empty(), "{code}");
    }
    let untyped = json!([{"system": "urn:h", "value": "7"}, {"system": "urn:other", "value": "8"}, {"value": "9"}]);
    assert_eq!(mrns(&untyped, &["urn:h"]), ["mrn:urn:h|7"]);
    assert!(mrns(&json!([{"type": {"coding": [{"code": "MR"}]}, "value": "9"}]), &[]).is_empty(), "no system, no key");
}

#[test]
fn placeholders_are_nobodys_number() {
    for value in ["0", "000000", "UNKNOWN", "Test", "", " ", "n/a", "XXX", "---"] {
        assert!(mrns(&json!([typed("MR", value)]), &[]).is_empty(), "{value:?}");
    }
    assert_eq!(mrns(&json!([typed("MR", "0100")]), &[]), ["mrn:urn:s|0100"]);
    assert_eq!(mrns(&json!([typed("MR", "7777")]), &[]), ["mrn:urn:s|7777"]);
}

#[test]
fn numbers_are_normalized_as_the_organization_says() {
    let read = |value: &str, rules: &MrnRules| {
        let body = json!({ "identifier": [typed("MR", value)] }).to_string();
        let patient = Node::parse(body.as_bytes()).unwrap().object().unwrap();
        patient_mrns(&patient, rules).first().map(|mrn| mrn.value.clone())
    };
    let plain = MrnRules::default();
    let folded = MrnRules { folded_systems: vec!["urn:s".to_owned()], ..MrnRules::default() };
    let refusing = MrnRules { placeholders: vec!["123456".to_owned(), "Walk-In".to_owned()], ..MrnRules::default() };
    for (value, rules, expected) in [
        (" Ab-01 2 ", &plain, Some("Ab-01 2")),
        // Full-width digits are digits (NFKC).
        ("\u{ff10}\u{ff11}7", &plain, Some("017")),
        (" Ab-01 2 ", &folded, Some("ab012")),
        ("0-0", &folded, None),
        ("123456", &plain, Some("123456")),
        ("123456", &refusing, None),
        ("walk-in", &refusing, None),
    ] {
        assert_eq!(read(value, rules).as_deref(), expected, "{value:?}");
    }
}

#[test]
fn retired_and_temporary_numbers_are_no_numbers() {
    let accepted_at = time::macros::datetime!(2026-06-15 12:00 UTC);
    let rules = MrnRules { accepted_at: Some(accepted_at), ..MrnRules::default() };
    let read = |more: Value| {
        let mut identifier = typed("MR", "7");
        identifier.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = json!({ "identifier": [identifier, typed("MRT", "8")] }).to_string();
        let patient = Node::parse(body.as_bytes()).unwrap().object().unwrap();
        assert_eq!(temporary_numbers(&patient, &rules).len(), 1);
        patient_mrns(&patient, &rules).len()
    };
    assert_eq!(read(json!({})), 1);
    assert_eq!(read(json!({"use": "old"})), 0);
    for (end, expected) in [
        ("2025", 0),
        ("2026", 1),
        ("2026-05", 0),
        ("2026-06-14", 0),
        ("2026-06-15", 1),
        ("2026-06-15T11:59:59Z", 0),
        ("2026-06-15T12:00:01Z", 1),
        ("someday", 1),
    ] {
        assert_eq!(read(json!({"period": {"end": end}})), expected, "{end}");
    }
}

fn subject(subject: &Value, contained: &Value) -> Subject {
    let patient = json!({"resourceType": "Patient", "id": "p1"});
    let condition = json!({"resourceType": "Condition", "subject": subject, "contained": contained});
    let body = json!({"resourceType": "Bundle", "type": "batch", "entry": [
        {"fullUrl": "urn:uuid:u1", "resource": patient},
        {"fullUrl": "http://h/fhir/Group/g", "resource": {"resourceType": "Group", "id": "g"}},
        {"resource": condition},
    ]})
    .to_string();
    let bundle = split::split(body.as_bytes()).unwrap();
    let directory = Directory::new(&bundle, &BTreeSet::new(), &MrnRules::default());
    directory.subject_of(&bundle.entries[2], &MrnRules::default())
}

fn reference(text: &str) -> Subject {
    subject(&json!({"reference": text}), &json!([]))
}

#[test]
fn a_subject_within_the_bundle_is_found_by_url_and_by_id() {
    for text in ["urn:uuid:u1", "Patient/p1", "Patient/p1/_history/2", "/Patient/p1", "./Patient/p1"] {
        assert_eq!(reference(text), Subject::Entry(0), "{text}");
    }
    assert_eq!(reference("Group/g"), Subject::Nobody);
    assert_eq!(reference("http://h/fhir/Group/g"), Subject::Nobody);
}

#[test]
fn a_subject_outside_the_bundle_has_a_key() {
    let key = |subject: Subject| match subject {
        Subject::Outside(outside) => outside.keys("lab").remove(0),
        other => panic!("{other:?}"),
    };
    assert_eq!(key(reference("Patient/p2")), "ref:lab|Patient/p2");
    assert_eq!(key(reference("urn:uuid:p2")), "ref:lab|Patient/p2");
    assert_eq!(key(reference("http://h/fhir/Patient/p2/_history/1")), "ref:lab|http://h/fhir/Patient/p2");
    assert_eq!(key(reference("Patient?identifier=urn%3As%7C007")), "mrn:urn:s|007");
    assert_eq!(key(reference("http://h/fhir/Patient?identifier=urn:s|007")), "mrn:urn:s|007");
    let identifier = json!({"reference": "Patient/p2", "identifier": {"system": "urn:s", "value": "007"}});
    assert_eq!(key(subject(&identifier, &json!([]))), "mrn:urn:s|007");
    let contained = json!([{"resourceType": "Patient", "id": "c", "identifier": [typed("MR", "9")]}]);
    assert_eq!(key(subject(&json!({"reference": "#c"}), &contained)), "mrn:urn:s|9");
}

#[test]
fn keys_of_different_numbers_differ() {
    let mrn = |system: &str, value: &str| Mrn { system: system.to_owned(), value: value.to_owned() }.key();
    assert_ne!(mrn("a|b", "c"), mrn("a", "b|c"));
    assert_ne!(mrn("a%7Cb", "c"), mrn("a|b", "c"));
    for (system, value) in [("urn:a|b%7C", "1|2"), ("", ""), ("%25", "%")] {
        let mrn = Mrn { system: system.to_owned(), value: value.to_owned() };
        assert!(Mrn::of_key(&mrn.key()) == Some(mrn));
    }
    assert!(Mrn::of_key("ref:a|Patient/b").is_none());
}

#[test]
fn what_names_nobody_is_nobody() {
    assert_eq!(reference("Device/d"), Subject::Nobody);
    assert_eq!(reference("#nowhere"), Subject::Nobody);
    assert_eq!(subject(&json!({"display": "Amy"}), &json!([])), Subject::Nobody);
    let ssn = json!({"identifier": typed("SS", "123-45-6789")});
    assert_eq!(subject(&ssn, &json!([])), Subject::Nobody);
}
