//! `/admin/jobs`: jobs by filter, newest first; an id or a hash leads straight to its job.

pub(super) mod export;
pub(super) mod query;

use super::answer::Refused;
use super::page::{Page, Section};
use super::parts;
use super::session::Visitor;
use crate::app::App;
use crate::auth::store as organizations;
use crate::db::{DbError, Scope};
use crate::engine::jobs::{self as job_views, JobSummary, is_sha256};
use crate::engine::jobs_store;
use crate::engine::search_store::{self, Found};
use crate::engine::state::JobStatus;
use crate::ids::{JobId, OrganizationId, UploadId};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use query::JobQuery;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Jobs of a page.
const PAGE: i64 = 50;
/// Organizations among which the role platform chooses.
const CHOICES_MAX: i64 = 300;
/// Where jobs come from.
const SOURCES: &[&str] = &["webhook", "athena", "upload", "callback"];

/// A value of the address's query.
pub(super) fn value_of(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.find(|(key, value)| key == name && !value.trim().is_empty()).map(|(_, value)| value.trim().to_owned())
}

/// The organization that the role platform has chosen, for links: they keep it.
pub(super) fn kept(visitor: &Visitor) -> Option<String> {
    visitor.organization.filter(|_| visitor.is_platform()).map(|organization| organization.to_string())
}

/// A job's page.
pub(super) fn job_link(visitor: &Visitor, job: JobId) -> Markup {
    let id = job.to_string();
    let path = parts::link(&format!("/admin/jobs/{id}"), &[("organization", kept(visitor).as_deref())], None);
    html! { a class="mono" href=(path) { (id) } }
}

/// Names of these organizations, for who sees several.
pub(super) async fn names(
    app: &App,
    visitor: &Visitor,
    mut of: Vec<OrganizationId>,
) -> Result<BTreeMap<OrganizationId, String>, DbError> {
    of.sort_unstable();
    of.dedup();
    if !visitor.is_platform() || of.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names = app.db.unit::<_, DbError, _>(Scope::Global, move |connection| {
        Box::pin(async move { organizations::organization_names(connection, &of).await })
    });
    Ok(names.await?.into_iter().collect())
}

/// Organizations to choose from, by name; none for a live part, which has no choice in it.
async fn choices(app: &App, visitor: &Visitor) -> Result<Vec<(OrganizationId, String)>, DbError> {
    if !visitor.is_platform() || visitor.watches {
        return Ok(Vec::new());
    }
    let first = app.db.unit::<_, DbError, _>(Scope::Global, |connection| {
        Box::pin(async move { organizations::first_names(connection, CHOICES_MAX).await })
    });
    first.await
}

/// The organization in which the visitor may see that job. Unknown, foreign and malformed ids are answered alike.
pub(super) async fn locate(app: &App, visitor: &Visitor, text: &str) -> Result<(OrganizationId, JobId), Refused> {
    let missing = || Refused::NotFound("There is no such job.");
    let job = parse_job(text).ok_or_else(missing)?;
    let found = app.db.unit::<_, DbError, _>(visitor.scope(), {
        let organization = visitor.organization;
        move |connection| {
            Box::pin(async move {
                match organization {
                    Some(organization) => {
                        Ok(jobs_store::find_job(connection, organization, job).await?.map(|row| row.organization_id))
                    }
                    None => jobs_store::find_organization(connection, job).await,
                }
            })
        }
    });
    Ok((found.await?.ok_or_else(missing)?, job))
}

/// An upload has the number of its job.
fn parse_job(text: &str) -> Option<JobId> {
    text.parse().or_else(|_| text.parse::<UploadId>().map(|upload| JobId(upload.0))).ok()
}

/// `GET /admin/jobs`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    RawQuery(raw): RawQuery,
) -> Result<Response, Refused> {
    let query = JobQuery::parse(raw.as_deref());
    if let Some(wanted) = value_of(raw.as_deref(), "q") {
        return find(&app, &visitor, query, &wanted).await;
    }
    let cursor = value_of(raw.as_deref(), "cursor").map(|text| text.parse::<JobId>()).transpose();
    let cursor = cursor.map_err(|_| Refused::Invalid("The cursor is none of an earlier page.".to_owned()))?;
    let found = search(&app, &visitor, &query, cursor).await?;
    let choices = choices(&app, &visitor).await?;
    let names = names(&app, &visitor, found.rows.iter().map(|row| row.organization_id).collect()).await?;
    let page = Page {
        section: Section::Jobs,
        title: "Jobs".to_owned(),
        before: html! { (quick()) (filter_form(&app, &visitor, &query, &choices)) },
        live: table(&visitor, &query, &found, &names),
        after: html! { (bulk(&query)) (exports(&query)) },
    };
    Ok(page.render(&visitor))
}

