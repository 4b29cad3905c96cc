//! SQL of the clinical view.

use super::{CATEGORIES, ClinicalQuery, ITEMS_MAX, Whose, waiting_key};
use crate::db::DbError;
use crate::ids::{EventId, FindingId, OrganizationId, PatientId};
use serde_json::{Value, json};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// Who has this number, by system. At most a hundred: more systems are no answer to anybody.
pub async fn holders(
    connection: &mut PgConnection,
    organization: OrganizationId,
    number: &str,
    system: Option<&str>,
) -> Result<Vec<(String, PatientId)>, DbError> {
    let query = sqlx::query_as(
        "select system, patient_id
         from patient_identifiers
         where organization_id = $1
           and value = $2
           and ($3::text is null or system = $3)
         order by system
         limit 100",
    );
    Ok(query.bind(organization).bind(number).bind(system).fetch_all(connection).await?)
}

/// Keys of events that wait for this number.
pub async fn waiting_keys(
    connection: &mut PgConnection,
    organization: OrganizationId,
    number: &str,
    system: Option<&str>,
) -> Result<Vec<String>, DbError> {
    let query = sqlx::query_scalar(
        "select distinct subject_key
         from clinical_events
         where organization_id = $1
           and link_status = 'pending'
           -- As the index says it: the value behind the first separator.
           and starts_with(subject_key, 'mrn:')
           and substr(subject_key, strpos(subject_key, '|') + 1) = $2
           and ($3::text is null or subject_key = $3)
         order by subject_key
         limit 100",
    );
    let key = system.map(|system| waiting_key(system, number));
    Ok(query.bind(organization).bind(number).bind(key).fetch_all(connection).await?)
}

/// A patient with its numbers.
#[derive(sqlx::FromRow)]
pub struct PatientRow {
    id: PatientId,
    event_id: Option<EventId>,
    family: Option<String>,
    given: Vec<String>,
    birth_date: Option<String>,
    gender: Option<String>,
    deceased: Option<bool>,
    telecom: Option<Value>,
    address: Option<Value>,
    identifiers: Value,
}

impl PatientRow {
    /// Who it is.
    pub fn summary(&self) -> Value {
        json!({
            "id": self.id,
            "name": {"family": self.family, "given": self.given},
            "birth_date": self.birth_date,
            "gender": self.gender,
            "identifiers": self.identifiers,
        })
    }

    /// Everything that its Patient resource says and that is kept.
    pub fn demographics(&self) -> Value {
        json!({
            "family": self.family,
            "given": self.given,
            "birth_date": self.birth_date,
            "gender": self.gender,
            "deceased": self.deceased,
            "telecom": self.telecom,
            "address": self.address,
            "event_id": self.event_id,
        })
    }
}

/// A patient.
pub async fn patient(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patient: PatientId,
) -> Result<PatientRow, DbError> {
    let query = sqlx::query_as(
        "select p.id, p.event_id, p.family, p.given, p.birth_date, p.gender, p.deceased, p.telecom, p.address,
                coalesce((select jsonb_agg(jsonb_build_object('system', i.system, 'value', i.value) order by i.system, i.value)
                          from patient_identifiers i
                          where i.organization_id = $1
                            and i.patient_id = p.id), '[]') as identifiers
         from patients p
         where p.organization_id = $1
           and p.id = $2",
    );
    Ok(query.bind(organization).bind(patient).fetch_one(connection).await?)
}

/// Counts over all events.
#[derive(sqlx::FromRow)]
pub struct Totals {
    /// Current versions of all types.
    pub events: i64,
    /// When the newest was stored.
    pub last_updated: Option<OffsetDateTime>,
    /// Labels.
    pub sources: Vec<String>,
}

/// Counts over all events of a patient, or of those who wait.
pub async fn totals(
    connection: &mut PgConnection,
    organization: OrganizationId,
    whose: &Whose,
) -> Result<Totals, DbError> {
    let (patient, keys) = arguments(whose);
    let query = sqlx::query_as(
        "select count(*) filter (where is_current) as events,
                max(created_at) as last_updated,
                coalesce(array_agg(distinct source_label), '{}') as sources
         from clinical_events
         where organization_id = $1
           and (($2::uuid is not null and patient_id = $2)
             or ($2::uuid is null and link_status = 'pending' and subject_key = any ($3)))",
    );
    Ok(query.bind(organization).bind(patient).bind(keys).fetch_one(connection).await?)
}

