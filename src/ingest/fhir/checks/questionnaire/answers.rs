//! One answer against what its item demands.

use super::conditions::same_coding;
use super::definition::{Coding, Definition, Item, Kind, Value};
use crate::ingest::fhir::checks::units::{self, Comparison, UCUM};
use crate::ingest::fhir::decimal::Decimal;
use crate::ingest::fhir::issue::Severity;
use crate::ingest::fhir::node::{Node, Object};
use crate::ingest::fhir::{temporal, types};
use std::cmp::Ordering;

/// An answer's value and its item.
pub struct Answer<'r, 'a> {
    pub definition: &'r Definition,
    pub item: &'r Item,
    pub kind: Kind,
    /// `Coding`
    pub name: &'r str,
    pub value: Node<'a>,
}

/// What is wrong with it.
pub struct Wrong {
    pub severity: Severity,
    pub code: &'static str,
    /// At the value rather than at the answer.
    pub at_value: bool,
    pub message: String,
}

type Say<'s> = &'s mut dyn FnMut(Wrong);

fn error(say: Say<'_>, message: impl Into<String>) {
    say(Wrong { severity: Severity::Error, code: "invariant", at_value: true, message: message.into() });
}

impl Answer<'_, '_> {
    /// Say all that is wrong.
    pub fn check(&self, say: Say<'_>) {
        let types = self.kind.answer_types();
        if !types.contains(&self.name) {
            error(say, format!("The answer must be of the type {}.", types.join(", ")));
            return;
        }
        let Some(value) = Value::read(self.name, self.value) else {
            if self.name == "Attachment"
                && let Some(attachment) = self.value.object()
            {
                self.attachment(&attachment, say);
            }
            return;
        };
        match &value {
            Value::Text(text) => self.text(text, say),
            Value::Number(number) => self.places(number, say),
            Value::Quantity { value, unit } => {
                self.places(value, say);
                self.unit(unit, say);
            }
            Value::Reference(reference) => self.reference(reference, say),
            Value::Coding(coding) => self.in_value_set(coding, say),
            _ => {}
        }
        self.bounds(&value, say);
        self.in_options(&value, say);
    }

    fn text(&self, text: &str, say: Say<'_>) {
        if self.kind == Kind::String && text.contains(['\n', '\r']) {
            let message = "The answer of an item of type string should not contain line breaks.".to_owned();
            say(Wrong { severity: Severity::Warning, code: "invariant", at_value: true, message });
        }
        if self.item.min_length.is_none() && self.item.max_length.is_none() {
            return;
        }
        let characters = text.chars().count();
        if self.item.min_length.is_some_and(|min| characters < min) {
            error(say, "The answer is shorter than minLength asks.");
        }
        if self.item.max_length.is_some_and(|max| characters > max) {
            error(say, "The answer is longer than maxLength allows.");
        }
    }

    fn places(&self, number: &Decimal, say: Say<'_>) {
        if self.item.max_places.is_some_and(|max| number.places() > max) {
            error(say, "The answer has more decimal places than maxDecimalPlaces allows.");
        }
    }

    fn bounds(&self, value: &Value, say: Say<'_>) {
        for (bound, name, wrong) in
            [(&self.item.min, "minimum", Ordering::Less), (&self.item.max, "maximum", Ordering::Greater)]
        {
            let Some(bound) = bound else { continue };
            let ordering = match (value, bound) {
                (Value::Number(value), Value::Number(bound)) => Some(value.cmp(bound)),
                (Value::Moment(value), Value::Moment(bound)) => temporal::compare(value, bound),
                (Value::Time(value), Value::Time(bound)) => temporal::compare_times(value, bound),
                (Value::Quantity { value, unit }, Value::Quantity { value: bound, unit: of_bound }) => {
                    match compare_quantities((value, unit), (bound, of_bound)) {
                        Ok(ordering) => ordering,
                        Err(reason) => {
                            error(say, format!("The quantity cannot be compared with the allowed {name}: {reason}."));
                            None
                        }
                    }
                }
                _ => None,
            };
            if ordering == Some(wrong) {
                let side = if wrong == Ordering::Less { "less" } else { "greater" };
                error(say, format!("The answer is {side} than the allowed {name}."));
            }
        }
    }

    fn unit(&self, unit: &Coding, say: Say<'_>) {
        if !self.item.units.is_empty() && self.definition.spend(self.item.units.len()).is_some() {
            let fits = |option: &Coding| match same_coding(unit, option) {
                Some(same) => same,
                // Without a code, the unit's text may name the option.
                None => unit.display.is_none() || unit.display == option.display || unit.display == option.code,
            };
            if !self.item.units.iter().any(fits) {
                error(say, "The quantity has a unit that the Questionnaire does not offer.");
            }
        }
        let codes = self.item.unit_set.as_deref().and_then(|set| self.definition.codes(set));
        if let (Some(codes), Some(code)) = (codes, &unit.code)
            && !codes.contains(unit.system.as_deref(), code)
        {
            error(say, "The quantity has a unit that is not in the Questionnaire's value set of units.");
        }
    }

