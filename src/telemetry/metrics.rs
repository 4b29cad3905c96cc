//! Counters and histograms of this process, rendered for Prometheus (text format 0.0.4).
//!
//! [`METRICS`] is the list that `docs/operations.md` speaks of; a test compares them. Label values come from closed sets:
//! words of the program (`&'static str`), names of workflows and steps, route templates. Never an organization, an id or
//! anything a sender wrote. Histograms have fixed buckets, so that memory is bounded also when nobody scrapes (the crate
//! `metrics-exporter-prometheus` keeps every sample until somebody does).
//!
//! The functions cannot fail: telemetry never stands in the way of what it watches.

mod gauges;
mod list;

pub(super) use gauges::begin;
pub use gauges::{
    Around, Pool, Queue, around_gauges, database_away, database_up, erasures_late, process_gauges, queue_gauges,
};
pub use list::{Kind, METRICS, Metric};

use list::Kind::Histogram;
use list::{
    ACCEPTED, AUDIT_PUBLISHED, AUDIT_SEALED, AUDIT_STATE, AUDIT_UNPUBLISHED, AUDIT_UNSEALED, AUDIT_UNSEALED_AGE,
    AUTH_REFUSED, CALLBACKS_DISABLED, CONNECTIONS_REFUSED, DUPLICATES, FETCH_DURATION, FETCHES, HINTS, HTTP_DURATION,
    INTAKE_DURATION, JOB_LAG, JOBS_ENDED, JWKS_FETCHES, LEASES_REAPED, REFUSED, REJECTED, REQUESTS_LIMITED, SIGHTINGS,
    STEP_DURATION, STEPS_FAILED, SWEEP_DURATION, TRACE_SPANS, UPLOAD_LAG,
};
use prometheus::core::Collector;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use std::sync::LazyLock;
use std::time::Duration;

/// None: the description above is faulty, which a test would have found.
struct Meters {
    registry: Registry,
    accepted: Option<IntCounterVec>,
    duplicates: Option<IntCounterVec>,
    sightings: Option<IntCounterVec>,
    rejected: Option<IntCounterVec>,
    intake_duration: Option<HistogramVec>,
    jobs_ended: Option<IntCounterVec>,
    job_lag: Option<HistogramVec>,
    step_duration: Option<HistogramVec>,
    steps_failed: Option<IntCounterVec>,
    fetches: Option<IntCounterVec>,
    fetch_duration: Option<HistogramVec>,
    hints: Option<IntCounterVec>,
    refused: Option<IntCounterVec>,
    upload_lag: Option<HistogramVec>,
    sweep_duration: Option<HistogramVec>,
    auth_refused: Option<IntCounterVec>,
    jwks_fetches: Option<IntCounterVec>,
    http_duration: Option<HistogramVec>,
    audit_sealed: Option<IntCounterVec>,
    audit_published: Option<IntCounterVec>,
    audit_unsealed_age: Option<GaugeVec>,
    audit_unsealed: Option<GaugeVec>,
    audit_unpublished: Option<GaugeVec>,
    audit_state: Option<GaugeVec>,
    connections_refused: Option<IntCounterVec>,
    requests_limited: Option<IntCounterVec>,
    trace_spans: Option<IntCounterVec>,
    leases_reaped: Option<IntCounterVec>,
    callbacks_disabled: Option<IntCounterVec>,
    gauges: gauges::Gauges,
}

