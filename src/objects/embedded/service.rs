//! The operations of S3 that the gateway and its clients use, over the store. Everything else answers `NotImplemented`.

use super::CreatedObject;
use super::convert::{
    attributes, condition, etag, etag_of, expected_of, not_modified, page_output, trailers, upload_length,
    with_trailers,
};
use super::error::StoreError;
use super::listing::{PAGE_MAX, Position, Query};
use super::multipart::{self, Upload, WantedPart};
use super::record::{Record, modified};
use super::staging::{self, Expected, Staged};
use super::store::{Bucket, Condition, Store, on_disk};
use bytes::Bytes;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, Bucket as BucketEntry, Checksum, ChecksumType,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CopyObjectResult,
    CopySource, CreateBucketInput, CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteBucketInput, DeleteBucketOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
    DeleteObjectsOutput, DeletedObject, GetBucketLocationInput, GetBucketLocationOutput, GetObjectInput,
    GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListBucketsInput,
    ListBucketsOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput, ListObjectsV2Input, ListObjectsV2Output,
    ListPartsInput, ListPartsOutput, MultipartUpload, Part, PutObjectInput, PutObjectOutput, StreamingBlob,
    UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use std::fs::File;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::io::ReaderStream;

/// Bytes of a GET are read in portions of this size.
const READ_BYTES: usize = 256 * 1024;

/// S3 over a [`Store`].
pub struct Service {
    pub store: Arc<Store>,
    pub region: String,
    pub created: Option<UnboundedSender<CreatedObject>>,
}

type Answer<T> = S3Result<S3Response<T>>;

#[expect(clippy::unnecessary_wraps, reason = "every operation ends with it")]
fn answer<T>(output: T) -> Answer<T> {
    Ok(S3Response::new(output))
}

impl Service {
    /// Tell whoever listens. A hint only: a crash between the commit and this loses it.
    fn announce(&self, bucket: &str, key: &str) {
        if let Some(created) = &self.created {
            // Nobody listens any more: the sweep over listings finds the object.
            let _ = created.send(CreatedObject { bucket: bucket.to_owned(), key: key.to_owned() });
        }
    }

    async fn receive(&self, body: Option<StreamingBlob>, expected: &Expected) -> Result<Staged, StoreError> {
        let path = self.store.temporary();
        match body {
            Some(body) => staging::receive(path, body, expected).await,
            None => staging::receive(path, futures::stream::empty::<Result<Bytes, std::io::Error>>(), expected).await,
        }
    }

    async fn open(&self, bucket: &str, key: String) -> Result<(File, Record), StoreError> {
        let bucket = self.store.bucket(bucket)?;
        on_disk(move || bucket.open_object(&key)).await
    }

