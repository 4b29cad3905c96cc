//! Receiving bytes into a temporary file and checking them, before anything of them can be seen.

use super::error::StoreError;
use super::record::{Attributes, Record};
use super::store::on_disk;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::Checksum;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

/// S3's own limit of one `PutObject` or `UploadPart`.
pub const UPLOAD_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// Bytes are written and hashed in portions of this size, so that a slow sender holds no thread.
const PORTION_BYTES: usize = 1024 * 1024;
/// Large files go to the disk as they grow: hundreds of megabytes at once, at their end, would hold up the commits of the
/// database beside them.
const SYNC_BYTES: u64 = 16 * 1024 * 1024;
/// A sender that sends nothing for so long is gone.
const STALLED_AFTER: Duration = Duration::from_mins(1);

/// What the bytes have to be. Checksums are base64 as on the wire.
#[derive(Default)]
pub struct Expected {
    pub length: Option<u64>,
    pub md5: Option<String>,
    pub checksums: Checksum,
}

/// A complete, verified, not yet published file. Dropping it removes it.
pub struct Staged {
    path: PathBuf,
    file: Option<File>,
    pub size: u64,
    pub md5: [u8; 16],
    /// Base64.
    pub sha256: String,
    /// All that were computed: SHA-256, and what was asked for.
    pub checksums: Checksum,
}

/// Bytes on their way into a temporary file.
pub struct Staging {
    path: PathBuf,
    file: File,
    size: u64,
    /// Of these, how many were written since the last sync.
    unsynced: u64,
    md5: Md5,
    hasher: ChecksumHasher,
}

impl Staging {
    /// `algorithms`: which checksums to compute beside MD5 and SHA-256 (those that are set).
    pub fn create(path: PathBuf, algorithms: &Checksum) -> io::Result<Self> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path)?;
        let hasher = ChecksumHasher {
            crc32: algorithms.checksum_crc32.as_ref().map(|_| s3s::crypto::Crc32::new()),
            crc32c: algorithms.checksum_crc32c.as_ref().map(|_| s3s::crypto::Crc32c::new()),
            crc64nvme: algorithms.checksum_crc64nvme.as_ref().map(|_| s3s::crypto::Crc64Nvme::new()),
            sha1: algorithms.checksum_sha1.as_ref().map(|_| s3s::crypto::Sha1::new()),
            sha256: Some(s3s::crypto::Sha256::new()),
        };
        Ok(Self { path, file, size: 0, unsynced: 0, md5: Md5::new(), hasher })
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.md5.update(bytes);
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    pub fn finish(self) -> Staged {
        let checksums = self.hasher.finalize();
        let sha256 = checksums.checksum_sha256.clone().unwrap_or_default();
        Staged { path: self.path, file: Some(self.file), size: self.size, md5: self.md5.finalize(), sha256, checksums }
    }
}

/// Receive a body. The trailers' checksums come after it, so verifying is a second step ([`Staged::verify`]).
pub async fn receive<S, E>(path: PathBuf, body: S, expected: &Expected) -> Result<Staged, StoreError>
where
    S: Stream<Item = Result<Bytes, E>>,
{
    let length = expected.length.ok_or(StoreError::MissingLength)?;
    if length > UPLOAD_BYTES_MAX {
        return Err(StoreError::TooLarge(UPLOAD_BYTES_MAX));
    }
    let guard = RemoveOnDrop(Some(path.clone()));
    let mut staging = Staging::create(path, &expected.checksums)?;
    let mut body = pin!(body);
    let mut portion: Vec<Bytes> = Vec::new();
    let mut pending = 0;
    let mut received = 0u64;
    loop {
        let next = tokio::time::timeout(STALLED_AFTER, body.next()).await;
        let chunk = next.map_err(|_| StoreError::Stalled(STALLED_AFTER.as_secs()))?;
        let ended = chunk.is_none();
        if let Some(chunk) = chunk {
            // Includes a payload hash or chunk signature that does not match, and a connection that broke.
            let chunk = chunk.map_err(|_| StoreError::UnreadableBody)?;
            received += chunk.len() as u64;
            if received > length {
                return Err(StoreError::IncompleteBody);
            }
            pending += chunk.len();
            portion.push(chunk);
        }
        if ended || pending >= PORTION_BYTES {
            let chunks = std::mem::take(&mut portion);
            pending = 0;
            staging = on_disk(move || {
                chunks.iter().try_for_each(|chunk| staging.write(chunk))?;
                Ok::<_, StoreError>(staging)
            })
            .await?;
        }
        if ended {
            break;
        }
    }
    if received != length {
        return Err(StoreError::IncompleteBody);
    }
    guard.disarm();
    Ok(staging.finish())
}

