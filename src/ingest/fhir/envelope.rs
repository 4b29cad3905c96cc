//! The intake's check of a Bundle before the 202: cheap, streaming, without a tree.
//!
//! One pass of `serde_json` reads the envelope (Bundle and entries) and skips the rest; one pass over the bytes checks
//! depth and string escapes. Neither recurses with the input. Everything deeper is the `validate` step's.

use super::json;
use super::node::BYTE_ORDER_MARK;
use super::{split, types};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// Nesting of objects and arrays, the Bundle itself included. FHIR resources of practice stay below 20.
pub const DEPTH_MAX: usize = 128;

/// The Bundle types that are ingested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BundleType {
    /// All or nothing.
    Transaction,
    /// Each entry by itself.
    Batch,
    /// Each entry by itself.
    Collection,
    /// All or nothing; the first entry is a `MessageHeader`.
    Message,
}

impl BundleType {
    /// The type of that code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Some(match code {
            "transaction" => Self::Transaction,
            "batch" => Self::Batch,
            "collection" => Self::Collection,
            "message" => Self::Message,
            _ => return None,
        })
    }

    /// FHIR's code.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Batch => "batch",
            Self::Collection => "collection",
            Self::Message => "message",
        }
    }

    /// One bad entry fails the whole Bundle.
    #[must_use]
    pub fn is_all_or_nothing(self) -> bool {
        matches!(self, Self::Transaction | Self::Message)
    }

    /// Every entry must say what it asks for (`entry.request`).
    #[must_use]
    pub fn needs_requests(self) -> bool {
        matches!(self, Self::Transaction | Self::Batch)
    }
}

/// What the intake knows of an accepted Bundle.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Its type.
    pub bundle_type: BundleType,
    /// Entries by resource type; types that R4 does not know are counted together as `unknown`.
    pub resource_count: BTreeMap<String, u32>,
    /// All entries.
    pub entries: u32,
}

/// Why a body is not accepted. Names places, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EnvelopeFault {
    /// Stable code.
    pub code: &'static str,
    /// A sentence for the sender.
    pub message: String,
    /// FHIRPath of the place.
    pub expression: Option<String>,
    /// JSON Pointer of the place.
    pub pointer: Option<String>,
}

impl EnvelopeFault {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), expression: None, pointer: None }
    }

    fn at(mut self, expression: impl Into<String>, pointer: impl Into<String>) -> Self {
        self.expression = Some(expression.into());
        self.pointer = Some(pointer.into());
        self
    }

    fn at_entry(code: &'static str, entry: u32, what: &str, member: &str) -> Self {
        let path = format!("Bundle.entry[{entry}]");
        let (dot, slash) = if member.is_empty() { ("", "") } else { (".", "/") };
        Self::new(code, format!("{path} {what}."))
            .at(format!("{path}{dot}{member}"), format!("/entry/{entry}{slash}{member}"))
    }
}

/// Check a body and count its entries.
///
/// # Errors
/// The first [`EnvelopeFault`] in this order: body, syntax, strings and depth, Bundle, entries.
pub fn scan(body: &[u8]) -> Result<Envelope, EnvelopeFault> {
    if body.is_empty() {
        return Err(EnvelopeFault::new("empty_body", "The body is empty."));
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        EnvelopeFault::new("invalid_utf8", format!("The body is not UTF-8 (byte {}).", error.valid_up_to()))
    })?;
    let text = if body.starts_with(BYTE_ORDER_MARK) { &text[BYTE_ORDER_MARK.len()..] } else { text };
    let mut findings = Findings::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let parsed = BundleSeed(&mut findings).deserialize(&mut reader).and_then(|()| reader.end());
    if let Err(error) = parsed {
        return Err(syntax_fault(text, &error));
    }
    if let Some(fault) = scan_bytes(text.as_bytes()) {
        return Err(place_fault(body, body.len() - text.len(), &fault));
    }
    findings.into_envelope()
}

/// What no reader may be given although it is JSON: strings that are no text, and too much depth.
#[must_use]
pub fn unsafe_text(body: &[u8]) -> Option<EnvelopeFault> {
    scan_bytes(body).map(|fault| place_fault(body, 0, &fault))
}

/// Not JSON; but an escape that JSON cannot decode is said to be that.
fn syntax_fault(text: &str, error: &serde_json::Error) -> EnvelopeFault {
    if let Some(fault) = scan_bytes(text.as_bytes())
        && fault.code == "invalid_string"
        && line_and_column(text, fault.offset).0 <= error.line()
    {
        return EnvelopeFault::new(fault.code, fault.message);
    }
    let what = if error.is_eof() { "ends too early" } else { "is not JSON" };
    EnvelopeFault::new("invalid_json", format!("The body {what} (line {}, column {}).", error.line(), error.column()))
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |position| position + 1);
    (before.split(|byte| *byte == b'\n').count(), offset - line_start + 1)
}

