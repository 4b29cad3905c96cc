//! `/v1/admin/holds`: legal holds, which forbid erasure. Role admin, the own organization only. docs/erasure.md.

use super::links::check_reason;
use super::organizations::record;
use super::purge::sha256_of;
use crate::app::App;
use crate::audit::Action;
use crate::auth::Role;
use crate::db::{DbError, Scope};
use crate::http::extract::{Authenticated, Segment, read_json};
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::{HoldId, PatientId};
use crate::ingest::erasure::holds_store::{self as store, Held, Hold};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use time::OffsetDateTime;

const ADMIN: &[Role] = &[Role::Admin];

/// A legal hold.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldView {
    /// Its id.
    #[schema(value_type = String, example = "hold_01h455vb4pex5vsknk084sn02q")]
    pub hold_id: HoldId,
    /// payload, patient or organization.
    pub kind: String,
    /// SHA-256 of the payload held, in hexadecimal.
    pub payload: Option<String>,
    /// The patient held.
    #[schema(value_type = Option<String>)]
    pub patient: Option<PatientId>,
    /// Why.
    pub reason: String,
    /// By whom.
    pub placed_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub placed_at: OffsetDateTime,
    /// By whom it was lifted; none while it is active.
    pub lifted_by: Option<String>,
    /// When.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub lifted_at: Option<OffsetDateTime>,
}

impl From<Hold> for HoldView {
    fn from(hold: Hold) -> Self {
        Self {
            hold_id: hold.id,
            kind: hold.kind,
            payload: hold.payload_sha256.map(hex::encode),
            patient: hold.patient_id,
            reason: hold.reason,
            placed_by: hold.placed_by,
            placed_at: hold.placed_at,
            lifted_by: hold.lifted_by,
            lifted_at: hold.lifted_at,
        }
    }
}

/// The organization's holds.
#[derive(Serialize, utoipa::ToSchema)]
pub struct HoldList {
    /// Newest first, at most 1,000; lifted ones too.
    pub holds: Vec<HoldView>,
}

/// Body of a new hold: exactly one of `payload`, `patient` and `organization`.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HoldRequest {
    /// SHA-256 of a payload, lower-case hexadecimal. It need not be there yet.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    payload: Option<String>,
    /// A patient: all payloads that tell of them are held.
    patient: Option<String>,
    /// `true`: everything that the organization has.
    #[serde(default)]
    organization: bool,
    /// Why, in 1 to 1,000 characters, not only spaces; kept in the audit log.
    #[schema(min_length = 1, max_length = 1000, pattern = r"\S")]
    reason: String,
}

impl HoldRequest {
    fn held(&self) -> Result<Held, Problem> {
        let refused =
            |member: &str, detail: &str| Problem::new("invalid_request", detail).at(None, Some(format!("/{member}")));
        match (&self.payload, &self.patient, self.organization) {
            (Some(payload), None, false) => sha256_of(payload)
                .map(Held::Payload)
                .ok_or_else(|| refused("payload", "`payload` must be a SHA-256 in 64 lower-case hexadecimal digits.")),
            (None, Some(patient), false) => patient
                .parse()
                .map(Held::Patient)
                .map_err(|_| refused("patient", "`patient` must be a patient's id, `pat_…`.")),
            (None, None, true) => Ok(Held::Organization),
            _ => {
                Err(Problem::new("invalid_request", "Name exactly one: `payload`, `patient`, or `organization: true`."))
            }
        }
    }
}

/// Legal holds, active and lifted.
#[utoipa::path(
    get, path = "/v1/admin/holds", tag = "administration", operation_id = "listHolds",
    responses((status = 200, description = "The holds", body = HoldList), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_holds(State(app): State<Arc<App>>, caller: Authenticated) -> Result<Json<HoldList>, Problem> {
    let organization = caller.organization(ADMIN)?;
    let holds = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move { store::list(connection, organization, true).await })
        })
        .await?;
    Ok(Json(HoldList { holds: holds.into_iter().map(HoldView::from).collect() }))
}

/// Place a hold: what it names is not erased until it is lifted, neither by a purge nor by retention.
#[utoipa::path(
    post, path = "/v1/admin/holds", tag = "administration", operation_id = "placeHold", request_body = HoldRequest,
    responses((status = 201, description = "Placed", body = HoldView), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn place_hold(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let organization = caller.organization(ADMIN)?;
    let request: HoldRequest = read_json(&headers, body).await?;
    check_reason(&request.reason)?;
    let what = request.held()?;
    let hold = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let by = caller.actor.name.clone();
                let hold = store::place(connection, organization, &what, &request.reason, &by).await?;
                let detail = json!({ "kind": hold.kind, "payload": hold.payload_sha256.as_ref().map(hex::encode), "patient": hold.patient_id });
                let resource = hold.id.to_string();
                let (event, action) = ("hold.placed", Action::Create);
                record(connection, organization, event, action, &caller.actor, &resource, Some(detail)).await?;
                Ok(hold)
            })
        })
        .await?;
    Ok((StatusCode::CREATED, Json(HoldView::from(hold))).into_response())
}

/// Lift a hold. It stays in the list, with who lifted it.
#[utoipa::path(
    delete, path = "/v1/admin/holds/{holdId}", tag = "administration", operation_id = "liftHold", params(("holdId" = String, Path)),
    responses((status = 200, description = "Lifted, now or before", body = HoldView), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn lift_hold(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
) -> Result<Json<HoldView>, Problem> {
    let organization = caller.organization(ADMIN)?;
    let missing = || Problem::new("hold_not_found", "There is no such hold.");
    let id: HoldId = id.parse().map_err(|_| missing())?;
    let hold = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let Some((hold, is_news)) = store::lift(connection, organization, id, &caller.actor.name).await? else {
                    return Ok(None);
                };
                if is_news {
                    let (event, resource) = ("hold.lifted", id.to_string());
                    record(connection, organization, event, Action::Update, &caller.actor, &resource, None).await?;
                }
                Ok(Some(hold))
            })
        })
        .await?;
    Ok(Json(hold.ok_or_else(missing)?.into()))
}
