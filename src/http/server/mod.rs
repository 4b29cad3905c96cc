//! Our own accept loop: axum 0.8's has no header-read timeout, so that a client that sends nothing could hold a
//! connection for ever. docs/decisions/0013-the-edge.md has the whole way of a connection.

mod body;
mod connections;
mod gate;
mod stream;
pub mod tls;

use crate::app::App;
use crate::telemetry;
use body::{Answer, Wanted};
use connections::{Connections, Place, Room};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use stream::Guarded;
use tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// A request's head, at most, in bytes: 431. Its headers are at most 100, which is hyper's own limit.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Running requests may take so long after the stop.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Who is sent away to make room, and has no request, is gone after so long.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// What all connections of a listener share.
struct Listener {
    app: Arc<App>,
    router: axum::Router,
    tls: Option<Arc<Tls>>,
    http: http1::Builder,
    /// No further request: connections close when they can.
    closing: CancellationToken,
    /// Whatever is still there is cut off.
    cut: CancellationToken,
}

/// Serve until `stop`; then answer on for the grace, while `/health/ready` says so, and let running requests finish.
///
/// `pages` are routes beside the API's, such as the console's.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    app: Arc<App>,
    pages: axum::Router<Arc<App>>,
    stop: CancellationToken,
) {
    let router = super::router(Arc::clone(&app), pages);
    serve_routes(listener, tls, app, router, stop).await;
}

/// The same for a process without the API: metrics and health only.
pub async fn serve_metrics(listener: TcpListener, app: Arc<App>, stop: CancellationToken) {
    let router = super::watching_router(Arc::clone(&app));
    serve_routes(listener, None, app, router, stop).await;
}

async fn serve_routes(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    app: Arc<App>,
    router: axum::Router,
    stop: CancellationToken,
) {
    let limits = app.config.limits.clone();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header).max_header_size(HEAD_BYTES_MAX);
    http.max_buf_size(64 * 1024);
    let closing = CancellationToken::new();
    let shared = Arc::new(Listener {
        router,
        app: Arc::clone(&app),
        tls: tls.clone(),
        http,
        closing: closing.clone(),
        cut: CancellationToken::new(),
    });
    let beside = TaskTracker::new();
    beside.spawn(drain(Arc::clone(&app), stop, closing.clone()));
    let (watched, db, until) = (Arc::clone(&app.limits), app.db.clone(), closing.clone());
    beside.spawn(async move { watched.watch(db, until).await });
    if let Some(tls) = tls {
        beside.spawn(tls.watch(closing.clone()));
    }
    let connections = Connections::new(limits.connections, limits.connections_per_address);
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => break,
            accepted = next(&listener, &connections) => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: give the others time to close theirs.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = connections.enter(peer.ip()) else {
            telemetry::connection_refused("address");
            continue;
        };
        let _ = stream.set_nodelay(true);
        tasks.spawn(Arc::clone(&shared).connection(stream, peer, Arc::new(place)));
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(DRAIN_MAX, tasks.wait()).await.is_err() {
        tracing::warn!("some requests did not finish in time and were cut off");
        shared.cut.cancel();
        tasks.wait().await;
    }
    beside.close();
    beside.wait().await;
}

/// At the stop: say so, answer on for the grace, then close.
async fn drain(app: Arc<App>, stop: CancellationToken, closing: CancellationToken) {
    stop.cancelled().await;
    app.limits.draining.cancel();
    tokio::select! {
        () = tokio::time::sleep(app.config.limits.drain_grace) => {}
        () = app.limits.hurry.cancelled() => {}
    }
    closing.cancel();
}

/// The next connection, once there is room for it. Near the limit somebody who waits is sent away for it.
async fn next(listener: &TcpListener, connections: &Connections) -> std::io::Result<(TcpStream, SocketAddr)> {
    while connections.room() == Room::None {
        if connections.send_one_away() {
            telemetry::connection_refused("idle");
        }
        connections.freed().await;
    }
    let accepted = listener.accept().await?;
    if connections.room() != Room::Free && connections.send_one_away() {
        telemetry::connection_refused("idle");
    }
    Ok(accepted)
}

impl Listener {
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, place: Arc<Place>) {
        let Some(tls) = &self.tls else { return self.http(stream, peer, place).await };
        let handshake = tokio::time::timeout(self.app.config.limits.header, tls.acceptor().accept(stream));
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            () = place.connection().leave.notified() => return,
            () = self.closing.cancelled() => return,
        };
        match accepted {
            Ok(Ok(stream)) => self.http(stream, peer, place).await,
            // Scanners, plain HTTP, clients that do not trust us: their business, but worth counting.
            Ok(Err(_)) | Err(_) => telemetry::connection_refused("tls"),
        }
    }

    async fn http<S>(&self, stream: S, peer: SocketAddr, place: Arc<Place>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
            let (router, place) = (self.router.clone(), Arc::clone(&place));
            answer(router, request, peer, place)
        });
        let limits = &self.app.config.limits;
        let guarded = Guarded::new(stream, limits.write, limits.body_bytes_per_second);
        let io = TokioIo::new(guarded.of(Arc::clone(place.connection())));
        let mut connection = pin!(self.http.serve_connection(io, service));
        let mut is_leaving = false;
        loop {
            tokio::select! {
                // A broken connection is the client's business.
                _ = connection.as_mut() => return,
                () = self.cut.cancelled() => return,
                () = place.connection().leave.notified(), if !is_leaving => {
                    let is_busy = place.connection().is_busy();
                    connection.as_mut().graceful_shutdown();
                    is_leaving = true;
                    if !is_busy {
                        let _ = tokio::time::timeout(LEAVE_MAX, connection.as_mut()).await;
                        return;
                    }
                }
                () = self.closing.cancelled(), if !is_leaving => {
                    connection.as_mut().graceful_shutdown();
                    is_leaving = true;
                }
            }
        }
    }
}

async fn answer(
    router: axum::Router,
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    place: Arc<Place>,
) -> Result<hyper::Response<Answer>, std::convert::Infallible> {
    let busy = place.begin();
    // Whoever expects a 100 waits for our word, and has not sent the body.
    let waits = request.headers().contains_key(hyper::header::EXPECT);
    let mut request =
        request.map(|body| if waits { axum::body::Body::new(body) } else { axum::body::Body::new(Wanted::new(body)) });
    request.extensions_mut().insert(peer);
    let answer = router.oneshot(request).await?;
    Ok(answer.map(|body| Answer::new(body, busy)))
}
