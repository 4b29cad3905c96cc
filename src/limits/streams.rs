//! How many callers may follow jobs by streams of events at once: each stream costs a few small reads a second.

use crate::ids::OrganizationId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Streams of one process.
pub const STREAMS_MAX: usize = 256;
/// And of one organization among them, so that one cannot take all.
pub const STREAMS_OF_ONE_MAX: usize = 64;

/// There is no place for another stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// The organization has as many as it may.
    #[error("the organization follows as many jobs as it may")]
    OfOrganization,
    /// The process has.
    #[error("as many jobs are followed as may be")]
    OfAll,
}

type Taken = HashMap<OrganizationId, usize>;

/// The places for streams.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Mutex<Taken>>);

/// A place; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    streams: Streams,
    organization: OrganizationId,
}

impl Streams {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Take a place. The platform's callers are told apart from no organization: they share one.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub fn take(&self, organization: OrganizationId) -> Result<Place, NoPlace> {
        let mut taken = self.taken();
        if taken.values().sum::<usize>() >= STREAMS_MAX {
            return Err(NoPlace::OfAll);
        }
        let own = taken.entry(organization).or_default();
        if *own >= STREAMS_OF_ONE_MAX {
            return Err(NoPlace::OfOrganization);
        }
        *own += 1;
        drop(taken);
        Ok(Place { streams: self.clone(), organization })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.streams.taken();
        if let Some(own) = taken.get_mut(&self.organization) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.remove(&self.organization);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_by_organization_and_in_all_and_come_back() {
        let streams = Streams::default();
        let one = OrganizationId::new();
        let mut places: Vec<Place> = (0..STREAMS_OF_ONE_MAX).map(|_| streams.take(one).unwrap()).collect();
        assert_eq!(streams.take(one).map(drop), Err(NoPlace::OfOrganization));
        places.pop();
        places.push(streams.take(one).unwrap());
        for _ in 0..(STREAMS_MAX / STREAMS_OF_ONE_MAX - 1) {
            let other = OrganizationId::new();
            places.extend((0..STREAMS_OF_ONE_MAX).map(|_| streams.take(other).unwrap()));
        }
        assert_eq!(streams.take(OrganizationId::new()).map(drop), Err(NoPlace::OfAll));
        drop(places);
        assert!(streams.taken().is_empty());
    }
}
