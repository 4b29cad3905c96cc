//! SQL on patients, their identifiers, the history of links, and reviews.

use super::demographics::Demographics;
use super::events::Origin;
use super::subject::{Mrn, Reference};
use crate::db::DbError;
use crate::ids::{EventId, LinkId, OrganizationId, PatientId};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use std::collections::{BTreeSet, HashMap};
use time::OffsetDateTime;

/// Version of the rules that decide links; written with every decision.
pub const LINK_RULE_VERSION: i32 = 1;

/// Locks of subjects are taken on so many buckets of an organization: a transaction holds no more locks than this,
/// however many subjects its payload has.
const LOCK_BUCKETS: u32 = 1_024;

/// The first eight bytes of the SHA-256 of a text, as two lock numbers.
fn hash(text: &[u8]) -> (u32, u32) {
    let digest = Sha256::digest(text);
    let word = |at: usize| u32::from_be_bytes([digest[at], digest[at + 1], digest[at + 2], digest[at + 3]]);
    (word(0), word(4))
}

/// Serialize with every transaction that concerns one of these subjects, until this one ends. To be called in a
/// statement before anything is looked up, so that what the other transaction committed is seen. Uses the two-number
/// space of advisory locks; the engine's lanes are in the other one.
///
/// # Errors
/// A [`DbError`].
pub async fn lock_subjects<'k>(
    connection: &mut PgConnection,
    organization: OrganizationId,
    keys: impl Iterator<Item = &'k str>,
) -> Result<(), DbError> {
    let (space, _) = hash(organization.0.as_bytes());
    // Sorted and without duplicates: two transactions take the locks that they share in the same order.
    let buckets: BTreeSet<u32> = keys.map(|key| hash(key.as_bytes()).0 % LOCK_BUCKETS).collect();
    if buckets.is_empty() {
        return Ok(());
    }
    let buckets: Vec<i32> = buckets.into_iter().map(u32::cast_signed).collect();
    sqlx::query("select pg_advisory_xact_lock($1, bucket) from unnest($2::integer[]) as bucket")
        .bind(space.cast_signed())
        .bind(buckets)
        .execute(connection)
        .await?;
    Ok(())
}

/// A stored patient, as far as linking compares it.
#[derive(Clone)]
pub struct StoredPatient {
    /// Its demographics.
    pub demographics: Demographics,
    /// Its MRNs.
    pub mrns: BTreeSet<Mrn>,
}

/// Which patients these MRNs belong to.
///
/// # Errors
/// A [`DbError`].
pub async fn by_mrn(
    connection: &mut PgConnection,
    organization: OrganizationId,
    mrns: &BTreeSet<Mrn>,
) -> Result<HashMap<Mrn, PatientId>, DbError> {
    if mrns.is_empty() {
        return Ok(HashMap::new());
    }
    let (systems, values): (Vec<&str>, Vec<&str>) =
        mrns.iter().map(|mrn| (mrn.system.as_str(), mrn.value.as_str())).unzip();
    let rows: Vec<(String, String, PatientId)> = sqlx::query_as(
        "select i.system, i.value, i.patient_id
         from unnest($2::text[], $3::text[]) as k (system, value)
         cross join lateral (
           select system, value, patient_id
           from patient_identifiers
           where organization_id = $1
             and system = k.system
             and value = k.value
           -- One index lookup a key, whatever the planner believes of the table's size.
           offset 0
         ) i",
    )
    .bind(organization)
    .bind(systems)
    .bind(values)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(system, value, patient)| (Mrn { system, value }, patient)).collect())
}

