//! The API description, readable as a page, and the pages of the error codes, served by the program itself.

mod page;

use super::error_pages;
use super::extract::Segment;
use super::problem::{Problem, ProblemDocument};
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use std::sync::LazyLock;

/// Nothing but our own style: no script, no form, no frame, nothing from elsewhere.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The description does not change while the program runs: neither it nor its page is made for each who asks.
static DESCRIPTION: LazyLock<Bytes> =
    LazyLock::new(|| Bytes::from(serde_json::to_vec(&super::description()).unwrap_or_default()));

/// The page of it.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let description = serde_json::to_value(super::description()).unwrap_or_default();
    page::render(&description)
});

/// The OpenAPI 3.1 document, made from the routes themselves.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", operation_id = "openapi", responses((status = 200, description = "The description", body = Object)))]
pub async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION.clone()).into_response()
}

/// The description as a page for people: no script, nothing from elsewhere.
#[utoipa::path(get, path = "/docs", tag = "operations", operation_id = "docs", responses((status = 200, description = "The page", body = String, content_type = "text/html")))]
pub async fn docs() -> Response {
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, PAGE.as_str()).into_response()
}

/// How that page looks, by day and by night.
#[utoipa::path(get, path = "/docs/style.css", tag = "operations", operation_id = "docsStyle", responses((status = 200, description = "The style", body = String, content_type = "text/css")))]
pub async fn style() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "public, max-age=3600")];
    (headers, include_str!("style.css")).into_response()
}

/// What an error code means and what to do about it.
#[utoipa::path(
    get, path = "/docs/errors/{code}", tag = "operations", operation_id = "errorPage", params(("code" = String, Path)),
    responses(
        (status = 200, description = "The page", body = String, content_type = "text/markdown"),
        (status = 404, description = "No such code", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn error_page(Segment(code): Segment) -> Result<Response, Problem> {
    let page = error_pages::page(&code).ok_or_else(|| Problem::new("not_found", "There is no such error code."))?;
    Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], page).into_response())
}
