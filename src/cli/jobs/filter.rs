//! Which jobs: the filter of `jobs list`, `retry`, `cancel` and `reprocess`.

use crate::cli::client::{ClientError, encode};
use serde_json::{Map, Value, json};

/// Which jobs; all that is given must hold.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Which jobs")]
pub struct Filter {
    /// queued, running, retrying, succeeded, `succeeded_with_issues`, failed, cancelled, …
    #[arg(long)]
    status: Option<String>,
    /// Workflow name.
    #[arg(long)]
    workflow: Option<String>,
    /// The step at which they failed: its name or its index.
    #[arg(long)]
    step: Option<String>,
    /// Code of the job's error.
    #[arg(long)]
    error_code: Option<String>,
    /// A group of failures, as `workflow/step/code`.
    #[arg(long, value_name = "WORKFLOW/STEP/CODE", conflicts_with_all = ["workflow", "step", "error_code"])]
    fingerprint: Option<String>,
    /// webhook, athena or upload.
    #[arg(long)]
    source: Option<String>,
    /// SHA-256 of the payload.
    #[arg(long, value_name = "HEX")]
    payload_sha256: Option<String>,
    /// `org_…`: only this organization's (platform role).
    #[arg(long, value_name = "ORG")]
    organization: Option<String>,
    /// Accepted at or after (RFC 3339).
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    /// Accepted before (RFC 3339).
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
    /// Ended at or after (RFC 3339).
    #[arg(long, value_name = "TIME")]
    ended_after: Option<String>,
    /// Ended before (RFC 3339).
    #[arg(long, value_name = "TIME")]
    ended_before: Option<String>,
}

impl Filter {
    fn pairs(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("status", &self.status),
            ("workflow", &self.workflow),
            ("step", &self.step),
            ("errorCode", &self.error_code),
            ("fingerprint", &self.fingerprint),
            ("source", &self.source),
            ("payloadSha256", &self.payload_sha256),
            ("organization", &self.organization),
            ("createdAfter", &self.created_after),
            ("createdBefore", &self.created_before),
            ("endedAfter", &self.ended_after),
            ("endedBefore", &self.ended_before),
        ];
        all.into_iter().filter_map(|(name, value)| value.as_deref().map(|value| (name, value))).collect()
    }

    /// Nothing is given: all jobs.
    pub fn is_empty(&self) -> bool {
        self.pairs().is_empty()
    }

    /// As parts of a query; a fingerprint as the three that it stands for.
    ///
    /// # Errors
    /// [`ClientError::Settings`]: the fingerprint is not so written.
    pub fn query(&self) -> Result<Vec<String>, ClientError> {
        let mut query = Vec::new();
        for (name, value) in self.pairs() {
            if name != "fingerprint" {
                query.push(format!("{name}={}", encode(value)));
                continue;
            }
            let parts: Vec<&str> = value.split('/').collect();
            let [workflow, step, code] = parts.as_slice() else {
                let fault =
                    format!("--fingerprint \"{value}\" must be workflow/step/code, as in `GET /v1/admin/failures`");
                return Err(ClientError::Settings(fault));
            };
            query.push(format!("workflow={}&step={}&errorCode={}", encode(workflow), encode(step), encode(code)));
        }
        Ok(query)
    }

    /// As the `filter` of a bulk operation.
    pub fn body(&self) -> Map<String, Value> {
        self.pairs().into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect()
    }
}
