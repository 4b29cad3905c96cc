//! `/v1/ingestion/upload-url`: a presigned URL, and the job that waits for what is put there. docs/bulk.md.

use super::extract::{Authenticated, Segment, read_optional_json, whole_or_null};
use super::jobs;
use super::problem::{Problem, ProblemDocument};
use crate::app::App;
use crate::auth::Role;
use crate::db::{DbError, Scope};
use crate::engine::jobs::JobView;
use crate::ids::{JobId, UploadId};
use crate::limits::pressure::Work;
use crate::phi::Phi;
use crate::uploads::watcher::{Hint, TakenUp, WatchError};
use crate::uploads::{self, CONTENT_TYPES, NewUpload, SIZE_BYTES_MAX, URL_LIFE, UploadError};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// What is to be uploaded; all of it may be left out.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UploadRequest {
    /// `application/fhir+json` (default), `application/json`, `application/fhir+ndjson` or `application/x-ndjson`.
    #[serde(default)]
    #[schema(pattern = "^application/(fhir\\+json|json|fhir\\+ndjson|x-ndjson)$")]
    content_type: Option<String>,
    /// Exact size in bytes, at most 5 GB (5,368,709,120): a body of another size is then refused by S3.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 5_368_709_120_u64)]
    size_bytes: Option<i64>,
    /// SHA-256 of the bytes in hexadecimal: other bytes are then refused by S3.
    #[serde(default)]
    #[schema(pattern = "^[0-9a-fA-F]{64}$")]
    sha256: Option<String>,
    /// Only its extension is used: `.json`, `.ndjson`, `.json.gz` or `.ndjson.gz`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    filename: Option<Phi<String>>,
}

/// A URL for one PUT.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UploadUrl {
    /// The upload. `/v1/ingestion/jobs/{uploadId}` is its job.
    #[schema(value_type = String, example = "upload_01h455vb4pex5vsknk084sn02q")]
    pub upload_id: UploadId,
    /// The job that waits for the object.
    #[schema(value_type = String, example = "job_01h455vb4pex5vsknk084sn02q")]
    pub job_id: JobId,
    /// For one request, without any credentials.
    pub upload_url: String,
    /// Always PUT.
    pub method: &'static str,
    /// Send all of these as they are.
    pub headers: BTreeMap<String, String>,
    /// Seconds from now.
    pub expires_in: u64,
    /// The same as an instant.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// Bucket.
    pub s3_bucket: String,
    /// Key of the object.
    pub s3_key: String,
    /// What to do, in order.
    pub instructions: BTreeMap<&'static str, String>,
}

fn refused(member: &str, detail: impl Into<String>) -> Problem {
    Problem::new("invalid_request", detail).at(None, Some(format!("/{member}")))
}

