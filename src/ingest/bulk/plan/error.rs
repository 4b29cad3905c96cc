//! Why a file cannot be planned.

/// The file as a whole is at fault; its sender has to mend it. Says where, never what stands there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No byte, no line that is not blank, no entry.
    #[error("the file holds no resource")]
    Empty,
    /// Neither text nor gzip.
    #[error("the file is neither JSON text nor gzip")]
    Binary,
    /// The compressed stream ends early.
    #[error("the gzip stream ends before its end")]
    GzipTruncated,
    /// The compressed stream is damaged.
    #[error("the gzip stream is damaged at byte {offset}")]
    GzipDamaged {
        /// Of the stored bytes, within the damaged piece.
        offset: u64,
    },
    /// It decompresses to more than is allowed.
    #[error("the file has more than {limit} bytes after decompression")]
    TooLarge {
        /// [`super::PlanLimits::text_bytes_max`].
        limit: u64,
    },
    /// It would be cut into more chunks than are allowed: its lines are too short to be resources.
    #[error("the file makes more than {limit} chunks, because its lines are very short")]
    TooManyChunks {
        /// [`super::PlanLimits::chunks_max`].
        limit: u64,
    },
    /// An array or Bundle whose entries cannot be told apart.
    #[error("the file is not JSON at byte {offset}: {what}")]
    NotJson {
        /// After decompression.
        offset: u64,
        /// A fixed sentence.
        what: &'static str,
    },
    /// Text outside the entries of a Bundle is not UTF-8.
    #[error("the file is not UTF-8 at byte {offset}")]
    NotUtf8 {
        /// After decompression; where the member begins.
        offset: u64,
    },
    /// One object over several lines that is no Bundle.
    #[error("the file is one JSON object, which is no Bundle")]
    NotABundle,
}

impl PlanError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "file_empty",
            Self::Binary => "file_binary",
            Self::GzipTruncated => "gzip_truncated",
            Self::GzipDamaged { .. } => "gzip_damaged",
            Self::TooLarge { .. } | Self::TooManyChunks { .. } => "file_too_large",
            Self::NotJson { .. } => "file_not_json",
            Self::NotUtf8 { .. } => "file_not_utf8",
            Self::NotABundle => "file_not_a_bundle",
        }
    }
}
