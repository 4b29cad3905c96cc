//! Presigned uploads: a URL with which somebody without credentials may put exactly one object, once.

use super::{ObjectError, Objects};
use aws_sdk_s3::presigning::PresigningConfig;
use std::time::Duration;

/// What may be put. Everything here is signed: a request that differs in any of it is refused by the server.
#[derive(Clone)]
pub struct PutTerms<'a> {
    /// Exact size of the body in bytes; without it any size that S3 takes.
    pub size: Option<u64>,
    /// Sent along as `Content-Type`.
    pub content_type: &'a str,
    /// `x-amz-meta-*`.
    pub metadata: &'a [(&'a str, String)],
    /// SHA-256 of the body in base64, if it is known beforehand.
    pub sha256: Option<&'a str>,
    /// At most seven days (Signature Version 4).
    pub expires_in: Duration,
}

/// A URL, and the headers that must go with it as they are.
#[derive(Clone, PartialEq, Eq)]
pub struct PresignedPut {
    /// For one PUT.
    pub url: String,
    /// Names in lower case. `content-length` is among them if the size is signed, which HTTP clients set by themselves.
    pub headers: Vec<(String, String)>,
}

impl Objects {
    /// Allow one upload under `key`. `If-None-Match: *` is part of it, so that a URL that leaks later cannot replace
    /// what was uploaded. Nothing is sent.
    ///
    /// # Errors
    /// [`ObjectError::Denied`] without credentials, [`ObjectError::Refused`] for impossible terms.
    pub async fn presign_put(&self, key: &str, terms: &PutTerms<'_>) -> Result<PresignedPut, ObjectError> {
        let refused = || ObjectError::Refused { code: "impossible terms".to_owned() };
        let expiry = PresigningConfig::expires_in(terms.expires_in).map_err(|_| refused())?;
        let size = terms.size.map(i64::try_from).transpose().map_err(|_| refused())?;
        let mut request =
            self.client.put_object().bucket(&self.bucket).key(self.full(key)).content_type(terms.content_type);
        for (name, value) in terms.metadata {
            request = request.metadata(*name, value);
        }
        let request =
            request.set_content_length(size).if_none_match("*").set_checksum_sha256(terms.sha256.map(str::to_owned));
        let signed = request.presigned(expiry).await?;
        let headers = signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(PresignedPut { url: signed.uri().to_owned(), headers })
    }
}
