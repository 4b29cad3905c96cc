//! Submitting: the one transaction behind a 202. Concurrent requests share it ([`batcher`]).
//!
//! Data: idempotency record, payload (exact bytes), queue row, job, audit record. States: the job is `queued`. Failure
//! cases: the database away → [`SubmitError::Db`], nothing was accepted as far as the caller knows; a lost
//! COMMIT reply → the same, and the repeated request finds the first job by its key.

pub mod batcher;

use self::batcher::{Batcher, Item};
use super::athena::submit::EventBatch;
use crate::audit::Actor;
use crate::db::{Db, DbError};
use crate::engine::definition::{Ordering, WorkflowDefinition};
use crate::engine::handler::ErrorClass;
use crate::engine::jobs::parse_class;
use crate::engine::jobs_store::{self, Acted, ChunksAgain, NextRound};
use crate::engine::state::JobStatus;
use crate::engine::store::PROGRAM_VERSION;
use crate::engine::traces_store::{self, Begun};
use crate::engine::wake::Wake;
use crate::ids::{JobId, OrganizationId};
use crate::phi::Phi;
use crate::telemetry::traces::TraceContext;
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::QueryAs;
use sqlx::{Connection as _, FromRow, PgConnection, Postgres};
use std::collections::BTreeMap;
use std::sync::Arc;
use time::OffsetDateTime;

/// Bodies over this size never share a transaction: they would make the small ones wait.
const SHARED_BODY_MAX: usize = 256 * 1024;

/// What is submitted.
#[derive(Clone)]
pub struct Submission {
    /// Whose data.
    pub organization: OrganizationId,
    /// The workflow's loaded version.
    pub workflow: Arc<WorkflowDefinition>,
    /// webhook, athena or upload.
    pub source: &'static str,
    /// Label of the sending system.
    pub source_label: String,
    /// The sender's `Idempotency-Key`, if it gave one; it may name a patient.
    pub idempotency_key: Option<Phi<String>>,
    /// What jobs of a `patient` lane share.
    pub ordering_key: Option<Phi<String>>,
    /// The exact bytes.
    pub body: Phi<Bytes>,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// What a repetition has in common with the first: the SHA-256 of the bytes, or of what they mean.
    pub fingerprint: [u8; 32],
    /// Their media type.
    pub content_type: String,
    /// Entries by resource type.
    pub resource_count: BTreeMap<String, u32>,
    /// Who sent it.
    pub actor: Actor,
}

impl Submission {
    /// The key under which a repetition is recognized, within the organization and the workflow: hashes only.
    pub(super) fn key(&self) -> String {
        match &self.idempotency_key {
            Some(key) => format!("key:{}", hex::encode(Sha256::digest(key.expose()))),
            None => format!("sha256:{}", hex::encode(self.fingerprint)),
        }
    }

    /// 64 bits of (organization, workflow, ordering key): no PHI, and usable as an advisory lock's key. A collision
    /// only makes two lanes wait for each other.
    pub(super) fn lane(&self) -> Option<i64> {
        let ordering_key = match self.workflow.ordering {
            Ordering::None => return None,
            Ordering::Organization => "",
            Ordering::Patient => self.ordering_key.as_ref()?.expose(),
        };
        let mut digest = Sha256::new();
        digest.update(self.organization.0.as_bytes());
        digest.update(self.workflow.name.as_bytes());
        digest.update([0]);
        digest.update(ordering_key.as_bytes());
        let digest: [u8; 32] = digest.finalize().into();
        digest.first_chunk::<8>().map(|bytes| i64::from_be_bytes(*bytes))
    }
}

/// What became of a submission.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The job: a new one, or the first one of the same key.
    pub job: JobId,
    /// It is the first one's.
    pub duplicate: bool,
    /// The first one had failed for a reason that was not the sender's, and this re-send opened its next round.
    pub retried: bool,
    /// The job's stored status.
    pub status: JobStatus,
    /// When the job was accepted.
    pub created_at: OffsetDateTime,
}

/// Why nothing was accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The idempotency key belongs to other content.
    #[error("the idempotency key was used with other content")]
    KeyReused,
    /// The bytes were erased.
    #[error("the payload was erased")]
    Purged,
    /// Too many requests are waiting.
    #[error("too many submissions are waiting")]
    Overloaded,
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// A submission that has its id.
pub struct NewJob {
    id: JobId,
    submission: Submission,
}

/// What the transaction says of one submission.
#[derive(Clone, FromRow)]
pub struct Row {
    pub(super) ordinal: i32,
    pub(super) outcome: String,
    job_id: JobId,
    created_at: OffsetDateTime,
    job_status: String,
    error_class: Option<String>,
    round: i32,
}

impl Item for NewJob {
    type Answer = Row;

    fn is_large(&self) -> bool {
        self.submission.body.expose().len() > SHARED_BODY_MAX
    }

    fn order(&self) -> (uuid::Uuid, String) {
        (self.submission.organization.0, format!("{}:{}", self.submission.workflow.name, self.submission.key()))
    }

    async fn commit(connection: &mut PgConnection, batch: &[Self]) -> Result<Vec<Row>, DbError> {
        let jobs: Vec<(JobId, &Submission)> = batch.iter().map(|new| (new.id, &new.submission)).collect();
        let query = sqlx::query_as(
            "select *
             from submit_jobs($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)",
        );
        let query = bind_jobs(query, &jobs);
        let mut rows: Vec<Row> = if are_traced(&jobs) {
            let mut transaction = connection.begin().await?;
            let rows: Vec<Row> = query.fetch_all(&mut *transaction).await?;
            let begun = begun(&jobs, rows.iter());
            traces_store::note(&mut transaction, begun).await?;
            transaction.commit().await?;
            rows
        } else {
            query.fetch_all(connection).await?
        };
        rows.sort_by_key(|row| row.ordinal);
        Ok(rows)
    }
}

