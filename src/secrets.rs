//! Secrets that must be usable, not only comparable (HMAC keys of callbacks and of webhook senders): sealed with
//! AES-256-GCM under a key that stands outside the database, so that a copy of the database signs nothing.
//!
//! The key is `secrets.key` of the configuration (32 bytes in base64; several separated by commas: the first seals, all
//! open, which is how a key is replaced), else the file `{data_dir}/secrets.key`, made with mode 0600 when the first
//! secret is sealed (never when one is opened, and never where the database holds secrets that another key seals). All processes of an installation need the same key. Leaves to others: what the secrets are for.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// First byte of what is stored: the format.
const FORMAT: u8 = 1;
/// Bytes of a key's id: the start of its SHA-256.
const KEY_ID_LEN: usize = 4;
/// Bytes of a key.
const KEY_LEN: usize = 32;

/// Why a secret cannot be sealed or opened. Says nothing of the secret or the key.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// `secrets.key` or the file does not hold keys.
    #[error("{0} does not hold 32 bytes in base64")]
    BadKey(String),
    /// The key's file cannot be read or made.
    #[error("the key's file {path} cannot be used")]
    File {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It was sealed with a key that this process does not have.
    #[error("sealed with another key ({0}): all processes need the same secrets.key")]
    OtherKey(String),
    /// There is no key here, and the database holds secrets that another one seals.
    #[error("there is no key here, but stored secrets are sealed with one: bring {0} back, or set secrets.key")]
    Withheld(String),
    /// It was changed, or belongs to something else.
    #[error("the sealed secret is damaged, or belongs to something else")]
    Damaged,
}

struct Key {
    id: [u8; KEY_ID_LEN],
    key: LessSafeKey,
}

/// The keys, once they were read.
type Slot = Option<Arc<Vec<Key>>>;

/// Seals and opens. Cheap to clone; the key is read when it is first needed.
#[derive(Clone)]
pub struct Secrets {
    configured: Option<SecretString>,
    file: PathBuf,
    keys: Arc<Mutex<Slot>>,
    makes_none: Arc<AtomicBool>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(redacted)")
    }
}

fn key(text: &str) -> Option<Key> {
    let bytes = STANDARD.decode(text.trim()).ok().filter(|bytes| bytes.len() == KEY_LEN)?;
    let digest = Sha256::digest(&bytes);
    let mut id = [0; KEY_ID_LEN];
    id.copy_from_slice(&digest[..KEY_ID_LEN]);
    Some(Key { id, key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).ok()?) })
}

fn keys(text: &str, origin: &str) -> Result<Vec<Key>, SecretsError> {
    let keys: Option<Vec<Key>> = text.split(',').map(key).collect();
    keys.ok_or_else(|| SecretsError::BadKey(origin.to_owned()))
}

/// A fresh key in base64.
fn fresh_key() -> String {
    let mut bytes = [0u8; KEY_LEN];
    rand::fill(&mut bytes);
    STANDARD.encode(bytes)
}

impl Secrets {
    /// Does `secrets.key` hold keys? What the configuration checks before anything is started.
    ///
    /// # Errors
    /// [`SecretsError::BadKey`].
    pub fn check(text: &str) -> Result<(), SecretsError> {
        keys(text, "secrets.key").map(drop)
    }

    /// With the configured key, if there is one, else that of `{data_dir}/secrets.key`. Touches nothing yet.
    #[must_use]
    pub fn new(configured: Option<SecretString>, data_dir: &Path) -> Self {
        Self { configured, file: data_dir.join("secrets.key"), keys: Arc::default(), makes_none: Arc::default() }
    }

