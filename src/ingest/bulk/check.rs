//! A chunk under the validator: which of its lines are left out, and why. A bad line is that line's issue, and no other's.

use super::piece::{Item, Piece, blank};
use super::plan::Shape;
use crate::ingest::fhir::issue::{Issue, Report, Severity};
use crate::ingest::fhir::{types, validate};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Issues of one chunk that are kept; the rest is counted. What is left out is known of every line.
pub const ISSUES_KEPT_MAX: usize = 20_000;

/// What was found in a chunk.
#[derive(Default)]
pub struct Found {
    /// In order of the file; offsets count from its begin, after decompression.
    pub issues: Vec<Issue>,
    /// All issues.
    pub total: u64,
    /// All issues of severity error or fatal.
    pub errors: u64,
    /// Lines or entries.
    pub resources: u64,
    /// Numbers of those that are left out.
    pub rejected: BTreeSet<u32>,
    /// An error concerns the Bundle as a whole.
    pub is_unusable: bool,
    /// Number of the last line or entry.
    pub last: Option<u32>,
    /// Resources by type, those that are left out too.
    pub types: BTreeMap<&'static str, u64>,
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow, rename = "resourceType")]
    resource_type: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct TypedEntry<'a> {
    #[serde(borrow)]
    resource: Option<Typed<'a>>,
}

impl Found {
    fn keep(&mut self, issues: impl IntoIterator<Item = Issue>) {
        let room = ISSUES_KEPT_MAX.saturating_sub(self.issues.len());
        self.issues.extend(issues.into_iter().take(room));
    }

    fn add(&mut self, issue: Issue) {
        self.total += 1;
        self.errors += u64::from(issue.severity.rejects());
        self.keep([issue]);
    }

    fn count_type(&mut self, name: Option<Cow<'_, str>>) {
        if let Some(known) = name.and_then(|name| types::resource_type(&name)) {
            *self.types.entry(known).or_default() += 1;
        }
    }
}

/// Validate a chunk. `bundle_type` and `has_first` are of the Bundle that it belongs to.
#[must_use]
pub fn check(piece: &Piece, bundle_type: Option<&str>, has_first: bool) -> Found {
    let mut found = Found::default();
    if piece.is_whole {
        whole(piece, &mut found);
        return found;
    }
    found.resources = u64::try_from(piece.items.len()).unwrap_or(u64::MAX);
    found.last = piece.items.last().map(|item| item.number);
    for item in &piece.items {
        let text = &piece.text[item.span.clone()];
        found.count_type(match piece.cut.shape {
            Shape::Bundle => serde_json::from_str::<TypedEntry<'_>>(text)
                .ok()
                .and_then(|entry| entry.resource)
                .and_then(|resource| resource.resource_type),
            Shape::Ndjson | Shape::Array => {
                serde_json::from_str::<Typed<'_>>(text).ok().and_then(|typed| typed.resource_type)
            }
        });
    }
    if piece.cut.shape == Shape::Bundle {
        entries(piece, bundle_type, has_first, &mut found);
    } else {
        lone(piece, &mut found);
    }
    found.issues.sort_by_key(|issue| (issue.line, issue.entry, issue.byte_offset));
    found
}

/// A Bundle of one chunk: as if it had come by the webhook.
fn whole(piece: &Piece, found: &mut Found) {
    let report = validate::report(piece.text.as_bytes());
    for entry in piece.entries(&BTreeSet::new()) {
        found.count_type(entry.resource.map(|resource| resource.resource_type));
    }
    found.resources = u64::from(report.entries);
    (found.total, found.errors) = (report.total, report.errors);
    (found.rejected, found.is_unusable) = (report.rejected, report.unusable);
    found.keep(report.issues);
}

/// Lines, and items of an array: each by itself.
fn lone(piece: &Piece, found: &mut Found) {
    let is_line = piece.cut.shape == Shape::Ndjson;
    for item in &piece.items {
        if piece.unreadable.contains(&item.number) {
            let issue = not_utf8(piece, item);
            found.add(issue);
            found.rejected.insert(item.number);
            continue;
        }
        let text = piece.text[item.span.clone()].as_bytes();
        let report = validate::resource(text, is_line.then_some(u64::from(item.number)));
        take(found, &report, item.number);
        let start = offset(piece, item.span.start);
        found.keep(report.issues.into_iter().map(|mut issue| {
            issue.byte_offset = issue.byte_offset.map(|within| start + within);
            if !is_line {
                issue.entry = Some(item.number);
                issue.pointer = issue.pointer.map(|pointer| format!("/{}{pointer}", item.number));
            }
            issue
        }));
    }
}

