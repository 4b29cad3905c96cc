//! The fold: which statements of a cluster are one patient. Pure; the rules are those of docs/linking.md.
//!
//! The result depends on the statements with their places and on the rulings, not on the order in which they are given.

use crate::ids::StatementId;
use crate::ingest::demographics::Demographics;
use crate::ingest::subject::Mrn;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Where a statement was accepted first: job sequence number, then entry.
pub type Place = (i64, i32);

/// What the fold looks at.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone)]
pub struct Said {
    /// Which statement.
    pub id: StatementId,
    /// Of what identifies a person.
    pub fingerprint: Vec<u8>,
    /// Where it was accepted first.
    pub place: Place,
    /// Its MRNs.
    pub numbers: BTreeSet<Mrn>,
    /// The key of its resource, if that has an id.
    pub identity: Option<String>,
    /// Identities of Patients that it replaces.
    pub replaces: BTreeSet<String>,
    /// Identities of Patients that it is replaced by.
    pub replaced_by: BTreeSet<String>,
    /// Names and birth date.
    pub person: Demographics,
}

/// What a person decided about a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// The same person as that statement says.
    Link(StatementId),
    /// A patient of its own.
    NewPatient,
    /// Nobody's.
    Reject,
    /// Not whose the rules say: ask.
    Unlink,
}

/// All that persons decided about a cluster.
#[derive(Clone, Default)]
pub struct Rulings {
    /// By fingerprint.
    pub by_fingerprint: HashMap<Vec<u8>, Ruling>,
    /// Who was joined: a statement of the patient who went, and one of the patient who stayed.
    pub merges: Vec<(StatementId, StatementId)>,
}

/// Where a statement ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// In this group, by this method.
    Linked(usize, &'static str),
    /// Nothing says who it is.
    Pending,
    /// A person must decide, for this reason.
    Review(&'static str),
    /// A person said that it is nobody's.
    Rejected,
}

impl Placement {
    fn group(self) -> Option<usize> {
        match self {
            Self::Linked(group, _) => Some(group),
            _ => None,
        }
    }
}

/// What rules joined, or what a person added.
#[derive(Debug, Clone, Default)]
struct Facet {
    members: Vec<usize>,
    numbers: BTreeSet<Mrn>,
}

#[derive(Debug)]
struct Group {
    facets: Vec<Facet>,
    /// The statement that the patient is told by.
    lead: usize,
    into: Option<usize>,
}

/// The result.
#[derive(Debug)]
pub struct Folded {
    /// By position in the given statements. Groups are numbered from 0 without gaps.
    pub placements: Vec<Placement>,
    /// The leading statement of each group.
    pub leads: Vec<usize>,
    /// Which group has a number.
    pub holders: BTreeMap<Mrn, usize>,
    /// Which groups a review's statement could belong to, by position.
    pub candidates: BTreeMap<usize, BTreeSet<usize>>,
    /// Statements that name another Patient as the same one, which it contradicts: the statement and that group.
    pub contradicted_links: BTreeMap<usize, usize>,
}

struct Fold<'s> {
    said: &'s [Said],
    rulings: &'s Rulings,
    by_id: HashMap<StatementId, usize>,
    groups: Vec<Group>,
    holders: BTreeMap<Mrn, usize>,
    identities: BTreeMap<String, BTreeSet<usize>>,
    placed: Vec<Option<Placement>>,
    /// Statements that a person unlinked or rejected.
    renounced: Vec<usize>,
    /// Groups of decided patients, by fingerprint.
    decided: HashMap<&'s [u8], usize>,
    /// Who waits for the statement that it was decided to be the same person as.
    deferred: HashMap<StatementId, Vec<usize>>,
    /// (the one who goes, the one who stays) of `Patient.link`.
    links: Vec<(usize, usize)>,
    contradicted_links: BTreeMap<usize, usize>,
}

