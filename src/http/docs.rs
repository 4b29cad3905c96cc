//! The API description and the pages of the error codes, served by the program itself.

use super::error_pages;
use super::extract::Segment;
use super::problem::{Problem, ProblemDocument};
use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The OpenAPI 3.1 document, made from the routes themselves.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", operation_id = "openapi", responses((status = 200, description = "The description", body = Object)))]
pub async fn openapi() -> Response {
    axum::Json(super::description()).into_response()
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
