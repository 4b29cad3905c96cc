//! `/admin/failures`: failed jobs in groups that failed alike; what each means, and the way to retry it as a whole.

use super::answer::Refused;
use super::jobs::query::JobQuery;
use super::jobs::{job_link, kept, value_of};
use super::page::{Page, Section};
use super::parts::{self, Tone};
use super::session::Visitor;
use crate::app::{App, error_pages};
use crate::db::DbError;
use crate::engine::failures_store::{self, COUNTED_MAX, Fingerprint, Group, HOURS};
use axum::extract::{RawQuery, State};
use axum::response::Response;
use maud::{Markup, html};
use std::sync::Arc;

/// Groups of a page: more are not a list that anybody reads; filters narrow it.
const GROUPS_MAX: usize = 200;

/// `GET /admin/failures`
pub(super) async fn page(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    RawQuery(raw): RawQuery,
) -> Result<Response, Refused> {
    let wanted = |name: &str| value_of(raw.as_deref(), name);
    let (workflow, code, class) = (wanted("workflow"), wanted("code"), wanted("class"));
    let mut groups: Vec<Group> = (*all(&app, &visitor).await?).clone();
    let is = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted == text);
    groups.retain(|group| {
        is(&workflow, &group.fingerprint.workflow) && is(&code, &group.fingerprint.code) && is(&class, &group.class)
    });
    let is_cut = groups.len() > GROUPS_MAX;
    groups.truncate(GROUPS_MAX);
    let live = html! {
        @if groups.is_empty() { (parts::nothing("No job is failed here.")) }
        @for group in &groups { (card(&app, &visitor, group)) }
        @if is_cut { p class="muted" { "There are more groups: narrow the filter." } }
    };
    let page = Page {
        section: Section::Failures,
        title: "Failures".to_owned(),
        before: filter_form(&app, &visitor, workflow.as_deref(), code.as_deref(), class.as_deref()),
        live,
        after: html! {},
    };
    Ok(page.render(&visitor))
}

/// All groups of who looks, as they are now or were some seconds ago.
pub(super) async fn all(app: &App, visitor: &Visitor) -> Result<Arc<Vec<Group>>, DbError> {
    let (organization, scope) = (visitor.organization, visitor.scope());
    let read = || {
        app.db.unit::<_, DbError, _>(scope, move |connection| {
            Box::pin(async move { failures_store::groups(connection, organization).await })
        })
    };
    app.kept.failures.get(organization, visitor.asks(), read).await
}

fn filter_form(
    app: &App,
    visitor: &Visitor,
    workflow: Option<&str>,
    code: Option<&str>,
    class: Option<&str>,
) -> Markup {
    let names: Vec<&str> = app.catalog.latest_all().map(|workflow| workflow.name.as_str()).collect();
    let mut workflows = vec![("", "any")];
    workflows.extend(names.iter().map(|name| (*name, *name)));
    let classes =
        [("", "anybody"), ("ours", "operator"), ("sender", "sender"), ("transient", "nobody: it was tried again")];
    html! {
        form class="filter" method="get" action="/admin/failures" aria-label="Filter" {
            @if let Some(organization) = kept(visitor) { input type="hidden" name="organization" value=(organization); }
            (parts::choice("Workflow", "workflow", &workflows, workflow.unwrap_or_default()))
            (parts::choice("Who must act", "class", &classes, class.unwrap_or_default()))
            (parts::field("Error code", "code", code.unwrap_or_default(), "text"))
            button class="busy" { "Filter" }
        }
    }
}

/// The name of a fingerprint's step in the newest version of its workflow.
fn step_name(app: &App, fingerprint: &Fingerprint) -> String {
    let workflow = app.catalog.latest(&fingerprint.workflow).ok();
    let index = usize::try_from(fingerprint.step).ok();
    let step = workflow.as_ref().zip(index).and_then(|(workflow, index)| workflow.steps.get(index));
    step.map_or_else(|| format!("step {}", fingerprint.step), |step| step.name.clone())
}

