//! Denials in the audit log: one record each for callers who are known; of those who are not, the first of its kind at
//! once, and how many followed when the minute is over. A flood of wrong keys thus costs some records, not one each.
//!
//! A kind is (network of the address, method, route, reason). At most [`KINDS_MAX`] kinds are kept apart in a minute; what comes
//! beyond is counted together. Counts live in memory: a process that is killed loses those of its last minute, and no
//! first record.

use super::Refusal;
use crate::audit::{self, Action, Actor, Outcome, Record};
use crate::db::{Db, DbError, Scope};
use crate::ids::OrganizationId;
use serde_json::json;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long repetitions of a kind are counted before they are recorded.
pub const WINDOW: Duration = Duration::from_mins(1);
/// Kinds that are kept apart, at most.
pub const KINDS_MAX: usize = 500;

/// What an answer tells the edge, in its extensions: somebody was not let in, or not to what they asked for. The edge knows the
/// rest, and records it.
#[derive(Debug, Clone)]
pub struct Denied {
    /// The caller and its organization (none: platform), if it is known.
    pub caller: Option<(Option<OrganizationId>, Actor)>,
    /// Code of the answer.
    pub code: &'static str,
    /// What the caller was not told.
    pub reason: Option<Refusal>,
}

/// A request that was not let in, or not to what it asked for.
#[derive(Debug, Clone)]
pub struct Denial {
    /// The caller and its organization (none: platform), if it is known.
    pub caller: Option<(Option<OrganizationId>, Actor)>,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// Its id.
    pub request_id: String,
    /// The request's method.
    pub method: String,
    /// The route's template.
    pub route: String,
    /// Code of the answer.
    pub code: &'static str,
    /// What the caller was not told.
    pub reason: Option<Refusal>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    Of { network: Option<IpAddr>, method: String, route: String, code: &'static str, reason: Option<Refusal> },
    Other,
}

/// An IPv6 customer has a network of at least 64 bits, and all addresses in it.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(
            || {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            },
            IpAddr::V4,
        ),
    }
}

/// Records denials; cheap to clone.
#[derive(Clone)]
pub struct Denials {
    db: Db,
    /// The first of each kind, and how many followed.
    counts: Arc<Mutex<HashMap<Kind, (Denial, u64)>>>,
}

impl Denials {
    /// Over that database.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db, counts: Arc::default() }
    }

    /// Record a denial, in a transaction of its own, or count it. It stands also when it cannot be recorded.
    pub async fn record(&self, denial: Denial) {
        if denial.caller.is_some() || self.is_first(&denial) {
            self.append(denial, None).await;
        }
    }

    fn is_first(&self, denial: &Denial) -> bool {
        let kind = Kind::Of {
            network: denial.address.map(network),
            method: denial.method.clone(),
            route: denial.route.clone(),
            code: denial.code,
            reason: denial.reason,
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = if counts.len() < KINDS_MAX || counts.contains_key(&kind) { kind } else { Kind::Other };
        if let Some((_, more)) = counts.get_mut(&kind) {
            *more = more.saturating_add(1);
            return false;
        }
        if counts.is_empty() {
            let this = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(WINDOW).await;
                this.flush().await;
            });
        }
        counts.insert(kind, (denial.clone(), 0));
        true
    }

    /// Record what was counted, and begin anew.
    pub async fn flush(&self) {
        let counts = std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner));
        for (kind, (mut denial, more)) in counts.into_iter().filter(|(_, (_, more))| *more > 0) {
            if kind == Kind::Other {
                denial = Denial { address: None, route: "(several)".to_owned(), reason: None, ..denial };
            }
            self.append(denial, Some(more)).await;
        }
    }

    async fn append(&self, denial: Denial, more: Option<u64>) {
        let request_id = denial.request_id.clone();
        let unknown = || {
            let actor = Actor {
                name: "unknown".to_owned(),
                authentication: None,
                address: denial.address.map(|address| address.to_string()),
                // The summary is of many requests.
                request_id: more.is_none().then(|| denial.request_id.clone()),
                trace: None,
            };
            (None, actor)
        };
        let (organization, actor) = denial.caller.clone().unwrap_or_else(unknown);
        let organization = organization.unwrap_or(OrganizationId::PLATFORM);
        let mut detail = json!({ "code": denial.code });
        if let Some(reason) = denial.reason {
            detail["reason"] = json!(reason.as_str());
        }
        if let Some(more) = more {
            detail["repetitions"] = json!(more);
        }
        let recorded = self
            .db
            .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                Box::pin(async move {
                    let mut record = Record::new(organization, "access.denied", Action::Execute, &actor);
                    record.outcome = Outcome::Denied;
                    record.resource = Some(&denial.route);
                    record.detail = Some(detail);
                    audit::append(connection, record).await
                })
            })
            .await;
        if let Err(error) = recorded {
            tracing::warn!(error = ?error, request.id = %request_id, "a denial could not be recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_are_one_and_mapped_ones_are_ipv4() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
