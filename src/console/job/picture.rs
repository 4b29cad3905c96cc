//! A job's course as a picture: a panel for each round, a line for each step, attempts and waits on the round's time axis.

use crate::console::parts;
use crate::engine::jobs::{AttemptRow, JobView, StepRow};
use crate::engine::reading::Story;
use crate::engine::state::StepStatus;
use maud::{Markup, html};
use time::OffsetDateTime;

/// Rounds that are drawn: the last ones. The table tells them all.
const ROUNDS_MAX: usize = 5;
/// Bars of a round, at most: chunks may have very many attempts.
const BARS_MAX: usize = 400;
const WIDTH: f64 = 960.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 16.0;
const LINE: f64 = 24.0;
const TOP: f64 = 22.0;
/// What ran for an instant is seen all the same.
const BAR_MIN: f64 = 3.0;

/// What a bar tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Bad,
    Warn,
    Busy,
    Quiet,
    /// Nobody works.
    Wait,
}

impl Kind {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "bar good",
            Self::Bad => "bar bad",
            Self::Warn => "bar warn",
            Self::Busy => "bar busy",
            Self::Quiet => "bar quiet",
            Self::Wait => "wait",
        }
    }
}

/// A stretch of time at a step.
#[derive(Debug, Clone)]
struct Bar {
    step: i16,
    start: OffsetDateTime,
    end: OffsetDateTime,
    kind: Kind,
    words: String,
}

/// One round.
#[derive(Debug, Clone)]
struct Panel {
    round: i32,
    start: OffsetDateTime,
    end: OffsetDateTime,
    bars: Vec<Bar>,
    marks: Vec<(OffsetDateTime, String)>,
}

/// The picture as of `now`.
pub(super) fn draw(story: &Story, view: &JobView, now: OffsetDateTime) -> Markup {
    let names: Vec<&str> = view.steps.iter().map(|step| step.name.as_str()).collect();
    let panels = panels(story, view, now);
    let hidden = panels.len().saturating_sub(ROUNDS_MAX);
    html! {
        @if hidden > 0 { p class="muted" { "The first " (hidden) " rounds are in the table only." } }
        @for panel in panels.iter().skip(hidden) { (panel_picture(panel, &names)) }
    }
}

fn panels(story: &Story, view: &JobView, now: OffsetDateTime) -> Vec<Panel> {
    let mut rounds: Vec<i32> = story.steps.iter().map(|step| step.round).collect();
    rounds.extend(story.attempts.iter().map(|attempt| attempt.round));
    rounds.push(view.round);
    rounds.sort_unstable();
    rounds.dedup();
    let retried: Vec<OffsetDateTime> =
        story.records.iter().filter(|record| record.event == "job.retried").map(|record| record.at).collect();
    let mut panels: Vec<Panel> = Vec::new();
    for round in rounds {
        let mut bars: Vec<Bar> =
            story.steps.iter().filter(|step| step.round == round).map(|step| step_bar(step, now)).collect();
        for attempt in story.attempts.iter().filter(|attempt| attempt.round == round).take(BARS_MAX) {
            bars.extend(attempt_bars(attempt, now));
        }
        let is_last = round == view.round;
        if is_last {
            bars.extend(live_bar(story, view, now));
        }
        // The record of the retry that opened it; retries that were undone have one, too.
        let opened = if round == 1 {
            Some(view.created_at)
        } else {
            let first = bars.iter().map(|bar| bar.start).min();
            retried.iter().copied().filter(|at| first.is_none_or(|first| *at <= first)).max()
        };
        let Some(start) = bars.iter().map(|bar| bar.start).chain(opened).min() else { continue };
        let ended = if is_last { Some(view.finished_at.unwrap_or(now)) } else { None };
        let end = bars.iter().map(|bar| bar.end).chain(ended).max().unwrap_or(start).max(start);
        if let Some(first) = bars.iter().map(|bar| (bar.start, bar.step)).min()
            && first.0 > start
        {
            let words = format!("waited {} for a worker", parts::duration((first.0 - start).as_seconds_f64()));
            bars.push(Bar { step: first.1, start, end: first.0, kind: Kind::Wait, words });
        }
        let marks = story.records.iter().filter(|record| record.at >= start && record.at <= end);
        let marks = marks.map(|record| (record.at, record.event.clone())).collect();
        panels.push(Panel { round, start, end, bars, marks });
    }
    panels
}

