//! Reading jobs for people: the status, the whole story and the explanation of one job, for HTTP and the console alike.

use super::catalog::Catalog;
use super::chunks_store::{self, ChunkProgress};
use super::definition::WorkflowDefinition;
use super::explain::{self, Explanation};
use super::jobs::{self, AttemptRow, JobRow, JobView, StepRow};
use super::jobs_store::{self, Attempts};
use super::timeline::{RecordRow, TimelineEntry, timeline};
use crate::db::{Db, DbError, Scope};
use crate::ids::{JobId, OrganizationId};
use std::sync::Arc;

/// Everything that is stored of a job's course.
pub struct Story {
    /// The job with its live queue row.
    pub row: JobRow,
    /// Finished steps of all rounds.
    pub steps: Vec<StepRow>,
    /// Attempts that did not succeed, those at chunks too; the newest thousand.
    pub attempts: Vec<AttemptRow>,
    /// Acts on it; none where they were not asked for.
    pub records: Vec<RecordRow>,
    /// Its pinned version; none if that is gone.
    pub definition: Option<Arc<WorkflowDefinition>>,
    /// How far its chunks are.
    pub chunks: Option<ChunkProgress>,
}

impl Story {
    /// The job as the API shows it.
    #[must_use]
    pub fn view(&self) -> JobView {
        jobs::shape(&self.row, &self.steps, &self.attempts, self.definition.as_deref(), self.chunks.as_ref())
    }

    /// Every attempt, wait and act in order of time.
    #[must_use]
    pub fn timeline(&self) -> Vec<TimelineEntry> {
        let mut entries = timeline(&self.steps, &self.attempts, &self.records, self.definition.as_deref());
        entries.insert(0, TimelineEntry::accepted(self.row.created_at, self.row.submitted_by.clone()));
        entries
    }
}

/// Status of a job; none if the organization has no such job.
///
/// # Errors
/// The database's.
pub async fn find_view(
    db: &Db,
    catalog: &Catalog,
    organization: OrganizationId,
    job: JobId,
) -> Result<Option<JobView>, DbError> {
    Ok(read(db, catalog, organization, job, Attempts::OfJob).await?.map(|story| story.view()))
}

/// The whole story of a job; none if the organization has no such job.
///
/// # Errors
/// The database's.
pub async fn find_story(
    db: &Db,
    catalog: &Catalog,
    organization: OrganizationId,
    job: JobId,
) -> Result<Option<Story>, DbError> {
    read(db, catalog, organization, job, Attempts::All).await
}

async fn read(
    db: &Db,
    catalog: &Catalog,
    organization: OrganizationId,
    job: JobId,
    which: Attempts,
) -> Result<Option<Story>, DbError> {
    let found = db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let Some(row) = jobs_store::find_job(connection, organization, job).await? else { return Ok(None) };
                let steps = jobs_store::steps_of(connection, organization, job).await?;
                let attempts = jobs_store::attempts_of(connection, organization, job, which).await?;
                let records = match which {
                    Attempts::OfJob => Vec::new(),
                    Attempts::All => jobs_store::records_of(connection, organization, job).await?,
                };
                Ok(Some((row, steps, attempts, records)))
            })
        })
        .await?;
    let Some((row, steps, attempts, records)) = found else { return Ok(None) };
    let definition = catalog.resolve(db, &row.workflow, row.workflow_version).await.ok();
    let mut chunks = None;
    if row.progress_total.is_some() {
        let step = row.queue_step.unwrap_or(i16::MAX);
        let (start, last) = jobs::region_of(definition.as_deref(), step).into_inner();
        let progress = db.unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move { chunks_store::progress(connection, organization, job, start, last).await })
        });
        chunks = Some(progress.await?);
    }
    Ok(Some(Story { row, steps, attempts, records, definition, chunks }))
}

/// A job in plain words; none: the organization has no such job.
///
/// # Errors
/// The database's.
pub async fn find_explanation(
    db: &Db,
    catalog: &Catalog,
    organization: OrganizationId,
    job: JobId,
) -> Result<Option<Explanation>, DbError> {
    let Some(view) = find_view(db, catalog, organization, job).await? else { return Ok(None) };
    let situation = db.unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
        Box::pin(async move { jobs_store::situation_of(connection, organization, job).await })
    });
    Ok(Some(explain::explain(&view, &situation.await?)))
}
