//! Builds everything once, for `serve`, `demo`, benches and tests alike: [`Servers`] finds or starts PostgreSQL and S3,
//! [`App`] holds what requests and workers share.

mod audit;
mod checks;
pub mod error_pages;
pub mod health;
pub mod kept;
mod servers;
pub mod settings;
pub(crate) use servers::write_private;

pub use checks::{StartError, missing_secret_keys};
pub use servers::{Endpoints, Servers};

use crate::audit::keys::{KeyFileError, SigningKey};
use crate::audit::note::PublicKey;
use crate::audit::sealer::SealerOptions;
use crate::audit::source::SourceError;
use crate::auth::Authenticator;
use crate::auth::denials::Denials;
use crate::auth::origins::Origins;
use crate::auth::webhooks::Webhooks;
use crate::callbacks::Callbacks;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::{Db, DbError, Scope};
use crate::engine::catalog::Catalog;
use crate::engine::operations::Operations;
use crate::engine::registry::Registry;
use crate::engine::wake::Wake;
use crate::engine::{Engine, EngineOptions};
use crate::ingest::steps;
use crate::ingest::submit::Submitter;
use crate::limits::Limits;
use crate::objects::Objects;
use crate::secrets::Secrets;
use crate::uploads::watcher::{Watcher, WatcherOptions};
use sqlx::postgres::PgConnectOptions;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What requests and workers of one process share.
pub struct App {
    /// Configuration.
    pub config: Config,
    /// PostgreSQL.
    pub db: Db,
    /// S3.
    pub objects: Objects,
    /// Time of day.
    pub clock: Clock,
    /// Wake-ups of workers.
    pub wake: Wake,
    /// Workflows and handlers.
    pub catalog: Catalog,
    /// Intake.
    pub submitter: Submitter,
    /// API keys and tokens.
    pub authenticator: Authenticator,
    /// Signed webhooks.
    pub webhooks: Webhooks,
    /// Denials in the audit log.
    pub denials: Denials,
    /// Web pages that may call.
    pub origins: Origins,
    /// Takes up what was uploaded.
    pub watcher: Watcher,
    /// Seals secrets that must be usable.
    pub secrets: Secrets,
    /// Tells others of the ends of jobs.
    pub callbacks: Callbacks,
    /// What callers may take of this process.
    pub limits: Arc<Limits>,
    /// What was found of the dependencies lately.
    health: health::Health,
    /// What pages of the console have read lately.
    pub kept: kept::Kept,
    /// When the database was last looked at for the metrics, and how long that took.
    pub scraped: tokio::sync::Mutex<Option<(Instant, Duration)>>,
}

impl App {
    /// Check the database's promises, load and register the workflows, start the intake's committer.
    ///
    /// # Errors
    /// [`StartError`], with all faults of its kind.
    pub async fn build(config: Config, database: PgConnectOptions, objects: Objects) -> Result<Arc<Self>, StartError> {
        Self::build_with(config, database, objects, Vec::new()).await
    }

    /// The same with further or other handlers (tests, benches).
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn build_with(
        config: Config,
        database: PgConnectOptions,
        objects: Objects,
        handlers: Vec<(&'static str, Arc<dyn crate::engine::handler::StepHandler>)>,
    ) -> Result<Arc<Self>, StartError> {
        let is_server_ours = config.database.url.is_none();
        let db = Db::connect(database, config.database.connections_max)
            .with_background(config.workers_chunks + 1, is_server_ours);
        checks::check_database(&db, config.database.allow_unsafe).await?;
        let secrets = Secrets::new(config.secrets_key.clone(), &config.data_dir);
        for key in missing_secret_keys(&db, &secrets).await? {
            tracing::error!(
                key,
                "secrets of callbacks or webhook senders are sealed with key {key}, which this process does not have: all processes need the same secrets.key"
            );
            secrets.make_none();
        }
        let callbacks = Callbacks::new(&config, db.clone(), secrets.clone())
            .map_err(|error| StartError::Server(error.to_string()))?;
        let registry = Registry::default()
            .with(steps::handlers(db.clone(), objects.clone()))
            .with(callbacks.handlers())
            .with(handlers);
        let catalog = Catalog::load(config.workflows_dir.as_deref(), registry)?;
        catalog.register(&db).await?;
        let (wake, clock) = (Wake::default(), Clock::system());
        let watching = WatcherOptions { sweep_every: config.watcher_sweep, keep: config.watcher_keep };
        Ok(Arc::new(Self {
            submitter: Submitter::start(db.clone(), wake.clone()),
            authenticator: Authenticator::new(db.clone(), clock.clone(), &config.jwt),
            webhooks: Webhooks::new(db.clone(), clock.clone(), secrets.clone()),
            denials: Denials::new(db.clone()),
            origins: Origins::new(db.clone(), &config.cors_origins),
            watcher: Watcher::new(db.clone(), objects.clone(), catalog.clone(), wake.clone(), watching),
            secrets,
            callbacks,
            clock,
            limits: Limits::new(&config.limits),
            health: health::Health::default(),
            kept: kept::Kept::default(),
            scraped: tokio::sync::Mutex::default(),
            config,
            db,
            objects,
            wake,
            catalog,
        }))
    }

    /// Acts of administrators on jobs: retry, cancel, bulk operations.
    #[must_use]
    pub fn operations(&self) -> Operations {
        Operations::new(self.db.clone(), self.catalog.clone(), self.wake.clone())
    }

    /// How this process seals the audit log.
    #[must_use]
    pub fn sealer_options(&self) -> SealerOptions {
        SealerOptions::new(self.config.audit_key())
    }

    /// The keys that are known to be the audit log's without asking the database: the configured ones, and the signing key's
    /// where its file is.
    ///
    /// # Errors
    /// [`SourceError`] when the database or the key's file cannot be read.
    pub async fn audit_anchors(&self) -> Result<Vec<PublicKey>, SourceError> {
        let log = self
            .db
            .unit::<_, DbError, _>(Scope::Global, |connection| {
                Box::pin(async move { crate::audit::store::log_id(connection).await })
            })
            .await?;
        let trusted = self.config.audit_trusted_keys.iter().filter_map(|key| PublicKey::from_verifier(key));
        // Readable only where this process may sign; elsewhere its public half is configured, or unknown.
        let own = match SigningKey::load(&self.config.audit_key()) {
            Err(KeyFileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => None,
            loaded => loaded?.map(|key| key.key(log)),
        };
        Ok(trusted.chain(own).collect())
    }

    /// The engine of this process, with its committers.
    #[must_use]
    pub fn start_engine(&self) -> Arc<Engine> {
        let options = EngineOptions {
            lease: self.config.lease,
            concurrency: self.config.workers_concurrency,
            chunks: self.config.workers_chunks,
            ..EngineOptions::default()
        };
        self.start_engine_with(options)
    }

    /// The same with other times and bounds (tests).
    #[must_use]
    pub fn start_engine_with(&self, options: EngineOptions) -> Arc<Engine> {
        Engine::start(self.db.clone(), self.catalog.clone(), self.wake.clone(), options)
    }
}
