//! All SQL of the engine on the queue and on what a step's commit writes. The statements themselves are functions of
//! `migrations/0008_engine_functions.sql`, one round trip each; here are their Rust faces.

use crate::db::DbError;
use crate::engine::handler::{ErrorClass, Facts};
use crate::ids::{JobId, OrganizationId, WorkerId};
use crate::telemetry::traces::JobTrace;
use serde_json::Value;
use sqlx::PgConnection;
use std::borrow::Cow;
use std::time::Duration;
use uuid::Uuid;

/// Our version, stamped on audit records.
pub const PROGRAM_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A claimed queue row: the right to run one job's steps until the lease ends, proven by the epoch.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Lease {
    /// Whose job.
    #[sqlx(rename = "organization_id")]
    pub organization: OrganizationId,
    /// Place in the order of acceptance; with organization and chunk the row's key.
    pub seq: i64,
    /// 0 for the job itself.
    pub chunk: i32,
    /// The job.
    #[sqlx(rename = "job_id")]
    pub job: JobId,
    /// Workflow name.
    pub workflow: String,
    /// Pinned version.
    pub workflow_version: i32,
    /// Round of the job.
    pub round: i32,
    /// Step to run, from 0.
    pub step: i16,
    /// Attempt of that step, from 1.
    pub attempts: i16,
    /// Workers that died with this job.
    pub deaths: i16,
    /// The fence.
    #[sqlx(rename = "lease_epoch")]
    pub epoch: i64,
    /// Lane, if the workflow is ordered.
    pub lane: Option<i64>,
    /// Time since the round entered the queue, in milliseconds.
    pub age_ms: i64,
    /// Where its spans belong.
    #[sqlx(skip)]
    pub trace: LeaseTrace,
}

/// What is known of the trace of a leased job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LeaseTrace {
    /// Nobody asked yet.
    #[default]
    Unknown,
    /// It has one, or none.
    Known(Option<JobTrace>),
}

impl Lease {
    /// The queue row's key.
    #[must_use]
    pub fn key(&self) -> TaskKey {
        (self.organization.0, self.seq, self.chunk)
    }
}

/// (organization, seq, chunk).
pub type TaskKey = (Uuid, i64, i32);

/// What a claim is for: each has slots of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Rows of jobs.
    Jobs,
    /// Rows of chunks.
    Chunks,
}

/// Claim up to `slots` ready rows for this worker, fairly from the organization after `cursor`.
///
/// # Errors
/// [`DbError`].
pub async fn claim(
    connection: &mut PgConnection,
    claim: Claim,
    slots: i32,
    cursor: Uuid,
    lease: Duration,
    worker: WorkerId,
) -> Result<Vec<Lease>, DbError> {
    let statement = match claim {
        Claim::Jobs => "select * from claim_tasks($1, $2, $3, $4)",
        Claim::Chunks => "select * from claim_chunks($1, $2, $3, $4)",
    };
    Ok(sqlx::query_as(statement)
        .bind(slots)
        .bind(cursor)
        .bind(lease.as_secs_f64())
        .bind(worker)
        .fetch_all(connection)
        .await?)
}

/// Is there a suspect that may run?
///
/// # Errors
/// [`DbError`].
pub async fn has_suspects(connection: &mut PgConnection) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar(
        "select exists (
           select from queue s join organizations g on g.id = s.organization_id and g.status = 'active'
           where s.state = 'suspect')",
    )
    .fetch_one(connection)
    .await?)
}

/// Claim suspects: after their first death up to `slots` jobs and `chunk_slots` chunks, or one after more.
///
/// # Errors
/// [`DbError`].
pub async fn claim_suspects(
    connection: &mut PgConnection,
    slots: i32,
    chunk_slots: i32,
    lease: Duration,
    worker: WorkerId,
) -> Result<Vec<Lease>, DbError> {
    Ok(sqlx::query_as("select * from claim_suspects($1, $2, $3, $4)")
        .bind(slots)
        .bind(chunk_slots)
        .bind(lease.as_secs_f64())
        .bind(worker)
        .fetch_all(connection)
        .await?)
}

/// Time until the next row in backoff is due, if any; zero when one is due already.
///
/// # Errors
/// [`DbError`].
pub async fn next_due(connection: &mut PgConnection) -> Result<Option<Duration>, DbError> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from min(run_at) - chartgate_now())::float8
         from queue
         where state = 'delayed'",
    )
    .fetch_one(connection)
    .await?;
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0))))
}

