//! Workers that die, sleep through their lease, or are killed by a job.

use super::program::{AUDIT_KEY, Crash, Settings, spawn, workflow};
use super::{CLEAN, create_effects, jobs, slowest_recovery_seconds, verdict};
use crate::console::figures::count_all;
use crate::support::app::{Setup, TestApp};
use crate::support::directory::TestDirectory;
use crate::support::program::Program;
use crate::support::submit::submit;
use chartgate::audit::sealer::{Sealer, SealerOptions};
use chartgate::audit::source::Live;
use chartgate::audit::verify::verify;
use rand::RngExt as _;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) async fn crashing_app(ordering: &str, directory: &TestDirectory) -> TestApp {
    let path = directory.path().to_owned();
    std::fs::create_dir_all(path.join("workflows")).unwrap();
    std::fs::write(path.join("workflows").join("crashing.toml"), workflow(ordering)).unwrap();
    let crash = Crash { directory: path, step: Duration::ZERO };
    let setup = Setup {
        handlers: vec![("test.crash", Arc::new(crash) as _)],
        workflows: vec![("crashing", workflow(ordering))],
        ..Setup::default()
    };
    let app = TestApp::with(setup).await;
    create_effects(&mut app.owner().await).await;
    app
}

async fn submit_jobs(app: &TestApp, organizations: usize, count: usize) {
    let mut ids = vec![app.organization.id];
    for number in 1..organizations {
        ids.push(app.organization(&format!("Hospital {number}")).await.id);
    }
    for number in 0..count {
        submit(app, ids[number % ids.len()], "crashing", None).await;
    }
}

fn signal(program: &Program, signal: Signal) {
    kill_process(Pid::from_raw(program.id().try_into().unwrap()).unwrap(), signal).unwrap();
}

/// Whoever sealed was killed again and again, between a batch, its checkpoint and its objects: nothing is missing, nothing is
/// there twice.
async fn audit_log_is_whole(app: &TestApp, directory: &Path) {
    let options = SealerOptions::new(directory.join(AUDIT_KEY));
    let mut sealer = Sealer::new(app.app.db.clone(), app.app.objects.clone(), options);
    let records = app.count("select count(*) from audit_records").await;
    let leaves = "select coalesce(sum(cardinality(record_ids)), 0)::bigint from audit_leaves";
    let killed_at = app.count("select count(*) from audit_checkpoints").await;
    while app.count(leaves).await < records {
        sealer.seal_batch().await.unwrap();
    }
    sealer.checkpoint().await.unwrap();
    sealer.publish().await.unwrap();
    let mut source = Live::new(app.app.db.clone(), app.app.objects.clone(), None);
    let report = verify(&mut source, &[]).await.unwrap();
    println!("{records} audit records, {killed_at} checkpoints by sealers that were killed");
    assert!(report.ok && killed_at > 0, "{report:#?}");
    assert_eq!(i64::try_from(report.records).unwrap(), records);
}

/// Whoever counted was killed again and again, between reading a range and adding it, or within: what the overview shows is
/// what the jobs are, and every retry is a round more.
async fn figures_are_whole(app: &TestApp, begun_at: i64) {
    let counted = app.count("select until_xid from figures_position").await;
    assert!(counted > begun_at, "the killed ones have counted nothing");
    let differing = "select count(*)
         from (
           select organization_id, date_trunc('minute', finished_at) at, count(*) filter (where status = 'succeeded') good,
             count(*) filter (where status = 'failed') bad
           from jobs where finished_at is not null group by 1, 2) j
         full join (
           select * from job_figures
           where organization_id <> '00000000-0000-0000-0000-000000000000' and succeeded + failed > 0) f using (organization_id, at)
         where (j.good, j.bad) is distinct from (f.succeeded, f.failed)";
    count_all(app).await;
    assert_eq!(app.count(differing).await, 0, "rounds that ended");
    let accepted = "select coalesce(sum(accepted), 0)::bigint from job_figures where organization_id = '00000000-0000-0000-0000-000000000000'";
    assert_eq!(app.count(accepted).await, app.count("select count(*) from jobs").await, "jobs accepted");
}

