//! SQL of erasing a patient: which payloads tell of them, which of these tell of others too, and what is left of them at the end.

use crate::db::DbError;
use crate::ids::{JobId, OrganizationId, PatientId};
use sqlx::PgConnection;

/// The patient, and all who were merged into them.
pub async fn persons(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patient: PatientId,
) -> Result<Vec<PatientId>, DbError> {
    let query = sqlx::query_scalar(
        "with recursive person (id) as (
           select $2::uuid
           union
           select p.id
           from person k
           join patients p on p.organization_id = $1 and p.merged_into = k.id
         )
         select id from person order by id",
    );
    Ok(query.bind(organization).bind(patient).fetch_all(connection).await?)
}

/// Lock the payloads that brought, first or again, what is linked to them: their hashes, in the order of locking. Those that were erased
/// before are not among them.
pub async fn lock_payloads_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    persons: &[PatientId],
) -> Result<Vec<Vec<u8>>, DbError> {
    sqlx::query("set local statement_timeout = '10min'").execute(&mut *connection).await?;
    let query = sqlx::query_scalar(
        "with told as (
           select id, payload_sha256
           from clinical_events
           where organization_id = $1
             and patient_id = any ($2)
           union
           -- What says that there is such a person.
           select e.id, e.payload_sha256
           from patient_statements s
           join clinical_events e
             on e.organization_id = $1 and e.statement_id = s.id and e.resource_type = 'Patient'
           where s.organization_id = $1
             and s.patient_id = any ($2)
         ), hashes as (
           select payload_sha256 as sha256
           from told
           union
           select c.payload_sha256
           from told t
           join event_carriers c on c.organization_id = $1 and c.event_id = t.id
         )
         select p.sha256
         from payloads p
         where p.organization_id = $1
           and p.purged_at is null
           and p.sha256 = any (array(select sha256 from hashes))
         order by p.sha256
         for update",
    );
    Ok(query.bind(organization).bind(persons).fetch_all(connection).await?)
}

/// How many payloads of these jobs tell of somebody else as well: an event that is linked to another patient, or that has a subject and is
/// linked to nobody (yet).
pub async fn shared(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &[JobId],
    persons: &[PatientId],
) -> Result<i64, DbError> {
    let query = sqlx::query_scalar(
        "with brought as (
           select payload_sha256, id
           from clinical_events
           where organization_id = $1
             and job_id = any ($2)
           union all
           select payload_sha256, event_id
           from event_carriers
           where organization_id = $1
             and job_id = any ($2)
         )
         select count(distinct b.payload_sha256)
         from brought b
         join clinical_events e on e.organization_id = $1 and e.id = b.id
         where case when e.patient_id is not null then e.patient_id <> all ($3)
                    else e.subject_key is not null
                         or e.resource_type = 'Patient'
                         or exists (select from event_subjects s where s.organization_id = $1 and s.event_id = e.id) end",
    );
    Ok(query.bind(organization).bind(jobs).bind(persons).fetch_one(connection).await?)
}

/// What is left of persons of whom nothing tells any more: their ids, and to whom they led. How many.
pub async fn forget(
    connection: &mut PgConnection,
    organization: OrganizationId,
    persons: &[PatientId],
) -> Result<u64, DbError> {
    let done = sqlx::query(
        "delete from patients p
         where p.organization_id = $1
           and p.id = any ($2)
           and not exists (select from patient_statements s where s.organization_id = $1 and s.patient_id = p.id)
           and not exists (select from clinical_events e where e.organization_id = $1 and e.patient_id = p.id)
           and not exists (select from patients m
                           where m.organization_id = $1 and m.merged_into = p.id and m.id <> all ($2))",
    )
    .bind(organization)
    .bind(persons)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "delete from patient_event_counts c
         where c.organization_id = $1
           and c.patient_id = any ($2)
           and not exists (select from patients p where p.organization_id = $1 and p.id = c.patient_id)",
    )
    .bind(organization)
    .bind(persons)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// That what is somebody else's now was linked to them once. How many.
pub async fn forget_links(
    connection: &mut PgConnection,
    organization: OrganizationId,
    persons: &[PatientId],
) -> Result<u64, DbError> {
    // Reads the organization's links: there is no index for what is asked so rarely.
    sqlx::query("set local statement_timeout = '10min'").execute(&mut *connection).await?;
    let done = sqlx::query("delete from patient_links where organization_id = $1 and patient_id = any ($2)")
        .bind(organization)
        .bind(persons)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// That they were a possible answer to a question, or the answer; also of questions that were decided.
pub async fn forget_in_reviews(
    connection: &mut PgConnection,
    organization: OrganizationId,
    persons: &[PatientId],
) -> Result<(), DbError> {
    let texts: Vec<String> = persons.iter().map(ToString::to_string).collect();
    sqlx::query(
        "update reviews r
         set candidates = (select coalesce(jsonb_agg(c), '[]')
                           from jsonb_array_elements(r.candidates) c
                           where c ->> 'patient' <> all ($3)),
             patient_id = case when r.patient_id = any ($2) then null else r.patient_id end
         where r.organization_id = $1
           and (r.patient_id = any ($2)
                or exists (select from jsonb_array_elements(r.candidates) c where c ->> 'patient' = any ($3)))",
    )
    .bind(organization)
    .bind(persons)
    .bind(&texts)
    .execute(connection)
    .await?;
    Ok(())
}
