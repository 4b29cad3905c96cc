//! Parts that pages are composed of. Whatever is stored is text here, never markup: maud escapes it.

use crate::engine::state::JobStatus;
use maud::{Markup, html};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// A point in time: readable in UTC; the script adds how long ago that was.
pub(super) fn time(at: OffsetDateTime) -> Markup {
    let machine = at.format(&Rfc3339).unwrap_or_default();
    let readable = at
        .to_offset(time::UtcOffset::UTC)
        .format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"))
        .unwrap_or_default();
    html! { time datetime=(machine) { (readable) } }
}

/// The same, or a dash.
pub(super) fn time_or_dash(at: Option<OffsetDateTime>) -> Markup {
    html! { @if let Some(at) = at { (time(at)) } @else { "–" } }
}

/// A duration as people say it: `850 ms`, `12.3 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn duration(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shown to people, bounded below by 0")]
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        _ if seconds < 0.9995 => format!("{:.0} ms", (seconds * 1000.0).max(0.0)),
        0..60 => format!("{seconds:.1} s"),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

/// A count with thin spaces between thousands.
pub(super) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "−" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// How grave a word is; colors never say it alone, the word stands beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Busy,
    Warn,
    Bad,
    Quiet,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Quiet => "quiet",
        }
    }
}

/// A word in its tone.
pub(super) fn badge(word: &str, tone: Tone) -> Markup {
    html! { span class={ "badge " (tone.class()) } { (word) } }
}

/// A job's status.
pub(super) fn status(status: JobStatus) -> Markup {
    let tone = match status {
        JobStatus::Succeeded => Tone::Good,
        JobStatus::Running | JobStatus::Queued => Tone::Busy,
        JobStatus::SucceededWithIssues | JobStatus::Retrying => Tone::Warn,
        JobStatus::Failed => Tone::Bad,
        JobStatus::AwaitingUpload | JobStatus::Cancelled | JobStatus::Expired => Tone::Quiet,
    };
    badge(&status.as_str().replace('_', " "), tone)
}

/// Names and what they are, in pairs.
pub(super) fn facts(pairs: &[(&str, Markup)]) -> Markup {
    html! { dl class="facts" { @for (name, value) in pairs { div { dt { (name) } dd { (value) } } } } }
}

/// A figure with its name, as a tile.
pub(super) fn tile(name: &str, value: &str, beside: &Markup) -> Markup {
    html! { div class="tile" { span class="name" { (name) } span class="value" { (value) } span class="beside" { (beside) } } }
}

/// A table that scrolls by itself where the window is narrow.
pub(super) fn table(caption: &str, head: &[&str], rows: &[Markup]) -> Markup {
    html! {
        div class="scroll" role="region" aria-label=(caption) tabindex="0" {
            table {
                caption class="unseen" { (caption) }
                thead { tr { @for name in head { th scope="col" { (name) } } } }
                tbody { @for row in rows { (row) } }
            }
        }
    }
}

/// Said where a list is empty.
pub(super) fn nothing(what: &str) -> Markup {
    html! { p class="empty" { (what) } }
}

/// To the next page of a list, by the cursor; the rest of the query stays.
pub(super) fn next_page(path: &str, query: &[(&str, Option<&str>)], cursor: Option<&str>) -> Markup {
    html! {
        nav class="pager" aria-label="Pages" {
            a href=(link(path, query, None)) { "First page" }
            @if let Some(cursor) = cursor { a rel="next" href=(link(path, query, Some(cursor))) { "Next page" } }
        }
    }
}

/// A path with those parts of the query that are given.
pub(super) fn link(path: &str, query: &[(&str, Option<&str>)], cursor: Option<&str>) -> String {
    let given =
        query.iter().filter_map(|(name, value)| Some((*name, (*value)?))).filter(|(_, value)| !value.is_empty());
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(given.chain(cursor.map(|cursor| ("cursor", cursor))))
        .finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// A text field with its label.
pub(super) fn field(label: &str, name: &str, value: &str, kind: &str) -> Markup {
    html! { label { span { (label) } input type=(kind) name=(name) value=(value) autocomplete="off"; } }
}

/// A choice with its label; the first pair of a value and its words is the default.
pub(super) fn choice(label: &str, name: &str, options: &[(&str, &str)], chosen: &str) -> Markup {
    html! {
        label { span { (label) }
            select name=(name) { @for (value, words) in options { option value=(value) selected[*value == chosen] { (words) } } }
        }
    }
}

/// An act: what is posted where, after a reason was given. It stands closed until somebody opens it.
pub(super) fn act(summary: &str, action: &str, tone: Tone, fields: &Markup, button: &str) -> Markup {
    html! {
        details class="act" {
            summary { (summary) }
            form method="post" action=(action) {
                (fields)
                label class="wide" { span { "Reason (goes into the audit log)" } input type="text" name="reason" required maxlength="1000" autocomplete="off"; }
                button class=(tone.class()) { (button) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_counts_read_as_people_say_them() {
        let said: Vec<String> = [0.0, 0.85, 12.34, 250.0, 7_500.0, 273_600.0].map(duration).into();
        assert_eq!(said, ["0 ms", "850 ms", "12.3 s", "4 min 10 s", "2 h 5 min", "3 d 4 h"]);
        assert_eq!(
            [0, 999, 1_000, 1_234_567, -12_345].map(count),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567", "−12\u{202f}345"]
        );
    }

    #[test]
    fn a_link_holds_only_what_is_given_and_escapes_it() {
        assert_eq!(link("/admin/jobs", &[("status", None), ("workflow", Some(""))], None), "/admin/jobs");
        assert_eq!(
            link("/admin/jobs", &[("q", Some("a&b=\"<"))], Some("job_1")),
            "/admin/jobs?q=a%26b%3D%22%3C&cursor=job_1"
        );
    }
}
