//! `GET /admin/overview`: is all well? Throughput, time, the queue, what fails, who works, and what waits for people.
//!
//! Reads a few hundred rows that the sweeper keeps ([`crate::engine::figures`]) and counts nothing itself.

use super::answer::Refused;
use super::chart::{self, Series};
use super::overview_store::{self, COUNTED_MAX, Waiting};
use super::page::{Page, Section};
use super::parts::{self, Tone};
use super::session::Visitor;
use crate::app::App;
use crate::audit::store::{SealerStatus, sealer_status};
use crate::db::{DbError, Scope};
use crate::engine::failures_store::Group;
use crate::engine::figures::{BUCKETS, percentile};
use crate::engine::figures_list_store::{self, QueueFigures};
use crate::engine::figures_store::Figures;
use crate::engine::workers_store::{self, WorkerRow};
use crate::ids::OrganizationId;
use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;
use time::{Duration, OffsetDateTime, UtcOffset};

/// Organizations in the table of queues, at most.
const QUEUES: i64 = 200;
/// Of those, how many are shown.
const QUEUES_SHOWN: usize = 12;
/// Groups of failures that are shown.
const GROUPS_SHOWN: usize = 5;
/// A worker that has not reported for so long is not counted.
const SEEN: Duration = Duration::minutes(1);
/// The log should be sealed up to so long ago.
const SEALED: f64 = 120.0;

/// Query of the overview.
#[derive(Deserialize)]
pub(super) struct Asked {
    range: Option<String>,
}

/// How far back, and in which steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    word: &'static str,
    name: &'static str,
    step_seconds: i64,
    steps: usize,
}

const RANGES: [Range; 3] = [
    Range { word: "1h", name: "60 minutes", step_seconds: 60, steps: 60 },
    Range { word: "24h", name: "24 hours", step_seconds: 600, steps: 144 },
    Range { word: "14d", name: "14 days", step_seconds: 10_800, steps: 112 },
];

impl Range {
    fn of(word: Option<&str>) -> Self {
        RANGES.into_iter().find(|range| Some(range.word) == word).unwrap_or(RANGES[0])
    }

    /// The begin of its first step, on the step's own grid.
    fn begin(self, now: OffsetDateTime) -> OffsetDateTime {
        let last = now.unix_timestamp().div_euclid(self.step_seconds) * self.step_seconds;
        let steps = i64::try_from(self.steps).unwrap_or(0) - 1;
        OffsetDateTime::from_unix_timestamp(last - steps * self.step_seconds).unwrap_or(now)
    }

    fn index_of(self, begin: OffsetDateTime, at: OffsetDateTime) -> Option<usize> {
        usize::try_from((at - begin).whole_seconds().div_euclid(self.step_seconds))
            .ok()
            .filter(|index| *index < self.steps)
    }

    fn label(self, begin: OffsetDateTime, index: usize) -> String {
        let at = begin + Duration::seconds(self.step_seconds * i64::try_from(index).unwrap_or(0));
        let at = at.to_offset(UtcOffset::UTC);
        if self.step_seconds >= 3600 {
            format!("{:02}-{:02} {:02}h", u8::from(at.month()), at.day(), at.hour())
        } else {
            format!("{:02}:{:02}", at.hour(), at.minute())
        }
    }
}

/// All that is shown.
struct Facts {
    now: OffsetDateTime,
    counted_through: OffsetDateTime,
    figures: Vec<Figures>,
    queues: Vec<QueueFigures>,
    groups: Arc<Vec<Group>>,
    workers: Vec<WorkerRow>,
    waiting: Option<Waiting>,
    sealer: Option<SealerStatus>,
}

async fn read(app: &App, visitor: &Visitor, range: Range) -> Result<Facts, DbError> {
    let organization = visitor.organization;
    let sealer = app.db.unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(sealer_status(connection))).await?;
    let groups = super::failures::all(app, visitor).await?;
    app.db
        .unit::<_, DbError, _>(visitor.scope(), move |connection| {
            Box::pin(async move {
                let (counted_through, now) = figures_list_store::counted_through(connection).await?;
                let figures = figures_list_store::figures_since(connection, organization, range.begin(now)).await?;
                let queues = figures_list_store::queue_now(connection, organization, QUEUES).await?;
                let workers = workers_store::list_workers(connection).await?;
                let waiting = match organization {
                    Some(organization) => Some(overview_store::waiting(connection, organization).await?),
                    // Neither is anything of the platform's.
                    None => None,
                };
                Ok(Facts { now, counted_through, figures, queues, groups, workers, waiting, sealer })
            })
        })
        .await
}

