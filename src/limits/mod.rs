//! What one caller, and all of them together, may take of this process: requests a second, places in the queue, memory for
//! bodies. docs/operations.md says what to set, docs/decisions/0013-the-edge.md why it is so.
//!
//! Nothing here costs a request a query: [`Limits::watch`] samples the database beside the requests.

pub mod body;
pub mod budget;
pub mod places;
pub mod pressure;
pub mod rates;
mod store;
pub mod streams;

use crate::config::LimitsConfig;
use crate::db::{Db, DbError, Scope};
use budget::Budget;
use places::Places;
use pressure::Pressure;
use rates::{Rates, Strangers};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use streams::Streams;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Between two samples, at least.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Sampling takes at most one part in so many of the time.
const SAMPLE_SHARE: u32 = 20;

/// Log-ins to the console whose forms are being read: anybody may send one.
pub const LOGINS_MAX: usize = 64;
/// And of one address among them.
pub const LOGINS_OF_ONE_MAX: usize = 16;
/// Browsers that watch a page of the console.
pub const WATCHERS_MAX: usize = 64;
/// And of one key among them, however many sessions it has.
pub const WATCHERS_OF_ONE_MAX: usize = 16;
/// Exports of jobs at once.
pub const EXPORTS_MAX: usize = 4;
/// And of one key among them.
pub const EXPORTS_OF_ONE_MAX: usize = 2;

/// The limits of one process.
#[derive(Debug)]
pub struct Limits {
    /// Requests a second, by organization.
    pub rates: Rates,
    /// Failed authentications, by address.
    pub strangers: Strangers,
    /// Depth of the queue.
    pub pressure: Pressure,
    /// Memory for bodies.
    pub bodies: Budget,
    /// `validateOnly` computations at once.
    pub validations: Arc<Semaphore>,
    /// Streams of events.
    pub streams: Streams,
    /// Log-ins under way, by address ([`address_key`]).
    pub logins: Places<IpAddr>,
    /// Watchers of pages of the console, by key.
    pub watchers: Places<String>,
    /// Exports of jobs from the console, by key.
    pub exports: Places<String>,
    /// Cancelled when the process begins to stop: nobody should wait for anything any more.
    pub draining: CancellationToken,
    /// Cancelled to cut the grace short.
    pub hurry: CancellationToken,
}

impl Limits {
    /// As configured.
    #[must_use]
    pub fn new(config: &LimitsConfig) -> Arc<Self> {
        Arc::new(Self {
            rates: Rates::new(config.requests_per_second, config.burst),
            strangers: Strangers::new(config.failed_authentications_per_minute),
            pressure: Pressure::new(config.queue_organization, config.queue_total),
            bodies: Budget::new(config.body_bytes_total, config.body_bytes_per_second),
            validations: Arc::new(Semaphore::new(config.validations)),
            streams: Streams::default(),
            logins: Places::new(LOGINS_MAX, LOGINS_OF_ONE_MAX),
            watchers: Places::new(WATCHERS_MAX, WATCHERS_OF_ONE_MAX),
            exports: Places::new(EXPORTS_MAX, EXPORTS_OF_ONE_MAX),
            draining: CancellationToken::new(),
            hurry: CancellationToken::new(),
        })
    }

    /// Sample the database until cancelled.
    pub async fn watch(&self, db: Db, stop: CancellationToken) {
        loop {
            let started = Instant::now();
            self.sample(&db).await;
            let pause = SAMPLE_EVERY.max(started.elapsed() * SAMPLE_SHARE);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One sample, now. What cannot be read stays as it was.
    pub async fn sample(&self, db: &Db) {
        let counts = self.pressure.is_on();
        if counts {
            self.pressure.begin_sample();
        }
        let facts = db.unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move { store::read_facts(connection, counts).await })
        });
        match facts.await {
            Ok(facts) => {
                self.rates.set_own(facts.rates);
                self.pressure.note(facts.depths, &facts.ended, Instant::now());
            }
            Err(error) => tracing::debug!(error = ?error, "the queue's depth cannot be sampled"),
        }
        self.strangers.forget_quiet();
    }
}

/// By what addresses are told apart: an IPv4 address (also one in IPv6's clothes), or the /64 that an IPv6 host may choose
/// its addresses from.
#[must_use]
pub fn address_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_counted_by_what_one_host_can_choose() {
        for (given, key) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(address_key(given.parse().unwrap()).to_string(), key, "{given}");
        }
    }
}
