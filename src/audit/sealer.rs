//! The sequencer: seals records in the order of their transactions, signs checkpoints, puts them into the object store.
//!
//! One sealer works at a time (an advisory lock); should two do so all the same, unique numbers let only one batch or
//! checkpoint of a number in. Nothing here can stop a job: records are sealed after their commit, at a pace that leaves the
//! machine to the jobs, and what cannot be sealed, signed or published waits and shows ([`SealError::state`]).

use super::keys::{self, KeyFileError, KeyRing, SigningKey};
use super::merkle::Tree;
use super::note::{Abandoned, Checkpoint, KeyStatement, Note, origin};
use super::record::{Position, StoredRecord, instant};
use super::store::{self, Batch, CheckpointRow, Horizon, Published, SealedEnd};
use super::witness;
use crate::db::{Db, DbError, Scope};
use crate::objects::{ObjectError, Objects};
use std::path::PathBuf;
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// Leaves that one checkpoint adds at most: its tile is 10 MiB.
pub const CHECKPOINT_LEAVES_MAX: u64 = 1 << 18;

/// How the sealer works.
#[derive(Debug, Clone)]
pub struct SealerOptions {
    /// The private key; made at the first start.
    pub key_file: PathBuf,
    /// Between two checkpoints, as long as records come.
    pub checkpoint_every: Duration,
    /// Records of a batch, at most.
    pub batch_max: i64,
    /// Between two looks when all is sealed.
    pub tick: Duration,
    /// Share of the time that sealing may take while the database is busy; 0 to 1.
    pub duty: f64,
}

impl SealerOptions {
    /// As it runs: a checkpoint a minute, and at most 2.5 % of this machine's processors while there is other work.
    #[must_use]
    pub fn new(key_file: PathBuf) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let duty = (0.025 * f64::from(u32::try_from(cores).unwrap_or(1))).min(0.5);
        Self { key_file, checkpoint_every: Duration::from_mins(1), batch_max: 8192, tick: Duration::from_secs(1), duty }
    }
}

/// Why nothing is sealed, signed or published now.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The database.
    #[error("the database did not do it")]
    Db(#[from] DbError),
    /// The object store.
    #[error("the object store did not take it")]
    Objects(#[from] ObjectError),
    /// The key's file.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The log has a key, and it is not here.
    #[error("{} does not hold the log's key {key}: bring the file from the host that signed before, or rotate with it", .path.display())]
    KeyMissing {
        /// Where it should be.
        path: PathBuf,
        /// Its id.
        key: String,
    },
    /// The tables of the log contradict themselves.
    #[error("the audit log was changed: {0}; run `chartgate audit verify`")]
    Tampered(String),
    /// The object store knows a later or another history.
    #[error(
        "the object store has another checkpoint {0} than this database: it was restored from a backup, or changed; run `chartgate audit verify`, then see docs/audit.md, \"After a restore\""
    )]
    Forked(i64),
    /// The object store has another statement under a key's number.
    #[error(
        "the object store has another statement of key {0} than this database: it was restored from a backup, and its key rotated since, or it was changed; see docs/audit.md, \"After a restore\""
    )]
    KeyForked(i64),
    /// Transactions are numbered lower than sealed ones.
    #[error(
        "transactions are numbered from {below}, but records up to {sealed} are sealed: see docs/audit.md, \"After a restore\""
    )]
    WentBack {
        /// The horizon now.
        below: i64,
        /// The last sealed transaction.
        sealed: i64,
    },
    /// Nothing was abandoned, so nothing is to be continued.
    #[error("the object store has no checkpoint that this database does not know: there is nothing to continue from")]
    NothingToContinue,
}

impl SealError {
    /// One word for metrics, health and scripts.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self {
            Self::Db(_) => "database_unavailable",
            Self::Objects(_) => "object_store_unavailable",
            Self::KeyFile(_) => "key_unusable",
            Self::KeyMissing { .. } => "key_missing",
            Self::Tampered(_) => "tampered",
            Self::Forked(_) => "forked",
            Self::KeyForked(_) => "key_forked",
            Self::WentBack { .. } => "transactions_went_back",
            Self::NothingToContinue => "nothing_to_continue",
        }
    }
}

/// What one batch did.
#[derive(Debug, Clone, Copy)]
pub struct Sealed {
    /// Records that are sealed now and were not before.
    pub records: usize,
    /// Everything below the horizon is sealed.
    pub caught_up: bool,
    /// Where transactions stood.
    pub horizon: Horizon,
    /// The highest record of the batch, if it had any.
    pub last_record: i64,
}

