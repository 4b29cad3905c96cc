//! What the console reads of the figures that [`super::figures`] keeps.

use super::figures_store::Figures;
use crate::db::DbError;
use crate::ids::OrganizationId;
use sqlx::PgConnection;
use time::OffsetDateTime;

/// Up to when everything is counted; none on a database without figures.
///
/// # Errors
/// [`DbError`].
pub async fn counted_through(connection: &mut PgConnection) -> Result<(OffsetDateTime, OffsetDateTime), DbError> {
    Ok(sqlx::query_as("select counted_through, chartgate_now() from figures_position").fetch_one(connection).await?)
}

/// Rounds of jobs since then, by workflow and span, oldest first: one organization's, or the sums over all (scope `Platform`).
/// Deliveries of callbacks are jobs too, but nobody's data: they are left out.
///
/// # Errors
/// [`DbError`].
pub async fn figures_since(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    since: OffsetDateTime,
) -> Result<Vec<Figures>, DbError> {
    Ok(sqlx::query_as(
        "select organization_id, at, workflow, accepted, retried, succeeded, with_issues, failed, cancelled, expired, ended_in, begun_in
         from job_figures
         where organization_id = $1
           -- All spans: so that the key's third column narrows.
           and span_seconds in (60, 600, 3600)
           and at >= $2
           and workflow <> 'callback'
         order by at",
    )
    .bind(organization.unwrap_or(OrganizationId::PLATFORM))
    .bind(since)
    .fetch_all(connection)
    .await?)
}

/// What is in an organization's queue, as the sweeper saw it last.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct QueueFigures {
    /// Whose.
    pub organization_id: OrganizationId,
    /// Its name.
    pub name: String,
    /// `active` or `paused`.
    pub status: String,
    /// Jobs that a worker could take.
    pub waiting: i64,
    /// Jobs in work.
    pub running: i64,
    /// Jobs in backoff.
    pub delayed: i64,
    /// Jobs behind an earlier one of their lane.
    pub blocked: i64,
    /// Lanes whose head is in backoff while others wait behind it.
    pub lanes_held: i64,
    /// Since when the oldest job waits that a worker could take.
    pub oldest_ready_at: Option<OffsetDateTime>,
}

/// Sums over all organizations that were asked for, and those with most to do.
///
/// # Errors
/// [`DbError`].
pub async fn queue_now(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    limit: i64,
) -> Result<Vec<QueueFigures>, DbError> {
    Ok(sqlx::query_as(
        "select f.organization_id, o.name, o.status, f.waiting, f.running, f.delayed, f.blocked, f.lanes_held, f.oldest_ready_at
         from queue_figures f
         join organizations o on o.id = f.organization_id
         where $1::uuid is null or f.organization_id = $1
         order by f.waiting + f.running + f.delayed + f.blocked desc, o.name
         limit $2",
    )
    .bind(organization)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}
