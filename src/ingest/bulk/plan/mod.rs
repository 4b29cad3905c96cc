//! The planner: reads a file as a stream, hashes it, and cuts it into chunks at the ends of lines or entries.
//!
//! Promises: the same chunks, issues and errors however the stream is cut into pieces; memory is bounded whatever the
//! file's size, the length of its lines, or what its gzip would expand to: at most one line of the longest allowed, an
//! open chunk (of a gzip file), and some buffers. No tree of the whole is made, and no line is parsed.
//!
//! Leaves to others: whether a line is JSON, and a resource; a line in a chunk may be anything.

mod document;
mod error;
mod gzip;
mod lines;
mod shape;
#[cfg(test)]
mod tests;
mod utf8;
pub(super) mod walker;

pub use error::PlanError;
pub use shape::Shape;

use document::Document;
use gzip::Gunzip;
use lines::Lines;
use sha2::{Digest as _, Sha256};
use shape::Sniffer;
use std::ops::Range;

/// Bounds of a plan.
#[derive(Debug, Clone, Copy)]
pub struct PlanLimits {
    /// A chunk ends with the first line or entry that ends beyond so many bytes.
    pub chunk_bytes: u64,
    /// … or with so many lines or entries: what a chunk costs in memory grows with their number, too.
    pub chunk_lines: u64,
    /// A longer line or entry is an issue, and in no chunk.
    pub line_bytes_max: u64,
    /// Bytes after decompression; more are a bomb.
    pub text_bytes_max: u64,
    /// Chunks: each is a row in several tables, and a task. Only a file of lines that are far too short to be resources
    /// has so many.
    pub chunks_max: u64,
}

impl Default for PlanLimits {
    /// 4 MiB, 8,000 lines, 16 MiB, and 100 GB: twenty times the largest upload, which is more than FHIR in JSON is compressed to.
    /// 50,000 chunks: twice as many as 100 GB of long lines make, or 400 million short lines.
    fn default() -> Self {
        Self {
            chunk_bytes: 4 << 20,
            chunk_lines: 8_000,
            line_bytes_max: 16 << 20,
            text_bytes_max: 100_000_000_000,
            chunks_max: 50_000,
        }
    }
}

/// A slice of the file that can be worked on by itself. Offsets count bytes after decompression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Of NDJSON whole lines with their ends; else from the first entry's first byte to behind the last entry, so that
    /// its text between brackets is an array.
    pub bytes: Range<u64>,
    /// Number of its first line, from 1, or of its first entry, from 0.
    pub first: u64,
    /// Lines that are not blank, or entries.
    pub count: u64,
}

/// What is wrong with a line or entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFault {
    /// Over [`PlanLimits::line_bytes_max`]; it is in no chunk.
    TooLong,
    /// Not UTF-8; it is in its chunk, to be passed over.
    NotUtf8,
}

impl LineFault {
    /// Stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::TooLong => "line_too_long",
            Self::NotUtf8 => "invalid_utf8",
        }
    }
}

/// A line or entry that nobody can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineIssue {
    /// Why.
    pub fault: LineFault,
    /// Line, from 1, or entry, from 0.
    pub number: u64,
    /// Its first byte, after decompression.
    pub offset: u64,
}

/// Who is told while the planner reads. A method may block: the planner waits.
pub trait Sink {
    /// A chunk, in order of the file. `text`: its bytes, if the file is compressed, so that they can be read nowhere else.
    fn chunk(&mut self, chunk: Chunk, text: Option<&[u8]>);

    /// An issue, in order of the file.
    fn issue(&mut self, issue: LineIssue);
}

/// What is known of a file once it was read.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, PartialEq, Eq)]
pub struct FilePlan {
    /// Of the bytes as they are stored.
    pub sha256: [u8; 32],
    /// As they are stored.
    pub size_bytes: u64,
    /// After decompression.
    pub text_bytes: u64,
    /// It is compressed: chunks came with their text.
    pub is_gzip: bool,
    /// What kind of file.
    pub shape: Shape,
    /// `type` of a Bundle.
    pub bundle_type: Option<String>,
    /// Lines that are not blank, or entries, the unreadable ones included.
    pub lines: u64,
    /// Chunks that the sink was told.
    pub chunks: u64,
}

/// Gathers lines or entries to chunks, and tells the sink.
struct Cutter {
    target: u64,
    lines: u64,
    open: Option<Chunk>,
    chunks: u64,
    window: Option<Window>,
}

