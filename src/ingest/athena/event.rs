//! The envelope of an event: who, what, when, and the payload; and the key under which a repetition is recognized.

use super::canonical::{self, NotCanonical};
use crate::ingest::fhir::calendar;
use crate::ingest::fhir::envelope::unsafe_text;
use crate::ingest::fhir::json::Cursor;
use crate::ingest::fhir::node::{Kind, Node, Object};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use time::OffsetDateTime;

/// Characters of a patient id.
const PATIENT_ID_MAX: usize = 200;
/// Characters of an event type.
const EVENT_TYPE_MAX: usize = 100;

/// What an event is about. The names that senders use are read without case, spaces, hyphens and underscores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// medication, medications, prescription
    Medication,
    /// problem, problems, condition, diagnosis
    Problem,
    /// vital, vitals, vital sign
    Vital,
    /// lab, labs, lab result
    Lab,
    /// allergy, allergies
    Allergy,
    /// immunization, vaccine
    Immunization,
    /// procedure, surgery
    Procedure,
    /// encounter, appointment, visit
    Encounter,
    /// document, note
    Document,
    /// Everything else.
    Other,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Medication,
        Self::Problem,
        Self::Vital,
        Self::Lab,
        Self::Allergy,
        Self::Immunization,
        Self::Procedure,
        Self::Encounter,
        Self::Document,
        Self::Other,
    ];

    /// What a sender's `event_type` means.
    #[must_use]
    pub fn of(event_type: &str) -> Self {
        let folded: String = event_type.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        match folded.as_str() {
            "medication" | "medications" | "med" | "meds" | "prescription" | "prescriptions" => Self::Medication,
            "problem" | "problems" | "problemlist" | "condition" | "conditions" | "diagnosis" | "diagnoses" => {
                Self::Problem
            }
            "vital" | "vitals" | "vitalsign" | "vitalsigns" => Self::Vital,
            "lab" | "labs" | "labresult" | "labresults" | "laboratory" => Self::Lab,
            "allergy" | "allergies" => Self::Allergy,
            "immunization" | "immunizations" | "immunisation" | "immunisations" | "vaccine" | "vaccines"
            | "vaccination" | "vaccinations" => Self::Immunization,
            "procedure" | "procedures" | "surgery" | "surgeries" => Self::Procedure,
            "encounter" | "encounters" | "appointment" | "appointments" | "visit" | "visits" => Self::Encounter,
            "document" | "documents" | "note" | "notes" | "clinicaldocument" | "clinicaldocuments" => Self::Document,
            _ => Self::Other,
        }
    }

    /// The word in SQL, JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Medication => "medication",
            Self::Problem => "problem",
            Self::Vital => "vital",
            Self::Lab => "lab",
            Self::Allergy => "allergy",
            Self::Immunization => "immunization",
            Self::Procedure => "procedure",
            Self::Encounter => "encounter",
            Self::Document => "document",
            Self::Other => "other",
        }
    }
}

/// When the extension saw it.
#[derive(Clone, Copy)]
pub enum Captured<'a> {
    /// Not said.
    Absent,
    /// An RFC 3339 time with an offset.
    At(Node<'a>, OffsetDateTime),
    /// Said, and not readable. It stays as given; the time of receipt stands in, and an issue says so.
    Unreadable(Node<'a>),
}

impl<'a> Captured<'a> {
    fn of(object: &Object<'a>) -> Self {
        let Some(node) = object.get("captured_at").filter(|node| node.kind() != Kind::Null) else {
            return Self::Absent;
        };
        match node.string().and_then(|text| calendar::parse_instant(&text.trim().to_ascii_uppercase())) {
            Some(at) => Self::At(node, at),
            None => Self::Unreadable(node),
        }
    }

    /// The value in the body.
    #[must_use]
    pub fn node(&self) -> Option<Node<'a>> {
        match self {
            Self::Absent => None,
            Self::At(node, _) | Self::Unreadable(node) => Some(*node),
        }
    }

    /// The instant, if it was readable.
    #[must_use]
    pub fn at(&self) -> Option<OffsetDateTime> {
        match self {
            Self::At(_, at) => Some(*at),
            _ => None,
        }
    }

    /// As given: a string's characters, any other value's JSON, at most 200 characters.
    #[must_use]
    pub fn as_given(&self) -> Option<String> {
        let node = self.node()?;
        let text = node.string().unwrap_or(Cow::Borrowed(node.text()));
        Some(text.chars().take(200).collect())
    }

    /// What tells one capture from another: the instant, or else the text as given.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        match self {
            Self::At(_, at) => crate::clock::rfc3339(*at),
            _ => self.as_given(),
        }
    }
}

