//! No clinical value where it does not belong: 46 people of whom each of 14 values is a canary go through every way in, whole
//! and broken, through the real binary at level TRACE, through success, refusals, failures, retries, a lost lease, a
//! database that dies and one that quotes what it refuses. Then everything is looked through that is not clinical: what all
//! processes and PostgreSQL said, every answer but those of clinical reads, every row of every table but those in
//! [`instance::CLINICAL_TABLES`], keys and metadata in S3, metrics, exported spans, every file beside the database's own and the objects.
//! [`panics`] does the same where the binary cannot be made to fail by input.

mod instance;
mod panics;
mod search;
mod values;

use crate::telemetry::collector::Collector;
use chartgate::ids::JobId;
use instance::{Ask, Instance, leaks};
use reqwest::Method;
use rustix::process::Signal;
use search::Search;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use std::io::Write as _;
use std::time::{Duration, Instant};
use uuid::Uuid;
use values::{PEOPLE, Person};

const FHIR: &str = "application/fhir+json";
const JSON: &str = "application/json";
const BUNDLES: &str = "/v1/ingestion/fhir/Bundle";
const ENDED: &[&str] = &["succeeded", "succeeded_with_issues", "failed"];

/// The key of an object that a sender's own tool made; it stands in the bucket, and nowhere else outside clinical tables.
pub const FOREIGN_KEY: &str = "incoming/fhir/Qoizuloforeign/Qoizulofam scan.ndjson";

/// A word as it stands in a path or query.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02X}"))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bundles, whole and broken, as jobs and as a question.
async fn send_bundles(desk: &Instance, people: &[Person]) -> Vec<String> {
    let mut jobs = Vec::new();
    for person in people {
        let bundle = person.bundle().to_string();
        let ask = Ask::post("sender", BUNDLES, FHIR, bundle.clone());
        let accepted = desk.ask(ask.header("idempotency-key", person.mrn.clone())).await;
        jobs.push(accepted.job());
        // The same key for other content, and the same content as gzip.
        let other = bundle.replace("chest pain", "no pain");
        let reused = desk.ask(Ask::post("sender", BUNDLES, FHIR, other).header("idempotency-key", person.mrn.clone()));
        assert_eq!(reused.await.status, 422);
        let zipped = Ask::post("sender", BUNDLES, FHIR, gzip(bundle.as_bytes())).header("content-encoding", "gzip");
        desk.ask(zipped.header("idempotency-key", format!("{}-gzip", person.ssn))).await;
        let asked = Ask::post("sender", format!("{BUNDLES}?validateOnly=true"), FHIR, bundle);
        assert_eq!(desk.ask(asked).await.status, 200);
    }
    jobs
}

async fn send_broken_bundles(desk: &Instance, people: &[Person]) -> Vec<String> {
    let mut jobs = Vec::new();
    for person in people {
        for (number, bundle) in person.broken_bundles().into_iter().enumerate() {
            desk.ask(Ask::post("sender", format!("{BUNDLES}?validateOnly=true"), FHIR, bundle.clone())).await;
            let fhir = Ask::post("sender", BUNDLES, FHIR, bundle.clone()).header("accept", FHIR);
            let answer = desk.ask(fhir.header("idempotency-key", format!("{}/{number}", person.insurance))).await;
            if answer.status == 202 {
                jobs.push(answer.job());
            }
        }
    }
    assert!(jobs.len() >= people.len() * 5, "enough of the broken ones are accepted and fail later: {}", jobs.len());
    jobs
}

