//! Who looks: logging in with an API key of the role admin or platform, the cookie, logging out.
//!
//! The cookie holds 256 random bits, the database their SHA-256 (OWASP Session Management). It is `HttpOnly`, `SameSite=Strict` and,
//! off loopback, `Secure` with the prefix `__Host-` (RFC 6265bis, 4.1.3.2); whoever serves the console to other machines needs
//! TLS, ours or a proxy's.

use super::answer::{self, Refused};
use super::form::Form;
use super::{page, session_store};
use crate::app::App;
use crate::app::kept::Asks;
use crate::audit::{self, Action, Actor, Record};
use crate::auth::denials::Denied;
use crate::auth::{AuthError, Caller, Refusal, Role};
use crate::db::{Db, DbError, Scope};
use crate::ids::{OrganizationId, RequestId};
use crate::telemetry::RequestTag;
use axum::extract::{FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use maud::{Markup, html};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Roles that may log in.
const ADMINS: &[Role] = &[Role::Admin, Role::Platform];

/// Marks the requests by which [`super::live`] renders a page again: nobody is there who asked, so the session ages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watching;

/// Marks a request whose sender is logged in, once that was looked up: its form is read with more patience, and refusals
/// are recorded under its name.
#[derive(Debug, Clone)]
pub(super) struct Known(pub(super) Option<OrganizationId>, pub(super) Actor);

/// Who is logged in.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    /// The key as a caller, as the API would see it.
    pub(super) caller: Caller,
    /// For audit records.
    pub(super) actor: Actor,
    /// The organization that is looked at; none for all, which only the role platform may.
    pub(super) organization: Option<OrganizationId>,
    /// Only the live part is wanted.
    pub(super) watches: bool,
    /// What an act that led here has to say.
    pub(super) note: Option<&'static str>,
}

impl Visitor {
    /// Where to read.
    pub(super) fn scope(&self) -> Scope {
        self.organization.map_or(Scope::Platform, Scope::Organization)
    }

    /// All organizations?
    pub(super) fn is_platform(&self) -> bool {
        self.caller.has_one_of(&[Role::Platform])
    }

    /// Does somebody open the page, or does a browser show it again?
    pub(super) fn asks(&self) -> Asks {
        if self.watches { Asks::Watches } else { Asks::Opens }
    }

    /// The role, in a word.
    pub(super) fn role(&self) -> &'static str {
        if self.is_platform() { "platform" } else { "admin" }
    }

    /// The refusal of something that this visitor may not do; recorded under its name.
    pub(super) fn forbidden(&self, detail: &'static str) -> Refused {
        let caller = Some((self.caller.organization, self.actor.clone()));
        Refused::Forbidden { detail, denied: Box::new(Denied { caller, code: "forbidden", reason: None }) }
    }

    /// May this visitor see and change things of that organization?
    pub(super) fn may(&self, organization: OrganizationId) -> bool {
        self.is_platform() || self.organization == Some(organization)
    }
}

/// What an act has to say when it leads back to a page: `?note=` holds the word, so that nobody can put sentences of their own there.
fn note_of(query: Option<&str>) -> Option<&'static str> {
    let word = url::form_urlencoded::parse(query?.as_bytes()).find(|(name, _)| name == "note")?.1;
    Some(match &*word {
        "retried" => "The job's next round is open.",
        "cancelled" => "The job was cancelled.",
        "started" => "The operation has begun; this page follows it.",
        "stopped" => "The operation stops; what it has done so far stays.",
        "resumed" => "The operation goes on.",
        "undone" => "What had not run yet was taken back.",
        "resent" => "The callback is sent again.",
        "decided" => "The decision is recorded, and the links follow it.",
        "paused" => "The organization is paused: its jobs are accepted and wait.",
        "organization-resumed" => "The organization goes on.",
        "saved" => "The settings are stored.",
        "created" => "The organization was created. Its senders need keys now.",
        "rotated" => "The key has a successor.",
        "nothing-resent" => "No callback wants to be told of such an end; nothing was sent.",
        "revoked" => "The key is revoked; it stops working within three seconds.",
        _ => return None,
    })
}

