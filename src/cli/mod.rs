//! The commands of the binary: parse, run one use case, print for people or, with `--json`, for scripts.
//!
//! Exit codes: 0 done; 1 the answer is no (invalid files, a failed job, faults found); 2 wrong usage or configuration;
//! 3 the server or database cannot be reached.

mod audit;
pub mod bench;
mod client;
mod completions;
mod definitions;
mod demo;
mod doctor;
mod jobs;
mod operations;
mod orgs;
mod out;
mod purge;
mod reviews;
mod serve;
mod submit;
mod upload;
mod validate;
mod webhooks;
mod workflows;

use crate::app::StartError;
use crate::config::Config;
use crate::db::DbError;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// A durable ingestion gateway for clinical data.
#[derive(Debug, Parser)]
#[command(
    name = "chartgate",
    version,
    propagate_version = true,
    after_help = "Start with `chartgate demo`. Every command has examples in its --help."
)]
struct Arguments {
    /// Configuration file (TOML); the environment wins over it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Demo(demo::Arguments),
    /// Apply the migrations to the configured database.
    #[command(after_help = "Example:\n  DATABASE_URL=postgres://… chartgate migrate")]
    Migrate,
    Submit(submit::SubmitArguments),
    Upload(upload::Arguments),
    Validate(validate::Arguments),
    /// List, show, watch, retry, cancel, reprocess and explain jobs.
    #[command(subcommand)]
    Jobs(jobs::Command),
    /// List, show, watch, stop, resume and undo bulk operations (role admin).
    #[command(subcommand)]
    Operations(operations::Command),
    /// Create, list, pause and resume organizations (role platform; pause and resume also admin).
    #[command(subcommand)]
    Orgs(orgs::OrgsCommand),
    /// Create, list, rotate and revoke API keys; secrets of webhook senders.
    #[command(subcommand)]
    Keys(orgs::KeysCommand),
    /// List, show and decide links that need a person (role admin).
    #[command(subcommand)]
    Reviews(reviews::ReviewsCommand),
    /// Merge and unmerge patients, unlink and link events (role admin).
    #[command(subcommand)]
    Patients(reviews::PatientsCommand),
    Purge(purge::Arguments),
    /// Place, list and lift legal holds, which forbid erasure (role admin).
    #[command(subcommand)]
    Holds(purge::HoldsCommand),
    /// List and check workflow files.
    #[command(subcommand)]
    Workflows(workflows::Command),
    /// Look audit records up; verify and export the audit log; rotate its key.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Check configuration, database, object storage, collector and stuck work; each finding comes with its remedy.
    Doctor(doctor::Arguments),
    /// Tables of FHIR's definitions (for developers of this project).
    #[command(subcommand, hide = true)]
    Definitions(definitions::Command),
    Completions(completions::Arguments),
    /// Print the OpenAPI 3.1 description of the HTTP API.
    #[command(after_help = "Example:\n  chartgate openapi > openapi.json")]
    Openapi,
    /// Measure, beside the yardstick that each bench names.
    #[command(subcommand)]
    Bench(bench::Command),
}

/// The whole command line, as clap knows it: what documentation shows is held against it.
#[must_use]
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Run the command line.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            out::error(&error.to_string());
            return ExitCode::from(2);
        }
    };
    let quiet = !matches!(arguments.command, Command::Serve(_));
    let level = if quiet && config.log_level == "info" { "error" } else { &config.log_level };
    crate::telemetry::start(level, config.log_json);
    crate::telemetry::quiet_panics();
    // Every command may have clinical data in its memory.
    crate::telemetry::forbid_core_dumps();
    // One TLS implementation for all clients; a second install would only mean that it is there already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out::error(&format!("cannot start the runtime: {error}"));
            return ExitCode::from(3);
        }
    };
    let code = runtime.block_on(dispatch(arguments.command, config));
    // What still computes on a thread of its own can be stopped by nothing but the end of the process; its job is handed back
    // or its lease runs out.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    code
}

async fn dispatch(command: Command, config: Config) -> ExitCode {
    let result = match command {
        Command::Serve(arguments) => serve::run(config, arguments).await,
        Command::Demo(arguments) => demo::run(config, arguments).await,
        Command::Migrate => serve::migrate(&config).await,
        Command::Submit(arguments) => submit::submit(arguments).await,
        Command::Upload(arguments) => upload::run(arguments).await,
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Jobs(command) => jobs::run(command).await,
        Command::Operations(command) => operations::run(command).await,
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Orgs(command) => orgs::run_orgs(command).await,
        Command::Keys(command) => orgs::run_keys(command, &config).await,
        Command::Reviews(command) => reviews::run_reviews(command).await,
        Command::Patients(command) => reviews::run_patients(command).await,
        Command::Purge(arguments) => purge::run(arguments).await,
        Command::Holds(command) => purge::run_holds(command).await,
        Command::Workflows(command) => workflows::run(&command, &config),
        Command::Audit(command) => audit::run(command, &config).await,
        Command::Doctor(arguments) => doctor::run(&config, &arguments).await,
        Command::Definitions(command) => definitions::run(&command),
        Command::Openapi => openapi(),
        Command::Bench(command) => bench::run(command, config).await,
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            out::error(&format!("{error:#}"));
            exit_code(&error)
        }
    }
}

/// The exit code that tells scripts who must act.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    use client::ClientError::{Settings, Unreachable};
    if let Some(error) = error.downcast_ref::<client::ClientError>() {
        return ExitCode::from(match error {
            Settings(_) => 2,
            Unreachable { .. } => 3,
            client::ClientError::Refused { .. } => 1,
        });
    }
    if error.downcast_ref::<upload::SendError>().is_some_and(upload::SendError::is_away) {
        return ExitCode::from(3);
    }
    let away = match error.downcast_ref::<StartError>() {
        Some(StartError::Server(_)) => true,
        Some(StartError::Db(error)) => error.may_pass(),
        Some(_) => false,
        None => error.downcast_ref::<DbError>().is_some_and(DbError::may_pass),
    };
    ExitCode::from(if away { 3 } else { 1 })
}

fn openapi() -> anyhow::Result<ExitCode> {
    out::line(&serde_json::to_string_pretty(&crate::http::description())?);
    Ok(ExitCode::SUCCESS)
}
