//! Vital signs: athenahealth's groups of readings, single readings, and flat objects with a member for each sign.

use super::fields::{Field, Fields, SHARED_CHARS_MAX, Said, Shape, fold};
use super::reader::{CLOCK, Draft, Note, Reader, Time, When, encounter, named, note, payload, seal};
use super::shape::{self, Spec};
use super::signs::{
    self, HEIGHT_UNIT, PRESSURE, PRESSURE_LOINCS, PRESSURE_UNIT, SIGNS, Sign, TEMPERATURE_UNIT, WEIGHT_UNIT,
};
use super::value::{self, Coding, LOINC};
use super::{flat, other, status};
use crate::ingest::fhir::issue::Severity;
use crate::ingest::fhir::node::{Kind, Node};
use crate::ingest::fhir::path::Place;
use crate::ingest::findings::{Finding, Value, laterality, parts};
use serde_json::json;

/// Readings of one inner array: a blood pressure has eight.
const COMPONENTS_MAX: usize = 50;

const LIST: Field = Field::new(Shape::Array, &["vitals", "vitalsigns"], "the parts").essential();
const READINGS: Field = Field::new(Shape::Array, &["readings"], "the parts: an inner array is one part").essential();
const KEY: Field = Field::new(Shape::Text, &["key"], "name of the group");
const ABBREVIATION: Field = Field::new(Shape::Text, &["abbreviation"], "name of the group, before `key`");
const VITAL_ID: Field = Field::new(Shape::Id, &["vitalid"], "identity: the lowest one of the inner array");
const READING_ID: Field =
    Field::new(Shape::Id, &["readingid"], "identity with source, element and time, without `vitalid`");
const ELEMENT: Field = Field::new(Shape::Text, &["clinicalelementid"], "which sign it is; UCUM unit; details");
const NAME: Field = Field::new(
    Shape::Text,
    &["codedescription", "vitalname", "vitaltype", "vitalsign", "vital", "name", "type", "description"],
    "`code_text`",
)
.essential();
const CODE: Field = Field::new(Shape::Id, &["code", "loinc", "loinccode"], "`code`; else derived from element or name");
const CODESET: Field = Field::new(Shape::Text, &["codeset", "codesystem"], "system of the code");
const VALUE: Field = Field::new(Shape::Value, &["value", "result", "reading"], "`value`").essential();
pub const UNIT: Field = Field::new(Shape::Text, &["unit", "units", "uom"], "`unit`, and UCUM where it is known");
pub const TAKEN: Field = Field::new(
    Shape::Time,
    &[
        "readingtaken",
        "recordedat",
        "takenat",
        "measuredat",
        "recordeddate",
        "datetaken",
        "observationdate",
        "datetime",
        "timestamp",
        "date",
    ],
    "`effective`",
);
const SOURCE: Field = Field::new(Shape::Text, &["source"], "details; `ENCOUNTER` makes `sourceid` the encounter");
const SOURCE_ID: Field = Field::new(Shape::Id, &["sourceid"], "encounter, or details");
pub const ENCOUNTER: Field = Field::new(Shape::Id, &["encounterid"], "encounter");
pub const CREATED_BY: Field = Field::new(Shape::Text, &["createdby", "takenby", "recordedby"], "performer");
const CREATED: Field = Field::new(Shape::Time, &["createddate", "createddatetime"], "`issued`");

pub const FIELDS: [&Field; 35] = [
    &LIST,
    &READINGS,
    &KEY,
    &ABBREVIATION,
    &VITAL_ID,
    &READING_ID,
    &ELEMENT,
    &NAME,
    &CODE,
    &CODESET,
    &VALUE,
    &UNIT,
    &TAKEN,
    &CLOCK,
    &SOURCE,
    &SOURCE_ID,
    &ENCOUNTER,
    &CREATED_BY,
    &CREATED,
    &PRESSURE,
    &SIGNS[0].field,
    &SIGNS[1].field,
    &SIGNS[2].field,
    &SIGNS[3].field,
    &SIGNS[4].field,
    &SIGNS[5].field,
    &SIGNS[6].field,
    &SIGNS[7].field,
    &SIGNS[8].field,
    &SIGNS[9].field,
    &SIGNS[10].field,
    &PRESSURE_UNIT,
    &TEMPERATURE_UNIT,
    &WEIGHT_UNIT,
    &HEIGHT_UNIT,
];

