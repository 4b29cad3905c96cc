//! The command line as scripts use it: the real binary against a whole application, its own embedded servers, and a
//! database of somebody else's.

use crate::support::app::{TestApp, TestWorkers, job_of};
use crate::support::cluster::TestDatabase;
use crate::support::directory::TestDirectory;
use chartgate::ingest::fhir::sample::{self, Size};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

mod doctor;
mod many;

/// What a command did.
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Done {
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// The binary, with nothing of the environment but where programs and temporary files are.
fn chartgate(environment: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chartgate"));
    command.args(arguments).env_clear().kill_on_drop(true).stdin(Stdio::null());
    for name in ["PATH", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("HOME", "/nonexistent").envs(environment.iter().copied());
    command
}

async fn run(environment: &[(&str, &str)], arguments: &[&str]) -> Done {
    let output = tokio::time::timeout(Duration::from_mins(2), chartgate(environment, arguments).output());
    let output = output.await.unwrap_or_else(|_| panic!("{arguments:?} does not end")).unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// An application with workers, and files to submit.
struct Desk {
    app: TestApp,
    workers: Option<TestWorkers>,
    files: TestDirectory,
}

impl Desk {
    async fn open() -> Self {
        let app = TestApp::start().await;
        let workers = Some(app.workers());
        Self { app, workers, files: TestDirectory::new() }
    }

    /// From here on nothing runs.
    async fn stop(&mut self) {
        self.workers.take().unwrap().stop().await;
    }

    fn file(&self, name: &str, body: &[u8]) -> String {
        let path = self.files.path().join(name);
        std::fs::write(&path, body).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn run_as(&self, key: &str, arguments: &[&str]) -> Done {
        run(&[("CHARTGATE_URL", &self.app.url), ("CHARTGATE_API_KEY", key)], arguments).await
    }

    async fn sender(&self, arguments: &[&str]) -> Done {
        self.run_as(&self.app.organization.sender, arguments).await
    }

    async fn admin(&self, arguments: &[&str]) -> Done {
        self.run_as(&self.app.organization.admin, arguments).await
    }

    async fn platform(&self, arguments: &[&str]) -> Done {
        self.run_as(&self.app.platform, arguments).await
    }
}

fn good(seed: u64) -> Vec<u8> {
    sample::bundle(seed, 1, Size::Small)
}

/// Accepted, and failed by the `validate` step.
fn invalid(seed: u64) -> Vec<u8> {
    let mut bundle: Value = serde_json::from_slice(&good(seed)).unwrap();
    bundle["entry"][0]["resource"]["birthDate"] = json!("1987-02-31");
    bundle.to_string().into_bytes()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[tokio::test]
async fn submit_waits_for_its_jobs_and_its_exit_code_says_how_they_ended() {
    let mut desk = Desk::open().await;
    let (one, two) = (desk.file("one.json", &good(1)), desk.file("two.json", &good(2)));
    let out = desk.sender(&["submit", "--wait", &one, &two]).await.ok();
    assert_eq!(out.matches("  succeeded: ").count(), 2, "{out}");
    assert!(out.contains("store_raw") && out.contains("job_"), "{out}");
    let again = desk.sender(&["submit", "--json", &one]).await.json();
    assert_eq!((&again["file"], &again["answer"]["duplicate"]), (&json!(one), &json!(true)));

    let failing = desk.file("failing.json", &invalid(3));
    let done = desk.sender(&["submit", "--wait", "--json", &failing]).await;
    assert_eq!(done.code, 1, "{}", done.out);
    let lines = json_lines(&done.out);
    assert_eq!(
        (lines.len(), &lines[1]["status"], &lines[1]["error"]["code"]),
        (2, &json!("failed"), &json!("validation_failed"))
    );

    // A refused file does not keep the others from being sent.
    let refused = desk.file("refused.json", b"{");
    let done = desk.sender(&["submit", &refused, &desk.file("three.json", &good(4))]).await;
    assert_eq!((done.code, done.out.matches("job_").count()), (1, 1), "{}{}", done.out, done.err);
    assert!(done.err.contains("refused.json") && done.err.contains("invalid_json"), "{}", done.err);
    let missing = desk.sender(&["submit", "/nonexistent/bundle.json"]).await;
    assert!(missing.code == 1 && missing.err.contains("/nonexistent/bundle.json"), "{}", missing.err);
    desk.stop().await;
}

#[tokio::test]
async fn a_file_is_uploaded_once_whatever_is_run_again_and_its_hash_is_checked() {
    let mut desk = Desk::open().await;
    let file = desk.file("Doe_Jane_1980.ndjson", sample::lines(1, 2, Size::Full).concat().as_bytes());
    let state = desk.files.path().join("state").to_str().unwrap().to_owned();
    let upload = |more: &[&'static str]| {
        let mut arguments = vec!["upload".to_owned(), file.clone(), "--state-dir".to_owned(), state.clone()];
        arguments.extend(more.iter().map(|more| (*more).to_owned()));
        arguments
    };
    let call = async |desk: &Desk, more: &[&'static str]| {
        let arguments = upload(more);
        desk.sender(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let first = call(&desk, &["--json"]).await.json();
    assert_eq!(first["resumed"], false);
    let ticket = std::fs::read_dir(format!("{state}/uploads")).unwrap().next().unwrap().unwrap();
    assert_eq!(ticket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!std::fs::read_to_string(ticket.path()).unwrap().contains("Doe"), "names of files stay here");
    // The object is there already: only its end is waited for.
    let lines = json_lines(&call(&desk, &["--json", "--wait"]).await.ok());
    assert_eq!((&lines[0]["resumed"], &lines[0]["jobId"]), (&json!(true), &first["jobId"]));
    assert_eq!((&lines[1]["status"], &lines[1]["payload"]["sha256"]), (&json!("succeeded"), &first["sha256"]));
    assert_eq!(lines[1]["result"]["resources"], sample::lines(1, 2, Size::Full).len());
    // That is over; the same file again is another upload, without effects.
    let lines = json_lines(&call(&desk, &["--json", "--wait"]).await.ok());
    assert_eq!((&lines[0]["resumed"], &lines[1]["duplicateOf"]), (&json!(false), &first["jobId"]));

    let broken = desk.file("broken.ndjson", b"{\"resourceType\": \"Patient\"}\n{\n");
    let done = desk.sender(&["upload", &broken, "--wait", "--state-dir", &state]).await;
    assert!(done.code == 0 && done.out.contains("succeeded_with_issues"), "{}{}", done.out, done.err);
    let empty = desk.file("empty.ndjson", b"");
    let done = desk.sender(&["upload", &empty, "--state-dir", &state]).await;
    assert!(done.code == 1 && done.err.contains("is empty"), "{}", done.err);
    let directory = desk.files.path().join("directory.ndjson");
    std::fs::create_dir(&directory).unwrap();
    let done = desk.sender(&["upload", directory.to_str().unwrap(), "--state-dir", &state]).await;
    assert!(done.code == 1 && done.err.contains("not a regular file"), "{}", done.err);
    let unknown = desk.file("file.xml", b"<x/>");
    let done = desk.sender(&["upload", &unknown, "--state-dir", &state]).await;
    assert!(done.code == 1 && done.err.contains("--content-type"), "{}", done.err);
    desk.stop().await;
}

#[tokio::test]
async fn jobs_are_listed_shown_explained_retried_and_cancelled() {
    let mut desk = Desk::open().await;
    let job = job_of(&desk.app.submit(good(1)).await.1);
    let failed = job_of(&desk.app.submit(invalid(2)).await.1);
    desk.app.run_until_idle().await;

    let listed = json_lines(&desk.sender(&["jobs", "list", "--json"]).await.ok());
    let ids: Vec<&str> = listed.iter().map(|one| one["jobId"].as_str().unwrap()).collect();
    assert_eq!(ids, [&failed, &job]);
    let table = desk.sender(&["jobs", "list", "--status", "failed", "--error-code", "validation_failed"]).await.ok();
    assert!(table.starts_with("JOB") && table.contains(&failed) && !table.contains(&job), "{table}");
    assert_eq!(desk.sender(&["jobs", "list", "--limit", "1", "--json"]).await.ok().lines().count(), 1);
    assert_eq!(desk.sender(&["jobs", "list", "--workflow", "none", "--json"]).await.ok(), "");
    assert_eq!(desk.sender(&["jobs", "list", "--created-after", "soon"]).await.code, 1);
    assert!(desk.platform(&["jobs", "list", "--all"]).await.ok().contains(&job));

    assert_eq!(desk.sender(&["jobs", "show", "--json", &job]).await.json()["status"], "succeeded");
    let shown = desk.sender(&["jobs", "show", &failed]).await.ok();
    assert!(shown.contains("validation_failed (sender)") && shown.contains("skipped"), "{shown}");
    let explained = desk.sender(&["jobs", "explain", &failed]).await.ok();
    assert!(explained.contains("Who must act: the sender. Correct the data"), "{explained}");
    assert!(
        explained.contains("failed with validation_failed") && explained.contains("What happens next: "),
        "{explained}"
    );
    assert!(desk.sender(&["jobs", "explain", &job]).await.ok().contains("Who must act: nobody."));

    assert_eq!(desk.sender(&["jobs", "watch", "--json", &job]).await.json()["status"], "succeeded");
    assert_eq!(desk.sender(&["jobs", "watch", &failed]).await.code, 1);

    let retried = desk.admin(&["jobs", "retry", &failed, "--reason", "try", "--json"]).await.json();
    assert_eq!(retried["round"], 2);
    desk.app.wait_for(&failed, "failed").await;
    let counted = desk
        .admin(&["jobs", "retry", "--error-code", "validation_failed", "--dry-run", "--reason", "count"])
        .await
        .ok();
    assert_eq!(counted, "1 job(s) match\n");
    let many =
        desk.admin(&["jobs", "retry", "--error-code", "validation_failed", "--reason", "again", "--json"]).await.json();
    assert_eq!((&many["status"], &many["done"]), (&json!("succeeded"), &json!(1)));
    desk.app.wait_until(&failed, "in its third round", |view| view["round"] == 3).await;
    desk.app.run_until_idle().await;
    let denied = desk.sender(&["jobs", "retry", &failed, "--reason", "x"]).await;
    assert!(denied.code == 1 && denied.err.contains("forbidden"), "{}", denied.err);
    assert_eq!(desk.admin(&["jobs", "retry", &failed, "--reason", "x", "--from", "nowhere"]).await.code, 1);
    assert_eq!(desk.admin(&["jobs", "retry", &failed]).await.code, 2, "a reason is needed");

    desk.stop().await;
    let waiting = job_of(&desk.app.submit(good(9)).await.1);
    assert!(desk.sender(&["jobs", "explain", &waiting]).await.ok().contains("No worker process has reported"));
    let cancelled = desk.sender(&["jobs", "cancel", &waiting, "--reason", "sent by mistake"]).await.ok();
    assert_eq!(cancelled, format!("{waiting} is cancelled\n"));
    let twice = desk.sender(&["jobs", "cancel", &waiting]).await;
    assert!(twice.code == 1 && twice.err.contains("job_is_terminal"), "{}", twice.err);
    for odd in ["job_x", "../admin/keys", "%00", "a b?c#d", ""] {
        let unknown = desk.sender(&["jobs", "show", odd]).await;
        assert!(unknown.code == 1 && unknown.err.contains("not_found"), "{odd:?}: {}{}", unknown.out, unknown.err);
    }
}

#[tokio::test]
async fn organizations_and_keys_are_administered() {
    let mut desk = Desk::open().await;
    let created = desk.platform(&["orgs", "create", "St. Mary's", "--json"]).await.json();
    assert_eq!(created["name"], "St. Mary's");
    assert_eq!(desk.platform(&["orgs", "create", "St. Mary's"]).await.code, 1);
    let id = created["id"].as_str().unwrap();
    assert!(desk.platform(&["orgs", "list"]).await.ok().contains(id));
    for organization in ["St. Mary's", id] {
        let paused = desk.platform(&["orgs", "pause", organization, "--reason", "downtime"]).await.ok();
        assert_eq!(paused, "St. Mary's is paused\n");
        assert_eq!(desk.platform(&["orgs", "resume", organization]).await.ok(), "St. Mary's is active\n");
    }
    let nowhere = desk.platform(&["orgs", "pause", "Nowhere"]).await;
    assert!(nowhere.code == 2 && nowhere.err.contains("orgs list"), "{}", nowhere.err);

    let arguments = ["keys", "create", "--organization", "St. Mary's", "--role", "sender", "--name", "lab", "--json"];
    let key = desk.platform(&arguments).await.json();
    let text = key["key"].as_str().unwrap();
    let file = desk.file("one.json", &good(1));
    desk.run_as(text, &["submit", &file]).await.ok();
    let listed = json_lines(&desk.platform(&["keys", "list", "--json"]).await.ok());
    let one = listed.iter().find(|one| one["id"] == key["id"]).unwrap();
    assert_eq!((&one["name"], &one["organizationId"]), (&json!("lab"), &json!(id)));
    let plain = desk.platform(&["keys", "create", "--organization", id, "--role", "reader"]).await;
    assert!(
        plain.out.starts_with("cgk_") && plain.out.lines().count() == 1 && plain.err.contains("once"),
        "{}",
        plain.out
    );
    desk.platform(&["keys", "revoke", key["id"].as_str().unwrap()]).await.ok();
    assert_eq!(desk.platform(&["keys", "revoke", "0123456789abcdef"]).await.code, 1);
    // A successor, and a webhook sender whose secret is rotated.
    let old = plain.out.split('_').nth(1).unwrap();
    let rotated = desk.platform(&["keys", "rotate", old, "--overlap", "2h", "--json"]).await.json();
    assert_eq!((&rotated["role"], &rotated["organizationId"]), (&json!("reader"), &json!(id)));
    assert_eq!(desk.platform(&["keys", "rotate", old, "--overlap", "soon"]).await.code, 2);
    let made = desk.admin(&["keys", "webhook", "create", "--name", "lab", "--json"]).await.json();
    let sender = made["sender"].as_str().unwrap();
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"), "{made}");
    let more = desk.admin(&["keys", "webhook", "create", "--sender", sender, "--overlap", "1d"]).await;
    assert!(
        more.out.starts_with(&format!("Chartgate-Key: {sender}\nwhsec_")) && more.err.contains("once"),
        "{}",
        more.out
    );
    let listed = json_lines(&desk.admin(&["keys", "webhook", "list", "--json"]).await.ok());
    assert_eq!((listed.len(), &listed[1]["name"]), (2, &json!("lab")));
    assert!(listed[0]["expiresAt"].is_string() && listed[1]["expiresAt"].is_null());
    desk.admin(&["keys", "webhook", "revoke", made["id"].as_str().unwrap()]).await.ok();
    assert_eq!(desk.platform(&["keys", "webhook", "list"]).await.code, 1);
    assert_eq!(desk.platform(&["keys", "create", "--role", "owner"]).await.code, 2);
    assert_eq!(desk.sender(&["keys", "list"]).await.code, 1);
    desk.stop().await;
}

#[tokio::test]
async fn files_and_workflows_are_checked_without_any_server() {
    let files = TestDirectory::new();
    let write = |name: &str, body: &[u8]| {
        let path = files.path().join(name);
        std::fs::write(&path, body).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (fine, bad, broken) =
        (write("fine.json", &good(1)), write("bad.json", &invalid(1)), write("broken.json", b"{"));
    assert_eq!(run(&[], &["validate", &fine]).await.ok(), format!("{fine}: valid\n"));
    let done = run(&[], &["validate", "--json", &fine, &bad, &broken]).await;
    assert_eq!(done.code, 1);
    let lines = json_lines(&done.out);
    assert_eq!(lines.iter().map(|line| line["valid"].as_bool().unwrap()).collect::<Vec<_>>(), [true, false, false]);
    for line in &lines[1..] {
        let issue = line["issues"][0].as_object().unwrap();
        for member in ["severity", "code", "expression", "pointer", "offset", "line", "message"] {
            assert!(issue.contains_key(member), "{member}: {line}");
        }
    }
    assert_eq!(lines[1]["issues"][0]["expression"], "Bundle.entry[0].resource.birthDate");

    assert!(run(&[], &["workflows", "check"]).await.ok().contains("no faults"));
    let listed = json_lines(&run(&[], &["workflows", "list", "--json"]).await.ok());
    assert_eq!(
        listed.iter().map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["athena-event", "bulk-upload", "callback", "fhir-bundle"]
    );
    let workflows = TestDirectory::new();
    let text = "name = \"mine\"\nversion = 0\nordering = \"sideways\"\ncolour = 1\n[[step]]\nname = \"a\"\nhandler = \"no.such\"\n";
    std::fs::write(workflows.path().join("mine.toml"), text).unwrap();
    std::fs::write(workflows.path().join("other.toml"), "name = ").unwrap();
    let done = run(&[], &["workflows", "check", workflows.path().to_str().unwrap()]).await;
    assert_eq!(done.code, 1);
    let faults: Vec<&str> = done.out.lines().collect();
    assert!(faults.len() >= 4, "all faults at once: {faults:?}");
    assert!(
        faults.iter().any(|fault| fault.contains("other.toml"))
            && faults.iter().any(|fault| fault.contains("mine.toml"))
    );
    assert!(done.err.contains(&format!("{} fault(s)", faults.len())), "{}", done.err);

    let description = run(&[], &["openapi"]).await.json();
    assert_eq!(description, serde_json::to_value(chartgate::http::description()).unwrap());
}

#[tokio::test]
async fn exit_codes_tell_usage_refusal_and_absence_apart() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere = format!("http://{free}");
    let away = run(&[("CHARTGATE_URL", &nowhere), ("CHARTGATE_API_KEY", "x")], &["jobs", "list"]).await;
    assert!(away.code == 3 && away.err.contains("chartgate serve"), "{}", away.err);
    let keyless = run(&[("CHARTGATE_URL", &nowhere)], &["jobs", "list"]).await;
    assert!(keyless.code == 2 && keyless.err.contains("CHARTGATE_API_KEY"), "{}", keyless.err);
    for usage in
        [vec!["nothing"], vec![], vec!["jobs", "show"], vec!["jobs", "retry", "x"], vec!["serve", "--role", "king"]]
    {
        assert_eq!(run(&[], &usage).await.code, 2, "{usage:?}");
    }
    let faults = run(&[("CHARTGATE_LISTEN", "here"), ("CHARTGATE_LEASE_SECONDS", "0")], &["openapi"]).await;
    assert!(faults.code == 2 && faults.err.contains("2 fault(s)"), "{}", faults.err);
    for command in [vec!["migrate"], vec!["keys", "bootstrap"]] {
        let unset = run(&[], &command).await;
        assert!(unset.code == 2 && unset.err.contains("DATABASE_URL"), "{}", unset.err);
        let url = "postgres://postgres@%2Fnonexistent/none";
        let away = run(&[("DATABASE_URL", url)], &command).await;
        assert_eq!(away.code, 3, "{}", away.err);
    }
    let help = run(&[], &["--help"]).await;
    assert!(help.code == 0 && help.out.contains("chartgate demo"));
}

/// The URL of a database in the shared cluster.
fn url_of(options: &PgConnectOptions) -> String {
    let socket = options.get_socket().unwrap().to_str().unwrap().replace('/', "%2F");
    format!("postgres://postgres@{socket}:5432/{}", options.get_database().unwrap())
}

#[tokio::test]
async fn a_fresh_database_is_migrated_and_gets_its_first_key() {
    let database = TestDatabase::new().await;
    let mut maintenance = PgConnection::connect_with(&database.options().database("postgres")).await.unwrap();
    for statement in
        [format!("drop database {} with (force)", database.name), format!("create database {}", database.name)]
    {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut maintenance).await.unwrap();
    }
    let url = url_of(&database.options());
    let environment = [("DATABASE_URL", url.as_str()), ("CHARTGATE_DATABASE_ALLOW_UNSAFE", "true")];
    for _ in 0..2 {
        assert_eq!(run(&environment, &["migrate"]).await.ok(), "the database has the newest schema\n");
    }
    let key = run(&environment, &["keys", "bootstrap", "--json"]).await.json();
    assert_eq!((&key["role"], key["key"].as_str().unwrap().starts_with("cgk_")), (&json!("platform"), true));
    let mut connection = PgConnection::connect_with(&database.options()).await.unwrap();
    let keys: i64 = sqlx::query_scalar("select count(*) from api_keys where role = 'platform' and id = $1")
        .bind(key["id"].as_str().unwrap())
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let records: i64 =
        sqlx::query_scalar("select count(*) from audit_records where event = 'key.created' and actor = 'cli'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!((keys, records), (1, 1));
}

/// A running `serve`.
struct Server {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: Vec<String>,
}

impl Server {
    fn start(data: &Path, arguments: &[&str]) -> Self {
        let mut all = vec!["serve", "--data-dir", data.to_str().unwrap()];
        all.extend(arguments);
        let mut process = chartgate(&[], &all).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines, said: Vec::new() }
    }

    /// Until it says so.
    async fn says(&mut self, word: &str) {
        let wait = async {
            loop {
                let line = self
                    .lines
                    .next_line()
                    .await
                    .unwrap()
                    .unwrap_or_else(|| panic!("ended without {word:?}: {:?}", self.said));
                self.said.push(line);
                if self.said.last().unwrap().contains(word) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_mins(1), wait).await.expect("it starts within a minute");
    }

    /// SIGTERM; returns its exit code.
    async fn terminate(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.process.id().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = tokio::time::timeout(Duration::from_mins(1), self.process.wait());
        ended.await.expect("it stops within a minute").unwrap().code()
    }
}

fn credentials(data: &Path) -> Value {
    let path = data.join("demo-credentials.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The directory of the embedded instance's socket, as others find it.
fn socket_of(data: &Path) -> PathBuf {
    let path = data.join("run").join("endpoints.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let endpoints: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    PathBuf::from(endpoints["postgres_socket_dir"].as_str().unwrap()).join(".s.PGSQL.5432")
}

#[tokio::test]
async fn serve_needs_nothing_is_joined_by_a_worker_and_stops_cleanly() {
    let directory = TestDirectory::new();
    let data = directory.path().join("data");
    let alone = run(&[], &["serve", "--role", "worker", "--data-dir", data.to_str().unwrap()]).await;
    assert!(alone.code == 3 && alone.err.contains("chartgate serve"), "{}: {}", alone.code, alone.err);

    // An API without workers: what is accepted waits.
    let mut api = Server::start(&data, &["--role", "api", "--role", "sweeper", "--listen", "127.0.0.1:0"]);
    api.says("listens on http://").await;
    let stored = credentials(&data);
    let (url, keys) = (stored["url"].as_str().unwrap().to_owned(), stored["keys"].clone());
    let names: BTreeSet<&str> = stored.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["url", "organization", "keys"]));
    assert!(stored["organization"].as_str().unwrap().starts_with("org_"));
    let key = |role: &str| keys[role].as_str().unwrap().to_owned();
    for role in ["sender", "reader", "admin", "platform"] {
        assert!(api.said.iter().any(|line| line.contains(&key(role))), "the {role} key is printed at the first start");
    }
    let (sender, platform) = (key("sender"), key("platform"));
    let sending = [("CHARTGATE_URL", url.as_str()), ("CHARTGATE_API_KEY", sender.as_str())];
    let file = directory.path().join("one.json");
    std::fs::write(&file, good(1)).unwrap();
    let job = run(&sending, &["submit", "--json", file.to_str().unwrap()]).await.json()["answer"]["jobId"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(run(&sending, &["jobs", "show", "--json", &job]).await.json()["status"], "queued");

    let mut worker = Server::start(&data, &["--role", "worker"]);
    worker.says("without an HTTP listener").await;
    assert_eq!(run(&sending, &["jobs", "watch", "--json", &job]).await.json()["status"], "succeeded");
    let socket = socket_of(&data);
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
    assert_eq!(worker.terminate().await, Some(0));
    // The instance goes on without its worker, and ends with the process that started it.
    let asking = [("CHARTGATE_URL", url.as_str()), ("CHARTGATE_API_KEY", platform.as_str())];
    run(&asking, &["orgs", "list"]).await.ok();
    assert_eq!(api.terminate().await, Some(0));
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_err(), "PostgreSQL is still there");
    assert_eq!(run(&asking, &["orgs", "list"]).await.code, 3);

    // The same keys at the next start, which prints none; the job is still there. S3 is where it was: workers that are still
    // there, and URLs that were given out, need it.
    let s3 = |data: &Path| {
        let endpoints: Value =
            serde_json::from_slice(&std::fs::read(data.join("run/endpoints.json")).unwrap()).unwrap();
        endpoints["s3_endpoint"].as_str().unwrap().to_owned()
    };
    let before = s3(&data);
    let mut again = Server::start(&data, &["--listen", "127.0.0.1:0"]);
    again.says("demo-credentials.json").await;
    assert_eq!(s3(&data), before);
    let restored = credentials(&data);
    assert_eq!((&restored["keys"], &restored["organization"]), (&keys, &stored["organization"]));
    assert!(!again.said.iter().any(|line| line.contains("cgk_")), "{:?}", again.said);
    let sending = [("CHARTGATE_URL", restored["url"].as_str().unwrap()), ("CHARTGATE_API_KEY", sender.as_str())];
    assert_eq!(run(&sending, &["jobs", "show", "--json", &job]).await.json()["status"], "succeeded");
    assert_eq!(again.terminate().await, Some(0));
}

#[tokio::test]
async fn the_demo_shows_the_main_job_and_ends_with_everything_it_started() {
    let directory = TestDirectory::new();
    let data = directory.path().join("demo");
    // Whatever is configured: a demo touches only its own directory.
    let environment = [("DATABASE_URL", "postgres://elsewhere/none"), ("UPLOAD_BUCKET", "elsewhere")];
    for _ in 0..2 {
        let done =
            run(&environment, &["demo", "--bundles", "2", "--events", "3", "--data-dir", data.to_str().unwrap()]).await;
        assert_eq!(done.code, 0, "{}{}", done.out, done.err);
        assert_eq!(done.out.matches("  succeeded: ").count(), 5, "{}", done.out);
        assert!(done.out.matches("→ found").count() == 2 && done.out.contains("chartgate serve"), "{}", done.out);
        assert!(std::os::unix::net::UnixStream::connect(socket_of(&data)).is_err(), "PostgreSQL is still there");
    }
}

#[tokio::test]
async fn reviews_are_listed_shown_and_decided() {
    let app = TestApp::start().await;
    let workers = app.workers();
    let people =
        [("a", "1987"), ("b", "1999"), ("c", "2001")].map(|(id, born)| crate::clinical::patient(id, "r1", born));
    let job = job_of(&app.submit(crate::clinical::bundle("batch", &people).to_string()).await.1);
    app.wait_for(&job, "succeeded").await;
    workers.stop().await;
    let environment = [("CHARTGATE_URL", app.url.as_str()), ("CHARTGATE_API_KEY", app.organization.admin.as_str())];
    let listed = run(&environment, &["reviews", "list", "--json"]).await.ok();
    let reviews: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reviews.len(), 2);
    let table = run(&environment, &["reviews", "list", "--limit", "1"]).await.ok();
    assert!(table.lines().count() == 2 && table.contains("birth_date"), "{table}");
    let (first, second) = (reviews[0]["reviewId"].as_str().unwrap(), reviews[1]["reviewId"].as_str().unwrap());
    let shown = run(&environment, &["reviews", "show", first]).await.ok();
    assert!(shown.contains("incoming") && shown.contains("1987") && shown.contains("urn:hospital|r1"), "{shown}");
    let patient = reviews[0]["candidates"][0]["patient"].as_str().unwrap();
    let decided =
        run(&environment, &["reviews", "decide", first, "--link", patient, "--reason", "x", "--json"]).await.json();
    assert_eq!((&decided["status"], &decided["patient"]), (&json!("decided"), &json!(patient)));
    let refused = run(&environment, &["reviews", "decide", first, "--new", "--reason", "x"]).await;
    assert!(refused.code == 1 && refused.err.contains("review_decided"), "{}", refused.err);
    assert_eq!(run(&environment, &["reviews", "decide", second, "--reason", "x"]).await.code, 2);
    let decided = run(&environment, &["reviews", "decide", second, "--new", "--reason", "x", "--json"]).await.json();
    let other = decided["patient"].as_str().unwrap();
    run(&environment, &["patients", "merge", other, "--into", patient, "--reason", "x"]).await.ok();
    run(&environment, &["patients", "unmerge", other, "--reason", "x"]).await.ok();
    let event = reviews[0]["eventId"].as_str().unwrap();
    run(&environment, &["patients", "unlink", event, "--reason", "x"]).await.ok();
    run(&environment, &["patients", "link", event, "--patient", patient, "--reason", "x"]).await.ok();
    assert_eq!(run(&environment, &["reviews", "list", "--json"]).await.ok(), "");
}
