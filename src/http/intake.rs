//! `POST /v1/ingestion/fhir/Bundle`: the cheap checks, one durable transaction, 202.

use super::extract::{BLOCKING_BODY_MIN, Parameters, require_media_type};
use super::problem::{Problem, ProblemDocument};
use super::signed::{Received, Submitting};
use crate::app::App;
use crate::auth::Role;
use crate::engine::state::JobStatus;
use crate::ids::JobId;
use crate::ingest::fhir::envelope::{self, Envelope, EnvelopeFault};
use crate::ingest::fhir::issue::Issue;
use crate::ingest::fhir::validate::validate_bundle;
use crate::ingest::submit::{Submission, SubmitError};
use crate::phi::Phi;
use crate::telemetry;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Where Bundles come from.
const SOURCE: &str = "webhook";

/// A `validateOnly` waits so long for its turn.
const VALIDATION_WAIT_MAX: Duration = Duration::from_secs(2);

/// Query of the intake.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct IntakeParameters {
    /// Answer the issues at once and record nothing.
    #[serde(default)]
    validate_only: bool,
}

/// The 202.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// The job: poll `/v1/ingestion/jobs/{jobId}`.
    #[schema(value_type = String, example = "job_01h455vb4pex5vsknk084sn02q")]
    pub job_id: JobId,
    /// Always `accepted`: the bytes are durably recorded.
    pub status: &'static str,
    /// One sentence.
    pub message: &'static str,
    /// Entries by resource type.
    pub resource_count: BTreeMap<String, u32>,
    /// When the job was accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// SHA-256 of the exact bytes after content decoding, lower-case hexadecimal.
    pub sha256: String,
    /// Their number.
    pub size_bytes: usize,
    /// The same request was accepted before; `jobId` is that job's.
    pub duplicate: bool,
    /// Status of the first job, for a duplicate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_status: Option<JobStatus>,
    /// The first job had failed through no fault of the sender's, and this request opened its next round.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retried: bool,
}

/// The answer to `validateOnly=true`.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// No issue of severity error or fatal.
    pub valid: bool,
    /// Entries by resource type.
    pub resource_count: BTreeMap<String, u32>,
    /// Every problem.
    #[schema(value_type = Vec<Object>)]
    pub issues: Vec<Issue>,
}

/// What is asked of a Bundle before the 202.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what `envelope::scan` takes")]
pub struct FhirBundle {
    /// Always `Bundle`.
    #[schema(rename = "resourceType", pattern = "^Bundle$")]
    resource_type: String,
    /// transaction, batch, collection or message.
    #[schema(rename = "type", pattern = "^(transaction|batch|collection|message)$")]
    kind: String,
    /// At least one.
    #[schema(min_items = 1)]
    entry: Vec<FhirEntry>,
}

/// An entry of a Bundle.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what `envelope::scan` takes")]
pub struct FhirEntry {
    /// A FHIR resource.
    resource: FhirResource,
}

/// A FHIR resource.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what `envelope::scan` takes")]
pub struct FhirResource {
    /// Its type, such as Patient.
    #[schema(rename = "resourceType", min_length = 1)]
    resource_type: String,
}

/// Submit a FHIR Bundle.
///
/// Checked before the 202: media type, size, JSON, Bundle type, entries. Everything deeper is the `validate` step's.
#[utoipa::path(
    post, path = "/v1/ingestion/fhir/Bundle", tag = "intake", operation_id = "submitBundle",
    params(IntakeParameters, ("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,255}$", description = "1 to 255 visible ASCII characters; without it the content's hash is the key")),
    request_body(content((FhirBundle = "application/fhir+json"), (FhirBundle = "application/json")), description = "A FHIR R4 Bundle of type transaction, batch, collection or message"),
    responses(
        (status = 202, description = "Durably recorded", body = Accepted),
        (status = 200, description = "validateOnly: the issues", body = Checked),
        (status = "4XX", description = "Refused; nothing was recorded", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []), ("webhook" = []))
)]
pub async fn submit_bundle(
    State(app): State<Arc<App>>,
    caller: Submitting,
    Parameters(parameters): Parameters<IntakeParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let is_submission = !parameters.validate_only;
    let answer = submit(&app, caller, parameters, &headers, body).await;
    if let Err(problem) = &answer
        && is_submission
    {
        telemetry::intake_rejected(SOURCE, problem.code());
    }
    answer
}

