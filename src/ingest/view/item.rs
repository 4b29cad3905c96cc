//! The shape of an item: one resource, with its components inside and the evidence of each statement.
//!
//! JSON of a payload goes into the answer as it was written, unread: a dose of `1.20` stays `1.20`.

use super::store::{EventRow, EvidenceRow, FindingRow, MedicationRow};
use crate::ids::{EventId, FindingId};
use crate::ingest::findings::shown::{Coding, Shown, ShownEvidence, Statement, of_event};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// RFC 3339 in UTC.
pub fn timestamp(at: OffsetDateTime) -> Option<String> {
    at.to_offset(time::UtcOffset::UTC).format(&Rfc3339).ok()
}

/// A resource in the view: what is known of the resource, the members of its own finding, and its components.
pub struct Item {
    head: Head,
    /// A JSON object whose members follow those of the head.
    shown: String,
}

#[derive(Serialize)]
struct Head {
    event_id: EventId,
    /// Of a part of an Athena event: its own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    part_id: Option<EventId>,
    resource_type: String,
    resource_id: Option<String>,
    status: Option<String>,
    is_current: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded_by: Option<EventId>,
    source: String,
    last_updated: Option<String>,
    received_at: Option<String>,
    resource: Bytes,
}

impl Item {
    /// So many bytes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        self.shown.len() + 512
    }

    /// Write it as JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        if serde_json::to_writer(&mut *out, &self.head).is_ok() && out.last() == Some(&b'}') {
            out.pop();
        }
        out.push(b',');
        out.extend_from_slice(self.shown.strip_prefix('{').unwrap_or_default().as_bytes());
    }
}

/// Where a resource stands.
#[derive(Serialize)]
struct Bytes {
    sha256: String,
    start: i64,
    end: i64,
    pointer: Option<String>,
}

/// What is shown of events beside which it does not stand.
pub struct Parts {
    /// Their findings.
    pub findings: Vec<FindingRow>,
    /// The evidence of those.
    pub evidence: Vec<EvidenceRow>,
    /// What `Medication/id` of a source means.
    pub medications: HashMap<(String, String), MedicationRow>,
}

/// The items of each category, in the order of the events.
pub fn by_category(events: Vec<EventRow>, parts: Parts) -> BTreeMap<&'static str, Vec<Item>> {
    let Parts { findings, evidence, medications } = parts;
    let mut evidence_of: HashMap<FindingId, Vec<EvidenceRow>> = HashMap::with_capacity(evidence.len());
    for row in evidence {
        evidence_of.entry(row.finding_id).or_default().push(row);
    }
    let mut findings_of: HashMap<EventId, Vec<FindingRow>> = HashMap::new();
    for finding in findings {
        findings_of.entry(finding.event_id).or_default().push(finding);
    }
    let mut categories: BTreeMap<&'static str, Vec<Item>> = BTreeMap::new();
    for mut event in events {
        let shown = event.shown.take().unwrap_or_else(|| {
            let findings = findings_of.remove(&event.position.id).unwrap_or_default();
            made(findings, &event.source_label, &mut evidence_of, &medications)
        });
        categories.entry(event.category).or_default().push(Item { head: head(event), shown });
    }
    categories
}

/// What is shown of an event, from its findings' columns and the rows of their evidence.
fn made(
    mut findings: Vec<FindingRow>,
    source: &str,
    evidence_of: &mut HashMap<FindingId, Vec<EvidenceRow>>,
    medications: &HashMap<(String, String), MedicationRow>,
) -> String {
    // Two programs of different versions may have extracted an event at the same instant: the newer one is believed.
    let newest = findings.iter().map(|finding| finding.extractor_version).max();
    findings.retain(|finding| Some(finding.extractor_version) == newest);
    let mut texts = Vec::with_capacity(findings.len());
    for finding in &mut findings {
        let mut evidence = evidence_of.remove(&finding.id).unwrap_or_default();
        if let Some(medication) = finding.medication(source).and_then(|key| medications.get(&key)) {
            finding.name_by(medication);
            evidence.extend(medication.evidence.iter().cloned());
        }
        texts.push(text(finding, &evidence));
    }
    let statements = findings.iter().zip(texts).map(|(finding, json)| Statement {
        ordinal: finding.ordinal,
        json,
        panel: finding.component_of.as_deref().map(|concept| concept.get()),
        effective: finding.effective_text.as_deref(),
    });
    of_event(&statements.collect::<Vec<_>>())
}

