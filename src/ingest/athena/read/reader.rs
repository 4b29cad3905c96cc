//! The state of one reading: parts, issues, and what stands in for a time that the payload does not say.

use super::fields::{Field, Fields, ID_CHARS_MAX, Said, Shape, TEXT_CHARS_MAX, UNREAD_MAX};
use super::moment;
use super::{Context, Identity, Part, Reading};
use crate::clock;
use crate::ingest::athena::event::{Captured, Event};
use crate::ingest::fhir::issue::{Issue, Severity};
use crate::ingest::fhir::node::{Kind, Node};
use crate::ingest::fhir::path::Place;
use crate::ingest::findings::{Effective, Evidence, Finding, parts};
use jiff::tz::TimeZone;
use std::collections::HashSet;
use time::{Duration, OffsetDateTime};

/// Parts that one event may have: what one transaction stores.
pub const PARTS_MAX: u32 = 5_000;

/// Findings of one event, parts and components together.
pub const FINDINGS_MAX: usize = 10_000;

/// Bytes of text in all findings of one event together.
pub const FINDINGS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What is said of characters that no sender means.
pub const DAMAGED: &str = "Has control characters or U+FFFD: the text was damaged before it was sent.";
/// What is said of a text that has no place in a column.
pub const TOO_LONG: &str = "Is too long for this field.";

/// The time of day that stands apart from a date.
pub const CLOCK: Field = Field::new(
    Shape::Clock,
    &[
        "starttime",
        "appointmenttime",
        "readingtime",
        "timetaken",
        "recordedtime",
        "observationtime",
        "collectiontime",
        "collectedtime",
        "resulttime",
        "administertime",
        "administeredtime",
        "proceduretime",
        "performedtime",
        "time",
    ],
    "`effective`, where the date has no time",
);

/// What is said of a member that nothing reads.
const BESIDE: &str = "Stands beside the list and is not read: kept as received, not among the findings.";
const BESIDE_TOO: &str =
    "This and further members beside the list are not read: kept as received, not among the findings.";

/// Characters of a time, readable or not.
const TIME_CHARS_MAX: usize = 100;

/// Before this year nothing was measured that a sender of today reports.
const YEAR_MIN: i32 = 1850;

/// A time that a field says.
#[derive(Clone)]
pub struct Time {
    /// As written.
    pub text: String,
    /// The start of what is stated; nothing, if it could not be read.
    pub at: Option<OffsetDateTime>,
    /// year, month, day, second
    pub precision: Option<&'static str>,
    /// Where it stands.
    pub evidence: Evidence,
}

impl Time {
    /// Whether all that is stated lies before the start of another one: a day is over when the next one begins.
    fn is_before(&self, other: &Self) -> bool {
        let (Some(at), Some(start)) = (self.at, other.at) else { return false };
        if self.precision == other.precision {
            return at < start;
        }
        let period = match self.precision {
            Some("year") => Duration::days(366),
            Some("month") => Duration::days(31),
            // An hour more, for the day on which the clocks go back.
            Some("day") => Duration::hours(25),
            _ => Duration::ZERO,
        };
        at.saturating_add(period) <= start
    }
}

/// The end of something.
#[derive(Default)]
pub struct End {
    /// When, if it could be read.
    pub time: Option<Time>,
    /// It lies not after the receipt of the event.
    pub has_come: bool,
    /// The member that says it.
    pub name: String,
}

/// When something was, and who says so.
#[derive(Clone)]
pub struct When {
    /// For the findings.
    pub effective: Effective,
    /// `payload`, `captured_at`, `received`
    pub source: &'static str,
    /// Where it stands, unless it is the time of receipt.
    pub evidence: Option<Evidence>,
}

/// A part before it has its identity.
pub struct Draft {
    /// `AthenaMedication`, …
    pub resource_type: &'static str,
    /// Its section of the clinical view.
    pub category: &'static str,
    /// The payload's own id.
    pub id: Option<String>,
    /// Without id and time each sighting is a reading of its own.
    pub measures: bool,
    /// What is said of it elsewhere in the payload.
    pub beside: Option<String>,
    /// As the view shows it.
    pub status: Option<String>,
    /// Its time.
    pub when: When,
    /// What it says.
    pub findings: Vec<Finding>,
}

