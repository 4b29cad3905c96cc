//! A cluster under its locks: loaded, folded, compared with what is stored, and written.

use super::decisions_store;
use super::dependents_store::{self as dependents, Affected};
use super::fold::{self, Folded, Placement, Ruling, Rulings};
use super::resolve::{Book, Question};
use super::statement::{Statement, keys_fingerprint, status_of};
use super::{questions, reviews_store as reviews, store};
use crate::db::DbError;
use crate::ids::{EventId, OrganizationId, PatientId, StatementId};
use crate::ingest::events::LinkStatus;
use crate::ingest::patients::{self, Decision};
use crate::ingest::subject::Mrn;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Kinds of keys that join clusters.
const JOINING: [&str; 3] = ["mrn", "identity", "link"];
/// Kinds of keys that events name.
const NAMED: [&str; 2] = ["identity", "alias"];

/// So often a set of locks may turn out too small before the work is run again from the start.
const ROUNDS_MAX: usize = 16;

/// What a transaction starts from.
#[derive(Default)]
pub struct Seeds {
    /// Statements that arrive.
    pub arriving: Vec<Statement>,
    /// Stored statements that are decided about.
    pub statements: BTreeSet<StatementId>,
    /// Keys that events name.
    pub named: BTreeSet<String>,
}

/// Everything that the fold needs, and what it depends on, under locks.
pub struct Cluster {
    organization: OrganizationId,
    /// Stored and arriving.
    pub statements: Vec<Statement>,
    /// Statements outside the clusters that events name.
    pub named: Vec<Statement>,
    /// What persons decided; an act adds its own.
    pub rulings: Rulings,
    /// Which statement's patient keeps which id, for who was merged.
    pub pins: Vec<(StatementId, PatientId)>,
    /// Which patient a statement was taken from, by fingerprint.
    former: HashMap<Vec<u8>, PatientId>,
    /// Who has which number, as stored.
    pub holders: HashMap<Mrn, PatientId>,
    /// Stored statements that go by more names now, or were accepted earlier than was known.
    grown: BTreeSet<StatementId>,
    /// Stored statements that nobody says any more.
    forgotten: Vec<Statement>,
}

/// What the fold changed.
#[derive(Default)]
pub struct Changes {
    /// Patients that are new.
    pub created: Vec<PatientId>,
    /// Patients whose row must be looked at again.
    pub touched: BTreeSet<PatientId>,
    /// Events that were linked anew.
    pub moved: HashMap<EventId, LinkStatus>,
}

impl Cluster {
    /// Lock and load.
    pub async fn open(
        connection: &mut PgConnection,
        organization: OrganizationId,
        seeds: Seeds,
        numbers: &BTreeSet<Mrn>,
    ) -> Result<Self, DbError> {
        let mut locked: BTreeSet<String> = seeds.named.clone();
        locked.extend(seeds.arriving.iter().flat_map(Statement::lock_keys));
        locked.extend(seeds.statements.iter().map(|id| format!("statement:{id}")));
        for _ in 0..ROUNDS_MAX {
            patients::lock_subjects(connection, organization, locked.iter().map(String::as_str)).await?;
            let (statements, decisions) = load(connection, organization, &seeds).await?;
            let mut needed: BTreeSet<String> = statements.iter().flat_map(Statement::lock_keys).collect();
            let known: Vec<String> = statements
                .iter()
                .chain(&seeds.arriving)
                .flat_map(Statement::named_by)
                .chain(seeds.named.iter().cloned())
                .collect();
            // Who resolves an event needs all its keys.
            let beside = store::keys_beside(connection, organization, &known).await?;
            needed.extend(beside.iter().cloned());
            if needed.is_subset(&locked) {
                patients::keep_subjects(connection).await?;
                return Self::build(connection, organization, (seeds, statements, decisions), numbers, &beside).await;
            }
            patients::unlock_subjects(connection).await?;
            locked.extend(needed);
        }
        // The cluster kept growing while it was locked.
        Err(DbError::stale())
    }

