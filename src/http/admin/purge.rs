//! `POST /v1/admin/purge`: erase a payload with everything that was taken from it, or all payloads that tell of a patient. Role admin, the own organization only.
//! docs/erasure.md.

use super::links::check_reason;
use crate::app::App;
use crate::auth::Role;
use crate::http::extract::{Authenticated, read_json};
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::PatientId;
use crate::ingest::erasure::{EraseError, Eraser, Erasure, Target};
use crate::ingest::linking::acts::By;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// An erasure that takes longer goes on behind the answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Body of a purge: exactly one of `payload` and `patient`.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PurgeRequest {
    /// SHA-256 of the payload's exact bytes, lower-case hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    payload: Option<String>,
    /// A patient: all payloads that tell of them.
    patient: Option<String>,
    /// With `patient`: what to do with payloads that tell of others, too. `purge`: they go whole, with what they say of the others. Without it
    /// such payloads refuse the whole purge.
    shared_payloads: Option<SharedPayloads>,
    /// Why, in 1 to 1,000 characters, not only spaces; kept in the audit log. No name and no number of a patient.
    #[schema(min_length = 1, max_length = 1000, pattern = r"\S")]
    reason: String,
    /// Only count what would go.
    #[serde(default)]
    dry_run: bool,
}

/// What to do with payloads that tell of others, too.
#[derive(Deserialize, utoipa::ToSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SharedPayloads {
    /// They go whole.
    Purge,
}

impl PurgeRequest {
    fn target(&self) -> Result<Target, Problem> {
        let refused =
            |member: &str, detail: &str| Problem::new("invalid_request", detail).at(None, Some(format!("/{member}")));
        match (&self.payload, &self.patient, self.shared_payloads) {
            (Some(payload), None, None) => sha256_of(payload)
                .map(Target::Payload)
                .ok_or_else(|| refused("payload", "`payload` must be a SHA-256 in 64 lower-case hexadecimal digits.")),
            (None, Some(patient), shared) => patient
                .parse()
                .map(|patient: PatientId| Target::Patient { patient, shared_too: shared.is_some() })
                .map_err(|_| refused("patient", "`patient` must be a patient's id, `pat_…`.")),
            (Some(_), None, Some(_)) => {
                Err(refused("sharedPayloads", "`sharedPayloads` belongs to `patient`: a payload goes whole anyway."))
            }
            _ => Err(Problem::new("invalid_request", "Name exactly one: `payload` or `patient`.")),
        }
    }
}

/// The hash that a text writes in lower-case hexadecimal.
pub(super) fn sha256_of(text: &str) -> Option<[u8; 32]> {
    let is_lower = text.bytes().all(|byte| !byte.is_ascii_uppercase());
    let mut hash = [0; 32];
    (is_lower && hex::decode_to_slice(text, &mut hash).is_ok()).then_some(hash)
}

fn problem(error: EraseError) -> Problem {
    match error {
        EraseError::PayloadNotFound => Problem::new("payload_not_found", "There is no such payload."),
        EraseError::PatientNotFound => Problem::new("patient_not_found", "There is no such patient."),
        EraseError::Shared { shared, payloads } => Problem::new(
            "payload_shared",
            format!("{shared} of {payloads} payloads tell of others, too. Nothing was changed."),
        ),
        EraseError::Held => Problem::new("legal_hold", "A legal hold forbids it. Nothing was changed."),
        EraseError::JobNotFinished => Problem::new(
            "job_not_finished",
            "A job of these bytes has not ended: wait for it, or cancel it. Nothing was changed.",
        ),
        EraseError::Objects(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "an erasure waits for object storage");
            Problem::new(
                "object_store_unavailable",
                "The rows are erased; the objects wait until object storage is available, and go then by themselves.",
            )
            .retry_after(Duration::from_secs(30))
        }
        EraseError::Uncounted(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "objects cannot be counted");
            Problem::new(
                "object_store_unavailable",
                "Nothing was changed: what would go cannot be counted until object storage is available.",
            )
            .retry_after(Duration::from_secs(30))
        }
        EraseError::Db(error) => error.into(),
    }
}

/// Erase a payload, or all payloads that tell of a patient: the bytes, their copies in object storage, and everything that was taken from them, as if they had never been
/// there. Their rows stay as tombstones, their jobs and the audit trail stay. With `dryRun` only count. The same call again goes on where the first was cut off.
#[utoipa::path(
    post, path = "/v1/admin/purge", tag = "administration", operation_id = "purge", request_body = PurgeRequest,
    responses(
        (status = 200, description = "Erased; or, with `dryRun`, counted", body = Erasure),
        (status = 202, description = "The content is gone for readers; the rest goes on by itself", body = Erasure),
        (status = 409, description = "A legal hold, a job that has not ended, or payloads that tell of others, too", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn purge(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let organization = caller.organization(&[Role::Admin])?;
    let request: PurgeRequest = read_json(&headers, body).await?;
    check_reason(&request.reason)?;
    let target = request.target()?;
    let by = By { actor: caller.actor, reason: request.reason };
    let eraser = Eraser::new(app.db.clone(), app.objects.clone());
    let erasure = if request.dry_run {
        eraser.rehearse(organization, target, by).await
    } else {
        eraser.purge(organization, target, by, ANSWER_WITHIN).await
    }
    .map_err(problem)?;
    if matches!(erasure.status.as_str(), "finished" | "planned") {
        return Ok(Json(erasure).into_response());
    }
    Ok((StatusCode::ACCEPTED, [(header::RETRY_AFTER, "30")], Json(erasure)).into_response())
}
