//! Jobs as people see them: status, steps, attempts, lists and timelines, shaped from persisted rows.
//!
//! `running`, `retrying` and `queued` are read from the live queue row, everything else from what step commits wrote.
//! The JSON field names are contracts (docs/api.md).

use super::chunks_store::ChunkProgress;
use super::definition::WorkflowDefinition;
pub use super::filter::{JobFilter, is_sha256};
use super::handler::ErrorClass;
use super::state::{JobStatus, StepStatus};
use crate::ids::{JobId, OrganizationId};
use serde::Serialize;
use serde_json::Value;
use sqlx::types::Json;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// The `jobs` row with its live queue row, if it has one.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobRow {
    /// Organization.
    pub organization_id: OrganizationId,
    /// Job.
    pub id: JobId,
    /// Workflow name.
    pub workflow: String,
    /// Pinned version.
    pub workflow_version: i32,
    /// webhook, athena or upload.
    pub source: String,
    /// As stored.
    pub status: String,
    /// Entries by resource type.
    pub resource_count: Json<BTreeMap<String, u32>>,
    /// The closing step's result.
    pub result: Option<Value>,
    /// First error of the round.
    pub error_code: Option<String>,
    /// Its class.
    pub error_class: Option<String>,
    /// Its fixed sentence.
    pub error_message: Option<String>,
    /// Round.
    pub round: i32,
    /// First step of the round.
    pub round_first_step: i16,
    /// Who sent it.
    pub submitted_by: String,
    /// SHA-256 of the payload.
    pub payload_sha256: Option<Vec<u8>>,
    /// Its size.
    pub size_bytes: Option<i64>,
    /// Its media type.
    pub content_type: Option<String>,
    /// Accepted.
    pub created_at: OffsetDateTime,
    /// Last change of the row.
    pub updated_at: OffsetDateTime,
    /// Terminal since.
    pub finished_at: Option<OffsetDateTime>,
    /// Chunks, once they are planned.
    pub progress_total: Option<i32>,
    /// The job that brought the same bytes before.
    pub duplicate_of: Option<JobId>,
    /// State of the live queue row.
    pub queue_state: Option<String>,
    /// Its step.
    pub queue_step: Option<i16>,
    /// Attempts of that step.
    pub queue_attempts: Option<i16>,
    /// Workers that died with it.
    pub queue_deaths: Option<i16>,
    /// End of its backoff.
    pub run_at: Option<OffsetDateTime>,
    /// Claimed at.
    pub claimed_at: Option<OffsetDateTime>,
}

/// A finished step.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StepRow {
    /// Round it finished in.
    pub round: i32,
    /// Index.
    pub step: i16,
    /// Name.
    pub name: String,
    /// succeeded, failed or skipped.
    pub status: String,
    /// Attempts that counted.
    pub attempts: i16,
    /// Start of the last attempt.
    pub started_at: Option<OffsetDateTime>,
    /// Commit.
    pub finished_at: OffsetDateTime,
    /// Code.
    pub error_code: Option<String>,
    /// Class.
    pub error_class: Option<String>,
    /// Sentence.
    pub error_message: Option<String>,
    /// Facts.
    pub output: Option<Value>,
}

/// An attempt that did not succeed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AttemptRow {
    /// Round.
    pub round: i32,
    /// Step index.
    pub step: i16,
    /// Of the chunk with this number; 0: of the job itself.
    pub chunk: i32,
    /// Number.
    pub attempt: i16,
    /// failed, lost, released, cancelled.
    pub outcome: String,
    /// Code.
    pub error_code: Option<String>,
    /// Class.
    pub error_class: Option<String>,
    /// Sentence.
    pub error_message: Option<String>,
    /// Start.
    pub started_at: Option<OffsetDateTime>,
    /// End.
    pub finished_at: OffsetDateTime,
    /// Planned next attempt.
    pub next_attempt_at: Option<OffsetDateTime>,
}

/// Why something failed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorView {
    /// Stable code; each has a page in docs/errors.
    pub code: String,
    /// Who must act: transient (we wait), sender (bad data), ours (bug or configuration).
    #[schema(example = "sender")]
    pub class: String,
    /// A fixed sentence without clinical values.
    pub message: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

/// One step of a job.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepView {
    /// Name in the workflow file.
    pub name: String,
    /// pending, running, retrying, succeeded, failed or skipped.
    pub status: StepStatus,
    /// Attempts so far in this round.
    pub attempts: i16,
    /// Budget.
    pub max_attempts: u16,
    /// Start of the last attempt.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// Commit of its end.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// Next attempt, while retrying.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt_at: Option<OffsetDateTime>,
    /// The last error.
    pub error: Option<ErrorView>,
    /// Small facts.
    pub output: Option<Value>,
}

