use super::*;
use crate::ingest::fhir::issue::Severity;
use crate::ingest::fhir::node::Node;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Instant;

const URL: &str = "http://a.example/Questionnaire/q";

fn place() -> Place {
    Place { expression: "QuestionnaireResponse".to_owned(), pointer: String::new() }
}

fn run(questionnaire: &str, response: &str) -> Vec<Problem> {
    let mut known = Questionnaires::default();
    known.add(Node::parse(questionnaire.as_bytes()).unwrap().object().unwrap());
    let object = Node::parse(response.as_bytes()).unwrap().object().unwrap();
    let mut problems = Vec::new();
    check_response(&object, &place(), &known, &mut problems);
    problems
}

fn questionnaire(items: &Value) -> Value {
    json!({"resourceType": "Questionnaire", "url": URL, "status": "active", "item": items})
}

fn response(items: &Value) -> Value {
    json!({"resourceType": "QuestionnaireResponse", "questionnaire": URL, "status": "completed", "item": items})
}

/// Severity, code and place of all problems; the place without the root.
#[expect(clippy::needless_pass_by_value, reason = "the tests write their JSON in place")]
fn check(items: Value, answers: Value) -> Vec<String> {
    let (questionnaire, response) = (questionnaire(&items).to_string(), response(&answers).to_string());
    let problems = run(&questionnaire, &response);
    for problem in &problems {
        assert!(response.as_bytes()[problem.offset..].first().is_some_and(|byte| !b",:]} ".contains(byte)));
    }
    problems.iter().map(line).collect()
}

fn line(problem: &Problem) -> String {
    let place = problem.place.expression.strip_prefix("QuestionnaireResponse").unwrap().trim_start_matches('.');
    format!("{} {} {place}", problem.severity.as_str(), problem.code)
}

/// One item with the answers.
#[expect(clippy::needless_pass_by_value, reason = "the tests write their JSON in place")]
fn one(item: Value, answers: Value) -> Vec<String> {
    let mut item = item;
    item["linkId"] = "q".into();
    check(json!([item]), json!([{"linkId": "q", "answer": answers}]))
}

#[test]
fn answers_have_the_type_of_their_item() {
    for (kind, right, wrong) in [
        ("boolean", json!({"valueBoolean": true}), json!({"valueString": "true"})),
        ("decimal", json!({"valueDecimal": 1.5}), json!({"valueInteger": 1})),
        ("integer", json!({"valueInteger": 1}), json!({"valueDecimal": 1.5})),
        ("date", json!({"valueDate": "2020"}), json!({"valueDateTime": "2020"})),
        ("dateTime", json!({"valueDateTime": "2020"}), json!({"valueDate": "2020"})),
        ("time", json!({"valueTime": "10:00:00"}), json!({"valueString": "10:00:00"})),
        ("string", json!({"valueString": "a"}), json!({"valueCoding": {"code": "a"}})),
        ("text", json!({"valueString": "a\nb"}), json!({"valueUri": "a:b"})),
        ("url", json!({"valueUri": "http://a.example"}), json!({"valueString": "http://a.example"})),
        ("choice", json!({"valueCoding": {"code": "a"}}), json!({"valueBoolean": true})),
        ("open-choice", json!({"valueString": "a"}), json!({"valueDecimal": 1.5})),
        ("attachment", json!({"valueAttachment": {"title": "a"}}), json!({"valueString": "a"})),
        ("reference", json!({"valueReference": {"reference": "Patient/1"}}), json!({"valueString": "Patient/1"})),
        ("quantity", json!({"valueQuantity": {"value": 1}}), json!({"valueDecimal": 1.5})),
    ] {
        let member = wrong.as_object().unwrap().keys().next().unwrap().clone();
        let name = super::super::choice_type("value", &member).unwrap();
        assert_eq!(one(json!({"type": kind}), json!([right])), [""; 0], "{kind}");
        let expected = format!("error invariant item[0].answer[0].value.ofType({name})");
        assert_eq!(one(json!({"type": kind}), json!([wrong])), [expected], "{kind}");
    }
}

