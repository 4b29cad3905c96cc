//! Workers in the console: processes, leases, and what is stuck.

use super::{Visitor, scripted_app};
use crate::engine::scripted::Act;
use crate::support::submit::submit;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_lease_is_shown_with_its_worker_to_who_may_see_the_job() {
    let (app, scripted) = scripted_app().await;
    let other = app.organization("Other Hospital").await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let (_, body) = visitor.get("/admin/workers").await;
    assert!(
        body.contains("No job runs now.") && body.contains("No worker process reported within a minute."),
        "{body}"
    );
    scripted.script("middle", &[Act::Slow(Duration::from_secs(4))]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    let deadline = Instant::now() + Duration::from_mins(1);
    while scripted.runs_of("middle") == 0 {
        assert!(Instant::now() < deadline, "the step begins");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let platform = Visitor::of(&app, &app.platform).await;
    let (_, all) = platform.get("/admin/workers").await;
    let (_, own) = visitor.get("/admin/workers").await;
    let (_, theirs) = Visitor::of(&app, &other.admin).await.get("/admin/workers").await;
    let worker = app.count("select count(*) from queue where state = 'leased' and worker_id is not null").await;
    assert_eq!(worker, 1, "the step still runs");
    assert!(all.contains(&job) && all.contains("middle") && all.contains("Worker processes of the last day"), "{all}");
    assert!(own.contains(&job) && !own.contains("Worker processes of the last day"));
    assert!(!theirs.contains(&job) && theirs.contains("No job runs now."));
    app.run_until_idle().await;
    workers.stop().await;
}

#[tokio::test]
async fn what_is_stuck_is_said_with_its_remedy() {
    let (app, _) = scripted_app().await;
    submit(&app, app.organization.id, "scripted", None).await;
    let mut owner = app.owner().await;
    for statement in [
        // A version of a workflow that this program does not know, under a lease that ran out.
        "update queue set workflow_version = 77, state = 'leased', lease_epoch = 1, worker_id = gen_random_uuid(), claimed_at = chartgate_now(),
           lease_until = chartgate_now() - interval '2 minutes'",
        "insert into queue_figures (organization_id, waiting, running, delayed, blocked, lanes_held, oldest_ready_at, at)
         select id, 5, 0, 0, 0, 0, chartgate_now() - interval '10 minutes', chartgate_now() from organizations where name = 'Test Hospital'",
    ] {
        sqlx::query(statement).execute(&mut owner).await.unwrap();
    }
    let platform = Visitor::of(&app, &app.platform).await;
    let (status, body) = platform.get("/admin/workers").await;
    assert_eq!(status, 200);
    for words in [
        "1 lease(s) ran out and were not taken back.",
        "The oldest ready job of Test Hospital waits for 10 min",
        "1 open job(s) on scripted version 77, which this program cannot run.",
        "chartgate serve --role sweeper",
        "ran out",
    ] {
        assert!(body.contains(words), "{words}: {body}");
    }
}
