//! `/v1/ingestion/jobs/{jobId}/explain`: a job in plain words.

use super::extract::{Authenticated, Segment};
use super::jobs::{VIEWERS, locate, not_found};
use super::problem::{Problem, ProblemDocument};
use crate::app::App;
use crate::engine::explain::Explanation;
use crate::engine::reading;
use axum::Json;
use axum::extract::State;
use std::sync::Arc;

/// What happened to a job, who must act, and what will happen next, in plain words.
#[utoipa::path(
    get, path = "/v1/ingestion/jobs/{jobId}/explain", tag = "jobs", operation_id = "explainJob", params(("jobId" = String, Path)),
    responses(
        (status = 200, description = "The explanation", body = Explanation),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn explain_job(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(job): Segment,
) -> Result<Json<Explanation>, Problem> {
    caller.allow(VIEWERS)?;
    let (organization, job) = locate(&app, &caller, &job).await?;
    let found = reading::find_explanation(&app.db, &app.catalog, organization, job).await?;
    found.map(Json).ok_or_else(not_found)
}
