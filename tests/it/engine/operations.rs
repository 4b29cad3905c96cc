//! Bulk operations: durable, paced, with a canary, stopped, resumed, undone. Crashes are in `crash/operations.rs`.

use super::scripted::{Act, Scripted, workflow};
use crate::support::app::{Setup, TestApp};
use crate::support::submit::submission;
use chartgate::engine::jobs::JobFilter;
use chartgate::engine::operations::{BulkRequest, OperationKind, RetryVersion};
use chartgate::ids::{JobId, OrganizationId};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

async fn scripted_app() -> (TestApp, Arc<Scripted>) {
    let scripted = Scripted::new();
    let setup = Setup {
        handlers: vec![("test.scripted", Arc::clone(&scripted) as _)],
        workflows: vec![("scripted", workflow("scripted", "none")), ("in-order", workflow("in-order", "organization"))],
        ..Setup::default()
    };
    (TestApp::with(setup).await, scripted)
}

/// Jobs that failed at `middle`.
async fn fail(
    app: &TestApp,
    scripted: &Scripted,
    organization: OrganizationId,
    name: &str,
    count: usize,
) -> Vec<JobId> {
    scripted.script("middle", &vec![Act::Ours; count]);
    let workers = app.workers();
    let submissions = (0..count).map(|_| app.app.submitter.submit(submission(app, organization, name, None)));
    let submitted = futures::future::try_join_all(submissions).await.unwrap();
    app.run_until_idle().await;
    workers.stop().await;
    let mut jobs: Vec<JobId> = submitted.into_iter().map(|submitted| submitted.job).collect();
    jobs.sort_unstable();
    jobs
}

/// Only the loop of the sweeper: nothing runs the jobs.
struct Sweeping(CancellationToken);

