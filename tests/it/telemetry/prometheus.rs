//! `/metrics` of the real binary, read by Prometheus itself.

use super::deploy::promtool;
use super::served::Served;
use crate::support::directory::TestDirectory;
use chartgate::ingest::fhir::sample::{self, Size};
use reqwest::Method;
use serde_json::Value;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_mins(1);

struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The value of a query that has one, once it is wanted.
async fn query(client: &reqwest::Client, url: &str, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = client.get(format!("{url}/api/v1/query")).query(&[("query", query)]).send().await;
        let mut last = String::new();
        if let Ok(answer) = answer {
            let answer: Value = answer.json().await.unwrap_or_default();
            let value = answer["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok());
            if let Some(value) = value.filter(|value| wanted(*value)) {
                return value;
            }
            last = answer.to_string();
        }
        assert!(Instant::now() < deadline, "{query}: {last}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_scrapes_the_binary_and_answers() {
    let served = Served::start(&[]).await;
    let headers = [("content-type", "application/fhir+json")];
    let bundle = sample::bundle(1, 1, Size::Small);
    let (status, answer) = served.ask(Method::POST, "/v1/ingestion/fhir/Bundle", "sender", &headers, bundle).await;
    assert_eq!(status, 202, "{answer}");
    served.ended(answer["jobId"].as_str().unwrap(), "succeeded").await;

    let scraped = served.client.get(format!("{}/metrics", served.url)).send().await.unwrap().text().await.unwrap();
    let directory = TestDirectory::new();
    let Ok(mut lint) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        println!("SKIPPED: promtool is not installed (Debian: prometheus)");
        return;
    };
    lint.stdin.take().unwrap().write_all(scraped.as_bytes()).unwrap();
    let lint = lint.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[lint.stdout, lint.stderr].concat()).into_owned();
    assert!(lint.status.success() && said.trim().is_empty(), "{said}");

    // The example configuration of deploy/, with this process as its target, and the rules beside it.
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    std::fs::copy(deploy.join("alerts.yml"), directory.path().join("alerts.yml")).unwrap();
    let target = served.url.strip_prefix("http://").unwrap();
    let example = std::fs::read_to_string(deploy.join("prometheus.yml")).unwrap();
    let config = example.replace("127.0.0.1:8080", target).replace("- 127.0.0.1:9464", "").replace("15s", "1s");
    assert!(config.contains(target));
    std::fs::write(directory.path().join("prometheus.yml"), config).unwrap();
    let (ok, said) = promtool(&["check", "config", "prometheus.yml"], directory.path()).unwrap();
    assert!(ok, "{said}");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", directory.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", directory.path().join("tsdb").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _prometheus = Prometheus(prometheus.unwrap());
    let client = &served.client;
    query(client, &url, r#"up{job="chartgate"}"#, |up| up > 0.5).await;
    query(client, &url, r#"chartgate_jobs_ended_total{workflow="fhir-bundle",status="succeeded"}"#, |ended| {
        ended > 0.5
    })
    .await;
    query(client, &url, "chartgate_workers", |workers| workers > 0.5).await;
    query(client, &url, "chartgate_database_up", |up| up > 0.5).await;
    // The rules are evaluated without a fault.
    let rules: Value = client.get(format!("{url}/api/v1/rules")).send().await.unwrap().json().await.unwrap();
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(rules.len() > 20 && rules.iter().all(|rule| rule["health"] != "err"), "{rules:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_the_api_answers_for_its_own_metrics_and_health_only() {
    let served = Served::start(&[]).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut worker = super::served::command(&[("CHARTGATE_TELEMETRY_METRICS_LISTEN", &free.to_string())]);
    worker.args(["serve", "--role", "worker", "--data-dir"]).arg(served.data());
    let worker = worker.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _worker = Prometheus(worker);
    let get = async |path: &str| served.client.get(format!("http://{free}{path}")).send().await;
    let deadline = Instant::now() + PATIENCE;
    let scraped = loop {
        if let Ok(answer) = get("/metrics").await {
            break answer.text().await.unwrap();
        }
        assert!(Instant::now() < deadline, "it does not listen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for name in
        ["chartgate_build_info{", "chartgate_database_up 1", "chartgate_leases_reaped_total{", "chartgate_queue_tasks{"]
    {
        assert!(scraped.contains(name), "{name}: {scraped}");
    }
    assert_eq!(get("/health/ready").await.unwrap().status(), 200);
    for path in ["/v1/ingestion/jobs", "/docs", "/admin", "/openapi.json"] {
        assert_eq!(get(path).await.unwrap().status(), 404, "{path}");
    }
}
