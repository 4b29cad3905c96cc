//! What persons do about links: decide a review, merge and unmerge patients, unlink and link an event.
//!
//! Each act runs in its caller's transaction: the decision is appended, the clusters concerned are folded again with it,
//! everything that depends on them is linked anew, and all of it is audited.

use super::cluster::{Cluster, Refolded, Seeds};
use super::decisions_store::{self, NewDecision};
use super::dependents_store::{self as dependents, Dependent};
use super::fold::Ruling;
use super::questions::candidates_of;
use super::reviews_store::{self as reviews, Review};
use super::statement::Statement;
use super::store;
use crate::audit::{self, Action, Actor, Record};
use crate::db::DbError;
use crate::ids::{EventId, OrganizationId, PatientId, ReviewId, StatementId};
use crate::ingest::athena;
use crate::ingest::events::{self, LinkStatus};
use crate::ingest::patients::{self, Decision, LINK_RULE_VERSION};
use crate::ingest::subject::{self, Mrn};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Why an act was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The organization has no such review.
    #[error("no such review")]
    ReviewNotFound,
    /// It was decided otherwise, or its question went away.
    #[error("the review is closed")]
    ReviewDecided,
    /// The organization has no such patient, or no Patient resource speaks of it any more.
    #[error("no such patient")]
    PatientNotFound,
    /// The organization has no such event.
    #[error("no such event")]
    EventNotFound,
    /// The patient was merged into another one already, or into none.
    #[error("the merge does not fit")]
    MergeConflict,
    /// The act makes no sense here; the text says why.
    #[error("{0}")]
    NotPossible(&'static str),
    /// See there.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// How a review is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is this patient.
    Link,
    /// It is a patient of its own.
    NewPatient,
    /// It is nobody's.
    Reject,
}

/// Who acts, and why.
#[derive(Clone)]
pub struct By {
    /// For audit records.
    pub actor: Actor,
    /// For audit records.
    pub reason: String,
}

/// What an act did.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// Whose it is now.
    #[schema(value_type = Option<String>)]
    pub patient: Option<PatientId>,
    /// Events that are somewhere else than before.
    pub relinked: usize,
}

/// A patient by a statement: that is what decisions are tied to. Until the locks are there any statement of the patient, only
/// to find its cluster; then the patient's own ([`led`]).
struct Anchor {
    patient: PatientId,
    statement: StatementId,
}

async fn anchor(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patient: PatientId,
) -> Result<Anchor, ActError> {
    let patient = patients::survivor(connection, organization, patient).await?.ok_or(ActError::PatientNotFound)?;
    let statements = store::of_patients(connection, organization, &[patient]).await?;
    let Some(first) = statements.first() else {
        // Merged between the two look-ups, or there is nothing that speaks of it.
        let now = patients::survivor(connection, organization, patient).await?;
        return Err(if now == Some(patient) { ActError::PatientNotFound } else { raced() });
    };
    Ok(Anchor { patient, statement: first.said.id })
}

/// Under the locks: the patient by a statement of its own. One that a merge brought along would take the decision with it
/// when the merge is taken back.
fn led(cluster: &Cluster, anchor: &Anchor) -> Result<Anchor, ActError> {
    let statement = cluster.lead_of(anchor.patient).ok_or_else(raced)?;
    Ok(Anchor { patient: anchor.patient, statement })
}

/// What was looked up before the locks is not so any more: the act is run again.
fn raced() -> ActError {
    DbError::stale().into()
}

/// Lock and load; what was looked up before the locks must still be so.
async fn open(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statements: &[StatementId],
    named: BTreeSet<String>,
    anchors: &[&Anchor],
) -> Result<Cluster, ActError> {
    let mut seeds = Seeds { named, ..Seeds::default() };
    seeds.statements.extend(statements.iter().copied());
    seeds.statements.extend(anchors.iter().map(|anchor| anchor.statement));
    let cluster = Cluster::open(connection, organization, seeds, &BTreeSet::new()).await?;
    for anchor in anchors {
        let found = cluster.statements.iter().find(|statement| statement.said.id == anchor.statement);
        if found.and_then(Statement::patient) != Some(anchor.patient) {
            return Err(raced());
        }
    }
    Ok(cluster)
}

