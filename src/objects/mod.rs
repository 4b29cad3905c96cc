//! Object storage: S3, real or [`embedded`].
//!
//! For: payloads, evidence and bulk files, which are kept under keys that the gateway makes.
//!
//! Promises: a body arrives as it was sent or not at all (SHA-256 goes along with every PUT); errors are classed by what
//! the caller does about them; a call ends within its deadline and tries at most twice, because waiting longer is the
//! engine's business. Nothing outside this module names aws or s3s.
//!
//! Leaves to others: what the keys mean, retries with backoff, and when something may be deleted.

pub mod embedded;
mod error;
pub mod notifications;
mod presign;
mod writer;

pub use error::ObjectError;
pub use presign::{PresignedPut, PutTerms};
pub use writer::ObjectWriter;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::MetadataDirective;
use base64::Engine as _;
use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::AsyncBufRead;

/// A copy of 5 GB within the server takes a minute or two; the step's own timeout is longer.
pub const COPY_TIMEOUT: Duration = Duration::from_mins(15);
/// A server that does not take a connection by then is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The slowest link that a body gets through: 1 Mbit/s.
const SENT_PER_SECOND_MIN: u64 = 125_000;
/// Of one key that is purged, at a time.
const VERSIONS_MAX: usize = 1_000;

/// Where objects are, and as whom we ask for them.
#[derive(Clone)]
pub struct ObjectsOptions {
    /// `http://host:port` of a server that is not AWS; addressed path-style.
    pub endpoint: Option<String>,
    /// `us-east-1`, or whatever the server calls itself.
    pub region: String,
    /// The one bucket.
    pub bucket: String,
    /// With `secret_key`; without both, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    pub access_key: Option<String>,
    /// See `access_key`.
    pub secret_key: Option<SecretString>,
    /// Put before every key (`chartgate/`); may be empty.
    pub prefix: String,
    /// Of one attempt, up to the answer's headers; a body that is sent has a second more for each 125 kB, a body that is received may
    /// take longer as long as bytes flow.
    pub timeout: Duration,
}

/// What HEAD tells.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// Bytes.
    pub size: u64,
    /// Without quotes. An MD5 only if the object was not uploaded in parts.
    pub etag: String,
    /// As it was put.
    pub content_type: Option<String>,
    /// `x-amz-meta-*`, names in lower case without the prefix.
    pub metadata: HashMap<String, String>,
    /// Whole seconds.
    pub modified: Option<OffsetDateTime>,
    /// Of a bucket with versions.
    pub version_id: Option<String>,
}

impl std::fmt::Debug for ObjectHead {
    /// Size and `ETag`: type and metadata may be others' words.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObjectHead({} bytes, {})", self.size, self.etag)
    }
}

/// One line of a listing.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectEntry {
    /// Without our prefix.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Without quotes; some servers leave it out.
    pub etag: Option<String>,
    /// Some servers leave it out.
    pub modified: Option<OffsetDateTime>,
}

/// A multipart upload that is neither complete nor aborted.
#[derive(Clone, PartialEq, Eq)]
pub struct UnfinishedUpload {
    /// Without our prefix.
    pub key: String,
    /// For [`Objects::abort_upload`].
    pub upload_id: String,
    /// Some servers leave it out.
    pub initiated: Option<OffsetDateTime>,
}

/// A bucket. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    bucket: String,
    prefix: String,
    timeout: Duration,
}

