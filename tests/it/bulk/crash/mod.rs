//! `kill -9` of the worker in every phase of a bulk file: planning, fan-out, chunks, join, storing, the outcome file.
//!
//! Each place has an organization of its own with the same file, whose worker dies there; another worker goes on. What the
//! organization has then, in each of its tables, in its audit log and in object storage, is what an organization has whose
//! worker lived.

mod deadly;

use super::engine::take_up_of;
use super::{gzip, observation_line, patient_line};
use crate::support::app::TestApp;
use crate::support::directory::TestDirectory;
use crate::support::faulty_s3::FaultyS3;
use crate::support::program::Program;
use axum::http::Method;
use chartgate::ids::{JobId, OrganizationId};
use deadly::Call::{Join, Open, Run};
use deadly::Moment::{Begun, Prepared, Written};
use deadly::{Place, Settings, quick, spawn};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Chunks of the file.
const CHUNKS: usize = 4;
/// Lines that are left out, one a chunk.
const BAD_LINES: [u64; CHUNKS] = [4, 9, 14, 19];

/// Where a worker dies.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// In a handler.
    In(Place),
    /// At its n-th request of that method for a key that contains this, which the server never gets, or whose answer is
    /// lost.
    At { method: &'static str, key: &'static str, nth: usize, arrives: bool },
}

const fn within(handler: &'static str, call: deadly::Call, chunk: i32, moment: deadly::Moment) -> Death {
    Death::In(Place { handler, call, chunk, moment })
}

const fn request(method: &'static str, key: &'static str, nth: usize, arrives: bool) -> Death {
    Death::At { method, key, nth, arrives }
}

/// Five lines a chunk: a patient, observations of this and of the next chunk's, a bad line, and one that is long enough to
/// end the chunk.
fn lines() -> String {
    let mut lines = Vec::new();
    for chunk in 0..CHUNKS {
        let (own, other) = (format!("p{chunk}"), format!("p{}", (chunk + 1) % CHUNKS));
        lines.push(patient_line(&own, &(chunk + 11).to_string()));
        lines.push(observation_line(&format!("a{chunk}"), &other, 60));
        lines.push(observation_line(&format!("b{chunk}"), &own, 61));
        lines.push("no json".to_owned());
        lines.push(observation_line(&format!("c{chunk}"), &other, 62) + &" ".repeat(4 << 20));
    }
    lines.join("\n")
}

/// All that an organization has of a file that has ended.
#[derive(Debug, PartialEq)]
struct Whole {
    job: Value,
    /// Rows by table.
    rows: BTreeMap<String, i64>,
    /// Audit records by event and step.
    records: BTreeMap<String, i64>,
    events: Vec<Value>,
    findings: Vec<Value>,
    /// Objects by their first part, with their contents' sizes.
    objects: BTreeMap<String, Vec<u64>>,
    outcomes: String,
}

/// What differs by time, by which chunk was first (the history of links: an event that waited has one more), or by how often
/// it was tried: counted apart, or not at all.
const UNCOUNTED: [&str; 9] = [
    "patient_links",
    "audit_records",
    "api_keys",
    "chunk_texts",
    "job_figures",
    "queue_figures",
    "step_attempts",
    "job_traces",
    "ingested_objects",
];

