//! Events in, one by one or in batches.

use crate::app::App;
use crate::auth::Role;
use crate::engine::definition::WorkflowDefinition;
use crate::http::description;
use crate::http::extract::{Authenticated, BLOCKING_BODY_MIN, require_media_type};
use crate::http::problem::{Problem, ProblemDocument};
use crate::http::signed::{Received, Submitting};
use crate::ids::{EventId, JobId, OrganizationId};
use crate::ingest::athena::event::{self, EventFault};
use crate::ingest::athena::submit::{NewEvent, SOURCE, Taken, TakenEvent};
use crate::ingest::fhir::node::Node;
use crate::ingest::submit::SubmitError;
use crate::telemetry::metrics as telemetry;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// Events of one batch.
const BATCH_MAX: usize = 500;

/// The 202 of an event.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct EventAccepted {
    /// `accepted`: the event is new. `duplicate`: it was received before.
    #[schema(example = "accepted")]
    pub status: &'static str,
    /// The event; of a duplicate the first one.
    #[schema(value_type = String, example = "evt_01h455vb4pex5vsknk084sn02q")]
    pub event_id: EventId,
    /// One sentence.
    pub message: &'static str,
    /// The job that carries it: poll `/v1/ingestion/jobs/{jobId}`.
    #[schema(value_type = String, example = "job_01h455vb4pex5vsknk084sn02q")]
    pub job_id: JobId,
}

impl From<&TakenEvent> for EventAccepted {
    fn from(taken: &TakenEvent) -> Self {
        let (status, message) = match taken.taken {
            Taken::Accepted => ("accepted", "Event accepted for processing"),
            Taken::Sighting => ("duplicate", "Event was received before; this capture of it is recorded as a sighting"),
            Taken::Duplicate if taken.retried => {
                ("duplicate", "Event was received before and had failed; it is tried again")
            }
            Taken::Duplicate => ("duplicate", "Event was received before"),
        };
        Self { status, event_id: taken.event, message, job_id: taken.job }
    }
}

/// One event of a batch: taken, or refused by itself.
#[derive(Serialize, utoipa::ToSchema)]
pub struct BatchResult {
    /// `accepted`, `duplicate` or `rejected`.
    pub status: &'static str,
    /// The event, unless it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub event_id: Option<EventId>,
    /// One sentence; of a rejected event why.
    pub message: String,
    /// Its job, unless it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub job_id: Option<JobId>,
    /// Of a rejected event: the error's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// Of a rejected event: JSON Pointer of the place within the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

/// The 202 of a batch.
#[derive(Serialize, utoipa::ToSchema)]
pub struct BatchAccepted {
    /// New events.
    pub accepted: usize,
    /// Events that were received before.
    pub duplicates: usize,
    /// Events that were refused, each by itself: they are not recorded.
    pub rejected: usize,
    /// One answer an event, in their order.
    pub results: Vec<BatchResult>,
}

/// An event, as the description shows it.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "the shape in the API description; bodies are read where they stand")]
pub struct AthenaEvent {
    /// The patient's number in the organization's Athena system: 1 to 200 characters, or a whole number.
    #[schema(schema_with = description::athena_patient_id)]
    athena_patient_id: String,
    /// medication, problem, vital, lab, allergy, immunization, procedure, encounter, document, … (1 to 100 characters).
    #[schema(min_length = 1, max_length = 100, pattern = r"\S")]
    event_type: String,
    /// What Athena shows: an object or an array.
    #[schema(schema_with = description::object_or_array)]
    payload: serde_json::Value,
    /// When it was seen: RFC 3339 with an offset. Anything else is kept as given, and an issue says so.
    #[schema(required = false, example = "2026-01-31T12:00:00Z")]
    captured_at: serde_json::Value,
    /// A finer type; kept if it is a text of at most 500 characters.
    #[schema(required = false, example = "blood_pressure")]
    event_subtype: serde_json::Value,
    /// Where in Athena it was seen; kept if it is a text of at most 500 characters.
    #[schema(required = false, example = "/chart/vitals")]
    source_endpoint: serde_json::Value,
}

fn workflow(app: &App) -> Result<Arc<WorkflowDefinition>, Problem> {
    app.catalog.latest("athena-event").map_err(|error| {
        tracing::error!(error = %error, "the workflow athena-event is not loaded");
        Problem::new("internal_error", "An internal error.")
    })
}

/// What all events of a request have in common.
struct Sender {
    organization: OrganizationId,
    caller: Authenticated,
    workflow: Arc<WorkflowDefinition>,
    /// The longest body of one event, in bytes.
    event_max: usize,
}

impl Sender {
    /// Read the body of a request, and know who sends it. `event_max` bounds it, or else what a request may have at all.
    async fn receive(
        app: &App,
        caller: Submitting,
        headers: &HeaderMap,
        body: Body,
        is_batch: bool,
    ) -> Result<(Self, Bytes), Problem> {
        caller.may_submit()?;
        let workflow = workflow(app)?;
        require_media_type(headers, &["application/json"])?;
        let own = workflow.limits.body_max_bytes.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let request_max = app.config.intake_max_body_bytes;
        let event_max = own.min(request_max);
        let limit = if is_batch { request_max } else { event_max };
        let Received { caller, body, .. } = caller.receive(app, headers, body, limit, true).await?;
        let organization = caller.organization(&[Role::Sender, Role::Admin])?;
        Ok((Self { organization, caller, workflow, event_max }, body))
    }

