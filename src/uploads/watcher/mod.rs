//! The watcher: every object below `incoming/` becomes bytes of exactly one job, or is refused (docs/bulk.md).
//!
//! Promises: hints may be lost, doubled, late, out of order or forged, and any number of watchers may run: an object is
//! taken up once, because the row of `ingested_objects` that says so is written in the transaction that gives its job a
//! place in the queue. Nothing of a hint is believed but the name of an object, which HEAD then describes.
//!
//! Leaves to others: reading the object, and everything that is done with it.

pub mod events;
mod lifecycle;
mod run;
pub mod store;
mod sweep;
pub mod texts;

pub use lifecycle::Tidied;
pub use run::Sources;
pub use sweep::Swept;

use super::{CONTENT_TYPES, PREFIX, SIZE_BYTES_MAX, extension};
use crate::audit::{self, Action, Actor, Record};
use crate::db::{Db, DbError, Scope};
use crate::engine::catalog::{Catalog, CatalogError};
use crate::engine::wake::Wake;
use crate::ids::{JobId, OrganizationId, UploadId};
use crate::objects::{ObjectError, ObjectHead, Objects};
use crate::telemetry;
use sqlx::PgConnection;
use std::time::Duration;
use store::{ForeignJob, Owner, SeenObject};
use time::OffsetDateTime;

/// Everything below it is looked at; only what lies below [`PREFIX`] can become a job.
pub const WATCHED: &str = "incoming/";
/// Name of the workflow of every upload.
const WORKFLOW: &str = "bulk-upload";
/// Of objects that somebody else put there: nobody said which system they are from.
const SOURCE_LABEL: &str = "default";
/// S3's own bound.
const KEY_BYTES_MAX: usize = 1024;
/// A transaction that lost against another one is run again, at most so often.
const RUNS_MAX: usize = 5;
/// Objects that one source takes up at the same time: each needs a connection for a moment.
pub const AT_ONCE: usize = 6;

/// What made us look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// The sender said that it is done.
    Completion,
    /// A notification by HTTP.
    Notification,
    /// A notification in a queue.
    Queue,
    /// The embedded store's own event.
    Store,
    /// A listing.
    Sweep,
}

impl Hint {
    /// In rows, records and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completion => "completion",
            Self::Notification => "notification",
            Self::Queue => "queue",
            Self::Store => "store",
            Self::Sweep => "sweep",
        }
    }
}

/// What became of a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenUp {
    /// The object is this job's, which is in the queue now.
    Job(OrganizationId, JobId),
    /// The object is nobody's, for this reason. It is listed for the platform role.
    Refused(&'static str),
    /// This generation of the object was taken up or refused before.
    Known,
    /// There is no such object (any more, or yet).
    Absent,
    /// Not in our bucket, not below our prefix, or the mark of a folder: none of our business.
    Foreign,
}

impl TakenUp {
    fn as_str(self) -> &'static str {
        match self {
            Self::Job(..) => "taken_up",
            Self::Refused(_) => "refused",
            Self::Known => "known",
            Self::Absent => "absent",
            Self::Foreign => "foreign",
        }
    }
}

/// Why an object could not be taken up this time. The next hint, or the sweep, tries again.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// S3.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// PostgreSQL.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The workflow is not loaded.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// How the watcher works.
#[derive(Debug, Clone)]
pub struct WatcherOptions {
    /// Between two sweeps.
    pub sweep_every: Duration,
    /// How long refused objects are kept, and those of jobs that ended before their bytes were stored.
    pub keep: Duration,
}

/// The one that takes objects up. Cheap to clone.
#[derive(Clone)]
pub struct Watcher {
    db: Db,
    objects: Objects,
    catalog: Catalog,
    wake: Wake,
    options: WatcherOptions,
}

impl Watcher {
    /// Over this database and bucket.
    #[must_use]
    pub fn new(db: Db, objects: Objects, catalog: Catalog, wake: Wake, options: WatcherOptions) -> Self {
        Self { db, objects, catalog, wake, options }
    }

