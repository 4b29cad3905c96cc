//! Every field that is looked at, broken in every way that its type can be: a table that is generated from the list of
//! fields.

use super::*;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// A payload in which a member may stand, and the pointer of the object that it stands in.
struct Host {
    event_type: &'static str,
    payload: Value,
    object: &'static str,
}

fn host(event_type: &'static str, payload: Value, object: &'static str) -> Host {
    Host { event_type, payload, object }
}

/// Where a field stands in a payload that is sound without it.
fn host_of(kind: &str, field: &Field) -> Host {
    let first = field.names[0];
    match kind {
        "vitals" => match first {
            "vitals" => host("vitals", json!({}), ""),
            "readings" => host("vitals", json!({"vitals": [{"key": "BP"}]}), "/vitals/0"),
            "key" | "abbreviation" => host(
                "vitals",
                json!({"vitals": [{"readings": [[{"codedescription": "pulse", "value": "70"}]]}]}),
                "/vitals/0",
            ),
            "temperatureunit" => host("vitals", json!({"temp": 98}), ""),
            "bpunit" => host("vitals", json!({"bp": "120/80"}), ""),
            "weightunit" => host("vitals", json!({"weight": 80}), ""),
            "heightunit" => host("vitals", json!({"height": 80}), ""),
            _ if field.shape == Shape::Pressure || signs::by_name(first).is_some() => host("vitals", json!({}), ""),
            _ => {
                let reading = json!({"codedescription": "Heart rate", "value": "70", "readingtaken": "02/01/2026"});
                host("vitals", json!({"vitals": [{"key": "HR", "readings": [[reading]]}]}), "/vitals/0/readings/0/0")
            }
        },
        "labs" => match (first, field.shape) {
            ("results", _) => host("lab", json!({}), ""),
            ("analytes", _) => host("lab", json!({"results": [{"labresultid": "1"}]}), "/results/0"),
            ("description", _) => {
                host("lab", json!({"results": [{"analytes": [{"analytename": "x", "value": "1"}]}]}), "/results/0")
            }
            (_, Shape::Clock) => host(
                "lab",
                json!({"results": [{"analytes": [{"analytename": "Iron", "value": "1", "date": "02/01/2026"}]}]}),
                "/results/0/analytes/0",
            ),
            _ => host(
                "lab",
                json!({"results": [{"analytes": [{"analytename": "Iron", "value": "1"}]}]}),
                "/results/0/analytes/0",
            ),
        },
        "medications" => match first {
            "medications" | "nomedicationsreported" => host("medication", json!({}), ""),
            "type" | "eventdate" => host(
                "medication",
                json!({"medications": [[{"medication": "x", "events": [{"type": "START"}]}]]}),
                "/medications/0/0/events/0",
            ),
            _ => host("medication", json!({"medications": [[{"medication": "x"}]]}), "/medications/0/0"),
        },
        "problems" => match (first, field.names.len()) {
            ("problems" | "noknownproblems", _) => host("problem", json!({}), ""),
            ("startdate", _) | ("onsetdate", 1) => {
                host("problem", json!({"problems": [{"name": "x", "events": [{}]}]}), "/problems/0/events/0")
            }
            _ => host("problem", json!({"problems": [{"problemname": "x"}]}), "/problems/0"),
        },
        "allergies" => match first {
            "allergies" | "nkda" => host("allergy", json!({}), ""),
            "reactionname" => host(
                "allergy",
                json!({"allergies": [{"allergenname": "x", "reactions": [{}]}]}),
                "/allergies/0/reactions/0",
            ),
            _ => host("allergy", json!({"allergies": [{"allergenname": "x"}]}), "/allergies/0"),
        },
        "immunizations" => match (first, field.shape) {
            ("vaccines", _) => host("immunization", json!({}), ""),
            (_, Shape::Clock) => host(
                "immunization",
                json!({"vaccines": [{"description": "x", "administerdate": "02/01/2026"}]}),
                "/vaccines/0",
            ),
            _ => host("immunization", json!({"vaccines": [{"description": "x"}]}), "/vaccines/0"),
        },
        "procedures" => match (first, field.shape) {
            ("procedures", _) => host("procedure", json!({}), ""),
            (_, Shape::Clock) => host(
                "procedure",
                json!({"procedures": [{"procedurename": "x", "dateperformed": "02/01/2026"}]}),
                "/procedures/0",
            ),
            _ => host("procedure", json!({"procedures": [{"procedurename": "x"}]}), "/procedures/0"),
        },
        "encounters" => match (first, field.shape) {
            ("encounters", _) => host("encounter", json!({}), ""),
            (_, Shape::Clock) => host(
                "encounter",
                json!({"encounters": [{"encounterid": "1", "encounterdate": "02/01/2026"}]}),
                "/encounters/0",
            ),
            _ => host("encounter", json!({"encounters": [{"encounterid": "1"}]}), "/encounters/0"),
        },
        "documents" => match first {
            "documents" => host("document", json!({}), ""),
            _ => host("document", json!({"documents": [{"documentid": "1", "documentclass": "NOTE"}]}), "/documents/0"),
        },
        other => panic!("{other}: where does it stand?"),
    }
}