impl FromRequestParts<Arc<App>> for Visitor {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refused> {
        let watches = parts.extensions.get::<Watching>().is_some();
        let is_page = parts.method == axum::http::Method::GET;
        let wanted = is_page.then(|| parts.uri.path_and_query().map(ToString::to_string)).flatten();
        let refused = || Refused::NotLoggedIn { wanted: wanted.clone() };
        let token = token_of(&parts.headers, app.config.tls.is_some()).ok_or_else(refused)?;
        let hash = Sha256::digest(token.as_bytes());
        let session = app
            .db
            .unit::<_, DbError, _>(Scope::Global, move |connection| {
                Box::pin(async move {
                    let session = session_store::find(connection, &hash).await?;
                    if session.as_ref().is_some_and(|session| session.is_stale) && !watches {
                        session_store::touch(connection, &hash).await?;
                    }
                    Ok(session)
                })
            })
            .await?
            .ok_or_else(refused)?;
        let role = Role::parse(&session.role).filter(|role| ADMINS.contains(role)).ok_or_else(refused)?;
        let caller = Caller {
            name: format!("key:{}", session.key_id),
            authentication: "api_key",
            organization: session.organization_id,
            roles: vec![role],
            source_label: session.source,
        };
        let actor = caller.actor(peer_of(parts).map(|peer| peer.to_string()), Some(request_id(parts)));
        parts.extensions.insert(Known(caller.organization, actor.clone()));
        // The role platform looks at all, or at the one that the address names.
        let organization = match caller.organization {
            Some(own) => Some(own),
            None => asked_organization(parts.uri.query())?,
        };
        Ok(Self { caller, actor, organization, watches, note: note_of(parts.uri.query()) })
    }
}

/// `?organization=org_…` of a visitor who may look at all.
fn asked_organization(query: Option<&str>) -> Result<Option<OrganizationId>, Refused> {
    let given = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, value)| name == "organization" && !value.is_empty());
    given.map(|(_, id)| id.parse().map_err(|_| Refused::NotFound("There is no such organization."))).transpose()
}

fn peer_of(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<SocketAddr>().map(SocketAddr::ip)
}

/// The id that the edge has given the request, or one of this answer's own.
fn request_id(parts: &Parts) -> String {
    parts.extensions.get::<RequestTag>().map_or_else(|| RequestId::new().to_string(), |tag| tag.0.clone())
}

/// Is the request's host this machine itself? Browsers keep `Secure` cookies of http there or not, as they please.
pub(super) fn is_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = host
        .strip_prefix('[')
        .map_or_else(|| host.split(':').next().unwrap_or_default(), |rest| rest.split(']').next().unwrap_or_default());
    name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// The cookie's name, and what else it says.
fn cookie_kind(headers: &HeaderMap, is_tls: bool) -> (&'static str, &'static str) {
    if is_loopback(headers) && !is_tls { ("chartgate_console", "") } else { ("__Host-chartgate_console", "; Secure") }
}

fn token_of(headers: &HeaderMap, is_tls: bool) -> Option<String> {
    let (name, _) = cookie_kind(headers, is_tls);
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}

