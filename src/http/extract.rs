//! What handlers take out of a request: the caller, the request's context, typed paths and queries, the body.

use super::problem::Problem;
use crate::app::App;
use crate::audit::Actor;
use crate::auth::{Caller, Role};
use crate::ids::OrganizationId;
use crate::ingest::fhir::envelope::unsafe_text;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt as _;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The whole body must have arrived after so long.
const BODY_DEADLINE: Duration = Duration::from_mins(1);
/// Of a body that is no submission.
const SMALL_BODY_MAX: usize = 64 * 1024;
/// Above this size, work on a body leaves the runtime's threads.
pub const BLOCKING_BODY_MIN: usize = 256 * 1024;

/// The request's id, set by the edge on every request.
#[derive(Clone)]
pub struct RequestContext {
    /// The caller's, if it is a sane token, else ours.
    pub request_id: String,
    /// When its headers were there.
    pub received: Instant,
    /// The peer's address.
    pub peer: Option<SocketAddr>,
    /// The caller's organization (none for the platform role), once a key was good.
    pub caller: Arc<OnceLock<Option<OrganizationId>>>,
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
    /// Allow only these roles.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn allow(&self, roles: &[Role]) -> Result<(), Problem> {
        if roles.contains(&self.caller.role) {
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
}

impl FromRequestParts<Arc<App>> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let missing = || Problem::new("unauthenticated", "The request has no valid API key.");
        let header =
            parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
        let (scheme, key) = header.split_once(' ').ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(missing());
        }
        let caller = app.authenticator.authenticate(key.trim()).await?.ok_or_else(missing)?;
        let context = parts.extensions.get::<RequestContext>();
        if let Some(context) = context {
            // Extracted once a request.
            let _ = context.caller.set(caller.organization);
        }
        let actor = caller.actor(
            context.and_then(|context| context.peer).map(|peer| peer.ip().to_string()),
            context.map(|context| context.request_id.clone()),
        );
        let received = context.map_or_else(Instant::now, |context| context.received);
        Ok(Self { caller, actor, received })
    }
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
/// `payload_too_large`, `request_timeout`, `incomplete_body`, `invalid_gzip`, `unsupported_content_encoding`.
pub async fn read_body(headers: &HeaderMap, body: axum::body::Body, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(
            "payload_too_large",
            format!("The body is over {limit} bytes; larger data go through POST /v1/ingestion/upload-url."),
        )
    };
    let encoding =
        headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    let is_gzip = match encoding.as_deref() {
        None | Some("" | "identity") => false,
        Some("gzip" | "x-gzip") => true,
        Some(_) => return Err(Problem::new("unsupported_content_encoding", "Only gzip and identity are accepted.")),
    };
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let collect = async {
        let mut body = body;
        let mut bytes = BytesMut::with_capacity(declared.unwrap_or(0).min(limit));
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|_| Problem::new("incomplete_body", "The connection ended before the body did."))?;
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > limit {
                    return Err(too_large());
                }
                bytes.extend_from_slice(data);
            }
        }
        Ok(bytes.freeze())
    };
    let bytes = tokio::time::timeout(BODY_DEADLINE, collect).await.map_err(|_| {
        Problem::new("request_timeout", format!("The body did not arrive within {} s.", BODY_DEADLINE.as_secs()))
    })??;
    if !is_gzip {
        return Ok(bytes);
    }
    // Bounded: one byte more than the limit is read at most, whatever the archive would expand to.
    let inflate = move || {
        let mut plain = Vec::new();
        let read = MultiGzDecoder::new(&bytes[..]).take(limit as u64 + 1).read_to_end(&mut plain);
        match read {
            Err(_) => Err(Problem::new("invalid_gzip", "The body could not be decompressed to its end.")),
            Ok(length) if length > limit => Err(Problem::new(
                "payload_too_large",
                format!(
                    "The decompressed body is over {limit} bytes; larger data go through POST /v1/ingestion/upload-url."
                ),
            )),
            Ok(_) => Ok(Bytes::from(plain)),
        }
    };
    tokio::task::spawn_blocking(inflate).await.map_err(|_| Problem::new("internal_error", "An internal error."))?
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
    if let Some(fault) = unsafe_text(bytes) {
        return Err(Problem::new(fault.code, fault.message));
    }
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
