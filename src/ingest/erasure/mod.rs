//! Erasure of payloads with everything that was taken from them, of all payloads that tell of a patient, and legal holds that keep it from being erased. The
//! contract is docs/erasure.md.
//!
//! Data: a row of `erasures` from the decision on, and of `erased_objects` for each object that must go. States: `rows` →
//! `objects` → `finished`; each move is one transaction. The first one takes the payload's content away, so that from its commit on
//! nobody reads it; the rest follows in batches. Failure cases: whatever stops it, the row says how far it came, and the same
//! call again goes on there, and so does the sweeper.

mod decide;
pub mod holds_store;
mod objects_store;
mod person_store;
pub mod retention;
mod retention_store;
mod store;

use self::decide::mark;
pub use self::objects_store::spare;
use self::store::{Marked, Unfinished};
use super::linking::acts::By;
use super::linking::erase::{self, Counts, Extent};
use crate::audit::{self, Action, Actor, Record};
use crate::db::{Db, DbError, Scope};
use crate::ids::{ErasureId, OrganizationId, PatientId};
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

/// What is to be erased.
#[derive(Clone, Copy)]
pub enum Target {
    /// The payload with this hash.
    Payload([u8; 32]),
    /// All payloads that tell of a patient.
    Patient {
        /// Whom.
        patient: PatientId,
        /// Also those that tell of others.
        shared_too: bool,
    },
}

impl From<[u8; 32]> for Target {
    fn from(sha256: [u8; 32]) -> Self {
        Self::Payload(sha256)
    }
}

impl Target {
    /// The audit record of a dry run.
    fn planned(self, organization: OrganizationId, by: &By) -> Record<'_> {
        let mut record = match self {
            Self::Payload(_) => Record::new(organization, "payload.purge_planned", Action::Read, &by.actor),
            Self::Patient { .. } => Record::new(organization, "patient.purge_planned", Action::Read, &by.actor),
        };
        if let Self::Patient { patient, .. } = self {
            record.patient = Some(patient);
        }
        record.purpose = Some(&by.reason);
        record
    }
}

