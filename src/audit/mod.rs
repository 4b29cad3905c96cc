//! The audit log: one record for every change, read, denial and act of administration.
//!
//! A record is appended in the transaction of what it records, so that neither exists without the other. It holds ids,
//! codes and counts: no names, no payloads. The table takes INSERT and SELECT only.
//!
//! Behind the hot path, [`task`] seals the records into a Merkle log, signs its roots and puts them into the object store;
//! [`verify`] says whether all is still as it was sealed. The contract is docs/audit.md.

pub mod archive;
pub mod care;
mod compare;
pub mod keys;
pub(crate) mod list_store;
pub mod merkle;
pub mod note;
pub mod record;
pub mod sealer;
pub mod source;
pub(crate) mod store;
pub mod task;
pub mod verify;
pub mod witness;

use crate::db::DbError;
use crate::ids::{JobId, OrganizationId, PatientId};
use crate::telemetry::traces::TraceContext;
use serde_json::Value;
use sqlx::PgConnection;

/// FHIR AuditEvent.action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// C
    Create,
    /// R
    Read,
    /// U
    Update,
    /// D
    Delete,
    /// E
    Execute,
}

impl Action {
    fn letter(self) -> &'static str {
        match self {
            Self::Create => "C",
            Self::Read => "R",
            Self::Update => "U",
            Self::Delete => "D",
            Self::Execute => "E",
        }
    }
}

/// How the recorded act ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    /// It was done.
    #[default]
    Success,
    /// It was refused.
    Denied,
    /// It was tried and failed.
    Failure,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Denied => "denied",
            Self::Failure => "failure",
        }
    }
}

/// Who acted, and through which request.
#[derive(Debug, Clone, Default)]
pub struct Actor {
    /// `key:<id>`, `worker:<id>`, `cli`.
    pub name: String,
    /// `api_key`, `internal`.
    pub authentication: Option<String>,
    /// The peer's address.
    pub address: Option<String>,
    /// The request's id.
    pub request_id: Option<String>,
    /// Where what it causes belongs in a trace; not part of any record.
    pub trace: Option<TraceContext>,
}

impl Actor {
    /// The program itself, in the named part.
    #[must_use]
    pub fn internal(part: &str) -> Self {
        Self { name: part.to_owned(), authentication: Some("internal".to_owned()), ..Self::default() }
    }
}

/// One record. `detail` holds codes and counts only.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// Whose data; [`OrganizationId::PLATFORM`] for acts on the installation itself.
    pub organization: OrganizationId,
    /// `noun.verb`, such as `job.accepted`.
    pub event: &'a str,
    /// C R U D E.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
    /// Who.
    pub actor: &'a Actor,
    /// The patient concerned, if one is known.
    pub patient: Option<PatientId>,
    /// The job concerned.
    pub job: Option<JobId>,
    /// The step concerned.
    pub step: Option<&'a str>,
    /// Another resource, by type and id.
    pub resource: Option<&'a str>,
    /// Hash of the bytes concerned.
    pub body_sha256: Option<&'a [u8]>,
    /// The reason that a person gave.
    pub purpose: Option<&'a str>,
    /// Codes and counts.
    pub detail: Option<Value>,
}

impl<'a> Record<'a> {
    /// A record with only the always-present parts.
    #[must_use]
    pub fn new(organization: OrganizationId, event: &'a str, action: Action, actor: &'a Actor) -> Self {
        Self {
            organization,
            event,
            action,
            outcome: Outcome::Success,
            actor,
            patient: None,
            job: None,
            step: None,
            resource: None,
            body_sha256: None,
            purpose: None,
            detail: None,
        }
    }
}

/// Append a record for each patient, with its detail, that is otherwise the same: one statement, however many.
///
/// # Errors
/// As [`append`].
pub async fn append_for_patients(
    connection: &mut PgConnection,
    record: Record<'_>,
    patients: Vec<(PatientId, Value)>,
) -> Result<(), DbError> {
    if patients.is_empty() {
        return Ok(());
    }
    let (patients, details): (Vec<PatientId>, Vec<Value>) = patients.into_iter().unzip();
    sqlx::query(
        "insert into audit_records
           (organization_id, at, event, action, outcome, actor, authentication, address, purpose, patient_id,
            resource, job_id, step, request_id, body_sha256, program_version, detail)
         select $1, n.now, $2, $3, $4, $5, $6, $7, $8, p.patient_id, $10, $11, $12, $13, $14, $15, p.detail
         from unnest($9::uuid[], $16::jsonb[]) with ordinality as p (patient_id, detail, ordinal)
         cross join (select chartgate_now() as now) n
         order by p.ordinal",
    )
    .bind(record.organization)
    .bind(record.event)
    .bind(record.action.letter())
    .bind(record.outcome.as_str())
    .bind(&record.actor.name)
    .bind(&record.actor.authentication)
    .bind(&record.actor.address)
    .bind(record.purpose)
    .bind(patients)
    .bind(record.resource)
    .bind(record.job)
    .bind(record.step)
    .bind(&record.actor.request_id)
    .bind(record.body_sha256)
    .bind(env!("CARGO_PKG_VERSION"))
    .bind(details)
    .execute(connection)
    .await?;
    Ok(())
}

/// Append a record for each payload, given by its hash, that is otherwise the same: one statement, however many.
///
/// # Errors
/// As [`append`].
pub async fn append_for_payloads(
    connection: &mut PgConnection,
    record: Record<'_>,
    payloads: &[Vec<u8>],
) -> Result<(), DbError> {
    sqlx::query(
        "insert into audit_records
           (organization_id, at, event, action, outcome, actor, authentication, address, purpose, request_id, body_sha256,
            program_version, detail)
         select $1, n.now, $2, $3, $4, $5, $6, $7, $8, $9, p.sha256, $11, $12
         from unnest($10::bytea[]) with ordinality as p (sha256, ordinal)
         cross join (select chartgate_now() as now) n
         order by p.ordinal",
    )
    .bind(record.organization)
    .bind(record.event)
    .bind(record.action.letter())
    .bind(record.outcome.as_str())
    .bind(&record.actor.name)
    .bind(&record.actor.authentication)
    .bind(&record.actor.address)
    .bind(record.purpose)
    .bind(&record.actor.request_id)
    .bind(payloads)
    .bind(env!("CARGO_PKG_VERSION"))
    .bind(record.detail)
    .execute(connection)
    .await?;
    Ok(())
}

/// Append one record in the caller's transaction.
///
/// # Errors
/// A [`DbError`]; the caller's transaction must then fail too.
pub async fn append(connection: &mut PgConnection, record: Record<'_>) -> Result<(), DbError> {
    sqlx::query(
        "insert into audit_records
           (organization_id, at, event, action, outcome, actor, authentication, address, purpose, patient_id,
            resource, job_id, step, request_id, body_sha256, program_version, detail)
         values ($1, chartgate_now(), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
    )
    .bind(record.organization)
    .bind(record.event)
    .bind(record.action.letter())
    .bind(record.outcome.as_str())
    .bind(&record.actor.name)
    .bind(&record.actor.authentication)
    .bind(&record.actor.address)
    .bind(record.purpose)
    .bind(record.patient)
    .bind(record.resource)
    .bind(record.job)
    .bind(record.step)
    .bind(&record.actor.request_id)
    .bind(record.body_sha256)
    .bind(env!("CARGO_PKG_VERSION"))
    .bind(record.detail)
    .execute(connection)
    .await?;
    Ok(())
}
