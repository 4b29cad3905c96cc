//! Vital signs in a flat object: a member for each sign.

use super::fields::{Fields, SHARED_CHARS_MAX, Said};
use super::reader::{Note, Reader, When, encounter, named, note, seal};
use super::signs::{HEIGHT_UNIT, PRESSURE, PRESSURE_UNIT, SIGNS, Sign, TEMPERATURE_UNIT, WEIGHT_UNIT};
use super::value::{self, Coding, LOINC};
use super::vitals::{CREATED_BY, ENCOUNTER, TAKEN, UNIT, check, draft, panel, set_ucum, unit_conflict, united};
use crate::ingest::fhir::issue::Severity;
use crate::ingest::findings::{Finding, parts};

/// An object with a member for each sign: each one is a part.
pub fn read<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) {
    let time = reader.past(fields, &TAKEN);
    let when = reader.when(time, None);
    let visit = encounter(reader.text(fields, &ENCOUNTER));
    let performer = named(fields.shared(reader, &CREATED_BY));
    let (pressure_unit, single_unit) = units(reader, fields);
    // The signs are parts, not details of one another.
    for field in [&PRESSURE, &PRESSURE_UNIT, &TEMPERATURE_UNIT, &WEIGHT_UNIT, &HEIGHT_UNIT] {
        fields.take(field);
    }
    for sign in &SIGNS {
        fields.take(&sign.field);
    }
    let finish = |finding: &mut Finding, notes: &[Note], when: &When| {
        finding.encounter.clone_from(&visit);
        finding.performer.clone_from(&performer);
        seal(finding, fields, notes, when);
    };
    if let Some(said) = fields.any(&PRESSURE) {
        reader.part(said.node, &said.place, |reader| {
            let said = fields.get(reader, &PRESSURE)?;
            let inner = said.node.object().map(|object| Fields::of(&object, said.place.clone()));
            // An object of both may say when they were measured, and more.
            let own = inner.as_ref().and_then(|inner| reader.past(inner, &TAKEN));
            let when = own.map_or_else(|| when.clone(), |own| reader.when(Some(own), None));
            let mut findings = pressures(reader, &said, pressure_unit.clone(), &said.name)?;
            let more = inner.as_ref().and_then(|inner| more_of(inner));
            for (finding, notes) in &mut findings {
                notes.extend(more.clone().map(|more| ("reading", more)));
                finish(finding, notes, &when);
            }
            Some(draft(None, None, when, findings.into_iter().map(|(finding, _)| finding).collect()))
        });
    }
    let both: Vec<&Sign> = SIGNS[..2].iter().filter(|sign| fields.has(&sign.field)).collect();
    if !both.is_empty() {
        reader.part(fields.node, &fields.place, |reader| {
            let mut findings = Vec::new();
            for sign in both {
                let said = fields.get(reader, &sign.field)?;
                let (mut finding, notes) =
                    flat_sign(reader, sign, &said, &said.text, &said.name, pressure_unit.clone());
                finding.ordinal = i32::try_from(findings.len() + 1).unwrap_or(i32::MAX);
                finding.component_of = Some(panel(None, true));
                finish(&mut finding, &notes, &when);
                findings.push(finding);
            }
            Some(draft(None, None, when.clone(), findings))
        });
    }
    for sign in &SIGNS[2..] {
        let Some(said) = fields.any(&sign.field) else { continue };
        reader.part(said.node, &said.place, |reader| {
            let said = fields.get(reader, &sign.field)?;
            let unit = sign.unit.and_then(|unit| reader.text(fields, unit)).or_else(|| single_unit.clone());
            let (mut finding, notes) = flat_sign(reader, sign, &said, &said.text, &said.name, unit);
            finish(&mut finding, &notes, &when);
            Some(draft(None, None, when.clone(), vec![finding]))
        });
    }
}