/// Link anew what depends on it, and write history and audit.
pub(super) async fn finish(
    connection: &mut PgConnection,
    organization: OrganizationId,
    mut refolded: Refolded,
    by: &By,
) -> Result<usize, ActError> {
    let decisions = refolded.finish(connection, &HashSet::new()).await?;
    record(connection, organization, &decisions, by).await?;
    Ok(decisions.len())
}

async fn record(
    connection: &mut PgConnection,
    organization: OrganizationId,
    decisions: &[Decision],
    by: &By,
) -> Result<(), DbError> {
    patients::record_links(connection, organization, &by.actor.name, decisions).await?;
    let mut linked: BTreeMap<PatientId, usize> = BTreeMap::new();
    for patient in decisions.iter().filter_map(|decision| decision.status.patient()) {
        *linked.entry(patient).or_default() += 1;
    }
    for (patient, events) in linked {
        let mut record = Record::new(organization, "patient.linked", Action::Update, &by.actor);
        record.patient = Some(patient);
        record.detail = Some(json!({"events": events, "rule_version": LINK_RULE_VERSION}));
        audit::append(connection, record).await?;
    }
    Ok(())
}

async fn record_act(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: &str,
    by: &By,
    resource: &str,
    patient: Option<PatientId>,
    detail: Value,
) -> Result<(), DbError> {
    let mut record = Record::new(organization, event, Action::Update, &by.actor);
    record.resource = Some(resource);
    record.patient = patient;
    record.purpose = Some(&by.reason);
    record.detail = Some(detail);
    audit::append(connection, record).await
}

