//! What operators see: [`metrics`], logs and [`traces`].
//!
//! Logs are readable text or JSON lines on standard error. Their spans: `request` (id, method, route template, trace id) around
//! every HTTP request; `step` (job, step, attempt, trace id; level debug, since there are five a job) around every attempt of a
//! step. [`traces`] are another thing: spans for a collector, off unless one is configured.
//!
//! No line holds a clinical value. `telemetry.log_level` is the level of our own lines: what libraries say below `warn`
//! may quote what they work on (statements, URLs, headers, bodies), so that they speak up from there only, whatever the
//! level is. Messages of panics may quote a body, too ([`quiet_panics`]), and a core dump is the memory itself
//! ([`forbid_core_dumps`]).

pub mod metrics;
pub mod traces;

pub use metrics::{
    audit_published, audit_sealed, audit_state, auth_refused, callback_disabled, clinical_fetch, connection_refused,
    erasures_late, http_request, intake_accepted, intake_duplicate, intake_duration, intake_rejected, intake_sighting,
    job_ended, jwks_fetched, lease_reaped, request_limited, step_failed, step_ran, upload_refused, upload_taken_up,
    watcher_hint, watcher_swept,
};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The id of the request at hand, which the edge puts among its extensions for whoever answers it.
#[derive(Debug, Clone)]
pub struct RequestTag(pub String);

/// What is logged at this level, or by a filter of tracing's (`warn,chartgate::queue=trace`), of which the parts that
/// name a target of ours count, and the first level that stands alone.
fn filter(level: &str) -> EnvFilter {
    let parts = || level.split(',').map(str::trim).filter(|part| !part.is_empty());
    let of_ours = parts().filter(|part| part.starts_with("chartgate"));
    let plain: LevelFilter = parts().find_map(|part| part.parse().ok()).unwrap_or(LevelFilter::INFO);
    // sqlx tells slow statements at `warn`; s3s may quote what it could not parse.
    let libraries = plain.min(LevelFilter::WARN);
    let mut directives = format!("{libraries},chartgate={plain},sqlx=off,s3s=off");
    for part in of_ours {
        directives.push(',');
        directives.push_str(part);
    }
    EnvFilter::try_new(&directives).unwrap_or_else(|_| EnvFilter::new("warn,chartgate=info,sqlx=off,s3s=off"))
}

/// From here on a panic says where it happened and in which thread, and not its message, which may quote what the code
/// worked on (`byte index 5 is not a char boundary; it is inside 'é' of …`). Called once by the binary; tests keep the
/// messages.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(
            place,
            thread = thread.name().unwrap_or_default(),
            "the program panicked at {place}; this is a bug (its message is not shown, because it may quote data)"
        );
    }));
}

/// From here on neither this process nor one that it starts leaves a core dump: it would hold every body at hand.
/// The limit keeps files from being written, the mark keeps the kernel from piping the memory to a program.
pub fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    if none.is_err() || set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        tracing::warn!("core dumps could not be switched off: a crash may write memory with clinical data to disk");
    }
}

/// Start logging. Called once by the binary.
pub fn start(level: &str, json: bool) {
    metrics::begin();
    let filter = filter(level);
    let colors = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colors);
    // A second start (tests) keeps the first.
    let _ = if json {
        logs.json().flatten_event(true).with_span_list(false).try_init()
    } else {
        logs.with_target(false).compact().try_init()
    };
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn libraries_speak_up_from_warn_only_whatever_is_asked_for() {
        for (asked, ours, libraries) in [
            ("trace", "chartgate=trace", "warn"),
            ("error", "chartgate=error", "error"),
            ("", "chartgate=info", "warn"),
            ("nonsense", "chartgate=info", "warn"),
            ("debug,hyper=trace,sqlx=trace,s3s=trace", "chartgate=debug", "warn"),
        ] {
            let shown = filter(asked).to_string();
            let parts: Vec<&str> = shown.split(',').collect();
            assert!(parts.contains(&ours) && parts.contains(&libraries), "{asked}: {shown}");
            assert!(parts.contains(&"sqlx=off") && parts.contains(&"s3s=off"), "{asked}: {shown}");
            assert_eq!(parts.len(), 4, "{asked}: {shown}");
        }
        assert!(filter("info,chartgate::queue=trace").to_string().contains("chartgate::queue=trace"));
    }
}
