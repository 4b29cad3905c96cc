//! SQL of the watcher: `ingested_objects`, and what becomes of an upload's job when its object is there.

use crate::audit::Actor;
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId, UploadId};
use crate::objects::ObjectHead;
use sqlx::PgConnection;
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// The object that a job reads, as it was when it was taken up. Another generation under the same key is another object.
#[derive(Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct JobObject {
    /// Its bucket.
    pub bucket: String,
    /// Its key, without the configured prefix.
    pub storage_key: String,
    /// The version id, else `etag:size:modified`: what [`generation_of`] makes of HEAD's answer.
    pub generation: String,
    /// Without quotes, for `If-Match`.
    pub etag: String,
    /// Bytes, as stored.
    pub size_bytes: i64,
    /// Of a bucket with versions.
    pub version_id: Option<String>,
    /// As the object says.
    pub content_type: Option<String>,
    /// Of an upload of ours; none: somebody else put it there.
    pub upload_id: Option<UploadId>,
    /// What the sender declared, of an upload of ours.
    pub declared_size_bytes: Option<i64>,
    /// What the sender declared, of an upload of ours.
    pub declared_sha256: Option<Vec<u8>>,
    /// We deleted it: its bytes are in `raw/`, or were given up.
    pub removed_at: Option<OffsetDateTime>,
}

/// The object of a job, in the caller's scope of that organization; none for a job that was not made of an object.
///
/// # Errors
/// [`DbError`].
pub async fn of_job(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<Option<JobObject>, DbError> {
    Ok(sqlx::query_as(
        "select o.bucket, o.storage_key, o.generation, o.etag, o.size_bytes, o.version_id, o.content_type, o.upload_id,
                u.declared_size_bytes, u.declared_sha256, o.removed_at
         from ingested_objects o
         left join lateral (
           select u.declared_size_bytes, u.declared_sha256
           from uploads u
           where u.organization_id = $1 and u.id = o.upload_id
           offset 0) u on true
         where o.organization_id = $1 and o.job_id = $2",
    )
    .bind(organization)
    .bind(job)
    .fetch_optional(connection)
    .await?)
}

/// What tells an object from another one under the same key.
#[must_use]
pub fn generation_of(head: &ObjectHead) -> String {
    match &head.version_id {
        // S3 says so of objects from before versioning.
        Some(version) if version != "null" => version.clone(),
        _ => {
            let modified = head.modified.map_or(0, OffsetDateTime::unix_timestamp);
            format!("{}:{}:{modified}", head.etag, head.size)
        }
    }
}

/// What a HEAD showed, and what it is to become.
#[derive(Clone)]
pub struct SeenObject {
    /// Its bucket.
    pub bucket: String,
    /// Without the configured prefix.
    pub storage_key: String,
    /// See [`generation_of`].
    pub generation: String,
    /// HEAD's answer.
    pub head: ObjectHead,
    /// By which hint.
    pub source: &'static str,
}

/// Whose an object is: nobody's, or an organization's job's.
#[derive(Debug, Clone, Copy)]
pub enum Owner {
    /// Bytes of this job.
    Job(OrganizationId, JobId, Option<UploadId>),
    /// Not taken up, for this reason; of an organization, if one is known.
    Nobody(Option<OrganizationId>, &'static str),
}

/// Record an object; false if this generation of it is known already. Waits for another watcher that is at it.
///
/// # Errors
/// [`DbError`].
pub async fn insert_object(connection: &mut PgConnection, seen: &SeenObject, owner: Owner) -> Result<bool, DbError> {
    let (organization, job, upload, reason) = match owner {
        Owner::Job(organization, job, upload) => (Some(organization), Some(job), upload, None),
        Owner::Nobody(organization, reason) => (organization, None, None, Some(reason)),
    };
    let inserted = sqlx::query(
        "insert into ingested_objects (bucket, storage_key, generation, organization_id, job_id, status, reason, source,
                                       first_seen_at, etag, size_bytes, modified_at, version_id, content_type, upload_id)
         values ($1, $2, $3, $4, $5, case when $6::text is null then 'ingested' else 'refused' end, $6, $7,
                 chartgate_now(), $8, $9, $10, $11, $12, $13)
         on conflict do nothing",
    )
    .bind(&seen.bucket)
    .bind(&seen.storage_key)
    .bind(&seen.generation)
    .bind(organization)
    .bind(job)
    .bind(reason)
    .bind(seen.source)
    .bind(&seen.head.etag)
    .bind(size(&seen.head))
    .bind(seen.head.modified)
    .bind(&seen.head.version_id)
    .bind(&seen.head.content_type)
    .bind(upload)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

fn size(head: &ObjectHead) -> i64 {
    i64::try_from(head.size).unwrap_or(i64::MAX)
}

/// Is this generation known?
///
/// # Errors
/// [`DbError`].
pub async fn is_known(connection: &mut PgConnection, seen: &SeenObject) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar(
        "select exists (select from ingested_objects where bucket = $1 and storage_key = $2 and generation = $3)",
    )
    .bind(&seen.bucket)
    .bind(&seen.storage_key)
    .bind(&seen.generation)
    .fetch_one(connection)
    .await?)
}

