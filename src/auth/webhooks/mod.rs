//! Signed webhooks (Standard Webhooks 1.0.0): senders that cannot hold an API key sign each request instead.
//!
//! Signed is `{webhook-id}.{webhook-timestamp}.{body}` by HMAC-SHA256, over the bytes of the body as they were sent, before
//! any content decoding: nothing that is not authenticated is ever decompressed. The header `Chartgate-Key` names the
//! sender (`whs_<organization>_<id>`); it is no secret, and says nothing that the signature would not have to prove.
//!
//! A sender has one secret, or several while they are rotated; the header has one signature or several. All are tried, in
//! constant time. An id is remembered with the hash of its body: the same id with the same bytes is a repetition, with
//! others it is refused.

pub mod store;

use super::{AuthError, CACHE_TIME, Caller, Refusal, Role};
use crate::clock::Clock;
use crate::db::{Db, DbError, Scope};
use crate::ids::OrganizationId;
use crate::secrets::Secrets;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroize as _;
use secrecy::{ExposeSecret as _, SecretSlice};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A request may be so old, or so early (Standard Webhooks: "some allowable tolerance"; its libraries say five minutes).
pub const TOLERANCE_SECONDS: i64 = 300;
/// Of an id, in bytes. It holds no full stop, which would let it run over into the timestamp.
const ID_MAX: usize = 200;
/// Signatures in a header, at most.
const SIGNATURES_MAX: usize = 10;
/// Secrets of a sender that are good at the same time, at most.
pub const SECRETS_MAX: usize = 5;
/// Senders in memory, at most.
const CACHE_MAX: usize = 10_000;
/// Senders repeat for some three days; what is older than this was forgotten.
const REMEMBERED: Duration = Duration::from_hours(7 * 24);

/// The public name of a sender: its organization, and 64 random bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SenderId {
    /// Whose.
    pub organization: OrganizationId,
    /// 16 hexadecimal digits.
    pub id: String,
}

/// 16 lower-case hexadecimal digits.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// 64 random bits as an id.
#[must_use]
pub fn new_id() -> String {
    let mut id = [0u8; 8];
    rand::fill(&mut id);
    hex::encode(id)
}

impl fmt::Display for SenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let organization = self.organization.to_string();
        let suffix = organization.strip_prefix("org_").unwrap_or(&organization);
        write!(f, "whs_{suffix}_{}", self.id)
    }
}

impl FromStr for SenderId {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (organization, id) =
            text.strip_prefix("whs_").and_then(|rest| rest.split_once('_')).ok_or(Refusal::WebhookMalformed)?;
        let organization = format!("org_{organization}").parse().map_err(|_| Refusal::WebhookMalformed)?;
        if is_id(id) { Ok(Self { organization, id: id.to_owned() }) } else { Err(Refusal::WebhookMalformed) }
    }
}

/// A secret of 24 to 64 bytes, written `whsec_` and base64. Has no `Debug`.
pub struct Secret(SecretSlice<u8>);

impl Secret {
    /// 32 fresh bytes.
    ///
    /// # Panics
    /// If the operating system has no random numbers.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = vec![0u8; 32];
        rand::fill(&mut bytes[..]);
        Self(SecretSlice::from(bytes))
    }

    /// As senders write it; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = STANDARD.decode(text.strip_prefix("whsec_")?).ok()?;
        if (24..=64).contains(&bytes.len()) {
            return Some(Self(SecretSlice::from(bytes)));
        }
        bytes.zeroize();
        None
    }

    /// As senders write it.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("whsec_{}", STANDARD.encode(self.0.expose_secret()))
    }

    /// The bytes, to be sealed.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

/// Where a sealed secret belongs; it opens nowhere else.
#[must_use]
pub fn place(organization: OrganizationId, secret_id: &str) -> String {
    format!("webhook_secrets/{organization}/{secret_id}")
}

/// The headers of a signed request, each of which was there exactly once.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'h> {
    /// `Chartgate-Key`
    pub key: &'h str,
    /// `webhook-id`
    pub id: &'h str,
    /// `webhook-timestamp`
    pub timestamp: &'h str,
    /// `webhook-signature`
    pub signature: &'h str,
}

struct Sender {
    source: String,
    secrets: Vec<hmac::Key>,
}

/// A request whose headers are well-formed, of a sender that exists: its body is still to be seen.
pub struct Pending {
    sender_id: SenderId,
    sender: Arc<Sender>,
    webhook_id: String,
    timestamp: String,
    signatures: Vec<Vec<u8>>,
}

/// A request that is the sender's own.
#[derive(Debug)]
pub struct Verified {
    /// Who.
    pub caller: Caller,
    sender_id: SenderId,
    webhook_id: String,
    hash: [u8; 32],
}

impl Verified {
    /// The key under which repetitions of the request are recognized: sender and `webhook-id`.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        format!("webhook:{}:{}", self.sender_id.id, self.webhook_id)
    }
}

type Senders = HashMap<SenderId, (Instant, Option<Arc<Sender>>)>;