    /// Is the key one of the configuration? Else it stands in a file of this host.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.configured.is_some()
    }

    /// From now on make no file: the database holds secrets that another key seals, which was lost or is still to be brought
    /// (after a restore, on a further host). One of our own beside it would have to be kept with it for good.
    pub fn make_none(&self) {
        self.makes_none.store(true, Ordering::Relaxed);
    }

    /// The keys that there are; none where nothing was configured and no file was made yet.
    fn keys(&self) -> Result<Option<Arc<Vec<Key>>>, SecretsError> {
        self.read_into(&mut self.slot())
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_into(&self, slot: &mut Slot) -> Result<Slot, SecretsError> {
        if let Some(keys) = &*slot {
            return Ok(Some(Arc::clone(keys)));
        }
        let read = match &self.configured {
            Some(text) => keys(text.expose_secret(), "secrets.key")?,
            None => match fs::read_to_string(&self.file) {
                Ok(text) => keys(&text, &self.file.display().to_string())?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(SecretsError::File { path: self.file.display().to_string(), source }),
            },
        };
        Ok(Some(Arc::clone(slot.insert(Arc::new(read)))))
    }

    /// The keys to seal with: the file is made here, and only here. A process that is to open what another one sealed finds
    /// out that it has no key, instead of making one of its own.
    fn keys_or_new(&self) -> Result<Arc<Vec<Key>>, SecretsError> {
        let mut slot = self.slot();
        if let Some(keys) = self.read_into(&mut slot)? {
            return Ok(keys);
        }
        if self.makes_none.load(Ordering::Relaxed) {
            return Err(SecretsError::Withheld(self.file.display().to_string()));
        }
        self.make_file()?;
        self.read_into(&mut slot)?.ok_or_else(|| SecretsError::BadKey(self.file.display().to_string()))
    }

    fn make_file(&self) -> Result<(), SecretsError> {
        let fail = |source| SecretsError::File { path: self.file.display().to_string(), source };
        if let Some(directory) = self.file.parent() {
            fs::create_dir_all(directory).map_err(fail)?;
        }
        // Whole or not at all, and the first one wins: a second process that makes one at the same time reads this one. Nobody
        // else writes into the draft: process ids are the same in many containers.
        let draft = self.file.with_extension(format!("{:032x}.new", rand::random::<u128>()));
        let mut open = fs::OpenOptions::new();
        let written = open.write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut file| {
            file.write_all(fresh_key().as_bytes())?;
            file.sync_all()
        });
        let linked = written.and_then(|()| match fs::hard_link(&draft, &self.file) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
        let _ = fs::remove_file(&draft);
        linked.map_err(fail)?;
        // What is sealed with it must not outlive it: the name is on the disk before the key is used.
        let directory = self.file.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all()).map_err(fail)
    }

    /// Has this process the key with that id (eight hexadecimal digits, as [`SecretsError::OtherKey`] names it)?
    ///
    /// # Errors
    /// [`SecretsError::BadKey`], [`SecretsError::File`].
    pub fn has_key(&self, id: &str) -> Result<bool, SecretsError> {
        Ok(self.keys()?.is_some_and(|keys| keys.iter().any(|key| hex::encode(key.id) == id)))
    }

    /// Seal a secret for one purpose: `context` (such as `callback:org_…:cb_…`) is needed again to open it, so that what is
    /// stored for one thing opens for no other. The result: format, key id, nonce, ciphertext, tag.
    ///
    /// # Errors
    /// [`SecretsError::BadKey`], [`SecretsError::File`], [`SecretsError::Withheld`].
    pub fn seal(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>, SecretsError> {
        let keys = self.keys_or_new()?;
        let first = keys.first().ok_or_else(|| SecretsError::BadKey("secrets.key".to_owned()))?;
        // Random nonces of 96 bits: safe for far more secrets than an installation makes (NIST SP 800-38D, 8.3).
        let mut nonce = [0u8; NONCE_LEN];
        rand::fill(&mut nonce);
        let mut text = secret.to_vec();
        first
            .key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context.as_bytes()), &mut text)
            .map_err(|_| SecretsError::Damaged)?;
        let mut sealed = vec![FORMAT];
        sealed.extend_from_slice(&first.id);
        sealed.extend_from_slice(&nonce);
        sealed.append(&mut text);
        Ok(sealed)
    }

    /// Open what [`Secrets::seal`] made for the same context.
    ///
    /// # Errors
    /// Each of [`SecretsError`].
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<SecretSlice<u8>, SecretsError> {
        let (FORMAT, rest) = sealed.split_first().map(|(first, rest)| (*first, rest)).unwrap_or_default() else {
            return Err(SecretsError::Damaged);
        };
        if rest.len() < KEY_ID_LEN + NONCE_LEN {
            return Err(SecretsError::Damaged);
        }
        let (id, rest) = rest.split_at(KEY_ID_LEN);
        let (nonce, text) = rest.split_at(NONCE_LEN);
        let keys = self.keys()?.unwrap_or_default();
        let key = keys.iter().find(|key| key.id == id).ok_or_else(|| SecretsError::OtherKey(hex::encode(id)))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SecretsError::Damaged)?;
        let mut text = text.to_vec();
        let plain = key
            .key
            .open_in_place(nonce, Aad::from(context.as_bytes()), &mut text)
            .map_err(|_| SecretsError::Damaged)?
            .to_vec();
        Ok(SecretSlice::from(plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(text: &str) -> Secrets {
        Secrets::new(Some(SecretString::from(text.to_owned())), Path::new("/nonexistent"))
    }

    #[test]
    fn what_was_sealed_opens_for_the_same_thing_only() {
        let secrets = configured(&fresh_key());
        let sealed = secrets.seal("callback:1", b"hunter2").unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(secrets.open("callback:1", &sealed).unwrap().expose_secret(), b"hunter2");
        assert!(matches!(secrets.open("callback:2", &sealed), Err(SecretsError::Damaged)));
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(secrets.open("callback:1", &changed).is_err(), "byte {index}");
            assert!(secrets.open("callback:1", &sealed[..index]).is_err(), "{index} bytes");
        }
        assert_ne!(sealed, secrets.seal("callback:1", b"hunter2").unwrap());
    }

    #[test]
    fn a_key_is_replaced_by_putting_the_new_one_first() {
        let (old, new) = (fresh_key(), fresh_key());
        let sealed = configured(&old).seal("x", b"s").unwrap();
        let both = configured(&format!("{new},{old}"));
        assert_eq!(both.open("x", &sealed).unwrap().expose_secret(), b"s");
        let again = both.seal("x", b"s").unwrap();
        assert!(matches!(configured(&old).open("x", &again), Err(SecretsError::OtherKey(_))));
        assert_eq!(configured(&new).open("x", &again).unwrap().expose_secret(), b"s");
    }

    #[test]
    fn the_file_is_made_once_and_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = std::env::temp_dir().join(format!("chartgate-secrets-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let sealed = Secrets::new(None, &directory).seal("x", b"s").unwrap();
        assert_eq!(fs::metadata(directory.join("secrets.key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Secrets::new(None, &directory).open("x", &sealed).unwrap().expose_secret(), b"s");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn many_that_make_the_file_at_once_seal_with_the_one_that_stays() {
        let directory = std::env::temp_dir().join(format!("chartgate-secrets-race-{}", std::process::id()));
        for _ in 0..50 {
            let _ = fs::remove_dir_all(&directory);
            let start = std::sync::Barrier::new(8);
            // Each is a process of its own, as far as this file goes.
            let sealed: Vec<Vec<u8>> = std::thread::scope(|scope| {
                let seal = || {
                    let secrets = Secrets::new(None, &directory);
                    start.wait();
                    secrets.seal("x", b"s").unwrap()
                };
                let all: Vec<_> = (0..8).map(|_| scope.spawn(seal)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let later = Secrets::new(None, &directory);
            for sealed in &sealed {
                assert_eq!(later.open("x", sealed).unwrap().expose_secret(), b"s");
            }
            assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "no draft stays");
        }
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_process_without_the_key_makes_none_of_its_own_when_it_opens() {
        let directory = std::env::temp_dir().join(format!("chartgate-no-key-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let text = fresh_key();
        let sealed = configured(&text).seal("x", b"s").unwrap();
        let without = Secrets::new(None, &directory);
        let Err(SecretsError::OtherKey(id)) = without.open("x", &sealed) else { panic!("it cannot be opened") };
        assert!(!directory.exists(), "no file was made");
        assert!(!without.has_key(&id).unwrap() && configured(&text).has_key(&id).unwrap());
        // Once the key is brought, the same process opens it.
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("secrets.key"), &text).unwrap();
        assert_eq!(without.open("x", &sealed).unwrap().expose_secret(), b"s");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn no_key_prints() {
        let text = fresh_key();
        let secrets = configured(&text);
        secrets.seal("x", b"s").unwrap();
        assert!(!format!("{secrets:?}").contains(&text));
        assert!(matches!(configured("c2hvcnQ=").seal("x", b"s"), Err(SecretsError::BadKey(_))));
    }
}
