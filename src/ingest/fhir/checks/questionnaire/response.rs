//! A response, laid flat, and the rules of its structure.

use super::super::{Found, choice, choice_place};
use super::DEPTH_MAX;
use super::answers::Answer;
use super::conditions::Asker;
use super::definition::{Definition, Item, Kind};
use crate::ingest::fhir::issue::Severity;
use crate::ingest::fhir::node::{Node, Object};
use crate::ingest::fhir::path::Place;
use crate::ingest::fhir::temporal;
use std::cmp::Ordering;
use std::collections::HashMap;

/// Bytes that are opened, as a multiple of the response's own: opening reads each level again, and honest responses
/// nest a few levels.
const OPENED_MAX: usize = 24;

/// An item of the response.
pub struct Entry<'a> {
    /// The container that it stands in.
    pub container: usize,
    /// Position in the container's `item`.
    pub index: usize,
    pub node: Node<'a>,
    pub definition: Option<usize>,
    /// The linkId is there, but not known.
    unknown: bool,
    link_offset: usize,
    pub answers: Vec<(Node<'a>, Object<'a>)>,
    has_items: bool,
    /// The first entry behind this one and all within it.
    pub end: usize,
}

/// A list of items: the response's, an item's, or an answer's.
pub struct Container {
    /// The entry, and the answer of it, that the list belongs to.
    pub owner: Option<(usize, Option<usize>)>,
    pub entries: Vec<usize>,
}

/// A response in document order.
#[derive(Default)]
pub struct Flat<'a> {
    pub entries: Vec<Entry<'a>>,
    pub containers: Vec<Container>,
    /// Entries of each item of the Questionnaire, in document order.
    pub by_item: HashMap<usize, Vec<usize>>,
    budget: usize,
    /// Something was too deep or too much to be read: what is missing may be there.
    cut: bool,
}

impl<'a> Flat<'a> {
    fn read(response: &Object<'a>, definition: &Definition) -> Self {
        let budget = response.node().text().len().saturating_mul(OPENED_MAX);
        let mut flat = Self { budget, ..Self::default() };
        flat.read_items(response, None, definition, 0);
        flat
    }

    fn open(&mut self, node: Node<'a>) -> Option<Object<'a>> {
        let Some(left) = self.budget.checked_sub(node.text().len()) else {
            self.cut = true;
            return None;
        };
        self.budget = left;
        node.object()
    }

    fn read_items(
        &mut self,
        holder: &Object<'a>,
        owner: Option<(usize, Option<usize>)>,
        definition: &Definition,
        depth: usize,
    ) {
        let container = self.containers.len();
        self.containers.push(Container { owner, entries: Vec::new() });
        let items = holder.items("item");
        if depth > DEPTH_MAX {
            self.cut |= !items.is_empty();
            return;
        }
        for (index, node) in items.into_iter().enumerate() {
            let Some(object) = self.open(node) else { continue };
            let at = self.entries.len();
            let link = object.string("linkId");
            let item = link.as_ref().and_then(|link| definition.by_link.get(link.as_ref())).copied();
            self.entries.push(Entry {
                container,
                index,
                node,
                definition: item,
                unknown: link.is_some() && item.is_none(),
                link_offset: object.get("linkId").map_or(node.span().start, |node| node.span().start),
                answers: Vec::new(),
                has_items: !object.items("item").is_empty(),
                end: at + 1,
            });
            self.containers[container].entries.push(at);
            if let Some(item) = item {
                self.by_item.entry(item).or_default().push(at);
            }
            if self.entries[at].has_items {
                self.read_items(&object, Some((at, None)), definition, depth + 1);
            }
            let answers: Vec<_> = object.items("answer");
            for (answer, node) in answers.into_iter().enumerate() {
                let Some(object) = self.open(node) else { continue };
                let asks_more = item.is_some_and(|item| !definition.items[item].children.is_empty());
                if asks_more || object.get("item").is_some() {
                    self.read_items(&object, Some((at, Some(answer))), definition, depth + 1);
                }
                self.entries[at].answers.push((node, object));
            }
            self.entries[at].end = self.entries.len();
        }
    }

    /// The entries within a container, as a range.
    pub fn range(&self, container: usize) -> std::ops::Range<usize> {
        let entries = &self.containers[container].entries;
        match (entries.first(), entries.last()) {
            (Some(first), Some(last)) => *first..self.entries[*last].end,
            _ => 0..0,
        }
    }

    fn place(&self, root: &Place, entry: usize) -> Place {
        let entry = &self.entries[entry];
        self.container_place(root, entry.container).member("item").item(entry.index)
    }

    /// The place of what a container belongs to.
    fn container_place(&self, root: &Place, container: usize) -> Place {
        match self.containers[container].owner {
            None => root.clone(),
            Some((entry, None)) => self.place(root, entry),
            Some((entry, Some(answer))) => self.place(root, entry).member("answer").item(answer),
        }
    }

    fn container_offset(&self, response: &Object<'_>, container: usize) -> usize {
        let node = match self.containers[container].owner {
            None => response.node(),
            Some((entry, _)) => self.entries[entry].node,
        };
        node.span().start
    }
}

impl Entry<'_> {
    /// It says something; an empty item counts as absent.
    fn is_there(&self) -> bool {
        !self.answers.is_empty() || self.has_items
    }
}

