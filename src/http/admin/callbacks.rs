//! `/v1/admin/callbacks`: who is told of the ends of jobs. Role admin, the own organization only. docs/callbacks.md.

use crate::app::App;
use crate::audit::Action;
use crate::auth::Role;
use crate::callbacks::store::{self, CallbackView, Change, NewCallback};
use crate::callbacks::target::TargetError;
use crate::callbacks::{CALLBACKS_MAX, EVENTS, WORKFLOW, secret_context, signature};
use crate::db::{DbError, Scope};
use crate::http::admin::organizations::record;
use crate::http::extract::{Authenticated, Segment, read_json, read_optional_json, whole_or_null};
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::{CallbackId, OrganizationId};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret as _, SecretSlice};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

pub(super) const ADMIN: &[Role] = &[Role::Admin];
/// Workflow names in a filter, at most.
const WORKFLOWS_MAX: usize = 50;
/// Hours for which the secret before the current one signs, too, without a word of the caller's.
const OVERLAP_HOURS: u32 = 24;
/// And at most.
const OVERLAP_HOURS_MAX: u32 = 168;

pub(super) fn not_found() -> Problem {
    Problem::new("callback_not_found", "There is no such callback.")
}

pub(super) fn parse_id(text: &str) -> Result<CallbackId, Problem> {
    text.parse().map_err(|_| not_found())
}

fn refused(member: &str, detail: impl Into<String>) -> Problem {
    Problem::new("invalid_request", detail).at(None, Some(format!("/{member}")))
}

/// The organization's callbacks.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CallbackList {
    /// Oldest first.
    pub callbacks: Vec<CallbackView>,
}

/// A callback with its secret: shown this once.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallbackSecret {
    /// The callback.
    pub callback: CallbackView,
    /// Signs its messages (Standard Webhooks). It cannot be shown again.
    #[schema(example = "whsec_…")]
    pub secret: String,
}

/// Body of a new callback.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallbackRequest {
    /// https, at a public address; at most 2,000 characters.
    #[schema(format = "callback-url", example = "https://hooks.example.org/chartgate")]
    url: String,
    /// For people; at most 200 characters.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\u0000]*$")]
    description: String,
    /// Which ends: `job.succeeded`, `job.succeeded_with_issues`, `job.failed`, `job.cancelled`, `job.expired`; empty: all.
    #[serde(default)]
    #[schema(format = "callback-events")]
    events: Vec<String>,
    /// Of jobs of which workflows; empty: all.
    #[serde(default)]
    #[schema(format = "workflow-names")]
    workflows: Vec<String>,
}

/// Body of a change; what is left out stays.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallbackChange {
    /// As of a new one.
    #[schema(format = "callback-url")]
    url: Option<String>,
    /// As of a new one.
    #[schema(max_length = 200, pattern = r"^[^\u0000]*$")]
    description: Option<String>,
    /// As of a new one.
    #[schema(format = "callback-events")]
    events: Option<Vec<String>>,
    /// As of a new one.
    #[schema(format = "workflow-names")]
    workflows: Option<Vec<String>>,
    /// active or disabled. What waits is sent when it is active again; ends of jobs in between are not recorded.
    #[schema(pattern = "^(active|disabled)$")]
    status: Option<String>,
}

/// Resolving a host for a registration may take so long; the resolver's own patience may be half a minute.
const CHECK_MAX: Duration = Duration::from_secs(5);

/// Check a URL as it will be checked at each delivery. The answer names no address, and says the same of a name that is not
/// known and of one that leads inside: it would tell what our resolver sees.
async fn check_url(app: &App, url: &str) -> Result<(), Problem> {
    let checked = tokio::time::timeout(CHECK_MAX, app.callbacks.sender.check(url)).await;
    checked.unwrap_or(Err(TargetError::Unresolved)).map_err(|error| {
        let detail = match error {
            TargetError::Address(_) | TargetError::Unresolved => {
                "The URL's host is no address, and no name of one, that callbacks may reach.".to_owned()
            }
            other => format!("Not acceptable: {other}."),
        };
        Problem::new("callback_url_refused", detail).at(None, Some("/url".to_owned()))
    })
}

fn check_description(text: &str) -> Result<(), Problem> {
    if text.chars().count() <= 200 && !text.contains('\0') {
        Ok(())
    } else {
        Err(refused("description", "`description` must have at most 200 characters."))
    }
}

