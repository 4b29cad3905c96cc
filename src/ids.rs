//! Identifiers: one newtype a thing, written as TypeIDs (`job_01h455vb4pex5vsknk084sn02q`).
//!
//! Stored as `UUIDv7` (RFC 9562), so that ids sort by time of creation; shown with a type prefix and 26 characters of
//! Crockford base32 (TypeID specification 0.3), so that a job's id cannot be taken for an organization's.
//! Parsing is strict: lower case, exact length, known prefix, no overflow.

use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A text that is not an id of the expected type. Says nothing about the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid id: expected `{prefix}_` and 26 characters")]
pub struct InvalidId {
    /// The prefix that was expected.
    pub prefix: &'static str,
}

fn encode(uuid: Uuid) -> String {
    let mut value = uuid.as_u128();
    let mut text = [0u8; 26];
    for slot in text.iter_mut().rev() {
        *slot = ALPHABET[(value & 31) as usize];
        value >>= 5;
    }
    text.iter().map(|byte| char::from(*byte)).collect()
}

fn decode(text: &str) -> Option<Uuid> {
    let bytes = text.as_bytes();
    // 26 × 5 = 130 bits: the first character may only use three of its five.
    if bytes.len() != 26 || bytes[0] > b'7' {
        return None;
    }
    let mut value: u128 = 0;
    for byte in bytes {
        let digit = ALPHABET.iter().position(|candidate| candidate == byte)?;
        value = (value << 5) | digit as u128;
    }
    Some(Uuid::from_u128(value))
}

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The prefix before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh id (UUIDv7 of this instant).
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}_{}", $prefix, encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or(InvalidId { prefix: $prefix })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

typed_id!(
    /// An organization (tenant).
    OrganizationId,
    "org"
);
typed_id!(
    /// A job: one execution of a workflow for one intake.
    JobId,
    "job"
);
typed_id!(
    /// A presigned upload.
    UploadId,
    "upload"
);
typed_id!(
    /// A clinical event: one resource as received.
    EventId,
    "evt"
);
typed_id!(
    /// A patient.
    PatientId,
    "pat"
);
typed_id!(
    /// A finding.
    FindingId,
    "fnd"
);
typed_id!(
    /// A bulk act of an administrator.
    OperationId,
    "op"
);
typed_id!(
    /// A worker process; fresh at every start.
    WorkerId,
    "wrk"
);
typed_id!(
    /// A link decision.
    LinkId,
    "lnk"
);
typed_id!(
    /// What a Patient resource says of a person.
    StatementId,
    "stm"
);
typed_id!(
    /// A question for a person: whose is this?
    ReviewId,
    "rev"
);
typed_id!(
    /// What a person decided about links.
    DecisionId,
    "dcn"
);
typed_id!(
    /// A request, when the caller gave no id of its own.
    RequestId,
    "req"
);

typed_id!(
    /// A registered callback.
    CallbackId,
    "cb"
);
typed_id!(
    /// A message of a callback; the same over all attempts.
    MessageId,
    "msg"
);
typed_id!(
    /// One attempt to deliver a message.
    DeliveryId,
    "dlv"
);
typed_id!(
    /// An erasure: outlives what it erased.
    ErasureId,
    "ers"
);
typed_id!(
    /// A legal hold.
    HoldId,
    "hold"
);

impl OrganizationId {
    /// Audit records of acts that belong to no organization (creating one, a platform key) stand under this id.
    pub const PLATFORM: Self = Self(Uuid::nil());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_typeid_specification_example_round_trips() {
        let uuid: Uuid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(JobId(uuid).to_string(), "job_01h455vb4pex5vsknk084sn02q");
        assert_eq!("job_01h455vb4pex5vsknk084sn02q".parse::<JobId>().unwrap().0, uuid);
    }

    #[test]
    fn malformed_and_foreign_ids_are_refused() {
        for text in [
            "",
            "job_",
            "org_01h455vb4pex5vsknk084sn02q",
            "job_81h455vb4pex5vsknk084sn02q",
            "job_01H455VB4PEX5VSKNK084SN02Q",
            "job_01h455vb4pex5vsknk084sn02",
        ] {
            assert!(text.parse::<JobId>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_uuid_round_trips(value: u128) {
            let id = EventId(Uuid::from_u128(value));
            prop_assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
        }
    }
}
