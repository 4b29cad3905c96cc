//! SQL that looks jobs up for people: pages of a filter, newest first, each within a bound of time whatever the filter is;
//! a payload's jobs; facts of a payload.
//!
//! A page looks through [`WINDOW`] jobs at most. A filter that meets few of many jobs is answered with what was found among
//! them and a place to go on from; without that bound a page would read every job there is.

use super::jobs::{JobFilter, JobRow};
use super::jobs_store::{JOB_COLUMNS, PAGE_MAX, push_filter};
use super::state::JobStatus;
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use time::OffsetDateTime;
use uuid::Uuid;

/// Jobs that one page looks through, at most.
pub const WINDOW: i64 = 20_000;
/// Of the first look: what people look for is mostly new.
const WINDOW_FIRST: i64 = 2_000;
/// Between the clock that makes ids and the database's, at most; a job's id holds when it was made (UUIDv7).
const CLOCKS_APART_MS: i128 = 24 * 3_600 * 1_000;

/// A page of a search.
pub struct Found {
    /// Newest first.
    pub rows: Vec<JobRow>,
    /// Give it as `after` for the next page; none: there are no more.
    pub next: Option<JobId>,
    /// The page ends because enough jobs were looked through, back to about this instant, not because it is full.
    pub looked_back_to: Option<OffsetDateTime>,
}

/// A page of the jobs that meet the filter, newest first, behind `after`; one organization's, or all (scope `Platform`).
/// A full page holds `limit` jobs, at most [`PAGE_MAX`].
///
/// # Errors
/// [`DbError`].
pub async fn search(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    filter: &JobFilter,
    after: Option<JobId>,
    limit: i64,
) -> Result<Found, DbError> {
    let limit = limit.clamp(1, PAGE_MAX);
    let mut below = [after.map(|after| after.0), filter.created_before.and_then(id_after)].into_iter().flatten().min();
    let oldest = filter.created_after.and_then(id_before);
    let (mut reach, mut looked) = (WINDOW_FIRST, 0);
    let mut rows: Vec<JobRow> = Vec::new();
    loop {
        let from = reach_down(connection, organization, filter, below, reach).await?;
        // Nothing older can meet the filter.
        let is_end = from.is_none_or(|from| oldest.is_some_and(|oldest| from <= oldest));
        let from = if is_end { oldest } else { from };
        let wanted = limit + 1 - i64::try_from(rows.len()).unwrap_or(limit);
        rows.extend(between(connection, organization, filter, (from, below), wanted).await?);
        if i64::try_from(rows.len()).unwrap_or(i64::MAX) > limit {
            rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            let next = rows.last().map(|row| row.id);
            return Ok(Found { rows, next, looked_back_to: None });
        }
        let Some(from) = from.filter(|_| !is_end) else {
            return Ok(Found { rows, next: None, looked_back_to: None });
        };
        looked += reach;
        if looked >= WINDOW {
            return Ok(Found { rows, next: Some(JobId(from)), looked_back_to: Some(made_at(from)) });
        }
        (below, reach) = (Some(from), WINDOW - looked);
    }
}

/// Push what an index on jobs can decide alone.
fn push_indexed(query: &mut QueryBuilder<Postgres>, filter: &JobFilter) {
    if let Some(status) = filter.status {
        let stored =
            if matches!(status, JobStatus::Running | JobStatus::Retrying) { JobStatus::Queued } else { status };
        query.push(" and j.status = ").push_bind(stored.as_str());
    } else if filter.is_live {
        query.push(" and j.status = 'queued'");
    }
    if let Some(code) = filter.error_code.as_ref().filter(|_| filter.status == Some(JobStatus::Failed)) {
        query.push(" and j.error_code = ").push_bind(code.clone());
    }
}

/// The id that lies so many jobs below; none if there are not as many. Over several organizations each has its share, and the
/// newest of their ends counts, so that none is looked through only in part.
async fn reach_down(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    filter: &JobFilter,
    below: Option<Uuid>,
    jobs: i64,
) -> Result<Option<Uuid>, DbError> {
    let mut query = QueryBuilder::<Postgres>::new("");
    if organization.is_none() {
        query.push("select ends.id from organizations o cross join lateral (");
    }
    query.push("select j.id from jobs j where j.organization_id = ");
    match organization {
        Some(organization) => query.push_bind(organization),
        None => query.push("o.id"),
    };
    push_indexed(&mut query, filter);
    if let Some(below) = below {
        query.push(" and j.id < ").push_bind(below);
    }
    query.push(" order by j.id desc offset ");
    if organization.is_some() {
        query.push_bind(jobs - 1).push(" limit 1");
    } else {
        // Rounded up, so that it is never none.
        query.push("(select ").push_bind(jobs).push(" / greatest(count(*), 1) from organizations) limit 1");
        query.push(") ends order by ends.id desc limit 1");
    }
    Ok(query.build_query_scalar().fetch_optional(connection).await?)
}

