//! Acts on organizations and keys, as HTTP and the console call them: each checks what it is given, and writes its audit
//! record in the same transaction.

use super::store::{self, KeyGrant, Organization};
use super::{NewKey, Role};
use crate::audit::{self, Action, Actor, Record};
use crate::db::{Db, DbError, Scope};
use crate::ids::OrganizationId;
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::time::Duration;
use time::OffsetDateTime;

/// How long an old key is good beside its successor, unless somebody says otherwise: a day, in seconds.
pub const OVERLAP_SECONDS: u32 = 86_400;
/// At most: 90 days.
pub const OVERLAP_SECONDS_MAX: u32 = 7_776_000;

/// Who acts, and why.
#[derive(Debug, Clone)]
pub struct By {
    /// For the audit record.
    pub actor: Actor,
    /// The organization that the actor belongs to; none of the platform, which may act for all.
    pub home: Option<OrganizationId>,
    /// The reason that was given.
    pub reason: Option<String>,
}

/// Why an act was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// There is no such organization.
    #[error("There is no such organization.")]
    NoOrganization,
    /// There is an organization of that name.
    #[error("There is an organization of that name.")]
    NameTaken,
    /// There is no such key, or none that is still good.
    #[error("There is no such key that is still good.")]
    NoKey,
    /// What was given cannot be taken; the text says why.
    #[error("{0}")]
    Invalid(&'static str),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Write what was done down.
///
/// # Errors
/// The database's.
pub async fn record(
    connection: &mut PgConnection,
    organization: OrganizationId,
    (event, action): (&str, Action),
    by: &By,
    resource: &str,
    detail: Option<Value>,
) -> Result<(), DbError> {
    let mut record = Record::new(organization, event, action, &by.actor);
    record.resource = Some(resource);
    record.purpose = by.reason.as_deref();
    record.detail = detail;
    audit::append(connection, record).await
}

/// Create an organization.
///
/// # Errors
/// [`ActError::Invalid`], [`ActError::NameTaken`], the database's.
pub async fn create_organization(db: &Db, name: &str, by: By) -> Result<Organization, ActError> {
    let trimmed = name.trim().to_owned();
    if trimmed.is_empty() || name.chars().count() > 200 || trimmed.contains('\0') {
        return Err(ActError::Invalid("`name` must have 1 to 200 characters."));
    }
    // Whoever names an organization may do so by id or by name: one must not look like another's.
    if trimmed.parse::<OrganizationId>().is_ok() {
        return Err(ActError::Invalid("`name` must not have the form of an organization's id."));
    }
    let id = OrganizationId::new();
    let created = db
        .unit::<_, DbError, _>(Scope::Organization(id), move |connection| {
            Box::pin(async move {
                let created = store::insert_organization(connection, id, &trimmed).await?;
                if created.is_some() {
                    let act = ("organization.created", Action::Create);
                    record(connection, id, act, &by, &id.to_string(), None).await?;
                }
                Ok(created)
            })
        })
        .await?;
    created.ok_or(ActError::NameTaken)
}

/// Pause or resume an organization: a paused one's jobs are accepted and wait. The caller wakes the workers up.
///
/// # Errors
/// [`ActError::NoOrganization`], the database's.
pub async fn set_paused(db: &Db, id: OrganizationId, paused: bool, by: By) -> Result<Organization, ActError> {
    let (status, event) = if paused { ("paused", "organization.paused") } else { ("active", "organization.resumed") };
    let changed = db
        .unit::<_, DbError, _>(Scope::Organization(id), move |connection| {
            Box::pin(async move {
                let changed = store::set_status(connection, id, status).await?;
                if changed.is_some() {
                    record(connection, id, (event, Action::Update), &by, &id.to_string(), None).await?;
                }
                Ok(changed)
            })
        })
        .await?;
    changed.ok_or(ActError::NoOrganization)
}

/// A key's name and the label of its sender.
///
/// # Errors
/// [`ActError::Invalid`].
pub fn check_words(name: &str, source: &str) -> Result<(), ActError> {
    let is_name = name.chars().count() <= 200 && !name.chars().any(char::is_control);
    let is_source = (1..=100).contains(&source.chars().count()) && !source.chars().any(char::is_control);
    if is_name && is_source {
        Ok(())
    } else {
        Err(ActError::Invalid(
            "`name` must have at most 200 and `source` 1 to 100 characters, none of them a control character.",
        ))
    }
}

/// Create a key for that organization, or without one for the platform. The answer is the only place where it is shown.
///
/// # Errors
/// [`ActError::Invalid`], the database's.
pub async fn create_key(db: &Db, grant: KeyGrant, by: By) -> Result<NewKey, ActError> {
    check_words(&grant.name, &grant.source)?;
    let key = NewKey::generate();
    let (home, role) = (grant.organization.unwrap_or(OrganizationId::PLATFORM), grant.role);
    let created = db.unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
        Box::pin(async move {
            store::insert_key(connection, &key, &grant).await?;
            let (resource, detail) = (format!("key:{}", key.id), json!({ "role": role.as_str() }));
            record(connection, home, ("key.created", Action::Create), &by, &resource, Some(detail)).await?;
            Ok(key)
        })
    });
    Ok(created.await?)
}

