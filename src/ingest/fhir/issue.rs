//! A validation problem, and the bounded list of them.

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
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
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

/// What validation found in one payload.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The first [`ISSUES_KEPT_MAX`] issues.
    pub issues: Vec<Issue>,
    /// All issues, also those that were not kept.
    pub total: u64,
    /// All issues of severity error or fatal.
    pub errors: u64,
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
        self.total += 1;
        if issue.severity.rejects() {
            self.errors += 1;
            match issue.entry {
                Some(entry) => {
                    self.rejected.insert(entry);
                }
                None => self.unusable = true,
            }
        }
        if self.issues.len() < ISSUES_KEPT_MAX {
            self.issues.push(issue);
        }
    }
}
