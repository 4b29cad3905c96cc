//! Administration: organizations, keys, settings, pause and resume, what runs.

use super::{FHIR, call, get, small};
use crate::support::app::{TestApp, job_of};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const JSON: (&str, &str) = ("content-type", "application/json");

async fn put(app: &TestApp, key: &str, path: &str, body: &Value) -> super::Answer {
    call(app, Method::PUT, path, key, &[JSON], body.to_string()).await
}

#[tokio::test]
async fn the_platform_creates_organizations_and_each_admin_sees_its_own() {
    let app = TestApp::start().await;
    let (status, created) = app.post(&app.platform, "/v1/admin/organizations", &json!({"name": " St. Mary's "})).await;
    assert_eq!((status, &created["name"], &created["status"]), (201, &json!("St. Mary's"), &json!("active")));
    let (status, problem) = app.post(&app.platform, "/v1/admin/organizations", &json!({"name": "St. Mary's"})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("organization_exists")));
    for (name, code) in [
        ("", "invalid_request"),
        (" ", "invalid_request"),
        (&"x".repeat(201), "invalid_request"),
        ("a\0b", "invalid_string"),
    ] {
        let (status, problem) = app.post(&app.platform, "/v1/admin/organizations", &json!({"name": name})).await;
        assert_eq!((status, &problem["code"]), (400, &json!(code)));
    }
    let all = get(&app, &app.platform, "/v1/admin/organizations").await.json();
    assert_eq!(all["organizations"].as_array().unwrap().len(), 2);
    let own = get(&app, &app.organization.admin, "/v1/admin/organizations").await.json();
    assert_eq!(own["organizations"].as_array().unwrap().len(), 1);
    assert_eq!(own["organizations"][0]["id"], json!(app.organization.id));
    assert_eq!(app.count("select count(*) from audit_records where event = 'organization.created'").await, 1);
}

#[tokio::test]
async fn a_key_is_shown_once_works_at_once_and_stops_within_seconds_of_its_revocation() {
    let app = TestApp::start().await;
    let admin = app.organization.admin.clone();
    let request = json!({"role": "sender", "name": "lab", "source": "lab-1", "expiresAt": "2999-01-01T00:00:00Z"});
    let (status, created) = app.post(&admin, "/v1/admin/keys", &request).await;
    assert_eq!(
        (status, &created["role"], &created["organizationId"]),
        (201, &json!("sender"), &json!(app.organization.id))
    );
    let key = created["key"].as_str().unwrap().to_owned();
    let (status, accepted) = app.submit_as(&key, None, small(1)).await;
    assert_eq!(status, 202);
    assert_eq!(app.count("select count(*) from jobs where source_label = 'lab-1'").await, 1);
    let listed = get(&app, &admin, "/v1/admin/keys").await.json();
    let secret = key.rsplit('_').next().unwrap();
    assert!(!listed.to_string().contains(secret));
    let one = listed["keys"].as_array().unwrap().iter().find(|one| one["id"] == created["id"]).unwrap();
    assert_eq!((&one["name"], &one["source"], one["lastUsedAt"].is_string()), (&json!("lab"), &json!("lab-1"), true));
    assert!(listed["keys"].as_array().unwrap().iter().all(|one| one["organizationId"] == json!(app.organization.id)));

    let path = format!("/v1/admin/keys/{}", created["id"].as_str().unwrap());
    for _ in 0..2 {
        assert_eq!(call(&app, Method::DELETE, &path, &admin, &[], "").await.status, 204);
    }
    let revoked = Instant::now();
    let status_path = format!("/v1/ingestion/jobs/{}", job_of(&accepted));
    while get(&app, &key, &status_path).await.status != 401 {
        assert!(revoked.elapsed() < Duration::from_secs(5), "a revoked key still works after 5 s");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for missing in ["0123456789abcdef", "x", "%00", "%ff"] {
        let path = format!("/v1/admin/keys/{missing}");
        call(&app, Method::DELETE, &path, &admin, &[], "").await.problem(404, "key_not_found");
    }
    let events =
        "select count(*) from audit_records where event in ('key.created', 'key.revoked') and resource ~ '^key:'";
    assert_eq!(app.count(events).await, 3);
}

#[tokio::test]
async fn keys_for_others_than_the_own_organization_are_the_platforms() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let (admin, platform) = (app.organization.admin.clone(), app.platform.clone());
    for (key, body, status, code) in [
        (&admin, json!({"role": "platform"}), 403, "forbidden"),
        (&admin, json!({"role": "sender", "organization": other.id}), 403, "forbidden"),
        (&admin, json!({"role": "sender", "organization": "Other Hospital"}), 403, "forbidden"),
        (&platform, json!({"role": "sender"}), 400, "invalid_request"),
        (&platform, json!({"role": "platform", "organization": other.id}), 400, "invalid_request"),
        (&platform, json!({"role": "sender", "organization": "Nowhere"}), 404, "organization_not_found"),
        (&platform, json!({"role": "sender", "organization": "a\0"}), 400, "invalid_string"),
        (&admin, json!({"role": "owner"}), 400, "invalid_request"),
        (&admin, json!({"role": "sender", "source": ""}), 400, "invalid_request"),
        (&admin, json!({"role": "sender", "source": "a\nb"}), 400, "invalid_request"),
        (&admin, json!({"role": "sender", "name": "x".repeat(201)}), 400, "invalid_request"),
        (&admin, json!({"role": "sender", "expiresAt": "tomorrow"}), 400, "invalid_parameter"),
        (&admin, json!({"role": "sender", "secret": "x"}), 400, "invalid_request"),
        (&admin, json!([]), 400, "invalid_request"),
    ] {
        let answer = call(&app, Method::POST, "/v1/admin/keys", key, &[JSON], body.to_string()).await;
        answer.problem(status, code);
    }
    for (body, role) in [
        (json!({"role": "reader", "organization": "Other Hospital"}), "reader"),
        (json!({"role": "admin", "organization": other.id}), "admin"),
        (json!({"role": "platform"}), "platform"),
    ] {
        let (status, created) = app.post(&platform, "/v1/admin/keys", &body).await;
        assert_eq!((status, &created["role"]), (201, &json!(role)));
    }
}

