//! A database that goes away under load: every 202 stays, no process ends, everything resumes by itself.

use super::program::{Crash, Settings, spawn, workflow};
use super::{CLEAN, create_effects, verdict};
use crate::support::app::{Setup, TestApp};
use crate::support::directory::TestDirectory;
use crate::support::submit::submission;
use chartgate::db::embedded::{EmbeddedOptions, EmbeddedPostgres};
use chartgate::db::migrate;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What `pg_ctl -m immediate stop` does; the supervisor starts it again, and it recovers from its log.
fn crash(server: &EmbeddedPostgres) -> Option<u32> {
    let pid = server.pid()?;
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::QUIT).ok()?;
    Some(pid)
}

async fn wait_for_another(server: &EmbeddedPostgres, pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.pid().is_none_or(|now| now == pid) {
        assert!(Instant::now() < deadline, "the database did not come back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_202_survives_immediate_restarts_also_during_recovery_and_no_process_exits() {
    let directory = TestDirectory::new();
    // Durable, or a crash would lose commits by design.
    let options = EmbeddedOptions::new(directory.path());
    let server = tokio::task::spawn_blocking(move || EmbeddedPostgres::start(&options)).await.unwrap().unwrap();
    let mut admin = PgConnection::connect_with(&server.connect_options("postgres")).await.unwrap();
    sqlx::query("create database chartgate").execute(&mut admin).await.unwrap();
    drop(admin);
    migrate::run(&server.connect_options("chartgate")).await.unwrap();

    let program = TestDirectory::new();
    let path = program.path().to_owned();
    std::fs::create_dir_all(path.join("workflows")).unwrap();
    std::fs::write(path.join("workflows").join("crashing.toml"), workflow("organization")).unwrap();
    let app = TestApp::with(Setup {
        handlers: vec![("test.crash", Arc::new(Crash { directory: path.clone(), step: Duration::ZERO }) as _)],
        workflows: vec![("crashing", workflow("organization"))],
        database: Some(server.connect_options("chartgate")),
        ..Setup::default()
    })
    .await;
    create_effects(&mut app.owner().await).await;
    let mut organizations = vec![app.organization.id];
    for number in 1..6 {
        organizations.push(app.organization(&format!("Hospital {number}")).await.id);
    }
    Settings::of(&app, 3000, 5).write(program.path());
    let mut workers = vec![spawn(program.path()), spawn(program.path())];

    // Senders that repeat what was not accepted, as senders do.
    let app = Arc::new(app);
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = organizations
        .into_iter()
        .map(|organization| {
            let (app, stop) = (Arc::clone(&app), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut accepted, mut refused) = (Vec::new(), 0u32);
                while !stop.load(Ordering::Relaxed) {
                    let submission = submission(&app, organization, "crashing", None);
                    loop {
                        match app.app.submitter.submit(submission.clone()).await {
                            Ok(submitted) => break accepted.push(submitted.job),
                            Err(_) => refused += 1,
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                (accepted, refused)
            })
        })
        .collect();
    let rounds = std::env::var("CHARTGATE_CRASH_RESTARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let mut restarts = 0;
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let first = crash(&server).unwrap();
        wait_for_another(&server, first).await;
        restarts += 1;
        if round % 2 == 1 {
            // Again, most likely during recovery.
            if let Some(second) = crash(&server) {
                wait_for_another(&server, second).await;
                restarts += 1;
            }
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for sender in senders {
        let (jobs, errors) = sender.await.unwrap();
        accepted.extend(jobs);
        refused += errors;
    }
    app.run_until_idle().await;
    println!("{} accepted over {restarts} restarts, {refused} refusals repeated", accepted.len());
    assert!(refused > 0, "no submission met a restart");
    for job in &accepted {
        let view = app.job(&job.to_string()).await;
        assert_eq!(view["status"], "succeeded", "{view:#}");
    }
    assert_eq!(verdict(&app).await, CLEAN);
    let effects = app.count("select count(*) from test_effects").await;
    let all = app.count("select count(*) from jobs").await;
    assert_eq!(effects, 5 * all);
    // A lost COMMIT reply is repeated with the same key: one job for each body.
    assert_eq!(all, i64::try_from(accepted.len()).unwrap());
    for worker in &mut workers {
        assert!(!worker.has_ended(), "a worker process ended");
    }
    for worker in workers {
        worker.kill("READY");
    }
    drop(app);
    tokio::task::spawn_blocking(move || server.stop()).await.unwrap();
}