/// Reads one event.
pub struct Reader<'e, 'a> {
    event: &'e Event<'a>,
    received_at: OffsetDateTime,
    zone: TimeZone,
    entry: Option<u32>,
    ids: HashSet<(&'static str, String)>,
    is_over: bool,
    findings: usize,
    findings_bytes: usize,
    reading: Reading,
}

impl<'e, 'a> Reader<'e, 'a> {
    /// Of that event. A zone that is not known is UTC, and an issue says so.
    #[must_use]
    pub fn new(event: &'e Event<'a>, context: &Context) -> Self {
        let zone = TimeZone::get(&context.time_zone);
        let is_known = zone.is_ok();
        let mut reader = Self {
            event,
            received_at: context.received_at,
            zone: zone.unwrap_or(TimeZone::UTC),
            entry: None,
            ids: HashSet::new(),
            is_over: false,
            findings: 0,
            findings_bytes: 0,
            reading: Reading::default(),
        };
        if !is_known {
            let sentence = "The organization's time zone is not known: times without an offset are read in UTC.";
            reader.issue(Severity::Warning, "processing", event.payload, &payload(), sentence);
        }
        reader
    }

    /// What was read.
    #[must_use]
    pub fn finish(mut self) -> Reading {
        self.reading.report.sort();
        self.reading
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &'e Event<'a> {
        self.event
    }

    /// When the event was received.
    #[must_use]
    pub fn received_at(&self) -> OffsetDateTime {
        self.received_at
    }

    /// A problem of the part that is read, or of the event. An error leaves the part out, and never the event.
    pub fn issue(
        &mut self,
        severity: Severity,
        code: &'static str,
        node: Node<'_>,
        place: &Place,
        message: &'static str,
    ) {
        self.issue_at(severity, code, (&place.expression, &place.pointer, node.span().start), message);
    }

    /// The same, by expression, pointer and offset.
    fn issue_at(
        &mut self,
        severity: Severity,
        code: &'static str,
        (expression, pointer, offset): (&str, &str, usize),
        message: &'static str,
    ) {
        let issue = |entry: Option<u32>| Issue {
            severity,
            code,
            entry,
            line: None,
            expression: Some(expression.to_owned()),
            pointer: Some(pointer.to_owned()),
            byte_offset: u64::try_from(offset).ok(),
            message: message.to_owned(),
        };
        let report = &mut self.reading.report;
        match (self.entry, report.is_full()) {
            (Some(entry), false) => report.add(issue(Some(entry))),
            (Some(entry), true) => report.count(severity, Some(entry)),
            (None, _) => report.note(issue(None)),
        }
    }

    /// One part. It is left out if reading it found an error.
    pub fn part(&mut self, node: Node<'a>, place: &Place, read: impl FnOnce(&mut Self) -> Option<Draft>) {
        if self.is_over {
            return;
        }
        let entry = self.reading.report.entries;
        if entry >= PARTS_MAX {
            self.is_over = true;
            let sentence = "The event has more parts than are read: the rest is kept as received, without findings.";
            self.issue(Severity::Error, "too-costly", node, place, sentence);
            return;
        }
        self.reading.report.entries += 1;
        self.entry = Some(entry);
        let draft = read(self);
        let is_rejected = self.reading.report.rejected.contains(&entry);
        match draft {
            Some(draft) if !is_rejected && !self.has_room(&draft) => {
                self.is_over = true;
                let sentence =
                    "The event says more than is read: this part and the rest are kept as received, without findings.";
                self.issue(Severity::Error, "too-costly", node, place, sentence);
            }
            Some(draft) if !is_rejected => {
                let part = self.identified(draft, node, place);
                self.reading.parts.push(part);
            }
            Some(_) => {}
            None if is_rejected => {}
            None => self.issue(Severity::Error, "structure", node, place, "Says nothing that can be read."),
        }
        self.entry = None;
    }

    /// Whether the findings of one more part are within the bounds; they are counted.
    fn has_room(&mut self, draft: &Draft) -> bool {
        self.findings += draft.findings.len();
        self.findings_bytes +=
            draft.findings.iter().map(weight).sum::<usize>() + draft.beside.as_ref().map_or(0, String::len);
        self.findings <= FINDINGS_MAX && self.findings_bytes <= FINDINGS_BYTES_MAX
    }

    /// Members that stand beside a list of parts and that nothing reads: each is named, so that none is dropped in silence.
    pub fn unread(&mut self, fields: &Fields<'a>, list: Node<'a>, read: &[&Field]) {
        for (index, (node, place)) in fields.unread(list, read).into_iter().enumerate() {
            let sentence = if index < UNREAD_MAX { BESIDE } else { BESIDE_TOO };
            self.issue(Severity::Information, "informational", node, &place, sentence);
        }
    }

    /// Something that stands where a part should and is none.
    pub fn refuse(&mut self, node: Node<'a>, place: &Place, message: &'static str) {
        self.part(node, place, |reader| {
            reader.issue(Severity::Error, "structure", node, place, message);
            None
        });
    }

    /// No further part is read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    fn identified(&mut self, draft: Draft, node: Node<'a>, place: &Place) -> Part {
        let has_own_time = draft.when.source == "payload";
        let without_id = match (has_own_time, draft.measures) {
            (true, _) => Identity::Place,
            (false, true) => Identity::Reading,
            (false, false) => Identity::Statement,
        };
        let identity = match draft.id {
            None => without_id,
            Some(id) if self.ids.insert((draft.resource_type, id.clone())) => Identity::Id(id),
            Some(_) => {
                let sentence = "The same id is there twice: this one is told apart by its place.";
                self.issue(Severity::Warning, "duplicate", node, place, sentence);
                without_id
            }
        };
        Part {
            resource_type: draft.resource_type,
            identity,
            beside: draft.beside,
            span: node.span(),
            pointer: place.pointer.clone(),
            category: draft.category,
            status: draft.status,
            clinical_at: draft.when.effective.at,
            findings: draft.findings,
        }
    }