impl Cutter {
    fn add(&mut self, sink: &mut dyn Sink, number: u64, bytes: Range<u64>) {
        let open = self.open.get_or_insert(Chunk { bytes: bytes.start..bytes.start, first: number, count: 0 });
        open.bytes.end = bytes.end;
        open.count += 1;
        if open.bytes.end - open.bytes.start >= self.target || open.count >= self.lines {
            self.cut(sink);
        }
    }

    fn cut(&mut self, sink: &mut dyn Sink) {
        let Some(chunk) = self.open.take() else { return };
        self.chunks += 1;
        let text = self.window.as_ref().map(|window| window.slice(&chunk.bytes));
        sink.chunk(chunk, text);
    }
}

/// Text that an open chunk or line may still need.
#[derive(Default)]
struct Window {
    text: Vec<u8>,
    /// Offset of its first byte.
    start: u64,
}

impl Window {
    fn slice(&self, bytes: &Range<u64>) -> &[u8] {
        let at = |offset: u64| usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.text.get(at(bytes.start)..at(bytes.end)).unwrap_or_default()
    }

    fn forget(&mut self, until: u64) {
        let gone = usize::try_from(until.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.text.len());
        self.text.drain(..gone);
        self.start += gone as u64;
    }
}

/// Reads the text, once it is known what it is.
enum Reader {
    Sniffing(Box<Sniffer>),
    Lines(Lines),
    Document(Box<Document>),
}

/// The text half of the planner: everything behind the decompression.
struct TextPlanner {
    limits: PlanLimits,
    reader: Reader,
    cutter: Cutter,
    text_bytes: u64,
}

impl TextPlanner {
    fn push(&mut self, text: &[u8], sink: &mut dyn Sink) -> Result<(), PlanError> {
        self.text_bytes += text.len() as u64;
        if self.text_bytes > self.limits.text_bytes_max {
            return Err(PlanError::TooLarge { limit: self.limits.text_bytes_max });
        }
        if let Reader::Sniffing(sniffer) = &mut self.reader {
            sniffer.push(text);
            return self.decide(false, sink);
        }
        self.read(text, sink)
    }

    /// Hand the head to the right reader, if it is known by now which that is.
    fn decide(&mut self, is_end: bool, sink: &mut dyn Sink) -> Result<(), PlanError> {
        let Reader::Sniffing(sniffer) = &mut self.reader else { return Ok(()) };
        let Some(shape) = sniffer.decide(is_end)? else { return Ok(()) };
        let head = sniffer.take_head();
        self.reader = match shape {
            Shape::Ndjson => Reader::Lines(Lines::new(self.limits.line_bytes_max)),
            Shape::Array | Shape::Bundle => {
                Reader::Document(Box::new(Document::new(shape, self.limits.line_bytes_max)))
            }
        };
        self.read(&head, sink)
    }

    fn read(&mut self, text: &[u8], sink: &mut dyn Sink) -> Result<(), PlanError> {
        // In slices, so that the window holds no more than a slice beyond what is needed.
        for text in text.chunks(64 * 1024) {
            if let Some(window) = &mut self.cutter.window {
                window.text.extend_from_slice(text);
            }
            let needed = match &mut self.reader {
                Reader::Sniffing(_) => return Ok(()),
                Reader::Lines(lines) => {
                    lines.push(text, &mut self.cutter, sink);
                    lines.needed()
                }
                Reader::Document(document) => {
                    document.push(text, &mut self.cutter, sink)?;
                    document.needed()
                }
            };
            let needed = self.cutter.open.as_ref().map_or(needed, |open| open.bytes.start);
            if let Some(window) = &mut self.cutter.window {
                window.forget(needed);
            }
            self.check_chunks()?;
        }
        Ok(())
    }

    fn check_chunks(&self) -> Result<(), PlanError> {
        let limit = self.limits.chunks_max;
        if self.cutter.chunks > limit { Err(PlanError::TooManyChunks { limit }) } else { Ok(()) }
    }

    /// Shape, type of the Bundle, and number of lines.
    fn finish(&mut self, sink: &mut dyn Sink) -> Result<(Shape, Option<String>, u64), PlanError> {
        self.decide(true, sink)?;
        let facts = match &mut self.reader {
            Reader::Sniffing(_) => return Err(PlanError::Empty),
            Reader::Lines(lines) => (Shape::Ndjson, None, lines.finish(&mut self.cutter, sink)),
            Reader::Document(document) => {
                let (bundle_type, entries) = document.finish()?;
                (document.shape(), bundle_type, entries)
            }
        };
        self.cutter.cut(sink);
        self.check_chunks()?;
        if facts.2 == 0 { Err(PlanError::Empty) } else { Ok(facts) }
    }
}

