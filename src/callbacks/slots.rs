//! Places for deliveries that are under way in one process: receivers that hang take no more of its workers than these, and
//! those of one organization no more than its share.
//!
//! As many deliveries may wait a moment for a place as there are places: where receivers answer quickly, places are given on
//! at once, and where they hang, the wait is over soon and costs no more workers than the places themselves.

use crate::ids::OrganizationId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Deliveries under way in a process, at most, however many jobs it runs.
const SLOTS_MAX: usize = 64;
/// Of a worker's jobs at once, deliveries may be one in so many, and as many may wait for that.
const SHARE_OF_WORKERS: usize = 4;
/// Of these, one organization may have one in so many.
const SHARE_OF_ONE: usize = 4;

/// What is taken of a bounded number, by all and by each organization.
#[derive(Debug, Default)]
struct Taken {
    all: usize,
    each: HashMap<OrganizationId, usize>,
}

impl Taken {
    fn take(&mut self, organization: OrganizationId, bounds: Bounds) -> bool {
        let own = self.each.get(&organization).copied().unwrap_or_default();
        let is_free = self.all < bounds.all && own < bounds.each;
        if is_free {
            self.all += 1;
            self.each.insert(organization, own + 1);
        }
        is_free
    }

    fn give_back(&mut self, organization: OrganizationId) {
        self.all -= 1;
        if let Some(own) = self.each.get_mut(&organization) {
            *own -= 1;
            if *own == 0 {
                self.each.remove(&organization);
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    all: usize,
    each: usize,
}

#[derive(Debug, Default)]
struct Shared {
    taken: Mutex<Taken>,
    waiting: Mutex<Taken>,
    given_back: Notify,
}

/// The places of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Slots {
    places: Bounds,
    waiting: Bounds,
    shared: Arc<Shared>,
}

impl Slots {
    /// Of a process that runs so many jobs at once.
    #[must_use]
    pub fn new(workers_concurrency: usize) -> Self {
        let all = (workers_concurrency / SHARE_OF_WORKERS).clamp(1, SLOTS_MAX);
        let places = Bounds { all, each: (all / SHARE_OF_ONE).max(1) };
        // Whoever has no share left to wait in still has places of its own: a burst of one may take all of these.
        Self { places, waiting: Bounds { all, each: all }, shared: Arc::default() }
    }

    /// A place for a delivery of that organization, if one is free.
    #[must_use]
    pub fn take(&self, organization: OrganizationId) -> Option<Slot> {
        self.enter(organization, Queue::Taken).map(|held| Slot { _held: held })
    }

    /// The same, but wait so long for one, unless as many wait as may.
    pub async fn take_within(&self, organization: OrganizationId, patience: Duration) -> Option<Slot> {
        if let Some(slot) = self.take(organization) {
            return Some(slot);
        }
        let _waiting = self.enter(organization, Queue::Waiting)?;
        let found = async {
            loop {
                // Listened to before looking, so that a place that is given back in between is not missed.
                let mut given_back = std::pin::pin!(self.shared.given_back.notified());
                given_back.as_mut().enable();
                if let Some(slot) = self.take(organization) {
                    return slot;
                }
                given_back.await;
            }
        };
        tokio::time::timeout(patience, found).await.ok()
    }

    fn enter(&self, organization: OrganizationId, queue: Queue) -> Option<Held> {
        let bounds = match queue {
            Queue::Taken => self.places,
            Queue::Waiting => self.waiting,
        };
        let entered = self.shared.of(queue).lock().unwrap_or_else(PoisonError::into_inner).take(organization, bounds);
        entered.then(|| Held { shared: Arc::clone(&self.shared), organization, queue })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Taken,
    Waiting,
}

impl Shared {
    fn of(&self, queue: Queue) -> &Mutex<Taken> {
        match queue {
            Queue::Taken => &self.taken,
            Queue::Waiting => &self.waiting,
        }
    }
}

#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    organization: OrganizationId,
    queue: Queue,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.of(self.queue).lock().unwrap_or_else(PoisonError::into_inner).give_back(self.organization);
        if self.queue == Queue::Taken {
            self.shared.given_back.notify_waiters();
        }
    }
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    _held: Held,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_organization_takes_its_share_and_all_together_theirs() {
        let slots = Slots::new(64);
        let organizations: Vec<_> = (0..5).map(|_| OrganizationId::new()).collect();
        let mut held = Vec::new();
        for organization in &organizations[..4] {
            let own: Vec<_> = std::iter::from_fn(|| slots.take(*organization)).collect();
            assert_eq!(own.len(), 4);
            held.push(own);
        }
        assert!(slots.take(organizations[4]).is_none(), "sixteen of the sixty-four jobs");
        held.pop();
        assert!(slots.take(organizations[4]).is_some());
        held.clear();
        assert!(slots.shared.taken.lock().unwrap().each.is_empty());
    }

    #[test]
    fn a_small_process_keeps_one_place_and_a_large_one_no_more_than_its_bound() {
        let count = |concurrency| {
            let slots = Slots::new(concurrency);
            let held: Vec<_> = std::iter::from_fn(|| slots.take(OrganizationId::new())).collect();
            held.len()
        };
        assert_eq!([count(1), count(32), count(10_000)], [1, 8, 64]);
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_is_given_back_and_no_more_wait_than_there_are_places() {
        const PATIENCE: Duration = Duration::from_secs(2);
        let slots = Slots::new(8);
        let organization = OrganizationId::new();
        let first = slots.take(organization);
        assert!(first.is_some() && slots.take(organization).is_none(), "one of two places");
        let wait = || {
            let slots = slots.clone();
            tokio::spawn(async move { slots.take_within(organization, PATIENCE).await })
        };
        let before = std::time::Instant::now();
        let (one, another) = (wait(), wait());
        tokio::task::yield_now().await;
        assert!(slots.take_within(organization, PATIENCE).await.is_none(), "two wait");
        assert!(before.elapsed() < PATIENCE, "the third is told at once");
        drop(first);
        let given = one.await.unwrap();
        assert!(given.is_some() && before.elapsed() < PATIENCE);
        assert!(another.await.unwrap().is_none(), "that place is kept for longer than this one waits");
        assert!(before.elapsed() >= PATIENCE);
        assert!(slots.take_within(OrganizationId::new(), PATIENCE).await.is_some(), "others have places of their own");
        drop(given);
        let left = (&slots.shared.taken, &slots.shared.waiting);
        assert!(left.0.lock().unwrap().each.is_empty() && left.1.lock().unwrap().each.is_empty());
    }
}