/// One set a process: the events come from everywhere in it.
static METERS: LazyLock<Meters> = LazyLock::new(|| {
    let registry = Registry::new();
    let meters = Meters {
        accepted: counter(&registry, ACCEPTED),
        duplicates: counter(&registry, DUPLICATES),
        sightings: counter(&registry, SIGHTINGS),
        rejected: counter(&registry, REJECTED),
        intake_duration: histogram(&registry, INTAKE_DURATION),
        jobs_ended: counter(&registry, JOBS_ENDED),
        job_lag: histogram(&registry, JOB_LAG),
        step_duration: histogram(&registry, STEP_DURATION),
        steps_failed: counter(&registry, STEPS_FAILED),
        fetches: counter(&registry, FETCHES),
        fetch_duration: histogram(&registry, FETCH_DURATION),
        hints: counter(&registry, HINTS),
        refused: counter(&registry, REFUSED),
        upload_lag: histogram(&registry, UPLOAD_LAG),
        sweep_duration: histogram(&registry, SWEEP_DURATION),
        auth_refused: counter(&registry, AUTH_REFUSED),
        jwks_fetches: counter(&registry, JWKS_FETCHES),
        http_duration: histogram(&registry, HTTP_DURATION),
        audit_sealed: counter(&registry, AUDIT_SEALED),
        audit_published: counter(&registry, AUDIT_PUBLISHED),
        audit_unsealed_age: gauge(&registry, AUDIT_UNSEALED_AGE),
        audit_unsealed: gauge(&registry, AUDIT_UNSEALED),
        audit_unpublished: gauge(&registry, AUDIT_UNPUBLISHED),
        audit_state: gauge(&registry, AUDIT_STATE),
        connections_refused: counter(&registry, CONNECTIONS_REFUSED),
        requests_limited: counter(&registry, REQUESTS_LIMITED),
        trace_spans: counter(&registry, TRACE_SPANS),
        leases_reaped: counter(&registry, LEASES_REAPED),
        callbacks_disabled: counter(&registry, CALLBACKS_DISABLED),
        gauges: gauges::Gauges::register(&registry),
        registry,
    };
    // Known series begin at 0, so that the first event is an increase.
    for source in ["webhook", "athena", "upload"] {
        add(meters.accepted.as_ref(), &[source], 0);
        add(meters.duplicates.as_ref(), &[source], 0);
    }
    for status in ["found", "not_found", "ambiguous"] {
        add(meters.fetches.as_ref(), &[status], 0);
    }
    for hint in ["completion", "notification", "queue", "store", "sweep"] {
        add(meters.hints.as_ref(), &[hint, "taken_up"], 0);
    }
    for reason in ["metadata_disagree", "organization_unknown", "too_large", "upload_cancelled", "upload_repeated"] {
        add(meters.refused.as_ref(), &[reason], 0);
    }
    add(meters.sightings.as_ref(), &[], 0);
    for reason in ["address", "idle", "tls"] {
        add(meters.connections_refused.as_ref(), &[reason], 0);
    }
    for outcome in ["exported", "failed", "dropped"] {
        add(meters.trace_spans.as_ref(), &[outcome], 0);
    }
    for outcome in ["retried", "parked"] {
        add(meters.leases_reaped.as_ref(), &[outcome], 0);
    }
    for reason in ["failing", "gone"] {
        add(meters.callbacks_disabled.as_ref(), &[reason], 0);
    }
    for code in ["rate_limited", "organization_queue_full", "queue_full", "overloaded"] {
        add(meters.requests_limited.as_ref(), &[code], 0);
    }
    meters
});

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> Option<C> {
    let made = made.ok()?;
    registry.register(Box::new(made.clone())).ok()?;
    Some(made)
}

fn counter(registry: &Registry, metric: Metric) -> Option<IntCounterVec> {
    register(registry, IntCounterVec::new(Opts::new(metric.name, metric.help), metric.labels))
}

fn gauge(registry: &Registry, metric: Metric) -> Option<GaugeVec> {
    register(registry, GaugeVec::new(Opts::new(metric.name, metric.help), metric.labels))
}

fn histogram(registry: &Registry, metric: Metric) -> Option<HistogramVec> {
    let Histogram(buckets) = metric.kind else { return None };
    let options = HistogramOpts::new(metric.name, metric.help).buckets(buckets.to_vec());
    register(registry, HistogramVec::new(options, metric.labels))
}

fn add(counter: Option<&IntCounterVec>, labels: &[&str], by: u64) {
    if let Some(Ok(counter)) = counter.map(|counter| counter.get_metric_with_label_values(labels)) {
        counter.inc_by(by);
    }
}

fn set(gauge: Option<&GaugeVec>, labels: &[&str], to: f64) {
    if let Some(Ok(gauge)) = gauge.map(|gauge| gauge.get_metric_with_label_values(labels)) {
        gauge.set(to);
    }
}

fn observe(histogram: Option<&HistogramVec>, labels: &[&str], duration: Duration) {
    if let Some(Ok(histogram)) = histogram.map(|histogram| histogram.get_metric_with_label_values(labels)) {
        histogram.observe(duration.as_secs_f64());
    }
}

/// A submission became a job. Source: webhook, athena or upload.
pub fn intake_accepted(source: &'static str) {
    add(METERS.accepted.as_ref(), &[source], 1);
}