/// `GET /admin/overview?range=1h|24h|14d`
pub(super) async fn overview(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Query(asked): Query<Asked>,
) -> Result<Response, Refused> {
    let range = Range::of(asked.range.as_deref());
    let facts = read(&app, &visitor, range).await?;
    let of = Of(visitor.is_platform().then_some(visitor.organization).flatten());
    let page = Page {
        section: Section::Overview,
        title: "Overview".to_owned(),
        before: ranges(range, of),
        live: live(&facts, range, of),
        after: html! {},
    };
    Ok(page.render(&visitor))
}

/// The organization that links must keep.
#[derive(Debug, Clone, Copy)]
struct Of(Option<OrganizationId>);

impl Of {
    fn link(self, path: &str, query: &[(&str, &str)]) -> String {
        let organization = self.0.map(|organization| organization.to_string());
        let mut all: Vec<(&str, Option<&str>)> = query.iter().map(|(name, value)| (*name, Some(*value))).collect();
        all.push(("organization", organization.as_deref()));
        parts::link(path, &all, None)
    }
}

fn ranges(chosen: Range, of: Of) -> Markup {
    html! {
        nav class="pager" aria-label="Range" {
            @for range in RANGES {
                a href=(of.link("/admin/overview", &[("range", range.word)])) aria-current=[(range == chosen).then_some("true")] { "Last " (range.name) }
            }
        }
    }
}

/// Figures of the range by step, and their sums.
struct Course {
    labels: Vec<String>,
    /// Accepted, succeeded, with issues, failed, retried.
    counts: Vec<[i64; 5]>,
    ended: Vec<Vec<i64>>,
    begun: Vec<i64>,
}

impl Course {
    fn of(facts: &Facts, range: Range) -> Self {
        let begin = range.begin(facts.now);
        let labels = (0..range.steps).map(|index| range.label(begin, index)).collect();
        let mut course = Self {
            labels,
            counts: vec![[0; 5]; range.steps],
            ended: vec![vec![0; BUCKETS]; range.steps],
            begun: vec![0; BUCKETS],
        };
        for row in &facts.figures {
            let Some(index) = range.index_of(begin, row.at) else { continue };
            let counts = [row.accepted, row.succeeded, row.with_issues, row.failed, row.retried];
            for (sum, count) in course.counts[index].iter_mut().zip(counts) {
                *sum += count;
            }
            add(&mut course.ended[index], &row.ended_in);
            add(&mut course.begun, &row.begun_in);
        }
        course
    }

    fn sum(&self, which: usize) -> i64 {
        self.counts.iter().map(|counts| counts[which]).sum()
    }
}

fn add(into: &mut [i64], from: &[i64]) {
    for (sum, count) in into.iter_mut().zip(from) {
        *sum += count;
    }
}

const ACCEPTED: [Series; 1] = [Series { name: "accepted", class: "busy" }];
const ENDED: [Series; 3] = [
    Series { name: "succeeded", class: "good" },
    Series { name: "with issues", class: "warn" },
    Series { name: "failed", class: "bad" },
];
const TIMES: [Series; 3] = [
    Series { name: "half of them (p50)", class: "good" },
    Series { name: "95 in 100 (p95)", class: "busy" },
    Series { name: "99 in 100 (p99)", class: "warn" },
];

fn live(facts: &Facts, range: Range, of: Of) -> Markup {
    let course = Course::of(facts, range);
    let mut ended = vec![0; BUCKETS];
    course.ended.iter().for_each(|buckets| add(&mut ended, buckets));
    let bars = |which: &[usize]| -> Vec<Vec<i64>> {
        course.counts.iter().map(|counts| which.iter().map(|index| counts[*index]).collect()).collect()
    };
    let lines: Vec<Vec<Option<f64>>> = [0.5, 0.95, 0.99]
        .iter()
        .map(|share| course.ended.iter().map(|buckets| percentile(buckets, *share)).collect())
        .collect();
    let accepted = format!("{} jobs accepted in the last {}", course.sum(0), range.name);
    let told = format!(
        "{} rounds succeeded, {} with issues, {} failed in the last {}",
        course.sum(1),
        course.sum(2),
        course.sum(3),
        range.name
    );
    html! {
        (tiles(facts, &course, &ended, range, of))
        div class="columns" {
            section class="card" { h2 { "Accepted" } (chart::bars(&accepted, &ACCEPTED, &course.labels, &bars(&[0]))) }
            section class="card" { h2 { "Ended" } (chart::bars(&told, &ENDED, &course.labels, &bars(&[1, 2, 3]))) }
            section class="card" {
                h2 { "From acceptance to the end" }
                (chart::lines(&times_told(&ended), &TIMES, &course.labels, &lines))
            }
            section class="card" { h2 { "Failures" } (failures(&facts.groups, of)) }
        }
        h2 { "Queue" }
        (queues(facts, of))
        p class="muted" {
            "Counted through " (parts::time(facts.counted_through)) ", first rounds of webhook and Athena jobs for the times. Hours are UTC."
        }
    }
}

