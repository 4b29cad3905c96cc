//! `auth.jwt.*`: whose tokens are accepted, and what they may say ([docs/authentication.md](../../docs/authentication.md)).
//!
//! One issuer by `auth.jwt.issuer` and its neighbours, or several by `auth.jwt.issuers`, an array of tables with the same
//! keys. Everything is checked here, so that a wrong setting is told at the start and not at the first token.

use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// The keys of one issuer.
pub(super) const KEYS: &[&str] = &[
    "name",
    "issuer",
    "audience",
    "jwks_url",
    "secret",
    "algorithms",
    "organization",
    "organization_claim",
    "roles_claim",
    "roles",
    "platform",
    "source",
    "lifetime_max_seconds",
];

/// Signed with a key pair: the public halves are fetched.
pub const ASYMMETRIC: &[&str] = &["RS256", "RS384", "ES256", "ES384", "EdDSA"];
/// Signed with a secret that both sides know, and the least bytes of it (RFC 7518, section 3.2: the hash's length).
pub const SYMMETRIC: &[(&str, usize)] = &[("HS256", 32), ("HS384", 48), ("HS512", 64)];
/// The roles that a token can be given.
const ROLES: &[&str] = &["sender", "reader", "admin", "platform"];

/// How an issuer's signatures are checked: never both ways.
#[derive(Debug, Clone)]
pub enum IssuerKeys {
    /// Public keys at that URL: https, or http on this host.
    Jwks(Url),
    /// The secret that both sides know.
    Secret(SecretString),
}

/// One issuer whose tokens are accepted.
#[derive(Debug, Clone)]
pub struct IssuerConfig {
    /// Names the issuer in audit records: letters, digits, `.`, `-`, `_`; at most 60.
    pub name: String,
    /// Exactly the claim `iss`.
    pub issuer: String,
    /// One of these must be in the claim `aud`.
    pub audiences: Vec<String>,
    /// How signatures are checked.
    pub keys: IssuerKeys,
    /// The accepted ones, by their names in RFC 7518.
    pub algorithms: Vec<String>,
    /// The organization (name or id) of all its tokens, instead of a claim.
    pub organization: Option<String>,
    /// The claim that names the organization.
    pub organization_claim: String,
    /// The claim that names the roles.
    pub roles_claim: String,
    /// Further words in that claim, or scopes, and the role that each of them gives.
    pub roles: BTreeMap<String, String>,
    /// Its tokens may have the role platform.
    pub platform: bool,
    /// Label of the sending system, as of an API key.
    pub source: String,
    /// `exp` may be at most so far in the future.
    pub lifetime_max: Duration,
}

/// The issuers of the flat keys and of the list, with every fault named by its key.
pub(super) fn issuers(
    flat: &BTreeMap<String, String>,
    list: Option<&str>,
    faults: &mut Vec<String>,
) -> Vec<IssuerConfig> {
    let mut found = Vec::new();
    if !flat.is_empty() {
        found.extend(issuer("auth.jwt", flat, faults));
    }
    if let Some(list) = list {
        match tables(list) {
            None => faults.push("auth.jwt.issuers: must be an array of tables, such as [{issuer = \"…\", audience = \"…\", jwks_url = \"…\"}]".to_owned()),
            Some(tables) => {
                for (index, table) in tables.iter().enumerate() {
                    found.extend(issuer(&format!("auth.jwt.issuers[{index}]"), table, faults));
                }
            }
        }
    }
    let (mut names, mut urls) = (BTreeSet::new(), BTreeSet::new());
    for one in &found {
        if !urls.insert(one.issuer.clone()) {
            faults.push(format!("auth.jwt: the issuer {} is there twice", one.issuer));
        } else if !names.insert(one.name.clone()) {
            faults.push(format!("auth.jwt: two issuers would be named {}: give each a `name`", one.name));
        }
    }
    found
}

