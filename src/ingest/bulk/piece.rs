//! The text of a chunk, by its lines or items: each with its number, where it stands, and opened as an entry.
//!
//! A line that is not UTF-8 is blanked out in place, so that the others keep their offsets.

use super::plan::Shape;
use super::plan::walker::Walker;
use crate::ingest::fhir::node::Node;
use crate::ingest::fhir::path::Place;
use crate::ingest::fhir::split::{self, Entry};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::ops::Range;

/// Where the text was cut out of its file.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// What kind of file.
    pub shape: Shape,
    /// Offset of the text's first byte in the file, after decompression.
    pub base: u64,
    /// Number of its first line, from 1, or of its first entry, from 0.
    pub first: u64,
}

/// A line or an item.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) number: u32,
    /// In the text.
    pub(super) span: Range<usize>,
}

/// A chunk's text. `Debug` shows no text.
pub struct Piece {
    pub(super) text: String,
    pub(super) cut: Cut,
    pub(super) items: Vec<Item>,
    /// Those that are not UTF-8.
    pub(super) unreadable: BTreeSet<u32>,
    /// The text is the whole Bundle, not only its entries.
    pub(super) is_whole: bool,
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Piece({:?}, {} items)", self.cut, self.items.len())
    }
}

/// Text that says nothing; an item stays one.
pub(super) fn blank(text: &mut [u8]) {
    text.fill(b' ');
    match text {
        [only] => *only = b'0',
        [first, second, ..] => (*first, *second) = (b'{', b'}'),
        [] => {}
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

fn number(first: u64, index: usize) -> u32 {
    u64::try_from(index).ok().and_then(|index| u32::try_from(first.saturating_add(index)).ok()).unwrap_or(u32::MAX)
}

impl Piece {
    /// The text of a chunk.
    #[must_use]
    pub fn new(bytes: Bytes, cut: Cut) -> Self {
        let mut bytes = Vec::from(bytes);
        let items = match cut.shape {
            Shape::Ndjson => lines(&bytes, cut.first),
            Shape::Array | Shape::Bundle => items(&bytes, cut.first),
        };
        let mut unreadable = BTreeSet::new();
        if simdutf8::basic::from_utf8(&bytes).is_err() {
            for item in &items {
                let text = &mut bytes[item.span.clone()];
                if simdutf8::basic::from_utf8(text).is_err() {
                    unreadable.insert(item.number);
                    blank(text);
                }
            }
        }
        // Between items there is only ASCII, or they would be no items.
        let text = String::from_utf8(bytes).unwrap_or_default();
        Self { text, cut, items, unreadable, is_whole: false }
    }

    /// The text of a whole Bundle; its bytes back, if it must be read by its entries (`new`), because one of them is no
    /// JSON or no UTF-8.
    ///
    /// # Errors
    /// The bytes.
    pub fn whole(bytes: Bytes) -> Result<Self, Bytes> {
        if split::split(&bytes).is_err() {
            return Err(bytes);
        }
        let cut = Cut { shape: Shape::Bundle, base: 0, first: 0 };
        let text = String::from_utf8(Vec::from(bytes)).map_err(|error| Bytes::from(error.into_bytes()))?;
        Ok(Self { text, cut, items: Vec::new(), unreadable: BTreeSet::new(), is_whole: true })
    }

    /// Offset of the text's first byte in the file.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.cut.base
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text, when nothing borrows from it any more.
    #[must_use]
    pub fn into_text(self) -> Bytes {
        Bytes::from(self.text.into_bytes())
    }

    /// Its resources, opened, but for those that are left out.
    #[must_use]
    pub fn entries(&self, skip: &BTreeSet<u32>) -> Vec<Entry<'_>> {
        if self.is_whole {
            let mut entries = split::split(self.text.as_bytes()).map(|bundle| bundle.entries).unwrap_or_default();
            entries.retain(|entry| !skip.contains(&entry.index));
            return entries;
        }
        let kept =
            self.items.iter().filter(|item| !skip.contains(&item.number) && !self.unreadable.contains(&item.number));
        let open = |item: &Item| {
            let node = Node::within(&self.text, item.span.clone());
            match self.cut.shape {
                Shape::Bundle => split::entry(item.number, node),
                Shape::Ndjson | Shape::Array => split::lone(item.number, node),
            }
        };
        kept.map(open).collect()
    }

    /// Where the resource of an entry stands: in its Bundle; or as the root of its line; or as an item of the array.
    #[must_use]
    pub fn place_of(shape: Shape, entry: &Entry<'_>) -> Place {
        let expression =
            || entry.resource.as_ref().map_or_else(String::new, |one| one.resource_type.clone().into_owned());
        match shape {
            Shape::Bundle => Place::resource(entry.index),
            Shape::Ndjson => Place { expression: expression(), pointer: String::new() },
            Shape::Array => Place { expression: expression(), pointer: format!("/{}", entry.index) },
        }
    }
}

/// Lines that are not blank, without the white space around them.
fn lines(text: &[u8], first: u64) -> Vec<Item> {
    let mut items = Vec::new();
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', text).chain(std::iter::once(text.len()));
    for (index, end) in ends.enumerate() {
        let line = &text[start..end];
        let lead = line.iter().take_while(|byte| is_space(**byte)).count();
        let trail = line[lead..].iter().rev().take_while(|byte| is_space(**byte)).count();
        if lead < line.len() {
            items.push(Item { number: number(first, index), span: start + lead..end - trail });
        }
        start = end + 1;
    }
    items
}

/// Items of the array that the text is the inside of.
fn items(text: &[u8], first: u64) -> Vec<Item> {
    let mut items = Vec::new();
    let mut at = 0;
    while let Some(skipped) = text[at..].iter().position(|byte| !is_space(*byte) && *byte != b',') {
        at += skipped;
        let taken = match Walker::new().walk(&text[at..]) {
            Ok(walked) if walked.is_end && walked.bytes > 0 => walked.bytes,
            // A scalar that ends with the text; what the planner did not cut so cannot be told apart.
            _ => text.len() - at,
        };
        items.push(Item { number: number(first, items.len()), span: at..at + taken });
        at += taken;
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &[u8], shape: Shape, first: u64) -> Piece {
        Piece::new(Bytes::copy_from_slice(text), Cut { shape, base: 1_000, first })
    }

    fn numbers(piece: &Piece) -> Vec<(u32, &str)> {
        piece.items.iter().map(|item| (item.number, &piece.text[item.span.clone()])).collect()
    }

    #[test]
    fn lines_have_the_numbers_that_editors_give_them() {
        let piece = piece(b"{\"a\":1}\r\n\n \t\r\n {\"b\":2} \n{\"c\":3}", Shape::Ndjson, 7);
        assert_eq!(numbers(&piece), [(7, "{\"a\":1}"), (10, "{\"b\":2}"), (11, "{\"c\":3}")]);
    }

    #[test]
    fn items_are_told_apart_by_their_brackets() {
        let piece = piece(b"{\"a\": [1, {\"b\": \"},\"}]} , 5,\n[], \"x\"", Shape::Array, 3);
        assert_eq!(numbers(&piece), [(3, "{\"a\": [1, {\"b\": \"},\"}]}"), (4, "5"), (5, "[]"), (6, "\"x\"")]);
    }

    #[test]
    fn what_is_not_utf8_is_blanked_out_and_nothing_else() {
        let lines = piece(b"{\"a\":1}\n{\"b\":\"\xff\"}\n{\"c\":3}", Shape::Ndjson, 1);
        assert_eq!(lines.unreadable, BTreeSet::from([2]));
        assert_eq!(lines.entries(&BTreeSet::new()).len(), 2);
        let items = piece(b"{\"a\":1},{\"b\":\"\xff\"},\xff,{\"c\":3}", Shape::Bundle, 0);
        assert_eq!(items.unreadable, BTreeSet::from([1, 2]));
        let entries = items.entries(&BTreeSet::from([0]));
        assert_eq!(entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), [3]);
    }
}