/// Checks signed requests; cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    db: Db,
    clock: Clock,
    secrets: Secrets,
    senders: Arc<Mutex<Senders>>,
}

impl Webhooks {
    /// Over that database, with the keys that open its secrets.
    #[must_use]
    pub fn new(db: Db, clock: Clock, secrets: Secrets) -> Self {
        Self { db, clock, secrets, senders: Arc::default() }
    }

    /// The part that needs no body: form, time, and whether there is such a sender.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn begin(&self, headers: Headers<'_>) -> Result<Pending, AuthError> {
        let sender_id: SenderId = headers.key.parse()?;
        let is_sane = |byte: u8| byte.is_ascii_graphic() && byte != b'.';
        if !(1..=ID_MAX).contains(&headers.id.len()) || !headers.id.bytes().all(is_sane) {
            return Err(Refusal::WebhookMalformed.into());
        }
        let digits = headers.timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let timestamp: i64 = headers.timestamp.parse().ok().filter(|_| digits).ok_or(Refusal::WebhookMalformed)?;
        if self.clock.now().unix_timestamp().abs_diff(timestamp) > TOLERANCE_SECONDS.unsigned_abs() {
            return Err(Refusal::WebhookTimestamp.into());
        }
        let signatures = signatures(headers.signature)?;
        let sender = self.sender(&sender_id).await?.ok_or(Refusal::WebhookSender)?;
        let (webhook_id, timestamp) = (headers.id.to_owned(), headers.timestamp.to_owned());
        Ok(Pending { sender_id, sender, webhook_id, timestamp, signatures })
    }

    /// Note the id of a request that is to be taken. Answers whether it was seen before with other bytes.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn is_reused(&self, verified: &Verified) -> Result<bool, DbError> {
        let Verified { sender_id, webhook_id, hash, .. } = verified;
        let (organization, id) = (sender_id.organization, sender_id.id.clone());
        let (noted, hash) = (webhook_id.clone(), *hash);
        let first = self
            .db
            .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                Box::pin(async move { store::note_webhook(connection, organization, &id, &noted, &hash).await })
            })
            .await?;
        Ok(first != hash)
    }

    /// A sender with the secrets that are good now; looked up at most every [`CACHE_TIME`].
    async fn sender(&self, sender_id: &SenderId) -> Result<Option<Arc<Sender>>, DbError> {
        let cached = self.senders.lock().unwrap_or_else(PoisonError::into_inner).get(sender_id).cloned();
        if let Some((at, sender)) = cached
            && at.elapsed() < CACHE_TIME
        {
            return Ok(sender);
        }
        let (at, organization, id) = (Instant::now(), sender_id.organization, sender_id.id.clone());
        let rows = self
            .db
            .unit::<_, DbError, _>(Scope::Organization(organization), move |connection| {
                Box::pin(async move { store::use_secrets(connection, organization, &id).await })
            })
            .await?;
        let source = rows.first().map(|row| row.source.clone());
        let keys: Vec<hmac::Key> = rows
            .iter()
            .filter_map(|row| match self.secrets.open(&place(organization, &row.id), &row.sealed_secret) {
                Ok(secret) => Some(hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret())),
                Err(error) => {
                    tracing::error!(error = %error, secret = row.id, "a webhook secret cannot be opened");
                    None
                }
            })
            .collect();
        let sender = source.filter(|_| !keys.is_empty()).map(|source| Arc::new(Sender { source, secrets: keys }));
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        if senders.len() >= CACHE_MAX {
            // Names that were made up go first: a flood of them must not push the real ones out.
            senders.retain(|_, (_, sender)| sender.is_some());
            if senders.len() >= CACHE_MAX {
                senders.clear();
            }
        }
        senders.insert(sender_id.clone(), (at, sender.clone()));
        Ok(sender)
    }

    /// A sender's secrets changed: this process looks again at once, others within [`CACHE_TIME`].
    pub fn forget(&self) {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The signatures of version 1; others are for whoever knows them.
fn signatures(header: &str) -> Result<Vec<Vec<u8>>, Refusal> {
    let parts: Vec<&str> = header.split(' ').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() || parts.len() > SIGNATURES_MAX {
        return Err(Refusal::WebhookMalformed);
    }
    Ok(parts.iter().filter_map(|part| STANDARD.decode(part.strip_prefix("v1,")?).ok()).collect())
}

impl Pending {
    /// Check the signature over the body as it was sent. Costs no query.
    ///
    /// # Errors
    /// [`Refusal::WebhookSignature`].
    pub fn verify(self, body: &[u8]) -> Result<Verified, AuthError> {
        if !self.is_signed(body) {
            return Err(Refusal::WebhookSignature.into());
        }
        let caller = Caller {
            name: format!("webhook:{}", self.sender_id.id),
            authentication: "webhook",
            organization: Some(self.sender_id.organization),
            roles: vec![Role::Sender],
            source_label: self.sender.source.clone(),
        };
        let hash = Sha256::digest(body).into();
        Ok(Verified { caller, sender_id: self.sender_id, webhook_id: self.webhook_id, hash })
    }

    /// Every secret is tried with every signature: how long it takes says nothing of which one fits.
    fn is_signed(&self, body: &[u8]) -> bool {
        let mut fits = false;
        for secret in &self.sender.secrets {
            let mut context = hmac::Context::with_key(secret);
            context.update(self.webhook_id.as_bytes());
            context.update(b".");
            context.update(self.timestamp.as_bytes());
            context.update(b".");
            context.update(body);
            let tag = context.sign();
            for signature in &self.signatures {
                fits |= aws_lc_rs::constant_time::verify_slices_are_equal(tag.as_ref(), signature).is_ok();
            }
        }
        fits
    }
}

/// Forget webhooks that were seen long ago, until cancelled. Any number of processes may.
pub async fn run(db: Db, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_mins(10)) => {}
        }
        if let Err(error) = forget_old(&db).await {
            tracing::warn!(error = ?error, "old webhooks could not be forgotten");
        }
    }
}

