//! Whom an event means: by the statement of its subject, or by its keys.

use super::decisions_store;
use super::dependents_store::{self, Dependent};
use super::fold::Place;
use super::statement::{Statement, keys_fingerprint};
use super::{KeyKind, store};
use crate::db::DbError;
use crate::ids::{EventId, OrganizationId, PatientId, StatementId};
use crate::ingest::demographics::Demographics;
use crate::ingest::events::{LinkStatus, StoredEvent};
use crate::ingest::patients;
use crate::ingest::subject::{self, Mrn};
use sqlx::PgConnection;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is known of keys and statements, under their locks.
#[derive(Default)]
pub struct Book {
    holders: HashMap<String, PatientId>,
    /// Statements by the references and temporary numbers that mean them, in order of acceptance.
    named: HashMap<String, Vec<Named>>,
    /// What the statements of patients say, as far as it was asked for.
    persons: HashMap<PatientId, Vec<Demographics>>,
    by_id: HashMap<StatementId, (LinkStatus, String)>,
}

/// A statement that a key means.
struct Named {
    place: Place,
    /// Its resource: versions of one resource follow each other.
    resource: String,
    status: LinkStatus,
}

/// Whom a key means.
#[derive(Debug, Default)]
struct Meant {
    patients: BTreeSet<PatientId>,
    /// It also means a statement of which it is not known whose it is.
    waits: bool,
}

/// Where an event belongs.
pub struct Resolved {
    /// Whose it is.
    pub status: LinkStatus,
    /// Why.
    pub method: &'static str,
    /// A person said so.
    pub is_pinned: bool,
    /// What a person must be asked.
    pub question: Option<Question>,
}

/// Keys that mean different patients.
pub struct Question {
    /// An event that has them.
    pub event: Option<EventId>,
    /// The keys.
    pub keys: BTreeSet<String>,
    /// Whom they mean.
    pub candidates: BTreeSet<PatientId>,
    /// Why they are not simply followed.
    pub reason: &'static str,
}

impl Resolved {
    fn new(status: LinkStatus, method: &'static str) -> Self {
        Self { status, method, is_pinned: false, question: None }
    }
}

impl Book {
    /// From clusters, from statements beside them, and from who has which number.
    pub fn new(statements: &[Statement], beside: &[Statement], holders: &HashMap<Mrn, PatientId>) -> Self {
        let mut book =
            Self { holders: holders.iter().map(|(mrn, patient)| (mrn.key(), *patient)).collect(), ..Self::default() };
        for statement in statements.iter().chain(beside) {
            book.by_id.insert(statement.said.id, (statement.status, statement.method.clone()));
            let references =
                statement.keys().into_iter().filter(|(_, kind)| matches!(kind, KeyKind::Identity | KeyKind::Alias));
            // Without an id every statement stands for itself.
            let has_id = !statement.resource_key.is_empty() && !statement.resource_key.starts_with('#');
            let resource = if has_id { statement.resource_key.clone() } else { format!("#{}", statement.said.id) };
            for (key, _) in references {
                let (place, status, resource) = (statement.said.place, statement.status, resource.clone());
                book.named.entry(key).or_default().push(Named { place, resource, status });
            }
        }
        for versions in book.named.values_mut() {
            versions.sort_by_key(|named| named.place);
        }
        book
    }

    /// Where an event with the subject of a statement belongs; the Patient resource itself, or one about it.
    pub fn of_statement(&self, statement: StatementId, is_patient: bool) -> Option<Resolved> {
        let (status, method) = self.by_id.get(&statement)?;
        let status = match status {
            LinkStatus::Linked(_) => *status,
            _ if is_patient => *status,
            // Who it is about is asked once, about the Patient resource.
            _ => LinkStatus::Pending,
        };
        let method = if is_patient { known_method(method) } else { "in_bundle" };
        Some(Resolved { is_pinned: false, ..Resolved::new(status, method) })
    }

