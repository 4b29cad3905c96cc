//! SQL of bulk files: plans, chunks, what a job's object is, and what became of it.

use super::plan::Shape;
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId};
use crate::ingest::erasure;
use crate::uploads::watcher::store::{self as watcher, JobObject};
use serde_json::Value;
use sqlx::PgConnection;
use std::ops::Range;
use time::OffsetDateTime;
use uuid::Uuid;

/// Chunks that one statement writes.
const CHUNKS_WRITTEN: usize = 5_000;

/// A job with the object that was taken up for it.
#[derive(Clone, sqlx::FromRow)]
pub struct Upload {
    /// Source label of the sender's key.
    pub source_label: String,
    /// The object that was taken up.
    #[sqlx(skip)]
    pub object: Option<JobObject>,
    /// SHA-256 of the object, once it was read to its end.
    pub payload_sha256: Option<Vec<u8>>,
    /// Size of the object as it is stored.
    pub size_bytes: Option<i64>,
    /// Key of the raw copy, once it is there.
    pub raw_key: Option<String>,
}

impl Upload {
    /// As the object says it.
    #[must_use]
    pub fn content_type(&self) -> String {
        let said = self.object.as_ref().and_then(|object| object.content_type.clone());
        said.unwrap_or_else(|| "application/octet-stream".to_owned())
    }
}

/// A job's object, and what is known of it.
///
/// # Errors
/// [`DbError`].
pub async fn upload_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<Option<Upload>, DbError> {
    let query = sqlx::query_as(
        "select j.source_label, j.payload_sha256, j.size_bytes, p.storage_key as raw_key
         from jobs j
         left join payloads p on p.organization_id = $1 and p.sha256 = j.payload_sha256
         where j.organization_id = $1
           and j.id = $2",
    );
    let found: Option<Upload> = query.bind(organization).bind(job).fetch_optional(&mut *connection).await?;
    let Some(mut upload) = found else { return Ok(None) };
    upload.object = watcher::of_job(connection, organization, job).await?;
    Ok(Some(upload))
}

/// What is known of a file as a whole.
#[derive(Clone, sqlx::FromRow)]
pub struct PlanRow {
    /// What was read.
    pub storage_key: String,
    /// Its `ETag`.
    pub etag: String,
    /// What kind of file.
    pub shape: Shape,
    /// Of a Bundle, if it is one that is ingested.
    pub bundle_type: Option<String>,
    /// It is compressed.
    pub is_gzip: bool,
    /// After decompression.
    pub text_bytes: i64,
    /// Pieces.
    pub chunks: i32,
    /// Of a compressed file: under which id the texts of its chunks were put. No two attempts at planning share one.
    pub plan_id: Option<Uuid>,
}

