//! Whose a Patient resource is, and whom a reference means.

use super::versions::Versions;
use super::{Link, Person, Plan};
use crate::db::DbError;
use crate::ids::PatientId;
use crate::ingest::events::LinkStatus;
use crate::ingest::patients::{self, Statement, StoredPatient};
use crate::ingest::subject::{Mrn, Outside, Reference, Subject};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The patients that this payload concerns, as they are known while its Patient resources are taken in one by one.
pub(super) struct Registry {
    by_mrn: HashMap<Mrn, PatientId>,
    by_reference: HashMap<Reference, PatientId>,
    known: HashMap<PatientId, StoredPatient>,
    pub(super) created: Vec<PatientId>,
    pub(super) new_mrns: Vec<(Mrn, PatientId)>,
    /// By position of the Patient resource.
    pub(super) admitted: BTreeMap<usize, Admitted>,
}

pub(super) struct Admitted {
    pub(super) status: LinkStatus,
    pub(super) method: &'static str,
    pub(super) candidates: Vec<PatientId>,
}

impl Registry {
    pub(super) async fn load(
        connection: &mut PgConnection,
        plan: &Plan,
        versions: &Versions<'_>,
    ) -> Result<Self, DbError> {
        let organization = plan.origin.organization;
        let (mut mrns, mut references) = (BTreeSet::new(), BTreeSet::new());
        for planned in &plan.resources {
            mrns.extend(planned.person.iter().flat_map(|person| person.mrns.iter().cloned()));
            if let Subject::Outside(outside) = &planned.subject {
                mrns.extend(outside.mrns.iter().cloned());
                references.extend(outside.reference.iter().cloned());
            }
        }
        let by_mrn = patients::by_mrn(connection, organization, &mrns).await?;
        let by_reference = patients::by_reference(connection, organization, &plan.origin.source, &references).await?;
        let mut ids: BTreeSet<PatientId> = by_mrn.values().copied().collect();
        for index in &plan.patients {
            let stored = [versions.before[*index], versions.same[*index]];
            ids.extend(stored.iter().flatten().filter_map(|event| event.patient_id));
        }
        let known = patients::load(connection, organization, &ids).await?;
        Ok(Self { by_mrn, by_reference, known, created: Vec::new(), new_mrns: Vec::new(), admitted: BTreeMap::new() })
    }

    /// Decide whose a Patient resource is.
    pub(super) fn admit(&mut self, plan: &Plan, versions: &Versions<'_>, index: usize) {
        let Some(person) = &plan.resources[index].person else { return };
        let (status, method, candidates) = match versions.unchanged(index) {
            Some(stored) => (stored.status(), "unchanged", Vec::new()),
            None => self.decide(plan, versions, index, person),
        };
        self.admitted.insert(index, Admitted { status, method, candidates });
    }

    pub(super) fn decide(
        &mut self,
        plan: &Plan,
        versions: &Versions<'_>,
        index: usize,
        person: &Person,
    ) -> (LinkStatus, &'static str, Vec<PatientId>) {
        let by_mrn: BTreeSet<PatientId> = person.mrns.iter().filter_map(|mrn| self.by_mrn.get(mrn)).copied().collect();
        // An earlier version of the same resource, stored or in this Bundle.
        let before = versions.before[index].and_then(|event| event.status().patient());
        let mut candidates = by_mrn.clone();
        candidates.extend(before.or_else(|| self.earlier_in_bundle(plan, index)));
        let candidates: Vec<PatientId> = candidates.into_iter().collect();
        match candidates.as_slice() {
            // Neither number nor id: nothing by which this person could be known again.
            [] if person.mrns.is_empty() && !person.has_id => (LinkStatus::Pending, "no_identity", candidates),
            [] => {
                let patient = PatientId::new();
                self.created.push(patient);
                self.take_in(patient, person);
                (LinkStatus::Linked(patient), "new_patient", candidates)
            }
            [patient] => {
                if let Some(reason) = self.objection(*patient, person) {
                    return (LinkStatus::Review, reason, candidates);
                }
                self.take_in(*patient, person);
                let method = if by_mrn.is_empty() { "same_resource" } else { "mrn_exact" };
                (LinkStatus::Linked(*patient), method, candidates)
            }
            _ => (LinkStatus::Review, "several_patients", candidates),
        }
    }

