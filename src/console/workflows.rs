//! `/admin/workflows`: the loaded workflows with the jobs that still run by each version; a version's file and steps.

use super::answer::Refused;
use super::jobs::{kept, value_of};
use super::page::{Page, Section};
use super::parts::{self, Tone};
use super::session::Visitor;
use crate::app::{App, kept};
use crate::db::{DbError, Scope};
use crate::engine::catalog::CatalogError;
use crate::engine::definition::{Ordering, RunWhen, StepDefinition, WorkflowDefinition};
use crate::engine::workflows_store::{self, VersionRow};
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

type InFlight = BTreeMap<(String, i32), i64>;

async fn read(app: &App, visitor: &Visitor, name: Option<String>) -> Result<(Vec<VersionRow>, InFlight), DbError> {
    let versions = app.db.unit::<_, DbError, _>(Scope::Global, move |connection| {
        Box::pin(async move { workflows_store::list_versions(connection, name.as_deref()).await })
    });
    let versions = versions.await?;
    let in_flight = in_flight(app, visitor).await?;
    Ok((versions, in_flight.iter().map(|(name, version, jobs)| ((name.clone(), *version), *jobs)).collect()))
}

/// Jobs in the queue of who looks by workflow and version, as they are now or were some seconds ago: all of it is counted.
pub(super) async fn in_flight(app: &App, visitor: &Visitor) -> Result<Arc<kept::InFlight>, DbError> {
    let organization = visitor.organization;
    let read = || {
        app.db.unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move { workflows_store::jobs_in_flight(connection, organization).await })
        })
    };
    app.kept.in_flight.get(organization, visitor.asks(), read).await
}

fn ordering(ordering: Ordering) -> &'static str {
    match ordering {
        Ordering::Organization => "one after another in an organization",
        Ordering::Patient => "one after another for a patient",
        Ordering::None => "side by side",
    }
}

fn path(visitor: &Visitor, name: &str, version: Option<i32>) -> String {
    let (version, kept) = (version.map(|version| version.to_string()), kept(visitor));
    let query = [("version", version.as_deref()), ("organization", kept.as_deref())];
    parts::link(&format!("/admin/workflows/{name}"), &query, None)
}

/// `GET /admin/workflows`
pub(super) async fn list(State(app): State<Arc<App>>, visitor: Visitor) -> Result<Response, Refused> {
    let (versions, in_flight) = read(&app, &visitor, None).await?;
    let registered: BTreeSet<(&str, i32)> = versions.iter().map(|row| (row.name.as_str(), row.version)).collect();
    let mut rows = Vec::new();
    for definition in app.catalog.latest_all() {
        let own = in_flight.get(&(definition.name.clone(), definition.version)).copied().unwrap_or(0);
        let older: i64 = in_flight
            .iter()
            .filter(|((name, version), _)| *name == definition.name && *version != definition.version)
            .map(|(_, jobs)| jobs)
            .sum();
        let known = registered.iter().filter(|(name, _)| *name == definition.name).count();
        let steps: Vec<&str> = definition.steps.iter().map(|step| step.name.as_str()).collect();
        rows.push(html! {
            tr {
                td { a href=(path(&visitor, &definition.name, None)) { (definition.name) } }
                td class="number" { (definition.version) }
                td class="number" { (parts::count(own)) }
                td class="number" { @if older > 0 { (parts::badge(&parts::count(older), Tone::Warn)) } @else { "0" } }
                td class="number" { (known) }
                td { (ordering(definition.ordering)) }
                td { (steps.join(" → ")) }
                td { (definition.summary) }
            }
        });
    }
    let head = [
        "Workflow",
        "Version",
        "Jobs in flight",
        "On other versions",
        "Registered versions",
        "Order",
        "Steps",
        "What it does",
    ];
    let live = parts::table("Workflows that this process has loaded", &head, &rows);
    Ok(Page::live(Section::Workflows, "Workflows", live).render(&visitor))
}

