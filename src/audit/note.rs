//! Signed notes and checkpoints, as other transparency logs write them (C2SP signed-note and tlog-checkpoint), so that their
//! tools can read and verify ours. Pure.

use super::merkle::Hash;
use super::record::{Position, instant};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use time::OffsetDateTime;
use uuid::Uuid;

/// The signature type of Ed25519 in a signed note.
const ED25519_TYPE: u8 = 1;

/// Name of a log, in the first line of its checkpoints and in the names of its keys.
#[must_use]
pub fn origin(log: Uuid) -> String {
    format!("chartgate-audit/{log}")
}

/// A public key under the name of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// The log's origin.
    pub name: String,
    /// Ed25519.
    pub bytes: [u8; 32],
}

impl PublicKey {
    /// The first four bytes of a hash over name and key: which key a signature line means.
    #[must_use]
    pub fn hash(&self) -> [u8; 4] {
        let digest = Sha256::new()
            .chain_update(self.name.as_bytes())
            .chain_update([b'\n', ED25519_TYPE])
            .chain_update(self.bytes)
            .finalize();
        [digest[0], digest[1], digest[2], digest[3]]
    }

    /// [`PublicKey::hash`] in hexadecimal: how a key is called in messages.
    #[must_use]
    pub fn id(&self) -> String {
        hex::encode(self.hash())
    }

    /// The key in one line: `<name>+<hash>+<base64>` (C2SP signed-note, verifier keys).
    #[must_use]
    pub fn verifier(&self) -> String {
        let key = [&[ED25519_TYPE][..], &self.bytes].concat();
        format!("{}+{}+{}", self.name, self.id(), BASE64.encode(key))
    }

    /// Read [`PublicKey::verifier`].
    #[must_use]
    pub fn from_verifier(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once('+')?;
        let (id, key) = rest.split_once('+')?;
        let key = BASE64.decode(key).ok()?;
        let key = Self { name: name.to_owned(), bytes: key.strip_prefix(&[ED25519_TYPE])?.try_into().ok()? };
        (key.id() == id).then_some(key)
    }

    /// Is this the key's signature of the text?
    #[must_use]
    pub fn verifies(&self, text: &str, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.bytes).verify(text.as_bytes(), signature).is_ok()
    }
}

/// A text with signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What is signed; ends with a line feed.
    pub text: String,
    /// Key name, key hash, signature.
    pub signatures: Vec<(String, [u8; 4], Vec<u8>)>,
}

impl Note {
    /// A signature line: `— <name> <base64 of hash and signature>`.
    #[must_use]
    pub fn signature_line(key: &PublicKey, signature: &[u8]) -> String {
        format!("— {} {}\n", key.name, BASE64.encode([&key.hash()[..], signature].concat()))
    }

    /// Read a note; none if it is not one.
    #[must_use]
    pub fn parse(note: &str) -> Option<Self> {
        let (text, lines) = note.rsplit_once("\n\n")?;
        let mut signatures = Vec::new();
        for line in lines.strip_suffix('\n')?.split('\n') {
            let (name, encoded) = line.strip_prefix("— ")?.split_once(' ')?;
            let bytes = BASE64.decode(encoded).ok()?;
            let (hash, signature) = bytes.split_first_chunk::<4>()?;
            signatures.push((name.to_owned(), *hash, signature.to_vec()));
        }
        Some(Self { text: format!("{text}\n"), signatures })
    }

    /// Did this key sign it?
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        self.signatures.iter().any(|(name, hash, signature)| {
            *name == key.name && *hash == key.hash() && key.verifies(&self.text, signature)
        })
    }

    /// Hash of a whole note with its signatures, by which the next one names it.
    #[must_use]
    pub fn hash(note: &str) -> Hash {
        Sha256::digest(note.as_bytes()).into()
    }
}

/// Checkpoints that a restored database does not know, and that were given up with a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    /// The first of them.
    pub first: i64,
    /// The last of them.
    pub last: i64,
    /// [`Note::hash`] of the last.
    pub hash: Hash,
}

/// What a checkpoint states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// [`origin`] of the log.
    pub origin: String,
    /// Leaves in all.
    pub size: u64,
    /// Root of the tree.
    pub root: Hash,
    /// 1, 2, …
    pub number: i64,
    /// [`Note::hash`] of the checkpoint before; none for the first.
    pub previous: Option<Hash>,
    /// All records up to and including this position are in the tree.
    pub until: Position,
    /// When it was made, RFC 3339.
    pub time: String,
    /// Those between `previous` and this one, if there are any.
    pub abandoned: Option<Abandoned>,
}

