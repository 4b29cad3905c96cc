//! Web pages and browser extensions: which of them may read which answers.

use super::{Answer, BUNDLE, FHIR, call, get, small};
use crate::support::app::{Setup, TestApp};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const EXTENSION: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop";
const THEIRS: &str = "https://ehr.other.example";
const CONFIGURED: &str = "https://portal.example:8443";
const FOREIGN: &str = "https://evil.example";
const ALLOW: &str = "access-control-allow-origin";
const CLINICAL: &str = "/ingest/clinical/unknown-number";

/// Two organizations with an origin each, and one of the configuration. The key is the other's reader's.
async fn start() -> (TestApp, String) {
    let app = TestApp::with(Setup { origins: vec![CONFIGURED.to_owned()], ..Setup::default() }).await;
    let other = app.organization("Other Hospital").await;
    allow(&app, &app.organization.id.to_string(), &[EXTENSION]).await;
    allow(&app, &other.id.to_string(), &[THEIRS]).await;
    (app, other.reader)
}

async fn allow(app: &TestApp, organization: &str, origins: &[&str]) {
    let path = format!("/v1/admin/organizations/{organization}/settings");
    let answer = put(app, &path, &json!({"corsOrigins": origins})).await;
    assert_eq!((answer.status, &answer.json()["corsOrigins"]), (200, &json!(origins)));
}

async fn put(app: &TestApp, path: &str, body: &Value) -> Answer {
    call(app, Method::PUT, path, &app.platform, &[("content-type", "application/json")], body.to_string()).await
}

async fn preflight(app: &TestApp, path: &str, origin: &str) -> Answer {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    call(app, Method::OPTIONS, path, "", &headers, "").await
}

async fn get_from(app: &TestApp, key: &str, path: &str, origin: &str) -> Answer {
    call(app, Method::GET, path, key, &[("origin", origin)], "").await
}

