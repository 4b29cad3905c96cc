//! Housekeeping beside the workers, on a connection of its own: takes back the leases of dead workers, lets heads that
//! are stuck in backoff step out of their lanes, mends lanes that stand still (which must not happen), forgets old
//! worker rows. Any number of sweepers may run.

use super::chunks_store;
use super::executor::Engine;
use super::lanes_store;
use super::operations::{self, Operations};
use super::store::{self, ReapedLease};
use super::workers_store;
use crate::db::{DbError, statistics};
use crate::telemetry;
use sqlx::PgConnection;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Sweep until cancelled, and work on bulk operations beside it.
pub async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    let operations = Operations::new(engine.db().clone(), engine.catalog().clone(), engine.wake().clone());
    tokio::join!(operations::run::run(operations, stop.clone()), sweep_on(engine, stop));
}

async fn sweep_on(engine: Arc<Engine>, stop: CancellationToken) {
    let mut connection: Option<PgConnection> = None;
    let mut connected_before = false;
    let mut not_before = Instant::now();
    let interval = engine.options().lease.div_f64(4.0).min(Duration::from_secs(2));
    let mut slow_round = 0u32;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        if connection.is_none() {
            match engine.db().dedicated().await {
                Ok(fresh) => {
                    connection = Some(fresh);
                    if connected_before {
                        // We lost the database, so the workers probably did: give them a lease's time to renew.
                        not_before = Instant::now() + engine.options().lease;
                    }
                    connected_before = true;
                }
                Err(error) => {
                    tracing::warn!(error = ?error, "the sweeper cannot reach the database");
                    continue;
                }
            }
        }
        let Some(open) = connection.as_mut() else { continue };
        slow_round = slow_round.wrapping_add(1);
        if let Err(error) = sweep(&engine, open, Instant::now() >= not_before, slow_round).await {
            tracing::warn!(error = ?error, "a sweep failed");
            if matches!(error, DbError::Unavailable(_) | DbError::Driver(_)) {
                connection = None;
            }
        }
    }
}

/// Take lost leases back; a job that is parked gets its failed step's row in the same transaction.
async fn reap(engine: &Engine, connection: &mut PgConnection) -> Result<Vec<ReapedLease>, DbError> {
    let options = engine.options();
    let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
    let reaped = store::reap_leases(&mut transaction, options.lease, options.deaths_max, engine.worker()).await?;
    for lease in reaped.iter().filter(|lease| lease.parked && lease.chunk == 0) {
        // The names of the steps are the workflow's, which SQL does not know.
        let definition = engine.catalog().resolve(engine.db(), &lease.workflow, lease.workflow_version).await;
        let steps = definition.map(|definition| {
            definition
                .steps
                .iter()
                .skip(usize::try_from(lease.step).unwrap_or(0))
                .map(|step| step.name.clone())
                .collect()
        });
        store::close_parked(&mut transaction, lease, steps.unwrap_or_default()).await?;
    }
    transaction.commit().await?;
    Ok(reaped)
}

async fn sweep(engine: &Engine, connection: &mut PgConnection, may_reap: bool, round: u32) -> Result<(), DbError> {
    let options = engine.options();
    if may_reap {
        let reaped = reap(engine, connection).await?;
        for lease in &reaped {
            let job = lease.job;
            telemetry::lease_reaped(if lease.parked { "parked" } else { "retried" });
            if lease.parked && lease.chunk > 0 {
                tracing::error!(job.id = %job, organization.id = %lease.organization, chunk = lease.chunk, deaths = lease.deaths, "chunk {} of job {job} killed its worker {} times and failed", lease.chunk, lease.deaths);
            } else if lease.parked {
                telemetry::job_ended(&lease.workflow, "failed", None);
                tracing::error!(job.id = %job, organization.id = %lease.organization, deaths = lease.deaths, "job {job} killed its worker {} times and is parked", lease.deaths);
            } else {
                tracing::warn!(job.id = %job, organization.id = %lease.organization, deaths = lease.deaths, step = lease.step, "the lease of job {job} ran out; it is tried again, alone in a worker");
            }
        }
        if !reaped.is_empty() {
            engine.counters.leases_reaped.fetch_add(i64::try_from(reaped.len()).unwrap_or(0), Ordering::Relaxed);
            engine.wake().signal();
        }
    }
    let aside = lanes_store::step_aside(connection, options.lane_hold_max, engine.worker()).await?;
    if aside > 0 {
        tracing::warn!(jobs = aside, "{aside} job(s) in backoff stepped out of their lanes");
        engine.wake().signal();
    }
    if round.is_multiple_of(5) {
        statistics::keep_fresh(engine.db()).await;
    }
    if round.is_multiple_of(15) {
        let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
        let mended = lanes_store::mend_stalled_lanes(&mut transaction).await?;
        let joined = chunks_store::mend_waiting(&mut transaction).await?;
        transaction.commit().await?;
        if mended > 0 {
            tracing::error!(lanes = mended, "{mended} lane(s) stood still and were mended; this is a bug");
            engine.wake().signal();
        }
        if joined > 0 {
            tracing::error!(jobs = joined, "{joined} job(s) waited for no chunk and were mended; this is a bug");
            engine.wake().signal();
        }
        workers_store::forget_workers(connection).await?;
    }
    Ok(())
}
