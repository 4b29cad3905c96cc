//! `bench bulk`: one big NDJSON file through a whole Chartgate (presigned PUT, watcher, workers in processes of their own), beside
//! `COPY` of the rows that came out of it into empty tables with the same indexes on the same PostgreSQL.
//!
//! Then another organization posts small Bundles, at first on the idle system and then beside a second file. On demand workers
//! are killed while the first file runs, and the database too; whatever happens, the check at the end wants every line once.
#![expect(clippy::cast_precision_loss, reason = "rates and milliseconds for people")]

use super::super::client::{Client, encode};
use super::super::serve::{DemoCredentials, ProcessRole, Running};
use super::super::{demo, upload};
use super::intake::{organization, quantile};
use crate::auth::Role;
use crate::config::{self, Config};
use crate::ids::OrganizationId;
use crate::ingest::fhir::sample::{self, Size};
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Options of `bench bulk`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Size of the generated file.
    #[arg(long, default_value_t = 100)]
    pub megabytes: u64,
    /// Worker processes.
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// Kill a worker (SIGKILL) every so many seconds, and start another.
    #[arg(long, value_name = "SECONDS")]
    pub kill_every: Option<u64>,
    /// Kill PostgreSQL (SIGKILL) once, so many seconds after the file is there.
    #[arg(long, value_name = "SECONDS")]
    pub kill_database_after: Option<u64>,
    /// Small Bundles a second that another organization posts before and beside a second file; 0 posts none.
    #[arg(long, default_value_t = 5)]
    pub webhooks: u64,
    /// Size of that file, at most; it is never larger than the first.
    #[arg(long, default_value_t = 200)]
    pub megabytes_beside: u64,
}

/// How long webhooks are measured on the idle system.
const IDLE: Duration = Duration::from_secs(30);
/// The first seed of the file beside which webhooks are measured, behind all those of the other.
const OTHER_PATIENTS: u64 = 100_000_000;
/// Tables that hold what came out of a file.
const TABLES: [&str; 6] =
    ["clinical_events", "findings", "finding_evidence", "patients", "patient_identifiers", "patient_links"];

/// Run it, and answer the figures.
///
/// # Errors
/// What kept it from running, or what the check afterwards found.
pub async fn run(config: Config, arguments: &Arguments) -> anyhow::Result<Value> {
    let config = demo::own_directory(config, None, "-bench-bulk")?;
    let _ = std::fs::remove_dir_all(&config.data_dir);
    let roles = [ProcessRole::Api, ProcessRole::Watcher, ProcessRole::Sweeper];
    let running = Running::start(config.clone(), &roles).await?;
    let result = measure(&running, &config, arguments).await;
    running.stop().await;
    let _ = std::fs::remove_dir_all(&config.data_dir);
    result
}

