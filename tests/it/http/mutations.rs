//! Thousands of Bundles and Athena events that were broken at random: each is accepted or refused with a 4xx, and none troubles us.

use super::{BUNDLE, call, content_type, gzip};
use crate::athena::drain;
use crate::support::app::TestApp;
use chartgate::ingest::athena::sample::Traffic;
use chartgate::ingest::fhir::sample::{self, Size};
use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeMap;

/// Requests, unless the environment says otherwise.
const REQUESTS: u64 = 2_000;

const SCRAPS: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"1e999",
    b"-0",
    b"0.1e-400",
    b"99999999999999999999999",
    b"\"Bundle\"",
    b"\"resource\":",
    b"\"resourceType\":",
    b"\"entry\":[]",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\x98\x80",
    b"\r\n",
    b"\"\"",
    b"{}",
    b"[[[[[[",
    b"/*",
    b"\"reference\":\"urn:uuid:x\"",
    b"\"extension\":[{}]",
];

/// The same seed gives the same request.
fn bundle(seed: u64) -> Vec<u8> {
    let size = if seed.is_multiple_of(10) { Size::Full } else { Size::Small };
    mutate(seed, sample::bundle(seed % 50, 1, size))
}

fn mutate(seed: u64, mut body: Vec<u8>) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..body.len().max(1)).min(body.len().saturating_sub(1));
        let until = (at + random.random_range(1..60)).min(body.len());
        match random.random_range(0..8) {
            0 if !body.is_empty() => body[at] ^= 1 << random.random_range(0..8),
            1 => body.truncate(at),
            2 => drop(body.drain(at..until)),
            3 => {
                let piece = body[at..until].to_vec();
                body.splice(at..at, piece);
            }
            4 => drop(body.splice(at..at, SCRAPS.choose(&mut random).unwrap().iter().copied())),
            5 => drop(body.splice(at..until, SCRAPS.choose(&mut random).unwrap().iter().copied())),
            // A value of another kind where one stands.
            6 => swap(&mut body, b"\":", at, SCRAPS.choose(&mut random).unwrap()),
            _ => {
                let nested = vec![*b"[{".choose(&mut random).unwrap(); random.random_range(1..200)];
                body.splice(at..at, nested);
            }
        }
    }
    body
}

const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1e308",
    "12345678901234567890",
    "0.000",
    "[]",
    "{}",
    "[[]]",
    "[[[]],[null]]",
    "\"\"",
    "\" \"",
    "\"13/45/2026\"",
    "\"02/30/2026\"",
    "\"2026-03-01T25:00:00Z\"",
    "\"0000-00-00\"",
    "\"99/99/99\"",
    "\"<5\"",
    "\">=\"",
    "\"120/80/60\"",
    "\"-\"",
    "\"NaN\"",
    "\"yes\"",
    "\"\\ud83d\\ude00\"",
    "\"\\u0001\"",
    "\"1,5\"",
    "\"70-\"",
    "{\"value\":{\"value\":[]}}",
    "[\"a\",1,null,{}]",
];

/// Put a value into the place of some other one.
fn replace(random: &mut StdRng, at: &mut Value) {
    let children: Vec<&mut Value> = match at {
        Value::Object(members) => members.values_mut().collect(),
        Value::Array(items) => items.iter_mut().collect(),
        _ => Vec::new(),
    };
    if children.is_empty() || random.random_bool(0.2) {
        *at = serde_json::from_str(VALUES.choose(random).unwrap()).unwrap();
        return;
    }
    let index = random.random_range(0..children.len());
    if let Some(child) = children.into_iter().nth(index) {
        replace(random, child);
    }
}

/// A post in which values stand in the place of others.
fn misplace(random: &mut StdRng, post: &[u8]) -> Vec<u8> {
    let mut event: Value = serde_json::from_slice(post).unwrap();
    for _ in 0..random.random_range(1..5) {
        replace(random, &mut event["payload"]);
    }
    for member in ["captured_at", "event_subtype", "source_endpoint", "event_type", "athena_patient_id"] {
        if random.random_bool(0.05) {
            event[member] = serde_json::from_str(VALUES.choose(random).unwrap()).unwrap();
        }
    }
    event.to_string().into_bytes()
}

/// Put a scrap in the place of the value behind the next separator after `at`.
fn swap(body: &mut Vec<u8>, separator: &[u8], at: usize, scrap: &[u8]) {
    let Some(found) = body[at..].windows(separator.len()).position(|window| window == separator) else { return };
    let start = at + found + separator.len();
    let length = body[start..].iter().position(|byte| matches!(byte, b',' | b'}')).unwrap_or(0);
    body.splice(start..start + length, scrap.iter().copied());
}

