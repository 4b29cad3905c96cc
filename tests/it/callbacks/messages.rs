//! Who is told of what, how often, and what a receiver's answers lead to.

use super::receiver::Receiver;
use super::{
    app, callback, deliveries, dispatch, patch, register, register_url, run_until_idle, run_until_nothing_is_due,
    wait_until,
};
use crate::support::app::{TestApp, job_of};
use crate::support::submit::submit;
use chartgate::callbacks::dispatch as dispatcher;
use chartgate::ingest::fhir::sample::{self, Size};
use chartgate::uploads::expiry;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const HOUR: Duration = Duration::from_hours(1);
const SENDING: &str = "select count(*) from callback_messages where status = 'sending'";

/// A job that fails at once: its body is no Bundle.
async fn failing_job(app: &TestApp) -> String {
    submit(app, app.organization.id, "fhir-bundle", None).await.job.to_string()
}

async fn good_job(app: &TestApp, seed: u64) -> String {
    let (status, accepted) = app.submit(sample::bundle(seed, 1, Size::Small)).await;
    assert_eq!(status, 202, "{accepted}");
    job_of(&accepted)
}

async fn resend(app: &TestApp, job: &str, body: &Value) -> (u16, Value) {
    app.post(&app.organization.admin, &format!("/v1/admin/jobs/{job}/callbacks/resend"), body).await
}

