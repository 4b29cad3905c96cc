//! SQL of erasures.

use crate::db::{DbError, ensure_one_row};
use crate::ids::{ErasureId, JobId, OrganizationId};
use crate::ingest::linking::acts::By;
use crate::ingest::linking::erase::Counts;
use crate::ingest::steps::bulk::outcomes_key;
use sqlx::PgConnection;
use sqlx::types::Json;

/// A payload under its lock.
#[derive(sqlx::FromRow)]
pub struct LockedPayload {
    /// It was erased before.
    pub is_purged: bool,
}

/// A job of a payload.
#[derive(sqlx::FromRow)]
pub struct PayloadJob {
    /// Its id.
    pub id: JobId,
    /// It has not ended.
    pub is_live: bool,
    /// It was uploaded: it may have chunks, an outcome file, and an object.
    pub is_upload: bool,
}

/// What was decided.
pub struct Marked {
    /// The erasure.
    pub id: ErasureId,
    /// The payload's jobs.
    pub jobs: Vec<JobId>,
    /// So far.
    pub counts: Counts,
}

/// An erasure.
#[derive(sqlx::FromRow)]
pub struct ErasureRow {
    /// rows, objects, finished
    pub status: String,
    /// What is erased.
    pub payload_sha256: Option<Vec<u8>>,
    /// Its jobs.
    pub jobs: Vec<JobId>,
    /// So far.
    pub counts: Json<Counts>,
    /// Why.
    pub reason: String,
    /// Who decided.
    pub actor: String,
}

/// An erasure that goes on.
#[derive(sqlx::FromRow)]
pub struct Unfinished {
    /// Whose.
    pub organization_id: OrganizationId,
    /// Its id.
    pub id: ErasureId,
    /// Who decided.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// An object, or all below a prefix, to be deleted.
#[derive(sqlx::FromRow)]
pub struct Doomed {
    /// Its key.
    pub storage_key: String,
    /// All whose keys begin so.
    pub is_prefix: bool,
}

/// Lock a payload: intake of the same bytes waits, and so does another erasure.
pub async fn lock_payload(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8; 32],
) -> Result<Option<LockedPayload>, DbError> {
    let query = sqlx::query_as(
        "select purged_at is not null as is_purged
         from payloads
         where organization_id = $1
           and sha256 = $2
         for update",
    );
    Ok(query.bind(organization).bind(sha256.as_slice()).fetch_optional(connection).await?)
}

/// All jobs of a payload. Reads the organization's jobs: there is no index for what is asked so rarely.
pub async fn jobs_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8; 32],
) -> Result<Vec<PayloadJob>, DbError> {
    sqlx::query("set local statement_timeout = '10min'").execute(&mut *connection).await?;
    let query = sqlx::query_as(
        "select id, status in ('queued', 'awaiting_upload') as is_live, source = 'upload' as is_upload
         from jobs
         where organization_id = $1
           and payload_sha256 = $2
         order by id",
    );
    Ok(query.bind(organization).bind(sha256.as_slice()).fetch_all(connection).await?)
}

/// Write the decision down.
pub async fn begin(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    sha256: &[u8; 32],
    jobs: &[JobId],
    by: &By,
) -> Result<(), DbError> {
    sqlx::query(
        "insert into erasures (organization_id, id, kind, status, payload_sha256, jobs, reason, actor, created_at)
         values ($1, $2, 'payload', 'rows', $3, $4, $5, $6, chartgate_now())",
    )
    .bind(organization)
    .bind(id)
    .bind(sha256.as_slice())
    .bind(jobs)
    .bind(&by.reason)
    .bind(&by.actor.name)
    .execute(connection)
    .await?;
    Ok(())
}

