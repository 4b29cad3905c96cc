//! The codes of a value set, as far as the specification itself lists them.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// ValueSets and CodeSystems by URL.
#[derive(Default)]
pub struct Terminology {
    value_sets: BTreeMap<String, Value>,
    code_systems: BTreeMap<String, Value>,
}

/// Codes by system.
type Codes = BTreeMap<String, BTreeSet<String>>;

impl Terminology {
    /// Keep a ValueSet or CodeSystem.
    pub fn take(&mut self, resource: &Value) {
        let Some(url) = resource["url"].as_str() else { return };
        let kept = if resource["resourceType"] == "ValueSet" { &mut self.value_sets } else { &mut self.code_systems };
        kept.insert(url.to_owned(), resource.clone());
    }

    /// The lines `C system code code …` of a value set; nothing where its codes are not all listed: filters, external
    /// systems, grammars.
    pub fn expand(&self, url: &str) -> Option<String> {
        let codes = self.codes(url, 0)?;
        let mut lines = String::new();
        for (system, codes) in codes {
            if codes.iter().any(|code| code.contains(char::is_whitespace)) {
                return None;
            }
            let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
            let _ = writeln!(lines, "C {system} {}", codes.join(" "));
        }
        (!lines.is_empty()).then_some(lines)
    }

    fn codes(&self, url: &str, depth: usize) -> Option<Codes> {
        // Value sets include one another; a circle has no expansion.
        (depth < 16).then_some(())?;
        let set = self.value_sets.get(url.split('|').next()?)?;
        let mut all = Codes::new();
        for include in items(&set["compose"]["include"]) {
            for (system, codes) in self.clause(include, depth)? {
                all.entry(system).or_default().extend(codes);
            }
        }
        for exclude in items(&set["compose"]["exclude"]) {
            for (system, codes) in self.clause(exclude, depth)? {
                if let Some(kept) = all.get_mut(&system) {
                    kept.retain(|code| !codes.contains(code));
                }
            }
        }
        all.retain(|_, codes| !codes.is_empty());
        (!all.is_empty()).then_some(all)
    }

    /// One `include` or `exclude`: what the system part and every named value set have in common.
    fn clause(&self, clause: &Value, depth: usize) -> Option<Codes> {
        if !items(&clause["filter"]).is_empty() {
            return None;
        }
        let mut found: Option<Codes> = None;
        if let Some(system) = clause["system"].as_str() {
            let listed = items(&clause["concept"]);
            let codes = if listed.is_empty() {
                let definition = self.code_systems.get(system)?;
                (definition["content"] == "complete").then_some(())?;
                let mut codes = BTreeSet::new();
                concepts(&definition["concept"], &mut codes);
                codes
            } else {
                listed.iter().filter_map(|concept| concept["code"].as_str().map(str::to_owned)).collect()
            };
            found = Some(Codes::from([(system.to_owned(), codes)]));
        }
        for url in items(&clause["valueSet"]) {
            let other = self.codes(url.as_str()?, depth + 1)?;
            found = Some(match found {
                None => other,
                Some(mut mine) => {
                    for (system, codes) in &mut mine {
                        codes.retain(|code| other.get(system).is_some_and(|kept| kept.contains(code)));
                    }
                    mine
                }
            });
        }
        found
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn concepts(list: &Value, codes: &mut BTreeSet<String>) {
    for concept in items(list) {
        codes.extend(concept["code"].as_str().map(str::to_owned));
        concepts(&concept["concept"], codes);
    }
}
