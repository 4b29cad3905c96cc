//! What kind of file it is, by its first line. The media type is not asked: senders get it wrong.
//!
//! A file that begins with `[` is an array. One that begins with `{` is a Bundle if its first line is a whole Bundle with
//! nothing but white space behind it, if that line is longer than a line may be and looks like a Bundle, or if the line
//! ends where JSON may be broken over lines. Every other text is NDJSON, the first line of which may be broken.

use super::document::Document;
use super::{Chunk, Cutter, LineIssue, PlanError, Sink};

/// What kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Shape {
    /// A resource a line, of one type or of many.
    Ndjson,
    /// A JSON array of resources.
    Array,
    /// A Bundle.
    Bundle,
}

impl Shape {
    /// The word in rows, outputs and docs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Array => "array",
            Self::Bundle => "bundle",
        }
    }
}

/// Binary data show within so many bytes.
const BINARY_BYTES: usize = 4096;

struct Nobody;

impl Sink for Nobody {
    fn chunk(&mut self, _: Chunk, _: Option<&[u8]>) {}
    fn issue(&mut self, _: LineIssue) {}
}

/// Holds the head of the file until it is known what it is: at most one line of the longest allowed.
pub(super) struct Sniffer {
    line_bytes_max: u64,
    head: Vec<u8>,
    /// Bytes of the head that `probe` has read: the first line, as if it were the beginning of a Bundle.
    probed: usize,
    probe: Document,
    is_checked: bool,
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

impl Sniffer {
    pub(super) fn new(line_bytes_max: u64) -> Self {
        let probe = Document::new(Shape::Bundle, u64::MAX);
        Self { line_bytes_max, head: Vec::new(), probed: 0, probe, is_checked: false }
    }

    pub(super) fn push(&mut self, text: &[u8]) {
        self.head.extend_from_slice(text);
    }

    pub(super) fn take_head(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.head)
    }

    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.head.capacity()
    }

    /// The kind, once it is sure.
    pub(super) fn decide(&mut self, is_end: bool) -> Result<Option<Shape>, PlanError> {
        if self.head.len() < BINARY_BYTES && !is_end {
            return Ok(None);
        }
        let is_long = self.head.len() as u64 > self.line_bytes_max;
        if !self.is_checked {
            self.check_text()?;
            self.is_checked = true;
        }
        let text = self.head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&self.head);
        match text.iter().find(|byte| !is_space(**byte)) {
            None if is_end => Err(PlanError::Empty),
            None => Ok(is_long.then_some(Shape::Ndjson)),
            Some(b'[') => Ok(Some(Shape::Array)),
            Some(b'{') => Ok(self.object(is_end, is_long)),
            Some(_) => Ok(Some(Shape::Ndjson)),
        }
    }

    fn check_text(&self) -> Result<(), PlanError> {
        let head = &self.head[..self.head.len().min(BINARY_BYTES)];
        let has_controls = head.iter().any(|byte| *byte < b'\t' || (0x0e..0x20).contains(byte));
        let first = head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(head).iter().find(|byte| !is_space(**byte));
        let is_json = matches!(first, Some(b'{' | b'['));
        let is_utf8 = std::str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true);
        if has_controls || !(is_json || is_utf8) { Err(PlanError::Binary) } else { Ok(()) }
    }

    /// A Bundle, or NDJSON.
    fn object(&mut self, is_end: bool, is_long: bool) -> Option<Shape> {
        // The first line that is not blank.
        let start = self.head.iter().position(|byte| *byte == b'{').unwrap_or(0);
        let from = self.probed.max(start);
        let line_end = memchr::memchr(b'\n', &self.head[from..]).map(|end| from + end);
        let until = line_end.unwrap_or(self.head.len());
        if self.probed < until {
            let mut nowhere = Cutter { target: u64::MAX, lines: u64::MAX, open: None, chunks: 0, window: None };
            if self.probe.push(&self.head[self.probed..until], &mut nowhere, &mut Nobody).is_err() {
                return Some(Shape::Ndjson);
            }
            self.probed = until;
        }
        let Some(line_end) = line_end else {
            return match (is_end, is_long) {
                (false, false) => None,
                (true, _) if self.probe.is_at_end() && self.probe.is_bundle() => Some(Shape::Bundle),
                (false, true) if self.probe.is_bundle() || self.probe.has_entry() => Some(Shape::Bundle),
                _ => Some(Shape::Ndjson),
            };
        };
        let next = self.head[line_end..].iter().find(|byte| !is_space(**byte));
        if self.probe.is_at_end() {
            return match next {
                Some(_) => Some(Shape::Ndjson),
                None if is_end && self.probe.is_bundle() => Some(Shape::Bundle),
                None => (is_end || is_long).then_some(Shape::Ndjson),
            };
        }
        // Broken over lines as JSON may be, or a line that was cut off?
        let last = self.head[..line_end].iter().rev().find(|byte| !is_space(**byte));
        if matches!(last, Some(b'{' | b'[' | b',' | b':')) {
            return Some(Shape::Bundle);
        }
        match next {
            Some(b',' | b'}' | b']' | b':') => Some(Shape::Bundle),
            Some(_) => Some(Shape::Ndjson),
            None => (is_end || is_long).then_some(Shape::Ndjson),
        }
    }
}
