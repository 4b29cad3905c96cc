//! Lanes, fairness, pauses and caps.

use super::scripted::{Act, Scripted, workflow};
use crate::support::app::{Setup, TestApp};
use crate::support::submit::submit;
use chartgate::ids::JobId;
use futures::StreamExt as _;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn scripted_app() -> (TestApp, Arc<Scripted>) {
    let scripted = Scripted::new();
    let setup = Setup {
        handlers: vec![("test.scripted", Arc::clone(&scripted) as _)],
        workflows: vec![
            ("free", workflow("free", "none")),
            ("in-order", workflow("in-order", "organization")),
            ("by-patient", workflow("by-patient", "patient")),
        ],
        ..Setup::default()
    };
    (TestApp::with(setup).await, scripted)
}

/// Jobs of one lane in the order in which their last step ran must have rising seqs.
async fn assert_lanes_in_order(app: &TestApp, scripted: &Scripted) -> usize {
    let rows: Vec<(JobId, i64, Option<i64>)> =
        sqlx::query_as("select id, seq, lane from jobs").fetch_all(&mut app.owner().await).await.unwrap();
    let facts: HashMap<JobId, (i64, Option<i64>)> =
        rows.into_iter().map(|(job, seq, lane)| (job, (seq, lane))).collect();
    let mut last: HashMap<i64, i64> = HashMap::new();
    let order = scripted.order("last");
    for job in &order {
        let (seq, lane) = facts[job];
        let lane = lane.unwrap();
        if let Some(before) = last.insert(lane, seq) {
            assert!(before < seq, "job {job} ran behind a later job of its lane");
        }
    }
    last.len()
}

#[tokio::test]
async fn fifty_organizations_finish_in_order_within_each_lane_and_in_parallel_over_them() {
    let (app, scripted) = scripted_app().await;
    let app = Arc::new(app);
    let mut organizations = Vec::new();
    for number in 0..50 {
        organizations.push(app.organization(&format!("Hospital {number}")).await);
    }
    // Head failures now and then: a head in backoff holds its lane.
    scripted
        .script("middle", &(0..60).map(|n| if n % 5 == 0 { Act::Transient } else { Act::Succeed }).collect::<Vec<_>>());
    let workers = app.workers();
    // Two senders an organization at once; each sends its next job only after the last one's answer.
    let mut senders = Vec::new();
    for organization in &organizations {
        for _ in 0..2 {
            let (app, id) = (Arc::clone(&app), organization.id);
            senders.push(tokio::spawn(async move {
                let mut jobs = Vec::new();
                for _ in 0..6 {
                    jobs.push(submit(&app, id, "in-order", None).await.job);
                }
                jobs
            }));
        }
    }
    let mut sent = Vec::new();
    for sender in senders {
        sent.push(sender.await.unwrap());
    }
    app.run_until_idle().await;
    assert_eq!(scripted.runs_of("last"), 600);
    assert_eq!(assert_lanes_in_order(&app, &scripted).await, 50);
    // A job sent after another's answer has the higher seq.
    let seqs: HashMap<JobId, i64> = sqlx::query_as::<_, (JobId, i64)>("select id, seq from jobs")
        .fetch_all(&mut app.owner().await)
        .await
        .unwrap()
        .into_iter()
        .collect();
    for jobs in sent {
        assert!(jobs.windows(2).all(|pair| seqs[&pair[0]] < seqs[&pair[1]]));
    }
    workers.stop().await;
}