impl Whole {
    async fn of(app: &TestApp, organization: OrganizationId, job: &str) -> Self {
        let mut owner = app.owner().await;
        let tables: Vec<String> = sqlx::query_scalar(
            "select c.table_name::text from information_schema.columns c join information_schema.tables t using (table_schema, table_name)
             where c.table_schema = 'public' and c.column_name = 'organization_id' and t.table_type = 'BASE TABLE'
             order by 1",
        )
        .fetch_all(&mut owner)
        .await
        .unwrap();
        let mut rows = BTreeMap::new();
        for table in tables.into_iter().filter(|table| !UNCOUNTED.contains(&table.as_str())) {
            let sql = format!("select count(*) from {table} where organization_id = $1");
            let count = sqlx::query_scalar(AssertSqlSafe(sql)).bind(organization).fetch_one(&mut owner).await.unwrap();
            rows.insert(table, count);
        }
        assert!(rows.len() > 20 && rows["queue"] == 0, "{rows:?}");
        let records: Vec<(String, i64)> = sqlx::query_as(
            "select event || coalesce(' ' || step, ''), count(*) from audit_records
             where organization_id = $1 and event not in ('lease.lost', 'upload.removed', 'texts.removed', 'patient.linked') group by 1",
        )
        .bind(organization)
        .fetch_all(&mut owner)
        .await
        .unwrap();
        let events = sqlx::query_scalar(
            "select to_jsonb(x) from (
               select entry, resource_type, resource_key, byte_start, byte_end, link_status, is_current
               from clinical_events where organization_id = $1 order by entry, id) x",
        )
        .bind(organization)
        .fetch_all(&mut owner)
        .await
        .unwrap();
        let findings = sqlx::query_scalar(
            "select to_jsonb(x) from (
               select e.entry, f.ordinal, f.category, f.code, f.value_text, f.unit
               from findings f join clinical_events e on e.organization_id = f.organization_id and e.id = f.event_id
               where f.organization_id = $1 order by e.entry, f.ordinal, f.id) x",
        )
        .bind(organization)
        .fetch_all(&mut owner)
        .await
        .unwrap();
        let mut objects = BTreeMap::new();
        for kind in ["raw", "chunks", "outcomes"] {
            let found = app.objects.objects.list(&format!("{kind}/{organization}/"), None, 1000).await.unwrap();
            let mut sizes: Vec<u64> = found.into_iter().map(|entry| entry.size).collect();
            sizes.sort_unstable();
            objects.insert(kind.to_owned(), sizes);
        }
        let view = app.job(job).await;
        let (mut result, resources) = (view["result"].clone(), view["resourceCount"].clone());
        result["patients"] = Value::Null;
        result["outcomes"]["key"] = Value::Null;
        let steps: Vec<Value> = view["steps"].as_array().unwrap().iter().map(|step| step["status"].clone()).collect();
        Self {
            job: json!({"status": view["status"], "result": result, "resources": resources, "steps": steps, "round": view["round"]}),
            rows,
            records: records.into_iter().collect(),
            events,
            findings,
            objects,
            outcomes: outcomes(app, organization, job).await,
        }
    }
}

async fn outcomes(app: &TestApp, organization: OrganizationId, job: &str) -> String {
    let text = app.objects.objects.get(&format!("outcomes/{organization}/{job}.ndjson")).await.unwrap();
    String::from_utf8(text.to_vec()).unwrap()
}

/// Numbers of the lines of an outcome file.
fn numbers(outcomes: &str) -> Vec<u64> {
    let line = |text: &str| serde_json::from_str::<Value>(text).unwrap()["line"].as_u64().unwrap();
    outcomes.lines().map(line).collect()
}

/// Attempts of a job whose worker was lost.
async fn lost(app: &TestApp, job: &str) -> i64 {
    sqlx::query_scalar("select count(*) from step_attempts where job_id = $1 and outcome = 'lost'")
        .bind(job.parse::<JobId>().unwrap())
        .fetch_one(&mut app.owner().await)
        .await
        .unwrap()
}

/// Worker processes of a test.
struct Mortal {
    directory: TestDirectory,
    s3: FaultyS3,
}

impl Mortal {
    fn new(app: &TestApp) -> Self {
        Self { directory: TestDirectory::new(), s3: FaultyS3::start(&app.objects.endpoint()) }
    }

    /// A worker that will die there.
    fn spawn(&self, app: &TestApp, death: Option<Death>) -> Program {
        let place = match death {
            Some(Death::In(place)) => Some((place.handler.to_owned(), place.call, place.chunk, place.moment)),
            _ => None,
        };
        let victim = Arc::new(AtomicI32::new(0));
        if let Some(Death::At { method, key, nth, arrives }) = death {
            let (seen, victim) = (AtomicUsize::new(0), Arc::clone(&victim));
            self.s3.refuse(move |asked: &Method, path: &str| {
                let hit = asked.as_str() == method && path.contains(key);
                if !hit || seen.fetch_add(1, Ordering::SeqCst) + 1 != nth {
                    return None;
                }
                kill_process(Pid::from_raw(victim.load(Ordering::SeqCst)).unwrap(), Signal::KILL).unwrap();
                (!arrives).then_some((500, ""))
            });
        }
        let settings = Settings {
            socket_dir: app.owner_options.get_socket().unwrap().clone(),
            database: app.owner_options.get_database().unwrap().to_owned(),
            s3_endpoint: self.s3.endpoint(),
            place,
        };
        let program = spawn(self.directory.path(), &settings);
        victim.store(program.id().try_into().unwrap(), Ordering::SeqCst);
        program
    }
}

