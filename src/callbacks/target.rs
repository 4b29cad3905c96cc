//! Which URLs a callback may have, and what their hosts resolve to: the guard against requests that are forged to reach
//! what only we can reach (SSRF, OWASP API7; ASVS V1.3.6).
//!
//! A URL is read once, by the parser that the HTTP client uses, and must be written in the form that this parser gives
//! it: hosts that hide an address (decimal, octal, hexadecimal, short, percent-encoded, full-width) are refused because
//! they differ from it. Hosts that are addresses are checked here; names are checked by [`GuardedResolver`], which is the
//! only resolver that the client has: the connection goes to the addresses that it answered, and to no other.

use super::address::{self, Special};
use crate::config::callbacks::CallbackConfig;
use futures::future::BoxFuture;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use url::{Host, Url};

/// Characters of a URL, at most.
const URL_MAX: usize = 2_000;

/// Why a URL is refused. Fixed words: a URL may hold a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is no URL, or not written plainly.
    #[error(
        "the URL must be written plainly: ASCII, at most 2,000 characters, its host as a name or in the usual form of an address"
    )]
    NotPlain,
    /// Neither https nor, where that is allowed, http.
    #[error("the URL must begin with https://")]
    Scheme,
    /// It has a user, a password or a fragment.
    #[error("the URL must have no user, no password and no fragment")]
    Extra,
    /// The port is not one of `callbacks.ports`.
    #[error("the URL's port is not allowed here")]
    Port,
    /// The host is, or resolves to, a special address.
    #[error("the URL's host is {0}")]
    Address(#[from] Special),
    /// The name does not resolve.
    #[error("the URL's host does not resolve")]
    Unresolved,
}

/// What may be called.
#[derive(Debug, Clone)]
pub struct Policy {
    allow_http: bool,
    allowed: Arc<[IpNet]>,
    ports: Arc<[(u16, u16)]>,
}

impl Policy {
    /// As configured.
    #[must_use]
    pub fn new(config: &CallbackConfig) -> Self {
        Self {
            allow_http: config.allow_http,
            allowed: config.allow_private.clone().into(),
            ports: config.ports.clone().into(),
        }
    }

    /// Is http allowed?
    #[must_use]
    pub fn allows_http(&self) -> bool {
        self.allow_http
    }

    /// Read a URL, and check all of it that can be checked without resolving its host.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn parse(&self, text: &str) -> Result<Url, TargetError> {
        if text.len() > URL_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err(TargetError::NotPlain);
        }
        let url = Url::parse(text).map_err(|_| TargetError::NotPlain)?;
        if !(url.scheme() == "https" || url.scheme() == "http" && self.allow_http) {
            return Err(TargetError::Scheme);
        }
        let (_, rest) = text.split_once("://").ok_or(TargetError::NotPlain)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') || !url.username().is_empty() || url.password().is_some() || url.fragment().is_some()
        {
            return Err(TargetError::Extra);
        }
        let host = url.host().ok_or(TargetError::NotPlain)?;
        let written = match authority.rfind(':').filter(|colon| authority.rfind(']').is_none_or(|end| end < *colon)) {
            Some(colon) => &authority[..colon],
            None => authority,
        };
        if !written.eq_ignore_ascii_case(&host.to_string()) {
            return Err(TargetError::NotPlain);
        }
        let port = url.port_or_known_default().ok_or(TargetError::Port)?;
        let by_scheme = url.scheme() == "http" && port == 80;
        if !by_scheme && !self.ports.iter().any(|(low, high)| (*low..=*high).contains(&port)) {
            return Err(TargetError::Port);
        }
        match host {
            Host::Ipv4(literal) => self.check(literal.into())?,
            Host::Ipv6(literal) => self.check(literal.into())?,
            Host::Domain(_) => {}
        }
        Ok(url)
    }

    fn check(&self, address: IpAddr) -> Result<(), Special> {
        address::check(address, &self.allowed)
    }
}

