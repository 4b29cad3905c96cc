//! The parts of a job's page.

use super::Beside;
use crate::callbacks::messages_store::JobMessage;
use crate::console::failures::who;
use crate::console::jobs::{job_link, kept, organization};
use crate::console::parts::{self, Tone};
use crate::console::session::Visitor;
use crate::engine::jobs::{ErrorView, JobView, StepView};
use crate::engine::reading::Story;
use crate::engine::state::StepStatus;
use crate::ids::OrganizationId;
use crate::ingest::issues::StoredIssue;
use maud::{Markup, html};
use serde_json::Value;
use std::collections::BTreeMap;

/// Entries of the table of a job's course: the last ones.
const ENTRIES_MAX: usize = 300;
/// Members of an output that are shown.
const MEMBERS_MAX: usize = 40;

/// The job in names and values.
pub(super) fn facts(view: &JobView, names: &BTreeMap<OrganizationId, String>, visitor: &Visitor) -> Markup {
    let took = view.finished_at.map(|end| parts::duration((end - view.created_at).as_seconds_f64()));
    let mut facts = vec![
        ("Status", parts::status(view.status)),
        (
            "Workflow",
            html! { a href={ "/admin/workflows/" (view.workflow) } { (view.workflow) } " version " (view.workflow_version) },
        ),
        ("Organization", organization(view.organization_id, names)),
        ("Source", html! { (view.source) }),
        ("Submitted by", html! { (view.submitted_by) }),
        ("Round", html! { (view.round) }),
        ("Accepted", parts::time(view.created_at)),
        ("Started", parts::time_or_dash(view.started_at)),
        ("Ended", parts::time_or_dash(view.finished_at)),
        ("Accepted to ended", html! { (took.as_deref().unwrap_or("–")) }),
    ];
    if view.progress.total > 0 {
        let (done, total) = (view.progress.done, view.progress.total);
        let label = format!("{done} of {total} {}", view.progress.unit);
        facts.push(("Progress", html! { progress max=(total) value=(done) aria-label=(label) { (label) } (label) }));
    }
    if view.progress.expected_at.is_some() {
        facts.push(("Expected end", parts::time_or_dash(view.progress.expected_at)));
    }
    if let Some(first) = view.duplicate_of {
        facts.push(("Same bytes as", job_link(visitor, first)));
    }
    if let Some(error) = &view.error {
        facts.push(("Error", fault(error)));
    }
    parts::facts(&facts)
}

fn fault(error: &ErrorView) -> Markup {
    html! { a href={ "/docs/errors/" (error.code) } { code { (error.code) } } " " (who(&error.class)) br; (error.message) }
}

/// Every attempt, wait and act as a table.
pub(super) fn course(story: &Story) -> Markup {
    let entries = story.timeline();
    let hidden = entries.len().saturating_sub(ENTRIES_MAX);
    let rows: Vec<Markup> = entries
        .iter()
        .skip(hidden)
        .map(|entry| {
            let took = entry.duration_ms.map(|ms| {
                let seconds = std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0)).as_secs_f64();
                parts::duration(seconds)
            });
            html! {
                tr {
                    td { (parts::time(entry.at)) }
                    td { (entry.event) }
                    td { (entry.step.as_deref().unwrap_or("–")) @if let Some(chunk) = entry.chunk { " chunk " (chunk) } }
                    td class="number" { @if let Some(round) = entry.round { (round) } @else { "–" } }
                    td class="number" { @if let Some(attempt) = entry.attempt { (attempt) } @else { "–" } }
                    td { (took.as_deref().unwrap_or("–")) }
                    td { @if let Some(error) = &entry.error { code { (error.code) } } @else { "–" } }
                    td { (parts::time_or_dash(entry.next_attempt_at)) }
                }
            }
        })
        .collect();
    let head = ["When", "What", "Step", "Round", "Attempt", "Took", "Error", "Next attempt"];
    html! {
        details class="card" id="course" {
            summary { "The same as a table (" (entries.len()) " entries)" }
            @if hidden > 0 { p class="muted" { "The last " (ENTRIES_MAX) " of them." } }
            (parts::table("Course of the job", &head, &rows))
        }
    }
}

