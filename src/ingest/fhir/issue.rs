//! A validation problem, and the bounded list of them.

use super::envelope::BundleType;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Issues that are kept of one payload; the rest is counted. A file that is wrong everywhere says so in its first
/// thousand lines, and memory stays bounded.
pub const ISSUES_KEPT_MAX: usize = 1_000;

/// FHIR `IssueSeverity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The payload could not be read at all.
    Fatal,
    /// The entry (or the Bundle) is not ingested.
    Error,
    /// Ingested, but something is amiss.
    Warning,
    /// Worth knowing.
    Information,
}

impl Severity {
    /// FHIR's code.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Information => "information",
        }
    }

    /// Keeps its entry from being ingested.
    #[must_use]
    pub fn rejects(self) -> bool {
        matches!(self, Self::Fatal | Self::Error)
    }
}

/// One problem of a payload. It names elements and types, never a value.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, PartialEq, Eq, serde::Serialize)]
pub struct Issue {
    /// How bad.
    pub severity: Severity,
    /// FHIR `IssueType`: `required`, `value`, `structure`, …
    pub code: &'static str,
    /// Position in `Bundle.entry`, if it concerns one entry.
    pub entry: Option<u32>,
    /// Line of an NDJSON file.
    pub line: Option<u64>,
    /// FHIRPath of the place: `Bundle.entry[3].resource.birthDate`.
    pub expression: Option<String>,
    /// JSON Pointer of the place: `/entry/3/resource/birthDate`.
    pub pointer: Option<String>,
    /// Offset of the value (or of what lacks it) in the exact bytes received.
    #[serde(rename = "offset")]
    pub byte_offset: Option<u64>,
    /// A fixed sentence.
    pub message: String,
}

/// One issue of a FHIR R4 OperationOutcome. `diagnostics` says the JSON Pointer and the offset in words: the resource has
/// no element for them.
#[must_use]
pub fn outcome_issue(
    severity: &str,
    code: &str,
    message: &str,
    expression: Option<&str>,
    pointer: Option<&str>,
    offset: Option<i64>,
) -> Value {
    let mut shaped = json!({ "severity": severity, "code": code, "details": { "text": message } });
    if let Some(expression) = expression {
        shaped["expression"] = json!([expression]);
    }
    let pointer = pointer.map(|pointer| format!("JSON Pointer {pointer:?}"));
    let offset = offset.map(|offset| format!("byte {offset}"));
    let diagnostics: Vec<String> = pointer.into_iter().chain(offset).collect();
    if !diagnostics.is_empty() {
        shaped["diagnostics"] = json!(diagnostics.join(", "));
    }
    shaped
}

/// A FHIR R4 OperationOutcome; one `information` issue where there is nothing to say, since `issue` is 1..*.
#[must_use]
pub fn operation_outcome(mut issues: Vec<Value>) -> Value {
    if issues.is_empty() {
        issues.push(json!({"severity": "information", "code": "informational", "details": {"text": "No issues."}}));
    }
    json!({ "resourceType": "OperationOutcome", "issue": issues })
}

/// What validation found in one payload.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, Default)]
pub struct Report {
    /// The first [`ISSUES_KEPT_MAX`] issues.
    pub issues: Vec<Issue>,
    /// All issues, also those that were not kept.
    pub total: u64,
    /// All issues of severity error or fatal.
    pub errors: u64,
    /// The Bundle's type, if it is one that is ingested.
    pub bundle_type: Option<BundleType>,
    /// Entries of the Bundle.
    pub entries: u32,
    /// Entries that are left out.
    pub rejected: BTreeSet<u32>,
    /// An error concerns the Bundle as a whole: nothing of it can be ingested.
    pub unusable: bool,
}

impl Report {
    /// Add an issue, and draw its consequence.
    pub fn add(&mut self, issue: Issue) {
        self.count(issue.severity, issue.entry);
        if !self.is_full() {
            self.issues.push(issue);
        }
    }

    /// Add an issue that keeps nothing from being ingested, whatever its severity: it concerns a field that something else
    /// stands in for.
    pub fn note(&mut self, issue: Issue) {
        self.total += 1;
        self.errors += u64::from(issue.severity.rejects());
        if !self.is_full() {
            self.issues.push(issue);
        }
    }

    /// Draw the consequence of an issue that is not kept.
    pub fn count(&mut self, severity: Severity, entry: Option<u32>) {
        self.total += 1;
        if severity.rejects() {
            self.errors += 1;
            match entry {
                Some(entry) => {
                    self.rejected.insert(entry);
                }
                None => self.unusable = true,
            }
        }
    }

    /// No further issue is kept.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.issues.len() >= ISSUES_KEPT_MAX
    }

    /// In the order of the payload.
    pub fn sort(&mut self) {
        self.issues.sort_by_key(|issue| (issue.line, issue.byte_offset));
    }
}