/// Seals, signs and publishes; see [`super::task`] for the loop around it.
pub struct Sealer {
    pub(super) db: Db,
    objects: Objects,
    options: SealerOptions,
    /// Behind the last batch no record is up to here: an idle log has no batches.
    scanned: Option<(SealedEnd, Position)>,
    /// Transactions that one batch reaches over: grown and shrunk so that it meets about half a batch of records.
    reach: i64,
}

impl Sealer {
    /// Of that database and bucket.
    #[must_use]
    pub fn new(db: Db, objects: Objects, options: SealerOptions) -> Self {
        Self { db, objects, options, scanned: None, reach: 4096 }
    }

    /// How it works.
    #[must_use]
    pub fn options(&self) -> &SealerOptions {
        &self.options
    }

    /// Seal one batch of records whose transactions have ended.
    ///
    /// # Errors
    /// [`SealError`]; [`DbError::Conflict`] when another sealer was faster.
    pub async fn seal_batch(&mut self) -> Result<Sealed, SealError> {
        let (scanned, reach, limit) = (self.scanned, self.reach, self.options.batch_max);
        let (end, horizon, until, rows) = self
            .db
            .unit::<_, SealError, _>(Scope::Platform, move |connection| {
                Box::pin(async move {
                    let end = store::sealed_end(connection).await?;
                    let horizon = store::horizon(connection).await?;
                    if horizon.below <= end.until.xid {
                        return Err(SealError::WentBack { below: horizon.below, sealed: end.until.xid });
                    }
                    let after = scanned.filter(|(seen, _)| *seen == end).map_or(end.until, |(_, to)| to.max(end.until));
                    let last = (horizon.below - 1).min(after.xid.saturating_add(reach));
                    let until = Position { xid: last, id: i64::MAX };
                    if after >= until {
                        return Ok((end, horizon, until, Vec::new()));
                    }
                    let rows = store::records_between(connection, after, until, limit).await?;
                    Ok((end, horizon, until, rows))
                })
            })
            .await?;
        let found = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let full = found >= limit;
        if full {
            self.reach = (self.reach / 2).max(1);
        } else if found < limit / 2 {
            self.reach = self.reach.saturating_mul(2).min(1 << 40);
        }
        let until = if full { rows.last().map_or(until, StoredRecord::position) } else { until };
        let caught_up = !full && until.xid >= horizon.below - 1;
        if rows.is_empty() {
            self.scanned = Some((end, until));
            return Ok(Sealed { records: 0, caught_up, horizon, last_record: 0 });
        }
        // Hashing a batch takes milliseconds: not on the runtime's threads.
        let hash = move || rows.iter().map(|row| (row.id, row.line().hash)).collect::<Vec<_>>();
        let leaves = tokio::task::spawn_blocking(hash).await.map_err(|_| DbError::Panicked)?;
        let (records, last_record) = (leaves.len(), leaves.iter().map(|(id, _)| *id).max().unwrap_or_default());
        let batch = Batch { number: end.batch + 1, first_leaf: end.leaves, leaves, until };
        self.db
            .unit::<_, DbError, _>(Scope::Global, move |connection| {
                Box::pin(async move { store::insert_batch(connection, &batch).await })
            })
            .await?;
        self.scanned = None;
        Ok(Sealed { records, caught_up, horizon, last_record })
    }

    /// The log's identity and keys, and the private one that signs now. Makes the first key where there is none.
    async fn keys(&self) -> Result<(Uuid, KeyRing, SigningKey), SealError> {
        let (log, statements, now) = self.read_keys().await?;
        let path = &self.options.key_file;
        let (ring, faults) = KeyRing::follow(log, &statements, &[]);
        if let Some(fault) = faults.into_iter().next() {
            return Err(SealError::Tampered(fault));
        }
        if let Some(newest) = ring.newest() {
            let missing = || SealError::KeyMissing { path: path.clone(), key: newest.key().id() };
            let key = keys::load_current(path, &newest.public)?.ok_or_else(missing)?;
            return Ok((log, ring, key));
        }
        // The first start. A file without a statement is left from a start that broke off here, or was put there.
        let key = match SigningKey::load(path)? {
            Some(key) => key,
            None => SigningKey::create(path)?,
        };
        let statement = KeyStatement::new(log, 1, key.public(), 1, None, now);
        let note = key.sign(log, &statement.to_text());
        tracing::info!(key = %key.key(log).verifier(), "the audit log has its first signing key; note the public key elsewhere, and keep a copy of the file");
        let stored = note.clone();
        self.db
            .unit::<_, DbError, _>(Scope::Global, move |connection| {
                Box::pin(async move {
                    store::lock_checkpoints(connection).await?;
                    store::insert_key(connection, &statement, &stored).await
                })
            })
            .await?;
        let (ring, _) = KeyRing::follow(log, &[note], &[]);
        Ok((log, ring, key))
    }

