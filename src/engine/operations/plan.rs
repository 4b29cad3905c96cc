//! Where a job's next round begins. Pure: from the workflow's steps and what the job's rounds have done.

use crate::engine::definition::WorkflowDefinition;
use crate::engine::jobs_store::{ChunksAgain, NextRound};

/// On which version a retry runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryVersion {
    /// The one that the job pins.
    #[default]
    Pinned,
    /// The newest.
    Latest,
}

/// A job that may get another round.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Its round.
    pub round: i32,
    /// Where that round began.
    pub first: i16,
    /// Its version.
    pub version: i32,
}

/// A step that one of its rounds finished.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Finished {
    /// In which round.
    pub round: i32,
    /// Index.
    pub step: i16,
    /// Name.
    pub name: String,
    /// succeeded, failed or skipped.
    pub status: String,
}

/// Why there is no next round as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// The workflow has no step of that name.
    #[error("`from` must be failed_step, start, or one of the steps {}.", .0.join(", "))]
    NoSuchStep(Vec<String>),
    /// `failed_lines` of a workflow without chunks.
    #[error("Jobs of the workflow {0} have no lines; `failed_lines` is for bulk files.")]
    NoLines(String),
}

/// The round that `from` asks for: `failed_step`, `failed_lines`, `start`, or the name of a step.
///
/// # Errors
/// [`PlanFault`].
pub fn next_round(
    definition: &WorkflowDefinition,
    job: Ended,
    steps: &[Finished],
    from: &str,
) -> Result<NextRound, PlanFault> {
    // The failed step by name, since another version may have other indices. A job that was cancelled goes on where it stood.
    let failed = steps.iter().filter(|step| step.round == job.round && step.status == "failed");
    let failed = failed.min_by_key(|step| step.step).map(|step| step.name.as_str());
    let (step, chunks) = match from {
        "start" => (0, ChunksAgain::All),
        "failed_step" => match failed {
            Some(name) => (step_index(definition, name)?, ChunksAgain::Failed),
            None => (resume_index(definition, steps, job), ChunksAgain::Failed),
        },
        "failed_lines" => {
            let first = definition.steps.iter().position(|step| step.each_chunk);
            let first = first.and_then(|index| i16::try_from(index).ok());
            (first.ok_or_else(|| PlanFault::NoLines(definition.name.clone()))?, ChunksAgain::Rejected)
        }
        name => (step_index(definition, name)?, ChunksAgain::All),
    };
    // What a chunk did stands by the step's index, which another version may have given to another step.
    let chunks = if definition.version == job.version { chunks } else { ChunksAgain::All };
    Ok(NextRound::at(definition, job.round, step, chunks))
}

fn step_index(definition: &WorkflowDefinition, name: &str) -> Result<i16, PlanFault> {
    let names = || definition.steps.iter().map(|step| step.name.clone()).collect();
    let index = definition.step_index(name).and_then(|index| i16::try_from(index).ok());
    index.ok_or_else(|| PlanFault::NoSuchStep(names()))
}

/// The first step that has not succeeded; the first one when all have.
fn resume_index(definition: &WorkflowDefinition, steps: &[Finished], job: Ended) -> i16 {
    let succeeded = |index: i16| {
        steps.iter().any(|step| {
            step.step == index && step.status == "succeeded" && (index < job.first || step.round == job.round)
        })
    };
    let mut indices = (0..definition.steps.len()).filter_map(|index| i16::try_from(index).ok());
    indices.find(|index| !succeeded(*index)).unwrap_or(0)
}