async fn has_died(program: &mut Program, death: Death) {
    let begun = Instant::now();
    while !program.has_ended() {
        assert!(begun.elapsed() < Duration::from_mins(1), "{death:?} was not reached");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One file an entry of `deaths`, its worker killed there; every second file is compressed.
async fn nothing_is_lost_or_doubled(deaths: &[Death]) {
    let app = TestApp::start().await;
    let text = lines();
    let bodies = [text.clone().into_bytes(), gzip(text.as_bytes())];
    // As it is when nobody dies.
    let workers = app.workers_with(quick());
    let mut whole = Vec::new();
    for (number, body) in bodies.iter().enumerate() {
        let organization = app.organization(&format!("Lives {number}")).await.id;
        let job = take_up_of(&app, organization, body.clone()).await;
        app.wait_for(&job, "succeeded_with_issues").await;
        whole.push(Whole::of(&app, organization, &job).await);
    }
    workers.stop().await;
    assert_eq!((whole[0].events.len(), whole[0].findings.len()), (4 * CHUNKS, 3 * CHUNKS), "{whole:#?}");
    assert!(whole[0].events.iter().all(|event| event["link_status"] == "linked"), "{whole:#?}");
    assert_eq!(whole[0].job["result"]["resources"], 4 * CHUNKS, "{whole:#?}");
    assert_eq!((whole[0].rows["chunks"], numbers(&whole[0].outcomes)), (4, BAD_LINES.to_vec()), "{whole:#?}");
    assert_eq!([0, 1].map(|one: usize| whole[one].objects["chunks"].len()), [0, CHUNKS], "texts of the compressed one");

    let mortal = Mortal::new(&app);
    let mut ended = Vec::new();
    for (number, death) in deaths.iter().enumerate() {
        let organization = app.organization(&format!("Dies {number}")).await.id;
        // Texts of chunks are put of compressed files only.
        let is_text = matches!(death, Death::At { key: "/chunks/", .. });
        let kind = if is_text { 1 } else { number % 2 };
        let mut program = mortal.spawn(&app, Some(*death));
        let job = take_up_of(&app, organization, bodies[kind].clone()).await;
        has_died(&mut program, *death).await;
        let workers = app.workers_with(quick());
        app.wait_for(&job, "succeeded_with_issues").await;
        workers.stop().await;
        let lost = lost(&app, &job).await;
        assert!((1..=2).contains(&lost), "{death:?} hit {lost} attempts");
        ended.push((*death, kind, organization, job));
    }
    // Texts of plans that were not adopted are deleted.
    app.app.watcher.tidy().await.unwrap();
    for (death, kind, organization, job) in ended {
        pretty_assertions(&Whole::of(&app, organization, &job).await, &whole[kind], death);
    }
}

/// Member by member, so that a failure is short.
fn pretty_assertions(found: &Whole, wanted: &Whole, death: Death) {
    assert_eq!(found.rows, wanted.rows, "{death:?}");
    assert_eq!(found.records, wanted.records, "{death:?}");
    assert_eq!(found.objects, wanted.objects, "{death:?}");
    assert_eq!(found, wanted, "{death:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_while_it_plans_or_fans_out_leaves_a_file_that_is_ingested_once() {
    nothing_is_lost_or_doubled(&[
        request("GET", "/incoming/", 1, false),
        request("PUT", "/chunks/", 2, false),
        request("PUT", "/chunks/", 3, true),
        within("bulk.validate", Open, 0, Prepared),
        within("bulk.validate", Open, 0, Prepared),
        within("bulk.validate", Open, 0, Written),
        within("bulk.validate", Open, 0, Written),
        within("bulk.validate", Run, 1, Begun),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_in_a_chunk_leaves_a_file_whose_lines_are_ingested_once() {
    nothing_is_lost_or_doubled(&[
        within("bulk.validate", Run, 2, Prepared),
        within("bulk.validate", Run, 2, Written),
        within("bulk.link_patient", Run, 3, Begun),
        within("bulk.link_patient", Run, 3, Prepared),
        within("bulk.link_patient", Run, 3, Written),
        within("bulk.link_patient", Run, 4, Written),
        within("bulk.extract_findings", Run, 1, Begun),
        within("bulk.extract_findings", Run, 2, Prepared),
        within("bulk.extract_findings", Run, 2, Written),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_at_a_join_or_while_it_stores_leaves_a_file_that_is_stored_once() {
    nothing_is_lost_or_doubled(&[
        within("bulk.validate", Join, 0, Begun),
        within("bulk.validate", Join, 0, Prepared),
        within("bulk.validate", Join, 0, Written),
        request("PUT", "/raw/", 1, false),
        request("PUT", "/raw/", 1, true),
        within("bulk.store_raw", Run, 0, Written),
        within("bulk.link_patient", Join, 0, Begun),
        within("bulk.extract_findings", Join, 0, Prepared),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_around_the_outcome_file_leaves_one_of_them_and_closes_the_job_once() {
    nothing_is_lost_or_doubled(&[
        within("bulk.audit", Run, 0, Begun),
        request("PUT", "/outcomes/", 1, false),
        request("PUT", "/outcomes/", 1, true),
        within("bulk.audit", Run, 0, Prepared),
        within("bulk.audit", Run, 0, Written),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_file_of_several_parts_is_whole_wherever_its_writer_was_killed() {
    const LINES: usize = 60_000;
    let app = TestApp::start().await;
    let organization = app.organization.id;
    let workers = app.workers_with(quick());
    let job = take_up_of(&app, organization, "x\n".repeat(LINES).into_bytes()).await;
    app.wait_for(&job, "succeeded_with_issues").await;
    workers.stop().await;
    let wanted = outcomes(&app, organization, &job).await;
    assert!(wanted.len() > 8 << 20, "{} bytes are one part", wanted.len());
    assert_eq!(numbers(&wanted), (1..=LINES as u64).collect::<Vec<_>>());
    let mortal = Mortal::new(&app);
    let deaths = [
        request("POST", "/outcomes/", 1, true),
        request("PUT", "/outcomes/", 1, true),
        request("PUT", "/outcomes/", 2, false),
        request("POST", "/outcomes/", 2, false),
        request("POST", "/outcomes/", 2, true),
    ];
    for (number, death) in deaths.into_iter().enumerate() {
        let mut program = mortal.spawn(&app, Some(death));
        let retry = json!({"reason": "the file is wanted again", "from": "audit"});
        let (status, answer) = app.post(&app.platform, &format!("/v1/admin/jobs/{job}/retry"), &retry).await;
        assert_eq!(status, 202, "{answer}");
        has_died(&mut program, death).await;
        let there = outcomes(&app, organization, &job).await;
        assert!(there == wanted, "{death:?}: what was there before stays until there is another");
        let workers = app.workers_with(quick());
        let round = number + 2;
        let what = "ended again";
        let is_done = |view: &Value| view["round"] == round && view["status"] == "succeeded_with_issues";
        app.wait_until(&job, what, is_done).await;
        workers.stop().await;
        assert!(outcomes(&app, organization, &job).await == wanted, "{death:?}");
    }
    let files = app.objects.objects.list("outcomes/", None, 1000).await.unwrap();
    assert_eq!(files.len(), 1);
    let closed = app.count("select count(*) from audit_records where event = 'job.closed'").await;
    assert_eq!((closed, lost(&app, &job).await), (6, 5), "each round closed the job once, after a lost attempt");
    // Parts that nobody completed: of all but the last one, whose file was there.
    let abandoned = app.objects.objects.unfinished_uploads("outcomes/").await.unwrap();
    assert_eq!(abandoned.len(), 4);
    app.advance(Duration::from_hours(25)).await;
    app.app.watcher.tidy().await.unwrap();
    assert_eq!(app.objects.objects.unfinished_uploads("outcomes/").await.unwrap().len(), 0);
}