#[test]
fn items_stand_where_the_questionnaire_has_them() {
    let items = json!([
        {"linkId": "g", "type": "group", "item": [{"linkId": "a", "type": "string"}]},
        {"linkId": "b", "type": "string", "item": [{"linkId": "c", "type": "string"}]},
        {"linkId": "d", "type": "display"}
    ]);
    let answer = json!([{"valueString": "x"}]);
    let right = json!([
        {"linkId": "g", "item": [{"linkId": "a", "answer": answer}]},
        {"linkId": "b", "answer": [{"valueString": "x", "item": [{"linkId": "c", "answer": answer}]}]},
        {"linkId": "d"}
    ]);
    assert_eq!(check(items.clone(), right), [""; 0]);
    for (wrong, expected) in [
        (json!([{"linkId": "z", "answer": answer}]), "error not-found item[0].linkId"),
        (json!([{"linkId": "a", "answer": answer}]), "error structure item[0]"),
        (json!([{"linkId": "g", "item": [{"linkId": "b", "answer": answer}]}]), "error structure item[0].item[0]"),
        (json!([{"linkId": "g", "answer": answer}]), "error structure item[0]"),
        (json!([{"linkId": "b", "item": [{"linkId": "c", "answer": answer}]}]), "error structure item[0]"),
        (json!([{"linkId": "d", "answer": answer}]), "error structure item[0]"),
        (json!([{"linkId": "b", "answer": answer}, {"linkId": "b", "answer": answer}]), "error invalid item[1]"),
        (
            json!([{"linkId": "b", "answer": answer}, {"linkId": "g", "item": [{"linkId": "a", "answer": answer}]}]),
            "warning structure item[1]",
        ),
    ] {
        assert_eq!(check(items.clone(), wrong.clone()), [expected], "{wrong}");
    }
}

#[test]
fn what_is_required_is_answered_once_the_response_is_complete() {
    let items = json!([
        {"linkId": "a", "type": "string", "required": true},
        {"linkId": "g", "type": "group", "item": [{"linkId": "b", "type": "string", "required": true}]},
        {"linkId": "c", "type": "string", "item": [{"linkId": "d", "type": "string", "required": true}]}
    ]);
    let answers = json!([
        {"linkId": "a"},
        {"linkId": "g", "item": [{"linkId": "b"}]},
        {"linkId": "c", "answer": [{"valueString": "x"}]}
    ]);
    let expected = ["error required ", "error required item[1]", "error required item[2].answer[0]"];
    assert_eq!(check(items.clone(), answers.clone()), expected);
    // A group that is not there needs nothing.
    assert_eq!(check(items.clone(), json!([])), ["error required "]);
    let mut draft = response(&answers);
    draft["status"] = "in-progress".into();
    assert_eq!(run(&questionnaire(&items).to_string(), &draft.to_string()), []);
}

#[test]
fn answers_are_as_many_as_the_item_allows() {
    let answers = |count: usize| Value::from(vec![json!({"valueString": "x"}); count]);
    let extension = |name: &str, value: u32| json!([{"url": format!("http://hl7.org/fhir/StructureDefinition/questionnaire-{name}"), "valueInteger": value}]);
    let single = json!({"type": "string"});
    let three = json!({"type": "string", "repeats": true, "extension": extension("maxOccurs", 3)});
    let two = json!({"type": "string", "repeats": true, "extension": extension("minOccurs", 2)});
    assert_eq!(one(single, answers(2)), ["error invalid item[0]"]);
    assert_eq!(one(three.clone(), answers(3)), [""; 0]);
    assert_eq!(one(three, answers(4)), ["error invalid item[0]"]);
    assert_eq!(one(two.clone(), answers(2)), [""; 0]);
    assert_eq!(one(two, answers(1)), ["error required item[0]"]);
    let group = json!([{"linkId": "g", "type": "group", "repeats": true, "extension": extension("maxOccurs", 1),
        "item": [{"linkId": "a", "type": "string"}]}]);
    let filled = json!({"linkId": "g", "item": [{"linkId": "a", "answer": answers(1)}]});
    assert_eq!(check(group, json!([filled, filled])), ["error invalid item[1]"]);
}

