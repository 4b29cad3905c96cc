//! SQL on `clinical_events`: versions of resources, and who they belong to.

use super::resource::Incoming;
use crate::db::{DbError, StatementRows, give_way};
use crate::ids::{EventId, JobId, OrganizationId, PatientId, StatementId};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

/// Rows of one statement: some twenty milliseconds, or five beside others' jobs.
const ROWS: StatementRows = StatementRows { alone: 1_000, beside: 300 };

/// A stored version that matters to a payload: the current one of a resource, or one with the same bytes.
#[derive(Clone, sqlx::FromRow)]
pub struct StoredEvent {
    /// Its id.
    pub id: EventId,
    /// One of R4's types.
    pub resource_type: String,
    /// The sender's id.
    pub resource_key: String,
    /// Hash of its bytes.
    pub content_sha256: Vec<u8>,
    /// The resource's current version.
    pub is_current: bool,
    /// `meta.lastUpdated`.
    pub last_updated: Option<OffsetDateTime>,
    /// Position in its Bundle.
    pub entry: Option<i32>,
    /// The highest position of a job that brought these bytes.
    pub seen_seq: i64,
    /// The patient, if it is linked.
    pub patient_id: Option<PatientId>,
    /// linked, pending, review, none
    pub link_status: String,
    /// A person decided it.
    pub link_pinned: bool,
    /// Where its subject points.
    pub subject_key: Option<String>,
    /// The statement that it is, or that its subject is.
    pub statement_id: Option<StatementId>,
    /// The lowest position of a job that brought these bytes.
    pub first_seq: i64,
}

/// The versions that matter to these resources.
///
/// # Errors
/// A [`DbError`].
pub async fn stored_versions(
    connection: &mut PgConnection,
    organization: OrganizationId,
    source: &str,
    incoming: &[&Incoming],
) -> Result<Vec<StoredEvent>, DbError> {
    let types: Vec<&str> = incoming.iter().map(|one| one.resource_type).collect();
    let keys: Vec<&str> = incoming.iter().map(|one| one.resource_key.as_str()).collect();
    let hashes: Vec<&[u8]> = incoming.iter().map(|one| one.content_sha256.as_slice()).collect();
    Ok(sqlx::query_as(
        "select distinct on (e.id) e.*
         from unnest($3::text[], $4::text[], $5::bytea[]) as k (resource_type, resource_key, content_sha256)
         cross join lateral (
           select id, resource_type, resource_key, content_sha256, is_current, last_updated, entry, seen_seq,
                  patient_id, link_status, link_pinned, subject_key, statement_id,
                  coalesce(first_seq, job_seq) as first_seq
           from clinical_events
           where organization_id = $1
             and source_label = $2
             and resource_type = k.resource_type
             and resource_key = k.resource_key
             and (is_current or content_sha256 = k.content_sha256)
           -- Keeps the planner at one index lookup a key, whatever it believes of the table's size.
           offset 0
         ) e",
    )
    .bind(organization)
    .bind(source)
    .bind(types)
    .bind(keys)
    .bind(hashes)
    .fetch_all(connection)
    .await?)
}

/// The same bytes came again with a later job.
///
/// # Errors
/// A [`DbError`].
pub async fn mark_seen(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
    seq: i64,
) -> Result<(), DbError> {
    if events.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update clinical_events
         set seen_seq = $3
         where organization_id = $1
           and id = any ($2)
           and seen_seq < $3",
    )
    .bind(organization)
    .bind(events)
    .bind(seq)
    .execute(connection)
    .await?;
    Ok(())
}

/// Make versions current, or no longer current. A resource has at most one current version at any time: take the old
/// one down before the new one is put up (the partial unique index refuses otherwise, and so refuses a racing writer).
///
/// # Errors
/// A [`DbError`].
pub async fn set_current(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
    is_current: bool,
) -> Result<(), DbError> {
    if events.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update clinical_events
         set is_current = $3
         where organization_id = $1
           and id = any ($2)
           and is_current <> $3",
    )
    .bind(organization)
    .bind(events)
    .bind(is_current)
    .execute(connection)
    .await?;
    Ok(())
}

/// Are the parts of an Athena event apart from those of the others, because a person placed it?
///
/// # Errors
/// A [`DbError`].
pub async fn is_apart(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: EventId,
) -> Result<bool, DbError> {
    let query = sqlx::query_scalar(
        "select exists (
           select from clinical_events
           where organization_id = $1
             and part_of = $2
             and starts_with(resource_key, '!'))",
    );
    Ok(query.bind(organization).bind(event).fetch_one(connection).await?)
}

