//! Laboratory results: athenahealth's results with their analytes, and flat results.

use super::fields::{Field, Fields, Shape};
use super::reader::{CLOCK, Draft, Note, Reader, Time, encounter, named, note, payload, seal};
use super::shape::{self, Spec};
use super::value::{self, Coding, LOINC};
use super::{analytes, other, status};
use crate::ingest::fhir::issue::Severity;
use crate::ingest::fhir::node::Kind;
use crate::ingest::findings::{Finding, interpretation, parts};
use serde_json::json;

const LIST: Field = Field::new(Shape::Array, &["results", "labresults", "labs"], "the results").essential();
const ANALYTES: Field =
    Field::new(Shape::Array, &["analytes", "observations", "components", "tests"], "the parts").essential();
const RESULT_ID: Field = Field::new(Shape::Id, &["labresultid", "resultid"], "identity, with `analyteid`");
const ANALYTE_ID: Field = Field::new(Shape::Id, &["analyteid", "observationid"], "identity, with `labresultid`");
const PANEL: Field =
    Field::new(Shape::Text, &["description", "panel", "panelname"], "name of the panel: `component_of`");
const NAME: Field = Field::new(
    Shape::Text,
    &["analytename", "testname", "labname", "test", "name", "analyte", "observationidentifier", "description"],
    "`code_text`",
)
.essential();
const CODE: Field = Field::new(Shape::Id, &["loinc", "loinccode", "code"], "`code`");
const CODESET: Field = Field::new(Shape::Text, &["codeset", "codesystem"], "system of the code");
const VALUE: Field = Field::new(Shape::Value, &["value", "result", "resultvalue", "valuetext"], "`value`").essential();
const UNIT: Field = Field::new(Shape::Text, &["units", "unit", "uom"], "`unit`, and UCUM where it is known");
const RANGE: Field = Field::new(
    Shape::Text,
    &["referencerange", "normalrange", "refrange", "range", "reference"],
    "`reference_range`; an interpretation is derived from it",
);
const FLAG: Field = Field::new(
    Shape::Text,
    &["abnormalflag", "flag", "interpretation", "abnormal"],
    "`interpretation` in HL7's code, declared; details as written",
);
const STATUS: Field =
    Field::new(Shape::Text, &["resultstatus", "status", "reportstatus"], "`status`; details as written");
const TAKEN: Field = Field::new(
    Shape::Time,
    &[
        "analytedatetime",
        "analytedate",
        "observationdatetime",
        "observationdate",
        "collecteddatetime",
        "collecteddate",
        "collectedat",
        "collectiondate",
        "specimendate",
        "resultdate",
        "resultdatetime",
        "datetime",
        "date",
    ],
    "`effective`",
);
const ISSUED: Field = Field::new(
    Shape::Time,
    &["createddatetime", "createddate", "reporteddate", "issued"],
    "`issued`; `effective`, if nothing else says when",
);
const ENCOUNTER: Field = Field::new(Shape::Id, &["encounterid"], "encounter");
const PROVIDER: Field = Field::new(
    Shape::Text,
    &["performinglabname", "lab", "laboratoryname", "orderingprovider", "provider", "providerusername"],
    "performer",
);

pub const FIELDS: [&Field; 18] = [
    &LIST,
    &ANALYTES,
    &RESULT_ID,
    &ANALYTE_ID,
    &PANEL,
    &NAME,
    &CODE,
    &CODESET,
    &VALUE,
    &UNIT,
    &RANGE,
    &FLAG,
    &STATUS,
    &TAKEN,
    &CLOCK,
    &ISSUED,
    &ENCOUNTER,
    &PROVIDER,
];

const MARKS: [&Field; 7] = [&ANALYTES, &RESULT_ID, &ANALYTE_ID, &NAME, &VALUE, &CODE, &RANGE];

/// What the analytes of one result share.
#[derive(Default)]
struct Shared {
    result_id: Option<String>,
    panel: Option<String>,
    status: Option<String>,
    taken: Option<Time>,
    issued: Option<Time>,
    encounter: Option<String>,
    performer: Option<String>,
}

