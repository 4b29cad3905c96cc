//! Submitting: the one transaction behind a 202. Concurrent requests share it (micro-batching): a committer takes what
//! has gathered while the last batch committed, sorts it and calls `submit_jobs` once. Each request is answered only
//! after the commit; a batch that fails as a whole is repeated request by request.
//!
//! Data: idempotency record, payload (exact bytes), queue row, job, audit record. States: the job is `queued`. Failure
//! cases: the database away → [`SubmitError::Db`], nothing was accepted as far as the caller knows; a lost
//! COMMIT reply → the same, and the repeated request finds the first job by its key.

use crate::audit::Actor;
use crate::db::{Db, DbError};
use crate::engine::definition::{Ordering, WorkflowDefinition};
use crate::engine::handler::ErrorClass;
use crate::engine::jobs::parse_class;
use crate::engine::jobs_store::{self, Acted, NextRound};
use crate::engine::state::JobStatus;
use crate::engine::store::PROGRAM_VERSION;
use crate::engine::wake::Wake;
use crate::ids::{JobId, OrganizationId};
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::{FromRow, PgConnection};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Requests of one batch, at most.
const BATCH_MAX: usize = 64;
/// Bodies over this size never share a transaction: they would make the small ones wait.
const SHARED_BODY_MAX: usize = 256 * 1024;
/// Those bodies under way at once; each takes a connection of its own, of which PostgreSQL has few.
const LARGE_BODIES_MAX: usize = 8;
/// Requests waiting for a batch, at most; beyond that the intake is overloaded and says so.
const WAITING_MAX: usize = 2048;

/// What is submitted.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Whose data.
    pub organization: OrganizationId,
    /// The workflow's loaded version.
    pub workflow: Arc<WorkflowDefinition>,
    /// webhook, athena or upload.
    pub source: &'static str,
    /// Label of the sending system.
    pub source_label: String,
    /// The sender's `Idempotency-Key`, if it gave one.
    pub idempotency_key: Option<String>,
    /// What jobs of a `patient` lane share.
    pub ordering_key: Option<String>,
    /// The exact bytes.
    pub body: Bytes,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// Their media type.
    pub content_type: String,
    /// Entries by resource type.
    pub resource_count: BTreeMap<String, u32>,
    /// Who sent it.
    pub actor: Actor,
}

impl Submission {
    /// The key under which a repetition is recognized, within the organization and the workflow.
    fn key(&self) -> String {
        match &self.idempotency_key {
            Some(key) => format!("key:{key}"),
            None => format!("sha256:{}", hex::encode(self.sha256)),
        }
    }

