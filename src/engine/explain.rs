//! A job in plain words: what happened, who must act, what will happen next. Pure: from what is persisted about it.
//!
//! The sentences hold ids, codes, names of steps, counts and times, never a clinical value. Every status, class of error and cause
//! of waiting has its words; a test walks all of them.

use super::jobs::{ErrorView, JobView, StepView};
use super::state::{JobStatus, StepStatus, TaskState};
use crate::ids::JobId;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

/// Who must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Whoever sends the data.
    Sender,
    /// Whoever runs Chartgate.
    Operator,
    /// It goes on by itself, or it has ended well.
    Nobody,
}

/// The explanation of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `job_…`
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// Where it stands.
    pub status: JobStatus,
    /// What happened, in a sentence or some.
    pub happened: String,
    /// Who must act.
    pub who: Who,
    /// What they must do.
    pub act: String,
    /// What will happen next.
    pub next: String,
    /// When, if that is known.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_at: Option<OffsetDateTime>,
}

/// What stands in the database about a job that its status does not say.
#[derive(Debug, Clone, Default, sqlx::FromRow)]
pub struct Situation {
    /// [`TaskState`] of its live queue row.
    pub queue_state: Option<String>,
    /// Workers that died with it.
    pub deaths: i16,
    /// End of its backoff.
    pub run_at: Option<OffsetDateTime>,
    /// End of its lease.
    pub lease_until: Option<OffsetDateTime>,
    /// Its organization takes no work.
    pub is_paused: bool,
    /// Its organization has as many running jobs as it may.
    pub is_capped: bool,
    /// The job at the head of its lane.
    pub head: Option<JobId>,
    /// [`TaskState`] of that one.
    pub head_state: Option<String>,
    /// When that one is tried again.
    pub head_run_at: Option<OffsetDateTime>,
    /// Live jobs before it in its lane, counted up to a thousand.
    pub ahead: i64,
    /// The end of its upload URL.
    pub upload_until: Option<OffsetDateTime>,
    /// Chunks that failed for good.
    pub chunks_failed: i64,
    /// Worker processes that reported lately.
    pub workers: i64,
    /// The database's time.
    pub now: Option<OffsetDateTime>,
}

/// Parts of an explanation.
struct Words {
    happened: String,
    who: Who,
    act: String,
    next: String,
    next_at: Option<OffsetDateTime>,
}

const NOTHING_TO_DO: &str = "Nobody has to act.";
const BY_ITSELF: &str = "Nobody has to act: it goes on by itself.";

impl Words {
    fn new(happened: impl Into<String>, who: Who, act: impl Into<String>, next: impl Into<String>) -> Self {
        Self { happened: happened.into(), who, act: act.into(), next: next.into(), next_at: None }
    }

    fn at(mut self, at: Option<OffsetDateTime>) -> Self {
        self.next_at = at;
        self
    }
}

/// Explain a job.
#[must_use]
pub fn explain(view: &JobView, situation: &Situation) -> Explanation {
    let words = match view.status {
        JobStatus::AwaitingUpload => awaiting(situation),
        JobStatus::Queued => queued(situation),
        JobStatus::Running => running(view, situation),
        JobStatus::Retrying => retrying(view, situation),
        JobStatus::Succeeded | JobStatus::SucceededWithIssues => succeeded(view),
        JobStatus::Failed => failed(view, situation),
        JobStatus::Cancelled => Words::new(
            "It was cancelled. What its steps had committed before stays.",
            Who::Nobody,
            NOTHING_TO_DO,
            "Nothing happens by itself. A retry goes on where it stood (`chartgate jobs retry`).",
        ),
        JobStatus::Expired => Words::new(
            "An upload URL was given out, and no file came within a day after the URL's end.",
            Who::Sender,
            "Ask for another upload URL and send the file.",
            "Nothing happens by itself. If the file comes all the same, the job starts.",
        ),
    };
    let Words { happened, who, act, next, next_at } = words;
    let round = if view.round > 1 { format!("This is round {}. {happened}", view.round) } else { happened };
    Explanation { job_id: view.job_id, status: view.status, happened: round, who, act, next, next_at }
}

