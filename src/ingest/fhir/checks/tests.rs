//! The choice helper, and all checks over the corpora beside the project, where they are present.

use super::questionnaire::Questionnaires;
use super::terminology::CodeSystems;
use super::*;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[test]
fn a_choice_is_placed_as_hl7s_validator_does() {
    let answer = Place::bundle().member("item").item(0).member("answer").item(0);
    for (member, name) in [("valueCoding", "Coding"), ("valueString", "string"), ("valueDateTime", "dateTime")] {
        let place = choice_place(&answer, "value", member);
        assert_eq!(place.expression, format!("Bundle.item[0].answer[0].value.ofType({name})"));
        assert_eq!(place.pointer, format!("/item/0/answer/0/{member}"));
    }
    assert_eq!(choice_type("value", "valueset"), None);
    assert_eq!(choice_type("value", "value"), None);
    assert_eq!(choice_type("value", "valueJane Doe"), None);
}

/// Everything within a payload that a check is for, as the validator's core would call it.
pub(super) struct Walk<'a> {
    pub questionnaires: Questionnaires<'a>,
    pub systems: CodeSystems,
    pub problems: Vec<Problem>,
}

impl<'a> Walk<'a> {
    pub fn new() -> Self {
        Self { questionnaires: Questionnaires::default(), systems: CodeSystems::default(), problems: Vec::new() }
    }

    pub fn gather(&mut self, node: Node<'a>) {
        let Some(object) = node.object() else { return };
        object
            .objects("entry")
            .into_iter()
            .filter_map(|entry| entry.get("resource"))
            .for_each(|node| self.gather(node));
        object.items("contained").into_iter().for_each(|node| self.gather(node));
        self.systems.add(&object);
        self.questionnaires.add(object);
    }

    pub fn check(&mut self, node: Node<'a>, place: &Place) {
        for (index, item) in node.items().into_iter().enumerate() {
            self.check(item, &place.item(index));
        }
        let Some(object) = node.object() else { return };
        let problems = &mut self.problems;
        match object.string("resourceType").as_deref() {
            Some("CodeSystem") => terminology::check_code_system(&object, place, problems),
            Some("ValueSet") => terminology::check_value_set(&object, place, &self.systems, problems),
            Some("QuestionnaireResponse") => {
                questionnaire::check_response(&object, place, &self.questionnaires, problems);
            }
            Some("Bundle") if place.pointer.is_empty() => {
                document::check_document(&object, problems);
                signature::check_signature(&object, problems);
            }
            _ => {}
        }
        for (key, value) in object.members() {
            let place = place.member(key);
            if key == "div"
                && let Some(div) = value.string()
            {
                problems.extend(narrative::check_div(&div).into_iter().map(|problem| Problem {
                    severity: problem.severity,
                    code: problem.code,
                    place: place.clone(),
                    offset: value.span().start,
                    message: problem.message,
                }));
            }
        }
        for (key, value) in object.members() {
            self.check(value, &place.member(key));
        }
    }
}

pub(super) fn errors(body: &[u8]) -> Vec<Problem> {
    let Ok(node) = Node::parse(body) else { return Vec::new() };
    let mut walk = Walk::new();
    walk.gather(node);
    let kind = node.object().and_then(|object| object.owned("resourceType")).unwrap_or_default();
    walk.check(node, &Place { expression: kind, pointer: String::new() });
    walk.problems.into_iter().filter(|problem| problem.severity.rejects()).collect()
}

pub(super) fn corpus() -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if directory.join("hl7-validator-cases/_expected.json").exists() {
        return Some(directory);
    }
    eprintln!("SKIPPED: no corpus at {}", directory.display());
    None
}

pub(super) fn cases(directory: &Path) -> Vec<(Value, Vec<u8>)> {
    let directory = directory.join("hl7-validator-cases");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(directory.join("_expected.json")).unwrap()).unwrap();
    let read = |case: Value| {
        let body = std::fs::read(directory.join(case["file"].as_str().unwrap())).unwrap();
        (case, body)
    };
    cases.into_iter().map(read).collect()
}

#[test]
fn no_case_that_hl7s_validator_finds_clean_has_an_error() {
    let Some(directory) = corpus() else { return };
    let mut seen = 0;
    for (case, body) in cases(&directory) {
        if case["java_errors"] == 0 {
            seen += 1;
            assert_eq!(errors(&body), [], "{}", case["file"]);
        }
    }
    assert!(seen >= 60);
}

#[test]
fn cases_that_need_no_context_are_found_where_hl7s_validator_finds_them() {
    let Some(directory) = corpus() else { return };
    let mut found = BTreeSet::new();
    for (case, body) in cases(&directory) {
        let places: BTreeSet<String> = errors(&body).into_iter().map(|problem| problem.place.expression).collect();
        for issue in case["issues"].as_array().unwrap() {
            let expression = strip_comments(issue["expression"][0].as_str().unwrap_or_default());
            if issue["severity"] == "error" && places.contains(&expression) {
                found.insert(case["name"].as_str().unwrap().to_owned());
            }
        }
    }
    for name in [
        "pat-security-bad-xhtml",
        "xml-bad-entities-json",
        "bundle-document-versioned-references-bad",
        "ips-link",
        "ips-htmlrefs-backwards",
        "vs-canonical-urn-bad",
        "cs-meta-profile",
        "cs-bad-props",
        "vs-bad-props",
        "vs-bad-ecl",
        "vs-bad-ecl-us",
        "signatures-example-2",
    ] {
        assert!(found.contains(name), "{name}: {found:?}");
    }
}

