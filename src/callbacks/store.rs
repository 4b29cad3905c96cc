//! SQL of callbacks: registrations.

use crate::db::DbError;
use crate::ids::{CallbackId, OrganizationId};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// A registration, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallbackView {
    /// `cb_…`
    #[sqlx(rename = "id")]
    #[schema(value_type = String, example = "cb_01h455vb4pex5vsknk084sn02q")]
    pub callback_id: CallbackId,
    /// Where messages go.
    pub url: String,
    /// For people.
    pub description: String,
    /// Of these ends of jobs: `job.succeeded`, `job.succeeded_with_issues`, `job.failed`, `job.cancelled`, `job.expired`; empty: all.
    pub events: Vec<String>,
    /// Of jobs of these workflows; empty: all.
    pub workflows: Vec<String>,
    /// active or disabled.
    pub status: String,
    /// `administrator`, `gone` (the receiver answered 410) or `failing` (for too long).
    pub disabled_reason: Option<String>,
    /// Since its first failure after the last success.
    #[serde(with = "time::serde::rfc3339::option")]
    pub failing_since: Option<OffsetDateTime>,
    /// The last success, to the minute.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_delivered_at: Option<OffsetDateTime>,
    /// The secret before the current one signs, too, until then.
    #[serde(with = "time::serde::rfc3339::option")]
    pub previous_secret_until: Option<OffsetDateTime>,
    /// Registered.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

const COLUMNS: &str =
    "id, url, description, events, workflows, status, disabled_reason, failing_since, last_delivered_at,
   case when previous_until > chartgate_now() then previous_until end previous_secret_until, created_at, updated_at";

/// A new registration.
#[derive(Debug)]
pub struct NewCallback {
    /// Its id, to which the sealed secret is bound.
    pub id: CallbackId,
    /// Checked.
    pub url: String,
    /// For people.
    pub description: String,
    /// Empty: all.
    pub events: Vec<String>,
    /// Empty: all.
    pub workflows: Vec<String>,
    /// Sealed.
    pub secret: Vec<u8>,
}

/// How many registrations an organization has. Holds the organization's row, so that two who register at once count each
/// other.
///
/// # Errors
/// [`DbError`].
pub async fn count(connection: &mut PgConnection, organization: OrganizationId) -> Result<i64, DbError> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('chartgate.callbacks.' || $1::text, 0))")
        .bind(organization)
        .execute(&mut *connection)
        .await?;
    Ok(sqlx::query_scalar("select count(*) from callbacks where organization_id = $1")
        .bind(organization)
        .fetch_one(connection)
        .await?)
}

/// Register.
///
/// # Errors
/// [`DbError`].
pub async fn insert(
    connection: &mut PgConnection,
    organization: OrganizationId,
    new: &NewCallback,
) -> Result<CallbackView, DbError> {
    let insert = format!(
        "insert into callbacks (organization_id, id, url, description, events, workflows, status, secret, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, 'active', $7, chartgate_now(), chartgate_now())
         returning {COLUMNS}"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(insert))
        .bind(organization)
        .bind(new.id)
        .bind(&new.url)
        .bind(&new.description)
        .bind(&new.events)
        .bind(&new.workflows)
        .bind(&new.secret)
        .fetch_one(connection)
        .await?)
}

