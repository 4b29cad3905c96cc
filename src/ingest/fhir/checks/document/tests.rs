use super::*;
use crate::ingest::fhir::issue::Severity;
use proptest::prelude::*;

fn run(body: &str, check: fn(&Object<'_>, &mut Vec<Problem>)) -> Vec<(Severity, &'static str, String)> {
    let mut problems = Vec::new();
    check(&Node::parse(body.as_bytes()).unwrap().object().unwrap(), &mut problems);
    problems.into_iter().map(|problem| (problem.severity, problem.code, problem.place.expression)).collect()
}

fn document(composition: &str, others: &str) -> String {
    format!(
        r#"{{"resourceType": "Bundle", "type": "document", "entry": [{{"fullUrl": "http://a.example/Composition/c",
        "resource": {{"resourceType": "Composition", "id": "c", {composition}}}}}, {others}]}}"#
    )
}

fn patient(full_url: &str, version: &str) -> String {
    format!(
        r#"{{"fullUrl": "{full_url}", "resource": {{"resourceType": "Patient", "id": "p",
        "meta": {{"versionId": "{version}"}}}}}}"#
    )
}

fn error(code: &'static str, expression: &str) -> (Severity, &'static str, String) {
    (Severity::Error, code, format!("Bundle.entry[0].resource.{expression}"))
}

