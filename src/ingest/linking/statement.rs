//! Statements: what Patient resources say of persons, and the keys by which they are found.

use super::fold::{Placement, Said};
use crate::ids::{EventId, PatientId, StatementId};
use crate::ingest::demographics::{Demographics, fold};
use crate::ingest::events::LinkStatus;
use crate::ingest::subject::{Mrn, encode};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// A statement, stored or about to be.
#[derive(Clone)]
pub struct Statement {
    /// What is folded.
    pub said: Said,
    /// The sender's label.
    pub source: String,
    /// The resource's id; empty without one; `#…` of a resource with neither id nor number.
    pub resource_key: String,
    /// The event that brought it first.
    pub event: EventId,
    /// How others speak of the resource, beside its identity.
    pub aliases: BTreeSet<String>,
    /// As they are compared.
    pub postal_codes: Vec<String>,
    /// As they are compared.
    pub phones: Vec<String>,
    /// As stored; of a new one `pending`.
    pub status: LinkStatus,
    /// By which method.
    pub method: String,
    /// Not stored yet.
    pub is_new: bool,
}

/// Why a key is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    /// A number: joins.
    Mrn,
    /// The resource's id within its source: joins.
    Identity,
    /// Another way to speak of the resource.
    Alias,
    /// The identity of another Patient, of which this one says that it is the same.
    Link,
}

impl KeyKind {
    /// The word in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mrn => "mrn",
            Self::Identity => "identity",
            Self::Alias => "alias",
            Self::Link => "link",
        }
    }
}

impl Statement {
    /// All its keys.
    pub fn keys(&self) -> BTreeSet<(String, KeyKind)> {
        let said = &self.said;
        let mut keys: BTreeSet<(String, KeyKind)> = said.numbers.iter().map(|mrn| (mrn.key(), KeyKind::Mrn)).collect();
        keys.extend(said.identity.iter().map(|key| (key.clone(), KeyKind::Identity)));
        if keys.is_empty() {
            // With neither number nor id it is found by its place only, when it is processed again.
            keys.insert((format!("own:{}|{}", encode(&self.source), self.resource_key), KeyKind::Identity));
        }
        keys.extend(self.aliases.iter().map(|key| (key.clone(), KeyKind::Alias)));
        keys.extend(said.replaces.iter().chain(&said.replaced_by).map(|key| (key.clone(), KeyKind::Link)));
        keys
    }

    /// The keys that join statements to a cluster.
    pub fn joining_keys(&self) -> impl Iterator<Item = String> {
        self.keys().into_iter().filter(|(_, kind)| *kind != KeyKind::Alias).map(|(key, _)| key)
    }

    /// The keys that events may name it by.
    pub fn named_by(&self) -> impl Iterator<Item = String> {
        self.keys().into_iter().filter(|(_, kind)| *kind != KeyKind::Link).map(|(key, _)| key)
    }

    /// What must be locked by who moves it. A number's value also by itself: two new patients with the same one in
    /// different systems see each other.
    pub fn lock_keys(&self) -> impl Iterator<Item = String> {
        let own = format!("statement:{}", self.said.id);
        let values: Vec<String> = self.said.numbers.iter().map(|mrn| format!("value:{}", mrn.value)).collect();
        self.keys().into_iter().map(|(key, _)| key).chain(values).chain([own])
    }

    /// Do both come from the same resource and say the same?
    pub fn is_same(&self, other: &Self) -> bool {
        self.source == other.source
            && self.resource_key == other.resource_key
            && self.said.fingerprint == other.said.fingerprint
    }

    /// Take over by what other names the same statement goes, and where it was accepted first. True if that says more.
    pub fn absorb(&mut self, other: &Self) -> bool {
        let before = (self.aliases.len(), self.said.replaces.len(), self.said.replaced_by.len(), self.said.place);
        self.aliases.extend(other.aliases.iter().cloned());
        self.said.replaces.extend(other.said.replaces.iter().cloned());
        self.said.replaced_by.extend(other.said.replaced_by.iter().cloned());
        self.said.place = self.said.place.min(other.said.place);
        before != (self.aliases.len(), self.said.replaces.len(), self.said.replaced_by.len(), self.said.place)
    }

    /// The patient, as stored.
    pub fn patient(&self) -> Option<PatientId> {
        self.status.patient()
    }
}

/// The fingerprint of what identifies: numbers, names, birth date, gender. Without a number also the resource, since names
/// alone are not enough to take two resources for the same.
pub fn fingerprint(numbers: &BTreeSet<Mrn>, person: &Demographics, source: &str, resource_key: &str) -> Vec<u8> {
    let keys: Vec<String> = numbers.iter().map(Mrn::key).collect();
    let given: BTreeSet<String> = person.given.iter().map(|name| fold(name)).collect();
    let resource = keys.is_empty().then_some((source, resource_key));
    let what = json!([keys, resource, person.family.as_deref().map(fold), given, person.birth_date, person.gender]);
    Sha256::digest(what.to_string()).to_vec()
}

/// The fingerprint of the keys of an event whose number and reference disagree.
pub fn keys_fingerprint(keys: &BTreeSet<String>) -> Vec<u8> {
    Sha256::digest(json!(["keys", keys]).to_string()).to_vec()
}

/// The status that a placement is stored as.
pub fn status_of(placement: Placement, patients: &[PatientId]) -> (LinkStatus, &'static str) {
    match placement {
        Placement::Linked(group, method) => {
            patients.get(group).map_or((LinkStatus::Pending, method), |patient| (LinkStatus::Linked(*patient), method))
        }
        Placement::Pending => (LinkStatus::Pending, "no_identity"),
        Placement::Review(reason) => (LinkStatus::Review, reason),
        Placement::Rejected => (LinkStatus::None, "decision"),
    }
}

/// An id for a statement that is about to be folded.
pub fn new_id() -> StatementId {
    StatementId::new()
}
