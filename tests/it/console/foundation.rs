//! Who gets in, what they see of others, and that docs/console.md lists every page and act.

use super::{Visitor, send};
use crate::support::app::{Setup, TestApp};
use chartgate::config::LimitsConfig;
use chartgate::console::ROUTES;
use chartgate::ids::{CallbackId, JobId, OperationId, OrganizationId, ReviewId};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// Reached without being logged in.
const OPEN: &[&str] = &["/admin", "/admin/login", "/admin/assets/{file}"];

fn with_ids(path: &str) -> String {
    let id = if path.starts_with("/admin/jobs/") {
        JobId::new().to_string()
    } else if path.starts_with("/admin/organizations/") {
        OrganizationId::new().to_string()
    } else if path.starts_with("/admin/operations/") {
        OperationId::new().to_string()
    } else if path.starts_with("/admin/reviews/") {
        ReviewId::new().to_string()
    } else if path.contains("/callbacks/") {
        CallbackId::new().to_string()
    } else {
        "unknown".to_owned()
    };
    let parts = path.split('/').map(|part| if part.starts_with('{') { id.as_str() } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn every_route_of_the_console_is_described() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/console.md")).unwrap();
    let table = page.split("\n## All routes\n").nth(1).expect("docs/console.md has a section of all routes");
    let table = table.split("\n## ").next().unwrap();
    let listed: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(cell, _)| cell.to_owned()))
        .collect();
    let routes: BTreeSet<String> = ROUTES.iter().map(|(method, path)| format!("{method} {path}")).collect();
    let missing: Vec<_> = routes.difference(&listed).collect();
    let surplus: Vec<_> = listed.difference(&routes).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "docs/console.md lacks {missing:?}, and lists {surplus:?}");
    assert_eq!(routes.len(), ROUTES.len(), "a route twice");
}

#[tokio::test]
async fn nothing_is_shown_or_done_without_a_session() {
    let app = TestApp::start().await;
    for (method, path) in ROUTES.iter().filter(|(_, path)| !OPEN.contains(path)) {
        let path = with_ids(path);
        for cookie in
            [None, Some("chartgate_console="), Some("chartgate_console=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")]
        {
            let fields: Option<&[(&str, &str)]> = (*method == "POST").then_some(&[("reason", "test")]);
            let (status, headers, body) = send(&app, method, &path, cookie, fields).await;
            let to = headers.get("location").map(|to| to.to_str().unwrap().to_owned()).unwrap_or_default();
            assert!(status == 303 && to.starts_with("/admin/login"), "{method} {path}: {status} {to} {body}");
        }
    }
    // Nobody has become somebody by asking.
    assert_eq!(app.count("select count(*) from console_sessions").await, 0);
}

