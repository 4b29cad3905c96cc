//! `MedicationRequest`, `MedicationStatement`, `MedicationAdministration`, and Medication itself.

use super::{Finding, Medications, parts, times};
use crate::ingest::fhir::node::Object;
use crate::ingest::fhir::path::Place;

/// Members that are kept as they are; each type has some of them.
const DETAILS: [&str; 15] = [
    "intent",
    "category",
    "priority",
    "statusReason",
    "reasonCode",
    "reasonReference",
    "courseOfTherapyType",
    "dispenseRequest",
    "substitution",
    "reportedBoolean",
    "recorder",
    "basedOn",
    "derivedFrom",
    "request",
    "note",
];

const MEDICATION_DETAILS: [&str; 5] = ["form", "amount", "ingredient", "manufacturer", "batch"];

pub fn request(object: &Object<'_>, place: &Place, medications: &Medications<'_, '_>) -> Finding {
    let mut finding = base("MedicationRequest", "order", object, place, medications);
    finding.dosage = parts::member_json(object, "dosageInstruction");
    finding.performer = parts::member_json(object, "requester");
    finding.encounter = parts::reference(object, "encounter");
    if object.get("doNotPerform").and_then(|node| node.boolean()) == Some(true) {
        finding.negate();
    }
    finding
}

pub fn statement(object: &Object<'_>, place: &Place, medications: &Medications<'_, '_>) -> Finding {
    let mut finding = base("MedicationStatement", "assertion", object, place, medications);
    finding.dosage = parts::member_json(object, "dosage");
    finding.performer = parts::member_json(object, "informationSource");
    finding.encounter = parts::reference(object, "context");
    if finding.status.as_deref() == Some("not-taken") {
        finding.negate();
    }
    finding
}

pub fn administration(object: &Object<'_>, place: &Place, medications: &Medications<'_, '_>) -> Finding {
    let mut finding = base("MedicationAdministration", "administration", object, place, medications);
    finding.dosage = parts::member_json(object, "dosage");
    finding.performer = parts::member_json(object, "performer");
    finding.encounter = parts::reference(object, "context");
    if finding.status.as_deref() == Some("not-done") {
        finding.negate();
    }
    finding
}

/// The medication itself: resources of other Bundles name it.
pub fn medication(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = Finding::new("medication", "assertion");
    finding.status = object.owned("status");
    if let Some(concept) = object.object("code") {
        finding.code = parts::code(&concept);
        finding.evidence.push(parts::evidence(concept.node(), &place.member("code"), "medication.code"));
    }
    finding.details = parts::Details::of(object, &MEDICATION_DETAILS).json();
    finding
}

fn base(
    resource_type: &str,
    kind: &'static str,
    object: &Object<'_>,
    place: &Place,
    medications: &Medications<'_, '_>,
) -> Finding {
    let mut finding = Finding::new("medication", kind);
    finding.status = object.owned("status");
    finding.effective = times::of(resource_type, object);
    finding.issued = times::issued(resource_type, object);
    let mut details = parts::Details::of(object, &DETAILS);
    if resource_type == "MedicationAdministration" {
        details.member(object, "device");
    }
    finding.details = details.json();
    name(&mut finding, object, place, medications);
    finding
}

/// What the medication is: said here, in a contained resource, or in another entry of the Bundle.
fn name(finding: &mut Finding, object: &Object<'_>, place: &Place, medications: &Medications<'_, '_>) {
    if let Some(concept) = object.object("medicationCodeableConcept") {
        finding.code = parts::code(&concept);
        let place = place.choice("medication", "medicationCodeableConcept");
        finding.evidence.push(parts::evidence(concept.node(), &place, "medication.code"));
        return;
    }
    let Some(pointing) = object.object("medicationReference") else { return };
    finding.code.text = pointing.owned("display");
    let here = place.choice("medication", "medicationReference");
    finding.evidence.push(parts::evidence(pointing.node(), &here, "medication.reference"));
    let Some(reference) = pointing.string("reference") else { return };
    // A reference to a version means the resource.
    let reference = reference.split("/_history/").next().unwrap_or_default();
    let found = if let Some(id) = reference.strip_prefix('#') {
        contained_code(object, id, place)
    } else {
        medications
            .get(reference)
            .and_then(|(place, medication)| Some((medication.object.object("code")?, place.member("code"))))
    };
    if let Some((concept, place)) = found {
        let display = finding.code.text.take();
        finding.code = parts::code(&concept);
        finding.code.text = finding.code.text.take().or(display);
        finding.evidence.push(parts::evidence(concept.node(), &place, "medication.code"));
    } else if medications.get(reference).is_none() && is_relative(reference) {
        finding.medication_reference = Some(reference.to_owned());
    }
}

/// `Medication/` and an id (R4: 1 to 64 letters, digits, dashes and dots).
fn is_relative(reference: &str) -> bool {
    let id = reference.strip_prefix("Medication/").unwrap_or_default();
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
}

fn contained_code<'a>(object: &Object<'a>, id: &str, place: &Place) -> Option<(Object<'a>, Place)> {
    let items = object.items("contained");
    let found = items.iter().enumerate().find_map(|(index, node)| {
        let inner = node.object()?;
        (inner.string("id").as_deref() == Some(id)).then_some((index, inner))
    });
    let (index, medication) = found?;
    Some((medication.object("code")?, place.member("contained").item(index).member("code")))
}
