//! `operations list|show|jobs|watch|stop|resume|undo`, and the beginning of those by `jobs retry|cancel|reprocess`, over HTTP.

use super::client::{Client, ClientError, encode};
use super::jobs::text;
use super::out;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// Bulk operations.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List bulk operations, newest first.
    #[command(after_help = "Example:\n  chartgate operations list --limit 5")]
    List {
        /// Operations, at most.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// One JSON line an operation.
        #[arg(long)]
        json: bool,
    },
    /// Show how far one is.
    #[command(after_help = "Example:\n  chartgate operations show op_…")]
    Show {
        /// `op_…`
        operation: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List its jobs and what became of each.
    #[command(after_help = "Example:\n  chartgate operations jobs op_… --state skipped")]
    Jobs {
        /// `op_…`
        operation: String,
        /// waiting, acted, skipped, refused or undone.
        #[arg(long)]
        state: Option<String>,
        /// Jobs, at most.
        #[arg(long, default_value_t = 200)]
        limit: usize,
        /// One JSON line a job.
        #[arg(long)]
        json: bool,
    },
    /// Follow it to its end; exit 1 if it stopped.
    #[command(
        after_help = "Examples:\n  chartgate operations watch op_…\n  chartgate operations watch op_… --results    (until each job has ended; exit 1 if one failed again)"
    )]
    Watch {
        /// `op_…`
        operation: String,
        /// Wait also until each of its jobs has ended; exit 1 if one failed again.
        #[arg(long)]
        results: bool,
        /// Print JSON at the end.
        #[arg(long)]
        json: bool,
    },
    /// Stop it: what it has not acted on yet is left alone.
    #[command(after_help = "Example:\n  chartgate operations stop op_… --reason \"the bucket is full again\"")]
    Stop(Steer),
    /// Go on with one that was stopped, also after a failed canary.
    #[command(after_help = "Example:\n  chartgate operations resume op_… --reason \"mended\"")]
    Resume(Steer),
    /// Take back what it has put into the queue and no worker has begun. A cancel cannot be undone.
    #[command(after_help = "Example:\n  chartgate operations undo op_… --reason \"wrong filter\"")]
    Undo(Steer),
}