    /// Whether a value of the right type is fit for its field; an issue, if it is not.
    pub fn is_sound(&mut self, said: &Said<'a>, field: &Field) -> bool {
        let is_text_of_lines = |c: char| matches!(c, '\n' | '\r' | '\t');
        let is_damaged = |c: char| c == '\u{fffd}' || (c.is_control() && !is_text_of_lines(c));
        let (length_max, severity) = match field.shape {
            Shape::Body => (parts::JSON_BYTES_MAX, Severity::Information),
            Shape::Id => (ID_CHARS_MAX, field.severity()),
            Shape::Time | Shape::Clock => (TIME_CHARS_MAX, field.severity()),
            _ => (TEXT_CHARS_MAX, field.severity()),
        };
        let is_scalar = matches!(said.node.kind(), Kind::String | Kind::Number);
        if is_scalar && said.text.len() > length_max && said.text.chars().count() > length_max {
            self.issue(severity, "too-long", said.node, &said.place, TOO_LONG);
            return false;
        }
        if said.node.kind() != Kind::String {
            return true;
        }
        if said.text.contains(is_damaged) {
            self.issue(field.severity(), "value", said.node, &said.place, DAMAGED);
            return false;
        }
        if field.shape == Shape::Flag && truth(&said.text).is_none() {
            self.issue(field.severity(), "value", said.node, &said.place, Shape::Flag.fault());
            return false;
        }
        if field.shape == Shape::Clock
            && let Err(fault) = moment::check_clock(&said.text)
        {
            self.issue(field.severity(), "value", said.node, &said.place, fault.sentence());
            return false;
        }
        true
    }

    /// The text of a field.
    pub fn text(&mut self, fields: &Fields<'a>, field: &Field) -> Option<String> {
        fields.get(self, field).map(|said| said.text)
    }

    /// The truth of a field.
    pub fn flag(&mut self, fields: &Fields<'a>, field: &Field) -> Option<bool> {
        fields.get(self, field).and_then(|said| truth(&said.text))
    }

