//! The shape of an item: one resource, with its components inside and the evidence of each statement.

use super::CATEGORIES;
use super::store::{EventRow, FindingRow};
use crate::ids::EventId;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// RFC 3339 in UTC.
pub fn timestamp(at: OffsetDateTime) -> Option<String> {
    at.to_offset(time::UtcOffset::UTC).format(&Rfc3339).ok()
}

/// The items of each category, newest event first.
pub fn by_category(events: &[EventRow], findings: Vec<FindingRow>) -> HashMap<&'static str, Vec<Value>> {
    let mut by_event: HashMap<EventId, Vec<FindingRow>> = HashMap::new();
    for finding in findings {
        by_event.entry(finding.event_id).or_default().push(finding);
    }
    let mut categories: HashMap<&'static str, Vec<Value>> = HashMap::new();
    for event in events {
        let Some(category) = CATEGORIES.into_iter().find(|category| *category == event.category) else { continue };
        let findings = by_event.remove(&event.id).unwrap_or_default();
        categories.entry(category).or_default().push(item(event, findings));
    }
    categories
}

fn item(event: &EventRow, findings: Vec<FindingRow>) -> Value {
    let mut item = Map::new();
    let mut put = |key: &str, value: Value| {
        item.insert(key.to_owned(), value);
    };
    // A resource without an id of its own has a key that only means something inside.
    let id = (!event.resource_key.starts_with('#')).then_some(&event.resource_key);
    put("event_id", json!(event.id));
    put("resource_type", json!(event.resource_type));
    put("resource_id", json!(id));
    put("status", json!(event.status));
    put("is_current", json!(event.is_current));
    put("source", json!(event.source_label));
    put("last_updated", json!(event.last_updated.and_then(timestamp)));
    put("received_at", json!(timestamp(event.created_at)));
    let sha256 = hex::encode(&event.payload_sha256);
    let pointer = event.entry.map(|entry| format!("/entry/{entry}/resource"));
    put("resource", json!({"sha256": sha256, "start": event.byte_start, "end": event.byte_end, "pointer": pointer}));
    let (own, components): (Vec<_>, Vec<_>) = findings.into_iter().partition(|finding| finding.ordinal == 0);
    if own.is_empty()
        && let Some(panel) = components.first().and_then(|component| component.component_of.as_ref())
    {
        // A panel without a value of its own has a name all the same.
        put("name", panel_name(panel));
        put("code", panel["coding"][0].clone());
        put("effective", json!(components[0].effective_text));
    }
    for finding in own {
        item.extend(statement(&finding));
    }
    item.insert("components".to_owned(), components.iter().map(|one| Value::from(statement(one))).collect());
    Value::from(item)
}

fn panel_name(concept: &Value) -> Value {
    let text = concept["text"].as_str();
    let coding = &concept["coding"][0];
    json!(text.or_else(|| coding["display"].as_str()).or_else(|| coding["code"].as_str()))
}

fn statement(finding: &FindingRow) -> Map<String, Value> {
    let name = finding.code_text.as_ref().or(finding.display.as_ref()).or(finding.code.as_ref());
    let code = json!({"system": finding.code_system, "code": finding.code, "display": finding.display});
    let all = [
        ("finding_id", json!(finding.id)),
        ("kind", json!(finding.kind)),
        ("name", json!(name)),
        ("code", if finding.code.is_some() { code } else { Value::Null }),
        ("codings", finding.codings.clone()),
        ("value_type", json!(finding.value_type)),
        ("value", json!(finding.value_text)),
        ("value_detail", json!(finding.value_code)),
        ("comparator", json!(finding.comparator)),
        ("unit", json!(finding.unit)),
        ("ucum", json!(finding.ucum)),
        ("reference_range", json!(finding.reference_range)),
        ("interpretation", json!(finding.interpretation)),
        ("interpretation_source", json!(finding.interpretation_source)),
        ("clinical_status", json!(finding.clinical_status)),
        ("verification_status", json!(finding.verification_status)),
        ("severity", json!(finding.severity)),
        ("body_site", json!(finding.body_site)),
        ("effective", json!(finding.effective_text)),
        ("effective_end", json!(finding.effective_end_text)),
        ("issued", json!(finding.issued)),
        ("performer", json!(finding.performer)),
        ("encounter", json!(finding.encounter_reference)),
        ("dosage", json!(finding.dosage)),
        ("reactions", json!(finding.reactions)),
        ("negated", json!(finding.negated)),
        ("evidence", finding.evidence.clone()),
    ];
    // What is not said is not shown, except what every statement has.
    let always = ["finding_id", "name", "code", "value", "unit", "effective", "evidence"];
    all.into_iter()
        .filter(|(key, value)| !value.is_null() || always.contains(key))
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}
