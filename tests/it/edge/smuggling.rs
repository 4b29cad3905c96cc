//! Request smuggling by raw socket: bytes in which one reader sees one request and another sees two. Each is refused with
//! 400, or answered once; the connection is closed, and what was smuggled is never answered.

use super::{address, exchange, status_of};
use crate::support::app::{Setup, TestApp};
use std::time::Duration;

/// Says so in its answer, if it is ever taken for a request.
const SMUGGLED: &str = "GET /health/live HTTP/1.1\r\nhost: x\r\nx-request-id: smuggled\r\n\r\n";

/// What must become of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    /// 400.
    Refused,
    /// One answer of whatever kind; it asked to be closed itself.
    OnceThenClosed,
}
use Verdict::{OnceThenClosed, Refused};

/// Name, verdict, bytes. `{auth}` stands for credentials or nothing.
fn shapes() -> Vec<(&'static str, Verdict, String)> {
    let post = "POST /v1/ingestion/fhir/Bundle HTTP/1.1\r\nhost: x\r\n{auth}content-type: application/fhir+json\r\n";
    let get = "GET /health/live HTTP/1.1\r\nhost: x\r\n";
    let length = SMUGGLED.len();
    let chunked = format!("{post}transfer-encoding: chunked\r\n");
    let chunk = format!("{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n");
    let mut shapes = Vec::new();
    let mut add = |name, verdict, bytes: String| shapes.push((name, verdict, bytes));
    // A length beside chunks, in both orders, and spelled oddly.
    add("CL.TE", Refused, format!("{post}content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"));
    add("TE.CL", Refused, format!("{chunked}content-length: 4\r\n\r\n{chunk}"));
    add("CL 0 and TE", Refused, format!("{chunked}content-length: 0\r\n\r\n{chunk}"));
    add(
        "TE and CL in capitals",
        Refused,
        format!("{post}TRANSFER-ENCODING: CHUNKED\r\nCONTENT-LENGTH: 4\r\n\r\n{chunk}"),
    );
    add("TE, CL far apart", Refused, format!("{chunked}{}content-length: 4\r\n\r\n{chunk}", "x: y\r\n".repeat(60)));
    // Lengths.
    add("two lengths", Refused, format!("{post}content-length: 0\r\ncontent-length: {length}\r\n\r\n{SMUGGLED}"));
    add(
        "two equal lengths",
        Refused,
        format!("{post}content-length: {length}\r\ncontent-length: {length}\r\n\r\n{SMUGGLED}"),
    );
    add("list of lengths", Refused, format!("{post}content-length: 0, {length}\r\n\r\n{SMUGGLED}"));
    add("length with plus", Refused, format!("{post}content-length: +{length}\r\n\r\n{SMUGGLED}"));
    add("length with minus", Refused, format!("{post}content-length: -1\r\n\r\n{SMUGGLED}"));
    add("length in hexadecimal", Refused, format!("{post}content-length: 0x{length:x}\r\n\r\n{SMUGGLED}"));
    add("length with a fraction", Refused, format!("{post}content-length: {length}.0\r\n\r\n{SMUGGLED}"));
    add("length with an underscore", Refused, format!("{post}content-length: 1_0\r\n\r\n{SMUGGLED}"));
    add("empty length", Refused, format!("{post}content-length: \r\n\r\n{SMUGGLED}"));
    add("length beyond 64 bits", Refused, format!("{post}content-length: 18446744073709551616\r\n\r\n{SMUGGLED}"));
    add("length with NUL", Refused, format!("{post}content-length: 0\0{length}\r\n\r\n{SMUGGLED}"));
    add("length in other digits", Refused, format!("{post}content-length: \u{ff11}\r\n\r\n{SMUGGLED}"));
    add("length with vertical tab", Refused, format!("{post}content-length: \x0b0\r\n\r\n{SMUGGLED}"));
    // Transfer codings.
    for (name, value) in [
        ("TE xchunked", "xchunked"),
        ("TE chunked in quotes", "\"chunked\""),
        ("TE identity", "identity"),
        ("TE gzip, chunked", "gzip, chunked"),
        ("TE chunked, identity", "chunked, identity"),
        ("TE chunked twice in a list", "chunked, chunked"),
        ("TE with parameter", "chunked;q=1"),
        ("TE with vertical tab", "\x0bchunked"),
        ("TE with NUL", "chunked\0"),
        ("TE empty", ""),
        ("TE cow", "cow"),
    ] {
        add(name, Refused, format!("{post}transfer-encoding: {value}\r\ncontent-length: 0\r\n\r\n{chunk}"));
    }
    add("TE gzip, chunked alone", Refused, format!("{post}transfer-encoding: gzip, chunked\r\n\r\n{chunk}"));
    add("TE twice", Refused, format!("{chunked}transfer-encoding: identity\r\n\r\n{chunk}"));
    add("TE before HTTP/1.1", Refused, format!("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"));
    // Names and lines.
    add("space before the colon", Refused, format!("{post}content-length : {length}\r\n\r\n{SMUGGLED}"));
    add("tab before the colon", Refused, format!("{post}transfer-encoding\t: chunked\r\n\r\n{chunk}"));
    add("space before the name", Refused, format!("{post} content-length: {length}\r\n\r\n{SMUGGLED}"));
    add("folded TE", Refused, format!("{post}transfer-encoding:\r\n chunked\r\n\r\n{chunk}"));
    add("folded length", Refused, format!("{post}content-length: 0\r\n\t{length}\r\n\r\n{SMUGGLED}"));
    add("line without colon", Refused, format!("{post}transfer-encoding\r\n\r\n{SMUGGLED}"));
    add("no name", Refused, format!("{post}: chunked\r\n\r\n{SMUGGLED}"));
    add("NUL in a name", Refused, format!("{post}transfer\0-encoding: chunked\r\n\r\n{chunk}"));
    add("bare LF after a header", Refused, format!("{post}x: y\ntransfer-encoding: chunked\r\n\r\n{chunk}"));
    add("bare LF ends the head", Refused, format!("{post}content-length: 0\n\n{SMUGGLED}"));
    add("bare CR in a value", Refused, format!("{post}x: y\rtransfer-encoding: chunked\r\n\r\n{chunk}"));
    add("CR CR LF", Refused, format!("{post}x: y\r\r\n\r\n{SMUGGLED}"));
    add("bare LF request line", Refused, format!("GET /health/live HTTP/1.1\nhost: x\n\n{SMUGGLED}"));
    add("LF before the request", Refused, format!("\n{get}\r\n{SMUGGLED}"));
    // Request lines.
    add("two hosts", Refused, format!("{get}host: y\r\n\r\n{SMUGGLED}"));
    add("no host", Refused, format!("GET /health/live HTTP/1.1\r\n\r\n{SMUGGLED}"));
    add("space in the target", Refused, format!("GET /health/live /x HTTP/1.1\r\nhost: x\r\n\r\n{SMUGGLED}"));
    add("HTTP/1.2", Refused, format!("GET /health/live HTTP/1.2\r\nhost: x\r\n\r\n{SMUGGLED}"));
    add("HTTP/0.9", Refused, format!("GET /health/live\r\n{SMUGGLED}"));
    add("NUL in the target", Refused, format!("GET /health\0/live HTTP/1.1\r\nhost: x\r\n\r\n{SMUGGLED}"));
    add("preface of HTTP/2", Refused, format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{SMUGGLED}"));
    // Chunks: the head is good, so that there is an answer; the body is broken off.
    for (name, body) in [
        ("chunk size with bare LF", format!("{length:x}\n{SMUGGLED}\r\n0\r\n\r\n")),
        ("chunk size overflows", format!("1{length:016x}\r\n{SMUGGLED}\r\n0\r\n\r\n")),
        ("chunk size 0x", format!("0x{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n")),
        ("chunk size negative", format!("-1\r\n\r\n{SMUGGLED}")),
        ("chunk size empty", format!("\r\n\r\n{SMUGGLED}")),
        ("chunk size with space before", format!(" 0\r\n\r\n{SMUGGLED}")),
        ("chunk extension with bare LF", format!("1;a\nb\r\n{SMUGGLED}\r\n0\r\n\r\n")),
        ("chunk extension with bare CR", format!("1;a\rb\r\n{SMUGGLED}\r\n0\r\n\r\n")),
        ("chunk longer than its size", format!("1\r\nab\r\n0\r\n\r\n{SMUGGLED}")),
        ("chunk ends in bare LF", format!("1\r\na\n0\r\n\r\n{SMUGGLED}")),
        ("chunk ends in two bytes", format!("1\r\naxx0\r\n\r\n{SMUGGLED}")),
        ("trailer with bare LF", format!("0\r\nx: y\n\r\n{SMUGGLED}")),
        ("last chunk with bare LF", format!("0\r\n\n{SMUGGLED}")),
    ] {
        add(name, OnceThenClosed, format!("{chunked}\r\n{body}"));
    }
    // What is not ambiguous: the bytes are the body, or the next request of a client that said that there is none.
    for (name, head) in [
        ("body of a GET", format!("{get}content-length: {length}\r\nconnection: close\r\n\r\n{SMUGGLED}")),
        ("chunked body of a GET", format!("{get}transfer-encoding: chunked\r\nconnection: close\r\n\r\n{chunk}")),
        (
            "chunk extensions",
            format!("{chunked}connection: close\r\n\r\n{length:x};a=\"b\"\r\n{SMUGGLED}\r\n0\r\n\r\n"),
        ),
        ("trailers", format!("{chunked}connection: close\r\n\r\n0\r\ncontent-length: {length}\r\n\r\n{SMUGGLED}")),
        (
            "absolute form",
            format!("GET http://elsewhere/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n{SMUGGLED}"),
        ),
        ("HTTP/1.0 keeps nothing", format!("GET /health/live HTTP/1.0\r\n\r\n{SMUGGLED}")),
        (
            "connection: close, keep-alive",
            format!("{get}connection: close\r\nconnection: keep-alive\r\n\r\n{SMUGGLED}"),
        ),
        ("CONNECT", format!("CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\nconnection: close\r\n\r\n{SMUGGLED}")),
        ("upgrade", format!("{get}connection: upgrade, close\r\nupgrade: h2c\r\n\r\n{SMUGGLED}")),
        (
            "expectation unmet",
            format!("{post}expect: 100-continue\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{SMUGGLED}"),
        ),
    ] {
        add(name, OnceThenClosed, head);
    }
    shapes
}

#[tokio::test]
async fn no_smuggled_request_is_ever_answered() {
    let idle = Duration::from_secs(20);
    let limits = Box::new(move |limits: &mut chartgate::config::LimitsConfig| limits.header = idle);
    let app = TestApp::with(Setup { limits, ..Setup::default() }).await;
    let to = address(&app);
    let shapes = shapes();
    assert!(shapes.len() >= 40, "{}", shapes.len());
    let credentials = format!("authorization: Bearer {}\r\n", app.organization.sender);
    let mut faults = Vec::new();
    for (name, verdict, template) in &shapes {
        for auth in ["", credentials.as_str()] {
            let bytes = template.replace("{auth}", auth);
            let (answer, time) = exchange(to, bytes.as_bytes()).await;
            // Who waits for it is told to go on; that is no answer yet.
            let answer = answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&answer);
            let answers = answer.matches("HTTP/1.").count();
            let is_right = match verdict {
                Refused => status_of(answer) == 400 && answers == 1,
                OnceThenClosed => (200..500).contains(&status_of(answer)) && answers == 1,
            };
            if !is_right || answer.contains("smuggled") || time > idle / 2 {
                faults.push(format!("{name} ({verdict:?}, {time:?}): {answer:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("{} shapes, each with and without credentials: none smuggled", shapes.len());
    assert_eq!(app.count("select count(*) from jobs").await, 0);
}

#[tokio::test]
async fn a_head_has_its_bounds() {
    let app = TestApp::start().await;
    let to = address(&app);
    let head = |headers: String| format!("GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    for (headers, status) in [
        ("x-a: b\r\n".repeat(98), 200),
        ("x-a: b\r\n".repeat(99), 431),
        ("x-a: b\r\n".repeat(1_000), 431),
        (format!("x-a: {}\r\n", "b".repeat(15_000)), 200),
        (format!("x-a: {}\r\n", "b".repeat(16_384)), 431),
        (format!("x-a: {}\r\n", "b".repeat(10 << 20)), 431),
        (format!("{}: b\r\n", "n".repeat(20_000)), 431),
    ] {
        let shown: String = headers.chars().take(20).collect();
        let (answer, _) = exchange(to, head(headers).as_bytes()).await;
        // Whoever writes on after the answer may lose it to the reset.
        assert!(status_of(&answer) == status || (status == 431 && answer.is_empty()), "{shown}: {answer}");
    }
    let (answer, _) = exchange(to, format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(20_000)).as_bytes()).await;
    assert!([0, 414, 431].contains(&status_of(&answer)), "{answer}");
}