fn check_events(events: &[String]) -> Result<(), Problem> {
    if events.len() <= EVENTS.len() && events.iter().all(|event| EVENTS.contains(&event.as_str())) {
        Ok(())
    } else {
        Err(refused("events", format!("`events` may hold {}.", EVENTS.join(", "))))
    }
}

fn check_workflows(app: &App, names: &[String]) -> Result<(), Problem> {
    let known = |name: &String| name != WORKFLOW && app.catalog.latest(name).is_ok();
    if names.len() <= WORKFLOWS_MAX && names.iter().all(known) {
        Ok(())
    } else {
        Err(refused("workflows", "`workflows` may hold names of GET /v1/admin/workflows, but not `callback` itself."))
    }
}

fn seal(app: &App, organization: OrganizationId, id: CallbackId, secret: &SecretSlice<u8>) -> Result<Vec<u8>, Problem> {
    app.secrets.seal(&secret_context(organization, id), secret.expose_secret()).map_err(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a callback's secret cannot be sealed: look at secrets.key"
        );
        Problem::new("internal_error", "An internal error.")
    })
}

/// The organization's callbacks, never their secrets.
#[utoipa::path(
    get, path = "/v1/admin/callbacks", tag = "administration", operation_id = "listCallbacks",
    responses((status = 200, description = "The callbacks", body = CallbackList), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_callbacks(State(app): State<Arc<App>>, caller: Authenticated) -> Result<Json<CallbackList>, Problem> {
    let organization = caller.organization(ADMIN)?;
    let callbacks = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(store::list(connection, organization, None))
        })
        .await?;
    Ok(Json(CallbackList { callbacks }))
}

/// Register a callback. Its secret is shown only in this answer.
#[utoipa::path(
    post, path = "/v1/admin/callbacks", tag = "administration", operation_id = "createCallback", request_body = CallbackRequest,
    responses(
        (status = 201, description = "Registered", body = CallbackSecret),
        (status = 409, description = "As many as there may be", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn create_callback(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let organization = caller.organization(ADMIN)?;
    let request: CallbackRequest = read_json(&headers, body).await?;
    check_description(&request.description)?;
    check_events(&request.events)?;
    check_workflows(&app, &request.workflows)?;
    check_url(&app, &request.url).await?;
    let (id, secret) = (CallbackId::new(), signature::fresh_secret());
    let new = NewCallback {
        id,
        url: request.url,
        description: request.description,
        events: request.events,
        workflows: request.workflows,
        secret: seal(&app, organization, id, &secret)?,
    };
    let created = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                if store::count(connection, organization).await? >= CALLBACKS_MAX {
                    return Ok(None);
                }
                let view = store::insert(connection, organization, &new).await?;
                let (actor, resource) = (&caller.actor, id.to_string());
                record(connection, organization, "callback.created", Action::Create, actor, &resource, None).await?;
                Ok(Some(view))
            })
        })
        .await?;
    let callback = created.ok_or_else(|| {
        Problem::new("too_many_callbacks", format!("An organization has {CALLBACKS_MAX} callbacks at most."))
    })?;
    let secret = signature::shown(&secret).expose_secret().to_owned();
    Ok((StatusCode::CREATED, Json(CallbackSecret { callback, secret })).into_response())
}

/// One callback.
#[utoipa::path(
    get, path = "/v1/admin/callbacks/{callbackId}", tag = "administration", operation_id = "getCallback", params(("callbackId" = String, Path)),
    responses((status = 200, description = "The callback", body = CallbackView), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn get_callback(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
) -> Result<Json<CallbackView>, Problem> {
    let organization = caller.organization(ADMIN)?;
    let id = parse_id(&id)?;
    let found = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(store::list(connection, organization, Some(id)))
        })
        .await?;
    found.into_iter().next().map(Json).ok_or_else(not_found)
}

