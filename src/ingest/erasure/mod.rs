//! Erasure of payloads with everything that was taken from them, and legal holds that keep it from being erased. The
//! contract is docs/erasure.md.
//!
//! Data: a row of `erasures` from the decision on, and of `erased_objects` for each object that must go. States: `rows` →
//! `objects` → `finished`; each move is one transaction. The first one takes the payload's content away, so that from its commit on
//! nobody reads it; the rest follows in batches. Failure cases: whatever stops it, the row says how far it came, and the same
//! call again goes on there, and so does the sweeper.

pub mod holds_store;
mod store;

use self::store::{Marked, Unfinished};
use super::linking::acts::By;
use super::linking::erase::{self, Counts};
use crate::audit::{self, Action, Actor, Record};
use crate::db::{Db, DbError, Scope};
use crate::ids::{ErasureId, JobId, OrganizationId};
use crate::objects::{ObjectError, Objects};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Events of one transaction.
const BATCH: i64 = 500;
/// A batch that lost against a concurrent transaction is run again, at most so often.
const RUNS_MAX: usize = 8;
/// Keys of one listing below a prefix.
const PAGE: i32 = 1_000;
/// How often the sweeper looks for erasures that somebody began and did not finish.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Why nothing was erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The organization has no such payload.
    #[error("no such payload")]
    PayloadNotFound,
    /// It must be kept.
    #[error("a legal hold forbids it")]
    Held,
    /// A job of it has not ended.
    #[error("a job of the payload has not ended")]
    JobNotFinished,
    /// Object storage; the rows are erased, and the objects wait.
    #[error("objects cannot be deleted")]
    Objects(#[source] ObjectError),
    /// See there.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// How far an erasure is.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Erasure {
    /// Its id; none of a dry run.
    #[schema(value_type = Option<String>, example = "ers_01h455vb4pex5vsknk084sn02q")]
    pub erasure_id: Option<ErasureId>,
    /// `planned` (a dry run: nothing was changed), `rows` or `objects` (it goes on by itself, or with the same call) or
    /// `finished`.
    #[schema(example = "finished")]
    pub status: String,
    /// SHA-256 of the payload, in hexadecimal.
    pub payload: String,
    /// Rows that went (or would), by table; `objects`: of the object store; `handed_over`: events that stay because another
    /// payload brought them as well.
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    pub counts: Counts,
}

/// Erases. Cheap to clone.
#[derive(Clone)]
pub struct Eraser {
    db: Db,
    objects: Objects,
}

impl Eraser {
    /// Over this database and this object storage.
    #[must_use]
    pub fn new(db: Db, objects: Objects) -> Self {
        Self { db, objects }
    }

    /// What erasing a payload would take away: it is done, counted, and taken back in the same transaction.
    ///
    /// # Errors
    /// [`EraseError`].
    pub async fn rehearse(
        &self,
        organization: OrganizationId,
        sha256: [u8; 32],
        by: By,
    ) -> Result<Erasure, EraseError> {
        for _ in 0..RUNS_MAX {
            let acting = by.clone();
            let done = self
                .db
                .unit::<(), Rehearsed, _>(Scope::Organization(organization), move |connection| {
                    let by = acting;
                    Box::pin(async move {
                        let marked = mark(connection, organization, &sha256, &by).await?;
                        let mut counts = marked.counts;
                        while erase::erase_some(connection, organization, &marked.jobs, BATCH, &by, &mut counts).await?
                        {
                        }
                        for (table, rows) in store::clear_jobs(connection, organization, &marked.jobs).await? {
                            *counts.entry(table.to_owned()).or_default() += rows;
                        }
                        let objects = store::objects(connection, organization, marked.id, PAGE).await?;
                        // The transaction ends here, and leaves nothing.
                        Err(Rehearsed::Done(counts, objects))
                    })
                })
                .await;
            match done {
                Err(Rehearsed::Done(mut counts, objects)) => {
                    let mut there = 0;
                    for object in objects {
                        there += self.count_objects(&object.storage_key, object.is_prefix).await?;
                    }
                    counts.insert("objects".to_owned(), there);
                    counts.retain(|_, rows| *rows > 0);
                    let detail = json!({ "counts": &counts });
                    self.again(organization, move |connection| {
                        let (by, detail) = (by.clone(), detail.clone());
                        Box::pin(async move {
                            let mut record =
                                Record::new(organization, "payload.purge_planned", Action::Read, &by.actor);
                            record.body_sha256 = Some(&sha256);
                            record.purpose = Some(&by.reason);
                            record.detail = Some(detail);
                            Ok(audit::append(connection, record).await?)
                        })
                    })
                    .await?;
                    let (payload, status) = (hex::encode(sha256), "planned".to_owned());
                    return Ok(Erasure { erasure_id: None, status, payload, counts });
                }
                Err(Rehearsed::Failed(EraseError::Db(DbError::Conflict(_)))) => {}
                Err(Rehearsed::Failed(error)) => return Err(error),
                Ok(()) => break,
            }
        }
        Err(DbError::stale().into())
    }

