//! Following a job by server-sent events, with clients that are cut off, come too late, or may not; and lanes that stand.

use super::{call, get};
use crate::engine::scripted::{Act, Scripted, workflow};
use crate::support::app::{Setup, TestApp};
use crate::support::submit::submit;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Longest wait for a fact.
const PATIENCE: Duration = Duration::from_mins(1);

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

#[derive(Debug, Clone, PartialEq)]
struct Told {
    id: String,
    name: String,
    data: Value,
}

/// A client that speaks HTTP/1.1 itself, so that it can hang up between any two bytes.
struct Follower {
    status: u16,
    reader: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Follower {
    async fn of(app: &TestApp, key: &str, job: &str, last: Option<&str>) -> Self {
        let address = app.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let head = format!(
            "GET /v1/ingestion/jobs/{job}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{last}accept: text/event-stream\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).await.unwrap();
        }
        Self { status, reader, body: Vec::new() }
    }

    /// Read until there are so many bytes of the body; false when it has ended before.
    async fn read(&mut self, bytes: usize) -> bool {
        let reading = async {
            while self.body.len() < bytes {
                let mut size = String::new();
                if self.reader.read_line(&mut size).await.unwrap() == 0 {
                    return false;
                }
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                let mut chunk = vec![0; size + 2];
                self.reader.read_exact(&mut chunk).await.unwrap();
                if size == 0 {
                    return false;
                }
                self.body.extend_from_slice(&chunk[..size]);
            }
            true
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("the stream goes on or ends")
    }

    /// The events that came whole; a half one is forgotten, as by a browser.
    fn told(&self) -> Vec<Told> {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
        let mut events = Vec::new();
        for block in whole.split("\n\n") {
            let field = |name: &str| {
                block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
            };
            // Comments keep the connection alive.
            let Some(data) = field("data") else { continue };
            events.push(Told {
                id: field("id").unwrap(),
                name: field("event").unwrap(),
                data: serde_json::from_str(&data).unwrap(),
            });
        }
        events
    }

    async fn until_end(mut self) -> Vec<Told> {
        while self.read(usize::MAX).await {}
        self.told()
    }
}

fn transitions(told: &[Told]) -> Vec<Value> {
    told.iter().filter(|one| one.name == "transition").map(|one| one.data.clone()).collect()
}

/// Entries as a set with counts: streams are in the order of commits, the timeline in that of time.
fn counted(entries: &[Value]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for entry in entries {
        *counts.entry(entry.to_string()).or_default() += 1;
    }
    counts
}

async fn timeline(app: &TestApp, job: &str) -> Vec<Value> {
    let (status, answer) = app.get(&app.organization.sender, &format!("/v1/ingestion/jobs/{job}/timeline")).await;
    assert_eq!(status, 200, "{answer}");
    answer["entries"].as_array().unwrap().clone()
}

/// Follow to the job's end and hang up every few bytes, coming back with the last id that came whole.
async fn follow_cut_off(app: &TestApp, job: &str, mut last: Option<String>, every: usize) -> (Vec<Told>, usize) {
    let (mut all, mut cuts) = (Vec::new(), 0);
    loop {
        let mut follower = Follower::of(app, &app.organization.sender, job, last.as_deref()).await;
        if follower.status == 204 {
            return (all, cuts);
        }
        assert_eq!(follower.status, 200);
        // Not fewer than the longest event, or it never comes whole.
        let is_cut = follower.read(every).await;
        follower.body.truncate(every);
        let told = follower.told();
        drop(follower);
        cuts += usize::from(is_cut);
        if let Some(newest) = told.last() {
            last = Some(newest.id.clone());
        }
        all.extend(told);
    }
}

#[tokio::test]
async fn who_follows_a_job_is_told_that_its_retry_was_taken_back() {
    let (app, scripted) = scripted_app().await;
    scripted.script("middle", &[Act::Sender]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "free", None).await.job.to_string();
    app.wait_for(&job, "failed").await;
    workers.stop().await;
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(chartgate::engine::operations::run::run(app.app.operations(), stop.clone()));
    let request = json!({ "ids": [job], "reason": "too early" });
    let (status, operation) = app.post(&app.organization.admin, "/v1/admin/jobs/retry", &request).await;
    assert_eq!(status, 202, "{operation}");
    app.wait_for(&job, "queued").await;
    let path = format!("/v1/admin/operations/{}/undo", operation["operationId"].as_str().unwrap());
    assert_eq!(app.post(&app.organization.admin, &path, &json!({ "reason": "not yet" })).await.0, 200);
    app.wait_for(&job, "failed").await;
    stop.cancel();
    let whole = Follower::of(&app, &app.organization.sender, &job, None).await.until_end().await;
    let acts: Vec<&Value> = whole.iter().map(|one| &one.data["event"]).filter(|event| event.is_string()).collect();
    assert!(acts.ends_with(&[&json!("job.retried"), &json!("job.retry_undone")]), "{whole:#?}");
    assert_eq!(counted(&transitions(&whole)), counted(&timeline(&app, &job).await));
}

#[tokio::test]
async fn who_is_cut_off_again_and_again_misses_nothing_and_is_told_nothing_twice() {
    let (app, scripted) = scripted_app().await;
    scripted.script("first", &[Act::Transient, Act::Transient, Act::Transient, Act::Succeed]);
    scripted.script("middle", &[Act::Transient, Act::Transient, Act::Transient, Act::Sender]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "free", None).await.job.to_string();
    let (first, cuts) = follow_cut_off(&app, &job, None, 700).await;
    assert!(cuts >= 5, "the connection was cut {cuts} times");
    assert_eq!(first.last().unwrap().data["status"], "failed", "{first:#?}");
    assert_eq!(first[0].data["event"], "job.accepted");
    // Later the same job goes into another round: from where it was left.
    let retry = json!({ "from": "failed_step", "reason": "mended" });
    let (status, answer) = app.post(&app.organization.admin, &format!("/v1/admin/jobs/{job}/retry"), &retry).await;
    assert_eq!(status, 202, "{answer}");
    app.wait_for(&job, "succeeded").await;
    let last = first.last().unwrap().id.clone();
    let (second, _) = follow_cut_off(&app, &job, Some(last), 800).await;
    assert_eq!(second[0].data["event"], "job.retried", "{second:#?}");
    assert_eq!(second.last().unwrap().data["status"], "succeeded");
    // All of it together is what the timeline has, and what somebody gets who comes only now.
    let cut: Vec<Value> = transitions(&first).into_iter().chain(transitions(&second)).collect();
    assert_eq!(counted(&cut), counted(&timeline(&app, &job).await));
    let whole = Follower::of(&app, &app.organization.sender, &job, None).await.until_end().await;
    assert_eq!(counted(&transitions(&whole)), counted(&cut));
    let ids: std::collections::BTreeSet<&str> = whole.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids.len(), whole.len(), "an id twice");
    // And from each of its events on, the rest.
    for (index, one) in whole.iter().enumerate() {
        let rest = Follower::of(&app, &app.organization.sender, &job, Some(&one.id)).await;
        if index + 1 == whole.len() {
            assert_eq!(rest.status, 204);
            continue;
        }
        assert_eq!(rest.until_end().await, whole[index + 1..], "behind event {index}");
    }
    workers.stop().await;
}

#[tokio::test]
async fn what_happens_is_told_as_it_happens_until_the_job_ends() {
    let (app, _) = scripted_app().await;
    let job = submit(&app, app.organization.id, "free", None).await.job.to_string();
    let mut follower = Follower::of(&app, &app.organization.reader, &job, None).await;
    assert_eq!(follower.status, 200);
    while follower.told().len() < 2 {
        let more = follower.body.len() + 1;
        assert!(follower.read(more).await, "the stream goes on while the job waits");
    }
    assert_eq!(follower.told()[1].data["status"], "queued");
    let workers = app.workers();
    let told = follower.until_end().await;
    workers.stop().await;
    let steps: Vec<&str> = told.iter().filter_map(|one| one.data["step"].as_str()).collect();
    assert_eq!(steps, ["first", "kept", "middle", "last"]);
    let last = told.last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["status"]), ("status", &json!("succeeded")));
    assert_eq!(told.iter().filter(|one| one.data["status"] == "succeeded").count(), 1);
}

