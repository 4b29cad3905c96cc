//! `bench intake`: Athena events of 2 KB over HTTP from many connections, each 202 durable, beside two yardsticks in the same
//! run: PostgreSQL's own rate of one-row inserts, and the same rows inserted one request at a time.
#![expect(clippy::cast_precision_loss, reason = "rates and milliseconds for people")]

use super::Prepared;
use crate::app::App;
use crate::audit::Actor;
use crate::auth::store::{self, KeyGrant};
use crate::auth::{NewKey, Role};
use crate::config::Config;
use crate::db::embedded::binaries;
use crate::db::{DbError, Scope};
use crate::http;
use crate::ids::OrganizationId;
use crate::ingest::athena::event;
use crate::ingest::athena::sample::Traffic;
use crate::ingest::athena::submit::{NewEvent, submit_alone};
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Options of `bench intake`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Connections, each with one request under way.
    #[arg(long, default_value_t = 32)]
    pub connections: usize,
    /// How long each part runs, in seconds.
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
}

/// Run it, and answer the figures.
///
/// # Errors
/// What kept it from running, or what the check afterwards found.
pub async fn run(prepared: &Prepared, config: &Config, arguments: &Arguments) -> anyhow::Result<Value> {
    let time = Duration::from_secs(arguments.seconds);
    let one_row = one_row_rate(prepared, arguments).await?;
    let app = App::build(config.clone(), prepared.options.clone(), Prepared::objects()).await?;
    let (organization, keys) = organization(&app, "bench intake", &[Role::Sender]).await?;
    let key = keys.into_iter().next().context("a key was made")?;
    let same_rows = same_rows_rate(&app, prepared, organization, arguments, time).await?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let server = tokio::spawn(http::server::serve(listener, None, Arc::clone(&app), axum::Router::new(), stop.clone()));
    // The load generator has a thread and a runtime of its own, as another machine would.
    let connections = arguments.connections;
    let cpu_before = prepared.cpu_seconds();
    let load = Load { address, key, connections, time, first: 1, every: None };
    let load = tokio::task::spawn_blocking(move || load.run());
    let (accepted, latencies) = load.await.context("the load generator ended")??;
    let cpu_after = prepared.cpu_seconds();
    stop.cancel();
    let _ = server.await;

    let mut admin = PgConnection::connect_with(&prepared.options).await?;
    let (jobs, queued, keys, bodies, events, records): (i64, i64, i64, i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from jobs where submitted_by like 'key:%'),
                (select count(*) from queue q join jobs j on j.organization_id = q.organization_id and j.id = q.job_id where j.submitted_by like 'key:%'),
                (select count(*) from idempotency_keys k join jobs j on j.organization_id = k.organization_id and j.id = k.job_id where j.submitted_by like 'key:%'),
                (select count(*) from payloads p join jobs j on j.organization_id = p.organization_id and j.payload_sha256 = p.sha256 where j.submitted_by like 'key:%'),
                (select count(*) from athena_events a join jobs j on j.organization_id = a.organization_id and j.id = a.job_id where j.submitted_by like 'key:%'),
                (select count(*) from audit_records where event = 'job.accepted' and actor like 'key:%')",
    )
    .fetch_one(&mut admin)
    .await?;
    let accepted_rows = i64::try_from(accepted)?;
    // The last request of each connection may have been committed without its answer being read.
    ensure!(jobs >= accepted_rows, "{jobs} jobs for {accepted} answers");
    ensure!(
        [queued, keys, bodies, events, records].iter().all(|rows| *rows == jobs),
        "rows differ: {jobs} jobs, {queued} queued, {keys} keys, {bodies} payloads, {events} events, {records} records"
    );
    let rate = accepted as f64 / time.as_secs_f64();
    Ok(json!({
        "bench": "intake",
        "connections": connections,
        "seconds": time.as_secs_f64(),
        "body_bytes": template().fill(1).len(),
        "accepted": accepted,
        "accepted_per_second": rate,
        "postgres_cpu_us_per_request": (cpu_after.0 - cpu_before.0) * 1e6 / accepted as f64,
        "server_and_load_cpu_us_per_request": (cpu_after.1 - cpu_before.1) * 1e6 / accepted as f64,
        "p50_ms": quantile(&latencies, 0.5),
        "p99_ms": quantile(&latencies, 0.99),
        "max_ms": quantile(&latencies, 1.0),
        "yardstick": { "one_row_inserts_per_second": one_row, "same_rows_per_second": same_rows },
        "ratio_to_one_row": one_row.map(|yardstick| rate / yardstick),
        "ratio_to_same_rows": rate / same_rows,
        "checked": "every answer has its job, queue row, key, payload, event and audit record",
    }))
}