#[tokio::test]
async fn a_preflight_is_answered_for_every_origin_that_somebody_allows_and_for_no_other() {
    let (app, _) = start().await;
    for origin in [EXTENSION, THEIRS, CONFIGURED] {
        for path in [BUNDLE, CLINICAL] {
            let answer = preflight(&app, path, origin).await;
            assert_eq!((answer.status, answer.header(ALLOW)), (204, Some(origin)));
            assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST"));
            let allowed = answer.header("access-control-allow-headers").unwrap();
            for name in [
                "Authorization",
                "Content-Type",
                "Content-Encoding",
                "Idempotency-Key",
                "If-None-Match",
                "X-Request-Id",
            ] {
                assert!(allowed.contains(name), "{allowed}");
            }
            assert_eq!(answer.header("access-control-max-age"), Some("600"));
            assert_eq!(answer.header("vary"), Some("Origin"));
            assert_eq!(answer.header("access-control-allow-credentials"), None);
            assert!(answer.body.is_empty() && answer.header("x-request-id").is_some());
        }
    }
    for origin in [FOREIGN, "null", "*", "https://portal.example", "http://portal.example:8443"] {
        let answer = preflight(&app, BUNDLE, origin).await;
        answer.problem(405, "method_not_allowed");
        assert_eq!((answer.header(ALLOW), answer.header("vary")), (None, Some("Origin")), "{origin}");
    }
    // Without the header of a preflight it is an ordinary request of a method that no route has.
    call(&app, Method::OPTIONS, BUNDLE, "", &[("origin", EXTENSION)], "").await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn an_answer_can_be_read_by_pages_of_the_callers_own_organization_only() {
    let (app, other) = start().await;
    let own = &app.organization.reader;
    for (key, origin, allowed) in [
        (own, EXTENSION, true),
        (own, CONFIGURED, true),
        (own, THEIRS, false),
        (own, FOREIGN, false),
        (&other, THEIRS, true),
        (&other, CONFIGURED, true),
        (&other, EXTENSION, false),
    ] {
        let answer = get_from(&app, key, CLINICAL, origin).await;
        assert_eq!((answer.status, answer.header(ALLOW)), (200, allowed.then_some(origin)), "{origin}");
        assert_eq!(answer.header("vary"), Some("Origin"));
        let exposed = answer.header("access-control-expose-headers");
        assert_eq!(exposed.is_some(), allowed);
        for name in ["Location", "Retry-After", "X-Request-Id", "ETag", "RateLimit"] {
            assert!(exposed.is_none_or(|exposed| exposed.contains(name)));
        }
    }
    // The platform role belongs to no organization.
    for (origin, allowed) in [(CONFIGURED, true), (EXTENSION, false)] {
        let answer = get_from(&app, &app.platform, CLINICAL, origin).await;
        answer.problem(403, "forbidden");
        assert_eq!(answer.header(ALLOW), allowed.then_some(origin));
    }
    let without = get(&app, own, CLINICAL).await;
    assert_eq!((without.header(ALLOW), without.header("vary")), (None, Some("Origin")));
}

#[tokio::test]
async fn a_page_can_read_acceptances_and_refusals_alike() {
    let (app, _) = start().await;
    let sender = &app.organization.sender;
    let from = ("origin", EXTENSION);
    let accepted = call(&app, Method::POST, BUNDLE, sender, &[from, FHIR], small(1)).await;
    assert_eq!((accepted.status, accepted.header(ALLOW)), (202, Some(EXTENSION)));
    let too_large = vec![b' '; (16 << 20) + 1];
    for (status, code, key, headers, body) in [
        (401, "unauthenticated", "", vec![from, FHIR], small(1)),
        (401, "unauthenticated", "cgk_0_0", vec![from, FHIR], small(1)),
        (403, "forbidden", app.organization.reader.as_str(), vec![from, FHIR], small(1)),
        (400, "invalid_json", sender, vec![from, FHIR], b"{".to_vec()),
        (415, "unsupported_media_type", sender, vec![from, ("content-type", "text/plain")], small(1)),
        (413, "payload_too_large", sender, vec![from, FHIR], too_large),
    ] {
        let answer = call(&app, Method::POST, BUNDLE, key, &headers, body).await;
        answer.problem(status, code);
        assert_eq!(answer.header(ALLOW), Some(EXTENSION), "{code}");
        assert!(answer.header("access-control-expose-headers").unwrap().contains("Retry-After"), "{code}");
    }
    let stranger = get_from(&app, "", CLINICAL, FOREIGN).await;
    stranger.problem(401, "unauthenticated");
    assert_eq!(stranger.header(ALLOW), None);
    let missing = get_from(&app, sender, "/ingest/nothing", EXTENSION).await;
    missing.problem(404, "not_found");
    assert_eq!(missing.header(ALLOW), Some(EXTENSION));
}

#[tokio::test]
async fn administration_and_health_are_not_for_pages() {
    let (app, _) = start().await;
    for path in ["/v1/admin/jobs", "/v1/admin/reviews", "/health/live", "/openapi.json"] {
        let answer = preflight(&app, path, CONFIGURED).await;
        answer.problem(405, "method_not_allowed");
        let real = get_from(&app, &app.organization.admin, path, CONFIGURED).await;
        assert_eq!(real.status, 200, "{path}");
        for answer in [answer, real] {
            assert_eq!((answer.header(ALLOW), answer.header("vary")), (None, None), "{path}");
        }
    }
}

#[tokio::test]
async fn an_origin_that_is_taken_back_is_refused_within_seconds() {
    let (app, _) = start().await;
    assert_eq!(preflight(&app, BUNDLE, EXTENSION).await.status, 204);
    allow(&app, &app.organization.id.to_string(), &[]).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while preflight(&app, BUNDLE, EXTENSION).await.status == 204 {
        assert!(Instant::now() < deadline, "the origin is still allowed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get_from(&app, &app.organization.reader, CLINICAL, EXTENSION).await.header(ALLOW), None);
}

#[tokio::test]
async fn settings_of_athena_time_zone_and_pages_are_kept_or_refused_with_their_name() {
    let app = TestApp::start().await;
    let id = app.organization.id.to_string();
    let path = format!("/v1/admin/organizations/{id}/settings");
    let default = json!(format!("urn:chartgate:{id}:athena"));
    let before = get(&app, &app.organization.admin, &path).await.json();
    assert_eq!(
        (&before["athenaSystem"], &before["timeZone"], &before["corsOrigins"]),
        (&default, &json!("UTC"), &json!([]))
    );
    // An answer sent back as it came changes nothing.
    assert_eq!(put(&app, &path, &before).await.json(), before);
    let stored = "select count(*) from organizations where settings->>'athena_system' is not null";
    assert_eq!(app.count(stored).await, 0);
    let wanted = json!({
        "athenaSystem": "urn:practice:195900", "timeZone": "america/new_york", "mrnSystems": ["urn:a"],
        "corsOrigins": ["HTTPS://EHR.Example:443", "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc"],
    });
    assert_eq!(put(&app, &path, &wanted).await.status, 200);
    let after = get(&app, &app.organization.admin, &path).await.json();
    assert_eq!(after["athenaSystem"], "urn:practice:195900");
    assert_eq!(after["timeZone"], "America/New_York");
    assert_eq!(
        after["corsOrigins"],
        json!(["https://ehr.example", "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc"])
    );
    for (member, bad) in [
        ("athenaSystem", json!("")),
        ("athenaSystem", json!("a\nb")),
        ("athenaSystem", json!("x".repeat(501))),
        ("timeZone", json!("Mars/Olympus")),
        ("timeZone", json!("EST5EDT,M3.2.0,M11.1.0")),
        ("timeZone", json!("")),
        ("corsOrigins", json!(["*"])),
        ("corsOrigins", json!(["https://ehr.example/"])),
        ("corsOrigins", json!(["https://ehr.example", "file://x"])),
        ("corsOrigins", json!(vec!["https://ehr.example"; 101])),
    ] {
        let answer = put(&app, &path, &json!({member: bad})).await;
        let problem = answer.problem(400, "invalid_request");
        assert!(problem["detail"].as_str().unwrap().contains(member), "{problem}");
    }
    assert_eq!(get(&app, &app.organization.admin, &path).await.json(), after);
    // Null is the default again.
    let reset = put(&app, &path, &json!({"athenaSystem": null, "timeZone": null})).await.json();
    assert_eq!((&reset["athenaSystem"], &reset["timeZone"]), (&default, &json!("UTC")));
}

#[tokio::test]
async fn an_untyped_number_in_athenas_system_is_an_mrn() {
    let app = TestApp::start().await;
    let workers = app.workers();
    let id = app.organization.id.to_string();
    let settings = format!("/v1/admin/organizations/{id}/settings");
    let patient = |system: &str, number: &str| {
        json!({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": {
            "resourceType": "Patient", "id": number, "identifier": [{"system": system, "value": number}]
        }}]})
    };
    let found = async |system: &str, number: &str| {
        let (status, job) = app.submit(patient(system, number).to_string()).await;
        assert_eq!(status, 202, "{job}");
        app.wait_until(job["jobId"].as_str().unwrap(), "finished", |job| !job["finishedAt"].is_null()).await;
        let view = get(&app, &app.organization.reader, &format!("/ingest/clinical/{number}")).await.json();
        view["status"].clone()
    };
    let default = format!("urn:chartgate:{id}:athena");
    assert_eq!(found(&default, "1001").await, "found");
    assert_eq!(found("urn:practice:1", "1002").await, "not_found");
    assert_eq!(put(&app, &settings, &json!({"athenaSystem": "urn:practice:1"})).await.status, 200);
    assert_eq!(found("urn:practice:1", "1003").await, "found");
    assert_eq!(found(&default, "1004").await, "not_found");
    workers.stop().await;
}