#[tokio::test]
async fn cancels_and_failures_of_heads_never_leave_a_lane_standing_still() {
    let (app, scripted) = scripted_app().await;
    let app = Arc::new(app);
    scripted.script(
        "first",
        &(0..80)
            .map(|n| if n % 4 == 0 { Act::Sender } else { Act::Slow(Duration::from_millis(3)) })
            .collect::<Vec<_>>(),
    );
    let workers = app.workers();
    let mut tasks = Vec::new();
    for lane in 0..8 {
        for sender in 0..3 {
            let app = Arc::clone(&app);
            tasks.push(tokio::spawn(async move {
                for number in 0..8 {
                    let id = app.organization.id;
                    let job = submit(&app, id, "by-patient", Some(&format!("patient {lane}"))).await.job;
                    if (number + sender) % 3 == 0 {
                        let path = format!("/v1/ingestion/jobs/{job}/cancel");
                        let (status, _) = app.post(&app.organization.sender, &path, &json!({})).await;
                        assert!(status == 200 || status == 409);
                    }
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    app.run_until_idle().await;
    let open = app.count("select count(*) from jobs where status = 'queued'").await;
    assert_eq!(open, 0);
    assert_eq!(app.count("select count(*) from jobs").await, 192);
    assert!(app.count("select count(*) from jobs where status = 'cancelled'").await > 0, "no cancel came in time");
    assert!(app.count("select count(*) from jobs where status = 'failed'").await > 0);
    assert_lanes_in_order(&app, &scripted).await;
    workers.stop().await;
}

#[tokio::test]
async fn a_retried_job_takes_its_old_place_in_its_lane() {
    let (app, scripted) = scripted_app().await;
    scripted.script("first", &[Act::Sender]);
    let workers = app.workers();
    let failed = submit(&app, app.organization.id, "in-order", None).await.job;
    app.wait_for(&failed.to_string(), "failed").await;
    scripted.script("first", &[Act::Slow(Duration::from_millis(300))]);
    let running = submit(&app, app.organization.id, "in-order", None).await.job;
    let waiting = submit(&app, app.organization.id, "in-order", None).await.job;
    app.wait_for(&running.to_string(), "running").await;
    let path = format!("/v1/admin/jobs/{failed}/retry");
    assert_eq!(app.post(&app.organization.admin, &path, &json!({ "reason": "again" })).await.0, 202);
    app.run_until_idle().await;
    let order = scripted.order("last");
    assert_eq!(order, [failed, running, failed, waiting], "behind the running one, before the later one");
    workers.stop().await;
}

#[tokio::test]
async fn a_paused_organization_accepts_and_waits_and_others_go_on() {
    let (app, _) = scripted_app().await;
    let other = app.organization("Other").await;
    let workers = app.workers();
    let path = |act: &str| format!("/v1/admin/organizations/{}/{act}", app.organization.id);
    let (status, answer) = app.post(&app.organization.admin, &path("pause"), &json!({ "reason": "maintenance" })).await;
    assert_eq!((status, answer["status"].as_str().unwrap()), (200, "paused"));
    let waiting = submit(&app, app.organization.id, "free", None).await.job.to_string();
    let free = submit(&app, other.id, "free", None).await.job.to_string();
    app.wait_for(&free, "succeeded").await;
    assert_eq!(app.job(&waiting).await["status"], "queued");
    assert_eq!(app.post(&other.admin, &path("resume"), &json!({})).await.0, 404, "another organization's");
    assert_eq!(app.post(&app.platform, &path("resume"), &json!({})).await.0, 200);
    app.wait_for(&waiting, "succeeded").await;
    workers.stop().await;
}

#[tokio::test]
async fn a_capped_organization_never_runs_more_jobs_at_once_than_its_cap() {
    let (app, scripted) = scripted_app().await;
    let path = format!("/v1/admin/organizations/{}/settings", app.organization.id);
    let response = app.client.put(format!("{}{path}", app.url)).bearer_auth(&app.organization.admin);
    assert_eq!(response.json(&json!({ "runningMax": 2 })).send().await.unwrap().status(), 200);
    scripted.script("first", &vec![Act::Slow(Duration::from_millis(60)); 12]);
    for _ in 0..12 {
        submit(&app, app.organization.id, "free", None).await;
    }
    let workers = app.workers();
    let mut most = 0;
    while app.count("select count(*) from queue").await > 0 {
        most = most.max(app.count("select count(*) from queue where state = 'leased'").await);
    }
    assert!((1..=2).contains(&most), "{most} at once");
    workers.stop().await;
}

#[tokio::test]
async fn one_organizations_backlog_does_not_delay_another_ones_next_job() {
    let (app, scripted) = scripted_app().await;
    let app = Arc::new(app);
    let other = app.organization("Quiet").await;
    let workers = app.workers();
    let latency = async || {
        let mut times = Vec::new();
        for _ in 0..15 {
            let started = Instant::now();
            let job = submit(&app, other.id, "free", None).await.job;
            while !scripted.order("first").contains(&job) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            times.push(started.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        times.sort();
        times[times.len() / 2]
    };
    let idle = latency().await;
    workers.stop().await;
    // 10,000 in the full size; the claim's cost does not depend on it.
    let backlog = std::env::var("CHARTGATE_TEST_BACKLOG").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000);
    let accepted = futures::stream::iter(0..backlog)
        .map(|_| submit(&app, app.organization.id, "free", None))
        .buffer_unordered(500)
        .count()
        .await;
    assert_eq!(accepted, backlog);
    let workers = app.workers();
    let busy = latency().await;
    let left = app.count("select count(*) from queue").await;
    println!(
        "pick-up of a quiet organization's job: idle {idle:?}, beside a backlog of {backlog} ({left} left) {busy:?}"
    );
    assert!(busy < idle * 2 + Duration::from_millis(60), "idle {idle:?}, busy {busy:?}");
    workers.stop().await;
}
