//! The commit of one step: the fence, the step's rows, and what the step moves, in one transaction. A step without rows of
//! its own goes to the group commit ([`super::committer`]).

use super::chunks_store;
use super::committer::{self, CommitReply, CommitRequest};
use super::definition::WorkflowDefinition;
use super::executor::Engine;
use super::handler::{Effect, Facts, StepError, StepOutcome, closing};
use super::store::{self, FinishedStep, Lease};
use crate::db::Scope;
use backon::BackoffBuilder as _;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub(super) const SUCCEEDED: &str = "succeeded";
pub(super) const SUCCEEDED_WITH_ISSUES: &str = "succeeded_with_issues";

/// What a step's transaction ends with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Commit {
    /// The job's move to its next step, or its end.
    Step,
    /// The fan-out of a region that ends with step `last`.
    FanOut { last: i16 },
    /// The move of a chunk.
    Chunk,
}

impl Engine {
    #[expect(clippy::too_many_arguments, reason = "the facts of one finished attempt")]
    pub(super) async fn commit(
        self: &Arc<Self>,
        lease: &Lease,
        definition: &WorkflowDefinition,
        index: usize,
        elapsed: Duration,
        outcome: StepOutcome,
        failed: bool,
        hand_off: bool,
        with_issues: &Arc<AtomicBool>,
    ) -> Result<CommitReply, StepError> {
        let mut step = FinishedStep {
            lease: lease.clone(),
            name: definition.steps.get(index).map(|step| step.name.clone()).unwrap_or_default(),
            elapsed,
            next: definition.next_step(index, failed),
            output: outcome.output,
            closing: None,
            hand_off: hand_off && !self.is_draining(),
        };
        let Some(effect) = outcome.effect else {
            close(&mut step, with_issues);
            let (reply, answer) = oneshot::channel();
            if self.commits().send(CommitRequest { step, reply }).await.is_err() {
                return Ok(CommitReply::Stale);
            }
            return Ok(answer.await.unwrap_or(CommitReply::Stale));
        };
        self.commit_in_one(step, Some(effect), Commit::Step, with_issues).await
    }

    /// Commit a step in a transaction of its own: the fence, its effect, and what `commit` says. The flag is set when the step
    /// is the job's last.
    pub(super) async fn commit_in_one(
        self: &Arc<Self>,
        step: FinishedStep,
        effect: Option<Effect>,
        commit: Commit,
        with_issues: &Arc<AtomicBool>,
    ) -> Result<CommitReply, StepError> {
        let lease = step.lease.clone();
        // A chunk's transaction is thousands of rows: it gives way to those of others.
        let db = if matches!(commit, Commit::Chunk) { self.db().background() } else { self.db().clone() };
        let mut delays = committer::patience().build();
        let mut conflicts = 0;
        loop {
            let begun = Instant::now();
            let (step, effect, worker, lease_time) =
                (step.clone(), effect.clone(), self.worker(), self.options().lease);
            let with_issues = Arc::clone(with_issues);
            let scope = Scope::Organization(lease.organization);
            let probe = step.clone();
            let committed: Result<CommitReply, StepError> = db
                .unit(scope, move |connection| {
                    Box::pin(async move {
                        let mut step = step;
                        if !store::fence(connection, &step).await? {
                            return Ok(CommitReply::Stale);
                        }
                        if let Some(effect) = effect {
                            let facts: Facts = effect(connection).await?;
                            step.output.extend(facts);
                        }
                        match commit {
                            Commit::Step => {
                                close(&mut step, &with_issues);
                                let key = step.lease.key();
                                let rows = store::commit_steps(connection, &[step], worker, lease_time).await?;
                                Ok(committer::replies(rows).remove(&key).unwrap_or(CommitReply::Stale))
                            }
                            Commit::FanOut { last } => {
                                Ok(match chunks_store::fan_out(connection, &step, last, worker, lease_time).await? {
                                    0 => CommitReply::Passed { next: None, freed: false },
                                    _ => CommitReply::FannedOut,
                                })
                            }
                            Commit::Chunk => {
                                let freed = chunks_store::commit_chunk(connection, &step, worker, lease_time).await?;
                                Ok(CommitReply::Passed { next: None, freed })
                            }
                        }
                    })
                })
                .await;
            if committed.is_err() && begun.elapsed() > lease_time / 4 {
                // A commit renews the lease by itself; one that was rolled back held the row's lock as long.
                self.renew(&lease).await;
            }
            match committed {
                Err(error) if error.code == "database_conflict" && conflicts < committer::CONFLICTS_MAX => {
                    conflicts += 1;
                    tokio::time::sleep(committer::after_conflict(conflicts)).await;
                }
                Err(error) if error.code == "database_unavailable" && self.holds(&lease) => {
                    tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(1))).await;
                    if matches!(committer::applied(self, &probe, commit).await, Ok(true)) {
                        return Ok(match commit {
                            Commit::FanOut { .. } => {
                                // With no chunk to do the lease is still ours: the join is made by whoever claims it then.
                                self.hand_back(&lease).await;
                                CommitReply::FannedOut
                            }
                            Commit::Step | Commit::Chunk => {
                                if probe.next.is_none() {
                                    self.hand_back_successor(&lease).await;
                                }
                                CommitReply::Passed { next: None, freed: true }
                            }
                        });
                    }
                }
                other => return other,
            }
        }
    }
}

impl Engine {
    /// Renew a lease at once; what cannot be renewed now, the renewal tries again.
    async fn renew(&self, lease: &Lease) {
        let (held, lease_time) = (vec![(lease.key(), lease.epoch)], self.options().lease);
        let renewed = self
            .db()
            .unit(Scope::Global, move |connection| {
                Box::pin(async move { store::renew_leases(connection, &held, lease_time).await })
            })
            .await;
        if let Err(error) = renewed {
            tracing::warn!(job.id = %lease.job, error = ?error, "could not renew the lease of job {}", lease.job);
        }
    }
}

/// Take the job's closing facts out of the last step's output; the flag tells telemetry how it ended.
fn close(step: &mut FinishedStep, has_issues: &AtomicBool) {
    if step.next.is_some() {
        return;
    }
    let with_issues = step.output.remove(closing::WITH_ISSUES).and_then(|value| value.as_bool()).unwrap_or(false);
    has_issues.store(with_issues, Ordering::Relaxed);
    let result = step.output.remove(closing::RESULT).unwrap_or(Value::Null);
    step.closing = Some((if with_issues { SUCCEEDED_WITH_ISSUES } else { SUCCEEDED }, result));
}
