//! What no well-behaved client sends, over a bare TCP connection.

use super::{BUNDLE, small};
use crate::support::app::TestApp;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// A connection on which a test writes what it likes.
struct Wire(BufReader<TcpStream>);

/// One answer.
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.head, String::from_utf8_lossy(&self.body)));
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        body["code"].as_str().unwrap().to_owned()
    }
}

impl Wire {
    async fn open(app: &TestApp) -> Self {
        let address = app.url.strip_prefix("http://").unwrap();
        Self(BufReader::new(TcpStream::connect(address).await.unwrap()))
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.write_all(bytes.as_ref()).await
    }

    /// The next answer, or `None` when the server closed the connection first.
    async fn reply(&mut self) -> Option<Reply> {
        tokio::time::timeout(Duration::from_secs(30), self.read()).await.expect("an answer or an end within 30 s")
    }

    async fn read(&mut self) -> Option<Reply> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).await.unwrap_or(0) == 0 {
                return None;
            }
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        if status != 304 && status != 204 {
            self.0.read_exact(&mut body).await.ok()?;
        }
        Some(Reply { status, head, body })
    }
}

async fn once(app: &TestApp, request: impl AsRef<[u8]>) -> Option<Reply> {
    let mut wire = Wire::open(app).await;
    let _ = wire.send(request).await;
    wire.reply().await
}

fn request(method: &str, path: &str, key: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{headers}\r\n")
}

fn submission(app: &TestApp, headers: &str) -> String {
    let headers = format!("content-type: application/fhir+json\r\n{headers}");
    request("POST", BUNDLE, &app.organization.sender, &headers)
}

