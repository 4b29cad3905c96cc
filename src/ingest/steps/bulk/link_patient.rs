//! `bulk.link_patient`: the resources of a chunk as clinical events, and whose they are.

use super::extract_findings::Prepared;
use crate::db::statistics;
use crate::engine::handler::{StepContext, StepError, StepHandler, StepOutcome};
use crate::ingest::linking::Plan;
use crate::ingest::payloads::Payloads;
use crate::ingest::settings;
use crate::ingest::subject::Directory;
use std::sync::Arc;

/// See [`Plan`]. Whatever a resource refers to is looked for among all that the source said, not in its own chunk first: so
/// it means the same wherever the file was cut, and in whatever order its chunks are worked on.
///
/// What the resources say is taken out of them while they are open, and handed to `bulk.extract_findings`, which then need
/// not read, open and look up the same things once more.
pub struct LinkPatient {
    pub(in crate::ingest::steps) payloads: Payloads,
}

#[async_trait::async_trait]
impl StepHandler for LinkPatient {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let (work, piece) = super::piece(&self.payloads, context).await?;
        let origin = super::origin(context, &work, &piece);
        let organization = context.organization;
        let (plan, extraction) = super::compute(&self.payloads, move || {
            let skip = super::rejected(&work);
            let rules = settings::mrn_rules(organization, &work.settings, Some(work.accepted_at));
            let entries = piece.entries(&skip);
            let (body, directory) = (piece.text().as_bytes(), Directory::empty());
            let plan = Plan::of_entries(origin.clone(), body, &entries, &directory, &skip, &rules);
            let extraction = super::extract_findings::extraction(origin, &work, &entries, &skip, body);
            drop(entries);
            (plan, extraction.of(piece.into_text()))
        })
        .await?;
        let (plan, extraction) = (Arc::new(plan), Arc::new(extraction));
        let memo = context.memo.clone();
        Ok(StepOutcome::default().with_effect(move |connection| {
            let (plan, extraction, memo) = (Arc::clone(&plan), Arc::clone(&extraction), memo.clone());
            Box::pin(async move {
                statistics::plan_afresh(connection).await?;
                let (facts, events) = plan.apply_to_events(connection).await?;
                memo.put(Prepared::new(extraction, &plan, &events));
                Ok(facts)
            })
        }))
    }
}
