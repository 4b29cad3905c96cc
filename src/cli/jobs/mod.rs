//! `jobs list|show|watch|retry|cancel|reprocess|explain`, over HTTP.

mod filter;
mod show;
mod watch;

pub use watch::{follow, has_succeeded};

use super::client::{Client, ClientError, encode};
use super::{operations, out};
use filter::Filter;
use serde_json::{Value, json};
use std::process::ExitCode;

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
    #[command(after_help = "Examples:\n  chartgate jobs show job_…\n  chartgate jobs show job_… --json | jq .steps")]
    Show {
        /// `job_…`
        job: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Watch a job to its end, or without an id the organization's newest jobs.
    ///
    /// Live in a terminal, elsewhere a line a change. Exit 0 if the job succeeded, 1 if it failed, was cancelled or expired.
    #[command(
        after_help = "Examples:\n  chartgate jobs watch job_…\n  chartgate jobs watch    (the newest jobs, until Ctrl-C)\n  chartgate jobs watch --until-done && echo all well"
    )]
    Watch {
        /// `job_…`; without it the newest jobs.
        job: Option<String>,
        /// Of the newest 100 jobs: end when none of them is under way; exit 1 if one of them failed.
        #[arg(long, conflicts_with = "job")]
        until_done: bool,
        /// Print the job as it ended as JSON; of the newest jobs one JSON line a change.
        #[arg(long)]
        json: bool,
    },
    /// Retry one job, or all that match a filter.
    ///
    /// Many are a bulk operation, which goes on by itself; its progress is shown (`chartgate operations`).
    #[command(
        after_help = "Examples:\n  chartgate jobs retry job_… --reason \"S3 is back\"\n  chartgate jobs retry --error-code object_store_denied --dry-run --reason count\n  chartgate jobs retry --error-code object_store_denied --canary 3 --rate 50 --reason \"permissions mended\"\n  chartgate jobs retry --fingerprint fhir-bundle/store_raw/object_store_denied --stop-after-failures 10 --reason \"mended\""
    )]
    Retry {
        /// `job_…`; without it the filter decides.
        job: Option<String>,
        #[command(flatten)]
        filter: Filter,
        /// `failed_step`, `failed_lines`, start, or the name of a step.
        #[arg(long, default_value = "failed_step")]
        from: String,
        /// Run on the newest version of the workflow instead of the pinned one.
        #[arg(long)]
        latest: bool,
        #[command(flatten)]
        pace: Pace,
        #[command(flatten)]
        bulk: Bulk,
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run jobs again from the start on the newest version of their workflows: all that match a filter.
    #[command(
        after_help = "Examples:\n  chartgate jobs reprocess --workflow fhir-bundle --dry-run --reason count\n  chartgate jobs reprocess --workflow fhir-bundle --status succeeded --rate 20 --canary 5 --reason \"new rules for labs\""
    )]
    Reprocess {
        /// `job_…`; without it the filter decides.
        job: Option<String>,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        pace: Pace,
        #[command(flatten)]
        bulk: Bulk,
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Cancel a job that has not ended, or all that match a filter.
    #[command(
        after_help = "Examples:\n  chartgate jobs cancel job_… --reason \"sent by mistake\"\n  chartgate jobs cancel --workflow bulk-upload --status queued --dry-run --reason count\n  chartgate jobs cancel --workflow bulk-upload --status queued --reason \"wrong export\""
    )]
    Cancel {
        /// `job_…`; without it the filter decides.
        job: Option<String>,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        bulk: Bulk,
        /// Why; kept in the audit log. Must be given for many.
        #[arg(long)]
        reason: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say in plain words what happened to a job, who must act, and what will happen next.
    #[command(after_help = "Example:\n  chartgate jobs explain job_…")]
    Explain {
        /// `job_…`
        job: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// How carefully many jobs get another round.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Of many jobs")]
pub struct Pace {
    /// So many first, and the rest only if none of them failed again.
    #[arg(long, value_name = "JOBS")]
    canary: Option<u32>,
    /// Stop when so many failed again.
    #[arg(long, value_name = "JOBS")]
    stop_after_failures: Option<u32>,
}

/// How many jobs are acted on.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Of many jobs")]
pub struct Bulk {
    /// No filter: all jobs.
    #[arg(long)]
    all: bool,
    /// Only count the jobs that match.
    #[arg(long)]
    dry_run: bool,
    /// Jobs a second, at most [default: 100].
    #[arg(long, value_name = "JOBS")]
    rate: Option<u32>,
    /// Do not wait: print the operation's id and leave it to itself.
    #[arg(long)]
    detach: bool,
}

/// One job is named, and with it what only many jobs have: nothing of that may be passed over in silence.
fn only_one(filter: &Filter, bulk: &Bulk, pace: Option<&Pace>) -> Result<(), ClientError> {
    let is_of_many = !filter.is_empty()
        || bulk.all
        || bulk.dry_run
        || bulk.detach
        || bulk.rate.is_some()
        || pace.is_some_and(|pace| pace.canary.is_some() || pace.stop_after_failures.is_some());
    if is_of_many {
        let fault = "a filter and --all, --dry-run, --detach, --rate, --canary, --stop-after-failures are of many jobs: leave them or the job's id out";
        return Err(ClientError::Settings(fault.to_owned()));
    }
    Ok(())
}

/// What a bulk command acts on, as its request: the filter or the one job, and what all of them have.
fn bulk_request(job: Option<&str>, filter: &Filter, bulk: &Bulk, reason: &str) -> Result<Value, ClientError> {
    let mut request = json!({ "dryRun": bulk.dry_run, "ratePerSecond": bulk.rate, "reason": reason });
    if let Some(job) = job {
        request["ids"] = json!([job]);
    } else if filter.is_empty() && !bulk.all {
        let fault = "say which jobs: a job's id, a filter such as --error-code, or --all";
        return Err(ClientError::Settings(fault.to_owned()));
    } else {
        request["filter"] = Value::Object(filter.body());
    }
    Ok(request)
}

/// Run it.
///
/// # Errors
/// The server's refusal.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let client = Client::from_environment()?;
    match command {
        Command::List { filter, all, limit, json } => show::list(&client, &filter, all, limit, json).await,
        Command::Show { job, json } => {
            let view: Value = client.get(&path(&job)).await?;
            if json {
                out::json(&view)?;
            } else {
                show::show(&view);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Watch { job: Some(job), json, .. } => watch::one(&client, &encode(&job), json).await,
        Command::Watch { job: None, until_done, json } => watch::newest(&client, until_done, json).await,
        Command::Retry { job: Some(job), filter, from, latest, pace, bulk, reason, json } => {
            only_one(&filter, &bulk, Some(&pace))?;
            let request = json!({ "from": from, "version": version(latest), "reason": reason });
            let view: Value = client.post(&format!("/v1/admin/jobs/{}/retry", encode(&job)), &request).await?;
            if json {
                out::json(&view)?;
            } else {
                out::line(&format!("{job}: round {} is open", view["round"]));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Retry { job: None, filter, from, latest, pace, bulk, reason, json } => {
            let mut request = bulk_request(None, &filter, &bulk, &reason)?;
            request["from"] = json!(from);
            request["version"] = json!(version(latest));
            begin(&client, "retry", request, Some(&pace), bulk.detach, json).await
        }
        Command::Reprocess { job, filter, pace, bulk, reason, json } => {
            if job.is_some() {
                only_one(&filter, &bulk, Some(&pace))?;
            }
            let request = bulk_request(job.as_deref(), &filter, &bulk, &reason)?;
            begin(&client, "reprocess", request, Some(&pace), bulk.detach, json).await
        }
        Command::Cancel { job: Some(job), filter, bulk, reason, json } => {
            only_one(&filter, &bulk, None)?;
            let view: Value = client.post(&format!("{}/cancel", path(&job)), &json!({ "reason": reason })).await?;
            if json {
                out::json(&view)?;
            } else {
                out::line(&format!("{job} is {}", text(&view, "status")));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Cancel { job: None, filter, bulk, reason, json } => {
            let missing =
                || ClientError::Settings("give the reason: --reason \"…\"; it is kept in the audit log".to_owned());
            let request = bulk_request(None, &filter, &bulk, &reason.ok_or_else(missing)?)?;
            begin(&client, "cancel", request, None, bulk.detach, json).await
        }
        Command::Explain { job, json } => {
            let explanation: Value = client.get(&format!("{}/explain", path(&job))).await?;
            if json {
                out::json(&explanation)?;
            } else {
                show::explain(&explanation);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn version(latest: bool) -> &'static str {
    if latest { "latest" } else { "pinned" }
}

async fn begin(
    client: &Client,
    act: &str,
    mut request: Value,
    pace: Option<&Pace>,
    detach: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    if let Some(pace) = pace {
        request["canary"] = json!(pace.canary);
        request["stopAfterFailures"] = json!(pace.stop_after_failures);
    }
    operations::begin(client, act, &request, detach, json).await
}

fn path(job: &str) -> String {
    format!("/v1/ingestion/jobs/{}", encode(job))
}

/// A text member; empty without it.
pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}