const MARKS: [&Field; 16] = [
    &READINGS,
    &PRESSURE,
    &SIGNS[0].field,
    &SIGNS[1].field,
    &SIGNS[2].field,
    &SIGNS[3].field,
    &SIGNS[4].field,
    &SIGNS[5].field,
    &SIGNS[6].field,
    &SIGNS[7].field,
    &SIGNS[8].field,
    &SIGNS[9].field,
    &SIGNS[10].field,
    &ELEMENT,
    &VITAL_ID,
    &VALUE,
];

/// Whether the payload's shape is one of vital signs.
pub fn read(reader: &mut Reader<'_, '_>) -> bool {
    let spec = Spec { list: &LIST, marks: &MARKS, beside: &[] };
    let Some(items) = shape::items(reader, reader.event().payload, &payload(), &spec) else { return false };
    for item in items {
        if item.has(&READINGS) {
            group(reader, &item);
        } else if item.has_any(&[&ELEMENT, &VITAL_ID, &VALUE]) {
            let (node, place) = (item.node, item.place.clone());
            reader.part(node, &place, |reader| inner(reader, vec![item], None));
        } else if item.has_any(&MARKS) {
            flat::read(reader, &item);
        } else {
            other::part(reader, item.node, &item.place);
        }
    }
    true
}

/// athenahealth's group: one sign, all its readings; blood pressure is read in pairs.
fn group<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) {
    let Some(readings) = fields.any(&READINGS) else { return };
    if readings.node.kind() != Kind::Array {
        reader.refuse(readings.node, &readings.place, READINGS.shape.fault());
        return;
    }
    let label = fields.shared(reader, &ABBREVIATION).or_else(|| fields.shared(reader, &KEY));
    reader.unread(fields, readings.node, &[&ABBREVIATION, &KEY]);
    for (index, item) in readings.node.items().into_iter().enumerate() {
        if reader.is_over() {
            return;
        }
        let place = readings.place.item(index);
        let opened = |node: Node<'a>, place: &Place| node.object().map(|object| Fields::of(&object, place.clone()));
        match item.kind() {
            Kind::Null => {}
            Kind::Array => {
                let items = item.items();
                if items.is_empty() {
                    continue;
                }
                if items.len() > COMPONENTS_MAX {
                    reader.refuse(item, &place, "Holds more readings than belong together.");
                    continue;
                }
                reader.part(item, &place, |reader| {
                    let mut elements = Vec::with_capacity(items.len());
                    for (index, node) in items.into_iter().enumerate() {
                        let place = place.item(index);
                        match opened(node, &place) {
                            Some(fields) => elements.push(fields),
                            None => reader.issue(Severity::Error, "structure", node, &place, Shape::Object.fault()),
                        }
                    }
                    inner(reader, elements, label.as_deref())
                });
            }
            _ => match opened(item, &place) {
                Some(fields) => reader.part(item, &place, |reader| inner(reader, vec![fields], label.as_deref())),
                None => reader.refuse(item, &place, Shape::Object.fault()),
            },
        }
    }
}

/// What one reading says, before it is known what it is read with.
struct Element<'a> {
    fields: Fields<'a>,
    finding: Finding,
    notes: Vec<Note>,
    time: Option<Time>,
    /// A sign, or something that is measured; not how or where it was.
    is_measured: bool,
    is_pressure: bool,
    id: Option<String>,
}

