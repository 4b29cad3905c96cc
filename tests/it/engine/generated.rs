//! Tests made for every workflow file that ships: each step run twice, a stop before and after each commit, each step
//! failing in each class. Whatever happens on the way, the rows at the end are the same.

use crate::support::app::{Setup, TestApp, job_of};
use chartgate::db::{DbError, Scope};
use chartgate::engine::handler::{ErrorClass, StepContext, StepError, StepHandler, StepOutcome};
use chartgate::ingest::fhir::sample::{self, Size};
use chartgate::ingest::steps;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What happens around the real handler of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// The whole step twice: the first time its transaction is rolled back at its end.
    Twice,
    /// Stopped after what it writes outside the database (S3), before its transaction.
    StopBeforeCommit,
    /// Fails once in that class.
    Fails(ErrorClass),
}

struct Troubled {
    real: Arc<dyn StepHandler>,
    step: &'static str,
    trouble: Trouble,
    hits: AtomicU32,
    db: std::sync::OnceLock<chartgate::db::Db>,
}

#[async_trait::async_trait]
impl StepHandler for Troubled {
    fn params(&self) -> &'static [&'static str] {
        self.real.params()
    }

    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        if context.step != self.step || self.trouble == Trouble::None || self.hits.fetch_add(1, Ordering::SeqCst) > 0 {
            return self.real.run(context).await;
        }
        match self.trouble {
            Trouble::None => unreachable!(),
            Trouble::Twice => {
                let outcome = self.real.run(context).await?;
                if let Some(effect) = outcome.effect {
                    let undone = self
                        .db
                        .get()
                        .unwrap()
                        .unit::<(), StepError, _>(Scope::Organization(context.organization), move |connection| {
                            Box::pin(async move {
                                effect(connection).await?;
                                Err(StepError::ours("rolled_back", "On purpose."))
                            })
                        })
                        .await;
                    assert_eq!(undone.unwrap_err().code, "rolled_back");
                }
                self.real.run(context).await
            }
            Trouble::StopBeforeCommit => {
                let _ = self.real.run(context).await?;
                Err(StepError::transient("stopped", "Stopped before its commit, on purpose."))
            }
            Trouble::Fails(class) => Err(StepError::new(class, "failed_on_purpose", "On purpose.")),
        }
    }
}

/// Everything that a job leaves behind, without ids and times.
async fn fingerprint(app: &TestApp) -> String {
    sqlx::query_scalar(
        "select concat_ws(' ',
           (select string_agg(resource_type || '/' || resource_key || ':' || link_status || ':' || is_current, ',' order by resource_type, resource_key) from clinical_events),
           (select count(*) from patients), (select count(*) from patient_identifiers), (select count(*) from patient_links),
           (select count(*) || ':' || coalesce(string_agg(category || coalesce(value_text, ''), ',' order by category, value_text), '') from findings),
           (select count(*) from finding_evidence), (select count(*) from issues),
           (select string_agg(encode(sha256, 'hex') || (body is null), ',') from payloads),
           (select count(*) from jobs), (select count(*) from queue),
           (select count(*) from audit_records where event = 'job.closed'))",
    )
    .fetch_one(&mut app.owner().await)
    .await
    .unwrap()
}

