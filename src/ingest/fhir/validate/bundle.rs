//! The rules of a Bundle as a whole (bdl-2 to bdl-12 as far as the table cannot say them), and what of it Chartgate
//! ingests. The facts are gathered while the walk goes by; they are judged when the Bundle ends, since its `type` may come
//! last.

use super::super::definitions::{Element, Type};
use super::super::envelope::BundleType;
use super::super::issue::Severity;
use super::super::node::Node;
use super::super::path::Place;
use super::deep;
use super::frame::Frame;
use super::rules::{look_at, wrong_target};
use super::walk::Walk;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// What is known of the Bundle.
#[derive(Default)]
pub struct BundleFacts<'a> {
    /// `Bundle.type`, once the Bundle is over.
    pub kind: Option<Cow<'a, str>>,
    /// The Bundle was read to its end.
    pub is_whole: bool,
    /// References to entries that were not seen before them.
    pub pending: Vec<PendingReference<'a>>,
    /// In order.
    pub entries: Vec<EntryFacts<'a>>,
    by_url: HashMap<Cow<'a, str>, Named>,
}

/// What a URL names in the Bundle.
#[derive(Debug, Clone, Copy)]
pub enum Named {
    /// A resource of that type.
    Resource(&'static str),
    /// An entry without a resource, or with one of no known type.
    Entry,
}

impl Named {
    pub fn resource(self) -> Option<&'static str> {
        match self {
            Self::Resource(name) => Some(name),
            Self::Entry => None,
        }
    }
}

impl BundleFacts<'_> {
    /// What an entry that was read has under that fullUrl.
    pub fn named(&self, url: &str) -> Option<Named> {
        self.by_url.get(url).copied()
    }
}

/// What is known of an entry.
pub struct EntryFacts<'a> {
    index: u32,
    offset: usize,
    full_url: Option<(Cow<'a, str>, usize)>,
    resource: Option<ResourceFacts<'a>>,
    method: Option<(Cow<'a, str>, usize)>,
    /// Its members, as groups of its type.
    members: u128,
    of: &'static Type,
}

impl EntryFacts<'_> {
    fn has(&self, member: &str) -> bool {
        self.members & self.of.bit(member) != 0
    }
}

/// What is known of an entry's resource, if its type is known.
pub struct ResourceFacts<'a> {
    pub name: &'static str,
    pub id: Option<Cow<'a, str>>,
    pub version: Option<Cow<'a, str>>,
}

/// A `urn:` reference whose entry was not seen yet.
pub struct PendingReference<'a> {
    pub text: Cow<'a, str>,
    pub entry: Option<u32>,
    /// The place of the Reference, of the first ones.
    pub place: Option<Place>,
    pub element: &'static Element,
    /// The offset of the Reference.
    pub start: usize,
    /// The offset of its `reference`.
    pub offset: usize,
}

/// Take in an entry that was read to its end.
pub fn take_entry(walk: &mut Walk<'_, '_>, of: &'static Type, frame: &Frame, start: usize) {
    let (true, Some(index)) = (walk.is_in_outer_bundle(), walk.entry()) else { return };
    let (resource, method) = (walk.resource.take(), walk.method.take());
    let slot = of.slot("fullUrl");
    let offset = slot.and_then(|slot| frame.span(slot)).map_or(start, |span| span.start);
    let full_url = walk.kept(frame, slot).map(|url| (url, offset));
    if let Some((url, _)) = &full_url {
        let named = resource.as_ref().map_or(Named::Entry, |resource| Named::Resource(resource.name));
        walk.bundle.by_url.insert(url.clone(), named);
    }
    walk.bundle.entries.push(EntryFacts { index, offset: start, full_url, resource, method, members: frame.seen, of });
}

