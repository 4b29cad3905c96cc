//! `GET /admin/live?page=…`: a browser that watches a page is told when its live part has changed (server-sent events, HTML
//! Living Standard 9.2).
//!
//! The page itself is rendered again, by the console's own routes and with the watcher's cookie: what it may see is decided
//! anew each time, and no page has code of its own for this. A watched session ages as if nobody were there.

use super::answer::{self, Refused};
use super::session::{Visitor, Watching};
use crate::app::App;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt as _;

/// Watchers of one process; each costs a page's rendering every [`LOOK_EVERY`].
const WATCHERS_MAX: usize = 64;
static WATCHERS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(WATCHERS_MAX)));
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// After so long the browser asks again, so that no connection is for ever.
const WATCH_MAX: Duration = Duration::from_mins(10);

/// Query of a watcher.
#[derive(Deserialize)]
pub(super) struct Watched {
    page: String,
}

struct Watch {
    app: Arc<App>,
    page: String,
    headers: HeaderMap,
    peer: Option<SocketAddr>,
    shown: Option<[u8; 32]>,
    until: Instant,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

/// The page's live part, now and whenever it has changed: events `live` with markup; `gone` when the session or the page is.
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    _: Visitor,
    Query(query): Query<Watched>,
    headers: HeaderMap,
    peer: Option<axum::Extension<SocketAddr>>,
) -> Result<Response, Refused> {
    if !answer::is_ours(&query.page) || query.page.starts_with("/admin/live") {
        return Err(Refused::Invalid("Only pages of the console can be watched.".to_owned()));
    }
    let Ok(place) = Arc::clone(&WATCHERS).try_acquire_owned() else {
        return Ok((StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "30")]).into_response());
    };
    let watch = Watch {
        app,
        page: query.page,
        headers,
        peer: peer.map(|axum::Extension(peer)| peer),
        shown: None,
        until: Instant::now() + WATCH_MAX,
        is_over: false,
        _place: place,
    };
    let events = stream::unfold(watch, |mut watch| async {
        let event = watch.next().await?;
        Some((Ok::<_, Infallible>(event), watch))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    Ok(response)
}

impl Watch {
    async fn next(&mut self) -> Option<Event> {
        if self.is_over {
            return None;
        }
        loop {
            let draining = self.app.limits.draining.clone();
            if self.shown.is_some() {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    () = draining.cancelled() => return None,
                }
            }
            if Instant::now() > self.until || draining.is_cancelled() {
                return None;
            }
            match self.look().await {
                Ok(markup) => {
                    let hash = Sha256::digest(markup.as_bytes()).into();
                    if self.shown.replace(hash) != Some(hash) {
                        return Some(Event::default().event("live").data(markup));
                    }
                }
                // Not now: the next look may succeed.
                Err(status) if status.is_server_error() => {
                    self.shown.get_or_insert([0; 32]);
                }
                Err(_) => {
                    self.is_over = true;
                    return Some(Event::default().event("gone").data("gone"));
                }
            }
        }
    }

    /// The live part as it is now, or the status of what came instead.
    async fn look(&self) -> Result<String, StatusCode> {
        let mut request = Request::get(&self.page).body(Body::empty()).map_err(|_| StatusCode::BAD_REQUEST)?;
        for name in [header::COOKIE, header::HOST] {
            for value in self.headers.get_all(&name) {
                request.headers_mut().append(&name, value.clone());
            }
        }
        request.extensions_mut().insert(Watching);
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        let router = super::routes().with_state(Arc::clone(&self.app));
        let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
        let status = response.status();
        if status != StatusCode::OK {
            return Err(status);
        }
        let body = response.into_body().collect().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        String::from_utf8(body.to_bytes().into()).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    }
}
