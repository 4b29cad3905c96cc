//! SQL of uploads.

use crate::audit::Actor;
use crate::db::DbError;
use crate::engine::traces_store::{self, Begun};
use crate::ids::{JobId, OrganizationId, UploadId};
use sqlx::PgConnection;
use std::time::Duration;
use time::OffsetDateTime;

/// An upload and the job that waits for it.
#[derive(Clone)]
pub struct UploadRow {
    /// Whose.
    pub organization: OrganizationId,
    /// The upload.
    pub id: UploadId,
    /// Its job.
    pub job: JobId,
    /// Workflow of the job.
    pub workflow: String,
    /// Pinned version.
    pub workflow_version: i32,
    /// Of the workflow.
    pub priority: i16,
    /// Of the sender's key.
    pub source_label: String,
    /// Where the object will be.
    pub bucket: String,
    /// Without the configured prefix.
    pub storage_key: String,
    /// As signed.
    pub content_type: &'static str,
    /// As signed, if it was told.
    pub declared_size_bytes: Option<i64>,
    /// As signed, if it was told.
    pub declared_sha256: Option<[u8; 32]>,
    /// As signed.
    pub uploaded_by: String,
    /// How long the URL can be used.
    pub life: Duration,
}

/// Record an upload with its job; when the URL ends, by the database's clock.
///
/// # Errors
/// [`DbError`].
pub async fn insert_upload(
    connection: &mut PgConnection,
    row: &UploadRow,
    actor: &Actor,
) -> Result<OffsetDateTime, DbError> {
    sqlx::query(
        "insert into jobs (organization_id, id, workflow, workflow_version, source, source_label, status, seq, priority,
                           content_type, submitted_by, request_id, created_at, updated_at)
         values ($1, $2, $3, $4, 'upload', $5, 'awaiting_upload', nextval('job_seq'), $6, $7, $8, $9, chartgate_now(), chartgate_now())",
    )
    .bind(row.organization)
    .bind(row.job)
    .bind(&row.workflow)
    .bind(row.workflow_version)
    .bind(&row.source_label)
    .bind(row.priority)
    .bind(row.content_type)
    .bind(&actor.name)
    .bind(&actor.request_id)
    .execute(&mut *connection)
    .await?;
    traces_store::note(connection, Begun::by(row.organization, row.job, 1, actor.trace)).await?;
    Ok(sqlx::query_scalar(
        "insert into uploads (organization_id, id, job_id, bucket, storage_key, content_type, declared_size_bytes,
                              declared_sha256, uploaded_by, expires_at, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, chartgate_now() + $10 * interval '1 second', chartgate_now())
         returning expires_at",
    )
    .bind(row.organization)
    .bind(row.id)
    .bind(row.job)
    .bind(&row.bucket)
    .bind(&row.storage_key)
    .bind(row.content_type)
    .bind(row.declared_size_bytes)
    .bind(row.declared_sha256.as_ref().map(<[u8; 32]>::as_slice))
    .bind(&row.uploaded_by)
    .bind(row.life.as_secs_f64())
    .fetch_one(connection)
    .await?)
}

/// Has the organization so many uploads that nobody has used yet?
///
/// # Errors
/// [`DbError`].
pub async fn has_waiting(
    connection: &mut PgConnection,
    organization: OrganizationId,
    many: u32,
) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar(
        "select count(*) >= $2
         from (select from uploads
               where organization_id = $1 and arrived_at is null and closed_at is null
               limit $2) waiting",
    )
    .bind(organization)
    .bind(i64::from(many))
    .fetch_one(connection)
    .await?)
}

/// Where the object of an upload is expected, and whether it was taken up: bucket, key, arrived.
///
/// # Errors
/// [`DbError`].
pub async fn place_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    upload: UploadId,
) -> Result<Option<(String, String, bool)>, DbError> {
    Ok(sqlx::query_as(
        "select bucket, storage_key, arrived_at is not null from uploads where organization_id = $1 and id = $2",
    )
    .bind(organization)
    .bind(upload)
    .fetch_optional(connection)
    .await?)
}

/// Close uploads whose URL ended more than `grace` ago, over all organizations, at most `limit` of each; how many jobs
/// expired. The caller's scope is `Global`: the function names each organization itself.
///
/// # Errors
/// [`DbError`].
pub async fn expire_uploads(
    connection: &mut PgConnection,
    grace: Duration,
    limit: i32,
    actor: &Actor,
) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar("select expire_uploads($1, $2, $3, $4)")
        .bind(grace.as_secs_f64())
        .bind(limit)
        .bind(&actor.name)
        .bind(env!("CARGO_PKG_VERSION"))
        .fetch_one(connection)
        .await?)
}

/// What people are told of an upload.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct UploadFacts {
    /// The upload.
    pub id: UploadId,
    /// As signed, if it was told.
    pub declared_size_bytes: Option<i64>,
    /// The URL was given out.
    pub created_at: OffsetDateTime,
    /// The URL's end.
    pub expires_at: OffsetDateTime,
    /// The object was taken up.
    pub arrived_at: Option<OffsetDateTime>,
}

/// The upload of a job, if it has one.
///
/// # Errors
/// [`DbError`].
pub async fn of_job(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<Option<UploadFacts>, DbError> {
    Ok(sqlx::query_as(
        "select id, declared_size_bytes, created_at, expires_at, arrived_at
         from uploads
         where organization_id = $1 and job_id = $2",
    )
    .bind(organization)
    .bind(job)
    .fetch_optional(connection)
    .await?)
}
