//! `/admin/operations`: acts on many jobs: started, followed, stopped, resumed, undone.

pub(super) mod start;

use super::answer::Refused;
use super::form::Form;
use super::jobs::query::JobQuery;
use super::jobs::{job_link, kept, value_of};
use super::page::{Page, Section};
use super::parts::{self, Tone};
use super::session::Visitor;
use crate::app::App;
use crate::engine::operations::{OperationError, OperationJob, OperationKind, OperationView, Steer};
use crate::ids::{OperationId, OrganizationId};
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde_json::Value;
use std::sync::Arc;

/// Operations, or jobs of one, of a page.
const PAGE: i64 = 50;
/// States that the list of an operation's jobs may be narrowed to; `failed` are those acted on that failed again.
const STATES: &[(&str, &str)] = &[
    ("", "all"),
    ("failed", "failed again"),
    ("waiting", "waiting"),
    ("acted", "acted on"),
    ("skipped", "skipped"),
    ("refused", "refused"),
    ("undone", "undone"),
];

/// Why an act of the engine was not done, as a page.
pub(super) fn refused(error: OperationError) -> Refused {
    match error {
        OperationError::Invalid(detail) => Refused::Invalid(detail),
        OperationError::NotFound => Refused::NotFound("There is no such operation."),
        OperationError::NotPossible(detail) => Refused::Conflict(detail),
        OperationError::Catalog(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a workflow version cannot be loaded");
            Refused::Conflict("The job's workflow version cannot be loaded by this program.".to_owned())
        }
        OperationError::Db(error) => Refused::Db(error),
    }
}

/// `GET /admin/operations`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    RawQuery(raw): RawQuery,
) -> Result<Response, Refused> {
    let cursor = value_of(raw.as_deref(), "cursor").map(|text| text.parse::<OperationId>()).transpose();
    let cursor = cursor.map_err(|_| Refused::Invalid("The cursor is none of an earlier page.".to_owned()))?;
    let found = app.operations().list(visitor.organization, cursor, PAGE).await.map_err(refused)?;
    let kept = kept(&visitor);
    let rows: Vec<Markup> = found.operations.iter().map(|operation| line(&visitor, operation)).collect();
    let live = html! {
        @if rows.is_empty() {
            (parts::nothing("There are no operations here. Start one from the jobs of a filter, or from a group of failures."))
        } @else {
            (parts::table("Operations", &["Status", "Operation", "What", "Progress", "Failed again", "Reason", "Started"], &rows))
        }
        (parts::next_page("/admin/operations", &[("organization", kept.as_deref())], found.next_cursor.as_deref()))
    };
    Ok(Page::live(Section::Operations, "Operations", live).render(&visitor))
}

fn line(visitor: &Visitor, operation: &OperationView) -> Markup {
    let path = parts::link(&path_of(operation.operation_id), &[("organization", kept(visitor).as_deref())], None);
    html! {
        tr {
            td { (status(&operation.status)) }
            td { a class="mono" href=(path) { (operation.operation_id) } }
            td { (operation.kind.as_str()) }
            td { (progress(operation)) }
            td class="number" { (parts::count(i64::from(operation.failed_again))) }
            td { bdi { (operation.reason) } }
            td { (parts::time_or_dash(operation.created_at)) }
        }
    }
}

fn path_of(id: OperationId) -> String {
    format!("/admin/operations/{id}")
}

fn status(status: &str) -> Markup {
    let tone = match status {
        "running" | "canary" | "undoing" => Tone::Busy,
        "stopped" => Tone::Bad,
        "succeeded" => Tone::Good,
        _ => Tone::Quiet,
    };
    parts::badge(status, tone)
}

fn progress(operation: &OperationView) -> Markup {
    let handled = operation.done + operation.skipped + operation.refused;
    let label = format!("{handled} of {} jobs", operation.matched);
    html! {
        progress max=(operation.matched.max(1)) value=(handled) aria-label=(label) { (label) }
        span class="muted" { (parts::count(i64::from(handled))) " of " (parts::count(i64::from(operation.matched))) }
    }
}

