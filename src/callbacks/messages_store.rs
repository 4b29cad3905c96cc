//! SQL of messages: what the dispatcher takes up, what a delivery reads and writes, the log, and what is forgotten.

use crate::audit::Actor;
use crate::db::DbError;
use crate::engine::traces_store;
use crate::ids::{CallbackId, DeliveryId, JobId, MessageId, OrganizationId};
use sqlx::PgConnection;
use std::time::Duration;
use time::OffsetDateTime;

/// Organizations with messages that wait, by id; scope `Platform`.
///
/// # Errors
/// [`DbError`].
pub async fn organizations_with_waiting(connection: &mut PgConnection) -> Result<Vec<OrganizationId>, DbError> {
    // From one organization to the next by the index: one of them may have very many.
    Ok(sqlx::query_scalar(
        "with recursive waiting as (
           (select organization_id from callback_messages where status = 'waiting' order by organization_id limit 1)
           union all
           select (select n.organization_id from callback_messages n
                   where n.status = 'waiting' and n.organization_id > w.organization_id
                   order by n.organization_id limit 1)
           from waiting w where w.organization_id is not null)
         select organization_id from waiting where organization_id is not null",
    )
    .fetch_all(connection)
    .await?)
}

/// A callback with messages that wait, and how many more jobs it may have now.
#[derive(Debug, sqlx::FromRow)]
pub struct Ready {
    /// The callback.
    pub id: CallbackId,
    /// Free places of its window.
    pub free: i64,
}

/// Active callbacks with messages that wait and a free place, held against other dispatchers until the transaction's end.
///
/// # Errors
/// [`DbError`].
pub async fn ready_callbacks(
    connection: &mut PgConnection,
    organization: OrganizationId,
    window: i64,
    window_failing: i64,
) -> Result<Vec<Ready>, DbError> {
    let held: Vec<(CallbackId, bool)> = sqlx::query_as(
        "select c.id, c.failing_since is not null
         from callbacks c
         where c.organization_id = $1
           and c.status = 'active'
           and exists (
             select from callback_messages m
             where m.organization_id = c.organization_id and m.callback_id = c.id and m.status = 'waiting')
         order by c.id
         for update skip locked",
    )
    .bind(organization)
    .fetch_all(&mut *connection)
    .await?;
    let mut ready = Vec::new();
    for (id, is_failing) in held {
        // After the lock: what another dispatcher has just taken is counted.
        let sending: i64 = sqlx::query_scalar(
            "select count(*) from callback_messages where organization_id = $1 and callback_id = $2 and status = 'sending'",
        )
        .bind(organization)
        .bind(id)
        .fetch_one(&mut *connection)
        .await?;
        let free = if is_failing { window_failing } else { window } - sending;
        if free > 0 {
            ready.push(Ready { id, free });
        }
    }
    Ok(ready)
}

/// The oldest messages of a callback that wait, at most `limit`.
///
/// # Errors
/// [`DbError`].
pub async fn waiting(
    connection: &mut PgConnection,
    organization: OrganizationId,
    callback: CallbackId,
    limit: i64,
) -> Result<Vec<MessageId>, DbError> {
    Ok(sqlx::query_scalar(
        "select id
         from callback_messages
         where organization_id = $1 and callback_id = $2 and status = 'waiting'
         order by created_at, id
         limit $3
         for update skip locked",
    )
    .bind(organization)
    .bind(callback)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}

/// The workflow that delivers.
#[derive(Debug, Clone)]
pub struct Workflow {
    /// Name.
    pub name: String,
    /// Newest version.
    pub version: i32,
    /// Its priority.
    pub priority: i16,
}

/// Make a job for each message: the message is in its hands, the job is in the queue, all in this transaction.
///
/// # Errors
/// [`DbError`].
pub async fn dispatch(
    connection: &mut PgConnection,
    organization: OrganizationId,
    pairs: &[(MessageId, JobId)],
    workflow: &Workflow,
    actor: &Actor,
) -> Result<(), DbError> {
    let (messages, jobs): (Vec<MessageId>, Vec<JobId>) = pairs.iter().copied().unzip();
    sqlx::query(
        "update callback_messages m
         set status = 'sending', delivery_id = t.job
         from unnest($2::uuid[], $3::uuid[]) t(message, job)
         where m.organization_id = $1 and m.id = t.message",
    )
    .bind(organization)
    .bind(&messages)
    .bind(&jobs)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "insert into jobs (organization_id, id, workflow, workflow_version, source, status, seq, priority, submitted_by, created_at, updated_at)
         select $1, job, $3, $4, 'callback', 'queued', nextval('job_seq'), $5, $6, chartgate_now(), chartgate_now()
         from unnest($2::uuid[]) with ordinality t(job, n)
         order by n",
    )
    .bind(organization)
    .bind(&jobs)
    .bind(&workflow.name)
    .bind(workflow.version)
    .bind(workflow.priority)
    .bind(&actor.name)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "select enqueue_job(organization_id, id, seq, lane, priority, workflow, workflow_version, round, round_first_step, chartgate_now())
         from jobs
         where organization_id = $1 and id = any ($2)
         order by seq",
    )
    .bind(organization)
    .bind(&jobs)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "insert into audit_records (organization_id, at, event, action, actor, authentication, job_id, resource, program_version)
         select $1, chartgate_now(), 'callback.dispatched', 'C', $4, $5, job, r, $6
         from unnest($2::uuid[], $3::text[]) t(job, r)",
    )
    .bind(organization)
    .bind(&jobs)
    .bind(messages.iter().map(ToString::to_string).collect::<Vec<_>>())
    .bind(&actor.name)
    .bind(&actor.authentication)
    .bind(env!("CARGO_PKG_VERSION"))
    .execute(&mut *connection)
    .await?;
    traces_store::follow(connection, organization, &jobs).await
}