fn told(at: OffsetDateTime) -> String {
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_else(|_| "a time that cannot be written".to_owned())
}

fn awaiting(situation: &Situation) -> Words {
    let is_over = situation.upload_until.zip(situation.now).is_some_and(|(until, now)| until <= now);
    let happened = match situation.upload_until {
        Some(until) if is_over => {
            format!("An upload URL was given out; it ended at {}, and no file has come.", told(until))
        }
        Some(until) => format!("An upload URL was given out, which works until {}. No file has come yet.", told(until)),
        None => "An upload URL was given out. No file has come yet.".to_owned(),
    };
    let act = if is_over {
        "Ask for another upload URL and send the file."
    } else {
        "Send the file to the URL, with the headers that were given with it."
    };
    let next = "When the file is there the job starts by itself. A day after the URL's end the job expires.";
    Words::new(happened, Who::Sender, act, next).at(situation.upload_until)
}

/// What keeps a job that could run from running.
fn waiting(what: &str, situation: &Situation) -> Words {
    if situation.is_paused {
        return Words::new(
            format!("{what} Its organization is paused."),
            Who::Operator,
            "Resume the organization when its jobs shall run again (`chartgate orgs resume`).",
            "Nothing until then; afterwards it runs by itself.",
        );
    }
    if situation.workers == 0 {
        return Words::new(
            format!("{what} No worker process has reported within the last minute."),
            Who::Operator,
            "Start a process with the worker role (`chartgate serve --role worker`), or look why those that should run do not.",
            "It runs as soon as a worker is there.",
        );
    }
    if situation.is_capped {
        return Words::new(
            format!("{what} Its organization has as many running jobs as its settings allow."),
            Who::Nobody,
            BY_ITSELF,
            "It runs when one of those ends.",
        );
    }
    Words::new(
        format!("{what} It waits for a free worker."),
        Who::Nobody,
        BY_ITSELF,
        "The next free worker takes it, in turn with other organizations.",
    )
}

fn queued(situation: &Situation) -> Words {
    let state = situation.queue_state.as_deref().and_then(TaskState::parse);
    if state != Some(TaskState::Blocked) {
        return waiting("It was accepted and is in the queue.", situation);
    }
    let Some(head) = situation.head else {
        return waiting("It was accepted; the jobs before it in its lane have just ended.", situation);
    };
    let ahead = match situation.ahead {
        0 | 1 => String::new(),
        count if count >= 1000 => " A thousand jobs or more are before it.".to_owned(),
        count => format!(" {count} jobs are before it."),
    };
    let happened =
        format!("It was accepted and waits in its lane, whose jobs run one after another, behind job {head}.{ahead}");
    if situation.is_paused {
        return waiting(&happened, situation);
    }
    match situation.head_state.as_deref().and_then(TaskState::parse) {
        Some(TaskState::Delayed) => {
            let at = situation.head_run_at.map(|at| format!(" at {}", told(at))).unwrap_or_default();
            let next = format!(
                "Job {head} failed for now and is tried again{at}. It holds its lane for at most 15 minutes; then the others go on without it."
            );
            Words::new(happened, Who::Nobody, BY_ITSELF, next).at(situation.head_run_at)
        }
        Some(TaskState::Suspect) => {
            let next = format!("A worker died with job {head}: it runs again, alone, and this job follows.");
            Words::new(happened, Who::Nobody, BY_ITSELF, next)
        }
        Some(TaskState::Ready) if situation.workers == 0 => waiting(&happened, situation),
        _ => {
            let next = format!("When job {head} ends, the next of the lane runs.");
            Words::new(happened, Who::Nobody, BY_ITSELF, next)
        }
    }
}

