//! What operators see: [`metrics`], and logs.
//!
//! Logs are readable text or JSON lines on standard error. Spans: `request` (id, method, route template) around every HTTP
//! request; `step` (job, step, attempt; level debug, since there are five a job) around every attempt of a step. sqlx's own statement logging stays off at every level, since it
//! could show values.

pub mod metrics;

pub use metrics::{
    audit_published, audit_sealed, audit_state, clinical_fetch, http_request, intake_accepted, intake_duplicate,
    intake_duration, intake_rejected, intake_sighting, job_ended, step_failed, step_ran, upload_refused,
    upload_taken_up, watcher_hint, watcher_swept,
};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Start logging. Called once by the binary.
pub fn start(level: &str, json: bool) {
    // By the beginning of their names: all crates of the AWS SDK, whose traces hold keys of objects that others named.
    let directives = format!("{level},sqlx=off,hyper=info,h2=info,rustls=info,aws=warn,s3s=off");
    let filter = EnvFilter::try_new(&directives).unwrap_or_else(|_| EnvFilter::new("info,sqlx=off"));
    let colors = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colors);
    // A second start (tests) keeps the first.
    let _ =
        if json { logs.json().flatten_event(true).try_init() } else { logs.with_target(false).compact().try_init() };
}
