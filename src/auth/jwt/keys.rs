//! An issuer's public keys: a JWK Set (RFC 7517), read so that each key fits one family of signatures only.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// Of a set, at most.
const KEYS_MAX: usize = 200;
/// Of a `kid`, in bytes.
const KID_MAX: usize = 128;

/// A set that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// No JSON object with an array `keys`.
    #[error("is no JWK Set")]
    NotASet,
    /// More than 200 keys.
    #[error("has too many keys")]
    TooMany,
    /// None of its keys checks signatures that are accepted.
    #[error("has no key that could be used")]
    Empty,
}

/// A public key and the signatures that it may check.
struct PublicKey {
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// What a token's `kid` and `alg` come to.
pub enum Found {
    /// The key.
    Key(DecodingKey),
    /// There is a key of that name, of another kind.
    OtherKind,
    /// There is none.
    Unknown,
}

/// Public keys by their names.
#[derive(Default)]
pub struct KeySet {
    named: HashMap<String, PublicKey>,
    nameless: Vec<PublicKey>,
}

impl KeySet {
    /// Read a set. Keys that are not for signatures, or of a kind that we do not know, are left out; so are those whose name
    /// is there twice, because a token could mean either.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, KeySetError> {
        let set: Value = serde_json::from_slice(bytes).map_err(|_| KeySetError::NotASet)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(KeySetError::NotASet)?;
        if keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let (mut found, mut doubled) = (Self::default(), HashSet::new());
        for (jwk, key) in keys.iter().filter_map(|jwk| Some((jwk, public_key(jwk)?))) {
            match jwk.get("kid") {
                None => found.nameless.push(key),
                Some(Value::String(kid)) if (1..=KID_MAX).contains(&kid.len()) => {
                    if found.named.insert(kid.clone(), key).is_some() {
                        doubled.insert(kid.clone());
                    }
                }
                Some(_) => {}
            }
        }
        for kid in &doubled {
            found.named.remove(kid);
        }
        if !doubled.is_empty() {
            tracing::warn!(count = doubled.len(), "a JWK Set names several keys alike; they are not used");
        }
        if found.named.is_empty() && found.nameless.is_empty() { Err(KeySetError::Empty) } else { Ok(found) }
    }

    /// The key for a token. Without a `kid` it must be the only one that fits.
    #[must_use]
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Found {
        let fits = |key: &&PublicKey| key.algorithms.contains(&algorithm);
        if let Some(kid) = kid {
            return match self.named.get(kid) {
                Some(key) if fits(&key) => Found::Key(key.key.clone()),
                Some(_) => Found::OtherKind,
                None => Found::Unknown,
            };
        }
        let mut fitting = self.named.values().chain(&self.nameless).filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Found::Key(key.key.clone()),
            _ => Found::Unknown,
        }
    }
}

/// Points of Ed25519 of small order without their sign, those with a coordinate beyond the field, too, in hexadecimal. With
/// such a key anybody's signature is good for any message, or one in eight, and libraries take it.
const SMALL_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

/// Is it no key of Ed25519, or one for which anybody can sign?
fn is_weak(point: &[u8]) -> bool {
    let mut point = point.to_vec();
    if let Some(last) = point.last_mut() {
        *last &= 0x7f;
    }
    point.len() != 32 || SMALL_ORDER.contains(&hex::encode(&point).as_str())
}

