//! Keeps the planner's statistics up with tables that grow fast (`migrations/0019_statistics.sql`).

use super::{Db, DbError, Scope};

/// Analyze the tables that have more than doubled since PostgreSQL last looked at them. Cheap when there is none. That it
/// cannot be done is no reason to stop anything: plans are slower then.
pub async fn keep_fresh(db: &Db) {
    let analyzed = db
        .unit::<i32, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move { Ok(sqlx::query_scalar("select keep_statistics()").fetch_one(connection).await?) })
        })
        .await;
    match analyzed {
        Ok(0) => {}
        Ok(tables) => tracing::debug!(tables, "{tables} table(s) had grown and were analyzed"),
        Err(error) => tracing::warn!(error = ?error, "statistics could not be brought up to date"),
    }
}
