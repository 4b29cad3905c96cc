//! The primitive datatypes of FHIR R4 (<http://hl7.org/fhir/R4/datatypes.html#primitive>): what each may look like.

use super::super::calendar::{self, Temporal};
use super::super::definitions::Primitive;

/// Characters of a `string`: 1 MB.
pub const STRING_MAX: usize = 1_048_576;

/// Digits of a decimal, and size of its exponent, that are kept exactly everywhere down the line.
const DIGITS_MAX: usize = 300;
const EXPONENT_MAX: i64 = 300;

/// What is wrong with a primitive: FHIR issue code and a fixed sentence.
pub type Fault = (&'static str, &'static str);

/// Datatypes that are JSON strings.
#[must_use]
pub fn is_text(primitive: Primitive) -> bool {
    use Primitive::{Boolean, Decimal, Integer, PositiveInt, UnsignedInt};
    !matches!(primitive, Boolean | Integer | UnsignedInt | PositiveInt | Decimal)
}

/// What is wrong with a text of that datatype.
#[must_use]
pub fn text(primitive: Primitive, text: &str) -> Option<Fault> {
    let bytes = text.as_bytes();
    let fault = |is_good: bool, message: &'static str| (!is_good).then_some(("value", message));
    if bytes.is_empty() {
        return Some(("value", "A value must not be empty."));
    }
    match primitive {
        Primitive::String | Primitive::Markdown if bytes.len() > STRING_MAX && text.chars().count() > STRING_MAX => {
            Some(("too-long", "A string must not be longer than 1,048,576 characters."))
        }
        Primitive::String | Primitive::Markdown => {
            fault(!bytes.iter().all(u8::is_ascii_whitespace), "A string must not be made of white space only.")
        }
        Primitive::Code => fault(is_code(bytes), "Not a code: no blanks at its ends, and only single ones within."),
        Primitive::Id => fault(is_id(bytes), "Not an id: 1 to 64 letters, digits, hyphens and dots."),
        Primitive::Uri | Primitive::Url | Primitive::Canonical => uri(text),
        Primitive::Oid => fault(is_oid(text), "Not an oid: urn:oid: and numbers with dots between them."),
        Primitive::Uuid => fault(is_uuid(text), "Not a uuid: urn:uuid: and a UUID in lower case."),
        Primitive::Date => fault(
            calendar::parse(text, Temporal::Date).is_some(),
            "Not a date (YYYY, YYYY-MM or YYYY-MM-DD) that exists.",
        ),
        Primitive::DateTime => fault(
            calendar::parse(text, Temporal::DateTime).is_some(),
            "Not a dateTime that exists; one with a time needs seconds and an offset from UTC.",
        ),
        Primitive::Instant => fault(
            calendar::parse(text, Temporal::Instant).is_some(),
            "Not an instant that exists; it needs a date, a time with seconds and an offset from UTC.",
        ),
        Primitive::Time => fault(is_time(bytes), "Not a time (hh:mm:ss)."),
        Primitive::Base64 => fault(decoded_length(text).is_some(), "Not base64."),
        Primitive::Integer64 => fault(text.parse::<i64>().is_ok(), "Not a 64-bit integer."),
        Primitive::Xhtml
        | Primitive::Boolean
        | Primitive::Integer
        | Primitive::UnsignedInt
        | Primitive::PositiveInt
        | Primitive::Decimal => None,
    }
}

/// What is wrong with a number of that datatype.
#[must_use]
pub fn number(primitive: Primitive, written: &str) -> Option<Fault> {
    let whole = || if written.contains(['.', 'e', 'E']) { None } else { written.parse::<i32>().ok() };
    match primitive {
        Primitive::Decimal => decimal(written),
        Primitive::Integer => whole().is_none().then_some(("value", "Not an integer of 32 bits.")),
        Primitive::UnsignedInt => {
            whole().is_none_or(|number| number < 0).then_some(("value", "Not an integer of 0 to 2,147,483,647."))
        }
        Primitive::PositiveInt => {
            whole().is_none_or(|number| number < 1).then_some(("value", "Not an integer of 1 to 2,147,483,647."))
        }
        _ => None,
    }
}

