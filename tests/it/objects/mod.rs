//! Object storage: what the gateway asks of any S3 ([`contract`]), held by the embedded one and by a server of somebody
//! else's ([`seaweedfs`]), and what only the embedded one promises ([`embedded`]).

mod contract;
mod embedded;
mod seaweedfs;
mod slow;

use crate::support::objects::{ACCESS_KEY, SECRET_KEY};
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use chartgate::objects::{Objects, ObjectsOptions};
use std::time::Duration;

const PART_BYTES_MIN: usize = 5 * 1024 * 1024;

/// A bucket of some server, empty at first, through the gateway's client and the plain SDK.
struct Store {
    objects: Objects,
    endpoint: String,
    bucket: String,
}

impl Store {
    async fn at(endpoint: &str, bucket: &str) -> Self {
        let store = Self {
            objects: Objects::connect(&options(endpoint, bucket)),
            endpoint: endpoint.to_owned(),
            bucket: bucket.to_owned(),
        };
        store.objects.ensure_bucket().await.unwrap();
        store
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn bucket(&self) -> &str {
        &self.bucket
    }

    fn client_options(&self) -> ObjectsOptions {
        options(&self.endpoint, &self.bucket)
    }

    fn sdk(&self) -> aws_sdk_s3::Client {
        self.sdk_with(RequestChecksumCalculation::WhenSupported)
    }

    fn sdk_with(&self, checksums: RequestChecksumCalculation) -> aws_sdk_s3::Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .request_checksum_calculation(checksums)
            .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"));
        aws_sdk_s3::Client::from_conf(config.build())
    }
}

fn options(endpoint: &str, bucket: &str) -> ObjectsOptions {
    ObjectsOptions {
        endpoint: Some(endpoint.to_owned()),
        region: "us-east-1".to_owned(),
        bucket: bucket.to_owned(),
        access_key: Some(ACCESS_KEY.to_owned()),
        secret_key: Some(SECRET_KEY.into()),
        prefix: String::new(),
        timeout: Duration::from_secs(10),
    }
}

fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> &str {
    error.code().unwrap_or("no code")
}

async fn put(objects: &Objects, key: &str, body: &'static str) {
    objects.put(key, Bytes::from_static(body.as_bytes()), "text/plain", &[]).await.unwrap();
}

async fn keys(objects: &Objects, prefix: &str) -> Vec<String> {
    objects.list(prefix, None, 1000).await.unwrap().into_iter().map(|entry| entry.key).collect()
}

/// An upload in parts, by the plain SDK.
struct Multipart<'a> {
    bucket: &'a str,
    sdk: &'a aws_sdk_s3::Client,
    key: &'a str,
    id: String,
    parts: Vec<CompletedPart>,
}

impl<'a> Multipart<'a> {
    async fn begin(sdk: &'a aws_sdk_s3::Client, bucket: &'a str, key: &'a str) -> Self {
        let begun = sdk
            .create_multipart_upload()
            .bucket(bucket)
            .key(key)
            .content_type("video/mp4")
            .metadata("job", "7")
            .send()
            .await;
        Self { bucket, sdk, key, id: begun.unwrap().upload_id.unwrap(), parts: Vec::new() }
    }

    async fn part(&mut self, number: i32, body: Vec<u8>) {
        let request = self.sdk.upload_part().bucket(self.bucket).key(self.key).upload_id(&self.id).part_number(number);
        let part = request.body(ByteStream::from(body)).send().await.unwrap();
        self.parts.push(CompletedPart::builder().part_number(number).set_e_tag(part.e_tag).build());
    }

    async fn complete(&self, parts: Vec<CompletedPart>) -> Result<(), String> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self
            .sdk
            .complete_multipart_upload()
            .bucket(self.bucket)
            .key(self.key)
            .upload_id(&self.id)
            .multipart_upload(parts);
        request.send().await.map(|_| ()).map_err(|error| code(&error).to_owned())
    }
}