#[test]
fn references_of_a_composition_lead_to_entries_by_the_rules_of_bundles() {
    let here = patient("http://a.example/Patient/p", "1");
    for (reference, others, found) in [
        ("Patient/p", here.as_str(), true),
        ("http://a.example/Patient/p", &here, true),
        ("Patient/p/_history/1", &here, true),
        ("Patient/p/_history/2", &here, false),
        ("Patient/q", &here, false),
        ("http://b.example/Patient/p", &here, false),
        ("Patient/p", &patient("http://b.example/Patient/p", "1"), false),
        ("urn:uuid:1", &patient("urn:uuid:1", "1"), true),
        ("#inside", &here, true),
    ] {
        let body = document(&format!(r#""subject": {{"reference": "{reference}"}}"#), others);
        let expected = if found { vec![] } else { vec![error("invalid", "subject")] };
        assert_eq!(run(&body, check_document), expected, "{reference} {others}");
    }
}

#[test]
fn an_entry_without_an_address_means_others_by_type_and_id() {
    let body = document(r#""subject": {"reference": "Patient/p"}"#, &patient("urn:uuid:1", "1"))
        .replace("http://a.example/Composition/c", "urn:uuid:0");
    assert_eq!(run(&body, check_document), []);
}

#[test]
fn a_reference_to_two_entries_is_an_error() {
    let url = "http://a.example/Patient/p";
    let two = format!("{}, {}", patient(url, "1"), patient(url, "2"));
    let body = |reference: &str| document(&format!(r#""author": [{{"reference": "{reference}"}}]"#), &two);
    assert_eq!(run(&body("Patient/p"), check_document), [error("forbidden", "author[0]")]);
    assert_eq!(run(&body("Patient/p/_history/2"), check_document), []);
}

#[test]
fn every_direct_reference_of_a_composition_is_looked_at() {
    let gone = r#"{"reference": "Patient/gone"}"#;
    let composition = format!(
        r#""subject": {gone}, "encounter": {gone}, "custodian": {gone}, "author": [{gone}],
        "attester": [{{"party": {gone}}}], "event": [{{"detail": [{gone}]}}],
        "section": [{{"focus": {gone}, "author": [{gone}], "section": [{{"entry": [{{"display": "x"}}, {gone}]}}]}}]"#
    );
    let expected = [
        "subject",
        "encounter",
        "custodian",
        "author[0]",
        "attester[0].party",
        "event[0].detail[0]",
        "section[0].focus",
        "section[0].author[0]",
        "section[0].section[0].entry[1]",
    ];
    let body = document(&composition, &patient("urn:uuid:1", "1"));
    assert_eq!(run(&body, check_document), expected.map(|place| error("invalid", place)));
    // Only documents promise to hold it all.
    assert_eq!(run(&body.replace("\"document\"", "\"collection\""), check_document), []);
}

#[test]
fn a_focus_that_a_message_leaves_out_is_a_warning() {
    let body = r#"{"type": "message", "entry": [{"resource": {"resourceType": "MessageHeader",
        "focus": [{"reference": "Patient/gone"}]}}]}"#;
    assert_eq!(
        run(body, check_document),
        [(Severity::Warning, "not-found", "Bundle.entry[0].resource.focus[0]".to_owned())]
    );
}

#[test]
fn text_links_lead_to_ids() {
    let link = |id: &str, data: &str| {
        format!(
            r#"{{"url": "{TEXT_LINK}", "extension": [{{"url": "htmlid", "valueString": "{id}"}},
            {{"url": "data", "valueUri": "{data}"}}]}}"#
        )
    };
    let body = |links: &str| {
        let text = format!(r#""text": {{"extension": [{links}], "div": "<div><p id='x'>x</p></div>"}}"#);
        document(&format!(r#"{text}, "date": "2020", "_date": {{"id": "when"}}"#), &patient("urn:uuid:1", "1"))
    };
    assert_eq!(run(&body(&link("x", "#when")), check_document), []);
    assert_eq!(run(&body(&link("x", "http://example.org/#other")), check_document), []);
    assert_eq!(run(&body(&link("y", "#when")), check_document), [error("structure", "text")]);
    assert_eq!(run(&body(&link("x", "#never")), check_document), [error("not-found", "text")]);
}

#[test]
fn narrative_links_lead_to_ids_of_the_narrative_that_they_name() {
    let body = |value: &str| {
        let other = format!(
            r#"{{"fullUrl": "urn:uuid:2", "resource": {{"resourceType": "Condition",
            "extension": [{{"url": "{NARRATIVE_LINK}", {value}}}]}}}}"#
        );
        document(
            r#""text": {"div": "<div id='a'><p id='b'>x</p></div>"}, "section": [{"text": {"div": "<div id='b'>x</div>"}}]"#,
            &other,
        )
    };
    let place = "Bundle.entry[1].resource.extension[0]".to_owned();
    let base = "http://a.example/Composition/c";
    assert_eq!(run(&body(&format!(r#""valueUrl": "{base}#a""#)), check_document), []);
    let gone = run(&body(&format!(r#""valueUrl": "{base}#gone""#)), check_document);
    assert_eq!(gone, [(Severity::Error, "not-found", place.clone())]);
    let twice = run(&body(&format!(r#""valueUrl": "{base}#b""#)), check_document);
    assert_eq!(twice, [(Severity::Warning, "multiple-matches", place.clone())]);
    let typed = run(&body(&format!(r#""valueUri": "{base}#a""#)), check_document);
    assert_eq!(typed, [(Severity::Error, "structure", place)]);
    assert_eq!(run(&body(r#""valueUrl": "http://elsewhere.example#a""#), check_document), []);
}

#[test]
fn deep_sections_are_bounded() {
    let deep = format!("\"section\": [{}{}]", "{\"section\": [".repeat(3_000), "]}".repeat(3_000));
    assert_eq!(run(&document(&deep, &patient("urn:uuid:1", "1")), check_document), []);
}

proptest! {
    #[test]
    fn no_reference_panics(reference: String, url: String) {
        let [reference, url] = [reference, url].map(|text| serde_json::Value::from(text).to_string());
        let body = document(
            &format!(r#""subject": {{"reference": {reference}}}"#),
            &format!(r#"{{"fullUrl": {url}, "resource": {{"resourceType": "Patient", "id": "p"}}}}"#),
        );
        let _ = run(&body, check_document);
    }
}
