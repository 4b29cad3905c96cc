//! What lies below `incoming/` goes when it is of no more use: objects whose bytes are stored, refused ones after a
//! while, multipart uploads that nobody completed.

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

/// What was tidied up.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tidied {
    /// Objects deleted, or found gone.
    pub removed: usize,
    /// Multipart uploads aborted.
    pub aborted: usize,
}

impl Watcher {
    /// Delete what may go, abort what was abandoned. Any number of processes may.
    ///
    /// # Errors
    /// [`WatchError`]: not everything was done; the next time goes on.
    pub async fn tidy(&self) -> Result<Tidied, WatchError> {
        let mut tidied = Tidied::default();
        loop {
            let (keep, bucket) = (self.options.keep, self.objects.bucket().to_owned());
            let due = self
                .db
                .unit::<_, DbError, _>(Scope::Global, move |connection| {
                    Box::pin(async move { store::removable_objects(connection, &bucket, keep, BATCH).await })
                })
                .await?;
            let batch = due.len();
            for object in due {
                tidied.removed += usize::from(self.remove(object).await?);
            }
            if batch < usize::try_from(BATCH).unwrap_or(0) {
                break;
            }
        }
        tidied.aborted = self.abort_abandoned().await?;
        Ok(tidied)
    }

    /// Delete an object if it is still the one that was taken up (or refused); false if another process was first. A crash
    /// behind the deletion is found again here: the object is gone then.
    async fn remove(&self, object: RemovableObject) -> Result<bool, WatchError> {
        let head = self.objects.head(&object.storage_key).await?;
        let same = head.is_some_and(|head| store::generation_of(&head) == object.generation);
        if same {
            self.objects.delete_matching(&object.storage_key, &object.etag).await?;
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

    async fn abort_abandoned(&self) -> Result<usize, WatchError> {
        let uploads = self.objects.unfinished_uploads(WATCHED).await?;
        if uploads.is_empty() {
            return Ok(0);
        }
        let now = self.db.unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(store::now(connection))).await?;
        let mut aborted = 0;
        for upload in uploads {
            // Of unknown age: somebody may still be at it.
            if upload.initiated.is_some_and(|initiated| now - initiated > MULTIPART_LIFE) {
                self.objects.abort_upload(&upload).await?;
                aborted += 1;
            }
        }
        Ok(aborted)
    }
}
