//! Problems: athenahealth's list with its events, and flat problems.

use super::fields::{Field, Fields, Said, Shape, fold};
use super::reader::{Draft, Note, Reader, Time, encounter, named, note, payload, seal};
use super::shape::{self, Spec};
use super::value::{self, Coding, ICD10, SNOMED};
use super::{other, sections, status};
use crate::ingest::fhir::issue::Severity;
use crate::ingest::fhir::node::Kind;
use crate::ingest::findings::{Finding, laterality, parts};

const LIST: Field =
    Field::new(Shape::Array, &["problems", "problemlist", "conditions", "diagnoses"], "the parts").essential();
const NONE_KNOWN: Field = Field::new(Shape::Flag, &["noknownproblems"], "true: a negation, `No known problems`");
const ID: Field = Field::new(Shape::Id, &["problemid"], "identity");
const NAME: Field = Field::new(
    Shape::Text,
    &["problemname", "name", "problem", "diagnosis", "condition", "description"],
    "`code_text`",
)
.essential();
const CODE: Field = Field::new(Shape::Id, &["code"], "`code`");
const CODESET: Field = Field::new(Shape::Text, &["codeset", "codesystem"], "system of the code");
const SNOMED_CODE: Field = Field::new(Shape::Id, &["snomedcode", "snomed"], "`code`, SNOMED CT");
const ICD_CODE: Field = Field::new(
    Shape::Id,
    &["bestmatchicd10code", "icd10code", "icd10", "icdcode", "icd"],
    "`code`, or one more of it, ICD-10-CM",
);
const STATUS: Field = Field::new(
    Shape::Text,
    &["clinicalstatus", "status", "problemstatus"],
    "`clinical_status` and `status`; details as written",
);
const SEVERITY: Field = Field::new(Shape::Text, &["severity"], "`severity`");
const LATERALITY: Field = Field::new(Shape::Text, &["laterality", "side"], "`laterality`; also of `events`");
const ONSET: Field = Field::new(
    Shape::Time,
    &["onsetdate", "onset", "startdate", "diagnoseddate", "dateofonset", "date"],
    "`effective`; also of `events`",
);
const END: Field = Field::new(
    Shape::Time,
    &["deactivateddate", "deactivatedate", "resolveddate", "resolutiondate", "enddate", "abatementdate"],
    "end of `effective`; `clinical_status` inactive, or resolved",
);
const EVENTS: Field = Field::new(Shape::Array, &["events"], "onset, laterality; details as written");
const EVENT_ONSET: Field = Field::new(Shape::Time, &["onsetdate"], "of `events`: `effective`");
const EVENT_START: Field =
    Field::new(Shape::Time, &["startdate", "eventdate"], "of `events`: `effective`, without an onset");
const NOTER: Field =
    Field::new(Shape::Text, &["createdby", "provider", "diagnosedby", "recordedby", "lastmodifiedby"], "performer");
const RECORDED: Field = Field::new(
    Shape::Time,
    &["createddate", "createddatetime", "recordeddate", "dateadded", "entereddate"],
    "`issued`",
);
const ENCOUNTER: Field = Field::new(Shape::Id, &["encounterid"], "encounter");

pub const FIELDS: [&Field; 19] = [
    &LIST,
    &NONE_KNOWN,
    &ID,
    &NAME,
    &CODE,
    &CODESET,
    &SNOMED_CODE,
    &ICD_CODE,
    &STATUS,
    &SEVERITY,
    &LATERALITY,
    &ONSET,
    &END,
    &EVENTS,
    &EVENT_ONSET,
    &EVENT_START,
    &NOTER,
    &RECORDED,
    &ENCOUNTER,
];

const MARKS: [&Field; 5] = [&ID, &NAME, &CODE, &SNOMED_CODE, &ICD_CODE];

/// Whether the payload's shape is one of problems.
pub fn read(reader: &mut Reader<'_, '_>) -> bool {
    let stated = sections::read(reader, &NONE_KNOWN, &sections::PROBLEMS);
    let spec = Spec { list: &LIST, marks: &MARKS, beside: &[&NONE_KNOWN] };
    let Some(items) = shape::items(reader, reader.event().payload, &payload(), &spec) else { return stated.is_there };
    for item in items {
        if item.has_any(&MARKS) {
            let (node, place) = (item.node, item.place.clone());
            reader.part(node, &place, |reader| problem(reader, &item));
        } else {
            other::part(reader, item.node, &item.place);
        }
    }
    true
}

