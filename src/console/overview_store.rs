//! What the overview reads of an organization beside the engine's tables: bounded counts.

use crate::db::DbError;
use crate::ids::OrganizationId;
use sqlx::PgConnection;

/// Things that are counted, at most: above that there are "more than".
pub(super) const COUNTED_MAX: i64 = 1_000;

/// What waits for people.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub(super) struct Waiting {
    /// Open reviews, at most [`COUNTED_MAX`] and one.
    pub(super) reviews: i64,
    /// Callbacks that fail since their last success, or were switched off for it.
    pub(super) callbacks: i64,
}

/// Of one organization.
pub(super) async fn waiting(connection: &mut PgConnection, organization: OrganizationId) -> Result<Waiting, DbError> {
    Ok(sqlx::query_as(
        "select
           (select count(*) from (select from reviews where organization_id = $1 and status = 'open' limit $2) r) reviews,
           (select count(*) from callbacks where organization_id = $1 and (failing_since is not null or disabled_reason = 'failing')) callbacks",
    )
    .bind(organization)
    .bind(COUNTED_MAX + 1)
    .fetch_one(connection)
    .await?)
}
