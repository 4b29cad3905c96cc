//! API keys: revoked everywhere within seconds, rotated without a gap, ended by the clock.

use crate::http::{call, get, small};
use crate::support::app::TestApp;
use chartgate::app::App;
use chartgate::auth::{AuthError, Refusal, store};
use chartgate::clock::Clock;
use chartgate::db::{DbError, Scope};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

const JSON: (&str, &str) = ("content-type", "application/json");
const PROMISED: Duration = Duration::from_secs(5);

/// Another process on the same database.
async fn second(app: &TestApp) -> Arc<App> {
    let objects = app.objects.objects.clone();
    App::build(app.app.config.clone(), app.owner_options.clone(), objects).await.unwrap()
}

async fn make(app: &TestApp, body: &Value) -> (String, String) {
    let (status, made) = app.post(&app.organization.admin, "/v1/admin/keys", body).await;
    assert_eq!(status, 201, "{made}");
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

async fn rotate(app: &TestApp, key: &str, id: &str, body: &Value) -> crate::http::Answer {
    call(app, Method::POST, &format!("/v1/admin/keys/{id}/rotate"), key, &[JSON], body.to_string()).await
}

/// How long until this process refuses the key.
async fn until_refused(process: &App, key: &str, since: Instant) -> Duration {
    loop {
        match process.authenticator.authenticate(key).await {
            Err(AuthError::Refused(refusal)) => {
                assert_eq!(refusal, Refusal::KeyEnded);
                return since.elapsed();
            }
            Err(error) => panic!("{error}"),
            Ok(_) => assert!(since.elapsed() < PROMISED, "still good after {PROMISED:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_revoked_key_ends_on_every_process_within_five_seconds() {
    let app = TestApp::start().await;
    let other = second(&app).await;
    let (id, key) = make(&app, &json!({"role": "sender"})).await;
    // Both have just looked it up, and believe it for as long as can be.
    assert!(
        app.app.authenticator.authenticate(&key).await.is_ok() && other.authenticator.authenticate(&key).await.is_ok()
    );
    let path = format!("/v1/admin/keys/{id}");
    let since = Instant::now();
    assert_eq!(call(&app, Method::DELETE, &path, &app.organization.admin, &[], "").await.status, 204);
    let (here, there) = tokio::join!(until_refused(&app.app, &key, since), until_refused(&other, &key, since));
    println!("revoked: refused after {here:?} by the process that did it, after {there:?} by the other");
}

#[tokio::test]
async fn a_rotated_key_and_its_successor_are_good_together_until_the_overlap_is_over() {
    let app = TestApp::start().await;
    let admin = app.organization.admin.clone();
    let (id, old) = make(&app, &json!({"role": "sender", "name": "EHR", "source": "ehr"})).await;
    let rotated = rotate(&app, &admin, &id, &json!({"overlapSeconds": 3600})).await;
    assert_eq!(rotated.status, 201);
    let rotated = rotated.json();
    let new = rotated["key"].as_str().unwrap().to_owned();
    assert_eq!((&rotated["role"], &rotated["organizationId"]), (&json!("sender"), &json!(app.organization.id)));
    for key in [&old, &new] {
        assert_eq!(get(&app, key, "/v1/ingestion/jobs").await.status, 200);
    }
    let listed = get(&app, &admin, "/v1/admin/keys").await.json();
    let find = |id: &Value| listed["keys"].as_array().unwrap().iter().find(|one| one["id"] == *id).unwrap().clone();
    let (before, after) = (find(&json!(id)), find(&rotated["id"]));
    assert_eq!((&before["replacedBy"], &after["replacedBy"]), (&rotated["id"], &json!(null)));
    assert!(before["expiresAt"].is_string() && after["expiresAt"].is_null());
    assert_eq!((&after["name"], &after["source"]), (&json!("EHR"), &json!("ehr")));
    assert!(!listed.to_string().contains(new.rsplit('_').next().unwrap()), "no list holds a secret");

    app.advance(Duration::from_secs(3_601)).await;
    until_refused(&app.app, &old, Instant::now()).await;
    assert_eq!(get(&app, &new, "/v1/ingestion/jobs").await.status, 200);
    // What has ended has no successor any more; nor has a key of somebody else, or none.
    rotate(&app, &admin, &id, &json!({})).await.problem(404, "key_not_found");
    let other = app.organization("Other Hospital").await;
    let successor = rotated["id"].as_str().unwrap();
    for missing in [successor, "0123456789abcdef", "nonsense"] {
        rotate(&app, &other.admin, missing, &json!({})).await.problem(404, "key_not_found");
    }
    for bad in [json!({"overlapSeconds": 7_776_001}), json!({"overlapSeconds": -1}), json!({"role": "admin"})] {
        rotate(&app, &admin, successor, &bad).await.problem(400, "invalid_request");
    }
    // Without an overlap the old one ends at once; the platform may rotate everybody's, and its own.
    assert_eq!(rotate(&app, &app.platform, successor, &json!({"overlapSeconds": 0})).await.status, 201);
    until_refused(&app.app, &new, Instant::now()).await;
    let own = app.platform.split('_').nth(1).unwrap().to_owned();
    let renewed = rotate(&app, &app.platform, &own, &json!({"expiresAt": "2999-01-01T00:00:00Z"})).await.json();
    assert_eq!((&renewed["role"], &renewed["organizationId"]), (&json!("platform"), &json!(null)));
    assert_eq!(get(&app, renewed["key"].as_str().unwrap(), "/v1/admin/workers").await.status, 200);
    let records = "select count(*) from audit_records
        where event = 'key.rotated' and resource ~ '^key:[0-9a-f]{16}$' and actor ~ '^key:' and detail ? 'new' and detail ? 'overlapSeconds'";
    assert_eq!(app.count(records).await, 3);
}

#[tokio::test]
async fn a_key_ends_by_the_databases_clock_and_its_last_use_is_kept() {
    let app = TestApp::start().await;
    let (id, key) = make(&app, &json!({"role": "sender", "expiresAt": "2999-01-01T00:00:00Z"})).await;
    let used = format!("select count(*) from api_keys where last_used_at is not null and id = '{id}'");
    let used: &'static str = used.leak();
    assert_eq!(app.count(used).await, 0);
    assert_eq!(app.submit_as(&key, None, small(1)).await.0, 202);
    assert_eq!(app.count(used).await, 1);
    app.advance(Duration::from_hours(24 * 366 * 1_000)).await;
    until_refused(&app.app, &key, Instant::now()).await;
}

#[tokio::test]
async fn keys_that_end_soon_and_keys_that_nobody_uses_are_named() {
    let app = TestApp::start().await;
    let concerns = async || {
        app.app
            .db
            .unit::<_, DbError, _>(Scope::Global, |connection| Box::pin(store::list_key_concerns(connection, 14, 90)))
            .await
            .unwrap()
    };
    let in_days = |days: i64| {
        let at = Clock::system().now() + time::Duration::days(days);
        chartgate::clock::rfc3339(at).unwrap()
    };
    let (soon, _) = make(&app, &json!({"role": "sender", "name": "EHR", "expiresAt": in_days(10)})).await;
    make(&app, &json!({"role": "sender", "expiresAt": in_days(30)})).await;
    let found = concerns().await;
    assert_eq!(found.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), [&soon]);
    assert_eq!((found[0].organization.as_deref(), found[0].name.as_str()), (Some("Test Hospital"), "EHR"));
    // Its successor is made: nothing is to be done any more.
    assert_eq!(rotate(&app, &app.organization.admin, &soon, &json!({})).await.status, 201);
    assert!(concerns().await.is_empty());
    app.advance(Duration::from_hours(24 * 91)).await;
    let idle = concerns().await;
    // The keys of the organization and the platform's, and the successor; the two others have ended.
    assert_eq!((idle.len(), idle.iter().all(|one| one.idle_days >= 90)), (5, true), "{idle:?}");
}

#[tokio::test]
async fn a_key_is_used_by_whoever_has_its_secret_and_lists_come_newest_first_in_pages() {
    let app = TestApp::start().await;
    let admin = app.organization.admin.clone();
    let (id, key) = make(&app, &json!({"role": "sender"})).await;
    let (newest, _) = make(&app, &json!({"role": "sender"})).await;
    let used = || async {
        let keys = get(&app, &admin, "/v1/admin/keys").await.json()["keys"].as_array().unwrap().clone();
        keys.into_iter().find(|one| one["id"] == json!(id)).unwrap()["lastUsedAt"].clone()
    };
    let wrong = format!("cgk_{id}_{}", "0".repeat(64));
    assert!(matches!(app.app.authenticator.authenticate(&wrong).await, Err(AuthError::Refused(Refusal::KeyUnknown))));
    assert_eq!(used().await, json!(null), "its id is no secret");
    assert!(app.app.authenticator.authenticate(&key).await.is_ok());
    let first = used().await;
    assert!(first.is_string());
    // After its end it is not used any more.
    assert_eq!(call(&app, Method::DELETE, &format!("/v1/admin/keys/{id}"), &admin, &[], "").await.status, 204);
    app.advance(Duration::from_mins(5)).await;
    let other = second(&app).await;
    assert!(matches!(other.authenticator.authenticate(&key).await, Err(AuthError::Refused(Refusal::KeyEnded))));
    assert_eq!(used().await, first);

    let (mut path, mut ids) = ("/v1/admin/keys?limit=2".to_owned(), Vec::new());
    loop {
        let page = get(&app, &admin, &path).await.json();
        ids.extend(page["keys"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["nextCursor"].as_str() else { break };
        path = format!("/v1/admin/keys?limit=2&cursor={next}");
    }
    assert_eq!((ids.len(), &ids[0], &ids[1]), (5, &newest, &id));
}

#[tokio::test]
async fn the_end_of_a_key_stands_in_its_organizations_own_log_whoever_ended_it() {
    let app = TestApp::start().await;
    let (one, _) = make(&app, &json!({"role": "sender"})).await;
    let (two, _) = make(&app, &json!({"role": "sender"})).await;
    assert_eq!(rotate(&app, &app.platform, &one, &json!({})).await.status, 201);
    let path = format!("/v1/admin/keys/{two}");
    assert_eq!(call(&app, Method::DELETE, &path, &app.platform, &[], "").await.status, 204);
    let (_, log) = app.get(&app.organization.admin, "/v1/admin/audit?limit=200").await;
    for (event, id) in [("key.rotated", &one), ("key.revoked", &two)] {
        assert!(
            log["records"]
                .as_array()
                .unwrap()
                .iter()
                .any(|record| { record["event"] == json!(event) && record["resource"] == json!(format!("key:{id}")) }),
            "{event} of {id}: {log:#}"
        );
    }
    // A name is what people see in terminals and lists: no control characters, and not the form of an id.
    let name = json!({"role": "sender", "name": "lab\u{1b}]52;c;aGk=\u{7}"});
    assert_eq!(app.post(&app.organization.admin, "/v1/admin/keys", &name).await.0, 400);
    let name = json!({ "name": app.organization.id.to_string() });
    assert_eq!(app.post(&app.platform, "/v1/admin/organizations", &name).await.0, 400);
}