/// Which patients these references mean: the current version of the Patient resource of that id and source, or of that
/// absolute URL. A Patient resource that waits for a review means nobody.
///
/// # Errors
/// A [`DbError`].
pub async fn by_reference(
    connection: &mut PgConnection,
    organization: OrganizationId,
    source: &str,
    references: &BTreeSet<Reference>,
) -> Result<HashMap<Reference, PatientId>, DbError> {
    let mut found = HashMap::new();
    let (mut ids, mut urls) = (Vec::new(), Vec::new());
    for reference in references {
        match reference {
            Reference::Local(id) => ids.push(id.clone()),
            Reference::Absolute(_) => urls.push(reference.key(source)),
        }
    }
    if !ids.is_empty() {
        let rows: Vec<(String, PatientId)> = sqlx::query_as(
            "select k.id, e.patient_id
             from unnest($3::text[]) as k (id)
             cross join lateral (
               select patient_id
               from clinical_events
               where organization_id = $1
                 and source_label = $2
                 and resource_type = 'Patient'
                 and resource_key = k.id
                 and is_current
                 and link_status = 'linked'
               offset 0
             ) e",
        )
        .bind(organization)
        .bind(source)
        .bind(ids)
        .fetch_all(&mut *connection)
        .await?;
        found.extend(rows.into_iter().map(|(id, patient)| (Reference::Local(id), patient)));
    }
    if !urls.is_empty() {
        let rows: Vec<(String, PatientId)> = sqlx::query_as(
            "select k.subject_key, e.patient_id
             from unnest($2::text[]) as k (subject_key)
             cross join lateral (
               select patient_id
               from clinical_events
               where organization_id = $1
                 and subject_key = k.subject_key
                 and resource_type = 'Patient'
                 and is_current
                 and link_status = 'linked'
               offset 0
             ) e",
        )
        .bind(organization)
        .bind(urls)
        .fetch_all(connection)
        .await?;
        let patients: HashMap<String, PatientId> = rows.into_iter().collect();
        for reference in references {
            if let Some(patient) = patients.get(&reference.key(source)) {
                found.insert(reference.clone(), *patient);
            }
        }
    }
    Ok(found)
}

#[derive(sqlx::FromRow)]
struct PatientRow {
    id: PatientId,
    family: Option<String>,
    given: Vec<String>,
    birth_date: Option<String>,
    gender: Option<String>,
    systems: Vec<String>,
    values: Vec<String>,
}

