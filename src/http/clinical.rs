//! What came out: the clinical view by MRN, a finding's evidence, the exact bytes.
//!
//! Every clinical read is audited before the answer goes out, also "not found"; if that fails, the request fails.

use super::extract::{Authenticated, Parameters, Segment, cover_answer, read_json, whole_or_null};
use super::problem::{Problem, ProblemDocument};
use crate::app::App;
use crate::audit::{self, Action, Record};
use crate::auth::Role;
use crate::db::{DbError, Scope};
use crate::ids::{FindingId, OrganizationId, PatientId};
use crate::ingest::findings::store::{self as findings_store, Provenance, StoredEvidence};
use crate::ingest::payloads::{Opened, Payloads, WHOLE_BYTES_MAX};
use crate::ingest::view::{self, ClinicalQuery, ClinicalView, Cursor, ViewStatus};
use crate::phi::Phi;
use crate::telemetry;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::sync::Arc;

/// Query of the clinical view.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ViewParameters {
    /// The MRN's identifier system, when one value exists under several.
    system: Option<String>,
    /// Also versions that were superseded, cancelled or entered in error.
    #[serde(default)]
    history: bool,
    /// One of the answer's `next` cursors: only that category, from there on.
    #[param(
        pattern = "^(medications|problems|allergies|labs|vitals|immunizations|procedures|encounters|documents|reports|other):evt_[0-7][0-9a-hjkmnp-tv-z]{25}$"
    )]
    cursor: Option<String>,
    /// Items of one category in one answer: 1 to 1,000, which is the default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

/// Everything known about an MRN, organized by type, each item traceable to the bytes. Always 200; see `status`.
#[utoipa::path(
    get, path = "/ingest/clinical/{mrn}", tag = "clinical", operation_id = "getClinical",
    params(("mrn" = String, Path), ViewParameters),
    responses(
        (status = 200, description = "found, not_found or ambiguous", body = Object),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn get_clinical(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(mrn): Segment,
    Parameters(parameters): Parameters<ViewParameters>,
) -> Result<Response, Problem> {
    let organization = caller.organization(&[Role::Reader])?;
    let ViewParameters { system, history, cursor, limit } = parameters;
    let request = SearchRequest { mrn: Phi::new(mrn), system, history, cursor, limit };
    clinical(&app, caller, organization, request).await
}

/// The same query with the MRN in the body, so that it stands in no URL.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchRequest {
    /// The MRN's value.
    #[schema(value_type = String, pattern = r"^[^\u0000-\u001f\u007f-\u009f\ufffd]*$")]
    mrn: Phi<String>,
    /// Its identifier system.
    #[serde(default)]
    system: Option<String>,
    /// Also superseded versions.
    #[serde(default)]
    history: bool,
    /// One of the answer's `next` cursors.
    #[serde(default)]
    #[schema(
        pattern = "^(medications|problems|allergies|labs|vitals|immunizations|procedures|encounters|documents|reports|other):evt_[0-7][0-9a-hjkmnp-tv-z]{25}$"
    )]
    cursor: Option<String>,
    /// Items of one category in one answer: 1 to 1,000, which is the default.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

/// The clinical view with the MRN in the body.
#[utoipa::path(
    post, path = "/v1/clinical/search", tag = "clinical", operation_id = "searchClinical", request_body = SearchRequest,
    responses(
        (status = 200, description = "found, not_found or ambiguous", body = Object),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn search_clinical(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let organization = caller.organization(&[Role::Reader])?;
    let request: SearchRequest = read_json(&headers, body).await?;
    clinical(&app, caller, organization, request).await
}

async fn clinical(
    app: &App,
    caller: Authenticated,
    organization: OrganizationId,
    request: SearchRequest,
) -> Result<Response, Problem> {
    // No number holds such a character: something between the caller and us broke the text.
    if request.mrn.expose().chars().any(|one| one.is_control() || one == char::REPLACEMENT_CHARACTER) {
        return Err(Problem::parameter("mrn", "UTF-8, and free of control characters"));
    }
    let cursor = request.cursor.as_deref().map(str::parse::<Cursor>).transpose();
    let cursor = cursor.map_err(|_| Problem::parameter("cursor", "a cursor of an earlier answer"))?;
    let limit = request.limit.unwrap_or(view::ITEMS_MAX);
    if !(1..=view::ITEMS_MAX).contains(&limit) {
        return Err(Problem::parameter("limit", "a number from 1 to 1000"));
    }
    let received = caller.received;
    let view: ClinicalView = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let (system, history) = (request.system.as_deref(), request.history);
                let query = ClinicalQuery { mrn: request.mrn.expose(), system, history, cursor, limit };
                let view = view::clinical(connection, organization, query).await?;
                let detail = json!({ "status": view.status, "events": view.event_count });
                let patient = view.patient.as_ref().and_then(|patient| patient.get("id")?.as_str()?.parse().ok());
                record_read(connection, organization, &caller, "clinical.read", patient, None, detail).await?;
                Ok(view)
            })
        })
        .await?;
    let status = match view.status {
        ViewStatus::Found => "found",
        ViewStatus::NotFound => "not_found",
        ViewStatus::Ambiguous => "ambiguous",
    };
    let answer = ([(header::CONTENT_TYPE, "application/json")], view.json()).into_response();
    telemetry::clinical_fetch(status, received.elapsed());
    Ok(private(answer))
}