/// The text of a compressed file that was planned before, by the same rules as then: several members, zeros behind them.
/// Never more than `text_bytes` of it.
///
/// # Errors
/// [`PlanError`]: it is damaged, or longer.
pub fn unpack(stored: &[u8], text_bytes: usize) -> Result<Vec<u8>, PlanError> {
    let (mut gunzip, mut text) = (Gunzip::default(), Vec::new());
    gunzip.push(stored, &mut |piece| {
        if text.len() + piece.len() > text_bytes {
            return Err(PlanError::TooLarge { limit: text_bytes as u64 });
        }
        text.extend_from_slice(piece);
        Ok(())
    })?;
    gunzip.finish()?;
    Ok(text)
}

/// Reads one file, from its first to its last stored byte.
pub struct Planner {
    hash: Sha256,
    size_bytes: u64,
    /// The first two bytes, until there are two.
    magic: Vec<u8>,
    gunzip: Option<Gunzip>,
    text: TextPlanner,
}

impl Planner {
    /// At the first byte of a file.
    #[must_use]
    pub fn new(limits: PlanLimits) -> Self {
        let cutter =
            Cutter { target: limits.chunk_bytes, lines: limits.chunk_lines, open: None, chunks: 0, window: None };
        let reader = Reader::Sniffing(Box::new(Sniffer::new(limits.line_bytes_max)));
        Self {
            hash: Sha256::new(),
            size_bytes: 0,
            magic: Vec::new(),
            gunzip: None,
            text: TextPlanner { limits, reader, cutter, text_bytes: 0 },
        }
    }

    /// The next piece of the file, of any size.
    ///
    /// # Errors
    /// [`PlanError`]; the file cannot be planned, whatever follows.
    pub fn push(&mut self, piece: &[u8], sink: &mut dyn Sink) -> Result<(), PlanError> {
        self.hash.update(piece);
        let mut piece = piece;
        let begun = self.size_bytes;
        self.size_bytes += piece.len() as u64;
        if begun < 2 {
            let (head, rest) = piece.split_at(piece.len().min(2 - self.magic.len()));
            self.magic.extend_from_slice(head);
            piece = rest;
            if self.magic.len() < 2 {
                return Ok(());
            }
            self.begin(sink)?;
        }
        self.stored(piece, sink)
    }

    /// The magic is complete, or the file is shorter.
    fn begin(&mut self, sink: &mut dyn Sink) -> Result<(), PlanError> {
        if self.magic == gzip::MAGIC {
            self.gunzip = Some(Gunzip::default());
            self.text.cutter.window = Some(Window::default());
        }
        let magic = std::mem::take(&mut self.magic);
        self.stored(&magic, sink)
    }

    /// The next piece of a file that cannot be planned: it is hashed, nothing else.
    pub fn pass(&mut self, piece: &[u8]) {
        self.hash.update(piece);
        self.size_bytes += piece.len() as u64;
    }

    /// SHA-256 and size of the stored bytes so far.
    #[must_use]
    pub fn identity(&self) -> ([u8; 32], u64) {
        (self.hash.clone().finalize().into(), self.size_bytes)
    }

    fn stored(&mut self, piece: &[u8], sink: &mut dyn Sink) -> Result<(), PlanError> {
        match &mut self.gunzip {
            Some(gunzip) => gunzip.push(piece, &mut |text| self.text.push(text, sink)),
            None => self.text.push(piece, sink),
        }
    }

    /// The end of the file.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn finish(mut self, sink: &mut dyn Sink) -> Result<FilePlan, PlanError> {
        if self.size_bytes < 2 {
            self.begin(sink)?;
        }
        if let Some(gunzip) = &self.gunzip {
            gunzip.finish()?;
        }
        let (shape, bundle_type, lines) = self.text.finish(sink)?;
        Ok(FilePlan {
            sha256: self.hash.finalize().into(),
            size_bytes: self.size_bytes,
            text_bytes: self.text.text_bytes,
            is_gzip: self.gunzip.is_some(),
            shape,
            bundle_type,
            lines,
            chunks: self.text.cutter.chunks,
        })
    }

    /// Bytes that the planner holds in buffers that grow.
    #[cfg(test)]
    fn buffered(&self) -> usize {
        let head = match &self.text.reader {
            Reader::Sniffing(sniffer) => sniffer.buffered(),
            Reader::Lines(_) | Reader::Document(_) => 0,
        };
        head + self.text.cutter.window.as_ref().map_or(0, |window| window.text.capacity())
    }
}
