//! SQL of erasures.

use super::objects_store::{self, Again};
use super::person_store;
use crate::db::{DbError, ensure_one_row};
use crate::ids::{ErasureId, EventId, JobId, OrganizationId, PatientId};
use crate::ingest::linking::acts::By;
use crate::ingest::linking::erase::{self, Counts};
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
    /// It ended within a day: a worker may not know it yet.
    pub is_recent: bool,
}

/// What is decided.
pub struct Decision<'a> {
    /// payload, patient, retention
    pub kind: &'static str,
    /// The payload, if it is one.
    pub payload: Option<&'a [u8]>,
    /// The patient, if it is one.
    pub patient: Option<PatientId>,
    /// The payloads whose content goes.
    pub payloads: &'a [Vec<u8>],
    /// The jobs whose events go.
    pub jobs: &'a [JobId],
    /// The patient, with all who were merged into them.
    pub persons: &'a [PatientId],
}

/// What was decided.
#[derive(sqlx::FromRow)]
pub struct Marked {
    /// The erasure.
    pub id: ErasureId,
    /// The jobs whose events go.
    pub jobs: Vec<JobId>,
    /// The patient, with all who were merged into them.
    pub persons: Vec<PatientId>,
    /// The patient.
    pub patient_id: Option<PatientId>,
    /// How many payloads go.
    pub payload_count: i64,
    /// So far.
    pub counts: Json<Counts>,
    /// It was decided just now, not before.
    #[sqlx(skip)]
    pub is_new: bool,
}

/// An erasure.
#[derive(sqlx::FromRow)]
pub struct ErasureRow {
    /// payload, patient, retention
    pub kind: String,
    /// rows, objects, finished
    pub status: String,
    /// The payload, if it is one.
    pub payload_sha256: Option<Vec<u8>>,
    /// The patient, if it is one.
    pub patient_id: Option<PatientId>,
    /// The payloads whose content goes.
    pub payloads: Vec<Vec<u8>>,
    /// The jobs whose events go.
    pub jobs: Vec<JobId>,
    /// The patient, with all who were merged into them.
    pub persons: Vec<PatientId>,
    /// So far.
    pub counts: Json<Counts>,
    /// Why.
    pub reason: String,
    /// Who decided.
    pub actor: String,
    /// Retention: how far it has walked.
    #[sqlx(flatten)]
    pub place: Place,
}

/// How far retention has walked through what the jobs of an erasure brought.
#[derive(Debug, Default, Clone, Copy, sqlx::FromRow)]
pub struct Place {
    /// The last job that was looked at.
    pub at_job: Option<JobId>,
    /// The last of its events.
    pub at_event: Option<EventId>,
    /// Something went in this walk: another one follows.
    pub took: bool,
}

impl Place {
    /// The last job and event that were looked at; none: the walk begins.
    pub fn after(&self) -> Option<(JobId, EventId)> {
        self.at_job.zip(self.at_event)
    }
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

/// Of bytes that were copied to object storage, or were about to be, when their job was cancelled there is no row. It is made, as of bytes
/// that are not there, so that they can be erased like others; nothing, if no upload had them.
pub async fn adopt_payload(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8; 32],
) -> Result<(), DbError> {
    lock_unknown(connection, organization, sha256).await?;
    sqlx::query(
        "insert into payloads (organization_id, sha256, size_bytes, content_type, created_at, expired_at)
         select organization_id, payload_sha256, coalesce(size_bytes, 0), coalesce(content_type, 'application/octet-stream'), created_at,
                chartgate_now()
         from jobs
         where organization_id = $1
           and payload_sha256 = $2
           and source = 'upload'
         order by id
         limit 1
         on conflict do nothing",
    )
    .bind(organization)
    .bind(sha256.as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

/// Of bytes that have no row yet: an erasure and a file that is read come one after the other, until the transaction ends.
///
/// # Errors
/// A [`DbError`].
pub async fn lock_unknown(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8; 32],
) -> Result<(), DbError> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('chartgate.payload:' || $1::uuid::text || encode($2, 'hex'), 0))")
        .bind(organization)
        .bind(sha256.as_slice())
        .execute(connection)
        .await?;
    Ok(())
}

/// All jobs of these payloads, as they are; nobody begins another round of theirs until the transaction ends. Reads the organization's
/// jobs: there is no index for what is asked so rarely.
pub async fn jobs_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    payloads: &[Vec<u8>],
) -> Result<Vec<PayloadJob>, DbError> {
    sqlx::query("set local statement_timeout = '10min'").execute(&mut *connection).await?;
    let query = sqlx::query_scalar(
        "select id
         from jobs
         where organization_id = $1
           and payload_sha256 = any ($2)",
    );
    let ids: Vec<JobId> = query.bind(organization).bind(payloads).fetch_all(&mut *connection).await?;
    // Reading them took seconds, in which somebody may have tried one again.
    let query = sqlx::query_as(
        "select id, status in ('queued', 'awaiting_upload') as is_live, source = 'upload' as is_upload,
                coalesce(finished_at > chartgate_now() - interval '1 day', true) as is_recent
         from jobs
         where organization_id = $1
           and id = any ($2)
         order by id
         for share",
    );
    Ok(query.bind(organization).bind(&ids).fetch_all(connection).await?)
}

