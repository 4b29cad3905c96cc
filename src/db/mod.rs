//! PostgreSQL: the pool, units of work, migrations, and the embedded server.
//!
//! Every access goes through [`Db::unit`]: one transaction with its tenant context, in a task of its own, so that a
//! caller that is dropped (axum drops a handler's future when the client hangs up) can neither leave a transaction
//! open on a pooled connection nor interrupt a commit. sqlx 0.8.4–0.9.0 leak the transaction when `begin()` is
//! cancelled (transact-rs/sqlx#4385); `tests/it/units_of_work.rs` shows both the leak and that this helper has none.

mod background;
pub mod embedded;
pub mod log_settings;
pub mod migrate;
mod pace;
pub mod statistics;

pub use pace::{Foreground, StatementRows, UnderWay, give_way};

use crate::ids::OrganizationId;
use futures::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::sync::Arc;
use std::time::Duration;

/// For whom a unit of work reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One organization: the rows of all others do not exist.
    Organization(OrganizationId),
    /// Reads over all organizations, on tables without clinical values (role `chartgate_platform`).
    Platform,
    /// No tenant data at all: organizations, keys, the queue, workers.
    Global,
}

/// What can go wrong between us and PostgreSQL, by what a caller does about it.
///
/// `Display`, `Debug` and causes show codes only ([`DriverError`]).
#[derive(thiserror::Error)]
pub enum DbError {
    /// The database is away, restarting or out of connections: repeat later. Nothing was decided, except that a lost
    /// COMMIT reply leaves the outcome unknown; repeating with the same idempotency key resolves it.
    #[error("the database is not available")]
    Unavailable(#[source] DriverError),
    /// Lost against a concurrent transaction (serialization failure, deadlock, racing unique key): run it again.
    #[error("lost against a concurrent transaction")]
    Conflict(#[source] DriverError),
    /// A statement took longer than it may (`statement_timeout`), or was cancelled by hand; rolled back. It may well do so
    /// again: repeat it a few times, with patience, and never for as long as it takes.
    #[error("the database took too long")]
    TimedOut(#[source] DriverError),
    /// The statement itself is wrong, or the data cannot be stored: a bug of ours.
    #[error("the database refused a statement (SQLSTATE {sqlstate})")]
    Refused {
        /// Five characters, PostgreSQL appendix A.
        sqlstate: String,
        /// The driver's error.
        #[source]
        source: DriverError,
    },
    /// Any other driver error (decoding, missing column): a bug of ours.
    #[error("the database driver failed")]
    Driver(#[source] DriverError),
    /// The unit of work panicked; its transaction was rolled back.
    #[error("a unit of work panicked")]
    Panicked,
    /// A fenced write did not meet exactly one row.
    #[error("expected to change one row, changed {0}")]
    NotOneRow(u64),
}

impl DbError {
    /// What was read is no longer so: run it again.
    #[must_use]
    pub fn stale() -> Self {
        Self::Conflict(DriverError(sqlx::Error::RowNotFound))
    }

    /// Worth repeating without any change, at once and for as long as it takes.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Conflict(_))
    }

    /// A later try may succeed without any change: what is transient, and what took too long.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.is_transient() || matches!(self, Self::TimedOut(_))
    }
}

impl std::fmt::Debug for DbError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unavailable(error) => write!(f, "Unavailable({error})"),
            Self::Conflict(error) => write!(f, "Conflict({error})"),
            Self::TimedOut(error) => write!(f, "TimedOut({error})"),
            Self::Refused { source, .. } => write!(f, "Refused({source})"),
            Self::Driver(error) => write!(f, "Driver({error})"),
            Self::Panicked => f.write_str("Panicked"),
            Self::NotOneRow(rows) => write!(f, "NotOneRow({rows})"),
        }
    }
}

/// An error of the driver in words that hold no values: SQLSTATE with constraint or table, or the driver's kind. sqlx's own
/// text may quote rows, parameters and statements, so that it goes no further than here; neither `Display` nor `Debug` nor
/// a chain of causes shows it. Only what is said before any statement (logging in, SQLSTATE classes 08, 28, 3D, 53, 57) is
/// shown as PostgreSQL says it.
pub struct DriverError(sqlx::Error);

impl std::fmt::Display for DriverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            sqlx::Error::Database(database) => {
                let sqlstate = database.code().unwrap_or_default();
                write!(f, "SQLSTATE {sqlstate}")?;
                let before_statements = ["08", "28", "3D", "53", "57"].iter().any(|class| sqlstate.starts_with(class));
                match database.constraint().or_else(|| database.table()) {
                    Some(place) => write!(f, " {place}"),
                    None if before_statements => write!(f, ": {}", database.message()),
                    None => Ok(()),
                }
            }
            sqlx::Error::Io(error) => write!(f, "i/o: {}", error.kind()),
            sqlx::Error::PoolTimedOut => f.write_str("no connection in time"),
            sqlx::Error::Protocol(_) => f.write_str("protocol"),
            sqlx::Error::Tls(_) => f.write_str("TLS"),
            sqlx::Error::ColumnDecode { index, .. } => write!(f, "cannot decode column {index}"),
            sqlx::Error::ColumnNotFound(name) => write!(f, "no column {name}"),
            sqlx::Error::RowNotFound => f.write_str("no row"),
            sqlx::Error::PoolClosed => f.write_str("pool closed"),
            _ => f.write_str("other"),
        }
    }
}

