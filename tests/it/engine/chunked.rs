//! A workflow over chunks whose steps do what a test tells them.

use crate::support::app::{Setup, TestApp};
use chartgate::engine::handler::{Facts, StepContext, StepError, StepHandler, StepOutcome};
use rand::RngExt as _;
use serde_json::json;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What one attempt at a chunk does.
#[derive(Debug, Clone)]
pub enum Act {
    Transient,
    Sender,
    /// Hang so long, then succeed.
    Slow(Duration),
}

/// A workflow's steps over chunks that do what a test tells them, each effect a row.
#[derive(Default)]
pub struct Chunked {
    pub chunks: AtomicUsize,
    pub script: Mutex<HashMap<(String, i32), Vec<Act>>>,
    pub always: Mutex<Option<Act>>,
    pub verdict: Mutex<Option<&'static str>>,
    pub runs: Mutex<Vec<(String, i32)>>,
    pub now: AtomicUsize,
    pub most: AtomicUsize,
    pub seed: Mutex<Option<rand::rngs::StdRng>>,
}

/// A chunk that is being worked on.
struct Under<'a>(&'a Chunked);

impl<'a> Under<'a> {
    fn way(chunked: &'a Chunked) -> Self {
        let now = chunked.now.fetch_add(1, Ordering::SeqCst) + 1;
        chunked.most.fetch_max(now, Ordering::SeqCst);
        Self(chunked)
    }
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Chunked {
    pub fn script(&self, step: &str, chunk: i32, acts: &[Act]) {
        self.script.lock().unwrap().insert((step.to_owned(), chunk), acts.to_vec());
    }

    pub fn runs_of(&self, step: &str) -> Vec<i32> {
        let runs = self.runs.lock().unwrap();
        let mut chunks: Vec<i32> = runs.iter().filter(|(name, _)| name == step).map(|(_, chunk)| *chunk).collect();
        chunks.sort_unstable();
        chunks
    }

    fn act(&self, context: &StepContext) -> Option<Act> {
        let key = (context.step.clone(), context.chunk);
        if let Some(acts) = self.script.lock().unwrap().get_mut(&key)
            && !acts.is_empty()
        {
            return Some(acts.remove(0));
        }
        if let Some(random) = self.seed.lock().unwrap().as_mut() {
            return match random.random_range(0..20) {
                0 => Some(Act::Transient),
                1 | 2 => Some(Act::Slow(Duration::from_millis(random.random_range(1..10)))),
                _ => None,
            };
        }
        self.always.lock().unwrap().clone()
    }
}

#[async_trait::async_trait]
impl StepHandler for Chunked {
    async fn open(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        assert_eq!(context.chunk, 0);
        self.runs.lock().unwrap().push((format!("open {}", context.step), 0));
        if context.step != "cut" {
            return Ok(StepOutcome::default());
        }
        let chunks = i32::try_from(self.chunks.load(Ordering::SeqCst)).unwrap();
        let (organization, job) = (context.organization, context.job);
        let facts: Facts = json!({"lines": 7}).as_object().cloned().unwrap();
        Ok(StepOutcome::with_output(facts).with_effect(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "insert into chunks (organization_id, job_id, chunk, byte_start, byte_end, first_line)
                     select $1, $2, n, n, n + 1, n from generate_series(1, $3) n
                     on conflict do nothing",
                )
                .bind(organization)
                .bind(job)
                .bind(chunks)
                .execute(&mut *connection)
                .await
                .unwrap();
                sqlx::query("update jobs set progress_total = $3 where organization_id = $1 and id = $2")
                    .bind(organization)
                    .bind(job)
                    .bind(chunks)
                    .execute(connection)
                    .await
                    .unwrap();
                Ok(Facts::new())
            })
        }))
    }

    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        self.runs.lock().unwrap().push((context.step.clone(), context.chunk));
        let _under = (context.chunk > 0).then(|| Under::way(self));
        match self.act(context) {
            Some(Act::Transient) => return Err(StepError::transient("test_away", "A dependency is away.")),
            Some(Act::Sender) => return Err(StepError::sender("test_bad_data", "The data are bad.")),
            Some(Act::Slow(time)) => tokio::time::sleep(time).await,
            None => {}
        }
        let (job, step, chunk) = (context.job, context.step.clone(), context.chunk);
        let facts: Facts =
            json!({"effects": 1, "kind": {"even": i32::from(chunk % 2 == 0)}}).as_object().cloned().unwrap();
        Ok(StepOutcome::with_output(facts).with_effect(move |connection| {
            let step = step.clone();
            Box::pin(async move {
                sqlx::query("insert into test_effects (job_id, step, chunk) values ($1, $2, $3)")
                    .bind(job)
                    .bind(step)
                    .bind(chunk)
                    .execute(connection)
                    .await
                    .unwrap();
                Ok(Facts::new())
            })
        }))
    }

    async fn join(&self, context: &StepContext, totals: Facts) -> Result<StepOutcome, StepError> {
        self.runs.lock().unwrap().push((format!("join {}", context.step), 0));
        match *self.verdict.lock().unwrap() {
            Some(step) if step == context.step => Err(StepError::sender("test_bad_data", "The whole is bad.")),
            _ => Ok(StepOutcome::with_output(totals)),
        }
    }
}

/// A step of a job without chunks.
struct Short;

#[async_trait::async_trait]
impl StepHandler for Short {
    async fn run(&self, _: &StepContext) -> Result<StepOutcome, StepError> {
        Ok(StepOutcome::default())
    }
}

/// Steps: cut (each chunk), kept (always), weigh and pack (each chunk), last (always).
fn workflow() -> String {
    let step = |name: &str, extra: &str| {
        format!(
            "[[step]]\nname = \"{name}\"\nhandler = \"test.chunked\"\ntimeout = \"10s\"\n{extra}\n\
             retry = {{ attempts = 6, first_delay = \"10ms\", max_delay = \"30ms\", factor = 2 }}\n"
        )
    };
    let each = "each = \"chunk\"";
    let always = "run = \"always\"";
    let steps =
        [step("cut", each), step("kept", always), step("weigh", each), step("pack", each), step("last", always)];
    format!(
        "name = \"chunked\"\nversion = 1\nsummary = \"Steps over chunks.\"\nordering = \"none\"\npriority = 10\n{}",
        steps.concat()
    )
}

fn short() -> String {
    "name = \"short\"\nversion = 1\nsummary = \"One step.\"\nordering = \"none\"\npriority = 10\n\
     [[step]]\nname = \"only\"\nhandler = \"test.short\"\ntimeout = \"10s\"\n"
        .to_owned()
}

/// A Chartgate with the workflows `chunked`, whose jobs are cut into so many chunks, and `short`.
pub async fn app(chunks: usize) -> (TestApp, Arc<Chunked>) {
    let chunked: Arc<Chunked> = Arc::default();
    chunked.chunks.store(chunks, Ordering::SeqCst);
    let setup = Setup {
        handlers: vec![("test.chunked", Arc::clone(&chunked) as _), ("test.short", Arc::new(Short) as _)],
        workflows: vec![("chunked", workflow()), ("short", short())],
        ..Setup::default()
    };
    let app = TestApp::with(setup).await;
    let mut owner = app.owner().await;
    // Not unique: a second effect would be seen, not refused.
    sqlx::raw_sql(
        "create table test_effects (job_id uuid, step text, chunk integer); grant all on test_effects to chartgate_app",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    (app, chunked)
}
