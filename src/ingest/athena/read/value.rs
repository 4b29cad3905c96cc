//! Values as senders write them: numbers, numbers in strings, comparators, units; and codes with their systems.

use crate::ingest::fhir::decimal;
use crate::ingest::findings::{Code, Value, parts};
use serde_json::json;
use std::cmp::Ordering;

/// LOINC.
pub const LOINC: &str = "http://loinc.org";
/// SNOMED CT.
pub const SNOMED: &str = "http://snomed.info/sct";
/// ICD-10-CM.
pub const ICD10: &str = "http://hl7.org/fhir/sid/icd-10-cm";
/// `RxNorm`.
pub const RXNORM: &str = "http://www.nlm.nih.gov/research/umls/rxnorm";
/// National drug codes.
pub const NDC: &str = "http://hl7.org/fhir/sid/ndc";
/// Vaccines.
pub const CVX: &str = "http://hl7.org/fhir/sid/cvx";
/// Procedures.
pub const CPT: &str = "http://www.ama-assn.org/go/cpt";
/// Procedures and supplies.
pub const HCPCS: &str = "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets";

/// Units that people write, in UCUM.
const UNITS: [(&str, &str); 53] = [
    ("%", "%"),
    ("mmhg", "mm[Hg]"),
    ("mm[hg]", "mm[Hg]"),
    ("kpa", "kPa"),
    ("bpm", "/min"),
    ("beats/min", "/min"),
    ("breaths/min", "/min"),
    ("/min", "/min"),
    ("f", "[degF]"),
    ("°f", "[degF]"),
    ("degf", "[degF]"),
    ("[degf]", "[degF]"),
    ("c", "Cel"),
    ("°c", "Cel"),
    ("degc", "Cel"),
    ("cel", "Cel"),
    ("kg", "kg"),
    ("g", "g"),
    ("lb", "[lb_av]"),
    ("lbs", "[lb_av]"),
    ("[lb_av]", "[lb_av]"),
    ("oz", "[oz_av]"),
    ("cm", "cm"),
    ("m", "m"),
    ("in", "[in_i]"),
    ("[in_i]", "[in_i]"),
    ("inches", "[in_i]"),
    ("kg/m2", "kg/m2"),
    ("kg/m²", "kg/m2"),
    ("kg/m^2", "kg/m2"),
    ("mg/dl", "mg/dL"),
    ("g/dl", "g/dL"),
    ("ug/dl", "ug/dL"),
    ("mcg/dl", "ug/dL"),
    ("mmol/l", "mmol/L"),
    ("umol/l", "umol/L"),
    ("meq/l", "meq/L"),
    ("u/l", "U/L"),
    ("iu/l", "[IU]/L"),
    ("ng/ml", "ng/mL"),
    ("pg/ml", "pg/mL"),
    ("ng/dl", "ng/dL"),
    ("ug/ml", "ug/mL"),
    ("mg/l", "mg/L"),
    ("g/l", "g/L"),
    ("miu/l", "m[IU]/L"),
    ("uiu/ml", "u[IU]/mL"),
    ("k/ul", "10*3/uL"),
    ("10*3/ul", "10*3/uL"),
    ("m/ul", "10*6/uL"),
    ("10*6/ul", "10*6/uL"),
    ("fl", "fL"),
    ("pg", "pg"),
];

/// The UCUM code of a unit that people write, if it is one that is known here.
#[must_use]
pub fn ucum(unit: &str) -> Option<&'static str> {
    // The one pair that only its case tells apart: `G` is none, `g` is the gram; no listed unit means two things.
    let folded: String = unit.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).take(20).collect();
    UNITS.iter().find(|(written, _)| *written == folded).map(|(_, code)| *code)
}

/// A number, or a string of one, perhaps with a comparator; any other string as it is.
#[must_use]
pub fn typed(text: &str) -> Value {
    let comparators = [("<=", "<="), (">=", ">="), ("≤", "<="), ("≥", ">="), ("<", "<"), (">", ">")];
    let (comparator, number) = comparators
        .into_iter()
        .find_map(|(written, meant)| Some((Some(meant), text.strip_prefix(written)?.trim_start())))
        .unwrap_or((None, text));
    if decimal::compare(number, "0").is_none() {
        return Value { kind: Some("string"), text: Some(text.to_owned()), ..Value::default() };
    }
    Value {
        kind: Some("quantity"),
        text: Some(number.to_owned()),
        number: parts::number(number),
        comparator: comparator.map(str::to_owned),
        ..Value::default()
    }
}

/// The same, where a unit that is known may follow the number: `98.6 F`, `180lbs`, `98%`.
#[must_use]
pub fn typed_with_unit(text: &str) -> Value {
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | '<' | '>' | '=' | '≤' | '≥' | '-' | '+' | ' ');
    let end = text.find(|c| !is_number(c)).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim();
    if unit.is_empty() || ucum(unit).is_none() {
        return typed(text);
    }
    let value = typed(number.trim());
    if value.kind == Some("quantity") { Value { unit: Some(unit.to_owned()), ..value } } else { typed(text) }
}

/// Whether a number lies within both bounds, which belong to it; nothing for a text.
#[must_use]
pub fn is_within(value: &Value, (low, high): (&str, &str)) -> Option<bool> {
    let number = value.text.as_deref().filter(|_| value.kind == Some("quantity"))?;
    let (low, high) = (decimal::compare(number, low)?, decimal::compare(number, high)?);
    Some(low != Ordering::Less && high != Ordering::Greater)
}

