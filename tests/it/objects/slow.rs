//! A server that takes its time: a body has the time that it needs on a slow link, an answer has not.

use super::options;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use chartgate::objects::{Objects, ObjectsOptions};
use std::time::Duration;
use tokio::net::TcpListener;

#[tokio::test]
async fn what_is_sent_has_time_by_its_size() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    // As long as a megabit and a half a second takes for the larger body.
    let slow = |_: HeaderMap, _: Bytes| async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        StatusCode::OK
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(slow)).await });
    let objects =
        Objects::connect(&ObjectsOptions { timeout: Duration::from_millis(300), ..options(&endpoint, "bucket") });
    let put = async |bytes: usize| objects.put("key", vec![b'x'; bytes].into(), "text/plain", &[]).await;
    put(300_000).await.unwrap();
    objects.put_new("key", vec![b'x'; 300_000].into(), "text/plain").await.unwrap();
    assert!(put(10).await.unwrap_err().is_transient(), "a server that does not answer is away");
}
