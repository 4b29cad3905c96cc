//! The worker process that gets killed: this test binary again, with an application of its own over the test's
//! database.

use crate::support::app::{TestApp, test_config};
use crate::support::objects::{ACCESS_KEY, BUCKET, SECRET_KEY};
use crate::support::program::{self, Program};
use chartgate::app::App;
use chartgate::audit;
use chartgate::audit::sealer::SealerOptions;
use chartgate::engine::figures::Counter;
use chartgate::engine::handler::{StepContext, StepError, StepHandler, StepOutcome};
use chartgate::engine::{EngineOptions, sweeper};
use chartgate::queue::Workers;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The audit log's signing key, in the program's directory.
pub const AUDIT_KEY: &str = "audit-key.pem";
/// Name of the function that is the program.
const FUNCTION: &str = "crash::program::worker_process";

/// What the program reads from `program.json` in its directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    pub socket_dir: PathBuf,
    pub database: String,
    pub lease_ms: u64,
    pub step_ms: u64,
    pub concurrency: usize,
    /// Where the audit log's checkpoints go.
    pub s3_endpoint: String,
}

impl Settings {
    pub fn of(app: &TestApp, lease_ms: u64, step_ms: u64) -> Self {
        Self {
            socket_dir: app.owner_options.get_socket().unwrap().clone(),
            database: app.owner_options.get_database().unwrap().to_owned(),
            lease_ms,
            step_ms,
            concurrency: 16,
            s3_endpoint: app.objects.endpoint(),
        }
    }

    pub fn write(&self, directory: &Path) {
        std::fs::write(directory.join("program.json"), serde_json::to_vec(self).unwrap()).unwrap();
    }
}

/// Start a worker process; it is ready when this returns.
pub fn spawn(directory: &Path) -> Program {
    let mut program = Program::spawn(FUNCTION, directory);
    assert_eq!(program.next("READY"), Some(1), "the worker process did not start");
    program
}

/// The five steps of the crashing workflow.
pub fn workflow(ordering: &str) -> String {
    let step = |name: &str| format!("[[step]]\nname = \"{name}\"\nhandler = \"test.crash\"\n");
    let steps = ["one", "two", "three", "four", "five"].map(step).concat();
    format!("name = \"crashing\"\nversion = 1\nsummary = \"Steps with effects.\"\nordering = \"{ordering}\"\n{steps}")
}

/// A step that takes a while, and writes one row in its transaction. In the process of a job that is named in the file
/// `poison`, it aborts.
pub struct Crash {
    pub directory: PathBuf,
    pub step: Duration,
}

#[async_trait::async_trait]
impl StepHandler for Crash {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        tokio::time::sleep(self.step).await;
        let poisoned = std::fs::read_to_string(self.directory.join("poison")).unwrap_or_default();
        if context.step == "three" && poisoned.contains(&context.job.to_string()) {
            std::process::abort();
        }
        let (organization, job, step) = (context.organization, context.job, context.step.clone());
        let process = i32::try_from(std::process::id()).unwrap();
        Ok(StepOutcome::default().with_effect(move |connection| {
            let step = step.clone();
            Box::pin(async move {
                sqlx::query("insert into test_effects values ($1, $2, $3, $4)")
                    .bind(organization)
                    .bind(job)
                    .bind(step)
                    .bind(process)
                    .execute(connection)
                    .await
                    .map_err(chartgate::db::DbError::from)?;
                Ok(serde_json::Map::new())
            })
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_process() {
    let Some(directory) = program::directory().map(PathBuf::from) else { return };
    let settings: Settings = serde_json::from_slice(&std::fs::read(directory.join("program.json")).unwrap()).unwrap();
    let database = PgConnectOptions::new_without_pgpass()
        .socket(&settings.socket_dir)
        .port(5432)
        .username("chartgate_app")
        .database(&settings.database);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut config = test_config();
    config.workflows_dir = Some(directory.join("workflows"));
    config.database.connections_max = 6;
    let crash = Crash { directory: directory.clone(), step: Duration::from_millis(settings.step_ms) };
    let objects = chartgate::objects::Objects::connect(&chartgate::objects::ObjectsOptions {
        endpoint: Some(settings.s3_endpoint),
        region: "us-east-1".to_owned(),
        bucket: BUCKET.to_owned(),
        access_key: Some(ACCESS_KEY.to_owned()),
        secret_key: Some(SECRET_KEY.to_owned().into()),
        prefix: String::new(),
        timeout: Duration::from_secs(1),
    });
    // The database may be restarting just now: a process that is started then waits for it.
    let app = loop {
        let handlers = vec![("test.crash", Arc::new(Crash { directory: directory.clone(), step: crash.step }) as _)];
        match App::build_with(config.clone(), database.clone(), objects.clone(), handlers).await {
            Ok(app) => break app,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let engine = app.start_engine_with(EngineOptions {
        lease: Duration::from_millis(settings.lease_ms),
        poll: Duration::from_millis(50),
        concurrency: settings.concurrency,
        ..EngineOptions::default()
    });
    let stop = CancellationToken::new();
    tokio::spawn(sweeper::run(Arc::clone(&engine), stop.clone()));
    tokio::spawn(app.wake.clone().notify_others(app.db.clone(), stop.clone()));
    let sealing = SealerOptions {
        checkpoint_every: Duration::from_millis(200),
        tick: Duration::from_millis(20),
        ..SealerOptions::new(directory.join(AUDIT_KEY))
    };
    tokio::spawn(audit::task::run(app.db.clone(), app.objects.clone(), sealing, stop.clone()));
    // Counts almost without rest, so that kills meet it.
    let mut counter = Counter::new(app.db.clone());
    tokio::spawn(async move {
        loop {
            let _ = counter.round().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let workers = Workers::start(engine, vec!["test".to_owned()]);
    crate::crash::program::say("READY 1");
    // Until it is killed, or told to end.
    while !directory.join("stop").exists() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    workers.shutdown().await;
}

#[expect(clippy::disallowed_macros, reason = "the process's words to the test")]
pub fn say(words: &str) {
    println!("{words}");
}
