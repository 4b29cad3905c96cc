//! Bulk operations: retry, cancel and reprocess many jobs, follow and steer what was begun (docs/bulk-operations.md).

use super::jobs::{ADMINS, failed_step};
use crate::app::App;
use crate::engine::jobs::{JobFilter, is_sha256};
use crate::engine::operations::{
    BulkRequest, OperationError, OperationJobs, OperationKind, OperationPage, OperationView, PAGE_MAX, RetryVersion,
    Steer,
};
use crate::engine::state::JobStatus;
use crate::http::description;
use crate::http::extract::{Authenticated, Parameters, Segment, object_or_null, read_json, whole_or_null};
use crate::http::jobs::instant;
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::{JobId, OperationId, OrganizationId};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;

impl From<OperationError> for Problem {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Invalid(detail) => Self::new("invalid_request", detail),
            OperationError::NotFound => not_found(),
            OperationError::NotPossible(detail) => Self::new("operation_not_possible", detail),
            OperationError::Catalog(error) => {
                tracing::error!(error = %error, "a workflow version cannot be loaded");
                Self::new("internal_error", "An internal error.")
            }
            OperationError::Db(error) => error.into(),
        }
    }
}

fn not_found() -> Problem {
    Problem::new("operation_not_found", "There is no such operation.")
}

/// Which jobs a bulk operation meets; all that is given must hold.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BulkFilter {
    /// `org_…`: only this organization's (platform role).
    #[schema(value_type = Option<String>)]
    organization: Option<OrganizationId>,
    /// Of a retry or reprocessing: failed (without it), cancelled, succeeded or `succeeded_with_issues`. Of a cancel: queued, running,
    /// retrying (without it: these three) or `awaiting_upload`.
    #[schema(value_type = Option<String>, pattern = "^(failed|cancelled|succeeded|succeeded_with_issues|queued|running|retrying|awaiting_upload)$")]
    status: Option<JobStatus>,
    /// Only this workflow.
    workflow: Option<String>,
    /// Only jobs that failed at this step: its name or its index.
    step: Option<String>,
    /// Only this source.
    source: Option<String>,
    /// Only jobs with this error code.
    error_code: Option<String>,
    /// Only this group of failures, `workflow/step/code`; instead of those three.
    #[schema(pattern = "^[^/]+/[^/]+/[^/]+$")]
    fingerprint: Option<String>,
    /// Only jobs with this payload: its SHA-256.
    #[schema(pattern = "^[0-9a-fA-F]{64}$")]
    payload_sha256: Option<String>,
    /// Accepted at or after (RFC 3339).
    #[schema(format = DateTime)]
    created_after: Option<String>,
    /// Accepted before (RFC 3339).
    #[schema(format = DateTime)]
    created_before: Option<String>,
    /// Ended at or after (RFC 3339).
    #[schema(format = DateTime)]
    ended_after: Option<String>,
    /// Ended before (RFC 3339).
    #[schema(format = DateTime)]
    ended_before: Option<String>,
}

impl BulkFilter {
    fn filter(self) -> Result<JobFilter, Problem> {
        if self.payload_sha256.as_deref().is_some_and(|text| !is_sha256(text)) {
            return Err(Problem::new("invalid_request", "`filter.payloadSha256` must be 64 hexadecimal digits."));
        }
        let mut filter = JobFilter {
            organization: self.organization,
            status: self.status,
            is_live: false,
            workflow: self.workflow,
            step: self.step,
            source: self.source,
            error_code: self.error_code,
            payload_sha256: self.payload_sha256,
            created_after: instant("filter.createdAfter", self.created_after.as_deref())?,
            created_before: instant("filter.createdBefore", self.created_before.as_deref())?,
            ended_after: instant("filter.endedAfter", self.ended_after.as_deref())?,
            ended_before: instant("filter.endedBefore", self.ended_before.as_deref())?,
        };
        if let Some(fingerprint) = self.fingerprint {
            let is_twice = filter.workflow.is_some() || filter.step.is_some() || filter.error_code.is_some();
            if is_twice || !filter.narrow_to_fingerprint(&fingerprint) {
                let detail = "`filter.fingerprint` must be workflow/step/code, and stands instead of those three.";
                return Err(Problem::new("invalid_request", detail));
            }
        }
        Ok(filter)
    }
}

