//! `doctor`: what is wrong with an installation, each finding with its remedy. Starts nothing, changes nothing but one small
//! object that it puts to see whether it may (`doctor/probe`).

use super::{out, serve};
use crate::app::{App, Servers, missing_secret_keys};
use crate::audit::store::sealer_status;
use crate::auth::store::{list_key_concerns, list_organizations};
use crate::callbacks;
use crate::config::Config;
use crate::db::log_settings::open_settings;
use crate::db::{DbError, Scope};
use crate::engine::gauges_store::{Around, Queue, Stuck, around, clock_ahead, queue, stuck};
use crate::engine::workers_store::versions_in_flight;
use crate::http::health::audit_fault;
use crate::http::server::tls::Tls;
use crate::objects::{ObjectError, Objects};
use crate::telemetry::traces;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::PgConnectOptions;
use std::process::ExitCode;

/// Check configuration, database, object storage, the collector and stuck work.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  chartgate doctor\n  chartgate doctor --json")]
pub struct Arguments {
    /// One JSON line a finding.
    #[arg(long)]
    json: bool,
}

/// A key that ends within so many days has no successor yet: its sender would be refused one morning.
const KEY_ENDS_DAYS: i32 = 14;
/// A key that nobody used for so long is a door that nobody watches.
const KEY_IDLE_DAYS: i32 = 90;
/// Ready work that is older says that there are too few workers, or none.
const READY_SECONDS_MAX: f64 = 60.0;
/// A lane whose head retries steps aside after 15 minutes; what is blocked for longer waits for something else.
const BLOCKED_SECONDS_MAX: f64 = 1200.0;
/// Leases and times of attempts are the database's; ours are in logs, tokens and signatures.
const CLOCK_SECONDS_MAX: f64 = 2.0;
/// What `doctor` puts, always the same.
const PROBE: &str = "doctor/probe";

struct Finding {
    ok: bool,
    subject: &'static str,
    what: String,
    remedy: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, ok: bool, subject: &'static str, what: impl Into<String>, remedy: &str) {
        let remedy = if ok { String::new() } else { remedy.to_owned() };
        self.0.push(Finding { ok, subject, what: what.into(), remedy });
    }

    fn fine(&mut self, subject: &'static str, what: impl Into<String>) {
        self.add(true, subject, what, "");
    }

    fn fault(&mut self, subject: &'static str, what: impl Into<String>, remedy: &str) {
        self.add(false, subject, what, remedy);
    }
}

