//! SQL on lanes in which jobs wait behind another one: which there are, and what keeps them going beside the commits.

use super::store::{PROGRAM_VERSION, TaskKey};
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId, WorkerId};
use sqlx::PgConnection;
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// Waiting rows of a lane that are counted, at most: of a longer one it is enough to know that it is longer.
pub const COUNTED_MAX: i64 = 1_000;

/// A lane with rows behind its head.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LaneRow {
    /// Whose.
    pub organization_id: OrganizationId,
    /// Its name.
    pub organization: String,
    /// Its jobs wait until it is resumed.
    pub is_paused: bool,
    /// Hash of (organization, workflow, ordering key).
    pub lane: i64,
    /// Rows behind the head; one more than [`COUNTED_MAX`] means: more than that.
    pub waiting: i64,
    /// The first of them.
    pub first_job: JobId,
    /// Waits since then.
    pub first_since: OffsetDateTime,
    /// Its workflow: all jobs of a lane have the same.
    pub workflow: String,
    /// Version that the head pins.
    pub head_version: Option<i32>,
    /// What they wait for; none while the lane is handed on.
    pub head_job: Option<JobId>,
    /// ready, suspect, delayed, leased or waiting.
    pub head_state: Option<String>,
    /// The step that it is at.
    pub head_step: Option<i16>,
    /// Attempts at that step.
    pub head_attempts: Option<i16>,
    /// Workers that died with it.
    pub head_deaths: Option<i16>,
    /// End of its backoff.
    pub head_run_at: Option<OffsetDateTime>,
    /// When its round entered the queue.
    pub head_since: Option<OffsetDateTime>,
    /// Who runs it.
    pub head_worker: Option<WorkerId>,
    /// Until when its lease holds, unless it is renewed.
    pub head_lease_until: Option<OffsetDateTime>,
}

/// Where a page of lanes ended.
pub type LaneKey = (OrganizationId, i64);

/// Lanes in which somebody waits, by organization and lane, behind that one; of one organization, or of all. One index probe
/// a lane, however many wait in it.
///
/// # Errors
/// [`DbError`].
pub async fn blocked_lanes(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    after: Option<LaneKey>,
    limit: i64,
) -> Result<Vec<LaneRow>, DbError> {
    // The smallest keys there are, when there is none to go on from.
    let (after_organization, after_lane) = after.unwrap_or((OrganizationId(uuid::Uuid::nil()), i64::MIN));
    Ok(sqlx::query_as(
        "with recursive lanes as (
           (select q.organization_id o, q.lane l
            from queue q
            where q.state = 'blocked'
              and (q.organization_id, q.lane) > ($2, $3)
              and ($1::uuid is null or q.organization_id = $1)
            order by q.organization_id, q.lane
            limit 1)
           union all
           select n.o, n.l
           from lanes p
           cross join lateral (
             select q.organization_id o, q.lane l
             from queue q
             where q.state = 'blocked'
               and (q.organization_id, q.lane) > (p.o, p.l)
               and ($1::uuid is null or q.organization_id = $1)
             order by q.organization_id, q.lane
             limit 1) n
         )
         select l.o organization_id, g.name organization, g.status = 'paused' is_paused, l.l lane,
                w.waiting, f.job_id first_job, f.enqueued_at first_since, f.workflow,
                h.workflow_version head_version, h.job_id head_job, h.state head_state, h.step head_step, h.attempts head_attempts,
                h.deaths head_deaths, h.run_at head_run_at, h.enqueued_at head_since, h.worker_id head_worker, h.lease_until head_lease_until
         from (select * from lanes limit $4) l
         join organizations g on g.id = l.o
         cross join lateral (
           select count(*) waiting
           from (select from queue b where b.organization_id = l.o and b.lane = l.l and b.state = 'blocked' limit $5 + 1) b) w
         cross join lateral (
           select b.job_id, b.enqueued_at, b.workflow
           from queue b
           where b.organization_id = l.o and b.lane = l.l and b.state = 'blocked'
           order by b.seq
           limit 1) f
         left join queue h on h.organization_id = l.o and h.lane = l.l and h.state <> 'blocked'
         order by l.o, l.l",
    )
    .bind(organization)
    .bind(after_organization)
    .bind(after_lane)
    .bind(limit)
    .bind(COUNTED_MAX)
    .fetch_all(connection)
    .await?)
}

/// The row that heads a lane, if it is leased to this worker: its key and epoch. What was handed to a worker that did not get
/// the answer.
///
/// # Errors
/// [`DbError`].
pub async fn head_of_lane(
    connection: &mut PgConnection,
    organization: OrganizationId,
    lane: i64,
    worker: WorkerId,
) -> Result<Option<(TaskKey, i64)>, DbError> {
    let first: Option<(i64, i32, i64)> = sqlx::query_as(
        "select seq, chunk, lease_epoch
         from queue
         where organization_id = $1 and lane = $2 and state <> 'blocked' and worker_id = $3 and lease_epoch is not null",
    )
    .bind(organization)
    .bind(lane)
    .bind(worker)
    .fetch_optional(connection)
    .await?;
    Ok(first.map(|(seq, chunk, epoch)| ((organization.0, seq, chunk), epoch)))
}

/// Let heads in backoff for longer than `hold_max` step out of their lanes.
///
/// # Errors
/// [`DbError`].
pub async fn step_aside(connection: &mut PgConnection, hold_max: Duration, worker: WorkerId) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar("select step_aside($1, $2, $3)")
        .bind(hold_max.as_secs_f64())
        .bind(worker)
        .bind(PROGRAM_VERSION)
        .fetch_one(connection)
        .await?)
}

/// Lanes with waiting rows and no active one: must be none; mended by promoting the first. Answers how many were found.
///
/// # Errors
/// [`DbError`].
pub async fn mend_stalled_lanes(connection: &mut PgConnection) -> Result<i64, DbError> {
    // The lock in a statement before the check: a lane that is just being worked on is not stalled.
    let suspects: Vec<(Uuid, i64)> = sqlx::query_as(
        "select distinct b.organization_id, b.lane
         from queue b
         where b.state = 'blocked'
           and not exists (
             select from queue a
             where a.organization_id = b.organization_id and a.lane = b.lane and a.state <> 'blocked')
         limit 100",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut mended = 0;
    for (organization, lane) in suspects {
        sqlx::query("select lock_lanes($1)").bind(vec![lane]).execute(&mut *connection).await?;
        let promoted: bool = sqlx::query_scalar("select promote_lane($1, $2)")
            .bind(organization)
            .bind(lane)
            .fetch_one(&mut *connection)
            .await?;
        mended += i64::from(promoted);
    }
    Ok(mended)
}
