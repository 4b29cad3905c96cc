//! The shape of an item: one resource, with its components inside and the evidence of each statement.
//!
//! JSON of a payload goes into the answer as it was written, unread: a dose of `1.20` stays `1.20`.

use super::CATEGORIES;
use super::store::{EventRow, EvidenceRow, FindingRow, MedicationRow, Raw};
use crate::ids::{EventId, FindingId};
use crate::ingest::findings::store::ShownEvidence;
use serde::ser::{Error as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// RFC 3339 in UTC.
pub fn timestamp(at: OffsetDateTime) -> Option<String> {
    at.to_offset(time::UtcOffset::UTC).format(&Rfc3339).ok()
}

/// A resource in the view.
#[derive(Serialize)]
pub struct Item {
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
    statement: Option<Statement>,
    #[serde(flatten)]
    panel: Option<Panel>,
    components: Vec<Statement>,
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

/// Where a statement stands: as it was written beside it, and what was looked up.
struct Evidence {
    written: Option<Raw>,
    looked_up: Vec<EvidenceRow>,
}

impl Serialize for Evidence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.written {
            Some(written) if self.looked_up.is_empty() => written.serialize(serializer),
            written => {
                let text = written.as_ref().map_or("[]", |written| written.get());
                let first: Vec<&RawValue> = serde_json::from_str(text).map_err(S::Error::custom)?;
                let mut list = serializer.serialize_seq(Some(first.len() + self.looked_up.len()))?;
                for one in first {
                    list.serialize_element(one)?;
                }
                for row in &self.looked_up {
                    list.serialize_element(&ShownEvidence {
                        sha256: &hex::encode(&row.payload_sha256),
                        start: row.byte_start,
                        end: row.byte_end,
                        pointer: &row.pointer,
                        fhirpath: &row.fhirpath,
                    })?;
                }
                list.end()
            }
        }
    }
}

#[derive(Serialize)]
struct Coding {
    system: Option<String>,
    code: Option<String>,
    display: Option<String>,
}

/// A finding. What is not said is not shown, except what every statement has.
#[derive(Serialize)]
struct Statement {
    finding_id: FindingId,
    category: String,
    kind: String,
    name: Option<String>,
    code: Option<Coding>,
    codings: Raw,
    value: Option<String>,
    unit: Option<String>,
    effective: Option<String>,
    negated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_detail: Option<Raw>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparator: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ucum: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference_range: Option<Raw>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interpretation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interpretation_source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clinical_status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification_status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    criticality: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_site: Option<Raw>,
    #[serde(skip_serializing_if = "Option::is_none")]
    laterality: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_precision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    performer: Option<Raw>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encounter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dosage: Option<Raw>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reactions: Option<Raw>,
    #[serde(skip_serializing_if = "Option::is_none")]
    medication_reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Raw>,
    evidence: Evidence,
}

/// What the items of an answer are made of.
pub struct Parts {
    pub findings: Vec<FindingRow>,
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
    let mut by_event: HashMap<EventId, Vec<FindingRow>> = HashMap::with_capacity(events.len());
    for finding in findings {
        by_event.entry(finding.event_id).or_default().push(finding);
    }
    let mut categories: BTreeMap<&'static str, Vec<Item>> = BTreeMap::new();
    for event in events {
        let Some(category) = CATEGORIES.into_iter().find(|category| *category == event.category) else { continue };
        let findings = newest_extraction(by_event.remove(&event.position.id).unwrap_or_default());
        let statement = |mut finding: FindingRow| {
            let written = finding.shown_evidence.take().map(|json| json.0);
            let mut evidence = Evidence { written, looked_up: evidence_of.remove(&finding.id).unwrap_or_default() };
            if let Some(medication) = finding.medication(&event.source_label).and_then(|key| medications.get(&key)) {
                finding.name_by(medication);
                evidence.looked_up.extend(medication.evidence.iter().cloned());
            }
            (finding, evidence)
        };
        let statements: Vec<_> = findings.into_iter().map(statement).collect();
        let item = item(event, statements);
        categories.entry(category).or_default().push(item);
    }
    categories
}

/// Two programs of different versions may have extracted an event at the same instant: the newer one is believed.
fn newest_extraction(mut findings: Vec<FindingRow>) -> Vec<FindingRow> {
    let newest = findings.iter().map(|finding| finding.extractor_version).max();
    findings.retain(|finding| Some(finding.extractor_version) == newest);
    findings
}

fn item(event: EventRow, statements: Vec<(FindingRow, Evidence)>) -> Item {
    let (mut own, mut components, mut panel) = (None, Vec::new(), None);
    for (finding, evidence) in statements {
        if finding.ordinal == 0 {
            own = Some(statement(finding, evidence));
        } else {
            if panel.is_none() {
                panel = finding.component_of.as_ref().and_then(|concept| self::panel(concept, &finding));
            }
            components.push(statement(finding, evidence));
        }
    }
    Item {
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
        statement: own,
        components,
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
    Some(key)
}

fn panel(concept: &Raw, component: &FindingRow) -> Option<Panel> {
    let concept: Value = serde_json::from_str(concept.get()).ok()?;
    let coding = &concept["coding"][0];
    let name = [&concept["text"], &coding["display"], &coding["code"]].into_iter().find_map(Value::as_str);
    Some(Panel { name: name.map(str::to_owned), code: coding.clone(), effective: component.effective_text.clone() })
}

fn statement(finding: FindingRow, evidence: Evidence) -> Statement {
    let name = finding.code_text.as_ref().or(finding.display.as_ref()).or(finding.code.as_ref()).cloned();
    let is_coded = finding.code.is_some();
    let code = Coding { system: finding.code_system, code: finding.code, display: finding.display };
    Statement {
        finding_id: finding.id,
        category: finding.category,
        kind: finding.kind,
        name,
        code: is_coded.then_some(code),
        codings: finding.codings.0,
        value: finding.value_text,
        unit: finding.unit,
        effective: finding.effective_text,
        negated: finding.negated,
        value_type: finding.value_type,
        value_detail: finding.value_code.map(|json| json.0),
        comparator: finding.comparator,
        ucum: finding.ucum,
        reference_range: finding.reference_range.map(|json| json.0),
        interpretation: finding.interpretation,
        interpretation_source: finding.interpretation_source,
        clinical_status: finding.clinical_status,
        verification_status: finding.verification_status,
        severity: finding.severity,
        criticality: finding.criticality,
        body_site: finding.body_site.map(|json| json.0),
        laterality: finding.laterality,
        effective_end: finding.effective_end_text,
        effective_precision: finding.effective_precision,
        issued: finding.issued,
        performer: finding.performer.map(|json| json.0),
        encounter: finding.encounter_reference,
        dosage: finding.dosage.map(|json| json.0),
        reactions: finding.reactions.map(|json| json.0),
        medication_reference: finding.medication_reference,
        details: finding.details.map(|json| json.0),
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