impl Shared {
    /// What of it shows in the findings, as one text; nothing for a flat result.
    fn text(&self) -> Option<String> {
        let time = |time: &Option<Time>| time.as_ref().map(|time| time.text.clone());
        let said = [
            self.panel.clone(),
            self.status.clone(),
            time(&self.taken),
            time(&self.issued),
            self.encounter.clone(),
            self.performer.clone(),
        ];
        said.iter().any(Option::is_some).then(|| json!(said).to_string())
    }
}

/// Whether the payload's shape is one of laboratory results.
pub fn read(reader: &mut Reader<'_, '_>) -> bool {
    let spec = Spec { list: &LIST, marks: &MARKS, beside: &[] };
    let Some(items) = shape::items(reader, reader.event().payload, &payload(), &spec) else { return false };
    for item in items {
        if item.has(&ANALYTES) {
            result(reader, &item);
        } else if item.has_any(&MARKS) {
            let (node, place) = (item.node, item.place.clone());
            reader.part(node, &place, |reader| analyte(reader, &item, &Shared::default()));
        } else {
            other::part(reader, item.node, &item.place);
        }
    }
    true
}

/// A result with its analytes: each one is a part.
fn result<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) {
    let Some(analytes) = fields.any(&ANALYTES) else { return };
    if analytes.node.kind() != Kind::Array {
        reader.refuse(analytes.node, &analytes.place, ANALYTES.shape.fault());
        return;
    }
    let items = analytes.node.items();
    if items.iter().all(|item| item.kind() == Kind::Null) {
        // Ordered, or without analytes: the result itself is what is known.
        fields.take(&ANALYTES);
        reader.part(fields.node, &fields.place, |reader| analyte(reader, fields, &Shared::default()));
        return;
    }
    let shared = Shared {
        result_id: reader.text(fields, &RESULT_ID),
        panel: fields.shared(reader, &PANEL),
        status: fields.shared(reader, &STATUS),
        taken: reader.past(fields, &TAKEN),
        issued: reader.time(fields, &ISSUED),
        encounter: reader.text(fields, &ENCOUNTER),
        performer: fields.shared(reader, &PROVIDER),
    };
    reader.unread(fields, analytes.node, &[]);
    for (index, item) in items.into_iter().enumerate() {
        if reader.is_over() {
            return;
        }
        let place = analytes.place.item(index);
        match (item.kind(), item.object()) {
            (Kind::Null, _) => {}
            (_, Some(object)) => {
                let fields = Fields::of(&object, place.clone());
                reader.part(item, &place, |reader| analyte(reader, &fields, &shared));
            }
            _ => reader.refuse(item, &place, Shape::Object.fault()),
        }
    }
}