    async fn build(
        connection: &mut PgConnection,
        organization: OrganizationId,
        (seeds, mut statements, decisions): (Seeds, Vec<Statement>, Vec<decisions_store::DecisionRow>),
        numbers: &BTreeSet<Mrn>,
        beside: &[String],
    ) -> Result<Self, DbError> {
        let mut grown = BTreeSet::new();
        for arriving in seeds.arriving {
            match statements.iter_mut().find(|stored| stored.is_same(&arriving)) {
                Some(stored) => {
                    if stored.absorb(&arriving) && !stored.is_new {
                        grown.insert(stored.said.id);
                    }
                }
                None => statements.push(arriving),
            }
        }
        let inside: HashSet<StatementId> = statements.iter().map(|statement| statement.said.id).collect();
        // Also by what the cluster's own statements go by: others may have the same temporary number or fullUrl.
        let own = statements.iter().flat_map(Statement::named_by).filter(|key| !key.starts_with("mrn:"));
        let named: BTreeSet<String> = seeds.named.into_iter().chain(beside.iter().cloned()).chain(own).collect();
        let named: Vec<String> = named.into_iter().collect();
        let mut named = store::by_keys(connection, organization, &named, &NAMED).await?;
        named.retain(|statement| !inside.contains(&statement.said.id));
        let mut numbers = numbers.clone();
        numbers.extend(beside.iter().filter_map(|key| Mrn::of_key(key)));
        numbers.extend(statements.iter().flat_map(|statement| statement.said.numbers.iter().cloned()));
        let holders = patients::by_mrn(connection, organization, &numbers).await?;
        let (mut rulings, mut pins, mut former) = (Rulings::default(), Vec::new(), HashMap::new());
        // Oldest first: the last word on a fingerprint counts.
        for decision in decisions {
            if decision.kind == "merge" {
                if let (Some(goes), Some(stays)) = (decision.statement_id, decision.anchor_id) {
                    pins.extend(decision.patient_id.map(|patient| (goes, patient)));
                    pins.extend(decision.into_patient_id.map(|patient| (stays, patient)));
                    if !decision.is_superseded {
                        rulings.merges.push((goes, stays));
                    }
                }
            } else if let (Some(fingerprint), Some(ruling)) = (&decision.fingerprint, decision.ruling()) {
                if let (Ruling::Unlink, Some(patient)) = (ruling, decision.patient_id) {
                    former.insert(fingerprint.clone(), patient);
                }
                rulings.by_fingerprint.insert(fingerprint.clone(), ruling);
            }
        }
        let forgotten = Vec::new();
        Ok(Self { organization, statements, named, rulings, pins, former, holders, grown, forgotten })
    }

    /// These statements are said by nobody any more: they are not folded, and what they led to is looked at again. Their rows are the
    /// caller's to delete.
    pub fn forget(&mut self, gone: &BTreeSet<StatementId>) {
        let statements = std::mem::take(&mut self.statements);
        let (gone, stay): (Vec<_>, Vec<_>) = statements.into_iter().partition(|one| gone.contains(&one.said.id));
        self.statements = stay;
        self.forgotten.extend(gone);
    }

    /// A statement was accepted elsewhere first, now that something was erased.
    pub fn move_to(&mut self, statement: StatementId, place: (i64, i32), event: EventId) {
        for one in self.statements.iter_mut().filter(|one| one.said.id == statement) {
            one.event = event;
            // Of one job the place where it stood first is known, which need not be the event's.
            if one.said.place.0 != place.0 {
                one.said.place = place;
                self.grown.insert(statement);
            }
        }
    }

