//! Which error codes an operation can answer with: those of what it takes, and its own.

use crate::http::problem::CODES;
use utoipa::openapi::path::{Operation, ParameterIn};

/// Of whoever asks with a key.
const OF_CALLERS: &[&str] = &[
    "unauthenticated",
    "forbidden",
    "rate_limited",
    "issuer_unavailable",
    "database_unavailable",
    "database_conflict",
];
/// Of what has a body.
const OF_BODIES: &[&str] = &[
    "unsupported_media_type",
    "unsupported_content_encoding",
    "invalid_gzip",
    "invalid_utf8",
    "incomplete_body",
    "payload_too_large",
    "request_timeout",
    "invalid_json",
    "duplicate_key",
    "invalid_string",
    "too_deep",
    "overloaded",
];
/// Of what makes jobs.
const OF_SUBMISSIONS: &[&str] = &["organization_queue_full", "queue_full"];

/// What a path parameter of that name may not lead to.
const OF_PARAMETERS: &[(&str, &str)] = &[
    ("jobId", "job_not_found"),
    ("uploadId", "job_not_found"),
    ("callbackId", "callback_not_found"),
    ("findingId", "finding_not_found"),
    ("operationId", "operation_not_found"),
    ("organizationId", "organization_not_found"),
    ("reviewId", "review_not_found"),
    ("patientId", "patient_not_found"),
    ("eventId", "event_not_found"),
    ("keyId", "key_not_found"),
    ("secretId", "webhook_secret_not_found"),
    ("holdId", "hold_not_found"),
    ("sha256", "payload_not_found"),
    ("code", "not_found"),
];

/// What only these operations answer.
const OWN: &[(&str, &[&str])] = &[
    (
        "submitBundle",
        &[
            "empty_body",
            "not_a_bundle",
            "unsupported_bundle_type",
            "empty_bundle",
            "entry_without_resource",
            "entry_without_resource_type",
            "too_many_entries",
            "invalid_idempotency_key",
            "payload_purged",
            "idempotency_key_reused",
        ],
    ),
    ("submitEvent", &["empty_body", "invalid_event", "idempotency_key_reused"]),
    ("submitEvents", &["empty_body", "invalid_event", "invalid_request", "idempotency_key_reused"]),
    ("createUpload", &["invalid_request", "too_many_uploads", "object_store_unavailable"]),
    ("completeUpload", &["object_not_there", "object_store_unavailable"]),
    ("notifyObjects", &["invalid_request", "object_store_unavailable"]),
    ("cancelJob", &["job_is_terminal"]),
    ("getOutcomes", &["outcomes_not_found", "object_store_unavailable"]),
    ("getPayload", &["object_store_unavailable", "object_store_denied", "payload_purged", "payload_expired"]),
    ("getEvidence", &["object_store_unavailable"]),
    ("retryJob", &["job_not_finished", "invalid_request"]),
    ("stopOperation", &["operation_not_possible"]),
    ("resumeOperation", &["operation_not_possible"]),
    ("undoOperation", &["operation_not_possible"]),
    ("placeHold", &["payload_not_found", "patient_not_found"]),
    (
        "purge",
        &[
            "legal_hold",
            "payload_shared",
            "patient_not_found",
            "job_not_finished",
            "payload_not_found",
            "object_store_unavailable",
        ],
    ),
    ("resendCallbacks", &["job_not_finished", "callback_not_found"]),
    ("createOrganization", &["organization_exists", "invalid_request"]),
    ("createKey", &["organization_not_found", "invalid_request"]),
    ("rotateKey", &["invalid_request"]),
    ("putSettings", &["invalid_request"]),
    ("createWebhookSecret", &["invalid_request"]),
    ("createCallback", &["callback_url_refused", "too_many_callbacks", "invalid_request"]),
    ("changeCallback", &["callback_url_refused", "invalid_request"]),
    ("decideReview", &["review_decided", "patient_not_found", "patient_merged", "invalid_request"]),
    ("mergePatient", &["patient_merged", "invalid_request"]),
    ("unmergePatient", &["patient_merged", "invalid_request"]),
    ("linkEvent", &["patient_not_found", "patient_merged", "invalid_request"]),
    ("unlinkEvent", &["invalid_request"]),
    ("exportAudit", &["object_store_unavailable"]),
    ("verifyAudit", &["object_store_unavailable"]),
];

/// In the order of their statuses.
pub(super) fn codes_of(operation: &Operation) -> Vec<&'static str> {
    let mut named: Vec<&str> = vec!["internal_error"];
    if operation.security.is_some() {
        named.extend(OF_CALLERS);
    }
    if operation.request_body.is_some() {
        named.extend(OF_BODIES);
        named.push("invalid_request");
        let is_intake = operation.tags.iter().flatten().any(|tag| tag == "intake");
        named.extend(OF_SUBMISSIONS.iter().filter(|_| is_intake));
    }
    for parameter in operation.parameters.iter().flatten() {
        if matches!(parameter.parameter_in, ParameterIn::Query) {
            named.push("invalid_parameter");
        }
        named.extend(OF_PARAMETERS.iter().filter(|(name, _)| *name == parameter.name).map(|(_, code)| code));
    }
    let id = operation.operation_id.as_deref().unwrap_or_default();
    named.extend(OWN.iter().filter(|(own, _)| *own == id).flat_map(|(_, codes)| codes.iter()));
    // Those that there are, each once, as the list of codes has them.
    let mut codes: Vec<_> = CODES.iter().filter(|code| named.contains(&code.code)).collect();
    codes.sort_by_key(|code| code.status);
    codes.into_iter().map(|code| code.code).collect()
}
