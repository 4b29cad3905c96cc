//! Fetching an issuer's keys, so that rotation refuses nobody wrongly and nobody makes us fetch without end.
//!
//! - A known key is used at once; when the set is older than [`JwksOptions::age_max`], it is fetched anew beside that.
//! - For an unknown one the set is fetched, at most once a [`JwksOptions::window`], by one request for all that wait. Who
//!   comes within the window of the last fetch waits for its end (at most [`WAITING_MAX`] requests; further ones are told to
//!   come again), so that a key that was put out a moment ago is not refused. A `kid` that was looked for in vain is
//!   refused without waiting until the window ends.
//! - While the URL is away, or what it gives cannot be used, the last good set stays, for at most [`JwksOptions::keep`].

use super::keys::{Found, KeySet, KeySetError};
use crate::telemetry;
use jsonwebtoken::{Algorithm, DecodingKey};
use reqwest::{Url, header, redirect};
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Of a set, in bytes.
const SET_MAX: usize = 256 * 1024;
/// Requests that wait to hear of a key that the last set did not have.
pub const WAITING_MAX: usize = 512;
/// Names that were looked for in vain within a window; then they are forgotten.
const UNKNOWN_MAX: usize = 10_000;

/// Times of fetching.
#[derive(Debug, Clone, Copy)]
pub struct JwksOptions {
    /// A set older than this is fetched anew: so long a key that was taken out still counts.
    pub age_max: Duration,
    /// Between two fetches, at least.
    pub window: Duration,
    /// How long a set is used when no newer one can be had.
    pub keep: Duration,
    /// A fetch must be over by then.
    pub timeout: Duration,
}

impl Default for JwksOptions {
    fn default() -> Self {
        Self {
            age_max: Duration::from_mins(5),
            window: Duration::from_secs(5),
            keep: Duration::from_hours(24),
            timeout: Duration::from_secs(5),
        }
    }
}

/// Why a set was not had. Says nothing of what was answered.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    /// No answer, or none in time.
    #[error("no answer")]
    Away,
    /// Another status than 200: redirects are not followed.
    #[error("status {0}")]
    Status(u16),
    /// More than 256 KiB.
    #[error("the answer is too long")]
    TooLong,
    /// The answer cannot be used.
    #[error(transparent)]
    Set(#[from] KeySetError),
}

/// What a token's key comes to.
pub enum Looked {
    /// The key.
    Key(DecodingKey),
    /// There is none of that name.
    Unknown,
    /// There is one, of another kind than `alg` says.
    OtherKind,
    /// Nobody can say now.
    Away {
        /// When to ask again.
        retry_after: Duration,
    },
}

#[derive(Default)]
struct State {
    keys: Arc<KeySet>,
    /// When the set came.
    loaded: Option<Instant>,
    /// When the last fetch ended, well or not.
    tried: Option<Instant>,
    /// It ended in vain.
    failed: bool,
    /// Hashes of names that the last fetch did not have.
    unknown: HashSet<[u8; 32]>,
}

struct Inner {
    url: Url,
    http: Option<reqwest::Client>,
    options: JwksOptions,
    state: Mutex<State>,
    /// Held while fetching.
    turn: tokio::sync::Mutex<()>,
    waiting: Semaphore,
}

/// One issuer's keys; cheap to clone.
#[derive(Clone)]
pub struct Jwks(Arc<Inner>);

