//! Allergies: athenahealth's list with its reactions and `nkda`, and flat allergies.

use super::fields::{Field, Fields, Shape};
use super::reader::{Draft, Reader, encounter, named, payload, seal};
use super::shape::{self, Spec};
use super::value::{self, Coding, RXNORM, SNOMED};
use super::{other, sections, status};
use crate::ingest::fhir::issue::Severity;
use crate::ingest::fhir::node::{Kind, Node};
use crate::ingest::fhir::path::Place;
use crate::ingest::findings::{Finding, parts};

const LIST: Field =
    Field::new(Shape::Array, &["allergies", "allergylist", "allergyintolerances"], "the parts").essential();
const NONE_KNOWN: Field = Field::new(
    Shape::Flag,
    &["nkda", "noknowndrugallergies", "noknownallergies", "nka"],
    "true: a negation, `No known drug allergies`; false says nothing",
);
const ID: Field = Field::new(Shape::Id, &["allergyid", "allergenid"], "identity");
const NAME: Field = Field::new(
    Shape::Text,
    &["allergenname", "allergen", "substance", "allergy", "allergyname", "name", "description"],
    "`code_text`",
)
.essential();
const RXNORM_CODE: Field = Field::new(Shape::Id, &["rxnormcode", "rxnorm"], "`code`, RxNorm");
const RXNORM_TEXT: Field = Field::new(Shape::Text, &["rxnormdescription"], "display of the RxNorm code");
const SNOMED_CODE: Field = Field::new(Shape::Id, &["snomedcode", "snomed"], "`code`, SNOMED CT");
const CODE: Field = Field::new(Shape::Id, &["code"], "`code`");
const CODESET: Field = Field::new(Shape::Text, &["codeset", "codesystem"], "system of the code");
const REACTIONS: Field =
    Field::new(Shape::Texts, &["reactions", "reaction", "reactiontype"], "`reactions`, as written");
const REACTION_NAME: Field = Field::new(Shape::Text, &["reactionname", "name", "reaction"], "of `reactions`: checked");
const SEVERITY: Field = Field::new(
    Shape::Text,
    &["severity", "reactionseverity"],
    "`severity`: its own, else the worst of the reactions; also of `reactions`",
);
const CRITICALITY: Field = Field::new(Shape::Text, &["criticality"], "`criticality`");
const STATUS: Field = Field::new(
    Shape::Text,
    &["clinicalstatus", "status", "allergystatus"],
    "`clinical_status` and `status`; details as written",
);
const ONSET: Field =
    Field::new(Shape::Time, &["onsetdate", "onset", "dateofonset", "noteddate", "startdate", "date"], "`effective`");
const END: Field = Field::new(
    Shape::Time,
    &["deactivatedate", "deactivateddate", "resolveddate", "enddate"],
    "end of `effective`; `clinical_status` inactive",
);
const NOTER: Field = Field::new(Shape::Text, &["createdby", "provider", "reportedby", "recordedby"], "performer");
const RECORDED: Field =
    Field::new(Shape::Time, &["createddate", "recordeddate", "dateadded", "lastmodifieddatetime"], "`issued`");
const ENCOUNTER: Field = Field::new(Shape::Id, &["encounterid"], "encounter");

pub const FIELDS: [&Field; 19] = [
    &LIST,
    &NONE_KNOWN,
    &ID,
    &NAME,
    &RXNORM_CODE,
    &RXNORM_TEXT,
    &SNOMED_CODE,
    &CODE,
    &CODESET,
    &REACTIONS,
    &REACTION_NAME,
    &SEVERITY,
    &CRITICALITY,
    &STATUS,
    &ONSET,
    &END,
    &NOTER,
    &RECORDED,
    &ENCOUNTER,
];

const MARKS: [&Field; 5] = [&ID, &NAME, &RXNORM_CODE, &SNOMED_CODE, &REACTIONS];

