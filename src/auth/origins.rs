//! Which web origins may call, and for whom: those of the configuration for every organization, and each
//! organization's own. Kept in memory for [`CACHE_TIME`], so that no request and no preflight costs a query.

use super::{CACHE_TIME, store};
use crate::config::origins::canonical;
use crate::db::{Db, DbError, Scope};
use crate::ids::OrganizationId;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A database that does not answer so soon must not hold browsers up: the old lists stay good.
const LOAD_MAX: Duration = Duration::from_secs(1);

/// Origin → the organizations that allow it.
type Lists = HashMap<String, HashSet<OrganizationId>>;
/// When they were read.
type Cached = Option<(Option<Instant>, Arc<Lists>)>;

/// Looks origins up; cheap to clone.
#[derive(Clone)]
pub struct Origins {
    db: Db,
    everywhere: Arc<BTreeSet<String>>,
    lists: Arc<Mutex<Cached>>,
}

impl Origins {
    /// Over that database, with the origins (in canonical form) that are allowed for every organization.
    #[must_use]
    pub fn new(db: Db, everywhere: &[String]) -> Self {
        Self { db, everywhere: Arc::new(everywhere.iter().cloned().collect()), lists: Arc::default() }
    }

    /// May pages of this origin call for somebody? For preflights and for callers who are not known.
    pub async fn is_allowed_somewhere(&self, origin: &str) -> bool {
        let Some(origin) = canonical(origin) else { return false };
        self.everywhere.contains(&origin) || self.lists().await.contains_key(&origin)
    }

    /// May pages of this origin call for this organization? The platform role (`None`) belongs to none: for it only the
    /// configuration counts.
    pub async fn is_allowed_for(&self, origin: &str, organization: Option<OrganizationId>) -> bool {
        let Some(origin) = canonical(origin) else { return false };
        if self.everywhere.contains(&origin) {
            return true;
        }
        let Some(organization) = organization else { return false };
        self.lists().await.get(&origin).is_some_and(|organizations| organizations.contains(&organization))
    }

    /// An organization's list changed: this process reads all anew at the next question, others within [`CACHE_TIME`].
    pub async fn forget(&self) {
        // Old, not gone: while the database is away, they stay.
        if let Some((at, _)) = self.lists.lock().await.as_mut() {
            *at = None;
        }
    }

    /// The lists, read by one request at a time while the others wait for it.
    async fn lists(&self) -> Arc<Lists> {
        let mut cached = self.lists.lock().await;
        if let Some((at, lists)) = cached.as_ref()
            && at.is_some_and(|at| at.elapsed() < CACHE_TIME)
        {
            return Arc::clone(lists);
        }
        let load = self.db.unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move { store::list_origins(connection).await })
        });
        let lists = match tokio::time::timeout(LOAD_MAX, load).await {
            Ok(Ok(rows)) => {
                let mut lists = Lists::new();
                for (organization, origin) in rows {
                    lists.entry(origin).or_default().insert(organization);
                }
                Arc::new(lists)
            }
            failed => {
                let reason =
                    failed.map_or_else(|_| "no answer in time".to_owned(), |result| format!("{:?}", result.err()));
                tracing::warn!(reason, "the organizations' origins cannot be read; the old ones stay");
                cached.as_ref().map(|(_, lists)| Arc::clone(lists)).unwrap_or_default()
            }
        };
        *cached = Some((Some(Instant::now()), Arc::clone(&lists)));
        lists
    }
}
