//! Acts on links: merge and unmerge patients, unlink and link an event. Role admin, the own organization only.

use crate::app::App;
use crate::auth::Role;
use crate::http::extract::{Authenticated, Segment, read_json};
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::{EventId, OrganizationId, PatientId};
use crate::ingest::linking::acts::{self, ActError, By, Done};
use crate::ingest::linking::reviewing;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use futures::future::BoxFuture;
use serde::Deserialize;
use sqlx::PgConnection;
use std::sync::Arc;

/// A reason that can be kept.
pub(super) fn check_reason(reason: &str) -> Result<(), Problem> {
    reviewing::check_reason(reason).map_err(problem)
}

/// Run an act of this caller, for a reason that can be kept, in a unit of work of its own.
pub(super) async fn acting<T, F>(
    app: &App,
    caller: Authenticated,
    organization: OrganizationId,
    reason: String,
    act: F,
) -> Result<Json<T>, Problem>
where
    T: Send + 'static,
    F: for<'c> Fn(&'c mut PgConnection, By) -> BoxFuture<'c, Result<T, ActError>> + Clone + Send + 'static,
{
    let by = By { actor: caller.actor, reason };
    reviewing::act(&app.db, organization, by, act).await.map(Json).map_err(problem)
}

fn problem(error: ActError) -> Problem {
    match error {
        ActError::ReviewNotFound => Problem::new("review_not_found", "There is no such review."),
        ActError::ReviewDecided => {
            Problem::new("review_decided", "The review was decided otherwise, or its question went away.")
        }
        ActError::PatientNotFound => Problem::new("patient_not_found", "There is no such patient."),
        ActError::EventNotFound => Problem::new("event_not_found", "There is no such event."),
        ActError::MergeConflict => {
            Problem::new("patient_merged", "The patient was merged otherwise already, or is not merged.")
        }
        ActError::NotPossible(why) => Problem::new("invalid_request", why),
        ActError::Db(error) => error.into(),
    }
}

/// A patient named in a body. What is no id of ours names nobody.
pub(super) fn patient_id(text: Option<&str>) -> Result<Option<PatientId>, Problem> {
    text.map(str::parse).transpose().map_err(|_| problem(ActError::PatientNotFound))
}

/// Body of a merge.
#[derive(Clone, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MergeRequest {
    /// The patient who stays.
    into: String,
    /// Why, in 1 to 1,000 characters, not only spaces; kept in the audit log.
    #[schema(min_length = 1, max_length = 1000, pattern = r"\S")]
    reason: String,
}

/// Body of the other acts.
#[derive(Clone, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReasonRequest {
    /// Why, in 1 to 1,000 characters, not only spaces; kept in the audit log.
    #[schema(min_length = 1, max_length = 1000, pattern = r"\S")]
    reason: String,
}

/// Body of a link.
#[derive(Clone, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LinkRequest {
    /// Whose the event is.
    patient: String,
    /// Why, in 1 to 1,000 characters, not only spaces; kept in the audit log.
    #[schema(min_length = 1, max_length = 1000, pattern = r"\S")]
    reason: String,
}

/// Merge a patient into another: numbers, events and whatever arrives later under its numbers go there.
#[utoipa::path(
    post, path = "/v1/admin/patients/{patientId}/merge", tag = "administration", operation_id = "mergePatient", params(("patientId" = String, Path)),
    request_body = MergeRequest,
    responses((status = 200, description = "Merged", body = Done), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn merge_patient(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Done>, Problem> {
    let organization = caller.organization(&[Role::Admin])?;
    let id: PatientId = id.parse().map_err(|_| problem(ActError::PatientNotFound))?;
    let request: MergeRequest = read_json(&headers, body).await?;
    let into = request.into.parse().map_err(|_| problem(ActError::PatientNotFound))?;
    acting(&app, caller, organization, request.reason, move |connection, by| {
        Box::pin(async move { acts::merge(connection, organization, id, into, &by).await })
    })
    .await
}

/// Take a merge back: the patient has its own numbers and events again.
#[utoipa::path(
    post, path = "/v1/admin/patients/{patientId}/unmerge", tag = "administration", operation_id = "unmergePatient", params(("patientId" = String, Path)),
    request_body = ReasonRequest,
    responses((status = 200, description = "Apart again", body = Done), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn unmerge_patient(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Done>, Problem> {
    let organization = caller.organization(&[Role::Admin])?;
    let id: PatientId = id.parse().map_err(|_| problem(ActError::PatientNotFound))?;
    let request: ReasonRequest = read_json(&headers, body).await?;
    acting(&app, caller, organization, request.reason, move |connection, by| {
        Box::pin(async move { acts::unmerge(connection, organization, id, &by).await })
    })
    .await
}

async fn place(
    app: &App,
    caller: Authenticated,
    organization: OrganizationId,
    id: &str,
    patient: Option<PatientId>,
    reason: String,
) -> Result<Json<Done>, Problem> {
    let id: EventId = id.parse().map_err(|_| problem(ActError::EventNotFound))?;
    acting(app, caller, organization, reason, move |connection, by| {
        Box::pin(async move { acts::place_event(connection, organization, id, patient, &by).await })
    })
    .await
}

/// Take an event from its patient, with all versions of its resource. A Patient resource becomes a review.
#[utoipa::path(
    post, path = "/v1/admin/events/{eventId}/unlink", tag = "administration", operation_id = "unlinkEvent", params(("eventId" = String, Path)),
    request_body = ReasonRequest,
    responses((status = 200, description = "Unlinked", body = Done), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn unlink_event(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Done>, Problem> {
    let organization = caller.organization(&[Role::Admin])?;
    let request: ReasonRequest = read_json(&headers, body).await?;
    place(&app, caller, organization, &id, None, request.reason).await
}

/// Give an event to a patient, with all versions of its resource.
#[utoipa::path(
    post, path = "/v1/admin/events/{eventId}/link", tag = "administration", operation_id = "linkEvent", params(("eventId" = String, Path)),
    request_body = LinkRequest,
    responses((status = 200, description = "Linked", body = Done), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn link_event(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Done>, Problem> {
    let organization = caller.organization(&[Role::Admin])?;
    let request: LinkRequest = read_json(&headers, body).await?;
    let patient = patient_id(Some(&request.patient))?;
    place(&app, caller, organization, &id, patient, request.reason).await
}
