//! A job is cut into chunks: each is worked on once, by itself, and the job goes on behind the last.

use super::chunked::{Act, app};
use crate::support::app::{TestApp, step_of};
use crate::support::submit::submit;
use chartgate::engine::EngineOptions;
use chartgate::engine::wake::{ACCEPTED, CHANNEL};
use chartgate::ids::JobId;
use rand::SeedableRng as _;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn start(app: &TestApp) -> String {
    submit(app, app.organization.id, "chunked", None).await.job.to_string()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 30 s: {what}");
}

async fn effects(app: &TestApp, step: &str) -> Vec<(i32, i64)> {
    sqlx::query_as(
        "select chunk, count(*) from test_effects where step = $1 and chunk > 0 group by chunk order by chunk",
    )
    .bind(step)
    .fetch_all(&mut app.owner().await)
    .await
    .unwrap()
}

fn once(chunks: impl IntoIterator<Item = i32>) -> Vec<(i32, i64)> {
    chunks.into_iter().map(|chunk| (chunk, 1)).collect()
}

fn statuses(view: &Value) -> Vec<&str> {
    view["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect()
}

fn quick() -> EngineOptions {
    EngineOptions { poll: Duration::from_millis(20), ..EngineOptions::default() }
}

#[tokio::test]
async fn each_chunk_is_worked_on_once_and_the_outputs_are_added_up() {
    let (app, chunked) = app(23).await;
    let workers = app.workers_with(quick());
    let job = start(&app).await;
    let view = app.wait_for(&job, "succeeded").await;
    for step in ["cut", "weigh", "pack"] {
        assert_eq!(effects(&app, step).await, once(1..=23), "{step}");
        let output = &step_of(&view, step)["output"];
        assert_eq!((&output["effects"], &output["kind"]["even"]), (&json!(23), &json!(11)), "{step}");
    }
    assert_eq!(step_of(&view, "cut")["output"]["lines"], 7);
    assert_eq!(effects(&app, "kept").await, []);
    assert_eq!(app.count("select count(*) from test_effects where chunk = 0").await, 2);
    assert_eq!(view["progress"], json!({"done": 23, "total": 23, "unit": "chunks"}));
    // Two steps in a row are one region: it is opened once, and joined step by step.
    let runs = |step: &str| chunked.runs_of(step).len();
    assert_eq!(["open cut", "open weigh", "open pack", "join weigh", "join pack"].map(runs), [1, 1, 0, 1, 1]);
    assert_eq!(app.count("select count(*) from queue").await, 0);
    let records = "select count(*) from audit_records where event = 'chunk.succeeded'";
    assert_eq!(app.count(records).await, 69);
    workers.stop().await;
}

#[tokio::test]
async fn a_job_shows_how_far_its_chunks_are() {
    let (app, chunked) = app(5).await;
    chunked.script("weigh", 5, &[Act::Slow(Duration::from_secs(3))]);
    chunked.script("weigh", 4, &[Act::Slow(Duration::from_secs(2))]);
    let workers = app.workers_with(quick());
    let job = start(&app).await;
    let view =
        app.wait_until(&job, "half done", |view| view["progress"]["done"] == 3 && view["currentStep"] == "weigh").await;
    assert_eq!(statuses(&view), ["succeeded", "succeeded", "running", "running", "pending"]);
    assert_eq!((&view["status"], &view["progress"]["total"]), (&json!("running"), &json!(5)));
    assert!(view["progress"]["perSecond"].as_f64().unwrap() > 0.0, "{view:#}");
    assert!(view["progress"]["expectedAt"].is_string());
    // Nothing ended meanwhile: whoever polls is told that nothing changed.
    tokio::time::sleep(Duration::from_millis(30)).await;
    let (_, again) = app.get(&app.platform, &format!("/v1/ingestion/jobs/{job}")).await;
    assert_eq!(again, view);
    let (_, running) = app.get(&app.platform, "/v1/admin/jobs?status=running").await;
    assert_eq!(running["jobs"].as_array().unwrap().len(), 1, "{running:#}");
    app.wait_for(&job, "succeeded").await;
    workers.stop().await;
}

#[tokio::test]
async fn a_chunk_that_fails_does_not_hold_the_others_and_is_all_that_a_retry_repeats() {
    let (app, chunked) = app(6).await;
    chunked.script("weigh", 2, &[Act::Transient, Act::Transient]);
    chunked.script("weigh", 4, &[Act::Sender]);
    let workers = app.workers_with(quick());
    let job = start(&app).await;
    let view = app.wait_for(&job, "failed").await;
    assert_eq!(statuses(&view), ["succeeded", "succeeded", "failed", "skipped", "succeeded"]);
    assert_eq!((&view["error"]["code"], &view["error"]["class"]), (&json!("test_bad_data"), &json!("sender")));
    // The others went through both steps; the one that was tried again had its effect once.
    assert_eq!(effects(&app, "pack").await, once([1, 2, 3, 5, 6]));
    assert_eq!(chunked.runs_of("weigh"), [1, 2, 2, 2, 3, 4, 5, 6]);
    chunked.runs.lock().unwrap().clear();
    let retry = json!({"reason": "the data are mended"});
    let (status, _) = app.post(&app.platform, &format!("/v1/admin/jobs/{job}/retry"), &retry).await;
    assert_eq!(status, 202);
    let view = app.wait_for(&job, "succeeded").await;
    assert_eq!((chunked.runs_of("cut"), chunked.runs_of("weigh"), chunked.runs_of("pack")), (vec![], vec![4], vec![4]));
    assert_eq!(effects(&app, "pack").await, once(1..=6));
    assert_eq!(step_of(&view, "pack")["output"]["effects"], 6);
    workers.stop().await;
}

#[tokio::test]
async fn a_retry_from_a_step_inside_a_region_repeats_that_step_only() {
    let (app, chunked) = app(3).await;
    let workers = app.workers_with(quick());
    let job = start(&app).await;
    app.wait_for(&job, "succeeded").await;
    chunked.runs.lock().unwrap().clear();
    let retry = json!({"from": "pack", "reason": "again"});
    let (status, answer) = app.post(&app.platform, &format!("/v1/admin/jobs/{job}/retry"), &retry).await;
    assert_eq!(status, 202, "{answer}");
    app.wait_for(&job, "succeeded").await;
    assert_eq!((chunked.runs_of("weigh"), chunked.runs_of("pack")), (vec![], vec![1, 2, 3]));
    let (status, _) = app
        .post(&app.platform, &format!("/v1/admin/jobs/{job}/retry"), &json!({"from": "failed_lines", "reason": "none"}))
        .await;
    assert_eq!(status, 202);
    app.wait_for(&job, "succeeded").await;
    assert_eq!(chunked.runs_of("cut"), Vec::<i32>::new(), "no line was left out");
    workers.stop().await;
}

#[tokio::test]
async fn chunks_with_lines_that_were_left_out_run_again_from_the_first_step() {
    let (app, chunked) = app(4).await;
    let workers = app.workers_with(quick());
    let job = start(&app).await;
    app.wait_for(&job, "succeeded").await;
    sqlx::query("update chunks set rejected = '{12}' where chunk = 3").execute(&mut app.owner().await).await.unwrap();
    chunked.runs.lock().unwrap().clear();
    let retry = json!({"from": "failed_lines", "reason": "the check is mended"});
    app.post(&app.platform, &format!("/v1/admin/jobs/{job}/retry"), &retry).await;
    app.wait_for(&job, "succeeded").await;
    assert_eq!(["cut", "weigh", "pack"].map(|step| chunked.runs_of(step)), [vec![3], vec![3], vec![3]]);
    workers.stop().await;
}

#[tokio::test]
async fn a_verdict_over_all_chunks_fails_the_step_and_a_retry_makes_it_anew() {
    let (app, chunked) = app(3).await;
    *chunked.verdict.lock().unwrap() = Some("cut");
    let workers = app.workers_with(quick());
    let job = start(&app).await;
    let view = app.wait_for(&job, "failed").await;
    assert_eq!(statuses(&view), ["failed", "succeeded", "skipped", "skipped", "succeeded"]);
    assert_eq!(effects(&app, "weigh").await, []);
    *chunked.verdict.lock().unwrap() = None;
    app.post(&app.platform, &format!("/v1/admin/jobs/{job}/retry"), &json!({"reason": "the rules are mended"})).await;
    app.wait_for(&job, "succeeded").await;
    assert_eq!(chunked.runs_of("cut"), [1, 1, 2, 2, 3, 3], "the chunks were looked at again");
    assert_eq!(effects(&app, "weigh").await, once(1..=3));
    workers.stop().await;
}

#[tokio::test]
async fn a_job_without_chunks_goes_on_at_once() {
    let (app, chunked) = app(0).await;
    let workers = app.workers_with(quick());
    let job = start(&app).await;
    let view = app.wait_for(&job, "succeeded").await;
    assert_eq!(step_of(&view, "cut")["output"], json!({"lines": 7}));
    assert_eq!(chunked.runs_of("join pack"), [0]);
    workers.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_leaves_no_chunk_behind_and_goes_on_where_it_stood() {
    let (app, chunked) = app(12).await;
    *chunked.always.lock().unwrap() = Some(Act::Slow(Duration::from_millis(60)));
    let workers = app.workers_with(quick());
    let job = start(&app).await;
    app.wait_until(&job, "some done", |view| view["progress"]["done"].as_u64().unwrap() >= 4).await;
    let (status, answer) = app.post(&app.platform, &format!("/v1/ingestion/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(app.count("select count(*) from queue").await, 0);
    let done = effects(&app, "cut").await;
    until("nothing runs", || chunked.now.load(Ordering::SeqCst) == 0 && workers.engine.held().is_empty()).await;
    assert_eq!(effects(&app, "cut").await, done, "nothing is committed after the cancel");
    assert!(done.len() < 12);
    app.post(&app.platform, &format!("/v1/admin/jobs/{job}/retry"), &json!({"reason": "go on"})).await;
    app.wait_for(&job, "succeeded").await;
    assert_eq!(effects(&app, "cut").await, once(1..=12), "what was committed before was not repeated");
    workers.stop().await;
}

#[tokio::test]
async fn chunks_have_slots_of_their_own_and_take_none_from_jobs() {
    let (app, chunked) = app(9).await;
    *chunked.always.lock().unwrap() = Some(Act::Slow(Duration::from_millis(150)));
    let workers = app.workers_with(EngineOptions { chunks: 3, concurrency: 1, ..quick() });
    let job = start(&app).await;
    app.wait_until(&job, "fanned out", |view| view["progress"]["total"] == 9).await;
    chunked.chunks.store(0, Ordering::SeqCst);
    let other = start(&app).await;
    app.wait_for(&other, "succeeded").await;
    let (_, view) = app.get(&app.platform, &format!("/v1/ingestion/jobs/{job}")).await;
    assert_eq!(view["status"], "running", "a job of one slot went by a file with chunks in three");
    app.wait_for(&job, "succeeded").await;
    assert_eq!(chunked.most.load(Ordering::SeqCst), 3);
    workers.stop().await;
}

#[tokio::test]
async fn fewer_chunks_run_at_once_while_jobs_of_other_workflows_are_about() {
    let (app, chunked) = app(60).await;
    *chunked.always.lock().unwrap() = Some(Act::Slow(Duration::from_millis(100)));
    let workers = app.workers_with(EngineOptions { chunks: 3, chunks_beside: 1, ..quick() });
    let most_until = async |progress: usize, short: bool| {
        chunked.most.store(0, Ordering::SeqCst);
        for _ in 0..1500 {
            if short {
                submit(&app, app.organization.id, "short", None).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            if chunked.runs_of("cut").len() >= progress {
                return chunked.most.load(Ordering::SeqCst);
            }
        }
        panic!("not within 30 s");
    };
    submit(&app, app.organization.id, "short", None).await;
    start(&app).await;
    assert_eq!(most_until(8, true).await, 1, "jobs come");
    assert_eq!(most_until(60, false).await, 3, "none came for seconds");
    workers.stop().await;
}

#[tokio::test]
async fn chunks_make_room_for_jobs_that_another_process_accepted() {
    let (app, _) = app(0).await;
    let workers = app.workers_with(quick());
    assert!(app.app.db.foreground().is_alone());
    let mut owner = app.owner().await;
    for _ in 0..1500 {
        // As another process does, again in case it is not listened to yet.
        sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(ACCEPTED).execute(&mut owner).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        if !app.app.db.foreground().is_alone() {
            workers.stop().await;
            return;
        }
    }
    panic!("not within 30 s");
}

#[tokio::test]
async fn a_suspect_waits_for_a_long_step_and_holds_nobody_else_up() {
    let (app, chunked) = app(0).await;
    chunked.script("kept", 0, &[Act::Slow(Duration::from_secs(9)), Act::Slow(Duration::from_millis(1))]);
    let workers = app.workers_with(quick());
    let long = start(&app).await;
    app.wait_until(&long, "in its long step", |view| view["currentStep"] == "kept").await;
    let mut owner = app.owner().await;
    app.post(&app.platform, &format!("/v1/admin/organizations/{}/pause", app.organization.id), &json!({})).await;
    let suspect = start(&app).await;
    sqlx::query("update queue set state = 'suspect', deaths = 1 where state <> 'leased'")
        .execute(&mut owner)
        .await
        .unwrap();
    app.post(&app.platform, &format!("/v1/admin/organizations/{}/resume", app.organization.id), &json!({})).await;
    // Longer than the first waits for quiet: the others are claimed between them.
    for _ in 0..4 {
        let other = start(&app).await;
        app.wait_for(&other, "succeeded").await;
    }
    let (_, view) = app.get(&app.platform, &format!("/v1/ingestion/jobs/{long}")).await;
    assert_eq!(view["status"], "running");
    app.wait_for(&suspect, "succeeded").await;
    app.wait_for(&long, "succeeded").await;
    workers.stop().await;
}

#[tokio::test]
async fn a_lost_worker_costs_only_the_chunks_that_it_was_at() {
    let (app, chunked) = app(8).await;
    chunked.script("weigh", 3, &[Act::Slow(Duration::from_secs(3))]);
    let workers = app.workers_with(EngineOptions { lease: Duration::from_secs(2), ..quick() });
    let job = start(&app).await;
    app.wait_until(&job, "nearly done", |view| view["progress"]["done"] == 7 && view["currentStep"] == "weigh").await;
    // The lease of chunk 3 is taken by somebody else, as after its end; the stale commit is refused.
    let taken = sqlx::query(
        "update queue set state = 'ready', lease_epoch = null, lease_until = null, worker_id = null where chunk = 3",
    );
    assert_eq!(taken.execute(&mut app.owner().await).await.unwrap().rows_affected(), 1);
    app.wait_for(&job, "succeeded").await;
    let stale = || workers.engine.counters.stale_commits.load(Ordering::Relaxed);
    until("the first attempt is refused", || stale() == 1).await;
    for step in ["cut", "weigh", "pack"] {
        assert_eq!(effects(&app, step).await, once(1..=8), "{step}");
    }
    assert_eq!(chunked.runs_of("weigh"), [1, 2, 3, 3, 4, 5, 6, 7, 8]);
    workers.stop().await;
}

#[tokio::test]
async fn a_chunk_whose_workers_die_fails_alone() {
    let (app, _) = app(4).await;
    let job = start(&app).await;
    let mut owner = app.owner().await;
    // As if workers had fanned out and died eleven times with chunk 2, and as often as parks a job with chunk 1; another
    // lease of each runs out now.
    let workers = app.workers_with(EngineOptions { chunks: 0, ..quick() });
    app.wait_until(&job, "fanned out", |view| view["progress"]["total"] == 4).await;
    workers.stop().await;
    sqlx::query(
        "update queue
         set state = 'leased', deaths = case chunk when 2 then 11 else 3 end, lease_epoch = chunk,
             lease_until = chartgate_now(), claimed_at = chartgate_now()
         where chunk in (1, 2)",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    app.advance(Duration::from_mins(2)).await;
    let workers = app.workers_with(EngineOptions { lease: Duration::from_millis(400), ..quick() });
    let view = app.wait_for(&job, "failed").await;
    assert_eq!((&view["error"]["code"], &view["error"]["class"]), (&json!("worker_killed"), &json!("ours")));
    assert_eq!(effects(&app, "cut").await, once([1, 3, 4]));
    workers.stop().await;
}

#[tokio::test]
async fn of_suspects_jobs_come_first_and_then_chunks_by_their_deaths() {
    let (app, _) = app(4).await;
    let job = start(&app).await;
    let workers = app.workers_with(EngineOptions { chunks: 0, ..quick() });
    app.wait_until(&job, "fanned out", |view| view["progress"]["total"] == 4).await;
    workers.stop().await;
    let mut owner = app.owner().await;
    for (job, deaths) in [(start(&app).await, 1), (start(&app).await, 2)] {
        let suspect = "update queue set state = 'suspect', deaths = $2 where job_id = $1";
        sqlx::query(suspect).bind(job.parse::<JobId>().unwrap()).bind(deaths).execute(&mut owner).await.unwrap();
    }
    // The first has died eleven times, the others fewer.
    let suspects =
        "update queue set state = 'suspect', deaths = case chunk when 1 then 11 when 2 then 1 when 3 then 2 else 1 end
                    where chunk > 0";
    sqlx::query(suspects).execute(&mut owner).await.unwrap();
    let mut claimed = Vec::new();
    for slots in [0, 4, 4, 4, 4, 4, 4] {
        let claim = "select chunk, deaths from claim_suspects(8, $1, 60, gen_random_uuid())";
        let mut rows: Vec<(i32, i16)> = sqlx::query_as(claim).bind(slots).fetch_all(&mut owner).await.unwrap();
        rows.sort_unstable();
        claimed.push(rows);
    }
    // A job that died twice, alone; jobs that died once; chunks that died once; then one chunk at a time.
    let expected: Vec<Vec<(i32, i16)>> =
        vec![vec![(0, 2)], vec![(0, 1)], vec![(2, 1), (4, 1)], vec![(3, 2)], vec![(1, 11)], vec![], vec![]];
    assert_eq!(claimed, expected);
}

#[tokio::test]
async fn a_job_that_waits_for_chunks_that_all_ended_is_mended() {
    let (app, chunked) = app(3).await;
    let workers = app.workers_with(EngineOptions { chunks: 0, ..quick() });
    let job = start(&app).await;
    app.wait_until(&job, "fanned out", |view| view["progress"]["total"] == 3).await;
    workers.stop().await;
    // As if the join after the last chunk had been lost, which the transactions do not allow.
    let mut owner = app.owner().await;
    for statement in [
        "insert into chunk_steps (organization_id, job_id, step, chunk, round, status, attempts, finished_at)
         select organization_id, job_id, step, chunk, round, 'succeeded', 1, chartgate_now() from queue where chunk > 0",
        "delete from queue where chunk > 0",
    ] {
        assert_eq!(sqlx::query(statement).execute(&mut owner).await.unwrap().rows_affected(), 3);
    }
    assert_eq!(app.count("select count(*) from queue where state = 'waiting'").await, 1);
    let workers = app.workers_with(EngineOptions { lease: Duration::from_millis(400), ..quick() });
    app.wait_for(&job, "succeeded").await;
    assert_eq!((chunked.runs_of("cut"), chunked.runs_of("pack")), (vec![], vec![1, 2, 3]));
    workers.stop().await;
}

#[tokio::test]
async fn many_chunks_of_many_jobs_in_three_processes_with_failures_end_once_each() {
    let (app, chunked) = app(40).await;
    let seed: u64 = std::env::var("CHARTGATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    *chunked.seed.lock().unwrap() = Some(rand::rngs::StdRng::seed_from_u64(seed));
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(app.workers_with(EngineOptions { chunks: 4, concurrency: 4, ..quick() }));
    }
    let mut jobs = Vec::new();
    for _ in 0..6 {
        jobs.push(start(&app).await);
    }
    let cancelled = &jobs[5];
    app.wait_until(cancelled, "under way", |view| view["progress"]["done"].as_u64().unwrap() > 3).await;
    let (status, answer) = app.post(&app.platform, &format!("/v1/ingestion/jobs/{cancelled}/cancel"), &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    for job in &jobs[..5] {
        app.wait_for(job, "succeeded").await;
    }
    app.run_until_idle().await;
    let doubled = "select count(*) from (select from test_effects group by job_id, step, chunk having count(*) > 1) d";
    assert_eq!(app.count(doubled).await, 0, "seed {seed}");
    let whole = "select count(*) from (
       select from test_effects e join jobs j on j.id = e.job_id and j.status = 'succeeded'
       where e.chunk > 0 group by e.job_id having count(*) = 120) d";
    assert_eq!(app.count(whole).await, 5, "seed {seed}");
    for workers in workers {
        workers.stop().await;
    }
}