/// A part of an id that is joined of several: a slash in it is none between them.
#[must_use]
pub fn joined(id: &str) -> String {
    id.replace('%', "%25").replace('/', "%2F")
}

/// One code of a concept.
#[derive(Clone)]
pub struct Coding {
    /// Its system's URI, or the name of it that the sender uses.
    pub system: Option<String>,
    /// The code.
    pub code: String,
    /// What the sender says that it means.
    pub display: Option<String>,
}

impl Coding {
    /// A code of a known system.
    #[must_use]
    pub fn new(system: &str, code: impl Into<String>) -> Self {
        Self { system: Some(system.to_owned()), code: code.into(), display: None }
    }
}

/// A concept: its first coding counts, the text is the sender's name.
#[must_use]
pub fn concept(codings: &[Coding], text: Option<String>) -> Code {
    let first = codings.first();
    let all: Vec<_> = codings.iter().map(json_of).collect();
    Code {
        system: first.and_then(|coding| coding.system.clone()),
        code: first.map(|coding| coding.code.clone()),
        display: first.and_then(|coding| coding.display.clone()),
        codings: (!all.is_empty()).then(|| serde_json::Value::from(all).to_string()),
        text,
    }
}

fn json_of(coding: &Coding) -> serde_json::Value {
    let mut json = json!({ "code": coding.code });
    for (name, said) in [("system", &coding.system), ("display", &coding.display)] {
        if let Some(said) = said {
            json[name] = json!(said);
        }
    }
    json
}

/// The system that a `codeset` names; a name that is not known stays as it is.
#[must_use]
pub fn system_of(codeset: &str) -> String {
    let folded: String = codeset.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    let known = match folded.as_str() {
        "loinc" => LOINC,
        "snomed" | "snomedct" | "sct" => SNOMED,
        "icd10" | "icd10cm" => ICD10,
        "icd9" | "icd9cm" => "http://hl7.org/fhir/sid/icd-9-cm",
        "rxnorm" => RXNORM,
        "ndc" => NDC,
        "cvx" => CVX,
        "cpt" | "cpt4" => CPT,
        "hcpcs" => HCPCS,
        _ => codeset,
    };
    known.to_owned()
}

/// `E11.9`, `E119`, `S72.001A`.
#[must_use]
pub fn is_icd10(code: &str) -> bool {
    let bytes = code.as_bytes();
    let shape = |rest: &[u8]| (1..=4).contains(&rest.len()) && rest.iter().all(u8::is_ascii_alphanumeric);
    let is_start = bytes.len() >= 3
        && bytes[0].is_ascii_uppercase()
        && bytes[1].is_ascii_digit()
        && bytes[2].is_ascii_alphanumeric();
    is_start
        && match &bytes[3..] {
            [] => true,
            [b'.', rest @ ..] | rest => shape(rest),
        }
}

/// Digits, a hyphen, and the check digit (LOINC Users' Guide, appendix: mod 10).
#[must_use]
pub fn is_loinc(code: &str) -> bool {
    let Some((number, check)) = code.split_once('-') else { return false };
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(number) || number.len() > 7 || check.len() != 1 || !is_digits(check) {
        return false;
    }
    let sum: u32 = number
        .bytes()
        .rev()
        .enumerate()
        .map(|(index, byte)| {
            let digit = u32::from(byte - b'0');
            if index % 2 == 0 { digit * 2 / 10 + digit * 2 % 10 } else { digit }
        })
        .sum();
    (10 - sum % 10) % 10 == u32::from(check.as_bytes()[0] - b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_text_and_comparators_stand_apart() {
        for (text, kind, value, comparator) in [
            ("142", "quantity", "142", None),
            ("1.20", "quantity", "1.20", None),
            ("<5", "quantity", "5", Some("<")),
            (">= 40.0", "quantity", "40.0", Some(">=")),
            ("≤5.7", "quantity", "5.7", Some("<=")),
            ("-0.5", "quantity", "-0.5", None),
            ("POSITIVE", "string", "POSITIVE", None),
            ("1,200", "string", "1,200", None),
            ("120/80", "string", "120/80", None),
            ("< few", "string", "< few", None),
        ] {
            let typed = typed(text);
            let found = (typed.kind, typed.text.as_deref(), typed.comparator.as_deref());
            assert_eq!(found, (Some(kind), Some(value), comparator), "{text}");
        }
    }

    #[test]
    fn only_units_that_are_known_are_parted_from_the_number() {
        for (text, value, unit) in [
            ("98.6 F", "98.6", Some("F")),
            ("180lbs", "180", Some("lbs")),
            ("98%", "98", Some("%")),
            ("72 bpm", "72", Some("bpm")),
            ("1 POSITIVE", "1 POSITIVE", None),
            ("5'10\"", "5'10\"", None),
        ] {
            let typed = typed_with_unit(text);
            assert_eq!((typed.text.as_deref(), typed.unit.as_deref()), (Some(value), unit), "{text}");
        }
    }

    #[test]
    fn codes_are_told_by_their_form() {
        for code in ["8480-6", "4548-4", "2345-7", "718-7", "59408-5", "85354-9", "3141-9", "72514-3"] {
            assert!(is_loinc(code), "{code}");
        }
        for code in ["8480-5", "4548", "-4", "a-1", "4548-44", ""] {
            assert!(!is_loinc(code), "{code}");
        }
        for code in ["E11.9", "E119", "I10", "S72.001A", "C4A.0", "Z00.00"] {
            assert!(is_icd10(code), "{code}");
        }
        for code in ["11.9", "E1", "E11.", "e11.9", "E11.90000", "44054006", ""] {
            assert!(!is_icd10(code), "{code}");
        }
    }
}