/// A step's status.
fn step_status(status: StepStatus) -> Markup {
    let tone = match status {
        StepStatus::Succeeded => Tone::Good,
        StepStatus::Running => Tone::Busy,
        StepStatus::Retrying => Tone::Warn,
        StepStatus::Failed => Tone::Bad,
        StepStatus::Pending | StepStatus::Skipped => Tone::Quiet,
    };
    parts::badge(status.as_str(), tone)
}

/// Steps with what came out of them.
pub(super) fn steps(view: &JobView) -> Markup {
    let rows: Vec<Markup> = view.steps.iter().map(step).collect();
    parts::table("Steps", &["Step", "Status", "Attempts", "Started", "Took", "Error", "Output"], &rows)
}

fn step(step: &StepView) -> Markup {
    let span = step.started_at.zip(step.finished_at);
    let took = span.map(|(start, end)| parts::duration((end - start).as_seconds_f64()));
    html! {
        tr {
            th scope="row" { (step.name) }
            td { (step_status(step.status)) @if let Some(next) = step.next_attempt_at { br; "next " (parts::time(next)) } }
            td class="number" { (step.attempts) @if step.max_attempts > 0 { " of " (step.max_attempts) } }
            td { (parts::time_or_dash(step.started_at)) }
            td { (took.as_deref().unwrap_or("–")) }
            td { @if let Some(error) = &step.error { (fault(error)) } @else { "–" } }
            td { @if let Some(output) = &step.output { (members(output)) } @else { "–" } }
        }
    }
}

/// The members of an output, nested ones by their path: counts, codes and ids.
fn members(output: &Value) -> Markup {
    let mut found = Vec::new();
    flatten(String::new(), output, &mut found);
    let hidden = found.len().saturating_sub(MEMBERS_MAX);
    html! {
        ul class="members" {
            @for (name, value) in found.iter().take(MEMBERS_MAX) { li { span class="muted" { (name) } " " (value) } }
            @if hidden > 0 { li class="muted" { "and " (hidden) " more" } }
        }
    }
}

fn flatten(path: String, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(path, value, found);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            found.push((path, format!("{} items", items.len())));
        }
        Value::Array(items) => {
            let texts: Vec<String> = items.iter().map(text).collect();
            found.push((path, texts.join(", ")));
        }
        other => found.push((path, text(other))),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn severity(word: &str) -> Markup {
    let tone = match word {
        "fatal" | "error" => Tone::Bad,
        "warning" => Tone::Warn,
        _ => Tone::Quiet,
    };
    parts::badge(word, tone)
}

/// Counts by code, and the first issues: what the API shows to the same role.
pub(super) fn issues(view: &JobView, beside: &Beside) -> Markup {
    if beside.counts.is_empty() {
        return parts::nothing("No issues are stored for this job.");
    }
    let counts: Vec<Markup> = beside
        .counts
        .iter()
        .map(|count| {
            html! { tr { td { (severity(&count.severity)) } td { code { (count.code) } } td class="number" { (parts::count(count.count)) } } }
        })
        .collect();
    let counted: i64 = beside.counts.iter().map(|count| count.count).sum();
    let rows: Vec<Markup> = beside.issues.iter().map(issue).collect();
    html! {
        (parts::table("Issues by code", &["Severity", "Code", "Count"], &counts))
        @if counted >= super::ISSUES_COUNTED { p class="muted" { "The first " (parts::count(counted)) " issues are counted." } }
        h3 { "The first of them" }
        (parts::table("First issues", &["Severity", "Code", "Where", "Expression", "Message"], &rows))
        @if beside.has_more_issues {
            p class="muted" { "All of them: " code { "GET /v1/ingestion/jobs/" (view.job_id) "/issues" } }
        }
    }
}

fn issue(issue: &StoredIssue) -> Markup {
    html! {
        tr {
            td { (severity(&issue.severity)) }
            td { code { (issue.code) } }
            td {
                @if let Some(line) = issue.line { "line " (line) " " }
                @if let Some(entry) = issue.entry { "entry " (entry) " " }
                @if let Some(offset) = issue.offset { span class="muted" { "byte " (offset) } }
            }
            td { code { (issue.expression.as_deref().or(issue.pointer.as_deref()).unwrap_or("–")) } }
            td { (issue.message) }
        }
    }
}

