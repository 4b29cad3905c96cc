//! The loop that works on operations, in every process with the sweeper role: piece by piece, each in a transaction of its own
//! under the lock of the operation's row (docs/bulk-operations.md). What a transaction did not commit is done by whoever comes next.

use super::results_store;
use super::store::{self, Handled, IfHeld, OperationRow, Place};
use super::targets_store::{self, Mark, Planned, Target};
use super::{BulkRequest, OperationError, OperationKind, Operations, RetryVersion, TARGETS_MAX};
use crate::audit::{self, Action, Actor, Record};
use crate::db::{DbError, Scope};
use crate::engine::definition::WorkflowDefinition;
use crate::engine::jobs_store::{self, Acted};
use crate::engine::operations::plan::{PlanFault, next_round};
use crate::ids::{JobId, OperationId, OrganizationId};
use serde_json::json;
use sqlx::PgConnection;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks at what is due, at most.
const POLL: Duration = Duration::from_millis(500);
/// Operations that are worked on in turns.
const AT_ONCE: i64 = 16;
/// Jobs selected in one transaction.
const SELECT_MAX: i64 = 2_000;
/// Jobs acted on in one transaction: it holds the locks of their lanes, and intake waits for those.
const ACT_MAX: i64 = 25;
/// Targets whose results are looked for in one transaction.
const LOOK_MAX: i64 = 500;
/// Pause between two looks for results.
const LOOK_EVERY_SECONDS: f64 = 0.5;
/// The longest pause, of an operation that ended long ago.
const LOOK_EVERY_SECONDS_MAX: f64 = 60.0;
/// While another sweeper holds all that is due.
const YIELD: Duration = Duration::from_millis(20);
/// After a batch that failed.
const RETRY_SECONDS: f64 = 2.0;

/// Work until cancelled. Any number of processes may.
pub async fn run(operations: Operations, stop: CancellationToken) {
    let mut pause = POLL;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = match operations.work().await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(error = ?error, "bulk operations cannot be worked on");
                POLL
            }
        };
    }
}