/// The fault with the entry that it stands in (the slow path: the body is refused anyway).
fn place_fault(body: &[u8], mark: usize, fault: &ByteFault) -> EnvelopeFault {
    let offset = fault.offset + mark;
    let entry = split::split(body).ok().and_then(|bundle| {
        bundle.entries.iter().find(|entry| entry.node.span().contains(&offset)).map(|entry| entry.index)
    });
    match entry {
        Some(entry) => {
            let path = format!("Bundle.entry[{entry}]");
            let message = format!("{path}: {}", fault.message);
            EnvelopeFault::new(fault.code, message).at(path, format!("/entry/{entry}"))
        }
        None => EnvelopeFault::new(fault.code, fault.message),
    }
}

struct ByteFault {
    code: &'static str,
    message: &'static str,
    offset: usize,
}

/// Depth and string escapes, byte by byte, in text whose JSON syntax is known to be good (or is refused anyway).
fn scan_bytes(bytes: &[u8]) -> Option<ByteFault> {
    let mut depth = 0usize;
    let mut position = 0;
    while position < bytes.len() {
        match bytes[position] {
            b'"' => match scan_string(bytes, position + 1) {
                Ok(after) => {
                    position = after;
                    continue;
                }
                Err(offset) => {
                    let message = "A string holds U+0000 or half of a surrogate pair.";
                    return Some(ByteFault { code: "invalid_string", message, offset });
                }
            },
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    let message = "Objects and arrays are nested deeper than 128 levels.";
                    return Some(ByteFault { code: "too_deep", message, offset: position });
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        position += 1;
    }
    None
}

/// From behind the opening quote to behind the closing one, or the offset of a bad escape.
fn scan_string(bytes: &[u8], mut position: usize) -> Result<usize, usize> {
    while let Some(step) = bytes[position..].iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        position += step;
        if bytes[position] == b'"' {
            return Ok(position + 1);
        }
        let escape = position;
        position += 2;
        if bytes.get(escape + 1) != Some(&b'u') {
            position = position.min(bytes.len());
            continue;
        }
        match json::unit(bytes, escape) {
            Some(0 | 0xDC00..=0xDFFF) => return Err(escape),
            Some(0xD800..=0xDBFF) => match json::unit(bytes, escape + 6) {
                Some(0xDC00..=0xDFFF) => position = escape + 12,
                _ => return Err(escape),
            },
            Some(_) => position = escape + 6,
            // Not four hexadecimal digits: a syntax error, which serde_json reports.
            None => {}
        }
    }
    Ok(bytes.len())
}

/// What the pass over the envelope found.
#[derive(Default)]
struct Findings {
    is_bundle: bool,
    bundle_type: Option<BundleType>,
    entries: u32,
    resource_count: BTreeMap<&'static str, u32>,
    entry_fault: Option<EnvelopeFault>,
    duplicate: Option<EnvelopeFault>,
}

impl Findings {
    fn into_envelope(self) -> Result<Envelope, EnvelopeFault> {
        if !self.is_bundle {
            let message = "The body is not a FHIR Bundle: an object with \"resourceType\": \"Bundle\" is expected.";
            return Err(EnvelopeFault::new("not_a_bundle", message).at("Bundle.resourceType", "/resourceType"));
        }
        if let Some(fault) = self.duplicate {
            return Err(fault);
        }
        let Some(bundle_type) = self.bundle_type else {
            let message = "Bundle.type must be transaction, batch, collection or message.";
            return Err(EnvelopeFault::new("unsupported_bundle_type", message).at("Bundle.type", "/type"));
        };
        if self.entries == 0 {
            let message = "Bundle.entry must hold at least one entry.";
            return Err(EnvelopeFault::new("empty_bundle", message).at("Bundle.entry", "/entry"));
        }
        if let Some(fault) = self.entry_fault {
            return Err(fault);
        }
        let resource_count = self.resource_count.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        Ok(Envelope { bundle_type, resource_count, entries: self.entries })
    }
}

/// Visitor methods for JSON types that are not the expected one: skipped, with this value.
macro_rules! skip {
    (scalars => $value:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON value")
        }

        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($value)
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($value)
        }

        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($value)
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($value)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }
    };
    (string => $value:expr) => {
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($value)
        }
    };
    (array => $value:expr) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
            while sequence.next_element::<IgnoredAny>()?.is_some() {}
            Ok($value)
        }
    };
    (object => $value:expr) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok($value)
        }
    };
}

