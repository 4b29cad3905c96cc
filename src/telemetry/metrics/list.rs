//! What the metrics are: name, kind, labels and a sentence each. `docs/operations.md` lists the same.

use Kind::{Counter, Gauge, Histogram};

/// What a metric does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down; set when somebody asks.
    Gauge,
    /// Counts durations by these upper bounds, in seconds.
    Histogram(&'static [f64]),
}

/// One metric as it is described.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// With the prefix of the program and, last, the unit.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

const fn metric(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, labels, help }
}

/// An answer: from half a millisecond to ten seconds.
const ANSWER: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// A job's way: from milliseconds to the days that a dependency may be away.
const WAY: &[f64] = &[
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 14_400.0, 86_400.0,
];

pub(super) const ACCEPTED: Metric =
    metric("chartgate_intake_accepted_total", Counter, &["source"], "Submissions that became a job.");
pub(super) const DUPLICATES: Metric = metric(
    "chartgate_intake_duplicates_total",
    Counter,
    &["source"],
    "Submissions that were answered with the first job of the same content.",
);
pub(super) const SIGHTINGS: Metric = metric(
    "chartgate_intake_sightings_total",
    Counter,
    &[],
    "Athena events that were known already and seen again with another time.",
);
pub(super) const REJECTED: Metric = metric(
    "chartgate_intake_rejected_total",
    Counter,
    &["source", "code"],
    "Submissions of known callers that were answered with an error, by its code.",
);
pub(super) const INTAKE_DURATION: Metric = metric(
    "chartgate_intake_duration_seconds",
    Histogram(ANSWER),
    &["source"],
    "From a submission's headers to its 202, duplicates included.",
);
pub(super) const JOBS_ENDED: Metric = metric(
    "chartgate_jobs_ended_total",
    Counter,
    &["workflow", "status"],
    "Rounds of jobs that workers of this process brought to an end, by status.",
);
pub(super) const JOB_LAG: Metric = metric(
    "chartgate_job_lag_seconds",
    Histogram(WAY),
    &["workflow"],
    "From acceptance (or retry) to the end of the round.",
);
pub(super) const STEP_DURATION: Metric = metric(
    "chartgate_step_duration_seconds",
    Histogram(ANSWER),
    &["workflow", "step", "outcome"],
    "One attempt of a step with its commit; succeeded, retried, failed or stale (the lease was lost).",
);
pub(super) const STEPS_FAILED: Metric = metric(
    "chartgate_steps_failed_total",
    Counter,
    &["workflow", "step", "class", "code"],
    "Attempts that failed, those that are tried again included, by error code.",
);
pub(super) const FETCHES: Metric = metric(
    "chartgate_clinical_fetches_total",
    Counter,
    &["status"],
    "Reads of the clinical view: found, not_found or ambiguous.",
);
pub(super) const FETCH_DURATION: Metric = metric(
    "chartgate_clinical_fetch_duration_seconds",
    Histogram(ANSWER),
    &["status"],
    "From a clinical read's headers to its answer.",
);
pub(super) const HINTS: Metric = metric(
    "chartgate_watcher_hints_total",
    Counter,
    &["hint", "outcome"],
    "Objects that the watcher looked at, by what told of them and what became of it.",
);
pub(super) const REFUSED: Metric =
    metric("chartgate_uploads_refused_total", Counter, &["reason"], "Objects below incoming/ that became no job's.");
pub(super) const UPLOAD_LAG: Metric = metric(
    "chartgate_upload_lag_seconds",
    Histogram(WAY),
    &["hint"],
    "From an object's last modification to its place in the queue.",
);
pub(super) const SWEEP_DURATION: Metric = metric(
    "chartgate_sweep_duration_seconds",
    Histogram(WAY),
    &["outcome"],
    "One sweep of incoming/: complete, partial (an object could not be looked at) or failed.",
);
pub(super) const AUTH_REFUSED: Metric = metric(
    "chartgate_auth_refused_total",
    Counter,
    &["reason"],
    "Requests that were answered with 401, by what they were not told.",
);
pub(super) const JWKS_FETCHES: Metric =
    metric("chartgate_jwks_fetches_total", Counter, &["outcome"], "Fetches of issuers' keys: ok or failed.");
pub(super) const HTTP_DURATION: Metric = metric(
    "chartgate_http_request_duration_seconds",
    Histogram(ANSWER),
    &["route", "method", "status"],
    "HTTP requests by route template, method and class of status (2xx, …).",
);
pub(super) const AUDIT_SEALED: Metric =
    metric("chartgate_audit_sealed_total", Counter, &[], "Audit records that this process sealed.");
pub(super) const AUDIT_PUBLISHED: Metric = metric(
    "chartgate_audit_publications_total",
    Counter,
    &["outcome"],
    "Attempts to put signed checkpoints into the object store: done or failed.",
);
pub(super) const AUDIT_UNSEALED_AGE: Metric = metric(
    "chartgate_audit_unsealed_age_seconds",
    Gauge,
    &[],
    "Every audit record older than this is sealed; as the sealer last said.",
);
pub(super) const AUDIT_UNSEALED: Metric =
    metric("chartgate_audit_unsealed_records", Gauge, &[], "Audit records that are not sealed yet, about.");
pub(super) const AUDIT_UNPUBLISHED: Metric = metric(
    "chartgate_audit_unpublished_checkpoints",
    Gauge,
    &[],
    "Signed checkpoints that are not in the object store yet.",
);
pub(super) const AUDIT_STATE: Metric = metric(
    "chartgate_audit_sealer_state",
    Gauge,
    &["state"],
    "1 for what the sealer last said of itself: sealing, or what stands in its way.",
);

