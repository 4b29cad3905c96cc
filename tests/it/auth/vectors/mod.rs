//! Signatures that are almost right, made anew for each run after the classes of Project Wycheproof (malformed encodings,
//! edge values, forged paddings, weak keys): through the whole check of a token, each with a key that the issuer published.

mod rsa;

use super::issuer::{Key, KeyServer, b64};
use crate::support::app::{Setup, TestApp};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use chartgate::auth::{AuthError, Refusal};
use chartgate::clock::Clock;
use futures::future::join_all;
use rsa::RawRsa;
use serde_json::{Value, json};

/// An issuer and whoever accepts its tokens.
struct Verifier {
    app: TestApp,
    _server: KeyServer,
}

/// What is signed of a token, and how.
struct Unsigned {
    message: String,
}

impl Unsigned {
    fn with(&self, signature: impl AsRef<[u8]>) -> String {
        format!("{}.{}", self.message, b64(signature))
    }
}

impl Verifier {
    async fn of(keys: &[Value]) -> Self {
        let server = KeyServer::start(keys).await;
        let app = TestApp::with(Setup { jwt: vec![server.config("first")], ..Setup::default() }).await;
        Self { app, _server: server }
    }

    fn unsigned(&self, algorithm: &str, kid: &str) -> Unsigned {
        let now = Clock::system().now().unix_timestamp();
        let claims = json!({
            "iss": "https://first.example", "aud": "chartgate", "sub": "client-1", "exp": now + 300, "iat": now,
            "organization": self.app.organization.id, "roles": ["reader"],
        });
        let header = json!({"alg": algorithm, "kid": kid});
        Unsigned { message: format!("{}.{}", b64(header.to_string()), b64(claims.to_string())) }
    }

    async fn verdict(&self, token: &str) -> Result<(), Refusal> {
        match self.app.app.authenticator.authenticate(token).await {
            Ok(_) => Ok(()),
            Err(AuthError::Refused(refusal)) => Err(refusal),
            Err(error) => panic!("{error}"),
        }
    }

    async fn takes(&self, what: &str, token: &str) {
        assert_eq!(self.verdict(token).await, Ok(()), "{what}");
    }

    async fn refuses(&self, what: &str, token: &str) {
        assert_eq!(self.verdict(token).await, Err(Refusal::TokenSignature), "{what}");
    }
}

/// `a - b` of numbers of one length, the most significant byte first.
fn minus(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut borrow = 0i16;
    let mut difference: Vec<u8> = a
        .iter()
        .zip(b)
        .rev()
        .map(|(a, b)| {
            let digit = i16::from(*a) - i16::from(*b) - borrow;
            borrow = i16::from(digit < 0);
            u8::try_from(digit.rem_euclid(256)).unwrap()
        })
        .collect();
    difference.reverse();
    difference
}

/// `a + b`, if it has the same length.
fn plus(a: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let mut carry = 0u16;
    let mut sum: Vec<u8> = a
        .iter()
        .zip(b)
        .rev()
        .map(|(a, b)| {
            let digit = u16::from(*a) + u16::from(*b) + carry;
            carry = digit >> 8;
            u8::try_from(digit & 255).unwrap()
        })
        .collect();
    sum.reverse();
    (carry == 0).then_some(sum)
}

fn number(value: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[length - 1] = value;
    bytes
}

fn der_integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
    let mut value = bytes[start..].to_vec();
    if value[0] & 0x80 != 0 {
        value.insert(0, 0);
    }
    [vec![2, u8::try_from(value.len()).unwrap()], value].concat()
}

/// Orders of the groups.
const N256: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
const N384: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973";

