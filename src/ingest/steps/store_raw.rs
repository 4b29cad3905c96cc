//! `raw.store`: the exact bytes into object storage, under a name that depends on them only.

use super::super::fhir::split;
use super::super::payloads::{self, JobPayload, Payloads, storage_error};
use super::compute;
use crate::engine::handler::{Facts, StepContext, StepError, StepHandler, StepOutcome};
use serde_json::json;

/// Runs also when validation failed: the bytes are kept for audit and for reading them again later.
pub struct StoreRaw {
    pub(super) payloads: Payloads,
}

#[async_trait::async_trait]
impl StepHandler for StoreRaw {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let organization = context.organization;
        let payload = self.payloads.of_job(organization, context.job).await?;
        let size = payload.body.len();
        if payload.storage_key.is_some() {
            return Ok(StepOutcome::with_output(facts(size, true)));
        }
        let sha256 = hex::encode(&payload.sha256);
        let key = format!("raw/{organization}/{sha256}");
        // An earlier attempt may have put the object and died before its commit.
        let is_repeat = context.attempt > 1 || context.round > 1;
        let is_there = is_repeat && self.holds(&key, size, &sha256).await?;
        if !is_there {
            self.put(context, &payload, &key, &sha256).await?;
            if !self.holds(&key, size, &sha256).await? {
                let message = "Object storage does not hold what was put.";
                return Err(StepError::transient("object_store_unavailable", message));
            }
        }
        let sha256 = payload.sha256;
        Ok(StepOutcome::with_output(facts(size, is_there)).with_effect(move |connection| {
            let (key, sha256) = (key.clone(), sha256.clone());
            Box::pin(async move {
                payloads::mark_stored(connection, organization, &sha256, &key).await?;
                Ok(Facts::new())
            })
        }))
    }
}

impl StoreRaw {
    async fn put(&self, context: &StepContext, payload: &JobPayload, key: &str, sha256: &str) -> Result<(), StepError> {
        let (bundle_type, entry_count) = compute(payload.clone(), |payload| {
            Ok(match split::split(&payload.body) {
                Ok(bundle) => {
                    (bundle.bundle_type.map_or("unknown", |bundle_type| bundle_type.as_str()), bundle.entries.len())
                }
                Err(_) => ("unknown", 0),
            })
        })
        .await?;
        let metadata = [
            ("job_id", context.job.to_string()),
            ("organization_id", context.organization.to_string()),
            ("bundle_type", bundle_type.to_owned()),
            ("entry_count", entry_count.to_string()),
            ("sha256", sha256.to_owned()),
        ];
        let objects = self.payloads.objects();
        objects.put(key, payload.body.clone(), &payload.content_type, &metadata).await.map_err(storage_error)
    }

    /// The object is there, with the size and the hash that it must have.
    async fn holds(&self, key: &str, size: usize, sha256: &str) -> Result<bool, StepError> {
        let head = self.payloads.objects().head(key).await.map_err(storage_error)?;
        Ok(head.is_some_and(|head| {
            usize::try_from(head.size) == Ok(size) && head.metadata.get("sha256").is_some_and(|stored| stored == sha256)
        }))
    }
}

fn facts(size: usize, already_stored: bool) -> Facts {
    json!({"size_bytes": size, "already_stored": already_stored}).as_object().cloned().unwrap_or_default()
}