/// Where a finding comes from: the exact quote, its offsets, and the hash of the bytes.
#[utoipa::path(
    get, path = "/v1/findings/{findingId}/evidence", tag = "clinical", operation_id = "getEvidence",
    params(("findingId" = String, Path)),
    responses(
        (status = 200, description = "The evidence", body = Object),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn get_evidence(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(finding): Segment,
) -> Result<Response, Problem> {
    let organization = caller.organization(&[Role::Reader])?;
    let missing = || Problem::new("finding_not_found", "There is no such finding.");
    let finding: FindingId = finding.parse().map_err(|_| missing())?;
    let found: Option<(Provenance, Vec<StoredEvidence>)> = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let provenance = findings_store::provenance(connection, organization, finding).await?;
                let patient = provenance.and_then(|provenance| provenance.patient_id);
                let resource = finding.to_string();
                let detail = json!({ "found": provenance.is_some() });
                let event = "evidence.read";
                record_read(connection, organization, &caller, event, patient, Some(&resource), detail).await?;
                let Some(provenance) = provenance else { return Ok(None) };
                Ok(Some((provenance, findings_store::evidence(connection, organization, finding).await?)))
            })
        })
        .await?;
    let (provenance, evidence) = found.ok_or_else(missing)?;
    let shaped: Vec<Value> = evidence.iter().map(shape_evidence).collect();
    let answer = json!({
        "findingId": finding,
        "eventId": provenance.event_id,
        "jobId": provenance.job_id,
        "extractorVersion": provenance.extractor_version,
        "supersededBy": provenance.superseded_by,
        "evidence": shaped,
    });
    Ok(private(Json(answer).into_response()))
}

/// A quote that is not UTF-8 cannot have been taken from accepted JSON.
fn shape_evidence(evidence: &StoredEvidence) -> Value {
    json!({
        "sha256": hex::encode(&evidence.payload_sha256),
        "start": evidence.byte_start,
        "end": evidence.byte_end,
        "quote": String::from_utf8_lossy(&evidence.quote),
        "pointer": evidence.pointer,
        "fhirpath": evidence.fhirpath,
        "rule": evidence.rule,
    })
}

/// The exact bytes of a payload, as they were received (after content decoding).
#[utoipa::path(
    get, path = "/v1/payloads/{sha256}", tag = "clinical", operation_id = "getPayload",
    params(("sha256" = String, Path, description = "Lower-case hexadecimal")),
    responses(
        (status = 200, description = "The bytes, with the media type that they were sent as", content(
            (Vec<u8> = "application/octet-stream"), (Object = "application/fhir+json"), (Object = "application/json"))),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn get_payload(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(sha256): Segment,
) -> Result<Response, Problem> {
    let organization = caller.organization(&[Role::Reader])?;
    let missing = || Problem::new("payload_not_found", "There is no such payload.");
    let is_hash =
        sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase());
    if !is_hash {
        return Err(missing());
    }
    let digest = hex::decode(&sha256).map_err(|_| missing())?;
    let audited = digest.clone();
    app.db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let mut record = Record::new(organization, "payload.read", Action::Read, &caller.actor);
                record.body_sha256 = Some(&audited);
                audit::append(connection, record).await
            })
        })
        .await?;
    let payloads = Payloads::new(app.db.clone(), app.objects.clone());
    let found = payloads.open(organization, digest).await.map_err(|error| {
        tracing::warn!(code = error.code, "a payload cannot be read");
        match error.code {
            "object_store_unavailable" => Problem::new("object_store_unavailable", "Object storage is not available.")
                .retry_after(std::time::Duration::from_secs(5)),
            "database_unavailable" => Problem::new("database_unavailable", "The database is not available.")
                .retry_after(std::time::Duration::from_secs(2)),
            _ => Problem::new("internal_error", "An internal error."),
        }
    })?;
    let (content_type, found) = found.ok_or_else(missing)?;
    let (body, size) = match found {
        Opened::Purged => return Err(Problem::new("payload_purged", "The payload was erased.")),
        Opened::Expired => return Err(Problem::new("payload_expired", "The payload's bytes are no longer kept.")),
        Opened::Whole(bytes) => {
            let size = bytes.len() as u64;
            let bytes = if size > WHOLE_BYTES_MAX { cover_answer(bytes).await? } else { bytes };
            (Body::from(bytes), size)
        }
        // Many at once, and gigabytes of them: as they come, and broken off at the end if they are not the bytes that were accepted.
        Opened::Stream(bytes, size) => (Body::from_stream(bytes), size),
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    let content_type =
        HeaderValue::from_str(&content_type).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_TYPE, content_type);
    // Never shown inline by a browser, whatever the bytes are.
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{sha256}\"")) {
        headers.insert(header::ETAG, tag);
    }
    Ok(private(response))
}

pub(super) async fn record_read(
    connection: &mut PgConnection,
    organization: OrganizationId,
    caller: &Authenticated,
    event: &str,
    patient: Option<PatientId>,
    resource: Option<&str>,
    detail: Value,
) -> Result<(), DbError> {
    let mut record = Record::new(organization, event, Action::Read, &caller.actor);
    record.patient = patient;
    record.resource = resource;
    record.detail = Some(detail);
    audit::append(connection, record).await
}

/// Clinical answers stay out of every cache.
pub(super) fn private(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