/// Body of a bulk operation: a filter or ids.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BulkOperationRequest {
    /// All jobs that meet it.
    #[serde(default, deserialize_with = "object_or_null")]
    filter: Option<BulkFilter>,
    /// Or exactly these.
    #[serde(default)]
    #[schema(schema_with = description::job_ids)]
    ids: Option<Vec<JobId>>,
    /// Of a retry: `failed_step`, `failed_lines`, start, or the name of a step.
    #[serde(default = "failed_step")]
    #[schema(format = "step-name")]
    from: String,
    /// Of a retry: pinned or latest.
    #[serde(default)]
    version: RetryVersion,
    /// Jobs a second, 1 to 10,000; 100 without it.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(minimum = 1, maximum = 10_000)]
    rate_per_second: Option<u32>,
    /// So many first; the rest only if none of them failed again. Not for a cancel.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(minimum = 0, maximum = 100_000)]
    canary: Option<u32>,
    /// Stop when so many failed again. Not for a cancel.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(minimum = 1, maximum = 100_000)]
    stop_after_failures: Option<u32>,
    /// Only count.
    #[serde(default)]
    dry_run: bool,
    /// Why, in 1 to 1,000 characters, not only spaces; kept in the audit log.
    #[schema(min_length = 1, max_length = 1000, pattern = r"\S")]
    reason: String,
}

async fn start(
    app: &App,
    kind: OperationKind,
    caller: Authenticated,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.allow(ADMINS)?;
    let request: BulkOperationRequest = read_json(headers, body).await?;
    let request = BulkRequest {
        kind,
        filter: request.filter.map(BulkFilter::filter).transpose()?,
        ids: request.ids,
        from: request.from,
        version: request.version,
        rate_per_second: request.rate_per_second,
        canary: request.canary,
        stop_after_failures: request.stop_after_failures,
        dry_run: request.dry_run,
        reason: request.reason,
    };
    let view = app.operations().start(caller.caller.organization, &request, &caller.actor).await?;
    let status = if request.dry_run { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(view)).into_response())
}

