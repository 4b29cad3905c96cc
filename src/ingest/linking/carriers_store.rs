//! SQL on `event_carriers`: which jobs brought the bytes of an event that more than one brought.

use crate::db::DbError;
use crate::ids::{EventId, StatementId};
use crate::ingest::events::Origin;
use crate::ingest::resource::Incoming;
use sqlx::PgConnection;

/// An event that is stored, brought again.
pub struct Carried<'a> {
    /// The event.
    pub event: EventId,
    /// Where it stands in this payload.
    pub incoming: &'a Incoming,
    /// Whom this payload says it is about.
    pub subject_key: Option<&'a str>,
    /// The same, where it is a Patient of the same Bundle.
    pub statement: Option<StatementId>,
    /// All keys, where there are several.
    pub subject_keys: &'a [String],
}

/// Remember this job as one that brought them, and with the first such job the one that stored them. A job that meets what
/// it stored itself (it runs again) is no second one.
pub async fn record(
    connection: &mut PgConnection,
    origin: &Origin,
    mut carried: Vec<Carried<'_>>,
) -> Result<(), DbError> {
    if carried.is_empty() {
        return Ok(());
    }
    carried.sort_by_key(|one| one.event);
    carried.dedup_by_key(|one| one.event);
    let ids: Vec<EventId> = carried.iter().map(|one| one.event).collect();
    // An erasure may have taken one since it was looked up: then the payload is looked at again. One that comes now waits.
    let query = sqlx::query_scalar(
        "select job_id <> $3
         from clinical_events
         where organization_id = $1
           and id = any ($2)
         order by id
         for no key update",
    );
    let others: Vec<bool> =
        query.bind(origin.organization).bind(&ids).bind(origin.job).fetch_all(&mut *connection).await?;
    if others.len() < ids.len() {
        return Err(DbError::stale());
    }
    if !others.contains(&true) {
        return Ok(());
    }
    sqlx::query(
        "insert into event_carriers
           (organization_id, event_id, job_id, job_seq, payload_sha256, entry, byte_start, byte_end, subject_key,
            statement_id, subject_keys)
         select organization_id, id, job_id, job_seq, payload_sha256, entry, byte_start, byte_end, subject_key, statement_id,
                array(select s.key from event_subjects s
                      where s.organization_id = $1 and s.event_id = e.id order by s.key)
         from clinical_events e
         where organization_id = $1
           and id = any ($2)
           and job_id <> $3
         order by id
         on conflict do nothing",
    )
    .bind(origin.organization)
    .bind(&ids)
    .bind(origin.job)
    .execute(&mut *connection)
    .await?;
    // The keys of one event as one JSON array: arrays of arrays must be of one length.
    let keys = carried.iter().map(|one| serde_json::Value::from(one.subject_keys.to_vec())).collect::<Vec<_>>();
    sqlx::query(
        "insert into event_carriers
           (organization_id, event_id, job_id, job_seq, payload_sha256, entry, byte_start, byte_end, subject_key,
            statement_id, subject_keys)
         select $1, k.id, $3, $4, $5, k.entry, k.byte_start, k.byte_end, k.subject_key, k.statement_id,
                array(select jsonb_array_elements_text(k.keys))
         from unnest($2::uuid[], $6::integer[], $7::bigint[], $8::bigint[], $9::text[], $10::uuid[], $11::jsonb[], $12::boolean[])
           as k (id, entry, byte_start, byte_end, subject_key, statement_id, keys, is_other)
         where k.is_other
         order by k.id
         on conflict (organization_id, event_id, job_id) do update
         set subject_key = excluded.subject_key, statement_id = excluded.statement_id, subject_keys = excluded.subject_keys",
    )
    .bind(origin.organization)
    .bind(&ids)
    .bind(origin.job)
    .bind(origin.seq)
    .bind(&origin.payload_sha256)
    .bind(carried.iter().map(|one| i32::try_from(one.incoming.entry).ok()).collect::<Vec<_>>())
    .bind(carried.iter().map(|one| origin.position(one.incoming.span.start)).collect::<Vec<_>>())
    .bind(carried.iter().map(|one| origin.position(one.incoming.span.end)).collect::<Vec<_>>())
    .bind(carried.iter().map(|one| one.subject_key).collect::<Vec<_>>())
    .bind(carried.iter().map(|one| one.statement).collect::<Vec<_>>())
    .bind(keys)
    .bind(&others)
    .execute(connection)
    .await?;
    Ok(())
}
