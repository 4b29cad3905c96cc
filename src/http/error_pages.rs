//! The pages of `docs/errors/`, inside the binary: every code that an answer or a job can carry, explained where the
//! answer's `type` points to.

macro_rules! pages {
    ($($code:literal),+ $(,)?) => {
        /// Code and page, by code.
        pub const PAGES: &[(&str, &str)] = &[$(($code, include_str!(concat!("../../docs/errors/", $code, ".md")))),+];
    };
}

pages!(
    "database_conflict",
    "database_refused",
    "database_unavailable",
    "duplicate_key",
    "empty_body",
    "empty_bundle",
    "entry_without_resource",
    "entry_without_resource_type",
    "event_not_found",
    "finding_not_found",
    "forbidden",
    "handler_panicked",
    "handler_unknown",
    "idempotency_key_reused",
    "incomplete_body",
    "internal_error",
    "invalid_event",
    "invalid_gzip",
    "invalid_idempotency_key",
    "invalid_json",
    "invalid_parameter",
    "invalid_params",
    "invalid_request",
    "invalid_string",
    "invalid_utf8",
    "job_is_terminal",
    "job_not_finished",
    "job_not_found",
    "key_not_found",
    "lease_lost",
    "method_not_allowed",
    "not_a_bundle",
    "not_found",
    "object_not_there",
    "object_store_denied",
    "object_store_unavailable",
    "operation_not_found",
    "organization_exists",
    "organization_not_found",
    "overloaded",
    "patient_merged",
    "patient_not_found",
    "payload_corrupt",
    "payload_missing",
    "payload_not_a_bundle",
    "payload_not_an_event",
    "payload_not_found",
    "payload_too_large",
    "request_timeout",
    "review_decided",
    "review_not_found",
    "step_panicked",
    "step_timeout",
    "step_unknown",
    "too_deep",
    "too_many_entries",
    "too_many_uploads",
    "unauthenticated",
    "unsupported_bundle_type",
    "unsupported_content_encoding",
    "unsupported_media_type",
    "validation_failed",
    "worker_killed",
    "workflow_unknown",
);

/// The page of a code.
#[must_use]
pub fn page(code: &str) -> Option<&'static str> {
    PAGES.binary_search_by_key(&code, |(known, _)| known).ok().and_then(|index| PAGES.get(index)).map(|(_, page)| *page)
}