/// Readings that belong together: one that measures and what is said of it, or a panel.
fn inner<'a>(reader: &mut Reader<'_, 'a>, elements: Vec<Fields<'a>>, label: Option<&str>) -> Option<Draft> {
    if let [single] = &elements[..]
        && is_pair(single)
    {
        return pair(reader, single);
    }
    let mut read: Vec<_> = elements.into_iter().filter_map(|fields| element(reader, fields, label)).collect();
    let shared = read.iter().find_map(|element| element.time.clone());
    let when = reader.when(shared.clone(), None);
    let id = identity(&read);
    let measured = read.iter().filter(|element| element.is_measured).count();
    let is_pressure = read.iter().any(|element| element.is_pressure);
    let own = if measured == 1 && !is_pressure || read.len() == 1 {
        // The measurement comes first: what is said of it are its components.
        let place = read.iter().position(|element| element.is_measured).unwrap_or(0);
        let own = read.remove(place);
        read.insert(0, own);
        true
    } else {
        false
    };
    let site = read.iter().find(|element| !element.is_measured && is_site(element));
    let site = site.and_then(|element| element.finding.value.text.as_deref().map(cut));
    let panel =
        if own { read.first().map(|first| concept_json(&first.finding)) } else { Some(panel(label, is_pressure)) };
    let mut findings = Vec::with_capacity(read.len());
    for (index, mut element) in read.into_iter().enumerate() {
        let when = match element.time.take() {
            Some(time) => reader.when(Some(time), None),
            None => when.clone(),
        };
        let finding = &mut element.finding;
        finding.ordinal = i32::try_from(if own { index } else { index + 1 }).unwrap_or(i32::MAX);
        if finding.ordinal > 0 {
            finding.component_of.clone_from(&panel);
        }
        if let Some(site) = &site {
            finding.body_site = Some(json!({ "text": site }).to_string());
            finding.laterality = laterality::of_text(&side_spelt(site));
        }
        seal(finding, &element.fields, &element.notes, &when);
        findings.push(element.finding);
    }
    if findings.is_empty() {
        return None;
    }
    Some(draft(id, None, when, findings))
}

pub(super) fn draft(id: Option<String>, status: Option<String>, when: When, findings: Vec<Finding>) -> Draft {
    Draft { resource_type: "AthenaVital", category: "vitals", id, measures: true, beside: None, status, when, findings }
}

/// One reading that says both pressures: `{"name": "Blood pressure", "value": "120/80"}`.
fn is_pair(fields: &Fields<'_>) -> bool {
    let means_both = |field: &Field| {
        let Some(said) = fields.any(field) else { return false };
        let name = fold(&said.text);
        PRESSURE.names.contains(&name.strip_prefix("vitals.").unwrap_or(&name))
            || PRESSURE_LOINCS.contains(&said.text.as_str())
    };
    let has_both =
        fields.any(&VALUE).is_some_and(|value| value.node.kind() == Kind::String && value.text.contains('/'));
    has_both && [&NAME, &ELEMENT, &CODE].into_iter().any(means_both)
}

fn pair<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> Option<Draft> {
    let time = reader.past(fields, &TAKEN);
    let when = reader.when(time, None);
    let name = fields.get(reader, &NAME).map(|name| name.text);
    let id = reader.text(fields, &VITAL_ID);
    let visit = encounter(reader.text(fields, &ENCOUNTER));
    let performer = named(fields.shared(reader, &CREATED_BY));
    let issued = reader.time(fields, &CREATED).map(|time| time.text);
    let said = fields.get(reader, &VALUE)?;
    let unit = fields.shared(reader, &UNIT);
    let mut findings = flat::pressures(reader, &said, unit, name.as_deref().unwrap_or("Blood pressure"))?;
    for (finding, notes) in &mut findings {
        finding.encounter.clone_from(&visit);
        finding.performer.clone_from(&performer);
        finding.issued.clone_from(&issued);
        seal(finding, fields, notes, &when);
    }
    Some(draft(id, None, when, findings.into_iter().map(|(finding, _)| finding).collect()))
}

fn is_site(element: &Element<'_>) -> bool {
    let id = element.fields.any(&ELEMENT).map(|said| said.text.to_ascii_uppercase()).unwrap_or_default();
    matches!(id.rsplit('.').next(), Some("SITE" | "LOCATION"))
}

/// `L arm` is how athenahealth says it.
fn side_spelt(site: &str) -> String {
    match site.split_once(' ') {
        Some(("L", rest)) => format!("left {rest}"),
        Some(("R", rest)) => format!("right {rest}"),
        _ => site.to_owned(),
    }
}

fn concept_json(finding: &Finding) -> String {
    let codings: serde_json::Value =
        finding.code.codings.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_else(|| json!([]));
    json!({ "coding": codings, "text": finding.code.text.as_deref().map(cut) }).to_string()
}

