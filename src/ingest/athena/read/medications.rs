//! Medications: athenahealth's list of lists, and flat medications.

use super::fields::{Field, Fields, Shape, fold};
use super::reader::{Draft, Reader, Time, encounter, named, payload, seal};
use super::shape::{self, Spec};
use super::value::{self, Coding, NDC, RXNORM};
use super::{other, status};
use crate::ingest::fhir::issue::Severity;
use crate::ingest::fhir::node::Kind;
use crate::ingest::findings::{Finding, parts};

const LIST: Field =
    Field::new(Shape::Array, &["medications", "medicationlist", "meds", "prescriptions"], "the parts").essential();
const NONE_REPORTED: Field = Field::new(
    Shape::Flag,
    &["nomedicationsreported", "noknownmedications"],
    "true: a negation, `No known medications`",
);
const ID: Field = Field::new(Shape::Id, &["medicationentryid", "prescriptionid"], "identity");
const NAME: Field = Field::new(
    Shape::Text,
    &["medication", "medicationname", "drugname", "drug", "name", "description"],
    "`code_text`",
)
.essential();
const RXNORM_CODE: Field = Field::new(Shape::Id, &["rxnormcode", "rxnorm", "rxcui"], "`code`, RxNorm");
const NDC_CODE: Field = Field::new(Shape::Id, &["ndc", "ndccode"], "`code`, NDC");
const SIG: Field = Field::new(Shape::Long, &["unstructuredsig", "sig", "directions", "instructions"], "`dosage.sig`");
const STRUCTURED_SIG: Field = Field::new(Shape::Object, &["structuredsig"], "`dosage.structuredsig`, as written");
const DOSE: Field = Field::new(Shape::Value, &["dose", "dosage", "strength"], "`dosage.dose`");
const ROUTE: Field = Field::new(Shape::Text, &["route", "dosageroute"], "`dosage.route`");
const FREQUENCY: Field = Field::new(Shape::Text, &["frequency", "dosagefrequency"], "`dosage.frequency`");
const QUANTITY: Field = Field::new(Shape::Value, &["quantity", "quantityvalue"], "`dosage.quantity`");
const REFILLS: Field = Field::new(Shape::Value, &["refills", "refillsallowed"], "`dosage.refills`");
const STATUS: Field = Field::new(Shape::Text, &["status", "medicationstatus"], "`status`; details as written");
const DISCONTINUED: Field =
    Field::new(Shape::Flag, &["isdiscontinued", "discontinued"], "true: `status` stopped; details as written");
const START: Field = Field::new(
    Shape::Time,
    &["startdate", "start", "effectivedate", "dateprescribed", "prescribeddate", "orderdate", "ordereddate", "date"],
    "`effective`",
);
const END: Field = Field::new(
    Shape::Time,
    &["enddate", "stopdate", "end", "discontinueddate", "expirationdate"],
    "end of `effective`",
);
const EVENTS: Field = Field::new(Shape::Array, &["events"], "START, ORDER, ENTER, END by type; details as written");
const EVENT_TYPE: Field = Field::new(Shape::Text, &["type", "eventtype"], "of `events`: which time it is");
const EVENT_DATE: Field = Field::new(Shape::Time, &["eventdate", "date"], "of `events`: the time");
const PRESCRIBER: Field = Field::new(
    Shape::Text,
    &["prescribedby", "prescriber", "orderingprovider", "provider", "approvedby", "createdby"],
    "performer",
);
const ENCOUNTER: Field = Field::new(Shape::Id, &["encounterid"], "encounter");

pub const FIELDS: [&Field; 22] = [
    &LIST,
    &NONE_REPORTED,
    &ID,
    &NAME,
    &RXNORM_CODE,
    &NDC_CODE,
    &SIG,
    &STRUCTURED_SIG,
    &DOSE,
    &ROUTE,
    &FREQUENCY,
    &QUANTITY,
    &REFILLS,
    &STATUS,
    &DISCONTINUED,
    &START,
    &END,
    &EVENTS,
    &EVENT_TYPE,
    &EVENT_DATE,
    &PRESCRIBER,
    &ENCOUNTER,
];

const MARKS: [&Field; 7] = [&ID, &NAME, &RXNORM_CODE, &NDC_CODE, &SIG, &STRUCTURED_SIG, &DOSE];

