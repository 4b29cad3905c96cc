//! A bulk operation whose process is killed in the middle.

use super::program::{Settings, spawn};
use super::workers::crashing_app;
use super::{CLEAN, jobs, verdict};
use crate::support::directory::TestDirectory;
use crate::support::submit::submit;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_killed_process_leaves_an_operation_that_others_finish_with_each_job_retried_once() {
    let directory = TestDirectory::new();
    let app = crashing_app("none", &directory).await;
    let count = i64::try_from(jobs(400)).unwrap();
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(submit(&app, app.organization.id, "crashing", None).await.job);
    }
    // All of them failed at the first step, for a cause that is mended.
    sqlx::raw_sql(
        "insert into job_steps (organization_id, job_id, round, step, name, status, attempts, finished_at, error_code, error_class, error_message)
         select organization_id, id, 1, 0, 'one', 'failed', 1, chartgate_now(), 'test_bug', 'ours', 'A bug.' from jobs;
         update jobs set status = 'failed', finished_at = chartgate_now(), error_step = 0, error_code = 'test_bug', error_class = 'ours', error_message = 'A bug.';
         delete from queue",
    )
    .execute(&mut app.owner().await)
    .await
    .unwrap();
    Settings::of(&app, 1500, 1).write(directory.path());
    let admin = app.organization.admin.clone();
    let request =
        json!({ "filter": { "errorCode": "test_bug" }, "ratePerSecond": 200, "canary": 5, "reason": "mended" });
    let (status, operation) = app.post(&admin, "/v1/admin/jobs/retry", &request).await;
    assert_eq!((status, &operation["matched"]), (202, &json!(count)), "{operation}");
    let path = format!("/v1/admin/operations/{}", operation["operationId"].as_str().unwrap());
    let started = Instant::now();
    let (mut kills, mut hits) = (0, 0);
    let mut program = spawn(directory.path());
    let ended = loop {
        assert!(
            started.elapsed() < Duration::from_mins(1) + Duration::from_millis(200) * u32::try_from(count).unwrap(),
            "not done after {kills} kills"
        );
        let view = app.get(&admin, &path).await.1;
        if view["status"] == "succeeded" {
            break view;
        }
        let done = view["done"].as_i64().unwrap();
        // A fifth of them further on, while it acts.
        let fifth = count / 5;
        if done > fifth * (kills + 1) && kills < 4 {
            program.kill("READY");
            kills += 1;
            let view = app.get(&admin, &path).await.1;
            hits += i64::from(view["status"] == "running");
            program = spawn(directory.path());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    app.run_until_idle().await;
    drop(program);
    println!("{count} jobs, {kills} kills, {hits} while it was acting, {:.1} s", started.elapsed().as_secs_f64());
    assert!(hits >= 2, "the kills hit nothing: {kills} kills, {hits} hits");
    assert_eq!(
        (&ended["done"], &ended["skipped"], &ended["refused"]),
        (&json!(count), &json!(0), &json!(0)),
        "{ended}"
    );
    let retries = "select count(*) from audit_records where event = 'job.retried'";
    let jobs = "select count(distinct job_id) from audit_records where event = 'job.retried'";
    assert_eq!((app.count(retries).await, app.count(jobs).await), (count, count), "each exactly once");
    assert_eq!(app.count("select count(*) from jobs where round <> 2").await, 0);
    let parked = app.count("select count(*) from jobs where error_code = 'worker_killed'").await;
    assert_eq!(app.count("select count(*) from jobs where status = 'succeeded'").await + parked, count);
    assert_eq!(verdict(&app).await, CLEAN);
}
