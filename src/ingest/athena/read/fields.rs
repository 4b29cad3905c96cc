//! The members of an object by the names that senders use, each checked for its type when it is read.
//!
//! A [`Field`] is a declaration: nothing of a payload is read without one, so the list of all of them
//! ([`super::FIELDS`]) is what the reader looks at, what docs/athena.md shows, and what the tests break one by one.

use super::reader::Reader;
use crate::ingest::fhir::issue::Severity;
use crate::ingest::fhir::node::{Kind, Node, Object};
use crate::ingest::fhir::path::Place;
use std::cell::Cell;
use std::collections::HashMap;

/// Bytes of a member's name that may mean something here. Longer ones are kept as details, and never stand in a place.
const NAME_BYTES_MAX: usize = 64;

/// Characters of a text; a longer one is not taken.
pub const TEXT_CHARS_MAX: usize = 4_000;

/// Characters of a name, a unit, a status in a field of its own: what is longer is cut, and stands among the details whole.
pub const NAME_CHARS_MAX: usize = 500;

/// Characters of a text that several parts or components share.
pub const SHARED_CHARS_MAX: usize = 200;

/// What is said of a text that was cut.
const CUT: &str = "Is longer than its field takes: cut, as written it is among the details.";

/// Characters of an id: it becomes part of a key.
pub const ID_CHARS_MAX: usize = 200;

/// What a field's JSON value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    Text,
    /// A string that may say more than a name: directions.
    Long,
    /// A string of any length: the text of a document.
    Body,
    /// A string, or a whole number.
    Id,
    /// A number, or a string.
    Value,
    /// A blood pressure: a string `120/80`, or an object with systolic and diastolic.
    Pressure,
    /// `true` or `false`, also as a string.
    Flag,
    /// A string with a date or a date and time.
    Time,
    /// A string with a time of day.
    Clock,
    /// An object.
    Object,
    /// An array.
    Array,
    /// A string, an object, or an array of them.
    Texts,
}

impl Shape {
    /// For people: the documentation and its test.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text | Self::Long | Self::Body => "text",
            Self::Id => "text or whole number",
            Self::Value => "number or text",
            Self::Pressure => "text `120/80` or object",
            Self::Flag => "true or false",
            Self::Time => "date or time",
            Self::Clock => "time of day",
            Self::Object => "object",
            Self::Array => "array",
            Self::Texts => "text, object, or array of them",
        }
    }

    /// What an issue says about a value of another type.
    #[must_use]
    pub fn fault(self) -> &'static str {
        match self {
            Self::Text | Self::Long | Self::Body => "Must be a text.",
            Self::Id => "Must be a text or a whole number.",
            Self::Value => "Must be a number or a text.",
            Self::Pressure => "Must be a text of systolic and diastolic pressure, or an object with both.",
            Self::Flag => "Must be true or false.",
            Self::Time => "Must be a text with a date or a time.",
            Self::Clock => "Must be a text with a time of day.",
            Self::Object => "Must be an object.",
            Self::Array => "Must be an array.",
            Self::Texts => "Must be a text, an object, or an array of them.",
        }
    }

    fn admits(self, node: &Node<'_>) -> bool {
        match (self, node.kind()) {
            (Self::Value, kind) => matches!(kind, Kind::String | Kind::Number),
            (Self::Flag, kind) => matches!(kind, Kind::String | Kind::Boolean),
            (Self::Pressure, kind) => matches!(kind, Kind::String | Kind::Object),
            (Self::Id, Kind::Number) => node.text().bytes().all(|byte| byte.is_ascii_digit()),
            (Self::Text | Self::Long | Self::Body | Self::Time | Self::Clock | Self::Id, kind) => kind == Kind::String,
            (Self::Object, kind) => kind == Kind::Object,
            (Self::Array, kind) => kind == Kind::Array,
            (Self::Texts, kind) => matches!(kind, Kind::String | Kind::Object | Kind::Array),
        }
    }
}

/// Something that the reader looks at.
#[derive(Debug)]
pub struct Field {
    /// The names in lower case, without spaces, hyphens and underscores; the first one that is there counts.
    pub names: &'static [&'static str],
    /// What the value must be.
    pub shape: Shape,
    /// Without it, or with another type, the meaning is in doubt: the part is left out.
    pub is_essential: bool,
    /// Where it goes, for docs/athena.md.
    pub goes: &'static str,
}

