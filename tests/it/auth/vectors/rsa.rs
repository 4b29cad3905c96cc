//! RSA by hand: the private operation on blocks of a test's own, which no library signs.

use super::super::issuer::Key;
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::RSA_PSS_SHA256;
use sha2::{Digest as _, Sha256};

/// DER of `DigestInfo` before a SHA-256 (RFC 8017, section 9.2).
const SHA256_INFO: [u8; 19] =
    [0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20];

fn hash(message: &[u8]) -> Vec<u8> {
    Sha256::digest(message).to_vec()
}

/// What RS256 pads.
pub fn digest_info(message: &[u8]) -> Vec<u8> {
    [&SHA256_INFO[..], &hash(message)].concat()
}

/// What RSASSA signs: `EMSA-PKCS1-v1_5`.
pub fn padded(length: usize, info: &[u8]) -> Vec<u8> {
    [&[0, 1][..], &vec![0xff; length - 3 - info.len()], &[0], info].concat()
}

/// Blocks of 256 bytes that are no `EMSA-PKCS1-v1_5` of the message, and that lenient readers have taken for it.
pub fn forged(message: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let (hash, info) = (hash(message), digest_info(message));
    let right = padded(256, &info);
    let with = |index: usize, byte: u8| {
        let mut block = right.clone();
        block[index] = byte;
        block
    };
    // Few bytes of padding, and behind the hash what makes up the length (Bleichenbacher 2006).
    let behind = |count: usize, filler: u8| {
        let start = [&[0, 1][..], &vec![0xff; count], &[0], &info].concat();
        let rest = vec![filler; 256 - start.len()];
        [start, rest].concat()
    };
    let in_params = {
        // As long as a block allows, in the place of NULL.
        let params = 256 - 11 - 2 - 2 - 11 - 2 - 34;
        let inner = u8::try_from(params).unwrap();
        let algorithm = [
            &[0x30, 0x81, inner + 11 + 3, 0x06, 0x09][..],
            &SHA256_INFO[6..15],
            &[0x04, 0x81, inner],
            &vec![0; params],
        ]
        .concat();
        let whole = [algorithm, vec![0x04, 0x20], hash.clone()].concat();
        [vec![0x30, 0x81, u8::try_from(whole.len()).unwrap()], whole].concat()
    };
    let without_null = [&[0x30, 0x2f, 0x30, 0x0b][..], &SHA256_INFO[4..15], &[0x04, 0x20], &hash].concat();
    let long_form = [&[0x30, 0x81, 0x31][..], &SHA256_INFO[2..], &hash].concat();
    let indefinite = [&[0x30, 0x80][..], &SHA256_INFO[2..], &hash, &[0, 0]].concat();
    let sha1_name =
        [&[0x30, 0x29, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x20][..], &hash]
            .concat();
    let mut sha384_name = info.clone();
    sha384_name[14] = 2;
    let short_hash = [&[0x30, 0x30][..], &SHA256_INFO[2..17], &[0x04, 0x1f], &hash[..31]].concat();
    let mut other_hash = info.clone();
    other_hash[50] ^= 1;
    let more_hash = [&[0x30, 0x32][..], &SHA256_INFO[2..17], &[0x04, 0x21], &hash, &[0]].concat();
    vec![
        ("zeros behind the hash", behind(8, 0)),
        ("ones behind the hash", behind(8, 0xff)),
        ("no padding, zeros behind", behind(0, 0)),
        ("a byte of padding less, one behind", behind(201, 0)),
        ("garbage in the parameters", padded(256, &in_params)),
        ("no NULL", padded(256, &without_null)),
        ("a length in the long form", padded(256, &long_form)),
        ("a length without end", padded(256, &indefinite)),
        ("named SHA-1", padded(256, &sha1_name)),
        ("named SHA-384", padded(256, &sha384_name)),
        ("a hash without its name", padded(256, &hash)),
        ("a hash that is cut off", padded(256, &short_hash)),
        ("a hash that is longer", padded(256, &more_hash)),
        ("another hash", padded(256, &other_hash)),
        ("nothing", padded(256, &[])),
        ("begins with 1", with(0, 1)),
        ("block type 0", with(1, 0)),
        ("block type 2", with(1, 2)),
        ("a zero in the padding", with(9, 0)),
        ("another byte in the padding", with(100, 0xfe)),
        ("the first byte of the padding", with(2, 0)),
        ("no zero behind the padding", with(204, 0xff)),
    ]
}

/// A key pair with its numbers.
pub struct RawRsa {
    pub key: Key,
    n: Vec<u8>,
    d: Vec<u8>,
}

/// The content of the first value of DER, and what stands behind it.
fn value(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, head) = match der[1] {
        short @ 0..=0x7f => (usize::from(short), 2),
        0x81 => (usize::from(der[2]), 3),
        _ => ((usize::from(der[2]) << 8) | usize::from(der[3]), 4),
    };
    der[head..].split_at(length)
}