async fn ecdsa(key: &Key, other: &Key, algorithm: &str, order: &str) {
    let verifier = Verifier::of(&[key.jwk("key")]).await;
    let unsigned = verifier.unsigned(algorithm, "key");
    let signature = key.sign(algorithm, unsigned.message.as_bytes());
    let n = hex::decode(order).unwrap();
    let length = n.len();
    let (r, s) = signature.split_at(length);
    let pair = |r: &[u8], s: &[u8]| unsigned.with([r, s].concat());
    verifier.takes("the right one", &pair(r, s)).await;
    // As RFC 7518 has it, both are signatures of the one who has the key: nothing here depends on a token's bytes.
    verifier.takes("its twin", &pair(r, &minus(&n, s))).await;
    let (zero, one, ones) = (number(0, length), number(1, length), vec![0xff; length]);
    let before = minus(&n, &one);
    let edges = [&zero, &one, &before, &n, &ones];
    for (index, edge) in edges.iter().enumerate() {
        verifier.refuses(&format!("r is edge {index}"), &pair(edge, s)).await;
        verifier.refuses(&format!("s is edge {index}"), &pair(r, edge)).await;
        for (second, other) in edges.iter().enumerate() {
            verifier.refuses(&format!("edges {index} and {second}"), &pair(edge, other)).await;
        }
    }
    for (what, beyond) in [("r", plus(r, &n)), ("s", plus(s, &n))] {
        let Some(beyond) = beyond else { continue };
        let token = if what == "r" { pair(&beyond, s) } else { pair(r, &beyond) };
        verifier.refuses(&format!("{what} plus the order"), &token).await;
    }
    verifier.refuses("swapped", &pair(s, r)).await;
    verifier.refuses("r negated", &pair(&minus(&n, r), s)).await;
    for (what, bytes) in [
        ("a byte less", signature[..2 * length - 1].to_vec()),
        ("a byte less before", signature[1..].to_vec()),
        ("a byte more", [&signature[..], &[0]].concat()),
        ("a byte more before", [&[0], &signature[..]].concat()),
        ("with the format's byte", [&[4], &signature[..]].concat()),
        ("half", r.to_vec()),
        ("twice", signature.repeat(2)),
        ("one byte", vec![0]),
        ("both wider by zeros", [&[0], r, &[0], s].concat()),
    ] {
        verifier.refuses(what, &unsigned.with(bytes)).await;
    }
    let integers = [der_integer(r), der_integer(s)].concat();
    let der = [vec![0x30, u8::try_from(integers.len()).unwrap()], integers].concat();
    verifier.refuses("in DER", &unsigned.with(der)).await;
    verifier.refuses("of another key", &unsigned.with(other.sign(algorithm, unsigned.message.as_bytes()))).await;
    verifier.refuses("of another message", &unsigned.with(key.sign(algorithm, b"another message"))).await;
    for bit in [0, 7, 8 * length - 1, 8 * length, 16 * length - 1] {
        let mut changed = signature.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        verifier.refuses(&format!("bit {bit} changed"), &unsigned.with(changed)).await;
    }
}

#[tokio::test]
async fn signatures_by_ecdsa_are_taken_in_their_one_form_and_range_only() {
    ecdsa(&Key::p256(), &Key::p256(), "ES256", N256).await;
    ecdsa(&Key::p384(), &Key::p384(), "ES384", N384).await;
}

#[tokio::test]
async fn a_signature_is_written_in_one_way_only() {
    let key = Key::p256();
    let verifier = Verifier::of(&[key.jwk("key")]).await;
    let unsigned = verifier.unsigned("ES256", "key");
    // One that holds what the other alphabet writes in another way.
    let text = loop {
        let text = b64(key.sign("ES256", unsigned.message.as_bytes()));
        if text.contains('-') && text.contains('_') {
            break text;
        }
    };
    let token = |text: &str| format!("{}.{text}", unsigned.message);
    verifier.takes("the right one", &token(&text)).await;
    // The last character has four bits that mean nothing, and must be zero.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(text.chars().last().unwrap()).unwrap();
    assert_eq!((text.len(), last % 16), (86, 0));
    let loose = format!("{}{}", &text[..85], &alphabet[last + 1..last + 2]);
    for (what, other) in [
        ("padding", format!("{text}==")),
        ("half of the padding", format!("{text}=")),
        ("a space", format!("{text} ")),
        ("a line", format!("{text}\n")),
        ("a line within", format!("{}\n{}", &text[..40], &text[40..])),
        ("bits that mean nothing", loose),
        ("the other alphabet", text.replace('-', "+").replace('_', "/")),
        ("a zero byte", format!("{text}\0")),
        ("beyond ASCII", format!("{text}\u{ff21}")),
        ("percent", text.replacen('-', "%2D", 1)),
    ] {
        let verdict = verifier.verdict(&token(&other)).await;
        assert!(
            verdict == Err(Refusal::TokenSignature) || verdict == Err(Refusal::TokenMalformed),
            "{what}: {verdict:?}"
        );
    }
}

