//! SQL on organizations and API keys (tables without row-level security).

use super::{NewKey, Role};
use crate::db::DbError;
use crate::ids::OrganizationId;
use serde_json::Value;
use sqlx::PgConnection;
use std::time::Duration;
use time::OffsetDateTime;

/// A key as it is looked up.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct KeyRow {
    /// Public part.
    pub id: String,
    /// Null for the platform role.
    pub organization_id: Option<OrganizationId>,
    /// Role.
    pub role: String,
    /// Label of the sending system.
    pub source: String,
    /// SHA-256 of the secret.
    pub secret_sha256: Vec<u8>,
    /// Neither revoked nor expired, by the database's clock.
    pub is_valid: bool,
    /// Its last use was noted more than a minute ago, or never.
    pub use_is_due: bool,
}

/// Look a key up by its public part, which many may know.
///
/// # Errors
/// [`DbError`].
pub async fn find_key(connection: &mut PgConnection, id: &str) -> Result<Option<KeyRow>, DbError> {
    Ok(sqlx::query_as(
        "select id, organization_id, role, source, secret_sha256,
                revoked_at is null and (expires_at is null or expires_at > chartgate_now()) is_valid,
                last_used_at is null or last_used_at < chartgate_now() - interval '1 minute' use_is_due
         from api_keys
         where id = $1",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?)
}

/// Note that a key was used, once a minute at most: by whoever has its secret, while it is good.
///
/// # Errors
/// [`DbError`].
pub async fn note_use(connection: &mut PgConnection, id: &str) -> Result<(), DbError> {
    sqlx::query(
        "update api_keys set last_used_at = chartgate_now()
         where id = $1 and (last_used_at is null or last_used_at < chartgate_now() - interval '1 minute')",
    )
    .bind(id)
    .execute(connection)
    .await?;
    Ok(())
}

/// A key in a list: never its secret.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeySummary {
    /// Public part.
    pub id: String,
    /// Null for the platform role.
    #[schema(value_type = Option<String>)]
    pub organization_id: Option<OrganizationId>,
    /// Role.
    pub role: String,
    /// For people.
    pub name: String,
    /// Label of the sending system.
    pub source: String,
    /// Made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Ends by itself.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// Last used, to the minute.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// Revoked.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// The id of its successor, once it was rotated.
    pub replaced_by: Option<String>,
}

/// What a new key is for.
#[derive(Debug, Clone)]
pub struct KeyGrant {
    /// Null for the platform role.
    pub organization: Option<OrganizationId>,
    /// Role.
    pub role: Role,
    /// For people.
    pub name: String,
    /// Label of the sending system.
    pub source: String,
    /// Ends by itself.
    pub expires_at: Option<OffsetDateTime>,
}

/// Store a new key's hash.
///
/// # Errors
/// [`DbError`].
pub async fn insert_key(connection: &mut PgConnection, key: &NewKey, grant: &KeyGrant) -> Result<(), DbError> {
    sqlx::query(
        "insert into api_keys (id, organization_id, role, name, source, secret_sha256, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&key.id)
    .bind(grant.organization)
    .bind(grant.role.as_str())
    .bind(&grant.name)
    .bind(&grant.source)
    .bind(&key.secret_sha256[..])
    .bind(grant.expires_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Keys of one organization, or all: newest first, after the one with that id.
///
/// # Errors
/// [`DbError`].
pub async fn list_keys(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<KeySummary>, DbError> {
    Ok(sqlx::query_as(
        "select id, organization_id, role, name, source, created_at, expires_at, last_used_at, revoked_at, replaced_by
         from api_keys
         where ($1::uuid is null or organization_id = $1)
           and ($2::text is null or (created_at, id) < (select created_at, id from api_keys where id = $2))
         order by created_at desc, id desc
         limit $3",
    )
    .bind(organization)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}

/// Make a key's successor, with the same organization, role, name and source; the old key ends after the overlap. Its role and
/// organization; `None` if there is no such key that is still good.
///
/// # Errors
/// [`DbError`].
pub async fn rotate_key(
    connection: &mut PgConnection,
    id: &str,
    organization: Option<OrganizationId>,
    new: &NewKey,
    overlap: Duration,
    expires_at: Option<OffsetDateTime>,
) -> Result<Option<(Role, Option<OrganizationId>)>, DbError> {
    let rotated: Option<(String, Option<OrganizationId>)> = sqlx::query_as(
        "with old as materialized (
           select * from api_keys
           where id = $1 and ($2::uuid is null or organization_id = $2)
             and revoked_at is null and (expires_at is null or expires_at > chartgate_now())
           -- Two at once: one waits, and then makes another successor.
           for update
         ), successor as (
           insert into api_keys (id, organization_id, role, name, source, secret_sha256, expires_at)
           select $3, organization_id, role, name, source, $4, $5 from old
           returning id
         )
         update api_keys k
         set replaced_by = (select id from successor),
             expires_at = least(k.expires_at, chartgate_now() + $6 * interval '1 second')
         from old
         where k.id = old.id
         returning k.role, k.organization_id",
    )
    .bind(id)
    .bind(organization)
    .bind(&new.id)
    .bind(&new.secret_sha256[..])
    .bind(expires_at)
    .bind(overlap.as_secs_f64())
    .fetch_optional(connection)
    .await?;
    Ok(rotated.and_then(|(role, organization)| Some((Role::parse(&role)?, organization))))
}

/// Keys that somebody should look at.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct KeyConcern {
    /// Public part.
    pub id: String,
    /// For people.
    pub name: String,
    /// Role.
    pub role: String,
    /// Its organization's name; none for the platform role.
    pub organization: Option<String>,
    /// It ends by itself in so many days.
    pub ends_in_days: Option<i32>,
    /// It was not used for so many days, or made so many days ago and never used.
    pub idle_days: i32,
}

/// Good keys that end within so many days without a successor, or that nobody used for so many.
///
/// # Errors
/// [`DbError`].
pub async fn list_key_concerns(
    connection: &mut PgConnection,
    ends_within_days: i32,
    idle_days: i32,
) -> Result<Vec<KeyConcern>, DbError> {
    Ok(sqlx::query_as(
        "select k.id, k.name, k.role, o.name organization,
                case when k.replaced_by is null
                     then (extract(epoch from k.expires_at - chartgate_now()) / 86400)::integer end ends_in_days,
                (extract(epoch from chartgate_now() - coalesce(k.last_used_at, k.created_at)) / 86400)::integer idle_days
         from api_keys k
         left join organizations o on o.id = k.organization_id
         where k.revoked_at is null
           and (k.expires_at is null or k.expires_at > chartgate_now())
           and (k.replaced_by is null and k.expires_at < chartgate_now() + $1 * interval '1 day'
                or coalesce(k.last_used_at, k.created_at) < chartgate_now() - $2 * interval '1 day')
         order by k.created_at, k.id
         limit 1000",
    )
    .bind(ends_within_days)
    .bind(idle_days)
    .fetch_all(connection)
    .await?)
}

/// Revoke a key; an organization's admin can revoke its own organization's only. Answers whether there was one.
///
/// # Errors
/// [`DbError`].
pub async fn revoke_key(
    connection: &mut PgConnection,
    id: &str,
    organization: Option<OrganizationId>,
) -> Result<bool, DbError> {
    let revoked = sqlx::query(
        "update api_keys set revoked_at = coalesce(revoked_at, chartgate_now())
         where id = $1 and ($2::uuid is null or organization_id = $2)",
    )
    .bind(id)
    .bind(organization)
    .execute(connection)
    .await?;
    Ok(revoked.rows_affected() == 1)
}

/// An organization.
#[derive(Debug, Clone, sqlx::FromRow, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Organization {
    /// `org_…`
    #[schema(value_type = String)]
    pub id: OrganizationId,
    /// Unique name.
    pub name: String,
    /// active or paused.
    pub status: String,
    /// Jobs at once over all workers, if capped.
    pub running_max: Option<i32>,
    /// MRN systems and the like.
    pub settings: Value,
    /// Made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

const ORGANIZATION_COLUMNS: &str = "id, name, status, running_max, settings, created_at";

/// Create an organization; `None` if the name is taken.
///
/// # Errors
/// [`DbError`].
pub async fn insert_organization(
    connection: &mut PgConnection,
    id: OrganizationId,
    name: &str,
) -> Result<Option<Organization>, DbError> {
    Ok(sqlx::query_as(
        "insert into organizations (id, name) values ($1, $2)
         on conflict (name) do nothing
         returning id, name, status, running_max, settings, created_at",
    )
    .bind(id)
    .bind(name)
    .fetch_optional(connection)
    .await?)
}

/// One organization by id or name.
///
/// # Errors
/// [`DbError`].
pub async fn find_organization(
    connection: &mut PgConnection,
    id: Option<OrganizationId>,
    name: Option<&str>,
) -> Result<Option<Organization>, DbError> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {ORGANIZATION_COLUMNS} from organizations where id = $1 or name = $2"
    )))
    .bind(id)
    .bind(name)
    .fetch_optional(connection)
    .await?)
}