/// Run the checks; exit 1 if one found a fault.
///
/// # Errors
/// When the database goes away between two checks: what cannot be checked is a finding otherwise.
pub async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    check_configuration(config, &mut findings);
    check_collector(config, &mut findings).await;
    // Join what runs; a doctor starts nothing.
    match Servers::start(config, false).await {
        Err(error) => {
            let remedy = "start `chartgate serve`, or mend DATABASE_URL and the S3 settings";
            findings.fault("servers", error.to_string(), remedy);
        }
        Ok(servers) => match App::build(config.clone(), servers.database.clone(), servers.objects.clone()).await {
            Err(error) => {
                let remedy = "mend what is named; `chartgate migrate` applies the schema";
                findings.fault("database", error.to_string(), remedy);
            }
            Ok(app) => {
                findings
                    .fine("database", "reachable; fsync and synchronous_commit are on; row-level security is forced");
                check_objects(&app.objects, &mut findings).await;
                check_database_log(&app, &mut findings).await?;
                check_clock(&app, &mut findings).await?;
                check_keys(&app, &mut findings).await?;
                check_sealing(&app, &mut findings).await?;
                check_engine(&app, &mut findings).await?;
                check_audit(&app, &mut findings).await?;
                check_callbacks(&app, &mut findings).await?;
                check_versions(&app, &mut findings).await?;
            }
        },
    }
    let healthy = findings.0.iter().all(|finding| finding.ok);
    for finding in &findings.0 {
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

/// The key that seals stored secrets: this host has it, and so have the others.
async fn check_sealing(app: &App, findings: &mut Findings) -> Result<(), DbError> {
    const REMEDY: &str =
        "set secrets.key to the same on every host (`openssl rand -base64 32`; or copy the file's content)";
    for key in missing_secret_keys(&app.db, &app.secrets).await? {
        let what = format!("stored secrets are sealed with key {key}, which this host does not have");
        findings.fault("secrets", what, REMEDY);
    }
    let file = app.config.data_dir.join("secrets.key");
    match (app.secrets.is_configured(), app.config.database.url.is_some()) {
        (true, _) => findings.fine("secrets", "secrets.key is set"),
        (false, false) => findings.fine("secrets", format!("sealed with {}", file.display())),
        (false, true) => {
            let read = app.db.unit::<_, DbError, _>(Scope::Platform, |connection| Box::pin(around(connection)));
            let processes = read.await?.workers;
            let what = format!(
                "no secrets.key: what seals secrets of callbacks and webhook senders is {} of one host, and {processes} process(es) work",
                file.display()
            );
            findings.add(processes <= 1, "secrets", what, REMEDY);
        }
    }
    Ok(())
}

/// The strong wall: the URL itself names the working role.
fn logs_in_as_app(url: &SecretString) -> bool {
    let parsed = url.expose_secret().parse::<PgConnectOptions>();
    parsed.is_ok_and(|options| options.get_username() == "chartgate_app")
}

fn check_configuration(config: &Config, findings: &mut Findings) {
    findings.fine("configuration", format!("read; data directory {}", config.data_dir.display()));
    match &config.database.url {
        Some(url) if config.database.migrate_url.is_none() && !logs_in_as_app(url) => findings.fault(
            "database role",
            "one URL for everything: each connection switches to chartgate_app by itself, which is the weaker wall",
            "set database.migrate_url to the owner's URL, and let database.url log in as chartgate_app",
        ),
        Some(_) => findings.fine("database role", "owner and working role are apart"),
        None => findings.fine("database role", "embedded: the program logs in as chartgate_app"),
    }
    if config.callbacks.allow_http || !config.callbacks.allow_private.is_empty() {
        findings.fault(
            "callbacks",
            "callbacks.allow_http or callbacks.allow_private opens what is closed to callbacks by default",
            "unset callbacks.allow_http outside development, and keep callbacks.allow_private as narrow as the receivers need",
        );
    }
    if let Some(path) = &config.callbacks.ca_file {
        match callbacks::trust::authorities(path) {
            Ok(known) => {
                findings.fine("callback authorities", format!("{} trusted beside the system's", known.len()));
            }
            Err(error) => findings.fault(
                "callback authorities",
                error.to_string(),
                "mend the file, or unset callbacks.ca_file: no process starts with it",
            ),
        }
    }
    let is_private = config.listen.ip().is_loopback();
    let listener = match &config.tls {
        Some(_) => format!("{} speaks TLS", config.listen),
        None if is_private => format!("{} is reached from this machine only", config.listen),
        None => {
            format!(
                "{} is reached from other machines, and keys and clinical data go over it in the clear",
                config.listen
            )
        }
    };
    let remedy = "set tls.certificate and tls.key, or listen on 127.0.0.1 behind a proxy that speaks TLS";
    findings.add(config.tls.is_some() || is_private, "listener", listener, remedy);
    if let Some(files) = &config.tls
        && let Err(error) = Tls::load(files)
    {
        let remedy = "mend the file that is named; it is read again without a restart";
        findings.fault("certificate", error.to_string(), remedy);
    }
}

async fn check_collector(config: &Config, findings: &mut Findings) {
    let Some(traces) = &config.traces else {
        findings.fine("collector", "no telemetry.otlp_endpoint: no traces are told");
        return;
    };
    match traces::probe(&serve::trace_settings(traces)).await {
        Ok(()) => findings.fine("collector", "takes spans"),
        Err(error) => findings.fault(
            "collector",
            format!("{error}; spans are dropped"),
            "start the collector, or mend telemetry.otlp_endpoint (OTLP over HTTP, mostly port 4318) and telemetry.otlp_headers",
        ),
    }
}

/// Where the program deletes: what was taken up, and what an erasure or retention ends.
const DELETED_BELOW: [&str; 4] = ["incoming/", "chunks/", "raw/", "outcomes/"];

/// What the program needs of the bucket, tried: each action by its name in a policy.
async fn check_objects(objects: &Objects, findings: &mut Findings) {
    if let Err(error) = objects.ready().await {
        let remedy = "check s3.endpoint, s3.bucket and the key's permissions";
        findings.fault("object storage", error.to_string(), remedy);
        return;
    }
    let denied = |action: &str, error: &ObjectError| format!("{action} fails: {error}");
    let mut faults = Vec::new();
    if let Err(error) = objects.put(PROBE, bytes::Bytes::from_static(b"chartgate doctor\n"), "text/plain", &[]).await {
        faults.push(denied("PutObject", &error));
    } else {
        if let Err(error) = objects.get(PROBE).await {
            faults.push(denied("GetObject", &error));
        }
        if let Err(error) = objects.head(PROBE).await {
            faults.push(denied("HeadObject", &error));
        }
    }
    if let Err(error) = objects.list("incoming/", None, 1).await {
        faults.push(denied("ListBucket", &error));
    }
    // Deleting what is not there asks for the same permission.
    for below in DELETED_BELOW {
        if let Err(error) = objects.delete(&format!("{below}doctor-probe")).await {
            faults.push(denied(&format!("DeleteObject on {below}"), &error));
        }
    }
    let fine = format!(
        "bucket {} is reachable; objects can be put, read and listed, and deleted below {}",
        objects.bucket(),
        DELETED_BELOW.join(", ")
    );
    let what = if faults.is_empty() { fine } else { faults.join("; ") };
    findings.add(
        faults.is_empty(),
        "object storage",
        what,
        "give the key these actions on the bucket (docs/operations.md)",
    );
}

async fn check_database_log(app: &App, findings: &mut Findings) -> Result<(), DbError> {
    let open = app.db.unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(open_settings(connection))).await?;
    if open.is_empty() {
        findings.fine("database log", "PostgreSQL logs no values");
    }
    for setting in open {
        let what = format!("{} is `{}`: PostgreSQL's log may hold {}", setting.name, setting.value, setting.shows);
        let remedy = format!(
            "as superuser: {}; then restart Chartgate (with one URL for everything: `alter database … set` instead)",
            setting.remedy()
        );
        findings.fault("database log", what, &remedy);
    }
    Ok(())
}

