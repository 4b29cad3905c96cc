//! What a person is asked, after a fold: reviews are opened for what cannot be linked, and closed when it can.

use super::fold::{Folded, Placement};
use super::resolve::Question;
use super::reviews_store::{self as reviews, NewReview};
use super::score::{Grade, Score, score};
use super::statement::{Statement, keys_fingerprint};
use super::store;
use crate::db::DbError;
use crate::ids::{OrganizationId, PatientId, ReviewId};
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// More candidates than this are no help.
const CANDIDATES_MAX: usize = 10;

/// Bring the reviews of a cluster in line with its fold.
pub async fn ask(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statements: &[Statement],
    folded: &Folded,
    groups: &[PatientId],
) -> Result<(), DbError> {
    let mut wanted: Vec<NewReview> = Vec::new();
    let by_place = {
        let mut order: Vec<usize> = (0..statements.len()).collect();
        order.sort_by_key(|index| statements[*index].said.place);
        order
    };
    // Whom a number's value means, of all new patients at once: a chunk of a bulk file has hundreds.
    let is_new_patient = |index: &usize| {
        statements[*index].is_new && matches!(folded.placements[*index], Placement::Linked(_, "new_patient"))
    };
    let values: BTreeSet<&str> = by_place
        .iter()
        .filter(|index| is_new_patient(index))
        .flat_map(|index| statements[*index].said.numbers.iter().map(|mrn| mrn.value.as_str()))
        .collect();
    let holders = store::holders_of_values(connection, organization, &values).await?;
    for index in by_place {
        let statement = &statements[index];
        match folded.placements[index] {
            Placement::Review(reason) => {
                let patients = folded.candidates.get(&index).into_iter().flatten().map(|group| groups[*group]);
                let scored = scored(statement, statements, &patients.collect());
                wanted.push(review(statement, reason, true, &scored));
            }
            Placement::Pending if statement.is_new => {
                let scored = similar(connection, organization, statement).await?;
                if !scored.is_empty() {
                    wanted.push(review(statement, "no_identity", true, &scored));
                }
            }
            Placement::Linked(group, "new_patient") if statement.is_new => {
                let scored = duplicates(connection, organization, statement, groups[group], &holders).await?;
                if !scored.is_empty() {
                    wanted.push(review(statement, "possible_duplicate", false, &scored));
                }
            }
            _ => {}
        }
        if let Some(group) = folded.contradicted_links.get(&index) {
            let scored = scored(statement, statements, &BTreeSet::from([groups[*group]]));
            wanted.push(review(statement, "link_contradicts", false, &scored));
        }
    }
    if wanted.is_empty() && statements.iter().all(|statement| statement.is_new) {
        return Ok(());
    }
    let fingerprints: BTreeSet<&[u8]> =
        statements.iter().map(|statement| statement.said.fingerprint.as_slice()).collect();
    let stored =
        reviews::by_fingerprints(connection, organization, &fingerprints.into_iter().collect::<Vec<_>>()).await?;
    let mut asked: BTreeSet<(Vec<u8>, bool)> = BTreeSet::new();
    for review in wanted {
        if !asked.insert((review.fingerprint.clone(), review.is_blocking)) {
            continue;
        }
        // A proposal that a person declined is not made again.
        let declined = |one: &reviews::Review| {
            one.fingerprint.as_deref() == Some(&review.fingerprint)
                && one.status == "decided"
                && one.reason == review.reason
        };
        if review.is_blocking || !stored.iter().any(declined) {
            reviews::open(connection, organization, &review).await?;
        }
    }
    let moot: Vec<ReviewId> = stored
        .iter()
        .filter(|review| review.status == "open" && is_moot(review, statements, &asked))
        .map(|review| review.id)
        .collect();
    reviews::supersede(connection, organization, &moot).await
}

/// Has the question gone away?
fn is_moot(review: &reviews::Review, statements: &[Statement], asked: &BTreeSet<(Vec<u8>, bool)>) -> bool {
    let Some(fingerprint) = &review.fingerprint else { return false };
    if asked.contains(&(fingerprint.clone(), review.is_blocking)) {
        return false;
    }
    let same: Vec<&Statement> =
        statements.iter().filter(|statement| statement.said.fingerprint == *fingerprint).collect();
    match review.reason.as_str() {
        // Nobody answered, and it is still nobody's.
        "no_identity" => same.iter().all(|statement| statement.patient().is_some()),
        "possible_duplicate" => {
            let own: BTreeSet<PatientId> = same.iter().filter_map(|statement| statement.patient()).collect();
            // Who is nobody any more is nobody's duplicate; whose it is, is a question of its own.
            own.is_empty() || candidates_of(&review.candidates).iter().all(|candidate| own.contains(candidate))
        }
        _ => true,
    }
}

