//! Linking: which stored version is current, and whose each event is. Best effort, never a wrong merge.
//!
//! A [`Plan`] is made from the payload alone; [`Plan::apply`] runs in the step's transaction. Whatever the order of
//! jobs, retries and lanes, the same set of accepted payloads ends in the same current versions and links: versions are
//! compared by `meta.lastUpdated` and order of acceptance, and a subject is looked up only under its lock.

use super::demographics::Demographics;
use super::events::{self, LinkStatus, NewEvent, Origin, StoredEvent};
use super::fhir::split::Bundle;
use super::patients::{self, Decision, Statement, StoredPatient};
use super::resource::Incoming;
use super::subject::{self, Directory, Mrn, Outside, Reference, Subject};
use crate::audit::{self, Action, Actor, Record};
use crate::db::DbError;
use crate::engine::handler::Facts;
use crate::ids::{EventId, PatientId};
use serde_json::json;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use time::OffsetDateTime;

/// What a payload asks for, before the database is asked.
#[derive(Debug)]
pub struct Plan {
    origin: Origin,
    /// Sorted by resource, without duplicates of the same bytes.
    resources: Vec<Planned>,
    /// Positions in `resources` of the Patients, in order of entry.
    patients: Vec<usize>,
    /// The position of each entry's Patient; two entries with the same bytes have the same one.
    patient_of_entry: HashMap<u32, usize>,
}

#[derive(Debug)]
struct Planned {
    incoming: Incoming,
    subject: Subject,
    /// Only of Patient resources.
    person: Option<Person>,
}

impl Planned {
    /// The resource's identity and its bytes.
    fn bytes(&self) -> (&'static str, &str, &[u8; 32]) {
        (self.incoming.resource_type, &self.incoming.resource_key, &self.incoming.content_sha256)
    }
}

#[derive(Debug)]
struct Person {
    mrns: BTreeSet<Mrn>,
    demographics: Demographics,
    has_id: bool,
    /// How others speak of this resource.
    references: Vec<Reference>,
}

/// Where a version stands among the versions of its resource: having `meta.lastUpdated` beats having none, so that the
/// order is total; then acceptance; then the position in the Bundle.
type Rank = (Option<OffsetDateTime>, i64, u32);

impl Plan {
    /// The plan for the entries of a Bundle that are not left out.
    #[must_use]
    pub fn new(origin: Origin, body: &[u8], bundle: &Bundle<'_>, skip: &BTreeSet<u32>, mrn_systems: &[String]) -> Self {
        let directory = Directory::new(bundle, skip);
        let mut resources = Vec::new();
        for entry in bundle.entries.iter().filter(|entry| !skip.contains(&entry.index)) {
            let (Some(resource), Some(incoming)) = (&entry.resource, Incoming::of(body, &origin.payload_sha256, entry))
            else {
                continue;
            };
            let person = (incoming.resource_type == "Patient").then(|| Person {
                mrns: subject::patient_mrns(&resource.object, mrn_systems),
                demographics: Demographics::of(&resource.object),
                has_id: resource.id.is_some(),
                references: subject::references_to(resource, entry.full_url.as_deref()),
            });
            let subject = if person.is_some() { Subject::Nobody } else { directory.subject_of(resource, mrn_systems) };
            resources.push(Planned { incoming, subject, person });
        }
        resources.sort_by(|one, two| one.bytes().cmp(&two.bytes()).then(two.incoming.entry.cmp(&one.incoming.entry)));
        // The same bytes twice in one Bundle are one event; the later entry stays, since it ranks higher.
        let mut kept: Vec<Planned> = Vec::with_capacity(resources.len());
        let mut patient_of_entry = HashMap::new();
        for planned in resources {
            let entry = planned.incoming.entry;
            let is_patient = planned.person.is_some();
            if kept.last().is_none_or(|last| last.bytes() != planned.bytes()) {
                kept.push(planned);
            }
            if is_patient {
                patient_of_entry.insert(entry, kept.len() - 1);
            }
        }
        let mut patients: Vec<usize> = (0..kept.len()).filter(|index| kept[*index].person.is_some()).collect();
        patients.sort_by_key(|index| kept[*index].incoming.entry);
        Self { origin, resources: kept, patients, patient_of_entry }
    }

