use super::*;
use proptest::prelude::*;

fn code(body: &[u8]) -> &'static str {
    scan(body).unwrap_err().code
}

fn bundle(entries: &str) -> String {
    format!(r#"{{"resourceType": "Bundle", "type": "transaction", "entry": [{entries}]}}"#)
}

#[test]
fn a_bundle_is_counted_by_resource_type() {
    let body = bundle(
        r#"{"resource": {"resourceType": "Patient"}}, {"resource": {"id": "1", "resourceType": "Observation"}},
           {"resource": {"resourceType": "Observation"}}, {"resource": {"resourceType": "Jane Doe"}}"#,
    );
    let envelope = scan(body.as_bytes()).unwrap();
    assert_eq!(envelope.bundle_type, BundleType::Transaction);
    assert_eq!(envelope.entries, 4);
    let counts: Vec<_> = envelope.resource_count.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(counts, [("Observation", 2), ("Patient", 1), ("unknown", 1)]);
}

#[test]
fn keys_may_come_late_and_one_byte_order_mark_is_tolerated() {
    let body = "\u{feff}{\"entry\": [{\"resource\": {\"a\": [1e999], \"resourceType\": \"Patient\"}}], \"type\": \"batch\", \"resourceType\": \"Bundle\"}";
    assert_eq!(scan(body.as_bytes()).unwrap().bundle_type, BundleType::Batch);
    assert_eq!(code(format!("\u{feff}{body}").as_bytes()), "invalid_json");
}

#[test]
fn each_fault_has_its_code() {
    let patient = r#"{"resource": {"resourceType": "Patient"}}"#;
    for (body, expected) in [
        (String::new(), "empty_body"),
        ("{".to_owned(), "invalid_json"),
        ("{} x".to_owned(), "invalid_json"),
        ("[]".to_owned(), "not_a_bundle"),
        ("null".to_owned(), "not_a_bundle"),
        ("{}".to_owned(), "not_a_bundle"),
        (r#"{"resourceType": "Patient"}"#.to_owned(), "not_a_bundle"),
        (r#"{"resourceType": ["Bundle"]}"#.to_owned(), "not_a_bundle"),
        (r#"{"resourceType": "Bundle"}"#.to_owned(), "unsupported_bundle_type"),
        (r#"{"resourceType": "Bundle", "type": "searchset", "entry": [1]}"#.to_owned(), "unsupported_bundle_type"),
        (r#"{"resourceType": "Bundle", "type": "batch"}"#.to_owned(), "empty_bundle"),
        (r#"{"resourceType": "Bundle", "type": "batch", "entry": {}}"#.to_owned(), "empty_bundle"),
        (bundle(""), "empty_bundle"),
        (bundle("1"), "entry_without_resource"),
        (bundle("{}"), "entry_without_resource"),
        (bundle(r#"{"resource": []}"#), "entry_without_resource"),
        (bundle(r#"{"resource": {}}"#), "entry_without_resource_type"),
        (bundle(r#"{"resource": {"resourceType": 1}}"#), "entry_without_resource_type"),
        (bundle(r#"{"resource": {"resourceType": ""}}"#), "entry_without_resource_type"),
        (bundle(r#"{"resource": {"resourceType": "Patient"}, "resource": {}}"#), "duplicate_key"),
        (bundle(r#"{"resource": {"resourceType": "Patient", "resourceType": "Patient"}}"#), "duplicate_key"),
        (
            format!(r#"{{"resourceType": "Bundle", "type": "batch", "entry": [{patient}], "typ\u0065": "batch"}}"#),
            "duplicate_key",
        ),
        (bundle(r#"{"resource": {"resourceType": "Patient", "x": "\u0000"}}"#), "invalid_string"),
        (bundle(r#"{"resource": {"resourceType": "Patient", "x": "\uD800 "}}"#), "invalid_string"),
        (bundle(r#"{"resource": {"resourceType": "Patient", "x": "\uDC00"}}"#), "invalid_string"),
        (bundle(r#"{"resource": {"resourceType": "Patient", "\uD800": 1}}"#), "invalid_string"),
    ] {
        assert_eq!(code(body.as_bytes()), expected, "{body}");
    }
    assert_eq!(code(b"{\"a\": \"\xff\"}"), "invalid_utf8");
    assert!(
        scan(bundle(r#"{"resource": {"resourceType": "Patient", "x": "\uD83D\uDE00 \\u0000"}}"#).as_bytes()).is_ok()
    );
}

#[test]
fn a_fault_names_the_entry_and_no_value() {
    let body = bundle(
        r#"{"resource": {"resourceType": "Patient"}}, {"resource": {"name": "Shaw", "x": "\u0000"}}, {"fullUrl": "Shaw"}"#,
    );
    let fault = scan(body.as_bytes()).unwrap_err();
    assert_eq!(fault.expression.as_deref(), Some("Bundle.entry[1]"));
    assert_eq!(fault.pointer.as_deref(), Some("/entry/1"));
    let fault = scan(body.replace("\\u0000", "").as_bytes()).unwrap_err();
    assert_eq!(fault.message, "Bundle.entry[1] has a resource without a resourceType.");
    assert_eq!(fault.expression.as_deref(), Some("Bundle.entry[1].resource"));
    assert!(!format!("{fault:?}").contains("Shaw"));
}

#[test]
fn depth_is_bounded_without_recursion() {
    let nested = |levels: usize| {
        let open = "[".repeat(levels);
        let close = "]".repeat(levels);
        bundle(&format!(r#"{{"resource": {{"resourceType": "Patient", "x": {open}{close}}}}}"#))
    };
    assert!(scan(nested(DEPTH_MAX - 4).as_bytes()).is_ok());
    assert_eq!(code(nested(DEPTH_MAX - 3).as_bytes()), "too_deep");
    assert_eq!(code(nested(2_000_000).as_bytes()), "too_deep");
    assert_eq!(code("[".repeat(1_000_000).as_bytes()), "invalid_json");
}

#[test]
fn many_keys_in_an_entry_take_no_quadratic_time() {
    let members: Vec<String> = (0..200_000).map(|number| format!("\"k{number}\": 1")).collect();
    assert_eq!(code(bundle(&format!("{{{}}}", members.join(","))).as_bytes()), "entry_without_resource");
}

proptest! {
    #[test]
    fn no_body_panics(body: Vec<u8>, text in r#"[\[\]{}",:\\u0D8 a]{0,40}"#) {
        let _ = scan(&body);
        let _ = scan(text.as_bytes());
        let _ = scan(bundle(&text).as_bytes());
    }
}