/// An id leads straight to its job, a hash to the job or the jobs of that payload.
async fn find(app: &App, visitor: &Visitor, query: JobQuery, wanted: &str) -> Result<Response, Refused> {
    if is_sha256(wanted) {
        let sha256 = wanted.to_lowercase();
        let found = of_payload(app, visitor, &sha256).await?;
        if let [(_, job)] = found.as_slice() {
            return Ok(to_job(visitor, *job));
        }
        let query = JobQuery::default().with("payload", sha256);
        let kept = kept(visitor);
        let query = kept.into_iter().fold(query, |query, organization| query.with("organization", organization));
        return Ok(Redirect::to(&parts::link("/admin/jobs", &query.pairs(), None)).into_response());
    }
    if parse_job(wanted).is_none() {
        // A word that a code or a workflow may have.
        return Ok(Redirect::to(&parts::link("/admin/jobs", &query.with("code", wanted).pairs(), None)).into_response());
    }
    let (_, job) = locate(app, visitor, wanted).await?;
    Ok(to_job(visitor, job))
}

fn to_job(visitor: &Visitor, job: JobId) -> Response {
    let path = parts::link(&format!("/admin/jobs/{job}"), &[("organization", kept(visitor).as_deref())], None);
    Redirect::to(&path).into_response()
}

/// Jobs that are known to have brought these bytes.
async fn of_payload(app: &App, visitor: &Visitor, sha256: &str) -> Result<Vec<(OrganizationId, JobId)>, Refused> {
    let Ok(bytes) = hex::decode(sha256) else { return Ok(Vec::new()) };
    let organization = visitor.organization;
    let found = app.db.unit::<_, DbError, _>(visitor.scope(), move |connection| {
        Box::pin(async move { search_store::find_by_payload(connection, organization, &bytes).await })
    });
    Ok(found.await?)
}

async fn search(app: &App, visitor: &Visitor, query: &JobQuery, cursor: Option<JobId>) -> Result<Found, Refused> {
    let (filter, organization) = (query.filter(visitor)?, visitor.organization);
    let found = app.db.unit::<_, DbError, _>(visitor.scope(), move |connection| {
        Box::pin(async move { search_store::search(connection, organization, &filter, cursor, PAGE).await })
    });
    Ok(found.await?)
}

fn quick() -> Markup {
    html! {
        form class="filter" method="get" action="/admin/jobs" role="search" {
            label { span { "Job, upload, payload's SHA-256, or error code" }
                input type="search" name="q" size="44" autocomplete="off" spellcheck="false"; }
            button { "Find" }
        }
    }
}

fn filter_form(app: &App, visitor: &Visitor, query: &JobQuery, choices: &[(OrganizationId, String)]) -> Markup {
    let value = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let workflows: Vec<&str> = app.catalog.latest_all().map(|workflow| workflow.name.as_str()).collect();
    let mut steps: Vec<&str> = Vec::new();
    for step in app.catalog.latest_all().flat_map(|workflow| &workflow.steps) {
        if !steps.contains(&step.name.as_str()) {
            steps.push(&step.name);
        }
    }
    let statuses: Vec<&str> = JobStatus::ALL.iter().map(|status| status.as_str()).collect();
    html! {
        form class="filter" method="get" action="/admin/jobs" aria-label="Filter" {
            @if visitor.is_platform() {
                label { span { "Organization" }
                    select name="organization" {
                        option value="" { "all" }
                        @for (id, name) in choices {
                            option value=(id) selected[visitor.organization == Some(*id)] { (name) }
                        }
                        @if let Some(id) = visitor.organization && !choices.iter().any(|(known, _)| *known == id) {
                            option value=(id) selected { (id) }
                        }
                    }
                }
            }
            (select("Status", "status", &statuses, &value("status")))
            (select("Workflow", "workflow", &workflows, &value("workflow")))
            (select("Failed at step", "step", &steps, &value("step")))
            (parts::field("Error code", "code", &value("code"), "text"))
            (select("Source", "source", SOURCES, &value("source")))
            (parts::field("Accepted from (UTC)", "after", &value("after"), time_field(query, "after")))
            (parts::field("Accepted before (UTC)", "before", &value("before"), time_field(query, "before")))
            @for name in ["fingerprint", "payload", "live", "endedAfter", "endedBefore"] {
                @if let Some(value) = query.get(name) { input type="hidden" name=(name) value=(value); }
            }
            button class="busy" { "Filter" }
            a href=(parts::link("/admin/jobs", &[("organization", kept(visitor).as_deref())], None)) { "Clear" }
        }
        @for name in ["fingerprint", "payload", "live", "endedAfter", "endedBefore"] {
            @if let Some(value) = query.get(name) { p class="muted" { "Only " (name) " " code { (value) } } }
        }
    }
}

