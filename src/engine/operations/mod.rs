//! Acts of administrators on jobs: retry and cancel one, and bulk operations over many, which are durable jobs of their own.
//!
//! The use cases behind HTTP and the console: both call [`Operations`] (`App::operations()`) and only shape what it answers. An
//! operation is rows (docs/bulk-operations.md): [`Operations::start`] writes them, [`run::run`] in any process with the
//! sweeper role acts on them piece by piece, [`Operations::steer`] stops, resumes and undoes it.

pub mod plan;
mod results_store;
pub mod run;
pub mod store;
mod targets_store;
mod view;

pub use plan::RetryVersion;
pub use view::{OperationJob, OperationJobs, OperationPage, OperationView};

use super::catalog::{Catalog, CatalogError};
use super::jobs::JobFilter;
use super::jobs_store::{self, Acted};
use super::state::JobStatus;
use super::wake::Wake;
use crate::audit::{self, Action, Actor, Record};
use crate::db::{Db, DbError, Scope};
use crate::ids::{JobId, OperationId, OrganizationId};
use plan::{PlanFault, next_round};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::IfHeld;

/// Jobs of one operation, at most.
pub const TARGETS_MAX: i64 = 100_000;
/// Jobs that may be named one by one.
pub const IDS_MAX: usize = 1000;
/// Jobs a second, where nobody says another rate.
pub const RATE: u32 = 100;
/// The highest rate.
pub const RATE_MAX: u32 = 10_000;
/// Operations, or jobs of one, of a page.
pub const PAGE_MAX: i64 = 200;

/// What an operation does with each of its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum OperationKind {
    /// Opens its next round where the request says.
    Retry,
    /// Cancels it.
    Cancel,
    /// Opens its next round from the start on the newest version of its workflow.
    Reprocess,
}

impl OperationKind {
    /// The word in SQL, JSON and docs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel => "cancel",
            Self::Reprocess => "reprocess",
        }
    }
}

/// A bulk operation as it is asked for. `filter` or `ids`, not both.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkRequest {
    /// What to do.
    pub kind: OperationKind,
    /// All jobs that meet it; without a status the failed ones, or for `cancel` all that are queued, running or retrying.
    pub filter: Option<JobFilter>,
    /// Or exactly these, at most [`IDS_MAX`].
    pub ids: Option<Vec<JobId>>,
    /// Of a retry: `failed_step`, `failed_lines`, `start`, or the name of a step.
    pub from: String,
    /// Of a retry.
    pub version: RetryVersion,
    /// Jobs a second, 1 to [`RATE_MAX`]; [`RATE`] without it.
    pub rate_per_second: Option<u32>,
    /// So many first; the rest only if none of them fails again. Not for `cancel`.
    pub canary: Option<u32>,
    /// Stop when so many failed again. Not for `cancel`.
    pub stop_after_failures: Option<u32>,
    /// Only count.
    pub dry_run: bool,
    /// Why, in 1 to 1,000 characters, not only spaces; kept in the audit log.
    pub reason: String,
}

impl BulkRequest {
    /// A request with the defaults: from the failed step, on the pinned version, 100 jobs a second, no canary.
    #[must_use]
    pub fn new(kind: OperationKind, reason: String) -> Self {
        Self {
            kind,
            filter: None,
            ids: None,
            from: "failed_step".to_owned(),
            version: RetryVersion::Pinned,
            rate_per_second: None,
            canary: None,
            stop_after_failures: None,
            dry_run: false,
            reason,
        }
    }

    /// What is wrong with it, in words for its author.
    ///
    /// # Errors
    /// [`OperationError::Invalid`].
    pub fn check(&self) -> Result<(), OperationError> {
        check_reason(&self.reason)?;
        let most = u32::try_from(TARGETS_MAX).unwrap_or(u32::MAX);
        let fault = if self.rate_per_second.is_some_and(|rate| !(1..=RATE_MAX).contains(&rate)) {
            "`ratePerSecond` must be a number from 1 to 10000."
        } else if self.canary.is_some_and(|canary| canary > most) {
            "`canary` must be a number from 0 to 100000."
        } else if self.stop_after_failures.is_some_and(|failures| !(1..=most).contains(&failures)) {
            "`stopAfterFailures` must be a number from 1 to 100000."
        } else if self.kind == OperationKind::Cancel && (self.canary > Some(0) || self.stop_after_failures.is_some()) {
            "A cancelled job does not fail again: `canary` and `stopAfterFailures` are for retries."
        } else if self.from.is_empty() || self.from.chars().count() > 200 {
            "`from` must be failed_step, failed_lines, start, or the name of a step."
        } else {
            match (&self.filter, &self.ids) {
                (Some(filter), None) => return self.check_status(filter.status),
                (None, Some(ids)) if (1..=IDS_MAX).contains(&ids.len()) => return Ok(()),
                _ => "Give either `filter` or `ids` (1 to 1000 of them).",
            }
        };
        Err(OperationError::Invalid(fault.to_owned()))
    }

