//! SQL on `erased_objects`: what exactly an erasure still has to delete from the object store, and what is looked for once more.

use crate::db::DbError;
use crate::ids::{ErasureId, JobId, OrganizationId};
use crate::ingest::steps::bulk::outcomes_key;
use sqlx::PgConnection;

/// An object, or all below a prefix, to be deleted.
#[derive(Clone, sqlx::FromRow)]
pub struct Doomed {
    /// Its key.
    pub storage_key: String,
    /// All whose keys begin so.
    pub is_prefix: bool,
    /// This generation of it only; empty: whatever has the key, with all versions.
    pub generation: String,
    /// Of this generation.
    pub etag: String,
    /// Of this generation, in a bucket with versions.
    pub version_id: Option<String>,
}

/// An object that was deleted, and is looked for once more.
#[derive(sqlx::FromRow)]
pub struct Again {
    /// Whose.
    pub organization_id: OrganizationId,
    /// The erasure that deleted it.
    pub erasure_id: ErasureId,
    /// What.
    #[sqlx(flatten)]
    pub object: Doomed,
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
    /// Uploads: the names that others gave their objects, where these are gone already.
    pub names: &'a [JobId],
    /// A worker may still put one of them: they are looked for once more.
    pub again: bool,
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
    sqlx::query(
        "insert into erased_objects (organization_id, erasure_id, storage_key, is_prefix, again_at)
         select $1, $2, k.storage_key, k.is_prefix, case when $5 then chartgate_now() + interval '1 hour' end
         from unnest($3::text[], $4::boolean[]) as k (storage_key, is_prefix)
         on conflict do nothing",
    )
    .bind(organization)
    .bind(id)
    .bind(objects.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>())
    .bind(objects.iter().map(|(_, is_prefix)| *is_prefix).collect::<Vec<_>>())
    .bind(doom.again)
    .execute(&mut *connection)
    .await?;
    // A key that we made belongs to one upload: all that has it goes. Under a name that others chose the next file may lie already.
    sqlx::query(
        "insert into erased_objects (organization_id, erasure_id, storage_key, is_prefix, generation, etag, version_id)
         select $1, $2, storage_key, false,
                case when upload_id is null then generation else '' end, case when upload_id is null then etag else '' end,
                case when upload_id is null then version_id end
         from ingested_objects
         where organization_id = $1
           and job_id = any ($3)
           and removed_at is null
         on conflict do nothing",
    )
    .bind(organization)
    .bind(id)
    .bind(doom.uploads)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "update ingested_objects
         set storage_key = 'erased/' || encode(sha256(convert_to(storage_key, 'UTF8')), 'hex')
         where organization_id = $1
           and job_id = any ($2)
           and upload_id is null
           and removed_at is not null
           and storage_key not like 'erased/%'",
    )
    .bind(organization)
    .bind(doom.names)
    .execute(connection)
    .await?;
    Ok(())
}

/// Objects that must go, at most so many; those that could not be deleted come last.
pub async fn objects(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    limit: i32,
) -> Result<Vec<Doomed>, DbError> {
    let query = sqlx::query_as(
        "select storage_key, is_prefix, generation, etag, version_id
         from erased_objects
         where organization_id = $1
           and erasure_id = $2
           and gone_at is null
         order by failed_at nulls first, storage_key, generation
         limit $3",
    );
    Ok(query.bind(organization).bind(id).bind(limit).fetch_all(connection).await?)
}

