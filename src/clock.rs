//! Wall-clock time for what is decided outside SQL (token ages, presigned URLs). Leases, backoff and every stored
//! timestamp go by the database's `chartgate_now()` instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// The time of day: the system's, or one that a test moves.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_us: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that starts at the system's time and can be moved with [`Clock::advance`].
    #[must_use]
    pub fn manual() -> Self {
        Self { offset_us: Some(Arc::default()) }
    }

    /// Now, in UTC.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn now(&self) -> OffsetDateTime {
        let offset = self.offset_us.as_ref().map_or(0, |offset| offset.load(Ordering::Relaxed));
        OffsetDateTime::now_utc() + time::Duration::microseconds(offset)
    }

    /// Move a manual clock; a system clock does not move.
    pub fn advance(&self, by: std::time::Duration) {
        if let Some(offset) = &self.offset_us {
            offset.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }
}

/// RFC 3339 in UTC; nothing for a year that RFC 3339 does not have.
#[must_use]
pub fn rfc3339(at: OffsetDateTime) -> Option<String> {
    at.to_offset(UtcOffset::UTC).format(&Rfc3339).ok()
}
