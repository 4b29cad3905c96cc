//! Deep checks of single things: narratives, answers against their questionnaire, code systems and value sets,
//! documents, signatures.
//!
//! Each check is pure and works on opened JSON; the validator's core calls it where its subject occurs. A check promises
//! to stay linear in its input, to stop at a stated depth, to name elements and types only (never a value of the
//! payload), and to report an error only for what FHIR R4 forbids or what HL7's own validator refuses without a
//! terminology server. Cardinality, JSON types and primitive formats are the core's: what has the wrong shape is passed
//! over here.

pub mod document;
pub mod ecl;
pub mod narrative;
pub mod questionnaire;
pub mod signature;
pub mod terminology;
pub mod units;

use super::issue::Severity;
use super::node::{Node, Object};
use super::path::Place;

/// Problems that one check reports of one resource; the first are enough to see what is wrong.
pub const PROBLEMS_MAX: usize = 100;

/// A problem that a deep check found. Place and offset are absolute in the payload.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// FHIR `IssueType`.
    pub code: &'static str,
    /// Where, in both notations.
    pub place: Place,
    /// Byte offset of the value, or of what lacks it.
    pub offset: usize,
    /// A sentence with names of elements, types and codes of FHIR, never a value of the payload.
    pub message: String,
}

/// The caller's list of problems, of which one check adds at most [`PROBLEMS_MAX`].
pub(super) struct Found<'p> {
    problems: &'p mut Vec<Problem>,
    left: usize,
}

impl<'p> Found<'p> {
    fn new(problems: &'p mut Vec<Problem>) -> Self {
        Self { problems, left: PROBLEMS_MAX }
    }

    fn put(&mut self, severity: Severity, code: &'static str, at: (&Place, usize), message: impl Into<String>) {
        if self.left > 0 {
            self.left -= 1;
            let (place, offset) = at;
            self.problems.push(Problem { severity, code, place: place.clone(), offset, message: message.into() });
        }
    }

    fn error(&mut self, code: &'static str, at: (&Place, usize), message: impl Into<String>) {
        self.put(Severity::Error, code, at, message);
    }

    fn warning(&mut self, code: &'static str, at: (&Place, usize), message: impl Into<String>) {
        self.put(Severity::Warning, code, at, message);
    }

    /// Nothing more is kept: what is left need not be looked at.
    fn is_full(&self) -> bool {
        self.left == 0
    }
}

/// The data types of FHIR R4 whose names begin in lower case.
const PRIMITIVES: &[&str] = &[
    "base64Binary",
    "boolean",
    "canonical",
    "code",
    "date",
    "dateTime",
    "decimal",
    "id",
    "instant",
    "integer",
    "markdown",
    "oid",
    "positiveInt",
    "string",
    "time",
    "unsignedInt",
    "uri",
    "url",
    "uuid",
];

/// The type that a member of a choice element names: `dateTime` for `valueDateTime`, `Coding` for `valueCoding`. None
/// if the member is not of that element or does not look like a type.
#[must_use]
pub fn choice_type<'m>(element: &str, member: &'m str) -> Option<&'m str> {
    let rest = member.strip_prefix(element)?;
    let plausible = rest.len() <= 32 && rest.starts_with(|c: char| c.is_ascii_uppercase());
    if !plausible || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let same = |primitive: &&&'static str| {
        primitive.len() == rest.len() && primitive[..1].eq_ignore_ascii_case(&rest[..1]) && primitive[1..] == rest[1..]
    };
    Some(PRIMITIVES.iter().find(same).copied().unwrap_or(rest))
}

/// The place of a choice element as HL7's validator writes it: `….value.ofType(Coding)`, `…/valueCoding`.
#[must_use]
pub fn choice_place(parent: &Place, element: &str, member: &str) -> Place {
    match choice_type(element, member) {
        Some(name) => parent.choice(&format!("{element}.ofType({name})"), member),
        None => parent.member(element),
    }
}

/// The first member of a choice element: the member's name, its type, its value.
fn choice<'a, 'o>(object: &'o Object<'a>, element: &str) -> Option<(&'o str, &'o str, Node<'a>)> {
    object.members().find_map(|(member, node)| choice_type(element, member).map(|name| (member, name, node)))
}

/// The first extension with that URL.
fn extension<'a>(object: &Object<'a>, url: &str) -> Option<Object<'a>> {
    object.objects("extension").into_iter().find(|extension| extension.string("url").as_deref() == Some(url))
}

#[cfg(test)]
mod tests;