/// A step that a job finished, waiting for its commit.
#[derive(Debug, Clone)]
pub struct FinishedStep {
    /// The lease under which it ran; `step` and `attempts` are the finished ones.
    pub lease: Lease,
    /// The step's name.
    pub name: String,
    /// How long the attempt ran.
    pub elapsed: Duration,
    /// The step that follows under the same lease, or `None`: the job ends.
    pub next: Option<i16>,
    /// Facts for the step's status.
    pub output: Facts,
    /// The job's terminal status (unless an earlier step failed) and result, when it ends.
    pub closing: Option<(&'static str, Value)>,
    /// The lane's successor may be leased to this worker at once.
    pub hand_off: bool,
}

/// One row of `commit_steps`: a step that passed its fence, or the successor of a lane.
#[derive(Debug, sqlx::FromRow)]
pub struct CommitRow {
    /// False: `seq` passed. True: the row is the successor of `head`.
    pub is_next: bool,
    #[sqlx(rename = "organization_id")]
    organization: OrganizationId,
    seq: i64,
    chunk: i32,
    job_id: JobId,
    workflow: Option<String>,
    workflow_version: Option<i32>,
    round: i32,
    step: i16,
    attempts: i16,
    deaths: i16,
    lease_epoch: i64,
    lane: Option<i64>,
    age_ms: i64,
    head: i64,
}

impl CommitRow {
    /// Key of the finished row that this row speaks about.
    #[must_use]
    pub fn subject(&self) -> TaskKey {
        (self.organization.0, self.head, if self.is_next { 0 } else { self.chunk })
    }

    /// The successor's lease, if it was handed off rather than made ready.
    #[must_use]
    pub fn into_lease(self) -> Option<Lease> {
        (self.is_next && self.lease_epoch != 0).then(|| Lease {
            organization: self.organization,
            seq: self.seq,
            chunk: self.chunk,
            job: self.job_id,
            workflow: self.workflow.unwrap_or_default(),
            workflow_version: self.workflow_version.unwrap_or_default(),
            round: self.round,
            step: self.step,
            attempts: self.attempts,
            deaths: self.deaths,
            epoch: self.lease_epoch,
            lane: self.lane,
            age_ms: self.age_ms,
            trace: LeaseTrace::Unknown,
        })
    }
}

/// Commit finished steps of many jobs in one statement; rows whose fence refuses are missing from the answer.
///
/// # Errors
/// [`DbError`]; then nothing of the batch was written, except after a lost reply (see [`was_applied`]).
pub async fn commit_steps(
    connection: &mut PgConnection,
    batch: &[FinishedStep],
    worker: WorkerId,
    lease: Duration,
) -> Result<Vec<CommitRow>, DbError> {
    let mut lanes: Vec<i64> =
        batch.iter().filter(|step| step.next.is_none()).filter_map(|step| step.lease.lane).collect();
    lanes.sort_unstable();
    lanes.dedup();
    macro_rules! column {
        ($get:expr) => {
            batch.iter().map($get).collect::<Vec<_>>()
        };
    }
    let rows = sqlx::query_as(
        "select * from commit_steps($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    )
    .bind(column!(|step| step.lease.organization.0))
    .bind(column!(|step| step.lease.seq))
    .bind(column!(|step| step.lease.chunk))
    .bind(column!(|step| step.lease.epoch))
    .bind(column!(|step| step.lease.step))
    .bind(column!(|step| step.lease.attempts))
    .bind(column!(|step| micros(step.elapsed)))
    .bind(column!(|step| step.next))
    .bind(column!(|step| step.name.as_str()))
    .bind(column!(|step| (!step.output.is_empty()).then(|| Value::Object(step.output.clone()))))
    .bind(column!(|step| step.closing.as_ref().map(|(status, _)| *status)))
    .bind(column!(|step| step.closing.as_ref().map(|(_, result)| result.clone()).filter(|result| !result.is_null())))
    .bind(column!(|step| step.hand_off))
    .bind(lanes)
    .bind(worker)
    .bind(lease.as_secs_f64())
    .bind(PROGRAM_VERSION)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Lock the lane, then the queue row of a step that has effects of its own. False: the fence refuses.
///
/// # Errors
/// [`DbError`].
pub async fn fence(connection: &mut PgConnection, step: &FinishedStep) -> Result<bool, DbError> {
    if let (None, Some(lane)) = (step.next, step.lease.lane) {
        // Lane before row, as everywhere.
        sqlx::query("select lock_lanes($1)").bind(vec![lane]).execute(&mut *connection).await?;
    }
    let held: Option<i32> = sqlx::query_scalar(
        "select 1
         from queue
         where organization_id = $1 and seq = $2 and chunk = $3 and lease_epoch = $4 and step = $5
         for update",
    )
    .bind(step.lease.organization)
    .bind(step.lease.seq)
    .bind(step.lease.chunk)
    .bind(step.lease.epoch)
    .bind(step.lease.step)
    .fetch_optional(connection)
    .await?;
    Ok(held.is_some())
}

/// After a lost reply to a commit: was this step committed by us? Read under the job's organization.
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
           select from job_steps
           where organization_id = $1 and job_id = $2 and round = $3 and step = $4 and status = 'succeeded' and worker_id = $5)",
    )
    .bind(step.lease.organization)
    .bind(step.lease.job)
    .bind(step.lease.round)
    .bind(step.lease.step)
    .bind(worker)
    .fetch_one(connection)
    .await?)
}