fn decimal(written: &str) -> Option<Fault> {
    let (digits, exponent) = written.split_once(['e', 'E']).unwrap_or((written, "0"));
    let exponent = exponent.parse::<i64>().ok().filter(|exponent| exponent.abs() <= EXPONENT_MAX);
    if exponent.is_none() {
        return Some(("value", "A decimal's exponent must lie between -300 and 300."));
    }
    (digits.len() > DIGITS_MAX).then_some(("value", "A decimal must not have more than 300 digits."))
}

/// A text of markdown holds `<name …>`: HTML, which FHIR's markdown does not have.
#[must_use]
pub fn has_tag(text: &str) -> bool {
    text.match_indices('<').any(|(at, _)| {
        let rest = text[at + 1..].trim_start_matches('/');
        let name = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
        rest.starts_with(|first: char| first.is_ascii_alphabetic())
            && rest[name..].starts_with([' ', '>', '/'])
            && rest[name..].bytes().take(200).any(|byte| byte == b'>')
    })
}

fn is_code(bytes: &[u8]) -> bool {
    let mut before = b' ';
    for byte in bytes {
        // Any white space but single blanks between words.
        if byte.is_ascii_whitespace() && (*byte != b' ' || before == b' ') {
            return false;
        }
        before = *byte;
    }
    before != b' '
}

fn is_id(bytes: &[u8]) -> bool {
    bytes.len() <= 64 && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

/// A `uri`, `url` or `canonical`: no white space; a URN of a kind that FHIR names must be one.
fn uri(text: &str) -> Option<Fault> {
    if text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        return Some(("value", "A URI must not hold white space."));
    }
    if text.starts_with("urn:uuid:") && !is_uuid(text) {
        return Some(("value", "A urn:uuid: must be followed by a UUID in lower case."));
    }
    if text.starts_with("urn:oid:") && !is_oid(text.split(['|', '#']).next().unwrap_or(text)) {
        return Some(("value", "A urn:oid: must be followed by numbers with dots between them."));
    }
    None
}

