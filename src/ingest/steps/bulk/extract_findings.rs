//! `bulk.extract_findings`: what the events of a chunk say, with the bytes that say it.

use crate::engine::handler::{StepContext, StepError, StepHandler, StepOutcome};
use crate::ingest::bulk::piece::Piece;
use crate::ingest::fhir::split::Entry;
use crate::ingest::payloads::Payloads;
use crate::ingest::steps::extract_findings::{Extraction, extract};
use std::sync::Arc;

/// See `Extraction`. A Medication of the same chunk names the medication of its orders; one that stands elsewhere is
/// named by its reference.
pub struct ExtractFindings {
    pub(in crate::ingest::steps) payloads: Payloads,
}

#[async_trait::async_trait]
impl StepHandler for ExtractFindings {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let (work, piece) = super::piece(&self.payloads, context).await?;
        let origin = super::origin(context, &work, &piece);
        let extraction = super::compute(move || {
            let (skip, shape) = (super::rejected(&work), work.plan.shape);
            let place_of = |entry: &Entry<'_>| Piece::place_of(shape, entry);
            let entries = piece.entries(&skip);
            let (resources, left_out) = extract(&origin, piece.text().as_bytes(), &entries, &skip, &place_of);
            drop(entries);
            Extraction { origin, body: piece.into_text(), resources, left_out }
        })
        .await?;
        let extraction = Arc::new(extraction);
        Ok(StepOutcome::default().with_effect(move |connection| {
            let extraction = Arc::clone(&extraction);
            Box::pin(async move { Ok(extraction.apply(connection).await?) })
        }))
    }
}