impl Operations {
    /// One piece of each operation that is due; how long nothing will be, at most a second (`POLL`).
    ///
    /// # Errors
    /// The database's, when what is due cannot be read.
    pub async fn work(&self) -> Result<Duration, DbError> {
        let due = self.db.unit::<_, DbError, _>(Scope::Platform, |connection| {
            Box::pin(async move { store::due(connection, AT_ONCE).await })
        });
        let mut pause = POLL;
        for due in due.await? {
            if due.wait > 0.0 {
                pause = pause.min(Duration::from_secs_f64(due.wait));
                continue;
            }
            let (home, id) = (due.organization_id, due.id);
            let turn = self.turn(home, id).await;
            pause = pause.min(if matches!(turn, Ok(true)) { Duration::ZERO } else { YIELD });
            if let Err(error) = turn {
                tracing::warn!(operation.id = %id, error = ?error, "a piece of operation {id} failed; it is tried again");
                let put_off = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
                    Box::pin(async move { store::put_off(connection, home, id, Some(RETRY_SECONDS)).await })
                });
                put_off.await?;
            }
        }
        Ok(pause)
    }

    /// One piece of one operation; false: there was none to be done, or another sweeper is at it.
    async fn turn(&self, home: OrganizationId, id: OperationId) -> Result<bool, OperationError> {
        let read = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move { store::find(connection, home, id).await })
        });
        let Some(row) = read.await? else { return Ok(false) };
        let request: BulkRequest = serde_json::from_value(row.request.clone())
            .map_err(|_| OperationError::Invalid("a stored request cannot be read".to_owned()))?;
        let done = match row.status.as_str() {
            "undoing" => self.take_back(home, id).await?,
            "running" if row.selected_at.is_none() => self.select(home, id, request).await?,
            // Results first: they may say that it must stop.
            "running" if row.is_look_due && row.settled + row.undone < row.done => self.look(home, id).await?,
            "running" => self.act(home, &row, &request).await?,
            _ => self.look(home, id).await?,
        };
        Ok(done)
    }

    /// The next jobs that meet the filter become targets.
    async fn select(&self, home: OrganizationId, id: OperationId, request: BulkRequest) -> Result<bool, DbError> {
        let selected = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                let Some(row) = store::hold(connection, home, id, IfHeld::Skip).await? else { return Ok(false) };
                if row.status == "running" && row.selected_at.is_none() {
                    select_piece(connection, home, &row, &request).await?;
                }
                Ok(true)
            })
        });
        selected.await
    }

    /// Act on the next targets, as many as the pace and the canary allow.
    async fn act(&self, home: OrganizationId, row: &OperationRow, request: &BulkRequest) -> Result<bool, DbError> {
        let id = row.id;
        let most = if request.kind == OperationKind::Cancel { 1 } else { ACT_MAX };
        let is_canary = row.canary > 0 && !row.canary_passed;
        if is_canary && row.done >= row.canary {
            return self.change(home, id, "canary").await;
        }
        let limit = room(row).min(most);
        if limit <= 0 {
            return Ok(false);
        }
        let read = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                let targets = targets_store::waiting(connection, home, id, limit).await?;
                targets_store::enter(connection, home, targets.iter().map(|target| target.job_organization_id)).await?;
                let wanted: Vec<_> = targets.iter().map(|target| (target.job_organization_id, target.job_id)).collect();
                let jobs = targets_store::jobs(connection, &wanted).await?;
                Ok((targets, jobs))
            })
        });
        let (targets, jobs) = read.await?;
        if targets.is_empty() {
            // There are no more than the canaries.
            return if is_canary && row.done > 0 {
                self.change(home, id, "canary").await
            } else {
                self.change(home, id, "succeeded").await
            };
        }
        let mut batch = Batch::default();
        for target in targets {
            let job = jobs.iter().find(|job| job.id == target.job_id);
            batch.plan(self, request, &target, job).await?;
        }
        let (actor, reason, kind) = (row.acts_for(), row.reason.clone(), request.kind);
        let acted = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move { batch.commit(connection, home, id, kind, (&actor, &reason)).await })
        });
        let acted = acted.await?;
        if acted == Some(true) {
            self.wake.signal();
        }
        Ok(acted.is_some())
    }

    /// Another status, unless somebody was faster; an end is recorded.
    async fn change(&self, home: OrganizationId, id: OperationId, status: &'static str) -> Result<bool, DbError> {
        let changed = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                let Some(row) = store::hold(connection, home, id, IfHeld::Skip).await? else { return Ok(false) };
                if row.status != "running" {
                    return Ok(true);
                }
                if status == "succeeded" {
                    store::end(connection, home, id, status).await?;
                    record_end(connection, home, &row, status, None).await?;
                } else {
                    store::become_status(connection, home, id, status).await?;
                }
                Ok(true)
            })
        });
        changed.await
    }

    /// Look for results, and decide on them: has the canary passed, did too many fail again, is nothing open any more?
    async fn look(&self, home: OrganizationId, id: OperationId) -> Result<bool, DbError> {
        let looked = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                let Some(row) = store::hold(connection, home, id, IfHeld::Skip).await? else { return Ok(false) };
                let open = targets_store::open(connection, home, id, row.look_after, LOOK_MAX).await?;
                let is_round = i64::try_from(open.len()).unwrap_or(0) < LOOK_MAX;
                let after = open.last().filter(|_| !is_round).map_or(0, |target| target.position);
                targets_store::enter(connection, home, open.iter().map(|target| target.job_organization_id)).await?;
                let found = results_store::settle(connection, home, id, &open).await?;
                results_store::count(connection, home, id, found, after).await?;
                let Some(row) = store::find(connection, home, id).await? else { return Ok(false) };
                // In the middle of a way through the targets, or where something has just ended, more is to be found.
                decide(connection, home, &row, after > 0 || found.settled > 0).await?;
                Ok(true)
            })
        });
        looked.await
    }

    /// Take back the next targets that have not begun.
    async fn take_back(&self, home: OrganizationId, id: OperationId) -> Result<bool, DbError> {
        let taken = self.db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                let Some(row) = store::hold(connection, home, id, IfHeld::Skip).await? else { return Ok(false) };
                if row.status == "undoing" {
                    undo_piece(connection, home, &row).await?;
                }
                Ok(true)
            })
        });
        taken.await
    }
}

