//! Administrators' acts on jobs: lists over organizations, failures by fingerprint, retry of one and of many.

use super::links::check_reason;
use crate::app::App;
use crate::audit::{self, Action, Actor, Record};
use crate::auth::Role;
use crate::db::{DbError, Scope};
use crate::engine::definition::WorkflowDefinition;
use crate::engine::jobs::{JobFilter, JobView};
use crate::engine::jobs_store::{self, Acted, ChunksAgain, FailureGroup, NextRound};
use crate::engine::operations::{self, OperationView};
use crate::engine::state::JobStatus;
use crate::http::description;
use crate::http::extract::{Authenticated, Parameters, Segment, object_or_null, read_json, whole_or_null};
use crate::http::jobs::{JobPage, ListParameters, instant, locate, view};
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::{JobId, OperationId, OrganizationId};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const ADMINS: &[Role] = &[Role::Admin, Role::Platform];
/// Jobs that one bulk retry touches, at most.
const BULK_MAX: i64 = 100_000;

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

/// On which version a retry runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryVersion {
    /// The one that the job pins.
    #[default]
    Pinned,
    /// The newest.
    Latest,
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

fn failed_step() -> String {
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
    match retry_one(&app, organization, job, &request.from, request.version, caller.actor, request.reason).await? {
        Acted::Done => Ok((StatusCode::ACCEPTED, Json(view(&app, organization, job).await?)).into_response()),
        Acted::Refused => {
            Err(Problem::new("job_not_finished", "The job has not ended; only a job that has ended can be retried."))
        }
        Acted::Unknown => Err(Problem::new("job_not_found", "There is no such job.")),
    }
}

/// Open the next round of one job at the step that `from` names.
async fn retry_one(
    app: &App,
    organization: OrganizationId,
    job: JobId,
    from: &str,
    version: RetryVersion,
    actor: Actor,
    reason: String,
) -> Result<Acted, Problem> {
    let row = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let row = jobs_store::find_job(connection, organization, job).await?;
                let steps = jobs_store::steps_of(connection, organization, job).await?;
                Ok(row.map(|row| (row, steps)))
            })
        })
        .await?;
    let Some((row, steps)) = row else { return Ok(Acted::Unknown) };
    let internal = |error: crate::engine::catalog::CatalogError| {
        tracing::error!(error = %error, "a workflow version cannot be loaded");
        Problem::new("internal_error", "An internal error.")
    };
    let pinned = app.catalog.resolve(&app.db, &row.workflow, row.workflow_version).await;
    let definition = match version {
        RetryVersion::Pinned => pinned.map_err(internal)?,
        RetryVersion::Latest => app.catalog.latest(&row.workflow).map_err(internal)?,
    };
    // The failed step by name, since another version may have other indices. A job that was cancelled goes on where it stood.
    let failed = steps
        .iter()
        .filter(|step| step.round == row.round && step.status == "failed")
        .min_by_key(|step| step.step)
        .map(|step| step.name.clone());
    let (step, chunks) = match from {
        "start" => (0, ChunksAgain::All),
        "failed_step" => match failed {
            Some(name) => (step_index(&definition, &name)?, ChunksAgain::Failed),
            None => (resume_index(&definition, &steps, row.round_first_step, row.round), ChunksAgain::Failed),
        },
        "failed_lines" => {
            let first =
                definition.steps.iter().position(|step| step.each_chunk).and_then(|index| i16::try_from(index).ok());
            (first.ok_or_else(|| no_chunks(&definition))?, ChunksAgain::Rejected)
        }
        name => (step_index(&definition, name)?, ChunksAgain::All),
    };
    // What a chunk did stands by the step's index, which another version may have given to another step.
    let chunks = if definition.version == row.workflow_version { chunks } else { ChunksAgain::All };
    let next = NextRound::at(&definition, row.round, step, chunks);
    let acted = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(
                async move { jobs_store::retry_job(connection, organization, job, next, &actor, Some(&reason)).await },
            )
        })
        .await?;
    app.wake.signal();
    Ok(acted)
}

fn step_index(definition: &WorkflowDefinition, name: &str) -> Result<i16, Problem> {
    let names: Vec<&str> = definition.steps.iter().map(|step| step.name.as_str()).collect();
    definition.step_index(name).and_then(|index| i16::try_from(index).ok()).ok_or_else(|| {
        Problem::new(
            "invalid_request",
            format!("`from` must be failed_step, start, or one of the steps {}.", names.join(", ")),
        )
    })
}

fn no_chunks(definition: &WorkflowDefinition) -> Problem {
    let detail = format!("Jobs of the workflow {} have no lines; `failed_lines` is for bulk files.", definition.name);
    Problem::new("invalid_request", detail)
}

