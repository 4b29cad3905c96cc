//! The exact bytes of a job's payload, from the row or from object storage, and where they are kept.
//!
//! Whatever is handed out has the hash that it was accepted with. The payloads of the last jobs stay in memory, so that
//! the steps of one job fetch them once.

use super::settings::{self, AthenaSettings};
use super::subject::MrnRules;
use crate::db::{Db, DbError, Scope};
use crate::engine::handler::StepError;
use crate::ids::{JobId, OrganizationId};
use crate::objects::{ObjectError, Objects};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use time::OffsetDateTime;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

/// Bytes of payloads that stay in memory. A larger payload is fetched by each step.
const RECENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A larger payload that is asked for is not read into memory, once it is in object storage: its reader may be slow.
pub const WHOLE_BYTES_MAX: u64 = 256 * 1024;

/// A job's payload, and what the steps need to know about the job.
#[derive(Clone)]
pub struct JobPayload {
    /// The exact bytes.
    pub body: Bytes,
    /// Their SHA-256.
    pub sha256: Vec<u8>,
    /// As declared by the sender.
    pub content_type: String,
    /// Set once the bytes are in object storage.
    pub storage_key: Option<String>,
    /// The sender's source label.
    pub source: String,
    /// What the organization says about numbers.
    pub mrn_rules: MrnRules,
    /// How its Athena events are to be understood.
    pub athena: AthenaSettings,
}

#[derive(sqlx::FromRow)]
struct Row {
    sha256: Vec<u8>,
    content_type: String,
    body: Option<Vec<u8>>,
    storage_key: Option<String>,
    source_label: String,
    settings: serde_json::Value,
    accepted_at: OffsetDateTime,
    is_purged: bool,
    is_expired: bool,
}

/// Organization and hash: payloads are not shared between organizations, not even in memory.
type PayloadKey = (OrganizationId, Vec<u8>);

/// Reads payloads. Cheap to clone.
#[derive(Clone)]
pub struct Payloads {
    db: Db,
    objects: Objects,
    recent: Arc<Mutex<VecDeque<(PayloadKey, Bytes)>>>,
}

impl Payloads {
    /// Over this database and this object storage.
    #[must_use]
    pub fn new(db: Db, objects: Objects) -> Self {
        Self { db, objects, recent: Arc::default() }
    }

    /// The database.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// The object storage.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// A job's payload.
    ///
    /// # Errors
    /// Transient while a dependency is away; ours `payload_missing` or `payload_corrupt` if the bytes are not there or
    /// are not those that were accepted.
    pub async fn of_job(&self, organization: OrganizationId, job: JobId) -> Result<JobPayload, StepError> {
        let row: Option<Row> = self
            .db
            .unit(Scope::Organization(organization), move |connection| Box::pin(load(connection, organization, job)))
            .await?;
        let row = row.ok_or_else(missing)?;
        if row.is_purged {
            return Err(purged());
        }
        if row.is_expired {
            return Err(expired());
        }
        let body = self.bytes(organization, row.body, row.storage_key.as_deref(), &row.sha256).await?;
        Ok(JobPayload {
            body,
            sha256: row.sha256,
            content_type: row.content_type,
            storage_key: row.storage_key,
            source: row.source_label,
            mrn_rules: settings::mrn_rules(organization, &row.settings, Some(row.accepted_at)),
            athena: AthenaSettings::of(organization, &row.settings),
        })
    }

    /// A payload by its hash, to be read; nothing if the organization has none such.
    ///
    /// # Errors
    /// As [`Payloads::of_job`].
    pub async fn open(
        &self,
        organization: OrganizationId,
        sha256: Vec<u8>,
    ) -> Result<Option<(String, Opened)>, StepError> {
        let wanted = sha256.clone();
        let row: Option<Kept> = self
            .db
            .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                Box::pin(async move {
                    let query = sqlx::query_as(
                        "select content_type, body, storage_key, size_bytes, purged_at is not null, expired_at is not null
                         from payloads
                         where organization_id = $1
                           and sha256 = $2",
                    );
                    Ok(query.bind(organization).bind(wanted).fetch_optional(connection).await?)
                })
            })
            .await?;
        let Some((content_type, body, storage_key, size, is_purged, is_expired)) = row else { return Ok(None) };
        // Before the bytes that are kept in memory are asked for.
        if is_purged {
            return Ok(Some((content_type, Opened::Purged)));
        }
        if is_expired {
            return Ok(Some((content_type, Opened::Expired)));
        }
        let size = u64::try_from(size).unwrap_or(0);
        if let Some(key) = storage_key.as_deref().filter(|_| body.is_none() && size > WHOLE_BYTES_MAX) {
            let reader = self.objects.read(key).await.map_err(storage_error)?;
            return Ok(Some((content_type, Opened::Stream(checked(reader, sha256).boxed(), size))));
        }
        let body = self.bytes(organization, body, storage_key.as_deref(), &sha256).await?;
        Ok(Some((content_type, Opened::Whole(body))))
    }

    async fn bytes(
        &self,
        organization: OrganizationId,
        inline: Option<Vec<u8>>,
        storage_key: Option<&str>,
        sha256: &[u8],
    ) -> Result<Bytes, StepError> {
        let key = (organization, sha256.to_vec());
        if let Some(body) = self.recall(&key) {
            return Ok(body);
        }
        let body = match (inline, storage_key) {
            (Some(body), _) => Bytes::from(body),
            (None, Some(storage_key)) => self.objects.get(storage_key).await.map_err(storage_error)?,
            (None, None) => return Err(missing()),
        };
        if Sha256::digest(&body)[..] != *sha256 {
            let message = "The stored payload is not the one that was accepted: its hash differs.";
            return Err(StepError::ours("payload_corrupt", message));
        }
        self.remember(key, &body);
        Ok(body)
    }

    fn recall(&self, key: &PayloadKey) -> Option<Bytes> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|(one, _)| one == key).map(|(_, body)| body.clone())
    }

    fn remember(&self, key: PayloadKey, body: &Bytes) {
        // Few and large, or many and small: a bounded search either way.
        const RECENT_COUNT_MAX: usize = 512;
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((key, body.clone()));
        let mut total: usize = recent.iter().map(|(_, body)| body.len()).sum();
        while total > RECENT_BYTES_MAX || recent.len() > RECENT_COUNT_MAX {
            let Some((_, oldest)) = recent.pop_front() else { return };
            total -= oldest.len();
        }
    }
}

