//! The span of a request (docs/traces.md).

use crate::telemetry::traces;
use axum::body::Body;
use axum::extract::Request;

/// Asked every few seconds by machines: nobody looks for them among traces.
const UNTRACED: &[&str] = &["/health/live", "/health/ready", "/ingest/health", "/metrics"];

/// A request comes in on a route. None while traces are off, and for what only watches us.
pub(super) fn begin(request: &Request<Body>, route: &str) -> Option<traces::Request> {
    if !traces::are_on() || UNTRACED.contains(&route) {
        return None;
    }
    let mut values = request.headers().get_all("traceparent").iter();
    // Two of them: of none is known whose it is (Trace Context, section 3.3.1).
    let given = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    };
    traces::Request::begin(given)
}