async fn check_clock(app: &App, findings: &mut Findings) -> Result<(), DbError> {
    let ours = app.clock.now();
    let ahead =
        app.db.unit::<_, DbError, _>(Scope::Global, move |connection| Box::pin(clock_ahead(connection, ours))).await?;
    findings.add(
        ahead.abs() < CLOCK_SECONDS_MAX,
        "clocks",
        format!("the database's clock and this host's differ by {:.1} s", ahead.abs()),
        "let NTP (chrony, systemd-timesyncd) set the clocks of both hosts; tokens and signatures are refused by a wrong one",
    );
    Ok(())
}

/// Keys that end soon, and keys that nobody uses.
async fn check_keys(app: &App, findings: &mut Findings) -> Result<(), DbError> {
    let concerns = app
        .db
        .unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(list_key_concerns(connection, KEY_ENDS_DAYS, KEY_IDLE_DAYS))
        })
        .await?;
    if concerns.is_empty() {
        let fine = format!("none ends within {KEY_ENDS_DAYS} days, none is unused for {KEY_IDLE_DAYS} days");
        findings.fine("keys", fine);
    }
    for key in concerns {
        let of = key.organization.as_deref().unwrap_or("the platform");
        let what = format!("{} \"{}\" ({} of {of})", key.id, key.name, key.role);
        if let Some(days) = key.ends_in_days.filter(|days| *days <= KEY_ENDS_DAYS) {
            let remedy = "`chartgate keys rotate ID` makes its successor";
            findings.fault("keys", format!("{what} ends within {} day(s)", days + 1), remedy);
        }
        if key.idle_days >= KEY_IDLE_DAYS {
            let remedy = "`chartgate keys revoke ID`, if nobody needs it";
            findings.fault("keys", format!("{what} was not used for {} days", key.idle_days), remedy);
        }
    }
    Ok(())
}