async fn measure(running: &Running, config: &Config, arguments: &Arguments) -> anyhow::Result<Value> {
    let bytes = std::fs::read(config.data_dir.join("demo-credentials.json")).context("the credentials are missing")?;
    let credentials: DemoCredentials = serde_json::from_slice(&bytes)?;
    let sender = Client::new(&credentials.url, &credentials.keys.sender)?;
    let (other, keys) = organization(&running.app, "bench webhooks", &[Role::Sender]).await?;
    let webhooks = Client::new(&credentials.url, keys.first().context("a key was made")?)?;
    let file = File::generate(&config.data_dir, "bench", arguments.megabytes, 1)?;

    let database = running.servers.owner.as_ref().context("the bench's PostgreSQL is its own")?;
    use_log(&mut PgConnection::connect_with(database).await?).await?;
    let fleet = Fleet::start(&config.data_dir, arguments.workers)?;
    let mut bench = Bench { running, sender, directory: &config.data_dir, fleet };
    let alone = bench.bring(&file, Kills::of(arguments)).await?;
    // Not before: the database may have been killed.
    let mut owner = PgConnection::connect_with(database).await?;
    let mut jobs = vec![(&file, alone)];
    let other_file;
    let mut beside = Value::Null;
    if arguments.webhooks > 0 {
        let megabytes = arguments.megabytes.min(arguments.megabytes_beside);
        other_file = File::generate(&config.data_dir, "beside", megabytes, OTHER_PATIENTS)?;
        // What the first file left to be written is no part of the idle system.
        sqlx::raw_sql("checkpoint").execute(&mut owner).await?;
        let posts = Posts::start(webhooks, arguments.webhooks);
        tokio::time::sleep(IDLE).await;
        let before = running.app.clock.now();
        let other_job = bench.bring(&other_file, Kills::default()).await?;
        let after = running.app.clock.now();
        posts.stop();
        let (idle, busy) = latencies(&mut owner, other, before, after).await?;
        let rate = other_file.lines as f64 / other_job.seconds;
        beside = json!({"idle": idle, "beside": busy, "file_resources_per_second": rate});
        jobs.push((&other_file, other_job));
    }

    let (events, entries, findings): (i64, i64, i64) = sqlx::query_as(
        "select count(*), count(distinct (j.id, e.entry)), (select count(*) from findings f where f.organization_id = e.organization_id)
         from clinical_events e join jobs j on j.organization_id = e.organization_id and j.id = e.job_id
         where j.source = 'upload' group by e.organization_id",
    )
    .fetch_one(&mut owner)
    .await?;
    let lines_stored = i64::try_from(jobs.iter().map(|(file, _)| file.lines).sum::<u64>())?;
    ensure!(
        events == lines_stored && entries == lines_stored,
        "{lines_stored} lines, {events} events of {entries} lines"
    );
    let told: i64 = jobs.iter().map(|(_, job)| job.findings).sum();
    ensure!(told == findings, "{findings} findings, and the jobs tell {told}");
    bench.fleet.stop();
    let copied: i64 = sqlx::query_scalar("select count(*) from clinical_events").fetch_one(&mut owner).await?;
    let copy = copy_seconds(&mut owner).await?;
    let copy_rate = copied as f64 / copy;
    let (file, job) = jobs.first().context("a file was brought")?;
    let rate = file.lines as f64 / job.seconds;
    Ok(json!({
        "bench": "bulk",
        "megabytes": file.bytes as f64 / 1e6,
        "resources": file.lines,
        "findings": job.findings,
        "workers": arguments.workers,
        "killed_workers": bench.fleet.killed,
        "killed_database": arguments.kill_database_after.is_some(),
        "seconds": job.seconds,
        "resources_per_second": rate,
        "megabytes_per_second": file.bytes as f64 / 1e6 / job.seconds,
        "worker_peak_rss_megabytes": bench.fleet.peak_kilobytes / 1_000,
        "yardstick": {"copy_seconds": copy, "copy_resources_per_second": copy_rate},
        "ratio_to_copy": rate / copy_rate,
        "webhooks": beside,
        "checked": "every line is one event, and every finding that the jobs tell is there",
    }))
}

/// When workers and the database are killed, after the file is there.
#[derive(Default)]
struct Kills {
    worker_every: Option<Duration>,
    database_after: Option<Duration>,
}

impl Kills {
    fn of(arguments: &Arguments) -> Self {
        Self {
            worker_every: arguments.kill_every.map(Duration::from_secs),
            database_after: arguments.kill_database_after.map(Duration::from_secs),
        }
    }
}

/// How a file went.
struct Job {
    seconds: f64,
    findings: i64,
}

struct Bench<'a> {
    running: &'a Running,
    sender: Client,
    directory: &'a Path,
    fleet: Fleet,
}

