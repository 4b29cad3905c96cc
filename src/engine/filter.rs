//! Which jobs a list shows, or a bulk operation meets.

use super::state::JobStatus;
use crate::ids::OrganizationId;
use serde::Serialize;
use time::OffsetDateTime;

/// Filters of a list; all that are given must hold. As JSON it is what a bulk operation keeps of its request.
#[derive(Clone, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobFilter {
    /// Only this organization's, where the caller sees several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<OrganizationId>,
    /// Live status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<JobStatus>,
    /// Without a status: all that are queued, running or retrying.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_live: bool,
    /// Workflow name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The step at which they failed: its name, or its index as in [`super::jobs_store::FailureGroup`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// webhook, athena or upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Code of the job's error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// SHA-256 of the payload, 64 hexadecimal digits ([`is_sha256`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_sha256: Option<String>,
    /// Accepted at or after.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub created_after: Option<OffsetDateTime>,
    /// Accepted before.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub created_before: Option<OffsetDateTime>,
    /// Ended at or after.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub ended_after: Option<OffsetDateTime>,
    /// Ended before.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub ended_before: Option<OffsetDateTime>,
}

impl JobFilter {
    /// Narrow to a group of failures, written `workflow/step/code`; false: it is not so written.
    #[must_use]
    pub fn narrow_to_fingerprint(&mut self, fingerprint: &str) -> bool {
        let mut parts = fingerprint.split('/');
        let (Some(workflow), Some(step), Some(code), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        if [workflow, step, code].iter().any(|part| part.is_empty()) {
            return false;
        }
        self.workflow = Some(workflow.to_owned());
        self.step = Some(step.to_owned());
        self.error_code = Some(code.to_owned());
        true
    }
}

/// 64 hexadecimal digits?
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
