//! What is posted: from our own pages only, bounded, by field; the reason that every act needs.

use super::answer::Refused;
use super::session::{Known, is_loopback};
use crate::app::App;
use crate::auth::Refusal;
use crate::auth::denials::Denied;
use crate::limits::address_key;
use crate::limits::body::{self, BodyError};
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Of a posted form.
const FORM_BYTES_MAX: usize = 64 * 1024;
/// Of one that somebody sends who is not logged in: a key, and where to go then.
const STRANGERS_BYTES_MAX: usize = 16 * 1024;
/// And it is there after so long.
const STRANGERS_TIME_MAX: Duration = Duration::from_secs(10);
/// Of a reason, as the API has it.
const REASON_CHARS_MAX: usize = 1000;

/// Fields of a posted form; of a field that comes twice the last one counts.
pub(super) struct Form(BTreeMap<String, String>);

impl Form {
    /// A field that was given and is not empty, without the spaces around it.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// [`Refused::Invalid`] naming it.
    pub(super) fn need(&self, name: &str) -> Result<&str, Refused> {
        self.get(name).ok_or_else(|| Refused::Invalid(format!("The field {name} is missing.")))
    }

    /// Why the act is done: 1 to 1,000 characters.
    ///
    /// # Errors
    /// [`Refused::Invalid`].
    pub(super) fn reason(&self) -> Result<String, Refused> {
        let reason = self.get("reason").unwrap_or_default();
        if reason.is_empty() || reason.chars().count() > REASON_CHARS_MAX {
            return Err(Refused::Invalid(
                "Give a reason of 1 to 1000 characters; it goes into the audit log.".to_owned(),
            ));
        }
        Ok(reason.to_owned())
    }

    /// All fields whose name begins so, in order of their names.
    pub(super) fn starting_with<'f>(&'f self, prefix: &'f str) -> impl Iterator<Item = (&'f str, &'f str)> {
        self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.trim())))
    }
}

/// Did a page of ours send this? A browser says where a form stands (`Origin`, and `Sec-Fetch-Site` where it trusts the
/// connection); what it says must fit, and who says nothing is refused. A page that came over plain HTTP is ours on this
/// machine only: elsewhere the cookie is for HTTPS, and whoever sits in the line writes such pages.
fn is_same_origin(headers: &HeaderMap, is_tls: bool) -> bool {
    // A header that is there and is no text fits nothing.
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let Some(host) = text(header::HOST) else { return false };
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    let takes_plain = is_loopback(headers) && !is_tls;
    let fits = |origin: &str| {
        origin.split_once("://").is_some_and(|(scheme, authority)| {
            authority.eq_ignore_ascii_case(host) && (scheme == "https" || takes_plain && scheme == "http")
        })
    };
    match (text(header::ORIGIN), site) {
        (Some(origin), site) => fits(origin) && site.is_none_or(|site| site == "same-origin"),
        (None, site) => site == Some("same-origin"),
    }
}

impl FromRequest<Arc<App>> for Form {
    type Rejection = Refused;

    async fn from_request(request: Request<Body>, app: &Arc<App>) -> Result<Self, Refused> {
        let (parts, body) = request.into_parts();
        // Who is logged in was looked up before.
        let known = parts.extensions.get::<Known>();
        if !is_same_origin(&parts.headers, app.config.tls.is_some()) {
            let caller = known.map(|Known(organization, actor)| (*organization, actor.clone()));
            let denied = Denied { caller, code: "forbidden", reason: Some(Refusal::ForeignOrigin) };
            let detail = "The form was not sent by a page of this console, over HTTPS.";
            return Err(Refused::Forbidden { detail, denied: Box::new(denied) });
        }
        // Whoever is not may send little, soon, and few at a time.
        let bytes = if known.is_some() {
            read(app, body, FORM_BYTES_MAX).await?
        } else {
            let peer = parts.extensions.get::<SocketAddr>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), SocketAddr::ip);
            let _place = app.limits.logins.take(address_key(peer)).ok_or(Refused::Later {
                detail: "As many people are logging in as may at once. Try again.",
                seconds: 5,
            })?;
            let read = read(app, body, STRANGERS_BYTES_MAX);
            tokio::time::timeout(STRANGERS_TIME_MAX, read).await.map_err(|_| Refused::TooSlow)??
        };
        let fields = url::form_urlencoded::parse(&bytes).into_owned().collect::<BTreeMap<_, _>>();
        // PostgreSQL's text holds everything but this.
        if fields.values().any(|value| value.contains('\0')) {
            return Err(Refused::Invalid("The form holds a character that cannot be stored.".to_owned()));
        }
        Ok(Self(fields))
    }
}

/// The body, as the API would read it: in windows, and out of the budget for bodies.
async fn read(app: &App, body: Body, limit: usize) -> Result<Bytes, Refused> {
    let invalid = |detail: &str| Refused::Invalid(detail.to_owned());
    body::collect(body, limit, None, &app.limits.bodies.share()).await.map_err(|error| match error {
        BodyError::TooLarge => invalid("The form is too large."),
        BodyError::Incomplete => invalid("The form did not arrive whole."),
        BodyError::TooSlow(_) => Refused::TooSlow,
        BodyError::Exhausted => {
            Refused::Later { detail: "There is no memory for the form now. Try again.", seconds: 2 }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_forms_of_our_own_pages_are_taken() {
        let host = ("host", "gate.example:8443");
        let origin = ("origin", "https://gate.example:8443");
        let same = ("sec-fetch-site", "same-origin");
        for is_tls in [true, false] {
            for ours in [vec![host, origin], vec![host, same], vec![host, origin, same]] {
                assert!(is_same_origin(&headers(&ours), is_tls), "{ours:?}");
            }
            for foreign in [
                ("origin", "https://evil.example"),
                ("origin", "null"),
                ("origin", "https://gate.example:8443.evil.example"),
                ("origin", "https://gate.example"),
                ("sec-fetch-site", "same-site"),
                ("sec-fetch-site", "cross-site"),
                ("x-other", "1"),
            ] {
                assert!(!is_same_origin(&headers(&[host, foreign]), is_tls), "{foreign:?}");
            }
            assert!(!is_same_origin(&headers(&[("origin", "https://gate.example")]), is_tls));
        }
    }

    #[test]
    fn a_page_that_came_over_plain_http_is_ours_on_this_machine_only() {
        let sent = |host, origin| headers(&[("host", host), ("origin", origin)]);
        for is_tls in [true, false] {
            assert!(!is_same_origin(&sent("gate.example", "http://gate.example"), is_tls));
            assert!(!is_same_origin(&sent("10.0.0.1:8080", "http://10.0.0.1:8080"), is_tls));
            assert_eq!(is_same_origin(&sent("localhost:8080", "http://localhost:8080"), is_tls), !is_tls);
            assert_eq!(is_same_origin(&sent("[::1]:8080", "http://[::1]:8080"), is_tls), !is_tls);
        }
        // The same authority, and yet another site: the scheme is a part of it.
        let mixed = [("host", "gate.example"), ("origin", "https://gate.example"), ("sec-fetch-site", "cross-site")];
        assert!(!is_same_origin(&headers(&mixed), true));
    }
}