/// The units of the pressures and of a sign that stands alone. `unit` is that of the only sign, or of the pressures if it is
/// one of pressures.
fn units<'a>(reader: &mut Reader<'_, 'a>, fields: &Fields<'a>) -> (Option<String>, Option<String>) {
    let has_pressure = fields.has(&PRESSURE) || SIGNS[..2].iter().any(|sign| fields.has(&sign.field));
    let others = SIGNS[2..].iter().filter(|sign| fields.has(&sign.field)).count();
    let own = fields.shared(reader, &PRESSURE_UNIT);
    let Some(said) = fields.get(reader, &UNIT) else { return (own, None) };
    let is_of_pressure = matches!(value::ucum(&said.text), Some("mm[Hg]" | "kPa"));
    let text = || said.text.chars().take(SHARED_CHARS_MAX).collect::<String>();
    match (has_pressure, others) {
        (true, 0) => (own.or_else(|| Some(text())), None),
        (false, 1) => (None, Some(text())),
        (true, _) if is_of_pressure => (own.or_else(|| Some(text())), None),
        _ => {
            fields.keep(&UNIT);
            let sentence = "Does not say which of the signs it is the unit of: it is among the details.";
            reader.issue(Severity::Warning, "value", said.node, &said.place, sentence);
            (own, None)
        }
    }
}

/// What an object of both pressures says beside them, as JSON.
fn more_of(inner: &Fields<'_>) -> Option<String> {
    for field in [&SIGNS[0].field, &SIGNS[1].field, &UNIT] {
        inner.take(field);
    }
    let mut more = parts::Details::default();
    for (name, node) in inner.rest() {
        more.said(name, node.text());
    }
    more.json()
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
    finding.value = united(reader, said, text, unit);
    // Of a name alone only the unit of a pressure is certain.
    set_ucum(&mut finding.value, Some(sign), sign.is_pressure.then_some("name"), &mut notes);
    check(reader, &finding.value, Some(sign), said);
    finding.evidence.push(parts::evidence(said.node, &said.place, "athena.vital.value"));
    (finding, notes)
}

/// Both pressures of a value: `120/80`, or an object with both. `unit` stands beside them.
pub fn pressures<'a>(
    reader: &mut Reader<'_, 'a>,
    said: &Said<'a>,
    unit: Option<String>,
    name: &str,
) -> Option<Vec<(Finding, Vec<Note>)>> {
    let mut found = Vec::new();
    if let Some(object) = said.node.object() {
        let fields = Fields::of(&object, said.place.clone());
        let unit = fields.shared(reader, &UNIT).or(unit);
        for sign in &SIGNS[..2] {
            let Some(one) = fields.get(reader, &sign.field) else { continue };
            found.push(flat_sign(reader, sign, &one, &one.text, &one.name, unit.clone()));
        }
    } else if let Some((texts, own)) = pair(&said.text) {
        if let (Some(own), Some(beside)) = (&own, &unit) {
            unit_conflict(reader, said, own, beside);
        }
        let unit = own.or(unit);
        for (sign, text) in SIGNS[..2].iter().zip(&texts) {
            found.push(flat_sign(reader, sign, said, text, sign.field.names[0], unit.clone()));
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

/// Both numbers of `120/80`, and the unit of pressure in it, as written.
fn pair(text: &str) -> Option<([String; 2], Option<String>)> {
    let (first, second) = text.split_once('/')?;
    let (first, one) = with_unit(first)?;
    let (second, other) = with_unit(second)?;
    let agrees = one.is_none() || other.is_none() || one.and_then(value::ucum) == other.and_then(value::ucum);
    agrees.then(|| ([first.to_owned(), second.to_owned()], other.or(one).map(str::to_owned)))
}

/// Up to three digits, perhaps with decimals, perhaps with a unit of pressure.
fn with_unit(text: &str) -> Option<(&str, Option<&str>)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_known = unit.is_empty() || matches!(value::ucum(unit), Some("mm[Hg]" | "kPa"));
    (is_known && is_digits(whole) && is_digits(decimals))
        .then_some((number, Some(unit).filter(|unit| !unit.is_empty())))
}
