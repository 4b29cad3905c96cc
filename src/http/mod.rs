//! The thin HTTP edge: one router, one list of routes (the OpenAPI document is made from it), errors as problems.
//!
//! A request passes: request id and access log → routing → authentication (the [`extract::Authenticated`] extractor)
//! → handler → one use case of `ingest`, `engine` or `auth` → answer. Denials are audited here, for all routes alike.

pub mod admin;
pub mod athena;
pub mod clinical;
mod cors;
mod description;
pub mod docs;
pub mod events;
pub mod explain;
pub mod extract;
pub mod health;
pub mod intake;
mod issues;
pub mod jobs;
mod jobs_events;
pub mod metrics;
pub mod problem;
mod quotas;
pub mod server;
mod signed;
mod trace;
pub mod uploads;

pub use crate::app::error_pages;
pub use description::description;

use crate::app::App;
use crate::auth::denials::{Denial, Denied};
use crate::ids::RequestId;
use crate::telemetry;
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use extract::RequestContext;
use problem::Problem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tracing::Instrument as _;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// A year without plain HTTP for browsers, for this host only (RFC 6797); said where the listener itself speaks TLS.
const STRICT_TRANSPORT: &str = "max-age=31536000";

#[derive(OpenApi)]
#[openapi(
    info(title = "Chartgate", description = "A durable ingestion gateway for clinical data."),
    tags(
        (name = "intake", description = "Submit clinical data (role sender)"),
        (name = "jobs", description = "Follow jobs"),
        (name = "clinical", description = "Read what came out (role reader)"),
        (name = "administration", description = "Roles admin and platform"),
        (name = "operations", description = "Health, metrics and this description"),
    )
)]
struct Description;

/// All routes with their descriptions: the route list and the OpenAPI list are the same list.
fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(intake::submit_bundle))
        .routes(routes!(athena::intake::submit_event))
        .routes(routes!(athena::intake::submit_events))
        .routes(routes!(athena::reads::list_events))
        .routes(routes!(athena::reads::get_stats))
        .routes(routes!(uploads::create_upload))
        .routes(routes!(uploads::complete_upload))
        .routes(routes!(events::notify_objects))
        .routes(routes!(jobs::list_jobs))
        .routes(routes!(jobs::get_job))
        .routes(routes!(jobs::get_timeline))
        .routes(routes!(jobs_events::follow_job))
        .routes(routes!(explain::explain_job))
        .routes(routes!(jobs::cancel_job))
        .routes(routes!(issues::get_issues))
        .routes(routes!(issues::get_outcomes))
        .routes(routes!(clinical::get_clinical))
        .routes(routes!(clinical::search_clinical))
        .routes(routes!(clinical::get_evidence))
        .routes(routes!(clinical::get_payload))
        .routes(routes!(admin::jobs::list_jobs))
        .routes(routes!(admin::jobs::list_failures))
        .routes(routes!(admin::operations::retry_jobs))
        .routes(routes!(admin::operations::cancel_jobs))
        .routes(routes!(admin::operations::reprocess_jobs))
        .routes(routes!(admin::jobs::retry_job))
        .routes(routes!(admin::operations::list_operations))
        .routes(routes!(admin::operations::get_operation))
        .routes(routes!(admin::operations::list_operation_jobs))
        .routes(routes!(admin::operations::stop_operation))
        .routes(routes!(admin::operations::resume_operation))
        .routes(routes!(admin::operations::undo_operation))
        .routes(routes!(admin::organizations::list_organizations, admin::organizations::create_organization))
        .routes(routes!(admin::settings::get_settings, admin::settings::put_settings))
        .routes(routes!(admin::organizations::pause_organization))
        .routes(routes!(admin::organizations::resume_organization))
        .routes(routes!(admin::organizations::list_keys, admin::organizations::create_key))
        .routes(routes!(admin::organizations::revoke_key))
        .routes(routes!(admin::keys::rotate_key))
        .routes(routes!(admin::webhook_secrets::list_secrets, admin::webhook_secrets::create_secret))
        .routes(routes!(admin::webhook_secrets::revoke_secret))
        .routes(routes!(admin::reviews::list_reviews))
        .routes(routes!(admin::reviews::get_review))
        .routes(routes!(admin::reviews::decide_review))
        .routes(routes!(admin::links::merge_patient))
        .routes(routes!(admin::links::unmerge_patient))
        .routes(routes!(admin::links::unlink_event))
        .routes(routes!(admin::links::link_event))
        .routes(routes!(admin::callbacks::list_callbacks, admin::callbacks::create_callback))
        .routes(routes!(
            admin::callbacks::get_callback,
            admin::callbacks::change_callback,
            admin::callbacks::delete_callback
        ))
        .routes(routes!(admin::callbacks::rotate_callback))
        .routes(routes!(admin::deliveries::test_callback))
        .routes(routes!(admin::deliveries::list_deliveries))
        .routes(routes!(admin::deliveries::resend_callbacks))
        .routes(routes!(admin::purge::purge))
        .routes(routes!(admin::holds::list_holds, admin::holds::place_hold))
        .routes(routes!(admin::holds::lift_hold))
        .routes(routes!(admin::system::list_workflows))
        .routes(routes!(admin::system::list_workers))
        .routes(routes!(admin::lanes::list_blocked))
        .routes(routes!(admin::objects::list_refused))
        .routes(routes!(admin::audit::list_audit))
        .routes(routes!(admin::audit::verify_audit))
        .routes(routes!(admin::audit::export_audit))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::metrics))
        .routes(routes!(health::ingest_health))
        .routes(routes!(docs::openapi))
        .routes(routes!(docs::docs))
        .routes(routes!(docs::style))
        .routes(routes!(docs::error_page))
}