/// Fold the statements of one cluster, or of several.
#[must_use]
pub fn fold(said: &[Said], rulings: &Rulings) -> Folded {
    let mut fold = Fold {
        said,
        rulings,
        by_id: said.iter().enumerate().map(|(index, one)| (one.id, index)).collect(),
        groups: Vec::new(),
        holders: BTreeMap::new(),
        identities: BTreeMap::new(),
        placed: vec![None; said.len()],
        renounced: (0..said.len())
            .filter(|index| {
                let ruling = rulings.by_fingerprint.get(&said[*index].fingerprint);
                matches!(ruling, Some(Ruling::Unlink | Ruling::Reject))
            })
            .collect(),
        decided: HashMap::new(),
        deferred: HashMap::new(),
        links: links(said),
        contradicted_links: BTreeMap::new(),
    };
    let mut order: Vec<usize> = (0..said.len()).collect();
    order.sort_by(|one, two| {
        let key = |index: &usize| (said[*index].place, &said[*index].fingerprint, said[*index].id);
        key(one).cmp(&key(two))
    });
    for index in order {
        fold.place(index);
    }
    fold.finish()
}

/// Who says of whom that they are the same, where both are there.
fn links(said: &[Said]) -> Vec<(usize, usize)> {
    let mut by_identity: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, one) in said.iter().enumerate() {
        if let Some(identity) = &one.identity {
            by_identity.entry(identity).or_default().push(index);
        }
    }
    let mut links = Vec::new();
    for (index, one) in said.iter().enumerate() {
        let others = |keys: &BTreeSet<String>| -> Vec<usize> {
            keys.iter().filter_map(|key| by_identity.get(key.as_str())).flatten().copied().collect()
        };
        links.extend(others(&one.replaced_by).into_iter().map(|other| (index, other)));
        links.extend(others(&one.replaces).into_iter().map(|other| (other, index)));
    }
    links.sort_by_key(|(goes, stays)| (said[*goes].place, said[*stays].place));
    links.dedup();
    links
}

