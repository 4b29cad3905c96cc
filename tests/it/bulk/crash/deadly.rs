//! A worker process that kills itself (`SIGKILL`) at one place of a bulk file's way: the real handlers in a wrapper that
//! does nothing but die.

use crate::support::app::test_config;
use crate::support::objects::{ACCESS_KEY, BUCKET, SECRET_KEY};
use crate::support::program::{self, Program};
use chartgate::app::App;
use chartgate::engine::handler::{Facts, StepContext, StepError, StepHandler, StepOutcome};
use chartgate::engine::{EngineOptions, sweeper};
use chartgate::ingest::steps::handlers;
use chartgate::objects::{Objects, ObjectsOptions};
use chartgate::queue::Workers;
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What of a handler is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    Open,
    Run,
    Join,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// It is about to begin: what came before is committed.
    Begun,
    /// Everything is read, computed and put to S3; no transaction is open.
    Prepared,
    /// Its rows are written in the step's transaction, which is not committed.
    Written,
}

/// Where the process dies.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Place {
    pub handler: &'static str,
    pub call: Call,
    /// 0: the job itself.
    pub chunk: i32,
    pub moment: Moment,
}

impl Place {
    fn is(&self, call: Call, chunk: i32, moment: Moment) -> bool {
        (self.call, self.chunk, self.moment) == (call, chunk, moment)
    }
}

/// What the process reads from `program.json` in its directory.
#[derive(Serialize, Deserialize)]
pub struct Settings {
    pub socket_dir: PathBuf,
    pub database: String,
    pub s3_endpoint: String,
    /// Handler, call, chunk, moment; none: it dies when somebody else kills it.
    pub place: Option<(String, Call, i32, Moment)>,
}

/// Short enough that the next worker comes soon, long enough for a busy machine.
pub fn quick() -> EngineOptions {
    EngineOptions {
        lease: Duration::from_secs(2),
        poll: Duration::from_millis(20),
        concurrency: 8,
        ..EngineOptions::default()
    }
}

struct Deadly {
    inner: Arc<dyn StepHandler>,
    place: Place,
}

fn die() {
    kill_process(getpid(), Signal::KILL).unwrap();
}

impl Deadly {
    fn at(&self, call: Call, context: &StepContext, moment: Moment) {
        if self.place.is(call, context.chunk, moment) {
            die();
        }
    }

    /// The outcome whose effect dies behind its last statement.
    fn ended(&self, call: Call, context: &StepContext, outcome: StepOutcome) -> StepOutcome {
        self.at(call, context, Moment::Prepared);
        if !self.place.is(call, context.chunk, Moment::Written) {
            return outcome;
        }
        let effect = outcome.effect.expect("the place has rows to write");
        StepOutcome::with_output(outcome.output).with_effect(move |connection| {
            let written = effect(connection);
            Box::pin(async move {
                written.await?;
                die();
                Ok(Facts::new())
            })
        })
    }
}

#[async_trait::async_trait]
impl StepHandler for Deadly {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        self.at(Call::Run, context, Moment::Begun);
        let outcome = self.inner.run(context).await?;
        Ok(self.ended(Call::Run, context, outcome))
    }

    async fn open(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        self.at(Call::Open, context, Moment::Begun);
        let outcome = self.inner.open(context).await?;
        Ok(self.ended(Call::Open, context, outcome))
    }

    async fn join(&self, context: &StepContext, totals: Facts) -> Result<StepOutcome, StepError> {
        self.at(Call::Join, context, Moment::Begun);
        let outcome = self.inner.join(context, totals).await?;
        Ok(self.ended(Call::Join, context, outcome))
    }

    fn params(&self) -> &'static [&'static str] {
        self.inner.params()
    }
}

/// The worker, as a process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_process() {
    let Some(directory) = program::directory().map(PathBuf::from) else { return };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let settings: Settings = serde_json::from_slice(&std::fs::read(directory.join("program.json")).unwrap()).unwrap();
    let database = PgConnectOptions::new_without_pgpass()
        .socket(&settings.socket_dir)
        .port(5432)
        .username("chartgate_app")
        .database(&settings.database);
    let objects = Objects::connect(&ObjectsOptions {
        endpoint: Some(settings.s3_endpoint),
        region: "us-east-1".to_owned(),
        bucket: BUCKET.to_owned(),
        access_key: Some(ACCESS_KEY.to_owned()),
        secret_key: Some(SECRET_KEY.to_owned().into()),
        prefix: String::new(),
        timeout: Duration::from_secs(10),
    });
    let mut config = test_config();
    config.database.connections_max = 6;
    let mut app = App::build(config.clone(), database.clone(), objects.clone()).await.unwrap();
    if let Some((handler, call, chunk, moment)) = settings.place {
        let found = handlers(app.db.clone(), objects.clone()).into_iter().find(|(name, _)| *name == handler);
        let (handler, inner) = found.unwrap();
        let deadly = Deadly { inner, place: Place { handler, call, chunk, moment } };
        app = App::build_with(config, database, objects, vec![(handler, Arc::new(deadly))]).await.unwrap();
    }
    let engine = app.start_engine_with(quick());
    tokio::spawn(sweeper::run(Arc::clone(&engine), CancellationToken::new()));
    let _workers = Workers::start(engine, vec!["test".to_owned()]);
    crate::crash::program::say("READY 1");
    // Until it dies.
    std::future::pending::<()>().await;
}

/// Start the process; it is ready when this returns.
pub fn spawn(directory: &Path, settings: &Settings) -> Program {
    std::fs::write(directory.join("program.json"), serde_json::to_vec(settings).unwrap()).unwrap();
    let mut program = Program::spawn("bulk::crash::deadly::worker_process", directory);
    assert_eq!(program.next("READY"), Some(1), "the worker process did not start");
    program
}
