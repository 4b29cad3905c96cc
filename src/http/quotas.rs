//! What a caller is told of its limits, and addresses that fail to authenticate too often.

use super::problem::Problem;
use crate::app::App;
use crate::limits::rates::Allowance;
use crate::telemetry;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use std::net::SocketAddr;
use std::time::Duration;

/// draft-ietf-httpapi-ratelimit-headers-10, section 3.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// Section 4.
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// `RateLimit-Policy` and `RateLimit`, where there is a limit.
pub fn say(allowance: Option<&Allowance>, headers: &mut HeaderMap) {
    let Some(Allowance { quota, window, remaining, reset }) = allowance else { return };
    let policy = HeaderValue::from_str(&format!("\"organization\";q={quota};w={window}"));
    let limit = HeaderValue::from_str(&format!("\"organization\";r={remaining};t={reset}"));
    if let (Ok(policy), Ok(limit)) = (policy, limit) {
        headers.insert(POLICY, policy);
        headers.insert(LIMIT, limit);
    }
}

/// A 401, or 429 when its address has failed too often. Good credentials from there are not touched: many senders may stand
/// behind one address. What is over the limit has no audit record, so that a flood does not fill the log; it is counted.
pub fn of_strangers(app: &App, problem: Problem, peer: Option<SocketAddr>) -> Problem {
    if problem.status() != 401 {
        return problem;
    }
    let Some(peer) = peer else { return problem };
    match app.limits.strangers.failed(peer.ip()) {
        Ok(()) => problem,
        Err(seconds) => {
            let detail = "Too many requests without valid credentials came from this address.";
            Problem::new("rate_limited", detail).retry_after(Duration::from_secs(seconds))
        }
    }
}

/// Count what a limit refused.
pub fn count(code: &'static str) {
    if ["rate_limited", "organization_queue_full", "queue_full", "overloaded"].contains(&code) {
        telemetry::request_limited(code);
    }
}
