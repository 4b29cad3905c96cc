//! Clients that send slowly, not at all, or do not read, and those that are too many.
//!
//! `CHARTGATE_EDGE_SOCKETS=2000` runs the flood at full size and holds the ordinary client to its figure.

use super::{PATIENCE, address, connect_from, exchange, status_of, until_closed};
use crate::http::small;
use crate::support::app::{Setup, TestApp};
use chartgate::config::LimitsConfig;
use chartgate::limits::LOGINS_OF_ONE_MAX;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;

/// Every slow client must be gone after so long.
const GONE_MAX: Duration = Duration::from_secs(15);

fn with_limits(limits: impl FnOnce(&mut LimitsConfig) + Send + 'static) -> Setup {
    Setup { limits: Box::new(limits), ..Setup::default() }
}

/// Write a byte now and then until the server closes; answers what it said, and when it was gone.
async fn trickle(to: SocketAddr, head: String, started: Instant) -> (String, Duration) {
    let mut stream = connect_from([127, 0, 0, 2], to).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tick.tick().await;
            if writer.write_all(b" ").await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut answer);
    let _ = tokio::time::timeout(PATIENCE, read).await.expect("a slow client is cut off");
    writing.abort();
    (String::from_utf8_lossy(&answer).into_owned(), started.elapsed())
}

