//! Erasing events: afterwards versions, links, statements and counts are as if the jobs that brought them had never been there.
//!
//! What another job brought as well stays, as that one's. Statements that nobody says any more are not folded; the clusters that they
//! joined come apart, and whatever they led to is linked anew. Runs in its caller's transaction, under the locks of all subjects concerned.

use super::acts::{self, ActError, By};
use super::cluster::{Cluster, Seeds};
use super::erase_persons_store as persons_store;
use super::erase_store::{self as store, Carrier, Touched};
use super::statement::keys_fingerprint;
use crate::db::DbError;
use crate::ids::{EventId, JobId, OrganizationId, PatientId, StatementId};
use crate::ingest::events;
use crate::ingest::subject::Mrn;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use super::erase_persons_store::take_back;
pub use super::erase_store::next;

/// Rows that went, by table.
pub type Counts = BTreeMap<String, u64>;

/// A page of what jobs brought, as retention looks at it.
pub struct Page {
    /// Of these events those that may go.
    pub events: Vec<EventId>,
    /// The last job and event that were looked at; none: there is nothing behind them.
    pub after: Option<(JobId, EventId)>,
}

/// Look at what these jobs brought behind this job and event, at most at `looked_at` events, until `limit` are found that may go: all but
/// Patient resources of persons of whom anything else is kept. Who is meant by it must stay known.
///
/// # Errors
/// A [`DbError`].
pub async fn next_old(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &[JobId],
    after: Option<(JobId, EventId)>,
    (looked_at, limit): (i64, i64),
) -> Result<Page, DbError> {
    let mut jobs = jobs.to_vec();
    jobs.sort_unstable();
    let (mut events, mut left) = (BTreeSet::new(), looked_at);
    for job in jobs.into_iter().filter(|job| after.is_none_or(|(last, _)| *job >= last)) {
        let behind = after.filter(|(last, _)| *last == job).map(|(_, event)| event);
        for (event, may_go) in store::page(connection, organization, job, behind, left).await? {
            left -= 1;
            if may_go {
                events.insert(event);
            }
            if left == 0 || i64::try_from(events.len()).is_ok_and(|found| found >= limit) {
                return Ok(Page { events: events.into_iter().collect(), after: Some((job, event)) });
            }
        }
    }
    Ok(Page { events: events.into_iter().collect(), after: None })
}

