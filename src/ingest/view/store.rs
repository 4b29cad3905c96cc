//! SQL of the clinical view.

use super::whose::Whose;
use super::{CATEGORIES, ClinicalQuery};
use crate::db::DbError;
use crate::ids::{EventId, FindingId, OrganizationId, PatientId};
use crate::ingest::findings::packed::unpack;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, Row as _};
use std::collections::HashMap;
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

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

/// JSON as it was written.
pub type Raw = Box<RawValue>;

/// The events of one source.
#[derive(sqlx::FromRow)]
pub struct SourceRow {
    /// The label.
    pub source: String,
    /// Current versions of all types.
    pub events: i64,
    /// When the newest was stored.
    pub last_updated: Option<OffsetDateTime>,
}

/// Counts over all events of a patient, or of those who wait, by source.
pub async fn sources(
    connection: &mut PgConnection,
    organization: OrganizationId,
    whose: &Whose,
) -> Result<Vec<SourceRow>, DbError> {
    Ok(match whose {
        Whose::Patient(patient) => {
            let query = sqlx::query_as(
                "select source_label as source, events, last_event_at as last_updated
                 from patient_event_counts
                 where organization_id = $1
                   and patient_id = $2
                   and events > 0
                 order by source_label",
            );
            query.bind(organization).bind(patient).fetch_all(connection).await?
        }
        Whose::Waiting(waiting) => {
            let query = sqlx::query_as(
                "select e.source_label as source, count(*) filter (where e.is_current and e.part_of is null) as events,
                        max(e.created_at) as last_updated
                 from (select w.*
                       from unnest($2::text[]) as k (key)
                       cross join lateral (
                         select source_label, is_current, part_of, created_at
                         from clinical_events
                         where organization_id = $1
                           and link_status = 'pending'
                           and subject_key = k.key
                         offset 0
                       ) w
                       union all
                       select source_label, is_current, part_of, created_at
                       from clinical_events
                       where organization_id = $1
                         and link_status <> 'linked'
                         and link_status in ('pending', 'review')
                         and statement_id = $3
                         and (link_status = 'pending' and subject_key = any ($2)) is not true) e
                 group by e.source_label
                 order by e.source_label",
            );
            query.bind(organization).bind(&waiting.keys).bind(waiting.statement).fetch_all(connection).await?
        }
    })
}

/// Before the first item of a category. No item stands here: FHIR's years end with 9999.
pub const BEGINNING: Position = Position { at: datetime!(9999-12-31 23:59:59.999999 UTC), id: EventId(Uuid::max()) };

/// An item's place in its category: newest first, then the higher id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
pub struct Position {
    #[sqlx(rename = "clinical_at")]
    pub at: OffsetDateTime,
    pub id: EventId,
}

/// Where an item stands; none, if the organization has no such event.
pub async fn position(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: EventId,
) -> Result<Option<Position>, DbError> {
    let query = sqlx::query_as(
        "select clinical_at, id
         from clinical_events
         where organization_id = $1
           and id = $2",
    );
    Ok(query.bind(organization).bind(event).fetch_optional(connection).await?)
}

/// An event to be shown.
pub struct EventRow {
    pub position: Position,
    pub category: &'static str,
    pub resource_type: String,
    pub resource_key: String,
    /// The Athena event that it is a part of.
    pub part_of: Option<EventId>,
    /// Where it stands in its payload, if that is not a Bundle.
    pub pointer: Option<String>,
    pub status: Option<String>,
    pub source_label: String,
    pub last_updated: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub is_current: bool,
    pub payload_sha256: Vec<u8>,
    pub byte_start: i64,
    pub byte_end: i64,
    pub entry: Option<i32>,
    /// Its findings as JSON, if they stand beside it.
    pub shown: Option<String>,
    /// The current version of the resource, if this is an older one.
    pub superseded_by: Option<EventId>,
}

/// By number: a chart has thousands of rows, and looking up each column's name took longer than reading its value.
impl FromRow<'_, PgRow> for EventRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let category: &str = row.try_get(2)?;
        Ok(Self {
            position: Position { id: row.try_get(0)?, at: row.try_get(1)? },
            category: CATEGORIES
                .into_iter()
                .find(|one| *one == category)
                .ok_or_else(|| sqlx::Error::Decode("an event has a category that is not known".into()))?,
            resource_type: row.try_get(3)?,
            resource_key: row.try_get(4)?,
            part_of: row.try_get(5)?,
            pointer: row.try_get(6)?,
            status: row.try_get(7)?,
            source_label: row.try_get(8)?,
            last_updated: row.try_get(9)?,
            created_at: row.try_get(10)?,
            is_current: row.try_get(11)?,
            payload_sha256: row.try_get(12)?,
            byte_start: row.try_get(13)?,
            byte_end: row.try_get(14)?,
            entry: row.try_get(15)?,
            shown: shown(row.try_get(16)?, row.try_get(17)?),
            superseded_by: row.try_get(18)?,
        })
    }
}