    /// The statement that a patient is told by when nobody is merged into it: what merges brought along leaves with them
    /// again. None, if no statement here is the patient's.
    pub fn lead_of(&self, patient: PatientId) -> Option<StatementId> {
        let said: Vec<_> = self.statements.iter().map(|statement| statement.said.clone()).collect();
        let folded = fold::fold(&said, &Rulings { merges: Vec::new(), ..self.rulings.clone() });
        let group = |index: usize| match folded.placements[index] {
            Placement::Linked(group, _) => Some(group),
            _ => None,
        };
        let position = |id: StatementId| said.iter().position(|one| one.id == id);
        let gone: BTreeSet<usize> =
            self.rulings.merges.iter().filter_map(|(goes, _)| group(position(*goes)?)).collect();
        let mut members: Vec<usize> =
            (0..said.len()).filter(|index| self.statements[*index].patient() == Some(patient)).collect();
        // Its own before what was merged into it; among those the one that is known by this id.
        members.sort_by_key(|index| {
            let lead = group(*index).map(|group| (group, said[folded.leads[group]].id));
            let is_gone = lead.is_none_or(|(group, _)| gone.contains(&group));
            (is_gone, lead.and_then(|(_, lead)| self.pinned(lead)) != Some(patient), said[*index].place)
        });
        let first = *members.first()?;
        let lead = group(first).map(|group| folded.leads[group]);
        // A lead that is somebody else's (none that we know of) is no anchor.
        let lead = lead.filter(|lead| self.statements[*lead].patient() == Some(patient));
        Some(said[lead.unwrap_or(first)].id)
    }

    /// The patient that a statement was taken from, if a person did so.
    pub fn former_patient(&self, index: usize) -> Option<PatientId> {
        self.former.get(&self.statements[index].said.fingerprint).copied()
    }

    /// The id that a statement's patient keeps.
    fn pinned(&self, statement: StatementId) -> Option<PatientId> {
        self.pins.iter().rev().find(|(one, _)| *one == statement).map(|(_, patient)| *patient)
    }

    /// Fold, and write what changed: statements and holders at once; the rest by [`Refolded::finish`], when the events of
    /// the payload are there.
    pub async fn refold(mut self, connection: &mut PgConnection) -> Result<Refolded, DbError> {
        let organization = self.organization;
        // Nothing arrived and nothing was decided: what is stored is what the fold would say.
        let is_quiet = self.grown.is_empty()
            && self.forgotten.is_empty()
            && self.statements.iter().all(|statement| !statement.is_new)
            && self.rulings.by_fingerprint.is_empty()
            && self.pins.is_empty();
        let folded = (!is_quiet).then(|| {
            let said: Vec<_> = self.statements.iter().map(|statement| statement.said.clone()).collect();
            fold::fold(&said, &self.rulings)
        });
        let mut refolded = Refolded {
            organization,
            before: self.statements.iter().map(|statement| statement.status).collect(),
            folded: None,
            groups: Vec::new(),
            changes: Changes::default(),
            affected: Affected::default(),
            emptied: Vec::new(),
            book: Book::default(),
            statements: Vec::new(),
            questions: Vec::new(),
        };
        if let Some(folded) = folded {
            refolded.groups = self.assign(&folded, &mut refolded.changes.created);
            let (inserted, updated) = self.settle(&folded, &refolded.groups);
            let given: BTreeMap<Mrn, PatientId> =
                folded.holders.iter().map(|(mrn, group)| (mrn.clone(), refolded.groups[*group])).collect();
            let stored = self.statements.iter().chain(&self.forgotten);
            let own: BTreeSet<&Mrn> = stored.flat_map(|statement| &statement.said.numbers).collect();
            let taken: BTreeSet<Mrn> = own
                .into_iter()
                .filter(|mrn| self.holders.contains_key(mrn) && !given.contains_key(mrn))
                .cloned()
                .collect();
            let moved_holders =
                given.iter().any(|(mrn, patient)| self.holders.get(mrn).is_some_and(|before| before != patient));
            self.note_affected(&mut refolded, &updated, moved_holders || !taken.is_empty());
            let pick = |ids: &BTreeSet<StatementId>| -> Vec<&Statement> {
                self.statements.iter().filter(|statement| ids.contains(&statement.said.id)).collect()
            };
            store::insert(connection, organization, &pick(&inserted)).await?;
            store::update(connection, organization, &pick(&updated)).await?;
            store::add_names(connection, organization, &pick(&self.grown)).await?;
            let news: BTreeMap<Mrn, PatientId> = given
                .iter()
                .filter(|(mrn, patient)| self.holders.get(mrn) != Some(patient))
                .map(|(mrn, patient)| (mrn.clone(), *patient))
                .collect();
            store::set_holders(connection, organization, &news, &taken).await?;
            for mrn in &taken {
                self.holders.remove(mrn);
            }
            self.holders.extend(given);
            refolded.folded = Some(folded);
        }
        refolded.book = Book::new(&self.statements, &self.named, &self.holders);
        refolded.statements = self.statements;
        Ok(refolded)
    }

