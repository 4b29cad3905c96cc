//! `bench latency`: an idle Chartgate, whole (HTTP, workers, PostgreSQL, S3), one Athena event at a time: how long until its first
//! step runs, until it stands in the clinical view, and until its job has ended; beside a bare commit on the same PostgreSQL.

use super::super::client::{Client, encode};
use super::super::demo;
use super::super::serve::{DemoCredentials, ProcessRole, Running};
use super::intake::quantile;
use crate::config::Config;
use crate::ingest::athena::sample::{Traffic, patient_id};
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Options of `bench latency`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Events, one after another.
    #[arg(long, default_value_t = 200)]
    pub events: usize,
}

/// How often is looked for the event.
const POLL: Duration = Duration::from_millis(1);
/// Between two events, so that each meets an idle system.
const PAUSE: Duration = Duration::from_millis(50);
/// An event that is not there after this long is a fault.
const PATIENCE: Duration = Duration::from_secs(30);

/// Run it, and answer the figures.
///
/// # Errors
/// What kept it from running, or an event that did not appear.
pub async fn run(config: Config, arguments: &Arguments) -> anyhow::Result<Value> {
    let config = demo::own_directory(config, None, "-bench-latency")?;
    let running = Running::start(config.clone(), &[ProcessRole::All]).await?;
    let result = measure(&running, &config, arguments).await;
    running.stop().await;
    result
}

async fn measure(running: &Running, config: &Config, arguments: &Arguments) -> anyhow::Result<Value> {
    let bytes = std::fs::read(config.data_dir.join("demo-credentials.json")).context("the credentials are missing")?;
    let credentials: DemoCredentials = serde_json::from_slice(&bytes)?;
    let sender = Client::new(&credentials.url, &credentials.keys.sender)?;
    let reader = Client::new(&credentials.url, &credentials.keys.reader)?;
    let commit = bare_commit(running).await?;
    let (mut accepted, mut picked_up, mut visible, mut ended) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // Other patients in every run: what is known already is a duplicate.
    let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut jobs = Vec::new();
    for number in 0..arguments.events as u64 {
        let seed = run * 1_000 + number;
        let post = Traffic::new(seed, 1).next().context("traffic has no end")?;
        let path = format!("/ingest/clinical/{}", encode(&patient_id(seed, 0)));
        let started = Instant::now();
        let request = sender
            .request(reqwest::Method::POST, "/ingest/athena")
            .header("content-type", "application/json")
            .body(post.body);
        let answer: Value = sender.send(request).await?;
        accepted.push(micros(started.elapsed()));
        loop {
            let view: Value = reader.get(&path).await?;
            let categories = view["clinical_data"].as_object().into_iter().flatten();
            let shows = |items: &Value| {
                items.as_array().is_some_and(|items| {
                    // A part is stored a step before its findings.
                    items.iter().any(|item| item["finding_id"].is_string() || item["components"][0].is_object())
                })
            };
            if categories.map(|(_, items)| items).any(shows) {
                break;
            }
            ensure!(started.elapsed() < PATIENCE, "an event is not in the view after {PATIENCE:?}");
            tokio::time::sleep(POLL).await;
        }
        visible.push(micros(started.elapsed()));
        jobs.push(answer["job_id"].as_str().unwrap_or_default().to_owned());
        tokio::time::sleep(PAUSE).await;
    }
    for job in jobs {
        let job: Value = sender.get(&format!("/v1/ingestion/jobs/{}?wait=5", encode(&job))).await?;
        ensure!(job["status"] == "succeeded" || job["status"] == "succeeded_with_issues", "a job is {}", job["status"]);
        let created = instant(&job["createdAt"])?;
        picked_up.push(micros((instant(&job["startedAt"])? - created).unsigned_abs()));
        ended.push(micros((instant(&job["finishedAt"])? - created).unsigned_abs()));
    }
    let of = |latencies: &[u64]| json!({"p50_ms": quantile(latencies, 0.5), "p95_ms": quantile(latencies, 0.95), "p99_ms": quantile(latencies, 0.99)});
    Ok(json!({
        "bench": "latency",
        "events": arguments.events,
        "yardstick": { "bare_commit": of(&commit) },
        "post_to_202": of(&accepted),
        "accepted_to_first_step": of(&picked_up),
        "accepted_to_end": of(&ended),
        "post_to_visible": of(&visible),
        "commits_to_end": quantile(&ended, 0.5) / quantile(&commit, 0.5),
        "checked": "every event stood in the clinical view with its findings, and every job succeeded",
    }))
}

/// One-row transactions on the same server, one after another.
async fn bare_commit(running: &Running) -> anyhow::Result<Vec<u64>> {
    let mut connection = running.app.db.dedicated().await?;
    // A WAL record that is flushed at the commit, and no table to be made for it.
    let mut latencies = Vec::new();
    for number in 0..200i64 {
        let started = Instant::now();
        sqlx::query("select pg_logical_emit_message(true, 'bench', $1)")
            .bind(number.to_string())
            .execute(&mut connection)
            .await?;
        latencies.push(micros(started.elapsed()));
    }
    Ok(latencies)
}

fn instant(value: &Value) -> anyhow::Result<OffsetDateTime> {
    Ok(OffsetDateTime::parse(value.as_str().context("a time is missing")?, &Rfc3339)?)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