    async fn read_keys(&self) -> Result<(Uuid, Vec<String>, OffsetDateTime), DbError> {
        self.db
            .unit(Scope::Global, |connection| {
                Box::pin(async move {
                    let log = store::log_id(connection).await?;
                    Ok((log, store::key_statements(connection).await?, store::now(connection).await?))
                })
            })
            .await
    }

    /// The newest checkpoint and the tree from which to go on, after checking that it is the signed one.
    async fn newest(
        &self,
        log: Uuid,
        ring: &KeyRing,
    ) -> Result<(Option<(CheckpointRow, Checkpoint)>, Tree), SealError> {
        let row = self
            .db
            .unit::<_, DbError, _>(Scope::Global, |connection| {
                Box::pin(async move { store::newest_checkpoint(connection, i64::MAX).await })
            })
            .await?;
        let Some(row) = row else { return Ok((None, Tree::default())) };
        let tampered = |what: &str| SealError::Tampered(format!("checkpoint {}: {what}", row.checkpoint));
        let note = Note::parse(&row.note).ok_or_else(|| tampered("not a signed note"))?;
        let checkpoint = Checkpoint::parse(&note.text).ok_or_else(|| tampered("not a checkpoint"))?;
        let key = ring.key_of(checkpoint.number).ok_or_else(|| tampered("no key signs it"))?;
        if checkpoint.origin != origin(log) || checkpoint.number != row.checkpoint || !note.is_signed_by(&key) {
            return Err(tampered("not signed by the log's key"));
        }
        let tree = Tree::from_bytes(checkpoint.size, &row.peaks).filter(|tree| tree.root() == checkpoint.root);
        let tree = tree.ok_or_else(|| tampered("its peaks do not give its root"))?;
        Ok((Some((row, checkpoint)), tree))
    }

    /// Sign what was sealed since the last checkpoint; its number, if there was anything.
    ///
    /// # Errors
    /// [`SealError`].
    pub async fn checkpoint(&mut self) -> Result<Option<i64>, SealError> {
        self.checkpoint_after(None).await
    }

