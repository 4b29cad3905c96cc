//! SQL of erasing events, where persons are concerned: statements that nobody says any more, questions that nobody asks, and patients of
//! whom nothing is left.

use crate::db::DbError;
use crate::ids::{EventId, OrganizationId, PatientId, ReviewId, StatementId};
use sqlx::PgConnection;
use std::collections::HashSet;

/// Who says these statements first, of those events that are there.
pub async fn sayers(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statements: &[StatementId],
) -> Result<Vec<(StatementId, EventId, i64, i32)>, DbError> {
    let query = sqlx::query_as(
        "select distinct on (statement_id) statement_id, id, coalesce(first_seq, job_seq), coalesce(entry, 2147483647)
         from clinical_events
         where organization_id = $1
           and resource_type = 'Patient'
           and statement_id = any ($2)
         order by statement_id, 3, 4, id",
    );
    Ok(query.bind(organization).bind(statements).fetch_all(connection).await?)
}

/// Statements that nobody says any more, with their keys and the questions about them. How many statements and reviews.
pub async fn delete_statements(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statements: &[StatementId],
) -> Result<(u64, u64), DbError> {
    sqlx::query("delete from patient_statement_keys where organization_id = $1 and statement_id = any ($2)")
        .bind(organization)
        .bind(statements)
        .execute(&mut *connection)
        .await?;
    let reviews = sqlx::query("delete from reviews where organization_id = $1 and statement_id = any ($2)")
        .bind(organization)
        .bind(statements)
        .execute(&mut *connection)
        .await?;
    let done = sqlx::query("delete from patient_statements where organization_id = $1 and id = any ($2)")
        .bind(organization)
        .bind(statements)
        .execute(connection)
        .await?;
    Ok((done.rows_affected(), reviews.rows_affected()))
}

