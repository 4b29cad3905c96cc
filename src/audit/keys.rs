//! The signing key in its file, and the chain of public keys that a verifier trusts.
//!
//! The private key is in no table and in no bucket: who writes the database cannot sign. A key is made once, at the first
//! start of the first sealer; where the log has a key already, a missing file is a fault that a person must mend, never a
//! reason to make another.

use super::merkle::Hash;
use super::note::{KeyStatement, Note, PublicKey, origin};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use uuid::Uuid;

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----\n";
const END: &str = "-----END PRIVATE KEY-----\n";

/// What is wrong with a key's file. Never quotes it.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("the audit signing key {} cannot be used", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} is not an Ed25519 key in PKCS#8 (PEM)", .0.display())]
    NoKey(PathBuf),
    /// Others may read it.
    #[error("others may read {}: chmod 600", .0.display())]
    Open(PathBuf),
    /// The operating system gave no random numbers.
    #[error("no key could be made")]
    NotMade,
}

/// A private key. It has no `Debug`.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl SigningKey {
    /// The key of a file; none if there is no such file.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn load(path: &Path) -> Result<Option<Self>, KeyFileError> {
        use std::os::unix::fs::MetadataExt as _;
        let io = |source| KeyFileError::Io { path: path.to_owned(), source };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        if fs::metadata(path).map_err(io)?.mode() & 0o077 != 0 {
            return Err(KeyFileError::Open(path.to_owned()));
        }
        Self::from_pem(&text).map(Some).ok_or_else(|| KeyFileError::NoKey(path.to_owned()))
    }

    fn from_pem(text: &str) -> Option<Self> {
        let body: String = text.strip_prefix(BEGIN)?.split(END).next()?.split_whitespace().collect();
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&BASE64.decode(body).ok()?).ok()?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        Some(Self { pair, public })
    }

    /// A new key in a new file of mode 0600, durable when this returns; the directory is made if it is missing.
    ///
    /// # Errors
    /// [`KeyFileError`], also if the file is there already.
    pub fn create(path: &Path) -> Result<Self, KeyFileError> {
        let io = |source| KeyFileError::Io { path: path.to_owned(), source };
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyFileError::NotMade)?;
        let encoded = BASE64.encode(pair.to_pkcs8v1().map_err(|_| KeyFileError::NotMade)?.as_ref());
        let text = format!("{BEGIN}{encoded}\n{END}");
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(io)?;
        // Beside it first, so that a crash leaves no half a key under the name.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.new", std::process::id()));
        let beside = PathBuf::from(beside);
        let written = (|| {
            let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            // Unlike a rename, a link does not replace what is there.
            fs::hard_link(&beside, path)
        })();
        let _ = fs::remove_file(&beside);
        written.and_then(|()| fs::File::open(directory)?.sync_all()).map_err(io)?;
        Self::from_pem(&text).ok_or(KeyFileError::NotMade)
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Its public half under the name of a log.
    #[must_use]
    pub fn key(&self, log: Uuid) -> PublicKey {
        PublicKey { name: origin(log), bytes: self.public }
    }

    /// The text with our signature; of several signers the lines follow each other.
    #[must_use]
    pub fn sign(&self, log: Uuid, text: &str) -> String {
        format!("{text}\n{}", self.signature_line(log, text))
    }

    /// Our line under a text.
    #[must_use]
    pub fn signature_line(&self, log: Uuid, text: &str) -> String {
        Note::signature_line(&self.key(log), self.pair.sign(text.as_bytes()).as_ref())
    }
}

/// Where the next key waits while a rotation is under way: `<file>.next`.
#[must_use]
pub fn next_file(path: &Path) -> PathBuf {
    let mut next = path.as_os_str().to_owned();
    next.push(".next");
    PathBuf::from(next)
}

/// The key that the log's last statement names: in its file, or in that of a rotation that was interrupted, which is then
/// finished. None if neither file holds it.
///
/// # Errors
/// [`KeyFileError`].
pub fn load_current(path: &Path, public: &[u8; 32]) -> Result<Option<SigningKey>, KeyFileError> {
    if let Some(key) = SigningKey::load(path)?.filter(|key| key.public == *public) {
        return Ok(Some(key));
    }
    let next = next_file(path);
    let Some(key) = SigningKey::load(&next)?.filter(|key| key.public == *public) else { return Ok(None) };
    fs::rename(&next, path).map_err(|source| KeyFileError::Io { path: path.to_owned(), source })?;
    Ok(Some(key))
}

/// The keys of a log, as far as their chain holds.
#[derive(Debug, Clone, Default)]
pub struct KeyRing {
    keys: Vec<KeyStatement>,
    /// [`Note::hash`] of the last statement.
    last: Option<Hash>,
    /// A key that the verifier knew beforehand is among them.
    pub is_anchored: bool,
}

