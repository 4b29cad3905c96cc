//! What becomes of an attempt that failed, and of leases that are given back.

use super::catalog::CatalogError;
use super::committer;
use super::definition::WorkflowDefinition;
use super::executor::{Engine, age_of, count};
use super::handler::{ErrorClass, StepError};
use super::lanes_store;
use super::retry::{FailedAttempt, NextMove, decide};
use super::spans::{Ended, trace_id};
use super::store::{self, FailedStep, Lease, TaskKey};
use crate::db::{DbError, Scope};
use crate::telemetry;
use backon::{BackoffBuilder as _, Retryable as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether a failed attempt is in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    Yes,
    /// It is, but the answer that said so was lost: the job is handed back, and whoever claims it goes on.
    Unanswered,
    /// The lease was not ours any more, or the database refused it.
    Not,
}

impl Engine {
    /// Record a failed attempt. True: the step failed for good and an `always` step follows under the same lease.
    #[expect(clippy::too_many_arguments, reason = "the facts of one failed attempt")]
    pub(super) async fn fail(
        self: &Arc<Self>,
        lease: &mut Lease,
        name: &str,
        elapsed: Duration,
        error: StepError,
        definition: &WorkflowDefinition,
        index: Option<usize>,
        failed_before: bool,
        claimed: Instant,
    ) -> bool {
        let policy = index.and_then(|index| definition.steps.get(index)).map(|step| step.retry).unwrap_or_default();
        let age = age_of(lease, claimed);
        if let Some(after) = error.put_off
            && definition.deadline.is_none_or(|deadline| age + after <= deadline)
        {
            self.put_off(lease, after).await;
            return false;
        }
        let attempt = FailedAttempt {
            attempt: u16::try_from(lease.attempts).unwrap_or(u16::MAX),
            class: error.class,
            retry_after: error.retry_after,
            age,
            deadline: definition.deadline,
        };
        let next_move = if index.is_some() { decide(&policy, attempt, rand::random()) } else { NextMove::Fail };
        let (delay, next, skipped) = match (next_move, index) {
            (NextMove::RetryAfter(delay), _) => (Some(delay), None, Vec::new()),
            // What follows for the job is the join's business.
            (NextMove::Fail, Some(_)) if lease.chunk > 0 => (None, None, Vec::new()),
            (NextMove::Fail, Some(index)) => {
                (None, definition.next_step(index, true), definition.skipped_steps(index, failed_before))
            }
            (NextMove::Fail, None) => (None, None, Vec::new()),
        };
        self.log_failure(lease, name, &error, delay);
        let failed = FailedStep {
            lease: lease.clone(),
            name: name.to_owned(),
            elapsed,
            code: error.code.into(),
            class: error.class,
            message: error.message.clone(),
            delay,
            next,
            skipped,
        };
        let recorded = self.record_failure(failed).await;
        let outcome = match (recorded, delay) {
            (Recorded::Not, _) => "stale",
            (_, Some(_)) => "retried",
            (_, None) => "failed",
        };
        let told = Some((error.class.as_str(), error.code));
        self.tell(lease, definition, name, Ended { outcome, error: told, elapsed }).await;
        if recorded != Recorded::Not {
            telemetry::step_failed(&definition.name, name, error.class.as_str(), error.code);
        }
        count(if delay.is_some() { &self.counters.steps_retried } else { &self.counters.steps_failed });
        if recorded == Recorded::Not {
            self.note_stale(lease, name);
            return false;
        }
        if delay.is_none() && next.is_none() {
            if lease.chunk == 0 {
                telemetry::job_ended(&definition.name, "failed", Some(age_of(lease, claimed)));
                count(&self.counters.jobs_ended);
            }
            self.wake().signal();
        }
        if delay.is_some() {
            // The feeder sleeps exactly until the next backoff ends; this one may be earlier.
            self.wake().signal();
        }
        recorded == Recorded::Yes && next.is_some()
    }

