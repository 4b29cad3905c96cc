//! Elements that many resource types share: concepts, quantities, times, references.

use super::{Code, Effective, Evidence, Value};
use crate::ingest::fhir::calendar;
use crate::ingest::fhir::node::{Kind, Node, Object};
use crate::ingest::fhir::path::Place;
use crate::ingest::fhir::types::Temporal;

/// Bytes of JSON that are copied into one column; more stays in the payload.
const JSON_BYTES_MAX: usize = 64 * 1024;

/// Digits in a row, and digits of an exponent, that `numeric` is given. Its own limits lie at 131,072 and 16,383.
const DIGITS_MAX: usize = 300;
const EXPONENT_DIGITS_MAX: usize = 3;

pub fn evidence(node: Node<'_>, place: &Place, rule: &'static str) -> Evidence {
    Evidence { span: node.span(), pointer: place.pointer.clone(), fhirpath: place.expression.clone(), rule }
}

/// A JSON value for a `jsonb` column: bounded, and without numbers that `numeric` cannot hold.
pub fn json(node: Node<'_>) -> Option<String> {
    (node.text().len() <= JSON_BYTES_MAX && numbers_fit(node.text())).then(|| node.text().to_owned())
}

/// A number for a `numeric` column.
pub fn number(text: &str) -> Option<String> {
    numbers_fit(text).then(|| text.to_owned())
}

fn numbers_fit(text: &str) -> bool {
    let (mut in_string, mut escaped, mut in_exponent) = (false, false, false);
    let mut digits = 0;
    for byte in text.bytes() {
        if in_string {
            (in_string, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
            continue;
        }
        match byte {
            b'0'..=b'9' => digits += 1,
            b'e' | b'E' => (in_exponent, digits) = (digits > 0, 0),
            b'+' | b'-' | b'.' => digits = 0,
            _ => {
                in_string = byte == b'"';
                (in_exponent, digits) = (false, 0);
            }
        }
        if digits > if in_exponent { EXPONENT_DIGITS_MAX } else { DIGITS_MAX } {
            return false;
        }
    }
    true
}

pub fn code(concept: &Object<'_>) -> Code {
    let codings = concept.objects("coding");
    let first = codings.iter().find(|coding| coding.get("code").is_some()).or(codings.first());
    Code {
        system: first.and_then(|coding| coding.owned("system")),
        code: first.and_then(|coding| coding.owned("code")),
        display: first.and_then(|coding| coding.owned("display")),
        codings: concept.get("coding").filter(|node| node.kind() == Kind::Array).and_then(json),
        text: concept.owned("text"),
    }
}

/// The first code of a concept, or else its text.
pub fn concept_word(concept: &Object<'_>) -> Option<String> {
    let coded = concept.objects("coding").iter().find_map(|coding| coding.owned("code"));
    coded.or_else(|| concept.owned("text"))
}

/// The word of a concept in a member.
pub fn word(object: &Object<'_>, member: &str) -> Option<String> {
    concept_word(&object.object(member)?)
}

pub fn member_json(object: &Object<'_>, member: &str) -> Option<String> {
    object.get(member).filter(|node| node.kind() != Kind::Null).and_then(json)
}

pub fn reference(object: &Object<'_>, member: &str) -> Option<String> {
    object.object(member)?.owned("reference")
}

/// `{prefix}DateTime`, `{prefix}Instant`, `{prefix}Period` or `{prefix}String`.
pub fn effective(object: &Object<'_>, prefix: &str) -> Effective {
    for suffix in ["DateTime", "Instant", "String"] {
        if let Some(text) = object.owned(&format!("{prefix}{suffix}")) {
            return moment(text, None);
        }
    }
    object.object(&format!("{prefix}Period")).map(|period| period_of(&period)).unwrap_or_default()
}

pub fn period_of(period: &Object<'_>) -> Effective {
    let end = period.owned("end");
    match period.owned("start") {
        Some(start) => moment(start, end),
        None => Effective { end_text: end, ..Effective::default() },
    }
}

/// A time as written, and as an instant if it is one.
pub fn moment(text: String, end_text: Option<String>) -> Effective {
    let parsed = calendar::parse(&text, Temporal::DateTime);
    Effective {
        text: Some(text),
        end_text,
        at: parsed.map(|moment| moment.at),
        precision: parsed.map(|moment| moment.precision.as_str()),
    }
}

pub fn quantity(quantity: &Object<'_>) -> Value {
    let text = quantity.get("value").and_then(|node| node.number()).map(str::to_owned);
    let is_ucum = quantity.string("system").as_deref() == Some("http://unitsofmeasure.org");
    Value {
        kind: Some("quantity"),
        number: text.as_deref().and_then(number),
        text,
        json: None,
        comparator: quantity.owned("comparator"),
        unit: quantity.owned("unit").or_else(|| quantity.owned("code")),
        ucum: if is_ucum { quantity.owned("code") } else { None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_numeric_cannot_hold_are_left_in_the_payload() {
        for fits in
            ["1", "-0.10", "1.2E+2", "1e-300", r#"{"a": "1e99999", "b": [1, 2]}"#, r#""\"1e99999""#, r#"{"e9999": 1}"#]
        {
            assert!(numbers_fit(fits), "{fits}");
        }
        for does_not in ["1e1000", "[1E+99999]", r#"{"a": "\\", "b": 1e9999}"#, &"9".repeat(301)] {
            assert!(!numbers_fit(does_not), "{does_not}");
        }
    }
}
