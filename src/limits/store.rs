//! What the limits read of the database, all at once, beside the requests.

use crate::db::DbError;
use crate::ids::{OrganizationId, WorkerId};
use serde_json::Value;
use sqlx::PgConnection;

/// One sample.
#[derive(Debug, Default)]
pub struct Facts {
    /// Jobs in the queue, by organization; organizations without any are left out. None: not asked for.
    pub depths: Option<Vec<(OrganizationId, i64)>>,
    /// Jobs that each worker process brought to their end since its start.
    pub ended: Vec<(WorkerId, i64)>,
    /// Organizations with a rate limit of their own, as their settings hold it.
    pub rates: Vec<(OrganizationId, Value)>,
}

/// Read them.
///
/// # Errors
/// [`DbError`].
pub async fn read_facts(connection: &mut PgConnection, with_depths: bool) -> Result<Facts, DbError> {
    let mut facts = Facts::default();
    if with_depths {
        // Chunks are pieces of a job that is counted.
        let depths = sqlx::query_as(
            "select organization_id, count(*)
             from queue
             where chunk = 0
             group by organization_id",
        );
        facts.depths = Some(depths.fetch_all(&mut *connection).await?);
        facts.ended = sqlx::query_as(
            "select id, jobs_ended
             from workers
             where last_seen_at > chartgate_now() - interval '2 minutes'",
        )
        .fetch_all(&mut *connection)
        .await?;
    }
    facts.rates = sqlx::query_as(
        "select id, settings -> 'rate_limit'
         from organizations
         where jsonb_typeof(settings -> 'rate_limit') = 'object'",
    )
    .fetch_all(connection)
    .await?;
    Ok(facts)
}
