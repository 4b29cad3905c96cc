//! Reading an object once, from its first to its last byte: its hash, its chunks, and the text of those that cannot be read
//! again where they stand.

use crate::db::{DbError, Scope};
use crate::engine::handler::StepError;
use crate::ids::{JobId, OrganizationId};
use crate::ingest::bulk::plan::{Chunk, FilePlan, LineFault, LineIssue, PlanError, PlanLimits, Planner, Sink};
use crate::ingest::bulk::source::object_error;
use crate::ingest::bulk::store::{self, PlannedChunk};
use crate::ingest::payloads::{Payloads, storage_error};
use crate::uploads::watcher::texts;
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use uuid::Uuid;

/// The object is handed to the planner in pieces of this size, at most so many of which wait.
const PIECE_BYTES: usize = 256 * 1024;
const PIECES_WAITING: usize = 8;
/// Chunks that wait for being stored; of compressed files each has its text.
const CHUNKS_WAITING: usize = 2;

/// What was read.
pub(super) struct Planned {
    pub(super) sha256: [u8; 32],
    pub(super) size_bytes: u64,
    pub(super) plan: Result<FilePlan, PlanError>,
    pub(super) chunks: Vec<PlannedChunk>,
    /// Lines that are in no chunk, because they are too long.
    pub(super) too_long: Vec<LineIssue>,
}

enum Told {
    Chunk(Chunk, Option<Bytes>),
    Issue(LineIssue),
}

/// Hands on what the planner tells; when nobody listens any more, the reading has failed.
struct Out(mpsc::Sender<Told>);

impl Sink for Out {
    fn chunk(&mut self, chunk: Chunk, text: Option<&[u8]>) {
        let _ = self.0.blocking_send(Told::Chunk(chunk, text.map(Bytes::copy_from_slice)));
    }

    fn issue(&mut self, issue: LineIssue) {
        // Of lines that are in their chunk, the chunk itself says it.
        if issue.fault == LineFault::TooLong {
            let _ = self.0.blocking_send(Told::Issue(issue));
        }
    }
}

/// Where the texts of the chunks of a compressed file are put: under an id of this attempt's own, so that whatever another
/// attempt does, or somebody who clears up behind it, touches nothing of this one's.
pub(super) struct Texts<'p> {
    pub(super) payloads: &'p Payloads,
    pub(super) organization: OrganizationId,
    pub(super) job: JobId,
    pub(super) plan_id: Uuid,
}

impl Texts<'_> {
    /// Put the text of a chunk; its key. Before the first one it is written down that there are texts under this id: they
    /// are found by that if no plan ever names them.
    async fn put(&self, number: i32, text: Bytes) -> Result<String, StepError> {
        let (organization, job, plan_id) = (self.organization, self.job, self.plan_id);
        if number == 1 {
            let begun =
                self.payloads.db().unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                    Box::pin(async move { store::begin_texts(connection, organization, job, plan_id).await })
                });
            begun.await?;
        }
        let key = format!("{}{number}", texts::prefix(organization, job, plan_id));
        let metadata = [("job_id", job.to_string()), ("organization_id", organization.to_string())];
        let objects = self.payloads.objects();
        objects.put(&key, text, "application/octet-stream", &metadata).await.map_err(storage_error)?;
        Ok(key)
    }
}

/// Plan the object with that `ETag`.
pub(super) async fn plan(texts: &Texts<'_>, key: &str, etag: &str) -> Result<Planned, StepError> {
    let objects = texts.payloads.objects();
    let (pieces, mut waiting) = mpsc::channel::<Bytes>(PIECES_WAITING);
    let (out, mut told) = mpsc::channel::<Told>(CHUNKS_WAITING);
    let planning = tokio::task::spawn_blocking(move || {
        let (mut planner, mut sink, mut fault) = (Planner::new(PlanLimits::default()), Out(out), None);
        while let Some(piece) = waiting.blocking_recv() {
            if fault.is_some() {
                // What stands behind is hashed all the same: the bytes are kept.
                planner.pass(&piece);
            } else {
                fault = planner.push(&piece, &mut sink).err();
            }
        }
        let identity = planner.identity();
        (identity, fault.map_or_else(|| planner.finish(&mut sink), Err))
    });
    let feeding = async move {
        let mut reader = objects.read_of(key, etag).await.map_err(object_error)?;
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            while piece.len() < PIECE_BYTES {
                let read = reader.read_buf(&mut piece).await.map_err(|error| {
                    StepError::transient("object_store_unavailable", "Object storage broke off.").caused_by(error)
                })?;
                if read == 0 {
                    break;
                }
            }
            if piece.is_empty() || pieces.send(piece.freeze()).await.is_err() {
                return Ok::<_, StepError>(());
            }
        }
    };
    let storing = async move {
        let (mut chunks, mut too_long) = (Vec::new(), Vec::new());
        while let Some(told) = told.recv().await {
            match told {
                Told::Issue(issue) => too_long.push(issue),
                Told::Chunk(chunk, text) => {
                    let number = i32::try_from(chunks.len() + 1).unwrap_or(i32::MAX);
                    let text_key = match text {
                        Some(text) => Some(texts.put(number, text).await?),
                        None => None,
                    };
                    let Chunk { bytes, first, count } = chunk;
                    chunks.push(PlannedChunk { bytes, first, lines: count, text_key });
                }
            }
        }
        Ok((chunks, too_long))
    };
    let ((), (chunks, too_long)) = tokio::try_join!(feeding, storing)?;
    let planned = planning.await;
    let ((sha256, size_bytes), plan) =
        planned.map_err(|_| StepError::ours("step_panicked", "The step's computation panicked."))?;
    Ok(Planned { sha256, size_bytes, plan, chunks, too_long })
}
