//! What is of no more use goes: objects below `incoming/` whose bytes are stored, refused ones after a while, texts of
//! chunks that no plan names, multipart uploads that nobody completed.
//!
//! Promises: an object that cannot be deleted is left for a day and keeps nothing else from being deleted; what one part of
//! the work meets does not end the others.

use super::store::{self, RemovableObject};
use super::{WATCHED, WatchError, Watcher, actor};
use crate::audit::{self, Action, Record};
use crate::db::{DbError, Scope};
use crate::ids::OrganizationId;
use std::time::Duration;

/// Of one query.
const BATCH: i32 = 500;
/// A multipart upload that is neither complete nor aborted after so long is abandoned.
const MULTIPART_LIFE: Duration = Duration::from_hours(24);
/// Where multipart uploads are begun: by others, and by the last step of a bulk file.
const MULTIPART_PREFIXES: [&str; 2] = [WATCHED, "outcomes/"];
/// After so many objects in a row that could not be deleted, S3 is not asked any more this time: it is away, or we may not.
pub(super) const FAILURES_IN_A_ROW_MAX: usize = 10;

/// What was tidied up.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tidied {
    /// Objects deleted, or found gone.
    pub removed: usize,
    /// Objects that could not be deleted; each is left for a day.
    pub failed: usize,
    /// Texts of chunks deleted.
    pub texts: usize,
    /// Multipart uploads aborted.
    pub aborted: usize,
}

impl Watcher {
    /// Delete what may go, abort what was abandoned. Any number of processes may.
    ///
    /// # Errors
    /// [`WatchError`], of the first part of the work that ended early; the others were done all the same, and the next
    /// time goes on.
    pub async fn tidy(&self) -> Result<Tidied, WatchError> {
        let mut tidied = Tidied::default();
        let parts = [
            self.remove_due(&mut tidied).await,
            self.clear_texts(&mut tidied).await,
            self.abort_abandoned(&mut tidied).await,
        ];
        parts.into_iter().collect::<Result<(), _>>()?;
        Ok(tidied)
    }

    async fn remove_due(&self, tidied: &mut Tidied) -> Result<(), WatchError> {
        let mut failures = 0;
        loop {
            let (keep, bucket) = (self.options.keep, self.objects.bucket().to_owned());
            let due = self
                .db
                .unit::<_, DbError, _>(Scope::Global, move |connection| {
                    Box::pin(async move { store::removable_objects(connection, &bucket, keep, BATCH).await })
                })
                .await?;
            let (batch, before) = (due.len(), tidied.removed);
            for object in due {
                match self.remove(object.clone()).await {
                    Ok(removed) => {
                        tidied.removed += usize::from(removed);
                        failures = 0;
                    }
                    Err(WatchError::Objects(error)) => {
                        tidied.failed += 1;
                        failures += 1;
                        self.postpone(object).await?;
                        if failures >= FAILURES_IN_A_ROW_MAX {
                            return Err(error.into());
                        }
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "an object below incoming/ could not be deleted; it is left for a day"
                        );
                    }
                    Err(error) => return Err(error),
                }
            }
            // A batch that removed nothing: others are at it, or nothing can be deleted.
            if batch < usize::try_from(BATCH).unwrap_or(0) || tidied.removed == before {
                return Ok(());
            }
        }
    }

    /// Delete an object if it is still the one that was taken up (or refused); false if another process was first, or its job
    /// needs it again. A crash
    /// behind the deletion is found again here: the object is gone then. Of a bucket with versions that version goes for
    /// good, whether or not another one has the key by now.
    async fn remove(&self, object: RemovableObject) -> Result<bool, WatchError> {
        // A batch takes minutes, in which a job may have been retried.
        let (keep, wanted) = (self.options.keep, object.clone());
        let scope = Scope::Organization(object.organization_id.unwrap_or(OrganizationId::PLATFORM));
        let looked = self.db.unit::<_, DbError, _>(scope, move |connection| {
            Box::pin(async move { store::is_removable(connection, &wanted, keep).await })
        });
        if !looked.await? {
            return Ok(false);
        }
        let (key, version) = (&object.storage_key, object.version_id.as_deref());
        let head = self.objects.head_version(key, version).await?;
        let same = head.is_some_and(|head| store::generation_of(&head) == object.generation);
        match version {
            Some(version) if same => self.objects.delete_version(key, version).await?,
            None if same => self.objects.delete_matching(key, &object.etag).await?,
            _ => {}
        }
        let removed = self
            .db
            .unit::<_, DbError, _>(
                Scope::Organization(object.organization_id.unwrap_or(OrganizationId::PLATFORM)),
                move |connection| {
                    Box::pin(async move {
                        if !store::mark_removed(connection, &object).await? {
                            return Ok(false);
                        }
                        if let (Some(organization), Some(job)) = (object.organization_id, object.job_id) {
                            store::give_texts_up(connection, organization, job).await?;
                        }
                        let actor = actor();
                        let whose = object.organization_id.unwrap_or(OrganizationId::PLATFORM);
                        let mut record = Record::new(whose, "upload.removed", Action::Delete, &actor);
                        record.job = object.job_id;
                        record.detail = Some(serde_json::json!({ "found": same }));
                        audit::append(connection, record).await?;
                        Ok(true)
                    })
                },
            )
            .await?;
        Ok(removed)
    }

    async fn postpone(&self, object: RemovableObject) -> Result<(), WatchError> {
        self.db
            .unit::<_, DbError, _>(Scope::Global, move |connection| {
                Box::pin(async move { store::postpone_removal(connection, &object).await })
            })
            .await?;
        Ok(())
    }

    async fn abort_abandoned(&self, tidied: &mut Tidied) -> Result<(), WatchError> {
        let mut uploads = Vec::new();
        for prefix in MULTIPART_PREFIXES {
            uploads.extend(self.objects.unfinished_uploads(prefix).await?);
        }
        if uploads.is_empty() {
            return Ok(());
        }
        let now = self.db.unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(store::now(connection))).await?;
        for upload in uploads {
            // Of unknown age: somebody may still be at it.
            if upload.initiated.is_some_and(|initiated| now - initiated > MULTIPART_LIFE) {
                self.objects.abort_upload(&upload).await?;
                tidied.aborted += 1;
            }
        }
        Ok(())
    }
}
