//! What handlers take out of a request: the caller, the request's context, typed paths and queries, the body.

use super::problem::Problem;
use crate::app::App;
use crate::audit::Actor;
use crate::auth::{AuthError, Caller, Refusal, Role};
use crate::config::BODY_WINDOW;
use crate::ids::OrganizationId;
use crate::ingest::fhir::envelope::unsafe_text;
use crate::limits::body::{self, BodyError};
use crate::limits::budget::{Budget, Exhausted, Share};
use crate::limits::rates::{Allowance, Taken};
use crate::telemetry::traces::TraceContext;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

tokio::task_local! {
    /// What the request that this task serves has of the budget for bodies; set by the edge.
    pub(super) static SHARE: Arc<Share>;
}

/// Where there is no edge (a handler that is called by itself), a body has this.
static NO_EDGE: LazyLock<Arc<Share>> = LazyLock::new(|| Budget::new(u64::MAX, 1).share());

/// Of a body that is no submission.
const SMALL_BODY_MAX: usize = 64 * 1024;
/// Bytes that are inflated at once.
const INFLATED_PIECE: usize = 64 * 1024;
/// Above this size, work on a body leaves the runtime's threads.
pub const BLOCKING_BODY_MIN: usize = 256 * 1024;

/// Bytes with what they take of the budget: the share goes wherever they go, and is given back with the last of them.
struct Covered {
    bytes: Bytes,
    _share: Arc<Share>,
}

impl AsRef<[u8]> for Covered {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// These bytes under that share: a transaction, a computation or an answer that outlives its request keeps it.
fn covered(bytes: Bytes, share: Arc<Share>) -> Bytes {
    Bytes::from_owner(Covered { bytes, _share: share })
}

/// Bytes that an answer keeps in memory until its reader has taken them, out of the budget for bodies.
///
/// # Errors
/// `overloaded`.
pub(super) async fn cover_answer(bytes: Bytes) -> Result<Bytes, Problem> {
    let share = SHARE.try_with(Arc::clone).unwrap_or_else(|_| Arc::clone(&NO_EDGE));
    share.cover(bytes.len() as u64).await?;
    Ok(covered(bytes, share))
}

/// The request's id, set by the edge on every request.
#[derive(Clone)]
pub struct RequestContext {
    /// The caller's, if it is a sane token, else ours.
    pub request_id: String,
    /// When its headers were there.
    pub received: Instant,
    /// The peer's address.
    pub peer: Option<SocketAddr>,
    /// The request's span, while traces are on.
    pub trace: Option<TraceContext>,
    /// The caller's organization (none for the platform role), once a key was good.
    pub caller: Arc<OnceLock<Option<OrganizationId>>>,
    /// What is left of its rate, if it has a limit.
    pub allowance: Arc<OnceLock<Allowance>>,
}

/// An authenticated caller, and how to name it in audit records.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// Who.
    pub caller: Caller,
    /// For audit records.
    pub actor: Actor,
    /// When the request's headers were there.
    pub received: Instant,
}

impl Authenticated {
    /// That caller, known from here on to the edge of its request, too.
    #[must_use]
    pub fn of(caller: Caller, context: Option<&RequestContext>) -> Self {
        if let Some(context) = context {
            // Extracted once a request.
            let _ = context.caller.set(caller.organization);
        }
        let mut actor = caller.actor(
            context.and_then(|context| context.peer).map(|peer| peer.ip().to_string()),
            context.map(|context| context.request_id.clone()),
        );
        actor.trace = context.and_then(|context| context.trace);
        let received = context.map_or_else(Instant::now, |context| context.received);
        Self { caller, actor, received }
    }

    /// Allow only these roles.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn allow(&self, roles: &[Role]) -> Result<(), Problem> {
        if self.caller.has_one_of(roles) {
            return Ok(());
        }
        let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        Err(self.forbidden(format!("This needs a key with the role {}.", names.join(" or "))))
    }

    /// The refusal of something that this caller may not do; audited under its name.
    #[must_use]
    pub fn forbidden(&self, detail: impl Into<String>) -> Problem {
        Problem::new("forbidden", detail).denied(self.caller.organization, self.actor.clone())
    }

    /// The caller's organization, for one of these roles.
    ///
    /// # Errors
    /// `forbidden`; also for the platform role, which belongs to none.
    pub fn organization(&self, roles: &[Role]) -> Result<OrganizationId, Problem> {
        self.allow(roles)?;
        self.caller.organization.ok_or_else(|| self.forbidden("The platform role belongs to no organization."))
    }

    /// A request out of the organization's bucket.
    ///
    /// # Errors
    /// `rate_limited`.
    pub(super) fn take_one(&self, app: &App, context: Option<&RequestContext>) -> Result<(), Problem> {
        let Some(organization) = self.caller.organization else { return Ok(()) };
        let (allowance, is_over) = match app.limits.rates.take(organization) {
            Taken::Unlimited => return Ok(()),
            Taken::Within(allowance) => (allowance, false),
            Taken::Over(allowance) => (allowance, true),
        };
        if let Some(context) = context {
            let _ = context.allowance.set(allowance);
        }
        if is_over {
            let detail = "The organization sends more requests than its rate allows.";
            return Err(Problem::new("rate_limited", detail).retry_after(Duration::from_secs(allowance.reset)));
        }
        Ok(())
    }
}

