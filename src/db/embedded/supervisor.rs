//! The thread that owns the postmaster: it forks it, watches it, starts it again when it dies, and stops it last.
//!
//! A thread of its own because the kernel's parent-death signal belongs to the thread that forked: a thread of
//! tokio's blocking pool ends after ten idle seconds and would take the database along.

use super::cluster::Cluster;
use super::{EmbeddedError, EmbeddedOptions};
use sqlx::postgres::PgConnectOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How soon a dead postmaster is noticed.
const POLL: Duration = Duration::from_millis(200);
/// A postmaster that cannot stay up is started less and less often.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// One that stayed up this long has earned a prompt restart again.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// A running server. Dropping it stops the server (and blocks until that is done).
#[derive(Debug)]
pub struct EmbeddedPostgres {
    shared: Arc<Shared>,
    socket_dir: PathBuf,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// 0 while none runs.
    pid: AtomicU32,
    restarts: AtomicU32,
    stopping: AtomicBool,
}

impl EmbeddedPostgres {
    /// Start the server, making the cluster first if there is none; returns when it accepts connections (about a
    /// second for a new cluster, 0.1 s for an existing one). Blocks: from async code, call it in `spawn_blocking`.
    ///
    /// # Errors
    /// [`EmbeddedError`]; nothing is left running then.
    pub fn start(options: &EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = channel();
        let (ready, started) = channel();
        let thread = std::thread::Builder::new()
            .name("postgres-supervisor".to_owned())
            .spawn({
                let (options, shared) = (options.clone(), shared.clone());
                move || run(&options, &shared, &stopped, &ready)
            })
            .map_err(EmbeddedError::io("start a thread for", &options.data_dir))?;
        match started.recv() {
            Ok(Ok(socket_dir)) => Ok(Self { shared, socket_dir, stop: Some(stop), thread: Some(thread) }),
            Ok(Err(error)) => Err(error),
            // The thread panicked before it said anything.
            Err(_) => {
                Err(EmbeddedError::io("supervise", &options.data_dir)(std::io::Error::other("the supervisor panicked")))
            }
        }
    }

    /// How to reach `database` as superuser `postgres` (which may run migrations; the program works as a lesser role).
    #[must_use]
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.socket_dir)
            .port(5432)
            .username("postgres")
            .database(database)
    }

    /// The directory of the socket, for `psql -h` and for other processes of the same user.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Process id of the postmaster; `None` while it is down.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        Some(self.shared.pid.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    /// How often a dead postmaster was replaced.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.shared.restarts.load(Ordering::Acquire)
    }

    /// Fast shutdown: connections are ended, everything is written, the directory is free. Blocks, usually for less
    /// than a second.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the supervisor of the embedded PostgreSQL panicked");
        }
    }
}

impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn run(
    options: &EmbeddedOptions,
    shared: &Shared,
    stopped: &Receiver<()>,
    ready: &Sender<Result<PathBuf, EmbeddedError>>,
) {
    let interrupted = || shared.stopping.load(Ordering::Acquire);
    let opened = Cluster::open(options).and_then(|mut cluster| {
        cluster.start(interrupted)?;
        Ok(cluster)
    });
    let mut cluster = match opened {
        Ok(cluster) => cluster,
        Err(error) => {
            // The caller waits for this; if it is gone, nobody wants the answer.
            let _ = ready.send(Err(error));
            return;
        }
    };
    shared.pid.store(cluster.pid().unwrap_or(0), Ordering::Release);
    if ready.send(Ok(cluster.socket_dir().to_owned())).is_err() {
        return;
    }
    watch(&mut cluster, shared, stopped);
    cluster.stop();
    shared.pid.store(0, Ordering::Release);
}

/// Until somebody asks to stop (or drops the handle).
fn watch(cluster: &mut Cluster, shared: &Shared, stopped: &Receiver<()>) {
    let interrupted = || shared.stopping.load(Ordering::Acquire);
    let mut up_since = Instant::now();
    let mut backoff = Duration::ZERO;
    let mut next_start = up_since;
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(POLL) {
        if let Some(status) = cluster.ended() {
            shared.pid.store(0, Ordering::Release);
            tracing::error!(status, "PostgreSQL ended unexpectedly; starting it again");
            if up_since.elapsed() > STABLE_AFTER {
                backoff = Duration::ZERO;
            }
            next_start = Instant::now() + backoff;
        }
        if cluster.pid().is_some() || Instant::now() < next_start {
            continue;
        }
        // The first restart comes at once, each further one later until it stays up.
        backoff = (backoff * 2).clamp(POLL, BACKOFF_MAX);
        match cluster.start(interrupted) {
            Ok(()) => {
                shared.pid.store(cluster.pid().unwrap_or(0), Ordering::Release);
                let restarts = shared.restarts.fetch_add(1, Ordering::AcqRel) + 1;
                up_since = Instant::now();
                tracing::warn!(restarts, "PostgreSQL runs again");
            }
            Err(error) => {
                next_start = Instant::now() + backoff;
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    retry_in_ms = backoff.as_millis(),
                    "PostgreSQL did not start"
                );
            }
        }
    }
}
