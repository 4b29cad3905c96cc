//! Counts the rounds of jobs by minute for the console, behind the hot path, and looks at the queue.
//!
//! Source: the audit records, which every acceptance and every end writes in its own transaction. A round of counting reads the
//! records of a range of transactions that have all ended (below `pg_snapshot_xmin`, as the sealer does), so that nothing can
//! appear in the range later; the counts and the new end of the range commit together, fenced by the old one. A kill in between
//! counts the range again from nothing; a second sweeper loses. docs/console.md, "Figures", says what is counted as what.

use super::figures_store::{self, Counted, Span};
use crate::db::{Db, DbError, Scope};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Upper bounds of the buckets of time, in milliseconds; one more bucket is for what took longer.
pub const BOUNDS_MS: [i64; 24] = [
    2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 350, 500, 750, 1_000, 1_500, 2_000, 3_500, 5_000, 10_000, 20_000, 60_000,
    300_000, 1_800_000, 7_200_000,
];
/// Number of buckets.
pub const BUCKETS: usize = BOUNDS_MS.len() + 1;

/// Between two rounds on a quiet system.
const INTERVAL: Duration = Duration::from_secs(2);
/// Counting rests so many times as long as it took: at most 4 % of one connection's time.
const REST: u32 = 24;
/// Audit records that one range should hold, about: its statement then takes tens of milliseconds.
const RECORDS: i64 = 20_000;
/// Transactions of the first range, and of any: with a record or two each the largest is still read within a minute.
const REACH: (i64, i64) = (1024, 1 << 20);
/// Rounds between two thinnings.
const THIN_EVERY: u32 = 15;

/// What becomes of old figures: spans, their seconds, and after how many seconds they are folded into the next (or forgotten).
const THINNING: [(Span, Option<Span>, i64); 3] = [
    (Span::Minute, Some(Span::TenMinutes), 2 * 3600),
    (Span::TenMinutes, Some(Span::Hour), 26 * 3600),
    (Span::Hour, None, 90 * 86_400),
];

/// Count until cancelled. Any number of processes may: the position admits one.
pub async fn run(db: Db, stop: CancellationToken) {
    let mut counter = Counter::new(db);
    let mut pause = INTERVAL;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let started = Instant::now();
        let behind = match counter.round().await {
            Ok(is_behind) => is_behind,
            // Another sweeper was faster.
            Err(DbError::Conflict(_) | DbError::NotOneRow(_)) => false,
            Err(error) => {
                tracing::warn!(error = ?error, "figures could not be counted");
                false
            }
        };
        let rest = started.elapsed() * REST;
        pause = if behind { rest.max(Duration::from_millis(20)) } else { rest.clamp(INTERVAL, INTERVAL * 15) };
    }
}

/// One counter with the pace that it has found.
#[derive(Debug)]
pub struct Counter {
    db: Db,
    reach: i64,
    rounds: u32,
}

impl Counter {
    /// Of this database.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db, reach: REACH.0, rounds: 0 }
    }

    /// Count one range, look at the queue, and now and then fold what is old. True: there is more to count.
    ///
    /// # Errors
    /// [`DbError`]; [`DbError::NotOneRow`] when another sweeper counted this range.
    pub async fn round(&mut self) -> Result<bool, DbError> {
        let is_behind = self.count().await?;
        if !is_behind {
            self.db
                .unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(figures_store::look_at_queue(connection)))
                .await?;
        }
        if self.rounds.is_multiple_of(THIN_EVERY) {
            self.thin().await?;
        }
        self.rounds = self.rounds.wrapping_add(1);
        Ok(is_behind)
    }

    /// Count the next range of transactions that have ended.
    async fn count(&mut self) -> Result<bool, DbError> {
        let reach = self.reach;
        let counted: Counted = self
            .db
            .unit::<_, DbError, _>(Scope::Platform, move |connection| {
                Box::pin(async move { figures_store::read_range(connection, reach).await })
            })
            .await
            .inspect_err(|_| {
                // It may have been too much at once: behind a transaction that was open for an hour everything ends together.
                self.reach = (reach / 4).max(1);
            })?;
        if counted.records > RECORDS {
            self.reach = (self.reach / 2).max(1);
        } else if counted.records < RECORDS / 4 {
            self.reach = self.reach.saturating_mul(2).min(REACH.1);
        }
        let is_behind = counted.is_behind;
        if counted.until > counted.from {
            self.db
                .unit::<_, DbError, _>(Scope::Global, move |connection| {
                    Box::pin(async move { figures_store::add(connection, counted).await })
                })
                .await?;
        }
        Ok(is_behind)
    }

    /// Fold what is old into longer spans.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn thin(&self) -> Result<(), DbError> {
        for (from, into, age_seconds) in THINNING {
            self.db
                .unit::<_, DbError, _>(Scope::Global, move |connection| {
                    Box::pin(async move { figures_store::fold(connection, from, into, age_seconds).await })
                })
                .await?;
        }
        Ok(())
    }
}

/// The bucket of a time.
#[must_use]
pub fn bucket_of(ms: i64) -> usize {
    BOUNDS_MS.partition_point(|bound| *bound <= ms)
}

/// The time in milliseconds below which that share (0 to 1) lies, inside its bucket by proportion; none without any count. What
/// took longer than the last bound counts as that bound.
#[must_use]
pub fn percentile(buckets: &[i64], share: f64) -> Option<f64> {
    let total: i64 = buckets.iter().sum();
    if total <= 0 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of jobs and milliseconds, far below 2^52")]
    {
        let rank = share * total as f64;
        let mut below = 0.0;
        for (index, count) in buckets.iter().enumerate() {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                let last = BOUNDS_MS.len() - 1;
                let from = if index == 0 { 0 } else { BOUNDS_MS[(index - 1).min(last)] } as f64;
                let to = BOUNDS_MS[index.min(last)] as f64;
                return Some(from + (to - from) * ((rank - below) / count).clamp(0.0, 1.0));
            }
            below += count;
        }
        Some(BOUNDS_MS[BOUNDS_MS.len() - 1] as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_its_bucket_and_bounds_rise() {
        assert!(BOUNDS_MS.is_sorted());
        assert_eq!([0, 1, 2, 4, 5, 7_199_999, 7_200_000, i64::MAX].map(bucket_of), [0, 0, 1, 1, 2, 23, 24, 24]);
    }

    #[test]
    fn percentiles_lie_in_the_bucket_of_their_rank() {
        let mut buckets = [0; BUCKETS];
        assert_eq!(percentile(&buckets, 0.5), None);
        // 90 of 10 to 20 ms, 10 of 1 to 1.5 s.
        buckets[bucket_of(10)] = 90;
        buckets[bucket_of(1_200)] = 10;
        assert_eq!(percentile(&buckets, 0.45), Some(15.0));
        assert_eq!(percentile(&buckets, 0.9), Some(20.0));
        assert_eq!(percentile(&buckets, 0.95), Some(1_250.0));
        buckets = [0; BUCKETS];
        buckets[24] = 3;
        assert_eq!(percentile(&buckets, 0.99), Some(7_200_000.0));
    }
}