fn times_told(ended: &[i64]) -> String {
    let [half, most, nearly_all] = [0.5, 0.95, 0.99].map(|share| time_of(ended, share));
    format!("Half of the jobs ended within {half}, 95 in 100 within {most}, 99 in 100 within {nearly_all}")
}

fn time_of(buckets: &[i64], share: f64) -> String {
    percentile(buckets, share).map_or_else(|| "–".to_owned(), |ms| parts::duration(ms / 1000.0))
}

fn tiles(facts: &Facts, course: &Course, ended: &[i64], range: Range, of: Of) -> Markup {
    let rounds = course.sum(1) + course.sum(2) + course.sum(3);
    let share = if rounds == 0 { 100 } else { (course.sum(1) + course.sum(2)) * 100 / rounds };
    let failed: i64 = facts.groups.iter().map(|group| group.count).sum();
    let is_capped = facts.groups.iter().any(|group| group.is_capped);
    let sum = |which: fn(&QueueFigures) -> i64| facts.queues.iter().map(which).sum::<i64>();
    let oldest = facts.queues.iter().filter_map(|queue| queue.oldest_ready_at).min();
    let age = oldest.map_or_else(|| "–".to_owned(), |at| parts::duration((facts.now - at).as_seconds_f64()));
    let seen: Vec<&WorkerRow> = facts
        .workers
        .iter()
        .filter(|worker| worker.stopped_at.is_none() && facts.now - worker.last_seen_at < SEEN)
        .collect();
    let in_flight: i64 = seen.iter().map(|worker| i64::from(worker.in_flight)).sum();
    let to = |path: &str, query: &[(&str, &str)], words: &str| html! { a href=(of.link(path, query)) { (words) } };
    html! {
        div class="tiles" {
            (parts::tile("Accepted", &parts::count(course.sum(0)), &html! { "in the last " (range.name) ", " (to("/admin/jobs", &[], "newest jobs")) }))
            (parts::tile("Ended", &parts::count(rounds), &html! { (share) " in 100 well, " (to("/admin/jobs", &[("status", "succeeded_with_issues")], "with issues")) }))
            (parts::tile("Failed now", &format!("{}{}", parts::count(failed), if is_capped { "+" } else { "" }), &html! {
                (parts::count(course.sum(3))) " rounds failed in the range, " (to("/admin/failures", &[], "failures"))
            }))
            (parts::tile("Retried", &parts::count(course.sum(4)), &html! { "rounds, " (to("/admin/operations", &[], "operations")) }))
            (parts::tile("Time to the end", &time_of(ended, 0.5), &html! { "p95 " (time_of(ended, 0.95)) ", p99 " (time_of(ended, 0.99)) }))
            (parts::tile("Time to the first step", &time_of(&course.begun, 0.5), &html! { "p95 " (time_of(&course.begun, 0.95)) ", p99 " (time_of(&course.begun, 0.99)) }))
            (parts::tile("Waiting", &parts::count(sum(|queue| queue.waiting)), &html! {
                "oldest " (age) ", " (parts::count(sum(|queue| queue.running))) " running, " (to("/admin/jobs", &[("status", "queued")], "queue"))
            }))
            (parts::tile("In backoff", &parts::count(sum(|queue| queue.delayed)), &html! { (to("/admin/jobs", &[("status", "retrying")], "retrying")) }))
            (parts::tile("Lanes held", &parts::count(sum(|queue| queue.lanes_held)), &html! {
                (parts::count(sum(|queue| queue.blocked))) " jobs behind others, " (to("/admin/lanes", &[], "lanes"))
            }))
            (parts::tile("Workers", &seen.len().to_string(), &html! {
                @if seen.is_empty() { (parts::badge("none reports", Tone::Bad)) " " }
                (in_flight) " leases, " (to("/admin/workers", &[], "workers"))
            }))
            @if let Some(waiting) = facts.waiting {
                // Who may not decide them is not sent there.
                @if of.0.is_none() {
                    (parts::tile("Reviews", &at_most(waiting.reviews), &html! { "links to decide, " (to("/admin/reviews", &[], "reviews")) }))
                }
                (parts::tile("Callbacks failing", &parts::count(waiting.callbacks), &html! { (to("/admin/organizations", &[], "organization")) }))
            }
            (audit_tile(facts.sealer.as_ref(), of))
        }
    }
}

