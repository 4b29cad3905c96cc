//! Secrets that webhooks are signed with: of an organization, by its administrators.

use super::organizations::record;
use crate::app::App;
use crate::audit::Action;
use crate::auth::Role;
use crate::auth::administration::OVERLAP_SECONDS_MAX;
use crate::auth::webhooks::store::{self, NewSecret, SecretSummary};
use crate::auth::webhooks::{SECRETS_MAX, Secret, SenderId, is_id, new_id, place};
use crate::db::{DbError, Scope};
use crate::http::admin::pages::{NewestFirst, cut};
use crate::http::extract::{Authenticated, Parameters, Segment, read_json};
use crate::http::jobs::instant;
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::OrganizationId;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// A secret in a list: never the secret itself.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookSecret {
    /// Names the secret, for revoking.
    pub id: String,
    /// Names the sender: what its requests carry in `Chartgate-Key`.
    pub sender: String,
    /// For people.
    pub name: String,
    /// Label of the sending system.
    pub source: String,
    /// Made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Ends by itself.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// A request of its sender was looked at, to the minute.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// Revoked.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

impl WebhookSecret {
    fn of(organization: OrganizationId, row: SecretSummary) -> Self {
        Self {
            sender: SenderId { organization, id: row.sender_id }.to_string(),
            id: row.id,
            name: row.name,
            source: row.source,
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
        }
    }
}

/// A page of secrets.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookSecrets {
    /// Of all senders of the organization, newest first.
    pub secrets: Vec<WebhookSecret>,
    /// Give it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// Secrets of the organization's webhook senders.
#[utoipa::path(
    get, path = "/v1/admin/webhook-secrets", tag = "administration", operation_id = "listWebhookSecrets", params(NewestFirst),
    responses((status = 200, description = "The secrets, without the secrets themselves", body = WebhookSecrets), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_secrets(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Parameters(page): Parameters<NewestFirst>,
) -> Result<Json<WebhookSecrets>, Problem> {
    let organization = caller.organization(&[Role::Admin])?;
    let limit = page.limit()?;
    let rows = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(
                async move { store::list_secrets(connection, organization, page.cursor.as_deref(), limit + 1).await },
            )
        })
        .await?;
    let (rows, next_cursor) = cut(rows, limit, |row| &row.id);
    let secrets = rows.into_iter().map(|row| WebhookSecret::of(organization, row)).collect();
    Ok(Json(WebhookSecrets { secrets, next_cursor }))
}

/// Body of a new secret. No `Debug`: it may hold the secret.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewWebhookSecret {
    /// A further secret of this sender (rotation); left out, the secret is of a new sender.
    #[serde(default)]
    #[schema(pattern = "^whs_[0-7][0-9a-hjkmnp-tv-z]{25}_[0-9a-f]{16}$")]
    sender: Option<String>,
    /// The secret, where the sender makes it: `whsec_` and base64 of 24 to 64 bytes. Left out, we make one.
    #[serde(default)]
    #[schema(pattern = "^whsec_[A-Za-z0-9+/]{32,86}={0,2}$")]
    secret: Option<String>,
    /// For people. With `sender`, that of the sender unless given.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    name: Option<String>,
    /// Label of the sending system; resource ids of two systems are told apart by it. With `sender`, it is the sender's.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 100, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    source: Option<String>,
    /// Ends by itself then (RFC 3339).
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// With `sender`: its other secrets end after so many seconds, 0 to 7,776,000. Left out, they stay.
    #[serde(default, deserialize_with = "crate::http::extract::whole_or_null")]
    #[schema(minimum = 0, maximum = 7_776_000)]
    overlap_seconds: Option<u32>,
}

/// A new secret. No `Debug`.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedWebhookSecret {
    /// Names the secret, for revoking.
    pub id: String,
    /// What the sender's requests must carry in `Chartgate-Key`.
    pub sender: String,
    /// The secret, if we made it: shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Whose.
    #[schema(value_type = String)]
    pub organization_id: OrganizationId,
    /// Made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

fn invalid(detail: &str) -> Problem {
    Problem::new("invalid_request", detail)
}