    /// 64 bits of (organization, workflow, ordering key): no PHI, and usable as an advisory lock's key. A collision
    /// only makes two lanes wait for each other.
    fn lane(&self) -> Option<i64> {
        let ordering_key = match self.workflow.ordering {
            Ordering::None => return None,
            Ordering::Organization => "",
            Ordering::Patient => self.ordering_key.as_deref()?,
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
    /// Too many requests are waiting.
    #[error("too many submissions are waiting")]
    Overloaded,
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

struct Request {
    job: JobId,
    submission: Submission,
    reply: oneshot::Sender<Result<Row, SubmitError>>,
}

#[derive(Debug, Clone, FromRow)]
struct Row {
    ordinal: i32,
    outcome: String,
    job_id: JobId,
    created_at: OffsetDateTime,
    job_status: String,
    error_class: Option<String>,
    round: i32,
}

/// Accepts submissions; cheap to clone.
#[derive(Clone)]
pub struct Submitter {
    db: Db,
    wake: Wake,
    requests: mpsc::Sender<Request>,
    large_bodies: Arc<Semaphore>,
}

impl Submitter {
    /// A submitter and its committer, which lives until the last clone is dropped.
    #[must_use]
    pub fn start(db: Db, wake: Wake) -> Self {
        let (requests, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(commit_batches(db.clone(), wake.clone(), receiver));
        Self { db, wake, requests, large_bodies: Arc::new(Semaphore::new(LARGE_BODIES_MAX)) }
    }

    /// Record a job durably, or find the first one of the same key. Safe to drop: the transaction goes on by itself.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(&self, submission: Submission) -> Result<Submitted, SubmitError> {
        let organization = submission.organization;
        let (workflow, actor) = (Arc::clone(&submission.workflow), submission.actor.clone());
        let request_body = submission.body.len();
        let (reply, answer) = oneshot::channel();
        let request = Request { job: JobId::new(), submission, reply };
        if request_body > SHARED_BODY_MAX {
            let (db, wake, large_bodies) = (self.db.clone(), self.wake.clone(), Arc::clone(&self.large_bodies));
            // In a task of its own: a sender that hangs up must not cut the transaction.
            tokio::spawn(async move {
                let _turn = large_bodies.acquire_owned().await;
                let mut connection = None;
                commit_one(&db, &mut connection, request).await;
                wake.signal();
            });
        } else {
            self.requests.try_send(request).map_err(|_| SubmitError::Overloaded)?;
        }
        let row = answer.await.map_err(|_| SubmitError::Db(DbError::Panicked))??;
        self.conclude(organization, &workflow, actor, row).await
    }

    async fn conclude(
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
        if row.outcome == "mismatch" {
            return Err(SubmitError::KeyReused);
        }
        let class = row.error_class.as_deref().and_then(parse_class);
        if submitted.duplicate
            && status == JobStatus::Failed
            && matches!(class, Some(ErrorClass::Transient | ErrorClass::Ours))
        {
            let (job, next) = (row.job_id, NextRound { after: row.round, step: 0, version: workflow.version });
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

async fn commit_batches(db: Db, wake: Wake, mut requests: mpsc::Receiver<Request>) {
    let mut connection: Option<PgConnection> = None;
    loop {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        if requests.recv_many(&mut batch, BATCH_MAX).await == 0 {
            return;
        }
        // Two batches of two processes cannot deadlock on keys that both take in the same order.
        batch.sort_by_cached_key(|request| {
            (request.submission.organization, request.submission.workflow.name.clone(), request.submission.key())
        });
        match commit(&db, &mut connection, &batch).await {
            Ok(rows) => {
                let mut rows: BTreeMap<i32, Row> = rows.into_iter().map(|row| (row.ordinal, row)).collect();
                for (index, request) in batch.into_iter().enumerate() {
                    let row = i32::try_from(index + 1).ok().and_then(|ordinal| rows.remove(&ordinal));
                    let _ = request.reply.send(row.ok_or(SubmitError::Db(DbError::NotOneRow(0))));
                }
            }
            Err(error) => {
                tracing::warn!(requests = batch.len(), error = ?error, "a batch of submissions failed; they are committed one by one");
                for request in batch {
                    commit_one(&db, &mut connection, request).await;
                }
            }
        }
        wake.signal();
    }
}

/// One request by itself: a lost race is repeated at once, a database that is away once on a fresh connection.
async fn commit_one(db: &Db, connection: &mut Option<PgConnection>, request: Request) {
    let mut tries = 0u64;
    let result = loop {
        tries += 1;
        match commit(db, connection, std::slice::from_ref(&request)).await {
            Ok(mut rows) => break rows.pop().ok_or(SubmitError::Db(DbError::NotOneRow(0))),
            Err(DbError::Conflict(_)) if tries < 6 => tokio::time::sleep(Duration::from_millis(5 * tries)).await,
            Err(DbError::Unavailable(_)) if tries < 2 => {}
            Err(error) => break Err(error.into()),
        }
    };
    let _ = request.reply.send(result);
}

async fn commit(db: &Db, connection: &mut Option<PgConnection>, batch: &[Request]) -> Result<Vec<Row>, DbError> {
    if connection.is_none() {
        *connection = Some(db.dedicated().await?);
    }
    let Some(open) = connection.as_mut() else { return Err(DbError::Panicked) };
    let result = submit_jobs(open, batch).await;
    if matches!(result, Err(DbError::Unavailable(_) | DbError::Driver(_))) {
        *connection = None;
    }
    result
}

async fn submit_jobs(connection: &mut PgConnection, batch: &[Request]) -> Result<Vec<Row>, DbError> {
    let lanes: Vec<Option<i64>> = batch.iter().map(|request| request.submission.lane()).collect();
    let mut locks: Vec<i64> = lanes.iter().copied().flatten().collect();
    locks.sort_unstable();
    locks.dedup();
    macro_rules! column {
        ($get:expr) => {
            batch.iter().map($get).collect::<Vec<_>>()
        };
    }
    Ok(sqlx::query_as(
        "select * from submit_jobs($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
    )
    .bind(column!(|request| request.submission.organization.0))
    .bind(column!(|request| request.job.0))
    .bind(column!(|request| request.submission.workflow.name.as_str()))
    .bind(column!(|request| request.submission.workflow.version))
    .bind(column!(|request| request.submission.source))
    .bind(column!(|request| request.submission.source_label.as_str()))
    .bind(column!(|request| request.submission.workflow.name.as_str()))
    .bind(column!(|request| request.submission.key()))
    .bind(column!(|request| &request.submission.sha256[..]))
    .bind(column!(|request| &request.submission.body[..]))
    .bind(column!(|request| request.submission.content_type.as_str()))
    .bind(lanes)
    .bind(column!(|request| request.submission.workflow.priority))
    .bind(column!(|request| serde_json::to_value(&request.submission.resource_count).unwrap_or(Value::Null)))
    .bind(column!(|request| request.submission.actor.name.as_str()))
    .bind(column!(|request| request.submission.actor.request_id.as_deref()))
    .bind(column!(|request| request.submission.actor.address.as_deref()))
    .bind(locks)
    .bind(PROGRAM_VERSION)
    .fetch_all(connection)
    .await?)
}

/// One small Bundle by itself on that connection, without the batching: the yardstick of `bench intake`.
///
/// # Errors
/// [`DbError`].
pub async fn submit_alone(
    connection: &mut PgConnection,
    organization: OrganizationId,
    workflow: Arc<WorkflowDefinition>,
    body: Bytes,
) -> Result<(), DbError> {
    let (reply, _) = oneshot::channel();
    let submission = Submission {
        organization,
        workflow,
        source: "webhook",
        source_label: "default".to_owned(),
        idempotency_key: None,
        ordering_key: None,
        sha256: Sha256::digest(&body).into(),
        body,
        content_type: "application/fhir+json".to_owned(),
        resource_count: BTreeMap::new(),
        actor: Actor::internal("bench"),
    };
    submit_jobs(connection, &[Request { job: JobId::new(), submission, reply }]).await?;
    Ok(())
}
