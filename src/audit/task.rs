//! The loop around the sealer, in every process with the role `sweeper`; one of them leads.
//!
//! Pace: while the database is busy, sealing takes its share of the time ([`SealerOptions::duty`]) and the tail grows; when it
//! is quiet, the sealer catches up as fast as it can. Busy means more transactions a second than a quiet house has.

use super::sealer::{CHECKPOINT_LEAVES_MAX, SealError, Sealed, Sealer, SealerOptions};
use super::store::{self, Published};
use crate::db::{Db, DbError, Scope};
use crate::objects::Objects;
use crate::telemetry;
use sqlx::PgConnection;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// Transactions a second above which the database counts as busy.
const BUSY: f64 = 150.0;
/// After what could not be done: signing, publishing.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks of a process that does not lead.
const STANDBY: Duration = Duration::from_secs(5);
/// Between two reports of its state.
const REPORT: Duration = Duration::from_secs(5);

/// Seal until cancelled.
pub async fn run(db: Db, objects: Objects, options: SealerOptions, stop: CancellationToken) {
    let mut running = Running::new(Sealer::new(db.clone(), objects, options));
    let mut lead: Option<PgConnection> = None;
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if let Some(held) = lead.as_mut()
            && store::still_there(held).await.is_err()
        {
            lead = None;
        }
        if lead.is_none() {
            lead = become_leader(&db).await;
            running.reset();
        }
        pause = if lead.is_some() { running.round().await } else { STANDBY };
    }
}

/// A connection that holds the lead. Plans do not matter to it; that it is its own does.
async fn become_leader(db: &Db) -> Option<PgConnection> {
    let mut connection = db.dedicated().await.ok()?;
    store::try_lead(&mut connection).await.ok().filter(|leads| *leads).map(|_| connection)
}

