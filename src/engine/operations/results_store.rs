//! SQL of results: how the rounds ended that an operation opened.

use super::OperationJob;
use super::targets_store::Target;
use crate::db::{DbError, ensure_one_row};
use crate::ids::{JobId, OperationId, OrganizationId};
use sqlx::PgConnection;

/// Results found by one look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Results {
    /// All that ended.
    pub settled: i32,
    /// Of them: failed.
    pub failed: i32,
    /// Of them: succeeded.
    pub succeeded: i32,
}

/// Write the results of those whose round has ended. What a round changed is then forgotten: it can no more be undone.
///
/// # Errors
/// [`DbError`].
pub async fn settle(
    connection: &mut PgConnection,
    home: OrganizationId,
    operation: OperationId,
    open: &[Target],
) -> Result<Results, DbError> {
    let (organizations, jobs): (Vec<OrganizationId>, Vec<JobId>) =
        open.iter().map(|target| (target.job_organization_id, target.job_id)).unzip();
    let results: Vec<String> = sqlx::query_scalar(
        "update operation_jobs t
         set result = r.result, before = null
         from (
           select l.position,
             case
               -- Erased since.
               when j.id is null then 'other'
               -- Another round follows: what this one did stands in its steps.
               when j.round > l.round then
                 case when exists (
                     select from job_steps s
                     where s.organization_id = l.o and s.job_id = l.job and s.round = l.round and s.status = 'failed')
                   then 'failed' else 'other' end
               when j.status = 'failed' then 'failed'
               when j.status in ('succeeded', 'succeeded_with_issues') then 'succeeded'
               else 'other'
             end result
           from unnest($3::int[], $4::uuid[], $5::uuid[], $6::int[]) l(position, o, job, round)
           left join jobs j on j.organization_id = l.o and j.id = l.job
           where j.id is null or j.finished_at is not null or j.round > l.round) r
         where t.organization_id = $1 and t.operation_id = $2 and t.position = r.position
         returning t.result",
    )
    .bind(home)
    .bind(operation)
    .bind(open.iter().map(|target| target.position).collect::<Vec<_>>())
    .bind(organizations)
    .bind(jobs)
    .bind(open.iter().map(|target| target.round.unwrap_or_default()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let count = |word: &str| i32::try_from(results.iter().filter(|result| *result == word).count()).unwrap_or(0);
    let (failed, succeeded) = (count("failed"), count("succeeded"));
    Ok(Results { settled: failed + succeeded + count("other"), failed, succeeded })
}

/// Count what a look found, and where the next one begins.
///
/// # Errors
/// [`DbError`].
pub async fn count(
    connection: &mut PgConnection,
    home: OrganizationId,
    operation: OperationId,
    found: Results,
    look_after: i32,
) -> Result<(), DbError> {
    let updated = sqlx::query(
        "update operations
         set settled = settled + $3, failed_again = failed_again + $4, succeeded_again = succeeded_again + $5,
             look_after = $6, looked_at = chartgate_now()
         where organization_id = $1 and id = $2",
    )
    .bind(home)
    .bind(operation)
    .bind(found.settled)
    .bind(found.failed)
    .bind(found.succeeded)
    .bind(look_after)
    .execute(connection)
    .await?;
    ensure_one_row(&updated)
}

/// A page of the targets that failed again, by position, behind `after`.
///
/// # Errors
/// [`DbError`].
pub async fn failed_again(
    connection: &mut PgConnection,
    home: OrganizationId,
    operation: OperationId,
    after: i32,
    limit: i64,
) -> Result<Vec<OperationJob>, DbError> {
    Ok(sqlx::query_as(
        "select position, job_id, job_organization_id, state, note, round, result, acted_at
         from operation_jobs
         where organization_id = $1 and operation_id = $2 and position > $3 and result = 'failed'
         order by position
         limit $4",
    )
    .bind(home)
    .bind(operation)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}