/// The bytes: what is known about them without reading them.
pub(super) fn payload(view: &JobView, beside: &Beside, visitor: &Visitor) -> Markup {
    let mut facts = Vec::new();
    if let Some(payload) = &view.payload {
        let query = [("organization", kept(visitor)), ("payload", Some(payload.sha256.clone()))];
        let query: Vec<(&str, Option<&str>)> = query.iter().map(|(name, value)| (*name, value.as_deref())).collect();
        let path = parts::link("/admin/jobs", &query, None);
        facts.push(("SHA-256", html! { a class="mono" href=(path) { (payload.sha256) } }));
        facts.push(("Size", html! { (parts::count(payload.size_bytes)) " bytes" }));
        facts.push(("Media type", html! { (payload.content_type) }));
    }
    if let Some(place) = &beside.place {
        facts.push(("First received", parts::time(place.created_at)));
        facts.push(("In object storage since", parts::time_or_dash(place.stored_at)));
        facts.push(("Bytes in the database", html! { @if place.is_in_database { "yes" } @else { "no" } }));
        if place.purged_at.is_some() {
            facts.push(("Erased", parts::time_or_dash(place.purged_at)));
        }
        if place.expired_at.is_some() {
            facts.push(("Let go because of its age", parts::time_or_dash(place.expired_at)));
        }
    }
    if !view.resource_count.is_empty() {
        let counts: Vec<String> = view.resource_count.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        facts.push(("Entries", html! { (counts.join(", ")) }));
    }
    if let Some(upload) = &beside.upload {
        facts.push(("Upload", html! { span class="mono" { (upload.id) } }));
        if let Some(size) = upload.declared_size_bytes {
            facts.push(("Declared size", html! { (parts::count(size)) " bytes" }));
        }
        facts.push(("URL given out", parts::time(upload.created_at)));
        facts.push(("URL ended", parts::time(upload.expires_at)));
        facts.push(("File came", parts::time_or_dash(upload.arrived_at)));
    }
    html! { @if facts.is_empty() { (parts::nothing("No bytes have come yet.")) } @else { (parts::facts(&facts)) } }
}

/// Acts on the job as the audit log has them.
pub(super) fn records(story: &Story, visitor: &Visitor) -> Markup {
    let rows: Vec<Markup> = story
        .records
        .iter()
        .map(|record| {
            html! {
                tr {
                    td { (parts::time(record.at)) }
                    td { (record.event) }
                    td { (record.step.as_deref().unwrap_or("–")) }
                    td { (record.actor) }
                    td { @if let Some(reason) = &record.purpose { bdi { (reason) } } @else { "–" } }
                }
            }
        })
        .collect();
    let job = story.row.id.to_string();
    let kept = kept(visitor);
    let all = parts::link("/admin/audit", &[("organization", kept.as_deref()), ("job", Some(&job))], None);
    html! {
        @if rows.is_empty() { (parts::nothing("Nobody has acted on this job, and nothing went wrong.")) }
        @else { (parts::table("Acts on the job", &["When", "Event", "Step", "Who", "Reason"], &rows)) }
        p { a href=(all) { "All records of this job" } }
    }
}

/// What callbacks were told.
pub(super) fn messages(messages: &[JobMessage]) -> Markup {
    let rows: Vec<Markup> = messages
        .iter()
        .map(|message| {
            let tone = match message.status.as_str() {
                "delivered" => Tone::Good,
                "failed" => Tone::Bad,
                _ => Tone::Busy,
            };
            html! {
                tr {
                    td { (parts::badge(&message.status, tone)) }
                    td class="mono" { (message.callback_id) }
                    td { "job." (message.event) }
                    td class="number" { (message.round) }
                    td class="number" { (message.attempts) }
                    td { (parts::time(message.created_at)) }
                    td { (parts::time_or_dash(message.ended_at)) }
                }
            }
        })
        .collect();
    parts::table("Messages to callbacks", &["Status", "Callback", "Event", "Round", "Attempts", "Made", "Ended"], &rows)
}
