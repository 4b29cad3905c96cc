//! An issuer of tokens: real keys, a real server of their public halves, and tokens that are right or wrong as a test likes.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RsaKeyPair, RsaPublicKeyComponents,
};
use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chartgate::config::jwt::{IssuerConfig, IssuerKeys};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A private key.
pub enum Key {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Key {
    pub fn rsa() -> Self {
        Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn p384() -> Self {
        Self::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    /// Its public half.
    pub fn jwk(&self, kid: &str) -> Value {
        let point = |pair: &EcdsaKeyPair, curve: &str| {
            let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
            json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y), "kid": kid, "use": "sig"})
        };
        match self {
            Self::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": b64(public.n), "e": b64(public.e), "kid": kid, "use": "sig"})
            }
            Self::P256(pair) => point(pair, "P-256"),
            Self::P384(pair) => point(pair, "P-384"),
            Self::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key()), "kid": kid}),
        }
    }

    /// What somebody might take for an HMAC secret: the public half as it is published.
    pub fn public_texts(&self) -> Vec<Vec<u8>> {
        let Self::Rsa(pair) = self else { return Vec::new() };
        let components = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
        let der: PublicKeyX509Der<'static> = pair.public_key().as_der().unwrap();
        let spki = der.as_ref().to_vec();
        let text = base64::engine::general_purpose::STANDARD.encode(&spki);
        let lines: Vec<String> =
            text.as_bytes().chunks(64).map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
        vec![
            spki,
            pem.trim().as_bytes().to_vec(),
            pem.into_bytes(),
            components.n,
            self.jwk("rsa").to_string().into_bytes(),
        ]
    }

    pub fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let padding = if algorithm == "RS384" { &RSA_PKCS1_SHA384 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(pair) | Self::P384(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with exactly this header and these claims.
    pub fn token(&self, header: &Value, claims: &Value) -> String {
        self.token_of(&header.to_string(), &claims.to_string())
    }

    /// The same of texts that need not be JSON.
    pub fn token_of(&self, header: &str, claims: &str) -> String {
        let algorithm =
            serde_json::from_str::<Value>(header).ok().and_then(|header| Some(header["alg"].as_str()?.to_owned()));
        let message = format!("{}.{}", b64(header), b64(claims));
        let signature = self.sign(algorithm.as_deref().unwrap_or_default(), message.as_bytes());
        format!("{message}.{}", b64(signature))
    }
}

/// A token that is signed by HMAC.
pub fn hmac_token(secret: &[u8], header: &Value, claims: &Value) -> String {
    let algorithm = match header["alg"].as_str().unwrap() {
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(algorithm, secret), message.as_bytes());
    format!("{message}.{}", b64(tag))
}

/// A configuration with the defaults of the settings.
pub fn configured(name: &str, keys: IssuerKeys) -> IssuerConfig {
    let algorithms: &[&str] = match &keys {
        IssuerKeys::Jwks(_) => chartgate::config::jwt::ASYMMETRIC,
        IssuerKeys::Secret(_) => &["HS256", "HS384"],
    };
    IssuerConfig {
        name: name.to_owned(),
        issuer: format!("https://{name}.example"),
        audiences: vec!["chartgate".to_owned(), "urn:chartgate".to_owned()],
        keys,
        algorithms: algorithms.iter().map(|name| (*name).to_owned()).collect(),
        organization: None,
        organization_claim: "organization".to_owned(),
        roles_claim: "roles".to_owned(),
        roles: BTreeMap::new(),
        platform: false,
        source: "default".to_owned(),
        lifetime_max: Duration::from_hours(24),
    }
}

pub fn with_secret(name: &str, secret: &str) -> IssuerConfig {
    configured(name, IssuerKeys::Secret(SecretString::from(secret)))
}

/// What the server answers.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    pub location: Option<String>,
}

/// A server of public keys.
pub struct KeyServer {
    pub url: String,
    answer: Arc<Mutex<Answer>>,
    fetches: Arc<AtomicUsize>,
}

impl KeyServer {
    pub async fn start(keys: &[Value]) -> Self {
        let answer = Arc::new(Mutex::new(Answer { status: 200, body: String::new(), location: None }));
        let fetches = Arc::new(AtomicUsize::new(0));
        let (current, count) = (Arc::clone(&answer), Arc::clone(&fetches));
        let serve = move || {
            count.fetch_add(1, Ordering::SeqCst);
            let answer = current.lock().unwrap().clone();
            let status = StatusCode::from_u16(answer.status).unwrap();
            let location = answer.location.map(|location| ("location", location));
            async move { (status, axum::response::AppendHeaders(location), answer.body).into_response() }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/keys", get(serve))).await });
        let server = Self { url, answer, fetches };
        server.publish(keys);
        server
    }

    pub fn publish(&self, keys: &[Value]) {
        self.answer(200, &json!({ "keys": keys }).to_string(), None);
    }

    pub fn answer(&self, status: u16, body: &str, location: Option<String>) {
        *self.answer.lock().unwrap() = Answer { status, body: body.to_owned(), location };
    }

    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    pub fn config(&self, name: &str) -> IssuerConfig {
        configured(name, IssuerKeys::Jwks(self.url.parse().unwrap()))
    }
}
