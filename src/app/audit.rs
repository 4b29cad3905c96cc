//! Looking audit records up, and verifying the audit log, as HTTP and the console call them. Each is a record itself.

use super::App;
use crate::audit::list_store::{self, Found, RecordFilter};
use crate::audit::source::{Live, SourceError};
use crate::audit::verify::{Report, verify};
use crate::audit::{self, Action, Actor, Record};
use crate::db::{DbError, Scope};
use crate::ids::OrganizationId;

impl App {
    /// A page of records, newest first; of the caller's organization, or for the platform (`own` is none) of the wanted one or
    /// of all. That somebody looked is recorded first.
    ///
    /// # Errors
    /// The database's.
    pub async fn look_up_records(
        &self,
        (own, wanted): (Option<OrganizationId>, Option<OrganizationId>),
        filter: RecordFilter,
        below: Option<i64>,
        limit: i64,
        actor: &Actor,
    ) -> Result<Found, DbError> {
        let (actor, patient, job) = (actor.clone(), filter.patient, filter.job);
        let home = own.unwrap_or(OrganizationId::PLATFORM);
        // Beside the platform's reading: that role reads over all organizations, and may not write.
        self.db
            .unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
                Box::pin(async move {
                    let mut record = Record::new(home, "audit.read", Action::Read, &actor);
                    (record.patient, record.job) = (patient, job);
                    audit::append(connection, record).await
                })
            })
            .await?;
        if own.is_some_and(|own| wanted.is_some_and(|wanted| wanted != own)) {
            // Somebody else's organization has no records for this caller, whether it exists or not.
            return Ok((Vec::new(), None));
        }
        self.records_of(own, own.or(wanted), filter, below, limit).await
    }

    /// The same without a record, for what the program itself shows of its own acts.
    ///
    /// # Errors
    /// The database's.
    pub async fn records_of(
        &self,
        own: Option<OrganizationId>,
        only: Option<OrganizationId>,
        filter: RecordFilter,
        below: Option<i64>,
        limit: i64,
    ) -> Result<Found, DbError> {
        let scope = own.map_or(Scope::Platform, Scope::Organization);
        self.db
            .unit::<_, DbError, _>(scope, move |connection| {
                Box::pin(async move {
                    let organizations = match only {
                        Some(one) => vec![one],
                        None => list_store::organizations(connection).await?,
                    };
                    list_store::page(connection, &organizations, &filter, below, limit).await
                })
            })
            .await
    }

    /// Verify the audit log, whole or behind a checkpoint that is believed if it is signed. For the platform only.
    ///
    /// # Errors
    /// [`SourceError`]: what cannot be read now. What is found is in the report, also if it is bad.
    pub async fn verify_audit(
        &self,
        behind: Option<i64>,
        actor: &Actor,
        reason: Option<&str>,
    ) -> Result<Report, SourceError> {
        let anchors = self.audit_anchors().await?;
        let mut source = Live::new(self.db.clone(), self.objects.clone(), behind);
        let report = verify(&mut source, &anchors).await?;
        if !report.ok {
            tracing::error!(
                faults = report.faults_total,
                record = report.first_bad_record,
                "the audit log was changed"
            );
        }
        let (is_ok, faults) = (report.ok, report.faults_total);
        let (actor, reason) = (actor.clone(), reason.map(str::to_owned));
        self.db
            .unit::<_, DbError, _>(Scope::Organization(OrganizationId::PLATFORM), move |connection| {
                Box::pin(async move {
                    let mut record = Record::new(OrganizationId::PLATFORM, "audit.verified", Action::Read, &actor);
                    record.purpose = reason.as_deref();
                    record.detail = Some(serde_json::json!({ "ok": is_ok, "faults": faults }));
                    audit::append(connection, record).await
                })
            })
            .await?;
        Ok(report)
    }
}
