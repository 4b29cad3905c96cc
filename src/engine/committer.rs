//! Group commit: a few tasks take the finished steps of many jobs from one channel and apply each batch in one
//! set-based statement, every row fenced on its own lease epoch. No lingering: while a batch commits, the next one
//! gathers by itself. A batch that fails as a whole is repeated row by row, so that one bad row hurts nobody else.

use super::chunks_store;
use super::commit::Commit;
use super::executor::Engine;
use super::store::{self, FinishedStep, Lease, TaskKey};
use crate::db::{DbError, Scope};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use sqlx::PgConnection;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};

/// Rows in one statement, at most: more would only lengthen the wait of the first.
const BATCH_MAX: usize = 64;

/// A row that loses so often in a row is not raced: it is refused for good (a key that is taken).
pub(super) const CONFLICTS_MAX: u32 = 10;

/// What became of a finished step.
#[derive(Debug)]
pub enum CommitReply {
    /// Committed. `next` is the lane's successor, leased to us; `freed` says that a successor became ready for anybody.
    Passed {
        /// The successor's lease.
        next: Option<Lease>,
        /// A successor became ready.
        freed: bool,
    },
    /// The job's row waits for its chunks now.
    FannedOut,
    /// A chunk of the step failed for good, which is recorded. `follows`: an `always` step does, under the same lease.
    RegionFailed {
        /// See above.
        follows: bool,
    },
    /// The fence refused: the lease is not ours any more, and nothing was written.
    Stale,
    /// The database refused this row for good.
    Refused(DbError),
}

/// A finished step and who waits for it.
pub struct CommitRequest {
    pub(super) step: FinishedStep,
    pub(super) reply: oneshot::Sender<CommitReply>,
}

/// The receiving end, shared by the committers.
pub type Requests = Arc<Mutex<mpsc::Receiver<CommitRequest>>>;

/// Commit batches until the engine is closed.
pub async fn run(engine: Arc<Engine>, requests: Requests) {
    let mut connection: Option<PgConnection> = None;
    loop {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        // The lock is released before the SQL, so that the other committer gathers meanwhile.
        let gather = async { requests.lock().await.recv_many(&mut batch, BATCH_MAX).await };
        let gathered = tokio::select! {
            biased;
            gathered = gather => gathered,
            () = engine.closed().cancelled() => 0,
        };
        if gathered == 0 {
            return;
        }
        let steps: Vec<FinishedStep> = batch.iter().map(|request| request.step.clone()).collect();
        let attempt = match open(&engine, &mut connection).await {
            Ok(open) => store::commit_steps(open, &steps, engine.worker(), engine.options().lease).await,
            Err(error) => Err(error),
        };
        match attempt {
            Ok(rows) => {
                let mut replies = replies(rows);
                for request in batch {
                    let reply = replies.remove(&request.step.lease.key()).unwrap_or(CommitReply::Stale);
                    let _ = request.reply.send(reply);
                }
            }
            Err(error) => {
                tracing::warn!(rows = batch.len(), error = ?error, "a group commit failed; its rows are committed one by one");
                if matches!(error, DbError::Unavailable(_)) {
                    connection = None;
                }
                for request in batch {
                    let reply = commit_one(&engine, &mut connection, &request.step).await;
                    let _ = request.reply.send(reply);
                }
            }
        }
    }
}

/// One row by itself, for as long as the database is away and the lease is still held here.
async fn commit_one(engine: &Arc<Engine>, connection: &mut Option<PgConnection>, step: &FinishedStep) -> CommitReply {
    let mut delays = patience().build();
    let mut conflicts = 0;
    loop {
        let attempt = async {
            // An earlier try may have been committed although its answer was lost.
            if applied(engine, step, Commit::Step).await? {
                if step.next.is_none() {
                    engine.hand_back_successor(&step.lease).await;
                }
                return Ok(CommitReply::Passed { next: None, freed: true });
            }
            let open = open(engine, connection).await?;
            let rows =
                store::commit_steps(open, std::slice::from_ref(step), engine.worker(), engine.options().lease).await?;
            Ok::<_, DbError>(replies(rows).remove(&step.lease.key()).unwrap_or(CommitReply::Stale))
        };
        match attempt.await {
            Ok(reply) => return reply,
            Err(error) if error.is_transient() && !engine.holds(&step.lease) => return CommitReply::Stale,
            Err(DbError::Unavailable(_)) => {
                *connection = None;
                tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(1))).await;
            }
            Err(DbError::Conflict(_)) if conflicts < CONFLICTS_MAX => {
                conflicts += 1;
                tokio::time::sleep(after_conflict(conflicts)).await;
            }
            Err(error) => return CommitReply::Refused(error),
        }
    }
}

/// Was the step committed by an earlier try of ours?
pub(super) async fn applied(engine: &Arc<Engine>, step: &FinishedStep, commit: Commit) -> Result<bool, DbError> {
    let (step, worker) = (step.clone(), engine.worker());
    let scope = Scope::Organization(step.lease.organization);
    engine
        .db()
        .unit(scope, move |connection| {
            Box::pin(async move {
                match commit {
                    Commit::Step => store::was_applied(connection, &step, worker).await,
                    Commit::FanOut { .. } | Commit::Chunk => chunks_store::was_applied(connection, &step, worker).await,
                }
            })
        })
        .await
}

/// Delays between tries while the database is away: quick at first, a second at most.
#[must_use]
pub fn patience() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .without_max_times()
}

/// The pause before a try after the given number of conflicts: 128 ms at most, with full jitter.
pub(super) fn after_conflict(conflicts: u32) -> Duration {
    Duration::from_millis(2 << conflicts.min(6)).mul_f64(rand::random::<f64>())
}

async fn open<'c>(engine: &Engine, connection: &'c mut Option<PgConnection>) -> Result<&'c mut PgConnection, DbError> {
    if connection.is_none() {
        *connection = Some(engine.db().dedicated().await?);
    }
    connection.as_mut().ok_or(DbError::Panicked)
}

/// The rows of `commit_steps`, by the finished row that they speak about.
pub(super) fn replies(rows: Vec<store::CommitRow>) -> HashMap<TaskKey, CommitReply> {
    let mut replies: HashMap<TaskKey, CommitReply> = HashMap::with_capacity(rows.len());
    for row in rows {
        let reply = replies.entry(row.subject()).or_insert(CommitReply::Passed { next: None, freed: false });
        if row.is_next
            && let CommitReply::Passed { next, freed } = reply
        {
            match row.into_lease() {
                Some(lease) => *next = Some(lease),
                None => *freed = true,
            }
        }
    }
    replies
}
