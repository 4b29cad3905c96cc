//! A Bundle's signature against its content, as far as that needs no key.
//!
//! A JWS (RFC 7515) with an attached payload says itself what was signed. If that is another document than the Bundle,
//! the signature cannot hold, whoever made it. Compared are the JSON structures, not the bytes: member order and white
//! space are a matter of canonicalization (FHIR R4, json.html), which signers get wrong in harmless ways; a difference
//! of values is none. Detached payloads, other formats and other canonicalizations are left to who has the keys, as is
//! the certificate.

use super::{Found, Problem};
use crate::ingest::fhir::decimal::Decimal;
use crate::ingest::fhir::node::{Kind, Node, Object};
use crate::ingest::fhir::path::Place;
use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::cell::Cell;
use std::collections::HashMap;

/// Levels that are compared; JSON that passed the intake has at most 128.
const DEPTH_MAX: usize = 130;

/// Bytes that are opened, as a multiple of the payload: opening reads each level again, and honest documents nest some
/// twenty levels.
const OPENED_MAX: usize = 64;

/// With or without padding: signers write both.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// Check `Bundle.signature`.
pub fn check_signature(bundle: &Object<'_>, problems: &mut Vec<Problem>) {
    let Some(signature) = bundle.object("signature") else { return };
    let Some(left_out) = left_out(&signature) else { return };
    let Some(signed) = signature.string("data").and_then(|data| payload(&data)) else { return };
    let mut found = Found::new(problems);
    let at = (&Place::bundle(), signature.node().span().start);
    let Some(content) = Node::parse(&signed).ok().and_then(|node| node.object()) else {
        found.error("value", at, "The signature's payload is not JSON: it cannot be a signature of this Bundle.");
        return;
    };
    let budget = Cell::new(signed.len().saturating_mul(OPENED_MAX));
    if !same_object(bundle, &content, left_out, (&budget, 0)) {
        found.error("value", at, "The signature is of other content: its payload is not this Bundle.");
    }
}

/// The members of the Bundle that its signature does not cover; none if the format or the canonicalization is not
/// one that this check knows.
fn left_out(signature: &Object<'_>) -> Option<&'static [&'static str]> {
    if signature.string("sigFormat").as_deref() != Some("application/jose") {
        return None;
    }
    let target = signature.string("targetFormat")?;
    let canonicalization = target.split(';').find_map(|part| part.trim().strip_prefix("canonicalization="))?;
    match canonicalization.trim_matches('"') {
        "http://hl7.org/fhir/canonicalization/json" => Some(&["signature"]),
        "http://hl7.org/fhir/canonicalization/json#document" => Some(&["id", "meta", "signature"]),
        _ => None,
    }
}

/// The attached payload of a JWS in compact form; none if detached, or if this is none.
fn payload(data: &str) -> Option<Vec<u8>> {
    // White space may break base64 in FHIR.
    let data: String = data.chars().filter(|c| !c.is_whitespace()).collect();
    let compact = GeneralPurpose::new(&STANDARD, LENIENT).decode(data).ok()?;
    let mut parts = compact.split(|byte| *byte == b'.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if payload.is_empty() || parts.next().is_some() {
        return None;
    }
    GeneralPurpose::new(&URL_SAFE, LENIENT).decode(payload).ok()
}

/// What may still be opened, and how deep this is.
type Limits<'l> = (&'l Cell<usize>, usize);

fn same_object(left: &Object<'_>, right: &Object<'_>, left_out: &[&str], (budget, depth): Limits<'_>) -> bool {
    fn members<'o, 'a>(object: &'o Object<'a>, left_out: &[&str]) -> HashMap<&'o str, Node<'a>> {
        object.members().filter(|(key, _)| !left_out.contains(key)).collect()
    }
    let (left, right) = (members(left, left_out), members(right, left_out));
    let limits = (budget, depth + 1);
    left.len() == right.len()
        && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| same(*value, *other, limits)))
}

