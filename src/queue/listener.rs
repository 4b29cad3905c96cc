//! Listens for other processes' wake-ups. While the database is away, the feeder's slow poll takes over.

use crate::db::{Db, DbError};
use crate::engine::wake::{ACCEPTED, CHANNEL, Wake};
use sqlx::postgres::PgListener;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Listen until cancelled.
pub async fn run(db: Db, wake: Wake, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let listened = tokio::select! {
            () = stop.cancelled() => return,
            listened = listen(&db, &wake) => listened,
        };
        if let Err(error) = listened {
            tracing::debug!(error = ?error, "not listening for wake-ups for now");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Whatever was notified meanwhile was missed.
        wake.signal_local();
    }
}

async fn listen(db: &Db, wake: &Wake) -> Result<(), DbError> {
    // A pool of its own with one connection: a listener keeps its connection for ever.
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_with(db.options().clone()).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        if listener.recv().await?.payload() == ACCEPTED {
            db.foreground().expect();
        }
        wake.signal_local();
    }
}
