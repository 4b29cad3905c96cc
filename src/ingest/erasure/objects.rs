//! The objects of erasures: each by itself, so that one that cannot be deleted keeps no other from being deleted; and once more after a
//! while, because a worker whose job was cancelled may have been putting one.

use super::objects_store::{self, Again, Doomed};
use super::{EraseError, Eraser};
use crate::audit::{self, Action, Actor, Record};
use crate::db::{DbError, Scope};
use crate::ids::{ErasureId, OrganizationId};
use crate::objects::ObjectError;
use crate::uploads::watcher::AT_ONCE;
use crate::uploads::watcher::store::generation_of;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

/// Objects, or keys of one listing below a prefix, of one step.
const PAGE: i32 = 1_000;
/// After so many in a row that could not be deleted S3 is not asked any more this time: it is away, or we may not.
const FAILURES_IN_A_ROW_MAX: usize = 5;

impl Eraser {
    /// Delete the next objects of an erasure. What cannot be deleted is left for the next time.
    pub(super) async fn delete_some(&self, organization: OrganizationId, id: ErasureId) -> Result<(), EraseError> {
        let (is_retention, objects) = self
            .again(organization, move |connection| {
                Box::pin(async move {
                    let row = super::store::erasure(connection, organization, id, false).await?;
                    let objects = objects_store::objects(connection, organization, id, PAGE).await?;
                    Ok((row.kind == "retention", objects))
                })
            })
            .await?;
        let (mut failed, mut failures) = (None, 0);
        for object in objects {
            let done = if is_retention && !object.is_prefix {
                self.delete_if_unwanted(organization, id, object.clone()).await
            } else {
                self.delete_one(organization, id, &object).await
            };
            match done {
                Ok(()) => failures = 0,
                Err(EraseError::Objects(error)) => {
                    failures += 1;
                    failed.get_or_insert(error);
                    self.again(organization, move |connection| {
                        let object = object.clone();
                        Box::pin(async move {
                            Ok(objects_store::object_failed(connection, organization, id, &object).await?)
                        })
                    })
                    .await?;
                    if failures >= FAILURES_IN_A_ROW_MAX {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(()), |error| Err(EraseError::Objects(error)))
    }

    /// Of a prefix, a page of what is below it.
    async fn delete_one(&self, organization: OrganizationId, id: ErasureId, object: &Doomed) -> Result<(), EraseError> {
        let (deleted, is_all) = self.delete(object).await.map_err(EraseError::Objects)?;
        let object = object.clone();
        self.again(organization, move |connection| {
            let object = object.clone();
            Box::pin(async move {
                let counts = !is_all || objects_store::object_gone(connection, organization, id, &object).await?;
                Ok(objects_store::count(connection, organization, id, if counts { deleted } else { 0 }).await?)
            })
        })
        .await
    }

    /// Delete an object that went because of its age, unless the same bytes came again. That is decided and done under the lock of their
    /// row, although that is work on the network in a transaction: whoever brings them again must not find a copy that is about to go.
    async fn delete_if_unwanted(
        &self,
        organization: OrganizationId,
        id: ErasureId,
        object: Doomed,
    ) -> Result<(), EraseError> {
        let eraser = self.clone();
        self.again(organization, move |connection| {
            let (eraser, object) = (eraser.clone(), object.clone());
            Box::pin(async move {
                let deleted = if objects_store::may_delete(connection, organization, id, &object).await? {
                    eraser.delete(&object).await.map_err(EraseError::Objects)?.0
                } else {
                    0
                };
                let is_ours = objects_store::object_gone(connection, organization, id, &object).await?;
                Ok(objects_store::count(connection, organization, id, if is_ours { deleted } else { 0 }).await?)
            })
        })
        .await
    }

    /// Delete an object with all its versions; or this generation of it; or a page of those below a prefix. How many there were, and
    /// whether there are no more.
    async fn delete(&self, object: &Doomed) -> Result<(u64, bool), ObjectError> {
        let key = &object.storage_key;
        if object.is_prefix {
            let page = self.objects.list(key, None, PAGE).await?;
            let is_all = page.len() < usize::try_from(PAGE).unwrap_or_default();
            let deleted = futures::stream::iter(page)
                .map(|entry| async move { self.objects.purge(&entry.key).await })
                .buffer_unordered(AT_ONCE)
                .try_fold(0, |count, was_there| async move { Ok(count + u64::from(was_there)) })
                .await?;
            return Ok((deleted, is_all));
        }
        if object.generation.is_empty() {
            return Ok((u64::from(self.objects.purge(key).await?), true));
        }
        let is_there = self.is_there(object).await?;
        match object.version_id.as_deref() {
            Some(version) if is_there => self.objects.delete_version(key, version).await?,
            None if is_there => self.objects.delete_matching(key, &object.etag).await?,
            _ => {}
        }
        Ok((u64::from(is_there), true))
    }

    async fn is_there(&self, object: &Doomed) -> Result<bool, ObjectError> {
        let head = self.objects.head_version(&object.storage_key, object.version_id.as_deref()).await?;
        Ok(head.is_some_and(|head| object.generation.is_empty() || generation_of(&head) == object.generation))
    }

    /// How many objects that is.
    pub(super) async fn count_objects(&self, object: &Doomed) -> Result<u64, ObjectError> {
        if !object.is_prefix {
            return Ok(u64::from(self.is_there(object).await?));
        }
        let (mut count, mut last) = (0, None::<String>);
        loop {
            let page = self.objects.list(&object.storage_key, last.as_deref(), PAGE).await?;
            let Some(entry) = page.last() else { return Ok(count) };
            last = Some(entry.key.clone());
            count += u64::try_from(page.len()).unwrap_or_default();
        }
    }

    /// Look once more for objects that were deleted. How many were there again.
    ///
    /// # Errors
    /// The first that could not be looked for; the others were.
    pub async fn look_again(&self) -> Result<u64, EraseError> {
        let due = self
            .db
            .unit::<Vec<Again>, DbError, _>(Scope::Global, |connection| {
                Box::pin(async move { super::store::due_again(connection, PAGE).await })
            })
            .await?;
        let (mut found, mut failed, mut failures) = (0, None, 0);
        for again in due {
            match self.look_for(again).await {
                Ok(deleted) => {
                    found += deleted;
                    failures = 0;
                }
                Err(error @ EraseError::Objects(_)) => {
                    failed.get_or_insert(error);
                    failures += 1;
                    if failures >= FAILURES_IN_A_ROW_MAX {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(found), Err)
    }

    async fn look_for(&self, again: Again) -> Result<u64, EraseError> {
        let (organization, id) = (again.organization_id, again.erasure_id);
        let done = self.delete(&again.object).await;
        let object = again.object.clone();
        let (deleted, is_all) = match done {
            Ok(done) => done,
            Err(error) => {
                self.again(organization, move |connection| {
                    let object = object.clone();
                    Box::pin(
                        async move { Ok(objects_store::object_failed(connection, organization, id, &object).await?) },
                    )
                })
                .await?;
                return Err(EraseError::Objects(error));
            }
        };
        let again = std::sync::Arc::new(again);
        self.again(organization, move |connection| {
            let again = std::sync::Arc::clone(&again);
            Box::pin(async move {
                if is_all && !objects_store::looked_again(connection, &again).await? {
                    return Ok(());
                }
                if deleted == 0 {
                    return Ok(());
                }
                objects_store::count(connection, organization, id, deleted).await?;
                let actor = Actor::internal("erasure");
                let mut record = Record::new(organization, "erasure.objects_found_again", Action::Delete, &actor);
                record.detail = Some(json!({ "erasure": id, "objects": deleted }));
                Ok(audit::append(connection, record).await?)
            })
        })
        .await?;
        Ok(deleted)
    }
}
