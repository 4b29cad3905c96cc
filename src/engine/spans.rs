//! What telemetry is told of an attempt: its duration for the metrics, and its span in the trace of its job.

use super::committer;
use super::definition::WorkflowDefinition;
use super::executor::Engine;
use super::store::{Lease, LeaseTrace};
use super::traces_store;
use crate::db::{DbError, Scope};
use crate::telemetry::{self, traces};
use backon::Retryable as _;
use std::time::{Duration, SystemTime};

/// Questions for the trace of an attempt that failed, at most: over some four seconds if a database that is away refuses at once, and a
/// minute if it lets each connection wait.
const TRIES_MAX: usize = 10;

/// How an attempt of a step ended.
#[derive(Clone, Copy)]
pub(super) struct Ended<'a> {
    pub outcome: &'static str,
    pub error: Option<(&'static str, &'a str)>,
    pub elapsed: Duration,
}

impl Ended<'_> {
    pub(super) fn without_error(outcome: &'static str, elapsed: Duration) -> Self {
        Self { outcome, error: None, elapsed }
    }
}

impl Engine {
    /// Where the attempts of this lease belong, if nobody knows yet: a lane's successor comes without a claim, and the database may
    /// have been away when the claim asked. Then it is asked again when there is something to tell, so many times.
    pub(super) async fn find_trace(&self, lease: &mut Lease, tries: usize) {
        if !traces::are_on() || lease.trace != LeaseTrace::Unknown {
            return;
        }
        let wanted = &*lease;
        let look = || async {
            let mut wanted = vec![wanted.clone()];
            self.db()
                .unit::<_, DbError, _>(Scope::Organization(lease.organization), move |connection| {
                    Box::pin(async move {
                        traces_store::attach(connection, &mut wanted).await?;
                        Ok(wanted.pop().map(|lease| lease.trace))
                    })
                })
                .await
        };
        let delays = committer::patience().with_max_times(tries.saturating_sub(1));
        if let Ok(Some(trace)) = look.retry(delays).when(DbError::may_pass).await {
            lease.trace = trace;
        }
    }

    /// An attempt of a step ended just now.
    pub(super) async fn tell(&self, lease: &mut Lease, definition: &WorkflowDefinition, step: &str, ended: Ended<'_>) {
        let now = SystemTime::now();
        telemetry::step_ran(&definition.name, step, ended.outcome, ended.elapsed);
        // A failure because the database was away is told with its trace. What succeeded does not wait: a successor's lease runs.
        self.find_trace(lease, if ended.error.is_some() { TRIES_MAX } else { 1 }).await;
        let LeaseTrace::Known(Some(trace)) = &lease.trace else { return };
        traces::step(
            trace,
            traces::Attempt {
                organization: lease.organization.to_string(),
                job: lease.job.to_string(),
                workflow: &definition.name,
                version: definition.version,
                step,
                attempt: lease.attempts,
                round: lease.round,
                chunk: lease.chunk,
                worker: self.worker().to_string(),
                outcome: ended.outcome,
                error: ended.error,
                elapsed: ended.elapsed,
                ended: now,
            },
        );
    }
}

/// The trace's id for log lines; empty without one.
pub(super) fn trace_id(lease: &Lease) -> Option<String> {
    match &lease.trace {
        LeaseTrace::Known(Some(trace)) => Some(trace.parent.trace_id()),
        _ => None,
    }
}
