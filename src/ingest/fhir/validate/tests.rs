use super::*;
use serde_json::{Value, json};

mod bounds;

fn validate_one(one: &Value) -> Issue {
    let mut issues = resource(one.to_string().as_bytes(), None).issues;
    assert_eq!(issues.len(), 1);
    issues.remove(0)
}

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

const UUID: &str = "urn:uuid:6f1b9a52-7d34-4a0e-9c55-0f2f6b7f1a01";

fn active_allergy() -> Value {
    json!({"coding": [{"system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "code": "active"}]})
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
    error(json!({"resourceType": "AllergyIntolerance", "clinicalStatus": active_allergy()}), "required", ".patient");
    error(json!({"resourceType": "AllergyIntolerance", "patient": {"display": "x"}}), "invariant", "");
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
    only(&with(json!({"method": "SEND", "url": "Patient"})), Severity::Error, "code-invalid", &path(".method"));
    only(&with(json!({"method": "PUT"})), Severity::Error, "required", &path(".url"));
    only(&with(json!({"url": "Patient"})), Severity::Error, "required", &path(".method"));
    only(&with(json!([1])), Severity::Error, "structure", &path(""));
    let without = json!({"resourceType": "Bundle", "type": "batch", "entry": [{"resource": patient()}]});
    only(&without, Severity::Error, "required", &path(""));
}

#[test]
fn the_bundle_has_its_own_rules() {
    only(&bundle("message", &[patient()]), Severity::Error, "invariant", "Bundle.entry[0].resource");
    let without = |bundle_type: &str| json!({"resourceType": "Bundle", "type": bundle_type});
    only(&without("history"), Severity::Error, "not-supported", "Bundle.type");
    only(&without("batch"), Severity::Error, "required", "Bundle.entry");
    let mut twice = bundle("collection", &[patient(), patient()]);
    twice["entry"][0]["fullUrl"] = json!(UUID);
    twice["entry"][1]["fullUrl"] = json!(UUID);
    only(&twice, Severity::Error, "duplicate", "Bundle.entry[1].fullUrl");
    twice["entry"][1]["resource"]["meta"] = json!({"versionId": "2"});
    assert_eq!(issues(&twice), []);
}

#[test]
fn a_local_reference_that_leads_nowhere_is_a_warning() {
    let mut body =
        bundle("collection", &[patient(), json!({"resourceType": "Condition", "subject": {"reference": UUID}})]);
    only(&body, Severity::Warning, "not-found", "Bundle.entry[1].resource.subject.reference");
    body["entry"][0]["fullUrl"] = json!(UUID);
    assert_eq!(issues(&body), []);
}

#[test]
fn a_reference_with_escapes_is_followed_too() {
    let body =
        br#"{"resourceType": "Bundle", "type": "collection", "entry": [{"resource": {"resourceType": "Condition",
        "subject": {"reference": "\u0075rn:uuid:9"}}}]}"#;
    assert_eq!(report(body).issues[0].code, "not-found");
}

#[test]
fn duplicate_keys_are_errors() {
    let body = br#"{"resourceType": "Bundle", "type": "collection", "entry": [{"resource": {"resourceType": "Patient", "gender": "male", "gender": "female"}}]}"#;
    let report = report(body);
    assert_eq!((report.errors, report.rejected.contains(&0)), (1, true));
    assert_eq!(report.issues[0].byte_offset, Some(u64::try_from(body.len() - 22).unwrap()));
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

/// Issues of a resource by itself.
fn alone(resource: &Value) -> Vec<(&'static str, String)> {
    text_alone(&resource.to_string())
}

fn text_alone(text: &str) -> Vec<(&'static str, String)> {
    let issues = resource(text.as_bytes(), None).issues;
    issues.into_iter().map(|issue| (issue.code, issue.expression.unwrap_or_default())).collect()
}

fn observation(more: &Value) -> Value {
    let mut resource = json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"}});
    for (key, value) in more.as_object().unwrap() {
        resource[key] = value.clone();
    }
    resource
}

fn condition(more: &Value) -> Value {
    let mut resource = json!({"resourceType": "Condition", "subject": {"reference": "Patient/p"}});
    for (key, value) in more.as_object().unwrap() {
        resource[key] = value.clone();
    }
    resource
}

fn clinical(code: &str) -> Value {
    json!({"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": code}]})
}

fn verification(code: &str) -> Value {
    json!({"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-ver-status", "code": code}]})
}

