//! The edge against clients that are slow, hostile or too many: everything over real sockets.

#![expect(clippy::large_futures, reason = "each test has its buffers in its own future, on its own thread")]

mod drain;
mod json_policy;
mod limits;
mod process;
mod slow;
mod smuggling;
mod tls;

use crate::support::app::TestApp;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// Longest wait for what must happen by itself.
const PATIENCE: Duration = Duration::from_secs(30);

fn address(app: &TestApp) -> SocketAddr {
    app.url.rsplit_once('/').unwrap().1.parse().unwrap()
}

/// A connection from an address of this machine: `127.0.0.0/8` is all ours.
async fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// Everything that comes until the server closes, and how long that took; `None`: it did not close.
async fn until_closed(stream: &mut TcpStream) -> Option<(Vec<u8>, Duration)> {
    let started = Instant::now();
    let mut read = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        match tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await {
            Err(_) => return None,
            // A reset closes it too.
            Ok(Ok(0) | Err(_)) => return Some((read, started.elapsed())),
            Ok(Ok(bytes)) => read.extend_from_slice(&piece[..bytes]),
        }
    }
}

/// Send bytes on a fresh connection, and read until the server closes it.
async fn exchange(to: SocketAddr, bytes: &[u8]) -> (String, Duration) {
    let mut stream = connect_from([127, 0, 0, 1], to).await;
    // It may close before it has read all.
    let _ = stream.write_all(bytes).await;
    let (read, time) = until_closed(&mut stream).await.expect("the server closes the connection");
    (String::from_utf8_lossy(&read).into_owned(), time)
}

/// Status of the first answer.
fn status_of(answer: &str) -> u16 {
    let rest = answer.strip_prefix("HTTP/1.1 ").or_else(|| answer.strip_prefix("HTTP/1.0 "));
    rest.and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
}
