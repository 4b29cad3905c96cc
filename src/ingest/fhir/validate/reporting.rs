//! What the walk reports: where it is, and what is wrong there. Cold: nearly all objects have no issue.

use super::super::definitions::{Element, Type};
use super::super::issue::{Issue, Severity};
use super::super::json::{SyntaxError, Text};
use super::super::path::Place;
use super::frame::Segment;
use super::walk::{Stopped, Walk};
use std::fmt::Write as _;

impl<'a> Walk<'a, '_> {
    /// Where the walk is.
    #[cold]
    pub fn place(&self) -> Place {
        let (mut expression, mut pointer) = (String::new(), String::new());
        for segment in &self.path {
            // Writing to a String cannot fail.
            let _ = match segment {
                Segment::Root(name) => write!(expression, "{name}"),
                Segment::Member(element) | Segment::Sibling(element) => {
                    let mark = if matches!(segment, Segment::Sibling(_)) { "_" } else { "" };
                    let _ = write!(pointer, "/{mark}{}", element.key);
                    match element.of_type {
                        Some(name) => write!(expression, ".{}.ofType({name})", element.name),
                        None => write!(expression, ".{}", element.name),
                    }
                }
                Segment::Item(index) => {
                    let _ = write!(pointer, "/{index}");
                    write!(expression, "[{index}]")
                }
            };
        }
        Place { expression, pointer }
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
        if self.report.is_full() {
            self.report.count(severity, entry);
            return;
        }
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
    pub(super) fn stop(&mut self, error: SyntaxError) -> Stopped {
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

    pub(super) fn missing(&mut self, of: &'static Type, seen: u128, start: usize) {
        for group in of.missing(seen) {
            if self.report.is_full() {
                self.report.count(Severity::Error, self.entry());
                continue;
            }
            let place = self.place().member(group.name);
            let choice = if group.is_choice { "[x]" } else { "" };
            let message = format!("{}.{}{choice} is required.", of.name, group.name);
            self.issue_at(Severity::Error, "required", start, place, message);
        }
    }

    #[cold]
    pub(super) fn unknown(&mut self, of: &Type, key: &Text<'a>, name: &str) {
        if self.report.is_full() {
            self.report.count(Severity::Error, self.entry());
            return;
        }
        let place = self.place();
        let (pointer, message) = if self.table.is_element(name.trim_start_matches('_')) {
            (place.member(name).pointer, format!("{} has no element {name}.", of.name))
        } else {
            // It may be anything, a patient's name included.
            (place.pointer.clone(), format!("{} has a member that is no element's name.", of.name))
        };
        let place = Place { expression: place.expression, pointer };
        self.issue_at(Severity::Error, "structure", key.offset, place, message);
    }

    #[cold]
    pub(super) fn duplicate(&mut self, key: &Text<'a>, name: &str) {
        self.error("structure", key.offset, format!("There are two members {name}."));
    }

    #[cold]
    pub(super) fn mismatch(&mut self, element: &Element, wanted: &str, next: Option<u8>) {
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
}
