//! The walk: one pass over the JSON text of a resource beside the table of its definitions. No tree is built; what an
//! invariant needs of an object is kept in a frame until the object ends.

use super::super::definitions::{Element, Kind, Primitive, Table, Type, TypeId, TypeKind};
use super::super::envelope::DEPTH_MAX;
use super::super::issue::{Issue, Report, Severity};
use super::super::json::{Cursor, SyntaxError, Text};
use super::super::path::Place;
use super::bundle::{BundleFacts, ResourceFacts};
use super::{primitive, rules};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// Values of an object that are kept until it ends.
pub const SLOTS: usize = super::super::definitions::SLOTS;

/// A step of the way from the root.
#[derive(Debug, Clone, Copy)]
pub enum Segment {
    Root(&'static str),
    Member(&'static Element),
    /// `_name`: id and extensions of a primitive.
    Sibling(&'static Element),
    Item(u32),
}

/// A kept value: where it stands, and how many an array had.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slot {
    start: u32,
    end: u32,
    count: u32,
}

/// What is known of an object while its members go by.
#[derive(Default)]
pub struct Frame {
    /// Groups with a value.
    pub seen: u128,
    /// Groups with an `_name`.
    pub siblings: u128,
    slots: [Slot; SLOTS],
    /// Arrays of primitives: group and number of items. Only the first few are remembered, which is more than any type has
    /// beside `_name` arrays.
    lengths: [(u8, u32); 4],
    known_lengths: usize,
    rare: Vec<Rare>,
}

/// What rarely happens: `null` in arrays of primitives, and what stands beside it.
struct Rare {
    element: &'static Element,
    at: u32,
    offset: usize,
    is_sibling: bool,
    is_null: bool,
}

impl Frame {
    fn remember_length(&mut self, group: u8, length: u32) {
        if let Some(place) = self.lengths.get_mut(self.known_lengths) {
            *place = (group, length);
            self.known_lengths += 1;
        }
    }

    fn length(&self, group: u8) -> Option<u32> {
        self.lengths[..self.known_lengths].iter().find(|(one, _)| *one == group).map(|(_, length)| *length)
    }

    /// Items of the array in that slot; 1 for a single value, 0 for none.
    pub fn count(&self, slot: u8) -> u32 {
        self.slots[usize::from(slot)].count
    }

    /// Where the value in that slot stands, quotes included.
    pub fn span(&self, slot: u8) -> Option<Range<usize>> {
        let slot = self.slots[usize::from(slot)];
        (slot.count > 0).then_some(slot.start as usize..slot.end as usize)
    }
}

/// What belongs to one resource and those that it contains.
#[derive(Default)]
pub struct Local<'a> {
    /// Contained resources: id, place, and whether it refers to its container.
    pub contained: Vec<Contained<'a>>,
    /// Ids that are referred to as `#id`.
    pub fragments: Vec<Fragment<'a>>,
    within_contained: bool,
}

pub struct Contained<'a> {
    pub id: Option<Cow<'a, str>>,
    pub place: Place,
    pub offset: usize,
    pub refers_to_container: bool,
}

pub struct Fragment<'a> {
    pub id: Cow<'a, str>,
    /// Only of references: other URIs may point into the narrative.
    pub place: Option<Place>,
    pub offset: usize,
}

/// The walk is over: an issue says why.
pub struct Stopped;

