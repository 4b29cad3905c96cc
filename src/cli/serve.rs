//! `serve` and `migrate`: start the parts that the roles name, and stop them in order.

use super::client::ClientError;
use super::out;
use crate::app::{App, Servers};
use crate::audit;
use crate::auth::store::{self, KeyGrant};
use crate::auth::{AuthError, NewKey, Role, webhooks};
use crate::callbacks;
use crate::config::{Config, TracesConfig};
use crate::console;
use crate::db::{DbError, Scope};
use crate::engine::{figures, sweeper};
use crate::http::server::{self, tls::Tls};
use crate::ids::OrganizationId;
use crate::ingest::athena::counts;
use crate::ingest::erasure::Eraser;
use crate::ingest::erasure::retention::Retention;
use crate::queue::{Presence, Workers};
use crate::telemetry::traces;
use crate::uploads::expiry;
use crate::uploads::watcher::Sources;
use anyhow::Context as _;
use serde_json::json;
use sqlx::PgConnection;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Connections that the kernel keeps until they are accepted.
const ACCEPT_BACKLOG: u32 = 4096;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProcessRole {
    /// Everything.
    All,
    /// HTTP.
    Api,
    /// Runs jobs.
    Worker,
    /// Picks up uploaded objects.
    Watcher,
    /// Takes back the leases of dead workers; seals the audit log.
    Sweeper,
}

/// Run Chartgate: HTTP API, workers, sweeper.
///
/// Without any configuration it starts its own PostgreSQL and S3 under the data directory, applies the migrations,
/// creates the organization `demo` with one key a role, and prints the URLs.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chartgate serve\n  chartgate serve --listen 0.0.0.0:8080 --data-dir ./data\n  DATABASE_URL=postgres://… chartgate serve --role api\n  DATABASE_URL=postgres://… chartgate serve --role worker --role sweeper"
)]
pub struct Arguments {
    /// What this process does; may be given several times.
    #[arg(long = "role", value_enum, default_values_t = [ProcessRole::All])]
    roles: Vec<ProcessRole>,
    /// Where the embedded PostgreSQL and S3 live.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address and port of the HTTP API.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
}