/// Whether the payload's shape is one of allergies.
pub fn read(reader: &mut Reader<'_, '_>) -> bool {
    let stated = sections::read(reader, &NONE_KNOWN, &sections::ALLERGIES);
    let spec = Spec { list: &LIST, marks: &MARKS, beside: &[&NONE_KNOWN] };
    let Some(items) = shape::items(reader, reader.event().payload, &payload(), &spec) else { return stated.is_there };
    if let Some(said) = stated.denial.filter(|_| !items.is_empty()) {
        let sentence = "Says that no allergies are known, and allergies are listed: both are kept.";
        reader.issue(Severity::Warning, "conflict", said.node, &said.place, sentence);
    }
    for item in items {
        if item.has_any(&MARKS) {
            let (node, place) = (item.node, item.place.clone());
            reader.part(node, &place, |reader| allergy(reader, &item));
        } else {
            other::part(reader, item.node, &item.place);
        }
    }
    true
}

fn allergy<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> Option<Draft> {
    let mut finding = Finding::new("allergy", "assertion");
    let Some(name) = fields.get(reader, &NAME) else {
        if !fields.has(&NAME) {
            reader.issue(Severity::Error, "required", fields.node, &fields.place, "Does not name the allergen.");
        }
        return None;
    };
    let mut codings = Vec::new();
    let display = reader.text(fields, &RXNORM_TEXT);
    codings.extend(reader.text(fields, &RXNORM_CODE).map(|code| Coding { display, ..Coding::new(RXNORM, code) }));
    codings.extend(reader.text(fields, &SNOMED_CODE).map(|code| Coding::new(SNOMED, code)));
    let system = reader.text(fields, &CODESET).map(|codeset| value::system_of(&codeset));
    codings.extend(reader.text(fields, &CODE).map(|code| Coding { system, code, display: None }));
    finding.code = value::concept(&codings, Some(name.text));
    finding.evidence.push(parts::evidence(name.node, &name.place, "athena.allergy.name"));
    let severities = reactions(reader, fields, &mut finding);
    finding.severity = reader.text(fields, &SEVERITY).or_else(|| status::worst(severities.into_iter()));
    finding.criticality = reader.text(fields, &CRITICALITY);
    let onset = reader.time(fields, &ONSET);
    let end = reader.end(fields, &END);
    let declared = reader.text(fields, &STATUS);
    fields.keep(&STATUS);
    let clinical = declared.as_deref().map(status::of_statement);
    match clinical.as_deref() {
        Some("refuted") => {
            finding.verification_status = clinical;
            finding.negate();
        }
        Some("entered-in-error") => finding.verification_status = clinical,
        Some(_) => finding.clinical_status = clinical,
        None if end.has_come => finding.clinical_status = Some("inactive".to_owned()),
        None => {}
    }
    if finding.code.text.as_deref().is_some_and(status::denies) {
        finding.negate();
    }
    finding.status = finding.verification_status.clone().or_else(|| finding.clinical_status.clone());
    finding.performer = named(reader.text(fields, &NOTER));
    finding.encounter = encounter(reader.text(fields, &ENCOUNTER));
    finding.issued = reader.time(fields, &RECORDED).map(|time| time.text);
    let when = reader.when(onset, end.time.as_ref());
    let id = reader.text(fields, &ID);
    seal(&mut finding, fields, &[], &when);
    Some(Draft {
        resource_type: "AthenaAllergy",
        category: "allergies",
        id,
        measures: false,
        beside: None,
        status: finding.status.clone(),
        when,
        findings: vec![finding],
    })
}

/// Keep the reactions as written, and say how severe they are.
fn reactions<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>, finding: &mut Finding) -> Vec<String> {
    let Some(said) = fields.get(reader, &REACTIONS) else { return Vec::new() };
    let mut severities = Vec::new();
    let mut one = |reader: &mut Reader<'_, 'a>, node: Node<'a>, place: &Place| match (node.kind(), node.object()) {
        (_, Some(object)) => {
            let reaction = Fields::of(&object, place.clone());
            let _ = reader.text(&reaction, &REACTION_NAME);
            severities.extend(reader.text(&reaction, &SEVERITY));
        }
        (Kind::String | Kind::Null, _) => {}
        _ => reader.issue(Severity::Warning, "structure", node, place, "Must be a text or an object."),
    };
    if said.node.kind() == Kind::Array {
        for (index, node) in said.node.items().into_iter().enumerate().take(super::NESTED_MAX) {
            one(reader, node, &said.place.item(index));
        }
        finding.reactions = parts::json(said.node);
    } else {
        one(reader, said.node, &said.place);
        finding.reactions = parts::json(said.node).map(|json| format!("[{json}]"));
    }
    if finding.reactions.is_none() {
        fields.keep(&REACTIONS);
    }
    severities
}
