//! Who submits: a caller with a bearer token, as everywhere, or the sender of a signed webhook.
//!
//! A signature is over the body, so a signed request is authenticated only when its body is there: sender and time are
//! checked before it is read, and nothing of it is decompressed or looked at before the signature fits.

use super::extract::{Authenticated, RequestContext, decode_body, read_body, receive_body};
use super::problem::Problem;
use crate::app::App;
use crate::auth::webhooks::{Headers, Pending};
use crate::auth::{AuthError, Refusal, Role};
use crate::limits::pressure::Work;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// Names the sender of a signed webhook.
const KEY_HEADER: &str = "chartgate-key";

/// Whoever submits.
pub enum Submitting {
    /// With a bearer token.
    Known(Authenticated),
    /// With a signature, which is still to be checked.
    Signed(Box<Pending>, Option<RequestContext>),
}

/// A submission whose sender is known.
pub struct Received {
    /// Who.
    pub caller: Authenticated,
    /// The body after content decoding.
    pub body: Bytes,
    /// Of a webhook: under which repetitions are recognized.
    pub idempotency_key: Option<String>,
}

impl FromRequestParts<Arc<App>> for Submitting {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        if !parts.headers.contains_key(KEY_HEADER) {
            return Ok(Self::Known(Authenticated::from_request_parts(parts, app).await?));
        }
        // One way to say who one is, not two that may disagree.
        if parts.headers.contains_key(header::AUTHORIZATION) {
            return Err(AuthError::from(Refusal::WebhookMalformed).into());
        }
        let headers = Headers {
            key: once(&parts.headers, KEY_HEADER)?,
            id: once(&parts.headers, "webhook-id")?,
            timestamp: once(&parts.headers, "webhook-timestamp")?,
            signature: once(&parts.headers, "webhook-signature")?,
        };
        let pending = app.webhooks.begin(headers).await?;
        Ok(Self::Signed(Box::new(pending), parts.extensions.get::<RequestContext>().cloned()))
    }
}

fn once<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, AuthError> {
    let mut values = headers.get_all(name).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(Refusal::WebhookMalformed.into()),
    }
}

impl Submitting {
    /// When the request's headers were there.
    pub fn received(&self) -> Instant {
        match self {
            Self::Known(caller) => caller.received,
            Self::Signed(_, context) => context.as_ref().map_or_else(Instant::now, |context| context.received),
        }
    }

    /// Refuse early who may not submit. A webhook's sender may, and is known later.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn may_submit(&self) -> Result<(), Problem> {
        match self {
            Self::Known(caller) => caller.organization(&[Role::Sender, Role::Admin]).map(|_| ()),
            Self::Signed(..) => Ok(()),
        }
    }

    /// Read the body, of at most `limit` bytes as sent and after gzip, and know who sends it.
    ///
    /// # Errors
    /// Those of [`read_body`]; `unauthenticated` for a signature that does not fit, `idempotency_key_reused` for a
    /// `webhook-id` that came with another body before.
    /// With `queues`, also those of a queue that is full: before the body where the sender is known by then.
    pub async fn receive(
        self,
        app: &App,
        headers: &HeaderMap,
        body: Body,
        limit: usize,
        queues: bool,
    ) -> Result<Received, Problem> {
        let admit = |caller: &Authenticated| match caller.caller.organization.filter(|_| queues) {
            Some(organization) => app.limits.pressure.admit(organization, Work::RealTime, 1),
            None => Ok(()),
        };
        let (pending, context) = match self {
            Self::Known(caller) => {
                admit(&caller)?;
                let body = read_body(headers, body, limit).await?;
                return Ok(Received { caller, body, idempotency_key: None });
            }
            Self::Signed(pending, context) => (pending, context),
        };
        let sent = receive_body(headers, body, limit).await?;
        let verified = pending.verify(&sent)?;
        let caller = Authenticated::of(verified.caller.clone(), context.as_ref());
        // Before anything is written: what is over a limit must not cost the database a row.
        caller.take_one(app, context.as_ref())?;
        admit(&caller)?;
        // What records nothing does not use its id up either.
        if queues && app.webhooks.is_reused(&verified).await.map_err(AuthError::from)? {
            return Err(Problem::new("idempotency_key_reused", "The webhook-id was used before with another body."));
        }
        let body = decode_body(headers, sent, limit).await?;
        Ok(Received { caller, body, idempotency_key: Some(verified.idempotency_key()) })
    }
}
