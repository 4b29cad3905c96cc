//! SQL of an operation's targets: found, listed, planned, acted on, taken back.

use super::plan::{Ended, Finished};
use super::{OperationJob, OperationKind};
use crate::audit::Actor;
use crate::db::DbError;
use crate::engine::jobs::JobFilter;
use crate::engine::jobs_store::{NextRound, push_filter};
use crate::engine::store::PROGRAM_VERSION;
use crate::ids::{JobId, OperationId, OrganizationId};
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use time::OffsetDateTime;

/// From here on the transaction is about these organizations' rows.
///
/// # Errors
/// [`DbError`].
pub async fn enter(
    connection: &mut PgConnection,
    home: OrganizationId,
    others: impl IntoIterator<Item = OrganizationId>,
) -> Result<(), DbError> {
    let mut organizations: Vec<String> = others.into_iter().chain([home]).map(|one| one.0.to_string()).collect();
    organizations.sort_unstable();
    organizations.dedup();
    sqlx::query("select set_config('app.organization', $1, true)")
        .bind(format!("{{{}}}", organizations.join(",")))
        .execute(connection)
        .await?;
    Ok(())
}

/// How many jobs a filter meets, up to `limit`; of one organization, or of all (scope `Platform`).
///
/// # Errors
/// [`DbError`].
pub async fn count(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    filter: &JobFilter,
    limit: i64,
) -> Result<i64, DbError> {
    let mut query = QueryBuilder::<Postgres>::new(
        "select count(*) from (
           select from jobs j
           left join queue q on q.organization_id = j.organization_id and q.seq = j.seq and q.chunk = 0
           where true",
    );
    if let Some(organization) = organization {
        query.push(" and j.organization_id = ").push_bind(organization);
    }
    push_filter(&mut query, filter);
    query.push(" limit ").push_bind(limit).push(") met");
    Ok(query.build_query_scalar().fetch_one(connection).await?)
}

/// The first organization at or behind that place.
///
/// # Errors
/// [`DbError`].
pub async fn organization_from(
    connection: &mut PgConnection,
    from: Option<OrganizationId>,
    behind: bool,
) -> Result<Option<OrganizationId>, DbError> {
    Ok(sqlx::query_scalar(
        "select id from organizations
         where $1::uuid is null or id > $1 or (id = $1 and not $2)
         order by id limit 1",
    )
    .bind(from)
    .bind(behind)
    .fetch_optional(connection)
    .await?)
}

/// The next jobs of an organization that meet the filter, by id, and met it when the operation began: ended before, or for a
/// cancel accepted before.
///
/// # Errors
/// [`DbError`].
pub async fn select(
    connection: &mut PgConnection,
    organization: OrganizationId,
    (kind, begun): (OperationKind, OffsetDateTime),
    filter: &JobFilter,
    after: Option<JobId>,
    limit: i64,
) -> Result<Vec<JobId>, DbError> {
    let mut query = QueryBuilder::<Postgres>::new(
        "select j.id
         from jobs j
         left join queue q on q.organization_id = j.organization_id and q.seq = j.seq and q.chunk = 0
         where j.organization_id = ",
    );
    query.push_bind(organization);
    push_filter(&mut query, filter);
    let then = if kind == OperationKind::Cancel { " and j.created_at <= " } else { " and j.finished_at <= " };
    query.push(then).push_bind(begun);
    if let Some(after) = after {
        query.push(" and j.id > ").push_bind(after);
    }
    query.push(" order by j.id limit ").push_bind(limit);
    Ok(query.build_query_scalar().fetch_all(connection).await?)
}

/// Where the jobs with these ids are; of one organization, or of all (scope `Platform`).
///
/// # Errors
/// [`DbError`].
pub async fn locate(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    ids: &[JobId],
) -> Result<Vec<(OrganizationId, JobId)>, DbError> {
    Ok(sqlx::query_as(
        "select j.organization_id, j.id
         from unnest($2::uuid[]) t(id)
         cross join organizations o
         join jobs j on j.organization_id = o.id and j.id = t.id
         where $1::uuid is null or o.id = $1
         order by j.id",
    )
    .bind(organization)
    .bind(ids)
    .fetch_all(connection)
    .await?)
}

