//! Erasure of payloads with everything that was taken from them, of all payloads that tell of a patient, and legal holds that keep it from being erased. The
//! contract is docs/erasure.md.
//!
//! Data: a row of `erasures` from the decision on, and of `erased_objects` for each object that must go. States: `rows` →
//! `objects` → `finished`; each move is one transaction. The first one takes the payload's content away, so that from its commit on
//! nobody reads it; the rest follows in batches. Failure cases: whatever stops it, the row says how far it came, and the same
//! call again goes on there, and so does the sweeper.

mod decide;
pub mod holds_store;
mod objects;
mod objects_store;
mod person_store;
mod rehearsal;
mod rehearsal_store;
pub mod retention;
mod retention_store;
mod store;

use self::decide::mark;
pub use self::objects_store::spare;
use self::store::Unfinished;
pub use self::store::lock_unknown;
use super::linking::acts::By;
use super::linking::erase::{self, Counts};
use crate::audit::{self, Action, Actor, Record};
use crate::db::{Db, DbError, Scope};
use crate::ids::{ErasureId, JobId, OrganizationId, PatientId};
use crate::objects::{ObjectError, Objects};
use crate::telemetry;
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Events of one transaction.
const BATCH: i64 = 500;
/// A batch that lost against a concurrent transaction is run again, at most so often.
const RUNS_MAX: usize = 8;
/// Events that retention looks at in one transaction: most of a file of Patients are spared.
const LOOKED_AT: i64 = 2_000;
/// How often the sweeper looks for erasures that somebody began and did not finish.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Whoever asked for an erasure works on it himself for so long, and a little.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// An erasure that is not finished by then needs somebody to look.
const LATE: Duration = Duration::from_hours(1);

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
    /// Object storage; it was only to be counted what would go, and nothing was changed.
    #[error("objects cannot be counted")]
    Uncounted(#[source] ObjectError),
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
    /// Of a dry run: it is so much that it was only counted, not done and taken back. Persons, questions about them and what is linked anew
    /// are not in the counts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
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
                Box::pin(async move { Ok(mark(connection, organization, target, &by, false).await?.id) })
            })
            .await?;
        // In the midst of a step, too: what is a transaction ends by itself, and objects are deleted again.
        if Instant::now() < until {
            let ended = tokio::time::timeout_at(until.into(), self.finish_one(organization, id, &by)).await;
            ended.unwrap_or(Ok(()))?;
        }
        self.state(organization, id).await
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
        self.delete_some(organization, id).await?;
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
                    estimated: false,
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

    /// Finish what was begun and left: a process died, or object storage was away. Each by itself: one that cannot go on keeps no other.
    ///
    /// # Errors
    /// The first that cannot go on; the others did.
    pub async fn finish_all(&self) -> Result<usize, EraseError> {
        self.finish_older(Duration::ZERO).await
    }

    /// Those that were decided so long ago: of the others somebody may be at work.
    async fn finish_older(&self, age: Duration) -> Result<usize, EraseError> {
        let unfinished: Vec<Unfinished> = self
            .db
            .unit::<_, DbError, _>(Scope::Global, move |connection| {
                Box::pin(async move { store::unfinished(connection, age.as_secs_f64()).await })
            })
            .await?;
        let (mut finished, mut failed) = (0, None);
        for Unfinished { organization_id, id, actor, reason } in unfinished {
            let by = By { actor: Actor { name: actor, ..Actor::internal("erasure") }, reason };
            match self.finish_one(organization_id, id, &by).await {
                Ok(()) => finished += 1,
                Err(error) => {
                    failed.get_or_insert(error);
                    self.again(organization_id, move |connection| {
                        Box::pin(async move { Ok(store::set_failed(connection, organization_id, id).await?) })
                    })
                    .await?;
                }
            }
        }
        failed.map_or(Ok(finished), Err)
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
            let finished = self.finish_older(ANSWERED_WITHIN).await.map(|_| ());
            let looked = self.look_again().await.map(|_| ());
            for done in [finished, looked, self.tell_late().await] {
                if let Err(error) = done {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "an erasure cannot go on now; it is tried again"
                    );
                }
            }
        }
    }

    /// How many erasures are not finished an hour behind their decision.
    async fn tell_late(&self) -> Result<(), EraseError> {
        let late = self
            .db
            .unit::<i64, DbError, _>(Scope::Global, |connection| {
                Box::pin(async move { store::late(connection, LATE.as_secs_f64()).await })
            })
            .await?;
        telemetry::erasures_late(late);
        Ok(())
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
    if is_retention {
        if let Some(place) = walk(connection, organization, &row.jobs, row.place, &by, &mut counts).await? {
            store::set_counts(connection, organization, id, &counts).await?;
            store::set_place(connection, organization, id, &place).await?;
            return Ok(true);
        }
    } else {
        let events = erase::next(connection, organization, &row.jobs, BATCH).await?;
        if !events.is_empty() {
            erase::erase_some(connection, organization, &row.jobs, &events, &by, &mut counts).await?;
            store::set_counts(connection, organization, id, &counts).await?;
            return Ok(true);
        }
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
    for (table, rows) in store::last(connection, organization, &row.persons, &counts).await? {
        *counts.entry(table.to_owned()).or_default() += rows;
    }
    counts.retain(|_, rows| *rows > 0);
    store::set_counts(connection, organization, id, &counts).await?;
    store::rows_gone(connection, organization, id).await?;
    Ok(false)
}

/// Retention's next look at what its jobs brought: a page, of which goes what may. Where it goes on; nothing at the end. What was spared
/// may be free once the rest is gone: it walks again until a walk takes nothing.
async fn walk(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &[JobId],
    place: store::Place,
    by: &By,
    counts: &mut Counts,
) -> Result<Option<store::Place>, EraseError> {
    let page = erase::next_old(connection, organization, jobs, place.after(), (LOOKED_AT, BATCH)).await?;
    let took = place.took || !page.events.is_empty();
    if !page.events.is_empty() {
        erase::erase_some(connection, organization, jobs, &page.events, by, counts).await?;
    }
    Ok(match page.after {
        Some((job, event)) => Some(store::Place { at_job: Some(job), at_event: Some(event), took }),
        None => took.then(store::Place::default),
    })
}