fn take(found: &mut Found, report: &Report, number: u32) {
    found.total += report.total;
    found.errors += report.errors;
    if report.unusable || !report.rejected.is_empty() {
        found.rejected.insert(number);
    }
}

fn offset(piece: &Piece, within: usize) -> u64 {
    piece.cut.base + u64::try_from(within).unwrap_or(u64::MAX)
}

fn not_utf8(piece: &Piece, item: &Item) -> Issue {
    let is_line = piece.cut.shape == Shape::Ndjson;
    let what = if is_line { "The line is not UTF-8." } else { "The entry is not UTF-8." };
    Issue {
        severity: Severity::Fatal,
        code: "structure",
        entry: (!is_line).then_some(item.number),
        line: is_line.then_some(u64::from(item.number)),
        expression: None,
        pointer: None,
        byte_offset: Some(offset(piece, item.span.start)),
        message: what.to_owned(),
    }
}

/// Entries of a Bundle: in a Bundle of their own, so that the rules of entries hold. If that cannot be read, one of them is
/// no JSON: then each is looked at by itself first, and the others once more together.
fn entries(piece: &Piece, bundle_type: Option<&str>, has_first: bool, found: &mut Found) {
    let head = match bundle_type.and_then(|bundle_type| serde_json::to_string(bundle_type).ok()) {
        Some(text) => format!(r#"{{"resourceType":"Bundle","type":{text},"entry":["#),
        None => r#"{"resourceType":"Bundle","entry":["#.to_owned(),
    };
    let around = |text: &str| format!("{head}{text}]}}");
    for item in piece.items.iter().filter(|item| piece.unreadable.contains(&item.number)) {
        let issue = not_utf8(piece, item);
        found.add(issue);
        found.rejected.insert(item.number);
    }
    let mut broken = piece.unreadable.clone();
    let mut report = validate::part_of_bundle(around(&piece.text).as_bytes(), has_first);
    if report.unusable {
        let mut text = piece.text.clone().into_bytes();
        for (index, item) in piece.items.iter().enumerate().filter(|(_, item)| !piece.unreadable.contains(&item.number))
        {
            let alone = around(&piece.text[item.span.clone()]);
            let report = validate::part_of_bundle(alone.as_bytes(), has_first && index == 0);
            if report.unusable {
                take(found, &report, item.number);
                let start = offset(piece, item.span.start);
                found.keep(report.issues.into_iter().map(|issue| placed(issue, item.number, start, head.len())));
                broken.insert(item.number);
                blank(&mut text[item.span.clone()]);
            }
        }
        let text = String::from_utf8(text).unwrap_or_default();
        report = validate::part_of_bundle(around(&text).as_bytes(), has_first);
    }
    let number_of = |index: u32| usize::try_from(index).ok().and_then(|index| piece.items.get(index));
    found.is_unusable = report.unusable;
    // What was said of those that are blanked out is said already.
    let (told, repeated): (Vec<_>, Vec<_>) = report
        .issues
        .into_iter()
        .map(|issue| (issue.entry.and_then(number_of).map(|item| item.number), issue))
        .partition(|(number, _)| number.is_none_or(|number| !broken.contains(&number)));
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    found.total += report.total.saturating_sub(count(repeated.len()));
    let repeated_errors = repeated.iter().filter(|(_, issue)| issue.severity.rejects()).count();
    found.errors += report.errors.saturating_sub(count(repeated_errors));
    found.rejected.extend(report.rejected.iter().filter_map(|index| number_of(*index)).map(|item| item.number));
    let base = piece.cut.base;
    found.keep(told.into_iter().map(|(number, issue)| match number {
        Some(number) => placed(issue, number, base, head.len()),
        None => Issue { byte_offset: None, ..issue },
    }));
}

/// An issue of an entry in a Bundle of our own, as one of the file's.
fn placed(issue: Issue, number: u32, base: u64, head: usize) -> Issue {
    let head = u64::try_from(head).unwrap_or(u64::MAX);
    let local = issue.entry.unwrap_or(0);
    let again = |text: String, was: String, is: String| match text.strip_prefix(&was) {
        Some(rest) => format!("{is}{rest}"),
        None => text,
    };
    let entry = |number: u32| format!("Bundle.entry[{number}]");
    let pointer = |number: u32| format!("/entry/{number}");
    Issue {
        entry: Some(number),
        expression: issue.expression.map(|text| again(text, entry(local), entry(number))),
        pointer: issue.pointer.map(|text| again(text, pointer(local), pointer(number))),
        byte_offset: issue.byte_offset.and_then(|offset| offset.checked_sub(head)).map(|offset| base + offset),
        ..issue
    }
}

#[cfg(test)]
mod tests {
    use super::super::piece::Cut;
    use super::*;
    use bytes::Bytes;

    fn found(text: &[u8], shape: Shape, first: u64) -> Found {
        let piece = Piece::new(Bytes::copy_from_slice(text), Cut { shape, base: 1_000, first });
        check(&piece, Some("batch"), first == 0)
    }

    fn patient(id: &str) -> String {
        format!(r#"{{"resourceType":"Patient","id":"{id}"}}"#)
    }

    #[test]
    fn a_bad_line_is_that_lines_issue_and_no_others() {
        let text = format!("{}\nno json\n{{\"resourceType\":\"Patient\",\"nope\":1}}\n{}", patient("a"), patient("b"));
        let found = found(text.as_bytes(), Shape::Ndjson, 5);
        assert_eq!((found.resources, found.rejected.iter().copied().collect::<Vec<_>>()), (4, vec![6, 7]));
        let lines: Vec<_> = found.issues.iter().map(|issue| (issue.line, issue.expression.as_deref())).collect();
        assert_eq!(lines, [(Some(6), None), (Some(7), Some("Patient"))]);
        let start = text.find("{\"resourceType\":\"Patient\",\"nope\"").unwrap() as u64 + 1_000;
        assert!(found.issues[1].byte_offset.is_some_and(|offset| (start..start + 36).contains(&offset)));
        assert_eq!((found.types["Patient"], found.is_unusable), (3, false));
    }

    #[test]
    fn an_item_of_an_array_is_named_by_its_position() {
        let text = format!("{},\n{{\"resourceType\":\"Patient\",\"nope\":1}}, 5", patient("a"));
        let found = found(text.as_bytes(), Shape::Array, 10);
        assert_eq!(found.rejected.iter().copied().collect::<Vec<_>>(), [11, 12]);
        let pointers: Vec<_> = found.issues.iter().map(|issue| (issue.entry, issue.pointer.as_deref())).collect();
        assert_eq!(pointers, [(Some(11), Some("/11")), (Some(12), None)]);
    }

    #[test]
    fn entries_of_a_bundle_keep_their_numbers_and_one_that_is_no_json_hurts_no_other() {
        let entry =
            |resource: &str| format!(r#"{{"resource":{resource},"request":{{"method":"POST","url":"Patient"}}}}"#);
        let bad = entry(r#"{"resourceType":"Patient","nope":1}"#);
        let text = format!("{},{{\"resource\":nope,}},{bad},{{\"x\":\"\u{e9}\"}}", entry(&patient("a")));
        let mut text = text.into_bytes();
        // The last one is no UTF-8.
        let last = text.len() - 4;
        text[last] = 0xff;
        let found = found(&text, Shape::Bundle, 40);
        assert_eq!(found.rejected.iter().copied().collect::<Vec<_>>(), [41, 42, 43], "{:?}", found.issues);
        assert_eq!((found.is_unusable, found.resources), (false, 4));
        let places: Vec<_> =
            found.issues.iter().map(|issue| (issue.entry.unwrap(), issue.expression.as_deref())).collect();
        assert!(places.contains(&(42, Some("Bundle.entry[42].resource"))), "{places:?}");
        let errors = found.issues.iter().filter(|issue| issue.severity.rejects()).count();
        assert_eq!((found.errors, found.total), (errors as u64, found.issues.len() as u64), "{:?}", found.issues);
    }
}
