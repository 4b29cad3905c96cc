//! `GET /v1/ingestion/jobs/{jobId}/events`: a job's history as server-sent events (HTML Living Standard 9.2), told as it is
//! written, and taken up again where it was left.
//!
//! Each event's id says exactly what was told until then ([`Position`]): a client that comes back with `Last-Event-ID` misses
//! nothing and gets nothing twice, whichever process it comes to. A stream ends with the job, after [`FOLLOW_MAX`], when
//! the key ends, and when the process stops; then the client comes back.

use super::extract::{Authenticated, Segment, bearer};
use super::jobs::{VIEWERS, locate};
use super::problem::{Problem, ProblemDocument};
use crate::app::App;
use crate::auth::Caller;
use crate::db::{DbError, Scope};
use crate::engine::events_store;
use crate::engine::job_events::{News, Position, status_of};
use crate::engine::jobs::JobView;
use crate::engine::reading;
use crate::ids::{JobId, OrganizationId};
use crate::limits::streams::{NoPlace, Place};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A stream looks this often at most, and at least so often.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// After so long it ends, and the client comes back.
const FOLLOW_MAX: Duration = Duration::from_mins(10);
/// The client comes back after so many milliseconds.
const COME_BACK: Duration = Duration::from_secs(1);
/// Between two checks of the credentials: what is revoked ends within five seconds.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// After so long without an event there is a comment, so that nothing on the way gives the connection up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A stream's state between two events.
struct Follower {
    app: Arc<App>,
    organization: OrganizationId,
    job: JobId,
    credentials: String,
    checked: Instant,
    position: Position,
    told: VecDeque<Event>,
    pause: Duration,
    until: Instant,
    is_over: bool,
    _place: Place,
}

/// What a look found.
enum Found {
    /// Events, or nothing new.
    Events,
    /// All is told, and the job has ended.
    End,
    /// There is no such job (any more).
    Gone,
}

impl Follower {
    /// Tell what is new.
    async fn look(&mut self) -> Result<Found, DbError> {
        let (organization, job) = (self.organization, self.job);
        // The job before its history: what has ended by then is in it.
        let Some(view) = reading::find_view(&self.app.db, &self.app.catalog, organization, job).await? else {
            return Ok(Found::Gone);
        };
        let position = self.position.clone();
        let news = self
            .app
            .db
            .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                Box::pin(async move {
                    Ok(News {
                        steps: events_store::steps_beyond(connection, organization, job, &position).await?.into(),
                        attempts: events_store::attempts_beyond(connection, organization, job, &position).await?.into(),
                        records: events_store::records_beyond(connection, organization, job, &position).await?.into(),
                    })
                })
            })
            .await?;
        Ok(self.tell(&view, news).await)
    }

    async fn tell(&mut self, view: &JobView, news: News) -> Found {
        let definition = self.app.catalog.resolve(&self.app.db, &view.workflow, view.workflow_version).await.ok();
        // Whatever is new may not be all; and a retry may have come between the job and its history.
        let is_settled = news.is_empty();
        for (position, entry) in news.told(view, &self.position, definition.as_deref()) {
            self.told.extend(event("transition", &position, &entry));
            self.position = position;
        }
        let is_terminal = view.status.is_terminal();
        if is_terminal && !is_settled {
            return Found::Events;
        }
        let (state, status) = status_of(view);
        if state != self.position.state {
            self.position.state = state;
            self.told.extend(event("status", &self.position, &status));
        }
        if is_terminal { Found::End } else { Found::Events }
    }

    /// Are the credentials still good? What cannot be checked now is checked again soon.
    async fn is_allowed(&mut self) -> bool {
        if self.checked.elapsed() < CHECK_EVERY {
            return true;
        }
        self.checked = Instant::now();
        match self.app.authenticator.authenticate(&self.credentials).await {
            Ok(caller) => sees(&caller, self.organization),
            Err(crate::auth::AuthError::Refused(_)) => false,
            Err(_) => true,
        }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.told.pop_front() {
                return Some(event);
            }
            if self.is_over || Instant::now() > self.until || self.app.limits.draining.is_cancelled() {
                return None;
            }
            tokio::select! {
                () = tokio::time::sleep(self.pause) => {}
                () = self.app.limits.draining.cancelled() => return None,
            }
            self.pause = (self.pause * 3 / 2).min(LOOK_EVERY.1);
            if !self.is_allowed().await {
                return None;
            }
            match self.look().await {
                Ok(Found::Events) => {
                    if !self.told.is_empty() {
                        self.pause = LOOK_EVERY.0;
                    }
                }
                Ok(Found::End | Found::Gone) => self.is_over = true,
                // The client comes back, and is told why there is nothing.
                Err(_) => return None,
            }
        }
    }
}

fn event(name: &str, position: &Position, data: &impl serde::Serialize) -> Option<Event> {
    Event::default().event(name).id(position.to_string()).retry(COME_BACK).json_data(data).ok()
}

fn sees(caller: &Caller, organization: OrganizationId) -> bool {
    caller.has_one_of(VIEWERS) && caller.organization.is_none_or(|own| own == organization)
}

/// Follow a job: its history from the beginning, or from `Last-Event-ID`, and then whatever is written.
///
/// Events `transition` are entries of the timeline (without those of chunks), events `status` say where the job stands. The
/// stream ends after the `status` of a job that has ended; who comes back to it then gets `204`.
#[utoipa::path(
    get, path = "/v1/ingestion/jobs/{jobId}/events", tag = "jobs", operation_id = "followJob",
    params(
        ("jobId" = String, Path),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that came"),
    ),
    responses(
        (status = 200, description = "Events", content((String = "text/event-stream"))),
        (status = 204, description = "The job has ended, and all of it was told"),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn follow_job(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(job): Segment,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.allow(VIEWERS)?;
    let (organization, job) = locate(&app, &caller, &job).await?;
    let position = match headers.get("last-event-id").filter(|value| !value.is_empty()) {
        None => Position::START,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Problem::parameter("Last-Event-ID", "the id of an event of this job"))?,
    };
    let home = caller.caller.organization.unwrap_or(OrganizationId::PLATFORM);
    let place = app.limits.streams.take(home).map_err(|full| match full {
        NoPlace::OfOrganization => Problem::new("rate_limited", "The organization follows as many jobs as it may."),
        NoPlace::OfAll => Problem::new("overloaded", "As many jobs are followed as may be."),
    });
    let place = place.map_err(|problem| problem.retry_after(Duration::from_secs(10)))?;
    let mut follower = Follower {
        credentials: bearer(&headers)?.to_owned(),
        checked: Instant::now(),
        told: VecDeque::new(),
        pause: LOOK_EVERY.0,
        until: Instant::now() + FOLLOW_MAX,
        is_over: false,
        _place: place,
        app,
        organization,
        job,
        position,
    };
    // Before the answer begins: who may not see the job, or knows all of it, is told so by a status.
    match follower.look().await? {
        Found::Gone => return Err(Problem::new("job_not_found", "There is no such job.")),
        Found::End if follower.told.is_empty() => return Ok(StatusCode::NO_CONTENT.into_response()),
        Found::End => follower.is_over = true,
        Found::Events => {}
    }
    let events = stream::unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