async fn check_engine(app: &App, findings: &mut Findings) -> Result<(), DbError> {
    let (facts, around, stuck): (Queue, Around, Stuck) = app
        .db
        .unit::<_, DbError, _>(Scope::Platform, |connection| {
            Box::pin(async move { Ok((queue(connection).await?, around(connection).await?, stuck(connection).await?)) })
        })
        .await?;
    findings.add(
        around.workers > 0,
        "workers",
        format!("{} worker process(es) reported within a minute", around.workers),
        "start `chartgate serve --role worker`",
    );
    findings.add(
        facts.expired_leases == 0,
        "leases",
        format!("{} lease(s) ran out and were not taken back", facts.expired_leases),
        "start `chartgate serve --role sweeper`",
    );
    let waiting = facts.ready + facts.suspect + facts.blocked + facts.delayed + facts.waiting;
    findings.add(
        facts.oldest_ready_seconds < READY_SECONDS_MAX,
        "queue",
        format!("{waiting} waiting, oldest ready for {:.0} s", facts.oldest_ready_seconds),
        "add workers, or look at `chartgate jobs list --status queued`",
    );
    findings.add(
        facts.oldest_blocked_seconds < BLOCKED_SECONDS_MAX,
        "lanes",
        format!(
            "{} job(s) behind others of their lanes; {} lane(s) wait for a retry, the oldest for {:.0} s",
            facts.blocked, facts.lanes_held, facts.oldest_blocked_seconds
        ),
        "`chartgate jobs list --status retrying` shows what they wait for, `chartgate jobs explain JOB` why",
    );
    let mut faults = Vec::new();
    for (count, what) in [
        (stuck.without_row, "job(s) are queued and have no place in the queue"),
        (stuck.without_chunks, "job(s) wait for chunks that there are not"),
        (stuck.lanes, "lane(s) wait for nobody (a sweeper mends them within seconds)"),
        (stuck.without_wake, "row(s) of the queue have neither an owner nor a time to wake"),
    ] {
        if count > 0 {
            faults.push(format!("{count} {what}"));
        }
    }
    let what =
        if faults.is_empty() { "all open work has an owner or a time to wake".to_owned() } else { faults.join("; ") };
    let remedy = "this is a bug, or somebody wrote to the database: report it; `chartgate jobs cancel JOB` and `jobs retry JOB` free a job";
    findings.add(faults.is_empty(), "stuck work", what, remedy);
    Ok(())
}

async fn check_audit(app: &App, findings: &mut Findings) -> Result<(), DbError> {
    let sealer = app.db.unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(sealer_status(connection))).await?;
    let state = sealer.as_ref().map(|status| status.state.clone());
    let (ok, what) = match (audit_fault(sealer.as_ref()), sealer) {
        (None, Some(status)) => (true, format!("sealed; about {} record(s) wait", status.unsealed_records)),
        (Some(fault), Some(status)) if status.detail.is_empty() => (false, fault),
        (Some(fault), Some(status)) => (false, format!("{fault}: {}", status.detail)),
        (fault, None) => (false, fault.unwrap_or_default()),
    };
    let remedy = match state.as_deref() {
        Some("forked" | "key_forked") => {
            "if the database was restored: `chartgate audit continue --reason …` where the signing key is (docs/audit.md, \"After a restore\"); else it is an incident"
        }
        Some("key_missing") => {
            "copy the log's signing key from where you keep it to audit.signing_key_file; it is taken up without a restart"
        }
        _ => {
            "start `chartgate serve --role sweeper` where the signing key is; docs/audit.md says what each state means"
        }
    };
    findings.add(ok, "audit log", what, remedy);
    Ok(())
}

/// Callbacks that were disabled by their failures: their receivers are told nothing.
async fn check_callbacks(app: &App, findings: &mut Findings) -> Result<(), DbError> {
    let organizations = app
        .db
        .unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(list_organizations(connection, None)))
        .await?;
    let mut disabled = 0;
    for organization in organizations {
        let id = organization.id;
        let found = app
            .db
            .unit::<_, DbError, _>(Scope::Organization(id), move |connection| {
                Box::pin(callbacks::store::disabled_by_failure(connection, id))
            })
            .await?;
        for callback in found {
            disabled += 1;
            findings.fault(
                "callbacks",
                format!("{callback} of \"{}\" is disabled, because its deliveries failed", organization.name),
                "mend the receiver, then `PATCH /v1/admin/callbacks/ID` with {\"status\": \"active\"} and `POST /v1/admin/jobs/JOB/callbacks/resend`",
            );
        }
    }
    if disabled == 0 {
        findings.fine("callbacks", "none is disabled by failures");
    }
    Ok(())
}

async fn check_versions(app: &App, findings: &mut Findings) -> Result<(), DbError> {
    let versions =
        app.db.unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(versions_in_flight(connection))).await?;
    for (workflow, version, open) in versions {
        let known = app.catalog.resolve(&app.db, &workflow, version).await.is_ok();
        findings.add(
            known,
            "workflow versions",
            format!("{open} open job(s) on {workflow} version {version}"),
            "this program cannot run that version: bring its handlers back, or retry the jobs on the latest version",
        );
    }
    Ok(())
}