#[tokio::test]
async fn settings_are_replaced_as_a_whole_and_change_what_is_an_mrn() {
    let app = TestApp::start().await;
    let admin = app.organization.admin.clone();
    let path = format!("/v1/admin/organizations/{}/settings", app.organization.id);
    let athena = format!("urn:chartgate:{}:athena", app.organization.id);
    let empty = json!({
        "mrnSystems": [], "mrnFoldedSystems": [], "mrnPlaceholders": [], "runningMax": null,
        "athenaSystem": athena, "timeZone": "UTC", "corsOrigins": [], "rateLimit": null
    });
    assert_eq!(get(&app, &admin, &path).await.json(), empty);
    let settings = json!({"mrnSystems": ["urn:ward"], "mrnFoldedSystems": ["urn:f"], "mrnPlaceholders": ["123456"], "runningMax": 4,
        "athenaSystem": "urn:practice", "timeZone": "America/New_York", "corsOrigins": ["https://ehr.example"], "rateLimit": null});
    let changed = put(&app, &admin, &path, &settings).await;
    assert_eq!((changed.status, changed.json()), (200, settings));
    assert_eq!(get(&app, &app.platform, &path).await.json()["runningMax"], 4);
    let bundle = super::with_member("identifier", &json!([{"system": "urn:ward", "value": "W-1"}]));
    let workers = app.workers();
    let job = job_of(&app.submit(bundle.to_string()).await.1);
    app.wait_for(&job, "succeeded").await;
    let view = get(&app, &app.organization.reader, "/ingest/clinical/W-1").await.json();
    assert_eq!((&view["status"], view["patient"].is_object()), (&json!("found"), true));
    workers.stop().await;
    for bad in [
        json!({"mrnSystems": [""]}),
        json!({"mrnSystems": ["x".repeat(501)]}),
        json!({"mrnSystems": vec!["x"; 101]}),
        json!({"runningMax": 0}),
        json!({"runningMax": -1}),
        json!({"runningMax": 3_000_000_000_u64}),
        json!({"mrn_systems": []}),
        json!({"mrnSystems": ["a\tb"]}),
        json!({"mrnFoldedSystems": [""]}),
        json!({"mrnPlaceholders": vec!["x"; 101]}),
    ] {
        put(&app, &admin, &path, &bad).await.problem(400, "invalid_request");
    }
    // 4.0 is a whole number; 4.5 is none.
    assert_eq!(put(&app, &admin, &path, &json!({"runningMax": 4.0})).await.json()["runningMax"], 4);
    put(&app, &admin, &path, &json!({"runningMax": 4.5})).await.problem(400, "invalid_request");
    put(&app, &admin, &path, &json!({"mrnSystems": ["a\0"]})).await.problem(400, "invalid_string");
    assert_eq!(put(&app, &admin, &path, &json!({})).await.json(), empty);
    let recorded = "select count(*) from audit_records where event = 'organization.settings_changed'";
    assert_eq!(app.count(recorded).await, 3);
    for id in ["x", "%00", "org_01h455vb4pex5vsknk084sn02q", "00000000000000000000000000"] {
        let path = format!("/v1/admin/organizations/{id}/settings");
        get(&app, &app.platform, &path).await.problem(404, "organization_not_found");
        put(&app, &app.platform, &path, &json!({})).await.problem(404, "organization_not_found");
    }
}

