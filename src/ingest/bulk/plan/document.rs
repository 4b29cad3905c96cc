//! A JSON array, or a Bundle with its `entry`: finds where each item begins and ends.

use super::shape::Shape;
use super::utf8::Utf8;
use super::walker::Walker;
use super::{Cutter, LineFault, LineIssue, PlanError, Sink};

/// A key or a text that is longer is none that we look for.
const CAPTURED_MAX: usize = 64;

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The byte order mark, or the opening bracket.
    Start,
    /// Behind an opening bracket of items.
    ItemOrEnd,
    /// Behind a comma.
    ItemExpected,
    Item,
    /// A comma or the end.
    AfterItem,
    KeyOrEnd,
    KeyExpected,
    Key,
    Colon,
    /// The first byte of a member's value.
    ValueExpected,
    Value,
    AfterValue,
    /// Only white space.
    End,
}

/// At some place of the file.
pub(super) struct Document {
    shape: Shape,
    item_bytes_max: u64,
    state: State,
    offset: u64,
    walker: Walker,
    utf8: Utf8,
    /// First byte of the item, key or value.
    start: u64,
    is_too_long: bool,
    items: u64,
    captured: Vec<u8>,
    key: Option<String>,
    has_entry: bool,
    resource_type: Option<String>,
    bundle_type: Option<String>,
}

