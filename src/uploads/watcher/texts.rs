//! Texts of chunks that no plan names. They are clinical text, so none may stay that no row leads to.
//!
//! The chunks of a compressed file come with their text, which is put before it is known whether the file is worked on at
//! all. Each attempt at planning puts them under an id of its own, and writes that id into `chunk_texts` before the first; the
//! plan that is adopted takes its id out again. So a row says: nobody names what lies here. It is there for attempts that
//! were killed, failed, or came too late; for files that were refused or ingested before; for a plan that a later round
//! replaced; for jobs whose object was given up.
//!
//! Promises: only texts of jobs that have ended are deleted. An attempt of such a job cannot commit any more (its
//! lease is gone), so that its id is never adopted; a later round has another id. They are looked for once more a day later,
//! because a worker that stood still may have put one after the first time.

use super::lifecycle::{FAILURES_IN_A_ROW_MAX, Tidied};
use super::store::{self, DueTexts};
use super::{AT_ONCE, WatchError, Watcher, actor};
use crate::audit::{self, Action, Record};
use crate::db::{DbError, Scope};
use crate::ids::{JobId, OrganizationId};
use crate::objects::ObjectError;
use futures::{StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

/// Ids of one query.
const BATCH: i32 = 100;
/// Keys of one listing.
const PAGE: i32 = 1000;
/// Texts that are deleted at one time; the next time goes on. A gigabyte has about 250.
const TEXTS_MAX: usize = 5_000;

/// Below it lie the texts of the chunks of one attempt at planning.
#[must_use]
pub fn prefix(organization: OrganizationId, job: JobId, plan_id: Uuid) -> String {
    format!("chunks/{organization}/{job}/{plan_id}/")
}

impl Watcher {
    /// Delete texts that nobody names.
    pub(super) async fn clear_texts(&self, tidied: &mut Tidied) -> Result<(), WatchError> {
        let due = self
            .db
            .unit::<_, DbError, _>(Scope::Global, |connection| {
                Box::pin(async move { store::due_texts(connection, BATCH).await })
            })
            .await?;
        let mut failures = 0;
        for texts in due {
            let Some(room) = TEXTS_MAX.checked_sub(tidied.texts).filter(|room| *room > 0) else { return Ok(()) };
            let (deleted, ended) =
                self.delete_below(&prefix(texts.organization_id, texts.job_id, texts.plan_id), room).await;
            tidied.texts += deleted;
            let is_all = match &ended {
                Ok(is_all) => {
                    failures = 0;
                    *is_all
                }
                Err(_) => false,
            };
            self.note(texts, deleted, is_all, ended.is_err()).await?;
            if let Err(error) = ended {
                tidied.failed += 1;
                failures += 1;
                if failures >= FAILURES_IN_A_ROW_MAX {
                    return Err(error.into());
                }
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "texts of chunks could not be deleted; they are left for a day"
                );
            }
        }
        Ok(())
    }

    /// Delete up to so many objects; how many, and whether there are no more.
    async fn delete_below(&self, prefix: &str, room: usize) -> (usize, Result<bool, ObjectError>) {
        let mut deleted = 0;
        loop {
            let page = match self.objects.list(prefix, None, PAGE).await {
                Ok(page) => page,
                Err(error) => return (deleted, Err(error)),
            };
            if page.is_empty() {
                return (deleted, Ok(true));
            }
            if deleted >= room {
                return (deleted, Ok(false));
            }
            let purged = futures::stream::iter(page)
                .map(|entry| async move { self.objects.purge(&entry.key).await })
                .buffer_unordered(AT_ONCE)
                .try_fold(0usize, |count, _| async move { Ok(count + 1) });
            match purged.await {
                Ok(count) => deleted += count,
                Err(error) => return (deleted, Err(error)),
            }
        }
    }

    async fn note(&self, texts: DueTexts, deleted: usize, is_all: bool, failed: bool) -> Result<(), DbError> {
        let noted = self.db.unit::<_, DbError, _>(Scope::Organization(texts.organization_id), move |connection| {
            Box::pin(async move {
                if is_all {
                    store::texts_cleared(connection, &texts).await?;
                } else if failed {
                    store::postpone_texts(connection, &texts).await?;
                }
                if deleted > 0 {
                    let actor = actor();
                    let mut record = Record::new(texts.organization_id, "texts.removed", Action::Delete, &actor);
                    record.job = Some(texts.job_id);
                    record.detail = Some(serde_json::json!({ "objects": deleted }));
                    audit::append(connection, record).await?;
                }
                Ok(())
            })
        });
        noted.await
    }
}
