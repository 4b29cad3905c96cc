//! Outbound callbacks: an organization's receivers are told of the ends of its jobs, by signed messages. docs/callbacks.md.
//!
//! Promises: whoever ends a job writes the message in the same transaction (a trigger on `jobs`), so no end is missed; each
//! message is delivered at least once while its callback is active and answers within the workflow's patience, always under
//! the same `webhook-id`; nothing but the registered host's public addresses is ever connected to; messages hold ids, codes
//! and times only. Leaves to others: running deliveries (they are jobs of the workflow `callback`), and the order of
//! messages, which there is none.

pub mod address;
pub mod deliver;
pub mod dispatch;
pub mod message;
pub mod messages_store;
pub mod resend;
pub mod send;
pub mod signature;
pub mod slots;
pub mod store;
pub mod target;
pub mod trust;

use crate::config::Config;
use crate::db::{Db, DbError};
use crate::engine::handler::StepHandler;
use crate::ids::{CallbackId, OrganizationId};
use crate::secrets::{Secrets, SecretsError};
use secrecy::SecretSlice;
use send::Sender;
use slots::Slots;
use std::sync::Arc;
use std::time::Duration;
use target::{Lookup, Policy, SystemLookup};
use trust::TrustError;

/// The workflow whose jobs deliver.
pub const WORKFLOW: &str = "callback";
/// Callbacks of one organization, at most: each of them multiplies what is sent.
pub const CALLBACKS_MAX: i64 = 20;
/// What may be told of: a job's terminal statuses.
pub const EVENTS: &[&str] =
    &["job.succeeded", "job.succeeded_with_issues", "job.failed", "job.cancelled", "job.expired"];

/// Why a callback could not be acted on.
#[derive(Debug, thiserror::Error)]
pub enum CallbackError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Its secret cannot be sealed or opened.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
}

/// What sending needs, shared by the deliveries and the API. Cheap to clone.
#[derive(Clone)]
pub struct Callbacks {
    /// PostgreSQL.
    pub db: Db,
    /// Over the guarded network.
    pub sender: Sender,
    /// Opens the secrets.
    pub secrets: Secrets,
    /// Places for deliveries that are under way.
    pub slots: Slots,
    /// Failures on end for so long disable a callback.
    pub disable_after: Duration,
    /// Put before the path of a job.
    pub public_url: Arc<str>,
}

impl Callbacks {
    /// As configured, over the system's resolver.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn new(config: &Config, db: Db, secrets: Secrets) -> Result<Self, TrustError> {
        Self::with_lookup(config, db, secrets, Arc::new(SystemLookup))
    }

    /// The same over another resolver.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn with_lookup(config: &Config, db: Db, secrets: Secrets, lookup: Arc<dyn Lookup>) -> Result<Self, TrustError> {
        let roots = match &config.callbacks.ca_file {
            Some(path) => trust::authorities(path)?,
            None => Vec::new(),
        };
        Ok(Self {
            db,
            sender: Sender::new(Policy::new(&config.callbacks), lookup, &roots)?,
            secrets,
            slots: Slots::new(config.workers_concurrency),
            disable_after: config.callbacks.disable_after,
            public_url: config.callbacks.public_url.as_str().into(),
        })
    }

    /// The handlers of the workflow `callback`.
    #[must_use]
    pub fn handlers(&self) -> Vec<(&'static str, Arc<dyn StepHandler>)> {
        vec![("callback.deliver", Arc::new(deliver::Deliver::new(self.clone())))]
    }

    /// The secrets of a receiver that are good now, the current one first.
    ///
    /// # Errors
    /// [`SecretsError`]: all but `Damaged` are this process's, and another one may have the key.
    pub fn open_secrets(
        &self,
        organization: OrganizationId,
        callback: CallbackId,
        receiver: &store::Receiver,
    ) -> Result<Vec<SecretSlice<u8>>, SecretsError> {
        let context = secret_context(organization, callback);
        let sealed = std::iter::once(&receiver.secret).chain(&receiver.previous_secret);
        sealed.map(|sealed| self.secrets.open(&context, sealed)).collect()
    }
}

/// What a callback's sealed secrets are bound to.
#[must_use]
pub fn secret_context(organization: OrganizationId, callback: CallbackId) -> String {
    format!("callback:{organization}:{callback}")
}
