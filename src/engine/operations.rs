//! Bulk acts of administrators, with their persisted progress.

use crate::audit::Actor;
use crate::db::{DbError, ensure_one_row};
use crate::ids::{OperationId, OrganizationId};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

/// A bulk operation's status.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationView {
    /// `op_…`
    #[sqlx(rename = "id")]
    #[schema(value_type = String)]
    pub operation_id: OperationId,
    /// retry.
    pub kind: String,
    /// `dry_run`, running, succeeded or stopped (a canary failed).
    pub status: String,
    /// Jobs that the filter met.
    pub matched: i32,
    /// Jobs acted on so far.
    pub done: i32,
    /// Jobs left alone, because they were under way or gone.
    pub skipped: i32,
    /// Why.
    pub reason: String,
    /// Started.
    #[serde(with = "time::serde::rfc3339::option")]
    pub created_at: Option<OffsetDateTime>,
    /// Ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
}

impl OperationView {
    /// What would be done; nothing is stored.
    #[must_use]
    pub fn dry_run(operation_id: OperationId, matched: i32, reason: String) -> Self {
        Self {
            operation_id,
            kind: "retry".to_owned(),
            status: "dry_run".to_owned(),
            matched,
            done: 0,
            skipped: 0,
            reason,
            created_at: None,
            finished_at: None,
        }
    }
}

/// Record an operation that starts.
///
/// # Errors
/// [`DbError`].
pub async fn insert(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: OperationId,
    matched: i32,
    request: &Value,
    reason: &str,
    actor: &Actor,
) -> Result<OperationView, DbError> {
    Ok(sqlx::query_as(
        "insert into operations (organization_id, id, kind, status, request, matched, reason, actor, created_at)
         values ($1, $2, 'retry', 'running', $3, $4, $5, $6, chartgate_now())
         returning id, kind, status, matched, done, skipped, reason, created_at, finished_at",
    )
    .bind(organization)
    .bind(id)
    .bind(request)
    .bind(matched)
    .bind(reason)
    .bind(&actor.name)
    .fetch_one(connection)
    .await?)
}

/// Store progress; any status but `running` ends it.
///
/// # Errors
/// [`DbError`].
pub async fn report(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: OperationId,
    done: i32,
    skipped: i32,
    status: &str,
) -> Result<(), DbError> {
    let updated = sqlx::query(
        "update operations
         set done = $3, skipped = $4, status = $5, finished_at = case when $5 <> 'running' then chartgate_now() end
         where organization_id = $1 and id = $2",
    )
    .bind(organization)
    .bind(id)
    .bind(done)
    .bind(skipped)
    .bind(status)
    .execute(connection)
    .await?;
    ensure_one_row(&updated)
}

/// One operation.
///
/// # Errors
/// [`DbError`].
pub async fn find(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: OperationId,
) -> Result<Option<OperationView>, DbError> {
    Ok(sqlx::query_as(
        "select id, kind, status, matched, done, skipped, reason, created_at, finished_at
         from operations
         where organization_id = $1 and id = $2",
    )
    .bind(organization)
    .bind(id)
    .fetch_optional(connection)
    .await?)
}
