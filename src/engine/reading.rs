//! Reading jobs for people: the status and the explanation of one job, for HTTP and the console alike.

use super::catalog::Catalog;
use super::chunks_store;
use super::explain::{self, Explanation};
use super::jobs::{self, JobView};
use super::jobs_store::{self, Attempts};
use crate::db::{Db, DbError, Scope};
use crate::ids::{JobId, OrganizationId};

/// A job's status; none: the organization has no such job.
///
/// # Errors
/// The database's.
pub async fn find_view(
    db: &Db,
    catalog: &Catalog,
    organization: OrganizationId,
    job: JobId,
) -> Result<Option<JobView>, DbError> {
    let found = db.unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
        Box::pin(async move {
            let Some(row) = jobs_store::find_job(connection, organization, job).await? else { return Ok(None) };
            let steps = jobs_store::steps_of(connection, organization, job).await?;
            let attempts = jobs_store::attempts_of(connection, organization, job, Attempts::OfJob).await?;
            Ok(Some((row, steps, attempts)))
        })
    });
    let Some((row, steps, attempts)) = found.await? else { return Ok(None) };
    let definition = catalog.resolve(db, &row.workflow, row.workflow_version).await.ok();
    let mut chunks = None;
    if row.progress_total.is_some() {
        let step = row.queue_step.unwrap_or(i16::MAX);
        let region = jobs::region_of(definition.as_deref(), step);
        let (start, last) = region.into_inner();
        let progress = db.unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move { chunks_store::progress(connection, organization, job, start, last).await })
        });
        chunks = Some(progress.await?);
    }
    Ok(Some(jobs::shape(&row, &steps, &attempts, definition.as_deref(), chunks.as_ref())))
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