/// A quantile of microseconds, in milliseconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
pub(super) fn quantile(latencies: &[u64], quantile: f64) -> f64 {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let index = ((sorted.len().saturating_sub(1)) as f64 * quantile) as usize;
    sorted.get(index).copied().unwrap_or(0) as f64 / 1000.0
}

/// An organization with a key of each role.
pub(super) async fn organization(
    app: &App,
    name: &'static str,
    roles: &[Role],
) -> anyhow::Result<(OrganizationId, Vec<String>)> {
    let id = OrganizationId::new();
    let keys: Vec<(Role, NewKey)> = roles.iter().map(|role| (*role, NewKey::generate())).collect();
    let texts = keys.iter().map(|(_, key)| key.key.clone()).collect();
    app.db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move {
                store::insert_organization(connection, id, name).await?;
                for (role, key) in keys {
                    let (name, source) = (String::new(), "default".to_owned());
                    let grant = KeyGrant { organization: Some(id), role, name, source, expires_at: None };
                    store::insert_key(connection, &key, &grant).await?;
                }
                Ok(())
            })
        })
        .await?;
    Ok((id, texts))
}

/// PostgreSQL's own rate: `pgbench`, prepared one-row inserts into a table with an identity key. `None` where the
/// installation has no pgbench.
async fn one_row_rate(prepared: &Prepared, arguments: &Arguments) -> anyhow::Result<Option<f64>> {
    let Ok(found) = binaries::find(None, None) else { return Ok(None) };
    let pgbench = found.dir.join("pgbench");
    if !pgbench.is_file() {
        return Ok(None);
    }
    let mut admin = PgConnection::connect_with(&prepared.options).await?;
    sqlx::raw_sql(
        "create table if not exists one_row (id bigint generated always as identity primary key, v bigint not null)",
    )
    .execute(&mut admin)
    .await?;
    let script = std::env::temp_dir().join(format!("chartgate-one-row-{}.sql", std::process::id()));
    std::fs::write(&script, "insert into one_row (v) values (1);\n")?;
    let socket = prepared.options.get_socket().context("the bench's server has a socket")?.clone();
    let output = tokio::process::Command::new(pgbench)
        .args(["-n", "-M", "prepared", "-j", "2", "-U", "postgres", "-p", "5432", "-h"])
        .arg(socket)
        .args(["-c", &arguments.connections.to_string(), "-T", &arguments.seconds.to_string(), "-f"])
        .arg(&script)
        .arg("bench")
        .output()
        .await?;
    let _ = std::fs::remove_file(&script);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text
        .lines()
        .filter_map(|line| line.strip_prefix("tps = "))
        .find_map(|rest| rest.split_whitespace().next()?.parse().ok());
    Ok(rate)
}

