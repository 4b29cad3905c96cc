//! `chartgate bench …`: each prints a readable table and one JSON line, measured beside the yardstick it names.

pub mod engine;

use sqlx::postgres::PgConnectOptions;

/// A migrated database to bench on, as its owner.
pub struct Prepared {
    /// How to connect.
    pub options: PgConnectOptions,
}