/// Write down which objects must go: the raw copy, also one that was put and never recorded; of uploads the outcome files, the texts of
/// chunks, and the object itself.
pub async fn doom_objects(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    sha256: &[u8; 32],
    jobs: &[PayloadJob],
) -> Result<(), DbError> {
    let mut objects = vec![(format!("raw/{organization}/{}", hex::encode(sha256)), false)];
    for job in jobs.iter().filter(|job| job.is_upload) {
        objects.push((outcomes_key(organization, job.id), false));
        objects.push((format!("chunks/{organization}/{}/", job.id), true));
    }
    let uploads: Vec<JobId> = jobs.iter().filter(|job| job.is_upload).map(|job| job.id).collect();
    let query = sqlx::query_scalar(
        "select storage_key
         from ingested_objects
         where organization_id = $1
           and job_id = any ($2)
           and removed_at is null",
    );
    let incoming: Vec<String> = query.bind(organization).bind(&uploads).fetch_all(&mut *connection).await?;
    objects.extend(incoming.into_iter().map(|key| (key, false)));
    sqlx::query(
        "insert into erased_objects (organization_id, erasure_id, storage_key, is_prefix)
         select $1, $2, k.storage_key, k.is_prefix
         from unnest($3::text[], $4::boolean[]) as k (storage_key, is_prefix)
         on conflict do nothing",
    )
    .bind(organization)
    .bind(id)
    .bind(objects.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>())
    .bind(objects.iter().map(|(_, is_prefix)| *is_prefix).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// The row stays without its content.
pub async fn empty_payload(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8; 32],
) -> Result<(), DbError> {
    let done = sqlx::query(
        "update payloads
         set body = null, storage_key = null, stored_at = null, purged_at = chartgate_now()
         where organization_id = $1
           and sha256 = $2",
    )
    .bind(organization)
    .bind(sha256.as_slice())
    .execute(connection)
    .await?;
    ensure_one_row(&done)
}

/// The erasure of a payload.
pub async fn of_payload(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8; 32],
) -> Result<Option<Marked>, DbError> {
    let query = sqlx::query_as(
        "select id, jobs, counts
         from erasures
         where organization_id = $1
           and payload_sha256 = $2",
    );
    let found: Option<(ErasureId, Vec<JobId>, Json<Counts>)> =
        query.bind(organization).bind(sha256.as_slice()).fetch_optional(connection).await?;
    Ok(found.map(|(id, jobs, counts)| Marked { id, jobs, counts: counts.0 }))
}

/// One erasure; locked until the transaction ends, if `for_update`.
pub async fn erasure(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    for_update: bool,
) -> Result<ErasureRow, DbError> {
    let lock = if for_update { "for update" } else { "" };
    let sql = format!(
        "select status, payload_sha256, jobs, counts, reason, actor
         from erasures
         where organization_id = $1
           and id = $2
         {lock}"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(organization).bind(id).fetch_one(connection).await?)
}

/// So much has gone.
pub async fn set_counts(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    counts: &Counts,
) -> Result<(), DbError> {
    let done = sqlx::query("update erasures set counts = $3 where organization_id = $1 and id = $2")
        .bind(organization)
        .bind(id)
        .bind(Json(counts))
        .execute(connection)
        .await?;
    ensure_one_row(&done)
}

/// What jobs say of a payload beside its events: `(table, statement)`; `$1` organization, `$2` jobs. The jobs stay.
const OF_JOBS: [(&str, &str); 3] = [
    ("issues", "delete from issues where organization_id = $1 and job_id = any ($2)"),
    ("bulk_plans", "delete from bulk_plans where organization_id = $1 and job_id = any ($2)"),
    // Sightings of events that others brought first; the others went with their events.
    ("event_sightings", "delete from event_sightings where organization_id = $1 and job_id = any ($2)"),
];

/// Delete what jobs say beside the events: rows by table; with Athena events that were never processed.
pub async fn clear_jobs(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &[JobId],
) -> Result<Vec<(&'static str, u64)>, DbError> {
    let mut counts = Vec::with_capacity(OF_JOBS.len() + 1);
    for (table, sql) in OF_JOBS {
        let done = sqlx::query(sql).bind(organization).bind(jobs).execute(&mut *connection).await?;
        counts.push((table, done.rows_affected()));
    }
    // Of an event whose job failed there is no clinical event.
    let unprocessed = sqlx::query(
        "with gone as (
           delete from athena_events a
           using jobs j
           where j.organization_id = $1
             and j.id = any ($2)
             and a.organization_id = $1
             and a.job_id = j.id
             and a.payload_sha256 = j.payload_sha256
           returning a.received_at, a.kind
         )
         insert into athena_counts (organization_id, minute, measure, name, n)
         select $1, date_trunc('minute', received_at), 'received', kind, -1 from gone",
    );
    let done = unprocessed.bind(organization).bind(jobs).execute(connection).await?;
    counts.push(("athena_events", done.rows_affected()));
    Ok(counts)
}