fn step_words(view: &JobView) -> String {
    view.current_step.clone().map_or_else(|| "next step".to_owned(), |step| format!("step {step}"))
}

fn running(view: &JobView, situation: &Situation) -> Words {
    let step = step_words(view);
    let already = view.error.as_ref().map(|error| format!("It has failed with {}: {} ", error.code, error.message));
    let already = already.unwrap_or_default();
    let closing =
        if already.is_empty() { "" } else { "The steps that always run still do; then the job ends as failed. " };
    let state = situation.queue_state.as_deref().and_then(TaskState::parse);
    match state {
        Some(TaskState::Waiting) => {
            let (done, total) = (view.progress.done, view.progress.total);
            let failed = match situation.chunks_failed {
                0 => String::new(),
                failed => format!(" {failed} of them failed for good; the others go on."),
            };
            let happened = format!(
                "{already}It was cut into {total} chunks, which are worked on side by side; {done} are done.{failed}"
            );
            if situation.is_paused || situation.workers == 0 {
                return waiting(&happened, situation);
            }
            let end =
                view.progress.expected_at.map(|at| format!(" That is expected at {}.", told(at))).unwrap_or_default();
            let next = format!("When the last chunk is done, the job goes on.{end}");
            Words::new(happened, Who::Nobody, BY_ITSELF, next).at(view.progress.expected_at)
        }
        Some(TaskState::Leased) => {
            let is_lost = situation.lease_until.zip(situation.now).is_some_and(|(until, now)| until < now);
            if is_lost {
                let happened = format!(
                    "{already}A worker ran its {step} and has stopped renewing its lease: it has probably died."
                );
                let next = "Within seconds the lease is taken back, and another worker goes on with the same step.";
                return Words::new(happened, Who::Nobody, BY_ITSELF, next);
            }
            let happened = format!("{already}A worker runs its {step} now.");
            let next = format!("{closing}When the step is committed, the next one follows at once.");
            Words::new(happened, Who::Nobody, BY_ITSELF, next)
        }
        _ => {
            let words = waiting(&format!("{already}It is between two steps, before its {step}."), situation);
            Words { next: format!("{closing}{}", words.next), ..words }
        }
    }
}

fn attempts(step: Option<&StepView>) -> String {
    match step {
        Some(step) if step.max_attempts > 0 => format!(" (attempt {} of {})", step.attempts, step.max_attempts),
        _ => String::new(),
    }
}

fn cause(error: Option<&ErrorView>) -> String {
    error.map(|error| format!(" with {}: {}", error.code, error.message)).unwrap_or_default()
}

fn retrying(view: &JobView, situation: &Situation) -> Words {
    let step = view.steps.iter().find(|step| step.status == StepStatus::Retrying);
    let name = step_words(view);
    let error = step.and_then(|step| step.error.as_ref());
    let state = situation.queue_state.as_deref().and_then(TaskState::parse);
    match state {
        Some(TaskState::Suspect) => suspect(&name, situation),
        Some(TaskState::Delayed) => {
            let failed = format!("The {name} failed for now{}{}.", attempts(step), cause(error).trim_end_matches('.'));
            let at = situation.run_at.map_or_else(|| "soon".to_owned(), |at| format!("at {}", told(at)));
            if situation.is_paused {
                return waiting(&failed, situation);
            }
            let next = format!(
                "It is tried again {at}. If the last attempt fails too, the job ends as failed, and nothing is lost: it can be retried."
            );
            Words::new(failed, Who::Nobody, BY_ITSELF, next).at(situation.run_at)
        }
        _ if situation.deaths > 0 => suspect(&name, situation),
        Some(TaskState::Blocked) => {
            let words = queued(situation);
            Words {
                happened: format!(
                    "The {name} failed for now{}. {}",
                    cause(error).trim_end_matches('.'),
                    words.happened
                ),
                ..words
            }
        }
        _ => {
            let failed = format!("The {name} failed for now{}; its pause is over.", cause(error).trim_end_matches('.'));
            waiting(&failed, situation)
        }
    }
}

