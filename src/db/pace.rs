//! How background units make room: between two statements they wait a little while jobs are under way in this process.
//!
//! A lower priority decides who gets a processor, not how fast it is: memory, caches and the disk are shared all the same.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// So long a unit runs at least before it makes room again.
const RUN_MIN: Duration = Duration::from_millis(20);
/// So long it waits, at most: beside jobs without a gap it still gets a third of its time.
const PAUSE_MAX: Duration = Duration::from_millis(40);
/// A job that takes longer than this waits for something else (a receiver of callbacks, a large object).
const SHORT: Duration = Duration::from_millis(100);

tokio::task_local! {
    /// Of a background unit: when it last made room.
    static PACE: (Foreground, Cell<Instant>);
}

/// Jobs that are under way in this process, for which background units make room.
#[derive(Debug, Clone, Default)]
pub struct Foreground(Arc<State>);

#[derive(Debug, Default)]
struct State {
    jobs: AtomicUsize,
    /// When the newest of them began.
    newest: Mutex<Option<Instant>>,
    quiet: Notify,
}

impl State {
    fn newest(&self) -> MutexGuard<'_, Option<Instant>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Foreground {
    /// One more is under way, until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> UnderWay {
        *self.0.newest() = Some(Instant::now());
        self.0.jobs.fetch_add(1, Ordering::AcqRel);
        UnderWay(self.clone())
    }

    fn is_quiet(&self) -> bool {
        self.0.jobs.load(Ordering::Acquire) == 0 || self.0.newest().is_none_or(|began| began.elapsed() >= SHORT)
    }

    /// Run a background unit at its pace.
    pub(super) async fn beside<T>(self, unit: impl Future<Output = T>) -> T {
        PACE.scope((self, Cell::new(Instant::now())), unit).await
    }
}

/// A job that is under way.
#[derive(Debug)]
pub struct UnderWay(Foreground);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.0.jobs.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.0.quiet.notify_waiters();
        }
    }
}

/// Between two large statements: wait while jobs are under way, if this is a background unit and it has run for a while.
pub async fn give_way() {
    let due = PACE.try_with(|(foreground, since)| (since.get().elapsed() >= RUN_MIN).then(|| foreground.clone()));
    let Ok(Some(foreground)) = due else { return };
    let quiet = async {
        loop {
            let changed = foreground.0.quiet.notified();
            if foreground.is_quiet() {
                return;
            }
            changed.await;
        }
    };
    // In vain or not: it goes on.
    let _ = tokio::time::timeout(PAUSE_MAX, quiet).await;
    let _ = PACE.try_with(|(_, since)| since.set(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use std::pin::pin;

    /// In a background unit that has run for so long: whether it goes on at once.
    async fn goes_on(foreground: &Foreground, ran: Duration) -> bool {
        let unit = async {
            PACE.with(|(_, since)| since.set(Instant::now().checked_sub(ran).unwrap()));
            give_way().now_or_never().is_some()
        };
        foreground.clone().beside(unit).await
    }

    #[tokio::test]
    async fn a_background_unit_makes_room_for_short_jobs_once_it_has_run_for_a_while() {
        let foreground = Foreground::default();
        assert!(goes_on(&foreground, RUN_MIN).await, "nothing is under way");
        let one = foreground.enter();
        assert!(goes_on(&foreground, Duration::ZERO).await, "it has hardly run");
        assert!(!goes_on(&foreground, RUN_MIN).await, "it has run for a while");
        *foreground.0.newest() = Instant::now().checked_sub(SHORT);
        assert!(goes_on(&foreground, RUN_MIN).await, "the job waits for something else");
        let other = foreground.enter();
        assert!(!goes_on(&foreground, RUN_MIN).await, "a short one has come");
        drop(one);
        assert!(!goes_on(&foreground, RUN_MIN).await, "one is left");
        drop(other);
        assert!(goes_on(&foreground, RUN_MIN).await, "all have ended");
    }

    #[tokio::test]
    async fn a_background_unit_waits_until_the_jobs_have_ended_and_for_its_time_at_most() {
        let foreground = Foreground::default();
        let job = foreground.enter();
        let unit = async {
            PACE.with(|(_, since)| since.set(Instant::now().checked_sub(RUN_MIN).unwrap()));
            let begun = Instant::now();
            give_way().await;
            assert!(begun.elapsed() >= PAUSE_MAX, "the job never ended");
            assert!(give_way().now_or_never().is_some(), "it has waited just now");
            PACE.with(|(_, since)| since.set(Instant::now().checked_sub(RUN_MIN).unwrap()));
            let mut waiting = pin!(give_way());
            assert!(waiting.as_mut().now_or_never().is_none());
            drop(job);
            assert!(waiting.now_or_never().is_some(), "the job has ended");
        };
        foreground.clone().beside(unit).await;
    }

    #[tokio::test]
    async fn an_ordinary_unit_never_waits() {
        let foreground = Foreground::default();
        let _job = foreground.enter();
        assert!(give_way().now_or_never().is_some());
    }
}