/// Check a response against its compiled Questionnaire.
pub fn check(response: &Object<'_>, place: &Place, definition: &Definition, found: &mut Found<'_>) {
    check_period(response, place, definition, found);
    let flat = Flat::read(response, definition);
    // Only a response that claims to be complete can lack something.
    let complete = matches!(response.string("status").as_deref(), Some("completed" | "amended"));
    let mut rules = Rules { response, root: place, definition, flat: &flat, complete, found };
    rules.check_containers();
    for entry in 0..flat.entries.len() {
        if rules.found.is_full() {
            return;
        }
        rules.check_entry(entry);
    }
}

/// The Questionnaire was in use when it was answered.
fn check_period(response: &Object<'_>, place: &Place, definition: &Definition, found: &mut Found<'_>) {
    let offset = |name: &str| response.get(name).map_or(response.node().span().start, |node| node.span().start);
    if definition.retired {
        let at = (&place.member("questionnaire"), offset("questionnaire"));
        found.put(Severity::Information, "business-rule", at, "The Questionnaire is retired.");
    }
    let Some(authored) = response.string("authored") else { return };
    let at = (&place.member("authored"), offset("authored"));
    let against = |limit: &Option<String>| limit.as_ref().and_then(|limit| temporal::compare(&authored, limit));
    if against(&definition.start) == Some(Ordering::Less) {
        found.warning("business-rule", at, "The response was authored before the Questionnaire came into effect.");
    }
    if against(&definition.end) == Some(Ordering::Greater) {
        found.warning("business-rule", at, "The response was authored after the Questionnaire went out of effect.");
    }
}

struct Rules<'r, 'a, 'f> {
    response: &'r Object<'a>,
    root: &'r Place,
    definition: &'r Definition,
    flat: &'r Flat<'a>,
    complete: bool,
    found: &'r mut Found<'f>,
}

