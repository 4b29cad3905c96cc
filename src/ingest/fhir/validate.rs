//! The `validate` step's check of a Bundle: its own rules, its entries', and the top-level shape of the resources that
//! findings are taken from.
//!
//! The seam for the table-driven validator is `check_resource`: what is checked within one resource is decided there
//! and nowhere else.

use super::envelope::{self, BundleType, EnvelopeFault};
use super::issue::{Issue, Report, Severity};
use super::node::{Kind, Node, Object};
use super::path::Place;
use super::references::each_reference;
use super::split::{self, Bundle, Entry, Resource, SplitError};
use super::types::{self, Element, Shape};
use super::{calendar, types::Temporal};
use std::collections::HashSet;

/// All (kept) issues of a payload.
#[must_use]
pub fn validate_bundle(body: &[u8]) -> Vec<Issue> {
    report(body).issues
}

/// Validate a payload.
#[must_use]
pub fn report(body: &[u8]) -> Report {
    match split::split(body) {
        Ok(bundle) => check(body, &bundle),
        Err(error) => {
            let fault = envelope::scan(body).err().unwrap_or_else(|| unreadable(error));
            fatal(&fault)
        }
    }
}

/// Validate a Bundle that is already cut.
#[must_use]
pub fn check(body: &[u8], bundle: &Bundle<'_>) -> Report {
    if let Some(fault) = envelope::unsafe_text(body) {
        return fatal(&fault);
    }
    let mut report = Report { entries: u32::try_from(bundle.entries.len()).unwrap_or(u32::MAX), ..Report::default() };
    check_bundle(&mut report, bundle);
    check_full_urls(&mut report, bundle);
    for entry in &bundle.entries {
        check_entry(&mut report, bundle.bundle_type, entry);
    }
    check_local_references(&mut report, bundle);
    report
}

fn unreadable(error: SplitError) -> EnvelopeFault {
    EnvelopeFault { code: "not_a_bundle", message: error.to_string(), expression: None, pointer: None }
}

