//! `workflows list|check` and `doctor`.

use super::out;
use crate::app::{App, Servers, missing_secret_keys};
use crate::audit::store::sealer_status;
use crate::auth::store::list_key_concerns;
use crate::callbacks::Callbacks;
use crate::config::Config;
use crate::db::log_settings::open_settings;
use crate::db::{Db, DbError, Scope};
use crate::engine::catalog::{self, Catalog, CatalogError};
use crate::engine::registry::Registry;
use crate::engine::workers_store::doctor_facts;
use crate::http::health::audit_fault;
use crate::http::server::tls::Tls;
use crate::ingest::steps;
use crate::objects::{Objects, ObjectsOptions};
use crate::secrets::Secrets;
use secrecy::{ExposeSecret as _, SecretString};
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
    let callbacks = Callbacks::new(config, db.clone(), secrets).map(|callbacks| callbacks.handlers());
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

/// Check configuration, database, object storage and stuck work.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  chartgate doctor\n  chartgate doctor --json")]
pub struct DoctorArguments {
    /// One JSON line a finding.
    #[arg(long)]
    json: bool,
}

/// The strong wall: the URL itself names the working role.
fn logs_in_as_app(url: &SecretString) -> bool {
    let parsed = url.expose_secret().parse::<PgConnectOptions>();
    parsed.is_ok_and(|options| options.get_username() == "chartgate_app")
}

struct Finding {
    ok: bool,
    subject: &'static str,
    what: String,
    remedy: String,
}

/// A key that ends within so many days has no successor yet: its sender would be refused one morning.
const KEY_ENDS_DAYS: i32 = 14;
/// A key that nobody used for so long is a door that nobody watches.
const KEY_IDLE_DAYS: i32 = 90;

/// Keys that end soon, and keys that nobody uses.
async fn check_keys(app: &App, add: &mut impl FnMut(bool, &'static str, String, &str)) -> Result<(), DbError> {
    let concerns = app
        .db
        .unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(list_key_concerns(connection, KEY_ENDS_DAYS, KEY_IDLE_DAYS))
        })
        .await?;
    if concerns.is_empty() {
        let fine = format!("none ends within {KEY_ENDS_DAYS} days, none is unused for {KEY_IDLE_DAYS} days");
        add(true, "keys", fine, "");
    }
    for key in concerns {
        let of = key.organization.as_deref().unwrap_or("the platform");
        let what = format!("{} \"{}\" ({} of {of})", key.id, key.name, key.role);
        if let Some(days) = key.ends_in_days.filter(|days| *days <= KEY_ENDS_DAYS) {
            let remedy = "`chartgate keys rotate ID` makes its successor";
            add(false, "keys", format!("{what} ends within {} day(s)", days + 1), remedy);
        }
        if key.idle_days >= KEY_IDLE_DAYS {
            let remedy = "`chartgate keys revoke ID`, if nobody needs it";
            add(false, "keys", format!("{what} was not used for {} days", key.idle_days), remedy);
        }
    }
    Ok(())
}

