//! Vital signs in a flat object: a member for each sign.

use super::fields::{Fields, Said};
use super::reader::{Note, Reader, encounter, named, note, seal};
use super::signs::{HEIGHT_UNIT, PRESSURE, SIGNS, Sign, TEMPERATURE_UNIT, WEIGHT_UNIT};
use super::value::{self, Coding, LOINC};
use super::vitals::{CREATED_BY, ENCOUNTER, TAKEN, check, draft, panel, set_ucum};
use crate::ingest::fhir::issue::Severity;
use crate::ingest::findings::{Finding, parts};

/// An object with a member for each sign: each one is a part.
pub fn read<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) {
    let time = reader.past(fields, &TAKEN);
    let when = reader.when(time, None);
    let visit = encounter(reader.text(fields, &ENCOUNTER));
    let performer = named(fields.shared(reader, &CREATED_BY));
    // The signs are parts, not details of one another.
    for field in [&PRESSURE, &TEMPERATURE_UNIT, &WEIGHT_UNIT, &HEIGHT_UNIT] {
        fields.take(field);
    }
    for sign in &SIGNS {
        fields.take(&sign.field);
    }
    let finish = |finding: &mut Finding, notes: &[Note]| {
        finding.encounter.clone_from(&visit);
        finding.performer.clone_from(&performer);
        seal(finding, fields, notes, &when);
    };
    if let Some(said) = fields.any(&PRESSURE) {
        reader.part(said.node, &said.place, |reader| {
            let said = fields.get(reader, &PRESSURE)?;
            let mut findings = pressures(reader, &said, &said.name)?;
            for (finding, notes) in &mut findings {
                finish(finding, notes);
            }
            Some(draft(None, None, when.clone(), findings.into_iter().map(|(finding, _)| finding).collect()))
        });
    }
    let both: Vec<&Sign> = SIGNS[..2].iter().filter(|sign| fields.has(&sign.field)).collect();
    if !both.is_empty() {
        reader.part(fields.node, &fields.place, |reader| {
            let mut findings = Vec::new();
            for sign in both {
                let said = fields.get(reader, &sign.field)?;
                let (mut finding, notes) = flat_sign(reader, sign, &said, &said.text, &said.name, None);
                finding.ordinal = i32::try_from(findings.len() + 1).unwrap_or(i32::MAX);
                finding.component_of = Some(panel(None, true));
                finish(&mut finding, &notes);
                findings.push(finding);
            }
            Some(draft(None, None, when.clone(), findings))
        });
    }
    for sign in &SIGNS[2..] {
        let Some(said) = fields.any(&sign.field) else { continue };
        reader.part(said.node, &said.place, |reader| {
            let said = fields.get(reader, &sign.field)?;
            let unit = sign.unit.and_then(|unit| reader.text(fields, unit));
            let (mut finding, notes) = flat_sign(reader, sign, &said, &said.text, &said.name, unit);
            finish(&mut finding, &notes);
            Some(draft(None, None, when.clone(), vec![finding]))
        });
    }
}

/// One sign under a name that is known.
fn flat_sign<'a>(
    reader: &mut Reader<'_, 'a>,
    sign: &Sign,
    said: &Said<'a>,
    text: &str,
    name: &str,
    unit: Option<String>,
) -> (Finding, Vec<Note>) {
    let mut notes = vec![note("code_source", "derived")];
    let mut finding = Finding::new("vital", "measurement");
    finding.code = value::concept(&[Coding::new(LOINC, sign.loinc[0])], Some(name.to_owned()));
    finding.value = if unit.is_none() { value::typed_with_unit(text) } else { value::typed(text) };
    finding.value.unit = unit.or(finding.value.unit.take());
    // Of a name alone only the unit of a pressure is certain.
    set_ucum(&mut finding.value, Some(sign), sign.is_pressure.then_some("name"), &mut notes);
    check(reader, &finding.value, Some(sign), said);
    finding.evidence.push(parts::evidence(said.node, &said.place, "athena.vital.value"));
    (finding, notes)
}

/// Both pressures of a value: `120/80`, or an object with both.
pub fn pressures<'a>(reader: &mut Reader<'_, 'a>, said: &Said<'a>, name: &str) -> Option<Vec<(Finding, Vec<Note>)>> {
    let mut found = Vec::new();
    if let Some(object) = said.node.object() {
        let fields = Fields::of(&object, said.place.clone());
        for sign in &SIGNS[..2] {
            let Some(one) = fields.get(reader, &sign.field) else { continue };
            found.push(flat_sign(reader, sign, &one, &one.text, &one.name, None));
        }
    } else {
        let bare = said.text.to_ascii_lowercase().replace("mmhg", "").replace("mm[hg]", "");
        let is_number =
            |part: &&str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<&str> = bare.split('/').map(str::trim).collect();
        if parts.len() == 2 && parts.iter().all(is_number) {
            for (sign, part) in SIGNS[..2].iter().zip(parts) {
                let mut one = flat_sign(reader, sign, said, part, sign.field.names[0], None);
                if bare.len() < said.text.len() {
                    one.0.value.unit = Some("mmHg".to_owned());
                }
                found.push(one);
            }
        }
    }
    if found.is_empty() {
        let sentence = "Is no blood pressure (systolic/diastolic).";
        reader.issue(Severity::Error, "value", said.node, &said.place, sentence);
        return None;
    }
    for (index, (finding, _)) in found.iter_mut().enumerate() {
        finding.ordinal = i32::try_from(index + 1).unwrap_or(i32::MAX);
        finding.component_of = Some(panel(Some(name), true));
    }
    Some(found)
}
