//! One attempt to hand a message to its receiver, over the network and without the database.
//!
//! Promises: the connection goes to a checked address only, nothing is followed, no proxy of the environment is used,
//! nothing of an answer is kept but its status and its `Retry-After`, and all of it ends within [`TIMEOUT`].

use super::signature;
use super::target::{GuardedResolver, Lookup, Policy, TargetError};
use super::trust::Distrust;
use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use secrecy::SecretSlice;
use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// From the first look-up to the end of the answer.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// A connection that does not come about in this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of an answer's body so many bytes are read, and thrown away; then the connection is closed.
const ANSWER_MAX: usize = 16 * 1024;
/// A receiver's `Retry-After` counts up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(6);

/// A message on its way.
pub struct Outgoing {
    /// The URL as registered.
    pub url: String,
    /// `webhook-id`: the same over all attempts.
    pub id: String,
    /// `webhook-timestamp`: of this attempt, seconds since 1970.
    pub timestamp: i64,
    /// JSON.
    pub body: Bytes,
    /// The secrets that are good now.
    pub secrets: Vec<SecretSlice<u8>>,
}

/// Why an attempt failed; its word is the code of docs/errors/.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The URL or an address of its host is not allowed; nothing was sent.
    Refused,
    /// The host does not resolve, no connection came about, TLS failed, or the connection broke.
    Unreachable,
    /// The receiver showed a certificate that is not trusted; nothing was sent.
    Untrusted(Distrust),
    /// No answer in time.
    TimedOut,
    /// 3xx: nothing is followed.
    Redirected,
    /// 410: the receiver wants no more.
    Gone,
    /// Any other status but 2xx.
    Rejected,
}

impl Fault {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Refused => "callback_refused",
            Self::Unreachable => "callback_unreachable",
            Self::Untrusted(_) => "callback_untrusted",
            Self::TimedOut => "callback_timeout",
            Self::Redirected => "callback_redirected",
            Self::Gone => "callback_gone",
            Self::Rejected => "callback_rejected",
        }
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// `None`: delivered.
    pub fault: Option<Fault>,
    /// The answer's status, if there was one.
    pub status: Option<u16>,
    /// What the receiver asked for.
    pub retry_after: Option<Duration>,
    /// How long it took.
    pub duration: Duration,
}

/// Sends messages. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    policy: Policy,
    resolver: GuardedResolver,
    client: reqwest::Client,
}

impl Sender {
    /// With a resolver, and certificates that are trusted beside the system's.
    ///
    /// # Errors
    /// When TLS cannot be set up at all.
    pub fn new(
        policy: Policy,
        lookup: Arc<dyn Lookup>,
        roots: &[reqwest::Certificate],
    ) -> Result<Self, reqwest::Error> {
        let resolver = GuardedResolver::new(policy.clone(), lookup);
        let build = |with_system: bool| {
            let mut builder = reqwest::Client::builder()
                .dns_resolver(Arc::new(resolver.clone()))
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .referer(false)
                .https_only(!policy.allows_http())
                .tls_built_in_root_certs(with_system)
                // Resolved and checked anew for every message.
                .pool_max_idle_per_host(0)
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(TIMEOUT)
                .user_agent(concat!("Chartgate/", env!("CARGO_PKG_VERSION")));
            for root in roots {
                builder = builder.add_root_certificate(root.clone());
            }
            builder.build()
        };
        // A machine without any certificates can do all but tell others: its deliveries fail, and are tried again.
        let client = build(true).or_else(|error| {
            let known = roots.len();
            tracing::warn!(error = %error, known, "this machine has no certificates of authorities: callbacks are delivered only to receivers whose authority is one of the {known} in callbacks.ca_file");
            build(false)
        })?;
        Ok(Self { policy, resolver, client })
    }

    /// Check a URL as it is checked before every attempt, its host resolved now.
    ///
    /// # Errors
    /// [`TargetError`].
    pub async fn check(&self, url: &str) -> Result<(), TargetError> {
        self.resolver.check(url).await.map(drop)
    }

    /// One attempt. `now` is for a `Retry-After` that is a date.
    pub async fn send(&self, message: Outgoing, now: OffsetDateTime) -> Sent {
        let begun = Instant::now();
        let mut sent = self.attempt(message, now).await;
        sent.duration = begun.elapsed();
        sent
    }

    async fn attempt(&self, message: Outgoing, now: OffsetDateTime) -> Sent {
        let failed = |fault| Sent { fault: Some(fault), status: None, retry_after: None, duration: Duration::ZERO };
        let Ok(url) = self.policy.parse(&message.url) else { return failed(Fault::Refused) };
        let signature = signature::sign(&message.secrets, &message.id, message.timestamp, &message.body);
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", message.id)
            .header("webhook-timestamp", message.timestamp)
            .header("webhook-signature", signature)
            .body(message.body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return failed(fault_of(&error)),
        };
        let status = response.status();
        let retry_after = retry_after(response.headers(), now);
        drain(response).await;
        let fault = match status.as_u16() {
            200..=299 => None,
            300..=399 => Some(Fault::Redirected),
            410 => Some(Fault::Gone),
            _ => Some(Fault::Rejected),
        };
        Sent { fault, status: Some(status.as_u16()), retry_after, duration: Duration::ZERO }
    }
}

/// Read a little of the body, so that an ordinary receiver sees its answer taken; nothing of it is kept.
async fn drain(response: reqwest::Response) {
    let mut read = 0;
    let mut body = response.bytes_stream();
    while let Some(Ok(piece)) = body.next().await {
        read += piece.len();
        if read > ANSWER_MAX {
            return;
        }
    }
}

fn fault_of(error: &reqwest::Error) -> Fault {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(reason) = Distrust::of(inner) {
            return Fault::Untrusted(reason);
        }
        match inner.downcast_ref::<TargetError>() {
            Some(TargetError::Unresolved) => return Fault::Unreachable,
            Some(_) => return Fault::Refused,
            None => cause = inner.source(),
        }
    }
    if error.is_timeout() { Fault::TimedOut } else { Fault::Unreachable }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = if let Ok(seconds) = text.parse() {
        Duration::from_secs(seconds)
    } else {
        // The form of HTTP is that of RFC 2822 but for the name of the zone.
        let date = OffsetDateTime::parse(&text.replace("GMT", "+0000"), &Rfc2822).ok()?;
        Duration::try_from(date - now).unwrap_or_default()
    };
    Some(asked.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let now = OffsetDateTime::from_unix_timestamp(1_445_412_420).unwrap(); // Wed, 21 Oct 2015 07:27:00 GMT
        for (text, seconds) in [
            ("120", Some(120)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(60)),
            ("Wed, 21 Oct 2015 07:00:00 GMT", Some(0)),
            ("99999999", Some(6 * 3600)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