    /// Store the events and their links in the step's transaction.
    ///
    /// # Errors
    /// A [`DbError`]; a conflict means that it should be run again in a fresh transaction.
    pub async fn apply(&self, connection: &mut PgConnection) -> Result<Facts, DbError> {
        let organization = self.origin.organization;
        let lock_keys = self.lock_keys();
        patients::lock_subjects(connection, organization, lock_keys.iter().map(String::as_str)).await?;
        let incoming: Vec<&Incoming> = self.resources.iter().map(|planned| &planned.incoming).collect();
        let stored = events::stored_versions(connection, organization, &self.origin.source, &incoming).await?;
        let versions = Versions::compare(&self.origin, &self.resources, &stored);
        let mut registry = Registry::load(connection, self, &versions).await?;
        for index in &self.patients {
            registry.admit(self, &versions, *index);
        }
        let links = self.links(&versions, &registry);
        self.store(connection, &versions, &registry, &links).await
    }

    /// The subjects that this payload concerns: those that arrive, and those that events may have to wait for.
    fn lock_keys(&self) -> BTreeSet<String> {
        let source = &self.origin.source;
        let mut keys = BTreeSet::new();
        for planned in &self.resources {
            if let Some(person) = &planned.person {
                keys.extend(person.mrns.iter().map(Mrn::key));
                keys.extend(person.references.iter().map(|reference| reference.key(source)));
            }
            if let Subject::Outside(outside) = &planned.subject {
                keys.extend(outside.mrns.iter().map(Mrn::key));
                keys.extend(outside.reference.iter().map(|reference| reference.key(source)));
            }
        }
        keys
    }

    /// Whose each resource is, by position.
    fn links(&self, versions: &Versions<'_>, registry: &Registry) -> Vec<Link> {
        let link = |(index, planned): (usize, &Planned)| {
            if planned.person.is_some() {
                return registry
                    .admitted
                    .get(&index)
                    .map_or_else(Link::nobody, |admitted| self.patient_link(index, admitted));
            }
            match &planned.subject {
                Subject::Nobody => Link::nobody(),
                Subject::Entry(entry) => {
                    let patient = self.patient_of_entry.get(entry).copied();
                    let admitted = patient.and_then(|patient| registry.admitted.get(&patient));
                    match admitted.and_then(|admitted| admitted.status.patient()) {
                        Some(patient) => Link::new(LinkStatus::Linked(patient), "in_bundle", None),
                        None => Link::new(LinkStatus::Pending, "in_bundle", self.entry_key(patient)),
                    }
                }
                Subject::Outside(outside) => registry.find(&self.origin.source, outside),
            }
        };
        let mut links: Vec<Link> = self.resources.iter().enumerate().map(link).collect();
        // What is stored already keeps the decision that it has; it may be linked by a key below.
        for (index, link) in links.iter_mut().enumerate() {
            if let Some(stored) = versions.unchanged(index) {
                link.status = stored.status();
            }
        }
        links
    }

    fn patient_link(&self, index: usize, admitted: &Admitted) -> Link {
        // A Patient resource is found by its absolute URL, if it has one.
        let references = self.resources[index].person.iter().flat_map(|person| &person.references);
        let url = references.clone().find(|reference| matches!(reference, Reference::Absolute(_)));
        let mut link = Link::new(admitted.status, admitted.method, url.map(|url| url.key(&self.origin.source)));
        link.candidates.clone_from(&admitted.candidates);
        link
    }

    /// The key under which an event waits for a Patient of this Bundle that is nobody yet.
    fn entry_key(&self, patient: Option<usize>) -> Option<String> {
        let person = self.resources[patient?].person.as_ref()?;
        person.references.first().map(|reference| reference.key(&self.origin.source))
    }

