//! gzip (RFC 1952), decompressed piece by piece: any number of members, zeros behind the last one.

use super::PlanError;
use flate2::{Crc, Decompress, FlushDecompress, Status};

/// The first two bytes of every gzip file.
pub(super) const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Of decompressed text at once.
const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes of the fixed header that were read.
    Header(usize),
    ExtraLength(usize),
    Extra(usize),
    Name,
    Comment,
    HeaderChecksum(usize),
    Body,
    /// Bytes of the trailer that were read.
    Trailer(usize),
    /// Zeros between a member and the end of the file.
    Padding,
}

const HAS_CHECKSUM: u8 = 2;
const HAS_EXTRA: u8 = 4;
const HAS_NAME: u8 = 8;
const HAS_COMMENT: u8 = 16;

/// Within a gzip file.
pub(super) struct Gunzip {
    state: State,
    inflate: Decompress,
    crc: Crc,
    flags: u8,
    /// Of the current header or trailer.
    field: [u8; 10],
    buffer: Vec<u8>,
    offset: u64,
}

impl Default for Gunzip {
    fn default() -> Self {
        Self {
            state: State::Header(0),
            inflate: Decompress::new(false),
            crc: Crc::new(),
            flags: 0,
            field: [0; 10],
            buffer: vec![0; BUFFER_BYTES],
            offset: 0,
        }
    }
}

impl Gunzip {
    fn damaged<T>(&self) -> Result<T, PlanError> {
        Err(PlanError::GzipDamaged { offset: self.offset })
    }

    /// Decompress a piece; what comes out is told in pieces of a bounded size.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        text: &mut dyn FnMut(&[u8]) -> Result<(), PlanError>,
    ) -> Result<(), PlanError> {
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = if self.state == State::Body { self.body(rest, text)? } else { self.frame(rest[0])? };
            self.offset += taken as u64;
            rest = &rest[taken..];
        }
        Ok(())
    }

    fn body(&mut self, piece: &[u8], text: &mut dyn FnMut(&[u8]) -> Result<(), PlanError>) -> Result<usize, PlanError> {
        let mut taken = 0;
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(&piece[taken..], &mut self.buffer, FlushDecompress::None);
            let Ok(status) = status else { return self.damaged() };
            let (read, written) = (self.inflate.total_in() - before_in, self.inflate.total_out() - before_out);
            taken += usize::try_from(read).unwrap_or(0);
            let written = usize::try_from(written).unwrap_or(0);
            self.crc.update(&self.buffer[..written]);
            text(&self.buffer[..written])?;
            if status == Status::StreamEnd {
                self.state = State::Trailer(0);
                return Ok(taken);
            }
            // A full buffer may mean that there is more to come without any further input.
            if taken == piece.len() && written < self.buffer.len() {
                return Ok(taken);
            }
            if read == 0 && written == 0 {
                return self.damaged();
            }
        }
    }

    /// One byte of a header, a trailer, or what is between members.
    fn frame(&mut self, byte: u8) -> Result<usize, PlanError> {
        self.state = match self.state {
            State::Header(at) => {
                self.field[at] = byte;
                match at {
                    0 | 1 if byte != MAGIC[at] => return self.damaged(),
                    // Deflate is the one method; the flags' upper bits are reserved.
                    2 if byte != 8 => return self.damaged(),
                    3 if byte & 0xe0 != 0 => return self.damaged(),
                    9 => {
                        self.flags = self.field[3];
                        self.inflate.reset(false);
                        self.crc = Crc::new();
                        self.after_field(0)
                    }
                    _ => State::Header(at + 1),
                }
            }
            State::ExtraLength(at) => {
                self.field[at] = byte;
                match (at, usize::from(u16::from_le_bytes([self.field[0], self.field[1]]))) {
                    (0, _) => State::ExtraLength(1),
                    (_, 0) => self.after_field(HAS_EXTRA),
                    (_, length) => State::Extra(length),
                }
            }
            State::Extra(1) => self.after_field(HAS_EXTRA),
            State::Extra(left) => State::Extra(left - 1),
            State::Name if byte == 0 => self.after_field(HAS_NAME),
            State::Comment if byte == 0 => self.after_field(HAS_COMMENT),
            State::HeaderChecksum(0) => State::HeaderChecksum(1),
            State::HeaderChecksum(_) => State::Body,
            State::Trailer(at) => {
                self.field[at] = byte;
                if at < 7 { State::Trailer(at + 1) } else { self.check_trailer()? }
            }
            State::Padding if byte == MAGIC[0] => {
                self.field[0] = byte;
                State::Header(1)
            }
            State::Padding if byte != 0 => return self.damaged(),
            same @ (State::Name | State::Comment | State::Padding | State::Body) => same,
        };
        Ok(1)
    }

    /// The next optional field behind the one of that flag, in the order of the specification.
    fn after_field(&self, flag: u8) -> State {
        let follows = |one: u8| one > flag && self.flags & one != 0;
        if flag < HAS_EXTRA && self.flags & HAS_EXTRA != 0 {
            State::ExtraLength(0)
        } else if follows(HAS_NAME) {
            State::Name
        } else if follows(HAS_COMMENT) {
            State::Comment
        } else if self.flags & HAS_CHECKSUM != 0 {
            State::HeaderChecksum(0)
        } else {
            State::Body
        }
    }

    fn check_trailer(&self) -> Result<State, PlanError> {
        let word = |at: usize| {
            u32::from_le_bytes([self.field[at], self.field[at + 1], self.field[at + 2], self.field[at + 3]])
        };
        if word(0) == self.crc.sum() && word(4) == self.crc.amount() { Ok(State::Padding) } else { self.damaged() }
    }

    /// The end of the file.
    pub(super) fn finish(&self) -> Result<(), PlanError> {
        if self.state == State::Padding { Ok(()) } else { Err(PlanError::GzipTruncated) }
    }
}