/// Retry all jobs that match a filter, or the given ones.
///
/// With `dryRun` only counts. Else answers an operation with its own status, which goes on by itself.
#[utoipa::path(
    post, path = "/v1/admin/jobs/retry", tag = "administration", operation_id = "retryJobs", request_body = BulkOperationRequest,
    responses(
        (status = 200, description = "dryRun: how many would be retried", body = OperationView),
        (status = 202, description = "Under way", body = OperationView),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn retry_jobs(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    start(&app, OperationKind::Retry, caller, &headers, body).await
}

/// Cancel all jobs that match a filter and have not ended, or the given ones. Cannot be undone; they can be retried.
#[utoipa::path(
    post, path = "/v1/admin/jobs/cancel", tag = "administration", operation_id = "cancelJobs", request_body = BulkOperationRequest,
    responses(
        (status = 200, description = "dryRun: how many would be cancelled", body = OperationView),
        (status = 202, description = "Under way", body = OperationView),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn cancel_jobs(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    start(&app, OperationKind::Cancel, caller, &headers, body).await
}

/// Run all jobs that match a filter, or the given ones, again from the start on the newest version of their workflows.
#[utoipa::path(
    post, path = "/v1/admin/jobs/reprocess", tag = "administration", operation_id = "reprocessJobs", request_body = BulkOperationRequest,
    responses(
        (status = 200, description = "dryRun: how many would be reprocessed", body = OperationView),
        (status = 202, description = "Under way", body = OperationView),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn reprocess_jobs(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    start(&app, OperationKind::Reprocess, caller, &headers, body).await
}

/// Query of the list.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OperationParameters {
    /// `nextCursor` of the page before.
    #[param(pattern = "^op_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    cursor: Option<String>,
    /// Operations of a page, 1 to 200; 50 without it.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

fn page_limit(limit: Option<i64>) -> Result<i64, Problem> {
    let limit = limit.unwrap_or(50);
    if (1..=PAGE_MAX).contains(&limit) { Ok(limit) } else { Err(Problem::parameter("limit", "a number from 1 to 200")) }
}

/// The organization's bulk operations, newest first; with the platform role those of the platform.
#[utoipa::path(
    get, path = "/v1/admin/operations", tag = "administration", operation_id = "listOperations", params(OperationParameters),
    responses((status = 200, description = "A page", body = OperationPage), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_operations(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Parameters(parameters): Parameters<OperationParameters>,
) -> Result<Json<OperationPage>, Problem> {
    caller.allow(ADMINS)?;
    let after = parameters.cursor.as_deref().map(str::parse).transpose();
    let after = after.map_err(|_| Problem::parameter("cursor", "the nextCursor of an earlier page"))?;
    let limit = page_limit(parameters.limit)?;
    Ok(Json(app.operations().list(caller.caller.organization, after, limit).await?))
}

fn operation_id(text: &str) -> Result<OperationId, Problem> {
    text.parse().map_err(|_| not_found())
}

/// Status of a bulk operation.
#[utoipa::path(
    get, path = "/v1/admin/operations/{operationId}", tag = "administration", operation_id = "getOperation", params(("operationId" = String, Path)),
    responses((status = 200, description = "The operation", body = OperationView), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn get_operation(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(operation): Segment,
) -> Result<Json<OperationView>, Problem> {
    caller.allow(ADMINS)?;
    Ok(Json(app.operations().find(caller.caller.organization, operation_id(&operation)?).await?))
}

/// States of an operation's jobs.
const TARGET_STATES: [&str; 5] = ["waiting", "acted", "skipped", "refused", "undone"];

/// Query of an operation's jobs.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OperationJobParameters {
    /// Only these: waiting, acted, skipped, refused or undone.
    #[param(pattern = "^(waiting|acted|skipped|refused|undone)$")]
    state: Option<String>,
    /// `nextCursor` of the page before.
    #[param(pattern = "^[0-9]{1,6}$")]
    cursor: Option<String>,
    /// Jobs of a page, 1 to 200; 50 without it.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// The jobs of a bulk operation, in the order in which they are acted on, and what became of each.
#[utoipa::path(
    get, path = "/v1/admin/operations/{operationId}/jobs", tag = "administration", operation_id = "listOperationJobs",
    params(("operationId" = String, Path), OperationJobParameters),
    responses((status = 200, description = "A page", body = OperationJobs), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_operation_jobs(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(operation): Segment,
    Parameters(parameters): Parameters<OperationJobParameters>,
) -> Result<Json<OperationJobs>, Problem> {
    caller.allow(ADMINS)?;
    let state = parameters.state;
    if state.as_deref().is_some_and(|state| !TARGET_STATES.contains(&state)) {
        return Err(Problem::parameter("state", "waiting, acted, skipped, refused or undone"));
    }
    let after = parameters.cursor.as_deref().map(str::parse::<i32>).transpose();
    let after = after.map_err(|_| Problem::parameter("cursor", "the nextCursor of an earlier page"))?.unwrap_or(0);
    let limit = page_limit(parameters.limit)?;
    let id = operation_id(&operation)?;
    Ok(Json(app.operations().jobs(caller.caller.organization, id, state, after, limit).await?))
}

/// Body of an act on an operation.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SteerRequest {
    /// Why, in 1 to 1,000 characters, not only spaces; kept in the audit log.
    #[schema(min_length = 1, max_length = 1000, pattern = r"\S")]
    reason: String,
}

/// Stop a bulk operation: what it has not acted on yet is left alone.
#[utoipa::path(
    post, path = "/v1/admin/operations/{operationId}/stop", tag = "administration", operation_id = "stopOperation", params(("operationId" = String, Path)),
    request_body = SteerRequest,
    responses(
        (status = 200, description = "Stopped", body = OperationView),
        (status = 409, description = "It is not under way", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn stop_operation(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(operation): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<OperationView>, Problem> {
    steer(&app, &caller, &operation, Steer::Stop, &headers, body).await
}

/// Go on with a bulk operation that was stopped, also after a failed canary.
#[utoipa::path(
    post, path = "/v1/admin/operations/{operationId}/resume", tag = "administration", operation_id = "resumeOperation", params(("operationId" = String, Path)),
    request_body = SteerRequest,
    responses(
        (status = 200, description = "Under way again", body = OperationView),
        (status = 409, description = "It was not stopped", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn resume_operation(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(operation): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<OperationView>, Problem> {
    steer(&app, &caller, &operation, Steer::Resume, &headers, body).await
}

/// Undo a bulk retry or reprocessing where it has not begun: those jobs are again as they were. A cancel cannot be undone.
#[utoipa::path(
    post, path = "/v1/admin/operations/{operationId}/undo", tag = "administration", operation_id = "undoOperation", params(("operationId" = String, Path)),
    request_body = SteerRequest,
    responses(
        (status = 200, description = "Being undone", body = OperationView),
        (status = 409, description = "It cannot be undone", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn undo_operation(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(operation): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<OperationView>, Problem> {
    steer(&app, &caller, &operation, Steer::Undo, &headers, body).await
}

async fn steer(
    app: &App,
    caller: &Authenticated,
    operation: &str,
    act: Steer,
    headers: &HeaderMap,
    body: Body,
) -> Result<Json<OperationView>, Problem> {
    caller.allow(ADMINS)?;
    let request: SteerRequest = read_json(headers, body).await?;
    let (organization, id) = (caller.caller.organization, operation_id(operation)?);
    Ok(Json(app.operations().steer(organization, id, act, &caller.actor, &request.reason).await?))
}
