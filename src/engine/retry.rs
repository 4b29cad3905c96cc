//! Backoff arithmetic and the decision after a failed attempt. Pure: randomness and time come in as arguments.

use super::handler::ErrorClass;
use std::time::Duration;

/// How often and how patiently a step is repeated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Attempts in all, the first included; 1 means no retry.
    pub attempts: u16,
    /// Upper end of the first delay.
    pub first_delay: Duration,
    /// Upper end of any delay.
    pub max_delay: Duration,
    /// Growth of the upper end by attempt, ≥ 1.
    pub factor: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { attempts: 10, first_delay: Duration::from_millis(500), max_delay: Duration::from_mins(5), factor: 2.0 }
    }
}

impl Policy {
    /// The delay after the given failed attempt (1 for the first): exponential with full jitter, which spreads the
    /// herd best ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015). `jitter` is uniform in [0, 1).
    /// Never shorter than 10 ms, so that a jitter near zero does not become a busy loop.
    #[must_use]
    pub fn delay(&self, attempt: u16, jitter: f64) -> Duration {
        let exponent = i32::from(attempt.saturating_sub(1)).min(64);
        let ceiling = (self.first_delay.as_secs_f64() * self.factor.powi(exponent)).min(self.max_delay.as_secs_f64());
        Duration::from_secs_f64((ceiling * jitter.clamp(0.0, 1.0)).max(0.010))
    }
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextMove {
    /// Wait, then try the step again.
    RetryAfter(Duration),
    /// The step has failed for good.
    Fail,
}

/// A failed attempt, as the decision needs it.
#[derive(Debug, Clone, Copy)]
pub struct FailedAttempt {
    /// Which attempt it was, from 1.
    pub attempt: u16,
    /// Who must act.
    pub class: ErrorClass,
    /// What the dependency asked for.
    pub retry_after: Option<Duration>,
    /// How long the round has been under way.
    pub age: Duration,
    /// The workflow's deadline for a round.
    pub deadline: Option<Duration>,
}

/// Only transient errors are repeated, within the step's budget and the workflow's deadline. A dependency's
/// `Retry-After` is honored as the least delay.
#[must_use]
pub fn decide(policy: &Policy, failed: FailedAttempt, jitter: f64) -> NextMove {
    if failed.class != ErrorClass::Transient || failed.attempt >= policy.attempts {
        return NextMove::Fail;
    }
    let delay = policy.delay(failed.attempt, jitter).max(failed.retry_after.unwrap_or_default());
    match failed.deadline {
        Some(deadline) if failed.age + delay > deadline => NextMove::Fail,
        _ => NextMove::RetryAfter(delay),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failed(attempt: u16, class: ErrorClass) -> FailedAttempt {
        FailedAttempt { attempt, class, retry_after: None, age: Duration::ZERO, deadline: None }
    }

    #[test]
    fn bad_data_and_bugs_are_never_repeated() {
        for class in [ErrorClass::Sender, ErrorClass::Ours] {
            assert_eq!(decide(&Policy::default(), failed(1, class), 0.5), NextMove::Fail);
        }
    }

    #[test]
    fn the_budget_counts_the_first_attempt() {
        let policy = Policy { attempts: 3, ..Policy::default() };
        assert!(matches!(decide(&policy, failed(2, ErrorClass::Transient), 0.5), NextMove::RetryAfter(_)));
        assert_eq!(decide(&policy, failed(3, ErrorClass::Transient), 0.5), NextMove::Fail);
    }

    #[test]
    fn a_retry_that_would_miss_the_deadline_is_not_started() {
        let late = FailedAttempt {
            age: Duration::from_secs(59),
            deadline: Some(Duration::from_mins(1)),
            retry_after: Some(Duration::from_secs(2)),
            ..failed(1, ErrorClass::Transient)
        };
        assert_eq!(decide(&Policy::default(), late, 0.0), NextMove::Fail);
    }

    #[test]
    fn a_dependencys_retry_after_is_the_least_delay() {
        let asked = FailedAttempt { retry_after: Some(Duration::from_mins(2)), ..failed(1, ErrorClass::Transient) };
        assert_eq!(decide(&Policy::default(), asked, 0.1), NextMove::RetryAfter(Duration::from_mins(2)));
    }

    proptest! {
        #[test]
        fn delays_stay_between_the_floor_and_the_cap(attempt in 1u16..=u16::MAX, jitter in 0.0f64..1.0) {
            let policy = Policy::default();
            let delay = policy.delay(attempt, jitter);
            prop_assert!(delay >= Duration::from_millis(10));
            prop_assert!(delay <= policy.max_delay);
        }
    }
}
