//! `GET /admin/jobs/export`: the jobs of a filter as CSV (RFC 4180) or NDJSON, read page by page while they are sent.
//!
//! At most [`ROWS_MAX`] jobs, for [`EXPORT_MAX`], few exports at once; the last line says when there were more. What cannot be read any more breaks the answer off:
//! one that ends well is whole.

use super::query::JobQuery;
use super::value_of;
use crate::app::App;
use crate::console::answer::Refused;
use crate::console::session::Visitor;
use crate::db::{DbError, Scope};
use crate::engine::jobs::{self, JobFilter, JobSummary};
use crate::engine::search_store::{self, Found};
use crate::ids::{JobId, OrganizationId};
use crate::limits::places::Place;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::format_description::well_known::Rfc3339;

/// Jobs of an export, at most.
pub(in crate::console) const ROWS_MAX: i64 = 100_000;
/// Jobs read at once.
const PAGE: i64 = 200;
/// Pages read for one export, also where few jobs meet the filter.
const PAGES_MAX: u32 = 2_000;
/// And so long: what is left is behind the cut.
const EXPORT_MAX: Duration = Duration::from_mins(5);

const HEAD: [&str; 11] = [
    "jobId",
    "organizationId",
    "workflow",
    "workflowVersion",
    "source",
    "status",
    "round",
    "errorCode",
    "submittedBy",
    "createdAt",
    "finishedAt",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Ndjson,
}

struct Export {
    app: Arc<App>,
    scope: Scope,
    organization: Option<OrganizationId>,
    filter: JobFilter,
    format: Format,
    after: Option<JobId>,
    rows: i64,
    pages: u32,
    until: Instant,
    is_over: bool,
    _place: Place<String>,
}

/// The answer.
pub(in crate::console) async fn export(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    RawQuery(raw): RawQuery,
) -> Result<Response, Refused> {
    let (format, kind, name) = match value_of(raw.as_deref(), "format").as_deref() {
        Some("csv") => (Format::Csv, "text/csv; charset=utf-8; header=present", "chartgate-jobs.csv"),
        Some("ndjson") => (Format::Ndjson, "application/x-ndjson", "chartgate-jobs.ndjson"),
        _ => return Err(Refused::Invalid("The format must be csv or ndjson.".to_owned())),
    };
    if visitor.watches {
        return Err(Refused::Invalid("An export cannot be watched.".to_owned()));
    }
    let filter = JobQuery::parse(raw.as_deref()).filter(&visitor)?;
    let place = app.limits.exports.take(visitor.caller.name.clone()).ok_or(Refused::Later {
        detail: "As many exports are under way as may be at once. Try again when one has ended.",
        seconds: 30,
    })?;
    let export = Export {
        app,
        scope: visitor.scope(),
        organization: visitor.organization,
        filter,
        format,
        after: None,
        rows: 0,
        pages: 0,
        until: Instant::now() + EXPORT_MAX,
        is_over: false,
        _place: place,
    };
    let pages = stream::try_unfold(export, |mut export| async move {
        if export.is_over {
            return Ok::<_, DbError>(None);
        }
        let bytes = export.next().await?;
        Ok(Some((bytes, export)))
    });
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, Body::from_stream(pages)).into_response())
}

impl Export {
    /// The next page as text.
    async fn next(&mut self) -> Result<Bytes, DbError> {
        let (organization, filter, after) = (self.organization, self.filter.clone(), self.after);
        let limit = PAGE.min(ROWS_MAX - self.rows);
        let found = self.app.db.unit::<_, DbError, _>(self.scope.clone(), move |connection| {
            Box::pin(async move { search_store::search(connection, organization, &filter, after, limit).await })
        });
        let Found { rows, next, .. } = found.await?;
        let is_first = self.pages == 0;
        self.pages += 1;
        self.rows += i64::try_from(rows.len()).unwrap_or(PAGE);
        self.after = next;
        let is_cut =
            next.is_some() && (self.rows >= ROWS_MAX || self.pages >= PAGES_MAX || Instant::now() >= self.until);
        self.is_over = next.is_none() || is_cut;
        let jobs: Vec<JobSummary> = rows.iter().map(jobs::summarize).collect();
        let cut = next.filter(|_| is_cut);
        Ok(match self.format {
            Format::Csv => csv_page(&jobs, is_first, cut),
            Format::Ndjson => ndjson_page(&jobs, cut),
        })
    }
}

