//! The own rules of code systems and value sets: what can be said without a terminology server.

use super::{Found, Problem, choice, ecl};
use crate::ingest::fhir::node::{Node, Object};
use crate::ingest::fhir::path::Place;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

const SNOMED: &str = "http://snomed.info/sct";
const PROPERTIES: &str = "http://hl7.org/fhir/concept-properties#";

/// The concept properties that FHIR defines, with their types (R4, concept-properties).
const STANDARD_PROPERTIES: &[(&str, &str)] = &[
    ("status", "code"),
    ("inactive", "boolean"),
    ("effectiveDate", "dateTime"),
    ("deprecationDate", "dateTime"),
    ("retirementDate", "dateTime"),
    ("notSelectable", "boolean"),
    ("parent", "code"),
    ("child", "code"),
    ("partOf", "code"),
    ("synonym", "code"),
    ("comment", "string"),
    ("itemWeight", "decimal"),
];

/// Levels of nested concepts that are read; JSON that passed the intake has fewer.
const DEPTH_MAX: usize = 64;

/// The code systems that value sets of the same payload draw from, by canonical URL: the types of their properties.
#[derive(Default)]
pub struct CodeSystems {
    properties: HashMap<String, HashMap<String, String>>,
}

impl CodeSystems {
    /// Add a resource; anything but a `CodeSystem` with a URL is passed over.
    pub fn add(&mut self, resource: &Object<'_>) {
        if resource.string("resourceType").as_deref() != Some("CodeSystem") {
            return;
        }
        let Some(url) = resource.owned("url") else { return };
        let properties = resource.objects("property");
        let types = properties.iter().filter_map(|property| Some((property.owned("code")?, property.owned("type")?)));
        self.properties.entry(url).or_default().extend(types);
    }

    fn property_type(&self, system: &str, property: &str) -> Option<&str> {
        self.properties.get(system)?.get(property).map(String::as_str)
    }
}

/// Check a `CodeSystem`: count, unique codes (csd-1), properties and their values.
pub fn check_code_system(object: &Object<'_>, place: &Place, problems: &mut Vec<Problem>) {
    let mut found = Found::new(problems);
    let properties = check_properties(object, place, &mut found);
    let concepts = check_concepts(object, place, &properties, &mut found);
    check_content(object, place, concepts, &mut found);
}

fn start(node: Node<'_>) -> usize {
    node.span().start
}

fn check_content(object: &Object<'_>, place: &Place, concepts: Option<usize>, found: &mut Found<'_>) {
    let content = object.string("content");
    if content.as_deref() == Some("not-present")
        && let Some(concept) = object.items("concept").first()
    {
        let place = place.member("concept").item(0);
        let message = "A code system whose content is not-present must not have concepts.";
        found.error("invalid", (&place, start(*concept)), message);
    }
    let stated = object.get("count").and_then(|node| Some((node, node.number()?.parse::<usize>().ok()?)));
    let (Some((node, stated)), Some(concepts)) = (stated, concepts) else { return };
    let place = place.member("count");
    match content.as_deref() {
        Some("complete") if concepts != stated => {
            let message = "The code system is complete, but count is not the number of its concepts.";
            found.error("invalid", (&place, start(node)), message);
        }
        Some("example" | "fragment") if concepts > stated => {
            let message = "The code system is a part, but has more concepts than count states for the whole.";
            found.warning("invalid", (&place, start(node)), message);
        }
        _ => {}
    }
}

/// The declared properties by code with their types.
fn check_properties(object: &Object<'_>, place: &Place, found: &mut Found<'_>) -> HashMap<String, String> {
    let (mut by_code, mut uris) = (HashMap::new(), HashSet::new());
    for (index, node) in object.items("property").into_iter().enumerate() {
        let Some(property) = node.object() else { continue };
        let place = place.member("property").item(index);
        let at = (&place, start(node));
        let (code, kind) = (property.owned("code"), property.owned("type"));
        if let Some(uri) = property.owned("uri") {
            if let Some((name, expected)) = standard_property(&uri) {
                let standard = |code: &String| STANDARD_PROPERTIES.iter().any(|(other, _)| code == other);
                if code.as_ref().is_some_and(|code| code != name && standard(code)) {
                    let message =
                        format!("The property has the URI of {name}, but the code of another standard property.");
                    found.error("business-rule", at, message);
                }
                if kind.as_ref().is_some_and(|kind| kind != expected) {
                    let message = format!("The property {name} must have the type {expected}.");
                    found.error("business-rule", at, message);
                }
            }
            if !uris.insert(uri) {
                found.error("business-rule", at, "Another property of the code system has the same URI.");
            }
        } else if let Some((name, expected)) =
            code.as_ref().and_then(|code| STANDARD_PROPERTIES.iter().find(|(name, _)| code == name))
            && kind.as_ref().is_some_and(|kind| kind != expected)
        {
            let message = format!("The standard property {name} has the type {expected}.");
            found.warning("business-rule", at, message);
        }
        let Some(code) = code else { continue };
        match by_code.entry(code) {
            Entry::Occupied(_) => {
                found.error("business-rule", at, "Another property of the code system has the same code.");
            }
            Entry::Vacant(vacant) => {
                vacant.insert(kind.unwrap_or_default());
            }
        }
    }
    by_code
}

fn standard_property(uri: &str) -> Option<&'static (&'static str, &'static str)> {
    let name = uri.strip_prefix(PROPERTIES)?;
    STANDARD_PROPERTIES.iter().find(|(standard, _)| *standard == name)
}