/// What follows a failed attempt, in the words of `fail_step`.
#[derive(Debug, Clone)]
pub struct FailedStep {
    /// The lease under which it ran.
    pub lease: Lease,
    /// The step's name.
    pub name: String,
    /// How long the attempt ran.
    pub elapsed: Duration,
    /// Stable code.
    pub code: Cow<'static, str>,
    /// Who must act.
    pub class: ErrorClass,
    /// A fixed sentence.
    pub message: String,
    /// Back off for so long; `None`: failed for good.
    pub delay: Option<Duration>,
    /// The next `always` step, when failed for good; `None`: the job closes.
    pub next: Option<i16>,
    /// Steps that will not run now.
    pub skipped: Vec<(i16, String)>,
}

/// Record a failed attempt. False: the fence refused.
///
/// # Errors
/// [`DbError`].
pub async fn fail_step(
    connection: &mut PgConnection,
    failed: &FailedStep,
    worker: WorkerId,
    lease: Duration,
) -> Result<bool, DbError> {
    let (steps, names): (Vec<i16>, Vec<String>) = failed.skipped.iter().cloned().unzip();
    Ok(sqlx::query_scalar(
        "select fail_step($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
    )
    .bind(failed.lease.organization)
    .bind(failed.lease.seq)
    .bind(failed.lease.chunk)
    .bind(failed.lease.epoch)
    .bind(failed.lease.step)
    .bind(&failed.name)
    .bind(failed.lease.attempts)
    .bind(micros(failed.elapsed))
    .bind(failed.code.as_ref())
    .bind(failed.class.as_str())
    .bind(&failed.message)
    .bind(failed.delay.map(|delay| i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)))
    .bind(failed.next)
    .bind(steps)
    .bind(names)
    .bind(failed.lease.lane)
    .bind(worker)
    .bind(PROGRAM_VERSION)
    .bind(lease.as_secs_f64())
    .fetch_one(connection)
    .await?)
}

/// Did this worker record this failure under this lease?
///
/// # Errors
/// [`DbError`].
pub async fn is_failure_recorded(
    connection: &mut PgConnection,
    lease: &Lease,
    code: &str,
    worker: WorkerId,
) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar(
        "select exists (
           select from step_attempts
           where organization_id = $1 and job_id = $2 and round = $3 and step = $4 and chunk = $5 and lease_epoch = $6
             and outcome = 'failed' and error_code = $7 and worker_id = $8)",
    )
    .bind(lease.organization)
    .bind(lease.job)
    .bind(lease.round)
    .bind(lease.step)
    .bind(lease.chunk)
    .bind(lease.epoch)
    .bind(code)
    .bind(worker)
    .fetch_one(connection)
    .await?)
}

/// Has an earlier step of the job's current round failed for good?
///
/// # Errors
/// [`DbError`].
pub async fn failed_before(connection: &mut PgConnection, lease: &Lease) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar(
        "select exists (select from jobs where organization_id = $1 and id = $2 and error_code is not null)",
    )
    .bind(lease.organization)
    .bind(lease.job)
    .fetch_one(connection)
    .await?)
}

