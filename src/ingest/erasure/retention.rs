//! Retention: what is older than the configuration keeps goes by itself. The contract is docs/erasure.md.
//!
//! Data: `retention_rounds` says how far an organization's jobs were walked through, in the order of their ids. A round takes a batch
//! of jobs a transaction: under the locks of its jobs and payloads, and of the holds, it is decided what goes, and written down as an erasure
//! of the kind `retention`, with its audit record; bytes and jobs go at once, events in the batches of the erasure, objects last.
//! Failure cases: whatever stops it, the decision is durable, and the sweeper finishes it like every erasure.

use super::{EraseError, Eraser, holds_store, retention_store};
use crate::audit::{self, Action, Actor, Record};
use crate::config::RetentionConfig;
use crate::db::{DbError, Scope};
use crate::ids::{ErasureId, JobId, OrganizationId};
use crate::ingest::linking::acts::By;
use serde_json::json;
use sqlx::PgConnection;
use std::collections::HashSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Jobs that one transaction looks at.
const JOBS: i64 = 200;
/// Between two rounds of an organization: ages are days.
const PAUSE: Duration = Duration::from_hours(6);
/// Between two looks whether a round is due.
const LOOK_EVERY: Duration = Duration::from_mins(5);
/// After so many batches in a row whose objects could not be deleted the organization's round rests: object storage is away.
const FAILURES_IN_A_ROW_MAX: usize = 3;
/// Between two batches, so that whoever waits for an answer does not wait for retention.
const BREATH: Duration = Duration::from_millis(50);

/// Lets go what is over its age. Any number of processes may.
#[derive(Clone)]
pub struct Retention {
    eraser: Eraser,
    config: RetentionConfig,
}

/// What became of a batch.
enum Batch {
    /// Nothing is due, or another process is at it.
    Rest,
    /// It was looked at; the erasure that came of it, and whether the round goes on.
    Looked(Option<ErasureId>, bool),
}

impl Retention {
    /// With these ages.
    #[must_use]
    pub fn new(eraser: Eraser, config: RetentionConfig) -> Self {
        Self { eraser, config }
    }

    /// Walk through all organizations, where a round is due, to its end. How many batches took something away.
    ///
    /// # Errors
    /// The first [`EraseError`]; the other organizations were walked through, and what was decided goes on.
    pub async fn round(&self) -> Result<usize, EraseError> {
        if self.config.shortest().is_none() {
            return Ok(0);
        }
        let organizations: Vec<OrganizationId> = self
            .eraser
            .db
            .unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(super::store::organizations(connection)))
            .await?;
        let (mut taken, mut failed) = (0, None);
        for organization in organizations {
            if let Err(error) = self.walk(organization, &mut taken).await {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(taken), Err)
    }

    /// One organization's round, to its end. Objects that cannot be deleted are left to the sweeper.
    async fn walk(&self, organization: OrganizationId, taken: &mut usize) -> Result<(), EraseError> {
        let (mut failed, mut failures) = (None, 0);
        while let Batch::Looked(erasure, goes_on) = self.batch(organization).await? {
            if let Some(id) = erasure {
                *taken += 1;
                match self.eraser.finish_one(organization, id, &self.by()).await {
                    Ok(()) => failures = 0,
                    Err(error @ EraseError::Objects(_)) => {
                        failed.get_or_insert(error);
                        failures += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
            if !goes_on || failures >= FAILURES_IN_A_ROW_MAX {
                break;
            }
            tokio::time::sleep(BREATH).await;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Decide about the next jobs of an organization and let their bytes and rows go, without waiting for events and objects: so much of a
    /// [`Retention::round`] is left behind by a process that dies.
    ///
    /// # Errors
    /// [`EraseError`].
    pub async fn decide(&self, organization: OrganizationId) -> Result<(), EraseError> {
        self.batch(organization).await.map(|_| ())
    }

    async fn batch(&self, organization: OrganizationId) -> Result<Batch, EraseError> {
        let (config, by) = (self.config, self.by());
        self.eraser
            .again(organization, move |connection| {
                let by = by.clone();
                Box::pin(async move { decide(connection, organization, config, &by).await })
            })
            .await
    }

    fn by(&self) -> By {
        let days = |days: Option<u32>| days.unwrap_or_default();
        let RetentionConfig { jobs_days, payloads_days, findings_days } = self.config;
        let reason = format!(
            "retention of jobs {} d, payloads {} d, findings {} d (0: kept)",
            days(jobs_days),
            days(payloads_days),
            days(findings_days)
        );
        By { actor: Actor::internal("retention"), reason }
    }

    /// Walk whenever a round is due, until cancelled.
    pub async fn run(self, stop: CancellationToken) {
        if self.config.shortest().is_none() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let done = tokio::select! {
                () = stop.cancelled() => return,
                done = self.round() => done,
            };
            match done {
                Ok(0) => {}
                Ok(batches) => {
                    tracing::info!(batches, "retention let go what was over its age, in {batches} batch(es)");
                }
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "retention cannot go on now; it is tried again"
                ),
            }
        }
    }
}

/// One transaction: look at the next jobs, and write down what goes.
async fn decide(
    connection: &mut PgConnection,
    organization: OrganizationId,
    config: RetentionConfig,
    by: &By,
) -> Result<Batch, EraseError> {
    let round = retention_store::take_round(connection, organization, PAUSE.as_secs_f64()).await?;
    let Some((true, after)) = round else { return Ok(Batch::Rest) };
    let look = retention_store::look(connection, organization, config, after, JOBS).await?;
    retention_store::set_round(connection, organization, look.last).await?;
    let ids: Vec<JobId> = look.jobs.iter().map(|job| job.id).collect();
    let hashes: Vec<Vec<u8>> = look.jobs.iter().filter_map(|job| job.payload_sha256.clone()).collect();
    let held = holds_store::held_of(connection, organization, &ids, &hashes).await?;
    let held_jobs: HashSet<JobId> = held.jobs.into_iter().collect();
    let held_payloads: HashSet<Vec<u8>> = held.payloads.into_iter().collect();
    let mut jobs: Vec<_> = look.jobs.into_iter().filter(|job| !held_jobs.contains(&job.id)).collect();
    for job in &mut jobs {
        job.payload_goes &= job.payload_sha256.as_ref().is_none_or(|sha256| !held_payloads.contains(sha256));
    }
    let goes_on = look.last.is_some();
    let id = ErasureId::new();
    let gone = retention_store::begin(connection, organization, id, config, &jobs, by).await?;
    let Some(gone) = gone else { return Ok(Batch::Looked(None, goes_on)) };
    let mut record = Record::new(organization, "retention.begun", Action::Delete, &by.actor);
    record.purpose = Some(&by.reason);
    record.detail = Some(json!({
        "erasure": id, "payloads": gone.payloads, "jobs": gone.jobs, "findings_of_jobs": gone.findings, "held_jobs": held_jobs.len(),
    }));
    audit::append(connection, record).await?;
    Ok(Batch::Looked(Some(id), goes_on))
}
