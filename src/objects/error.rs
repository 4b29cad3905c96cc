//! What can go wrong between us and S3, by what a caller does about it.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::error::Error;
use std::time::Duration;

/// Error of [`super::Objects`]. `Display`, `Debug` and causes never hold a key or a value: S3's own messages may name keys,
/// which senders' own tools may have named after patients, and the SDK's `Debug` shows whole answers.
#[derive(thiserror::Error)]
pub enum ObjectError {
    /// No such object, bucket or upload.
    #[error("there is no such object")]
    NotFound,
    /// Another object has the key than the one that was meant.
    #[error("the object is not the one that was meant")]
    Changed,
    /// The server is away, slow, overloaded, or the connection broke: repeat later. A PUT may have taken place.
    #[error("object storage is not available")]
    Unavailable {
        /// The server's wish.
        retry_after: Option<Duration>,
        /// What kept the answer from coming, or the answer's code.
        #[source]
        source: NoAnswer,
    },
    /// The credentials are missing, wrong, or do not allow this: an administrator has to act.
    #[error("object storage denied access ({code}): check the credentials and their permissions")]
    Denied {
        /// S3's error code, or the HTTP status.
        code: String,
    },
    /// The server does not accept the request as it is; repeating it will not help.
    #[error("object storage refused the request ({code})")]
    Refused {
        /// S3's error code, or the HTTP status.
        code: String,
    },
}

impl std::fmt::Debug for ObjectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound => f.write_str("NotFound"),
            Self::Changed => f.write_str("Changed"),
            Self::Unavailable { source, .. } => write!(f, "Unavailable({source})"),
            Self::Denied { code } => write!(f, "Denied({code})"),
            Self::Refused { code } => write!(f, "Refused({code})"),
        }
    }
}

/// Why object storage is not available, in words without values: S3's code, or what became of the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(String);

impl NoAnswer {
    fn of<E: Error + 'static>(error: &SdkError<E, HttpResponse>, code: &str) -> Self {
        Self(match error {
            SdkError::TimeoutError(_) => "no answer in time".to_owned(),
            SdkError::ResponseError(_) => "an answer that cannot be read".to_owned(),
            SdkError::DispatchFailure(_) => innermost_kind(error)
                .map_or_else(|| "no connection".to_owned(), |kind| format!("no connection: {kind}")),
            _ => code.to_owned(),
        })
    }
}

/// The innermost I/O error's kind.
fn innermost_kind(error: &(dyn Error + 'static)) -> Option<std::io::ErrorKind> {
    let (mut cause, mut kind) = (error.source(), None);
    while let Some(inner) = cause {
        kind = inner.downcast_ref::<std::io::Error>().map(std::io::Error::kind).or(kind);
        cause = inner.source();
    }
    kind
}

impl ObjectError {
    /// The answer's body ended early.
    pub(super) fn broken_off() -> Self {
        Self::Unavailable { retry_after: None, source: NoAnswer("the answer broke off".to_owned()) }
    }

    /// Worth repeating without any change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

impl<E> From<SdkError<E, HttpResponse>> for ObjectError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let class = match &error {
            SdkError::TimeoutError(_) | SdkError::ResponseError(_) => Class::Unavailable,
            SdkError::DispatchFailure(failure) if failure.is_timeout() || failure.is_io() => Class::Unavailable,
            SdkError::DispatchFailure(_) if is_broken_connection(&error) => Class::Unavailable,
            // Nothing was sent: the request could not be built or signed.
            SdkError::DispatchFailure(_) => Class::Denied,
            SdkError::ServiceError(answer) => classify(answer.raw().status().as_u16(), answer.err().code()),
            _ => Class::Refused,
        };
        let raw = error.raw_response();
        let status = raw.map(|raw| raw.status().as_u16());
        let retry_after = raw.and_then(|raw| raw.headers().get("retry-after")?.parse().ok()).map(Duration::from_secs);
        let code = error
            .code()
            .map_or_else(|| status.map_or_else(|| "not sent".to_owned(), |status| status.to_string()), str::to_owned);
        match class {
            Class::NotFound => Self::NotFound,
            Class::Unavailable => Self::Unavailable { retry_after, source: NoAnswer::of(&error, &code) },
            Class::Denied => Self::Denied { code },
            Class::Refused => Self::Refused { code },
        }
    }
}

/// A connection that ended before the answer came is an "other" failure to the SDK, as are credentials that are missing.
fn is_broken_connection(error: &(dyn Error + 'static)) -> bool {
    let mut cause = error.source();
    while let Some(inner) = cause {
        let broken = inner.downcast_ref::<hyper::Error>().is_some_and(|error| !error.is_user());
        if broken || inner.is::<std::io::Error>() {
            return true;
        }
        cause = inner.source();
    }
    false
}

#[derive(Debug, PartialEq, Eq)]
enum Class {
    NotFound,
    Unavailable,
    Denied,
    Refused,
}

fn classify(status: u16, code: Option<&str>) -> Class {
    match (status, code.unwrap_or_default()) {
        // Overload, a body that did not arrive whole, or another write of the same key at this instant.
        (_, "SlowDown" | "RequestTimeout" | "IncompleteBody" | "ConditionalRequestConflict" | "OperationAborted") => {
            Class::Unavailable
        }
        (429 | 500..=599, _) => Class::Unavailable,
        (404, _) => Class::NotFound,
        (401 | 403, _) => Class::Denied,
        _ => Class::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_classed_by_what_the_caller_does() {
        assert_eq!(classify(404, Some("NoSuchKey")), Class::NotFound);
        assert_eq!(classify(404, None), Class::NotFound);
        assert_eq!(classify(503, Some("SlowDown")), Class::Unavailable);
        assert_eq!(classify(500, None), Class::Unavailable);
        assert_eq!(classify(400, Some("RequestTimeout")), Class::Unavailable);
        assert_eq!(classify(403, Some("SignatureDoesNotMatch")), Class::Denied);
        assert_eq!(classify(400, Some("BadDigest")), Class::Refused);
        assert_eq!(classify(412, Some("PreconditionFailed")), Class::Refused);
    }
}