/// As much of a text as several findings share; the one that says it has it whole.
fn cut(text: &str) -> String {
    text.chars().take(SHARED_CHARS_MAX).collect()
}

pub(super) fn panel(label: Option<&str>, is_pressure: bool) -> String {
    let label = label.map(cut);
    let coding = if is_pressure { json!([{ "system": LOINC, "code": PRESSURE_LOINCS[0] }]) } else { json!([]) };
    json!({ "coding": coding, "text": label.as_deref().unwrap_or(if is_pressure { "Blood pressure" } else { "Vital signs" }) })
        .to_string()
}

/// The lowest `vitalid`: readings that join later have higher ones. A `readingid` counts from 0 in each source.
fn identity(elements: &[Element<'_>]) -> Option<String> {
    let ids = elements.iter().filter_map(|element| element.id.as_deref());
    ids.min_by_key(|id| (id.len(), *id)).map(str::to_owned)
}

fn element<'a>(reader: &mut Reader<'_, 'a>, fields: Fields<'a>, label: Option<&str>) -> Option<Element<'a>> {
    let time = reader.past(&fields, &TAKEN);
    let element_id = reader.text(&fields, &ELEMENT);
    fields.keep(&ELEMENT);
    let vital_id = reader.text(&fields, &VITAL_ID);
    let reading_id = reader.text(&fields, &READING_ID);
    let source = reader.text(&fields, &SOURCE);
    fields.keep(&SOURCE);
    let source_id = reader.text(&fields, &SOURCE_ID);
    let id = vital_id.or_else(|| {
        let (reading, source) = (reading_id?, source_id.as_deref()?);
        let element = element_id.as_deref().unwrap_or_default();
        let time = time.as_ref().map_or("", |time| time.text.as_str());
        let [source, reading, element] = [source, &reading, element].map(value::joined);
        Some(format!("reading:{source}/{reading}/{element}/{time}"))
    });
    let name = fields.get(reader, &NAME);
    let mut notes = Vec::new();
    let mut finding = Finding::new("vital", "measurement");
    let said_name = name.as_ref().map(|name| name.text.clone());
    let code_text = said_name.clone().or_else(|| element_id.clone()).or_else(|| label.map(str::to_owned));
    if code_text.is_none() && !fields.has(&NAME) && !fields.has(&CODE) {
        reader.issue(Severity::Error, "required", fields.node, &fields.place, "Does not say what was measured.");
        return None;
    }
    let coding = coding(reader, &fields);
    let loinc =
        coding.as_ref().filter(|coding| coding.system.as_deref() == Some(LOINC)).map(|coding| coding.code.as_str());
    let by_code = loinc.and_then(signs::by_loinc);
    let by_element = element_id.as_deref().and_then(signs::by_element);
    let by_name = said_name.as_deref().or(label.filter(|_| element_id.is_none())).and_then(signs::by_name);
    if let (Some(one), Some(other)) = (by_code, by_element.or(by_name))
        && !std::ptr::eq(one, other)
        && let Some(said) = fields.any(&CODE)
    {
        reader.issue(Severity::Warning, "conflict", said.node, &said.place, super::analytes::CONFLICT);
    }
    let sign = by_element.or(by_code).or(by_name);
    let codings = match (coding, sign) {
        (Some(coding), _) => vec![coding],
        (None, Some(sign)) => {
            notes.push(note("code_source", "derived"));
            vec![Coding::new(LOINC, sign.loinc[0])]
        }
        (None, None) => Vec::new(),
    };
    finding.code = value::concept(&codings, code_text);
    let said = fields.get(reader, &VALUE);
    let Some(said) = said else {
        if !fields.has(&VALUE) {
            reader.issue(Severity::Error, "required", fields.node, &fields.place, "Has no value.");
        }
        return None;
    };
    let unit = reader.text(&fields, &UNIT);
    finding.value = united(reader, &said, &said.text, unit);
    let source_of_unit = if by_element.is_some() { Some("element") } else { by_code.map(|_| "code") };
    set_ucum(&mut finding.value, sign, source_of_unit, &mut notes);
    check(reader, &finding.value, sign, &said);
    // What it is first, then what it says: the whole reading, and the value in it.
    finding.evidence.push(parts::evidence(fields.node, &fields.place, "athena.vital.reading"));
    finding.evidence.push(parts::evidence(said.node, &said.place, "athena.vital.value"));
    let is_refusal = element_id.as_deref().is_some_and(|id| id.to_ascii_uppercase().ends_with("REFUSED"));
    if is_refusal && said.text.eq_ignore_ascii_case("true") {
        finding.negate();
    }
    let visit = reader.text(&fields, &ENCOUNTER);
    let is_visit = source.as_deref().is_some_and(|source| source.eq_ignore_ascii_case("encounter"));
    if !is_visit {
        fields.keep(&SOURCE_ID);
    }
    finding.encounter = encounter(visit.or(source_id.filter(|_| is_visit)));
    finding.performer = named(reader.text(&fields, &CREATED_BY));
    finding.issued = reader.time(&fields, &CREATED).map(|time| time.text);
    let is_measured = sign.is_some() || finding.value.kind == Some("quantity");
    let is_pressure = sign.is_some_and(|sign| sign.is_pressure);
    Some(Element { fields, finding, notes, time, is_measured, is_pressure, id })
}

