//! The audit log for administrators: look records up, verify, export. Each of these acts is a record itself.

use crate::app::App;
use crate::audit::archive::Recorder;
use crate::audit::list_store::{self, RecordFilter};
use crate::audit::record::StoredRecord;
use crate::audit::source::{Live, SourceError};
use crate::audit::verify::{Report, verify};
use crate::audit::{self, Action, Record};
use crate::auth::Role;
use crate::db::{DbError, Scope};
use crate::http::extract::{Authenticated, Parameters};
use crate::http::jobs::instant;
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::{JobId, OrganizationId, PatientId};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, stream};
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::io::ReaderStream;

const ADMINS: &[Role] = &[Role::Admin, Role::Platform];
/// Of one page.
const PAGE_MAX: i64 = 1_000;
/// Records that an organization's export reads at once.
const EXPORT_PAGE: i64 = 5_000;
/// What an export may be ahead of its reader.
const EXPORT_AHEAD: usize = 256 * 1024;

/// Which records.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditParameters {
    /// Whose data (platform role; an administrator sees the own organization).
    #[param(pattern = "^org_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    organization: Option<String>,
    /// Who acted, such as `key:0123456789abcdef`.
    actor: Option<String>,
    /// What happened, such as `access.denied`.
    event: Option<String>,
    /// success, denied or failure.
    #[param(pattern = "^(success|denied|failure)$")]
    outcome: Option<String>,
    /// `pat_…`
    #[param(pattern = "^pat_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    patient: Option<String>,
    /// `job_…`
    #[param(pattern = "^job_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    job: Option<String>,
    /// Another resource, as the records name it.
    resource: Option<String>,
    /// The request that caused it.
    request: Option<String>,
    /// Written at this instant or later (RFC 3339).
    #[param(format = DateTime)]
    after: Option<String>,
    /// Written before this instant (RFC 3339).
    #[param(format = DateTime)]
    before: Option<String>,
    /// `nextCursor` of the page before.
    #[param(pattern = "^[0-9]{1,18}$")]
    cursor: Option<String>,
    /// Records of a page, 1 to 1000; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

/// A page of records, newest first.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditPage {
    /// The records, each as the canonical JSON that is sealed.
    pub records: Vec<StoredRecord>,
    /// Give it as `cursor` for the next page; null on the last. A page may hold fewer records than asked for, or none, and
    /// still have a next one: rare matches are looked for piece by piece.
    pub next_cursor: Option<String>,
}

fn parsed<T: FromStr>(name: &str, text: Option<&str>, expected: &str) -> Result<Option<T>, Problem> {
    text.map(str::parse).transpose().map_err(|_| Problem::parameter(name, expected))
}

impl AuditParameters {
    fn filter(&self) -> Result<RecordFilter, Problem> {
        if self.outcome.as_deref().is_some_and(|word| !["success", "denied", "failure"].contains(&word)) {
            return Err(Problem::parameter("outcome", "success, denied or failure"));
        }
        Ok(RecordFilter {
            actor: self.actor.clone(),
            event: self.event.clone(),
            outcome: self.outcome.clone(),
            patient: parsed::<PatientId>("patient", self.patient.as_deref(), "a patient's id (pat_…)")?,
            job: parsed::<JobId>("job", self.job.as_deref(), "a job's id (job_…)")?,
            resource: self.resource.clone(),
            request: self.request.clone(),
            after: instant("after", self.after.as_deref())?,
            before: instant("before", self.before.as_deref())?,
        })
    }
}

/// A record of the act itself, under the caller's organization.
fn act<'a>(caller: &'a Authenticated, event: &'a str) -> Record<'a> {
    let home = caller.caller.organization.unwrap_or(OrganizationId::PLATFORM);
    Record::new(home, event, Action::Read, &caller.actor)
}

/// Audit records of the organization, or of all with the platform role, newest first.
#[utoipa::path(
    get, path = "/v1/admin/audit", tag = "administration", operation_id = "listAudit", params(AuditParameters),
    responses((status = 200, description = "A page", body = AuditPage), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_audit(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Parameters(parameters): Parameters<AuditParameters>,
) -> Result<Json<AuditPage>, Problem> {
    caller.allow(ADMINS)?;
    let filter = parameters.filter()?;
    let wanted: Option<OrganizationId> =
        parsed("organization", parameters.organization.as_deref(), "an organization's id (org_…)")?;
    let cursor: Option<i64> = parsed("cursor", parameters.cursor.as_deref(), "the nextCursor of an earlier page")?;
    let limit = parameters.limit.unwrap_or(100);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::parameter("limit", "a number from 1 to 1000"));
    }
    let own = caller.caller.organization;
    let (records, next) = app.look_up_records((own, wanted), filter, cursor, limit, &caller.actor).await?;
    Ok(Json(AuditPage { records, next_cursor: next.map(|next| next.to_string()) }))
}

