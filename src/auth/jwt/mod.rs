//! Tokens of others: JSON Web Tokens (RFC 7519) of the issuers that `auth.jwt.*` names.
//!
//! The issuer is chosen by the exact `iss`; from then on only its own keys, algorithms and audiences count. HMAC is
//! accepted of an issuer that is configured with a secret, and then nothing else. Claims become organization, roles and the
//! name in the audit log. What is refused, and how it was tried, stands in `tests/it/auth/tokens.rs`.

pub mod jwks;
mod keys;
mod roles;
mod token;

pub use token::{LEEWAY_SECONDS, TOKEN_MAX};

use super::{AuthError, CACHE_TIME, Caller, Refusal, Role, store};
use crate::clock::Clock;
use crate::config::jwt::{IssuerConfig, IssuerKeys};
use crate::db::{Db, DbError, Scope};
use crate::ids::OrganizationId;
use jsonwebtoken::{Algorithm, DecodingKey};
use jwks::{Jwks, JwksOptions, Looked};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use token::Token;

/// Of `sub`, in bytes (`OpenID` Connect Core, section 2).
const SUBJECT_MAX: usize = 255;
/// Of a subject as it stands in the audit log, in bytes.
const SUBJECT_SHOWN_MAX: usize = 100;
/// Of the claim that names the organization, in bytes.
const ORGANIZATION_MAX: usize = 800;
/// Looked-up organizations in memory, at most.
const CACHE_MAX: usize = 10_000;

enum Keys {
    Jwks(Jwks),
    Secret(DecodingKey),
}

struct Issuer {
    config: IssuerConfig,
    algorithms: Vec<Algorithm>,
    keys: Keys,
}

type Organizations = HashMap<String, (Instant, Option<OrganizationId>)>;

/// Checks tokens; cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    db: Db,
    clock: Clock,
    issuers: Arc<[Issuer]>,
    organizations: Arc<Mutex<Organizations>>,
}

impl Tokens {
    /// For the tokens of these issuers.
    #[must_use]
    pub fn new(db: Db, clock: Clock, issuers: &[IssuerConfig]) -> Self {
        Self::with_options(db, clock, issuers, JwksOptions::default())
    }

    /// The same with other times for fetching keys.
    #[must_use]
    pub fn with_options(db: Db, clock: Clock, issuers: &[IssuerConfig], options: JwksOptions) -> Self {
        let issuer = |config: &IssuerConfig| Issuer {
            algorithms: config.algorithms.iter().filter_map(|name| name.parse().ok()).collect(),
            keys: match &config.keys {
                IssuerKeys::Jwks(url) => Keys::Jwks(Jwks::new(url.clone(), options)),
                IssuerKeys::Secret(secret) => Keys::Secret(DecodingKey::from_secret(secret.expose_secret().as_bytes())),
            },
            config: config.clone(),
        };
        Self { db, clock, issuers: issuers.iter().map(issuer).collect(), organizations: Arc::default() }
    }

