//! What can go wrong in the store, and the S3 error code that says so.

use s3s::{S3Error, S3ErrorCode};
use std::io;

/// One variant for each S3 error code that the store itself decides on.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("no such bucket")]
    NoSuchBucket,
    #[error("the bucket exists already")]
    BucketExists,
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    #[error("no such key")]
    NoSuchKey,
    #[error("no such multipart upload")]
    NoSuchUpload,
    #[error("a precondition of the request does not hold")]
    PreconditionFailed,
    #[error("the bytes do not have the {0} that the request gave")]
    BadDigest(&'static str),
    #[error("the request gives an invalid {0}")]
    InvalidDigest(&'static str),
    #[error("the body is not as long as the request said")]
    IncompleteBody,
    #[error("the body could not be read")]
    UnreadableBody,
    #[error("no bytes came for {0} s")]
    Stalled(u64),
    #[error("the length of the body must be given")]
    MissingLength,
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    #[error("a part is missing, or has another ETag than the request says")]
    InvalidPart,
    #[error("the parts must be in ascending order")]
    InvalidPartOrder,
    #[error("a part other than the last is smaller than {0} bytes")]
    PartTooSmall(u64),
    #[error("the part number must be from 1 to 10000")]
    InvalidPartNumber,
    #[error("Checksum Type mismatch occurred, expected checksum Type: {expected}, actual checksum Type: {actual}")]
    ChecksumType { expected: &'static str, actual: &'static str },
    #[error("the upload was created with a checksum: the request to complete must name that of each part")]
    MissingPartChecksum,
    #[error("the disk failed")]
    Io(#[from] io::Error),
}

impl From<StoreError> for S3Error {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NoSuchBucket => S3ErrorCode::NoSuchBucket,
            StoreError::BucketExists => S3ErrorCode::BucketAlreadyOwnedByYou,
            StoreError::BucketNotEmpty => S3ErrorCode::BucketNotEmpty,
            StoreError::NoSuchKey => S3ErrorCode::NoSuchKey,
            StoreError::NoSuchUpload => S3ErrorCode::NoSuchUpload,
            StoreError::PreconditionFailed => S3ErrorCode::PreconditionFailed,
            StoreError::BadDigest(_) => S3ErrorCode::BadDigest,
            StoreError::InvalidDigest(_) => S3ErrorCode::InvalidDigest,
            StoreError::IncompleteBody | StoreError::UnreadableBody => S3ErrorCode::IncompleteBody,
            StoreError::Stalled(_) => S3ErrorCode::RequestTimeout,
            StoreError::MissingLength => S3ErrorCode::MissingContentLength,
            StoreError::TooLarge(_) => S3ErrorCode::EntityTooLarge,
            StoreError::InvalidPart => S3ErrorCode::InvalidPart,
            StoreError::InvalidPartOrder => S3ErrorCode::InvalidPartOrder,
            StoreError::PartTooSmall(_) => S3ErrorCode::EntityTooSmall,
            StoreError::InvalidPartNumber => S3ErrorCode::InvalidArgument,
            StoreError::ChecksumType { .. } | StoreError::MissingPartChecksum => S3ErrorCode::InvalidRequest,
            StoreError::Io(source) => {
                tracing::error!(
                    error = source as &dyn std::error::Error,
                    "the embedded object store cannot use its disk"
                );
                S3ErrorCode::InternalError
            }
        };
        Self::with_message(code, error.to_string())
    }
}
