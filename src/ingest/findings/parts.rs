//! Elements that many resource types share: concepts, quantities, times, references.

use super::{Code, Effective, Evidence, Value};
use crate::ingest::fhir::calendar::{self, Temporal};
use crate::ingest::fhir::node::{Kind, Node, Object};
use crate::ingest::fhir::path::Place;

/// Bytes of JSON that are copied into one column; more stays in the payload.
pub const JSON_BYTES_MAX: usize = 64 * 1024;

/// Digits of a number, and digits of an exponent, that `numeric` is given. Its own limits lie at 131,072 and 16,383.
const DIGITS_MAX: usize = 300;
const EXPONENT_DIGITS_MAX: usize = 3;

pub fn evidence(node: Node<'_>, place: &Place, rule: &'static str) -> Evidence {
    Evidence { span: node.span(), pointer: place.pointer.clone(), fhirpath: place.expression.clone(), rule }
}

/// A JSON value for a column, as written and bounded.
pub fn json(node: Node<'_>) -> Option<String> {
    (node.text().len() <= JSON_BYTES_MAX).then(|| node.text().to_owned())
}

/// Members of a resource as one JSON object, each as written; together bounded like one value.
#[derive(Default)]
pub struct Details {
    text: String,
}

impl Details {
    /// Those of these members that are there.
    pub fn of(object: &Object<'_>, members: &[&str]) -> Self {
        let mut details = Self::default();
        for member in members {
            details.member(object, member);
        }
        details
    }

    /// One more member, if it is there.
    pub fn member(&mut self, object: &Object<'_>, member: &str) {
        if let Some(node) = object.get(member).filter(|node| node.kind() != Kind::Null) {
            self.raw(member, node.text());
        }
    }

    /// JSON values under a name; nothing, if there are none.
    pub fn list(&mut self, name: &str, values: impl Iterator<Item = String>) {
        let values: Vec<String> = values.collect();
        if !values.is_empty() {
            self.raw(name, &format!("[{}]", values.join(",")));
        }
    }

    /// A JSON value under a name that needs no escape. What does not fit stays in the payload.
    pub fn raw(&mut self, name: &str, value: &str) {
        if self.text.len() + name.len() + value.len() + "{,\"\":}".len() > JSON_BYTES_MAX {
            return;
        }
        self.text.push(if self.text.is_empty() { '{' } else { ',' });
        self.text.push('"');
        self.text.push_str(name);
        self.text.push_str("\":");
        self.text.push_str(value);
    }

    /// A JSON value under any name. What does not fit stays in the payload.
    pub fn said(&mut self, name: &str, value: &str) {
        if self.text.len() + name.len() + value.len() <= JSON_BYTES_MAX {
            let quoted = serde_json::Value::from(name).to_string();
            self.raw(&quoted[1..quoted.len() - 1], value);
        }
    }

    /// The object, if it has members.
    pub fn json(mut self) -> Option<String> {
        if self.text.is_empty() {
            return None;
        }
        self.text.push('}');
        Some(self.text)
    }
}

/// A number for a `numeric` column.
pub fn number(text: &str) -> Option<String> {
    number_fits(text).then(|| text.to_owned())
}

fn number_fits(text: &str) -> bool {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().filter(u8::is_ascii_digit).count();
    digits(mantissa) <= DIGITS_MAX && digits(exponent) <= EXPONENT_DIGITS_MAX
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
        for fits in ["1", "-0.10", "1.2E+2", "1e-300", &"9".repeat(300)] {
            assert!(number_fits(fits), "{fits}");
        }
        for does_not in ["1e1000", "1E+99999", "1e-0001", &"9".repeat(301), &format!("0.{}", "1".repeat(300))] {
            assert!(!number_fits(does_not), "{does_not}");
        }
    }

    #[test]
    fn details_are_as_written_and_bounded() {
        let big = "x".repeat(JSON_BYTES_MAX);
        let body = format!(r#"{{"a": [1.20E+2,  "\u00e9"], "none": null, "big": "{big}", "b": {{}}}}"#);
        let object = Node::parse(body.as_bytes()).unwrap().object().unwrap();
        let mut details = Details::of(&object, &["a", "none", "absent", "big", "b"]);
        details.list("c", ["1".to_owned(), "{}".to_owned()].into_iter());
        assert_eq!(details.json().unwrap(), r#"{"a":[1.20E+2,  "\u00e9"],"b":{},"c":[1,{}]}"#);
        assert_eq!(Details::of(&object, &["absent"]).json(), None);
    }
}
