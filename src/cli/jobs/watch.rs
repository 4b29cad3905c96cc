//! `jobs watch`: one job live to its end, or the organization's newest jobs. In a terminal the picture is drawn anew; elsewhere each
//! change is a line.

use super::text;
use crate::cli::client::Client;
use crate::cli::out::{self, Screen};
use crate::clock::Clock;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Statuses at which a job has ended.
const ENDED: [&str; 5] = ["succeeded", "succeeded_with_issues", "failed", "cancelled", "expired"];
/// Jobs of the list that is drawn.
const NEWEST: usize = 15;
/// Jobs that are looked at: whose changes are lines, and that an end is waited for.
const WATCHED: usize = 100;

/// Has it ended?
fn has_ended(status: &str) -> bool {
    ENDED.contains(&status)
}

fn code(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn is_good(status: &str) -> bool {
    status.starts_with("succeeded")
}

/// Did an ended job do what it was for? One that was cancelled or expired did not.
pub fn has_succeeded(view: &Value) -> bool {
    is_good(&text(view, "status"))
}

/// One job to its end; exit 1 unless it succeeded. With `json` the job as it ended is printed.
///
/// # Errors
/// The server's refusal.
pub async fn one(client: &Client, job: &str, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let ended = follow(client, job, false).await?;
        out::json(&ended)?;
        return Ok(code(is_good(&text(&ended, "status"))));
    }
    if !out::is_terminal() {
        let ended = follow(client, job, true).await?;
        return Ok(code(is_good(&text(&ended, "status"))));
    }
    let mut screen = Screen::default();
    loop {
        // A second at most: the times on the screen move on.
        let view: Value = client.get(&format!("/v1/ingestion/jobs/{job}?wait=1")).await?;
        screen.draw(&picture(&view, Clock::system().now()));
        let status = text(&view, "status");
        if has_ended(&status) {
            return Ok(code(is_good(&status)));
        }
    }
}

fn instant(value: &Value) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(value.as_str()?, &Rfc3339).ok()
}

