//! Errors as RFC 9457 problem documents, or as a FHIR OperationOutcome for callers that ask for `application/fhir+json`.
//!
//! [`CODES`] is the list of all codes that HTTP answers carry; each has a page in `docs/errors/`. Nothing in a problem
//! echoes a value from a payload, and a 5xx says only its code and the request's id.

mod codes;

pub use codes::{CODES, Code};

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
        if error.may_pass() {
            tracing::warn!(error = ?error, "the database is not available to a request");
            Self::new("database_unavailable", "The database is not available.").retry_after(Duration::from_secs(2))
        } else {
            tracing::error!(error = ?error, "a request failed in the database");
            Self::new("internal_error", "An internal error.")
        }
    }
}