    fn check_status(&self, status: Option<JobStatus>) -> Result<(), OperationError> {
        let (allowed, words) = if self.kind == OperationKind::Cancel {
            (status.is_none_or(|status| !status.is_terminal()), "queued, running, retrying or awaiting_upload")
        } else {
            let ended = status.is_none_or(|status| status.is_terminal() && status != JobStatus::Expired);
            (ended, "failed, cancelled, succeeded or succeeded_with_issues")
        };
        if allowed { Ok(()) } else { Err(OperationError::Invalid(format!("`filter.status` must be {words}."))) }
    }

    /// The filter with its status: what is stored and selected by.
    fn filter_with_status(&self) -> JobFilter {
        let mut filter = self.filter.clone().unwrap_or_default();
        match self.kind {
            OperationKind::Cancel => filter.is_live = filter.status.is_none(),
            _ => filter.status = filter.status.or(Some(JobStatus::Failed)),
        }
        filter
    }
}

/// A reason that can be kept: 1 to 1,000 characters, not only spaces.
///
/// # Errors
/// [`OperationError::Invalid`].
pub fn check_reason(reason: &str) -> Result<(), OperationError> {
    if !reason.trim().is_empty() && reason.chars().count() <= 1000 {
        return Ok(());
    }
    Err(OperationError::Invalid("`reason` must have 1 to 1000 characters, not only spaces.".to_owned()))
}

/// Why an act was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The request is wrong: a sentence for its author.
    #[error("{0}")]
    Invalid(String),
    /// There is no such operation, or not for this caller.
    #[error("there is no such operation")]
    NotFound,
    /// The operation's status does not allow it: a sentence for people.
    #[error("{0}")]
    NotPossible(String),
    /// A workflow version cannot be loaded.
    #[error("a workflow version cannot be loaded")]
    Catalog(#[from] CatalogError),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<PlanFault> for OperationError {
    fn from(fault: PlanFault) -> Self {
        Self::Invalid(fault.to_string())
    }
}

/// The acts, for HTTP, console and sweeper. Cheap to make and to clone. Nothing here asks who may: callers do.
#[derive(Clone)]
pub struct Operations {
    db: Db,
    catalog: Catalog,
    wake: Wake,
}

/// Where an operation of that caller is kept: with its organization, or with the platform.
fn home(organization: Option<OrganizationId>) -> OrganizationId {
    organization.unwrap_or(OrganizationId::PLATFORM)
}

impl Operations {
    /// Over these.
    #[must_use]
    pub fn new(db: Db, catalog: Catalog, wake: Wake) -> Self {
        Self { db, catalog, wake }
    }