#[test]
fn the_table_knows_every_element_to_the_bottom() {
    for (resource, expected) in [
        (json!({"resourceType": "Patient", "nome": 1}), vec![("structure", "Patient")]),
        (
            json!({"resourceType": "Patient", "name": [{"family": "a", "given": "b"}]}),
            vec![("structure", "Patient.name[0].given")],
        ),
        (
            json!({"resourceType": "Patient", "name": [{"family": ["a"]}]}),
            vec![("structure", "Patient.name[0].family")],
        ),
        (json!({"resourceType": "Patient", "active": "true"}), vec![("structure", "Patient.active")]),
        (
            json!({"resourceType": "Patient", "multipleBirthInteger": 1.5}),
            vec![("value", "Patient.multipleBirth.ofType(integer)")],
        ),
        (
            json!({"resourceType": "Patient", "contact": [{}]}),
            vec![("structure", "Patient.contact[0]"), ("invariant", "Patient.contact[0]")],
        ),
        (json!({"resourceType": "Patient", "gender": "Male"}), vec![("code-invalid", "Patient.gender")]),
        (json!({"resourceType": "Patient", "maritalStatus": null}), vec![("structure", "Patient.maritalStatus")]),
        (
            json!({"resourceType": "Patient", "deceasedBoolean": false, "deceasedDateTime": "2020"}),
            vec![("structure", "Patient.deceased")],
        ),
        (
            observation(&json!({"valueQuantity": {"value": "1"}})),
            vec![("structure", "Observation.value.ofType(Quantity).value")],
        ),
        (
            observation(&json!({"component": [{"valueString": "x"}]})),
            vec![("required", "Observation.component[0].code")],
        ),
        (observation(&json!({"subject": {"reference": "Medication/1"}})), vec![("structure", "Observation.subject")]),
        (
            observation(&json!({"subject": {"reference": "http://h/fhir/Medication/1/_history/2"}})),
            vec![("structure", "Observation.subject")],
        ),
        (
            observation(&json!({"subject": {"reference": "Patient/1", "type": "Medication"}})),
            vec![("structure", "Observation.subject")],
        ),
        (observation(&json!({"subject": {"reference": "a b"}})), vec![("value", "Observation.subject")]),
        (observation(&json!({"extension": [{"url": "http://x"}]})), vec![("invariant", "Observation.extension[0]")]),
        (
            observation(&json!({"extension": [{"valueString": "x"}]})),
            vec![("required", "Observation.extension[0].url")],
        ),
        (
            observation(&json!({"effectivePeriod": {"start": "2020-02", "end": "2020-01"}})),
            vec![("invariant", "Observation.effective.ofType(Period)")],
        ),
        (observation(&json!({"effectivePeriod": {"start": "2020-02-03", "end": "2020-02"}})), vec![]),
        (
            observation(&json!({"referenceRange": [{"age": {"low": {"value": 1}}}]})),
            vec![("invariant", "Observation.referenceRange[0]")],
        ),
        (
            observation(&json!({"valueString": "x", "dataAbsentReason": {"text": "x"}})),
            vec![("invariant", "Observation")],
        ),
        (
            observation(&json!({"code": {"coding": [{"system": "s", "code": "c"}]}, "valueString": "x",
            "component": [{"code": {"coding": [{"system": "s", "code": "c"}]}}]})),
            vec![("invariant", "Observation")],
        ),
        (
            json!({"resourceType": "Media", "status": "completed", "content": {"size": 5, "contentType": "text/plain", "data": "QUJD"}}),
            vec![("structure", "Media.content")],
        ),
        (
            json!({"resourceType": "Media", "status": "completed", "content": {"contentType": "text/plain", "data": "%"}}),
            vec![("value", "Media.content.data")],
        ),
    ] {
        let expected: Vec<_> = expected.into_iter().map(|(code, place)| (code, place.to_owned())).collect();
        assert_eq!(alone(&resource), expected, "{resource}");
    }
}

#[test]
fn a_conditions_statuses_agree() {
    for (more, broken) in [
        (json!({"clinicalStatus": clinical("active")}), 0),
        (json!({"clinicalStatus": clinical("activ")}), 1),
        (json!({"clinicalStatus": {"text": "active"}}), 1),
        (json!({"clinicalStatus": clinical("active"), "abatementString": "later"}), 1),
        (json!({"clinicalStatus": clinical("resolved"), "abatementDateTime": "2020"}), 0),
        (json!({"clinicalStatus": clinical("active"), "verificationStatus": verification("entered-in-error")}), 1),
        (json!({"verificationStatus": verification("entered-in-error")}), 0),
        (json!({"category": [{"coding": [{"code": "problem-list-item"}]}]}), 1),
    ] {
        assert_eq!(alone(&condition(&more)).len(), broken, "{more}");
    }
}