    async fn store(
        &self,
        connection: &mut PgConnection,
        versions: &Versions<'_>,
        registry: &Registry,
        links: &[Link],
    ) -> Result<Facts, DbError> {
        let organization = self.origin.organization;
        patients::save(connection, &self.origin, &registry.statements(self, versions)).await?;
        patients::add_mrns(connection, organization, &registry.new_mrns).await?;
        events::mark_seen(connection, organization, &versions.seen_again, self.origin.seq).await?;
        events::set_current(connection, organization, &versions.demoted, false).await?;
        events::set_current(connection, organization, &versions.promoted, true).await?;
        let new: Vec<NewEvent<'_>> = (0..self.resources.len())
            .filter(|index| versions.unchanged(*index).is_none())
            .map(|index| NewEvent {
                id: versions.ids[index],
                incoming: &self.resources[index].incoming,
                subject_key: links[index].key.as_deref(),
                link: links[index].status,
                is_current: versions.current[index],
            })
            .collect();
        events::insert(connection, &self.origin, &new).await?;
        let arrived = registry.arrivals(self);
        let completed = events::link_pending(connection, organization, &arrived).await?;
        let is_new = |index: &usize| versions.unchanged(*index).is_none();
        for index in (0..links.len()).filter(is_new).filter(|index| links[*index].status == LinkStatus::Review) {
            let link = &links[index];
            patients::open_review(connection, organization, versions.ids[index], link.method, &link.candidates).await?;
        }
        let mut decisions: Vec<Decision> = (0..links.len())
            .filter(is_new)
            .filter(|index| links[*index].status != LinkStatus::None)
            .map(|index| Decision {
                event: versions.ids[index],
                patient: links[index].status.patient(),
                status: links[index].status.as_str(),
                method: links[index].method,
            })
            .collect();
        let actor = Actor::internal("step:link_patient");
        patients::record_links(connection, organization, &actor.name, &decisions).await?;
        let completions: Vec<Decision> = completed
            .iter()
            .map(|(event, patient)| Decision {
                event: *event,
                patient: Some(*patient),
                status: "linked",
                method: "arrival",
            })
            .collect();
        patients::record_links(connection, organization, &actor.name, &completions).await?;
        decisions.extend(completions);
        self.audit(connection, &actor, &decisions).await?;
        Ok(self.facts(versions, registry, links, &completed))
    }

    /// One record for each patient that something was linked to.
    async fn audit(&self, connection: &mut PgConnection, actor: &Actor, decisions: &[Decision]) -> Result<(), DbError> {
        let mut linked: BTreeMap<PatientId, u64> = BTreeMap::new();
        for patient in decisions.iter().filter_map(|decision| decision.patient) {
            *linked.entry(patient).or_default() += 1;
        }
        for (patient, events) in linked {
            let record = Record {
                patient: Some(patient),
                job: Some(self.origin.job),
                step: Some("link_patient"),
                body_sha256: Some(&self.origin.payload_sha256),
                detail: Some(json!({"events": events, "rule_version": patients::LINK_RULE_VERSION})),
                ..Record::new(self.origin.organization, "patient.linked", Action::Update, actor)
            };
            audit::append(connection, record).await?;
        }
        Ok(())
    }

    fn facts(
        &self,
        versions: &Versions<'_>,
        registry: &Registry,
        links: &[Link],
        completed: &[(EventId, PatientId)],
    ) -> Facts {
        let completed: HashMap<EventId, PatientId> = completed.iter().copied().collect();
        let (mut linked, mut pending, mut review, mut unchanged) = (0u64, 0u64, 0u64, 0u64);
        let (mut patients, mut waiting, mut reviewed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (index, link) in links.iter().enumerate() {
            unchanged += u64::from(versions.unchanged(index).is_some());
            let status =
                completed.get(&versions.ids[index]).map_or(link.status, |patient| LinkStatus::Linked(*patient));
            match status {
                LinkStatus::Linked(patient) => {
                    linked += 1;
                    patients.insert(patient);
                }
                LinkStatus::Pending => {
                    pending += 1;
                    waiting.insert(link.key.clone());
                }
                LinkStatus::Review => {
                    review += 1;
                    reviewed.insert(versions.ids[index]);
                }
                LinkStatus::None => {}
            }
        }
        let total = u64::try_from(links.len()).unwrap_or(u64::MAX);
        let facts = json!({
            "events": total - unchanged,
            "unchanged": unchanged,
            "linked": linked,
            "pending": pending,
            "review": review,
            "patients_new": registry.created.len(),
            "completed": completed.len(),
            "patients": {"linked": patients.len(), "pending": waiting.len(), "review": reviewed.len()},
        });
        facts.as_object().cloned().unwrap_or_default()
    }
}

#[derive(Debug)]
struct Link {
    status: LinkStatus,
    method: &'static str,
    key: Option<String>,
    /// Between whom a person must choose.
    candidates: Vec<PatientId>,
}

impl Link {
    fn new(status: LinkStatus, method: &'static str, key: Option<String>) -> Self {
        Self { status, method, key, candidates: Vec::new() }
    }

