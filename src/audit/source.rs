//! Where a verification gets what it verifies: from the running database and object store ([`Live`]), or from an export
//! ([`super::archive`]). The verifier asks in an order that depends on the answers only, so that an export that recorded the
//! answers gives the same verdict.

use super::keys::KeyFileError;
use super::merkle::Hash;
use super::record::{Line, Position, StoredRecord};
use super::store::{self, Published};
use super::witness;
use crate::db::{Db, DbError, Scope};
use crate::objects::{ObjectError, Objects};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// Records of one page.
const PAGE: i64 = 16_384;
/// Leaves of one page, about.
const LEAVES: i64 = 1 << 16;

/// What cannot be read, so that nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The object store.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The key's file, from which trust would begin.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The export's file.
    #[error("the export cannot be read or written")]
    Io(#[from] std::io::Error),
    /// The export is not whole, or not one.
    #[error("line {line} of the export: {what}")]
    Damaged {
        /// From 1.
        line: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// There is no such checkpoint to begin behind.
    #[error("there is no checkpoint {0}")]
    NoCheckpoint(i64),
}

/// A UUID as its text.
pub(super) mod uuid_text {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use uuid::Uuid;

    pub fn serialize<S: Serializer>(uuid: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(uuid)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What there is to verify.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The log's identity.
    #[serde(with = "uuid_text")]
    pub log: Uuid,
    /// When the verification or the export began.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The database's newest checkpoint; 0 if there is none.
    pub newest: i64,
    /// The object store's newest checkpoint, as far as it is not older than the database's newest published one.
    pub newest_object: i64,
    /// The newest checkpoint that the database says is in the object store.
    pub published: i64,
    /// The checkpoint behind which the verification begins.
    pub start: Option<Checkpointed>,
}

/// A checkpoint of the database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpointed {
    /// Its number.
    pub number: i64,
    /// The last batch in its tree, as the database says.
    pub last_batch: i64,
    /// Its note.
    pub note: String,
    /// From which its tree goes on, in hexadecimal; of the first one that is read only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peaks: Option<String>,
}

/// A key's statement, in the database and in the object store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyPair {
    /// As the database has it.
    pub database: Option<String>,
    /// As the object store has it; none if it is not there.
    pub object: Option<String>,
}

/// Leaves of the database: a batch.
#[derive(Debug, Clone)]
pub struct Leaves {
    /// Number of the batch.
    pub batch: i64,
    /// Leaves before it, as the database says.
    pub first: u64,
    /// Records in order of sealing, with their hashes.
    pub leaves: Vec<(i64, Hash)>,
    /// The position of its end.
    pub until: Position,
}

/// A page of records.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In order of sealing.
    pub lines: Vec<Line>,
    /// There are more behind the last of them.
    pub more: bool,
}

/// Answers a verifier's questions.
#[async_trait::async_trait]
pub trait Source: Send {
    /// What there is.
    ///
    /// # Errors
    /// [`SourceError`].
    async fn header(&mut self) -> Result<Header, SourceError>;
    /// All keys.
    ///
    /// # Errors
    /// [`SourceError`].
    async fn keys(&mut self) -> Result<Vec<KeyPair>, SourceError>;
    /// At most `limit` checkpoints of the database behind that one, in order; empty at the end.
    ///
    /// # Errors
    /// [`SourceError`].
    async fn checkpoints(&mut self, after: i64, limit: i64) -> Result<Vec<Checkpointed>, SourceError>;
    /// A checkpoint of the object store.
    ///
    /// # Errors
    /// [`SourceError`].
    async fn object(&mut self, number: i64) -> Result<Option<String>, SourceError>;
    /// The leaves that a checkpoint added, of the object store.
    ///
    /// # Errors
    /// [`SourceError`].
    async fn tile(&mut self, number: i64) -> Result<Option<Vec<u8>>, SourceError>;
    /// Batches of the database behind that one, in order; empty at the end.
    ///
    /// # Errors
    /// [`SourceError`].
    async fn leaves(&mut self, after: i64) -> Result<Vec<Leaves>, SourceError>;
    /// Records of the database between two positions.
    ///
    /// # Errors
    /// [`SourceError`].
    async fn records(&mut self, after: Position, until: Position) -> Result<Page, SourceError>;
}

/// The database and the object store, as they are.
pub struct Live {
    db: Db,
    objects: Objects,
    start: i64,
    log: Uuid,
}

