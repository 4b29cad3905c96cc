//! Sealed leaves against the records that are there, both in the order of sealing: what is the same, and what happened to the
//! rest. Pure.

use super::merkle::Hash;
use std::collections::{HashMap, HashSet};

/// What happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Another content.
    Edited(i64),
    /// Not there.
    Deleted(i64),
    /// Not among the leaves.
    Inserted(i64),
    /// There, but elsewhere.
    Moved(i64),
}

/// How many records are the sealed ones at their places, and the differences by the place of the leaf at which they show.
#[must_use]
pub fn compare(leaves: &[(i64, Hash)], records: &[(i64, Hash)]) -> (u64, Vec<(u64, Difference)>) {
    if leaves == records {
        return (leaves.len() as u64, Vec::new());
    }
    let sealed: HashSet<i64> = leaves.iter().map(|(id, _)| *id).collect();
    let mut there: HashMap<i64, usize> = HashMap::new();
    for (id, _) in records {
        *there.entry(*id).or_default() += 1;
    }
    let (mut same, mut differences) = (0, Vec::new());
    // Leaves whose record came earlier, out of its place.
    let mut early: HashSet<i64> = HashSet::new();
    let mut records = records.iter().peekable();
    for (place, (id, hash)) in (0u64..).zip(leaves) {
        // What stands before the record of this leaf and is no leaf's at all.
        while let Some((other, _)) = records.next_if(|(other, _)| other != id && !sealed.contains(other)) {
            differences.push((place, Difference::Inserted(*other)));
        }
        if early.remove(id) {
            differences.push((place, Difference::Moved(*id)));
            continue;
        }
        let count = there.get(id).copied().unwrap_or_default();
        if count == 0 {
            differences.push((place, Difference::Deleted(*id)));
            continue;
        }
        match records.peek() {
            Some((other, found)) if other == id => {
                if found == hash {
                    same += 1;
                } else {
                    differences.push((place, Difference::Edited(*id)));
                }
                records.next();
            }
            _ => {
                // Its record comes later; what stands here instead came too early.
                differences.push((place, Difference::Moved(*id)));
                if let Some((other, _)) = records.next() {
                    early.insert(*other);
                }
            }
        }
    }
    let end = leaves.len() as u64;
    for (id, _) in records {
        if !sealed.contains(id) {
            differences.push((end, Difference::Inserted(*id)));
        }
    }
    (same, differences)
}

#[cfg(test)]
mod tests {
    use super::Difference::{Deleted, Edited, Inserted, Moved};
    use super::*;
    use proptest::prelude::*;

    fn leaves(ids: &[i64]) -> Vec<(i64, Hash)> {
        ids.iter().map(|id| (*id, [u8::try_from(*id).unwrap(); 32])).collect()
    }

    #[test]
    fn each_difference_is_named_at_its_place() {
        let sealed = leaves(&[1, 2, 3, 4]);
        let differences = |ids: &[i64]| compare(&sealed, &leaves(ids)).1;
        assert_eq!(differences(&[1, 2, 3, 4]), []);
        assert_eq!(differences(&[1, 3, 4]), [(1, Deleted(2))]);
        assert_eq!(differences(&[1, 2]), [(2, Deleted(3)), (3, Deleted(4))]);
        assert_eq!(differences(&[1, 2, 9, 3, 4]), [(2, Inserted(9))]);
        assert_eq!(differences(&[1, 2, 3, 4, 9]), [(4, Inserted(9))]);
        assert_eq!(differences(&[9, 2, 3, 4])[0], (0, Inserted(9)));
        assert_eq!(differences(&[1, 3, 2, 4])[0], (1, Moved(2)));
        let mut edited = leaves(&[1, 2, 3, 4]);
        edited[2].1 = [0; 32];
        assert_eq!(compare(&sealed, &edited), (3, vec![(2, Edited(3))]));
    }

    proptest! {
        #[test]
        fn whatever_was_done_the_first_difference_is_named(
            sealed in proptest::collection::vec(0i64..100, 0..30),
            there in proptest::collection::vec(0i64..100, 0..30),
        ) {
            let mut sealed = sealed;
            let mut unique = HashSet::new();
            sealed.retain(|id| unique.insert(*id));
            let (sealed, there) = (leaves(&sealed), leaves(&there));
            let (same, differences) = compare(&sealed, &there);
            prop_assert_eq!(differences.is_empty(), sealed == there);
            let equal = sealed.iter().zip(&there).take_while(|(a, b)| a == b).count();
            prop_assert!(same >= equal as u64);
            if let Some((place, _)) = differences.first() {
                prop_assert_eq!(*place, equal as u64, "{:?}", differences);
            }
        }
    }
}
