//! Opening a table. Its notation, a line a fact, in this order:
//!
//! ```text
//! R <release> <version>
//! V <value set>                                 followed by its codes:
//! C <system> <code> <code> …
//! T <type> <kind> <base>                        kind: r resource, c datatype, b element with children;
//!                                               upper case: abstract. Elements of the base come first.
//! E <name> <min><max> <types> [!<value set>]    max: 1 or *; types: comma-separated, with the targets of a
//!                                               reference in parentheses; a name with [x] is a choice
//! I <key> <e|w> <formula>                       prefix notation, see `generate::formula`
//! ```

use super::{
    CodeSet, Element, Formula, Group, Invariant, Kind, Primitive, Role, SetId, Table, TargetsId, Type, TypeId,
    TypeKind, ends, hash,
};
use std::collections::{HashMap, HashSet};

/// A table that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct LoadError {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// A type as written, before its base and the types of its elements are known.
#[derive(Default)]
struct Draft {
    line: usize,
    name: &'static str,
    kind: char,
    base: &'static str,
    elements: Vec<(usize, &'static str)>,
    invariants: Vec<(usize, &'static str)>,
}

/// Slots of an object that are kept until it ends.
pub const SLOTS: usize = 8;

impl Table {
    /// Open a table.
    ///
    /// # Errors
    /// The first line that cannot be understood.
    pub fn open(text: &'static str) -> Result<Self, LoadError> {
        let mut table = Self {
            release: "",
            version: "",
            types: Vec::new(),
            by_name: HashMap::new(),
            sets: Vec::new(),
            targets: Vec::new(),
            keys: HashSet::new(),
        };
        let mut set_ids: HashMap<&'static str, SetId> = HashMap::new();
        let mut drafts: Vec<Draft> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let fault = |what: &str| LoadError { line: number, what: what.to_owned() };
            let (mark, rest) = line.split_once(' ').ok_or_else(|| fault("a line without a value"))?;
            match mark {
                "#" => {}
                "R" => (table.release, table.version) = rest.split_once(' ').ok_or_else(|| fault("no version"))?,
                "V" => {
                    set_ids.insert(rest, SetId(small(table.sets.len()).ok_or_else(|| fault("too many value sets"))?));
                    table.sets.push(CodeSet { url: rest, codes: HashMap::new() });
                }
                "C" => {
                    let set = table.sets.last_mut().ok_or_else(|| fault("codes of no value set"))?;
                    let (system, codes) = rest.split_once(' ').ok_or_else(|| fault("no codes"))?;
                    codes.split(' ').for_each(|code| set.codes.entry(code).or_default().push(system));
                }
                "T" => {
                    let mut words = rest.split(' ');
                    let (Some(name), Some(kind), Some(base)) = (words.next(), words.next(), words.next()) else {
                        return Err(fault("a type has a name, a kind and a base"));
                    };
                    let kind = kind.chars().next().unwrap_or('c');
                    drafts.push(Draft { line: number, name, kind, base, ..Draft::default() });
                }
                "E" | "I" => {
                    let draft = drafts.last_mut().ok_or_else(|| fault("an element of no type"))?;
                    let list = if mark == "E" { &mut draft.elements } else { &mut draft.invariants };
                    list.push((number, rest));
                }
                _ => return Err(fault("unknown mark")),
            }
        }
        for (position, draft) in drafts.iter().enumerate() {
            let position =
                small(position).ok_or_else(|| LoadError { line: draft.line, what: "too many types".to_owned() })?;
            table.by_name.insert(draft.name, position);
        }
        let by_name: HashMap<&'static str, &Draft> = drafts.iter().map(|draft| (draft.name, draft)).collect();
        for draft in &drafts {
            let of = build(&mut table, draft, &by_name, &set_ids)?;
            table.keys.extend(of.elements.iter().map(|element| element.key));
            table.types.push(of);
        }
        Ok(table)
    }
}

fn small(number: usize) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number < u16::MAX)
}

/// The draft and its ancestors, the farthest first.
fn lineage<'d>(draft: &'d Draft, by_name: &HashMap<&'static str, &'d Draft>) -> Vec<&'d Draft> {
    let mut line = vec![draft];
    while let Some(base) = line.last().and_then(|last| by_name.get(last.base)) {
        line.push(base);
        if line.len() > 16 {
            break;
        }
    }
    line.reverse();
    line
}

fn build(
    table: &mut Table,
    draft: &Draft,
    by_name: &HashMap<&'static str, &Draft>,
    set_ids: &HashMap<&'static str, SetId>,
) -> Result<Type, LoadError> {
    let lineage = lineage(draft, by_name);
    let (role, read) = Role::of(draft.name);
    let mut of = Type {
        name: draft.name,
        kind: match draft.kind {
            'r' => TypeKind::Resource,
            'R' | 'C' => TypeKind::Abstract,
            _ => TypeKind::Complex,
        },
        is_domain: lineage.iter().any(|one| one.name == "DomainResource"),
        role,
        invariants: Vec::new(),
        elements: Vec::new(),
        groups: Vec::new(),
        required: 0,
        index: Vec::new(),
    };
    for (line, text) in lineage.iter().flat_map(|one| &one.elements) {
        element(table, &mut of, *line, text, set_ids)?;
    }
    index(&mut of);
    let mut slots = 0;
    // Whatever else it is, a resource is known by its id.
    let id = (of.kind == TypeKind::Resource).then_some("id");
    for key in read.iter().copied().chain(id) {
        slot(&mut of, key, &mut slots);
    }
    for (line, text) in lineage.iter().flat_map(|one| &one.invariants) {
        let fault = |what: &str| LoadError { line: *line, what: what.to_owned() };
        let mut words = text.split(' ');
        let (Some(key), Some(severity)) = (words.next(), words.next()) else {
            return Err(fault("an invariant has a key and a severity"));
        };
        let formula = formula(&mut of, &mut words, &mut slots).ok_or_else(|| fault("not a formula"))?;
        of.invariants.push(Invariant { key, is_error: severity == "e", formula });
    }
    if slots > SLOTS {
        return Err(LoadError { line: draft.line, what: format!("{} needs {slots} slots", draft.name) });
    }
    Ok(of)
}