    /// Whom keys mean, for an event of this position; not somebody whom a contained Patient contradicts.
    pub async fn of_keys(
        &mut self,
        connection: &mut PgConnection,
        organization: OrganizationId,
        keys: &BTreeSet<String>,
        says: Option<&Demographics>,
        first_seq: i64,
    ) -> Result<Resolved, DbError> {
        let mut found: BTreeSet<PatientId> = BTreeSet::new();
        let (mut by_number, mut by_reference, mut waits) = (false, false, false);
        let is_rejected = keys.iter().any(|key| key.starts_with(subject::REJECTED));
        for key in keys {
            let meant = if key.starts_with("mrn:") {
                Meant { patients: self.holders.get(key).copied().into_iter().collect(), waits: false }
            } else {
                self.meant(key, first_seq, is_rejected)
            };
            by_number |= !meant.patients.is_empty() && key.starts_with("mrn:");
            by_reference |= !meant.patients.is_empty() && key.starts_with("ref:");
            found.extend(meant.patients);
            waits |= meant.waits;
        }
        // Who is meant may be somebody else than who is known.
        if (waits && found.len() < 2) || (is_rejected && !by_reference) {
            return Ok(Resolved::new(LinkStatus::Pending, "unknown_patient"));
        }
        if let (Some(says), [patient]) = (says, found.iter().copied().collect::<Vec<_>>().as_slice()) {
            let statements = self.statements_of(connection, organization, *patient).await?;
            if let Some(reason) = says.objection(statements.iter()) {
                return decided(connection, organization, keys, found, reason).await;
            }
        }
        let mut patients = found.iter();
        Ok(match (patients.next(), patients.next()) {
            (None, _) => Resolved::new(LinkStatus::Pending, "unknown_patient"),
            (Some(patient), None) => {
                let method = match (by_number, by_reference) {
                    (true, _) => "mrn_exact",
                    (false, true) => "reference",
                    (false, false) => "mrt",
                };
                Resolved::new(LinkStatus::Linked(*patient), method)
            }
            _ => return decided(connection, organization, keys, found, "several_patients").await,
        })
    }

    /// Whom a reference or a temporary number means: of each resource that goes by it, the statement that was accepted last
    /// before the event, else the first after it; or only that.
    fn meant(&self, key: &str, first_seq: i64, only_after: bool) -> Meant {
        let mut by_resource: BTreeMap<&str, Vec<&Named>> = BTreeMap::new();
        for named in self.named.get(key).into_iter().flatten().filter(|named| named.status != LinkStatus::None) {
            by_resource.entry(&named.resource).or_default().push(named);
        }
        let mut meant = Meant::default();
        for versions in by_resource.values() {
            let before = versions.iter().rev().find(|named| named.place.0 <= first_seq).filter(|_| !only_after);
            match before.or_else(|| versions.iter().find(|named| named.place.0 > first_seq)).map(|named| named.status) {
                Some(LinkStatus::Linked(patient)) => {
                    meant.patients.insert(patient);
                }
                Some(LinkStatus::Review) => meant.waits = true,
                Some(LinkStatus::Pending) => meant.waits |= by_resource.len() > 1,
                Some(LinkStatus::None) | None => {}
            }
        }
        meant
    }

