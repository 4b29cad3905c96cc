//! Presigned uploads: a URL to which a sender PUTs one object, and a job that waits for it (docs/bulk.md).
//!
//! Promises: a URL is given out only with its job, in one transaction with the audit record; it admits exactly what was
//! asked for, once; a job whose object never comes ends as `expired`.
//!
//! Leaves to others: taking up what was uploaded, and everything that is done with it.

pub mod expiry;
pub mod store;
pub mod watcher;

use crate::audit::{self, Action, Actor, Record};
use crate::db::{Db, DbError, Scope};
use crate::engine::definition::WorkflowDefinition;
use crate::ids::{JobId, OrganizationId, UploadId};
use crate::objects::{ObjectError, Objects, PresignedPut, PutTerms};
use base64::Engine as _;
use std::time::Duration;
use time::OffsetDateTime;

/// How long a URL can be used.
pub const URL_LIFE: Duration = Duration::from_hours(1);
/// A job waits so long for its object after its URL's end.
pub const GRACE: Duration = Duration::from_hours(24);
/// What one PUT can carry (S3: "5 GB", which are 5 GiB).
pub const SIZE_BYTES_MAX: u64 = 5 << 30;
/// Below it lies everything that senders put; below that, an organization's id.
pub const PREFIX: &str = "incoming/fhir";

/// What may be uploaded, and the extension that its key gets.
pub const CONTENT_TYPES: &[(&str, &str)] = &[
    ("application/fhir+json", "json"),
    ("application/json", "json"),
    ("application/fhir+ndjson", "ndjson"),
    ("application/x-ndjson", "ndjson"),
];

/// What a sender wants to upload.
#[derive(Clone)]
pub struct NewUpload {
    /// Whose.
    pub organization: OrganizationId,
    /// Source label of the sender's key.
    pub source_label: String,
    /// One of [`CONTENT_TYPES`].
    pub content_type: &'static str,
    /// See [`extension`].
    pub extension: &'static str,
    /// Exact size, if it is known beforehand; at most [`SIZE_BYTES_MAX`].
    pub size_bytes: Option<u64>,
    /// Of the bytes, if it is known beforehand.
    pub sha256: Option<[u8; 32]>,
    /// Who asks.
    pub actor: Actor,
    /// So many uploads of the organization may wait. Requests at the same instant may go a little beyond.
    pub waiting_max: u32,
}

/// An upload that is allowed now.
#[derive(Clone)]
pub struct Upload {
    /// The upload; its job's id is the same number.
    pub id: UploadId,
    /// The job that waits for it.
    pub job: JobId,
    /// The URL with what must be sent.
    pub put: PresignedPut,
    /// Key of the object, without the configured prefix.
    pub key: String,
    /// When the URL ends.
    pub expires_at: OffsetDateTime,
}

/// Why no URL was given out.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The URL could not be signed.
    #[error("the URL could not be signed")]
    Sign(#[source] ObjectError),
    /// The organization has so many that wait.
    #[error("too many uploads wait for their object")]
    TooMany,
    /// The job could not be recorded.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// The extension of an object's key: the file name's, if it is one that we know, else the content type's. Nothing else
/// of a file name is used: it may be a patient's.
#[must_use]
pub fn extension(content_type: &str, filename: Option<&str>) -> &'static str {
    let name = filename.unwrap_or_default().to_ascii_lowercase();
    let known = [(".json.gz", "json.gz"), (".ndjson.gz", "ndjson.gz"), (".json", "json"), (".ndjson", "ndjson")];
    let named = known.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, extension)| *extension);
    let typed = CONTENT_TYPES.iter().find(|(known, _)| *known == content_type).map(|(_, extension)| *extension);
    named.or(typed).unwrap_or("json")
}

/// The key of an upload's object: by organization and day, so that a listing of a prefix stays bounded.
fn key_of(organization: OrganizationId, at: OffsetDateTime, id: UploadId, extension: &str) -> String {
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{PREFIX}/{organization}/{year:04}/{month:02}/{day:02}/{id}.{extension}")
}

/// Sign a URL and record its job, which waits from here on. Signing sends nothing, and a URL whose job could not be
/// recorded is never told.
///
/// # Errors
/// [`UploadError`].
pub async fn create(
    db: &Db,
    objects: &Objects,
    workflow: &WorkflowDefinition,
    now: OffsetDateTime,
    new: NewUpload,
) -> Result<Upload, UploadError> {
    let job = JobId::new();
    let id = UploadId(job.0);
    let key = key_of(new.organization, now, id, new.extension);
    let metadata = [
        ("organization_id", new.organization.to_string()),
        ("upload_id", id.to_string()),
        ("uploaded_by", if new.actor.name.is_empty() { "unknown".to_owned() } else { new.actor.name.clone() }),
    ];
    let sha256 = new.sha256.map(|sha256| base64::engine::general_purpose::STANDARD.encode(sha256));
    let terms = PutTerms {
        size: new.size_bytes,
        content_type: new.content_type,
        metadata: &metadata,
        sha256: sha256.as_deref(),
        expires_in: URL_LIFE,
    };
    let put = objects.presign_put(&key, &terms).await.map_err(UploadError::Sign)?;
    let [_, _, (_, uploaded_by)] = metadata;
    let row = store::UploadRow {
        organization: new.organization,
        id,
        job,
        workflow: workflow.name.clone(),
        workflow_version: workflow.version,
        priority: workflow.priority,
        source_label: new.source_label,
        bucket: objects.bucket().to_owned(),
        storage_key: key.clone(),
        content_type: new.content_type,
        declared_size_bytes: new.size_bytes.and_then(|size| i64::try_from(size).ok()),
        declared_sha256: new.sha256,
        uploaded_by,
        life: URL_LIFE,
    };
    let (actor, waiting_max) = (new.actor, new.waiting_max);
    let expires_at = db
        .unit::<_, UploadError, _>(Scope::Organization(new.organization), move |connection| {
            Box::pin(async move {
                if store::has_waiting(connection, row.organization, waiting_max).await? {
                    return Err(UploadError::TooMany);
                }
                let expires_at = store::insert_upload(connection, &row, &actor).await?;
                let id = row.id.to_string();
                let mut record = Record::new(row.organization, "upload.created", Action::Create, &actor);
                record.job = Some(row.job);
                record.resource = Some(&id);
                audit::append(connection, record).await?;
                Ok(expires_at)
            })
        })
        .await?;
    Ok(Upload { id, job, put, key, expires_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_file_name_only_a_known_extension_is_used() {
        for (content_type, filename, expected) in [
            ("application/fhir+json", None, "json"),
            ("application/x-ndjson", None, "ndjson"),
            ("application/fhir+json", Some("Doe, Jane 1970.NDJSON"), "ndjson"),
            ("application/fhir+ndjson", Some("../../etc/a.ndjson.gz"), "ndjson.gz"),
            ("application/fhir+ndjson", Some("jane.doe"), "ndjson"),
            ("application/fhir+ndjson", Some(""), "ndjson"),
        ] {
            assert_eq!(extension(content_type, filename), expected, "{filename:?}");
        }
    }

    #[test]
    fn keys_are_by_organization_and_day() {
        let at = time::macros::datetime!(2026-03-01 23:59:59 UTC);
        let (organization, id) = (OrganizationId::new(), UploadId::new());
        assert_eq!(key_of(organization, at, id, "json"), format!("incoming/fhir/{organization}/2026/03/01/{id}.json"));
    }
}