/// No row is left; now the objects.
pub async fn rows_gone(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "update erasures set status = 'objects' where organization_id = $1 and id = $2 and status = 'rows'",
    )
    .bind(organization)
    .bind(id)
    .execute(connection)
    .await?;
    ensure_one_row(&done)
}

/// Objects that must go, at most so many.
pub async fn objects(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    limit: i32,
) -> Result<Vec<Doomed>, DbError> {
    let query = sqlx::query_as(
        "select storage_key, is_prefix
         from erased_objects
         where organization_id = $1
           and erasure_id = $2
         order by storage_key
         limit $3",
    );
    Ok(query.bind(organization).bind(id).bind(limit).fetch_all(connection).await?)
}

/// It is gone (somebody else may have been faster): `deleted` objects.
pub async fn object_gone(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    storage_key: &str,
    deleted: u64,
) -> Result<(), DbError> {
    let done =
        sqlx::query("delete from erased_objects where organization_id = $1 and erasure_id = $2 and storage_key = $3")
            .bind(organization)
            .bind(id)
            .bind(storage_key)
            .execute(&mut *connection)
            .await?;
    sqlx::query(
        "update ingested_objects
         set removed_at = chartgate_now()
         where organization_id = $1
           and storage_key = $2
           and removed_at is null",
    )
    .bind(organization)
    .bind(storage_key)
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 || deleted == 0 {
        return Ok(());
    }
    sqlx::query(
        "update erasures
         set counts = jsonb_set(counts, '{objects}', to_jsonb(coalesce((counts ->> 'objects')::bigint, 0) + $3))
         where organization_id = $1
           and id = $2",
    )
    .bind(organization)
    .bind(id)
    .bind(i64::try_from(deleted).unwrap_or(i64::MAX))
    .execute(connection)
    .await?;
    Ok(())
}

/// Nothing is left to delete: the erasure is finished. Nothing, if something is left, or somebody else finished it.
pub async fn finish(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
) -> Result<Option<ErasureRow>, DbError> {
    let query = sqlx::query_as(
        "update erasures
         set status = 'finished', finished_at = chartgate_now()
         where organization_id = $1
           and id = $2
           and status = 'objects'
           and not exists (select from erased_objects o where o.organization_id = $1 and o.erasure_id = $2)
         returning status, payload_sha256, jobs, counts, reason, actor",
    );
    Ok(query.bind(organization).bind(id).fetch_optional(connection).await?)
}

/// Erasures of all organizations that go on, oldest first, at most a hundred.
pub async fn unfinished(connection: &mut PgConnection) -> Result<Vec<Unfinished>, DbError> {
    let organizations: Vec<OrganizationId> =
        sqlx::query_scalar("select id from organizations order by id").fetch_all(&mut *connection).await?;
    let mut found = Vec::new();
    for organization in organizations {
        sqlx::query("select set_config('app.organization', array[$1::uuid]::text, true)")
            .bind(organization)
            .execute(&mut *connection)
            .await?;
        let query = sqlx::query_as(
            "select organization_id, id, actor, reason
             from erasures
             where organization_id = $1
               and status <> 'finished'
             order by id
             limit 100",
        );
        found.extend(query.bind(organization).fetch_all(&mut *connection).await?);
    }
    found.truncate(100);
    Ok(found)
}