/// Browsers show nothing for a value that is not theirs: another way of writing a time stays visible as text.
fn time_field(query: &JobQuery, name: &str) -> &'static str {
    if query.get(name).is_none_or(|value| value.len() == "2026-01-31T12:00".len()) { "datetime-local" } else { "text" }
}

fn select(label: &str, name: &str, words: &[&str], chosen: &str) -> Markup {
    html! {
        label { span { (label) }
            select name=(name) {
                option value="" { "any" }
                @for word in words { option value=(word) selected[*word == chosen] { (word.replace('_', " ")) } }
                @if !chosen.is_empty() && !words.contains(&chosen) { option value=(chosen) selected { (chosen) } }
            }
        }
    }
}

fn table(visitor: &Visitor, query: &JobQuery, found: &Found, names: &BTreeMap<OrganizationId, String>) -> Markup {
    let is_wide = visitor.is_platform();
    let mut head = vec!["Status", "Job", "Workflow", "Error", "Accepted", "Took", "Round"];
    if is_wide {
        head.insert(2, "Organization");
    }
    let rows: Vec<Markup> = found.rows.iter().map(|row| line(visitor, &job_views::summarize(row), names)).collect();
    let next = found.next.map(|next| next.to_string());
    html! {
        @if rows.is_empty() && found.next.is_none() { (parts::nothing("No job meets this filter.")) }
        @else if rows.is_empty() { (parts::nothing("No job here meets this filter.")) }
        @else { (parts::table("Jobs", &head, &rows)) }
        @if let Some(back) = found.looked_back_to {
            p class="muted" { "Looked through the jobs back to " (parts::time(back)) "; the next page goes on from there." }
        }
        (parts::next_page("/admin/jobs", &query.pairs(), next.as_deref()))
    }
}

fn line(visitor: &Visitor, job: &JobSummary, names: &BTreeMap<OrganizationId, String>) -> Markup {
    let took = job.finished_at.map(|end| parts::duration((end - job.created_at).as_seconds_f64()));
    html! {
        tr {
            td { (parts::status(job.status)) }
            td { (job_link(visitor, job.job_id)) }
            @if visitor.is_platform() { td { (organization(job.organization_id, names)) } }
            td { (job.workflow) " " span class="muted" { "v" (job.workflow_version) " · " (job.source) } }
            td { @if let Some(error) = &job.error { code { (error.code) } } @else { "–" } }
            td { (parts::time(job.created_at)) }
            td { (took.as_deref().unwrap_or("–")) }
            td class="number" { (job.round) }
        }
    }
}

/// An organization by its name, for who sees several.
pub(super) fn organization(id: OrganizationId, names: &BTreeMap<OrganizationId, String>) -> Markup {
    let path = format!("/admin/organizations/{id}");
    html! { a href=(path) { @if let Some(name) = names.get(&id) { bdi { (name) } } @else { (id) } } }
}

/// From the filter to an operation.
fn bulk(query: &JobQuery) -> Markup {
    let to = |kind: &str| {
        let mut pairs = vec![("kind", Some(kind))];
        pairs.extend(query.pairs());
        parts::link("/admin/operations/new", &pairs, None)
    };
    html! {
        section class="card" aria-labelledby="bulk" {
            h2 id="bulk" { "All jobs of this filter" }
            @if !query.is_narrow() { p class="muted" { "Without a filter these mean every failed job (cancel: every live one)." } }
            ul class="links" {
                li { a href=(to("retry")) { "Retry them" } }
                li { a href=(to("reprocess")) { "Reprocess them on the latest version" } }
                li { a href=(to("cancel")) { "Cancel them" } }
            }
        }
    }
}

fn exports(query: &JobQuery) -> Markup {
    let to = |format: &str| {
        let mut pairs = query.pairs();
        pairs.push(("format", Some(format)));
        parts::link("/admin/jobs/export", &pairs, None)
    };
    html! {
        p { "Export (at most " (parts::count(export::ROWS_MAX)) " jobs): "
            a href=(to("csv")) download { "CSV" } " · " a href=(to("ndjson")) download { "NDJSON" } }
    }
}
