//! Runs leased jobs: each step is prepared outside any transaction and committed inside one fenced transaction, and the
//! next step follows under the same lease.
//!
//! Promises: a step's rows, its status, its audit record and the move to the next step commit together or not at all; a
//! worker that lost its lease changes nothing; a database that is away delays but does not fail a step. Leaves to
//! others: claiming and renewing (`queue`), taking back lost leases (`sweeper`).

use super::catalog::Catalog;
use super::commit::{SUCCEEDED, SUCCEEDED_WITH_ISSUES};
use super::committer::{self, CommitReply, CommitRequest};
use super::definition::StepDefinition;
use super::handler::{Facts, Memo, StepContext, StepError, StepOutcome};
use super::region::{self, AtRegion};
use super::spans::{Ended, trace_id};
use super::store::{self, Lease, TaskKey};
use super::wake::Wake;
use crate::db::{Db, Scope};
use crate::ids::WorkerId;
use crate::telemetry;
use backon::BackoffBuilder as _;
use futures::FutureExt as _;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// How often a running step looks whether its lease is still held.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Times and bounds of the engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// How long a claim is good without renewal. A dead worker's job goes on within lease + sweep interval.
    pub lease: Duration,
    /// Jobs under way in this process, at most.
    pub concurrency: usize,
    /// Chunks of bulk files under way in this process, at most, beside `concurrency`: each may take some 60 MB.
    pub chunks: usize,
    /// Of `chunks`, how many while other jobs are about: one processor is left to them (docs/decisions/0016).
    pub chunks_beside: usize,
    /// Committer tasks, each with a connection of its own; two keep PostgreSQL busy, more make smaller batches.
    pub committers: usize,
    /// A lane's jobs run by one slot in a row, at most; then the lane queues again, for fairness.
    pub hand_offs_max: u32,
    /// Workers that may die with a job before it is parked.
    pub deaths_max: i32,
    /// A head in backoff holds its lane so long, at most.
    pub lane_hold_max: Duration,
    /// Poll for ready work at least so often, in case a notification was lost.
    pub poll: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            concurrency: 256,
            chunks: 2,
            chunks_beside: std::thread::available_parallelism().map_or(1, |processors| (processors.get() - 1).max(1)),
            committers: 2,
            hand_offs_max: 16,
            deaths_max: 3,
            lane_hold_max: Duration::from_mins(15),
            poll: Duration::from_secs(1),
        }
    }
}

/// What this process did, since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Steps committed.
    pub steps_committed: AtomicI64,
    /// Commits that the fence refused.
    pub stale_commits: AtomicI64,
    /// Attempts that failed and back off.
    pub steps_retried: AtomicI64,
    /// Steps that failed for good.
    pub steps_failed: AtomicI64,
    /// Leases of others that were taken back.
    pub leases_reaped: AtomicI64,
    /// Rounds of jobs that ended.
    pub jobs_ended: AtomicI64,
}