/// Who must act on errors of a class.
pub(super) fn who(class: &str) -> Markup {
    let (word, tone) = match class {
        "sender" => ("the sender must act", Tone::Warn),
        "transient" => ("a dependency was away", Tone::Quiet),
        _ => ("an operator must act", Tone::Bad),
    };
    parts::badge(word, tone)
}

fn card(app: &App, visitor: &Visitor, group: &Group) -> Markup {
    let Fingerprint { workflow, code, .. } = &group.fingerprint;
    let step = step_name(app, &group.fingerprint);
    let explained = error_pages::explained(code);
    let title = explained.as_ref().map_or(code.as_str(), |explained| explained.title.as_str());
    let kept = kept(visitor);
    let query = JobQuery::default().with("fingerprint", group.fingerprint.to_string());
    let query = kept.into_iter().fold(query, |query, organization| query.with("organization", organization));
    let mut retry = vec![("kind", Some("retry"))];
    retry.extend(query.pairs());
    let id = format!("g-{workflow}-{}-{code}", group.fingerprint.step);
    let more = if group.is_capped { "at least " } else { "" };
    html! {
        section class="card failure" aria-labelledby=(id) {
            h2 id=(id) { (title) }
            p { code { (code) } " in " strong { (step) } " of " strong { (workflow) } " " (who(&group.class)) }
            div class="columns" {
                (parts::facts(&[
                    ("Failed jobs", html! { (more) strong { (parts::count(group.count)) }
                        @if group.organizations > 1 { " in " (group.organizations) " organizations" } }),
                    ("First seen", parts::time(group.first_seen)),
                    ("Last seen", parts::time(group.last_seen)),
                    ("A job of it", job_link(visitor, group.sample)),
                ]))
                div { p class="muted" { "Last " (HOURS) " hours" } (spark(&group.hours)) }
            }
            @if let Some(explained) = &explained {
                details id={ (id) "-means" } {
                    summary { "What it means, and what to do" }
                    @for text in &explained.meaning { p { (text) } }
                    h3 { "What to do" }
                    @for text in &explained.remedy { p { (text) } }
                }
            }
            p class="acts" {
                a href=(parts::link("/admin/jobs", &query.pairs(), None)) { "Show the jobs" }
                a href=(parts::link("/admin/operations/new", &retry, None)) { "Retry the group" }
            }
        }
    }
}

/// Failures by hour as bars; the highest is the full height.
pub(super) fn spark(hours: &[i64; HOURS]) -> Markup {
    let most = hours.iter().copied().max().unwrap_or(0);
    let sum: i64 = hours.iter().sum();
    let label = format!("{sum} in the last {HOURS} hours, at most {most} in one of them");
    html! {
        svg class="spark" viewBox="0 0 144 28" width="144" height="28" role="img" aria-label=(label) {
            line class="axis" x1="0" y1="27.5" x2="144" y2="27.5" {}
            @for (at, count) in hours.iter().enumerate().filter(|(_, count)| **count > 0) {
                @let height = height(*count, most);
                rect class="bar bad" x=(at * 6) y=(27 - height) width="5" height=(height) {}
            }
        }
    }
}

/// Of a bar, 2 to 26.
fn height(count: i64, most: i64) -> i64 {
    (count.min(COUNTED_MAX) * 26 / most.clamp(1, COUNTED_MAX)).clamp(2, 26)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_hour_has_the_full_height_and_the_lowest_is_still_seen() {
        assert_eq!([height(1, 10_000), height(5, 10), height(10, 10), height(20_000, 20_000)], [2, 13, 26, 26]);
        let mut hours = [0; HOURS];
        hours[HOURS - 1] = 7;
        let drawn = spark(&hours).into_string();
        assert_eq!(drawn.matches("<rect").count(), 1);
        assert!(drawn.contains("7 in the last 24 hours") && drawn.contains("x=\"138\""));
    }
}