/// Forget all that is old by now; how many.
///
/// # Errors
/// A [`DbError`].
pub async fn forget_old(db: &Db) -> Result<i64, DbError> {
    let mut all = 0;
    loop {
        // Some of each organization at a time.
        let some =
            db.unit(Scope::Global, |connection| Box::pin(store::forget_webhooks(connection, REMEMBERED))).await?;
        all += some;
        if some < i64::from(store::FORGET_MAX) {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request of a sender with these secrets.
    fn pending(secrets: &[&str], id: &str, timestamp: &str, signature: &str) -> Pending {
        let key = |text: &&str| hmac::Key::new(hmac::HMAC_SHA256, Secret::parse(text).unwrap().expose());
        let sender = Sender { source: "default".to_owned(), secrets: secrets.iter().map(key).collect() };
        Pending {
            sender_id: SenderId { organization: OrganizationId::new(), id: new_id() },
            sender: Arc::new(sender),
            webhook_id: id.to_owned(),
            timestamp: timestamp.to_owned(),
            signatures: signatures(signature).unwrap(),
        }
    }

    /// The secret of the vectors, and another one.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    #[test]
    fn the_vectors_of_standard_webhooks_are_good_and_nothing_near_them_is() {
        // libraries/testdata/signatures.json, and the constant of the libraries' own tests.
        for (id, timestamp, body, signature) in [
            (
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                "1696200454",
                r#"{"type": "example.created", "timestamp":"2023-09-28T19:20:22+00:00", "data":{"str":"string","bool":true,"int":42}}"#,
                "v1,GgjvufBlIj71MBIVQotYGb+xEC3LNXCsIZp0HsDC8qs=",
            ),
            (
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                "1614265330",
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ] {
            let check = |secrets: &[&str], id: &str, timestamp: &str, body: &str, signature: &str| {
                pending(secrets, id, timestamp, signature).is_signed(body.as_bytes())
            };
            assert!(check(&[SECRET], id, timestamp, body, signature));
            assert!(check(&[OTHER, SECRET], id, timestamp, body, signature), "the second secret");
            let wrong = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";
            assert!(check(&[SECRET], id, timestamp, body, &format!("{wrong} v1a,AAAA {signature} v2,AAAA")));
            assert!(!check(&[OTHER], id, timestamp, body, signature));
            assert!(!check(&[], id, timestamp, body, signature));
            assert!(!check(&[SECRET], &id.replace('p', "q"), timestamp, body, signature));
            assert!(!check(&[SECRET], id, &timestamp.replace('1', "2"), body, signature));
            assert!(
                !check(&[SECRET], id, timestamp, &body.replace(": ", ":"), signature),
                "a body that was written anew"
            );
            for bad in [
                wrong,
                &signature.replace("v1,", "v2,"),
                &signature.replace("v1,", "v1a,"),
                &signature.replace("v1,", ""),
                &signature.replace('=', ""),
                &signature[..20],
                "v1,",
                "v1",
                ",",
            ] {
                assert!(!check(&[SECRET], id, timestamp, body, bad), "{bad}");
            }
        }
    }

    #[test]
    fn a_sender_is_named_with_its_organization_and_nothing_else_is_a_name() {
        let sender = SenderId { organization: OrganizationId::new(), id: new_id() };
        assert_eq!(sender.to_string().parse::<SenderId>().unwrap(), sender);
        let text = sender.to_string();
        for bad in ["", "whs_", "whs__", &text.to_uppercase(), &text[4..], &text[..text.len() - 1], &format!("{text}0")]
        {
            assert!(bad.parse::<SenderId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_have_24_to_64_bytes() {
        assert_eq!(Secret::parse(SECRET).unwrap().to_text(), SECRET);
        assert_eq!(Secret::generate().expose().len(), 32);
        for (bytes, is_good) in [(23, false), (24, true), (64, true), (65, false), (0, false)] {
            assert_eq!(
                Secret::parse(&format!("whsec_{}", STANDARD.encode(vec![1u8; bytes]))).is_some(),
                is_good,
                "{bytes}"
            );
        }
        for bad in [&SECRET[6..], "whsec_", "whsec_not base64", "whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(Secret::parse(bad).is_none(), "{bad}");
        }
    }
}
