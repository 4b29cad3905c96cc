//! SQL on lanes in which jobs wait behind another one.

use crate::db::DbError;
use crate::ids::{JobId, OrganizationId, WorkerId};
use sqlx::PgConnection;
use time::OffsetDateTime;

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