#[tokio::test]
async fn a_paused_organizations_jobs_are_accepted_and_wait_while_others_go_on() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let path = format!("/v1/admin/organizations/{}", app.organization.id);
    let (status, paused) =
        app.post(&app.organization.admin, &format!("{path}/pause"), &json!({"reason": "downtime"})).await;
    assert_eq!((status, &paused["status"]), (200, &json!("paused")));
    let workers = app.workers();
    let waits = job_of(&app.submit(small(1)).await.1);
    let goes_on = job_of(&app.submit_as(&other.sender, None, small(1)).await.1);
    app.wait_for(&goes_on, "succeeded").await;
    assert_eq!(app.job(&waits).await["status"], "queued");
    let resumed = call(&app, Method::POST, &format!("{path}/resume"), &app.platform, &[], "").await;
    assert_eq!((resumed.status, &resumed.json()["status"]), (200, &json!("active")));
    app.wait_for(&waits, "succeeded").await;
    workers.stop().await;
    let reasons = "select count(*) from audit_records where event = 'organization.paused' and purpose = 'downtime'";
    assert_eq!(app.count(reasons).await, 1);
    let bad =
        call(&app, Method::POST, &format!("{path}/pause"), &app.platform, &[JSON], "{\"reason\": \"\\u0000\"}").await;
    bad.problem(400, "invalid_string");
}

#[tokio::test]
async fn what_runs_is_listed() {
    let app = TestApp::start().await;
    let workflows = get(&app, &app.organization.admin, "/v1/admin/workflows").await.json();
    let workflows = workflows["workflows"].as_array().unwrap();
    let workflow = workflows.iter().find(|workflow| workflow["name"] == "fhir-bundle").unwrap();
    assert_eq!(workflow["ordering"], "organization");
    assert_eq!(workflow["steps"].as_array().unwrap().len(), 5);
    assert_eq!(
        workflow["steps"][1],
        json!({"name": "store_raw", "handler": "raw.store", "run": "always", "maxAttempts": 200})
    );
    assert_eq!(get(&app, &app.platform, "/v1/admin/workers").await.json(), json!({"workers": []}));
    let workers = app.workers();
    let job = job_of(&app.submit(small(1)).await.1);
    app.wait_for(&job, "succeeded").await;
    let listed = get(&app, &app.platform, "/v1/admin/workers").await.json();
    assert_eq!(listed["workers"].as_array().unwrap().len(), 1, "{listed}");
    workers.stop().await;
    let failures = get(&app, &app.organization.admin, "/v1/admin/failures").await.json();
    assert_eq!(failures, json!({"failures": []}));
}