impl Live {
    /// From the first record, or behind a checkpoint.
    #[must_use]
    pub fn new(db: Db, objects: Objects, start: Option<i64>) -> Self {
        Self { db, objects, start: start.unwrap_or_default(), log: Uuid::nil() }
    }

    /// The log's identity; after [`Source::header`].
    #[must_use]
    pub fn log(&self) -> Uuid {
        self.log
    }

    async fn text(&self, key: String) -> Result<Option<String>, SourceError> {
        let bytes = witness::read(&self.objects, &key).await?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

fn checkpointed(row: store::CheckpointRow, with_peaks: bool) -> Checkpointed {
    Checkpointed {
        number: row.checkpoint,
        last_batch: row.last_batch,
        note: row.note,
        peaks: with_peaks.then(|| hex::encode(row.peaks)),
    }
}

#[async_trait::async_trait]
impl Source for Live {
    async fn header(&mut self) -> Result<Header, SourceError> {
        let (log, published) = self
            .db
            .unit::<_, DbError, _>(Scope::Platform, |connection| {
                Box::pin(async move {
                    Ok((
                        store::log_id(connection).await?,
                        store::last_published(connection, Published::Checkpoint).await?,
                    ))
                })
            })
            .await?;
        self.log = log;
        // The object store first: what is published in between is then known to the database, too.
        let newest_object = witness::newest(&self.objects, log, published).await?;
        let start = self.start;
        let (newest, row, at) = self
            .db
            .unit::<_, DbError, _>(Scope::Platform, move |connection| {
                Box::pin(async move {
                    let newest = store::newest_checkpoint(connection, i64::MAX).await?;
                    let row = store::newest_checkpoint(connection, start).await?;
                    Ok((newest.map_or(0, |newest| newest.checkpoint), row, store::now(connection).await?))
                })
            })
            .await?;
        if row.as_ref().map_or(0, |row| row.checkpoint) != start {
            return Err(SourceError::NoCheckpoint(start));
        }
        let start = row.map(|row| checkpointed(row, true));
        Ok(Header { log, at, newest, newest_object, published, start })
    }

    async fn keys(&mut self) -> Result<Vec<KeyPair>, SourceError> {
        let statements = self
            .db
            .unit::<_, DbError, _>(Scope::Platform, |connection| {
                Box::pin(async move { store::key_statements(connection).await })
            })
            .await?;
        let mut keys = Vec::new();
        for number in 1.. {
            let database = usize::try_from(number - 1).ok().and_then(|index| statements.get(index).cloned());
            let object = self.text(witness::key_key(self.log, number)).await?;
            if database.is_none() && object.is_none() {
                break;
            }
            keys.push(KeyPair { database, object });
        }
        Ok(keys)
    }

    async fn checkpoints(&mut self, after: i64, limit: i64) -> Result<Vec<Checkpointed>, SourceError> {
        let rows = self
            .db
            .unit::<_, DbError, _>(Scope::Platform, move |connection| {
                Box::pin(async move { store::checkpoints_after(connection, after, limit).await })
            })
            .await?;
        Ok(rows.into_iter().map(|row| checkpointed(row, false)).collect())
    }

    async fn object(&mut self, number: i64) -> Result<Option<String>, SourceError> {
        self.text(witness::checkpoint_key(self.log, number)).await
    }

    async fn tile(&mut self, number: i64) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(witness::read(&self.objects, &witness::tile_key(self.log, number)).await?)
    }

    async fn leaves(&mut self, after: i64) -> Result<Vec<Leaves>, SourceError> {
        let batches = self
            .db
            .unit::<_, DbError, _>(Scope::Platform, move |connection| {
                Box::pin(async move { store::batches_after(connection, after, LEAVES).await })
            })
            .await?;
        let shaped = |batch: store::Batch| Leaves {
            batch: batch.number,
            first: batch.first_leaf,
            leaves: batch.leaves,
            until: batch.until,
        };
        Ok(batches.into_iter().map(shaped).collect())
    }

    async fn records(&mut self, after: Position, until: Position) -> Result<Page, SourceError> {
        let rows: Vec<StoredRecord> = self
            .db
            .unit::<_, DbError, _>(Scope::Platform, move |connection| {
                Box::pin(async move { store::records_between(connection, after, until, PAGE).await })
            })
            .await?;
        let more = i64::try_from(rows.len()).unwrap_or(i64::MAX) >= PAGE;
        let hash = move || rows.iter().map(StoredRecord::line).collect::<Vec<_>>();
        let lines = tokio::task::spawn_blocking(hash).await.map_err(|_| DbError::Panicked)?;
        Ok(Page { lines, more })
    }
}
