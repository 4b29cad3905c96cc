//! Signatures of messages, as Standard Webhooks 1.0 has them: `v1,` and the base64 of HMAC-SHA256 over
//! `{webhook-id}.{webhook-timestamp}.{body}`, one for each secret that is good, separated by spaces.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

/// Bytes of a fresh secret; the specification has 24 to 64.
const SECRET_LEN: usize = 32;

/// A fresh secret.
#[must_use]
pub fn fresh_secret() -> SecretSlice<u8> {
    let mut bytes = vec![0u8; SECRET_LEN];
    rand::fill(&mut bytes[..]);
    SecretSlice::from(bytes)
}

/// `whsec_…`, as receivers put it into their settings. Shown once.
#[must_use]
pub fn shown(secret: &SecretSlice<u8>) -> SecretString {
    SecretString::from(format!("whsec_{}", STANDARD.encode(secret.expose_secret())))
}

/// The value of `webhook-signature`.
#[must_use]
pub fn sign(secrets: &[SecretSlice<u8>], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures = secrets.iter().map(|secret| {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret()));
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries (svix test vectors).
    #[test]
    fn the_known_vector_is_met() {
        let secret = SecretSlice::from(STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        let body = br#"{"test": 2432232314}"#;
        let signature = sign(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_secret_gives_a_signature_of_its_own() {
        let both = sign(&[fresh_secret(), fresh_secret()], "msg_1", 1, b"{}");
        let parts: Vec<&str> = both.split(' ').collect();
        assert!(parts.len() == 2 && parts[0] != parts[1] && parts.iter().all(|part| part.starts_with("v1,")));
        assert!(shown(&fresh_secret()).expose_secret().starts_with("whsec_"));
    }
}
