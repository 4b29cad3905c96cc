//! An object that is written piece by piece, in bounded memory.

use super::{ObjectError, Objects};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

/// Bytes of a part; S3 allows 10,000 parts.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// An object on its way: nobody sees it before [`ObjectWriter::finish`]. One that is given up is told so by
/// [`ObjectWriter::abort`]; its parts stay otherwise.
pub struct ObjectWriter {
    objects: Objects,
    key: String,
    content_type: &'static str,
    metadata: Vec<(&'static str, String)>,
    buffer: BytesMut,
    upload: Option<String>,
    parts: Vec<CompletedPart>,
}

impl Objects {
    /// Begin an object; it replaces one of the same key when it is finished.
    #[must_use]
    pub fn writer(&self, key: &str, content_type: &'static str, metadata: Vec<(&'static str, String)>) -> ObjectWriter {
        ObjectWriter {
            objects: self.clone(),
            key: key.to_owned(),
            content_type,
            metadata,
            buffer: BytesMut::new(),
            upload: None,
            parts: Vec::new(),
        }
    }
}

impl ObjectWriter {
    /// The next bytes. Sends a part whenever enough came together.
    ///
    /// # Errors
    /// [`ObjectError`]; the object is not there then, and [`ObjectWriter::abort`] is called for.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= PART_BYTES {
            let part = self.buffer.split_to(PART_BYTES).freeze();
            self.send(part).await?;
        }
        Ok(())
    }

    /// The end: the object is there and durable when this returns.
    ///
    /// # Errors
    /// As [`ObjectWriter::write`].
    pub async fn finish(&mut self) -> Result<(), ObjectError> {
        let rest = self.buffer.split().freeze();
        let Some(upload) = self.upload.clone() else {
            return self.objects.put(&self.key, rest, self.content_type, &self.metadata).await;
        };
        if !rest.is_empty() {
            self.send(rest).await?;
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(self.parts.clone())).build();
        let request = self.objects.client.complete_multipart_upload().bucket(self.objects.bucket());
        request.key(self.objects.full_key(&self.key)).upload_id(upload).multipart_upload(parts).send().await?;
        self.upload = None;
        Ok(())
    }

    /// Give it up: no part stays. Nothing to do for one that was finished.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn abort(self) -> Result<(), ObjectError> {
        let Some(upload_id) = self.upload else { return Ok(()) };
        self.objects.abort_upload(&super::UnfinishedUpload { key: self.key, upload_id, initiated: None }).await
    }

    async fn send(&mut self, part: Bytes) -> Result<(), ObjectError> {
        let (client, bucket, key) = (&self.objects.client, self.objects.bucket(), self.objects.full_key(&self.key));
        let upload = if let Some(upload) = &self.upload {
            upload.clone()
        } else {
            // S3 takes the parts' checksums only of an upload that named their algorithm at its begin.
            let mut request = client.create_multipart_upload().bucket(bucket).key(&key);
            request = request.checksum_algorithm(ChecksumAlgorithm::Sha256);
            for (name, value) in &self.metadata {
                request = request.metadata(*name, value);
            }
            let answer = request.content_type(self.content_type).send().await?;
            self.upload.insert(answer.upload_id.unwrap_or_default()).clone()
        };
        let number = i32::try_from(self.parts.len() + 1).unwrap_or(i32::MAX);
        let sha256 = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(&part));
        let request = client.upload_part().bucket(bucket).key(&key).upload_id(upload).part_number(number);
        let time = self.objects.time_to_send(part.len());
        let request = request.checksum_sha256(&sha256).body(ByteStream::from(part));
        let answer = request.customize().config_override(time).send().await?;
        let part = CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag).checksum_sha256(sha256);
        self.parts.push(part.build());
        Ok(())
    }
}