/// Judge the Bundle that was read to its end.
pub fn check(walk: &mut Walk<'_, '_>, of: &'static Type, frame: &Frame, span: &Range<usize>) {
    let mut facts = std::mem::take(&mut walk.bundle);
    facts.kind = walk.kept(frame, of.slot("type"));
    facts.is_whole = true;
    let kind = facts.kind.clone().unwrap_or_default();
    check_head(walk, &facts, of, frame, span);
    let mut urls = HashSet::new();
    for entry in &facts.entries {
        check_parts(walk, &kind, entry);
        check_full_url(walk, &kind, entry, &mut urls);
        let resource = entry.resource.as_ref();
        if kind == "searchset" && resource.is_some_and(|one| one.id.is_none() && one.name != "OperationOutcome") {
            let place = Place::resource(entry.index);
            let message = "What a search found has an id.";
            walk.issue_of(Some(entry.index), Severity::Error, "invariant", entry.offset, place, message);
        }
    }
    for pending in std::mem::take(&mut facts.pending) {
        check_pending(walk, &facts, pending);
    }
    let is_whole = walk.part.is_none();
    if is_whole && (matches!(kind.as_ref(), "document" | "message") || frame.seen & of.bit("signature") != 0) {
        look_at(walk, deep::Kind::Bundle, span);
    }
    walk.bundle = facts;
}

fn check_pending(walk: &mut Walk<'_, '_>, facts: &BundleFacts<'_>, pending: PendingReference<'_>) {
    let PendingReference { text, entry, place, element, start, offset } = pending;
    let place = place.unwrap_or_else(|| entry.map_or_else(Place::bundle, Place::resource));
    let Some(found) = facts.named(&text) else {
        if walk.part.is_some() {
            return;
        }
        let message = "The reference names no entry of this Bundle.";
        walk.issue_of(entry, Severity::Warning, "not-found", offset, place.member("reference"), message);
        return;
    };
    let allowed = element.targets.map(|targets| walk.table.targets(targets)).unwrap_or_default();
    if let Some(name) = found.resource().filter(|name| !allowed.is_empty() && !allowed.contains(name)) {
        walk.issue_of(entry, Severity::Error, "structure", start, place, wrong_target(element, allowed, name));
    }
}

/// bdl-9 to bdl-12.
fn check_head(walk: &mut Walk<'_, '_>, facts: &BundleFacts<'_>, of: &Type, frame: &Frame, span: &Range<usize>) {
    let kind = facts.kind.as_deref().unwrap_or_default();
    let body = walk.body;
    let mut broken = |message: &str| {
        walk.issue_of(None, Severity::Error, "invariant", span.start, Place::bundle(), message);
    };
    if kind == "document" {
        let bundle = Node::within(body, span.clone()).object();
        let identifier = bundle.and_then(|bundle| bundle.object("identifier"));
        if identifier.is_none_or(|one| one.get("system").is_none() || one.get("value").is_none()) {
            broken("bdl-9: a document has an identifier with system and value.");
        }
        if frame.seen & of.bit("timestamp") == 0 {
            broken("bdl-10: a document has a timestamp.");
        }
    }
    if walk.part.is_some_and(|part| !part.has_first) {
        return;
    }
    let Some(first) = facts.entries.first() else { return };
    let first_type = first.resource.as_ref().map(|resource| resource.name);
    let message = match kind {
        "message" if first_type != Some("MessageHeader") => {
            "The first entry of a message must be a MessageHeader (bdl-12)."
        }
        "document" if first_type != Some("Composition") => {
            "The first entry of a document must be a Composition (bdl-11)."
        }
        _ => return,
    };
    walk.issue_of(Some(0), Severity::Error, "invariant", first.offset, Place::resource(0), message);
}