/// What stands beside an event: as it is packed now, or as earlier releases wrote it. What cannot be read is made anew from the
/// findings, as where nothing stands.
fn shown(text: Option<String>, packed: Option<&[u8]>) -> Option<String> {
    text.or_else(|| unpack(packed?).inspect_err(|error| tracing::warn!(%error, "made from its findings")).ok())
}

/// The newest events of each category, one more than a page; or those of one category behind a position. With history
/// up to twice as many of a category: current and older versions are read apart.
pub async fn events(
    connection: &mut PgConnection,
    organization: OrganizationId,
    whose: &Whose,
    query: &ClinicalQuery<'_>,
    after: Position,
) -> Result<Vec<EventRow>, DbError> {
    // One lookup in an index for each category and currency (and key that is waited for), which stops at the page's end.
    // The texts are apart so that each has the plan of its own shape, also when it is planned once for all values.
    macro_rules! page {
        ($whose:literal, $shown:literal) => {
            concat!(
                "select id, clinical_at, category, resource_type, resource_key, part_of, pointer, status, source_label,
                        last_updated, created_at, is_current, payload_sha256, byte_start, byte_end, entry
                 from clinical_events
                 where organization_id = $1 ",
                $whose,
                "  and category = c.category
                   and is_current = v.is_current
                   and (clinical_at, id) < ($5, $6) ",
                $shown,
                "order by clinical_at desc, id desc
                 limit $7"
            )
        };
    }
    macro_rules! pages {
        (patient, $shown:literal) => {
            page!("and patient_id = $2 ", $shown)
        };
        (waiting, $shown:literal) => {
            concat!(
                "select w.* from unnest($2::text[]) as k (key) cross join lateral (",
                page!("and link_status = 'pending' and subject_key = k.key ", $shown),
                ") w union all (",
                page!(
                    "and link_status <> 'linked' and link_status in ('pending', 'review') and statement_id = $8
                     and (link_status = 'pending' and subject_key = any ($2)) is not true ",
                    $shown
                ),
                ")"
            )
        };
    }
    macro_rules! events {
        ($whose:ident, $shown:literal, $superseded:literal, $successor:literal) => {
            concat!(
                "select e.*, s.shown, s.packed, ",
                $superseded,
                " as superseded_by
                 from unnest($3::text[]) as c (category)
                 cross join unnest($4::boolean[]) as v (is_current)
                 cross join lateral (",
                pages!($whose, $shown),
                ") e
                 left join lateral (
                   select shown, packed
                   from shown_events
                   where organization_id = $1
                     and event_id = e.id
                   offset 0
                 ) s on true ",
                $successor,
            )
        };
    }
    macro_rules! for_whose {
        ($whose:ident) => {
            if query.history {
                events!(
                    $whose,
                    "",
                    "n.id",
                    "left join lateral (
                       select coalesce(part_of, id) as id
                       from clinical_events
                       where organization_id = $1
                         and source_label = e.source_label
                         and resource_type = e.resource_type
                         and resource_key = e.resource_key
                         and is_current
                         and not e.is_current
                       offset 0
                     ) n on true"
                )
            } else {
                // What was never so leaves the current view; resolved and not done stay, with their status. What is
                // current is superseded by nothing.
                events!(
                    $whose,
                    "and status is distinct from 'entered-in-error' and status is distinct from 'cancelled' ",
                    "null::uuid",
                    ""
                )
            }
        };
    }
    let categories: Vec<&str> = match &query.cursor {
        Some(cursor) => vec![cursor.category],
        None => CATEGORIES.to_vec(),
    };
    let currency = if query.history { vec![true, false] } else { vec![true] };
    let select = match whose {
        Whose::Patient(patient) => sqlx::query_as(for_whose!(patient)).bind(organization).bind(patient),
        Whose::Waiting(waiting) => sqlx::query_as(for_whose!(waiting)).bind(organization).bind(&waiting.keys),
    };
    let mut select = select.bind(categories).bind(currency).bind(after.at).bind(after.id).bind(query.limit + 1);
    if let Whose::Waiting(waiting) = whose {
        select = select.bind(waiting.statement);
    }
    Ok(select.fetch_all(connection).await?)
}

/// A finding to be shown.
#[derive(sqlx::FromRow)]
pub struct FindingRow {
    pub id: FindingId,
    pub event_id: EventId,
    pub ordinal: i32,
    pub category: String,
    pub kind: String,
    pub code_system: Option<String>,
    pub code: Option<String>,
    pub display: Option<String>,
    pub codings: Json<Raw>,
    pub code_text: Option<String>,
    pub component_of: Option<Json<Raw>>,
    pub value_type: Option<String>,
    pub value_text: Option<String>,
    pub value_code: Option<Json<Raw>>,
    pub comparator: Option<String>,
    pub unit: Option<String>,
    pub ucum: Option<String>,
    pub reference_range: Option<Json<Raw>>,
    pub interpretation: Option<String>,
    pub interpretation_source: Option<String>,
    pub clinical_status: Option<String>,
    pub verification_status: Option<String>,
    pub severity: Option<String>,
    pub criticality: Option<String>,
    pub body_site: Option<Json<Raw>>,
    pub laterality: Option<String>,
    pub effective_text: Option<String>,
    pub effective_end_text: Option<String>,
    pub effective_precision: Option<String>,
    pub issued: Option<String>,
    pub performer: Option<Json<Raw>>,
    pub encounter_reference: Option<String>,
    pub dosage: Option<Json<Raw>>,
    pub reactions: Option<Json<Raw>>,
    pub medication_reference: Option<String>,
    pub details: Option<Json<Raw>>,
    pub negated: bool,
    pub extractor_version: i32,
}