/// A submission was answered with the first job of the same content.
pub fn intake_duplicate(source: &'static str) {
    add(METERS.duplicates.as_ref(), &[source], 1);
}

/// A known Athena event was seen again with another time; it counts as a duplicate, too.
pub fn intake_sighting() {
    add(METERS.sightings.as_ref(), &[], 1);
}

/// A submission of a known caller was answered with an error of that code.
pub fn intake_rejected(source: &'static str, code: &'static str) {
    add(METERS.rejected.as_ref(), &[source, code], 1);
}

/// How long a submission took to its 202.
pub fn intake_duration(source: &'static str, duration: Duration) {
    observe(METERS.intake_duration.as_ref(), &[source], duration);
}

/// A round of a job ended: succeeded, `succeeded_with_issues` or failed, so long after it was accepted or retried (unknown
/// for a job that was parked without a worker).
pub fn job_ended(workflow: &str, status: &'static str, lag: Option<Duration>) {
    add(METERS.jobs_ended.as_ref(), &[workflow, status], 1);
    if let Some(lag) = lag {
        observe(METERS.job_lag.as_ref(), &[workflow], lag);
    }
}

/// One attempt of a step: succeeded, retried, failed or stale.
pub fn step_ran(workflow: &str, step: &str, outcome: &'static str, duration: Duration) {
    observe(METERS.step_duration.as_ref(), &[workflow, step, outcome], duration);
}

/// An attempt of a step failed, with that class and code.
pub fn step_failed(workflow: &str, step: &str, class: &'static str, code: &'static str) {
    add(METERS.steps_failed.as_ref(), &[workflow, step, class, code], 1);
}

/// A read of the clinical view: found, `not_found` or ambiguous.
pub fn clinical_fetch(status: &'static str, duration: Duration) {
    add(METERS.fetches.as_ref(), &[status], 1);
    observe(METERS.fetch_duration.as_ref(), &[status], duration);
}

/// The watcher looked at an object: `taken_up`, refused, known, absent, foreign, unreadable or failed.
pub fn watcher_hint(hint: &'static str, outcome: &'static str) {
    add(METERS.hints.as_ref(), &[hint, outcome], 1);
}

/// An object below `incoming/` became no job's.
pub fn upload_refused(reason: &'static str) {
    add(METERS.refused.as_ref(), &[reason], 1);
}

/// An object got its place in the queue so long after it was modified.
pub fn upload_taken_up(hint: &'static str, lag: Duration) {
    observe(METERS.upload_lag.as_ref(), &[hint], lag);
}

/// A sweep ended: complete, partial or failed.
pub fn watcher_swept(outcome: &'static str, duration: Duration) {
    observe(METERS.sweep_duration.as_ref(), &[outcome], duration);
}

/// A request was answered with 401, for a reason that it was not told.
pub fn auth_refused(reason: &'static str) {
    add(METERS.auth_refused.as_ref(), &[reason], 1);
}

/// An issuer's keys were fetched: ok or failed.
pub fn jwks_fetched(outcome: &'static str) {
    add(METERS.jwks_fetches.as_ref(), &[outcome], 1);
}

/// A method is any token that the client likes: those that are known, or `other`.
#[must_use]
pub fn known_method(method: &str) -> &'static str {
    let known = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
    known.into_iter().find(|known| *known == method).unwrap_or("other")
}

