//! SQL on events whose link depends on a statement or a key.

use crate::db::DbError;
use crate::ids::{EventId, OrganizationId, PatientId, StatementId};
use crate::ingest::events::LinkStatus;
use serde_json::Value;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};

/// An event that may have to be linked anew.
#[derive(Clone, sqlx::FromRow)]
pub struct Dependent {
    /// Its id.
    pub id: EventId,
    /// `Patient` follows its own statement.
    pub resource_type: String,
    /// The statement that it is, or that its subject is.
    pub statement_id: Option<StatementId>,
    /// The key of its subject.
    pub subject_key: Option<String>,
    /// All its keys, if it has more than one.
    pub keys: Vec<String>,
    /// What it says of a person: of a Patient resource, or of one that is contained.
    pub demographics: Option<Value>,
    /// The lowest position of a job that brought it.
    pub first_seq: i64,
    /// A person decided.
    pub link_pinned: bool,
    /// As it is.
    pub link_status: String,
    /// As it is.
    pub patient_id: Option<PatientId>,
}

impl Dependent {
    /// All its keys.
    pub fn all_keys(&self) -> BTreeSet<String> {
        self.keys.iter().chain(&self.subject_key).cloned().collect()
    }

    /// As it is.
    pub fn status(&self) -> LinkStatus {
        LinkStatus::stored(&self.link_status, self.patient_id)
    }
}

/// What changed.
#[derive(Default)]
pub struct Affected {
    /// Keys that mean something now, or something else than before.
    pub keys: Vec<String>,
    /// Statements that are somewhere else than before.
    pub statements: Vec<StatementId>,
    /// Patients whose events by these keys and statements may be somebody else's.
    pub patients: Vec<PatientId>,
    /// Events that mean another subject than before.
    pub events: Vec<EventId>,
}

/// The events that depend on what changed. Those that wait are found by key or statement; those that are linked, by
/// their patient.
pub async fn find(
    connection: &mut PgConnection,
    organization: OrganizationId,
    affected: &Affected,
) -> Result<Vec<Dependent>, DbError> {
    let query = sqlx::query_as(
        "select e.id, e.resource_type, e.statement_id, e.subject_key, e.demographics, coalesce(e.first_seq, e.job_seq) as first_seq,
                e.link_pinned, e.link_status, e.patient_id,
                array(select s.key from event_subjects s
                      where s.organization_id = $1 and s.event_id = e.id order by s.key) as keys
         from clinical_events e
         where e.organization_id = $1
           and e.id = any (
             array(select w.id from unnest($2::text[]) as k (key)
                   cross join lateral (select id from clinical_events
                                       where organization_id = $1 and link_status = 'pending' and subject_key = k.key
                                       offset 0) w)
             || array(select w.id from unnest($2::text[]) as k (key)
                      cross join lateral (select id from clinical_events
                                          where organization_id = $1 and link_status = 'review' and subject_key = k.key
                                          offset 0) w)
             || array(select w.event_id from unnest($2::text[]) as k (key)
                      cross join lateral (select event_id from event_subjects
                                          where organization_id = $1 and key = k.key
                                          offset 0) w)
             || array(select w.id from unnest($3::uuid[]) as k (statement_id)
                      cross join lateral (select id from clinical_events
                                          where organization_id = $1 and statement_id = k.statement_id
                                            and link_status <> 'linked'
                                          offset 0) w)
             || array(select w.id from unnest($4::uuid[]) as k (patient_id)
                      cross join lateral (select id from clinical_events
                                          where organization_id = $1 and patient_id = k.patient_id
                                            and (link_pinned or statement_id = any ($3) or subject_key = any ($2))
                                          offset 0) w)
             || $5::uuid[])
         order by e.id",
    );
    Ok(query
        .bind(organization)
        .bind(&affected.keys)
        .bind(&affected.statements)
        .bind(&affected.patients)
        .bind(&affected.events)
        .fetch_all(connection)
        .await?)
}

/// Move events to where they belong now.
pub async fn relink(
    connection: &mut PgConnection,
    organization: OrganizationId,
    moves: &[(EventId, LinkStatus, bool)],
) -> Result<(), DbError> {
    let mut by_target: BTreeMap<(&'static str, Option<PatientId>, bool), Vec<EventId>> = BTreeMap::new();
    for (event, status, is_pinned) in moves {
        by_target.entry((status.as_str(), status.patient(), *is_pinned)).or_default().push(*event);
    }
    for ((status, patient, is_pinned), events) in by_target {
        sqlx::query(
            "update clinical_events
             set link_status = $3, patient_id = $4, link_pinned = $5
             where organization_id = $1
               and id = any ($2)",
        )
        .bind(organization)
        .bind(events)
        .bind(status)
        .bind(patient)
        .bind(is_pinned)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Remember the keys of events that have more than one.
pub async fn add_subjects(
    connection: &mut PgConnection,
    organization: OrganizationId,
    subjects: &[(String, EventId)],
) -> Result<(), DbError> {
    if subjects.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into event_subjects (organization_id, key, event_id)
         select $1, k.key, k.event_id
         from unnest($2::text[], $3::uuid[]) as k (key, event_id)
         on conflict do nothing",
    )
    .bind(organization)
    .bind(subjects.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>())
    .bind(subjects.iter().map(|(_, event)| *event).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Another job, an earlier one as a rule, brought the same bytes: the first position and its Bundle's subject count.
pub async fn set_first(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: EventId,
    seq: i64,
    subject_key: Option<&str>,
    statement: Option<StatementId>,
) -> Result<(), DbError> {
    sqlx::query(
        "update clinical_events
         set first_seq = $3, subject_key = $4, statement_id = $5
         where organization_id = $1
           and id = $2
           and coalesce(first_seq, job_seq) >= $3",
    )
    .bind(organization)
    .bind(event)
    .bind(seq)
    .bind(subject_key)
    .bind(statement)
    .execute(&mut *connection)
    .await?;
    sqlx::query("delete from event_subjects where organization_id = $1 and event_id = $2")
        .bind(organization)
        .bind(event)
        .execute(connection)
        .await?;
    Ok(())
}

/// One event; of a part the event that it is part of; nothing, if the organization has none such.
pub async fn event(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: EventId,
) -> Result<Option<Dependent>, DbError> {
    let query =
        sqlx::query_scalar("select coalesce(part_of, id) from clinical_events where organization_id = $1 and id = $2");
    let whole: Option<EventId> = query.bind(organization).bind(event).fetch_optional(&mut *connection).await?;
    let affected = Affected { events: whole.into_iter().collect(), ..Affected::default() };
    Ok(find(connection, organization, &affected).await?.into_iter().next())
}

/// The keys of an event that has more than one.
pub async fn keys_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: EventId,
) -> Result<BTreeSet<String>, DbError> {
    let query = sqlx::query_scalar("select key from event_subjects where organization_id = $1 and event_id = $2");
    let keys: Vec<String> = query.bind(organization).bind(event).fetch_all(connection).await?;
    Ok(keys.into_iter().collect())
}