#[tokio::test]
async fn a_chunked_body_is_accepted_whatever_its_chunks_are() {
    let app = TestApp::start().await;
    let body = small(1);
    let mut wire = Wire::open(&app).await;
    wire.send(submission(&app, "transfer-encoding: chunked\r\n")).await.unwrap();
    for chunk in body.chunks(7) {
        wire.send(format!("{:x};extension=\"1\"\r\n", chunk.len())).await.unwrap();
        wire.send(chunk).await.unwrap();
        wire.send("\r\n").await.unwrap();
    }
    wire.send("0\r\nx-trailer: 1\r\n\r\n").await.unwrap();
    let reply = wire.reply().await.unwrap();
    let accepted: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((reply.status, accepted["sizeBytes"].as_u64()), (202, Some(body.len() as u64)), "{accepted}");
    // The connection goes on.
    wire.send(request("GET", "/health/live", "", "")).await.unwrap();
    assert_eq!(wire.reply().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_413_without_a_declared_length() {
    let app = TestApp::start().await;
    let limit = app.app.config.intake_max_body_bytes;
    let mut wire = Wire::open(&app).await;
    wire.send(submission(&app, "transfer-encoding: chunked\r\n")).await.unwrap();
    let chunk = vec![b' '; 1 << 20];
    for _ in 0..=limit / chunk.len() {
        wire.send(format!("{:x}\r\n", chunk.len())).await.unwrap();
        wire.send(&chunk).await.unwrap();
        wire.send("\r\n").await.unwrap();
    }
    let _ = wire.send("0\r\n\r\n").await;
    let reply = wire.reply().await.expect("the 413 arrives although the whole body was sent");
    assert_eq!((reply.status, reply.code().as_str()), (413, "payload_too_large"));
}

#[tokio::test]
async fn whoever_sends_a_whole_large_body_before_reading_still_gets_the_refusal() {
    let app = TestApp::start().await;
    let limit = app.app.config.intake_max_body_bytes;
    let body = vec![b' '; limit + (4 << 20)];
    let length = format!("content-length: {}\r\n", body.len());
    let media_type = "content-type: application/fhir+json\r\n";
    let sender = &app.organization.sender;
    for (key, headers, status, code) in [
        (sender.as_str(), format!("{media_type}{length}"), 413, "payload_too_large"),
        ("nobody", format!("{media_type}{length}"), 401, "unauthenticated"),
        (app.organization.reader.as_str(), format!("{media_type}{length}"), 403, "forbidden"),
        (sender.as_str(), length.clone(), 415, "unsupported_media_type"),
    ] {
        for _ in 0..3 {
            let mut wire = Wire::open(&app).await;
            wire.send(request("POST", BUNDLE, key, &headers)).await.unwrap();
            wire.send(&body).await.unwrap_or_else(|error| panic!("{code}: the connection broke: {error}"));
            let reply = wire.reply().await.unwrap_or_else(|| panic!("{code}: no answer"));
            assert_eq!((reply.status, reply.code().as_str()), (status, code));
        }
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut_off_and_not_read_for_ever() {
    let app = TestApp::start().await;
    let mut wire = Wire::open(&app).await;
    let headers = format!("content-length: {}\r\n", u64::MAX >> 1);
    wire.send(request("POST", BUNDLE, "nobody", &headers)).await.unwrap();
    let chunk = vec![b' '; 1 << 20];
    let mut sent = 0usize;
    while sent < 1 << 30 && wire.send(&chunk).await.is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 256 << 20, "{sent} bytes were taken");
}

#[tokio::test]
async fn a_body_that_ends_early_leaves_nothing_behind() {
    let app = TestApp::start().await;
    let body = small(1);
    for missing in [1, body.len() / 2, body.len()] {
        let mut wire = Wire::open(&app).await;
        wire.send(submission(&app, &format!("content-length: {}\r\n", body.len()))).await.unwrap();
        wire.send(&body[..body.len() - missing]).await.unwrap();
        wire.0.get_mut().shutdown().await.unwrap();
        if let Some(reply) = wire.reply().await {
            assert_eq!((reply.status, reply.code().as_str()), (400, "incomplete_body"));
        }
    }
    assert_eq!(app.count("select count(*) from jobs").await, 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let app = TestApp::start().await;
    let body = small(1);
    let length = format!("content-length: {}\r\n", body.len());
    let mut all = Vec::new();
    for round in 0..20 {
        let id = format!("x-request-id: pipe-{round}\r\n");
        match round % 3 {
            0 => {
                all.extend_from_slice(submission(&app, &format!("{length}{id}")).as_bytes());
                all.extend_from_slice(&body);
            }
            1 => all.extend_from_slice(request("GET", "/nowhere", "", &id).as_bytes()),
            _ => all.extend_from_slice(request("GET", "/v1/ingestion/jobs", &app.organization.sender, &id).as_bytes()),
        }
    }
    let mut wire = Wire::open(&app).await;
    wire.send(&all).await.unwrap();
    for round in 0..20 {
        let reply = wire.reply().await.unwrap();
        assert_eq!(reply.status, [202, 404, 200][round % 3]);
        assert!(reply.head.contains(&format!("x-request-id: pipe-{round}\r\n")), "{}", reply.head);
    }
    assert_eq!(app.count("select count(*) from jobs").await, 1);
}

#[tokio::test]
async fn requests_that_are_no_http_end_in_a_4xx_or_a_closed_connection() {
    let app = TestApp::start().await;
    let sender = app.organization.sender.clone();
    let body = String::from_utf8(small(1)).unwrap();
    let length = body.len();
    let odd = [
        "\r\n\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(400_000)),
        request("GET", "/health/live", &sender, &format!("x-a: {}\r\n", "b".repeat(400_000))),
        request("GET", "/health/live", &sender, &"x-a: b\r\n".repeat(500)),
        request("GET", "/health/live", &sender, "x a: b\r\n"),
        request("GET", "/health/live", &sender, ": b\r\n"),
        request("GET", "/health/live", &sender, "x-a: b\0c\r\n"),
        request("GET", "/health live", &sender, ""),
        // Two lengths, a length and chunks, a bad length, a chunk that is no number: request smuggling.
        submission(&app, &format!("content-length: {length}\r\ncontent-length: 5\r\n")) + &body,
        submission(&app, "content-length: -1\r\n") + &body,
        submission(&app, "content-length: +10\r\n") + &body,
        submission(&app, "content-length: 0x10\r\n") + &body,
        submission(&app, "transfer-encoding: chunked\r\n") + "zz\r\n" + &body,
        submission(&app, "transfer-encoding: gzip\r\n") + &body,
        submission(&app, "transfer-encoding: chunked, identity\r\n") + &body,
    ];
    for bytes in odd {
        let shown: String = bytes.chars().take(250).collect();
        let mut wire = Wire::open(&app).await;
        let _ = wire.send(&bytes).await;
        let _ = wire.0.get_mut().shutdown().await;
        if let Some(reply) = wire.reply().await {
            assert!((400..500).contains(&reply.status), "{shown:?} was answered {}", reply.head);
        }
    }
    assert_eq!(app.count("select count(*) from jobs").await, 0);
    // A length beside chunks is not believed: RFC 9112, 6.1.
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let both = submission(&app, "transfer-encoding: chunked\r\ncontent-length: 3\r\n") + &chunked;
    let mut wire = Wire::open(&app).await;
    wire.send(both + &request("GET", "/health/live", "", "")).await.unwrap();
    let first = wire.reply().await;
    assert!(first.is_none_or(|reply| [202, 400].contains(&reply.status)));
}

#[tokio::test]
async fn nothing_of_a_request_gets_into_the_answers_headers() {
    let app = TestApp::start().await;
    for path in [
        "/ingest/clinical/a%0d%0aset-cookie:%20x=1",
        "/v1/ingestion/jobs/a%0d%0aset-cookie:%20x=1",
        "/docs/errors/%0d%0aset-cookie:%20x=1",
        "/%0d%0aset-cookie:%20x=1",
        "/v1/payloads/%0aset-cookie",
    ] {
        let reply =
            once(&app, request("GET", path, &app.organization.reader, "x-request-id: a%0d%0ab\r\n")).await.unwrap();
        assert!((400..500).contains(&reply.status), "{path}: {}", reply.head);
        assert!(!reply.head.to_lowercase().contains("set-cookie"), "{}", reply.head);
        reply.code();
    }
}

#[tokio::test]
async fn paths_with_tricks_reach_nothing_that_is_not_theirs() {
    let app = TestApp::start().await;
    let reader = app.organization.reader.clone();
    for (path, status) in [
        // Dots and slashes in a parameter are a value, never a path.
        ("/ingest/clinical/%2e%2e", 200),
        ("/ingest/clinical/..%2f..%2fv1%2fadmin%2fkeys", 200),
        ("/ingest/clinical/%2F", 200),
        ("/ingest/clinical/%27%3B--", 200),
        ("/ingest/clinical/%25", 200),
        ("/ingest/clinical/%C3%A4%F0%9F%98%80", 200),
        // What no number can hold.
        ("/ingest/clinical/1%00", 400),
        ("/ingest/clinical/%ff%fe", 400),
        ("/ingest/clinical/1%0a", 400),
        ("/ingest/clinical/1?system=%00", 400),
        ("/ingest/clinical/1?cursor=x", 400),
        ("/ingest/clinical/1?cursor=labs:job_01h455vb4pex5vsknk084sn02q", 400),
        ("/ingest/clinical/..", 200),
        ("/ingest/clinical/../../v1/admin/keys", 404),
        ("/ingest/../v1/ingestion/jobs", 404),
        ("/v1/ingestion/jobs/../jobs", 404),
        ("/v1%2fingestion%2fjobs", 404),
        ("//v1/ingestion/jobs", 404),
        ("/v1/ingestion/jobs/%2e%2e/timeline", 404),
        ("/v1/ingestion/jobs/%00", 404),
        ("/v1/ingestion/jobs/%ff", 404),
        ("/v1/ingestion/jobs?workflow=%00", 400),
        ("/v1/ingestion/jobs?errorCode=a%00b", 400),
        ("/v1/ingestion/jobs?source=%ff", 200),
        ("/v1/payloads/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
        ("/v1/findings/%00/evidence", 404),
        ("/docs/errors/..%2f..%2fetc%2fpasswd", 404),
        ("http://elsewhere/v1/ingestion/jobs", 200),
    ] {
        let reply = once(&app, request("GET", path, &reader, "")).await.unwrap();
        assert_eq!(reply.status, status, "{path}: {}", String::from_utf8_lossy(&reply.body));
        if status != 200 {
            reply.code();
        }
    }
    // As long as a head can be, nearly.
    let long = "9".repeat(15_000);
    let reply = once(&app, request("GET", &format!("/ingest/clinical/{long}"), &reader, "")).await.unwrap();
    let view: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((reply.status, view["status"].as_str()), (200, Some("not_found")));
}