/// Decide a review. The same answer again is answered as the first time.
///
/// # Errors
/// [`ActError`].
pub async fn decide(
    connection: &mut PgConnection,
    organization: OrganizationId,
    review: ReviewId,
    answer: Answer,
    patient: Option<PatientId>,
    by: &By,
) -> Result<Review, ActError> {
    let seen = reviews::find(connection, organization, review, false).await?.ok_or(ActError::ReviewNotFound)?;
    let decision = json!({ "decision": answer, "patient": patient });
    let closed = |review: &Review| match (review.status.as_str(), &review.decision) {
        ("open", _) => None,
        ("decided", Some(stored)) if *stored == decision => Some(Ok(())),
        _ => Some(Err(ActError::ReviewDecided)),
    };
    if let Some(answer) = closed(&seen) {
        return answer.map(|()| seen);
    }
    let anchor = match (answer, patient) {
        (Answer::Link, Some(patient)) => Some(anchor(connection, organization, patient).await?),
        (Answer::Link, None) => return Err(ActError::NotPossible("`link` needs the patient.")),
        (_, Some(_)) => return Err(ActError::NotPossible("Only `link` takes a patient.")),
        _ => None,
    };
    if seen.statement_id.is_none() && answer == Answer::NewPatient {
        return Err(ActError::NotPossible(
            "Only a Patient resource can be a new patient; choose a patient, or reject.",
        ));
    }
    if let (Some(anchor), false) = (&anchor, seen.is_blocking) {
        check_proposed(connection, organization, &seen, anchor.patient).await?;
    }
    let own = match seen.statement_id {
        Some(statement) => store::by_ids(connection, organization, &[statement]).await?.pop(),
        None => None,
    };
    // A proposal about a patient that is linked already: to accept it is to merge.
    let duplicate = match own.as_ref().and_then(Statement::patient).filter(|_| !seen.is_blocking) {
        Some(own) if answer == Answer::Link => Some(self::anchor(connection, organization, own).await?),
        _ => None,
    };
    let anchors: Vec<&Anchor> = anchor.iter().chain(&duplicate).collect();
    let named: BTreeSet<String> = seen.subject_keys.clone().unwrap_or_default().into_iter().collect();
    let statements: Vec<StatementId> = seen.statement_id.into_iter().collect();
    let mut cluster = open(connection, organization, &statements, named, &anchors).await?;
    let anchor = anchor.map(|anchor| led(&cluster, &anchor)).transpose()?;
    let stored = cluster.statements.iter().find(|one| Some(one.said.id) == seen.statement_id);
    if stored.and_then(Statement::patient) != own.as_ref().and_then(Statement::patient) {
        return Err(raced());
    }
    let duplicate = duplicate.map(|anchor| led(&cluster, &anchor)).transpose()?;
    // Under the locks now: somebody may have been faster.
    let seen = reviews::find(connection, organization, review, true).await?.ok_or(ActError::ReviewNotFound)?;
    if let Some(answer) = closed(&seen) {
        return answer.map(|()| seen);
    }
    if answer == Answer::Link && !seen.is_blocking && duplicate.is_none() {
        return Err(ActError::NotPossible(
            "Its Patient resource is nobody's now, so that there is nothing to merge; link its event to the patient.",
        ));
    }
    reviews::decide(connection, organization, review, &decision, &by.actor.name).await?;
    let mut row = NewDecision {
        fingerprint: seen.fingerprint.clone(),
        statement: seen.statement_id,
        anchor: anchor.as_ref().map(|anchor| anchor.statement),
        patient: anchor.as_ref().map(|anchor| anchor.patient),
        review: Some(review),
        ..NewDecision::default()
    };
    match (&duplicate, &anchor) {
        (Some(goes), Some(stays)) => {
            if goes.patient != stays.patient {
                merge_in(connection, organization, &mut cluster, goes, stays, Some(review), by).await?;
            }
        }
        _ if !seen.is_blocking => {}
        _ => {
            let (kind, ruling) = match (answer, &anchor) {
                (Answer::Link, Some(anchor)) => ("link", Ruling::Link(anchor.statement)),
                (Answer::NewPatient, _) => ("new_patient", Ruling::NewPatient),
                _ => ("reject", Ruling::Reject),
            };
            row.kind = kind;
            decisions_store::record_decision(connection, organization, &by.actor.name, &row).await?;
            if let Some(fingerprint) = seen.fingerprint.clone().filter(|_| seen.statement_id.is_some()) {
                cluster.rulings.by_fingerprint.insert(fingerprint, ruling);
            }
        }
    }
    let mut refolded = cluster.refold(connection).await?;
    refolded.affected.keys.extend(seen.subject_keys.clone().unwrap_or_default());
    let whose = match seen.statement_id {
        Some(id) => refolded.statements.iter().find(|one| one.said.id == id).and_then(Statement::patient),
        None => anchor.as_ref().map(|anchor| anchor.patient),
    };
    let relinked = finish(connection, organization, refolded, by).await?;
    reviews::set_patient(connection, organization, review, whose).await?;
    let detail = json!({"decision": answer, "reason_asked": seen.reason, "events": relinked});
    record_act(connection, organization, "review.decided", by, &review.to_string(), whose, detail).await?;
    reviews::find(connection, organization, review, false).await?.ok_or(ActError::ReviewNotFound)
}

/// A proposal is accepted or declined; whoever wants to merge other patients does that.
async fn check_proposed(
    connection: &mut PgConnection,
    organization: OrganizationId,
    review: &Review,
    patient: PatientId,
) -> Result<(), ActError> {
    for candidate in candidates_of(&review.candidates) {
        if patients::survivor(connection, organization, candidate).await? == Some(patient) {
            return Ok(());
        }
    }
    Err(ActError::NotPossible("The patient is not a candidate of this review."))
}

