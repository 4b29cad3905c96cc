//! `bulk.extract_findings`: what the events of a chunk say, with the bytes that say it.

use crate::db::statistics;
use crate::engine::handler::{StepContext, StepError, StepHandler, StepOutcome};
use crate::ids::EventId;
use crate::ingest::bulk::piece::Piece;
use crate::ingest::bulk::store::ChunkWork;
use crate::ingest::events::Origin;
use crate::ingest::fhir::split::Entry;
use crate::ingest::linking::Plan;
use crate::ingest::payloads::Payloads;
use crate::ingest::steps::extract_findings::{Extraction, extract};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

/// See `Extraction`. A Medication of the same chunk names the medication of its orders; one that stands elsewhere is
/// named by its reference.
pub struct ExtractFindings {
    pub(in crate::ingest::steps) payloads: Payloads,
}

/// What `bulk.link_patient` hands on: what its chunk says, and the events that say it, by position.
pub(super) struct Prepared {
    extraction: Arc<Extraction>,
    events: Vec<Option<EventId>>,
}

impl Prepared {
    /// `events` are those of the plan's resources.
    pub(super) fn new(extraction: Arc<Extraction>, plan: &Plan, events: &[EventId]) -> Self {
        // Both are sorted by the same; the plan has each resource once.
        let mut stored = plan.resources().zip(events).peekable();
        let mut event_of = |said: &crate::ingest::resource::Incoming| loop {
            let (resource, event) = stored.peek()?;
            match resource.bytes().cmp(&said.bytes()) {
                Ordering::Less => drop(stored.next()),
                Ordering::Equal => return Some(**event),
                Ordering::Greater => return None,
            }
        };
        let events = extraction.said.iter().map(|said| event_of(&said.incoming)).collect();
        Self { extraction, events }
    }
}

/// What the entries of a chunk say that are not left out; its `body` is to be given to it.
pub(super) fn extraction(
    origin: Origin,
    work: &ChunkWork,
    entries: &[Entry<'_>],
    skip: &BTreeSet<u32>,
    body: &[u8],
) -> Extraction {
    let place_of = |entry: &Entry<'_>| Piece::place_of(work.plan.shape, entry);
    let (said, left_out) = extract(&origin, body, entries, skip, &place_of);
    Extraction { origin, body: bytes::Bytes::new(), said, left_out }
}

#[async_trait::async_trait]
impl StepHandler for ExtractFindings {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let (extraction, events) = match context.memo.take::<Prepared>() {
            Some(Prepared { extraction, events }) => (extraction, Some(Arc::new(events))),
            None => (Arc::new(self.extract(context).await?), None),
        };
        Ok(StepOutcome::default().with_effect(move |connection| {
            let (extraction, events) = (Arc::clone(&extraction), events.clone());
            Box::pin(async move {
                statistics::plan_afresh(connection).await?;
                Ok(match events {
                    Some(events) => extraction.apply_to(connection, &events).await?,
                    None => extraction.apply(connection).await?,
                })
            })
        }))
    }
}

impl ExtractFindings {
    async fn extract(&self, context: &StepContext) -> Result<Extraction, StepError> {
        let (work, piece) = super::piece(&self.payloads, context).await?;
        let origin = super::origin(context, &work, &piece);
        super::compute(&self.payloads, move || {
            let skip = super::rejected(&work);
            let entries = piece.entries(&skip);
            let extraction = extraction(origin, &work, &entries, &skip, piece.text().as_bytes());
            drop(entries);
            extraction.of(piece.into_text())
        })
        .await
    }
}
