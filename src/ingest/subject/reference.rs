//! References to Patients: as they are written, and as they are compared.

use super::mrn::{Mrn, MrnRules, encode};
use crate::ingest::fhir::node::Object;
use crate::ingest::fhir::split::Resource;
use std::collections::BTreeSet;

/// A reference to a Patient.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// `Patient/{id}`, meant within the source.
    Local(String),
    /// An absolute URL.
    Absolute(String),
}

impl Reference {
    /// The reference of a text. A `urn:uuid:` is unique in the world, so it also means the Patient of that id.
    pub(super) fn parse(text: &str) -> Option<Self> {
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
pub(super) fn plain(text: &str) -> &str {
    let text = text.split("/_history/").next().unwrap_or_default().trim();
    text.strip_prefix("./").or_else(|| text.strip_prefix('/')).unwrap_or(text)
}

/// The numbers of a conditional reference, `Patient?identifier=system|value`.
pub(super) fn conditional(text: &str, rules: &MrnRules) -> Option<BTreeSet<Mrn>> {
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