async fn merge_in(
    connection: &mut PgConnection,
    organization: OrganizationId,
    cluster: &mut Cluster,
    goes: &Anchor,
    stays: &Anchor,
    review: Option<ReviewId>,
    by: &By,
) -> Result<(), ActError> {
    let row = NewDecision {
        kind: "merge",
        statement: Some(goes.statement),
        anchor: Some(stays.statement),
        patient: Some(goes.patient),
        into: Some(stays.patient),
        review,
        ..NewDecision::default()
    };
    decisions_store::record_decision(connection, organization, &by.actor.name, &row).await?;
    cluster.rulings.merges.push((goes.statement, stays.statement));
    cluster.pins.extend([(goes.statement, goes.patient), (stays.statement, stays.patient)]);
    Ok(())
}

/// Join a patient into another one. Again, the same is answered as the first time.
///
/// # Errors
/// [`ActError`].
pub async fn merge(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patient: PatientId,
    into: PatientId,
    by: &By,
) -> Result<Done, ActError> {
    if patient == into {
        return Err(ActError::NotPossible("`into` must be another patient."));
    }
    let stays = anchor(connection, organization, into).await?;
    let current = patients::survivor(connection, organization, patient).await?.ok_or(ActError::PatientNotFound)?;
    if current == stays.patient {
        // Done already; or the other way round, which is another wish.
        let is_done = patient != current;
        return if is_done { Ok(Done { patient: Some(current), relinked: 0 }) } else { Err(ActError::MergeConflict) };
    }
    if current != patient {
        return Err(ActError::MergeConflict);
    }
    let goes = anchor(connection, organization, patient).await?;
    let mut cluster = open(connection, organization, &[], BTreeSet::new(), &[&goes, &stays]).await?;
    // Under the locks now: somebody may have merged one of them between the look-ups.
    if goes.patient != patient || goes.patient == stays.patient {
        return Err(raced());
    }
    let (goes, stays) = (led(&cluster, &goes)?, led(&cluster, &stays)?);
    merge_in(connection, organization, &mut cluster, &goes, &stays, None, by).await?;
    let refolded = cluster.refold(connection).await?;
    let relinked = finish(connection, organization, refolded, by).await?;
    let detail = json!({"into": stays.patient, "events": relinked});
    record_act(connection, organization, "patient.merged", by, &patient.to_string(), Some(patient), detail).await?;
    Ok(Done { patient: Some(stays.patient), relinked })
}

/// Take the merge of a patient back: it has its own statements, numbers and events again.
///
/// # Errors
/// [`ActError`].
pub async fn unmerge(
    connection: &mut PgConnection,
    organization: OrganizationId,
    patient: PatientId,
    by: &By,
) -> Result<Done, ActError> {
    patients::survivor(connection, organization, patient).await?.ok_or(ActError::PatientNotFound)?;
    let found = decisions_store::active_merge(connection, organization, patient).await?;
    let (merge, goes, stays) = found.ok_or(ActError::MergeConflict)?;
    let mut cluster = open(connection, organization, &[goes, stays], BTreeSet::new(), &[]).await?;
    // Under the locks now: somebody may have been faster.
    let again = decisions_store::active_merge(connection, organization, patient).await?;
    if again.map(|(merge, _, _)| merge) != Some(merge) {
        return Err(ActError::MergeConflict);
    }
    let row = NewDecision {
        kind: "unmerge",
        statement: Some(goes),
        anchor: Some(stays),
        patient: Some(patient),
        supersedes: Some(merge),
        ..NewDecision::default()
    };
    decisions_store::record_decision(connection, organization, &by.actor.name, &row).await?;
    cluster.rulings.merges.retain(|merge| *merge != (goes, stays));
    let refolded = cluster.refold(connection).await?;
    let mut relinked = finish(connection, organization, refolded, by).await?;
    // What a person had given to this patient went along with the merge, and comes back with it.
    let given = decisions_store::events_given(connection, organization, patient).await?;
    let moves: Vec<_> = given.iter().map(|event| (*event, LinkStatus::Linked(patient), true)).collect();
    dependents::relink(connection, organization, &moves).await?;
    let decisions: Vec<Decision> = given
        .into_iter()
        .map(|event| Decision { event, status: LinkStatus::Linked(patient), method: "decision" })
        .collect();
    record(connection, organization, &decisions, by).await?;
    relinked += decisions.len();
    // What was answered by this merge is a question again.
    if let Some(review) = reviews::review_of(connection, organization, merge).await? {
        reviews::ask_again(connection, organization, review).await?;
    }
    let detail = json!({ "events": relinked });
    record_act(connection, organization, "patient.unmerged", by, &patient.to_string(), Some(patient), detail).await?;
    Ok(Done { patient: Some(patient), relinked })
}