fn with_cookie(mut response: Response, headers: &HeaderMap, is_tls: bool, token: &str) -> Response {
    let (name, secure) = cookie_kind(headers, is_tls);
    let age = if token.is_empty() { "; Max-Age=0" } else { "" };
    let cookie = format!("{name}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{age}");
    if let Ok(value) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

/// Query of the login page.
#[derive(Deserialize)]
pub(super) struct Next {
    next: Option<String>,
}

/// `GET /admin/login`
pub(super) async fn login_page(Query(query): Query<Next>) -> Response {
    login_form(StatusCode::OK, query.next.as_deref(), None)
}

fn login_form(status: StatusCode, next: Option<&str>, fault: Option<&str>) -> Response {
    let next = next.filter(|next| answer::is_ours(next)).unwrap_or("/admin/overview");
    let body: Markup = html! {
        h1 { "Chartgate" }
        p { "Log in with an API key of the role admin (one organization) or platform (all)." }
        @if let Some(fault) = fault { p class="fault" role="alert" { (fault) } }
        form method="post" action="/admin/login" {
            input type="hidden" name="next" value=(next);
            label class="wide" { span { "API key" } input type="password" name="key" required autofocus autocomplete="current-password" spellcheck="false"; }
            button class="busy" { "Log in" }
        }
    };
    answer::html(status, page::bare("Log in", &body))
}

/// `POST /admin/login`: a session for a key of the role admin or platform.
pub(super) async fn login(State(app): State<Arc<App>>, parts: Parts, form: Form) -> Result<Response, Refused> {
    let next = form.get("next").filter(|next| answer::is_ours(next)).unwrap_or("/admin/overview").to_owned();
    let key = form.get("key").unwrap_or_default();
    let is_tls = app.config.tls.is_some();
    let refusal = match app.authenticator.authenticate(key).await {
        Ok(caller) if caller.authentication == "api_key" && caller.has_one_of(ADMINS) => {
            let token = begin(&app, &caller, &parts).await?;
            return Ok(with_cookie(Redirect::to(&next).into_response(), &parts.headers, is_tls, &token));
        }
        Ok(caller) => {
            let actor = caller.actor(peer_of(&parts).map(|peer| peer.to_string()), Some(request_id(&parts)));
            let denied = Denied { caller: Some((caller.organization, actor)), code: "forbidden", reason: None };
            let fault = "This needs an API key of the role admin or platform.";
            let mut page = login_form(StatusCode::FORBIDDEN, Some(&next), Some(fault));
            page.extensions_mut().insert(denied);
            return Ok(page);
        }
        Err(AuthError::Db(error)) => return Err(error.into()),
        Err(AuthError::IssuerAway { .. }) => Refusal::Malformed,
        Err(AuthError::Refused(refusal)) => refusal,
    };
    // As for the API: an address that fails too often is held off, and what is over that is counted, not recorded.
    if let Some(peer) = peer_of(&parts)
        && let Err(seconds) = app.limits.strangers.failed(peer)
    {
        crate::telemetry::request_limited("rate_limited");
        let fault = format!("Too many log-ins failed from this address. Try again in {seconds} s.");
        let mut page = login_form(StatusCode::TOO_MANY_REQUESTS, Some(&next), Some(&fault));
        page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        return Ok(page);
    }
    let fault = "There is no such key, or it was revoked or has expired.";
    let mut page = login_form(StatusCode::UNAUTHORIZED, Some(&next), Some(fault));
    page.extensions_mut().insert(Denied { caller: None, code: "unauthenticated", reason: Some(refusal) });
    Ok(page)
}

/// Store a session, and that it began.
async fn begin(app: &App, caller: &Caller, parts: &Parts) -> Result<String, Refused> {
    let mut bytes = [0u8; 32];
    rand::fill(&mut bytes);
    let token = BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let hash = Sha256::digest(token.as_bytes());
    let key = caller.name.strip_prefix("key:").unwrap_or_default().to_owned();
    // Of this browser there is one session: what it had before ends.
    let earlier = token_of(&parts.headers, app.config.tls.is_some()).map(|token| Sha256::digest(token.as_bytes()));
    let actor = caller.actor(peer_of(parts).map(|peer| peer.to_string()), Some(request_id(parts)));
    let home = caller.organization.unwrap_or(OrganizationId::PLATFORM);
    app.db
        .unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                if let Some(earlier) = earlier {
                    session_store::end(connection, &earlier).await?;
                }
                session_store::insert(connection, &hash, &key).await?;
                audit::append(connection, Record::new(home, "console.login", Action::Execute, &actor)).await
            })
        })
        .await?;
    Ok(token)
}

/// `POST /admin/logout`
pub(super) async fn logout(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    visitor: Result<Visitor, Refused>,
    _: Form,
) -> Result<Response, Refused> {
    let is_tls = app.config.tls.is_some();
    let out = || with_cookie(Redirect::to("/admin/login").into_response(), &headers, is_tls, "");
    let visitor = match visitor {
        // It has ended already: the browser forgets it, too.
        Err(Refused::NotLoggedIn { .. }) => return Ok(out()),
        visitor => visitor?,
    };
    let hash = Sha256::digest(token_of(&headers, is_tls).unwrap_or_default().as_bytes());
    let home = visitor.caller.organization.unwrap_or(OrganizationId::PLATFORM);
    app.db
        .unit::<_, DbError, _>(Scope::Organization(home), move |connection| {
            Box::pin(async move {
                session_store::end(connection, &hash).await?;
                audit::append(connection, Record::new(home, "console.logout", Action::Execute, &visitor.actor)).await
            })
        })
        .await?;
    Ok(out())
}

/// Forget sessions that have ended, until cancelled. Any number of processes may.
pub async fn forget_ended_sessions(db: Db, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_mins(5)) => {}
        }
        let forgotten =
            db.unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(session_store::forget_sessions(connection)));
        if let Err(error) = forgotten.await {
            tracing::warn!(error = ?error, "sessions that have ended could not be forgotten");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(text))])
    }

    #[test]
    fn cookies_are_bound_to_the_host_and_to_tls_everywhere_but_on_this_machine() {
        for here in ["localhost", "localhost:8080", "127.0.0.1:80", "[::1]:8080"] {
            assert_eq!(cookie_kind(&host(here), false).1, "", "{here}");
            assert_eq!(cookie_kind(&host(here), true).1, "; Secure", "{here}");
        }
        for elsewhere in ["gate.example", "10.0.0.1:8080", "localhost.evil.example", "[2001:db8::1]:80", ""] {
            assert_eq!(cookie_kind(&host(elsewhere), false), ("__Host-chartgate_console", "; Secure"), "{elsewhere}");
        }
    }
}
