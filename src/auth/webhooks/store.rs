//! SQL on webhook secrets, and on webhooks that were seen.

use crate::db::DbError;
use crate::ids::OrganizationId;
use sqlx::PgConnection;
use std::time::Duration;
use time::OffsetDateTime;

/// Of one organization in one call.
pub const FORGET_MAX: i32 = 10_000;

/// A secret as it is used. No `Debug`.
#[derive(sqlx::FromRow)]
pub struct SecretRow {
    /// 16 hexadecimal digits.
    pub id: String,
    /// Label of the sending system.
    pub source: String,
    /// What [`crate::secrets`] made of it.
    pub sealed_secret: Vec<u8>,
}

/// The secrets of a sender that are good now, newest first; their use is noted (once a minute at most).
///
/// # Errors
/// [`DbError`].
pub async fn use_secrets(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sender_id: &str,
) -> Result<Vec<SecretRow>, DbError> {
    let rows: Vec<SecretRow> = sqlx::query_as(
        "select id, source, sealed_secret
         from webhook_secrets
         where organization_id = $1 and sender_id = $2
           and revoked_at is null and (expires_at is null or expires_at > chartgate_now())
         order by created_at desc, id
         limit 10",
    )
    .bind(organization)
    .bind(sender_id)
    .fetch_all(&mut *connection)
    .await?;
    if !rows.is_empty() {
        sqlx::query(
            "update webhook_secrets set last_used_at = chartgate_now()
             where organization_id = $1 and sender_id = $2 and revoked_at is null
               and (last_used_at is null or last_used_at < chartgate_now() - interval '1 minute')",
        )
        .bind(organization)
        .bind(sender_id)
        .execute(connection)
        .await?;
    }
    Ok(rows)
}

/// Remember a webhook; the hash of the bytes that its id came with first.
///
/// # Errors
/// [`DbError`].
pub async fn note_webhook(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sender_id: &str,
    webhook_id: &str,
    body_sha256: &[u8; 32],
) -> Result<[u8; 32], DbError> {
    let noted = sqlx::query(
        "insert into webhook_replays (organization_id, sender_id, webhook_id, body_sha256, seen_at)
         values ($1, $2, $3, $4, chartgate_now())
         on conflict do nothing",
    )
    .bind(organization)
    .bind(sender_id)
    .bind(webhook_id)
    .bind(&body_sha256[..])
    .execute(&mut *connection)
    .await?;
    if noted.rows_affected() == 1 {
        return Ok(*body_sha256);
    }
    // A statement of its own: it sees the row also when that was committed while we waited for its key.
    let first: Option<Vec<u8>> = sqlx::query_scalar(
        "select body_sha256 from webhook_replays where organization_id = $1 and sender_id = $2 and webhook_id = $3",
    )
    .bind(organization)
    .bind(sender_id)
    .bind(webhook_id)
    .fetch_optional(connection)
    .await?;
    // Forgotten between the two: it is as good as new.
    Ok(first.and_then(|first| first.try_into().ok()).unwrap_or(*body_sha256))
}

/// Forget webhooks that were seen so long ago; how many.
///
/// # Errors
/// [`DbError`].
pub async fn forget_webhooks(connection: &mut PgConnection, age: Duration) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar("select forget_webhooks($1, $2)")
        .bind(age.as_secs_f64())
        .bind(FORGET_MAX)
        .fetch_one(connection)
        .await?)
}

/// A secret in a list: never the secret itself.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SecretSummary {
    /// 16 hexadecimal digits.
    pub id: String,
    /// The sender's.
    pub sender_id: String,
    /// For people.
    pub name: String,
    /// Label of the sending system.
    pub source: String,
    /// Made.
    pub created_at: OffsetDateTime,
    /// Ends by itself.
    pub expires_at: Option<OffsetDateTime>,
    /// A request of its sender was looked at, to the minute.
    pub last_used_at: Option<OffsetDateTime>,
    /// Revoked.
    pub revoked_at: Option<OffsetDateTime>,
    /// Neither revoked nor expired, by the database's clock.
    pub is_valid: bool,
}