    /// Which patient each group is: the ids that are there stay with those who lead.
    fn assign(&self, folded: &Folded, created: &mut Vec<PatientId>) -> Vec<PatientId> {
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); folded.leads.len()];
        for (index, placement) in folded.placements.iter().enumerate() {
            if let Placement::Linked(group, _) = placement {
                members[*group].push(index);
            }
        }
        for list in &mut members {
            list.sort_by_key(|index| self.statements[*index].said.place);
        }
        let mut claimed: BTreeSet<PatientId> = BTreeSet::new();
        let mut patients: Vec<Option<PatientId>> = vec![None; folded.leads.len()];
        let pinned = |index: usize| self.pinned(self.statements[index].said.id);
        let stored = |index: usize| self.statements[index].patient();
        let wishes: [&dyn Fn(usize) -> Vec<PatientId>; 4] = [
            &|group| pinned(folded.leads[group]).into_iter().collect(),
            &|group| stored(folded.leads[group]).into_iter().collect(),
            &|group| members[group].iter().filter_map(|index| stored(*index)).collect(),
            // Who was unlinked and is a patient again is the one from before, if nobody else is.
            &|group| self.former_patient(folded.leads[group]).into_iter().collect(),
        ];
        for wish in wishes {
            for (group, slot) in patients.iter_mut().enumerate().filter(|(_, slot)| slot.is_none()) {
                *slot = wish(group).into_iter().find(|patient| !claimed.contains(patient));
                claimed.extend(*slot);
            }
        }
        let mut fresh = || {
            let patient = PatientId::new();
            created.push(patient);
            patient
        };
        patients.into_iter().map(|patient| patient.unwrap_or_else(&mut fresh)).collect()
    }

    /// Take the result over: the ids of the statements that are new, and of those that changed.
    fn settle(&mut self, folded: &Folded, groups: &[PatientId]) -> (BTreeSet<StatementId>, BTreeSet<StatementId>) {
        let (mut inserted, mut updated) = (BTreeSet::new(), BTreeSet::new());
        for (statement, placement) in self.statements.iter_mut().zip(&folded.placements) {
            let (status, method) = status_of(*placement, groups);
            if statement.is_new {
                inserted.insert(statement.said.id);
            } else if statement.status != status || self.grown.contains(&statement.said.id) {
                updated.insert(statement.said.id);
            }
            if statement.is_new || statement.status != status || matches!(status, LinkStatus::Review) {
                method.clone_into(&mut statement.method);
            }
            statement.status = status;
        }
        (inserted, updated)
    }

    /// Which events must be looked at again.
    fn note_affected(&self, refolded: &mut Refolded, updated: &BTreeSet<StatementId>, holders_moved: bool) {
        let now: BTreeSet<PatientId> = self.statements.iter().filter_map(Statement::patient).collect();
        let mut before: BTreeSet<PatientId> = refolded.before.iter().filter_map(|status| status.patient()).collect();
        before.extend(self.forgotten.iter().filter_map(Statement::patient));
        let news = |statement: &&Statement| statement.is_new || updated.contains(&statement.said.id);
        let moved = self
            .statements
            .iter()
            .zip(&refolded.before)
            .any(|(statement, before)| !statement.is_new && statement.status != *before);
        // A key that means several statements which are not in one place: which of them an event means depends on its own.
        let mut places: HashMap<String, BTreeSet<(&'static str, Option<PatientId>)>> = HashMap::new();
        for statement in self.statements.iter().chain(&self.named) {
            for key in statement.named_by() {
                places.entry(key).or_default().insert((statement.status.as_str(), statement.patient()));
            }
        }
        let is_ambiguous = |statement: &Statement| {
            statement.named_by().any(|key| places.get(&key).is_some_and(|places| places.len() > 1))
        };
        let ambiguous = self.statements.iter().filter(news).any(is_ambiguous);
        let thorough = moved || holders_moved || ambiguous || !self.grown.is_empty() || !self.forgotten.is_empty();
        let concerned = self.statements.iter().filter(|statement| thorough || news(statement));
        let mut keys: BTreeSet<String> =
            concerned.clone().chain(&self.forgotten).flat_map(Statement::named_by).collect();
        // What a person is said to be is compared with events that contain a Patient, and have one of its numbers.
        let persons: BTreeSet<PatientId> = concerned.clone().filter_map(Statement::patient).collect();
        let of_persons =
            self.statements.iter().filter(|one| one.patient().is_some_and(|patient| persons.contains(&patient)));
        keys.extend(of_persons.flat_map(|one| one.said.numbers.iter().map(Mrn::key)));
        let others = self.named.iter().filter(|other| other.named_by().any(|key| keys.contains(&key)));
        let others: BTreeSet<PatientId> = others.filter_map(Statement::patient).collect();
        refolded.affected.keys = keys.into_iter().collect();
        refolded.affected.statements =
            concerned.filter(|one| !one.is_new).chain(&self.forgotten).map(|statement| statement.said.id).collect();
        if thorough {
            refolded.affected.patients = before.union(&now).copied().chain(others).collect();
        }
        refolded.changes.touched.extend(concerned_patients(&self.statements, &refolded.before));
        refolded.changes.touched.extend(self.forgotten.iter().filter_map(Statement::patient));
        refolded.emptied =
            before.difference(&now).copied().map(|patient| (patient, self.heir(patient, &refolded.before))).collect();
    }

    /// Where the statements of a patient went, if they all went to one.
    fn heir(&self, patient: PatientId, before: &[LinkStatus]) -> Option<PatientId> {
        let own = self.statements.iter().zip(before).filter(|(_, before)| before.patient() == Some(patient));
        let targets: BTreeSet<Option<PatientId>> = own.map(|(statement, _)| statement.patient()).collect();
        (targets.len() == 1).then(|| targets.into_iter().next().flatten()).flatten()
    }
}

