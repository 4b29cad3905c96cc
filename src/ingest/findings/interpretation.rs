//! Interpretation: as declared, or derived where nothing is declared and exactly one normal range clearly applies.

use super::{Evidence, Finding, Value, parts};
use crate::ingest::fhir::decimal;
use crate::ingest::fhir::node::Object;
use crate::ingest::fhir::path::Place;
use std::cmp::Ordering;

/// One end of a normal range.
#[derive(Clone, PartialEq, Eq)]
struct Bound {
    number: String,
    /// The bound itself is normal.
    is_inclusive: bool,
}

/// A normal range with at least one end.
#[derive(Clone, PartialEq, Eq)]
struct Bounds {
    low: Option<Bound>,
    high: Option<Bound>,
}

/// Take the reference ranges and the interpretation of an Observation or a component, whose value is known.
pub fn interpret(finding: &mut Finding, object: &Object<'_>, place: &Place) {
    finding.reference_range = parts::member_json(object, "referenceRange");
    if let Some(declared) = object.objects("interpretation").iter().find_map(parts::concept_word) {
        finding.interpretation = Some(declared);
        finding.interpretation_source = Some("declared");
    } else if let Some((derived, range)) = derive(&finding.value, object, place) {
        finding.interpretation = Some(derived.to_owned());
        finding.interpretation_source = Some("derived");
        finding.evidence.push(range);
    }
}

/// L, N or H, and the range that says so; never a critical flag.
fn derive(value: &Value, object: &Object<'_>, place: &Place) -> Option<(&'static str, Evidence)> {
    if !matches!(value.kind, Some("quantity" | "integer")) {
        return None;
    }
    let mut normal = (0..).zip(object.items("referenceRange")).filter_map(|(index, node)| {
        let range = node.object()?;
        is_normal(&range).then_some((index, range))
    });
    let (index, range) = normal.next()?;
    // For whom it applies is not decided here.
    if normal.next().is_some() || range.get("appliesTo").is_some() || range.get("age").is_some() {
        return None;
    }
    let bounds = bounds(&range, value)?;
    let derived = judge(value.text.as_deref()?, value.comparator.as_deref(), &bounds)?;
    let place = place.member("referenceRange").item(index);
    Some((derived, parts::evidence(range.node(), &place, "observation.range")))
}

/// Its type is normal, or not stated.
fn is_normal(range: &Object<'_>) -> bool {
    range.get("type").is_none() || parts::word(range, "type").as_deref() == Some("normal")
}

/// The bounds, if they are in the value's unit: as quantities, or else as a text.
fn bounds(range: &Object<'_>, value: &Value) -> Option<Bounds> {
    if range.get("low").is_none() && range.get("high").is_none() {
        return read_text(range.string("text")?.trim(), value);
    }
    let bound = |member: &str| -> Option<Option<Bound>> {
        let Some(node) = range.get(member) else { return Some(None) };
        let bound = parts::quantity(&node.object()?);
        if !is_same_unit(&bound, value) || bound.comparator.is_some() {
            return None;
        }
        Some(Some(Bound { number: bound.text?, is_inclusive: true }))
    };
    sound(Bounds { low: bound("low")?, high: bound("high")? })
}

fn is_same_unit(bound: &Value, value: &Value) -> bool {
    match (&bound.ucum, &value.ucum) {
        (Some(one), Some(other)) => one == other,
        _ => bound.unit == value.unit,
    }
}

/// A range whose low end lies above its high end says nothing.
fn sound(bounds: Bounds) -> Option<Bounds> {
    if let (Some(low), Some(high)) = (&bounds.low, &bounds.high)
        && decimal::compare(&low.number, &high.number)? == Ordering::Greater
    {
        return None;
    }
    Some(bounds)
}

/// `70-100`, `>40`, `>=40`, `<5.7`, `<=5.7`, followed by no unit or the value's; anything else says nothing.
fn read_text(text: &str, value: &Value) -> Option<Bounds> {
    let operators = [(">=", true), ("≥", true), ("<=", true), ("≤", true), (">", false), ("<", false)];
    for (operator, is_inclusive) in operators {
        if let Some(rest) = text.strip_prefix(operator) {
            let (number, unit) = leading_number(rest.trim_start())?;
            let bound = Some(Bound { number: number.to_owned(), is_inclusive });
            let is_low = operator.starts_with(['>', '≥']);
            let bounds = if is_low { Bounds { low: bound, high: None } } else { Bounds { low: None, high: bound } };
            return is_unit_of(unit, value).then_some(bounds);
        }
    }
    let (low, rest) = leading_number(text)?;
    let rest = rest.trim_start().strip_prefix(['-', '–'])?;
    let (high, unit) = leading_number(rest.trim_start())?;
    let bound = |number: &str| Some(Bound { number: number.to_owned(), is_inclusive: true });
    is_unit_of(unit, value).then(|| sound(Bounds { low: bound(low), high: bound(high) }))?
}

