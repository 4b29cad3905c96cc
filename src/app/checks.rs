//! What must hold before anything is accepted: the promises of a 202 rest on these settings of PostgreSQL, and the wall
//! between organizations on the role that we work as.

use crate::db::{Db, DbError, Scope};
use crate::engine::catalog::CatalogError;

/// Why the program does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be used as it is.
    #[error("the database cannot be used: {}", .0.join("; "))]
    Unsafe(Vec<String>),
    /// Workflow files.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// No access.
    #[error("the database cannot be read; did the migrations run? (`chartgate migrate`)")]
    Db(#[from] DbError),
    /// A server of our own did not start, or could not be reached.
    #[error("{0}")]
    Server(String),
}

#[derive(sqlx::FromRow)]
struct Facts {
    user: String,
    is_superuser: bool,
    bypasses: bool,
    owned: i64,
    unforced: i64,
    fsync: String,
    full_page_writes: String,
    synchronous_commit: String,
}

/// Refuse a database that would break a promise. `allow_unsafe` is for tests, which run without fsync.
pub(super) async fn check_database(db: &Db, allow_unsafe: bool) -> Result<(), StartError> {
    let facts: Facts = db
        .unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move {
                Ok(sqlx::query_as(
                    "select current_user::text as user, rolsuper as is_superuser, rolbypassrls as bypasses,
                            (select count(*) from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' and relowner = r.oid) owned,
                            -- Those that have it, or a policy that waits for it to be switched on again.
                            (select count(*) from pg_class c
                             where relnamespace = 'public'::regnamespace
                               and (relrowsecurity or exists (select from pg_policy p where p.polrelid = c.oid))
                               and not (relrowsecurity and relforcerowsecurity)) unforced,
                            current_setting('fsync') fsync,
                            current_setting('full_page_writes') full_page_writes,
                            current_setting('synchronous_commit') synchronous_commit
                     from pg_roles r
                     where rolname = current_user",
                )
                .fetch_one(connection)
                .await?)
            })
        })
        .await?;
    let mut faults = Vec::new();
    if facts.is_superuser || facts.bypasses || facts.owned > 0 {
        faults.push(format!("the program works as \"{}\", which bypasses row-level security or owns the tables; it must be chartgate_app", facts.user));
    }
    if facts.unforced > 0 {
        faults.push(format!("{} table(s) do not force row-level security", facts.unforced));
    }
    if !allow_unsafe {
        for (name, value) in [("fsync", &facts.fsync), ("full_page_writes", &facts.full_page_writes)] {
            if value != "on" {
                faults.push(format!("{name} is {value}; a 202 promises that nothing is lost: set it to on"));
            }
        }
        if !["on", "remote_apply", "remote_write", "local"].contains(&facts.synchronous_commit.as_str()) {
            faults.push(format!("synchronous_commit is {}; set it to on", facts.synchronous_commit));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(StartError::Unsafe(faults)) }
}
