//! Forward-only migrations, embedded in the binary.

use super::DbError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};

/// The migrations of `migrations/`.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// A migration did not apply.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// No connection.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A statement of a migration failed, or a migration that was applied has changed since.
    #[error("a migration failed")]
    Failed(#[from] sqlx::migrate::MigrateError),
}

/// Apply what is missing, as a role that may create tables. Safe when several processes start at once: the migrator
/// holds an advisory lock.
///
/// # Errors
/// [`MigrateError`].
pub async fn run(options: &PgConnectOptions) -> Result<(), MigrateError> {
    let mut connection = PgConnection::connect_with(options).await.map_err(DbError::from)?;
    MIGRATOR.run(&mut connection).await?;
    connection.close().await.map_err(DbError::from)?;
    Ok(())
}
