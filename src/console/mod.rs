//! The administrators' web pages at `/admin`, rendered by the binary: what is wrong, why, and the acts that mend it.
//!
//! A request passes: `session` (who looks, in which organizations) → a page's handler → reads and acts of `engine`,
//! `ingest`, `audit` and `auth`, the same that the API calls → `page` (layout) → headers of `answer`. A page has a fixed
//! part and one that is shown live: `live` renders the same page again and again for a browser that watches it, and
//! sends the live part when it has changed. There is no script on the pages but `assets/console.js`, and nothing is
//! fetched from elsewhere; without the script every page works, only not by itself.
//!
//! | file | for |
//! |---|---|
//! | `session.rs`, `session_store.rs` | logging in with a key of the role admin or platform, cookies, who looks |
//! | `answer.rs` | the headers of every answer; refusals as pages |
//! | `page.rs`, `parts.rs` | the layout; parts that pages are composed of |
//! | `form.rs` | what is posted: origin, size, fields, the reason |
//! | `live.rs` | server-sent events |
//! | `overview.rs`, `overview_store.rs`, `chart.rs` | is all well? charts drawn as SVG |
//! | `assets.rs`, `assets/` | style sheet and script |

mod answer;
mod assets;
mod audit;
mod chart;
mod failures;
mod form;
mod job;
mod jobs;
mod lanes;
mod live;
mod operations;
mod organizations;
mod overview;
mod overview_store;
mod page;
mod parts;
mod reviews;
mod session;
mod session_store;
mod workers;
mod workflows;

pub use session::forget_ended_sessions;
pub use session_store::forget_sessions;

use crate::app::App;
use axum::Router;
use axum::response::Redirect;
use axum::routing::{get, post};
use std::sync::Arc;

/// Every page and act of the console, as `(method, path)`; docs/console.md lists the same.
pub const ROUTES: &[(&str, &str)] = &[
    ("GET", "/admin"),
    ("GET", "/admin/assets/{file}"),
    ("GET", "/admin/failures"),
    ("GET", "/admin/jobs"),
    ("GET", "/admin/jobs/export"),
    ("GET", "/admin/jobs/{id}"),
    ("POST", "/admin/jobs/{id}/cancel"),
    ("POST", "/admin/jobs/{id}/resend"),
    ("POST", "/admin/jobs/{id}/retry"),
    ("GET", "/admin/operations"),
    ("POST", "/admin/operations"),
    ("GET", "/admin/operations/new"),
    ("GET", "/admin/operations/{id}"),
    ("POST", "/admin/operations/{id}/resume"),
    ("POST", "/admin/operations/{id}/stop"),
    ("POST", "/admin/operations/{id}/undo"),
    ("GET", "/admin/live"),
    ("GET", "/admin/login"),
    ("POST", "/admin/login"),
    ("POST", "/admin/logout"),
    ("GET", "/admin/overview"),
    ("GET", "/admin/lanes"),
    ("GET", "/admin/organizations"),
    ("POST", "/admin/organizations"),
    ("GET", "/admin/organizations/{id}"),
    ("POST", "/admin/organizations/{id}/pause"),
    ("POST", "/admin/organizations/{id}/resume"),
    ("GET", "/admin/organizations/{id}/settings"),
    ("POST", "/admin/organizations/{id}/settings"),
    ("GET", "/admin/organizations/{id}/keys"),
    ("POST", "/admin/organizations/{id}/keys"),
    ("POST", "/admin/organizations/{id}/keys/{key}/rotate"),
    ("POST", "/admin/organizations/{id}/keys/{key}/revoke"),
    ("GET", "/admin/organizations/{id}/callbacks"),
    ("GET", "/admin/organizations/{id}/callbacks/{callback}"),
    ("POST", "/admin/organizations/{id}/callbacks/{callback}/resend"),
    ("GET", "/admin/workflows"),
    ("GET", "/admin/workflows/{name}"),
    ("GET", "/admin/reviews"),
    ("GET", "/admin/reviews/{id}"),
    ("POST", "/admin/reviews/{id}/decide"),
    ("GET", "/admin/audit"),
    ("POST", "/admin/audit/verify"),
    ("GET", "/admin/workers"),
];

/// The console's routes.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/admin", get(|| async { Redirect::to("/admin/overview") }))
        .route("/admin/assets/{file}", get(assets::asset))
        .route("/admin/failures", get(failures::page))
        .route("/admin/jobs", get(jobs::list))
        .route("/admin/jobs/export", get(jobs::export::export))
        .route("/admin/jobs/{id}", get(job::page))
        .route("/admin/jobs/{id}/cancel", post(job::cancel))
        .route("/admin/jobs/{id}/resend", post(job::resend_callbacks))
        .route("/admin/jobs/{id}/retry", post(job::retry))
        .route("/admin/operations", get(operations::list).post(operations::start::start))
        .route("/admin/operations/new", get(operations::start::form_page))
        .route("/admin/operations/{id}", get(operations::page))
        .route("/admin/operations/{id}/resume", post(operations::resume))
        .route("/admin/operations/{id}/stop", post(operations::stop))
        .route("/admin/operations/{id}/undo", post(operations::undo))
        .route("/admin/live", get(live::watch))
        .route("/admin/login", get(session::login_page).post(session::login))
        .route("/admin/logout", post(session::logout))
        .route("/admin/overview", get(overview::overview))
        .route("/admin/lanes", get(lanes::list))
        .route("/admin/organizations", get(organizations::list).post(organizations::create))
        .route("/admin/organizations/{id}", get(organizations::show))
        .route("/admin/organizations/{id}/pause", post(organizations::pause))
        .route("/admin/organizations/{id}/resume", post(organizations::resume))
        .route(
            "/admin/organizations/{id}/settings",
            get(organizations::settings::show).post(organizations::settings::change),
        )
        .route("/admin/organizations/{id}/keys", get(organizations::keys::list).post(organizations::keys::create))
        .route("/admin/organizations/{id}/keys/{key}/rotate", post(organizations::keys::rotate))
        .route("/admin/organizations/{id}/keys/{key}/revoke", post(organizations::keys::revoke))
        .route("/admin/organizations/{id}/callbacks", get(organizations::callbacks::list))
        .route("/admin/organizations/{id}/callbacks/{callback}", get(organizations::callbacks::show))
        .route("/admin/organizations/{id}/callbacks/{callback}/resend", post(organizations::callbacks::send_again))
        .route("/admin/workflows", get(workflows::list))
        .route("/admin/workflows/{name}", get(workflows::show))
        .route("/admin/reviews", get(reviews::list))
        .route("/admin/reviews/{id}", get(reviews::show))
        .route("/admin/reviews/{id}/decide", post(reviews::decide))
        .route("/admin/audit", get(audit::list))
        .route("/admin/audit/verify", post(audit::verify))
        .route("/admin/workers", get(workers::list))
}
