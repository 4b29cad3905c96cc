//! Builds everything once, for `serve`, `demo`, benches and tests alike: [`Servers`] finds or starts PostgreSQL and S3,
//! [`App`] holds what requests and workers share.

mod checks;
mod servers;
pub(crate) use servers::write_private;

pub use checks::StartError;
pub use servers::{Endpoints, Servers};

use crate::auth::Authenticator;
use crate::auth::origins::Origins;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Db;
use crate::engine::catalog::Catalog;
use crate::engine::registry::Registry;
use crate::engine::wake::Wake;
use crate::engine::{Engine, EngineOptions};
use crate::ingest::steps;
use crate::ingest::submit::Submitter;
use crate::limits::Limits;
use crate::objects::Objects;
use crate::uploads::watcher::{Watcher, WatcherOptions};
use sqlx::postgres::PgConnectOptions;
use std::sync::Arc;

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
    /// API keys.
    pub authenticator: Authenticator,
    /// Web pages that may call.
    pub origins: Origins,
    /// Takes up what was uploaded.
    pub watcher: Watcher,
    /// What callers may take of this process.
    pub limits: Arc<Limits>,
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
        let db = Db::connect(database, config.database.connections_max);
        checks::check_database(&db, config.database.allow_unsafe).await?;
        let registry = Registry::default().with(steps::handlers(db.clone(), objects.clone())).with(handlers);
        let catalog = Catalog::load(config.workflows_dir.as_deref(), registry)?;
        catalog.register(&db).await?;
        let wake = Wake::default();
        let watching = WatcherOptions { sweep_every: config.watcher_sweep, keep: config.watcher_keep };
        Ok(Arc::new(Self {
            submitter: Submitter::start(db.clone(), wake.clone()),
            authenticator: Authenticator::new(db.clone()),
            origins: Origins::new(db.clone(), &config.cors_origins),
            watcher: Watcher::new(db.clone(), objects.clone(), catalog.clone(), wake.clone(), watching),
            clock: Clock::system(),
            limits: Limits::new(&config.limits),
            config,
            db,
            objects,
            wake,
            catalog,
        }))
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