/// These patients, as far as linking compares them.
///
/// # Errors
/// A [`DbError`].
pub async fn load(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patients: &BTreeSet<PatientId>,
) -> Result<HashMap<PatientId, StoredPatient>, DbError> {
    if patients.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<PatientRow> = sqlx::query_as(
        "select p.id, p.family, p.given, p.birth_date, p.gender,
                array(select i.system from patient_identifiers i
                      where i.organization_id = $1 and i.patient_id = p.id
                      order by i.system, i.value) as systems,
                array(select i.value from patient_identifiers i
                      where i.organization_id = $1 and i.patient_id = p.id
                      order by i.system, i.value) as values
         from patients p
         where p.organization_id = $1
           and p.id = any ($2)",
    )
    .bind(organization)
    .bind(patients.iter().copied().collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let stored = rows.into_iter().map(|row| {
        let demographics = Demographics {
            family: row.family,
            given: row.given,
            birth_date: row.birth_date,
            gender: row.gender,
            ..Demographics::default()
        };
        let mrns = row.systems.into_iter().zip(row.values).map(|(system, value)| Mrn { system, value }).collect();
        (row.id, StoredPatient { demographics, mrns })
    });
    Ok(stored.collect())
}

/// A statement about a patient, from one version of a Patient resource.
#[derive(Debug, Clone)]
pub struct Statement {
    /// The patient.
    pub patient: PatientId,
    /// The event that says it.
    pub event: EventId,
    /// Which version that is.
    pub last_updated: Option<OffsetDateTime>,
    /// What it says.
    pub demographics: Demographics,
}

/// Create the patients that do not exist, and bring the others up to date, unless what is stored comes from a newer
/// version. One statement a patient: a row a patient, sorted by id by the caller.
///
/// # Errors
/// A [`DbError`].
pub async fn save(connection: &mut PgConnection, origin: &Origin, statements: &[Statement]) -> Result<(), DbError> {
    for statement in statements {
        let person = &statement.demographics;
        sqlx::query(
            "insert into patients
               (organization_id, id, event_id, event_last_updated, event_seq, family, given, birth_date, gender, deceased,
                telecom, address, created_at, updated_at)
             select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, n.now, n.now
             from (select chartgate_now() as now) n
             on conflict (organization_id, id) do update
             set event_id = excluded.event_id,
                 event_last_updated = excluded.event_last_updated,
                 event_seq = excluded.event_seq,
                 family = excluded.family,
                 given = excluded.given,
                 birth_date = excluded.birth_date,
                 gender = excluded.gender,
                 deceased = excluded.deceased,
                 telecom = excluded.telecom,
                 address = excluded.address,
                 updated_at = excluded.updated_at
             -- The newest version speaks, in the same order as for versions of a resource.
             where (coalesce(patients.event_last_updated, '-infinity'), patients.event_seq)
                <= (coalesce(excluded.event_last_updated, '-infinity'), excluded.event_seq)",
        )
        .bind(origin.organization)
        .bind(statement.patient)
        .bind(statement.event)
        .bind(statement.last_updated)
        .bind(origin.seq)
        .bind(&person.family)
        .bind(&person.given)
        .bind(&person.birth_date)
        .bind(&person.gender)
        .bind(person.deceased)
        .bind(&person.telecom)
        .bind(&person.address)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Give patients MRNs. One that a concurrent transaction gave to somebody is a conflict: run the effect again.
///
/// # Errors
/// A [`DbError`].
pub async fn add_mrns(
    connection: &mut PgConnection,
    organization: OrganizationId,
    mrns: &[(Mrn, PatientId)],
) -> Result<(), DbError> {
    if mrns.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into patient_identifiers (organization_id, system, value, patient_id, created_at)
         select $1, k.system, k.value, k.patient_id, chartgate_now()
         from unnest($2::text[], $3::text[], $4::uuid[]) as k (system, value, patient_id)",
    )
    .bind(organization)
    .bind(mrns.iter().map(|(mrn, _)| mrn.system.as_str()).collect::<Vec<_>>())
    .bind(mrns.iter().map(|(mrn, _)| mrn.value.as_str()).collect::<Vec<_>>())
    .bind(mrns.iter().map(|(_, patient)| *patient).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// A decision about an event.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The event.
    pub event: EventId,
    /// The patient, if one was found.
    pub patient: Option<PatientId>,
    /// linked, pending, review
    pub status: &'static str,
    /// By which rule.
    pub method: &'static str,
}

/// Append decisions to the history of links. Each supersedes the event's latest one, if there is one.
///
/// # Errors
/// A [`DbError`].
pub async fn record_links(
    connection: &mut PgConnection,
    organization: OrganizationId,
    actor: &str,
    decisions: &[Decision],
) -> Result<(), DbError> {
    if decisions.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into patient_links
           (organization_id, id, event_id, patient_id, status, method, grade, score, rule_version, actor, supersedes, created_at)
         select $1, d.id, d.event_id, d.patient_id, d.status, d.method,
                case d.status when 'linked' then 'certain' end, null, $7, $8, old.id, n.now
         from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[]) as d (id, event_id, patient_id, status, method)
         cross join (select chartgate_now() as now) n
         left join lateral (
           select id
           from patient_links
           where organization_id = $1
             and event_id = d.event_id
           -- Ids are in order of time.
           order by id desc
           limit 1
         ) old on true",
    )
    .bind(organization)
    .bind(decisions.iter().map(|_| LinkId::new()).collect::<Vec<_>>())
    .bind(decisions.iter().map(|decision| decision.event).collect::<Vec<_>>())
    .bind(decisions.iter().map(|decision| decision.patient).collect::<Vec<_>>())
    .bind(decisions.iter().map(|decision| decision.status).collect::<Vec<_>>())
    .bind(decisions.iter().map(|decision| decision.method).collect::<Vec<_>>())
    .bind(LINK_RULE_VERSION)
    .bind(actor)
    .execute(connection)
    .await?;
    Ok(())
}

/// Ask a person.
///
/// # Errors
/// A [`DbError`].
pub async fn open_review(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: EventId,
    reason: &str,
    candidates: &[PatientId],
) -> Result<(), DbError> {
    let candidates: Vec<Value> = candidates.iter().map(|patient| json!({ "patient": patient })).collect();
    sqlx::query(
        "insert into reviews (organization_id, id, event_id, status, reason, candidates, created_at)
         values ($1, $2, $3, 'open', $4, $5, chartgate_now())",
    )
    .bind(organization)
    .bind(uuid::Uuid::now_v7())
    .bind(event)
    .bind(reason)
    .bind(Value::from(candidates))
    .execute(connection)
    .await?;
    Ok(())
}
