//! A commit whose answer is lost leaves nothing behind that only a death would free.

use super::scripted::{Act, Scripted, workflow};
use crate::support::app::{Setup, TestApp, step_of};
use crate::support::cluster::TestDatabase;
use crate::support::lossy_postgres::LossyPostgres;
use crate::support::submit::submit;
use chartgate::engine::EngineOptions;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

struct Lossy {
    app: TestApp,
    scripted: Arc<Scripted>,
    postgres: LossyPostgres,
    _database: TestDatabase,
}

impl Lossy {
    async fn start() -> Self {
        let database = TestDatabase::new().await;
        let postgres = LossyPostgres::start(&database.options());
        let scripted = Scripted::new();
        let setup = Setup {
            handlers: vec![("test.scripted", Arc::clone(&scripted) as _)],
            workflows: vec![
                ("scripted", workflow("scripted", "none")),
                ("in-order", workflow("in-order", "organization")),
            ],
            database: Some(postgres.options(&database.options())),
            ..Setup::default()
        };
        Self { app: TestApp::with(setup).await, scripted, postgres, _database: database }
    }
}

/// Nothing else than handing back gives a job on within a test's time.
fn options() -> EngineOptions {
    EngineOptions {
        lease: Duration::from_mins(2),
        poll: Duration::from_millis(20),
        committers: 1,
        ..EngineOptions::default()
    }
}

#[tokio::test]
async fn the_successor_that_a_lost_answer_named_is_handed_back() {
    let lossy = Lossy::start().await;
    let app = &lossy.app;
    lossy.scripted.script("last", &[Act::Slow(Duration::from_millis(500))]);
    let workers = app.workers_with(options());
    let head = submit(app, app.organization.id, "in-order", None).await.job.to_string();
    let next = submit(app, app.organization.id, "in-order", None).await.job.to_string();
    app.wait_until(&head, "in its last step", |view| step_of(view, "last")["status"] == "running").await;
    lossy.postgres.lose_answer("commit_steps(", "");
    let begun = Instant::now();
    app.wait_for(&head, "succeeded").await;
    app.wait_for(&next, "succeeded").await;
    assert!(lossy.postgres.has_lost());
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(app.count("select count(*) from step_attempts").await, 0);
    workers.stop().await;
}

#[tokio::test]
async fn a_failure_whose_record_got_no_answer_is_followed_by_the_closing_steps() {
    let lossy = Lossy::start().await;
    let app = &lossy.app;
    lossy.scripted.script("first", &[Act::Sender]);
    lossy.postgres.lose_answer("fail_step(", "COMMIT");
    let workers = app.workers_with(options());
    let job = submit(app, app.organization.id, "scripted", None).await.job.to_string();
    let begun = Instant::now();
    let view = app.wait_for(&job, "failed").await;
    assert!(lossy.postgres.has_lost());
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let states: Vec<_> =
        view["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["failed", "succeeded", "skipped", "succeeded"]);
    assert_eq!(app.count("select count(*) from step_attempts where outcome = 'failed'").await, 1);
    assert_eq!(workers.engine.counters.stale_commits.load(Ordering::Relaxed), 0, "it was recorded, not too late");
    workers.stop().await;
}
