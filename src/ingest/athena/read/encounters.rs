//! Encounters and appointments.

use super::fields::{Field, Fields, Shape};
use super::reader::{CLOCK, Draft, Reader, encounter, named, payload, seal};
use super::shape::{self, Spec};
use super::{other, status, value};
use crate::ingest::findings::{Finding, Value, parts};

const LIST: Field = Field::new(Shape::Array, &["encounters", "appointments", "visits"], "the parts").essential();
const ENCOUNTER_ID: Field = Field::new(Shape::Id, &["encounterid", "visitid"], "identity; encounter");
const APPOINTMENT_ID: Field =
    Field::new(Shape::Id, &["appointmentid"], "identity, without `encounterid`; details as written");
const NAME: Field = Field::new(
    Shape::Text,
    &[
        "encountervisitname",
        "patientappointmenttypename",
        "appointmenttype",
        "visittype",
        "visitname",
        "encountertypename",
        "name",
        "description",
    ],
    "`code_text`",
)
.essential();
const CLASS: Field =
    Field::new(Shape::Text, &["encountertype", "type", "class"], "`value`; the name, if there is no other");
const DATE: Field = Field::new(
    Shape::Time,
    &["encounterdate", "appointmentdate", "visitdate", "startdate", "startdatetime", "start", "date"],
    "`effective`, with the time of day",
);
const END: Field =
    Field::new(Shape::Time, &["enddate", "enddatetime", "end", "closeddate", "dischargedate"], "end of `effective`");
const STATUS: Field = Field::new(
    Shape::Text,
    &["encounterstatus", "appointmentstatus", "status"],
    "`status`: planned, arrived, in-progress, finished, cancelled; details as written",
);
const PROVIDER: Field = Field::new(
    Shape::Text,
    &["providername", "provider", "providerlastname", "renderingprovider"],
    "performer; details as written",
);
const DIAGNOSES: Field = Field::new(Shape::Array, &["diagnoses"], "details as written");
const UPDATED: Field = Field::new(Shape::Time, &["lastupdated", "lastmodified", "lastmodifieddatetime"], "`issued`");

pub const FIELDS: [&Field; 12] = [
    &LIST,
    &ENCOUNTER_ID,
    &APPOINTMENT_ID,
    &NAME,
    &CLASS,
    &DATE,
    &CLOCK,
    &END,
    &STATUS,
    &PROVIDER,
    &DIAGNOSES,
    &UPDATED,
];

const MARKS: [&Field; 5] = [&ENCOUNTER_ID, &APPOINTMENT_ID, &NAME, &CLASS, &DATE];

/// Whether the payload's shape is one of encounters.
pub fn read(reader: &mut Reader<'_, '_>) -> bool {
    let spec = Spec { list: &LIST, marks: &MARKS, beside: &[] };
    let Some(items) = shape::items(reader, reader.event().payload, &payload(), &spec) else { return false };
    for item in items {
        if item.has_any(&MARKS) {
            let (node, place) = (item.node, item.place.clone());
            reader.part(node, &place, |reader| visit(reader, &item));
        } else {
            other::part(reader, item.node, &item.place);
        }
    }
    true
}

#[expect(clippy::unnecessary_wraps, reason = "what reads a part may find none")]
fn visit<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> Option<Draft> {
    let mut finding = Finding::new("encounter", "assertion");
    let name = fields.get(reader, &NAME);
    let class = fields.get(reader, &CLASS);
    let stated = name.as_ref().or(class.as_ref());
    let named_by = stated.map_or((fields.node, &fields.place), |name| (name.node, &name.place));
    finding.evidence.push(parts::evidence(named_by.0, named_by.1, "athena.encounter.type"));
    finding.code = value::concept(&[], stated.map(|stated| stated.text.clone()));
    if let Some(class) = class {
        if name.is_some() {
            finding.evidence.push(parts::evidence(class.node, &class.place, "athena.encounter.class"));
        }
        finding.value = Value { kind: Some("string"), text: Some(class.text), ..Value::default() };
    }
    let encounter_id = reader.text(fields, &ENCOUNTER_ID);
    let appointment_id = reader.text(fields, &APPOINTMENT_ID);
    fields.keep(&APPOINTMENT_ID);
    finding.encounter = encounter(encounter_id.clone());
    finding.status = reader.text(fields, &STATUS).as_deref().map(status::of_encounter);
    fields.keep(&STATUS);
    finding.performer = named(reader.text(fields, &PROVIDER));
    fields.keep(&PROVIDER);
    // Looked at for its type only.
    let _ = fields.get(reader, &DIAGNOSES);
    fields.keep(&DIAGNOSES);
    finding.issued = reader.time(fields, &UPDATED).map(|time| time.text);
    let start = reader.moment(fields, &DATE);
    let end = reader.time(fields, &END);
    let when = reader.when(start, end.as_ref());
    seal(&mut finding, fields, &[], &when);
    Some(Draft {
        resource_type: "AthenaEncounter",
        category: "encounters",
        id: encounter_id.or_else(|| appointment_id.map(|id| format!("appointment:{id}"))),
        measures: false,
        beside: None,
        status: finding.status.clone(),
        when,
        findings: vec![finding],
    })
}
