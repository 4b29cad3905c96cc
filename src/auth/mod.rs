//! Who calls: API keys, roles and what each role may do.
//!
//! A key is `cgk_<id>_<secret>`: the id finds the row, the secret is 256 random bits of which only the SHA-256 is
//! stored (a high-entropy secret needs no slow hash) and compared in constant time. A revocation takes effect within
//! [`CACHE_TIME`] on every process.

pub mod origins;
pub mod store;

use crate::audit::Actor;
use crate::db::{Db, DbError, Scope};
use crate::ids::OrganizationId;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq as _;

/// How long a looked-up key is believed.
pub const CACHE_TIME: Duration = Duration::from_secs(3);
/// Keys kept in memory, at most; then the cache starts anew.
const CACHE_MAX: usize = 10_000;

/// What a caller may do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, clap::ValueEnum, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Submit; see and cancel the own organization's jobs.
    Sender,
    /// Read the organization's clinical data and jobs.
    Reader,
    /// Administer the organization's jobs and settings.
    Admin,
    /// Administer all organizations' jobs and settings; no clinical reads.
    Platform,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Sender, Self::Reader, Self::Admin, Self::Platform];

    /// The word in SQL and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Reader => "reader",
            Self::Admin => "admin",
            Self::Platform => "platform",
        }
    }

    /// The role of that word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key's id.
    pub key_id: String,
    /// `None` only for the platform role.
    pub organization: Option<OrganizationId>,
    /// What it may do.
    pub role: Role,
    /// Label of the sending system: two systems' resource ids are told apart by it.
    pub source_label: String,
}

impl Caller {
    /// This caller in audit records.
    #[must_use]
    pub fn actor(&self, address: Option<String>, request_id: Option<String>) -> Actor {
        Actor { name: format!("key:{}", self.key_id), authentication: Some("api_key".to_owned()), address, request_id }
    }
}

/// A key that was just made: shown once.
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
        let key = format!("cgk_{id}_{secret}");
        Self { secret_sha256: Sha256::digest(secret.as_bytes()).into(), id, key }
    }
}

/// Split a presented key into id and secret; `None` if it does not look like one.
fn split(key: &str) -> Option<(&str, &str)> {
    let (id, secret) = key.strip_prefix("cgk_")?.split_once('_')?;
    let hexadecimal = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
    };
    (hexadecimal(id, 16) && hexadecimal(secret, 64)).then_some((id, secret))
}

type Cached = (Instant, Option<Arc<store::KeyRow>>);

/// Looks keys up, with a short-lived cache.
#[derive(Clone)]
pub struct Authenticator {
    db: Db,
    cache: Arc<Mutex<HashMap<String, Cached>>>,
}

impl Authenticator {
    /// Over that database.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db, cache: Arc::default() }
    }

    /// The caller of a presented key, or `None`: unknown, revoked, expired and malformed are not told apart.
    ///
    /// # Errors
    /// [`DbError`] when the key cannot be looked up.
    pub async fn authenticate(&self, key: &str) -> Result<Option<Caller>, DbError> {
        let Some((id, secret)) = split(key) else { return Ok(None) };
        let row = self.look_up(id).await?;
        let digest: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        // The same work for an unknown id.
        let stored = row.as_ref().map_or(&[0u8; 32][..], |row| &row.secret_sha256);
        let matches = bool::from(digest[..].ct_eq(stored));
        Ok(row.filter(|row| matches && row.is_valid).and_then(|row| {
            Some(Caller {
                key_id: row.id.clone(),
                organization: row.organization_id,
                role: Role::parse(&row.role)?,
                source_label: row.source.clone(),
            })
        }))
    }

    async fn look_up(&self, id: &str) -> Result<Option<Arc<store::KeyRow>>, DbError> {
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if let Some((at, row)) = cached
            && at.elapsed() < CACHE_TIME
        {
            return Ok(row);
        }
        let wanted = id.to_owned();
        let row = self
            .db
            .unit(Scope::Global, move |connection| Box::pin(async move { store::find_key(connection, &wanted).await }))
            .await?;
        let row = row.map(Arc::new);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_MAX {
            cache.clear();
        }
        cache.insert(id.to_owned(), (Instant::now(), row.clone()));
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
}
