//! `/v1/ingestion/jobs`: status with long-poll and `ETag`, lists, timeline, cancel.

use super::extract::{Authenticated, Parameters, Segment, read_optional_json};
use super::problem::{Problem, ProblemDocument};
use crate::app::App;
use crate::auth::Role;
use crate::db::{DbError, Scope};
use crate::engine::jobs::{self, JobFilter, JobRow, JobSummary, JobView};
use crate::engine::jobs_store::{self, Acted, PAGE_MAX};
use crate::engine::reading;
use crate::engine::state::JobStatus;
use crate::engine::timeline::TimelineEntry;
use crate::ids::{JobId, OrganizationId, UploadId};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Roles that may see an organization's jobs.
pub(super) const VIEWERS: &[Role] = &[Role::Sender, Role::Reader, Role::Admin, Role::Platform];
/// Longest wait of a long-poll.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// A long-poll looks this often at most, and at least so often.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(40), Duration::from_millis(500));

pub(super) fn not_found() -> Problem {
    Problem::new("job_not_found", "There is no such job.")
}

/// The organization in which the caller may see that job: its own, or for the platform role the job's. Unknown, foreign
/// and malformed ids are answered alike.
pub(super) async fn locate(app: &App, caller: &Authenticated, text: &str) -> Result<(OrganizationId, JobId), Problem> {
    // An upload has the number of its job, so that its sender needs one id only.
    let upload = || text.parse::<UploadId>().map(|upload| JobId(upload.0));
    let job = text.parse().or_else(|_| upload()).map_err(|_| not_found())?;
    if let Some(organization) = caller.caller.organization {
        return Ok((organization, job));
    }
    let found = app
        .db
        .unit(Scope::Platform, move |connection| {
            Box::pin(async move { jobs_store::find_organization(connection, job).await })
        })
        .await?;
    found.map(|organization| (organization, job)).ok_or_else(not_found)
}

pub(super) async fn view(app: &App, organization: OrganizationId, job: JobId) -> Result<JobView, Problem> {
    reading::find_view(&app.db, &app.catalog, organization, job).await?.ok_or_else(not_found)
}

/// Query of the status.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WaitParameters {
    /// Wait up to so many seconds for a change; more than 60 are 60.
    #[param(maximum = 4_294_967_295_u32)]
    wait: Option<u32>,
}

/// Status of a job.
///
/// Every field is a persisted fact. With `wait` the answer comes at the next change: of what `If-None-Match` names, or
/// else of the state at the request's arrival; a terminal job is answered at once.
#[utoipa::path(
    get, path = "/v1/ingestion/jobs/{jobId}", tag = "jobs", operation_id = "getJob",
    params(("jobId" = String, Path), WaitParameters, ("If-None-Match" = Option<String>, Header)),
    responses(
        (status = 200, description = "The job", body = JobView),
        (status = 304, description = "Not changed"),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn get_job(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(job): Segment,
    Parameters(parameters): Parameters<WaitParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.allow(VIEWERS)?;
    let (organization, job) = locate(&app, &caller, &job).await?;
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let deadline = Instant::now() + Duration::from_secs(parameters.wait.unwrap_or(0).into()).min(WAIT_MAX);
    let mut pause = LOOK_EVERY.0;
    let mut baseline = known.clone();
    loop {
        let view = view(&app, organization, job).await?;
        let body = serde_json::to_vec(&view).map_err(|_| Problem::new("internal_error", "An internal error."))?;
        let tag = format!("\"{}\"", hex::encode(&Sha256::digest(&body)[..12]));
        let changed = baseline.as_ref().is_some_and(|baseline| !names(baseline, &tag));
        // Nobody should wait for a process that stops.
        let over = Instant::now() >= deadline || app.limits.draining.is_cancelled();
        if changed || over || view.status.is_terminal() {
            return Ok(answer(&view, body, &tag, known.is_some_and(|known| names(&known, &tag))));
        }
        baseline.get_or_insert(tag);
        tokio::select! {
            () = tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))) => {}
            () = app.limits.draining.cancelled() => {}
        }
        pause = (pause * 3 / 2).min(LOOK_EVERY.1);
    }
}

/// Does `If-None-Match` name this tag? A list, compared weakly, or `*` (RFC 9110, 13.1.2).
fn names(known: &str, tag: &str) -> bool {
    known.trim() == "*" || known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)
}