struct Running {
    sealer: Sealer,
    /// Next time to sign, unless enough came together before.
    sign_at: Instant,
    publish_at: Instant,
    report_at: Instant,
    /// Since the last checkpoint, as far as this process knows.
    unsigned: u64,
    /// A checkpoint was made, or may have been, that is not published.
    is_unpublished: bool,
    /// What stands in the way, by activity, so that success of one does not hide the other.
    faults: [Option<(&'static str, String)>; 3],
    busy: Busy,
    /// The horizon, and when it was first seen there.
    through: Option<(i64, OffsetDateTime)>,
    last_record: i64,
}

const SEAL: usize = 0;
const SIGN: usize = 1;
const PUBLISH: usize = 2;

impl Running {
    fn new(sealer: Sealer) -> Self {
        let now = Instant::now();
        Self {
            sealer,
            sign_at: now,
            publish_at: now,
            report_at: now,
            unsigned: 0,
            is_unpublished: true,
            faults: Default::default(),
            busy: Busy::default(),
            through: None,
            last_record: 0,
        }
    }

    /// Another process may have led meanwhile.
    fn reset(&mut self) {
        self.is_unpublished = true;
        self.unsigned = 0;
        self.through = None;
    }

    /// Do what is due; how long to rest.
    async fn round(&mut self) -> Duration {
        let started = Instant::now();
        let sealed = self.sealer.seal_batch().await;
        let caught_up = match &sealed {
            Ok(sealed) => {
                self.note_sealed(sealed);
                sealed.caught_up
            }
            Err(_) => true,
        };
        self.settle(SEAL, sealed.map(drop));
        if self.unsigned >= CHECKPOINT_LEAVES_MAX || Instant::now() >= self.sign_at {
            self.sign().await;
        }
        if self.is_unpublished && Instant::now() >= self.publish_at {
            self.publish().await;
        }
        let options = self.sealer.options();
        let (tick, duty) = (options.tick, options.duty);
        if Instant::now() >= self.report_at {
            self.report().await;
        }
        if caught_up {
            tick
        } else if self.busy.is_busy {
            started.elapsed().mul_f64((1.0 - duty) / duty.max(0.001))
        } else {
            Duration::ZERO
        }
    }

    fn note_sealed(&mut self, sealed: &Sealed) {
        let horizon = sealed.horizon;
        telemetry::audit_sealed(sealed.records);
        self.unsigned += sealed.records as u64;
        self.last_record = self.last_record.max(sealed.last_record);
        self.busy.look(horizon.next);
        if sealed.caught_up {
            // Nothing runs above the horizon: what was committed until now is sealed. Else: until it was first seen there.
            let since = self.through.filter(|(below, _)| *below == horizon.below && horizon.below != horizon.next);
            self.through = Some(since.unwrap_or((horizon.below, horizon.now)));
            if horizon.below == horizon.next {
                self.last_record = self.last_record.max(horizon.last_record);
            }
        }
    }

    async fn sign(&mut self) {
        let signed = self.sealer.checkpoint().await;
        self.sign_at = Instant::now() + if signed.is_ok() { self.sealer.options().checkpoint_every } else { PATIENCE };
        if let Ok(number) = &signed {
            self.is_unpublished |= number.is_some();
            let more = number.is_some() && self.unsigned >= CHECKPOINT_LEAVES_MAX;
            self.unsigned = if more { self.unsigned - CHECKPOINT_LEAVES_MAX } else { 0 };
        } else {
            // Not again at once because there is so much.
            self.unsigned = 0;
        }
        self.settle(SIGN, signed.map(drop));
    }

    async fn publish(&mut self) {
        let published = self.sealer.publish().await;
        telemetry::audit_published(if published.is_ok() { "done" } else { "failed" });
        self.publish_at = Instant::now() + PATIENCE;
        self.is_unpublished = published.is_err();
        self.settle(PUBLISH, published.map(drop));
    }

    /// Keep what failed, and say it once, where it begins and where it ends.
    fn settle(&mut self, activity: usize, result: Result<(), SealError>) {
        let fault = match result {
            // Another sealer was faster: that is no fault.
            Ok(()) | Err(SealError::Db(DbError::Conflict(_) | DbError::NotOneRow(_))) => None,
            Err(error) => Some((error.state(), error.to_string())),
        };
        if self.faults[activity] != fault {
            match &fault {
                Some((state @ ("database_unavailable" | "object_store_unavailable"), what)) => {
                    tracing::warn!(state, "the audit log is not sealed now: {what}");
                }
                Some((state, what)) => tracing::error!(state, "the audit log cannot be sealed: {what}"),
                None => tracing::info!("the audit log is sealed again"),
            }
            self.report_at = Instant::now();
        }
        self.faults[activity] = fault;
    }

    async fn report(&mut self) {
        self.report_at = Instant::now() + REPORT;
        let (state, detail) = self.faults.iter().flatten().next().cloned().unwrap_or(("sealing", String::new()));
        let (through, last_record) = (self.through.map(|(_, at)| at), self.last_record);
        let told = self.sealer.db.unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move {
                let newest =
                    store::newest_checkpoint(connection, i64::MAX).await?.map_or(0, |newest| newest.checkpoint);
                let waiting = newest - store::last_published(connection, Published::Checkpoint).await?;
                store::put_sealer_status(connection, (state, &detail), through, last_record, waiting.max(0)).await
            })
        });
        if let Err(error) = told.await {
            tracing::debug!(error = ?error, "the sealer's state could not be told");
        }
    }
}

/// Is the database busy? By the numbers that it gives to transactions that write.
#[derive(Default)]
struct Busy {
    seen: Option<(Instant, i64)>,
    is_busy: bool,
}

impl Busy {
    fn look(&mut self, next: i64) {
        match self.seen {
            Some((at, _)) if at.elapsed() < Duration::from_millis(250) => {}
            Some((at, before)) => {
                #[expect(clippy::cast_precision_loss, reason = "a rate")]
                let rate = (next - before) as f64 / at.elapsed().as_secs_f64();
                self.is_busy = rate > BUSY;
                self.seen = Some((Instant::now(), next));
            }
            None => self.seen = Some((Instant::now(), next)),
        }
    }
}
