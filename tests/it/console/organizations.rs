//! Organizations, their settings, keys and callbacks, lanes and workflows, over plain HTTP.

use super::{Visitor, scripted_app, send};
use crate::engine::scripted::workflow;
use crate::support::app::{Setup, TestApp};
use crate::support::submit::submit;
use chartgate::ids::OrganizationId;
use serde_json::json;

fn page(organization: OrganizationId, rest: &str) -> String {
    format!("/admin/organizations/{organization}{rest}")
}

#[tokio::test]
async fn an_organization_is_paused_and_resumed_with_a_reason_that_is_kept() {
    let app = TestApp::start().await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let here = page(app.organization.id, "");
    let (status, body) = visitor.post(&format!("{here}/pause"), &[]).await;
    assert!(status == 400 && body.contains("reason"), "{status}: {body}");
    assert_eq!(
        visitor.post(&format!("{here}/pause"), &[("reason", "their <system> & ours")]).await,
        (303, format!("{here}?note=paused"))
    );
    assert_eq!(app.count("select count(*) from organizations where status = 'paused'").await, 1);
    let (_, body) = visitor.get(&format!("{here}?note=paused")).await;
    assert!(body.contains("The organization is paused") && body.contains("Resume the organization"), "{body}");
    assert_eq!(visitor.post(&format!("{here}/resume"), &[("reason", "mended")]).await.0, 303);
    let kept = "select count(*) from audit_records where event in ('organization.paused', 'organization.resumed')
                and purpose in ('their <system> & ours', 'mended') and actor like 'key:%' and request_id is not null";
    assert_eq!(app.count(kept).await, 2);
}

#[tokio::test]
async fn an_administrator_sees_and_changes_the_own_organization_only() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let (status, body) = visitor.get("/admin/organizations").await;
    assert!(status == 200 && body.contains("Test Hospital") && !body.contains("Other Hospital"));
    let (unknown, missing) = visitor.get(&page(OrganizationId::new(), "")).await;
    for rest in ["", "/settings", "/keys", "/callbacks"] {
        let (status, body) = visitor.get(&page(other.id, rest)).await;
        assert_eq!((status, &body), (unknown, &missing), "{rest}");
    }
    assert_eq!(unknown, 404);
    for rest in ["/pause", "/settings", "/keys"] {
        assert_eq!(visitor.post(&page(other.id, rest), &[("reason", "x"), ("role", "admin")]).await.0, 404, "{rest}");
    }
    let (status, _) = visitor.post("/admin/organizations", &[("reason", "x"), ("name", "Mine")]).await;
    assert_eq!(status, 403);
    assert_eq!(app.count("select count(*) from organizations where name = 'Mine' or status = 'paused'").await, 0);
}