    /// The caller who presents this token.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn authenticate(&self, text: &str) -> Result<Caller, AuthError> {
        let token = Token::parse(text)?;
        let claimed = token.claims.text("iss", 500).map_err(|_| Refusal::TokenIssuer)?;
        let issuer = self.issuers.iter().find(|one| one.config.issuer == claimed).ok_or(Refusal::TokenIssuer)?;
        self.check_signature(issuer, &token).await?;
        let lifetime_max = i64::try_from(issuer.config.lifetime_max.as_secs()).unwrap_or(i64::MAX / 2);
        token.claims.check_times(self.clock.now().unix_timestamp(), lifetime_max)?;
        token.claims.check_audience(&issuer.config.audiences)?;
        token.claims.check_use()?;
        let subject = token.claims.text("sub", SUBJECT_MAX)?;
        let roles = roles::of(&token.claims, &issuer.config)?;
        let organization = if roles.contains(&Role::Platform) {
            None
        } else {
            let named = match &issuer.config.organization {
                Some(fixed) => fixed.as_str(),
                None => organization_claim(&token, &issuer.config)?,
            };
            Some(self.organization(named).await?.ok_or(Refusal::TokenOrganization)?)
        };
        Ok(Caller {
            name: format!("jwt:{}:{}", issuer.config.name, shown(subject)),
            authentication: "jwt",
            organization,
            roles,
            source_label: issuer.config.source.clone(),
        })
    }

    async fn check_signature(&self, issuer: &Issuer, token: &Token<'_>) -> Result<(), AuthError> {
        let algorithm: Algorithm = token.algorithm.parse().map_err(|_| Refusal::TokenAlgorithm)?;
        if !issuer.algorithms.contains(&algorithm) {
            return Err(Refusal::TokenAlgorithm.into());
        }
        let key = match &issuer.keys {
            Keys::Secret(key) => key.clone(),
            Keys::Jwks(jwks) => match jwks.find(token.kid.as_deref(), algorithm).await {
                Looked::Key(key) => key,
                Looked::Unknown => return Err(Refusal::TokenKey.into()),
                Looked::OtherKind => return Err(Refusal::TokenAlgorithm.into()),
                Looked::Away { retry_after } => return Err(AuthError::IssuerAway { retry_after }),
            },
        };
        // Fails, too, when the key is of another family than the algorithm.
        let verified = jsonwebtoken::crypto::verify(token.signature, token.message.as_bytes(), &key, algorithm);
        if matches!(verified, Ok(true)) { Ok(()) } else { Err(Refusal::TokenSignature.into()) }
    }

    /// The organization of that id or name; looked up at most every [`CACHE_TIME`].
    async fn organization(&self, named: &str) -> Result<Option<OrganizationId>, DbError> {
        let cached = self.organizations.lock().unwrap_or_else(PoisonError::into_inner).get(named).copied();
        if let Some((at, found)) = cached
            && at.elapsed() < CACHE_TIME
        {
            return Ok(found);
        }
        let (at, id, name) = (Instant::now(), named.parse::<OrganizationId>().ok(), named.to_owned());
        let found = self
            .db
            .unit::<_, DbError, _>(Scope::Global, move |connection| {
                Box::pin(async move {
                    // What reads as an id is no name: else a name could be given that is another's id.
                    let name = id.is_none().then_some(name.as_str());
                    store::find_organization(connection, id, name).await
                })
            })
            .await?
            .map(|organization| organization.id);
        let mut organizations = self.organizations.lock().unwrap_or_else(PoisonError::into_inner);
        if organizations.len() >= CACHE_MAX {
            organizations.clear();
        }
        organizations.insert(named.to_owned(), (at, found));
        Ok(found)
    }
}

/// The text of the organization claim, also behind a path.
fn organization_claim<'t>(token: &'t Token<'_>, config: &IssuerConfig) -> Result<&'t str, Refusal> {
    let text = token.claims.at(&config.organization_claim).and_then(serde_json::Value::as_str);
    text.filter(|text| (1..=ORGANIZATION_MAX).contains(&text.len()) && !text.chars().any(char::is_control))
        .ok_or(Refusal::TokenClaims)
}

/// A subject for the audit log: as it is if it is short and of ordinary characters; else what is left of it, `~`, and the
/// beginning of its hash, so that two subjects never look alike.
fn shown(subject: &str) -> String {
    let is_sane = |c: char| c.is_ascii_alphanumeric() || "._-@|:/".contains(c);
    if subject.len() <= SUBJECT_SHOWN_MAX && subject.chars().all(is_sane) {
        return subject.to_owned();
    }
    let kept: String = subject.chars().filter(|c| is_sane(*c)).take(40).collect();
    format!("{kept}~{}", hex::encode(&Sha256::digest(subject.as_bytes())[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_shown_so_that_no_two_look_alike() {
        assert_eq!(shown("auth0|1234"), "auth0|1234");
        assert_eq!(shown("jane@example.org"), "jane@example.org");
        for odd in ["a b", "a\u{202e}b", "a~b", "ä", &"x".repeat(101)] {
            let shown = shown(odd);
            assert!(shown.len() <= 60 && shown.contains('~') && shown.is_ascii(), "{shown}");
        }
        assert_ne!(shown("a b"), shown("a  b"));
    }
}