/// `GET /admin/workflows/{name}`
pub(super) async fn show(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(name): Path<String>,
    RawQuery(raw): RawQuery,
) -> Result<Response, Refused> {
    let missing = || Refused::NotFound("There is no such workflow, or no such version of it.");
    if name.contains('\0') {
        return Err(missing());
    }
    let (versions, in_flight) = read(&app, &visitor, Some(name.clone())).await?;
    let loaded = app.catalog.latest(&name).ok().map(|definition| definition.version);
    let wanted = match value_of(raw.as_deref(), "version") {
        Some(text) => text.parse().map_err(|_| missing())?,
        None => loaded.or_else(|| versions.first().map(|row| row.version)).ok_or_else(missing)?,
    };
    let row = versions.iter().find(|row| row.version == wanted).ok_or_else(missing)?;
    let file = {
        let name = name.clone();
        app.db.unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move { workflows_store::find_file(connection, &name, wanted).await })
        })
    };
    let file = file.await?.ok_or_else(missing)?;
    let definition = app.catalog.resolve(&app.db, &name, wanted).await;
    let live = html! { (table_of_versions(&visitor, &name, &versions, &in_flight, loaded, wanted)) };
    let after = html! {
        h2 { "Version " (wanted) }
        @match &definition {
            Ok(definition) => { (about(definition, row)) h3 { "Steps and how they are repeated" } (steps(definition)) }
            Err(CatalogError::Db(_)) => p class="fault" { "The version cannot be read now." }
            Err(_) => p class="fault" {
                "This program cannot run the version: it names a handler that is gone. Bring its handlers back, or retry the jobs on the latest version."
            }
        }
        h3 { "The file" }
        pre tabindex="0" aria-label="The workflow file" { (file) }
    };
    Ok(Page { section: Section::Workflows, title: name, before: html! {}, live, after }.render(&visitor))
}

fn table_of_versions(
    visitor: &Visitor,
    name: &str,
    versions: &[VersionRow],
    in_flight: &InFlight,
    loaded: Option<i32>,
    shown: i32,
) -> Markup {
    let rows: Vec<Markup> = versions
        .iter()
        .map(|row| {
            let jobs = in_flight.get(&(name.to_owned(), row.version)).copied().unwrap_or(0);
            html! {
                tr {
                    td {
                        a href=(path(visitor, name, Some(row.version))) aria-current=[(row.version == shown).then_some("true")] { (row.version) }
                        @if loaded == Some(row.version) { " " (parts::badge("new jobs", Tone::Good)) }
                    }
                    td class="number" { (parts::count(jobs)) }
                    td { (parts::time(row.registered_at)) }
                    td class="mono" { (hex::encode(&row.digest[..row.digest.len().min(8)])) "…" }
                }
            }
        })
        .collect();
    parts::table("Registered versions", &["Version", "Jobs in flight", "Registered", "SHA-256 of the file"], &rows)
}

fn about(definition: &WorkflowDefinition, row: &VersionRow) -> Markup {
    let bytes = |limit: Option<u64>| limit.map_or("as the server".to_owned(), |bytes| format!("{bytes} bytes"));
    html! {
        div class="card" {
            (parts::facts(&[
                ("What it does", html! { (definition.summary) }),
                ("Order", html! { (ordering(definition.ordering)) }),
                ("Priority", html! { (definition.priority) " (smaller is sooner)" }),
                ("Deadline", html! { (definition.deadline.map_or("none".to_owned(), said)) }),
                ("Largest body", html! { (bytes(definition.limits.body_max_bytes)) }),
                ("Most entries", html! { (definition.limits.entries_max.map_or("as the server".to_owned(), |entries| entries.to_string())) }),
                ("SHA-256", html! { span class="mono" { (hex::encode(&row.digest)) } }),
            ]))
        }
    }
}

fn said(duration: Duration) -> String {
    parts::duration(duration.as_secs_f64())
}

fn steps(definition: &WorkflowDefinition) -> Markup {
    let row = |step: &StepDefinition| {
        let retry = step.retry;
        html! {
            tr {
                th scope="row" { (step.name) }
                td class="mono" { (step.handler) }
                td { (match step.run { RunWhen::OnSuccess => "if the steps before it succeeded", RunWhen::Always => "always" }) }
                td { @if step.each_chunk { "chunk by chunk" } @else { "the whole job" } }
                td { (said(step.timeout)) }
                td class="number" { (retry.attempts) }
                td {
                    @if retry.attempts > 1 {
                        "up to " (said(retry.first_delay)) ", then × " (format!("{:.1}", retry.factor)) ", up to " (said(retry.max_delay))
                    } @else { "not repeated" }
                }
            }
        }
    };
    let rows: Vec<Markup> = definition.steps.iter().map(row).collect();
    parts::table("Steps", &["Step", "Handler", "Runs", "For", "Time limit", "Attempts", "Waits between them"], &rows)
}
