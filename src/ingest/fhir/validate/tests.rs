use super::*;
use serde_json::{Value, json};

fn issues(bundle: &Value) -> Vec<(Severity, &'static str, String)> {
    let body = bundle.to_string();
    let issues = validate_bundle(body.as_bytes());
    for issue in &issues {
        // Where the pointer leads somewhere, the offset is that value's; else that of what lacks it.
        let pointer = issue.pointer.as_deref().unwrap_or_default();
        if let (Some(value), Some(offset)) = (bundle.pointer(pointer), issue.byte_offset) {
            let rest = &body[usize::try_from(offset).unwrap()..];
            let read = serde_json::Deserializer::from_str(rest).into_iter::<Value>().next().unwrap().unwrap();
            assert!(&read == value || read.is_object(), "{issue:?}");
        }
    }
    issues.into_iter().map(|issue| (issue.severity, issue.code, issue.expression.unwrap_or_default())).collect()
}

fn bundle(bundle_type: &str, resources: &[Value]) -> Value {
    let entries: Vec<Value> = resources
        .iter()
        .map(|resource| match bundle_type {
            "transaction" | "batch" => json!({"resource": resource, "request": {"method": "POST", "url": "X"}}),
            _ => json!({"resource": resource}),
        })
        .collect();
    json!({"resourceType": "Bundle", "type": bundle_type, "entry": entries})
}

fn only(bundle: &Value, severity: Severity, code: &'static str, expression: &str) {
    assert_eq!(issues(bundle), [(severity, code, expression.to_owned())], "{bundle}");
}

fn patient() -> Value {
    json!({"resourceType": "Patient", "id": "a"})
}

#[test]
fn each_problem_of_a_resource_is_placed() {
    let error = |resource: Value, code, path: &str| {
        only(&bundle("batch", &[resource]), Severity::Error, code, &format!("Bundle.entry[0].resource{path}"));
    };
    error(json!({"resourceType": "Pacient"}), "structure", ".resourceType");
    error(json!({"resourceType": "Patient", "id": "a b"}), "value", ".id");
    error(json!({"resourceType": "Patient", "id": "x".repeat(65)}), "value", ".id");
    error(json!({"resourceType": "Patient", "id": 7}), "structure", ".id");
    error(json!({"resourceType": "Patient", "birthDate": "2020-02-30"}), "value", ".birthDate");
    error(json!({"resourceType": "Patient", "birthDate": "2020-02-03T10:00:00Z"}), "value", ".birthDate");
    error(json!({"resourceType": "Patient", "meta": {"lastUpdated": "2020"}}), "value", ".meta.lastUpdated");
    error(json!({"resourceType": "Patient", "name": {"family": "x"}}), "structure", ".name");
    error(json!({"resourceType": "Patient", "name": []}), "structure", ".name");
    error(json!({"resourceType": "Patient", "gender": null}), "structure", ".gender");
    error(json!({"resourceType": "Observation", "code": {"text": "x"}}), "required", ".status");
    error(json!({"resourceType": "Observation", "status": "final"}), "required", ".code");
    error(
        json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "issued": "2020-01-01"}),
        "value",
        ".issued",
    );
    error(json!({"resourceType": "Condition"}), "required", ".subject");
    error(json!({"resourceType": "AllergyIntolerance"}), "required", ".patient");
    error(json!({"resourceType": "Encounter", "status": "finished"}), "required", ".class");
    error(
        json!({"resourceType": "Immunization", "status": "completed", "vaccineCode": {"text": "x"}, "patient": {"display": "x"}}),
        "required",
        ".occurrence",
    );
    let both = json!({"resourceType": "MedicationRequest", "status": "active", "intent": "order", "subject": {"display": "x"},
        "medicationCodeableConcept": {"text": "x"}, "medicationReference": {"display": "x"}});
    error(both, "structure", ".medication");
}