/// An organization's secrets, newest first, after the one with that id.
///
/// # Errors
/// [`DbError`].
pub async fn list_secrets(
    connection: &mut PgConnection,
    organization: OrganizationId,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<SecretSummary>, DbError> {
    Ok(sqlx::query_as(
        "select id, sender_id, name, source, created_at, expires_at, last_used_at, revoked_at,
                revoked_at is null and (expires_at is null or expires_at > chartgate_now()) is_valid
         from webhook_secrets
         where organization_id = $1
           and ($2::text is null
                or (created_at, id) < (select created_at, id from webhook_secrets where organization_id = $1 and id = $2))
         order by created_at desc, id desc
         limit $3",
    )
    .bind(organization)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}

/// The secrets of one sender that are good now, oldest first. Held until the transaction's end: of two rotations at once the
/// later one sees what the earlier one made.
///
/// # Errors
/// [`DbError`].
pub async fn hold_secrets(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sender_id: &str,
) -> Result<Vec<SecretSummary>, DbError> {
    sqlx::query("select from webhook_secrets where organization_id = $1 and sender_id = $2 for update")
        .bind(organization)
        .bind(sender_id)
        .execute(&mut *connection)
        .await?;
    Ok(sqlx::query_as(
        "select id, sender_id, name, source, created_at, expires_at, last_used_at, revoked_at, true is_valid
         from webhook_secrets
         where organization_id = $1 and sender_id = $2
           and revoked_at is null and (expires_at is null or expires_at > chartgate_now())
         order by created_at, id",
    )
    .bind(organization)
    .bind(sender_id)
    .fetch_all(connection)
    .await?)
}

/// A secret to be stored. No `Debug`.
pub struct NewSecret<'a> {
    /// 16 hexadecimal digits.
    pub id: &'a str,
    /// The sender's; its own id for the first of a sender.
    pub sender_id: &'a str,
    /// For people.
    pub name: &'a str,
    /// Label of the sending system.
    pub source: &'a str,
    /// What [`crate::secrets`] made of it.
    pub sealed: &'a [u8],
    /// Ends by itself.
    pub expires_at: Option<OffsetDateTime>,
}

/// Store a secret; when it was made.
///
/// # Errors
/// [`DbError`].
pub async fn insert_secret(
    connection: &mut PgConnection,
    organization: OrganizationId,
    new: NewSecret<'_>,
) -> Result<OffsetDateTime, DbError> {
    Ok(sqlx::query_scalar(
        "insert into webhook_secrets (organization_id, id, sender_id, name, source, sealed_secret, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)
         returning created_at",
    )
    .bind(organization)
    .bind(new.id)
    .bind(new.sender_id)
    .bind(new.name)
    .bind(new.source)
    .bind(new.sealed)
    .bind(new.expires_at)
    .fetch_one(connection)
    .await?)
}

/// Let the sender's other secrets end after the overlap, where they do not end before; how many.
///
/// # Errors
/// [`DbError`].
pub async fn end_others(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sender_id: &str,
    kept: &str,
    overlap: Duration,
) -> Result<u64, DbError> {
    let ended = sqlx::query(
        "update webhook_secrets
         set expires_at = least(expires_at, chartgate_now() + $4 * interval '1 second')
         where organization_id = $1 and sender_id = $2 and id <> $3
           and revoked_at is null and (expires_at is null or expires_at > chartgate_now())",
    )
    .bind(organization)
    .bind(sender_id)
    .bind(kept)
    .bind(overlap.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(ended.rows_affected())
}

/// Revoke a secret. Answers whether there was one.
///
/// # Errors
/// [`DbError`].
pub async fn revoke_secret(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: &str,
) -> Result<bool, DbError> {
    let revoked = sqlx::query(
        "update webhook_secrets set revoked_at = coalesce(revoked_at, chartgate_now())
         where organization_id = $1 and id = $2",
    )
    .bind(organization)
    .bind(id)
    .execute(connection)
    .await?;
    Ok(revoked.rows_affected() == 1)
}
