//! A finding, and all findings of an event, as the clinical view shows them: made once, when they are stored, and again only for
//! what was stored before that.

use super::Finding;
use super::store::quote_end;
use crate::ids::FindingId;
use crate::ingest::events::Origin;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// A piece of evidence.
#[derive(Serialize)]
pub struct ShownEvidence<'e> {
    /// The payload, in lower-case hexadecimal.
    pub sha256: &'e str,
    /// First byte of the quote.
    pub start: i64,
    /// Behind its last byte.
    pub end: i64,
    /// JSON Pointer of the value that the quote begins.
    pub pointer: &'e str,
    /// FHIRPath of the same.
    pub fhirpath: &'e str,
}

#[derive(Serialize)]
pub(in crate::ingest) struct Coding<'f> {
    pub(in crate::ingest) system: Option<&'f str>,
    pub(in crate::ingest) code: &'f str,
    pub(in crate::ingest) display: Option<&'f str>,
}

/// A finding. What is not said is not shown, except what every statement has. JSON of the payload stands here as it was
/// written: a dose of `1.20` stays `1.20`.
#[derive(Serialize)]
pub struct Shown<'f> {
    pub(in crate::ingest) finding_id: FindingId,
    pub(in crate::ingest) category: &'f str,
    pub(in crate::ingest) kind: &'f str,
    pub(in crate::ingest) name: Option<&'f str>,
    pub(in crate::ingest) code: Option<Coding<'f>>,
    pub(in crate::ingest) codings: &'f RawValue,
    pub(in crate::ingest) value: Option<&'f str>,
    pub(in crate::ingest) unit: Option<&'f str>,
    pub(in crate::ingest) effective: Option<&'f str>,
    pub(in crate::ingest) negated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) value_type: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) value_detail: Option<&'f RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) comparator: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) ucum: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) reference_range: Option<&'f RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) interpretation: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) interpretation_source: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) clinical_status: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) verification_status: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) severity: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) criticality: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) body_site: Option<&'f RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) laterality: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) effective_end: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) effective_precision: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) issued: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) performer: Option<&'f RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) encounter: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) dosage: Option<&'f RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) reactions: Option<&'f RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) medication_reference: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ingest) details: Option<&'f RawValue>,
    pub(in crate::ingest) evidence: Vec<ShownEvidence<'f>>,
}

/// JSON of a column; none where there is none.
fn raw(text: Option<&str>) -> Option<&RawValue> {
    text.and_then(|text| serde_json::from_str(text).ok())
}

impl<'f> Shown<'f> {
    /// A finding that is being stored, of a payload with that hash.
    pub(super) fn of_new(id: FindingId, finding: &'f Finding, origin: &Origin, body: &[u8], sha256: &'f str) -> Self {
        let offset = |at: usize| origin.position(at);
        let evidence = finding.evidence.iter().map(|one| ShownEvidence {
            sha256,
            start: offset(one.span.start),
            end: offset(quote_end(body, one.span.start, one.span.end)),
            pointer: &one.pointer,
            fhirpath: &one.fhirpath,
        });
        let (code, display) = (finding.code.code.as_deref(), finding.code.display.as_deref());
        Self {
            finding_id: id,
            category: finding.category,
            kind: finding.kind,
            name: finding.code.text.as_deref().or(display).or(code),
            code: code.map(|code| Coding { system: finding.code.system.as_deref(), code, display }),
            codings: raw(Some(finding.code.codings.as_deref().unwrap_or("[]"))).unwrap_or(RawValue::NULL),
            value: finding.value.text.as_deref(),
            unit: finding.value.unit.as_deref(),
            effective: finding.effective.text.as_deref(),
            negated: finding.negated,
            value_type: finding.value.kind,
            value_detail: raw(finding.value.json.as_deref()),
            comparator: finding.value.comparator.as_deref(),
            ucum: finding.value.ucum.as_deref(),
            reference_range: raw(finding.reference_range.as_deref()),
            interpretation: finding.interpretation.as_deref(),
            interpretation_source: finding.interpretation_source,
            clinical_status: finding.clinical_status.as_deref(),
            verification_status: finding.verification_status.as_deref(),
            severity: finding.severity.as_deref(),
            criticality: finding.criticality.as_deref(),
            body_site: raw(finding.body_site.as_deref()),
            laterality: finding.laterality,
            effective_end: finding.effective.end_text.as_deref(),
            effective_precision: finding.effective.precision,
            issued: finding.issued.as_deref(),
            performer: raw(finding.performer.as_deref()),
            encounter: finding.encounter.as_deref(),
            dosage: raw(finding.dosage.as_deref()),
            reactions: raw(finding.reactions.as_deref()),
            medication_reference: finding.medication_reference.as_deref(),
            details: raw(finding.details.as_deref()),
            evidence: evidence.collect(),
        }
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }
}

/// A finding of an event, as JSON, and what a panel is named by.
pub struct Statement<'s> {
    /// 0 is the resource itself.
    pub ordinal: i32,
    /// A JSON object.
    pub json: String,
    /// Of components: the concept of the panel, as JSON.
    pub panel: Option<&'s str>,
    /// The time that it speaks of.
    pub effective: Option<&'s str>,
}

/// A panel without a value of its own has a name all the same.
#[derive(Serialize)]
struct Panel<'s> {
    name: Option<&'s str>,
    code: &'s Value,
    effective: Option<&'s str>,
}

/// All findings of an event as one JSON object: the members of its own finding, or of the panel that has none, and its components.
#[must_use]
pub fn of_event(statements: &[Statement<'_>]) -> String {
    let mut text = String::with_capacity(statements.iter().map(|one| one.json.len() + 1).sum::<usize>() + 128);
    let mut components = statements.iter().filter(|one| one.ordinal != 0).peekable();
    if let Some(own) = statements.iter().rfind(|one| one.ordinal == 0) {
        text.push_str(own.json.strip_suffix('}').unwrap_or("{"));
    } else {
        let panel = components.peek().and_then(|first| panel(first.panel?, first.effective));
        text.push_str(panel.as_deref().and_then(|panel| panel.strip_suffix('}')).unwrap_or("{"));
    }
    text.push_str(if text.len() > 1 { ",\"components\":[" } else { "\"components\":[" });
    for (index, component) in components.enumerate() {
        text.push_str(if index == 0 { "" } else { "," });
        text.push_str(&component.json);
    }
    text.push_str("]}");
    text
}

fn panel(concept: &str, effective: Option<&str>) -> Option<String> {
    let concept: Value = serde_json::from_str(concept).ok()?;
    let code = &concept["coding"][0];
    let name = [&concept["text"], &code["display"], &code["code"]].into_iter().find_map(Value::as_str);
    serde_json::to_string(&Panel { name, code, effective }).ok()
}