impl FromRequestParts<Arc<App>> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = app.authenticator.authenticate(bearer(&parts.headers)?).await?;
        let context = parts.extensions.get::<RequestContext>();
        let one = Self::of(caller, context);
        one.take_one(app, context)?;
        Ok(one)
    }
}

/// What stands behind `Authorization: Bearer`; nowhere else is a key or token looked for.
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let header = values.next().and_then(|value| value.to_str().ok()).ok_or(Refusal::NoCredentials)?;
    // Two of them: one that we check, and one that somebody before us may have checked.
    if values.next().is_some() {
        return Err(Refusal::Malformed.into());
    }
    let (scheme, bearer) = header.split_once(' ').ok_or(Refusal::Malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(bearer.trim()) } else { Err(Refusal::NoCredentials.into()) }
}

/// Query parameters; a bad one is named, its value is not repeated.
#[derive(Debug, Clone)]
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let bad =
            || Problem::new("invalid_parameter", "A query parameter is unknown, given twice, or of the wrong kind.");
        // PostgreSQL cannot hold U+0000 in a text.
        if parts.uri.query().is_some_and(|query| query.contains("%00")) {
            return Err(bad());
        }
        let Query(value) = Query::<T>::from_request_parts(parts, state).await.map_err(|_| bad())?;
        Ok(Self(value))
    }
}

/// The one parameter of a path, decoded. U+FFFD stands for what is not UTF-8 and for U+0000 (which PostgreSQL cannot hold
/// in a text): it is in no id of ours, so that such a path is answered like any other unknown one.
#[derive(Clone)]
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => text,
            Err(_) => char::REPLACEMENT_CHARACTER.to_string(),
        };
        Ok(Self(text.replace('\0', "\u{fffd}")))
    }
}

/// Is the media type one of these (parameters such as charset aside)?
///
/// # Errors
/// `unsupported_media_type`.
pub fn require_media_type(headers: &HeaderMap, accepted: &[&str]) -> Result<String, Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if accepted.contains(&essence.as_str()) {
        return Ok(essence);
    }
    Err(Problem::new("unsupported_media_type", format!("The body must be {}.", accepted.join(" or "))))
}

/// Read a body of at most `limit` bytes, both as sent and after gzip.
///
/// # Errors
/// `payload_too_large`, `request_timeout`, `incomplete_body`, `invalid_gzip`, `unsupported_content_encoding`, `overloaded`.
pub async fn read_body(headers: &HeaderMap, body: axum::body::Body, limit: usize) -> Result<Bytes, Problem> {
    is_gzip(headers)?;
    decode_body(headers, receive_body(headers, body, limit).await?, limit).await
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Problem> {
    let encoding =
        headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    match encoding.as_deref() {
        None | Some("" | "identity") => Ok(false),
        Some("gzip" | "x-gzip") => Ok(true),
        Some(_) => Err(Problem::new("unsupported_content_encoding", "Only gzip and identity are accepted.")),
    }
}

/// Read a body of at most `limit` bytes as it was sent.
///
/// # Errors
/// `payload_too_large`, `request_timeout`, `incomplete_body`.
pub async fn receive_body(headers: &HeaderMap, body: axum::body::Body, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(
            "payload_too_large",
            format!("The body is over {limit} bytes; larger data go through POST /v1/ingestion/upload-url."),
        )
    };
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let share = SHARE.try_with(Arc::clone).unwrap_or_else(|_| Arc::clone(&NO_EDGE));
    let bytes = body::collect(body, limit, declared, &share).await.map_err(|error| match error {
        BodyError::TooLarge => too_large(),
        BodyError::TooSlow(least) => {
            let detail = format!("The body brought less than {least} bytes in {} s.", BODY_WINDOW.as_secs());
            Problem::new("request_timeout", detail)
        }
        BodyError::Incomplete => Problem::new("incomplete_body", "The connection ended before the body did."),
        BodyError::Exhausted => Exhausted.into(),
    })?;
    Ok(covered(bytes, share))
}

/// A received body after its content encoding: at most `limit` bytes.
///
/// # Errors
/// `payload_too_large`, `invalid_gzip`, `unsupported_content_encoding`, `overloaded`.
pub async fn decode_body(headers: &HeaderMap, bytes: Bytes, limit: usize) -> Result<Bytes, Problem> {
    let share = SHARE.try_with(Arc::clone).unwrap_or_else(|_| Arc::clone(&NO_EDGE));
    if !is_gzip(headers)? {
        return Ok(bytes);
    }
    let work = move || inflate(&bytes, limit, &share).map(|plain| covered(plain, share));
    let inflated = tokio::task::spawn_blocking(work).await;
    inflated.map_err(|_| Problem::new("internal_error", "An internal error."))?
}

