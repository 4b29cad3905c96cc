//! Whom a resource is about, as far as the payload itself says it: MRN rules and references. Pure; what the database
//! knows comes in `linking`.

use super::demographics::Demographics;
use super::fhir::calendar;
use super::fhir::node::Object;
use super::fhir::split::{Bundle, Entry, Resource};
use super::fhir::types::Temporal;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeSet, HashMap};
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
pub(super) fn encode(part: &str) -> String {
    part.replace('%', "%25").replace('|', "%7C")
}

/// HL7 table 0203, in FHIR.
const IDENTIFIER_TYPES: &str = "http://terminology.hl7.org/CodeSystem/v2-0203";

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
#[derive(Debug, Clone, Default)]
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

    fn read(&self, identifier: &Object<'_>) -> Option<Mrn> {
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
enum Declared {
    /// A medical record number.
    Mrn,
    /// A temporary one.
    Temporary,
    /// Something else: a social security, account or visit number, …
    Other,
    /// Nothing.
    Untyped,
}

fn declared(identifier: &Object<'_>) -> Declared {
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

/// Patients that this one replaces, and that it is replaced by, as the source says it (Patient.link).
#[must_use]
pub fn patient_links(patient: &Object<'_>, source: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut replaces, mut replaced_by) = (BTreeSet::new(), BTreeSet::new());
    for link in patient.objects("link") {
        let other = link.object("other").and_then(|other| other.owned("reference"));
        // Only within the source: `Patient/id`.
        let Some(Reference::Local(id)) = other.as_deref().and_then(Reference::parse) else { continue };
        let key = Reference::Local(id).key(source);
        match link.string("type").as_deref() {
            Some("replaces") => replaces.insert(key),
            Some("replaced-by") => replaced_by.insert(key),
            _ => false,
        };
    }
    (replaces, replaced_by)
}

/// Whom a resource is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Nobody: the resource has no patient as its subject.
    Nobody,
    /// The Patient resource of this entry of the same Bundle.
    Entry(u32),
    /// Somebody outside the Bundle.
    Outside(Outside),
}

/// A subject outside the Bundle, or one of which several things are said, by all that the reference says.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Outside {
    /// MRNs, from `Reference.identifier`, a conditional reference or a contained Patient.
    pub mrns: BTreeSet<Mrn>,
    /// Temporary numbers of the same source.
    pub temporary: BTreeSet<Mrn>,
    /// The reference itself, and those to entries of the Bundle that have one of the numbers.
    pub references: BTreeSet<Reference>,
    /// What a contained Patient says of the person: who has the number must not contradict it.
    pub says: Option<Box<Demographics>>,
    /// It is a Patient of the Bundle that was rejected: only what is accepted later can say who that is.
    pub is_rejected: bool,
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outside(redacted)")
    }
}

/// The prefix of the key of a subject that was rejected.
pub const REJECTED: &str = "rej:";

impl Outside {
    /// The keys by which the patient may be found, the MRNs first, since they are known across sources. What a contained
    /// Patient says is the last one, a hash that finds nobody: who says something else asks another question.
    #[must_use]
    pub fn keys(&self, source: &str) -> Vec<String> {
        let temporary = self.temporary.iter().map(|mrn| temporary_key(source, mrn));
        let references = self.references.iter().map(|reference| reference.key(source));
        let says = self.says.iter().map(|says| {
            let hash = Sha256::digest(says.identifying().to_string());
            hash.iter().fold("says:".to_owned(), |key, byte| key + &format!("{byte:02x}"))
        });
        let mut keys: Vec<String> =
            self.mrns.iter().map(Mrn::key).chain(references).chain(temporary).chain(says).collect();
        if self.is_rejected
            && let Some(first) = keys.first()
        {
            keys.insert(0, format!("{REJECTED}{first}"));
        }
        keys
    }
}

/// The key of a temporary number: within its source.
#[must_use]
pub fn temporary_key(source: &str, mrn: &Mrn) -> String {
    format!("mrt:{}|{}|{}", encode(source), encode(&mrn.system), mrn.value)
}

/// A reference to a Patient.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// `Patient/{id}`, meant within the source.
    Local(String),
    /// An absolute URL.
    Absolute(String),
}