/// Write targets at the positions behind `after`.
///
/// # Errors
/// [`DbError`].
pub async fn insert(
    connection: &mut PgConnection,
    home: OrganizationId,
    operation: OperationId,
    after: i32,
    targets: &[(OrganizationId, JobId)],
) -> Result<(), DbError> {
    let (organizations, jobs): (Vec<OrganizationId>, Vec<JobId>) = targets.iter().copied().unzip();
    sqlx::query(
        "insert into operation_jobs (organization_id, operation_id, position, job_organization_id, job_id)
         select $1, $2, $3 + n, o, job
         from unnest($4::uuid[], $5::uuid[]) with ordinality t(o, job, n)
         order by n",
    )
    .bind(home)
    .bind(operation)
    .bind(after)
    .bind(organizations)
    .bind(jobs)
    .execute(connection)
    .await?;
    Ok(())
}

/// A page of targets behind a position.
///
/// # Errors
/// [`DbError`].
pub async fn list(
    connection: &mut PgConnection,
    home: OrganizationId,
    operation: OperationId,
    state: Option<&str>,
    after: i32,
    limit: i64,
) -> Result<Vec<OperationJob>, DbError> {
    Ok(sqlx::query_as(
        "select position, job_id, job_organization_id, state, note, round, result, acted_at
         from operation_jobs
         where organization_id = $1 and operation_id = $2 and position > $4 and ($3::text is null or state = $3)
         order by position
         limit $5",
    )
    .bind(home)
    .bind(operation)
    .bind(state)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}

/// A target by its position.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Target {
    /// Place.
    pub position: i32,
    /// Whose job.
    pub job_organization_id: OrganizationId,
    /// The job.
    pub job_id: JobId,
    /// The round that was opened.
    pub round: Option<i32>,
}

