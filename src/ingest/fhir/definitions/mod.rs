//! What a release of FHIR allows: types with their elements, required codes, and the invariants that are logic over
//! what is there. One table a release, made from the specification by [`generate`], embedded, and opened at first use.

pub mod generate;
mod load;

pub use load::{LoadError, SLOTS};

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

/// The table of FHIR R4 (4.0.1), as committed.
const R4: &str = include_str!("r4.tab");

/// FHIR R4's definitions.
///
/// # Panics
/// Never in a build whose tests passed: the embedded table is opened by one of them.
#[must_use]
#[expect(clippy::expect_used, reason = "the table is part of the program and opened by its tests")]
pub fn r4() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::open(R4).expect("the embedded table can be read"))
}

/// The definitions of one release.
#[derive(Debug)]
pub struct Table {
    /// `R4`
    pub release: &'static str,
    /// `4.0.1`
    pub version: &'static str,
    types: Vec<Type>,
    by_name: HashMap<&'static str, u16>,
    sets: Vec<CodeSet>,
    targets: Vec<Vec<&'static str>>,
    /// Keys of any type.
    keys: HashSet<&'static str>,
}

/// Position of a type in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeId(u16);

/// What a type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeKind {
    /// A resource of which there are instances.
    Resource,
    /// `Resource`, `DomainResource`, `Element`, `BackboneElement`.
    Abstract,
    /// A datatype, or the type of one element with children.
    Complex,
}

/// A type with all its elements, inherited ones included.
#[derive(Debug)]
pub struct Type {
    /// `Patient`, `Quantity`, `Observation.component`.
    pub name: &'static str,
    /// What it is.
    pub kind: TypeKind,
    /// It has `text` and `contained`.
    pub is_domain: bool,
    /// Where rules of its own are needed that the table cannot say.
    pub role: Role,
    /// What an invariant, a reference or a binding has to know of children once the object is read.
    pub invariants: Vec<Invariant>,
    elements: Vec<Element>,
    groups: Vec<Group>,
    required: u128,
    index: Vec<u16>,
}

/// The elements of one name: one, or the types of a choice.
#[derive(Debug)]
pub struct Group {
    /// `status`, `value` (of `value[x]`).
    pub name: &'static str,
    /// It is a choice.
    pub is_choice: bool,
}

/// A member of a JSON object.
#[derive(Debug)]
pub struct Element {
    /// `status`, `valueQuantity`.
    pub key: &'static str,
    /// The name in FHIRPath: `status`, `value`.
    pub name: &'static str,
    /// The type that a choice was given: `Quantity`.
    pub of_type: Option<&'static str>,
    /// Position of its group.
    pub group: u8,
    /// What its values are.
    pub kind: Kind,
    /// A JSON array of them.
    pub is_array: bool,
    /// The codes that it may have.
    pub set: Option<SetId>,
    /// The resource types that it may refer to.
    pub targets: Option<TargetsId>,
    /// Its value is kept until the object ends.
    pub slot: Option<u8>,
    ends: (u64, u64),
}

/// Position of a list of codes.
#[derive(Debug, Clone, Copy)]
pub struct SetId(u16);

/// Position of a list of resource types.
#[derive(Debug, Clone, Copy)]
pub struct TargetsId(u16);

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A JSON string, number or boolean.
    Primitive(Primitive),
    /// An object of that type.
    Complex(TypeId),
    /// Any resource.
    Resource,
}

/// FHIR's primitive datatypes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum Primitive {
    Boolean,
    Integer,
    Integer64,
    UnsignedInt,
    PositiveInt,
    Decimal,
    String,
    Markdown,
    Code,
    Id,
    Uri,
    Url,
    Canonical,
    Oid,
    Uuid,
    Date,
    DateTime,
    Instant,
    Time,
    Base64,
    Xhtml,
}

impl Primitive {
    /// The datatype of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "boolean" => Self::Boolean,
            "integer" => Self::Integer,
            "integer64" => Self::Integer64,
            "unsignedInt" => Self::UnsignedInt,
            "positiveInt" => Self::PositiveInt,
            "decimal" => Self::Decimal,
            "string" => Self::String,
            "markdown" => Self::Markdown,
            "code" => Self::Code,
            "id" => Self::Id,
            "uri" => Self::Uri,
            "url" => Self::Url,
            "canonical" => Self::Canonical,
            "oid" => Self::Oid,
            "uuid" => Self::Uuid,
            "date" => Self::Date,
            "dateTime" => Self::DateTime,
            "instant" => Self::Instant,
            "time" => Self::Time,
            "base64Binary" => Self::Base64,
            "xhtml" => Self::Xhtml,
            _ => return None,
        })
    }

    /// FHIR's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Integer64 => "integer64",
            Self::UnsignedInt => "unsignedInt",
            Self::PositiveInt => "positiveInt",
            Self::Decimal => "decimal",
            Self::String => "string",
            Self::Markdown => "markdown",
            Self::Code => "code",
            Self::Id => "id",
            Self::Uri => "uri",
            Self::Url => "url",
            Self::Canonical => "canonical",
            Self::Oid => "oid",
            Self::Uuid => "uuid",
            Self::Date => "date",
            Self::DateTime => "dateTime",
            Self::Instant => "instant",
            Self::Time => "time",
            Self::Base64 => "base64Binary",
            Self::Xhtml => "xhtml",
        }
    }
}

