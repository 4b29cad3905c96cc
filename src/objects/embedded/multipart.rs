//! Multipart uploads: a directory an upload, invisible to HEAD and LIST until it is complete.
//!
//! `uploads/ID/upload` says what the object will be; `part-00001` … are verified, synced files of the same form as
//! objects (bytes, then a record with the part's `ETag`). Completing copies them into one new object file, so that an
//! object is always one file; abandoned uploads are found by `ListMultipartUploads` and removed by Abort, which is the
//! caller's business, as on AWS without a lifecycle rule.

use super::error::StoreError;
use super::record::{Attributes, Record};
use super::staging::{Expected, Staged, Staging, sync_directory};
use super::store::{Bucket, Condition, Store};
use md5::{Digest as _, Md5};
use s3s::dto::Checksum;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// S3: all parts but the last have at least this size.
const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
const PARTS_MAX: i32 = 10_000;

/// The file `upload`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Upload {
    pub key: String,
    pub initiated_us: i64,
    pub attributes: Attributes,
    /// Of the parts' checksums, as it was named at the begin (`SHA256`).
    #[serde(default)]
    pub checksum_algorithm: Option<String>,
}

/// A part as the request to complete names it.
pub struct WantedPart {
    pub number: i32,
    /// Without quotes.
    pub etag: String,
    /// Base64, if it is told.
    pub sha256: Option<String>,
}

impl Upload {
    /// Do a part's checksums fit what was named at the begin? As on AWS: SHA checksums only of an upload that asked for
    /// them, and none of another algorithm than the one that was asked for. CRCs without a begin that names them are what
    /// SDKs add by themselves.
    pub fn admits(&self, given: &Checksum) -> Result<(), StoreError> {
        let all = [
            ("CRC32", given.checksum_crc32.is_some()),
            ("CRC32C", given.checksum_crc32c.is_some()),
            ("CRC64NVME", given.checksum_crc64nvme.is_some()),
            ("SHA1", given.checksum_sha1.is_some()),
            ("SHA256", given.checksum_sha256.is_some()),
        ];
        let other = all.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).find(|name| {
            self.checksum_algorithm.as_deref().map_or_else(|| name.starts_with("SHA"), |asked| asked != *name)
        });
        match other {
            None => Ok(()),
            Some(name) => Err(StoreError::ChecksumType {
                expected: self.checksum_algorithm.as_deref().map_or("null", |asked| {
                    all.into_iter().map(|(name, _)| name).find(|name| *name == asked).unwrap_or("unknown")
                }),
                actual: name,
            }),
        }
    }
}

/// Begin an upload; returns its id. Blocks.
pub fn create(store: &Store, bucket: &Bucket, upload: &Upload) -> Result<String, StoreError> {
    let id = uuid::Uuid::now_v7().simple().to_string();
    let new = store.temporary();
    fs::create_dir(&new)?;
    let mut file = File::create_new(new.join("upload"))?;
    file.write_all(&serde_json::to_vec(upload).map_err(io::Error::from)?)?;
    file.sync_all()?;
    sync_directory(&new)?;
    let parent = bucket.dir.join("uploads");
    fs::rename(&new, parent.join(&id))?;
    sync_directory(&parent)?;
    Ok(id)
}

/// The upload of this id, if it is one for this key. Blocks.
pub fn find(bucket: &Bucket, id: &str, key: &str) -> Result<(PathBuf, Upload), StoreError> {
    // Also keeps the id from being a path.
    uuid::Uuid::try_parse(id).map_err(|_| StoreError::NoSuchUpload)?;
    let dir = bucket.dir.join("uploads").join(id);
    let upload = read(&dir)?;
    if upload.key == key { Ok((dir, upload)) } else { Err(StoreError::NoSuchUpload) }
}

/// Every upload that is neither complete nor aborted, by key, then by age. Blocks.
pub fn list(bucket: &Bucket, prefix: &str) -> Result<Vec<(String, Upload)>, StoreError> {
    let mut uploads = Vec::new();
    for entry in fs::read_dir(bucket.dir.join("uploads"))? {
        let entry = entry?;
        match read(&entry.path()) {
            Ok(upload) if upload.key.starts_with(prefix) => {
                uploads.push((entry.file_name().to_string_lossy().into_owned(), upload));
            }
            // Completed or aborted since we read the directory.
            Ok(_) | Err(StoreError::NoSuchUpload) => {}
            Err(error) => return Err(error),
        }
    }
    uploads.sort_by(|(id, upload), (other_id, other)| (&upload.key, id).cmp(&(&other.key, other_id)));
    Ok(uploads)
}

