//! SQL on registered workflow files, and on how many jobs still run by each of their versions.

use crate::db::DbError;
use crate::ids::OrganizationId;
use sqlx::PgConnection;
use time::OffsetDateTime;

/// A registered version of a workflow file.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct VersionRow {
    /// Workflow.
    pub name: String,
    /// Version.
    pub version: i32,
    /// SHA-256 of the file.
    pub digest: Vec<u8>,
    /// When a process registered it first.
    pub registered_at: OffsetDateTime,
}

/// Registered versions, newest first; of one workflow, or of all.
///
/// # Errors
/// [`DbError`].
pub async fn list_versions(connection: &mut PgConnection, name: Option<&str>) -> Result<Vec<VersionRow>, DbError> {
    Ok(sqlx::query_as(
        "select name, version, digest, registered_at
         from workflow_definitions
         where $1::text is null or name = $1
         order by name, version desc
         limit 1000",
    )
    .bind(name)
    .fetch_all(connection)
    .await?)
}

/// The file of a version, as it was registered.
///
/// # Errors
/// [`DbError`].
pub async fn find_file(connection: &mut PgConnection, name: &str, version: i32) -> Result<Option<String>, DbError> {
    Ok(sqlx::query_scalar("select body from workflow_definitions where name = $1 and version = $2")
        .bind(name)
        .bind(version)
        .fetch_optional(connection)
        .await?)
}

/// Jobs in the queue by workflow and version; of one organization, or of all. Reads the whole queue: live rows only.
///
/// # Errors
/// [`DbError`].
pub async fn jobs_in_flight(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
) -> Result<Vec<(String, i32, i64)>, DbError> {
    Ok(sqlx::query_as(
        "select workflow, workflow_version, count(*)
         from queue
         where chunk = 0
           and ($1::uuid is null or organization_id = $1)
         group by 1, 2
         order by 1, 2",
    )
    .bind(organization)
    .fetch_all(connection)
    .await?)
}
