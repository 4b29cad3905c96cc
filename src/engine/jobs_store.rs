//! SQL behind [`super::jobs`] and behind the acts on jobs: cancel, retry, bulk retry.

use super::definition::WorkflowDefinition;
use super::jobs::{AttemptRow, JobFilter, JobRow, StepRow};
use super::state::JobStatus;
use super::store::PROGRAM_VERSION;
use super::timeline::RecordRow;
use crate::audit::Actor;
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

/// Rows of one page, at most.
pub const PAGE_MAX: i64 = 200;

const JOB_COLUMNS: &str =
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
        "select at, event, step, actor, purpose
         from audit_records
         where organization_id = $1
           and job_id = $2
           -- The words of the partial index.
           and event in ('job.cancelled', 'job.retried', 'job.parked', 'job.stepped_aside', 'job.failed', 'lease.lost')
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

fn push_filter(query: &mut QueryBuilder<Postgres>, filter: &JobFilter) {
    match filter.status {
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
    fn as_str(self) -> &'static str {
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
        .fetch_one(connection)
        .await?;
    Ok(match answer.as_str() {
        "retried" => Acted::Done,
        "not_terminal" => Acted::Refused,
        _ => Acted::Unknown,
    })
}

/// The jobs that a filter meets, oldest first, up to `limit`. Without an organization all that it meets are sorted.
///
/// # Errors
/// [`DbError`].
pub async fn match_jobs(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    filter: &JobFilter,
    limit: i64,
) -> Result<Vec<(Uuid, Uuid)>, DbError> {
    let mut query = QueryBuilder::<Postgres>::new(
        "select j.organization_id, j.id
         from jobs j
         left join queue q on q.organization_id = j.organization_id and q.seq = j.seq and q.chunk = 0
         where true",
    );
    if let Some(organization) = organization {
        query.push(" and j.organization_id = ").push_bind(organization);
    }
    push_filter(&mut query, filter);
    query.push(" order by j.id limit ").push_bind(limit);
    Ok(query.build_query_as().fetch_all(connection).await?)
}

/// One group of failures: same workflow, step and code.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureGroup {
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
        "select workflow, error_step step, error_code code, error_class class, count(*) count, min(finished_at) first_seen, max(finished_at) last_seen
         from jobs
         where status = 'failed'",
    );
    if let Some(organization) = organization {
        query.push(" and organization_id = ").push_bind(organization);
    }
    query.push(" group by workflow, error_step, error_code, error_class order by count(*) desc limit 200");
    Ok(query.build_query_as().fetch_all(connection).await?)
}
