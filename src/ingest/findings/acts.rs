//! Immunization, Procedure, Encounter, `DiagnosticReport` and `DocumentReference`.

use super::{Finding, Value, parts};
use crate::ingest::fhir::node::Object;
use crate::ingest::fhir::path::Place;

pub fn immunization(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = act(object, place, "immunization", "administration", "vaccineCode", "immunization.vaccine");
    finding.effective = parts::effective(object, "occurrence");
    finding.issued = object.owned("recorded");
    finding.body_site = parts::member_json(object, "site");
    finding.dosage = parts::member_json(object, "doseQuantity");
    not_done(finding)
}

pub fn procedure(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = act(object, place, "procedure", "assertion", "code", "procedure.code");
    finding.effective = parts::effective(object, "performed");
    finding.body_site = parts::member_json(object, "bodySite");
    not_done(finding)
}

pub fn encounter(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = Finding::new("encounter", "assertion");
    finding.status = object.owned("status");
    finding.effective = object.object("period").map(|period| parts::period_of(&period)).unwrap_or_default();
    finding.performer = parts::member_json(object, "serviceProvider");
    if let Some(node) = object.items("type").first()
        && let Some(concept) = node.object()
    {
        finding.code = parts::code(&concept);
        finding.evidence.push(parts::evidence(*node, &place.member("type").item(0), "encounter.type"));
    }
    if let Some(class) = object.object("class") {
        finding.value = Value {
            kind: Some("code"),
            text: class.owned("display").or_else(|| class.owned("code")),
            json: parts::json(class.node()),
            ..Value::default()
        };
        finding.evidence.push(parts::evidence(class.node(), &place.member("class"), "encounter.class"));
    }
    finding
}

/// The report itself; its results are findings of their own.
pub fn report(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = act(object, place, "report", "assertion", "code", "report.code");
    finding.effective = parts::effective(object, "effective");
    finding.issued = object.owned("issued");
    finding.performer = parts::member_json(object, "performer");
    if let Some(node) = object.get("conclusion")
        && let Some(conclusion) = node.string()
    {
        finding.value = Value { kind: Some("string"), text: Some(conclusion.into_owned()), ..Value::default() };
        finding.evidence.push(parts::evidence(node, &place.member("conclusion"), "report.conclusion"));
    }
    finding
}

pub fn document(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = act(object, place, "document", "assertion", "type", "document.type");
    finding.effective = object.owned("date").map(|text| parts::moment(text, None)).unwrap_or_default();
    finding.performer = parts::member_json(object, "author");
    finding
}

fn act(
    object: &Object<'_>,
    place: &Place,
    category: &'static str,
    kind: &'static str,
    member: &str,
    rule: &'static str,
) -> Finding {
    let mut finding = Finding::new(category, kind);
    if let Some(concept) = object.object(member) {
        finding.code = parts::code(&concept);
        finding.evidence.push(parts::evidence(concept.node(), &place.member(member), rule));
    }
    finding.status = object.owned("status");
    finding.encounter = parts::reference(object, "encounter");
    finding
}

fn not_done(mut finding: Finding) -> Finding {
    if finding.status.as_deref() == Some("not-done") {
        finding.negate();
    }
    finding
}