/// HL7's expressions name the resource in a comment: `Bundle.entry[0].resource/*Patient/1*/.text`.
fn strip_comments(expression: &str) -> String {
    let mut parts = expression.split("/*");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once("*/").map_or("", |(_, rest)| rest))
}

#[test]
fn published_examples_have_no_errors() {
    let Some(directory) = corpus() else { return };
    // Errors of the examples themselves, each looked at.
    let known = [
        // Empty narratives.
        "ActivityDefinition-heart-valve-replacement.json",
        "EventDefinition-example.json",
        "Questionnaire-zika-virus-exposure-assessment.json",
    ];
    let mut wrong = Vec::new();
    for set in ["hl7-r4-examples", "uscore-8.0-examples", "synthea-transaction"] {
        for entry in std::fs::read_dir(directory.join(set)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let problems = errors(&std::fs::read(&path).unwrap());
            if !problems.is_empty() && !known.contains(&name.as_str()) {
                wrong.push(format!(
                    "{name}: {:?}",
                    problems.iter().map(|p| (&p.place.expression, &p.message)).take(3).collect::<Vec<_>>()
                ));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// A payload that has something for every check.
const EVERYTHING: &str = r##"{"resourceType": "Bundle", "type": "document", "signature": {"sigFormat":
    "application/jose", "targetFormat": "application/fhir+json;canonicalization=http://hl7.org/fhir/canonicalization/json",
    "data": "e30uZTMwLmUzMA=="}, "entry": [
    {"fullUrl": "http://a.example/Composition/c", "resource": {"resourceType": "Composition", "id": "c",
     "subject": {"reference": "Patient/p/_history/1"}, "section": [{"entry": [{"reference": "#x"}]}],
     "text": {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/textLink",
      "extension": [{"url": "htmlid", "valueString": "a"}, {"url": "data", "valueUri": "#b"}]}],
      "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\" id=\"a\"><p>x &amp; <a href='#a'>y</a></p></div>"}}},
    {"fullUrl": "http://a.example/Patient/p", "resource": {"resourceType": "Patient", "id": "p", "extension":
     [{"url": "http://hl7.org/fhir/StructureDefinition/narrativeLink", "valueUrl": "Composition/c#a"}]}},
    {"resource": {"resourceType": "CodeSystem", "url": "http://a", "content": "complete", "count": 2, "property":
     [{"code": "parent", "type": "code"}], "concept": [{"code": "x", "property": [{"code": "parent", "valueCode": "y"}],
     "concept": [{"code": "y"}]}]}},
    {"resource": {"resourceType": "ValueSet", "compose": {"include": [{"system": "http://snomed.info/sct",
     "filter": [{"property": "constraint", "op": "=", "value": "<< 404684003: 363698007 = *"}]}]}}},
    {"resource": {"resourceType": "Questionnaire", "url": "http://q", "item": [
     {"linkId": "1", "type": "group", "item": [{"linkId": "1.1", "type": "quantity", "extension":
      [{"url": "http://hl7.org/fhir/StructureDefinition/minValue", "valueQuantity": {"value": 1.50, "code": "kg",
       "system": "http://unitsofmeasure.org"}}]}]},
     {"linkId": "2", "type": "date", "enableWhen": [{"question": "1.1", "operator": "exists", "answerBoolean": true}]}]}},
    {"resource": {"resourceType": "QuestionnaireResponse", "questionnaire": "http://q", "status": "completed", "item": [
     {"linkId": "1", "item": [{"linkId": "1.1", "answer": [{"valueQuantity": {"value": 2.5e3, "code": "g",
      "system": "http://unitsofmeasure.org"}}]}]}, {"linkId": "2", "answer": [{"valueDate": "2020-02"}]}]}}]}"##;

#[test]
fn the_sample_of_everything_fails_only_where_it_should() {
    let places: Vec<String> =
        errors(EVERYTHING.as_bytes()).into_iter().map(|problem| problem.place.expression).collect();
    // No version 1 is refused, since none is stated; element "b" is not there; the signature is of something else.
    assert_eq!(places, ["Bundle.entry[0].resource.text", "Bundle"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_mutation_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), 0u8..128), 1..6), cut: prop::sample::Index) {
        let mut body = EVERYTHING.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            // Structure stays, so that most mutants are read.
            if !b"{}[]\",:\\".contains(&body[at]) && !b"\"\\".contains(&byte) && byte >= 32 {
                body[at] = byte;
            }
        }
        let _ = errors(&body);
        // A member that is gone: its name no longer means anything.
        let text = String::from_utf8(body).unwrap();
        let names: Vec<_> = text.match_indices("\": ").collect();
        let (at, _) = names[cut.index(names.len())];
        let _ = errors(format!("{}_{}", &text[..at], &text[at..]).as_bytes());
    }
}