    fn nobody() -> Self {
        Self::new(LinkStatus::None, "none", None)
    }
}

/// The payload's versions beside the stored ones.
struct Versions<'s> {
    /// The stored event with the same bytes, by position.
    same: Vec<Option<&'s StoredEvent>>,
    /// The stored current version of the same resource, by position.
    before: Vec<Option<&'s StoredEvent>>,
    /// The event's id, new or stored, by position.
    ids: Vec<EventId>,
    /// The version is the current one after this job, by position.
    current: Vec<bool>,
    seen_again: Vec<EventId>,
    demoted: Vec<EventId>,
    promoted: Vec<EventId>,
}

impl<'s> Versions<'s> {
    fn compare(origin: &Origin, resources: &[Planned], stored: &'s [StoredEvent]) -> Self {
        let mut current_by_key: HashMap<(&str, &str), &StoredEvent> = HashMap::new();
        let mut same_by_bytes: HashMap<(&str, &str, &[u8]), &StoredEvent> = HashMap::new();
        for event in stored {
            let key = (event.resource_type.as_str(), event.resource_key.as_str());
            if event.is_current {
                current_by_key.insert(key, event);
            }
            same_by_bytes.insert((key.0, key.1, &event.content_sha256), event);
        }
        let key = |planned: &Planned| (planned.incoming.resource_type, planned.incoming.resource_key.clone());
        let same: Vec<_> = resources
            .iter()
            .map(|planned| {
                let incoming = &planned.incoming;
                let bytes =
                    (incoming.resource_type, incoming.resource_key.as_str(), incoming.content_sha256.as_slice());
                same_by_bytes.get(&bytes).copied()
            })
            .collect();
        let before: Vec<_> = resources
            .iter()
            .map(|planned| {
                let incoming = &planned.incoming;
                current_by_key.get(&(incoming.resource_type, incoming.resource_key.as_str())).copied()
            })
            .collect();
        let ranks: Vec<Rank> = resources
            .iter()
            .zip(&same)
            .map(|(planned, seen): (_, &Option<&StoredEvent>)| {
                let seq = seen.map_or(origin.seq, |event| event.seen_seq.max(origin.seq));
                (planned.incoming.last_updated, seq, planned.incoming.entry)
            })
            .collect();
        let mut versions = Self {
            ids: same.iter().map(|event| event.map_or_else(EventId::new, |event| event.id)).collect(),
            current: vec![false; resources.len()],
            seen_again: same
                .iter()
                .flatten()
                .filter(|event| event.seen_seq < origin.seq)
                .map(|event| event.id)
                .collect(),
            demoted: Vec::new(),
            promoted: Vec::new(),
            same,
            before,
        };
        // Resources are sorted, so that versions of one resource stand together.
        let indexes: Vec<usize> = (0..resources.len()).collect();
        for group in indexes.chunk_by(|one, two| key(&resources[*one]) == key(&resources[*two])) {
            let Some(best) = group.iter().copied().max_by_key(|index| ranks[*index]) else { continue };
            let before = versions.before[best];
            let in_group = before.is_some_and(|event| group.iter().any(|index| versions.ids[*index] == event.id));
            let wins = before.is_none_or(|event| in_group || ranks[best] > event.rank());
            if !wins {
                continue;
            }
            versions.current[best] = true;
            if let Some(event) = before.filter(|event| event.id != versions.ids[best]) {
                versions.demoted.push(event.id);
            }
            if versions.same[best].is_some_and(|event| !event.is_current) {
                versions.promoted.push(versions.ids[best]);
            }
        }
        versions
    }

