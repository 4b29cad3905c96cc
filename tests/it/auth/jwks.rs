//! Fetching an issuer's keys: rotation refuses nobody, inventions cost nothing, outages change nothing.

use super::issuer::{Key, KeyServer};
use crate::support::app::{Setup, TestApp};
use chartgate::auth::Authenticator;
use chartgate::auth::jwt::jwks::{Jwks, JwksOptions, Looked};
use chartgate::clock::Clock;
use futures::StreamExt as _;
use jsonwebtoken::Algorithm::{self, ES256, EdDSA};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

async fn look(jwks: &Jwks, kid: &str, algorithm: Algorithm) -> &'static str {
    match jwks.find(Some(kid), algorithm).await {
        Looked::Key(_) => "key",
        Looked::Unknown => "unknown",
        Looked::OtherKind => "other kind",
        Looked::Away { .. } => "away",
    }
}

fn options(window_ms: u64) -> JwksOptions {
    JwksOptions { window: Duration::from_millis(window_ms), ..JwksOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_invented_names_cost_one_fetch_a_window() {
    let server = KeyServer::start(&[Key::p256().jwk("real")]).await;
    let window = Duration::from_secs(1);
    let jwks = Jwks::new(server.url.parse().unwrap(), JwksOptions { window, ..JwksOptions::default() });
    // All at the first moment wait for one fetch.
    let first: Vec<&str> =
        futures::stream::iter(0..200).map(|_| look(&jwks, "real", ES256)).buffer_unordered(200).collect().await;
    assert!(first.iter().all(|found| *found == "key") && server.fetches() == 1, "{}", server.fetches());
    let began = Instant::now();
    let names = (0..10_000).map(|number| format!("{:016x}", rand::random::<u64>() ^ number));
    let found: Vec<&str> = futures::stream::iter(names)
        .map(|name| {
            let jwks = &jwks;
            async move { look(jwks, &name, ES256).await }
        })
        .buffer_unordered(2_000)
        .collect()
        .await;
    let windows = began.elapsed().as_secs_f64() / window.as_secs_f64();
    let count = |what: &str| found.iter().filter(|found| **found == what).count();
    let (unknown, away, fetches) = (count("unknown"), count("away"), server.fetches() - 1);
    println!(
        "10,000 invented names in {windows:.1} windows: {fetches} fetch(es), {unknown} unknown, {away} told to come again"
    );
    assert_eq!(unknown + away, 10_000);
    assert!(
        fetches >= 1 && f64::from(u32::try_from(fetches).unwrap()) <= windows.floor() + 1.0,
        "{fetches} in {windows}"
    );
    let before = server.fetches();
    assert_eq!(look(&jwks, "real", ES256).await, "key", "the real key is found beside them");
    assert_eq!(server.fetches(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_load_and_nobody_is_refused() {
    let app = TestApp::start().await;
    let server = KeyServer::start(&[]).await;
    let tokens =
        Authenticator::with_jwks_options(app.app.db.clone(), Clock::system(), &[server.config("idp")], options(100));
    let claims = json!({
        "iss": "https://idp.example", "aud": "chartgate", "sub": "c", "exp": Clock::system().now().unix_timestamp() + 600,
        "organization": app.organization.id, "roles": ["sender"],
    });
    let sign = |number: usize, key: &Key| key.token(&json!({"alg": "ES256", "kid": format!("k{number}")}), &claims);
    let mut key = Key::p256();
    let mut published = vec![key.jwk("k0")];
    server.publish(&published);
    let current = Arc::new(RwLock::new(sign(0, &key)));
    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..24)
        .map(|_| {
            let (tokens, current) = (tokens.clone(), Arc::clone(&current));
            let (stop, accepted) = (Arc::clone(&stop), Arc::clone(&accepted));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let token = current.read().unwrap().clone();
                    tokens.authenticate(&token).await.unwrap_or_else(|error| panic!("refused wrongly: {error}"));
                    accepted.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    // Each key signs from the moment that it is published; the one before it is published for a while.
    for number in 1..=20 {
        let before = accepted.load(Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(30);
        while accepted.load(Ordering::Relaxed) < before + 50 {
            assert!(
                Instant::now() < deadline && clients.iter().all(|client| !client.is_finished()),
                "rotation {number}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        key = Key::p256();
        published.push(key.jwk(&format!("k{number}")));
        if published.len() > 2 {
            published.remove(0);
        }
        server.publish(&published);
        *current.write().unwrap() = sign(number, &key);
    }
    let last = accepted.load(Ordering::Relaxed);
    while accepted.load(Ordering::Relaxed) < last + 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    println!(
        "20 rotations, {} tokens accepted, 0 refused, {} fetches",
        accepted.load(Ordering::Relaxed),
        server.fetches()
    );
    assert!(server.fetches() <= 22, "{}", server.fetches());
}

#[tokio::test]
async fn while_the_keys_cannot_be_fetched_the_last_good_ones_stay() {
    let (good, other) = (Key::ed(), Key::ed());
    let server = KeyServer::start(&[good.jwk("good")]).await;
    let elsewhere = KeyServer::start(&[other.jwk("other")]).await;
    let short = JwksOptions { age_max: Duration::ZERO, ..options(1) };
    let jwks = Jwks::new(server.url.parse().unwrap(), short);
    assert_eq!(look(&jwks, "good", EdDSA).await, "key");
    let huge = format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(300 * 1024));
    for (status, body, location) in [
        (500, "{}", None),
        (404, "{}", None),
        (204, "", None),
        (302, "", Some(elsewhere.url.clone())),
        (307, "", Some("file:///etc/passwd".to_owned())),
        (200, "nonsense", None),
        (200, "{\"keys\": []}", None),
        (200, huge.as_str(), None),
    ] {
        server.answer(status, body, location);
        let before = server.fetches();
        for _ in 0..5 {
            assert_eq!(look(&jwks, "good", EdDSA).await, "key", "{status}");
        }
        // Nobody can say whether there is such a key now.
        assert_eq!(look(&jwks, "other", EdDSA).await, "away", "{status}");
        assert!(server.fetches() > before);
    }
    assert_eq!(elsewhere.fetches(), 0, "a redirect is not followed");
    // A key that was taken out ends; one that was put in counts.
    server.publish(&[other.jwk("other")]);
    assert_eq!(look(&jwks, "other", EdDSA).await, "key");
    assert_eq!(look(&jwks, "good", EdDSA).await, "unknown");
    // Nothing is believed for ever.
    let brief = JwksOptions { keep: Duration::from_millis(200), ..options(1) };
    let jwks = Jwks::new(server.url.parse().unwrap(), brief);
    assert_eq!(look(&jwks, "other", EdDSA).await, "key");
    server.answer(500, "", None);
    let deadline = Instant::now() + Duration::from_secs(20);
    while look(&jwks, "other", EdDSA).await != "away" {
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_checked_is_told_to_come_again() {
    let key = Key::ed();
    let server = KeyServer::start(&[key.jwk("k")]).await;
    server.answer(503, "", None);
    let app = TestApp::with(Setup { jwt: vec![server.config("idp")], ..Setup::default() }).await;
    let claims = json!({
        "iss": "https://idp.example", "aud": "chartgate", "sub": "c", "exp": Clock::system().now().unix_timestamp() + 600,
        "organization": app.organization.id, "roles": ["sender"],
    });
    let token = key.token(&json!({"alg": "EdDSA", "kid": "k"}), &claims);
    let answer = crate::http::get(&app, &token, "/v1/ingestion/jobs").await;
    assert_eq!(answer.problem(503, "issuer_unavailable")["retryable"], true);
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(app.count("select count(*) from audit_records where event = 'access.denied'").await, 0);
    server.publish(&[key.jwk("k")]);
    assert_eq!(crate::http::get(&app, &token, "/v1/ingestion/jobs").await.status, 200);
}
