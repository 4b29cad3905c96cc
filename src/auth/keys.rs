//! API keys: `cgk_<id>_<secret>`.
//!
//! The id finds the row; the secret is 256 random bits of which only the SHA-256 is stored (a high-entropy secret needs no
//! slow hash) and compared in constant time.

use super::{AuthError, CACHE_TIME, Caller, Refusal, Role, store};
use crate::db::{Db, DbError, Scope};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

/// Every key begins so.
pub const PREFIX: &str = "cgk_";
/// Looked-up keys in memory, at most, and ids that nobody has, at most; then that half of the cache starts anew.
const CACHE_MAX: usize = 10_000;

/// Ids that are not known to exist and are looked up at once: of the pool that all requests share, these connections.
const STRANGERS_MAX: usize = 4;

/// A key that was just made: shown once. Has no `Debug`.
pub struct NewKey {
    /// Public part.
    pub id: String,
    /// The whole key.
    pub key: String,
    /// What is stored.
    pub secret_sha256: [u8; 32],
}

impl NewKey {
    /// 256 fresh bits from the operating system.
    ///
    /// # Panics
    /// If the operating system has no random numbers.
    #[must_use]
    pub fn generate() -> Self {
        let mut id = [0u8; 8];
        let mut secret = [0u8; 32];
        rand::fill(&mut id);
        rand::fill(&mut secret);
        let (id, secret) = (hex::encode(id), hex::encode(secret));
        let key = format!("{PREFIX}{id}_{secret}");
        Self { secret_sha256: Sha256::digest(secret.as_bytes()).into(), id, key }
    }
}

/// Split a presented key into id and secret; `None` if it does not look like one.
fn split(key: &str) -> Option<(&str, &str)> {
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('_')?;
    let hexadecimal = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
    };
    (hexadecimal(id, 16) && hexadecimal(secret, 64)).then_some((id, secret))
}

/// Keys that exist apart from ids that nobody has: a flood of made-up ids must not push the real ones out.
#[derive(Default)]
struct Cache {
    known: HashMap<String, (Instant, Arc<store::KeyRow>)>,
    unknown: HashMap<String, Instant>,
}

/// What the cache says of an id.
enum Cached {
    Known(Arc<store::KeyRow>),
    Unknown,
}

impl Cache {
    fn get(&self, id: &str) -> Option<Cached> {
        if let Some((at, row)) = self.known.get(id) {
            return (at.elapsed() < CACHE_TIME).then(|| Cached::Known(Arc::clone(row)));
        }
        self.unknown.get(id).filter(|at| at.elapsed() < CACHE_TIME).map(|_| Cached::Unknown)
    }

    /// The same row as it is now, if it is still that.
    fn replace(&mut self, row: &Arc<store::KeyRow>, now: Arc<store::KeyRow>) {
        if let Some((_, cached)) = self.known.get_mut(&row.id)
            && Arc::ptr_eq(cached, row)
        {
            *cached = now;
        }
    }

    fn put(&mut self, id: String, row: Option<Arc<store::KeyRow>>, at: Instant) {
        if let Some(row) = row {
            if self.known.len() >= CACHE_MAX {
                self.known.clear();
            }
            self.unknown.remove(&id);
            self.known.insert(id, (at, row));
        } else {
            if self.unknown.len() >= CACHE_MAX {
                self.unknown.clear();
            }
            self.known.remove(&id);
            self.unknown.insert(id, at);
        }
    }
}

/// Looks keys up, with a short-lived cache; cheap to clone.
#[derive(Clone)]
pub struct Keys {
    db: Db,
    cache: Arc<Mutex<Cache>>,
    strangers: Arc<Semaphore>,
}

impl Keys {
    /// Over that database.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db, cache: Arc::default(), strangers: Arc::new(Semaphore::new(STRANGERS_MAX)) }
    }

    /// The caller of a presented key.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn authenticate(&self, key: &str) -> Result<Caller, AuthError> {
        let (id, secret) = split(key).ok_or(Refusal::Malformed)?;
        let row = self.look_up(id).await?;
        let digest: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        // The same work for an unknown id.
        let stored = row.as_ref().map_or(&[0u8; 32][..], |row| &row.secret_sha256);
        let matches = bool::from(digest[..].ct_eq(stored));
        let row = row.filter(|_| matches).ok_or(Refusal::KeyUnknown)?;
        if !row.is_valid {
            return Err(Refusal::KeyEnded.into());
        }
        if row.use_is_due {
            self.note_use(&row).await?;
        }
        Ok(Caller {
            name: format!("key:{}", row.id),
            authentication: "api_key",
            organization: row.organization_id,
            roles: vec![Role::parse(&row.role).ok_or(Refusal::KeyUnknown)?],
            source_label: row.source.clone(),
        })
    }

    async fn note_use(&self, row: &Arc<store::KeyRow>) -> Result<(), DbError> {
        // Of the requests that come at once, one notes it; the next look at the row finds it noted.
        let noted = Arc::new(store::KeyRow { use_is_due: false, ..store::KeyRow::clone(row) });
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).replace(row, noted);
        let id = row.id.clone();
        self.db
            .unit(Scope::Global, move |connection| Box::pin(async move { store::note_use(connection, &id).await }))
            .await
    }

    async fn look_up(&self, id: &str) -> Result<Option<Arc<store::KeyRow>>, DbError> {
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(id);
        match cached {
            Some(Cached::Known(row)) => return Ok(Some(row)),
            Some(Cached::Unknown) => return Ok(None),
            None => {}
        }
        // Of ids that nobody was ever known by, a few at once: whoever makes them up leaves connections to the others.
        let is_known = self.cache.lock().unwrap_or_else(PoisonError::into_inner).known.contains_key(id);
        let _turn = if is_known { None } else { self.strangers.acquire().await.ok() };
        // Believed from before it is read: what is revoked while it is read must not be believed for longer.
        let (at, wanted) = (Instant::now(), id.to_owned());
        let row = self
            .db
            .unit(Scope::Global, move |connection| Box::pin(async move { store::find_key(connection, &wanted).await }))
            .await?;
        let row = row.map(Arc::new);
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).put(id.to_owned(), row.clone(), at);
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_splits_into_its_parts_and_others_do_not() {
        let key = NewKey::generate();
        let (id, secret) = split(&key.key).unwrap();
        assert_eq!(id, key.id);
        assert_eq!(<[u8; 32]>::from(Sha256::digest(secret.as_bytes())), key.secret_sha256);
        for bad in ["", "cgk_", "cgk_1_2", "Bearer x", "cgk_0123456789abcdef_xyz", "cgk_0123456789ABCDEF_"] {
            assert!(split(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn made_up_ids_do_not_push_known_keys_out_of_the_cache() {
        let row = |id: &str| {
            let (id, role, source) = (id.to_owned(), "sender".to_owned(), "default".to_owned());
            store::KeyRow {
                id,
                organization_id: None,
                role,
                source,
                secret_sha256: vec![0; 32],
                is_valid: true,
                use_is_due: false,
            }
        };
        let mut cache = Cache::default();
        cache.put("known".to_owned(), Some(Arc::new(row("known"))), Instant::now());
        for number in 0..(2 * CACHE_MAX) {
            cache.put(number.to_string(), None, Instant::now());
        }
        assert!(matches!(cache.get("known"), Some(Cached::Known(_))) && cache.unknown.len() <= CACHE_MAX);
        let last = (2 * CACHE_MAX - 1).to_string();
        assert!(cache.get("nobody").is_none() && matches!(cache.get(&last), Some(Cached::Unknown)));
    }
}