/// An event to be shown.
#[derive(sqlx::FromRow)]
pub struct EventRow {
    pub id: EventId,
    pub category: String,
    pub resource_type: String,
    pub resource_key: String,
    pub status: Option<String>,
    pub source_label: String,
    pub last_updated: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub is_current: bool,
    pub payload_sha256: Vec<u8>,
    pub byte_start: i64,
    pub byte_end: i64,
    pub entry: Option<i32>,
}

/// The newest events of each category, one more than a page; or those of the cursor's category behind it.
pub async fn events(
    connection: &mut PgConnection,
    organization: OrganizationId,
    whose: &Whose,
    query: &ClinicalQuery<'_>,
) -> Result<Vec<EventRow>, DbError> {
    let (patient, keys) = arguments(whose);
    let categories: Vec<&str> = match &query.cursor {
        Some(cursor) => vec![cursor.category],
        None => CATEGORIES.to_vec(),
    };
    let sql = "select e.*
         from unnest($4::text[]) as c (category)
         cross join lateral (
           select id, category, resource_type, resource_key, status, source_label, last_updated, created_at, is_current,
                  payload_sha256, byte_start, byte_end, entry
           from clinical_events
           where organization_id = $1
             and (($2::uuid is not null and patient_id = $2)
               or ($2::uuid is null and link_status = 'pending' and subject_key = any ($3)))
             and category = c.category
             -- What was never so leaves the current view; resolved and not done stay, with their status.
             and ($5 or (is_current and status is distinct from 'entered-in-error' and status is distinct from 'cancelled'))
             and ($6::uuid is null or id < $6)
           order by id desc
           limit $7
         ) e";
    Ok(sqlx::query_as(sql)
        .bind(organization)
        .bind(patient)
        .bind(keys)
        .bind(categories)
        .bind(query.history)
        .bind(query.cursor.map(|cursor| cursor.after))
        .bind(ITEMS_MAX + 1)
        .fetch_all(connection)
        .await?)
}

fn arguments(whose: &Whose) -> (Option<PatientId>, &[String]) {
    match whose {
        Whose::Patient(patient) => (Some(*patient), &[]),
        Whose::Waiting(keys) => (None, keys),
    }
}

/// A finding to be shown.
#[derive(sqlx::FromRow)]
pub struct FindingRow {
    pub id: FindingId,
    pub event_id: EventId,
    pub ordinal: i32,
    pub kind: String,
    pub code_system: Option<String>,
    pub code: Option<String>,
    pub display: Option<String>,
    pub codings: Value,
    pub code_text: Option<String>,
    pub component_of: Option<Value>,
    pub value_type: Option<String>,
    pub value_text: Option<String>,
    pub value_code: Option<Value>,
    pub comparator: Option<String>,
    pub unit: Option<String>,
    pub ucum: Option<String>,
    pub reference_range: Option<Value>,
    pub interpretation: Option<String>,
    pub interpretation_source: Option<String>,
    pub clinical_status: Option<String>,
    pub verification_status: Option<String>,
    pub severity: Option<String>,
    pub body_site: Option<Value>,
    pub effective_text: Option<String>,
    pub effective_end_text: Option<String>,
    pub issued: Option<String>,
    pub performer: Option<Value>,
    pub encounter_reference: Option<String>,
    pub dosage: Option<Value>,
    pub reactions: Option<Value>,
    pub negated: bool,
    /// An array of `{sha256, start, end, pointer, fhirpath}`.
    pub evidence: Value,
}

/// The findings of these events, with their evidence.
pub async fn findings(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
) -> Result<Vec<FindingRow>, DbError> {
    let query = sqlx::query_as(
        "select f.*,
                (select coalesce(jsonb_agg(jsonb_build_object(
                          'sha256', encode(e.payload_sha256, 'hex'), 'start', e.byte_start, 'end', e.byte_end,
                          'pointer', e.pointer, 'fhirpath', e.fhirpath) order by e.ordinal), '[]')
                 from finding_evidence e
                 where e.organization_id = $1
                   and e.finding_id = f.id) as evidence
         from unnest($2::uuid[]) as k (event_id)
         cross join lateral (
           select id, event_id, ordinal, kind, code_system, code, display, codings, code_text, component_of, value_type,
                  value_text, value_code, comparator, unit, ucum, reference_range, interpretation, interpretation_source,
                  clinical_status, verification_status, severity, body_site, effective_text, effective_end_text, issued,
                  performer, encounter_reference, dosage, reactions, negated
           from findings
           where organization_id = $1
             and event_id = k.event_id
           -- One index lookup an event, whatever the planner believes of the table's size.
           offset 0
         ) f
         order by f.event_id, f.ordinal",
    );
    Ok(query.bind(organization).bind(events).fetch_all(connection).await?)
}
