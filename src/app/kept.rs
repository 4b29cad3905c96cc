//! What pages read that may be dear, kept for a while: browsers that watch the same thing share one reading of it.

use crate::audit::record::StoredRecord;
use crate::db::DbError;
use crate::engine::failures_store::Group;
use crate::ids::OrganizationId;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// What was read stays so many times as long as reading it took: reading takes a part in twenty of a connection's time.
const REST: u32 = 20;
/// Whoever asks for a page by hand gets what is so now, unless reading it took this long.
const DEAR: Duration = Duration::from_secs(5);
/// And no older than this, however dear.
const AGE_MAX: Duration = Duration::from_mins(2);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// A page that somebody opened.
    Opens,
    /// A browser that shows it again and again.
    Watches,
}

struct Reading<V> {
    began: Instant,
    took: Duration,
    value: Arc<V>,
}

impl<V> Reading<V> {
    /// Until when it may be shown.
    fn is_young(&self) -> bool {
        self.began.elapsed() < self.took + (self.took * REST).min(AGE_MAX)
    }

    fn is_good_for(&self, asks: Asks) -> bool {
        (asks == Asks::Watches || self.took >= DEAR) && self.is_young()
    }
}

type Slot<V> = Arc<Mutex<Option<Reading<V>>>>;

/// The last readings of one kind, by what was asked for.
pub struct Readings<K, V>(StdMutex<HashMap<K, Slot<V>>>);

impl<K, V> Default for Readings<K, V> {
    fn default() -> Self {
        Self(StdMutex::new(HashMap::new()))
    }
}

impl<K: Hash + Eq, V> Readings<K, V> {
    /// The last reading, if it is young enough, else a new one. Who comes while it is read waits for it, and shares it. What cannot
    /// be read is not kept.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn get<F>(&self, key: K, asks: Asks, read: impl FnOnce() -> F) -> Result<Arc<V>, DbError>
    where
        F: Future<Output = Result<V, DbError>>,
    {
        let asked = Instant::now();
        let slot = self.slot(key);
        let mut kept = slot.lock().await;
        // What was read while this one waited is of now, whoever asks.
        if let Some(reading) = kept.as_ref().filter(|one| one.is_good_for(asks) || one.began >= asked) {
            return Ok(Arc::clone(&reading.value));
        }
        let began = Instant::now();
        let value = Arc::new(read().await?);
        *kept = Some(Reading { began, took: began.elapsed(), value: Arc::clone(&value) });
        Ok(value)
    }

    /// It has changed: the next one reads it anew, whoever asks.
    pub async fn forget(&self, key: K) {
        let slot = self.slot(key);
        *slot.lock().await = None;
    }

    /// The key's slot; those that nobody would be answered from are forgotten.
    fn slot(&self, key: K) -> Slot<V> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| {
            let Ok(kept) = slot.try_lock() else { return true };
            Arc::strong_count(slot) > 1 || kept.as_ref().is_some_and(Reading::is_young)
        });
        Arc::clone(slots.entry(key).or_default())
    }
}

/// Jobs in the queue: workflow, version, how many.
pub type InFlight = Vec<(String, i32, i64)>;

/// What is kept of one database, by organization (none: all).
#[derive(Default)]
pub struct Kept {
    /// Failed jobs by fingerprint.
    pub failures: Readings<Option<OrganizationId>, Vec<Group>>,
    /// Jobs in the queue by workflow and version.
    pub in_flight: Readings<Option<OrganizationId>, InFlight>,
    /// The last verification of the audit log.
    pub verified: Readings<(), Option<StoredRecord>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    async fn read(count: &AtomicU32, takes: Duration) -> Result<u32, DbError> {
        tokio::time::sleep(takes).await;
        Ok(count.fetch_add(1, Ordering::Relaxed) + 1)
    }

    #[tokio::test]
    async fn watchers_share_a_reading_for_twenty_times_as_long_as_it_took() {
        let (readings, count) = (Readings::default(), AtomicU32::new(0));
        let takes = Duration::from_millis(40);
        let ask = |asks| readings.get("one", asks, || read(&count, takes));
        let together = futures::future::join_all((0..50).map(|_| ask(Asks::Watches))).await;
        assert!(together.iter().all(|value| **value.as_ref().unwrap() == 1), "fifty at once are one reading");
        assert_eq!(*ask(Asks::Watches).await.unwrap(), 1);
        // Who opens the page sees what is so now, and the watchers then see that.
        assert_eq!(*ask(Asks::Opens).await.unwrap(), 2);
        assert_eq!(*ask(Asks::Watches).await.unwrap(), 2);
        readings.forget("one").await;
        assert_eq!(*ask(Asks::Watches).await.unwrap(), 3);
        assert_eq!(*readings.get("other", Asks::Watches, || read(&count, takes)).await.unwrap(), 4);
        let reading = |took: u64, age: u64| Reading {
            began: Instant::now().checked_sub(Duration::from_secs(took + age)).unwrap(),
            took: Duration::from_secs(took),
            value: Arc::new(()),
        };
        for (took, age, watches, opens) in [
            (1, 19, true, false),
            (1, 20, false, false),
            (5, 99, true, true),
            (60, 119, true, true),
            (60, 120, false, false),
        ] {
            let good = [Asks::Watches, Asks::Opens].map(|asks| reading(took, age).is_good_for(asks));
            assert_eq!(good, [watches, opens], "took {took} s, {age} s ago");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_kept_and_what_is_old_is_forgotten() {
        let (readings, count) = (Readings::default(), AtomicU32::new(0));
        let fails = || async { Err::<u32, _>(DbError::from(sqlx::Error::PoolTimedOut)) };
        assert!(readings.get(0, Asks::Watches, fails).await.is_err());
        assert_eq!(*readings.get(0, Asks::Watches, || read(&count, Duration::ZERO)).await.unwrap(), 1);
        for key in 1..100 {
            readings.get(key, Asks::Opens, || read(&count, Duration::ZERO)).await.unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while readings.0.lock().unwrap().len() > 2 {
            assert!(Instant::now() < deadline, "readings of no use any more are kept");
            drop(readings.slot(1_000));
            tokio::task::yield_now().await;
        }
    }
}
