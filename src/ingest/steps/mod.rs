//! The handlers of the clinical workflows' steps.
//!
//! Each may run again after any stop: what it computes depends on the payload only, what it writes to the database it
//! writes in its step's transaction, and what it puts into object storage is named by its hash.

mod athena;
mod audit;
pub mod bulk;
mod extract_findings;
mod link_patient;
mod store_raw;
mod validate;

use super::events::Origin;
use super::payloads::{JobPayload, Payloads};
use crate::db::Db;
use crate::engine::handler::{StepContext, StepError, StepHandler};
use crate::objects::Objects;
use std::sync::Arc;

/// Up to this size a payload is computed on in place; a larger one gets a thread where it holds up nobody.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// All handlers, by the names that workflow files use.
#[must_use]
pub fn handlers(db: Db, objects: Objects) -> Vec<(&'static str, Arc<dyn StepHandler>)> {
    let payloads = Payloads::new(db, objects);
    vec![
        ("fhir.validate", Arc::new(validate::Validate { payloads: payloads.clone() })),
        ("raw.store", Arc::new(store_raw::StoreRaw { payloads: payloads.clone() })),
        ("fhir.link_patient", Arc::new(link_patient::LinkPatient { payloads: payloads.clone() })),
        ("fhir.extract_findings", Arc::new(extract_findings::ExtractFindings { payloads: payloads.clone() })),
        ("athena.validate", Arc::new(athena::Validate { payloads: payloads.clone() })),
        ("athena.link_patient", Arc::new(athena::LinkPatient { payloads: payloads.clone() })),
        ("athena.extract_findings", Arc::new(athena::ExtractFindings { payloads: payloads.clone() })),
        ("bulk.validate", Arc::new(bulk::Validate { payloads: payloads.clone() })),
        ("bulk.store_raw", Arc::new(bulk::StoreRaw { payloads: payloads.clone() })),
        ("bulk.link_patient", Arc::new(bulk::LinkPatient { payloads: payloads.clone() })),
        ("bulk.extract_findings", Arc::new(bulk::ExtractFindings { payloads: payloads.clone() })),
        ("bulk.audit", Arc::new(bulk::Audit { payloads: payloads.clone() })),
        ("job.audit", Arc::new(audit::Audit { payloads })),
    ]
}

/// Where the events of a job come from.
fn origin(context: &StepContext, payload: &JobPayload) -> Origin {
    Origin {
        organization: context.organization,
        job: context.job,
        seq: context.seq,
        source: payload.source.clone(),
        payload_sha256: payload.sha256.clone(),
        base: 0,
    }
}

/// Compute on a payload without holding up the runtime.
async fn compute<T, F>(payload: JobPayload, work: F) -> Result<T, StepError>
where
    T: Send + 'static,
    F: FnOnce(&JobPayload) -> Result<T, StepError> + Send + 'static,
{
    if payload.body.len() <= INLINE_BYTES_MAX {
        return work(&payload);
    }
    tokio::task::spawn_blocking(move || work(&payload))
        .await
        .unwrap_or_else(|_| Err(StepError::ours("step_panicked", "The step's computation panicked.")))
}

/// A payload that was validated and is not a Bundle any more: a bug.
fn not_a_bundle() -> StepError {
    StepError::ours("payload_not_a_bundle", "The validated payload cannot be read as a Bundle.")
}