impl Checkpoint {
    /// The text to be signed.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{}\n{}\n{}\ncheckpoint {}\nprevious {}\nuntil {} {}\ntime {}\n",
            self.origin,
            self.size,
            BASE64.encode(self.root),
            self.number,
            self.previous.map_or_else(|| "none".to_owned(), |hash| BASE64.encode(hash)),
            self.until.xid,
            self.until.id,
            self.time
        );
        if let Some(abandoned) = &self.abandoned {
            // Writing to a String does not fail.
            let _ = writeln!(text, "abandons {} {} {}", abandoned.first, abandoned.last, BASE64.encode(abandoned.hash));
        }
        text
    }

    /// Read the text of a note; none if it is not a checkpoint of ours, letter by letter.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hash = |text: &str| -> Option<Hash> { BASE64.decode(text).ok()?.try_into().ok() };
        let mut lines = text.lines();
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let number = value("checkpoint")?.parse().ok()?;
        let previous = value("previous")?;
        let until = value("until")?.split_once(' ')?;
        let time = value("time")?.to_owned();
        let abandoned = match lines.next() {
            None => None,
            Some(line) => {
                let mut words = line.strip_prefix("abandons ")?.split(' ');
                let (first, last) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                Some(Abandoned { first, last, hash: hash(words.next()?)? })
            }
        };
        let checkpoint = Self {
            origin: origin.to_owned(),
            size: size.parse().ok()?,
            root: hash(root)?,
            number,
            previous: if previous == "none" { None } else { Some(hash(previous)?) },
            until: Position { xid: until.0.parse().ok()?, id: until.1.parse().ok()? },
            time,
            abandoned,
        };
        (checkpoint.to_text() == text).then_some(checkpoint)
    }
}

/// The statement that makes a key one of the log's, from a checkpoint on; signed by the key and by the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatement {
    /// [`origin`] of the log.
    pub origin: String,
    /// 1, 2, …
    pub ordinal: i64,
    /// The key.
    pub public: [u8; 32],
    /// The first checkpoint that it signs.
    pub from: i64,
    /// [`Note::hash`] of the statement before; none for the first.
    pub previous: Option<Hash>,
    /// When, RFC 3339.
    pub time: String,
}

impl KeyStatement {
    /// Of this instant.
    #[must_use]
    pub fn new(
        log: Uuid,
        ordinal: i64,
        public: [u8; 32],
        from: i64,
        previous: Option<Hash>,
        at: OffsetDateTime,
    ) -> Self {
        Self { origin: origin(log), ordinal, public, from, previous, time: instant(at) }
    }

    /// The text to be signed.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!(
            "{}/keys\nkey {}\npublic {}\nfrom checkpoint {}\nprevious {}\ntime {}\n",
            self.origin,
            self.ordinal,
            BASE64.encode(self.public),
            self.from,
            self.previous.map_or_else(|| "none".to_owned(), |hash| BASE64.encode(hash)),
            self.time
        )
    }

    /// Read the text of a note; none if it is not a key's statement, letter by letter.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hash = |text: &str| -> Option<[u8; 32]> { BASE64.decode(text).ok()?.try_into().ok() };
        let mut lines = text.lines();
        let origin = lines.next()?.strip_suffix("/keys")?.to_owned();
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let ordinal = value("key")?.parse().ok()?;
        let public = hash(value("public")?)?;
        let from = value("from checkpoint")?.parse().ok()?;
        let previous = value("previous")?;
        let previous = if previous == "none" { None } else { Some(hash(previous)?) };
        let statement = Self { origin, ordinal, public, from, previous, time: value("time")?.to_owned() };
        (statement.to_text() == text).then_some(statement)
    }

    /// The key under its name.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        PublicKey { name: self.origin.clone(), bytes: self.public }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_key_of_the_specification_is_read_and_verifies_its_note() {
        // golang.org/x/mod/sumdb/note, documentation of the package.
        let key =
            PublicKey::from_verifier("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap();
        let note = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\n\
                    — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let note = Note::parse(note).unwrap();
        assert!(note.is_signed_by(&key));
        let changed = Note { text: note.text.replace("cryptography", "Cryptography"), ..note };
        assert!(!changed.is_signed_by(&key));
        assert_eq!(PublicKey::from_verifier(&key.verifier()), Some(key));
    }

    #[test]
    fn a_checkpoint_is_read_only_as_it_was_written() {
        let mut checkpoint = Checkpoint {
            origin: origin(Uuid::nil()),
            size: 3,
            root: [7; 32],
            number: 2,
            previous: Some([1; 32]),
            until: Position { xid: 9, id: i64::MAX },
            time: "2026-11-22T10:00:00.000000Z".to_owned(),
            abandoned: None,
        };
        for _ in 0..2 {
            let text = checkpoint.to_text();
            assert_eq!(Checkpoint::parse(&text), Some(checkpoint.clone()));
            for other in
                [text.replace("checkpoint 2", "checkpoint 02"), format!("{text}more\n"), text.replace('\n', "\r\n")]
            {
                assert_eq!(Checkpoint::parse(&other), None, "{other}");
            }
            checkpoint.abandoned = Some(Abandoned { first: 2, last: 4, hash: [2; 32] });
        }
        let statement = KeyStatement::new(Uuid::nil(), 1, [3; 32], 1, None, OffsetDateTime::UNIX_EPOCH);
        assert_eq!(KeyStatement::parse(&statement.to_text()), Some(statement));
    }
}