/// Header names as people write them; they mean the same in any case.
fn titled(name: &str) -> String {
    let parts = name.split('-').map(|part| {
        let (first, rest) = part.split_at(part.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    // Those of S3 are known in lower case.
    if name.starts_with("x-amz-") { name.to_owned() } else { parts.collect::<Vec<_>>().join("-") }
}

impl UploadRequest {
    fn content_type(&self) -> Result<&'static str, Problem> {
        let given = self.content_type.as_deref().unwrap_or(CONTENT_TYPES[0].0);
        let known = CONTENT_TYPES.iter().map(|(known, _)| *known).find(|known| *known == given);
        known.ok_or_else(|| {
            let all: Vec<&str> = CONTENT_TYPES.iter().map(|(known, _)| *known).collect();
            refused("contentType", format!("`contentType` must be one of {}.", all.join(", ")))
        })
    }

    fn size_bytes(&self) -> Result<Option<u64>, Problem> {
        let Some(given) = self.size_bytes else { return Ok(None) };
        let size = u64::try_from(given).unwrap_or(0);
        if size == 0 {
            return Err(refused("sizeBytes", "`sizeBytes` must be at least 1."));
        }
        if size > SIZE_BYTES_MAX {
            return Err(refused(
                "sizeBytes",
                format!(
                    "One upload takes up to 5 GB ({SIZE_BYTES_MAX} bytes); uploads in parts come later. Split the file, or compress it with gzip."
                ),
            ));
        }
        Ok(Some(size))
    }

    fn sha256(&self) -> Result<Option<[u8; 32]>, Problem> {
        let Some(given) = &self.sha256 else { return Ok(None) };
        let mut sha256 = [0; 32];
        hex::decode_to_slice(given, &mut sha256)
            .map_err(|_| refused("sha256", "`sha256` must be 64 hexadecimal digits."))?;
        Ok(Some(sha256))
    }
}

/// Ask for a URL to upload a file to.
///
/// For NDJSON, a JSON array or one Bundle, up to 5 GB, plain or gzip. The URL takes one object once, with exactly the headers
/// of the answer; the job waits for it from here on.
#[utoipa::path(
    post, path = "/v1/ingestion/upload-url", tag = "intake", operation_id = "createUpload",
    request_body(content = Option<UploadRequest>, content_type = "application/json"),
    responses(
        (status = 200, description = "The URL; its job waits", body = UploadUrl),
        (status = 429, description = "Too many uploads wait; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused; nothing was recorded", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn create_upload(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UploadUrl>, Problem> {
    let organization = caller.organization(&[Role::Sender, Role::Admin])?;
    app.limits.pressure.admit(organization, Work::Bulk, 0)?;
    let request: UploadRequest = read_optional_json(&headers, body).await?;
    let content_type = request.content_type()?;
    let new = NewUpload {
        organization,
        source_label: caller.caller.source_label.clone(),
        content_type,
        extension: uploads::extension(content_type, request.filename.as_ref().map(|name| name.expose().as_str())),
        size_bytes: request.size_bytes()?,
        sha256: request.sha256()?,
        actor: caller.actor.clone(),
        waiting_max: app.config.uploads_waiting_max,
    };
    let internal = || Problem::new("internal_error", "An internal error.");
    let workflow = app.catalog.latest("bulk-upload").map_err(|error| {
        tracing::error!(error = %error, "the workflow bulk-upload is not loaded");
        internal()
    })?;
    let upload = uploads::create(&app.db, &app.objects, &workflow, app.clock.now(), new).await;
    let upload = upload.map_err(|error| match error {
        UploadError::Db(error) => error.into(),
        UploadError::TooMany => {
            let detail = "The organization has as many uploads as it may have that wait for their object.";
            Problem::new("too_many_uploads", detail).retry_after(Duration::from_mins(1))
        }
        UploadError::Sign(error) => {
            tracing::error!(error = %error, "a URL could not be signed: look at the S3 credentials");
            internal()
        }
    })?;
    Ok(Json(UploadUrl {
        upload_id: upload.id,
        job_id: upload.job,
        upload_url: upload.put.url,
        method: "PUT",
        headers: upload.put.headers.into_iter().map(|(name, value)| (titled(&name), value)).collect(),
        expires_in: URL_LIFE.as_secs(),
        expires_at: upload.expires_at,
        s3_bucket: app.objects.bucket().to_owned(),
        s3_key: app.objects.full_key(&upload.key),
        instructions: instructions(upload.job),
    }))
}

fn instructions(job: JobId) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("1", "Send the file as the body of one PUT to uploadUrl, with every header of `headers` as it is.".to_owned()),
        ("2", "Begin before expiresAt; the URL takes one object, once. For another file ask for another URL.".to_owned()),
        ("3", "200 means that the object is stored. 403: a header is missing, changed or added. 412: it was uploaded before.".to_owned()),
        ("4", format!("Follow the job at /v1/ingestion/jobs/{job}.")),
    ])
}

/// Say that the file is there.
///
/// Optional: the watcher finds the object without it, only later. May be repeated.
#[utoipa::path(
    post, path = "/v1/ingestion/uploads/{uploadId}/complete", tag = "intake", operation_id = "completeUpload",
    params(("uploadId" = String, Path)),
    responses(
        (status = 200, description = "The job, which has its object", body = JobView),
        (status = "4XX", description = "Refused; 409: the object is not there (yet)", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn complete_upload(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
) -> Result<Json<JobView>, Problem> {
    let organization = caller.organization(&[Role::Sender, Role::Admin])?;
    let (_, job) = jobs::locate(&app, &caller, &id).await?;
    let place = app
        .db
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(uploads::store::place_of(connection, organization, UploadId(job.0)))
        })
        .await?;
    let (bucket, key, arrived) = place.ok_or_else(|| Problem::new("job_not_found", "There is no such upload."))?;
    if !arrived {
        app.limits.pressure.admit(organization, Work::Bulk, 1)?;
        let taken = app.watcher.take_up(Hint::Completion, &bucket, &key).await.map_err(problem)?;
        match taken {
            TakenUp::Absent | TakenUp::Foreign => {
                let detail = "Object storage has no object under the upload's key.";
                return Err(Problem::new("object_not_there", detail).retry_after(Duration::from_secs(2)));
            }
            TakenUp::Refused(_) => {
                let detail = "The object under the upload's key was not put there by the upload's URL, and is refused.";
                return Err(Problem::new("object_not_there", detail));
            }
            TakenUp::Job(..) | TakenUp::Known => {}
        }
    }
    Ok(Json(jobs::view(&app, organization, job).await?))
}

/// What a caller is told when the watcher could not look.
pub(super) fn problem(error: WatchError) -> Problem {
    match error {
        WatchError::Db(error) => error.into(),
        WatchError::Objects(error) if error.is_transient() => {
            Problem::new("object_store_unavailable", "Object storage is not available.")
                .retry_after(Duration::from_secs(5))
        }
        error => {
            tracing::error!(error = &error as &dyn std::error::Error, "an object could not be looked at");
            Problem::new("internal_error", "An internal error.")
        }
    }
}
