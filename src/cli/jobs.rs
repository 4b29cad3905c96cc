//! `jobs list|show|watch|retry|cancel|explain`, over HTTP.

use super::client::{Client, encode};
use super::out;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// Jobs.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List jobs, newest first.
    #[command(
        after_help = "Examples:\n  chartgate jobs list --status failed\n  chartgate jobs list --error-code validation_failed --json\n  chartgate jobs list --all    (all organizations: platform role)"
    )]
    List {
        #[command(flatten)]
        filter: Filter,
        /// Over all organizations that the key may administer.
        #[arg(long)]
        all: bool,
        /// Jobs, at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// One JSON line a job.
        #[arg(long)]
        json: bool,
    },
    /// Show a job with its steps.
    Show {
        /// `job_…`
        job: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Follow a job to its end; exit 1 if it failed.
    Watch {
        /// `job_…`
        job: String,
        /// One JSON line a change.
        #[arg(long)]
        json: bool,
    },
    /// Retry one job, or all that match a filter.
    #[command(
        after_help = "Examples:\n  chartgate jobs retry job_… --reason \"S3 is back\"\n  chartgate jobs retry --error-code object_store_denied --dry-run --reason count\n  chartgate jobs retry --error-code object_store_denied --canary 3 --rate 50 --reason \"permissions mended\""
    )]
    Retry {
        /// `job_…`; without it the filter decides.
        job: Option<String>,
        #[command(flatten)]
        filter: Filter,
        /// `failed_step`, start, or the name of a step.
        #[arg(long, default_value = "failed_step")]
        from: String,
        /// Run on the newest version of the workflow instead of the pinned one.
        #[arg(long)]
        latest: bool,
        /// Only count the jobs that match.
        #[arg(long)]
        dry_run: bool,
        /// Retry so many first, and go on only if none of them failed again.
        #[arg(long)]
        canary: Option<u32>,
        /// Jobs a second, at most.
        #[arg(long)]
        rate: Option<u32>,
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Cancel a job that has not ended.
    Cancel {
        /// `job_…`
        job: String,
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Say in plain words what happened to a job, who must act, and what will happen next.
    Explain {
        /// `job_…`
        job: String,
    },
}

/// Which jobs.
#[derive(Debug, Default, clap::Args)]
pub struct Filter {
    /// queued, running, retrying, succeeded, `succeeded_with_issues`, failed, cancelled, …
    #[arg(long)]
    status: Option<String>,
    /// Workflow name.
    #[arg(long)]
    workflow: Option<String>,
    /// webhook, athena or upload.
    #[arg(long)]
    source: Option<String>,
    /// Code of the job's error.
    #[arg(long)]
    error_code: Option<String>,
    /// Accepted at or after (RFC 3339).
    #[arg(long)]
    created_after: Option<String>,
    /// Accepted before (RFC 3339).
    #[arg(long)]
    created_before: Option<String>,
}

impl Filter {
    fn pairs(&self) -> Vec<(&'static str, &String)> {
        let all = [
            ("status", &self.status),
            ("workflow", &self.workflow),
            ("source", &self.source),
            ("errorCode", &self.error_code),
            ("createdAfter", &self.created_after),
            ("createdBefore", &self.created_before),
        ];
        all.into_iter().filter_map(|(name, value)| value.as_ref().map(|value| (name, value))).collect()
    }
}

/// Run it.
///
/// # Errors
/// The server's refusal.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let client = Client::from_environment()?;
    match command {
        Command::List { filter, all, limit, json } => list(&client, &filter, all, limit, json).await,
        Command::Show { job, json } => {
            let view: Value = client.get(&path(&job)).await?;
            if json {
                out::json(&view)?;
            } else {
                show(&view);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Watch { job, json } => {
            let ended = follow(&client, &encode(&job), !json).await?;
            if json {
                out::json(&ended)?;
            }
            Ok(if has_succeeded(&ended) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Retry { job, filter, from, latest, dry_run, canary, rate, reason, json } => {
            let version = if latest { "latest" } else { "pinned" };
            if let Some(job) = job {
                let request = json!({ "from": from, "version": version, "reason": reason });
                let view: Value = client.post(&format!("/v1/admin/jobs/{}/retry", encode(&job)), &request).await?;
                if json {
                    out::json(&view)?;
                } else {
                    out::line(&format!("{job}: round {} is open", view["round"]));
                }
                return Ok(ExitCode::SUCCESS);
            }
            let filter: serde_json::Map<String, Value> =
                filter.pairs().into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
            let request = json!({
                "filter": filter, "from": from, "version": version, "dryRun": dry_run, "canary": canary, "ratePerSecond": rate, "reason": reason,
            });
            retry_many(&client, &request, json).await
        }
        Command::Cancel { job, reason } => {
            let view: Value = client.post(&format!("{}/cancel", path(&job)), &json!({ "reason": reason })).await?;
            out::line(&format!("{job} is {}", text(&view, "status")));
            Ok(ExitCode::SUCCESS)
        }
        Command::Explain { job } => {
            let view: Value = client.get(&path(&job)).await?;
            let timeline: Value = client.get(&format!("{}/timeline", path(&job))).await?;
            explain(&view, &timeline);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Did an ended job do what it was for? One that was cancelled or expired did not.
pub(super) fn has_succeeded(view: &Value) -> bool {
    ["succeeded", "succeeded_with_issues"].contains(&view["status"].as_str().unwrap_or_default())
}

fn path(job: &str) -> String {
    format!("/v1/ingestion/jobs/{}", encode(job))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

async fn list(client: &Client, filter: &Filter, all: bool, limit: usize, json: bool) -> anyhow::Result<ExitCode> {
    let base = if all { "/v1/admin/jobs" } else { "/v1/ingestion/jobs" };
    let mut rows = Vec::new();
    let mut cursor: Option<String> = None;
    let mut left = limit;
    while left > 0 {
        let mut query: Vec<String> =
            filter.pairs().into_iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
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

fn show(view: &Value) {
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

async fn retry_many(client: &Client, request: &Value, json: bool) -> anyhow::Result<ExitCode> {
    let mut operation: Value = client.post("/v1/admin/jobs/retry", request).await?;
    let id = text(&operation, "operationId");
    if operation["status"] == json!("dry_run") {
        if json {
            out::json(&operation)?;
        } else {
            out::line(&format!("{} job(s) match", operation["matched"]));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let bar = indicatif::ProgressBar::new(operation["matched"].as_u64().unwrap_or(0));
    if json || !out::is_terminal() {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    while operation["status"] == json!("running") {
        tokio::time::sleep(Duration::from_millis(300)).await;
        operation = client.get(&format!("/v1/admin/operations/{id}")).await?;
        bar.set_position(operation["done"].as_u64().unwrap_or(0) + operation["skipped"].as_u64().unwrap_or(0));
    }
    bar.finish_and_clear();
    if json {
        out::json(&operation)?;
    } else {
        out::line(&format!(
            "{}: {} retried, {} left alone, of {} that matched",
            text(&operation, "status"),
            operation["done"],
            operation["skipped"],
            operation["matched"]
        ));
    }
    Ok(if operation["status"] == json!("succeeded") { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn explain(view: &Value, timeline: &Value) {
    let (status, error) = (text(view, "status"), &view["error"]);
    out::line(&format!(
        "{} was accepted at {} from {}.",
        text(view, "jobId"),
        text(view, "createdAt"),
        text(view, "submittedBy")
    ));
    let entries = timeline["entries"].as_array().cloned().unwrap_or_default();
    let lost = entries.iter().filter(|entry| entry["event"] == json!("attempt.lost")).count();
    let failed = entries.iter().filter(|entry| entry["event"] == json!("attempt.failed")).count();
    if lost > 0 {
        out::line(&format!("{lost} time(s) the worker died or was stopped while running it; it went on elsewhere."));
    }
    if failed > 0 {
        out::line(&format!("{failed} attempt(s) of its steps failed."));
    }
    out::line(&text(view, "message"));
    let waiting = view["steps"].as_array().into_iter().flatten().find(|step| step["status"] == json!("retrying"));
    match status.as_str() {
        "failed" => {
            out::line(&format!("Error {} ({}): {}", text(error, "code"), text(error, "class"), text(error, "message")));
            out::line(&format!("Who must act: {}", text(error, "action")));
            out::line(
                "Next: nothing happens by itself. `chartgate jobs retry` opens the next round at the failed step; the history stays.",
            );
        }
        "retrying" => {
            if let Some(step) = waiting {
                out::line(&format!(
                    "Step {} failed with {} and is tried again at {} (attempt {} of {}). Nobody has to act.",
                    text(step, "name"),
                    text(&step["error"], "code"),
                    text(step, "nextAttemptAt"),
                    step["attempts"],
                    step["maxAttempts"],
                ));
            }
        }
        "queued" | "running" => out::line("Nobody has to act; it goes on by itself."),
        _ => out::line("It has ended; nothing further happens."),
    }
}
