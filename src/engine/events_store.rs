//! SQL behind [`super::job_events`]: what is new in a job's history, source by source, each in the order of its commits.

use super::job_events::Position;
use super::jobs::{AttemptRow, StepRow};
use super::timeline::RecordRow;
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId};
use sqlx::PgConnection;

/// Rows that one look takes of each source, at most.
const ROWS_MAX: i64 = 200;

/// Ended steps that are not in the position; rounds in order.
///
/// # Errors
/// [`DbError`].
pub async fn steps_beyond(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    position: &Position,
) -> Result<Vec<StepRow>, DbError> {
    Ok(sqlx::query_as(
        "select round, step, name, status, attempts, started_at, finished_at, error_code, error_class, error_message, output
         from job_steps
         where organization_id = $1 and job_id = $2
           -- Within a round steps do not end in their order: those behind a failed one are skipped before an `always` step runs.
           and (round > $3 or round = $3 and step <> all ($4))
         order by round, finished_at, step
         limit $5",
    )
    .bind(organization)
    .bind(job)
    .bind(position.round)
    .bind(position.told_steps())
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?)
}

/// An attempt, with the lease under which it was made.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LeasedAttempt {
    /// Of the lease.
    pub lease_epoch: i64,
    /// The attempt.
    #[sqlx(flatten)]
    pub attempt: AttemptRow,
}

/// Attempts at the job's own steps that did not succeed, behind the position, in the order of their leases: a later lease of
/// a job is given after the earlier one has ended, and one lease goes through the steps forward only.
///
/// # Errors
/// [`DbError`].
pub async fn attempts_beyond(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    position: &Position,
) -> Result<Vec<LeasedAttempt>, DbError> {
    Ok(sqlx::query_as(
        "select lease_epoch, round, step, chunk, attempt, outcome, error_code, error_class, error_message, started_at, finished_at, next_attempt_at
         from step_attempts
         where organization_id = $1 and job_id = $2 and chunk = 0
           and (lease_epoch, step) > ($3, $4)
         order by lease_epoch, step
         limit $5",
    )
    .bind(organization)
    .bind(job)
    .bind(position.epoch)
    .bind(position.step)
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?)
}

/// An act, with the number of its audit record.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct NumberedRecord {
    /// Of the audit record.
    pub id: i64,
    /// The act.
    #[sqlx(flatten)]
    pub record: RecordRow,
}

/// Acts on the job itself behind the position. Their numbers are drawn under the job's locks, so that they are in the order
/// of their commits; records of chunks are not, and are left out.
///
/// # Errors
/// [`DbError`].
pub async fn records_beyond(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    position: &Position,
) -> Result<Vec<NumberedRecord>, DbError> {
    Ok(sqlx::query_as(
        "select id, at, event, step, actor, purpose
         from audit_records
         where organization_id = $1
           and job_id = $2
           and id > $3
           -- The words of the partial index.
           and event in ('job.cancelled', 'job.retried', 'job.parked', 'job.stepped_aside', 'job.failed', 'lease.lost')
           and not coalesce(detail ? 'chunk', false)
         union all
         -- Has an index of its own.
         select id, at, event, step, actor, purpose
         from audit_records
         where organization_id = $1 and job_id = $2 and id > $3 and event = 'job.retry_undone'
         order by id
         limit $4",
    )
    .bind(organization)
    .bind(job)
    .bind(position.record)
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?)
}
