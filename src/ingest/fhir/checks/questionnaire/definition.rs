//! A Questionnaire, compiled: its items in document order with what they demand of an answer.

use super::super::{choice, extension};
use super::DEPTH_MAX;
use crate::ingest::fhir::decimal::Decimal;
use crate::ingest::fhir::node::{Node, Object};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};

const CORE: &str = "http://hl7.org/fhir/StructureDefinition/";
const SDC: &str = "http://hl7.org/fhir/uv/sdc/StructureDefinition/";

/// `Questionnaire.item.type` (R4, and R5's `coding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Group,
    Display,
    Boolean,
    Decimal,
    Integer,
    Date,
    DateTime,
    Time,
    String,
    Text,
    Url,
    Choice,
    OpenChoice,
    Attachment,
    Reference,
    Quantity,
}

impl Kind {
    fn of(code: &str) -> Option<Self> {
        Some(match code {
            "group" => Self::Group,
            "display" => Self::Display,
            "boolean" => Self::Boolean,
            "decimal" => Self::Decimal,
            "integer" => Self::Integer,
            "date" => Self::Date,
            "dateTime" => Self::DateTime,
            "time" => Self::Time,
            "string" => Self::String,
            "text" => Self::Text,
            "url" => Self::Url,
            "choice" | "coding" => Self::Choice,
            "open-choice" => Self::OpenChoice,
            "attachment" => Self::Attachment,
            "reference" => Self::Reference,
            "quantity" => Self::Quantity,
            _ => return None,
        })
    }

    /// The types that an answer may have.
    pub fn answer_types(self) -> &'static [&'static str] {
        match self {
            Self::Group | Self::Display => &[],
            Self::Boolean => &["boolean"],
            Self::Decimal => &["decimal"],
            Self::Integer => &["integer"],
            Self::Date => &["date"],
            Self::DateTime => &["dateTime"],
            Self::Time => &["time"],
            Self::String | Self::Text => &["string"],
            Self::Url => &["uri"],
            // What an option may be.
            Self::Choice | Self::OpenChoice => &["Coding", "date", "time", "integer", "string", "Reference"],
            Self::Attachment => &["Attachment"],
            Self::Reference => &["Reference"],
            Self::Quantity => &["Quantity"],
        }
    }
}

/// A coded value.
#[derive(Clone, PartialEq, Eq)]
pub struct Coding {
    pub system: Option<String>,
    pub code: Option<String>,
    pub display: Option<String>,
}

impl Coding {
    pub fn read(object: &Object<'_>) -> Self {
        let [system, code, display] = ["system", "code", "display"].map(|name| object.owned(name));
        Self { system, code, display }
    }
}

/// A value that a Questionnaire states: an option, a bound, or what a condition compares with.
#[derive(Clone)]
pub enum Value {
    Boolean(bool),
    Number(Decimal),
    /// `date` or `dateTime`
    Moment(String),
    Time(String),
    Text(String),
    Coding(Coding),
    Reference(String),
    Quantity {
        value: Decimal,
        unit: Coding,
    },
}

impl Value {
    /// Read a value by the type that its member names; none if it is absent or not of that type.
    pub fn read(kind: &str, node: Node<'_>) -> Option<Self> {
        Some(match kind {
            "boolean" => Self::Boolean(node.boolean()?),
            "integer" | "decimal" | "positiveInt" | "unsignedInt" => Self::Number(Decimal::parse(node.number()?)?),
            "date" | "dateTime" | "instant" => Self::Moment(node.string()?.into_owned()),
            "time" => Self::Time(node.string()?.into_owned()),
            "string" | "uri" | "url" | "code" | "canonical" | "markdown" => Self::Text(node.string()?.into_owned()),
            "Coding" => Self::Coding(Coding::read(&node.object()?)),
            "Reference" => Self::Reference(node.object()?.owned("reference")?),
            "Quantity" => {
                let quantity = node.object()?;
                let value = Decimal::parse(quantity.get("value")?.number()?)?;
                let mut unit = Coding::read(&quantity);
                unit.display = quantity.owned("unit");
                Self::Quantity { value, unit }
            }
            _ => return None,
        })
    }

    fn of(object: &Object<'_>, element: &str) -> Option<Self> {
        let (_, kind, node) = choice(object, element)?;
        Self::read(kind, node)
    }
}

/// The codes of a value set that was given in full.
#[derive(Default)]
pub struct Codes {
    codes: HashMap<String, HashSet<Option<String>>>,
    systems: HashSet<String>,
}

impl Codes {
    /// The value set holds the code; without a system, any code of that name counts.
    pub fn contains(&self, system: Option<&str>, code: &str) -> bool {
        let listed = self.codes.get(code).is_some_and(|systems| {
            system.is_none() || systems.contains(&None) || systems.contains(&system.map(str::to_owned))
        });
        listed || system.map_or(!self.systems.is_empty(), |system| self.systems.contains(system))
    }