#[tokio::test]
async fn signatures_by_ed25519_are_taken_in_their_one_form_only() {
    // The order of the group, the least significant byte first.
    const L: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
    let (key, other) = (Key::ed(), Key::ed());
    let verifier = Verifier::of(&[key.jwk("key")]).await;
    let unsigned = verifier.unsigned("EdDSA", "key");
    let signature = key.sign("EdDSA", unsigned.message.as_bytes());
    let (r, s) = signature.split_at(32);
    let pair = |r: &[u8], s: &[u8]| unsigned.with([r, s].concat());
    let order = hex::decode(L).unwrap();
    let backwards = |bytes: &[u8]| bytes.iter().rev().copied().collect::<Vec<u8>>();
    verifier.takes("the right one", &pair(r, s)).await;
    let malleable = backwards(&plus(&backwards(s), &backwards(&order)).unwrap());
    verifier.refuses("s plus the order", &pair(r, &malleable)).await;
    for high in [0x20, 0x40, 0x80] {
        let mut beyond = s.to_vec();
        beyond[31] |= high;
        verifier.refuses(&format!("s with the bit {high:#x}"), &pair(r, &beyond)).await;
    }
    let mut sign = r.to_vec();
    sign[31] ^= 0x80;
    let identity = backwards(&number(1, 32));
    let field = hex::decode("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f").unwrap();
    for (what, r, s) in [
        ("all zero", vec![0; 32], vec![0; 32]),
        ("all ones", vec![0xff; 32], vec![0xff; 32]),
        ("s is zero", r.to_vec(), vec![0; 32]),
        ("s is the order", r.to_vec(), order.clone()),
        ("r is the identity", identity.clone(), s.to_vec()),
        ("both, which fits keys of small order", identity.clone(), vec![0; 32]),
        ("r is zero", vec![0; 32], s.to_vec()),
        ("r is the field's prime", field, s.to_vec()),
        ("r has the other sign", sign, s.to_vec()),
        ("swapped", s.to_vec(), r.to_vec()),
    ] {
        verifier.refuses(what, &pair(&r, &s)).await;
    }
    for (what, bytes) in [
        ("a byte less", signature[..63].to_vec()),
        ("a byte more", [&signature[..], &[0]].concat()),
        ("r alone", r.to_vec()),
        ("twice", signature.repeat(2)),
        ("of another key", other.sign("EdDSA", unsigned.message.as_bytes())),
        ("of another message", key.sign("EdDSA", b"another message")),
    ] {
        verifier.refuses(what, &unsigned.with(bytes)).await;
    }
}