/// Why nothing was erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The organization has no such payload.
    #[error("no such payload")]
    PayloadNotFound,
    /// The organization has no such patient.
    #[error("no such patient")]
    PatientNotFound,
    /// Some of the payloads tell of somebody else, too.
    #[error("{shared} of {payloads} payloads tell of others too")]
    Shared {
        /// So many.
        shared: i64,
        /// Of so many.
        payloads: usize,
    },
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
    /// SHA-256 of the payload, in hexadecimal; none of a patient's.
    pub payload: Option<String>,
    /// The patient: of one who was merged into another the other.
    #[schema(value_type = Option<String>, example = "pat_01h455vb4pex5vsknk084sn02q")]
    pub patient: Option<PatientId>,
    /// How many payloads go.
    pub payloads: u64,
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

    /// What erasing it would take away (of what is decided already: how far that is): it is done, counted, and taken back in the same transaction.
    ///
    /// # Errors
    /// [`EraseError`].
    pub async fn rehearse(
        &self,
        organization: OrganizationId,
        target: impl Into<Target>,
        by: By,
    ) -> Result<Erasure, EraseError> {
        let target = target.into();
        for _ in 0..RUNS_MAX {
            let acting = by.clone();
            let done = self
                .db
                .unit::<(), Rehearsed, _>(Scope::Organization(organization), move |connection| {
                    let by = acting;
                    Box::pin(async move {
                        let mut marked = mark(connection, organization, target, &by).await?;
                        if !marked.is_new {
                            return Err(Rehearsed::Decided(marked.id));
                        }
                        let (jobs, counts) = (marked.jobs.clone(), &mut marked.counts.0);
                        while erase::erase_some(connection, organization, &jobs, (Extent::Whole, BATCH), &by, counts)
                            .await?
                        {}
                        for (table, rows) in store::clear_jobs(connection, organization, &jobs).await? {
                            *counts.entry(table.to_owned()).or_default() += rows;
                        }
                        *counts.entry("patients".to_owned()).or_default() +=
                            person_store::forget(connection, organization, &marked.persons).await?;
                        let objects = objects_store::objects(connection, organization, marked.id, i32::MAX).await?;
                        // The transaction ends here, and leaves nothing.
                        Err(Rehearsed::Done(Box::new(marked), objects))
                    })
                })
                .await;
            match done {
                Err(Rehearsed::Done(marked, objects)) => {
                    return self.planned(organization, target, *marked, objects, by).await;
                }
                Err(Rehearsed::Decided(id)) => return self.state(organization, id).await,
                Err(Rehearsed::Failed(EraseError::Db(DbError::Conflict(_)))) => {}
                Err(Rehearsed::Failed(error)) => return Err(error),
                Ok(()) => break,
            }
        }
        Err(DbError::stale().into())
    }

    /// The answer of a rehearsal, with its audit record.
    async fn planned(
        &self,
        organization: OrganizationId,
        target: Target,
        marked: Marked,
        objects: Vec<objects_store::Doomed>,
        by: By,
    ) -> Result<Erasure, EraseError> {
        let mut counts = marked.counts.0;
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
                let mut record = target.planned(organization, &by);
                if let Target::Payload(sha256) = &target {
                    record.body_sha256 = Some(sha256);
                }
                record.detail = Some(detail);
                Ok(audit::append(connection, record).await?)
            })
        })
        .await?;
        let payload = match target {
            Target::Payload(sha256) => Some(hex::encode(sha256)),
            Target::Patient { .. } => None,
        };
        let payloads = u64::try_from(marked.payload_count).unwrap_or_default();
        let status = "planned".to_owned();
        Ok(Erasure { erasure_id: None, status, payload, patient: marked.patient_id, payloads, counts })
    }

    /// Erase it. The decision is durable when the first transaction commits; then this works until it is done or
    /// `within` is over. The same call again goes on, or tells how it ended.
    ///
    /// # Errors
    /// [`EraseError`].
    pub async fn purge(
        &self,
        organization: OrganizationId,
        target: impl Into<Target>,
        by: By,
        within: Duration,
    ) -> Result<Erasure, EraseError> {
        let target = target.into();
        let until = Instant::now() + within;
        let decided = by.clone();
        let id = self
            .again(organization, move |connection| {
                let by = decided.clone();
                Box::pin(async move { Ok(mark(connection, organization, target, &by).await?.id) })
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
        let (is_retention, objects) = self
            .again(organization, move |connection| {
                Box::pin(async move {
                    let row = store::erasure(connection, organization, id, false).await?;
                    let objects = objects_store::objects(connection, organization, id, PAGE).await?;
                    Ok((row.kind == "retention", objects))
                })
            })
            .await?;
        for object in objects {
            if is_retention && !object.is_prefix {
                self.delete_if_unwanted(organization, id, object.storage_key).await?;
                continue;
            }
            let deleted = self.delete_objects(&object.storage_key, object.is_prefix).await?;
            let key = object.storage_key;
            self.again(organization, move |connection| {
                let key = key.clone();
                Box::pin(
                    async move { Ok(objects_store::object_gone(connection, organization, id, &key, deleted).await?) },
                )
            })
            .await?;
        }
        self.again(organization, move |connection| Box::pin(finish(connection, organization, id))).await
    }

    async fn state(&self, organization: OrganizationId, id: ErasureId) -> Result<Erasure, EraseError> {
        self.again(organization, move |connection| {
            Box::pin(async move {
                let row = store::erasure(connection, organization, id, false).await?;
                Ok(Erasure {
                    erasure_id: Some(id),
                    status: row.status,
                    payload: row.payload_sha256.map(hex::encode),
                    patient: row.patient_id,
                    payloads: row.payloads.len() as u64,
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

    /// Delete an object that went because of its age, unless the same bytes came again. That is decided and done under the lock of their
    /// row, although that is work on the network in a transaction: whoever brings them again must not find a copy that is about to go.
    async fn delete_if_unwanted(
        &self,
        organization: OrganizationId,
        id: ErasureId,
        key: String,
    ) -> Result<(), EraseError> {
        let eraser = self.clone();
        self.again(organization, move |connection| {
            let (eraser, key) = (eraser.clone(), key.clone());
            Box::pin(async move {
                let deleted = if objects_store::may_delete(connection, organization, id, &key).await? {
                    eraser.delete_objects(&key, false).await?
                } else {
                    0
                };
                Ok(objects_store::object_gone(connection, organization, id, &key, deleted).await?)
            })
        })
        .await
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
            self.finish_one(organization_id, id, &by).await?;
        }
        Ok(count)
    }

    async fn finish_one(&self, organization: OrganizationId, id: ErasureId, by: &By) -> Result<(), EraseError> {
        while self.state(organization, id).await?.status != "finished" {
            self.go_on(organization, id, by).await?;
        }
        Ok(())
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
    Done(Box<Marked>, Vec<objects_store::Doomed>),
    /// Nothing is to be rehearsed: it was decided before.
    Decided(ErasureId),
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

/// Nothing is left: that is told, once.
async fn finish(connection: &mut PgConnection, organization: OrganizationId, id: ErasureId) -> Result<(), EraseError> {
    let Some(ended) = store::finish(connection, organization, id).await? else { return Ok(()) };
    let actor = Actor { name: ended.actor, ..Actor::internal("erasure") };
    let mut record = Record::new(organization, "payload.purged", Action::Delete, &actor);
    record.purpose = Some(&ended.reason);
    if ended.kind == "retention" {
        record.event = "retention.applied";
    }
    if ended.kind == "patient" {
        // Each of its payloads by itself, too: whoever restores a backup looks for them.
        record.detail = Some(json!({ "erasure": id }));
        audit::append_for_payloads(connection, record.clone(), &ended.payloads).await?;
        record.event = "patient.purged";
        record.patient = ended.patient_id;
    }
    record.body_sha256 = ended.payload_sha256.as_deref();
    record.detail = Some(json!({ "erasure": id, "counts": ended.counts.0 }));
    Ok(audit::append(connection, record).await?)
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
    let is_retention = row.kind == "retention";
    let extent = if is_retention { Extent::SparePersons } else { Extent::Whole };
    if erase::erase_some(connection, organization, &row.jobs, (extent, BATCH), &by, &mut counts).await? {
        store::set_counts(connection, organization, id, &counts).await?;
        return Ok(true);
    }
    let cleared = if is_retention {
        let cleared = store::clear_athena(connection, organization, &row.jobs).await?;
        retention_store::free(connection, organization, &row.jobs).await?;
        cleared
    } else {
        store::clear_jobs(connection, organization, &row.jobs).await?
    };
    for (table, rows) in cleared {
        *counts.entry(table.to_owned()).or_default() += rows;
    }
    *counts.entry("patients".to_owned()).or_default() +=
        person_store::forget(connection, organization, &row.persons).await?;
    counts.retain(|_, rows| *rows > 0);
    store::set_counts(connection, organization, id, &counts).await?;
    store::rows_gone(connection, organization, id).await?;
    Ok(false)
}
