//! Operations and their jobs as people see them. The JSON field names are contracts (docs/api.md).

use super::{BulkRequest, OperationKind, store::OperationRow};
use crate::ids::{JobId, OperationId, OrganizationId};
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A bulk operation with its progress: `done` + `skipped` + `refused` of `matched` are handled.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationView {
    /// `op_…`
    #[schema(value_type = String)]
    pub operation_id: OperationId,
    /// retry, cancel or reprocess.
    pub kind: OperationKind,
    /// `dry_run`, running, canary, stopped, succeeded, undoing or undone.
    pub status: String,
    /// Jobs that it is about.
    pub matched: i32,
    /// More jobs met the filter than one operation takes (100,000): the oldest were taken.
    pub cut: bool,
    /// Jobs acted on so far, also those that were undone.
    pub done: i32,
    /// Jobs left alone, because they were under way, had ended, or were gone.
    pub skipped: i32,
    /// Jobs for which the act is not possible: no such step, or a workflow that is gone.
    pub refused: i32,
    /// Jobs taken back before they ran.
    pub undone: i32,
    /// Of `done`: failed again since.
    pub failed_again: i32,
    /// Of `done`: succeeded since.
    pub succeeded_again: i32,
    /// Of `done`: not ended since, and not undone.
    pub pending: i32,
    /// Jobs a second, at most.
    pub rate_per_second: i32,
    /// Jobs that are tried first; 0: none.
    pub canary: i32,
    /// Stops when so many failed again.
    pub stop_after_failures: Option<i32>,
    /// Of a stopped one: `administrator`, `canary_failed`, `failures`, or `interrupted` (by an upgrade).
    pub stop_reason: Option<String>,
    /// Jobs a second since it began or was resumed.
    pub per_second: Option<f64>,
    /// When the last job is handled, if it goes on like this.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expected_at: Option<OffsetDateTime>,
    /// One sentence for people.
    pub message: String,
    /// Of a retry: where it begins.
    pub from: Option<String>,
    /// Of a retry: pinned or latest.
    pub version: Option<String>,
    /// Which jobs were asked for, as stored; null: by their ids.
    #[schema(value_type = Option<Object>)]
    pub filter: Option<Value>,
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub actor: String,
    /// Started.
    #[serde(with = "time::serde::rfc3339::option")]
    pub created_at: Option<OffsetDateTime>,
    /// Ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
}

impl OperationView {
    /// What would be done; nothing is stored.
    #[must_use]
    pub(super) fn dry_run(operation_id: OperationId, request: &BulkRequest, matched: i32, cut: bool) -> Self {
        let most = if cut { " (more met the filter; one operation takes 100,000)" } else { "" };
        Self {
            operation_id,
            kind: request.kind,
            status: "dry_run".to_owned(),
            matched,
            cut,
            done: 0,
            skipped: 0,
            refused: 0,
            undone: 0,
            failed_again: 0,
            succeeded_again: 0,
            pending: 0,
            rate_per_second: i32::try_from(request.rate_per_second.unwrap_or(super::RATE)).unwrap_or(i32::MAX),
            canary: i32::try_from(request.canary.unwrap_or(0)).unwrap_or(i32::MAX),
            stop_after_failures: request.stop_after_failures.and_then(|failures| i32::try_from(failures).ok()),
            stop_reason: None,
            per_second: None,
            expected_at: None,
            message: format!("{matched} job(s) match{most}; nothing was done."),
            from: None,
            version: None,
            filter: request.filter.as_ref().and_then(|filter| serde_json::to_value(filter).ok()),
            reason: request.reason.clone(),
            actor: String::new(),
            created_at: None,
            finished_at: None,
        }
    }

