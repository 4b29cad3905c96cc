//! How full the queue is, and how fast it drains: samples of persisted facts, from which submissions are refused before
//! they cost anything, and `Retry-After` is computed.

use crate::ids::{OrganizationId, WorkerId};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A sample that is older says nothing any more: nobody is refused for it.
const SAMPLE_LIFE: Duration = Duration::from_secs(30);
/// The drain rate is that of the last minute.
const DRAIN_WINDOW: Duration = Duration::from_mins(1);
/// When nothing drains.
const WAIT_UNKNOWN: Duration = Duration::from_mins(1);
/// `Retry-After` says at most so much: who waits longer learns nothing from it.
const WAIT_MAX: Duration = Duration::from_mins(5);

/// What a submission is; what is bulk is refused first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Bundles and events: somebody waits for them.
    RealTime,
    /// Uploads: up to four fifths of the mark.
    Bulk,
}

impl Work {
    fn mark(self, max: u64) -> u64 {
        match self {
            Self::RealTime => max,
            Self::Bulk => max - max / 5,
        }
    }
}

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub struct Full {
    /// Whose share it is: the organization's, or that of all.
    pub of_all: bool,
    /// When there should be room.
    pub retry_after: Duration,
}

/// Depths by organization, and of all.
#[derive(Debug, Default)]
struct Counted {
    by_organization: HashMap<OrganizationId, u64>,
    total: u64,
}

impl Counted {
    fn add(&mut self, organization: OrganizationId, jobs: u64) {
        *self.by_organization.entry(organization).or_default() += jobs;
        self.total += jobs;
    }

    fn of(&self, organization: OrganizationId) -> u64 {
        self.by_organization.get(&organization).copied().unwrap_or(0)
    }
}

#[derive(Debug, Default)]
struct State {
    sampled_at: Option<Instant>,
    depths: Counted,
    /// What this process admitted since the sample was begun.
    admitted: Counted,
    /// The same while a sample is under way.
    admitted_before: Option<Counted>,
    /// Jobs that each worker had ended at the last sample.
    ended: HashMap<WorkerId, i64>,
    /// Jobs that ended between two samples, and when the later one was.
    drained: VecDeque<(Instant, u64)>,
    first_at: Option<Instant>,
}

/// Depth and drain rate.
#[derive(Debug)]
pub struct Pressure {
    organization_max: u64,
    total_max: u64,
    state: Mutex<State>,
}

impl Pressure {
    /// With these marks; 0: no limit.
    #[must_use]
    pub fn new(organization_max: u64, total_max: u64) -> Self {
        Self { organization_max, total_max, state: Mutex::default() }
    }

    /// Is there a limit at all?
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.organization_max > 0 || self.total_max > 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is there room for so many jobs more?
    ///
    /// # Errors
    /// [`Full`].
    pub fn admit(&self, organization: OrganizationId, work: Work, jobs: u64) -> Result<(), Full> {
        if !self.is_on() {
            return Ok(());
        }
        self.admit_at(organization, work, jobs, Instant::now())
    }

    fn admit_at(&self, organization: OrganizationId, work: Work, jobs: u64, now: Instant) -> Result<(), Full> {
        let mut state = self.state();
        let is_fresh = state.sampled_at.is_some_and(|at| now.saturating_duration_since(at) < SAMPLE_LIFE);
        if is_fresh {
            let before = state.admitted_before.as_ref();
            let total = state.depths.total + state.admitted.total + before.map_or(0, |counted| counted.total);
            let mark = work.mark(self.total_max);
            if self.total_max > 0 && total >= mark {
                return Err(Full { of_all: true, retry_after: state.wait(total, mark, 1, now) });
            }
            let own = state.depths.of(organization)
                + state.admitted.of(organization)
                + before.map_or(0, |counted| counted.of(organization));
            let mark = work.mark(self.organization_max);
            if self.organization_max > 0 && own >= mark {
                // Workers take from all organizations that wait, in turn.
                let sharers = state.depths.by_organization.len().max(1) as u64;
                return Err(Full { of_all: false, retry_after: state.wait(own, mark, sharers, now) });
            }
        }
        state.admitted.add(organization, jobs);
        Ok(())
    }

    /// Jobs beyond those that were asked for: an admitted request held more.
    pub fn count(&self, organization: OrganizationId, jobs: u64) {
        if self.is_on() && jobs > 0 {
            self.state().admitted.add(organization, jobs);
        }
    }

    /// From here on, what is admitted may be in the sample or not; what was admitted before is, but for what is under way.
    pub(super) fn begin_sample(&self) {
        let mut state = self.state();
        let admitted = std::mem::take(&mut state.admitted);
        state.admitted_before = Some(admitted);
    }

