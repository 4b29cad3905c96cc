//! SQL on `erased_objects`: what an erasure still has to delete from the object store.

use crate::db::DbError;
use crate::ids::{ErasureId, JobId, OrganizationId};
use crate::ingest::steps::bulk::outcomes_key;
use sqlx::PgConnection;

/// An object, or all below a prefix, to be deleted.
#[derive(sqlx::FromRow)]
pub struct Doomed {
    /// Its key.
    pub storage_key: String,
    /// All whose keys begin so.
    pub is_prefix: bool,
}

/// Which objects must go.
#[derive(Default)]
pub struct Doom<'a> {
    /// Payloads: their raw copies, also such as were put and never recorded.
    pub payloads: &'a [Vec<u8>],
    /// Uploads: the texts of their chunks, and the objects themselves.
    pub uploads: &'a [JobId],
    /// Uploads: the files that say what became of each line.
    pub outcomes: &'a [JobId],
}

/// The raw copy of a payload.
fn raw_key(organization: OrganizationId, sha256: &[u8]) -> String {
    format!("raw/{organization}/{}", hex::encode(sha256))
}

/// Write down which objects must go.
pub async fn doom(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    doom: Doom<'_>,
) -> Result<(), DbError> {
    let mut objects: Vec<(String, bool)> =
        doom.payloads.iter().map(|sha256| (raw_key(organization, sha256), false)).collect();
    objects.extend(doom.outcomes.iter().map(|job| (outcomes_key(organization, *job), false)));
    objects.extend(doom.uploads.iter().map(|job| (format!("chunks/{organization}/{job}/"), true)));
    let query = sqlx::query_scalar(
        "select storage_key
         from ingested_objects
         where organization_id = $1
           and job_id = any ($2)
           and removed_at is null",
    );
    let incoming: Vec<String> = query.bind(organization).bind(doom.uploads).fetch_all(&mut *connection).await?;
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

/// Lock what stands behind an object that is to go because of its age, until the transaction ends: whoever brings the same bytes again
/// waits. May it still be deleted? Not if the bytes came again since, or if somebody else deleted it.
pub async fn may_delete(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    storage_key: &str,
) -> Result<bool, DbError> {
    let hash = storage_key.rsplit('/').next().and_then(|name| hex::decode(name).ok());
    if let Some(sha256) = hash.filter(|sha256| raw_key(organization, sha256) == storage_key) {
        let query = sqlx::query_scalar(
            "select expired_at is not null or purged_at is not null
             from payloads
             where organization_id = $1
               and sha256 = $2
             for update",
        );
        let goes: Option<bool> = query.bind(organization).bind(sha256).fetch_optional(&mut *connection).await?;
        if goes == Some(false) {
            return Ok(false);
        }
    }
    let query = sqlx::query_scalar(
        "select exists (
           select
           from erased_objects
           where organization_id = $1
             and erasure_id = $2
             and storage_key = $3)",
    );
    Ok(query.bind(organization).bind(id).bind(storage_key).fetch_one(connection).await?)
}

/// Bytes that went because of their age are about to come again: their copy is not deleted any more.
///
/// # Errors
/// A [`DbError`].
pub async fn spare(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8; 32],
) -> Result<(), DbError> {
    sqlx::query("delete from erased_objects where organization_id = $1 and storage_key = $2")
        .bind(organization)
        .bind(raw_key(organization, sha256))
        .execute(connection)
        .await?;
    Ok(())
}