/// The first step that has not succeeded; the first one when all have.
fn resume_index(
    definition: &WorkflowDefinition,
    steps: &[crate::engine::jobs::StepRow],
    first: i16,
    round: i32,
) -> i16 {
    let succeeded = |index: i16| {
        steps
            .iter()
            .any(|step| step.step == index && step.status == "succeeded" && (index < first || step.round == round))
    };
    (0..definition.steps.len())
        .filter_map(|index| i16::try_from(index).ok())
        .find(|index| !succeeded(*index))
        .unwrap_or(0)
}

/// Which jobs a bulk retry meets.
#[derive(Clone, Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BulkFilter {
    /// failed (without it), cancelled, succeeded or `succeeded_with_issues`.
    #[schema(value_type = Option<String>, pattern = "^(failed|cancelled|succeeded|succeeded_with_issues)$")]
    status: Option<JobStatus>,
    /// Only this workflow.
    workflow: Option<String>,
    /// Only this source.
    source: Option<String>,
    /// Only jobs with this error code.
    error_code: Option<String>,
    /// Accepted at or after (RFC 3339).
    #[schema(format = DateTime)]
    created_after: Option<String>,
    /// Accepted before (RFC 3339).
    #[schema(format = DateTime)]
    created_before: Option<String>,
}

/// Body of a bulk retry: a filter or ids.
#[derive(Clone, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BulkRetryRequest {
    /// All jobs that meet it.
    #[serde(default, deserialize_with = "object_or_null")]
    filter: Option<BulkFilter>,
    /// Or exactly these.
    #[serde(default)]
    #[schema(schema_with = description::job_ids)]
    ids: Option<Vec<JobId>>,
    /// `failed_step`, start, or the name of a step.
    #[serde(default = "failed_step")]
    #[schema(format = "step-name")]
    from: String,
    /// pinned or latest.
    #[serde(default)]
    version: RetryVersion,
    /// Jobs a second, 1 to 10,000; 100 without it.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(minimum = 1, maximum = 10_000)]
    rate_per_second: Option<u32>,
    /// Retry so many first, and go on only if none of them failed again.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(minimum = 0, maximum = 100_000)]
    canary: Option<u32>,
    /// Only count.
    #[serde(default)]
    dry_run: bool,
    /// Why, in 1 to 1,000 characters, not only spaces; kept in the audit log.
    #[schema(min_length = 1, max_length = 1000, pattern = r"\S")]
    reason: String,
}

/// Retry all jobs that match a filter, or the given ones.
///
/// With `dryRun` only counts. Else answers an operation with its own status, which goes on by itself.
#[utoipa::path(
    post, path = "/v1/admin/jobs/retry", tag = "administration", operation_id = "retryJobs", request_body = BulkRetryRequest,
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
    caller.allow(ADMINS)?;
    let request: BulkRetryRequest = read_json(&headers, body).await?;
    check_reason(&request.reason)?;
    if request.rate_per_second.is_some_and(|rate| !(1..=10_000).contains(&rate)) {
        return Err(Problem::new("invalid_request", "`ratePerSecond` must be a number from 1 to 10000."));
    }
    if request.canary.is_some_and(|canary| i64::from(canary) > BULK_MAX) {
        return Err(Problem::new("invalid_request", "`canary` must be a number from 0 to 100000."));
    }
    let organization = caller.caller.organization;
    let targets = targets(&app, organization, &request).await?;
    let matched = i32::try_from(targets.len()).unwrap_or(i32::MAX);
    let operation = OperationId::new();
    if request.dry_run {
        return Ok(Json(OperationView::dry_run(operation, matched, request.reason)).into_response());
    }
    let home = organization.unwrap_or(OrganizationId::PLATFORM);
    let (actor, reason) = (caller.actor.clone(), request.reason.clone());
    let stored = serde_json::to_value(&request).unwrap_or_default();
    let view = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                let view = operations::insert(connection, home, operation, matched, &stored, &reason, &actor).await?;
                let resource = operation.to_string();
                let mut record = Record::new(home, "operation.started", Action::Execute, &actor);
                record.purpose = Some(&reason);
                record.resource = Some(&resource);
                record.detail = Some(serde_json::json!({ "kind": "retry", "matched": matched }));
                audit::append(connection, record).await?;
                Ok(view)
            })
        })
        .await?;
    tokio::spawn(run_operation(Arc::clone(&app), home, operation, targets, request, caller.actor));
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