/// A key, borrowed from the body unless it has escapes.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// A value of which only a string matters.
struct StringSeed;

impl<'de> DeserializeSeed<'de> for StringSeed {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StringSeed {
    type Value = Option<Cow<'de, str>>;

    skip!(scalars => None);
    skip!(array => None);
    skip!(object => None);

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }
}

/// The whole body.
struct BundleSeed<'f>(&'f mut Findings);

impl<'de> DeserializeSeed<'de> for BundleSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for BundleSeed<'_> {
    type Value = ();

    skip!(scalars => ());
    skip!(string => ());
    skip!(array => ());

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            match key.as_ref() {
                "resourceType" => self.0.is_bundle = map.next_value_seed(StringSeed)?.as_deref() == Some("Bundle"),
                "type" => {
                    self.0.bundle_type = map.next_value_seed(StringSeed)?.as_deref().and_then(BundleType::from_code);
                }
                "entry" => map.next_value_seed(EntriesSeed(&mut *self.0))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            if !keys.insert(key) && self.0.duplicate.is_none() {
                let message = "The Bundle has two members with the same key.";
                self.0.duplicate = Some(EnvelopeFault::new("duplicate_key", message).at("Bundle", ""));
            }
        }
        Ok(())
    }
}

struct EntriesSeed<'f>(&'f mut Findings);

impl<'de> DeserializeSeed<'de> for EntriesSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for EntriesSeed<'_> {
    type Value = ();

    skip!(scalars => ());
    skip!(string => ());
    skip!(object => ());

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        let mut entry = 0u32;
        while let Some(seen) = sequence.next_element_seed(EntrySeed(&mut keys))? {
            let fault = match seen.resource {
                Resource::None => Some(("entry_without_resource", "has no resource object", "resource")),
                Resource::Untyped => {
                    Some(("entry_without_resource_type", "has a resource without a resourceType", "resource"))
                }
                Resource::Typed(name) => {
                    *self.0.resource_count.entry(name).or_default() += 1;
                    None
                }
            };
            if let (Some((code, what, member)), None) = (fault, &self.0.entry_fault) {
                self.0.entry_fault = Some(EnvelopeFault::at_entry(code, entry, what, member));
            }
            if seen.duplicate && self.0.duplicate.is_none() {
                let what = "has two members with the same key";
                self.0.duplicate = Some(EnvelopeFault::at_entry("duplicate_key", entry, what, ""));
            }
            entry = entry.saturating_add(1);
        }
        self.0.entries = entry;
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Resource {
    None,
    Untyped,
    /// One of R4's types, or `unknown`.
    Typed(&'static str),
}

struct SeenEntry {
    resource: Resource,
    duplicate: bool,
}

/// One entry; the set of keys is reused from entry to entry.
struct EntrySeed<'k, 'de>(&'k mut HashSet<Cow<'de, str>>);

impl<'de> DeserializeSeed<'de> for EntrySeed<'_, 'de> {
    type Value = SeenEntry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<SeenEntry, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_, 'de> {
    type Value = SeenEntry;

    skip!(scalars => SeenEntry { resource: Resource::None, duplicate: false });
    skip!(string => SeenEntry { resource: Resource::None, duplicate: false });
    skip!(array => SeenEntry { resource: Resource::None, duplicate: false });

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SeenEntry, A::Error> {
        let mut seen = SeenEntry { resource: Resource::None, duplicate: false };
        self.0.clear();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            if key == "resource" {
                let (resource, duplicate) = map.next_value_seed(ResourceSeed)?;
                seen.resource = resource;
                seen.duplicate |= duplicate;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            seen.duplicate |= !self.0.insert(key);
        }
        Ok(seen)
    }
}

/// A resource: its type, and whether it says it twice.
struct ResourceSeed;

impl<'de> DeserializeSeed<'de> for ResourceSeed {
    type Value = (Resource, bool);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ResourceSeed {
    type Value = (Resource, bool);

    skip!(scalars => (Resource::None, false));
    skip!(string => (Resource::None, false));
    skip!(array => (Resource::None, false));

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut resource = Resource::Untyped;
        let mut times = 0u32;
        while let Some(key) = map.next_key_seed(KeySeed)? {
            if key != "resourceType" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            times += 1;
            resource = match map.next_value_seed(StringSeed)? {
                Some(name) if !name.is_empty() => Resource::Typed(types::resource_type(&name).unwrap_or("unknown")),
                _ => Resource::Untyped,
            };
        }
        Ok((resource, times > 1))
    }
}

#[cfg(test)]
mod tests;
