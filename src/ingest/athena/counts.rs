//! The sweeper's part in the counts: folding appended changes together, so that reading them stays cheap.

use super::store;
use crate::db::{Db, DbError, Scope};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// At 5,000 events in a second some 50,000 rows gather between two foldings: milliseconds to sum.
const INTERVAL: Duration = Duration::from_secs(5);

/// Fold until cancelled. Any number of processes may.
pub async fn run(db: Db, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if let Err(error) = fold(&db).await {
            tracing::warn!(error = ?error, "counts could not be folded");
        }
    }
}

/// Fold once.
///
/// # Errors
/// A [`DbError`].
pub async fn fold(db: &Db) -> Result<(), DbError> {
    db.unit(Scope::Global, |connection| Box::pin(store::fold_counts(connection))).await
}