#[tokio::test]
async fn every_way_in_which_a_job_ends_is_told_to_whom_wants_it() {
    let app = app().await;
    let (all, failures, others) = (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    let (_, secret) = register_url(&app, &all.url).await;
    register(&app, json!({"url": failures.url, "events": ["job.failed"], "workflows": ["fhir-bundle"]})).await;
    register(&app, json!({"url": others.url, "workflows": ["athena-event"]})).await;
    let cancelled = failing_job(&app).await;
    app.post(&app.organization.sender, &format!("/v1/ingestion/jobs/{cancelled}/cancel"), &json!({})).await;
    let (_, upload) = app.post(&app.organization.sender, "/v1/ingestion/upload-url", &json!({})).await;
    let expired = upload["jobId"].as_str().unwrap().to_owned();
    let workers = app.workers();
    let succeeded = good_job(&app, 1).await;
    let failed = failing_job(&app).await;
    app.wait_for(&succeeded, "succeeded").await;
    app.wait_for(&failed, "failed").await;
    app.advance(Duration::from_hours(26)).await;
    assert_eq!(expiry::expire(&app.app.db).await.unwrap(), 1);
    run_until_idle(&app).await;
    workers.stop().await;

    let told: BTreeMap<String, Value> = all.received().iter().map(|one| (one.job(), one.json())).collect();
    let types: BTreeMap<&str, &str> =
        told.iter().map(|(job, message)| (job.as_str(), message["type"].as_str().unwrap())).collect();
    assert_eq!(
        types,
        BTreeMap::from([
            (cancelled.as_str(), "job.cancelled"),
            (expired.as_str(), "job.expired"),
            (succeeded.as_str(), "job.succeeded"),
            (failed.as_str(), "job.failed"),
        ])
    );
    assert_eq!(all.received().len(), 4);
    let only: Vec<_> = failures.received().iter().map(super::receiver::Received::job).collect();
    assert_eq!((only, others.received().len()), (vec![failed.clone()], 0));

    // The message as the docs show it, and its signature by the test's own reading.
    let one = all.received().into_iter().find(|one| one.job() == failed).unwrap();
    let view = app.job(&failed).await;
    assert_eq!(
        one.json(),
        json!({
            "type": "job.failed", "timestamp": view["finishedAt"],
            "data": {
                "jobId": failed, "organizationId": app.organization.id.to_string(), "status": "failed", "round": 1,
                "workflow": "fhir-bundle", "source": "webhook", "finishedAt": view["finishedAt"],
                "error": {"code": view["error"]["code"], "class": "sender"},
                "url": format!("/v1/ingestion/jobs/{failed}"),
            },
        })
    );
    assert_eq!(told[&succeeded]["data"]["error"], json!(null));
    assert!(
        all.received()
            .iter()
            .all(|one| one.signed_by(&secret) == 1 && one.header("content-type") == "application/json")
    );
    let ids: BTreeSet<String> = all.received().iter().map(super::receiver::Received::id).collect();
    assert!(ids.len() == 4 && ids.iter().all(|id| id.starts_with("msg_")));
}

#[tokio::test]
async fn deliveries_are_jobs_that_tell_nobody_and_that_lists_leave_out() {
    let app = app().await;
    let receiver = Receiver::start().await;
    register_url(&app, &receiver.url).await;
    let workers = app.workers();
    let job = good_job(&app, 1).await;
    app.wait_for(&job, "succeeded").await;
    run_until_idle(&app).await;
    assert_eq!(dispatch(&app).await, 0, "the end of a delivery is no message");
    workers.stop().await;
    let ids = |list: &Value| -> Vec<String> {
        list["jobs"].as_array().unwrap().iter().map(|job| job["jobId"].as_str().unwrap().to_owned()).collect()
    };
    for path in ["/v1/ingestion/jobs", "/v1/admin/jobs"] {
        let (_, list) = app.get(&app.organization.admin, path).await;
        assert_eq!(ids(&list), std::slice::from_ref(&job), "{path}");
    }
    let (_, list) = app.get(&app.organization.admin, "/v1/admin/jobs?workflow=callback").await;
    let delivery = ids(&list).remove(0);
    let view = app.job(&delivery).await;
    assert_eq!((&view["status"], &view["source"]), (&json!("succeeded"), &json!("callback")));
    let facts = &view["steps"][0]["output"];
    assert_eq!((&facts["response_status"], &facts["message_id"]), (&json!(204), &json!(receiver.received()[0].id())));
    // Accepted, dispatched and told: each with its record.
    let records = app.count("select count(*) from audit_records where event = 'callback.dispatched'").await;
    assert_eq!(records, 1);
    let (_, page) = app.get(&app.platform, "/v1/admin/jobs").await;
    assert_eq!(ids(&page), [job]);
}

#[tokio::test]
async fn a_receiver_that_is_down_for_a_day_gets_every_message_once_and_holds_up_nobody() {
    const JOBS: usize = 40;
    let app = app().await;
    let (down, up) = (Receiver::start().await, Receiver::start().await);
    down.answer_status(503);
    let (broken, secret) = register_url(&app, &down.url).await;
    let (working, _) = register_url(&app, &up.url).await;
    let workers = app.workers();
    let mut jobs = BTreeSet::new();
    for _ in 0..JOBS {
        jobs.insert(failing_job(&app).await);
    }
    wait_until(&app, "select count(*) from callback_messages", i64::try_from(2 * JOBS).unwrap()).await;
    run_until_idle(&app).await;
    // What found no place beside those of the receiver that is down comes again after five seconds, which pass only here.
    for _ in 0..10 {
        app.advance(Duration::from_secs(6)).await;
        run_until_idle(&app).await;
    }
    assert_eq!(
        up.taken().len(),
        JOBS,
        "the receiver that works has all of them within a minute while the other is down"
    );
    for hour in 0..24 {
        app.advance(HOUR).await;
        run_until_idle(&app).await;
        let sending = app.count(SENDING).await;
        assert!(sending <= dispatcher::WINDOW, "{sending} deliveries after {hour} h: the rest waits in its table");
    }
    let attempts = down.received().len();
    assert!(attempts > 24, "{attempts}");
    assert!(callback(&app, &broken).await["failingSince"].is_string());

    down.answer_status(200);
    for _ in 0..3 {
        app.advance(HOUR).await;
        run_until_idle(&app).await;
    }
    workers.stop().await;
    let taken = down.taken();
    assert_eq!(taken.iter().map(super::receiver::Received::job).collect::<BTreeSet<_>>(), jobs);
    assert_eq!(taken.len(), JOBS, "each once");
    assert!(taken.iter().all(|one| one.signed_by(&secret) == 1));
    // All attempts of a message have its id, and the log has all attempts.
    for one in &taken {
        let of_job: BTreeSet<String> = down
            .received()
            .iter()
            .filter(|other| other.job() == one.job())
            .map(super::receiver::Received::id)
            .collect();
        assert_eq!(of_job.len(), 1);
    }
    let log = deliveries(&app, &broken).await;
    assert_eq!(log.len(), down.received().len());
    assert_eq!(log.iter().filter(|line| line["outcome"] == "delivered").count(), JOBS);
    assert_eq!(
        log.iter().filter(|line| line["responseStatus"] == 503 && line["errorCode"] == "callback_rejected").count(),
        attempts
    );
    assert_eq!(app.count("select count(*) from callback_messages where status <> 'delivered'").await, 0);
    assert_eq!(callback(&app, &broken).await["failingSince"], json!(null));
    assert_eq!(deliveries(&app, &working).await.len(), JOBS);
    println!("{JOBS} messages, {attempts} attempts in a day without a receiver, then each delivered once");
}

#[tokio::test]
async fn a_receiver_that_says_gone_is_not_called_again() {
    let app = app().await;
    let receiver = Receiver::start().await;
    receiver.answer_status(410);
    let (id, _) = register_url(&app, &receiver.url).await;
    let workers = app.workers();
    let first = failing_job(&app).await;
    app.wait_for(&first, "failed").await;
    run_until_idle(&app).await;
    let view = callback(&app, &id).await;
    assert_eq!((&view["status"], &view["disabledReason"]), (&json!("disabled"), &json!("gone")));
    let disabled =
        "select count(*) from audit_records where event = 'callback.disabled' and detail->>'reason' = 'gone'";
    assert_eq!(app.count(disabled).await, 1);
    let second = failing_job(&app).await;
    app.wait_for(&second, "failed").await;
    app.advance(HOUR).await;
    run_until_idle(&app).await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(app.count("select count(*) from callback_messages where status = 'failed'").await, 1);
    // Mended: what was missed is sent when somebody asks for it.
    receiver.answer_status(200);
    patch(&app, &id, &json!({"status": "active"})).await;
    for job in [&first, &second] {
        let (status, resent) = resend(&app, job, &json!({})).await;
        assert_eq!((status, &resent["messages"][0]["status"]), (202, &json!("waiting")), "{resent}");
    }
    run_until_idle(&app).await;
    workers.stop().await;
    let all = receiver.received();
    assert_eq!(all.len(), 3);
    assert_eq!(all[0].id(), all.iter().skip(1).find(|one| one.job() == first).unwrap().id(), "a resend keeps the id");
}

#[tokio::test]
async fn a_callback_that_fails_for_days_is_disabled_with_a_record() {
    let app = app().await;
    let receiver = Receiver::start().await;
    receiver.answer_status(500);
    let (id, _) = register_url(&app, &receiver.url).await;
    let workers = app.workers();
    let job = failing_job(&app).await;
    app.wait_for(&job, "failed").await;
    run_until_idle(&app).await;
    let mut days = 0;
    while callback(&app, &id).await["status"] == "active" {
        app.advance(Duration::from_hours(6)).await;
        // A message of its own each time: the first one's patience ends with the callback's.
        let job = failing_job(&app).await;
        app.wait_for(&job, "failed").await;
        run_until_idle(&app).await;
        days += 1;
        assert!(days < 4 * 12, "still active");
    }
    assert!(days >= 4 * 5, "disabled after {days} quarters of a day");
    let disabled = "select count(*) from audit_records where event = 'callback.disabled' and detail->>'reason' = 'failing' and actor = 'callbacks'";
    assert_eq!(app.count(disabled).await, 1);
    // What is still under way ends; what waits, waits.
    app.advance(Duration::from_hours(3)).await;
    run_until_idle(&app).await;
    let before = receiver.received().len();
    app.advance(Duration::from_hours(24)).await;
    run_until_idle(&app).await;
    assert_eq!((receiver.received().len(), app.count(SENDING).await), (before, 0));
    assert!(app.count("select count(*) from callback_messages where status = 'waiting'").await > 0);
    receiver.answer_status(200);
    patch(&app, &id, &json!({"status": "active"})).await;
    run_until_idle(&app).await;
    workers.stop().await;
    assert!(!receiver.taken().is_empty(), "what waited is sent");
}

#[tokio::test]
async fn what_is_under_way_ends_with_the_callback_and_what_waits_stays() {
    let app = app().await;
    let receiver = Receiver::start().await;
    receiver.answer_status(500);
    let (id, _) = register_url(&app, &receiver.url).await;
    let workers = app.workers();
    for _ in 0..2 {
        let job = failing_job(&app).await;
        app.wait_for(&job, "failed").await;
        run_until_idle(&app).await;
    }
    patch(&app, &id, &json!({"status": "disabled"})).await;
    let before = receiver.received().len();
    app.advance(Duration::from_hours(3)).await;
    run_until_idle(&app).await;
    let ended = "select count(*) from jobs where workflow = 'callback' and status = 'failed' and error_code = 'callback_disabled'";
    assert_eq!((receiver.received().len(), app.count(ended).await), (before, 1));
    let messages = "select count(*) from callback_messages where status = 'waiting'";
    assert_eq!((app.count(messages).await, app.count(SENDING).await), (1, 0));
    receiver.answer_status(200);
    patch(&app, &id, &json!({"status": "active"})).await;
    run_until_idle(&app).await;
    workers.stop().await;
    assert_eq!(receiver.taken().len(), 1);
}

#[tokio::test]
async fn retry_after_is_honored() {
    let app = app().await;
    let receiver = Receiver::start().await;
    receiver.answer(|_| (429, vec![("retry-after", "7200".to_owned())]));
    register_url(&app, &receiver.url).await;
    let workers = app.workers();
    let job = failing_job(&app).await;
    app.wait_for(&job, "failed").await;
    run_until_idle(&app).await;
    let wait =
        "select (extract(epoch from run_at - chartgate_now()) / 60)::bigint from queue where workflow = 'callback'";
    let minutes = app.count(wait).await;
    assert!((115..=120).contains(&minutes), "{minutes}");
    app.advance(HOUR).await;
    run_until_idle(&app).await;
    assert_eq!(receiver.received().len(), 1);
    receiver.answer_status(200);
    app.advance(HOUR).await;
    run_until_idle(&app).await;
    workers.stop().await;
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test]
async fn both_secrets_sign_until_the_overlap_ends() {
    let app = app().await;
    let receiver = Receiver::start().await;
    let (id, old) = register_url(&app, &receiver.url).await;
    let rotate = format!("/v1/admin/callbacks/{id}/rotate");
    let new = app.post(&app.organization.admin, &rotate, &json!({})).await.1["secret"].as_str().unwrap().to_owned();
    let workers = app.workers();
    let signed = async |count: usize| {
        let job = failing_job(&app).await;
        app.wait_for(&job, "failed").await;
        run_until_idle(&app).await;
        let one = receiver.wait_for(count).await.pop().unwrap();
        (one.signed_by(&old), one.signed_by(&new))
    };
    assert_eq!(signed(1).await, (1, 1));
    app.advance(Duration::from_hours(25)).await;
    assert_eq!(signed(2).await, (0, 1));
    // Without an overlap the old one is out at once.
    let last = app.post(&app.organization.admin, &rotate, &json!({"overlapHours": 0})).await.1;
    assert_eq!(last["callback"]["previousSecretUntil"], json!(null));
    assert_eq!(signed(3).await, (0, 0));
    assert_eq!(receiver.received()[2].signed_by(last["secret"].as_str().unwrap()), 1);
    workers.stop().await;
}

#[tokio::test]
async fn each_round_is_a_message_of_its_own_and_a_round_that_is_over_keeps_its_facts() {
    let app = app().await;
    let receiver = Receiver::start().await;
    register_url(&app, &receiver.url).await;
    let job = good_job(&app, 1).await;
    app.post(&app.organization.sender, &format!("/v1/ingestion/jobs/{job}/cancel"), &json!({})).await;
    let workers = app.workers();
    let retry = json!({"from": "start", "reason": "again"});
    assert_eq!(app.post(&app.organization.admin, &format!("/v1/admin/jobs/{job}/retry"), &retry).await.0, 202);
    app.wait_for(&job, "succeeded").await;
    run_until_idle(&app).await;
    workers.stop().await;
    let mut told: Vec<(i64, String, String)> = receiver
        .received()
        .iter()
        .map(|one| {
            (one.json()["data"]["round"].as_i64().unwrap(), one.json()["type"].as_str().unwrap().to_owned(), one.id())
        })
        .collect();
    told.sort();
    assert_eq!((told[0].1.as_str(), told[1].1.as_str(), told.len()), ("job.cancelled", "job.succeeded", 2));
    assert_ne!(told[0].2, told[1].2);
}

#[tokio::test]
async fn what_is_removed_or_given_up_is_not_sent_and_a_resend_finds_its_limits() {
    let app = app().await;
    let receiver = Receiver::start().await;
    receiver.answer_status(500);
    let (id, _) = register_url(&app, &receiver.url).await;
    let workers = app.workers();
    let job = failing_job(&app).await;
    app.wait_for(&job, "failed").await;
    run_until_idle(&app).await;
    let (_, list) = app.get(&app.organization.admin, "/v1/admin/jobs?source=callback").await;
    let delivery = list["jobs"][0]["jobId"].as_str().unwrap().to_owned();
    // Under way: a resend leaves it where it is.
    assert_eq!(resend(&app, &job, &json!({})).await.1["messages"][0]["status"], "sending");
    let (status, _) =
        app.post(&app.organization.admin, &format!("/v1/ingestion/jobs/{delivery}/cancel"), &json!({})).await;
    assert_eq!((status, app.count("select count(*) from callback_messages where status = 'failed'").await), (200, 1));
    // An administrator's retry of the delivery itself.
    receiver.answer_status(200);
    let retry = json!({"reason": "mended"});
    assert_eq!(app.post(&app.organization.admin, &format!("/v1/admin/jobs/{delivery}/retry"), &retry).await.0, 202);
    app.wait_for(&delivery, "succeeded").await;
    assert_eq!(app.count("select count(*) from callback_messages where status = 'delivered'").await, 1);
    workers.stop().await;
    let waiting = failing_job(&app).await;
    assert_eq!(resend(&app, &waiting, &json!({})).await.1["code"], "job_not_finished");
    assert_eq!(
        resend(&app, &job, &json!({"callbackId": "cb_01h455vb4pex5vsknk084sn02q"})).await.1["code"],
        "callback_not_found"
    );
    assert_eq!(resend(&app, "job_01h455vb4pex5vsknk084sn02q", &json!({})).await.1["code"], "job_not_found");
    // A callback that did not want such ends can be told of one by name.
    patch(&app, &id, &json!({"events": ["job.expired"]})).await;
    let (_, nobody) = resend(&app, &job, &json!({})).await;
    let (_, named) = resend(&app, &job, &json!({"callbackId": id})).await;
    assert_eq!((nobody["messages"].as_array().unwrap().len(), named["messages"].as_array().unwrap().len()), (0, 1));
    let path = format!("/v1/admin/callbacks/{id}");
    let removed = crate::http::call(&app, reqwest::Method::DELETE, &path, &app.organization.admin, &[], "").await;
    assert_eq!((removed.status, dispatch(&app).await), (204, 0));
    assert_eq!(app.count("select count(*) from callback_messages where status = 'waiting'").await, 0);
}

#[tokio::test]
async fn several_dispatchers_make_one_job_a_message() {
    let app = app().await;
    let receiver = Receiver::start().await;
    register_url(&app, &receiver.url).await;
    let workers = app.workers();
    for _ in 0..10 {
        let job = failing_job(&app).await;
        app.wait_for(&job, "failed").await;
    }
    workers.stop().await;
    let made = futures::future::join_all((0..8).map(|_| dispatcher::dispatch(&app.app.db, &app.app.catalog))).await;
    assert_eq!(made.into_iter().map(Result::unwrap).sum::<usize>(), 10);
    assert_eq!(app.count("select count(*) from jobs where workflow = 'callback'").await, 10);
    let workers = app.workers();
    run_until_nothing_is_due(&app).await;
    workers.stop().await;
    assert_eq!(receiver.received().len(), 10);
}

#[tokio::test]
async fn messages_and_the_log_are_forgotten_after_their_time() {
    let app = app().await;
    let receiver = Receiver::start().await;
    let (id, _) = register_url(&app, &receiver.url).await;
    let workers = app.workers();
    let job = failing_job(&app).await;
    app.wait_for(&job, "failed").await;
    run_until_idle(&app).await;
    workers.stop().await;
    let keep = Duration::from_hours(24 * 30);
    assert_eq!(dispatcher::forget(&app.app.db, keep).await.unwrap(), 0);
    app.advance(keep + HOUR).await;
    assert_eq!(dispatcher::forget(&app.app.db, keep).await.unwrap(), 2);
    assert_eq!((deliveries(&app, &id).await.len(), app.count("select count(*) from callback_messages").await), (0, 0));
}
