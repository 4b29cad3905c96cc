//! Places for deliveries that are under way in one process: receivers that hang take no more of its workers than these, and
//! those of one organization no more than its share.

use crate::ids::OrganizationId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Deliveries under way in a process, at most, however many jobs it runs.
const SLOTS_MAX: usize = 64;
/// Of a worker's jobs at once, deliveries may be one in so many.
const SHARE_OF_WORKERS: usize = 4;
/// Of these, one organization may have one in so many.
const SHARE_OF_ONE: usize = 4;

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    each: HashMap<OrganizationId, usize>,
}

/// The places of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Slots {
    max: usize,
    max_each: usize,
    taken: Arc<Mutex<Taken>>,
}

impl Slots {
    /// Of a process that runs so many jobs at once.
    #[must_use]
    pub fn new(workers_concurrency: usize) -> Self {
        let max = (workers_concurrency / SHARE_OF_WORKERS).clamp(1, SLOTS_MAX);
        Self { max, max_each: (max / SHARE_OF_ONE).max(1), taken: Arc::default() }
    }

    /// A place for a delivery of that organization, if one is free.
    #[must_use]
    pub fn take(&self, organization: OrganizationId) -> Option<Slot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.each.get(&organization).copied().unwrap_or_default();
        if taken.all >= self.max || own >= self.max_each {
            return None;
        }
        taken.all += 1;
        taken.each.insert(organization, own + 1);
        Some(Slot { slots: self.clone(), organization })
    }
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    organization: OrganizationId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(own) = taken.each.get_mut(&self.organization) {
            *own -= 1;
            if *own == 0 {
                taken.each.remove(&self.organization);
            }
        }
    }
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
        assert!(slots.taken.lock().unwrap().each.is_empty());
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
}