impl std::fmt::Debug for DriverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for DriverError {}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => {
                let sqlstate = database.code().map(std::borrow::Cow::into_owned).unwrap_or_default();
                match sqlstate.as_str() {
                    // serialization_failure, deadlock_detected, lock_not_available, unique_violation, exclusion_violation
                    "40001" | "40P01" | "55P03" | "23505" | "23P01" => Self::Conflict(DriverError(error)),
                    // query_canceled, idle_in_transaction_session_timeout
                    "57014" | "25P03" => Self::TimedOut(DriverError(error)),
                    // Connection exceptions, insufficient resources (53: too many connections, disk full),
                    // operator intervention (57: shutdown, cannot connect now), read-only after failover.
                    _ if ["08", "53", "57"].iter().any(|class| sqlstate.starts_with(class)) || sqlstate == "25006" => {
                        Self::Unavailable(DriverError(error))
                    }
                    _ => Self::Refused { sqlstate, source: DriverError(error) },
                }
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Self::Unavailable(DriverError(error)),
            _ => Self::Driver(DriverError(error)),
        }
    }
}

/// A pool of connections that work as `chartgate_app`.
#[derive(Debug, Clone)]
pub struct Db {
    pool: PgPool,
    options: PgConnectOptions,
    /// Where units run; the caller's, if there is none.
    runtime: Option<tokio::runtime::Handle>,
    background: Option<Arc<background::Background>>,
    foreground: Foreground,
}

/// Settings of every pooled connection. Nothing may sit in an open transaction or a statement for long.
const SESSION: &str = "set statement_timeout = '60s'; set idle_in_transaction_session_timeout = '30s'; set lock_timeout = '30s'; set jit = off";

/// See [`Db::dedicated`].
const HOT_PLANS: &str = "set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off";

/// A connection that is not there after so long counts as a database that is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Db {
    /// A lazy pool: connections are made when they are needed, so that a database that is away does not stop a start.
    #[must_use]
    pub fn connect(options: PgConnectOptions, connections_max: u32) -> Self {
        let pool = connect_options(connections_max, false).connect_lazy_with(options.clone());
        Self { pool, options, runtime: None, background: None, foreground: Foreground::default() }
    }

    /// How this pool connects, for connections of their own (listener, reaper, committers).
    #[must_use]
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// The jobs for which background units of this database make room.
    #[must_use]
    pub fn foreground(&self) -> &Foreground {
        &self.foreground
    }

    /// The pool itself, for what is not a unit of work (listeners).
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// One transaction for one scope: begin, `work`, commit; rolled back if `work` fails or panics. It runs in a task
    /// of its own to its end, whatever happens to the caller.
    ///
    /// # Errors
    /// What `work` returns, or a [`DbError`] of begin and commit.
    pub async fn unit<T, E, F>(&self, scope: Scope, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
    {
        let pool = self.pool.clone();
        let unit = async move {
            let mut connection = pool.acquire().await.map_err(DbError::from)?;
            // One round trip: begin and context together.
            let begin = AssertSqlSafe(begin_statement(&scope));
            let mut transaction = connection.begin_with(begin).await.map_err(DbError::from)?;
            let value = work(&mut transaction).await?;
            // What a large one flushes, the others' commits wait for.
            give_way().await;
            transaction.commit().await.map_err(DbError::from)?;
            Ok(value)
        };
        let task = match &self.runtime {
            Some(background) => background.spawn(self.foreground.beside(unit)),
            None => tokio::spawn(unit),
        };
        task.await.unwrap_or_else(|_| Err(E::from(DbError::Panicked)))
    }

    /// Does the database answer?
    ///
    /// # Errors
    /// [`DbError::Unavailable`].
    pub async fn ping(&self) -> Result<(), DbError> {
        self.unit(Scope::Global, |connection| {
            Box::pin(async move {
                sqlx::query("select 1").execute(connection).await?;
                Ok(())
            })
        })
        .await
    }

    /// A connection of its own outside the pool for the engine's hot statements, working as `chartgate_app`, with plans
    /// that do not depend on statistics: nested loops over keys, whatever the tables' sizes were when it connected.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] while the database is away.
    pub async fn dedicated(&self) -> Result<PgConnection, DbError> {
        let connect = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            become_app(&mut connection).await?;
            sqlx::raw_sql(SESSION).execute(&mut connection).await?;
            sqlx::raw_sql(HOT_PLANS).execute(&mut connection).await?;
            Ok::<_, sqlx::Error>(connection)
        };
        // Cancelling a connect leaves nothing behind: the connection is not pooled.
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(sqlx::Error::PoolTimedOut.into()),
        }
    }
}

/// How a pool makes its connections; `is_lowered`: with server processes of lower priority.
fn connect_options(connections_max: u32, is_lowered: bool) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(Duration::from_secs(5))
        .max_lifetime(Duration::from_mins(30))
        .after_connect(move |connection, _| {
            Box::pin(async move {
                become_app(connection).await?;
                sqlx::raw_sql(SESSION).execute(&mut *connection).await?;
                if is_lowered {
                    background::lower_server_process(connection).await?;
                }
                Ok(())
            })
        })
}

/// `begin` with the tenant context; ids are UUIDs, so the text is ours.
fn begin_statement(scope: &Scope) -> String {
    match scope {
        Scope::Organization(organization) => {
            format!("begin; set local app.organization = '{{{}}}'", organization.0)
        }
        Scope::Platform => "begin; set local role chartgate_platform".to_owned(),
        Scope::Global => "begin".to_owned(),
    }
}

/// Work as `chartgate_app` also when the URL names another user (the weaker wall that `doctor` mentions).
async fn become_app(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("set role chartgate_app").execute(&mut *connection).await?;
    Ok(())
}

/// After a fenced write: exactly one row, or everything rolls back.
///
/// # Errors
/// [`DbError::NotOneRow`].
pub fn ensure_one_row(result: &sqlx::postgres::PgQueryResult) -> Result<(), DbError> {
    match result.rows_affected() {
        1 => Ok(()),
        other => Err(DbError::NotOneRow(other)),
    }
}