impl Field {
    /// A field; it is not essential.
    #[must_use]
    pub const fn new(shape: Shape, names: &'static [&'static str], goes: &'static str) -> Self {
        Self { names, shape, is_essential: false, goes }
    }

    /// The same, essential.
    #[must_use]
    pub const fn essential(self) -> Self {
        Self { is_essential: true, ..self }
    }

    /// How an issue of a wrong type counts.
    #[must_use]
    pub fn severity(&self) -> Severity {
        if self.is_essential { Severity::Error } else { Severity::Warning }
    }
}

/// Members, folded, that tell of the answer and not of the patient: nobody misses them among the findings.
pub const BOOKKEEPING: [&str; 27] = [
    "totalcount",
    "total",
    "count",
    "next",
    "previous",
    "limit",
    "offset",
    "page",
    "pagesize",
    "ordering",
    "lastupdated",
    "lastmodified",
    "lastmodifieddatetime",
    "lastmodifiedby",
    "lastmodifieddate",
    "fetchedat",
    "patient",
    "patientid",
    "athenapatientid",
    "enterpriseid",
    "mrn",
    "practiceid",
    "departmentid",
    "chartid",
    "attachmentexists",
    "success",
    "resourcetype",
];

/// Members beside a list that are named, object by object.
pub const UNREAD_MAX: usize = 20;

struct Member<'a> {
    name: String,
    node: Node<'a>,
    /// It went into a field of its own.
    is_taken: Cell<bool>,
    /// It was looked at: it has a field, or an issue of its own.
    is_read: Cell<bool>,
    /// Another member means the same.
    is_ambiguous: bool,
}

/// An opened object with its place.
pub struct Fields<'a> {
    /// The object.
    pub node: Node<'a>,
    /// Where it stands.
    pub place: Place,
    members: Vec<Member<'a>>,
    by_name: HashMap<String, usize>,
}

/// A value that was found, of the right JSON type.
#[derive(Clone)]
pub struct Said<'a> {
    /// The member's name, as written.
    pub name: String,
    /// A string's characters, trimmed; any other value's JSON.
    pub text: String,
    /// The value.
    pub node: Node<'a>,
    /// Where it stands.
    pub place: Place,
}

/// A name as names are compared.
#[must_use]
pub fn fold(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, ' ' | '-' | '_')).flat_map(char::to_lowercase).collect()
}

/// A member of a place. Names that FHIRPath does not take as they are stand in backticks.
#[must_use]
pub fn member(place: &Place, name: &str) -> Place {
    let plain = place.member(name);
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.chars().all(is_word) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return plain;
    }
    let quoted = name.replace('\\', "\\\\").replace('`', "\\`");
    Place { expression: format!("{}.`{quoted}`", place.expression), ..plain }
}

/// Null and empty texts say nothing.
fn is_blank(node: &Node<'_>) -> bool {
    match node.kind() {
        Kind::Null => true,
        Kind::String => node.string().is_some_and(|text| text.trim().is_empty()),
        _ => false,
    }
}

impl<'a> Fields<'a> {
    /// The members of an object that say something.
    #[must_use]
    pub fn of(object: &Object<'a>, place: Place) -> Self {
        let mut fields = Self { node: object.node(), place, members: Vec::new(), by_name: HashMap::new() };
        for (name, node) in object.members().filter(|(_, node)| !is_blank(node)) {
            let at = fields.members.len();
            let member = Member {
                name: name.to_owned(),
                node,
                is_taken: Cell::new(false),
                is_read: Cell::new(false),
                is_ambiguous: false,
            };
            fields.members.push(member);
            if name.len() > NAME_BYTES_MAX {
                continue;
            }
            let folded = fold(name);
            if let Some(other) = fields.by_name.get_mut(&folded) {
                // The usual spelling counts, else the first one.
                if folded == name {
                    *other = at;
                }
                let chosen = *other;
                fields.members[chosen].is_ambiguous = true;
            } else {
                fields.by_name.insert(folded, at);
            }
        }
        fields
    }

    /// Whether there is a member of that meaning.
    #[must_use]
    pub fn has(&self, field: &Field) -> bool {
        self.find(field).is_some()
    }

    /// Whether there is one of these.
    #[must_use]
    pub fn has_any(&self, fields: &[&Field]) -> bool {
        fields.iter().any(|field| self.has(field))
    }

    fn find(&self, field: &Field) -> Option<usize> {
        #[cfg(test)]
        super::tests::look_at(field);
        field.names.iter().find_map(|name| self.by_name.get(*name).copied())
    }

