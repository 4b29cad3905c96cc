//! Requests a second by organization, and failed authentications by address: token buckets of this process.
//!
//! Organizations are those of good credentials, addresses those of the connection: neither can be made up, so that the
//! maps hold what exists. Nothing is ever keyed by a header that a client may write.

use super::address_key;
use crate::ids::OrganizationId;
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use serde_json::Value;
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

type Bucket = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: NonZeroU32,
    burst: NonZeroU32,
}

impl Rate {
    /// None for no limit. A burst of 0 is that of one second.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        let per_second = NonZeroU32::new(per_second)?;
        Some(Self { per_second, burst: NonZeroU32::new(burst).unwrap_or(per_second) })
    }

    /// As an organization's settings hold it: `{"requests_per_second", "burst"}`.
    #[must_use]
    pub fn stored(value: &Value) -> Option<Self> {
        let number = |key: &str| value.get(key).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
        Self::new(number("requests_per_second")?, number("burst").unwrap_or(0))
    }

    /// Requests a second in the long run.
    #[must_use]
    pub fn per_second(self) -> u32 {
        self.per_second.get()
    }

    /// Requests at once after quiet.
    #[must_use]
    pub fn burst(self) -> u32 {
        self.burst.get()
    }

    /// Seconds in which the whole burst comes back.
    fn window(self) -> u64 {
        u64::from(self.burst()).div_ceil(u64::from(self.per_second()))
    }
}

/// What a caller is told of its bucket (draft-ietf-httpapi-ratelimit-headers, sections 3 and 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Requests of the window.
    pub quota: u32,
    /// The window, in seconds.
    pub window: u64,
    /// Requests that are left.
    pub remaining: u32,
    /// Seconds until the whole quota is there again; of a refused request until one may be sent.
    pub reset: u64,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// There is no limit.
    Unlimited,
    /// Within the limit.
    Within(Allowance),
    /// Over it.
    Over(Allowance),
}

struct Own {
    rate: Rate,
    bucket: Bucket,
}

/// Token buckets by organization.
pub struct Rates {
    default: Option<Rate>,
    own: RwLock<HashMap<OrganizationId, Rate>>,
    buckets: Mutex<HashMap<OrganizationId, Arc<Own>>>,
    clock: DefaultClock,
}

impl std::fmt::Debug for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rates").field("default", &self.default).finish_non_exhaustive()
    }
}

impl Rates {
    /// With a rate for organizations that have none of their own; 0: no limit.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self {
            default: Rate::new(per_second, burst),
            own: RwLock::default(),
            buckets: Mutex::default(),
            clock: DefaultClock::default(),
        }
    }

    /// Replace the rates of organizations that have their own.
    pub fn set_own(&self, rates: Vec<(OrganizationId, Value)>) {
        let rates = rates.into_iter().filter_map(|(organization, value)| Some((organization, Rate::stored(&value)?)));
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = rates.collect();
    }

    /// One request of that organization.
    pub fn take(&self, organization: OrganizationId) -> Taken {
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner).get(&organization).copied();
        let Some(rate) = own.or(self.default) else { return Taken::Unlimited };
        let bucket = self.bucket(organization, rate);
        let (quota, window) = (rate.burst(), rate.window());
        match bucket.bucket.check() {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity().min(quota);
                let reset = u64::from(quota - remaining).div_ceil(u64::from(rate.per_second()));
                Taken::Within(Allowance { quota, window, remaining, reset })
            }
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                Taken::Over(Allowance { quota, window, remaining: 0, reset: whole_seconds(wait) })
            }
        }
    }

    /// The organization's bucket; a new one when its rate has changed.
    fn bucket(&self, organization: OrganizationId, rate: Rate) -> Arc<Own> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = buckets.get(&organization).filter(|known| known.rate == rate) {
            return Arc::clone(known);
        }
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        let bucket = RateLimiter::direct(quota).with_middleware::<StateInformationMiddleware>();
        let own = Arc::new(Own { rate, bucket });
        buckets.insert(organization, Arc::clone(&own));
        own
    }
}

