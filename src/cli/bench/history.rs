//! `bench history`: what a claim, a status read and a list cost beside a long history and a long queue, against the
//! same on a small database.

use super::Prepared;
use super::engine;
use crate::db::Db;
use crate::engine::jobs::JobFilter;
use crate::engine::jobs_store::{self, Attempts};
use crate::engine::state::JobStatus;
use crate::engine::store::{self, Claim};
use crate::ids::{JobId, OrganizationId, WorkerId};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Options of `bench history`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Finished jobs, each with five step rows and five audit records.
    #[arg(long, default_value_t = 1_000_000)]
    pub finished: u32,
    /// Waiting jobs.
    #[arg(long, default_value_t = 200_000)]
    pub waiting: u32,
    /// Jobs that wait in one single lane.
    #[arg(long, default_value_t = 100_000)]
    pub lane: u32,
}

/// Claims of 64 rows that are timed.
const CLAIMS: usize = 40;

/// Run it, and answer the figures.
///
/// # Errors
/// The database's.
pub async fn run(prepared: &Prepared, arguments: &Arguments) -> anyhow::Result<Value> {
    let mut admin = PgConnection::connect_with(&prepared.options).await?;
    let db = Db::connect(prepared.options.clone(), 2);
    let fill = |jobs: u32| engine::Arguments {
        jobs,
        organizations: 500,
        lanes: engine::Lanes::None,
        concurrency: 1,
        committers: 1,
        seal: engine::Seal::Off,
        rounds: 0,
    };
    engine::fill(&mut admin, &fill(10_000), "bench-none").await?;
    finish(&mut admin, 10_000).await?;
    let small = measure(&db, &mut admin).await?;
    engine::fill(&mut admin, &fill(arguments.waiting), "bench-none").await?;
    let waiting = measure(&db, &mut admin).await?;
    finish(&mut admin, arguments.finished).await?;
    one_lane(&mut admin, arguments.lane).await?;
    let large = measure(&db, &mut admin).await?;
    let ratio = |name: &str| large[name].as_f64().unwrap_or(0.0) / small[name].as_f64().unwrap_or(1.0).max(0.001);
    Ok(json!({
        "bench": "history",
        "small": { "waiting": 10_000, "finished": 10_000, "ms": small },
        "waiting": { "waiting": arguments.waiting, "finished": 10_000, "ms": waiting },
        "large": { "waiting": arguments.waiting, "finished": arguments.finished, "one_lane": arguments.lane, "ms": large },
        "yardstick": "the same on the small database, in the same run",
        "ratio_claim": ratio("claim_64"),
        "ratio_status": ratio("status"),
        "ratio_list": ratio("list_50"),
        "ratio_list_failed": ratio("list_50_failed"),
    }))
}

async fn finish(admin: &mut PgConnection, jobs: u32) -> anyhow::Result<()> {
    // Finished jobs of the same organizations, spread over a year, one in a hundred failed.
    sqlx::query(
        "with organization as (
           select id o, row_number() over (order by name) - 1 n from organizations where name like 'bench-%'
         ), job as materialized (
           select o, nextval('job_seq') seq, chartgate_now() - (g % 365) * interval '1 day' moment, g,
                  (lpad(to_hex((extract(epoch from chartgate_now() - (g % 365) * interval '1 day') * 1000)::bigint), 12, '0')
                   || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid id
           from generate_series(1, $1) g join organization on n = g % 500
         ), finished as (
           insert into jobs (organization_id, id, workflow, workflow_version, source, status, seq, submitted_by, created_at, updated_at,
                             finished_at, error_code, error_class)
           select o, id, 'bench-none', 1, 'webhook', case when g % 100 = 0 then 'failed' else 'succeeded' end, seq, 'bench', moment, moment, moment,
                  case when g % 100 = 0 then 'bench' end, case when g % 100 = 0 then 'ours' end
           from job
         ), steps as (
           insert into job_steps (organization_id, job_id, round, step, name, status, attempts, started_at, finished_at)
           select o, id, 1, s, 'step', 'succeeded', 1, moment, moment from job, generate_series(0, 4) s
         )
         insert into audit_records (organization_id, at, event, action, actor, job_id, step)
         select o, moment, 'step.succeeded', 'E', 'bench', id, s::text from job, generate_series(0, 4) s",
    )
    .bind(i32::try_from(jobs)?)
    .execute(&mut *admin)
    .await?;
    for statement in ["vacuum analyze jobs", "vacuum analyze job_steps", "vacuum analyze audit_records", "checkpoint"] {
        sqlx::raw_sql(statement).execute(&mut *admin).await?;
    }
    Ok(())
}

async fn one_lane(admin: &mut PgConnection, rows: u32) -> anyhow::Result<()> {
    sqlx::query(
        "insert into queue (organization_id, seq, job_id, workflow, workflow_version, lane, state, enqueued_at)
         select (select id from organizations where name = 'bench-1'), nextval('job_seq'), gen_random_uuid(), 'bench-none', 1, 42,
                case when g = 1 then 'ready' else 'blocked' end, chartgate_now()
         from generate_series(1, $1) g",
    )
    .bind(i32::try_from(rows)?)
    .execute(&mut *admin)
    .await?;
    sqlx::raw_sql("vacuum analyze queue").execute(&mut *admin).await?;
    Ok(())
}

/// Medians in milliseconds.
async fn measure(db: &Db, admin: &mut PgConnection) -> anyhow::Result<Value> {
    let mut hot = db.dedicated().await?;
    let (lease, worker) = (Duration::from_mins(1), WorkerId::new());
    let mut cursor = Uuid::nil();
    let mut claims = Vec::new();
    for _ in 0..CLAIMS {
        let started = Instant::now();
        let leases = store::claim(&mut hot, Claim::Jobs, 64, cursor, lease, worker).await?;
        claims.push(started.elapsed());
        cursor = leases.last().map_or(Uuid::nil(), |lease| lease.organization.0);
        let back: Vec<_> = leases.iter().map(|lease| (lease.key(), lease.epoch)).collect();
        store::release_tasks(&mut hot, &back, false).await?;
    }
    let jobs: Vec<(OrganizationId, JobId)> =
        sqlx::query_as("select organization_id, id from jobs where finished_at is not null order by seq desc limit 50")
            .fetch_all(&mut *admin)
            .await?;
    let (mut status, mut list, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for (organization, job) in jobs {
        let scope = crate::db::Scope::Organization(organization);
        let started = Instant::now();
        db.unit::<_, crate::db::DbError, _>(scope.clone(), move |connection| {
            Box::pin(async move {
                jobs_store::find_job(connection, organization, job).await?;
                jobs_store::steps_of(connection, organization, job).await?;
                jobs_store::attempts_of(connection, organization, job, Attempts::OfJob).await
            })
        })
        .await?;
        status.push(started.elapsed());
        for (filter, times) in [
            (JobFilter::default(), &mut list),
            (JobFilter { status: Some(JobStatus::Failed), ..JobFilter::default() }, &mut failed),
        ] {
            let started = Instant::now();
            db.unit::<_, crate::db::DbError, _>(scope.clone(), move |connection| {
                Box::pin(async move { jobs_store::list_jobs(connection, Some(organization), &filter, None, 50).await })
            })
            .await?;
            times.push(started.elapsed());
        }
    }
    Ok(
        json!({ "claim_64": median(claims), "status": median(status), "list_50": median(list), "list_50_failed": median(failed) }),
    )
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}