    /// Erase a payload. The decision is durable when the first transaction commits; then this works until it is done or
    /// `within` is over. The same call again goes on, or tells how it ended.
    ///
    /// # Errors
    /// [`EraseError`].
    pub async fn purge(
        &self,
        organization: OrganizationId,
        sha256: [u8; 32],
        by: By,
        within: Duration,
    ) -> Result<Erasure, EraseError> {
        let until = Instant::now() + within;
        let decided = by.clone();
        let id = self
            .again(organization, move |connection| {
                let by = decided.clone();
                Box::pin(async move { Ok(mark(connection, organization, &sha256, &by).await?.id) })
            })
            .await?;
        let mut state = self.state(organization, id).await?;
        while state.status != "finished" && Instant::now() < until {
            self.go_on(organization, id, &by).await?;
            state = self.state(organization, id).await?;
        }
        Ok(state)
    }

    /// One step of an erasure: a batch of rows, the end of the rows, or its objects.
    async fn go_on(&self, organization: OrganizationId, id: ErasureId, by: &By) -> Result<(), EraseError> {
        let by = by.clone();
        let left = self
            .again(organization, move |connection| {
                let by = by.clone();
                Box::pin(async move { clear(connection, organization, id, &by).await })
            })
            .await?;
        if left {
            return Ok(());
        }
        let objects = self
            .again(organization, move |connection| {
                Box::pin(async move { Ok(store::objects(connection, organization, id, PAGE).await?) })
            })
            .await?;
        for object in objects {
            let deleted = self.delete_objects(&object.storage_key, object.is_prefix).await?;
            let key = object.storage_key;
            self.again(organization, move |connection| {
                let key = key.clone();
                Box::pin(async move { Ok(store::object_gone(connection, organization, id, &key, deleted).await?) })
            })
            .await?;
        }
        self.again(organization, move |connection| {
            Box::pin(async move {
                if let Some(ended) = store::finish(connection, organization, id).await? {
                    let actor = Actor { name: ended.actor, ..Actor::internal("erasure") };
                    let mut record = Record::new(organization, "payload.purged", Action::Delete, &actor);
                    record.body_sha256 = ended.payload_sha256.as_deref();
                    record.purpose = Some(&ended.reason);
                    record.detail = Some(json!({ "counts": ended.counts.0 }));
                    audit::append(connection, record).await?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn state(&self, organization: OrganizationId, id: ErasureId) -> Result<Erasure, EraseError> {
        self.again(organization, move |connection| {
            Box::pin(async move {
                let row = store::erasure(connection, organization, id, false).await?;
                Ok(Erasure {
                    erasure_id: Some(id),
                    status: row.status,
                    payload: row.payload_sha256.map(hex::encode).unwrap_or_default(),
                    counts: row.counts.0,
                })
            })
        })
        .await
    }

    /// A unit of work, again where it lost against a concurrent transaction.
    async fn again<T, F>(&self, organization: OrganizationId, work: F) -> Result<T, EraseError>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> futures::future::BoxFuture<'c, Result<T, EraseError>>
            + Clone
            + Send
            + 'static,
    {
        let mut runs = 0;
        loop {
            runs += 1;
            let work = work.clone();
            match self.db.unit(Scope::Organization(organization), move |connection| work(connection)).await {
                Err(EraseError::Db(DbError::Conflict(_))) if runs < RUNS_MAX => {}
                other => return other,
            }
        }
    }

    async fn count_objects(&self, key: &str, is_prefix: bool) -> Result<u64, EraseError> {
        if !is_prefix {
            return Ok(u64::from(self.objects.head(key).await.map_err(EraseError::Objects)?.is_some()));
        }
        let page = self.objects.list(key, None, PAGE).await.map_err(EraseError::Objects)?;
        Ok(u64::try_from(page.len()).unwrap_or(u64::MAX))
    }

    /// Delete an object, or all below a prefix, with their versions; how many there were.
    async fn delete_objects(&self, key: &str, is_prefix: bool) -> Result<u64, EraseError> {
        if !is_prefix {
            let there = self.objects.head(key).await.map_err(EraseError::Objects)?.is_some();
            self.objects.purge(key).await.map_err(EraseError::Objects)?;
            return Ok(u64::from(there));
        }
        let mut deleted = 0;
        loop {
            let page = self.objects.list(key, None, PAGE).await.map_err(EraseError::Objects)?;
            if page.is_empty() {
                return Ok(deleted);
            }
            for entry in page {
                self.objects.purge(&entry.key).await.map_err(EraseError::Objects)?;
                deleted += 1;
            }
        }
    }

    /// Finish what was begun and left: a process died, or object storage was away.
    ///
    /// # Errors
    /// The first erasure that cannot go on.
    pub async fn finish_all(&self) -> Result<usize, EraseError> {
        let unfinished: Vec<Unfinished> = self
            .db
            .unit::<_, DbError, _>(Scope::Global, |connection| {
                Box::pin(async move { store::unfinished(connection).await })
            })
            .await?;
        let count = unfinished.len();
        for Unfinished { organization_id, id, actor, reason } in unfinished {
            let by = By { actor: Actor { name: actor, ..Actor::internal("erasure") }, reason };
            while self.state(organization_id, id).await?.status != "finished" {
                self.go_on(organization_id, id, &by).await?;
            }
        }
        Ok(count)
    }

    /// Finish what was left, from time to time, until cancelled.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SWEEP_EVERY) => {}
            }
            if let Err(error) = self.finish_all().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "an erasure cannot go on now; it is tried again"
                );
            }
        }
    }
}

/// The end of a rehearsal: its transaction must not commit.
enum Rehearsed {
    Done(Counts, Vec<store::Doomed>),
    Failed(EraseError),
}

impl From<EraseError> for Rehearsed {
    fn from(error: EraseError) -> Self {
        Self::Failed(error)
    }
}

impl From<DbError> for Rehearsed {
    fn from(error: DbError) -> Self {
        Self::Failed(error.into())
    }
}

/// The decision: under the payload's lock nothing holds it and no job of it is at work; then its content goes, and what else must go
/// is written down. If it was decided before: that decision.
async fn mark(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8; 32],
    by: &By,
) -> Result<Marked, EraseError> {
    let payload = store::lock_payload(connection, organization, sha256).await?.ok_or(EraseError::PayloadNotFound)?;
    if payload.is_purged {
        let known = store::of_payload(connection, organization, sha256).await?;
        return known.ok_or(EraseError::PayloadNotFound);
    }
    let jobs = store::jobs_of(connection, organization, sha256).await?;
    if jobs.iter().any(|job| job.is_live) {
        return Err(EraseError::JobNotFinished);
    }
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    if holds_store::forbids(connection, organization, sha256, &ids).await? {
        return Err(EraseError::Held);
    }
    let id = ErasureId::new();
    store::begin(connection, organization, id, sha256, &ids, by).await?;
    store::doom_objects(connection, organization, id, sha256, &jobs).await?;
    store::empty_payload(connection, organization, sha256).await?;
    let mut record = Record::new(organization, "payload.purge_begun", Action::Delete, &by.actor);
    record.body_sha256 = Some(sha256);
    record.purpose = Some(&by.reason);
    record.detail = Some(json!({ "erasure": id, "jobs": ids.len() }));
    audit::append(connection, record).await?;
    let counts = Counts::from([("payloads".to_owned(), 1)]);
    store::set_counts(connection, organization, id, &counts).await?;
    Ok(Marked { id, jobs: ids, counts })
}

/// One batch of rows; false when no rows are left.
async fn clear(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    by: &By,
) -> Result<bool, EraseError> {
    // One at a time: whoever else goes on with it waits here.
    let row = store::erasure(connection, organization, id, true).await?;
    if row.status != "rows" {
        return Ok(false);
    }
    let mut counts = row.counts.0;
    let by = By { reason: row.reason, ..by.clone() };
    if erase::erase_some(connection, organization, &row.jobs, BATCH, &by, &mut counts).await? {
        store::set_counts(connection, organization, id, &counts).await?;
        return Ok(true);
    }
    for (table, rows) in store::clear_jobs(connection, organization, &row.jobs).await? {
        *counts.entry(table.to_owned()).or_default() += rows;
    }
    counts.retain(|_, rows| *rows > 0);
    store::set_counts(connection, organization, id, &counts).await?;
    store::rows_gone(connection, organization, id).await?;
    Ok(false)
}