/// Types that have rules beyond the table's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum Role {
    None,
    Reference,
    Period,
    Range,
    Attachment,
    TimingRepeat,
    Observation,
    Condition,
    AllergyIntolerance,
    RiskAssessmentPrediction,
    Organization,
    Questionnaire,
    QuestionnaireEnableWhen,
    QuestionnaireResponse,
    CodeSystem,
    ValueSet,
    Task,
    MedicationDispense,
    Age,
    Count,
    Distance,
    Duration,
    List,
    Meta,
    Bundle,
    BundleEntry,
    BundleEntryRequest,
}

impl Role {
    /// The role of a type, and the children whose text its rules read.
    fn of(name: &str) -> (Self, &'static [&'static str]) {
        match name {
            "Reference" => (Self::Reference, &["reference", "type"]),
            "Period" => (Self::Period, &["start", "end"]),
            "Range" => (Self::Range, &[]),
            "Attachment" => (Self::Attachment, &["data", "size"]),
            "Timing.repeat" => (Self::TimingRepeat, &["duration", "period", "when"]),
            "Observation" => (Self::Observation, &[]),
            "Condition" => (Self::Condition, &[]),
            "AllergyIntolerance" => (Self::AllergyIntolerance, &[]),
            "RiskAssessment.prediction" => (Self::RiskAssessmentPrediction, &["probabilityDecimal"]),
            "Organization" => (Self::Organization, &[]),
            "Questionnaire" => (Self::Questionnaire, &[]),
            "Questionnaire.item.enableWhen" => (Self::QuestionnaireEnableWhen, &["operator", "answerBoolean"]),
            "QuestionnaireResponse" => (Self::QuestionnaireResponse, &[]),
            "CodeSystem" => (Self::CodeSystem, &[]),
            "ValueSet" => (Self::ValueSet, &[]),
            "Task" => (Self::Task, &["authoredOn", "lastModified"]),
            "MedicationDispense" => (Self::MedicationDispense, &["whenPrepared", "whenHandedOver"]),
            "Age" => (Self::Age, &["value", "code", "system"]),
            "Count" => (Self::Count, &["value", "code", "system"]),
            "Distance" => (Self::Distance, &["value", "code", "system"]),
            "Duration" => (Self::Duration, &["value", "code", "system"]),
            "List" => (Self::List, &["mode"]),
            "Meta" => (Self::Meta, &["versionId"]),
            "Bundle" => (Self::Bundle, &["type"]),
            "Bundle.entry" => (Self::BundleEntry, &["fullUrl"]),
            "Bundle.entry.request" => (Self::BundleEntryRequest, &["method"]),
            _ => (Self::None, &[]),
        }
    }
}

/// An invariant that the table can say.
#[derive(Debug)]
pub struct Invariant {
    /// `obs-6`
    pub key: &'static str,
    /// It is an error, not a warning.
    pub is_error: bool,
    /// What must hold.
    pub formula: Formula,
}

/// Logic over the children of an object. Positions are those of groups and slots.
#[derive(Debug)]
pub enum Formula {
    /// The group is there.
    Exists(u8),
    /// The primitive in the slot is there with this text; unknown where it is absent.
    Equals(u8, &'static str),
    /// The slot's array has more items.
    More(u8, u32),
    /// Not.
    Not(Box<Formula>),
    /// Both.
    And(Box<Formula>, Box<Formula>),
    /// At least one.
    Or(Box<Formula>, Box<Formula>),
    /// Exactly one.
    Xor(Box<Formula>, Box<Formula>),
}

/// The codes of a value set.
#[derive(Debug)]
pub struct CodeSet {
    /// Its canonical URL.
    pub url: &'static str,
    codes: HashMap<&'static str, Vec<&'static str>>,
}

impl CodeSet {
    /// A code of any of its systems.
    #[must_use]
    pub fn has(&self, code: &str) -> bool {
        self.codes.contains_key(code)
    }

    /// That code of that system.
    #[must_use]
    pub fn has_coding(&self, system: &str, code: &str) -> bool {
        self.codes.get(code).is_some_and(|systems| systems.contains(&system))
    }
}

impl Table {
    /// The type at that position.
    #[must_use]
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[usize::from(id.0)]
    }