/// A message: what there is to tell.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct MessageRow {
    /// `webhook-id`.
    pub id: MessageId,
    /// To whom.
    pub callback_id: CallbackId,
    /// The job that ended.
    pub job_id: JobId,
    /// Its round.
    pub round: i32,
    /// Its status at the end.
    pub event: String,
    /// Its workflow.
    pub workflow: String,
    /// webhook, athena or upload.
    pub source: String,
    /// Of a job that failed.
    pub error_code: Option<String>,
    /// Of a job that failed.
    pub error_class: Option<String>,
    /// When it ended.
    pub finished_at: OffsetDateTime,
}

/// The message that a job delivers.
///
/// # Errors
/// [`DbError`].
pub async fn of_delivery(
    connection: &mut PgConnection,
    organization: OrganizationId,
    delivery: JobId,
) -> Result<Option<MessageRow>, DbError> {
    Ok(sqlx::query_as(
        "select id, callback_id, job_id, round, event, workflow, source, error_code, error_class, finished_at
         from callback_messages
         where organization_id = $1 and delivery_id = $2",
    )
    .bind(organization)
    .bind(delivery)
    .fetch_optional(connection)
    .await?)
}

/// One attempt, for the log.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its id.
    pub id: DeliveryId,
    /// The callback.
    pub callback: CallbackId,
    /// The message; a test's has no row.
    pub message: MessageId,
    /// The job that ended, and its round; none of a test.
    pub job: Option<(JobId, i32)>,
    /// `job.failed`, `callback.test`.
    pub event: String,
    /// `None`: delivered.
    pub error_code: Option<&'static str>,
    /// The answer's status.
    pub response_status: Option<u16>,
    /// How long it took.
    pub duration: Duration,
}

/// Write an attempt into the log, and count it at its message.
///
/// # Errors
/// [`DbError`].
pub async fn log(
    connection: &mut PgConnection,
    organization: OrganizationId,
    attempt: &Attempt,
) -> Result<DeliveryView, DbError> {
    let number: Option<i32> = sqlx::query_scalar(
        "update callback_messages set attempts = attempts + 1 where organization_id = $1 and id = $2 returning attempts",
    )
    .bind(organization)
    .bind(attempt.message)
    .fetch_optional(&mut *connection)
    .await?;
    Ok(sqlx::query_as(
        "insert into callback_deliveries (organization_id, id, callback_id, message_id, job_id, round, event, attempt, outcome,
                                          response_status, error_code, duration_ms, at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, case when $9::text is null then 'delivered' else 'failed' end, $10, $9, $11,
                 chartgate_now())
         returning id, message_id, job_id, round, event, attempt, outcome, response_status, error_code, duration_ms, at",
    )
    .bind(organization)
    .bind(attempt.id)
    .bind(attempt.callback)
    .bind(attempt.message)
    .bind(attempt.job.map(|(job, _)| job))
    .bind(attempt.job.map(|(_, round)| round))
    .bind(&attempt.event)
    .bind(number.unwrap_or(1))
    .bind(attempt.error_code)
    .bind(attempt.response_status.map(i32::from))
    .bind(i32::try_from(attempt.duration.as_millis()).unwrap_or(i32::MAX))
    .fetch_one(connection)
    .await?)
}