    /// Open the next round of one job that has ended: `from` is `failed_step`, `failed_lines`, `start`, or a step's name.
    /// [`Acted::Refused`]: it has not ended, or somebody else was faster.
    ///
    /// # Errors
    /// [`OperationError::Invalid`] names the steps when there is none of that name; a version that is gone; the database's.
    pub async fn retry_one(
        &self,
        organization: OrganizationId,
        job: JobId,
        from: &str,
        version: RetryVersion,
        actor: &Actor,
        reason: &str,
    ) -> Result<Acted, OperationError> {
        check_reason(reason)?;
        let read = self.db.unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move { targets_store::jobs(connection, &[(organization, job)]).await })
        });
        let Some(ended) = read.await?.pop() else { return Ok(Acted::Unknown) };
        let definition = match version {
            RetryVersion::Pinned => self.catalog.resolve(&self.db, &ended.workflow, ended.workflow_version).await?,
            RetryVersion::Latest => self.catalog.latest(&ended.workflow)?,
        };
        let next = next_round(&definition, ended.ended(), &ended.steps.0, from)?;
        let (actor, reason) = (actor.clone(), reason.to_owned());
        let act = self.db.unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(
                async move { jobs_store::retry_job(connection, organization, job, next, &actor, Some(&reason)).await },
            )
        });
        let acted = act.await?;
        self.wake.signal();
        Ok(acted)
    }

    /// Cancel one job that has not ended; steps that committed stay. [`Acted::Refused`]: it has ended.
    ///
    /// # Errors
    /// The database's.
    pub async fn cancel_one(
        &self,
        organization: OrganizationId,
        job: JobId,
        actor: &Actor,
        reason: Option<&str>,
    ) -> Result<Acted, OperationError> {
        let (actor, reason) = (actor.clone(), reason.map(str::to_owned));
        let act = self.db.unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(
                async move { jobs_store::cancel_job(connection, organization, job, &actor, reason.as_deref()).await },
            )
        });
        let acted = act.await?;
        self.wake.signal();
        Ok(acted)
    }

    /// Begin a bulk operation on jobs of that organization, or with `None` (platform) of all. With `dry_run` only counts:
    /// status `dry_run`, nothing stored. Else it is stored and goes on by itself.
    ///
    /// # Errors
    /// [`OperationError::Invalid`], or the database's.
    pub async fn start(
        &self,
        organization: Option<OrganizationId>,
        request: &BulkRequest,
        actor: &Actor,
    ) -> Result<OperationView, OperationError> {
        request.check()?;
        let home = home(organization);
        let mut request = request.clone();
        let targets = self.targets(organization, &mut request).await?;
        let (matched, cut) = match &targets {
            Some(targets) => (i64::try_from(targets.len()).unwrap_or(TARGETS_MAX), false),
            None => self.count(organization, &request).await?,
        };
        let matched = i32::try_from(matched).unwrap_or(i32::MAX);
        let id = OperationId::new();
        if request.dry_run {
            return Ok(OperationView::dry_run(id, &request, matched, cut));
        }
        let actor = actor.clone();
        let stored = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                store::insert(connection, home, id, &request, (matched, cut), &actor).await?;
                if let Some(targets) = &targets {
                    targets_store::insert(connection, home, id, 0, targets).await?;
                }
                let resource = id.to_string();
                let mut record = Record::new(home, "operation.started", Action::Execute, &actor);
                record.purpose = Some(&request.reason);
                record.resource = Some(&resource);
                record.detail = Some(json!({ "kind": request.kind.as_str(), "matched": matched, "cut": cut }));
                audit::append(connection, record).await?;
                store::find(connection, home, id).await
            })
        });
        let row = stored.await?.ok_or(OperationError::NotFound)?;
        Ok(OperationView::of(&row))
    }

    /// The jobs that are named, where the caller has them; none: the filter decides.
    async fn targets(
        &self,
        organization: Option<OrganizationId>,
        request: &mut BulkRequest,
    ) -> Result<Option<Vec<(OrganizationId, JobId)>>, DbError> {
        let Some(ids) = &mut request.ids else {
            request.filter = Some(request.filter_with_status());
            return Ok(None);
        };
        ids.sort_unstable();
        ids.dedup();
        let ids = ids.clone();
        let scope = organization.map_or(Scope::Platform, Scope::Organization);
        let found = self.db.unit::<_, DbError, _>(scope, move |connection| {
            Box::pin(async move { targets_store::locate(connection, organization, &ids).await })
        });
        found.await.map(Some)
    }

    async fn count(&self, organization: Option<OrganizationId>, request: &BulkRequest) -> Result<(i64, bool), DbError> {
        let filter = request.filter.clone().unwrap_or_default();
        let scope = organization.map_or(Scope::Platform, Scope::Organization);
        let counted = self.db.unit::<_, DbError, _>(scope, move |connection| {
            Box::pin(async move { targets_store::count(connection, organization, &filter, TARGETS_MAX + 1).await })
        });
        let counted = counted.await?;
        Ok((counted.min(TARGETS_MAX), counted > TARGETS_MAX))
    }

    /// A page of the operations of that organization (of the platform), newest first, after `after`; at most [`PAGE_MAX`].
    ///
    /// # Errors
    /// The database's.
    pub async fn list(
        &self,
        organization: Option<OrganizationId>,
        after: Option<OperationId>,
        limit: i64,
    ) -> Result<OperationPage, OperationError> {
        let (home, limit) = (home(organization), limit.clamp(1, PAGE_MAX));
        let rows = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            // One more, to know whether there is another page.
            Box::pin(async move { store::list(connection, home, after, limit + 1).await })
        });
        let mut rows = rows.await?;
        let more = i64::try_from(rows.len()).unwrap_or(0) > limit;
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next_cursor = rows.last().filter(|_| more).map(|row| row.id.to_string());
        Ok(OperationPage { operations: rows.iter().map(OperationView::of).collect(), next_cursor })
    }

    /// One operation.
    ///
    /// # Errors
    /// [`OperationError::NotFound`], also for another organization's; the database's.
    pub async fn find(
        &self,
        organization: Option<OrganizationId>,
        id: OperationId,
    ) -> Result<OperationView, OperationError> {
        let home = home(organization);
        let row = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move { store::find(connection, home, id).await })
        });
        row.await?.map(|row| OperationView::of(&row)).ok_or(OperationError::NotFound)
    }

    /// A page of an operation's jobs by position, behind position `after`; only those in `state` (waiting, acted, skipped,
    /// refused, undone), if one is given.
    ///
    /// # Errors
    /// [`OperationError::NotFound`]; the database's.
    pub async fn jobs(
        &self,
        organization: Option<OrganizationId>,
        id: OperationId,
        state: Option<String>,
        after: i32,
        limit: i64,
    ) -> Result<OperationJobs, OperationError> {
        let (home, limit) = (home(organization), limit.clamp(1, PAGE_MAX));
        let found = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                if store::find(connection, home, id).await?.is_none() {
                    return Ok(None);
                }
                targets_store::list(connection, home, id, state.as_deref(), after, limit + 1).await.map(Some)
            })
        });
        let jobs = found.await?.ok_or(OperationError::NotFound)?;
        Ok(page_of(jobs, limit))
    }

    /// A page of an operation's jobs that failed again, by position, behind position `after`.
    ///
    /// # Errors
    /// [`OperationError::NotFound`]; the database's.
    pub async fn failed_again(
        &self,
        organization: Option<OrganizationId>,
        id: OperationId,
        after: i32,
        limit: i64,
    ) -> Result<OperationJobs, OperationError> {
        let (home, limit) = (home(organization), limit.clamp(1, PAGE_MAX));
        let found = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                if store::find(connection, home, id).await?.is_none() {
                    return Ok(None);
                }
                results_store::failed_again(connection, home, id, after, limit + 1).await.map(Some)
            })
        });
        let jobs = found.await?.ok_or(OperationError::NotFound)?;
        Ok(page_of(jobs, limit))
    }

    /// Stop, resume or undo an operation; recorded with the reason.
    ///
    /// # Errors
    /// [`OperationError::NotFound`]; [`OperationError::NotPossible`] if its state does not allow that; the database's.
    pub async fn steer(
        &self,
        organization: Option<OrganizationId>,
        id: OperationId,
        act: Steer,
        actor: &Actor,
        reason: &str,
    ) -> Result<OperationView, OperationError> {
        check_reason(reason)?;
        let home = home(organization);
        let (actor, reason) = (actor.clone(), reason.to_owned());
        let steered = self.db.unit::<_, OperationError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                let row = store::hold(connection, home, id, IfHeld::Wait).await?.ok_or(OperationError::NotFound)?;
                act.allowed(&row)?;
                let event = match act {
                    Steer::Stop => {
                        store::stop(connection, home, id, "administrator").await?;
                        "operation.stopped"
                    }
                    Steer::Resume => {
                        store::resume(connection, home, id).await?;
                        "operation.resumed"
                    }
                    Steer::Undo => {
                        store::begin_undo(connection, home, id).await?;
                        "operation.undone"
                    }
                };
                let resource = id.to_string();
                let mut record = Record::new(home, event, Action::Execute, &actor);
                record.purpose = Some(&reason);
                record.resource = Some(&resource);
                record.detail = Some(json!({ "done": row.done, "matched": row.matched }));
                audit::append(connection, record).await?;
                store::find(connection, home, id).await?.ok_or(OperationError::NotFound)
            })
        });
        Ok(OperationView::of(&steered.await?))
    }
}