/// Events, one by one and in batches; reads of them.
async fn send_events(desk: &Instance, people: &[Person]) -> Vec<String> {
    let kinds =
        ["medication", "problem", "vital", "lab", "allergy", "immunization", "procedure", "encounter", "document"];
    let mut jobs = Vec::new();
    for (person, kind) in people.iter().zip(kinds.iter().cycle()) {
        let taken = desk.ask(Ask::post("sender", "/ingest/athena", JSON, person.event(kind).to_string())).await;
        jobs.push(taken.json()["job_id"].as_str().unwrap().to_owned());
        let odd = person.event(&format!("{} {kind}", person.diagnosis));
        let batch = json!([person.event(kind), odd, { "athena_patient_id": person.note }, person.family]);
        for path in ["/ingest/athena/batch", "/ingest/athena/events"] {
            desk.ask(Ask::post("sender", path, JSON, batch.to_string())).await;
            desk.ask(Ask::post("sender", path, JSON, json!({ "events": batch }).to_string())).await;
        }
        for broken in person.broken_events() {
            desk.ask(Ask::post("sender", "/ingest/athena", JSON, broken)).await;
        }
        let path = format!("/ingest/events/{}?event_type={kind}", encoded(&person.athena_id));
        desk.ask(Ask::get("reader", path).clinical()).await;
        desk.ask(Ask::get(
            "sender",
            format!("/ingest/events/{}?limit={}", encoded(&person.athena_id), encoded(&person.note)),
        ))
        .await;
    }
    for path in ["/ingest/stats", "/ingest/health"] {
        desk.ask(Ask::get("reader", path)).await;
    }
    jobs
}

/// Files in every shape, announced under names that say whose they are.
async fn upload(desk: &Instance, people: &[Person]) -> Vec<String> {
    let mut jobs = Vec::new();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (number, person) in people.iter().enumerate() {
        let lines = person.resources().iter().fold(String::new(), |text, line| text + &format!("{line}\n"));
        let broken = format!(
            "{lines}{{\"resourceType\":\"Patient\",\"birthDate\":\"{}\"\n{}\n{lines}",
            person.note.replace('\n', " "),
            person.family
        );
        let array = format!("[{}]", lines.trim_end().replace('\n', ","));
        let body = match number % 6 {
            0 => lines.into_bytes(),
            1 => gzip(lines.as_bytes()),
            2 => array.into_bytes(),
            3 => person.bundle().to_string().into_bytes(),
            4 => broken.into_bytes(),
            _ => gzip(lines.as_bytes())[..40].to_vec(),
        };
        let request =
            json!({ "contentType": "application/fhir+ndjson", "filename": person.file_name, "sizeBytes": body.len() });
        let allowed = desk.ask(Ask::post("sender", "/v1/ingestion/upload-url", JSON, request.to_string())).await.json();
        for odd in [
            json!({ "contentType": person.note }),
            json!({ "sha256": person.ssn }),
            json!({ person.family.clone(): person.mrn }),
            json!({ "sizeBytes": person.family }),
        ] {
            desk.ask(Ask::post("sender", "/v1/ingestion/upload-url", JSON, odd.to_string())).await;
        }
        let mut put = client.put(allowed["uploadUrl"].as_str().unwrap()).body(body);
        for (name, value) in allowed["headers"].as_object().unwrap() {
            put = put.header(name, value.as_str().unwrap());
        }
        assert_eq!(put.send().await.unwrap().status(), 200);
        jobs.push(allowed["jobId"].as_str().unwrap().to_owned());
    }
    jobs
}

