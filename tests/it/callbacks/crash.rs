//! A worker that dies between the receiver's answer and its commit.

use super::receiver::Receiver;
use super::{app, deliveries, dispatch, register_url, wait_until};
use crate::support::app::test_config;
use crate::support::directory::TestDirectory;
use crate::support::program::{self, Program};
use crate::support::submit::submit;
use chartgate::app::App;
use chartgate::engine::{EngineOptions, sweeper};
use chartgate::objects::{Objects, ObjectsOptions};
use chartgate::queue::Workers;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The worker, as a process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_process() {
    let Some(directory) = program::directory().map(PathBuf::from) else { return };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let settings: Value = serde_json::from_slice(&std::fs::read(directory.join("program.json")).unwrap()).unwrap();
    let database = PgConnectOptions::new_without_pgpass()
        .socket(settings["socket"].as_str().unwrap())
        .port(5432)
        .username("chartgate_app")
        .database(settings["database"].as_str().unwrap());
    let mut config = test_config();
    config.callbacks.allow_http = true;
    config.callbacks.allow_private = vec!["127.0.0.0/8".parse().unwrap()];
    let objects = Objects::connect(&ObjectsOptions {
        endpoint: Some("http://127.0.0.1:9".to_owned()),
        region: "us-east-1".to_owned(),
        bucket: "none".to_owned(),
        access_key: Some("none".to_owned()),
        secret_key: Some("none".to_owned().into()),
        prefix: String::new(),
        timeout: Duration::from_secs(1),
    });
    let app = App::build(config, database, objects).await.unwrap();
    let engine = app.start_engine_with(EngineOptions {
        lease: Duration::from_secs(1),
        poll: Duration::from_millis(20),
        ..EngineOptions::default()
    });
    let stop = CancellationToken::new();
    tokio::spawn(sweeper::run(Arc::clone(&engine), stop.clone()));
    let workers = Workers::start(engine, vec!["test".to_owned()]);
    crate::crash::program::say("READY 1");
    while !directory.join("stop").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    workers.shutdown().await;
}

fn spawn(directory: &Path) -> Program {
    let mut program = Program::spawn("callbacks::crash::worker_process", directory);
    assert_eq!(program.next("READY"), Some(1), "the worker process did not start");
    program
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_worker_died_before_its_commit_comes_again_under_its_id() {
    let app = app().await;
    let receiver = Receiver::start().await;
    let (id, secret) = register_url(&app, &receiver.url).await;
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "fhir-bundle", None).await.job.to_string();
    app.wait_for(&job, "failed").await;
    workers.stop().await;

    let directory = TestDirectory::new();
    let settings = json!({"socket": app.owner_options.get_socket().unwrap(), "database": app.owner_options.get_database().unwrap()});
    std::fs::write(directory.path().join("program.json"), settings.to_string()).unwrap();
    let mut first = spawn(directory.path());
    // The receiver has the whole message; its answer never gets back to a living process.
    let (kills, victim) = (Arc::new(AtomicU32::new(0)), i32::try_from(first.id()).unwrap());
    let count = Arc::clone(&kills);
    receiver.answer(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(victim).unwrap(),
                rustix::process::Signal::KILL,
            )
            .unwrap();
        }
        (200, Vec::new())
    });
    assert_eq!(dispatch(&app).await, 1);
    receiver.wait_for(1).await;
    let ended = std::time::Instant::now();
    while !first.has_ended() {
        assert!(ended.elapsed() < Duration::from_secs(30), "the worker lives");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(app.count("select count(*) from callback_messages where status = 'sending'").await, 1);

    let second = spawn(directory.path());
    let messages = receiver.wait_for(2).await;
    wait_until(&app, "select count(*) from callback_messages where status = 'delivered'", 1).await;
    std::fs::write(directory.path().join("stop"), "").unwrap();
    drop(second);
    assert_eq!(messages.len(), 2);
    assert_eq!((messages[0].id(), &messages[0].body), (messages[1].id(), &messages[1].body));
    assert!(messages.iter().all(|one| one.signed_by(&secret) == 1));
    assert_eq!(
        app.count("select count(*) from step_attempts where outcome = 'lost'").await,
        1,
        "the kill hit the step"
    );
    // The log knows what was committed.
    let log = deliveries(&app, &id).await;
    assert_eq!((log.len(), &log[0]["outcome"]), (1, &json!("delivered")));
}