#[tokio::test]
async fn the_platform_creates_organizations_and_finds_them_page_by_page() {
    let app = TestApp::start().await;
    let visitor = Visitor::of(&app, &app.platform).await;
    let hostile = "<script>alert(1)</script> & \"Söhne\"";
    let (status, to) = visitor.post("/admin/organizations", &[("reason", "a new customer"), ("name", hostile)]).await;
    assert!(status == 303 && to.ends_with("?note=created"), "{status} {to}");
    let (_, body) = visitor.get(&to).await;
    assert!(!body.contains("<script>alert") && body.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{body}");
    let (status, body) = visitor.post("/admin/organizations", &[("reason", "again"), ("name", hostile)]).await;
    assert!(status == 409 && body.contains("of that name"), "{status}");
    for number in 0..60 {
        app.organization(&format!("Clinic {number:02}")).await;
    }
    let (_, first) = visitor.get("/admin/organizations?name=clinic").await;
    assert!(first.contains("Clinic 00") && first.contains("Clinic 49") && !first.contains("Clinic 50"));
    let next = first.split("rel=\"next\" href=\"").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    let (_, second) = visitor.get(&next).await;
    assert!(second.contains("Clinic 50") && second.contains("Clinic 59") && !second.contains("Clinic 49"), "{next}");
    assert!(!second.contains("rel=\"next\""));
}

#[tokio::test]
async fn settings_are_stored_whole_or_not_at_all_and_faults_stand_at_their_fields() {
    let app = TestApp::start().await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let here = page(app.organization.id, "/settings");
    let good = [
        ("mrnSystems", "urn:a\r\n urn:b \r\n\r\n"),
        ("runningMax", "7"),
        ("timeZone", "America/New_York"),
        ("corsOrigins", "https://EHR.example"),
        ("reason", "as agreed"),
    ];
    assert_eq!(visitor.post(&here, &good).await, (303, format!("{here}?note=saved")));
    let api = format!("/v1/admin/organizations/{}/settings", app.organization.id);
    let (_, stored) = app.get(&app.organization.admin, &api).await;
    assert_eq!(
        (&stored["mrnSystems"], &stored["runningMax"], &stored["timeZone"], &stored["corsOrigins"]),
        (&json!(["urn:a", "urn:b"]), &json!(7), &json!("America/New_York"), &json!(["https://ehr.example"]))
    );
    for (field, value, words) in [
        ("runningMax", "many", "must be a whole number"),
        ("runningMax", "0", "must be at least 1"),
        ("timeZone", "Mars/Olympus", "IANA name"),
        ("corsOrigins", "https://ehr.example/path", "without a path"),
    ] {
        let fields: Vec<(&str, &str)> =
            good.iter().map(|(name, old)| (*name, if *name == field { value } else { *old })).collect();
        let (status, body) = visitor.post(&here, &fields).await;
        assert_eq!(status, 400, "{field}");
        let place = body.split(&format!("id=\"setting-{field}\"")).nth(1).unwrap_or_else(|| panic!("{body}"));
        let place = place.split("id=\"setting-").next().unwrap();
        assert!(place.contains("aria-invalid=\"true\"") && place.contains(words), "{field}: {place}");
        // What was typed is still there.
        assert!(body.contains(value) && body.contains("as agreed"), "{field}");
    }
    let (_, same) = app.get(&app.organization.admin, &api).await;
    assert_eq!(same, stored);
    // The rate is the platform's.
    let rated: Vec<(&str, &str)> = good.iter().copied().chain([("requestsPerSecond", "5")]).collect();
    assert_eq!(visitor.post(&here, &rated).await.0, 303);
    assert!(app.get(&app.organization.admin, &api).await.1["rateLimit"].is_null());
    let platform = Visitor::of(&app, &app.platform).await;
    assert_eq!(platform.post(&here, &rated).await.0, 303);
    assert_eq!(app.get(&app.organization.admin, &api).await.1["rateLimit"]["requestsPerSecond"], 5);
    let audited =
        "select count(*) from audit_records where event = 'organization.settings_changed' and purpose = 'as agreed'";
    assert_eq!(app.count(audited).await, 3);
}

#[tokio::test]
async fn a_key_is_shown_once_on_the_page_that_made_it_and_works_until_it_is_revoked() {
    let app = TestApp::start().await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let here = page(app.organization.id, "/keys");
    let shown = |body: &str| {
        body.split("aria-label=\"The new key\">").nth(1).map(|rest| rest.split('<').next().unwrap().to_owned())
    };
    let (status, body) = visitor
        .post(&here, &[("role", "sender"), ("name", "ward <7>"), ("source", "ehr"), ("reason", "new ward")])
        .await;
    assert_eq!(status, 200, "{body}");
    let key = shown(&body).unwrap();
    assert!(key.starts_with("cgk_"), "{key}");
    assert_eq!(app.get(&key, "/v1/ingestion/jobs").await.0, 200);
    let (_, later) = visitor.get(&here).await;
    let id = key.split('_').nth(1).unwrap();
    assert!(later.contains(id) && !later.contains(&key) && later.contains("ward &lt;7&gt;"));
    let (status, body) =
        visitor.post(&format!("{here}/{id}/rotate"), &[("overlap", "1"), ("reason", "every year")]).await;
    let successor = shown(&body).unwrap_or_else(|| panic!("{status}: {body}"));
    assert!(successor != key && app.get(&successor, "/v1/ingestion/jobs").await.0 == 200);
    assert_eq!(
        visitor.post(&format!("{here}/{id}/revoke"), &[("reason", "lost")]).await,
        (303, format!("{here}?note=revoked"))
    );
    let other = app.organization("Other Hospital").await;
    let theirs = other.sender.split('_').nth(1).unwrap();
    assert_eq!(visitor.post(&format!("{here}/{theirs}/revoke"), &[("reason", "x")]).await.0, 404);
    assert_eq!(visitor.post(&here, &[("role", "platform"), ("reason", "x")]).await.0, 400);
    assert_eq!(visitor.post(&here, &[("role", "sender"), ("ends", "soon"), ("reason", "x")]).await.0, 400);
    // The last day is a day on which the key still works, and an old key is revoked behind ever so many new ones.
    let last = [("role", "sender"), ("ends", "2099-01-31"), ("reason", "for the project")];
    assert_eq!(visitor.post(&here, &last).await.0, 200);
    let ends = "select count(*) from api_keys where expires_at = '2099-02-01T00:00:00Z'";
    assert_eq!(app.count(ends).await, 1);
    let acts = "select count(*) from audit_records where event in ('key.created', 'key.rotated', 'key.revoked') and purpose is not null";
    assert_eq!(app.count(acts).await, 4);
    assert_eq!(app.count("select count(*) from api_keys where revoked_at is not null").await, 1);
    let many = "insert into api_keys (id, organization_id, role, name, source, secret_sha256, created_at)
        select substr(md5(n::text), 1, 16), $1, 'sender', 'one of many', 'default', sha256(n::text::bytea), now() + interval '1 minute'
        from generate_series(1, 600) n";
    sqlx::query(many).bind(app.organization.id).execute(&mut app.owner().await).await.unwrap();
    let old = app.organization.sender.split('_').nth(1).unwrap();
    assert_eq!(visitor.post(&format!("{here}/{old}/revoke"), &[("reason", "old")]).await.0, 303);
    // Neither a key nor its hash is in the audit log or in an address.
    let leaked = "select count(*) from audit_records r where r::text like '%cgk\\_%'";
    assert_eq!(app.count(leaked).await, 0);
}

#[tokio::test]
async fn callbacks_are_shown_with_their_health_and_told_again() {
    let app = crate::callbacks::app().await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let list = page(app.organization.id, "/callbacks");
    assert!(visitor.get(&list).await.1.contains("Nobody is told"));
    let (id, secret) = crate::callbacks::register_url(&app, "http://127.0.0.1:18443/hook").await;
    let (_, body) = visitor.get(&list).await;
    assert!(body.contains(&id) && body.contains("http://127.0.0.1:18443/hook") && !body.contains(&secret));
    let one = format!("{list}/{id}");
    let test = format!("/v1/admin/callbacks/{id}/test");
    assert_eq!(app.post(&app.organization.admin, &test, &json!({})).await.1["outcome"], "failed");
    let (status, body) = visitor.get(&format!("{one}?outcome=failed")).await;
    assert!(status == 200 && body.contains("callback.test"), "{body}");
    assert!(!visitor.get(&format!("{one}?outcome=delivered")).await.1.contains("callback.test"));
    let job = submit(&app, app.organization.id, "athena-event", Some("a")).await.job.to_string();
    let again = format!("{one}/resend");
    assert_eq!(visitor.post(&again, &[("job", &job), ("reason", "x")]).await.0, 409);
    let cancel = format!("/v1/ingestion/jobs/{job}/cancel");
    assert_eq!(app.post(&app.organization.sender, &cancel, &json!({})).await.0, 200);
    assert_eq!(
        visitor.post(&again, &[("job", &job), ("reason", "they lost it")]).await,
        (303, format!("{one}?note=resent"))
    );
    let told = "select count(*) from audit_records where event = 'callback.resent' and purpose = 'they lost it'";
    assert_eq!(app.count(told).await, 1);
    for bad in ["x", "job_00000000000000000000000000"] {
        assert_eq!(visitor.post(&again, &[("job", bad), ("reason", "x")]).await.0, 404);
    }
    // Not the platform's, as in the API; and not another organization's.
    let platform = Visitor::of(&app, &app.platform).await;
    assert!(!platform.get(&list).await.1.contains(&id));
    assert_eq!(platform.get(&one).await.0, 403);
    let other = app.organization("Other Hospital").await;
    let stranger = Visitor::of(&app, &other.admin).await;
    assert_eq!(stranger.get(&page(other.id, &format!("/callbacks/{id}"))).await.0, 404);
}

#[tokio::test]
async fn lanes_and_workflows_say_what_waits_and_by_which_version() {
    let setup = Setup {
        handlers: vec![("test.scripted", crate::engine::scripted::Scripted::new() as _)],
        workflows: vec![("in-order", workflow("in-order", "organization"))],
        ..Setup::default()
    };
    let app = TestApp::with(setup).await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    assert!(visitor.get("/admin/lanes").await.1.contains("No job waits behind another one."));
    let head = submit(&app, app.organization.id, "in-order", None).await.job.to_string();
    submit(&app, app.organization.id, "in-order", None).await;
    let (status, body) = visitor.get("/admin/lanes").await;
    assert!(status == 200 && body.contains(&head) && body.contains("waits for a free worker"), "{body}");
    let platform = Visitor::of(&app, &app.platform).await;
    assert!(platform.get("/admin/lanes").await.1.contains("Test Hospital"));
    let other = app.organization("Other Hospital").await;
    let theirs = platform.get(&format!("/admin/lanes?organization={}", other.id)).await.1;
    assert!(theirs.contains("No job waits"));
    assert_eq!(visitor.get("/admin/lanes?cursor=x").await.0, 400);

    let (_, body) = visitor.get("/admin/workflows").await;
    for name in ["in-order", "fhir-bundle", "athena-event", "bulk-upload"] {
        assert!(body.contains(&format!("/admin/workflows/{name}")), "{name}");
    }
    let (status, body) = visitor.get("/admin/workflows/in-order").await;
    assert!(status == 200 && body.contains("handler = &quot;test.scripted&quot;"), "{body}");
    let row = body.split("Registered versions").last().unwrap().split("</tr>").nth(1).unwrap();
    assert!(row.contains("<td class=\"number\">2</td>"), "two jobs in flight: {row}");
    for missing in
        ["/admin/workflows/none", "/admin/workflows/in-order?version=9", "/admin/workflows/in-order?version=x"]
    {
        assert_eq!(visitor.get(missing).await.0, 404, "{missing}");
    }
}

#[tokio::test]
async fn acts_need_a_page_of_ours() {
    let (app, _) = scripted_app().await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let here = page(app.organization.id, "/pause");
    let response = app.client.post(format!("{}{here}", app.url)).header("cookie", &visitor.cookie);
    let response = response.header("origin", "https://evil.example").body("reason=x").send().await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(app.count("select count(*) from organizations where status = 'paused'").await, 0);
    assert_eq!(send(&app, "POST", &here, None, Some(&[("reason", "x")])).await.0, 303);
    assert_eq!(app.count("select count(*) from organizations where status = 'paused'").await, 0);
}
