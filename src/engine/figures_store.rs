//! SQL behind [`super::figures`]: counting a range of transactions, folding old figures, the queue at a glance, and what the
//! console reads of them.

use super::figures::{BOUNDS_MS, BUCKETS};
use crate::db::{DbError, ensure_one_row};
use crate::ids::OrganizationId;
use serde::{Serialize, Serializer};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// How much time one row of figures is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The last two hours.
    Minute,
    /// Until 26 hours ago.
    TenMinutes,
    /// Until 90 days ago.
    Hour,
}

impl Span {
    /// Its length.
    #[must_use]
    pub fn seconds(self) -> i32 {
        match self {
            Self::Minute => 60,
            Self::TenMinutes => 600,
            Self::Hour => 3600,
        }
    }
}

/// Rounds of jobs of one organization and workflow in one span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Figures {
    /// Whose; the platform's are the sums over all.
    #[serde(serialize_with = "as_stored")]
    pub organization_id: OrganizationId,
    /// Begin of the span.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Workflow.
    pub workflow: String,
    /// Jobs accepted; of uploads: objects that arrived.
    pub accepted: i64,
    /// Further rounds that an administrator or a sender opened.
    pub retried: i64,
    /// Rounds that ended `succeeded`.
    pub succeeded: i64,
    /// … `succeeded_with_issues`.
    pub with_issues: i64,
    /// … `failed`.
    pub failed: i64,
    /// … `cancelled`.
    pub cancelled: i64,
    /// Uploads that never came.
    pub expired: i64,
    /// First rounds by time from acceptance to end ([`BOUNDS_MS`]).
    pub ended_in: Vec<i64>,
    /// First rounds by time from acceptance to the start of the first step.
    pub begun_in: Vec<i64>,
}

fn as_stored<S: Serializer>(id: &OrganizationId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&id.0)
}

/// What a range of transactions holds.
#[derive(Debug)]
pub struct Counted {
    /// The range is behind this one …
    pub from: i64,
    /// … up to and including this one.
    pub until: i64,
    /// Transactions beyond it have ended, too.
    pub is_behind: bool,
    /// Audit records that were looked at.
    pub records: i64,
    through: OffsetDateTime,
    figures: Vec<Figures>,
}

#[derive(sqlx::FromRow)]
struct RangeRow {
    organization_id: OrganizationId,
    at: OffsetDateTime,
    workflow: String,
    records: i64,
    accepted: i64,
    retried: i64,
    succeeded: i64,
    with_issues: i64,
    failed: i64,
    cancelled: i64,
    expired: i64,
    ended_in: Option<Vec<i32>>,
    begun_in: Option<Vec<i32>>,
}

