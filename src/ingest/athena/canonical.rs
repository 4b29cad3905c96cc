//! Canonical JSON (RFC 8785): one text for all ways to write the same value.
//!
//! The RFC knows only numbers of binary64 (I-JSON). A number that binary64 does not hold as written is written by its
//! exact digits here, so that two different values never have one canonical form.

use crate::ingest::fhir::json::{Cursor, SyntaxError};
use std::fmt::Write as _;

/// Why a value has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotCanonical {
    /// It is not JSON.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// An object has a key twice: which value counts is anybody's guess.
    #[error("a key is there twice")]
    DuplicateKey {
        /// Byte offset of the second one.
        offset: usize,
    },
}

/// Write the canonical form of the value at the cursor. Recurses with the depth of the value: bound it before
/// ([`crate::ingest::fhir::envelope::unsafe_text`]).
///
/// # Errors
/// [`NotCanonical`].
pub fn canonical(cursor: &mut Cursor<'_>, out: &mut String) -> Result<(), NotCanonical> {
    match cursor.peek() {
        Some(b'{') => object(cursor, out),
        Some(b'[') => array(cursor, out),
        Some(b'"') => {
            text(&cursor.string()?.decode(), out);
            Ok(())
        }
        Some(b't' | b'f' | b'n') => {
            out.push_str(cursor.literal()?);
            Ok(())
        }
        _ => {
            number(cursor.number()?, out);
            Ok(())
        }
    }
}

fn array(cursor: &mut Cursor<'_>, out: &mut String) -> Result<(), NotCanonical> {
    cursor.open();
    out.push('[');
    let mut first = true;
    while cursor.item(first)? {
        if !first {
            out.push(',');
        }
        first = false;
        canonical(cursor, out)?;
    }
    out.push(']');
    Ok(())
}

/// Members are written in order of appearance behind what is there, then put in order of their keys.
fn object(cursor: &mut Cursor<'_>, out: &mut String) -> Result<(), NotCanonical> {
    cursor.open();
    let start = out.len();
    let mut members: Vec<(Vec<u16>, usize, std::ops::Range<usize>)> = Vec::new();
    let mut first = true;
    while let Some(key) = cursor.key(first)? {
        first = false;
        let name = key.decode();
        let begin = out.len();
        text(&name, out);
        out.push(':');
        canonical(cursor, out)?;
        // Section 3.2.3: keys are sorted by their UTF-16 code units.
        members.push((name.encode_utf16().collect(), key.offset, begin..out.len()));
    }
    members.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.cmp(&other.1)));
    if let Some(pair) = members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(NotCanonical::DuplicateKey { offset: pair[1].1 });
    }
    let mut sorted = String::with_capacity(out.len() - start + members.len() + 1);
    for (index, (_, _, range)) in members.into_iter().enumerate() {
        sorted.push(if index == 0 { '{' } else { ',' });
        sorted.push_str(&out[range]);
    }
    if sorted.is_empty() {
        sorted.push('{');
    }
    sorted.push('}');
    out.replace_range(start.., &sorted);
    Ok(())
}

/// Section 3.2.2.2.
fn text(value: &str, out: &mut String) {
    out.push('"');
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// Section 3.2.2.3, as ECMAScript writes numbers; by exact digits where binary64 would change the value.
fn number(written: &str, out: &mut String) {
    let exact = Digits::of(written);
    // Nothing that JSON admits fails to parse; what is too large becomes infinite.
    let value: f64 = written.parse().unwrap_or(f64::INFINITY);
    if value.is_finite() {
        let mut buffer = ryu_js::Buffer::new();
        let shortest = buffer.format_finite(value);
        if Digits::of(shortest) == exact {
            out.push_str(shortest);
            return;
        }
    }
    match exact {
        Some(digits) => {
            let sign = if digits.is_negative { "-" } else { "" };
            let _ = write!(out, "{sign}{}e{}", digits.significant, digits.exponent);
        }
        // An exponent beyond 18 digits: only the same text is the same number.
        None => out.push_str(written),
    }
}

/// `significant × 10^exponent`, without zeros at either end; zero is no digits, and has no sign.
#[derive(PartialEq, Eq)]
struct Digits {
    is_negative: bool,
    significant: String,
    exponent: i64,
}

impl Digits {
    fn of(written: &str) -> Option<Self> {
        let (mantissa, exponent) = written.split_once(['e', 'E']).unwrap_or((written, "0"));
        let unsigned = mantissa.trim_start_matches('-');
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let exponent = exponent.strip_prefix('+').unwrap_or(exponent);
        let exponent: i64 =
            if exponent.trim_start_matches('-').len() <= 18 { exponent.parse().ok()? } else { return None };
        let all = format!("{whole}{fraction}");
        let significant = all.trim_start_matches('0').trim_end_matches('0').to_owned();
        if significant.is_empty() {
            return Some(Self { is_negative: false, significant, exponent: 0 });
        }
        let trailing = all.len() - all.trim_end_matches('0').len();
        let shift = i64::try_from(trailing).ok()? - i64::try_from(fraction.len()).ok()?;
        Some(Self { is_negative: mantissa.starts_with('-'), significant, exponent: exponent.checked_add(shift)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(json: &str) -> Result<String, NotCanonical> {
        let mut out = String::new();
        super::canonical(&mut Cursor::new(json, 0), &mut out).map(|()| out)
    }

    #[test]
    fn the_example_of_the_rfc_comes_out_as_the_rfc_says() {
        // RFC 8785, section 3.2.2 and 3.2.3.
        let example = r#"{
            "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
            "literals": [null, true, false]
        }"#;
        // The first number has more digits than binary64: the RFC would write 333333333.3333333.
        let expected = "{\"literals\":[null,true,false],\"numbers\":[33333333333333329e-8,1e+30,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(canonical(example).unwrap(), expected);
        let keys = r#"{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"}"#;
        let order: Vec<&str> = vec!["Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"];
        let text = canonical(keys).unwrap();
        let places: Vec<_> = order.iter().map(|name| text.find(name).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn spelling_does_not_matter_and_values_do() {
        for (one, other) in [
            ("1", "1.0"),
            ("1", "10e-1"),
            ("100", "1E2"),
            ("-0", "0.00"),
            (r#""\u0041""#, r#""A""#),
            (r#"{"a":1,"b":[2, {}]}"#, "{ \"b\" : [2,{ }],\n\"a\":1e0}"),
            ("12345678901234567890", "1.2345678901234567890e19"),
        ] {
            assert_eq!(canonical(one), canonical(other), "{one} and {other}");
        }
        for (one, other) in [
            ("9007199254740993", "9007199254740992"),
            ("0.1", "0.1000000000000000055"),
            ("1e400", "1e401"),
            ("1e-400", "0"),
            ("1", "\"1\""),
            ("[]", "{}"),
            ("null", "false"),
            (r#"{"a":null}"#, "{}"),
            ("1e99999999999999999999", "1e99999999999999999998"),
        ] {
            assert_ne!(canonical(one).unwrap(), canonical(other).unwrap(), "{one} and {other}");
        }
    }

    #[test]
    fn a_key_that_is_there_twice_has_no_canonical_form() {
        assert_eq!(canonical(r#"{"a":1,"\u0061":1}"#), Err(NotCanonical::DuplicateKey { offset: 7 }));
        assert!(matches!(canonical(r#"{"a":}"#), Err(NotCanonical::Syntax(_))));
    }
}