/// A span as people say it: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`.
fn span(from: OffsetDateTime, to: OffsetDateTime) -> String {
    let whole = (to - from).whole_seconds().max(0);
    match whole {
        0..10 => format!("{:.1} s", (to - from).as_seconds_f64().max(0.0)),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A job as lines: its head, a line a step, its progress.
fn picture(view: &Value, now: OffsetDateTime) -> Vec<String> {
    let status = text(view, "status");
    let end = instant(&view["finishedAt"]).unwrap_or(now);
    let age = instant(&view["createdAt"]).map(|created| span(created, end)).unwrap_or_default();
    let round = if view["round"] == json!(1) { String::new() } else { format!(", round {}", view["round"]) };
    let mut lines = vec![format!("{}  {status}  {} ({age}{round})", text(view, "jobId"), text(view, "workflow"))];
    for step in view["steps"].as_array().into_iter().flatten() {
        let (name, status) = (text(step, "name"), text(step, "status"));
        let mark = match status.as_str() {
            "succeeded" => "✓",
            "failed" => "✗",
            "running" => "▸",
            "retrying" => "↻",
            "skipped" => "–",
            _ => "·",
        };
        let attempts = if step["attempts"].as_i64() > Some(1) {
            format!("attempt {}/{}", step["attempts"], step["maxAttempts"])
        } else {
            String::new()
        };
        let took = instant(&step["startedAt"]).filter(|_| status != "pending");
        let took = took.map(|started| span(started, instant(&step["finishedAt"]).unwrap_or(now))).unwrap_or_default();
        let again = instant(&step["nextAttemptAt"]).map(|at| format!("again in {}", span(now, at))).unwrap_or_default();
        let error = text(&step["error"], "code");
        lines.push(
            format!("  {mark} {name:<18} {status:<10} {took:>12}  {attempts} {error} {again}").trim_end().to_owned(),
        );
    }
    let progress = &view["progress"];
    if let (Some(done), Some(total @ 1..)) = (progress["done"].as_u64(), progress["total"].as_u64()) {
        let filled = usize::try_from(done.saturating_mul(30) / total).unwrap_or(30).min(30);
        let bar = format!("{}{}", "█".repeat(filled), "░".repeat(30 - filled));
        lines.push(format!("  {bar} {done}/{total} {}", text(progress, "unit")));
    }
    lines.push(format!("  {}", text(view, "message")));
    lines
}

/// The organization's newest jobs, until interrupted, or with `until_done` until none of them is under way; then exit 1 if one of
/// them failed.
///
/// # Errors
/// The server's refusal.
pub async fn newest(client: &Client, until_done: bool, json: bool) -> anyhow::Result<ExitCode> {
    let is_live = out::is_terminal() && !json;
    let mut screen = Screen::default();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let page: Value = client.get(&format!("/v1/ingestion/jobs?limit={WATCHED}")).await?;
        let jobs = page["jobs"].as_array().cloned().unwrap_or_default();
        if is_live {
            screen.draw(&list(&jobs[..jobs.len().min(NEWEST)], client.url(), Clock::system().now()));
        } else {
            known.retain(|id, _| jobs.iter().any(|job| job["jobId"] == json!(id)));
            // Oldest first, as they would have been printed one by one.
            for job in jobs.iter().rev() {
                let (id, status) = (text(job, "jobId"), text(job, "status"));
                if known.insert(id.clone(), status.clone()).as_ref() == Some(&status) {
                    continue;
                }
                if json {
                    out::json(job)?;
                } else {
                    let line =
                        format!("{id}  {status:<22} {:<14} {}", text(job, "workflow"), text(&job["error"], "code"));
                    out::line(line.trim_end());
                }
            }
        }
        let mut statuses = jobs.iter().map(|job| text(job, "status"));
        if until_done && statuses.clone().all(|status| has_ended(&status)) {
            return Ok(code(!statuses.any(|status| status == "failed")));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn list(jobs: &[Value], url: &str, now: OffsetDateTime) -> Vec<String> {
    let mut lines = vec![format!("The newest {} jobs at {url} (Ctrl-C ends)", jobs.len())];
    for job in jobs {
        let end = instant(&job["finishedAt"]).unwrap_or(now);
        let took = instant(&job["createdAt"]).map(|created| span(created, end)).unwrap_or_default();
        let line = format!(
            "{}  {:<22} {:<14} {took:>12}  {}",
            text(job, "jobId"),
            text(job, "status"),
            text(job, "workflow"),
            text(&job["error"], "code")
        );
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// Long-poll a job to its end; with `print`, one line for every step that changes.
pub async fn follow(client: &Client, job: &str, print: bool) -> anyhow::Result<Value> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    loop {
        // The first look is at once; from then on the server answers at the next change.
        let wait = if seen.is_empty() { 0 } else { 25 };
        let view: Value = client.get(&format!("/v1/ingestion/jobs/{job}?wait={wait}")).await?;
        for step in view["steps"].as_array().into_iter().flatten() {
            let (name, status) = (text(step, "name"), text(step, "status"));
            if seen.insert(name.clone(), status.clone()).as_ref() != Some(&status) && status != "pending" && print {
                out::line(&step_line(step, &name, &status));
            }
        }
        let status = text(&view, "status");
        if ["succeeded", "succeeded_with_issues", "failed", "cancelled", "expired"].contains(&status.as_str()) {
            if print {
                out::line(&format!("  {status}: {}", text(&view, "message")));
            }
            return Ok(view);
        }
        if wait == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn step_line(step: &Value, name: &str, status: &str) -> String {
    let facts = match &step["output"] {
        Value::Object(output) => {
            output.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
        }
        _ if step["error"].is_object() => {
            format!("{}, next attempt {}", text(&step["error"], "code"), text(step, "nextAttemptAt"))
        }
        _ => String::new(),
    };
    format!("  {name:<17} {status:<10} {facts}").trim_end().to_owned()
}
