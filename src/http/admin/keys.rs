//! Rotation of API keys.

use super::organizations::{ADMINS, CreatedKey, by, problem};
use crate::app::App;
use crate::auth::administration::{self, OVERLAP_SECONDS, Rotated};
use crate::http::extract::{Authenticated, Segment, read_optional_json};
use crate::http::jobs::instant;
use crate::http::problem::{Problem, ProblemDocument};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;

/// Body of a rotation; may be left out.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRotation {
    /// How long the old key stays good beside the new one: 0 to 7,776,000 s, 86,400 unless given.
    #[serde(default, deserialize_with = "crate::http::extract::whole_or_null")]
    #[schema(minimum = 0, maximum = 7_776_000)]
    overlap_seconds: Option<u32>,
    /// The new key ends by itself then (RFC 3339).
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// Rotate a key: a new one with the same organization, role, name and source; the old one ends after the overlap. The new
/// one's secret is shown only in this answer.
#[utoipa::path(
    post, path = "/v1/admin/keys/{keyId}/rotate", tag = "administration", operation_id = "rotateKey", params(("keyId" = String, Path)),
    request_body(content = Option<KeyRotation>, content_type = "application/json"),
    responses((status = 201, description = "The new key", body = CreatedKey), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn rotate_key(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.allow(ADMINS)?;
    let request: KeyRotation = read_optional_json(&headers, body).await?;
    let overlap = request.overlap_seconds.unwrap_or(OVERLAP_SECONDS);
    let expires_at = instant("expiresAt", request.expires_at.as_deref())?;
    let rotated = administration::rotate_key(&app.db, &id, overlap, expires_at, by(caller, None)).await;
    let Rotated { key, role, organization } = rotated.map_err(problem)?;
    let created = CreatedKey { id: key.id, key: key.key, role, organization_id: organization };
    Ok((StatusCode::CREATED, Json(created)).into_response())
}