fn at_most(count: i64) -> String {
    if count > COUNTED_MAX { format!("{}+", parts::count(COUNTED_MAX)) } else { parts::count(count) }
}

fn audit_tile(sealer: Option<&SealerStatus>, of: Of) -> Markup {
    let link = html! { a href=(of.link("/admin/audit", &[])) { "audit log" } };
    let Some(sealer) = sealer else {
        return parts::tile("Audit sealed", "–", &html! { (parts::badge("no sealer ran yet", Tone::Warn)) " " (link) });
    };
    let is_well = sealer.state == "sealing" && sealer.unsealed_seconds < SEALED;
    let beside = html! {
        @if is_well { (parts::badge("sealing", Tone::Good)) }
        @else if sealer.state == "sealing" { (parts::badge("behind", Tone::Warn)) }
        @else { (parts::badge(&sealer.state.replace('_', " "), Tone::Bad)) }
        " " (link)
    };
    parts::tile("Audit sealed until", &format!("{} ago", parts::duration(sealer.unsealed_seconds)), &beside)
}

fn failures(groups: &[Group], of: Of) -> Markup {
    let mut most: Vec<&Group> = groups.iter().collect();
    most.sort_by_key(|group| (-group.count, group.fingerprint.clone()));
    let rows: Vec<Markup> = most
        .iter()
        .take(GROUPS_SHOWN)
        .map(|group| {
            let of_group = [("workflow", group.fingerprint.workflow.as_str()), ("code", group.fingerprint.code.as_str())];
            html! {
                tr {
                    th scope="row" {
                        a href=(of.link("/admin/failures", &of_group)) { (group.fingerprint.code) }
                        br; span class="muted" { (group.fingerprint.workflow) ", step " (group.fingerprint.step + 1) }
                    }
                    td class="number" { (parts::count(group.count)) @if group.is_capped { "+" } }
                    td { (chart::sparkline(&format!("{} in the last 24 hours", group.hours.iter().sum::<i64>()), &group.hours)) }
                    td { (parts::time(group.last_seen)) }
                }
            }
        })
        .collect();
    html! {
        @if rows.is_empty() { (parts::nothing("No job is failed now.")) }
        @else {
            (parts::table("Most frequent failures", &["Code", "Failed now", "24 hours", "Last seen"], &rows))
            @if groups.len() > GROUPS_SHOWN { p { a href=(of.link("/admin/failures", &[])) { "All " (groups.len()) " groups" } } }
        }
    }
}

fn queues(facts: &Facts, of: Of) -> Markup {
    let rows: Vec<Markup> = facts
        .queues
        .iter()
        .take(QUEUES_SHOWN)
        .map(|queue| {
            html! {
                tr {
                    th scope="row" {
                        a href=(of.link(&format!("/admin/organizations/{}", queue.organization_id), &[])) { bdi { (queue.name) } }
                        @if queue.status != "active" { " " (parts::badge(&queue.status, Tone::Warn)) }
                    }
                    td class="number" { (parts::count(queue.waiting)) }
                    td { @if let Some(at) = queue.oldest_ready_at { (parts::time(at)) } @else { "–" } }
                    td class="number" { (parts::count(queue.running)) }
                    td class="number" { (parts::count(queue.delayed)) }
                    td class="number" { (parts::count(queue.blocked)) }
                    td class="number" { (parts::count(queue.lanes_held)) }
                }
            }
        })
        .collect();
    html! {
        @if rows.is_empty() { (parts::nothing("The queue is empty.")) }
        @else {
            (parts::table("Queues by organization", &["Organization", "Waiting", "Oldest since", "Running", "In backoff", "Behind others", "Lanes held"], &rows))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_with_the_step_of_now_and_begins_on_its_grid() {
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_123).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        for range in RANGES {
            let begin = range.begin(now);
            assert_eq!(begin.unix_timestamp() % range.step_seconds, 0);
            assert_eq!(range.index_of(begin, now), Some(range.steps - 1));
            assert_eq!(range.index_of(begin, begin), Some(0));
            assert_eq!(range.index_of(begin, begin - Duration::SECOND), None);
        }
        assert_eq!(Range::of(Some("nonsense")), RANGES[0]);
    }
}
