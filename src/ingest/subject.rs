//! Whom a resource is about, as far as the payload itself says it: MRN rules and references. Pure; what the database
//! knows comes in `linking`.

mod directory;
mod mrn;
mod reference;
#[cfg(test)]
mod tests;

pub use self::directory::Directory;
pub(super) use self::mrn::encode;
pub use self::mrn::{Mrn, MrnRules, folded, normal, patient_mrns, temporary_key, temporary_numbers};
pub use self::reference::{Reference, patient_links, references_to};
use super::demographics::Demographics;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// Whom a resource is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Nobody: the resource has no patient as its subject.
    Nobody,
    /// The Patient resource of this entry of the same Bundle.
    Entry(u32),
    /// Somebody outside the Bundle.
    Outside(Outside),
}

/// A subject outside the Bundle, or one of which several things are said, by all that the reference says.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Outside {
    /// MRNs, from `Reference.identifier`, a conditional reference or a contained Patient.
    pub mrns: BTreeSet<Mrn>,
    /// Temporary numbers of the same source.
    pub temporary: BTreeSet<Mrn>,
    /// The reference itself, and those to entries of the Bundle that have one of the numbers.
    pub references: BTreeSet<Reference>,
    /// What a contained Patient says of the person: who has the number must not contradict it.
    pub says: Option<Box<Demographics>>,
    /// It is a Patient of the Bundle that was rejected: only what is accepted later can say who that is.
    pub is_rejected: bool,
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outside(redacted)")
    }
}

/// The prefix of the key of a subject that was rejected.
pub const REJECTED: &str = "rej:";

impl Outside {
    /// The keys by which the patient may be found, the MRNs first, since they are known across sources. What a contained
    /// Patient says is the last one, a hash that finds nobody: who says something else asks another question.
    #[must_use]
    pub fn keys(&self, source: &str) -> Vec<String> {
        let temporary = self.temporary.iter().map(|mrn| temporary_key(source, mrn));
        let references = self.references.iter().map(|reference| reference.key(source));
        let says = self.says.iter().map(|says| {
            let hash = Sha256::digest(says.identifying().to_string());
            hash.iter().fold("says:".to_owned(), |key, byte| key + &format!("{byte:02x}"))
        });
        let mut keys: Vec<String> =
            self.mrns.iter().map(Mrn::key).chain(references).chain(temporary).chain(says).collect();
        if self.is_rejected
            && let Some(first) = keys.first()
        {
            keys.insert(0, format!("{REJECTED}{first}"));
        }
        keys
    }
}