#[test]
fn a_null_in_an_array_needs_its_extension() {
    let extension = json!({"extension": [{"url": "http://x", "valueString": "y"}]});
    let name =
        |given: Value, more: Value| json!({"resourceType": "Patient", "name": [{"given": given, "_given": more}]});
    for (resource, expected) in [
        (name(json!([null, "B"]), json!([extension, null])), vec![]),
        (name(json!(["A", null]), json!([null, extension])), vec![]),
        (
            name(json!([null, "B"]), json!([null, extension])),
            vec!["Patient.name[0].given[0]", "Patient.name[0].given[0]"],
        ),
        (name(json!(["A"]), json!({"extension": []})), vec!["Patient.name[0].given"]),
        (json!({"resourceType": "Patient", "name": [{"given": [null]}]}), vec!["Patient.name[0].given[0]"]),
        (json!({"resourceType": "Patient", "_birthDate": extension}), vec![]),
        (
            json!({"resourceType": "Patient", "_birthDate": {"extension": [{"url": "x"}]}}),
            vec!["Patient.birthDate.extension[0]"],
        ),
        (json!({"resourceType": "Patient", "_name": {}}), vec!["Patient"]),
        (json!({"resourceType": "Observation", "_status": extension, "code": {"text": "x"}}), vec![]),
    ] {
        let places: Vec<_> = alone(&resource).into_iter().map(|(_, place)| place).collect();
        assert_eq!(places, expected, "{resource}");
    }
}

#[test]
fn contained_resources_are_referred_to_and_not_nested() {
    let holding = |contained: Value, reference: &str| json!({"resourceType": "Condition", "contained": contained, "subject": {"reference": reference}});
    for (resource, expected) in [
        (holding(json!([{"resourceType": "Patient", "id": "p"}]), "#p"), vec![]),
        (
            holding(json!([{"resourceType": "Patient", "id": "p"}]), "#q"),
            vec!["Condition.contained[0]", "Condition.subject"],
        ),
        (
            holding(
                json!([{"resourceType": "Provenance", "id": "v", "target": [{"reference": "#"}], "recorded": "2020-01-01T00:00:00Z",
            "agent": [{"who": {"display": "x"}}]}]),
                "Patient/p",
            ),
            vec![],
        ),
        (
            holding(
                json!([{"resourceType": "Patient", "id": "p", "contained": [{"resourceType": "Patient", "id": "r"}]}]),
                "#p",
            ),
            vec!["Condition.contained[0].contained[0]"],
        ),
        (
            holding(json!([{"resourceType": "Patient", "id": "p", "meta": {"versionId": "1"}}]), "#p"),
            vec!["Condition.contained[0]"],
        ),
    ] {
        let places: Vec<_> = alone(&resource).into_iter().map(|(_, place)| place).collect();
        assert_eq!(places, expected, "{resource}");
    }
}

#[test]
fn a_late_resource_type_and_a_byte_order_mark_are_no_problem() {
    let text = r#"{"birthDate": "2020-02-30", "resourceType": "Patient"}"#;
    assert_eq!(text_alone(text), [("value", "Patient.birthDate".to_owned())]);
    let marked = format!("\u{feff}{text}");
    let issues = resource(marked.as_bytes(), None).issues;
    assert_eq!(issues[0].byte_offset, Some(u64::try_from(marked.find("\"2020").unwrap()).unwrap()));
    assert_eq!(text_alone(&format!("\u{feff}{marked}")).len(), 1);
}

