//! Reads along with hyper, byte by byte, and lets nothing through whose framing two readers could understand differently
//! (RFC 9112; CWE-444, request smuggling). It is stricter than it must be: where the RFC lets a server choose between
//! mending and refusing, it refuses.
//!
//! What offends is replaced by a NUL, which no parser takes, and the head is ended behind it; nothing further is handed
//! on. So hyper itself answers 400 (in the lines of chunks: the body breaks off) and closes the connection, after the
//! answers to requests that came before.

/// Of a header line, so much is kept: more than those that matter can have.
const LINE_MAX: usize = 128;
/// Digits of a chunk's size: 64 bits.
const CHUNK_DIGITS_MAX: u8 = 16;
/// Digits of a length: below 2^63.
const LENGTH_DIGITS_MAX: usize = 18;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a request line; empty lines are skipped.
    Start,
    RequestLine,
    /// A header line, or the empty one.
    Header,
    /// A body with so many bytes left.
    Body(u64),
    ChunkSize {
        size: u64,
        digits: u8,
    },
    ChunkExtension {
        size: u64,
    },
    /// The CR of a chunk's line was there.
    ChunkLine {
        size: u64,
    },
    ChunkData(u64),
    ChunkCr,
    ChunkLf,
    Trailer,
    /// Something offended: so many bytes of [`END`] were handed out.
    Refused(usize),
}

/// Ends a head whatever it stands in.
const END: &[u8] = b"\r\n\r\n";

/// What a head said of the body.
#[derive(Debug, Default, Clone, Copy)]
struct Framing {
    length: Option<u64>,
    is_chunked: bool,
    hosts: u8,
}

/// One connection's bytes.
pub struct Gate {
    state: State,
    /// The line's first bytes.
    line: Vec<u8>,
    /// Bytes of the line, CR and LF apart.
    line_length: usize,
    /// The last bytes of the request line.
    version: [u8; 8],
    after_cr: bool,
    framing: Framing,
}

impl Gate {
    /// Of a fresh connection.
    pub fn new() -> Self {
        Self {
            state: State::Start,
            line: Vec::with_capacity(LINE_MAX),
            line_length: 0,
            version: [0; 8],
            after_cr: false,
            framing: Framing::default(),
        }
    }