/// A payload that cannot be read as a Bundle: one issue, nothing ingested.
fn fatal(fault: &EnvelopeFault) -> Report {
    let mut report = Report::default();
    report.add(Issue {
        severity: Severity::Fatal,
        code: "structure",
        entry: None,
        line: None,
        expression: fault.expression.clone(),
        pointer: fault.pointer.clone(),
        byte_offset: None,
        message: fault.message.clone(),
    });
    report
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

fn check_bundle(report: &mut Report, bundle: &Bundle<'_>) {
    let place = Place::bundle();
    let start = bundle.object.node().span().start;
    if let Some(offset) = duplicate_key(&bundle.object) {
        report.error(
            "structure",
            &About { entry: None, place: &place, offset },
            "The Bundle has two members with the same key.",
        );
    }
    let Some(bundle_type) = bundle.bundle_type else {
        let place = place.member("type");
        let offset = bundle.object.get("type").map_or(start, |node| node.span().start);
        let message = "Bundle.type must be transaction, batch, collection or message.";
        report.error("not-supported", &About { entry: None, place: &place, offset }, message);
        return;
    };
    if let Some(id) = bundle.object.get("id") {
        check_id(report, None, &place, id);
    }
    if let Some(timestamp) = bundle.object.get("timestamp") {
        let element = Element { name: "timestamp", shape: Shape::Time(Temporal::Instant) };
        check_shape(report, None, &place, &element, timestamp);
    }
    let Some(first) = bundle.entries.first() else {
        let place = place.member("entry");
        report.error(
            "required",
            &About { entry: None, place: &place, offset: start },
            "Bundle.entry must hold at least one entry.",
        );
        return;
    };
    let first_type = first.resource.as_ref().map(|resource| resource.resource_type.as_ref());
    if bundle_type == BundleType::Message && first_type != Some("MessageHeader") {
        let place = Place::resource(0);
        let about = About { entry: Some(0), place: &place, offset: first.node.span().start };
        report.error("invariant", &about, "The first entry of a message must be a MessageHeader (bdl-12).");
    }
}

/// bdl-7 and bdl-8.
fn check_full_urls(report: &mut Report, bundle: &Bundle<'_>) {
    let mut seen = HashSet::new();
    for entry in &bundle.entries {
        let place = Place::entry(entry.index).member("fullUrl");
        let offset = entry.node.span().start;
        let about = About { entry: Some(entry.index), place: &place, offset };
        let Some(full_url) = entry.full_url.as_deref() else { continue };
        if full_url.contains("/_history/") {
            report.error("invariant", &about, "fullUrl must not name a version (bdl-8).");
        }
        let version = entry
            .resource
            .as_ref()
            .and_then(|resource| resource.object.object("meta"))
            .and_then(|meta| meta.owned("versionId"));
        if !seen.insert((full_url, version)) {
            report.error("duplicate", &about, "Another entry has the same fullUrl and version (bdl-7).");
        }
    }
}

fn check_entry(report: &mut Report, bundle_type: Option<BundleType>, entry: &Entry<'_>) {
    let place = Place::entry(entry.index);
    let start = entry.node.span().start;
    let about = About { entry: Some(entry.index), place: &place, offset: start };
    let Some(object) = &entry.object else {
        report.error("structure", &about, "An entry must be an object.");
        return;
    };
    if let Some(offset) = duplicate_key(object) {
        let about = About { offset, ..about };
        report.error("structure", &about, "The entry has two members with the same key.");
    }
    if let Some(full_url) = object.get("fullUrl") {
        let element = Element { name: "fullUrl", shape: Shape::Json(Kind::String) };
        check_shape(report, Some(entry.index), &place, &element, full_url);
    }
    check_request(report, bundle_type, entry.index, &place, object);
    let Some(resource) = &entry.resource else {
        let place = place.member("resource");
        let about = About { entry: Some(entry.index), place: &place, offset: start };
        let (code, message) = match object.get("resource").map(|node| node.kind()) {
            None => ("required", "The entry has no resource.".to_owned()),
            Some(Kind::Object) => ("required", "The resource has no resourceType.".to_owned()),
            Some(kind) => ("structure", format!("A resource must be an object, not {}.", article(kind))),
        };
        report.error(code, &about, message);
        return;
    };
    check_resource(report, entry.index, resource);
}

fn check_request(report: &mut Report, bundle_type: Option<BundleType>, index: u32, entry: &Place, object: &Object<'_>) {
    let place = entry.member("request");
    let needed = bundle_type.is_some_and(BundleType::needs_requests);
    let Some(node) = object.get("request") else {
        if needed {
            let about = About { entry: Some(index), place: &place, offset: object.node().span().start };
            report.error("required", &about, "An entry of a transaction or batch must have a request (bdl-3).");
        }
        return;
    };
    let about = About { entry: Some(index), place: &place, offset: node.span().start };
    if !needed && bundle_type.is_some() {
        report.put(
            Severity::Warning,
            "invariant",
            &about,
            "Only entries of a transaction or batch have a request (bdl-3).",
        );
    }
    let Some(request) = node.object() else {
        report.error("structure", &about, "A request must be an object.");
        return;
    };
    let place = about.place.member("method");
    let at_method = About { entry: Some(index), place: &place, offset: node.span().start };
    match request.string("method").as_deref() {
        Some("POST" | "PUT") => {}
        Some("DELETE") => report.error("not-supported", &at_method, "DELETE entries are not carried out."),
        Some("PATCH") => report.error("not-supported", &at_method, "PATCH entries are not carried out."),
        Some("GET" | "HEAD") => report.error("not-supported", &at_method, "GET and HEAD entries are not answered."),
        Some(_) => report.error("value", &at_method, "request.method is not an HTTP verb of FHIR."),
        None => report.error("required", &at_method, "A request must have a method."),
    }
    if request.string("url").is_none_or(|url| url.is_empty()) {
        let place = about.place.member("url");
        let at_url = About { entry: Some(index), place: &place, offset: node.span().start };
        report.error("required", &at_url, "A request must have a url.");
    }
}

/// What is checked within one resource.
fn check_resource(report: &mut Report, entry: u32, resource: &Resource<'_>) {
    let place = Place::resource(entry);
    let start = resource.object.node().span().start;
    let Some(name) = types::resource_type(&resource.resource_type) else {
        let place = place.member("resourceType");
        let offset = resource.object.get("resourceType").map_or(start, |node| node.span().start);
        report.error(
            "structure",
            &About { entry: Some(entry), place: &place, offset },
            "FHIR R4 has no resource type of that name.",
        );
        return;
    };
    if let Some(offset) = duplicate_key(&resource.object) {
        let about = About { entry: Some(entry), place: &place, offset };
        report.error("structure", &about, format!("{name} has two members with the same key."));
    }
    if let Some(id) = resource.object.get("id") {
        check_id(report, Some(entry), &place, id);
    }
    if let Some(updated) = resource.object.object("meta").and_then(|meta| meta.get("lastUpdated")) {
        let element = Element { name: "lastUpdated", shape: Shape::Time(Temporal::Instant) };
        check_shape(report, Some(entry), &place.member("meta"), &element, updated);
    }
    check_elements(report, entry, &place, &types::RESOURCE, name, &resource.object);
    if let Some(definition) = types::definition(name) {
        check_elements(report, entry, &place, definition, name, &resource.object);
    }
}

fn check_elements(
    report: &mut Report,
    entry: u32,
    place: &Place,
    definition: &types::Definition,
    name: &str,
    object: &Object<'_>,
) {
    for required in definition.required {
        let present = required.members.iter().filter(|member| object.get(member).is_some()).count();
        let place = place.member(required.name.trim_end_matches("[x]"));
        let about = About { entry: Some(entry), place: &place, offset: object.node().span().start };
        match present {
            0 => {
                // A primitive may be absent with a reason: `_status` with an extension.
                let excused = required.members.iter().any(|member| object.get(&format!("_{member}")).is_some());
                if !excused {
                    report.error("required", &about, format!("{name}.{} is required.", required.name));
                }
            }
            1 => {}
            _ => report.error("structure", &about, format!("{name}.{} is there more than once.", required.name)),
        }
    }
    for element in definition.elements {
        if let Some(node) = object.get(element.name) {
            check_shape(report, Some(entry), place, element, node);
        }
    }
}

fn check_shape(report: &mut Report, entry: Option<u32>, parent: &Place, element: &Element, node: Node<'_>) {
    let kind = match element.shape {
        Shape::Json(kind) => kind,
        Shape::Time(_) => Kind::String,
    };
    // The place is made only when something is wrong: most values are right.
    let place = || parent.member(element.name);
    let offset = node.span().start;
    if node.kind() != kind {
        let message = format!("{} must be {}, not {}.", element.name, article(kind), article(node.kind()));
        report.error("structure", &About { entry, place: &place(), offset }, message);
        return;
    }
    if matches!(node.text(), "\"\"" | "[]" | "{}") {
        let message = format!("{} must not be empty.", element.name);
        report.error("structure", &About { entry, place: &place(), offset }, message);
        return;
    }
    if let Shape::Time(temporal) = element.shape
        && node.string().is_none_or(|text| calendar::parse(&text, temporal).is_none())
    {
        let message = format!("{} is not a valid {}.", element.name, temporal.as_str());
        report.error("value", &About { entry, place: &place(), offset }, message);
    }
}

fn check_id(report: &mut Report, entry: Option<u32>, parent: &Place, node: Node<'_>) {
    let valid = node.string().is_some_and(|id| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
    });
    if !valid && node.kind() == Kind::String {
        let place = parent.member("id");
        let message = "An id has 1 to 64 letters, digits, hyphens and dots.";
        report.error("value", &About { entry, place: &place, offset: node.span().start }, message);
    }
}

