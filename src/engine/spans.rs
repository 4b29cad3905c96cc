//! What telemetry is told of an attempt: its duration for the metrics, and its span in the trace of its job.

use super::definition::WorkflowDefinition;
use super::executor::Engine;
use super::store::{Lease, LeaseTrace};
use super::traces_store;
use crate::db::{DbError, Scope};
use crate::telemetry::{self, traces};
use std::time::Duration;

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
    /// Where the attempts of this lease belong, if the claim did not tell: a lane's successor comes without a claim.
    pub(super) async fn find_trace(&self, lease: &mut Lease) {
        if !traces::are_on() || lease.trace != LeaseTrace::Unknown {
            return;
        }
        let mut wanted = vec![lease.clone()];
        let found = self
            .db()
            .unit::<_, DbError, _>(Scope::Organization(lease.organization), move |connection| {
                Box::pin(async move {
                    traces_store::attach(connection, &mut wanted).await?;
                    Ok(wanted.pop().map(|lease| lease.trace))
                })
            })
            .await;
        // Of a database that is away just now nothing is asked again: the job goes on without spans.
        lease.trace = found.ok().flatten().unwrap_or(LeaseTrace::Known(None));
    }

    /// An attempt of a step ended.
    pub(super) fn tell(&self, lease: &Lease, definition: &WorkflowDefinition, step: &str, ended: Ended<'_>) {
        telemetry::step_ran(&definition.name, step, ended.outcome, ended.elapsed);
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
