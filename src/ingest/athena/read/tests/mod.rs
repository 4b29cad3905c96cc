//! Readings of whole events.

mod malformed;
mod mended;
mod random;
mod shapes;

use super::*;
use crate::ingest::athena::event;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
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
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for part in &reading.parts {
        if let Identity::Id(id) = &part.identity {
            assert!(ids.insert((part.resource_type, id.clone())), "{id} is there twice");
        }
        assert!(places.insert((part.resource_type, &part.pointer)), "{} is there twice", part.pointer);
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
                assert_eq!(fhirpath_of(&tree, &evidence.pointer), evidence.fhirpath);
                check_quote(finding, evidence.rule, &body[evidence.span.clone()]);
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

/// A place in the other notation, written independently.
fn fhirpath_of(tree: &serde_json::Value, pointer: &str) -> String {
    let (mut path, mut at) = (String::new(), tree);
    for part in pointer.split('/').skip(1) {
        let name = part.replace("~1", "/").replace("~0", "~");
        // A name may be all digits: only the value tells it from an index.
        let is_index = at.is_array();
        at = if is_index { &at[name.parse::<usize>().unwrap()] } else { &at[&name] };
        if is_index {
            let _ = write!(path, "[{name}]");
            continue;
        }
        if !path.is_empty() {
            path.push('.');
        }
        let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
        if name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit()) {
            path.push_str(&name);
        } else {
            let _ = write!(path, "`{}`", name.replace('\\', "\\\\").replace('`', "\\`"));
        }
    }
    path
}

/// The bytes of a piece of evidence say what the finding says.
fn check_quote(finding: &Finding, rule: &str, quoted: &str) {
    let said = match quoted.as_bytes()[0] {
        b'"' => serde_json::from_str::<String>(quoted).unwrap().trim().to_owned(),
        // A whole entry stands for a name that it lacks.
        b'{' | b'[' => return,
        _ => quoted.to_owned(),
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let last = rule.rsplit('.').next().unwrap();
    if last == "value" || rule == "athena.document.text" || rule == "athena.encounter.class" {
        assert!(said.contains(&text(&finding.value.text)), "{rule}: {said}");
    } else if matches!(last, "name" | "title") || rule == "athena.encounter.type" {
        let cut: String = said.chars().take(500).collect();
        assert_eq!(finding.code.text.as_deref(), Some(cut.as_str()), "{rule}");
    } else if rule == "athena.time" {
        assert!(text(&finding.effective.text).starts_with(&said), "{rule}: {said}");
    } else if rule == "athena.captured_at" {
        assert_eq!(text(&finding.effective.text), said);
    } else if rule == "athena.lab.range" {
        let range: serde_json::Value = serde_json::from_str(&text(&finding.reference_range)).unwrap();
        assert_eq!(range[0]["text"], said.chars().take(500).collect::<String>());
    } else {
        assert!(matches!(rule, "athena.section.negation" | "athena.other"), "{rule} says a single value");
    }
}