/// The message has arrived, and its callback works.
///
/// # Errors
/// [`DbError`].
pub async fn delivered(
    connection: &mut PgConnection,
    organization: OrganizationId,
    message: MessageId,
    callback: CallbackId,
) -> Result<(), DbError> {
    sqlx::query(
        "update callback_messages
         set status = 'delivered', ended_at = chartgate_now()
         where organization_id = $1 and id = $2",
    )
    .bind(organization)
    .bind(message)
    .execute(&mut *connection)
    .await?;
    // Not at every success: deliveries of one callback end side by side, and would wait for each other here.
    sqlx::query(
        "update callbacks
         set failing_since = null, last_delivered_at = chartgate_now()
         where organization_id = $1 and id = $2
           and (failing_since is not null or last_delivered_at is null or last_delivered_at < chartgate_now() - interval '1 minute')",
    )
    .bind(organization)
    .bind(callback)
    .execute(connection)
    .await?;
    Ok(())
}

/// An attempt of a callback failed: it is failing from now on, if it was not. Disabled at once when its receiver is gone, or
/// after so long. Answers the reason, if this disabled it.
///
/// # Errors
/// [`DbError`].
pub async fn failed(
    connection: &mut PgConnection,
    organization: OrganizationId,
    callback: CallbackId,
    is_gone: bool,
    disable_after: Duration,
) -> Result<Option<&'static str>, DbError> {
    let since: Option<(bool, bool)> = sqlx::query_as(
        "update callbacks
         set failing_since = coalesce(failing_since, chartgate_now())
         where organization_id = $1 and id = $2
         returning status = 'active', failing_since <= chartgate_now() - $3 * interval '1 second'",
    )
    .bind(organization)
    .bind(callback)
    .bind(disable_after.as_secs_f64())
    .fetch_optional(&mut *connection)
    .await?;
    let reason = match since {
        Some((true, _)) if is_gone => "gone",
        Some((true, true)) => "failing",
        _ => return Ok(None),
    };
    sqlx::query(
        "update callbacks
         set status = 'disabled', disabled_reason = $3, updated_at = chartgate_now()
         where organization_id = $1 and id = $2",
    )
    .bind(organization)
    .bind(callback)
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(Some(reason))
}

/// One attempt to deliver.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryView {
    /// `dlv_…`
    #[sqlx(rename = "id")]
    #[schema(value_type = String)]
    pub delivery_id: DeliveryId,
    /// `msg_…`: the `webhook-id` that was sent.
    #[schema(value_type = String)]
    pub message_id: MessageId,
    /// The job that ended; null of a test.
    #[schema(value_type = Option<String>)]
    pub job_id: Option<JobId>,
    /// Its round.
    pub round: Option<i32>,
    /// `job.succeeded`, `job.succeeded_with_issues`, `job.failed`, `job.cancelled`, `job.expired` or `callback.test`.
    pub event: String,
    /// Which attempt of the message, from 1.
    pub attempt: i32,
    /// delivered or failed.
    pub outcome: String,
    /// Status of the answer, if there was one.
    pub response_status: Option<i32>,
    /// Why it failed.
    pub error_code: Option<String>,
    /// Milliseconds.
    pub duration_ms: i32,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// Attempts of a callback, newest first, after the cursor.
///
/// # Errors
/// [`DbError`].
pub async fn deliveries(
    connection: &mut PgConnection,
    organization: OrganizationId,
    callback: CallbackId,
    outcome: Option<&str>,
    before: Option<DeliveryId>,
    limit: i64,
) -> Result<Vec<DeliveryView>, DbError> {
    Ok(sqlx::query_as(
        "select id, message_id, job_id, round, event, attempt, outcome, response_status, error_code, duration_ms, at
         from callback_deliveries
         where organization_id = $1 and callback_id = $2
           and ($3::text is null or outcome = $3)
           and ($4::uuid is null or id < $4)
         order by id desc
         limit $5",
    )
    .bind(organization)
    .bind(callback)
    .bind(outcome)
    .bind(before)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}

/// A message that is to be sent again.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResentView {
    /// `msg_…`: the `webhook-id`, which a resend keeps.
    #[sqlx(rename = "id")]
    #[schema(value_type = String)]
    pub message_id: MessageId,
    /// `cb_…`
    #[schema(value_type = String)]
    pub callback_id: CallbackId,
    /// `job.failed`, and so on.
    pub event: String,
    /// waiting, or sending if it is under way.
    pub status: String,
}

