//! The handlers of bulk files (docs/bulk.md). `bulk.validate` plans the file and validates its chunks, `bulk.store_raw` copies
//! it, `bulk.link_patient` and `bulk.extract_findings` work on a chunk each, `bulk.audit` closes the job and leaves the
//! outcome file.
//!
//! A chunk's text is read, computed on off the runtime's threads, and dropped before its effect, as far as the effect does
//! not quote it.

mod audit;
mod extract_findings;
mod link_patient;
mod planning;
mod store_raw;
mod validate;

pub use audit::{Audit, outcomes_key};
pub use extract_findings::ExtractFindings;
pub use link_patient::LinkPatient;
pub use store_raw::StoreRaw;
pub use validate::Validate;

use crate::db::{Scope, statistics};
use crate::engine::handler::{StepContext, StepError};
use crate::ingest::bulk::piece::Piece;
use crate::ingest::bulk::source;
use crate::ingest::bulk::store::{self, ChunkWork, Upload};
use crate::ingest::events::Origin;
use crate::ingest::payloads::Payloads;
use std::collections::BTreeSet;

/// The job with its object.
async fn upload(payloads: &Payloads, context: &StepContext) -> Result<Upload, StepError> {
    let (organization, job) = (context.organization, context.job);
    let found = payloads
        .db()
        .unit(Scope::Organization(organization), move |connection| {
            Box::pin(async move { store::upload_of(connection, organization, job).await })
        })
        .await?;
    found.ok_or_else(|| StepError::ours("payload_missing", "The job's object is not known."))
}

/// A chunk and its text.
async fn piece(payloads: &Payloads, context: &StepContext) -> Result<(ChunkWork, Piece), StepError> {
    let (organization, job, chunk) = (context.organization, context.job, context.chunk);
    let db = payloads.db().background();
    statistics::keep_fresh(&db).await;
    let found = db
        .unit(Scope::Organization(organization), move |connection| {
            Box::pin(async move { store::chunk_work(connection, organization, job, chunk).await })
        })
        .await?;
    let work = found.ok_or_else(|| StepError::ours("payload_missing", "The job's chunk is not known."))?;
    let piece = source::piece(payloads.objects(), &work).await?;
    Ok((work, piece))
}

/// Compute where it holds up nobody, and give way to webhooks.
async fn compute<T: Send + 'static>(
    payloads: &Payloads,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StepError> {
    let done = payloads.db().background().compute(work).await;
    done.map_err(|_| StepError::ours("step_panicked", "The step's computation panicked."))
}

/// Where the events of a chunk come from.
fn origin(context: &StepContext, work: &ChunkWork, piece: &Piece) -> Origin {
    Origin {
        organization: context.organization,
        job: context.job,
        seq: context.seq,
        source: work.source_label.clone(),
        payload_sha256: work.sha256.clone(),
        base: piece.base(),
    }
}

/// What the validation left out.
fn rejected(work: &ChunkWork) -> BTreeSet<u32> {
    work.rejected.iter().filter_map(|number| u32::try_from(*number).ok()).collect()
}
