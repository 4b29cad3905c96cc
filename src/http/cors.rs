//! Calls from web pages and browser extensions (CORS, Fetch standard, section 3.2): which answers a page may read.
//!
//! A preflight says nothing about the caller, so it is answered for an origin that anybody allows; the real answer
//! carries the headers only if the caller's own organization, or the configuration, allows the origin. tower-http's
//! `CorsLayer` decides both before the handler runs, when the caller is not known yet; so this is ours.
//!
//! Credentials are API keys in a header that a page must put there itself, so `Allow-Credentials` is never said.

use super::extract::RequestContext;
use crate::app::App;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

const METHODS: &str = "GET, POST";
const REQUEST_HEADERS: &str =
    "Authorization, Content-Type, Content-Encoding, Idempotency-Key, If-None-Match, X-Request-Id";
const EXPOSED_HEADERS: &str = "Location, Retry-After, X-Request-Id, ETag, RateLimit, RateLimit-Policy";
/// A browser asks again after so many seconds.
const MAX_AGE: &str = "600";

/// What a request to a route for web pages says about its page.
pub struct Page {
    origin: Option<HeaderValue>,
    is_preflight: bool,
}

impl Page {
    /// None for routes that are not for pages: administration, health, the description.
    pub fn of(request: &Request<Body>, path: &str) -> Option<Self> {
        let is_administration = path == "/v1/admin" || path.starts_with("/v1/admin/");
        if is_administration || !(path.starts_with("/v1/") || path.starts_with("/ingest/")) {
            return None;
        }
        let origin = request.headers().get(header::ORIGIN).cloned();
        let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        Some(Self { is_preflight: origin.is_some() && asks && *request.method() == Method::OPTIONS, origin })
    }

    fn origin(&self) -> Option<&str> {
        self.origin.as_ref().and_then(|origin| origin.to_str().ok())
    }

    /// The answer to a preflight; none if the request is no preflight, or of an origin that nobody allows.
    pub async fn preflight(&self, app: &App) -> Option<Response> {
        let origin = self.origin().filter(|_| self.is_preflight)?;
        if !app.origins.is_allowed_somewhere(origin).await {
            return None;
        }
        let headers = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS)),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS)),
            (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE)),
        ];
        Some((StatusCode::NO_CONTENT, headers).into_response())
    }

    /// Let the page read the answer, if it may. An answer before anybody was identified (a preflight, a 401) says nothing
    /// of an organization: there it is enough that somebody allows the origin.
    pub async fn dress(&self, app: &App, context: &RequestContext, headers: &mut HeaderMap) {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        let (Some(value), Some(origin)) = (self.origin.clone(), self.origin()) else { return };
        let is_allowed = match context.caller.get() {
            Some(organization) => app.origins.is_allowed_for(origin, *organization).await,
            None => app.origins.is_allowed_somewhere(origin).await,
        };
        if is_allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, value);
            if !self.is_preflight {
                headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
            }
        }
    }
}
