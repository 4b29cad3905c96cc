//! What lies in the object store beside the database, and bears witness against it: signed checkpoints, the leaves that each
//! of them added (its tile), statements of keys. Written once, never replaced.

use super::merkle::Hash;
use crate::objects::{ObjectError, Objects};
use uuid::Uuid;

/// Bytes of a leaf in a tile: the record's number (big-endian), its hash.
const LEAF_BYTES: usize = 40;

/// Key of a checkpoint.
#[must_use]
pub fn checkpoint_key(log: Uuid, number: i64) -> String {
    format!("audit/{log}/checkpoints/{number:012}")
}

/// Key of the leaves that a checkpoint added.
#[must_use]
pub fn tile_key(log: Uuid, number: i64) -> String {
    format!("audit/{log}/tiles/{number:012}")
}

/// Key of a key's statement.
#[must_use]
pub fn key_key(log: Uuid, ordinal: i64) -> String {
    format!("audit/{log}/keys/{ordinal:012}")
}

/// Leaves as bytes.
#[must_use]
pub fn tile(leaves: impl Iterator<Item = (i64, Hash)>) -> Vec<u8> {
    leaves.flat_map(|(id, hash)| id.to_be_bytes().into_iter().chain(hash)).collect()
}

/// Bytes as leaves; none if their number is not whole.
#[must_use]
pub fn leaves(tile: &[u8]) -> Option<Vec<(i64, Hash)>> {
    let (leaves, rest) = tile.as_chunks::<LEAF_BYTES>();
    let split = |leaf: &[u8; LEAF_BYTES]| {
        let (id, hash) = leaf.split_first_chunk::<8>()?;
        Some((i64::from_be_bytes(*id), hash.try_into().ok()?))
    };
    if rest.is_empty() { leaves.iter().map(split).collect() } else { None }
}

/// An object, if it is there.
///
/// # Errors
/// [`ObjectError`] when that cannot be said.
pub async fn read(objects: &Objects, key: &str) -> Result<Option<Vec<u8>>, ObjectError> {
    match objects.get(key).await {
        Ok(bytes) => Ok(Some(bytes.to_vec())),
        Err(ObjectError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The highest number of a checkpoint that lies there and is at least `from`; 0 if there is none.
///
/// # Errors
/// [`ObjectError`].
pub async fn newest(objects: &Objects, log: Uuid, from: i64) -> Result<i64, ObjectError> {
    let prefix = format!("audit/{log}/checkpoints/");
    let mut after = checkpoint_key(log, (from - 1).max(0));
    let mut newest = 0;
    loop {
        let page = objects.list(&prefix, Some(&after), 1000).await?;
        let Some(last) = page.last() else { return Ok(newest) };
        let numbers = page.iter().filter_map(|entry| entry.key.strip_prefix(&prefix)?.parse::<i64>().ok());
        newest = numbers.fold(newest, i64::max);
        after.clone_from(&last.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_is_read_as_it_was_written() {
        let written = vec![(1, [1; 32]), (i64::MAX, [2; 32])];
        let bytes = tile(written.clone().into_iter());
        assert_eq!(leaves(&bytes), Some(written));
        assert_eq!(leaves(&bytes[1..]), None);
    }
}