    /// The same for a key as the server knows it, with the configured prefix: what notifications name.
    ///
    /// # Errors
    /// [`WatchError`].
    pub async fn take_up_named(&self, hint: Hint, bucket: &str, full_key: &str) -> Result<TakenUp, WatchError> {
        match self.objects.short_key(full_key) {
            Some(key) => self.take_up(hint, bucket, &key).await,
            None => Ok(counted(hint, TakenUp::Foreign)),
        }
    }

    /// Look at an object and take it up if nobody has: the one function in which all hints end. Idempotent.
    ///
    /// # Errors
    /// [`WatchError`].
    pub async fn take_up(&self, hint: Hint, bucket: &str, key: &str) -> Result<TakenUp, WatchError> {
        let taken = self.try_take_up(hint, bucket, key).await;
        match taken {
            Ok(taken) => Ok(counted(hint, taken)),
            Err(error) => {
                telemetry::watcher_hint(hint.as_str(), "failed");
                Err(error)
            }
        }
    }

    async fn try_take_up(&self, hint: Hint, bucket: &str, key: &str) -> Result<TakenUp, WatchError> {
        if bucket != self.objects.bucket() || !is_watched(key) {
            return Ok(TakenUp::Foreign);
        }
        let Some(head) = self.objects.head(key).await? else { return Ok(TakenUp::Absent) };
        let workflow = self.catalog.latest(WORKFLOW)?;
        let named = Named::of(key);
        let seen = SeenObject {
            bucket: bucket.to_owned(),
            storage_key: key.to_owned(),
            generation: store::generation_of(&head),
            head,
            source: hint.as_str(),
        };
        let looked = seen.clone();
        let (known, exists) = self
            .db
            .unit::<_, DbError, _>(Scope::Global, move |connection| {
                Box::pin(async move {
                    if store::is_known(connection, &looked).await? {
                        return Ok((true, false));
                    }
                    let exists = match named.organization {
                        Some(organization) => store::organization_exists(connection, organization).await?,
                        None => false,
                    };
                    Ok((false, exists))
                })
            })
            .await?;
        if known {
            return Ok(TakenUp::Known);
        }
        let mut runs = 0;
        loop {
            runs += 1;
            let (seen, workflow) = (seen.clone(), workflow.clone());
            let organization = named.organization.filter(|_| exists);
            let modified = seen.head.modified;
            let unit = self.db.unit::<_, DbError, _>(
                Scope::Organization(organization.unwrap_or(OrganizationId::PLATFORM)),
                move |connection| {
                    Box::pin(async move {
                        let new =
                            New { workflow: &workflow.name, version: workflow.version, priority: workflow.priority };
                        let taken = match organization {
                            Some(organization) => decide(connection, organization, named.upload, &seen, &new).await?,
                            None => refuse(connection, None, &seen, "organization_unknown").await?,
                        };
                        Ok((taken, store::now(connection).await?))
                    })
                },
            );
            match unit.await {
                Err(DbError::Conflict(_)) if runs < RUNS_MAX => {}
                Err(error) => return Err(error.into()),
                Ok((taken, now)) => {
                    self.tell(hint, taken, modified, now);
                    return Ok(taken);
                }
            }
        }
    }

    /// Wake the workers, and say what happened: ids only.
    fn tell(&self, hint: Hint, taken: TakenUp, modified: Option<OffsetDateTime>, now: OffsetDateTime) {
        match taken {
            TakenUp::Job(organization, job) => {
                self.wake.signal();
                telemetry::intake_accepted("upload");
                let waited = modified.and_then(|modified| Duration::try_from(now - modified).ok());
                telemetry::upload_taken_up(hint.as_str(), waited.unwrap_or_default());
                tracing::debug!(job.id = %job, organization.id = %organization, hint = hint.as_str(), "the object of job {job} was taken up");
            }
            TakenUp::Refused(reason) => {
                telemetry::upload_refused(reason);
                tracing::warn!(
                    reason,
                    hint = hint.as_str(),
                    "an object below incoming/ was refused: see GET /v1/admin/objects/refused"
                );
            }
            TakenUp::Known | TakenUp::Absent | TakenUp::Foreign => {}
        }
    }
}

