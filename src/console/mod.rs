//! The administrators' web pages at `/admin`, rendered by the binary: what is wrong, why, and the acts that mend it.
//!
//! A request passes: [`session`] (who looks, in which organizations) → a page's handler → reads and acts of `engine`,
//! `ingest`, `audit` and `auth`, the same that the API calls → [`page`] (layout) → headers of [`answer`]. A page has a fixed
//! part and one that is shown live: [`live`] renders the same page again and again for a browser that watches it, and
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
mod chart;
mod form;
mod live;
mod overview;
mod overview_store;
mod page;
mod parts;
mod session;
mod session_store;

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
    ("GET", "/admin/live"),
    ("GET", "/admin/login"),
    ("POST", "/admin/login"),
    ("POST", "/admin/logout"),
    ("GET", "/admin/overview"),
];

/// The console's routes.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/admin", get(|| async { Redirect::to("/admin/overview") }))
        .route("/admin/assets/{file}", get(assets::asset))
        .route("/admin/live", get(live::watch))
        .route("/admin/login", get(session::login_page).post(session::login))
        .route("/admin/logout", post(session::logout))
        .route("/admin/overview", get(overview::overview))
}
