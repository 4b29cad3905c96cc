//! Linking: which stored version is current, and whose each event is. Best effort, never a wrong merge.
//!
//! A [`Plan`] is made from the payload alone; [`Plan::apply`] runs in the step's transaction. Whatever the order of
//! jobs, retries and lanes, the same set of accepted payloads ends in the same current versions and links: versions are
//! compared by `meta.lastUpdated` and order of acceptance, statements are folded in order of acceptance, and a subject is
//! looked up only under its lock. What the rules are stands in docs/linking.md.

pub mod acts;
mod carriers_store;
mod cluster;
mod decisions_store;
mod dependents_store;
pub mod erase;
mod erase_persons_store;
mod erase_store;
mod fold;
mod questions;
mod resolve;
pub mod reviewing;
pub mod reviews_store;
mod score;
mod statement;
mod store;
mod versions;

use self::carriers_store::Carried;
use self::cluster::{Cluster, Refolded, Seeds};
use self::fold::Said;
use self::resolve::Resolved;
use self::statement::{KeyKind, Statement};
use self::versions::Versions;
use super::athena::parts;
use super::demographics::Demographics;
use super::events::{self, LinkStatus, NewEvent, Origin, StoredEvent};
use super::fhir::split::{Bundle, Entry, Resource};
use super::patients::{self, Decision};
use super::resource::Incoming;
use super::subject::{self, Directory, MrnRules, Outside, Reference, Subject};
use crate::audit::{self, Action, Actor, Record};
use crate::db::DbError;
use crate::engine::handler::Facts;
use crate::ids::{EventId, PatientId, StatementId};
use serde_json::json;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What a payload asks for, before the database is asked.
pub struct Plan {
    origin: Origin,
    /// Sorted by resource, without duplicates of the same bytes.
    resources: Vec<Planned>,
    /// The position of each entry's Patient; two entries with the same bytes have the same one.
    patient_of_entry: HashMap<u32, usize>,
    /// Entries with the bytes of another one.
    repeated: usize,
}

#[derive(Clone)]
struct Planned {
    incoming: Incoming,
    subject: Subject,
    /// Only of Patient resources.
    person: Option<Person>,
}

impl Planned {
    /// The resource's identity and its bytes.
    fn bytes(&self) -> (&'static str, &str, &[u8; 32]) {
        self.incoming.bytes()
    }
}

#[derive(Clone)]
struct Person {
    statement: Statement,
    demographics: Demographics,
}

impl Person {
    fn of(
        origin: &Origin,
        incoming: &Incoming,
        resource: &Resource<'_>,
        full_url: Option<&str>,
        rules: &MrnRules,
    ) -> Self {
        let source = &origin.source;
        let numbers = subject::patient_mrns(&resource.object, rules);
        let (replaces, replaced_by) = subject::patient_links(&resource.object, source);
        let demographics = Demographics::of(&resource.object);
        let identity = resource.id.as_deref().map(|id| Reference::Local(id.to_owned()).key(source));
        let resource_key = match (&resource.id, numbers.is_empty()) {
            (Some(id), _) => id.clone().into_owned(),
            (None, false) => String::new(),
            (None, true) => incoming.resource_key.clone(),
        };
        let references = subject::references_to(resource, full_url).into_iter().map(|reference| reference.key(source));
        let temporary = subject::temporary_numbers(&resource.object, rules);
        let mut aliases: BTreeSet<String> =
            references.chain(temporary.iter().map(|mrn| subject::temporary_key(source, mrn))).collect();
        aliases.retain(|alias| Some(alias) != identity.as_ref());
        let statement = Statement {
            said: Said {
                id: statement::new_id(),
                fingerprint: statement::fingerprint(&numbers, &demographics, source, &resource_key),
                place: (origin.seq, i32::try_from(incoming.entry).unwrap_or(i32::MAX)),
                numbers,
                identity,
                replaces,
                replaced_by,
                person: demographics.clone(),
            },
            source: source.clone(),
            resource_key,
            event: EventId::new(),
            aliases,
            postal_codes: demographics.postal_codes(),
            phones: demographics.phones(),
            status: LinkStatus::Pending,
            method: String::new(),
            is_new: true,
        };
        Self { statement, demographics }
    }
}

impl Plan {
    /// The plan for the entries of a Bundle that are not left out.
    #[must_use]
    pub fn new(origin: Origin, body: &[u8], bundle: &Bundle<'_>, skip: &BTreeSet<u32>, rules: &MrnRules) -> Self {
        Self::of_entries(origin, body, &bundle.entries, &Directory::new(bundle, skip, rules), skip, rules)
    }

