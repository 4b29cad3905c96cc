//! The way of somebody who has only the runbook: from a red alert to the mended group of failures, command by command.

use super::deploy::words;
use super::served::Served;
use crate::support::faulty_s3::FaultyS3;
use crate::support::objects::{ACCESS_KEY, BUCKET, SECRET_KEY, TestObjects};
use chartgate::ingest::fhir::sample::{self, Size};
use reqwest::Method;
use std::time::{Duration, Instant};

/// The commands of the runbook's first section, in order.
fn commands() -> Vec<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/runbook.md")).unwrap();
    let section = text.split("## A red failure group, mended").nth(1).unwrap().split("\n## ").next().unwrap();
    section.lines().map(str::trim).filter_map(|line| line.strip_prefix("chartgate ")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runbook_alone_leads_from_a_red_alert_to_the_mended_group_in_two_minutes() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let objects = TestObjects::start().await;
    let faulty = FaultyS3::start(&objects.endpoint());
    let endpoint = faulty.endpoint();
    let served = Served::start(&[
        ("CHARTGATE_S3_ENDPOINT", &endpoint),
        ("CHARTGATE_S3_BUCKET", BUCKET),
        ("CHARTGATE_S3_ACCESS_KEY", ACCESS_KEY),
        ("CHARTGATE_S3_SECRET_KEY", SECRET_KEY),
    ])
    .await;
    faulty.refuse(|method, _| (method == Method::PUT).then_some((403, "AccessDenied")));
    let mut jobs = Vec::new();
    for seed in 0..12 {
        let headers = [("content-type", "application/fhir+json")];
        let bundle = sample::bundle(seed, 1, Size::Small);
        let (status, answer) = served.ask(Method::POST, "/v1/ingestion/fhir/Bundle", "sender", &headers, bundle).await;
        assert_eq!(status, 202, "{answer}");
        jobs.push(answer["jobId"].as_str().unwrap().to_owned());
    }
    for job in &jobs {
        let view = served.ended(job, "failed").await;
        assert_eq!(view["error"]["code"], "object_store_denied", "{view:#}");
    }
    // What the alert looks at.
    let metrics = served.client.get(format!("{}/metrics", served.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.lines().any(|line| {
        line.starts_with("chartgate_steps_failed_total{")
            && line.contains(r#"code="object_store_denied""#)
            && line.ends_with(" 12")
    }));

    let red = Instant::now();
    let commands = commands();
    let [list, explain, count, retry, progress, again] = commands.as_slice() else { panic!("{commands:#?}") };
    let run = async |line: &str| {
        let line = line.replace("job_01h455vb4pex5vsknk084sn02q", &jobs[0]);
        let words = words(&line);
        served.run("admin", &words.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let (code, said) = run(list).await;
    assert!(code == 0 && said.matches("job_").count() == 5, "{code} {said}");
    let (code, said) = run(explain).await;
    assert!(code <= 1 && said.contains("object_store_denied"), "{code} {said}");
    // The cause is mended as the page of its code says: the bucket's policy.
    faulty.refuse(|_, _| None);
    let (code, said) = run(count).await;
    assert!(code == 0 && said.contains("12"), "{code} {said}");
    let (code, said) = run(retry).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(run(progress).await.0, 0);
    for job in &jobs {
        served.ended(job, "succeeded").await;
    }
    let (code, said) = run(again).await;
    let took = red.elapsed();
    assert!(code == 0 && !said.contains("job_"), "{code} {said}");
    println!("from the red alert to the mended group: {took:?} of machine time, {} commands", commands.len());
    assert!(took < Duration::from_mins(2), "{took:?}");
}