#[tokio::test]
async fn only_keys_of_administrators_log_in_and_every_answer_is_guarded() {
    let app = TestApp::start().await;
    for (key, status) in [
        (app.organization.sender.as_str(), 403),
        (app.organization.reader.as_str(), 403),
        ("cgk_0123456789abcdef_nonsense", 401),
        ("", 401),
    ] {
        let (answered, headers, body) = send(&app, "POST", "/admin/login", None, Some(&[("key", key)])).await;
        assert_eq!(answered, status, "{body}");
        assert!(headers.get("set-cookie").is_none());
        assert!(key.is_empty() || !body.contains(key), "a key stands on the page");
    }
    let (status, headers, _) =
        send(&app, "POST", "/admin/login", None, Some(&[("key", &app.organization.admin)])).await;
    assert_eq!(status, 303);
    let cookie = headers["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let (status, headers, body) = send(&app, "GET", "/admin/overview", Some(cookie), None).await;
    assert_eq!(status, 200);
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(headers["cache-control"], "no-store");
    assert!(
        !body.contains("style=") && !body.contains("<script>") && !body.contains("onclick"),
        "inline script or style"
    );
    // A page of somebody else's cannot act for who is logged in.
    let foreign = app.client.post(format!("{}/admin/logout", app.url)).header("cookie", cookie);
    let foreign = foreign.header("origin", "https://evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), 403);
    assert_eq!(app.count("select count(*) from console_sessions").await, 1);
    let audited =
        app.count("select count(*) from audit_records where event = 'console.login' and actor like 'key:%'").await;
    assert_eq!(audited, 1);
}

#[tokio::test]
async fn an_address_that_fails_to_log_in_too_often_is_held_off_and_a_good_key_there_is_not() {
    let limits = Box::new(|limits: &mut LimitsConfig| limits.failed_authentications_per_minute = 3);
    let app = TestApp::with(Setup { limits, ..Setup::default() }).await;
    let wrong = "cgk_0123456789abcdef_nonsense";
    for status in [401, 401, 401, 429, 429] {
        let (answered, headers, body) = send(&app, "POST", "/admin/login", None, Some(&[("key", wrong)])).await;
        assert_eq!(answered, status, "{body}");
        let after = headers.get("retry-after").map(|after| after.to_str().unwrap().parse::<u64>().unwrap());
        assert_eq!(after.is_some_and(|seconds| (1..=20).contains(&seconds)), status == 429);
    }
    // Those that were let through to a look-up are recorded, the others counted: no flood fills the log.
    app.app.denials.flush().await;
    let recorded = "select coalesce(sum(coalesce((detail->>'repetitions')::bigint, 1)), 0)::bigint from audit_records
        where event = 'access.denied' and resource = '/admin/login'";
    assert_eq!(app.count(recorded).await, 3);
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    assert_eq!(visitor.get("/admin/overview").await.0, 200);
}

#[tokio::test]
async fn what_is_refused_to_somebody_is_recorded_under_their_name_and_so_are_foreign_forms() {
    let app = TestApp::start().await;
    let admin = Visitor::of(&app, &app.organization.admin).await;
    let platform = Visitor::of(&app, &app.platform).await;
    let review = format!("/admin/reviews/{}", ReviewId::new());
    let callbacks = format!("/admin/organizations/{}/callbacks/{}", app.organization.id, CallbackId::new());
    let reason = [("reason", "test"), ("name", "test")];
    assert_eq!(platform.get(&review).await.0, 403);
    assert_eq!(platform.post(&format!("{review}/decide"), &reason).await.0, 403);
    assert_eq!(platform.get(&callbacks).await.0, 403);
    assert_eq!(admin.post("/admin/audit/verify", &reason).await.0, 403);
    assert_eq!(admin.post("/admin/organizations", &reason).await.0, 403);
    let id = |key: &str| key.split('_').nth(1).unwrap().to_owned();
    let denied = |key: &str, route: &str| {
        let select = format!(
            "select count(*) from audit_records where event = 'access.denied' and outcome = 'denied'
             and actor = 'key:{}' and resource = '{route}' and address = '127.0.0.1' and request_id is not null",
            id(key)
        );
        let app = &app;
        async move {
            sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(select)).fetch_one(&mut app.owner().await).await.unwrap()
        }
    };
    for (key, route) in [
        (&app.platform, "/admin/reviews/{id}"),
        (&app.platform, "/admin/reviews/{id}/decide"),
        (&app.platform, "/admin/organizations/{id}/callbacks/{callback}"),
        (&app.organization.admin, "/admin/audit/verify"),
        (&app.organization.admin, "/admin/organizations"),
    ] {
        assert_eq!(denied(key, route).await, 1, "{route}");
    }
    // A form that another site's page sends with somebody's cookie, and one that comes without.
    let foreign = |path: &str, cookie: Option<&str>| {
        let request = app.client.post(format!("{}{path}", app.url)).header("origin", "https://evil.example");
        let request = cookie.into_iter().fold(request, |request, cookie| request.header("cookie", cookie));
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(foreign("/admin/logout", Some(&admin.cookie)).await, 403);
    assert_eq!(foreign("/admin/login", None).await, 403);
    assert_eq!(denied(&app.organization.admin, "/admin/logout").await, 1);
    let foreign =
        "select count(*) from audit_records where event = 'access.denied' and detail->>'reason' = 'foreign_origin'";
    assert_eq!(app.count(foreign).await, 2);
    assert_eq!(admin.get("/admin/overview").await.0, 200, "nobody was logged out");
}

#[tokio::test]
async fn a_browser_has_one_session_and_loses_the_cookie_of_one_that_has_ended() {
    let app = TestApp::start().await;
    let first = Visitor::of(&app, &app.organization.admin).await;
    let log_in = [("key", app.organization.admin.as_str())];
    let (status, _, body) = send(&app, "POST", "/admin/login", Some(&first.cookie), Some(&log_in)).await;
    assert_eq!(status, 303, "{body}");
    assert_eq!(app.count("select count(*) from console_sessions").await, 1);
    let (status, to) = first.get("/admin/overview").await;
    assert!(status == 303 && to.starts_with("/admin/login"), "the earlier session has ended: {status} {to}");
    let (status, headers, _) = send(&app, "POST", "/admin/logout", Some(&first.cookie), Some(&[])).await;
    let cookie = headers["set-cookie"].to_str().unwrap();
    assert!(status == 303 && cookie.contains("Max-Age=0"), "{status} {cookie}");
}

#[tokio::test]
async fn a_session_ends_with_its_key_its_idleness_or_by_logging_out() {
    let app = TestApp::start().await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    assert_eq!(visitor.get("/admin/overview").await.0, 200);
    app.advance(Duration::from_mins(14)).await;
    assert_eq!(visitor.get("/admin/overview").await.0, 200, "fourteen minutes are not too long");
    app.advance(Duration::from_mins(14)).await;
    assert_eq!(visitor.get("/admin/overview").await.0, 200, "the visit before counted");
    app.advance(Duration::from_mins(16)).await;
    let (status, to) = visitor.get("/admin/overview?range=24h").await;
    assert_eq!((status, to.as_str()), (303, "/admin/login?next=%2Fadmin%2Foverview%3Frange%3D24h"));

    let visitor = Visitor::of(&app, &app.organization.admin).await;
    assert_eq!(visitor.post("/admin/logout", &[]).await, (303, "/admin/login".to_owned()));
    assert_eq!(visitor.get("/admin/overview").await.0, 303);
    assert_eq!(app.count("select count(*) from audit_records where event = 'console.logout'").await, 1);

    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let id = app.organization.admin.split('_').nth(1).unwrap();
    let revoked = app.client.delete(format!("{}/v1/admin/keys/{id}", app.url)).bearer_auth(&app.platform);
    let revoked = revoked.json(&json!({ "reason": "test" })).send().await.unwrap();
    assert!(revoked.status().is_success(), "{}", revoked.status());
    assert_eq!(visitor.get("/admin/overview").await.0, 303, "its key is revoked");
}

#[tokio::test]
async fn what_belongs_to_another_organization_is_as_unknown_as_what_does_not_exist() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let (_, answer) = app.submit_as(&other.sender, None, "{\"resourceType\":\"Bundle\",\"type\":\"collection\",\"entry\":[{\"resource\":{\"resourceType\":\"Patient\"}}]}").await;
    let job = answer["jobId"].as_str().unwrap().to_owned();
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let theirs = [("/admin/jobs/", job), ("/admin/organizations/", other.id.to_string())];
    let mut asked = 0;
    for (method, path) in ROUTES.iter().filter(|(_, path)| path.contains("{id}")) {
        let Some((_, id)) = theirs.iter().find(|(start, _)| path.starts_with(start)) else { continue };
        let theirs = path.replace("{id}", id);
        let unknown = with_ids(path);
        let (one, two) = if *method == "GET" {
            (visitor.get(&theirs).await, visitor.get(&unknown).await)
        } else {
            let fields =
                [("reason", "test"), ("name", "test"), ("role", "sender"), ("from", "start"), ("version", "pinned")];
            (visitor.post(&theirs, &fields).await, visitor.post(&unknown, &fields).await)
        };
        assert_ne!(one.0, 200, "{method} {path} showed another organization's");
        assert_eq!(one, two, "{method} {path} tells that it exists");
        asked += 1;
    }
    assert!(asked >= 12, "{asked} routes were asked for another organization's");
}

#[tokio::test]
async fn the_role_platform_sees_all_organizations_or_the_one_that_it_names() {
    let app = TestApp::start().await;
    let visitor = Visitor::of(&app, &app.platform).await;
    let (status, all) = visitor.get("/admin/overview").await;
    assert_eq!(status, 200);
    assert!(!all.contains("Callbacks failing"), "callbacks belong to an organization");
    let (status, one) = visitor.get(&format!("/admin/overview?organization={}", app.organization.id)).await;
    assert_eq!(status, 200);
    assert!(one.contains("Callbacks failing"));
    assert!(!one.contains("links to decide"), "the platform decides no links");
    assert!(one.contains(&format!("organization={}", app.organization.id)), "links keep it");
    let own = Visitor::of(&app, &app.organization.admin).await.get("/admin/overview").await.1;
    assert!(own.contains("links to decide"));
    assert_eq!(visitor.get("/admin/overview?organization=org_nonsense").await.0, 404);
}