fn analyte<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>, shared: &Shared) -> Option<Draft> {
    let mut notes = Vec::new();
    let mut finding = Finding::new("lab", "measurement");
    let name = fields.get(reader, &NAME);
    let coding = coding(reader, fields, &mut notes);
    if name.is_none() && coding.is_none() && !fields.has(&NAME) {
        reader.issue(Severity::Error, "required", fields.node, &fields.place, "Does not say what was measured.");
        return None;
    }
    if let (Some(name), Some(coding)) = (&name, &coding)
        && analytes::contradicts(&name.text, &coding.code)
        && let Some(said) = fields.any(&CODE)
    {
        reader.issue(Severity::Warning, "conflict", said.node, &said.place, analytes::CONFLICT);
    }
    if let Some(name) = &name {
        finding.evidence.push(parts::evidence(name.node, &name.place, "athena.lab.name"));
    }
    finding.code = value::concept(coding.as_slice(), name.map(|name| name.text));
    let unit = reader.text(fields, &UNIT);
    if let Some(said) = fields.get(reader, &VALUE) {
        finding.value = value::typed(&said.text);
        finding.evidence.push(parts::evidence(said.node, &said.place, "athena.lab.value"));
    } else if !fields.has(&VALUE) {
        reader.issue(Severity::Warning, "required", fields.node, &fields.place, "Has no value yet.");
    }
    if finding.evidence.is_empty() {
        finding.evidence.push(parts::evidence(fields.node, &fields.place, "athena.lab.name"));
    }
    finding.value.ucum = unit.as_deref().and_then(value::ucum).map(str::to_owned);
    finding.value.unit = unit;
    interpret(reader, fields, &mut finding);
    let status = reader.text(fields, &STATUS).or_else(|| shared.status.clone());
    fields.keep(&STATUS);
    finding.status = status.as_deref().map(status::of_result);
    let issued = reader.time(fields, &ISSUED).or_else(|| shared.issued.clone());
    finding.issued = issued.as_ref().map(|time| time.text.clone());
    finding.encounter = encounter(reader.text(fields, &ENCOUNTER).or_else(|| shared.encounter.clone()));
    finding.performer = named(reader.text(fields, &PROVIDER).or_else(|| shared.performer.clone()));
    finding.component_of = shared.panel.as_ref().map(|panel| json!({ "coding": [], "text": panel }).to_string());
    let taken = reader.past(fields, &TAKEN).or_else(|| shared.taken.clone()).or(issued);
    let when = reader.when(taken, None);
    let own = reader.text(fields, &ANALYTE_ID);
    let result_id = reader.text(fields, &RESULT_ID).or_else(|| shared.result_id.clone());
    let (result_id, own) = (result_id.map(|id| value::joined(&id)), own.map(|id| value::joined(&id)));
    let id = match (result_id, own) {
        (Some(result), Some(analyte)) => Some(format!("{result}/{analyte}")),
        (None, Some(analyte)) => Some(format!("analyte:{analyte}")),
        // The name tells the analytes of a result apart; a result without analytes is itself.
        (Some(result), None) => Some(match fields.any(&NAME).filter(|name| name.text.len() <= 200) {
            Some(name) => format!("{result}/{}", value::joined(&name.text)),
            None => result,
        }),
        (None, None) => None,
    };
    seal(&mut finding, fields, &notes, &when);
    Some(Draft {
        resource_type: "AthenaLab",
        category: "labs",
        id,
        measures: true,
        beside: shared.text(),
        status: finding.status.clone(),
        when,
        findings: vec![finding],
    })
}

/// A code without a system is LOINC if it has LOINC's form.
fn coding<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>, notes: &mut Vec<Note>) -> Option<Coding> {
    let codeset = reader.text(fields, &CODESET);
    let said = fields.get(reader, &CODE)?;
    let is_named_so = said.name.to_ascii_lowercase().contains("loinc");
    let system = match codeset {
        Some(codeset) => Some(value::system_of(&codeset)),
        None if is_named_so => Some(LOINC.to_owned()),
        None if value::is_loinc(&said.text) => {
            notes.push(note("code_system_source", "derived"));
            Some(LOINC.to_owned())
        }
        None => None,
    };
    if system.as_deref() == Some(LOINC) && !value::is_loinc(&said.text) {
        reader.issue(Severity::Warning, "code-invalid", said.node, &said.place, status::NO_LOINC);
    }
    Some(Coding { system, code: said.text, display: None })
}

/// The range, and what the flag says, or else the range.
fn interpret<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>, finding: &mut Finding) {
    let range = fields.get(reader, &RANGE);
    let derived = range.as_ref().and_then(|range| interpretation::of_text(&range.text, &finding.value));
    if let Some(range) = &range {
        finding.reference_range = Some(json!([{ "text": range.text }]).to_string());
    }
    if let Some(flag) = fields.get(reader, &FLAG) {
        fields.keep(&FLAG);
        let declared = status::interpretation(&flag.text);
        if contradicts(&declared, derived) {
            let sentence = "The flag contradicts the value and its range: both are kept.";
            reader.issue(Severity::Warning, "conflict", flag.node, &flag.place, sentence);
        }
        finding.interpretation = Some(declared);
        finding.interpretation_source = Some("declared");
    } else if let (Some(derived), Some(range)) = (derived, range) {
        finding.interpretation = Some(derived.to_owned());
        finding.interpretation_source = Some("derived");
        finding.evidence.push(parts::evidence(range.node, &range.place, "athena.lab.range"));
    }
}

fn contradicts(declared: &str, derived: Option<&str>) -> bool {
    match declared {
        "H" | "HH" => matches!(derived, Some("L" | "N")),
        "L" | "LL" => matches!(derived, Some("H" | "N")),
        "N" => matches!(derived, Some("L" | "H")),
        _ => false,
    }
}