#[tokio::test]
async fn failures_are_grouped_and_the_platform_lists_jobs_of_all() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let workers = app.workers();
    for (sender, seeds) in [(&app.organization.sender, 0..3u64), (&other.sender, 0..2)] {
        for seed in seeds {
            let mut broken: Value = serde_json::from_slice(&small(seed)).unwrap();
            broken["entry"][0]["resource"]["birthDate"] = json!("CANARY");
            app.submit_as(sender, None, broken.to_string()).await;
        }
    }
    app.run_until_idle().await;
    workers.stop().await;
    for (key, failed, jobs) in [(&app.organization.admin, 3, 3), (&other.admin, 2, 2), (&app.platform, 5, 5)] {
        let failures = get(&app, key, "/v1/admin/failures").await.json();
        let group = &failures["failures"][0];
        assert_eq!(
            (failures["failures"].as_array().unwrap().len(), &group["count"]),
            (1, &json!(failed)),
            "{failures}"
        );
        assert_eq!(
            (&group["code"], &group["class"], &group["workflow"]),
            (&json!("validation_failed"), &json!("sender"), &json!("fhir-bundle"))
        );
        assert!(group["firstSeen"].as_str().unwrap() <= group["lastSeen"].as_str().unwrap());
        let listed = get(&app, key, "/v1/admin/jobs?status=failed&errorCode=validation_failed").await.json();
        assert_eq!(listed["jobs"].as_array().unwrap().len(), jobs);
    }
}

#[tokio::test]
async fn bulk_retries_say_what_is_wrong_with_them() {
    let app = TestApp::start().await;
    let admin = app.organization.admin.clone();
    let reason = "x";
    for (body, code) in [
        (json!({"reason": reason}), "invalid_request"),
        (json!({"filter": {}}), "invalid_request"),
        (json!({"filter": {}, "ids": [], "reason": reason}), "invalid_request"),
        (json!({"ids": [], "reason": reason}), "invalid_request"),
        (json!({"ids": ["x"], "reason": reason}), "invalid_request"),
        (json!({"filter": {"status": "running"}, "reason": reason}), "invalid_request"),
        (json!({"filter": {"status": "expired"}, "reason": reason}), "invalid_request"),
        (json!({"filter": {"state": "failed"}, "reason": reason}), "invalid_request"),
        (json!({"filter": {"workflow": "a\0"}, "reason": reason}), "invalid_string"),
        (json!({"filter": {}, "reason": "a\0"}), "invalid_string"),
        (json!({"filter": {}, "reason": " "}), "invalid_request"),
        (json!({"filter": {}, "reason": "x".repeat(1001)}), "invalid_request"),
        (json!({"filter": {"createdAfter": "x"}, "reason": reason}), "invalid_parameter"),
        (json!({"filter": {}, "reason": reason, "version": "newest"}), "invalid_request"),
        (json!({"filter": {}, "reason": reason, "ratePerSecond": -1}), "invalid_request"),
    ] {
        let answer = call(&app, Method::POST, "/v1/admin/jobs/retry", &admin, &[JSON], body.to_string()).await;
        answer.problem(400, code);
    }
    call(&app, Method::POST, "/v1/admin/jobs/retry", &admin, &[FHIR], "{}")
        .await
        .problem(415, "unsupported_media_type");
    assert_eq!(app.count("select count(*) from operations").await, 0);
}

#[tokio::test]
async fn a_body_is_an_object_and_one_that_may_be_left_out_may_be_null() {
    let app = TestApp::start().await;
    let admin = app.organization.admin.clone();
    let pause = format!("/v1/admin/organizations/{}/pause", app.organization.id);
    let json = ("content-type", "application/json");
    for (body, headers, status) in [
        ("", vec![], 200),
        ("", vec![json], 200),
        ("null", vec![json], 200),
        (" {} ", vec![json], 200),
        (r#"{"reason": "x"}"#, vec![json], 200),
        // serde would take the items for the members.
        ("[]", vec![json], 400),
        (r#"["x"]"#, vec![json], 400),
        ("true", vec![json], 400),
        ("{}", vec![], 415),
    ] {
        let answer = call(&app, Method::POST, &pause, &admin, &headers, body).await;
        assert_eq!(answer.status, status, "{body}: {}", String::from_utf8_lossy(&answer.body));
    }
    for body in [
        json!({"filter": [], "reason": "x", "dryRun": true}),
        json!({"filter": ["failed"], "reason": "x", "dryRun": true}),
        json!({"filter": {}, "reason": " ", "dryRun": true}),
        json!({"filter": {}, "reason": "x".repeat(1001), "dryRun": true}),
        json!({"filter": {}, "reason": "x", "dryRun": true, "ratePerSecond": 0}),
        json!({"filter": {}, "reason": "x", "dryRun": true, "canary": 100_001}),
    ] {
        let text = body.to_string();
        let answer = call(&app, Method::POST, "/v1/admin/jobs/retry", &admin, &[json], text).await;
        answer.problem(400, "invalid_request");
    }
}
