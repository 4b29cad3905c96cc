//! Decimals compared exactly as they are written: no binary floating point, any number of digits.

use std::cmp::Ordering;

/// The order of two numbers in JSON's grammar, a leading `+` admitted; none if one of them is none.
#[must_use]
pub fn compare(one: &str, other: &str) -> Option<Ordering> {
    Some(Decimal::parse_signed(one)?.cmp(&Decimal::parse_signed(other)?))
}

/// A JSON number as sign, digits and the power of ten of its first digit.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    /// Without zeros at either end; empty for zero.
    digits: Vec<u8>,
    /// The first digit counts `10^magnitude`.
    magnitude: i64,
    /// Digits behind the point as written, the exponent taken into account.
    places: i64,
}

impl Decimal {
    /// Read a number in JSON's grammar.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent_of(exponent)?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_number(whole) || !is_number(fraction) || mantissa.ends_with('.') {
            return None;
        }
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0').collect();
        let leading = all.iter().take_while(|digit| **digit == 0).count();
        let trailing = all[leading..].iter().rev().take_while(|digit| **digit == 0).count();
        let digits = all[leading..all.len() - trailing].to_vec();
        let magnitude = length(whole)?.checked_sub(1)?.checked_sub(i64::try_from(leading).ok()?)?;
        Some(Self {
            negative: negative && !digits.is_empty(),
            magnitude: if digits.is_empty() { 0 } else { magnitude.checked_add(exponent)? },
            digits,
            places: length(fraction)?.checked_sub(exponent)?.max(0),
        })
    }

    /// Read a number as people write it: as in JSON, but a `+` may stand before it.
    fn parse_signed(text: &str) -> Option<Self> {
        match text.strip_prefix('+') {
            Some(rest) if rest.starts_with('-') => None,
            rest => Self::parse(rest.unwrap_or(text)),
        }
    }

    /// Digits behind the point, as written: 2 for `5.10`, 0 for `1.25E+2`.
    #[must_use]
    pub fn places(&self) -> i64 {
        self.places
    }

    /// This number times a positive `factor` times `10^power`; none if it has more digits than can be multiplied exactly.
    #[must_use]
    pub fn times(&self, factor: u64, power: i64) -> Option<Self> {
        if self.digits.is_empty() {
            return Some(self.clone());
        }
        if self.digits.len() > 18 {
            return None;
        }
        let value = self.digits.iter().fold(0u128, |value, digit| value * 10 + u128::from(*digit));
        // At most 10^18 times 2^64: within 128 bits.
        let product = (value * u128::from(factor)).to_string();
        let last = self.magnitude - (i64::try_from(self.digits.len()).ok()? - 1);
        let scaled = Self::parse(&product)?;
        Some(Self {
            negative: self.negative,
            magnitude: scaled.magnitude.checked_add(last)?.checked_add(power)?,
            ..scaled
        })
    }
}

fn length(digits: &str) -> Option<i64> {
    i64::try_from(digits.len()).ok()
}

