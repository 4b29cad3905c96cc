//! The walk: one pass over the JSON text of a resource beside the table of its definitions. No tree is built; what an
//! invariant needs of an object is kept in a frame until the object ends.

use super::super::definitions::{Element, Kind, Table, Type, TypeId, TypeKind};
use super::super::envelope::DEPTH_MAX;
use super::super::issue::{Report, Severity};
use super::super::json::{Cursor, SyntaxError, Text};
use super::super::path::Place;
use super::bundle::{BundleFacts, ResourceFacts};
use super::deep::Deep;
use super::frame::{Contained, Frame, Local, Segment, Slot};
use super::rules;
use std::borrow::Cow;

/// Times that an object is read again to choose a sentence.
const RESCANS_MAX: usize = 100;

/// The walk is over: an issue says why.
pub struct Stopped;

/// The Bundle is a piece of a larger one.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The larger one's first entry is in it.
    pub has_first: bool,
}

pub struct Walk<'a, 'r> {
    pub table: &'static Table,
    pub body: &'a str,
    pub(super) cursor: Cursor<'a>,
    pub(super) path: Vec<Segment>,
    pub(super) report: &'r mut Report,
    /// The Bundle that is the body itself, as far as it was read.
    pub bundle: BundleFacts<'a>,
    /// The last resource that was read at the place of an entry's.
    pub resource: Option<ResourceFacts<'a>>,
    /// The `meta.versionId` and `request.method` that were read last.
    pub version: Option<Cow<'a, str>>,
    pub method: Option<(Cow<'a, str>, usize)>,
    pub local: Local<'a>,
    pub(super) depth: usize,
    rescans: usize,
    bundles: usize,
    pub(super) line: Option<u64>,
    pub(super) part: Option<Part>,
    /// Resources that need a look as a whole: where they are.
    pub deep: Vec<Deep>,
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
            rescans: 0,
            bundles: 0,
            line,
            part: None,
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

    pub(super) fn skip(&mut self) -> Result<(), Stopped> {
        self.cursor.skip().map_err(|error| self.stop(error))
    }

    fn key(&mut self, first: bool) -> Result<Option<Text<'a>>, Stopped> {
        self.cursor.key(first).map_err(|error| self.stop(error))
    }

    pub(super) fn item(&mut self, first: bool) -> Result<bool, Stopped> {
        self.cursor.item(first).map_err(|error| self.stop(error))
    }

    pub(super) fn string(&mut self) -> Result<Text<'a>, Stopped> {
        self.cursor.string().map_err(|error| self.stop(error))
    }

    /// One level deeper; nothing if that is too deep, and then the value was stepped over.
    pub(super) fn descend(&mut self) -> Result<bool, Stopped> {
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
            let place = if self.path.is_empty() {
                Place { expression: "Resource.resourceType".to_owned(), pointer: "/resourceType".to_owned() }
            } else {
                self.place().member("resourceType")
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
        let mut frame = Frame::default();
        let walked = self.object(id, &mut frame);
        self.bundles -= usize::from(is_bundle);
        if walked.is_ok() {
            rules::contained(self, of);
            if self.is_entry_resource() {
                let id = self.kept(&frame, of.slot("id"));
                self.resource = Some(ResourceFacts { name: of.name, id, version: self.version.take() });
            }
        }
        self.local = outer;
        walked
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
        let mut frame = Frame::default();
        let walked = self.object(id, &mut frame);
        self.local.within_contained = false;
        walked?;
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
    pub(super) fn object(&mut self, id: TypeId, frame: &mut Frame) -> Result<(), Stopped> {
        let table = self.table;
        let of = table.get(id);
        let start = self.cursor.offset();
        if !self.descend()? {
            return Ok(());
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
                self.member(of, element, frame, &key, start)?;
                continue;
            }
            let sibling = name.strip_prefix('_').and_then(|name| of.element(name.as_bytes()));
            if let Some(element) = sibling.filter(|element| matches!(element.kind, Kind::Primitive(_))) {
                self.sibling(of, element, frame, &key, start)?;
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
            self.check_nulls(frame);
        }
        if !of.invariants.is_empty() {
            rules::invariants(self, of, frame, start);
        }
        rules::of_object(self, of, frame, start..self.cursor.offset());
        Ok(())
    }

    /// A second member of a group that had one: the same key again, or another type of the choice.
    #[cold]
    pub(super) fn again(&mut self, of: &'static Type, element: &'static Element, key: &Text<'a>, start: usize) {
        if self.report.is_full() {
            self.report.count(Severity::Error, self.entry());
            return;
        }
        let group = of.group(element);
        if !group.is_choice || self.has_key_before(start, key.offset, &key.decode()) {
            self.duplicate(key, element.key);
        } else {
            let place = self.place().member(group.name);
            let message = format!("{}.{}[x] is there with more than one type.", of.name, group.name);
            self.issue_at(Severity::Error, "structure", key.offset, place, message);
        }
    }

    /// Whether the object that begins at `start` has that key before `end`. It is read again up to there: only some times, since
    /// it only chooses between two sentences, or rarely has to be asked at all.
    pub(super) fn has_key_before(&mut self, start: usize, end: usize, name: &str) -> bool {
        if self.rescans == RESCANS_MAX {
            return false;
        }
        self.rescans += 1;
        let mut cursor = Cursor::new(self.body, start);
        cursor.open();
        let mut first = true;
        while let Ok(Some(key)) = cursor.key(first) {
            first = false;
            if key.offset >= end {
                return false;
            }
            if key.decode() == name {
                return true;
            }
            cursor.peek();
            if cursor.skip().is_err() {
                return false;
            }
        }
        false
    }

    /// `valueString` and `_valueString` are one type of the choice, `_valueCode` is another.
    #[cold]
    pub(super) fn check_choice(
        &mut self,
        of: &'static Type,
        element: &'static Element,
        key: &Text<'a>,
        start: usize,
        other: &str,
    ) {
        let has_room = self.rescans < RESCANS_MAX;
        if has_room && !self.has_key_before(start, key.offset, other) {
            self.again(of, element, key, start);
        }
    }

    fn member(
        &mut self,
        of: &'static Type,
        element: &'static Element,
        frame: &mut Frame,
        key: &Text<'a>,
        start: usize,
    ) -> Result<(), Stopped> {
        let bit = 1u128 << element.group;
        if frame.seen & bit != 0 {
            self.again(of, element, key, start);
        } else if frame.siblings & bit != 0 && element.of_type.is_some() {
            self.check_choice(of, element, key, start, &format!("_{}", element.key));
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
                let mut inner = Frame::default();
                self.object(id, &mut inner)?;
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

    /// Steps from the body to where the walk is; 0 outside of a Bundle.
    pub fn depth_of_path(&self) -> usize {
        if matches!(self.path.first(), Some(Segment::Root("Bundle"))) { self.path.len() } else { 0 }
    }

    pub fn is_within_contained(&self) -> bool {
        self.local.within_contained
    }
}
