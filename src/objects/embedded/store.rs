//! Buckets and objects on disk, and the index in memory.
//!
//! ```text
//! dir/lock                                  held exclusively while the store is open
//! dir/tmp/…                                 not yet visible; emptied at every start
//! dir/buckets/NAME/objects/ab/SHA256(KEY)   one file an object (`record`); 256 directories
//! dir/buckets/NAME/uploads/ID/…             multipart uploads (`multipart`)
//! ```
//! A key is a name in the record, never a path: any key of S3 works, and none leaves its bucket. A write is answered
//! after the file, and then its directory, were synced. Conditions are checked under the lock of the key's directory,
//! so of any number of writers with `If-None-Match: *` one wins.

use super::error::StoreError;
use super::listing::{self, Page, Query};
use super::record::Record;
use super::staging::{Staged, sync_directory};
use crate::clock::Clock;
use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

const SHARDS: usize = 256;

/// What a listing tells about an object.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub size: u64,
    pub etag: String,
    pub modified_us: i64,
}

impl From<&Record> for Summary {
    fn from(record: &Record) -> Self {
        Self { size: record.size, etag: record.etag.clone(), modified_us: record.modified_us }
    }
}

/// Under which circumstances a write takes place.
#[derive(Default)]
pub struct Condition {
    /// `If-None-Match: *`.
    pub absent: bool,
    /// `If-Match`, without quotes; `*` for any.
    pub etag: Option<String>,
}

/// Every bucket of a directory.
pub struct Store {
    dir: PathBuf,
    clock: Clock,
    buckets: RwLock<HashMap<String, Arc<Bucket>>>,
    /// The kernel drops it with us.
    _lock: File,
}

/// One bucket.
pub struct Bucket {
    pub dir: PathBuf,
    index: RwLock<BTreeMap<String, Summary>>,
    shards: Vec<Mutex<()>>,
}

/// Run blocking file work; a panic in it becomes an error of the request.
pub async fn on_disk<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error).into()))
}

impl Store {
    /// Open a directory, remove what was never finished, read every record. `None`: another process has it.
    pub fn open(dir: &Path, clock: Clock) -> io::Result<Option<Self>> {
        // What is stored is nobody else's to read.
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let dir = &dir.canonicalize()?;
        fs::create_dir_all(dir.join("buckets"))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let tmp = dir.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir(&tmp)?,
        }
        let mut buckets = HashMap::new();
        for entry in fs::read_dir(dir.join("buckets"))? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                buckets.insert(name, Arc::new(Bucket::open(entry.path())?));
            }
        }
        sync_directory(dir)?;
        sync_directory(dir.parent().unwrap_or(dir))?;
        Ok(Some(Self { dir: dir.to_owned(), clock, buckets: RwLock::new(buckets), _lock: lock }))
    }

    /// A fresh name in `tmp`, which is on the same file system as the buckets.
    pub fn temporary(&self) -> PathBuf {
        self.dir.join("tmp").join(uuid::Uuid::now_v7().to_string())
    }

    pub fn now_us(&self) -> i64 {
        i64::try_from(self.clock.now().unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
    }

    pub fn bucket(&self, name: &str) -> Result<Arc<Bucket>, StoreError> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.get(name).cloned().ok_or(StoreError::NoSuchBucket)
    }

    pub fn bucket_names(&self) -> Vec<String> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<String> = buckets.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Blocks. `name` has been checked: it is one path segment.
    pub fn create_bucket(&self, name: &str) -> Result<(), StoreError> {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        if buckets.contains_key(name) {
            return Err(StoreError::BucketExists);
        }
        let new = self.temporary();
        fs::create_dir_all(new.join("objects"))?;
        fs::create_dir_all(new.join("uploads"))?;
        for shard in 0..SHARDS {
            fs::create_dir(new.join("objects").join(format!("{shard:02x}")))?;
        }
        sync_directory(&new.join("objects"))?;
        sync_directory(&new)?;
        let parent = self.dir.join("buckets");
        let dir = parent.join(name);
        fs::rename(&new, &dir)?;
        sync_directory(&parent)?;
        buckets.insert(name.to_owned(), Arc::new(Bucket::open(dir)?));
        Ok(())
    }

    /// Blocks.
    pub fn delete_bucket(&self, name: &str) -> Result<(), StoreError> {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.get(name).ok_or(StoreError::NoSuchBucket)?;
        // Every shard: no write is under way, and one that waits for us fails at its rename.
        let locks: Vec<_> = (0..SHARDS).map(|shard| bucket.lock(shard)).collect();
        if !bucket.index.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Err(StoreError::BucketNotEmpty);
        }
        let gone = self.temporary();
        fs::rename(&bucket.dir, &gone)?;
        sync_directory(&self.dir.join("buckets"))?;
        drop(locks);
        buckets.remove(name);
        Ok(fs::remove_dir_all(gone)?)
    }
}