    /// What the statements of a patient say. Whoever moves one of them holds the lock of the number that led here.
    async fn statements_of(
        &mut self,
        connection: &mut PgConnection,
        organization: OrganizationId,
        patient: PatientId,
    ) -> Result<&[Demographics], DbError> {
        Ok(match self.persons.entry(patient) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let statements = store::of_patients(connection, organization, &[patient]).await?;
                unknown.insert(statements.into_iter().map(|statement| statement.said.person).collect())
            }
        })
    }

    /// Where a stored event belongs now.
    pub async fn of_dependent(
        &mut self,
        connection: &mut PgConnection,
        organization: OrganizationId,
        dependent: &Dependent,
        heirs: &HashMap<PatientId, Option<PatientId>>,
    ) -> Result<Resolved, DbError> {
        let status = dependent.status();
        let as_it_is = |status| Resolved { is_pinned: dependent.link_pinned, ..Resolved::new(status, "decision") };
        if dependent.link_pinned {
            let heir = status.patient().and_then(|patient| heirs.get(&patient).copied().flatten());
            return Ok(as_it_is(heir.map_or(status, LinkStatus::Linked)));
        }
        if let Some(statement) = dependent.statement_id {
            let resolved = self.of_statement(statement, dependent.resource_type == "Patient");
            return Ok(resolved.unwrap_or_else(|| as_it_is(status)));
        }
        let keys = dependent.all_keys();
        if keys.is_empty() {
            return Ok(as_it_is(status));
        }
        let says = dependent.demographics.as_ref().map(Demographics::from_stored);
        let mut resolved = self.of_keys(connection, organization, &keys, says.as_ref(), dependent.first_seq).await?;
        if let Some(question) = &mut resolved.question {
            question.event = Some(dependent.id);
        }
        Ok(resolved)
    }
}

/// Is the next version of an event that a person placed about somebody else? The same subject may be spelt otherwise: it is
/// another one only if both lead to patients, and to different ones. What is stored is asked; it holds what this
/// transaction changed.
pub async fn is_of_another(
    connection: &mut PgConnection,
    organization: OrganizationId,
    before: &StoredEvent,
    now: LinkStatus,
) -> Result<bool, DbError> {
    let (LinkStatus::Linked(now), false) = (now, before.status() == now) else { return Ok(false) };
    let was = if let Some(statement) = before.statement_id {
        let found = store::by_ids(connection, organization, &[statement]).await?.pop();
        found.as_ref().and_then(Statement::patient)
    } else {
        let mut keys = dependents_store::keys_of(connection, organization, before.id).await?;
        keys.extend(before.subject_key.clone());
        let numbers: BTreeSet<Mrn> = keys.iter().filter_map(|key| Mrn::of_key(key)).collect();
        let named: Vec<String> = keys.iter().cloned().collect();
        let statements = store::by_keys(connection, organization, &named, &["identity", "alias"]).await?;
        let holders = patients::by_mrn(connection, organization, &numbers).await?;
        let mut book = Book::new(&statements, &[], &holders);
        book.of_keys(connection, organization, &keys, None, before.first_seq).await?.status.patient()
    };
    Ok(was.is_some_and(|was| was != now))
}

/// What a person said about keys that mean several patients, or the question.
async fn decided(
    connection: &mut PgConnection,
    organization: OrganizationId,
    keys: &BTreeSet<String>,
    candidates: BTreeSet<PatientId>,
    reason: &'static str,
) -> Result<Resolved, DbError> {
    let fingerprint = keys_fingerprint(keys);
    let decision = decisions_store::decisions(connection, organization, &[&fingerprint], &[]).await?.pop();
    let pinned = |status| Resolved { is_pinned: true, ..Resolved::new(status, "decision") };
    match decision.as_ref().map(|decision| (decision.kind.as_str(), decision.patient_id)) {
        Some(("link", Some(patient))) => {
            if let Some(patient) = patients::survivor(connection, organization, patient).await? {
                return Ok(pinned(LinkStatus::Linked(patient)));
            }
        }
        Some(("reject", _)) => return Ok(pinned(LinkStatus::None)),
        _ => {}
    }
    let question = Question { event: None, keys: keys.clone(), candidates, reason };
    Ok(Resolved { question: Some(question), ..Resolved::new(LinkStatus::Review, reason) })
}

/// A stored method as one of the words that we write.
fn known_method(method: &str) -> &'static str {
    const METHODS: [&str; 13] = [
        "mrn_exact",
        "same_resource",
        "new_patient",
        "several_patients",
        "birth_date",
        "name",
        "mrn_changed",
        "no_identity",
        "unlinked",
        "decided_patient_in_review",
        "decision",
        "link_contradicts",
        "possible_duplicate",
    ];
    METHODS.into_iter().find(|one| *one == method).unwrap_or("reassessed")
}