    /// The plan for resources of a file, whom `directory` says what stands beside them.
    #[must_use]
    pub fn of_entries(
        origin: Origin,
        body: &[u8],
        entries: &[Entry<'_>],
        directory: &Directory,
        skip: &BTreeSet<u32>,
        rules: &MrnRules,
    ) -> Self {
        let mut resources = Vec::new();
        for entry in entries.iter().filter(|entry| !skip.contains(&entry.index)) {
            let (Some(resource), Some(incoming)) = (&entry.resource, Incoming::of(body, &origin, entry)) else {
                continue;
            };
            let person = (incoming.resource_type == "Patient")
                .then(|| Person::of(&origin, &incoming, resource, entry.full_url.as_deref(), rules));
            let subject = if person.is_some() { Subject::Nobody } else { directory.subject_of(entry, rules) };
            resources.push(Planned { incoming, subject, person });
        }
        resources.sort_by(|one, two| one.bytes().cmp(&two.bytes()).then(two.incoming.entry.cmp(&one.incoming.entry)));
        // The same bytes twice in one Bundle are one event; the later entry stays, since it ranks higher.
        let mut kept: Vec<Planned> = Vec::with_capacity(resources.len());
        let mut patient_of_entry = HashMap::new();
        let planned_entries = resources.len();
        for planned in resources {
            let entry = planned.incoming.entry;
            let is_patient = planned.person.is_some();
            match kept.last_mut().filter(|last| last.bytes() == planned.bytes()) {
                Some(last) => {
                    // The statement was made where it stood first, and by all its names.
                    if let (Some(last), Some(planned)) = (&mut last.person, planned.person) {
                        last.statement.absorb(&planned.statement);
                    }
                }
                None => kept.push(planned),
            }
            if is_patient {
                patient_of_entry.insert(entry, kept.len() - 1);
            }
        }
        let repeated = planned_entries - kept.len();
        Self { origin, resources: kept, patient_of_entry, repeated }
    }

    /// The plan for an Athena event and its parts, which all have one subject.
    #[must_use]
    pub fn of_event(origin: Origin, incoming: Vec<Incoming>, subject: &Subject) -> Self {
        let mut resources: Vec<Planned> =
            incoming.into_iter().map(|incoming| Planned { incoming, subject: subject.clone(), person: None }).collect();
        resources.sort_by(|one, two| one.bytes().cmp(&two.bytes()).then(two.incoming.entry.cmp(&one.incoming.entry)));
        let planned = resources.len();
        resources.dedup_by(|one, two| one.bytes() == two.bytes());
        let repeated = planned - resources.len();
        Self { origin, resources, patient_of_entry: HashMap::new(), repeated }
    }

    /// Store the events and their links in the step's transaction.
    ///
    /// # Errors
    /// A [`DbError`]; a conflict means that it should be run again in a fresh transaction.
    pub async fn apply(&self, connection: &mut PgConnection) -> Result<Facts, DbError> {
        Ok(self.apply_to_events(connection).await?.0)
    }

    /// The same; also the events that the resources are, in the order of [`Plan::resources`]. (Not of an Athena event's parts,
    /// if a person placed it.)
    ///
    /// # Errors
    /// As [`Plan::apply`].
    pub async fn apply_to_events(&self, connection: &mut PgConnection) -> Result<(Facts, Vec<EventId>), DbError> {
        let organization = self.origin.organization;
        let (mut named, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for outside in self.resources.iter().filter_map(Planned::outside) {
            named.extend(outside.keys(&self.origin.source));
            numbers.extend(outside.mrns.iter().cloned());
        }
        let seeds = Seeds { arriving: self.statements(), named, ..Seeds::default() };
        let cluster = Cluster::open(connection, organization, seeds, &numbers).await?;
        // Under the lock of its subject, which a person who places it takes too.
        if let Some(event) = self.resources.iter().find_map(|planned| planned.incoming.part_of)
            && events::is_apart(connection, organization, event).await?
        {
            return self.apart(event).apply_locked(connection, cluster).await;
        }
        self.apply_locked(connection, cluster).await
    }

    /// The same with the keys of an event that a person placed.
    fn apart(&self, event: EventId) -> Self {
        let mut resources = self.resources.clone();
        for planned in resources.iter_mut().filter(|planned| planned.incoming.part_of.is_some()) {
            planned.incoming.resource_key = parts::placed_key(event, &planned.incoming.resource_key);
        }
        resources.sort_by(|one, two| one.bytes().cmp(&two.bytes()));
        let (origin, repeated) = (self.origin.clone(), self.repeated);
        Self { origin, resources, patient_of_entry: HashMap::new(), repeated }
    }

    /// What the plan stores: sorted by the bytes of what is said, each once.
    pub fn resources(&self) -> impl Iterator<Item = &Incoming> {
        self.resources.iter().map(|planned| &planned.incoming)
    }

    async fn apply_locked(
        &self,
        connection: &mut PgConnection,
        mut cluster: Cluster,
    ) -> Result<(Facts, Vec<EventId>), DbError> {
        let organization = self.origin.organization;
        let incoming: Vec<&Incoming> = self.resources.iter().map(|planned| &planned.incoming).collect();
        let stored = events::stored_versions(connection, organization, &self.origin.source, &incoming).await?;
        let versions = Versions::compare(&self.origin, &self.resources, &stored);
        for (index, person) in self.people() {
            let new = cluster.statements.iter_mut().find(|one| one.is_new && one.is_same(&person.statement));
            if let Some(statement) = new {
                statement.event = versions.ids[index];
            }
        }
        let mut refolded = cluster.refold(connection).await?;
        let links = self.links(connection, &versions, &mut refolded).await?;
        let facts = self.store(connection, &versions, refolded, links).await?;
        Ok((facts, versions.ids))
    }

    fn people(&self) -> impl Iterator<Item = (usize, &Person)> {
        self.resources.iter().enumerate().filter_map(|(index, planned)| Some((index, planned.person.as_ref()?)))
    }

    /// What the payload's Patients say, each statement once, where it stands first.
    fn statements(&self) -> Vec<Statement> {
        let mut statements: Vec<Statement> = Vec::new();
        for (_, person) in self.people() {
            match statements.iter_mut().find(|one| one.is_same(&person.statement)) {
                Some(one) => {
                    one.absorb(&person.statement);
                }
                None => statements.push(person.statement.clone()),
            }
        }
        statements
    }

    /// Whose each resource is, by position.
    async fn links(
        &self,
        connection: &mut PgConnection,
        versions: &Versions<'_>,
        refolded: &mut Refolded,
    ) -> Result<Vec<Link>, DbError> {
        let organization = self.origin.organization;
        let by_identity: HashMap<(&str, &[u8]), StatementId> = refolded
            .statements
            .iter()
            .filter(|statement| statement.source == self.origin.source)
            .map(|one| ((one.resource_key.as_str(), one.said.fingerprint.as_slice()), one.said.id))
            .collect();
        let of_person = |index: usize| {
            let statement = &self.resources[index].person.as_ref()?.statement;
            by_identity.get(&(statement.resource_key.as_str(), statement.said.fingerprint.as_slice())).copied()
        };
        let mut links = Vec::with_capacity(self.resources.len());
        for (index, planned) in self.resources.iter().enumerate() {
            let mut link = Link::default();
            let statement = match &planned.subject {
                _ if planned.person.is_some() => of_person(index),
                Subject::Entry(entry) => self.patient_of_entry.get(entry).copied().and_then(of_person),
                _ => None,
            };
            link.statement = statement;
            if let Some(statement) = statement {
                link.take(refolded.book.of_statement(statement, planned.person.is_some()));
            } else if let Some(outside) = planned.outside() {
                let mut keys = outside.keys(&self.origin.source);
                let seq =
                    versions.unchanged(index).map_or(self.origin.seq, |stored| stored.first_seq.min(self.origin.seq));
                let all: BTreeSet<String> = keys.iter().cloned().collect();
                let mut resolved =
                    refolded.book.of_keys(connection, organization, &all, outside.says.as_deref(), seq).await?;
                if let Some(mut question) = resolved.question.take().filter(|_| versions.unchanged(index).is_none()) {
                    question.event = Some(versions.ids[index]);
                    refolded.questions.push(question);
                }
                link.take(Some(resolved));
                if keys.len() > 1 {
                    link.more = keys.clone();
                }
                link.key = (!keys.is_empty()).then(|| keys.swap_remove(0));
            }
            // A person's decision about a version holds for the next one, unless that is about somebody else.
            let before = versions.before[index]
                // A part goes with its event, whatever was decided about other events.
                .filter(|_| planned.incoming.part_of.is_none())
                .filter(|before| before.link_pinned && planned.person.is_none());
            if let Some(before) = before {
                let is_same = before.subject_key == link.key && before.statement_id == link.statement;
                if is_same || !resolve::is_of_another(connection, organization, before, link.status).await? {
                    link.take(Some(Resolved {
                        status: before.status(),
                        method: "decision",
                        is_pinned: true,
                        question: None,
                    }));
                }
            }
            links.push(link);
        }
        self.follow_events(versions, &mut links);
        Ok(links)
    }

    /// A part goes where a person put its event.
    fn follow_events(&self, versions: &Versions<'_>, links: &mut [Link]) {
        let placed: HashMap<EventId, LinkStatus> = (0..links.len())
            .filter_map(|index| versions.unchanged(index).filter(|stored| stored.link_pinned))
            .map(|stored| (stored.id, stored.status()))
            .collect();
        for (planned, link) in self.resources.iter().zip(links) {
            if let Some(status) = planned.incoming.part_of.and_then(|event| placed.get(&event)) {
                let (status, method, is_pinned) = (*status, "decision", true);
                link.take(Some(Resolved { status, method, is_pinned, question: None }));
            }
        }
    }

    async fn store(
        &self,
        connection: &mut PgConnection,
        versions: &Versions<'_>,
        mut refolded: Refolded,
        mut links: Vec<Link>,
    ) -> Result<Facts, DbError> {
        let organization = self.origin.organization;
        self.store_carriers(connection, versions, &links).await?;
        events::mark_seen(connection, organization, &versions.seen_again, self.origin.seq).await?;
        events::set_current(connection, organization, &versions.demoted, false).await?;
        events::set_current(connection, organization, &versions.promoted, true).await?;
        let is_new = |index: &usize| versions.unchanged(*index).is_none();
        let new: Vec<NewEvent<'_>> = (0..self.resources.len())
            .filter(is_new)
            .map(|index| NewEvent {
                id: versions.ids[index],
                incoming: &self.resources[index].incoming,
                subject_key: links[index].key.as_deref(),
                link: links[index].status,
                is_current: versions.current[index],
                statement: links[index].statement,
                demographics: self.resources[index].speaks().map(Demographics::stored),
                is_pinned: links[index].is_pinned,
            })
            .collect();
        events::insert(connection, &self.origin, &new).await?;
        let mut decisions: Vec<Decision> = (0..links.len())
            .filter(is_new)
            .filter(|index| links[*index].status != LinkStatus::None || links[*index].method == "decision")
            .map(|index| Decision {
                event: versions.ids[index],
                status: links[index].status,
                method: links[index].method,
            })
            .collect();
        self.store_subjects(connection, versions, &mut refolded, &links).await?;
        for (index, _) in self.people() {
            refolded.changes.touched.extend(links[index].status.patient());
        }
        let created: HashSet<EventId> = (0..links.len()).filter(is_new).map(|index| versions.ids[index]).collect();
        let relinked = refolded.finish(connection, &created).await?;
        // What is stored already keeps the link that it has, unless it was moved just now.
        for (index, link) in links.iter_mut().enumerate() {
            if let Some(status) = refolded.changes.moved.get(&versions.ids[index]) {
                link.status = *status;
            } else if let Some(stored) = versions.unchanged(index) {
                link.status = stored.status();
            }
        }
        let completed =
            relinked.iter().filter(|decision| decision.method == "arrival" || decision.method == "mrt").count();
        let actor = Actor::internal("step:link_patient");
        patients::record_first_links(connection, organization, &actor.name, &decisions).await?;
        patients::record_links(connection, organization, &actor.name, &relinked).await?;
        decisions.extend(relinked);
        self.audit(connection, &actor, &decisions).await?;
        Ok(facts(versions, &refolded, &links, self.repeated, completed))
    }

    /// Remember that this job brought what another one had brought before: it is still there when that one's payload is erased.
    async fn store_carriers(
        &self,
        connection: &mut PgConnection,
        versions: &Versions<'_>,
        links: &[Link],
    ) -> Result<(), DbError> {
        let carried: Vec<Carried<'_>> = (0..self.resources.len())
            .filter(|index| versions.unchanged(*index).is_some())
            .map(|index| Carried {
                event: versions.ids[index],
                incoming: &self.resources[index].incoming,
                subject_key: links[index].key.as_deref(),
                statement: links[index].statement,
                subject_keys: &links[index].more,
            })
            .collect();
        carriers_store::record(connection, &self.origin, carried).await
    }

    /// Remember what the subjects are: all keys of events with several, and what an earlier job said of an event that is
    /// stored already.
    async fn store_subjects(
        &self,
        connection: &mut PgConnection,
        versions: &Versions<'_>,
        refolded: &mut Refolded,
        links: &[Link],
    ) -> Result<(), DbError> {
        let organization = self.origin.organization;
        let mut subjects = Vec::new();
        for (index, link) in links.iter().enumerate() {
            // A Bundle that says who it is counts, before one in which the Patient was rejected.
            let was_rejected = |stored: &&StoredEvent| is_rejected(stored.subject_key.as_deref());
            let earlier = versions.unchanged(index).filter(|stored| {
                match (was_rejected(stored), is_rejected(link.key.as_deref())) {
                    (true, false) => true,
                    (false, true) => false,
                    _ => stored.first_seq > self.origin.seq,
                }
            });
            if let Some(stored) = earlier {
                let (key, statement) = (link.key.as_deref(), link.statement);
                let seq = stored.first_seq.min(self.origin.seq);
                dependents_store::set_first(connection, organization, stored.id, seq, key, statement).await?;
                refolded.affected.events.push(stored.id);
            }
            if earlier.is_some() || versions.unchanged(index).is_none() {
                subjects.extend(link.more.iter().map(|key| (key.clone(), versions.ids[index])));
            }
        }
        dependents_store::add_subjects(connection, organization, &subjects).await
    }

    /// One record for each patient that something was linked to.
    async fn audit(&self, connection: &mut PgConnection, actor: &Actor, decisions: &[Decision]) -> Result<(), DbError> {
        let mut linked: BTreeMap<PatientId, u64> = BTreeMap::new();
        for patient in decisions.iter().filter_map(|decision| decision.status.patient()) {
            *linked.entry(patient).or_default() += 1;
        }
        let record = Record {
            job: Some(self.origin.job),
            step: Some("link_patient"),
            body_sha256: Some(&self.origin.payload_sha256),
            ..Record::new(self.origin.organization, "patient.linked", Action::Update, actor)
        };
        let detail = |events: u64| json!({"events": events, "rule_version": patients::LINK_RULE_VERSION});
        let concerned = linked.into_iter().map(|(patient, events)| (patient, detail(events))).collect();
        audit::append_for_patients(connection, record, concerned).await
    }
}

/// Is it the key of a subject that was rejected?
fn is_rejected(key: Option<&str>) -> bool {
    key.is_some_and(|key| key.starts_with(subject::REJECTED))
}

impl Planned {
    /// What it says of a person: a Patient, or one that it contains.
    fn speaks(&self) -> Option<&Demographics> {
        let contained = self.outside().and_then(|outside| outside.says.as_deref());
        self.person.as_ref().map(|person| &person.demographics).or(contained)
    }

    fn outside(&self) -> Option<&Outside> {
        match &self.subject {
            Subject::Outside(outside) => Some(outside),
            _ => None,
        }
    }
}

/// Counts of what was done, for the step's status.
fn facts(versions: &Versions<'_>, refolded: &Refolded, links: &[Link], repeated: usize, completed: usize) -> Facts {
    let (mut linked, mut pending, mut review, mut unchanged) = (0u64, 0u64, 0u64, 0u64);
    let (mut patients, mut waiting, mut reviewed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, link) in links.iter().enumerate() {
        unchanged += u64::from(versions.unchanged(index).is_some());
        match link.status {
            LinkStatus::Linked(patient) => {
                linked += 1;
                patients.insert(patient);
            }
            LinkStatus::Pending => {
                pending += 1;
                waiting.insert((link.key.clone(), link.statement));
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
        "repeated": repeated,
        "linked": linked,
        "pending": pending,
        "review": review,
        "patients_new": refolded.changes.created.len(),
        "completed": completed,
        "patients": {"linked": patients.len(), "pending": waiting.len(), "review": reviewed.len()},
    });
    facts.as_object().cloned().unwrap_or_default()
}

/// Whose a resource is.
struct Link {
    status: LinkStatus,
    method: &'static str,
    is_pinned: bool,
    /// The statement that it is, or that its subject in the Bundle is.
    statement: Option<StatementId>,
    /// The key of its subject outside.
    key: Option<String>,
    /// All of them, if there are several.
    more: Vec<String>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            status: LinkStatus::None,
            method: "none",
            is_pinned: false,
            statement: None,
            key: None,
            more: Vec::new(),
        }
    }
}

impl Link {
    fn take(&mut self, resolved: Option<Resolved>) {
        if let Some(resolved) = resolved {
            (self.status, self.method, self.is_pinned) = (resolved.status, resolved.method, resolved.is_pinned);
        }
    }
}
