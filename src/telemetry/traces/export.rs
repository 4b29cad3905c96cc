//! Spans on their way to a collector: a bounded queue, one task that sends batches (OTLP over HTTP, protobuf).
//!
//! A collector that is away costs nothing but its spans: the batch in hand is tried a few times, meanwhile the queue fills,
//! and what has no room is dropped. `chartgate_trace_spans_total` counts what became of each span.

use crate::telemetry::metrics::trace_spans;
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use secrecy::{ExposeSecret as _, SecretString};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Spans that wait, at most: some 8 MB.
const WAITING_MAX: usize = 8192;
/// Spans of one request.
const BATCH_MAX: usize = 512;
/// A batch gathers so long.
const GATHER: Duration = Duration::from_secs(1);
/// One request to the collector.
const EXPORT_MAX: Duration = Duration::from_secs(5);
/// Tries of one batch; the pause doubles from [`PAUSE`].
const TRIES: u32 = 5;
/// After the first failure.
const PAUSE: Duration = Duration::from_millis(500);
/// What is left at the stop of the process is sent within this time, or not at all.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// An answer of a collector is a few bytes; more is not read.
const ANSWER_MAX: usize = 64 * 1024;

/// Where spans go. No `Debug`: headers hold credentials.
#[derive(Clone)]
pub struct Settings {
    /// With the path, such as `http://127.0.0.1:4318/v1/traces`.
    pub endpoint: String,
    /// Sent with each request.
    pub headers: Vec<(String, SecretString)>,
    /// `service.name`.
    pub service_name: String,
    /// Share of the traces that begin here and are recorded, from 0 to 1. Of traces that others began, they decide.
    pub sample_ratio: f64,
}

/// Why traces are not on.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The endpoint, a header or TLS cannot be used. The cause is not told: it may quote a header.
    #[error("telemetry.otlp_endpoint or its headers cannot be used")]
    Unusable,
    /// Twice in one process.
    #[error("traces were started before")]
    Started,
    /// The collector did not take what it was sent.
    #[error("the collector cannot be reached, or refuses what it is sent")]
    Refused,
}

/// The sending half.
pub(super) struct Queue(mpsc::Sender<SpanData>);

impl Queue {
    /// At once, or not at all.
    pub(super) fn push(&self, span: SpanData) {
        if self.0.try_send(span).is_err() {
            trace_spans("dropped", 1);
        }
    }
}

/// The task that sends, until [`Exporter::stop`].
pub struct Exporter {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Send what is left, for five seconds at most.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// The HTTP client of the whole program, in the shape that the exporter asks for.
#[derive(Debug)]
struct Client(reqwest::Client);

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(
        &self,
        request: opentelemetry_http::Request<Bytes>,
    ) -> Result<opentelemetry_http::Response<Bytes>, HttpError> {
        let mut answer = self.0.execute(reqwest::Request::try_from(request)?).await?;
        let mut builder = opentelemetry_http::Response::builder().status(answer.status());
        if let Some(headers) = builder.headers_mut() {
            headers.extend(answer.headers().clone());
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if body.len() + piece.len() > ANSWER_MAX {
                return Err("the collector's answer is too long".into());
            }
            body.extend_from_slice(&piece);
        }
        Ok(builder.body(body.into())?)
    }
}

/// An exporter that tries once: we decide about repetitions, since its own would block a thread of the runtime.
fn exporter(settings: &Settings) -> Result<SpanExporter, TracesError> {
    let client = reqwest::Client::builder()
        .timeout(EXPORT_MAX)
        // A header with a credential goes to nobody else.
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|_| TracesError::Unusable)?;
    let headers: HashMap<String, String> =
        settings.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect();
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client(client))
        .with_endpoint(settings.endpoint.clone())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_MAX)
        .with_headers(headers)
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .map_err(|_| TracesError::Unusable)?;
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_attribute(version).with_service_name(settings.service_name.clone()).build();
    exporter.set_resource(&resource);
    Ok(exporter)
}

pub(super) fn start(settings: &Settings) -> Result<(Queue, Exporter), TracesError> {
    let exporter = exporter(settings)?;
    let (queue, spans) = mpsc::channel(WAITING_MAX);
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(exporter, spans, stop.clone()));
    Ok((Queue(queue), Exporter { stop, task }))
}

/// Does the collector take a request without spans?
///
/// # Errors
/// [`TracesError`].
pub async fn probe(settings: &Settings) -> Result<(), TracesError> {
    exporter(settings)?.export(Vec::new()).await.map_err(|_| TracesError::Refused)
}

async fn run(exporter: SpanExporter, mut spans: mpsc::Receiver<SpanData>, stop: CancellationToken) {
    let mut is_away = false;
    while !stop.is_cancelled() {
        let batch = gather(&mut spans, &stop).await;
        if !batch.is_empty() {
            send(&exporter, batch, &stop, &mut is_away).await;
        }
    }
    // Nobody tells any more, or not in time.
    spans.close();
    let deadline = Instant::now() + FLUSH_MAX;
    let mut batch = Vec::new();
    while spans.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let count = batch.len();
        let sent = tokio::time::timeout_at(deadline, exporter.export(std::mem::take(&mut batch))).await;
        trace_spans(if matches!(sent, Ok(Ok(()))) { "exported" } else { "failed" }, count);
    }
}

/// What comes within [`GATHER`] of the first one; less if that is a whole batch, or the process stops.
async fn gather(spans: &mut mpsc::Receiver<SpanData>, stop: &CancellationToken) -> Vec<SpanData> {
    let mut batch = Vec::new();
    tokio::select! {
        _ = spans.recv_many(&mut batch, BATCH_MAX) => {}
        () = stop.cancelled() => return batch,
    }
    let until = Instant::now() + GATHER;
    while batch.len() < BATCH_MAX {
        let room = BATCH_MAX - batch.len();
        tokio::select! {
            got = spans.recv_many(&mut batch, room) => if got == 0 { break },
            () = tokio::time::sleep_until(until) => break,
            () = stop.cancelled() => break,
        }
    }
    batch
}

async fn send(exporter: &SpanExporter, batch: Vec<SpanData>, stop: &CancellationToken, is_away: &mut bool) {
    let count = batch.len();
    let mut pause = PAUSE;
    for tries in 1..=TRIES {
        if exporter.export(batch.clone()).await.is_ok() {
            trace_spans("exported", count);
            if std::mem::take(is_away) {
                tracing::info!("the collector takes spans again");
            }
            return;
        }
        if !std::mem::replace(is_away, true) {
            tracing::warn!(
                "the collector of telemetry.otlp_endpoint does not take spans; those that cannot wait are dropped"
            );
        }
        if tries == TRIES || stop.is_cancelled() {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
        pause *= 2;
    }
    trace_spans("failed", count);
}