impl Reference {
    /// The reference of a text. A `urn:uuid:` is unique in the world, so it also means the Patient of that id.
    fn parse(text: &str) -> Option<Self> {
        let text = plain(text);
        if text.is_empty() || text.len() > 500 || text.starts_with('#') {
            return None;
        }
        if let Some(id) = text.strip_prefix("Patient/").or_else(|| text.strip_prefix("urn:uuid:")) {
            return Some(Self::Local(id.to_owned()));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return text.contains("/Patient/").then(|| Self::Absolute(text.to_owned()));
        }
        None
    }

    /// The key of an event that waits for this patient.
    #[must_use]
    pub fn key(&self, source: &str) -> String {
        match self {
            Self::Local(id) => format!("ref:{}|Patient/{id}", encode(source)),
            Self::Absolute(url) => format!("ref:{}|{url}", encode(source)),
        }
    }
}

/// The references under which others may speak of a Patient resource: its id, and its fullUrl.
#[must_use]
pub fn references_to(resource: &Resource<'_>, full_url: Option<&str>) -> Vec<Reference> {
    let id = resource.id.as_deref().map(|id| Reference::Local(id.to_owned()));
    let mut references: Vec<_> = id.into_iter().chain(full_url.and_then(Reference::parse)).collect();
    references.dedup();
    references
}

/// A reference without the version, which belongs to the reference and not to the patient, and without a root: `/Patient/p`
/// and `./Patient/p` are `Patient/p`.
fn plain(text: &str) -> &str {
    let text = text.split("/_history/").next().unwrap_or_default().trim();
    text.strip_prefix("./").or_else(|| text.strip_prefix('/')).unwrap_or(text)
}

/// The numbers of a conditional reference, `Patient?identifier=system|value`.
fn conditional(text: &str, rules: &MrnRules) -> Option<BTreeSet<Mrn>> {
    let text = plain(text);
    let (path, query) = text.split_once('?')?;
    if path != "Patient" && !path.ends_with("/Patient") {
        return None;
    }
    let values = query.split('&').filter_map(|parameter| parameter.strip_prefix("identifier="));
    let tokens = values.flat_map(|value| value.split(',')).map(percent_decoded);
    Some(
        tokens
            .filter_map(|token| token.split_once('|').and_then(|(system, value)| rules.number(system, value)))
            .collect(),
    )
}

fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let hex = (*first == b'%').then(|| after.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        rest = if byte.is_some() { &after[2..] } else { after };
        bytes.push(byte.unwrap_or(*first));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The patients of a Bundle, by everything that a reference within the Bundle may say.
pub struct Directory {
    by_reference: HashMap<String, Target>,
    by_number: HashMap<Mrn, BTreeSet<u32>>,
    patients: HashMap<u32, Listed>,
}

/// A Patient of the Bundle.
struct Listed {
    references: Vec<Reference>,
    numbers: BTreeSet<Mrn>,
    is_rejected: bool,
}

#[derive(Clone, Copy)]
enum Target {
    Patient(u32),
    Other,
}

impl Directory {
    /// Who refers to a Patient that is left out (`skip`) waits. Other entries that are left out are no targets.
    #[must_use]
    pub fn new(bundle: &Bundle<'_>, skip: &BTreeSet<u32>, rules: &MrnRules) -> Self {
        let mut directory = Self { by_reference: HashMap::new(), by_number: HashMap::new(), patients: HashMap::new() };
        // Those that are left out last: where a name means one of them too, nobody may be taken for it.
        let (left_out, kept): (Vec<_>, Vec<_>) = bundle.entries.iter().partition(|entry| skip.contains(&entry.index));
        let kept = kept.into_iter().map(|entry| (entry, false));
        for (entry, is_rejected) in kept.chain(left_out.into_iter().map(|entry| (entry, true))) {
            let Some(resource) = &entry.resource else { continue };
            let is_patient = resource.resource_type == "Patient";
            if is_rejected && !is_patient {
                continue;
            }
            let target = if is_patient { Target::Patient(entry.index) } else { Target::Other };
            let full_url = entry.full_url.as_deref().map(str::to_owned);
            let relative = resource.id.as_deref().map(|id| format!("{}/{id}", resource.resource_type));
            for reference in full_url.into_iter().chain(relative) {
                directory.by_reference.insert(reference, target);
            }
            if is_patient {
                let numbers = patient_mrns(&resource.object, rules);
                for number in &numbers {
                    directory.by_number.entry(number.clone()).or_default().insert(entry.index);
                }
                let references = references_to(resource, entry.full_url.as_deref());
                directory.patients.insert(entry.index, Listed { references, numbers, is_rejected });
            }
        }
        directory
    }

    /// Whom the resource of an entry is about.
    #[must_use]
    pub fn subject_of(&self, entry: &Entry<'_>, rules: &MrnRules) -> Subject {
        let Some(resource) = &entry.resource else { return Subject::Nobody };
        // `subject` is also a CodeableConcept or a canonical in definitional resources: those have no `reference`.
        let member = ["subject", "patient", "beneficiary", "for"].iter().find_map(|name| resource.object.object(name));
        let Some(subject) = member else { return Subject::Nobody };
        let text = subject.owned("reference");
        let mut outside = Outside::default();
        if let Some(identifier) = subject.object("identifier") {
            match declared(&identifier) {
                // The type is rarely written here. A number that is no MRN meets nobody: only MRNs are ever looked up.
                Declared::Mrn | Declared::Untyped => outside.mrns.extend(rules.read(&identifier)),
                Declared::Temporary => outside.temporary.extend(rules.read(&identifier)),
                Declared::Other => {}
            }
        }
        let mut within = None;
        if let Some(text) = text {
            if let Some(fragment) = text.strip_prefix('#') {
                match contained(&resource.object, fragment) {
                    Some(patient) if patient.string("resourceType").as_deref() == Some("Patient") => {
                        outside.mrns.extend(patient_mrns(&patient, rules));
                        outside.temporary.extend(temporary_numbers(&patient, rules));
                        let has_number = !outside.mrns.is_empty() || !outside.temporary.is_empty();
                        let says = Demographics::of(&patient);
                        outside.says = (has_number && says.can_contradict()).then(|| Box::new(says));
                    }
                    Some(_) => return Subject::Nobody,
                    None => {}
                }
            } else if let Some(numbers) = conditional(&text, rules) {
                outside.mrns.extend(numbers);
            } else {
                match self.by_reference.get(plain(&text)) {
                    Some(Target::Patient(entry)) => within = Some((*entry, text)),
                    Some(Target::Other) => return Subject::Nobody,
                    None => outside.references.extend(Reference::parse(&text)),
                }
            }
        }
        self.settle(within, outside)
    }

    /// Bring what the reference says together with the Patients of the Bundle: by the reference, and by the numbers.
    fn settle(&self, within: Option<(u32, String)>, mut outside: Outside) -> Subject {
        let mut entries: BTreeSet<u32> =
            outside.mrns.iter().filter_map(|number| self.by_number.get(number)).flatten().copied().collect();
        let is_plain = outside.references.is_empty() && outside.temporary.is_empty() && outside.says.is_none();
        let mut only = None;
        if let Some((entry, text)) = within {
            entries.insert(entry);
            let listed = self.patients.get(&entry);
            if listed.is_some_and(|listed| outside.mrns.is_subset(&listed.numbers)) {
                only = Some(entry);
            } else if let Some(listed) = listed.filter(|listed| listed.references.is_empty()) {
                // It can only be named by its numbers.
                outside.mrns.extend(listed.numbers.iter().cloned());
            }
            if listed.is_some_and(|listed| listed.is_rejected && listed.references.is_empty()) && text.len() <= 500 {
                outside.references.insert(Reference::Absolute(text));
            }
        } else if is_plain && entries.len() == 1 {
            // By its references too, so that it stays the same subject as in a Bundle without the Patient.
            let unnamed = |entry: &u32| self.patients.get(entry).is_some_and(|listed| listed.references.is_empty());
            only = entries.first().copied().filter(unnamed);
        }
        if let Some(entry) = only.filter(|entry| self.patients.get(entry).is_some_and(|listed| !listed.is_rejected)) {
            return Subject::Entry(entry);
        }
        for listed in entries.iter().filter_map(|entry| self.patients.get(entry)) {
            outside.references.extend(listed.references.iter().cloned());
            outside.is_rejected |= listed.is_rejected;
        }
        if outside == Outside::default() { Subject::Nobody } else { Subject::Outside(outside) }
    }
}

fn contained<'a>(resource: &Object<'a>, id: &str) -> Option<Object<'a>> {
    resource.objects("contained").into_iter().find(|object| object.string("id").as_deref() == Some(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::fhir::node::Node;
    use crate::ingest::fhir::split;
    use serde_json::{Value, json};

    fn mrns(identifiers: &Value, systems: &[&str]) -> Vec<String> {
        let body = json!({ "identifier": identifiers }).to_string();
        let patient = Node::parse(body.as_bytes()).unwrap().object().unwrap();
        let systems: Vec<String> = systems.iter().map(|system| (*system).to_owned()).collect();
        let rules = MrnRules { systems, ..MrnRules::default() };
        patient_mrns(&patient, &rules).iter().map(Mrn::key).collect()
    }

    fn typed(code: &str, value: &str) -> Value {
        json!({"type": {"coding": [{"system": IDENTIFIER_TYPES, "code": code}]}, "system": "urn:s", "value": value})
    }

    #[test]
    fn only_medical_record_numbers_count() {
        assert_eq!(mrns(&json!([typed("MR", " 00123 ")]), &[]), ["mrn:urn:s|00123"]);
        for code in ["SS", "AN", "VN", "DL"] {
            assert!(mrns(&json!([typed(code, "123")]), &["urn:s"]).is_empty(), "{code}");
        }
        let untyped = json!([{"system": "urn:h", "value": "7"}, {"system": "urn:other", "value": "8"}, {"value": "9"}]);
        assert_eq!(mrns(&untyped, &["urn:h"]), ["mrn:urn:h|7"]);
        assert!(
            mrns(&json!([{"type": {"coding": [{"code": "MR"}]}, "value": "9"}]), &[]).is_empty(),
            "no system, no key"
        );
    }

    #[test]
    fn placeholders_are_nobodys_number() {
        for value in ["0", "000000", "UNKNOWN", "Test", "", " ", "n/a", "XXX", "---"] {
            assert!(mrns(&json!([typed("MR", value)]), &[]).is_empty(), "{value:?}");
        }
        assert_eq!(mrns(&json!([typed("MR", "0100")]), &[]), ["mrn:urn:s|0100"]);
        assert_eq!(mrns(&json!([typed("MR", "7777")]), &[]), ["mrn:urn:s|7777"]);
    }

    #[test]
    fn numbers_are_normalized_as_the_organization_says() {
        let read = |value: &str, rules: &MrnRules| {
            let body = json!({ "identifier": [typed("MR", value)] }).to_string();
            let patient = Node::parse(body.as_bytes()).unwrap().object().unwrap();
            patient_mrns(&patient, rules).first().map(|mrn| mrn.value.clone())
        };
        let plain = MrnRules::default();
        let folded = MrnRules { folded_systems: vec!["urn:s".to_owned()], ..MrnRules::default() };
        let refusing =
            MrnRules { placeholders: vec!["123456".to_owned(), "Walk-In".to_owned()], ..MrnRules::default() };
        for (value, rules, expected) in [
            (" Ab-01 2 ", &plain, Some("Ab-01 2")),
            // Full-width digits are digits (NFKC).
            ("\u{ff10}\u{ff11}7", &plain, Some("017")),
            (" Ab-01 2 ", &folded, Some("ab012")),
            ("0-0", &folded, None),
            ("123456", &plain, Some("123456")),
            ("123456", &refusing, None),
            ("walk-in", &refusing, None),
        ] {
            assert_eq!(read(value, rules).as_deref(), expected, "{value:?}");
        }
    }

    #[test]
    fn retired_and_temporary_numbers_are_no_numbers() {
        let accepted_at = time::macros::datetime!(2026-06-15 12:00 UTC);
        let rules = MrnRules { accepted_at: Some(accepted_at), ..MrnRules::default() };
        let read = |more: Value| {
            let mut identifier = typed("MR", "7");
            identifier.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let body = json!({ "identifier": [identifier, typed("MRT", "8")] }).to_string();
            let patient = Node::parse(body.as_bytes()).unwrap().object().unwrap();
            assert_eq!(temporary_numbers(&patient, &rules).len(), 1);
            patient_mrns(&patient, &rules).len()
        };
        assert_eq!(read(json!({})), 1);
        assert_eq!(read(json!({"use": "old"})), 0);
        for (end, expected) in [
            ("2025", 0),
            ("2026", 1),
            ("2026-05", 0),
            ("2026-06-14", 0),
            ("2026-06-15", 1),
            ("2026-06-15T11:59:59Z", 0),
            ("2026-06-15T12:00:01Z", 1),
            ("someday", 1),
        ] {
            assert_eq!(read(json!({"period": {"end": end}})), expected, "{end}");
        }
    }

    fn subject(subject: &Value, contained: &Value) -> Subject {
        let patient = json!({"resourceType": "Patient", "id": "p1"});
        let condition = json!({"resourceType": "Condition", "subject": subject, "contained": contained});
        let body = json!({"resourceType": "Bundle", "type": "batch", "entry": [
            {"fullUrl": "urn:uuid:u1", "resource": patient},
            {"fullUrl": "http://h/fhir/Group/g", "resource": {"resourceType": "Group", "id": "g"}},
            {"resource": condition},
        ]})
        .to_string();
        let bundle = split::split(body.as_bytes()).unwrap();
        let directory = Directory::new(&bundle, &BTreeSet::new(), &MrnRules::default());
        directory.subject_of(&bundle.entries[2], &MrnRules::default())
    }

    fn reference(text: &str) -> Subject {
        subject(&json!({"reference": text}), &json!([]))
    }

    #[test]
    fn a_subject_within_the_bundle_is_found_by_url_and_by_id() {
        for text in ["urn:uuid:u1", "Patient/p1", "Patient/p1/_history/2", "/Patient/p1", "./Patient/p1"] {
            assert_eq!(reference(text), Subject::Entry(0), "{text}");
        }
        assert_eq!(reference("Group/g"), Subject::Nobody);
        assert_eq!(reference("http://h/fhir/Group/g"), Subject::Nobody);
    }

    #[test]
    fn a_subject_outside_the_bundle_has_a_key() {
        let key = |subject: Subject| match subject {
            Subject::Outside(outside) => outside.keys("lab").remove(0),
            other => panic!("{other:?}"),
        };
        assert_eq!(key(reference("Patient/p2")), "ref:lab|Patient/p2");
        assert_eq!(key(reference("urn:uuid:p2")), "ref:lab|Patient/p2");
        assert_eq!(key(reference("http://h/fhir/Patient/p2/_history/1")), "ref:lab|http://h/fhir/Patient/p2");
        assert_eq!(key(reference("Patient?identifier=urn%3As%7C007")), "mrn:urn:s|007");
        assert_eq!(key(reference("http://h/fhir/Patient?identifier=urn:s|007")), "mrn:urn:s|007");
        let identifier = json!({"reference": "Patient/p2", "identifier": {"system": "urn:s", "value": "007"}});
        assert_eq!(key(subject(&identifier, &json!([]))), "mrn:urn:s|007");
        let contained = json!([{"resourceType": "Patient", "id": "c", "identifier": [typed("MR", "9")]}]);
        assert_eq!(key(subject(&json!({"reference": "#c"}), &contained)), "mrn:urn:s|9");
    }

    #[test]
    fn keys_of_different_numbers_differ() {
        let mrn = |system: &str, value: &str| Mrn { system: system.to_owned(), value: value.to_owned() }.key();
        assert_ne!(mrn("a|b", "c"), mrn("a", "b|c"));
        assert_ne!(mrn("a%7Cb", "c"), mrn("a|b", "c"));
        for (system, value) in [("urn:a|b%7C", "1|2"), ("", ""), ("%25", "%")] {
            let mrn = Mrn { system: system.to_owned(), value: value.to_owned() };
            assert!(Mrn::of_key(&mrn.key()) == Some(mrn));
        }
        assert!(Mrn::of_key("ref:a|Patient/b").is_none());
    }

    #[test]
    fn what_names_nobody_is_nobody() {
        assert_eq!(reference("Device/d"), Subject::Nobody);
        assert_eq!(reference("#nowhere"), Subject::Nobody);
        assert_eq!(subject(&json!({"display": "Amy"}), &json!([])), Subject::Nobody);
        let ssn = json!({"identifier": typed("SS", "123-45-6789")});
        assert_eq!(subject(&ssn, &json!([])), Subject::Nobody);
    }
}
