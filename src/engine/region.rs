//! A job's own row at a step that runs for each chunk: fans it out, and joins it when no chunk is left.
//!
//! The chunks themselves run as any leased row does ([`Engine::run`]); what is theirs alone stands here too.

use super::chunks_store::{self, ChunkFailure};
use super::commit::Commit;
use super::committer::CommitReply;
use super::definition::WorkflowDefinition;
use super::executor::{Call, Engine};
use super::failing::Recorded;
use super::handler::{Memo, StepError, StepOutcome};
use super::jobs::parse_class;
use super::store::{FailedStep, FinishedStep, Lease};
use crate::db::{DbError, Scope};
use futures::future::BoxFuture;
use sqlx::PgConnection;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a claimed job's row at a region came to.
pub(super) enum AtRegion {
    /// It waits for its chunks, or the lease is not ours any more.
    Left(CommitReply),
    /// All chunks succeeded at this step; the join's outcome, to be committed as any step's. The step ran so long.
    Joined(StepOutcome, Duration),
    /// A chunk failed at this step, for good.
    Failed(Box<ChunkFailure>, Duration),
}

fn number(index: usize) -> i16 {
    i16::try_from(index).unwrap_or(i16::MAX)
}

impl Engine {
    /// The job stands at step `index`, which has chunks.
    pub(super) async fn at_region(
        self: &Arc<Self>,
        lease: &Lease,
        definition: &WorkflowDefinition,
        index: usize,
    ) -> Result<AtRegion, StepError> {
        let region = definition.region(index);
        let (start, last) = (number(region.start), number(region.end.saturating_sub(1)));
        let wanted = lease.clone();
        let is_open = self
            .read(lease, move |connection| {
                Box::pin(async move { chunks_store::is_open(connection, &wanted, start).await })
            })
            .await?;
        if !is_open {
            let begun = Instant::now();
            let step = &definition.steps[index];
            let outcome = self.attempt(lease, step, false, Call::Open, &Memo::default()).await?;
            let finished = FinishedStep {
                lease: lease.clone(),
                name: step.name.clone(),
                elapsed: begun.elapsed(),
                // The job does not end with this, whatever follows.
                next: Some(lease.step),
                output: outcome.output,
                closing: None,
                hand_off: false,
            };
            match self.commit_in_one(finished, outcome.effect, Commit::FanOut { last }, &Arc::default()).await? {
                CommitReply::Passed { .. } => {}
                other => {
                    self.wake().signal();
                    return Ok(AtRegion::Left(other));
                }
            }
        }
        let wanted = lease.clone();
        let (failure, totals, elapsed) = self
            .read(lease, move |connection| {
                Box::pin(async move {
                    let failure = chunks_store::first_failure(connection, &wanted).await?;
                    let (totals, elapsed) = chunks_store::totals(connection, &wanted).await?;
                    Ok((failure, totals, elapsed))
                })
            })
            .await?;
        if let Some(failure) = failure {
            return Ok(AtRegion::Failed(Box::new(failure), elapsed));
        }
        let outcome =
            self.attempt(lease, &definition.steps[index], false, Call::Join(totals), &Memo::default()).await?;
        Ok(AtRegion::Joined(outcome, elapsed))
    }

    async fn read<T: Send + 'static>(
        &self,
        lease: &Lease,
        work: impl for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, DbError>> + Send + 'static,
    ) -> Result<T, StepError> {
        Ok(self.db().unit(Scope::Organization(lease.organization), work).await?)
    }

    /// Commit a chunk's step.
    pub(super) async fn commit_chunk(
        self: &Arc<Self>,
        lease: &Lease,
        definition: &WorkflowDefinition,
        index: usize,
        elapsed: Duration,
        outcome: StepOutcome,
    ) -> Result<CommitReply, StepError> {
        let finished = FinishedStep {
            lease: lease.clone(),
            name: definition.steps.get(index).map(|step| step.name.clone()).unwrap_or_default(),
            elapsed,
            next: next_of_chunk(definition, index),
            output: outcome.output,
            closing: None,
            hand_off: false,
        };
        self.commit_in_one(finished, outcome.effect, Commit::Chunk, &Arc::default()).await
    }

    /// The step fails with what its first chunk failed with: what was tried, was tried by the chunk.
    pub(super) async fn fail_region(
        self: &Arc<Self>,
        lease: &Lease,
        definition: &WorkflowDefinition,
        index: usize,
        failure: &ChunkFailure,
        elapsed: Duration,
    ) -> CommitReply {
        let Some(step) = definition.steps.get(index) else { return CommitReply::Stale };
        let next = definition.next_step(index, true);
        let failed = FailedStep {
            lease: lease.clone(),
            name: step.name.clone(),
            elapsed,
            code: failure.error_code.clone().into(),
            class: parse_class(&failure.error_class).unwrap_or(super::handler::ErrorClass::Ours),
            message: failure.error_message.clone(),
            delay: None,
            next,
            skipped: definition.skipped_steps(index, false),
        };
        let (job, code, chunks) = (lease.job, failure.error_code.as_str(), failure.failed);
        tracing::warn!(job.id = %job, step = step.name.as_str(), code, chunks, "{chunks} chunk(s) of job {job} failed for good");
        if self.record_failure(failed).await == Recorded::Yes {
            CommitReply::RegionFailed { follows: next.is_some() }
        } else {
            CommitReply::Stale
        }
    }
}

/// The step that a chunk runs next, inside its region.
pub(super) fn next_of_chunk(definition: &WorkflowDefinition, index: usize) -> Option<i16> {
    definition.steps.get(index + 1).filter(|step| step.each_chunk).map(|_| number(index + 1))
}