/// As `Retry-After` says it: rounded up, at least one.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Failed authentications by address.
pub struct Strangers {
    limiter: Option<RateLimiter<IpAddr, DefaultKeyedStateStore<IpAddr>, DefaultClock>>,
    clock: DefaultClock,
}

impl std::fmt::Debug for Strangers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Strangers").field("is_on", &self.limiter.is_some()).finish_non_exhaustive()
    }
}

impl Strangers {
    /// So many a minute, all of them at once if one likes; 0: no limit.
    #[must_use]
    pub fn new(per_minute: u32) -> Self {
        let limiter = NonZeroU32::new(per_minute).map(|number| RateLimiter::keyed(Quota::per_minute(number)));
        Self { limiter, clock: DefaultClock::default() }
    }

    /// An authentication failed. The number of seconds until that address may fail again, if it failed too often.
    ///
    /// # Errors
    /// Those seconds.
    pub fn failed(&self, address: IpAddr) -> Result<(), u64> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let checked = limiter.check_key(&address_key(address));
        checked.map_err(|until| whole_seconds(until.wait_time_from(self.clock.now())))
    }

    /// Forget addresses whose bucket is full again.
    pub fn forget_quiet(&self) {
        if let Some(limiter) = &self.limiter
            && !limiter.is_empty()
        {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }

    /// Addresses that are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.limiter.as_ref().map_or(0, RateLimiter::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bucket_gives_its_burst_and_says_what_is_left() {
        let rates = Rates::new(1, 3);
        let organization = OrganizationId::new();
        for remaining in [2, 1, 0] {
            let Taken::Within(allowance) = rates.take(organization) else { panic!("{remaining}") };
            assert_eq!((allowance.quota, allowance.window, allowance.remaining), (3, 3, remaining));
            assert_eq!(allowance.reset, u64::from(3 - remaining));
        }
        let Taken::Over(allowance) = rates.take(organization) else { panic!("the bucket is empty") };
        assert_eq!((allowance.remaining, allowance.reset), (0, 1));
        assert!(matches!(rates.take(OrganizationId::new()), Taken::Within(_)), "others have their own");
    }

    #[test]
    fn an_organizations_own_rate_counts_before_the_default() {
        let (one, other) = (OrganizationId::new(), OrganizationId::new());
        let rates = Rates::new(0, 0);
        assert_eq!(rates.take(one), Taken::Unlimited);
        rates.set_own(vec![(one, json!({"requests_per_second": 1})), (other, json!({"requests_per_second": "x"}))]);
        assert!(matches!(rates.take(one), Taken::Within(Allowance { quota: 1, remaining: 0, .. })));
        assert!(matches!(rates.take(one), Taken::Over(_)));
        assert_eq!(rates.take(other), Taken::Unlimited);
        rates.set_own(vec![(one, json!({"requests_per_second": 5, "burst": 10}))]);
        assert!(matches!(rates.take(one), Taken::Within(Allowance { quota: 10, window: 2, remaining: 9, .. })));
    }

    #[test]
    fn one_address_fails_so_often_and_a_million_addresses_are_not_kept_for_ever() {
        let strangers = Strangers::new(60);
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let failed = (0..61).filter(|_| strangers.failed(address).is_err()).count();
        assert_eq!(failed, 1);
        assert!(strangers.failed("2001:db8::2".parse().unwrap()).is_err(), "the same /64");
        assert!(strangers.failed("2001:db8:0:1::1".parse().unwrap()).is_ok());
        assert_eq!(strangers.remembered(), 2);
        let fast = Strangers::new(u32::MAX);
        for number in 0..1_000_u32 {
            fast.failed(IpAddr::V4(number.into())).unwrap();
        }
        fast.forget_quiet();
        assert!(fast.remembered() < 1_000, "{}", fast.remembered());
        assert!((0..10_000).all(|_| Strangers::new(0).failed(address).is_ok()));
    }
}