/// `GET /admin/operations/{id}`
pub(super) async fn page(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
    RawQuery(raw): RawQuery,
) -> Result<Response, Refused> {
    let id = parse(&id)?;
    let operation = app.operations().find(visitor.organization, id).await.map_err(refused)?;
    let state = value_of(raw.as_deref(), "state").filter(|state| STATES.iter().any(|(known, _)| known == state));
    let after = value_of(raw.as_deref(), "cursor").map(|text| text.parse::<i32>()).transpose();
    let after = after.map_err(|_| Refused::Invalid("The cursor is none of an earlier page.".to_owned()))?.unwrap_or(0);
    let jobs = if state.as_deref() == Some("failed") {
        app.operations().failed_again(visitor.organization, id, after, PAGE).await
    } else {
        app.operations().jobs(visitor.organization, id, state.clone(), after, PAGE).await
    };
    let jobs = jobs.map_err(refused)?;
    let kept = kept(&visitor);
    let state = state.as_deref().unwrap_or_default();
    let query = [("organization", kept.as_deref()), ("state", Some(state))];
    let rows: Vec<Markup> = jobs.jobs.iter().map(|job| job_line(&visitor, job)).collect();
    let live = html! {
        (summary(&operation))
        h2 { "Its jobs" }
        nav class="pager" aria-label="Jobs by state" {
            @for (word, name) in STATES {
                a href=(parts::link(&path_of(id), &[("organization", kept.as_deref()), ("state", Some(word))], None))
                    aria-current=[(*word == state).then_some("true")] { (name) }
            }
        }
        @if rows.is_empty() { (parts::nothing("No jobs here.")) }
        @else { (parts::table("Jobs of the operation", &["Position", "Job", "State", "Why", "Round", "How it ended", "When"], &rows)) }
        (parts::next_page(&path_of(id), &query, jobs.next_cursor.as_deref()))
    };
    let page = Page {
        section: Section::Operations,
        title: format!("{} of {} jobs", title(operation.kind), parts::count(i64::from(operation.matched))),
        before: html! {},
        live,
        after: acts(&visitor, &operation),
    };
    Ok(page.render(&visitor))
}

fn title(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Retry => "Retry",
        OperationKind::Reprocess => "Reprocessing",
        OperationKind::Cancel => "Cancelling",
    }
}

fn parse(id: &str) -> Result<OperationId, Refused> {
    id.parse().map_err(|_| Refused::NotFound("There is no such operation."))
}

fn summary(operation: &OperationView) -> Markup {
    let count = |number: i32| html! { (parts::count(i64::from(number))) };
    let tone = match operation.status.as_str() {
        "stopped" => "bad",
        "succeeded" if operation.failed_again > 0 => "warn",
        "succeeded" => "good",
        _ => "busy",
    };
    let mut facts = vec![
        ("Acted on", count(operation.done)),
        ("Succeeded since", count(operation.succeeded_again)),
        ("Failed again", count(operation.failed_again)),
        ("Skipped", count(operation.skipped)),
        ("Refused", count(operation.refused)),
        ("Undone", count(operation.undone)),
        ("At most a second", count(operation.rate_per_second)),
        ("Canary", html! { @if operation.canary > 0 { (count(operation.canary)) } @else { "none" } }),
        (
            "Stops after failures",
            html! { @if let Some(failures) = operation.stop_after_failures { (count(failures)) } @else { "never" } },
        ),
    ];
    if let Some(rate) = operation.per_second {
        facts.push(("Jobs a second so far", html! { (format!("{rate:.1}")) }));
    }
    if operation.expected_at.is_some() {
        facts.push(("Expected end", parts::time_or_dash(operation.expected_at)));
    }
    if let Some(from) = &operation.from {
        facts.push(("From", html! { (start::begin_words(from)) }));
    }
    if let Some(version) = &operation.version {
        facts.push(("Version", html! { (version) }));
    }
    facts.push(("Reason", html! { bdi { (operation.reason) } }));
    facts.push(("By", html! { (operation.actor) }));
    facts.push(("Started", parts::time_or_dash(operation.created_at)));
    facts.push(("Ended", parts::time_or_dash(operation.finished_at)));
    html! {
        section class={ "card explain " (tone) } {
            p { (status(&operation.status)) " " (operation.message) }
            (progress(operation))
            @if operation.cut { p { "More jobs met the filter than one operation takes: the oldest were taken." } }
        }
        section class="card" aria-label="Facts" { (parts::facts(&facts)) }
        @if let Some(filter) = &operation.filter { (filter_words(filter)) }
    }
}