/// Give an event to a patient, or with none take it from the one that it has. All versions of its resource go along, and
/// rules do not change it any more. A Patient resource: its statement is decided about.
///
/// # Errors
/// [`ActError`].
pub async fn place_event(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: EventId,
    patient: Option<PatientId>,
    by: &By,
) -> Result<Done, ActError> {
    let found = dependents::event(connection, organization, event).await?.ok_or(ActError::EventNotFound)?;
    let is_person = found.statement_id.is_some() && found.resource_type == "Patient";
    let anchor = match patient {
        None => None,
        Some(patient) => match anchor(connection, organization, patient).await {
            // Nothing speaks of that patient: then this may be what was taken from it.
            Err(ActError::PatientNotFound) if is_person => None,
            other => Some(other?),
        },
    };
    let act = if patient.is_some() { "event.linked" } else { "event.unlinked" };
    let anchors: Vec<&Anchor> = anchor.iter().collect();
    let mut named: BTreeSet<String> = found.keys.iter().cloned().collect();
    named.extend(found.subject_key.clone());
    let statements: Vec<StatementId> = found.statement_id.into_iter().collect();
    let cluster = open(connection, organization, &statements, named, &anchors).await?;
    let anchor = anchor.map(|anchor| led(&cluster, &anchor)).transpose()?;
    let whose = anchor.as_ref().map(|anchor| anchor.patient).or(patient);
    let relinked = if let Some(statement) = found.statement_id.filter(|_| is_person) {
        let ruling = match (&anchor, patient) {
            (Some(anchor), _) => Ruling::Link(anchor.statement),
            (None, Some(patient)) => {
                let index = cluster.statements.iter().position(|one| one.said.id == statement);
                let former = index.and_then(|index| cluster.former_patient(index));
                let is_free = cluster.statements.iter().all(|one| one.patient() != Some(patient));
                if former != Some(patient) || !is_free {
                    return Err(ActError::PatientNotFound);
                }
                Ruling::NewPatient
            }
            (None, None) => Ruling::Unlink,
        };
        place_statement(connection, organization, cluster, statement, ruling, whose, by).await?
    } else {
        place_versions(connection, organization, &found, anchor.as_ref(), by).await?
    };
    record_act(
        connection,
        organization,
        act,
        by,
        &event.to_string(),
        whose.or(found.patient_id),
        json!({ "events": relinked }),
    )
    .await?;
    Ok(Done { patient: whose, relinked })
}