/// L, N or H of a value against a normal range that is written as a text; nothing where the text is not strictly a range in
/// the value's unit.
pub fn of_text(range: &str, value: &Value) -> Option<&'static str> {
    if !matches!(value.kind, Some("quantity" | "integer")) {
        return None;
    }
    judge(value.text.as_deref()?, value.comparator.as_deref(), &read_text(range.trim(), value)?)
}

/// A number without exponent at the beginning of a text, and what follows it.
fn leading_number(text: &str) -> Option<(&str, &str)> {
    let end = text
        .char_indices()
        .find(|(index, c)| !(c.is_ascii_digit() || *c == '.' || (*index == 0 && *c == '-')))
        .map_or(text.len(), |(index, _)| index);
    let (number, rest) = text.split_at(end);
    decimal::compare(number, "0").map(|_| (number, rest))
}

fn is_unit_of(unit: &str, value: &Value) -> bool {
    let unit = unit.trim();
    unit.is_empty() || [&value.unit, &value.ucum].into_iter().any(|own| own.as_deref() == Some(unit))
}

/// Where a value lies. With a comparator it stands for many values: all of them must lie outside on one side.
fn judge(number: &str, comparator: Option<&str>, bounds: &Bounds) -> Option<&'static str> {
    let against = |bound: &Option<Bound>| match bound {
        Some(bound) => Some(Some((decimal::compare(number, &bound.number)?, bound.is_inclusive))),
        None => Some(None),
    };
    let (low, high) = (against(&bounds.low)?, against(&bounds.high)?);
    if low.is_none() && high.is_none() {
        return None;
    }
    // Whether the number itself, or else what comes up to it without reaching it, lies below or above.
    let is_below = |reaches: bool| {
        low.is_some_and(|(order, is_inclusive)| match order {
            Ordering::Less => true,
            Ordering::Equal => !reaches || !is_inclusive,
            Ordering::Greater => false,
        })
    };
    let is_above = |reaches: bool| {
        high.is_some_and(|(order, is_inclusive)| match order {
            Ordering::Greater => true,
            Ordering::Equal => !reaches || !is_inclusive,
            Ordering::Less => false,
        })
    };
    match comparator {
        None if is_below(true) => Some("L"),
        None if is_above(true) => Some("H"),
        None => Some("N"),
        Some(comparator @ ("<" | "<=")) if is_below(comparator == "<=") => Some("L"),
        Some(comparator @ (">" | ">=")) if is_above(comparator == ">=") => Some("H"),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(unit: &str) -> Value {
        Value { unit: Some(unit.to_owned()), ..Value::default() }
    }

    fn judged(number: &str, comparator: Option<&str>, range: &str) -> Option<&'static str> {
        judge(number, comparator, &read_text(range, &value("mg/dL"))?)
    }

    #[test]
    fn text_ranges_are_read_strictly() {
        for (range, number, expected) in [
            ("70-100", "70", "N"),
            ("70-100", "100.0", "N"),
            ("70 – 100 mg/dL", "69.99", "L"),
            ("70-100", "1.01e2", "H"),
            (">40", "40", "L"),
            (">40", "40.1", "N"),
            (">=40", "40", "N"),
            ("≥ 40", "39", "L"),
            ("<5.7", "5.7", "H"),
            ("<=5.7", "5.70", "N"),
            ("<= 5.7mg/dL", "5.8", "H"),
            ("-2-2", "-2.5", "L"),
        ] {
            assert_eq!(judged(number, None, range), Some(expected), "{number} in {range}");
        }
        for unclear in [
            "",
            "70",
            "70-",
            "-",
            "100-70",
            "70-100-110",
            "70-100 mmol/L",
            "about 70-100",
            "<",
            "> x",
            "1.2.3-4",
            "70-100 (M)",
            "<5 or >9",
            "= 5",
            "1e2-2e2",
        ] {
            assert_eq!(judged("50", None, unclear), None, "{unclear}");
        }
    }

    #[test]
    fn a_comparator_is_out_only_with_all_that_it_stands_for() {
        for (number, comparator, expected) in [
            ("70", "<", Some("L")),
            ("70", "<=", None),
            ("69", "<=", Some("L")),
            ("71", "<", None),
            ("100", ">", Some("H")),
            ("100", ">=", None),
            ("101", ">=", Some("H")),
            ("99", ">", None),
            ("50", "~", None),
        ] {
            assert_eq!(judged(number, Some(comparator), "70-100"), expected, "{comparator}{number}");
        }
        assert_eq!(judged("40", Some("<="), ">40"), Some("L"));
        assert_eq!(judged("5.7", Some(">="), "<5.7"), Some("H"));
    }
}
