//! `bulk.link_patient`: the resources of a chunk as clinical events, and whose they are.

use crate::engine::handler::{StepContext, StepError, StepHandler, StepOutcome};
use crate::ingest::linking::Plan;
use crate::ingest::payloads::Payloads;
use crate::ingest::settings;
use crate::ingest::subject::Directory;
use std::sync::Arc;

/// See [`Plan`]. Whatever a resource refers to is looked for among all that the source said, not in its own chunk first: so
/// it means the same wherever the file was cut, and in whatever order its chunks are worked on.
pub struct LinkPatient {
    pub(in crate::ingest::steps) payloads: Payloads,
}

#[async_trait::async_trait]
impl StepHandler for LinkPatient {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let (work, piece) = super::piece(&self.payloads, context).await?;
        let origin = super::origin(context, &work, &piece);
        let organization = context.organization;
        let plan = super::compute(move || {
            let skip = super::rejected(&work);
            let rules = settings::mrn_rules(organization, &work.settings, Some(work.accepted_at));
            let entries = piece.entries(&skip);
            Plan::of_entries(origin, piece.text().as_bytes(), &entries, &Directory::empty(), &skip, &rules)
        })
        .await?;
        let plan = Arc::new(plan);
        Ok(StepOutcome::default().with_effect(move |connection| {
            let plan = Arc::clone(&plan);
            Box::pin(async move { Ok(plan.apply(connection).await?) })
        }))
    }
}