/// So many more objects of an erasure are gone.
pub async fn count(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    deleted: u64,
) -> Result<(), DbError> {
    if deleted == 0 {
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

/// It is gone; true if nobody else was faster. If it is looked for once more, its row waits for that.
pub async fn object_gone(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    object: &Doomed,
) -> Result<bool, DbError> {
    let query = sqlx::query_scalar(
        "update erased_objects
         set gone_at = chartgate_now()
         where organization_id = $1
           and erasure_id = $2
           and storage_key = $3
           and generation = $4
           and gone_at is null
         returning again_at is null",
    );
    let query = query.bind(organization).bind(id).bind(&object.storage_key).bind(&object.generation);
    let was_here: Option<bool> = query.fetch_optional(&mut *connection).await?;
    let Some(is_all) = was_here else { return Ok(false) };
    if is_all {
        forget(connection, organization, id, object).await?;
    }
    sqlx::query(
        "update ingested_objects o
         set removed_at = chartgate_now(),
             storage_key = case when o.upload_id is null and e.kind <> 'retention'
                                then 'erased/' || encode(sha256(convert_to(o.storage_key, 'UTF8')), 'hex')
                                else o.storage_key end
         from erasures e
         where o.organization_id = $1
           and o.storage_key = $3
           and ($4 = '' or o.generation = $4)
           and o.removed_at is null
           and e.organization_id = $1
           and e.id = $2",
    )
    .bind(organization)
    .bind(id)
    .bind(&object.storage_key)
    .bind(&object.generation)
    .execute(connection)
    .await?;
    Ok(true)
}

/// Nothing more is to be done for it.
async fn forget(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    object: &Doomed,
) -> Result<(), DbError> {
    sqlx::query(
        "delete from erased_objects
         where organization_id = $1
           and erasure_id = $2
           and storage_key = $3
           and generation = $4",
    )
    .bind(organization)
    .bind(id)
    .bind(&object.storage_key)
    .bind(&object.generation)
    .execute(connection)
    .await?;
    Ok(())
}

/// It cannot be deleted now; the others come first.
pub async fn object_failed(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    object: &Doomed,
) -> Result<(), DbError> {
    sqlx::query(
        "update erased_objects
         set failed_at = chartgate_now(), again_at = case when gone_at is null then again_at else chartgate_now() + interval '1 hour' end
         where organization_id = $1
           and erasure_id = $2
           and storage_key = $3
           and generation = $4",
    )
    .bind(organization)
    .bind(id)
    .bind(&object.storage_key)
    .bind(&object.generation)
    .execute(connection)
    .await?;
    Ok(())
}

/// Objects of an organization that are to be looked for once more now, at most so many.
pub async fn due_again(
    connection: &mut PgConnection,
    organization: OrganizationId,
    limit: i32,
) -> Result<Vec<Again>, DbError> {
    let query = sqlx::query_as(
        "select organization_id, erasure_id, storage_key, is_prefix, generation, etag, version_id
         from erased_objects
         where organization_id = $1
           and gone_at is not null
           and again_at <= chartgate_now()
         order by again_at
         limit $2",
    );
    Ok(query.bind(organization).bind(limit).fetch_all(connection).await?)
}

/// It was looked for once more: a day after it was deleted for the last time. True if nobody else was faster.
pub async fn looked_again(connection: &mut PgConnection, again: &Again) -> Result<bool, DbError> {
    let query = sqlx::query_scalar(
        "update erased_objects
         set again_at = greatest(gone_at + interval '1 day', again_at)
         where organization_id = $1
           and erasure_id = $2
           and storage_key = $3
           and generation = $4
           and again_at <= chartgate_now()
         returning again_at <= chartgate_now()",
    );
    let query = query.bind(again.organization_id).bind(again.erasure_id);
    let query = query.bind(&again.object.storage_key).bind(&again.object.generation);
    let was_last: Option<bool> = query.fetch_optional(&mut *connection).await?;
    if was_last == Some(true) {
        forget(connection, again.organization_id, again.erasure_id, &again.object).await?;
    }
    Ok(was_last.is_some())
}

/// Lock what stands behind an object that is to go because of its age, until the transaction ends: whoever brings the same bytes again
/// waits. May it still be deleted? Not if the bytes came again since, or if somebody else deleted it.
pub async fn may_delete(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    object: &Doomed,
) -> Result<bool, DbError> {
    let storage_key = &object.storage_key;
    let hash = storage_key.rsplit('/').next().and_then(|name| hex::decode(name).ok());
    if let Some(sha256) = hash.filter(|sha256| raw_key(organization, sha256) == *storage_key) {
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
             and storage_key = $3
             and generation = $4
             and gone_at is null)",
    );
    let query = query.bind(organization).bind(id).bind(storage_key).bind(&object.generation);
    Ok(query.fetch_one(connection).await?)
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
