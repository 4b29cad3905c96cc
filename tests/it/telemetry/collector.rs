//! A collector as others run one: takes OTLP over HTTP (protobuf), and keeps every span.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// How long a span may take to arrive.
const PATIENCE: Duration = Duration::from_mins(1);

/// One span, as it arrived.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    pub attributes: BTreeMap<String, String>,
    /// Trace and span.
    pub links: Vec<(String, String)>,
    /// 0 unset, 1 ok, 2 error.
    pub status: i32,
    pub began: u64,
    pub ended: u64,
    pub resource: BTreeMap<String, String>,
}

impl Span {
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct Kept {
    spans: Vec<Span>,
    /// As they came over the wire.
    bytes: Vec<u8>,
    headers: Vec<HeaderMap>,
}

/// See the module.
#[derive(Clone)]
pub struct Collector {
    pub endpoint: String,
    kept: Arc<Mutex<Kept>>,
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn map(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|one| (one.key, text(one.value))).collect()
}

async fn take(State(kept): State<Arc<Mutex<Kept>>>, headers: HeaderMap, body: Bytes) -> (StatusCode, Vec<u8>) {
    assert_eq!(headers[header::CONTENT_TYPE], "application/x-protobuf");
    let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
    let mut kept = kept.lock().unwrap();
    kept.bytes.extend_from_slice(&body);
    kept.headers.push(headers);
    for resource in request.resource_spans {
        let described = map(resource.resource.unwrap_or_default().attributes);
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            kept.spans.push(Span {
                trace: hex::encode(span.trace_id),
                id: hex::encode(span.span_id),
                parent: hex::encode(span.parent_span_id),
                name: span.name,
                attributes: map(span.attributes),
                links: span.links.into_iter().map(|l| (hex::encode(l.trace_id), hex::encode(l.span_id))).collect(),
                status: span.status.map_or(0, |status| status.code),
                began: span.start_time_unix_nano,
                ended: span.end_time_unix_nano,
                resource: described.clone(),
            });
        }
    }
    (StatusCode::OK, ExportTraceServiceResponse::default().encode_to_vec())
}

impl Collector {
    /// Listening on a port of its own; `/hook` takes callbacks.
    pub async fn start() -> Self {
        let kept: Arc<Mutex<Kept>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&kept));
        let router = router.route("/hook", post(|| async { StatusCode::NO_CONTENT }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { endpoint, kept }
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.kept.lock().unwrap().spans.clone()
    }

    /// All bytes so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.kept.lock().unwrap().bytes.clone()
    }

    /// The headers of the first request.
    pub fn first_headers(&self) -> HeaderMap {
        self.kept.lock().unwrap().headers[0].clone()
    }

    /// The spans that are wanted, once there are so many of them.
    pub async fn wait(&self, many: usize, wanted: impl Fn(&Span) -> bool) -> Vec<Span> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found: Vec<Span> = self.spans().into_iter().filter(&wanted).collect();
            if found.len() >= many {
                return found;
            }
            assert!(Instant::now() < deadline, "{} of {many} spans: {:#?}", found.len(), self.spans());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