fn span(start: OffsetDateTime, end: OffsetDateTime) -> String {
    parts::duration((end - start).as_seconds_f64())
}

fn step_bar(step: &StepRow, now: OffsetDateTime) -> Bar {
    let start = step.started_at.unwrap_or(step.finished_at).min(step.finished_at);
    let kind = match StepStatus::parse(&step.status) {
        Some(StepStatus::Succeeded) => Kind::Good,
        Some(StepStatus::Failed) => Kind::Bad,
        _ => Kind::Quiet,
    };
    let cause = step.error_code.as_ref().map(|code| format!(", {code}")).unwrap_or_default();
    let words = format!(
        "{} {} after {} in attempt {}{cause}",
        step.name,
        step.status,
        span(start, step.finished_at),
        step.attempts
    );
    Bar { step: step.step, start, end: step.finished_at.min(now.max(start)), kind, words }
}

/// The attempt, and the wait behind it.
fn attempt_bars(attempt: &AttemptRow, now: OffsetDateTime) -> Vec<Bar> {
    let start = attempt.started_at.unwrap_or(attempt.finished_at).min(attempt.finished_at);
    let kind = match attempt.outcome.as_str() {
        "failed" => Kind::Bad,
        "lost" => Kind::Warn,
        _ => Kind::Quiet,
    };
    let chunk = if attempt.chunk > 0 { format!(" of chunk {}", attempt.chunk) } else { String::new() };
    let cause = attempt.error_code.as_ref().map(|code| format!(", {code}")).unwrap_or_default();
    let words = format!(
        "attempt {}{chunk} {} after {}{cause}",
        attempt.attempt,
        attempt.outcome,
        span(start, attempt.finished_at)
    );
    let mut bars = vec![Bar { step: attempt.step, start, end: attempt.finished_at, kind, words }];
    if let Some(next) = attempt.next_attempt_at.filter(|next| *next > attempt.finished_at && attempt.chunk == 0) {
        let words = format!("waits {} before the next attempt", span(attempt.finished_at, next));
        let end = next.min(now.max(attempt.finished_at));
        bars.push(Bar { step: attempt.step, start: attempt.finished_at, end, kind: Kind::Wait, words });
    }
    bars
}

/// What goes on now.
fn live_bar(story: &Story, view: &JobView, now: OffsetDateTime) -> Option<Bar> {
    let (state, step) = (story.row.queue_state.as_deref()?, story.row.queue_step?);
    let last = story.steps.iter().filter(|row| row.round == view.round).map(|row| row.finished_at);
    let since = match state {
        "leased" | "waiting" => story.row.claimed_at.or_else(|| last.max()),
        _ => last.chain([story.row.updated_at]).max(),
    };
    let start = since.unwrap_or(view.created_at).min(now);
    let (kind, words) = match state {
        "leased" => (Kind::Busy, format!("runs for {} now", span(start, now))),
        "waiting" => (Kind::Busy, "its chunks run now".to_owned()),
        "blocked" => (Kind::Wait, format!("waits for {} behind its lane", span(start, now))),
        _ => (Kind::Wait, format!("waits for {}", span(start, now))),
    };
    Some(Bar { step, start, end: now, kind, words })
}

/// Places on the axis of a panel.
struct Axis {
    start: OffsetDateTime,
    seconds: f64,
}