fn exponent_of(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Nineteen digits overflow: such a number is compared by nobody.
    let value: i64 = digits.parse().ok()?;
    Some(if text.starts_with('-') { -value } else { value })
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            _ => {}
        }
        let size = match (self.digits.is_empty(), other.digits.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => self.magnitude.cmp(&other.magnitude).then_with(|| self.digits.cmp(&other.digits)),
        };
        if self.negative { size.reverse() } else { size }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bigdecimal::BigDecimal;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn numbers_compare_by_value_however_they_are_written() {
        for (left, right, expected) in [
            ("1", "1.000", Ordering::Equal),
            ("0", "-0.0", Ordering::Equal),
            ("0.1", "1E-1", Ordering::Equal),
            ("120", "1.2E+2", Ordering::Equal),
            ("0.10000000000000000001", "0.1", Ordering::Greater),
            ("9007199254740993", "9007199254740992", Ordering::Greater),
            ("-5.1234", "-5.12", Ordering::Less),
            ("-1", "0.5", Ordering::Less),
            ("0", "0.001", Ordering::Less),
            ("0", "-3", Ordering::Greater),
            ("10", "9.99", Ordering::Greater),
        ] {
            assert_eq!(decimal(left).cmp(&decimal(right)), expected, "{left} {right}");
            assert_eq!(decimal(right).cmp(&decimal(left)), expected.reverse(), "{right} {left}");
        }
    }

    #[test]
    fn places_are_counted_as_written() {
        for (text, places) in [("5", 0), ("5.10", 2), ("-5.1234", 4), ("1.25E+2", 0), ("1.25E+1", 1), ("1e-3", 3)] {
            assert_eq!(decimal(text).places(), places, "{text}");
        }
    }

    #[test]
    fn a_product_is_exact() {
        let pounds = decimal("2.5").times(45_359_237, -8).unwrap();
        assert_eq!(pounds.cmp(&decimal("1.133980925")), Ordering::Equal);
        assert_eq!(decimal("-1500").times(1, -3).unwrap().cmp(&decimal("-1.5")), Ordering::Equal);
        assert_eq!(decimal("0").times(7, 3).unwrap().cmp(&decimal("0")), Ordering::Equal);
        assert!(decimal("1.2345678901234567890").times(7, 0).is_none());
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in
            ["", "-", ".5", "1.", "1e", "1e+", "a", "1.2.3", "0x1", "1,5", "NaN", "1e99999999999999999999", "１"]
        {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    /// JSON's grammar, with zeros in all the places where they matter.
    fn number() -> impl Strategy<Value = String> {
        let fraction = prop::option::of("[0-9]{1,12}|0{1,4}[0-9]{0,3}");
        let exponent = prop::option::of("[eE][+-]?0{0,2}[0-9]{1,2}");
        ("-?(0|[1-9][0-9]{0,12})", fraction, exponent).prop_map(|(whole, fraction, exponent)| {
            let fraction = fraction.map(|digits| format!(".{digits}")).unwrap_or_default();
            format!("{whole}{fraction}{}", exponent.unwrap_or_default())
        })
    }

    fn independent(text: &str) -> BigDecimal {
        text.parse().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_order_is_that_of_an_independent_decimal_library(one in number(), other in number()) {
            prop_assert_eq!(compare(&one, &other), Some(independent(&one).cmp(&independent(&other))));
        }

        /// The same value in another notation.
        #[test]
        fn notation_does_not_matter(one in number(), zeros in 0usize..4) {
            let same = independent(&one);
            let longer = same.with_scale(same.fractional_digit_count() + i64::try_from(zeros).unwrap());
            prop_assert_eq!(compare(&one, &longer.to_plain_string()), Some(Ordering::Equal));
            prop_assert_eq!(compare(&one, &longer.to_scientific_notation()), Some(Ordering::Equal));
        }
    }

    #[test]
    fn a_plus_is_admitted_where_people_write_it() {
        assert_eq!(compare("+5.0", "5"), Some(Ordering::Equal));
        for text in ["+", "+-5", "-+5", "++5", "+.5", "1 "] {
            assert_eq!(compare(text, "1"), None, "{text}");
        }
        assert_eq!(Decimal::parse("+5"), None);
    }

    proptest! {
        #[test]
        fn integers_compare_like_integers(left: i64, right: i64) {
            prop_assert_eq!(decimal(&left.to_string()).cmp(&decimal(&right.to_string())), left.cmp(&right));
        }

        #[test]
        fn no_text_panics(text: String, number in "-?[0-9]{0,40}\\.?[0-9]{0,40}([eE][+-]?[0-9]{1,25})?") {
            let _ = Decimal::parse(&text);
            let _ = compare(&text, "1");
            if let Some(decimal) = Decimal::parse(&number) {
                let _ = decimal.times(u64::MAX, i64::MAX);
                let _ = decimal.cmp(&decimal);
            }
        }
    }
}