fn problem<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> Option<Draft> {
    let mut notes = Vec::new();
    let mut finding = Finding::new("problem", "assertion");
    let name = fields.get(reader, &NAME);
    let codings = codings(reader, fields, &mut notes);
    if name.is_none() && (fields.has(&NAME) || codings.is_empty()) {
        if !fields.has(&NAME) {
            reader.issue(Severity::Error, "required", fields.node, &fields.place, "Does not name the problem.");
        }
        return None;
    }
    match &name {
        Some(name) => finding.evidence.push(parts::evidence(name.node, &name.place, "athena.problem.name")),
        None => finding.evidence.push(parts::evidence(fields.node, &fields.place, "athena.problem.name")),
    }
    finding.code = value::concept(&codings, name.map(|name| name.text));
    let (onset, side) = events(reader, fields);
    let own_onset = reader.time(fields, &ONSET);
    let end = reader.end(fields, &END);
    let is_resolved = fold(&end.name).starts_with("resol");
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
        None if end.has_come && is_resolved => finding.clinical_status = Some("resolved".to_owned()),
        None if end.has_come => finding.clinical_status = Some("inactive".to_owned()),
        None => {}
    }
    if finding.code.text.as_deref().is_some_and(status::denies) {
        finding.negate();
    }
    finding.status = finding.verification_status.clone().or_else(|| finding.clinical_status.clone());
    finding.severity = reader.text(fields, &SEVERITY);
    let own_side = reader.text(fields, &LATERALITY);
    fields.keep(&LATERALITY);
    finding.laterality = own_side.as_deref().or(side.as_deref()).and_then(|side| laterality::of_text(side));
    finding.performer = named(reader.text(fields, &NOTER));
    finding.encounter = encounter(reader.text(fields, &ENCOUNTER));
    finding.issued = reader.time(fields, &RECORDED).map(|time| time.text);
    let when = reader.when(own_onset.or(onset), end.time.as_ref());
    let id = reader.text(fields, &ID);
    seal(&mut finding, fields, &notes, &when);
    Some(Draft {
        resource_type: "AthenaProblem",
        category: "problems",
        id,
        measures: false,
        beside: None,
        status: finding.status.clone(),
        when,
        findings: vec![finding],
    })
}

/// The declared code first, then what else is said. A code without a system has one if its form is that of ICD-10.
fn codings<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>, notes: &mut Vec<Note>) -> Vec<Coding> {
    let mut codings = Vec::new();
    let codeset = reader.text(fields, &CODESET).map(|codeset| value::system_of(&codeset));
    if let Some(said) = fields.get(reader, &CODE) {
        let system = codeset.or_else(|| {
            let is_icd10 = value::is_icd10(&said.text);
            is_icd10.then(|| {
                notes.push(note("code_system_source", "derived"));
                ICD10.to_owned()
            })
        });
        if system.as_deref() == Some(ICD10) {
            check_icd10(reader, &said);
        }
        codings.push(Coding { system, code: said.text, display: None });
    }
    codings.extend(reader.text(fields, &SNOMED_CODE).map(|code| Coding::new(SNOMED, code)));
    if let Some(said) = fields.get(reader, &ICD_CODE) {
        check_icd10(reader, &said);
        codings.push(Coding::new(ICD10, said.text));
    }
    codings
}

fn check_icd10<'a>(reader: &mut Reader<'_, 'a>, said: &Said<'a>) {
    if !value::is_icd10(&said.text) {
        let sentence = "Has not the form of an ICD-10-CM code.";
        reader.issue(Severity::Warning, "code-invalid", said.node, &said.place, sentence);
    }
}

/// The first onset and the first side that the events say.
fn events<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> (Option<Time>, Option<String>) {
    let (mut onset, mut start, mut side) = (None, None, None);
    let Some(list) = fields.get(reader, &EVENTS) else { return (None, None) };
    fields.keep(&EVENTS);
    for (index, node) in list.node.items().into_iter().enumerate().take(super::NESTED_MAX) {
        let place = list.place.item(index);
        let Some(object) = node.object() else {
            if node.kind() != Kind::Null {
                reader.issue(Severity::Warning, "structure", node, &place, Shape::Object.fault());
            }
            continue;
        };
        let event = Fields::of(&object, place);
        let first_onset = reader.time(&event, &EVENT_ONSET);
        let first_start = reader.time(&event, &EVENT_START);
        onset = onset.or(first_onset);
        start = start.or(first_start);
        side = side.or(reader.text(&event, &LATERALITY));
    }
    (onset.or(start), side)
}
