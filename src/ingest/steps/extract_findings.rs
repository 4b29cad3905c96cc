//! `fhir.extract_findings`: what the stored events say, with the bytes that say it.

use super::super::fhir::path::Place;
use super::super::fhir::split::{self, Entry};
use super::super::findings::store::{self, Said};
use super::super::findings::{self, EXTRACTOR_VERSION, Medications};
use super::super::resource::Incoming;
use super::super::{events, fhir::validate, payloads::Payloads};
use super::{compute, not_a_bundle, origin};
use crate::audit::{self, Action, Actor, Record};
use crate::db::DbError;
use crate::engine::handler::{Facts, StepContext, StepError, StepHandler, StepOutcome};
use crate::ids::EventId;
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Takes findings from the resources of the payload that are stored as events, by whatever job.
pub struct ExtractFindings {
    pub(super) payloads: Payloads,
}

/// What a payload says, ready to be stored.
pub(super) struct Extraction {
    pub(super) origin: events::Origin,
    pub(super) body: bytes::Bytes,
    pub(super) said: Vec<Said>,
    pub(super) left_out: LeftOut,
}

/// Accepted entries that no finding is taken from, by the rule that says so. With those that findings are taken from they
/// are all accepted entries.
#[derive(Default, serde::Serialize)]
pub(super) struct LeftOut {
    /// Patients: who somebody is stands with the patient.
    demographics: u64,
    /// Types that are kept as events and as bytes, and say nothing that has a category: Claim, Organization, …
    type_without_findings: u64,
}

#[async_trait::async_trait]
impl StepHandler for ExtractFindings {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let payload = self.payloads.of_job(context.organization, context.job).await?;
        let origin = origin(context, &payload);
        let extraction = compute(payload, move |payload| {
            let bundle = split::split(&payload.body).map_err(|_| not_a_bundle())?;
            // The same verdict as in `validate`: what was rejected has no event.
            let rejected = validate::report(&payload.body).rejected;
            let place_of = |entry: &Entry<'_>| Place::resource(entry.index);
            let (said, left_out) = extract(&origin, &payload.body, &bundle.entries, &rejected, &place_of);
            Ok(Extraction { origin, body: payload.body.clone(), said, left_out })
        })
        .await?;
        let extraction = Arc::new(extraction);
        Ok(StepOutcome::default().with_effect(move |connection| {
            let extraction = Arc::clone(&extraction);
            Box::pin(async move { Ok(extraction.apply(connection).await?) })
        }))
    }
}

/// What the entries say that are not left out.
pub(super) fn extract(
    origin: &events::Origin,
    body: &[u8],
    entries: &[Entry<'_>],
    rejected: &BTreeSet<u32>,
    place_of: &dyn Fn(&Entry<'_>) -> Place,
) -> (Vec<Said>, LeftOut) {
    let medications = Medications::of_entries(entries, place_of);
    let (mut resources, mut left_out) = (Vec::new(), LeftOut::default());
    for entry in entries.iter().filter(|entry| !rejected.contains(&entry.index)) {
        let Some(resource) = &entry.resource else { continue };
        let found = findings::of_resource_at(&place_of(entry), resource, &medications);
        match resource.resource_type.as_ref() {
            // Most resources of a claim-laden Bundle say nothing here: they are not hashed.
            "Patient" if found.is_empty() => left_out.demographics += 1,
            _ if found.is_empty() => left_out.type_without_findings += 1,
            _ => resources.extend(Incoming::of(body, origin, entry).map(|incoming| (incoming, found))),
        }
    }
    // In the order in which the events were stored, and so nearly that of their ids: neighbours stand on one page of an index.
    resources.sort_by(|(one, _), (two, _)| one.bytes().cmp(&two.bytes()));
    let said = resources.into_iter().map(|(incoming, found)| Said::new(origin, body, incoming, found)).collect();
    (said, left_out)
}

impl Extraction {
    /// The body that it was taken from.
    pub(super) fn of(self, body: bytes::Bytes) -> Self {
        Self { body, ..self }
    }

    /// `findings` counts what the payload says, stored now or before, so that a repeated attempt reports the same.
    pub(super) async fn apply(&self, connection: &mut PgConnection) -> Result<Facts, DbError> {
        let organization = self.origin.organization;
        let incoming: Vec<&Incoming> = self.said.iter().map(|said| &said.incoming).collect();
        let ids = events::ids_of(connection, organization, &self.origin.source, &incoming).await?;
        self.apply_to(connection, &ids).await
    }

    /// The same, where it is known which events the resources are, by position.
    pub(super) async fn apply_to(
        &self,
        connection: &mut PgConnection,
        ids: &[Option<EventId>],
    ) -> Result<Facts, DbError> {
        // An entry that stands there twice is one event.
        let mut seen = HashSet::new();
        let said = self.said.iter().zip(ids).filter_map(|(said, event)| Some(((*event)?, said)));
        let said: Vec<(EventId, &Said)> = said.filter(|(event, _)| seen.insert(*event)).collect();
        let stored = store::insert(connection, &self.origin, &self.body, &said).await?;
        let facts = json!({
            "findings": stored.said,
            "new": stored.new,
            "superseded": stored.superseded,
            "entries": self.said.len(),
            "left_out": self.left_out,
        });
        if stored.new > 0 || stored.superseded > 0 {
            self.audit(connection, &facts).await?;
        }
        Ok(facts.as_object().cloned().unwrap_or_default())
    }

    /// One record for the change of the finding sets of this payload's events.
    async fn audit(&self, connection: &mut PgConnection, facts: &Value) -> Result<(), DbError> {
        let actor = Actor::internal("step:extract_findings");
        let record = Record {
            job: Some(self.origin.job),
            step: Some("extract_findings"),
            body_sha256: Some(&self.origin.payload_sha256),
            detail: Some(json!({"counts": facts, "extractor_version": EXTRACTOR_VERSION})),
            ..Record::new(self.origin.organization, "findings.stored", Action::Create, &actor)
        };
        audit::append(connection, record).await
    }
}