/// The key that seals stored secrets: this host has it, and so have the others.
async fn check_sealing(
    app: &App,
    processes: i64,
    add: &mut impl FnMut(bool, &'static str, String, &str),
) -> Result<(), DbError> {
    const REMEDY: &str = "set secrets.key to the same on every host (`openssl rand -base64 32`; or copy the file's content)";
    for key in missing_secret_keys(&app.db, &app.secrets).await? {
        let what = format!("stored secrets are sealed with key {key}, which this host does not have");
        add(false, "secrets", what, REMEDY);
    }
    let file = app.config.data_dir.join("secrets.key");
    match (app.secrets.is_configured(), app.config.database.url.is_some()) {
        (true, _) => add(true, "secrets", "secrets.key is set".to_owned(), ""),
        (false, false) => add(true, "secrets", format!("sealed with {}", file.display()), ""),
        (false, true) => {
            let what = format!(
                "no secrets.key: what seals secrets of callbacks and webhook senders is {} of one host, and {processes} process(es) work",
                file.display()
            );
            add(processes <= 1, "secrets", what, REMEDY);
        }
    }
    Ok(())
}

/// Run the checks; exit 1 if one found a fault.
///
/// # Errors
/// None of its own: what cannot be checked is a finding.
pub async fn doctor(config: &Config, arguments: &DoctorArguments) -> anyhow::Result<ExitCode> {
    let mut findings = Vec::new();
    let mut add = |ok: bool, subject: &'static str, what: String, remedy: &str| {
        findings.push(Finding { ok, subject, what, remedy: if ok { String::new() } else { remedy.to_owned() } });
    };
    add(true, "configuration", format!("read; data directory {}", config.data_dir.display()), "");
    match &config.database.url {
        Some(url) if config.database.migrate_url.is_none() && !logs_in_as_app(url) => add(
            false,
            "database role",
            "one URL for everything: each connection switches to chartgate_app by itself, which is the weaker wall"
                .to_owned(),
            "set database.migrate_url to the owner's URL, and let database.url log in as chartgate_app",
        ),
        Some(_) => add(true, "database role", "owner and working role are apart".to_owned(), ""),
        None => add(true, "database role", "embedded: the program logs in as chartgate_app".to_owned(), ""),
    }
    if config.callbacks.allow_http || !config.callbacks.allow_private.is_empty() {
        add(
            false,
            "callbacks",
            "callbacks.allow_http or callbacks.allow_private opens what is closed to callbacks by default".to_owned(),
            "unset callbacks.allow_http outside development, and keep callbacks.allow_private as narrow as the receivers need",
        );
    }
    let is_private = config.listen.ip().is_loopback();
    add(
        config.tls.is_some() || is_private,
        "listener",
        match &config.tls {
            Some(_) => format!("{} speaks TLS", config.listen),
            None if is_private => format!("{} is reached from this machine only", config.listen),
            None => format!(
                "{} is reached from other machines, and keys and clinical data go over it in the clear",
                config.listen
            ),
        },
        "set tls.certificate and tls.key, or listen on 127.0.0.1 behind a proxy that speaks TLS",
    );
    if let Some(files) = &config.tls
        && let Err(error) = Tls::load(files)
    {
        add(false, "certificate", error.to_string(), "mend the file that is named; it is read again without a restart");
    }
    // Join what runs; a doctor starts nothing.
    match Servers::start(config, false).await {
        Err(error) => add(
            false,
            "servers",
            error.to_string(),
            "start `chartgate serve`, or mend DATABASE_URL and the S3 settings",
        ),
        Ok(servers) => match App::build(config.clone(), servers.database.clone(), servers.objects.clone()).await {
            Err(error) => {
                add(false, "database", error.to_string(), "mend what is named; `chartgate migrate` applies the schema");
            }
            Ok(app) => {
                add(
                    true,
                    "database",
                    "reachable; fsync and synchronous_commit are on; row-level security is forced".to_owned(),
                    "",
                );
                match app.objects.ready().await {
                    Ok(()) => add(true, "object storage", format!("bucket {} is reachable", app.objects.bucket()), ""),
                    Err(error) => add(
                        false,
                        "object storage",
                        error.to_string(),
                        "check s3.endpoint, s3.bucket and the key's permissions",
                    ),
                }
                let open = app
                    .db
                    .unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(open_settings(connection)))
                    .await?;
                if open.is_empty() {
                    add(true, "database log", "PostgreSQL logs no values".to_owned(), "");
                }
                for setting in open {
                    let what =
                        format!("{} is `{}`: PostgreSQL's log may hold {}", setting.name, setting.value, setting.shows);
                    let remedy = format!(
                        "as superuser: {}; then restart Chartgate (with one URL for everything: `alter database … set` instead)",
                        setting.remedy()
                    );
                    add(false, "database log", what, &remedy);
                }
                let facts = app
                    .db
                    .unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(doctor_facts(connection)))
                    .await?;
                check_keys(&app, &mut add).await?;
                check_sealing(&app, facts.workers_seen, &mut add).await?;
                add(
                    facts.workers_seen > 0,
                    "workers",
                    format!("{} worker process(es) reported within a minute", facts.workers_seen),
                    "start `chartgate serve --role worker`",
                );
                add(
                    facts.expired_leases == 0,
                    "leases",
                    format!("{} lease(s) ran out and were not taken back", facts.expired_leases),
                    "start `chartgate serve --role sweeper`",
                );
                add(
                    facts.oldest_ready_seconds < 60.0,
                    "queue",
                    format!("{} waiting, oldest ready for {:.0} s", facts.waiting, facts.oldest_ready_seconds),
                    "add workers, or look at `chartgate jobs list --status queued`",
                );
                let sealer = app
                    .db
                    .unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(sealer_status(connection)))
                    .await?;
                let (ok, what) = match (audit_fault(sealer.as_ref()), sealer) {
                    (None, Some(status)) => (true, format!("sealed; about {} record(s) wait", status.unsealed_records)),
                    (Some(fault), Some(status)) => (false, format!("{fault} {}", status.detail)),
                    (fault, None) => (false, fault.unwrap_or_default()),
                };
                add(
                    ok,
                    "audit log",
                    what,
                    "start `chartgate serve --role sweeper` where the signing key is; docs/audit.md says what each state means",
                );
                for (workflow, version, open) in facts.versions {
                    let known = app.catalog.resolve(&app.db, &workflow, version).await.is_ok();
                    add(
                        known,
                        "workflow versions",
                        format!("{open} open job(s) on {workflow} version {version}"),
                        "this program cannot run that version: bring its handlers back, or retry the jobs on the latest version",
                    );
                }
            }
        },
    }
    let healthy = findings.iter().all(|finding| finding.ok);
    for finding in &findings {
        if arguments.json {
            out::json(
                &serde_json::json!({ "ok": finding.ok, "subject": finding.subject, "finding": finding.what, "remedy": finding.remedy }),
            )?;
        } else {
            out::line(&format!("{}  {}: {}", if finding.ok { "ok  " } else { "FAIL" }, finding.subject, finding.what));
            if !finding.ok {
                out::line(&format!("      → {}", finding.remedy));
            }
        }
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