#[tokio::test]
async fn no_job_is_lost_doubled_or_stuck_when_workers_are_killed_again_and_again() {
    let directory = TestDirectory::new();
    let app = crashing_app("organization", &directory).await;
    let count = jobs(250);
    submit_jobs(&app, (count / 50).clamp(5, 100), count).await;
    let begun_at = app.count("select until_xid from figures_position").await;
    Settings::of(&app, 1500, 10).write(directory.path());
    let kill_every = std::env::var("CHARTGATE_CRASH_KILL_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    let mut workers: Vec<Program> = (0..3).map(|_| spawn(directory.path())).collect();
    let started = Instant::now();
    let mut kills = 0;
    let deadline = started + Duration::from_secs(60 + u64::try_from(count).unwrap() / 10);
    while app.count("select count(*) from queue").await > 0 {
        assert!(Instant::now() < deadline, "not done: {:?}", verdict(&app).await);
        tokio::time::sleep(Duration::from_millis(kill_every)).await;
        // A kill must have time to be noticed before its job can be met again: stop killing near the end.
        if app.count("select count(*) from queue").await > i64::try_from(count / 10).unwrap() {
            let victim = workers.remove(rand::rng().random_range(0..workers.len()));
            victim.kill("READY");
            kills += 1;
            workers.push(spawn(directory.path()));
        }
    }
    let lost_leases = app.count("select count(*) from step_attempts where outcome = 'lost'").await;
    let recovery = slowest_recovery_seconds(&app).await;
    println!(
        "{count} jobs, {kills} kills, {lost_leases} leases lost, slowest next attempt {recovery:.1} s, {:.1} s in all",
        started.elapsed().as_secs_f64()
    );
    assert_eq!(verdict(&app).await, CLEAN);
    // Transactions of other tests hold the seal, too: they are of the same cluster.
    while app.count("select count(*) from audit_checkpoints").await == 0 {
        assert!(Instant::now() < deadline + Duration::from_mins(1), "nobody sealed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(workers);
    audit_log_is_whole(&app, directory.path()).await;
    figures_are_whole(&app, begun_at).await;
    assert!(kills >= 2 && lost_leases > 0, "the kills hit nothing: {kills} kills, {lost_leases} lost leases");
    assert!(recovery < 15.0, "a job waited {recovery} s for its next attempt");
    let effects = app.count("select count(*) from test_effects").await;
    let parked = app.count("select count(*) from jobs where error_code = 'worker_killed'").await;
    // At its third death a job runs alone in its process: a kill parks one at most.
    assert!(parked <= kills, "{parked} jobs were parked by {kills} kills");
    assert!(effects >= 5 * (i64::try_from(count).unwrap() - parked));
    std::fs::write(directory.path().join("stop"), "").unwrap();
}

#[tokio::test]
async fn a_worker_that_sleeps_through_its_lease_and_wakes_can_change_nothing() {
    let directory = TestDirectory::new();
    let app = crashing_app("none", &directory).await;
    submit_jobs(&app, 4, 60).await;
    Settings::of(&app, 1000, 40).write(directory.path());
    let zombie = spawn(directory.path());
    while app.count("select count(*) from test_effects").await < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    signal(&zombie, Signal::STOP);
    let held = app.count("select count(*) from queue where state = 'leased'").await;
    assert!(held > 0);
    let other = spawn(directory.path());
    app.run_until_idle().await;
    assert_eq!(verdict(&app).await, CLEAN);
    assert_eq!(app.count("select count(*) from test_effects").await, 300);
    signal(&zombie, Signal::CONT);
    // It wakes in the middle of its steps; each commit that it still tries is refused, and it reports how many.
    let pid = i64::from(zombie.id());
    let mut refused = 0;
    for _ in 0..300 {
        refused = sqlx::query_scalar::<_, i64>("select coalesce(max(stale_commits), 0) from workers where pid = $1")
            .bind(i32::try_from(pid).unwrap())
            .fetch_one(&mut app.owner().await)
            .await
            .unwrap();
        if refused > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{held} leases held when it was stopped, {refused} stale commits refused");
    assert!(refused > 0, "the zombie tried nothing");
    assert_eq!(verdict(&app).await, CLEAN);
    assert_eq!(app.count("select count(*) from test_effects").await, 300, "a stale commit changed something");
    zombie.kill("READY");
    other.kill("READY");
}

#[tokio::test]
async fn a_job_that_kills_its_worker_is_parked_after_three_deaths_and_no_bystander_with_it() {
    let directory = TestDirectory::new();
    let app = crashing_app("none", &directory).await;
    let poison = submit(&app, app.organization.id, "crashing", None).await.job;
    std::fs::write(directory.path().join("poison"), poison.to_string()).unwrap();
    submit_jobs(&app, 4, 80).await;
    Settings::of(&app, 1000, 5).write(directory.path());
    // A supervisor that starts workers again, as any would.
    let mut workers: Vec<Program> = (0..2).map(|_| spawn(directory.path())).collect();
    let mut deaths = 0;
    let deadline = Instant::now() + Duration::from_mins(1);
    while app.count("select count(*) from queue").await > 0 {
        assert!(Instant::now() < deadline, "not parked: {:?}", verdict(&app).await);
        for worker in &mut workers {
            if worker.has_ended() {
                deaths += 1;
                *worker = spawn(directory.path());
            }
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let view = app.job(&poison.to_string()).await;
    assert_eq!(view["status"], "failed", "{view:#}");
    assert_eq!(view["error"]["code"], "worker_killed");
    assert_eq!(view["error"]["class"], "ours");
    assert_eq!(view["currentStep"], "three");
    let states: Vec<_> =
        view["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["succeeded", "succeeded", "failed", "skipped", "skipped"]);
    assert_eq!(deaths, 3);
    assert_eq!(app.count("select count(*) from jobs where status = 'succeeded'").await, 80, "a bystander was parked");
    assert_eq!(verdict(&app).await, CLEAN);
    for worker in workers {
        worker.kill("READY");
    }
}