    pub(super) fn earlier_in_bundle(&self, plan: &Plan, index: usize) -> Option<PatientId> {
        let key = &plan.resources[index].incoming.resource_key;
        let same = |other: &&usize| plan.resources[**other].incoming.resource_key == *key;
        self.admitted.keys().filter(same).find_map(|other| self.admitted[other].status.patient())
    }

    /// Why this Patient resource cannot be that patient.
    pub(super) fn objection(&self, patient: PatientId, person: &Person) -> Option<&'static str> {
        let known = self.known.get(&patient)?;
        if let Some(reason) = known.demographics.contradiction(&person.demographics) {
            return Some(reason);
        }
        // The same resource now has another number of a system in which the patient has one: renumbered or reused.
        let shares_one = known.mrns.intersection(&person.mrns).next().is_some();
        let same_system = known.mrns.iter().any(|one| person.mrns.iter().any(|other| other.system == one.system));
        (!shares_one && same_system).then_some("mrn_changed")
    }

    pub(super) fn take_in(&mut self, patient: PatientId, person: &Person) {
        for mrn in &person.mrns {
            if !self.by_mrn.contains_key(mrn) {
                self.by_mrn.insert(mrn.clone(), patient);
                self.new_mrns.push((mrn.clone(), patient));
            }
        }
        let known = self
            .known
            .entry(patient)
            .or_insert_with(|| StoredPatient { demographics: person.demographics.clone(), mrns: BTreeSet::new() });
        known.mrns.extend(person.mrns.iter().cloned());
    }

    /// Whom a reference to the outside means: the MRN first, since it is known across sources.
    pub(super) fn find(&self, source: &str, outside: &Outside) -> Link {
        let key = outside.key(source);
        let by_mrn: BTreeSet<PatientId> = outside.mrns.iter().filter_map(|mrn| self.by_mrn.get(mrn)).copied().collect();
        let by_reference = outside.reference.as_ref().and_then(|reference| self.by_reference.get(reference)).copied();
        let all: BTreeSet<PatientId> = by_mrn.iter().copied().chain(by_reference).collect();
        match (all.first(), all.len()) {
            (Some(patient), 1) => {
                let method = if by_mrn.is_empty() { "reference" } else { "mrn_exact" };
                Link::new(LinkStatus::Linked(*patient), method, key)
            }
            (None, _) => Link::new(LinkStatus::Pending, "unknown_patient", key),
            // The number says one patient and the reference another.
            _ => {
                Link { candidates: all.into_iter().collect(), ..Link::new(LinkStatus::Review, "several_patients", key) }
            }
        }
    }

    /// What the current versions of Patient resources say of their patients, sorted by patient.
    pub(super) fn statements(&self, plan: &Plan, versions: &Versions<'_>) -> Vec<Statement> {
        let mut statements = Vec::new();
        for (index, admitted) in &self.admitted {
            let planned = &plan.resources[*index];
            let (Some(patient), Some(person)) = (admitted.status.patient(), &planned.person) else { continue };
            let created = self.created.contains(&patient);
            // A new patient is written whatever the rank of its event: its identifiers need the row.
            if (versions.current[*index] && versions.unchanged(*index).is_none()) || created {
                let incoming = &planned.incoming;
                let statement = Statement {
                    patient,
                    event: versions.ids[*index],
                    last_updated: incoming.last_updated,
                    demographics: person.demographics.clone(),
                };
                statements.push((incoming.entry, statement));
            }
        }
        statements.sort_by_key(|(entry, statement)| (statement.patient, statement.last_updated, *entry));
        statements.into_iter().map(|(_, statement)| statement).collect()
    }

    /// The keys under which events may wait for the patients of this payload.
    pub(super) fn arrivals(&self, plan: &Plan) -> Vec<(String, PatientId)> {
        let mut keys = BTreeMap::new();
        for (index, admitted) in &self.admitted {
            let (Some(patient), Some(person)) = (admitted.status.patient(), &plan.resources[*index].person) else {
                continue;
            };
            let references = person.references.iter().map(|reference| reference.key(&plan.origin.source));
            for key in person.mrns.iter().map(Mrn::key).chain(references) {
                keys.insert(key, patient);
            }
        }
        keys.into_iter().collect()
    }
}
