//! SQL behind [`super::jobs`] and behind the acts on one job: cancel, retry.

use super::definition::WorkflowDefinition;
use super::explain::Situation;
use super::jobs::{AttemptRow, JobFilter, JobRow, StepRow};
use super::state::JobStatus;
use super::store::PROGRAM_VERSION;
use super::timeline::RecordRow;
use super::traces_store::{self, Begun};
use crate::audit::Actor;
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId};
use sqlx::{PgConnection, Postgres, QueryBuilder};

/// Rows of one page, at most.
pub const PAGE_MAX: i64 = 200;

pub(super) const JOB_COLUMNS: &str =
    "select j.organization_id, j.id, j.workflow, j.workflow_version, j.source, j.status, j.resource_count, j.result,
       j.error_code, j.error_class, j.error_message, j.round, j.round_first_step, j.submitted_by,
       j.payload_sha256, j.size_bytes, j.content_type, j.created_at, j.updated_at, j.finished_at, j.progress_total, j.duplicate_of,
       q.state queue_state, q.step queue_step, q.attempts queue_attempts, q.deaths queue_deaths, q.run_at, q.claimed_at
from jobs j
left join queue q on q.organization_id = j.organization_id and q.seq = j.seq and q.chunk = 0";

/// One job with its live queue row.
///
/// # Errors
/// [`DbError`].
pub async fn find_job(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<Option<JobRow>, DbError> {
    let mut query = QueryBuilder::<Postgres>::new(JOB_COLUMNS);
    query.push(" where j.organization_id = ").push_bind(organization).push(" and j.id = ").push_bind(job);
    Ok(query.build_query_as().fetch_optional(connection).await?)
}

/// What keeps a job waiting, and what else its status does not say.
///
/// # Errors
/// [`DbError`].
pub async fn situation_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<Situation, DbError> {
    let found = sqlx::query_as(
        "select q.state queue_state, coalesce(q.deaths, 0::smallint) deaths, q.run_at, q.lease_until,
                o.status <> 'active' is_paused,
                o.running_max is not null
                  and (select count(*) from queue l where l.organization_id = o.id and l.state = 'leased') >= o.running_max is_capped,
                h.job_id head, h.state head_state, h.run_at head_run_at,
                case when h.job_id is null then 0
                  else (select count(*) from (select from queue a
                                              where a.organization_id = o.id and a.lane = q.lane and a.seq < q.seq limit 1000) before)
                end ahead,
                u.expires_at upload_until,
                (select count(*) from chunk_steps c where c.organization_id = o.id and c.job_id = j.id and c.status = 'failed') chunks_failed,
                (select count(*) from workers w where not w.roles <@ array['api', 'watcher', 'sweeper'] and w.stopped_at is null and w.last_seen_at > chartgate_now() - interval '1 minute') workers,
                chartgate_now() now
         from jobs j
         join organizations o on o.id = j.organization_id
         left join queue q on q.organization_id = j.organization_id and q.seq = j.seq and q.chunk = 0
         -- Only for who is behind it.
         left join queue h on q.state = 'blocked' and h.organization_id = q.organization_id and h.lane = q.lane and h.state <> 'blocked'
         left join uploads u on u.organization_id = j.organization_id and u.id = j.id
         where j.organization_id = $1 and j.id = $2
         limit 1",
    );
    let found: Option<Situation> = found.bind(organization).bind(job).fetch_optional(connection).await?;
    Ok(found.unwrap_or_default())
}

/// The organization of a job, over all organizations (scope `Platform`). One key probe an organization: job ids are
/// unique, but every key of a tenant table starts with the organization.
///
/// # Errors
/// [`DbError`].
pub async fn find_organization(connection: &mut PgConnection, job: JobId) -> Result<Option<OrganizationId>, DbError> {
    Ok(sqlx::query_scalar(
        "select o.id
         from organizations o
         where exists (select from jobs j where j.organization_id = o.id and j.id = $1)
         limit 1",
    )
    .bind(job)
    .fetch_optional(connection)
    .await?)
}

/// Finished steps of all rounds.
///
/// # Errors
/// [`DbError`].
pub async fn steps_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<Vec<StepRow>, DbError> {
    Ok(sqlx::query_as(
        "select round, step, name, status, attempts, started_at, finished_at, error_code, error_class, error_message, output
         from job_steps
         where organization_id = $1 and job_id = $2
         order by round, step",
    )
    .bind(organization)
    .bind(job)
    .fetch_all(connection)
    .await?)
}

/// Which attempts are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempts {
    /// At the job's own steps.
    OfJob,
    /// Those at its chunks, too.
    All,
}

