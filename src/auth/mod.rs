//! Who calls: API keys ([`keys`]), tokens of others ([`jwt`]), signed webhooks ([`webhooks`]); roles and what each may do.
//!
//! Whatever is presented ends as a [`Caller`], or as a [`Refusal`] that the caller sees as one and the same 401: unknown,
//! revoked, expired, foreign and malformed are told apart in the audit log only, where [`denials`] keeps a flood of them
//! bounded. What is looked up is believed for [`CACHE_TIME`], so a revocation takes effect within that on every process.

pub mod administration;
pub mod denials;
pub mod jwt;
pub mod keys;
pub mod origins;
pub mod store;
pub mod webhooks;

pub use keys::NewKey;

use crate::audit::Actor;
use crate::clock::Clock;
use crate::config::jwt::IssuerConfig;
use crate::db::{Db, DbError};
use crate::ids::OrganizationId;
use std::fmt;
use std::time::Duration;

/// How long a looked-up key is believed.
pub const CACHE_TIME: Duration = Duration::from_secs(3);

/// What a caller may do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, clap::ValueEnum, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Submit; see and cancel the own organization's jobs.
    Sender,
    /// Read the organization's clinical data and jobs.
    Reader,
    /// Administer the organization's jobs and settings.
    Admin,
    /// Administer all organizations' jobs and settings; no clinical reads.
    Platform,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Sender, Self::Reader, Self::Admin, Self::Platform];

    /// The word in SQL and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Reader => "reader",
            Self::Admin => "admin",
            Self::Platform => "platform",
        }
    }

    /// The role of that word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// In audit records and `submittedBy`: `key:<id>`, `jwt:<issuer>:<subject>`, `webhook:<sender>`.
    pub name: String,
    /// `api_key`, `jwt` or `webhook`.
    pub authentication: &'static str,
    /// `None` only for the platform role.
    pub organization: Option<OrganizationId>,
    /// What it may do: one role of a key, one or more of a token.
    pub roles: Vec<Role>,
    /// Label of the sending system: two systems' resource ids are told apart by it.
    pub source_label: String,
}

impl Caller {
    /// May it do what needs one of these roles?
    #[must_use]
    pub fn has_one_of(&self, roles: &[Role]) -> bool {
        self.roles.iter().any(|role| roles.contains(role))
    }

    /// This caller in audit records.
    #[must_use]
    pub fn actor(&self, address: Option<String>, request_id: Option<String>) -> Actor {
        let authentication = Some(self.authentication.to_owned());
        Actor { name: self.name.clone(), authentication, address, request_id, trace: None }
    }
}

/// Why somebody is not let in. The caller is not told; operators find it in the audit log and in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Nothing was presented, or not as `Authorization: Bearer …`.
    NoCredentials,
    /// It looks neither like a key nor like a token.
    Malformed,
    /// There is no such key, or its secret is another.
    KeyUnknown,
    /// The key was revoked, or has expired.
    KeyEnded,
    /// The token is too long, has not three parts, or they are not what RFC 7519 asks for.
    TokenMalformed,
    /// Nobody of that name may issue tokens.
    TokenIssuer,
    /// Signed in a way that this issuer does not use, or that does not fit the key.
    TokenAlgorithm,
    /// The issuer has no such key.
    TokenKey,
    /// The signature is not the issuer's.
    TokenSignature,
    /// `exp` is over, or further away than allowed.
    TokenExpired,
    /// `nbf` or `iat` is in the future.
    TokenEarly,
    /// Meant for somebody else.
    TokenAudience,
    /// A claim is missing, or of the wrong kind; or the token is no access token.
    TokenClaims,
    /// The organization that it names does not exist.
    TokenOrganization,
    /// No claim gives it a role.
    TokenRole,
    /// A webhook's headers are missing, doubled or not what Standard Webhooks asks for.
    WebhookMalformed,
    /// The webhook's timestamp is too far from now.
    WebhookTimestamp,
    /// There is no such sender, or it has no secret any more.
    WebhookSender,
    /// No signature fits.
    WebhookSignature,
    /// A form of the console that no page of the console sent.
    ForeignOrigin,
}

impl Refusal {
    /// The word in the audit log and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::Malformed => "malformed",
            Self::KeyUnknown => "key_unknown",
            Self::KeyEnded => "key_ended",
            Self::TokenMalformed => "token_malformed",
            Self::TokenIssuer => "token_issuer",
            Self::TokenAlgorithm => "token_algorithm",
            Self::TokenKey => "token_key",
            Self::TokenSignature => "token_signature",
            Self::TokenExpired => "token_expired",
            Self::TokenEarly => "token_early",
            Self::TokenAudience => "token_audience",
            Self::TokenClaims => "token_claims",
            Self::TokenOrganization => "token_organization",
            Self::TokenRole => "token_role",
            Self::WebhookMalformed => "webhook_malformed",
            Self::WebhookTimestamp => "webhook_timestamp",
            Self::WebhookSender => "webhook_sender",
            Self::WebhookSignature => "webhook_signature",
            Self::ForeignOrigin => "foreign_origin",
        }
    }
}

/// Why there is no caller.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Not let in.
    #[error("refused: {}", .0.as_str())]
    Refused(Refusal),
    /// The issuer's keys cannot be fetched now, so nobody can say.
    #[error("the issuer's keys cannot be fetched")]
    IssuerAway {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<Refusal> for AuthError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Tells who presents a bearer token; cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    keys: keys::Keys,
    tokens: jwt::Tokens,
}

impl Authenticator {
    /// Over that database, for the tokens of these issuers.
    #[must_use]
    pub fn new(db: Db, clock: Clock, issuers: &[IssuerConfig]) -> Self {
        Self { keys: keys::Keys::new(db.clone()), tokens: jwt::Tokens::new(db, clock, issuers) }
    }

    /// The same with other times for fetching keys (tests).
    #[must_use]
    pub fn with_jwks_options(db: Db, clock: Clock, issuers: &[IssuerConfig], options: jwt::jwks::JwksOptions) -> Self {
        Self { keys: keys::Keys::new(db.clone()), tokens: jwt::Tokens::with_options(db, clock, issuers, options) }
    }

    /// The caller who presents this: an API key, or else a token.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn authenticate(&self, bearer: &str) -> Result<Caller, AuthError> {
        if bearer.starts_with(keys::PREFIX) {
            return self.keys.authenticate(bearer).await;
        }
        if bearer.contains('.') {
            return self.tokens.authenticate(bearer).await;
        }
        Err(Refusal::Malformed.into())
    }
}