/// Patients with a statement that is new or moved.
fn concerned_patients(statements: &[Statement], before: &[LinkStatus]) -> BTreeSet<PatientId> {
    statements
        .iter()
        .zip(before)
        .filter(|(statement, before)| statement.is_new || statement.status != **before)
        .filter_map(|(statement, _)| statement.patient())
        .collect()
}

/// The statements of the seeds' clusters, and the decisions on them.
async fn load(
    connection: &mut PgConnection,
    organization: OrganizationId,
    seeds: &Seeds,
) -> Result<(Vec<Statement>, Vec<decisions_store::DecisionRow>), DbError> {
    let mut found: BTreeMap<StatementId, Statement> = BTreeMap::new();
    let mut decisions: BTreeMap<_, decisions_store::DecisionRow> = BTreeMap::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut keys: BTreeSet<String> = seeds.arriving.iter().flat_map(Statement::joining_keys).collect();
    let mut ids: BTreeSet<StatementId> = seeds.statements.clone();
    let mut fingerprints: BTreeSet<Vec<u8>> =
        seeds.arriving.iter().map(|statement| statement.said.fingerprint.clone()).collect();
    loop {
        let wanted: Vec<String> = keys.iter().filter(|key| seen.insert((*key).clone())).cloned().collect();
        let missing: Vec<StatementId> = ids.iter().filter(|id| !found.contains_key(id)).copied().collect();
        let mut news = store::by_keys(connection, organization, &wanted, &JOINING).await?;
        news.extend(store::by_ids(connection, organization, &missing).await?);
        news.retain(|statement| !found.contains_key(&statement.said.id));
        fingerprints.extend(news.iter().map(|statement| statement.said.fingerprint.clone()));
        let new_ids: Vec<StatementId> = news.iter().map(|statement| statement.said.id).collect();
        keys = news.iter().flat_map(Statement::joining_keys).filter(|key| !seen.contains(key)).collect();
        found.extend(news.into_iter().map(|statement| (statement.said.id, statement)));
        ids.clear();
        if !fingerprints.is_empty() || !new_ids.is_empty() {
            let prints: Vec<&[u8]> = fingerprints.iter().map(Vec::as_slice).collect();
            for decision in decisions_store::decisions(connection, organization, &prints, &new_ids).await? {
                ids.extend(decision.statement_id.into_iter().chain(decision.anchor_id));
                decisions.insert((decision.created_at, decision.id), decision);
            }
            fingerprints.clear();
        }
        // A statement that is gone (erased) is not asked for again.
        ids.retain(|id| !found.contains_key(id) && !missing.contains(id));
        if keys.is_empty() && ids.is_empty() {
            return Ok((found.into_values().collect(), decisions.into_values().collect()));
        }
    }
}