/// Is there such an organization?
///
/// # Errors
/// [`DbError`].
pub async fn organization_exists(connection: &mut PgConnection, organization: OrganizationId) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar("select exists (select from organizations where id = $1)")
        .bind(organization)
        .fetch_one(connection)
        .await?)
}

/// An upload and its job, both locked, in this order.
#[derive(Clone, sqlx::FromRow)]
pub struct WaitingUpload {
    /// Its bucket.
    pub bucket: String,
    /// Where its object is expected.
    pub storage_key: String,
    /// Its job.
    pub job_id: JobId,
    /// An object was taken up for it.
    pub arrived: bool,
}

/// Lock an upload's row; none if there is no such upload.
///
/// # Errors
/// [`DbError`].
pub async fn lock_upload(
    connection: &mut PgConnection,
    organization: OrganizationId,
    upload: UploadId,
) -> Result<Option<WaitingUpload>, DbError> {
    Ok(sqlx::query_as(
        "select bucket, storage_key, job_id, arrived_at is not null as arrived
         from uploads
         where organization_id = $1 and id = $2
         for update",
    )
    .bind(organization)
    .bind(upload)
    .fetch_optional(connection)
    .await?)
}

/// Lock a job's row; its status as it is stored.
///
/// # Errors
/// [`DbError`].
pub async fn lock_job(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<Option<String>, DbError> {
    Ok(sqlx::query_scalar("select status from jobs where organization_id = $1 and id = $2 for update")
        .bind(organization)
        .bind(job)
        .fetch_optional(connection)
        .await?)
}

/// The object of a job that waits (or waited in vain) is there: its queue row, `queued`. Its place in the order of
/// acceptance is the one that it got with its URL. The caller has locked both rows.
///
/// # Errors
/// [`DbError`].
pub async fn start_waiting_job(
    connection: &mut PgConnection,
    organization: OrganizationId,
    upload: UploadId,
    job: JobId,
    head: &ObjectHead,
) -> Result<(), DbError> {
    sqlx::query("update uploads set arrived_at = chartgate_now() where organization_id = $1 and id = $2")
        .bind(organization)
        .bind(upload)
        .execute(&mut *connection)
        .await?;
    let changed = sqlx::query(
        "update jobs
         set status = 'queued', finished_at = null, size_bytes = $3, updated_at = chartgate_now()
         where organization_id = $1 and id = $2 and status in ('awaiting_upload', 'expired')",
    )
    .bind(organization)
    .bind(job)
    .bind(size(head))
    .execute(&mut *connection)
    .await?;
    if changed.rows_affected() != 1 {
        return Err(DbError::NotOneRow(changed.rows_affected()));
    }
    enqueue(connection, organization, job).await
}

/// A job of its own for an object that somebody else put there.
#[derive(Clone)]
pub struct ForeignJob<'a> {
    /// Whose.
    pub organization: OrganizationId,
    /// Fresh.
    pub job: JobId,
    /// Name of the workflow.
    pub workflow: &'a str,
    /// Its version.
    pub workflow_version: i32,
    /// Of the workflow.
    pub priority: i16,
    /// Which systems' resource ids these are.
    pub source_label: &'a str,
    /// One that we know.
    pub content_type: &'static str,
}

/// Record a job of its own with its queue row.
///
/// # Errors
/// [`DbError`].
pub async fn insert_foreign_job(
    connection: &mut PgConnection,
    new: &ForeignJob<'_>,
    head: &ObjectHead,
    actor: &Actor,
) -> Result<(), DbError> {
    sqlx::query(
        "insert into jobs (organization_id, id, workflow, workflow_version, source, source_label, status, seq, priority,
                           size_bytes, content_type, submitted_by, created_at, updated_at)
         values ($1, $2, $3, $4, 'upload', $5, 'queued', nextval('job_seq'), $6, $7, $8, $9, chartgate_now(), chartgate_now())",
    )
    .bind(new.organization)
    .bind(new.job)
    .bind(new.workflow)
    .bind(new.workflow_version)
    .bind(new.source_label)
    .bind(new.priority)
    .bind(size(head))
    .bind(new.content_type)
    .bind(&actor.name)
    .execute(&mut *connection)
    .await?;
    enqueue(connection, new.organization, new.job).await
}

