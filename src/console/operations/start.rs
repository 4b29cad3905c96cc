//! From a filter to an operation: what it would meet is counted first, then it is started.

use super::refused;
use crate::app::App;
use crate::console::answer::Refused;
use crate::console::form::Form;
use crate::console::jobs::query::JobQuery;
use crate::console::jobs::{kept, value_of};
use crate::console::page::{Page, Section};
use crate::console::parts;
use crate::console::session::Visitor;
use crate::engine::operations::{BulkRequest, OperationKind, OperationView, RATE, RATE_MAX, RetryVersion, TARGETS_MAX};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use std::sync::Arc;

/// A canary that finds most mistakes without harming many jobs.
const CANARY: u32 = 5;

/// What is filled in.
struct Wanted {
    kind: OperationKind,
    query: JobQuery,
    from: String,
    version: RetryVersion,
    rate: String,
    canary: String,
    stop_after: String,
    reason: String,
}

fn kind_of(text: Option<&str>) -> Result<OperationKind, Refused> {
    match text {
        Some("retry") => Ok(OperationKind::Retry),
        Some("reprocess") => Ok(OperationKind::Reprocess),
        Some("cancel") => Ok(OperationKind::Cancel),
        _ => Err(Refused::Invalid("The kind must be retry, reprocess or cancel.".to_owned())),
    }
}

/// `GET /admin/operations/new`: the form.
pub(in crate::console) async fn form_page(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    RawQuery(raw): RawQuery,
) -> Result<Response, Refused> {
    let kind = kind_of(value_of(raw.as_deref(), "kind").as_deref())?;
    let query = JobQuery::parse(raw.as_deref());
    // What cannot be read is told now, not after the form was filled in.
    query.filter(&visitor)?;
    let is_retry = kind != OperationKind::Cancel;
    let wanted = Wanted {
        kind,
        query,
        from: "failed_step".to_owned(),
        version: RetryVersion::Pinned,
        rate: RATE.to_string(),
        canary: if is_retry { CANARY.to_string() } else { String::new() },
        stop_after: String::new(),
        reason: String::new(),
    };
    Ok(page(&app, &wanted, None, None).render(&visitor))
}

/// `POST /admin/operations`: count (`act=count`) or start (`act=start`) on as many as were counted.
pub(in crate::console) async fn start(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    form: Form,
) -> Result<Response, Refused> {
    let wanted = Wanted {
        kind: kind_of(form.get("kind"))?,
        query: JobQuery::of(form.starting_with("")),
        from: form.get("from").unwrap_or("failed_step").to_owned(),
        version: if form.get("version") == Some("latest") { RetryVersion::Latest } else { RetryVersion::Pinned },
        rate: form.get("rate").unwrap_or_default().to_owned(),
        canary: form.get("canary").unwrap_or_default().to_owned(),
        stop_after: form.get("stopAfter").unwrap_or_default().to_owned(),
        reason: form.reason()?,
    };
    // The form says for whom it was made: the address of an act has no query.
    let organization = match (visitor.organization, wanted.query.get("organization")) {
        (None, Some(text)) => Some(text.parse().map_err(|_| Refused::NotFound("There is no such organization."))?),
        (own, _) => own,
    };
    let visitor = Visitor { organization, ..visitor };
    let request = request(&wanted, &visitor)?;
    let mut dry_run = request.clone();
    dry_run.dry_run = true;
    let counted = app.operations().start(organization, &dry_run, &visitor.actor).await.map_err(refused)?;
    // Started is what was counted: of jobs that came since, whoever pressed the button knows nothing.
    let expected = form.get("counted").and_then(|text| text.parse::<i32>().ok());
    let has_grown = expected.is_some_and(|expected| counted.matched > expected);
    if form.get("act") == Some("start") && !has_grown && expected.is_some() {
        let started = app.operations().start(organization, &request, &visitor.actor).await.map_err(refused)?;
        let path = format!("/admin/operations/{}", started.operation_id);
        let kept = kept(&visitor);
        let query = [("organization", kept.as_deref()), ("note", Some("started"))];
        return Ok(Redirect::to(&parts::link(&path, &query, None)).into_response());
    }
    let grown_from = expected.filter(|_| has_grown && form.get("act") == Some("start"));
    Ok(page(&app, &wanted, Some(&counted), grown_from).render(&visitor))
}

fn request(wanted: &Wanted, visitor: &Visitor) -> Result<BulkRequest, Refused> {
    let number = |name: &str, text: &str| {
        let parsed = (!text.is_empty()).then(|| text.parse::<u32>()).transpose();
        parsed.map_err(|_| Refused::Invalid(format!("The field {name} must be a whole number.")))
    };
    let is_retry = wanted.kind == OperationKind::Retry;
    let is_cancel = wanted.kind == OperationKind::Cancel;
    Ok(BulkRequest {
        filter: Some(wanted.query.filter(visitor)?),
        from: if is_retry { wanted.from.clone() } else { "start".to_owned() },
        version: if is_retry { wanted.version } else { RetryVersion::Latest },
        rate_per_second: number("jobs a second", &wanted.rate)?,
        canary: number("canary", &wanted.canary)?.filter(|_| !is_cancel),
        stop_after_failures: number("stop after failures", &wanted.stop_after)?.filter(|_| !is_cancel),
        ..BulkRequest::new(wanted.kind, wanted.reason.clone())
    })
}

