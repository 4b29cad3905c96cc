//! `bench engine`: N jobs of five no-op steps over many organizations, from the first claim to the last completion,
//! every step's status and audit record persisted. Afterwards the database is checked: nothing lost, nothing twice,
//! every lane in order.

use super::{Prepared, out};
use crate::audit;
use crate::audit::sealer::SealerOptions;
use crate::db::Db;
use crate::engine::catalog::Catalog;
use crate::engine::handler::{StepContext, StepError, StepHandler, StepOutcome};
use crate::engine::registry::Registry;
use crate::engine::wake::Wake;
use crate::engine::{Engine, EngineOptions};
use crate::objects::embedded::{EmbeddedS3, EmbeddedS3Options};
use crate::objects::{Objects, ObjectsOptions};
use crate::queue::Workers;
use anyhow::{Context as _, ensure};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Which jobs wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Lanes {
    /// No order.
    None,
    /// One lane an organization.
    Organization,
    /// Twenty lanes an organization.
    Patient,
}

/// Options of `bench engine`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Jobs in all.
    #[arg(long, default_value_t = 20_000)]
    pub jobs: u32,
    /// Organizations that they belong to.
    #[arg(long, default_value_t = 100)]
    pub organizations: u32,
    /// Which jobs wait for each other.
    #[arg(long, value_enum, default_value_t = Lanes::None)]
    pub lanes: Lanes,
    /// Jobs under way at once.
    #[arg(long, default_value_t = 256)]
    pub concurrency: usize,
    /// Committer tasks.
    #[arg(long, default_value_t = 2)]
    pub committers: usize,
    /// Seal the audit log meanwhile: not at all, in every run, or in every other one, to be compared.
    #[arg(long, value_enum, default_value_t = Seal::Off)]
    pub seal: Seal,
    /// Runs with and without sealing, each, with `--seal both`.
    #[arg(long, default_value_t = 4)]
    pub rounds: u32,
}

/// When the audit log is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Seal {
    /// Never.
    Off,
    /// During the run.
    On,
    /// In every other run.
    Both,
}

struct NoOp;

#[async_trait::async_trait]
impl StepHandler for NoOp {
    async fn run(&self, _: &StepContext) -> Result<StepOutcome, StepError> {
        Ok(StepOutcome::default())
    }
}

fn workflow(lanes: Lanes) -> String {
    let ordering = match lanes {
        Lanes::None => "none",
        Lanes::Organization => "organization",
        Lanes::Patient => "patient",
    };
    let step = |name: &str| format!("[[step]]\nname = \"{name}\"\nhandler = \"bench.noop\"\n");
    let steps = ["validate", "store_raw", "link_patient", "extract_findings", "audit"].map(step).concat();
    format!(
        "name = \"bench-{ordering}\"\nversion = 1\nsummary = \"Five steps that do nothing.\"\nordering = \"{ordering}\"\n{steps}"
    )
}

/// Run it, and answer the figures.
///
/// # Errors
/// The database's, or what the check afterwards found.
pub async fn run(prepared: &Prepared, arguments: &Arguments) -> anyhow::Result<Value> {
    match arguments.seal {
        Seal::Off => run_once(prepared, arguments, None).await,
        Seal::On => {
            let bucket = Bucket::start().await?;
            let figures = run_once(prepared, arguments, Some(&bucket)).await;
            bucket.stop().await;
            figures
        }
        Seal::Both => compare(prepared, arguments).await,
    }
}

/// Runs without and with sealing in turn, in an order that favors neither, and the price.
async fn compare(prepared: &Prepared, arguments: &Arguments) -> anyhow::Result<Value> {
    let bucket = Bucket::start().await?;
    let (mut without, mut with, mut sealed) = (Vec::new(), Vec::new(), 0);
    for round in 0..arguments.rounds * 2 {
        // off on on off off on …
        let seals = round.div_ceil(2) % 2 == 1;
        let figures = run_once(prepared, arguments, seals.then_some(&bucket)).await?;
        let rate = figures["workflows_per_second"].as_f64().unwrap_or_default();
        out::note(&format!("{} {rate:.0} workflows/s", if seals { "sealing:" } else { "without:" }));
        if seals {
            with.push(rate);
        } else {
            without.push(rate);
        }
        sealed = sealed.max(figures["audit_records_sealed"].as_i64().unwrap_or_default());
        prepared.clear().await?;
    }
    bucket.stop().await;
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        let middle = rates.len() / 2;
        if rates.len().is_multiple_of(2) { f64::midpoint(rates[middle - 1], rates[middle]) } else { rates[middle] }
    };
    let (off, on) = (median(&mut without), median(&mut with));
    Ok(json!({
        "bench": "engine, with and without sealing",
        "jobs": arguments.jobs,
        "workflows_per_second_without": without,
        "workflows_per_second_sealing": with,
        "median_without": off,
        "median_sealing": on,
        "audit_records_sealed_in_a_run_max": sealed,
        "price_percent": (1.0 - on / off) * 100.0,
    }))
}

