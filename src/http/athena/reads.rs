//! What is known of events: a patient's, as received, and counts of all.

use crate::app::App;
use crate::auth::Role;
use crate::clock::rfc3339;
use crate::db::{DbError, Scope};
use crate::http::clinical::{private, record_read};
use crate::http::extract::{Authenticated, Parameters, Segment};
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::{EventId, JobId, PatientId};
use crate::ingest::athena::event::EventKind;
use crate::ingest::athena::store::{self, Count, EventFilter, ListedEvent, Minute};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Events of one page of the list.
const PAGE_MAX: i64 = 200;
const PAGE_DEFAULT: i64 = 50;

/// Query of the list of events.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventParameters {
    /// Only events of this type; senders' names of one kind (`vital`, `vitals`, `vital_signs`) mean the same.
    event_type: Option<String>,
    /// Events of a page, 1 to 200; 50 without it.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(pattern = "^evt_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    cursor: Option<String>,
}

/// A time at which an event was captured.
#[derive(Serialize, utoipa::ToSchema)]
pub struct EventSighting {
    /// The instant in UTC; the text as given, if it is no time.
    pub captured_at: String,
    /// The job that took it.
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// When it was received.
    pub received_at: Option<String>,
}

/// An event as received.
#[derive(Serialize, utoipa::ToSchema)]
pub struct EventSummary {
    /// Its id.
    #[schema(value_type = String)]
    pub event_id: EventId,
    /// As sent.
    pub event_type: String,
    /// What that means.
    pub kind: String,
    /// As sent.
    pub event_subtype: Option<String>,
    /// As sent.
    pub source_endpoint: Option<String>,
    /// As given.
    pub captured_at: Option<String>,
    /// When it was received.
    pub received_at: Option<String>,
    /// Its job.
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// That job's stored status: queued until its end.
    pub status: String,
    /// Whose it is, once it is processed and the patient is known.
    #[schema(value_type = Option<String>)]
    pub patient_id: Option<PatientId>,
    /// linked, pending, review or none; null until it is processed.
    pub link_status: Option<String>,
    /// Hash of the exact bytes: `/v1/payloads/{sha256}`.
    pub payload_sha256: String,
    /// When it was captured, each time; the first hundred.
    pub sightings: Vec<EventSighting>,
}

/// A page of events, newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub struct EventPage {
    /// As asked.
    pub athena_patient_id: String,
    /// The events.
    pub events: Vec<EventSummary>,
    /// Give it as `cursor` for the next page; null on the last.
    pub next: Option<String>,
}

/// The events of a patient as received, newest first.
#[utoipa::path(
    get, path = "/ingest/events/{athena_patient_id}", tag = "clinical", operation_id = "listEvents",
    params(("athena_patient_id" = String, Path), EventParameters),
    responses(
        (status = 200, description = "The events; none for a patient that is not known", body = EventPage),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn list_events(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(patient): Segment,
    Parameters(parameters): Parameters<EventParameters>,
) -> Result<Response, Problem> {
    let organization = caller.organization(&[Role::Reader])?;
    let limit = parameters.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::parameter("limit", "a number from 1 to 200"));
    }
    let before = parameters.cursor.as_deref().map(str::parse::<EventId>).transpose();
    let before = before.map_err(|_| Problem::parameter("cursor", "`next` of an earlier answer"))?;
    let patient_id = patient.trim().to_owned();
    let (kind, event_type) = narrowed(parameters.event_type.as_deref());
    let filter = EventFilter { patient_id: patient_id.clone(), kind, event_type, before, limit: limit + 1 };
    let (mut events, mut sightings) = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let events = store::list(connection, organization, &filter).await?;
                let ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
                let sightings = store::sightings(connection, organization, &ids).await?;
                let patient = events.iter().find_map(|event| event.patient_id);
                let detail = json!({ "events": events.len() });
                record_read(connection, organization, &caller, "events.read", patient, None, detail).await?;
                let mut by_event: BTreeMap<EventId, Vec<EventSighting>> = BTreeMap::new();
                for sighting in sightings {
                    by_event.entry(sighting.event_id).or_default().push(EventSighting {
                        captured_at: sighting.captured_at,
                        job_id: sighting.job_id,
                        received_at: rfc3339(sighting.created_at),
                    });
                }
                Ok((events, by_event))
            })
        })
        .await?;
    let page = usize::try_from(limit).unwrap_or_default();
    let has_more = events.len() > page;
    events.truncate(page);
    let next = events.last().filter(|_| has_more).map(|last| last.id.to_string());
    let events = events.into_iter().map(|event| {
        let sightings = sightings.remove(&event.id).unwrap_or_default();
        summary(event, sightings)
    });
    let page = EventPage { athena_patient_id: patient_id, events: events.collect(), next };
    Ok(private(Json(page).into_response()))
}

