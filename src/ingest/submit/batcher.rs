//! Micro-batching: concurrent requests share a transaction. A committer takes what has gathered while the last batch
//! committed, sorts it and commits it at once; each request is answered only after the commit. A batch that fails as a
//! whole is repeated request by request.

use super::SubmitError;
use crate::db::{Db, DbError};
use crate::engine::wake::Wake;
use sqlx::PgConnection;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Requests of one batch, at most.
const BATCH_MAX: usize = 64;
/// Large requests under way at once; each takes a connection of its own, of which PostgreSQL has few.
const LARGE_MAX: usize = 8;
/// Requests waiting for a batch, at most; beyond that the intake is overloaded and says so.
const WAITING_MAX: usize = 2048;

/// What one request submits.
pub trait Item: Send + Sync + Sized + 'static {
    /// What became of it.
    type Answer: Send + 'static;

    /// It never shares a transaction: it would make the small ones wait.
    fn is_large(&self) -> bool;

    /// Batches are sorted by this, so that two of two processes cannot deadlock on keys that both take.
    fn order(&self) -> (uuid::Uuid, String);

    /// Commit a batch in one transaction; one answer an item, in their order.
    fn commit(
        connection: &mut PgConnection,
        batch: &[Self],
    ) -> impl Future<Output = Result<Vec<Self::Answer>, DbError>> + Send;
}

struct Request<I: Item> {
    item: I,
    reply: oneshot::Sender<Result<I::Answer, SubmitError>>,
}

/// Takes requests of one kind; cheap to clone.
pub struct Batcher<I: Item> {
    db: Db,
    wake: Wake,
    requests: mpsc::Sender<Request<I>>,
    large: Arc<Semaphore>,
}

impl<I: Item> Clone for Batcher<I> {
    fn clone(&self) -> Self {
        Self {
            db: self.db.clone(),
            wake: self.wake.clone(),
            requests: self.requests.clone(),
            large: Arc::clone(&self.large),
        }
    }
}

impl<I: Item> Batcher<I> {
    /// A batcher and its committer, which lives until the last clone is dropped.
    #[must_use]
    pub fn start(db: Db, wake: Wake) -> Self {
        let (requests, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(commit_batches(db.clone(), wake.clone(), receiver));
        Self { db, wake, requests, large: Arc::new(Semaphore::new(LARGE_MAX)) }
    }

    /// Commit an item, alone or with others. Safe to drop: the transaction goes on by itself.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(&self, item: I) -> Result<I::Answer, SubmitError> {
        let (reply, answer) = oneshot::channel();
        let is_large = item.is_large();
        let request = Request { item, reply };
        if is_large {
            let (db, wake, large) = (self.db.clone(), self.wake.clone(), Arc::clone(&self.large));
            // In a task of its own: a sender that hangs up must not cut the transaction.
            tokio::spawn(async move {
                let _turn = large.acquire_owned().await;
                let mut connection = None;
                commit_one(&db, &mut connection, request).await;
                wake.signal_accepted();
            });
        } else {
            self.requests.try_send(request).map_err(|_| SubmitError::Overloaded)?;
        }
        answer.await.map_err(|_| SubmitError::Db(DbError::Panicked))?
    }
}

async fn commit_batches<I: Item>(db: Db, wake: Wake, mut requests: mpsc::Receiver<Request<I>>) {
    let mut connection: Option<PgConnection> = None;
    loop {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        if requests.recv_many(&mut batch, BATCH_MAX).await == 0 {
            return;
        }
        batch.sort_by_cached_key(|request| request.item.order());
        let (items, replies): (Vec<I>, Vec<_>) = batch.into_iter().map(|request| (request.item, request.reply)).unzip();
        let under_way = db.foreground().enter();
        match commit(&db, &mut connection, &items).await {
            Ok(answers) => {
                let answers = answers.into_iter().map(Ok).chain(std::iter::repeat_with(|| Err(missing_answer())));
                for (reply, answer) in replies.into_iter().zip(answers) {
                    let _ = reply.send(answer);
                }
            }
            Err(error) => {
                tracing::warn!(requests = items.len(), error = ?error, "a batch of submissions failed; they are committed one by one");
                for (item, reply) in items.into_iter().zip(replies) {
                    commit_one(&db, &mut connection, Request { item, reply }).await;
                }
            }
        }
        db.foreground().expect();
        drop(under_way);
        wake.signal_accepted();
    }
}

fn missing_answer() -> SubmitError {
    SubmitError::Db(DbError::NotOneRow(0))
}

/// One request by itself: a lost race is repeated at once, a database that is away once on a fresh connection.
async fn commit_one<I: Item>(db: &Db, connection: &mut Option<PgConnection>, request: Request<I>) {
    let mut tries = 0u64;
    let result = loop {
        tries += 1;
        match commit(db, connection, std::slice::from_ref(&request.item)).await {
            Ok(mut answers) => break answers.pop().ok_or_else(missing_answer),
            Err(DbError::Conflict(_)) if tries < 6 => tokio::time::sleep(Duration::from_millis(5 * tries)).await,
            Err(DbError::Unavailable(_)) if tries < 2 => {}
            Err(error) => break Err(error.into()),
        }
    };
    let _ = request.reply.send(result);
}

async fn commit<I: Item>(
    db: &Db,
    connection: &mut Option<PgConnection>,
    batch: &[I],
) -> Result<Vec<I::Answer>, DbError> {
    if connection.is_none() {
        *connection = Some(db.dedicated().await?);
    }
    let Some(open) = connection.as_mut() else { return Err(DbError::Panicked) };
    let result = I::commit(open, batch).await;
    if matches!(result, Err(DbError::Unavailable(_) | DbError::Driver(_))) {
        *connection = None;
    }
    result
}