/// An S3 for the checkpoints, and a key.
struct Bucket {
    server: EmbeddedS3,
    objects: Objects,
    directory: PathBuf,
}

impl Bucket {
    async fn start() -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("chartgate-bench-{}", std::process::id()));
        let (access, secret) = ("bench".to_owned(), SecretString::from("bench-secret"));
        let server = EmbeddedS3::start(EmbeddedS3Options {
            dir: directory.join("objects"),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            access_key: access.clone(),
            secret_key: secret.clone(),
            region: "us-east-1".to_owned(),
            created: None,
        })
        .await?;
        let objects = Objects::connect(&ObjectsOptions {
            endpoint: Some(server.endpoint()),
            region: "us-east-1".to_owned(),
            bucket: "bench".to_owned(),
            access_key: Some(access),
            secret_key: Some(secret),
            prefix: String::new(),
            timeout: Duration::from_secs(5),
        });
        objects.ensure_bucket().await?;
        Ok(Self { server, objects, directory })
    }

    async fn stop(self) {
        self.server.stop().await;
        let _ = std::fs::remove_dir_all(self.directory);
    }
}

async fn run_once(prepared: &Prepared, arguments: &Arguments, bucket: Option<&Bucket>) -> anyhow::Result<Value> {
    let db = Db::connect(prepared.options.clone(), 8);
    let text = workflow(arguments.lanes);
    let name = text.split('"').nth(1).unwrap_or_default().to_owned();
    let registry = Registry::default().with(vec![("bench.noop", Arc::new(NoOp) as Arc<dyn StepHandler>)]);
    let catalog = Catalog::from_files(&[(format!("{name}.toml"), text)], registry)?;
    catalog.register(&db).await?;

    let mut admin = PgConnection::connect_with(&prepared.options).await?;
    fill(&mut admin, arguments, &name).await.context("filling the queue")?;
    let wal_before: i64 =
        sqlx::query_scalar("select (pg_current_wal_lsn() - '0/0')::bigint").fetch_one(&mut admin).await?;

    let options = EngineOptions {
        concurrency: arguments.concurrency,
        committers: arguments.committers,
        ..EngineOptions::default()
    };
    let engine = Engine::start(db.clone(), catalog, Wake::default(), options);
    let cpu_before = prepared.cpu_seconds();
    let started = Instant::now();
    let stop = CancellationToken::new();
    let sealing = bucket.map(|bucket| {
        // A run is shorter than the minute between two checkpoints: one a second shows what they cost, and more.
        let key = bucket.directory.join("key.pem");
        let options = SealerOptions { checkpoint_every: Duration::from_secs(1), ..SealerOptions::new(key) };
        tokio::spawn(audit::task::run(db.clone(), bucket.objects.clone(), options, stop.clone()))
    });
    let workers = Workers::start(Arc::clone(&engine), vec!["worker".to_owned()]);
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let done =
            engine.counters.steps_committed.load(std::sync::atomic::Ordering::Relaxed) >= i64::from(arguments.jobs) * 5;
        if done {
            break;
        }
        ensure!(started.elapsed() < Duration::from_mins(10), "not done after 10 minutes");
    }
    let elapsed = started.elapsed().as_secs_f64();
    let cpu_after = prepared.cpu_seconds();
    let cpu_us = |before: f64, after: f64| (after - before) * 1e6 / f64::from(arguments.jobs);
    let wal_after: i64 =
        sqlx::query_scalar("select (pg_current_wal_lsn() - '0/0')::bigint").fetch_one(&mut admin).await?;
    let sealed: i64 = sqlx::query_scalar("select coalesce(sum(cardinality(record_ids)), 0)::bigint from audit_leaves")
        .fetch_one(&mut admin)
        .await?;
    stop.cancel();
    if let Some(sealing) = sealing {
        sealing.await?;
    }
    workers.shutdown().await;
    check(&mut admin, i64::from(arguments.jobs), &name).await?;
    let rate = f64::from(arguments.jobs) / elapsed;
    Ok(json!({
        "bench": "engine",
        "jobs": arguments.jobs,
        "organizations": arguments.organizations,
        "lanes": format!("{:?}", arguments.lanes).to_lowercase(),
        "concurrency": arguments.concurrency,
        "seconds": elapsed,
        "workflows_per_second": rate,
        "steps_per_second": rate * 5.0,
        "postgres_cpu_us_per_workflow": cpu_us(cpu_before.0, cpu_after.0),
        "program_cpu_us_per_workflow": cpu_us(cpu_before.1, cpu_after.1),
        "wal_bytes_per_workflow": (wal_after - wal_before) / i64::from(arguments.jobs),
        "audit_records_sealed": sealed,
        "yardstick": { "restate": 500, "graphile_worker": 330, "dbos": 250 },
        "ratio_to_best_yardstick": rate / 500.0,
        "checked": "every job succeeded once; five step rows and five audit records a job; lanes in order",
    }))
}