impl Axis {
    fn of(panel: &Panel) -> Self {
        Self { start: panel.start, seconds: (panel.end - panel.start).as_seconds_f64().max(0.001) }
    }

    fn x(&self, at: OffsetDateTime) -> f64 {
        let share = ((at - self.start).as_seconds_f64() / self.seconds).clamp(0.0, 1.0);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }
}

fn number(value: f64) -> String {
    format!("{value:.1}")
}

fn line_of(step: i16, lines: usize) -> f64 {
    let index = usize::try_from(step).unwrap_or(0).min(lines.saturating_sub(1));
    TOP + LINE * f64::from(u32::try_from(index).unwrap_or(0))
}

fn panel_picture(panel: &Panel, names: &[&str]) -> Markup {
    let axis = Axis::of(panel);
    let lines = names.len().max(1);
    let bottom = TOP + LINE * f64::from(u32::try_from(lines).unwrap_or(1));
    let height = bottom + 24.0;
    let took = parts::duration(axis.seconds);
    let told: Vec<&str> =
        panel.bars.iter().filter(|bar| bar.kind != Kind::Wait).map(|bar| bar.words.as_str()).collect();
    let label =
        format!("Round {}, {took}: {}", panel.round, told.iter().take(12).copied().collect::<Vec<_>>().join("; "));
    html! {
        h3 { "Round " (panel.round) " " span class="muted" { "from " (parts::time(panel.start)) " · " (took) } }
        div class="scroll" role="region" aria-label={ "Picture of round " (panel.round) } tabindex="0" {
            svg class="chart picture" viewBox={ "0 0 " (number(WIDTH)) " " (number(height)) } role="img" aria-label=(label) {
                @for quarter in 0..=4u32 {
                    @let share = f64::from(quarter) / 4.0;
                    @let x = LEFT + share * (WIDTH - LEFT - RIGHT);
                    line class="axis" x1=(number(x)) y1=(number(TOP - 4.0)) x2=(number(x)) y2=(number(bottom)) {}
                    text x=(number(x)) y=(number(bottom + 16.0)) text-anchor=(anchor(quarter)) { (tick(share * axis.seconds)) }
                }
                @for (index, name) in names.iter().enumerate() {
                    @let y = line_of(i16::try_from(index).unwrap_or(0), lines);
                    text class="name" x=(number(LEFT - 10.0)) y=(number(y + 15.0)) text-anchor="end" { (name) }
                }
                @for bar in &panel.bars { (bar_picture(bar, &axis, lines)) }
                @for (at, event) in &panel.marks {
                    g {
                        title { (event) }
                        line class="mark" x1=(number(axis.x(*at))) y1=(number(TOP - 8.0)) x2=(number(axis.x(*at))) y2=(number(bottom)) {}
                    }
                }
            }
        }
    }
}

fn anchor(quarter: u32) -> &'static str {
    match quarter {
        0 => "start",
        4 => "end",
        _ => "middle",
    }
}

fn tick(seconds: f64) -> String {
    if seconds > 0.0 { format!("+{}", parts::duration(seconds)) } else { "0".to_owned() }
}

fn bar_picture(bar: &Bar, axis: &Axis, lines: usize) -> Markup {
    let (from, to) = (axis.x(bar.start), axis.x(bar.end));
    let y = line_of(bar.step, lines);
    if bar.kind == Kind::Wait {
        return html! {
            g {
                title { (bar.words) }
                line class="wait" x1=(number(from)) y1=(number(y + 11.0)) x2=(number(to)) y2=(number(y + 11.0)) {}
            }
        };
    }
    let width = (to - from).max(BAR_MIN);
    // The narrowest bars stay inside.
    let from = from.min(WIDTH - RIGHT - width);
    html! {
        g {
            title { (bar.words) }
            rect class=(bar.kind.class()) x=(number(from)) y=(number(y + 3.0)) width=(number(width)) height="16" rx="2" {}
        }
    }
}