/// Change a callback: its URL, its filters, whether it is active.
#[utoipa::path(
    patch, path = "/v1/admin/callbacks/{callbackId}", tag = "administration", operation_id = "changeCallback", params(("callbackId" = String, Path)),
    request_body = CallbackChange,
    responses((status = 200, description = "Changed", body = CallbackView), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn change_callback(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<CallbackView>, Problem> {
    let organization = caller.organization(ADMIN)?;
    let id = parse_id(&id)?;
    let request: CallbackChange = read_json(&headers, body).await?;
    check_description(request.description.as_deref().unwrap_or_default())?;
    check_events(request.events.as_deref().unwrap_or_default())?;
    check_workflows(&app, request.workflows.as_deref().unwrap_or_default())?;
    let active = match request.status.as_deref() {
        None => None,
        Some("active") => Some(true),
        Some("disabled") => Some(false),
        Some(_) => return Err(refused("status", "`status` must be active or disabled.")),
    };
    if let Some(url) = &request.url {
        check_url(&app, url).await?;
    }
    let members: Vec<&str> = [
        ("url", request.url.is_some()),
        ("description", request.description.is_some()),
        ("events", request.events.is_some()),
        ("workflows", request.workflows.is_some()),
        ("status", request.status.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, is_given)| is_given.then_some(name))
    .collect();
    let detail = json!({ "changed": members, "status": request.status });
    let change = Change {
        url: request.url,
        description: request.description,
        events: request.events,
        workflows: request.workflows,
        active,
    };
    let changed = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let changed = store::change(connection, organization, id, &change).await?;
                if changed.is_some() {
                    let (actor, resource) = (&caller.actor, id.to_string());
                    let event = "callback.changed";
                    record(connection, organization, event, Action::Update, actor, &resource, Some(detail)).await?;
                }
                Ok(changed)
            })
        })
        .await?;
    changed.map(Json).ok_or_else(not_found)
}

/// Remove a callback. What waits for it is not sent any more.
#[utoipa::path(
    delete, path = "/v1/admin/callbacks/{callbackId}", tag = "administration", operation_id = "deleteCallback", params(("callbackId" = String, Path)),
    responses((status = 204, description = "Removed"), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn delete_callback(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
) -> Result<StatusCode, Problem> {
    let organization = caller.organization(ADMIN)?;
    let id = parse_id(&id)?;
    let deleted = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let deleted = store::delete(connection, organization, id).await?;
                if deleted {
                    let (actor, resource) = (&caller.actor, id.to_string());
                    record(connection, organization, "callback.deleted", Action::Delete, actor, &resource, None)
                        .await?;
                }
                Ok(deleted)
            })
        })
        .await?;
    if deleted { Ok(StatusCode::NO_CONTENT) } else { Err(not_found()) }
}

/// Body of a rotation; may be left out.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RotateRequest {
    /// For so long both secrets sign: 0 to 168 hours, 24 without it.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(minimum = 0, maximum = 168)]
    overlap_hours: Option<u32>,
}

/// Replace a callback's secret.
///
/// Both secrets sign until the overlap ends, so that the receiver can change over in between. The new one is shown only in
/// this answer.
#[utoipa::path(
    post, path = "/v1/admin/callbacks/{callbackId}/rotate", tag = "administration", operation_id = "rotateCallback", params(("callbackId" = String, Path)),
    request_body(content = Option<RotateRequest>, content_type = "application/json"),
    responses((status = 200, description = "The new secret", body = CallbackSecret), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn rotate_callback(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<CallbackSecret>, Problem> {
    let organization = caller.organization(ADMIN)?;
    let id = parse_id(&id)?;
    let request: RotateRequest = read_optional_json(&headers, body).await?;
    let hours = request.overlap_hours.unwrap_or(OVERLAP_HOURS);
    if hours > OVERLAP_HOURS_MAX {
        return Err(refused("overlapHours", "`overlapHours` must be a number from 0 to 168."));
    }
    let secret = signature::fresh_secret();
    let sealed = seal(&app, organization, id, &secret)?;
    let rotated = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let overlap = Duration::from_hours(u64::from(hours));
                let rotated = store::rotate(connection, organization, id, &sealed, overlap).await?;
                if rotated.is_some() {
                    let (actor, resource) = (&caller.actor, id.to_string());
                    let detail = Some(json!({ "overlapHours": hours }));
                    let event = "callback.rotated";
                    record(connection, organization, event, Action::Update, actor, &resource, detail).await?;
                }
                Ok(rotated)
            })
        })
        .await?;
    let callback = rotated.ok_or_else(not_found)?;
    Ok(Json(CallbackSecret { callback, secret: signature::shown(&secret).expose_secret().to_owned() }))
}