/// Where to begin.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BeginParameters {
    /// Only what was sealed behind this checkpoint, which is believed if it is signed.
    #[param(minimum = 1)]
    behind: Option<i64>,
}

impl BeginParameters {
    fn start(&self) -> Result<Option<i64>, Problem> {
        match self.behind {
            Some(number) if number < 1 => Err(Problem::parameter("behind", "a checkpoint's number")),
            start => Ok(start),
        }
    }
}

fn unverifiable(error: &SourceError) -> Problem {
    let retry = Duration::from_secs(5);
    match error {
        SourceError::NoCheckpoint(_) => Problem::parameter("behind", "the number of a checkpoint that there is"),
        SourceError::Db(DbError::Unavailable(_) | DbError::Conflict(_) | DbError::TimedOut(_)) => {
            Problem::new("database_unavailable", "The database is not available.").retry_after(retry)
        }
        SourceError::Objects(_) => {
            Problem::new("object_store_unavailable", "Object storage is not available: nothing can be said without it.")
                .retry_after(retry)
        }
        error => {
            tracing::error!(error = ?error, "the audit log could not be verified");
            Problem::new("internal_error", "An internal error.")
        }
    }
}

/// Verify the whole audit log against its signed checkpoints and the object store (platform role). What is found is in the
/// answer, also if it is bad: `ok` says which.
#[utoipa::path(
    get, path = "/v1/admin/audit/verify", tag = "administration", operation_id = "verifyAudit", params(BeginParameters),
    responses(
        (status = 200, description = "The verdict", body = Report),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn verify_audit(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Parameters(parameters): Parameters<BeginParameters>,
) -> Result<Json<Report>, Problem> {
    caller.allow(&[Role::Platform])?;
    let start = parameters.start()?;
    let report = app.verify_audit(start, &caller.actor, None).await.map_err(|error| unverifiable(&error))?;
    Ok(Json(report))
}

/// The audit log as NDJSON. Platform role: all records with what is needed to verify them offline (`chartgate audit verify
/// --export`), ending with a line `verdict`. Role admin: the own organization's records, oldest first.
#[utoipa::path(
    get, path = "/v1/admin/audit/export", tag = "administration", operation_id = "exportAudit", params(BeginParameters),
    responses(
        (status = 200, description = "One record a line", content((String = "application/x-ndjson"))),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn export_audit(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Parameters(parameters): Parameters<BeginParameters>,
) -> Result<Response, Problem> {
    caller.allow(ADMINS)?;
    let start = parameters.start()?;
    let own = caller.caller.organization;
    let anchors = app.audit_anchors().await.map_err(|error| unverifiable(&error))?;
    let home = own.unwrap_or(OrganizationId::PLATFORM);
    // Before the first byte: who breaks the answer off has read all the same.
    app.db
        .unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move { audit::append(connection, act(&caller, "audit.exported")).await })
        })
        .await?;
    let body = if let Some(own) = own {
        Body::from_stream(own_records(Arc::clone(&app), own))
    } else {
        let (reader, writer) = tokio::io::duplex(EXPORT_AHEAD);
        let writer = tokio::io::BufWriter::with_capacity(EXPORT_AHEAD, writer);
        let mut source = Recorder::new(Live::new(app.db.clone(), app.objects.clone(), start), writer);
        // Ends when the reader does: nobody takes what is written.
        tokio::spawn(async move {
            let written = match verify(&mut source, &anchors).await {
                Ok(report) => source.finish(serde_json::to_value(&report).unwrap_or_default()).await,
                Err(error) => Err(error),
            };
            // Without its last line an export is not whole, and its readers say so.
            if let Err(error) = written {
                tracing::warn!(error = ?error, "an export of the audit log broke off");
            }
        });
        Body::from_stream(ReaderStream::with_capacity(reader, 64 * 1024))
    };
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")], body).into_response())
}

/// Records of one organization, page by page. What cannot be read any more breaks the answer off.
fn own_records(app: Arc<App>, own: OrganizationId) -> impl Stream<Item = Result<Bytes, DbError>> {
    stream::try_unfold(Some(0), move |above| {
        let app = Arc::clone(&app);
        async move {
            let Some(above) = above else { return Ok(None) };
            let records = app
                .db
                .unit::<_, DbError, _>(Scope::Organization(own), move |connection| {
                    Box::pin(async move { list_store::records_above(connection, own, above, EXPORT_PAGE).await })
                })
                .await?;
            let mut lines = Vec::with_capacity(records.len() * 512);
            for record in &records {
                lines.extend_from_slice(&record.line().text);
                lines.push(b'\n');
            }
            let next = records.last().map(|record| record.id);
            Ok(Some((Bytes::from(lines), next)))
        }
    })
}
