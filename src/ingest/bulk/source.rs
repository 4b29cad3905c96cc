//! Where the bytes of a bulk file are fetched: the object that was taken up, by its `ETag`, until the raw copy is there.

use super::piece::{Cut, Piece};
use super::plan::Shape;
use super::store::{ChunkWork, PlanRow};
use crate::engine::handler::StepError;
use crate::ingest::payloads::storage_error;
use crate::objects::{ObjectError, Objects};
use bytes::Bytes;
use std::io::Read as _;

/// A Bundle of one chunk is read as a whole up to this size, head and all: no more than a chunk may have.
pub const WHOLE_BYTES_MAX: u64 = 20 << 20;

/// Key of the text of a chunk of a compressed file.
#[must_use]
pub fn chunk_key(organization: crate::ids::OrganizationId, job: crate::ids::JobId, chunk: i32) -> String {
    format!("chunks/{organization}/{job}/{chunk}")
}

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
    let (plan, shape) = (&work.plan, work.plan.shape());
    if plan.chunks == 1 && shape == Shape::Bundle && plan.text_bytes <= WHOLE_BYTES_MAX.cast_signed() {
        let stored = stored(objects, work, None).await?;
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
        None => stored(objects, work, Some(work.range())).await?,
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

/// The stored bytes, or some of them.
async fn stored(objects: &Objects, work: &ChunkWork, range: Option<std::ops::Range<u64>>) -> Result<Bytes, StepError> {
    match (&work.raw_key, range) {
        (Some(raw), Some(range)) => objects.get_range(raw, range).await.map_err(storage_error),
        (Some(raw), None) => objects.get(raw).await.map_err(storage_error),
        (None, range) => {
            let (key, etag) = (&work.plan.storage_key, &work.plan.etag);
            let range = range.unwrap_or(0..WHOLE_BYTES_MAX);
            objects.get_range_of(key, etag, range).await.map_err(object_error)
        }
    }
}

async fn gunzip(stored: Bytes, plan: &PlanRow) -> Result<Bytes, StepError> {
    let size = u64::try_from(plan.text_bytes).unwrap_or(0);
    let unpacked = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        // It was unpacked before: what is longer now is another file.
        flate2::read::MultiGzDecoder::new(&stored[..]).take(size + 1).read_to_end(&mut text).map(|_| text)
    });
    match unpacked.await {
        Ok(Ok(text)) if u64::try_from(text.len()).ok() == Some(size) => Ok(Bytes::from(text)),
        _ => Err(incomplete()),
    }
}