async fn place_statement(
    connection: &mut PgConnection,
    organization: OrganizationId,
    mut cluster: Cluster,
    statement: StatementId,
    ruling: Ruling,
    whose: Option<PatientId>,
    by: &By,
) -> Result<usize, ActError> {
    let found = cluster.statements.iter().find(|one| one.said.id == statement).ok_or(ActError::EventNotFound)?;
    if ruling == Ruling::Link(statement) {
        return Ok(0);
    }
    let fingerprint = found.said.fingerprint.clone();
    if cluster.rulings.by_fingerprint.get(&fingerprint) == Some(&ruling) {
        return Ok(0);
    }
    let row = NewDecision {
        kind: match ruling {
            Ruling::Link(_) => "link",
            Ruling::NewPatient => "new_patient",
            Ruling::Reject => "reject",
            Ruling::Unlink => "unlink",
        },
        fingerprint: Some(fingerprint.clone()),
        statement: Some(statement),
        anchor: if let Ruling::Link(anchor) = ruling { Some(anchor) } else { None },
        // Of an unlink: whom it was taken from.
        patient: whose.or(found.patient()),
        event: Some(found.event),
        ..NewDecision::default()
    };
    decisions_store::record_decision(connection, organization, &by.actor.name, &row).await?;
    cluster.rulings.by_fingerprint.insert(fingerprint, ruling);
    let refolded = cluster.refold(connection).await?;
    finish(connection, organization, refolded, by).await
}

async fn place_versions(
    connection: &mut PgConnection,
    organization: OrganizationId,
    found: &Dependent,
    anchor: Option<&Anchor>,
    by: &By,
) -> Result<usize, ActError> {
    let status = anchor.map_or(LinkStatus::None, |anchor| LinkStatus::Linked(anchor.patient));
    let versions = store::versions_of(connection, organization, found.id).await?;
    let stored: HashMap<EventId, (bool, LinkStatus)> = versions
        .into_iter()
        .map(|(id, is_pinned, word, patient)| (id, (is_pinned, LinkStatus::stored(&word, patient))))
        .collect();
    let mut moved: Vec<EventId> =
        stored.into_iter().filter(|(_, before)| *before != (true, status)).map(|(id, _)| id).collect();
    moved.sort_unstable();
    // What a person says is kept also where it changes nothing now: it counts when a merge is taken back.
    let kind = if anchor.is_some() { "event_link" } else { "event_unlink" };
    let last = decisions_store::last_placed(connection, organization, found.id).await?;
    let whom = anchor.map(|anchor| anchor.patient);
    let is_said = last.is_some_and(|(last, patient)| last == kind && (whom.is_none() || patient == whom));
    let mut said = moved.clone();
    if said.is_empty() && !is_said {
        said.push(found.id);
    }
    for event in &said {
        let row =
            NewDecision { kind, patient: whom.or(found.patient_id), event: Some(*event), ..NewDecision::default() };
        decisions_store::record_decision(connection, organization, &by.actor.name, &row).await?;
    }
    if moved.is_empty() {
        return Ok(0);
    }
    let placed: Vec<_> = moved.iter().map(|event| (*event, status, true)).collect();
    dependents::relink(connection, organization, &placed).await?;
    if found.resource_type == athena::parts::EVENT {
        place_parts(connection, organization, found, whom).await?;
    }
    let decisions: Vec<Decision> =
        moved.iter().map(|event| Decision { event: *event, status, method: "decision" }).collect();
    record(connection, organization, &decisions, by).await?;
    Ok(decisions.len())
}

/// What an Athena event says is a version of what other events of its number say only as long as it is with the patient who has that
/// number.
async fn place_parts(
    connection: &mut PgConnection,
    organization: OrganizationId,
    event: &Dependent,
    whom: Option<PatientId>,
) -> Result<(), DbError> {
    let number = event.subject_key.as_deref().and_then(Mrn::of_key);
    let holders = patients::by_mrn(connection, organization, &number.clone().into_iter().collect()).await?;
    let is_home = whom.is_some() && number.as_ref().and_then(|number| holders.get(number).copied()) == whom;
    let shared = number.filter(|_| is_home).map(|number| subject::encode(&number.key()));
    events::rekey_parts(connection, organization, event.id, shared.as_deref()).await
}

/// The patients that a review names: those of whom somebody reads when they look at it.
#[must_use]
pub fn patients_of(review: &Review) -> Vec<PatientId> {
    let mut patients = candidates_of(&review.candidates);
    patients.extend(review.patient_id);
    patients.sort_unstable();
    patients.dedup();
    patients
}