/// Attempts that did not succeed, of all rounds; the newest thousand, the job's own before those of chunks.
///
/// # Errors
/// [`DbError`].
pub async fn attempts_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    which: Attempts,
) -> Result<Vec<AttemptRow>, DbError> {
    Ok(sqlx::query_as(
        "select round, step, chunk, attempt, outcome, error_code, error_class, error_message, started_at, finished_at, next_attempt_at
         from step_attempts
         where organization_id = $1 and job_id = $2 and (chunk = 0 or $3)
         order by chunk > 0, round desc, finished_at desc
         limit 1000",
    )
    .bind(organization)
    .bind(job)
    .bind(which == Attempts::All)
    .fetch_all(connection)
    .await?)
}

/// The acts on a job that its own rows do not tell.
///
/// # Errors
/// [`DbError`].
pub async fn records_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<Vec<RecordRow>, DbError> {
    Ok(sqlx::query_as(
        "select id, at, event, step, actor, purpose
         from audit_records
         where organization_id = $1
           and job_id = $2
           -- The words of the partial index.
           and event in ('job.cancelled', 'job.retried', 'job.parked', 'job.stepped_aside', 'job.failed', 'lease.lost')
         union all
         -- Has an index of its own.
         select id, at, event, step, actor, purpose
         from audit_records
         where organization_id = $1 and job_id = $2 and event = 'job.retry_undone'
         order by id
         limit 1000",
    )
    .bind(organization)
    .bind(job)
    .fetch_all(connection)
    .await?)
}

/// A page of jobs, newest first, after the cursor; one organization's, or all (scope `Platform`).
///
/// # Errors
/// [`DbError`].
pub async fn list_jobs(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    filter: &JobFilter,
    after: Option<JobId>,
    limit: i64,
) -> Result<Vec<JobRow>, DbError> {
    let limit = limit.clamp(1, PAGE_MAX + 1);
    let mut query = QueryBuilder::<Postgres>::new("");
    if let Some(organization) = organization {
        query.push(JOB_COLUMNS).push(" where j.organization_id = ").push_bind(organization);
    } else {
        // A page of each organization by its own key, then the newest of them: no index begins with the job's id.
        query.push("select p.* from organizations o cross join lateral (");
        query.push(JOB_COLUMNS).push(" where j.organization_id = o.id");
    }
    push_filter(&mut query, filter);
    if let Some(after) = after {
        query.push(" and j.id < ").push_bind(after);
    }
    query.push(" order by j.id desc limit ").push_bind(limit);
    if organization.is_none() {
        query.push(") p order by p.id desc limit ").push_bind(limit);
    }
    Ok(query.build_query_as().fetch_all(connection).await?)
}

/// The conditions of a filter, on `jobs j` left joined with `queue q`.
pub(super) fn push_filter(query: &mut QueryBuilder<Postgres>, filter: &JobFilter) {
    match filter.status {
        None if filter.is_live => {
            query.push(" and j.status = 'queued'");
        }
        None => {}
        // Live statuses are told apart by the queue row, as in `jobs::live_status`.
        Some(JobStatus::Running) => {
            query.push(" and j.status = 'queued' and (q.state in ('leased', 'waiting') or (q.state in ('ready', 'blocked') and q.attempts = 0 and q.deaths = 0 and q.step > j.round_first_step))");
        }
        Some(JobStatus::Retrying) => {
            query.push(" and j.status = 'queued' and (q.state in ('delayed', 'suspect') or (q.state in ('ready', 'blocked') and (q.attempts > 0 or q.deaths > 0)))");
        }
        Some(JobStatus::Queued) => {
            query.push(" and j.status = 'queued' and q.state in ('ready', 'blocked') and q.attempts = 0 and q.deaths = 0 and q.step = j.round_first_step");
        }
        Some(terminal) => {
            query.push(" and j.status = ").push_bind(terminal.as_str());
        }
    }
    if filter.workflow.is_none() && filter.source.is_none() {
        // Deliveries of callbacks are jobs, too, but nobody's data: only who asks for them gets them.
        query.push(" and j.source <> 'callback'");
    }
    if let Some(workflow) = &filter.workflow {
        query.push(" and j.workflow = ").push_bind(workflow.clone());
    }
    if let Some(source) = &filter.source {
        query.push(" and j.source = ").push_bind(source.clone());
    }
    if let Some(code) = &filter.error_code {
        query.push(" and j.error_code = ").push_bind(code.clone());
    }
    if let Some(organization) = filter.organization {
        query.push(" and j.organization_id = ").push_bind(organization);
    }
    if let Some(step) = &filter.step {
        if let Ok(index) = step.parse::<i16>() {
            query.push(" and j.error_step = ").push_bind(index);
        } else {
            // One probe by key a job that failed: the step's name stands with its end.
            query
                .push(" and exists (select from job_steps s where s.organization_id = j.organization_id and s.job_id = j.id and s.round = j.round and s.step = j.error_step and s.name = ")
                .push_bind(step.clone())
                .push(")");
        }
    }
    if let Some(sha256) = &filter.payload_sha256 {
        query.push(" and j.payload_sha256 = decode(").push_bind(sha256.clone()).push(", 'hex')");
    }
    if let Some(after) = filter.ended_after {
        query.push(" and j.finished_at >= ").push_bind(after);
    }
    if let Some(before) = filter.ended_before {
        query.push(" and j.finished_at < ").push_bind(before);
    }
    if let Some(after) = filter.created_after {
        query.push(" and j.created_at >= ").push_bind(after);
    }
    if let Some(before) = filter.created_before {
        query.push(" and j.created_at < ").push_bind(before);
    }
}