/// A piece of a file, as planned.
#[derive(Clone)]
pub struct PlannedChunk {
    /// Offsets after decompression.
    pub bytes: Range<u64>,
    /// Number of its first line, from 1, or entry, from 0.
    pub first: u64,
    /// Lines that are not blank, or entries.
    pub lines: u64,
    /// Key of its text, if the file is compressed.
    pub text_key: Option<String>,
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Texts of chunks are about to be put under this id, which no plan names yet: until a plan does, `due_texts()` finds
/// them (`uploads::watcher`). One that is there already is fine.
///
/// # Errors
/// [`DbError`].
pub async fn begin_texts(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    plan_id: Uuid,
) -> Result<(), DbError> {
    sqlx::query(
        "insert into chunk_texts (organization_id, plan_id, job_id, begun_at)
         values ($1, $2, $3, chartgate_now())
         on conflict do nothing",
    )
    .bind(organization)
    .bind(plan_id)
    .bind(job)
    .execute(connection)
    .await?;
    Ok(())
}

/// Is the job cut in another way by these pieces than it was before? Not if it never was.
async fn is_cut_anew(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    shape: Shape,
    chunks: &[PlannedChunk],
) -> Result<bool, DbError> {
    let query = sqlx::query_scalar(
        "select exists (select from chunks where organization_id = $1 and job_id = $2)
           and (exists (select from bulk_plans where organization_id = $1 and job_id = $2 and shape <> $3)
             or exists (
               select
               from unnest($4::bigint[], $5::bigint[], $6::bigint[])
                 with ordinality as n (byte_start, byte_end, first_line, chunk)
               full join (
                 select byte_start, byte_end, first_line, chunk
                 from chunks
                 where organization_id = $1 and job_id = $2) k on k.chunk = n.chunk
               where (n.byte_start, n.byte_end, n.first_line) is distinct from (k.byte_start, k.byte_end, k.first_line)))",
    );
    Ok(query
        .bind(organization)
        .bind(job)
        .bind(shape)
        .bind(chunks.iter().map(|chunk| signed(chunk.bytes.start)).collect::<Vec<_>>())
        .bind(chunks.iter().map(|chunk| signed(chunk.bytes.end)).collect::<Vec<_>>())
        .bind(chunks.iter().map(|chunk| signed(chunk.first)).collect::<Vec<_>>())
        .fetch_one(connection)
        .await?)
}

/// Forget the pieces of a job and all that was found out of them: steps that ended, issues, lines that were left out. What
/// was ingested stays, and is found again by its identity.
async fn forget_chunks(connection: &mut PgConnection, organization: OrganizationId, job: JobId) -> Result<(), DbError> {
    for statement in [
        "delete from chunk_steps where organization_id = $1 and job_id = $2 and chunk > 0",
        "delete from issues where organization_id = $1 and job_id = $2 and chunk > 0",
        "delete from chunks where organization_id = $1 and job_id = $2",
    ] {
        sqlx::query(statement).bind(organization).bind(job).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Write the plan and its pieces; the same again changes nothing. If the file was cut in another way before (by another
/// release), what its pieces were and did is forgotten, so that every line is in exactly one of them. Texts that the plan
/// names are its own from here on; those of the plan before are nobody's.
///
/// # Errors
/// [`DbError`].
pub async fn write_plan(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    plan: &PlanRow,
    chunks: &[PlannedChunk],
) -> Result<(), DbError> {
    if is_cut_anew(connection, organization, job, plan.shape, chunks).await? {
        forget_chunks(connection, organization, job).await?;
    }
    sqlx::query(
        "insert into chunk_texts (organization_id, plan_id, job_id, begun_at)
         select organization_id, plan_id, job_id, chartgate_now()
         from bulk_plans
         where organization_id = $1
           and job_id = $2
           and plan_id is distinct from $3
           and plan_id is not null
         on conflict do nothing",
    )
    .bind(organization)
    .bind(job)
    .bind(plan.plan_id)
    .execute(&mut *connection)
    .await?;
    sqlx::query("delete from chunk_texts where organization_id = $1 and plan_id = $2")
        .bind(organization)
        .bind(plan.plan_id)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "insert into bulk_plans (organization_id, job_id, storage_key, etag, shape, bundle_type, is_gzip, text_bytes, chunks, plan_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         on conflict (organization_id, job_id) do update
         set storage_key = excluded.storage_key, etag = excluded.etag, shape = excluded.shape,
             bundle_type = excluded.bundle_type, is_gzip = excluded.is_gzip, text_bytes = excluded.text_bytes,
             chunks = excluded.chunks, plan_id = excluded.plan_id",
    )
    .bind(organization)
    .bind(job)
    .bind(&plan.storage_key)
    .bind(&plan.etag)
    .bind(plan.shape)
    .bind(&plan.bundle_type)
    .bind(plan.is_gzip)
    .bind(plan.text_bytes)
    .bind(plan.chunks)
    .bind(plan.plan_id)
    .execute(&mut *connection)
    .await?;
    // A megabyte of arguments at most.
    for (page, chunks) in chunks.chunks(CHUNKS_WRITTEN).enumerate() {
        sqlx::query(
            "insert into chunks (organization_id, job_id, chunk, byte_start, byte_end, first_line, lines, storage_key)
             select $1, $2, $8 + c.chunk, c.byte_start, c.byte_end, c.first_line, c.lines, c.storage_key
             from unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[])
               with ordinality as c (byte_start, byte_end, first_line, lines, storage_key, chunk)
             on conflict (organization_id, job_id, chunk) do update
             set byte_start = excluded.byte_start, byte_end = excluded.byte_end, first_line = excluded.first_line,
                 lines = excluded.lines, storage_key = excluded.storage_key",
        )
        .bind(organization)
        .bind(job)
        .bind(chunks.iter().map(|chunk| signed(chunk.bytes.start)).collect::<Vec<_>>())
        .bind(chunks.iter().map(|chunk| signed(chunk.bytes.end)).collect::<Vec<_>>())
        .bind(chunks.iter().map(|chunk| signed(chunk.first)).collect::<Vec<_>>())
        .bind(chunks.iter().map(|chunk| signed(chunk.lines)).collect::<Vec<_>>())
        .bind(chunks.iter().map(|chunk| chunk.text_key.as_deref()).collect::<Vec<_>>())
        .bind(i64::try_from(page * CHUNKS_WRITTEN).unwrap_or(i64::MAX))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Whose bytes a job has.
#[derive(Clone)]
pub struct Identity {
    /// Of the object as it is stored.
    pub sha256: [u8; 32],
    /// Its size.
    pub size_bytes: u64,
    /// As it was signed.
    pub content_type: String,
}

/// The job's file was read to its end.
///
/// # Errors
/// [`DbError`].
pub async fn identify(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    identity: &Identity,
    chunks: i32,
    duplicate_of: Option<JobId>,
) -> Result<(), DbError> {
    sqlx::query(
        "update jobs
         set payload_sha256 = $3, size_bytes = $4, content_type = $5, progress_total = $6, duplicate_of = $7,
             updated_at = chartgate_now()
         where organization_id = $1
           and id = $2",
    )
    .bind(organization)
    .bind(job)
    .bind(identity.sha256.as_slice())
    .bind(i64::try_from(identity.size_bytes).unwrap_or(i64::MAX))
    .bind(&identity.content_type)
    .bind(chunks)
    .bind(duplicate_of)
    .execute(connection)
    .await?;
    Ok(())
}

/// Were these bytes erased? If not, an erasure that comes now waits for this transaction, and sees what it wrote; and if they went because of
/// their age, their copy in object storage is not deleted any more.
///
/// # Errors
/// [`DbError`].
pub async fn is_purged(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8; 32],
) -> Result<bool, DbError> {
    erasure::lock_unknown(connection, organization, sha256).await?;
    let query = sqlx::query_as(
        "update payloads
         set last_received_at = case when purged_at is null then chartgate_now() end
         where organization_id = $1
           and sha256 = $2
         returning purged_at is not null, expired_at is not null",
    );
    let found: Option<(bool, bool)> =
        query.bind(organization).bind(sha256.as_slice()).fetch_optional(&mut *connection).await?;
    if let Some((false, true)) = found {
        erasure::spare(connection, organization, sha256).await?;
    }
    Ok(found.is_some_and(|(is_purged, _)| is_purged))
}

/// The job that ingested these bytes before, from the same source.
///
/// # Errors
/// [`DbError`].
pub async fn ingested_before(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    source_label: &str,
    sha256: &[u8],
) -> Result<Option<JobId>, DbError> {
    let query = sqlx::query_scalar(
        "select id
         from jobs
         where organization_id = $1
           and payload_sha256 = $4
           and source = 'upload'
           and source_label = $3
           and status in ('succeeded', 'succeeded_with_issues')
           and duplicate_of is null
           and id <> $2
           -- Its plan goes with what it brought.
           and exists (select from bulk_plans p where p.organization_id = $1 and p.job_id = jobs.id)
         order by seq
         limit 1",
    );
    Ok(query.bind(organization).bind(job).bind(source_label).bind(sha256).fetch_optional(connection).await?)
}

/// A chunk, and what must be known to work on it.
#[derive(Clone, sqlx::FromRow)]
pub struct ChunkWork {
    /// First byte, after decompression.
    pub byte_start: i64,
    /// Behind its last byte.
    pub byte_end: i64,
    /// Number of its first line or entry.
    pub first_line: i64,
    /// Key of its text, if the file is compressed.
    pub text_key: Option<String>,
    /// Lines or entries that the validation left out.
    pub rejected: Vec<i64>,
    /// The file.
    #[sqlx(flatten)]
    pub plan: PlanRow,
    /// SHA-256 of the file.
    pub sha256: Vec<u8>,
    /// Size of the file as it is stored.
    pub stored_bytes: i64,
    /// Key of the raw copy, once it is there.
    pub raw_key: Option<String>,
    /// Source label of the sender's key.
    pub source_label: String,
    /// The organization's.
    pub settings: Value,
    /// When the job was accepted.
    pub accepted_at: OffsetDateTime,
}

impl ChunkWork {
    /// Its bytes, after decompression.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        unsigned(self.byte_start)..unsigned(self.byte_end)
    }
}

/// A chunk to be worked on.
///
/// # Errors
/// [`DbError`].
pub async fn chunk_work(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    chunk: i32,
) -> Result<Option<ChunkWork>, DbError> {
    let query = sqlx::query_as(
        "select c.byte_start, c.byte_end, c.first_line, c.storage_key as text_key, c.rejected,
                b.storage_key, b.etag, b.shape, b.bundle_type, b.is_gzip, b.text_bytes, b.chunks, b.plan_id,
                j.payload_sha256 as sha256, j.size_bytes as stored_bytes, p.storage_key as raw_key, j.source_label, o.settings, j.created_at as accepted_at
         from chunks c
         join bulk_plans b on b.organization_id = $1 and b.job_id = $2
         join jobs j on j.organization_id = $1 and j.id = $2
         join organizations o on o.id = $1
         left join payloads p on p.organization_id = $1 and p.sha256 = j.payload_sha256
         where c.organization_id = $1
           and c.job_id = $2
           and c.chunk = $3
           and j.payload_sha256 is not null
           and j.size_bytes is not null",
    );
    Ok(query.bind(organization).bind(job).bind(chunk).fetch_optional(connection).await?)
}

/// Which lines or entries of a chunk are left out.
///
/// # Errors
/// [`DbError`].
pub async fn set_rejected(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    chunk: i32,
    rejected: &[i64],
) -> Result<(), DbError> {
    sqlx::query(
        "update chunks
         set rejected = $4
         where organization_id = $1
           and job_id = $2
           and chunk = $3",
    )
    .bind(organization)
    .bind(job)
    .bind(chunk)
    .bind(rejected)
    .execute(connection)
    .await?;
    Ok(())
}

/// What a job's file is.
#[derive(Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct FileKind {
    /// NDJSON, array or Bundle.
    pub shape: Shape,
    /// `Bundle.type` of a Bundle.
    pub bundle_type: Option<String>,
}

/// What a job's file is; none if it was not planned.
///
/// # Errors
/// [`DbError`].
pub async fn file_kind(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
) -> Result<Option<FileKind>, DbError> {
    let query = sqlx::query_as(
        "select shape, bundle_type
         from bulk_plans
         where organization_id = $1
           and job_id = $2",
    );
    Ok(query.bind(organization).bind(job).fetch_optional(connection).await?)
}

/// Entries by resource type, as they were counted.
///
/// # Errors
/// [`DbError`].
pub async fn set_resource_count(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    counts: &Value,
) -> Result<(), DbError> {
    sqlx::query("update jobs set resource_count = $3 where organization_id = $1 and id = $2")
        .bind(organization)
        .bind(job)
        .bind(counts)
        .execute(connection)
        .await?;
    Ok(())
}

/// The bytes are in object storage: their row, if it is not there yet.
///
/// # Errors
/// [`DbError`].
pub async fn keep_payload(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8],
    size_bytes: i64,
    content_type: &str,
    storage_key: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "insert into payloads (organization_id, sha256, size_bytes, content_type, storage_key, stored_at, created_at)
         values ($1, $2, $3, $4, $5, chartgate_now(), chartgate_now())
         on conflict (organization_id, sha256) do update
         set storage_key = excluded.storage_key, stored_at = excluded.stored_at, body = null, expired_at = null,
             last_received_at = chartgate_now()
         -- The same bytes came by the webhook and wait for their copy; else nothing changes.
         where payloads.storage_key is null
           and payloads.purged_at is null",
    )
    .bind(organization)
    .bind(sha256)
    .bind(size_bytes)
    .bind(content_type)
    .bind(storage_key)
    .execute(connection)
    .await?;
    Ok(())
}

/// Chunks behind `after` with lines that were left out, in order, at most `limit`.
///
/// # Errors
/// [`DbError`].
pub async fn rejected_after(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    after: i32,
    limit: i64,
) -> Result<Vec<(i32, Vec<i64>)>, DbError> {
    let query = sqlx::query_as(
        "select chunk, rejected
         from chunks
         where organization_id = $1
           and job_id = $2
           and chunk > $3
           and rejected <> '{}'
         order by chunk
         limit $4",
    );
    Ok(query.bind(organization).bind(job).bind(after).bind(limit).fetch_all(connection).await?)
}
