//! `/health/live` and `/health/ready`.

use crate::app::App;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// A dependency that does not answer within this time counts as away.
const CHECK_MAX: Duration = Duration::from_secs(3);

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
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Dependency {
    /// database or `object_store`.
    pub name: &'static str,
    /// Usable now.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Readiness.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Ready {
    /// `ok` or `unavailable`.
    pub status: &'static str,
    /// Each dependency, with the reason if it is away.
    pub dependencies: Vec<Dependency>,
}

/// Each dependency, with the reason if it is away. 503 while the database is: without S3, jobs are still accepted and
/// wait in backoff.
#[utoipa::path(
    get, path = "/health/ready", tag = "operations", operation_id = "ready",
    responses((status = 200, description = "Ready", body = Ready), (status = 503, description = "Not ready", body = Ready))
)]
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    let database = tokio::time::timeout(CHECK_MAX, app.db.ping());
    let objects = tokio::time::timeout(CHECK_MAX, app.objects.ready());
    let (database, objects) = tokio::join!(database, objects);
    let database = match database {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer in time".to_owned()),
    };
    let objects = match objects {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer in time".to_owned()),
    };
    let ok = database.is_none();
    let dependencies = vec![
        Dependency { name: "database", ok, reason: database },
        Dependency { name: "object_store", ok: objects.is_none(), reason: objects },
    ];
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { status: if ok { "ok" } else { "unavailable" }, dependencies })).into_response()
}
