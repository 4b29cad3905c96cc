//! All Synthea Bundles beside the project over HTTP at once, with workers running: what is stored, counted and quoted.

use super::{Answer, FHIR, call, get, post_bundle, sha256};
use crate::support::app::{Setup, TestApp, job_of};
use chartgate::engine::EngineOptions;
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The corpus directory, or a plain word that this test says nothing here.
fn corpus() -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if directory.join("_counts_by_mrn.json").exists() {
        return Some(directory);
    }
    eprintln!("SKIPPED: no corpus at {}", directory.display());
    None
}

fn bundles(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory.join("synthea-transaction")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let named = |path: PathBuf| {
        let name = format!("synthea-transaction/{}", path.file_name().unwrap().to_str().unwrap());
        (name, std::fs::read(path).unwrap())
    };
    paths.into_iter().map(named).collect()
}

/// Post all at once and wait for the last.
async fn ingest(app: &TestApp, bodies: &[Vec<u8>]) {
    let posts = bodies.iter().map(|body| post_bundle(app, &[FHIR], body.clone()));
    let answers: Vec<Answer> = futures::future::join_all(posts).await;
    let jobs: BTreeSet<String> = answers.iter().map(|answer| job_of(&answer.json())).collect();
    assert_eq!(jobs.len(), bodies.len());
    for (answer, body) in answers.iter().zip(bodies) {
        assert_eq!((answer.status, &answer.json()["sha256"]), (202, &json!(sha256(body))));
    }
    app.run_until_idle().await;
    for job in &jobs {
        let view = app.job(job).await;
        assert_eq!(view["status"], "succeeded", "{view:#}");
    }
}

/// Every page of a view by category.
async fn categories(app: &TestApp, mrn: &str, system: &str) -> BTreeMap<String, Vec<Value>> {
    let path = format!("/ingest/clinical/{mrn}?system={system}");
    let mut view = get(app, &app.organization.reader, &path).await.json();
    assert_eq!(view["status"], "found", "{path}");
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    loop {
        for (category, items) in view["clinical_data"].as_object().unwrap() {
            all.entry(category.clone()).or_default().extend(items.as_array().cloned().unwrap_or_default());
        }
        let Some((category, cursor)) = view["next"].as_object().and_then(|next| next.iter().next()) else { return all };
        let (category, path) = (category.clone(), format!("{path}&cursor={}", cursor.as_str().unwrap()));
        let page = get(app, &app.organization.reader, &path).await.json();
        let mut next = view["next"].clone();
        next.as_object_mut().unwrap().remove(&category);
        if let Some(more) = page["next"].as_object() {
            next.as_object_mut().unwrap().extend(more.clone());
        }
        view = json!({"clinical_data": {&category: page["clinical_data"][&category]}, "next": next});
    }
}

/// Returns some finding ids.
async fn check_counts(app: &TestApp, expected: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    for patients in expected.as_object().unwrap().values() {
        for (key, counts) in patients.as_object().unwrap() {
            let (system, mrn) = key.split_once('|').unwrap();
            let all = categories(app, mrn, system).await;
            let mut counted: BTreeMap<String, usize> = BTreeMap::new();
            for (category, items) in &all {
                let name = if category == "other" { "other_observations" } else { category };
                let distinct: BTreeSet<&str> = items.iter().map(|item| item["event_id"].as_str().unwrap()).collect();
                assert_eq!(distinct.len(), items.len(), "{category} shows an event twice");
                counted.insert(name.to_owned(), distinct.len());
                findings.extend(items.first().and_then(|item| item["finding_id"].as_str()).map(str::to_owned));
            }
            counted.retain(|_, count| *count > 0);
            let expected: BTreeMap<String, usize> = serde_json::from_value(counts.clone()).unwrap();
            assert_eq!(counted, expected, "{key}");
        }
    }
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_synthea_bundles_at_once_are_stored_counted_and_quoted_exactly() {
    let Some(directory) = corpus() else { return };
    let expected: Value =
        serde_json::from_slice(&std::fs::read(directory.join("_counts_by_mrn.json")).unwrap()).unwrap();
    let engine = EngineOptions {
        lease: Duration::from_secs(30),
        poll: Duration::from_millis(20),
        concurrency: 8,
        ..EngineOptions::default()
    };
    let app = TestApp::with(Setup { engine, ..Setup::default() }).await;
    let workers = app.workers();
    let bundles: Vec<Vec<u8>> = bundles(&directory).into_iter().map(|(_, body)| body).collect();
    assert_eq!(bundles.len(), 32);
    ingest(&app, &bundles).await;
    for body in &bundles {
        let payload = get(&app, &app.organization.reader, &format!("/v1/payloads/{}", sha256(body))).await;
        assert!(payload.body == *body, "stored bytes differ from sent bytes");
    }
    let findings = check_counts(&app, &expected["bundles"]).await;
    check_evidence(&app, &bundles, &findings).await;

    // The same resources in other bytes: nothing new.
    let events = app.count("select count(*) from clinical_events").await;
    let stored = app.count("select count(*) from findings").await;
    let changed: Vec<Vec<u8>> = bundles.iter().map(|body| [&body[..], b"\n \n"].concat()).collect();
    ingest(&app, &changed).await;
    assert_eq!(app.count("select count(*) from clinical_events").await, events);
    assert_eq!(app.count("select count(*) from findings").await, stored);
    check_counts(&app, &expected["bundles"]).await;
    workers.stop().await;
}

/// Through the API, for a sample: the quote is the slice that its offsets name.
async fn check_evidence(app: &TestApp, bundles: &[Vec<u8>], findings: &[String]) {
    let by_hash: BTreeMap<String, &Vec<u8>> = bundles.iter().map(|body| (sha256(body), body)).collect();
    assert!(findings.len() > 100, "{}", findings.len());
    let answers = futures::stream::iter(findings)
        .map(|finding| async move {
            let path = format!("/v1/findings/{finding}/evidence");
            call(app, Method::GET, &path, &app.organization.reader, &[], "").await.json()
        })
        .buffer_unordered(8);
    let answers: Vec<Value> = answers.collect().await;
    for evidence in answers.iter().flat_map(|answer| answer["evidence"].as_array().unwrap()) {
        let body = by_hash[evidence["sha256"].as_str().unwrap()];
        let offset = |name: &str| usize::try_from(evidence[name].as_u64().unwrap()).unwrap();
        assert!(body[offset("start")..offset("end")] == *evidence["quote"].as_str().unwrap().as_bytes());
    }
}
