//! Findings: what a resource says, as one row a statement, each with the exact bytes that say it.
//!
//! [`of_resource`] is pure; [`store`] holds the SQL.

mod acts;
pub(super) mod interpretation;
pub(super) mod laterality;
mod medication;
mod observation;
pub mod packed;
pub(super) mod parts;
mod problem;
pub mod shown;
pub mod store;
mod times;

pub use observation::section as observation_section;
pub use store::{StoredEvidence, evidence};
pub use times::clinical_at;

use super::fhir::path::Place;
use super::fhir::split::{Bundle, Entry, Resource};
use std::collections::HashMap;
use std::ops::Range;
use time::OffsetDateTime;

/// Version of the extraction rules; written with every finding. Raise it when the rules find more or find otherwise: what
/// is extracted again then supersedes what an older version found.
pub const EXTRACTOR_VERSION: i32 = 2;

/// The rules that evidence names; docs/clinical.md says what each one takes.
pub const RULES: [&str; 34] = [
    "observation.code",
    "observation.value",
    "observation.range",
    "observation.component",
    "problem.code",
    "allergy.code",
    "medication.code",
    "medication.reference",
    "immunization.vaccine",
    "procedure.code",
    "report.code",
    "report.conclusion",
    "encounter.type",
    "encounter.class",
    "document.type",
    "resource",
    "athena.vital.reading",
    "athena.vital.value",
    "athena.lab.name",
    "athena.lab.value",
    "athena.lab.range",
    "athena.medication.name",
    "athena.problem.name",
    "athena.allergy.name",
    "athena.immunization.name",
    "athena.procedure.name",
    "athena.encounter.type",
    "athena.encounter.class",
    "athena.document.title",
    "athena.document.text",
    "athena.section.negation",
    "athena.time",
    "athena.captured_at",
    "athena.other",
];

/// Bytes of a quote that are kept; the payload itself has the rest.
pub const QUOTE_BYTES_MAX: usize = 2_000;

/// A code with everything that the source said about it.
#[derive(Clone, Default, PartialEq)]
pub struct Code {
    /// System of the first coding.
    pub system: Option<String>,
    /// Code of the first coding.
    pub code: Option<String>,
    /// Display of the first coding.
    pub display: Option<String>,
    /// All codings, as JSON text.
    pub codings: Option<String>,
    /// The concept's text.
    pub text: Option<String>,
}

/// A value with its unit. Decimals keep their text.
#[derive(Clone, Default, PartialEq)]
pub struct Value {
    /// quantity, code, string, boolean, integer, range, ratio, datetime, time, period, `sampled_data`, absent
    pub kind: Option<&'static str>,
    /// As written.
    pub text: Option<String>,
    /// The text, if PostgreSQL's `numeric` can hold it.
    pub number: Option<String>,
    /// A concept, range, ratio or period, as JSON text.
    pub json: Option<String>,
    /// `<`, `<=`, `>=`, `>`
    pub comparator: Option<String>,
    /// The unit as people read it.
    pub unit: Option<String>,
    /// The UCUM code.
    pub ucum: Option<String>,
}

/// When it was, as written and for sorting.
#[derive(Clone, Default, PartialEq)]
pub struct Effective {
    /// As written; the start of a period.
    pub text: Option<String>,
    /// The end of a period.
    pub end_text: Option<String>,
    /// The start of the stated period.
    pub at: Option<OffsetDateTime>,
    /// year, month, day, second
    pub precision: Option<&'static str>,
}

/// The bytes that say it.
#[derive(Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Where in the payload.
    pub span: Range<usize>,
    /// JSON Pointer of the value at these bytes.
    pub pointer: String,
    /// FHIRPath of the same.
    pub fhirpath: String,
    /// Which rule took it.
    pub rule: &'static str,
}