/// Give the parts of an Athena event keys of their own (`!event|…`), or, with a prefix, the keys that they share with those of other
/// events of the patient; then of each key concerned the version that ranks highest is current.
///
/// # Errors
/// A [`DbError`].
pub async fn rekey_parts(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: EventId,
    shared: Option<&str>,
) -> Result<(), DbError> {
    #[derive(sqlx::FromRow)]
    struct Part {
        id: EventId,
        source_label: String,
        resource_type: String,
        resource_key: String,
    }
    let query = sqlx::query_as(
        "select id, source_label, resource_type, resource_key
         from clinical_events
         where organization_id = $1
           and part_of = $2
         order by id",
    );
    let parts: Vec<Part> = query.bind(organization).bind(event).fetch_all(&mut *connection).await?;
    let key = |old: &str| {
        let rest = if old.starts_with('#') { old } else { old.split_once('|').map_or(old, |(_, rest)| rest) };
        match shared {
            None => format!("!{event}|{rest}"),
            Some(_) if rest.starts_with('#') => rest.to_owned(),
            Some(prefix) => format!("{prefix}|{rest}"),
        }
    };
    let moved: Vec<(&Part, String)> = parts
        .iter()
        .map(|part| (part, key(&part.resource_key)))
        .filter(|(part, new)| part.resource_key != *new)
        .collect();
    if moved.is_empty() {
        return Ok(());
    }
    let ids: Vec<EventId> = moved.iter().map(|(part, _)| part.id).collect();
    let keys: Vec<&str> = moved.iter().map(|(_, new)| new.as_str()).collect();
    // Of two versions of one key that meet, one is current at any time: first none of those that move is.
    set_current(connection, organization, &ids, false).await?;
    sqlx::query(
        "update clinical_events e
         set resource_key = k.resource_key
         from unnest($2::uuid[], $3::text[]) as k (id, resource_key)
         where e.organization_id = $1
           and e.id = k.id",
    )
    .bind(organization)
    .bind(&ids)
    .bind(&keys)
    .execute(&mut *connection)
    .await?;
    let concerned = || moved.iter().chain(&moved);
    let sources: Vec<&str> = concerned().map(|(part, _)| part.source_label.as_str()).collect();
    let types: Vec<&str> = concerned().map(|(part, _)| part.resource_type.as_str()).collect();
    let both: Vec<&str> = moved
        .iter()
        .map(|(part, _)| part.resource_key.as_str())
        .chain(moved.iter().map(|(_, new)| new.as_str()))
        .collect();
    let query = sqlx::query_as(
        "select v.id, v.is_current, v.is_best
         from (select distinct source_label, resource_type, resource_key
               from unnest($2::text[], $3::text[], $4::text[]) as u (source_label, resource_type, resource_key)) k
         cross join lateral (
           select id, is_current,
                  row_number() over (order by last_updated desc nulls last, seen_seq desc, entry desc, id desc) = 1 as is_best
           from clinical_events
           where organization_id = $1
             and source_label = k.source_label
             and resource_type = k.resource_type
             and resource_key = k.resource_key
           offset 0
         ) v",
    );
    let versions: Vec<(EventId, bool, bool)> =
        query.bind(organization).bind(sources).bind(types).bind(both).fetch_all(&mut *connection).await?;
    let of = |wrong: (bool, bool)| -> Vec<EventId> {
        versions.iter().filter(|(_, current, best)| (*current, *best) == wrong).map(|(id, ..)| *id).collect()
    };
    set_current(connection, organization, &of((true, false)), false).await?;
    set_current(connection, organization, &of((false, true)), true).await
}

/// Whether and how an event belongs to a patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkStatus {
    /// It belongs to this patient.
    Linked(PatientId),
    /// Its patient is not known yet.
    Pending,
    /// A person must decide.
    Review,
    /// It has no patient as its subject.
    None,
}

impl LinkStatus {
    /// As stored in the two columns.
    #[must_use]
    pub fn stored(status: &str, patient: Option<PatientId>) -> Self {
        match (status, patient) {
            ("linked", Some(patient)) => Self::Linked(patient),
            ("pending", _) => Self::Pending,
            ("review", _) => Self::Review,
            _ => Self::None,
        }
    }

    /// The word in SQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Linked(_) => "linked",
            Self::Pending => "pending",
            Self::Review => "review",
            Self::None => "none",
        }
    }

    /// The patient, if it is linked.
    #[must_use]
    pub fn patient(self) -> Option<PatientId> {
        match self {
            Self::Linked(patient) => Some(patient),
            _ => None,
        }
    }
}

/// An event to be stored.
pub struct NewEvent<'a> {
    /// Its id.
    pub id: EventId,
    /// The resource.
    pub incoming: &'a Incoming,
    /// Where its subject points.
    pub subject_key: Option<&'a str>,
    /// Whose it is.
    pub link: LinkStatus,
    /// The resource's current version.
    pub is_current: bool,
    /// The statement that it is (a Patient), or that its subject in the same Bundle is.
    pub statement: Option<StatementId>,
    /// Of a Patient resource: what it says.
    pub demographics: Option<Value>,
    /// A person decided whose it is.
    pub is_pinned: bool,
}

/// Which job brought events, and from where.
#[derive(Clone)]
pub struct Origin {
    /// Whose.
    pub organization: OrganizationId,
    /// The job.
    pub job: JobId,
    /// Its position in the order of acceptance.
    pub seq: i64,
    /// The sender's source label.
    pub source: String,
    /// The payload.
    pub payload_sha256: Vec<u8>,
    /// Where the body at hand begins in the payload; 0, unless it is a piece of a bulk file.
    pub base: u64,
}