#[test]
fn answers_keep_within_bounds() {
    let core = "http://hl7.org/fhir/StructureDefinition";
    let quantity =
        |value: f64, code: &str| json!({"value": value, "system": "http://unitsofmeasure.org", "code": code});
    for (kind, extension, right, wrong) in [
        (
            "integer",
            json!({"url": format!("{core}/minValue"), "valueInteger": 5}),
            json!({"valueInteger": 5}),
            json!({"valueInteger": 4}),
        ),
        (
            "decimal",
            json!({"url": format!("{core}/maxValue"), "valueDecimal": 0.3}),
            json!({"valueDecimal": 0.3}),
            json!({"valueDecimal": 0.301}),
        ),
        (
            "date",
            json!({"url": format!("{core}/maxValue"), "valueDate": "2022-06"}),
            json!({"valueDate": "2022-06-30"}),
            json!({"valueDate": "2022-07"}),
        ),
        (
            "time",
            json!({"url": format!("{core}/minValue"), "valueTime": "09:00:00"}),
            json!({"valueTime": "09:00:00"}),
            json!({"valueTime": "08:59:59"}),
        ),
        (
            "decimal",
            json!({"url": format!("{core}/maxDecimalPlaces"), "valueInteger": 1}),
            json!({"valueDecimal": 1.5}),
            json!({"valueDecimal": 1.25}),
        ),
        (
            "string",
            json!({"url": format!("{core}/minLength"), "valueInteger": 3}),
            json!({"valueString": "äöü"}),
            json!({"valueString": "äö"}),
        ),
        (
            "quantity",
            json!({"url": "http://hl7.org/fhir/uv/sdc/StructureDefinition/sdc-questionnaire-maxQuantity", "valueQuantity": quantity(2.0, "kg")}),
            json!({"valueQuantity": quantity(2000.0, "g")}),
            json!({"valueQuantity": quantity(2001.0, "g")}),
        ),
    ] {
        let item = json!({"type": kind, "extension": [extension]});
        assert_eq!(one(item.clone(), json!([right])), [""; 0], "{item}");
        let problems = one(item.clone(), json!([wrong]));
        assert_eq!(problems.len(), 1, "{item}");
        assert!(problems[0].starts_with("error invariant item[0].answer[0].value.ofType("), "{problems:?}");
    }
    let item = json!({"type": "string", "maxLength": 2});
    assert_eq!(one(item.clone(), json!([{"valueString": "äö"}])), [""; 0]);
    assert_eq!(one(item, json!([{"valueString": "abc"}])).len(), 1);
}

#[test]
fn quantities_without_a_common_measure_cannot_be_compared() {
    let url = "http://hl7.org/fhir/uv/sdc/StructureDefinition/sdc-questionnaire-minQuantity";
    let item = |bound: Value| json!({"type": "quantity", "extension": [{"url": url, "valueQuantity": bound}]});
    let kilograms = json!({"value": 1, "system": "http://unitsofmeasure.org", "code": "kg"});
    let meters = json!({"value": 5, "system": "http://unitsofmeasure.org", "code": "m"});
    let wrong = ["error invariant item[0].answer[0].value.ofType(Quantity)"];
    assert_eq!(one(item(kilograms.clone()), json!([{"valueQuantity": meters}])), wrong);
    assert_eq!(one(item(kilograms.clone()), json!([{"valueQuantity": {"value": 5, "unit": "kg"}}])), wrong);
    // A unit that the table does not know is not judged.
    let odd = json!({"value": 5, "system": "http://unitsofmeasure.org", "code": "[arb'U]"});
    assert_eq!(one(item(kilograms), json!([{"valueQuantity": odd}])), [""; 0]);
}

