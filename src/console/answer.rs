//! What leaves the console: every answer's headers, and refusals as pages.

use super::page;
use crate::auth::denials::Denied;
use crate::db::DbError;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::Markup;

/// Nothing but our own files, no inline script or style, no frame around it (CSP Level 3).
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: &[(&str, &str)] = &[
    ("content-security-policy", POLICY),
    // Pages of one's organization are for nobody else, nor for the "back" button after logging out.
    ("cache-control", "no-store"),
    ("referrer-policy", "same-origin"),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// A page with its headers.
pub(super) fn html(status: StatusCode, markup: Markup) -> Response {
    let mut response = (status, axum::response::Html(markup.into_string())).into_response();
    for &(name, value) in HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Why there is no page.
#[derive(Debug)]
pub(super) enum Refused {
    /// Nobody is logged in (any more): to the login page, and back to this path afterwards.
    NotLoggedIn {
        /// Path and query that were asked for; none for an act.
        wanted: Option<String>,
    },
    /// The role or the origin does not allow it.
    Forbidden {
        /// What is said of it.
        detail: &'static str,
        /// For the audit record.
        denied: Box<Denied>,
    },
    /// There is no such thing, or it is another organization's.
    NotFound(&'static str),
    /// What was asked for or posted cannot be.
    Invalid(String),
    /// The state of things does not allow it.
    Conflict(String),
    /// The form did not come in time.
    TooSlow,
    /// There is no place for it now.
    Later {
        /// Why.
        detail: &'static str,
        /// When it may be tried again.
        seconds: u64,
    },
    /// The database.
    Db(DbError),
}

impl From<DbError> for Refused {
    fn from(error: DbError) -> Self {
        Self::Db(error)
    }
}

fn refusal(status: StatusCode, title: &str, detail: &str) -> Response {
    html(status, page::bare(title, &page::refusal(title, detail)))
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut retry_after = None;
        let (status, title, detail) = match self {
            Self::NotLoggedIn { wanted } => return Redirect::to(&login_for(wanted.as_deref())).into_response(),
            Self::Forbidden { detail, denied } => {
                let mut response = refusal(StatusCode::FORBIDDEN, "Not allowed", detail);
                response.extensions_mut().insert(*denied);
                return response;
            }
            Self::NotFound(detail) => (StatusCode::NOT_FOUND, "Not found", detail.to_owned()),
            Self::Invalid(detail) => (StatusCode::BAD_REQUEST, "Not understood", detail),
            Self::Conflict(detail) => (StatusCode::CONFLICT, "Not possible now", detail),
            Self::TooSlow => {
                let detail = "The form did not come in time. Nothing was changed; try again.".to_owned();
                (StatusCode::REQUEST_TIMEOUT, "Too slow", detail)
            }
            Self::Later { detail, seconds } => {
                retry_after = Some(HeaderValue::from(seconds));
                (StatusCode::SERVICE_UNAVAILABLE, "Not now", detail.to_owned())
            }
            Self::Db(error) => {
                tracing::error!(error = %error, "a page of the console could not be made");
                let detail = "The database did not answer as expected. Nothing was changed; try again.".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, "Not available", detail)
            }
        };
        let mut response = refusal(status, title, &detail);
        if let Some(after) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
        response
    }
}

/// The login page's address, with the way back.
pub(super) fn login_for(wanted: Option<&str>) -> String {
    let query: Option<String> = wanted
        .filter(|wanted| is_ours(wanted))
        .map(|wanted| url::form_urlencoded::Serializer::new(String::new()).append_pair("next", wanted).finish());
    query.map_or_else(|| "/admin/login".to_owned(), |query| format!("/admin/login?{query}"))
}

/// A path of the console itself: nothing that a browser would take for another host.
pub(super) fn is_ours(path: &str) -> bool {
    path.strip_prefix("/admin").is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
        && path.len() <= 2_000
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_after_logging_in_never_leads_to_another_host() {
        for good in ["/admin", "/admin/jobs?status=failed&cursor=job_1", "/admin?x=1"] {
            assert!(is_ours(good), "{good}");
        }
        for bad in [
            "//evil.example",
            "/admin.evil",
            "https://evil.example/admin",
            "/\\evil",
            "/admin/\\x",
            "/adminx",
            "",
            "/admin/a b",
        ] {
            assert!(!is_ours(bad), "{bad}");
            assert_eq!(login_for(Some(bad)), "/admin/login");
        }
    }
}
