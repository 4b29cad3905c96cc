//! A lease is lost by dying only: not by a long commit, nor by what the database refuses.

use super::scripted::{Act, workflow};
use crate::support::app::{Setup, TestApp, step_of};
use crate::support::submit::submit;
use chartgate::db::DbError;
use chartgate::engine::EngineOptions;
use chartgate::engine::handler::{Facts, StepContext, StepError, StepHandler, StepOutcome};
use sqlx::Connection as _;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Steps that wait at places until a test opens them: `first run` and `first effect` of the step `first`, and so on.
pub struct Gated {
    closed: watch::Sender<BTreeSet<&'static str>>,
    reached: watch::Sender<BTreeSet<String>>,
}

impl Gated {
    pub fn new(closed: &[&'static str]) -> Arc<Self> {
        Arc::new(Self { closed: watch::channel(closed.iter().copied().collect()).0, reached: watch::Sender::default() })
    }

    async fn pass(&self, place: String) {
        self.reached.send_modify(|reached| {
            reached.insert(place.clone());
        });
        let _ = self.closed.subscribe().wait_for(|closed| !closed.contains(place.as_str())).await;
    }

    /// Until a step stands there.
    pub async fn reached(&self, place: &str) {
        let mut reached = self.reached.subscribe();
        let stands = reached.wait_for(|reached| reached.contains(place));
        tokio::time::timeout(Duration::from_secs(30), stands).await.expect(place).unwrap();
    }

    pub fn open(&self, place: &str) {
        self.closed.send_modify(|closed| {
            closed.remove(place);
        });
    }
}

/// The handler: its effect waits inside the step's transaction.
struct Gate(Arc<Gated>);

#[async_trait::async_trait]
impl StepHandler for Gate {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        self.0.pass(format!("{} run", context.step)).await;
        let (gated, place) = (Arc::clone(&self.0), format!("{} effect", context.step));
        Ok(StepOutcome::default().with_effect(move |_| {
            let (gated, place) = (Arc::clone(&gated), place.clone());
            Box::pin(async move {
                gated.pass(place).await;
                Ok(Facts::new())
            })
        }))
    }
}

const LEASE: Duration = Duration::from_mins(1);

/// Renewed every 15 s and swept every 2 s: what a test sees within a second is the commit's doing.
fn long_lease() -> EngineOptions {
    EngineOptions { lease: LEASE, poll: Duration::from_millis(20), ..EngineOptions::default() }
}