/// The stored filter: names and values.
fn filter_words(filter: &Value) -> Markup {
    let pairs = filter.as_object().into_iter().flatten();
    html! {
        p class="muted" { "Jobs with: "
            @for (name, value) in pairs { (name) " " code { @if let Some(text) = value.as_str() { (text) } @else { (value) } } " " }
        }
    }
}

fn job_line(visitor: &Visitor, job: &OperationJob) -> Markup {
    let tone = match (job.state.as_str(), job.result.as_deref()) {
        (_, Some("failed")) => Tone::Bad,
        (_, Some("succeeded")) => Tone::Good,
        ("acted", _) => Tone::Busy,
        ("refused" | "skipped", _) => Tone::Warn,
        _ => Tone::Quiet,
    };
    html! {
        tr {
            td class="number" { (job.position) }
            td { (job_link(visitor, job.job_id)) }
            td { (parts::badge(&job.state, tone)) }
            td { (job.note.as_deref().unwrap_or("–").replace('_', " ")) }
            td { @if let Some(round) = job.round { (round) } @else { "–" } }
            td { (job.result.as_deref().unwrap_or("–")) }
            td { (parts::time_or_dash(job.acted_at)) }
        }
    }
}

fn acts(visitor: &Visitor, operation: &OperationView) -> Markup {
    let organization = html! {
        @if let Some(organization) = kept(visitor) { input type="hidden" name="organization" value=(organization); }
    };
    let to = |act: &str| format!("{}/{act}", path_of(operation.operation_id));
    html! {
        h2 { "Acts" }
        (parts::act("Stop: leave the rest alone", &to("stop"), Tone::Bad, &organization, "Stop"))
        (parts::act("Resume: go on with the rest, also behind a canary that failed", &to("resume"), Tone::Busy, &organization, "Resume"))
        @if operation.kind == OperationKind::Cancel {
            p class="muted" { "A cancellation cannot be undone: retry the jobs instead." }
        } @else {
            (parts::act("Undo: take back what has not begun to run", &to("undo"), Tone::Warn, &organization, "Undo"))
        }
    }
}

/// `POST /admin/operations/{id}/stop`
pub(super) async fn stop(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Refused> {
    steer(&app, &visitor, &id, &form, Steer::Stop, "stopped").await
}

/// `POST /admin/operations/{id}/resume`
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Refused> {
    steer(&app, &visitor, &id, &form, Steer::Resume, "resumed").await
}

/// `POST /admin/operations/{id}/undo`
pub(super) async fn undo(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(id): Path<String>,
    form: Form,
) -> Result<Response, Refused> {
    steer(&app, &visitor, &id, &form, Steer::Undo, "undone").await
}

async fn steer(
    app: &App,
    visitor: &Visitor,
    id: &str,
    form: &Form,
    act: Steer,
    note: &str,
) -> Result<Response, Refused> {
    let (id, organization, reason) = (parse(id)?, chosen(visitor, form)?, form.reason()?);
    app.operations().steer(organization, id, act, &visitor.actor, &reason).await.map_err(refused)?;
    Ok(back(visitor, id, organization, note))
}

fn back(visitor: &Visitor, id: OperationId, organization: Option<OrganizationId>, note: &str) -> Response {
    let kept = organization.filter(|_| visitor.is_platform()).map(|organization| organization.to_string());
    let query = [("organization", kept.as_deref()), ("note", Some(note))];
    Redirect::to(&parts::link(&path_of(id), &query, None)).into_response()
}

/// The organization of an act: the visitor's own, or the one that the form was made for.
pub(super) fn chosen(visitor: &Visitor, form: &Form) -> Result<Option<OrganizationId>, Refused> {
    match (visitor.organization, JobQuery::of(form.starting_with("")).get("organization")) {
        (None, Some(text)) => text.parse().map(Some).map_err(|_| Refused::NotFound("There is no such organization.")),
        (own, _) => Ok(own),
    }
}