/// How far a job is.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgressView {
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// chunks or entries.
    pub unit: &'static str,
    /// Units a second since the step's begin; of chunks while they are worked on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub per_second: Option<f64>,
    /// When the last unit of this step is done, if it goes on like this.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    #[schema(required = false)]
    pub expected_at: Option<OffsetDateTime>,
}

impl ProgressView {
    /// Of chunks, as of the last one that ended: a look between two of them finds the same.
    fn of_chunks(progress: &ChunkProgress, is_running: bool) -> Self {
        let whole = |number: i64| u64::try_from(number).unwrap_or_default();
        let (total, done) = (whole(progress.total), whole(progress.done));
        let span = progress.opened_at.zip(progress.last_at).filter(|_| is_running);
        let seconds = span.map(|(opened, last)| (last - opened).as_seconds_f64());
        #[expect(clippy::cast_precision_loss, reason = "counts of chunks are far below 2^52")]
        let rate = |seconds: f64| progress.done_now as f64 / seconds;
        let per_second = seconds.filter(|seconds| *seconds > 0.0).map(rate).filter(|rate| *rate > 0.0);
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let left = per_second.map(|rate| total.saturating_sub(done) as f64 / rate);
        let expected_at = progress.last_at.zip(left);
        let expected_at = expected_at.and_then(|(last, left)| last.checked_add(time::Duration::seconds_f64(left)));
        Self { done, total, unit: "chunks", per_second, expected_at }
    }
}

/// The bytes of a job.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PayloadView {
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// After content decoding.
    pub size_bytes: i64,
    /// As sent.
    pub content_type: String,
}

/// A job's status: every field a persisted fact.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    /// `job_…`
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// `org_…`
    #[schema(value_type = String)]
    pub organization_id: OrganizationId,
    /// Workflow name.
    pub workflow: String,
    /// Pinned version.
    pub workflow_version: i32,
    /// webhook, athena or upload.
    pub source: String,
    /// Where it stands.
    pub status: JobStatus,
    /// The step that runs, waits or failed.
    pub current_step: Option<String>,
    /// All steps in order.
    pub steps: Vec<StepView>,
    /// How far it is.
    pub progress: ProgressView,
    /// Entries by resource type.
    pub resource_count: BTreeMap<String, u32>,
    /// Totals, once closed.
    pub result: Option<Value>,
    /// The first error of the round, once closed or while the closing steps still run.
    pub error: Option<ErrorView>,
    /// The bytes.
    pub payload: Option<PayloadView>,
    /// The job that brought the same bytes before; this one had no effects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    pub duplicate_of: Option<JobId>,
    /// One sentence for people.
    pub message: String,
    /// Who sent it.
    pub submitted_by: String,
    /// 1 from acceptance; each retry opens the next.
    pub round: i32,
    /// Accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// First attempt of the first step.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// Terminal since.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// Last persisted change.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// What people should do about an error of that class.
#[must_use]
pub fn action_for(class: &str) -> String {
    match class {
        "sender" => "Correct the data and send it again; the job's issues list every problem.",
        "transient" => "Nothing was lost: send it again or let an administrator retry the job.",
        _ => "An administrator must look at it; the job can be retried once the cause is mended.",
    }
    .to_owned()
}

/// A stored error, if the row has one.
pub(super) fn error_view(
    code: Option<&String>,
    class: Option<&String>,
    message: Option<&String>,
    with_action: bool,
) -> Option<ErrorView> {
    let (code, class) = (code?.clone(), class?.clone());
    let action = with_action.then(|| action_for(&class));
    Some(ErrorView { code, class, message: message.cloned().unwrap_or_default(), action })
}

/// The status that the stored one and the live queue row make together.
#[must_use]
pub fn live_status(
    stored: &str,
    queue_state: Option<&str>,
    step: i16,
    first_step: i16,
    attempts: i16,
    deaths: i16,
) -> JobStatus {
    match (JobStatus::parse(stored), queue_state) {
        (Some(JobStatus::Queued), Some("leased" | "waiting")) => JobStatus::Running,
        (Some(JobStatus::Queued), Some("delayed" | "suspect")) => JobStatus::Retrying,
        // Backoff is over, or a lease was handed back: not its first time.
        (Some(JobStatus::Queued), Some(_)) if attempts > 0 || deaths > 0 => JobStatus::Retrying,
        (Some(JobStatus::Queued), Some(_)) if step > first_step => JobStatus::Running,
        (Some(status), _) => status,
        (None, _) => JobStatus::Queued,
    }
}

