//! The same request again: one job, whatever happened to the first.

use super::{FHIR, get, small};
use crate::engine::scripted::{Act, Scripted, workflow};
use crate::support::app::{Setup, TestApp, job_of};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The intake's workflow with steps that do what a test tells them.
async fn scripted_app() -> (TestApp, Arc<Scripted>) {
    let scripted = Scripted::new();
    let setup = Setup {
        handlers: vec![("test.scripted", Arc::clone(&scripted) as _)],
        workflows: vec![("fhir-bundle", workflow("fhir-bundle", "none"))],
        ..Setup::default()
    };
    (TestApp::with(setup).await, scripted)
}

#[tokio::test]
async fn the_same_bytes_twice_are_one_job_with_its_status() {
    let app = TestApp::start().await;
    let (_, first) = app.submit(small(1)).await;
    let (status, again) = app.submit(small(1)).await;
    assert_eq!((status, &again["jobId"]), (202, &first["jobId"]));
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!((first.get("jobStatus"), &again["jobStatus"]), (None, &json!("queued")));
    assert_eq!(again["createdAt"], first["createdAt"]);
    let workers = app.workers();
    app.wait_for(&job_of(&first), "succeeded").await;
    let (_, again) = app.submit(small(1)).await;
    assert_eq!((&again["jobId"], &again["jobStatus"]), (&first["jobId"], &json!("succeeded")));
    assert!(again.get("retried").is_none());
    assert_eq!(app.count("select count(*) from jobs").await, 1);
    assert_eq!(app.count("select count(*) from audit_records where event = 'job.accepted'").await, 1);
    workers.stop().await;
}

#[tokio::test]
async fn a_header_key_names_one_content_and_other_content_under_it_is_422() {
    let app = TestApp::start().await;
    let sender = app.organization.sender.clone();
    let (_, first) = app.submit_as(&sender, Some("order-1"), small(1)).await;
    let (_, again) = app.submit_as(&sender, Some("order-1"), small(1)).await;
    assert_eq!((&again["jobId"], &again["duplicate"]), (&first["jobId"], &json!(true)));
    let mut other = small(1);
    other.push(b'\n');
    let answer = super::post_bundle(&app, &[FHIR, ("idempotency-key", "order-1")], other.clone()).await;
    let problem = answer.problem(422, "idempotency_key_reused");
    assert!(!problem.to_string().contains("order-1"));
    assert_eq!(app.count("select count(*) from payloads").await, 1);
    // Without the header the hash is the key, and the two kinds of keys never meet.
    let (_, hashed) = app.submit_as(&sender, None, small(1)).await;
    assert_eq!(hashed["duplicate"], false);
    let hash_as_key = format!("sha256:{}", super::sha256(&small(1)));
    let (_, named) = app.submit_as(&sender, Some(&hash_as_key), other).await;
    assert_eq!(named["duplicate"], false);
}

#[tokio::test]
async fn the_same_bytes_under_a_new_key_are_a_new_job_over_one_payload() {
    let app = TestApp::start().await;
    let sender = app.organization.sender.clone();
    let workers = app.workers();
    let mut jobs = BTreeSet::new();
    for key in [None, Some("a"), Some("b")] {
        let (status, answer) = app.submit_as(&sender, key, small(1)).await;
        assert_eq!((status, &answer["duplicate"]), (202, &json!(false)));
        let job = job_of(&answer);
        app.wait_for(&job, "succeeded").await;
        jobs.insert(job);
    }
    assert_eq!(jobs.len(), 3);
    assert_eq!(app.count("select count(*) from payloads").await, 1);
    // Nothing is ingested twice.
    assert_eq!(app.count("select count(*) from clinical_events").await, 3);
    workers.stop().await;
}

#[tokio::test]
async fn many_concurrent_posts_of_one_body_are_one_job() {
    let app = TestApp::start().await;
    // One that shares a transaction with others, and one that is too large to.
    let mut large = small(2);
    large.resize(300 * 1024, b' ');
    for body in [small(1), large] {
        let posts = (0..64).map(|_| app.submit(body.clone()));
        let answers = futures::future::join_all(posts).await;
        let jobs: BTreeSet<String> = answers.iter().map(|(_, answer)| job_of(answer)).collect();
        assert_eq!(jobs.len(), 1);
        assert!(answers.iter().all(|(status, _)| *status == 202));
        assert_eq!(answers.iter().filter(|(_, answer)| answer["duplicate"] == false).count(), 1);
    }
    assert_eq!(app.count("select count(*) from jobs").await, 2);
    assert_eq!(app.count("select count(*) from queue").await, 2);
}