/// Jobs that meet the filter with ids in `from..below`, newest first.
async fn between(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    filter: &JobFilter,
    (from, below): (Option<Uuid>, Option<Uuid>),
    limit: i64,
) -> Result<Vec<JobRow>, DbError> {
    let mut query = QueryBuilder::<Postgres>::new("");
    if let Some(organization) = organization {
        query.push(JOB_COLUMNS).push(" where j.organization_id = ").push_bind(organization);
    } else {
        query.push("select p.* from organizations o cross join lateral (");
        query.push(JOB_COLUMNS).push(" where j.organization_id = o.id");
    }
    push_filter(&mut query, filter);
    if let Some(from) = from {
        query.push(" and j.id >= ").push_bind(from);
    }
    if let Some(below) = below {
        query.push(" and j.id < ").push_bind(below);
    }
    query.push(" order by j.id desc limit ").push_bind(limit);
    if organization.is_none() {
        query.push(") p order by p.id desc limit ").push_bind(limit);
    }
    Ok(query.build_query_as().fetch_all(connection).await?)
}

/// A job that brought these bytes, by the keys that know it: the one whose hash is its idempotency key, or an upload. Jobs that
/// had an idempotency key of their own are found by [`search`] only.
///
/// # Errors
/// [`DbError`].
pub async fn find_by_payload(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    sha256: &[u8],
) -> Result<Vec<(OrganizationId, JobId)>, DbError> {
    Ok(sqlx::query_as(
        "select o.id, f.job_id
         from organizations o
         cross join lateral (
           select k.job_id from idempotency_keys k
           where k.organization_id = o.id
             and k.scope in (select distinct name from workflow_definitions)
             and k.key = 'sha256:' || encode($2, 'hex')
           union
           -- The words of the partial index.
           select j.id from jobs j
           where j.organization_id = o.id and j.payload_sha256 = $2 and j.source = 'upload' and j.payload_sha256 is not null) f
         where $1::uuid is null or o.id = $1
         order by f.job_id desc
         limit 50",
    )
    .bind(organization)
    .bind(sha256)
    .fetch_all(connection)
    .await?)
}

/// Where a payload's bytes are.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PayloadPlace {
    /// First received.
    pub created_at: OffsetDateTime,
    /// In object storage since.
    pub stored_at: Option<OffsetDateTime>,
    /// Still in the database.
    pub is_in_database: bool,
    /// Erased since.
    pub purged_at: Option<OffsetDateTime>,
    /// Let go because of its age since.
    pub expired_at: Option<OffsetDateTime>,
}

/// Where the bytes with that hash are.
///
/// # Errors
/// [`DbError`].
pub async fn payload_place(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8],
) -> Result<Option<PayloadPlace>, DbError> {
    Ok(sqlx::query_as(
        "select created_at, stored_at, body is not null is_in_database, purged_at, expired_at
         from payloads
         where organization_id = $1 and sha256 = $2",
    )
    .bind(organization)
    .bind(sha256)
    .fetch_optional(connection)
    .await?)
}

/// Milliseconds since 1970 as the smallest `UUIDv7` of that instant (RFC 9562, 5.7).
fn id_at(ms: i128) -> Option<Uuid> {
    let ms = u128::try_from(ms.max(0)).ok().filter(|ms| *ms < 1 << 48)?;
    Some(Uuid::from_u128(ms << 80))
}

/// Every job that was accepted before the instant has a smaller id.
fn id_after(at: OffsetDateTime) -> Option<Uuid> {
    id_at(at.unix_timestamp_nanos() / 1_000_000 + CLOCKS_APART_MS)
}

/// Every job that was accepted at or after the instant has a greater id.
fn id_before(at: OffsetDateTime) -> Option<Uuid> {
    id_at(at.unix_timestamp_nanos() / 1_000_000 - CLOCKS_APART_MS)
}

/// When an id was made.
fn made_at(id: Uuid) -> OffsetDateTime {
    let ms = i128::try_from(id.as_u128() >> 80).unwrap_or_default();
    OffsetDateTime::from_unix_timestamp_nanos(ms * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_bound_the_time_of_their_making_with_a_day_between_clocks() {
        let at = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let day = time::Duration::hours(24);
        assert_eq!(made_at(id_after(at).unwrap()), at + day);
        assert_eq!(made_at(id_before(at).unwrap()), at - day);
        assert!(id_before(at).unwrap() < id_after(at).unwrap());
        assert_eq!(id_before(OffsetDateTime::UNIX_EPOCH).unwrap(), Uuid::nil());
    }
}