/// The patients of stored candidates.
pub fn candidates_of(candidates: &Value) -> Vec<PatientId> {
    let list = candidates.as_array().into_iter().flatten();
    list.filter_map(|candidate| candidate.get("patient")?.as_str()?.parse().ok()).collect()
}

/// Ask about events whose keys mean several patients: once for each set of keys.
pub async fn ask_about_events(
    connection: &mut PgConnection,
    organization: OrganizationId,
    questions: &[Question],
) -> Result<(), DbError> {
    let mut asked: BTreeSet<&BTreeSet<String>> = BTreeSet::new();
    for question in questions {
        let Some(event) = question.event.filter(|_| asked.insert(&question.keys)) else { continue };
        // Each has a key of its own: nothing to compare.
        let candidates: Vec<Value> = question.candidates.iter().map(|patient| json!({ "patient": patient })).collect();
        let review = NewReview {
            reason: question.reason,
            is_blocking: true,
            event,
            fingerprint: keys_fingerprint(&question.keys),
            statement: None,
            subject_keys: Some(question.keys.iter().cloned().collect()),
            candidates: Value::from(candidates),
        };
        reviews::open(connection, organization, &review).await?;
    }
    Ok(())
}

fn review(statement: &Statement, reason: &'static str, is_blocking: bool, scored: &[(PatientId, Score)]) -> NewReview {
    let candidates: Vec<Value> = scored
        .iter()
        .take(CANDIDATES_MAX)
        .map(|(patient, score)| {
            json!({"patient": patient, "score": score.probability, "grade": score.grade, "reasons": score.reasons})
        })
        .collect();
    NewReview {
        reason,
        is_blocking,
        event: statement.event,
        fingerprint: statement.said.fingerprint.clone(),
        statement: Some(statement.said.id),
        subject_keys: None,
        candidates: Value::from(candidates),
    }
}

/// The best score of each of these patients, by what their statements say; the likeliest first.
fn scored(statement: &Statement, others: &[Statement], patients: &BTreeSet<PatientId>) -> Vec<(PatientId, Score)> {
    let mut best: BTreeMap<PatientId, Score> = BTreeMap::new();
    for other in others.iter().filter(|other| other.said.id != statement.said.id) {
        let Some(patient) = other.patient().filter(|patient| patients.contains(patient)) else { continue };
        let score = score(statement, other);
        if best.get(&patient).is_none_or(|known| (score.grade, score.probability) > (known.grade, known.probability)) {
            best.insert(patient, score);
        }
    }
    let mut scored: Vec<(PatientId, Score)> = best.into_iter().collect();
    scored.sort_by(|(_, one), (_, other)| {
        other.grade.cmp(&one.grade).then(other.probability.total_cmp(&one.probability))
    });
    scored
}

/// Whom a Patient with neither number nor id resembles.
async fn similar(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statement: &Statement,
) -> Result<Vec<(PatientId, Score)>, DbError> {
    let Some(birth_date) = &statement.said.person.birth_date else { return Ok(Vec::new()) };
    let others = store::by_birth_date(connection, organization, birth_date).await?;
    let patients = others.iter().filter_map(Statement::patient).collect();
    let mut scored = scored(statement, &others, &patients);
    scored.retain(|(_, score)| score.grade >= Grade::Possible);
    Ok(scored)
}

/// Who has the same number in another system, and resembles this new patient.
async fn duplicates(
    connection: &mut PgConnection,
    organization: OrganizationId,
    statement: &Statement,
    own: PatientId,
    holders: &HashMap<String, BTreeSet<PatientId>>,
) -> Result<Vec<(PatientId, Score)>, DbError> {
    let of_number = statement.said.numbers.iter().filter_map(|mrn| holders.get(&mrn.value));
    let mut patients: BTreeSet<PatientId> = of_number.flatten().copied().collect();
    patients.remove(&own);
    let ids: Vec<PatientId> = patients.iter().copied().collect();
    let others = store::of_patients(connection, organization, &ids).await?;
    let mut scored = scored(statement, &others, &patients);
    scored.retain(|(_, score)| score.grade >= Grade::Probable);
    Ok(scored)
}
