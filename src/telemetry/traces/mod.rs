//! Traces over OTLP: one trace follows a request from intake through every step and attempt of its job. docs/traces.md.
//!
//! Off unless [`start`] was called: then [`Request::begin`] and [`are_on`] answer at once, nothing is drawn, stored or read.
//! Spans hold ids, names of the program, counts and codes; never a path, a header, a statement or anything that a sender
//! wrote, but the ids of a well-formed `traceparent`. Telling a span never waits: what the queue of the exporter has no room
//! for is dropped and counted.

mod context;
mod export;

pub use context::{RANDOM, SAMPLED, TraceContext};
pub use export::{Exporter, Settings, TracesError, probe};

use export::Queue;
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// What every span of the process needs, once traces are on.
struct Tracer {
    ratio: f64,
    scope: InstrumentationScope,
    queue: Queue,
}

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// Switch traces on for this process, once.
///
/// # Errors
/// [`TracesError`].
pub fn start(settings: &Settings) -> Result<Exporter, TracesError> {
    let ratio = settings.sample_ratio;
    let (queue, exporter) = export::start(settings)?;
    let scope = InstrumentationScope::builder("chartgate").with_version(env!("CARGO_PKG_VERSION")).build();
    TRACER.set(Tracer { ratio, scope, queue }).map_err(|_| TracesError::Started)?;
    Ok(exporter)
}

/// Are spans told at all?
#[must_use]
pub fn are_on() -> bool {
    TRACER.get().is_some()
}

/// The span of an HTTP request, from its headers to its answer.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    context: TraceContext,
    parent: Option<[u8; 8]>,
    began: SystemTime,
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The route's template.
    pub route: &'a str,
    /// A method that is known, or `other`.
    pub method: &'static str,
    /// HTTP status.
    pub status: u16,
    /// The request's id, which may be the caller's word.
    pub request_id: Option<&'a str>,
    /// The error's code.
    pub code: Option<&'static str>,
}

impl Request {
    /// A request comes in, with the value of its `traceparent` if it has just one. None while traces are off.
    #[must_use]
    pub fn begin(traceparent: Option<&str>) -> Option<Self> {
        let tracer = TRACER.get()?;
        let theirs = traceparent.and_then(TraceContext::parse);
        let context = theirs.map_or_else(|| TraceContext::fresh(tracer.ratio), TraceContext::child);
        Some(Self { context, parent: theirs.map(|theirs| theirs.span), began: SystemTime::now() })
    }

    /// Where what this request causes belongs.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// It was answered.
    pub fn end(self, answer: Answer<'_>) {
        let Some(tracer) = TRACER.get().filter(|_| self.context.is_sampled()) else { return };
        let mut attributes = vec![
            KeyValue::new("http.request.method", answer.method),
            KeyValue::new("http.route", answer.route.to_owned()),
            KeyValue::new("http.response.status_code", i64::from(answer.status)),
        ];
        attributes.extend(answer.request_id.map(|id| KeyValue::new("chartgate.request.id", id.to_owned())));
        attributes.extend(answer.code.map(|code| KeyValue::new("error.type", code)));
        // The caller's faults are not the server's (semantic conventions of HTTP spans).
        let status = if answer.status >= 500 { Status::error("") } else { Status::Unset };
        tracer.tell(Span {
            context: self.context,
            parent: self.parent,
            is_remote: true,
            kind: SpanKind::Server,
            name: format!("{} {}", answer.method, answer.route),
            began: self.began,
            ended: SystemTime::now(),
            attributes,
            link: None,
            status,
        });
    }
}

/// Where the steps of a job's round belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobTrace {
    /// The span that began the round: the request that submitted or retried.
    pub parent: TraceContext,
    /// The span that submitted the job, if the round has a trace of its own.
    pub first: Option<TraceContext>,
}

/// One attempt of a step.
#[derive(Debug, Clone)]
pub struct Attempt<'a> {
    /// Of the organization.
    pub organization: String,
    /// Of the job.
    pub job: String,
    /// Name of the workflow.
    pub workflow: &'a str,
    /// Its version.
    pub version: i32,
    /// Name of the step.
    pub step: &'a str,
    /// From 1.
    pub attempt: i16,
    /// From 1.
    pub round: i32,
    /// 0 is the job itself.
    pub chunk: i32,
    /// Who ran it.
    pub worker: String,
    /// `succeeded`, `fanned_out`, `retried`, `failed` or `stale`.
    pub outcome: &'static str,
    /// Class and code.
    pub error: Option<(&'static str, &'a str)>,
    /// How long it took.
    pub elapsed: Duration,
    /// When it ended.
    pub ended: SystemTime,
}

/// An attempt of a step ended.
pub fn step(trace: &JobTrace, attempt: Attempt<'_>) {
    let Some(tracer) = TRACER.get().filter(|_| trace.parent.is_sampled()) else { return };
    let ended = attempt.ended;
    let mut attributes = vec![
        KeyValue::new("chartgate.organization.id", attempt.organization),
        KeyValue::new("chartgate.job.id", attempt.job),
        KeyValue::new("chartgate.job.round", i64::from(attempt.round)),
        KeyValue::new("chartgate.workflow.name", attempt.workflow.to_owned()),
        KeyValue::new("chartgate.workflow.version", i64::from(attempt.version)),
        KeyValue::new("chartgate.step.name", attempt.step.to_owned()),
        KeyValue::new("chartgate.step.attempt", i64::from(attempt.attempt)),
        KeyValue::new("chartgate.step.outcome", attempt.outcome),
        KeyValue::new("chartgate.worker.id", attempt.worker),
    ];
    if attempt.chunk > 0 {
        attributes.push(KeyValue::new("chartgate.chunk", i64::from(attempt.chunk)));
    }
    if let Some((class, code)) = attempt.error {
        attributes.push(KeyValue::new("chartgate.error.class", class));
        attributes.push(KeyValue::new("error.type", code.to_owned()));
    }
    let is_good = matches!(attempt.outcome, "succeeded" | "fanned_out");
    tracer.tell(Span {
        context: trace.parent.child(),
        parent: Some(trace.parent.span),
        is_remote: true,
        kind: SpanKind::Internal,
        name: format!("step {}", attempt.step),
        began: ended.checked_sub(attempt.elapsed).unwrap_or(ended),
        ended,
        attributes,
        link: trace.first,
        status: if is_good { Status::Ok } else { Status::error("") },
    });
}

struct Span {
    context: TraceContext,
    parent: Option<[u8; 8]>,
    is_remote: bool,
    kind: SpanKind,
    name: String,
    began: SystemTime,
    ended: SystemTime,
    attributes: Vec<KeyValue>,
    link: Option<TraceContext>,
    status: Status,
}

fn span_context(context: TraceContext, is_remote: bool) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace),
        SpanId::from_bytes(context.span),
        TraceFlags::new(context.flags),
        is_remote,
        TraceState::default(),
    )
}

impl Tracer {
    fn tell(&self, span: Span) {
        let mut links = SpanLinks::default();
        links.links.extend(span.link.map(|first| {
            Link::new(span_context(first, true), vec![KeyValue::new("chartgate.link", "first_round")], 0)
        }));
        self.queue.push(SpanData {
            span_context: span_context(span.context, false),
            parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
            parent_span_is_remote: span.is_remote && span.parent.is_some(),
            span_kind: span.kind,
            name: span.name.into(),
            start_time: span.began,
            end_time: span.ended,
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: span.status,
            instrumentation_scope: self.scope.clone(),
        });
    }
}