/// A cluster after its fold.
pub struct Refolded {
    organization: OrganizationId,
    /// As they are now.
    pub statements: Vec<Statement>,
    before: Vec<LinkStatus>,
    folded: Option<Folded>,
    groups: Vec<PatientId>,
    /// What came of it.
    pub changes: Changes,
    /// What else must be looked at; the caller may add to it.
    pub affected: Affected,
    emptied: Vec<(PatientId, Option<PatientId>)>,
    /// Whom keys and statements mean now.
    pub book: Book,
    /// What events could not be linked without a person.
    pub questions: Vec<Question>,
}

impl Refolded {
    /// Link the events that depend on what changed, except those `created` with the right link, bring the patients up to date, and open and close reviews. Returns the
    /// decisions on events that were made.
    pub async fn finish(
        &mut self,
        connection: &mut PgConnection,
        created: &HashSet<EventId>,
    ) -> Result<Vec<Decision>, DbError> {
        let organization = self.organization;
        let mut decisions = Vec::new();
        let nothing = self.affected.keys.is_empty()
            && self.affected.statements.is_empty()
            && self.affected.patients.is_empty()
            && self.affected.events.is_empty();
        if !nothing {
            let found = dependents::find(connection, organization, &self.affected).await?;
            let heirs: HashMap<PatientId, Option<PatientId>> = self.emptied.iter().copied().collect();
            let (mut moves, mut settled) = (Vec::new(), Vec::new());
            // What was stored just now has the right link already.
            for dependent in found.into_iter().filter(|dependent| !created.contains(&dependent.id)) {
                let before = dependent.status();
                let mut resolved = self.book.of_dependent(connection, organization, &dependent, &heirs).await?;
                self.questions.extend(resolved.question.take());
                if resolved.status == before && resolved.is_pinned == dependent.link_pinned {
                    continue;
                }
                moves.push((dependent.id, resolved.status, resolved.is_pinned));
                self.changes.moved.insert(dependent.id, resolved.status);
                self.changes.touched.extend(before.patient().filter(|_| dependent.resource_type == "Patient"));
                if resolved.status == before {
                    continue;
                }
                if before == LinkStatus::Review && dependent.statement_id.is_none() {
                    settled.push(keys_fingerprint(&dependent.all_keys()));
                }
                let method = match (before, resolved.status) {
                    _ if resolved.method == "decision" => "decision",
                    (LinkStatus::Pending, LinkStatus::Linked(_)) if resolved.method != "mrt" => "arrival",
                    (LinkStatus::Linked(_), LinkStatus::Linked(_)) => "reassessed",
                    _ => resolved.method,
                };
                decisions.push(Decision { event: dependent.id, status: resolved.status, method });
            }
            dependents::relink(connection, organization, &moves).await?;
            reviews::supersede_settled(connection, organization, &settled).await?;
        }
        patients::refresh(connection, organization, &self.changes.touched).await?;
        patients::set_merged(connection, organization, &self.emptied).await?;
        if let Some(folded) = &self.folded {
            questions::ask(connection, organization, &self.statements, folded, &self.groups).await?;
        }
        questions::ask_about_events(connection, organization, &self.questions).await?;
        Ok(decisions)
    }
}