/// All of an organization, oldest first, or the one of that id.
///
/// # Errors
/// [`DbError`].
pub async fn list(
    connection: &mut PgConnection,
    organization: OrganizationId,
    only: Option<CallbackId>,
) -> Result<Vec<CallbackView>, DbError> {
    let select = format!(
        "select {COLUMNS}
         from callbacks
         where organization_id = $1 and ($2::uuid is null or id = $2)
         order by id"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(select)).bind(organization).bind(only).fetch_all(connection).await?)
}

/// What is changed; `None` stays as it is.
#[derive(Debug, Default)]
pub struct Change {
    /// Checked.
    pub url: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Empty: all.
    pub events: Option<Vec<String>>,
    /// Empty: all.
    pub workflows: Option<Vec<String>>,
    /// Active or disabled by the administrator; active forgets that it failed.
    pub active: Option<bool>,
}

/// Change a registration; `None`: there is none.
///
/// # Errors
/// [`DbError`].
pub async fn change(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: CallbackId,
    change: &Change,
) -> Result<Option<CallbackView>, DbError> {
    let update = format!(
        "update callbacks
         set url = coalesce($3, url), description = coalesce($4, description), events = coalesce($5, events),
             workflows = coalesce($6, workflows),
             status = case when $7 then 'active' when not $7 then 'disabled' else status end,
             disabled_reason = case when $7 then null when not $7 then coalesce(disabled_reason, 'administrator') else disabled_reason end,
             failing_since = case when $7 then null else failing_since end,
             updated_at = chartgate_now()
         where organization_id = $1 and id = $2
         returning {COLUMNS}"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(update))
        .bind(organization)
        .bind(id)
        .bind(&change.url)
        .bind(&change.description)
        .bind(&change.events)
        .bind(&change.workflows)
        .bind(change.active)
        .fetch_optional(connection)
        .await?)
}

/// A fresh secret signs from now on; the one before it signs, too, for so long. `None`: there is no such callback.
///
/// # Errors
/// [`DbError`].
pub async fn rotate(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: CallbackId,
    secret: &[u8],
    overlap: std::time::Duration,
) -> Result<Option<CallbackView>, DbError> {
    let update = format!(
        "update callbacks
         set previous_secret = case when $4 > 0 then secret end,
             previous_until = case when $4 > 0 then chartgate_now() + $4 * interval '1 second' end,
             secret = $3, updated_at = chartgate_now()
         where organization_id = $1 and id = $2
         returning {COLUMNS}"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(update))
        .bind(organization)
        .bind(id)
        .bind(secret)
        .bind(overlap.as_secs_f64())
        .fetch_optional(connection)
        .await?)
}

/// Remove a registration; what waits for it has failed. False: there is none.
///
/// # Errors
/// [`DbError`].
pub async fn delete(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: CallbackId,
) -> Result<bool, DbError> {
    let deleted = sqlx::query("delete from callbacks where organization_id = $1 and id = $2")
        .bind(organization)
        .bind(id)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "update callback_messages
         set status = 'failed', ended_at = chartgate_now()
         where organization_id = $1 and callback_id = $2 and status = 'waiting'",
    )
    .bind(organization)
    .bind(id)
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected() == 1)
}

/// Where and with what a callback is called now.
#[derive(sqlx::FromRow)]
pub struct Receiver {
    /// As registered.
    pub url: String,
    /// active or disabled.
    pub status: String,
    /// Sealed.
    pub secret: Vec<u8>,
    /// Sealed; only while it is still good.
    pub previous_secret: Option<Vec<u8>>,
    /// The database's time.
    pub now: OffsetDateTime,
}

/// A callback's receiver; `None`: there is no such callback.
///
/// # Errors
/// [`DbError`].
pub async fn receiver(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: CallbackId,
) -> Result<Option<Receiver>, DbError> {
    Ok(sqlx::query_as(
        "select url, status, secret, case when previous_until > chartgate_now() then previous_secret end previous_secret,
                chartgate_now() now
         from callbacks
         where organization_id = $1 and id = $2",
    )
    .bind(organization)
    .bind(id)
    .fetch_optional(connection)
    .await?)
}

/// Callbacks that nobody disabled: their failures did.
///
/// # Errors
/// [`DbError`].
pub async fn disabled_by_failure(
    connection: &mut PgConnection,
    organization: OrganizationId,
) -> Result<Vec<CallbackId>, DbError> {
    Ok(sqlx::query_scalar(
        "select id
         from callbacks
         where organization_id = $1 and status = 'disabled' and disabled_reason <> 'administrator'
         order by id",
    )
    .bind(organization)
    .fetch_all(connection)
    .await?)
}
