//! What is posted: from our own pages only, bounded, by field; the reason that every act needs.

use super::answer::Refused;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt as _, Limited};
use std::collections::BTreeMap;

/// Of a posted form.
const FORM_BYTES_MAX: usize = 64 * 1024;
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

/// Did a page of ours send this? A browser says where a form stands (`Origin`, or `Sec-Fetch-Site`); who says nothing is refused.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(header::HOST) else { return false };
    match text(header::ORIGIN) {
        Some(origin) => origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host)),
        None => text(header::HeaderName::from_static("sec-fetch-site")) == Some("same-origin"),
    }
}

impl<S: Sync> FromRequest<S> for Form {
    type Rejection = Refused;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Refused> {
        if !is_same_origin(request.headers()) {
            return Err(Refused::Forbidden("The form was not sent by a page of this console."));
        }
        let body = Limited::new(request.into_body(), FORM_BYTES_MAX).collect().await;
        let body = body.map_err(|_| Refused::Invalid("The form is too large or did not arrive whole.".to_owned()))?;
        let fields = url::form_urlencoded::parse(&body.to_bytes()).into_owned().collect::<BTreeMap<_, _>>();
        // PostgreSQL's text holds everything but this.
        if fields.values().any(|value| value.contains('\0')) {
            return Err(Refused::Invalid("The form holds a character that cannot be stored.".to_owned()));
        }
        Ok(Self(fields))
    }
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
        assert!(is_same_origin(&headers(&[host, ("origin", "https://gate.example:8443")])));
        assert!(is_same_origin(&headers(&[host, ("sec-fetch-site", "same-origin")])));
        for foreign in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "https://gate.example:8443.evil.example"),
            ("origin", "https://gate.example"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "cross-site"),
            ("x-other", "1"),
        ] {
            assert!(!is_same_origin(&headers(&[host, foreign])), "{foreign:?}");
        }
        assert!(!is_same_origin(&headers(&[("origin", "https://gate.example")])));
    }
}