/// Erase these events, as far as these jobs brought them.
///
/// # Errors
/// A [`DbError`]; a conflict means that it should be run again in a fresh transaction.
pub async fn erase_some(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &[JobId],
    events: &[EventId],
    by: &By,
    counts: &mut Counts,
) -> Result<(), DbError> {
    let seen = store::touched(connection, organization, events, false).await?;
    let others = store::carriers(connection, organization, events, jobs).await?;
    let keys = keys_of(&seen, &others);
    let statements = statements_of(&seen, &others);
    let numbers: BTreeSet<Mrn> = keys.iter().filter_map(|key| Mrn::of_key(key)).collect();
    let seeds = Seeds { named: keys.clone(), statements: statements.clone(), ..Seeds::default() };
    let mut cluster = Cluster::open(connection, organization, seeds, &numbers).await?;
    // Under the locks of the subjects, and now of the events: nobody adds to them.
    let touched = store::touched(connection, organization, events, true).await?;
    let carriers = store::carriers(connection, organization, events, jobs).await?;
    if keys_of(&touched, &carriers) != keys || statements_of(&touched, &carriers) != statements {
        return Err(DbError::stale());
    }
    let by_event: HashMap<EventId, &Carrier> = carriers.iter().map(|one| (one.event_id, one)).collect();
    let (stay, gone): (Vec<&Touched>, Vec<&Touched>) =
        touched.iter().partition(|one| by_event.contains_key(&one.id) || !jobs.contains(&one.job_id));
    let asked: Vec<Vec<u8>> = touched.iter().map(|one| keys_fingerprint(&one.all_keys())).collect();
    let gone_ids: Vec<EventId> = gone.iter().map(|one| one.id).collect();

    let moves: Vec<(&Touched, &Carrier)> =
        stay.iter().filter_map(|one| Some((*one, *by_event.get(&one.id)?))).collect();
    let elsewhere: Vec<(&Touched, &Carrier)> = moves
        .iter()
        .filter(|(from, to)| from.payload_sha256 != to.payload_sha256 || from.byte_start != to.byte_start)
        .copied()
        .collect();
    *counts.entry("finding_evidence".to_owned()).or_default() +=
        store::move_evidence(connection, organization, &elsewhere).await?;
    store::hand_over(connection, organization, &carriers).await?;
    store::hand_over_athena(connection, organization, &carriers, jobs).await?;
    store::forget_carriers(connection, organization, events, jobs).await?;
    for (table, rows) in store::delete(connection, organization, &gone_ids).await? {
        *counts.entry(table.to_owned()).or_default() += rows;
    }
    let resources: Vec<(&str, &str, &str)> = touched
        .iter()
        .map(|one| (one.source_label.as_str(), one.resource_type.as_str(), one.resource_key.as_str()))
        .collect();
    let (down, up) = store::rank(connection, organization, &resources).await?;
    events::set_current(connection, organization, &down, false).await?;
    events::set_current(connection, organization, &up, true).await?;

    let ids: Vec<StatementId> = statements.iter().copied().collect();
    let sayers = persons_store::sayers(connection, organization, &ids).await?;
    let said: BTreeSet<StatementId> = sayers.iter().map(|(statement, ..)| *statement).collect();
    // Only what is there: the subject of an event may be a statement that went in an earlier batch.
    let unsaid: BTreeSet<StatementId> = statements
        .iter()
        .filter(|id| !said.contains(id) && cluster.statements.iter().any(|one| one.said.id == **id))
        .copied()
        .collect();
    let unsaid_ids: Vec<StatementId> = unsaid.iter().copied().collect();
    let mut patients: BTreeSet<PatientId> = touched.iter().filter_map(|one| one.patient_id).collect();
    patients.extend(
        cluster
            .statements
            .iter()
            .filter(|one| unsaid.contains(&one.said.id))
            .filter_map(super::statement::Statement::patient),
    );
    cluster.forget(&unsaid);
    for (statement, event, seq, entry) in &sayers {
        cluster.move_to(*statement, (*seq, *entry), *event);
    }
    let (gone_statements, mut gone_reviews) =
        persons_store::delete_statements(connection, organization, &unsaid_ids).await?;
    persons_store::name_sayers(connection, organization, &sayers).await?;
    let mut refolded = cluster.refold(connection).await?;
    let came_apart = !refolded.changes.created.is_empty();
    refolded.affected.events.extend(moves.iter().map(|(from, _)| from.id));
    refolded.changes.touched.extend(patients.iter().copied());
    acts::finish(connection, organization, refolded, by).await.map_err(of_act)?;
    gone_reviews += persons_store::settle_reviews(connection, organization, &gone_ids, &asked).await?;
    let patients: Vec<PatientId> = patients.into_iter().collect();
    let cleared = persons_store::clear_patients(connection, organization, &patients, &gone_ids, came_apart).await?;
    persons_store::count_anew(connection, organization, &patients).await?;
    *counts.entry("patient_statements".to_owned()).or_default() += gone_statements;
    *counts.entry("reviews".to_owned()).or_default() += gone_reviews;
    *counts.entry("patients".to_owned()).or_default() += u64::try_from(cleared.len()).unwrap_or(u64::MAX);
    *counts.entry("handed_over".to_owned()).or_default() += u64::try_from(elsewhere.len()).unwrap_or(u64::MAX);
    Ok(())
}

/// The linking's own failures are the database's.
fn of_act(error: ActError) -> DbError {
    match error {
        ActError::Db(error) => error,
        _ => DbError::stale(),
    }
}

fn keys_of(touched: &[Touched], carriers: &[Carrier]) -> BTreeSet<String> {
    let of_events = touched.iter().flat_map(|one| one.keys.iter().chain(&one.subject_key));
    let of_carriers = carriers.iter().flat_map(|one| one.subject_keys.iter().chain(&one.subject_key));
    of_events.chain(of_carriers).cloned().collect()
}

fn statements_of(touched: &[Touched], carriers: &[Carrier]) -> BTreeSet<StatementId> {
    touched
        .iter()
        .filter_map(|one| one.statement_id)
        .chain(carriers.iter().filter_map(|one| one.statement_id))
        .collect()
}
