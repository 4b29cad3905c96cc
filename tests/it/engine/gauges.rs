//! What operators are told of the queue.

use super::scripted::{Scripted, workflow};
use crate::support::app::{Setup, TestApp};
use crate::support::submit::submit;
use chartgate::db::{DbError, Scope};
use chartgate::engine::gauges_store::{Queue, queue};
use std::time::Duration;

async fn look(app: &TestApp) -> Queue {
    app.app.db.unit::<_, DbError, _>(Scope::Platform, |connection| Box::pin(queue(connection))).await.unwrap()
}

#[tokio::test]
async fn ages_are_of_what_waits_for_us_and_not_of_what_is_paused_or_in_backoff() {
    let setup = Setup {
        handlers: vec![("test.scripted", Scripted::new() as _)],
        workflows: vec![("free", workflow("free", "none")), ("in-order", workflow("in-order", "organization"))],
        ..Setup::default()
    };
    let app = TestApp::with(setup).await;
    assert_eq!(look(&app).await, Queue::default());

    submit(&app, app.organization.id, "free", None).await;
    app.advance(Duration::from_mins(10)).await;
    let seen = look(&app).await;
    assert!(seen.ready == 1 && (600.0..660.0).contains(&seen.oldest_ready_seconds), "{seen:?}");
    let pause = "update organizations set status = 'paused'";
    sqlx::raw_sql(pause).execute(&mut app.owner().await).await.unwrap();
    let seen = look(&app).await;
    assert_eq!((seen.ready, seen.oldest_ready_seconds), (1, 0.0), "nobody is to run it");
    let resume = "update organizations set status = 'active'";
    sqlx::raw_sql(resume).execute(&mut app.owner().await).await.unwrap();

    // The head of a lane has failed and waits; two stand behind it, of which the first is looked at.
    let workers = app.workers();
    app.run_until_idle().await;
    workers.stop().await;
    for _ in 0..3 {
        submit(&app, app.organization.id, "in-order", None).await;
    }
    let fail = "update queue set state = 'delayed', attempts = 1, run_at = chartgate_now() + interval '1 day' where state = 'ready'";
    sqlx::raw_sql(fail).execute(&mut app.owner().await).await.unwrap();
    app.advance(Duration::from_mins(5)).await;
    let seen = look(&app).await;
    assert_eq!((seen.delayed, seen.blocked, seen.lanes_held, seen.oldest_ready_seconds), (1, 2, 1, 0.0), "{seen:?}");
    assert!((300.0..360.0).contains(&seen.oldest_blocked_seconds), "{seen:?}");
    // Its time has come: it may run, and its age is not that of its backoff.
    let due = "update queue set state = 'ready', run_at = null where state = 'delayed'";
    sqlx::raw_sql(due).execute(&mut app.owner().await).await.unwrap();
    let seen = look(&app).await;
    assert_eq!((seen.ready, seen.lanes_held, seen.oldest_ready_seconds), (1, 0, 0.0), "{seen:?}");
}
