//! Administrators' views of jobs: lists over organizations, failures by fingerprint; retry of one. Many: [`super::operations`].

use super::links::check_reason;
use crate::app::App;
use crate::auth::Role;
use crate::db::{DbError, Scope};
use crate::engine::jobs::JobView;
use crate::engine::jobs_store::{self, Acted, FailureGroup};
use crate::engine::operations::RetryVersion;
use crate::http::extract::{Authenticated, Parameters, Segment, read_json};
use crate::http::jobs::{JobPage, ListParameters, locate, view};
use crate::http::problem::{Problem, ProblemDocument};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) const ADMINS: &[Role] = &[Role::Admin, Role::Platform];

/// Jobs of the organization, or of all organizations with the platform role.
#[utoipa::path(
    get, path = "/v1/admin/jobs", tag = "administration", operation_id = "adminListJobs", params(ListParameters),
    responses((status = 200, description = "A page", body = JobPage), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_jobs(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<JobPage>, Problem> {
    caller.allow(ADMINS)?;
    Ok(Json(parameters.page(&app, caller.caller.organization).await?))
}

/// Failed jobs, grouped.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Failures {
    /// Most frequent first.
    pub failures: Vec<FailureGroup>,
}

/// Failed jobs grouped by fingerprint: workflow, step and code.
#[utoipa::path(
    get, path = "/v1/admin/failures", tag = "administration", operation_id = "listFailures",
    responses((status = 200, description = "The groups", body = Failures), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_failures(State(app): State<Arc<App>>, caller: Authenticated) -> Result<Json<Failures>, Problem> {
    caller.allow(ADMINS)?;
    let organization = caller.caller.organization;
    let scope = organization.map_or(Scope::Platform, Scope::Organization);
    let failures = app
        .db
        .unit::<_, DbError, _>(scope, move |connection| {
            Box::pin(async move { jobs_store::failure_groups(connection, organization).await })
        })
        .await?;
    Ok(Json(Failures { failures }))
}

/// Body of a retry.
#[derive(Clone, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryRequest {
    /// `failed_step`, `start`, or the name of a step.
    #[serde(default = "failed_step")]
    #[schema(example = "failed_step", format = "step-name")]
    from: String,
    /// pinned or latest.
    #[serde(default)]
    version: RetryVersion,
    /// Why, in 1 to 1,000 characters, not only spaces; kept in the audit log.
    #[schema(min_length = 1, max_length = 1000, pattern = r"\S")]
    reason: String,
}

pub(super) fn failed_step() -> String {
    "failed_step".to_owned()
}

/// Retry a job that has ended: from its failed step, from a named step, or from the start.
///
/// Of a bulk file `failed_step` runs only the chunks that failed, and `failed_lines` only those with lines that were left out.
#[utoipa::path(
    post, path = "/v1/admin/jobs/{jobId}/retry", tag = "administration", operation_id = "retryJob", params(("jobId" = String, Path)),
    request_body = RetryRequest,
    responses(
        (status = 202, description = "The next round is open", body = JobView),
        (status = 409, description = "The job has not ended", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn retry_job(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(job): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.allow(ADMINS)?;
    let request: RetryRequest = read_json(&headers, body).await?;
    check_reason(&request.reason)?;
    let (organization, job) = locate(&app, &caller, &job).await?;
    let (operations, actor) = (app.operations(), caller.actor);
    let acted =
        operations.retry_one(organization, job, &request.from, request.version, &actor, &request.reason).await?;
    match acted {
        Acted::Done => Ok((StatusCode::ACCEPTED, Json(view(&app, organization, job).await?)).into_response()),
        Acted::Refused => {
            Err(Problem::new("job_not_finished", "The job has not ended; only a job that has ended can be retried."))
        }
        Acted::Unknown => Err(Problem::new("job_not_found", "There is no such job.")),
    }
}
