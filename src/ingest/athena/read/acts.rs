//! Immunizations and procedures.

use super::fields::{Field, Fields, Shape};
use super::reader::{CLOCK, Draft, Reader, encounter, named, note, payload, seal};
use super::shape::{self, Spec};
use super::value::{self, CPT, CVX, Coding, HCPCS, NDC, SNOMED};
use super::{other, status};
use crate::ingest::fhir::issue::Severity;
use crate::ingest::findings::{Finding, laterality, parts};
use serde_json::json;

const VACCINES: Field =
    Field::new(Shape::Array, &["vaccines", "immunizations", "immunisations", "vaccinations"], "the parts").essential();
const VACCINE_ID: Field =
    Field::new(Shape::Id, &["vaccineid", "immunizationid", "patientvaccineid", "vaccineidentifier"], "identity");
const VACCINE: Field = Field::new(
    Shape::Text,
    &["description", "vaccinename", "vaccine", "immunization", "immunizationname", "name"],
    "`code_text`",
)
.essential();
const CVX_CODE: Field = Field::new(Shape::Id, &["cvx", "cvxcode", "code"], "`code`, CVX");
const NDC_CODE: Field = Field::new(Shape::Id, &["ndc", "ndccode"], "one more code, NDC");
const GIVEN: Field = Field::new(
    Shape::Time,
    &["administerdate", "administereddate", "administerdatetime", "dateadministered", "dategiven", "givendate", "date"],
    "`effective`",
);
const VACCINE_STATUS: Field =
    Field::new(Shape::Text, &["status"], "`status`: completed, not-done (a negation), …; details as written");
const REFUSED: Field = Field::new(
    Shape::Time,
    &["refuseddate", "refuseddatetime", "declineddate"],
    "`status` not-done, a negation; details as written",
);
const REFUSAL: Field = Field::new(
    Shape::Text,
    &["refusedreason", "refusalreason", "declinedreason"],
    "`status` not-done, a negation; details as written",
);
const DELETED: Field =
    Field::new(Shape::Time, &["deleteddate", "deleteddatetime"], "`status` entered-in-error; details as written");
const AMOUNT: Field = Field::new(Shape::Value, &["amount", "dose", "doseamount"], "`dosage.amount`");
const AMOUNT_UNIT: Field = Field::new(Shape::Text, &["units", "unit", "doseunit"], "`dosage.unit`");
const ROUTE: Field = Field::new(Shape::Text, &["administerroute", "route"], "`dosage.route`");
const SITE: Field = Field::new(Shape::Text, &["administersite", "site", "bodysite"], "`body_site`, `laterality`");
const GIVER: Field =
    Field::new(Shape::Text, &["administeredby", "administerstaff", "provider", "orderedby", "enteredby"], "performer");
const ENTERED: Field = Field::new(Shape::Time, &["entereddate", "enteredbydate", "createddate"], "`issued`");
const ENCOUNTER: Field = Field::new(Shape::Id, &["encounterid"], "encounter");

pub const IMMUNIZATION_FIELDS: [&Field; 18] = [
    &VACCINES,
    &VACCINE_ID,
    &VACCINE,
    &CVX_CODE,
    &NDC_CODE,
    &GIVEN,
    &CLOCK,
    &VACCINE_STATUS,
    &REFUSED,
    &REFUSAL,
    &DELETED,
    &AMOUNT,
    &AMOUNT_UNIT,
    &ROUTE,
    &SITE,
    &GIVER,
    &ENTERED,
    &ENCOUNTER,
];

const VACCINE_MARKS: [&Field; 4] = [&VACCINE_ID, &VACCINE, &CVX_CODE, &NDC_CODE];

const PROCEDURES: Field =
    Field::new(Shape::Array, &["procedures", "surgicalhistory", "surgeries"], "the parts").essential();