    async fn find_upload(
        &self,
        bucket: &Arc<Bucket>,
        id: String,
        key: String,
    ) -> Result<(std::path::PathBuf, Upload), StoreError> {
        let bucket = bucket.clone();
        on_disk(move || multipart::find(&bucket, &id, &key)).await
    }
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        let (store, name) = (self.store.clone(), request.input.bucket);
        let location = Some(format!("/{name}"));
        on_disk(move || store.create_bucket(&name)).await?;
        answer(CreateBucketOutput { location })
    }

    async fn delete_bucket(&self, request: S3Request<DeleteBucketInput>) -> Answer<DeleteBucketOutput> {
        let (store, name) = (self.store.clone(), request.input.bucket);
        on_disk(move || store.delete_bucket(&name)).await?;
        answer(DeleteBucketOutput {})
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.store.bucket(&request.input.bucket)?;
        answer(HeadBucketOutput { bucket_region: Some(self.region.clone()), ..HeadBucketOutput::default() })
    }

    async fn get_bucket_location(&self, request: S3Request<GetBucketLocationInput>) -> Answer<GetBucketLocationOutput> {
        self.store.bucket(&request.input.bucket)?;
        answer(GetBucketLocationOutput { location_constraint: Some(self.region.clone().into()) })
    }

    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        let entry =
            |name| BucketEntry { name: Some(name), bucket_region: Some(self.region.clone()), ..BucketEntry::default() };
        let buckets = self.store.bucket_names().into_iter().map(entry).collect();
        answer(ListBucketsOutput { buckets: Some(buckets), ..ListBucketsOutput::default() })
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let announced = trailers(&request.headers);
        let length = upload_length(&request.headers);
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let condition = condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let given = expected_of!(input, length);
        let computing = with_trailers(given, &announced);
        let staged = self.receive(input.body, &computing).await?;
        let expected = computing.after_body(&announced, request.trailing_headers.as_ref())?;
        staged.verify(&expected)?;
        let attributes = attributes!(input);
        let record = staged.record(&input.key, staged.etag(), self.store.now_us(), attributes);
        let checksums = staged.checksums.clone();
        let etag = etag(&record);
        on_disk(move || bucket.publish(staged, &record, &condition)).await?;
        self.announce(&input.bucket, &input.key);
        answer(PutObjectOutput {
            e_tag: Some(etag),
            checksum_crc32: checksums.checksum_crc32,
            checksum_crc32c: checksums.checksum_crc32c,
            checksum_crc64nvme: checksums.checksum_crc64nvme,
            checksum_sha1: checksums.checksum_sha1,
            checksum_sha256: checksums.checksum_sha256,
            ..PutObjectOutput::default()
        })
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
        let input = request.input;
        let CopySource::Bucket { bucket: from_bucket, key: from, .. } = &input.copy_source else {
            return Err(s3_error!(NotImplemented, "access points are not known here"));
        };
        let (file, source) = self.open(from_bucket, from.to_string()).await?;
        let matches = not_modified(
            &source,
            input.copy_source_if_match.as_ref(),
            input.copy_source_if_none_match.as_ref(),
            input.copy_source_if_modified_since.as_ref(),
            input.copy_source_if_unmodified_since.as_ref(),
        )?;
        if matches {
            return Err(s3_error!(PreconditionFailed));
        }
        let bucket = self.store.bucket(&input.bucket)?;
        let replaces = input.metadata_directive.as_ref().is_some_and(|directive| directive.as_str() == "REPLACE");
        let attributes = if replaces { attributes!(input) } else { source.attributes.clone() };
        let record = Record { key: input.key.clone(), modified_us: self.store.now_us(), attributes, ..source };
        let (path, published) = (self.store.temporary(), record.clone());
        on_disk(move || {
            let staged = Staged::copy_of(path, file, &published)?;
            bucket.publish(staged, &published, &Condition::default())
        })
        .await?;
        self.announce(&input.bucket, &input.key);
        answer(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: Some(etag(&record)),
                last_modified: Some(record.modified().into()),
                checksum_sha256: Some(record.sha256),
                ..CopyObjectResult::default()
            }),
            ..CopyObjectOutput::default()
        })
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = request.input;
        let (file, record) = self.open(&input.bucket, input.key).await?;
        if not_modified(
            &record,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since.as_ref(),
            input.if_unmodified_since.as_ref(),
        )? {
            return Err(s3_error!(NotModified));
        }
        let bytes = match &input.range {
            Some(range) => range.check(record.size).map_err(|_| s3_error!(InvalidRange))?,
            None => 0..record.size,
        };
        let content_range = input.range.map(|_| format!("bytes {}-{}/{}", bytes.start, bytes.end - 1, record.size));
        let mut file = tokio::fs::File::from_std(file);
        file.seek(std::io::SeekFrom::Start(bytes.start)).await.map_err(StoreError::from)?;
        let length = bytes.end - bytes.start;
        // Of the whole object only: the checksum does not fit a part of it.
        let checksum = input.checksum_mode.is_some() && content_range.is_none();
        let (etag, modified) = (etag(&record), record.modified());
        answer(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(StreamingBlob::wrap(ReaderStream::with_capacity(file.take(length), READ_BYTES))),
            content_length: Some(length.cast_signed()),
            content_range,
            e_tag: Some(etag),
            last_modified: Some(modified.into()),
            checksum_sha256: checksum.then_some(record.sha256),
            checksum_type: checksum.then(|| ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
            content_type: record.attributes.content_type,
            content_encoding: record.attributes.content_encoding,
            content_language: record.attributes.content_language,
            content_disposition: record.attributes.content_disposition,
            cache_control: record.attributes.cache_control,
            metadata: Some(record.attributes.metadata.into_iter().collect()),
            ..GetObjectOutput::default()
        })
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let input = request.input;
        let (_, record) = self.open(&input.bucket, input.key).await?;
        if not_modified(
            &record,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since.as_ref(),
            input.if_unmodified_since.as_ref(),
        )? {
            return Err(s3_error!(NotModified));
        }
        let checksum = input.checksum_mode.is_some();
        answer(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(record.size.cast_signed()),
            e_tag: Some(etag(&record)),
            last_modified: Some(record.modified().into()),
            checksum_sha256: checksum.then_some(record.sha256),
            checksum_type: checksum.then(|| ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
            content_type: record.attributes.content_type,
            content_encoding: record.attributes.content_encoding,
            content_language: record.attributes.content_language,
            content_disposition: record.attributes.content_disposition,
            cache_control: record.attributes.cache_control,
            metadata: Some(record.attributes.metadata.into_iter().collect()),
            ..HeadObjectOutput::default()
        })
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let condition = condition(input.if_match.as_ref(), None)?;
        on_disk(move || bucket.delete(&input.key, &condition)).await?;
        answer(DeleteObjectOutput::default())
    }

    async fn delete_objects(&self, request: S3Request<DeleteObjectsInput>) -> Answer<DeleteObjectsOutput> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        if input.delete.objects.len() > PAGE_MAX {
            return Err(s3_error!(MalformedXML, "at most 1000 keys can be deleted at once"));
        }
        let keys: Vec<String> = input.delete.objects.into_iter().map(|object| object.key).collect();
        let told = if input.delete.quiet == Some(true) { Vec::new() } else { keys.clone() };
        on_disk(move || keys.iter().try_for_each(|key| bucket.delete(key, &Condition::default()))).await?;
        let deleted =
            told.into_iter().map(|key| DeletedObject { key: Some(key), ..DeletedObject::default() }).collect();
        answer(DeleteObjectsOutput { deleted: Some(deleted), ..DeleteObjectsOutput::default() })
    }

    async fn list_objects_v2(&self, request: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let limit = usize::try_from(input.max_keys.unwrap_or(1000))
            .map_err(|_| s3_error!(InvalidArgument, "max-keys is negative"))?;
        let after = match &input.continuation_token {
            Some(token) => Some(
                Position::from_token(token)
                    .ok_or_else(|| s3_error!(InvalidArgument, "not a continuation token of ours"))?,
            ),
            None => input.start_after.clone().map(Position::Key),
        };
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let page = bucket.list(&Query { prefix, delimiter: input.delimiter.as_deref(), after, limit });
        answer(page_output(input, page))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let upload = Upload {
            key: input.key.clone(),
            initiated_us: self.store.now_us(),
            checksum_algorithm: input.checksum_algorithm.as_ref().map(|algorithm| algorithm.as_str().to_owned()),
            attributes: attributes!(input),
        };
        let store = self.store.clone();
        let id = on_disk(move || multipart::create(&store, &bucket, &upload)).await?;
        answer(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        })
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let announced = trailers(&request.headers);
        let length = upload_length(&request.headers);
        let input = request.input;
        multipart::check_part_number(input.part_number)?;
        let bucket = self.store.bucket(&input.bucket)?;
        let (dir, upload) = self.find_upload(&bucket, input.upload_id, input.key.clone()).await?;
        let given = expected_of!(input, length);
        let computing = with_trailers(given, &announced);
        upload.admits(&computing.checksums)?;
        let staged = self.receive(input.body, &computing).await?;
        let expected = computing.after_body(&announced, request.trailing_headers.as_ref())?;
        staged.verify(&expected)?;
        let record =
            staged.record(&input.key, staged.etag(), self.store.now_us(), super::record::Attributes::default());
        let checksums = staged.checksums.clone();
        let etag = etag(&record);
        on_disk(move || multipart::put_part(&dir, input.part_number, staged, &record)).await?;
        answer(UploadPartOutput {
            e_tag: Some(etag),
            checksum_crc32: checksums.checksum_crc32,
            checksum_crc32c: checksums.checksum_crc32c,
            checksum_crc64nvme: checksums.checksum_crc64nvme,
            checksum_sha1: checksums.checksum_sha1,
            checksum_sha256: checksums.checksum_sha256,
            ..UploadPartOutput::default()
        })
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let condition = condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let upload = self.find_upload(&bucket, input.upload_id, input.key.clone()).await?;
        let listed = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let wanted = listed.into_iter().map(|part| {
            let (number, etag) = (part.part_number?, etag_of(&part.e_tag?));
            Some(WantedPart { number, etag, sha256: part.checksum_sha256 })
        });
        let wanted = wanted.collect::<Option<Vec<_>>>();
        let wanted = wanted.ok_or_else(|| s3_error!(MalformedXML, "every part needs its number and its ETag"))?;
        // Of the whole object; what ends in `-N` is made of the parts' checksums, each of which was verified.
        let whole = |checksum: Option<String>| checksum.filter(|checksum| !checksum.contains('-'));
        let expected = Expected {
            length: input.mpu_object_size.and_then(|size| u64::try_from(size).ok()),
            md5: None,
            checksums: Checksum {
                checksum_crc32: whole(input.checksum_crc32),
                checksum_crc32c: whole(input.checksum_crc32c),
                checksum_crc64nvme: whole(input.checksum_crc64nvme),
                checksum_sha1: whole(input.checksum_sha1),
                checksum_sha256: whole(input.checksum_sha256),
                ..Checksum::default()
            },
        };
        let store = self.store.clone();
        let record =
            on_disk(move || multipart::complete(&store, &bucket, upload, &wanted, &expected, &condition)).await?;
        self.announce(&input.bucket, &input.key);
        answer(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(etag(&record)),
            ..CompleteMultipartUploadOutput::default()
        })
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let (dir, _) = self.find_upload(&bucket, input.upload_id, input.key).await?;
        let store = self.store.clone();
        on_disk(move || multipart::abort(&store, &dir)).await?;
        answer(AbortMultipartUploadOutput::default())
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let mut uploads = on_disk(move || multipart::list(&bucket, &prefix)).await?;
        if let Some(key) = &input.key_marker {
            // Behind the marker: later keys, and later uploads of the same key if one is named.
            uploads.retain(|(id, upload)| {
                upload.key > *key
                    || (upload.key == *key && input.upload_id_marker.as_ref().is_some_and(|marker| id > marker))
            });
        }
        let limit = input.max_uploads.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let truncated = uploads.len() > limit;
        uploads.truncate(limit);
        let last = uploads.last().filter(|_| truncated).map(|(id, upload)| (id.clone(), upload.key.clone()));
        let entry = |(id, upload): (String, Upload)| MultipartUpload {
            upload_id: Some(id),
            key: Some(upload.key),
            initiated: Some(modified(upload.initiated_us).into()),
            ..MultipartUpload::default()
        };
        answer(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix,
            is_truncated: Some(truncated),
            next_key_marker: last.as_ref().map(|(_, key)| key.clone()),
            next_upload_id_marker: last.map(|(id, _)| id),
            uploads: Some(uploads.into_iter().map(entry).collect()),
            ..ListMultipartUploadsOutput::default()
        })
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let (dir, _) = self.find_upload(&bucket, input.upload_id.clone(), input.key.clone()).await?;
        let mut parts = on_disk(move || multipart::parts(&dir)).await?;
        parts.retain(|(number, _)| input.part_number_marker.is_none_or(|marker| *number > marker));
        let limit = input.max_parts.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let truncated = parts.len() > limit;
        parts.truncate(limit);
        let entry = |(number, record): &(i32, Record)| Part {
            part_number: Some(*number),
            e_tag: Some(etag(record)),
            size: Some(record.size.cast_signed()),
            last_modified: Some(record.modified().into()),
            ..Part::default()
        };
        answer(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            is_truncated: Some(truncated),
            next_part_number_marker: parts.last().filter(|_| truncated).map(|(number, _)| *number),
            parts: Some(parts.iter().map(entry).collect()),
            ..ListPartsOutput::default()
        })
    }
}