impl<'r> Rules<'r, '_, '_> {
    fn item(&self, entry: usize) -> Option<&'r Item> {
        let item = &self.definition.items[self.flat.entries[entry].definition?];
        (!item.ambiguous).then_some(item)
    }

    fn at(&self, entry: usize) -> (Place, usize) {
        (self.flat.place(self.root, entry), self.flat.entries[entry].node.span().start)
    }

    fn check_containers(&mut self) {
        let mut asker = Asker::new(self.definition, self.flat);
        // Entries that are not enabled, with all within them.
        let mut disabled = vec![false; self.flat.entries.len()];
        for container in 0..self.flat.containers.len() {
            if self.found.is_full() {
                return;
            }
            let owner = self.flat.containers[container].owner;
            let above = owner.is_some_and(|(entry, _)| disabled[entry]);
            let parent = match owner {
                None => None,
                Some((entry, answer)) => {
                    let Some(item) = self.flat.entries[entry].definition else {
                        self.pass_on(container, above, &mut disabled);
                        continue;
                    };
                    let is_group = self.definition.items[item].kind == Some(Kind::Group);
                    // What stands below an answer of a group, or below a question's item, was told at its owner.
                    if is_group == answer.is_some() || self.definition.items[item].ambiguous {
                        self.pass_on(container, above, &mut disabled);
                        continue;
                    }
                    Some(item)
                }
            };
            let mut counts: HashMap<usize, usize> = HashMap::new();
            self.check_members(container, parent, &mut counts);
            for &entry in &self.flat.containers[container].entries {
                disabled[entry] = above;
                let Some(item) = self.flat.entries[entry].definition else { continue };
                if !above && self.flat.entries[entry].is_there() && asker.enabled(item, container) == Some(false) {
                    disabled[entry] = true;
                    let (place, offset) = self.at(entry);
                    let message = "The item is answered, though its enableWhen does not hold.";
                    self.found.error("invalid", (&place, offset), message);
                }
            }
            if self.complete && !above && !self.flat.cut {
                self.check_missing(container, parent, &counts, &mut asker);
            }
        }
    }

    fn pass_on(&self, container: usize, above: bool, disabled: &mut [bool]) {
        for &entry in &self.flat.containers[container].entries {
            disabled[entry] = above;
        }
    }

    /// Each item is known, stands where the Questionnaire has it, and is there no more often than it may.
    fn check_members(&mut self, container: usize, parent: Option<usize>, counts: &mut HashMap<usize, usize>) {
        let (mut last, mut in_order) = (0, true);
        for &at in &self.flat.containers[container].entries {
            let entry = &self.flat.entries[at];
            let Some(index) = entry.definition else {
                if entry.unknown && !self.definition.cut {
                    let place = self.flat.place(self.root, at).member("linkId");
                    let message = "The Questionnaire has no item with this linkId.";
                    self.found.error("not-found", (&place, entry.link_offset), message);
                }
                continue;
            };
            let item = &self.definition.items[index];
            if item.ambiguous {
                continue;
            }
            if item.parent != parent {
                let (place, offset) = self.at(at);
                let message = "The item stands elsewhere in the Questionnaire than in the response.";
                self.found.error("structure", (&place, offset), message);
                continue;
            }
            if item.position < last && in_order {
                in_order = false;
                let (place, offset) = self.at(at);
                let message = "The items of the response are in another order than in the Questionnaire.";
                self.found.warning("structure", (&place, offset), message);
            }
            last = item.position;
            if !entry.is_there() {
                continue;
            }
            let count = counts.entry(index).or_default();
            *count += 1;
            let limit = if item.kind == Some(Kind::Group) { item.max_occurs } else { None };
            if *count == 2 && !item.repeats {
                let (place, offset) = self.at(at);
                self.found.error("invalid", (&place, offset), "Only one response item with this linkId is allowed.");
            } else if limit.is_some_and(|limit| *count == limit + 1) {
                let (place, offset) = self.at(at);
                self.found.error("invalid", (&place, offset), "The group is there more often than maxOccurs allows.");
            }
        }
    }

    /// What is required is there.
    fn check_missing(
        &mut self,
        container: usize,
        parent: Option<usize>,
        counts: &HashMap<usize, usize>,
        asker: &mut Asker<'_, '_>,
    ) {
        let offset = self.flat.container_offset(self.response, container);
        let children = self.definition.children(parent);
        if self.definition.spend(children.len()).is_none() {
            return;
        }
        for &index in children {
            let item = &self.definition.items[index];
            let count = counts.get(&index).copied().unwrap_or(0);
            let is_group = item.kind == Some(Kind::Group);
            let too_few = is_group && (count > 0 || item.required) && item.min_occurs.is_some_and(|min| count < min);
            let missing = item.required && count == 0 && item.kind != Some(Kind::Display);
            if item.ambiguous || !(missing || too_few) || asker.enabled(index, container) != Some(true) {
                continue;
            }
            // A misplaced one was told already.
            if missing && self.flat.by_item.contains_key(&index) && self.stands_elsewhere(index) {
                continue;
            }
            let place = self.flat.container_place(self.root, container);
            let message = if missing {
                "A required item has no answer."
            } else {
                "A group is there less often than minOccurs asks."
            };
            self.found.error("required", (&place, offset), message);
            if self.found.is_full() {
                return;
            }
        }
    }

    fn stands_elsewhere(&self, index: usize) -> bool {
        let Some(first) = self.flat.by_item.get(&index).and_then(|entries| entries.first()) else { return false };
        let owner = self.flat.containers[self.flat.entries[*first].container].owner;
        owner.and_then(|(entry, _)| self.flat.entries[entry].definition) != self.definition.items[index].parent
    }

    /// What an item of a type may hold, how many answers, and each answer.
    fn check_entry(&mut self, at: usize) {
        let flat = self.flat;
        let entry = &flat.entries[at];
        let Some(item) = self.item(at) else { return };
        let Some(kind) = item.kind else { return };
        let answers = entry.answers.len();
        if let Some((code, message)) = self.wrong_shape(item, kind, answers, entry.has_items) {
            let (place, offset) = self.at(at);
            self.found.error(code, (&place, offset), message);
        }
        if matches!(kind, Kind::Group | Kind::Display) {
            return;
        }
        for (index, (node, answer)) in entry.answers.iter().enumerate() {
            let Some((member, name, value)) = choice(answer, "value") else { continue };
            let checked = Answer { definition: self.definition, item, kind, name, value };
            checked.check(&mut |wrong| {
                let place = flat.place(self.root, at).member("answer").item(index);
                let (place, offset) = if wrong.at_value {
                    (choice_place(&place, "value", member), value.span().start)
                } else {
                    (place, node.span().start)
                };
                self.found.put(wrong.severity, wrong.code, (&place, offset), wrong.message);
            });
        }
    }

    fn wrong_shape(
        &self,
        item: &Item,
        kind: Kind,
        answers: usize,
        has_items: bool,
    ) -> Option<(&'static str, &'static str)> {
        match kind {
            Kind::Group if answers > 0 => Some(("structure", "A group must not have answers.")),
            Kind::Display if answers > 0 || has_items => {
                Some(("structure", "A display item must have neither answers nor items."))
            }
            Kind::Group | Kind::Display => None,
            _ if has_items => Some(("structure", "Items below a question must stand within its answers.")),
            _ if answers > 1 && !item.repeats => Some(("invalid", "Only one answer is allowed.")),
            _ if item.max_occurs.is_some_and(|max| answers > max) => {
                Some(("invalid", "There are more answers than maxOccurs allows."))
            }
            _ if self.complete && answers > 0 && item.min_occurs.is_some_and(|min| answers < min) => {
                Some(("required", "There are fewer answers than minOccurs asks for."))
            }
            _ => None,
        }
    }
}