    /// An event with its exact bytes.
    fn event(&self, body: Bytes, node: Node<'_>) -> Result<NewEvent, EventFault> {
        if body.len() > self.event_max {
            return Err(EventFault::new("payload_too_large", format!("The event is over {} bytes.", self.event_max)));
        }
        let (workflow, actor) = (Arc::clone(&self.workflow), self.caller.actor.clone());
        NewEvent::of(body, node, self.organization, workflow, actor)
    }
}

impl From<EventFault> for Problem {
    fn from(fault: EventFault) -> Self {
        Self::new(fault.code, fault.message).at(None, fault.pointer)
    }
}

/// Read events of a body: small ones at once, large ones off the runtime's threads.
async fn read<T: Send + 'static>(
    body: Bytes,
    work: impl FnOnce(&Bytes) -> Result<T, EventFault> + Send + 'static,
) -> Result<T, Problem> {
    let read = if body.len() < BLOCKING_BODY_MIN {
        work(&body)
    } else {
        let task = tokio::task::spawn_blocking(move || work(&body)).await;
        task.map_err(|_| Problem::new("internal_error", "An internal error."))?
    };
    Ok(read?)
}

/// Submit an Athena event.
///
/// The same patient, type and payload again, whatever the order of keys and the white space, is a duplicate of the first event. A
/// duplicate that was captured at another time is recorded as a sighting. Unknown members are kept.
#[utoipa::path(
    post, path = "/ingest/athena", tag = "intake", operation_id = "submitEvent",
    request_body(content = AthenaEvent, content_type = "application/json"),
    responses(
        (status = 202, description = "Durably recorded, or known already", body = EventAccepted),
        (status = "4XX", description = "Refused; nothing was recorded", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []), ("webhook" = []))
)]
pub async fn submit_event(
    State(app): State<Arc<App>>,
    caller: Submitting,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let received = caller.received();
    let taken = measured(received, take_event(&app, caller, &headers, body).await)?;
    count(&taken);
    let location = HeaderValue::from_str(&format!("/v1/ingestion/jobs/{}", taken.job))
        .map_err(|_| Problem::new("internal_error", "An internal error."))?;
    let headers = [
        (header::LOCATION, location.clone()),
        (header::CONTENT_LOCATION, location),
        (header::RETRY_AFTER, HeaderValue::from_static("1")),
    ];
    Ok((StatusCode::ACCEPTED, headers, Json(EventAccepted::from(&taken))).into_response())
}

async fn take_event(app: &App, caller: Submitting, headers: &HeaderMap, body: Body) -> Result<TakenEvent, Problem> {
    let (sender, body) = Sender::receive(app, caller, headers, body, false).await?;
    let new = read(body, move |body| sender.event(body.clone(), event::open(body)?)).await?;
    let taken = app.submitter.submit_events(vec![new]).await?;
    let taken = taken.into_iter().next().ok_or_else(|| Problem::new("internal_error", "An internal error."))?;
    Ok(taken.ok_or(SubmitError::Purged)?)
}

/// A request's end, counted.
fn measured<T>(received: Instant, result: Result<T, Problem>) -> Result<T, Problem> {
    match &result {
        Ok(_) => telemetry::intake_duration(SOURCE, received.elapsed()),
        Err(problem) => telemetry::intake_rejected(SOURCE, problem.code()),
    }
    result
}

