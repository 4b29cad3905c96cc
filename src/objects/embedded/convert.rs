//! Between the words of the protocol and those of the store.

use super::error::StoreError;
use super::listing::{Entry, Page};
use super::record::{Record, modified};
use super::staging::Expected;
use super::store::Condition;
use hyper::HeaderMap;
use s3s::dto::{
    Checksum, CommonPrefix, ETag, ETagCondition, ListObjectsV2Input, ListObjectsV2Output, Object, Timestamp,
};
use s3s::{S3Result, TrailingHeaders, s3_error};
use time::OffsetDateTime;

/// The attributes of a `PutObject` or `CreateMultipartUpload` (their inputs share field names, not a type).
macro_rules! attributes {
    ($input:ident) => {
        $crate::objects::embedded::record::Attributes {
            content_type: $input.content_type,
            content_encoding: $input.content_encoding,
            content_language: $input.content_language,
            content_disposition: $input.content_disposition,
            cache_control: $input.cache_control,
            metadata: $input.metadata.unwrap_or_default().into_iter().collect(),
        }
    };
}

/// What a `PutObject` or `UploadPart` says about its bytes in headers.
macro_rules! expected_of {
    ($input:ident, $length:expr) => {
        $crate::objects::embedded::staging::Expected {
            length: $length,
            md5: $input.content_md5,
            checksums: s3s::dto::Checksum {
                checksum_crc32: $input.checksum_crc32,
                checksum_crc32c: $input.checksum_crc32c,
                checksum_crc64nvme: $input.checksum_crc64nvme,
                checksum_sha1: $input.checksum_sha1,
                checksum_sha256: $input.checksum_sha256,
                ..s3s::dto::Checksum::default()
            },
        }
    };
}

pub(super) use {attributes, expected_of};

/// The length of the object, which a chunked encoding tells apart from that of the body.
pub fn upload_length(headers: &HeaderMap) -> Option<u64> {
    let number = |name| headers.get(name)?.to_str().ok()?.parse().ok();
    number("x-amz-decoded-content-length").or_else(|| number("content-length"))
}

/// The checksums that are announced to follow the body, lower case.
pub fn trailers(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all("x-amz-trailer").iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

fn slot<'a>(checksums: &'a mut Checksum, header: &str) -> Option<&'a mut Option<String>> {
    match header {
        "x-amz-checksum-crc32" => Some(&mut checksums.checksum_crc32),
        "x-amz-checksum-crc32c" => Some(&mut checksums.checksum_crc32c),
        "x-amz-checksum-crc64nvme" => Some(&mut checksums.checksum_crc64nvme),
        "x-amz-checksum-sha1" => Some(&mut checksums.checksum_sha1),
        "x-amz-checksum-sha256" => Some(&mut checksums.checksum_sha256),
        _ => None,
    }
}

/// Also compute what will only be known after the body.
pub fn with_trailers(mut expected: Expected, announced: &[String]) -> Expected {
    for name in announced {
        if let Some(value) = slot(&mut expected.checksums, name) {
            value.get_or_insert_default();
        }
    }
    expected
}

impl Expected {
    /// Fill in what came after the body. A checksum that was announced and did not come is an error: somebody may have
    /// cut it off together with the end of the bytes.
    pub fn after_body(mut self, announced: &[String], came: Option<&TrailingHeaders>) -> Result<Self, StoreError> {
        for name in announced {
            let Some(value) = slot(&mut self.checksums, name) else { continue };
            let read = |headers: &HeaderMap| headers.get(name)?.to_str().ok().map(str::to_owned);
            let given = came.and_then(|trailers| trailers.read(read)).flatten();
            *value = Some(given.ok_or(StoreError::InvalidDigest("trailing checksum"))?);
        }
        Ok(self)
    }
}

/// Quoted on the wire by the protocol layer.
pub fn etag(record: &Record) -> ETag {
    ETag::Strong(record.etag.clone())
}

pub fn etag_of(etag: &ETag) -> String {
    etag.value().to_owned()
}

/// Preconditions of a write.
pub fn condition(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> S3Result<Condition> {
    if if_none_match.is_some_and(|condition| !condition.is_any()) {
        return Err(s3_error!(NotImplemented, "If-None-Match of a write can only be *"));
    }
    let etag = if_match.map(|condition| condition.as_etag().map_or_else(|| "*".to_owned(), etag_of));
    Ok(Condition { absent: if_none_match.is_some(), etag })
}

/// Preconditions of a read (RFC 9110, 13.2.2): `true` for 304.
///
/// # Errors
/// `PreconditionFailed`.
pub fn not_modified(
    record: &Record,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
    modified_since: Option<&Timestamp>,
    unmodified_since: Option<&Timestamp>,
) -> S3Result<bool> {
    let same = |condition: &ETagCondition| condition.as_etag().is_none_or(|etag| etag.value() == record.etag);
    // Dates in headers have whole seconds.
    let modified_s = record.modified_us.div_euclid(1_000_000);
    let newer_than = |date: &Timestamp| modified_s > OffsetDateTime::from(date.clone()).unix_timestamp();
    let held = match (if_match, unmodified_since) {
        (Some(condition), _) => same(condition),
        (None, Some(date)) => !newer_than(date),
        (None, None) => true,
    };
    if !held {
        return Err(s3_error!(PreconditionFailed));
    }
    Ok(match (if_none_match, modified_since) {
        (Some(condition), _) => same(condition),
        (None, Some(date)) => !newer_than(date),
        (None, None) => false,
    })
}

pub fn page_output(input: ListObjectsV2Input, page: Page) -> ListObjectsV2Output {
    // Keys may hold characters that XML cannot; clients that care ask for this encoding.
    let url = input.encoding_type.as_ref().is_some_and(|encoding| encoding.as_str() == "url");
    let encode = |text: String| if url { percent_encode(&text) } else { text };
    let key_count = i32::try_from(page.entries.len()).unwrap_or(i32::MAX);
    let mut contents = Vec::new();
    let mut common_prefixes = Vec::new();
    for entry in page.entries {
        match entry {
            Entry::Object(key, summary) => contents.push(Object {
                key: Some(encode(key)),
                size: Some(summary.size.cast_signed()),
                e_tag: Some(ETag::Strong(summary.etag)),
                last_modified: Some(modified(summary.modified_us).into()),
                ..Object::default()
            }),
            Entry::Prefix(prefix) => common_prefixes.push(CommonPrefix { prefix: Some(encode(prefix)) }),
        }
    }
    ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: input.prefix.map(encode),
        delimiter: input.delimiter.map(encode),
        start_after: input.start_after.map(encode),
        max_keys: Some(input.max_keys.unwrap_or(1000).min(1000)),
        key_count: Some(key_count),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.map(|position| position.to_token()),
        continuation_token: input.continuation_token,
        encoding_type: input.encoding_type,
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        ..ListObjectsV2Output::default()
    }
}

/// RFC 3986 unreserved characters and `/` stay as they are.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            // Writing to a String does not fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
        encoded
    })
}
