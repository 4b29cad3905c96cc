//! Steps that do what a test tells them.

use chartgate::engine::handler::{StepContext, StepError, StepHandler, StepOutcome};
use chartgate::ids::JobId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a scripted attempt does.
#[derive(Debug, Clone)]
pub enum Act {
    Succeed,
    Transient,
    RetryAfter(Duration),
    Sender,
    Ours,
    Panic,
    /// Sleep, then succeed.
    Slow(Duration),
    /// Sleep, then find the data bad.
    SlowSender(Duration),
}

/// A handler that follows a script by step name, and notes every run in order.
#[derive(Default)]
pub struct Scripted {
    script: Mutex<HashMap<String, Vec<Act>>>,
    pub runs: Mutex<Vec<(JobId, String, bool)>>,
}

impl Scripted {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The next attempts of that step do this, one after another; then it succeeds.
    pub fn script(&self, step: &str, acts: &[Act]) {
        self.script.lock().unwrap().insert(step.to_owned(), acts.to_vec());
    }

    pub fn runs_of(&self, step: &str) -> usize {
        self.runs.lock().unwrap().iter().filter(|(_, name, _)| name == step).count()
    }

    pub fn order(&self, step: &str) -> Vec<JobId> {
        self.runs.lock().unwrap().iter().filter(|(_, name, _)| name == step).map(|(job, ..)| *job).collect()
    }
}

#[async_trait::async_trait]
impl StepHandler for Scripted {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        self.runs.lock().unwrap().push((context.job, context.step.clone(), context.failed_before));
        let act = {
            let mut script = self.script.lock().unwrap();
            let acts = script.entry(context.step.clone()).or_default();
            if acts.is_empty() { Act::Succeed } else { acts.remove(0) }
        };
        match act {
            Act::Succeed => Ok(StepOutcome::default()),
            Act::Transient => Err(StepError::transient("test_away", "A dependency is away.")),
            Act::RetryAfter(after) => Err(StepError {
                retry_after: Some(after),
                ..StepError::transient("test_away", "A dependency is away.")
            }),
            Act::SlowSender(time) => {
                tokio::time::sleep(time).await;
                Err(StepError::sender("test_bad_data", "The data are bad."))
            }
            Act::Sender => Err(StepError::sender("test_bad_data", "The data are bad.")),
            Act::Ours => Err(StepError::ours("test_bug", "A bug.")),
            Act::Panic => panic!("a scripted panic"),
            Act::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(StepOutcome::default())
            }
        }
    }
}

/// A workflow of scripted steps named first, kept (always), middle, last (always).
pub fn workflow(name: &str, ordering: &str) -> String {
    let step = |name: &str, extra: &str| {
        format!(
            "[[step]]\nname = \"{name}\"\nhandler = \"test.scripted\"\ntimeout = \"5s\"\n{extra}\n\
             retry = {{ attempts = 4, first_delay = \"20ms\", max_delay = \"50ms\", factor = 2 }}\n"
        )
    };
    let (first, kept) = (step("first", ""), step("kept", "run = \"always\""));
    let (middle, last) = (step("middle", ""), step("last", "run = \"always\""));
    format!(
        "name = \"{name}\"\nversion = 1\nsummary = \"Scripted steps.\"\nordering = \"{ordering}\"\n{first}{kept}{middle}{last}"
    )
}
