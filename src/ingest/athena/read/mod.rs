//! What a payload says: its parts with their findings, and every problem with the field that has it.
//!
//! One pass makes both, so that the validator and the extractor never disagree. Pure: the same body and the same context
//! always give the same reading.

use super::event::Event;
use crate::ingest::fhir::issue::Report;
use crate::ingest::findings::Finding;
use std::ops::Range;
use time::OffsetDateTime;

/// What the reading depends on beside the body.
#[derive(Debug, Clone)]
pub struct Context {
    /// When the event was received: the time of a reading that says none and whose capture is not known either.
    pub received_at: OffsetDateTime,
    /// IANA name of the zone that dates and times without an offset are meant in.
    pub time_zone: String,
}

/// What tells one part of the same kind from another (docs/athena.md, "What a part is").
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Every problem; `entries` counts the parts that were there, `rejected` names those left out, by position.
    pub report: Report,
}

/// Read an event's payload.
#[must_use]
pub fn read(_event: &Event<'_>, _context: &Context) -> Reading {
    Reading::default()
}