/// A type that means a kind asks for the kind; any other asks for itself.
fn narrowed(event_type: Option<&str>) -> (Option<&'static str>, Option<String>) {
    match event_type.map(str::trim).map(|text| (EventKind::of(text), text)) {
        None => (None, None),
        Some((EventKind::Other, text)) if !text.eq_ignore_ascii_case("other") => (None, Some(text.to_owned())),
        Some((kind, _)) => (Some(kind.as_str()), None),
    }
}

fn summary(event: ListedEvent, sightings: Vec<EventSighting>) -> EventSummary {
    EventSummary {
        event_id: event.id,
        event_type: event.event_type,
        kind: event.kind,
        event_subtype: event.event_subtype,
        source_endpoint: event.source_endpoint,
        captured_at: event.captured_at,
        received_at: rfc3339(event.received_at),
        job_id: event.job_id,
        status: event.status,
        patient_id: event.patient_id,
        link_status: event.link_status,
        payload_sha256: hex::encode(&event.payload_sha256),
        sightings,
    }
}

/// What happened in one minute.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MinuteCounts {
    /// Its start.
    pub minute: Option<String>,
    /// New events.
    pub received: i64,
    /// Repetitions.
    pub duplicates: i64,
    /// Known events that were captured at another time.
    pub sightings: i64,
    /// Jobs that succeeded, with issues or without.
    pub processed: i64,
    /// Jobs that failed.
    pub failed: i64,
}

/// How the gateway stands.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// Events, each once however often it was sent.
    pub total_events: i64,
    /// Repetitions that changed nothing.
    pub total_duplicates: i64,
    /// Known events that were captured at another time.
    pub total_sightings: i64,
    /// Events by kind.
    pub by_type: BTreeMap<String, i64>,
    /// Jobs of events and sightings by their stored status.
    pub by_status: BTreeMap<String, i64>,
    /// How long the oldest event that is not at its end has waited; null if none waits.
    pub lag_seconds: Option<f64>,
    /// When the newest event was received.
    pub last_event_at: Option<String>,
    /// The last sixty minutes, oldest first; the last one is the present one.
    pub last_hour: Vec<MinuteCounts>,
}

/// Counts of the organization's Athena events.
#[utoipa::path(
    get, path = "/ingest/stats", tag = "clinical", operation_id = "getStats",
    responses(
        (status = 200, description = "The counts", body = Stats),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn get_stats(State(app): State<Arc<App>>, caller: Authenticated) -> Result<Json<Stats>, Problem> {
    let organization = caller.organization(&[Role::Sender, Role::Reader, Role::Admin])?;
    let (totals, minutes, (last_event_at, lag_seconds)) = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let totals = store::totals(connection, organization).await?;
                let minutes = store::last_hour(connection, organization).await?;
                Ok((totals, minutes, store::lag(connection, organization).await?))
            })
        })
        .await?;
    let of = |measure: &str| -> BTreeMap<String, i64> {
        let counts = totals.iter().filter(|count| count.measure == measure && count.total != 0);
        counts.map(|Count { name, total, .. }| (name.clone(), *total)).collect()
    };
    let sum = |measure: &str| of(measure).values().sum();
    Ok(Json(Stats {
        total_events: sum("received"),
        total_duplicates: sum("duplicate"),
        total_sightings: sum("sighting"),
        by_type: of("received"),
        by_status: of("job"),
        lag_seconds,
        last_event_at: last_event_at.and_then(rfc3339),
        last_hour: minutes.iter().map(minute).collect(),
    }))
}

fn minute(minute: &Minute) -> MinuteCounts {
    let Minute { minute: start, received, duplicates, sightings, processed, failed } = *minute;
    MinuteCounts { minute: rfc3339(start), received, duplicates, sightings, processed, failed }
}