/// The next targets that wait.
///
/// # Errors
/// [`DbError`].
pub async fn waiting(
    connection: &mut PgConnection,
    home: OrganizationId,
    operation: OperationId,
    limit: i64,
) -> Result<Vec<Target>, DbError> {
    Ok(sqlx::query_as(
        "select position, job_organization_id, job_id, round
         from operation_jobs
         where organization_id = $1 and operation_id = $2 and state = 'waiting'
         order by position
         limit $3",
    )
    .bind(home)
    .bind(operation)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}

/// The next targets behind a position that were acted on and whose result is open.
///
/// # Errors
/// [`DbError`].
pub async fn open(
    connection: &mut PgConnection,
    home: OrganizationId,
    operation: OperationId,
    after: i32,
    limit: i64,
) -> Result<Vec<Target>, DbError> {
    Ok(sqlx::query_as(
        "select position, job_organization_id, job_id, round
         from operation_jobs
         where organization_id = $1 and operation_id = $2 and state = 'acted' and result is null and position > $3
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

/// A job about to get another round.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct EndedJob {
    /// Whose.
    pub organization_id: OrganizationId,
    /// The job.
    pub id: JobId,
    /// Workflow.
    pub workflow: String,
    /// Pinned version.
    pub workflow_version: i32,
    /// Round.
    pub round: i32,
    /// Where it began.
    pub round_first_step: i16,
    /// Lane.
    pub lane: Option<i64>,
    /// Finished steps of all rounds.
    pub steps: Json<Vec<Finished>>,
}

impl EndedJob {
    /// What the plan needs of it.
    #[must_use]
    pub fn ended(&self) -> Ended {
        Ended { round: self.round, first: self.round_first_step, version: self.workflow_version }
    }
}

/// These jobs with their finished steps; those that are gone are left out.
///
/// # Errors
/// [`DbError`].
pub async fn jobs(connection: &mut PgConnection, wanted: &[(OrganizationId, JobId)]) -> Result<Vec<EndedJob>, DbError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<JobId>) = wanted.iter().copied().unzip();
    Ok(sqlx::query_as(
        "select j.organization_id, j.id, j.workflow, j.workflow_version, j.round, j.round_first_step, j.lane,
                coalesce(
                  (select jsonb_agg(jsonb_build_object('round', s.round, 'step', s.step, 'name', s.name, 'status', s.status))
                   from job_steps s
                   where s.organization_id = j.organization_id and s.job_id = j.id), '[]') steps
         from unnest($1::uuid[], $2::uuid[]) t(o, job)
         join jobs j on j.organization_id = t.o and j.id = t.job",
    )
    .bind(organizations)
    .bind(ids)
    .fetch_all(connection)
    .await?)
}

/// Of these positions, those that still wait. The caller holds the operation's row.
///
/// # Errors
/// [`DbError`].
pub async fn still_waiting(
    connection: &mut PgConnection,
    home: OrganizationId,
    operation: OperationId,
    positions: &[i32],
) -> Result<Vec<i32>, DbError> {
    Ok(sqlx::query_scalar(
        "select position
         from operation_jobs
         where organization_id = $1 and operation_id = $2 and position = any ($3) and state = 'waiting'",
    )
    .bind(home)
    .bind(operation)
    .bind(positions)
    .fetch_all(connection)
    .await?)
}

/// Take the locks of lanes, sorted and each once.
///
/// # Errors
/// [`DbError`].
pub async fn lock_lanes(
    connection: &mut PgConnection,
    lanes: impl Iterator<Item = Option<i64>>,
) -> Result<(), DbError> {
    let mut lanes: Vec<i64> = lanes.flatten().collect();
    lanes.sort_unstable();
    lanes.dedup();
    if !lanes.is_empty() {
        sqlx::query("select lock_lanes($1)").bind(lanes).execute(connection).await?;
    }
    Ok(())
}

/// The lanes of these jobs.
///
/// # Errors
/// [`DbError`].
pub async fn lanes(connection: &mut PgConnection, targets: &[Target]) -> Result<Vec<Option<i64>>, DbError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<JobId>) =
        targets.iter().map(|target| (target.job_organization_id, target.job_id)).unzip();
    Ok(sqlx::query_scalar(
        "select j.lane
         from unnest($1::uuid[], $2::uuid[]) t(o, job)
         join jobs j on j.organization_id = t.o and j.id = t.job",
    )
    .bind(organizations)
    .bind(ids)
    .fetch_all(connection)
    .await?)
}

/// A target with its plan.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Place.
    pub position: i32,
    /// Whose job.
    pub organization: OrganizationId,
    /// The job.
    pub job: JobId,
    /// Its lane.
    pub lane: Option<i64>,
    /// Its next round.
    pub next: NextRound,
}

