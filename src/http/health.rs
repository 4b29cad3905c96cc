//! `/health/live`, `/health/ready` and `/ingest/health`: no key is needed, and nothing here is an organization's. What they say
//! is found out once a second, however many ask.

use crate::app::App;
use crate::audit::store::SealerStatus;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use time::OffsetDateTime;

/// The process runs.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Live {
    /// Always `ok`.
    pub status: &'static str,
    /// Program version.
    pub version: &'static str,
}

/// The process runs.
#[utoipa::path(get, path = "/health/live", tag = "operations", operation_id = "live", responses((status = 200, description = "Alive", body = Live)))]
pub async fn live() -> Json<Live> {
    Json(Live { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// One dependency.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Dependency {
    /// database, `object_store` or `audit_log`.
    pub name: &'static str,
    /// Usable now.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Readiness.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Ready {
    /// `ok`, `unavailable`, or `draining`: this process stops, send requests elsewhere.
    pub status: &'static str,
    /// Each dependency, with the reason if it is away.
    pub dependencies: Vec<Dependency>,
}

/// Each dependency, with the reason if it is away. 503 while the database is: without S3, jobs are still accepted and
/// wait in backoff. 503 also while the process stops and still answers.
#[utoipa::path(
    get, path = "/health/ready", tag = "operations", operation_id = "ready",
    responses((status = 200, description = "Ready", body = Ready), (status = 503, description = "Not ready", body = Ready))
)]
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    let [database, objects] = app.faults().await;
    let ok = database.is_none();
    let audit = if ok { audit_fault(app.sealer().await.as_ref()) } else { None };
    let dependencies = vec![
        Dependency { name: "database", ok, reason: database },
        Dependency { name: "object_store", ok: objects.is_none(), reason: objects },
        Dependency { name: "audit_log", ok: ok && audit.is_none(), reason: audit },
    ];
    let (code, status) = match (app.limits.draining.is_cancelled(), ok) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, true) => (StatusCode::OK, "ok"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    (code, Json(Ready { status, dependencies })).into_response()
}

/// A sealer that says nothing for so long does not run.
const SILENCE_MAX_SECONDS: f64 = 60.0;
/// Records that are older and not sealed are worth a look.
const UNSEALED_MAX_SECONDS: f64 = 600.0;

/// What is wrong with the sealing of the audit log: it stops no request and no job.
pub(crate) fn audit_fault(status: Option<&SealerStatus>) -> Option<String> {
    let Some(status) = status else {
        return Some("nothing was sealed yet: is a process with the role sweeper running?".to_owned());
    };
    if status.silent_seconds > SILENCE_MAX_SECONDS {
        return Some(format!(
            "no sealer for {:.0} s: is a process with the role sweeper running?",
            status.silent_seconds
        ));
    }
    if status.state != "sealing" {
        return Some(status.state.clone());
    }
    (status.unsealed_seconds > UNSEALED_MAX_SECONDS)
        .then(|| format!("records are not sealed since {:.0} s", status.unsealed_seconds))
}

/// Health for senders.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct IngestHealth {
    /// `healthy`; `degraded` while the object store is away: events are accepted and wait; `unhealthy` while the database
    /// is: nothing is accepted.
    #[schema(example = "healthy")]
    pub status: &'static str,
    /// Always `chartgate`.
    pub service: &'static str,
    /// Program version.
    pub version: &'static str,
    /// `healthy` or `unhealthy`.
    #[schema(example = "healthy")]
    pub database: &'static str,
    /// `healthy` or `unhealthy`.
    #[schema(example = "healthy")]
    pub object_store: &'static str,
    /// When this was found.
    #[serde(with = "time::serde::rfc3339")]
    pub timestamp: OffsetDateTime,
}

/// Can events be sent now? 503 while the database is away.
#[utoipa::path(
    get, path = "/ingest/health", tag = "operations", operation_id = "ingestHealth",
    responses((status = 200, description = "Healthy or degraded", body = IngestHealth), (status = 503, description = "Unhealthy", body = IngestHealth))
)]
pub async fn ingest_health(State(app): State<Arc<App>>) -> Response {
    let [database, objects] = app.faults().await.map(|fault| fault.is_none());
    let (code, status) = match (database, objects) {
        (true, true) => (StatusCode::OK, "healthy"),
        (true, false) => (StatusCode::OK, "degraded"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
    };
    let word = |is_healthy| if is_healthy { "healthy" } else { "unhealthy" };
    let health = IngestHealth {
        status,
        service: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        database: word(database),
        object_store: word(objects),
        timestamp: app.clock.now(),
    };
    (code, [(header::CACHE_CONTROL, "no-store")], Json(health)).into_response()
}
