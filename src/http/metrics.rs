//! `/metrics`: what this process counted, and the database as it is now.

use super::problem::{Problem, ProblemDocument};
use crate::app::App;
use crate::app::health::CHECK_MAX;
use crate::db::{DbError, Scope};
use crate::engine::gauges_store::{Gauges, gauges};
use crate::telemetry;
use crate::telemetry::metrics::{Database, Pool, database_away, database_gauges, process_gauges, render};
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

/// Bring the gauges of the database up to date; without it they are gone.
async fn look(app: &App) {
    // Who comes meanwhile waits for the look under way, and finds it fresh.
    let mut last = app.scraped.lock().await;
    if last.is_some_and(|(at, cost)| at.elapsed() < cost * SHARE) {
        return;
    }
    let started = Instant::now();
    if let Some(status) = app.sealer().await {
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        let (records, checkpoints) = (status.unsealed_records as f64, status.unpublished as f64);
        telemetry::audit_state(&status.state, status.unsealed_seconds, records, checkpoints);
    }
    let read = app.db.unit::<_, DbError, _>(Scope::Platform, |connection| Box::pin(gauges(connection)));
    match tokio::time::timeout(CHECK_MAX, read).await {
        Ok(Ok(gauges)) => database_gauges(&told(&gauges)),
        Ok(Err(_)) | Err(_) => database_away(),
    }
    *last = Some((started, started.elapsed()));
}

fn told(gauges: &Gauges) -> Database {
    Database {
        tasks: vec![
            ("ready", gauges.ready),
            ("suspect", gauges.suspect),
            ("blocked", gauges.blocked),
            ("delayed", gauges.delayed),
            ("leased", gauges.leased),
            ("waiting", gauges.waiting),
        ],
        oldest_ready_seconds: gauges.oldest_ready_seconds,
        oldest_blocked_seconds: gauges.oldest_blocked_seconds,
        lanes_held: gauges.lanes_held,
        leases_expired: gauges.expired_leases,
        workers: gauges.workers,
        operations: gauges.operations,
        callback_messages: gauges.callback_messages,
        oldest_callback_message_seconds: gauges.oldest_callback_message_seconds,
    }
}