impl Document {
    pub(super) fn new(shape: Shape, item_bytes_max: u64) -> Self {
        Self {
            shape,
            item_bytes_max,
            state: State::Start,
            offset: 0,
            walker: Walker::new(),
            utf8: Utf8::default(),
            start: 0,
            is_too_long: false,
            items: 0,
            captured: Vec::with_capacity(CAPTURED_MAX),
            key: None,
            has_entry: false,
            resource_type: None,
            bundle_type: None,
        }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// It says that it is a Bundle.
    pub(super) fn is_bundle(&self) -> bool {
        self.resource_type.as_deref() == Some("Bundle")
    }

    /// The entries of a Bundle have begun.
    pub(super) fn has_entry(&self) -> bool {
        self.has_entry
    }

    /// Everything was there; only white space may follow.
    pub(super) fn is_at_end(&self) -> bool {
        self.state == State::End
    }

    /// The first byte that may still be part of a chunk.
    pub(super) fn needed(&self) -> u64 {
        if self.state == State::Item && !self.is_too_long { self.start } else { self.offset }
    }

    fn fault<T>(&self, what: &'static str) -> Result<T, PlanError> {
        Err(PlanError::NotJson { offset: self.offset, what })
    }

    pub(super) fn push(&mut self, text: &[u8], cutter: &mut Cutter, sink: &mut dyn Sink) -> Result<(), PlanError> {
        let mut rest = text;
        if self.offset == 0 && rest.starts_with("\u{feff}".as_bytes()) {
            rest = &rest[3..];
            self.offset = 3;
        }
        while !rest.is_empty() {
            let taken = match self.state {
                State::Item => self.within_item(rest, cutter, sink)?,
                State::Key | State::Value => self.within_member(rest)?,
                _ => self.between(rest)?,
            };
            self.offset += taken as u64;
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// White space and punctuation outside of values: how many bytes were taken. None, where a value begins.
    fn between(&mut self, rest: &[u8]) -> Result<usize, PlanError> {
        let byte = rest[0];
        if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            return Ok(rest.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count());
        }
        self.state = match (self.state, byte) {
            (State::Start, b'[') if self.shape == Shape::Array => State::ItemOrEnd,
            (State::Start, b'{') if self.shape == Shape::Bundle => State::KeyOrEnd,
            (State::AfterItem, b',') => State::ItemExpected,
            (State::ItemOrEnd | State::AfterItem, b']') => {
                if self.shape == Shape::Array {
                    State::End
                } else {
                    State::AfterValue
                }
            }
            (State::ItemOrEnd | State::ItemExpected, _) => return Ok(self.begin(State::Item)),
            (State::AfterItem, _) => return self.fault("A comma or the end of the array was expected."),
            (State::KeyOrEnd | State::AfterValue, b'}') => State::End,
            (State::AfterValue, b',') => State::KeyExpected,
            (State::KeyOrEnd | State::KeyExpected, b'"') => return Ok(self.begin(State::Key)),
            (State::KeyOrEnd | State::KeyExpected, _) => return self.fault("A key in double quotes was expected."),
            (State::Colon, b':') => State::ValueExpected,
            (State::Colon, _) => return self.fault("A colon was expected behind the key."),
            (State::ValueExpected, b'[') if self.key.as_deref() == Some("entry") => {
                if self.has_entry {
                    return self.fault("`entry` is there twice.");
                }
                self.has_entry = true;
                State::ItemOrEnd
            }
            (State::ValueExpected, _) => return Ok(self.begin(State::Value)),
            (State::AfterValue, _) => return self.fault("A comma or the end of the object was expected."),
            (State::End, _) => return self.fault("There is something behind the end."),
            (State::Start, _) => return self.fault("An object or an array was expected."),
            (State::Item | State::Key | State::Value, _) => return Ok(0),
        };
        Ok(1)
    }

    /// A value begins here: no byte of it is taken yet.
    fn begin(&mut self, state: State) -> usize {
        self.state = state;
        self.walker = Walker::new();
        self.start = self.offset;
        self.is_too_long = false;
        self.captured.clear();
        0
    }

    fn walk(&mut self, rest: &[u8]) -> Result<super::walker::Walked, PlanError> {
        let at = self.offset;
        self.walker.walk(rest).map_err(|(place, what)| PlanError::NotJson { offset: at + place as u64, what })
    }

    fn within_item(&mut self, rest: &[u8], cutter: &mut Cutter, sink: &mut dyn Sink) -> Result<usize, PlanError> {
        let walked = self.walk(rest)?;
        let end = self.offset + walked.bytes as u64;
        if !self.is_too_long && end - self.start > self.item_bytes_max {
            self.is_too_long = true;
            cutter.cut(sink);
            sink.issue(LineIssue { fault: LineFault::TooLong, number: self.items, offset: self.start });
        }
        if !self.is_too_long {
            self.utf8.push(&rest[..walked.bytes]);
        }
        if walked.is_end {
            let is_utf8 = self.utf8.end();
            if !self.is_too_long {
                if !is_utf8 {
                    sink.issue(LineIssue { fault: LineFault::NotUtf8, number: self.items, offset: self.start });
                }
                cutter.add(sink, self.items, self.start..end);
            }
            self.items += 1;
            self.state = State::AfterItem;
        }
        Ok(walked.bytes)
    }

    /// A key, or the value of a member that holds no entries.
    fn within_member(&mut self, rest: &[u8]) -> Result<usize, PlanError> {
        let walked = self.walk(rest)?;
        let text = &rest[..walked.bytes];
        self.utf8.push(text);
        // One byte more than a text that we look for has.
        let room = (CAPTURED_MAX + 1).saturating_sub(self.captured.len());
        self.captured.extend_from_slice(&text[..text.len().min(room)]);
        if walked.is_end {
            if !self.utf8.end() {
                return Err(PlanError::NotUtf8 { offset: self.start });
            }
            // Escapes and all; nothing for what is no text, or a long one.
            let text = serde_json::from_slice::<String>(&self.captured).ok();
            if self.state == State::Key {
                self.key = text;
                self.state = State::Colon;
            } else {
                match self.key.as_deref() {
                    Some("resourceType") => self.resource_type = text,
                    Some("type") => self.bundle_type = text,
                    _ => {}
                }
                self.state = State::AfterValue;
            }
        }
        Ok(walked.bytes)
    }

    /// The end of the file: the Bundle's type, and how many entries there are.
    pub(super) fn finish(&mut self) -> Result<(Option<String>, u64), PlanError> {
        if self.state != State::End {
            return self.fault("The text ends early.");
        }
        if self.shape == Shape::Bundle && !self.is_bundle() {
            return Err(PlanError::NotABundle);
        }
        Ok((self.bundle_type.take(), self.items))
    }
}