/// The same rows, a transaction a request, from as many connections.
async fn same_rows_rate(
    app: &App,
    prepared: &Prepared,
    organization: OrganizationId,
    arguments: &Arguments,
    time: Duration,
) -> anyhow::Result<f64> {
    let workflow = app.catalog.latest("athena-event")?;
    let stop = Arc::new(AtomicBool::new(false));
    let number = Arc::new(AtomicU64::new(1 << 40));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..arguments.connections {
        let (workflow, stop, number) = (Arc::clone(&workflow), Arc::clone(&stop), Arc::clone(&number));
        let db = crate::db::Db::connect(prepared.options.clone(), 1);
        tasks.push(tokio::spawn(async move {
            let mut connection = db.dedicated().await?;
            let template = template();
            let mut done = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let body = bytes::Bytes::from(template.fill(number.fetch_add(1, Ordering::Relaxed)));
                let (workflow, actor) = (Arc::clone(&workflow), Actor::internal("bench"));
                let event = event::open(&body)
                    .and_then(|node| NewEvent::of(body.clone(), node, organization, workflow, actor))?;
                submit_alone(&mut connection, event).await?;
                done += 1;
            }
            anyhow::Ok(done)
        }));
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    Ok(done as f64 / started.elapsed().as_secs_f64())
}

/// Events over HTTP, as another machine would send them: from a thread and a runtime of its own.
pub(super) struct Load {
    pub address: SocketAddr,
    /// Of a sender.
    pub key: String,
    /// Each with one request under way.
    pub connections: usize,
    /// How long.
    pub time: Duration,
    /// The number of the first event: no two with the same number are new.
    pub first: u64,
    /// Each connection sends so often; `None`: as soon as it is answered.
    pub every: Option<Duration>,
}

impl Load {
    /// How many 202s were read, and each latency in microseconds.
    pub fn run(&self) -> anyhow::Result<(u64, Vec<u64>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let number = Arc::new(AtomicU64::new(self.first));
            let until = Instant::now() + self.time;
            let tasks: Vec<_> = (0..self.connections)
                .map(|_| tokio::spawn(client(self.address, self.key.clone(), Arc::clone(&number), until, self.every)))
                .collect();
            let mut latencies = Vec::new();
            for task in tasks {
                latencies.extend(task.await??);
            }
            Ok((latencies.len() as u64, latencies))
        })
    }
}

async fn client(
    address: SocketAddr,
    key: String,
    number: Arc<AtomicU64>,
    until: Instant,
    every: Option<Duration>,
) -> anyhow::Result<Vec<u64>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let template = template();
    let mut answer = vec![0u8; 16 * 1024];
    let mut latencies = Vec::new();
    let mut ticks = every.map(|every| {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        ticks
    });
    while Instant::now() < until {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        // Distinct bytes of the same shape, made cheaply: the generator shares the cores with the server.
        let body = template.fill(number.fetch_add(1, Ordering::Relaxed));
        let head = format!(
            "POST /ingest/athena HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let sent = Instant::now();
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
        let mut length = 0;
        loop {
            let space = answer.get_mut(length..).context("the answer is too long")?;
            let read = stream.read(space).await?;
            ensure!(read > 0, "the server closed the connection");
            length += read;
            if is_whole(answer.get(..length).unwrap_or_default()) {
                break;
            }
        }
        ensure!(
            answer.starts_with(b"HTTP/1.1 202"),
            "not accepted: {}",
            String::from_utf8_lossy(answer.get(..length.min(400)).unwrap_or_default())
        );
        latencies.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(latencies)
}

/// An event of generated traffic, cut where the patient and what makes it another event stand.
struct Template([String; 3]);

/// Patients of the load.
const PATIENTS: u64 = 5_000;

/// The first event of about 2 KB.
fn template() -> Template {
    let events = Traffic::new(1, 1).take(1_000).filter_map(|post| serde_json::from_slice::<Value>(&post.body).ok());
    let mut event = events.into_iter().find(|event| event.to_string().len() > 1_800).unwrap_or_default();
    event["athena_patient_id"] = json!("@patient");
    event["payload"]["sequence"] = json!("@sequence");
    let text = event.to_string();
    let (before, rest) = text.split_once("@patient").unwrap_or_default();
    let (between, after) = rest.split_once("@sequence").unwrap_or_default();
    Template([before, between, after].map(str::to_owned))
}

impl Template {
    fn fill(&self, number: u64) -> String {
        let [before, between, after] = &self.0;
        format!("{before}{}{between}{number:020}{after}", 1_000_000 + number % PATIENTS)
    }
}

/// Are the headers and `content-length` bytes of body there?
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() >= end + 4 + length)
}