    /// A sample was taken: depths, and what each worker has ended since its start.
    pub(super) fn note(&self, depths: Option<Vec<(OrganizationId, i64)>>, ended: &[(WorkerId, i64)], now: Instant) {
        let Some(depths) = depths else { return };
        let mut state = self.state();
        state.admitted_before = None;
        state.depths = Counted::default();
        for (organization, jobs) in depths {
            state.depths.add(organization, u64::try_from(jobs).unwrap_or(0));
        }
        let is_first = state.first_at.is_none();
        let mut drained = 0;
        for (worker, count) in ended {
            // A worker that is new since the last sample has ended all of it since; of the first sample nothing is known.
            let before = state.ended.get(worker).copied().unwrap_or(if is_first { *count } else { 0 });
            drained += u64::try_from(count - before).unwrap_or(0);
        }
        state.ended = ended.iter().copied().collect();
        state.drained.push_back((now, drained));
        while state.drained.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > DRAIN_WINDOW) {
            state.drained.pop_front();
        }
        state.first_at.get_or_insert(now);
        state.sampled_at = Some(now);
    }
}

impl State {
    /// Until the depth is below the mark, and a little lower, so that not all come back at once to be refused.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn wait(&self, depth: u64, mark: u64, sharers: u64, now: Instant) -> Duration {
        let drained: u64 = self.drained.iter().map(|(_, jobs)| jobs).sum();
        let since = self.first_at.map_or(Duration::ZERO, |first| now.saturating_duration_since(first));
        let seconds = since.min(DRAIN_WINDOW).as_secs_f64();
        if drained == 0 || seconds <= 0.0 {
            return WAIT_UNKNOWN;
        }
        let excess = depth - mark.min(depth) + (mark / 20).max(1);
        let wait = excess as f64 * sharers as f64 * seconds / drained as f64;
        Duration::from_secs_f64(wait.ceil().clamp(1.0, WAIT_MAX.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Work::{Bulk, RealTime};

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn bulk_is_shed_before_real_time_and_an_organization_before_all() {
        let (one, other) = (OrganizationId::new(), OrganizationId::new());
        let pressure = Pressure::new(100, 1_000);
        let now = Instant::now();
        assert_eq!(pressure.admit_at(one, RealTime, 1_000_000, now), Ok(()), "nothing is known yet");
        let sample = |jobs: i64, others: i64| {
            pressure.begin_sample();
            pressure.note(Some(vec![(one, jobs), (other, others)]), &[], now);
        };
        sample(80, 0);
        assert_eq!(pressure.admit_at(one, RealTime, 0, now), Ok(()));
        assert!(!pressure.admit_at(one, Bulk, 0, now).unwrap_err().of_all);
        assert_eq!(pressure.admit_at(other, Bulk, 0, now), Ok(()));
        sample(100, 0);
        assert_eq!(pressure.admit_at(one, RealTime, 0, now), Err(Full { of_all: false, retry_after: WAIT_UNKNOWN }));
        assert_eq!(pressure.admit_at(other, RealTime, 0, now), Ok(()));
        sample(0, 1_000);
        assert!(pressure.admit_at(one, RealTime, 0, now).unwrap_err().of_all);
        assert_eq!(pressure.admit_at(one, RealTime, 0, now + seconds(31)), Ok(()), "too old to refuse anybody");
    }

    #[test]
    fn what_was_admitted_since_the_sample_counts() {
        let one = OrganizationId::new();
        let pressure = Pressure::new(3, 0);
        let now = Instant::now();
        pressure.note(Some(Vec::new()), &[], now);
        let admitted = |number: usize| (0..number).filter(|_| pressure.admit_at(one, RealTime, 1, now).is_ok()).count();
        assert_eq!(admitted(10), 3);
        pressure.begin_sample();
        assert_eq!(admitted(10), 0, "while a sample is under way");
        pressure.note(Some(vec![(one, 1)]), &[], now);
        assert_eq!(admitted(10), 2);
        pressure.begin_sample();
        pressure.note(Some(Vec::new()), &[], now);
        pressure.count(one, 2);
        assert_eq!(admitted(10), 1);
    }

    #[test]
    fn retry_after_is_what_is_over_the_mark_divided_by_what_drains() {
        let organizations: Vec<OrganizationId> = (0..4).map(|_| OrganizationId::new()).collect();
        let (fast, slow) = (WorkerId::new(), WorkerId::new());
        let pressure = Pressure::new(100, 0);
        let start = Instant::now();
        let depths = |own: i64| Some(organizations.iter().map(|one| (*one, own)).collect());
        pressure.note(depths(100), &[(fast, 5_000)], start);
        let full = |now| pressure.admit_at(organizations[0], RealTime, 0, now).unwrap_err().retry_after;
        assert_eq!(full(start), WAIT_UNKNOWN, "nothing is known of the rate yet");
        // 80 jobs in 10 s, of which a quarter is this organization's: 2 a second; 5 to go for a mark and a twentieth.
        let later = start + seconds(10);
        pressure.note(depths(100), &[(fast, 5_060), (slow, 20)], later);
        assert_eq!(full(later), seconds(3));
        pressure.note(depths(195), &[(fast, 5_060), (slow, 20)], later);
        assert_eq!(full(later), seconds(50));
        pressure.note(depths(100_000), &[(fast, 5_060), (slow, 20)], later);
        assert_eq!(full(later), WAIT_MAX);
        // A minute later nothing drains any more.
        let much_later = later + seconds(61);
        pressure.note(depths(100), &[(fast, 5_060), (slow, 20)], much_later);
        assert_eq!(full(much_later), WAIT_UNKNOWN);
    }
}
