//! The Merkle tree of RFC 6962, section 2.1 (RFC 9162, 2.1.1): leaves are hashed behind a zero byte, nodes behind a one, so
//! that neither can be taken for the other. Pure.
//!
//! [`Tree`] keeps only the peaks of the perfect subtrees, which is all that is needed to go on and to give the root.

use sha2::{Digest as _, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// Hash of a leaf: of one canonical line, without its line feed.
#[must_use]
pub fn leaf_hash(line: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(line).finalize().into()
}

/// Hash of an inner node.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// A tree that only grows at its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// One a set bit of `size`, the largest subtree first.
    peaks: Vec<Hash>,
}

impl Tree {
    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Add a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        // Each trailing one of the size is a perfect subtree that the new one completes to twice its size.
        for _ in 0..self.size.trailing_ones() {
            let Some(left) = self.peaks.pop() else { break };
            node = node_hash(&left, &node);
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The hash over all leaves; of none: SHA-256 of nothing.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return Sha256::digest([]).into() };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }

    /// The peaks, one after the other.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.peaks.concat()
    }

    /// A tree of that size with these peaks; none if their number does not fit the size. Only its root says whether they
    /// are the right ones.
    #[must_use]
    pub fn from_bytes(size: u64, peaks: &[u8]) -> Option<Self> {
        let (peaks, rest) = peaks.as_chunks::<32>();
        (rest.is_empty() && peaks.len() == size.count_ones() as usize).then(|| Self { size, peaks: peaks.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of RFC 6962, word by word.
    fn definition(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => Sha256::digest([]).into(),
            1 => leaves[0],
            n => {
                let k = 1 << (usize::BITS - 1 - (n - 1).leading_zeros());
                node_hash(&definition(&leaves[..k]), &definition(&leaves[k..]))
            }
        }
    }

    #[test]
    fn the_roots_are_those_of_the_reference_implementation() {
        // certificate-transparency-go, testonly/reference tests: eight leaves and the roots of their prefixes.
        let leaves: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let mut tree = Tree::default();
        assert_eq!(hex::encode(tree.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (leaf, root) in leaves.iter().zip([
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ]) {
            tree.push(leaf_hash(leaf));
            assert_eq!(hex::encode(tree.root()), root, "size {}", tree.size());
        }
    }

    proptest! {
        #[test]
        fn the_growing_tree_is_the_one_of_the_definition(seeds in proptest::collection::vec(any::<u64>(), 0..200), cut: prop::sample::Index) {
            let leaves: Vec<Hash> = seeds.iter().map(|seed| leaf_hash(&seed.to_be_bytes())).collect();
            let mut tree = Tree::default();
            let cut = cut.index(leaves.len() + 1);
            leaves[..cut].iter().for_each(|leaf| tree.push(*leaf));
            prop_assert_eq!(tree.root(), definition(&leaves[..cut]));
            // Written down and taken up again, it goes on as if nothing had been.
            let mut tree = Tree::from_bytes(tree.size(), &tree.to_bytes()).unwrap();
            leaves[cut..].iter().for_each(|leaf| tree.push(*leaf));
            prop_assert_eq!(tree.root(), definition(&leaves));
        }
    }

    #[test]
    fn peaks_that_do_not_fit_the_size_are_refused() {
        assert!(Tree::from_bytes(3, &[0; 32]).is_none());
        assert!(Tree::from_bytes(1, &[0; 31]).is_none());
        assert!(Tree::from_bytes(0, &[]).is_some());
    }
}