pub fn check_part_number(number: i32) -> Result<(), StoreError> {
    if (1..=PARTS_MAX).contains(&number) { Ok(()) } else { Err(StoreError::InvalidPartNumber) }
}

/// Keep a verified part; one of the same number is replaced. Blocks.
pub fn put_part(dir: &Path, number: i32, mut staged: Staged, record: &Record) -> Result<(), StoreError> {
    staged.seal(record)?;
    match staged.rename(&part_path(dir, number)) {
        // Aborted or completed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::NoSuchUpload),
        result => Ok(result?),
    }
}

/// Every part so far, by number. Blocks.
pub fn parts(dir: &Path) -> Result<Vec<(i32, Record)>, StoreError> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix("part-")?.parse().ok());
        if let Some(number) = number {
            parts.push((number, Record::read(&File::open(entry.path())?)?));
        }
    }
    parts.sort_by_key(|(number, _)| *number);
    Ok(parts)
}

/// Check the list of parts, put them together, publish the object, forget the upload. Blocks. An upload that is
/// refused stays as it was, so that the client can complete it properly.
pub fn complete(
    store: &Store,
    bucket: &Bucket,
    (dir, upload): (PathBuf, Upload),
    wanted: &[WantedPart],
    expected: &Expected,
    condition: &Condition,
) -> Result<Record, StoreError> {
    if wanted.is_empty() {
        return Err(StoreError::InvalidPart);
    }
    if !wanted.is_sorted_by(|one, next| one.number < next.number) {
        return Err(StoreError::InvalidPartOrder);
    }
    let mut opened = Vec::with_capacity(wanted.len());
    let mut digests = Md5::new();
    let needs_sha256 = upload.checksum_algorithm.as_deref() == Some("SHA256");
    for (position, wanted_part) in wanted.iter().enumerate() {
        if needs_sha256 && wanted_part.sha256.is_none() {
            return Err(StoreError::MissingPartChecksum);
        }
        let file = match File::open(part_path(&dir, wanted_part.number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::InvalidPart),
            file => file?,
        };
        let part = Record::read(&file)?;
        if part.etag != wanted_part.etag || wanted_part.sha256.as_ref().is_some_and(|sha256| *sha256 != part.sha256) {
            return Err(StoreError::InvalidPart);
        }
        if part.size < PART_BYTES_MIN && position + 1 < wanted.len() {
            return Err(StoreError::PartTooSmall(PART_BYTES_MIN));
        }
        digests.update(hex::decode(&part.etag).map_err(|_| StoreError::InvalidPart)?);
        opened.push((file, part.size));
    }
    let staged = concatenate(store.temporary(), opened, expected)?;
    if expected.length.is_some_and(|length| length != staged.size) {
        return Err(StoreError::IncompleteBody);
    }
    staged.verify(expected)?;
    let etag = format!("{}-{}", hex::encode(digests.finalize()), wanted.len());
    let record = staged.record(&upload.key, etag, store.now_us(), upload.attributes);
    bucket.publish(staged, &record, condition)?;
    // The object is there: that its upload lingers after a failure here is harmless.
    if let Err(StoreError::Io(error)) = abort(store, &dir) {
        tracing::warn!(error = &error as &dyn std::error::Error, "a completed multipart upload could not be removed");
    }
    Ok(record)
}

/// Forget an upload and its parts. Blocks.
pub fn abort(store: &Store, dir: &Path) -> Result<(), StoreError> {
    let gone = store.temporary();
    match fs::rename(dir, &gone) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::NoSuchUpload),
        renamed => renamed?,
    }
    sync_directory(dir.parent().unwrap_or(dir))?;
    Ok(fs::remove_dir_all(gone)?)
}

fn concatenate(path: PathBuf, parts: Vec<(File, u64)>, expected: &Expected) -> Result<Staged, StoreError> {
    let mut staging = Staging::create(path.clone(), &expected.checksums)?;
    let copied = parts.into_iter().try_for_each(|(file, size)| {
        let mut bytes = file.take(size);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match bytes.read(&mut buffer)? {
                0 => return Ok(()),
                read => staging.write(&buffer[..read])?,
            }
        }
    });
    match copied {
        Ok(()) => Ok(staging.finish()),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(StoreError::Io(error))
        }
    }
}

fn read(dir: &Path) -> Result<Upload, StoreError> {
    match fs::read(dir.join("upload")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::NoSuchUpload),
        bytes => Ok(serde_json::from_slice(&bytes?).map_err(io::Error::from)?),
    }
}

fn part_path(dir: &Path, number: i32) -> PathBuf {
    dir.join(format!("part-{number:05}"))
}