/// bdl-7, bdl-8, and what a fullUrl must look like.
fn check_full_url<'e>(
    walk: &mut Walk<'_, '_>,
    kind: &str,
    entry: &'e EntryFacts<'_>,
    seen: &mut HashSet<(&'e str, Option<&'e str>)>,
) {
    let Some((url, offset)) = &entry.full_url else { return };
    let resource = entry.resource.as_ref();
    let mut put = |severity, code, place, message: &str| {
        walk.issue_of(Some(entry.index), severity, code, *offset, place, message);
    };
    let own = || Place::entry(entry.index).member("fullUrl");
    if url.contains("/_history/") {
        put(Severity::Error, "invariant", own(), "fullUrl must not name a version (bdl-8).");
    }
    if !is_absolute(url) {
        // Documents and messages are resolved by it alone; elsewhere the id says enough.
        let is_needed = matches!(kind, "document" | "message");
        let severity = if is_needed { Severity::Error } else { Severity::Warning };
        put(severity, "value", Place::entry(entry.index), "fullUrl must be an absolute URL.");
    }
    let version = resource.and_then(|resource| resource.version.as_deref());
    if kind != "history" && !seen.insert((url, version)) {
        put(Severity::Error, "duplicate", own(), "Another entry has the same fullUrl and version (bdl-7).");
    }
    let (Some(resource), Some((server, id))) = (resource, url.rsplit_once('/')) else { return };
    let is_server = url.starts_with("http://") || url.starts_with("https://");
    let name = server.rsplit('/').next().filter(|name| is_server && walk.table.resource(name).is_some());
    if let (Some(name), Some(own_id)) = (name, resource.id.as_deref())
        && (name != resource.name || id != own_id)
    {
        let message = "fullUrl disagrees with the type and id of its resource.";
        let place = Place::entry(entry.index);
        walk.issue_of(Some(entry.index), Severity::Error, "value", *offset, place, message);
    }
}

/// It has a scheme (RFC 3986 §3.1).
fn is_absolute(url: &str) -> bool {
    url.split_once(':').is_some_and(|(scheme, rest)| {
        !rest.is_empty()
            && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    })
}

/// bdl-2 to bdl-4: which parts an entry has.
fn check_parts(walk: &mut Walk<'_, '_>, kind: &str, entry: &EntryFacts<'_>) {
    let mut put = |severity, code, member: &str, message: &str| {
        let place = Place::entry(entry.index).member(member);
        walk.issue_of(Some(entry.index), severity, code, entry.offset, place, message);
    };
    if entry.has("search") && kind != "searchset" {
        put(Severity::Error, "invariant", "search", "Only entries of a searchset have a search (bdl-2).");
    }
    let asks = matches!(kind, "batch" | "transaction" | "history");
    if !entry.has("request") && asks {
        put(Severity::Error, "required", "request", "An entry of a transaction or batch must have a request (bdl-3).");
    }
    if entry.has("request") && !asks && !kind.is_empty() {
        // Harmless: what a batch asked for, sent on as a collection.
        let message = "Only entries of a transaction, batch or history have a request (bdl-3).";
        put(Severity::Warning, "invariant", "request", message);
    }
    let answers = matches!(kind, "batch-response" | "transaction-response" | "history");
    if !entry.has("response") && answers {
        put(Severity::Error, "required", "response", "An entry of an answer must have a response (bdl-4).");
    }
    if entry.has("response") && !answers && !kind.is_empty() {
        put(Severity::Error, "invariant", "response", "Only entries of an answer have a response (bdl-4).");
    }
}

/// What keeps a valid Bundle, or an entry of it, from being ingested.
pub fn check_ingestible(walk: &mut Walk<'_, '_>) {
    let facts = std::mem::take(&mut walk.bundle);
    let kind = facts.kind.as_deref().and_then(BundleType::from_code);
    let mut put = |entry, code, offset, place, message: &str| {
        walk.issue_of(entry, Severity::Error, code, offset, place, message);
    };
    if kind.is_none() {
        let message = "Bundle.type must be transaction, batch, collection or message.";
        put(None, "not-supported", 0, Place::bundle().member("type"), message);
    } else if facts.entries.is_empty() {
        let message = "Bundle.entry must hold at least one entry.";
        put(None, "required", 0, Place::bundle().member("entry"), message);
    }
    for entry in &facts.entries {
        let index = Some(entry.index);
        if !entry.has("resource") {
            let place = Place::entry(entry.index).member("resource");
            put(index, "required", entry.offset, place, "The entry has no resource.");
        }
        let Some((method, offset)) = entry.method.as_ref().filter(|_| kind.is_some_and(BundleType::needs_requests))
        else {
            continue;
        };
        let message = match method.as_ref() {
            "DELETE" => "DELETE entries are not carried out.",
            "PATCH" => "PATCH entries are not carried out.",
            "GET" | "HEAD" => "GET and HEAD entries are not answered.",
            _ => continue,
        };
        let place = Place::entry(entry.index).member("request").member("method");
        put(index, "not-supported", *offset, place, message);
    }
    walk.bundle = facts;
}
