//! SQL of the fan-out over chunks. The statements that change something are functions of `migrations/0015_chunks.sql`;
//! here are their Rust faces. What a region is, and the order of the locks, stands in docs/bulk.md.

use super::handler::Facts;
use super::store::{FinishedStep, Lease, PROGRAM_VERSION, micros};
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId, WorkerId};
use serde_json::Value;
use sqlx::PgConnection;
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// Fan a step out: `step` is that of `open`, under the job's own lease; `last` the last step of its region. Answers how
/// many chunks there are to do; with none the lease is still ours.
///
/// # Errors
/// [`DbError`].
pub async fn fan_out(
    connection: &mut PgConnection,
    step: &FinishedStep,
    last: i16,
    worker: WorkerId,
    lease: Duration,
) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar("select fan_out($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)")
        .bind(step.lease.organization)
        .bind(step.lease.seq)
        .bind(step.lease.step)
        .bind(last)
        .bind(&step.name)
        .bind(step.lease.attempts)
        .bind(micros(step.elapsed))
        .bind((!step.output.is_empty()).then(|| Value::Object(step.output.clone())))
        .bind(worker)
        .bind(PROGRAM_VERSION)
        .bind(lease.as_secs_f64())
        .fetch_one(connection)
        .await?)
}

/// A chunk finished a step; without a next one it has ended the region. True: it was the last, and its job goes on.
///
/// # Errors
/// [`DbError`].
pub async fn commit_chunk(
    connection: &mut PgConnection,
    step: &FinishedStep,
    worker: WorkerId,
    lease: Duration,
) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar("select commit_chunk($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)")
        .bind(step.lease.organization)
        .bind(step.lease.seq)
        .bind(step.lease.chunk)
        .bind(step.lease.step)
        .bind(step.next)
        .bind(&step.name)
        .bind(step.lease.attempts)
        .bind(micros(step.elapsed))
        .bind((!step.output.is_empty()).then(|| Value::Object(step.output.clone())))
        .bind(worker)
        .bind(PROGRAM_VERSION)
        .bind(lease.as_secs_f64())
        .fetch_one(connection)
        .await?)
}

/// After a lost reply: was this step of the chunk (or, for chunk 0, its fan-out) committed by us?
///
/// # Errors
/// [`DbError`].
pub async fn was_applied(
    connection: &mut PgConnection,
    step: &FinishedStep,
    worker: WorkerId,
) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar(
        "select exists (
           select from chunk_steps
           where organization_id = $1 and job_id = $2 and step = $3 and chunk = $4 and round = $5 and status = 'succeeded'
             and worker_id = $6)",
    )
    .bind(step.lease.organization)
    .bind(step.lease.job)
    .bind(step.lease.step)
    .bind(step.lease.chunk)
    .bind(step.lease.round)
    .bind(worker)
    .fetch_one(connection)
    .await?)
}

/// Is the region that begins at `start` fanned out? A retry that opens it anew has deleted that row.
///
/// # Errors
/// [`DbError`].
pub async fn is_open(connection: &mut PgConnection, lease: &Lease, start: i16) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar(
        "select exists (
           select from chunk_steps
           where organization_id = $1 and job_id = $2 and step = $3 and chunk = 0)",
    )
    .bind(lease.organization)
    .bind(lease.job)
    .bind(start)
    .fetch_one(connection)
    .await?)
}

/// Why a chunk did not succeed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ChunkFailure {
    /// Its number.
    pub chunk: i32,
    /// Code.
    pub error_code: String,
    /// Class.
    pub error_class: String,
    /// Fixed sentence.
    pub error_message: String,
    /// How many chunks failed at this step.
    pub failed: i64,
}

/// The first chunk that failed at the lease's step, if one did.
///
/// # Errors
/// [`DbError`].
pub async fn first_failure(connection: &mut PgConnection, lease: &Lease) -> Result<Option<ChunkFailure>, DbError> {
    Ok(sqlx::query_as(
        "select chunk, error_code, coalesce(error_class, 'ours') error_class, coalesce(error_message, '') error_message,
                count(*) over () failed
         from chunk_steps
         where organization_id = $1
           and job_id = $2
           and step = $3
           and status = 'failed'
         order by chunk
         limit 1",
    )
    .bind(lease.organization)
    .bind(lease.job)
    .bind(lease.step)
    .fetch_optional(connection)
    .await?)
}

