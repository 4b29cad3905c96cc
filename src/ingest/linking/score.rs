//! How much two descriptions of a person resemble each other: weights after Fellegi and Sunter (1969). Pure.
//!
//! A weight is log2(m / u): how much likelier a field agrees (or not) between records of one person than between records of
//! two. The sum, on the prior odds, is a probability. It proposes candidates to a person and never links.

use super::statement::Statement;
use crate::ingest::demographics::fold;
use rphonetic::{DoubleMetaphone, Encoder as _};
use serde::Serialize;

/// Prior log-odds that two records which somebody compares are one person: about one in eight thousand.
const PRIOR: f64 = -13.0;
/// From this probability on, a candidate is probable.
pub const PROBABLE: f64 = 0.9;
/// From this probability on, a candidate is possible.
pub const POSSIBLE: f64 = 0.5;
/// Names as near as this, by Jaro and Winkler, are taken for spellings of one.
const NEAR: f64 = 0.92;

/// How sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// Not likelier than not.
    CertainlyNot,
    /// From [`POSSIBLE`] on.
    Possible,
    /// From [`PROBABLE`] on.
    Probable,
    /// Has the number, and contradicts nothing.
    Certain,
}

/// How a field compares; fields that one side does not have are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agreement {
    /// The same.
    Agrees,
    /// Nearly the same: another spelling, one part of a date.
    Near,
    /// Another one.
    Disagrees,
}

/// One field's part in a score. No values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Which.
    pub field: &'static str,
    /// How it compares.
    pub agreement: Agreement,
}

/// A comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// 0 to 1, three digits.
    pub probability: f64,
    /// What it is worth.
    pub grade: Grade,
    /// Field by field.
    pub reasons: Vec<Reason>,
}

/// Weights of agreement, nearness and disagreement.
type Weights = (f64, f64, f64);

/// Nothing, if one side does not say.
type Compare = fn(&Statement, &Statement) -> Option<Agreement>;

const FIELDS: [(&str, Weights, Compare); 7] = [
    ("mrn", (10.0, 0.0, 0.0), |a, b| (!a.said.numbers.is_disjoint(&b.said.numbers)).then_some(Agreement::Agrees)),
    ("birthDate", (11.0, 4.0, -8.0), |a, b| {
        dates(a.said.person.birth_date.as_deref()?, b.said.person.birth_date.as_deref()?)
    }),
    ("family", (8.0, 5.0, -4.0), |a, b| names(a.said.person.family.as_deref()?, b.said.person.family.as_deref()?)),
    ("given", (6.0, 4.0, -7.0), |a, b| names(a.said.person.given.first()?, b.said.person.given.first()?)),
    ("gender", (1.0, 0.0, -5.0), |a, b| {
        let (one, other) = (a.said.person.gender.as_deref()?, b.said.person.gender.as_deref()?);
        let says = |gender: &str| gender == "male" || gender == "female";
        (says(one) && says(other)).then(|| equal(one == other))
    }),
    ("postalCode", (4.0, 0.0, -0.5), |a, b| shared(&a.postal_codes, &b.postal_codes)),
    ("phone", (7.0, 0.0, -0.3), |a, b| shared(&a.phones, &b.phones)),
];

/// Compare two statements.
#[must_use]
pub fn score(one: &Statement, other: &Statement) -> Score {
    let mut weight = PRIOR;
    let mut reasons = Vec::new();
    for (field, (agrees, near, disagrees), compare) in FIELDS {
        let Some(agreement) = compare(one, other) else { continue };
        weight += match agreement {
            Agreement::Agrees => agrees,
            Agreement::Near => near,
            Agreement::Disagrees => disagrees,
        };
        reasons.push(Reason { field, agreement });
    }
    let probability = 1.0 / (1.0 + (-weight).exp2());
    let says = |field: &'static str, agreement: Agreement| reasons.contains(&Reason { field, agreement });
    // Twins share everything but these two.
    let is_doubtful = says("given", Agreement::Disagrees) || says("birthDate", Agreement::Disagrees);
    let contradicts = one.said.person.contradiction(&other.said.person).is_some();
    let grade = match probability {
        _ if says("mrn", Agreement::Agrees) && !contradicts && !is_doubtful => Grade::Certain,
        likely if likely >= PROBABLE && !is_doubtful => Grade::Probable,
        likely if likely >= POSSIBLE => Grade::Possible,
        _ => Grade::CertainlyNot,
    };
    Score { probability: (probability * 1000.0).round() / 1000.0, grade, reasons }
}

fn equal(is_equal: bool) -> Agreement {
    if is_equal { Agreement::Agrees } else { Agreement::Disagrees }
}

fn dates(one: &str, other: &str) -> Option<Agreement> {
    let shared = one.len().min(other.len());
    let (one, other) = (one.get(..shared)?, other.get(..shared)?);
    if one == other {
        // A year alone says much less than a day.
        return Some(if shared >= 10 { Agreement::Agrees } else { Agreement::Near });
    }
    let (a, b): (Vec<&str>, Vec<&str>) = (one.split('-').collect(), other.split('-').collect());
    let is_near = match (a.as_slice(), b.as_slice()) {
        ([y1, m1, d1], [y2, m2, d2]) => {
            let same = [y1 == y2, m1 == m2, d1 == d2].into_iter().filter(|same| *same).count();
            // One part mistyped, or day and month the other way round.
            same == 2 || (y1 == y2 && m1 == d2 && d1 == m2)
        }
        _ => false,
    };
    Some(if is_near { Agreement::Near } else { Agreement::Disagrees })
}

fn names(one: &str, other: &str) -> Option<Agreement> {
    let (one, other) = (fold(one), fold(other));
    if one.is_empty() || other.is_empty() {
        return None;
    }
    if one == other {
        return Some(Agreement::Agrees);
    }
    // The encoder knows Latin letters only.
    let sound = |name: &str| if name.is_ascii() { DoubleMetaphone::default().encode(name) } else { String::new() };
    let sounds_alike = !sound(&one).is_empty() && sound(&one) == sound(&other);
    let is_near = sounds_alike || strsim::jaro_winkler(&one, &other) >= NEAR;
    Some(if is_near { Agreement::Near } else { Agreement::Disagrees })
}

fn shared(one: &[String], other: &[String]) -> Option<Agreement> {
    (!one.is_empty() && !other.is_empty()).then(|| equal(one.iter().any(|value| other.contains(value))))
}
