//! SQL on legal holds: what must not be erased.

use crate::db::DbError;
use crate::ids::{HoldId, JobId, OrganizationId, PatientId};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// A hold, active or lifted.
#[derive(Clone, sqlx::FromRow)]
pub struct Hold {
    /// Its id.
    pub id: HoldId,
    /// payload, patient, organization
    pub kind: String,
    /// The payload held.
    pub payload_sha256: Option<Vec<u8>>,
    /// The patient held.
    pub patient_id: Option<PatientId>,
    /// Why.
    pub reason: String,
    /// By whom.
    pub placed_by: String,
    /// When.
    pub placed_at: OffsetDateTime,
    /// By whom it was lifted.
    pub lifted_by: Option<String>,
    /// When.
    pub lifted_at: Option<OffsetDateTime>,
}

/// What is held.
#[derive(Clone)]
pub enum Held {
    /// The bytes with this hash, and all that was taken from them.
    Payload([u8; 32]),
    /// All that is linked to this patient, with the payloads that it came in.
    Patient(PatientId),
    /// All that the organization has.
    Organization,
}

impl Held {
    /// The word in SQL.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Payload(_) => "payload",
            Self::Patient(_) => "patient",
            Self::Organization => "organization",
        }
    }
}

const COLUMNS: &str = "id, kind, payload_sha256, patient_id, reason, placed_by, placed_at, lifted_by, lifted_at";

/// Place a hold. What is held need not be there (yet).
///
/// # Errors
/// A [`DbError`].
pub async fn place(
    connection: &mut PgConnection,
    organization: OrganizationId,
    held: &Held,
    reason: &str,
    by: &str,
) -> Result<Hold, DbError> {
    // Erasures of the organization decide before or after, not at the same time.
    lock(connection, organization).await?;
    let (payload, patient) = match held {
        Held::Payload(sha256) => (Some(sha256.as_slice()), None),
        Held::Patient(patient) => (None, Some(*patient)),
        Held::Organization => (None, None),
    };
    let sql = format!(
        "insert into legal_holds (organization_id, id, kind, payload_sha256, patient_id, reason, placed_by, placed_at)
         values ($1, $2, $3, $4, $5, $6, $7, chartgate_now())
         returning {COLUMNS}"
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(organization).bind(HoldId::new()).bind(held.kind());
    Ok(query.bind(payload).bind(patient).bind(reason).bind(by).fetch_one(connection).await?)
}

/// Placing a hold and deciding to erase come one after the other. Who locks payloads too takes this lock first.
///
/// # Errors
/// A [`DbError`].
pub async fn lock(connection: &mut PgConnection, organization: OrganizationId) -> Result<(), DbError> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('chartgate.holds:' || $1::uuid::text, 0))")
        .bind(organization)
        .execute(connection)
        .await?;
    Ok(())
}

/// As [`lock`], but without waiting: false if somebody else has it.
///
/// # Errors
/// A [`DbError`].
pub async fn try_lock(connection: &mut PgConnection, organization: OrganizationId) -> Result<bool, DbError> {
    let query = sqlx::query_scalar(
        "select pg_try_advisory_xact_lock(hashtextextended('chartgate.holds:' || $1::uuid::text, 0))",
    );
    Ok(query.bind(organization).fetch_one(connection).await?)
}