/// Tell of a job's end again: every active callback that wants such ends, or the named one; those that were not told before,
/// too. Messages that are under way stay as they are.
///
/// # Errors
/// [`DbError`].
pub async fn resend(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    callback: Option<CallbackId>,
) -> Result<Vec<ResentView>, DbError> {
    Ok(sqlx::query_as(
        "with wanted as (
           select j.*, c.id callback_id
           from jobs j
           join callbacks c on c.organization_id = j.organization_id and c.status = 'active'
           where j.organization_id = $1 and j.id = $2 and j.finished_at is not null and j.source <> 'callback'
             and ($3::uuid is null or c.id = $3)
             and ($3::uuid is not null
                  or (cardinality(c.events) = 0 or 'job.' || j.status = any (c.events))
                     and (cardinality(c.workflows) = 0 or j.workflow = any (c.workflows))))
         insert into callback_messages as m (organization_id, id, callback_id, job_id, round, event, workflow, source, error_code,
                                             error_class, finished_at, status, created_at)
         select w.organization_id, gen_random_uuid(), w.callback_id, w.id, w.round, w.status, w.workflow, w.source, w.error_code,
                w.error_class, w.finished_at, 'waiting', chartgate_now()
         from wanted w
         on conflict (organization_id, job_id, round, event, callback_id) do update
         set status = case when m.status = 'sending' then 'sending' else 'waiting' end,
             ended_at = null,
             delivery_id = case when m.status = 'sending' then m.delivery_id end
         returning id, callback_id, 'job.' || event event, status",
    )
    .bind(organization)
    .bind(job)
    .bind(callback)
    .fetch_all(connection)
    .await?)
}

/// Forget what ended before, at most `limit` rows each, and give up what waits for a callback that is gone (its job ended
/// while the callback was being removed). Answers how many rows went.
///
/// # Errors
/// [`DbError`].
pub async fn forget(
    connection: &mut PgConnection,
    organization: OrganizationId,
    keep: Duration,
    limit: i64,
) -> Result<u64, DbError> {
    sqlx::query(
        "update callback_messages m
         set status = 'failed', ended_at = chartgate_now()
         where m.organization_id = $1 and m.status = 'waiting'
           and not exists (select from callbacks c where c.organization_id = m.organization_id and c.id = m.callback_id)",
    )
    .bind(organization)
    .execute(&mut *connection)
    .await?;
    let messages = sqlx::query(
        "delete from callback_messages
         where ctid = any (array(
           select ctid from callback_messages
           where organization_id = $1 and ended_at < chartgate_now() - $2 * interval '1 second' limit $3))",
    )
    .bind(organization)
    .bind(keep.as_secs_f64())
    .bind(limit)
    .execute(&mut *connection)
    .await?;
    let deliveries = sqlx::query(
        "delete from callback_deliveries
         where ctid = any (array(
           select ctid from callback_deliveries
           where organization_id = $1 and at < chartgate_now() - $2 * interval '1 second' limit $3))",
    )
    .bind(organization)
    .bind(keep.as_secs_f64())
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(messages.rows_affected() + deliveries.rows_affected())
}

/// All organizations, for what is forgotten.
///
/// # Errors
/// [`DbError`].
pub async fn organizations(connection: &mut PgConnection) -> Result<Vec<OrganizationId>, DbError> {
    Ok(sqlx::query_scalar("select id from organizations order by id").fetch_all(connection).await?)
}

/// What a callback was or will be told of a job.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobMessage {
    /// `msg_…`
    pub id: MessageId,
    /// Whom.
    pub callback_id: CallbackId,
    /// Of which round.
    pub round: i32,
    /// The job's status at its end.
    pub event: String,
    /// waiting, sending, delivered or failed.
    pub status: String,
    /// Attempts so far.
    pub attempts: i32,
    /// Made.
    pub created_at: OffsetDateTime,
    /// Delivered, or given up.
    pub ended_at: Option<OffsetDateTime>,
}

/// Messages about a job, the newest rounds first; at most a hundred.
///
/// # Errors
/// [`DbError`].
pub async fn of_job(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<Vec<JobMessage>, DbError> {
    Ok(sqlx::query_as(
        "select id, callback_id, round, event, status, attempts, created_at, ended_at
         from callback_messages
         where organization_id = $1 and job_id = $2
         order by round desc, created_at desc
         limit 100",
    )
    .bind(organization)
    .bind(job)
    .fetch_all(connection)
    .await?)
}