pub(super) const CONNECTIONS_REFUSED: Metric = metric(
    "chartgate_connections_refused_total",
    Counter,
    &["reason"],
    "Connections that were closed: one too many of their address, idle while others came, or without a TLS handshake.",
);
pub(super) const REQUESTS_LIMITED: Metric =
    metric("chartgate_requests_limited_total", Counter, &["code"], "Requests that a limit refused, by error code.");

pub(super) const TRACE_SPANS: Metric = metric(
    "chartgate_trace_spans_total",
    Counter,
    &["outcome"],
    "Spans for the collector: exported, failed (it did not take them) or dropped (too many waited).",
);

pub(super) const BUILD: Metric =
    metric("chartgate_build_info", Gauge, &["version"], "1 for the version of the program.");
pub(super) const STARTED: Metric =
    metric("chartgate_process_start_time_seconds", Gauge, &[], "When the process was started, in seconds since 1970.");
pub(super) const RESIDENT: Metric =
    metric("chartgate_process_resident_memory_bytes", Gauge, &[], "Memory of the process that is in RAM.");
pub(super) const DISK_FREE: Metric = metric(
    "chartgate_data_directory_free_bytes",
    Gauge,
    &[],
    "Room on the file system of the data directory; only where servers are embedded.",
);
pub(super) const DISK_SIZE: Metric = metric(
    "chartgate_data_directory_size_bytes",
    Gauge,
    &[],
    "Size of the file system of the data directory; only where servers are embedded.",
);
pub(super) const POOL: Metric = metric(
    "chartgate_database_connections",
    Gauge,
    &["state"],
    "Pooled connections of the process: busy, idle, and max, which they may be.",
);
pub(super) const DATABASE_UP: Metric =
    metric("chartgate_database_up", Gauge, &[], "1 if the database answered this scrape.");
pub(super) const TASKS: Metric = metric(
    "chartgate_queue_tasks",
    Gauge,
    &["state"],
    "Rows of the queue, jobs and chunks, of all organizations and processes, by state.",
);
pub(super) const OLDEST_READY: Metric = metric(
    "chartgate_queue_oldest_ready_seconds",
    Gauge,
    &[],
    "Since the oldest row entered the queue that a worker may claim and none ever did, of organizations that are not paused; 0 without any.",
);
pub(super) const OLDEST_BLOCKED: Metric = metric(
    "chartgate_queue_oldest_blocked_seconds",
    Gauge,
    &[],
    "Since the oldest row entered the queue that is next behind one in backoff, or one whose worker died, of its lane; 0 without any.",
);
pub(super) const LANES_HELD: Metric = metric(
    "chartgate_lanes_held",
    Gauge,
    &[],
    "Lanes in which jobs wait for one that is retried later, or whose worker died; at most 20,000.",
);
pub(super) const LEASES_EXPIRED: Metric = metric(
    "chartgate_leases_expired",
    Gauge,
    &[],
    "Leases that ran out more than 30 s ago and were not taken back: no sweeper runs.",
);
pub(super) const WORKERS: Metric =
    metric("chartgate_workers", Gauge, &[], "Processes that run jobs or sweep and reported within a minute.");
pub(super) const OPERATIONS: Metric =
    metric("chartgate_operations_running", Gauge, &[], "Bulk operations that are under way.");
pub(super) const ERASURES_LATE: Metric = metric(
    "chartgate_erasures_late",
    Gauge,
    &[],
    "Erasures that are not finished an hour behind their decision, as the last sweep saw them.",
);
pub(super) const MESSAGES: Metric = metric(
    "chartgate_callback_messages_waiting",
    Gauge,
    &[],
    "Messages of active callbacks that are neither delivered nor given up.",
);
pub(super) const OLDEST_MESSAGE: Metric = metric(
    "chartgate_callback_oldest_message_seconds",
    Gauge,
    &[],
    "Since the oldest of these messages was written; 0 without any.",
);
pub(super) const LEASES_REAPED: Metric = metric(
    "chartgate_leases_reaped_total",
    Counter,
    &["outcome"],
    "Leases of dead workers that sweepers of this process took back: retried, or parked after the third death.",
);
pub(super) const CALLBACKS_DISABLED: Metric = metric(
    "chartgate_callbacks_disabled_total",
    Counter,
    &["reason"],
    "Callbacks that this process disabled: failing for days, or gone (their receiver answered 410).",
);

/// All metrics.
pub const METRICS: &[Metric] = &[
    ACCEPTED,
    DUPLICATES,
    SIGHTINGS,
    REJECTED,
    INTAKE_DURATION,
    JOBS_ENDED,
    JOB_LAG,
    STEP_DURATION,
    STEPS_FAILED,
    FETCHES,
    FETCH_DURATION,
    HINTS,
    REFUSED,
    UPLOAD_LAG,
    SWEEP_DURATION,
    AUTH_REFUSED,
    JWKS_FETCHES,
    HTTP_DURATION,
    AUDIT_SEALED,
    AUDIT_PUBLISHED,
    AUDIT_UNSEALED_AGE,
    AUDIT_UNSEALED,
    AUDIT_UNPUBLISHED,
    AUDIT_STATE,
    CONNECTIONS_REFUSED,
    REQUESTS_LIMITED,
    TRACE_SPANS,
    BUILD,
    STARTED,
    RESIDENT,
    DISK_FREE,
    DISK_SIZE,
    POOL,
    DATABASE_UP,
    TASKS,
    OLDEST_READY,
    OLDEST_BLOCKED,
    LANES_HELD,
    LEASES_EXPIRED,
    WORKERS,
    OPERATIONS,
    ERASURES_LATE,
    MESSAGES,
    OLDEST_MESSAGE,
    LEASES_REAPED,
    CALLBACKS_DISABLED,
];
