//! Documents and messages: what the first entry refers to is in the Bundle (FHIR R4, documents.html and bundle.html,
//! resolving references in bundles), and links between data and narratives lead somewhere.
//!
//! Resources are opened one after another and not kept; what is kept of each is its address.

use super::{Found, Problem, choice, narrative};
use crate::ingest::fhir::node::{Node, Object};
use crate::ingest::fhir::path::Place;
use crate::ingest::fhir::types;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

const TEXT_LINK: &str = "http://hl7.org/fhir/StructureDefinition/textLink";
const NARRATIVE_LINK: &str = "http://hl7.org/fhir/StructureDefinition/narrativeLink";

/// Entries with the same URL that are compared with a versioned reference.
const CANDIDATES_MAX: usize = 100;

/// Levels of sections, or of elements where ids are looked for.
const DEPTH_MAX: usize = 64;

/// Check a Bundle of type `document` or `message`; another one is passed over.
pub fn check_document(bundle: &Object<'_>, problems: &mut Vec<Problem>) {
    let kind = bundle.string("type");
    if !matches!(kind.as_deref(), Some("document" | "message")) {
        return;
    }
    let entries = bundle.items("entry");
    let addresses = Addresses::read(&entries);
    let mut check =
        Check { addresses: &addresses, entries: &entries, counted: HashMap::new(), found: Found::new(problems) };
    if let Some(first) = resource(&entries, 0) {
        match (kind.as_deref(), first.string("resourceType").as_deref()) {
            (Some("document"), Some("Composition")) => check.composition(&first),
            (Some("message"), Some("MessageHeader")) => check.message_header(&first),
            _ => {}
        }
    }
    for index in 0..entries.len() {
        if check.found.is_full() {
            return;
        }
        if let Some(resource) = resource(&entries, index) {
            check.narrative_links(index, &resource);
        }
    }
}

fn resource<'a>(entries: &[Node<'a>], index: usize) -> Option<Object<'a>> {
    entries.get(index)?.object()?.object("resource")
}

/// Base, type and id of `http(s)://base/Type/id`.
fn restful(url: &str) -> Option<(&str, &str, &str)> {
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return None;
    }
    let (rest, id) = url.rsplit_once('/')?;
    let (base, kind) = rest.rsplit_once('/')?;
    let is_id = (1..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    (is_id && types::resource_type(kind).is_some()).then_some((base, kind, id))
}

/// Where an entry can be found.
struct Address {
    full_url: Option<String>,
    version: Option<String>,
}

struct Addresses {
    entries: Vec<Address>,
    by_url: HashMap<String, Vec<usize>>,
    /// By `Type/id`.
    by_name: HashMap<String, Vec<usize>>,
}

/// What a reference leads to.
enum Target {
    One(usize),
    None,
    Many,
}

impl Addresses {
    fn read(entries: &[Node<'_>]) -> Self {
        let mut addresses = Self { entries: Vec::new(), by_url: HashMap::new(), by_name: HashMap::new() };
        for (index, node) in entries.iter().enumerate() {
            let entry = node.object();
            let full_url = entry.as_ref().and_then(|entry| entry.owned("fullUrl"));
            let resource = entry.as_ref().and_then(|entry| entry.object("resource"));
            let version =
                resource.as_ref().and_then(|resource| resource.object("meta")).and_then(|meta| meta.owned("versionId"));
            if let Some(url) = &full_url {
                addresses.by_url.entry(url.clone()).or_default().push(index);
            }
            if let Some(resource) = &resource
                && let (Some(kind), Some(id)) = (resource.string("resourceType"), resource.string("id"))
            {
                addresses.by_name.entry(format!("{kind}/{id}")).or_default().push(index);
            }
            addresses.entries.push(Address { full_url, version });
        }
        addresses
    }

    /// The entry that a reference within an entry means, by the rules for references in Bundles.
    fn resolve(&self, reference: &str, from: usize) -> Target {
        let (reference, version) =
            reference.split_once("/_history/").map_or((reference, None), |(plain, version)| (plain, Some(version)));
        let is_absolute = reference.contains(':');
        let base = self.entries.get(from).and_then(|entry| entry.full_url.as_deref()).and_then(restful);
        let candidates = match base {
            _ if is_absolute => self.by_url.get(reference),
            Some((base, ..)) => self.by_url.get(&format!("{base}/{reference}")),
            // Without a RESTful address of its own, an entry can mean others by type and id only.
            None => self.by_name.get(reference),
        };
        let fits = |index: &&usize| {
            let of_entry = self.entries[**index].version.as_deref();
            version.is_none_or(|version| of_entry.is_none_or(|of_entry| of_entry == version))
        };
        // Entries with one URL are versions of one resource; more than these are looked at for nobody.
        let mut fitting = candidates.into_iter().flatten().take(CANDIDATES_MAX).filter(fits);
        match (fitting.next(), fitting.next()) {
            (None, _) => Target::None,
            (Some(index), None) => Target::One(*index),
            (Some(_), Some(_)) => Target::Many,
        }
    }
}

struct Check<'c, 'a, 'p> {
    addresses: &'c Addresses,
    entries: &'c [Node<'a>],
    /// How often each id is in the narratives of entries that links led to.
    counted: HashMap<usize, HashMap<String, usize>>,
    found: Found<'p>,
}

