//! `audit`: look records up, verify the log (the server's, or an export without any server), export it, and care for its key
//! and its history.

use super::client::{Client, ClientError, encode};
use super::out;
use crate::app::Servers;
use crate::audit::Actor;
use crate::audit::archive::verify_export;
use crate::audit::care;
use crate::audit::note::PublicKey;
use crate::audit::sealer::{SealError, Sealer, SealerOptions};
use crate::config::Config;
use crate::db::{Db, DbError};
use anyhow::Context as _;
use futures::StreamExt as _;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::BufReader;

/// A million records are verified within a minute; ten years of them within this.
const PATIENCE: Duration = Duration::from_hours(6);

/// `chartgate audit …`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Verify(VerifyArguments),
    Export(ExportArguments),
    List(ListArguments),
    /// Replace the signing key; the old one signs the new one. Run it where the sealer runs: it needs the key's file and the
    /// database.
    #[command(name = "rotate-key", after_help = "Examples:\n  chartgate audit rotate-key")]
    RotateKey,
    /// Go on after the database was restored to an earlier time: gives up, by a signed statement, the checkpoints that only
    /// the object store knows. Needs the key's file, the database and the object store.
    #[command(
        after_help = "Examples:\n  chartgate audit continue --reason \"restored to 2026-11-20 04:00 after a disk failure\""
    )]
    Continue {
        /// Why; kept in the audit log.
        #[arg(long)]
        reason: String,
    },
}

/// Verify the audit log; exit code 1 if something is not what it was. Records that are not sealed yet are told and are no
/// fault.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chartgate audit verify\n  chartgate audit export --output audit.ndjson\n  chartgate audit verify --export audit.ndjson --trusted-key chartgate-audit/…+01234567+AQ…"
)]
pub struct VerifyArguments {
    /// An export of the whole log; no server is asked.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// A public key that is known to be the log's, noted down before; may be given several times.
    #[arg(long, value_name = "KEY", requires = "export")]
    trusted_key: Vec<String>,
    /// Only what was sealed behind this checkpoint.
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "export")]
    behind: Option<i64>,
    /// The verdict as one JSON line.
    #[arg(long)]
    json: bool,
}

/// Export the audit log as NDJSON: with a platform key all of it, with what is needed to verify it offline; with an
/// administrator's key the own organization's records.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chartgate audit export --output audit.ndjson\n  chartgate audit export | gzip > audit.ndjson.gz"
)]
pub struct ExportArguments {
    /// Write to this file instead of standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only what was sealed behind this checkpoint.
    #[arg(long, value_name = "CHECKPOINT")]
    behind: Option<i64>,
}

/// Records, newest first, one JSON line each.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chartgate audit list --event access.denied --after 2026-11-01T00:00:00Z\n  chartgate audit list --patient pat_… --limit 1000"
)]
pub struct ListArguments {
    /// Whose data (platform key).
    #[arg(long)]
    organization: Option<String>,
    /// Who acted.
    #[arg(long)]
    actor: Option<String>,
    /// What happened.
    #[arg(long)]
    event: Option<String>,
    /// success, denied or failure.
    #[arg(long)]
    outcome: Option<String>,
    /// Whom it concerned.
    #[arg(long)]
    patient: Option<String>,
    /// Which job.
    #[arg(long)]
    job: Option<String>,
    /// Which other resource.
    #[arg(long)]
    resource: Option<String>,
    /// Which request.
    #[arg(long)]
    request: Option<String>,
    /// Written at this instant or later (RFC 3339).
    #[arg(long)]
    after: Option<String>,
    /// Written before this instant (RFC 3339).
    #[arg(long)]
    before: Option<String>,
    /// Records, at most.
    #[arg(long, default_value_t = 100)]
    limit: u64,
}

/// Run it.
///
/// # Errors
/// What kept it from being done; a bad verdict is an exit code.
pub async fn run(command: Command, config: &Config) -> anyhow::Result<ExitCode> {
    match command {
        Command::Verify(arguments) => {
            let report = match &arguments.export {
                Some(file) => offline(file, &arguments.trusted_key).await?,
                None => online(arguments.behind).await?,
            };
            show(&report, arguments.json)
        }
        Command::Export(arguments) => export(&arguments).await,
        Command::List(arguments) => list(&arguments).await,
        Command::RotateKey => rotate_key(config).await,
        Command::Continue { reason } => go_on(config, &reason).await,
    }
}

async fn online(behind: Option<i64>) -> anyhow::Result<Value> {
    let client = Client::from_environment()?;
    let query = behind.map_or_else(String::new, |number| format!("?behind={number}"));
    let request = client.request(reqwest::Method::GET, &format!("/v1/admin/audit/verify{query}")).timeout(PATIENCE);
    Ok(client.send(request).await?)
}

async fn offline(file: &Path, trusted: &[String]) -> anyhow::Result<Value> {
    let anchors = trusted.iter().map(|key| {
        let wrong =
            || ClientError::Settings("--trusted-key: not a key such as `chartgate audit verify` shows".to_owned());
        PublicKey::from_verifier(key).ok_or_else(wrong)
    });
    let anchors: Vec<PublicKey> = anchors.collect::<Result<_, _>>()?;
    let open = tokio::fs::File::open(file).await.with_context(|| format!("cannot read {}", file.display()))?;
    let reader = BufReader::with_capacity(1 << 20, open);
    let report = verify_export(reader, &anchors).await.with_context(|| file.display().to_string())?;
    Ok(serde_json::to_value(report)?)
}