/// The same value; also where that could only be told beyond the limits.
fn same(left: Node<'_>, right: Node<'_>, (budget, depth): Limits<'_>) -> bool {
    if left.text() == right.text() || depth > DEPTH_MAX {
        return true;
    }
    if left.kind() != right.kind() {
        return false;
    }
    match budget.get().checked_sub(right.text().len()) {
        Some(rest) => budget.set(rest),
        None => return true,
    }
    match left.kind() {
        Kind::Object => match (left.object(), right.object()) {
            (Some(left), Some(right)) => same_object(&left, &right, &[], (budget, depth)),
            _ => false,
        },
        Kind::Array => {
            let (left, right) = (left.items(), right.items());
            let limits = (budget, depth + 1);
            left.len() == right.len() && left.iter().zip(&right).all(|(left, right)| same(*left, *right, limits))
        }
        // Narratives lose white space when they are made canonical.
        Kind::String => match (left.string(), right.string()) {
            (Some(left), Some(right)) => left.split_whitespace().eq(right.split_whitespace()),
            _ => false,
        },
        // A signer that reads and writes numbers changes how they are written.
        Kind::Number => {
            let decimal = |node: Node<'_>| node.number().and_then(Decimal::parse);
            match (decimal(left), decimal(right)) {
                (Some(left), Some(right)) => left.cmp(&right).is_eq(),
                _ => false,
            }
        }
        Kind::Boolean | Kind::Null => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, format: &str, signed: Option<&str>, bundle: &str) -> Vec<Problem> {
        let url = GeneralPurpose::new(&URL_SAFE, LENIENT);
        let body = signed.map(|signed| url.encode(signed)).unwrap_or_default();
        let compact = format!("{}.{body}.c2lnbmF0dXJl", url.encode("{\"alg\":\"RS256\"}"));
        let data = GeneralPurpose::new(&STANDARD, LENIENT).encode(compact);
        let signature = format!(r#"{{"sigFormat": "{format}", "targetFormat": "{target}", "data": "{data}"}}"#);
        let bundle = bundle.replacen('{', &format!(r#"{{"signature": {signature}, "#), 1);
        let node = Node::parse(bundle.as_bytes()).unwrap();
        let mut problems = Vec::new();
        check_signature(&node.object().unwrap(), &mut problems);
        problems
    }

    const DOCUMENT: &str = "application/fhir+json;canonicalization=http://hl7.org/fhir/canonicalization/json#document";
    const BUNDLE: &str = r#"{"resourceType": "Bundle", "id": "b", "meta": {}, "type": "document",
        "entry": [{"resource": {"resourceType": "Observation", "valueDecimal": 1.50, "text": {"div": "a  b"}}}]}"#;
    const SIGNED: &str = r#"{"entry":[{"resource":{"resourceType":"Observation","text":{"div":"a b"},"valueDecimal":1.5}}],"resourceType":"Bundle","type":"document"}"#;

    #[test]
    fn the_signed_document_may_be_written_in_another_order() {
        assert_eq!(check(DOCUMENT, "application/jose", Some(SIGNED), BUNDLE), []);
    }

    #[test]
    fn a_signature_of_other_content_is_an_error() {
        for (from, to) in [("1.5", "1.6"), ("a b", "a c"), (r#""type":"document""#, r#""type":"collection""#)] {
            let problems = check(DOCUMENT, "application/jose", Some(&SIGNED.replace(from, to)), BUNDLE);
            assert_eq!(problems.len(), 1, "{from}");
            assert_eq!((problems[0].code, problems[0].place.expression.as_str()), ("value", "Bundle"));
        }
        let added = SIGNED.replacen('{', r#"{"timestamp":"2020-01-01T00:00:00Z","#, 1);
        assert_eq!(check(DOCUMENT, "application/jose", Some(&added), BUNDLE).len(), 1);
        assert_eq!(check(DOCUMENT, "application/jose", Some("hello"), BUNDLE).len(), 1);
    }

    #[test]
    fn the_whole_bundle_is_signed_where_the_canonicalization_says_so() {
        let whole = "application/fhir+json;canonicalization=http://hl7.org/fhir/canonicalization/json";
        assert_eq!(check(whole, "application/jose", Some(SIGNED), BUNDLE).len(), 1);
        let with_all = SIGNED.replacen('{', r#"{"id":"b","meta":{},"#, 1);
        assert_eq!(check(whole, "application/jose", Some(&with_all), BUNDLE), []);
    }

    #[test]
    fn what_needs_a_key_or_an_unknown_rule_is_left_alone() {
        assert_eq!(check(DOCUMENT, "application/jose", None, BUNDLE), []);
        assert_eq!(check(DOCUMENT, "image/png", Some("{}"), BUNDLE), []);
        assert_eq!(check("application/fhir+json", "application/jose", Some("{}"), BUNDLE), []);
        let data_only = "application/fhir+json;canonicalization=http://hl7.org/fhir/canonicalization/json#data";
        assert_eq!(check(data_only, "application/jose", Some("{}"), BUNDLE), []);
    }
}