/// An event whose envelope is in order. It has no `Debug`: it is clinical through and through.
pub struct Event<'a> {
    /// All members.
    pub object: Object<'a>,
    /// `athena_patient_id`, trimmed.
    pub patient_id: Cow<'a, str>,
    /// `event_type`, trimmed.
    pub event_type: Cow<'a, str>,
    /// What that means.
    pub kind: EventKind,
    /// `captured_at`.
    pub captured: Captured<'a>,
    /// `payload`: an object or an array.
    pub payload: Node<'a>,
}

/// Why an event is refused before the 202. Names places, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EventFault {
    /// Stable code, as in HTTP problems.
    pub code: &'static str,
    /// A sentence for the sender.
    pub message: String,
    /// JSON Pointer of the place.
    pub pointer: Option<String>,
}

impl EventFault {
    /// A fault of the whole body.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), pointer: None }
    }

    fn member(member: &str, what: &str) -> Self {
        Self { code: "invalid_event", message: format!("`{member}` {what}."), pointer: Some(format!("/{member}")) }
    }
}

/// Check that a body is JSON that can be kept, and open it.
///
/// # Errors
/// `empty_body`, `invalid_utf8`, `invalid_json`, `invalid_string`, `too_deep`.
pub fn open(body: &[u8]) -> Result<Node<'_>, EventFault> {
    if body.is_empty() {
        return Err(EventFault::new("empty_body", "The body is empty."));
    }
    if let Err(error) = std::str::from_utf8(body) {
        return Err(EventFault::new("invalid_utf8", format!("The body is not UTF-8 (byte {}).", error.valid_up_to())));
    }
    let node = Node::parse(body);
    // What cannot be stored is said to be that, also where a reader would call it no JSON.
    if let Some(fault) = unsafe_text(body) {
        return Err(EventFault::new(fault.code, fault.message));
    }
    node.map_err(|_| EventFault::new("invalid_json", "The body is not JSON."))
}

impl<'a> Event<'a> {
    /// The event of a value that [`open`] gave.
    ///
    /// # Errors
    /// `invalid_event`, naming the member.
    pub fn of(node: Node<'a>) -> Result<Self, EventFault> {
        let object =
            node.object().ok_or_else(|| EventFault::new("invalid_event", "The event is not a JSON object."))?;
        let patient_id = patient_id(&object)?;
        let event_type = object
            .string("event_type")
            .map(trimmed)
            .filter(|text| (1..=EVENT_TYPE_MAX).contains(&text.chars().count()))
            .ok_or_else(|| EventFault::member("event_type", "must be a text of 1 to 100 characters"))?;
        let payload = object
            .get("payload")
            .filter(|payload| matches!(payload.kind(), Kind::Object | Kind::Array))
            .ok_or_else(|| EventFault::member("payload", "must be an object or an array"))?;
        let (kind, captured) = (EventKind::of(&event_type), Captured::of(&object));
        Ok(Self { object, patient_id, event_type, kind, captured, payload })
    }

