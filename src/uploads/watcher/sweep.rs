//! The sweep: what no hint told of is found by listing.

use super::lifecycle::FAILURES_IN_A_ROW_MAX;
use super::{AT_ONCE, Hint, TakenUp, WATCHED, WatchError, Watcher, store};
use crate::db::{DbError, Scope};
use crate::objects::ObjectEntry;
use futures::StreamExt as _;
use std::collections::HashMap;

/// Keys of one listing, and of one query.
const PAGE: i32 = 1000;

/// What a sweep did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Objects that lie there.
    pub listed: usize,
    /// Of them: known, and not asked for again.
    pub known: usize,
    /// Of them: became a job's.
    pub taken_up: usize,
    /// Of them: refused.
    pub refused: usize,
    /// Of them: could not be looked at this time.
    pub failed: usize,
}

impl Watcher {
    /// Go once through everything below `incoming/`, from the first key to the last: keys come in any order, so there is no
    /// mark to begin at. Objects that are known cost a line of a listing and a row of a query, one query a page.
    ///
    /// # Errors
    /// [`WatchError`]: the sweep ended early, and nothing is lost by it. A single object that cannot be looked at does not
    /// end it, for whatever reason, so that none keeps those behind it waiting; ten in a row for a reason that passes by
    /// itself do: S3 or PostgreSQL is away.
    pub async fn sweep(&self) -> Result<Swept, WatchError> {
        let mut swept = Swept::default();
        let mut after: Option<String> = None;
        let mut failures = 0;
        loop {
            let page = self.objects.list(WATCHED, after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(swept) };
            after = Some(last.key.clone());
            swept.listed += page.len();
            let unknown = self.unknown_of(page).await?;
            let mut looks = futures::stream::iter(unknown.1.into_iter().map(|entry| {
                let watcher = self.clone();
                async move { watcher.take_up(Hint::Sweep, watcher.objects.bucket(), &entry.key).await }
            }))
            .buffer_unordered(AT_ONCE);
            swept.known += unknown.0;
            while let Some(look) = looks.next().await {
                failures = match &look {
                    Err(error) if error.is_transient() => failures + 1,
                    _ => 0,
                };
                match look {
                    Ok(TakenUp::Job(..)) => swept.taken_up += 1,
                    Ok(TakenUp::Refused(_)) => swept.refused += 1,
                    Ok(TakenUp::Known) => swept.known += 1,
                    Ok(TakenUp::Absent | TakenUp::Foreign) => {}
                    Err(error) if failures >= FAILURES_IN_A_ROW_MAX => return Err(error),
                    Err(error) => {
                        swept.failed += 1;
                        tracing::warn!(error = &error as &dyn std::error::Error, "an object could not be taken up");
                    }
                }
            }
        }
    }

    /// How many of a page are known, and the entries that are not: another generation of a known key is not.
    async fn unknown_of(&self, page: Vec<ObjectEntry>) -> Result<(usize, Vec<ObjectEntry>), WatchError> {
        let keys: Vec<String> =
            page.iter().map(|entry| entry.key.clone()).filter(|key| super::is_watched(key)).collect();
        let bucket = self.objects.bucket().to_owned();
        let known = self
            .db
            .unit::<_, DbError, _>(Scope::Global, move |connection| {
                Box::pin(async move { store::known_objects(connection, &bucket, &keys).await })
            })
            .await?;
        let mut generations: HashMap<&str, Vec<&store::KnownObject>> = HashMap::new();
        for known in &known {
            generations.entry(&known.storage_key).or_default().push(known);
        }
        let mut unknown: Vec<ObjectEntry> = page;
        unknown.retain(|entry| super::is_watched(&entry.key));
        let watched = unknown.len();
        unknown.retain(|entry| {
            let same = |known: &&store::KnownObject| {
                // Some servers leave these out of a listing.
                entry.etag.as_ref().is_none_or(|etag| *etag == known.etag)
                    && entry.modified.is_none_or(|modified| known.modified_at == Some(modified))
                    && i64::try_from(entry.size) == Ok(known.size_bytes)
            };
            let known = generations.get(entry.key.as_str());
            !known.is_some_and(|known| known.iter().any(same))
        });
        Ok((watched - unknown.len(), unknown))
    }
}