/// Open the next round of each, in the order of their ids: position, and the word for what came of it. What an undo will need is
/// kept with the targets and never leaves the database: of a large file it is tens of megabytes. The caller holds their lanes.
///
/// # Errors
/// [`DbError`].
pub async fn retry(
    connection: &mut PgConnection,
    (home, operation): (OrganizationId, OperationId),
    planned: &[Planned],
    actor: &Actor,
    reason: &str,
) -> Result<Vec<(i32, String)>, DbError> {
    sqlx::query_as(
        "with done as materialized (
           select t.position, r.answer, r.before
           from (
             select * from unnest($1::int[], $2::uuid[], $3::uuid[], $4::int[], $5::smallint[], $6::int[], $7::text[], $8::smallint[])
               u(position, o, job, round, step, version, chunks, step_from)
             order by u.job) t
           cross join lateral retry_job_undoably(t.o, t.job, t.round, t.step, t.version, t.chunks, t.step_from, $9, $10, $11, $12, $13, $14) r
         ), kept as (
           update operation_jobs k
           set before = d.before
           from done d
           where k.organization_id = $15 and k.operation_id = $16 and k.position = d.position
         )
         select position, answer from done",
    )
    .bind(planned.iter().map(|one| one.position).collect::<Vec<_>>())
    .bind(planned.iter().map(|one| one.organization).collect::<Vec<_>>())
    .bind(planned.iter().map(|one| one.job).collect::<Vec<_>>())
    .bind(planned.iter().map(|one| one.next.after).collect::<Vec<_>>())
    .bind(planned.iter().map(|one| one.next.step).collect::<Vec<_>>())
    .bind(planned.iter().map(|one| one.next.version).collect::<Vec<_>>())
    .bind(planned.iter().map(|one| one.next.chunks.as_str().to_owned()).collect::<Vec<_>>())
    .bind(planned.iter().map(|one| one.next.from).collect::<Vec<_>>())
    .bind(&actor.name)
    .bind(&actor.authentication)
    .bind(&actor.address)
    .bind(&actor.request_id)
    .bind(reason)
    .bind(PROGRAM_VERSION)
    .bind(home)
    .bind(operation)
    .fetch_all(connection)
    .await
    .map_err(DbError::from)
}

/// Take back each, in the order of their ids. The caller holds their lanes.
///
/// # Errors
/// [`DbError`].
pub async fn undo(
    connection: &mut PgConnection,
    (home, operation): (OrganizationId, OperationId),
    targets: &[Target],
    actor: &Actor,
    reason: &str,
) -> Result<Vec<(i32, String)>, DbError> {
    sqlx::query_as(
        "select t.position, undo_retry(t.job_organization_id, t.job_id, t.round, t.before, $4, $5, $6, $7, $8, $9)
         from (
           select k.position, k.job_organization_id, k.job_id, k.round, k.before
           from operation_jobs k
           where k.organization_id = $1 and k.operation_id = $2 and k.position = any ($3)
           order by k.job_id) t",
    )
    .bind(home)
    .bind(operation)
    .bind(targets.iter().map(|target| target.position).collect::<Vec<_>>())
    .bind(&actor.name)
    .bind(&actor.authentication)
    .bind(&actor.address)
    .bind(&actor.request_id)
    .bind(reason)
    .bind(PROGRAM_VERSION)
    .fetch_all(connection)
    .await
    .map_err(DbError::from)
}

/// What became of a target.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Place.
    pub position: i32,
    /// Its state from now on.
    pub state: &'static str,
    /// Why.
    pub note: Option<&'static str>,
    /// The round that was opened.
    pub round: Option<i32>,
    /// Already known.
    pub result: Option<&'static str>,
}

/// Write what became of targets.
///
/// # Errors
/// [`DbError`].
pub async fn mark(
    connection: &mut PgConnection,
    home: OrganizationId,
    operation: OperationId,
    marks: &[Mark],
) -> Result<(), DbError> {
    sqlx::query(
        "update operation_jobs t
         set state = m.state, note = m.note, round = m.round, before = case when m.state = 'acted' then t.before end,
             result = m.result, acted_at = chartgate_now()
         from unnest($3::int[], $4::text[], $5::text[], $6::int[], $7::text[]) m(position, state, note, round, result)
         where t.organization_id = $1 and t.operation_id = $2 and t.position = m.position",
    )
    .bind(home)
    .bind(operation)
    .bind(marks.iter().map(|mark| mark.position).collect::<Vec<_>>())
    .bind(marks.iter().map(|mark| mark.state.to_owned()).collect::<Vec<_>>())
    .bind(marks.iter().map(|mark| mark.note.map(str::to_owned)).collect::<Vec<_>>())
    .bind(marks.iter().map(|mark| mark.round).collect::<Vec<_>>())
    .bind(marks.iter().map(|mark| mark.result.map(str::to_owned)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
