//! The decision to erase, in one transaction: under the locks of the payloads concerned nothing holds them and no job of theirs is at
//! work; then their content goes, and what else must go is written down. If it was decided before: that decision.

use super::objects_store::{self, Doom};
use super::store::{self, Decision, Marked};
use super::{EraseError, Target, holds_store, person_store};
use crate::audit::{self, Action, Record};
use crate::db::DbError;
use crate::ids::{ErasureId, JobId, OrganizationId, PatientId};
use crate::ingest::linking::acts::By;
use crate::ingest::linking::erase::Counts;
use crate::ingest::patients;
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;

/// See the module. A rehearsal does not wait for others that decide: [`DbError::Conflict`].
pub async fn mark(
    connection: &mut PgConnection,
    organization: OrganizationId,
    target: Target,
    by: &By,
    is_rehearsal: bool,
) -> Result<Marked, EraseError> {
    // Before any payload: so does retention.
    if !is_rehearsal {
        holds_store::lock(connection, organization).await?;
    } else if !holds_store::try_lock(connection, organization).await? {
        return Err(DbError::stale().into());
    }
    match target {
        Target::Payload(sha256) => mark_payload(connection, organization, &sha256, by).await,
        Target::Patient { patient, shared_too } => {
            mark_patient(connection, organization, patient, shared_too, by).await
        }
    }
}

async fn mark_payload(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8; 32],
    by: &By,
) -> Result<Marked, EraseError> {
    let mut payload = store::lock_payload(connection, organization, sha256).await?;
    if payload.is_none() {
        store::adopt_payload(connection, organization, sha256).await?;
        payload = store::lock_payload(connection, organization, sha256).await?;
    }
    let payload = payload.ok_or(EraseError::PayloadNotFound)?;
    if payload.is_purged {
        let known = store::of_payload(connection, organization, sha256).await?;
        return known.ok_or(EraseError::PayloadNotFound);
    }
    let what = What { payloads: vec![sha256.to_vec()], ..What::default() };
    let jobs = what.may_go(connection, organization).await?;
    let mut record = Record::new(organization, "payload.purge_begun", Action::Delete, &by.actor);
    record.body_sha256 = Some(sha256);
    what.begin(connection, organization, jobs, record, by).await
}

async fn mark_patient(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patient: PatientId,
    shared_too: bool,
    by: &By,
) -> Result<Marked, EraseError> {
    if let Some(goes_on) = store::of_patient(connection, organization, patient, true).await? {
        return Ok(goes_on);
    }
    // Who was merged into another one is that one.
    let Some(patient) = patients::survivor(connection, organization, patient).await? else {
        let ended = store::of_patient(connection, organization, patient, false).await?;
        return ended.ok_or(EraseError::PatientNotFound);
    };
    let persons = person_store::persons(connection, organization, patient).await?;
    let payloads = person_store::lock_payloads_of(connection, organization, &persons).await?;
    let what = What { patient: Some(patient), payloads, persons };
    let jobs = what.may_go(connection, organization).await?;
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let shared = person_store::shared(connection, organization, &ids, &what.persons).await?;
    if shared > 0 && !shared_too {
        return Err(EraseError::Shared { shared, payloads: what.payloads.len() });
    }
    let mut record = Record::new(organization, "patient.purge_begun", Action::Delete, &by.actor);
    record.patient = Some(patient);
    what.begin(connection, organization, jobs, record, by).await
}

/// What is to go.
#[derive(Default)]
struct What {
    patient: Option<PatientId>,
    payloads: Vec<Vec<u8>>,
    persons: Vec<PatientId>,
}

impl What {
    /// The jobs of the payloads, if they may go.
    async fn may_go(
        &self,
        connection: &mut PgConnection,
        organization: OrganizationId,
    ) -> Result<Vec<store::PayloadJob>, EraseError> {
        let jobs = store::jobs_of(connection, organization, &self.payloads).await?;
        if jobs.iter().any(|job| job.is_live) {
            return Err(EraseError::JobNotFinished);
        }
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        if holds_store::forbids(connection, organization, &self.payloads, &ids, &self.persons).await? {
            return Err(EraseError::Held);
        }
        Ok(jobs)
    }

    async fn begin(
        self,
        connection: &mut PgConnection,
        organization: OrganizationId,
        jobs: Vec<store::PayloadJob>,
        mut record: Record<'_>,
        by: &By,
    ) -> Result<Marked, EraseError> {
        let id = ErasureId::new();
        let again = jobs.iter().any(|job| job.is_recent);
        let uploads: Vec<JobId> = jobs.iter().filter(|job| job.is_upload).map(|job| job.id).collect();
        let jobs: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        let decision = Decision {
            kind: if self.patient.is_some() { "patient" } else { "payload" },
            payload: self.payloads.first().filter(|_| self.patient.is_none()).map(Vec::as_slice),
            patient: self.patient,
            payloads: &self.payloads,
            jobs: &jobs,
            persons: &self.persons,
        };
        store::begin(connection, organization, id, &decision, by).await?;
        let doom = Doom { payloads: &self.payloads, uploads: &uploads, outcomes: &uploads, names: &uploads, again };
        objects_store::doom(connection, organization, id, doom).await?;
        let emptied = store::empty_payloads(connection, organization, id, &self.payloads).await?;
        record.purpose = Some(&by.reason);
        record.detail = Some(json!({ "erasure": id, "jobs": jobs.len(), "payloads": emptied }));
        audit::append(connection, record).await?;
        let counts = Counts::from([("payloads".to_owned(), emptied)]);
        store::set_counts(connection, organization, id, &counts).await?;
        let payload_count = i64::try_from(emptied).unwrap_or(i64::MAX);
        Ok(Marked {
            id,
            jobs,
            persons: self.persons,
            patient_id: self.patient,
            payload_count,
            counts: Json(counts),
            is_new: true,
        })
    }
}
