//! Statements that a whole list is empty on purpose: no known drug allergies, no known problems, no medications.

use super::fields::{Field, Fields, Said};
use super::reader::{Draft, Reader, note, payload, seal};
use super::value::{self, Coding, SNOMED};
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

/// Read the member. True is a negation, false says nothing.
pub fn read<'a>(reader: &mut Reader<'_, 'a>, field: &'static Field, section: &'static Section) -> Stated<'a> {
    let Some(object) = reader.event().payload.object() else { return Stated::default() };
    let fields = Fields::of(&object, payload());
    if !fields.has(field) {
        return Stated::default();
    }
    let denial = reader.flag(&fields, field).filter(|is_empty| *is_empty).and_then(|_| fields.any(field));
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
            status: None,
            when,
            findings: vec![finding],
        })
    });
    Stated { is_there: true, denial }
}