impl KeyRing {
    /// Follow the statements from the first on. Each must be signed by its own key and by the one before; what comes behind
    /// the first that is not, is not trusted. Answers the faults, too.
    #[must_use]
    pub fn follow(log: Uuid, statements: &[String], anchors: &[PublicKey]) -> (Self, Vec<String>) {
        let (mut ring, mut faults) = (Self::default(), Vec::new());
        for (index, text) in statements.iter().enumerate() {
            match ring.check(log, text) {
                Ok(statement) => {
                    ring.last = Some(Note::hash(text));
                    ring.keys.push(statement);
                }
                Err(what) => {
                    faults.push(format!("key {}: {what}", index + 1));
                    break;
                }
            }
        }
        let of_this_log: Vec<&PublicKey> = anchors.iter().filter(|key| key.name == origin(log)).collect();
        ring.is_anchored = !of_this_log.is_empty();
        if of_this_log.len() < anchors.len() {
            faults.push("a trusted key is one of another log".to_owned());
        }
        for anchor in of_this_log {
            if !ring.keys.iter().any(|statement| statement.key() == *anchor) {
                faults.push(format!("the trusted key {} is not among the keys of the log", anchor.id()));
                // Whoever can replace all keys could sign anything with them.
                ring.keys.clear();
            }
        }
        (ring, faults)
    }

    fn check(&self, log: Uuid, text: &str) -> Result<KeyStatement, &'static str> {
        let note = Note::parse(text).ok_or("not a signed note")?;
        let statement = KeyStatement::parse(&note.text).ok_or("not a statement of a key")?;
        let before = self.keys.last();
        if statement.origin != origin(log) {
            return Err("of another log");
        }
        if statement.ordinal != before.map_or(1, |before| before.ordinal + 1) || statement.previous != self.last {
            return Err("does not follow the one before");
        }
        if before.is_some_and(|before| statement.from < before.from) {
            return Err("begins before the one before");
        }
        if !note.is_signed_by(&statement.key()) || before.is_some_and(|before| !note.is_signed_by(&before.key())) {
            return Err("not signed by itself and by the key before it");
        }
        Ok(statement)
    }

    /// The key that signs that checkpoint.
    #[must_use]
    pub fn key_of(&self, checkpoint: i64) -> Option<PublicKey> {
        self.keys.iter().rev().find(|statement| statement.from <= checkpoint).map(KeyStatement::key)
    }

    /// The newest statement.
    #[must_use]
    pub fn newest(&self) -> Option<&KeyStatement> {
        self.keys.last()
    }

    /// [`Note::hash`] of the newest statement.
    #[must_use]
    pub fn newest_hash(&self) -> Option<Hash> {
        self.last
    }

    /// All keys, oldest first.
    #[must_use]
    pub fn keys(&self) -> Vec<PublicKey> {
        self.keys.iter().map(KeyStatement::key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("chartgate-keys-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_key_is_made_once_and_only_its_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = directory("once");
        let file = directory.join("deep/key.pem");
        assert!(SigningKey::load(&file).unwrap().is_none());
        let key = SigningKey::create(&file).unwrap();
        assert!(matches!(SigningKey::create(&file), Err(KeyFileError::Io { .. })), "never replaced");
        assert_eq!(SigningKey::load(&file).unwrap().unwrap().public(), key.public());
        assert_eq!(fs::read_dir(directory.join("deep")).unwrap().count(), 1);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(SigningKey::load(&file), Err(KeyFileError::Open(_))));
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(SigningKey::load(&file), Err(KeyFileError::NoKey(_))));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn keys_are_trusted_as_far_as_each_was_signed_by_the_one_before() {
        let directory = directory("chain");
        let log = Uuid::from_u128(7);
        let keys: Vec<SigningKey> =
            (0..3).map(|n| SigningKey::create(&directory.join(n.to_string())).unwrap()).collect();
        let mut statements: Vec<String> = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let number = i64::try_from(index).unwrap();
            let previous = statements.last().map(|text| Note::hash(text));
            let text =
                KeyStatement::new(log, number + 1, key.public(), 1 + number * 10, previous, OffsetDateTime::UNIX_EPOCH)
                    .to_text();
            let mut note = key.sign(log, &text);
            if let Some(before) = index.checked_sub(1) {
                note.push_str(&keys[before].signature_line(log, &text));
            }
            statements.push(note);
        }
        let (ring, faults) = KeyRing::follow(log, &statements, &[keys[0].key(log)]);
        assert!(faults.is_empty() && ring.is_anchored, "{faults:?}");
        for (checkpoint, key) in [(1, 0), (10, 0), (11, 1), (20, 1), (21, 2), (500, 2)] {
            assert_eq!(ring.key_of(checkpoint), Some(keys[key].key(log)), "{checkpoint}");
        }
        // Without the old key's signature, the new one is nobody's.
        let mut forged = statements.clone();
        let last = forged[2].rfind("— ").unwrap();
        forged[2].truncate(last);
        let (ring, faults) = KeyRing::follow(log, &forged, &[]);
        assert_eq!((ring.keys().len(), faults.len(), ring.is_anchored), (2, 1, false));
        // All keys replaced: nothing is trusted by somebody who knew one of them.
        let stranger = SigningKey::create(&directory.join("stranger")).unwrap();
        let (ring, faults) = KeyRing::follow(log, &statements, &[stranger.key(log)]);
        assert_eq!((ring.keys().len(), faults.len()), (0, 1));
        assert!(!KeyRing::follow(Uuid::from_u128(8), &statements, &[]).1.is_empty(), "another log's keys");
        fs::remove_dir_all(directory).unwrap();
    }
}
