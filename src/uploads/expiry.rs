//! The sweeper's part in uploads: jobs whose object never came do not wait for ever.

use super::{GRACE, store};
use crate::audit::Actor;
use crate::db::{Db, DbError, Scope};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A day's grace needs no haste; a look costs one index probe an organization.
const INTERVAL: Duration = Duration::from_mins(1);
/// Of one organization in one transaction.
const LIMIT: i32 = 500;

/// Expire until cancelled. Any number of processes may.
pub async fn run(db: Db, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        match expire(&db).await {
            Ok(0) => {}
            Ok(jobs) => tracing::info!(jobs, "{jobs} upload(s) never came and are expired"),
            Err(error) => tracing::warn!(error = ?error, "uploads could not be expired"),
        }
    }
}

/// Expire once; how many jobs.
///
/// # Errors
/// A [`DbError`].
pub async fn expire(db: &Db) -> Result<i64, DbError> {
    let actor = Actor::internal("sweeper");
    db.unit(Scope::Global, move |connection| {
        Box::pin(async move { store::expire_uploads(connection, GRACE, LIMIT, &actor).await })
    })
    .await
}