pub(super) fn count(counter: &AtomicI64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What of a handler is called.
pub(super) enum Call {
    /// `run`, with what failed before.
    Run,
    /// `open`.
    Open,
    /// `join`, with the sums over the chunks.
    Join(Facts),
}

/// The durable engine of one process.
pub struct Engine {
    db: Db,
    catalog: Catalog,
    wake: Wake,
    worker: WorkerId,
    options: EngineOptions,
    commits: mpsc::Sender<CommitRequest>,
    held: Mutex<HashMap<TaskKey, i64>>,
    draining: AtomicBool,
    closed: CancellationToken,
    /// Public to read; the sweeper and the report of the worker use them too.
    pub counters: Counters,
}

impl Engine {
    /// An engine and its committers, which live until [`Engine::close`].
    #[must_use]
    pub fn start(db: Db, catalog: Catalog, wake: Wake, options: EngineOptions) -> Arc<Self> {
        let (commits, requests) = mpsc::channel(1024);
        let committers = options.committers.max(1);
        let engine = Arc::new(Self {
            db,
            catalog,
            wake,
            worker: WorkerId::new(),
            options,
            commits,
            held: Mutex::default(),
            draining: AtomicBool::new(false),
            closed: CancellationToken::new(),
            counters: Counters::default(),
        });
        let requests = Arc::new(tokio::sync::Mutex::new(requests));
        for _ in 0..committers {
            tokio::spawn(committer::run(Arc::clone(&engine), Arc::clone(&requests)));
        }
        engine
    }

    /// This process's id among the workers.
    #[must_use]
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// Times and bounds.
    #[must_use]
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The database.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// The workflows.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Wake-ups.
    #[must_use]
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    fn held_table(&self) -> std::sync::MutexGuard<'_, HashMap<TaskKey, i64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remember a lease that was claimed for this process, so that it is renewed.
    pub fn hold(&self, lease: &Lease) {
        self.held_table().insert(lease.key(), lease.epoch);
    }

    /// Is the lease still held here?
    #[must_use]
    pub fn holds(&self, lease: &Lease) -> bool {
        self.held_table().get(&lease.key()) == Some(&lease.epoch)
    }

    /// Forget a lease; somebody else's newer one under the same key stays.
    pub fn let_go(&self, key: TaskKey, epoch: i64) {
        let mut held = self.held_table();
        if held.get(&key) == Some(&epoch) {
            held.remove(&key);
        }
    }

    /// All leases held now.
    #[must_use]
    pub fn held(&self) -> Vec<(TaskKey, i64)> {
        self.held_table().iter().map(|(key, epoch)| (*key, *epoch)).collect()
    }

    /// From now on no successor is taken over, and jobs are handed back between two steps.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// End the committers; what is not committed by now stays with its lease.
    pub fn close(&self) {
        self.closed.cancel();
    }

    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    pub(super) fn commits(&self) -> &mpsc::Sender<CommitRequest> {
        &self.commits
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Run a leased job to its end, and the successors of its lane that are handed to us.
    pub async fn run(self: &Arc<Self>, lease: Lease) {
        let mut next = Some(lease);
        let mut handed = 0;
        while let Some(lease) = next.take() {
            let (key, epoch) = (lease.key(), lease.epoch);
            let hand_off = handed < self.options.hand_offs_max && lease.deaths == 0;
            let is_chunk = lease.chunk > 0;
            let run = self.run_job(lease, hand_off);
            next = if is_chunk { self.db.foreground().paced(run).await } else { run.await };
            self.let_go(key, epoch);
            if let Some(successor) = &next {
                self.hold(successor);
                handed += 1;
            }
        }
    }

    async fn run_job(self: &Arc<Self>, mut lease: Lease, hand_off: bool) -> Option<Lease> {
        let claimed = Instant::now();
        self.find_trace(&mut lease, 1).await;
        let definition = match self.catalog.resolve(&self.db, &lease.workflow, lease.workflow_version).await {
            Ok(definition) => definition,
            Err(error) => {
                self.fail_unknown(&lease, error).await;
                return None;
            }
        };
        // Chunks make room for it, unless it is a bulk file itself.
        let is_short = lease.chunk == 0 && !definition.has_chunks();
        let _under_way = is_short.then(|| self.db.foreground().enter());
        // Only a job that was claimed in the middle can have failed before: an earlier claim ran those steps.
        let mut failed = lease.step > 0 && lease.chunk == 0 && self.look_back(&lease).await?;
        let memo = Memo::default();
        loop {
            let index = usize::try_from(lease.step).unwrap_or(usize::MAX);
            let Some(step) = definition.steps.get(index) else {
                let error =
                    StepError::ours("step_unknown", "The job stands at a step that its workflow does not have.");
                self.fail(&mut lease, "?", Duration::ZERO, error, &definition, None, failed, claimed).await;
                return None;
            };
            let started = Instant::now();
            let span = tracing::debug_span!("step", job.id = %lease.job, step = step.name.as_str(), attempt = lease.attempts, trace.id = trace_id(&lease));
            let with_issues = Arc::new(AtomicBool::new(false));
            let run = async {
                let (elapsed, result) = if step.each_chunk && lease.chunk == 0 {
                    match self.at_region(&lease, &definition, index).await {
                        Ok(AtRegion::Left(reply)) => return (started.elapsed(), Ok(reply)),
                        Ok(AtRegion::Failed(failure, elapsed)) => {
                            return (
                                elapsed,
                                Ok(self.fail_region(&lease, &definition, index, &failure, elapsed).await),
                            );
                        }
                        Ok(AtRegion::Joined(outcome, elapsed)) => (elapsed, Ok(outcome)),
                        Err(error) => (started.elapsed(), Err(error)),
                    }
                } else {
                    let result = self.attempt(&lease, step, failed, Call::Run, &memo).await;
                    (started.elapsed(), result)
                };
                let committed = match result {
                    Ok(outcome) if lease.chunk > 0 => {
                        self.commit_chunk(&lease, &definition, index, elapsed, outcome).await
                    }
                    Ok(outcome) => {
                        self.commit(&lease, &definition, index, elapsed, outcome, failed, hand_off, &with_issues).await
                    }
                    Err(error) => Err(error),
                };
                match committed {
                    // Taken back meanwhile: whatever came of the attempt, it is not ours to record.
                    Err(_) if !self.holds(&lease) => (elapsed, Ok(CommitReply::Stale)),
                    Ok(CommitReply::Refused(error)) => (elapsed, Err(StepError::from(error))),
                    committed => (elapsed, committed),
                }
            };
            let (elapsed, outcome) = run.instrument(span).await;
            lease.step = match outcome {
                Ok(CommitReply::Passed { next, freed }) => {
                    let ended = Ended::without_error("succeeded", started.elapsed());
                    self.tell(&mut lease, &definition, &step.name, ended).await;
                    count(&self.counters.steps_committed);
                    if freed {
                        self.wake.signal();
                    }
                    let following = match lease.chunk {
                        0 => definition.next_step(index, failed),
                        _ => region::next_of_chunk(&definition, index),
                    };
                    let Some(following) = following else {
                        if lease.chunk == 0 {
                            let status = match (failed, with_issues.load(Ordering::Relaxed)) {
                                (true, _) => "failed",
                                (false, true) => SUCCEEDED_WITH_ISSUES,
                                (false, false) => SUCCEEDED,
                            };
                            telemetry::job_ended(&definition.name, status, Some(age_of(&lease, claimed)));
                            count(&self.counters.jobs_ended);
                        }
                        return next;
                    };
                    following
                }
                Ok(CommitReply::FannedOut) => {
                    let ended = Ended::without_error("fanned_out", started.elapsed());
                    self.tell(&mut lease, &definition, &step.name, ended).await;
                    return None;
                }
                Ok(CommitReply::RegionFailed { follows }) => {
                    // Which chunk failed, and with what, its own spans say.
                    self.tell(&mut lease, &definition, &step.name, Ended::without_error("failed", elapsed)).await;
                    count(&self.counters.steps_failed);
                    if !follows {
                        telemetry::job_ended(&definition.name, "failed", Some(age_of(&lease, claimed)));
                        count(&self.counters.jobs_ended);
                        self.wake.signal();
                        return None;
                    }
                    failed = true;
                    definition.next_step(index, true)?
                }
                Ok(CommitReply::Stale | CommitReply::Refused(_)) => {
                    let ended = Ended::without_error("stale", started.elapsed());
                    self.tell(&mut lease, &definition, &step.name, ended).await;
                    self.note_stale(&lease, &step.name);
                    return None;
                }
                Err(error) => {
                    let at = Some(index);
                    if !self.fail(&mut lease, &step.name, elapsed, error, &definition, at, failed, claimed).await {
                        return None;
                    }
                    // Failed for good, and an `always` step follows under the same lease.
                    failed = true;
                    definition.next_step(index, true)?
                }
            };
            lease.attempts = 1;
            if self.is_draining() {
                self.hand_back(&lease).await;
                return None;
            }
        }
    }

    /// Until the lease is not held here any more, which the renewal finds out.
    async fn lost(&self, lease: &Lease) {
        while self.holds(lease) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Did an earlier step of this round fail for good? Not to know is no answer: it is asked again for as long as the lease is
    /// held. `None`: the lease is not held any more, was handed back, or runs out.
    async fn look_back(&self, lease: &Lease) -> Option<bool> {
        let mut delays = committer::patience().build();
        loop {
            let wanted = lease.clone();
            let looked = self
                .db
                .unit(Scope::Organization(lease.organization), move |connection| {
                    Box::pin(async move { store::failed_before(connection, &wanted).await })
                })
                .await;
            match looked {
                Ok(failed) => return Some(failed),
                Err(error) if !error.may_pass() => {
                    tracing::error!(job.id = %lease.job, error = ?error, "cannot look up how job {} stands; its lease will run out", lease.job);
                    return None;
                }
                Err(_) if !self.holds(lease) => return None,
                Err(_) if self.is_draining() => {
                    self.hand_back(lease).await;
                    return None;
                }
                Err(_) => tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(1))).await,
            }
        }
    }

    /// One attempt: the handler's preparation, with its timeout; a panic is a bug of ours, not the worker's end.
    pub(super) async fn attempt(
        &self,
        lease: &Lease,
        step: &StepDefinition,
        failed_before: bool,
        call: Call,
        memo: &Memo,
    ) -> Result<StepOutcome, StepError> {
        let handler = self.catalog.registry().get(&step.handler).ok_or_else(|| {
            StepError::ours("handler_unknown", format!("This program has no handler \"{}\".", step.handler))
        })?;
        let context = StepContext {
            organization: lease.organization,
            job: lease.job,
            seq: lease.seq,
            round: lease.round,
            step: step.name.clone(),
            attempt: u16::try_from(lease.attempts).unwrap_or(1),
            failed_before,
            params: Arc::clone(&step.params),
            chunk: lease.chunk,
            memo: memo.clone(),
        };
        let call = async {
            match call {
                Call::Run => handler.run(&context).await,
                Call::Open => handler.open(&context).await,
                Call::Join(totals) => handler.join(&context, totals).await,
            }
        };
        let run = AssertUnwindSafe(call).catch_unwind();
        let run = tokio::time::timeout(step.timeout, run);
        // Cancelled, or taken back: whatever comes of it, nobody would take it.
        let ended = tokio::select! {
            ended = run => ended,
            () = self.lost(lease) => {
                return Err(StepError::transient("lease_lost", "The lease is not ours any more."));
            }
        };
        match ended {
            Ok(Ok(result)) => result,
            Ok(Err(_panic)) => Err(StepError::ours("handler_panicked", "The step's code panicked; this is a bug.")),
            Err(_elapsed) => Err(StepError::transient(
                "step_timeout",
                format!("The step took longer than {}.", humantime::format_duration(step.timeout)),
            )),
        }
    }
}

/// How old the round is.
pub(super) fn age_of(lease: &Lease, claimed: Instant) -> Duration {
    Duration::from_millis(u64::try_from(lease.age_ms).unwrap_or(0)) + claimed.elapsed()
}
