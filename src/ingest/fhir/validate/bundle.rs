//! The rules of a Bundle as a whole (bdl-1 to bdl-12 as far as the table cannot say them), and what Chartgate ingests.

use super::super::definitions::Table;
use super::super::envelope::BundleType;
use super::super::issue::{Issue, Report, Severity};
use super::super::node::Object;
use super::super::path::Place;
use super::super::split::{Bundle, Entry};
use std::collections::{HashMap, HashSet};

/// The entries of a Bundle by fullUrl: what a `urn:` reference in it may name.
pub struct Directory<'a> {
    by_url: HashMap<&'a str, Option<&'static str>>,
}

impl<'a> Directory<'a> {
    pub fn new(bundle: &'a Bundle<'_>, table: &'static Table) -> Self {
        let known = |entry: &Entry<'_>| {
            let name = &entry.resource.as_ref()?.resource_type;
            table.resource(name).map(|id| table.get(id).name)
        };
        let by_url = bundle.entries.iter().filter_map(|entry| Some((entry.full_url.as_deref()?, known(entry)))).collect();
        Self { by_url }
    }

    /// Whether an entry has that URL, and its resource type if that is known.
    pub fn get(&self, url: &str) -> Option<Option<&'static str>> {
        self.by_url.get(url).copied()
    }
}

/// What an issue is about: the entry (if it is one entry's), the place, and the value there or around.
struct About<'p> {
    entry: Option<u32>,
    place: &'p Place,
    offset: usize,
}

impl Report {
    fn put(&mut self, severity: Severity, code: &'static str, about: &About<'_>, message: impl Into<String>) {
        self.add(Issue {
            severity,
            code,
            entry: about.entry,
            line: None,
            expression: Some(about.place.expression.clone()),
            pointer: Some(about.place.pointer.clone()),
            byte_offset: u64::try_from(about.offset).ok(),
            message: message.into(),
        });
    }

    fn error(&mut self, code: &'static str, about: &About<'_>, message: impl Into<String>) {
        self.put(Severity::Error, code, about, message);
    }
}

/// FHIR's own rules of a Bundle.
pub fn check(report: &mut Report, bundle: &Bundle<'_>, table: &Table) {
    let kind = bundle.object.owned("type").unwrap_or_default();
    check_head(report, bundle, &kind);
    check_full_urls(report, bundle, &kind, table);
    for entry in &bundle.entries {
        let Some(object) = &entry.object else { continue };
        let place = Place::entry(entry.index);
        let about = About { entry: Some(entry.index), place: &place, offset: entry.node.span().start };
        check_parts(report, &kind, object, &about);
        let has_id = entry.resource.as_ref().is_none_or(|resource| resource.id.is_some());
        let is_outcome = entry.resource.as_ref().is_some_and(|resource| resource.resource_type == "OperationOutcome");
        if kind == "searchset" && !has_id && !is_outcome {
            let place = place.member("resource");
            report.error("invariant", &About { place: &place, ..about }, "What a search found has an id.");
        }
    }
}

/// bdl-9 to bdl-12.
fn check_head(report: &mut Report, bundle: &Bundle<'_>, kind: &str) {
    let start = bundle.object.node().span().start;
    let place = Place::bundle();
    let about = About { entry: None, place: &place, offset: start };
    if kind == "document" {
        let identifier = bundle.object.object("identifier");
        let is_identified =
            identifier.is_some_and(|one| one.get("system").is_some() && one.get("value").is_some());
        if !is_identified {
            report.error("invariant", &about, "bdl-9: a document has an identifier with system and value.");
        }
        if bundle.object.get("timestamp").is_none() {
            report.error("invariant", &about, "bdl-10: a document has a timestamp.");
        }
    }
    let Some(first) = bundle.entries.first() else { return };
    let first_type = first.resource.as_ref().map(|resource| resource.resource_type.as_ref());
    let place = Place::resource(0);
    let about = About { entry: Some(0), place: &place, offset: first.node.span().start };
    if kind == "message" && first_type != Some("MessageHeader") {
        report.error("invariant", &about, "The first entry of a message must be a MessageHeader (bdl-12).");
    }
    if kind == "document" && first_type != Some("Composition") {
        report.error("invariant", &about, "The first entry of a document must be a Composition (bdl-11).");
    }
}