async fn enqueue(connection: &mut PgConnection, organization: OrganizationId, job: JobId) -> Result<(), DbError> {
    sqlx::query(
        "select enqueue_job(organization_id, id, seq, lane, priority, workflow, workflow_version, round, round_first_step, chartgate_now())
         from jobs
         where organization_id = $1 and id = $2",
    )
    .bind(organization)
    .bind(job)
    .execute(connection)
    .await?;
    Ok(())
}

/// A generation of an object that is known, as a listing would show it.
#[derive(Clone, sqlx::FromRow)]
pub struct KnownObject {
    /// Without the configured prefix.
    pub storage_key: String,
    /// Without quotes.
    pub etag: String,
    /// Bytes.
    pub size_bytes: i64,
    /// Whole seconds.
    pub modified_at: Option<OffsetDateTime>,
}

/// All generations that are known of these keys.
///
/// # Errors
/// [`DbError`].
pub async fn known_objects(
    connection: &mut PgConnection,
    bucket: &str,
    keys: &[String],
) -> Result<Vec<KnownObject>, DbError> {
    Ok(sqlx::query_as(
        "select o.storage_key, o.etag, o.size_bytes, o.modified_at
         from unnest($2::text[]) as k(key)
         cross join lateral (
           select o.storage_key, o.etag, o.size_bytes, o.modified_at
           from ingested_objects o
           where o.bucket = $1 and o.storage_key = k.key
           offset 0) o",
    )
    .bind(bucket)
    .bind(keys)
    .fetch_all(connection)
    .await?)
}

/// An object that may be deleted.
#[derive(Clone, sqlx::FromRow)]
pub struct RemovableObject {
    /// Its bucket.
    pub bucket: String,
    /// Without the configured prefix.
    pub storage_key: String,
    /// Which of that key.
    pub generation: String,
    /// Without quotes.
    pub etag: String,
    /// Whose, if it is anybody's.
    pub organization_id: Option<OrganizationId>,
    /// Its job.
    pub job_id: Option<JobId>,
    /// Of a bucket with versions.
    pub version_id: Option<String>,
}

/// Objects that may be deleted now, over all organizations: `removable_objects()`. The caller's scope is `Global`.
///
/// # Errors
/// [`DbError`].
pub async fn removable_objects(
    connection: &mut PgConnection,
    bucket: &str,
    keep: Duration,
    limit: i32,
) -> Result<Vec<RemovableObject>, DbError> {
    Ok(sqlx::query_as("select * from removable_objects($1, $2, $3)")
        .bind(bucket)
        .bind(keep.as_secs_f64())
        .bind(limit)
        .fetch_all(connection)
        .await?)
}

/// May it still be deleted? Its job may have been retried, or another process was first, since it was looked for: the job, and
/// whether its bytes are kept elsewhere, as in `removable_objects()`. The scope is the object's organization's.
///
/// # Errors
/// [`DbError`].
pub async fn is_removable(
    connection: &mut PgConnection,
    object: &RemovableObject,
    keep: Duration,
) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar(
        "select exists (
           select from ingested_objects o
           where o.bucket = $1 and o.storage_key = $2 and o.generation = $3
             and o.removed_at is null
             and (o.status = 'refused' or exists (
               select from jobs j
               where j.organization_id = $4
                 and j.id = $5
                 and j.finished_at is not null
                 and (j.finished_at < chartgate_now() - $6 * interval '1 second' or exists (
                   select from payloads p
                   where p.organization_id = $4 and p.sha256 = j.payload_sha256 and p.stored_at is not null)))))",
    )
    .bind(&object.bucket)
    .bind(&object.storage_key)
    .bind(&object.generation)
    .bind(object.organization_id)
    .bind(object.job_id)
    .bind(keep.as_secs_f64())
    .fetch_one(connection)
    .await?)
}

/// An object is gone; false if that was known.
///
/// # Errors
/// [`DbError`].
pub async fn mark_removed(connection: &mut PgConnection, object: &RemovableObject) -> Result<bool, DbError> {
    let marked = sqlx::query(
        "update ingested_objects set removed_at = chartgate_now()
         where bucket = $1 and storage_key = $2 and generation = $3 and removed_at is null",
    )
    .bind(&object.bucket)
    .bind(&object.storage_key)
    .bind(&object.generation)
    .execute(connection)
    .await?;
    Ok(marked.rows_affected() == 1)
}

/// An object could not be deleted: not again within a day.
///
/// # Errors
/// [`DbError`].
pub async fn postpone_removal(connection: &mut PgConnection, object: &RemovableObject) -> Result<(), DbError> {
    sqlx::query(
        "update ingested_objects set removal_failed_at = chartgate_now()
         where bucket = $1 and storage_key = $2 and generation = $3",
    )
    .bind(&object.bucket)
    .bind(&object.storage_key)
    .bind(&object.generation)
    .execute(connection)
    .await?;
    Ok(())
}

