//! Medical record numbers: which identifiers are some, and how their values are compared.

use crate::ingest::fhir::calendar::{self, Temporal};
use crate::ingest::fhir::node::Object;
use std::collections::BTreeSet;
use time::OffsetDateTime;
use unicode_normalization::UnicodeNormalization as _;

/// A medical record number: the key is system and value, never the value alone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mrn {
    /// The identifier's system.
    pub system: String,
    /// The value, trimmed; leading zeros and case are significant.
    pub value: String,
}

impl std::fmt::Debug for Mrn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mrn(redacted)")
    }
}

impl Mrn {
    /// The key of an event that waits for this patient.
    #[must_use]
    pub fn key(&self) -> String {
        format!("mrn:{}|{}", encode(&self.system), self.value)
    }

    /// The number of such a key.
    #[must_use]
    pub fn of_key(key: &str) -> Option<Self> {
        let (system, value) = key.strip_prefix("mrn:")?.split_once('|')?;
        Some(Self { system: system.replace("%7C", "|").replace("%25", "%"), value: value.to_owned() })
    }
}

/// The first part of a key: without the separator, so that two subjects never have the same key.
pub(in crate::ingest) fn encode(part: &str) -> String {
    part.replace('%', "%25").replace('|', "%7C")
}

/// HL7 table 0203, in FHIR.
pub(super) const IDENTIFIER_TYPES: &str = "http://terminology.hl7.org/CodeSystem/v2-0203";

/// Values that systems write when they have no number, in lower case.
const PLACEHOLDERS: [&str; 16] = [
    "unknown",
    "unk",
    "none",
    "null",
    "nil",
    "n/a",
    "na",
    "test",
    "tbd",
    "temp",
    "pending",
    "missing",
    "undefined",
    "not available",
    "xxx",
    "-",
];

/// What the organization says about numbers.
#[derive(Clone, Default)]
pub struct MrnRules {
    /// Systems whose identifiers are MRNs although they do not say so.
    pub systems: Vec<String>,
    /// Systems in whose numbers case, spaces and hyphens mean nothing.
    pub folded_systems: Vec<String>,
    /// Values that are nobody's, beside those that nobody anywhere uses; compared without case.
    pub placeholders: Vec<String>,
    /// When the payload was accepted: a number whose period had ended then is not used.
    pub accepted_at: Option<OffsetDateTime>,
}

impl MrnRules {
    fn is_placeholder(&self, value: &str) -> bool {
        is_placeholder(value) || self.placeholders.iter().any(|one| one.trim().to_lowercase() == value.to_lowercase())
    }

    /// Had its period ended when the payload was accepted? A date counts to its last moment in UTC.
    fn has_ended(&self, identifier: &Object<'_>) -> bool {
        let Some(accepted_at) = self.accepted_at else { return false };
        let end = identifier.object("period").and_then(|period| period.owned("end"));
        let Some(end) = end.filter(|end| calendar::parse(end, Temporal::DateTime).is_some()) else { return false };
        match calendar::parse_instant(&end) {
            Some(instant) => instant < accepted_at,
            // As precise as it was written: `2019` ends with 2019.
            None => end
                .get(..end.len().min(10))
                .is_some_and(|end| *end < *accepted_at.date().to_string().get(..end.len()).unwrap_or_default()),
        }
    }

    pub(super) fn read(&self, identifier: &Object<'_>) -> Option<Mrn> {
        let retired = matches!(identifier.string("use").as_deref(), Some("old")) || self.has_ended(identifier);
        let number = self.number(&identifier.string("system")?, &identifier.string("value")?);
        number.filter(|_| !retired)
    }

    /// A number as it is compared; none, if it is nobody's.
    #[must_use]
    pub fn number(&self, system: &str, value: &str) -> Option<Mrn> {
        let system = system.trim().to_owned();
        let mut value = normal(value);
        if self.folded_systems.contains(&system) {
            value = folded(&value);
        }
        // 500 characters: an index row must fit a page, and no real number comes near.
        let usable = !system.is_empty() && system.len() + value.len() <= 500 && !self.is_placeholder(&value);
        usable.then_some(Mrn { system, value })
    }

    /// A number that says nothing of its type counts in the systems that the organization named.
    fn names(&self, identifier: &Object<'_>) -> bool {
        identifier.string("system").is_some_and(|system| self.systems.iter().any(|one| *one == system.trim()))
    }
}

/// A number's value, as it is stored: NFKC, trimmed.
#[must_use]
pub fn normal(value: &str) -> String {
    value.nfkc().collect::<String>().trim().to_owned()
}

/// A normal value in a system in whose numbers case, spaces and hyphens mean nothing.
#[must_use]
pub fn folded(normal: &str) -> String {
    normal.chars().filter(|c| !c.is_whitespace() && *c != '-').collect::<String>().to_lowercase()
}

/// Not a number of anybody: one repeated digit or sign, or a word for nothing.
fn is_placeholder(value: &str) -> bool {
    let mut characters = value.chars();
    let first = characters.next();
    let repeats =
        matches!(first, Some('0' | 'x' | 'X' | '-' | '?' | '.')) && characters.all(|other| Some(other) == first);
    value.is_empty() || repeats || PLACEHOLDERS.contains(&value.to_lowercase().as_str())
}

/// How an identifier says what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declared {
    /// A medical record number.
    Mrn,
    /// A temporary one.
    Temporary,
    /// Something else: a social security, account or visit number, …
    Other,
    /// Nothing.
    Untyped,
}

pub(super) fn declared(identifier: &Object<'_>) -> Declared {
    let Some(kind) = identifier.object("type") else { return Declared::Untyped };
    let codes: Vec<_> = kind
        .objects("coding")
        .iter()
        // Without a system the code may be anything; HL7's table is the only one in which MR has this meaning.
        .filter(|coding| coding.string("system").is_none_or(|system| system == IDENTIFIER_TYPES))
        .filter_map(|coding| coding.owned("code"))
        .collect();
    let has = |wanted: &str| codes.iter().any(|code| code == wanted);
    match (has("MR"), has("MRT")) {
        (true, _) => Declared::Mrn,
        (false, true) => Declared::Temporary,
        (false, false) if codes.is_empty() => Declared::Untyped,
        (false, false) => Declared::Other,
    }
}

/// The MRNs of a Patient resource: identifiers of type MR, and of the systems that the organization named.
#[must_use]
pub fn patient_mrns(patient: &Object<'_>, rules: &MrnRules) -> BTreeSet<Mrn> {
    let is_mrn = |identifier: &Object<'_>| match declared(identifier) {
        Declared::Mrn => true,
        Declared::Temporary | Declared::Other => false,
        Declared::Untyped => rules.names(identifier),
    };
    let identifiers = patient.objects("identifier");
    identifiers.iter().filter(|identifier| is_mrn(identifier)).filter_map(|one| rules.read(one)).collect()
}

/// The temporary numbers (MRT) of a Patient resource.
#[must_use]
pub fn temporary_numbers(patient: &Object<'_>, rules: &MrnRules) -> BTreeSet<Mrn> {
    let identifiers = patient.objects("identifier");
    let temporary = identifiers.iter().filter(|identifier| declared(identifier) == Declared::Temporary);
    temporary.filter_map(|one| rules.read(one)).collect()
}

/// The key of a temporary number: within its source.
#[must_use]
pub fn temporary_key(source: &str, mrn: &Mrn) -> String {
    format!("mrt:{}|{}|{}", encode(source), encode(&mrn.system), mrn.value)
}