/// A number with its unit. What the text itself says of its unit counts before what stands beside it.
pub(super) fn united<'a>(reader: &mut Reader<'_, 'a>, said: &Said<'a>, text: &str, unit: Option<String>) -> Value {
    let mut value = value::typed_with_unit(text);
    let Some(beside) = unit else { return value };
    match &value.unit {
        None => value.unit = Some(beside),
        Some(own) => unit_conflict(reader, said, own, &beside),
    }
    value
}

/// Say so, if a text has another unit than the member beside it.
pub(super) fn unit_conflict<'a>(reader: &mut Reader<'_, 'a>, said: &Said<'a>, own: &str, beside: &str) {
    if value::ucum(own) != value::ucum(beside) {
        let sentence = "The text has another unit than the member of it: that of the text was taken.";
        reader.issue(Severity::Warning, "conflict", said.node, &said.place, sentence);
    }
}

/// The code that a reading says itself.
fn coding<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> Option<Coding> {
    let codeset = reader.text(fields, &CODESET);
    let said = fields.get(reader, &CODE)?;
    let system = codeset.map(|codeset| value::system_of(&codeset));
    let system = system.or_else(|| value::is_loinc(&said.text).then(|| LOINC.to_owned()));
    if system.as_deref() == Some(LOINC) && !value::is_loinc(&said.text) {
        reader.issue(Severity::Warning, "code-invalid", said.node, &said.place, status::NO_LOINC);
    }
    Some(Coding { system, code: said.text, display: None })
}

/// The unit in UCUM: of the unit that is said, else where it is certain.
pub(super) fn set_ucum(value: &mut Value, sign: Option<&Sign>, source: Option<&str>, notes: &mut Vec<Note>) {
    if value.kind != Some("quantity") {
        return;
    }
    if let Some(unit) = &value.unit {
        value.ucum = value::ucum(unit).map(str::to_owned);
        return;
    }
    let certain = sign.zip(source).and_then(|(sign, source)| {
        let is_certain = sign.is_pressure || source == "element";
        sign.ucum.filter(|_| is_certain).map(|ucum| (ucum, source))
    });
    if let Some((ucum, source)) = certain {
        value.ucum = Some(ucum.to_owned());
        notes.push(note("ucum_source", source));
    }
}

/// Whether a sign may have such a value.
pub(super) fn check<'a>(reader: &mut Reader<'_, 'a>, value: &Value, sign: Option<&Sign>, said: &Said<'a>) {
    let Some(sign) = sign else { return };
    match value::is_within(value, signs::range(sign, value.ucum.as_deref())) {
        Some(true) => {}
        Some(false) => {
            let sentence = "Is outside of what this vital sign can be.";
            reader.issue(Severity::Warning, "value", said.node, &said.place, sentence);
        }
        None => {
            let sentence = "Is no number: kept as text.";
            reader.issue(Severity::Warning, "value", said.node, &said.place, sentence);
        }
    }
}
