//! Decimals compared by value, exactly, from their text: no binary fraction comes between.

use std::cmp::Ordering;

/// Digits of an exponent that are read: `numeric` ends far below.
const EXPONENT_DIGITS_MAX: usize = 6;

/// The order of two numbers in JSON's grammar (RFC 8259, section 6), a leading `+` admitted; none if one of them is none.
pub fn compare(one: &str, other: &str) -> Option<Ordering> {
    let (one, other) = (Decimal::read(one)?, Decimal::read(other)?);
    Some(match (one.sign(), other.sign()) {
        (1, 1) => one.compare_magnitude(&other),
        (-1, -1) => other.compare_magnitude(&one),
        (one, other) => one.cmp(&other),
    })
}

/// `0.d₁d₂d₃… × 10^exponent`, where d₁ is not zero; zero has no digits.
struct Decimal {
    is_negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    fn read(text: &str) -> Option<Self> {
        let (is_negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let leading = digits.iter().take_while(|digit| **digit == b'0').count();
        let end = digits.iter().rposition(|digit| *digit != b'0').map_or(leading, |last| last + 1);
        let point = i64::try_from(whole.len()).ok()? - i64::try_from(leading).ok()?;
        Some(Self { is_negative, digits: digits[leading..end].to_vec(), exponent: point + exponent })
    }

    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.is_negative) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => -1,
        }
    }

    /// Both are not zero. Without trailing zeros the digits compare as text does.
    fn compare_magnitude(&self, other: &Self) -> Ordering {
        self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits))
    }
}

fn read_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let significant = digits.trim_start_matches('0');
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || significant.len() > EXPONENT_DIGITS_MAX {
        return None;
    }
    let value = if significant.is_empty() { 0 } else { significant.parse::<i64>().ok()? };
    Some(if text.starts_with('-') { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bigdecimal::BigDecimal;
    use proptest::prelude::*;

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

        #[test]
        fn no_text_panics(text: String, almost in "[-+0-9eE.]{0,12}") {
            let _ = compare(&text, "1");
            let _ = compare(&almost, "1");
        }
    }

    #[test]
    fn what_binary_fractions_confuse_is_told_apart() {
        assert_eq!(compare("0.1", "0.10000000000000000001"), Some(Ordering::Less));
        assert_eq!(compare("9007199254740993", "9007199254740992"), Some(Ordering::Greater));
        assert_eq!(compare("1.2E+2", "120"), Some(Ordering::Equal));
        assert_eq!(compare("-0", "0.00e9"), Some(Ordering::Equal));
    }

    #[test]
    fn what_is_no_number_has_no_order() {
        for text in ["", "-", ".5", "5.", "1e", "1e+", "0x1", "1,5", "NaN", "1e9999999", "1 "] {
            assert_eq!(compare(text, "1"), None, "{text}");
        }
    }
}
