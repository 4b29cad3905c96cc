use super::*;
use crate::ingest::fhir::issue::Severity;

fn place(kind: &str) -> Place {
    Place { expression: kind.to_owned(), pointer: String::new() }
}

fn problems(body: &str, known: &[&str]) -> Vec<(Severity, String, String)> {
    let mut systems = CodeSystems::default();
    for body in known {
        systems.add(&Node::parse(body.as_bytes()).unwrap().object().unwrap());
    }
    let object = Node::parse(body.as_bytes()).unwrap().object().unwrap();
    let mut problems = Vec::new();
    if body.contains("CodeSystem\",") {
        check_code_system(&object, &place("CodeSystem"), &mut problems);
    } else {
        check_value_set(&object, &place("ValueSet"), &systems, &mut problems);
    }
    for problem in &problems {
        assert!(
            body.as_bytes()[problem.offset..].starts_with(b"{")
                || problem.place.pointer.ends_with("count")
                || problem.place.pointer.ends_with("code")
        );
    }
    problems.into_iter().map(|problem| (problem.severity, problem.code.to_owned(), problem.place.expression)).collect()
}

fn error(code: &str, expression: &str) -> (Severity, String, String) {
    (Severity::Error, code.to_owned(), expression.to_owned())
}

#[test]
fn a_complete_code_system_has_as_many_concepts_as_it_counts() {
    let system = |content: &str, count: u32| {
        format!(
            r#"{{"resourceType": "CodeSystem", "content": "{content}", "count": {count},
            "concept": [{{"code": "a", "concept": [{{"code": "b"}}]}}, {{"code": "c"}}]}}"#
        )
    };
    assert_eq!(problems(&system("complete", 3), &[]), []);
    assert_eq!(problems(&system("complete", 2), &[]), [error("invalid", "CodeSystem.count")]);
    assert_eq!(problems(&system("fragment", 10), &[]), []);
    assert_eq!(problems(&system("fragment", 2), &[])[0].0, Severity::Warning);
    assert_eq!(problems(&system("not-present", 10), &[]), [error("invalid", "CodeSystem.concept[0]")]);
}

#[test]
fn codes_of_a_code_system_are_unique_at_all_levels() {
    let body =
        r#"{"resourceType": "CodeSystem", "concept": [{"code": "a", "concept": [{"code": "b"}]}, {"code": "b"}]}"#;
    assert_eq!(problems(body, &[]), [error("invariant", "CodeSystem.concept[1].code")]);
}

#[test]
fn standard_properties_keep_their_code_and_type() {
    let body = r#"{"resourceType": "CodeSystem", "property": [
        {"uri": "http://hl7.org/fhir/concept-properties#notSelectable", "code": "notSelectable", "type": "dateTime"},
        {"uri": "http://hl7.org/fhir/concept-properties#inactive", "code": "status", "type": "boolean"},
        {"uri": "http://hl7.org/fhir/concept-properties#parent", "code": "above", "type": "code"},
        {"uri": "http://hl7.org/fhir/concept-properties#parent", "code": "above", "type": "code"},
        {"code": "comment", "type": "integer"}, {"code": "own", "type": "integer"}]}"#;
    let at = |index: u32| error("business-rule", &format!("CodeSystem.property[{index}]"));
    let found = problems(body, &[]);
    assert_eq!(found[..4], [at(0), at(1), at(3), at(3)]);
    assert_eq!((found.len(), found[4].0), (5, Severity::Warning));
}

#[test]
fn values_have_the_type_that_their_property_declares() {
    let body = r#"{"resourceType": "CodeSystem", "property": [{"code": "size", "type": "integer"}], "concept": [
        {"code": "a", "property": [{"code": "size", "valueInteger": 1}, {"code": "size", "valueString": "1"}]},
        {"code": "b", "property": [{"code": "other", "valueString": "1"}]}]}"#;
    let found = problems(body, &[]);
    assert_eq!(found[0], error("business-rule", "CodeSystem.concept[0].property[1]"));
    assert_eq!((found.len(), found[1].0), (2, Severity::Warning));
}

#[test]
fn systems_of_value_sets_are_absolute() {
    let body = |system: &str| {
        format!(
            r#"{{"resourceType": "ValueSet", "compose": {{"include": [{{"system": "{system}"}}], "exclude": [{{"system": "{system}"}}]}}}}"#
        )
    };
    for system in ["http://example.org/a", "urn:oid:1.2.3", "urn:uuid:f3b2bd36-199b-4591-b4db-f49db0912b62"] {
        assert_eq!(problems(&body(system), &[]), [], "{system}");
    }
    for system in ["#c1", "c1", "", "/CodeSystem/a", ":a"] {
        let expected =
            [error("invalid", "ValueSet.compose.include[0]"), error("invalid", "ValueSet.compose.exclude[0]")];
        assert_eq!(problems(&body(system), &[]), expected, "{system}");
    }
}

fn filter(system: &str, property: &str, op: &str, value: &str) -> String {
    format!(
        r#"{{"resourceType": "ValueSet", "compose": {{"include": [{{"system": "{system}",
        "filter": [{{"property": "{property}", "op": "{op}", "value": "{value}"}}]}}]}}}}"#
    )
}

#[test]
fn filters_have_values_that_their_property_can_have() {
    let known = r#"{"resourceType": "CodeSystem", "url": "http://a.example", "property": [
        {"code": "site", "type": "Coding"}, {"code": "flag", "type": "boolean"}, {"code": "inactive", "type": "code"}]}"#;
    let wrong = [error("invalid", "ValueSet.compose.include[0].filter[0]")];
    for (property, op, value, right) in [
        ("site", "=", "http://b.example#left", true),
        ("site", "=", "http://b.example|2.0#left", true),
        ("site", "=", "left", false),
        ("site", "in", "http://b.example#left,right", false),
        ("flag", "=", "true", true),
        ("flag", "=", "1", false),
        ("flag", "exists", "true", true),
        ("flag", "exists", "yes", false),
        ("inactive", "=", "whatever", true),
        ("notSelectable", "=", "1", false),
        ("notSelectable", "=", "false", true),
        ("flag", "regex", ".*", true),
        ("unknown", "=", "1", true),
    ] {
        let found = problems(&filter("http://a.example", property, op, value), &[known]);
        assert_eq!(found.is_empty(), right, "{property} {op} {value}");
        assert!(right || found == wrong);
    }
    assert_eq!(problems(&filter("http://a.example", "site", "=", "left"), &[]), []);
}

#[test]
fn a_snomed_constraint_is_an_expression() {
    let of = |op: &str, value: &str| problems(&filter(SNOMED, "constraint", op, value), &[]);
    assert_eq!(of("=", "<< 404684003 |Clinical finding|"), []);
    assert_eq!(of("=", "234234 << 234234"), [error("invalid", "ValueSet.compose.include[0].filter[0]")]);
    assert_eq!(problems(&filter(SNOMED, "concept", "is-a", "404684003"), &[]), []);
}

#[test]
fn deep_and_wide_code_systems_are_bounded() {
    let deep = format!(
        r#"{{"resourceType": "CodeSystem", "content": "complete", "count": 1{}{}}}"#,
        r#", "concept": [{"code": "a""#.repeat(2_000),
        "}]".repeat(2_000)
    );
    assert!(problems(&deep, &[]).len() <= super::super::PROBLEMS_MAX);
    let wide = format!(r#"{{"resourceType": "CodeSystem", "concept": [{}{{}}]}}"#, r#"{"code": "a"}, "#.repeat(50_000));
    assert_eq!(problems(&wide, &[]).len(), super::super::PROBLEMS_MAX);
}
