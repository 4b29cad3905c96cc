//! A cursor over JSON text (RFC 8259): every value is seen once, in place, and its byte offset is known.
//!
//! The validator needs what a deserializer does not tell: where each value stands, how a number is written, and where
//! exactly the syntax ends to be JSON. The cursor allocates nothing and never recurses by itself.

use std::borrow::Cow;
use std::ops::Range;

/// Where and why the text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct SyntaxError {
    /// Byte offset.
    pub offset: usize,
    /// A fixed sentence.
    pub what: &'static str,
}

/// A position in a text that is known to be UTF-8.
#[derive(Clone)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// A string as it stands in the text.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    /// What is between the quotes, escapes as written.
    pub raw: &'a str,
    /// It has escapes.
    pub has_escapes: bool,
    /// Offset of the opening quote.
    pub offset: usize,
}

impl<'a> Text<'a> {
    /// The string itself. Escapes were checked when it was read.
    #[must_use]
    pub fn decode(&self) -> Cow<'a, str> {
        if self.has_escapes { Cow::Owned(unescape(self.raw)) } else { Cow::Borrowed(self.raw) }
    }
}

/// Bytes that end the fast way through a string: the quote, the backslash, and control characters.
const STOPS: [bool; 256] = {
    let mut stops = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        stops[byte] = true;
        byte += 1;
    }
    stops[b'"' as usize] = true;
    stops[b'\\' as usize] = true;
    stops
};

type Result<T> = std::result::Result<T, SyntaxError>;

impl<'a> Cursor<'a> {
    /// At an offset of a text.
    #[must_use]
    pub fn new(text: &'a str, at: usize) -> Self {
        Self { text, at }
    }

    /// The offset of the next byte.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }

    fn fault<T>(&self, what: &'static str) -> Result<T> {
        Err(SyntaxError { offset: self.at, what })
    }

    /// The text of a range that was walked over.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).unwrap_or_default()
    }

    /// The next byte that is no white space, if there is one.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// Whether only white space is left.
    pub fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// Step over the opening brace or bracket that is next.
    pub fn open(&mut self) {
        self.at += 1;
    }

    /// The next key of an object, behind its opening brace or the value before it; nothing at its end.
    ///
    /// # Errors
    /// [`SyntaxError`].
    #[inline]
    pub fn key(&mut self, first: bool) -> Result<Option<Text<'a>>> {
        match self.peek() {
            Some(b'}') => {
                self.at += 1;
                return Ok(None);
            }
            Some(b',') if !first => {
                let comma = self.at;
                self.at += 1;
                if self.peek() == Some(b'}') {
                    return Err(SyntaxError { offset: comma, what: "There is a comma before the end of the object." });
                }
            }
            Some(b'"') if first => {}
            Some(b'"') => return self.fault("A comma is missing between two members."),
            None => return self.fault("The text ends within an object."),
            Some(_) if first => {}
            Some(_) => return self.fault("A comma or the end of the object was expected."),
        }
        match self.peek() {
            Some(b'"') => {}
            Some(b'/') => return self.fault("JSON has no comments."),
            None => return self.fault("The text ends within an object."),
            Some(_) => return self.fault("A key in double quotes was expected."),
        }
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return self.fault("A colon was expected behind the key.");
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether an array has another item, behind its opening bracket or the item before.
    ///
    /// # Errors
    /// [`SyntaxError`].
    #[inline]
    pub fn item(&mut self, first: bool) -> Result<bool> {
        match self.peek() {
            Some(b']') => {
                self.at += 1;
                Ok(false)
            }
            Some(b',') if !first => {
                let comma = self.at;
                self.at += 1;
                if self.peek() == Some(b']') {
                    return Err(SyntaxError { offset: comma, what: "There is a comma before the end of the array." });
                }
                Ok(true)
            }
            None => self.fault("The text ends within an array."),
            Some(_) if first => Ok(true),
            Some(_) => self.fault("A comma or the end of the array was expected."),
        }
    }

    /// The string whose opening quote is next.
    ///
    /// # Errors
    /// [`SyntaxError`], also for escapes that are no character.
    #[inline]
    pub fn string(&mut self) -> Result<Text<'a>> {
        let offset = self.at;
        let bytes = self.text.as_bytes();
        let start = offset + 1;
        let mut at = start;
        let mut has_escapes = false;
        loop {
            while let Some(byte) = bytes.get(at) {
                if STOPS[usize::from(*byte)] {
                    break;
                }
                at += 1;
            }
            self.at = at;
            match bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Text { raw: &self.text[start..at], has_escapes, offset });
                }
                Some(b'\\') => {
                    has_escapes = true;
                    at = self.escape()?;
                }
                Some(_) => return self.fault("A string holds a control character."),
                None => return Err(SyntaxError { offset, what: "The text ends within a string." }),
            }
        }
    }

    /// From a backslash to behind its escape.
    #[cold]
    fn escape(&self) -> Result<usize> {
        let bytes = self.text.as_bytes();
        match bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(self.at + 2),
            Some(b'u') => match unit(bytes, self.at) {
                None => self.fault("\\u needs four hexadecimal digits."),
                Some(0) => self.fault("A string holds U+0000, which no text may."),
                Some(0xDC00..=0xDFFF) => self.fault("A string holds half of a surrogate pair."),
                Some(0xD800..=0xDBFF) => match unit(bytes, self.at + 6) {
                    Some(0xDC00..=0xDFFF) => Ok(self.at + 12),
                    _ => self.fault("A string holds half of a surrogate pair."),
                },
                Some(_) => Ok(self.at + 6),
            },
            _ => self.fault("A backslash is followed by no escape of JSON."),
        }
    }

    /// The number that is next, as written.
    ///
    /// # Errors
    /// [`SyntaxError`].
    #[inline]
    pub fn number(&mut self) -> Result<&'a str> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        let mut at = start + usize::from(bytes.get(start) == Some(&b'-'));
        let whole = digits(at);
        let is_padded = bytes.get(at) == Some(&b'0') && whole > at + 1;
        if whole == at || is_padded {
            return self.fault("Not a number of JSON.");
        }
        at = whole;
        if bytes.get(at) == Some(&b'.') {
            let fraction = digits(at + 1);
            if fraction == at + 1 {
                return self.fault("Not a number of JSON.");
            }
            at = fraction;
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            let sign = at + 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            let exponent = digits(sign);
            if exponent == sign {
                return self.fault("Not a number of JSON.");
            }
            at = exponent;
        }
        self.at = at;
        Ok(&self.text[start..at])
    }

    /// The literal `true`, `false` or `null` that is next.
    ///
    /// # Errors
    /// [`SyntaxError`].
    pub fn literal(&mut self) -> Result<&'static str> {
        let rest = &self.text.as_bytes()[self.at..];
        for word in ["true", "false", "null"] {
            let ends = rest.get(word.len()).is_none_or(|byte| !byte.is_ascii_alphanumeric());
            if rest.starts_with(word.as_bytes()) && ends {
                self.at += word.len();
                return Ok(word);
            }
        }
        match rest.first() {
            Some(b'/') => self.fault("JSON has no comments."),
            Some(_) => self.fault("A value was expected."),
            None => self.fault("The text ends where a value was expected."),
        }
    }

    /// Step over the value that is next, however deep.
    ///
    /// # Errors
    /// [`SyntaxError`].
    pub fn skip(&mut self) -> Result<()> {
        // One bit a level: an object or an array.
        let mut levels: Vec<bool> = Vec::new();
        loop {
            match self.peek() {
                Some(b'{') => {
                    self.open();
                    levels.push(true);
                    if self.key(true)?.is_some() {
                        continue;
                    }
                    levels.pop();
                }
                Some(b'[') => {
                    self.open();
                    levels.push(false);
                    if self.item(true)? {
                        continue;
                    }
                    levels.pop();
                }
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => {
                    self.number()?;
                }
                _ => {
                    self.literal()?;
                }
            }
            // A value is behind us: the next one is of the innermost level that has one.
            loop {
                let more = match levels.last() {
                    None => return Ok(()),
                    Some(true) => self.key(false)?.is_some(),
                    Some(false) => self.item(false)?,
                };
                if more {
                    break;
                }
                levels.pop();
            }
        }
    }
}

