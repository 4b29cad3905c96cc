//! Handlers that panic with a body in their hands, and errors of libraries that quote what they read: in a process of its
//! own, whose log is kept, since what happens at a panic is the whole process's business.

use super::instance::{CLINICAL_TABLES, leaks};
use super::search::Search;
use super::values::{LETTERS, Person};
use crate::support::app::{Setup, TestApp, job_of};
use crate::support::directory::TestDirectory;
use crate::support::program;
use chartgate::engine::handler::{StepContext, StepError, StepHandler, StepOutcome};
use chartgate::telemetry;
use sqlx::AssertSqlSafe;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// What the handler does, by the workflow that names it.
const WAYS: &[(&str, &str)] = &[
    ("panics", "handler_panicked"),
    ("effect-panics", "database_refused"),
    ("quotes", "step_panicked"),
    ("i-o", "object_store_unavailable"),
];

/// Fails as the step is named.
struct Fails;

#[async_trait::async_trait]
impl StepHandler for Fails {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let person = Person::new(3);
        match context.step.as_str() {
            "panics" => {
                let text = person.family.clone();
                // Within the last character: what the standard library says of it quotes the text.
                let half = text.len() - 1;
                panic!("{} {}", person.ssn, &text[..half]);
            }
            "effect-panics" => Ok(StepOutcome::default().with_effect(move |_| {
                let note = person.note.clone();
                Box::pin(async move {
                    Err::<i32, String>(note).map(|_| serde_json::Map::new()).map_err(|note| panic!("{note}"))
                })
            })),
            "quotes" => {
                let quoting = serde_json::from_value::<u32>(serde_json::Value::from(person.note.clone())).unwrap_err();
                assert!(quoting.to_string().contains(LETTERS), "serde quotes what it reads: {quoting}");
                Err(StepError::ours("step_panicked", "The step's computation panicked.").caused_by(quoting))
            }
            _ => {
                let quoting = std::io::Error::other(person.mrn.clone());
                Err(StepError::transient("object_store_unavailable", "Object storage broke off.").caused_by(quoting))
            }
        }
    }
}

fn workflow(name: &str) -> String {
    format!(
        "name = \"{name}\"\nversion = 1\nsummary = \"Fails.\"\nordering = \"none\"\n[[step]]\nname = \"{name}\"\nhandler = \"test.fails\"\n\
         retry = {{ attempts = 2, first_delay = \"10ms\", max_delay = \"20ms\", factor = 2 }}\n"
    )
}

/// The process: it fails in every way, and says what it found in its own tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_process() {
    if program::directory().is_none() {
        return;
    }
    telemetry::start("trace", true);
    telemetry::quiet_panics();
    let workflows = WAYS.iter().map(|(name, _)| (*name, workflow(name))).collect();
    let handlers = vec![("test.fails", Arc::new(Fails) as Arc<dyn StepHandler>)];
    let app = TestApp::with(Setup { handlers, workflows, ..Setup::default() }).await;
    let workers = app.workers();
    for (name, code) in WAYS {
        let submitted = crate::support::submit::submit(&app, app.organization.id, name, None).await;
        let view = app.wait_for(&submitted.job.to_string(), "failed").await;
        println!("CODE {name} {} {code}", view["error"]["code"]);
    }
    let accepted = app.submit(Person::new(4).bundle().to_string()).await.1;
    app.wait_for(&job_of(&accepted), "succeeded").await;
    // A panic of the test's own thread, too.
    let _ = std::thread::Builder::new()
        .name("bystander".to_owned())
        .spawn(|| panic!("{}", Person::new(5).note))
        .unwrap()
        .join();
    workers.stop().await;
    let mut owner = app.owner().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    let mut places = Vec::new();
    for table in tables.into_iter().filter(|table| !CLINICAL_TABLES.iter().any(|(name, _)| name == table)) {
        let query = format!("select coalesce(string_agg(t::text, chr(10)), '') from {table} t");
        let rows: String = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut owner).await.unwrap();
        places.push((format!("table {table}"), rows.into_bytes()));
    }
    println!("LEAKS {} of {}", leaks(&Search::new(), &places).len(), places.len());
}

#[test]
fn a_panic_and_a_library_that_quotes_leave_no_canary_behind() {
    let directory = TestDirectory::new();
    let log = directory.path().join("log");
    let said = directory.path().join("said");
    let file = |path: &PathBuf| Stdio::from(std::fs::File::create(path).unwrap());
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "canaries::panics::failing_process", "--nocapture"])
        .env("CHARTGATE_TEST_PROGRAM_DIRECTORY", directory.path())
        .env("RUST_BACKTRACE", "full")
        .stdout(file(&said))
        .stderr(file(&log))
        .status()
        .unwrap();
    let (said, log) = (std::fs::read_to_string(said).unwrap(), std::fs::read_to_string(log).unwrap());
    assert!(status.success(), "{said}\n{log}");
    for (name, code) in WAYS {
        assert!(said.contains(&format!("CODE {name} \"{code}\" {code}")), "{name}: {said}");
    }
    assert!(said.contains("LEAKS 0 of "), "{said}");
    // It was told that there were panics, where, and in which thread.
    assert!(log.matches("the program panicked at ").count() >= 3, "{log}");
    assert!(log.contains("panics.rs") && log.contains("bystander"), "{log}");
    let found =
        leaks(&Search::new(), &[("log".to_owned(), log.clone().into_bytes()), ("said".to_owned(), said.into_bytes())]);
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(
        !Search::new().hits(format!("{log}{}", Person::new(3).note).as_bytes()).is_empty(),
        "the search is not blind"
    );
}