/// Whose a key is, and so whose log tells of its end: an administrator's own organization's keys only; those of the platform role
/// are the platform's.
async fn home_of(db: &Db, id: &str, by: &By) -> Result<OrganizationId, ActError> {
    let id = id.to_owned();
    let found = db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move { store::find_key(connection, &id).await })
        })
        .await?;
    let key = found.filter(|key| by.home.is_none() || key.organization_id == by.home).ok_or(ActError::NoKey)?;
    Ok(key.organization_id.unwrap_or(OrganizationId::PLATFORM))
}

/// A key's successor: with what it may do, and for whom.
pub struct Rotated {
    /// The new key.
    pub key: NewKey,
    /// What it may do.
    pub role: Role,
    /// None for the platform role.
    pub organization: Option<OrganizationId>,
}

/// Make a key's successor; the old one ends after the overlap. An administrator's own organization's keys only.
///
/// # Errors
/// [`ActError::NoKey`], [`ActError::Invalid`], the database's.
pub async fn rotate_key(
    db: &Db,
    id: &str,
    overlap_seconds: u32,
    expires_at: Option<OffsetDateTime>,
    by: By,
) -> Result<Rotated, ActError> {
    if overlap_seconds > OVERLAP_SECONDS_MAX {
        return Err(ActError::Invalid("`overlapSeconds` must be at most 7776000."));
    }
    let home = home_of(db, id, &by).await?;
    let (key, id) = (NewKey::generate(), id.to_owned());
    let rotated = db
        .unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                let overlap = Duration::from_secs(overlap_seconds.into());
                let rotated = store::rotate_key(connection, &id, by.home, &key, overlap, expires_at).await?;
                let Some((role, organization)) = rotated else { return Ok(None) };
                let resource = format!("key:{id}");
                let detail = json!({ "new": key.id, "overlapSeconds": overlap_seconds });
                record(connection, home, ("key.rotated", Action::Update), &by, &resource, Some(detail)).await?;
                Ok(Some(Rotated { key, role, organization }))
            })
        })
        .await?;
    rotated.ok_or(ActError::NoKey)
}

/// Revoke a key; it stops working on every process within seconds. An administrator's own organization's keys only.
///
/// # Errors
/// [`ActError::NoKey`], the database's.
pub async fn revoke_key(db: &Db, id: &str, by: By) -> Result<(), ActError> {
    let home = home_of(db, id, &by).await?;
    let id = id.to_owned();
    let revoked = db
        .unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                let revoked = store::revoke_key(connection, &id, by.home).await?;
                if revoked {
                    let resource = format!("key:{id}");
                    record(connection, home, ("key.revoked", Action::Delete), &by, &resource, None).await?;
                }
                Ok(revoked)
            })
        })
        .await?;
    if revoked { Ok(()) } else { Err(ActError::NoKey) }
}
