//! A token's text, taken apart strictly (RFC 7515, compact serialization; RFC 7519): nothing is believed yet.
//!
//! `jsonwebtoken` verifies the signatures; the parts are read here, because its own reading lets pass what we refuse (a
//! name that is there twice, an `iss` that is a list) and takes the time from the system only.

use crate::auth::Refusal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Of a token, in bytes. Headers of 16 KB are all that the listener takes.
pub const TOKEN_MAX: usize = 8 * 1024;
/// Of a `kid`, in bytes.
const KID_MAX: usize = 128;
/// Clocks may differ by so many seconds.
pub const LEEWAY_SECONDS: i64 = 60;

/// A token whose parts are well-formed.
pub struct Token<'t> {
    /// `alg`.
    pub algorithm: String,
    /// `kid`: looked up as it is, and nothing else is done with it.
    pub kid: Option<String>,
    /// The claims.
    pub claims: Claims,
    /// What is signed.
    pub message: &'t str,
    /// The signature in base64url.
    pub signature: &'t str,
}

/// A JSON object in which no name is there twice.
pub struct Claims(Map<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique;
        impl<'de> Visitor<'de> for Unique {
            type Value = Claims;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object without doubled names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Claims, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if map.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name is there twice"));
                    }
                }
                Ok(Claims(map))
            }
        }
        deserializer.deserialize_map(Unique)
    }
}

fn part(text: &str) -> Result<Claims, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal::TokenMalformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Refusal::TokenMalformed)
}

impl<'t> Token<'t> {
    /// Take a token apart.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn parse(text: &'t str) -> Result<Self, Refusal> {
        if text.len() > TOKEN_MAX {
            return Err(Refusal::TokenMalformed);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(Refusal::TokenMalformed)?;
        let (header, claims) = message.split_once('.').ok_or(Refusal::TokenMalformed)?;
        // Exactly three parts, none of them empty: an unsigned token ends with a dot.
        if claims.contains('.') || header.is_empty() || claims.is_empty() || signature.is_empty() {
            return Err(Refusal::TokenMalformed);
        }
        let header = part(header)?;
        // What we would have to understand (RFC 7515, section 4.1.11); and encrypted tokens. `jku`, `x5u`, `jwk` and `x5c` say
        // where a key is to be found, which the configuration has said already: they are not looked at.
        if ["crit", "enc", "zip"].iter().any(|name| header.0.contains_key(*name)) {
            return Err(Refusal::TokenMalformed);
        }
        // RFC 8725, section 3.11: a token made for something else is no access token (RFC 9068: at+jwt).
        let media = header.optional_text("typ").map_err(|_| Refusal::TokenMalformed)?.map(str::to_ascii_lowercase);
        if media.is_some_and(|media| !["jwt", "at+jwt", "application/at+jwt"].contains(&media.as_str())) {
            return Err(Refusal::TokenClaims);
        }
        let algorithm = header.optional_text("alg")?.ok_or(Refusal::TokenMalformed)?.to_owned();
        let kid = header.optional_text("kid").map_err(|_| Refusal::TokenMalformed)?.map(str::to_owned);
        if kid.as_ref().is_some_and(|kid| !(1..=KID_MAX).contains(&kid.len()) || kid.chars().any(char::is_control)) {
            return Err(Refusal::TokenMalformed);
        }
        Ok(Self { algorithm, kid, claims: part(claims)?, message, signature })
    }
}

impl Claims {
    /// A claim.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A claim by its name, or by the names on the way to it (`realm_access.roles`).
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(path) {
            return Some(value);
        }
        let mut names = path.split('.');
        let first = self.0.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }

    /// A text, if it is there at all.
    fn optional_text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::TokenClaims),
        }
    }

    /// A text of 1 to `max` bytes without control characters.
    ///
    /// # Errors
    /// [`Refusal::TokenClaims`], also if it is missing.
    pub fn text(&self, name: &str, max: usize) -> Result<&str, Refusal> {
        let text = self.optional_text(name)?.ok_or(Refusal::TokenClaims)?;
        let fits = (1..=max).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits { Ok(text) } else { Err(Refusal::TokenClaims) }
    }

    /// A `NumericDate` (RFC 7519, section 2): seconds, whole or not, never as a text.
    fn seconds(&self, name: &str) -> Result<Option<i64>, Refusal> {
        // Beyond this a float no longer tells one second from the next; it is the year 285,616,414.
        const MAX: f64 = 9_007_199_254_740_992.0;
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                let seconds = number.as_f64().filter(|seconds| (0.0..MAX).contains(seconds));
                #[expect(clippy::cast_possible_truncation, reason = "its range is checked")]
                seconds.map(|seconds| Some(seconds.floor() as i64)).ok_or(Refusal::TokenClaims)
            }
            Some(_) => Err(Refusal::TokenClaims),
        }
    }

    /// Is it good now? `exp` must be there, ahead (by the leeway), and no further ahead than `lifetime_max`; `nbf` and `iat`,
    /// where they are there, not ahead.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check_times(&self, now: i64, lifetime_max: i64) -> Result<(), Refusal> {
        let expires = self.seconds("exp")?.ok_or(Refusal::TokenClaims)?;
        if expires <= now - LEEWAY_SECONDS || expires > now + lifetime_max + LEEWAY_SECONDS {
            return Err(Refusal::TokenExpired);
        }
        for name in ["nbf", "iat"] {
            if self.seconds(name)?.is_some_and(|from| from > now + LEEWAY_SECONDS) {
                return Err(Refusal::TokenEarly);
            }
        }
        Ok(())
    }

    /// Is it meant for one of these? `aud` is a text or a list of texts.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check_audience(&self, audiences: &[String]) -> Result<(), Refusal> {
        let given: Vec<&str> = match self.0.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => {
                many.iter().map(Value::as_str).collect::<Option<_>>().ok_or(Refusal::TokenClaims)?
            }
            _ => return Err(Refusal::TokenClaims),
        };
        let fits = given.iter().any(|one| audiences.iter().any(|audience| audience == one));
        if fits { Ok(()) } else { Err(Refusal::TokenAudience) }
    }

    /// Is it an access token that whoever bears it may use? An ID or refresh token is not (`typ` of Keycloak, `token_use` of
    /// Cognito); nor is one that is bound to a key or certificate (`cnf`), which we could not check.
    ///
    /// # Errors
    /// [`Refusal::TokenClaims`].
    pub fn check_use(&self) -> Result<(), Refusal> {
        let says = |name: &str, words: &[&str]| {
            let text = self.0.get(name).and_then(Value::as_str);
            text.is_some_and(|text| words.iter().any(|word| text.eq_ignore_ascii_case(word)))
        };
        let is_other = says("typ", &["ID", "Refresh", "Offline", "Logout"]) || says("token_use", &["id", "refresh"]);
        if is_other || self.0.contains_key("cnf") { Err(Refusal::TokenClaims) } else { Ok(()) }
    }
}