/// What an archive holds, as far as it is not over the limit: whatever it would expand to, no more is ever in memory.
fn inflate(archive: &[u8], limit: usize, share: &Share) -> Result<Bytes, Problem> {
    let mut decoder = MultiGzDecoder::new(archive);
    let mut plain: Vec<u8> = Vec::new();
    let mut piece = vec![0; INFLATED_PIECE];
    loop {
        let read = decoder.read(&mut piece);
        let read = read.map_err(|_| Problem::new("invalid_gzip", "The body could not be decompressed to its end."))?;
        if read == 0 {
            return Ok(Bytes::from(plain));
        }
        if plain.len() + read > limit {
            return Err(Problem::new(
                "payload_too_large",
                format!(
                    "The decompressed body is over {limit} bytes; larger data go through POST /v1/ingestion/upload-url."
                ),
            ));
        }
        share.try_cover((archive.len() + plain.len() + read) as u64)?;
        if plain.capacity() - plain.len() < read {
            // As a vector grows by itself, but never beyond the limit.
            plain.reserve_exact(plain.len().max(read).min(limit - plain.len()));
        }
        plain.extend_from_slice(&piece[..read]);
    }
}

impl From<Exhausted> for Problem {
    fn from(_: Exhausted) -> Self {
        Self::new("overloaded", "As many bodies are being taken as fit into memory.")
            .retry_after(Duration::from_secs(2))
    }
}

/// Refuse JSON that no reader may be given: no UTF-8, too deep, U+0000, lone surrogates.
///
/// # Errors
/// `invalid_utf8`, `too_deep`, `invalid_string`.
pub fn require_sane_text(bytes: &[u8]) -> Result<(), Problem> {
    if std::str::from_utf8(bytes).is_err() {
        return Err(Problem::new("invalid_utf8", "The body is not UTF-8."));
    }
    unsafe_text(bytes).map_or(Ok(()), |fault| Err(Problem::new(fault.code, fault.message)))
}

/// A small JSON body, an object; unknown members are refused, values are not repeated.
///
/// # Errors
/// `unsupported_media_type`, `payload_too_large`, `invalid_string`, `too_deep`, `invalid_request`.
pub async fn read_json<T: DeserializeOwned>(headers: &HeaderMap, body: axum::body::Body) -> Result<T, Problem> {
    require_media_type(headers, &["application/json"])?;
    parse_object(&read_body(headers, body, SMALL_BODY_MAX).await?)
}

/// The same where everything in the body may be left out, and the body itself: nothing and `null` are the default.
///
/// # Errors
/// As [`read_json`].
pub async fn read_optional_json<T: DeserializeOwned + Default>(
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<T, Problem> {
    let bytes = read_body(headers, body, SMALL_BODY_MAX).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    require_media_type(headers, &["application/json"])?;
    if bytes.trim_ascii() == b"null" { Ok(T::default()) } else { parse_object(&bytes) }
}

fn parse_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    require_sane_text(bytes)?;
    // serde would take an array for an object: its items in the order of the fields.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::new("invalid_request", "The body must be a JSON object."));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(
            "invalid_request",
            format!("The body does not fit the API description (line {}, column {}).", error.line(), error.column()),
        )
    })
}

/// An object inside a body: serde would take an array for it, too.
///
/// # Errors
/// The deserializer's.
pub fn object_or_null<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: DeserializeOwned,
{
    let object = Option::<serde_json::Map<String, serde_json::Value>>::deserialize(deserializer)?;
    object.map(|object| serde_json::from_value(object.into()).map_err(serde::de::Error::custom)).transpose()
}

/// A whole number, as [`whole_or_null`] takes it.
///
/// # Errors
/// The deserializer's: no whole number, or not one that fits.
pub fn whole<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: TryFrom<i64>,
{
    whole_or_null(deserializer)?.ok_or_else(|| serde::de::Error::custom("not a whole number"))
}

/// A whole number, or null. `4.0` is one, too (JSON Schema, validation, section 6.1.1); serde alone refuses it.
///
/// # Errors
/// The deserializer's: no whole number, or not one that fits.
pub fn whole_or_null<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: TryFrom<i64>,
{
    // Beyond this, a float no longer tells one whole number from the next.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within the range that is exact")]
    let float = || number.as_f64().filter(|one| one.fract() == 0.0 && one.abs() < EXACT_MAX).map(|one| one as i64);
    let whole = number.as_i64().or_else(float).and_then(|whole| T::try_from(whole).ok());
    whole.map(Some).ok_or_else(|| serde::de::Error::custom("not a whole number in its range"))
}