/// The newest holds, at most a thousand; without `lifted` only those that are active.
///
/// # Errors
/// A [`DbError`].
pub async fn list(
    connection: &mut PgConnection,
    organization: OrganizationId,
    lifted: bool,
) -> Result<Vec<Hold>, DbError> {
    let sql = format!(
        "select {COLUMNS}
         from legal_holds
         where organization_id = $1
           and ($2 or lifted_at is null)
         order by id desc
         limit 1000"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(organization).bind(lifted).fetch_all(connection).await?)
}

/// Lift a hold; again, it is as it was. Nothing, if the organization has none such. True if this lifted it.
///
/// # Errors
/// A [`DbError`].
pub async fn lift(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: HoldId,
    by: &str,
) -> Result<Option<(Hold, bool)>, DbError> {
    let sql = format!(
        "update legal_holds
         set lifted_by = $3, lifted_at = chartgate_now()
         where organization_id = $1
           and id = $2
           and lifted_at is null
         returning {COLUMNS}"
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(organization).bind(id).bind(by);
    if let Some(hold) = query.fetch_optional(&mut *connection).await? {
        return Ok(Some((hold, true)));
    }
    let sql = format!("select {COLUMNS} from legal_holds where organization_id = $1 and id = $2");
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(organization).bind(id);
    Ok(query.fetch_optional(connection).await?.map(|hold| (hold, false)))
}

const HELD: &str = "with recursive held (id) as (
           select patient_id
           from legal_holds
           where organization_id = $1
             and kind = 'patient'
             and lifted_at is null
           union
           select p.merged_into
           from held h
           join patients p on p.organization_id = $1 and p.id = h.id
           where p.merged_into is not null
         )";

/// What a hold forbids to touch, of a batch of retention.
pub struct HeldOf {
    /// Of the jobs.
    pub jobs: Vec<JobId>,
    /// Of the payloads: one that tells of a held patient is held by its bytes, whichever job brought them (a second one may have ended
    /// before anybody knew of whom it tells).
    pub payloads: Vec<Vec<u8>>,
}

/// Of these jobs and payloads those that a hold forbids to touch. Holds that are placed wait for the end of the transaction.
///
/// # Errors
/// A [`DbError`].
pub async fn held_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &[JobId],
    payloads: &[Vec<u8>],
) -> Result<HeldOf, DbError> {
    lock(connection, organization).await?;
    // From the few patients who are held to what they have: not from a job of a million events.
    let sql = format!(
        "{HELD}, told as (
           select e.id, e.job_id, e.payload_sha256
           from held h
           join clinical_events e on e.organization_id = $1 and e.patient_id = h.id
           union
           select e.id, e.job_id, e.payload_sha256
           from held h
           join patient_statements s on s.organization_id = $1 and s.patient_id = h.id
           join clinical_events e on e.organization_id = $1 and e.statement_id = s.id and e.resource_type = 'Patient'
         ), brought as (
           select job_id, payload_sha256
           from told
           union
           select c.job_id, c.payload_sha256
           from told t
           join event_carriers c on c.organization_id = $1 and c.event_id = t.id
         ), kept as (
           select array_agg(distinct job_id) as jobs, array_agg(distinct payload_sha256) as payloads
           from brought
         ), named as (
           select coalesce(bool_or(kind = 'organization'), false) as is_all, array_agg(payload_sha256) as payloads
           from legal_holds
           where organization_id = $1
             and lifted_at is null
         )
         select array(select j.id
                      from jobs j
                      where j.organization_id = $1
                        and j.id = any ($2)
                        and (n.is_all or j.payload_sha256 = any (n.payloads) or j.payload_sha256 = any (k.payloads)
                             or j.id = any (k.jobs))),
                array(select p.sha256
                      from unnest($3::bytea[]) as p (sha256)
                      where n.is_all or p.sha256 = any (n.payloads) or p.sha256 = any (k.payloads))
         from named n
         cross join kept k"
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(organization).bind(jobs).bind(payloads);
    let (jobs, payloads) = query.fetch_one(connection).await?;
    Ok(HeldOf { jobs, payloads })
}

/// Does a hold forbid to erase these payloads: one of their own, the organization's, or that of a patient of whom they tell, or who is
/// to be erased (or who was merged into one of those)?
///
/// # Errors
/// A [`DbError`].
pub async fn forbids(
    connection: &mut PgConnection,
    organization: OrganizationId,
    payloads: &[Vec<u8>],
    jobs: &[JobId],
    persons: &[PatientId],
) -> Result<bool, DbError> {
    lock(connection, organization).await?;
    let sql = format!(
        "{HELD}
         select exists (
                  select from legal_holds
                  where organization_id = $1
                    and lifted_at is null
                    and (kind = 'organization' or payload_sha256 = any ($2)))
             or exists (
                  select
                  from clinical_events e
                  join held h on h.id = e.patient_id
                  where e.organization_id = $1
                    and e.job_id = any ($3))
             or exists (select from held h where h.id = any ($4))
             or exists (
                  select
                  from event_carriers c
                  join clinical_events e on e.organization_id = $1 and e.id = c.event_id
                  join held h on h.id = e.patient_id
                  where c.organization_id = $1
                    and c.job_id = any ($3))"
    );
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
    Ok(query.bind(organization).bind(payloads).bind(jobs).bind(persons).fetch_one(connection).await?)
}
