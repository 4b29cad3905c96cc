//! Walks over one JSON value without keeping it: strings, escapes, and brackets that fit. Whether the rest is JSON, whoever
//! parses the value finds out.

/// Deeper is no clinical data, and an entry of more than 128 levels is refused by itself later on.
const DEPTH_MAX: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Between,
    String,
    Escape,
    /// A number, `true`, or what is no JSON at all.
    Scalar,
}

/// Within one value.
#[derive(Debug, Clone)]
pub(in crate::ingest::bulk) struct Walker {
    mode: Mode,
    depth: usize,
    /// A bit a level: set for an object.
    kinds: [u64; DEPTH_MAX / 64],
}

/// How far a walk got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ingest::bulk) struct Walked {
    /// Bytes of the piece that belong to the value.
    pub(in crate::ingest::bulk) bytes: usize,
    /// The value ended.
    pub(in crate::ingest::bulk) is_end: bool,
}

impl Walker {
    pub(in crate::ingest::bulk) fn new() -> Self {
        Self { mode: Mode::Between, depth: 0, kinds: [0; DEPTH_MAX / 64] }
    }

    /// Walk on, from the value's first byte or where the piece before ended.
    ///
    /// # Errors
    /// The place in the piece and a fixed sentence.
    pub(in crate::ingest::bulk) fn walk(&mut self, piece: &[u8]) -> Result<Walked, (usize, &'static str)> {
        let mut at = 0;
        while let Some(byte) = piece.get(at) {
            match self.mode {
                Mode::String => match memchr::memchr2(b'"', b'\\', &piece[at..]) {
                    None => return Ok(Walked { bytes: piece.len(), is_end: false }),
                    Some(stop) => {
                        at += stop;
                        self.mode = if piece[at] == b'"' { Mode::Between } else { Mode::Escape };
                        if self.mode == Mode::Between && self.depth == 0 {
                            return Ok(Walked { bytes: at + 1, is_end: true });
                        }
                    }
                },
                Mode::Escape => self.mode = Mode::String,
                Mode::Scalar => {
                    if matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | b',' | b':' | b'"' | b'{' | b'}' | b'[' | b']') {
                        self.mode = Mode::Between;
                        if self.depth == 0 {
                            return Ok(Walked { bytes: at, is_end: true });
                        }
                        continue;
                    }
                }
                Mode::Between => match byte {
                    b'"' => self.mode = Mode::String,
                    b'{' | b'[' => self.open(*byte == b'{').map_err(|what| (at, what))?,
                    b'}' | b']' => {
                        self.close(*byte == b'}').map_err(|what| (at, what))?;
                        if self.depth == 0 {
                            return Ok(Walked { bytes: at + 1, is_end: true });
                        }
                    }
                    b',' | b':' if self.depth == 0 => return Err((at, "A value was expected.")),
                    b' ' | b'\n' | b'\r' | b'\t' | b',' | b':' => {}
                    _ => self.mode = Mode::Scalar,
                },
            }
            at += 1;
        }
        Ok(Walked { bytes: at, is_end: false })
    }

    fn open(&mut self, is_object: bool) -> Result<(), &'static str> {
        let bit = 1u64 << (self.depth % 64);
        let word = self.kinds.get_mut(self.depth / 64).ok_or("It is nested too deeply.")?;
        *word = if is_object { *word | bit } else { *word & !bit };
        self.depth += 1;
        Ok(())
    }

    fn close(&mut self, is_object: bool) -> Result<(), &'static str> {
        let level = self.depth.checked_sub(1).ok_or("A value was expected.")?;
        if (self.kinds[level / 64] >> (level % 64) & 1 == 1) != is_object {
            return Err("A bracket does not fit the one that it closes.");
        }
        self.depth = level;
        Ok(())
    }
}
