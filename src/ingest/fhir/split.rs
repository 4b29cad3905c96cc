//! A Bundle cut into its entries, each with its place in the exact body.
//!
//! The cut trusts nothing but JSON syntax: a missing or misshapen member is `None` here, and the validator says so.

use super::envelope::BundleType;
use super::node::{Node, NotJson, Object};
use std::borrow::Cow;

/// A Bundle by its entries.
#[cfg_attr(test, derive(Debug))]
pub struct Bundle<'a> {
    /// The opened Bundle.
    pub object: Object<'a>,
    /// Its type, if it is one that is ingested.
    pub bundle_type: Option<BundleType>,
    /// Its entries in order.
    pub entries: Vec<Entry<'a>>,
}

/// One entry of a Bundle.
#[cfg_attr(test, derive(Debug))]
pub struct Entry<'a> {
    /// Position in `Bundle.entry`.
    pub index: u32,
    /// The whole entry.
    pub node: Node<'a>,
    /// The same, opened, if it is an object.
    pub object: Option<Object<'a>>,
    /// `entry.fullUrl`.
    pub full_url: Option<Cow<'a, str>>,
    /// `entry.resource`, opened.
    pub resource: Option<Resource<'a>>,
}

/// A resource of an entry.
#[cfg_attr(test, derive(Debug))]
pub struct Resource<'a> {
    /// The opened resource.
    pub object: Object<'a>,
    /// `resourceType`.
    pub resource_type: Cow<'a, str>,
    /// `id`.
    pub id: Option<Cow<'a, str>>,
}

/// Why a body cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// Not JSON.
    #[error("the payload is not one JSON value in UTF-8")]
    NotJson,
    /// JSON, but not a Bundle.
    #[error("the payload is not a FHIR Bundle")]
    NotABundle,
}

impl From<NotJson> for SplitError {
    fn from(_: NotJson) -> Self {
        Self::NotJson
    }
}

/// Cut a Bundle into its entries.
///
/// # Errors
/// [`SplitError`], if the body is not a Bundle at all.
pub fn split(body: &[u8]) -> Result<Bundle<'_>, SplitError> {
    let object = Node::parse(body)?.object().ok_or(SplitError::NotABundle)?;
    if object.string("resourceType").as_deref() != Some("Bundle") {
        return Err(SplitError::NotABundle);
    }
    let bundle_type = object.string("type").as_deref().and_then(BundleType::from_code);
    let entries = (0..).zip(object.items("entry")).map(|(index, node)| entry(index, node)).collect();
    Ok(Bundle { object, bundle_type, entries })
}

/// An entry of a Bundle, opened.
#[must_use]
pub fn entry(index: u32, node: Node<'_>) -> Entry<'_> {
    let object = node.object();
    let member = |key: &str| object.as_ref().and_then(|object| object.get(key));
    Entry {
        index,
        node,
        full_url: member("fullUrl").and_then(|url| url.string()),
        resource: member("resource").and_then(|resource| resource.object()).and_then(resource),
        object,
    }
}

/// A resource that stands by itself, a line of NDJSON or an item of an array, as the entry with that number.
#[must_use]
pub fn lone(index: u32, node: Node<'_>) -> Entry<'_> {
    Entry { index, node, object: None, full_url: None, resource: node.object().and_then(resource) }
}

fn resource(object: Object<'_>) -> Option<Resource<'_>> {
    let resource_type = object.string("resourceType")?;
    let id = object.string("id");
    Some(Resource { object, resource_type, id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::fhir::sample;
    use proptest::prelude::*;
    use serde_json::Value;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// The cut agrees with a full parse: same entries, same values, and each slice is the value that it claims.
        #[test]
        fn entries_are_the_slices_that_serde_json_reads(seed: u64, patients in 1usize..4, pretty: bool) {
            let compact = sample::bundle(seed, patients, sample::Size::Small);
            let tree: Value = serde_json::from_slice(&compact).unwrap();
            let body = if pretty { serde_json::to_vec_pretty(&tree).unwrap() } else { compact };
            let bundle = split(&body).unwrap();
            let entries = tree["entry"].as_array().unwrap();
            prop_assert_eq!(bundle.entries.len(), entries.len());
            for (entry, expected) in bundle.entries.iter().zip(entries) {
                prop_assert_eq!(entry.full_url.as_deref(), expected["fullUrl"].as_str());
                let resource = entry.resource.as_ref().unwrap();
                prop_assert_eq!(resource.resource_type.as_ref(), expected["resource"]["resourceType"].as_str().unwrap());
                prop_assert_eq!(resource.id.as_deref(), expected["resource"]["id"].as_str());
                let slice = &body[resource.object.node().span()];
                prop_assert_eq!(&serde_json::from_slice::<Value>(slice).unwrap(), &expected["resource"]);
            }
        }

        #[test]
        fn no_body_panics(body: Vec<u8>) {
            let _ = split(&body);
        }
    }

    #[test]
    fn misshapen_members_are_absent() {
        let body = br#"{"resourceType": "Bundle", "type": "other", "entry": [1, {"fullUrl": 2, "resource": []}, {"resource": {"id": "x"}}]}"#;
        let bundle = split(body).unwrap();
        assert_eq!(bundle.bundle_type, None);
        assert_eq!(bundle.entries.len(), 3);
        assert!(bundle.entries.iter().all(|entry| entry.resource.is_none() && entry.full_url.is_none()));
        assert_eq!(split(b"[]").unwrap_err(), SplitError::NotABundle);
        assert_eq!(split(b"{").unwrap_err(), SplitError::NotJson);
    }
}