fn element(
    table: &mut Table,
    of: &mut Type,
    line: usize,
    text: &'static str,
    set_ids: &HashMap<&'static str, SetId>,
) -> Result<(), LoadError> {
    let fault = |what: &str| LoadError { line, what: what.to_owned() };
    let mut words = text.split(' ');
    let (Some(name), Some(cardinality), Some(types)) = (words.next(), words.next(), words.next()) else {
        return Err(fault("an element has a name, a cardinality and types"));
    };
    let set = words.next().and_then(|word| word.strip_prefix('!')).and_then(|url| set_ids.get(url)).copied();
    let is_array = cardinality.ends_with('*');
    let is_choice = name.ends_with("[x]");
    let group_name = name.trim_end_matches("[x]");
    let group =
        u8::try_from(of.groups.len()).ok().filter(|bit| *bit < 128).ok_or_else(|| fault("too many elements"))?;
    of.groups.push(Group { name: group_name, is_choice });
    if !cardinality.starts_with('0') {
        of.required |= 1 << group;
    }
    for word in split_types(types) {
        let (type_name, targets) = match word.split_once('(') {
            Some((name, targets)) => (name, Some(targets.trim_end_matches(')'))),
            None => (word, None),
        };
        let kind = match (Primitive::from_name(type_name), type_name) {
            (Some(primitive), _) => Kind::Primitive(primitive),
            (None, "Resource") => Kind::Resource,
            (None, name) => {
                let id = table.by_name.get(name).ok_or_else(|| fault(&format!("no type {name}")))?;
                Kind::Complex(TypeId(*id))
            }
        };
        let key: &'static str = if is_choice {
            let mut key = group_name.to_owned();
            let mut letters = type_name.chars();
            key.extend(letters.next().map(|first| first.to_ascii_uppercase()));
            key.push_str(letters.as_str());
            // Once a process: the table lives as long as it.
            key.leak()
        } else {
            name
        };
        let targets = targets.map(|targets| {
            let mut list: Vec<&'static str> = targets.split('|').collect();
            list.sort_unstable();
            let position = table.targets.iter().position(|one| *one == list).unwrap_or_else(|| {
                table.targets.push(list);
                table.targets.len() - 1
            });
            TargetsId(u16::try_from(position).unwrap_or(u16::MAX))
        });
        // A binding concerns the coded types of a choice.
        let is_coded = matches!(kind, Kind::Primitive(Primitive::Code))
            || matches!(type_name, "Coding" | "CodeableConcept" | "Quantity" | "uri" | "string");
        of.elements.push(Element {
            key,
            name: group_name,
            of_type: is_choice.then_some(type_name),
            group,
            kind,
            is_array,
            set: set.filter(|_| is_coded),
            targets,
            slot: None,
            ends: ends(key.as_bytes()),
        });
    }
    Ok(())
}

/// Commas between types, not those within parentheses: there are none.
fn split_types(types: &'static str) -> impl Iterator<Item = &'static str> {
    types.split(',').filter(|word| !word.is_empty())
}

/// Open addressing at a load of at most a half.
fn index(of: &mut Type) {
    let size = (of.elements.len() * 2).next_power_of_two().max(2);
    of.index = vec![u16::MAX; size];
    for (position, element) in of.elements.iter().enumerate() {
        let mut at = hash(element.ends, element.key.len()) & (size - 1);
        while of.index[at] != u16::MAX {
            at = (at + 1) & (size - 1);
        }
        of.index[at] = u16::try_from(position).unwrap_or(u16::MAX);
    }
}

fn slot(of: &mut Type, key: &str, slots: &mut usize) -> Option<u8> {
    let element = of.elements.iter_mut().find(|element| element.key == key)?;
    if element.slot.is_none() {
        element.slot = u8::try_from(*slots).ok();
        *slots += 1;
    }
    element.slot
}

fn formula<'w>(of: &mut Type, words: &mut impl Iterator<Item = &'w str>, slots: &mut usize) -> Option<Formula>
where
    'w: 'static,
{
    let word = words.next()?;
    let mut operand = |of: &mut Type| formula(of, words, slots).map(Box::new);
    Some(match word {
        "!" => Formula::Not(operand(of)?),
        "&" => Formula::And(operand(of)?, operand(of)?),
        "|" => Formula::Or(operand(of)?, operand(of)?),
        "^" => Formula::Xor(operand(of)?, operand(of)?),
        _ => {
            let (mark, rest) = word.split_at(1);
            match mark {
                "?" => Formula::Exists(group(of, rest)?),
                "=" => {
                    let (key, text) = rest.split_once(':')?;
                    Formula::Equals(slot(of, key, slots)?, text)
                }
                "#" => {
                    let (key, count) = rest.split_once('>')?;
                    Formula::More(slot(of, key, slots)?, count.parse().ok()?)
                }
                _ => return None,
            }
        }
    })
}

fn group(of: &Type, name: &str) -> Option<u8> {
    of.groups.iter().position(|group| group.name == name).and_then(|position| u8::try_from(position).ok())
}
