//! `workflows list|check`.

use super::out;
use crate::callbacks::Callbacks;
use crate::config::Config;
use crate::db::Db;
use crate::engine::catalog::{self, Catalog, CatalogError};
use crate::engine::registry::Registry;
use crate::ingest::steps;
use crate::objects::{Objects, ObjectsOptions};
use crate::secrets::Secrets;
use sqlx::postgres::PgConnectOptions;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Workflow files.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The workflows that this program would load.
    #[command(after_help = "Example:\n  chartgate workflows list --json")]
    List {
        /// One JSON line a workflow.
        #[arg(long)]
        json: bool,
    },
    /// Check workflow files as a whole; prints every fault with its file, step and key. Exit 1 if there is any.
    #[command(after_help = "Examples:\n  chartgate workflows check\n  chartgate workflows check ./my-workflows")]
    Check {
        /// A directory of files, in addition to the embedded ones; else `workflows.dir` of the configuration.
        directory: Option<PathBuf>,
    },
}

/// The handlers of this program, without any server behind them: their names and parameters are all that a check needs.
fn registry(config: &Config) -> Registry {
    let db = Db::connect(PgConnectOptions::new_without_pgpass(), 1);
    let objects = Objects::connect(&ObjectsOptions {
        endpoint: None,
        region: "us-east-1".to_owned(),
        bucket: "none".to_owned(),
        access_key: Some("none".to_owned()),
        secret_key: Some("none".to_owned().into()),
        prefix: String::new(),
        timeout: Duration::from_secs(1),
    });
    let secrets = Secrets::new(None, &config.data_dir);
    // Of the handlers their names only: nobody is called.
    let mut config = config.clone();
    config.callbacks.ca_file = None;
    let callbacks = Callbacks::new(&config, db.clone(), secrets).map(|callbacks| callbacks.handlers());
    Registry::default().with(steps::handlers(db, objects)).with(callbacks.unwrap_or_default())
}

/// Run it.
///
/// # Errors
/// An unreadable directory.
pub fn run(command: &Command, config: &Config) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { json } => {
            let catalog = Catalog::load(config.workflows_dir.as_deref(), registry(config))?;
            let mut rows = Vec::new();
            for definition in catalog.latest_all() {
                let steps: Vec<&str> = definition.steps.iter().map(|step| step.name.as_str()).collect();
                if *json {
                    out::json(&serde_json::json!({
                        "name": definition.name, "version": definition.version, "ordering": definition.ordering,
                        "summary": definition.summary, "steps": steps, "digest": hex::encode(definition.digest),
                    }))?;
                }
                let ordering = format!("{:?}", definition.ordering).to_lowercase();
                rows.push(vec![definition.name.clone(), definition.version.to_string(), ordering, steps.join(" → ")]);
            }
            if !json {
                out::table(&["WORKFLOW", "VERSION", "ORDERING", "STEPS"], &rows);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { directory } => {
            let directory = directory.as_deref().or(config.workflows_dir.as_deref());
            let files = catalog::files(directory)?;
            match Catalog::from_files(&files, registry(config)) {
                Ok(catalog) => {
                    out::line(&format!("{} workflow(s) checked, no faults", catalog.latest_all().count()));
                    Ok(ExitCode::SUCCESS)
                }
                Err(CatalogError::Faults(faults)) => {
                    for fault in &faults {
                        out::line(&fault.to_string());
                    }
                    out::error(&format!("{} fault(s)", faults.len()));
                    Ok(ExitCode::FAILURE)
                }
                Err(error) => Err(error.into()),
            }
        }
    }
}
