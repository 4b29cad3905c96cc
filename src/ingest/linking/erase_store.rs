//! SQL of erasing events: what they leave behind, who brought them as well, and what only they said.

use crate::db::DbError;
use crate::ids::{EventId, JobId, OrganizationId, PatientId, StatementId};
use sqlx::PgConnection;
use std::collections::BTreeSet;

/// An event that a payload brought.
#[derive(Clone, sqlx::FromRow)]
pub struct Touched {
    /// Its id.
    pub id: EventId,
    /// One of R4's types, or a part's.
    pub resource_type: String,
    /// The sender's label.
    pub source_label: String,
    /// The resource.
    pub resource_key: String,
    /// Where its subject points.
    pub subject_key: Option<String>,
    /// All its keys, if it has several.
    pub keys: Vec<String>,
    /// The statement that it is, or that its subject is.
    pub statement_id: Option<StatementId>,
    /// Whose it is.
    pub patient_id: Option<PatientId>,
    /// The job that its row names.
    pub job_id: JobId,
    /// The payload that its row names.
    pub payload_sha256: Vec<u8>,
    /// Where it stands there.
    pub byte_start: i64,
}

impl Touched {
    /// Where its subject points, by all its names.
    pub fn all_keys(&self) -> BTreeSet<String> {
        self.keys.iter().chain(&self.subject_key).cloned().collect()
    }
}

/// The first of the other jobs that brought an event.
#[derive(Clone, sqlx::FromRow)]
pub struct Carrier {
    /// The event.
    pub event_id: EventId,
    /// The job.
    pub job_id: JobId,
    /// Its place in the order of acceptance.
    pub job_seq: i64,
    /// The place of the last of the other jobs.
    pub last_seq: i64,
    /// Its payload.
    pub payload_sha256: Vec<u8>,
    /// Position in its Bundle.
    pub entry: Option<i32>,
    /// Where the resource stands.
    pub byte_start: i64,
    /// And ends.
    pub byte_end: i64,
    /// Whom it says that it is about.
    pub subject_key: Option<String>,
    /// The same.
    pub statement_id: Option<StatementId>,
    /// The same, where there are several.
    pub subject_keys: Vec<String>,
}

/// Events that these jobs brought, first or again, at most so many.
///
/// # Errors
/// A [`DbError`].
pub async fn next(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &[JobId],
    limit: i64,
) -> Result<Vec<EventId>, DbError> {
    let query = sqlx::query_scalar(
        "(select id
          from clinical_events
          where organization_id = $1
            and job_id = any ($2)
          limit $3)
         union
         (select c.event_id
          from event_carriers c
          join clinical_events e on e.organization_id = $1 and e.id = c.event_id
          where c.organization_id = $1
            and c.job_id = any ($2)
          limit $3)
         order by 1
         limit $3",
    );
    Ok(query.bind(organization).bind(jobs).bind(limit).fetch_all(connection).await?)
}

/// What a job brought, first or again, behind this event, in the order of ids, at most so many: each event, and whether it is one that
/// retention may take. It is no Patient resource of whom anything else is kept.
pub async fn page(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    after: Option<EventId>,
    limit: i64,
) -> Result<Vec<(EventId, bool)>, DbError> {
    let query = sqlx::query_as(
        "with page as (
           (select id
            from clinical_events
            where organization_id = $1
              and job_id = $2
              and id > coalesce($3::uuid, '00000000-0000-0000-0000-000000000000')
            order by id
            limit $4)
           union
           (select event_id
            from event_carriers
            where organization_id = $1
              and job_id = $2
              and event_id > coalesce($3::uuid, '00000000-0000-0000-0000-000000000000')
            order by event_id
            limit $4)
           order by 1
           limit $4
         )
         select e.id,
                not (e.resource_type = 'Patient'
                     and e.patient_id is not null
                     -- By the index, for each: not all events of the organization for a page.
                     and (select true
                          from clinical_events o
                          where o.organization_id = $1 and o.patient_id = e.patient_id and o.resource_type <> 'Patient'
                          limit 1) is not null)
         from page p
         cross join lateral (
           select id, resource_type, patient_id
           from clinical_events
           where organization_id = $1 and id = p.id
           offset 0) e
         order by e.id",
    );
    Ok(query.bind(organization).bind(job).bind(after).bind(limit).fetch_all(connection).await?)
}