fn ndjson_page(jobs: &[JobSummary], cut: Option<JobId>) -> Bytes {
    let mut lines = Vec::with_capacity(jobs.len() * 320);
    let mut push = |value: &serde_json::Value| {
        lines.extend_from_slice(value.to_string().as_bytes());
        lines.push(b'\n');
    };
    for job in jobs {
        push(&serde_json::to_value(job).unwrap_or_default());
    }
    if let Some(after) = cut {
        push(&json!({ "cut": true, "after": after }));
    }
    Bytes::from(lines)
}

fn csv_page(jobs: &[JobSummary], with_head: bool, cut: Option<JobId>) -> Bytes {
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
    // Into memory: writing cannot fail.
    if with_head {
        let _ = writer.write_record(HEAD);
    }
    for job in jobs {
        let _ = writer.write_record(cells(job));
    }
    if let Some(after) = cut {
        let mut cells = [const { String::new() }; HEAD.len()];
        cells[0] = format!("cut: there are more jobs, behind {after}; narrow the filter");
        let _ = writer.write_record(cells);
    }
    Bytes::from(writer.into_inner().unwrap_or_default())
}

fn cells(job: &JobSummary) -> [String; HEAD.len()] {
    let instant = |at: time::OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
    [
        job.job_id.to_string(),
        job.organization_id.to_string(),
        harmless(&job.workflow),
        job.workflow_version.to_string(),
        harmless(&job.source),
        job.status.as_str().to_owned(),
        job.round.to_string(),
        job.error.as_ref().map(|error| harmless(&error.code)).unwrap_or_default(),
        harmless(&job.submitted_by),
        instant(job.created_at),
        job.finished_at.map(instant).unwrap_or_default(),
    ]
}

/// Spreadsheets compute cells that begin so, whoever wrote them (OWASP, CSV injection): a quote makes them text.
fn harmless(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::state::JobStatus;

    fn job(submitted_by: &str) -> JobSummary {
        JobSummary {
            job_id: JobId::new(),
            organization_id: OrganizationId::new(),
            workflow: "fhir-bundle".to_owned(),
            workflow_version: 1,
            source: "webhook".to_owned(),
            status: JobStatus::Succeeded,
            round: 1,
            error: None,
            submitted_by: submitted_by.to_owned(),
            created_at: time::OffsetDateTime::UNIX_EPOCH,
            finished_at: None,
        }
    }

    #[test]
    fn cells_that_a_spreadsheet_would_compute_are_text() {
        for hostile in ["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\t=1", "\r=1"] {
            let page = csv_page(&[job(hostile)], true, None);
            let mut reader = csv::Reader::from_reader(&page[..]);
            let record = reader.records().next().unwrap().unwrap();
            assert_eq!(&record[8], format!("'{hostile}"), "{hostile}");
        }
        assert_eq!(harmless("key:1-2"), "key:1-2");
    }

    #[test]
    fn quotes_commas_and_lines_stay_in_their_cell() {
        let name = "a \"b\", c\nd";
        let page = csv_page(&[job(name), job("x")], true, Some(JobId::new()));
        let mut reader = csv::Reader::from_reader(&page[..]);
        let records: Vec<_> = reader.records().map(Result::unwrap).collect();
        assert_eq!(records.len(), 3);
        assert_eq!(&records[0][8], name);
        assert!(records[2][0].starts_with("cut"));
    }
}