/// Read the next range (scope `Platform`): up to `reach` transactions behind the position, all of which have ended.
///
/// # Errors
/// [`DbError`].
pub async fn read_range(connection: &mut PgConnection, reach: i64) -> Result<Counted, DbError> {
    let (from, horizon, through): (i64, i64, OffsetDateTime) = sqlx::query_as(
        "select p.until_xid, audit_position(pg_snapshot_xmin(pg_current_snapshot())) - 1, chartgate_now() from figures_position p",
    )
    .fetch_one(&mut *connection)
    .await?;
    let until = horizon.min(from.saturating_add(reach)).max(from);
    // The BRIN is the only way to a range of transactions; statistics of a growing table would hide it.
    // Jobs by their keys, however many records the planner expects.
    sqlx::raw_sql("set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off")
        .execute(&mut *connection)
        .await?;
    let rows: Vec<RangeRow> = sqlx::query_as(
        "with r as materialized (
           select a.organization_id o, a.job_id, a.event, a.at, a.step
           from audit_records a
           where audit_position(a.xid) > $1
             and audit_position(a.xid) <= $2
             and a.job_id is not null
             and a.event in ('job.accepted', 'upload.arrived', 'job.retried', 'step.succeeded', 'job.failed', 'job.parked', 'job.cancelled', 'job.expired')
         ), seen as (
           select r.*, j.workflow,
             case
               when r.event in ('job.accepted', 'upload.arrived') then 'accepted'
               when r.event in ('job.failed', 'job.parked') then 'failed'
               -- A step's commit ends the round if the job ended at that very instant.
               when r.event = 'step.succeeded' then coalesce(case when j.finished_at = r.at then j.status end, past.status)
               else substr(r.event, 5)
             end what,
             case when j.finished_at = r.at and j.round = 1 and j.source in ('webhook', 'athena') and r.event in ('step.succeeded', 'job.failed')
               then (extract(epoch from r.at - j.created_at) * 1000)::bigint end ended_ms,
             j.created_at
           from r
           join jobs j on j.organization_id = r.o and j.id = r.job_id
           -- A later round was opened before we looked: the steps tell of the earlier one.
           left join lateral (
             select case when exists (
                      select from job_steps f
                      where f.organization_id = r.o and f.job_id = r.job_id and f.round = s.round and f.status = 'failed')
                    then 'failed' else 'succeeded' end status
             from job_steps s
             -- First what needs no look: this is about few.
             where r.event = 'step.succeeded' and j.round > 1 and j.finished_at is distinct from r.at
               and s.organization_id = r.o and s.job_id = r.job_id and s.round < j.round and s.finished_at = r.at and s.name = r.step
               and not exists (
                 select from job_steps n
                 where n.organization_id = r.o and n.job_id = r.job_id and n.round = s.round and n.step > s.step)
               -- That round was not cancelled behind this step.
               and not exists (
                 select from audit_records c
                 where c.organization_id = r.o and c.job_id = r.job_id and c.event = 'job.cancelled' and c.at >= r.at
                   and c.at <= (
                     select min(n.at) from audit_records n
                     where n.organization_id = r.o and n.job_id = r.job_id and n.event = 'job.retried' and n.at >= r.at))
             limit 1) past on true
         ), told as (
           select s.*,
             case when s.ended_ms is not null then (
               select (extract(epoch from b.started_at - s.created_at) * 1000)::bigint
               from job_steps b
               where b.organization_id = s.o and b.job_id = s.job_id and b.round = 1 and b.step = 0) end begun_ms
           from seen s
           where s.what is not null
         )
         select o organization_id, date_trunc('minute', at) at, workflow,
           (select count(*) from r) records,
           count(*) filter (where what = 'accepted') accepted,
           count(*) filter (where what = 'retried') retried,
           count(*) filter (where what = 'succeeded') succeeded,
           count(*) filter (where what = 'succeeded_with_issues') with_issues,
           count(*) filter (where what = 'failed') failed,
           count(*) filter (where what = 'cancelled') cancelled,
           count(*) filter (where what = 'expired') expired,
           array_agg(width_bucket(ended_ms, $3)) filter (where ended_ms is not null) ended_in,
           array_agg(width_bucket(begun_ms, $3)) filter (where begun_ms is not null) begun_in
         from told
         group by 1, 2, 3",
    )
    .bind(from)
    .bind(until)
    .bind(&BOUNDS_MS[..])
    .fetch_all(connection)
    .await?;
    let mut figures = BTreeMap::new();
    let records = rows.first().map_or(0, |row| row.records);
    for row in &rows {
        for whose in [row.organization_id, OrganizationId::PLATFORM] {
            add_row(&mut figures, whose, row);
        }
    }
    Ok(Counted { from, until, is_behind: until < horizon, records, through, figures: figures.into_values().collect() })
}

fn add_row(
    figures: &mut BTreeMap<(OrganizationId, OffsetDateTime, String), Figures>,
    whose: OrganizationId,
    row: &RangeRow,
) {
    let sum = figures.entry((whose, row.at, row.workflow.clone())).or_insert_with(|| Figures {
        organization_id: whose,
        at: row.at,
        workflow: row.workflow.clone(),
        accepted: 0,
        retried: 0,
        succeeded: 0,
        with_issues: 0,
        failed: 0,
        cancelled: 0,
        expired: 0,
        ended_in: vec![0; BUCKETS],
        begun_in: vec![0; BUCKETS],
    });
    sum.accepted += row.accepted;
    sum.retried += row.retried;
    sum.succeeded += row.succeeded;
    sum.with_issues += row.with_issues;
    sum.failed += row.failed;
    sum.cancelled += row.cancelled;
    sum.expired += row.expired;
    for (into, from) in [(&mut sum.ended_in, &row.ended_in), (&mut sum.begun_in, &row.begun_in)] {
        for bucket in from.iter().flatten() {
            if let Some(count) = usize::try_from(*bucket).ok().and_then(|bucket| into.get_mut(bucket)) {
                *count += 1;
            }
        }
    }
}

/// The tenants' context: all of them, and the platform.
async fn for_all(connection: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query("select set_config('app.organization', (select array_agg(id)::text from (select id from organizations union select $1) o), true)")
        .bind(OrganizationId::PLATFORM)
        .execute(connection)
        .await?;
    Ok(())
}

