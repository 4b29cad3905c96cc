//! What persons do at a review, as HTTP and the console call it: look at it, with its people side by side, and act on links.

use super::acts::{self, ActError, By};
use super::reviews_store::{self as reviews, PersonRow, Review};
use crate::audit::{self, Action, Actor, Record};
use crate::db::{Db, DbError, Scope};
use crate::ids::{OrganizationId, PatientId, ReviewId};
use futures::future::BoxFuture;
use sqlx::PgConnection;
use std::collections::BTreeSet;

/// An act that lost against a concurrent transaction is run again, at most so often.
const RUNS_MAX: usize = 5;
/// Characters of a reason.
const REASON_CHARS_MAX: usize = 1000;

/// A review with what a person needs to decide it: clinical values.
pub struct Shown {
    /// The question.
    pub review: Review,
    /// What the resource says; none for reviews of events.
    pub incoming: Option<PersonRow>,
    /// The candidates.
    pub people: Vec<PersonRow>,
    /// Events that wait for the answer.
    pub waiting: i64,
}

/// One review with demographics side by side; none if the organization has no such. A clinical read: it is audited for each
/// patient that is shown, before anything is.
///
/// # Errors
/// The database's.
pub async fn show(
    db: &Db,
    organization: OrganizationId,
    id: ReviewId,
    actor: &Actor,
) -> Result<Option<Shown>, DbError> {
    let actor = actor.clone();
    db.unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
        Box::pin(async move {
            let Some(review) = reviews::find(connection, organization, id, false).await? else { return Ok(None) };
            let patients = acts::patients_of(&review);
            let incoming = match review.statement_id {
                Some(statement) => reviews::said(connection, organization, statement).await?,
                None => None,
            };
            let people = reviews::people(connection, organization, &patients).await?;
            let waiting = reviews::waiting(connection, organization, &review).await?;
            // One record a patient that is shown; one all the same when there is none.
            let shown: BTreeSet<Option<PatientId>> = people.iter().map(|row| row.id).collect();
            let shown = if shown.is_empty() { BTreeSet::from([None]) } else { shown };
            let resource = id.to_string();
            for patient in shown {
                let mut record = Record::new(organization, "review.read", Action::Read, &actor);
                record.patient = patient;
                record.resource = Some(&resource);
                audit::append(connection, record).await?;
            }
            Ok(Some(Shown { review, incoming, people, waiting }))
        })
    })
    .await
}

/// A reason that can be kept.
///
/// # Errors
/// [`ActError::NotPossible`].
pub fn check_reason(reason: &str) -> Result<(), ActError> {
    if !reason.trim().is_empty() && reason.chars().count() <= REASON_CHARS_MAX {
        Ok(())
    } else {
        Err(ActError::NotPossible("`reason` must have 1 to 1000 characters, not only spaces."))
    }
}

/// Run an act, for a reason that can be kept, in a unit of work of its own.
///
/// # Errors
/// [`ActError`]; [`ActError::NotPossible`] for a reason that cannot be kept.
pub async fn act<T, F>(db: &Db, organization: OrganizationId, by: By, act: F) -> Result<T, ActError>
where
    T: Send + 'static,
    F: for<'c> Fn(&'c mut PgConnection, By) -> BoxFuture<'c, Result<T, ActError>> + Clone + Send + 'static,
{
    check_reason(&by.reason)?;
    let mut runs = 0;
    loop {
        runs += 1;
        let (act, by) = (act.clone(), by.clone());
        let run = db.unit(Scope::Organization(organization), move |connection| act(connection, by)).await;
        match run {
            Err(ActError::Db(DbError::Conflict(_))) if runs < RUNS_MAX => {}
            other => return other,
        }
    }
}