fn show(report: &Value, as_json: bool) -> anyhow::Result<ExitCode> {
    let is_ok = report["ok"] == Value::Bool(true);
    if as_json {
        out::json(report)?;
        return Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    out::line(&format!(
        "{}  {} record(s) proven by {} checkpoint(s)",
        if is_ok { "ok  " } else { "BAD " },
        number(&report["records"]),
        number(&report["checkpoints"])
    ));
    if let Some(newest) = report["newest"].as_object() {
        let text = |name: &str| newest.get(name).map(ToString::to_string).unwrap_or_default().replace('"', "");
        out::line(&format!("newest checkpoint {} of {}: root {}", text("number"), text("time"), text("root")));
    }
    let unsealed = number(&report["unsealed"]["records"]);
    let oldest = report["unsealed"]["oldest"].as_str().map(|at| format!(", the oldest of {at}")).unwrap_or_default();
    out::line(&format!(
        "not proven yet: {} record(s) sealed but not signed, {unsealed} not sealed{oldest}",
        number(&report["unsigned"])
    ));
    for given_up in report["givenUp"].as_array().into_iter().flatten() {
        out::line(&format!(
            "checkpoints {} to {} were given up by checkpoint {} ({}): the database had been restored",
            given_up["first"],
            given_up["last"],
            given_up["by"],
            given_up["time"].as_str().unwrap_or_default()
        ));
    }
    for key in report["keys"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        out::line(&format!("key {key}"));
    }
    if report["trusted"] == Value::Bool(false) {
        out::line("none of these keys was known beforehand: compare them with those that you noted down");
    }
    if let Some(record) = report["firstBadRecord"].as_i64() {
        out::line(&format!("first bad record: {record}"));
    }
    for fault in report["faults"].as_array().into_iter().flatten() {
        let kind = fault["kind"].as_str().unwrap_or_default();
        out::line(&format!("  {kind}: {}", fault["what"].as_str().unwrap_or_default()));
    }
    let listed = report["faults"].as_array().map_or(0, Vec::len) as u64;
    let faults = number(&report["faultsTotal"]);
    if faults > listed {
        out::line(&format!("  … and {} more", faults - listed));
    }
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn export(arguments: &ExportArguments) -> anyhow::Result<ExitCode> {
    let client = Client::from_environment()?;
    let query = arguments.behind.map_or_else(String::new, |number| format!("?behind={number}"));
    let request = client.request(reqwest::Method::GET, &format!("/v1/admin/audit/export{query}")).timeout(PATIENCE);
    let response = client.open(request).await?;
    let mut writer: Box<dyn Write + Send> = match &arguments.output {
        Some(path) => {
            let created = std::fs::File::create_new(path);
            Box::new(created.with_context(|| format!("cannot write {}", path.display()))?)
        }
        None => Box::new(std::io::stdout()),
    };
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.context("the answer broke off: the export is not whole")?;
        writer.write_all(&chunk).context("cannot write the export")?;
    }
    writer.flush().context("cannot write the export")?;
    Ok(ExitCode::SUCCESS)
}

async fn list(arguments: &ListArguments) -> anyhow::Result<ExitCode> {
    let client = Client::from_environment()?;
    let filters = [
        ("organization", &arguments.organization),
        ("actor", &arguments.actor),
        ("event", &arguments.event),
        ("outcome", &arguments.outcome),
        ("patient", &arguments.patient),
        ("job", &arguments.job),
        ("resource", &arguments.resource),
        ("request", &arguments.request),
        ("after", &arguments.after),
        ("before", &arguments.before),
    ];
    let given = filters.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let filter = given.fold(String::new(), |filter, (name, value)| format!("{filter}&{name}={}", encode(value)));
    let (mut left, mut cursor) = (arguments.limit, String::new());
    while left > 0 {
        let page: Value = client.get(&format!("/v1/admin/audit?limit={}{filter}{cursor}", left.min(1000))).await?;
        let records = page["records"].as_array().map(Vec::as_slice).unwrap_or_default();
        for record in records {
            out::json(record)?;
        }
        left -= (records.len() as u64).min(left);
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={}", encode(next));
    }
    Ok(ExitCode::SUCCESS)
}

/// The database and the bucket, as a process beside a running one has them.
async fn reach(config: &Config) -> anyhow::Result<(Servers, Db)> {
    let servers = Servers::start(config, false).await?;
    let db = Db::connect(servers.database.clone(), 2);
    Ok((servers, db))
}

async fn rotate_key(config: &Config) -> anyhow::Result<ExitCode> {
    let (_servers, db) = reach(config).await?;
    let mut attempts = 0;
    let key = loop {
        attempts += 1;
        match care::rotate_key(&db, &config.audit_key(), Actor::internal("cli")).await {
            // A checkpoint was signed just then.
            Err(SealError::Db(DbError::NotOneRow(_) | DbError::Conflict(_))) if attempts < 5 => {}
            other => break other?,
        }
    };
    out::line(&key.verifier());
    out::note(
        "The new key signs from the next checkpoint on. Note its public key above, and keep a copy of the file; the old private key is gone.",
    );
    Ok(ExitCode::SUCCESS)
}

async fn go_on(config: &Config, reason: &str) -> anyhow::Result<ExitCode> {
    if reason.trim().is_empty() || reason.len() > 1000 {
        return Err(ClientError::Settings("--reason: say why, in at most 1000 bytes".to_owned()).into());
    }
    let (servers, db) = reach(config).await?;
    let mut sealer = Sealer::new(db, servers.objects.clone(), SealerOptions::new(config.audit_key()));
    let number = care::continue_log(&mut sealer, &servers.objects, Actor::internal("cli"), reason).await?;
    out::line(&format!("checkpoint {number} goes on; every verification will tell what was given up"));
    Ok(ExitCode::SUCCESS)
}