/// Run until SIGINT or SIGTERM, then drain.
///
/// # Errors
/// What kept it from starting.
pub async fn run(mut config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    if let Some(data_dir) = arguments.data_dir {
        config.data_dir = data_dir;
    }
    config.data_dir = absolute(&config.data_dir)?;
    if let Some(listen) = arguments.listen {
        config.listen = listen;
    }
    let traces = start_traces(&config)?;
    // Before anything can be interrupted.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let running = tokio::select! {
        running = Running::start(config, &arguments.roles) => running?,
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    };
    running.announce();
    let asked_by_hand = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => true,
    };
    tracing::info!("stopping: running steps finish, everything else is handed back");
    let hurry = running.app.limits.hurry.clone();
    if asked_by_hand {
        // The grace is for load balancers; somebody at a terminal does not want to wait.
        hurry.cancel();
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        hurry.cancel();
    });
    running.stop().await;
    if let Some(traces) = traces {
        traces.stop().await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Switch traces on if a collector is configured. One that is away keeps nothing from starting.
fn start_traces(config: &Config) -> anyhow::Result<Option<traces::Exporter>> {
    config.traces.as_ref().map(|config| Ok(traces::start(&trace_settings(config))?)).transpose()
}

/// The configuration in the words of telemetry.
pub(super) fn trace_settings(config: &TracesConfig) -> traces::Settings {
    traces::Settings {
        endpoint: config.endpoint.clone(),
        headers: config.headers.clone(),
        service_name: config.service_name.clone(),
        sample_ratio: config.sample_ratio,
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is not a usable path", path.display()))
}

/// Apply the migrations.
///
/// # Errors
/// What kept them from being applied.
pub async fn migrate(config: &Config) -> anyhow::Result<ExitCode> {
    if config.database.url.is_none() {
        return Err(ClientError::Settings("set DATABASE_URL (and, if the program's role is not the owner, database.migrate_url); the embedded database migrates itself".to_owned()).into());
    }
    let mut config = config.clone();
    // Only the database is touched.
    config.s3.embedded = false;
    let servers = Servers::start(&config, true).await?;
    anyhow::ensure!(
        servers.owner.is_some(),
        "database.url logs in as chartgate_app, which may not migrate: set database.migrate_url"
    );
    out::line("the database has the newest schema");
    Ok(ExitCode::SUCCESS)
}

/// Everything that a process runs.
pub struct Running {
    /// What requests and workers share.
    pub app: Arc<App>,
    /// Where HTTP listens, if it does.
    pub address: Option<SocketAddr>,
    credentials: Option<PathBuf>,
    pub(super) servers: Servers,
    workers: Option<Workers>,
    /// A sweeper without workers reports itself too.
    presence: Option<Presence>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Start the parts of these roles.
    ///
    /// # Errors
    /// The first part that did not start.
    pub async fn start(config: Config, roles: &[ProcessRole]) -> anyhow::Result<Self> {
        let has = |role: ProcessRole| roles.contains(&ProcessRole::All) || roles.contains(&role);
        let embedded = config.database.url.is_none();
        // Before anything is started for nothing.
        let files = config.tls.as_ref().filter(|_| has(ProcessRole::Api));
        let tls = files.map(Tls::load).transpose()?;
        let mut servers = Servers::start(&config, has(ProcessRole::Api)).await?;
        let app = App::build(config.clone(), servers.database.clone(), servers.objects.clone()).await?;
        let stop = CancellationToken::new();
        let mut tasks = vec![tokio::spawn(app.wake.clone().notify_others(app.db.clone(), stop.clone()))];
        let mut workers = None;
        let mut presence = None;
        if has(ProcessRole::Worker) || has(ProcessRole::Sweeper) {
            let engine = app.start_engine();
            if has(ProcessRole::Sweeper) {
                tasks.push(tokio::spawn(sweeper::run(Arc::clone(&engine), stop.clone())));
                tasks.push(tokio::spawn(counts::run(app.db.clone(), stop.clone())));
                tasks.push(tokio::spawn(expiry::run(app.db.clone(), stop.clone())));
                let (db, catalog, wake) = (app.db.clone(), app.catalog.clone(), app.wake.clone());
                tasks.push(tokio::spawn(callbacks::dispatch::run(
                    db,
                    catalog,
                    wake,
                    config.callbacks.keep,
                    stop.clone(),
                )));
                let sealing = audit::task::run(app.db.clone(), app.objects.clone(), app.sealer_options(), stop.clone());
                tasks.push(tokio::spawn(sealing));
                let eraser = Eraser::new(app.db.clone(), app.objects.clone());
                let retention = Retention::new(eraser.clone(), config.retention);
                tasks.push(tokio::spawn(retention.run(stop.clone())));
                tasks.push(tokio::spawn(eraser.run(stop.clone())));
                tasks.push(tokio::spawn(webhooks::run(app.db.clone(), stop.clone())));
                tasks.push(tokio::spawn(console::forget_ended_sessions(app.db.clone(), stop.clone())));
                tasks.push(tokio::spawn(figures::run(app.db.clone(), stop.clone())));
            }
            let names = roles.iter().map(|role| format!("{role:?}").to_lowercase()).collect();
            if has(ProcessRole::Worker) {
                workers = Some(Workers::start(engine, names));
            } else {
                presence = Some(Presence::start(engine, names));
            }
        }
        // A channel that nobody reads must not fill.
        let created = servers.created.take();
        if has(ProcessRole::Watcher) {
            let sources = Sources { store: created, queue: Servers::notification_queue(&config)? };
            tasks.push(tokio::spawn(app.watcher.clone().run(sources, stop.clone())));
        }
        let mut address = None;
        let mut credentials = None;
        if has(ProcessRole::Api) {
            let listener = listen(config.listen).with_context(|| {
                format!("cannot listen on {}: is another process there? Choose another with --listen", config.listen)
            })?;
            let bound = listener.local_addr()?;
            address = Some(bound);
            if embedded {
                credentials = Some(create_demo(&app, bound, scheme_of(tls.is_some())).await?);
            }
            tasks.push(tokio::spawn(server::serve(listener, tls, Arc::clone(&app), console::routes(), stop.clone())));
        }
        if let Some(listen) = config.metrics_listen.filter(|_| !has(ProcessRole::Api)) {
            let listener = TcpListener::bind(listen).await.with_context(|| {
                format!(
                    "cannot listen on {listen}: is another process there? Choose another as telemetry.metrics_listen"
                )
            })?;
            tracing::info!("metrics are at http://{}/metrics", listener.local_addr()?);
            tasks.push(tokio::spawn(server::serve_metrics(listener, Arc::clone(&app), stop.clone())));
        }
        Ok(Self { app, address, credentials, servers, workers, presence, stop, tasks })
    }

    /// Tell people where everything is.
    fn announce(&self) {
        if let Some(address) = self.address {
            let scheme = scheme_of(self.app.config.tls.is_some());
            out::line(&format!(
                "Chartgate listens on {scheme}://{address}  (console: /admin, API: /docs, health: /health/ready)"
            ));
        } else {
            out::line("Chartgate runs without an HTTP listener");
        }
        if let Some(path) = &self.credentials {
            out::line(&format!("Keys of the organization `demo`: {}", path.display()));
        }
    }

    /// Stop in order: no new requests, running steps finish, servers last.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Some(workers) = self.workers {
            workers.shutdown().await;
        }
        if let Some(presence) = self.presence {
            presence.stop().await;
        }
        for task in self.tasks {
            let _ = task.await;
        }
        self.app.denials.flush().await;
        self.app.db.pool().close().await;
        self.servers.stop().await;
    }
}

/// Listen, with room for a burst of connections that nobody has accepted yet: the runtime's own 1,024 would make the kernel drop
/// the rest, which then neither are answered nor closed. The kernel bounds it by `net.core.somaxconn`.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As after a restart: connections of the process before may still be closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_BACKLOG)
}

fn scheme_of(is_tls: bool) -> &'static str {
    if is_tls { "https" } else { "http" }
}

