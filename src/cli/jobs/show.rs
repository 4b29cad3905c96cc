//! `jobs list|show|explain`: what is printed for people.

use super::filter::Filter;
use super::text;
use crate::cli::client::Client;
use crate::cli::out;
use serde_json::Value;
use std::process::ExitCode;

/// List them, newest first.
///
/// # Errors
/// The server's refusal.
pub async fn list(client: &Client, filter: &Filter, all: bool, limit: usize, json: bool) -> anyhow::Result<ExitCode> {
    let base = if all { "/v1/admin/jobs" } else { "/v1/ingestion/jobs" };
    let mut rows = Vec::new();
    let mut cursor: Option<String> = None;
    let mut left = limit;
    while left > 0 {
        let mut query: Vec<String> = filter.query()?;
        query.push(format!("limit={}", left.min(200)));
        query.extend(cursor.as_ref().map(|cursor| format!("cursor={cursor}")));
        let page: Value = client.get(&format!("{base}?{}", query.join("&"))).await?;
        let jobs = page["jobs"].as_array().cloned().unwrap_or_default();
        left = left.saturating_sub(jobs.len());
        for job in &jobs {
            if json {
                out::json(job)?;
            }
            let error = text(&job["error"], "code");
            rows.push(vec![
                text(job, "jobId"),
                text(job, "status"),
                text(job, "workflow"),
                error,
                text(job, "createdAt"),
            ]);
        }
        cursor = page["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() || jobs.is_empty() {
            break;
        }
    }
    if !json {
        out::table(&["JOB", "STATUS", "WORKFLOW", "ERROR", "CREATED"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

/// A job with its steps.
pub fn show(view: &Value) {
    out::line(&format!(
        "{}  {}  ({} version {}, round {})",
        text(view, "jobId"),
        text(view, "status"),
        text(view, "workflow"),
        view["workflowVersion"],
        view["round"]
    ));
    out::line(&text(view, "message"));
    let steps = view["steps"].as_array().cloned().unwrap_or_default();
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| {
            let output = step["output"]
                .as_object()
                .map(|output| serde_json::to_string(output).unwrap_or_default())
                .unwrap_or_default();
            let error = text(&step["error"], "code");
            vec![
                text(step, "name"),
                text(step, "status"),
                format!("{}/{}", step["attempts"], step["maxAttempts"]),
                text(step, "nextAttemptAt"),
                if error.is_empty() { output } else { error },
            ]
        })
        .collect();
    out::table(&["STEP", "STATUS", "ATTEMPTS", "NEXT ATTEMPT", "OUTPUT OR ERROR"], &rows);
    if view["error"].is_object() {
        out::line(&format!(
            "{} ({}): {} {}",
            text(&view["error"], "code"),
            text(&view["error"], "class"),
            text(&view["error"], "message"),
            text(&view["error"], "action")
        ));
    }
    if view["result"].is_object() {
        out::line(&format!("result: {}", view["result"]));
    }
}

/// An explanation in its three parts.
pub fn explain(explanation: &Value) {
    let who = match explanation["who"].as_str() {
        Some("sender") => "the sender",
        Some("operator") => "the operator of Chartgate",
        _ => "nobody",
    };
    out::line(&format!("{}  {}", text(explanation, "jobId"), text(explanation, "status")));
    out::line("");
    out::line(&format!("What happened: {}", text(explanation, "happened")));
    out::line(&format!("Who must act: {who}. {}", text(explanation, "act")));
    out::line(&format!("What happens next: {}", text(explanation, "next")));
}
