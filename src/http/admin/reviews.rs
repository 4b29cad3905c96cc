//! Reviews: links that a person must decide. Role admin, the own organization only.
//!
//! The list holds ids, codes and scores. One review shows demographics side by side: that is a clinical read, audited for
//! each patient before the answer goes out.

use super::links::acting;
use crate::app::App;
use crate::auth::Role;
use crate::db::{DbError, Scope};
use crate::http::extract::{Authenticated, Parameters, Segment, read_json};
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::{EventId, PatientId, ReviewId};
use crate::ingest::linking::acts::{self, Answer};
use crate::ingest::linking::reviewing::{self, Shown};
use crate::ingest::linking::reviews_store::{self as reviews, PersonRow, Review};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// Reviews of one page, at most.
const PAGE_MAX: i64 = 200;

/// Which reviews.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReviewStatus {
    /// Nobody has answered yet.
    #[default]
    Open,
    /// Somebody has.
    Decided,
    /// The question went away by itself.
    Superseded,
}

impl ReviewStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Decided => "decided",
            Self::Superseded => "superseded",
        }
    }
}

/// Query of the list.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReviewParameters {
    /// open (without it), decided or superseded.
    #[serde(default)]
    #[param(inline)]
    status: ReviewStatus,
    /// `nextCursor` of the page before.
    #[param(pattern = "^rev_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    cursor: Option<String>,
    /// 1 to 200; 50 without it.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// A review, without clinical values.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReviewView {
    /// Its id.
    #[schema(value_type = String)]
    pub review_id: ReviewId,
    /// open, decided, superseded
    pub status: String,
    /// Why a person is asked.
    pub reason: String,
    /// `patient`: about a Patient resource. `event`: about events whose number and reference disagree.
    pub kind: &'static str,
    /// Whether links wait for the answer.
    pub blocking: bool,
    /// An event that asks.
    #[schema(value_type = String)]
    pub event_id: EventId,
    /// `[{patient, score, grade, reasons: [{field, agreement}]}]`, the likeliest first.
    #[schema(value_type = Vec<Object>)]
    pub candidates: Value,
    /// The answer.
    #[schema(value_type = Option<Object>)]
    pub decision: Option<Value>,
    /// Who answered.
    pub decided_by: Option<String>,
    /// Whose it became.
    #[schema(value_type = Option<String>)]
    pub patient: Option<PatientId>,
    /// When it was asked.
    pub created_at: String,
    /// When it was answered, or went away.
    pub decided_at: Option<String>,
}

fn timestamp(at: OffsetDateTime) -> String {
    at.to_offset(UtcOffset::UTC).format(&Rfc3339).unwrap_or_default()
}

impl From<Review> for ReviewView {
    fn from(review: Review) -> Self {
        Self {
            review_id: review.id,
            status: review.status,
            reason: review.reason,
            kind: if review.statement_id.is_some() { "patient" } else { "event" },
            blocking: review.is_blocking,
            event_id: review.event_id,
            candidates: review.candidates,
            decision: review.decision,
            decided_by: review.decided_by,
            patient: review.patient_id,
            created_at: timestamp(review.created_at),
            decided_at: review.decided_at.map(timestamp),
        }
    }
}

/// A page of reviews.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reviews {
    /// Newest first.
    pub reviews: Vec<ReviewView>,
    /// Give it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// Reviews of the organization, newest first, without clinical values.
#[utoipa::path(
    get, path = "/v1/admin/reviews", tag = "administration", operation_id = "listReviews", params(ReviewParameters),
    responses((status = 200, description = "A page", body = Reviews), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_reviews(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Parameters(parameters): Parameters<ReviewParameters>,
) -> Result<Json<Reviews>, Problem> {
    let organization = caller.organization(&[Role::Admin])?;
    let limit = parameters.limit.unwrap_or(50);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::parameter("limit", "a number from 1 to 200"));
    }
    let before = parameters.cursor.as_deref().map(str::parse::<ReviewId>).transpose();
    let before = before.map_err(|_| Problem::parameter("cursor", "the nextCursor of an earlier page"))?;
    let mut rows = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                reviews::list(connection, organization, parameters.status.as_str(), before, limit + 1).await
            })
        })
        .await?;
    let more = i64::try_from(rows.len()).unwrap_or(0) > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = rows.last().filter(|_| more).map(|row| row.id.to_string());
    Ok(Json(Reviews { reviews: rows.into_iter().map(ReviewView::from).collect(), next_cursor }))
}

fn not_found() -> Problem {
    Problem::new("review_not_found", "There is no such review.")
}

fn person(row: &PersonRow) -> Value {
    json!({
        "patient": row.id,
        "name": {"family": row.family, "given": row.given},
        "birthDate": row.birth_date,
        "gender": row.gender,
        "identifiers": row.identifiers,
    })
}

/// One review with demographics side by side: what the resource says, and the candidates. Audited as a clinical read.
#[utoipa::path(
    get, path = "/v1/admin/reviews/{reviewId}", tag = "administration", operation_id = "getReview", params(("reviewId" = String, Path)),
    responses((status = 200, description = "The review, with `incoming`, `people` and `waiting`", body = Object), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn get_review(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
) -> Result<Response, Problem> {
    let organization = caller.organization(&[Role::Admin])?;
    let id: ReviewId = id.parse().map_err(|_| not_found())?;
    let shown = reviewing::show(&app.db, organization, id, &caller.actor).await?;
    let Shown { review, incoming, people, waiting } = shown.ok_or_else(not_found)?;
    let mut shaped = serde_json::to_value(ReviewView::from(review)).unwrap_or_default();
    shaped["incoming"] = incoming.as_ref().map(person).unwrap_or_default();
    shaped["people"] = people.iter().map(person).collect();
    shaped["waiting"] = json!(waiting);
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(shaped)).into_response())
}

/// An answer to a review.
#[derive(Clone, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DecideRequest {
    /// link, `new_patient` or reject.
    decision: Answer,
    /// Of `link`: whose it is.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    patient: Option<String>,
    /// Why, in 1 to 1,000 characters, not only spaces; kept in the audit log.
    #[schema(min_length = 1, max_length = 1000, pattern = r"\S")]
    reason: String,
}

/// Decide a review: link, a new patient, or nobody's. Events that wait for it are linked in the same transaction. The same
/// decision again is answered as the first time; another one is a `409`.
#[utoipa::path(
    post, path = "/v1/admin/reviews/{reviewId}/decide", tag = "administration", operation_id = "decideReview", params(("reviewId" = String, Path)),
    request_body = DecideRequest,
    responses((status = 200, description = "Decided", body = ReviewView), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn decide_review(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ReviewView>, Problem> {
    let organization = caller.organization(&[Role::Admin])?;
    let id: ReviewId = id.parse().map_err(|_| not_found())?;
    let request: DecideRequest = read_json(&headers, body).await?;
    let patient = super::links::patient_id(request.patient.as_deref())?;
    acting(&app, caller, organization, request.reason, move |connection, by| {
        Box::pin(async move {
            let review = acts::decide(connection, organization, id, request.decision, patient, &by).await?;
            Ok(review.into())
        })
    })
    .await
}
