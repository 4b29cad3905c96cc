//! Condition and `AllergyIntolerance`.

use super::{Finding, parts};
use crate::ingest::fhir::node::Object;
use crate::ingest::fhir::path::Place;

/// SNOMED CT concepts that say that there is no allergy.
const NO_ALLERGY: [&str; 5] = ["716186003", "409137002", "428607008", "429625007", "716184000"];

pub fn condition(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = base(object, place, "problem");
    finding.effective = parts::effective(object, "onset");
    if let Some(end) = object.owned("abatementDateTime") {
        finding.effective.end_text = Some(end);
    }
    finding.severity = parts::word(object, "severity");
    finding.body_site = parts::member_json(object, "bodySite");
    finding.encounter = parts::reference(object, "encounter");
    finding
}

pub fn allergy(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = base(object, place, "allergy");
    finding.effective = parts::effective(object, "onset");
    finding.severity = object.owned("criticality");
    finding.reactions = parts::member_json(object, "reaction");
    finding.encounter = parts::reference(object, "encounter");
    if finding.code.code.as_deref().is_some_and(|code| NO_ALLERGY.contains(&code)) {
        finding.negate();
    }
    finding
}

fn base(object: &Object<'_>, place: &Place, category: &'static str) -> Finding {
    let mut finding = Finding::new(category, "assertion");
    if let Some(concept) = object.object("code") {
        finding.code = parts::code(&concept);
        finding.evidence.push(parts::evidence(concept.node(), &place.member("code"), "problem.code"));
    }
    finding.clinical_status = parts::word(object, "clinicalStatus");
    finding.verification_status = parts::word(object, "verificationStatus");
    finding.status.clone_from(&finding.clinical_status);
    finding.issued = object.owned("recordedDate");
    if finding.verification_status.as_deref() == Some("refuted") {
        finding.negate();
    }
    finding
}
