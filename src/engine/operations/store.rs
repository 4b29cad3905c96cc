//! SQL of the operations' own rows: what is asked for, status, counts, pace.

use super::{BulkRequest, OperationKind, RATE};
use crate::audit::Actor;
use crate::db::{DbError, ensure_one_row};
use crate::ids::{JobId, OperationId, OrganizationId};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

/// The `operations` row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct OperationRow {
    /// Operation.
    pub id: OperationId,
    /// What it does.
    pub kind: OperationKind,
    /// docs/bulk-operations.md.
    pub status: String,
    /// The [`BulkRequest`].
    pub request: Value,
    /// Targets, or how many are expected while they are selected.
    pub matched: i32,
    /// There were more.
    pub cut: bool,
    /// Acted on.
    pub done: i32,
    /// Left alone.
    pub skipped: i32,
    /// Not possible.
    pub refused: i32,
    /// Taken back.
    pub undone: i32,
    /// Of `done`: ended since.
    pub settled: i32,
    /// Of them: failed.
    pub failed_again: i32,
    /// Of them: succeeded.
    pub succeeded_again: i32,
    /// Jobs a second.
    pub rate: i32,
    /// So many first.
    pub canary: i32,
    /// They have ended well, or an administrator went on all the same.
    pub canary_passed: bool,
    /// Failures that stop it.
    pub stop_after: Option<i32>,
    /// Failures that do not count, because it was resumed after them.
    pub failures_before: i32,
    /// Why it stopped.
    pub stop_reason: Option<String>,
    /// Why it was asked for.
    pub reason: String,
    /// Who asked.
    pub actor: String,
    /// How that caller was authenticated.
    pub authentication: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// In which request.
    pub request_id: Option<String>,
    /// Place up to which the filter was read: organization.
    pub select_organization: Option<OrganizationId>,
    /// And job.
    pub select_after: Option<JobId>,
    /// Targets so far.
    pub selected: i32,
    /// All targets are there.
    pub selected_at: Option<OffsetDateTime>,
    /// First act since it began or was resumed.
    pub begun_at: Option<OffsetDateTime>,
    /// Handled before that.
    pub acted_before: i32,
    /// Last act.
    pub acted_at: Option<OffsetDateTime>,
    /// Last look for results.
    pub looked_at: Option<OffsetDateTime>,
    /// It was long enough ago.
    pub is_look_due: bool,
    /// Place of the look for results.
    pub look_after: i32,
    /// Place of the undoing.
    pub undo_after: i32,
    /// How many acts the pace allows now.
    pub allowed: i64,
    /// Started.
    pub created_at: OffsetDateTime,
    /// Ended.
    pub finished_at: Option<OffsetDateTime>,
}

impl OperationRow {
    /// In whose name its acts are recorded.
    #[must_use]
    pub fn acts_for(&self) -> Actor {
        Actor {
            name: self.actor.clone(),
            authentication: self.authentication.clone(),
            address: self.address.clone(),
            request_id: self.request_id.clone(),
            // The operation outlives the request that asked for it.
            trace: None,
        }
    }
}

/// Column list of [`OperationRow`]. The pace: one act every 1/rate seconds, and those of one second at most at once.
macro_rules! select_operation {
    ($rest:literal) => {
        concat!(
            "select id, kind, status, request, matched, cut, done, skipped, refused, undone, settled, failed_again, succeeded_again,
               rate, canary, canary_passed, stop_after, failures_before, stop_reason, reason, actor, authentication, address, request_id,
               select_organization, select_after, selected, selected_at, begun_at, acted_before, acted_at, looked_at, look_after, undo_after,
               looked_at is null or looked_at < chartgate_now() - interval '500 milliseconds' is_look_due,
               greatest(0, floor(least(1.0, extract(epoch from chartgate_now() - coalesce(due_at, chartgate_now()))) * rate)::bigint
                 + case when coalesce(due_at, chartgate_now()) <= chartgate_now() then 1 else 0 end) allowed,
               created_at, finished_at
             from operations
             where organization_id = $1",
            $rest
        )
    };
}

/// Record an operation that starts: `matched` and whether that was cut. With ids all its targets are there at once.
///
/// # Errors
/// [`DbError`].
pub async fn insert(
    connection: &mut PgConnection,
    home: OrganizationId,
    id: OperationId,
    request: &BulkRequest,
    (matched, cut): (i32, bool),
    actor: &Actor,
) -> Result<(), DbError> {
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let stored = serde_json::to_value(request).unwrap_or_default();
    sqlx::query(
        "insert into operations (organization_id, id, kind, status, request, matched, cut, reason, actor, authentication, address, request_id,
           rate, canary, stop_after, selected, selected_at, due_at, next_at, created_at, finished_at)
         select $1, $2, $3, case when $5 = 0 then 'succeeded' else 'running' end, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
           case when $15 then $5 else 0 end,
           case when $15 or $5 = 0 then now end,
           now,
           case when $5 > 0 then now end,
           now,
           case when $5 = 0 then now end
         from (select chartgate_now() now) n",
    )
    .bind(home)
    .bind(id)
    .bind(request.kind.as_str())
    .bind(stored)
    .bind(matched)
    .bind(cut)
    .bind(&request.reason)
    .bind(&actor.name)
    .bind(&actor.authentication)
    .bind(&actor.address)
    .bind(&actor.request_id)
    .bind(number(request.rate_per_second.unwrap_or(RATE)))
    .bind(number(request.canary.unwrap_or(0)))
    .bind(request.stop_after_failures.map(number))
    .bind(request.ids.is_some())
    .execute(connection)
    .await?;
    Ok(())
}

