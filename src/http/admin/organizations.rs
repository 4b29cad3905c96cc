//! Organizations and their keys: create, list, pause and resume, keys.

use crate::app::App;
use crate::audit::{Action, Actor};
use crate::auth::Role;
use crate::auth::administration::{self, ActError, By};
use crate::auth::store::{self, KeyGrant, KeySummary, Organization};
use crate::db::{DbError, Scope};
use crate::http::admin::pages::{NewestFirst, cut};
use crate::http::extract::{Authenticated, Parameters, Segment, read_json, read_optional_json};
use crate::http::jobs::instant;
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::OrganizationId;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use std::sync::Arc;

pub(super) const ADMINS: &[Role] = &[Role::Admin, Role::Platform];

pub(super) fn not_found() -> Problem {
    Problem::new("organization_not_found", "There is no such organization.")
}

/// An organization that the caller may administer: any with the platform role, else its own only.
pub(super) fn permitted(caller: &Authenticated, text: &str) -> Result<OrganizationId, Problem> {
    caller.allow(ADMINS)?;
    let id: OrganizationId = text.parse().map_err(|_| not_found())?;
    if caller.caller.organization.is_some_and(|own| own != id) { Err(not_found()) } else { Ok(id) }
}

pub(super) fn by(caller: Authenticated, reason: Option<String>) -> By {
    By { actor: caller.actor, home: caller.caller.organization, reason }
}

pub(super) fn problem(error: ActError) -> Problem {
    match error {
        ActError::NoOrganization => not_found(),
        ActError::NameTaken => Problem::new("organization_exists", "There is an organization of that name."),
        ActError::NoKey => Problem::new("key_not_found", "There is no such key that is still good."),
        ActError::Invalid(detail) => Problem::new("invalid_request", detail),
        ActError::Db(error) => error.into(),
    }
}

pub(super) async fn record(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: &str,
    action: Action,
    actor: &Actor,
    resource: &str,
    detail: Option<Value>,
) -> Result<(), DbError> {
    let by = By { actor: actor.clone(), home: None, reason: None };
    administration::record(connection, organization, (event, action), &by, resource, detail).await
}

/// Organizations by name.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Organizations {
    /// All that the caller may administer.
    pub organizations: Vec<Organization>,
}

/// Organizations: all with the platform role, else the own one.
#[utoipa::path(
    get, path = "/v1/admin/organizations", tag = "administration", operation_id = "listOrganizations",
    responses((status = 200, description = "The organizations", body = Organizations), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_organizations(
    State(app): State<Arc<App>>,
    caller: Authenticated,
) -> Result<Json<Organizations>, Problem> {
    caller.allow(ADMINS)?;
    let only = caller.caller.organization;
    let organizations = app
        .db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move { store::list_organizations(connection, only).await })
        })
        .await?;
    Ok(Json(Organizations { organizations }))
}

/// Body of a new organization.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewOrganization {
    /// Unique, 1 to 200 characters, not only spaces.
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    name: String,
}

/// Create an organization (platform role).
#[utoipa::path(
    post, path = "/v1/admin/organizations", tag = "administration", operation_id = "createOrganization", request_body = NewOrganization,
    responses((status = 201, description = "Created", body = Organization), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn create_organization(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.allow(&[Role::Platform])?;
    let request: NewOrganization = read_json(&headers, body).await?;
    let created = administration::create_organization(&app.db, &request.name, by(caller, None)).await;
    Ok((StatusCode::CREATED, Json(created.map_err(problem)?)).into_response())
}

/// Body of pause and resume; may be left out.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatusChange {
    /// Why; kept in the audit log.
    #[serde(default)]
    reason: Option<String>,
}

async fn set_paused(
    app: &App,
    caller: Authenticated,
    id: &str,
    headers: &HeaderMap,
    body: Body,
    paused: bool,
) -> Result<Json<Organization>, Problem> {
    let id = permitted(&caller, id)?;
    let request: StatusChange = read_optional_json(headers, body).await?;
    let changed = administration::set_paused(&app.db, id, paused, by(caller, request.reason)).await;
    app.wake.signal();
    changed.map(Json).map_err(problem)
}