const PROCEDURE_ID: Field = Field::new(Shape::Id, &["procedureid", "surgeryid"], "identity");
const PROCEDURE: Field = Field::new(
    Shape::Text,
    &["procedurename", "procedure", "proceduredescription", "description", "surgery", "name"],
    "`code_text`",
)
.essential();
const PROCEDURE_CODE: Field = Field::new(Shape::Id, &["procedurecode", "cptcode", "cpt", "code"], "`code`");
const CODESET: Field = Field::new(Shape::Text, &["codeset", "codesystem"], "system of the code");
const SNOMED_CODE: Field = Field::new(Shape::Id, &["snomedcode", "snomed"], "one more code, SNOMED CT");
const PERFORMED: Field = Field::new(
    Shape::Time,
    &["dateperformed", "performeddate", "proceduredate", "performed", "surgerydate", "servicedate", "date"],
    "`effective`",
);
const PROCEDURE_STATUS: Field = Field::new(
    Shape::Text,
    &["status", "procedurestatus"],
    "`status`: completed, not-done (a negation), …; details as written",
);
const BODY_SITE: Field = Field::new(Shape::Text, &["bodysite", "site"], "`body_site`, `laterality`");
const LATERALITY: Field = Field::new(Shape::Text, &["laterality", "side"], "`laterality`; details as written");
const PERFORMER: Field =
    Field::new(Shape::Text, &["performedby", "provider", "surgeon", "providerusername", "createdby"], "performer");
const CREATED: Field = Field::new(Shape::Time, &["createddate", "createddatetime", "entereddate"], "`issued`");

pub const PROCEDURE_FIELDS: [&Field; 14] = [
    &PROCEDURES,
    &PROCEDURE_ID,
    &PROCEDURE,
    &PROCEDURE_CODE,
    &CODESET,
    &SNOMED_CODE,
    &PERFORMED,
    &CLOCK,
    &PROCEDURE_STATUS,
    &BODY_SITE,
    &LATERALITY,
    &PERFORMER,
    &CREATED,
    &ENCOUNTER,
];

const PROCEDURE_MARKS: [&Field; 4] = [&PROCEDURE_ID, &PROCEDURE, &PROCEDURE_CODE, &SNOMED_CODE];

/// Whether the payload's shape is one of immunizations.
pub fn read_immunizations(reader: &mut Reader<'_, '_>) -> bool {
    read(reader, &Spec { list: &VACCINES, marks: &VACCINE_MARKS, beside: &[] }, immunization)
}

/// Whether the payload's shape is one of procedures.
pub fn read_procedures(reader: &mut Reader<'_, '_>) -> bool {
    read(reader, &Spec { list: &PROCEDURES, marks: &PROCEDURE_MARKS, beside: &[] }, procedure)
}

fn read<'a>(
    reader: &mut Reader<'_, 'a>,
    spec: &Spec,
    one: impl Fn(&mut Reader<'_, 'a>, &Fields<'a>) -> Option<Draft>,
) -> bool {
    let Some(items) = shape::items(reader, reader.event().payload, &payload(), spec) else { return false };
    for item in items {
        if item.has_any(spec.marks) {
            let (node, place) = (item.node, item.place.clone());
            reader.part(node, &place, |reader| one(reader, &item));
        } else {
            other::part(reader, item.node, &item.place);
        }
    }
    true
}

fn immunization<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> Option<Draft> {
    let mut finding = Finding::new("immunization", "administration");
    let name = fields.get(reader, &VACCINE);
    let mut codings = Vec::new();
    for (field, system) in [(&CVX_CODE, CVX), (&NDC_CODE, NDC)] {
        codings.extend(reader.text(fields, field).map(|code| Coding::new(system, code)));
    }
    if name.is_none() && (fields.has(&VACCINE) || codings.is_empty()) {
        if !fields.has(&VACCINE) {
            reader.issue(Severity::Error, "required", fields.node, &fields.place, "Does not name the vaccine.");
        }
        return None;
    }
    let named_by = name.as_ref().map_or((fields.node, &fields.place), |name| (name.node, &name.place));
    finding.evidence.push(parts::evidence(named_by.0, named_by.1, "athena.immunization.name"));
    finding.code = value::concept(&codings, name.map(|name| name.text));
    let mut dosage = parts::Details::default();
    for (name, field) in [("amount", &AMOUNT), ("unit", &AMOUNT_UNIT), ("route", &ROUTE)] {
        if let Some(said) = fields.get(reader, field) {
            dosage.said(name, said.node.text());
        }
    }
    finding.dosage = dosage.json();
    let site = reader.text(fields, &SITE);
    finding.laterality = site.as_deref().and_then(laterality::of_text);
    finding.body_site = site.map(|site| json!({ "text": site }).to_string());
    finding.performer = named(reader.text(fields, &GIVER));
    finding.issued = reader.time(fields, &ENTERED).map(|time| time.text);
    let id = reader.text(fields, &VACCINE_ID);
    let given = reader.past(fields, &GIVEN);
    let when = reader.when(given, None);
    done(reader, fields, &mut finding, &VACCINE_STATUS);
    let refused = reader.end(fields, &REFUSED).has_come;
    let refusal = reader.text(fields, &REFUSAL).is_some_and(|reason| !status::is_placeholder(&reason));
    let is_deleted = reader.end(fields, &DELETED).has_come;
    for field in [&REFUSED, &REFUSAL, &DELETED] {
        fields.keep(field);
    }
    if refused || refusal {
        finding.status = Some("not-done".to_owned());
        finding.negate();
    }
    if is_deleted {
        finding.status = Some("entered-in-error".to_owned());
    }
    seal(&mut finding, fields, &[], &when);
    Some(Draft {
        resource_type: "AthenaImmunization",
        category: "immunizations",
        id,
        measures: false,
        beside: None,
        status: finding.status.clone(),
        when,
        findings: vec![finding],
    })
}