/// One operation.
///
/// # Errors
/// [`DbError`].
pub async fn find(
    connection: &mut PgConnection,
    home: OrganizationId,
    id: OperationId,
) -> Result<Option<OperationRow>, DbError> {
    Ok(sqlx::query_as(select_operation!(" and id = $2")).bind(home).bind(id).fetch_optional(connection).await?)
}

/// What to do about an operation that somebody else holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfHeld {
    /// Wait for them.
    Wait,
    /// Find none.
    Skip,
}

/// One operation, held until the transaction's end.
///
/// # Errors
/// [`DbError`].
pub async fn hold(
    connection: &mut PgConnection,
    home: OrganizationId,
    id: OperationId,
    if_held: IfHeld,
) -> Result<Option<OperationRow>, DbError> {
    let row = match if_held {
        IfHeld::Wait => sqlx::query_as(select_operation!(" and id = $2 for update")),
        IfHeld::Skip => sqlx::query_as(select_operation!(" and id = $2 for update skip locked")),
    };
    Ok(row.bind(home).bind(id).fetch_optional(connection).await?)
}

/// A page, newest first, behind `after`.
///
/// # Errors
/// [`DbError`].
pub async fn list(
    connection: &mut PgConnection,
    home: OrganizationId,
    after: Option<OperationId>,
    limit: i64,
) -> Result<Vec<OperationRow>, DbError> {
    let rows = sqlx::query_as(select_operation!(" and ($2::uuid is null or id < $2) order by id desc limit $3"));
    Ok(rows.bind(home).bind(after).bind(limit).fetch_all(connection).await?)
}

/// Somebody should work on it.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Due {
    /// Where it is kept.
    pub organization_id: OrganizationId,
    /// Operation.
    pub id: OperationId,
    /// Seconds until then; due if not positive.
    pub wait: f64,
}

/// What is due, and what will be; scope `Platform`.
///
/// # Errors
/// [`DbError`].
pub async fn due(connection: &mut PgConnection, limit: i64) -> Result<Vec<Due>, DbError> {
    Ok(sqlx::query_as(
        "select organization_id, id, extract(epoch from next_at - chartgate_now())::float8 wait
         from operations
         where next_at is not null
         order by next_at
         limit $1",
    )
    .bind(limit)
    .fetch_all(connection)
    .await?)
}

/// Not before so many seconds; none: nothing is left to do.
///
/// # Errors
/// [`DbError`].
pub async fn put_off(
    connection: &mut PgConnection,
    home: OrganizationId,
    id: OperationId,
    seconds: Option<f64>,
) -> Result<(), DbError> {
    let updated = sqlx::query(
        "update operations set next_at = chartgate_now() + $3 * interval '1 second'
         where organization_id = $1 and id = $2",
    )
    .bind(home)
    .bind(id)
    .bind(seconds)
    .execute(connection)
    .await?;
    ensure_one_row(&updated)
}

/// What a batch of acts did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Handled {
    /// Acted on.
    pub done: i32,
    /// Left alone.
    pub skipped: i32,
    /// Not possible.
    pub refused: i32,
    /// Of `done`: ended by the act itself (a cancel).
    pub settled: i32,
}

/// Count a batch and move the pace: the next act is due when the rate allows it.
///
/// # Errors
/// [`DbError`].
pub async fn advance(
    connection: &mut PgConnection,
    home: OrganizationId,
    id: OperationId,
    handled: Handled,
) -> Result<(), DbError> {
    let updated = sqlx::query(
        "update operations
         set done = done + $3, skipped = skipped + $4, refused = refused + $5, settled = settled + $6,
             begun_at = coalesce(begun_at, chartgate_now()), acted_at = chartgate_now(),
             due_at = paced.due, next_at = paced.due
         from (select greatest(coalesce(o.due_at, chartgate_now()), chartgate_now() - interval '1 second')
                      + ($3 + $4 + $5) * interval '1 second' / o.rate as due
               from operations o where o.organization_id = $1 and o.id = $2) paced
         where organization_id = $1 and id = $2",
    )
    .bind(home)
    .bind(id)
    .bind(handled.done)
    .bind(handled.skipped)
    .bind(handled.refused)
    .bind(handled.settled)
    .execute(connection)
    .await?;
    ensure_one_row(&updated)
}

