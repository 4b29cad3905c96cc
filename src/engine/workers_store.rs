//! SQL on worker processes: what they report of themselves, and which workflow versions they must know.

use super::store::PROGRAM_VERSION;
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId, WorkerId};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// What a worker process says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkerFigures {
    /// Leases held now.
    pub in_flight: i32,
    /// Steps committed since its start.
    pub steps_committed: i64,
    /// Commits that the fence refused since its start.
    pub stale_commits: i64,
    /// Leases of others that it took back since its start.
    pub leases_reaped: i64,
    /// Rounds of jobs that it brought to their end since its start.
    pub jobs_ended: i64,
}

/// Register this process.
///
/// # Errors
/// [`DbError`].
pub async fn register_worker(
    connection: &mut PgConnection,
    worker: WorkerId,
    host: &str,
    roles: &[String],
) -> Result<(), DbError> {
    sqlx::query("insert into workers (id, host, pid, roles, program_version) values ($1, $2, $3, $4, $5) on conflict (id) do nothing")
        .bind(worker)
        .bind(host)
        .bind(i32::try_from(std::process::id()).unwrap_or(0))
        .bind(roles)
        .bind(PROGRAM_VERSION)
        .execute(connection)
        .await?;
    Ok(())
}

/// Say that this process is alive, with its figures.
///
/// # Errors
/// [`DbError`].
pub async fn report_worker(
    connection: &mut PgConnection,
    worker: WorkerId,
    figures: WorkerFigures,
    stopped: bool,
) -> Result<(), DbError> {
    sqlx::query(
        "update workers
         set last_seen_at = chartgate_now(), in_flight = $2, steps_committed = $3, stale_commits = $4, leases_reaped = $5, jobs_ended = $7,
             stopped_at = case when $6 then chartgate_now() end
         where id = $1",
    )
    .bind(worker)
    .bind(figures.in_flight)
    .bind(figures.steps_committed)
    .bind(figures.stale_commits)
    .bind(figures.leases_reaped)
    .bind(stopped)
    .bind(figures.jobs_ended)
    .execute(connection)
    .await?;
    Ok(())
}

/// Forget processes that have not been seen for a day.
///
/// # Errors
/// [`DbError`].
pub async fn forget_workers(connection: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query("delete from workers where last_seen_at < chartgate_now() - interval '1 day'")
        .execute(connection)
        .await?;
    Ok(())
}

/// A worker process in a list.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerRow {
    /// `wrk_…`
    #[schema(value_type = String)]
    pub id: WorkerId,
    /// Host name.
    pub host: String,
    /// Process id there.
    pub pid: i32,
    /// Roles.
    pub roles: Vec<String>,
    /// Version.
    pub program_version: String,
    /// Started.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: time::OffsetDateTime,
    /// Last report.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: time::OffsetDateTime,
    /// Leases held.
    pub in_flight: i32,
    /// Steps committed.
    pub steps_committed: i64,
    /// Commits that the fence refused.
    pub stale_commits: i64,
    /// Leases of others taken back.
    pub leases_reaped: i64,
    /// Ended in order.
    #[serde(with = "time::serde::rfc3339::option")]
    pub stopped_at: Option<time::OffsetDateTime>,
}

/// Worker processes of the last day, newest first.
///
/// # Errors
/// [`DbError`].
pub async fn list_workers(connection: &mut PgConnection) -> Result<Vec<WorkerRow>, DbError> {
    Ok(sqlx::query_as(
        "select id, host, pid, roles, program_version, started_at, last_seen_at, in_flight, steps_committed, stale_commits, leases_reaped, stopped_at
         from workers
         order by started_at desc
         limit 1000",
    )
    .fetch_all(connection)
    .await?)
}

/// A lease that is held.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LeaseRow {
    /// Whose job.
    pub organization_id: OrganizationId,
    /// The job.
    pub job_id: JobId,
    /// Of its chunk with this number; 0: of the job itself.
    pub chunk: i32,
    /// Workflow.
    pub workflow: String,
    /// Its version.
    pub workflow_version: i32,
    /// The step.
    pub step: i16,
    /// Attempts at it, this one included.
    pub attempts: i16,
    /// Who holds it.
    pub worker_id: Option<WorkerId>,
    /// Since when.
    pub claimed_at: Option<OffsetDateTime>,
    /// Until when, unless it is renewed.
    pub lease_until: Option<OffsetDateTime>,
    /// It ran out, and nobody took it back yet.
    pub is_expired: bool,
}

/// Leases that are held now, those that end first before others; of one organization's jobs, or of all.
///
/// # Errors
/// [`DbError`].
pub async fn list_leases(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    limit: i64,
) -> Result<Vec<LeaseRow>, DbError> {
    Ok(sqlx::query_as(
        "select organization_id, job_id, chunk, workflow, workflow_version, step, attempts, worker_id, claimed_at, lease_until,
                lease_until < chartgate_now() - interval '30 seconds' is_expired
         from queue
         where state = 'leased'
           and ($1::uuid is null or organization_id = $1)
         order by lease_until
         limit $2",
    )
    .bind(organization)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}

/// Open jobs by workflow and version.
///
/// # Errors
/// [`DbError`].
pub async fn versions_in_flight(connection: &mut PgConnection) -> Result<Vec<(String, i32, i64)>, DbError> {
    Ok(sqlx::query_as("select workflow, workflow_version, count(*) from queue group by 1, 2 order by 1, 2")
        .fetch_all(connection)
        .await?)
}
