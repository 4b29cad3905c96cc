//! Errors as RFC 9457 problem documents, or as a FHIR OperationOutcome for callers that ask for `application/fhir+json`.
//!
//! [`CODES`] is the list of all codes that HTTP answers carry; each has a page in `docs/errors/`. Nothing in a problem
//! echoes a value from a payload, and a 5xx says only its code and the request's id.

use crate::audit::Actor;
use crate::auth::{AuthError, Refusal};
use crate::db::DbError;
use crate::ids::OrganizationId;
use crate::limits::pressure::Full;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

/// One code: status, title, whether a repetition may help, and what to do.
#[derive(Debug, Clone, Copy)]
pub struct Code {
    /// Stable, `snake_case`.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Short summary of the kind of problem.
    pub title: &'static str,
    /// The same request may succeed later.
    pub retryable: bool,
    /// What the caller should do.
    pub action: &'static str,
}

const fn code(code: &'static str, status: u16, title: &'static str, retryable: bool, action: &'static str) -> Code {
    Code { code, status, title, retryable, action }
}

/// All codes of HTTP answers.
pub const CODES: &[Code] = &[
    code(
        "unauthenticated",
        401,
        "No valid credentials",
        false,
        "Send `Authorization: Bearer <API key or token>` that is neither expired nor revoked, or sign the webhook.",
    ),
    code(
        "forbidden",
        403,
        "The key's role does not allow this",
        false,
        "Use a key with the role that the API description names for this route.",
    ),
    code("not_found", 404, "No such route", false, "See the list of routes at /openapi.json."),
    code("method_not_allowed", 405, "The route does not know this method", false, "Use a method of the Allow header."),
    code(
        "job_not_found",
        404,
        "No such job",
        false,
        "Check the id, and that the key belongs to the job's organization.",
    ),
    code("outcomes_not_found", 404, "The job has no outcome file", false, "Ask once the upload's job has ended."),
    code(
        "payload_not_found",
        404,
        "No such payload",
        false,
        "Check the hash, and that the key belongs to the payload's organization.",
    ),
    code(
        "payload_purged",
        410,
        "The payload was erased",
        false,
        "Its content is gone for good, and the same bytes are not taken again.",
    ),
    code(
        "legal_hold",
        409,
        "A legal hold forbids it",
        false,
        "See GET /v1/admin/holds; an administrator lifts the hold when its reason has ended.",
    ),
    code("hold_not_found", 404, "No such legal hold", false, "See GET /v1/admin/holds."),
    code(
        "finding_not_found",
        404,
        "No such finding",
        false,
        "Check the id, and that the key belongs to the finding's organization.",
    ),
    code(
        "organization_not_found",
        404,
        "No such organization",
        false,
        "List the organizations; use the id or the exact name.",
    ),
    code("key_not_found", 404, "No such key", false, "List the keys; use the part between the first two underscores."),
    code(
        "webhook_secret_not_found",
        404,
        "No such webhook secret",
        false,
        "List the secrets; use an `id` of the list.",
    ),
    code(
        "issuer_unavailable",
        503,
        "The token cannot be checked now",
        true,
        "Send it again after the time in Retry-After: the keys of its issuer could not be fetched.",
    ),
    code("operation_not_found", 404, "No such operation", false, "Check the id."),
    code(
        "unsupported_media_type",
        415,
        "The media type is not accepted here",
        false,
        "Send `Content-Type: application/fhir+json` or `application/json`.",
    ),
    code(
        "unsupported_content_encoding",
        415,
        "The content encoding is not accepted here",
        false,
        "Send the body as it is, or with `Content-Encoding: gzip`.",
    ),
    code(
        "payload_too_large",
        413,
        "The body is over the limit",
        false,
        "Ask POST /v1/ingestion/upload-url for a presigned URL and upload the file there.",
    ),
    code(
        "request_timeout",
        408,
        "The body did not arrive in time",
        true,
        "Send it again over a faster connection, or upload it through POST /v1/ingestion/upload-url.",
    ),
    code(
        "invalid_gzip",
        400,
        "The body is not valid gzip",
        false,
        "Compress the body again, or send it without Content-Encoding.",
    ),
    code("incomplete_body", 400, "The body ended early", true, "Send the whole body."),
    code(
        "invalid_idempotency_key",
        400,
        "The idempotency key is not acceptable",
        false,
        "Use 1 to 255 visible ASCII characters.",
    ),
    code(
        "idempotency_key_reused",
        422,
        "The idempotency key belongs to other content",
        false,
        "Use a new Idempotency-Key for new content; repeat a request only with the same bytes.",
    ),
    code("empty_body", 400, "The body is empty", false, "Send a FHIR Bundle."),
    code("invalid_utf8", 400, "The body is not UTF-8", false, "Encode the body as UTF-8."),
    code("invalid_json", 400, "The body is not JSON", false, "Mend the JSON at the stated place."),
    code("too_deep", 400, "The JSON is nested too deeply", false, "Nest no deeper than 128 levels."),
    code(
        "invalid_string",
        400,
        "A string holds a character that cannot be stored",
        false,
        "Remove \\u0000 and lone surrogates.",
    ),
    code("duplicate_key", 400, "A key is there twice", false, "Give each key of the Bundle and of an entry once."),
    code(
        "invalid_event",
        400,
        "The Athena event is not acceptable",
        false,
        "Correct the named member: patient id, type and payload are needed.",
    ),
    code(
        "not_a_bundle",
        400,
        "The body is not a FHIR Bundle",
        false,
        "Wrap the resources in a Bundle; its resourceType must be \"Bundle\".",
    ),
    code(
        "unsupported_bundle_type",
        400,
        "The Bundle's type is not accepted",
        false,
        "Use a Bundle of type transaction, batch, collection or message.",
    ),
    code("empty_bundle", 400, "The Bundle has no entry", false, "Send at least one entry."),
    code("entry_without_resource", 400, "An entry has no resource", false, "Give each entry a resource."),
    code(
        "entry_without_resource_type",
        400,
        "A resource has no resourceType",
        false,
        "Give each resource its resourceType.",
    ),
    code(
        "too_many_entries",
        400,
        "The Bundle has too many entries",
        false,
        "Send smaller Bundles, or NDJSON through POST /v1/ingestion/upload-url.",
    ),
    code("invalid_parameter", 400, "A parameter is not acceptable", false, "Correct the named parameter."),
    code("invalid_request", 400, "The request's body is not acceptable", false, "Correct the named member."),
    code(
        "job_is_terminal",
        409,
        "The job has ended",
        false,
        "A job that has ended cannot be cancelled; it can be retried.",
    ),
    code("job_not_finished", 409, "The job has not ended", true, "Wait for its end, or cancel it, before retrying it."),
    code(
        "event_not_found",
        404,
        "No such event",
        false,
        "Check the id, and that the key belongs to the event's organization.",
    ),
    code(
        "patient_merged",
        409,
        "The merge does not fit",
        false,
        "Look where the patient is now; unmerge it first, or merge the one it went into.",
    ),
    code(
        "patient_not_found",
        404,
        "No such patient",
        false,
        "Check the id, and that the key belongs to the patient's organization.",
    ),
    code(
        "review_decided",
        409,
        "The review is closed",
        false,
        "Read the review; take a decision back with unlink or unmerge.",
    ),
    code(
        "review_not_found",
        404,
        "No such review",
        false,
        "Check the id, and that the key belongs to the review's organization.",
    ),
    code(
        "object_not_there",
        409,
        "The object is not there",
        true,
        "PUT the file to the upload's URL first; then say that it is complete, or just follow the job.",
    ),
    code(
        "too_many_uploads",
        429,
        "Too many uploads wait for their object",
        true,
        "PUT the files that were announced, or wait until their URLs end; then ask for further URLs.",
    ),
    code(
        "callback_not_found",
        404,
        "No such callback",
        false,
        "List the callbacks; check that the key belongs to the callback's organization.",
    ),
    code(
        "callback_url_refused",
        400,
        "The callback's URL is not acceptable",
        false,
        "Use an https URL whose host has public addresses only, written plainly.",
    ),
    code(
        "too_many_callbacks",
        409,
        "The organization has as many callbacks as it may have",
        false,
        "Remove one that is not needed, or let one receiver pass its messages on.",
    ),
    code("organization_exists", 409, "The name is taken", false, "Choose another name."),
    code(
        "rate_limited",
        429,
        "Too many requests",
        true,
        "Send it again after the time in Retry-After; RateLimit says what is left.",
    ),
    code(
        "organization_queue_full",
        429,
        "As many of the organization's jobs wait as may",
        true,
        "Send it again after the time in Retry-After: by then enough of its jobs should have ended.",
    ),
    code(
        "queue_full",
        503,
        "As many jobs wait as may",
        true,
        "Send it again after the time in Retry-After: by then enough jobs should have ended.",
    ),
    code("overloaded", 503, "Too much is waiting", true, "Send it again after the time in Retry-After."),
    code(
        "database_unavailable",
        503,
        "The database is not available",
        true,
        "Send it again after the time in Retry-After; with the same bytes or the same Idempotency-Key nothing is taken twice.",
    ),
    code(
        "object_store_unavailable",
        503,
        "Object storage is not available",
        true,
        "Send it again after the time in Retry-After.",
    ),
    code(
        "internal_error",
        500,
        "Something went wrong on our side",
        true,
        "Send it again; if it stays, report the request id.",
    ),
];

