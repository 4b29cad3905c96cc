//! Readings of whole events.

mod shapes;

use super::*;
use crate::ingest::athena::event;
use std::cell::RefCell;
use std::collections::BTreeSet;
use time::macros::datetime;

thread_local! {
    /// The fields that were looked at, by their first names and shapes.
    static LOOKED_AT: RefCell<BTreeSet<Vec<&'static str>>> = const { RefCell::new(BTreeSet::new()) };
}

/// Remember that a field was looked at.
pub fn look_at(field: &Field) {
    LOOKED_AT.with_borrow_mut(|fields| {
        if !fields.contains(field.names) {
            fields.insert(field.names.to_vec());
        }
    });
}

/// New York, a day in 2026.
pub fn context() -> Context {
    Context { received_at: datetime!(2026-03-01 12:00 UTC), time_zone: "America/New_York".to_owned() }
}

/// Read a body and check what must hold of every reading.
pub fn reading(body: &str) -> Reading {
    let node = event::open(body.as_bytes()).map_err(|fault| fault.message).unwrap();
    let event = Event::of(node).map_err(|fault| fault.message).unwrap();
    let reading = read(&event, &context());
    check(body, &reading);
    reading
}

/// An event of that type with that payload.
pub fn event_of(event_type: &str, payload: &serde_json::Value) -> String {
    serde_json::json!({
        "athena_patient_id": "7", "event_type": event_type, "captured_at": "2026-02-28T09:30:00-05:00", "payload": payload
    })
    .to_string()
}

/// What holds of every reading: counts, ordinals, places, bytes.
pub fn check(body: &str, reading: &Reading) {
    let tree: serde_json::Value = serde_json::from_str(body).unwrap();
    let report = &reading.report;
    assert_eq!(reading.parts.len() + report.rejected.len(), report.entries as usize);
    assert!(!report.unusable);
    for issue in &report.issues {
        let pointer = issue.pointer.as_deref().unwrap();
        assert!(tree.pointer(pointer).is_some(), "{pointer}");
        assert!(issue.byte_offset.is_some_and(|offset| offset < body.len() as u64));
        assert!(issue.expression.is_some());
    }
    let mut ids = BTreeSet::new();
    for part in &reading.parts {
        if let Identity::Id(id) = &part.identity {
            assert!(ids.insert((part.resource_type, id.clone())), "{id} is there twice");
        }
        assert!(!part.findings.is_empty());
        let ordinals: BTreeSet<i32> = part.findings.iter().map(|finding| finding.ordinal).collect();
        assert_eq!(ordinals.len(), part.findings.len(), "ordinals of {}", part.pointer);
        let slice: serde_json::Value = serde_json::from_str(&body[part.span.clone()]).unwrap();
        assert_eq!(Some(&slice), tree.pointer(&part.pointer), "{}", part.pointer);
        for finding in &part.findings {
            assert!(!finding.evidence.is_empty());
            for evidence in &finding.evidence {
                let slice: serde_json::Value = serde_json::from_str(&body[evidence.span.clone()]).unwrap();
                assert_eq!(Some(&slice), tree.pointer(&evidence.pointer), "{}", evidence.pointer);
                assert!(crate::ingest::findings::RULES.contains(&evidence.rule), "{}", evidence.rule);
            }
            let json = [
                &finding.details,
                &finding.dosage,
                &finding.reference_range,
                &finding.reactions,
                &finding.performer,
                &finding.body_site,
                &finding.component_of,
                &finding.code.codings,
            ];
            for text in json.into_iter().flatten() {
                assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}");
            }
        }
    }
}
