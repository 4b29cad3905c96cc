//! Real worker processes that are killed, stopped and poisoned, and a database that is restarted under them.
//!
//! The checker for each: **lost** = accepted and not terminal, **double** = an effect applied twice (the effects' table
//! has no key), **stuck** = still in the queue, **gap** = an effect without its audit record, **surplus** = the records of
//! steps that are more, or fewer, than their effects. All must be 0, and a
//! counter shows that the fault really hit. Small sizes here; the full size of the design:
//! `CHARTGATE_CRASH_JOBS=5000 CHARTGATE_CRASH_KILL_MS=2000 cargo test --test it crash:: -- --nocapture --test-threads 1`

mod database;
mod operations;
pub mod program;
mod workers;

use crate::support::app::TestApp;
use sqlx::PgConnection;

/// Jobs of a test: the given number, or that of the environment.
fn jobs(default: usize) -> usize {
    std::env::var("CHARTGATE_CRASH_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Where the crashing workflow's steps write: no key, so that a double would show.
async fn create_effects(owner: &mut PgConnection) {
    sqlx::raw_sql(
        "create table test_effects (organization_id uuid not null, job_id uuid not null, step text not null, worker integer not null);
         grant select, insert on test_effects to chartgate_app",
    )
    .execute(owner)
    .await
    .unwrap();
}

/// What the checker found.
#[derive(Debug, PartialEq, Eq, sqlx::FromRow)]
struct Verdict {
    lost: i64,
    double: i64,
    stuck: i64,
    gap: i64,
    surplus: i64,
}

const CLEAN: Verdict = Verdict { lost: 0, double: 0, stuck: 0, gap: 0, surplus: 0 };

async fn verdict(app: &TestApp) -> Verdict {
    sqlx::query_as(
        "select (select count(*) from jobs where finished_at is null) lost,
                (select count(*) from (select from test_effects group by job_id, step having count(*) > 1) x) double,
                (select count(*) from queue) stuck,
                (select count(*) from test_effects e where not exists (
                   select from audit_records a
                   where a.organization_id = e.organization_id and a.job_id = e.job_id and a.step = e.step and a.event = 'step.succeeded')) gap,
                (select count(*) from audit_records a join jobs j on j.organization_id = a.organization_id and j.id = a.job_id
                 where a.event = 'step.succeeded' and j.workflow = 'crashing') - (select count(*) from test_effects) surplus",
    )
    .fetch_one(&mut app.owner().await)
    .await
    .unwrap()
}

/// The longest time from a dead worker's last sign of life to the next attempt of a job that it had held.
async fn slowest_recovery_seconds(app: &TestApp) -> f64 {
    sqlx::query_scalar(
        "select coalesce(max(extract(epoch from next - last_seen_at)), 0)::float8
         from (
           select w.last_seen_at,
             (select min(t.started_at) from (
                select started_at from job_steps s where s.organization_id = l.organization_id and s.job_id = l.job_id
                union all
                select started_at from step_attempts a where a.organization_id = l.organization_id and a.job_id = l.job_id and a.lease_epoch <> l.lease_epoch) t
              where t.started_at > l.finished_at) next
           from step_attempts l join workers w on w.id = l.worker_id
           where l.outcome = 'lost' and w.stopped_at is null) x",
    )
    .fetch_one(&mut app.owner().await)
    .await
    .unwrap()
}