/// What became of an act on a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acted {
    /// It was done.
    Done,
    /// The job's status does not allow it.
    Refused,
    /// There is no such job.
    Unknown,
}

/// Cancel a job that is not terminal: its lease, if any, is void from now on.
///
/// # Errors
/// [`DbError`].
pub async fn cancel_job(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    actor: &Actor,
    reason: Option<&str>,
) -> Result<Acted, DbError> {
    let answer: String = sqlx::query_scalar("select cancel_job($1, $2, $3, $4, $5, $6, $7, $8)")
        .bind(organization)
        .bind(job)
        .bind(&actor.name)
        .bind(&actor.authentication)
        .bind(&actor.address)
        .bind(&actor.request_id)
        .bind(reason)
        .bind(PROGRAM_VERSION)
        .fetch_one(connection)
        .await?;
    Ok(match answer.as_str() {
        "cancelled" => Acted::Done,
        "terminal" => Acted::Refused,
        _ => Acted::Unknown,
    })
}

/// Where a job's next round begins, and on what ground that was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextRound {
    /// The round that the caller saw ended; if the job has left it, somebody else was faster.
    pub after: i32,
    /// The first step.
    pub step: i16,
    /// Version of the workflow.
    pub version: i32,
    /// Which chunks run again.
    pub chunks: ChunksAgain,
    /// The step that was asked for; `step` is the first of its region.
    pub from: i16,
}

impl NextRound {
    /// The next round from `step` on, of a job without chunks or for those that did not succeed.
    #[must_use]
    pub fn at(definition: &WorkflowDefinition, after: i32, from: i16, chunks: ChunksAgain) -> Self {
        let start = usize::try_from(from).map(|index| definition.region(index).start).unwrap_or_default();
        let step = i16::try_from(start).unwrap_or(from);
        Self { after, step, version: definition.version, chunks, from }
    }
}

/// Which chunks of a job the next round runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunksAgain {
    /// Those that did not succeed.
    Failed,
    /// Those, and those with lines that were left out.
    Rejected,
    /// All.
    All,
}

impl ChunksAgain {
    /// The word for `retry_job()`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::All => "all",
        }
    }
}

/// Open the next round of a terminal job. Refused also if it has left the round on which the caller decided.
///
/// # Errors
/// [`DbError`].
pub async fn retry_job(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    next: NextRound,
    actor: &Actor,
    reason: Option<&str>,
) -> Result<Acted, DbError> {
    let answer: String = sqlx::query_scalar("select retry_job($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)")
        .bind(organization)
        .bind(job)
        .bind(next.after)
        .bind(next.step)
        .bind(next.version)
        .bind(next.chunks.as_str())
        .bind(next.from)
        .bind(&actor.name)
        .bind(&actor.authentication)
        .bind(&actor.address)
        .bind(&actor.request_id)
        .bind(reason)
        .bind(PROGRAM_VERSION)
        .fetch_one(&mut *connection)
        .await?;
    Ok(match answer.as_str() {
        "retried" => {
            traces_store::note(connection, Begun::by(organization, job, next.after + 1, actor.trace)).await?;
            Acted::Done
        }
        "not_terminal" => Acted::Refused,
        _ => Acted::Unknown,
    })
}

/// One group of failures: same workflow, step and code.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureGroup {
    /// `workflow/step/code`: what a bulk operation's filter takes as its `fingerprint`.
    pub fingerprint: String,
    /// Workflow name.
    pub workflow: String,
    /// Step index at which they failed.
    pub step: Option<i16>,
    /// Code.
    pub code: String,
    /// Class.
    pub class: String,
    /// How many failed jobs.
    pub count: i64,
    /// First seen.
    #[serde(with = "time::serde::rfc3339")]
    pub first_seen: time::OffsetDateTime,
    /// Last seen.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen: time::OffsetDateTime,
}

/// Failed jobs grouped by fingerprint, most frequent first.
///
/// # Errors
/// [`DbError`].
pub async fn failure_groups(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
) -> Result<Vec<FailureGroup>, DbError> {
    let mut query = QueryBuilder::<Postgres>::new(
        "select workflow || '/' || error_step || '/' || error_code fingerprint, workflow, error_step step, error_code code, error_class class, count(*) count, min(finished_at) first_seen, max(finished_at) last_seen
         from jobs
         where status = 'failed'",
    );
    if let Some(organization) = organization {
        query.push(" and organization_id = ").push_bind(organization);
    }
    query.push(" group by workflow, error_step, error_code, error_class order by count(*) desc limit 200");
    Ok(query.build_query_as().fetch_all(connection).await?)
}
