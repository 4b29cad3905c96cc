//! What is wrong with a job's data: its issues page by page or as a stream, and the outcome file of an upload.

use super::extract::{Authenticated, Parameters, Segment};
use super::jobs::locate;
use super::problem::{OperationOutcome, Problem, ProblemDocument};
use crate::app::App;
use crate::auth::Role;
use crate::db::{DbError, Scope};
use crate::engine::jobs_store;
use crate::ids::{JobId, OrganizationId};
use crate::ingest::fhir::issue;
use crate::ingest::issues::{self, IssuePlace, StoredIssue};
use crate::ingest::steps::bulk;
use crate::objects::ObjectError;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use tokio_util::io::ReaderStream;

/// Issues of a job.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Issues {
    /// In the order of the payload.
    #[schema(value_type = Vec<Object>)]
    pub issues: Vec<StoredIssue>,
    /// Give it as `cursor` for the next page; not there on the last.
    #[serde(rename = "nextCursor", skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Every validation issue of a job: as JSON, as NDJSON (`Accept: application/x-ndjson`), or as a FHIR OperationOutcome
/// (`Accept: application/fhir+json`).
#[utoipa::path(
    get, path = "/v1/ingestion/jobs/{jobId}/issues", tag = "jobs", operation_id = "getIssues",
    params(("jobId" = String, Path), IssueParameters),
    responses(
        (status = 200, description = "The issues", content(
            (Issues = "application/json"), (String = "application/x-ndjson"), (OperationOutcome = "application/fhir+json"))),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn get_issues(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(job): Segment,
    Parameters(parameters): Parameters<IssueParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.allow(&[Role::Sender, Role::Reader, Role::Admin, Role::Platform])?;
    let after = parameters.cursor.as_deref().map_or(Ok(IssuePlace::START), str::parse);
    let after = after.map_err(|()| Problem::parameter("cursor", "the nextCursor of an earlier page"))?;
    let limit = parameters.limit.unwrap_or(ISSUES_MAX);
    if !(1..=ISSUES_MAX).contains(&limit) {
        return Err(Problem::parameter("limit", "a number from 1 to 10000"));
    }
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_stream = accept.contains("ndjson");
    let limit = if is_stream { ISSUES_STREAMED } else { limit };
    let (organization, job) = locate(&app, &caller, &job).await?;
    let found = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let Some(row) = jobs_store::find_job(connection, organization, job).await? else { return Ok(None) };
                let (found, next) = issues::page(connection, organization, job, after, limit).await?;
                Ok(Some((row.round, found, next)))
            })
        })
        .await?;
    let (round, found, next) = found.ok_or_else(|| Problem::new("job_not_found", "There is no such job."))?;
    if is_stream {
        let body = Body::from_stream(lines_of(Arc::clone(&app), (organization, job, round), &found, next));
        return Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response());
    }
    if accept.contains("application/fhir+json") {
        let outcome = operation_outcome(&found, next.is_some());
        let body = serde_json::to_vec(&outcome).unwrap_or_default();
        return Ok(([(header::CONTENT_TYPE, "application/fhir+json")], body).into_response());
    }
    Ok(Json(Issues { issues: found, next_cursor: next.map(|next| next.to_string()) }).into_response())
}

/// Issues of the answers that are no stream.
const ISSUES_MAX: usize = 10_000;
/// Issues that a stream reads at once: what it holds in memory.
const ISSUES_STREAMED: usize = 1_000;

/// The first page, and the others as they are asked for. What cannot be read any more breaks the answer off, as does a retry
/// of the job, which makes its issues anew: a stream that ends well is whole, and of one round.
fn lines_of(
    app: Arc<App>,
    (organization, job, round): (OrganizationId, JobId, i32),
    first: &[StoredIssue],
    next: Option<IssuePlace>,
) -> impl Stream<Item = Result<Bytes, DbError>> + use<> {
    let text = |issues: &[StoredIssue]| {
        let mut lines = Vec::with_capacity(issues.len() * 256);
        for issue in issues {
            // Plain members: this cannot fail.
            if serde_json::to_writer(&mut lines, issue).is_ok() {
                lines.push(b'\n');
            }
        }
        Bytes::from(lines)
    };
    let rest = stream::try_unfold((app, next), move |(app, next)| async move {
        let Some(after) = next else { return Ok(None) };
        let (found, next) = app
            .db
            .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                Box::pin(async move {
                    let page = issues::page(connection, organization, job, after, ISSUES_STREAMED).await?;
                    let row = jobs_store::find_job(connection, organization, job).await?;
                    if row.is_some_and(|row| row.round == round) { Ok(page) } else { Err(DbError::NotOneRow(0)) }
                })
            })
            .await?;
        Ok(Some((text(&found), (app, next))))
    });
    stream::once(std::future::ready(Ok(text(first)))).chain(rest)
}

/// Query of the issues.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct IssueParameters {
    /// `nextCursor` of the page before.
    #[param(pattern = "^-?[0-9]{1,18}[.][0-9]{1,9}[.][0-9]{1,9}$")]
    cursor: Option<String>,
    /// Issues of an answer that is no NDJSON: 1 to 10,000, which is the default.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<usize>,
}

/// What was not ingested of an uploaded file: a line for each line (entry) that was left out, with its issues, as NDJSON.
/// It is there once the job has ended.
#[utoipa::path(
    get, path = "/v1/ingestion/jobs/{jobId}/outcomes", tag = "jobs", operation_id = "getOutcomes",
    params(("jobId" = String, Path)),
    responses(
        (status = 200, description = "The outcomes", content((String = "application/x-ndjson"))),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn get_outcomes(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(job): Segment,
) -> Result<Response, Problem> {
    caller.allow(&[Role::Sender, Role::Reader, Role::Admin, Role::Platform])?;
    let (organization, job) = locate(&app, &caller, &job).await?;
    let known = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move { jobs_store::find_job(connection, organization, job).await })
        })
        .await?;
    let known = known.ok_or_else(|| Problem::new("job_not_found", "There is no such job."))?;
    let missing = || Problem::new("outcomes_not_found", "The job has no outcome file, or not yet.");
    // The object of an earlier round is still there while the next one runs, but is not what this job came to.
    if known.result.as_ref().is_none_or(|result| result["outcomes"].is_null()) {
        return Err(missing());
    }
    let reader = app.objects.read(&bulk::outcomes_key(organization, job)).await.map_err(|error| match error {
        ObjectError::NotFound => missing(),
        _ => Problem::new("object_store_unavailable", "Object storage is not available.")
            .retry_after(std::time::Duration::from_secs(5)),
    })?;
    let body = Body::from_stream(ReaderStream::with_capacity(reader, 64 * 1024));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn operation_outcome(found: &[StoredIssue], is_cut: bool) -> Value {
    let shaped = found.iter().map(|issue| {
        let (expression, pointer) = (issue.expression.as_deref(), issue.pointer.as_deref());
        issue::outcome_issue(&issue.severity, &issue.code, &issue.message, expression, pointer, issue.offset)
    });
    let rest = is_cut.then(|| {
        let message = "There are more issues: ask for application/x-ndjson.";
        issue::outcome_issue("information", "incomplete", message, None, None, None)
    });
    issue::operation_outcome(shaped.chain(rest).collect())
}
