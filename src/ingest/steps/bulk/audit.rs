//! `bulk.audit`: totals over the chunks, the closing audit record, and the outcome file: a line for each line of the upload
//! that was not ingested.

use crate::db::{DbError, Scope};
use crate::engine::handler::{StepContext, StepError, StepHandler, StepOutcome};
use crate::ids::{JobId, OrganizationId};
use crate::ingest::bulk::plan::Shape;
use crate::ingest::bulk::store;
use crate::ingest::issues::{self, IssuePlace, StoredIssue};
use crate::ingest::payloads::{Payloads, storage_error};
use crate::ingest::steps::audit::{close, outputs_of};
use serde::Serialize;
use serde_json::json;
use std::collections::VecDeque;

/// Issues that are read at once.
const PAGE: usize = 1_000;
/// Issues of one line that are told.
const ISSUES_OF_LINE_MAX: usize = 100;

/// As `job.audit`, and it leaves the outcome file.
pub struct Audit {
    pub(in crate::ingest::steps) payloads: Payloads,
}

/// Where the outcome file of a job is.
#[must_use]
pub fn outcomes_key(organization: OrganizationId, job: JobId) -> String {
    format!("outcomes/{organization}/{job}.ndjson")
}

#[async_trait::async_trait]
impl StepHandler for Audit {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let (organization, job) = (context.organization, context.job);
        let outputs = outputs_of(&self.payloads, organization, job).await?;
        let duplicate = outputs.get("validate").and_then(|output| output.get("duplicateOf")).cloned();
        let mut more = Vec::new();
        if let Some(duplicate) = duplicate.filter(|_| !context.failed_before) {
            more.push(("duplicateOf", duplicate));
        } else {
            let lines = self.write_outcomes(organization, job).await?;
            more.push(("outcomes", json!({"key": outcomes_key(organization, job), "lines": lines})));
        }
        Ok(close(context, &outputs, more))
    }
}

/// A line of the outcome file. It names elements and codes, never a value.
#[derive(Serialize)]
struct Outcome<'i> {
    line: Option<i64>,
    entry: Option<i64>,
    issues: &'i [Told],
}

#[derive(Serialize)]
struct Told {
    severity: String,
    code: String,
    expression: Option<String>,
    pointer: Option<String>,
    offset: Option<i64>,
    message: String,
}

impl From<StoredIssue> for Told {
    fn from(issue: StoredIssue) -> Self {
        let StoredIssue { severity, code, expression, pointer, offset, message, .. } = issue;
        Self { severity, code, expression, pointer, offset, message }
    }
}

impl Audit {
    /// Write the file; how many lines it has. The same rows make the same bytes.
    async fn write_outcomes(&self, organization: OrganizationId, job: JobId) -> Result<u64, StepError> {
        let metadata = vec![("job_id", job.to_string()), ("organization_id", organization.to_string())];
        let key = outcomes_key(organization, job);
        let mut writer = self.payloads.objects().writer(&key, "application/x-ndjson", metadata);
        let mut lines = 0u64;
        let mut outcomes = Outcomes::new(self.payloads.clone(), organization, job).await?;
        let written = async {
            while let Some(text) = outcomes.next().await? {
                writer.write(&text).await.map_err(storage_error)?;
                lines += 1;
            }
            writer.finish().await.map_err(storage_error)
        };
        if let Err(error) = written.await {
            // What cannot be given up now is swept as an abandoned upload.
            let _ = writer.abort().await;
            return Err(error);
        }
        Ok(lines)
    }
}

/// The outcomes of a job in order of the file: its errors, page by page, beside the lines that were left out, of which not
/// all issues may have been kept.
struct Outcomes {
    payloads: Payloads,
    organization: OrganizationId,
    job: JobId,
    is_lines: bool,
    errors: VecDeque<StoredIssue>,
    errors_after: Option<IssuePlace>,
    rejected: VecDeque<i64>,
    rejected_after: Option<i32>,
}

impl Outcomes {
    async fn new(payloads: Payloads, organization: OrganizationId, job: JobId) -> Result<Self, StepError> {
        let kind = payloads
            .db()
            .unit(Scope::Organization(organization), move |connection| {
                Box::pin(async move { store::file_kind(connection, organization, job).await })
            })
            .await?;
        Ok(Self {
            payloads,
            organization,
            job,
            is_lines: kind.is_none_or(|kind| kind.shape == Shape::Ndjson),
            errors: VecDeque::new(),
            errors_after: Some(IssuePlace::START),
            rejected: VecDeque::new(),
            rejected_after: Some(0),
        })
    }

    async fn fill(&mut self) -> Result<(), StepError> {
        let (organization, job) = (self.organization, self.job);
        while let Some(after) = self.errors_after.filter(|_| self.errors.is_empty()) {
            let (page, next) = self
                .payloads
                .db()
                .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                    Box::pin(async move { issues::page(connection, organization, job, after, PAGE).await })
                })
                .await?;
            self.errors.extend(page.into_iter().filter(StoredIssue::rejects));
            self.errors_after = next;
        }
        while let Some(after) = self.rejected_after.filter(|_| self.rejected.is_empty()) {
            let chunks = self
                .payloads
                .db()
                .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                    Box::pin(async move { store::rejected_after(connection, organization, job, after, 1).await })
                })
                .await?;
            self.rejected_after = chunks.last().map(|(chunk, _)| *chunk);
            self.rejected.extend(chunks.into_iter().flat_map(|(_, rejected)| rejected));
        }
        Ok(())
    }

    /// The next line of the file, with its end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, StepError> {
        self.fill().await?;
        let place = |issue: &StoredIssue| issue.line.or(issue.entry.map(i64::from));
        let (error, left_out) = (self.errors.front().map(place), self.rejected.front().copied());
        let number = match (error, left_out) {
            (None, None) => return Ok(None),
            (Some(error), Some(left_out)) => error.map(|error| error.min(left_out)),
            (Some(error), None) => error,
            (None, Some(left_out)) => Some(left_out),
        };
        if left_out.is_some() && left_out == number {
            self.rejected.pop_front();
        }
        let mut told = Vec::new();
        while self.errors.front().is_some_and(|issue| place(issue) == number) {
            if let Some(issue) = self.errors.pop_front().filter(|_| told.len() < ISSUES_OF_LINE_MAX) {
                told.push(Told::from(issue));
            }
            self.fill().await?;
        }
        let (line, entry) = if self.is_lines { (number, None) } else { (None, number) };
        let mut text = serde_json::to_vec(&Outcome { line, entry, issues: &told })
            .map_err(|error| StepError::ours("step_panicked", "An outcome cannot be written.").caused_by(error))?;
        text.push(b'\n');
        Ok(Some(text))
    }
}