impl Staged {
    /// The bytes of an object once more, as they were verified when they came. Blocks.
    pub fn copy_of(path: PathBuf, mut source: File, record: &Record) -> io::Result<Self> {
        let guard = RemoveOnDrop(Some(path.clone()));
        let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(&path)?;
        source.seek(SeekFrom::Start(0))?;
        let mut copied = 0;
        while copied < record.size {
            match io::copy(&mut (&source).take(SYNC_BYTES.min(record.size - copied)), &mut file)? {
                0 => break,
                bytes => copied += bytes,
            }
            if copied < record.size {
                file.sync_data()?;
            }
        }
        if copied != record.size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "shorter than its record says"));
        }
        guard.disarm();
        let checksums = Checksum { checksum_sha256: Some(record.sha256.clone()), ..Checksum::default() };
        // Its ETag stands in the record that it is published with; nobody asks for it here.
        Ok(Self { path, file: Some(file), size: copied, md5: [0; 16], sha256: record.sha256.clone(), checksums })
    }

    /// Compare with what the request said, in headers or trailers.
    pub fn verify(&self, expected: &Expected) -> Result<(), StoreError> {
        use base64::Engine as _;
        let md5 = base64::engine::general_purpose::STANDARD.encode(self.md5);
        if let Some(given) = &expected.md5 {
            // AWS answers InvalidDigest to what cannot be an MD5 at all.
            let decoded = base64::engine::general_purpose::STANDARD.decode(given);
            if !decoded.is_ok_and(|bytes| bytes.len() == 16) {
                return Err(StoreError::InvalidDigest("Content-MD5"));
            }
            same(Some(given), Some(&md5), "Content-MD5")?;
        }
        let (given, computed) = (&expected.checksums, &self.checksums);
        same(given.checksum_crc32.as_ref(), computed.checksum_crc32.as_ref(), "CRC32")?;
        same(given.checksum_crc32c.as_ref(), computed.checksum_crc32c.as_ref(), "CRC32C")?;
        same(given.checksum_crc64nvme.as_ref(), computed.checksum_crc64nvme.as_ref(), "CRC64NVME")?;
        same(given.checksum_sha1.as_ref(), computed.checksum_sha1.as_ref(), "SHA1")?;
        same(given.checksum_sha256.as_ref(), computed.checksum_sha256.as_ref(), "SHA256")
    }

    /// The record of these bytes as an object.
    pub fn record(&self, key: &str, etag: String, modified_us: i64, attributes: Attributes) -> Record {
        Record { key: key.to_owned(), size: self.size, etag, sha256: self.sha256.clone(), modified_us, attributes }
    }

    /// MD5 in hex, S3's `ETag` of what was not uploaded in parts.
    pub fn etag(&self) -> String {
        hex::encode(self.md5)
    }

    /// Append the record and make both durable. Blocks.
    pub fn seal(&mut self, record: &Record) -> io::Result<()> {
        if let Some(mut file) = self.file.take() {
            file.write_all(&record.trailer()?)?;
            file.sync_all()?;
        }
        Ok(())
    }

    /// Give it its final name, replacing what was there; durable once the directory is synced. Blocks.
    pub fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.path = PathBuf::new();
        sync_directory(to.parent().unwrap_or(to))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What cannot be removed now is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn same(given: Option<&String>, computed: Option<&String>, name: &'static str) -> Result<(), StoreError> {
    match given {
        Some(given) if computed != Some(given) => Err(StoreError::BadDigest(name)),
        _ => Ok(()),
    }
}

struct RemoveOnDrop(Option<PathBuf>);

impl RemoveOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}
