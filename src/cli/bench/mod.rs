//! `chartgate bench …`: each prints a readable table and one JSON line, measured beside the yardstick that it names, on
//! an embedded PostgreSQL of its own with fsync and `synchronous_commit` on.

pub mod bulk;
pub mod chart;
pub mod console;
pub mod cpu;
pub mod engine;
pub mod history;
pub mod intake;
pub mod latency;
pub mod validate;

use super::out;
use crate::config::Config;
use crate::db::embedded::{EmbeddedOptions, EmbeddedPostgres};
use crate::db::migrate;
use crate::objects::{Objects, ObjectsOptions};
use anyhow::Context as _;
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};
use std::process::ExitCode;
use std::time::Duration;

/// What is measured.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// N jobs of five no-op steps, from the first claim to the last completion.
    Engine(engine::Arguments),
    /// Athena events over HTTP, each 202 durable.
    Intake(intake::Arguments),
    /// One Athena event at a time on an idle system: until its first step, until it is visible, until its end.
    Latency(latency::Arguments),
    /// The clinical view of patients with many events, idle and beside the intake.
    Chart(chart::Arguments),
    /// Every page of the console with millions of jobs behind it.
    #[command(hide = true)]
    Console(console::Arguments),
    /// Claim, status and lists beside a long history and a long queue.
    History(history::Arguments),
    /// A bulk file of NDJSON through presigned upload, watcher and workers, beside COPY of the same rows.
    Bulk(bulk::Arguments),
    /// The FHIR validator on one core, beside `serde_json` building trees.
    Validate(validate::Arguments),
}

/// A migrated database to bench on, as its owner.
pub struct Prepared {
    /// How to connect as the owner.
    pub options: PgConnectOptions,
    server: EmbeddedPostgres,
}

impl Prepared {
    /// Processor seconds of the server's backends that live now, and of this process.
    fn cpu_seconds(&self) -> (f64, f64) {
        (self.server.pid().map_or(0.0, cpu::children_seconds), cpu::own_seconds())
    }

    /// A client of no object store: what is measured here never calls one.
    fn objects() -> Objects {
        Objects::connect(&ObjectsOptions {
            endpoint: Some("http://127.0.0.1:9".to_owned()),
            region: "us-east-1".to_owned(),
            bucket: "none".to_owned(),
            access_key: Some("none".to_owned()),
            secret_key: Some("none".to_owned().into()),
            prefix: String::new(),
            timeout: Duration::from_secs(1),
        })
    }

    /// Throw away what a run left, so that the next one begins as it did.
    async fn clear(&self) -> anyhow::Result<()> {
        let mut admin = PgConnection::connect_with(&self.options).await?;
        let clear = "set session_replication_role = replica;
             truncate queue, jobs, job_steps, audit_records, audit_leaves, audit_checkpoints, audit_keys, audit_publications, audit_sealer;
             -- Another log, so that its checkpoints do not meet those of the one before.
             update audit_log set id = gen_random_uuid()";
        sqlx::raw_sql(clear).execute(&mut admin).await?;
        Ok(())
    }

    /// A fresh database on the bench's own server.
    async fn start(config: &Config) -> anyhow::Result<Self> {
        let mut beside = config.data_dir.clone().into_os_string();
        beside.push("-bench");
        let mut options = EmbeddedOptions::new(std::path::absolute(beside)?);
        options.settings = vec![("shared_buffers".to_owned(), "1GB".to_owned())];
        let server = tokio::task::spawn_blocking(move || EmbeddedPostgres::start(&options)).await??;
        let mut admin = PgConnection::connect_with(&server.connect_options("postgres")).await?;
        for statement in ["drop database if exists bench with (force)", "create database bench"] {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await.context("making the bench's database")?;
        }
        let options = server.connect_options("bench");
        migrate::run(&options).await?;
        Ok(Self { options, server })
    }
}

/// Run a bench.
///
/// # Errors
/// What kept it from running, or what its check found.
pub async fn run(command: Command, config: Config) -> anyhow::Result<ExitCode> {
    if let Command::Validate(arguments) = &command {
        // Nothing but a processor is needed.
        print(&validate::run(arguments, &config.data_dir)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Latency(arguments) = &command {
        // A whole Chartgate, with servers of its own.
        print(&latency::run(config, arguments).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Bulk(arguments) = &command {
        // The same, with workers in processes of their own.
        print(&bulk::run(config, arguments).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let prepared = Prepared::start(&config).await?;
    let figures = match command {
        Command::Engine(arguments) => engine::run(&prepared, &arguments).await?,
        Command::Intake(arguments) => intake::run(&prepared, &config, &arguments).await?,
        Command::Chart(arguments) => chart::run(&prepared, &config, &arguments).await?,
        Command::Console(arguments) => console::run(&prepared, &config, &arguments).await?,
        Command::History(arguments) => history::run(&prepared, &arguments).await?,
        Command::Validate(arguments) => validate::run(&arguments, &config.data_dir)?,
        Command::Latency(arguments) => latency::run(config, &arguments).await?,
        Command::Bulk(arguments) => bulk::run(config, &arguments).await?,
    };
    print(&figures)?;
    drop(tokio::task::spawn_blocking(move || drop(prepared)).await);
    Ok(ExitCode::SUCCESS)
}

fn print(figures: &Value) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = figures
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| vec![name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)])
        .collect();
    out::table(&["FIGURE", "VALUE"], &rows);
    out::json(figures)
}