/// Everything that a caller can write into a URL, a header or a small body.
async fn ask_around(desk: &Instance, person: &Person) {
    let (mrn, note) = (encoded(&person.mrn), encoded(&person.note));
    for role in ["sender", "reader", "admin", "platform"] {
        for path in [
            format!("/ingest/clinical/{mrn}?system={note}"),
            format!("/ingest/clinical/{mrn}?history=true"),
            format!("/ingest/clinical/{note}"),
        ] {
            desk.ask(Ask::get(role, path).clinical()).await;
        }
        for path in [
            format!("/ingest/clinical/{mrn}?cursor={note}"),
            format!("/ingest/clinical/{mrn}?{note}={note}"),
            format!("/ingest/clinical/{mrn}?limit={note}"),
            format!("/v1/ingestion/jobs/{mrn}"),
            format!("/v1/ingestion/jobs/{mrn}/issues?cursor={note}"),
            format!("/v1/ingestion/jobs?workflow={note}&source={note}&errorCode={note}&createdAfter={note}"),
            format!("/v1/ingestion/jobs?workflow={note}"),
            format!("/v1/admin/jobs?status={note}"),
            format!("/v1/admin/reviews/{mrn}"),
            format!("/v1/admin/operations/{mrn}"),
            format!("/v1/admin/objects/refused?before={note}"),
            format!("/v1/payloads/{mrn}"),
            format!("/v1/findings/{mrn}/evidence"),
            format!("/{mrn}/{note}?{note}"),
            format!("/docs/errors/{mrn}"),
        ] {
            desk.ask(Ask::get(role, path)).await;
        }
        for (name, value) in [
            ("authorization", format!("Bearer {}", person.ssn)),
            ("authorization", format!("Basic {}", person.mrn)),
            ("content-type", person.mrn.clone()),
            ("content-encoding", person.mrn.clone()),
            ("accept", person.mrn.clone()),
            ("user-agent", person.family.clone()),
            ("x-forwarded-for", person.mrn.clone()),
            ("traceparent", person.mrn.clone()),
            ("origin", format!("https://{}", person.mrn)),
            ("if-none-match", format!("\"{}\"", person.mrn)),
            ("cookie", person.mrn.clone()),
            ("last-event-id", person.mrn.clone()),
            ("x-request-id", format!("{} {}", person.mrn, person.ssn)),
        ] {
            desk.ask(Ask::post(role, BUNDLES, FHIR, person.note.clone()).header(name, value)).await;
        }
        let search = json!({ "mrn": person.mrn, "system": person.note });
        desk.ask(Ask::post(role, "/v1/clinical/search", JSON, search.to_string()).clinical()).await;
        for odd in [json!({ "mrn": [person.mrn] }), json!({ person.mrn.clone(): person.note }), json!(person.note)] {
            for path in [
                "/v1/clinical/search",
                "/v1/admin/organizations",
                "/v1/admin/keys",
                "/v1/admin/jobs/retry",
                "/v1/events/s3",
            ] {
                desk.ask(Ask::post(role, path, JSON, odd.to_string())).await;
            }
        }
        let deleted = Ask { method: Method::DELETE, ..Ask::get(role, format!("/v1/admin/keys/{mrn}")) };
        desk.ask(deleted).await;
        let event = json!({ "Records": [{ "eventName": person.mrn, "s3": { "bucket": { "name": person.note }, "object": { "key": person.family, "eTag": person.ssn } } }] });
        desk.ask(Ask::post(role, "/v1/events/s3", JSON, event.to_string())).await;
    }
}

/// All that may be asked about a job, and retrying it.
async fn ask_about(desk: &Instance, job: &str) {
    for rest in ["", "/timeline", "/issues", "/outcomes"] {
        desk.ask(Ask::get("sender", format!("/v1/ingestion/jobs/{job}{rest}"))).await;
    }
    let issues = Ask::get("sender", format!("/v1/ingestion/jobs/{job}/issues"));
    desk.ask(issues.header("accept", FHIR)).await;
    let lines = Ask::get("sender", format!("/v1/ingestion/jobs/{job}/issues"));
    desk.ask(lines.header("accept", "application/x-ndjson")).await;
}

/// Two Patients of one number with different birth dates: a person must decide.
async fn ask_for_a_review(desk: &Instance, one: &Person, other: &Person) {
    let mut twin = one.resources().remove(0);
    twin["id"] = json!(other.resource_id);
    twin["birthDate"] = json!(other.birth_date);
    let job = desk.ask(Ask::post("sender", BUNDLES, FHIR, Person::bundle_of(&[twin]).to_string())).await.job();
    desk.ended(&job, ENDED).await;
    let reviews = desk.ask(Ask::get("admin", "/v1/admin/reviews")).await.json();
    let review =
        reviews["reviews"][0]["reviewId"].as_str().unwrap_or_else(|| panic!("no review: {reviews}")).to_owned();
    // Demographics side by side: a clinical read.
    desk.ask(Ask::get("admin", format!("/v1/admin/reviews/{review}")).clinical()).await;
    let wrong = json!({ "decision": one.family, "reason": 1 });
    let decide = format!("/v1/admin/reviews/{review}/decide");
    desk.ask(Ask::post("admin", decide.clone(), JSON, wrong.to_string())).await;
    let decided = json!({ "decision": "new_patient", "reason": "Seen by the registrar" });
    assert_eq!(desk.ask(Ask::post("admin", decide, JSON, decided.to_string())).await.status, 200);
}

