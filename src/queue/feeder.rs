//! Claims ready work into free slots. One task a process: it sleeps until a wake-up, until the next backoff ends, or
//! for the slow poll; it never holds more leases than there are slots to run them.

use super::Slots;
use crate::db::DbError;
use crate::engine::Engine;
use crate::engine::committer;
use crate::engine::store::{self, Claim, Lease};
use crate::engine::traces_store;
use crate::telemetry::traces;
use sqlx::PgConnection;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Rows of one claim, at most: bigger claims take longer than they save (docs/decisions/0003-engine-sql.md).
const CLAIM_MAX: usize = 128;
/// Claims wait shortly for so many free slots, so that a busy process does not claim one row at a time.
const CLAIM_MIN: usize = 64;
/// … but not longer than this: a job of a quiet organization waits for the next claim beside a backlog.
const SLOTS_WAIT: Duration = Duration::from_millis(4);
/// Pause after a claim that found the queue nearly empty, so that a trickle of commits is claimed in batches.
const GAP: Duration = Duration::from_millis(1);
/// Suspects after their first death that run together, at most: enough that the victims of a crash are through quickly.
const SUSPECTS_MAX: i32 = 16;
/// Pause between looks for chunks that found too few.
const CHUNK_INTERVAL: Duration = Duration::from_millis(20);
/// Look for suspects at least so often while the queue is busy.
const SUSPECT_INTERVAL: Duration = Duration::from_millis(500);
/// Claims stop so long for what runs here to end before suspects are claimed; twice as long after each time that something
/// did not, up to the second. Between two such waits claims go on as long as the wait was.
const SUSPECT_PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Claims stop so long, at most, for suspects that run: what kills its worker mostly does so at once.
const SUSPECT_ALONE: Duration = Duration::from_mins(1);

