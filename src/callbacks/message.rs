//! What a message says: thin, and free of clinical values. A receiver that wants more asks the API.

use super::messages_store::MessageRow;
use crate::clock::rfc3339;
use crate::ids::{CallbackId, OrganizationId};
use bytes::Bytes;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// `job.failed`, and so on.
#[must_use]
pub fn event(row: &MessageRow) -> String {
    format!("job.{}", row.event)
}

/// The body for the end of a job: the same bytes at every attempt.
#[must_use]
pub fn body(organization: OrganizationId, row: &MessageRow, public_url: &str) -> Bytes {
    let finished_at = rfc3339(row.finished_at);
    let error = row.error_code.as_ref().map_or(Value::Null, |code| json!({ "code": code, "class": row.error_class }));
    let message = json!({
        "type": event(row),
        "timestamp": finished_at,
        "data": {
            "jobId": row.job_id,
            "organizationId": organization,
            "status": row.event,
            "round": row.round,
            "workflow": row.workflow,
            "source": row.source,
            "finishedAt": finished_at,
            "error": error,
            "url": format!("{public_url}/v1/ingestion/jobs/{}", row.job_id),
        },
    });
    Bytes::from(message.to_string())
}

/// The body of a test.
#[must_use]
pub fn test_body(organization: OrganizationId, callback: CallbackId, now: OffsetDateTime) -> Bytes {
    let message = json!({
        "type": "callback.test",
        "timestamp": rfc3339(now),
        "data": { "organizationId": organization, "callbackId": callback },
    });
    Bytes::from(message.to_string())
}
