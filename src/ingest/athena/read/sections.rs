//! Statements that a whole list is empty on purpose: no known drug allergies, no known problems, no medications.

use super::fields::{Field, Fields, Said};
use super::reader::{Draft, Reader, note, payload, seal, truth};
use super::value::{self, Coding, SNOMED};
use crate::ingest::fhir::node::Node;
use crate::ingest::fhir::path::Place;
use crate::ingest::findings::{Finding, parts};

/// What is denied.
pub struct Section {
    pub resource_type: &'static str,
    pub view: &'static str,
    pub category: &'static str,
    pub name: &'static str,
    /// SNOMED CT.
    pub code: Option<&'static str>,
}

/// `nkda`
pub const ALLERGIES: Section = Section {
    resource_type: "AthenaAllergy",
    view: "allergies",
    category: "allergy",
    name: "No known drug allergies",
    code: Some("409137002"),
};

/// `noknownproblems`
pub const PROBLEMS: Section = Section {
    resource_type: "AthenaProblem",
    view: "problems",
    category: "problem",
    name: "No known problems",
    code: None,
};

/// `nomedicationsreported`
pub const MEDICATIONS: Section = Section {
    resource_type: "AthenaMedication",
    view: "medications",
    category: "medication",
    name: "No known medications",
    code: None,
};

/// What the payload says of the whole list.
#[derive(Default)]
pub struct Stated<'a> {
    /// It has the member.
    pub is_there: bool,
    /// The member says that the list is empty on purpose.
    pub denial: Option<Said<'a>>,
}

/// Objects that the payload may be wrapped in, and how many of one level are looked into.
const WRAPPERS_MAX: usize = 2;
const SIBLINGS_MAX: usize = 8;

/// The object that has the member: the payload, or one that it is wrapped in.
fn stating<'a>(reader: &Reader<'_, 'a>, field: &Field) -> Option<Fields<'a>> {
    let mut level = vec![Fields::of(&reader.event().payload.object()?, payload())];
    for depth in 0..=WRAPPERS_MAX {
        if let Some(place) = level.iter().position(|fields| fields.has(field)) {
            return Some(level.swap_remove(place));
        }
        if depth < WRAPPERS_MAX {
            let opened = |(node, place): (Node<'a>, Place)| Some(Fields::of(&node.object()?, place));
            level = level.iter().flat_map(Fields::nested).filter_map(opened).take(SIBLINGS_MAX).collect();
        }
    }
    None
}

/// Read the member. True is a negation, false says nothing.
pub fn read<'a>(reader: &mut Reader<'_, 'a>, field: &'static Field, section: &'static Section) -> Stated<'a> {
    let Some(fields) = stating(reader, field) else { return Stated::default() };
    let denial = fields.each(reader, field).into_iter().find(|said| truth(&said.text) == Some(true));
    let Some(said) = denial.clone() else { return Stated { is_there: true, denial } };
    reader.part(said.node, &said.place, |reader| {
        let mut finding = Finding::new(section.category, "assertion");
        finding.negate();
        let codings: Vec<_> = section.code.map(|code| Coding::new(SNOMED, code)).into_iter().collect();
        finding.code = value::concept(&codings, Some(section.name.to_owned()));
        finding.evidence.push(parts::evidence(said.node, &said.place, "athena.section.negation"));
        let when = reader.when(None, None);
        let notes = [note("code_source", "derived")];
        // The members beside it are the list, not details of it.
        seal(&mut finding, None, &notes, &when);
        Some(Draft {
            resource_type: section.resource_type,
            category: section.view,
            id: Some(format!("section:{}", section.view)),
            measures: false,
            // Whoever says it again says it of that day.
            beside: reader.event().captured.key(),
            status: None,
            when,
            findings: vec![finding],
        })
    });
    Stated { is_there: true, denial }
}