/// An HTTP request: the route's template (never the path), the method, the status.
pub fn http_request(route: &str, method: &str, status: u16, duration: Duration) {
    let method = known_method(method);
    let class = match status {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    observe(METERS.http_duration.as_ref(), &[route, method, class], duration);
}

/// Audit records were sealed.
pub fn audit_sealed(records: usize) {
    add(METERS.audit_sealed.as_ref(), &[], records as u64);
}

/// Checkpoints were put into the object store: done or failed.
pub fn audit_published(outcome: &'static str) {
    add(METERS.audit_published.as_ref(), &[outcome], 1);
}

/// What the sealer last said of itself; before the answer to whoever asks for the metrics.
pub fn audit_state(state: &str, unsealed_seconds: f64, unsealed_records: f64, unpublished_checkpoints: f64) {
    set(METERS.audit_unsealed_age.as_ref(), &[], unsealed_seconds);
    set(METERS.audit_unsealed.as_ref(), &[], unsealed_records);
    set(METERS.audit_unpublished.as_ref(), &[], unpublished_checkpoints);
    if let Some(gauge) = &METERS.audit_state {
        gauge.reset();
    }
    set(METERS.audit_state.as_ref(), &[state], 1.0);
}

/// A connection was closed to make or keep room: address, idle or tls.
pub fn connection_refused(reason: &'static str) {
    add(METERS.connections_refused.as_ref(), &[reason], 1);
}

/// A limit refused a request with that code.
pub fn request_limited(code: &'static str) {
    add(METERS.requests_limited.as_ref(), &[code], 1);
}

/// Spans were exported, failed or dropped.
pub fn trace_spans(outcome: &'static str, spans: usize) {
    add(METERS.trace_spans.as_ref(), &[outcome], spans as u64);
}

/// The lease of a dead worker was taken back: retried or parked.
pub fn lease_reaped(outcome: &'static str) {
    add(METERS.leases_reaped.as_ref(), &[outcome], 1);
}

/// A callback was disabled: failing or gone.
pub fn callback_disabled(reason: &'static str) {
    add(METERS.callbacks_disabled.as_ref(), &[reason], 1);
}

/// All metrics in Prometheus' text format, version 0.0.4.
///
/// # Errors
/// What the encoder says of a faulty metric.
pub fn render() -> prometheus::Result<String> {
    TextEncoder::new().encode_to_string(&METERS.registry.gather())
}

#[cfg(test)]
mod tests {
    use super::list::Kind::{Counter, Gauge};
    use super::*;

    #[test]
    fn every_metric_is_recorded_by_its_function_and_rendered() {
        let second = Duration::from_secs(1);
        intake_accepted("webhook");
        intake_duplicate("webhook");
        intake_sighting();
        intake_rejected("webhook", "invalid_json");
        intake_duration("webhook", second);
        job_ended("unit-test", "succeeded", Some(second));
        step_ran("unit-test", "validate", "succeeded", second);
        step_failed("unit-test", "validate", "ours", "internal_error");
        clinical_fetch("found", second);
        watcher_hint("sweep", "taken_up");
        upload_refused("upload_cancelled");
        upload_taken_up("sweep", second);
        watcher_swept("complete", second);
        http_request("/unit-test", "BREW", 200, second);
        audit_sealed(1);
        audit_published("done");
        audit_state("sealing", 1.0, 1.0, 1.0);
        connection_refused("idle");
        request_limited("rate_limited");
        trace_spans("exported", 1);
        lease_reaped("parked");
        callback_disabled("gone");
        erasures_late(1);
        process_gauges(Pool { busy: 1, idle: 1, max: 2 }, Some(&std::env::temp_dir()));
        let seconds = 1.0;
        database_up();
        queue_gauges(&Queue {
            tasks: [("ready", 1)].to_vec(),
            oldest_ready_seconds: seconds,
            oldest_blocked_seconds: seconds,
            lanes_held: 1,
            leases_expired: 1,
        });
        around_gauges(&Around {
            workers: 1,
            operations: 1,
            callback_messages: 1,
            oldest_callback_message_seconds: seconds,
        });
        auth_refused("unknown_key");
        jwks_fetched("ok");
        let text = render().unwrap();
        for metric in METRICS {
            let kind = match metric.kind {
                Counter => "counter",
                Gauge => "gauge",
                Histogram(_) => "histogram",
            };
            assert!(text.contains(&format!("# HELP {} ", metric.name)), "{text}");
            assert!(text.contains(&format!("# TYPE {} {kind}\n", metric.name)), "{text}");
            let suffix = if matches!(metric.kind, Histogram(_)) { "_count" } else { "" };
            let start = format!("{}{suffix}", metric.name);
            let sample = text.lines().filter(|line| line.starts_with(&start)).find(|line| !line.ends_with(" 0"));
            let sample = sample.unwrap_or_else(|| panic!("{} was never counted", metric.name));
            for label in metric.labels {
                assert!(sample.contains(&format!("{label}=\"")), "{sample}");
            }
            assert!(metric.name.ends_with("_total") == (metric.kind == Counter), "{}", metric.name);
        }
        assert!(text.contains(
            r#"chartgate_http_request_duration_seconds_count{method="other",route="/unit-test",status="2xx"} 1"#
        ));
    }
}