fn counted(hint: Hint, taken: TakenUp) -> TakenUp {
    telemetry::watcher_hint(hint.as_str(), taken.as_str());
    taken
}

/// Could an object of this key concern us? What S3 cannot hold is not asked for; names that end with `/` are what tools
/// make to show a folder.
fn is_watched(key: &str) -> bool {
    key.starts_with(WATCHED) && !key.ends_with('/') && key.len() <= KEY_BYTES_MAX && !key.contains(char::is_control)
}

/// What a key says; to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named {
    organization: Option<OrganizationId>,
    upload: Option<UploadId>,
}

impl Named {
    fn of(key: &str) -> Self {
        let below = key.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('/'));
        let Some((organization, rest)) = below.and_then(|below| below.split_once('/')) else {
            return Self { organization: None, upload: None };
        };
        let file = rest.rsplit('/').next().unwrap_or_default();
        let upload = file.split('.').next().and_then(|name| name.parse().ok());
        Self { organization: organization.parse().ok(), upload }
    }
}

/// Of the workflow, for a job of its own.
struct New<'a> {
    workflow: &'a str,
    version: i32,
    priority: i16,
}

/// Do the object's metadata say something else than its key? What is not there says nothing.
fn metadata_disagree(head: &ObjectHead, organization: OrganizationId, upload: Option<UploadId>) -> bool {
    let said = |name: &str| head.metadata.get(name).map(String::as_str);
    said("organization_id").is_some_and(|said| said.parse() != Ok(organization))
        || said("upload_id").is_some_and(|said| said.parse().ok() != upload || upload.is_none())
}

/// In one transaction, of an organization that exists: whose the object is, its row, and what follows from it. The row
/// comes last of the decisions and first of the changes: whoever does not get it in changes nothing.
async fn decide(
    connection: &mut PgConnection,
    organization: OrganizationId,
    named: Option<UploadId>,
    seen: &SeenObject,
    new: &New<'_>,
) -> Result<TakenUp, DbError> {
    if seen.head.size > SIZE_BYTES_MAX {
        // Somebody put it in parts: S3 copies no more than this in one request, and no URL of ours admits it.
        return refuse(connection, Some(organization), seen, "too_large").await;
    }
    let waiting = match named {
        Some(upload) => store::lock_upload(connection, organization, upload).await?.map(|waiting| (upload, waiting)),
        None => None,
    };
    let ours = waiting.filter(|(_, waiting)| waiting.storage_key == seen.storage_key && waiting.bucket == seen.bucket);
    let Some((upload, waiting)) = ours else {
        if metadata_disagree(&seen.head, organization, None) {
            return refuse(connection, Some(organization), seen, "metadata_disagree").await;
        }
        return take_foreign(connection, organization, seen, new).await;
    };
    let says = |name: &str| seen.head.metadata.contains_key(name);
    if !says("organization_id") || !says("upload_id") || metadata_disagree(&seen.head, organization, Some(upload)) {
        // The URL makes both be sent as we said them: it was not used.
        return refuse(connection, Some(organization), seen, "metadata_disagree").await;
    }
    let status = store::lock_job(connection, organization, waiting.job_id).await?;
    match status.as_deref() {
        Some("awaiting_upload" | "expired") if !waiting.arrived => {}
        Some("cancelled") if !waiting.arrived => {
            return refuse(connection, Some(organization), seen, "upload_cancelled").await;
        }
        // The key holds another object than the one that was taken up.
        _ => return refuse(connection, Some(organization), seen, "upload_repeated").await,
    }
    let owner = Owner::Job(organization, waiting.job_id, Some(upload));
    if !store::insert_object(connection, seen, owner).await? {
        return Ok(TakenUp::Known);
    }
    store::start_waiting_job(connection, organization, upload, waiting.job_id, &seen.head).await?;
    let resource = upload.to_string();
    arrived(connection, organization, waiting.job_id, Some(&resource), seen).await
}