    /// None if the value set does not say all its codes itself.
    fn read(value_set: &Object<'_>) -> Option<Self> {
        let mut codes = Self::default();
        if let Some(compose) = value_set.object("compose") {
            if compose.get("exclude").is_some() {
                return None;
            }
            for include in compose.objects("include") {
                if include.get("filter").is_some() || include.get("valueSet").is_some() {
                    return None;
                }
                let system = include.owned("system")?;
                let concepts = include.objects("concept");
                if concepts.is_empty() {
                    codes.systems.insert(system);
                } else {
                    for concept in &concepts {
                        codes.add(Some(&system), concept);
                    }
                }
            }
        } else {
            let expansion = value_set.object("expansion")?;
            let mut open = vec![(expansion.objects("contains"), 0)];
            let mut listed = 0;
            while let Some((contains, depth)) = open.pop() {
                if depth > DEPTH_MAX {
                    return None;
                }
                for concept in contains {
                    listed += 1;
                    codes.add(concept.owned("system").as_ref(), &concept);
                    open.push((concept.objects("contains"), depth + 1));
                }
            }
            // A page of an expansion is not the whole.
            let total = expansion.get("total").and_then(|total| total.number()?.parse::<usize>().ok());
            if total.is_some_and(|total| total > listed) || expansion.get("offset").is_some() {
                return None;
            }
        }
        (!codes.codes.is_empty() || !codes.systems.is_empty()).then_some(codes)
    }

    fn add(&mut self, system: Option<&String>, concept: &Object<'_>) {
        if let Some(code) = concept.owned("code") {
            self.codes.entry(code).or_default().insert(system.cloned());
        }
    }
}

/// `enableWhen`
pub struct Condition {
    /// The linkId of the question that is asked.
    pub question: String,
    /// `exists`, `=`, …
    pub operator: String,
    pub answer: Value,
}

/// What decides whether an item may be answered.
#[derive(Default)]
pub struct Enabling {
    /// Conditions; one that could not be read is none.
    pub conditions: Vec<Option<Condition>>,
    /// `enableBehavior` is `any`; none where several conditions stand without a word.
    pub any: Option<bool>,
    /// An expression decides, which is not evaluated.
    pub has_expression: bool,
}

/// An item with what it demands.
pub struct Item {
    pub parent: Option<usize>,
    /// Position among its siblings.
    pub position: usize,
    pub children: Vec<usize>,
    /// None for a type that is not known.
    pub kind: Option<Kind>,
    pub required: bool,
    pub repeats: bool,
    pub min_occurs: Option<usize>,
    pub max_occurs: Option<usize>,
    pub min_length: Option<usize>,
    pub max_length: Option<usize>,
    pub min: Option<Value>,
    pub max: Option<Value>,
    pub max_places: Option<i64>,
    pub mime_types: Vec<String>,
    /// In megabytes.
    pub max_size: Option<Decimal>,
    pub reference_types: Vec<String>,
    pub units: Vec<Coding>,
    pub unit_set: Option<String>,
    pub options: Vec<Value>,
    pub option_set: Option<String>,
    pub enabling: Enabling,
    /// Another item has the same linkId: which one is meant cannot be told.
    pub ambiguous: bool,
}

/// A compiled Questionnaire.
#[derive(Default)]
pub struct Definition {
    pub items: Vec<Item>,
    pub roots: Vec<usize>,
    pub by_link: HashMap<String, usize>,
    /// Contained value sets by id.
    pub value_sets: HashMap<String, Codes>,
    pub retired: bool,
    pub start: Option<String>,
    pub end: Option<String>,
    /// Items nest deeper than is read: what is not found may be there.
    pub cut: bool,
    spent: Cell<usize>,
}

/// What all responses to one Questionnaire may cost: options, conditions and children that are looked at. Honest forms stay
/// far below; a hostile one could multiply its options by its answers.
const COMPARISONS_MAX: usize = 4_000_000;

impl Definition {
    /// Count work; none once too much was done, and from then on nothing is told.
    pub fn spend(&self, count: usize) -> Option<()> {
        let spent = self.spent.get().saturating_add(count);
        self.spent.set(spent);
        (spent <= COMPARISONS_MAX).then_some(())
    }

    /// Compile a Questionnaire; if it is contained, value sets may stand beside it in its container.
    pub fn compile(questionnaire: &Object<'_>, container: Option<&Object<'_>>) -> Self {
        let mut definition =
            Self { retired: questionnaire.string("status").as_deref() == Some("retired"), ..Self::default() };
        if let Some(period) = questionnaire.object("effectivePeriod") {
            definition.start = period.owned("start");
            definition.end = period.owned("end");
        }
        for holder in [Some(questionnaire), container].into_iter().flatten() {
            for resource in holder.objects("contained") {
                if resource.string("resourceType").as_deref() == Some("ValueSet")
                    && let (Some(id), Some(codes)) = (resource.owned("id"), Codes::read(&resource))
                {
                    definition.value_sets.entry(id).or_insert(codes);
                }
            }
        }
        definition.roots = definition.read_items(questionnaire, None, 0);
        definition
    }

