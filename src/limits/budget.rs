//! Memory for request bodies: one budget a process, of which each request takes what it has in memory, as its bytes arrive.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget is counted in pieces of so many bytes.
const PIECE: u64 = 4096;
/// A request waits so long for memory before it is refused.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The budget is spent.
#[derive(Debug, thiserror::Error)]
#[error("as many bytes of bodies are in memory as there may be")]
pub struct Exhausted;

/// All bodies of a process.
#[derive(Debug, Clone)]
pub struct Budget {
    pieces: Arc<Semaphore>,
    bytes_per_second: u64,
}

impl Budget {
    /// So many bytes; each body brings so many a second.
    #[must_use]
    pub fn new(bytes: u64, bytes_per_second: u64) -> Self {
        let pieces = usize::try_from(bytes / PIECE).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { pieces: Arc::new(Semaphore::new(pieces)), bytes_per_second }
    }

    /// A request's share: nothing yet.
    #[must_use]
    pub fn share(&self) -> Arc<Share> {
        Arc::new(Share { budget: self.clone(), held: Mutex::new(None) })
    }

    /// Bytes that are not taken.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.pieces.available_permits() as u64 * PIECE
    }
}

/// What one request has taken; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Share {
    /// Bytes that a body must bring a second.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        self.budget.bytes_per_second
    }

    fn missing(&self, bytes: u64) -> u32 {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let has = held.as_ref().map_or(0, |permit| permit.num_permits() as u64);
        u32::try_from(bytes.div_ceil(PIECE).saturating_sub(has)).unwrap_or(u32::MAX)
    }

    fn keep(&self, permit: OwnedSemaphorePermit) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut() {
            Some(held) => held.merge(permit),
            None => *held = Some(permit),
        }
    }

    /// Have so many bytes in all; waits shortly while others have them.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub async fn cover(&self, bytes: u64) -> Result<(), Exhausted> {
        if self.try_cover(bytes).is_ok() {
            return Ok(());
        }
        let acquire = Arc::clone(&self.budget.pieces).acquire_many_owned(self.missing(bytes));
        let permit = tokio::time::timeout(WAIT_MAX, acquire).await.map_err(|_| Exhausted)?.map_err(|_| Exhausted)?;
        self.keep(permit);
        Ok(())
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn try_cover(&self, bytes: u64) -> Result<(), Exhausted> {
        let missing = self.missing(bytes);
        if missing > 0 {
            let permit = Arc::clone(&self.budget.pieces).try_acquire_many_owned(missing).map_err(|_| Exhausted)?;
            self.keep(permit);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shares_grow_until_the_budget_is_spent_and_give_all_back() {
        let budget = Budget::new(10 * PIECE, 1);
        let (one, other) = (budget.share(), budget.share());
        one.cover(1).await.unwrap();
        one.cover(3 * PIECE + 1).await.unwrap();
        one.cover(PIECE).await.unwrap();
        assert_eq!(budget.free(), 6 * PIECE);
        other.cover(6 * PIECE).await.unwrap();
        assert!(other.cover(7 * PIECE).await.is_err());
        assert!(other.try_cover(7 * PIECE).is_err());
        let waiting = tokio::spawn({
            let other = Arc::clone(&other);
            async move { other.cover(7 * PIECE).await.is_ok() }
        });
        tokio::task::yield_now().await;
        drop(one);
        assert!(waiting.await.unwrap(), "what was given back is taken by whoever waits");
        drop(other);
        assert_eq!(budget.free(), 10 * PIECE);
    }
}