/// Add what a range holds, and move the position behind it.
///
/// # Errors
/// [`DbError::NotOneRow`] if somebody else has counted it.
pub async fn add(connection: &mut PgConnection, counted: Counted) -> Result<(), DbError> {
    // First: whoever waits here for another sweeper finds the position moved.
    let moved = sqlx::query(
        "update figures_position set until_xid = $2, counted_through = case when $4 then counted_through else $3 end, counted_at = chartgate_now()
         where until_xid = $1",
    )
    .bind(counted.from)
    .bind(counted.until)
    .bind(counted.through)
    .bind(counted.is_behind)
    .execute(&mut *connection)
    .await?;
    ensure_one_row(&moved)?;
    if counted.figures.is_empty() {
        return Ok(());
    }
    for_all(connection).await?;
    sqlx::query(
        "insert into job_figures as f
         select organization_id, 60, at, workflow, accepted, retried, succeeded, with_issues, failed, cancelled, expired, ended_in, begun_in
         from jsonb_to_recordset($1) t(organization_id uuid, at timestamptz, workflow text, accepted bigint, retried bigint, succeeded bigint,
           with_issues bigint, failed bigint, cancelled bigint, expired bigint, ended_in bigint[], begun_in bigint[])
         on conflict (organization_id, span_seconds, at, workflow) do update
         set accepted = f.accepted + excluded.accepted, retried = f.retried + excluded.retried, succeeded = f.succeeded + excluded.succeeded,
             with_issues = f.with_issues + excluded.with_issues, failed = f.failed + excluded.failed,
             cancelled = f.cancelled + excluded.cancelled, expired = f.expired + excluded.expired,
             ended_in = add_counts(f.ended_in, excluded.ended_in), begun_in = add_counts(f.begun_in, excluded.begun_in)",
    )
    .bind(sqlx::types::Json(&counted.figures))
    .execute(connection)
    .await?;
    Ok(())
}

/// Fold figures of a span that are older than that into longer ones, or forget them; some thousands at a time.
///
/// # Errors
/// [`DbError`].
pub async fn fold(
    connection: &mut PgConnection,
    from: Span,
    into: Option<Span>,
    age_seconds: i64,
) -> Result<(), DbError> {
    for_all(connection).await?;
    sqlx::query(
        "with old as (
           delete from job_figures f
           using (
             select organization_id, span_seconds, at, workflow
             from job_figures
             where span_seconds = $1 and at < chartgate_now() - make_interval(secs => $3)
             limit 20000) o
           where f.organization_id = o.organization_id and f.span_seconds = o.span_seconds and f.at = o.at and f.workflow = o.workflow
           returning f.*
         )
         insert into job_figures as f
         select organization_id, $2::int, date_bin(make_interval(secs => $2), at, '2000-01-01 00:00:00Z'), workflow,
           sum(accepted), sum(retried), sum(succeeded), sum(with_issues), sum(failed), sum(cancelled), sum(expired),
           sum_counts(ended_in), sum_counts(begun_in)
         from old
         where $2 is not null
         group by 1, 3, 4
         on conflict (organization_id, span_seconds, at, workflow) do update
         set accepted = f.accepted + excluded.accepted, retried = f.retried + excluded.retried, succeeded = f.succeeded + excluded.succeeded,
             with_issues = f.with_issues + excluded.with_issues, failed = f.failed + excluded.failed,
             cancelled = f.cancelled + excluded.cancelled, expired = f.expired + excluded.expired,
             ended_in = add_counts(f.ended_in, excluded.ended_in), begun_in = add_counts(f.begun_in, excluded.begun_in)",
    )
    .bind(from.seconds())
    .bind(into.map(Span::seconds))
    .bind(f64::from(i32::try_from(age_seconds).unwrap_or(i32::MAX)))
    .execute(connection)
    .await?;
    Ok(())
}

/// Write down what is in the queue, by organization. Jobs only, not their chunks.
///
/// # Errors
/// [`DbError`].
pub async fn look_at_queue(connection: &mut PgConnection) -> Result<(), DbError> {
    for_all(connection).await?;
    sqlx::query(
        "with now as materialized (
           select organization_id,
             count(*) filter (where state in ('ready', 'suspect')) waiting,
             count(*) filter (where state in ('leased', 'waiting')) running,
             count(*) filter (where state = 'delayed') delayed,
             count(*) filter (where state = 'blocked') blocked,
             count(*) filter (where state = 'delayed' and lane is not null and exists (
               select from queue b where b.organization_id = q.organization_id and b.lane = q.lane and b.state = 'blocked')) lanes_held,
             min(enqueued_at) filter (where state in ('ready', 'suspect')) oldest_ready_at
           from queue q
           where chunk = 0
           group by organization_id
         ), gone as (
           delete from queue_figures f
           where not exists (select from now n where n.organization_id = f.organization_id)
         )
         insert into queue_figures
         select n.*, chartgate_now() from now n join organizations o on o.id = n.organization_id
         on conflict (organization_id) do update
         set waiting = excluded.waiting, running = excluded.running, delayed = excluded.delayed, blocked = excluded.blocked,
             lanes_held = excluded.lanes_held, oldest_ready_at = excluded.oldest_ready_at, at = excluded.at",
    )
    .execute(connection)
    .await?;
    Ok(())
}