fn answer(view: &JobView, body: Vec<u8>, tag: &str, same: bool) -> Response {
    let mut headers = HeaderMap::new();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if !view.status.is_terminal() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if same {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (StatusCode::OK, headers, body).into_response()
}

/// Query of the list.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParameters {
    /// Only this status.
    status: Option<JobStatus>,
    /// Only this workflow.
    workflow: Option<String>,
    /// Only this source: webhook, athena or upload.
    source: Option<String>,
    /// Only jobs with this error code.
    error_code: Option<String>,
    /// Only this organization's (platform role).
    #[param(value_type = Option<String>, pattern = "^org_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    organization: Option<OrganizationId>,
    /// Only jobs that failed at this step: its name or its index.
    step: Option<String>,
    /// Only jobs with this payload: its SHA-256, 64 hexadecimal digits.
    #[param(pattern = "^[0-9a-fA-F]{64}$")]
    payload_sha256: Option<String>,
    /// Only jobs that ended at or after this instant (RFC 3339).
    #[param(format = DateTime)]
    ended_after: Option<String>,
    /// Only jobs that ended before this instant (RFC 3339).
    #[param(format = DateTime)]
    ended_before: Option<String>,
    /// Only jobs accepted at or after this instant (RFC 3339).
    #[param(format = DateTime)]
    created_after: Option<String>,
    /// Only jobs accepted before this instant (RFC 3339).
    #[param(format = DateTime)]
    created_before: Option<String>,
    /// `nextCursor` of the page before.
    #[param(pattern = "^job_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    cursor: Option<String>,
    /// Jobs of a page, 1 to 200; 50 without it.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// A page of jobs, newest first.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<JobSummary>,
    /// Give it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}

pub(super) fn instant(name: &str, text: Option<&str>) -> Result<Option<OffsetDateTime>, Problem> {
    text.map(|text| OffsetDateTime::parse(text, &Rfc3339))
        .transpose()
        .map_err(|_| Problem::parameter(name, "an RFC 3339 instant such as 2026-01-31T12:00:00Z"))
}

impl ListParameters {
    fn filter(&self) -> Result<JobFilter, Problem> {
        if self.payload_sha256.as_deref().is_some_and(|text| !jobs::is_sha256(text)) {
            return Err(Problem::parameter("payloadSha256", "64 hexadecimal digits"));
        }
        Ok(JobFilter {
            organization: self.organization,
            status: self.status,
            is_live: false,
            workflow: self.workflow.clone(),
            step: self.step.clone(),
            payload_sha256: self.payload_sha256.clone(),
            ended_after: instant("endedAfter", self.ended_after.as_deref())?,
            ended_before: instant("endedBefore", self.ended_before.as_deref())?,
            source: self.source.clone(),
            error_code: self.error_code.clone(),
            created_after: instant("createdAfter", self.created_after.as_deref())?,
            created_before: instant("createdBefore", self.created_before.as_deref())?,
        })
    }

    /// One page for that organization, or over all.
    pub(super) async fn page(&self, app: &App, organization: Option<OrganizationId>) -> Result<JobPage, Problem> {
        let filter = self.filter()?;
        let limit = self.limit.unwrap_or(50);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Problem::parameter("limit", "a number from 1 to 200"));
        }
        let after = self
            .cursor
            .as_deref()
            .map(str::parse::<JobId>)
            .transpose()
            .map_err(|_| Problem::parameter("cursor", "the nextCursor of an earlier page"))?;
        let scope = organization.map_or(Scope::Platform, Scope::Organization);
        let mut rows: Vec<JobRow> = app
            .db
            .unit::<_, DbError, _>(scope, move |connection| {
                // One more than the page, to know whether there is another.
                Box::pin(
                    async move { jobs_store::list_jobs(connection, organization, &filter, after, limit + 1).await },
                )
            })
            .await?;
        let more = i64::try_from(rows.len()).unwrap_or(0) > limit;
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next_cursor = rows.last().filter(|_| more).map(|row| row.id.to_string());
        Ok(JobPage { jobs: rows.iter().map(jobs::summarize).collect(), next_cursor })
    }
}

/// Jobs of the caller's organization, newest first.
#[utoipa::path(
    get, path = "/v1/ingestion/jobs", tag = "jobs", operation_id = "listJobs", params(ListParameters),
    responses(
        (status = 200, description = "A page", body = JobPage),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn list_jobs(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<JobPage>, Problem> {
    let organization = caller.organization(&[Role::Sender, Role::Reader, Role::Admin])?;
    Ok(Json(parameters.page(&app, Some(organization)).await?))
}

/// Every attempt, wait and cause of a job, in order of time.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// `job_…`
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// Oldest first.
    pub entries: Vec<TimelineEntry>,
}

/// Timeline of a job.
#[utoipa::path(
    get, path = "/v1/ingestion/jobs/{jobId}/timeline", tag = "jobs", operation_id = "getTimeline", params(("jobId" = String, Path)),
    responses(
        (status = 200, description = "The timeline", body = Timeline),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn get_timeline(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(job): Segment,
) -> Result<Json<Timeline>, Problem> {
    caller.allow(VIEWERS)?;
    let (organization, job) = locate(&app, &caller, &job).await?;
    let story = reading::find_story(&app.db, &app.catalog, organization, job).await?.ok_or_else(not_found)?;
    Ok(Json(Timeline { job_id: job, entries: story.timeline() }))
}

/// Body of a cancel; may be left out.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelRequest {
    /// Why; kept in the audit log.
    #[serde(default)]
    reason: Option<String>,
}

/// Cancel a job that has not ended. Steps that committed before stay.
#[utoipa::path(
    post, path = "/v1/ingestion/jobs/{jobId}/cancel", tag = "jobs", operation_id = "cancelJob", params(("jobId" = String, Path)),
    request_body(content = Option<CancelRequest>, content_type = "application/json"),
    responses(
        (status = 200, description = "Cancelled", body = JobView),
        (status = 409, description = "The job has ended", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn cancel_job(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(job): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<JobView>, Problem> {
    caller.allow(&[Role::Sender, Role::Admin, Role::Platform])?;
    let request: CancelRequest = read_optional_json(&headers, body).await?;
    let (organization, job) = locate(&app, &caller, &job).await?;
    let acted = app.operations().cancel_one(organization, job, &caller.actor, request.reason.as_deref()).await?;
    match acted {
        Acted::Done => Ok(Json(view(&app, organization, job).await?)),
        Acted::Refused => Err(Problem::new("job_is_terminal", "The job has ended and cannot be cancelled.")),
        Acted::Unknown => Err(not_found()),
    }
}