    /// Until it is recorded or the lease is lost; the database may be away for a while. What the database refuses lets the
    /// lease run out, so that the job is parked in the end.
    pub(super) async fn record_failure(&self, failed: FailedStep) -> Recorded {
        let mut delays = committer::patience().build();
        let (mut conflicts, mut may_be_recorded) = (0, false);
        loop {
            let (attempt, worker, lease_time) = (failed.clone(), self.worker(), self.options().lease);
            let recorded = self
                .db()
                .unit(Scope::Global, move |connection| {
                    Box::pin(async move { store::fail_step(connection, &attempt, worker, lease_time).await })
                })
                .await;
            may_be_recorded |= matches!(recorded, Err(DbError::Unavailable(_)));
            match recorded {
                Ok(true) => return Recorded::Yes,
                Ok(false) => break,
                Err(_) if !self.holds(&failed.lease) => break,
                Err(DbError::Unavailable(_)) => {
                    tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(1))).await;
                }
                Err(DbError::Conflict(_) | DbError::TimedOut(_)) if conflicts < committer::CONFLICTS_MAX => {
                    conflicts += 1;
                    tokio::time::sleep(committer::after_conflict(conflicts)).await;
                }
                Err(error) => {
                    tracing::error!(job.id = %failed.lease.job, error = ?error, "cannot record a failed step of job {}; its lease will run out", failed.lease.job);
                    break;
                }
            }
        }
        if may_be_recorded && self.is_recorded(&failed).await {
            // The job stands at its next step, with nobody at work on it.
            self.hand_back(&failed.lease).await;
            return Recorded::Unanswered;
        }
        Recorded::Not
    }

    /// Was an earlier try recorded, and only its answer lost? The history tells. What it cannot be asked for long counts as not recorded.
    async fn is_recorded(&self, failed: &FailedStep) -> bool {
        let look = || async {
            let (lease, code, worker) = (failed.lease.clone(), failed.code.clone(), self.worker());
            self.db()
                .unit(Scope::Organization(lease.organization), move |connection| {
                    Box::pin(async move { store::is_failure_recorded(connection, &lease, &code, worker).await })
                })
                .await
        };
        let looked = look.retry(committer::patience().with_max_times(60)).when(DbError::may_pass).await;
        looked.unwrap_or_else(|error| {
            tracing::warn!(job.id = %failed.lease.job, error = ?error, "cannot look up whether a failed step of job {} is recorded", failed.lease.job);
            false
        })
    }

    pub(super) async fn fail_unknown(self: &Arc<Self>, lease: &Lease, error: CatalogError) {
        if let CatalogError::Db(DbError::Unavailable(_)) = &error {
            // Not a fault of the job: give it back.
            self.hand_back(lease).await;
            return;
        }
        tracing::error!(job.id = %lease.job, error = %error, "job {} cannot run: its workflow is not known here", lease.job);
        let failed = FailedStep {
            lease: lease.clone(),
            name: "?".to_owned(),
            elapsed: Duration::ZERO,
            code: "workflow_unknown".into(),
            class: ErrorClass::Ours,
            message: "The job's workflow version is not known to this program.".to_owned(),
            delay: None,
            next: None,
            skipped: Vec::new(),
        };
        if self.record_failure(failed).await == Recorded::Not {
            self.note_stale(lease, "?");
        } else {
            telemetry::job_ended(&lease.workflow, "failed", None);
            count(&self.counters.jobs_ended);
        }
    }

    /// Give a lease back for a while: no attempt was made. If that cannot be written, the lease runs out by itself.
    async fn put_off(&self, lease: &Lease, after: Duration) {
        let wanted = lease.clone();
        let written = self
            .db()
            .unit::<_, DbError, _>(Scope::Global, move |connection| {
                Box::pin(async move { store::put_off(connection, &wanted, after).await })
            })
            .await;
        match written {
            Ok(true) => self.wake().signal(),
            Ok(false) => self.note_stale(lease, "?"),
            Err(error) => tracing::warn!(job.id = %lease.job, error = ?error, "job {} could not be put off", lease.job),
        }
    }

    /// Give a lease back without counting the attempt.
    pub async fn hand_back(&self, lease: &Lease) {
        self.release(vec![(lease.key(), lease.epoch)], lease).await;
    }

    async fn release(&self, leases: Vec<(TaskKey, i64)>, lease: &Lease) {
        let back = self
            .db()
            .unit(Scope::Global, move |connection| {
                Box::pin(async move { store::release_tasks(connection, &leases, false).await })
            })
            .await;
        if let Err(error) = back {
            tracing::warn!(job.id = %lease.job, error = ?error, "could not hand back job {} or its successor; the lease will run out", lease.job);
        }
        self.wake().signal();
    }

    /// After a commit whose answer was lost: hand back the successor that it leased to this worker, if it did, and nobody here
    /// got.
    pub(super) async fn hand_back_successor(&self, lease: &Lease) {
        let Some(lane) = lease.lane else { return };
        let (organization, worker) = (lease.organization, self.worker());
        let found = self
            .db()
            .unit(Scope::Global, move |connection| {
                Box::pin(async move { lanes_store::head_of_lane(connection, organization, lane, worker).await })
            })
            .await;
        let held = self.held();
        match found {
            Ok(Some(successor)) if !held.contains(&successor) => self.release(vec![successor], lease).await,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(job.id = %lease.job, error = ?error, "could not look for the successor of job {}; its lease will run out", lease.job);
            }
        }
    }

    pub(super) fn note_stale(&self, lease: &Lease, step: &str) {
        count(&self.counters.stale_commits);
        tracing::warn!(job.id = %lease.job, step, lease.epoch, "a stale commit of job {} was refused: the lease is not ours any more", lease.job);
    }

    fn log_failure(&self, lease: &Lease, step: &str, error: &StepError, delay: Option<Duration>) {
        let cause = error.cause();
        let (job, code, class) = (lease.job, error.code, error.class.as_str());
        match (delay, error.class) {
            (Some(delay), _) => {
                let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(job.id = %job, step, code, class, delay_ms, cause, worker.id = %self.worker(), trace.id = trace_id(lease), "step `{step}` of job {job} failed and is tried again");
            }
            (None, ErrorClass::Sender) => {
                tracing::info!(job.id = %job, step, code, class, trace.id = trace_id(lease), "step `{step}` of job {job} refused the sender's data");
            }
            (None, _) => {
                tracing::error!(job.id = %job, step, code, class, cause, trace.id = trace_id(lease), "step `{step}` of job {job} failed for good");
            }
        }
    }
}