impl Jwks {
    /// Of that URL. Nothing is fetched yet.
    #[must_use]
    pub fn new(url: Url, options: JwksOptions) -> Self {
        let http = reqwest::Client::builder()
            // The URL is the configuration's, and stays it.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(options.timeout)
            .connect_timeout(options.timeout)
            .user_agent(concat!("chartgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .inspect_err(|error| tracing::error!(error = %error, "no HTTP client for an issuer's keys"))
            .ok();
        let (state, turn) = (Mutex::default(), tokio::sync::Mutex::new(()));
        Self(Arc::new(Inner { url, http, options, state, turn, waiting: Semaphore::new(WAITING_MAX) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of that name for that signature.
    pub async fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Looked {
        let options = self.0.options;
        let name: [u8; 32] = Sha256::digest(kid.unwrap_or_default().as_bytes()).into();
        // The first look; one behind a fetch that had begun before we asked; one behind our own.
        for _ in 0..3 {
            let asked = Instant::now();
            let (tried, is_good) = {
                let state = self.state();
                let is_good = state.loaded.is_some_and(|at| at.elapsed() < options.keep);
                match state.keys.find(kid, algorithm) {
                    Found::Key(key) if is_good => {
                        let is_old = state.loaded.is_some_and(|at| at.elapsed() >= options.age_max);
                        if is_old && state.tried.is_none_or(|at| at.elapsed() >= options.window) {
                            self.refresh_beside();
                        }
                        return Looked::Key(key);
                    }
                    Found::OtherKind if is_good => return Looked::OtherKind,
                    _ => {}
                }
                let is_recent = state.tried.is_some_and(|at| at.elapsed() < options.window);
                if is_good && is_recent && state.unknown.contains(&name) {
                    return Looked::Unknown;
                }
                (state.tried, is_good)
            };
            // Before the first set everybody waits for it: that is over as soon as it is there.
            let place = self.0.waiting.try_acquire();
            if is_good && place.is_err() {
                return Looked::Away { retry_after: options.window };
            }
            if let Some(tried) = tried {
                tokio::time::sleep_until(tried + options.window).await;
            }
            let this = self.clone();
            // In a task of its own: a client that hangs up must not stop it for the others.
            let _ = tokio::spawn(async move { this.refresh(tried).await }).await;
            let mut state = self.state();
            if state.loaded.is_some_and(|at| at >= asked) {
                return match state.keys.find(kid, algorithm) {
                    Found::Key(key) => Looked::Key(key),
                    Found::OtherKind => Looked::OtherKind,
                    Found::Unknown => {
                        if state.unknown.len() >= UNKNOWN_MAX {
                            state.unknown.clear();
                        }
                        state.unknown.insert(name);
                        Looked::Unknown
                    }
                };
            }
            if state.failed && state.tried.is_some_and(|at| at >= asked) {
                break;
            }
        }
        // Nobody can say whether there is such a key.
        Looked::Away { retry_after: options.window }
    }

    fn refresh_beside(&self) {
        let this = self.clone();
        tokio::spawn(async move {
            // Somebody is at it.
            let Ok(_turn) = this.0.turn.try_lock() else { return };
            this.fetch_and_keep().await;
        });
    }

    /// Fetch, unless somebody did since `tried`.
    async fn refresh(&self, tried: Option<Instant>) {
        let _turn = self.0.turn.lock().await;
        if self.state().tried == tried {
            self.fetch_and_keep().await;
        }
    }

    async fn fetch_and_keep(&self) {
        let began = Instant::now();
        let fetched = self.fetch().await;
        let mut state = self.state();
        state.tried = Some(Instant::now());
        state.failed = fetched.is_err();
        match fetched {
            Ok(keys) => {
                telemetry::jwks_fetched("ok");
                (state.keys, state.loaded) = (Arc::new(keys), Some(began));
                state.unknown.clear();
            }
            Err(error) => {
                telemetry::jwks_fetched("failed");
                let host = self.0.url.host_str().unwrap_or_default();
                tracing::warn!(error = %error, host, "an issuer's keys cannot be fetched; the last good ones stay");
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let http = self.0.http.as_ref().ok_or(FetchError::Away)?;
        let request = http.get(self.0.url.clone()).header(header::ACCEPT, "application/jwk-set+json, application/json");
        let mut response = request.send().await.map_err(|_| FetchError::Away)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| FetchError::Away)? {
            if bytes.len() + chunk.len() > SET_MAX {
                return Err(FetchError::TooLong);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(KeySet::parse(&bytes)?)
    }
}