/// The events as they are; locked until the transaction ends, if `for_update`.
pub async fn touched(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
    for_update: bool,
) -> Result<Vec<Touched>, DbError> {
    let lock = if for_update { "for update of e" } else { "" };
    let sql = format!(
        "select e.id, e.resource_type, e.source_label, e.resource_key, e.subject_key, e.statement_id, e.patient_id, e.job_id,
                e.payload_sha256, e.byte_start,
                array(select s.key from event_subjects s where s.organization_id = $1 and s.event_id = e.id order by s.key) as keys
         from clinical_events e
         where e.organization_id = $1
           and e.id = any ($2)
         order by e.id
         {lock}"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(organization).bind(events).fetch_all(connection).await?)
}

/// Of each event that other jobs brought as well, the first of those.
pub async fn carriers(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
    but: &[JobId],
) -> Result<Vec<Carrier>, DbError> {
    let query = sqlx::query_as(
        "select distinct on (event_id) event_id, job_id, job_seq,
                max(job_seq) over (partition by event_id) as last_seq,
                payload_sha256, entry, byte_start, byte_end, subject_key, statement_id, subject_keys
         from event_carriers
         where organization_id = $1
           and event_id = any ($2)
           and job_id <> all ($3)
         order by event_id, job_seq, job_id",
    );
    Ok(query.bind(organization).bind(events).bind(but).fetch_all(connection).await?)
}

/// Show events as those that their carriers brought.
pub async fn hand_over(
    connection: &mut PgConnection,
    organization: OrganizationId,
    carriers: &[Carrier],
) -> Result<(), DbError> {
    if carriers.is_empty() {
        return Ok(());
    }
    let ids: Vec<EventId> = carriers.iter().map(|one| one.event_id).collect();
    sqlx::query(
        "update clinical_events e
         set job_id = k.job_id, job_seq = k.job_seq, seen_seq = k.last_seq, first_seq = null, payload_sha256 = k.sha256,
             entry = k.entry, byte_start = k.byte_start, byte_end = k.byte_end, subject_key = k.subject_key,
             statement_id = k.statement_id
         from unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bytea[], $7::integer[], $8::bigint[], $9::bigint[],
                     $10::text[], $11::uuid[])
           as k (id, job_id, job_seq, last_seq, sha256, entry, byte_start, byte_end, subject_key, statement_id)
         where e.organization_id = $1
           and e.id = k.id",
    )
    .bind(organization)
    .bind(&ids)
    .bind(carriers.iter().map(|one| one.job_id).collect::<Vec<_>>())
    .bind(carriers.iter().map(|one| one.job_seq).collect::<Vec<_>>())
    .bind(carriers.iter().map(|one| one.last_seq).collect::<Vec<_>>())
    .bind(carriers.iter().map(|one| one.payload_sha256.as_slice()).collect::<Vec<_>>())
    .bind(carriers.iter().map(|one| one.entry).collect::<Vec<_>>())
    .bind(carriers.iter().map(|one| one.byte_start).collect::<Vec<_>>())
    .bind(carriers.iter().map(|one| one.byte_end).collect::<Vec<_>>())
    .bind(carriers.iter().map(|one| one.subject_key.as_deref()).collect::<Vec<_>>())
    .bind(carriers.iter().map(|one| one.statement_id).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    sqlx::query("delete from event_subjects where organization_id = $1 and event_id = any ($2)")
        .bind(organization)
        .bind(&ids)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "insert into event_subjects (organization_id, key, event_id)
         select $1, key, k.id
         from unnest($2::uuid[], $3::jsonb[]) as k (id, keys)
         cross join lateral jsonb_array_elements_text(k.keys) as key
         on conflict do nothing",
    )
    .bind(organization)
    .bind(&ids)
    .bind(carriers.iter().map(|one| serde_json::Value::from(one.subject_keys.clone())).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// The same bytes stand elsewhere: evidence within the resource moves with it; evidence of other places of the payload goes.
/// `from` is the payload and the place where the resource stood, by event.
pub async fn move_evidence(
    connection: &mut PgConnection,
    organization: OrganizationId,
    moves: &[(&Touched, &Carrier)],
) -> Result<u64, DbError> {
    if moves.is_empty() {
        return Ok(0);
    }
    let ids: Vec<EventId> = moves.iter().map(|(from, _)| from.id).collect();
    sqlx::query(
        "update finding_evidence v
         set payload_sha256 = k.sha256, byte_start = v.byte_start + k.by, byte_end = v.byte_end + k.by
         from unnest($2::uuid[], $3::bytea[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[])
           as k (event_id, old_sha256, sha256, old_start, length, by)
         join findings f on f.organization_id = $1 and f.event_id = k.event_id
         where v.organization_id = $1
           and v.finding_id = f.id
           and v.payload_sha256 = k.old_sha256
           and v.byte_start between k.old_start and k.old_start + k.length",
    )
    .bind(organization)
    .bind(&ids)
    .bind(moves.iter().map(|(from, _)| from.payload_sha256.as_slice()).collect::<Vec<_>>())
    .bind(moves.iter().map(|(_, to)| to.payload_sha256.as_slice()).collect::<Vec<_>>())
    .bind(moves.iter().map(|(from, _)| from.byte_start).collect::<Vec<_>>())
    .bind(moves.iter().map(|(_, to)| to.byte_end - to.byte_start).collect::<Vec<_>>())
    .bind(moves.iter().map(|(from, to)| to.byte_start - from.byte_start).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    let gone = sqlx::query(
        "delete from finding_evidence v
         using unnest($2::uuid[], $3::bytea[], $4::bytea[]) as k (event_id, old_sha256, sha256), findings f
         where f.organization_id = $1
           and f.event_id = k.event_id
           and v.organization_id = $1
           and v.finding_id = f.id
           and v.payload_sha256 = k.old_sha256
           and k.old_sha256 <> k.sha256",
    )
    .bind(organization)
    .bind(&ids)
    .bind(moves.iter().map(|(from, _)| from.payload_sha256.as_slice()).collect::<Vec<_>>())
    .bind(moves.iter().map(|(_, to)| to.payload_sha256.as_slice()).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    // What is shown tells the old places. It is made from the findings when it is read.
    sqlx::query("delete from shown_events where organization_id = $1 and event_id = any ($2)")
        .bind(organization)
        .bind(&ids)
        .execute(connection)
        .await?;
    Ok(gone.rows_affected())
}

/// Where these jobs brought what others brought, too, is forgotten; and an event that one job is left of needs no rows.
pub async fn forget_carriers(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
    jobs: &[JobId],
) -> Result<(), DbError> {
    sqlx::query("delete from event_carriers where organization_id = $1 and event_id = any ($2) and job_id = any ($3)")
        .bind(organization)
        .bind(events)
        .bind(jobs)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "delete from event_carriers c
         where c.organization_id = $1
           and c.event_id = any ($2)
           and not exists (select from event_carriers o
                           where o.organization_id = $1 and o.event_id = c.event_id and o.job_id <> c.job_id)",
    )
    .bind(organization)
    .bind(events)
    .execute(connection)
    .await?;
    Ok(())
}

/// What hangs on events, then the events: `(table, statement)`; `$1` organization, `$2` events.
const OF_EVENTS: [(&str, &str); 9] = [
    (
        "finding_evidence",
        "delete from finding_evidence v
         using findings f
         where f.organization_id = $1
           and f.event_id = any ($2)
           and v.organization_id = $1
           and v.finding_id = f.id",
    ),
    ("findings", "delete from findings where organization_id = $1 and event_id = any ($2)"),
    ("shown_events", "delete from shown_events where organization_id = $1 and event_id = any ($2)"),
    ("event_subjects", "delete from event_subjects where organization_id = $1 and event_id = any ($2)"),
    ("event_carriers", "delete from event_carriers where organization_id = $1 and event_id = any ($2)"),
    ("patient_links", "delete from patient_links where organization_id = $1 and event_id = any ($2)"),
    ("event_sightings", "delete from event_sightings where organization_id = $1 and event_id = any ($2)"),
    ("athena_events", "delete from athena_events where organization_id = $1 and id = any ($2)"),
    ("clinical_events", "delete from clinical_events where organization_id = $1 and id = any ($2)"),
];

/// Delete events with all that hangs on them: rows by table.
pub async fn delete(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
) -> Result<Vec<(&'static str, u64)>, DbError> {
    let mut counts = Vec::with_capacity(OF_EVENTS.len() + 1);
    // Taken from the statistics with the event.
    sqlx::query(
        "insert into athena_counts (organization_id, minute, measure, name, n)
         select $1, date_trunc('minute', received_at), 'received', kind, -count(*)
         from athena_events
         where organization_id = $1
           and id = any ($2)
         group by 2, 4",
    )
    .bind(organization)
    .bind(events)
    .execute(&mut *connection)
    .await?;
    for (table, sql) in OF_EVENTS {
        let done = sqlx::query(sql).bind(organization).bind(events).execute(&mut *connection).await?;
        counts.push((table, done.rows_affected()));
    }
    Ok(counts)
}

/// Of each of these resources the version that ranks highest is current.
pub async fn rank(
    connection: &mut PgConnection,
    organization: OrganizationId,
    resources: &[(&str, &str, &str)],
) -> Result<(Vec<EventId>, Vec<EventId>), DbError> {
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
         ) v
         where v.is_current <> v.is_best",
    );
    let versions: Vec<(EventId, bool, bool)> = query
        .bind(organization)
        .bind(resources.iter().map(|(source, _, _)| *source).collect::<Vec<_>>())
        .bind(resources.iter().map(|(_, kind, _)| *kind).collect::<Vec<_>>())
        .bind(resources.iter().map(|(_, _, key)| *key).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let (down, up): (Vec<_>, Vec<_>) = versions.into_iter().partition(|(_, is_current, _)| *is_current);
    Ok((down.into_iter().map(|(id, ..)| id).collect(), up.into_iter().map(|(id, ..)| id).collect()))
}

/// Athena events that another job brought too are that job's.
pub async fn hand_over_athena(
    connection: &mut PgConnection,
    organization: OrganizationId,
    carriers: &[Carrier],
    jobs: &[JobId],
) -> Result<(), DbError> {
    let ids: Vec<EventId> = carriers.iter().map(|one| one.event_id).collect();
    sqlx::query(
        "update athena_events a
         set job_id = k.job_id, payload_sha256 = k.sha256,
             captured_at = coalesce((select s.captured_at from event_sightings s
                                     where s.organization_id = $1 and s.event_id = k.id and s.job_id = k.job_id limit 1), a.captured_at)
         from unnest($2::uuid[], $3::uuid[], $4::bytea[]) as k (id, job_id, sha256)
         where a.organization_id = $1
           and a.id = k.id",
    )
    .bind(organization)
    .bind(&ids)
    .bind(carriers.iter().map(|one| one.job_id).collect::<Vec<_>>())
    .bind(carriers.iter().map(|one| one.payload_sha256.as_slice()).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    sqlx::query("delete from event_sightings where organization_id = $1 and event_id = any ($2) and job_id = any ($3)")
        .bind(organization)
        .bind(&ids)
        .bind(jobs)
        .execute(connection)
        .await?;
    Ok(())
}