pub struct Walk<'a, 'r> {
    pub table: &'static Table,
    pub body: &'a str,
    cursor: Cursor<'a>,
    path: Vec<Segment>,
    report: &'r mut Report,
    /// The Bundle that is the body itself, as far as it was read.
    pub bundle: BundleFacts<'a>,
    /// The last resource that was read at the place of an entry's.
    pub resource: Option<ResourceFacts<'a>>,
    /// The `meta.versionId` and `request.method` that were read last.
    pub version: Option<Cow<'a, str>>,
    pub method: Option<(Cow<'a, str>, usize)>,
    pub local: Local<'a>,
    depth: usize,
    bundles: usize,
    line: Option<u64>,
    /// Resources that need a look as a whole: where they are.
    pub deep: Vec<(rules::Deep, Range<usize>, Place)>,
}

impl<'a, 'r> Walk<'a, 'r> {
    pub fn new(table: &'static Table, body: &'a str, start: usize, report: &'r mut Report, line: Option<u64>) -> Self {
        Self {
            table,
            body,
            cursor: Cursor::new(body, start),
            path: Vec::with_capacity(32),
            report,
            bundle: BundleFacts::default(),
            resource: None,
            version: None,
            method: None,
            local: Local::default(),
            depth: 0,
            bundles: 0,
            line,
            deep: Vec::new(),
        }
    }

    /// Walk over the whole body, which must be one resource.
    pub fn run(&mut self) {
        let walked = match self.cursor.peek() {
            Some(b'{') => self.resource(),
            None => {
                self.issue(Severity::Fatal, "structure", self.cursor.offset(), "There is no JSON value.");
                return;
            }
            _ => {
                let walked = self.skip();
                if walked.is_ok() {
                    self.issue(Severity::Fatal, "structure", 0, "A resource is a JSON object.");
                }
                walked
            }
        };
        if walked.is_ok() && !self.cursor.is_at_end() {
            self.path.clear();
            self.issue(Severity::Fatal, "structure", self.cursor.offset(), "There is more behind the JSON value.");
        }
    }

    // ---- issues

    /// Where the walk is.
    #[cold]
    pub fn place(&self) -> Place {
        let mut place = Place { expression: String::new(), pointer: String::new() };
        for segment in &self.path {
            match segment {
                Segment::Root(name) => place.expression.push_str(name),
                Segment::Member(element) => place = element_place(&place, element, element.key),
                Segment::Sibling(element) => place = element_place(&place, element, &format!("_{}", element.key)),
                Segment::Item(index) => place = place.item(*index as usize),
            }
        }
        place
    }

    /// The entry of the Bundle that the walk is in.
    pub fn entry(&self) -> Option<u32> {
        match self.path.as_slice() {
            [Segment::Root("Bundle"), Segment::Member(element), Segment::Item(index), ..] if element.key == "entry" => {
                Some(*index)
            }
            _ => None,
        }
    }

    #[cold]
    pub fn issue(&mut self, severity: Severity, code: &'static str, offset: usize, message: impl Into<String>) {
        let entry = self.entry();
        if self.report.is_full() {
            self.report.count(severity, entry);
            return;
        }
        let place = self.place();
        self.issue_at(severity, code, offset, place, message);
    }

    #[cold]
    pub fn issue_at(
        &mut self,
        severity: Severity,
        code: &'static str,
        offset: usize,
        place: Place,
        message: impl Into<String>,
    ) {
        let entry = self.entry();
        self.issue_of(entry, severity, code, offset, place, message);
    }

    #[cold]
    pub fn issue_of(
        &mut self,
        entry: Option<u32>,
        severity: Severity,
        code: &'static str,
        offset: usize,
        place: Place,
        message: impl Into<String>,
    ) {
        let is_placed = !place.expression.is_empty();
        self.report.add(Issue {
            severity,
            code,
            entry,
            line: self.line,
            expression: is_placed.then_some(place.expression),
            pointer: is_placed.then_some(place.pointer),
            byte_offset: u64::try_from(offset).ok(),
            message: message.into(),
        });
    }

    pub fn error(&mut self, code: &'static str, offset: usize, message: impl Into<String>) {
        self.issue(Severity::Error, code, offset, message);
    }

    #[cold]
    fn stop(&mut self, error: SyntaxError) -> Stopped {
        if self.path.is_empty() {
            self.path.extend(self.likely_root().map(Segment::Root));
        }
        self.issue(Severity::Fatal, "structure", error.offset, format!("Not JSON: {}", error.what));
        // What comes behind was not looked at.
        self.report.unusable = true;
        Stopped
    }