/// An object that somebody else put there: a job of its own.
async fn take_foreign(
    connection: &mut PgConnection,
    organization: OrganizationId,
    seen: &SeenObject,
    new: &New<'_>,
) -> Result<TakenUp, DbError> {
    let job = JobId::new();
    if !store::insert_object(connection, seen, Owner::Job(organization, job, None)).await? {
        return Ok(TakenUp::Known);
    }
    let said = seen.head.content_type.as_deref().unwrap_or_default();
    let essence = said.split(';').next().unwrap_or_default().trim();
    let known = CONTENT_TYPES.iter().map(|(known, _)| *known).find(|known| known.eq_ignore_ascii_case(essence));
    let by_name = if extension("", Some(&seen.storage_key)).starts_with("ndjson") {
        "application/fhir+ndjson"
    } else {
        "application/fhir+json"
    };
    let foreign = ForeignJob {
        organization,
        job,
        workflow: new.workflow,
        workflow_version: new.version,
        priority: new.priority,
        source_label: SOURCE_LABEL,
        content_type: known.unwrap_or(by_name),
    };
    store::insert_foreign_job(connection, &foreign, &seen.head, &actor()).await?;
    arrived(connection, organization, job, None, seen).await
}

fn actor() -> Actor {
    Actor::internal("watcher")
}

async fn arrived(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    resource: Option<&str>,
    seen: &SeenObject,
) -> Result<TakenUp, DbError> {
    let actor = actor();
    let mut record = Record::new(organization, "upload.arrived", Action::Update, &actor);
    record.job = Some(job);
    record.resource = resource;
    record.detail = Some(serde_json::json!({ "hint": seen.source, "sizeBytes": seen.head.size }));
    audit::append(connection, record).await?;
    Ok(TakenUp::Job(organization, job))
}

async fn refuse(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
    seen: &SeenObject,
    reason: &'static str,
) -> Result<TakenUp, DbError> {
    if !store::insert_object(connection, seen, Owner::Nobody(organization, reason)).await? {
        return Ok(TakenUp::Known);
    }
    let actor = actor();
    let whose = organization.unwrap_or(OrganizationId::PLATFORM);
    let mut record = Record::new(whose, "upload.refused", Action::Execute, &actor);
    record.outcome = audit::Outcome::Denied;
    record.detail = Some(serde_json::json!({ "reason": reason, "hint": seen.source, "sizeBytes": seen.head.size }));
    audit::append(connection, record).await?;
    Ok(TakenUp::Refused(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_an_organization_and_perhaps_an_upload() {
        let (organization, upload) = (OrganizationId::new(), UploadId::new());
        let both = Named { organization: Some(organization), upload: Some(upload) };
        assert_eq!(Named::of(&format!("incoming/fhir/{organization}/2026/03/01/{upload}.ndjson.gz")), both);
        let alone = Named { organization: Some(organization), upload: None };
        assert_eq!(Named::of(&format!("incoming/fhir/{organization}/nightly.ndjson")), alone);
        for key in [
            "incoming/fhir/elsewhere/x.json".to_owned(),
            format!("incoming/fhir/{organization}"),
            format!("incoming/other/{organization}/x.json"),
            format!("incoming/fhirs/{organization}/x.json"),
            format!("incoming/fhir/{}/x.json", organization.to_string().to_uppercase()),
        ] {
            assert_eq!(Named::of(&key).organization, None, "{key}");
        }
    }

    #[test]
    fn what_is_no_object_of_ours_is_not_asked_for() {
        assert!(is_watched("incoming/fhir/x/é.json") && is_watched("incoming/x"));
        for key in ["", "raw/x", "incoming", "incoming/fhir/x/", "incoming/a\0b", "../incoming/x"] {
            assert!(!is_watched(key), "{key:?}");
        }
        assert!(!is_watched(&format!("incoming/{}", "x".repeat(1024))));
    }
}
