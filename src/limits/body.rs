//! Reading a body in bounded time and memory, whoever sends it.

use super::budget::{Exhausted, Share};
use crate::config::BODY_WINDOW;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use std::time::Instant;

/// What is reserved for a declared length at first; the rest grows as it comes.
const RESERVED_MAX: usize = 1 << 20;

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is longer than allowed.
    #[error("the body is too large")]
    TooLarge,
    /// It brought fewer bytes than these in a window of [`BODY_WINDOW`].
    #[error("the body brought less than {0} bytes in a window")]
    TooSlow(u64),
    /// The connection ended before it did.
    #[error("the body is not whole")]
    Incomplete,
    /// There is no memory for it now.
    #[error("as many bodies are being taken as fit into memory")]
    Exhausted,
}

impl From<Exhausted> for BodyError {
    fn from(_: Exhausted) -> Self {
        Self::Exhausted
    }
}

/// All of a body of at most `limit` bytes. It may stop sending for less than a window, and must bring its bytes in each window:
/// what came before buys no rest, so that its time is bounded by its size.
///
/// # Errors
/// [`BodyError`].
pub async fn collect(
    mut body: axum::body::Body,
    limit: usize,
    declared: Option<usize>,
    share: &Share,
) -> Result<Bytes, BodyError> {
    let window_min = share.bytes_per_second().saturating_mul(BODY_WINDOW.as_secs());
    let mut bytes = BytesMut::with_capacity(declared.unwrap_or(0).min(limit).min(RESERVED_MAX));
    let mut window = Window::begin();
    loop {
        let Ok(frame) = tokio::time::timeout_at(window.end.into(), body.frame()).await else {
            window = window.next(window_min)?;
            continue;
        };
        let Some(frame) = frame else { return Ok(bytes.freeze()) };
        let frame = frame.map_err(|_| BodyError::Incomplete)?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(BodyError::TooLarge);
        }
        let before = Instant::now();
        share.cover((bytes.len() + data.len()) as u64).await?;
        // The time for which we did not read is not the sender's.
        window.end += before.elapsed();
        window.bytes += data.len() as u64;
        bytes.extend_from_slice(data);
        if window.end <= Instant::now() {
            window = window.next(window_min)?;
        }
    }
}

/// What a body brought lately.
struct Window {
    end: Instant,
    bytes: u64,
}

impl Window {
    fn begin() -> Self {
        Self { end: Instant::now() + BODY_WINDOW, bytes: 0 }
    }

    fn next(self, bytes_min: u64) -> Result<Self, BodyError> {
        if self.bytes < bytes_min { Err(BodyError::TooSlow(bytes_min)) } else { Ok(Self::begin()) }
    }
}