/// Write the decision down.
pub async fn begin(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    decision: &Decision<'_>,
    by: &By,
) -> Result<(), DbError> {
    sqlx::query(
        "insert into erasures (organization_id, id, kind, status, payload_sha256, patient_id, payloads, jobs, persons, reason, actor,
                               created_at)
         values ($1, $2, $3, 'rows', $4, $5, $6, $7, $8, $9, $10, chartgate_now())",
    )
    .bind(organization)
    .bind(id)
    .bind(decision.kind)
    .bind(decision.payload)
    .bind(decision.patient)
    .bind(decision.payloads)
    .bind(decision.jobs)
    .bind(decision.persons)
    .bind(&by.reason)
    .bind(&by.actor.name)
    .execute(connection)
    .await?;
    Ok(())
}

/// The rows stay without their content; how many.
pub async fn empty_payloads(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    payloads: &[Vec<u8>],
) -> Result<u64, DbError> {
    let done = sqlx::query(
        "update payloads
         set body = null, storage_key = null, stored_at = null, expired_at = null, purged_at = chartgate_now(), erasure_id = $2
         where organization_id = $1
           and sha256 = any ($3)",
    )
    .bind(organization)
    .bind(id)
    .bind(payloads)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// What a [`Marked`] is read from.
const MARKED: &str =
    "e.id, e.jobs, e.persons, e.patient_id, cardinality(e.payloads)::bigint as payload_count, e.counts";

/// The erasure that took a payload's content.
pub async fn of_payload(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8; 32],
) -> Result<Option<Marked>, DbError> {
    let sql = format!(
        "select {MARKED}
         from payloads p
         join erasures e on e.organization_id = p.organization_id and e.id = p.erasure_id
         where p.organization_id = $1
           and p.sha256 = $2"
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql));
    Ok(query.bind(organization).bind(sha256.as_slice()).fetch_optional(connection).await?)
}

/// The newest erasure of a patient; only one that goes on, if `unfinished`.
pub async fn of_patient(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patient: PatientId,
    unfinished: bool,
) -> Result<Option<Marked>, DbError> {
    let sql = format!(
        "select {MARKED}
         from erasures e
         where e.organization_id = $1
           and e.patient_id = $2
           and (e.status <> 'finished' or not $3)
         order by e.id desc
         limit 1"
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql));
    Ok(query.bind(organization).bind(patient).bind(unfinished).fetch_optional(connection).await?)
}

/// What an [`ErasureRow`] is read from.
const COLUMNS: &str =
    "kind, status, payload_sha256, patient_id, payloads, jobs, persons, counts, reason, actor, at_job, at_event, took";