fn entry_place(index: usize) -> Place {
    Place::bundle().member("entry").item(index).member("resource")
}

impl Check<'_, '_, '_> {
    /// What a Composition refers to directly must be in the document.
    fn composition(&mut self, composition: &Object<'_>) {
        let place = entry_place(0);
        for name in ["subject", "encounter", "custodian"] {
            self.one_of_document(composition.object(name), &place.member(name));
        }
        self.each_of_document(composition, "author", &place);
        for (index, attester) in composition.objects("attester").iter().enumerate() {
            let place = place.member("attester").item(index).member("party");
            self.one_of_document(attester.object("party"), &place);
        }
        for (index, event) in composition.objects("event").iter().enumerate() {
            self.each_of_document(event, "detail", &place.member("event").item(index));
        }
        self.sections(composition, &place, 0);
    }

    fn sections(&mut self, parent: &Object<'_>, place: &Place, depth: usize) {
        if depth > DEPTH_MAX || self.found.is_full() {
            return;
        }
        for (index, section) in parent.objects("section").iter().enumerate() {
            let place = place.member("section").item(index);
            self.one_of_document(section.object("focus"), &place.member("focus"));
            self.each_of_document(section, "author", &place);
            self.each_of_document(section, "entry", &place);
            self.sections(section, &place, depth + 1);
        }
    }

    fn each_of_document(&mut self, parent: &Object<'_>, name: &str, place: &Place) {
        for (index, node) in parent.items(name).into_iter().enumerate() {
            self.one_of_document(node.object(), &place.member(name).item(index));
        }
    }

    fn one_of_document(&mut self, reference: Option<Object<'_>>, place: &Place) {
        let Some((target, offset)) = self.target(reference) else { return };
        match target {
            Target::One(_) => {}
            Target::None => {
                let message = "What the Composition refers to must be in the document: no entry has this address.";
                self.found.error("invalid", (place, offset), message);
            }
            Target::Many => {
                let message = "The reference must lead to one entry of the document: several have this address.";
                self.found.error("forbidden", (place, offset), message);
            }
        }
    }

    fn message_header(&mut self, header: &Object<'_>) {
        let place = entry_place(0).member("focus");
        for (index, node) in header.items("focus").into_iter().enumerate() {
            let Some((target, offset)) = self.target(node.object()) else { continue };
            let place = place.item(index);
            match target {
                Target::One(_) => {}
                // A message may leave out what its receiver has.
                Target::None => {
                    self.found.warning("not-found", (&place, offset), "The focus of the message is not in the Bundle.");
                }
                Target::Many => {
                    let message = "The focus must lead to one entry of the message: several have this address.";
                    self.found.error("forbidden", (&place, offset), message);
                }
            }
        }
    }

    /// What a literal reference of the first entry leads to; none if there is none, or if it is contained.
    fn target(&self, reference: Option<Object<'_>>) -> Option<(Target, usize)> {
        let reference = reference?;
        let text = reference.string("reference")?;
        if text.is_empty() || text.starts_with('#') {
            return None;
        }
        Some((self.addresses.resolve(&text, 0), reference.node().span().start))
    }

    /// `textLink` and `narrativeLink`: their ids are in the narratives that they name.
    fn narrative_links(&mut self, index: usize, resource: &Object<'_>) {
        if let Some(text) = resource.object("text") {
            self.text_links(resource, &text, &entry_place(index).member("text"));
        }
        for (position, node) in resource.items("extension").into_iter().enumerate() {
            let Some(extension) = node.object() else { continue };
            if extension.string("url").as_deref() != Some(NARRATIVE_LINK) {
                continue;
            }
            let place = entry_place(index).member("extension").item(position);
            let at = (&place, node.span().start);
            let Some((_, kind, value)) = choice(&extension, "value") else { continue };
            if kind != "url" {
                self.found.error("structure", at, "The extension narrativeLink must have a value of the type url.");
            }
            let Some(link) = value.string() else { continue };
            let Some((url, id)) = link.split_once('#') else { continue };
            let target = if url.is_empty() { Target::One(index) } else { self.addresses.resolve(url, index) };
            // A narrative elsewhere cannot be looked into.
            let Target::One(target) = target else { continue };
            match self.times_in_narratives(target, id) {
                0 => {
                    let message = "The narrative that the link leads to has no such id.";
                    self.found.error("not-found", at, message);
                }
                1 => {}
                _ => {
                    let message = "The link leads to an id that is more than once in the narratives of its resource.";
                    self.found.warning("multiple-matches", at, message);
                }
            }
        }
    }

    fn text_links(&mut self, resource: &Object<'_>, text: &Object<'_>, place: &Place) {
        let links: Vec<_> = text.objects("extension");
        let mut links = links.iter().filter(|link| link.string("url").as_deref() == Some(TEXT_LINK)).peekable();
        if links.peek().is_none() {
            return;
        }
        let div = text.string("div").unwrap_or_default();
        let html: HashSet<Cow<'_, str>> = narrative::ids(&div).into_iter().collect();
        let elements = element_ids(resource.node());
        for link in links {
            for part in link.objects("extension") {
                let Some(value) = choice(&part, "value").and_then(|(_, _, value)| value.string()) else { continue };
                let at = (place, link.node().span().start);
                match part.string("url").as_deref() {
                    Some("htmlid") if !html.contains(&value) => {
                        self.found.error("structure", at, "The htmlid of a textLink is not in the narrative.");
                    }
                    Some("data")
                        if value.strip_prefix('#').is_some_and(|id| !elements.contains(id) && !html.contains(id)) =>
                    {
                        let message = "The data of a textLink is no element of the resource.";
                        self.found.error("not-found", at, message);
                    }
                    _ => {}
                }
            }
        }
    }

    /// How often an id is in the narratives of an entry's resource.
    fn times_in_narratives(&mut self, index: usize, id: &str) -> usize {
        fn count(holder: &Object<'_>, counts: &mut HashMap<String, usize>, depth: usize) {
            if let Some(div) = holder.object("text").and_then(|text| text.owned("div")) {
                for id in narrative::ids(&div) {
                    *counts.entry(id.into_owned()).or_default() += 1;
                }
            }
            if depth <= DEPTH_MAX {
                holder.objects("section").iter().for_each(|section| count(section, counts, depth + 1));
            }
        }
        let entries = self.entries;
        let counts = self.counted.entry(index).or_insert_with(|| {
            let mut counts = HashMap::new();
            if let Some(resource) = resource(entries, index) {
                count(&resource, &mut counts, 0);
            }
            counts
        });
        counts.get(id).copied().unwrap_or(0)
    }
}

/// All `id`s within a resource, its own and those of elements and contained resources.
fn element_ids(resource: Node<'_>) -> HashSet<String> {
    let mut ids = HashSet::new();
    let mut open = vec![(resource, 0)];
    while let Some((node, depth)) = open.pop() {
        if depth > 2 * DEPTH_MAX {
            continue;
        }
        if let Some(object) = node.object() {
            for (key, value) in object.members() {
                match value.string() {
                    Some(id) if key == "id" => {
                        ids.insert(id.into_owned());
                    }
                    Some(_) => {}
                    None => open.push((value, depth + 1)),
                }
            }
        } else {
            open.extend(node.items().into_iter().map(|item| (item, depth + 1)));
        }
    }
    ids
}

#[cfg(test)]
mod tests;