fn count(taken: &TakenEvent) {
    match taken.taken {
        Taken::Accepted => telemetry::intake_accepted(SOURCE),
        Taken::Duplicate => telemetry::intake_duplicate(SOURCE),
        Taken::Sighting => {
            telemetry::intake_duplicate(SOURCE);
            telemetry::intake_sighting();
        }
    }
}

/// Submit up to 500 Athena events in one transaction.
///
/// Each event has its own answer: one that is not acceptable is `rejected` by itself, the others are taken together.
#[utoipa::path(
    post, path = "/ingest/athena/batch", tag = "intake", operation_id = "submitEvents",
    request_body(content = ref("#/components/schemas/EventBatch"), content_type = "application/json"),
    responses(
        (status = 202, description = "Every event has its answer; those that are not rejected are durably recorded", body = BatchAccepted),
        (status = "4XX", description = "Refused; nothing was recorded", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []), ("webhook" = []))
)]
pub async fn submit_events(
    State(app): State<Arc<App>>,
    caller: Submitting,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let received = caller.received();
    let taken = measured(received, take_events(&app, caller, &headers, body).await)?;
    let results: Vec<BatchResult> = taken.into_iter().map(result).collect();
    let count = |status: &str| results.iter().filter(|result| result.status == status).count();
    let (accepted, duplicates, rejected) = (count("accepted"), count("duplicate"), count("rejected"));
    Ok((StatusCode::ACCEPTED, Json(BatchAccepted { accepted, duplicates, rejected, results })).into_response())
}

/// Each event of a batch: taken with the others, or refused by itself.
async fn take_events(
    app: &App,
    caller: Submitting,
    headers: &HeaderMap,
    body: Body,
) -> Result<Vec<Result<TakenEvent, EventFault>>, Problem> {
    let (sender, body) = Sender::receive(app, caller, headers, body, true).await?;
    let organization = sender.organization;
    let read = read(body, move |body| {
        let nodes = batch(event::open(body)?)?;
        Ok(nodes.into_iter().map(|node| sender.event(body.slice(node.span()), node)).collect::<Vec<_>>())
    })
    .await?;
    let (mut new, mut faults) = (Vec::new(), Vec::with_capacity(read.len()));
    for event in read {
        faults.push(event.map(|event| new.push(event)).err());
    }
    app.limits.pressure.count(organization, new.len().saturating_sub(1) as u64);
    let taken = if new.is_empty() { Vec::new() } else { app.submitter.submit_events(new).await? };
    let erased = || EventFault::new("payload_purged", "The event was erased; it is not taken again.");
    let mut taken = taken.into_iter().map(|taken| taken.ok_or_else(erased));
    Ok(faults.into_iter().filter_map(|fault| fault.map_or_else(|| taken.next(), |fault| Some(Err(fault)))).collect())
}

fn result(taken: Result<TakenEvent, EventFault>) -> BatchResult {
    match taken {
        Ok(taken) => {
            count(&taken);
            let EventAccepted { status, event_id, message, job_id } = (&taken).into();
            let (event_id, job_id) = (Some(event_id), Some(job_id));
            BatchResult { status, event_id, message: message.to_owned(), job_id, code: None, pointer: None }
        }
        Err(EventFault { code, message, pointer }) => {
            telemetry::intake_rejected(SOURCE, code);
            BatchResult { status: "rejected", event_id: None, message, job_id: None, code: Some(code), pointer }
        }
    }
}

/// The events of a batch: of its member `events`, or of the array that it is.
fn batch(node: Node<'_>) -> Result<Vec<Node<'_>>, EventFault> {
    let fault =
        |message: &str| EventFault { pointer: Some("/events".to_owned()), ..EventFault::new("invalid_event", message) };
    let object = node.object();
    if object.as_ref().is_some_and(|object| object.members().filter(|(name, _)| *name == "events").count() > 1) {
        return Err(EventFault::new("duplicate_key", "`events` is there twice."));
    }
    let events = match object {
        Some(object) => object.items("events"),
        None => node.items(),
    };
    match events.len() {
        0 => Err(fault("The batch has no `events`: an array of 1 to 500.")),
        1..=BATCH_MAX => Ok(events),
        _ => Err(fault("The batch has more than 500 events.")),
    }
}
