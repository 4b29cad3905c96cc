//! One object, one file: the bytes, then a record that says everything else, then a footer.
//!
//! ```text
//! ┌──────────────┬──────────────┬──────────────────────────┬──────────────┐
//! │ bytes (size) │ record, JSON │ length of record, u64 LE │ CGOBJ\0\0\x01 │
//! └──────────────┴──────────────┴──────────────────────────┴──────────────┘
//! ```
//! So an object with its attributes appears, is replaced and goes by one rename or unlink, a range is read at its own
//! offset, and the index is rebuilt from the files alone.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use time::OffsetDateTime;

const MAGIC: &[u8; 8] = b"CGOBJ\0\0\x01";
const FOOTER_BYTES: u64 = 16;
/// Keys are at most 1 KiB and headers some KiB; anything larger is not ours.
const RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// What the client said about an object, kept as it was said.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    /// `x-amz-meta-*`, without the prefix.
    pub metadata: BTreeMap<String, String>,
}

/// Everything about an object but its bytes.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub key: String,
    pub size: u64,
    /// Without quotes: MD5 in hex, for a multipart object `MD5 of the parts' MD5s-N`.
    pub etag: String,
    /// Of the whole object, base64.
    pub sha256: String,
    /// Microseconds since 1970.
    pub modified_us: i64,
    pub attributes: Attributes,
}

impl Record {
    pub fn modified(&self) -> OffsetDateTime {
        modified(self.modified_us)
    }

    /// What stands after the bytes.
    pub fn trailer(&self) -> io::Result<Vec<u8>> {
        let mut trailer = serde_json::to_vec(self)?;
        let length = trailer.len() as u64;
        trailer.extend_from_slice(&length.to_le_bytes());
        trailer.extend_from_slice(MAGIC);
        Ok(trailer)
    }

    /// From an open file, which is one consistent version whatever happens to its name meanwhile.
    ///
    /// # Errors
    /// `InvalidData` for a file that is torn or not ours.
    pub fn read(file: &File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let end = length.checked_sub(FOOTER_BYTES).ok_or_else(|| invalid("shorter than a footer"))?;
        let mut footer = [0; 16];
        file.read_exact_at(&mut footer, end)?;
        let (record_length, magic) = footer.split_at(8);
        if magic != MAGIC {
            return Err(invalid("no footer"));
        }
        let record_length = record_length.iter().rev().fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
        let start = end.checked_sub(record_length).filter(|_| record_length <= RECORD_BYTES_MAX);
        let start = start.ok_or_else(|| invalid("impossible record length"))?;
        let mut record = vec![0; usize::try_from(record_length).unwrap_or(0)];
        file.read_exact_at(&mut record, start)?;
        let record: Self = serde_json::from_slice(&record)?;
        if record.size == start { Ok(record) } else { Err(invalid("size differs from the record's")) }
    }
}

pub fn modified(us: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(us) * 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(parts: &[&[u8]]) -> File {
        let path = std::env::temp_dir().join(format!("chartgate-record-{}", uuid::Uuid::now_v7()));
        let mut file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for part in parts {
            file.write_all(part).unwrap();
        }
        file
    }

    fn record() -> Record {
        let attributes = Attributes { content_type: Some("text/plain".into()), ..Attributes::default() };
        let modified_us = 1_763_760_000_000_000;
        Record { key: "a/b".into(), size: 5, etag: "e".into(), sha256: "s".into(), modified_us, attributes }
    }

    #[test]
    fn a_record_is_read_back_from_behind_the_bytes() {
        assert_eq!(Record::read(&file(&[b"hello", &record().trailer().unwrap()])).unwrap(), record());
    }

    #[test]
    fn torn_and_foreign_files_are_refused() {
        let trailer = record().trailer().unwrap();
        for parts in [
            &[b"".as_slice()][..],
            &[b"hello world, this is not an object"],
            &[b"hello", &trailer[..trailer.len() - 1]],
            &[b"hell", &trailer],
            &[b"hello", &u64::MAX.to_le_bytes(), MAGIC],
        ] {
            assert!(Record::read(&file(parts)).is_err(), "{parts:?}");
        }
    }
}
