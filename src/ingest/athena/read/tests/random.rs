//! What nobody foresaw: random payloads, and payloads that are meant to hurt.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Instant;

const EVENT_TYPES: [&str; 10] = [
    "vitals",
    "labs",
    "medications",
    "problems",
    "allergies",
    "immunizations",
    "procedures",
    "encounters",
    "documents",
    "other",
];

/// Names that mean something, in some kind.
fn name() -> impl Strategy<Value = String> {
    let known: Vec<&'static str> =
        FIELDS.iter().flat_map(|(_, fields)| fields.iter().flat_map(|field| field.names)).copied().collect();
    let known = prop::sample::select(known);
    prop_oneof![
        8 => known.clone().prop_map(str::to_owned),
        2 => known.prop_map(|name| format!("{}_{}", name[..1].to_uppercase(), &name[1..])),
        1 => any::<String>(),
    ]
}

fn leaf() -> impl Strategy<Value = Value> {
    let texts = [
        "120/80",
        "98.6 F",
        "<5",
        "70-100",
        "POSITIVE",
        "02/30/2026",
        "02/01/2026",
        "11/01/2026 01:30",
        "2026-02-01T10:00:00Z",
        "true",
        "L arm",
        "VITALS.BLOODPRESSURE.SYSTOLIC",
        "VITALS.TEMPERATURE",
        "LOINC",
        "8480-6",
        "4548-4",
        "E11.9",
        "glucose",
        "START",
        "severe",
        "25:00",
        "10:15",
        "",
        "  ",
        "\u{fffd}",
        "ENCOUNTER",
        "stopped",
        "entered in error",
    ];
    prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => (0u32..2_000).prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        8 => prop::sample::select(texts.to_vec()).prop_map(Value::from),
        1 => any::<String>().prop_map(|text| Value::from(text.replace('\0', ""))),
    ]
}

fn payload() -> impl Strategy<Value = Value> {
    let object = |inner: BoxedStrategy<Value>| {
        prop::collection::vec((name(), inner), 0..8).prop_map(|members| {
            Value::Object(members.into_iter().map(|(name, value)| (name.replace('\0', ""), value)).collect())
        })
    };
    let tree = leaf().boxed().prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![1 => prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from), 3 => object(inner.boxed())]
            .boxed()
    });
    prop_oneof![1 => prop::collection::vec(tree.clone(), 0..5).prop_map(Value::from), 4 => object(tree.boxed())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// No panic, and all that [`check`] asserts; the same again gives the same.
    #[test]
    fn any_payload_is_read_and_keeps_the_invariants(payload in payload(), kind in 0..EVENT_TYPES.len(), pretty: bool) {
        let event = json!({"athena_patient_id": "7", "event_type": EVENT_TYPES[kind], "payload": payload});
        let body = if pretty { serde_json::to_string_pretty(&event).unwrap() } else { event.to_string() };
        let (one, other) = (reading(&body), reading(&body));
        prop_assert_eq!(one.report.issues, other.report.issues);
        prop_assert!(one.parts.iter().zip(&other.parts).all(|(one, other)| one.findings == other.findings && one.identity == other.identity));
    }
}

/// Read without the checks, which cost more than the reading.
fn read_only(event_type: &str, payload: &str) -> (Reading, std::time::Duration) {
    let body = format!(r#"{{"athena_patient_id":"7","event_type":"{event_type}","payload":{payload}}}"#);
    let node = crate::ingest::fhir::node::Node::parse(body.as_bytes()).unwrap();
    let event = Event::of(node).map_err(|fault| fault.message).unwrap();
    let start = Instant::now();
    let reading = read(&event, &context());
    (reading, start.elapsed())
}

#[test]
fn hostile_payloads_cost_little_and_keep_the_bounds() {
    let members = |count: usize| {
        let members: Vec<String> = (0..count).map(|index| format!(r#""m{index}":"{index}""#)).collect();
        format!("{{\"name\":\"x\",\"pulse\":70,{}}}", members.join(","))
    };
    let repeated = |one: &str, count: usize| format!("[{}]", vec![one; count].join(","));
    let payloads = [
        format!("{}{}", "[".repeat(500_000), "]".repeat(500_000)),
        members(100_000),
        repeated("1", 300_000),
        repeated("{}", 300_000),
        repeated(r#"{"name":7}"#, 100_000),
        repeated("[{}]", 200_000),
        format!(r#"{{"vitals":[{{"readings":[{}]}}]}}"#, repeated(r#"{"value":"1"}"#, 70_000)),
        format!(r#"{{"vitals":[{{"readings":{}}}]}}"#, repeated(r#"{"type":"hr","value":"1"}"#, 40_000)),
        format!(r#"{{"results":[{{"analytes":{}}}]}}"#, repeated(r#"{"name":"x","value":"1","date":"x"}"#, 30_000)),
        format!(r#"{{"medications":[{{"name":"x","events":{}}}]}}"#, repeated(r#"{"date":"x"}"#, 70_000)),
        format!(r#"{{"{}":[{{"name":"x"}}]}}"#, "_".repeat(900_000)),
        format!(r#"{{"allergen":"{}","reactions":{}}}"#, "x".repeat(500_000), repeated("7", 200_000)),
    ];
    for event_type in ["vitals", "labs", "medications", "allergies", "other"] {
        for payload in &payloads {
            let (reading, took) = read_only(event_type, payload);
            let shown = &payload[..40];
            assert!(took.as_secs() < 20, "{event_type} {shown}: {took:?}");
            assert!(reading.report.issues.len() <= crate::ingest::fhir::issue::ISSUES_KEPT_MAX, "{event_type} {shown}");
            assert!(reading.report.entries <= PARTS_MAX, "{event_type} {shown}");
            assert_eq!(reading.parts.len() + reading.report.rejected.len(), reading.report.entries as usize);
            let places = reading.report.issues.iter().filter_map(|issue| issue.pointer.as_deref()).map(str::len).max();
            assert!(places.is_none_or(|length| length < 1_000), "{event_type} {shown}");
        }
    }
}

#[test]
fn the_cost_grows_with_the_size_and_not_with_its_square() {
    let payload = |count: usize| {
        let members: Vec<String> = (0..count).map(|index| format!(r#""m{index}":[1,2]"#)).collect();
        format!("{{\"name\":\"x\",{}}}", members.join(","))
    };
    let took = |count: usize| (0..3).map(|_| read_only("medication", &payload(count)).1).min().unwrap().as_secs_f64();
    let (small, large) = (took(10_000), took(100_000));
    assert!(large < small * 40.0 + 0.05, "{small} s and {large} s");
}

#[test]
fn parts_beyond_the_bound_are_said_not_to_be_read() {
    let list = |count: usize| json!({"medications": vec![json!({"medication": "x"}); count]}).to_string();
    let (within, _) = read_only("medication", &list(PARTS_MAX as usize));
    assert_eq!((within.parts.len(), within.report.total), (PARTS_MAX as usize, 0));
    let (beyond, _) = read_only("medication", &list(PARTS_MAX as usize + 500));
    assert_eq!((beyond.parts.len(), beyond.report.total), (PARTS_MAX as usize, 1));
    assert_eq!((beyond.report.issues[0].code, beyond.report.issues[0].entry), ("too-costly", None));
    assert!(!beyond.report.unusable);
}