/// Shape a job. `definition` is its pinned version; without it (a version that is gone) the finished steps stand alone.
#[must_use]
pub fn shape(
    row: &JobRow,
    steps: &[StepRow],
    attempts: &[AttemptRow],
    definition: Option<&WorkflowDefinition>,
    chunks: Option<&ChunkProgress>,
) -> JobView {
    let queue_step = row.queue_step.unwrap_or(row.round_first_step);
    let status = live_status(
        &row.status,
        row.queue_state.as_deref(),
        queue_step,
        row.round_first_step,
        row.queue_attempts.unwrap_or(0),
        row.queue_deaths.unwrap_or(0),
    );
    let names: Vec<(String, u16)> = if let Some(definition) = definition {
        definition.steps.iter().map(|step| (step.name.clone(), step.retry.attempts)).collect()
    } else {
        let mut named: BTreeMap<i16, String> = BTreeMap::new();
        for step in steps {
            named.insert(step.step, step.name.clone());
        }
        named.into_values().map(|name| (name, 0)).collect()
    };
    let is_fanned_out = row.queue_state.as_deref() == Some("waiting");
    let region = region_of(definition, queue_step);
    let views: Vec<StepView> = names
        .into_iter()
        .enumerate()
        .map(|(index, (name, max_attempts))| {
            let index = i16::try_from(index).unwrap_or(i16::MAX);
            let mut view = step_view(row, index, name, max_attempts, steps, attempts, queue_step);
            // Chunks go through all steps of a region by themselves.
            if is_fanned_out && view.status == StepStatus::Pending && region.contains(&index) {
                view.status = StepStatus::Running;
            }
            view
        })
        .collect();
    let current_step = match status {
        JobStatus::Running | JobStatus::Retrying | JobStatus::Queued => {
            usize::try_from(queue_step).ok().and_then(|index| views.get(index)).map(|step| step.name.clone())
        }
        JobStatus::Failed => views.iter().find(|step| step.status == StepStatus::Failed).map(|step| step.name.clone()),
        _ => None,
    };
    let total: u64 = row.resource_count.0.values().map(|count| u64::from(*count)).sum();
    let extracted = views.iter().any(|step| step.name == "extract_findings" && step.status == StepStatus::Succeeded);
    let done =
        if extracted || matches!(status, JobStatus::Succeeded | JobStatus::SucceededWithIssues) { total } else { 0 };
    let last_change = steps
        .iter()
        .map(|step| step.finished_at)
        .chain(attempts.iter().map(|attempt| attempt.finished_at))
        .chain(row.claimed_at)
        .chain(chunks.and_then(|chunks| chunks.last_at))
        .chain([row.updated_at])
        .max()
        .unwrap_or(row.updated_at);
    let started_at = steps
        .iter()
        .filter_map(|step| step.started_at)
        .chain(attempts.iter().filter_map(|attempt| attempt.started_at))
        .chain(row.claimed_at)
        .min();
    let error = error_view(row.error_code.as_ref(), row.error_class.as_ref(), row.error_message.as_ref(), true);
    JobView {
        job_id: row.id,
        organization_id: row.organization_id,
        workflow: row.workflow.clone(),
        workflow_version: row.workflow_version,
        source: row.source.clone(),
        status,
        message: message(status, current_step.as_deref(), error.as_ref(), row.queue_state.as_deref()),
        current_step,
        steps: views,
        progress: chunks
            .map_or(ProgressView { done, total, unit: "entries", per_second: None, expected_at: None }, |chunks| {
                ProgressView::of_chunks(chunks, is_fanned_out)
            }),
        resource_count: row.resource_count.0.clone(),
        result: row.result.clone(),
        error,
        duplicate_of: row.duplicate_of,
        payload: row.payload_sha256.as_ref().map(|sha256| PayloadView {
            sha256: hex::encode(sha256),
            size_bytes: row.size_bytes.unwrap_or(0),
            content_type: row.content_type.clone().unwrap_or_default(),
        }),
        submitted_by: row.submitted_by.clone(),
        round: row.round,
        created_at: row.created_at,
        started_at,
        finished_at: row.finished_at,
        updated_at: last_change,
    }
}

/// The first and the last step of the region of which the chunks' progress is told: the one at which the job stands, or else
/// the last one before.
#[must_use]
pub fn region_of(definition: Option<&WorkflowDefinition>, step: i16) -> RangeInclusive<i16> {
    let index = usize::try_from(step).unwrap_or_default();
    let region = definition.and_then(|definition| {
        let last = (0..=index.min(definition.steps.len().checked_sub(1)?)).rev();
        last.map(|index| definition.region(index)).find(|region| !region.is_empty())
    });
    let number = |index: usize| i16::try_from(index).unwrap_or(i16::MAX);
    region.map_or(step..=step, |region| number(region.start)..=number(region.end - 1))
}

