//! The validator of FHIR R4: table-driven and streaming. One function walks a resource, with or without a Bundle around
//! it; the `validate` step, `validateOnly` and `chartgate validate` all end here.
//!
//! - `walk` goes over the JSON text beside the table of definitions: names, types, cardinality, choices, primitives,
//!   required codes, and the invariants that are logic over what is there.
//!   `scalars` are its primitive values, `siblings` what stands beside them, `frame` what it remembers of an object.
//! - `rules` holds what the table cannot say; `bundle` the rules of a Bundle as a whole; `deep` calls the `checks` of
//!   resources that are looked at as a whole.
//!
//! An issue names its place as FHIRPath, as JSON Pointer and as byte offset, and never repeats a value.

mod bundle;
mod deep;
mod frame;
mod primitive;
mod reporting;
mod rules;
mod scalars;
mod siblings;
mod walk;

use super::definitions;
use super::envelope::BundleType;
use super::issue::{Issue, Report, Severity};
use super::node::BYTE_ORDER_MARK;
use walk::{Part, Walk};

pub use deep::Context;

/// All (kept) issues of a payload that is to be ingested.
#[must_use]
pub fn validate_bundle(body: &[u8]) -> Vec<Issue> {
    report(body).issues
}

/// Validate a payload that is to be ingested: a Bundle of a type that is.
#[must_use]
pub fn report(body: &[u8]) -> Report {
    let mut report = Report::default();
    let Some((text, start)) = text_of(body, None, &mut report) else { return report };
    let mut walk = Walk::new(definitions::r4(), text, start, &mut report, None);
    walk.run();
    deep::check(&mut walk, &Context::default());
    let is_bundle = walk.bundle.is_whole;
    if is_bundle {
        bundle::check_ingestible(&mut walk);
    }
    let entries = walk.bundle.entries.len();
    let bundle_type = walk.bundle.kind.as_deref().and_then(BundleType::from_code);
    report.entries = u32::try_from(entries).unwrap_or(u32::MAX);
    report.bundle_type = bundle_type;
    if !is_bundle && !report.unusable {
        report.add(fatal("structure", 0, "The payload is not a FHIR Bundle."));
    }
    report.sort();
    report
}

/// Validate entries of a Bundle whose others stand elsewhere. `body` is a Bundle of its type with these entries only; what
/// only the whole can be judged by is left out: references to other entries, the first entry of a message, its signature.
#[must_use]
pub fn part_of_bundle(body: &[u8], has_first: bool) -> Report {
    let mut report = Report::default();
    let Some((text, start)) = text_of(body, None, &mut report) else { return report };
    let mut walk = Walk::new(definitions::r4(), text, start, &mut report, None);
    walk.part = Some(Part { has_first });
    walk.run();
    deep::check(&mut walk, &Context::default());
    if walk.bundle.is_whole {
        bundle::check_ingestible(&mut walk);
    }
    report.entries = u32::try_from(walk.bundle.entries.len()).unwrap_or(u32::MAX);
    report.sort();
    report
}

/// Validate any resource: a Bundle of any type, or a single resource such as a line of NDJSON.
#[must_use]
pub fn resource(body: &[u8], line: Option<u64>) -> Report {
    resource_in(body, line, &Context::default())
}

/// Validate any resource beside others that it may speak of.
#[must_use]
pub fn resource_in(body: &[u8], line: Option<u64>, context: &Context<'_>) -> Report {
    let mut report = Report::default();
    let Some((text, start)) = text_of(body, line, &mut report) else { return report };
    let mut walk = Walk::new(definitions::r4(), text, start, &mut report, line);
    walk.run();
    deep::check(&mut walk, context);
    let entries = walk.bundle.entries.len();
    report.entries = u32::try_from(entries).unwrap_or(u32::MAX);
    report.sort();
    report
}

/// The body as text, and where the JSON in it begins.
fn text_of<'a>(body: &'a [u8], line: Option<u64>, report: &mut Report) -> Option<(&'a str, usize)> {
    let start = if body.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    match simdutf8::compat::from_utf8(body) {
        // Offsets within a walk are 32 bits wide; no single payload comes near.
        Ok(text) if u32::try_from(text.len()).is_ok() => Some((text, start)),
        Ok(_) => {
            report.add(Issue { line, ..fatal("too-long", 0, "The payload is longer than 4 GiB.") });
            None
        }
        Err(error) => {
            report.add(Issue { line, ..fatal("structure", error.valid_up_to(), "The payload is not UTF-8.") });
            None
        }
    }
}

/// A line of NDJSON that is too long to be read.
#[must_use]
pub fn line_too_long(line: u64, offset: u64) -> Report {
    let mut report = Report::default();
    let issue = fatal("too-long", 0, "The line is longer than 16 MiB.");
    report.add(Issue { line: Some(line), byte_offset: Some(offset), ..issue });
    report
}

fn fatal(code: &'static str, offset: usize, message: &str) -> Issue {
    Issue {
        severity: Severity::Fatal,
        code,
        entry: None,
        line: None,
        expression: None,
        pointer: None,
        byte_offset: u64::try_from(offset).ok(),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