impl Objects {
    /// A client; nothing is sent yet.
    #[must_use]
    pub fn connect(options: &ObjectsOptions) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(options.timeout.min(CONNECT_TIMEOUT))
            .operation_attempt_timeout(options.timeout)
            .operation_timeout(options.timeout * 2)
            .build();
        // The second attempt is for a connection that the server closed while it idled in the pool.
        let retries = RetryConfig::standard().with_max_attempts(2).with_initial_backoff(Duration::from_millis(50));
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(options.region.clone()))
            .timeout_config(timeouts)
            .retry_config(retries)
            // We send a SHA-256 of our own, which every server understands; the SDK's default (a CRC32 trailer in a
            // chunked body, and validation of ranges) is not understood by all.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &options.endpoint {
            config = config.endpoint_url(endpoint).force_path_style(true);
        }
        if let Some(credentials) = credentials(options) {
            config = config.credentials_provider(credentials);
        }
        Self {
            client: Client::from_conf(config.build()),
            bucket: options.bucket.clone(),
            prefix: options.prefix.clone(),
            timeout: options.timeout,
        }
    }

    /// What a request may take that sends so many bytes: the SDK's timeouts span the sending of the body.
    fn time_to_send(&self, bytes: usize) -> aws_sdk_s3::config::Builder {
        let sending = Duration::from_secs(u64::try_from(bytes).unwrap_or(u64::MAX) / SENT_PER_SECOND_MIN);
        let attempt = self.timeout + sending;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(self.timeout.min(CONNECT_TIMEOUT))
            .operation_attempt_timeout(attempt)
            .operation_timeout(attempt * 2)
            .build();
        aws_sdk_s3::Config::builder().timeout_config(timeouts)
    }

    /// Name of the bucket.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The bucket is there and ours to use.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn ready(&self) -> Result<(), ObjectError> {
        self.client.head_bucket().bucket(&self.bucket).send().await?;
        Ok(())
    }

    /// Make the bucket if it is missing.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn ensure_bucket(&self) -> Result<(), ObjectError> {
        match self.ready().await {
            Err(ObjectError::NotFound) => {}
            known => return known,
        }
        let created = self.client.create_bucket().bucket(&self.bucket).send().await;
        match created.map_err(ObjectError::from) {
            // Somebody else made it in between.
            Err(ObjectError::Refused { code, .. }) if code == "BucketAlreadyOwnedByYou" => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Put an object, replacing one of the same key. Durable when this returns. The body's SHA-256 goes along, and the
    /// server refuses a body that does not have it.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn put(
        &self,
        key: &str,
        body: Bytes,
        content_type: &str,
        metadata: &[(&str, String)],
    ) -> Result<(), ObjectError> {
        let sha256 = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(&body));
        let mut request = self.client.put_object().bucket(&self.bucket).key(self.full(key)).content_type(content_type);
        for (name, value) in metadata {
            request = request.metadata(*name, value);
        }
        let time = self.time_to_send(body.len());
        let request = request.checksum_sha256(sha256).body(ByteStream::from(body));
        request.customize().config_override(time).send().await?;
        Ok(())
    }

    /// Put an object under a key that is free (`If-None-Match: *`). Servers that do not know conditional writes replace what
    /// is there: look first where that matters.
    ///
    /// # Errors
    /// [`ObjectError`]; `Changed` when the key is taken.
    pub async fn put_new(&self, key: &str, body: Bytes, content_type: &str) -> Result<(), ObjectError> {
        let sha256 = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(&body));
        let request = self.client.put_object().bucket(&self.bucket).key(self.full(key)).content_type(content_type);
        let time = self.time_to_send(body.len());
        let request = request.if_none_match("*").checksum_sha256(sha256).body(ByteStream::from(body));
        request.customize().config_override(time).send().await.map_err(changed)?;
        Ok(())
    }

    /// A whole object in memory.
    ///
    /// # Errors
    /// [`ObjectError`]; `Unavailable` also when the body breaks off.
    pub async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        let answer = self.client.get_object().bucket(&self.bucket).key(self.full(key)).send().await?;
        collect(answer.body).await
    }

    /// Some bytes of an object; fewer than asked for at its end.
    ///
    /// # Errors
    /// [`ObjectError`]; `Refused` with `InvalidRange` when the range begins behind the end.
    pub async fn get_range(&self, key: &str, bytes: Range<u64>) -> Result<Bytes, ObjectError> {
        if bytes.is_empty() {
            return Ok(Bytes::new());
        }
        let range = format!("bytes={}-{}", bytes.start, bytes.end - 1);
        let answer = self.client.get_object().bucket(&self.bucket).key(self.full(key)).range(range).send().await?;
        collect(answer.body).await
    }

    /// An object of any size, to be read as it comes. The object that was there at this moment, even if it is replaced
    /// while it is read.
    ///
    /// # Errors
    /// [`ObjectError`]; reading fails with an I/O error when the body breaks off.
    pub async fn read(&self, key: &str) -> Result<impl AsyncBufRead + Send + Unpin + use<>, ObjectError> {
        let answer = self.client.get_object().bucket(&self.bucket).key(self.full(key)).send().await?;
        Ok(answer.body.into_async_read())
    }

    /// As [`Objects::get_range`], of the object with this `ETag` only.
    ///
    /// # Errors
    /// [`ObjectError`]; `Changed` when another object has the key by now.
    pub async fn get_range_of(&self, key: &str, etag: &str, bytes: Range<u64>) -> Result<Bytes, ObjectError> {
        if bytes.is_empty() {
            return Ok(Bytes::new());
        }
        let range = format!("bytes={}-{}", bytes.start, bytes.end - 1);
        let request = self.client.get_object().bucket(&self.bucket).key(self.full(key)).range(range);
        let answer = request.if_match(quoted(etag)).send().await.map_err(changed)?;
        collect(answer.body).await
    }

    /// As [`Objects::read`], of the object with this `ETag` only.
    ///
    /// # Errors
    /// [`ObjectError`]; `Changed` when another object has the key by now.
    pub async fn read_of(
        &self,
        key: &str,
        etag: &str,
    ) -> Result<impl AsyncBufRead + Send + Unpin + use<>, ObjectError> {
        let request = self.client.get_object().bucket(&self.bucket).key(self.full(key)).if_match(quoted(etag));
        Ok(request.send().await.map_err(changed)?.body.into_async_read())
    }

    /// Copy the object with this `ETag` (up to 5 GB) to another key, within the server; replaces what is there. Durable when
    /// this returns. It takes as long as it takes, up to [`COPY_TIMEOUT`].
    ///
    /// # Errors
    /// [`ObjectError`]; `Changed` when another object has the key by now, `NotFound` when none has.
    pub async fn copy(
        &self,
        from: &str,
        etag: &str,
        to: &str,
        content_type: &str,
        metadata: &[(&str, String)],
    ) -> Result<(), ObjectError> {
        let source = format!("{}/{}", self.bucket, percent_encoded(&self.full(from)));
        let mut request = self
            .client
            .copy_object()
            .copy_source(source)
            .copy_source_if_match(quoted(etag))
            .bucket(&self.bucket)
            .key(self.full(to))
            .metadata_directive(MetadataDirective::Replace)
            .content_type(content_type);
        for (name, value) in metadata {
            request = request.metadata(*name, value);
        }
        let patience = TimeoutConfig::builder()
            .read_timeout(COPY_TIMEOUT)
            .operation_attempt_timeout(COPY_TIMEOUT)
            .operation_timeout(COPY_TIMEOUT * 2)
            .build();
        let patience = aws_sdk_s3::config::Builder::new().timeout_config(patience);
        request.customize().config_override(patience).send().await.map_err(changed)?;
        Ok(())
    }

    /// What is known about an object; `None` if there is none.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn head(&self, key: &str) -> Result<Option<ObjectHead>, ObjectError> {
        self.head_version(key, None).await
    }

    /// As [`Objects::head`], of this version if one is given, whatever version has the key by now.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn head_version(&self, key: &str, version: Option<&str>) -> Result<Option<ObjectHead>, ObjectError> {
        let request = self.client.head_object().bucket(&self.bucket).key(self.full(key));
        let answer = request.set_version_id(version.map(str::to_owned)).send().await;
        match answer.map_err(ObjectError::from) {
            Ok(head) => Ok(Some(ObjectHead {
                size: size(head.content_length),
                etag: unquoted(head.e_tag.unwrap_or_default()),
                content_type: head.content_type,
                metadata: head.metadata.unwrap_or_default(),
                modified: head.last_modified.and_then(time),
                version_id: head.version_id,
            })),
            Err(ObjectError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// That there was none is fine. In a bucket with versions the bytes stay, as a version that is no longer current: see
    /// [`Objects::delete_version`] and [`Objects::purge`].
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        self.client.delete_object().bucket(&self.bucket).key(self.full(key)).send().await?;
        Ok(())
    }

    /// Delete this version of an object for good, current or not. That there was none is fine.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn delete_version(&self, key: &str, version: &str) -> Result<(), ObjectError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(self.full(key)).version_id(version);
        match request.send().await.map_err(ObjectError::from) {
            Ok(_) | Err(ObjectError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Delete an object with all its versions, from the current one back; each deletion shows the one before. That there was none is
    /// fine: false. Versions behind a mark of deletion are not seen, and stay.
    ///
    /// # Errors
    /// [`ObjectError`]; `Refused` with `TooManyVersions` if more than a thousand went and there are still more: call it again.
    pub async fn purge(&self, key: &str) -> Result<bool, ObjectError> {
        for past in 0..VERSIONS_MAX {
            match self.head(key).await? {
                None => return Ok(past > 0),
                Some(ObjectHead { version_id: Some(version), .. }) => self.delete_version(key, &version).await?,
                Some(_) => return self.delete(key).await.map(|()| true),
            }
        }
        Err(ObjectError::Refused { code: "TooManyVersions".to_owned() })
    }

    /// Delete an object if it is still the one with this `ETag` (servers that do not know conditional deletes delete it all
    /// the same). That there was none, or another one, is fine.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn delete_matching(&self, key: &str, etag: &str) -> Result<(), ObjectError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(self.full(key));
        match request.if_match(quoted(etag)).send().await.map_err(changed) {
            Ok(_) | Err(ObjectError::NotFound | ObjectError::Changed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// At most `limit` (and at most 1000) objects whose key begins with `prefix`, in order of their keys. For the next
    /// page, give the last key as `start_after`.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: i32,
    ) -> Result<Vec<ObjectEntry>, ObjectError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.full(prefix)).max_keys(limit);
        let answer = request.set_start_after(start_after.map(|key| self.full(key))).send().await?;
        let entries = answer.contents.unwrap_or_default().into_iter().filter_map(|object| {
            Some(ObjectEntry {
                key: self.short(&object.key?)?,
                size: size(object.size),
                etag: object.e_tag.map(unquoted),
                modified: object.last_modified.and_then(time),
            })
        });
        Ok(entries.collect())
    }

    /// Multipart uploads below `prefix` that nobody completed (the first 1000), to be aborted when they are old.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, ObjectError> {
        let answer = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(self.full(prefix)).send().await?;
        let uploads = answer.uploads.unwrap_or_default().into_iter().filter_map(|upload| {
            let initiated = upload.initiated.and_then(time);
            Some(UnfinishedUpload { key: self.short(&upload.key?)?, upload_id: upload.upload_id?, initiated })
        });
        Ok(uploads.collect())
    }

    /// Forget a multipart upload and its parts; that it is gone already is fine.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<(), ObjectError> {
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(self.full(&upload.key));
        match request.upload_id(&upload.upload_id).send().await.map_err(ObjectError::from) {
            Ok(_) | Err(ObjectError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The key as the server knows it, with the configured prefix.
    #[must_use]
    pub fn full_key(&self, key: &str) -> String {
        self.full(key)
    }

    /// The key without the configured prefix; none if it does not begin with that.
    #[must_use]
    pub fn short_key(&self, key: &str) -> Option<String> {
        self.short(key)
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn short(&self, key: &str) -> Option<String> {
        key.strip_prefix(&self.prefix).map(str::to_owned)
    }
}

/// `If-Match` failed: another object has the key.
fn changed(error: impl Into<ObjectError>) -> ObjectError {
    match error.into() {
        ObjectError::Refused { code, .. } if code == "PreconditionFailed" || code == "412" => ObjectError::Changed,
        other => other,
    }
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

/// A key in `x-amz-copy-source`: everything but unreserved characters and slashes as %XX.
fn percent_encoded(key: &str) -> String {
    key.bytes().fold(String::with_capacity(key.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

/// Given, else of the environment, as every AWS tool reads it.
fn credentials(options: &ObjectsOptions) -> Option<Credentials> {
    if let (Some(access_key), Some(secret_key)) = (&options.access_key, &options.secret_key) {
        return Some(Credentials::new(access_key, secret_key.expose_secret(), None, None, "configuration"));
    }
    let variable = |name: &str| {
        std::env::var_os(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty())
    };
    let (access_key, secret_key) = (variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?);
    Some(Credentials::new(access_key, secret_key, variable("AWS_SESSION_TOKEN"), None, "environment"))
}

async fn collect(body: ByteStream) -> Result<Bytes, ObjectError> {
    let body = body.collect().await.map_err(|_| ObjectError::broken_off())?;
    Ok(body.into_bytes())
}

fn size(length: Option<i64>) -> u64 {
    length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default()
}

fn unquoted(etag: String) -> String {
    match etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"')) {
        Some(inner) => inner.to_owned(),
        None => etag,
    }
}

fn time(time: aws_sdk_s3::primitives::DateTime) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(time.secs()).ok()
}