/// A JWK as a key that checks signatures; `None` for every other one.
fn public_key(jwk: &Value) -> Option<PublicKey> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    // Who publishes the private half has no secret any more.
    if ["d", "k", "p", "q"].iter().any(|name| jwk.get(*name).is_some()) {
        return None;
    }
    let is_for_signatures = jwk.get("use").is_none_or(|used| used == "sig")
        && jwk.get("key_ops").is_none_or(|ops| ops.as_array().is_some_and(|ops| ops.iter().any(|one| one == "verify")));
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
    let (algorithms, key) = match (text("kty")?, text("crv")) {
        ("RSA", _) => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            // 2048 to 8192 bits; aws-lc refuses others, too, but only when it is asked.
            if !(256..=1024).contains(&n.len()) || n.first() == Some(&0) || e.is_empty() || e.len() > 8 {
                return None;
            }
            let exponent = e.iter().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
            // With 1 everything signs itself; an even one has no private half.
            if exponent < 3 || exponent.is_multiple_of(2) {
                return None;
            }
            (vec![Algorithm::RS256, Algorithm::RS384], DecodingKey::from_rsa_raw_components(&n, &e))
        }
        ("EC", Some(curve @ ("P-256" | "P-384"))) => {
            let (length, algorithm) = if curve == "P-256" { (32, Algorithm::ES256) } else { (48, Algorithm::ES384) };
            if bytes("x")?.len() != length || bytes("y")?.len() != length {
                return None;
            }
            (vec![algorithm], DecodingKey::from_ec_components(text("x")?, text("y")?).ok()?)
        }
        ("OKP", Some("Ed25519")) if !is_weak(&bytes("x")?) => {
            (vec![Algorithm::EdDSA], DecodingKey::from_ed_components(text("x")?).ok()?)
        }
        _ => return None,
    };
    let algorithms: Vec<Algorithm> = match jwk.get("alg") {
        None => algorithms,
        Some(Value::String(name)) => algorithms.into_iter().filter(|one| name.parse() == Ok(*one)).collect(),
        Some(_) => return None,
    };
    (is_for_signatures && !algorithms.is_empty()).then_some(PublicKey { algorithms, key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Of RFC 8037, appendix A.2.
    const ED: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    /// Of RFC 7517, appendix A.1.
    const X: &str = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4";
    const Y: &str = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM";

    fn parse(keys: &Value) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn finds(set: &KeySet, kid: Option<&str>, algorithm: Algorithm) -> &'static str {
        match set.find(kid, algorithm) {
            Found::Key(_) => "key",
            Found::OtherKind => "other kind",
            Found::Unknown => "unknown",
        }
    }

    #[test]
    fn a_key_checks_its_own_family_of_signatures_only() {
        let set = parse(&json!([
            {"kty": "OKP", "crv": "Ed25519", "x": ED, "kid": "ed"},
            {"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": "ec", "use": "sig", "alg": "ES256"},
        ]))
        .unwrap();
        for (kid, algorithm, answer) in [
            (Some("ed"), Algorithm::EdDSA, "key"),
            (Some("ec"), Algorithm::ES256, "key"),
            (Some("ec"), Algorithm::ES384, "other kind"),
            (Some("ec"), Algorithm::HS256, "other kind"),
            (Some("ed"), Algorithm::RS256, "other kind"),
            (Some("EC"), Algorithm::ES256, "unknown"),
            (None, Algorithm::ES256, "key"),
            (None, Algorithm::RS256, "unknown"),
        ] {
            assert_eq!(finds(&set, kid, algorithm), answer, "{kid:?} {algorithm:?}");
        }
    }

    #[test]
    fn keys_that_are_for_something_else_or_ambiguous_are_not_used() {
        let good = json!({"kty": "OKP", "crv": "Ed25519", "x": ED, "kid": "good"});
        let with = |name: &str, value: Value| {
            let mut key = good.clone();
            key["kid"] = json!("bad");
            key[name] = value;
            key
        };
        for bad in [
            with("use", json!("enc")),
            with("key_ops", json!(["sign"])),
            with("key_ops", json!("verify")),
            with("alg", json!("RS256")),
            with("alg", json!(1)),
            with("d", json!("AAAA")),
            with("crv", json!("X25519")),
            with("x", json!("AAAA")),
            with("x", json!(format!("{ED}="))),
            with("kty", json!("oct")),
            with("kid", json!("k".repeat(129))),
            with("kid", json!("")),
            with("kid", json!(7)),
            json!({"kty": "oct", "k": "c2VjcmV0", "kid": "bad"}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "bad"}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": ED[1..], "kid": "bad"}),
            json!("text"),
        ] {
            assert!(matches!(parse(&json!([bad])), Err(KeySetError::Empty)), "{bad}");
            assert_eq!(finds(&parse(&json!([bad, good])).unwrap(), Some("bad"), Algorithm::EdDSA), "unknown", "{bad}");
        }
        let set =
            parse(&json!([good, {"kty": "OKP", "crv": "Ed25519", "x": X, "kid": "good"}, with("alg", json!("EdDSA"))]));
        let set = set.unwrap();
        assert_eq!(
            (finds(&set, Some("good"), Algorithm::EdDSA), finds(&set, Some("bad"), Algorithm::EdDSA)),
            ("unknown", "key")
        );
        for text in ["", "[]", "{}", "{\"keys\": {}}", "nonsense"] {
            assert!(matches!(KeySet::parse(text.as_bytes()), Err(KeySetError::NotASet)), "{text}");
        }
        assert!(matches!(parse(&Value::from(vec![good; 201])), Err(KeySetError::TooMany)));
    }
}