impl Bucket {
    fn open(dir: PathBuf) -> io::Result<Self> {
        let mut index = BTreeMap::new();
        for shard in fs::read_dir(dir.join("objects"))? {
            for entry in fs::read_dir(shard?.path())? {
                let path = entry?.path();
                match Record::read(&File::open(&path)?) {
                    Ok(record) if path.file_name() == Some(name_of(&record.key).as_ref()) => {
                        index.insert(record.key.clone(), Summary::from(&record));
                    }
                    // Cannot come from a crash: the file was synced before it got this name. Kept for whoever repairs.
                    Ok(_) => {
                        tracing::error!(path = %path.display(), "an object file has the name of another key; it is ignored");
                    }
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        tracing::error!(path = %path.display(), error = &error as &dyn std::error::Error, "an object file is damaged; it is ignored");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Self { dir, index: RwLock::new(index), shards: (0..SHARDS).map(|_| Mutex::new(())).collect() })
    }

    /// The object's file and record, one consistent version. Blocks.
    pub fn open_object(&self, key: &str) -> Result<(File, Record), StoreError> {
        let indexed = self.index.read().unwrap_or_else(PoisonError::into_inner).contains_key(key);
        if !indexed {
            return Err(StoreError::NoSuchKey);
        }
        let file = match File::open(self.path_of(key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::NoSuchKey),
            file => file?,
        };
        let record = Record::read(&file)?;
        Ok((file, record))
    }

    /// Make a verified file an object. Durable when this returns. Blocks.
    pub fn publish(&self, mut staged: Staged, record: &Record, condition: &Condition) -> Result<(), StoreError> {
        // The long part, without the lock.
        staged.seal(record)?;
        let _lock = self.lock(shard_of(&record.key));
        self.check(&record.key, condition)?;
        staged.rename(&self.path_of(&record.key))?;
        self.index.write().unwrap_or_else(PoisonError::into_inner).insert(record.key.clone(), Summary::from(record));
        Ok(())
    }

    /// That nothing was there is fine. Durable when this returns. Blocks.
    pub fn delete(&self, key: &str, condition: &Condition) -> Result<(), StoreError> {
        let _lock = self.lock(shard_of(key));
        self.check(key, condition)?;
        let path = self.path_of(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => {
                removed?;
                sync_directory(path.parent().unwrap_or(&path))?;
            }
        }
        self.index.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        Ok(())
    }

    pub fn list(&self, query: &Query<'_>) -> Page {
        listing::page(&self.index.read().unwrap_or_else(PoisonError::into_inner), query)
    }

    fn check(&self, key: &str, condition: &Condition) -> Result<(), StoreError> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        match (index.get(key), condition) {
            (Some(_), Condition { absent: true, .. }) => Err(StoreError::PreconditionFailed),
            (Some(there), Condition { etag: Some(etag), .. }) if etag != "*" && *etag != there.etag => {
                Err(StoreError::PreconditionFailed)
            }
            (None, Condition { etag: Some(_), .. }) => Err(StoreError::NoSuchKey),
            _ => Ok(()),
        }
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, ()> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of(&self, key: &str) -> PathBuf {
        let name = name_of(key);
        self.dir.join("objects").join(&name[..2]).join(name)
    }
}

fn name_of(key: &str) -> String {
    hex::encode(Sha256::digest(key))
}

fn shard_of(key: &str) -> usize {
    usize::from(Sha256::digest(key)[0])
}
