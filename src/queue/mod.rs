//! The seam to apalis, and the only module that names it: our `Backend` over the queue table, and the parts around it
//! that feed it, renew its leases and listen for wake-ups.
//!
//! apalis runs the worker: concurrency, restart of a worker that ended, graceful shutdown, panic catching, tracing.
//! Claims, leases, retries and commits are the engine's (docs/decisions/0001-own-apalis-backend.md).

mod backend;
mod feeder;
mod listener;
mod renewal;

pub use renewal::Renewal as Presence;

use crate::engine::Engine;
use crate::engine::store::{self, Lease};
use crate::engine::workers_store::WorkerFigures;
use apalis::layers::WorkerBuilderExt as _;
use apalis::prelude::{BoxDynError, Monitor, WorkerBuilder};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a shutdown waits for running steps before their leases are handed back.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Slots of this process: how many jobs are under way, and how many chunks, which are bounded apart from each other.
#[derive(Default)]
struct Slots {
    jobs: AtomicUsize,
    chunks: AtomicUsize,
    freed: Notify,
    chunk_freed: Notify,
}

impl Slots {
    fn take(&self, lease: &Lease) {
        let slots = if lease.chunk > 0 { &self.chunks } else { &self.jobs };
        slots.fetch_add(1, Ordering::AcqRel);
    }

    fn give_back(&self, is_chunk: bool) {
        let slots = if is_chunk { &self.chunks } else { &self.jobs };
        slots.fetch_sub(1, Ordering::AcqRel);
        if is_chunk {
            self.chunk_freed.notify_one();
        }
        self.freed.notify_one();
    }

    fn jobs_in_use(&self) -> usize {
        self.jobs.load(Ordering::Acquire)
    }

    fn chunks_in_use(&self) -> usize {
        self.chunks.load(Ordering::Acquire)
    }

    fn in_use(&self) -> usize {
        self.jobs_in_use() + self.chunks_in_use()
    }
}

/// The workers of this process, running until [`Workers::shutdown`].
pub struct Workers {
    engine: Arc<Engine>,
    slots: Arc<Slots>,
    stop: CancellationToken,
    monitor_stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    monitor: JoinHandle<()>,
    renewal: renewal::Renewal,
}

impl Workers {
    /// Start claiming and running jobs.
    #[must_use]
    pub fn start(engine: Arc<Engine>, roles: Vec<String>) -> Self {
        let slots = Arc::new(Slots::default());
        let stop = CancellationToken::new();
        let monitor_stop = CancellationToken::new();
        let (leases, receiver) = mpsc::unbounded_channel::<Lease>();
        let renewal = renewal::Renewal::start(Arc::clone(&engine), roles);
        let tasks = vec![
            tokio::spawn(feeder::run(Arc::clone(&engine), Arc::clone(&slots), leases, stop.clone())),
            tokio::spawn(listener::run(engine.db().clone(), engine.wake().clone(), stop.clone())),
        ];
        let monitor = tokio::spawn(monitor(Arc::clone(&engine), Arc::clone(&slots), receiver, monitor_stop.clone()));
        Self { engine, slots, stop, monitor_stop, tasks, monitor, renewal }
    }

    /// Stop claiming, let running steps finish (30 s at most), hand the rest back without counting an attempt.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.engine.drain();
        for task in self.tasks {
            let _ = task.await;
        }
        let deadline = Instant::now() + DRAIN_MAX;
        while self.slots.in_use() > 0 && Instant::now() < deadline {
            let _ = tokio::time::timeout(Duration::from_millis(100), self.slots.freed.notified()).await;
        }
        let rest = self.engine.held();
        if !rest.is_empty() {
            tracing::warn!(
                leases = rest.len(),
                "handing back {} job(s) whose steps did not finish in time",
                rest.len()
            );
            let _ = self
                .engine
                .db()
                .unit(crate::db::Scope::Global, move |connection| {
                    Box::pin(async move { store::release_tasks(connection, &rest, true).await })
                })
                .await;
        }
        self.monitor_stop.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(5), self.monitor).await;
        self.renewal.stop().await;
        self.engine.close();
    }

    /// Jobs and chunks under way in this process.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.in_use()
    }
}

/// The apalis monitor with one worker over our backend; a worker that ends is started again over the same leases.
async fn monitor(
    engine: Arc<Engine>,
    slots: Arc<Slots>,
    receiver: mpsc::UnboundedReceiver<Lease>,
    stop: CancellationToken,
) {
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let name = engine.worker().to_string();
    let concurrency = engine.options().concurrency + engine.options().chunks;
    let monitor = Monitor::new()
        .register(move |restarts| {
            let (engine, slots) = (Arc::clone(&engine), Arc::clone(&slots));
            let run = move |lease: Lease| {
                let (engine, slots) = (Arc::clone(&engine), Arc::clone(&slots));
                // A task of its own: steps run in parallel, and a dropped worker future does not cut a step in two.
                let task = tokio::spawn(async move {
                    let is_chunk = lease.chunk > 0;
                    let _slot = SlotGuard(slots, is_chunk);
                    engine.run(lease).await;
                });
                async move {
                    let _ = task.await;
                    Ok::<(), BoxDynError>(())
                }
            };
            WorkerBuilder::new(format!("{name}-{restarts}"))
                .backend(backend::LeaseBackend::new(Arc::clone(&receiver)))
                .concurrency(concurrency)
                .catch_panic()
                .build(run)
        })
        .should_restart(|_, _| true)
        .shutdown_timeout(Duration::from_secs(2));
    let stopped = async move {
        stop.cancelled().await;
        Ok(())
    };
    if monitor.run_with_signal(stopped).await.is_err() {
        // What it says may be the message of a panic, which may quote a body.
        tracing::debug!("the apalis monitor ended with an error");
    }
}

/// Gives the slot back however the job ended.
struct SlotGuard(Arc<Slots>, bool);

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.0.give_back(self.1);
    }
}

fn figures(engine: &Engine) -> WorkerFigures {
    let read = |counter: &std::sync::atomic::AtomicI64| counter.load(Ordering::Relaxed);
    WorkerFigures {
        in_flight: i32::try_from(engine.held().len()).unwrap_or(i32::MAX),
        steps_committed: read(&engine.counters.steps_committed),
        stale_commits: read(&engine.counters.stale_commits),
        leases_reaped: read(&engine.counters.leases_reaped),
        jobs_ended: read(&engine.counters.jobs_ended),
    }
}
