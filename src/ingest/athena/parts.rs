//! The rows that an event becomes: its own, and one a part (docs/athena.md, "What a part is").

use super::canonical;
use super::event::Event;
use super::read::{Context, Identity, Part};
use crate::ingest::fhir::issue::{Issue, Severity};
use crate::ingest::fhir::json::Cursor;
use crate::ingest::findings::Finding;
use crate::ingest::resource::Incoming;
use crate::ingest::subject;
use sha2::{Digest as _, Sha256};

/// The type of an event's own row.
pub const EVENT: &str = "AthenaEvent";

/// The rows of an event, its own first, and the findings of each part. Ids are not known here.
#[must_use]
pub fn incoming(
    event: &Event<'_>,
    key: &[u8; 32],
    context: &Context,
    parts: Vec<Part>,
) -> (Vec<Incoming>, Vec<Vec<Finding>>) {
    // Without a time of capture that can be read, the order of acceptance decides which version is current.
    let captured = event.captured.at();
    let span = event.object.node().span();
    let own = Incoming {
        id: None,
        part_of: None,
        pointer: Some(String::new()),
        entry: 0,
        span,
        resource_type: EVENT,
        resource_key: format!("#{}", hex::encode(key)),
        content_sha256: *key,
        last_updated: None,
        clinical_at: captured.or(Some(context.received_at)),
        category: None,
        status: None,
    };
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
        let sighting = event.captured.key().unwrap_or_default();
        if part.identity == Identity::Statement {
            // Each sighting is a version.
            meant.push_str(&sighting);
        }
        meant.push_str(part.beside.as_deref().unwrap_or_default());
        rows.push(Incoming {
            id: None,
            part_of: None,
            entry: index,
            resource_type: part.resource_type,
            resource_key: resource_key(event, key, &part, &sighting),
            content_sha256: Sha256::digest(meant.as_bytes()).into(),
            last_updated: captured,
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

fn resource_key(event: &Event<'_>, key: &[u8; 32], part: &Part, sighting: &str) -> String {
    let place = || format!("#{}{}", hex::encode(key), part.pointer);
    match &part.identity {
        Identity::Id(id) => format!("{}|{id}", subject::encode(&event.patient_id)),
        Identity::Place | Identity::Statement => place(),
        Identity::Reading => format!("{}@{sighting}", place()),
    }
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
