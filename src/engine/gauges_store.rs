//! SQL of what operators look at: how much is waiting, for how long, and what is stuck. Counts and ages only; read as the
//! platform's role, over all organizations.

use crate::db::DbError;
use sqlx::PgConnection;

/// The queue as the database has it now.
#[derive(Debug, Clone, Default, PartialEq, sqlx::FromRow)]
pub struct Queue {
    /// Rows that may be claimed.
    pub ready: i64,
    /// Rows whose last worker died with them.
    pub suspect: i64,
    /// Rows behind another one of their lane.
    pub blocked: i64,
    /// Rows in backoff.
    pub delayed: i64,
    /// Rows that a worker has.
    pub leased: i64,
    /// Jobs that wait for their chunks.
    pub waiting: i64,
    /// Since the oldest row entered the queue that may be claimed and never was, of organizations that are not paused.
    pub oldest_ready_seconds: f64,
    /// Since the oldest row entered the queue that is next behind one in backoff or one whose worker died.
    pub oldest_blocked_seconds: f64,
    /// Lanes in which a job waits for one in backoff or one whose worker died; [`HEADS_MAX`] such heads are looked at.
    pub lanes_held: i64,
    /// Leases that ran out longer ago than any sweep.
    pub expired_leases: i64,
}

/// Heads of lanes that are looked at, at most.
pub const HEADS_MAX: i64 = 20_000;

/// What else is looked at: a few rows each.
#[derive(Debug, Clone, Default, PartialEq, sqlx::FromRow)]
pub struct Around {
    /// Processes with workers or sweepers that reported within a minute.
    pub workers: i64,
    /// Bulk operations under way.
    pub operations: i64,
    /// Messages of active callbacks that are not delivered yet.
    pub callback_messages: i64,
    /// Since the oldest of them was written.
    pub oldest_callback_message_seconds: f64,
}

/// Read the queue. It is counted whole: a second a million rows, about.
///
/// # Errors
/// [`DbError`].
pub async fn queue(connection: &mut PgConnection) -> Result<Queue, DbError> {
    Ok(sqlx::query_as(
        "select q.*, l.lanes_held, l.oldest_blocked_seconds
         from (
           select count(*) filter (where state = 'ready') ready,
                  count(*) filter (where state = 'suspect') suspect,
                  count(*) filter (where state = 'blocked') blocked,
                  count(*) filter (where state = 'delayed') delayed,
                  count(*) filter (where state = 'leased') leased,
                  count(*) filter (where state = 'waiting') waiting,
                  count(*) filter (where state = 'leased' and lease_until < chartgate_now() - interval '30 seconds') expired_leases,
                  coalesce(extract(epoch from chartgate_now() - min(enqueued_at) filter (
                    where (state = 'suspect' or (state = 'ready' and attempts = 0)) and o.status = 'active')), 0)::float8 oldest_ready_seconds
           from queue
           left join organizations o on o.id = queue.organization_id) q
         cross join (
           select count(*) lanes_held,
                  coalesce(extract(epoch from chartgate_now() - min(b.enqueued_at)), 0)::float8 oldest_blocked_seconds
           from (
             select organization_id, lane
             from queue
             where state in ('delayed', 'suspect') and lane is not null
             limit $1) h
           cross join lateral (
             select b.enqueued_at
             from queue b
             where b.organization_id = h.organization_id and b.lane = h.lane and b.state = 'blocked'
             order by b.seq
             limit 1) b) l",
    )
    .bind(HEADS_MAX)
    .fetch_one(connection)
    .await?)
}

/// Read the rest.
///
/// # Errors
/// [`DbError`].
pub async fn around(connection: &mut PgConnection) -> Result<Around, DbError> {
    Ok(sqlx::query_as(
        "select (select count(*) from workers where last_seen_at > chartgate_now() - interval '1 minute' and stopped_at is null) workers,
                (select count(*) from operations where status in ('running', 'canary', 'undoing')) operations,
                coalesce(m.waiting + m.sending, 0)::int8 callback_messages,
                coalesce(extract(epoch from chartgate_now() - least(m.oldest_waiting, m.oldest_sending)), 0)::float8 oldest_callback_message_seconds
         from (
           select sum(w.n) waiting, sum(s.n) sending, min(f.created_at) oldest_waiting, min(s.oldest) oldest_sending
           from callbacks c
           -- Each status by its partial index; the oldest that waits is the first of it.
           cross join lateral (
             select count(*) n
             from callback_messages m
             where m.organization_id = c.organization_id and m.callback_id = c.id and m.status = 'waiting') w
           left join lateral (
             select m.created_at
             from callback_messages m
             where m.organization_id = c.organization_id and m.callback_id = c.id and m.status = 'waiting'
             order by m.created_at
             limit 1) f on true
           cross join lateral (
             select count(*) n, min(m.created_at) oldest
             from callback_messages m
             where m.organization_id = c.organization_id and m.callback_id = c.id and m.status = 'sending') s
           where c.status = 'active') m",
    )
    .fetch_one(connection)
    .await?)
}

/// What stands still for ever unless somebody acts: each is a bug of ours, or what a hand in the database left.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Stuck {
    /// Jobs that are queued, and have no row in the queue.
    pub without_row: i64,
    /// Jobs that wait for chunks, of which there are none.
    pub without_chunks: i64,
    /// Lanes in which jobs wait behind nobody.
    pub lanes: i64,
    /// Rows in backoff without a time at which it ends, or leased to nobody.
    pub without_wake: i64,
}

/// Look for it. Reads the open jobs of all organizations.
///
/// # Errors
/// [`DbError`].
pub async fn stuck(connection: &mut PgConnection) -> Result<Stuck, DbError> {
    Ok(sqlx::query_as(
        "select
           (select coalesce(sum(n), 0)::int8
            from organizations o
            cross join lateral (
              select count(*) n
              from jobs j
              where j.organization_id = o.id and j.status = 'queued'
                and not exists (
                  select from queue q where q.organization_id = j.organization_id and q.seq = j.seq and q.chunk = 0)) x) without_row,
           (select count(*)
            from queue w
            where w.state = 'waiting'
              and not exists (
                select from queue c where c.organization_id = w.organization_id and c.seq = w.seq and c.chunk > 0)) without_chunks,
           (select count(distinct (b.organization_id, b.lane))
            from queue b
            where b.state = 'blocked'
              and not exists (
                select from queue a
                where a.organization_id = b.organization_id and a.lane = b.lane and a.state <> 'blocked')) lanes,
           (select count(*)
            from queue q
            where (q.state = 'delayed' and q.run_at is null) or (q.state = 'leased' and q.worker_id is null)) without_wake",
    )
    .fetch_one(connection)
    .await?)
}

/// Seconds by which the database's clock is ahead of that moment of ours.
///
/// # Errors
/// [`DbError`].
pub async fn clock_ahead(connection: &mut PgConnection, ours: time::OffsetDateTime) -> Result<f64, DbError> {
    Ok(sqlx::query_scalar("select extract(epoch from chartgate_now() - $1)::float8")
        .bind(ours)
        .fetch_one(connection)
        .await?)
}