impl Sweeping {
    fn start(app: &TestApp) -> Self {
        let stop = CancellationToken::new();
        tokio::spawn(chartgate::engine::operations::run::run(app.app.operations(), stop.clone()));
        Self(stop)
    }
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn begin(app: &TestApp, key: &str, act: &str, request: Value) -> Value {
    let mut body = json!({ "reason": "mended" });
    body.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
    let (status, operation) = app.post(key, &format!("/v1/admin/jobs/{act}"), &body).await;
    assert_eq!(status, 202, "{operation}");
    operation
}

fn path(operation: &Value) -> String {
    format!("/v1/admin/operations/{}", operation["operationId"].as_str().unwrap())
}

async fn until(app: &TestApp, key: &str, operation: &Value, what: &str, met: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let (status, view) = app.get(key, &path(operation)).await;
        assert_eq!(status, 200, "{view}");
        if met(&view) {
            return view;
        }
        assert!(Instant::now() < deadline, "not {what}: {view:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_status(app: &TestApp, operation: &Value, status: &str) -> Value {
    let admin = app.organization.admin.clone();
    until(app, &admin, operation, status, |view| view["status"] == status).await
}

async fn act(app: &TestApp, operation: &Value, act: &str) -> (u16, Value) {
    let body = json!({ "reason": "x" });
    app.post(&app.organization.admin, &format!("{}/{act}", path(operation)), &body).await
}

/// Jobs by how many rounds were opened for them by retries.
async fn retried(app: &TestApp) -> (i64, i64) {
    let once = app
        .count("select count(*) from (select from audit_records where event = 'job.retried' group by job_id having count(*) = 1) x")
        .await;
    let more = app
        .count("select count(*) from (select from audit_records where event = 'job.retried' group by job_id having count(*) > 1) x")
        .await;
    (once, more)
}

#[tokio::test]
async fn of_a_thousand_jobs_a_failing_canary_stops_after_five_and_the_rest_follows_a_good_one() {
    let (app, scripted) = scripted_app().await;
    fail(&app, &scripted, app.organization.id, "scripted", 1000).await;
    let admin = app.organization.admin.clone();
    let request =
        json!({ "filter": { "fingerprint": "scripted/middle/test_bug" }, "canary": 5, "ratePerSecond": 10_000 });
    let mut dry = request.clone();
    dry.as_object_mut().unwrap().extend(json!({ "dryRun": true, "reason": "count" }).as_object().unwrap().clone());
    let (status, counted) = app.post(&admin, "/v1/admin/jobs/retry", &dry).await;
    assert_eq!((status, &counted["matched"], &counted["cut"]), (200, &json!(1000), &json!(false)), "{counted}");

    scripted.script("middle", &vec![Act::Ours; 5]);
    let workers = app.workers();
    let operation = begin(&app, &admin, "retry", request.clone()).await;
    assert_eq!(operation["matched"], 1000);
    let stopped = until_status(&app, &operation, "stopped").await;
    assert_eq!((&stopped["stopReason"], &stopped["done"]), (&json!("canary_failed"), &json!(5)), "{stopped}");
    let settled = until(&app, &admin, &operation, "settled", |view| view["failedAgain"] == 5).await;
    assert_eq!((&settled["done"], &settled["succeededAgain"]), (&json!(5), &json!(0)), "{settled}");
    assert_eq!(retried(&app).await, (5, 0));

    let operation = begin(&app, &admin, "retry", request).await;
    let ended = until_status(&app, &operation, "succeeded").await;
    assert_eq!(
        (&ended["done"], &ended["skipped"], &ended["matched"]),
        (&json!(1000), &json!(0), &json!(1000)),
        "{ended}"
    );
    let all = until(&app, &admin, &operation, "succeeded", |view| view["succeededAgain"] == 1000).await;
    assert_eq!(all["failedAgain"], 0, "{all}");
    assert_eq!(retried(&app).await, (995, 5), "the five of the failed canary twice, the others once");
    assert_eq!(app.count("select count(*) from jobs where status <> 'succeeded'").await, 0);
    let told = "select count(*) from audit_records where event in ('operation.started', 'operation.ended')";
    assert_eq!(app.count(told).await, 4);
    workers.stop().await;
}

#[tokio::test]
async fn the_rate_is_kept_by_the_databases_clock() {
    let (app, scripted) = scripted_app().await;
    fail(&app, &scripted, app.organization.id, "scripted", 30).await;
    let _sweeping = Sweeping::start(&app);
    let admin = app.organization.admin.clone();
    let operation = begin(&app, &admin, "retry", json!({ "filter": {}, "ratePerSecond": 1 })).await;
    until(&app, &admin, &operation, "begun", |view| view["done"] == 1).await;
    // Another process has nothing to add: the pace is the operation's.
    let another = Sweeping::start(&app);
    for wanted in 2..=4 {
        app.advance(Duration::from_secs(1)).await;
        until(&app, &admin, &operation, "paced", |view| view["done"].as_i64() >= Some(wanted)).await;
        let paced =
            "select count(*) from operations where done <= extract(epoch from chartgate_now() - created_at) * rate + 1";
        assert_eq!(app.count(paced).await, 1, "faster than its rate");
    }
    drop(another);
    // However long nobody was there: no more than those of one second at once.
    app.advance(Duration::from_hours(1)).await;
    let view = until(&app, &admin, &operation, "caught up", |view| view["done"].as_i64() >= Some(6)).await;
    let flood = "select count(*) from operations where done > (extract(epoch from chartgate_now() - created_at) - 3600 + 1) * rate + 2";
    assert_eq!(app.count(flood).await, 0, "a flood: {view}");
    assert!(view["expectedAt"].is_string() && view["perSecond"].is_number(), "{view}");
    let (status, stopped) = act(&app, &operation, "stop").await;
    assert_eq!((status, &stopped["status"], &stopped["stopReason"]), (200, &json!("stopped"), &json!("administrator")));
}

#[tokio::test]
async fn what_has_not_begun_is_taken_back_as_it_was_and_a_cancel_is_not() {
    let (app, scripted) = scripted_app().await;
    let jobs = fail(&app, &scripted, app.organization.id, "in-order", 40).await;
    let admin = app.organization.admin.clone();
    let before = app.job(&jobs[7].to_string()).await;
    let taken_back = "select count(*) from audit_records where event = 'job.retry_undone'";
    // Somebody registers only now: what ended before is not told, and taking back is no end.
    let register = "insert into callbacks (organization_id, id, url, status, secret, created_at, updated_at)
                    select id, gen_random_uuid(), 'https://hooks.example.org', 'active', '', now(), now() from organizations";
    sqlx::raw_sql(register).execute(&mut app.owner().await).await.unwrap();
    {
        // Nobody runs them.
        let _sweeping = Sweeping::start(&app);
        let operation =
            begin(&app, &admin, "retry", json!({ "ids": jobs, "from": "start", "ratePerSecond": 10_000 })).await;
        until_status(&app, &operation, "succeeded").await;
        let waiting = app.job(&jobs[7].to_string()).await;
        assert_eq!((&waiting["status"], &waiting["round"]), (&json!("queued"), &json!(2)));
        // One of them has been begun: its lease is counted as an attempt.
        let begun = "update queue set attempts = 1 where state = 'ready'";
        sqlx::raw_sql(begun).execute(&mut app.owner().await).await.unwrap();
        let (status, undoing) = act(&app, &operation, "undo").await;
        assert_eq!((status, &undoing["status"]), (200, &json!("undoing")), "{undoing}");
        let undone = until_status(&app, &operation, "undone").await;
        assert_eq!((&undone["undone"], &undone["done"]), (&json!(39), &json!(40)), "{undone}");
        let (_, left) = app.get(&admin, &format!("{}/jobs?state=acted", path(&operation))).await;
        assert_eq!(left["jobs"].as_array().unwrap().len(), 1, "{left}");
        for refused in ["undo", "stop", "resume"] {
            let (status, problem) = act(&app, &operation, refused).await;
            assert_eq!((status, &problem["code"]), (409, &json!("operation_not_possible")), "{refused}: {problem}");
        }
    }
    let mut after = app.job(&jobs[7].to_string()).await;
    after["updatedAt"] = before["updatedAt"].clone();
    assert_eq!(after, before, "as it was");
    assert_eq!(app.count(taken_back).await, 39);
    assert_eq!(app.count("select count(*) from callback_messages").await, 0);
    sqlx::raw_sql("delete from callbacks").execute(&mut app.owner().await).await.unwrap();
    let (_, timeline) = app.get(&app.platform, &format!("/v1/ingestion/jobs/{}/timeline", jobs[7])).await;
    assert!(timeline.to_string().contains("job.retry_undone"), "{timeline}");
    // The lane is free for the one that had begun, and what was undone can be retried.
    let workers = app.workers();
    app.run_until_idle().await;
    let operation = begin(&app, &admin, "retry", json!({ "filter": {}, "ratePerSecond": 10_000 })).await;
    assert_eq!(operation["matched"], 39);
    until(&app, &admin, &operation, "succeeded", |view| view["succeededAgain"] == 39).await;
    workers.stop().await;

    for _ in 0..3 {
        app.app.submitter.submit(submission(&app, app.organization.id, "in-order", None)).await.unwrap();
    }
    let _sweeping = Sweeping::start(&app);
    let operation = begin(&app, &admin, "cancel", json!({ "filter": { "workflow": "in-order" } })).await;
    let ended = until_status(&app, &operation, "succeeded").await;
    assert_eq!((&ended["kind"], &ended["done"]), (&json!("cancel"), &json!(3)), "{ended}");
    assert_eq!(app.count("select count(*) from jobs where status = 'cancelled'").await, 3);
    assert_eq!(app.count("select count(*) from queue").await, 0);
    let (status, problem) = act(&app, &operation, "undo").await;
    assert_eq!((status, &problem["code"]), (409, &json!("operation_not_possible")));
    assert!(problem["detail"].as_str().unwrap().contains("retry the jobs"), "{problem}");
}

#[tokio::test]
async fn it_stops_when_so_many_failed_again_and_goes_on_when_an_administrator_says_so() {
    let (app, scripted) = scripted_app().await;
    fail(&app, &scripted, app.organization.id, "scripted", 60).await;
    let admin = app.organization.admin.clone();
    scripted.script("middle", &vec![Act::Ours; 20]);
    let workers = app.workers();
    let request = json!({ "filter": {}, "stopAfterFailures": 3, "ratePerSecond": 15 });
    let operation = begin(&app, &admin, "retry", request).await;
    let stopped = until_status(&app, &operation, "stopped").await;
    assert_eq!(stopped["stopReason"], "failures", "{stopped}");
    let done = stopped["done"].as_i64().unwrap();
    assert!((3..60).contains(&done), "{stopped}");
    scripted.script("middle", &[]);
    // All that was begun has ended, and is counted.
    until(&app, &admin, &operation, "settled", |view| {
        view["failedAgain"].as_i64().unwrap() + view["succeededAgain"].as_i64().unwrap() == done
    })
    .await;
    let (status, resumed) = act(&app, &operation, "resume").await;
    assert_eq!((status, &resumed["status"], &resumed["stopReason"]), (200, &json!("running"), &Value::Null));
    let ended = until_status(&app, &operation, "succeeded").await;
    assert_eq!(ended["done"], 60, "{ended}");
    assert_eq!(retried(&app).await, (60, 0));
    workers.stop().await;
}

#[tokio::test]
async fn a_canary_that_failed_while_the_operation_was_stopped_stops_it_when_it_goes_on() {
    let (app, scripted) = scripted_app().await;
    fail(&app, &scripted, app.organization.id, "scripted", 30).await;
    let admin = app.organization.admin.clone();
    scripted.script("middle", &vec![Act::Ours; 5]);
    let operation = {
        let _sweeping = Sweeping::start(&app);
        let operation =
            begin(&app, &admin, "retry", json!({ "filter": {}, "canary": 5, "ratePerSecond": 10_000 })).await;
        until_status(&app, &operation, "canary").await;
        assert_eq!(act(&app, &operation, "stop").await.0, 200);
        operation
    };
    let workers = app.workers();
    until(&app, &admin, &operation, "failed again", |view| view["failedAgain"] == 5).await;
    assert_eq!(act(&app, &operation, "resume").await.0, 200);
    let stopped = until_status(&app, &operation, "stopped").await;
    assert_eq!((&stopped["stopReason"], &stopped["done"]), (&json!("canary_failed"), &json!(5)), "{stopped}");
    // Who knows that the canary failed may go on all the same.
    assert_eq!(act(&app, &operation, "resume").await.0, 200);
    let ended = until_status(&app, &operation, "succeeded").await;
    assert_eq!(ended["done"], 30, "{ended}");
    workers.stop().await;
}

#[tokio::test]
async fn two_sweepers_at_once_act_once() {
    let (app, scripted) = scripted_app().await;
    fail(&app, &scripted, app.organization.id, "in-order", 300).await;
    let admin = app.organization.admin.clone();
    let sweeping: Vec<Sweeping> = (0..4).map(|_| Sweeping::start(&app)).collect();
    let operation = begin(&app, &admin, "retry", json!({ "filter": {}, "ratePerSecond": 10_000 })).await;
    let ended = until_status(&app, &operation, "succeeded").await;
    assert_eq!((&ended["done"], &ended["skipped"]), (&json!(300), &json!(0)), "{ended}");
    drop(sweeping);
    assert_eq!(retried(&app).await, (300, 0));
    let workers = app.workers();
    app.run_until_idle().await;
    workers.stop().await;
    assert_eq!(app.count("select count(*) from jobs where status = 'succeeded' and round = 2").await, 300);
}

#[tokio::test]
async fn a_filter_of_another_organization_meets_nothing_and_the_platform_meets_all() {
    let (app, scripted) = scripted_app().await;
    let other = app.organization("Other Hospital").await;
    let own = fail(&app, &scripted, app.organization.id, "scripted", 3).await;
    let theirs = fail(&app, &scripted, other.id, "scripted", 2).await;
    let admin = app.organization.admin.clone();
    for request in [json!({ "filter": { "organization": other.id } }), json!({ "ids": theirs })] {
        let operation = begin(&app, &admin, "retry", request).await;
        assert_eq!((&operation["matched"], &operation["status"]), (&json!(0), &json!("succeeded")), "{operation}");
    }
    assert_eq!(app.count("select count(*) from operation_jobs").await, 0);
    let _sweeping = Sweeping::start(&app);
    let platform = app.platform.clone();
    let only = begin(&app, &platform, "retry", json!({ "filter": { "organization": other.id } })).await;
    assert_eq!(only["matched"], 2);
    until(&app, &platform, &only, "succeeded", |view| view["done"] == 2).await;
    let all = begin(&app, &platform, "reprocess", json!({ "filter": {} })).await;
    let ended = until(&app, &platform, &all, "succeeded", |view| view["status"] == "succeeded").await;
    assert_eq!((&ended["matched"], &ended["done"]), (&json!(3), &json!(3)), "{ended}");
    // The organization's own list does not show what the platform began.
    let (_, listed) = app.get(&admin, "/v1/admin/operations").await;
    assert_eq!(listed["operations"].as_array().unwrap().len(), 2, "{listed}");
    let (_, page) = app.get(&platform, "/v1/admin/operations?limit=1").await;
    assert_eq!(page["operations"][0]["operationId"], all["operationId"]);
    let cursor = page["nextCursor"].as_str().unwrap();
    let (_, page) = app.get(&platform, &format!("/v1/admin/operations?limit=1&cursor={cursor}")).await;
    assert_eq!((&page["operations"][0]["operationId"], &page["nextCursor"]), (&only["operationId"], &Value::Null));
    assert_eq!(app.get(&admin, &path(&all)).await.0, 404);
    let (_, jobs) = app.get(&platform, &format!("{}/jobs?limit=2", path(&all))).await;
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 2);
    let (_, rest) = app
        .get(&platform, &format!("{}/jobs?limit=2&cursor={}", path(&all), jobs["nextCursor"].as_str().unwrap()))
        .await;
    assert_eq!((rest["jobs"].as_array().unwrap().len(), &rest["nextCursor"]), (1, &Value::Null));
    assert_eq!(rest["jobs"][0]["jobId"], json!(own[2]));
}

#[tokio::test]
async fn filters_name_step_code_times_payload_and_source() {
    let (app, scripted) = scripted_app().await;
    let jobs = fail(&app, &scripted, app.organization.id, "scripted", 4).await;
    let admin = app.organization.admin.clone();
    let view = app.job(&jobs[0].to_string()).await;
    let (sha256, ended) = (&view["payload"]["sha256"], &view["finishedAt"]);
    for (filter, matched) in [
        (json!({ "step": "middle" }), 4),
        (json!({ "step": "2" }), 4),
        (json!({ "step": "first" }), 0),
        (json!({ "step": "0" }), 0),
        (json!({ "errorCode": "test_bug", "workflow": "scripted", "source": "webhook" }), 4),
        (json!({ "fingerprint": "scripted/2/test_bug" }), 4),
        (json!({ "fingerprint": "scripted/first/test_bug" }), 0),
        (json!({ "payloadSha256": sha256 }), 1),
        (json!({ "payloadSha256": "0".repeat(64) }), 0),
        (json!({ "endedBefore": "2020-01-01T00:00:00Z" }), 0),
        (json!({ "endedAfter": "2020-01-01T00:00:00Z" }), 4),
        (json!({ "endedAfter": ended, "endedBefore": ended }), 0),
        (json!({ "createdAfter": "2999-01-01T00:00:00Z" }), 0),
        (json!({ "status": "succeeded" }), 0),
        (json!({ "organization": app.organization.id }), 4),
    ] {
        let request = json!({ "filter": filter, "dryRun": true, "reason": "x" });
        let (status, counted) = app.post(&admin, "/v1/admin/jobs/retry", &request).await;
        assert_eq!((status, &counted["matched"]), (200, &json!(matched)), "{filter}: {counted}");
    }
    for (act, body) in [
        ("retry", json!({ "filter": { "fingerprint": "a/b" } })),
        ("retry", json!({ "filter": { "fingerprint": "a/b/c", "step": "b" } })),
        ("retry", json!({ "filter": { "payloadSha256": "xyz" } })),
        ("retry", json!({ "filter": {}, "stopAfterFailures": 0 })),
        ("cancel", json!({ "filter": {}, "canary": 1 })),
        ("cancel", json!({ "filter": {}, "stopAfterFailures": 1 })),
        ("cancel", json!({ "filter": { "status": "failed" } })),
        ("reprocess", json!({ "filter": { "status": "running" } })),
    ] {
        let mut request = json!({ "reason": "x" });
        request.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let (status, problem) = app.post(&admin, &format!("/v1/admin/jobs/{act}"), &request).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")), "{body}: {problem}");
    }
    let (_, groups) = app.get(&admin, "/v1/admin/failures").await;
    assert_eq!(groups["failures"][0]["fingerprint"], "scripted/2/test_bug");
    let (_, listed) =
        app.get(&admin, &format!("/v1/admin/jobs?step=middle&payloadSha256={}", sha256.as_str().unwrap())).await;
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1, "{listed}");
}

