//! The rows that an event becomes: its own, and one a part (docs/athena.md, "What a part is").

use super::canonical;
use super::event::Event;
use super::read::{Context, Identity, Part};
use crate::ids::EventId;
use crate::ingest::fhir::issue::{Issue, Severity};
use crate::ingest::fhir::json::Cursor;
use crate::ingest::findings::Finding;
use crate::ingest::resource::Incoming;
use crate::ingest::subject::{self, Mrn};
use sha2::{Digest as _, Sha256};
use time::Duration;

/// The type of an event's own row.
pub const EVENT: &str = "AthenaEvent";

/// The rows of an event, its own first, and the findings of each part. Ids are not known here. `number` is the patient's, as it is
/// compared; none, if it is nobody's.
#[must_use]
pub fn incoming(
    event: &Event<'_>,
    key: &[u8; 32],
    number: Option<&Mrn>,
    context: &Context,
    parts: Vec<Part>,
) -> (Vec<Incoming>, Vec<Vec<Finding>>) {
    let received_at = context.received_at;
    // The time of receipt stands in for one that is not said, cannot be read, or has not come yet.
    let seen = event.captured.at().filter(|at| *at <= received_at + Duration::DAY).unwrap_or(received_at);
    let own = Incoming {
        id: None,
        part_of: None,
        pointer: Some(String::new()),
        entry: 0,
        span: event.object.node().span(),
        resource_type: EVENT,
        resource_key: format!("#{}", hex::encode(key)),
        content_sha256: *key,
        last_updated: None,
        clinical_at: Some(seen),
        category: None,
        status: None,
    };
    let sighting = event.captured.key().unwrap_or_default();
    // Two spellings of one number are one patient; one number of two systems is two.
    let patient = number.map_or_else(|| event.patient_id.clone().into_owned(), Mrn::key);
    let body = event.object.node();
    let (mut rows, mut findings) = (vec![own], Vec::with_capacity(parts.len()));
    for (index, part) in (1u32..).zip(parts) {
        let start = part.span.start - body.span().start;
        let mut meant = String::new();
        // The event has a canonical form, so each of its values has one.
        let text = &body.text()[start..part.span.end - body.span().start];
        if canonical::canonical(&mut Cursor::new(text, 0), &mut meant).is_err() {
            text.clone_into(&mut meant);
        }
        if let Some(beside) = &part.beside {
            meant.push_str(beside);
        }
        // What each event says at each capture is a version of its own: who takes an event away takes away what it says, and
        // nothing that others say too.
        meant.push_str(&hex::encode(key));
        meant.push_str(&sighting);
        rows.push(Incoming {
            id: None,
            part_of: None,
            entry: index,
            resource_type: part.resource_type,
            resource_key: resource_key(&patient, key, &part, &sighting),
            content_sha256: Sha256::digest(meant.as_bytes()).into(),
            last_updated: Some(seen),
            clinical_at: part.clinical_at,
            category: Some(part.category),
            status: part.status,
            span: part.span,
            pointer: Some(part.pointer),
        });
        findings.push(part.findings);
    }
    (rows, findings)
}

fn resource_key(patient: &str, key: &[u8; 32], part: &Part, sighting: &str) -> String {
    let place = || format!("#{}{}", hex::encode(key), part.pointer);
    match &part.identity {
        Identity::Id(id) => format!("{}|{id}", subject::encode(patient)),
        Identity::Place | Identity::Statement => place(),
        Identity::Reading => format!("{}@{sighting}", place()),
    }
}

/// The key of a part of an event that a person placed: apart from those of the events that were not, whose versions go on without
/// it.
#[must_use]
pub fn placed_key(event: EventId, key: &str) -> String {
    format!("!{event}|{}", key.split_once('|').map_or(key, |(_, rest)| rest))
}

/// The patient id is a word for nobody.
#[must_use]
pub fn nobodys_number(event: &Event<'_>) -> Issue {
    let offset = event.object.get("athena_patient_id").map(|node| node.span().start);
    Issue {
        severity: Severity::Warning,
        code: "value",
        entry: None,
        line: None,
        expression: Some("athena_patient_id".to_owned()),
        pointer: Some("/athena_patient_id".to_owned()),
        byte_offset: offset.and_then(|offset| u64::try_from(offset).ok()),
        message: "The patient id is nobody's number: the event is kept, and linked to no patient.".to_owned(),
    }
}