/// Keys of the embedded instance's organization, as scripts read them. No `Debug`: it would print them.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct DemoCredentials {
    /// `http://host:port`
    pub url: String,
    /// `org_…`
    pub organization: OrganizationId,
    /// One key a role.
    pub keys: DemoKeys,
}

/// One key a role.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct DemoKeys {
    /// Submits.
    pub sender: String,
    /// Reads clinical data.
    pub reader: String,
    /// Administers the organization.
    pub admin: String,
    /// Administers all.
    pub platform: String,
}

/// The organization `demo` with one key a role, made at the first start and printed once; the file is kept up to date
/// with the URL.
async fn create_demo(app: &App, address: SocketAddr, scheme: &str) -> anyhow::Result<PathBuf> {
    let path = app.config.data_dir.join("demo-credentials.json");
    let stored: Option<DemoCredentials> =
        std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let host = if address.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], address.port())) } else { address };
    let url = format!("{scheme}://{host}");
    let works = match &stored {
        Some(stored) => match app.authenticator.authenticate(&stored.keys.platform).await {
            Err(AuthError::Db(error)) => return Err(error.into()),
            other => other.is_ok(),
        },
        None => false,
    };
    let credentials = if let Some(stored) = stored.filter(|_| works) {
        DemoCredentials { url, ..stored }
    } else {
        let (organization, keys) = make_demo(app).await?;
        out::line("Created the organization `demo`. Its keys, printed this once:");
        for (role, key) in
            [("sender", &keys.sender), ("reader", &keys.reader), ("admin", &keys.admin), ("platform", &keys.platform)]
        {
            out::line(&format!("  {role:<9} {key}"));
        }
        DemoCredentials { url, organization, keys }
    };
    crate::app::write_private(&path, &credentials)?;
    Ok(path)
}

async fn make_demo(app: &App) -> Result<(OrganizationId, DemoKeys), DbError> {
    // After the file was lost: the organization stays, its old keys too.
    let known = app
        .db
        .unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move { store::find_organization(connection, None, Some("demo")).await })
        })
        .await?;
    let organization = known.as_ref().map_or_else(OrganizationId::new, |organization| organization.id);
    let is_new = known.is_none();
    app.db
        .unit(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let actor = audit::Actor::internal("serve");
                if is_new {
                    store::insert_organization(connection, organization, "demo").await?;
                    let resource = organization.to_string();
                    record_creation(connection, organization, "organization.created", &resource, &actor).await?;
                }
                let mut keys = Vec::new();
                for role in Role::ALL {
                    let key = NewKey::generate();
                    let home = (role != Role::Platform).then_some(organization);
                    let grant = KeyGrant {
                        organization: home,
                        role,
                        name: "demo".to_owned(),
                        source: "default".to_owned(),
                        expires_at: None,
                    };
                    store::insert_key(connection, &key, &grant).await?;
                    let resource = format!("key:{}", key.id);
                    record_creation(connection, organization, "key.created", &resource, &actor).await?;
                    keys.push(key.key);
                }
                let mut keys = keys.into_iter();
                let mut next = || keys.next().unwrap_or_default();
                Ok((organization, DemoKeys { sender: next(), reader: next(), admin: next(), platform: next() }))
            })
        })
        .await
}

async fn record_creation(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: &str,
    resource: &str,
    actor: &audit::Actor,
) -> Result<(), DbError> {
    let mut record = audit::Record::new(organization, event, audit::Action::Create, actor);
    record.resource = Some(resource);
    audit::append(connection, record).await
}

/// The first platform key, straight into the database.
///
/// # Errors
/// When the database cannot be reached or written.
pub async fn bootstrap_key(config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    if config.database.url.is_none() {
        return Err(ClientError::Settings(
            "set DATABASE_URL; an embedded instance has its platform key in demo-credentials.json".to_owned(),
        )
        .into());
    }
    let mut config = config.clone();
    config.s3.embedded = false;
    let servers = Servers::start(&config, true).await?;
    let db = crate::db::Db::connect(servers.database.clone(), 1);
    let key = NewKey::generate();
    let (id, text) = (key.id.clone(), key.key.clone());
    db.unit::<_, DbError, _>(Scope::Organization(OrganizationId::PLATFORM), move |connection| {
        Box::pin(async move {
            let grant = KeyGrant {
                organization: None,
                role: Role::Platform,
                name: "bootstrap".to_owned(),
                source: "default".to_owned(),
                expires_at: None,
            };
            store::insert_key(connection, &key, &grant).await?;
            let actor = audit::Actor::internal("cli");
            let resource = format!("key:{}", key.id);
            record_creation(connection, OrganizationId::PLATFORM, "key.created", &resource, &actor).await
        })
    })
    .await?;
    if as_json {
        out::json(&json!({ "id": id, "key": text, "role": "platform" }))?;
    } else {
        out::line(&text);
        out::note(
            "This platform key is shown once. Set it as CHARTGATE_API_KEY to create organizations and their keys.",
        );
    }
    Ok(ExitCode::SUCCESS)
}