/// How long an ordinary client waits for its durable 202, on one connection, until `done`.
async fn latencies(app: &TestApp, seed: u64, least: usize, done: impl Fn() -> bool) -> Vec<Duration> {
    let mut latencies = Vec::new();
    while latencies.len() < least || !done() {
        let started = Instant::now();
        let (status, answer) = app.submit(small(seed + latencies.len() as u64)).await;
        assert_eq!(status, 202, "{answer}");
        latencies.push(started.elapsed());
    }
    latencies.sort_unstable();
    latencies
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut_off_and_an_ordinary_one_does_not_notice() {
    let sockets: usize = std::env::var("CHARTGATE_EDGE_SOCKETS").map_or(120, |text| text.parse().unwrap());
    let app = TestApp::with(with_limits(|limits| limits.connections_per_address = 4096)).await;
    let to = address(&app);
    let p99 = |latencies: &[Duration]| latencies[latencies.len() * 99 / 100];
    let idle = p99(&latencies(&app, 1_000_000, 400, || true).await);
    let gone = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let body = format!(
        "POST /v1/ingestion/fhir/Bundle HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 16000000\r\n\r\n{{",
        app.organization.sender
    );
    let mut slow = Vec::new();
    for number in 0..sockets {
        let (gone, body) = (Arc::clone(&gone), body.clone());
        slow.push(tokio::spawn(async move {
            let (kind, answer, time) = match number % 3 {
                0 => {
                    let mut stream = connect_from([127, 0, 0, 2], to).await;
                    let (answer, _) = until_closed(&mut stream).await.expect("an idle client is cut off");
                    ("idle", String::from_utf8_lossy(&answer).into_owned(), started.elapsed())
                }
                1 => {
                    let (answer, time) = trickle(to, "GET / HTTP/1.1\r\nhost: x\r\nx:".to_owned(), started).await;
                    ("head", answer, time)
                }
                _ => {
                    let (answer, time) = trickle(to, body, started).await;
                    ("body", answer, time)
                }
            };
            gone.fetch_add(1, Ordering::Relaxed);
            (kind, answer, time)
        }));
    }
    let loaded = latencies(&app, 2_000_000, 400, || gone.load(Ordering::Relaxed) == sockets).await;
    let mut last = Duration::ZERO;
    for client in slow {
        let (kind, answer, time) = client.await.unwrap();
        match kind {
            "body" => assert_eq!(status_of(&answer), 408, "{answer}"),
            _ => assert_eq!(answer, "", "{kind}"),
        }
        last = last.max(time);
    }
    println!(
        "{sockets} slow sockets: all closed after {last:.1?}; an ordinary client's p99 {:.1?} with them ({} requests), {idle:.1?} without",
        p99(&loaded),
        loaded.len()
    );
    assert!(last <= GONE_MAX, "the last slow client was gone after {last:?}");
    if sockets >= 2000 {
        assert!(p99(&loaded) <= 2 * idle, "p99 {:?} beside {idle:?}", p99(&loaded));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_of_strangers_are_cut_off_and_an_address_has_few_of_them_under_way() {
    let app = TestApp::start().await;
    let to = address(&app);
    let log_in = "POST /admin/login HTTP/1.1\r\nhost: 127.0.0.1\r\norigin: http://127.0.0.1\r\nconnection: close\r\n";
    let head = format!("{log_in}content-length: 4000\r\n\r\nkey=");
    let started = Instant::now();
    let slow: Vec<_> = (0..LOGINS_OF_ONE_MAX + 8).map(|_| tokio::spawn(trickle(to, head.clone(), started))).collect();
    // Somebody from elsewhere gets an answer all the while.
    let elsewhere = format!("{log_in}content-length: 9\r\n\r\nkey=wrong");
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    while slow.iter().any(|one| !one.is_finished()) {
        tick.tick().await;
        let (answer, time) = exchange(to, elsewhere.as_bytes()).await;
        assert_eq!(status_of(&answer), 401, "{answer}");
        assert!(time < GONE_MAX / 3, "{time:?}");
    }
    let mut statuses = Vec::new();
    for one in slow {
        let (answer, time) = one.await.unwrap();
        statuses.push(status_of(&answer));
        assert!(time <= GONE_MAX, "cut off after {time:?}");
    }
    let count = |status: u16| statuses.iter().filter(|one| **one == status).count();
    assert_eq!((count(408), count(503)), (LOGINS_OF_ONE_MAX, 8), "{statuses:?}");
}

#[tokio::test]
async fn a_body_that_came_fast_at_first_has_no_credit() {
    let app = TestApp::with(with_limits(|limits| limits.body_bytes_per_second = 100_000)).await;
    let head = format!(
        "POST /v1/ingestion/fhir/Bundle HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 16000000\r\n\r\n{{",
        app.organization.sender
    );
    // Eight megabytes at once, then nothing to speak of: the first window is good, the second is not.
    let started = Instant::now();
    let (answer, time) = trickle(address(&app), head + &" ".repeat(8 << 20), started).await;
    assert_eq!(status_of(&answer), 408, "{answer}");
    assert!(answer.contains("request_timeout") && time < Duration::from_secs(25), "{time:?}: {answer}");
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let app = TestApp::with(with_limits(|limits| limits.write = Duration::from_secs(1))).await;
    let mut stream = connect_from([127, 0, 0, 1], address(&app)).await;
    // More answers than the kernel holds for us.
    let request = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(64);
    let started = Instant::now();
    // Not to read is the point; a server that is gone refuses what we write.
    let gone = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, gone).await.expect("the server lets go of whoever does not read");
    assert!(started.elapsed() >= Duration::from_secs(1), "but not at once");
}

#[tokio::test]
async fn an_address_over_its_number_is_closed_at_once_and_others_are_not() {
    let app = TestApp::with(with_limits(|limits| limits.connections_per_address = 8)).await;
    let to = address(&app);
    let mut first = Vec::new();
    for _ in 0..8 {
        first.push(connect_from([127, 0, 0, 3], to).await);
    }
    // They are counted once they were accepted, which is in order.
    for _ in 0..4 {
        let mut stream = connect_from([127, 0, 0, 3], to).await;
        let (answer, time) = until_closed(&mut stream).await.unwrap();
        assert!(answer.is_empty() && time < Duration::from_secs(5), "{time:?}");
    }
    let (answer, _) = exchange(to, b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status_of(&answer), 200);
    // Whoever goes makes room.
    first.clear();
    let started = Instant::now();
    loop {
        let mut stream = connect_from([127, 0, 0, 3], to).await;
        let request = b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all(request).await;
        let (answer, _) = until_closed(&mut stream).await.unwrap();
        if status_of(&String::from_utf8_lossy(&answer)) == 200 {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "no room although all went");
    }
}

#[tokio::test]
async fn idle_connections_give_way_to_those_that_ask() {
    let app = TestApp::with(with_limits(|limits| {
        limits.connections = 24;
        limits.header = Duration::from_mins(10);
    }))
    .await;
    let to = address(&app);
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(connect_from([127, 0, 0, 2], to).await);
        if idle.len() % 10 == 0 {
            let started = Instant::now();
            let (answer, _) = exchange(to, b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
            assert_eq!(status_of(&answer), 200, "{answer}");
            assert!(started.elapsed() < Duration::from_secs(5), "after {} idle connections", idle.len());
        }
    }
    // The oldest were sent away.
    for stream in &mut idle[..50] {
        assert!(until_closed(stream).await.is_some());
    }
}