/// Media type, body, key in object storage, size, whether it was erased, whether its bytes went because of their age.
type Kept = (String, Option<Vec<u8>>, Option<String>, i64, bool, bool);

/// A payload that is to be read.
pub enum Opened {
    /// It was erased: only that it was there is known.
    Purged,
    /// Its bytes went because of their age.
    Expired,
    /// In memory, small or not in object storage yet; it has the hash that it was accepted with.
    Whole(Bytes),
    /// Of so many bytes, as they come. It ends with an error if it has another hash.
    Stream(BoxStream<'static, std::io::Result<Bytes>>, u64),
}

/// The bytes of a reader; an error at the end, if they have another hash.
fn checked(
    reader: impl AsyncRead + Send + Unpin + 'static,
    sha256: Vec<u8>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let bytes = ReaderStream::with_capacity(reader, 256 * 1024);
    stream::try_unfold((bytes, Sha256::new(), sha256), |(mut bytes, mut hash, sha256)| async move {
        match bytes.next().await.transpose()? {
            Some(piece) => {
                hash.update(&piece);
                Ok(Some((piece, (bytes, hash, sha256))))
            }
            None if hash.finalize()[..] == *sha256 => Ok(None),
            None => {
                tracing::error!(code = "payload_corrupt", "a stored payload is not the one that was accepted");
                Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "not the bytes that were accepted"))
            }
        }
    })
}

async fn load(connection: &mut PgConnection, organization: OrganizationId, job: JobId) -> Result<Option<Row>, DbError> {
    let query = sqlx::query_as(
        "select p.sha256, p.content_type, p.body, p.storage_key, j.source_label, o.settings, j.created_at as accepted_at,
                p.purged_at is not null as is_purged, p.expired_at is not null as is_expired
         from jobs j
         join payloads p on p.organization_id = j.organization_id and p.sha256 = j.payload_sha256
         join organizations o on o.id = j.organization_id
         where j.organization_id = $1
           and j.id = $2",
    );
    Ok(query.bind(organization).bind(job).fetch_optional(connection).await?)
}

/// The payload is in object storage: the row points there, and the inline copy goes.
///
/// # Errors
/// A [`DbError`].
pub async fn mark_stored(
    connection: &mut PgConnection,
    organization: OrganizationId,
    sha256: &[u8],
    storage_key: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "update payloads
         set storage_key = $3, stored_at = chartgate_now(), body = null
         where organization_id = $1
           and sha256 = $2
           -- Stored already, by another job of the same bytes.
           and body is not null",
    )
    .bind(organization)
    .bind(sha256)
    .bind(storage_key)
    .execute(connection)
    .await?;
    Ok(())
}

/// The bytes were erased.
#[must_use]
pub fn purged() -> StepError {
    StepError::sender("payload_purged", "The payload was erased; its bytes are not taken again.")
}

/// The bytes went because of their age.
fn expired() -> StepError {
    StepError::sender("payload_expired", "The payload's bytes are no longer kept; they may be sent again.")
}

fn missing() -> StepError {
    StepError::ours("payload_missing", "The job's payload is not there.")
}

/// Object storage's errors in a step's words.
#[must_use]
pub fn storage_error(error: ObjectError) -> StepError {
    let step_error = match &error {
        ObjectError::Unavailable { retry_after, .. } => StepError {
            retry_after: *retry_after,
            ..StepError::transient("object_store_unavailable", "Object storage is not available.")
        },
        ObjectError::Denied { .. } | ObjectError::Refused { .. } => {
            StepError::ours("object_store_denied", "Object storage denied or refused the request.")
        }
        ObjectError::NotFound | ObjectError::Changed => missing(),
    };
    step_error.caused_by(error)
}