    fn reference(&self, reference: &str, say: Say<'_>) {
        if reference.is_empty() || reference.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let message = "The reference is not a valid URL.".to_owned();
            say(Wrong { severity: Severity::Error, code: "invalid", at_value: true, message });
            return;
        }
        let types_allowed = self.item.reference_types.len();
        if types_allowed == 0 || self.definition.spend(types_allowed).is_none() {
            return;
        }
        let stated = self.value.object().and_then(|object| object.owned("type"));
        let Some(name) = target_type(reference).or_else(|| types::resource_type(&stated?)) else { return };
        if !self.item.reference_types.iter().any(|allowed| matches!(allowed.as_str(), "Resource") || allowed == name) {
            error(say, format!("The reference must not be to {name} here."));
        }
    }

    fn attachment(&self, attachment: &Object<'_>, say: Say<'_>) {
        let essence = |text: &str| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !self.item.mime_types.is_empty()
            && self.definition.spend(self.item.mime_types.len()).is_some()
            && let Some(stated) = attachment.string("contentType").map(|text| essence(&text))
        {
            let fits = |allowed: &String| {
                let allowed = essence(allowed);
                allowed == stated
                    || allowed == "*/*"
                    || allowed
                        .strip_suffix('*')
                        .is_some_and(|family| family.ends_with('/') && stated.starts_with(family))
            };
            if !self.item.mime_types.iter().any(fits) {
                let message = "The attachment has a content type that the Questionnaire does not allow.".to_owned();
                say(Wrong { severity: Severity::Error, code: "required", at_value: false, message });
            }
        }
        // A megabyte is read as 2^20 bytes, the larger of its meanings.
        if let Some(max) = self.item.max_size.as_ref().and_then(|max| max.times(1_048_576, 0)) {
            let stated = attachment.get("size").and_then(|size| Decimal::parse(size.number()?));
            let data = attachment.get("data").filter(|data| data.text().len() > 2);
            // Three bytes in four characters, white space aside.
            let held = data.and_then(|data| {
                let characters =
                    data.text().bytes().filter(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte));
                Decimal::parse(&(characters.count() / 4 * 3).to_string())
            });
            if [stated, held].into_iter().flatten().any(|size| size > max) {
                error(say, "The attachment is larger than maxSize allows.");
            }
        }
    }

    /// The coding is in the contained value set of answers.
    fn in_value_set(&self, coding: &Coding, say: Say<'_>) {
        let codes = self.item.option_set.as_deref().and_then(|set| self.definition.codes(set));
        let (Some(codes), Some(code)) = (codes, &coding.code) else { return };
        if !codes.contains(coding.system.as_deref(), code) {
            let message = "The code is not in the Questionnaire's value set of answers.".to_owned();
            say(Wrong { severity: Severity::Error, code: "code-invalid", at_value: false, message });
        }
    }

    /// The value is one of the options, if there are any.
    fn in_options(&self, value: &Value, say: Say<'_>) {
        let is_text = matches!(value, Value::Text(_));
        if self.item.options.is_empty() || (self.kind == Kind::OpenChoice && is_text) {
            return;
        }
        // Of an open choice, the free text may come as a coding with a display only.
        if let Value::Coding(Coding { system: None, code: None, .. }) = value
            && self.kind == Kind::OpenChoice
        {
            return;
        }
        if self.definition.spend(self.item.options.len()).is_none() {
            return;
        }
        let mut doubtful = false;
        let is_one = self.item.options.iter().any(|option| match (value, option) {
            (Value::Coding(value), Value::Coding(option)) => same_coding(value, option).unwrap_or_else(|| {
                // A code without its system is doubtful; a display alone names an option.
                doubtful |= value.code.is_some() && value.code == option.code;
                value.code.is_none() && value.display.is_some() && value.display == option.display
            }),
            (Value::Number(value), Value::Number(option)) => value.cmp(option).is_eq(),
            (Value::Moment(value), Value::Moment(option)) => value == option,
            (Value::Time(value), Value::Time(option)) => {
                temporal::compare_times(value, option) == Some(Ordering::Equal)
            }
            (Value::Text(value), Value::Text(option)) | (Value::Reference(value), Value::Reference(option)) => {
                value == option
            }
            _ => false,
        });
        if is_one {
            return;
        }
        let severity = if doubtful { Severity::Warning } else { Severity::Error };
        let message = "The answer is none of the options of its item.".to_owned();
        say(Wrong { severity, code: "invariant", at_value: !matches!(value, Value::Coding(_)), message });
    }
}

/// The order of two quantities, none if it cannot be told; or why they have none.
fn compare_quantities(left: (&Decimal, &Coding), right: (&Decimal, &Coding)) -> Result<Option<Ordering>, &'static str> {
    let ((value, unit), (bound, of_bound)) = (left, right);
    let (Some(code), Some(bound_code)) = (&unit.code, &of_bound.code) else {
        return Err("it has no formal unit");
    };
    let (Some(system), Some(bound_system)) = (&unit.system, &of_bound.system) else {
        return Err("it has no formal unit");
    };
    if system != bound_system {
        return Ok(None);
    }
    if system != UCUM {
        return Ok((code == bound_code).then(|| value.cmp(bound)));
    }
    match units::compare((value, code), (bound, bound_code)) {
        Comparison::Ordered(ordering) => Ok(Some(ordering)),
        Comparison::Incompatible => Err("its unit measures something else"),
        Comparison::Unknown => Ok(None),
    }
}

/// The resource type that a literal reference names.
fn target_type(reference: &str) -> Option<&'static str> {
    let path = reference.split(['?', '#', '|']).next()?;
    let path = path.split_once("/_history/").map_or(path, |(path, _)| path);
    let mut parts = path.rsplit('/');
    let (_, name) = (parts.next()?, parts.next()?);
    types::resource_type(name)
}