/// What is wrong for a field: the value, the code of the issue, and its severity where it is not the field's own.
fn wrong_values(kind: &str, field: &Field) -> Vec<(Value, &'static str, Option<&'static str>)> {
    let damaged = || (json!("bro\u{fffd}ken"), "value", None);
    let control = || (json!("a\u{7}b"), "value", None);
    let long = |length: usize| (json!("x".repeat(length)), "too-long", None);
    let types = |values: &[Value]| values.iter().map(|value| (value.clone(), "structure", None)).collect::<Vec<_>>();
    let is_list = field.is_essential
        && field.shape == Shape::Array
        && field.names[0] != "readings"
        && field.names[0] != "analytes";
    let (number, truth, object, array) = (json!(7), json!(true), json!({"a": 1}), json!(["a"]));
    let mut all = match field.shape {
        Shape::Id => types(&[truth, object, array, json!(1.5), json!(-3)]),
        Shape::Value => types(&[truth, object, array]),
        Shape::Pressure => types(&[number, truth, array]),
        Shape::Flag => types(&[number, object, array]),
        Shape::Text | Shape::Long | Shape::Body | Shape::Time | Shape::Clock => types(&[number, truth, object, array]),
        Shape::Object => types(&[number, truth, json!("x"), array]),
        Shape::Array if is_list => types(&[number, truth, json!("x")]),
        Shape::Array => types(&[number, truth, json!("x"), object]),
        Shape::Texts => types(&[number, truth]),
    };
    match field.shape {
        Shape::Text => {
            all.extend([damaged(), control(), long(4_001), (json!("x".repeat(501)), "too-long", Some("warning"))]);
        }
        Shape::Long | Shape::Value => all.extend([damaged(), control(), long(4_001)]),
        Shape::Texts => all.extend([damaged(), long(4_001)]),
        Shape::Id => all.extend([damaged(), control(), long(201)]),
        Shape::Body => all.extend([damaged(), (json!("x".repeat(70_000)), "too-long", Some("information"))]),
        Shape::Flag => all.extend([damaged(), (json!("perhaps"), "value", None), (json!("1"), "value", None)]),
        Shape::Pressure => {
            all.push(damaged());
            for text in ["120", "high", "120/80/60", "120/", "/", "12O/80", "1200/80"] {
                all.push((json!(text), "value", None));
            }
            all.push((json!({}), "value", None));
            for text in ["20/999", "700/80"] {
                all.push((json!(text), "value", Some("warning")));
            }
        }
        Shape::Clock => {
            all.push(damaged());
            all.extend(["25:00", "noon", "12", "10:75", "13:00 PM"].map(|text| (json!(text), "value", None)));
        }
        Shape::Time => {
            all.extend([damaged(), control(), long(101)]);
            let texts = [
                "02/30/2026",
                "13/01/2026",
                "01/02/26",
                "yesterday",
                "2026-02-30",
                "2026-13-01",
                "01/01/2026 25:00",
                "07/04/1776",
            ];
            all.extend(texts.map(|text| (json!(text), "value", None)));
        }
        Shape::Object | Shape::Array => {}
    }
    if kind == "vitals"
        && let Some(sign) = signs::by_name(field.names[0])
        && field.shape == Shape::Value
    {
        let (low, high) = sign.range;
        let beyond: f64 = high.parse::<f64>().unwrap() + 1.0;
        let below: f64 = low.parse::<f64>().unwrap() - 1.0;
        all.extend(
            [json!(beyond), json!(beyond.to_string()), json!(below), json!("high")]
                .map(|value| (value, "value", Some("warning"))),
        );
    }
    all
}

/// Put a member into an object of a payload, in the place of the other names of its field.
fn with_member(host: &Host, field: &Field, name: &str, value: Value) -> Value {
    let mut payload = host.payload.clone();
    let object = payload.pointer_mut(host.object).unwrap().as_object_mut().unwrap();
    for other in field.names {
        object.remove(*other);
    }
    object.insert(name.to_owned(), value);
    payload
}