/// A finding as JSON, from its columns and the rows of its evidence.
fn text(finding: &FindingRow, evidence: &[EvidenceRow]) -> String {
    let hashes: Vec<String> = evidence.iter().map(|row| hex::encode(&row.payload_sha256)).collect();
    let evidence = evidence.iter().zip(&hashes).map(|(row, sha256)| ShownEvidence {
        sha256,
        start: row.byte_start,
        end: row.byte_end,
        pointer: &row.pointer,
        fhirpath: &row.fhirpath,
    });
    of_row(finding, evidence.collect()).json().unwrap_or_else(|| "{}".to_owned())
}

fn head(event: EventRow) -> Head {
    Head {
        event_id: event.part_of.unwrap_or(event.position.id),
        part_id: event.part_of.map(|_| event.position.id),
        resource_type: event.resource_type,
        resource_id: resource_id(event.resource_key, event.part_of.is_some()),
        status: event.status,
        is_current: event.is_current,
        superseded_by: event.superseded_by,
        source: event.source_label,
        last_updated: event.last_updated.and_then(timestamp),
        received_at: timestamp(event.created_at),
        resource: Bytes {
            sha256: hex::encode(&event.payload_sha256),
            start: event.byte_start,
            end: event.byte_end,
            pointer: event.pointer.or_else(|| event.entry.map(|entry| format!("/entry/{entry}/resource"))),
        },
    }
}

/// What the sender calls it. Without an id of its own it has a key that only means something inside; the key of a part
/// begins with the patient's id.
fn resource_id(mut key: String, is_part: bool) -> Option<String> {
    if key.starts_with('#') {
        return None;
    }
    if is_part && let Some(end) = key.find('|') {
        key.drain(..=end);
    }
    // Of an event that a person placed, too.
    if key.starts_with('#') {
        return None;
    }
    Some(key)
}

/// A finding that is stored, with its evidence.
fn of_row<'f>(finding: &'f FindingRow, evidence: Vec<ShownEvidence<'f>>) -> Shown<'f> {
    let (code, display) = (finding.code.as_deref(), finding.display.as_deref());
    Shown {
        finding_id: finding.id,
        category: &finding.category,
        kind: &finding.kind,
        name: finding.code_text.as_deref().or(display).or(code),
        code: code.map(|code| Coding { system: finding.code_system.as_deref(), code, display }),
        codings: &finding.codings,
        value: finding.value_text.as_deref(),
        unit: finding.unit.as_deref(),
        effective: finding.effective_text.as_deref(),
        negated: finding.negated,
        value_type: finding.value_type.as_deref(),
        value_detail: finding.value_code.as_deref().map(|json| &**json),
        comparator: finding.comparator.as_deref(),
        ucum: finding.ucum.as_deref(),
        reference_range: finding.reference_range.as_deref().map(|json| &**json),
        interpretation: finding.interpretation.as_deref(),
        interpretation_source: finding.interpretation_source.as_deref(),
        clinical_status: finding.clinical_status.as_deref(),
        verification_status: finding.verification_status.as_deref(),
        severity: finding.severity.as_deref(),
        criticality: finding.criticality.as_deref(),
        body_site: finding.body_site.as_deref().map(|json| &**json),
        laterality: finding.laterality.as_deref(),
        effective_end: finding.effective_end_text.as_deref(),
        effective_precision: finding.effective_precision.as_deref(),
        issued: finding.issued.as_deref(),
        performer: finding.performer.as_deref().map(|json| &**json),
        encounter: finding.encounter_reference.as_deref(),
        dosage: finding.dosage.as_deref().map(|json| &**json),
        reactions: finding.reactions.as_deref().map(|json| &**json),
        medication_reference: finding.medication_reference.as_deref(),
        details: finding.details.as_deref().map(|json| &**json),
        evidence,
    }
}

impl FindingRow {
    /// The medication that it speaks of and does not name itself: source and id.
    pub fn medication(&self, source: &str) -> Option<(String, String)> {
        let id = self.medication_reference.as_deref()?.strip_prefix("Medication/")?;
        Some((source.to_owned(), id.to_owned()))
    }

    fn name_by(&mut self, medication: &MedicationRow) {
        self.code_system.clone_from(&medication.code_system);
        self.code.clone_from(&medication.code);
        self.display.clone_from(&medication.display);
        self.codings = medication.codings.clone();
        // What the resource itself says to people stays if the medication has no text.
        if medication.code_text.is_some() {
            self.code_text.clone_from(&medication.code_text);
        }
    }
}