async fn submit(
    app: &App,
    caller: Submitting,
    parameters: IntakeParameters,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may_submit()?;
    let content_type = require_media_type(headers, &["application/fhir+json", "application/json"])?;
    let idempotency_key = idempotency_key(headers)?;
    let workflow = app.catalog.latest("fhir-bundle").map_err(|error| {
        tracing::error!(error = %error, "the workflow fhir-bundle is not loaded");
        Problem::new("internal_error", "An internal error.")
    })?;
    let own_limit = workflow.limits.body_max_bytes.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let limit = app.config.intake_max_body_bytes.min(own_limit);
    let received = caller.receive(app, headers, body, limit, !parameters.validate_only).await?;
    let Received { caller, body, idempotency_key: webhook_key } = received;
    if webhook_key.is_some() && idempotency_key.is_some() {
        let detail = "A signed webhook has its webhook-id: Idempotency-Key is not signed, and not taken beside it.";
        return Err(Problem::new("invalid_idempotency_key", detail));
    }
    let organization = caller.organization(&[Role::Sender, Role::Admin])?;
    let (body, envelope, sha256) = inspect(body).await?;
    if workflow.limits.entries_max.is_some_and(|max| envelope.entries > max) {
        return Err(Problem::new("too_many_entries", format!("The Bundle has {} entries.", envelope.entries)));
    }
    if parameters.validate_only {
        return check_only(app, body, envelope).await;
    }
    let size_bytes = body.len();
    let resource_count = envelope.resource_count;
    let submitted = app
        .submitter
        .submit(Submission {
            organization,
            workflow,
            source: SOURCE,
            source_label: caller.caller.source_label.clone(),
            idempotency_key: webhook_key.map(Phi::new).or(idempotency_key),
            ordering_key: None,
            body: Phi::new(body),
            sha256,
            fingerprint: sha256,
            content_type,
            resource_count: resource_count.clone(),
            actor: caller.actor,
        })
        .await?;
    if submitted.duplicate {
        telemetry::intake_duplicate(SOURCE);
    } else {
        telemetry::intake_accepted(SOURCE);
    }
    telemetry::intake_duration(SOURCE, caller.received.elapsed());
    let accepted = Accepted {
        job_id: submitted.job,
        status: "accepted",
        message: "Bundle accepted for processing",
        resource_count,
        created_at: submitted.created_at,
        sha256: hex::encode(sha256),
        size_bytes,
        duplicate: submitted.duplicate,
        job_status: submitted.duplicate.then_some(submitted.status),
        retried: submitted.retried,
    };
    let location = HeaderValue::from_str(&format!("/v1/ingestion/jobs/{}", submitted.job))
        .map_err(|_| Problem::new("internal_error", "An internal error."))?;
    let headers = [
        (header::LOCATION, location.clone()),
        (header::CONTENT_LOCATION, location),
        (header::RETRY_AFTER, HeaderValue::from_static("1")),
    ];
    Ok((StatusCode::ACCEPTED, headers, Json(accepted)).into_response())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<Phi<String>>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bad = || {
        Problem::new(
            "invalid_idempotency_key",
            "Idempotency-Key must be there once, with 1 to 255 visible ASCII characters.",
        )
    };
    if values.next().is_some() {
        return Err(bad());
    }
    let text = value.to_str().map_err(|_| bad())?;
    let fits = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(Some(Phi::new(text.to_owned()))) } else { Err(bad()) }
}

/// The cheap checks and the hash; off the runtime's threads for large bodies.
async fn inspect(body: Bytes) -> Result<(Bytes, Envelope, [u8; 32]), Problem> {
    let size = body.len();
    let work = move || {
        let envelope = envelope::scan(&body)?;
        let sha256: [u8; 32] = Sha256::digest(&body).into();
        Ok((body, envelope, sha256))
    };
    run(size, work).await
}

async fn check_only(app: &App, body: Bytes, envelope: Envelope) -> Result<Response, Problem> {
    let place = tokio::time::timeout(VALIDATION_WAIT_MAX, Arc::clone(&app.limits.validations).acquire_owned()).await;
    let Ok(Ok(place)) = place else {
        let detail = "As many Bundles are being validated as may be at once.";
        return Err(Problem::new("overloaded", detail).retry_after(VALIDATION_WAIT_MAX));
    };
    // The place goes with the work: a client that hangs up does not make room before it is done.
    let work = move || {
        let issues = validate_bundle(&body);
        drop((body, place));
        issues
    };
    let issues = tokio::task::spawn_blocking(work).await;
    let issues = issues.map_err(|_| Problem::new("internal_error", "An internal error."))?;
    let valid = !issues.iter().any(|issue| issue.severity.rejects());
    Ok(Json(Checked { valid, resource_count: envelope.resource_count, issues }).into_response())
}

/// Run work on a body of that size: small ones at once, large ones off the runtime's threads.
async fn run<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> Result<T, EnvelopeFault> + Send + 'static,
) -> Result<T, Problem> {
    let result = if size < BLOCKING_BODY_MIN {
        work()
    } else {
        let task = tokio::task::spawn_blocking(work).await;
        task.map_err(|_| Problem::new("internal_error", "An internal error."))?
    };
    result.map_err(Problem::from)
}

impl From<EnvelopeFault> for Problem {
    fn from(fault: EnvelopeFault) -> Self {
        Self::new(fault.code, fault.message).at(fault.expression, fault.pointer)
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::KeyReused => {
                Self::new("idempotency_key_reused", "The idempotency key was used before with other content.")
            }
            SubmitError::Purged => Self::new("payload_purged", "These bytes were erased; they are not taken again."),
            SubmitError::Overloaded => {
                Self::new("overloaded", "Too many submissions are waiting.").retry_after(Duration::from_secs(2))
            }
            SubmitError::Db(error) => error.into(),
        }
    }
}