/// A problem on its way to the caller; rendered by the edge, which knows the request's id and what the caller accepts.
#[derive(Clone)]
pub struct Problem(Box<Parts>);

#[derive(Clone)]
struct Parts {
    code: &'static Code,
    detail: String,
    expression: Option<String>,
    pointer: Option<String>,
    retry_after: Option<Duration>,
    allow: Option<HeaderValue>,
    denied: Option<Denied>,
    refusal: Option<Refusal>,
}

/// Who was denied something, for the audit record.
#[derive(Debug, Clone)]
pub struct Denied {
    /// The caller's; none for the platform role.
    pub organization: Option<OrganizationId>,
    /// The caller.
    pub actor: Actor,
}

/// The JSON form (RFC 9457, section 3, with our members).
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemDocument {
    /// The page that explains the code.
    #[serde(rename = "type")]
    pub type_: String,
    /// Short summary of the kind of problem.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// Stable code.
    pub code: String,
    /// The same request may succeed later.
    pub retryable: bool,
    /// What to do.
    pub action: String,
    /// The request's id, as in X-Request-Id.
    pub request_id: String,
    /// Repeats `detail`, for senders written against the older shape.
    pub error: String,
    /// FHIRPath of the place, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// JSON Pointer (RFC 6901) of the place, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

/// The FHIR form of a problem, as far as it is promised.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "describes what `operation_outcome` makes")]
pub struct OperationOutcome {
    /// Always `OperationOutcome`.
    resource_type: String,
    /// One or more.
    #[schema(min_items = 1)]
    issue: Vec<OutcomeIssue>,
}

/// An issue of an OperationOutcome.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what `operation_outcome` makes")]
pub struct OutcomeIssue {
    /// fatal, error, warning or information.
    severity: String,
    /// FHIR issue type.
    code: String,
    /// Request id and what to do.
    diagnostics: Option<String>,
    /// `FHIRPaths`.
    expression: Option<Vec<String>>,
}

impl Problem {
    /// A problem of a known code.
    ///
    /// # Panics
    /// If the code is not in [`CODES`]: all calls name literals, and `every_code_that_is_named_exists` walks them.
    #[must_use]
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        let fallback = || CODES.iter().find(|known| known.code == "internal_error");
        let Some(code) = CODES.iter().find(|known| known.code == code).or_else(fallback) else {
            unreachable!("internal_error is in CODES");
        };
        Self(Box::new(Parts {
            code,
            detail: detail.into(),
            expression: None,
            pointer: None,
            retry_after: None,
            allow: None,
            denied: None,
            refusal: None,
        }))
    }

    /// With the place in the body.
    #[must_use]
    pub fn at(mut self, expression: Option<String>, pointer: Option<String>) -> Self {
        self.0.expression = expression;
        self.0.pointer = pointer;
        self
    }

    /// With a Retry-After.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// With an Allow header.
    #[must_use]
    pub fn allow(mut self, allow: Option<HeaderValue>) -> Self {
        self.0.allow = allow;
        self
    }

    /// With the authenticated caller who was denied.
    #[must_use]
    pub fn denied(mut self, organization: Option<OrganizationId>, actor: Actor) -> Self {
        self.0.denied = Some(Denied { organization, actor });
        self
    }

    /// The authenticated caller who was denied, if there is one.
    #[must_use]
    pub fn denied_caller(&self) -> Option<&Denied> {
        self.0.denied.as_ref()
    }

    /// With what the caller is not told.
    #[must_use]
    pub fn because(mut self, refusal: Refusal) -> Self {
        self.0.refusal = Some(refusal);
        self
    }

    /// What the caller is not told.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.0.refusal
    }

    /// Its HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.0.code.status
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.code.code
    }

    /// A parameter that cannot be used.
    #[must_use]
    pub fn parameter(name: &str, expected: &str) -> Self {
        Self::new("invalid_parameter", format!("`{name}` must be {expected}."))
    }

    /// Render for a caller.
    #[must_use]
    pub fn render(&self, request_id: &str, wants_fhir: bool) -> Response {
        let status = StatusCode::from_u16(self.0.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (media_type, body) = if wants_fhir {
            ("application/fhir+json", self.operation_outcome(request_id))
        } else {
            ("application/problem+json", serde_json::to_vec(&self.document(request_id)).unwrap_or_default())
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        if let Some(after) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if let Some(allow) = &self.0.allow {
            headers.insert(header::ALLOW, allow.clone());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        (status, headers, body).into_response()
    }

    fn document(&self, request_id: &str) -> ProblemDocument {
        ProblemDocument {
            type_: format!("/docs/errors/{}", self.0.code.code),
            title: self.0.code.title.to_owned(),
            status: self.0.code.status,
            detail: self.0.detail.clone(),
            code: self.0.code.code.to_owned(),
            retryable: self.0.code.retryable,
            action: self.0.code.action.to_owned(),
            request_id: request_id.to_owned(),
            error: self.0.detail.clone(),
            expression: self.0.expression.clone(),
            pointer: self.0.pointer.clone(),
        }
    }

    fn operation_outcome(&self, request_id: &str) -> Vec<u8> {
        let issue_type = match self.0.code.status {
            401 => "login",
            403 => "forbidden",
            404 => "not-found",
            408 => "timeout",
            409 => "conflict",
            413 => "too-long",
            415 => "not-supported",
            422 => "duplicate",
            429 => "throttled",
            503 => "transient",
            500.. => "exception",
            _ => "structure",
        };
        let mut issue = json!({
            "severity": "error",
            "code": issue_type,
            "details": { "coding": [{ "system": "urn:chartgate:error-code", "code": self.0.code.code }], "text": self.0.detail },
            "diagnostics": format!("requestId {request_id}. {}", self.0.code.action),
        });
        if let Some(expression) = &self.0.expression {
            issue["expression"] = json!([expression]);
        }
        serde_json::to_vec(&json!({ "resourceType": "OperationOutcome", "issue": [issue] })).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    /// Carried to the edge in the response's extensions, which renders it; a handler never formats an error.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Refused(refusal) => {
                Self::new("unauthenticated", "The request has no valid credentials.").because(refusal)
            }
            AuthError::IssuerAway { retry_after } => {
                Self::new("issuer_unavailable", "The keys of the token's issuer cannot be fetched now.")
                    .retry_after(retry_after)
            }
            AuthError::Db(error) => error.into(),
        }
    }
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        let problem = if full.of_all {
            Self::new("queue_full", "As many jobs wait as may.")
        } else {
            Self::new("organization_queue_full", "As many of the organization's jobs wait as may.")
        };
        problem.retry_after(full.retry_after)
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        if error.is_transient() {
            tracing::warn!(error = ?error, "the database is not available to a request");
            Self::new("database_unavailable", "The database is not available.").retry_after(Duration::from_secs(2))
        } else {
            tracing::error!(error = ?error, "a request failed in the database");
            Self::new("internal_error", "An internal error.")
        }
    }
}
