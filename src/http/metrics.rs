//! `/metrics`: what this process counted, and the database as it is now.

use super::problem::{Problem, ProblemDocument};
use crate::app::App;
use crate::app::health::CHECK_MAX;
use crate::db::{DbError, Scope};
use crate::engine::gauges_store;
use crate::telemetry;
use crate::telemetry::metrics::{
    Around, Pool, Queue, around_gauges, database_away, database_up, process_gauges, queue_gauges, render,
};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;

/// Looking takes at most this share of the time, however often and by however many it is asked for: the queue is counted whole.
const SHARE: u32 = 20;

/// Counters and histograms of this process, for Prometheus, and gauges of the database that all processes share.
///
/// They say how much is going on, and nothing about whose: but they belong on an inner network.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "metrics",
    responses(
        (status = 200, description = "Prometheus text format 0.0.4", body = String, content_type = "text/plain"),
        (status = "5XX", description = "Not now", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    look(&app).await;
    let (size, idle) = (app.db.pool().size(), u32::try_from(app.db.pool().num_idle()).unwrap_or(u32::MAX));
    let pool = Pool { busy: size.saturating_sub(idle), idle, max: app.config.database.connections_max };
    let is_embedded = app.config.database.url.is_none() || app.config.s3.embedded;
    process_gauges(pool, is_embedded.then_some(app.config.data_dir.as_path()));
    let text = render().map_err(|error| {
        tracing::error!(%error, "the metrics cannot be rendered");
        Problem::new("internal_error", "An internal error.")
    })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// Bring the gauges of the database up to date; without it they are gone. A scrape waits for that only so long: a look at a queue of
/// millions goes on behind it, and the next scrape tells what it found.
async fn look(app: &Arc<App>) {
    let looking = Arc::clone(app);
    let looking = tokio::spawn(async move { look_now(&looking).await });
    // What is late, or was aborted with the runtime, leaves the gauges as they are.
    let _ = tokio::time::timeout(CHECK_MAX, looking).await;
}

async fn look_now(app: &App) {
    // Who comes meanwhile waits for the look under way, and finds it fresh.
    let mut last = app.scraped.lock().await;
    if last.is_some_and(|(at, cost)| at.elapsed() < cost * SHARE) {
        return;
    }
    let started = Instant::now();
    if matches!(tokio::time::timeout(CHECK_MAX, app.db.ping()).await, Ok(Ok(()))) {
        database_up();
        look_at_database(app).await;
    } else {
        database_away();
    }
    *last = Some((started, started.elapsed()));
}

/// What cannot be read now stays as it was: that the database answers is known.
async fn look_at_database(app: &App) {
    if let Some(status) = app.sealer().await {
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        let (records, checkpoints) = (status.unsealed_records as f64, status.unpublished as f64);
        telemetry::audit_state(&status.state, status.unsealed_seconds, records, checkpoints);
    }
    let around = app.db.unit::<_, DbError, _>(Scope::Platform, |connection| Box::pin(gauges_store::around(connection)));
    match around.await {
        Ok(around) => around_gauges(&Around {
            workers: around.workers,
            operations: around.operations,
            callback_messages: around.callback_messages,
            oldest_callback_message_seconds: around.oldest_callback_message_seconds,
        }),
        Err(error) => {
            tracing::warn!(error = ?error, "workers, operations and callbacks cannot be read for the metrics");
        }
    }
    let queue = app.db.unit::<_, DbError, _>(Scope::Platform, |connection| Box::pin(gauges_store::queue(connection)));
    match queue.await {
        Ok(queue) => queue_gauges(&told(&queue)),
        Err(error) => tracing::warn!(error = ?error, "the queue cannot be read for the metrics"),
    }
}

fn told(queue: &gauges_store::Queue) -> Queue {
    Queue {
        tasks: vec![
            ("ready", queue.ready),
            ("suspect", queue.suspect),
            ("blocked", queue.blocked),
            ("delayed", queue.delayed),
            ("leased", queue.leased),
            ("waiting", queue.waiting),
        ],
        oldest_ready_seconds: queue.oldest_ready_seconds,
        oldest_blocked_seconds: queue.oldest_blocked_seconds,
        lanes_held: queue.lanes_held,
        leases_expired: queue.expired_leases,
    }
}