/// One statement. It has no `Debug`: it is clinical through and through.
#[derive(Clone, PartialEq)]
pub struct Finding {
    /// 0 for the resource itself, then one a component.
    pub ordinal: i32,
    /// vital, lab, medication, …
    pub category: &'static str,
    /// measurement, assertion, negation, order, administration
    pub kind: &'static str,
    /// What it is about.
    pub code: Code,
    /// The code of the panel that this is a component of, as JSON text.
    pub component_of: Option<String>,
    /// The value.
    pub value: Value,
    /// `referenceRange`, as JSON text.
    pub reference_range: Option<String>,
    /// The interpretation's code.
    pub interpretation: Option<String>,
    /// declared or derived
    pub interpretation_source: Option<&'static str>,
    /// The resource's status.
    pub status: Option<String>,
    /// Of conditions and allergies.
    pub clinical_status: Option<String>,
    /// Of conditions and allergies.
    pub verification_status: Option<String>,
    /// How bad it is or was; of allergies the worst reaction.
    pub severity: Option<String>,
    /// How bad it may become: of allergies.
    pub criticality: Option<String>,
    /// As JSON text.
    pub body_site: Option<String>,
    /// left, right, bilateral
    pub laterality: Option<&'static str>,
    /// When it was.
    pub effective: Effective,
    /// When it was issued or recorded, as written.
    pub issued: Option<String>,
    /// Who did it, as JSON text.
    pub performer: Option<String>,
    /// The encounter's reference.
    pub encounter: Option<String>,
    /// Dose, route, frequency, sig: as JSON text.
    pub dosage: Option<String>,
    /// Of allergies and immunizations, as JSON text.
    pub reactions: Option<String>,
    /// `Medication/id`, where the medication is not said in this Bundle.
    pub medication_reference: Option<String>,
    /// Members without a field of their own, as one JSON object.
    pub details: Option<String>,
    /// It says that something is not so, or was not done.
    pub negated: bool,
    /// At least one.
    pub evidence: Vec<Evidence>,
}

impl Finding {
    pub(super) fn new(category: &'static str, kind: &'static str) -> Self {
        Self {
            ordinal: 0,
            category,
            kind,
            code: Code::default(),
            component_of: None,
            value: Value::default(),
            reference_range: None,
            interpretation: None,
            interpretation_source: None,
            status: None,
            clinical_status: None,
            verification_status: None,
            severity: None,
            criticality: None,
            body_site: None,
            laterality: None,
            effective: Effective::default(),
            issued: None,
            performer: None,
            encounter: None,
            dosage: None,
            reactions: None,
            medication_reference: None,
            details: None,
            negated: false,
            evidence: Vec::new(),
        }
    }

    /// It says that something is not so.
    pub(super) fn negate(&mut self) {
        self.negated = true;
        self.kind = "negation";
    }
}

/// The Medication resources of a Bundle, which other resources speak of.
#[derive(Default)]
pub struct Medications<'b, 'a> {
    by_reference: HashMap<String, (Place, &'b Resource<'a>)>,
}

impl<'b, 'a> Medications<'b, 'a> {
    /// By fullUrl and by id.
    #[must_use]
    pub fn of(bundle: &'b Bundle<'a>) -> Self {
        Self::of_entries(&bundle.entries, &|entry| Place::resource(entry.index))
    }

    /// The same of resources of a file, by where each stands.
    #[must_use]
    pub fn of_entries(entries: &'b [Entry<'a>], place_of: &dyn Fn(&Entry<'_>) -> Place) -> Self {
        let mut by_reference = HashMap::new();
        for entry in entries {
            let Some(resource) = entry.resource.as_ref().filter(|resource| resource.resource_type == "Medication")
            else {
                continue;
            };
            let relative = resource.id.as_deref().map(|id| format!("Medication/{id}"));
            for reference in entry.full_url.as_deref().map(str::to_owned).into_iter().chain(relative) {
                by_reference.insert(reference, (place_of(entry), resource));
            }
        }
        Self { by_reference }
    }

    fn get(&self, reference: &str) -> Option<&(Place, &'b Resource<'a>)> {
        self.by_reference.get(reference)
    }
}

/// The findings of one resource; none for types that findings are not taken from.
#[must_use]
pub fn of_resource(entry: u32, resource: &Resource<'_>, medications: &Medications<'_, '_>) -> Vec<Finding> {
    of_resource_at(&Place::resource(entry), resource, medications)
}

/// The same of a resource that stands elsewhere.
#[must_use]
pub fn of_resource_at(place: &Place, resource: &Resource<'_>, medications: &Medications<'_, '_>) -> Vec<Finding> {
    let object = &resource.object;
    let mut findings = match resource.resource_type.as_ref() {
        "Observation" => observation::findings(object, place),
        "Condition" => vec![problem::condition(object, place)],
        "AllergyIntolerance" => vec![problem::allergy(object, place)],
        "MedicationRequest" => vec![medication::request(object, place, medications)],
        "MedicationStatement" => vec![medication::statement(object, place, medications)],
        "MedicationAdministration" => vec![medication::administration(object, place, medications)],
        "Medication" => vec![medication::medication(object, place)],
        "Immunization" => vec![acts::immunization(object, place)],
        "Procedure" => vec![acts::procedure(object, place)],
        "Encounter" => vec![acts::encounter(object, place)],
        "DiagnosticReport" => vec![acts::report(object, place)],
        "DocumentReference" => vec![acts::document(object, place)],
        _ => Vec::new(),
    };
    for finding in findings.iter_mut().filter(|finding| finding.evidence.is_empty()) {
        finding.evidence.push(parts::evidence(object.node(), place, "resource"));
    }
    findings
}

#[cfg(test)]
mod tests;
