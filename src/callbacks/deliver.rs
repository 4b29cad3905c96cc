//! `callback.deliver`: one attempt to hand a message to its receiver.
//!
//! Runs again after any stop: between the receiver's answer and the commit nothing is known of it, so that a message may
//! arrive twice, with the same `webhook-id`. A failed attempt writes its line of the log by itself; a good one in the
//! transaction of its step.

use super::messages_store::{self as messages, Attempt, MessageRow};
use super::send::{Fault, Outgoing, Sent};
use super::store::{self, Receiver};
use super::{Callbacks, message};
use crate::audit::{self, Action, Actor, Record};
use crate::db::{DbError, Scope};
use crate::engine::handler::{Facts, StepContext, StepError, StepHandler, StepOutcome};
use crate::ids::{CallbackId, DeliveryId, OrganizationId};
use crate::secrets::SecretsError;
use crate::telemetry;
use serde_json::json;
use std::time::Duration;

/// So long a delivery waits for a place: receivers that answer quickly give theirs back sooner.
const PATIENCE: Duration = Duration::from_millis(250);
/// A delivery that finds no place comes again after so long.
const BUSY: Duration = Duration::from_secs(5);

/// The handler.
pub struct Deliver {
    callbacks: Callbacks,
}

impl Deliver {
    /// Over those callbacks.
    #[must_use]
    pub fn new(callbacks: Callbacks) -> Self {
        Self { callbacks }
    }

    async fn due(&self, context: &StepContext) -> Result<(MessageRow, Receiver), StepError> {
        let (organization, job) = (context.organization, context.job);
        let found = self
            .callbacks
            .db
            .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                Box::pin(async move {
                    let Some(row) = messages::of_delivery(connection, organization, job).await? else {
                        return Ok(None);
                    };
                    let receiver = store::receiver(connection, organization, row.callback_id).await?;
                    Ok(receiver.map(|receiver| (row, receiver)))
                })
            })
            .await?;
        found.filter(|(_, receiver)| receiver.status == "active").ok_or_else(|| {
            StepError::sender("callback_disabled", "The callback is disabled or removed, or its message was sent anew.")
        })
    }
}

#[async_trait::async_trait]
impl StepHandler for Deliver {
    async fn run(&self, context: &StepContext) -> Result<StepOutcome, StepError> {
        let Some(_slot) = self.callbacks.slots.take_within(context.organization, PATIENCE).await else {
            let message = "As many callbacks as may be are under way in this process.";
            return Err(StepError::put_off("callback_busy", message, BUSY));
        };
        let (row, receiver) = self.due(context).await?;
        let organization = context.organization;
        let opened = self.callbacks.open_secrets(organization, row.callback_id, &receiver);
        let secrets = opened.map_err(|error| unreadable(error, row.callback_id))?;
        let outgoing = Outgoing {
            url: receiver.url,
            id: row.id.to_string(),
            timestamp: receiver.now.unix_timestamp(),
            body: message::body(organization, &row, &self.callbacks.public_url),
            secrets,
        };
        let sent = self.callbacks.sender.send(outgoing, receiver.now).await;
        let attempt = attempt(&row, sent);
        if let Some(fault) = sent.fault {
            self.record_failure(organization, attempt, fault).await;
            return Err(step_error(fault, sent));
        }
        let facts = json!({ "message_id": row.id, "response_status": sent.status });
        Ok(StepOutcome::with_output(facts.as_object().cloned().unwrap_or_default()).with_effect(move |connection| {
            let attempt = attempt.clone();
            Box::pin(async move {
                messages::log(connection, organization, &attempt).await?;
                messages::delivered(connection, organization, attempt.message, attempt.callback).await?;
                Ok(Facts::new())
            })
        }))
    }
}

/// A process without the right key is mended by its operator, or by another process that has it: the message waits for that
/// as for a receiver. Only a damaged secret never opens.
fn unreadable(error: SecretsError, callback: CallbackId) -> StepError {
    if matches!(error, SecretsError::Damaged) {
        return StepError::ours("callback_secret_unreadable", "The callback's secret is damaged: rotate it.")
            .caused_by(error);
    }
    tracing::error!(callback.id = %callback, error = %error, "the secret of callback {callback} cannot be opened here: all processes need the same secrets.key");
    StepError::transient("callback_secret_unreadable", "The callback's secret cannot be opened by this process.")
        .caused_by(error)
}

fn attempt(row: &MessageRow, sent: Sent) -> Attempt {
    Attempt {
        id: DeliveryId::new(),
        callback: row.callback_id,
        message: row.id,
        job: Some((row.job_id, row.round)),
        event: message::event(row),
        error_code: sent.fault.map(Fault::code),
        response_status: sent.status,
        duration: sent.duration,
    }
}

impl Deliver {
    /// A line of the log, and what follows for the callback. The attempt has failed also when this cannot be written.
    async fn record_failure(&self, organization: OrganizationId, attempt: Attempt, fault: Fault) {
        let disable_after = self.callbacks.disable_after;
        let callback = attempt.callback;
        let recorded = self
            .callbacks
            .db
            .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                Box::pin(async move {
                    messages::log(connection, organization, &attempt).await?;
                    let is_gone = fault == Fault::Gone;
                    let disabled =
                        messages::failed(connection, organization, attempt.callback, is_gone, disable_after).await?;
                    if let Some(reason) = disabled {
                        let (actor, resource) = (Actor::internal("callbacks"), attempt.callback.to_string());
                        let mut record = Record::new(organization, "callback.disabled", Action::Update, &actor);
                        record.resource = Some(&resource);
                        record.detail = Some(json!({ "reason": reason }));
                        audit::append(connection, record).await?;
                    }
                    Ok(disabled)
                })
            })
            .await;
        match recorded {
            Ok(Some(reason)) => {
                telemetry::callback_disabled(reason);
                tracing::warn!(organization.id = %organization, callback.id = %callback, reason, "callback {callback} is disabled: {reason}");
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(organization.id = %organization, callback.id = %callback, error = ?error, "a failed attempt of callback {callback} could not be logged");
            }
        }
    }
}

fn step_error(fault: Fault, sent: Sent) -> StepError {
    let status = sent.status.unwrap_or_default();
    let mut error = match fault {
        Fault::Refused => StepError::transient(
            "callback_refused",
            "The callback's host is none that may be called; nothing was sent.",
        ),
        Fault::Unreachable => {
            StepError::transient("callback_unreachable", "The callback's receiver cannot be reached.")
        }
        Fault::Untrusted(reason) => StepError::transient(
            "callback_untrusted",
            format!("The callback's receiver showed a certificate that is not trusted: {}.", reason.as_str()),
        ),
        Fault::TimedOut => StepError::transient("callback_timeout", "The callback's receiver did not answer in time."),
        Fault::Redirected => StepError::transient(
            "callback_redirected",
            format!("The callback's receiver answered {status}; redirects are not followed."),
        ),
        Fault::Gone => StepError::sender("callback_gone", "The callback's receiver answered 410: it wants no more."),
        Fault::Rejected => {
            StepError::transient("callback_rejected", format!("The callback's receiver answered {status}."))
        }
    };
    error.retry_after = sent.retry_after;
    error
}