/// `urn:uuid:` and `urn:oid:` have no meaning outside the Bundle: they must name one of its entries.
fn check_local_references(report: &mut Report, bundle: &Bundle<'_>) {
    let full_urls: HashSet<&str> = bundle.entries.iter().filter_map(|entry| entry.full_url.as_deref()).collect();
    for entry in &bundle.entries {
        let Some(resource) = &entry.resource else { continue };
        let node = resource.object.node();
        // Most resources only refer to entries that are there: those are not walked.
        if !may_refer_elsewhere(node.text(), &full_urls) {
            continue;
        }
        each_reference(node, &Place::resource(entry.index), |reference, place, offset| {
            let local = reference.starts_with("urn:uuid:") || reference.starts_with("urn:oid:");
            if local && !full_urls.contains(reference) {
                let about = About { entry: Some(entry.index), place: &place, offset };
                let message = "The reference names no entry of this Bundle.";
                report.put(Severity::Warning, "not-found", &about, message);
            }
        });
    }
}

/// A string of this JSON text begins with `urn:` and is no fullUrl, or has an escape that could spell one.
fn may_refer_elsewhere(text: &str, full_urls: &HashSet<&str>) -> bool {
    let unknown = |(start, _): (usize, &str)| {
        let rest = &text[start + 1..];
        rest.find('"').is_none_or(|end| !full_urls.contains(&rest[..end]))
    };
    text.match_indices("\"urn:").any(unknown) || text.contains("\\u")
}

/// The offset of the second of two members with the same key.
fn duplicate_key(object: &Object<'_>) -> Option<usize> {
    let mut seen = HashSet::new();
    object.members().find(|(key, _)| !seen.insert(*key)).map(|(_, node)| node.span().start)
}

fn article(kind: Kind) -> String {
    let article = if matches!(kind, Kind::Object | Kind::Array) { "an" } else { "a" };
    match kind {
        Kind::Null => "null".to_owned(),
        _ => format!("{article} {}", kind.as_str()),
    }
}

#[cfg(test)]
mod tests;