/// Organizations by name.
///
/// # Errors
/// [`DbError`].
pub async fn list_organizations(
    connection: &mut PgConnection,
    only: Option<OrganizationId>,
) -> Result<Vec<Organization>, DbError> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {ORGANIZATION_COLUMNS} from organizations where $1::uuid is null or id = $1 order by name limit 10000"
    )))
    .bind(only)
    .fetch_all(connection)
    .await?)
}

/// Names of those organizations.
///
/// # Errors
/// [`DbError`].
pub async fn organization_names(
    connection: &mut PgConnection,
    ids: &[OrganizationId],
) -> Result<Vec<(OrganizationId, String)>, DbError> {
    Ok(sqlx::query_as("select id, name from organizations where id = any ($1)").bind(ids).fetch_all(connection).await?)
}

/// The first organizations by name.
///
/// # Errors
/// [`DbError`].
pub async fn first_names(connection: &mut PgConnection, limit: i64) -> Result<Vec<(OrganizationId, String)>, DbError> {
    let select = "select id, name from organizations order by name limit $1";
    Ok(sqlx::query_as(select).bind(limit).fetch_all(connection).await?)
}

/// A page of organizations by name, behind one of them; those whose name holds the words, without regard to case.
///
/// # Errors
/// [`DbError`].
pub async fn page_organizations(
    connection: &mut PgConnection,
    only: Option<OrganizationId>,
    words: Option<&str>,
    after: Option<OrganizationId>,
    limit: i64,
) -> Result<Vec<Organization>, DbError> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {ORGANIZATION_COLUMNS}
         from organizations
         where ($1::uuid is null or id = $1)
           and ($2::text is null or position(lower($2) in lower(name)) > 0)
           and ($3::uuid is null or name > (select name from organizations where id = $3))
         order by name
         limit $4"
    )))
    .bind(only)
    .bind(words)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}