/// One erasure; locked until the transaction ends, if `for_update`.
pub async fn erasure(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    for_update: bool,
) -> Result<ErasureRow, DbError> {
    let lock = if for_update { "for update" } else { "" };
    let sql = format!(
        "select {COLUMNS}
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
const OF_JOBS: [(&str, &str); 2] = [
    ("issues", "delete from issues where organization_id = $1 and job_id = any ($2)"),
    ("bulk_plans", "delete from bulk_plans where organization_id = $1 and job_id = any ($2)"),
];

/// Delete what jobs say beside the events: rows by table; with Athena events that were never processed.
pub async fn clear_jobs(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &[JobId],
) -> Result<Vec<(&'static str, u64)>, DbError> {
    let mut counts = clear_athena(connection, organization, jobs).await?;
    for (table, sql) in OF_JOBS {
        let done = sqlx::query(sql).bind(organization).bind(jobs).execute(&mut *connection).await?;
        counts.push((table, done.rows_affected()));
    }
    Ok(counts)
}

/// What is left of Athena events when their clinical events are gone: rows by table.
pub async fn clear_athena(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &[JobId],
) -> Result<Vec<(&'static str, u64)>, DbError> {
    // Sightings of events that others brought first; the others went with their events. The key of an event's job knows its content.
    let sightings = sqlx::query(
        "delete from event_sightings s
         using idempotency_keys k, athena_events a
         where k.organization_id = $1
           and k.job_id = any ($2)
           and a.organization_id = $1
           and a.idempotency_sha256 = k.fingerprint
           and s.organization_id = $1
           and s.event_id = a.id
           and s.job_id = k.job_id",
    );
    let sightings = sightings.bind(organization).bind(jobs).execute(&mut *connection).await?;
    // Of an event whose job failed there is no clinical event.
    let unprocessed = sqlx::query(
        "with gone as (
           delete from athena_events a
           using idempotency_keys k
           where k.organization_id = $1
             and k.job_id = any ($2)
             and a.organization_id = $1
             and a.idempotency_sha256 = k.fingerprint
             and a.job_id = k.job_id
             and not exists (select from clinical_events e where e.organization_id = $1 and e.id = a.id)
           returning a.received_at, a.kind
         )
         insert into athena_counts (organization_id, minute, measure, name, n)
         select $1, date_trunc('minute', received_at), 'received', kind, -1 from gone",
    );
    let unprocessed = unprocessed.bind(organization).bind(jobs).execute(connection).await?;
    Ok(vec![("event_sightings", sightings.rows_affected()), ("athena_events", unprocessed.rows_affected())])
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

/// Nothing is left to delete: the erasure is finished. Nothing, if something is left, or somebody else finished it.
pub async fn finish(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
) -> Result<Option<ErasureRow>, DbError> {
    let sql = format!(
        "update erasures
         set status = 'finished', finished_at = chartgate_now()
         where organization_id = $1
           and id = $2
           and status = 'objects'
           and not exists (select from erased_objects o
                           where o.organization_id = $1 and o.erasure_id = $2 and o.gone_at is null)
         returning {COLUMNS}"
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql));
    Ok(query.bind(organization).bind(id).fetch_optional(connection).await?)
}

/// All organizations.
pub async fn organizations(connection: &mut PgConnection) -> Result<Vec<OrganizationId>, DbError> {
    Ok(sqlx::query_scalar("select id from organizations order by id").fetch_all(connection).await?)
}

/// From here on as this organization.
async fn enter(connection: &mut PgConnection, organization: OrganizationId) -> Result<(), DbError> {
    sqlx::query("select set_config('app.organization', array[$1::uuid]::text, true)")
        .bind(organization)
        .execute(connection)
        .await?;
    Ok(())
}

/// Erasures of all organizations that go on and were decided so long ago: of each at most a hundred, oldest first, those that could not go
/// on last.
pub async fn unfinished(connection: &mut PgConnection, age_seconds: f64) -> Result<Vec<Unfinished>, DbError> {
    let mut found = Vec::new();
    for organization in organizations(connection).await? {
        enter(connection, organization).await?;
        let query = sqlx::query_as(
            "select organization_id, id, actor, reason
             from erasures
             where organization_id = $1
               and status <> 'finished'
               and created_at <= chartgate_now() - make_interval(secs => $2)
             order by failed_at nulls first, id
             limit 100",
        );
        found.extend(query.bind(organization).bind(age_seconds).fetch_all(&mut *connection).await?);
    }
    Ok(found)
}

/// How many erasures of all organizations are not finished so long behind their decision.
pub async fn late(connection: &mut PgConnection, age_seconds: f64) -> Result<i64, DbError> {
    let mut late = 0;
    for organization in organizations(connection).await? {
        enter(connection, organization).await?;
        let query = sqlx::query_scalar::<_, i64>(
            "select count(*)
             from erasures
             where organization_id = $1
               and status <> 'finished'
               and created_at < chartgate_now() - make_interval(secs => $2)",
        );
        late += query.bind(organization).bind(age_seconds).fetch_one(&mut *connection).await?;
    }
    Ok(late)
}

/// Objects of all organizations that are to be looked for once more: of each at most so many.
pub async fn due_again(connection: &mut PgConnection, limit: i32) -> Result<Vec<Again>, DbError> {
    let mut found = Vec::new();
    for organization in organizations(connection).await? {
        enter(connection, organization).await?;
        found.extend(objects_store::due_again(connection, organization, limit).await?);
    }
    Ok(found)
}

/// It cannot go on now; others come first.
pub async fn set_failed(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
) -> Result<(), DbError> {
    let done = sqlx::query("update erasures set failed_at = chartgate_now() where organization_id = $1 and id = $2")
        .bind(organization)
        .bind(id)
        .execute(connection)
        .await?;
    ensure_one_row(&done)
}

/// Retention has walked so far.
pub async fn set_place(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: ErasureId,
    place: &Place,
) -> Result<(), DbError> {
    let done =
        sqlx::query("update erasures set at_job = $3, at_event = $4, took = $5 where organization_id = $1 and id = $2")
            .bind(organization)
            .bind(id)
            .bind(place.at_job)
            .bind(place.at_event)
            .bind(place.took)
            .execute(connection)
            .await?;
    ensure_one_row(&done)
}

/// What is left of persons when the last event went: rows by table.
pub async fn last(
    connection: &mut PgConnection,
    organization: OrganizationId,
    persons: &[PatientId],
    counts: &Counts,
) -> Result<Vec<(&'static str, u64)>, DbError> {
    let mut last = vec![("patients", person_store::forget(connection, organization, persons).await?)];
    if last[0].1 > 0 || counts.get("patients").is_some_and(|count| *count > 0) {
        last.push(("reviews", erase::take_back(connection, organization).await?));
    }
    if !persons.is_empty() {
        last.push(("patient_links", person_store::forget_links(connection, organization, persons).await?));
        person_store::forget_in_reviews(connection, organization, persons).await?;
    }
    Ok(last)
}