#[test]
fn requests_are_checked() {
    let with = |request: Value| json!({"resourceType": "Bundle", "type": "transaction", "entry": [{"resource": patient(), "request": request}]});
    let path = |rest: &str| format!("Bundle.entry[0].request{rest}");
    for method in ["DELETE", "PATCH", "GET"] {
        only(&with(json!({"method": method, "url": "Patient/a"})), Severity::Error, "not-supported", &path(".method"));
    }
    only(&with(json!({"method": "SEND", "url": "Patient"})), Severity::Error, "value", &path(".method"));
    only(&with(json!({"method": "PUT"})), Severity::Error, "required", &path(".url"));
    only(&with(json!({"url": "Patient"})), Severity::Error, "required", &path(".method"));
    only(&with(json!([1])), Severity::Error, "structure", &path(""));
    let without = json!({"resourceType": "Bundle", "type": "batch", "entry": [{"resource": patient()}]});
    only(&without, Severity::Error, "required", &path(""));
}

#[test]
fn the_bundle_has_its_own_rules() {
    only(&bundle("message", &[patient()]), Severity::Error, "invariant", "Bundle.entry[0].resource");
    only(&bundle("history", &[]), Severity::Error, "not-supported", "Bundle.type");
    only(&bundle("batch", &[]), Severity::Error, "required", "Bundle.entry");
    let mut twice = bundle("collection", &[patient(), patient()]);
    twice["entry"][0]["fullUrl"] = json!("urn:uuid:1");
    twice["entry"][1]["fullUrl"] = json!("urn:uuid:1");
    only(&twice, Severity::Error, "duplicate", "Bundle.entry[1].fullUrl");
    twice["entry"][1]["resource"]["meta"] = json!({"versionId": "2"});
    assert_eq!(issues(&twice), []);
}

#[test]
fn a_local_reference_that_leads_nowhere_is_a_warning() {
    let mut body = bundle(
        "collection",
        &[patient(), json!({"resourceType": "Condition", "subject": {"reference": "urn:uuid:1"}})],
    );
    only(&body, Severity::Warning, "not-found", "Bundle.entry[1].resource.subject.reference");
    body["entry"][0]["fullUrl"] = json!("urn:uuid:1");
    assert_eq!(issues(&body), []);
}

#[test]
fn a_reference_with_escapes_is_followed_too() {
    let body =
        br#"{"resourceType": "Bundle", "type": "collection", "entry": [{"resource": {"resourceType": "Condition",
        "subject": {"reference": "\u0075rn:uuid:1"}}}]}"#;
    assert_eq!(report(body).issues[0].code, "not-found");
}

#[test]
fn duplicate_keys_are_errors() {
    let body = br#"{"resourceType": "Bundle", "type": "collection", "entry": [{"resource": {"resourceType": "Patient", "gender": "male", "gender": "female"}}]}"#;
    let report = report(body);
    assert_eq!((report.errors, report.rejected.contains(&0)), (1, true));
    assert_eq!(report.issues[0].byte_offset, Some(u64::try_from(body.len() - 12).unwrap()));
}

#[test]
fn bad_entries_are_rejected_and_the_others_are_not() {
    let report =
        report(bundle("batch", &[patient(), json!({"resourceType": "Nope"}), patient()]).to_string().as_bytes());
    assert_eq!(report.rejected.iter().copied().collect::<Vec<_>>(), [1]);
    assert_eq!((report.entries, report.unusable), (3, false));
}

#[test]
fn what_is_not_a_bundle_is_one_fatal_issue() {
    for body in [&b""[..], b"{", b"[]", b"\xff", br#"{"resourceType": "Patient"}"#] {
        let report = report(body);
        assert_eq!(report.issues.len(), 1);
        assert_eq!(report.issues[0].severity, Severity::Fatal);
        assert!(report.unusable);
    }
}

#[test]
fn issues_are_bounded_and_all_counted() {
    let report = report(bundle("batch", &vec![json!({"resourceType": "Condition"}); 1_500]).to_string().as_bytes());
    assert_eq!((report.issues.len(), report.total, report.rejected.len()), (1_000, 1_500, 1_500));
}

#[test]
fn no_issue_repeats_a_value_of_the_payload() {
    let secret = "Shaw-1987";
    let mut body = bundle(
        "batch",
        &[
            json!({"resourceType": secret, "id": secret}),
            json!({"resourceType": "Patient", "birthDate": secret, "id": "Shaw 1987"}),
        ],
    );
    body["entry"][0]["request"]["method"] = json!(secret);
    body["timestamp"] = json!(secret);
    let text = format!("{:?}", validate_bundle(body.to_string().as_bytes()));
    assert!(!text.contains("Shaw"), "{text}");
}