/// Whether the payload's shape is one of medications.
pub fn read(reader: &mut Reader<'_, '_>) -> bool {
    let stated = super::sections::read(reader, &NONE_REPORTED, &super::sections::MEDICATIONS);
    let spec = Spec { list: &LIST, marks: &MARKS, beside: &[&NONE_REPORTED] };
    let Some(items) = shape::items(reader, reader.event().payload, &payload(), &spec) else { return stated.is_there };
    for item in items {
        if item.has_any(&MARKS) {
            let (node, place) = (item.node, item.place.clone());
            reader.part(node, &place, |reader| medication(reader, &item));
        } else {
            other::part(reader, item.node, &item.place);
        }
    }
    true
}

/// The times that the events of a medication say.
#[derive(Default)]
struct Events {
    start: Option<Time>,
    order: Option<Time>,
    enter: Option<Time>,
    end: Option<Time>,
}

fn medication<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> Option<Draft> {
    let mut finding = Finding::new("medication", "assertion");
    let Some(name) = fields.get(reader, &NAME) else {
        if !fields.has(&NAME) {
            reader.issue(Severity::Error, "required", fields.node, &fields.place, "Does not name the medication.");
        }
        return None;
    };
    let mut codings = Vec::new();
    for (field, system) in [(&RXNORM_CODE, RXNORM), (&NDC_CODE, NDC)] {
        codings.extend(reader.text(fields, field).map(|code| Coding::new(system, code)));
    }
    finding.code = value::concept(&codings, Some(name.text));
    finding.evidence.push(parts::evidence(name.node, &name.place, "athena.medication.name"));
    finding.dosage = dosage(reader, fields);
    let declared = reader.text(fields, &STATUS);
    fields.keep(&STATUS);
    let is_discontinued = reader.flag(fields, &DISCONTINUED);
    fields.keep(&DISCONTINUED);
    finding.status = match (is_discontinued, declared) {
        (Some(true), _) => Some("stopped".to_owned()),
        (_, Some(declared)) => Some(status::of_medication(&declared)),
        (Some(false), None) => Some("active".to_owned()),
        (None, None) => None,
    };
    let denies = finding.code.text.as_deref().is_some_and(status::denies);
    if denies || finding.status.as_deref() == Some("not-taken") {
        finding.negate();
    }
    let events = events(reader, fields);
    let end = reader.end(fields, &END).time.or(events.end);
    let start = reader.time(fields, &START).or(events.start).or(events.order);
    finding.issued = events.enter.as_ref().map(|time| time.text.clone());
    let when = reader.when(start.or(events.enter), end.as_ref());
    finding.performer = named(reader.text(fields, &PRESCRIBER));
    finding.encounter = encounter(reader.text(fields, &ENCOUNTER));
    let id = reader.text(fields, &ID);
    seal(&mut finding, fields, &[], &when);
    Some(Draft {
        resource_type: "AthenaMedication",
        category: "medications",
        id,
        measures: false,
        beside: None,
        status: finding.status.clone(),
        when,
        findings: vec![finding],
    })
}

/// Sig, dose, route, frequency, quantity: one JSON object, each as written.
fn dosage<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> Option<String> {
    let mut dosage = parts::Details::default();
    let all = [
        ("sig", &SIG),
        ("structuredsig", &STRUCTURED_SIG),
        ("dose", &DOSE),
        ("route", &ROUTE),
        ("frequency", &FREQUENCY),
        ("quantity", &QUANTITY),
        ("refills", &REFILLS),
    ];
    for (name, field) in all {
        if let Some(said) = fields.get(reader, field) {
            dosage.said(name, said.node.text());
        }
    }
    dosage.json()
}

fn events<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> Events {
    let mut found = Events::default();
    let Some(list) = fields.get(reader, &EVENTS) else { return found };
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
        let time = reader.time(&event, &EVENT_DATE).filter(|time| time.at.is_some());
        let kind = reader.text(&event, &EVENT_TYPE).map(|kind| fold(&kind));
        let slot = match kind.as_deref() {
            Some("start") => &mut found.start,
            Some("order") => &mut found.order,
            Some("enter") => &mut found.enter,
            Some("end" | "stop" | "discontinue") => &mut found.end,
            _ => continue,
        };
        if slot.is_none() {
            *slot = time;
        }
    }
    found
}