#[tokio::test]
async fn a_cancelled_job_and_steps_that_were_skipped_are_told_too() {
    let (app, scripted) = scripted_app().await;
    let cancelled = submit(&app, app.organization.id, "free", None).await.job.to_string();
    let path = format!("/v1/ingestion/jobs/{cancelled}/cancel");
    assert_eq!(app.post(&app.organization.sender, &path, &json!({ "reason": "not needed" })).await.0, 200);
    let told = Follower::of(&app, &app.organization.sender, &cancelled, None).await.until_end().await;
    let events: Vec<&str> = told.iter().filter_map(|one| one.data["event"].as_str()).collect();
    assert_eq!(events, ["job.accepted", "job.cancelled"]);
    assert_eq!(told[1].data["reason"], "not needed");
    // The steps behind the failed one are skipped before the one that always runs: their numbers are not in order.
    scripted.script("first", &[Act::Sender]);
    let workers = app.workers();
    let failed = submit(&app, app.organization.id, "free", None).await.job.to_string();
    let (told, _) = follow_cut_off(&app, &failed, None, 700).await;
    workers.stop().await;
    assert_eq!(counted(&transitions(&told)), counted(&timeline(&app, &failed).await), "{told:#?}");
    assert!(told.iter().any(|one| one.data["event"] == "step.skipped"));
}