/// Names to addresses.
pub trait Lookup: Send + Sync + 'static {
    /// All addresses of a name, once: what is answered is what is connected to.
    fn lookup(&self, name: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, name: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Resolves names for the HTTP client, and answers checked addresses only: if one of a name's addresses is special, none is
/// answered.
#[derive(Clone)]
pub struct GuardedResolver {
    policy: Policy,
    lookup: Arc<dyn Lookup>,
}

impl GuardedResolver {
    /// Over a resolver.
    #[must_use]
    pub fn new(policy: Policy, lookup: Arc<dyn Lookup>) -> Self {
        Self { policy, lookup }
    }

    /// The checked addresses of a name.
    ///
    /// # Errors
    /// [`TargetError::Unresolved`], [`TargetError::Address`].
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, TargetError> {
        let found = self.lookup.lookup(name.to_owned()).await.map_err(|_| TargetError::Unresolved)?;
        if found.is_empty() {
            return Err(TargetError::Unresolved);
        }
        for address in &found {
            self.policy.check(*address)?;
        }
        Ok(found)
    }

    /// Check a URL whole, its host resolved now.
    ///
    /// # Errors
    /// [`TargetError`].
    pub async fn check(&self, text: &str) -> Result<Url, TargetError> {
        let url = self.policy.parse(text)?;
        if let Some(Host::Domain(name)) = url.host() {
            self.addresses(name).await?;
        }
        Ok(url)
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let checked = this.addresses(name.as_str()).await?;
            let addresses: Addrs = Box::new(checked.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(pairs: &'static [(&'static str, &'static str)]) -> Policy {
        let read = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Policy::new(&crate::config::Config::from_sources(None, &read).unwrap().callbacks)
    }

    #[test]
    fn a_plain_public_url_passes_and_keeps_its_form() {
        for text in [
            "https://hooks.example.org/a?b=c",
            "https://hooks.example.org:8443/",
            "https://1.1.1.1/x",
            "https://[2606:4700::1111]/",
            "https://EXAMPLE.org/x",
            "https://xn--bcher-kva.example/",
        ] {
            assert!(policy(&[]).parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_refused_is_refused_for_its_reason() {
        for (text, expected) in [
            ("http://hooks.example.org/", TargetError::Scheme),
            ("ftp://hooks.example.org/", TargetError::Scheme),
            ("file:///etc/passwd", TargetError::Scheme),
            ("gopher://hooks.example.org/", TargetError::Scheme),
            ("https://user@hooks.example.org/", TargetError::Extra),
            ("https://user:pw@hooks.example.org/", TargetError::Extra),
            ("https://@hooks.example.org/", TargetError::Extra),
            ("https://hooks.example.org/#x", TargetError::Extra),
            ("https://hooks.example.org:22/", TargetError::Port),
            ("https://hooks.example.org:80/", TargetError::Port),
            ("https://hooks.example.org:0/", TargetError::Port),
            ("https://hooks.example.org\\@127.0.0.1/", TargetError::NotPlain),
            ("https://hooks.example.org\n/", TargetError::NotPlain),
            (" https://hooks.example.org/", TargetError::NotPlain),
            ("https://bücher.example/", TargetError::NotPlain),
            ("https://%65xample.org/", TargetError::NotPlain),
            ("https:hooks.example.org", TargetError::NotPlain),
            ("https:///hooks.example.org/", TargetError::NotPlain),
            ("https://2130706433/", TargetError::NotPlain),
            ("https://0x7f.1/", TargetError::NotPlain),
            ("https://1.1.1.1./", TargetError::NotPlain),
            ("https://1.1/", TargetError::NotPlain),
            ("https://[fe80::1%25eth0]/", TargetError::NotPlain),
            ("https://[2606:4700:0::1111]/", TargetError::NotPlain),
            ("hooks", TargetError::NotPlain),
            ("", TargetError::NotPlain),
        ] {
            assert_eq!(policy(&[]).parse(text), Err(expected), "{text}");
        }
        assert!(matches!(policy(&[]).parse("https://10.0.0.1/"), Err(TargetError::Address(_))));
        assert!(policy(&[("CHARTGATE_CALLBACKS_ALLOW_HTTP", "true")]).parse("http://hooks.example.org/").is_ok());
        assert!(policy(&[("CHARTGATE_CALLBACKS_ALLOW_PRIVATE", "10.0.0.0/8")]).parse("https://10.0.0.1/").is_ok());
    }
}
