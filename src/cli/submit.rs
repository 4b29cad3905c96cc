//! `submit FILE…` and `validate FILE…`.

use super::client::{Client, encode};
use super::jobs::follow;
use super::out;
use crate::ingest::fhir::envelope;
use crate::ingest::fhir::validate::validate_bundle;
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
    /// Follow each job to its end; exit 1 if one failed.
    #[arg(long)]
    wait: bool,
    /// One JSON line a file.
    #[arg(long)]
    json: bool,
}

/// Submit; exit 1 if a file was refused or, with `--wait`, a job failed.
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
            failed |= ended["status"] == json!("failed");
            if arguments.json {
                out::json(&ended)?;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Check FHIR Bundles on this machine, without any server.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  chartgate validate bundle.json\n  chartgate validate --json *.json")]
pub struct ValidateArguments {
    /// Files with a FHIR Bundle each.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// One JSON line a file: {file, valid, issues}.
    #[arg(long)]
    json: bool,
}

/// Check; exit 1 if a file is invalid.
///
/// # Errors
/// An unreadable file.
pub fn validate(arguments: &ValidateArguments) -> anyhow::Result<ExitCode> {
    let mut all_valid = true;
    for file in &arguments.files {
        let body = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let issues: Vec<Value> = match envelope::scan(&body) {
            Err(fault) => vec![json!({
                "severity": "fatal", "code": "structure", "expression": fault.expression, "pointer": fault.pointer, "offset": null, "line": null, "message": fault.message,
            })],
            Ok(_) => {
                validate_bundle(&body).iter().map(|issue| serde_json::to_value(issue).unwrap_or_default()).collect()
            }
        };
        let valid =
            !issues.iter().any(|issue| issue["severity"] == json!("fatal") || issue["severity"] == json!("error"));
        all_valid &= valid;
        if arguments.json {
            out::json(&json!({ "file": file.display().to_string(), "valid": valid, "issues": issues }))?;
            continue;
        }
        out::line(&format!("{}: {}", file.display(), if valid { "valid" } else { "invalid" }));
        for issue in &issues {
            let text = |key: &str| issue[key].as_str().unwrap_or_default().to_owned();
            out::line(&format!("  {} {}: {}", text("severity"), text("expression"), text("message")));
        }
    }
    Ok(if all_valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