#[test]
fn what_is_not_json_says_where() {
    for (text, place) in [
        ("", ""),
        (r#"{"resourceType": "Patient", "name": [{"given": ["a",]}]}"#, "Patient.name[0].given"),
        (r#"{"resourceType": "Patient", "name": [{"given": ["a" "b"]}]}"#, "Patient.name[0].given"),
        (r#"{"resourceType": "Patient", "name": [{family: "a"}]}"#, "Patient.name[0]"),
        (r#"{"resourceType": "Patient", "name": [{"family": "\ud800"}]}"#, "Patient.name[0].family"),
        (r#"{"resourceType": "Patient", "id": "\u0000"}"#, "Patient.id"),
        (r#"{"resourceType": "Patient", "id": "a"} {}"#, ""),
        ("{ // a comment\n \"resourceType\": \"Patient\"}", "Patient"),
    ] {
        assert_eq!(text_alone(text), [("structure", place.to_owned())], "{text}");
        assert!(resource(text.as_bytes(), None).unusable, "{text}");
    }
}

#[test]
fn hostile_payloads_are_issues() {
    let deep = format!(r#"{{"resourceType": "Patient", "name": {}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(text_alone(&deep).len(), 1);
    let unknown = format!(r#"{{"resourceType": "Patient", "x": {}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(text_alone(&unknown), [("structure", "Patient".to_owned())]);
    let extension = r#"{"url": "x", "extension": ["#;
    let nested = format!(
        r#"{{"resourceType": "Patient", "extension": [{}]{}}}"#,
        extension.repeat(100_000),
        "}]".repeat(100_000)
    );
    assert!(text_alone(&nested).iter().any(|(code, _)| *code == "too-long"), "{:?}", text_alone(&nested).len());
    let long = format!(r#"{{"resourceType": "Patient", "name": [{{"family": "{}"}}]}}"#, "x".repeat(10_000_000));
    assert_eq!(text_alone(&long), [("too-long", "Patient.name[0].family".to_owned())]);
    let huge =
        observation(&json!({})).to_string().replace(r#""status""#, r#""valueQuantity": {"value": 1e400}, "status""#);
    assert_eq!(text_alone(&huge), [("value", "Observation.value.ofType(Quantity).value".to_owned())]);
    let many = format!(r#"{{"resourceType": "Patient"{}}}"#, r#", "gender": "male""#.repeat(200_000));
    assert_eq!(resource(many.as_bytes(), None).total, 199_999);
}

#[test]
fn a_reference_within_the_bundle_is_checked_by_what_it_names() {
    let entry = json!({"fullUrl": UUID, "resource": {"resourceType": "Medication"}});
    let about = json!({"resource": observation(&json!({"subject": {"reference": UUID}}))});
    let body = json!({"resourceType": "Bundle", "type": "collection", "entry": [entry, about]});
    only(&body, Severity::Error, "structure", "Bundle.entry[1].resource.subject");
}

#[test]
fn documents_and_search_results_have_their_rules() {
    let composition = json!({"resourceType": "Composition", "status": "final", "type": {"text": "x"}, "date": "2020",
        "author": [{"display": "x"}], "title": "x"});
    let document =
        json!({"resourceType": "Bundle", "type": "document", "entry": [{"fullUrl": UUID, "resource": composition}]});
    let places: Vec<_> = alone(&document).into_iter().map(|(code, _)| code).collect();
    assert_eq!(places, ["invariant", "invariant"]);
    let search = json!({"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": {"resourceType": "Patient", "active": true}}]});
    assert_eq!(alone(&search), [("invariant", "Bundle.entry[0].resource".to_owned())]);
    let other = json!({"resourceType": "Bundle", "type": "collection", "total": 1,
        "entry": [{"fullUrl": "http://h/Patient/a", "resource": {"resourceType": "Patient", "id": "b"}, "search": {"mode": "match"}}]});
    let mut codes: Vec<_> = alone(&other).into_iter().map(|(code, _)| code).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["invariant", "invariant", "value"]);
}

#[test]
fn two_types_of_a_choice_are_not_a_duplicate_and_the_other_way_round() {
    let message = |text: &str| {
        let issues = resource(text.as_bytes(), None).issues;
        issues.into_iter().map(|issue| issue.message).collect::<Vec<_>>()
    };
    let choice = "Patient.deceased[x] is there with more than one type.";
    let earlier = r#"{"resourceType": "Patient", "deceasedBoolean": true}"#;
    let later = r#"{"resourceType": "Patient", "deceasedDateTime": "2020", "deceasedBoolean": true}"#;
    let bundle = format!(
        r#"{{"resourceType": "Bundle", "type": "collection", "entry": [{{"resource": {earlier}}}, {{"resource": {later}}}]}}"#
    );
    assert_eq!(message(&bundle), [choice]);
    for text in [
        r#"{"resourceType": "Patient", "deceasedBoolean": true, "_deceasedDateTime": {"id": "x"}}"#,
        r#"{"resourceType": "Patient", "_deceasedDateTime": {"id": "x"}, "deceasedBoolean": true}"#,
    ] {
        assert_eq!(message(text), [choice], "{text}");
    }
    let same = r#"{"resourceType": "Patient", "deceasedBoolean": true, "deceasedBoole\u0061n": false}"#;
    assert_eq!(message(same), ["There are two members deceasedBoolean."]);
    let beside = r#"{"resourceType": "Patient", "_deceasedBoolean": {"id": "x"}, "deceasedBoolean": true}"#;
    assert_eq!(message(beside), [""; 0]);
}

#[test]
fn only_an_entrys_own_meta_and_request_count() {
    let meta = |version: &str| json!({"versionId": version});
    let entry = |version: &str, inner: &str| {
        json!({"fullUrl": UUID, "resource": {"resourceType": "Patient", "meta": meta(version),
            "extension": [{"url": "http://x", "valueMeta": meta(inner)}]}})
    };
    let body = json!({"resourceType": "Bundle", "type": "collection", "entry": [entry("1", "7"), entry("2", "7")]});
    assert_eq!(issues(&body), []);
    let within = json!({"resourceType": "Bundle", "type": "batch", "entry": [
        {"resource": patient(), "request": {"method": "POST", "url": "Patient"}}]});
    let outer = json!({"resourceType": "Bundle", "type": "batch", "entry": [
        {"request": {"method": "DELETE", "url": "Bundle/1"}, "resource": within}]});
    only(&outer, Severity::Error, "not-supported", "Bundle.entry[0].request.method");
}

#[test]
fn a_members_name_is_repeated_only_if_it_is_an_elements() {
    let message = |resource: Value| validate_one(&resource).message;
    assert_eq!(message(json!({"resourceType": "Patient", "dosage": 1})), "Patient has no element dosage.");
    let unknown = validate_one(&json!({"resourceType": "Patient", "Shaw1987": 1}));
    assert!(!format!("{unknown:?}").contains("Shaw"), "{unknown:?}");
}

/// The text itself: `json!` would make binary fractions of its numbers.
fn broken_rules(resource: &str) -> Vec<String> {
    let body = format!(r#"{{"resourceType":"Bundle","type":"collection","entry":[{{"resource":{resource}}}]}}"#);
    let issues = validate_bundle(body.as_bytes()).into_iter().filter(|issue| issue.code == "invariant");
    issues.map(|issue| issue.message.split(':').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn rules_compare_numbers_as_they_are_written() {
    let range = |low: &str, high: &str| {
        broken_rules(&format!(
            r#"{{"resourceType":"Observation","status":"final","code":{{"text":"x"}},
                "valueRange":{{"low":{{"value":{low}}},"high":{{"value":{high}}}}}}}"#
        ))
    };
    assert_eq!(range("9007199254740993", "9007199254740992"), ["rng-2"]);
    assert_eq!(range("0.10000000000000000001", "0.1"), ["rng-2"]);
    assert_eq!(range("1.20E+2", "120"), [""; 0]);
    let probability = |value: &str| {
        broken_rules(&format!(
            r#"{{"resourceType":"RiskAssessment","status":"final","subject":{{"display":"x"}},
                "prediction":[{{"probabilityDecimal":{value}}}]}}"#
        ))
    };
    assert_eq!(probability("100.00000000000000000001"), ["ras-2"]);
    assert_eq!(probability("1.0e2"), [""; 0]);
    let age = |value: &str| {
        broken_rules(&format!(
            r#"{{"resourceType":"Condition","subject":{{"display":"x"}},"onsetAge":{{"value":{value},"code":"a",
                "system":"http://unitsofmeasure.org"}}}}"#
        ))
    };
    assert_eq!(age("0.000"), ["age-1"]);
    assert_eq!(age("1e-300"), [""; 0]);
}

#[test]
fn a_period_is_the_wrong_way_round_only_where_that_is_certain() {
    let period = |start: &str, end: &str| {
        broken_rules(&format!(
            r#"{{"resourceType":"Encounter","status":"finished","class":{{"code":"AMB"}},
                "period":{{"start":"{start}","end":"{end}"}}}}"#
        ))
    };
    assert_eq!(period("2022-06-30T10:00:00Z", "2022-06-30T11:00:00+02:00"), ["per-1"]);
    assert_eq!(period("2022-07", "2022-06-30"), ["per-1"]);
    assert_eq!(period("2022-07-02T00:00:00Z", "2022-06"), ["per-1"]);
    // West of Greenwich it was still June.
    assert_eq!(period("2022-07-01T03:00:00Z", "2022-06"), [""; 0]);
    assert_eq!(period("2022-06-30", "2022-06"), [""; 0]);
}