/// Texts of chunks that no plan names.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct DueTexts {
    /// Whose.
    pub organization_id: OrganizationId,
    /// Under which id they were put.
    pub plan_id: Uuid,
    /// Of which job.
    pub job_id: JobId,
    /// When they were deleted the first time.
    pub cleared_at: Option<OffsetDateTime>,
}

/// Texts that may be deleted now, over all organizations: `due_texts()`. The caller's scope is `Global`.
///
/// # Errors
/// [`DbError`].
pub async fn due_texts(connection: &mut PgConnection, limit: i32) -> Result<Vec<DueTexts>, DbError> {
    let query = sqlx::query_as("select * from due_texts($1)");
    Ok(query.bind(limit).fetch_all(connection).await?)
}

/// All of them are deleted: the first time they are looked for once more, a day later; the second time they are
/// forgotten. Whoever else was at it changes nothing of that.
///
/// # Errors
/// [`DbError`].
pub async fn texts_cleared(connection: &mut PgConnection, texts: &DueTexts) -> Result<(), DbError> {
    for statement in [
        "delete from chunk_texts where organization_id = $1 and plan_id = $2 and cleared_at = $3",
        "update chunk_texts set cleared_at = chartgate_now(), failed_at = null
         where organization_id = $1 and plan_id = $2 and cleared_at is null and $3::timestamptz is null",
    ] {
        let query = sqlx::query(statement).bind(texts.organization_id).bind(texts.plan_id);
        query.bind(texts.cleared_at).execute(&mut *connection).await?;
    }
    Ok(())
}

/// One of them could not be deleted: not again within a day.
///
/// # Errors
/// [`DbError`].
pub async fn postpone_texts(connection: &mut PgConnection, texts: &DueTexts) -> Result<(), DbError> {
    sqlx::query("update chunk_texts set failed_at = chartgate_now() where organization_id = $1 and plan_id = $2")
        .bind(texts.organization_id)
        .bind(texts.plan_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// A job's object is gone. If its bytes are not stored either, no retry can come to the texts of its chunks any more.
///
/// # Errors
/// [`DbError`].
pub async fn give_texts_up(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<(), DbError> {
    sqlx::query(
        "insert into chunk_texts (organization_id, plan_id, job_id, begun_at)
         select b.organization_id, b.plan_id, b.job_id, chartgate_now()
         from bulk_plans b
         join jobs j on j.organization_id = $1 and j.id = $2
         where b.organization_id = $1
           and b.job_id = $2
           and b.plan_id is not null
           and not exists (
             select from payloads p
             where p.organization_id = $1 and p.sha256 = j.payload_sha256 and p.stored_at is not null)
         on conflict do nothing",
    )
    .bind(organization)
    .bind(job)
    .execute(connection)
    .await?;
    Ok(())
}

/// An object that was not taken up.
#[derive(Clone, sqlx::FromRow)]
pub struct RefusedObject {
    /// Its bucket.
    pub bucket: String,
    /// Without the configured prefix.
    pub storage_key: String,
    /// Which of that key.
    pub generation: String,
    /// Whose its key says it is, if there is such an organization.
    pub organization_id: Option<OrganizationId>,
    /// Why.
    pub reason: String,
    /// By which hint it was seen.
    pub source: String,
    /// Without quotes.
    pub etag: String,
    /// Bytes.
    pub size_bytes: i64,
    /// When the watcher saw it.
    pub first_seen_at: OffsetDateTime,
    /// Deleted since.
    pub removed_at: Option<OffsetDateTime>,
}

/// Refused objects, newest first, at most `limit` and those seen at the same instant as the last one, older than `before` if it
/// is given: so nothing lies between two pages that are cut by that instant.
///
/// # Errors
/// [`DbError`].
pub async fn refused_objects(
    connection: &mut PgConnection,
    before: Option<OffsetDateTime>,
    limit: i64,
) -> Result<Vec<RefusedObject>, DbError> {
    Ok(sqlx::query_as(
        "select *
         from (
           select bucket, storage_key, generation, organization_id, reason, source, etag, size_bytes, first_seen_at, removed_at
           from ingested_objects
           where status = 'refused' and first_seen_at < coalesce($1, 'infinity'::timestamptz)
           order by first_seen_at desc
           fetch first ($2) rows with ties) page
         order by first_seen_at desc, bucket desc, storage_key desc, generation desc",
    )
    .bind(before)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}

/// The database's clock: what is old by it.
///
/// # Errors
/// [`DbError`].
pub async fn now(connection: &mut PgConnection) -> Result<OffsetDateTime, DbError> {
    Ok(sqlx::query_scalar("select chartgate_now()").fetch_one(connection).await?)
}