/// An array of tables in TOML, as texts by key.
fn tables(text: &str) -> Option<Vec<BTreeMap<String, String>>> {
    let parsed: toml::Table = format!("issuers = {text}").parse().ok()?;
    let toml::Value::Array(items) = parsed.get("issuers")? else { return None };
    let table = |item: &toml::Value| {
        let mut flat = Vec::new();
        super::flatten("", item.as_table()?, &mut flat);
        Some(flat.into_iter().collect())
    };
    items.iter().map(table).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// One issuer; `None` if a fault was found.
fn issuer(place: &str, values: &BTreeMap<String, String>, faults: &mut Vec<String>) -> Option<IssuerConfig> {
    let before = faults.len();
    let mut fault = |key: &str, text: &str| faults.push(format!("{place}.{key}: {text}"));
    for key in values.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        fault(key, "is not a known key");
    }
    let get = |key: &str| values.get(key).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let issuer = get("issuer").filter(|text| text.len() <= 500).unwrap_or_else(|| {
        fault("issuer", "must be the exact `iss` of its tokens");
        String::new()
    });
    let audiences = get("audience").map(|text| words(&text)).unwrap_or_default();
    if audiences.is_empty() {
        fault("audience", "must be what its tokens say in `aud` when they are meant for this installation");
    }
    let keys = match (get("jwks_url"), get("secret")) {
        (Some(url), None) => {
            let url = jwks_url(&url);
            if url.is_none() {
                fault("jwks_url", "must be an https URL (http on this host only), without user, password and fragment");
            }
            url.map(IssuerKeys::Jwks)
        }
        (None, Some(secret)) => Some(IssuerKeys::Secret(SecretString::from(secret))),
        _ => {
            fault("jwks_url", "give either this or `secret`");
            None
        }
    };
    let algorithms = algorithms(get("algorithms"), keys.as_ref(), &mut fault);
    let (organization, organization_claim) = (get("organization"), get("organization_claim"));
    if organization.is_some() && organization_claim.is_some() {
        fault("organization", "give either this or `organization_claim`");
    }
    let platform = match get("platform").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            fault("platform", "must be true or false");
            false
        }
    };
    let mut roles = BTreeMap::new();
    for entry in get("roles").map(|text| words(&text)).unwrap_or_default() {
        // The word itself may hold an equals sign.
        match entry.rsplit_once('=').map(|(word, role)| (word.trim(), role.trim())) {
            Some((word, role)) if !word.is_empty() && ROLES.contains(&role) && (platform || role != "platform") => {
                roles.insert(word.to_owned(), role.to_owned());
            }
            _ => fault(
                "roles",
                "must be a list of word=role, with sender, reader or admin (platform only with platform = true)",
            ),
        }
    }
    let lifetime = get("lifetime_max_seconds").map_or(Some(86_400), |text| text.parse::<u64>().ok());
    let lifetime_max = lifetime.filter(|seconds| (60..=31_536_000).contains(seconds)).unwrap_or_else(|| {
        fault("lifetime_max_seconds", "must be a number of seconds from 60 to 31536000");
        60
    });
    let name = get("name").unwrap_or_else(|| default_name(&issuer));
    let is_sane = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if !(1..=60).contains(&name.len()) || !name.chars().all(is_sane) {
        fault("name", "must have 1 to 60 letters, digits, `.`, `-` or `_`");
    }
    let source = get("source").unwrap_or_else(|| "default".to_owned());
    if source.chars().count() > 100 || source.chars().any(char::is_control) {
        fault("source", "must have 1 to 100 characters");
    }
    if faults.len() > before {
        return None;
    }
    Some(IssuerConfig {
        name,
        issuer,
        audiences,
        keys: keys?,
        algorithms,
        organization,
        organization_claim: organization_claim.unwrap_or_else(|| "organization".to_owned()),
        roles_claim: get("roles_claim").unwrap_or_else(|| "roles".to_owned()),
        roles,
        platform,
        source,
        lifetime_max: Duration::from_secs(lifetime_max),
    })
}

fn algorithms(given: Option<String>, keys: Option<&IssuerKeys>, fault: &mut impl FnMut(&str, &str)) -> Vec<String> {
    let given = given.map(|text| words(&text));
    match keys {
        Some(IssuerKeys::Secret(secret)) => {
            let chosen = given.unwrap_or_else(|| vec!["HS256".to_owned()]);
            for name in &chosen {
                match SYMMETRIC.iter().find(|(known, _)| known == name) {
                    None => fault("algorithms", "with `secret` must be of HS256, HS384 and HS512"),
                    Some((_, least)) if secret.expose_secret().len() < *least => {
                        fault("secret", "is too short: HS256 needs 32 bytes, HS384 48, HS512 64");
                    }
                    Some(_) => {}
                }
            }
            chosen
        }
        Some(IssuerKeys::Jwks(_)) => {
            let chosen = given.unwrap_or_else(|| ASYMMETRIC.iter().map(|name| (*name).to_owned()).collect());
            if chosen.is_empty() || !chosen.iter().all(|name| ASYMMETRIC.contains(&name.as_str())) {
                fault("algorithms", "with `jwks_url` must be of RS256, RS384, ES256, ES384 and EdDSA");
            }
            chosen
        }
        None => Vec::new(),
    }
}

/// https; plain http only to this host.
fn jwks_url(text: &str) -> Option<Url> {
    let url: Url = text.parse().ok()?;
    let host = url.host_str()?;
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    let is_bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (is_bare && (url.scheme() == "https" || url.scheme() == "http" && is_here)).then_some(url)
}