/// The findings of these events, column by column.
pub async fn findings(
    connection: &mut PgConnection,
    organization: OrganizationId,
    events: &[EventId],
) -> Result<Vec<FindingRow>, DbError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query_as(
        "select f.*
         from unnest($2::uuid[]) as k (event_id)
         cross join lateral (
           select id, event_id, ordinal, category, kind, code_system, code, display, codings, code_text, component_of,
                  value_type, value_text, value_code, comparator, unit, ucum, reference_range, interpretation,
                  interpretation_source, clinical_status, verification_status, severity, criticality, body_site,
                  laterality, effective_text, effective_end_text, effective_precision, issued, performer,
                  encounter_reference, dosage, reactions, medication_reference, details, negated, extractor_version
           from findings
           where organization_id = $1
             and event_id = k.event_id
             and superseded_by is null
           -- One index lookup an event, whatever the planner believes of the table's size; in that index's order.
           order by extractor_version, ordinal
           offset 0
         ) f",
    );
    Ok(query.bind(organization).bind(events).fetch_all(connection).await?)
}

/// The bytes of a finding.
#[derive(Clone, sqlx::FromRow)]
pub struct EvidenceRow {
    pub finding_id: FindingId,
    pub payload_sha256: Vec<u8>,
    pub byte_start: i64,
    pub byte_end: i64,
    pub pointer: String,
    pub fhirpath: String,
}

/// The evidence of these findings, from its own rows.
pub async fn evidence(
    connection: &mut PgConnection,
    organization: OrganizationId,
    findings: &[FindingId],
) -> Result<Vec<EvidenceRow>, DbError> {
    if findings.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query_as(
        "select e.*
         from unnest($2::uuid[]) as k (finding_id)
         cross join lateral (
           select finding_id, payload_sha256, byte_start, byte_end, pointer, fhirpath
           from finding_evidence
           where organization_id = $1
             and finding_id = k.finding_id
           -- As above, in the order of the primary key.
           order by ordinal
           offset 0
         ) e",
    );
    Ok(query.bind(organization).bind(findings).fetch_all(connection).await?)
}

/// What a Medication is.
#[derive(sqlx::FromRow)]
pub struct MedicationRow {
    source_label: String,
    resource_key: String,
    finding_id: FindingId,
    pub code_system: Option<String>,
    pub code: Option<String>,
    pub display: Option<String>,
    pub codings: Json<Raw>,
    pub code_text: Option<String>,
    #[sqlx(skip)]
    pub evidence: Vec<EvidenceRow>,
}

/// The current versions of Medications, by source and id, with their evidence.
pub async fn medications(
    connection: &mut PgConnection,
    organization: OrganizationId,
    wanted: &[(String, String)],
) -> Result<HashMap<(String, String), MedicationRow>, DbError> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let (sources, ids): (Vec<&str>, Vec<&str>) = wanted.iter().map(|(source, id)| (&**source, &**id)).unzip();
    let query = sqlx::query_as(
        "select e.source_label, e.resource_key, f.*
         from (select distinct source_label, resource_key
               from unnest($2::text[], $3::text[]) as u (source_label, resource_key)) k
         cross join lateral (
           select id, source_label, resource_key
           from clinical_events
           where organization_id = $1
             and source_label = k.source_label
             and resource_type = 'Medication'
             and resource_key = k.resource_key
             and is_current
             and status is distinct from 'entered-in-error'
           offset 0
         ) e
         cross join lateral (
           select id as finding_id, code_system, code, display, codings, code_text
           from findings
           where organization_id = $1
             and event_id = e.id
           order by extractor_version desc, ordinal
           limit 1
         ) f",
    );
    let rows: Vec<MedicationRow> = query.bind(organization).bind(sources).bind(ids).fetch_all(&mut *connection).await?;
    let findings: Vec<FindingId> = rows.iter().map(|row| row.finding_id).collect();
    let mut evidence: HashMap<FindingId, Vec<EvidenceRow>> = HashMap::new();
    for row in self::evidence(connection, organization, &findings).await? {
        evidence.entry(row.finding_id).or_default().push(row);
    }
    let medications = rows.into_iter().map(|mut row| {
        row.evidence = evidence.remove(&row.finding_id).unwrap_or_default();
        ((std::mem::take(&mut row.source_label), std::mem::take(&mut row.resource_key)), row)
    });
    Ok(medications.collect())
}
