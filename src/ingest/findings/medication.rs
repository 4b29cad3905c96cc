//! `MedicationRequest`, `MedicationStatement` and `MedicationAdministration`.

use super::{Finding, Medications, parts};
use crate::ingest::fhir::node::Object;
use crate::ingest::fhir::path::Place;

pub fn request(object: &Object<'_>, place: &Place, medications: &Medications<'_, '_>) -> Finding {
    let mut finding = base(object, place, medications, "order");
    finding.effective = object.owned("authoredOn").map(|text| parts::moment(text, None)).unwrap_or_default();
    finding.dosage = parts::member_json(object, "dosageInstruction");
    finding.performer = parts::member_json(object, "requester");
    finding.encounter = parts::reference(object, "encounter");
    if object.get("doNotPerform").and_then(|node| node.boolean()) == Some(true) {
        finding.negate();
    }
    finding
}

pub fn statement(object: &Object<'_>, place: &Place, medications: &Medications<'_, '_>) -> Finding {
    let mut finding = base(object, place, medications, "assertion");
    finding.effective = parts::effective(object, "effective");
    finding.issued = object.owned("dateAsserted");
    finding.dosage = parts::member_json(object, "dosage");
    finding.encounter = parts::reference(object, "context");
    if finding.status.as_deref() == Some("not-taken") {
        finding.negate();
    }
    finding
}

pub fn administration(object: &Object<'_>, place: &Place, medications: &Medications<'_, '_>) -> Finding {
    let mut finding = base(object, place, medications, "administration");
    finding.effective = parts::effective(object, "effective");
    finding.dosage = parts::member_json(object, "dosage");
    finding.performer = parts::member_json(object, "performer");
    finding.encounter = parts::reference(object, "context");
    if finding.status.as_deref() == Some("not-done") {
        finding.negate();
    }
    finding
}

fn base(object: &Object<'_>, place: &Place, medications: &Medications<'_, '_>, kind: &'static str) -> Finding {
    let mut finding = Finding::new("medication", kind);
    finding.status = object.owned("status");
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
    let found = if let Some(id) = reference.strip_prefix('#') {
        contained_code(object, id, place)
    } else {
        medications.get(&reference).and_then(|(entry, medication)| {
            Some((medication.object.object("code")?, Place::resource(entry).member("code")))
        })
    };
    if let Some((concept, place)) = found {
        let display = finding.code.text.take();
        finding.code = parts::code(&concept);
        finding.code.text = finding.code.text.take().or(display);
        finding.evidence.push(parts::evidence(concept.node(), &place, "medication.code"));
    }
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
