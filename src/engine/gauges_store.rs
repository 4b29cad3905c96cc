//! SQL of what operators look at: how much is waiting, for how long, and what is stuck. Counts and ages only; read as the
//! platform's role, over all organizations.

use crate::db::DbError;
use sqlx::PgConnection;

/// The engine as the database has it now.
#[derive(Debug, Clone, Default, PartialEq, sqlx::FromRow)]
pub struct Gauges {
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
    /// Since the oldest row that may be claimed entered the queue.
    pub oldest_ready_seconds: f64,
    /// Since the oldest blocked row entered the queue.
    pub oldest_blocked_seconds: f64,
    /// Lanes in which a job waits for one in backoff.
    pub lanes_held: i64,
    /// Leases that ran out longer ago than any sweep.
    pub expired_leases: i64,
    /// Processes with workers or sweepers that reported within a minute.
    pub workers: i64,
    /// Bulk operations under way.
    pub operations: i64,
    /// Messages of callbacks that are not delivered yet.
    pub callback_messages: i64,
    /// Since the oldest of them was written.
    pub oldest_callback_message_seconds: f64,
}

/// Read them.
///
/// # Errors
/// [`DbError`].
pub async fn gauges(connection: &mut PgConnection) -> Result<Gauges, DbError> {
    Ok(sqlx::query_as(
        "select q.*,
                (select count(distinct (b.organization_id, b.lane))
                 from queue d
                 join queue b on b.organization_id = d.organization_id and b.lane = d.lane and b.state = 'blocked'
                 where d.state = 'delayed' and d.lane is not null) lanes_held,
                (select count(*) from workers where last_seen_at > chartgate_now() - interval '1 minute' and stopped_at is null) workers,
                (select count(*) from operations where status in ('running', 'canary', 'undoing')) operations,
                m.messages callback_messages, m.age oldest_callback_message_seconds
         from (
           select count(*) filter (where state = 'ready') ready,
                  count(*) filter (where state = 'suspect') suspect,
                  count(*) filter (where state = 'blocked') blocked,
                  count(*) filter (where state = 'delayed') delayed,
                  count(*) filter (where state = 'leased') leased,
                  count(*) filter (where state = 'waiting') waiting,
                  count(*) filter (where state = 'leased' and lease_until < chartgate_now() - interval '30 seconds') expired_leases,
                  coalesce(extract(epoch from chartgate_now() - min(enqueued_at) filter (where state in ('ready', 'suspect'))), 0)::float8 oldest_ready_seconds,
                  coalesce(extract(epoch from chartgate_now() - min(enqueued_at) filter (where state = 'blocked')), 0)::float8 oldest_blocked_seconds
           from queue) q
         cross join (
           select count(*) messages, coalesce(extract(epoch from chartgate_now() - min(created_at)), 0)::float8 age
           from callback_messages
           where status in ('waiting', 'sending')) m",
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
