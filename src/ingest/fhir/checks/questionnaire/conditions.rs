//! `enableWhen`: whether an item may be answered, as far as that can be told.

use super::definition::{Coding, Condition, Definition, Value};
use super::response::Flat;
use crate::ingest::fhir::checks::choice;
use crate::ingest::fhir::checks::units::{self, Comparison, UCUM};
use crate::ingest::fhir::decimal::Decimal;
use crate::ingest::fhir::temporal;
use std::cmp::Ordering;

/// Answers questions about one response.
pub struct Asker<'r, 'a> {
    definition: &'r Definition,
    flat: &'r Flat<'a>,
}

impl<'r, 'a> Asker<'r, 'a> {
    pub fn new(definition: &'r Definition, flat: &'r Flat<'a>) -> Self {
        Self { definition, flat }
    }

    /// An item of the Questionnaire may be answered in this container; none if that cannot be told.
    pub fn enabled(&mut self, item: usize, container: usize) -> Option<bool> {
        let definition = self.definition;
        let enabling = &definition.items[item].enabling;
        if enabling.has_expression {
            return None;
        }
        if enabling.conditions.is_empty() {
            return Some(true);
        }
        self.definition.spend(enabling.conditions.len())?;
        let any = enabling.any?;
        let mut told = Some(!any);
        for condition in &enabling.conditions {
            match condition.as_ref().and_then(|condition| self.holds(condition, container)) {
                Some(holds) if holds == any => return Some(any),
                Some(_) => {}
                None => told = None,
            }
        }
        told
    }

    fn holds(&mut self, condition: &Condition, container: usize) -> Option<bool> {
        let question = *self.definition.by_link.get(&condition.question)?;
        if self.definition.items[question].ambiguous {
            return None;
        }
        let entries = self.nearest(question, container);
        self.definition.spend(entries.len())?;
        self.definition.spend(entries.iter().map(|entry| self.flat.entries[*entry].answers.len()).sum())?;
        let answers: Vec<_> = entries
            .iter()
            .flat_map(|entry| &self.flat.entries[*entry].answers)
            .filter_map(|(_, answer)| choice(answer, "value"))
            .collect();
        if condition.operator == "exists" {
            let Value::Boolean(expected) = condition.answer else { return None };
            return Some(answers.is_empty() != expected);
        }
        if answers.is_empty() {
            // Of "!=" without an answer, implementations think differently.
            return (condition.operator != "!=").then_some(false);
        }
        let fits = |ordering: Compared| -> Option<bool> {
            Some(match (condition.operator.as_str(), ordering) {
                (_, Compared::Unknown) => return None,
                ("=", compared) => compared == Compared::Ordered(Ordering::Equal),
                ("!=", compared) => compared != Compared::Ordered(Ordering::Equal),
                (">", Compared::Ordered(ordering)) => ordering.is_gt(),
                ("<", Compared::Ordered(ordering)) => ordering.is_lt(),
                (">=", Compared::Ordered(ordering)) => ordering.is_ge(),
                ("<=", Compared::Ordered(ordering)) => ordering.is_le(),
                _ => return None,
            })
        };
        // "!=" asks that no answer is equal, the others that one answer fits.
        let all = condition.operator == "!=";
        let mut told = Some(all);
        for (_, kind, node) in answers {
            let compared =
                Value::read(kind, node).map_or(Compared::Unknown, |value| compare(&value, &condition.answer));
            match fits(compared) {
                Some(fits) if fits != all => return Some(fits),
                Some(_) => {}
                None => told = None,
            }
        }
        told
    }

    /// The entries of a question in the innermost container that has any.
    fn nearest(&self, question: usize, container: usize) -> &'r [usize] {
        let flat = self.flat;
        let Some(entries) = flat.by_item.get(&question) else { return &[] };
        let mut at = Some(container);
        while let Some(container) = at {
            let range = flat.range(container);
            let first = entries.partition_point(|entry| *entry < range.start);
            let end = entries.partition_point(|entry| *entry < range.end);
            if first < end {
                return &entries[first..end];
            }
            at = flat.containers[container].owner.map(|(entry, _)| flat.entries[entry].container);
        }
        &[]
    }
}

/// How an answer stands to what a condition compares with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    Ordered(Ordering),
    /// Not equal, and without an order.
    Different,
    Unknown,
}

fn compare(answer: &Value, expected: &Value) -> Compared {
    let equality = |equal: bool| if equal { Compared::Ordered(Ordering::Equal) } else { Compared::Different };
    let known = |ordering: Option<Ordering>| ordering.map_or(Compared::Unknown, Compared::Ordered);
    match (answer, expected) {
        (Value::Boolean(a), Value::Boolean(b)) => equality(a == b),
        (Value::Number(a), Value::Number(b)) => Compared::Ordered(a.cmp(b)),
        (Value::Moment(a), Value::Moment(b)) => known(temporal::compare(a, b)),
        (Value::Time(a), Value::Time(b)) => known(temporal::compare_times(a, b)),
        (Value::Text(a), Value::Text(b)) | (Value::Reference(a), Value::Reference(b)) => equality(a == b),
        (Value::Coding(a), Value::Coding(b)) => same_coding(a, b).map_or(Compared::Unknown, equality),
        (Value::Quantity { value: a, unit: x }, Value::Quantity { value: b, unit: y }) => {
            compare_quantities((a, x), (b, y))
        }
        _ => Compared::Unknown,
    }
}

/// Two codings mean the same; none where one leaves its system or its code open.
pub fn same_coding(a: &Coding, b: &Coding) -> Option<bool> {
    let (Some(left), Some(right)) = (&a.code, &b.code) else { return None };
    if left != right {
        return Some(false);
    }
    match (&a.system, &b.system) {
        (Some(left), Some(right)) => Some(left == right),
        (None, None) => Some(true),
        _ => None,
    }
}

type Measured<'v> = (&'v Decimal, &'v Coding);

fn compare_quantities(left: Measured<'_>, right: Measured<'_>) -> Compared {
    let ((a, x), (b, y)) = (left, right);
    if x.system == y.system && x.code == y.code && (x.code.is_some() || x.display == y.display) {
        return Compared::Ordered(a.cmp(b));
    }
    let (Some(left), Some(right)) = (&x.code, &y.code) else { return Compared::Unknown };
    if x.system.as_deref() != Some(UCUM) || y.system.as_deref() != Some(UCUM) {
        return Compared::Unknown;
    }
    match units::compare((a, left), (b, right)) {
        Comparison::Ordered(ordering) => Compared::Ordered(ordering),
        Comparison::Incompatible => Compared::Different,
        Comparison::Unknown => Compared::Unknown,
    }
}
