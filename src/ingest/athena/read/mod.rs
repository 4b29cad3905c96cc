//! What a payload says: its parts with their findings, and every problem with the field that has it.
//!
//! One pass makes both, so that the validator and the extractor never disagree. Pure: the same body and the same context
//! always give the same reading. docs/athena.md, "Shapes", says which member goes where.

mod acts;
mod allergies;
mod analytes;
mod documents;
mod encounters;
mod fields;
mod flat;
mod labs;
mod medications;
mod moment;
mod other;
mod problems;
mod reader;
mod sections;
mod shape;
mod signs;
mod status;
mod value;
mod vitals;

pub use fields::{Field, Shape};
pub use reader::PARTS_MAX;

use super::event::{Captured, Event, EventKind};
use crate::ingest::fhir::issue::{Report, Severity};
use crate::ingest::fhir::node::Kind;
use crate::ingest::findings::Finding;
use reader::{Reader, root};
use std::ops::Range;
use time::{Duration, OffsetDateTime};

/// What the reading depends on beside the body.
#[derive(Clone)]
pub struct Context {
    /// When the event was received: the time of a reading that says none and whose capture is not known either.
    pub received_at: OffsetDateTime,
    /// IANA name of the zone that dates and times without an offset are meant in.
    pub time_zone: String,
}

/// What tells one part of the same kind from another (docs/athena.md, "What a part is").
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, PartialEq, Eq)]
pub enum Identity {
    /// The payload's own id, unique for the patient and the kind of part.
    Id(String),
    /// None, but a time of its own: the place in the payload.
    Place,
    /// Neither, and it measures: the place and the time of capture.
    Reading,
    /// Neither, and it states: the place; the time of capture is its version.
    Statement,
}

/// One thing that an event says. It has no `Debug`: it is clinical through and through.
pub struct Part {
    /// `AthenaMedication`, `AthenaVital`, …
    pub resource_type: &'static str,
    /// What makes it the same part in another event.
    pub identity: Identity,
    /// What the payload says of it outside of its bytes; as much its content as they are: the status of a laboratory result
    /// of its analytes.
    pub beside: Option<String>,
    /// Its bytes in the body.
    pub span: Range<usize>,
    /// JSON Pointer of the same.
    pub pointer: String,
    /// Its section of the clinical view.
    pub category: &'static str,
    /// As the view filters and shows it.
    pub status: Option<String>,
    /// What the view sorts by.
    pub clinical_at: Option<OffsetDateTime>,
    /// What it says; the ordinals are as for FHIR resources: 0 for the part itself, 1… for components.
    pub findings: Vec<Finding>,
}

/// What a payload says.
#[derive(Default)]
pub struct Reading {
    /// In the order of the payload; those that an error left out are not among them.
    pub parts: Vec<Part>,
    /// Every problem; `entries` counts the parts that were there, `rejected` names those left out, by position. The event
    /// itself is never unusable.
    pub report: Report,
}

/// Events of a medication, events of a problem, or reactions that are looked at; all of them stand in the details.
const NESTED_MAX: usize = 200;

/// All that is looked at, kind by kind.
pub const FIELDS: [(&str, &[&Field]); 10] = [
    ("vitals", &vitals::FIELDS),
    ("labs", &labs::FIELDS),
    ("medications", &medications::FIELDS),
    ("problems", &problems::FIELDS),
    ("allergies", &allergies::FIELDS),
    ("immunizations", &acts::IMMUNIZATION_FIELDS),
    ("procedures", &acts::PROCEDURE_FIELDS),
    ("encounters", &encounters::FIELDS),
    ("documents", &documents::FIELDS),
    ("event", &[&CAPTURED_AT, &EVENT_SUBTYPE, &SOURCE_ENDPOINT]),
];

const CAPTURED_AT: Field = Field::new(
    Shape::Time,
    &["captured_at"],
    "`effective` of what has no time of its own; RFC 3339 with an offset, else an error that leaves nothing out",
);
const EVENT_SUBTYPE: Field = Field::new(Shape::Text, &["event_subtype"], "name of what is kept as `other`");
const SOURCE_ENDPOINT: Field = Field::new(Shape::Text, &["source_endpoint"], "kept with the event");

/// Read an event's payload.
#[must_use]
pub fn read(event: &Event<'_>, context: &Context) -> Reading {
    let mut reader = Reader::new(event, context);
    envelope(&mut reader);
    let is_known = match event.kind {
        EventKind::Vital => vitals::read(&mut reader),
        EventKind::Lab => labs::read(&mut reader),
        EventKind::Medication => medications::read(&mut reader),
        EventKind::Problem => problems::read(&mut reader),
        EventKind::Allergy => allergies::read(&mut reader),
        EventKind::Immunization => acts::read_immunizations(&mut reader),
        EventKind::Procedure => acts::read_procedures(&mut reader),
        EventKind::Encounter => encounters::read(&mut reader),
        EventKind::Document => documents::read(&mut reader),
        EventKind::Other => false,
    };
    if !is_known {
        other::whole(&mut reader);
    }
    reader.finish()
}

/// The members beside the payload.
fn envelope(reader: &mut Reader<'_, '_>) {
    let event = reader.event();
    match &event.captured {
        Captured::Unreadable(node) => {
            let sentence = "Not an RFC 3339 time with an offset: kept as given, the time of receipt stands in.";
            reader.issue(Severity::Error, "value", *node, &root("captured_at"), sentence);
        }
        Captured::At(node, at) if *at > reader.received_at().saturating_add(Duration::DAY) => {
            let sentence = "Lies more than a day after the receipt of the event.";
            reader.issue(Severity::Warning, "value", *node, &root("captured_at"), sentence);
        }
        Captured::At(..) | Captured::Absent => {}
    }
    for member in [EVENT_SUBTYPE.names[0], SOURCE_ENDPOINT.names[0]] {
        let Some(node) = event.object.get(member).filter(|node| node.kind() != Kind::Null) else { continue };
        if node.kind() != Kind::String {
            reader.issue(Severity::Warning, "structure", node, &root(member), Shape::Text.fault());
        } else if event.text(member).is_none() {
            reader.issue(Severity::Warning, "too-long", node, &root(member), reader::TOO_LONG);
        }
    }
}

#[cfg(test)]
mod tests;