/// Of one more than the page, to know whether there is another.
fn page_of(mut jobs: Vec<OperationJob>, limit: i64) -> OperationJobs {
    let more = i64::try_from(jobs.len()).unwrap_or(0) > limit;
    jobs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = jobs.last().filter(|_| more).map(|job| job.position.to_string());
    OperationJobs { jobs, next_cursor }
}

/// What a person may do with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// Leave the rest alone; it must be under way.
    Stop,
    /// Go on with one that was stopped; behind a canary that failed, without asking it again.
    Resume,
    /// Take back what has been put into the queue again and has not begun, and leave the rest alone. A cancellation cannot be
    /// undone.
    Undo,
}

impl Steer {
    fn allowed(self, row: &store::OperationRow) -> Result<(), OperationError> {
        let status = row.status.as_str();
        let fault = match self {
            Self::Stop if ["running", "canary"].contains(&status) => return Ok(()),
            Self::Stop => format!("The operation is {status}: there is nothing to stop."),
            Self::Resume if status == "stopped" && row.stop_reason.as_deref() != Some("interrupted") => return Ok(()),
            Self::Resume => format!("The operation is {status}: only one that was stopped can go on."),
            Self::Undo if row.kind == OperationKind::Cancel => {
                "A cancellation cannot be undone: retry the jobs instead.".to_owned()
            }
            Self::Undo if ["running", "canary", "stopped", "succeeded"].contains(&status) => return Ok(()),
            Self::Undo => format!("The operation is {status}: it cannot be undone again."),
        };
        Err(OperationError::NotPossible(fault))
    }
}
