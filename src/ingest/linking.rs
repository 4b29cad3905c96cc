//! Linking: which stored version is current, and whose each event is. Best effort, never a wrong merge.
//!
//! A [`Plan`] is made from the payload alone; [`Plan::apply`] runs in the step's transaction. Whatever the order of
//! jobs, retries and lanes, the same set of accepted payloads ends in the same current versions and links: versions are
//! compared by `meta.lastUpdated` and order of acceptance, and a subject is looked up only under its lock.

mod registry;
mod versions;

use self::registry::{Admitted, Registry};
use self::versions::Versions;
use super::demographics::Demographics;
use super::events::{self, LinkStatus, NewEvent, Origin};
use super::fhir::split::Bundle;
use super::patients::{self, Decision};
use super::resource::Incoming;
use super::subject::{self, Directory, Mrn, Reference, Subject};
use crate::audit::{self, Action, Actor, Record};
use crate::db::DbError;
use crate::engine::handler::Facts;
use crate::ids::{EventId, PatientId};
use serde_json::json;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
        Ok(facts(versions, registry, links, &completed))
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
}

/// Counts of what was done, for the step's status.
fn facts(versions: &Versions<'_>, registry: &Registry, links: &[Link], completed: &[(EventId, PatientId)]) -> Facts {
    let completed: HashMap<EventId, PatientId> = completed.iter().copied().collect();
    let (mut linked, mut pending, mut review, mut unchanged) = (0u64, 0u64, 0u64, 0u64);
    let (mut patients, mut waiting, mut reviewed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, link) in links.iter().enumerate() {
        unchanged += u64::from(versions.unchanged(index).is_some());
        let status = completed.get(&versions.ids[index]).map_or(link.status, |patient| LinkStatus::Linked(*patient));
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