#[test]
fn answers_are_among_the_options() {
    let coding = |system: &str, code: &str| json!({"valueCoding": {"system": system, "code": code}});
    let item = json!({"type": "choice", "answerOption": [coding("http://a", "x"), coding("http://a", "y")]});
    assert_eq!(one(item.clone(), json!([coding("http://a", "y")])), [""; 0]);
    assert_eq!(one(item.clone(), json!([coding("http://a", "z")])), ["error invariant item[0].answer[0]"]);
    assert_eq!(one(item.clone(), json!([coding("http://b", "x")])), ["error invariant item[0].answer[0]"]);
    assert_eq!(one(item.clone(), json!([{"valueCoding": {"code": "x"}}])), ["warning invariant item[0].answer[0]"]);
    let text = json!([{"valueString": "other"}]);
    assert_eq!(one(item.clone(), text.clone()), ["error invariant item[0].answer[0].value.ofType(string)"]);
    let mut open = item;
    open["type"] = "open-choice".into();
    assert_eq!(one(open.clone(), text), [""; 0]);
    assert_eq!(one(open.clone(), json!([{"valueCoding": {"display": "other"}}])), [""; 0]);
    assert_eq!(one(open, json!([coding("http://a", "z")])), ["error invariant item[0].answer[0]"]);
    for (option, wrong) in [
        (json!({"valueInteger": 1}), json!({"valueInteger": 2})),
        (json!({"valueDate": "2020"}), json!({"valueDate": "2020-01"})),
        (json!({"valueTime": "10:00:00"}), json!({"valueTime": "10:00:01"})),
        (json!({"valueString": "a"}), json!({"valueString": "A"})),
    ] {
        let item = json!({"type": "choice", "answerOption": [option]});
        assert_eq!(one(item.clone(), json!([option])), [""; 0]);
        assert_eq!(one(item, json!([wrong])).len(), 1, "{option}");
    }
}

#[test]
fn a_contained_value_set_says_which_codes_are_answers() {
    let check = |value_set: Value, answer: Value| {
        let mut questionnaire = questionnaire(&json!([{"linkId": "q", "type": "choice", "answerValueSet": "#v"}]));
        let mut value_set = value_set;
        value_set["resourceType"] = "ValueSet".into();
        value_set["id"] = "v".into();
        questionnaire["contained"] = json!([value_set]);
        let response = response(&json!([{"linkId": "q", "answer": [{"valueCoding": answer}]}]));
        run(&questionnaire.to_string(), &response.to_string()).iter().map(line).collect::<Vec<_>>()
    };
    let listed =
        json!({"compose": {"include": [{"system": "http://a", "concept": [{"code": "x"}]}, {"system": "http://b"}]}});
    for right in
        [json!({"system": "http://a", "code": "x"}), json!({"system": "http://b", "code": "any"}), json!({"code": "x"})]
    {
        assert_eq!(check(listed.clone(), right.clone()), [""; 0], "{right}");
    }
    let wrong = json!({"system": "http://a", "code": "y"});
    assert_eq!(check(listed.clone(), wrong.clone()), ["error code-invalid item[0].answer[0]"]);
    let expanded = json!({"expansion": {"contains": [{"system": "http://a", "code": "z", "contains": [{"system": "http://a", "code": "x"}]}]}});
    assert_eq!(check(expanded.clone(), json!({"system": "http://a", "code": "x"})), [""; 0]);
    assert_eq!(check(expanded, wrong.clone()), ["error code-invalid item[0].answer[0]"]);
    // What needs a terminology server is left alone.
    for open in [
        json!({"compose": {"include": [{"system": "http://a", "filter": [{}]}]}}),
        json!({"compose": {"include": [{"valueSet": ["http://v"]}]}}),
        json!({"compose": {"include": [{"system": "http://c"}], "exclude": [{}]}}),
        json!({"expansion": {"total": 5, "contains": [{"system": "http://a", "code": "x"}]}}),
    ] {
        assert_eq!(check(open.clone(), wrong.clone()), [""; 0], "{open}");
    }
}