/// Pause an organization: its jobs are accepted and wait.
#[utoipa::path(
    post, path = "/v1/admin/organizations/{organizationId}/pause", tag = "administration", operation_id = "pauseOrganization", params(("organizationId" = String, Path)),
    request_body(content = Option<StatusChange>, content_type = "application/json"),
    responses((status = 200, description = "Paused", body = Organization), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn pause_organization(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Organization>, Problem> {
    set_paused(&app, caller, &id, &headers, body, true).await
}

/// Resume a paused organization.
#[utoipa::path(
    post, path = "/v1/admin/organizations/{organizationId}/resume", tag = "administration", operation_id = "resumeOrganization", params(("organizationId" = String, Path)),
    request_body(content = Option<StatusChange>, content_type = "application/json"),
    responses((status = 200, description = "Active", body = Organization), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn resume_organization(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Organization>, Problem> {
    set_paused(&app, caller, &id, &headers, body, false).await
}

/// A page of keys, never their secrets.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Keys {
    /// Newest first.
    pub keys: Vec<KeySummary>,
    /// Give it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// Keys: of the own organization, or all with the platform role.
#[utoipa::path(
    get, path = "/v1/admin/keys", tag = "administration", operation_id = "listKeys", params(NewestFirst),
    responses((status = 200, description = "The keys", body = Keys), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_keys(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Parameters(page): Parameters<NewestFirst>,
) -> Result<Json<Keys>, Problem> {
    caller.allow(ADMINS)?;
    let (only, limit) = (caller.caller.organization, page.limit()?);
    let rows = app
        .db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move { store::list_keys(connection, only, page.cursor.as_deref(), limit + 1).await })
        })
        .await?;
    let (keys, next_cursor) = cut(rows, limit, |key| &key.id);
    Ok(Json(Keys { keys, next_cursor }))
}

/// Body of a new key.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewKeyRequest {
    /// The organization, by id or name; left out by an organization's admin, and for the platform role.
    #[serde(default)]
    organization: Option<String>,
    /// What the key may do.
    role: Role,
    /// For people.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    name: String,
    /// Label of the sending system; resource ids of two systems are told apart by it.
    #[serde(default = "default_source")]
    #[schema(min_length = 1, max_length = 100, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    source: String,
    /// Ends by itself then (RFC 3339).
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

fn default_source() -> String {
    "default".to_owned()
}

/// A new key: shown this once. No `Debug`: it would print it.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedKey {
    /// Public part, for listing and revoking.
    pub id: String,
    /// The whole key. It cannot be shown again.
    pub key: String,
    /// What it may do.
    pub role: Role,
    /// Null for the platform role.
    #[schema(value_type = Option<String>)]
    pub organization_id: Option<OrganizationId>,
}

/// Create a key. Its secret is shown only in this answer.
#[utoipa::path(
    post, path = "/v1/admin/keys", tag = "administration", operation_id = "createKey", request_body = NewKeyRequest,
    responses((status = 201, description = "Created", body = CreatedKey), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn create_key(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.allow(ADMINS)?;
    let request: NewKeyRequest = read_json(&headers, body).await?;
    administration::check_words(&request.name, &request.source).map_err(problem)?;
    let expires_at = instant("expiresAt", request.expires_at.as_deref())?;
    let organization = key_organization(&app, &caller, &request).await?;
    let role = request.role;
    let grant = KeyGrant { organization, role, name: request.name, source: request.source, expires_at };
    let key = administration::create_key(&app.db, grant, by(caller, None)).await.map_err(problem)?;
    let created = CreatedKey { id: key.id, key: key.key, role, organization_id: organization };
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

/// Whose key it becomes: an admin's own organization; the platform's choice.
async fn key_organization(
    app: &App,
    caller: &Authenticated,
    request: &NewKeyRequest,
) -> Result<Option<OrganizationId>, Problem> {
    if let Some(own) = caller.caller.organization {
        let names_own = request.organization.as_deref().is_none_or(|text| text.parse() == Ok(own));
        if request.role == Role::Platform || !names_own {
            return Err(caller.forbidden("An organization's admin makes keys of the own organization only."));
        }
        return Ok(Some(own));
    }
    match (&request.organization, request.role) {
        (None, Role::Platform) => Ok(None),
        (Some(_), Role::Platform) => Err(Problem::new("invalid_request", "A platform key belongs to no organization.")),
        (None, _) => Err(Problem::new("invalid_request", "`organization` is missing.")),
        (Some(text), _) => {
            // What reads as an id is no name: else a name could be given that is another's id.
            let id = text.parse::<OrganizationId>().ok();
            let name = id.is_none().then(|| text.clone());
            let found = app
                .db
                .unit::<_, DbError, _>(Scope::Global, move |connection| {
                    Box::pin(async move { store::find_organization(connection, id, name.as_deref()).await })
                })
                .await?;
            found.map(|organization| Some(organization.id)).ok_or_else(not_found)
        }
    }
}

/// Revoke a key; it stops working on every process within seconds.
#[utoipa::path(
    delete, path = "/v1/admin/keys/{keyId}", tag = "administration", operation_id = "revokeKey", params(("keyId" = String, Path)),
    responses((status = 204, description = "Revoked"), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn revoke_key(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
) -> Result<StatusCode, Problem> {
    caller.allow(ADMINS)?;
    match administration::revoke_key(&app.db, &id, by(caller, None)).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(ActError::NoKey) => Err(Problem::new("key_not_found", "There is no such key.")),
        Err(error) => Err(problem(error)),
    }
}