/// The code unit of `\uXXXX` at that place.
pub(super) fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let escape = bytes.get(at..at + 6)?;
    if !escape.starts_with(b"\\u") || !escape[2..].iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    std::str::from_utf8(&escape[2..]).ok().and_then(|digits| u16::from_str_radix(digits, 16).ok())
}

/// The string of a raw text whose escapes are known to be good.
fn unescape(raw: &str) -> String {
    serde_json::from_str(&format!("\"{raw}\"")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(text: &str) -> bool {
        let mut cursor = Cursor::new(text, 0);
        cursor.skip().is_ok() && cursor.is_at_end()
    }

    fn holds_nul(text: &str) -> bool {
        text.contains("\\u0000")
    }

    /// Texts that are nearly JSON: pieces of it in any order.
    fn nearly_json() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("{"),
            Just("}"),
            Just("["),
            Just("]"),
            Just(","),
            Just(":"),
            Just("\"a\""),
            Just("\"\\n\""),
            Just("1"),
            Just("-0.5e+3"),
            Just("01"),
            Just("true"),
            Just("null"),
            Just(" "),
            Just("\\"),
            Just("\""),
            Just("\\u00e9"),
            Just("\"\\ud83d\\ude00\""),
            Just("\"\\ud83d\""),
            Just("é"),
            Just("\u{1}"),
            Just("//"),
            Just("tru"),
            Just("."),
        ];
        prop_oneof![prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat()), "[\\[\\]{}:,\"a1 ]{0,16}",]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// What `serde_json` reads is walked to the end, and nothing else.
        #[test]
        fn the_cursor_and_serde_json_agree_on_what_json_is(text in nearly_json()) {
            let read = serde_json::from_str::<serde_json::Value>(&text);
            // A number that no float holds is JSON all the same.
            let is_huge = read.as_ref().is_err_and(|error| error.to_string().starts_with("number out of range"));
            let is_json = read.is_ok() || (is_huge && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
            let expected = is_json && !holds_nul(&text);
            prop_assert_eq!(walk(&text), expected, "{:?}", text);
        }

        #[test]
        fn strings_are_decoded_as_serde_json_does(value: String) {
            let text = serde_json::to_string(&value).unwrap();
            prop_assume!(!value.contains('\0'));
            prop_assert_eq!(Cursor::new(&text, 0).string().unwrap().decode().into_owned(), value);
        }

        #[test]
        fn numbers_keep_their_text(whole: i64, fraction in "[0-9]{0,30}", exponent in prop::option::of(-400i32..400)) {
            let mut text = whole.to_string();
            if !fraction.is_empty() { text = format!("{text}.{fraction}"); }
            if let Some(exponent) = exponent { text = format!("{text}E{exponent}"); }
            prop_assert_eq!(Cursor::new(&text, 0).number().unwrap(), text.as_str());
        }
    }

    #[test]
    fn a_hostile_depth_costs_a_bit_a_level() {
        let text = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert!(walk(&text));
        assert!(!walk(&text[..text.len() - 1]));
    }
}