    /// The time of a field. One that cannot be read stays as written, with an issue.
    pub fn time(&mut self, fields: &Fields<'a>, field: &Field) -> Option<Time> {
        let said = fields.get(self, field)?;
        Some(self.time_of(&said, &said.text, field))
    }

    /// The time of a value, where `text` may say more than it (a date and its time of day).
    pub fn time_of(&mut self, said: &Said<'a>, text: &str, field: &Field) -> Time {
        let evidence = parts::evidence(said.node, &said.place, "athena.time");
        let read = moment::parse(text, &self.zone);
        match &read {
            Err(fault) => self.issue(field.severity(), "value", said.node, &said.place, fault.sentence()),
            Ok(moment) if moment.is_ambiguous => {
                let sentence = "The clocks show this time never or twice on that day: it was taken as is usual.";
                self.issue(Severity::Information, "value", said.node, &said.place, sentence);
            }
            Ok(moment) if moment.at.year() < YEAR_MIN => {
                let sentence = "Lies before 1850.";
                self.issue(Severity::Warning, "value", said.node, &said.place, sentence);
            }
            Ok(_) => {}
        }
        let moment = read.ok();
        Time {
            text: text.to_owned(),
            at: moment.map(|moment| moment.at),
            precision: moment.map(|moment| moment.precision),
            evidence,
        }
    }

    /// The time of a field, with the time of day that stands apart from it.
    fn clocked(&mut self, fields: &Fields<'a>, field: &Field) -> Option<(Said<'a>, Time)> {
        let said = fields.get(self, field)?;
        // A date that says its time of day needs no other; what stands beside it is among the details.
        let clock = if said.text.contains(':') { None } else { fields.get(self, &CLOCK) };
        let Some(clock) = clock else {
            let time = self.time_of(&said, &said.text, field);
            return Some((said, time));
        };
        let both = format!("{} {}", said.text, clock.text);
        if moment::parse(&said.text, &self.zone).is_ok() && moment::parse(&both, &self.zone).is_err() {
            let sentence = "Is no time of day of the date beside it: the date alone was taken.";
            self.issue(Severity::Warning, "value", clock.node, &clock.place, sentence);
            fields.keep(&CLOCK);
            let time = self.time_of(&said, &said.text, field);
            return Some((said, time));
        }
        let time = self.time_of(&said, &both, field);
        Some((said, time))
    }

    /// The time of a field, with the time of day that stands apart from it.
    pub fn moment(&mut self, fields: &Fields<'a>, field: &Field) -> Option<Time> {
        self.clocked(fields, field).map(|(_, time)| time)
    }

    /// The time of something that has happened.
    pub fn past(&mut self, fields: &Fields<'a>, field: &Field) -> Option<Time> {
        let (said, time) = self.clocked(fields, field)?;
        if time.at.is_some_and(|at| at > self.received_at.saturating_add(Duration::DAY)) {
            let sentence = "Lies more than a day after the receipt of the event.";
            self.issue(Severity::Warning, "value", said.node, &said.place, sentence);
        }
        Some(time)
    }

    /// The time of an end, and whether it has come: only a time that was read, and that does not lie ahead, ends something.
    /// One that cannot be read is not taken; it is among the details as written.
    pub fn end(&mut self, fields: &Fields<'a>, field: &Field) -> End {
        let Some(said) = fields.get(self, field) else { return End::default() };
        let time = self.time_of(&said, &said.text, field);
        let Some(at) = time.at else {
            fields.keep(field);
            return End::default();
        };
        let has_come = at <= self.received_at.saturating_add(Duration::DAY);
        if !has_come {
            let sentence = "Lies more than a day after the receipt of the event: it has ended nothing yet.";
            self.issue(Severity::Information, "value", said.node, &said.place, sentence);
        }
        End { time: Some(time), has_come, name: said.name }
    }

