//! A job's timeline: every attempt, wait and act, shaped from persisted rows.

use super::definition::WorkflowDefinition;
use super::jobs::{AttemptRow, ErrorView, StepRow, error_view};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// One entry of a job's timeline.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimelineEntry {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What: an audit event (`job.accepted`, `step.retrying`, …) or an attempt (`attempt.failed`, …).
    pub event: String,
    /// The step concerned.
    pub step: Option<String>,
    /// Round of an attempt.
    pub round: Option<i32>,
    /// The chunk that an attempt was at; not there for the job's own steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub chunk: Option<i32>,
    /// Number of an attempt.
    pub attempt: Option<i16>,
    /// How long the attempt ran, in milliseconds.
    pub duration_ms: Option<i64>,
    /// When the next attempt was planned.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt_at: Option<OffsetDateTime>,
    /// The cause.
    pub error: Option<ErrorView>,
    /// Who acted.
    pub actor: Option<String>,
    /// The reason that a person gave.
    pub reason: Option<String>,
}

/// An audit record of a job, as its timeline needs it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RecordRow {
    /// When.
    pub at: OffsetDateTime,
    /// What.
    pub event: String,
    /// Step name.
    pub step: Option<String>,
    /// Who.
    pub actor: String,
    /// Reason.
    pub purpose: Option<String>,
}

/// Every attempt, wait and act on a job, in order of time.
#[must_use]
pub fn timeline(
    steps: &[StepRow],
    attempts: &[AttemptRow],
    records: &[RecordRow],
    definition: Option<&WorkflowDefinition>,
) -> Vec<TimelineEntry> {
    let name = |step: i16| {
        let known =
            definition.and_then(|definition| usize::try_from(step).ok().and_then(|index| definition.steps.get(index)));
        known
            .map(|step| step.name.clone())
            .or_else(|| steps.iter().find(|row| row.step == step).map(|row| row.name.clone()))
    };
    let span = |start: Option<OffsetDateTime>, end: OffsetDateTime| {
        start.map(|start| i64::try_from((end - start).whole_milliseconds()).unwrap_or(i64::MAX))
    };
    let mut entries: Vec<TimelineEntry> = Vec::with_capacity(steps.len() + attempts.len() + records.len());
    entries.extend(steps.iter().map(|step| TimelineEntry {
        at: step.finished_at,
        event: format!("step.{}", step.status),
        step: Some(step.name.clone()),
        round: Some(step.round),
        chunk: None,
        attempt: Some(step.attempts),
        duration_ms: span(step.started_at, step.finished_at),
        next_attempt_at: None,
        error: error_view(step.error_code.as_ref(), step.error_class.as_ref(), step.error_message.as_ref(), false),
        actor: None,
        reason: None,
    }));
    entries.extend(attempts.iter().map(|attempt| TimelineEntry {
        at: attempt.finished_at,
        event: format!("attempt.{}", attempt.outcome),
        step: name(attempt.step),
        round: Some(attempt.round),
        chunk: (attempt.chunk > 0).then_some(attempt.chunk),
        attempt: Some(attempt.attempt),
        duration_ms: span(attempt.started_at, attempt.finished_at),
        next_attempt_at: attempt.next_attempt_at,
        error: error_view(
            attempt.error_code.as_ref(),
            attempt.error_class.as_ref(),
            attempt.error_message.as_ref(),
            false,
        ),
        actor: None,
        reason: None,
    }));
    // The step's own records repeat what the rows above say.
    entries.extend(records.iter().filter(|record| !record.event.starts_with("step.")).map(|record| TimelineEntry {
        at: record.at,
        event: record.event.clone(),
        step: record.step.clone(),
        round: None,
        chunk: None,
        attempt: None,
        duration_ms: None,
        next_attempt_at: None,
        error: None,
        actor: Some(record.actor.clone()),
        reason: record.purpose.clone(),
    }));
    entries.sort_by_key(|entry| entry.at);
    entries
}

impl TimelineEntry {
    /// The entry of the job's acceptance, from its own row.
    #[must_use]
    pub fn accepted(at: OffsetDateTime, actor: String) -> Self {
        Self {
            at,
            event: "job.accepted".to_owned(),
            step: None,
            round: Some(1),
            chunk: None,
            attempt: None,
            duration_ms: None,
            next_attempt_at: None,
            error: None,
            actor: Some(actor),
            reason: None,
        }
    }
}