#[test]
fn references_lead_to_allowed_types() {
    let url = "http://hl7.org/fhir/StructureDefinition/questionnaire-referenceResource";
    let item = json!({"type": "reference", "extension": [{"url": url, "valueCode": "Patient"}]});
    let of = |reference: &str| one(item.clone(), json!([{"valueReference": {"reference": reference}}]));
    for right in ["Patient/1", "http://a.example/Patient/1/_history/2", "urn:uuid:1", "#p"] {
        assert_eq!(of(right), [""; 0], "{right}");
    }
    assert_eq!(of("Organization/1"), ["error invariant item[0].answer[0].value.ofType(Reference)"]);
    assert_eq!(of("Patient 1"), ["error invalid item[0].answer[0].value.ofType(Reference)"]);
    let typed = json!([{"valueReference": {"reference": "urn:uuid:1", "type": "Group"}}]);
    assert_eq!(one(item, typed), ["error invariant item[0].answer[0].value.ofType(Reference)"]);
}

#[test]
fn attachments_have_an_allowed_type_and_size() {
    let core = "http://hl7.org/fhir/StructureDefinition";
    let item = json!({"type": "attachment", "extension": [
        {"url": format!("{core}/mimeType"), "valueCode": "image/*"},
        {"url": format!("{core}/maxSize"), "valueDecimal": 0.001}
    ]});
    let of = |attachment: Value| one(item.clone(), json!([{"valueAttachment": attachment}]));
    assert_eq!(of(json!({"contentType": "image/gif", "size": 1000})), [""; 0]);
    assert_eq!(of(json!({"contentType": "IMAGE/PNG; q=1"})), [""; 0]);
    assert_eq!(of(json!({"contentType": "application/pdf"})), ["error required item[0].answer[0]"]);
    let too_large = ["error invariant item[0].answer[0].value.ofType(Attachment)"];
    assert_eq!(of(json!({"size": 2000})), too_large);
    assert_eq!(of(json!({"data": "AAAA".repeat(500)})), too_large);
}

#[test]
fn units_are_those_that_the_questionnaire_offers() {
    let url = "http://hl7.org/fhir/StructureDefinition/questionnaire-unitOption";
    let kilograms = json!({"system": "http://unitsofmeasure.org", "code": "kg", "display": "kilogram"});
    let item = json!({"type": "quantity", "extension": [{"url": url, "valueCoding": kilograms}]});
    let of = |quantity: Value| one(item.clone(), json!([{"valueQuantity": quantity}]));
    assert_eq!(of(json!({"value": 1, "system": "http://unitsofmeasure.org", "code": "kg"})), [""; 0]);
    assert_eq!(of(json!({"value": 1, "unit": "kilogram"})), [""; 0]);
    let wrong = ["error invariant item[0].answer[0].value.ofType(Quantity)"];
    assert_eq!(of(json!({"value": 1, "system": "http://unitsofmeasure.org", "code": "m"})), wrong);
    assert_eq!(of(json!({"value": 1, "unit": "stone"})), wrong);
}

#[test]
fn an_item_that_is_not_enabled_must_not_be_answered() {
    let when = |operator: &str, answer: (&str, Value)| {
        let mut condition = json!({"question": "a", "operator": operator});
        condition[answer.0] = answer.1;
        json!([
            {"linkId": "a", "type": "integer", "repeats": true},
            {"linkId": "b", "type": "string", "required": true, "enableWhen": [condition]}
        ])
    };
    let asked = json!({"linkId": "a", "answer": [{"valueInteger": 5}, {"valueInteger": 7}]});
    let both = json!([asked, {"linkId": "b", "answer": [{"valueString": "x"}]}]);
    let alone = json!([asked]);
    for (operator, value, enabled) in [
        ("=", 5, true),
        ("=", 6, false),
        ("!=", 6, true),
        ("!=", 5, false),
        (">", 6, true),
        (">", 7, false),
        ("<=", 5, true),
        ("<", 5, false),
    ] {
        let items = when(operator, ("answerInteger", json!(value)));
        let (given, missing) = (check(items.clone(), both.clone()), check(items, alone.clone()));
        let expected =
            if enabled { (vec![], vec!["error required "]) } else { (vec!["error invalid item[1]"], vec![]) };
        assert_eq!(
            (given, missing),
            (
                expected.0.iter().map(|s: &&str| (*s).to_owned()).collect(),
                expected.1.iter().map(|s| (*s).to_owned()).collect()
            ),
            "{operator} {value}"
        );
    }
    let exists = |value: bool| when("exists", ("answerBoolean", json!(value)));
    assert_eq!(check(exists(true), both.clone()), [""; 0]);
    assert_eq!(check(exists(false), both.clone()), ["error invalid item[1]"]);
    assert_eq!(check(exists(true), json!([])), [""; 0]);
    // What cannot be told is not judged.
    assert_eq!(check(when("=", ("answerString", json!("5"))), both), [""; 0]);
    assert_eq!(check(when("=", ("answerString", json!("5"))), alone), [""; 0]);
}