/// Points of small order, in every way in which they can be written (RFC 7748, section 4.1, and what stands beyond the field): with
/// such a key `identity, 0` signs every message, or one in eight.
#[tokio::test]
async fn a_key_for_which_anybody_can_sign_is_no_key() {
    let good = Key::ed();
    let mut points = Vec::new();
    for text in [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        let mut point = hex::decode(text).unwrap();
        points.push(point.clone());
        point[31] |= 0x80;
        points.push(point);
    }
    let mut keys = vec![good.jwk("good")];
    keys.extend(
        points.iter().enumerate().map(
            |(index, point)| json!({"kty": "OKP", "crv": "Ed25519", "x": b64(point), "kid": format!("weak{index}")}),
        ),
    );
    // Points that are not on their curve, and none at all.
    let p256 = Key::p256();
    let (mut off, mut none) = (p256.jwk("off"), p256.jwk("none"));
    off["y"] = p256.jwk("")["x"].clone();
    (none["x"], none["y"]) = (json!(b64([0; 32])), json!(b64([0; 32])));
    // Exponents that leave everything as it is, or cannot be undone.
    let (mut first, mut even) = (Key::rsa().jwk("first"), Key::rsa().jwk("even"));
    (first["e"], even["e"]) = (json!(b64([1])), json!(b64([2])));
    keys.extend([off, none, first, even]);
    let verifier = Verifier::of(&keys).await;
    let unsigned = verifier.unsigned("EdDSA", "good");
    verifier.takes("the good key", &unsigned.with(good.sign("EdDSA", unsigned.message.as_bytes()))).await;
    let lenient = points.iter().filter(|point| {
        let signature = [&points[0][..], &[0; 32]].concat();
        UnparsedPublicKey::new(&ED25519, point).verify(b"anything", &signature).is_ok()
    });
    println!("{} of {} weak keys verify a signature that nobody made", lenient.count(), points.len());
    // All at once: each unknown name waits for another look at the issuer's keys.
    let mut forged = Vec::new();
    for index in 0..points.len() {
        let unsigned = verifier.unsigned("EdDSA", &format!("weak{index}"));
        forged.extend(points.iter().map(|r| unsigned.with([&r[..], &[0; 32]].concat())));
    }
    let verdicts = join_all(forged.iter().map(|token| verifier.verdict(token))).await;
    assert_eq!(verdicts, vec![Err(Refusal::TokenKey); points.len() * points.len()]);
    for kid in ["off", "none"] {
        let unsigned = verifier.unsigned("ES256", kid);
        let signature = p256.sign("ES256", unsigned.message.as_bytes());
        assert!(verifier.verdict(&unsigned.with(signature)).await.is_err(), "{kid}");
    }
    let unsigned = verifier.unsigned("RS256", "first");
    let padded = rsa::padded(256, &rsa::digest_info(unsigned.message.as_bytes()));
    assert_eq!(verifier.verdict(&unsigned.with(padded)).await, Err(Refusal::TokenKey), "e is one");
    let unsigned = verifier.unsigned("RS256", "even");
    assert_eq!(verifier.verdict(&unsigned.with([1; 256])).await, Err(Refusal::TokenKey), "e is two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paddings_of_rsa_are_taken_in_their_one_form_only() {
    let key = RawRsa::generate();
    let verifier = Verifier::of(&[key.key.jwk("key")]).await;
    let unsigned = verifier.unsigned("RS256", "key");
    let message = unsigned.message.as_bytes();
    let info = rsa::digest_info(message);
    let right = rsa::padded(256, &info);
    // The arithmetic is right: it makes the very signature that the library makes.
    assert_eq!(key.raw(&right), key.key.sign("RS256", message));
    verifier.takes("the right one", &unsigned.with(key.raw(&right))).await;
    for (what, block) in rsa::forged(message) {
        assert_eq!(block.len(), 256, "{what}");
        verifier.refuses(what, &unsigned.with(key.raw(&block))).await;
    }
    let signature = key.raw(&right);
    let modulus = key.modulus();
    let before = minus(&modulus, &number(1, 256));
    for (what, bytes) in [
        ("zero", vec![0; 256]),
        ("one", number(1, 256)),
        ("the modulus less one", before),
        ("the modulus", modulus.clone()),
        ("all ones", vec![0xff; 256]),
        ("negated", minus(&modulus, &signature)),
        ("a byte less", signature[1..].to_vec()),
        ("a byte more before", [&[0], &signature[..]].concat()),
        ("a byte more", [&signature[..], &[0]].concat()),
        ("the padding itself", right.clone()),
        ("by PSS", key.pss(message)),
        ("by SHA-384", key.key.sign("RS384", message)),
        ("of another key", Key::rsa().sign("RS256", message)),
    ] {
        verifier.refuses(what, &unsigned.with(bytes)).await;
    }
    if let Some(beyond) = plus(&signature, &modulus) {
        verifier.refuses("plus the modulus", &unsigned.with(beyond)).await;
    }
}
