//! Finding canaries again, whatever they were turned into.

use super::values::{DIGITS, LETTERS, YEAR};
use base64::Engine as _;
use std::fmt::Write as _;

/// What to look for, byte by byte.
pub struct Search {
    patterns: Vec<(String, Vec<u8>)>,
}

fn escaped(text: &str, write: impl Fn(&mut String, u8)) -> Vec<u8> {
    let mut written = String::new();
    for byte in text.bytes() {
        write(&mut written, byte);
    }
    written.into_bytes()
}

impl Search {
    /// As is, in any case; and in base64 at each of three offsets, hexadecimal, UTF-16, percent-encoded and as `\u` escapes.
    pub fn new() -> Self {
        let mut patterns = Vec::new();
        let dashed = format!("{}-{}-{}", &DIGITS[..3], &DIGITS[3..5], &DIGITS[5..]);
        let stems = [LETTERS.to_owned(), LETTERS.to_lowercase(), LETTERS.to_uppercase(), DIGITS.to_owned(), dashed];
        for stem in &stems {
            let mut add = |how: &str, bytes: Vec<u8>| patterns.push((format!("{how} of {stem}"), bytes));
            add("text", stem.clone().into_bytes());
            for offset in 0..3_usize {
                let padded = [vec![0; offset], stem.clone().into_bytes()].concat();
                let whole = base64::engine::general_purpose::STANDARD.encode(&padded);
                // Characters that depend on nothing but the stem.
                let first = (offset * 8).div_ceil(6);
                let last = padded.len() * 8 / 6;
                add("base64", whole.as_bytes()[first..last].to_vec());
            }
            let hex = hex::encode(stem);
            add("hexadecimal", hex.clone().into_bytes());
            add("hexadecimal", hex.to_uppercase().into_bytes());
            add("UTF-16", stem.encode_utf16().flat_map(u16::to_le_bytes).collect());
            add("UTF-16", stem.encode_utf16().flat_map(u16::to_be_bytes).collect());
            add("percent-encoding", escaped(stem, |text, byte| write!(text, "%{byte:02X}").unwrap()));
            add("percent-encoding", escaped(stem, |text, byte| write!(text, "%{byte:02x}").unwrap()));
            add("escapes", escaped(stem, |text, byte| write!(text, "\\u{byte:04x}").unwrap()));
            add("escapes", escaped(stem, |text, byte| write!(text, "\\u{byte:04X}").unwrap()));
        }
        patterns.push(("hexadecimal of a birth date".to_owned(), hex::encode(format!("{YEAR}-")).into_bytes()));
        Self { patterns }
    }

    /// What is found, with what stands around it; at most 20.
    pub fn hits(&self, text: &[u8]) -> Vec<String> {
        let mut hits = Vec::new();
        let around = |at: usize| {
            let (from, to) = (at.saturating_sub(160), (at + 100).min(text.len()));
            String::from_utf8_lossy(&text[from..to]).into_owned()
        };
        for (how, pattern) in &self.patterns {
            hits.extend(memchr::memmem::find_iter(text, pattern).take(4).map(|at| format!("{how}: …{}…", around(at))));
        }
        let folded = text.to_ascii_lowercase();
        let stem = LETTERS.to_lowercase();
        hits.extend(memchr::memmem::find_iter(&folded, &stem).take(4).map(|at| format!("folded: …{}…", around(at))));
        // 1883-mm-dd, and nothing that only looks like the beginning of it.
        hits.extend(
            memchr::memmem::find_iter(text, YEAR)
                .filter(|at| is_date(&text[at + YEAR.len()..]))
                .take(4)
                .map(|at| format!("birth date: …{}…", around(at))),
        );
        hits.truncate(20);
        hits
    }
}

/// `-mm-dd`.
fn is_date(rest: &[u8]) -> bool {
    let [b'-', a, b, b'-', c, d, ..] = rest else { return false };
    [a, b, c, d].into_iter().all(u8::is_ascii_digit) && !rest.get(6).is_some_and(u8::is_ascii_hexdigit)
}

#[test]
fn a_canary_is_found_in_every_encoding_and_nothing_else_is() {
    let search = Search::new();
    let person = super::values::Person::new(17);
    let engine = base64::engine::general_purpose::STANDARD;
    for value in person.values() {
        let text = |text: String| text.into_bytes();
        let wide = |bytes: fn(u16) -> [u8; 2]| value.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        let mut forms = vec![
            text(format!("x{value}y")),
            text(format!("{{\"a\":{}}}", serde_json::Value::from(value))),
            text(format!("\\x{}", hex::encode(value))),
        ];
        if value != person.birth_date {
            forms.extend([value.to_lowercase().into_bytes(), value.to_uppercase().into_bytes()]);
            forms.extend([wide(u16::to_le_bytes), wide(u16::to_be_bytes)]);
            forms.extend(["", "a", "ab"].map(|before| engine.encode(format!("{before}{value}")).into_bytes()));
            forms.push(escaped(value, |text, byte| write!(text, "%{byte:02X}").unwrap()));
            forms.push(text(value.chars().fold(String::new(), |text, c| text + &format!("\\u{:04x}", u32::from(c)))));
        }
        for form in forms {
            assert!(!search.hits(&form).is_empty(), "{}", String::from_utf8_lossy(&form));
        }
    }
    for innocent in ["job_01h455vb4pex5vsknk084sn02q", "01901883-0412-7abc", "1883-0412", "907418", "a 1883-12-1x"] {
        assert_eq!(search.hits(innocent.as_bytes()), Vec::<String>::new(), "{innocent}");
    }
}
