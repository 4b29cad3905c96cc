//! SQL on sessions of the console.

use crate::db::DbError;
use crate::ids::OrganizationId;
use sqlx::PgConnection;

/// Minutes without a request after which a session has ended.
pub(super) const IDLE_MINUTES: i32 = 15;
/// Hours after which it has ended in any case.
pub(super) const HOURS_MAX: i32 = 12;

/// Whose session it is.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct SessionRow {
    pub(super) key_id: String,
    pub(super) organization_id: Option<OrganizationId>,
    pub(super) role: String,
    pub(super) source: String,
    pub(super) is_stale: bool,
}

/// The key of that id, as a session of it would be.
pub(super) async fn insert(connection: &mut PgConnection, token_sha256: &[u8], key: &str) -> Result<(), DbError> {
    sqlx::query("insert into console_sessions (token_sha256, key_id) values ($1, $2)")
        .bind(token_sha256)
        .bind(key)
        .execute(connection)
        .await?;
    Ok(())
}

/// A session that has not ended, of a key that has neither.
pub(super) async fn find(connection: &mut PgConnection, token_sha256: &[u8]) -> Result<Option<SessionRow>, DbError> {
    Ok(sqlx::query_as(
        "select s.key_id, k.organization_id, k.role, k.source, s.seen_at < chartgate_now() - interval '30 seconds' is_stale
         from console_sessions s
         join api_keys k on k.id = s.key_id
         where s.token_sha256 = $1
           and s.seen_at > chartgate_now() - make_interval(mins => $2)
           and s.created_at > chartgate_now() - make_interval(hours => $3)
           and k.revoked_at is null and (k.expires_at is null or k.expires_at > chartgate_now())",
    )
    .bind(token_sha256)
    .bind(IDLE_MINUTES)
    .bind(HOURS_MAX)
    .fetch_optional(connection)
    .await?)
}

/// Somebody is there.
pub(super) async fn touch(connection: &mut PgConnection, token_sha256: &[u8]) -> Result<(), DbError> {
    sqlx::query("update console_sessions set seen_at = chartgate_now() where token_sha256 = $1")
        .bind(token_sha256)
        .execute(connection)
        .await?;
    Ok(())
}

/// Log out.
pub(super) async fn end(connection: &mut PgConnection, token_sha256: &[u8]) -> Result<(), DbError> {
    sqlx::query("delete from console_sessions where token_sha256 = $1").bind(token_sha256).execute(connection).await?;
    Ok(())
}

/// Forget sessions that have ended.
///
/// # Errors
/// [`DbError`].
pub async fn forget_sessions(connection: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query(
        "delete from console_sessions
         where seen_at < chartgate_now() - make_interval(mins => $1) or created_at < chartgate_now() - make_interval(hours => $2)",
    )
    .bind(IDLE_MINUTES)
    .bind(HOURS_MAX)
    .execute(connection)
    .await?;
    Ok(())
}