impl Fold<'_> {
    fn place(&mut self, index: usize) {
        let said = &self.said[index];
        let placement = match self.rulings.by_fingerprint.get(&said.fingerprint) {
            Some(Ruling::Reject) => Placement::Rejected,
            Some(Ruling::Unlink) => Placement::Review("unlinked"),
            // Decided to be the same person as one that it is itself the first statement of: that is a patient of its own.
            Some(Ruling::Link(anchor)) if *anchor == said.id => {
                let group = self.found(index);
                self.add(group, index);
                Placement::Linked(group, "decision")
            }
            Some(Ruling::NewPatient) => {
                let group = match self.decided.get(said.fingerprint.as_slice()) {
                    Some(group) => self.root(*group),
                    None => self.found(index),
                };
                self.decided.insert(&self.said[index].fingerprint, group);
                self.add(group, index);
                Placement::Linked(group, "decision")
            }
            Some(Ruling::Link(anchor)) => {
                let group = self.by_id.get(anchor).and_then(|anchor| self.placed[*anchor]?.group());
                let Some(group) = group else {
                    self.deferred.entry(*anchor).or_default().push(index);
                    return;
                };
                let group = self.root(group);
                self.add(group, index);
                Placement::Linked(group, "decision")
            }
            None => self.by_rules(index),
        };
        self.settle(index, placement);
    }

    /// Note where a statement is, and what follows from that.
    fn settle(&mut self, index: usize, placement: Placement) {
        self.placed[index] = Some(placement);
        if placement.group().is_none() {
            return;
        }
        for (goes, stays) in &self.rulings.merges {
            let (Some(goes), Some(stays)) = (self.by_id.get(goes), self.by_id.get(stays)) else { continue };
            if let Some((goes, stays)) = self.apart(*goes, *stays) {
                self.unite(goes, stays, false);
            }
        }
        for link in 0..self.links.len() {
            let (goes, stays) = self.links[link];
            let Some((group, into)) = self.apart(goes, stays) else { continue };
            if self.contradict(group, into) {
                self.contradicted_links.insert(goes, stays);
            } else {
                self.unite(group, into, true);
            }
        }
        for waiting in self.deferred.remove(&self.said[index].id).unwrap_or_default() {
            self.place(waiting);
        }
    }

    /// The groups of two statements, if both have one and it is not the same.
    fn apart(&self, one: usize, other: usize) -> Option<(usize, usize)> {
        let group = |index: usize| Some(self.root(self.placed[index]?.group()?));
        let (one, other) = (group(one)?, group(other)?);
        (one != other).then_some((one, other))
    }

    fn by_rules(&mut self, index: usize) -> Placement {
        let said = &self.said[index];
        let by_number: BTreeSet<usize> =
            said.numbers.iter().filter_map(|mrn| self.holders.get(mrn)).map(|group| self.root(*group)).collect();
        let by_identity: BTreeSet<usize> = said
            .identity
            .iter()
            .filter_map(|key| self.identities.get(key))
            .flatten()
            .map(|group| self.root(*group))
            .collect();
        // An id that means several patients (a person said so) decides nothing where a number does.
        let found: BTreeSet<usize> = match by_number.first() {
            Some(group) if by_number.len() == 1 && by_identity.contains(group) => by_number.clone(),
            _ => by_number.union(&by_identity).copied().collect(),
        };
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (None, _) if said.numbers.is_empty() && said.identity.is_none() => Placement::Pending,
            (None, _) => {
                if let Some(reason) = self.renounced_claim(index) {
                    return Placement::Review(reason);
                }
                let group = self.found(index);
                self.add(group, index);
                Placement::Linked(group, "new_patient")
            }
            (Some(group), None) => match self.fitting_facet(group, index) {
                Ok(facet) => {
                    self.join(group, facet, index);
                    Placement::Linked(group, if by_number.is_empty() { "same_resource" } else { "mrn_exact" })
                }
                Err(reason) => Placement::Review(reason),
            },
            _ => Placement::Review("several_patients"),
        }
    }

    /// Why this statement contradicts an earlier one with the same number or id that a person took away: whoever speaks of
    /// them was the other one, so nobody inherits them without being asked about.
    fn renounced_claim(&self, index: usize) -> Option<&'static str> {
        let said = &self.said[index];
        self.renounced.iter().map(|other| &self.said[*other]).find_map(|other| {
            let is_earlier = (other.place, &other.fingerprint, other.id) < (said.place, &said.fingerprint, said.id);
            let shares = !other.numbers.is_disjoint(&said.numbers)
                || (other.identity.is_some() && other.identity == said.identity);
            (is_earlier && shares).then(|| other.person.contradiction(&said.person)).flatten()
        })
    }

    /// The first facet that this statement does not contradict, or why it contradicts the first of them.
    fn fitting_facet(&self, group: usize, index: usize) -> Result<usize, &'static str> {
        let mut reason = None;
        for (position, facet) in self.groups[group].facets.iter().enumerate() {
            match self.objection(facet, index) {
                None => return Ok(position),
                Some(objection) => reason = reason.or(Some(objection)),
            }
        }
        Err(reason.unwrap_or("several_patients"))
    }

    fn objection(&self, facet: &Facet, index: usize) -> Option<&'static str> {
        let said = &self.said[index];
        let demographics =
            facet.members.iter().find_map(|member| self.said[*member].person.contradiction(&said.person));
        demographics.or_else(|| {
            // Both have numbers of a system, and none in common: renumbered or reused.
            let differs = |mrn: &Mrn| {
                let mut of_system = facet.numbers.iter().filter(|other| other.system == mrn.system).peekable();
                let shares = |other: &Mrn| said.numbers.contains(other);
                of_system.peek().is_some() && !of_system.any(shares)
            };
            said.numbers.iter().any(differs).then_some("mrn_changed")
        })
    }

    /// Do any statements of these two groups contradict each other?
    fn contradict(&self, one: usize, other: usize) -> bool {
        let members = |group: usize| self.groups[group].facets.iter().flat_map(|facet| &facet.members);
        members(one)
            .any(|a| members(other).any(|b| self.said[*a].person.contradiction(&self.said[*b].person).is_some()))
    }

    fn found(&mut self, index: usize) -> usize {
        self.groups.push(Group { facets: Vec::new(), lead: index, into: None });
        self.groups.len() - 1
    }

    /// Put a statement beside what rules joined: into the facet that says the same, or one of its own.
    fn add(&mut self, group: usize, index: usize) {
        let fingerprint = &self.said[index].fingerprint;
        let same = |facet: &Facet| facet.members.iter().any(|member| self.said[*member].fingerprint == *fingerprint);
        let facet = self.groups[group].facets.iter().position(same).unwrap_or_else(|| {
            self.groups[group].facets.push(Facet::default());
            self.groups[group].facets.len() - 1
        });
        self.join(group, facet, index);
    }

    fn join(&mut self, group: usize, facet: usize, index: usize) {
        let said = &self.said[index];
        let facet = &mut self.groups[group].facets[facet];
        facet.members.push(index);
        facet.numbers.extend(said.numbers.iter().cloned());
        for mrn in &said.numbers {
            self.holders.entry(mrn.clone()).or_insert(group);
        }
        if let Some(identity) = &said.identity {
            self.identities.entry(identity.clone()).or_default().insert(group);
        }
    }

    /// One patient from now on. What the source said to be one is one facet; what a person said stays beside.
    fn unite(&mut self, goes: usize, stays: usize, one_facet: bool) {
        let facets = std::mem::take(&mut self.groups[goes].facets);
        self.groups[goes].into = Some(stays);
        let into = &mut self.groups[stays].facets;
        if one_facet && let Some(first) = into.first_mut() {
            for facet in facets {
                first.members.extend(facet.members);
                first.numbers.extend(facet.numbers);
            }
        } else {
            into.extend(facets);
        }
    }

    fn root(&self, mut group: usize) -> usize {
        while let Some(into) = self.groups[group].into {
            group = into;
        }
        group
    }

    fn finish(self) -> Folded {
        // Without gaps: only groups that are not part of another.
        let mut numbers = HashMap::new();
        let mut leads = Vec::new();
        for (group, content) in self.groups.iter().enumerate().filter(|(_, content)| content.into.is_none()) {
            numbers.insert(group, leads.len());
            leads.push(content.lead);
        }
        let number = |group: usize| numbers.get(&self.root(group)).copied().unwrap_or_default();
        let placements: Vec<Placement> = self
            .placed
            .iter()
            .map(|placement| match placement {
                Some(Placement::Linked(group, method)) => Placement::Linked(number(*group), method),
                Some(other) => *other,
                None => Placement::Review("decided_patient_in_review"),
            })
            .collect();
        let mut candidates = BTreeMap::new();
        for (index, said) in self.said.iter().enumerate() {
            if matches!(placements[index], Placement::Review(_)) {
                let by_number = said.numbers.iter().filter_map(|mrn| self.holders.get(mrn));
                let by_identity = said.identity.iter().filter_map(|key| self.identities.get(key)).flatten();
                let groups: BTreeSet<usize> = by_number.chain(by_identity).map(|group| number(*group)).collect();
                candidates.insert(index, groups);
            }
        }
        let contradicted_links = self
            .contradicted_links
            .iter()
            .filter(|(goes, stays)| self.apart(**goes, **stays).is_some())
            .filter_map(|(goes, stays)| Some((*goes, placements[*stays].group()?)))
            .collect();
        let holders = self.holders.iter().map(|(mrn, group)| (mrn.clone(), number(*group))).collect();
        Folded { placements, leads, holders, candidates, contradicted_links }
    }
}

#[cfg(test)]
mod tests;