/// Store a secret that webhooks are signed with, for a new sender or for one that is being rotated.
#[utoipa::path(
    post, path = "/v1/admin/webhook-secrets", tag = "administration", operation_id = "createWebhookSecret", request_body = NewWebhookSecret,
    responses((status = 201, description = "Stored", body = CreatedWebhookSecret), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn create_secret(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let organization = caller.organization(&[Role::Admin])?;
    let request: NewWebhookSecret = read_json(&headers, body).await?;
    let name = request.name.as_deref();
    if name.is_some_and(|name| name.chars().count() > 200 || name.chars().any(char::is_control)) {
        return Err(invalid("`name` must have at most 200 characters, none of them a control character."));
    }
    let source = request.source.as_deref();
    if source.is_some_and(|source| !(1..=100).contains(&source.chars().count()) || source.chars().any(char::is_control))
    {
        return Err(invalid("`source` must have 1 to 100 characters."));
    }
    if request.overlap_seconds.is_some_and(|overlap| overlap > OVERLAP_SECONDS_MAX) {
        return Err(invalid("`overlapSeconds` must be at most 7776000."));
    }
    if request.sender.is_some() && source.is_some() || request.sender.is_none() && request.overlap_seconds.is_some() {
        return Err(invalid("`source` is given with a sender's first secret, `overlapSeconds` with a further one."));
    }
    let expires_at = instant("expiresAt", request.expires_at.as_deref())?;
    let given = match &request.secret {
        Some(text) => {
            let bad = || invalid("`secret` must be `whsec_` and base64 of 24 to 64 bytes.");
            Some(Secret::parse(text).ok_or_else(bad)?)
        }
        None => None,
    };
    let is_ours = given.is_none();
    let secret = given.unwrap_or_else(Secret::generate);
    let id = new_id();
    let sealed = app.secrets.seal(&place(organization, &id), secret.expose()).map_err(|error| {
        tracing::error!(error = %error, "a webhook secret cannot be sealed: look at secrets.key");
        Problem::new("internal_error", "An internal error.")
    })?;
    // Another organization's sender is as unknown as one that nobody has.
    let unknown =
        || Problem::new("webhook_secret_not_found", "There is no such sender with a secret that is still good.");
    let rotated = match &request.sender {
        Some(text) => {
            let sender: SenderId = text.parse().map_err(|_| unknown())?;
            if sender.organization != organization {
                return Err(unknown());
            }
            Some(sender.id)
        }
        None => None,
    };
    let stored = id.clone();
    let (name, source) = (request.name, request.source);
    let overlap = request.overlap_seconds;
    let outcome = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let (mut name, mut source) = (name, source);
                let is_rotation = rotated.is_some();
                let sender_id = rotated.unwrap_or_else(|| id.clone());
                if is_rotation {
                    let good = store::hold_secrets(connection, organization, &sender_id).await?;
                    match good.last() {
                        None => return Ok(Err(true)),
                        Some(_) if good.len() >= SECRETS_MAX => return Ok(Err(false)),
                        Some(last) => {
                            name = name.or_else(|| Some(last.name.clone()));
                            source = Some(last.source.clone());
                        }
                    }
                }
                let new = NewSecret {
                    id: &id,
                    sender_id: &sender_id,
                    name: name.as_deref().unwrap_or_default(),
                    source: source.as_deref().unwrap_or("default"),
                    sealed: &sealed,
                    expires_at,
                };
                let created_at = store::insert_secret(connection, organization, new).await?;
                if let Some(overlap) = overlap {
                    let overlap = Duration::from_secs(overlap.into());
                    store::end_others(connection, organization, &sender_id, &id, overlap).await?;
                }
                let detail = json!({ "sender": sender_id, "rotation": is_rotation, "overlapSeconds": overlap });
                let resource = format!("webhook_secret:{id}");
                let event = "webhook_secret.created";
                record(connection, organization, event, Action::Create, &caller.actor, &resource, Some(detail)).await?;
                Ok(Ok((sender_id, created_at)))
            })
        })
        .await?;
    let (sender_id, created_at) = outcome.map_err(|is_unknown| {
        if is_unknown { unknown() } else { invalid("The sender has five secrets that are good: revoke one first.") }
    })?;
    app.webhooks.forget();
    let created = CreatedWebhookSecret {
        id: stored,
        sender: SenderId { organization, id: sender_id }.to_string(),
        secret: is_ours.then(|| secret.to_text()),
        organization_id: organization,
        created_at,
    };
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

/// Revoke a secret; what it signs is refused on every process within seconds.
#[utoipa::path(
    delete, path = "/v1/admin/webhook-secrets/{secretId}", tag = "administration", operation_id = "revokeWebhookSecret", params(("secretId" = String, Path)),
    responses((status = 204, description = "Revoked"), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn revoke_secret(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
) -> Result<StatusCode, Problem> {
    let organization = caller.organization(&[Role::Admin])?;
    let missing = || Problem::new("webhook_secret_not_found", "There is no such webhook secret.");
    if !is_id(&id) {
        return Err(missing());
    }
    let revoked = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let revoked = store::revoke_secret(connection, organization, &id).await?;
                if revoked {
                    let (event, resource) = ("webhook_secret.revoked", format!("webhook_secret:{id}"));
                    record(connection, organization, event, Action::Delete, &caller.actor, &resource, None).await?;
                }
                Ok(revoked)
            })
        })
        .await?;
    app.webhooks.forget();
    if revoked { Ok(StatusCode::NO_CONTENT) } else { Err(missing()) }
}
