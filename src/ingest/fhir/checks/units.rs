//! Quantities in the units of UCUM that measurements are taken in, compared exactly.
//!
//! The table holds linear units only: a temperature in degrees has an origin of its own, and what is not in the table
//! compares with the same unit and with no other.

use crate::ingest::fhir::decimal::Decimal;
use std::cmp::Ordering;

/// UCUM's system.
pub const UCUM: &str = "http://unitsofmeasure.org";

/// What a unit measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dimension {
    Mass,
    Length,
    Time,
    Volume,
    Pressure,
    Ratio,
    Temperature,
    Frequency,
    Energy,
}

/// Code, dimension, and what one unit is: `factor × 10^power` of the dimension's base (g, m, s, L, Pa, 1, /s, J).
/// Temperatures have no factor.
const UNITS: &[(&str, Dimension, u64, i64)] = &[
    ("kg", Dimension::Mass, 1, 3),
    ("g", Dimension::Mass, 1, 0),
    ("mg", Dimension::Mass, 1, -3),
    ("ug", Dimension::Mass, 1, -6),
    ("ng", Dimension::Mass, 1, -9),
    ("pg", Dimension::Mass, 1, -12),
    ("t", Dimension::Mass, 1, 6),
    // NIST: the avoirdupois pound is 0.45359237 kg, the ounce a sixteenth.
    ("[lb_av]", Dimension::Mass, 45_359_237, -5),
    ("[oz_av]", Dimension::Mass, 28_349_523_125, -9),
    ("km", Dimension::Length, 1, 3),
    ("m", Dimension::Length, 1, 0),
    ("dm", Dimension::Length, 1, -1),
    ("cm", Dimension::Length, 1, -2),
    ("mm", Dimension::Length, 1, -3),
    ("um", Dimension::Length, 1, -6),
    ("nm", Dimension::Length, 1, -9),
    // The international inch is 2.54 cm.
    ("[in_i]", Dimension::Length, 254, -4),
    ("[ft_i]", Dimension::Length, 3_048, -4),
    ("[yd_i]", Dimension::Length, 9_144, -4),
    ("[mi_i]", Dimension::Length, 1_609_344, -3),
    ("s", Dimension::Time, 1, 0),
    ("ms", Dimension::Time, 1, -3),
    ("us", Dimension::Time, 1, -6),
    ("min", Dimension::Time, 60, 0),
    ("h", Dimension::Time, 3_600, 0),
    ("d", Dimension::Time, 86_400, 0),
    ("wk", Dimension::Time, 604_800, 0),
    // UCUM's Julian year and its twelfth.
    ("mo", Dimension::Time, 2_629_800, 0),
    ("a", Dimension::Time, 31_557_600, 0),
    ("L", Dimension::Volume, 1, 0),
    ("l", Dimension::Volume, 1, 0),
    ("dL", Dimension::Volume, 1, -1),
    ("dl", Dimension::Volume, 1, -1),
    ("cL", Dimension::Volume, 1, -2),
    ("mL", Dimension::Volume, 1, -3),
    ("ml", Dimension::Volume, 1, -3),
    ("uL", Dimension::Volume, 1, -6),
    ("fL", Dimension::Volume, 1, -15),
    ("m3", Dimension::Volume, 1, 3),
    ("cm3", Dimension::Volume, 1, -3),
    ("Pa", Dimension::Pressure, 1, 0),
    ("kPa", Dimension::Pressure, 1, 3),
    ("bar", Dimension::Pressure, 1, 5),
    ("mbar", Dimension::Pressure, 1, 2),
    // UCUM: m[Hg] is 133.3220 kPa.
    ("mm[Hg]", Dimension::Pressure, 133_322, -3),
    ("1", Dimension::Ratio, 1, 0),
    ("%", Dimension::Ratio, 1, -2),
    ("Cel", Dimension::Temperature, 0, 0),
    ("[degF]", Dimension::Temperature, 0, 0),
    ("K", Dimension::Temperature, 0, 0),
    ("Hz", Dimension::Frequency, 1, 0),
    ("J", Dimension::Energy, 1, 0),
    ("kJ", Dimension::Energy, 1, 3),
    // UCUM's thermochemical calorie.
    ("cal", Dimension::Energy, 4_184, -3),
    ("kcal", Dimension::Energy, 4_184, 0),
];

/// How two quantities in UCUM units stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// They measure the same.
    Ordered(Ordering),
    /// They measure different things.
    Incompatible,
    /// The table does not tell.
    Unknown,
}

/// Compare two values with their UCUM codes.
#[must_use]
pub fn compare(left: (&Decimal, &str), right: (&Decimal, &str)) -> Comparison {
    if left.1 == right.1 {
        return Comparison::Ordered(left.0.cmp(right.0));
    }
    let find = |code: &str| UNITS.iter().find(|(name, ..)| *name == code);
    let (Some(a), Some(b)) = (find(left.1), find(right.1)) else { return Comparison::Unknown };
    if a.1 != b.1 {
        return Comparison::Incompatible;
    }
    if a.2 == 0 || b.2 == 0 {
        return Comparison::Unknown;
    }
    match (left.0.times(a.2, a.3), right.0.times(b.2, b.3)) {
        (Some(left), Some(right)) => Comparison::Ordered(left.cmp(&right)),
        _ => Comparison::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(left: (&str, &str), right: (&str, &str)) -> Comparison {
        let [a, b] = [left.0, right.0].map(|text| Decimal::parse(text).unwrap());
        compare((&a, left.1), (&b, right.1))
    }

    #[test]
    fn units_of_one_dimension_are_compared_exactly() {
        for (left, right, expected) in [
            (("5", "kg"), ("5000", "g"), Ordering::Equal),
            (("1", "[lb_av]"), ("0.45359237", "kg"), Ordering::Equal),
            (("16", "[oz_av]"), ("1", "[lb_av]"), Ordering::Equal),
            (("1", "[mi_i]"), ("5280", "[ft_i]"), Ordering::Equal),
            (("1", "[in_i]"), ("2.54", "cm"), Ordering::Equal),
            (("100", "mm[Hg]"), ("13", "kPa"), Ordering::Greater),
            (("12", "mo"), ("1", "a"), Ordering::Equal),
            (("1", "odd"), ("2", "odd"), Ordering::Less),
        ] {
            assert_eq!(of(left, right), Comparison::Ordered(expected), "{left:?} {right:?}");
        }
    }

    #[test]
    fn what_measures_other_things_is_not_compared() {
        assert_eq!(of(("1", "kg"), ("1", "[mi_i]")), Comparison::Incompatible);
        assert_eq!(of(("1", "kg"), ("1", "odd")), Comparison::Unknown);
        assert_eq!(of(("37", "Cel"), ("98", "[degF]")), Comparison::Unknown);
    }

    #[test]
    fn no_unit_is_listed_twice() {
        let names: std::collections::HashSet<_> = UNITS.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), UNITS.len());
    }
}
