//! Resources that are looked at as a whole once the walk is over: they are rare, so they are opened again, and only they.

use super::super::checks::questionnaire::{self, Questionnaires};
use super::super::checks::terminology::{self, CodeSystems};
use super::super::checks::{Problem, document, signature};
use super::super::node::{Node, Object};
use super::super::path::Place;
use super::walk::Walk;
use std::ops::Range;

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    CodeSystem,
    ValueSet,
    Questionnaire,
    QuestionnaireResponse,
    /// The Bundle that is the body itself: a document, a message, or one with a signature.
    Bundle,
}

/// A resource to be looked at.
pub struct Deep {
    pub kind: Kind,
    pub entry: Option<u32>,
    pub span: Range<usize>,
    pub place: Place,
}

/// Resources beside the payload that it may speak of: Questionnaires and CodeSystems.
#[derive(Default)]
pub struct Context<'c> {
    resources: Vec<Object<'c>>,
}

impl<'c> Context<'c> {
    /// Add a resource, or all resources of a Bundle.
    ///
    /// # Errors
    /// The body is not JSON.
    pub fn add(&mut self, body: &'c [u8]) -> Result<(), super::super::node::NotJson> {
        let Some(object) = Node::parse(body)?.object() else { return Ok(()) };
        let entries = object.objects("entry");
        self.resources.extend(entries.iter().filter_map(|entry| entry.object("resource")));
        self.resources.push(object);
        Ok(())
    }
}

/// Look at what the walk came by.
pub fn check(walk: &mut Walk<'_, '_>, context: &Context<'_>) {
    let deep = std::mem::take(&mut walk.deep);
    if deep.is_empty() {
        return;
    }
    let body = walk.body;
    let open = |one: &Deep| Node::within(body, one.span.clone()).object();
    let (mut questionnaires, mut systems) = (Questionnaires::default(), CodeSystems::default());
    let near = deep.iter().filter(|one| matches!(one.kind, Kind::Questionnaire | Kind::CodeSystem)).filter_map(open);
    for resource in near.chain(context.resources.iter().cloned()) {
        systems.add(&resource);
        questionnaires.add(resource);
    }
    for one in deep {
        let Some(object) = open(&one) else { continue };
        let mut problems: Vec<Problem> = Vec::new();
        match one.kind {
            Kind::CodeSystem => terminology::check_code_system(&object, &one.place, &mut problems),
            Kind::ValueSet => terminology::check_value_set(&object, &one.place, &systems, &mut problems),
            Kind::QuestionnaireResponse => {
                questionnaire::check_response(&object, &one.place, &questionnaires, &mut problems);
            }
            Kind::Bundle => {
                document::check_document(&object, &mut problems);
                signature::check_signature(&object, &mut problems);
            }
            Kind::Questionnaire => {}
        }
        for problem in problems {
            let entry = one.entry.or_else(|| entry_of(&problem.place));
            walk.issue_of(entry, problem.severity, problem.code, problem.offset, problem.place, problem.message);
        }
    }
}

/// The entry that a place of a Bundle is in.
fn entry_of(place: &Place) -> Option<u32> {
    place.pointer.strip_prefix("/entry/")?.split('/').next()?.parse().ok()
}
