//! NDJSON: lines that end with LF or CRLF, the last one also with the file.

use super::utf8::Utf8;
use super::{Cutter, LineFault, LineIssue, Sink};

const BOM: &[u8] = "\u{feff}".as_bytes();

/// At some place of the file, within a line.
#[derive(Debug)]
pub(super) struct Lines {
    line_bytes_max: u64,
    offset: u64,
    /// The current line: its number, its first byte, what is known of it.
    number: u64,
    start: u64,
    is_blank: bool,
    is_too_long: bool,
    utf8: Utf8,
    /// Lines that are not blank.
    count: u64,
}

fn is_blank(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
}

impl Lines {
    pub(super) fn new(line_bytes_max: u64) -> Self {
        Self {
            line_bytes_max,
            offset: 0,
            number: 1,
            start: 0,
            is_blank: true,
            is_too_long: false,
            utf8: Utf8::default(),
            count: 0,
        }
    }

    /// The first byte that may still be part of a chunk.
    pub(super) fn needed(&self) -> u64 {
        if self.is_too_long || self.is_blank { self.offset } else { self.start }
    }

    pub(super) fn push(&mut self, text: &[u8], cutter: &mut Cutter, sink: &mut dyn Sink) {
        let mut rest = text;
        // A whole mark: the head holds it as one.
        if self.offset == 0 && rest.starts_with(BOM) {
            rest = &rest[BOM.len()..];
            self.offset += BOM.len() as u64;
            self.start = self.offset;
        }
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.within(&rest[..end], cutter, sink);
            self.offset += 1;
            self.end_line(cutter, sink);
            rest = &rest[end + 1..];
        }
        self.within(rest, cutter, sink);
    }

    fn within(&mut self, text: &[u8], cutter: &mut Cutter, sink: &mut dyn Sink) {
        if self.is_blank {
            if is_blank(text) {
                self.offset += text.len() as u64;
                return;
            }
            self.is_blank = false;
        }
        self.offset += text.len() as u64;
        if self.is_too_long {
            return;
        }
        if self.offset - self.start > self.line_bytes_max {
            self.is_too_long = true;
            cutter.cut(sink);
            sink.issue(LineIssue { fault: LineFault::TooLong, number: self.number, offset: self.start });
            return;
        }
        self.utf8.push(text);
    }

    /// Behind the line's end.
    fn end_line(&mut self, cutter: &mut Cutter, sink: &mut dyn Sink) {
        let is_utf8 = self.utf8.end();
        if !self.is_blank {
            self.count += 1;
            if !self.is_too_long {
                if !is_utf8 {
                    sink.issue(LineIssue { fault: LineFault::NotUtf8, number: self.number, offset: self.start });
                }
                cutter.add(sink, self.number, self.start..self.offset);
            }
        }
        self.number += 1;
        self.start = self.offset;
        self.is_blank = true;
        self.is_too_long = false;
    }

    /// The end of the file; the number of lines that are not blank.
    pub(super) fn finish(&mut self, cutter: &mut Cutter, sink: &mut dyn Sink) -> u64 {
        self.end_line(cutter, sink);
        self.count
    }
}