fn procedure<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> Option<Draft> {
    let mut notes = Vec::new();
    let mut finding = Finding::new("procedure", "assertion");
    let name = fields.get(reader, &PROCEDURE);
    let codeset = reader.text(fields, &CODESET).map(|codeset| value::system_of(&codeset));
    let mut codings = Vec::new();
    if let Some(code) = reader.text(fields, &PROCEDURE_CODE) {
        let system = codeset.or_else(|| {
            let system = procedure_system(&code)?;
            notes.push(note("code_system_source", "derived"));
            Some(system.to_owned())
        });
        codings.push(Coding { system, code, display: None });
    }
    codings.extend(reader.text(fields, &SNOMED_CODE).map(|code| Coding::new(SNOMED, code)));
    if name.is_none() && (fields.has(&PROCEDURE) || codings.is_empty()) {
        if !fields.has(&PROCEDURE) {
            reader.issue(Severity::Error, "required", fields.node, &fields.place, "Does not name the procedure.");
        }
        return None;
    }
    let named_by = name.as_ref().map_or((fields.node, &fields.place), |name| (name.node, &name.place));
    finding.evidence.push(parts::evidence(named_by.0, named_by.1, "athena.procedure.name"));
    finding.code = value::concept(&codings, name.map(|name| name.text));
    let site = reader.text(fields, &BODY_SITE);
    let stated = reader.text(fields, &LATERALITY);
    fields.keep(&LATERALITY);
    finding.laterality = stated.as_deref().or(site.as_deref()).and_then(laterality::of_text);
    finding.body_site = site.map(|site| json!({ "text": site }).to_string());
    finding.performer = named(reader.text(fields, &PERFORMER));
    finding.issued = reader.time(fields, &CREATED).map(|time| time.text);
    let id = reader.text(fields, &PROCEDURE_ID);
    let performed = reader.moment(fields, &PERFORMED);
    let when = reader.when(performed, None);
    done(reader, fields, &mut finding, &PROCEDURE_STATUS);
    seal(&mut finding, fields, &notes, &when);
    Some(Draft {
        resource_type: "AthenaProcedure",
        category: "procedures",
        id,
        measures: false,
        beside: None,
        status: finding.status.clone(),
        when,
        findings: vec![finding],
    })
}

/// What was done, or was not; and in which encounter.
fn done<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>, finding: &mut Finding, field: &Field) {
    finding.status = reader.text(fields, field).as_deref().map(status::of_act);
    fields.keep(field);
    if finding.status.as_deref() == Some("not-done") {
        finding.negate();
    }
    finding.encounter = encounter(reader.text(fields, &ENCOUNTER));
}

/// CPT codes are five characters that begin with four digits; HCPCS codes a letter and four digits.
fn procedure_system(code: &str) -> Option<&'static str> {
    let bytes = code.as_bytes();
    let is_digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    match bytes {
        [first, rest @ ..] if rest.len() == 4 && first.is_ascii_uppercase() && is_digits(rest) => Some(HCPCS),
        [first @ .., last] if first.len() == 4 && is_digits(first) && last.is_ascii_alphanumeric() => Some(CPT),
        _ => None,
    }
}
