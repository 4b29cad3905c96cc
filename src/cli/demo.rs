//! `demo`: the main job on our own PostgreSQL and S3, with nothing set up before: a few generated Bundles and Athena events go in
//! over HTTP, each job is followed step by step, and what came out is printed.

use super::client::{Client, encode};
use super::serve::{DemoCredentials, ProcessRole, Running};
use super::{jobs, out};
use crate::config::Config;
use crate::ingest::athena::sample::{Traffic, patient_id};
use crate::ingest::fhir::sample::{self, Size};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Show the main job on an embedded PostgreSQL and S3; nothing has to be set up before.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  chartgate demo --bundles 5")]
pub struct Arguments {
    /// Bundles to send.
    #[arg(long, default_value_t = 3)]
    bundles: u64,
    /// Athena events to send.
    #[arg(long, default_value_t = 4)]
    events: usize,
    /// Where the demo's PostgreSQL and S3 live.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Run it to the end; exit 0 when every job succeeded.
///
/// # Errors
/// What kept it from running.
pub async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = own_directory(config, arguments.data_dir, "-demo")?;
    out::line(&format!("Starting PostgreSQL and S3 of the demo in {} …", config.data_dir.display()));
    let started = Instant::now();
    let running = Running::start(config.clone(), &[ProcessRole::All]).await?;
    out::line(&format!("Ready after {:.1} s.", started.elapsed().as_secs_f64()));
    // Stopped by Ctrl-C too: the servers end in order either way.
    let result = tokio::select! {
        result = show(&running, &config, arguments.bundles, arguments.events) => result,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::FAILURE),
    };
    running.stop().await;
    result
}

/// The configuration of a Chartgate that touches only a directory of its own, whatever is configured: that one, or the data
/// directory's name with this suffix.
pub(super) fn own_directory(mut config: Config, given: Option<PathBuf>, suffix: &str) -> anyhow::Result<Config> {
    config.database.url = None;
    config.database.migrate_url = None;
    config.s3 = crate::config::S3Config {
        embedded: true,
        endpoint: None,
        access_key: None,
        secret_key: None,
        prefix: String::new(),
        bucket: "chartgate".to_owned(),
        region: "us-east-1".to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        // Messages of a real queue are taken out of it when they are read.
        events_queue_url: None,
    };
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut beside = config.data_dir.clone().into_os_string();
    beside.push(suffix);
    config.data_dir = std::path::absolute(given.unwrap_or_else(|| beside.into()))?;
    Ok(config)
}

async fn show(running: &Running, config: &Config, bundles: u64, events: usize) -> anyhow::Result<ExitCode> {
    let bytes =
        std::fs::read(config.data_dir.join("demo-credentials.json")).context("the demo's credentials are missing")?;
    let credentials: DemoCredentials = serde_json::from_slice(&bytes)?;
    let sender = Client::new(&credentials.url, &credentials.keys.sender)?;
    let reader = Client::new(&credentials.url, &credentials.keys.reader)?;
    let run = next_run(config)?;
    let mut all_succeeded = true;
    let mut last_mrn = None;
    for number in 0..bundles {
        // Other patients in every run, so that a rerun is not all duplicates.
        let seed = run * 1000 + number;
        let body = sample::bundle(seed, 1, Size::Full);
        out::line(&format!("\nPOST /v1/ingestion/fhir/Bundle  ({} bytes, generated with seed {seed})", body.len()));
        let request = sender
            .request(reqwest::Method::POST, "/v1/ingestion/fhir/Bundle")
            .header("content-type", "application/fhir+json")
            .body(body);
        let accepted: Value = sender.send(request).await?;
        let job = accepted["jobId"].as_str().unwrap_or_default().to_owned();
        out::line(&format!("202  {job}  {}", accepted["resourceCount"]));
        let ended = jobs::follow(&sender, &encode(&job), true).await?;
        all_succeeded &= ended["status"] == json!("succeeded") || ended["status"] == json!("succeeded_with_issues");
        last_mrn = Some(sample::mrn(seed, 0));
    }
    if let Some(mrn) = last_mrn {
        show_chart(&reader, &mrn).await?;
    }
    // What an extension would see of one chart.
    for post in Traffic::new(run, 1).filter(|post| !post.is_repetition).take(events) {
        out::line(&format!("\nPOST /ingest/athena  ({} bytes)", post.body.len()));
        let request = sender
            .request(reqwest::Method::POST, "/ingest/athena")
            .header("content-type", "application/json")
            .body(post.body);
        let accepted: Value = sender.send(request).await?;
        let job = accepted["job_id"].as_str().unwrap_or_default().to_owned();
        out::line(&format!("202  {job}  {}", accepted["event_id"].as_str().unwrap_or_default()));
        let ended = jobs::follow(&sender, &encode(&job), true).await?;
        all_succeeded &= ended["status"] == json!("succeeded") || ended["status"] == json!("succeeded_with_issues");
    }
    if events > 0 {
        show_chart(&reader, &patient_id(run, 0)).await?;
    }
    let address = running.address.map(|address| address.to_string()).unwrap_or_default();
    out::line(&format!(
        "\nThat was the demo, on {address}. How to go on:\n  \
         chartgate serve                        keep it running (keys: demo-credentials.json in its data directory)\n  \
         chartgate submit --wait FILE.json      send a Bundle of your own (CHARTGATE_URL, CHARTGATE_API_KEY)\n  \
         chartgate jobs list | show | explain   see what became of it\n  \
         README.md and docs/                    one request with curl, the API, operations"
    ));
    Ok(if all_succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is known of somebody, by category.
async fn show_chart(reader: &Client, mrn: &str) -> anyhow::Result<()> {
    let view: Value = reader.get(&format!("/ingest/clinical/{}", encode(mrn))).await?;
    out::line(&format!("\nGET /ingest/clinical/{mrn}  → {}", view["status"].as_str().unwrap_or_default()));
    for (category, items) in view["clinical_data"].as_object().into_iter().flatten() {
        if let Some(items) = items.as_array().filter(|items| !items.is_empty()) {
            out::line(&format!("  {category:<14} {}", items.len()));
        }
    }
    Ok(())
}

/// Counts the runs in the demo's directory.
fn next_run(config: &Config) -> anyhow::Result<u64> {
    let path = config.data_dir.join("demo-runs");
    let run = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) + 1;
    std::fs::write(&path, run.to_string())?;
    Ok(run)
}
