//! Dry runs: what an erasure would take away.
//!
//! It is done, counted, and taken back in the same transaction. That holds locks of all subjects concerned, and holds back what waits for the
//! oldest transaction: of more than [`REHEARSED_MAX`] events it is only counted, without locks. A dry run waits for nobody who decides.

use super::decide::mark;
use super::objects_store::{self, Doomed};
use super::store::{self, Marked};
use super::{BATCH, EraseError, Eraser, Erasure, RUNS_MAX, Target, rehearsal_store};
use crate::audit;
use crate::db::{DbError, Scope};
use crate::ids::{ErasureId, OrganizationId};
use crate::ingest::linking::acts::By;
use crate::ingest::linking::erase;
use serde_json::json;
use sqlx::PgConnection;
use std::time::Duration;

/// Events that are erased and taken back in one transaction, at most.
pub const REHEARSED_MAX: i64 = 2_000;
/// Between two attempts, while somebody else decides.
const PAUSE: Duration = Duration::from_millis(250);

/// The end of a rehearsal: its transaction must not commit.
enum Rehearsed {
    Done(Box<Marked>, Vec<Doomed>),
    /// Only decided: it is too much to be done.
    Large(Box<Marked>, Vec<Doomed>),
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

impl Eraser {
    /// What erasing it would take away (of what is decided already: how far that is). Nothing is changed.
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
                    Box::pin(async move { Err(rehearse(connection, organization, target, &acting).await?) })
                })
                .await;
            match done {
                Err(Rehearsed::Done(marked, objects)) => {
                    return self.planned(organization, target, *marked, objects, false, by).await;
                }
                Err(Rehearsed::Large(mut marked, objects)) => {
                    let jobs = marked.jobs.clone();
                    let counted = self.again(organization, move |connection| {
                        let jobs = jobs.clone();
                        Box::pin(async move { Ok(rehearsal_store::count(connection, organization, &jobs).await?) })
                    });
                    marked.counts.0.extend(counted.await?);
                    return self.planned(organization, target, *marked, objects, true, by).await;
                }
                Err(Rehearsed::Decided(id)) => return self.state(organization, id).await,
                Err(Rehearsed::Failed(EraseError::Db(DbError::Conflict(_)))) => tokio::time::sleep(PAUSE).await,
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
        objects: Vec<Doomed>,
        estimated: bool,
        by: By,
    ) -> Result<Erasure, EraseError> {
        let mut counts = marked.counts.0;
        let mut there = 0;
        for object in objects {
            there += self.count_objects(&object).await.map_err(EraseError::Uncounted)?;
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
        Ok(Erasure { erasure_id: None, status, payload, patient: marked.patient_id, payloads, counts, estimated })
    }
}

/// One transaction, whose end tells what it did, so that it is taken back.
async fn rehearse(
    connection: &mut PgConnection,
    organization: OrganizationId,
    target: Target,
    by: &By,
) -> Result<Rehearsed, EraseError> {
    let mut marked = mark(connection, organization, target, by, true).await?;
    if !marked.is_new {
        return Ok(Rehearsed::Decided(marked.id));
    }
    let objects = objects_store::objects(connection, organization, marked.id, i32::MAX).await?;
    let (jobs, counts) = (marked.jobs.clone(), &mut marked.counts.0);
    if rehearsal_store::events(connection, organization, &jobs, REHEARSED_MAX + 1).await? > REHEARSED_MAX {
        return Ok(Rehearsed::Large(Box::new(marked), objects));
    }
    loop {
        let events = erase::next(connection, organization, &jobs, BATCH).await?;
        if events.is_empty() {
            break;
        }
        erase::erase_some(connection, organization, &jobs, &events, by, counts).await?;
    }
    for (table, rows) in store::clear_jobs(connection, organization, &jobs).await? {
        *counts.entry(table.to_owned()).or_default() += rows;
    }
    for (table, rows) in store::last(connection, organization, &marked.persons, &counts.clone()).await? {
        *counts.entry(table.to_owned()).or_default() += rows;
    }
    Ok(Rehearsed::Done(Box::new(marked), objects))
}