fn page(app: &App, wanted: &Wanted, counted: Option<&OperationView>, grown_from: Option<i32>) -> Page {
    let title = match wanted.kind {
        OperationKind::Retry => "Retry jobs",
        OperationKind::Reprocess => "Reprocess jobs on the latest version",
        OperationKind::Cancel => "Cancel jobs",
    };
    Page::fixed(
        Section::Operations,
        title,
        html! { (which(wanted)) (result(counted, grown_from)) (form(app, wanted, counted)) },
    )
}

fn which(wanted: &Wanted) -> Markup {
    let default = match wanted.kind {
        OperationKind::Cancel => "queued, running or retrying",
        _ => "failed",
    };
    let words = wanted.query.words();
    html! {
        section class="card" aria-labelledby="which" {
            h2 id="which" { "Which jobs" }
            @if words.is_empty() { p { "All jobs that are " (default) "." } }
            @else {
                dl class="facts" { @for (name, value) in &words { div { dt { (name) } dd { code { (value) } } } } }
                @if wanted.query.get("status").is_none() && wanted.query.get("fingerprint").is_none() {
                    p class="muted" { "No status is chosen: those that are " (default) "." }
                }
            }
            p { a href=(parts::link("/admin/jobs", &wanted.query.pairs(), None)) { "Look at them" } }
        }
    }
}

fn result(counted: Option<&OperationView>, grown_from: Option<i32>) -> Markup {
    let Some(counted) = counted else { return html! {} };
    html! {
        section class="card explain warn" role="status" {
            p { strong { (parts::count(i64::from(counted.matched))) " jobs" } " meet this now. Nothing was done." }
            @if let Some(earlier) = grown_from {
                p { "There were " (parts::count(i64::from(earlier))) " when they were counted; look at what came, and start again." }
            }
            @if counted.cut { p { "There are more: one operation takes the oldest " (parts::count(TARGETS_MAX)) "." } }
        }
    }
}

/// Where a retry may begin: the steps of the workflow, where one is chosen.
fn begins(app: &App, query: &JobQuery) -> Vec<String> {
    let mut begins: Vec<String> = ["failed_step", "start", "failed_lines"].map(str::to_owned).into();
    let of_print = query.get("fingerprint").and_then(|print| print.split('/').next());
    let workflow = query.get("workflow").or(of_print).and_then(|name| app.catalog.latest(name).ok());
    begins.extend(workflow.iter().flat_map(|workflow| &workflow.steps).map(|step| step.name.clone()));
    begins
}

fn form(app: &App, wanted: &Wanted, counted: Option<&OperationView>) -> Markup {
    let is_cancel = wanted.kind == OperationKind::Cancel;
    let number = |label: &str, name: &str, value: &str, most: i64| {
        html! { label { span { (label) } input type="number" name=(name) value=(value) min="0" max=(most) inputmode="numeric"; } }
    };
    html! {
        form method="post" action="/admin/operations" class="card act" {
            input type="hidden" name="kind" value=(wanted.kind.as_str());
            (wanted.query.hidden())
            @if let Some(counted) = counted { input type="hidden" name="counted" value=(counted.matched); }
            @if wanted.kind == OperationKind::Retry {
                label { span { "From" }
                    select name="from" {
                        @for begin in begins(app, &wanted.query) {
                            option value=(begin) selected[begin == wanted.from] { (begin_words(&begin)) }
                        }
                    }
                }
                (parts::choice("Version", "version", &[("pinned", "as pinned"), ("latest", "latest")],
                    if wanted.version == RetryVersion::Latest { "latest" } else { "pinned" }))
            }
            (number("Jobs a second", "rate", &wanted.rate, i64::from(RATE_MAX)))
            @if !is_cancel {
                (number("Canary: so many first", "canary", &wanted.canary, TARGETS_MAX))
                (number("Stop after so many failures", "stopAfter", &wanted.stop_after, TARGETS_MAX))
            }
            label class="wide" { span { "Reason (goes into the audit log)" }
                input type="text" name="reason" value=(wanted.reason) required maxlength="1000" autocomplete="off"; }
            button name="act" value="count" { @if counted.is_some() { "Count again" } @else { "Count the jobs (dry run)" } }
            @if let Some(counted) = counted && counted.matched > 0 {
                button class=(if is_cancel { "bad" } else { "busy" }) name="act" value="start" {
                    "Start on " (parts::count(i64::from(counted.matched))) " jobs"
                }
            }
        }
    }
}

/// Where a retry begins, in words.
pub(in crate::console) fn begin_words(begin: &str) -> String {
    match begin {
        "failed_step" => "the failed step".to_owned(),
        "failed_lines" => "the lines that were left out (bulk files)".to_owned(),
        "start" => "the start".to_owned(),
        step => format!("step {step}"),
    }
}
