//! What a verification found, as it is answered and printed.

use super::super::source::uuid_text;
use serde::Serialize;
use uuid::Uuid;

/// What is wrong with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A record has another content than when it was sealed.
    RecordEdited,
    /// A sealed record is gone.
    RecordDeleted,
    /// A record stands where it was not when the range was sealed.
    RecordInserted,
    /// A record stands at another place than when it was sealed.
    RecordMoved,
    /// A leaf in the database is not the one that was signed.
    LeafChanged,
    /// Neither the leaves of the database nor those of the object store nor the records give the signed root.
    LeavesUnprovable,
    /// A checkpoint in the database is not one of this log, was not signed by its key, or does not follow the one before.
    CheckpointInvalid,
    /// The same in the object store.
    ObjectInvalid,
    /// The database lacks a checkpoint.
    CheckpointMissing,
    /// The database has another checkpoint than the object store.
    CheckpointDiffers,
    /// The object store lacks a checkpoint that was put there.
    ObjectMissing,
    /// The chain of keys is broken, another one than in the object store, or not the trusted one.
    Key,
}

impl FaultKind {
    /// It names the one record that is concerned.
    pub(super) fn is_of_a_record(self) -> bool {
        matches!(
            self,
            Self::RecordEdited
                | Self::RecordDeleted
                | Self::RecordInserted
                | Self::RecordMoved
                | Self::LeafChanged
                | Self::LeavesUnprovable
        )
    }
}

/// Something wrong.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// The record; of a checkpoint, the first one that it sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<i64>,
    /// The checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<i64>,
    /// In words.
    pub what: String,
    /// Place in the log.
    #[serde(skip)]
    pub(super) leaf: u64,
}

/// The newest checkpoint that holds.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct NewestCheckpoint {
    /// Its number.
    pub number: i64,
    /// Leaves in its tree.
    pub size: u64,
    /// Root of its tree, in hexadecimal.
    pub root: String,
    /// When it was made.
    pub time: String,
}

/// Records behind the last batch: they can be changed without a trace until they are sealed.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
pub struct Unsealed {
    /// How many.
    pub records: u64,
    /// When the first of them was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
}

/// Checkpoints that were given up after a restore, by a signed statement.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct GivenUp {
    /// The first.
    pub first: i64,
    /// The last.
    pub last: i64,
    /// The checkpoint that says so.
    pub by: i64,
    /// When.
    pub time: String,
}

/// The verdict.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuditReport)]
pub struct Report {
    /// No fault was found.
    pub ok: bool,
    /// The log.
    #[serde(serialize_with = "uuid_text::serialize")]
    #[schema(value_type = String)]
    pub log: Uuid,
    /// The verifier knew one of the log's keys beforehand. Without that, somebody who replaced keys, checkpoints and objects
    /// alike would not show.
    pub trusted: bool,
    /// The log's keys, oldest first (C2SP verifier keys).
    pub keys: Vec<String>,
    /// Checkpoints that hold.
    pub checkpoints: u64,
    /// The newest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<NewestCheckpoint>,
    /// The newest checkpoint in the object store; 0 if there is none that matters.
    pub newest_object: i64,
    /// Records that a checkpoint proves.
    pub records: u64,
    /// Records that are sealed and not yet under a checkpoint.
    pub unsigned: u64,
    /// Records behind these.
    pub unsealed: Unsealed,
    /// What was given up after restores.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub given_up: Vec<GivenUp>,
    /// The first record, in order of sealing, that is not what it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_bad_record: Option<i64>,
    /// Faults in all.
    pub faults_total: u64,
    /// The first of them, in order of sealing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}
