//! What must hold before anything is accepted: the promises of a 202 rest on these settings of PostgreSQL, and the wall
//! between organizations on the role that we work as.

use crate::db::{Db, DbError, Scope};
use crate::engine::catalog::CatalogError;
use crate::secrets::Secrets;

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

/// The ids of keys that seal stored secrets which are still good, and that this process does not have: callbacks cannot be
/// delivered by it, or signed webhooks not be checked. None when it has all of them.
///
/// # Errors
/// [`DbError`].
pub async fn missing_secret_keys(db: &Db, secrets: &Secrets) -> Result<Vec<String>, DbError> {
    let used: Vec<String> = db
        .unit::<_, DbError, _>(Scope::Global, |connection| {
            Box::pin(async move {
                // In the context of all organizations, for ids of keys only: the five bytes that a sealed secret begins with.
                sqlx::query(
                    "select set_config('app.organization', coalesce((select array_agg(id)::text from organizations), '{}'), true)",
                )
                .execute(&mut *connection)
                .await?;
                Ok(sqlx::query_scalar(
                    "select distinct encode(substring(sealed from 2 for 4), 'hex') id
                     from (
                       select secret sealed from callbacks
                       union all
                       select previous_secret from callbacks where previous_until > chartgate_now()
                       union all
                       select sealed_secret from webhook_secrets
                       where revoked_at is null and (expires_at is null or expires_at > chartgate_now())) s
                     where sealed is not null
                     order by id",
                )
                .fetch_all(connection)
                .await?)
            })
        })
        .await?;
    // A key that cannot be read is one that is not there: what reads it says so by itself.
    Ok(used.into_iter().filter(|id| !secrets.has_key(id).unwrap_or(false)).collect())
}
