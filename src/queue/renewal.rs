//! Renews this process's leases and reports it among the workers: in a thread, a runtime and a connection of its own,
//! so that neither a step that blocks the workers' threads nor an exhausted pool can cost a lease.

use super::figures;
use crate::db::DbError;
use crate::engine::Engine;
use crate::engine::{store, workers_store};
use sqlx::PgConnection;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The renewal thread.
pub struct Renewal {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Renewal {
    /// Start renewing.
    pub fn start(engine: Arc<Engine>, roles: Vec<String>) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("chartgate-renewal".to_owned())
            .spawn(move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(run(engine, roles, stopped)),
                Err(error) => tracing::error!(%error, "cannot start the renewal thread; leases will run out"),
            })
            .map_err(|error| tracing::error!(%error, "cannot start the renewal thread; leases will run out"))
            .ok();
        Self { stop, thread }
    }

    /// Stop, with a last report.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Some(thread) = self.thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

async fn run(engine: Arc<Engine>, roles: Vec<String>, stop: CancellationToken) {
    let interval = engine.options().lease.div_f64(4.0);
    let mut connection: Option<PgConnection> = None;
    loop {
        let stopping = stop.is_cancelled();
        if connection.is_none() {
            connection = connect(&engine, &roles).await;
        }
        if let Some(open) = connection.as_mut()
            && let Err(error) = beat(&engine, open, stopping).await
        {
            tracing::warn!(error = ?error, "could not renew leases");
            connection = None;
        }
        if stopping {
            return;
        }
        // While the database is away, try more often: its return must be met before the reapers' grace ends.
        let pause = if connection.is_some() { interval } else { interval.min(Duration::from_millis(500)) };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn connect(engine: &Engine, roles: &[String]) -> Option<PgConnection> {
    let connected = async {
        let mut connection = engine.db().dedicated().await?;
        workers_store::register_worker(&mut connection, engine.worker(), &host(), roles).await?;
        Ok::<_, DbError>(connection)
    };
    connected.await.map_err(|error| tracing::warn!(error = ?error, "the renewal cannot reach the database")).ok()
}

async fn beat(engine: &Engine, connection: &mut PgConnection, stopping: bool) -> Result<(), DbError> {
    let held = engine.held();
    if !held.is_empty() {
        let ours = store::renew_leases(connection, &held, engine.options().lease).await?;
        for (key, epoch) in held {
            if !ours.contains(&key) {
                // Finished meanwhile, or taken back: either way there is nothing to renew any more.
                engine.let_go(key, epoch);
            }
        }
    }
    workers_store::report_worker(connection, engine.worker(), figures(engine), stopping).await
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