    /// When something was: as the payload says, else when it was captured, else when the event was received.
    #[must_use]
    pub fn when(&mut self, start: Option<Time>, end: Option<&Time>) -> When {
        if let (Some(start), Some(end)) = (&start, end)
            && end.is_before(start)
        {
            let (at, sentence) = (&end.evidence, "Ends before it starts: both are kept.");
            let place = (at.fhirpath.as_str(), at.pointer.as_str(), at.span.start);
            self.issue_at(Severity::Warning, "conflict", place, sentence);
        }
        let end_text = end.map(|end| end.text.clone());
        if let Some(start) = start {
            return When {
                effective: Effective { text: Some(start.text), end_text, at: start.at, precision: start.precision },
                source: "payload",
                evidence: Some(start.evidence),
            };
        }
        if let Captured::At(node, at) = &self.event.captured {
            return When {
                effective: Effective {
                    text: self.event.captured.as_given(),
                    end_text,
                    at: Some(*at),
                    precision: Some("second"),
                },
                source: "captured_at",
                evidence: Some(parts::evidence(*node, &root("captured_at"), "athena.captured_at")),
            };
        }
        When {
            effective: Effective {
                text: clock::rfc3339(self.received_at),
                end_text,
                at: Some(self.received_at),
                precision: Some("second"),
            },
            source: "received",
            evidence: None,
        }
    }
}

/// Give a finding its time, and the members that have no field of their own, after `notes` on how it was read.
pub fn seal<'a>(finding: &mut Finding, fields: impl Into<Option<&'a Fields<'a>>>, notes: &[Note], when: &When) {
    let mut details = parts::Details::default();
    details.said("time_source", &format!("\"{}\"", when.source));
    for (name, json) in notes {
        details.said(name, json);
    }
    let is_note = |name: &str| name == "time_source" || notes.iter().any(|(note, _)| *note == name);
    if let Some(fields) = fields.into() {
        for (name, node) in fields.rest().filter(|(name, _)| !is_note(name)) {
            details.said(name, node.text());
        }
    }
    finding.details = details.json();
    finding.effective = when.effective.clone();
    finding.evidence.extend(when.evidence.clone());
}

/// Bytes of text in a finding.
pub fn weight(finding: &Finding) -> usize {
    let texts = [
        &finding.code.system,
        &finding.code.code,
        &finding.code.display,
        &finding.code.codings,
        &finding.code.text,
        &finding.component_of,
        &finding.value.text,
        &finding.value.number,
        &finding.value.json,
        &finding.value.unit,
        &finding.value.ucum,
        &finding.reference_range,
        &finding.interpretation,
        &finding.status,
        &finding.clinical_status,
        &finding.verification_status,
        &finding.severity,
        &finding.criticality,
        &finding.body_site,
        &finding.effective.text,
        &finding.effective.end_text,
        &finding.issued,
        &finding.performer,
        &finding.encounter,
        &finding.dosage,
        &finding.reactions,
        &finding.details,
    ];
    let evidence = finding.evidence.iter().map(|evidence| evidence.pointer.len() + evidence.fhirpath.len());
    texts.into_iter().flatten().map(String::len).sum::<usize>() + evidence.sum::<usize>()
}

/// A word on how something was read, under its name among the details.
pub type Note = (&'static str, String);

/// A note on how something was read.
#[must_use]
pub fn note(name: &'static str, word: &str) -> Note {
    (name, serde_json::Value::from(word).to_string())
}

/// A person or place that is named by a text, as JSON.
#[must_use]
pub fn named(text: Option<String>) -> Option<String> {
    text.map(|text| serde_json::json!({ "display": text }).to_string())
}

/// The encounter of that id.
#[must_use]
pub fn encounter(id: Option<String>) -> Option<String> {
    id.map(|id| format!("AthenaEncounter/{id}"))
}

/// What a text or a truth value says.
#[must_use]
pub fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "y" | "yes" => Some(true),
        "false" | "n" | "no" => Some(false),
        _ => None,
    }
}

/// A member of the event.
#[must_use]
pub fn root(member: &str) -> Place {
    Place { expression: member.to_owned(), pointer: format!("/{member}") }
}

/// The payload.
#[must_use]
pub fn payload() -> Place {
    root("payload")
}