/// What the chunks of the lease's step (and its `open`) put out, added up, and since when the step runs.
///
/// # Errors
/// [`DbError`].
pub async fn totals(connection: &mut PgConnection, lease: &Lease) -> Result<(Facts, Duration), DbError> {
    let rows: Vec<(Option<Value>, Option<f64>)> = sqlx::query_as(
        "select output, extract(epoch from chartgate_now() - started_at)::float8
         from chunk_steps
         where organization_id = $1
           and job_id = $2
           and step = $3
           and status = 'succeeded'
         order by chunk",
    )
    .bind(lease.organization)
    .bind(lease.job)
    .bind(lease.step)
    .fetch_all(connection)
    .await?;
    let (mut totals, mut seconds) = (Facts::new(), 0.0f64);
    for (output, age) in rows {
        seconds = seconds.max(age.unwrap_or(0.0));
        if let Some(Value::Object(output)) = output {
            add_up(&mut totals, output);
        }
    }
    Ok((totals, Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

/// Numbers are added, objects member by member; of anything else the first one stays.
fn add_up(totals: &mut Facts, output: Facts) {
    for (name, value) in output {
        match (totals.get_mut(&name), value) {
            (None, value) => {
                totals.insert(name, value);
            }
            (Some(Value::Object(total)), Value::Object(more)) => add_up(total, more),
            (Some(total @ Value::Number(_)), Value::Number(more)) => {
                *total = match (total.as_i64(), more.as_i64()) {
                    (Some(one), Some(two)) => Value::from(one.saturating_add(two)),
                    _ => Value::from(total.as_f64().unwrap_or(0.0) + more.as_f64().unwrap_or(0.0)),
                };
            }
            _ => {}
        }
    }
}

/// How far the chunks of a job are.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ChunkProgress {
    /// Chunks of the job.
    pub total: i64,
    /// Those that have ended the region.
    pub done: i64,
    /// Those that ended it since it was fanned out.
    pub done_now: i64,
    /// Since when it is fanned out.
    pub opened_at: Option<OffsetDateTime>,
    /// When the last chunk ended it.
    pub last_at: Option<OffsetDateTime>,
}

/// Progress of the region from `start` to `last`.
///
/// # Errors
/// [`DbError`].
pub async fn progress(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    start: i16,
    last: i16,
) -> Result<ChunkProgress, DbError> {
    Ok(sqlx::query_as(
        "with o as (
           select finished_at at
           from chunk_steps
           where organization_id = $1 and job_id = $2 and step = $3 and chunk = 0)
         select (select count(*) from chunks where organization_id = $1 and job_id = $2) total,
                count(*) done,
                count(*) filter (where s.finished_at >= (select at from o)) done_now,
                (select at from o) opened_at,
                max(s.finished_at) last_at
         from chunk_steps s
         where s.organization_id = $1
           and s.job_id = $2
           and s.chunk > 0
           and (s.step = $4 and s.status = 'succeeded' or s.step between $3 and $4 and s.status = 'failed')",
    )
    .bind(organization)
    .bind(job)
    .bind(start)
    .bind(last)
    .fetch_one(connection)
    .await?)
}

/// Jobs that wait for chunks of which none is left: must be none; mended. Answers how many were found.
///
/// # Errors
/// [`DbError`].
pub async fn mend_waiting(connection: &mut PgConnection) -> Result<i64, DbError> {
    let stalled: Vec<(Uuid, i64)> = sqlx::query_as(
        "select w.organization_id, w.seq
         from queue w
         where w.state = 'waiting'
           and not exists (
             select from queue c
             where c.organization_id = w.organization_id and c.seq = w.seq and c.chunk > 0)
         limit 100",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut mended = 0;
    for (organization, seq) in stalled {
        let joined: bool = sqlx::query_scalar("select join_chunks($1, $2)")
            .bind(organization)
            .bind(seq)
            .fetch_one(&mut *connection)
            .await?;
        mended += i64::from(joined);
    }
    Ok(mended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn outputs_are_added_up_member_by_member() {
        let mut totals = Facts::new();
        for output in [
            json!({"events": {"new": 2, "same": 1}, "kind": "ndjson", "bytes": 10}),
            json!({"events": {"new": 3}, "kind": "other", "bytes": 1.5, "late": true}),
        ] {
            add_up(&mut totals, output.as_object().unwrap().clone());
        }
        let expected = json!({"events": {"new": 5, "same": 1}, "kind": "ndjson", "bytes": 11.5, "late": true});
        assert_eq!(Value::Object(totals), expected);
    }
}
