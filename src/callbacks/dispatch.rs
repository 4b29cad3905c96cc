//! The dispatcher: makes a job of the workflow `callback` for each message that waits, so many at a time for each callback.
//!
//! The window is what keeps a receiver that is down from filling the queue and the workers' slots: a callback that works has
//! up to [`WINDOW`] jobs, one that fails has one, and all that is left waits in `callback_messages` at no cost. Runs in
//! sweepers, any number of them.

use super::WORKFLOW;
use super::messages_store::{self as messages, Workflow};
use crate::audit::Actor;
use crate::db::{Db, DbError, Scope};
use crate::engine::catalog::Catalog;
use crate::engine::wake::Wake;
use crate::ids::{JobId, OrganizationId};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Between two looks: the most that a message waits beside an idle receiver.
const INTERVAL: Duration = Duration::from_millis(500);
/// The same while there was something to dispatch: a callback's rate is then its window by its receiver's time to answer.
const INTERVAL_BUSY: Duration = Duration::from_millis(20);
/// Jobs of one callback at once.
pub const WINDOW: i64 = 16;
/// Of one that fails: it is tried, not stormed.
const WINDOW_FAILING: i64 = 1;
/// Between two rounds of forgetting.
const FORGET_EVERY: Duration = Duration::from_mins(10);
/// Rows forgotten in one transaction, of each kind.
const FORGET_MAX: i64 = 1_000;

/// Dispatch until cancelled.
pub async fn run(db: Db, catalog: Catalog, wake: Wake, keep: Duration, stop: CancellationToken) {
    let mut interval = INTERVAL;
    let mut forgotten = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        interval = INTERVAL;
        match dispatch(&db, &catalog).await {
            Ok(0) => {}
            Ok(_) => {
                wake.signal();
                interval = INTERVAL_BUSY;
            }
            Err(error) => tracing::warn!(error = ?error, "callbacks could not be dispatched"),
        }
        if forgotten.elapsed() >= FORGET_EVERY {
            forgotten = Instant::now();
            if let Err(error) = forget(&db, keep).await {
                tracing::warn!(error = ?error, "old messages of callbacks could not be forgotten");
            }
        }
    }
}

/// Once, one organization after another; how many jobs were made.
///
/// # Errors
/// [`DbError`].
pub async fn dispatch(db: &Db, catalog: &Catalog) -> Result<usize, DbError> {
    let organizations = db
        .unit::<_, DbError, _>(Scope::Platform, |connection| Box::pin(messages::organizations_with_waiting(connection)))
        .await?;
    if organizations.is_empty() {
        return Ok(0);
    }
    let Ok(definition) = catalog.latest(WORKFLOW) else {
        tracing::error!("the workflow {WORKFLOW} is not loaded: callbacks wait");
        return Ok(0);
    };
    let workflow =
        Workflow { name: definition.name.clone(), version: definition.version, priority: definition.priority };
    let mut made = 0;
    for organization in organizations {
        let workflow = workflow.clone();
        let dispatched = db
            .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                Box::pin(async move { dispatch_for(connection, organization, &workflow).await })
            })
            .await;
        match dispatched {
            Ok(jobs) => made += jobs,
            // Nobody could be served.
            Err(error @ DbError::Unavailable(_)) => return Err(error),
            // The others must not wait for what is wrong with one.
            Err(error) => {
                tracing::warn!(organization.id = %organization, error = ?error, "callbacks of {organization} could not be dispatched");
            }
        }
    }
    Ok(made)
}

async fn dispatch_for(
    connection: &mut sqlx::PgConnection,
    organization: OrganizationId,
    workflow: &Workflow,
) -> Result<usize, DbError> {
    let actor = Actor::internal("dispatcher");
    let mut made = 0;
    for ready in messages::ready_callbacks(connection, organization, WINDOW, WINDOW_FAILING).await? {
        let waiting = messages::waiting(connection, organization, ready.id, ready.free).await?;
        let pairs: Vec<_> = waiting.into_iter().map(|message| (message, JobId::new())).collect();
        if !pairs.is_empty() {
            messages::dispatch(connection, organization, &pairs, workflow, &actor).await?;
        }
        made += pairs.len();
    }
    Ok(made)
}

/// Forget messages and deliveries that ended before `keep`; how many.
///
/// # Errors
/// [`DbError`].
pub async fn forget(db: &Db, keep: Duration) -> Result<u64, DbError> {
    let organizations =
        db.unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(messages::organizations(connection))).await?;
    let mut forgotten = 0;
    for organization in organizations {
        loop {
            let rows = db
                .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                    Box::pin(messages::forget(connection, organization, keep, FORGET_MAX))
                })
                .await?;
            forgotten += rows;
            if rows == 0 {
                break;
            }
        }
    }
    Ok(forgotten)
}
