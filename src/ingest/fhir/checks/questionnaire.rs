//! Answers against the Questionnaire that they answer (FHIR R4, questionnaireresponse.html).
//!
//! A Questionnaire is compiled once, when its first response comes; a response is laid flat in document order, so that
//! each rule is one loop and an `enableWhen` finds the answers that it asks for by binary search. Nothing recurses deeper
//! than [`DEPTH_MAX`]. What cannot be told (an expression, a value set elsewhere, dates too vague to compare) is passed
//! over: an error is said only where the answer is certainly wrong.

mod answers;
mod conditions;
mod definition;
mod response;

use super::{Found, Problem};
use crate::ingest::fhir::node::Object;
use crate::ingest::fhir::path::Place;
use definition::Definition;
use std::collections::HashMap;
use std::sync::OnceLock;

/// Levels of nested items that are read.
pub const DEPTH_MAX: usize = 64;

/// The Questionnaires that responses of a payload may answer, by canonical URL.
///
/// A contained Questionnaire (`#id`) needs not be added: the response has it.
#[derive(Default)]
pub struct Questionnaires<'a> {
    by_url: HashMap<String, Versions<'a>>,
}

/// The versions of one Questionnaire; which one is the latest is found once, when they are added.
#[derive(Default)]
struct Versions<'a> {
    known: Vec<Known<'a>>,
    by_version: HashMap<Option<String>, usize>,
    latest: usize,
    /// What the latest one is told by.
    order: Option<Vec<(u64, String)>>,
}

struct Known<'a> {
    source: Object<'a>,
    compiled: OnceLock<Definition>,
}

impl<'a> Questionnaires<'a> {
    /// Add a resource; anything but a Questionnaire with a URL is passed over. Of two with the same URL and version
    /// the first one counts.
    pub fn add(&mut self, resource: Object<'a>) {
        if resource.string("resourceType").as_deref() != Some("Questionnaire") {
            return;
        }
        let Some(url) = resource.owned("url") else { return };
        let version = resource.owned("version");
        let versions = self.by_url.entry(url).or_default();
        if versions.by_version.contains_key(&version) {
            return;
        }
        let (order, position) = (version.as_deref().map(version_key), versions.known.len());
        if position == 0 || order > versions.order {
            (versions.latest, versions.order) = (position, order);
        }
        versions.by_version.insert(version, position);
        versions.known.push(Known { source: resource, compiled: OnceLock::new() });
    }

    /// Nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_url.is_empty()
    }

    /// The Questionnaire of a canonical `url` or `url|version`; without a version the latest.
    fn find(&self, canonical: &str) -> Option<&Definition> {
        let (url, version) = canonical.split_once('|').map_or((canonical, None), |(url, version)| (url, Some(version)));
        let versions = self.by_url.get(url)?;
        let position = match version {
            Some(version) => *versions.by_version.get(&Some(version.to_owned()))?,
            None => versions.latest,
        };
        let known = versions.known.get(position)?;
        Some(known.compiled.get_or_init(|| Definition::compile(&known.source, None)))
    }
}

/// Versions in the order of their numbers, as far as they have any: 1.10 after 1.9.
fn version_key(version: &str) -> Vec<(u64, String)> {
    // No real version is longer; a hostile one must not make each comparison long.
    let version: String = version.chars().take(100).collect();
    version.split(['.', '-', '+']).map(|part| (part.parse().unwrap_or(0), part.to_owned())).collect()
}

/// Check a QuestionnaireResponse against its Questionnaire. If that is not known, nothing is said.
pub fn check_response(response: &Object<'_>, place: &Place, known: &Questionnaires<'_>, problems: &mut Vec<Problem>) {
    let Some(canonical) = response.string("questionnaire") else { return };
    let mut found = Found::new(problems);
    if let Some(id) = canonical.strip_prefix('#') {
        let contained = response.objects("contained");
        let is_it = |resource: &&Object<'_>| {
            resource.string("id").as_deref() == Some(id)
                && resource.string("resourceType").as_deref() == Some("Questionnaire")
        };
        if let Some(questionnaire) = contained.iter().find(is_it) {
            response::check(response, place, &Definition::compile(questionnaire, Some(response)), &mut found);
        }
    } else if let Some(definition) = known.find(&canonical) {
        response::check(response, place, definition, &mut found);
    }
}

#[cfg(test)]
mod tests;