/// Targets with what is planned for them.
#[derive(Default)]
struct Batch {
    planned: Vec<Planned>,
    /// To be cancelled: needs no plan.
    cancelled: Vec<Target>,
    /// What is known without an act.
    marks: Vec<Mark>,
}

impl Batch {
    async fn plan(
        &mut self,
        operations: &Operations,
        request: &BulkRequest,
        target: &Target,
        job: Option<&targets_store::EndedJob>,
    ) -> Result<(), DbError> {
        let Some(job) = job else {
            self.marks.push(left(target.position, "skipped", "gone"));
            return Ok(());
        };
        if request.kind == OperationKind::Cancel {
            self.cancelled.push(target.clone());
            return Ok(());
        }
        let is_latest = request.kind == OperationKind::Reprocess || request.version == RetryVersion::Latest;
        let Some(definition) = definition(operations, job, is_latest).await? else {
            self.marks.push(left(target.position, "refused", "workflow_unknown"));
            return Ok(());
        };
        let from = if request.kind == OperationKind::Reprocess { "start" } else { request.from.as_str() };
        match next_round(&definition, job.ended(), &job.steps.0, from) {
            Ok(next) => {
                let (position, organization, id) = (target.position, job.organization_id, job.id);
                self.planned.push(Planned { position, organization, job: id, lane: job.lane, next });
            }
            Err(PlanFault::NoSuchStep(_)) => self.marks.push(left(target.position, "refused", "no_such_step")),
            Err(PlanFault::NoLines(_)) => self.marks.push(left(target.position, "refused", "no_lines")),
        }
        Ok(())
    }

    /// Act, mark, count, in one transaction: was any job acted on? None: somebody else works on the operation.
    async fn commit(
        mut self,
        connection: &mut PgConnection,
        home: OrganizationId,
        id: OperationId,
        kind: OperationKind,
        (actor, reason): (&Actor, &str),
    ) -> Result<Option<bool>, DbError> {
        let Some(row) = store::hold(connection, home, id, IfHeld::Skip).await? else { return Ok(None) };
        if row.status != "running" {
            return Ok(Some(false));
        }
        // Another sweeper may have been here between the plan and the lock.
        let positions = self.planned.iter().map(|one| one.position);
        let positions = positions.chain(self.cancelled.iter().map(|one| one.position));
        let positions: Vec<i32> = positions.chain(self.marks.iter().map(|one| one.position)).collect();
        let waiting = targets_store::still_waiting(connection, home, id, &positions).await?;
        // It has used the pace then, too, or acted on the canaries: what counts is the row as it is now. In the order of positions.
        let waiting: BTreeSet<i32> = waiting.into_iter().collect();
        let room = usize::try_from(room(&row)).unwrap_or(0);
        let waiting: BTreeSet<i32> = waiting.into_iter().take(room).collect();
        self.planned.retain(|one| waiting.contains(&one.position));
        self.cancelled.retain(|one| waiting.contains(&one.position));
        self.marks.retain(|one| waiting.contains(&one.position));

        let organizations = self.planned.iter().map(|one| one.organization);
        let organizations = organizations.chain(self.cancelled.iter().map(|one| one.job_organization_id));
        targets_store::enter(connection, home, organizations).await?;
        targets_store::lock_lanes(connection, self.planned.iter().map(|one| one.lane)).await?;
        if !self.planned.is_empty() {
            let answers = targets_store::retry(connection, (home, id), &self.planned, actor, reason).await?;
            for (position, answer) in answers {
                let round = self.planned.iter().find(|one| one.position == position).map(|one| one.next.after + 1);
                self.marks.push(match answer.as_str() {
                    "retried" => Mark { position, state: "acted", note: None, round, result: None },
                    "unknown" => left(position, "skipped", "gone"),
                    _ => left(position, "skipped", "under_way"),
                });
            }
        }
        for target in &self.cancelled {
            let (organization, job) = (target.job_organization_id, target.job_id);
            let acted = jobs_store::cancel_job(connection, organization, job, actor, Some(reason)).await?;
            self.marks.push(match acted {
                Acted::Done => Mark { result: Some("other"), ..left(target.position, "acted", "") },
                Acted::Refused => left(target.position, "skipped", "ended"),
                Acted::Unknown => left(target.position, "skipped", "gone"),
            });
        }
        for mark in &mut self.marks {
            mark.note = mark.note.filter(|note| !note.is_empty());
        }
        targets_store::mark(connection, home, id, &self.marks).await?;
        let count = |state: &str| {
            i32::try_from(self.marks.iter().filter(|mark| mark.state == state).count()).unwrap_or(i32::MAX)
        };
        let done = count("acted");
        let settled = if kind == OperationKind::Cancel { done } else { 0 };
        let handled = Handled { done, skipped: count("skipped"), refused: count("refused"), settled };
        store::advance(connection, home, id, handled).await?;
        Ok(Some(done > 0))
    }
}

