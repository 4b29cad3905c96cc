//! Where the bytes of a bulk file are fetched: the object that was taken up, by its `ETag`, until the raw copy is there.

use super::piece::{Cut, Piece};
use super::plan::{Shape, unpack};
use super::store::{ChunkWork, PlanRow};
use crate::engine::handler::StepError;
use crate::ingest::payloads::storage_error;
use crate::objects::{ObjectError, Objects};
use bytes::Bytes;

/// A Bundle of one chunk is read as a whole, head and all, if both its text and what is stored of it have at most this size: no
/// more than a chunk may have. (What is stored may be longer than its text, by padding and empty members.)
pub const WHOLE_BYTES_MAX: u64 = 20 << 20;

/// Errors of reading the sender's own object.
#[must_use]
pub fn object_error(error: ObjectError) -> StepError {
    match error {
        ObjectError::NotFound => object_gone(),
        ObjectError::Changed => object_changed(),
        other => storage_error(other),
    }
}

/// It is not there any more.
#[must_use]
pub fn object_gone() -> StepError {
    StepError::sender("object_gone", "The uploaded object was deleted before it was read.")
}

/// Another one is there.
#[must_use]
pub fn object_changed() -> StepError {
    StepError::sender("object_changed", "The uploaded object was replaced by another one before it was read.")
}

fn incomplete() -> StepError {
    StepError::ours("payload_corrupt", "The stored payload is not the one that was accepted: its size differs.")
}

/// The text of a chunk, opened.
///
/// # Errors
/// [`StepError`], by who must act.
pub async fn piece(objects: &Objects, work: &ChunkWork) -> Result<Piece, StepError> {
    let (plan, shape) = (&work.plan, work.plan.shape);
    let size = plan.text_bytes.max(work.stored_bytes);
    if plan.chunks == 1 && shape == Shape::Bundle && size <= WHOLE_BYTES_MAX.cast_signed() {
        let stored = stored(objects, work, 0..WHOLE_BYTES_MAX).await?;
        let text = if plan.is_gzip { gunzip(stored, plan).await? } else { stored };
        let bytes = match Piece::whole(text) {
            Ok(piece) => return Ok(piece),
            Err(bytes) => bytes,
        };
        let range = usize::try_from(work.byte_start).unwrap_or(0)..usize::try_from(work.byte_end).unwrap_or(0);
        let text = if bytes.len() >= range.end { bytes.slice(range) } else { return Err(incomplete()) };
        return Ok(open(text, work, shape));
    }
    let text = match &work.text_key {
        Some(key) => objects.get(key).await.map_err(storage_error)?,
        None => stored(objects, work, work.range()).await?,
    };
    if u64::try_from(text.len()).ok() != Some(work.range().end - work.range().start) {
        return Err(incomplete());
    }
    Ok(open(text, work, shape))
}

fn open(text: Bytes, work: &ChunkWork, shape: Shape) -> Piece {
    let first = u64::try_from(work.first_line).unwrap_or(0);
    Piece::new(text, Cut { shape, base: work.range().start, first })
}

/// Some of the stored bytes.
async fn stored(objects: &Objects, work: &ChunkWork, range: std::ops::Range<u64>) -> Result<Bytes, StepError> {
    if let Some(raw) = &work.raw_key {
        return objects.get_range(raw, range).await.map_err(storage_error);
    }
    let (key, etag) = (&work.plan.storage_key, &work.plan.etag);
    objects.get_range_of(key, etag, range).await.map_err(object_error)
}

async fn gunzip(stored: Bytes, plan: &PlanRow) -> Result<Bytes, StepError> {
    let size = usize::try_from(plan.text_bytes).unwrap_or(0);
    match tokio::task::spawn_blocking(move || unpack(&stored, size)).await {
        Ok(Ok(text)) if text.len() == size => Ok(Bytes::from(text)),
        _ => Err(incomplete()),
    }
}