impl Bench<'_> {
    /// Bring a file, and wait until its job has ended.
    async fn bring(&mut self, file: &File, mut kills: Kills) -> anyhow::Result<Job> {
        let job = upload::bring(&self.sender, &file.path, self.directory).await?;
        let begun = Instant::now();
        let mut next_kill = kills.worker_every;
        let view = loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.fleet.note_memory();
            if next_kill.is_some_and(|at| begun.elapsed() >= at) {
                self.fleet.replace_one()?;
                next_kill = next_kill.zip(kills.worker_every).map(|(at, every)| at + every);
            }
            if kills.database_after.is_some_and(|at| begun.elapsed() >= at) {
                kills.database_after = None;
                if let Some(process) = self.running.servers.postgres_pid() {
                    let _ = Command::new("kill").args(["-9", &process.to_string()]).status();
                }
            }
            // Away while the database is.
            let Ok(view) = self.sender.get::<Value>(&format!("/v1/ingestion/jobs/{}", encode(&job))).await else {
                continue;
            };
            if view["finishedAt"].is_string() {
                break view;
            }
            ensure!(begun.elapsed() < Duration::from_hours(2), "the job does not end: {view}");
        };
        ensure!(view["status"] == "succeeded", "the job is {}: {}", view["status"], view["message"]);
        let findings = view["result"]["findings"].as_i64().context("the job tells no findings")?;
        Ok(Job { seconds: seconds_between(&view["startedAt"], &view["finishedAt"])?, findings })
    }
}

/// As on a server that has been in use: it writes into files of its log that are there, as many as a checkpoint leaves to be
/// used again, and does not make each of them first.
async fn use_log(owner: &mut PgConnection) -> anyhow::Result<()> {
    let files =
        "select pg_size_bytes(current_setting('min_wal_size')) / pg_size_bytes(current_setting('wal_segment_size'))";
    let files: i64 = sqlx::query_scalar(files).fetch_one(&mut *owner).await?;
    for _ in 0..files {
        for statement in ["select pg_logical_emit_message(false, '', '')", "select pg_switch_wal()"] {
            sqlx::raw_sql(statement).execute(&mut *owner).await?;
        }
    }
    sqlx::raw_sql("checkpoint").execute(owner).await?;
    Ok(())
}

fn seconds_between(start: &Value, end: &Value) -> anyhow::Result<f64> {
    use time::format_description::well_known::Rfc3339;
    let at = |value: &Value| -> anyhow::Result<time::OffsetDateTime> {
        Ok(time::OffsetDateTime::parse(value.as_str().context("a time is missing")?, &Rfc3339)?)
    };
    Ok((at(end)? - at(start)?).as_seconds_f64())
}

/// A file of other patients in every part.
struct File {
    path: PathBuf,
    lines: u64,
    bytes: u64,
}

impl File {
    fn generate(directory: &Path, name: &str, megabytes: u64, mut seed: u64) -> anyhow::Result<Self> {
        let path = directory.join(format!("{name}.ndjson"));
        let mut file = BufWriter::new(std::fs::File::create(&path)?);
        let (mut lines, mut bytes) = (0, 0);
        while bytes < megabytes * 1_000_000 {
            for line in sample::lines(seed, 4, Size::Full) {
                file.write_all(line.as_bytes())?;
                lines += 1;
                bytes += line.len() as u64;
            }
            seed += 1;
        }
        // What the system would write out later would be measured with the rest.
        file.into_inner()?.sync_all()?;
        Ok(Self { path, lines, bytes })
    }
}

/// Worker processes, and the most memory that one of them had.
struct Fleet {
    directory: PathBuf,
    children: Vec<Child>,
    killed: usize,
    peak_kilobytes: u64,
}

impl Fleet {
    fn start(directory: &Path, workers: usize) -> anyhow::Result<Self> {
        let mut fleet = Self { directory: directory.to_owned(), children: Vec::new(), killed: 0, peak_kilobytes: 0 };
        for _ in 0..workers {
            let child = fleet.spawn()?;
            fleet.children.push(child);
        }
        Ok(fleet)
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        command.args(["serve", "--role", "worker", "--data-dir"]).arg(&self.directory);
        // As the bench itself: whatever is configured elsewhere is not touched.
        for (key, others, ..) in config::KEYS {
            command.env_remove(config::variable_of(key));
            others.iter().for_each(|name| {
                command.env_remove(name);
            });
        }
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }

    fn note_memory(&mut self) {
        for child in &self.children {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            self.peak_kilobytes = self.peak_kilobytes.max(kilobytes.unwrap_or(0));
        }
    }

    /// The oldest goes, and another comes.
    fn replace_one(&mut self) -> anyhow::Result<()> {
        let child = self.spawn()?;
        self.children.push(child);
        let mut oldest = self.children.remove(0);
        let killed = oldest.kill();
        oldest.wait()?;
        self.killed += 1;
        Ok(killed?)
    }

    fn stop(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let _ = child.wait();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Small Bundles at a steady rate, until stopped.
struct Posts {
    stop: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl Posts {
    fn start(client: Client, per_second: u64) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let pause = u32::try_from(per_second).ok().and_then(|rate| Duration::from_secs(1).checked_div(rate));
            let Some(pause) = pause else { return };
            let mut ticks = tokio::time::interval(pause);
            let mut seed = 500_000_000;
            while !stopped.is_cancelled() {
                ticks.tick().await;
                seed += 1;
                let request = client
                    .request(reqwest::Method::POST, "/v1/ingestion/fhir/Bundle")
                    .header("content-type", "application/fhir+json")
                    .body(sample::bundle(seed, 1, Size::Small));
                // Refused while the database is away.
                let _ = client.send::<Value>(request).await;
            }
        });
        Self { stop, _task: AbortOnDropHandle::new(task) }
    }

    fn stop(&self) {
        self.stop.cancel();
    }
}

/// From acceptance to end, of the jobs before the file and of those beside it.
async fn latencies(
    owner: &mut PgConnection,
    organization: OrganizationId,
    before: time::OffsetDateTime,
    after: time::OffsetDateTime,
) -> anyhow::Result<(Value, Value)> {
    let rows: Vec<(bool, i64)> = sqlx::query_as(
        "select created_at < $2, (extract(epoch from finished_at - created_at) * 1000000)::bigint
         from jobs
         where organization_id = $1
           and finished_at is not null
           and created_at < $3
         order by created_at
         -- The first ones warm connections and caches up.
         offset 10",
    )
    .bind(organization)
    .bind(before)
    .bind(after)
    .fetch_all(owner)
    .await?;
    let of = |idle: bool| {
        let part: Vec<u64> = rows
            .iter()
            .filter(|(is_idle, _)| *is_idle == idle)
            .map(|(_, us)| u64::try_from(*us).unwrap_or(0))
            .collect();
        if part.is_empty() {
            return Value::Null;
        }
        json!({"jobs": part.len(), "p50_ms": quantile(&part, 0.5), "p95_ms": quantile(&part, 0.95)})
    };
    Ok((of(true), of(false)))
}

/// What PostgreSQL alone needs for the same rows: one `COPY` after another into empty tables with the same indexes and
/// constraints, without triggers.
async fn copy_seconds(owner: &mut PgConnection) -> anyhow::Result<f64> {
    let mut seconds = 0.0;
    // Where the server may write, whoever it runs as.
    let directory: String =
        sqlx::query_scalar("select current_setting('data_directory')").fetch_one(&mut *owner).await?;
    for table in TABLES {
        let name = format!("{directory}/bench-{table}.copy").replace('\'', "''");
        let run = async |owner: &mut PgConnection, statement: String| -> anyhow::Result<f64> {
            let begun = Instant::now();
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(owner).await?;
            Ok(begun.elapsed().as_secs_f64())
        };
        run(owner, format!("create table copy_{table} (like {table} including all)")).await?;
        run(owner, format!("copy {table} to '{name}' with (format binary)")).await?;
        seconds += run(owner, format!("copy copy_{table} from '{name}' with (format binary)")).await?;
        run(owner, format!("drop table copy_{table}")).await?;
    }
    Ok(seconds)
}
