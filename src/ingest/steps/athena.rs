//! `athena.validate`, `athena.link_patient` and `athena.extract_findings`: the steps of an Athena event.
//!
//! The reading is made anew by each of them: it depends on the body and the job only, and takes microseconds.

use super::super::athena::event::{self, Event};
use super::super::athena::read::{self, Context};
use super::super::athena::{parts, store};
use super::super::findings::Finding;
use super::super::findings::store::Said;
use super::super::linking::Plan;
use super::super::payloads::{JobPayload, Payloads};
use super::super::resource::Incoming;
use super::super::subject::{Outside, Subject};
use super::super::{events, issues};
use super::extract_findings::{Extraction, LeftOut};
use super::{compute, origin, validate};
use crate::db::{DbError, Scope};
use crate::engine::handler::{Facts, StepContext, StepError, StepHandler, StepOutcome};
use crate::ids::EventId;
use std::sync::Arc;

/// Writes the issues of an event.
pub struct Validate {
    pub(super) payloads: Payloads,
}

/// Stores the event and its parts, and says whose they are.
pub struct LinkPatient {
    pub(super) payloads: Payloads,
}

/// Stores what the parts say.
pub struct ExtractFindings {
    pub(super) payloads: Payloads,
}

/// A payload that was accepted and is no event any more: a bug.
fn not_an_event() -> StepError {
    StepError::ours("payload_not_an_event", "The accepted payload cannot be read as an Athena event.")
}

/// Work on a payload's event.
async fn with_event<T: Send + 'static>(
    payload: JobPayload,
    work: impl FnOnce(&JobPayload, &Event<'_>, &Context) -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    compute(payload, move |payload| {
        let event = event::open(&payload.body).and_then(Event::of).map_err(|_| not_an_event())?;
        let received_at = payload.mrn_rules.accepted_at.ok_or_else(not_an_event)?;
        let context = Context { received_at, time_zone: payload.athena.time_zone.clone() };
        work(payload, &event, &context)
    })
    .await
}

#[async_trait::async_trait]
impl StepHandler for Validate {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let payload = self.payloads.of_job(context.organization, context.job).await?;
        let report = with_event(payload, |payload, event, context| {
            let mut report = read::read(event, context).report;
            let number = payload.mrn_rules.number(&payload.athena.system, &event.patient_id);
            if number.is_none() {
                report.add(parts::nobodys_number(event));
            }
            report.sort();
            Ok(report)
        })
        .await?;
        let output = validate::facts(&report);
        let (organization, job) = (context.organization, context.job);
        let issues: Arc<[_]> = report.issues.into();
        Ok(StepOutcome::with_output(output).with_effect(move |connection| {
            let issues = Arc::clone(&issues);
            Box::pin(async move {
                issues::replace(connection, organization, job, &issues).await?;
                Ok(Facts::new())
            })
        }))
    }
}

/// What the database has to store of an event.
struct Stored {
    origin: events::Origin,
    incoming: Vec<Incoming>,
    findings: Vec<Vec<Finding>>,
    subject: Subject,
}

/// The event with its parts, as of this job; the first of `incoming` is the event itself.
async fn stored(payloads: &Payloads, context: &StepContext) -> Result<(Stored, bytes::Bytes), StepError> {
    let payload = payloads.of_job(context.organization, context.job).await?;
    let (body, origin) = (payload.body.clone(), origin(context, &payload));
    let (mut stored, key) = with_event(payload, move |payload, event, context| {
        let key = event.idempotency_key().map_err(|_| not_an_event())?;
        let reading = read::read(event, context);
        let number = payload.mrn_rules.number(&payload.athena.system, &event.patient_id);
        let (incoming, findings) = parts::incoming(event, &key, number.as_ref(), context, reading.parts);
        let subject = number.map_or(Subject::Nobody, |number| {
            Subject::Outside(Outside { mrns: [number].into(), ..Outside::default() })
        });
        Ok((Stored { origin, incoming, findings, subject }, key))
    })
    .await?;
    let organization = context.organization;
    let id: Option<EventId> = payloads
        .db()
        .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
            Box::pin(async move { store::by_content(connection, organization, &key).await })
        })
        .await?;
    let id = id.ok_or_else(not_an_event)?;
    for (index, incoming) in stored.incoming.iter_mut().enumerate() {
        if index == 0 {
            incoming.id = Some(id);
        } else {
            incoming.part_of = Some(id);
        }
    }
    Ok((stored, body))
}

#[async_trait::async_trait]
impl StepHandler for LinkPatient {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let (stored, _) = stored(&self.payloads, context).await?;
        let plan = Arc::new(Plan::of_event(stored.origin, stored.incoming, &stored.subject));
        Ok(StepOutcome::default().with_effect(move |connection| {
            let plan = Arc::clone(&plan);
            Box::pin(async move { Ok(plan.apply(connection).await?) })
        }))
    }
}

#[async_trait::async_trait]
impl StepHandler for ExtractFindings {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let (stored, body) = stored(&self.payloads, context).await?;
        let (organization, event) = (stored.origin.organization, stored.incoming.first().and_then(|own| own.id));
        // The event itself says nothing: its parts do.
        let (origin, left_out) = (stored.origin, LeftOut::default());
        let parts = stored.incoming.into_iter().skip(1).zip(stored.findings);
        let said = parts.map(|(incoming, findings)| Said::new(&origin, &body, incoming, findings)).collect();
        let extraction = Arc::new(Extraction { origin, body, said, left_out });
        Ok(StepOutcome::default().with_effect(move |connection| {
            let extraction = Arc::clone(&extraction);
            Box::pin(async move {
                let Some(event) = event else { return Err(not_an_event()) };
                if !events::is_apart(connection, organization, event).await? {
                    return Ok(extraction.apply(connection).await?);
                }
                // A person placed the event: its parts have keys of their own.
                let apart = extraction.said.iter().cloned().map(|mut said| {
                    said.incoming.resource_key = parts::placed_key(event, &said.incoming.resource_key);
                    said
                });
                let (origin, body) = (extraction.origin.clone(), extraction.body.clone());
                let apart = Extraction { origin, body, said: apart.collect(), left_out: LeftOut::default() };
                Ok(apart.apply(connection).await?)
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_closing_counts_need_the_same_facts_as_of_a_bundle() {
        let facts = validate::facts(&crate::ingest::fhir::issue::Report::default());
        for name in ["resources", "accepted", "rejected", "issues", "errors"] {
            assert_eq!(facts.get(name), Some(&json!(0)), "{name}");
        }
    }
}
