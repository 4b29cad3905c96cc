//! Immunization, Procedure, Encounter, `DiagnosticReport` and `DocumentReference`.

use super::{Finding, Value, laterality, parts, times};
use crate::ingest::fhir::node::Object;
use crate::ingest::fhir::path::Place;

const IMMUNIZATION_DETAILS: [&str; 12] = [
    "statusReason",
    "lotNumber",
    "expirationDate",
    "manufacturer",
    "route",
    "primarySource",
    "reportOrigin",
    "reasonCode",
    "isSubpotent",
    "protocolApplied",
    "location",
    "note",
];

const PROCEDURE_DETAILS: [&str; 14] = [
    "category",
    "statusReason",
    "outcome",
    "reasonCode",
    "reasonReference",
    "report",
    "complication",
    "followUp",
    "location",
    "performedAge",
    "performedRange",
    "recorder",
    "asserter",
    "note",
];

const ENCOUNTER_DETAILS: [&str; 10] = [
    "serviceProvider",
    "serviceType",
    "priority",
    "reasonCode",
    "reasonReference",
    "diagnosis",
    "location",
    "hospitalization",
    "length",
    "partOf",
];

const REPORT_DETAILS: [&str; 6] =
    ["category", "result", "conclusionCode", "resultsInterpreter", "imagingStudy", "specimen"];

const DOCUMENT_DETAILS: [&str; 7] =
    ["docStatus", "category", "securityLabel", "custodian", "authenticator", "relatesTo", "context"];

pub fn immunization(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = act("Immunization", "immunization", "administration", object);
    name(&mut finding, object, place, "vaccineCode", "immunization.vaccine");
    finding.performer = parts::member_json(object, "performer");
    finding.body_site = parts::member_json(object, "site");
    finding.laterality = laterality::of(object, "site");
    finding.dosage = parts::member_json(object, "doseQuantity");
    finding.reactions = parts::member_json(object, "reaction");
    finding.details = parts::Details::of(object, &IMMUNIZATION_DETAILS).json();
    not_done(finding)
}

pub fn procedure(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = act("Procedure", "procedure", "assertion", object);
    name(&mut finding, object, place, "code", "procedure.code");
    finding.performer = parts::member_json(object, "performer");
    finding.body_site = parts::member_json(object, "bodySite");
    finding.laterality = laterality::of(object, "bodySite");
    finding.details = parts::Details::of(object, &PROCEDURE_DETAILS).json();
    not_done(finding)
}

pub fn encounter(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = act("Encounter", "encounter", "assertion", object);
    finding.performer = parts::member_json(object, "participant");
    let types = object.items("type");
    if let Some(node) = types.first()
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
    let mut details = parts::Details::of(object, &ENCOUNTER_DETAILS);
    if types.len() > 1 {
        details.member(object, "type");
    }
    finding.details = details.json();
    finding
}

/// The report itself; its results are findings of their own.
pub fn report(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = act("DiagnosticReport", "report", "assertion", object);
    name(&mut finding, object, place, "code", "report.code");
    finding.performer = parts::member_json(object, "performer");
    if let Some(node) = object.get("conclusion")
        && let Some(conclusion) = node.string()
    {
        finding.value = Value { kind: Some("string"), text: Some(conclusion.into_owned()), ..Value::default() };
        finding.evidence.push(parts::evidence(node, &place.member("conclusion"), "report.conclusion"));
    }
    let mut details = parts::Details::of(object, &REPORT_DETAILS);
    details.list("presentedForm", object.objects("presentedForm").iter().map(attachment));
    finding.details = details.json();
    finding
}

pub fn document(object: &Object<'_>, place: &Place) -> Finding {
    let mut finding = act("DocumentReference", "document", "assertion", object);
    name(&mut finding, object, place, "type", "document.type");
    finding.encounter = object
        .object("context")
        .and_then(|context| context.objects("encounter").iter().find_map(|encounter| encounter.owned("reference")));
    finding.performer = parts::member_json(object, "author");
    if let Some(description) = object.owned("description") {
        finding.value = Value { kind: Some("string"), text: Some(description), ..Value::default() };
    }
    let mut details = parts::Details::of(object, &DOCUMENT_DETAILS);
    let contents = object.objects("content");
    details.list(
        "content",
        contents.iter().map(|content| {
            let mut whole = parts::Details::of(content, &["format"]);
            if let Some(attached) = content.object("attachment") {
                whole.raw("attachment", &attachment(&attached));
            }
            whole.json().unwrap_or_else(|| "{}".to_owned())
        }),
    );
    finding.details = details.json();
    finding
}

/// What an attachment is, without its data.
fn attachment(object: &Object<'_>) -> String {
    let members = ["contentType", "language", "url", "size", "hash", "title", "creation"];
    parts::Details::of(object, &members).json().unwrap_or_else(|| "{}".to_owned())
}

fn act(resource_type: &str, category: &'static str, kind: &'static str, object: &Object<'_>) -> Finding {
    let mut finding = Finding::new(category, kind);
    finding.status = object.owned("status");
    finding.encounter = parts::reference(object, "encounter");
    finding.effective = times::of(resource_type, object);
    finding.issued = times::issued(resource_type, object);
    finding
}

fn name(finding: &mut Finding, object: &Object<'_>, place: &Place, member: &str, rule: &'static str) {
    if let Some(concept) = object.object(member) {
        finding.code = parts::code(&concept);
        finding.evidence.push(parts::evidence(concept.node(), &place.member(member), rule));
    }
}

fn not_done(mut finding: Finding) -> Finding {
    if finding.status.as_deref() == Some("not-done") {
        finding.negate();
    }
    finding
}
