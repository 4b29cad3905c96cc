//! Keeps the planner's statistics up with tables that grow fast (`migrations/0019_statistics.sql`), and large transactions
//! independent of them.

use super::{Db, DbError, Scope};
use sqlx::PgConnection;

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

/// For the rest of this transaction every statement is planned for its own arguments and for the tables as large as they are now.
/// A plan that the connection keeps may be from a time when a table was all but empty and every index looked as good as any other:
/// thousands of look-ups by it then read all rows of the organization each. Planning costs under a millisecond a statement: for
/// transactions of thousands of rows.
///
/// # Errors
/// A [`DbError`].
pub async fn plan_afresh(connection: &mut PgConnection) -> Result<(), DbError> {
    sqlx::raw_sql("set local plan_cache_mode = force_custom_plan").execute(connection).await?;
    Ok(())
}