/// The router with its edge, and with pages that are served beside the API.
pub fn router(app: Arc<App>, pages: Router<Arc<App>>) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .merge(pages)
        .fallback(|| async { Problem::new("not_found", "There is no such route.") })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), edge))
        .with_state(app)
}

/// What a process without the API answers where `telemetry.metrics_listen` says.
fn watching_router(app: Arc<App>) -> Router {
    let watched = OpenApiRouter::<Arc<App>>::new()
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::metrics));
    let (router, _) = watched.split_for_parts();
    router
        .fallback(|| async { Problem::new("not_found", "There is no such route.") })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), edge))
        .with_state(app)
}

/// Around every request: its id, the access log by route template (never the raw path: it may hold an MRN), errors
/// rendered as the caller wants them, denials audited.
async fn edge(State(app): State<Arc<App>>, mut request: Request<Body>, next: Next) -> Response {
    let started = Instant::now();
    let request_id = request_id(&request);
    let peer = request.extensions().get::<SocketAddr>().copied();
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let is_known = matched.is_some();
    let route = matched.unwrap_or_else(|| "(none)".to_owned());
    let wants_fhir = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("application/fhir+json"));
    let traced = trace::begin(&request, &route);
    let context = RequestContext {
        request_id: request_id.clone(),
        received: started,
        peer,
        trace: traced.map(|traced| traced.context()),
        caller: Arc::default(),
        allowance: Arc::default(),
    };
    request.extensions_mut().insert(context.clone());
    request.extensions_mut().insert(telemetry::RequestTag(request_id.clone()));
    let trace_id = traced.map(|traced| traced.context().trace_id());
    let span = tracing::info_span!("request", request.id = %request_id, %method, route, trace.id = trace_id);
    let page = cors::Page::of(&request, if is_known { &route } else { request.uri().path() });
    let preflight = match &page {
        Some(page) => page.preflight(&app).await,
        None => None,
    };
    let mut response = match preflight {
        Some(answer) => answer,
        None => extract::SHARE.scope(app.limits.bodies.share(), next.run(request).instrument(span)).await,
    };
    if response.status() == axum::http::StatusCode::METHOD_NOT_ALLOWED
        && response.extensions().get::<Problem>().is_none()
    {
        let allow = response.headers().get(header::ALLOW).cloned();
        response
            .extensions_mut()
            .insert(Problem::new("method_not_allowed", "The route does not know this method.").allow(allow));
    }
    let mut code = None;
    // A page of the console says so beside its answer.
    if let Some(denied) = response.extensions_mut().remove::<Denied>() {
        code = Some(denied.code);
        record_denial(&app, denied, &context, method.as_str(), &route).await;
    }
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let problem = quotas::of_strangers(&app, problem, peer);
        if matches!(problem.code(), "unauthenticated" | "forbidden") {
            let caller = problem.denied_caller().map(|denied| (denied.organization, denied.actor.clone()));
            let denied = Denied { caller, code: problem.code(), reason: problem.refusal() };
            record_denial(&app, denied, &context, method.as_str(), &route).await;
        }
        code = Some(problem.code());
        quotas::count(problem.code());
        response = problem.render(&request_id, wants_fhir);
    }
    quotas::say(context.allowance.get(), response.headers_mut());
    if app.limits.draining.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("x-request-id", value);
    }
    if let Some(page) = page {
        page.dress(&app, &context, response.headers_mut()).await;
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if app.config.tls.is_some() {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(STRICT_TRANSPORT));
    }
    let duration = started.elapsed();
    telemetry::http_request(&route, method.as_str(), response.status().as_u16(), duration);
    if let Some(traced) = traced {
        let (method, status) = (telemetry::metrics::known_method(method.as_str()), response.status().as_u16());
        // What a caller wrote goes to no collector: only an id as we make them.
        let request_id = request_id.parse::<RequestId>().is_ok().then_some(request_id.as_str());
        traced.end(telemetry::traces::Answer { route: &route, method, status, request_id, code });
    }
    let duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    tracing::debug!(request.id = %request_id, %method, route, status = response.status().as_u16(), duration_us, trace.id = trace_id, "{method} {route}");
    response
}

/// The caller's id if it is a sane token, else one of ours.
fn request_id(request: &Request<Body>) -> String {
    let sane = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let given = request.headers().get("x-request-id").and_then(|value| value.to_str().ok()).filter(sane);
    given.map_or_else(|| RequestId::new().to_string(), str::to_owned)
}

/// A denial for the audit log, and for the metrics.
async fn record_denial(app: &App, denied: Denied, context: &RequestContext, method: &str, route: &str) {
    let Denied { caller, code, reason } = denied;
    if let Some(reason) = reason {
        telemetry::auth_refused(reason.as_str());
    }
    let denial = Denial {
        caller,
        address: context.peer.map(|peer| peer.ip()),
        request_id: context.request_id.clone(),
        method: method.to_owned(),
        route: route.to_owned(),
        code,
        reason,
    };
    app.denials.record(denial).await;
}
