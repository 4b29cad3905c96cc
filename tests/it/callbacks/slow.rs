//! Receivers that hang, processes without the key, callers that do not wait, and organizations that are broken: whom they hold up.

use super::receiver::Receiver;
use super::{app, callback, deliveries, dispatch, register_url, run_until_idle, wait_until};
use crate::support::app::TestApp;
use crate::support::submit::submit;
use axum::body::Body;
use axum::http::Request;
use chartgate::app::missing_secret_keys;
use chartgate::db::{DbError, Scope};
use chartgate::engine::gauges_store::around;
use chartgate::http;
use chartgate::ids::OrganizationId;
use secrecy::SecretString;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower::ServiceExt as _;

/// Takes connections and requests, and answers none of them until it is told to.
struct Hanging {
    url: String,
    asked: Arc<AtomicUsize>,
    answer: Arc<Notify>,
}

impl Hanging {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (asked, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (counted, told) = (Arc::clone(&asked), Arc::clone(&answer));
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let (counted, told) = (Arc::clone(&counted), Arc::clone(&told));
                tokio::spawn(async move {
                    let _ = connection.read(&mut [0; 8192]).await;
                    counted.fetch_add(1, Ordering::SeqCst);
                    told.notified().await;
                    let _ = connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                });
            }
        });
        Self { url, asked, answer }
    }

    async fn wait_for(&self, requests: usize) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while self.asked.load(Ordering::SeqCst) < requests {
            assert!(Instant::now() < deadline, "{requests} requests");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A job of that organization that ends: its body is no Bundle.
async fn ended_jobs(app: &TestApp, organization: OrganizationId, count: usize) {
    for _ in 0..count {
        let job = submit(app, organization, "fhir-bundle", None).await.job;
        app.wait_for(&job.to_string(), "failed").await;
    }
}

#[tokio::test]
async fn slow_receivers_of_one_organization_neither_delay_others_nor_hold_the_workers() {
    let app = app().await;
    let other = app.organization("Other Hospital").await;
    let hanging = Hanging::start().await;
    // Four callbacks of sixteen deliveries each: twice as many as the workers run at once.
    for _ in 0..4 {
        register_url(&app, &hanging.url).await;
    }
    let quick = Receiver::start().await;
    let body = json!({ "url": quick.url });
    let (status, created) = app.post(&other.admin, "/v1/admin/callbacks", &body).await;
    assert_eq!(status, 201, "{created}");
    let workers = app.workers();
    ended_jobs(&app, app.organization.id, 16).await;
    assert_eq!(dispatch(&app).await, 64);
    hanging.wait_for(16).await;
    // As much as one organization may have under way hangs, and the rest was put off.
    wait_until(&app, "select count(*) from queue where state = 'delayed'", 48).await;
    assert_eq!(app.count("select count(*) from queue where state = 'delayed' and attempts > 0").await, 0);
    assert_eq!(app.count("select count(*) from step_attempts where error_code = 'callback_busy'").await, 0);
    // Both a clinical job and another's message pass.
    ended_jobs(&app, other.id, 1).await;
    assert_eq!(dispatch(&app).await, 1);
    wait_until(&app, "select count(*) from callback_messages where status = 'delivered'", 1).await;
    assert_eq!((quick.received().len(), hanging.asked.load(Ordering::SeqCst)), (1, 16));
    hanging.answer.notify_waiters();
    workers.stop().await;
}

#[tokio::test]
async fn a_process_without_the_key_leaves_messages_to_those_that_have_it() {
    let app = app().await;
    let receiver = Receiver::start().await;
    let (id, secret) = register_url(&app, &receiver.url).await;
    assert!(missing_secret_keys(&app.app.db, &app.app.secrets).await.unwrap().is_empty());
    let app = app.reconfigured(|config| config.secrets_key = None).await;
    assert_eq!(missing_secret_keys(&app.app.db, &app.app.secrets).await.unwrap().len(), 1, "what doctor says");
    let workers = app.workers();
    ended_jobs(&app, app.organization.id, 1).await;
    assert_eq!(dispatch(&app).await, 1);
    wait_until(&app, "select count(*) from queue where state = 'delayed' and attempts > 0", 1).await;
    workers.stop().await;
    let tried = "select count(*) from step_attempts where error_code = 'callback_secret_unreadable' and error_class = 'transient'";
    assert!(app.count(tried).await >= 1);
    // Nor does a new secret make one: it would stand beside the old one for good.
    let (status, refused) =
        app.post(&app.organization.admin, "/v1/admin/callbacks", &json!({ "url": receiver.url })).await;
    assert_eq!((status, &refused["code"]), (500, &json!("internal_error")), "{refused}");
    assert!(!app.app.config.data_dir.join("secrets.key").exists(), "no key of its own was made");
    assert_eq!(callback(&app, &id).await["failingSince"], json!(null));
    let app = app
        .reconfigured(|config| {
            config.secrets_key = Some(SecretString::from("dGhpcyBpcyB0aGUga2V5IG9mIHRoZSB0ZXN0cyBvbmw="));
        })
        .await;
    let workers = app.workers();
    app.advance(Duration::from_hours(3)).await;
    run_until_idle(&app).await;
    workers.stop().await;
    assert_eq!((receiver.received().len(), receiver.received()[0].signed_by(&secret)), (1, 1));
}

#[tokio::test]
async fn a_test_whose_caller_hangs_up_is_recorded_all_the_same() {
    let app = app().await;
    let hanging = Hanging::start().await;
    let (id, _) = register_url(&app, &hanging.url).await;
    let request = Request::post(format!("/v1/admin/callbacks/{id}/test"))
        .header("authorization", format!("Bearer {}", app.organization.admin))
        .body(Body::empty())
        .unwrap();
    let asking = tokio::spawn(http::router(Arc::clone(&app.app), axum::Router::new()).oneshot(request));
    hanging.wait_for(1).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    assert_eq!(app.count("select count(*) from audit_records where event = 'callback.tested'").await, 0);
    hanging.answer.notify_waiters();
    wait_until(&app, "select count(*) from audit_records where event = 'callback.tested'", 1).await;
    assert_eq!(deliveries(&app, &id).await[0]["outcome"], json!("delivered"));
}

#[tokio::test]
async fn what_is_wrong_with_one_organization_holds_up_the_dispatch_of_no_other() {
    let app = app().await;
    let receiver = Receiver::start().await;
    let mut organizations = vec![app.organization("A Hospital").await, app.organization("B Hospital").await];
    organizations.sort_by_key(|organization| organization.id.0);
    let workers = app.workers();
    for organization in &organizations {
        let body = json!({ "url": receiver.url });
        assert_eq!(app.post(&organization.admin, "/v1/admin/callbacks", &body).await.0, 201);
        ended_jobs(&app, organization.id, 1).await;
    }
    // The first one in the order of the dispatcher cannot have deliveries.
    let broken = format!(
        "alter table jobs add constraint broken check (organization_id <> '{}' or source <> 'callback') not valid",
        organizations[0].id.0
    );
    sqlx::query(sqlx::AssertSqlSafe(broken)).execute(&mut app.owner().await).await.unwrap();
    assert_eq!(dispatch(&app).await, 1);
    wait_until(&app, "select count(*) from callback_messages where status = 'delivered'", 1).await;
    assert_eq!(receiver.received().len(), 1);
    app.advance(Duration::from_mins(2)).await;
    let waits = async || {
        let read = app.app.db.unit::<_, DbError, _>(Scope::Platform, |connection| Box::pin(around(connection)));
        let around = read.await.unwrap();
        (around.callback_messages, around.oldest_callback_message_seconds)
    };
    let (messages, age) = waits().await;
    assert!(messages == 1 && (120.0..600.0).contains(&age), "the metrics show who waits: {messages} {age}");
    // What waits for a callback that is disabled waits for an administrator.
    let disable = "update callbacks set status = 'disabled', disabled_reason = 'administrator'";
    sqlx::raw_sql(disable).execute(&mut app.owner().await).await.unwrap();
    assert_eq!(waits().await, (0, 0.0));
    workers.stop().await;
}