    /// The resource type that a broken text names first: it only says where the fault is.
    fn likely_root(&self) -> Option<&'static str> {
        let rest = &self.body[self.body.find("resourceType")?..];
        let name = rest.split('"').map(str::trim).find(|word| self.table.resource(word).is_some())?;
        self.table.resource(name).map(|id| self.table.get(id).name)
    }

    fn skip(&mut self) -> Result<(), Stopped> {
        self.cursor.skip().map_err(|error| self.stop(error))
    }

    fn key(&mut self, first: bool) -> Result<Option<Text<'a>>, Stopped> {
        self.cursor.key(first).map_err(|error| self.stop(error))
    }

    fn item(&mut self, first: bool) -> Result<bool, Stopped> {
        self.cursor.item(first).map_err(|error| self.stop(error))
    }

    fn string(&mut self) -> Result<Text<'a>, Stopped> {
        self.cursor.string().map_err(|error| self.stop(error))
    }

    /// One level deeper; nothing if that is too deep, and then the value was stepped over.
    fn descend(&mut self) -> Result<bool, Stopped> {
        if self.depth == DEPTH_MAX {
            let message = format!("Objects and arrays are nested deeper than {DEPTH_MAX} levels.");
            self.issue(Severity::Fatal, "too-long", self.cursor.offset(), message);
            self.skip()?;
            return Ok(false);
        }
        self.depth += 1;
        Ok(true)
    }

    // ---- resources

    /// The resource whose opening brace is next.
    fn resource(&mut self) -> Result<(), Stopped> {
        let start = self.cursor.offset();
        let found = match self.resource_type() {
            Ok(found) => found,
            Err(error) => return Err(self.stop(error)),
        };
        let Some(name) = found else {
            self.error("required", start, "A resource needs a resourceType.");
            return self.skip();
        };
        let Some(id) = self.table.resource(&name.decode()) else {
            let place = match self.path.is_empty() {
                true => Place { expression: "Resource.resourceType".to_owned(), pointer: "/resourceType".to_owned() },
                false => self.place().member("resourceType"),
            };
            let message = format!("FHIR {} has no resource type of that name.", self.table.release);
            self.issue_at(Severity::Error, "structure", name.offset, place, message);
            return self.skip();
        };
        let of = self.table.get(id);
        if self.path.is_empty() {
            self.path.push(Segment::Root(of.name));
        }
        let is_contained = matches!(
            self.path.as_slice(),
            [.., Segment::Member(element), Segment::Item(_)] if element.key == "contained"
        );
        if is_contained {
            return self.contained(id, start);
        }
        let outer = std::mem::take(&mut self.local);
        let is_bundle = of.name == "Bundle";
        self.bundles += usize::from(is_bundle);
        self.version = None;
        let walked = self.object(id);
        self.bundles -= usize::from(is_bundle);
        if let Ok(frame) = &walked {
            rules::contained(self, of);
            if self.is_entry_resource() {
                let id = self.kept(frame, of.slot("id"));
                self.resource = Some(ResourceFacts { name: of.name, id, version: self.version.take() });
            }
        }
        self.local = outer;
        walked.map(|_| ())
    }

    /// The walk is at `Bundle.entry[i].resource` of the Bundle that is the body itself.
    fn is_entry_resource(&self) -> bool {
        matches!(
            self.path.as_slice(),
            [Segment::Root("Bundle"), Segment::Member(entry), Segment::Item(_), Segment::Member(resource)]
                if entry.key == "entry" && resource.key == "resource"
        )
    }

    fn contained(&mut self, id: TypeId, start: usize) -> Result<(), Stopped> {
        if self.local.within_contained {
            self.error("invariant", start, "A contained resource must not contain others (dom-2).");
            return self.skip();
        }
        let place = self.place();
        self.local.contained.push(Contained { id: None, place, offset: start, refers_to_container: false });
        self.local.within_contained = true;
        let walked = self.object(id);
        self.local.within_contained = false;
        let frame = walked?;
        rules::contained_meta(self, self.table.get(id), &frame, start..self.cursor.offset());
        Ok(())
    }

    /// The `resourceType` of the object that is next, also where it is not the first member.
    fn resource_type(&mut self) -> Result<Option<Text<'a>>, SyntaxError> {
        let mut ahead = self.cursor.clone();
        ahead.open();
        let mut first = true;
        while let Some(key) = ahead.key(first)? {
            first = false;
            let next = ahead.peek();
            if key.decode() == "resourceType" {
                return if next == Some(b'"') { ahead.string().map(Some) } else { Ok(None) };
            }
            ahead.skip()?;
        }
        Ok(None)
    }

    // ---- objects

    /// The object of that type whose opening brace is next.
    fn object(&mut self, id: TypeId) -> Result<Frame, Stopped> {
        let table = self.table;
        let of = table.get(id);
        let start = self.cursor.offset();
        let mut frame = Frame::default();
        if !self.descend()? {
            return Ok(frame);
        }
        self.cursor.open();
        let is_resource = of.kind == TypeKind::Resource;
        let mut types = 0;
        let mut first = true;
        while let Some(key) = self.key(first)? {
            first = false;
            let decoded;
            let name = if key.has_escapes {
                decoded = key.decode();
                decoded.as_ref()
            } else {
                key.raw
            };
            if let Some(element) = of.element(name.as_bytes()) {
                self.member(of, element, &mut frame, &key)?;
                continue;
            }
            let sibling = name.strip_prefix('_').and_then(|name| of.element(name.as_bytes()));
            if let Some(element) = sibling.filter(|element| matches!(element.kind, Kind::Primitive(_))) {
                self.sibling(of, element, &mut frame, &key)?;
            } else if is_resource && name == "resourceType" {
                types += 1;
                if types > 1 {
                    self.duplicate(&key, name);
                }
                self.cursor.peek();
                self.skip()?;
            } else {
                self.unknown(of, &key, name);
                self.cursor.peek();
                self.skip()?;
            }
        }
        self.depth -= 1;
        if first {
            self.error("structure", start, "An object must not be empty.");
        }
        let seen = frame.seen | frame.siblings;
        if of.lacks(seen) {
            self.missing(of, seen, start);
        }
        if !frame.rare.is_empty() {
            self.check_nulls(&frame);
        }
        if !of.invariants.is_empty() {
            rules::invariants(self, of, &frame, start);
        }
        rules::of_object(self, of, &frame, start..self.cursor.offset());
        Ok(frame)
    }

    fn missing(&mut self, of: &'static Type, seen: u128, start: usize) {
        for group in of.missing(seen) {
            let place = self.place().member(group.name);
            let choice = if group.is_choice { "[x]" } else { "" };
            let message = format!("{}.{}{choice} is required.", of.name, group.name);
            self.issue_at(Severity::Error, "required", start, place, message);
        }
    }

    #[cold]
    fn unknown(&mut self, of: &Type, key: &Text<'a>, name: &str) {
        let place = self.place();
        let (pointer, message) = if is_element_name(name) {
            (place.member(name).pointer, format!("{} has no element {name}.", of.name))
        } else {
            // It may be anything, a patient's name included.
            (place.pointer.clone(), format!("{} has a member that is no element's name.", of.name))
        };
        let place = Place { expression: place.expression, pointer };
        self.issue_at(Severity::Error, "structure", key.offset, place, message);
    }

    #[cold]
    fn duplicate(&mut self, key: &Text<'a>, name: &str) {
        self.error("structure", key.offset, format!("There are two members {name}."));
    }

    /// A second member of a group that had one: the same key again, or another type of the choice.
    #[cold]
    fn again(&mut self, of: &'static Type, element: &'static Element, frame: &Frame, key: &Text<'a>) {
        let group = of.group(element);
        let offset = key.offset;
        let is_same = !group.is_choice || frame.seen >> element.group & 1 == 1 && self.has_key_before(key);
        if is_same {
            self.duplicate(key, key.raw);
        } else {
            let place = self.place().member(group.name);
            let message = format!("{}.{}[x] is there with more than one type.", of.name, group.name);
            self.issue_at(Severity::Error, "structure", offset, place, message);
        }
    }

    /// Whether the object has the same key twice: looked up again from its text, which rarely happens.
    fn has_key_before(&self, key: &Text<'a>) -> bool {
        let before = &self.body[..key.offset];
        // The nearest earlier occurrence at any depth is good enough to choose between two sentences.
        before.rfind(&format!("\"{}\"", key.raw)).is_some()
    }

    fn member(
        &mut self,
        of: &'static Type,
        element: &'static Element,
        frame: &mut Frame,
        key: &Text<'a>,
    ) -> Result<(), Stopped> {
        let bit = 1u128 << element.group;
        if frame.seen & bit != 0 {
            self.again(of, element, frame, key);
        }
        frame.seen |= bit;
        self.path.push(Segment::Member(element));
        let walked = self.value(element, frame);
        self.path.pop();
        walked
    }

    fn value(&mut self, element: &'static Element, frame: &mut Frame) -> Result<(), Stopped> {
        let next = self.cursor.peek();
        let start = self.cursor.offset();
        let mut count = 1;
        if element.is_array {
            if next != Some(b'[') {
                self.mismatch(element, "an array", next);
                return self.skip();
            }
            count = self.array(element, frame)?;
        } else {
            self.single(element, frame, None)?;
        }
        if let Some(slot) = element.slot
            && let Some(kept) = frame.slots.get_mut(usize::from(slot))
        {
            let small = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
            *kept = Slot { start: small(start), end: small(self.cursor.offset()), count };
        }
        Ok(())
    }

    fn array(&mut self, element: &'static Element, frame: &mut Frame) -> Result<u32, Stopped> {
        let start = self.cursor.offset();
        if !self.descend()? {
            return Ok(0);
        }
        self.cursor.open();
        let mut count = 0u32;
        while self.item(count == 0)? {
            self.path.push(Segment::Item(count));
            let walked = self.single(element, frame, Some(count));
            self.path.pop();
            walked?;
            count += 1;
        }
        self.depth -= 1;
        if count == 0 {
            self.error("structure", start, "An array must not be empty.");
        }
        if matches!(element.kind, Kind::Primitive(_)) {
            frame.remember_length(element.group, count);
        }
        Ok(count)
    }

    fn single(&mut self, element: &'static Element, frame: &mut Frame, item: Option<u32>) -> Result<(), Stopped> {
        let next = self.cursor.peek();
        match (element.kind, next) {
            (Kind::Primitive(primitive), _) => self.primitive(element, primitive, frame, item),
            (Kind::Complex(id), Some(b'{')) => {
                let start = self.cursor.offset();
                let inner = self.object(id)?;
                let span = start..self.cursor.offset();
                if element.set.is_some() {
                    rules::binding(self, element, id, span.clone());
                }
                if rules::is_reference(self, id) {
                    rules::reference(self, element, id, &inner, span);
                }
                Ok(())
            }
            (Kind::Resource, Some(b'{')) => self.resource(),
            (Kind::Complex(id), _) => {
                let name = self.table.get(id).name;
                self.mismatch(element, if name == "Reference" { "a Reference" } else { "an object" }, next);
                self.skip()
            }
            (Kind::Resource, _) => {
                self.mismatch(element, "a resource", next);
                self.skip()
            }
        }
    }

    #[cold]
    fn mismatch(&mut self, element: &Element, wanted: &str, next: Option<u8>) {
        let found = match next {
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            Some(b'-' | b'0'..=b'9') => "a number",
            // No value at all: the syntax error follows.
            _ => return,
        };
        let message = format!("{} must be {wanted}, not {found}.", element.key);
        self.error("structure", self.cursor.offset(), message);
    }

    // ---- primitives

    fn primitive(
        &mut self,
        element: &'static Element,
        of: Primitive,
        frame: &mut Frame,
        item: Option<u32>,
    ) -> Result<(), Stopped> {
        let next = self.cursor.peek();
        let offset = self.cursor.offset();
        match next {
            Some(b'"') if primitive::is_text(of) => {
                let text = self.string()?;
                if text.has_escapes {
                    let decoded = text.decode();
                    self.text(element, of, &decoded, offset);
                } else {
                    self.text(element, of, text.raw, offset);
                }
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') if !primitive::is_text(of) && of != Primitive::Boolean => {
                let written = self.cursor.number().map_err(|error| self.stop(error))?;
                if let Some((code, message)) = primitive::number(of, written) {
                    self.error(code, offset, message);
                }
                Ok(())
            }
            Some(b't' | b'f') if of == Primitive::Boolean => {
                self.cursor.literal().map_err(|error| self.stop(error))?;
                Ok(())
            }
            Some(b'n') if item.is_some() => {
                self.cursor.literal().map_err(|error| self.stop(error))?;
                let at = item.unwrap_or_default();
                frame.rare.push(Rare { element, at, offset, is_sibling: false, is_null: true });
                Ok(())
            }
            _ => {
                let wanted = match of {
                    Primitive::Boolean => "a boolean",
                    of if primitive::is_text(of) => "a string",
                    _ => "a number",
                };
                self.mismatch(element, wanted, next);
                self.skip()
            }
        }
    }

    fn text(&mut self, element: &'static Element, of: Primitive, text: &str, offset: usize) {
        // A fullUrl and a reference are read leniently: real senders write `urn:uuid:1` there, and mean it.
        if let Some((code, message)) = primitive::text(of, text) {
            let is_lenient = element.key == "fullUrl" && text.starts_with("urn:");
            let severity = if is_lenient { Severity::Warning } else { Severity::Error };
            self.issue(severity, code, offset, message);
        } else if let Some(set) = element.set {
            if of == Primitive::Code && !self.table.set(set).has(text) {
                let url = self.table.set(set).url;
                self.error("code-invalid", offset, format!("Not a code of the required value set {url}."));
            }
        } else if of == Primitive::Xhtml {
            rules::narrative(self, text, offset);
        }
        match of {
            Primitive::Uri | Primitive::Url | Primitive::Canonical if text.starts_with('#') => {
                let id = Cow::Owned(text[1..].to_owned());
                self.local.fragments.push(Fragment { id, place: None, offset });
            }
            Primitive::Id | Primitive::String if element.key == "id" && self.local.within_contained => {
                self.contained_id(text);
            }
            _ => {}
        }
    }

    /// The id of a contained resource itself, not of an element in it.
    fn contained_id(&mut self, text: &str) {
        if let [.., Segment::Member(outer), Segment::Item(_), Segment::Member(_)] = self.path.as_slice()
            && outer.key == "contained"
            && let Some(contained) = self.local.contained.last_mut()
        {
            contained.id = Some(Cow::Owned(text.to_owned()));
        }
    }

    // ---- `_name`: id and extensions of primitives

    fn sibling(
        &mut self,
        of: &'static Type,
        element: &'static Element,
        frame: &mut Frame,
        key: &Text<'a>,
    ) -> Result<(), Stopped> {
        let bit = 1u128 << element.group;
        if frame.siblings & bit != 0 {
            self.again(of, element, frame, key);
        }
        frame.siblings |= bit;
        self.path.push(Segment::Sibling(element));
        let walked = self.sibling_value(element, frame);
        self.path.pop();
        walked
    }

    fn sibling_value(&mut self, element: &'static Element, frame: &mut Frame) -> Result<(), Stopped> {
        let next = self.cursor.peek();
        if !element.is_array {
            return self.sibling_object(element, next);
        }
        if next != Some(b'[') {
            self.mismatch(element, "an array", next);
            return self.skip();
        }
        let start = self.cursor.offset();
        if !self.descend()? {
            return Ok(());
        }
        self.cursor.open();
        let mut count = 0u32;
        while self.item(count == 0)? {
            let next = self.cursor.peek();
            let offset = self.cursor.offset();
            let is_null = next == Some(b'n');
            frame.rare.push(Rare { element, at: count, offset, is_sibling: true, is_null });
            self.path.push(Segment::Item(count));
            let walked = if is_null { self.skip() } else { self.sibling_object(element, next) };
            self.path.pop();
            walked?;
            count += 1;
        }
        self.depth -= 1;
        if count == 0 {
            self.error("structure", start, "An array must not be empty.");
        }
        Ok(())
    }

    fn sibling_object(&mut self, element: &'static Element, next: Option<u8>) -> Result<(), Stopped> {
        match (self.table.datatype("Element"), next) {
            (Some(id), Some(b'{')) => self.object(id).map(|_| ()),
            _ => {
                self.mismatch(element, "an object", next);
                self.skip()
            }
        }
    }

    /// `given: [null, "x"]` needs `_given: [{…}, …]`, and the other way round.
    fn check_nulls(&mut self, frame: &Frame) {
        let mut siblings: HashMap<(u8, u32), bool> = HashMap::new();
        let mut nulls: HashMap<(u8, u32), ()> = HashMap::new();
        for rare in &frame.rare {
            if rare.is_sibling {
                siblings.insert((rare.element.group, rare.at), !rare.is_null);
            } else {
                nulls.insert((rare.element.group, rare.at), ());
            }
        }
        for rare in frame.rare.iter().filter(|rare| rare.is_null) {
            let at = (rare.element.group, rare.at);
            let is_excused = if rare.is_sibling {
                frame.length(rare.element.group).is_none_or(|length| rare.at < length) && !nulls.contains_key(&at)
            } else {
                siblings.get(&at) == Some(&true)
            };
            if !is_excused {
                let segment = if rare.is_sibling { Segment::Sibling } else { Segment::Member };
                self.path.extend([segment(rare.element), Segment::Item(rare.at)]);
                let other = if rare.is_sibling { "" } else { "_" };
                let message = format!("null needs something at the same place of {other}{}.", rare.element.key);
                self.error("structure", rare.offset, message);
                self.path.truncate(self.path.len() - 2);
            }
        }
    }

    // ---- what the rules ask

    /// The text of a kept primitive, decoded.
    pub fn kept(&self, frame: &Frame, slot: Option<u8>) -> Option<Cow<'a, str>> {
        let raw = self.cursor.slice(frame.span(slot?)?);
        let Some(inner) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return Some(Cow::Borrowed(raw));
        };
        let text = Text { raw: inner, has_escapes: inner.contains('\\'), offset: 0 };
        Some(text.decode())
    }

    /// Whether the walk is in the Bundle that is the body itself, not in a Bundle within it.
    pub fn is_in_outer_bundle(&self) -> bool {
        self.bundles == 1 && matches!(self.path.first(), Some(Segment::Root("Bundle")))
    }

    pub fn is_within_contained(&self) -> bool {
        self.local.within_contained
    }
}

fn element_place(place: &Place, element: &Element, key: &str) -> Place {
    let of_type = element.of_type.map(|name| format!(".ofType({name})")).unwrap_or_default();
    Place {
        expression: format!("{}.{}{of_type}", place.expression, element.name),
        pointer: format!("{}/{key}", place.pointer),
    }
}

/// A name that may be an element's, and so may be repeated to the sender.
fn is_element_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