    /// From its row.
    #[must_use]
    pub(super) fn of(row: &OperationRow) -> Self {
        let handled = row.done + row.skipped + row.refused;
        let span = row.begun_at.zip(row.acted_at).map(|(begun, acted)| (acted - begun).as_seconds_f64());
        let per_second = span
            .filter(|seconds| *seconds > 0.0)
            .map(|seconds| f64::from(handled - row.acted_before) / seconds)
            .filter(|rate| *rate > 0.0);
        let left = f64::from((row.matched - handled).max(0));
        let seconds = per_second.filter(|_| row.status == "running").map(|rate| left / rate);
        let expected_at = row.acted_at.zip(seconds);
        let expected_at = expected_at.and_then(|(at, left)| at.checked_add(time::Duration::seconds_f64(left)));
        let text = |key: &str| row.request.get(key).and_then(Value::as_str).map(str::to_owned);
        let is_retry = row.kind == OperationKind::Retry;
        Self {
            operation_id: row.id,
            kind: row.kind,
            status: row.status.clone(),
            matched: row.matched,
            cut: row.cut,
            done: row.done,
            skipped: row.skipped,
            refused: row.refused,
            undone: row.undone,
            failed_again: row.failed_again,
            succeeded_again: row.succeeded_again,
            pending: row.done - row.undone - row.settled,
            rate_per_second: row.rate,
            canary: row.canary,
            stop_after_failures: row.stop_after,
            stop_reason: row.stop_reason.clone(),
            per_second,
            expected_at,
            message: message(row, handled),
            from: text("from").filter(|_| is_retry),
            version: text("version").filter(|_| is_retry),
            filter: row.request.get("filter").filter(|filter| !filter.is_null()).cloned(),
            reason: row.reason.clone(),
            actor: row.actor.clone(),
            created_at: Some(row.created_at),
            finished_at: row.finished_at,
        }
    }
}

fn message(row: &OperationRow, handled: i32) -> String {
    let open = row.done - row.undone - row.settled;
    match row.status.as_str() {
        "running" => format!("{handled} of {} jobs are handled.", row.matched),
        "canary" => format!("Waiting for {open} of {} canaries to end.", row.done),
        "undoing" => format!("Taking back what has not begun: {} so far.", row.undone),
        "undone" => {
            format!("{} of {} jobs were taken back; the others had begun.", row.undone, row.done)
        }
        "stopped" => match row.stop_reason.as_deref() {
            Some("canary_failed") => {
                format!("Stopped: {} of the first {} jobs failed again.", row.failed_again, row.done)
            }
            Some("failures") => format!("Stopped: {} jobs failed again.", row.failed_again),
            Some("interrupted") => "Stopped: the process that ran it ended.".to_owned(),
            _ => "Stopped by an administrator.".to_owned(),
        },
        _ if open > 0 && row.kind != OperationKind::Cancel => {
            format!("All jobs are handled; {open} of them have not ended yet.")
        }
        _ => "All jobs are handled.".to_owned(),
    }
}

/// A page of operations, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationPage {
    /// The operations.
    pub operations: Vec<OperationView>,
    /// Give it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// A job of an operation.
#[derive(Debug, Clone, Serialize, sqlx::FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationJob {
    /// Place in the order of acting, from 1.
    pub position: i32,
    /// `job_…`
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// `org_…`
    #[sqlx(rename = "job_organization_id")]
    #[schema(value_type = String)]
    pub organization_id: OrganizationId,
    /// waiting, acted, skipped, refused or undone.
    pub state: String,
    /// Why it was skipped or refused: `under_way`, ended, gone, `no_such_step`, `no_lines` or `workflow_unknown`; begun: could not be undone.
    pub note: Option<String>,
    /// The round that was opened.
    pub round: Option<i32>,
    /// How that round ended: succeeded, failed or other.
    pub result: Option<String>,
    /// When it was acted on.
    #[serde(with = "time::serde::rfc3339::option")]
    pub acted_at: Option<OffsetDateTime>,
}

/// A page of an operation's jobs, by position.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationJobs {
    /// The jobs.
    pub jobs: Vec<OperationJob>,
    /// Give it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}