fn step_view(
    row: &JobRow,
    index: i16,
    name: String,
    max_attempts: u16,
    steps: &[StepRow],
    attempts: &[AttemptRow],
    queue_step: i16,
) -> StepView {
    // Steps before the round's first one count from earlier rounds; later ones only from this round.
    let finished = steps
        .iter()
        .filter(|step| step.step == index && (index < row.round_first_step || step.round == row.round))
        .max_by_key(|step| step.round);
    if let Some(step) = finished {
        return StepView {
            name,
            status: StepStatus::parse(&step.status).unwrap_or(StepStatus::Pending),
            attempts: step.attempts,
            max_attempts,
            started_at: step.started_at,
            finished_at: Some(step.finished_at),
            next_attempt_at: None,
            error: error_view(step.error_code.as_ref(), step.error_class.as_ref(), step.error_message.as_ref(), false),
            output: step.output.clone(),
        };
    }
    let last = attempts
        .iter()
        .filter(|attempt| attempt.step == index && attempt.round == row.round)
        .max_by_key(|attempt| attempt.finished_at);
    let live = row.queue_state.as_deref().filter(|_| index == queue_step);
    let status = match live {
        Some("leased" | "waiting") => StepStatus::Running,
        Some("delayed" | "suspect") => StepStatus::Retrying,
        Some(_) if last.is_some() => StepStatus::Retrying,
        _ => StepStatus::Pending,
    };
    let error = last.and_then(|attempt| {
        error_view(attempt.error_code.as_ref(), attempt.error_class.as_ref(), attempt.error_message.as_ref(), false)
    });
    StepView {
        name,
        status,
        attempts: live.and(row.queue_attempts).unwrap_or(0),
        max_attempts,
        started_at: if status == StepStatus::Running {
            row.claimed_at
        } else {
            last.and_then(|attempt| attempt.started_at)
        },
        finished_at: None,
        next_attempt_at: live.and(row.run_at),
        error: if status == StepStatus::Pending { None } else { error },
        output: None,
    }
}

fn message(status: JobStatus, step: Option<&str>, error: Option<&ErrorView>, queue_state: Option<&str>) -> String {
    let step = step.unwrap_or("its next step");
    match status {
        JobStatus::AwaitingUpload => "Waiting for the upload.".to_owned(),
        JobStatus::Queued if queue_state == Some("blocked") => {
            "Waiting for an earlier job of the same lane.".to_owned()
        }
        JobStatus::Queued => "Accepted; waiting for a worker.".to_owned(),
        JobStatus::Running => format!("Running {step}."),
        JobStatus::Retrying => format!("{step} failed for now and is tried again."),
        JobStatus::Succeeded => "All steps succeeded.".to_owned(),
        JobStatus::SucceededWithIssues => "All steps succeeded; some entries have issues.".to_owned(),
        JobStatus::Failed => error.map_or_else(|| format!("{step} failed."), |error| error.message.clone()),
        JobStatus::Cancelled => "Cancelled; the steps committed before stay.".to_owned(),
        JobStatus::Expired => "The upload never came.".to_owned(),
    }
}

/// A job in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobSummary {
    /// `job_…`
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// `org_…`
    #[schema(value_type = String)]
    pub organization_id: OrganizationId,
    /// Workflow name.
    pub workflow: String,
    /// Pinned version.
    pub workflow_version: i32,
    /// webhook, athena or upload.
    pub source: String,
    /// Where it stands.
    pub status: JobStatus,
    /// Round.
    pub round: i32,
    /// The error, if any.
    pub error: Option<ErrorView>,
    /// Who sent it.
    pub submitted_by: String,
    /// Accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Terminal since.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
}

/// A job of a list, from its rows.
#[must_use]
pub fn summarize(row: &JobRow) -> JobSummary {
    JobSummary {
        job_id: row.id,
        organization_id: row.organization_id,
        workflow: row.workflow.clone(),
        workflow_version: row.workflow_version,
        source: row.source.clone(),
        status: live_status(
            &row.status,
            row.queue_state.as_deref(),
            row.queue_step.unwrap_or(row.round_first_step),
            row.round_first_step,
            row.queue_attempts.unwrap_or(0),
            row.queue_deaths.unwrap_or(0),
        ),
        round: row.round,
        error: error_view(row.error_code.as_ref(), row.error_class.as_ref(), row.error_message.as_ref(), false),
        submitted_by: row.submitted_by.clone(),
        created_at: row.created_at,
        finished_at: row.finished_at,
    }
}

/// The class of a stored error.
#[must_use]
pub fn parse_class(text: &str) -> Option<ErrorClass> {
    [ErrorClass::Transient, ErrorClass::Sender, ErrorClass::Ours].into_iter().find(|class| class.as_str() == text)
}