/// The issuer's host, or what is sane of its text.
fn default_name(issuer: &str) -> String {
    let host = issuer.parse::<Url>().ok().and_then(|url| url.host_str().map(str::to_owned));
    let text = host.unwrap_or_else(|| issuer.to_owned());
    text.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn read(pairs: &[(&str, &str)]) -> Result<IssuerConfig, Vec<String>> {
        let mut faults = Vec::new();
        let mut found = issuers(&flat(pairs), None, &mut faults);
        if faults.is_empty() { Ok(found.remove(0)) } else { Err(faults) }
    }

    const GOOD: [(&str, &str); 3] = [
        ("issuer", "https://idp.example/realms/a"),
        ("audience", "chartgate"),
        ("jwks_url", "https://idp.example/jwks"),
    ];

    fn with(more: &[(&str, &str)]) -> Result<IssuerConfig, Vec<String>> {
        let pairs: Vec<(&str, &str)> = GOOD.iter().chain(more).copied().collect();
        read(&pairs)
    }

    #[test]
    fn three_keys_are_enough_and_the_rest_has_defaults() {
        let one = read(&GOOD).unwrap();
        assert_eq!((one.name.as_str(), one.algorithms.len(), one.platform), ("idp.example", 5, false));
        assert_eq!((one.organization_claim.as_str(), one.roles_claim.as_str()), ("organization", "roles"));
        let one = with(&[("roles", "ops=admin, system/Patient.rs=reader"), ("audience", "a, b")]).unwrap();
        assert_eq!((one.audiences.len(), one.roles["system/Patient.rs"].as_str()), (2, "reader"));
    }

    #[test]
    fn a_setting_that_would_weaken_the_check_is_refused_at_the_start() {
        let secret = "0123456789abcdef0123456789abcdef";
        for (more, key) in [
            (("jwks_url", "http://idp.example/jwks"), "jwks_url"),
            (("jwks_url", "https://user:x@idp.example/jwks"), "jwks_url"),
            (("jwks_url", "file:///etc/passwd"), "jwks_url"),
            (("jwks_url", "http://127.0.0.1.evil.example/jwks"), "jwks_url"),
            (("secret", secret), "jwks_url"),
            (("algorithms", "RS256,HS256"), "algorithms"),
            (("algorithms", "none"), "algorithms"),
            (("algorithms", ","), "algorithms"),
            (("audience", " , "), "audience"),
            (("roles", "ops=platform"), "roles"),
            (("roles", "ops=root"), "roles"),
            (("platform", "yes"), "platform"),
            (("lifetime_max_seconds", "0"), "lifetime_max_seconds"),
            (("name", "a b"), "name"),
            (("stray", "1"), "stray"),
        ] {
            let faults = with(&[more]).unwrap_err();
            assert!(faults.iter().any(|fault| fault.starts_with(&format!("auth.jwt.{key}:"))), "{more:?}: {faults:?}");
        }
        for (url, is_good) in
            [("http://127.0.0.1:9/jwks", true), ("http://[::1]/jwks", true), ("http://localhost/jwks", true)]
        {
            assert_eq!(with(&[("jwks_url", url)]).is_ok(), is_good, "{url}");
        }
        let hs = |secret: &'static str, algorithms: &'static str| {
            read(&[("issuer", "i"), ("audience", "a"), ("secret", secret), ("algorithms", algorithms)])
        };
        assert!(hs(secret, "HS256").is_ok() && hs(secret, "HS384").is_err() && hs(secret, "RS256").is_err());
        assert!(hs("short", "HS256").is_err());
        assert!(!format!("{:?}", hs(secret, "HS256").unwrap()).contains(secret), "secrets never print");
    }

    #[test]
    fn several_issuers_are_an_array_of_tables_each_with_its_own_name() {
        let list = "[{issuer = 'https://a.example', audience = ['x', 'y'], jwks_url = 'https://a.example/k', platform = true},
                     {issuer = 'https://b.example', audience = 'x', jwks_url = 'https://b.example/k', lifetime_max_seconds = 300}]";
        let mut faults = Vec::new();
        let found = issuers(&BTreeMap::new(), Some(list), &mut faults);
        assert_eq!((found.len(), faults.len()), (2, 0), "{faults:?}");
        assert_eq!((found[0].audiences.len(), found[0].platform, found[1].lifetime_max.as_secs()), (2, true, 300));
        for (bad, word) in [
            ("[1]", "array of tables"),
            ("nonsense", "array of tables"),
            ("[{issuer = 'https://a.example'}]", "[0].audience"),
            (&list.replace("b.example", "a.example"), "twice"),
            (&list.replace("https://b.example'", "https://a.example/b'"), "give each a `name`"),
        ] {
            let mut faults = Vec::new();
            issuers(&BTreeMap::new(), Some(bad), &mut faults);
            assert!(faults.iter().any(|fault| fault.contains(word)), "{bad}: {faults:?}");
        }
    }
}
