//! `GET /admin/lanes`: lanes in which jobs wait behind another one, and what that one waits for.

use super::answer::Refused;
use super::jobs::{job_link, kept, value_of};
use super::page::{Page, Section};
use super::parts::{self, Tone};
use super::session::Visitor;
use crate::app::App;
use crate::engine::lanes::{self, BlockedLane, LaneHead};
use axum::extract::{RawQuery, State};
use axum::response::Response;
use maud::{Markup, html};
use std::sync::Arc;

/// Lanes of a page.
const PAGE: i64 = 50;

/// `GET /admin/lanes`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    RawQuery(raw): RawQuery,
) -> Result<Response, Refused> {
    let bad = || Refused::Invalid("The cursor is none of an earlier page.".to_owned());
    let cursor = value_of(raw.as_deref(), "cursor");
    let after = cursor.map(|text| lanes::parse_cursor(&text).ok_or_else(bad)).transpose()?;
    let (lanes, next) = lanes::blocked(&app.db, &app.catalog, visitor.organization, after, PAGE).await?;
    let before = html! {
        p class="muted" {
            "Jobs of a lane run one after another. Here stand the lanes in which somebody waits; one whose first job is in backoff for long steps aside by itself."
        }
    };
    let live = if lanes.is_empty() {
        parts::nothing("No job waits behind another one.")
    } else {
        let mut head = vec!["Waiting", "Since", "Workflow", "Behind", "State", "Why"];
        if visitor.organization.is_none() {
            head.insert(0, "Organization");
        }
        let rows: Vec<Markup> = lanes.iter().map(|lane| row(&visitor, lane)).collect();
        html! {
            (parts::table("Lanes in which jobs wait", &head, &rows))
            (parts::next_page("/admin/lanes", &[("organization", kept(&visitor).as_deref())], next.as_deref()))
        }
    };
    Ok(Page { section: Section::Lanes, title: "Lanes".to_owned(), before, live, after: html! {} }.render(&visitor))
}

fn row(visitor: &Visitor, lane: &BlockedLane) -> Markup {
    let waiting = parts::count(lane.waiting);
    html! {
        tr {
            @if visitor.organization.is_none() {
                td { a href={ "/admin/organizations/" (lane.organization_id) } { (lane.organization) } }
            }
            td class="number" { @if lane.waiting_more { "more than " } (waiting) }
            td { (parts::time(lane.waiting_since)) }
            td { (lane.workflow) }
            td {
                @if let Some(head) = &lane.head { (job_link(visitor, head.job_id)) } @else { "–" }
            }
            td {
                @if let Some(head) = &lane.head { (state(head)) } @else { "–" }
            }
            td {
                (lane.why)
                @if let Some(next) = lane.head.as_ref().and_then(|head| head.next_attempt_at) { " Next attempt: " (parts::time(next)) }
            }
        }
    }
}

fn state(head: &LaneHead) -> Markup {
    let tone = match head.state.as_str() {
        "leased" | "waiting" | "ready" => Tone::Busy,
        "suspect" => Tone::Bad,
        _ => Tone::Warn,
    };
    let word = match head.state.as_str() {
        "leased" => "running",
        "delayed" => "in backoff",
        "waiting" => "waits for its chunks",
        other => other,
    };
    html! {
        (parts::badge(word, tone))
        @if let Some(step) = &head.step { " " (step) }
        @if head.attempts > 1 { " · attempt " (head.attempts) }
        @if head.deaths > 0 { " · " (head.deaths) " death(s)" }
    }
}