async fn targets(
    app: &App,
    organization: Option<OrganizationId>,
    request: &BulkRetryRequest,
) -> Result<Vec<(OrganizationId, JobId)>, Problem> {
    match (&request.filter, &request.ids) {
        (Some(filter), None) => {
            let status = filter.status.unwrap_or(JobStatus::Failed);
            if !status.is_terminal() || status == JobStatus::Expired {
                return Err(Problem::new(
                    "invalid_request",
                    "`filter.status` must be failed, cancelled, succeeded or succeeded_with_issues.",
                ));
            }
            let filter = JobFilter {
                status: Some(status),
                workflow: filter.workflow.clone(),
                source: filter.source.clone(),
                error_code: filter.error_code.clone(),
                created_after: instant("filter.createdAfter", filter.created_after.as_deref())?,
                created_before: instant("filter.createdBefore", filter.created_before.as_deref())?,
            };
            let scope = organization.map_or(Scope::Platform, Scope::Organization);
            let found = app
                .db
                .unit::<_, DbError, _>(scope, move |connection| {
                    Box::pin(async move { jobs_store::match_jobs(connection, organization, &filter, BULK_MAX).await })
                })
                .await?;
            Ok(found.into_iter().map(|(organization, job)| (OrganizationId(organization), JobId(job))).collect())
        }
        (None, Some(ids)) if !ids.is_empty() && ids.len() <= 1000 => {
            let mut targets = Vec::with_capacity(ids.len());
            for job in ids.iter().copied() {
                let home = match organization {
                    Some(organization) => Some(organization),
                    None => {
                        app.db
                            .unit::<_, DbError, _>(Scope::Platform, move |connection| {
                                Box::pin(async move { jobs_store::find_organization(connection, job).await })
                            })
                            .await?
                    }
                };
                targets.extend(home.map(|home| (home, job)));
            }
            Ok(targets)
        }
        _ => Err(Problem::new("invalid_request", "Give either `filter` or `ids` (1 to 1000 of them).")),
    }
}

/// Retry the targets one after another at the asked rate; the canary first. Progress is persisted.
async fn run_operation(
    app: Arc<App>,
    home: OrganizationId,
    operation: OperationId,
    targets: Vec<(OrganizationId, JobId)>,
    request: BulkRetryRequest,
    actor: Actor,
) {
    let pause = std::time::Duration::from_secs_f64(1.0 / f64::from(request.rate_per_second.unwrap_or(100)));
    let canary = request.canary.map_or(0, |canary| usize::try_from(canary).unwrap_or(0)).min(targets.len());
    let (mut done, mut skipped, mut status) = (0, 0, "succeeded");
    let mut tick = tokio::time::interval(pause);
    for (index, (organization, job)) in targets.iter().enumerate() {
        tick.tick().await;
        if canary > 0 && index == canary && !canary_succeeded(&app, targets.get(..canary).unwrap_or_default()).await {
            status = "stopped";
            break;
        }
        match retry_one(
            &app,
            *organization,
            *job,
            &request.from,
            request.version,
            actor.clone(),
            request.reason.clone(),
        )
        .await
        {
            Ok(Acted::Done) => done += 1,
            // Under way already, or gone: nothing to do.
            Ok(Acted::Refused | Acted::Unknown) => skipped += 1,
            Err(problem) => {
                tracing::warn!(job.id = %job, code = problem.code(), "a bulk retry could not retry job {job}");
                skipped += 1;
            }
        }
        if (done + skipped) % 50 == 0 {
            report(&app, home, operation, done, skipped, "running").await;
        }
    }
    report(&app, home, operation, done, skipped, status).await;
}

async fn report(
    app: &App,
    home: OrganizationId,
    operation: OperationId,
    done: i32,
    skipped: i32,
    status: &'static str,
) {
    let reported = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move { operations::report(connection, home, operation, done, skipped, status).await })
        })
        .await;
    if let Err(error) = reported {
        tracing::warn!(operation.id = %operation, error = ?error, "the progress of operation {operation} could not be stored");
    }
}

/// Until every canary has ended: did none fail?
async fn canary_succeeded(app: &App, canaries: &[(OrganizationId, JobId)]) -> bool {
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(10);
    for (organization, job) in canaries {
        loop {
            match view(app, *organization, *job).await {
                Ok(view) if view.status == JobStatus::Failed => return false,
                Ok(view) if view.status.is_terminal() => break,
                _ if std::time::Instant::now() > deadline => return false,
                _ => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
            }
        }
    }
    true
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
    let missing = || Problem::new("operation_not_found", "There is no such operation.");
    let operation: OperationId = operation.parse().map_err(|_| missing())?;
    let home = caller.caller.organization.unwrap_or(OrganizationId::PLATFORM);
    let found = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move { operations::find(connection, home, operation).await })
        })
        .await?;
    found.map(Json).ok_or_else(missing)
}