impl RawRsa {
    pub fn generate() -> Self {
        let key = Key::rsa();
        let Key::Rsa(pair) = &key else { panic!("no RSA") };
        let der: Pkcs8V1Der<'static> = pair.as_der().unwrap();
        // PrivateKeyInfo: version, algorithm, key; RSAPrivateKey: version, n, e, d.
        let (info, _) = value(der.as_ref());
        let (_, rest) = value(info);
        let (_, rest) = value(rest);
        let (whole, _) = value(value(rest).0);
        let (_, rest) = value(whole);
        let (n, rest) = value(rest);
        let (_, rest) = value(rest);
        let (d, _) = value(rest);
        let (n, d) = (n[n.len() - 256..].to_vec(), d.to_vec());
        Self { key, n, d }
    }

    pub fn modulus(&self) -> Vec<u8> {
        self.n.clone()
    }

    /// `block^d mod n`.
    pub fn raw(&self, block: &[u8]) -> Vec<u8> {
        Montgomery::new(&self.n).power(block, &self.d)
    }

    pub fn pss(&self, message: &[u8]) -> Vec<u8> {
        let Key::Rsa(pair) = &self.key else { panic!("no RSA") };
        let mut signature = vec![0; 256];
        pair.sign(&RSA_PSS_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }
}

/// Multiplication modulo an odd number, of limbs of 64 bits, the least significant first.
struct Montgomery {
    n: Vec<u64>,
    /// `-1/n` modulo 2^64.
    inverse: u64,
}

fn limbs(bytes: &[u8], count: usize) -> Vec<u64> {
    let mut limbs = vec![0u64; count];
    for (index, byte) in bytes.iter().rev().enumerate().take(8 * count) {
        limbs[index / 8] |= u64::from(*byte) << (8 * (index % 8));
    }
    limbs
}

impl Montgomery {
    fn new(n: &[u8]) -> Self {
        let n = limbs(n, n.len() / 8);
        let mut inverse = 1u64;
        for _ in 0..6 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(n[0].wrapping_mul(inverse)));
        }
        Self { inverse: inverse.wrapping_neg(), n }
    }

    /// `value - n`, if that is not negative; `carry` is the limb above `value`.
    fn reduced(&self, value: Vec<u64>, carry: u64) -> Vec<u64> {
        let mut borrow = false;
        let mut less = Vec::with_capacity(value.len());
        for (a, b) in value.iter().zip(&self.n) {
            let (first, one) = a.overflowing_sub(*b);
            let (second, two) = first.overflowing_sub(u64::from(borrow));
            borrow = one || two;
            less.push(second);
        }
        if carry == 0 && borrow { value } else { less }
    }

    /// `a * b / 2^(64 * limbs)` modulo n.
    fn times(&self, a: &[u64], b: &[u64]) -> Vec<u64> {
        let count = self.n.len();
        let mut sum = vec![0u64; count + 2];
        let low = |wide: u128| u64::try_from(wide & u128::from(u64::MAX)).unwrap();
        for digit in a {
            for (other, factor, shift) in [(b, *digit, false), (&self.n[..], 0, true)] {
                let factor = if shift { sum[0].wrapping_mul(self.inverse) } else { factor };
                let mut carry = 0u128;
                for (place, one) in sum.iter_mut().zip(other) {
                    let wide = u128::from(*place) + u128::from(factor) * u128::from(*one) + carry;
                    *place = low(wide);
                    carry = wide >> 64;
                }
                let wide = u128::from(sum[count]) + carry;
                sum[count] = low(wide);
                sum[count + 1] += low(wide >> 64);
            }
            // The lowest limb is zero now.
            sum.rotate_left(1);
            sum[count + 1] = 0;
        }
        let carry = sum[count];
        sum.truncate(count);
        self.reduced(sum, carry)
    }

    fn power(&self, base: &[u8], exponent: &[u8]) -> Vec<u8> {
        let count = self.n.len();
        // 2^(64 * limbs) and its square, modulo n, by doubling.
        let mut one = limbs(&[1], count);
        let mut square = Vec::new();
        for step in 1..=128 * count {
            let mut carry = 0;
            for limb in &mut one {
                let next = *limb >> 63;
                *limb = (*limb << 1) | carry;
                carry = next;
            }
            one = self.reduced(one, carry);
            if step == 64 * count {
                square.clone_from(&one);
            }
        }
        let (mut result, square) = (square, one);
        let base = self.times(&limbs(base, count), &square);
        for bit in exponent.iter().flat_map(|byte| (0..8).rev().map(move |bit| (byte >> bit) & 1)) {
            result = self.times(&result, &result);
            if bit == 1 {
                result = self.times(&result, &base);
            }
        }
        let plain = self.times(&result, &limbs(&[1], count));
        plain.iter().rev().flat_map(|limb| limb.to_be_bytes()).collect()
    }
}
