//! A second pool for work that gives way: large transactions of bulk files, beside which webhooks must not wait.
//!
//! On one machine processors are what everybody waits for. Here a runtime of its own has the transactions and the
//! computations of chunks, on threads of lower priority, and its connections' server processes have a lower one as well if
//! PostgreSQL is our own. Who works shortly goes first, and while nobody else works nothing is lost
//! (docs/decisions/0016-work-that-gives-way.md). PostgreSQL elsewhere has processors of its own, and is left alone.

use super::{Db, connect_options};
use sqlx::postgres::PgPool;
use std::sync::{Arc, OnceLock};
use tokio::runtime::{Builder, Handle, Runtime};

/// How much lower the priority is (nice(2), 0 to 19): beside a thread of ordinary priority one of these gets a tenth.
const NICER_BY: i32 = 10;

/// The name of its connections in `pg_stat_activity`.
const APPLICATION_NAME: &str = "chartgate chunks";

/// The runtime and the pool, made when they are first used: most processes never do.
#[derive(Debug)]
pub(super) struct Background {
    made: OnceLock<(Threads, PgPool)>,
    connections: u32,
    is_server_ours: bool,
}

/// A runtime that may be dropped anywhere.
#[derive(Debug)]
struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Threads {
    fn start(threads: usize) -> Option<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("chartgate-chunks")
            .on_thread_start(lower_thread)
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => Some(Self(Some(runtime))),
            Err(error) => {
                tracing::warn!(error = %error.kind(), "no threads of their own for chunks: they work among the others");
                None
            }
        }
    }
}

impl Background {
    fn get(&self, db: &Db) -> Option<&(Threads, PgPool)> {
        if self.made.get().is_none() {
            let threads = Threads::start(usize::try_from(self.connections).unwrap_or(1))?;
            let lower = self.is_server_ours;
            let options = db.options.clone().application_name(APPLICATION_NAME);
            let pool = connect_options(self.connections, lower).connect_lazy_with(options);
            let _ = self.made.set((threads, pool));
        }
        self.made.get()
    }
}

impl Db {
    /// The same with a second pool of so many connections, for [`Db::background`]; the server's processes are lowered too if
    /// it is ours, on this machine.
    #[must_use]
    pub fn with_background(self, connections: usize, is_server_ours: bool) -> Self {
        let connections = u32::try_from(connections).unwrap_or(u32::MAX).max(1);
        let background = Background { made: OnceLock::new(), connections, is_server_ours };
        Self { background: Some(Arc::new(background)), ..self }
    }

    /// The same database for work that gives way to the others'; itself, if there is no second pool.
    #[must_use]
    pub fn background(&self) -> Self {
        let made = self.background.as_ref().and_then(|background| background.get(self));
        let Some((Threads(Some(runtime)), pool)) = made else { return self.clone() };
        Self { pool: pool.clone(), runtime: Some(runtime.handle().clone()), ..self.clone() }
    }

    /// Compute where it holds up nobody, beside this database's units.
    ///
    /// # Errors
    /// The computation panicked.
    pub async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        let Some(runtime) = &self.runtime else { return Handle::current().spawn_blocking(work).await };
        self.foreground.let_go_first().await;
        runtime.spawn_blocking(work).await
    }
}

/// Lower the priority of this thread. That it cannot be lowered is no reason not to work.
#[cfg(target_os = "linux")]
fn lower_thread() {
    // Elsewhere it would lower the whole process.
    let _ = rustix::process::nice(NICER_BY);
}

#[cfg(not(target_os = "linux"))]
fn lower_thread() {}

/// Lower the priority of the process that serves this connection.
pub(super) async fn lower_server_process(connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
    let process: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await?;
    // By that number another process may go here, if the server sees processes of its own only (a container).
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    if name.trim_end() == "postgres"
        && let Err(error) = rustix::process::setpriority_process(rustix::process::Pid::from_raw(process), NICER_BY)
    {
        // It was started by another user.
        tracing::debug!(error = %error.kind(), "a server process keeps its priority");
    }
    Ok(())
}
