//! `chartgate bench …`: each prints a readable table and one JSON line, measured beside the yardstick that it names, on
//! an embedded PostgreSQL of its own with fsync and synchronous_commit on.

pub mod engine;

use super::out;
use crate::config::Config;
use crate::db::embedded::{EmbeddedOptions, EmbeddedPostgres};
use crate::db::migrate;
use anyhow::Context as _;
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};
use std::process::ExitCode;

/// What is measured.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// N jobs of five no-op steps, from the first claim to the last completion.
    Engine(engine::Arguments),
}

/// A migrated database to bench on, as its owner.
pub struct Prepared {
    /// How to connect as the owner.
    pub options: PgConnectOptions,
    _server: EmbeddedPostgres,
}

impl Prepared {
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
        Ok(Self { options, _server: server })
    }
}

/// Run a bench.
///
/// # Errors
/// What kept it from running, or what its check found.
pub async fn run(command: Command, config: Config) -> anyhow::Result<ExitCode> {
    let prepared = Prepared::start(&config).await?;
    let figures = match command {
        Command::Engine(arguments) => engine::run(&prepared, &arguments).await?,
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
