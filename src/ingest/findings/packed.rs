//! The text that the view shows of an event in few bytes, as `shown_events.packed` keeps it.
//!
//! Such texts say the same names again and again, and each of them is short, so that by itself it hardly gets smaller. Packed with a
//! dictionary of what they all say (FHIR's code systems and our members' names) a measurement takes a quarter, in 2 µs.
//! Format: the dictionary's number (one byte), the text's length (u32, little endian), a block of LZ4.

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};

/// The dictionary of what is packed now. A dictionary never changes: what was packed with it is there for good. Another text is
/// another number, and the older ones stay to be read.
const CURRENT: u8 = 1;
const DICTIONARY_1: &[u8] = include_bytes!("shown-1.dictionary");
/// Longer is no text that an event's findings have: an upload's lines and Bundles are shorter.
const TEXT_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// A text that is not one that was packed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what is shown of an event cannot be unpacked")]
pub struct Unreadable;

/// Pack a text.
#[must_use]
pub fn pack(text: &str) -> Vec<u8> {
    let mut packed = compress_prepend_size_with_dict(text.as_bytes(), DICTIONARY_1);
    packed.insert(0, CURRENT);
    packed
}

/// The text that was packed.
///
/// # Errors
/// [`Unreadable`]: it was damaged, or packed by a newer program.
pub fn unpack(packed: &[u8]) -> Result<String, Unreadable> {
    let (&CURRENT, block) = packed.split_first().ok_or(Unreadable)? else { return Err(Unreadable) };
    let length = block.first_chunk().map(|length| u32::from_le_bytes(*length)).ok_or(Unreadable)?;
    if length > TEXT_BYTES_MAX {
        return Err(Unreadable);
    }
    let text = decompress_size_prepended_with_dict(block, DICTIONARY_1).map_err(|_| Unreadable)?;
    // A block that breaks off is a shorter text to LZ4.
    if u32::try_from(text.len()) != Ok(length) {
        return Err(Unreadable);
    }
    String::from_utf8(text).map_err(|_| Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    const MEASUREMENT: &str = r#"{"finding_id":"fnd_01m831c9xbe9xv60gkargyvhrz","category":"vital","kind":"measurement","name":"Body weight","code":{"system":"http://loinc.org","code":"29463-7","display":"Body weight"},"codings":[{"code":"29463-7","display":"Body weight","system":"http://loinc.org"}],"value":"97.2","unit":"kg","effective":"2026-01-15T09:10:00Z","negated":false,"value_type":"quantity","ucum":"kg","effective_precision":"second","evidence":[{"sha256":"022a8e0a298b1f77e8de936281503c38d813c64330abd67419819f2e334ad7ea","start":923,"end":1027,"pointer":"/entry/1/resource/code","fhirpath":"Bundle.entry[1].resource.code"}],"components":[]}"#;

    #[test]
    fn a_measurement_takes_two_fifths_of_its_bytes_and_comes_back() {
        let packed = pack(MEASUREMENT);
        assert!(packed.len() * 5 < MEASUREMENT.len() * 2, "{} of {}", packed.len(), MEASUREMENT.len());
        assert_eq!(unpack(&packed).as_deref(), Ok(MEASUREMENT));
        for text in ["", "{}", "é\u{1f9ea}", &MEASUREMENT.repeat(300)] {
            assert_eq!(unpack(&pack(text)).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_the_first_dictionary_packed_is_read_for_good() {
        assert_eq!(
            hex::encode(Sha256::digest(DICTIONARY_1)),
            "f7f3edbaa160be463616b704921f1d2fb5f62a5ad83035c51cf56fed155ece29"
        );
        assert_eq!(
            unpack(&hex::decode("0126000000147b5e0274426f64792077653b0a04dd056073223a5b5d7d").unwrap()).as_deref(),
            Ok(r#"{"name":"Body weight","components":[]}"#)
        );
    }

    #[test]
    fn what_was_damaged_or_packed_by_a_newer_program_is_refused_and_asks_for_no_memory() {
        let packed = pack(MEASUREMENT);
        let mut newer = packed.clone();
        newer[0] = CURRENT + 1;
        let long = [&[CURRENT][..], &u32::MAX.to_le_bytes(), &packed[5..]].concat();
        for damaged in [&[][..], &[CURRENT], &packed[..4], &packed[..packed.len() - 9], &newer, &long] {
            assert_eq!(unpack(damaged), Err(Unreadable));
        }
        // Whatever is wrong in it, it is an error or a text, and never a panic.
        for at in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x55;
            let _ = unpack(&damaged);
        }
    }
}
