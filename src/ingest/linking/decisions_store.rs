//! SQL on `link_decisions`: what persons decided, append-only.

use super::fold::Ruling;
use crate::db::DbError;
use crate::ids::{DecisionId, EventId, OrganizationId, PatientId, ReviewId, StatementId};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// What persons decided that may concern these statements.
#[derive(Clone, sqlx::FromRow)]
pub struct DecisionRow {
    /// Its id.
    pub id: DecisionId,
    /// When it was made, by the database's clock: with the id it says what came later. Ids alone are of the clock of the
    /// process that made them.
    pub created_at: OffsetDateTime,
    /// link, `new_patient`, reject, unlink, merge
    pub kind: String,
    /// Of the statement, except for a merge.
    pub fingerprint: Option<Vec<u8>>,
    /// Decided about; of a merge the one who goes.
    pub statement_id: Option<StatementId>,
    /// The same person as this statement says; of a merge the one who stays.
    pub anchor_id: Option<StatementId>,
    /// Of a merge: the patient who goes.
    pub patient_id: Option<PatientId>,
    /// Of a merge: the patient who stays.
    pub into_patient_id: Option<PatientId>,
    /// It was taken back by a later row.
    pub is_superseded: bool,
}

impl DecisionRow {
    /// What it says of a fingerprint.
    pub fn ruling(&self) -> Option<Ruling> {
        match self.kind.as_str() {
            "link" => self.anchor_id.map(Ruling::Link),
            "new_patient" => Some(Ruling::NewPatient),
            "reject" => Some(Ruling::Reject),
            "unlink" => Some(Ruling::Unlink),
            _ => None,
        }
    }
}

/// Decisions on these fingerprints, and those that name these statements, oldest first.
pub async fn decisions(
    connection: &mut PgConnection,
    organization: OrganizationId,
    fingerprints: &[&[u8]],
    statements: &[StatementId],
) -> Result<Vec<DecisionRow>, DbError> {
    let query = sqlx::query_as(
        "select d.id, d.created_at, d.kind, d.fingerprint, d.statement_id, d.anchor_id, d.patient_id, d.into_patient_id,
                exists (select 1 from link_decisions later
                        where later.organization_id = $1 and later.supersedes = d.id) as is_superseded
         from link_decisions d
         where d.organization_id = $1
           and d.id = any (
             array(select f.id from unnest($2::bytea[]) as k (fingerprint)
                   cross join lateral (select id from link_decisions
                                       where organization_id = $1 and fingerprint = k.fingerprint offset 0) f)
             || array(select s.id from unnest($3::uuid[]) as k (statement_id)
                      cross join lateral (select id from link_decisions
                                          where organization_id = $1 and statement_id = k.statement_id offset 0) s)
             || array(select a.id from unnest($3::uuid[]) as k (statement_id)
                      cross join lateral (select id from link_decisions
                                          where organization_id = $1 and anchor_id = k.statement_id offset 0) a))
         order by d.created_at, d.id",
    );
    Ok(query.bind(organization).bind(fingerprints).bind(statements).fetch_all(connection).await?)
}

/// A decision to be written.
#[derive(Clone, Default)]
pub struct NewDecision {
    /// As in the table.
    pub kind: &'static str,
    /// Of the statement or of the keys.
    pub fingerprint: Option<Vec<u8>>,
    /// Decided about.
    pub statement: Option<StatementId>,
    /// The same person as.
    pub anchor: Option<StatementId>,
    /// The patient named.
    pub patient: Option<PatientId>,
    /// Of a merge: who stays.
    pub into: Option<PatientId>,
    /// Of a decision on one event.
    pub event: Option<EventId>,
    /// The review that it answers.
    pub review: Option<ReviewId>,
    /// The decision that it takes back.
    pub supersedes: Option<DecisionId>,
}

/// Append a decision.
pub async fn record_decision(
    connection: &mut PgConnection,
    organization: OrganizationId,
    actor: &str,
    decision: &NewDecision,
) -> Result<DecisionId, DbError> {
    let id = DecisionId::new();
    sqlx::query(
        "insert into link_decisions
           (organization_id, id, kind, fingerprint, statement_id, anchor_id, patient_id, into_patient_id, event_id,
            review_id, supersedes, actor, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, chartgate_now())",
    )
    .bind(organization)
    .bind(id)
    .bind(decision.kind)
    .bind(&decision.fingerprint)
    .bind(decision.statement)
    .bind(decision.anchor)
    .bind(decision.patient)
    .bind(decision.into)
    .bind(decision.event)
    .bind(decision.review)
    .bind(decision.supersedes)
    .bind(actor)
    .execute(connection)
    .await?;
    Ok(id)
}

/// The merge by which a patient went, if it has not been taken back: the decision, and whose statements it joined.
pub async fn active_merge(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patient: PatientId,
) -> Result<Option<(DecisionId, StatementId, StatementId)>, DbError> {
    let query = sqlx::query_as(
        "select d.id, d.statement_id, d.anchor_id
         from link_decisions d
         where d.organization_id = $1
           and d.patient_id = $2
           and d.kind = 'merge'
           and not exists (select 1 from link_decisions later
                           where later.organization_id = $1 and later.supersedes = d.id)
         order by d.created_at desc, d.id desc
         limit 1",
    );
    Ok(query.bind(organization).bind(patient).fetch_optional(connection).await?)
}

/// Events that a person gave to this patient or to one who is merged into it, and that nobody took away since: all versions
/// of their resources, also those that came later.
pub async fn events_given(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patient: PatientId,
) -> Result<Vec<EventId>, DbError> {
    let query = sqlx::query_scalar(
        "with recursive given (id, depth) as (
           select $2::uuid, 0
           union
           select p.id, g.depth + 1
           from given g
           join patients p on p.organization_id = $1 and p.merged_into = g.id
           -- A bound against a circle, which no code makes.
           where g.depth < 100
         )
         select distinct v.id
         from link_decisions d
         join clinical_events e on e.organization_id = $1 and e.id = d.event_id
         join clinical_events v
           on v.organization_id = $1
          and v.source_label = e.source_label
          and v.resource_type = e.resource_type
          and v.resource_key = e.resource_key
          and v.link_pinned
          and v.link_status = 'linked'
          and v.patient_id <> $2
         where d.organization_id = $1
           and d.patient_id = any (array(select id from given))
           and d.kind = 'event_link'
           and not exists (select 1
                           from clinical_events w
                           join link_decisions later on later.organization_id = $1 and later.event_id = w.id
                           where w.organization_id = $1
                             and w.source_label = e.source_label
                             and w.resource_type = e.resource_type
                             and w.resource_key = e.resource_key
                             and later.kind in ('event_link', 'event_unlink')
                             and (later.created_at, later.id) > (d.created_at, d.id))",
    );
    Ok(query.bind(organization).bind(patient).fetch_all(connection).await?)
}

/// What a person said last about any version of an event's resource: given to whom, or taken from whom.
pub async fn last_placed(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: EventId,
) -> Result<Option<(String, Option<PatientId>)>, DbError> {
    let query = sqlx::query_as(
        "select d.kind, d.patient_id
         from clinical_events e
         join clinical_events v
           on v.organization_id = $1
          and v.source_label = e.source_label
          and v.resource_type = e.resource_type
          and v.resource_key = e.resource_key
         join link_decisions d on d.organization_id = $1 and d.event_id = v.id and d.kind in ('event_link', 'event_unlink')
         where e.organization_id = $1
           and e.id = $2
         order by d.created_at desc, d.id desc
         limit 1",
    );
    Ok(query.bind(organization).bind(event).fetch_optional(connection).await?)
}