#[tokio::test]
async fn streams_are_for_who_may_see_the_job_and_are_bounded() {
    let (app, _) = scripted_app().await;
    let other = app.organization("Other Hospital").await;
    let job = submit(&app, app.organization.id, "free", None).await.job.to_string();
    let path = format!("/v1/ingestion/jobs/{job}/events");
    get(&app, &other.admin, &path).await.problem(404, "job_not_found");
    get(&app, &app.organization.admin, "/v1/ingestion/jobs/x/events").await.problem(404, "job_not_found");
    for bad in ["x", "1.2.3", "-1.0.0.0.0.00000000"] {
        let answer = call(&app, Method::GET, &path, &app.organization.admin, &[("last-event-id", bad)], "").await;
        answer.problem(400, "invalid_parameter");
    }
    let mut followers = Vec::new();
    for _ in 0..chartgate::limits::streams::STREAMS_OF_ONE_MAX {
        let follower = Follower::of(&app, &app.organization.sender, &job, None).await;
        assert_eq!(follower.status, 200);
        followers.push(follower);
    }
    let full = get(&app, &app.organization.sender, &path).await;
    full.problem(429, "rate_limited");
    assert!(full.header("retry-after").is_some());
    // The platform's own places are not taken by that; and a place comes back with the end of its stream.
    assert_eq!(Follower::of(&app, &app.platform, &job, None).await.status, 200);
    followers.pop();
    let deadline = std::time::Instant::now() + PATIENCE;
    while Follower::of(&app, &app.organization.sender, &job, None).await.status != 200 {
        assert!(std::time::Instant::now() < deadline, "a place comes back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_key_is_revoked() {
    let (app, _) = scripted_app().await;
    let job = submit(&app, app.organization.id, "free", None).await.job.to_string();
    let follower = Follower::of(&app, &app.organization.reader, &job, None).await;
    let id = app.organization.reader.split('_').nth(1).unwrap();
    let revoked = call(&app, Method::DELETE, &format!("/v1/admin/keys/{id}"), &app.organization.admin, &[], "").await;
    assert_eq!(revoked.status, 204);
    let started = std::time::Instant::now();
    let told = follower.until_end().await;
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(told.last().unwrap().data["status"], "queued");
}

#[tokio::test]
async fn lanes_that_stand_are_listed_with_the_job_that_holds_them_up() {
    let (app, scripted) = scripted_app().await;
    let other = app.organization("Other Hospital").await;
    scripted.script("first", &[Act::RetryAfter(Duration::from_mins(5))]);
    let workers = app.workers();
    let head = submit(&app, app.organization.id, "in-order", None).await.job.to_string();
    app.wait_for(&head, "retrying").await;
    workers.stop().await;
    let behind = submit(&app, app.organization.id, "in-order", None).await.job.to_string();
    submit(&app, app.organization.id, "in-order", None).await;
    for patient in ["a", "b", "c"] {
        for _ in 0..2 {
            submit(&app, other.id, "by-patient", Some(patient)).await;
        }
    }
    let own = get(&app, &app.organization.admin, "/v1/admin/lanes/blocked").await.json();
    let lanes = own["lanes"].as_array().unwrap();
    assert_eq!(lanes.len(), 1, "{own:#}");
    let lane = &lanes[0];
    assert_eq!(
        (&lane["waiting"], &lane["waitingMore"], &lane["firstJobId"]),
        (&json!(2), &json!(false), &json!(behind))
    );
    assert_eq!(
        (&lane["head"]["jobId"], &lane["head"]["state"], &lane["head"]["step"]),
        (&json!(head), &json!("delayed"), &json!("first"))
    );
    assert!(lane["head"]["nextAttemptAt"].is_string() && lane["why"].as_str().unwrap().contains("first failed 1 time"));
    // All, page by page; each once.
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(&app, &app.platform, &format!("/v1/admin/lanes/blocked?limit=1{cursor}")).await.json();
        seen.extend(page["lanes"].as_array().unwrap().iter().map(|lane| lane["lane"].as_str().unwrap().to_owned()));
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 4);
    assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{seen:?}");
    let theirs = get(&app, &other.admin, "/v1/admin/lanes/blocked").await.json();
    assert_eq!(theirs["lanes"].as_array().unwrap().len(), 3);
    assert!(!theirs.to_string().contains(&head));
    assert_eq!(theirs["lanes"][0]["why"], "Its first job waits for a free worker.");
    let pause = format!("/v1/admin/organizations/{}/pause", other.id);
    assert_eq!(app.post(&other.admin, &pause, &json!({})).await.0, 200);
    let paused = get(&app, &other.admin, "/v1/admin/lanes/blocked").await.json();
    assert_eq!(paused["lanes"][0]["why"], "The organization is paused.");
    for bad in ["limit=0", "limit=201", "cursor=x"] {
        get(&app, &app.platform, &format!("/v1/admin/lanes/blocked?{bad}")).await.problem(400, "invalid_parameter");
    }
}