/// `urn:uuid:` and a UUID in lower case, perhaps with the version or fragment of a canonical behind it.
fn is_uuid(text: &str) -> bool {
    let Some(uuid) = text.strip_prefix("urn:uuid:") else { return false };
    let uuid = uuid.split(['|', '#']).next().unwrap_or(uuid).as_bytes();
    uuid.len() == 36
        && uuid.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

fn is_oid(text: &str) -> bool {
    let Some(oid) = text.strip_prefix("urn:oid:") else { return false };
    let mut arcs = oid.split('.');
    let root = arcs.next().is_some_and(|root| matches!(root, "0" | "1" | "2"));
    let mut count = 0;
    let rest = arcs.all(|arc| {
        count += 1;
        let digits = !arc.is_empty() && arc.bytes().all(|byte| byte.is_ascii_digit());
        digits && (arc == "0" || !arc.starts_with('0'))
    });
    root && rest && count > 0
}

fn is_time(bytes: &[u8]) -> bool {
    let number = |at: usize| -> Option<u8> {
        let digits = bytes.get(at..at + 2)?;
        digits.iter().all(u8::is_ascii_digit).then(|| (digits[0] - b'0') * 10 + digits[1] - b'0')
    };
    let clock = number(0).is_some_and(|hour| hour < 24)
        && bytes.get(2) == Some(&b':')
        && number(3).is_some_and(|minute| minute < 60)
        && bytes.get(5) == Some(&b':')
        && number(6).is_some_and(|second| second <= 60);
    let fraction = match bytes.get(8..) {
        Some([]) => true,
        Some([b'.', rest @ ..]) => !rest.is_empty() && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    clock && fraction
}

/// Bytes that a base64 text stands for (RFC 4648 §4; white space between the characters is allowed); nothing if it is
/// not base64.
#[must_use]
pub fn decoded_length(text: &str) -> Option<u64> {
    let (mut characters, mut padding) = (0u64, 0u64);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => characters += 1,
            b'=' => padding += 1,
            b' ' | b'\t' | b'\n' | b'\r' => {}
            _ => return None,
        }
    }
    let is_whole = (characters + padding).is_multiple_of(4) && padding <= 2;
    (is_whole && characters > 0).then_some(characters * 3 / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use proptest::prelude::*;

    fn is_good(primitive: Primitive, value: &str) -> bool {
        text(primitive, value).is_none()
    }

    #[test]
    fn each_datatype_has_its_texts() {
        use Primitive::{Base64, Canonical, Code, Date, DateTime, Id, Instant, Oid, String, Time, Uri, Uuid};
        for (primitive, good, bad) in [
            (String, &["a", " a ", "a\nb"][..], &["", " ", "\n\t"][..]),
            (Code, &["final", "in progress"], &["", " a", "a ", "a  b", "a\tb"]),
            (Id, &["a", "A-1.b"], &["", "a_b", "a b", "é", &"x".repeat(65)]),
            (
                Uri,
                &["urn:x", "http://a/b", "a", "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"],
                &["a b", "urn:uuid:1", "urn:oid:3.x"],
            ),
            (Canonical, &["http://a/b|1.0", "#x"], &["a b"]),
            (Oid, &["urn:oid:1.2.3", "urn:oid:2.16.840.0"], &["1.2.3", "urn:oid:3.1", "urn:oid:1", "urn:oid:1.02"]),
            (
                Uuid,
                &["urn:uuid:c757873d-ec9a-4326-a141-556f43239520"],
                &["urn:uuid:C757873D-EC9A-4326-A141-556F43239520"],
            ),
            (Date, &["2020", "2020-02", "2020-02-29"], &["2019-02-29", "2020-2-1", "0000", "2020-02-03T10:00:00Z"]),
            (
                DateTime,
                &["2020", "2020-02-03T10:00:00Z", "2020-02-03T23:59:60.5+14:00"],
                &["2020-02-03T10:00:00", "2020-02-03T24:00:00Z", "2020-02-03T10:00Z"],
            ),
            (Instant, &["2020-02-03T10:00:00.123-05:00"], &["2020-02-03"]),
            (Time, &["10:00:00", "23:59:60.1"], &["24:00:00", "10:00", "10:00:00Z", "1:00:00"]),
            (Base64, &["QQ==", "QUJD", "QU JD\n"], &["QQ=", "Q", "QQ==QQ==", "%%%2", "a.b="]),
        ] {
            for value in good {
                assert!(is_good(primitive, value), "{primitive:?} {value:?}");
            }
            for value in bad {
                assert!(!is_good(primitive, value), "{primitive:?} {value:?}");
            }
        }
    }

    #[test]
    fn numbers_have_their_ranges() {
        use Primitive::{Decimal, Integer, PositiveInt, UnsignedInt};
        for (primitive, good, bad) in [
            (Integer, &["0", "-2147483648"][..], &["2147483648", "1.0", "1e3"][..]),
            (UnsignedInt, &["0", "2147483647"], &["-1"]),
            (PositiveInt, &["1"], &["0"]),
            (Decimal, &["0.10", "1.2E+2", "-0", "1e-300"], &["1e400", "1E-99999999999999999999", &"9".repeat(301)]),
        ] {
            for value in good {
                assert_eq!(number(primitive, value), None, "{value}");
            }
            for value in bad {
                assert!(number(primitive, value).is_some(), "{value}");
            }
        }
    }

    proptest! {
        /// Against the `base64` crate: the same texts are base64, and they have the length that it decodes.
        #[test]
        fn base64_is_what_the_crate_decodes(bytes: Vec<u8>, cut in 0usize..3) {
            let whole = base64::engine::general_purpose::STANDARD.encode(&bytes);
            let text = &whole[..whole.len().saturating_sub(cut)];
            let expected = base64::engine::general_purpose::STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty());
            prop_assert_eq!(decoded_length(text), expected.map(|bytes| bytes.len() as u64));
        }
    }
}