/// bdl-7, bdl-8, and what a fullUrl must look like.
fn check_full_urls(report: &mut Report, bundle: &Bundle<'_>, kind: &str, table: &Table) {
    let mut seen = HashSet::new();
    for entry in &bundle.entries {
        let place = Place::entry(entry.index).member("fullUrl");
        let offset = entry.object.as_ref().and_then(|object| object.get("fullUrl")).map_or(0, |node| node.span().start);
        let about = About { entry: Some(entry.index), place: &place, offset };
        let Some(full_url) = entry.full_url.as_deref() else { continue };
        if full_url.contains("/_history/") {
            report.error("invariant", &about, "fullUrl must not name a version (bdl-8).");
        }
        if !is_absolute(full_url) {
            // Documents and messages are resolved by it alone; elsewhere the id says enough.
            let is_needed = matches!(kind, "document" | "message");
            let severity = if is_needed { Severity::Error } else { Severity::Warning };
            let place = Place::entry(entry.index);
            report.put(severity, "value", &About { place: &place, ..about }, "fullUrl must be an absolute URL.");
        }
        let resource = entry.resource.as_ref();
        if let Some(resource) = resource
            && let Some(id) = resource.id.as_deref()
            && disagrees(full_url, &resource.resource_type, id, table)
        {
            let place = Place::entry(entry.index);
            let message = "fullUrl disagrees with the type and id of its resource.";
            report.error("value", &About { place: &place, ..about }, message);
        }
        let version = resource
            .and_then(|resource| resource.object.object("meta"))
            .and_then(|meta| meta.owned("versionId"));
        if kind != "history" && !seen.insert((full_url, version)) {
            report.error("duplicate", &about, "Another entry has the same fullUrl and version (bdl-7).");
        }
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

/// A URL of a RESTful server that names another resource than its own.
fn disagrees(full_url: &str, resource_type: &str, id: &str, table: &Table) -> bool {
    if !full_url.starts_with("http://") && !full_url.starts_with("https://") {
        return false;
    }
    let mut parts = full_url.rsplit('/');
    match (parts.next(), parts.next()) {
        (Some(last), Some(name)) if table.resource(name).is_some() => name != resource_type || last != id,
        _ => false,
    }
}

/// bdl-2 to bdl-4: which parts an entry has.
fn check_parts(report: &mut Report, kind: &str, object: &Object<'_>, about: &About<'_>) {
    let mut put = |severity, code, member: &str, message: &str| {
        let place = about.place.member(member);
        let offset = object.get(member).map_or(about.offset, |node| node.span().start);
        report.put(severity, code, &About { place: &place, offset, ..*about }, message);
    };
    if object.get("search").is_some() && kind != "searchset" {
        put(Severity::Error, "invariant", "search", "Only entries of a searchset have a search (bdl-2).");
    }
    let is_exchange = matches!(kind, "batch" | "transaction" | "history");
    match (object.get("request").is_some(), is_exchange) {
        (false, true) => {
            put(Severity::Error, "required", "request", "An entry of a transaction or batch must have a request (bdl-3).");
        }
        // Harmless: what a batch asked for, sent on as a collection.
        (true, false) if !kind.is_empty() => put(
            Severity::Warning,
            "invariant",
            "request",
            "Only entries of a transaction, batch or history have a request (bdl-3).",
        ),
        _ => {}
    }
    let is_answer = matches!(kind, "batch-response" | "transaction-response" | "history");
    match (object.get("response").is_some(), is_answer) {
        (false, true) => put(Severity::Error, "required", "response", "An entry of an answer must have a response (bdl-4)."),
        (true, false) if !kind.is_empty() => {
            put(Severity::Error, "invariant", "response", "Only entries of an answer have a response (bdl-4).");
        }
        _ => {}
    }
}

/// What keeps a valid Bundle, or an entry of it, from being ingested.
pub fn check_ingestible(report: &mut Report, bundle: &Bundle<'_>) {
    let place = Place::bundle();
    let start = bundle.object.node().span().start;
    if bundle.bundle_type.is_none() {
        let place = place.member("type");
        let offset = bundle.object.get("type").map_or(start, |node| node.span().start);
        let message = "Bundle.type must be transaction, batch, collection or message.";
        report.error("not-supported", &About { entry: None, place: &place, offset }, message);
        return;
    }
    if bundle.entries.is_empty() {
        let place = place.member("entry");
        let about = About { entry: None, place: &place, offset: start };
        report.error("required", &about, "Bundle.entry must hold at least one entry.");
    }
    for entry in &bundle.entries {
        check_entry(report, bundle.bundle_type, entry);
    }
}

fn check_entry(report: &mut Report, bundle_type: Option<BundleType>, entry: &Entry<'_>) {
    let Some(object) = &entry.object else { return };
    let place = Place::entry(entry.index);
    let offset = entry.node.span().start;
    if object.get("resource").is_none() {
        let place = place.member("resource");
        let about = About { entry: Some(entry.index), place: &place, offset };
        report.error("required", &about, "The entry has no resource.");
    }
    let needs_request = bundle_type.is_some_and(BundleType::needs_requests);
    let Some(request) = object.object("request").filter(|_| needs_request) else { return };
    let place = place.member("request").member("method");
    let offset = request.get("method").map_or(offset, |node| node.span().start);
    let about = About { entry: Some(entry.index), place: &place, offset };
    match request.string("method").as_deref() {
        Some("DELETE") => report.error("not-supported", &about, "DELETE entries are not carried out."),
        Some("PATCH") => report.error("not-supported", &about, "PATCH entries are not carried out."),
        Some("GET" | "HEAD") => report.error("not-supported", &about, "GET and HEAD entries are not answered."),
        _ => {}
    }
}