/// The event that a statement names is the one that says it first.
pub async fn name_sayers(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sayers: &[(StatementId, EventId, i64, i32)],
) -> Result<(), DbError> {
    sqlx::query(
        "update patient_statements s
         set event_id = k.event_id
         from unnest($2::uuid[], $3::uuid[]) as k (id, event_id)
         where s.organization_id = $1
           and s.id = k.id
           and s.event_id <> k.event_id",
    )
    .bind(organization)
    .bind(sayers.iter().map(|(statement, ..)| *statement).collect::<Vec<_>>())
    .bind(sayers.iter().map(|(_, event, ..)| *event).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "update reviews r
         set event_id = s.event_id
         from patient_statements s
         where s.organization_id = $1
           and s.id = any ($2)
           and r.organization_id = $1
           and r.statement_id = s.id
           and r.event_id <> s.event_id",
    )
    .bind(organization)
    .bind(sayers.iter().map(|(statement, ..)| *statement).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Questions that events asked which are gone, or have other keys now (`asked`: of the keys that they had): another event that waits for
/// the answer asks them now, or nobody.
pub async fn settle_reviews(
    connection: &mut PgConnection,
    organization: OrganizationId,
    gone: &[EventId],
    asked: &[Vec<u8>],
) -> Result<u64, DbError> {
    sqlx::query(
        "update reviews r
         set event_id = other.id
         from reviews q
         cross join lateral (
           select e.id
           from clinical_events e
           where e.organization_id = $1
             and e.link_status = 'review'
             and e.subject_key = any (q.subject_keys)
             -- The same question: about these keys, and no others.
             and array(select key from event_subjects s where s.organization_id = $1 and s.event_id = e.id
                       union select e.subject_key order by 1)
                 = array(select key from unnest(q.subject_keys) as u (key) order by 1)
           order by e.id
           limit 1
         ) other
         where q.organization_id = $1
           -- By two indexes, not by the whole table.
           and q.id = any (array(select a.id from reviews a where a.organization_id = $1 and a.event_id = any ($2)
                                 union select b.id from reviews b where b.organization_id = $1 and b.fingerprint = any ($3)))
           and q.statement_id is null
           and r.organization_id = $1
           and r.id = q.id",
    )
    .bind(organization)
    .bind(gone)
    .bind(asked)
    .execute(&mut *connection)
    .await?;
    let done = sqlx::query(
        "delete from reviews r
         where r.organization_id = $1
           and r.id = any (array(select a.id from reviews a where a.organization_id = $1 and a.event_id = any ($2)
                                 union select b.id from reviews b where b.organization_id = $1 and b.fingerprint = any ($3)))
           and (r.event_id = any ($2)
                or (r.fingerprint = any ($3)
                    and r.statement_id is null
                    and r.status = 'open'
                    and not exists (select from clinical_events e
                                    where e.organization_id = $1 and e.id = r.event_id and e.link_status = 'review'
                                      and array(select key from event_subjects s where s.organization_id = $1 and s.event_id = e.id
                                                union select e.subject_key order by 1)
                                          = array(select key from unnest(r.subject_keys) as u (key) order by 1))))",
    )
    .bind(organization)
    .bind(gone)
    .bind(asked)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Patients of whom nothing is left: no statement, no event, nobody who was merged into them. A patient who stays without anything that
/// speaks of them shows no demographics of events that are gone. `came_apart`: what had joined patients went, so that ids which led to the
/// joined one, but by no person's decision, lead nowhere any more. Who was deleted.
pub async fn clear_patients(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patients: &[PatientId],
    gone: &[EventId],
    came_apart: bool,
) -> Result<Vec<PatientId>, DbError> {
    if came_apart {
        sqlx::query(
            "delete from patients p
             where p.organization_id = $1
               and p.merged_into = any ($2)
               and not exists (select from patient_statements s where s.organization_id = $1 and s.patient_id = p.id)
               and not exists (select from clinical_events e where e.organization_id = $1 and e.patient_id = p.id)
               and not exists (select from patients m where m.organization_id = $1 and m.merged_into = p.id)
               and not exists (select from link_decisions d
                               where d.organization_id = $1 and d.patient_id = p.id and d.kind = 'merge')",
        )
        .bind(organization)
        .bind(patients)
        .execute(&mut *connection)
        .await?;
    }
    let query = sqlx::query_scalar(
        "delete from patients p
         where p.organization_id = $1
           and p.id = any ($2)
           and not exists (select from patient_statements s where s.organization_id = $1 and s.patient_id = p.id)
           and not exists (select from clinical_events e where e.organization_id = $1 and e.patient_id = p.id)
           and not exists (select from patients m where m.organization_id = $1 and m.merged_into = p.id)
         returning p.id",
    );
    let deleted: Vec<PatientId> = query.bind(organization).bind(patients).fetch_all(&mut *connection).await?;
    sqlx::query(
        "with recursive person (id) as (
           select id
           from unnest($2::uuid[]) as k (id)
           union
           -- Who was merged into one of them keeps the demographics that it had.
           select p.id
           from person k
           join patients p on p.organization_id = $1 and p.merged_into = k.id
         )
         update patients
         set event_id = null, event_last_updated = null, family = null, given = '{}', birth_date = null, gender = null,
             deceased = null, telecom = null, address = null, updated_at = chartgate_now()
         where organization_id = $1
           and id = any (array(select id from person))
           and event_id = any ($3)",
    )
    .bind(organization)
    .bind(patients)
    .bind(gone)
    .execute(&mut *connection)
    .await?;
    Ok(deleted)
}

/// Questions whether somebody is one of those who are gone are asked no longer. Reads all open ones: once an erasure. How many went.
///
/// # Errors
/// A [`DbError`].
pub async fn take_back(connection: &mut PgConnection, organization: OrganizationId) -> Result<u64, DbError> {
    // Ids of patients in JSON are texts with a prefix: compared as such.
    let query = sqlx::query_scalar(
        "select distinct c ->> 'patient'
         from reviews r
         cross join lateral jsonb_array_elements(r.candidates) c
         where r.organization_id = $1
           and r.status = 'open'
           and c ->> 'patient' is not null",
    );
    let named: Vec<String> = query.bind(organization).fetch_all(&mut *connection).await?;
    let ids: Vec<PatientId> = named.iter().filter_map(|text| text.parse().ok()).collect();
    let query = sqlx::query_scalar("select id from patients where organization_id = $1 and id = any ($2)");
    let there: HashSet<PatientId> =
        query.bind(organization).bind(&ids).fetch_all(&mut *connection).await?.into_iter().collect();
    let gone: Vec<String> = ids.iter().filter(|id| !there.contains(id)).map(ToString::to_string).collect();
    if gone.is_empty() {
        return Ok(0);
    }
    let query = sqlx::query_scalar(
        "update reviews r
         set candidates = (select coalesce(jsonb_agg(c), '[]')
                           from jsonb_array_elements(r.candidates) c
                           where c ->> 'patient' <> all ($2))
         where r.organization_id = $1
           and r.status = 'open'
           and exists (select from jsonb_array_elements(r.candidates) c where c ->> 'patient' = any ($2))
         returning r.id",
    );
    let changed: Vec<ReviewId> = query.bind(organization).bind(&gone).fetch_all(&mut *connection).await?;
    let done = sqlx::query(
        "delete from reviews
         where organization_id = $1
           and id = any ($2)
           and reason in ('possible_duplicate', 'no_identity')
           and candidates = '[]'",
    )
    .bind(organization)
    .bind(&changed)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Count anew what these patients have.
pub async fn count_anew(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patients: &[PatientId],
) -> Result<(), DbError> {
    sqlx::query("delete from patient_event_counts where organization_id = $1 and patient_id = any ($2)")
        .bind(organization)
        .bind(patients)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "insert into patient_event_counts (organization_id, patient_id, source_label, events, last_event_at)
         select $1, k.id, e.source_label, count(*) filter (where e.is_current and e.part_of is null), max(e.created_at)
         from unnest($2::uuid[]) as k (id)
         join clinical_events e on e.organization_id = $1 and e.patient_id = k.id
         group by k.id, e.source_label
         order by k.id, e.source_label",
    )
    .bind(organization)
    .bind(patients)
    .execute(connection)
    .await?;
    Ok(())
}
