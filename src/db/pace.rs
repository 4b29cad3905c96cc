//! How background units make room: between two statements they wait a little while jobs are under way in this process.
//!
//! A lower priority decides who gets a processor, not how fast it is: memory, caches and the disk are shared all the same.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// So long a unit may wait for each second that it runs: beside jobs without a gap it still gets a third of its time.
const WAITS_PER_RUN: u32 = 2;
/// So long it waits at once, at most, and may wait before it has run at all.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Between the news that jobs were accepted and the first of them being under way.
const EXPECTED: Duration = Duration::from_millis(15);
/// A job that takes longer than this waits for something else (a receiver of callbacks, a large object).
const SHORT: Duration = Duration::from_millis(100);

tokio::task_local! {
    /// Of a background unit.
    static PACE: Pace;
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

/// How long a background unit may wait, and since when it has run.
struct Pace {
    foreground: Foreground,
    since: Cell<Instant>,
    may_wait: Cell<Duration>,
}

impl Foreground {
    /// One more is under way, until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> UnderWay {
        *self.0.newest() = Some(Instant::now());
        self.0.jobs.fetch_add(1, Ordering::AcqRel);
        UnderWay(self.clone())
    }

    /// Jobs will be under way in a moment: as if one were until then. To be called within a runtime.
    pub fn expect(&self) {
        let expected = self.enter();
        tokio::spawn(async move {
            tokio::time::sleep(EXPECTED).await;
            drop(expected);
        });
    }

    fn is_quiet(&self) -> bool {
        self.0.jobs.load(Ordering::Acquire) == 0 || self.0.newest().is_none_or(|began| began.elapsed() >= SHORT)
    }

    /// Until nothing short is under way, or for so long.
    async fn quiet(&self, at_most: Duration) {
        let quiet = async {
            loop {
                let changed = self.0.quiet.notified();
                if self.is_quiet() {
                    return;
                }
                changed.await;
            }
        };
        // In vain or not: it goes on.
        let _ = tokio::time::timeout(at_most, quiet).await;
    }

    /// Before a computation in the background, which cannot stop once it runs.
    pub(super) async fn let_go_first(&self) {
        if !self.is_quiet() {
            self.quiet(PAUSE_MAX).await;
        }
    }

    /// Run a background unit at its pace. Before it holds a connection or a lock it makes room once.
    pub(super) async fn beside<T>(self, unit: impl Future<Output = T>) -> T {
        let pace = Pace { foreground: self, since: Cell::new(Instant::now()), may_wait: Cell::new(PAUSE_MAX) };
        let unit = async {
            give_way().await;
            unit.await
        };
        PACE.scope(pace, unit).await
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

/// Between two statements that take milliseconds: wait while short jobs are under way, if this is a background unit and it has
/// run long enough since it waited last.
pub async fn give_way() {
    let paused = PACE.try_with(|pace| {
        let earned = pace.since.replace(Instant::now()).elapsed() * WAITS_PER_RUN;
        pace.may_wait.set((pace.may_wait.get() + earned).min(PAUSE_MAX));
        (!pace.foreground.is_quiet()).then(|| (pace.foreground.clone(), pace.may_wait.get()))
    });
    let Ok(Some((foreground, may_wait))) = paused else { return };
    let begun = Instant::now();
    foreground.quiet(may_wait).await;
    let _ = PACE.try_with(|pace| {
        pace.may_wait.set(may_wait.saturating_sub(begun.elapsed()));
        pace.since.set(Instant::now());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use std::pin::pin;

    /// Let a unit have run for so long, with so much that it may wait.
    fn ran(run: Duration, may_wait: Duration) {
        PACE.with(|pace| {
            pace.since.set(Instant::now().checked_sub(run).unwrap());
            pace.may_wait.set(may_wait);
        });
    }

    /// Whether a unit goes on at once.
    fn goes_on(foreground: &Foreground) -> bool {
        foreground.clone().beside(async {}).now_or_never().is_some()
    }

    #[tokio::test]
    async fn a_background_unit_begins_when_no_short_job_is_under_way() {
        let foreground = Foreground::default();
        assert!(goes_on(&foreground), "nothing is under way");
        let one = foreground.enter();
        assert!(!goes_on(&foreground), "a job is");
        *foreground.0.newest() = Instant::now().checked_sub(SHORT);
        assert!(goes_on(&foreground), "the job waits for something else");
        let other = foreground.enter();
        assert!(!goes_on(&foreground), "a short one has come");
        drop(one);
        assert!(!goes_on(&foreground), "one is left");
        drop(other);
        assert!(goes_on(&foreground), "all have ended");
    }

    #[tokio::test]
    async fn room_is_made_for_jobs_that_were_accepted_until_they_are_under_way() {
        let foreground = Foreground::default();
        foreground.expect();
        let begun = Instant::now();
        foreground.clone().beside(async {}).await;
        assert!(begun.elapsed() >= EXPECTED, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_background_unit_waits_until_the_jobs_have_ended_or_twice_as_long_as_it_ran() {
        let foreground = Foreground::default();
        let unit = async {
            let job = foreground.enter();
            ran(Duration::from_millis(10), Duration::ZERO);
            let begun = Instant::now();
            give_way().await;
            assert!(begun.elapsed() >= Duration::from_millis(20), "the job never ended");
            let begun = Instant::now();
            ran(Duration::from_secs(9), Duration::ZERO);
            give_way().await;
            assert!((PAUSE_MAX..Duration::from_secs(9)).contains(&begun.elapsed()), "however long it ran");
            ran(Duration::ZERO, PAUSE_MAX);
            *foreground.0.newest() = Some(Instant::now());
            {
                let mut waiting = pin!(give_way());
                assert!(waiting.as_mut().now_or_never().is_none());
                drop(job);
                assert!(waiting.now_or_never().is_some(), "the job has ended");
            }
            assert!(PACE.with(|pace| pace.may_wait.get()) < PAUSE_MAX, "what it waited is spent");
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