/// An act on an operation.
#[derive(Debug, clap::Args)]
pub struct Steer {
    /// `op_…`
    operation: String,
    /// Why; kept in the audit log.
    #[arg(long)]
    reason: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn path(operation: &str) -> String {
    format!("/v1/admin/operations/{}", encode(operation))
}

/// Run it.
///
/// # Errors
/// The server's refusal.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let client = Client::from_environment()?;
    match command {
        Command::List { limit, json } => {
            let rows = pages(&client, "/v1/admin/operations?", "operations", limit, json).await?;
            let row = |one: &Value| {
                let handled = format!("{}/{}", handled(one), one["matched"]);
                let failed = one["failedAgain"].to_string();
                vec![
                    text(one, "operationId"),
                    text(one, "kind"),
                    text(one, "status"),
                    handled,
                    failed,
                    text(one, "createdAt"),
                    text(one, "reason"),
                ]
            };
            if !json {
                let header = ["OPERATION", "KIND", "STATUS", "HANDLED", "FAILED AGAIN", "CREATED", "REASON"];
                out::table(&header, &rows.iter().map(row).collect::<Vec<_>>());
            }
        }
        Command::Show { operation, json } => {
            let view: Value = client.get(&path(&operation)).await?;
            print(&view, json)?;
        }
        Command::Jobs { operation, state, limit, json } => {
            let state = state.map(|state| format!("state={}&", encode(&state))).unwrap_or_default();
            let base = format!("{}/jobs?{state}", path(&operation));
            let rows = pages(&client, &base, "jobs", limit, json).await?;
            let row = |one: &Value| {
                vec![
                    one["position"].to_string(),
                    text(one, "jobId"),
                    text(one, "state"),
                    text(one, "note"),
                    text(one, "result"),
                ]
            };
            if !json {
                let header = ["POSITION", "JOB", "STATE", "NOTE", "RESULT"];
                out::table(&header, &rows.iter().map(row).collect::<Vec<_>>());
            }
        }
        Command::Watch { operation, results, json } => {
            let view: Value = client.get(&path(&operation)).await?;
            return follow(&client, view, results, json).await;
        }
        Command::Stop(steer) => return act(&client, "stop", &steer).await,
        Command::Resume(steer) => return act(&client, "resume", &steer).await,
        Command::Undo(steer) => {
            let request = json!({ "reason": steer.reason });
            let view: Value = client.post(&format!("{}/undo", path(&steer.operation)), &request).await?;
            return follow(&client, view, false, steer.json).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn act(client: &Client, act: &str, steer: &Steer) -> anyhow::Result<ExitCode> {
    let request = json!({ "reason": steer.reason });
    let view: Value = client.post(&format!("{}/{act}", path(&steer.operation)), &request).await?;
    print(&view, steer.json)?;
    Ok(ExitCode::SUCCESS)
}

/// All pages of a list up to `limit`; with `json` each one is printed as it comes.
async fn pages(client: &Client, base: &str, name: &str, limit: usize, json: bool) -> anyhow::Result<Vec<Value>> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    while rows.len() < limit {
        let page: Value = client.get(&format!("{base}limit={}{cursor}", (limit - rows.len()).min(200))).await?;
        let found = page[name].as_array().cloned().unwrap_or_default();
        if json {
            for one in &found {
                out::json(one)?;
            }
        }
        rows.extend(found);
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    Ok(rows)
}

fn handled(view: &Value) -> u64 {
    ["done", "skipped", "refused"].iter().map(|key| view[*key].as_u64().unwrap_or(0)).sum()
}

/// How far it is, for people or as JSON.
fn print(view: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        return out::json(view);
    }
    out::line(&format!("{}  {}  {}", text(view, "operationId"), text(view, "kind"), text(view, "status")));
    out::line(&format!("  {}", text(view, "message")));
    out::line(&format!(
        "  {} matched, {} done, {} left alone, {} refused, {} undone; since then {} succeeded, {} failed again",
        view["matched"],
        view["done"],
        view["skipped"],
        view["refused"],
        view["undone"],
        view["succeededAgain"],
        view["failedAgain"]
    ));
    if let Some(at) = view["expectedAt"].as_str() {
        out::line(&format!("  {:.1} a second, done at about {at}", view["perSecond"].as_f64().unwrap_or(0.0)));
    }
    let reason = text(view, "reason");
    out::line(&format!("  {} by {}: {reason}", text(view, "createdAt"), text(view, "actor")));
    Ok(())
}

/// Begin a bulk operation and follow it, or only count.
///
/// # Errors
/// The server's refusal.
pub async fn begin(client: &Client, act: &str, request: &Value, detach: bool, json: bool) -> anyhow::Result<ExitCode> {
    let view: Value = client.post(&format!("/v1/admin/jobs/{act}"), request).await?;
    if view["status"] == json!("dry_run") {
        if json {
            out::json(&view)?;
        } else {
            let more = if view["cut"] == json!(true) { " or more; one operation takes so many" } else { "" };
            out::line(&format!("{} job(s) match{more}", view["matched"]));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if view["cut"] == json!(true) {
        out::note(&format!("More jobs match than one operation takes: the oldest {} are taken.", view["matched"]));
    }
    if detach {
        if json {
            out::json(&view)?;
        } else {
            out::line(&text(&view, "operationId"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !json {
        let id = text(&view, "operationId");
        out::note(&format!("{id} goes on by itself; stop it with `chartgate operations stop {id} --reason …`"));
    }
    follow(client, view, false, json).await
}

/// Is there more to wait for?
fn is_under_way(view: &Value, results: bool) -> bool {
    ["running", "canary", "undoing"].contains(&text(view, "status").as_str())
        || results && view["pending"].as_i64().unwrap_or(0) > 0
}

/// Follow an operation: a bar in a terminal, else a line for each status. Exit 1 if it stopped, or with `results` if a job failed again.
async fn follow(client: &Client, mut view: Value, results: bool, json: bool) -> anyhow::Result<ExitCode> {
    let id = text(&view, "operationId");
    let bar = ProgressBar::new(view["matched"].as_u64().unwrap_or(0));
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    bar.set_style(style.map_err(|error| ClientError::Settings(format!("a progress bar cannot be drawn: {error}")))?);
    let is_live = out::is_terminal() && !json;
    if !is_live {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let mut known = String::new();
    while is_under_way(&view, results) {
        bar.set_length(view["matched"].as_u64().unwrap_or(0));
        bar.set_position(handled(&view));
        bar.set_message(format!(
            "{}: {} ({} failed again)",
            text(&view, "status"),
            text(&view, "message"),
            view["failedAgain"]
        ));
        let status = text(&view, "status");
        if !is_live && !json && status != known {
            out::note(&format!("{id} {status}: {}", text(&view, "message")));
            known = status;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        view = client.get(&path(&id)).await?;
    }
    bar.finish_and_clear();
    print(&view, json)?;
    let is_good = text(&view, "status") != "stopped" && !(results && view["failedAgain"].as_i64() > Some(0));
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
