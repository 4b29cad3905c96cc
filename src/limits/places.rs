//! Places for what costs while it lasts: so many in all, and of them so many of one, so that nobody can take all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct Table<K> {
    max: usize,
    max_of_one: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// Places, told apart by whose they are.
#[derive(Debug, Clone)]
pub struct Places<K>(Arc<Table<K>>);

/// A place; free again when it is dropped.
#[derive(Debug)]
pub struct Place<K: Hash + Eq> {
    places: Places<K>,
    of: K,
}

impl<K: Hash + Eq> Places<K> {
    /// So many in all, and of one.
    #[must_use]
    pub fn new(max: usize, max_of_one: usize) -> Self {
        Self(Arc::new(Table { max, max_of_one, taken: Mutex::new(HashMap::new()) }))
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if there is one for it.
    #[must_use]
    pub fn take(&self, of: K) -> Option<Place<K>>
    where
        K: Clone,
    {
        let mut taken = self.taken();
        let own = taken.get(&of).copied().unwrap_or(0);
        if own >= self.0.max_of_one || taken.values().sum::<usize>() >= self.0.max {
            return None;
        }
        taken.insert(of.clone(), own + 1);
        drop(taken);
        Some(Place { places: Self(Arc::clone(&self.0)), of })
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(own) = taken.get_mut(&self.of) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_its_number_all_have_theirs_and_what_is_dropped_comes_back() {
        let places = Places::new(3, 2);
        let mut taken: Vec<_> = (0..2).map(|_| places.take("one").unwrap()).collect();
        assert!(places.take("one").is_none());
        taken.push(places.take("two").unwrap());
        assert!(places.take("three").is_none(), "all are taken");
        taken.remove(0);
        assert!(places.take("three").is_some() && places.take("one").is_some());
        taken.clear();
        assert!(places.taken().is_empty(), "nobody who has gone is remembered");
    }
}