/// Checks all concepts and counts them; none if they nest too deep to be counted.
fn check_concepts(
    object: &Object<'_>,
    place: &Place,
    properties: &HashMap<String, String>,
    found: &mut Found<'_>,
) -> Option<usize> {
    struct Walk<'w, 'f> {
        properties: &'w HashMap<String, String>,
        found: &'w mut Found<'f>,
        codes: HashSet<String>,
        count: usize,
        too_deep: bool,
    }

    fn walk(walk_state: &mut Walk<'_, '_>, parent: &Object<'_>, place: &Place, depth: usize) {
        let concepts = parent.items("concept");
        if concepts.is_empty() {
            return;
        }
        if depth > DEPTH_MAX {
            walk_state.too_deep = true;
            return;
        }
        walk_state.count += concepts.len();
        let place = place.member("concept");
        for (index, node) in concepts.into_iter().enumerate() {
            let Some(concept) = node.object() else { continue };
            let place = place.item(index);
            if let Some(code) = concept.owned("code")
                && !walk_state.codes.insert(code)
            {
                let offset = concept.get("code").map_or_else(|| start(node), start);
                let message = "Another concept of the code system has the same code (csd-1).";
                walk_state.found.error("invariant", (&place.member("code"), offset), message);
            }
            check_values(&concept, &place, walk_state.properties, walk_state.found);
            walk(walk_state, &concept, &place, depth + 1);
        }
    }

    let mut state = Walk { properties, found, codes: HashSet::new(), count: 0, too_deep: false };
    walk(&mut state, object, place, 0);
    (!state.too_deep).then_some(state.count)
}

fn check_values(concept: &Object<'_>, place: &Place, declared: &HashMap<String, String>, found: &mut Found<'_>) {
    for (index, node) in concept.items("property").into_iter().enumerate() {
        let Some(property) = node.object() else { continue };
        let Some(code) = property.string("code") else { continue };
        // The place is made only when something is wrong.
        let place = || place.member("property").item(index);
        let Some(kind) = declared.get(code.as_ref()) else {
            let message = "The concept has a property that the code system does not declare.";
            found.warning("business-rule", (&place(), start(node)), message);
            continue;
        };
        let known = STANDARD_PROPERTIES.iter().map(|(_, kind)| *kind).chain(["integer", "Coding"]);
        let Some(kind) = known.into_iter().find(|known| known == kind) else { continue };
        if choice(&property, "value").is_some_and(|(_, name, _)| name != kind) {
            let message = format!("The value of the property must have the declared type {kind}.");
            found.error("business-rule", (&place(), start(node)), message);
        }
    }
}

/// Check a `ValueSet`: systems are absolute, and filters have values that their property can have, as far as the code
/// systems that it draws from are known.
pub fn check_value_set(object: &Object<'_>, place: &Place, known: &CodeSystems, problems: &mut Vec<Problem>) {
    let mut found = Found::new(problems);
    let Some(compose) = object.object("compose") else { return };
    let place = place.member("compose");
    for part in ["include", "exclude"] {
        for (index, node) in compose.items(part).into_iter().enumerate() {
            let Some(include) = node.object() else { continue };
            let Some(system) = include.string("system") else { continue };
            let place = place.member(part).item(index);
            if !is_absolute(&system) {
                let message = format!(
                    "ValueSet.compose.{part}.system must be absolute; a contained code system is named by its full URL."
                );
                found.error("invalid", (&place, start(node)), message);
                continue;
            }
            for (index, node) in include.items("filter").into_iter().enumerate() {
                let Some(filter) = node.object() else { continue };
                if let Some((code, message)) = check_filter(&filter, &system, known) {
                    found.error(code, (&place.member("filter").item(index), start(node)), message);
                }
            }
        }
    }
}

/// Begins with a scheme (RFC 3986).
fn is_absolute(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once(':') else { return false };
    let mut bytes = scheme.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        && !rest.is_empty()
}

fn check_filter(filter: &Object<'_>, system: &str, known: &CodeSystems) -> Option<(&'static str, String)> {
    let (property, op, value) = (filter.string("property")?, filter.string("op")?, filter.string("value")?);
    if system == SNOMED {
        let is_constraint = property == "constraint" && op == "=";
        return (is_constraint && !ecl::is_expression_constraint(&value))
            .then(|| ("invalid", "The filter's value is no expression constraint (SNOMED CT ECL).".to_owned()));
    }
    let is_boolean = |value: &str| matches!(value, "true" | "false");
    if op == "exists" {
        return (!is_boolean(&value))
            .then(|| ("invalid", "A filter with the operator exists must have the value true or false.".to_owned()));
    }
    if op == "regex" {
        return None;
    }
    // What the code system declares counts; else only what FHIR itself defines for every code system.
    let declared = known.property_type(system, &property);
    let kind = declared.or_else(|| {
        let standard = STANDARD_PROPERTIES.iter().find(|(name, _)| *name == property)?;
        (standard.1 == "boolean").then_some(standard.1)
    })?;
    let mut values: Box<dyn Iterator<Item = &str>> = if matches!(op.as_ref(), "in" | "not-in") {
        Box::new(value.split(','))
    } else {
        Box::new([&*value].into_iter())
    };
    match kind {
        "boolean" if !values.all(is_boolean) => {
            Some(("invalid", "The filter's property is boolean: its value must be true or false.".to_owned()))
        }
        "Coding" if !values.all(is_coding) => {
            let message = "The filter's property is a Coding: its value must be written system(|version)#code.";
            Some(("invalid", message.to_owned()))
        }
        _ => None,
    }
}

/// `system(|version)#code`, or the older `system|code`.
fn is_coding(value: &str) -> bool {
    let split = value.rsplit_once('#').or_else(|| value.rsplit_once('|'));
    split.is_some_and(|(system, code)| is_absolute(system) && !code.is_empty())
}

#[cfg(test)]
mod tests;