async fn troubled_app(step: &'static str, trouble: Trouble) -> TestApp {
    // The real handlers need the database and the store of the application: build it once to get both.
    let app = TestApp::with(Setup::default()).await;
    let troubled: Vec<(&'static str, Arc<Troubled>)> = steps::handlers(app.app.db.clone(), app.objects.objects.clone())
        .into_iter()
        .map(|(name, real)| {
            let troubled = Troubled { real, step, trouble, hits: AtomicU32::new(0), db: std::sync::OnceLock::new() };
            troubled.db.set(app.app.db.clone()).unwrap();
            (name, Arc::new(troubled))
        })
        .collect();
    app.rebuilt(troubled.into_iter().map(|(name, handler)| (name, handler as Arc<dyn StepHandler>)).collect()).await
}

/// Submit what a workflow is for; the job.
async fn submit(app: &TestApp, workflow: &str) -> String {
    let (status, accepted) = match workflow {
        "fhir-bundle" => app.submit(sample::bundle(7, 1, Size::Full)).await,
        "athena-event" => {
            let event = json!({
                "athena_patient_id": "4711", "event_type": "vitals", "captured_at": "2026-03-01T10:00:00Z",
                "payload": {"bp": "120/80", "pulse": "72", "temp": "98.6"},
            });
            app.post(&app.organization.sender, "/ingest/athena", &event).await
        }
        other => panic!("say in {} what is submitted to {other}", file!()),
    };
    assert_eq!(status, 202, "{accepted}");
    accepted["job_id"].as_str().map_or_else(|| job_of(&accepted), str::to_owned)
}

async fn run(workflow: &str, step: &'static str, trouble: Trouble) -> (TestApp, serde_json::Value) {
    let app = troubled_app(step, trouble).await;
    let workers = app.workers();
    let job = submit(&app, workflow).await;
    let view =
        app.wait_until(&job, "ended", |view| ["succeeded", "failed"].contains(&view["status"].as_str().unwrap())).await;
    workers.stop().await;
    (app, view)
}

/// Every workflow file that ships, with its steps. But `bulk-upload`: its jobs wait for their object, which nobody takes up
/// yet (docs/bulk.md). And but `callback`: nobody submits its jobs; tests/it/callbacks stops and repeats its one step.
fn workflows() -> Vec<(String, Vec<&'static str>)> {
    let files = chartgate::engine::catalog::files(None).unwrap();
    let workflow = |text: &str| {
        let table: toml::Table = text.parse().unwrap();
        let steps = table["step"].as_array().unwrap();
        let steps = steps.iter().map(|step| &*step["name"].as_str().unwrap().to_owned().leak()).collect();
        (table["name"].as_str().unwrap().to_owned(), steps)
    };
    files
        .iter()
        .map(|(_, text)| workflow(text))
        .filter(|(name, _)| !["bulk-upload", "callback"].contains(&name.as_str()))
        .collect()
}

#[tokio::test]
async fn a_step_that_runs_twice_leaves_the_rows_of_one_run() {
    for (workflow, steps) in workflows() {
        let (app, view) = run(&workflow, "none", Trouble::None).await;
        assert_eq!(view["status"], "succeeded", "{view:#}");
        let expected = fingerprint(&app).await;
        for step in steps {
            let (app, view) = run(&workflow, step, Trouble::Twice).await;
            assert_eq!(view["status"], "succeeded", "{workflow} {step}: {view:#}");
            assert_eq!(fingerprint(&app).await, expected, "{workflow} {step}");
        }
    }
}

#[tokio::test]
async fn a_stop_between_a_steps_outside_write_and_its_commit_changes_nothing() {
    for (workflow, steps) in workflows() {
        let (app, _) = run(&workflow, "none", Trouble::None).await;
        let expected = fingerprint(&app).await;
        for step in steps {
            let (app, view) = run(&workflow, step, Trouble::StopBeforeCommit).await;
            assert_eq!(view["status"], "succeeded", "{workflow} {step}: {view:#}");
            assert_eq!(fingerprint(&app).await, expected, "{workflow} {step}");
            let attempts = app.count("select count(*) from step_attempts where error_code = 'stopped'").await;
            assert_eq!(attempts, 1, "{workflow} {step}");
        }
    }
}

#[tokio::test]
async fn a_stop_after_each_commit_resumes_at_the_next_step() {
    for (workflow, steps) in workflows() {
        let (app, _) = run(&workflow, "none", Trouble::None).await;
        let expected = fingerprint(&app).await;
        let app = TestApp::start().await;
        let job = submit(&app, &workflow).await;
        for (index, step) in steps.iter().enumerate() {
            // Fresh workers that are told to stop at once: they finish the step under way and hand the job back.
            let workers = app.workers();
            app.wait_until(&job, "past the step", |view| view["steps"][index]["status"] == "succeeded").await;
            workers.stop().await;
            println!("{workflow}: stopped after {step}");
        }
        let view = app.job(&job).await;
        assert_eq!(view["status"], "succeeded", "{view:#}");
        assert_eq!(fingerprint(&app).await, expected);
        assert_eq!(app.count("select count(*) from job_steps").await, i64::try_from(steps.len()).unwrap());
    }
}

#[tokio::test]
async fn each_step_failing_in_each_class_ends_as_its_class_says_and_a_retry_completes_it() {
    for (workflow, steps) in workflows() {
        let (app, _) = run(&workflow, "none", Trouble::None).await;
        let expected = fingerprint(&app).await;
        for step in steps {
            for class in [ErrorClass::Transient, ErrorClass::Sender, ErrorClass::Ours] {
                fails_once(&workflow, step, class, &expected).await;
            }
        }
    }
}

async fn fails_once(workflow: &str, step: &'static str, class: ErrorClass, expected: &str) {
    let (app, view) = run(workflow, step, Trouble::Fails(class)).await;
    if class == ErrorClass::Transient {
        assert_eq!(view["status"], "succeeded", "{workflow} {step} {class:?}: {view:#}");
        assert_eq!(fingerprint(&app).await, expected, "{workflow} {step} {class:?}");
        return;
    }
    assert_eq!(view["status"], "failed", "{workflow} {step} {class:?}: {view:#}");
    assert_eq!(view["error"]["code"], "failed_on_purpose");
    let stored = app.count("select count(*) from payloads where body is null").await;
    assert!(stored == 1 || step == "store_raw", "raw bytes are kept although {step} failed");
    let job = view["jobId"].as_str().unwrap();
    let path = format!("/v1/admin/jobs/{job}/retry");
    assert_eq!(app.post(&app.organization.admin, &path, &json!({ "reason": "mended" })).await.0, 202);
    let workers = app.workers();
    app.wait_for(job, "succeeded").await;
    workers.stop().await;
    let closed = app.count("select count(*) from audit_records where event = 'job.closed'").await;
    let actual = fingerprint(&app).await;
    let (actual, _) = actual.rsplit_once(' ').unwrap();
    assert_eq!(actual, expected.rsplit_once(' ').unwrap().0, "{workflow} {step} {class:?}");
    assert!(closed >= 1);
}

#[tokio::test]
async fn the_unit_of_work_of_a_stale_lease_writes_nothing() {
    let app = TestApp::start().await;
    let (_, accepted) = app.submit(sample::bundle(8, 1, Size::Small)).await;
    let job = job_of(&accepted);
    let workers = app.workers();
    app.wait_for(&job, "succeeded").await;
    workers.stop().await;
    let organization = app.organization.id;
    // The job is gone from the queue: a worker that comes late with the first step again meets no row.
    let lease = chartgate::engine::store::Lease {
        organization,
        seq: app.count("select seq from jobs").await,
        chunk: 0,
        job: job.parse().unwrap(),
        workflow: "fhir-bundle".into(),
        workflow_version: 1,
        round: 1,
        step: 0,
        attempts: 1,
        deaths: 0,
        epoch: 1,
        lane: None,
        age_ms: 0,
        trace: chartgate::engine::store::LeaseTrace::Unknown,
    };
    let step = chartgate::engine::store::FinishedStep {
        lease,
        name: "validate".into(),
        elapsed: Duration::ZERO,
        next: Some(1),
        output: serde_json::Map::new(),
        closing: None,
        hand_off: false,
    };
    let rows = app
        .app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move {
                let worker = chartgate::ids::WorkerId::new();
                chartgate::engine::store::commit_steps(connection, &[step], worker, Duration::from_secs(1)).await
            })
        })
        .await
        .unwrap();
    assert!(rows.is_empty());
    assert_eq!(app.count("select count(*) from job_steps").await, 5);
}