/// The database refuses, quoting what it refuses; an administrator retries when it is mended.
async fn refuse_in_the_database(desk: &Instance, person: &Person) {
    let mut owner = desk.owner().await;
    let quoting = "create function quoting() returns trigger language plpgsql as $$ begin
          raise exception 'cannot store %', new.resource_key using detail = new.resource_key, hint = new.subject_key;
        end $$; create trigger quoting before insert on clinical_events for each row execute function quoting()";
    sqlx::raw_sql(quoting).execute(&mut owner).await.unwrap();
    let bundle = |site: &str| person.bundle().to_string().replace("chest", site);
    let job = desk.ask(Ask::post("sender", BUNDLES, FHIR, bundle("back"))).await.job();
    let view = desk.ended(&job, &["failed"]).await;
    assert_eq!(view["error"]["code"], "database_refused", "{view:#}");
    ask_about(desk, &job).await;
    // Another kind of refusal, in the middle of the same step.
    let denied = "drop trigger quoting on clinical_events; drop function quoting();
        revoke insert on clinical_events from chartgate_app";
    sqlx::raw_sql(denied).execute(&mut owner).await.unwrap();
    let retry = || {
        Ask::post("admin", format!("/v1/admin/jobs/{job}/retry"), JSON, r#"{"from":"failed_step","reason":"mended"}"#)
    };
    assert!(desk.ask(retry()).await.status.is_success());
    desk.ended(&job, &["failed"]).await;
    sqlx::raw_sql("grant insert on clinical_events to chartgate_app").execute(&mut owner).await.unwrap();
    desk.ask(retry()).await;
    desk.ended(&job, &["succeeded"]).await;
    // Refused at intake.
    sqlx::raw_sql("revoke execute on all functions in schema public from public, chartgate_app")
        .execute(&mut owner)
        .await
        .unwrap();
    desk.ask(Ask::post("sender", BUNDLES, FHIR, bundle("arm"))).await;
    desk.ask(Ask::post("sender", "/ingest/athena", JSON, person.event("note").to_string())).await;
    sqlx::raw_sql("grant execute on all functions in schema public to public").execute(&mut owner).await.unwrap();
}

/// Kill the server, once it is up again after the last time; its process. That it is ready is believed for a second: its file of the
/// process may be gone by then, or still be that of the last one.
async fn kill_another_postmaster(desk: &Instance, last: Option<u32>) -> u32 {
    let file = desk.data().join("postgres/cluster/postmaster.pid");
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        desk.is_ready().await;
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let pid: Option<u32> = text.lines().next().and_then(|line| line.trim().parse().ok());
        if let Some(pid) = pid.filter(|pid| Some(*pid) != last) {
            Instance::signal(pid, Signal::KILL);
            return pid;
        }
        assert!(Instant::now() < deadline, "PostgreSQL is not started again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// PostgreSQL dies under load, and is started again by the program.
async fn kill_the_database(desk: &Instance, people: &[Person]) -> Vec<String> {
    let (mut jobs, mut killed) = (Vec::new(), None);
    for (number, person) in people.iter().enumerate() {
        let bundle = person.bundle().to_string().replace("chest", "neck");
        let answer = desk.ask(Ask::post("sender", BUNDLES, FHIR, bundle)).await;
        if answer.status == 202 {
            jobs.push(answer.job());
        }
        if number % 4 == 1 {
            killed = Some(kill_another_postmaster(desk, killed).await);
        }
        desk.ask(Ask::get("reader", format!("/ingest/clinical/{}", encoded(&person.mrn))).clinical()).await;
    }
    jobs
}

/// Jobs wait while the worker stands still; it goes on, and dies as soon as it holds some of them.
async fn lose_a_worker(desk: &mut Instance, worker: usize, people: &[Person]) -> Vec<String> {
    Instance::signal(desk.pid(worker), Signal::STOP);
    let mut jobs = Vec::new();
    for person in people {
        let bundle = person.bundle().to_string().replace("chest", "hip");
        jobs.push(desk.ask(Ask::post("sender", BUNDLES, FHIR, bundle)).await.job());
        let event = person.event("vital").to_string().replace("chest", "hip");
        desk.ask(Ask::post("sender", "/ingest/athena", JSON, event)).await;
    }
    let mut owner = desk.owner().await;
    Instance::signal(desk.pid(worker), Signal::CONT);
    let held = "select count(*) from queue where state = 'leased'";
    while sqlx::query_scalar::<_, i64>(held).fetch_one(&mut owner).await.unwrap() == 0 {}
    desk.kill(worker);
    jobs
}

/// Process by process: no key and no canary in a command line, and no core dumps.
fn check_process(desk: &Instance, search: &Search, pid: u32) {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap();
    let line = read("cmdline");
    let keys = desk.credentials()["keys"].clone();
    for key in keys.as_object().unwrap().values().filter_map(Value::as_str) {
        assert!(memchr::memmem::find(&line, key.as_bytes()).is_none(), "a key in the command line");
    }
    assert_eq!(search.hits(&line), Vec::<String>::new());
    let limits = String::from_utf8(read("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}

/// Spans of attempts of steps that ended so.
fn spans_of(collector: &Collector, outcome: &str) -> usize {
    collector.spans().iter().filter(|span| span.attribute("chartgate.step.outcome") == outcome).count()
}

/// A failed attempt: job, round, number of the attempt and code.
type FailedAttempt = (String, i32, i16, String);

/// Failed attempts by their spans.
fn failures_told(collector: &Collector) -> Vec<FailedAttempt> {
    let spans = collector.spans().into_iter();
    let failed = spans.filter(|span| ["failed", "retried"].contains(&span.attribute("chartgate.step.outcome")));
    let mut told: Vec<FailedAttempt> = failed
        .map(|span| {
            let said = |name: &str| span.attribute(name).to_owned();
            let (round, attempt) = (said("chartgate.job.round").parse(), said("chartgate.step.attempt").parse());
            (said("chartgate.job.id"), round.unwrap(), attempt.unwrap(), said("error.type"))
        })
        .collect();
    told.sort();
    told
}

/// Until each failed attempt has its span, and no more have one.
async fn until_failures_are_told(desk: &Instance, collector: &Collector) {
    let mut owner = desk.owner().await;
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let rows: Vec<(Uuid, i32, i16, String)> =
            sqlx::query_as("select job_id, round, attempt, error_code from step_attempts where outcome = 'failed'")
                .fetch_all(&mut owner)
                .await
                .unwrap();
        let mut failed: Vec<FailedAttempt> = rows
            .into_iter()
            .map(|(job, round, attempt, code)| (JobId(job).to_string(), round, attempt, code))
            .collect();
        failed.sort();
        let told = failures_told(collector);
        if !failed.is_empty() && told == failed {
            return;
        }
        if Instant::now() >= deadline {
            let spans = collector.spans();
            let others =
                spans.iter().filter(|span| failed.iter().any(|one| one.0 == span.attribute("chartgate.job.id")));
            let others: Vec<_> = others.map(|span| (&span.name, &span.attributes)).collect();
            panic!("failed attempts: {failed:#?}\ntheir spans: {told:#?}\nall spans of their jobs: {others:#?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_canary_leaves_the_clinical_tables_and_the_objects() {
    let search = Search::new();
    let people = Person::all();
    let planted: std::collections::BTreeSet<&str> = people.iter().flat_map(Person::values).collect();
    assert!(planted.len() >= 500 && planted.len() == PEOPLE * people[0].values().len(), "{}", planted.len());

    let mut desk = Instance::new();
    let collector = Collector::start().await;
    desk.environment.push(("CHARTGATE_TELEMETRY_OTLP_ENDPOINT", collector.endpoint.clone()));
    let main = desk.serve(&["api", "watcher", "sweeper"], "text").await;
    let worker = desk.serve(&["worker"], "json").await;
    for process in [main, worker] {
        check_process(&desk, &search, desk.pid(process));
    }
    let mut jobs = send_bundles(&desk, &people).await;
    let failing = send_broken_bundles(&desk, &people[..3]).await;
    jobs.extend(send_events(&desk, &people).await);
    jobs.extend(upload(&desk, &people[..12]).await);
    ask_around(&desk, &people[4]).await;
    desk.put_foreign(FOREIGN_KEY, people[5].bundle().to_string().as_bytes()).await;
    for job in jobs.iter().chain(&failing) {
        desk.ended(job, ENDED).await;
        ask_about(&desk, job).await;
    }
    let retry = json!({ "filter": { "errorCode": "validation_failed" }, "from": "start", "version": "latest", "reason": "again" });
    desk.ask(Ask::post("admin", "/v1/admin/jobs/retry", JSON, retry.to_string())).await;
    ask_for_a_review(&desk, &people[6], &Person::new(PEOPLE + 1)).await;
    refuse_in_the_database(&desk, &people[7]).await;
    let interrupted = kill_the_database(&desk, &people[8..20]).await;
    for job in &interrupted {
        desk.ended(job, ENDED).await;
    }

    // The worker dies with its leases, another takes over. What it had not exported dies with it: so far nothing is missing.
    until_failures_are_told(&desk, &collector).await;
    let mut left = lose_a_worker(&mut desk, worker, &people).await;
    left.extend(upload(&desk, &people[12..18]).await);
    desk.serve(&["worker"], "text").await;
    for job in &left {
        desk.ended(job, ENDED).await;
    }
    let lost: i64 = sqlx::query_scalar("select count(*) from step_attempts where outcome = 'lost'")
        .fetch_one(&mut desk.owner().await)
        .await
        .unwrap();
    assert!(lost > 0, "no lease was lost");
    for job in [&jobs[0], &failing[0], &failing[failing.len() - 1]] {
        for arguments in [vec!["jobs", "explain", job], vec!["jobs", "show", job], vec!["jobs", "show", "--json", job]]
        {
            let (_, said) = desk.run("admin", &arguments).await;
            assert!(said.contains(job.as_str()), "{said}");
        }
    }
    let (_, said) = desk.run("platform", &["doctor"]).await;
    assert!(said.contains("database log: PostgreSQL logs no values"), "{said}");
    desk.run("admin", &["jobs", "list", "--status", "failed"]).await;
    desk.run("admin", &["reviews", "list"]).await;
    for path in [
        "/metrics",
        "/v1/admin/failures",
        "/v1/admin/jobs",
        "/v1/admin/workers",
        "/v1/admin/objects/refused",
        "/v1/admin/lanes/blocked",
        "/health/ready",
    ] {
        desk.ask(Ask::get("platform", path)).await;
    }
    assert!(desk.answered(2) > 400 && desk.answered(4) > 400, "{} and {}", desk.answered(2), desk.answered(4));
    assert!(desk.answered(5) > 0, "the database's faults were met by requests, too");

    // It got where it belongs: the search is not blind.
    let clinical = desk.everything_clinical().await;
    let lost: Vec<&str> = people
        .iter()
        .flat_map(Person::in_bundles)
        .filter(|value| memchr::memmem::find(&clinical, value.as_bytes()).is_none())
        .collect();
    assert!(lost.is_empty(), "not in the clinical tables and objects: {lost:?}");

    let mut places = desk.everything_else().await;
    // What was told of requests, steps, failures and retries.
    until_failures_are_told(&desk, &collector).await;
    let (good, all) = (spans_of(&collector, "succeeded"), collector.spans().len());
    assert!(good > 100 && all > 500, "{good} of {all} spans");
    places.push(("exported spans".to_owned(), collector.bytes()));
    let has = |what: &str| places.iter().any(|(label, bytes)| label.contains(what) && !bytes.is_empty());
    for place in
        ["table audit_records", "table jobs", "table issues", "postgres.log", "01.err", "02.err", "endpoints.json"]
    {
        assert!(has(place), "{place} is not looked through");
    }
    let trace = places.iter().find(|(label, _)| label.ends_with("01.err")).unwrap();
    assert!(String::from_utf8_lossy(&trace.1).contains("DEBUG"), "the log says everything that it can");
    let found = leaks(&search, &places);
    assert!(found.is_empty(), "{} place(s) hold canaries:\n{}", found.len(), found.join("\n"));

    // And a leak is found: in a table, in a file, in an answer.
    let mut owner = desk.owner().await;
    let leak = format!("update organizations set name = name || ' {}'", people[0].ssn);
    sqlx::raw_sql(AssertSqlSafe(leak)).execute(&mut owner).await.unwrap();
    std::fs::write(desk.data().join("run/leak"), wide(&people[1].note)).unwrap();
    desk.ask(Ask::get("reader", format!("/ingest/clinical/{}", encoded(&people[2].mrn)))).await;
    let found = leaks(&search, &desk.everything_else().await);
    for place in ["table organizations", "run/leak", "answer 200 OK to GET /ingest/clinical/"] {
        assert!(found.iter().any(|leak| leak.contains(place)), "{place}: {found:?}");
    }
    desk.stop(main).await;
}

/// As UTF-16, which hides it from a plain search.
fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
