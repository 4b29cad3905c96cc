//! What became of messages: the log of deliveries, tests, and sending again. Role admin, the own organization only.

use super::callbacks::{ADMIN, not_found, parse_id};
use crate::app::App;
use crate::audit::{self, Action, Record};
use crate::callbacks::messages_store::{self as messages, Attempt, DeliveryView, ResentView};
use crate::callbacks::resend::{Resend, resend};
use crate::callbacks::send::{Fault, Outgoing, Sent};
use crate::callbacks::{message, store};
use crate::db::{DbError, Scope};
use crate::http::extract::{Authenticated, Parameters, Segment, read_optional_json};
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::{CallbackId, DeliveryId, MessageId, OrganizationId};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Deliveries of a page, at most.
const PAGE_MAX: i64 = 200;

/// Query of the log.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveryParameters {
    /// Only those: delivered or failed.
    #[param(pattern = "^(delivered|failed)$")]
    outcome: Option<String>,
    /// `nextCursor` of the page before.
    #[param(pattern = "^dlv_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    cursor: Option<String>,
    /// Deliveries of a page, 1 to 200; 50 without it.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// A page of the log.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryPage {
    /// Newest first.
    pub deliveries: Vec<DeliveryView>,
    /// Give it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// Every attempt to tell a callback, newest first.
#[utoipa::path(
    get, path = "/v1/admin/callbacks/{callbackId}/deliveries", tag = "administration", operation_id = "listDeliveries",
    params(("callbackId" = String, Path), DeliveryParameters),
    responses((status = 200, description = "A page", body = DeliveryPage), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_deliveries(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
    Parameters(parameters): Parameters<DeliveryParameters>,
) -> Result<Json<DeliveryPage>, Problem> {
    let organization = caller.organization(ADMIN)?;
    let id = parse_id(&id)?;
    let limit = parameters.limit.unwrap_or(50);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::parameter("limit", "a number from 1 to 200"));
    }
    if parameters.outcome.as_deref().is_some_and(|outcome| !["delivered", "failed"].contains(&outcome)) {
        return Err(Problem::parameter("outcome", "delivered or failed"));
    }
    let before: Option<DeliveryId> = parameters
        .cursor
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|_| Problem::parameter("cursor", "the nextCursor of an earlier page"))?;
    let rows = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                if store::receiver(connection, organization, id).await?.is_none() {
                    return Ok(None);
                }
                let outcome = parameters.outcome.as_deref();
                // One more than the page, to know whether there is another.
                messages::deliveries(connection, organization, id, outcome, before, limit + 1).await.map(Some)
            })
        })
        .await?;
    let mut deliveries = rows.ok_or_else(not_found)?;
    let more = i64::try_from(deliveries.len()).unwrap_or(0) > limit;
    deliveries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = deliveries.last().filter(|_| more).map(|row| row.delivery_id.to_string());
    Ok(Json(DeliveryPage { deliveries, next_cursor }))
}

/// Send a test to a callback now, once, also while it is disabled.
///
/// The message's `type` is `callback.test`. The answer says what came of it; nothing follows from it for the callback.
#[utoipa::path(
    post, path = "/v1/admin/callbacks/{callbackId}/test", tag = "administration", operation_id = "testCallback", params(("callbackId" = String, Path)),
    responses((status = 200, description = "What came of it", body = DeliveryView), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn test_callback(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
) -> Result<Json<DeliveryView>, Problem> {
    let organization = caller.organization(ADMIN)?;
    let id = parse_id(&id)?;
    let receiver = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(store::receiver(connection, organization, id))
        })
        .await?
        .ok_or_else(not_found)?;
    let secrets = app.callbacks.open_secrets(organization, id, &receiver).map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, callback.id = %id, "a callback's secret cannot be opened: look at secrets.key");
        Problem::new("internal_error", "An internal error.")
    })?;
    let message = MessageId::new();
    let outgoing = Outgoing {
        url: receiver.url,
        id: message.to_string(),
        timestamp: receiver.now.unix_timestamp(),
        body: message::test_body(organization, id, receiver.now),
        secrets,
    };
    let Some(slot) = app.callbacks.slots.take(organization) else {
        let detail = "As many messages as may be are on their way from this process.";
        return Err(Problem::new("overloaded", detail).retry_after(Duration::from_secs(5)));
    };
    // In a task of its own: a caller that hangs up leaves neither a message without its record nor a record without its message.
    let task = tokio::spawn(async move {
        let sent = app.callbacks.sender.send(outgoing, receiver.now).await;
        drop(slot);
        record_test(&app, organization, id, message, sent, caller).await
    });
    let view = task.await.map_err(|_| Problem::new("internal_error", "An internal error."))??;
    Ok(Json(view))
}

/// The line of the log and the audit record of a test.
async fn record_test(
    app: &App,
    organization: OrganizationId,
    id: CallbackId,
    message: MessageId,
    sent: Sent,
    caller: Authenticated,
) -> Result<DeliveryView, DbError> {
    let attempt = Attempt {
        id: DeliveryId::new(),
        callback: id,
        message,
        job: None,
        event: "callback.test".to_owned(),
        error_code: sent.fault.map(Fault::code),
        response_status: sent.status,
        duration: sent.duration,
    };
    app.db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let view = messages::log(connection, organization, &attempt).await?;
                let resource = id.to_string();
                let mut record = Record::new(organization, "callback.tested", Action::Execute, &caller.actor);
                record.resource = Some(&resource);
                record.detail = Some(json!({ "outcome": view.outcome, "code": view.error_code }));
                audit::append(connection, record).await?;
                Ok(view)
            })
        })
        .await
}

/// Body of a resend; may be left out.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResendRequest {
    /// Only this callback, whatever its filters; else every active one that wants such ends.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^cb_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    callback_id: Option<CallbackId>,
}

/// What is sent again.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Resent {
    /// One for each callback.
    pub messages: Vec<ResentView>,
}

/// Tell callbacks of a job's end again, or for the first time.
///
/// A message that was sent before keeps its `webhook-id`.
#[utoipa::path(
    post, path = "/v1/admin/jobs/{jobId}/callbacks/resend", tag = "administration", operation_id = "resendCallbacks", params(("jobId" = String, Path)),
    request_body(content = Option<ResendRequest>, content_type = "application/json"),
    responses(
        (status = 202, description = "The messages wait", body = Resent),
        (status = 409, description = "The job has not ended", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn resend_callbacks(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(job): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let organization = caller.organization(ADMIN)?;
    let request: ResendRequest = read_optional_json(&headers, body).await?;
    let (_, job) = crate::http::jobs::locate(&app, &caller, &job).await?;
    match resend(&app.db, organization, job, request.callback_id, &caller.actor, None).await? {
        Resend::NoJob => Err(Problem::new("job_not_found", "There is no such job.")),
        Resend::NotEnded => {
            Err(Problem::new("job_not_finished", "The job has not ended; there is nothing to tell yet."))
        }
        Resend::NoCallback => Err(not_found()),
        Resend::Done(messages) => Ok((StatusCode::ACCEPTED, Json(Resent { messages })).into_response()),
    }
}