    /// SHA-256 of the canonical JSON of patient, type and payload.
    ///
    /// # Errors
    /// `duplicate_key`: the event has no canonical form.
    pub fn idempotency_key(&self) -> Result<[u8; 32], EventFault> {
        let duplicate = |error: NotCanonical| match error {
            NotCanonical::DuplicateKey { .. } => EventFault::new("duplicate_key", "A key of the event is there twice."),
            NotCanonical::Syntax(_) => EventFault::new("invalid_json", "The body is not JSON."),
        };
        // The whole event: a duplicate key outside the payload makes it ambiguous too.
        let mut whole = String::new();
        canonical::canonical(&mut Cursor::new(self.object.node().text(), 0), &mut whole).map_err(duplicate)?;
        let mut canonical = String::from("{\"athena_patient_id\":");
        canonical.push_str(&serde_json::Value::from(self.patient_id.as_ref()).to_string());
        canonical.push_str(",\"event_type\":");
        canonical.push_str(&serde_json::Value::from(self.event_type.as_ref()).to_string());
        canonical.push_str(",\"payload\":");
        canonical::canonical(&mut Cursor::new(self.payload.text(), 0), &mut canonical).map_err(duplicate)?;
        canonical.push('}');
        Ok(Sha256::digest(canonical.as_bytes()).into())
    }

    /// An optional text of the envelope, if it is one of at most 500 characters.
    #[must_use]
    pub fn text(&self, member: &str) -> Option<String> {
        self.object.owned(member).filter(|text| text.chars().count() <= 500)
    }
}

fn trimmed(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    }
}