/// How many jobs may be acted on now, by the pace and the canary.
fn room(row: &OperationRow) -> i64 {
    if row.canary > 0 && !row.canary_passed {
        row.allowed.min(i64::from(row.canary - row.done)).max(0)
    } else {
        row.allowed
    }
}

fn left(position: i32, state: &'static str, note: &'static str) -> Mark {
    Mark { position, state, note: Some(note), round: None, result: None }
}

/// The version on which a job's next round runs; none: it is gone.
async fn definition(
    operations: &Operations,
    job: &targets_store::EndedJob,
    is_latest: bool,
) -> Result<Option<Arc<WorkflowDefinition>>, DbError> {
    use crate::engine::catalog::CatalogError;
    let found = if is_latest {
        operations.catalog.latest(&job.workflow)
    } else {
        operations.catalog.resolve(&operations.db, &job.workflow, job.workflow_version).await
    };
    match found {
        Ok(definition) => Ok(Some(definition)),
        // The database being away is no word about the workflow.
        Err(CatalogError::Db(error)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Read the filter on from where it stands: of one organization at a time.
async fn select_piece(
    connection: &mut PgConnection,
    home: OrganizationId,
    row: &OperationRow,
    request: &BulkRequest,
) -> Result<(), DbError> {
    let filter = request.filter.clone().unwrap_or_default();
    // An administrator's operation is about that organization; the platform's about one or all.
    let only = if home == OrganizationId::PLATFORM { filter.organization } else { Some(home) };
    let organization = match only {
        Some(only) => Some(only),
        None => targets_store::organization_from(connection, row.select_organization, false).await?,
    };
    let mut place = Place { selected: row.selected, cut: false, organization, after: row.select_after, is_end: true };
    if let Some(organization) = organization {
        targets_store::enter(connection, home, [organization]).await?;
        let room = TARGETS_MAX - i64::from(row.selected);
        let limit = room.min(SELECT_MAX);
        let begun = (request.kind, row.created_at);
        // One more, to know whether there is more.
        let mut found: Vec<JobId> =
            targets_store::select(connection, organization, begun, &filter, row.select_after, limit + 1).await?;
        let more = i64::try_from(found.len()).unwrap_or(0) > limit;
        found.truncate(usize::try_from(limit).unwrap_or(0));
        let targets: Vec<_> = found.iter().map(|job| (organization, *job)).collect();
        targets_store::insert(connection, home, row.id, row.selected, &targets).await?;
        place.selected += i32::try_from(found.len()).unwrap_or(0);
        place.after = found.last().copied().or(row.select_after);
        place.cut = more && limit == room;
        place.is_end = place.cut || !more;
        if only.is_none() && !more {
            let next = targets_store::organization_from(connection, Some(organization), true).await?;
            place = Place { organization: next.or(Some(organization)), after: None, is_end: next.is_none(), ..place };
        }
    }
    store::note_selection(connection, home, row.id, place).await
}

/// What results say about an operation, and when the next look is due.
async fn decide(
    connection: &mut PgConnection,
    home: OrganizationId,
    row: &OperationRow,
    is_moving: bool,
) -> Result<(), DbError> {
    let (id, open) = (row.id, row.done - row.undone - row.settled);
    let failures = row.failed_again - row.failures_before;
    let is_under_way = ["running", "canary"].contains(&row.status.as_str());
    let stop = if row.status == "canary" && failures > 0 {
        Some("canary_failed")
    } else if is_under_way && row.stop_after.is_some_and(|most| failures >= most) {
        Some("failures")
    } else {
        None
    };
    if let Some(reason) = stop {
        store::stop(connection, home, id, reason).await?;
        return record_end(connection, home, row, "stopped", Some(reason)).await;
    }
    match row.status.as_str() {
        "canary" if open == 0 => store::become_status(connection, home, id, "running").await,
        "canary" => store::put_off(connection, home, id, Some(LOOK_EVERY_SECONDS)).await,
        "running" | "undoing" => Ok(()),
        _ if open == 0 => store::put_off(connection, home, id, None).await,
        _ if is_moving => store::put_off(connection, home, id, Some(LOOK_EVERY_SECONDS)).await,
        _ => {
            // The longer it takes, the rarer the looks.
            let since = row.finished_at.map_or(0.0, |ended| (time_of(row) - ended).as_seconds_f64());
            let pause = (since / 10.0).clamp(LOOK_EVERY_SECONDS, LOOK_EVERY_SECONDS_MAX);
            store::put_off(connection, home, id, Some(pause)).await
        }
    }
}

/// The database's time as of its last word on that row.
fn time_of(row: &OperationRow) -> time::OffsetDateTime {
    row.looked_at.unwrap_or(row.created_at)
}

/// Take back the next targets; at the end of them the operation is `undone`.
async fn undo_piece(connection: &mut PgConnection, home: OrganizationId, row: &OperationRow) -> Result<(), DbError> {
    let id = row.id;
    let open = targets_store::open(connection, home, id, row.undo_after, ACT_MAX).await?;
    let Some(last) = open.last().map(|target| target.position) else {
        store::end(connection, home, id, "undone").await?;
        return record_end(connection, home, row, "undone", None).await;
    };
    targets_store::enter(connection, home, open.iter().map(|target| target.job_organization_id)).await?;
    let lanes = targets_store::lanes(connection, &open).await?;
    targets_store::lock_lanes(connection, lanes.into_iter()).await?;
    let answers = targets_store::undo(connection, (home, id), &open, &row.acts_for(), &row.reason).await?;
    let undone: BTreeSet<i32> =
        answers.into_iter().filter(|(_, answer)| answer == "undone").map(|(position, _)| position).collect();
    let marks: Vec<Mark> = open
        .into_iter()
        .filter(|target| undone.contains(&target.position))
        .map(|target| Mark { round: target.round, ..left(target.position, "undone", "") })
        .map(|mark| Mark { note: None, ..mark })
        .collect();
    targets_store::mark(connection, home, id, &marks).await?;
    store::count_undone(connection, home, id, i32::try_from(marks.len()).unwrap_or(0), last).await
}

/// The end of an operation that ended by itself.
async fn record_end(
    connection: &mut PgConnection,
    home: OrganizationId,
    row: &OperationRow,
    status: &str,
    reason: Option<&str>,
) -> Result<(), DbError> {
    let (actor, resource) = (Actor::internal("sweeper"), row.id.to_string());
    let mut record = Record::new(home, "operation.ended", Action::Update, &actor);
    record.resource = Some(&resource);
    record.detail = Some(json!({
        "status": status, "reason": reason, "matched": row.matched, "done": row.done, "skipped": row.skipped,
        "refused": row.refused, "undone": row.undone, "failedAgain": row.failed_again,
    }));
    audit::append(connection, record).await
}
