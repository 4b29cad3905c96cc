//! The shape of an item: one resource, with its components inside and the evidence of each statement.
//!
//! JSON of a payload goes into the answer as it was written, unread: a dose of `1.20` stays `1.20`.

use super::CATEGORIES;
use super::store::{EventRow, EvidenceRow, FindingRow, MedicationRow, Raw, ShownRow};
use crate::ids::{EventId, FindingId};
use crate::ingest::findings::shown::{Coding, Shown, ShownEvidence};
use serde::Serialize;
use serde_json::Value;
use sqlx::types::Json;
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
    /// A JSON object.
    own: Option<String>,
    /// JSON objects.
    components: Vec<String>,
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
    #[serde(flatten)]
    panel: Option<Panel>,
}

impl Item {
    /// Write it as JSON. The statements are JSON already: their members follow those of the head.
    pub fn write(&self, out: &mut String) {
        let head = serde_json::to_string(&self.head).unwrap_or_default();
        out.push_str(head.strip_suffix('}').unwrap_or_default());
        if let Some(own) = &self.own {
            out.push(',');
            out.push_str(own.strip_prefix('{').and_then(|own| own.strip_suffix('}')).unwrap_or_default());
        }
        out.push_str(",\"components\":[");
        for (index, component) in self.components.iter().enumerate() {
            out.push_str(if index == 0 { "" } else { "," });
            out.push_str(component);
        }
        out.push_str("]}");
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

/// A panel without a value of its own has a name all the same.
#[derive(Serialize)]
struct Panel {
    name: Option<String>,
    code: Value,
    effective: Option<String>,
}

/// What the items of an answer are made of.
pub struct Parts {
    /// Every finding, as it was written to be shown.
    pub written: Vec<ShownRow>,
    /// The findings of events of which one was not, or speaks of a medication that others name.
    pub findings: Vec<FindingRow>,
    /// The evidence of those.
    pub evidence: Vec<EvidenceRow>,
    /// What `Medication/id` of a source means.
    pub medications: HashMap<(String, String), MedicationRow>,
}

/// A finding in its place.
struct Statement {
    ordinal: i32,
    extractor_version: i32,
    /// A JSON object.
    json: String,
    panel: Option<Json<Raw>>,
    effective: Option<String>,
}

/// The items of each category, in the order of the events.
pub fn by_category(events: Vec<EventRow>, parts: Parts) -> BTreeMap<&'static str, Vec<Item>> {
    let Parts { written, findings, evidence, medications } = parts;
    let mut evidence_of: HashMap<FindingId, Vec<EvidenceRow>> = HashMap::with_capacity(evidence.len());
    for row in evidence {
        evidence_of.entry(row.finding_id).or_default().push(row);
    }
    let mut by_event: HashMap<EventId, Vec<Statement>> = HashMap::with_capacity(events.len());
    let mut to_be_made: HashMap<EventId, Vec<FindingRow>> = HashMap::new();
    for finding in findings {
        to_be_made.entry(finding.event_id).or_default().push(finding);
    }
    for row in written.into_iter().filter(|row| !to_be_made.contains_key(&row.event_id)) {
        let Some(json) = row.shown else { continue };
        let ShownRow { event_id, ordinal, extractor_version, component_of: panel, effective_text: effective, .. } = row;
        let statement = Statement { ordinal, extractor_version, json, panel, effective };
        by_event.entry(event_id).or_default().push(statement);
    }
    let mut categories: BTreeMap<&'static str, Vec<Item>> = BTreeMap::new();
    for event in events {
        let Some(category) = CATEGORIES.into_iter().find(|category| *category == event.category) else { continue };
        let made = to_be_made.remove(&event.position.id).into_iter().flatten().map(|mut finding| {
            let mut evidence = evidence_of.remove(&finding.id).unwrap_or_default();
            if let Some(medication) = finding.medication(&event.source_label).and_then(|key| medications.get(&key)) {
                finding.name_by(medication);
                evidence.extend(medication.evidence.iter().cloned());
            }
            made(finding, &evidence)
        });
        let mut statements: Vec<Statement> = made.collect();
        statements.extend(by_event.remove(&event.position.id).into_iter().flatten());
        // Two programs of different versions may have extracted an event at the same instant: the newer one is believed.
        let newest = statements.iter().map(|statement| statement.extractor_version).max();
        statements.retain(|statement| Some(statement.extractor_version) == newest);
        categories.entry(category).or_default().push(item(event, statements));
    }
    categories
}

/// A finding, from its columns and the rows of its evidence.
fn made(finding: FindingRow, evidence: &[EvidenceRow]) -> Statement {
    let hashes: Vec<String> = evidence.iter().map(|row| hex::encode(&row.payload_sha256)).collect();
    let evidence = evidence.iter().zip(&hashes).map(|(row, sha256)| ShownEvidence {
        sha256,
        start: row.byte_start,
        end: row.byte_end,
        pointer: &row.pointer,
        fhirpath: &row.fhirpath,
    });
    let json = of_row(&finding, evidence.collect()).json().unwrap_or_else(|| "{}".to_owned());
    let FindingRow { ordinal, extractor_version, component_of: panel, effective_text: effective, .. } = finding;
    Statement { ordinal, extractor_version, json, panel, effective }
}

fn item(event: EventRow, statements: Vec<Statement>) -> Item {
    let (mut own, mut components, mut panel) = (None, Vec::new(), None);
    for statement in statements {
        if statement.ordinal == 0 {
            own = Some(statement.json);
        } else {
            if panel.is_none() {
                panel = statement.panel.as_ref().and_then(|concept| self::panel(concept, statement.effective.clone()));
            }
            components.push(statement.json);
        }
    }
    let head = Head {
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
        panel: panel.filter(|_| own.is_none()),
    };
    Item { head, own, components }
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

fn panel(concept: &Raw, effective: Option<String>) -> Option<Panel> {
    let concept: Value = serde_json::from_str(concept.get()).ok()?;
    let coding = &concept["coding"][0];
    let name = [&concept["text"], &coding["display"], &coding["code"]].into_iter().find_map(Value::as_str);
    Some(Panel { name: name.map(str::to_owned), code: coding.clone(), effective })
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
