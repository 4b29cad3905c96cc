//! When it was: which element of each type says so.

use super::Effective;
use super::parts::{effective, moment, period_of};
use crate::ingest::fhir::calendar::{self, Temporal};
use crate::ingest::fhir::node::{Node, Object};
use time::OffsetDateTime;

/// The time that a resource speaks of.
pub fn of(resource_type: &str, object: &Object<'_>) -> Effective {
    let member = |name: &str| object.owned(name).map(|text| moment(text, None)).unwrap_or_default();
    match resource_type {
        "Observation" => observation(object),
        "Condition" => condition(object),
        "AllergyIntolerance" => onset(object),
        "MedicationRequest" => member("authoredOn"),
        "MedicationStatement" | "MedicationAdministration" | "DiagnosticReport" => effective(object, "effective"),
        "Immunization" => effective(object, "occurrence"),
        "Procedure" => effective(object, "performed"),
        "Encounter" => object.object("period").map(|period| period_of(&period)).unwrap_or_default(),
        "DocumentReference" => member("date"),
        _ => Effective::default(),
    }
}

/// When it was issued or recorded, as written.
pub fn issued(resource_type: &str, object: &Object<'_>) -> Option<String> {
    object.owned(match resource_type {
        "Observation" | "DiagnosticReport" => "issued",
        "Condition" | "AllergyIntolerance" => "recordedDate",
        "MedicationStatement" => "dateAsserted",
        "Immunization" => "recorded",
        _ => return None,
    })
}

/// What an item is sorted by: the start of its time, else when it was issued or recorded.
#[must_use]
pub fn clinical_at(resource_type: &str, object: &Object<'_>) -> Option<OffsetDateTime> {
    of(resource_type, object).at.or_else(|| {
        let issued = issued(resource_type, object)?;
        Some(calendar::parse(&issued, Temporal::DateTime)?.at)
    })
}

/// `effective[x]`; of a Timing its first event.
fn observation(object: &Object<'_>) -> Effective {
    let stated = effective(object, "effective");
    let Some(timing) = object.object("effectiveTiming").filter(|_| stated.text.is_none()) else { return stated };
    let events = timing.items("event");
    let first = events.first().and_then(Node::string);
    first.map(|text| moment(text.into_owned(), None)).unwrap_or(stated)
}

/// The end of a condition is its abatement; the end of `onsetPeriod` is none.
fn condition(object: &Object<'_>) -> Effective {
    let mut stated = onset(object);
    stated.end_text = effective(object, "abatement").text;
    stated
}

fn onset(object: &Object<'_>) -> Effective {
    Effective { end_text: None, ..effective(object, "onset") }
}