async fn lease_left(app: &TestApp) -> f64 {
    sqlx::query_scalar(
        "select extract(epoch from lease_until - chartgate_now())::float8 from queue where state = 'leased'",
    )
    .fetch_one(&mut app.owner().await)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_commit_that_takes_longer_than_its_lease_renews_it() {
    let gated = Gated::new(&["first effect", "kept run"]);
    let setup = Setup {
        handlers: vec![("test.scripted", Arc::new(Gate(Arc::clone(&gated))) as _)],
        workflows: vec![("scripted", workflow("scripted", "none"))],
        ..Setup::default()
    };
    let app = TestApp::with(setup).await;
    let workers = app.workers_with(long_lease());
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    gated.reached("first effect").await;
    // The transaction holds the row's lock, so that nobody renews it.
    app.advance(3 * LEASE).await;
    gated.open("first effect");
    gated.reached("kept run").await;
    let left = lease_left(&app).await;
    assert!(left > LEASE.as_secs_f64() / 2.0, "{left} s are left of the lease behind the commit");
    gated.open("kept run");
    app.wait_for(&job, "succeeded").await;
    assert_eq!(app.count("select count(*) from step_attempts").await, 0);
    workers.stop().await;
}

#[tokio::test]
async fn a_step_that_failed_for_good_leaves_a_fresh_lease_to_the_closing_steps() {
    let (app, scripted) = super::failures::scripted_app().await;
    scripted.script("first", &[Act::SlowSender(Duration::from_millis(700))]);
    scripted.script("kept", &[Act::Slow(Duration::from_secs(2))]);
    let workers = app.workers_with(long_lease());
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    app.wait_for(&job, "running").await;
    app.advance(3 * LEASE).await;
    app.wait_until(&job, "at its closing steps", |view| step_of(view, "kept")["status"] == "running").await;
    let left = lease_left(&app).await;
    assert!(left > LEASE.as_secs_f64() / 2.0, "{left} s are left of the lease behind the failure");
    app.wait_for(&job, "failed").await;
    workers.stop().await;
}

#[tokio::test]
async fn whether_a_round_has_failed_before_is_asked_until_the_database_answers() {
    let (app, scripted) = super::failures::scripted_app().await;
    scripted.script("first", &[Act::Sender]);
    scripted.script("kept", &[Act::RetryAfter(Duration::from_secs(30))]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    app.wait_until(&job, "in backoff behind a failure", |view| step_of(view, "kept")["status"] == "retrying").await;
    // Nobody gets to read the table of jobs, and whoever waits for it loses the connection.
    let mut owner = app.owner().await;
    let mut locked = owner.begin().await.unwrap();
    sqlx::query("lock table jobs in access exclusive mode").execute(&mut *locked).await.unwrap();
    app.advance(Duration::from_secs(31)).await;
    let mut observer = app.owner().await;
    let begun = Instant::now();
    let mut cut: i64 = 0;
    while cut == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the job is not claimed again");
        cut = sqlx::query_scalar(
            "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and query like '%error_code is not null%'
               and pid <> pg_backend_pid()",
        )
        .fetch_one(&mut observer)
        .await
        .unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    locked.rollback().await.unwrap();
    let view = app.wait_for(&job, "failed").await;
    let states: Vec<_> =
        view["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["failed", "succeeded", "skipped", "succeeded"]);
    let later: Vec<bool> = scripted
        .runs
        .lock()
        .unwrap()
        .iter()
        .filter(|(_, step, _)| step != "first")
        .map(|(.., failed)| *failed)
        .collect();
    assert_eq!(later, [true, true, true], "every closing step knew of the failure");
    workers.stop().await;
}

#[tokio::test]
async fn a_commit_that_always_meets_a_taken_key_ends_and_holds_nobody_up() {
    let (app, scripted) = super::failures::scripted_app().await;
    scripted.script("first", &[Act::Slow(Duration::from_millis(500))]);
    let options = EngineOptions {
        lease: Duration::from_secs(2),
        poll: Duration::from_millis(20),
        committers: 1,
        ..EngineOptions::default()
    };
    let workers = app.workers_with(options);
    let job = submit(&app, app.organization.id, "scripted", None).await.job;
    app.wait_for(&job.to_string(), "running").await;
    // As a bug would leave it.
    sqlx::query(
        "insert into job_steps (organization_id, job_id, round, step, name, status, attempts, finished_at)
         values ($1, $2, 1, 0, 'first', 'skipped', 0, now())",
    )
    .bind(app.organization.id)
    .bind(job)
    .execute(&mut app.owner().await)
    .await
    .unwrap();
    let other = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    app.wait_for(&other, "succeeded").await;
    // It can be recorded neither as succeeded nor as failed: its lease runs out until it is parked.
    let view = app.wait_for(&job.to_string(), "failed").await;
    assert_eq!(view["error"]["code"], "worker_killed");
    let conflicts = "select count(*) from step_attempts where error_code = 'database_conflict'";
    assert!(app.count(conflicts).await >= 3, "each spent try is an attempt");
    assert_eq!(app.count("select count(*) from queue").await, 0);
    workers.stop().await;
}

/// A step whose effect takes longer than a statement may.
struct Endless;

#[async_trait::async_trait]
impl StepHandler for Endless {
    async fn run(&self, _: &StepContext) -> Result<StepOutcome, StepError> {
        Ok(StepOutcome::default().with_effect(|connection| {
            Box::pin(async move {
                let endless = "set local statement_timeout = '50ms'; select pg_sleep(60)";
                sqlx::raw_sql(endless).execute(connection).await.map_err(DbError::from)?;
                Ok(Facts::new())
            })
        }))
    }
}

#[tokio::test]
async fn a_statement_that_always_takes_too_long_spends_the_steps_attempts() {
    let setup = Setup {
        handlers: vec![("test.scripted", Arc::new(Endless) as _)],
        workflows: vec![("scripted", workflow("scripted", "none"))],
        ..Setup::default()
    };
    let app = TestApp::with(setup).await;
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    let view = app.wait_for(&job, "failed").await;
    assert_eq!(view["error"]["code"], "database_timeout");
    assert_eq!(view["error"]["class"], "transient");
    assert_eq!(step_of(&view, "first")["attempts"], 4);
    workers.stop().await;
}
