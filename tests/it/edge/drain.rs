//! A process that stops: it says so first, answers on for the grace, and nobody waits for it.

use super::{PATIENCE, address, exchange, status_of};
use crate::http::small;
use crate::support::app::{Setup, TestApp, job_of};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_draining_process_says_so_answers_on_and_ends_what_waits() {
    let limits = Box::new(|limits: &mut chartgate::config::LimitsConfig| limits.drain_grace = Duration::from_mins(5));
    let app = TestApp::with(Setup { limits, ..Setup::default() }).await;
    let to = address(&app);
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(app.client.get(format!("{}/health/ready", app.url)).send().await.unwrap().status(), 200);
    // No workers: it waits for a change that does not come.
    let job = job_of(&app.submit(small(1)).await.1);
    let waiting = tokio::spawn({
        let request = app.client.get(format!("{}/v1/ingestion/jobs/{job}?wait=60", app.url));
        let request = request.bearer_auth(&app.organization.sender);
        async move {
            let started = Instant::now();
            (request.send().await.unwrap(), started.elapsed())
        }
    });
    tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>()).await.unwrap_err();
    assert!(!waiting.is_finished());
    app.stop.cancel();
    let (answer, time) = waiting.await.unwrap();
    assert!(time < Duration::from_secs(20), "{time:?}");
    assert_eq!((answer.status().as_u16(), answer.headers()["connection"].to_str().unwrap()), (200, "close"));
    // It answers new connections, and closes each after its answer.
    let (ready, _) = exchange(to, ask("/health/ready").as_bytes()).await;
    assert!(status_of(&ready) == 503 && ready.contains(r#""status":"draining""#), "{ready}");
    let (live, _) = exchange(to, ask("/health/live").as_bytes()).await;
    assert!(status_of(&live) == 200 && live.contains("connection: close"), "{live}");
    assert_eq!(app.submit(small(2)).await.0, 202, "what comes is still taken");
    // A second signal ends the grace; then nobody listens.
    app.app.limits.hurry.cancel();
    let started = Instant::now();
    while tokio::net::TcpStream::connect(to).await.is_ok() {
        assert!(started.elapsed() < PATIENCE, "it still listens");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn without_a_grace_running_requests_finish_and_idle_connections_end() {
    let app = TestApp::start().await;
    let to = address(&app);
    let mut idle = tokio::net::TcpStream::connect(to).await.unwrap();
    let job = job_of(&app.submit(small(1)).await.1);
    let request = app.client.get(format!("{}/v1/ingestion/jobs/{job}?wait=60", app.url));
    let running = tokio::spawn(request.bearer_auth(&app.organization.sender).send());
    // Until the request is there: it is counted as busy, so it cannot be seen from outside but by its answer.
    tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>()).await.unwrap_err();
    app.stop.cancel();
    assert_eq!(running.await.unwrap().unwrap().status(), 200);
    assert!(super::until_closed(&mut idle).await.is_some_and(|(_, time)| time < Duration::from_secs(15)));
}
