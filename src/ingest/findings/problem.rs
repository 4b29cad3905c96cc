//! Condition and `AllergyIntolerance`.

use super::{Finding, laterality, parts, times};
use crate::ingest::fhir::node::Object;
use crate::ingest::fhir::path::Place;

/// SNOMED CT concepts that say that there is no allergy.
const NO_ALLERGY: [&str; 5] = ["716186003", "409137002", "428607008", "429625007", "716184000"];

/// `reaction.severity`, from mild to severe.
const SEVERITIES: [&str; 3] = ["mild", "moderate", "severe"];

const CONDITION_DETAILS: [&str; 12] = [
    "category",
    "stage",
    "evidence",
    "recorder",
    "note",
    "onsetAge",
    "onsetRange",
    "onsetPeriod",
    "abatementAge",
    "abatementRange",
    "abatementPeriod",
    "abatementBoolean",
];

const ALLERGY_DETAILS: [&str; 8] =
    ["type", "category", "lastOccurrence", "onsetAge", "onsetRange", "onsetPeriod", "recorder", "note"];

pub fn condition(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = base("Condition", "problem", object);
    if let Some(concept) = object.object("code") {
        finding.code = parts::code(&concept);
        finding.evidence.push(parts::evidence(concept.node(), &place.member("code"), "problem.code"));
    }
    finding.severity = parts::word(object, "severity");
    finding.body_site = parts::member_json(object, "bodySite");
    finding.laterality = laterality::of(object, "bodySite");
    finding.details = parts::Details::of(object, &CONDITION_DETAILS).json();
    finding
}

pub fn allergy(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = base("AllergyIntolerance", "allergy", object);
    let (concept, place) = match object.object("code") {
        Some(concept) => (Some(concept), place.member("code")),
        // R4 lets the substance stand with the reaction alone.
        None => substance(object, place),
    };
    if let Some(concept) = concept {
        finding.code = parts::code(&concept);
        finding.evidence.push(parts::evidence(concept.node(), &place, "allergy.code"));
    }
    finding.criticality = object.owned("criticality");
    finding.severity = worst_severity(object);
    finding.reactions = parts::member_json(object, "reaction");
    finding.details = parts::Details::of(object, &ALLERGY_DETAILS).json();
    if finding.code.code.as_deref().is_some_and(|code| NO_ALLERGY.contains(&code)) {
        finding.negate();
    }
    finding
}

fn substance<'a>(object: &Object<'a>, place: &Place) -> (Option<Object<'a>>, Place) {
    let reactions = object.items("reaction");
    let place = place.member("reaction").item(0).member("substance");
    (reactions.first().and_then(|node| node.object()?.object("substance")), place)
}

fn worst_severity(object: &Object<'_>) -> Option<String> {
    let reactions = object.objects("reaction");
    let ranks = reactions.iter().filter_map(|reaction| {
        let severity = reaction.string("severity")?;
        SEVERITIES.iter().position(|one| *one == severity)
    });
    ranks.max().map(|rank| SEVERITIES[rank].to_owned())
}

fn base(resource_type: &str, category: &'static str, object: &Object<'_>) -> Finding {
    let mut finding = Finding::new(category, "assertion");
    finding.clinical_status = parts::word(object, "clinicalStatus");
    finding.verification_status = parts::word(object, "verificationStatus");
    finding.status.clone_from(&finding.clinical_status);
    finding.effective = times::of(resource_type, object);
    finding.issued = times::issued(resource_type, object);
    finding.performer = parts::member_json(object, "asserter");
    finding.encounter = parts::reference(object, "encounter");
    if finding.verification_status.as_deref() == Some("refuted") {
        finding.negate();
    }
    finding
}