    /// The resource type of that name, if there are instances of it.
    #[must_use]
    pub fn resource(&self, name: &str) -> Option<TypeId> {
        let id = *self.by_name.get(name)?;
        (self.types[usize::from(id)].kind == TypeKind::Resource).then_some(TypeId(id))
    }

    /// The datatype of that name.
    #[must_use]
    pub fn datatype(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied().map(TypeId)
    }

    /// An element of any type has that key: a name that may be repeated to the sender.
    #[must_use]
    pub fn is_element(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// A list of codes.
    #[must_use]
    pub fn set(&self, id: SetId) -> &CodeSet {
        &self.sets[usize::from(id.0)]
    }

    /// A list of resource types, sorted.
    #[must_use]
    pub fn targets(&self, id: TargetsId) -> &[&'static str] {
        &self.targets[usize::from(id.0)]
    }

    /// All resource types that have instances, sorted.
    pub fn resources(&self) -> impl Iterator<Item = &'static str> {
        self.types.iter().filter(|of| of.kind == TypeKind::Resource).map(|of| of.name)
    }
}

impl Type {
    /// The element of that JSON key.
    #[must_use]
    #[inline]
    pub fn element(&self, key: &[u8]) -> Option<&Element> {
        let ends = ends(key);
        let mask = self.index.len() - 1;
        let mut at = hash(ends, key.len()) & mask;
        loop {
            let position = self.index[at];
            if position == u16::MAX {
                return None;
            }
            let element = &self.elements[usize::from(position)];
            // Up to 16 bytes the two words are the whole key.
            let is_same = element.ends == ends && element.key.len() == key.len();
            if is_same && (key.len() <= 16 || element.key.as_bytes() == key) {
                return Some(element);
            }
            at = (at + 1) & mask;
        }
    }

    /// The groups that must be there and are not, given those that are.
    pub fn missing(&self, seen: u128) -> impl Iterator<Item = &Group> {
        let missing = self.required & !seen;
        self.groups.iter().enumerate().filter(move |(bit, _)| missing >> bit & 1 == 1).map(|(_, group)| group)
    }

    /// Something required is missing.
    #[must_use]
    pub fn lacks(&self, seen: u128) -> bool {
        self.required & !seen != 0
    }

    /// The group of an element.
    #[must_use]
    pub fn group(&self, element: &Element) -> &Group {
        &self.groups[usize::from(element.group)]
    }

    /// The bit of the group of that name.
    #[must_use]
    pub fn bit(&self, name: &str) -> u128 {
        self.groups.iter().position(|group| group.name == name).map_or(0, |bit| 1 << bit)
    }

    /// The name of a group.
    #[must_use]
    pub fn group_name(&self, group: u8) -> &'static str {
        self.groups.get(usize::from(group)).map_or("", |group| group.name)
    }

    /// The key of the element in a slot.
    #[must_use]
    pub fn slot_key(&self, slot: u8) -> &'static str {
        self.elements.iter().find(|element| element.slot == Some(slot)).map_or("", |element| element.key)
    }

    /// The slot of the element of that key.
    #[must_use]
    pub fn slot(&self, key: &str) -> Option<u8> {
        self.element(key.as_bytes())?.slot
    }
}

/// The first and the last eight bytes of a key, or what there is of them: with the length, all of a key of up to 16 bytes.
#[inline]
fn ends(key: &[u8]) -> (u64, u64) {
    if let (Some(head), Some(tail)) = (key.first_chunk::<8>(), key.last_chunk::<8>()) {
        return (u64::from_le_bytes(*head), u64::from_le_bytes(*tail));
    }
    if let (Some(head), Some(tail)) = (key.first_chunk::<4>(), key.last_chunk::<4>()) {
        return (u64::from(u32::from_le_bytes(*head)), u64::from(u32::from_le_bytes(*tail)));
    }
    let byte = |at: usize| u64::from(key.get(at).copied().unwrap_or_default());
    (byte(0) | byte(1) << 8 | byte(2) << 16, 0)
}

/// A cheap hash: the ends and the length tell FHIR's names apart well enough.
#[inline]
fn hash((head, tail): (u64, u64), length: usize) -> usize {
    let mixed = (head ^ tail.rotate_left(23) ^ length as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // The upper bits, of which only some are used.
    usize::try_from(mixed >> 40).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_found_by_its_key_and_nothing_else_is() {
        for of in &r4().types {
            for element in &of.elements {
                let found = of.element(element.key.as_bytes()).unwrap();
                assert_eq!((found.key, found.group), (element.key, element.group), "{}", of.name);
                for other in [&element.key[1..], &format!("{}x", element.key), &element.key.to_uppercase()] {
                    let expected = of.elements.iter().any(|one| one.key == other);
                    assert_eq!(of.element(other.as_bytes()).is_some(), expected, "{}.{other}", of.name);
                }
            }
            assert!(of.element(b"").is_none());
        }
    }
}
