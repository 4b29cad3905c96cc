//! SQL of the trace contexts that are kept with jobs (docs/traces.md). Nothing here is called while traces are off.

use super::store::{Lease, LeaseTrace};
use crate::db::DbError;
use crate::ids::{JobId, OrganizationId};
use crate::telemetry::traces::{self, JobTrace, TraceContext};
use sqlx::PgConnection;
use uuid::Uuid;

/// A round of a job that begins in the current transaction, and the request that began it.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// Whose job.
    pub organization: OrganizationId,
    /// The job.
    pub job: JobId,
    /// From 1.
    pub round: i32,
    /// The request's span.
    pub trace: TraceContext,
}

impl Begun {
    /// If there is something to keep: traces that are not sampled leave no row.
    #[must_use]
    pub fn by(organization: OrganizationId, job: JobId, round: i32, trace: Option<TraceContext>) -> Option<Self> {
        trace.filter(|trace| trace.is_sampled()).map(|trace| Self { organization, job, round, trace })
    }
}

/// Keep the contexts of rounds that begin in this transaction. It works for the organizations of these rounds from here on.
///
/// # Errors
/// [`DbError`].
pub async fn note(connection: &mut PgConnection, begun: impl IntoIterator<Item = Begun>) -> Result<(), DbError> {
    let mut columns: (Vec<Uuid>, Vec<Uuid>, Vec<i32>, Vec<Vec<u8>>) = Default::default();
    for one in begun {
        columns.0.push(one.organization.0);
        columns.1.push(one.job.0);
        columns.2.push(one.round);
        columns.3.push(one.trace.to_bytes().to_vec());
    }
    if columns.0.is_empty() {
        return Ok(());
    }
    sqlx::query("select note_traces($1, $2, $3, $4)")
        .bind(columns.0)
        .bind(columns.1)
        .bind(columns.2)
        .bind(columns.3)
        .execute(connection)
        .await?;
    Ok(())
}

/// Give claimed leases their contexts, in one round trip for all of them.
///
/// # Errors
/// [`DbError`]; the leases are as before.
pub async fn attach(connection: &mut PgConnection, leases: &mut [Lease]) -> Result<(), DbError> {
    if leases.is_empty() || !traces::are_on() {
        return Ok(());
    }
    let rows: Vec<(i32, Vec<u8>, Option<Vec<u8>>)> = sqlx::query_as("select * from traces_of($1, $2, $3)")
        .bind(leases.iter().map(|lease| lease.organization.0).collect::<Vec<_>>())
        .bind(leases.iter().map(|lease| lease.job.0).collect::<Vec<_>>())
        .bind(leases.iter().map(|lease| lease.round).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    for lease in &mut *leases {
        lease.trace = LeaseTrace::Known(None);
    }
    for (ordinal, context, first) in rows {
        let place = usize::try_from(ordinal).ok().and_then(|ordinal| ordinal.checked_sub(1));
        if let (Some(lease), Some(parent)) =
            (place.and_then(|place| leases.get_mut(place)), TraceContext::from_bytes(&context))
        {
            let first = first.and_then(|first| TraceContext::from_bytes(&first));
            lease.trace = LeaseTrace::Known(Some(JobTrace { parent, first }));
        }
    }
    Ok(())
}

/// Jobs that deliver messages go on in the traces of the jobs that the messages tell of.
///
/// # Errors
/// [`DbError`].
pub async fn follow(
    connection: &mut PgConnection,
    organization: OrganizationId,
    deliveries: &[JobId],
) -> Result<(), DbError> {
    if !traces::are_on() {
        return Ok(());
    }
    sqlx::query(
        "insert into job_traces (organization_id, job_id, round, context)
         select $1, m.delivery_id, 1, x.context
         from callback_messages m
         cross join lateral (
           select t.context from job_traces t
           where t.organization_id = $1 and t.job_id = m.job_id and t.round <= m.round
           order by t.round desc limit 1) x
         where m.organization_id = $1 and m.delivery_id = any ($2)
         on conflict do nothing",
    )
    .bind(organization)
    .bind(deliveries)
    .execute(connection)
    .await?;
    Ok(())
}
