//! Rotation of API keys.

use super::organizations::{ADMINS, CreatedKey, record};
use crate::app::App;
use crate::audit::Action;
use crate::auth::NewKey;
use crate::auth::store;
use crate::db::{DbError, Scope};
use crate::http::extract::{Authenticated, Segment, read_optional_json};
use crate::http::jobs::instant;
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::OrganizationId;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long both are good, unless the request says otherwise: a day.
const OVERLAP_SECONDS: u32 = 86_400;
/// At most: 90 days.
pub(super) const OVERLAP_SECONDS_MAX: u32 = 7_776_000;

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
    if overlap > OVERLAP_SECONDS_MAX {
        return Err(Problem::new("invalid_request", "`overlapSeconds` must be at most 7776000."));
    }
    let expires_at = instant("expiresAt", request.expires_at.as_deref())?;
    let only = caller.caller.organization;
    let home = only.unwrap_or(OrganizationId::PLATFORM);
    let key = NewKey::generate();
    let (new_id, text) = (key.id.clone(), key.key.clone());
    let rotated = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                let overlap_for = Duration::from_secs(overlap.into());
                let rotated = store::rotate_key(connection, &id, only, &key, overlap_for, expires_at).await?;
                if rotated.is_some() {
                    let (resource, detail) = (format!("key:{id}"), json!({ "new": key.id, "overlapSeconds": overlap }));
                    record(connection, home, "key.rotated", Action::Update, &caller.actor, &resource, Some(detail))
                        .await?;
                }
                Ok(rotated)
            })
        })
        .await?;
    let (role, organization_id) =
        rotated.ok_or_else(|| Problem::new("key_not_found", "There is no such key that is still good."))?;
    let created = CreatedKey { id: new_id, key: text, role, organization_id };
    Ok((StatusCode::CREATED, Json(created)).into_response())
}
