//! How background units make room: between two statements they wait a little while jobs are under way in this process.
//!
//! A lower priority decides who gets a processor, not how fast it is: memory, caches and the disk are shared all the same.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// So long a unit may wait for each second that it runs: beside jobs without a gap it still gets a third of its time.
const WAITS_PER_RUN: u32 = 2;
/// So long it waits at once, at most, and may wait before it has run at all: once a chunk, whose units share a pace.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Between the news that jobs were accepted and the first of them being under way.
const EXPECTED: Duration = Duration::from_millis(15);
/// Nobody has been under way for so long: nobody is expected.
const ALONE_AFTER: Duration = Duration::from_secs(2);
/// A job that takes longer than this waits for something else (a receiver of callbacks, a large object).
const SHORT: Duration = Duration::from_millis(100);

tokio::task_local! {
    /// Of a chunk, and of each of its background units.
    static PACE: Arc<Pace>;
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

/// How long background work may wait, and since when it has run.
struct Pace {
    foreground: Foreground,
    state: Mutex<(Instant, Duration)>,
}

impl Pace {
    fn new(foreground: Foreground) -> Arc<Self> {
        Arc::new(Self { foreground, state: Mutex::new((Instant::now(), PAUSE_MAX)) })
    }

    fn state(&self) -> MutexGuard<'_, (Instant, Duration)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it may wait now, having run until now.
    fn may_wait(&self) -> Duration {
        let mut state = self.state();
        let earned = state.0.elapsed() * WAITS_PER_RUN;
        *state = (Instant::now(), (state.1 + earned).min(PAUSE_MAX));
        state.1
    }

    async fn give_way(&self) {
        let may_wait = self.may_wait();
        if self.foreground.is_quiet() {
            return;
        }
        let begun = Instant::now();
        self.foreground.quiet(may_wait).await;
        *self.state() = (Instant::now(), may_wait.saturating_sub(begun.elapsed()));
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

    /// Jobs will be under way in a moment: as if one were until then. To be called within a runtime.
    pub fn expect(&self) {
        let expected = self.enter();
        tokio::spawn(async move {
            tokio::time::sleep(EXPECTED).await;
            drop(expected);
        });
    }

    /// Nothing has been under way here for seconds. When something was, more will come.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.0.newest().is_none_or(|began| began.elapsed() >= ALONE_AFTER)
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

    /// Run a chunk: its background units and computations share a pace, so that it gets its part of the time in all.
    pub async fn paced<T>(&self, chunk: impl Future<Output = T>) -> T {
        PACE.scope(Pace::new(self.clone()), chunk).await
    }

    fn pace(&self) -> Arc<Pace> {
        PACE.try_with(Arc::clone).unwrap_or_else(|_| Pace::new(self.clone()))
    }

    /// Before a computation in the background, which cannot stop once it runs.
    pub(super) async fn let_go_first(&self) {
        self.pace().give_way().await;
    }

    /// A background unit at the pace of whoever calls this. Before it holds a connection or a lock it makes room once.
    pub(super) fn beside<T, U: Future<Output = T>>(&self, unit: U) -> impl Future<Output = T> + use<T, U> {
        PACE.scope(self.pace(), async {
            give_way().await;
            unit.await
        })
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

/// Between two statements that take milliseconds: wait while short jobs are under way, if this is a background unit and has not
/// waited its time already.
pub async fn give_way() {
    if let Ok(pace) = PACE.try_with(Arc::clone) {
        pace.give_way().await;
    }
}

/// How many rows a statement writes. It costs a little by itself, and cannot make room while it runs.
#[derive(Debug, Clone, Copy)]
pub struct StatementRows {
    /// Mostly.
    pub alone: usize,
    /// Of background work beside which jobs were under way lately.
    pub beside: usize,
}

impl StatementRows {
    /// Of the statement that comes next.
    #[must_use]
    pub fn at_once(self) -> usize {
        if PACE.try_with(|pace| pace.foreground.is_alone()).unwrap_or(true) { self.alone } else { self.beside }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use std::pin::pin;

    /// Let a unit have run for so long, with so much that it may wait.
    fn ran(run: Duration, may_wait: Duration) {
        PACE.with(|pace| *pace.state() = (Instant::now().checked_sub(run).unwrap(), may_wait));
    }

    /// Whether a unit goes on at once.
    fn goes_on(foreground: &Foreground) -> bool {
        foreground.beside(async {}).now_or_never().is_some()
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
        foreground.beside(async {}).await;
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
            assert!(PACE.with(|pace| pace.state().1) < PAUSE_MAX, "what it waited is spent");
        };
        foreground.beside(unit).await;
    }

    #[tokio::test]
    async fn the_units_of_a_chunk_wait_no_longer_together_than_one_of_them() {
        let foreground = Foreground::default();
        let _job = foreground.enter();
        let chunk = async {
            let begun = Instant::now();
            for _ in 0..10 {
                *foreground.0.newest() = Some(Instant::now());
                // As `Db::unit` runs them: in tasks of their own.
                tokio::spawn(foreground.beside(async {})).await.unwrap();
                foreground.let_go_first().await;
            }
            begun.elapsed()
        };
        let waited = foreground.paced(chunk).await;
        assert!((PAUSE_MAX..PAUSE_MAX * 10).contains(&waited), "{waited:?}");
    }

    #[tokio::test]
    async fn statements_are_large_unless_jobs_were_under_way_lately() {
        let foreground = Foreground::default();
        let rows = StatementRows { alone: 1_000, beside: 300 };
        let at_once = || foreground.beside(async { rows.at_once() }).now_or_never();
        assert_eq!(at_once(), Some(1_000));
        drop(foreground.enter());
        assert_eq!(at_once(), Some(300), "a moment ago");
        assert_eq!(rows.at_once(), 1_000, "of an ordinary unit");
        *foreground.0.newest() = Instant::now().checked_sub(ALONE_AFTER);
        assert_eq!(at_once(), Some(1_000));
    }

    #[tokio::test]
    async fn an_ordinary_unit_never_waits() {
        let foreground = Foreground::default();
        let _job = foreground.enter();
        assert!(give_way().now_or_never().is_some());
    }
}
