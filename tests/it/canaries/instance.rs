//! A real installation in a directory of its own: the binary's processes with everything that they say in files, a
//! client that keeps every answer, and what must be looked through at the end.

use super::search::Search;
use crate::support::directory::TestDirectory;
use reqwest::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a fact may take to come about.
const PATIENCE: Duration = Duration::from_mins(2);

/// Tables that hold clinical values, and why. Any other table is looked through.
pub const CLINICAL_TABLES: &[(&str, &str)] = &[
    ("athena_events", "events as received: patient number, type, endpoint, times as given"),
    ("clinical_events", "ids, references and demographics of resources"),
    ("event_carriers", "keys of the subjects of events, as each job that brought them has them"),
    ("event_sightings", "times of capture, as senders gave them"),
    ("event_subjects", "keys of the subjects of events"),
    ("finding_evidence", "quotes"),
    ("findings", "what resources say"),
    ("ingested_objects", "keys of objects that others named; the API shows them without what others wrote into them"),
    ("link_decisions", "keys that a person decided about"),
    ("patient_identifiers", "numbers of patients"),
    ("patient_statement_keys", "keys of patients: numbers, names with birth dates"),
    ("patient_statements", "what identifies patients"),
    ("patients", "demographics"),
    ("payloads", "the bytes received"),
    ("reviews", "keys that disagree"),
    ("shown_events", "what the clinical view shows"),
];

/// Prefixes of S3 keys whose objects are clinical.
const CLINICAL_OBJECTS: &[&str] = &["raw/", "incoming/", "chunks/"];

/// One way of asking, and who asks.
pub struct Ask<'a> {
    pub role: &'a str,
    pub method: Method,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The answer's body is clinical, for one who may read it.
    pub is_clinical: bool,
}

impl<'a> Ask<'a> {
    pub fn get(role: &'a str, path: impl Into<String>) -> Self {
        let path = path.into();
        Self { role, method: Method::GET, path, headers: Vec::new(), body: Vec::new(), is_clinical: false }
    }

    pub fn post(role: &'a str, path: impl Into<String>, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type", media_type.to_owned())];
        Self { method: Method::POST, headers, body: body.into(), ..Self::get(role, path) }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }

    pub fn clinical(mut self) -> Self {
        self.is_clinical = true;
        self
    }
}

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn job(&self) -> String {
        let job = self.json()["jobId"].as_str().map(str::to_owned);
        job.unwrap_or_else(|| panic!("{}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }
}

/// See the module.
pub struct Instance {
    pub directory: TestDirectory,
    client: reqwest::Client,
    processes: Vec<Child>,
    started: usize,
    answers: Mutex<Vec<(String, Vec<u8>)>>,
    statuses: Mutex<Vec<u16>>,
    /// Of every process.
    pub environment: Vec<(&'static str, String)>,
}

impl Instance {
    pub fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = TestDirectory::new();
        for name in ["said", "tmp", "home"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let (answers, statuses) = (Mutex::default(), Mutex::default());
        Self { directory, client, processes: Vec::new(), started: 0, answers, statuses, environment: Vec::new() }
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The binary with its words in files and nothing of our environment but the way to programs.
    pub fn command(&mut self, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        self.started += 1;
        let said = |end: &str| File::create(self.directory.path().join(format!("said/{:02}.{end}", self.started)));
        let mut command = Command::new(env!("CARGO_BIN_EXE_chartgate"));
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.directory.path().join("home")).env("TMPDIR", self.directory.path().join("tmp"));
        command.env("CHARTGATE_TELEMETRY_LOG_LEVEL", "trace").env("CHARTGATE_LEASE_SECONDS", "2");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("RUST_BACKTRACE", "full").envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(said("out").unwrap()).stderr(said("err").unwrap());
        command
    }

    /// A `serve` that stays; its place in the list.
    pub async fn serve(&mut self, roles: &[&str], format: &str) -> usize {
        let data = self.data();
        let mut arguments = vec!["serve", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        arguments.extend(roles.iter().flat_map(|role| ["--role", role]));
        let process = self.command(&arguments, &[("CHARTGATE_TELEMETRY_LOG_FORMAT", format)]).spawn().unwrap();
        self.processes.push(process);
        let number = self.started;
        let ready =
            if roles.iter().any(|role| ["all", "api"].contains(role)) { "listens on" } else { "without an HTTP" };
        self.until("the process says that it is ready", || {
            let said = self.directory.path().join(format!("said/{number:02}.out"));
            fs::read_to_string(said).is_ok_and(|said| said.contains(ready))
        })
        .await;
        self.processes.len() - 1
    }

    /// The id of a process.
    pub fn pid(&self, process: usize) -> u32 {
        self.processes[process].id()
    }

    pub fn signal(pid: u32, signal: Signal) {
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// `kill -9`.
    pub fn kill(&mut self, process: usize) {
        self.processes[process].kill().unwrap();
        self.processes[process].wait().unwrap();
    }

    /// Stop in order.
    pub async fn stop(&mut self, process: usize) {
        Self::signal(self.pid(process), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.processes[process].try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the process does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A command of the binary, to its end; its exit code and what it said.
    pub async fn run(&mut self, role: &str, arguments: &[&str]) -> (i32, String) {
        let credentials = self.credentials();
        let (url, key) = (credentials["url"].as_str().unwrap(), credentials["keys"][role].as_str().unwrap_or_default());
        let data = self.data();
        let environment =
            [("CHARTGATE_URL", url), ("CHARTGATE_API_KEY", key), ("CHARTGATE_DATA_DIR", data.to_str().unwrap())];
        let mut child = self.command(arguments, &environment).spawn().unwrap();
        let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
        let said = self.directory.path().join(format!("said/{:02}.out", self.started));
        (status.code().unwrap_or(-1), fs::read_to_string(said).unwrap())
    }

    pub fn credentials(&self) -> Value {
        serde_json::from_slice(&fs::read(self.data().join("demo-credentials.json")).unwrap()).unwrap()
    }

    pub fn endpoints(&self) -> Value {
        serde_json::from_slice(&fs::read(self.data().join("run/endpoints.json")).unwrap()).unwrap()
    }

    /// Ask, and keep the answer for the search.
    pub async fn ask(&self, ask: Ask<'_>) -> Answer {
        let credentials = self.credentials();
        let url = format!("{}{}", credentials["url"].as_str().unwrap(), ask.path);
        let mut request = self.client.request(ask.method.clone(), url).body(ask.body);
        let key = credentials["keys"][ask.role].as_str().map(|key| format!("Bearer {key}"));
        if let Some(key) = key.filter(|_| !ask.headers.iter().any(|(name, _)| *name == "authorization")) {
            request = request.header("authorization", key);
        }
        for (name, value) in &ask.headers {
            request = request.header(*name, value.as_bytes());
        }
        let answer = request.timeout(PATIENCE).send().await.unwrap();
        let status = answer.status();
        let headers = format!("{:?}", answer.headers());
        let body = answer.bytes().await.unwrap_or_default().to_vec();
        let label = format!("answer {status} to {} {}", ask.method, ask.path.split(['?', '%']).next().unwrap());
        let mut kept = headers.into_bytes();
        if !(ask.is_clinical && status.is_success()) {
            kept.extend_from_slice(&body);
        }
        self.answers.lock().unwrap().push((label, kept));
        self.statuses.lock().unwrap().push(status.as_u16());
        Answer { status, body }
    }

    /// How many answers had this class of status.
    pub fn answered(&self, class: u16) -> usize {
        self.statuses.lock().unwrap().iter().filter(|status| **status / 100 == class).count()
    }

    /// Wait until a job has one of these statuses.
    pub async fn ended(&self, job: &str, wanted: &[&str]) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.ask(Ask::get("platform", format!("/v1/ingestion/jobs/{job}?wait=5"))).await.json();
            if view["status"].as_str().is_some_and(|status| wanted.contains(&status)) {
                return view;
            }
            assert!(Instant::now() < deadline, "{job} is not {wanted:?}: {view:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Wait until the database answers again.
    pub async fn is_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.ask(Ask::get("platform", "/health/ready")).await.status != 200 {
            assert!(Instant::now() < deadline, "it does not get ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Wait for a fact.
    pub async fn until(&self, what: &str, fact: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !fact() {
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The database, as its superuser.
    pub async fn owner(&self) -> PgConnection {
        let endpoints = self.endpoints();
        let options = PgConnectOptions::new_without_pgpass()
            .socket(endpoints["postgres_socket_dir"].as_str().unwrap())
            .port(5432)
            .username("postgres")
            .database("chartgate");
        PgConnection::connect_with(&options).await.unwrap()
    }

    /// Every row of every table as text, by table; and of PostgreSQL's own views what tells of sessions.
    pub async fn rows(&self) -> Vec<(String, String)> {
        let mut owner = self.owner().await;
        let tables: Vec<String> = sqlx::query_scalar(
            "select c.relname::text from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') order by 1",
        )
        .fetch_all(&mut owner)
        .await
        .unwrap();
        let mut rows = Vec::new();
        for table in tables.into_iter().chain(["pg_stat_activity".to_owned()]) {
            let query = format!("select coalesce(string_agg(t::text, chr(10)), '') from {table} t");
            rows.push((table, sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut owner).await.unwrap()));
        }
        rows
    }

    /// Every object with its metadata; the body of those that are not clinical. `true`: it is clinical.
    pub async fn objects(&self) -> Vec<(String, bool, Vec<u8>)> {
        use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
        let endpoints = self.endpoints();
        let text = |name: &str| endpoints[name].as_str().unwrap().to_owned();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(text("s3_endpoint"))
            .force_path_style(true)
            .credentials_provider(Credentials::new(text("s3_access_key"), text("s3_secret_key"), None, None, "test"));
        let client = aws_sdk_s3::Client::from_conf(config.build());
        let bucket = client.list_buckets().send().await.unwrap().buckets()[0].name().unwrap().to_owned();
        let pages = client.list_objects_v2().bucket(&bucket).into_paginator().send();
        let pages = pages.collect::<Result<Vec<_>, _>>().await.unwrap();
        let mut objects = Vec::new();
        for key in pages
            .iter()
            .flat_map(aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output::contents)
            .filter_map(aws_sdk_s3::types::Object::key)
        {
            let object = client.get_object().bucket(&bucket).key(key).send().await.unwrap();
            let facts =
                format!("{key} {:?} {:?} {:?}", object.metadata(), object.content_type(), object.content_disposition());
            let body = object.body.collect().await.unwrap().into_bytes().to_vec();
            let is_clinical = CLINICAL_OBJECTS.iter().any(|prefix| key.starts_with(prefix));
            objects.push((facts, is_clinical, body));
        }
        objects
    }

    /// Put an object as a sender's own tool would, under a key of its own choice.
    pub async fn put_foreign(&self, key: &str, body: &[u8]) {
        let endpoints = self.endpoints();
        let objects = chartgate::objects::Objects::connect(&chartgate::objects::ObjectsOptions {
            endpoint: endpoints["s3_endpoint"].as_str().map(str::to_owned),
            region: "us-east-1".to_owned(),
            bucket: "chartgate".to_owned(),
            access_key: endpoints["s3_access_key"].as_str().map(str::to_owned),
            secret_key: endpoints["s3_secret_key"].as_str().map(|secret| secret.to_owned().into()),
            prefix: String::new(),
            timeout: Duration::from_secs(10),
        });
        objects.put(key, body.to_vec().into(), "application/json", &[]).await.unwrap();
    }

    /// What everything says that is not clinical: label and bytes. Answers, what processes said, files beside the
    /// database's own and the objects, rows, keys and metadata.
    pub async fn everything_else(&self) -> Vec<(String, Vec<u8>)> {
        let mut all = self.answers.lock().unwrap().clone();
        let skipped = [self.data().join("postgres/cluster"), self.data().join("objects")];
        files_below(self.directory.path(), &skipped, &mut all);
        for (table, rows) in self.rows().await {
            if !CLINICAL_TABLES.iter().any(|(name, _)| *name == table) {
                all.push((format!("table {table}"), rows.into_bytes()));
            }
        }
        for (facts, is_clinical, body) in self.objects().await {
            let label = "an object's key, metadata or body".to_owned();
            let body = if is_clinical { Vec::new() } else { body };
            // The one that a sender's own tool named.
            let facts = facts.replace(super::FOREIGN_KEY, "");
            all.push((label, [facts.into_bytes(), body].concat()));
        }
        all
    }

    /// Everything clinical in one heap, to show that the canaries did get there.
    pub async fn everything_clinical(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for (table, rows) in self.rows().await {
            if CLINICAL_TABLES.iter().any(|(name, _)| *name == table) {
                all.extend(rows.into_bytes());
            }
        }
        for (_, _, body) in self.objects().await.into_iter().filter(|(_, is_clinical, _)| *is_clinical) {
            all.extend(body);
        }
        all
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Files with their names, apart from some directories.
fn files_below(directory: &Path, skipped: &[PathBuf], found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if skipped.contains(&path) {
            continue;
        }
        if path.is_dir() {
            files_below(&path, skipped, found);
        } else if path.is_file() {
            let name = path.to_str().unwrap().to_owned();
            let bytes = [name.clone().into_bytes(), fs::read(&path).unwrap_or_default()].concat();
            found.push((format!("file {name}"), bytes));
        }
    }
}

/// The places that hold canaries, with what was found there.
pub fn leaks(search: &Search, places: &[(String, Vec<u8>)]) -> Vec<String> {
    places
        .iter()
        .filter_map(|(label, bytes)| {
            let hits = search.hits(bytes);
            (!hits.is_empty()).then(|| format!("{label}:\n    {}", hits.join("\n    ")))
        })
        .collect()
}
