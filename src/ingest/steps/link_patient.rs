//! `fhir.link_patient`: stores the resources as clinical events, and says whose they are.

use super::super::fhir::{split, validate};
use super::super::{linking::Plan, payloads::Payloads};
use super::{compute, not_a_bundle, origin};
use crate::engine::handler::{StepContext, StepError, StepHandler, StepOutcome};
use std::sync::Arc;

/// See [`Plan`].
pub struct LinkPatient {
    pub(super) payloads: Payloads,
}

#[async_trait::async_trait]
impl StepHandler for LinkPatient {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let payload = self.payloads.of_job(context.organization, context.job).await?;
        let origin = origin(context, &payload);
        let plan = compute(payload, move |payload| {
            let bundle = split::split(&payload.body).map_err(|_| not_a_bundle())?;
            // The same verdict as in `validate`, which decided that the others go on.
            let rejected = validate::report(&payload.body).rejected;
            Ok(Plan::new(origin, &payload.body, &bundle, &rejected, &payload.mrn_rules))
        })
        .await?;
        let plan = Arc::new(plan);
        Ok(StepOutcome::default().with_effect(move |connection| {
            let plan = Arc::clone(&plan);
            Box::pin(async move { Ok(plan.apply(connection).await?) })
        }))
    }
}