    fn read_items(&mut self, holder: &Object<'_>, parent: Option<usize>, depth: usize) -> Vec<usize> {
        let objects = holder.objects("item");
        if depth > DEPTH_MAX {
            self.cut |= !objects.is_empty();
            return Vec::new();
        }
        let mut read = Vec::with_capacity(objects.len());
        for (position, object) in objects.into_iter().enumerate() {
            let index = self.items.len();
            self.items.push(item(&object, parent, position));
            read.push(index);
            if let Some(link) = object.owned("linkId") {
                let first = *self.by_link.entry(link).or_insert(index);
                if first != index {
                    self.items[first].ambiguous = true;
                    self.items[index].ambiguous = true;
                }
            }
            self.items[index].children = self.read_items(&object, Some(index), depth + 1);
        }
        read
    }

    /// The items right below an item, or at the top.
    pub fn children(&self, parent: Option<usize>) -> &[usize] {
        parent.map_or(&self.roots, |parent| &self.items[parent].children)
    }

    /// The codes of a contained value set; none if it stands elsewhere or is not given in full.
    pub fn codes(&self, canonical: &str) -> Option<&Codes> {
        self.value_sets.get(canonical.strip_prefix('#')?)
    }
}

fn item(object: &Object<'_>, parent: Option<usize>, position: usize) -> Item {
    let extensions = object.objects("extension");
    let all = |url: &str| -> Vec<Value> {
        let of_url = extensions.iter().filter(|extension| extension.string("url").as_deref() == Some(url));
        of_url.filter_map(|extension| Value::of(extension, "value")).collect()
    };
    let one = |url: &str| all(url).into_iter().next();
    let core = |name: &str| one(&format!("{CORE}{name}"));
    let count = |name: &str| {
        let extension = extension(object, &format!("{CORE}{name}"))?;
        choice(&extension, "value")?.2.number()?.parse::<usize>().ok()
    };
    let texts = |name: &str| -> Vec<String> {
        let text = |value| if let Value::Text(text) = value { Some(text) } else { None };
        all(&format!("{CORE}{name}")).into_iter().filter_map(text).collect()
    };
    let flag = |name: &str| object.get(name).and_then(|node| node.boolean()) == Some(true);
    let codings = all(&format!("{CORE}questionnaire-unitOption")).into_iter();
    Item {
        parent,
        position,
        children: Vec::new(),
        kind: object.string("type").as_deref().and_then(Kind::of),
        required: flag("required"),
        repeats: flag("repeats"),
        min_occurs: count("questionnaire-minOccurs"),
        max_occurs: count("questionnaire-maxOccurs"),
        min_length: count("minLength"),
        max_length: object.get("maxLength").and_then(|node| node.number()?.parse().ok()),
        min: core("minValue").or_else(|| one(&format!("{SDC}sdc-questionnaire-minQuantity"))),
        max: core("maxValue").or_else(|| one(&format!("{SDC}sdc-questionnaire-maxQuantity"))),
        max_places: count("maxDecimalPlaces").and_then(|places| i64::try_from(places).ok()),
        mime_types: texts("mimeType"),
        max_size: core("maxSize").and_then(|value| if let Value::Number(size) = value { Some(size) } else { None }),
        reference_types: texts("questionnaire-referenceResource"),
        units: codings.filter_map(|value| if let Value::Coding(unit) = value { Some(unit) } else { None }).collect(),
        unit_set: texts("questionnaire-unitValueSet").into_iter().next(),
        options: object.objects("answerOption").iter().filter_map(|option| Value::of(option, "value")).collect(),
        option_set: object.owned("answerValueSet"),
        enabling: enabling(object),
        ambiguous: false,
    }
}

fn enabling(object: &Object<'_>) -> Enabling {
    let conditions: Vec<_> = object.objects("enableWhen").iter().map(condition).collect();
    let any = match object.string("enableBehavior").as_deref() {
        Some("any") => Some(true),
        Some("all") => Some(false),
        _ if conditions.len() > 1 => None,
        _ => Some(false),
    };
    let expression = format!("{SDC}sdc-questionnaire-enableWhenExpression");
    Enabling { conditions, any, has_expression: extension(object, &expression).is_some() }
}

fn condition(object: &Object<'_>) -> Option<Condition> {
    Some(Condition {
        question: object.owned("question")?,
        operator: object.owned("operator")?,
        answer: Value::of(object, "answer")?,
    })
}