/// Claim until cancelled.
pub async fn run(
    engine: Arc<Engine>,
    slots: Arc<Slots>,
    leases: mpsc::UnboundedSender<Lease>,
    stop: CancellationToken,
) {
    let mut feeder = Feeder {
        engine,
        slots,
        leases,
        stop,
        connection: None,
        cursor: Uuid::nil(),
        suspects_seen: None,
        suspects_not_before: Instant::now(),
        patience: SUSPECT_PATIENCE.0,
        chunk_cursor: Uuid::nil(),
        chunks_seen: None,
    };
    let mut delays = backon::BackoffBuilder::build(committer::patience());
    while !feeder.stop.is_cancelled() {
        match feeder.turn().await {
            Ok(()) => delays = backon::BackoffBuilder::build(committer::patience()),
            Err(error) => {
                tracing::warn!(error = ?error, "cannot claim work");
                feeder.connection = None;
                let pause = delays.next().unwrap_or(Duration::from_secs(1));
                tokio::select! {
                    () = feeder.stop.cancelled() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

struct Feeder {
    engine: Arc<Engine>,
    slots: Arc<Slots>,
    leases: mpsc::UnboundedSender<Lease>,
    stop: CancellationToken,
    connection: Option<PgConnection>,
    /// Organization of the last claimed row: the next claim starts behind it.
    cursor: Uuid,
    suspects_seen: Option<Instant>,
    /// After a wait that was in vain.
    suspects_not_before: Instant,
    /// How long the next wait is.
    patience: Duration,
    /// The same cursor for chunks.
    chunk_cursor: Uuid,
    /// When there were fewer chunks than slots.
    chunks_seen: Option<Instant>,
}

impl Feeder {
    async fn turn(&mut self) -> Result<(), DbError> {
        let concurrency = self.engine.options().concurrency;
        let wanted_min = CLAIM_MIN.min(concurrency.div_ceil(4)).max(1);
        let gathered = async {
            while concurrency.saturating_sub(self.slots.jobs_in_use()) < wanted_min {
                self.slots.freed.notified().await;
            }
        };
        // Fresh work does not wait for slots to gather: it may be a quiet organization's, beside another's backlog.
        tokio::select! {
            () = gathered => {}
            () = self.engine.wake().wait() => {}
            () = tokio::time::sleep(SLOTS_WAIT) => {}
        }
        let free = concurrency.saturating_sub(self.slots.jobs_in_use());
        self.claim_chunks().await?;
        if free == 0 {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.slots.freed.notified() => {}
            }
            return Ok(());
        }
        let (lease_time, worker, poll) =
            (self.engine.options().lease, self.engine.worker(), self.engine.options().poll);
        let wanted = free.min(CLAIM_MAX);
        let cursor = self.cursor;
        let connection = self.open().await?;
        let mut claimed = store::claim(
            connection,
            Claim::Jobs,
            i32::try_from(wanted).unwrap_or(i32::MAX),
            cursor,
            lease_time,
            worker,
        )
        .await?;
        if let Some(last) = claimed.last() {
            self.cursor = last.organization.0;
        }
        self.attach_traces(&mut claimed).await;
        let got = claimed.len();
        for lease in claimed {
            self.hand_on(lease);
        }
        let idle = got < wanted / 2 || got == 0;
        if (idle || self.suspects_seen.is_none_or(|seen| seen.elapsed() > SUSPECT_INTERVAL))
            && self.run_suspects().await?
        {
            return Ok(());
        }
        if !idle {
            return Ok(());
        }
        // Nearly nothing was ready: sleep until something may be. Whatever was signalled since the claim is not missed.
        let mut due = store::next_due(self.open().await?).await?.unwrap_or(poll).min(poll);
        if let Some(seen) = self.chunks_seen.filter(|seen| seen.elapsed() < CHUNK_INTERVAL) {
            // Chunks were not looked for in this turn, and the wake-up may have meant them.
            due = due.min(CHUNK_INTERVAL.saturating_sub(seen.elapsed()));
        }
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.engine.wake().wait() => {}
            () = self.slots.chunk_freed.notified() => {}
            () = tokio::time::sleep(due) => {}
        }
        if got > 0 {
            tokio::time::sleep(GAP).await;
        }
        Ok(())
    }

    /// Chunks into their own free slots. Not in every turn beside busy jobs: a chunk takes many turns.
    async fn claim_chunks(&mut self) -> Result<(), DbError> {
        let free = self.chunks_at_once().saturating_sub(self.slots.chunks_in_use());
        if free == 0 || self.chunks_seen.is_some_and(|seen| seen.elapsed() < CHUNK_INTERVAL) {
            return Ok(());
        }
        let (lease_time, worker, cursor) = (self.engine.options().lease, self.engine.worker(), self.chunk_cursor);
        let slots = i32::try_from(free).unwrap_or(i32::MAX);
        let mut claimed = store::claim(self.open().await?, Claim::Chunks, slots, cursor, lease_time, worker).await?;
        self.attach_traces(&mut claimed).await;
        self.chunks_seen = (claimed.len() < free).then(Instant::now);
        if let Some(last) = claimed.last() {
            self.chunk_cursor = last.organization.0;
        }
        for lease in claimed {
            self.hand_on(lease);
        }
        Ok(())
    }

    /// All chunk slots while no jobs are about; beside jobs a processor is left to them (docs/decisions/0016).
    fn chunks_at_once(&self) -> usize {
        let options = self.engine.options();
        let is_alone = self.engine.db().foreground().is_alone();
        if is_alone { options.chunks } else { options.chunks.min(options.chunks_beside) }
    }

    /// The leases are ours already: without their traces they run all the same, and each asks again when it has something to tell.
    async fn attach_traces(&mut self, claimed: &mut [Lease]) {
        if !traces::are_on() {
            return;
        }
        let attached = match self.open().await {
            Ok(connection) => traces_store::attach(connection, claimed).await,
            Err(error) => Err(error),
        };
        if let Err(error) = attached {
            tracing::warn!(error = ?error, "claimed jobs start without their traces");
            self.connection = None;
        }
    }

    fn hand_on(&self, lease: Lease) {
        self.engine.hold(&lease);
        self.slots.take(&lease);
        // The receiver lives as long as the process's workers.
        let _ = self.leases.send(lease);
    }

    /// Suspects run without any other job, so that bystanders do not die with them. What runs here finishes first, and
    /// only then are they claimed: a process that dies while it waits must not count as a death of theirs. A step may take
    /// an hour: it holds the others up for a while only, and suspects wait for a process that has none.
    async fn run_suspects(&mut self) -> Result<bool, DbError> {
        self.suspects_seen = Some(Instant::now());
        if Instant::now() < self.suspects_not_before || !store::has_suspects(self.open().await?).await? {
            return Ok(false);
        }
        if !self.quiet(self.patience).await {
            self.suspects_not_before = Instant::now() + self.patience;
            self.patience = (self.patience * 2).min(SUSPECT_PATIENCE.1);
            return Ok(false);
        }
        self.patience = SUSPECT_PATIENCE.0;
        let (lease_time, worker) = (self.engine.options().lease, self.engine.worker());
        let chunk_slots = i32::try_from(self.engine.options().chunks).unwrap_or(i32::MAX);
        let mut suspects =
            store::claim_suspects(self.open().await?, SUSPECTS_MAX, chunk_slots, lease_time, worker).await?;
        self.attach_traces(&mut suspects).await;
        for lease in suspects {
            let (job, deaths) = (lease.job, lease.deaths);
            tracing::info!(job.id = %job, deaths, "job {job} runs apart from others: a worker died with it");
            self.hand_on(lease);
        }
        self.quiet(SUSPECT_ALONE).await;
        Ok(true)
    }

    /// Until nothing runs here; false when it takes longer than that, or the process is told to stop.
    async fn quiet(&self, patience: Duration) -> bool {
        let until = tokio::time::Instant::now() + patience;
        while self.slots.in_use() > 0 {
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = tokio::time::sleep_until(until) => return false,
                () = self.slots.freed.notified() => {}
            }
        }
        !self.stop.is_cancelled()
    }

    async fn open(&mut self) -> Result<&mut PgConnection, DbError> {
        if self.connection.is_none() {
            self.connection = Some(self.engine.db().dedicated().await?);
        }
        self.connection.as_mut().ok_or(DbError::Panicked)
    }
}