#[test]
fn conditions_are_joined_as_the_questionnaire_says_and_ask_the_nearest_answer() {
    let condition = |question: &str| json!({"question": question, "operator": "=", "answerBoolean": true});
    let items = |behavior: &str| {
        json!([{"linkId": "g", "type": "group", "repeats": true, "item": [
            {"linkId": "a", "type": "boolean"}, {"linkId": "b", "type": "boolean"},
            {"linkId": "c", "type": "string", "enableBehavior": behavior,
             "enableWhen": [condition("a"), condition("b")]}
        ]}])
    };
    let group = |a: bool, b: bool| {
        json!({"linkId": "g", "item": [
            {"linkId": "a", "answer": [{"valueBoolean": a}]}, {"linkId": "b", "answer": [{"valueBoolean": b}]},
            {"linkId": "c", "answer": [{"valueString": "x"}]}
        ]})
    };
    let groups = json!([group(true, false), group(false, false), group(true, true)]);
    assert_eq!(check(items("any"), groups.clone()), ["error invalid item[1].item[2]"]);
    assert_eq!(check(items("all"), groups), ["error invalid item[0].item[2]", "error invalid item[1].item[2]"]);
}

#[test]
fn a_response_is_authored_while_its_questionnaire_is_in_effect() {
    let mut questionnaire = questionnaire(&json!([]));
    questionnaire["effectivePeriod"] = json!({"start": "2021", "end": "2022-03"});
    let at = |authored: &str| {
        let mut response = response(&json!([]));
        response["authored"] = authored.into();
        run(&questionnaire.to_string(), &response.to_string()).iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(at("2022-03-31"), [""; 0]);
    assert_eq!(at("2020-12-31"), ["warning business-rule authored"]);
    assert_eq!(at("2022-04-02T00:00:00Z"), ["warning business-rule authored"]);
    questionnaire["status"] = "retired".into();
    questionnaire["effectivePeriod"] = Value::Null;
    let found = run(&questionnaire.to_string(), &response(&json!([])).to_string());
    assert_eq!(found.iter().map(|problem| problem.severity).collect::<Vec<_>>(), [Severity::Information]);
}

#[test]
fn the_questionnaire_is_found_by_url_and_version_or_within_the_response() {
    let mut versions: Vec<String> = Vec::new();
    for (version, link) in [("1.9", "old"), ("1.10", "new")] {
        let mut questionnaire = questionnaire(&json!([{"linkId": link, "type": "string"}]));
        questionnaire["version"] = version.into();
        versions.push(questionnaire.to_string());
    }
    let mut known = Questionnaires::default();
    for body in &versions {
        known.add(Node::parse(body.as_bytes()).unwrap().object().unwrap());
    }
    let clean = |canonical: &str, link: &str| {
        let mut response = response(&json!([{"linkId": link, "answer": [{"valueString": "x"}]}]));
        response["questionnaire"] = canonical.into();
        let mut contained = questionnaire(&json!([{"linkId": "inner", "type": "string"}]));
        contained["id"] = "in".into();
        response["contained"] = json!([contained]);
        let body = response.to_string();
        let mut problems = Vec::new();
        check_response(&Node::parse(body.as_bytes()).unwrap().object().unwrap(), &place(), &known, &mut problems);
        problems.is_empty()
    };
    assert!(clean(URL, "new") && !clean(URL, "old"));
    assert!(clean(&format!("{URL}|1.9"), "old") && !clean(&format!("{URL}|1.9"), "new"));
    assert!(clean("#in", "inner") && !clean("#in", "new"));
    // An unknown Questionnaire says nothing.
    assert!(clean(&format!("{URL}|3"), "any") && clean("http://b.example", "any") && clean("#out", "any"));
}

#[test]
fn no_message_repeats_an_answer() {
    let items = json!([{"linkId": "q", "type": "string", "maxLength": 1, "answerOption": [{"valueString": "a"}]}]);
    let response = response(&json!([{"linkId": "q", "answer": [{"valueString": "Jane\nDoe"}]}, {"linkId": "Jane"}]));
    let problems = run(&questionnaire(&items).to_string(), &response.to_string());
    assert_eq!(problems.len(), 4);
    assert!(problems.iter().all(|problem| !format!("{problem:?}").contains("Jane")), "{problems:?}");
}

#[test]
fn hostile_forms_are_bounded() {
    let start = Instant::now();
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(20_000), close.repeat(20_000));
    let questionnaire_deep = format!(
        r#"{{"resourceType": "Questionnaire", "url": "{URL}", "item": [{}]}}"#,
        deep(r#"{"linkId": "a", "type": "group", "item": ["#, "]}")
    );
    let response_deep = format!(
        r#"{{"questionnaire": "{URL}", "status": "completed", "item": [{}]}}"#,
        deep(r#"{"linkId": "a", "answer": [{"item": ["#, "]}]}")
    );
    assert!(run(&questionnaire_deep, &response_deep).len() <= super::super::PROBLEMS_MAX);
    // Every item asks every answer of a question.
    let when = json!([{"question": "a", "operator": "=", "answerInteger": 1}]);
    let asking: Vec<_> =
        (0..3_000).map(|n| json!({"linkId": format!("b{n}"), "type": "string", "enableWhen": when})).collect();
    let mut items = vec![json!({"linkId": "a", "type": "integer", "repeats": true})];
    items.extend(asking);
    let mut answers = vec![json!({"linkId": "a", "answer": vec![json!({"valueInteger": 2}); 20_000]})];
    answers.extend((0..3_000).map(|n| json!({"linkId": format!("b{n}"), "answer": [{"valueString": "x"}]})));
    let found = run(&questionnaire(&items.into()).to_string(), &response(&answers.into()).to_string());
    assert!(!found.is_empty() && found.len() <= super::super::PROBLEMS_MAX);
    // As many unknown items as fit.
    let unknown = vec![json!({"linkId": "z"}); 100_000];
    let found = run(&questionnaire(&json!([])).to_string(), &response(&unknown.into()).to_string());
    assert_eq!(found.len(), super::super::PROBLEMS_MAX);
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

fn any_json() -> impl Strategy<Value = Value> {
    let names = || {
        prop::sample::select(vec![
            "item",
            "answer",
            "linkId",
            "valueString",
            "valueInteger",
            "valueCoding",
            "valueQuantity",
            "value",
            "code",
            "system",
            "enableWhen",
            "question",
            "operator",
            "answerInteger",
            "answerOption",
            "type",
            "repeats",
            "required",
            "extension",
            "url",
            "status",
            "contained",
            "text",
        ])
    };
    let words =
        prop::sample::select(vec!["a", "b", "group", "string", "choice", "=", "exists", "2020", "completed", "#v"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        words.prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 96, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((names(), inner), 0..6).prop_map(|members| {
                Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_shape_panics(items in any_json(), answers in any_json()) {
        let _ = run(&questionnaire(&items).to_string(), &response(&answers).to_string());
        let list = |value: Value| Value::from(vec![value.clone(), value]);
        let _ = run(&questionnaire(&list(items)).to_string(), &response(&list(answers)).to_string());
    }
}