    pub(super) async fn checkpoint_after(&mut self, abandoned: Option<Abandoned>) -> Result<Option<i64>, SealError> {
        let (log, ring, key) = self.keys().await?;
        let (newest, mut tree) = self.newest(log, &ring).await?;
        let newest = newest.as_ref();
        let last_batch = newest.map_or(0, |(row, _)| row.last_batch);
        let leaves_max = i64::try_from(CHECKPOINT_LEAVES_MAX).unwrap_or(i64::MAX);
        let (batches, now) = self
            .db
            .unit::<_, DbError, _>(Scope::Global, move |connection| {
                Box::pin(async move {
                    let batches = store::batches_after(connection, last_batch, leaves_max).await?;
                    Ok((batches, store::now(connection).await?))
                })
            })
            .await?;
        let Some(last) = batches.last() else { return Ok(None) };
        let (until, last_batch) = (last.until, last.number);
        for batch in &batches {
            if batch.first_leaf != tree.size() {
                return Err(SealError::Tampered(format!("batch {} does not follow the one before", batch.number)));
            }
            batch.leaves.iter().for_each(|(_, hash)| tree.push(*hash));
        }
        let before = newest.map_or(0, |(row, _)| row.checkpoint);
        if abandoned.is_none() {
            self.compare_unpublished(log).await?;
        }
        // Behind what both sides have, so that no number means two checkpoints; and one that its key may sign.
        let last = before.max(abandoned.as_ref().map_or(0, |abandoned| abandoned.last));
        let number = last.max(ring.newest().map_or(0, |newest| newest.from - 1)) + 1;
        // Our own checkpoints of the numbers that are given up have no place in the object store.
        let displaced = abandoned.as_ref().map(|abandoned| abandoned.first..=before);
        match self.objects.get(&witness::checkpoint_key(log, number)).await {
            Ok(_) => return Err(SealError::Forked(number)),
            // Away: what is signed now is compared when it is published.
            Err(ObjectError::NotFound | ObjectError::Unavailable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let previous = newest.map(|(row, _)| Note::hash(&row.note));
        let checkpoint = Checkpoint {
            origin: origin(log),
            size: tree.size(),
            root: tree.root(),
            number,
            previous,
            until,
            time: instant(now),
            abandoned,
        };
        let row = CheckpointRow {
            checkpoint: number,
            tree_size: i64::try_from(tree.size()).unwrap_or(i64::MAX),
            last_batch,
            peaks: tree.to_bytes(),
            note: key.sign(log, &checkpoint.to_text()),
            at: now,
        };
        let keys_known = ring.keys().len();
        self.db
            .unit::<_, DbError, _>(Scope::Global, move |connection| {
                Box::pin(async move {
                    store::lock_checkpoints(connection).await?;
                    if store::key_statements(connection).await?.len() != keys_known {
                        // A rotation came in between: the next round signs with the new key.
                        return Err(DbError::NotOneRow(0));
                    }
                    for number in displaced.into_iter().flatten() {
                        store::insert_publication(connection, Published::Checkpoint, number).await?;
                    }
                    store::insert_checkpoint(connection, &row).await
                })
            })
            .await?;
        Ok(Some(number))
    }

    /// What could not be published when it was signed, because the object store was away: it may know another history, and then
    /// nothing is signed on top of ours.
    async fn compare_unpublished(&self, log: Uuid) -> Result<(), SealError> {
        let first = self
            .db
            .unit::<_, DbError, _>(Scope::Global, |connection| {
                Box::pin(async move {
                    let done = store::last_published(connection, Published::Checkpoint).await?;
                    Ok(store::checkpoints_after(connection, done, 1).await?.pop())
                })
            })
            .await?;
        let Some(first) = first else { return Ok(()) };
        match self.objects.get(&witness::checkpoint_key(log, first.checkpoint)).await {
            Ok(there) if there != first.note.as_bytes() => Err(SealError::Forked(first.checkpoint)),
            Ok(_) | Err(ObjectError::NotFound | ObjectError::Unavailable { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Put what was signed into the object store: keys, then tiles and checkpoints in order. How many checkpoints are not
    /// there yet, which is 0 unless this fails.
    ///
    /// # Errors
    /// [`SealError`], [`SealError::Forked`] if the store has something else under a number, [`SealError::KeyForked`] under that of
    /// a key.
    pub async fn publish(&mut self) -> Result<u64, SealError> {
        let (log, statements, _) = self.read_keys().await?;
        let (keys_done, checkpoints_done) = self
            .db
            .unit::<_, DbError, _>(Scope::Global, |connection| {
                Box::pin(async move {
                    Ok((
                        store::last_published(connection, Published::Key).await?,
                        store::last_published(connection, Published::Checkpoint).await?,
                    ))
                })
            })
            .await?;
        for (number, statement) in (1..).zip(&statements).skip(usize::try_from(keys_done).unwrap_or_default()) {
            if !self.put_once(&witness::key_key(log, number), statement.clone().into_bytes()).await? {
                return Err(SealError::KeyForked(number));
            }
            self.published(Published::Key, number).await?;
        }
        let mut done = checkpoints_done;
        loop {
            let (before, next) = self
                .db
                .unit::<_, DbError, _>(Scope::Global, move |connection| {
                    Box::pin(async move {
                        let before = store::newest_checkpoint(connection, done).await?;
                        Ok((before, store::checkpoints_after(connection, done, 1).await?.pop()))
                    })
                })
                .await?;
            let Some(next) = next else { return Ok(0) };
            let (first, last) = (before.map_or(0, |before| before.last_batch), next.last_batch);
            let tile = self
                .db
                .unit::<_, DbError, _>(Scope::Global, move |connection| {
                    Box::pin(async move { store::batches_after(connection, first, i64::MAX).await })
                })
                .await?;
            let leaves = tile.into_iter().filter(|batch| batch.number <= last).flat_map(|batch| batch.leaves);
            let tile = witness::tile(leaves);
            let note = next.note.into_bytes();
            if !self.put_once(&witness::tile_key(log, next.checkpoint), tile).await?
                || !self.put_once(&witness::checkpoint_key(log, next.checkpoint), note).await?
            {
                return Err(SealError::Forked(next.checkpoint));
            }
            self.published(Published::Checkpoint, next.checkpoint).await?;
            done = next.checkpoint;
        }
    }

    async fn published(&self, kind: Published, number: i64) -> Result<(), DbError> {
        self.db
            .unit(Scope::Global, move |connection| {
                Box::pin(async move { store::insert_publication(connection, kind, number).await })
            })
            .await
    }

    /// Put an object that nobody may replace. False: the key is taken, by other bytes.
    async fn put_once(&self, key: &str, bytes: Vec<u8>) -> Result<bool, SealError> {
        // Looked at first, because not every server knows conditional writes.
        let there = match self.objects.get(key).await {
            Ok(there) => there,
            Err(ObjectError::NotFound) => {
                let content_type = "application/octet-stream";
                match self.objects.put_new(key, bytes.clone().into(), content_type).await {
                    Err(ObjectError::Changed) => self.objects.get(key).await?,
                    result => return Ok(result.map(|()| true)?),
                }
            }
            Err(error) => return Err(error.into()),
        };
        Ok(there == bytes)
    }
}