    /// The stored event, if the same bytes are stored already.
    fn unchanged(&self, index: usize) -> Option<&'s StoredEvent> {
        self.same[index]
    }
}

impl StoredEvent {
    fn rank(&self) -> Rank {
        (self.last_updated, self.seen_seq, self.entry.and_then(|entry| u32::try_from(entry).ok()).unwrap_or(0))
    }

    fn status(&self) -> LinkStatus {
        match (self.link_status.as_str(), self.patient_id) {
            ("linked", Some(patient)) => LinkStatus::Linked(patient),
            ("pending", _) => LinkStatus::Pending,
            ("review", _) => LinkStatus::Review,
            _ => LinkStatus::None,
        }
    }
}

/// The patients that this payload concerns, as they are known while its Patient resources are taken in one by one.
struct Registry {
    by_mrn: HashMap<Mrn, PatientId>,
    by_reference: HashMap<Reference, PatientId>,
    known: HashMap<PatientId, StoredPatient>,
    created: Vec<PatientId>,
    new_mrns: Vec<(Mrn, PatientId)>,
    /// By position of the Patient resource.
    admitted: BTreeMap<usize, Admitted>,
}

struct Admitted {
    status: LinkStatus,
    method: &'static str,
    candidates: Vec<PatientId>,
}

impl Registry {
    async fn load(connection: &mut PgConnection, plan: &Plan, versions: &Versions<'_>) -> Result<Self, DbError> {
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
    fn admit(&mut self, plan: &Plan, versions: &Versions<'_>, index: usize) {
        let Some(person) = &plan.resources[index].person else { return };
        let (status, method, candidates) = match versions.unchanged(index) {
            Some(stored) => (stored.status(), "unchanged", Vec::new()),
            None => self.decide(plan, versions, index, person),
        };
        self.admitted.insert(index, Admitted { status, method, candidates });
    }

    fn decide(
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
            [patient] => match self.objection(*patient, person) {
                Some(reason) => (LinkStatus::Review, reason, candidates),
                None => {
                    self.take_in(*patient, person);
                    let method = if by_mrn.is_empty() { "same_resource" } else { "mrn_exact" };
                    (LinkStatus::Linked(*patient), method, candidates)
                }
            },
            _ => (LinkStatus::Review, "several_patients", candidates),
        }
    }

    fn earlier_in_bundle(&self, plan: &Plan, index: usize) -> Option<PatientId> {
        let key = &plan.resources[index].incoming.resource_key;
        let same = |other: &&usize| plan.resources[**other].incoming.resource_key == *key;
        self.admitted.keys().filter(same).find_map(|other| self.admitted[other].status.patient())
    }

    /// Why this Patient resource cannot be that patient.
    fn objection(&self, patient: PatientId, person: &Person) -> Option<&'static str> {
        let known = self.known.get(&patient)?;
        if let Some(reason) = known.demographics.contradiction(&person.demographics) {
            return Some(reason);
        }
        // The same resource now has another number of a system in which the patient has one: renumbered or reused.
        let shares_one = known.mrns.intersection(&person.mrns).next().is_some();
        let same_system = known.mrns.iter().any(|one| person.mrns.iter().any(|other| other.system == one.system));
        (!shares_one && same_system).then_some("mrn_changed")
    }

    fn take_in(&mut self, patient: PatientId, person: &Person) {
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
    fn find(&self, source: &str, outside: &Outside) -> Link {
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
    fn statements(&self, plan: &Plan, versions: &Versions<'_>) -> Vec<Statement> {
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
    fn arrivals(&self, plan: &Plan) -> Vec<(String, PatientId)> {
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
