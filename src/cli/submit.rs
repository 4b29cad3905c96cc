//! `submit FILE…`.

use super::client::{Client, encode};
use super::jobs::{follow, has_succeeded};
use super::out;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Submit FHIR Bundles and print their jobs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  chartgate submit bundle.json\n  chartgate submit --wait --json *.json")]
pub struct SubmitArguments {
    /// Files with a FHIR Bundle each.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Follow each job to its end; exit 1 if one did not succeed.
    #[arg(long)]
    wait: bool,
    /// One JSON line a file.
    #[arg(long)]
    json: bool,
}

/// Submit; exit 1 if a file was refused or, with `--wait`, a job did not succeed.
///
/// # Errors
/// An unreadable file, or a server that cannot be reached.
pub async fn submit(arguments: SubmitArguments) -> anyhow::Result<ExitCode> {
    let client = Client::from_environment()?;
    let mut failed = false;
    for file in &arguments.files {
        let body = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let request = client
            .request(reqwest::Method::POST, "/v1/ingestion/fhir/Bundle")
            .header("content-type", "application/fhir+json")
            .body(body);
        let answer: Value = match client.send(request).await {
            Ok(answer) => answer,
            Err(error @ super::client::ClientError::Refused { .. }) => {
                failed = true;
                out::error(&format!("{}: {error}", file.display()));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let job = answer["jobId"].as_str().unwrap_or_default().to_owned();
        if arguments.json {
            out::json(&json!({ "file": file.display().to_string(), "answer": answer }))?;
        } else {
            let again = if answer["duplicate"] == json!(true) { " (the same request was accepted before)" } else { "" };
            out::line(&format!("{}: {job}{again}", file.display()));
        }
        if arguments.wait {
            let ended = follow(&client, &encode(&job), !arguments.json).await?;
            failed |= !has_succeeded(&ended);
            if arguments.json {
                out::json(&ended)?;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