impl Origin {
    /// A place of the body at hand, in the payload.
    #[must_use]
    pub fn position(&self, at: usize) -> i64 {
        let at = u64::try_from(at).ok().and_then(|at| at.checked_add(self.base));
        at.and_then(|at| i64::try_from(at).ok()).unwrap_or(i64::MAX)
    }
}

/// Store events, in the order given: sort them by resource, so that concurrent transactions do not wait for each other
/// in a circle. A version that a concurrent transaction stored meanwhile is a conflict: run the effect again.
///
/// # Errors
/// A [`DbError`].
pub async fn insert(connection: &mut PgConnection, origin: &Origin, events: &[NewEvent<'_>]) -> Result<(), DbError> {
    for events in events.chunks(ROWS.at_once()) {
        give_way().await;
        insert_some(connection, origin, events).await?;
    }
    Ok(())
}

async fn insert_some(connection: &mut PgConnection, origin: &Origin, events: &[NewEvent<'_>]) -> Result<(), DbError> {
    let position = |at: usize| origin.position(at);
    sqlx::query(
        "insert into clinical_events
           (organization_id, id, job_id, job_seq, seen_seq, source_label, resource_type, resource_key, content_sha256,
            payload_sha256, entry, byte_start, byte_end, last_updated, category, status, subject_key, patient_id,
            link_status, is_current, statement_id, demographics, link_pinned, clinical_at, part_of, pointer, created_at)
         select $1, e.id, $2, $3, $3, $4, e.resource_type, e.resource_key, e.content_sha256,
                $5, e.entry, e.byte_start, e.byte_end, e.last_updated, e.category, e.status, e.subject_key, e.patient_id,
                e.link_status, e.is_current, e.statement_id, e.demographics, e.link_pinned,
                coalesce(e.clinical_at, '0001-01-01 00:00:00+00'), e.part_of, e.pointer, (select chartgate_now())
         -- In the select list, arrays are read side by side, in their order and without a copy of each (docs/decisions/0015).
         from (select unnest($6::uuid[]) as id, unnest($7::text[]) as resource_type, unnest($8::text[]) as resource_key,
                      unnest($9::bytea[]) as content_sha256, unnest($10::integer[]) as entry,
                      unnest($11::bigint[]) as byte_start, unnest($12::bigint[]) as byte_end,
                      unnest($13::timestamptz[]) as last_updated, unnest($14::text[]) as category,
                      unnest($15::text[]) as status, unnest($16::text[]) as subject_key, unnest($17::uuid[]) as patient_id,
                      unnest($18::text[]) as link_status, unnest($19::boolean[]) as is_current,
                      unnest($20::uuid[]) as statement_id, unnest($21::jsonb[]) as demographics,
                      unnest($22::boolean[]) as link_pinned, unnest($23::timestamptz[]) as clinical_at,
                      unnest($24::uuid[]) as part_of, unnest($25::text[]) as pointer) e",
    )
    .bind(origin.organization)
    .bind(origin.job)
    .bind(origin.seq)
    .bind(&origin.source)
    .bind(&origin.payload_sha256)
    .bind(events.iter().map(|event| event.id).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.incoming.resource_type).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.incoming.resource_key.as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.incoming.content_sha256.as_slice()).collect::<Vec<_>>())
    .bind(events.iter().map(|event| i32::try_from(event.incoming.entry).ok()).collect::<Vec<_>>())
    .bind(events.iter().map(|event| position(event.incoming.span.start)).collect::<Vec<_>>())
    .bind(events.iter().map(|event| position(event.incoming.span.end)).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.incoming.last_updated).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.incoming.category).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.incoming.status.as_deref()).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.subject_key).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.link.patient()).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.link.as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.is_current).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.statement).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.demographics.clone()).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.is_pinned).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.incoming.clinical_at).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.incoming.part_of).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.incoming.pointer.as_deref()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// The ids of the stored events of these resources, by position; no id where there is none with the same bytes.
///
/// # Errors
/// A [`DbError`].
pub async fn ids_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    source: &str,
    incoming: &[&Incoming],
) -> Result<Vec<Option<EventId>>, DbError> {
    let types: Vec<&str> = incoming.iter().map(|one| one.resource_type).collect();
    let keys: Vec<&str> = incoming.iter().map(|one| one.resource_key.as_str()).collect();
    let hashes: Vec<&[u8]> = incoming.iter().map(|one| one.content_sha256.as_slice()).collect();
    Ok(sqlx::query_scalar(
        "select e.id
         from unnest($3::text[], $4::text[], $5::bytea[]) with ordinality
           as k (resource_type, resource_key, content_sha256, ordinal)
         left join lateral (
           select id
           from clinical_events
           where organization_id = $1
             and source_label = $2
             and resource_type = k.resource_type
             and resource_key = k.resource_key
             and content_sha256 = k.content_sha256
           -- As in stored_versions: one index lookup a key.
           offset 0
         ) e on true
         order by k.ordinal",
    )
    .bind(organization)
    .bind(source)
    .bind(types)
    .bind(keys)
    .bind(hashes)
    .fetch_all(connection)
    .await?)
}