fn requests() -> u64 {
    std::env::var("CHARTGATE_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(REQUESTS)
}

#[tokio::test]
async fn no_mutated_event_gets_a_5xx_or_keeps_a_job_from_its_end() {
    let requests = requests();
    let app = TestApp::start().await;
    let workers = app.workers();
    let posts: Vec<Vec<u8>> = Traffic::new(21, 40).take(500).map(|post| post.body).collect();
    let answers = futures::stream::iter(0..requests)
        .map(|seed| {
            let (app, posts) = (&app, &posts);
            async move {
                let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
                let post = posts.choose(&mut random).unwrap().clone();
                // Two in three stay JSON, with values in the place of others.
                let body = if seed.is_multiple_of(3) { mutate(seed, post) } else { misplace(&mut random, &post) };
                let (path, body) = if random.random_bool(0.1) {
                    ("/ingest/athena/batch", [b"[".as_slice(), &body, b",", &posts[0], b"]"].concat())
                } else {
                    ("/ingest/athena", body)
                };
                let (encoding, body) = if random.random_bool(0.1) { ("gzip", gzip(&body)) } else { ("identity", body) };
                let headers = [("content-type", "application/json"), ("content-encoding", encoding)];
                (seed, call(app, Method::POST, path, &app.organization.sender, &headers, body).await)
            }
        })
        .buffer_unordered(16);
    let counts = answers
        .fold(BTreeMap::<u16, u64>::new(), |mut counts, (seed, answer)| async move {
            let text = String::from_utf8_lossy(&answer.body);
            assert!([202, 400].contains(&answer.status), "seed {seed}: {} {text}", answer.status);
            if answer.status == 400 {
                assert_eq!(content_type(&answer.headers), "application/problem+json", "seed {seed}");
            }
            *counts.entry(answer.status).or_default() += 1;
            counts
        })
        .await;
    eprintln!("{counts:?}");
    assert!(counts[&202] > requests / 4 && counts[&400] > requests / 4, "{counts:?}");
    drain(&app).await;
    assert_eq!(
        app.count("select count(*) from jobs where status not in ('succeeded', 'succeeded_with_issues')").await,
        0
    );
    assert_eq!(app.count("select count(*) from step_attempts").await, 0);
    assert!(app.count("select count(*) from jobs where status = 'succeeded_with_issues'").await > 0);
    workers.stop().await;
}

#[tokio::test]
async fn no_mutated_bundle_gets_a_5xx_or_keeps_a_job_from_its_end() {
    let requests = requests();
    let app = TestApp::start().await;
    let workers = app.workers();
    let answers = futures::stream::iter(0..requests)
        .map(|seed| {
            let app = &app;
            async move {
                let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
                let body = bundle(seed);
                let (encoding, body) = match random.random_range(0..10) {
                    0 => ("gzip", gzip(&body)),
                    1 => {
                        let mut zipped = gzip(&body);
                        let at = random.random_range(0..zipped.len());
                        zipped[at] ^= 1 << random.random_range(0..8);
                        ("gzip", zipped)
                    }
                    _ => ("identity", body),
                };
                let path =
                    if random.random_bool(0.1) { format!("{BUNDLE}?validateOnly=true") } else { BUNDLE.to_owned() };
                let headers = [("content-type", "application/fhir+json"), ("content-encoding", encoding)];
                (seed, call(app, Method::POST, &path, &app.organization.sender, &headers, body).await)
            }
        })
        .buffer_unordered(8);
    let counts = answers
        .fold(BTreeMap::<u16, u64>::new(), |mut counts, (seed, answer)| async move {
            let text = String::from_utf8_lossy(&answer.body);
            assert!([200, 202, 400].contains(&answer.status), "seed {seed}: {} {text}", answer.status);
            if answer.status == 400 {
                assert_eq!(content_type(&answer.headers), "application/problem+json", "seed {seed}");
            }
            *counts.entry(answer.status).or_default() += 1;
            counts
        })
        .await;
    eprintln!("{counts:?}");
    assert!(counts[&202] > requests / 50 && counts[&400] > requests / 4, "{counts:?}");
    app.run_until_idle().await;
    let ours = "select count(*) from jobs where error_class is distinct from 'sender' and error_class is not null";
    assert_eq!(app.count(ours).await, 0, "a bug of ours or a panic");
    assert_eq!(app.count("select count(*) from step_attempts where error_class <> 'sender'").await, 0);
    assert_eq!(app.count("select count(*) from jobs where finished_at is null").await, 0);
    workers.stop().await;
}
