//! Telling callbacks of a job's end again: the act behind HTTP and the console.

use super::messages_store::{self as messages, ResentView};
use super::store;
use crate::audit::{self, Action, Actor, Record};
use crate::db::{Db, DbError, Scope};
use crate::engine::jobs_store;
use crate::engine::state::JobStatus;
use crate::ids::{CallbackId, JobId, OrganizationId};
use serde_json::json;

/// What came of it.
pub enum Resend {
    /// There is no such job.
    NoJob,
    /// The job has not ended: there is nothing to tell yet.
    NotEnded,
    /// There is no such callback.
    NoCallback,
    /// These messages wait; one for each callback.
    Done(Vec<ResentView>),
}

/// Tell the callback, or without one every active callback that wants such ends, of the job's end again, or for the first time.
///
/// # Errors
/// The database's.
pub async fn resend(
    db: &Db,
    organization: OrganizationId,
    job: JobId,
    callback: Option<CallbackId>,
    actor: &Actor,
    reason: Option<&str>,
) -> Result<Resend, DbError> {
    let (actor, reason) = (actor.clone(), reason.map(str::to_owned));
    db.unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
        Box::pin(async move {
            let Some(row) = jobs_store::find_job(connection, organization, job).await? else {
                return Ok(Resend::NoJob);
            };
            if !JobStatus::parse(&row.status).is_some_and(JobStatus::is_terminal) {
                return Ok(Resend::NotEnded);
            }
            if let Some(callback) = callback
                && store::receiver(connection, organization, callback).await?.is_none()
            {
                return Ok(Resend::NoCallback);
            }
            let resent = messages::resend(connection, organization, job, callback).await?;
            let mut record = Record::new(organization, "callback.resent", Action::Execute, &actor);
            record.job = Some(job);
            record.purpose = reason.as_deref();
            record.detail = Some(json!({ "messages": resent.len() }));
            audit::append(connection, record).await?;
            Ok(Resend::Done(resent))
        })
    })
    .await
}