    /// The value of a field, whatever it is.
    #[must_use]
    pub fn any(&self, field: &Field) -> Option<Said<'a>> {
        self.find(field).map(|at| self.said(at))
    }

    fn said(&self, at: usize) -> Said<'a> {
        let found = &self.members[at];
        let text = found.node.string().map_or_else(|| found.node.text().to_owned(), |text| text.trim().to_owned());
        Said { name: found.name.clone(), text, node: found.node, place: member(&self.place, &found.name) }
    }

    /// The value of a field, if it is of the right type; an issue, if it is not.
    pub fn get(&self, reader: &mut Reader<'_, 'a>, field: &Field) -> Option<Said<'a>> {
        self.within(reader, field, NAME_CHARS_MAX)
    }

    /// The text of a field that several parts or components share.
    pub fn shared(&self, reader: &mut Reader<'_, 'a>, field: &Field) -> Option<String> {
        self.within(reader, field, SHARED_CHARS_MAX).map(|said| said.text)
    }

    /// Each value of a field, by all of its names.
    pub fn each(&self, reader: &mut Reader<'_, 'a>, field: &Field) -> Vec<Said<'a>> {
        let places: Vec<usize> = field.names.iter().filter_map(|name| self.by_name.get(*name).copied()).collect();
        places.into_iter().filter_map(|at| self.checked(reader, field, at, NAME_CHARS_MAX)).collect()
    }

    fn within(&self, reader: &mut Reader<'_, 'a>, field: &Field, chars_max: usize) -> Option<Said<'a>> {
        let at = self.find(field)?;
        self.checked(reader, field, at, chars_max)
    }

    fn checked(&self, reader: &mut Reader<'_, 'a>, field: &Field, at: usize, chars_max: usize) -> Option<Said<'a>> {
        let found = &self.members[at];
        found.is_read.set(true);
        if !field.shape.admits(&found.node) {
            let place = member(&self.place, &found.name);
            found.is_taken.set(false);
            reader.issue(field.severity(), "structure", found.node, &place, field.shape.fault());
            return None;
        }
        let mut said = self.said(at);
        if found.is_ambiguous {
            let sentence =
                "Another member has the same meaning: this one was taken, the other one is among the details.";
            reader.issue(Severity::Warning, "duplicate", said.node, &said.place, sentence);
        }
        found.is_taken.set(true);
        if !reader.is_sound(&said, field) {
            found.is_taken.set(false);
            return None;
        }
        if field.shape == Shape::Text
            && said.text.len() > chars_max
            && let Some((end, _)) = said.text.char_indices().nth(chars_max)
        {
            said.text.truncate(end);
            found.is_taken.set(false);
            reader.issue(Severity::Warning, "too-long", said.node, &said.place, CUT);
        }
        Some(said)
    }

    /// It has a field of its own, and need not stand among the details.
    pub fn take(&self, field: &Field) {
        if let Some(at) = self.find(field) {
            self.members[at].is_taken.set(true);
        }
    }

    /// It stands among the details too, since the field of its own does not say it as it was written.
    pub fn keep(&self, field: &Field) {
        if let Some(at) = self.find(field) {
            self.members[at].is_taken.set(false);
        }
    }

    /// The members that have no field of their own.
    pub fn rest(&self) -> impl Iterator<Item = (&str, Node<'a>)> {
        self.members.iter().filter(|member| !member.is_taken.get()).map(|member| (member.name.as_str(), member.node))
    }

    /// The members whose values are arrays or objects, with their places; those with names too long for a place are none.
    pub fn nested(&self) -> impl Iterator<Item = (Node<'a>, Place)> {
        let nested = |member: &&Member<'a>| {
            matches!(member.node.kind(), Kind::Array | Kind::Object) && member.name.len() <= NAME_BYTES_MAX
        };
        self.members.iter().filter(nested).map(|found| (found.node, member(&self.place, &found.name)))
    }

    /// Members that nothing reads: not the list, none of these fields, and nothing that tells only of the answer itself. Their places,
    /// as far as their names are not too long for one.
    pub fn unread(&self, list: Node<'a>, read: &[&Field]) -> Vec<(Node<'a>, Place)> {
        let is_read = |name: &str| read.iter().any(|field| field.names.contains(&name));
        let unread = self.members.iter().filter(|member| !member.is_read.get()).filter(|member| {
            let name = fold(&member.name);
            member.node.span() != list.span() && !is_read(&name) && !BOOKKEEPING.contains(&name.as_str())
        });
        let place =
            |name: &str| if name.len() > NAME_BYTES_MAX { self.place.clone() } else { member(&self.place, name) };
        unread.take(UNREAD_MAX + 1).map(|member| (member.node, place(&member.name))).collect()
    }

    /// How many members say something.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }
}