/// Pause or resume: a paused organization's jobs are accepted and wait.
///
/// # Errors
/// [`DbError`].
pub async fn set_status(
    connection: &mut PgConnection,
    id: OrganizationId,
    status: &str,
) -> Result<Option<Organization>, DbError> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "update organizations set status = $2, updated_at = chartgate_now() where id = $1 returning {ORGANIZATION_COLUMNS}"
    )))
    .bind(id)
    .bind(status)
    .fetch_optional(connection)
    .await?)
}

/// Replace the settings and the cap.
///
/// # Errors
/// [`DbError`].
pub async fn set_settings(
    connection: &mut PgConnection,
    id: OrganizationId,
    settings: &Value,
    running_max: Option<i32>,
    keeps_rate: bool,
) -> Result<Option<Organization>, DbError> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "update organizations
         set settings = case when $4 then $2 || jsonb_build_object('rate_limit', settings -> 'rate_limit') else $2 end,
             running_max = $3, updated_at = chartgate_now()
         where id = $1
         returning {ORGANIZATION_COLUMNS}"
    )))
    .bind(id)
    .bind(settings)
    .bind(running_max)
    .bind(keeps_rate)
    .fetch_optional(connection)
    .await?)
}

/// The web origins that organizations allow, organization by organization.
///
/// # Errors
/// [`DbError`].
pub async fn list_origins(connection: &mut PgConnection) -> Result<Vec<(OrganizationId, String)>, DbError> {
    Ok(sqlx::query_as(
        "select o.id, origin
         from organizations o
         cross join lateral jsonb_array_elements_text(o.settings->'cors_origins') origin
         -- The lateral would fail on anything but an array.
         where jsonb_typeof(o.settings->'cors_origins') = 'array'",
    )
    .fetch_all(connection)
    .await?)
}
