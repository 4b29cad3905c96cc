//! The rollup behind the overview: every round of every job once, whoever counts, whatever happens in between.

use super::scripted_app;
use crate::engine::scripted::Act;
use crate::support::app::TestApp;
use crate::support::submit::submit;
use chartgate::db::{DbError, Scope};
use chartgate::engine::figures::Counter;
use chartgate::engine::figures_list_store::{figures_since, queue_now};
use chartgate::engine::figures_store::Figures;
use chartgate::ids::OrganizationId;
use serde_json::json;
use std::time::{Duration, Instant};
use time::OffsetDateTime;

const PATIENCE: Duration = Duration::from_mins(1);

/// Count all that is committed now. Transactions of other tests hold the counting, too: they are of the same cluster.
pub async fn count_all(app: &TestApp) {
    let target = app.count("select audit_position(pg_current_xact_id())").await;
    let mut counter = Counter::new(app.app.db.clone());
    let deadline = Instant::now() + PATIENCE;
    while app.count("select until_xid from figures_position").await < target {
        assert!(Instant::now() < deadline, "the counting stands still");
        if !counter.round().await.unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn read(app: &TestApp, organization: Option<OrganizationId>) -> Vec<Figures> {
    let scope = organization.map_or(Scope::Platform, Scope::Organization);
    app.app
        .db
        .unit::<_, DbError, _>(scope, move |connection| {
            Box::pin(async move { figures_since(connection, organization, OffsetDateTime::UNIX_EPOCH).await })
        })
        .await
        .unwrap()
}

/// Accepted, retried, succeeded, with issues, failed, cancelled.
fn sums(figures: &[Figures]) -> [i64; 6] {
    let mut sums = [0; 6];
    for row in figures {
        let counts = [row.accepted, row.retried, row.succeeded, row.with_issues, row.failed, row.cancelled];
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    sums
}

fn buckets(figures: &[Figures], which: fn(&Figures) -> &Vec<i64>) -> i64 {
    figures.iter().flat_map(|row| which(row).iter()).sum()
}

async fn retry_all_failed(app: &TestApp) -> i64 {
    let ids: Vec<chartgate::ids::JobId> = sqlx::query_scalar("select id from jobs where status = 'failed'")
        .fetch_all(&mut app.owner().await)
        .await
        .unwrap();
    for id in &ids {
        let path = format!("/v1/admin/jobs/{id}/retry");
        let (status, answer) = app.post(&app.platform, &path, &json!({ "from": "start", "reason": "test" })).await;
        assert_eq!(status, 202, "{answer}");
    }
    i64::try_from(ids.len()).unwrap()
}

#[tokio::test]
async fn every_round_is_counted_once_through_failures_retries_and_cancels() {
    let (app, scripted) = scripted_app().await;
    let own = app.organization.id;
    let other = app.organization("Other Hospital").await;
    scripted.script("middle", &[Act::Sender, Act::Ours, Act::Sender, Act::Sender]);
    for number in 0..20 {
        submit(&app, if number % 4 == 0 { other.id } else { own }, "scripted", None).await;
    }
    let job = submit(&app, own, "scripted", None).await.job;
    let (status, answer) =
        app.post(&app.organization.sender, &format!("/v1/ingestion/jobs/{job}/cancel"), &json!({})).await;
    assert!(status < 300, "{status} {answer}");
    let workers = app.workers();
    app.run_until_idle().await;
    count_all(&app).await;
    // No job has left its round: the jobs themselves are the truth, minute by minute.
    let differing: i64 = sqlx::query_scalar(
        "select count(*)
         from (
           select organization_id, date_trunc('minute', finished_at) at, count(*) filter (where status = 'succeeded') good,
             count(*) filter (where status = 'failed') bad, count(*) filter (where status = 'cancelled') ended
           from jobs group by 1, 2) j
         full join (select * from job_figures where organization_id <> $1 and succeeded + failed + cancelled > 0) f using (organization_id, at)
         where (j.good, j.bad, j.ended) is distinct from (f.succeeded, f.failed, f.cancelled)",
    )
    .bind(OrganizationId::PLATFORM)
    .fetch_one(&mut app.owner().await)
    .await
    .unwrap();
    assert_eq!(differing, 0);
    let figures = read(&app, None).await;
    assert_eq!(sums(&figures), [21, 0, 16, 0, 4, 1]);
    assert_eq!(buckets(&figures, |row| &row.ended_in), 20, "all but the cancelled one have a time");
    assert_eq!(buckets(&figures, |row| &row.begun_in), 20);

    // Two further rounds each before anybody counts: one fails again, one succeeds.
    scripted.script("first", &[Act::Sender]);
    let first = retry_all_failed(&app).await;
    app.run_until_idle().await;
    let second = retry_all_failed(&app).await;
    app.run_until_idle().await;
    assert_eq!((first, second), (4, 1));
    count_all(&app).await;
    let figures = read(&app, None).await;
    assert_eq!(sums(&figures), [21, 5, 20, 0, 5, 1]);
    assert_eq!(buckets(&figures, |row| &row.ended_in), 20, "only first rounds have a time");
    let (mine, theirs) = (sums(&read(&app, Some(own)).await), sums(&read(&app, Some(other.id)).await));
    let both: Vec<i64> = mine.iter().zip(theirs).map(|(mine, theirs)| mine + theirs).collect();
    assert_eq!(both, sums(&figures), "the platform's are the sums");
    assert_eq!(theirs[0], 5);
    workers.stop().await;
}

#[tokio::test]
async fn several_counters_at_once_count_nothing_twice_and_a_late_commit_is_counted() {
    let (app, _) = scripted_app().await;
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job;
    app.run_until_idle().await;
    // A transaction that has its number already and commits when others have been counted.
    let mut late = app.owner().await;
    let mut late = sqlx::Connection::begin(&mut late).await.unwrap();
    sqlx::query("insert into audit_records (organization_id, at, event, action, actor, job_id) values ($1, chartgate_now(), 'job.accepted', 'C', 'test', $2)")
        .bind(app.organization.id)
        .bind(job)
        .execute(&mut *late)
        .await
        .unwrap();
    let position = app.count("select audit_position(pg_current_xact_id())").await;
    for _ in 0..30 {
        submit(&app, app.organization.id, "scripted", None).await;
    }
    app.run_until_idle().await;
    let mut counters: Vec<Counter> = (0..4).map(|_| Counter::new(app.app.db.clone())).collect();
    for _ in 0..10 {
        let rounds = counters.iter_mut().map(|counter| async { counter.round().await });
        for outcome in futures::future::join_all(rounds).await {
            assert!(matches!(outcome, Ok(_) | Err(DbError::NotOneRow(0) | DbError::Conflict(_))), "{outcome:?}");
        }
    }
    assert!(app.count("select until_xid from figures_position").await < position, "it may not pass what still runs");
    assert!(sums(&read(&app, None).await)[0] <= 1);
    late.commit().await.unwrap();
    count_all(&app).await;
    assert_eq!(sums(&read(&app, None).await), [32, 0, 31, 0, 0, 0]);
    workers.stop().await;
}

#[tokio::test]
async fn old_figures_are_folded_into_longer_spans_and_lose_nothing_until_they_are_forgotten() {
    let (app, _) = scripted_app().await;
    let workers = app.workers();
    for _ in 0..5 {
        submit(&app, app.organization.id, "scripted", None).await;
        app.run_until_idle().await;
        app.advance(Duration::from_secs(90)).await;
    }
    workers.stop().await;
    count_all(&app).await;
    let counter = Counter::new(app.app.db.clone());
    let before = read(&app, None).await;
    assert!(before.len() >= 5, "each in a minute of its own: {}", before.len());
    for (pass_hours, span) in [(3, 600), (27, 3600)] {
        app.advance(Duration::from_secs(pass_hours * 3600)).await;
        counter.thin().await.unwrap();
        counter.thin().await.unwrap();
        let spans: Vec<i32> = sqlx::query_scalar("select distinct span_seconds from job_figures")
            .fetch_all(&mut app.owner().await)
            .await
            .unwrap();
        assert_eq!(spans, [span]);
        let folded = read(&app, None).await;
        assert_eq!(sums(&folded), sums(&before));
        assert_eq!(buckets(&folded, |row| &row.ended_in), 5);
    }
    app.advance(Duration::from_hours(91 * 24)).await;
    counter.thin().await.unwrap();
    assert_eq!(app.count("select count(*) from job_figures").await, 0);
}

#[tokio::test]
async fn the_queue_is_looked_at_and_an_empty_one_has_no_row() {
    let (app, _) = scripted_app().await;
    for _ in 0..3 {
        submit(&app, app.organization.id, "scripted", None).await;
    }
    let look = || async {
        Counter::new(app.app.db.clone()).round().await.unwrap();
        let own = app.organization.id;
        let db = &app.app.db;
        let read = db.unit::<_, DbError, _>(Scope::Organization(own), move |connection| {
            Box::pin(async move { queue_now(connection, Some(own), 10).await })
        });
        read.await.unwrap()
    };
    // A round that is behind does not look at the queue.
    count_all(&app).await;
    let queues = look().await;
    assert_eq!(queues.len(), 1);
    assert_eq!((queues[0].waiting, queues[0].running, queues[0].blocked), (3, 0, 0));
    assert!(queues[0].oldest_ready_at.is_some());
    let workers = app.workers();
    app.run_until_idle().await;
    count_all(&app).await;
    assert!(look().await.is_empty());
    workers.stop().await;
}
