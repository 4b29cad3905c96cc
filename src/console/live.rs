//! `GET /admin/live?page=…`: a browser that watches a page is told when its live part has changed (server-sent events, HTML
//! Living Standard 9.2).
//!
//! The page itself is rendered again, by the console's own routes and with the watcher's cookie: what it may see is decided
//! anew each time, and no page has code of its own for this. A watched session ages as if nobody were there.

use super::answer::{self, Refused};
use super::session::{Visitor, Watching};
use crate::app::App;
use crate::auth::denials::{Denial, Denied};
use crate::ids::RequestId;
use crate::limits::places::Place;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tower::ServiceExt as _;

/// Between two looks, at least.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// And at most.
const REST_MAX: Duration = Duration::from_mins(1);
/// A watcher rests so many times as long as its look took: however dear a page is, watching it takes a small part of a
/// connection's time. (What is dearest is read once for all watchers: [`crate::app::kept`].)
const REST: u32 = 10;
/// A look that takes longer is given up, and tried again later.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// A live part is not larger: what is, is none.
const PART_BYTES_MAX: usize = 2 * 1024 * 1024;
/// After so long the browser asks again, so that no connection is for ever.
const WATCH_MAX: Duration = Duration::from_mins(10);

const ROUTE: &str = "/admin/live";

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
    rest: Duration,
    _place: Place<String>,
}

/// The page's live part, now and whenever it has changed: events `live` with markup; `gone` when the session or the page is.
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Query(query): Query<Watched>,
    headers: HeaderMap,
    peer: Option<axum::Extension<SocketAddr>>,
) -> Result<Response, Refused> {
    if !answer::is_ours(&query.page) || query.page.starts_with(ROUTE) {
        return Err(Refused::Invalid("Only pages of the console can be watched.".to_owned()));
    }
    let Some(place) = app.limits.watchers.take(visitor.caller.name.clone()) else {
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
        rest: LOOK_EVERY,
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

/// How long to rest after a look that took so long.
fn rest_after(took: Duration) -> Duration {
    (took * REST).clamp(LOOK_EVERY, REST_MAX)
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
                    () = tokio::time::sleep(self.rest) => {}
                    () = draining.cancelled() => return None,
                }
            }
            if Instant::now() > self.until || draining.is_cancelled() {
                return None;
            }
            let began = Instant::now();
            let looked = tokio::time::timeout(LOOK_MAX, self.look()).await;
            self.rest = rest_after(began.elapsed());
            match looked.unwrap_or(Err(StatusCode::SERVICE_UNAVAILABLE)) {
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
        let mut response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
        if let Some(Denied { caller, code, reason }) = response.extensions_mut().remove() {
            let address = self.peer.map(|peer| peer.ip());
            let (method, route, request_id) = ("GET".to_owned(), ROUTE.to_owned(), RequestId::new().to_string());
            let denial = Denial { caller, address, request_id, method, route, code, reason };
            self.app.denials.record(denial).await;
        }
        let status = response.status();
        if status != StatusCode::OK {
            return Err(status);
        }
        // A page, not a file: whoever wants one of those asks for it by itself.
        let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if !kind.is_some_and(|kind| kind.starts_with(b"text/html")) {
            return Err(StatusCode::BAD_REQUEST);
        }
        let body = Limited::new(response.into_body(), PART_BYTES_MAX).collect().await;
        let body = body.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        String::from_utf8(body.to_bytes().into()).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_watches_a_dear_page_looks_at_it_less_often() {
        let rests = [0, 50, 1_000, 60_000].map(|took| rest_after(Duration::from_millis(took)).as_secs());
        assert_eq!(rests, [2, 2, 10, 60]);
    }
}