fn suspect(step: &str, situation: &Situation) -> Words {
    let times = if situation.deaths == 1 { "once".to_owned() } else { format!("{} times", situation.deaths) };
    let happened = format!("The worker that ran its {step} has died {times}, or was stopped hard.");
    if situation.is_paused || situation.workers == 0 {
        return waiting(&happened, situation);
    }
    let next = "It runs again, apart from other jobs, so that it can hurt none of them. At the third death it is parked as failed.";
    Words::new(happened, Who::Nobody, BY_ITSELF, next)
}

fn succeeded(view: &JobView) -> Words {
    let when = view.finished_at.map(|at| format!(" at {}", told(at))).unwrap_or_default();
    if let Some(first) = view.duplicate_of {
        let happened =
            format!("The same bytes had come before, as job {first}: this one changed nothing and ended{when}.");
        return Words::new(happened, Who::Nobody, NOTHING_TO_DO, "Nothing further happens.");
    }
    if view.status == JobStatus::SucceededWithIssues {
        return Words::new(
            format!(
                "All steps succeeded{when}; some entries have errors, and those were left out or kept as they came."
            ),
            Who::Sender,
            "Look at the job's issues, correct those entries and send them again.",
            "Nothing further happens by itself.",
        );
    }
    Words::new(format!("All steps succeeded{when}."), Who::Nobody, NOTHING_TO_DO, "Nothing further happens.")
}

fn failed(view: &JobView, situation: &Situation) -> Words {
    let step = step_words(view);
    let Some(error) = &view.error else {
        return Words::new(
            format!("Its {step} failed."),
            Who::Operator,
            "Look at the job's timeline.",
            "Nothing happens by itself.",
        );
    };
    let when = view.finished_at.map(|at| format!(" at {}", told(at))).unwrap_or_default();
    let chunks = match situation.chunks_failed {
        0 => String::new(),
        failed => format!(" {failed} of its {} chunks failed; what the others did stays.", view.progress.total),
    };
    let happened = format!("It ended{when} because its {step} failed with {}: {}{chunks}", error.code, error.message);
    if error.code == "worker_killed" {
        return Words::new(
            format!("{happened} Three workers died while they ran it, so it was parked."),
            Who::Operator,
            "Look in the workers' logs and in the system's (memory) for what killed them; retry the job when that is mended.",
            "Nothing happens by itself: it does not run again until somebody retries it (`chartgate jobs retry`).",
        );
    }
    let (who, act, next) = match error.class.as_str() {
        _ if error.code == "payload_purged" => (
            Who::Nobody,
            NOTHING_TO_DO,
            "Nothing: an administrator erased the payload for good, and the same bytes are refused.",
        ),
        _ if error.code == "payload_expired" => (
            Who::Sender,
            "Send the same again: the bytes are no longer kept here, and come as a new submission.",
            "Nothing happens by itself: without the bytes no retry can succeed.",
        ),
        "sender" => (
            Who::Sender,
            "Correct the data and send it again as a new submission; the job's issues list every problem.",
            "Nothing happens by itself: repeating the same data would fail in the same way.",
        ),
        "transient" => (
            Who::Operator,
            "See that the dependency is back, then retry the job. The sender may also send the same again: that opens the next round.",
            "Nothing happens by itself: all attempts are spent. A retry goes on at the failed step (`chartgate jobs retry`).",
        ),
        _ => (
            Who::Operator,
            "A bug or a wrong configuration: mend the cause that the error's page names, then retry the job.",
            "Nothing happens by itself. A retry goes on at the failed step (`chartgate jobs retry`); the history stays.",
        ),
    };
    Words::new(happened, who, act, next)
}

#[cfg(test)]
mod tests;