#[test]
fn every_field_that_is_looked_at_is_checked_under_each_of_its_names() {
    LOOKED_AT.with_borrow_mut(BTreeSet::clear);
    let mut rows = 0;
    for (kind, fields) in FIELDS.iter().filter(|(kind, _)| *kind != "event") {
        for field in *fields {
            let host = host_of(kind, field);
            for name in field.names {
                for (value, code, severity) in wrong_values(kind, field) {
                    rows += 1;
                    let severity = severity.unwrap_or_else(|| field.severity().as_str());
                    let payload = with_member(&host, field, name, value.clone());
                    let reading = reading(&event_of(host.event_type, &payload));
                    let pointer = format!("/payload{}/{name}", host.object);
                    let shown: String = value.to_string().chars().take(40).collect();
                    let row = format!("{kind} {pointer} = {shown}");
                    let found = reading.report.issues.iter().find(|issue| {
                        issue.severity.as_str() == severity
                            && issue.code == code
                            && issue.pointer.as_deref() == Some(&pointer)
                    });
                    assert!(found.is_some(), "{row}: {:?}", reading.report.issues);
                    // An error leaves its part out and nothing else; what is not essential is taken without the field.
                    let is_left_out = severity == "error";
                    assert_eq!(!reading.report.rejected.is_empty(), is_left_out, "{row}");
                    let message = &found.unwrap().message;
                    assert!(!message.contains("bro") && !message.contains("1776"), "{message}");
                }
            }
        }
    }
    assert!(rows > 1_500, "{rows} rows");
    // Every field that the reader asked for is in the list, and every field of the list was asked for.
    let listed: BTreeSet<Vec<&str>> = FIELDS
        .iter()
        .filter(|(kind, _)| *kind != "event")
        .flat_map(|(_, fields)| fields.iter().map(|field| field.names.to_vec()))
        .collect();
    let looked_at = LOOKED_AT.with_borrow(Clone::clone);
    assert_eq!(listed, looked_at);
}

#[test]
fn the_members_beside_the_payload_are_checked() {
    let rows = [
        ("captured_at", json!(17), "error", "value"),
        ("captured_at", json!("02/01/2026"), "error", "value"),
        ("captured_at", json!("2026-02-30T00:00:00Z"), "error", "value"),
        ("captured_at", json!("2026-02-28T09:30:00"), "error", "value"),
        ("captured_at", json!(["x"]), "error", "value"),
        ("captured_at", json!("2026-03-02T12:00:01Z"), "warning", "value"),
        ("event_subtype", json!(7), "warning", "structure"),
        ("event_subtype", json!({}), "warning", "structure"),
        ("event_subtype", json!("x".repeat(501)), "warning", "too-long"),
        ("source_endpoint", json!(true), "warning", "structure"),
        ("source_endpoint", json!([]), "warning", "structure"),
        ("source_endpoint", json!("x".repeat(501)), "warning", "too-long"),
    ];
    for (member, value, severity, code) in rows {
        let body = json!({"athena_patient_id": "7", "event_type": "vitals", "payload": {"pulse": 70}, member: value})
            .to_string();
        let reading = reading(&body);
        let issue = &reading.report.issues[0];
        let pointer = format!("/{member}");
        assert_eq!(
            (issue.severity.as_str(), issue.code, issue.pointer.as_deref()),
            (severity, code, Some(&*pointer)),
            "{body}"
        );
        assert_eq!((issue.entry, reading.parts.len(), reading.report.issues.len()), (None, 1, 1), "{body}");
    }
}

#[test]
fn nothing_is_taken_of_a_part_that_an_error_leaves_out_and_the_others_stay() {
    let reading = reading(&event_of(
        "lab",
        &json!({"results": [{"labresultid": "1", "analytes": [
            {"analytename": "Iron", "value": "1"}, {"analytename": "Lead", "value": {"x": 1}}, {"value": "2"}, "x", null,
            {"analytename": "Zinc"}
        ]}]}),
    ));
    let names: Vec<_> = reading.parts.iter().map(|part| part.findings[0].code.text.as_deref().unwrap()).collect();
    assert_eq!(names, ["Iron", "Zinc"]);
    assert_eq!(reading.report.rejected, BTreeSet::from([1, 2, 3]));
    assert_eq!(reading.report.entries, 5);
}

/// The rows of the documentation.
fn documented() -> String {
    let mut rows = String::new();
    for (kind, fields) in FIELDS {
        for field in fields {
            let names: Vec<_> = field.names.iter().map(|name| format!("`{name}`")).collect();
            let shape = field.shape.as_str();
            let essential = if field.is_essential { " (essential)" } else { "" };
            let _ = writeln!(rows, "| {kind} | {} | {shape}{essential} | {} |", names.join(", "), field.goes);
        }
    }
    rows
}

#[test]
fn the_table_of_shapes_in_the_documentation_is_that_of_the_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/athena.md");
    let page = std::fs::read_to_string(path).unwrap();
    let table: Vec<&str> = page
        .split("### All fields")
        .nth(1)
        .unwrap_or_default()
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect();
    let expected = documented();
    let missing: Vec<_> = expected.lines().filter(|row| !table.contains(row)).collect();
    assert!(missing.is_empty(), "docs/athena.md, \"All fields\", lacks:\n{}", missing.join("\n"));
    assert_eq!(table.len(), expected.lines().count(), "docs/athena.md has a row too many");
}