#[tokio::test]
async fn what_cannot_be_done_for_a_job_is_said_and_the_others_are_done() {
    let (app, scripted) = scripted_app().await;
    let jobs = fail(&app, &scripted, app.organization.id, "scripted", 3).await;
    // One of them is under way again when its turn comes, one is of a version that is gone.
    let (status, _) = app
        .post(&app.organization.admin, &format!("/v1/admin/jobs/{}/retry", jobs[0]), &json!({ "reason": "x" }))
        .await;
    assert_eq!(status, 202);
    sqlx::query("update jobs set workflow_version = 99 where id = $1")
        .bind(jobs[1])
        .execute(&mut app.owner().await)
        .await
        .unwrap();
    let operations = app.app.operations();
    let actor = chartgate::audit::Actor::internal("test");
    let mut request = BulkRequest::new(OperationKind::Retry, "mended".to_owned());
    request.ids = Some(jobs.clone());
    let started = operations.start(Some(app.organization.id), &request, &actor).await.unwrap();
    let _sweeping = Sweeping::start(&app);
    let ended = until_status(&app, &json!({ "operationId": started.operation_id }), "succeeded").await;
    assert_eq!((&ended["done"], &ended["skipped"], &ended["refused"]), (&json!(1), &json!(1), &json!(1)), "{ended}");
    let (_, listed) = app.get(&app.organization.admin, &format!("{}/jobs", path(&ended))).await;
    let notes: Vec<_> = listed["jobs"].as_array().unwrap().iter().map(|job| job["note"].as_str()).collect();
    assert_eq!(notes, [Some("under_way"), Some("workflow_unknown"), None], "{listed}");

    // With a step that the workflow does not have, none is done; one alone is told the names.
    let mut request = BulkRequest::new(OperationKind::Retry, "mended".to_owned());
    request.filter = Some(JobFilter { step: Some("middle".to_owned()), ..JobFilter::default() });
    request.from = "nowhere".to_owned();
    request.version = RetryVersion::Latest;
    let started = operations.start(Some(app.organization.id), &request, &actor).await.unwrap();
    let ended = until_status(&app, &json!({ "operationId": started.operation_id }), "succeeded").await;
    assert_eq!((&ended["done"], &ended["refused"]), (&json!(0), &json!(1)), "{ended}");
    let path = format!("/v1/admin/jobs/{}/retry", jobs[1]);
    let body = json!({ "from": "nowhere", "version": "latest", "reason": "x" });
    let (status, problem) = app.post(&app.organization.admin, &path, &body).await;
    assert_eq!(status, 400);
    assert!(problem["detail"].as_str().unwrap().contains("first, kept, middle, last"), "{problem}");
}

#[tokio::test]
async fn the_database_going_away_neither_loses_nor_repeats_an_act() {
    let (app, scripted) = scripted_app().await;
    fail(&app, &scripted, app.organization.id, "scripted", 200).await;
    let admin = app.organization.admin.clone();
    let _sweeping = (Sweeping::start(&app), Sweeping::start(&app));
    let operation = begin(&app, &admin, "retry", json!({ "filter": {}, "ratePerSecond": 300 })).await;
    for wanted in [20, 80, 140] {
        until(&app, &admin, &operation, "on its way", |view| view["done"].as_i64() >= Some(wanted)).await;
        // Every connection of the application, in whatever it does.
        let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                   where datname = current_database() and pid <> pg_backend_pid()";
        assert!(app.count(cut).await > 0);
        let deadline = Instant::now() + Duration::from_secs(30);
        while app.get(&admin, &path(&operation)).await.0 != 200 {
            assert!(Instant::now() < deadline, "the application does not come back");
        }
    }
    let ended = until_status(&app, &operation, "succeeded").await;
    assert_eq!((&ended["done"], &ended["skipped"]), (&json!(200), &json!(0)), "{ended}");
    assert_eq!(retried(&app).await, (200, 0));
}