#[tokio::test]
async fn concurrent_posts_of_two_bodies_under_one_key_accept_one_and_refuse_the_other() {
    let app = TestApp::start().await;
    let sender = app.organization.sender.clone();
    for round in 0..10u64 {
        let key = format!("race-{round}");
        let posts = (0..8u64).map(|number| app.submit_as(&sender, Some(&key), small(round * 2 + number % 2)));
        let answers: Vec<(u16, Value)> = futures::future::join_all(posts).await;
        let accepted: BTreeSet<String> =
            answers.iter().filter(|(status, _)| *status == 202).map(|(_, answer)| job_of(answer)).collect();
        assert_eq!(accepted.len(), 1);
        assert_eq!(answers.iter().filter(|(status, _)| *status == 202).count(), 4);
        assert_eq!(answers.iter().filter(|(status, _)| *status == 422).count(), 4);
    }
}

#[tokio::test]
async fn another_organizations_same_bytes_and_key_are_its_own_job() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let mut jobs = BTreeSet::new();
    for key in [None, Some("same")] {
        for sender in [&app.organization.sender, &other.sender] {
            let (_, answer) = app.submit_as(sender, key, small(1)).await;
            assert_eq!(answer["duplicate"], false);
            jobs.insert(job_of(&answer));
        }
    }
    assert_eq!(jobs.len(), 4);
    assert_eq!(app.count("select count(*) from payloads").await, 2);
}

#[tokio::test]
async fn a_re_send_opens_the_next_round_unless_the_failure_was_the_senders() {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let (app, scripted) = scripted_app().await;
    let workers = app.workers();
    for (acts, retried) in
        [(vec![Act::Ours], true), (vec![Act::Transient; 4], true), (vec![Act::Panic], true), (vec![Act::Sender], false)]
    {
        let body = small(SEED.fetch_add(1, Ordering::Relaxed));
        scripted.script("middle", &acts);
        let (_, first) = app.submit(body.clone()).await;
        let job = job_of(&first);
        app.wait_for(&job, "failed").await;
        // Many at once: exactly one of them opens the round.
        let posts = (0..16).map(|_| app.submit(body.clone()));
        let answers: Vec<(u16, Value)> = futures::future::join_all(posts).await;
        assert!(answers.iter().all(|(status, answer)| *status == 202 && answer["jobId"] == first["jobId"]));
        assert!(answers.iter().all(|(_, answer)| answer["duplicate"] == true));
        let opened = answers.iter().filter(|(_, answer)| answer["retried"] == true).count();
        assert_eq!(opened, usize::from(retried), "{acts:?}");
        if retried {
            let view = app.wait_for(&job, "succeeded").await;
            assert_eq!(view["round"], 2);
            let path = format!("/v1/ingestion/jobs/{job}/timeline");
            let timeline = get(&app, &app.organization.sender, &path).await.json();
            let reopened: Vec<&Value> = timeline["entries"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|entry| entry["event"] == "job.retried")
                .collect();
            assert_eq!((reopened.len(), &reopened[0]["reason"]), (1, &json!("sent again")));
        } else {
            let statuses: BTreeSet<&str> =
                answers.iter().map(|(_, answer)| answer["jobStatus"].as_str().unwrap()).collect();
            assert_eq!(statuses, BTreeSet::from(["failed"]));
            assert_eq!(app.job(&job).await["round"], 1);
        }
    }
    workers.stop().await;
}

#[tokio::test]
async fn a_re_send_of_a_cancelled_job_is_answered_as_it_is() {
    let app = TestApp::start().await;
    let (_, first) = app.submit(small(1)).await;
    let path = format!("/v1/ingestion/jobs/{}/cancel", job_of(&first));
    assert_eq!(app.post(&app.organization.sender, &path, &json!({})).await.0, 200);
    let (status, again) = app.submit(small(1)).await;
    assert_eq!((status, &again["jobId"], &again["jobStatus"]), (202, &first["jobId"], &json!("cancelled")));
    assert!(again.get("retried").is_none());
    assert_eq!(app.count("select count(*) from queue").await, 0);
}