/// Give a lease back for a while, without counting the attempt and without a row of its history: nothing was done. False: the
/// fence refused.
///
/// # Errors
/// [`DbError`].
pub async fn put_off(connection: &mut PgConnection, lease: &Lease, after: Duration) -> Result<bool, DbError> {
    let put_off = sqlx::query(
        "update queue
         set state = 'delayed', run_at = chartgate_now() + $6 * interval '1 second', held_since = coalesce(held_since, chartgate_now()),
             attempts = greatest(attempts - 1, 0), lease_epoch = null, lease_until = null, worker_id = null
         where organization_id = $1 and seq = $2 and chunk = $3 and lease_epoch = $4 and step = $5",
    )
    .bind(lease.organization)
    .bind(lease.seq)
    .bind(lease.chunk)
    .bind(lease.epoch)
    .bind(lease.step)
    .bind(after.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(put_off.rows_affected() == 1)
}

fn keys(leases: &[(TaskKey, i64)]) -> (Vec<Uuid>, Vec<i64>, Vec<i32>, Vec<i64>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ((organization, seq, chunk), epoch) in leases {
        columns.0.push(*organization);
        columns.1.push(*seq);
        columns.2.push(*chunk);
        columns.3.push(*epoch);
    }
    columns
}

/// Hand leases back without counting their attempts; `begun` notes that running steps were cut off.
///
/// # Errors
/// [`DbError`].
pub async fn release_tasks(
    connection: &mut PgConnection,
    leases: &[(TaskKey, i64)],
    begun: bool,
) -> Result<i64, DbError> {
    let (organizations, seqs, chunks, epochs) = keys(leases);
    Ok(sqlx::query_scalar("select release_tasks($1, $2, $3, $4, $5)")
        .bind(organizations)
        .bind(seqs)
        .bind(chunks)
        .bind(epochs)
        .bind(begun)
        .fetch_one(connection)
        .await?)
}

/// Extend leases; answers the keys that are still ours.
///
/// # Errors
/// [`DbError`].
pub async fn renew_leases(
    connection: &mut PgConnection,
    leases: &[(TaskKey, i64)],
    lease: Duration,
) -> Result<Vec<TaskKey>, DbError> {
    let (organizations, seqs, chunks, epochs) = keys(leases);
    Ok(sqlx::query_as("select * from renew_leases($1, $2, $3, $4, $5)")
        .bind(organizations)
        .bind(seqs)
        .bind(chunks)
        .bind(epochs)
        .bind(lease.as_secs_f64())
        .fetch_all(connection)
        .await?)
}

/// One lease that was taken back.
#[derive(Debug, sqlx::FromRow)]
pub struct ReapedLease {
    /// Whose job.
    #[sqlx(rename = "organization_id")]
    pub organization: OrganizationId,
    /// The job.
    #[sqlx(rename = "job_id")]
    pub job: JobId,
    /// Its place.
    pub seq: i64,
    /// 0 for the job itself.
    pub chunk: i32,
    /// Its workflow.
    pub workflow: String,
    /// Pinned version.
    pub workflow_version: i32,
    /// Its round.
    pub round: i32,
    /// The step it was in.
    pub step: i16,
    /// Workers that died with it so far.
    pub deaths: i16,
    /// It was parked as failed.
    pub parked: bool,
}

/// Take back leases that ran out.
///
/// # Errors
/// [`DbError`].
pub async fn reap_leases(
    connection: &mut PgConnection,
    lease: Duration,
    deaths_max: i32,
    worker: WorkerId,
) -> Result<Vec<ReapedLease>, DbError> {
    Ok(sqlx::query_as("select * from reap_leases($1, $2, $3, $4)")
        .bind(lease.as_secs_f64())
        .bind(deaths_max)
        .bind(worker)
        .bind(PROGRAM_VERSION)
        .fetch_all(connection)
        .await?)
}

/// The rows of a parked job's steps: the one that killed its workers failed, the later ones (`names` begins with the
/// failed one) will not run.
///
/// # Errors
/// [`DbError`].
pub async fn close_parked(
    connection: &mut PgConnection,
    lease: &ReapedLease,
    names: Vec<String>,
) -> Result<(), DbError> {
    sqlx::query("select set_config('app.organization', $1, true)")
        .bind(format!("{{{}}}", lease.organization.0))
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "insert into job_steps (organization_id, job_id, round, step, name, status, attempts, finished_at, error_code, error_class, error_message)
         select $1, $2, $3, $4 + n - 1, name,
                case when n = 1 then 'failed' else 'skipped' end,
                case when n = 1 then $5 else 0 end,
                chartgate_now(),
                case when n = 1 then 'worker_killed' end,
                case when n = 1 then 'ours' end,
                case when n = 1 then 'Its worker died ' || $5 || ' times while running this step.' end
         from unnest($6::text[]) with ordinality t(name, n)
         on conflict do nothing",
    )
    .bind(lease.organization)
    .bind(lease.job)
    .bind(lease.round)
    .bind(i32::from(lease.step))
    .bind(i32::from(lease.deaths))
    .bind(names)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