/// A text, or a whole number: some senders write ids as numbers.
fn patient_id<'a>(object: &Object<'a>) -> Result<Cow<'a, str>, EventFault> {
    let what = "must be a text of 1 to 200 characters without control characters, or a whole number";
    let fault = || EventFault::member("athena_patient_id", what);
    let node = object.get("athena_patient_id").ok_or_else(fault)?;
    let text = match node.kind() {
        Kind::String => node.string().ok_or_else(fault)?,
        Kind::Number if node.text().bytes().all(|byte| byte.is_ascii_digit()) => Cow::Borrowed(node.text()),
        _ => return Err(fault()),
    };
    // As where the view is asked for it: no number holds such a character, something broke the text on its way.
    let is_broken = text.chars().any(|one| one.is_control() || one == char::REPLACEMENT_CHARACTER);
    let text = trimmed(text);
    if !is_broken && (1..=PATIENT_ID_MAX).contains(&text.chars().count()) { Ok(text) } else { Err(fault()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(body: &str) -> Result<[u8; 32], EventFault> {
        Event::of(open(body.as_bytes())?)?.idempotency_key()
    }

    #[test]
    fn the_same_event_in_other_clothes_has_the_same_key() {
        let one = r#"{"athena_patient_id":"7","event_type":"vitals","payload":{"bp":"120/80","n":1}}"#;
        for same in [
            r#"{ "payload": {"n": 1.0, "bp": "120\/80"}, "event_type": "vitals", "athena_patient_id": "7" }"#,
            r#"{"athena_patient_id":7,"event_type":" vitals ","captured_at":"2026-01-01T00:00:00Z","payload":{"bp":"120/80","n":1}}"#,
            r#"{"athena_patient_id":"7","event_type":"vitals","event_subtype":"x","more":[],"payload":{"bp":"120/80","n":1}}"#,
        ] {
            assert_eq!(key(one), key(same), "{same}");
        }
        for other in [
            r#"{"athena_patient_id":"8","event_type":"vitals","payload":{"bp":"120/80","n":1}}"#,
            r#"{"athena_patient_id":"7","event_type":"vital","payload":{"bp":"120/80","n":1}}"#,
            r#"{"athena_patient_id":"7","event_type":"vitals","payload":{"bp":"120/81","n":1}}"#,
            r#"{"athena_patient_id":"7","event_type":"vitals","payload":{"bp":"120/80","n":"1"}}"#,
            r#"{"athena_patient_id":"7","event_type":"vitals","payload":[{"bp":"120/80","n":1}]}"#,
        ] {
            assert_ne!(key(one).unwrap(), key(other).unwrap(), "{other}");
        }
    }

    #[test]
    fn a_bad_envelope_is_refused_by_the_name_of_its_member() {
        let long = "7".repeat(201);
        for (body, code, pointer) in [
            (String::new(), "empty_body", None),
            ("{".to_owned(), "invalid_json", None),
            ("[]".to_owned(), "invalid_event", None),
            (r#"{"event_type":"lab","payload":{}}"#.to_owned(), "invalid_event", Some("/athena_patient_id")),
            (
                r#"{"athena_patient_id":"7\u00018","event_type":"lab","payload":{}}"#.to_owned(),
                "invalid_event",
                Some("/athena_patient_id"),
            ),
            (
                r#"{"athena_patient_id":"7\ufffd8","event_type":"lab","payload":{}}"#.to_owned(),
                "invalid_event",
                Some("/athena_patient_id"),
            ),
            (
                format!(r#"{{"athena_patient_id":"{long}","event_type":"lab","payload":{{}}}}"#),
                "invalid_event",
                Some("/athena_patient_id"),
            ),
            (
                r#"{"athena_patient_id":1.5,"event_type":"lab","payload":{}}"#.to_owned(),
                "invalid_event",
                Some("/athena_patient_id"),
            ),
            (
                r#"{"athena_patient_id":"1","event_type":" ","payload":{}}"#.to_owned(),
                "invalid_event",
                Some("/event_type"),
            ),
            (
                r#"{"athena_patient_id":"1","event_type":"lab","payload":"x"}"#.to_owned(),
                "invalid_event",
                Some("/payload"),
            ),
            (
                r#"{"athena_patient_id":"1","event_type":"lab","payload":{"a":1,"a":1}}"#.to_owned(),
                "duplicate_key",
                None,
            ),
            (
                r#"{"athena_patient_id":"1","event_type":"lab","payload":{"a":"\u0000"}}"#.to_owned(),
                "invalid_string",
                None,
            ),
            (format!(r#"{{"payload":{}{}}}"#, "[".repeat(200), "]".repeat(200)), "too_deep", None),
        ] {
            let fault = key(&body).expect_err(&body);
            assert_eq!((fault.code, fault.pointer.as_deref()), (code, pointer), "{body}");
        }
        assert_eq!(open(b"\xff{}").map(|_| ()).unwrap_err().code, "invalid_utf8");
    }

    #[test]
    fn captures_are_told_apart_by_instant_or_else_by_text() {
        let captured = |json: &str| {
            let body = format!(r#"{{"athena_patient_id":"1","event_type":"lab","payload":{{}}{json}}}"#);
            let event = Event::of(open(body.as_bytes()).unwrap()).unwrap();
            (event.captured.at().is_some(), event.captured.key())
        };
        let zulu = captured(r#","captured_at":"2026-01-01T12:00:00Z""#);
        assert!(zulu.0);
        assert_eq!(zulu, captured(r#","captured_at":"2026-01-01T07:00:00.000-05:00""#));
        assert_eq!(captured(r#","captured_at":"yesterday""#), (false, Some("yesterday".to_owned())));
        assert_eq!(captured(r#","captured_at":17"#), (false, Some("17".to_owned())));
        assert_eq!(captured(r#","captured_at":null"#), (false, None));
        assert_eq!(captured(""), (false, None));
    }

    #[test]
    fn senders_names_of_kinds_are_understood() {
        for (name, kind) in [
            ("medications", EventKind::Medication),
            ("Vital_Signs", EventKind::Vital),
            ("lab-results", EventKind::Lab),
            ("allergies", EventKind::Allergy),
            ("Appointment", EventKind::Encounter),
            ("note", EventKind::Document),
            ("insurance", EventKind::Other),
        ] {
            assert_eq!(EventKind::of(name), kind, "{name}");
        }
        assert!(EventKind::ALL.into_iter().all(|kind| EventKind::of(kind.as_str()) == kind));
    }
}