    /// Look at bytes that have just arrived; answers how many of them may be handed on. The last of them may have been changed.
    pub fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let left = (bytes.len() - at) as u64;
            match self.state {
                State::Refused(_) => return at,
                State::Body(length) | State::ChunkData(length) => {
                    let skipped = length.min(left);
                    let rest = length - skipped;
                    self.state = match self.state {
                        State::Body(_) if rest == 0 => State::Start,
                        State::Body(_) => State::Body(rest),
                        _ if rest == 0 => State::ChunkCr,
                        _ => State::ChunkData(rest),
                    };
                    at += usize::try_from(skipped).unwrap_or(usize::MAX);
                }
                _ => {
                    let offends = self.step(bytes[at]).is_none();
                    if offends {
                        bytes[at] = 0;
                        self.state = State::Refused(0);
                    }
                    at += 1;
                }
            }
        }
        at
    }

    /// After something offended: the bytes that end the head, then nothing. `None`: read on.
    pub fn ending(&mut self, room: usize) -> Option<&'static [u8]> {
        let State::Refused(given) = self.state else { return None };
        let end = END.len().min(given + room);
        self.state = State::Refused(end);
        Some(&END[given..end])
    }

    /// One byte that is no content. `None`: it offends.
    fn step(&mut self, byte: u8) -> Option<()> {
        match self.state {
            State::Start | State::RequestLine | State::Header | State::Trailer => return self.line_byte(byte),
            State::ChunkSize { size, digits } => match byte {
                b'\r' if digits > 0 => self.state = State::ChunkLine { size },
                b';' | b' ' | b'\t' if digits > 0 => self.state = State::ChunkExtension { size },
                _ => {
                    let digit = u64::from(char::from(byte).to_digit(16)?);
                    if digits == CHUNK_DIGITS_MAX {
                        return None;
                    }
                    self.state = State::ChunkSize { size: size << 4 | digit, digits: digits + 1 };
                }
            },
            State::ChunkExtension { size } => match byte {
                b'\r' => self.state = State::ChunkLine { size },
                b'\n' | 0 => return None,
                _ => {}
            },
            State::ChunkLine { size } => {
                if byte != b'\n' {
                    return None;
                }
                self.state = if size == 0 { State::Trailer } else { State::ChunkData(size) };
            }
            State::ChunkCr => {
                if byte != b'\r' {
                    return None;
                }
                self.state = State::ChunkLf;
            }
            State::ChunkLf => {
                if byte != b'\n' {
                    return None;
                }
                self.state = State::ChunkSize { size: 0, digits: 0 };
            }
            State::Body(_) | State::ChunkData(_) | State::Refused(_) => {}
        }
        Some(())
    }

    fn line_byte(&mut self, byte: u8) -> Option<()> {
        if self.after_cr {
            // A CR that is no line's end, and an LF without its CR, are where readers differ.
            if byte != b'\n' {
                return None;
            }
            self.after_cr = false;
            self.line_end()?;
            self.line.clear();
            self.line_length = 0;
            return Some(());
        }
        match byte {
            b'\r' => self.after_cr = true,
            b'\n' | 0 => return None,
            _ => {
                if self.state == State::Start {
                    self.state = State::RequestLine;
                    self.framing = Framing::default();
                }
                if self.line.len() < LINE_MAX {
                    self.line.push(byte);
                }
                self.line_length += 1;
                if self.state == State::RequestLine {
                    self.version.rotate_left(1);
                    self.version[7] = byte;
                }
            }
        }
        Some(())
    }

    fn line_end(&mut self) -> Option<()> {
        match (self.state, self.line_length) {
            (State::RequestLine, _) => self.state = State::Header,
            (State::Header, 0) => self.state = self.head_end()?,
            (State::Header, _) => self.header()?,
            (State::Trailer, 0) => self.state = State::Start,
            _ => {}
        }
        Some(())
    }

    fn head_end(&self) -> Option<State> {
        // RFC 9112, section 3.2: exactly one Host, but for HTTP/1.0.
        let is_old = &self.version == b"HTTP/1.0";
        if self.framing.hosts > 1 || (self.framing.hosts == 0 && !is_old) {
            return None;
        }
        match (self.framing.is_chunked, self.framing.length) {
            (true, Some(_)) => None,
            (true, None) if is_old => None,
            (true, None) => Some(State::ChunkSize { size: 0, digits: 0 }),
            (false, None | Some(0)) => Some(State::Start),
            (false, Some(length)) => Some(State::Body(length)),
        }
    }

    fn header(&mut self) -> Option<()> {
        // A line that begins with white space would continue the one before (obs-fold).
        let colon = self.line.iter().position(|byte| *byte == b':');
        if self.line.first().is_some_and(|byte| b" \t".contains(byte)) {
            return None;
        }
        let Some(colon) = colon else {
            // A name that is longer than what is kept is none of ours; hyper sees whether it has a colon.
            return (self.line_length > LINE_MAX).then_some(());
        };
        let (name, value) = (&self.line[..colon], self.line[colon + 1..].trim_ascii());
        if name.is_empty() || name.ends_with(b" ") || name.ends_with(b"\t") {
            return None;
        }
        let is_whole = self.line_length <= LINE_MAX;
        if name.eq_ignore_ascii_case(b"content-length") {
            let is_number = (1..=LENGTH_DIGITS_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
            if !is_whole || !is_number || self.framing.length.is_some() {
                return None;
            }
            self.framing.length = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !is_whole || !value.eq_ignore_ascii_case(b"chunked") || self.framing.is_chunked {
                return None;
            }
            self.framing.is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            self.framing.hosts = self.framing.hosts.saturating_add(1);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What comes out of a gate when `bytes` arrive in pieces of that size.
    fn through(bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
        let mut gate = Gate::new();
        let mut out = Vec::new();
        for piece in bytes.chunks(piece) {
            let mut piece = piece.to_vec();
            let passed = gate.pass(&mut piece);
            out.extend_from_slice(&piece[..passed]);
        }
        let refused = gate.ending(2).is_some();
        (out, refused)
    }

    const HEAD: &str = "POST / HTTP/1.1\r\nhost: x\r\n";

    #[test]
    fn plain_requests_pass_unchanged() {
        for text in [
            "GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            "\r\n\r\nGET / HTTP/1.1\r\nHOST:x\r\n\r\nGET / HTTP/1.0\r\n\r\n".to_owned(),
            format!("{HEAD}content-length: 5\r\n\r\na\nb\0cGET / HTTP/1.1\r\nhost: x\r\n\r\n"),
            format!("{HEAD}Transfer-Encoding: Chunked\r\n\r\n5;a=b\r\na\r\n\0c\r\n00\r\nx: y\r\n\r\n{HEAD}\r\n"),
            format!("{HEAD}x-long: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(1000)),
            format!("{HEAD}{}: a\r\n\r\n", "n".repeat(1000)),
        ] {
            for piece in [1, 2, 3, 7, 1 << 20] {
                assert_eq!(through(text.as_bytes(), piece), (text.clone().into_bytes(), false), "{text:?}");
            }
        }
    }

    #[test]
    fn what_two_readers_could_understand_differently_ends_in_a_nul() {
        let chunked = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
        for text in [
            "GET / HTTP/1.1\nhost: x\r\n\r\n".to_owned(),
            "\nGET / HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            format!("{HEAD}host: y\r\n\r\n"),
            format!("{HEAD}a: b\n\r\n"),
            format!("{HEAD}a: b\rc\r\n\r\n"),
            format!("{HEAD}a: b\0\r\n\r\n"),
            format!("{HEAD} folded\r\n\r\n"),
            format!("{HEAD}no colon\r\n\r\n"),
            format!("{HEAD}content-length : 5\r\n\r\n"),
            format!("{HEAD}content-length: 5\r\ncontent-length: 5\r\n\r\n"),
            format!("{HEAD}content-length: 5, 5\r\n\r\n"),
            format!("{HEAD}content-length: +5\r\n\r\n"),
            format!("{HEAD}content-length: \r\n\r\n"),
            format!("{HEAD}content-length: 99999999999999999999\r\n\r\n"),
            format!("{HEAD}content-length: {}5\r\n\r\n", "0".repeat(200)),
            format!("{HEAD}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"),
            format!("{HEAD}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n"),
            format!("{HEAD}transfer-encoding: gzip, chunked\r\n\r\n"),
            format!("{HEAD}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n"),
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            format!("{chunked}5\nabcde\r\n0\r\n\r\n"),
            format!("{chunked}5\r\nabcde\n0\r\n\r\n"),
            format!("{chunked}5\r\nabcdef\r\n0\r\n\r\n"),
            format!("{chunked}5;\nabcde\r\n0\r\n\r\n"),
            format!("{chunked}0x5\r\nabcde\r\n0\r\n\r\n"),
            format!("{chunked}-5\r\nabcde\r\n0\r\n\r\n"),
            format!("{chunked}\r\nabcde\r\n0\r\n\r\n"),
            format!("{chunked}10000000000000005\r\nabcde\r\n0\r\n\r\n"),
            format!("{chunked}0\r\nx: y\n\r\n"),
        ] {
            for piece in [1, 3, 1 << 20] {
                let (out, refused) = through(text.as_bytes(), piece);
                assert!(refused && out.last() == Some(&0), "{text:?} became {out:?}");
                assert_eq!(out[..out.len() - 1], text.as_bytes()[..out.len() - 1]);
            }
        }
    }

    #[test]
    fn the_ending_is_given_once_in_pieces() {
        let mut gate = Gate::new();
        assert_eq!(gate.ending(9), None);
        assert_eq!(gate.pass(&mut [b'\n', b'G']), 1);
        assert_eq!(gate.pass(&mut [b'G']), 0);
        let given: Vec<&[u8]> = (0..4).map(|_| gate.ending(3).unwrap()).collect();
        assert_eq!(given, [b"\r\n\r".as_slice(), b"\n", b"", b""]);
    }

    proptest! {
        #[test]
        fn however_bytes_arrive_the_same_comes_out(
            parts in prop::collection::vec(prop::sample::select(vec![
                "GET / HTTP/1.1\r\n", "POST / HTTP/1.0\r\n", "host: x\r\n", "content-length: 3\r\n", "transfer-encoding: chunked\r\n",
                "\r\n", "\n", "\r", "3\r\nabc\r\n", "0\r\n\r\n", "abc", "3;x", ":", " ", "\0",
            ]), 0..24),
            piece in 1_usize..9,
        ) {
            let text = parts.concat().into_bytes();
            prop_assert_eq!(through(&text, piece), through(&text, usize::MAX));
        }
    }
}
