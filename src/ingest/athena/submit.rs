//! Accepting events: one transaction for those of a request, or of several requests at once.

use super::event::{Event, EventFault, EventKind};
use super::store;
use crate::audit::Actor;
use crate::db::DbError;
use crate::engine::definition::WorkflowDefinition;
use crate::engine::state::JobStatus;
use crate::ids::{EventId, JobId, OrganizationId};
use crate::ingest::fhir::node::Node;
use crate::ingest::submit::batcher::Item;
use crate::ingest::submit::{Row, Submission, SubmitError, Submitter};
use crate::phi::Phi;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use std::sync::Arc;

/// As jobs and metrics name it.
pub const SOURCE: &str = "athena";

/// Events of one request, from which on they have a transaction of their own.
const SHARED_EVENTS_MAX: usize = 8;
/// Bytes of one request's events, from which on they have a transaction of their own.
const SHARED_BYTES_MAX: usize = 256 * 1024;

/// An event with what its row says. No `Debug`: it is clinical.
#[derive(Clone)]
pub struct NewEvent {
    /// What the queue sees; its fingerprint is the event's idempotency key, its ordering key the patient.
    pub submission: Submission,
    /// `athena_patient_id`.
    pub patient_id: String,
    /// As sent.
    pub event_type: String,
    /// What it means.
    pub kind: EventKind,
    /// As sent.
    pub event_subtype: Option<String>,
    /// As sent.
    pub source_endpoint: Option<String>,
    /// As given.
    pub captured_at: Option<String>,
    /// What tells one capture from another.
    pub captured_key: Option<String>,
}

impl NewEvent {
    /// The event at that place of a body that is JSON, with its exact bytes.
    ///
    /// # Errors
    /// [`EventFault`].
    pub fn of(
        body: Bytes,
        node: Node<'_>,
        organization: OrganizationId,
        workflow: Arc<WorkflowDefinition>,
        actor: Actor,
    ) -> Result<Self, EventFault> {
        let event = Event::of(node)?;
        let submission = Submission {
            organization,
            workflow,
            source: SOURCE,
            // An organization has one Athena, whichever key its events come with.
            source_label: SOURCE.to_owned(),
            idempotency_key: None,
            ordering_key: Some(Phi::new(event.patient_id.clone().into_owned())),
            sha256: Sha256::digest(&body).into(),
            fingerprint: event.idempotency_key()?,
            body: Phi::new(body),
            content_type: "application/json".to_owned(),
            resource_count: BTreeMap::from([(event.kind.as_str().to_owned(), 1)]),
            actor,
        };
        Ok(Self {
            submission,
            patient_id: event.patient_id.clone().into_owned(),
            event_type: event.event_type.clone().into_owned(),
            kind: event.kind,
            event_subtype: event.text("event_subtype"),
            source_endpoint: event.text("source_endpoint"),
            captured_at: event.captured.as_given(),
            captured_key: event.captured.key(),
        })
    }
}

/// How an event was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is new.
    Accepted,
    /// It was known, and captured at this time too.
    Duplicate,
    /// It was known, but not as captured at this time: a sighting with a job of its own.
    Sighting,
}

/// What became of an event.
#[derive(Debug, Clone)]
pub struct TakenEvent {
    /// How.
    pub taken: Taken,
    /// The event: a new one, or the first one with the same content.
    pub event: EventId,
    /// The job that carries it.
    pub job: JobId,
    /// Its stored status.
    pub status: JobStatus,
    /// It had failed for a reason that was not the sender's, and this re-send opened its next round.
    pub retried: bool,
}

/// How an event was taken, which one it is, and its job.
pub type TakenRow = (Taken, EventId, Row);

/// The events of one request, with ids for those that are new.
pub struct EventBatch {
    pub(super) events: Vec<(EventId, JobId, NewEvent)>,
}

impl Item for EventBatch {
    type Answer = Vec<TakenRow>;

    fn is_large(&self) -> bool {
        let bytes: usize = self.events.iter().map(|(_, _, event)| event.submission.body.expose().len()).sum();
        self.events.len() > SHARED_EVENTS_MAX || bytes > SHARED_BYTES_MAX
    }

    fn order(&self) -> (uuid::Uuid, String) {
        self.events
            .first()
            .map_or_else(Default::default, |(_, _, event)| (event.submission.organization.0, event.submission.key()))
    }

    async fn commit(connection: &mut PgConnection, batch: &[Self]) -> Result<Vec<Self::Answer>, DbError> {
        let mut events: Vec<(usize, usize, &(EventId, JobId, NewEvent))> = Vec::new();
        for (request, item) in batch.iter().enumerate() {
            events.extend(item.events.iter().enumerate().map(|(index, event)| (request, index, event)));
        }
        // In the order of keys, as every other batch; stable, so that of two the same the first of a request is first.
        events.sort_by_cached_key(|(_, _, (_, _, event))| (event.submission.organization.0, event.submission.key()));
        let ordered: Vec<&(EventId, JobId, NewEvent)> = events.iter().map(|(_, _, event)| *event).collect();
        let rows = store::submit(connection, &ordered).await?;
        let mut answers: Vec<Vec<(usize, TakenRow)>> = batch.iter().map(|_| Vec::new()).collect();
        for ((request, index, _), row) in events.into_iter().zip(rows) {
            answers[request].push((index, row));
        }
        Ok(answers
            .into_iter()
            .map(|mut rows| {
                rows.sort_by_key(|(index, _)| *index);
                rows.into_iter().map(|(_, row)| row).collect()
            })
            .collect())
    }
}

impl Submitter {
    /// Record events of one request durably in one transaction, or find the first ones with the same content; in the
    /// order given. Nothing of one whose content was erased: it is not taken again, the others are. Safe to drop.
    ///
    /// # Errors
    /// [`SubmitError`]: none of them was accepted as far as the caller knows.
    pub async fn submit_events(&self, events: Vec<NewEvent>) -> Result<Vec<Option<TakenEvent>>, SubmitError> {
        let callers: Vec<_> = events
            .iter()
            .map(|event| {
                let submission = &event.submission;
                (submission.organization, Arc::clone(&submission.workflow), submission.actor.clone())
            })
            .collect();
        let events = events.into_iter().map(|event| (EventId::new(), JobId::new(), event)).collect();
        let rows = self.events.submit(EventBatch { events }).await?;
        let mut taken_events = Vec::with_capacity(rows.len());
        for ((organization, workflow, actor), (taken, event, row)) in callers.into_iter().zip(rows) {
            taken_events.push(match self.conclude(organization, &workflow, actor, row).await {
                Ok(submitted) => Some(TakenEvent {
                    taken,
                    event,
                    job: submitted.job,
                    status: submitted.status,
                    retried: submitted.retried,
                }),
                Err(SubmitError::Purged) => None,
                Err(error) => return Err(error),
            });
        }
        Ok(taken_events)
    }
}

/// One event by itself on that connection, without the batching: the yardstick of `bench intake`.
///
/// # Errors
/// [`DbError`].
pub async fn submit_alone(connection: &mut PgConnection, event: NewEvent) -> Result<(), DbError> {
    EventBatch::commit(connection, &[EventBatch { events: vec![(EventId::new(), JobId::new(), event)] }]).await?;
    Ok(())
}
