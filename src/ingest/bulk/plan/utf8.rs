//! UTF-8, checked piece by piece (RFC 3629).

/// The check of one line or entry.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character that the next piece must end.
    open: [u8; 4],
    open_len: usize,
    is_broken: bool,
}

impl Utf8 {
    pub(super) fn push(&mut self, piece: &[u8]) {
        if self.is_broken {
            return;
        }
        let mut piece = piece;
        while self.open_len > 0 {
            let Some((byte, rest)) = piece.split_first() else { return };
            self.open[self.open_len] = *byte;
            self.open_len += 1;
            piece = rest;
            match std::str::from_utf8(&self.open[..self.open_len]) {
                Ok(_) => self.open_len = 0,
                // Four bytes are a character or none: never still open.
                Err(error) if error.error_len().is_none() && self.open_len < 4 => {}
                Err(_) => {
                    self.is_broken = true;
                    return;
                }
            }
        }
        // Nearly all text is valid as a whole, which is checked faster than where it ends to be.
        if simdutf8::basic::from_utf8(piece).is_ok() {
            return;
        }
        if let Err(error) = std::str::from_utf8(piece) {
            if error.error_len().is_some() {
                self.is_broken = true;
                return;
            }
            let tail = &piece[error.valid_up_to()..];
            self.open[..tail.len()].copy_from_slice(tail);
            self.open_len = tail.len();
        }
    }

    /// The end of the line: was it all UTF-8? Ready for the next.
    pub(super) fn end(&mut self) -> bool {
        let is_valid = !self.is_broken && self.open_len == 0;
        *self = Self::default();
        is_valid
    }
}