/// Is there a trace to be kept? Then what keeps it joins the transaction, which is one statement otherwise.
pub(super) fn are_traced(jobs: &[(JobId, &Submission)]) -> bool {
    jobs.iter().any(|(_, submission)| submission.actor.trace.is_some_and(TraceContext::is_sampled))
}

/// The first rounds of those that became jobs: under the ids that they brought.
pub(super) fn begun<'r>(jobs: &[(JobId, &Submission)], rows: impl Iterator<Item = &'r Row>) -> Vec<Begun> {
    rows.filter_map(|row| {
        let place = usize::try_from(row.ordinal).ok()?.checked_sub(1)?;
        let (job, submission) = jobs.get(place).filter(|(job, _)| *job == row.job_id)?;
        Begun::by(submission.organization, *job, 1, submission.actor.trace)
    })
    .collect()
}

/// The twenty arrays that `submit_jobs` takes: one element a submission, but for the locks and the program's version.
pub(super) fn bind_jobs<'q, R: for<'r> FromRow<'r, PgRow>>(
    query: QueryAs<'q, Postgres, R, PgArguments>,
    jobs: &[(JobId, &Submission)],
) -> QueryAs<'q, Postgres, R, PgArguments> {
    let lanes: Vec<Option<i64>> = jobs.iter().map(|(_, submission)| submission.lane()).collect();
    let mut locks: Vec<i64> = lanes.iter().copied().flatten().collect();
    locks.sort_unstable();
    locks.dedup();
    macro_rules! column {
        ($get:expr) => {
            jobs.iter().map(|(_, submission)| *submission).map($get).collect::<Vec<_>>()
        };
    }
    query
        .bind(column!(|submission| submission.organization.0))
        .bind(jobs.iter().map(|(job, _)| job.0).collect::<Vec<_>>())
        .bind(column!(|submission| submission.workflow.name.clone()))
        .bind(column!(|submission| submission.workflow.version))
        .bind(column!(|submission| submission.source))
        .bind(column!(|submission| submission.source_label.clone()))
        .bind(column!(|submission| submission.workflow.name.clone()))
        .bind(column!(Submission::key))
        .bind(column!(|submission| submission.fingerprint.to_vec()))
        .bind(column!(|submission| submission.sha256.to_vec()))
        .bind(column!(|submission| submission.body.expose().to_vec()))
        .bind(column!(|submission| submission.content_type.clone()))
        .bind(lanes)
        .bind(column!(|submission| submission.workflow.priority))
        .bind(column!(|submission| serde_json::to_value(&submission.resource_count).unwrap_or(Value::Null)))
        .bind(column!(|submission| submission.actor.name.clone()))
        .bind(column!(|submission| submission.actor.request_id.clone()))
        .bind(column!(|submission| submission.actor.address.clone()))
        .bind(locks)
        .bind(PROGRAM_VERSION)
}

/// Accepts submissions; cheap to clone.
#[derive(Clone)]
pub struct Submitter {
    db: Db,
    wake: Wake,
    jobs: Batcher<NewJob>,
    pub(super) events: Batcher<EventBatch>,
}

impl Submitter {
    /// A submitter with its committers, which live until the last clone is dropped.
    #[must_use]
    pub fn start(db: Db, wake: Wake) -> Self {
        let jobs = Batcher::start(db.clone(), wake.clone());
        let events = Batcher::start(db.clone(), wake.clone());
        Self { db, wake, jobs, events }
    }

    /// Record a job durably, or find the first one of the same key. Safe to drop: the transaction goes on by itself.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(&self, submission: Submission) -> Result<Submitted, SubmitError> {
        let organization = submission.organization;
        let (workflow, actor) = (Arc::clone(&submission.workflow), submission.actor.clone());
        let row = self.jobs.submit(NewJob { id: JobId::new(), submission }).await?;
        self.conclude(organization, &workflow, actor, row).await
    }

    /// What the sender is told; and the next round of a first job that failed through no fault of the sender's.
    pub(super) async fn conclude(
        &self,
        organization: OrganizationId,
        workflow: &WorkflowDefinition,
        actor: Actor,
        row: Row,
    ) -> Result<Submitted, SubmitError> {
        let status = JobStatus::parse(&row.job_status).unwrap_or(JobStatus::Queued);
        let mut submitted = Submitted {
            job: row.job_id,
            duplicate: row.outcome != "accepted",
            retried: false,
            status,
            created_at: row.created_at,
        };
        if row.outcome == "purged" {
            return Err(SubmitError::Purged);
        }
        if row.outcome == "mismatch" {
            return Err(SubmitError::KeyReused);
        }
        let class = row.error_class.as_deref().and_then(parse_class);
        if submitted.duplicate
            && status == JobStatus::Failed
            && matches!(class, Some(ErrorClass::Transient | ErrorClass::Ours))
        {
            let (job, next) = (row.job_id, NextRound::at(workflow, row.round, 0, ChunksAgain::All));
            let acted = self
                .db
                .unit(crate::db::Scope::Organization(organization), move |connection| {
                    Box::pin(async move {
                        jobs_store::retry_job(connection, organization, job, next, &actor, Some("sent again")).await
                    })
                })
                .await?;
            // Refused: another re-send was faster; the round is its.
            submitted.retried = acted == Acted::Done;
            submitted.status = JobStatus::Queued;
            self.wake.signal();
        }
        Ok(submitted)
    }
}
