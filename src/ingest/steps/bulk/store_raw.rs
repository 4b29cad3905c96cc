//! `bulk.store_raw`: the uploaded object copied to its name by content, within object storage.

use crate::engine::handler::{Facts, StepContext, StepError, StepHandler, StepOutcome};
use crate::ingest::bulk::source::{object_error, object_gone};
use crate::ingest::bulk::store;
use crate::ingest::payloads::{Payloads, storage_error};
use serde_json::json;

/// Runs also when validation failed: the bytes are kept, if they were read to their end.
pub struct StoreRaw {
    pub(in crate::ingest::steps) payloads: Payloads,
}

#[async_trait::async_trait]
impl StepHandler for StoreRaw {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let organization = context.organization;
        let upload = super::upload(&self.payloads, context).await?;
        let (Some(sha256), Some(size)) = (upload.payload_sha256.clone(), upload.size_bytes) else {
            // The object was gone, or another one, before it was read: there is nothing to keep.
            return Ok(StepOutcome::with_output(facts(0, false, false)));
        };
        if upload.raw_key.is_some() {
            return Ok(StepOutcome::with_output(facts(size, true, true)));
        }
        let objects = self.payloads.objects();
        let hash = hex::encode(&sha256);
        let raw = format!("raw/{organization}/{hash}");
        let holds = |head: Option<crate::objects::ObjectHead>| {
            head.is_some_and(|head| {
                u64::try_from(size).ok() == Some(head.size) && head.metadata.get("sha256") == Some(&hash)
            })
        };
        // An earlier attempt, or another job with the same bytes.
        let is_there = holds(objects.head(&raw).await.map_err(storage_error)?);
        let content_type = upload.content_type();
        if !is_there {
            let object = upload.object.ok_or_else(object_gone)?;
            let (key, etag) = (object.storage_key, object.etag);
            let metadata = [
                ("job_id", context.job.to_string()),
                ("organization_id", organization.to_string()),
                ("sha256", hash.clone()),
            ];
            objects.copy(&key, &etag, &raw, &content_type, &metadata).await.map_err(object_error)?;
            if !holds(objects.head(&raw).await.map_err(storage_error)?) {
                let message = "Object storage does not hold what was copied.";
                return Err(StepError::transient("object_store_unavailable", message));
            }
        }
        Ok(StepOutcome::with_output(facts(size, true, is_there)).with_effect(move |connection| {
            let (raw, sha256, content_type) = (raw.clone(), sha256.clone(), content_type.clone());
            Box::pin(async move {
                store::keep_payload(connection, organization, &sha256, size, &content_type, &raw).await?;
                Ok(Facts::new())
            })
        }))
    }
}

fn facts(size: i64, is_kept: bool, already_stored: bool) -> Facts {
    let facts = json!({"size_bytes": size, "kept": is_kept, "already_stored": already_stored});
    facts.as_object().cloned().unwrap_or_default()
}