/// Put the jobs into the queue as intake would have, in one statement.
pub(super) async fn fill(admin: &mut PgConnection, arguments: &Arguments, workflow: &str) -> anyhow::Result<()> {
    let lane = match arguments.lanes {
        Lanes::None => "null::bigint",
        Lanes::Organization => "hashtextextended(o::text, 1)",
        Lanes::Patient => "hashtextextended(o::text || (g / $2) % 20, 2)",
    };
    sqlx::query(
        "insert into organizations (id, name)
         select gen_random_uuid(), 'bench-' || g from generate_series(1, $1) g
         on conflict do nothing",
    )
    .bind(i32::try_from(arguments.organizations)?)
    .execute(&mut *admin)
    .await?;
    let statement = format!(
        "with organization as (
           select id o, row_number() over (order by name) - 1 n from organizations where name like 'bench-%'
         ), job as materialized (
           select g, o, gen_random_uuid() id, nextval('job_seq') seq, {lane} lane
           from generate_series(0, $1 - 1) g join organization on n = g % $2
           order by g
         ), queued as (
           insert into queue (organization_id, seq, job_id, workflow, workflow_version, lane, state, enqueued_at)
           select o, seq, id, $3, 1, lane,
                  case when lane is null or row_number() over (partition by o, lane order by seq) = 1 then 'ready' else 'blocked' end,
                  chartgate_now()
           from job order by seq
         )
         insert into jobs (organization_id, id, workflow, workflow_version, source, status, seq, lane, submitted_by, created_at, updated_at)
         select o, id, $3, 1, 'webhook', 'queued', seq, lane, 'bench', chartgate_now(), chartgate_now()
         from job order by seq"
    );
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(i32::try_from(arguments.jobs)?)
        .bind(i32::try_from(arguments.organizations)?)
        .bind(workflow)
        .execute(&mut *admin)
        .await?;
    for statement in ["vacuum analyze queue", "vacuum analyze jobs", "checkpoint"] {
        sqlx::raw_sql(statement).execute(&mut *admin).await?;
    }
    Ok(())
}

/// Nothing lost, nothing twice, every lane in order.
pub(super) async fn check(admin: &mut PgConnection, jobs: i64, workflow: &str) -> anyhow::Result<()> {
    let (waiting, succeeded, steps, records, distinct): (i64, i64, i64, i64, i64) = sqlx::query_as(
        "with mine as (select organization_id, id from jobs where workflow = $1)
         select (select count(*) from queue),
                (select count(*) from jobs where workflow = $1 and status = 'succeeded'),
                (select count(*) from job_steps s join mine on mine.organization_id = s.organization_id and mine.id = s.job_id),
                (select count(*) from audit_records a join mine on mine.organization_id = a.organization_id and mine.id = a.job_id),
                (select count(distinct (a.job_id, a.step)) from audit_records a join mine on mine.organization_id = a.organization_id and mine.id = a.job_id)",
    )
    .bind(workflow)
    .fetch_one(&mut *admin)
    .await?;
    ensure!(waiting == 0, "{waiting} rows are left in the queue");
    ensure!(succeeded == jobs, "{succeeded} of {jobs} jobs succeeded");
    ensure!(
        steps == 5 * jobs && records == 5 * jobs && distinct == 5 * jobs,
        "{steps} step rows, {records} audit records ({distinct} distinct) for {jobs} jobs"
    );
    let disorder: i64 = sqlx::query_scalar(
        "select count(*) filter (where previous_last > first)
         from (
           select min(a.id) first, lag(max(a.id)) over (partition by j.organization_id, j.lane order by j.seq) previous_last
           from jobs j join audit_records a on a.organization_id = j.organization_id and a.job_id = j.id
           where j.lane is not null and j.workflow = $1
           group by j.organization_id, j.lane, j.seq) x",
    )
    .bind(workflow)
    .fetch_one(&mut *admin)
    .await?;
    ensure!(disorder == 0, "{disorder} jobs ran before the one ahead of them in their lane ended");
    Ok(())
}