/// The next status of one that goes on by itself: `running`, `canary`. Worked on at once.
///
/// # Errors
/// [`DbError`].
pub async fn become_status(
    connection: &mut PgConnection,
    home: OrganizationId,
    id: OperationId,
    status: &str,
) -> Result<(), DbError> {
    let updated = sqlx::query(
        "update operations
         set status = $3, canary_passed = canary_passed or $3 = 'running', next_at = chartgate_now()
         where organization_id = $1 and id = $2",
    )
    .bind(home)
    .bind(id)
    .bind(status)
    .execute(connection)
    .await?;
    ensure_one_row(&updated)
}

/// End it: `succeeded` or `undone`. Results are still looked for while some are open.
///
/// # Errors
/// [`DbError`].
pub async fn end(
    connection: &mut PgConnection,
    home: OrganizationId,
    id: OperationId,
    status: &str,
) -> Result<(), DbError> {
    let updated = sqlx::query(
        "update operations
         set status = $3, finished_at = chartgate_now(), next_at = case when settled + undone < done then chartgate_now() end
         where organization_id = $1 and id = $2",
    )
    .bind(home)
    .bind(id)
    .bind(status)
    .execute(connection)
    .await?;
    ensure_one_row(&updated)
}

/// Stop it: the rest is left alone. `reason` is `administrator`, `canary_failed` or `failures`.
///
/// # Errors
/// [`DbError`].
pub async fn stop(
    connection: &mut PgConnection,
    home: OrganizationId,
    id: OperationId,
    reason: &str,
) -> Result<(), DbError> {
    let updated = sqlx::query(
        "update operations
         set status = 'stopped', stop_reason = $3, finished_at = chartgate_now(),
             next_at = case when settled + undone < done then chartgate_now() end
         where organization_id = $1 and id = $2",
    )
    .bind(home)
    .bind(id)
    .bind(reason)
    .execute(connection)
    .await?;
    ensure_one_row(&updated)
}

/// Go on: what failed until now does not count, and a canary that failed is not asked again. Where somebody stopped the operation
/// before its canary was decided, the canary is still asked, and what failed of it meanwhile counts.
///
/// # Errors
/// [`DbError`].
pub async fn resume(connection: &mut PgConnection, home: OrganizationId, id: OperationId) -> Result<(), DbError> {
    let updated = sqlx::query(
        "update operations
         set status = 'running', canary_passed = canary_passed or stop_reason = 'canary_failed', stop_reason = null,
             failures_before = case when canary = 0 or canary_passed or stop_reason = 'canary_failed' then failed_again else failures_before end,
             finished_at = null, due_at = chartgate_now(), next_at = chartgate_now(),
             begun_at = null, acted_before = done + skipped + refused
         where organization_id = $1 and id = $2",
    )
    .bind(home)
    .bind(id)
    .execute(connection)
    .await?;
    ensure_one_row(&updated)
}

/// Begin to take back.
///
/// # Errors
/// [`DbError`].
pub async fn begin_undo(connection: &mut PgConnection, home: OrganizationId, id: OperationId) -> Result<(), DbError> {
    let updated = sqlx::query(
        "update operations
         set status = 'undoing', undo_after = 0, finished_at = null, next_at = chartgate_now()
         where organization_id = $1 and id = $2",
    )
    .bind(home)
    .bind(id)
    .execute(connection)
    .await?;
    ensure_one_row(&updated)
}

/// Count what was taken back, up to that position.
///
/// # Errors
/// [`DbError`].
pub async fn count_undone(
    connection: &mut PgConnection,
    home: OrganizationId,
    id: OperationId,
    undone: i32,
    after: i32,
) -> Result<(), DbError> {
    let updated = sqlx::query(
        "update operations set undone = undone + $3, undo_after = $4, next_at = chartgate_now()
         where organization_id = $1 and id = $2",
    )
    .bind(home)
    .bind(id)
    .bind(undone)
    .bind(after)
    .execute(connection)
    .await?;
    ensure_one_row(&updated)
}

/// How far the filter was read.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Targets so far.
    pub selected: i32,
    /// There were more than an operation takes.
    pub cut: bool,
    /// The organization being read.
    pub organization: Option<OrganizationId>,
    /// Its last job.
    pub after: Option<JobId>,
    /// All was read.
    pub is_end: bool,
}

/// Note how far the filter was read; at its end `matched` is what was found.
///
/// # Errors
/// [`DbError`].
pub async fn note_selection(
    connection: &mut PgConnection,
    home: OrganizationId,
    id: OperationId,
    place: Place,
) -> Result<(), DbError> {
    let updated = sqlx::query(
        "update operations
         set selected = $3, cut = cut or $4, select_organization = $5, select_after = $6,
             matched = case when $7 then $3 else greatest(matched, $3) end,
             selected_at = case when $7 then chartgate_now() end,
             due_at = chartgate_now(), next_at = chartgate_now()
         where organization_id = $1 and id = $2",
    )
    .bind(home)
    .bind(id)
    .bind(place.selected)
    .bind(place.cut)
    .bind(place.organization)
    .bind(place.after)
    .bind(place.is_end)
    .execute(connection)
    .await?;
    ensure_one_row(&updated)
}
