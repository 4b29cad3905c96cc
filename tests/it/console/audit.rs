//! The audit log in the console: filters and pages, looks that are recorded, the seal, a verification that finds a change.

use super::Visitor;
use crate::http::get;
use crate::support::app::TestApp;
use chartgate::audit::sealer::Sealer;
use sqlx::Connection as _;

async fn seal(app: &TestApp) {
    let mut sealer = Sealer::new(app.app.db.clone(), app.app.objects.clone(), app.app.sealer_options());
    let records = app.count("select count(*) from audit_records").await;
    let leaves = "select coalesce(sum(cardinality(record_ids)), 0)::bigint from audit_leaves";
    while app.count(leaves).await < records {
        sealer.seal_batch().await.unwrap();
    }
    sealer.checkpoint().await.unwrap();
    sealer.publish().await.unwrap();
}

#[tokio::test]
async fn records_are_found_by_filter_and_each_look_is_one_itself() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    for key in [&app.organization.reader, &other.reader] {
        get(&app, key, "/ingest/clinical/none").await;
    }
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let looks = "select count(*) from audit_records where event = 'audit.read'";
    let (status, body) = visitor.get("/admin/audit?event=clinical.read").await;
    assert_eq!(status, 200);
    let records = |body: &str| {
        body.split("Audit records</caption>").nth(1).unwrap_or_default().matches("<strong>clinical.read<").count()
    };
    assert_eq!(records(&body), 1, "{body}");
    assert_eq!(app.count(looks).await, 1);
    // Another organization's are none of this visitor's, also when asked for.
    let (_, theirs) = visitor.get(&format!("/admin/audit?event=clinical.read&organization={}", other.id)).await;
    assert!(!theirs.contains(&other.id.to_string()), "{theirs}");
    let platform = Visitor::of(&app, &app.platform).await;
    assert_eq!(records(&platform.get("/admin/audit?event=clinical.read").await.1), 2);
    let (_, one) = platform.get(&format!("/admin/audit?event=clinical.read&organization={}", other.id)).await;
    assert_eq!(records(&one), 1);
    assert!(visitor.get("/admin/audit?actor=key:nobody").await.1.contains("There is no such record."));
    assert_eq!(records(&visitor.get("/admin/audit?event=clinical.read&after=2999-01-01T00:00").await.1), 0);
    for bad in ["job=x", "patient=x", "after=yesterday", "cursor=x"] {
        assert_eq!(visitor.get(&format!("/admin/audit?{bad}")).await.0, 400, "{bad}");
    }
    // Who watches sees how the seal stands and looks nothing up.
    let before = app.count(looks).await;
    let watched = app.client.get(format!("{}/admin/live?page=/admin/audit", app.url)).header("cookie", &visitor.cookie);
    let mut watched = watched.send().await.unwrap();
    let first = watched.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("Last checkpoint"));
    assert_eq!(app.count(looks).await, before);
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended() {
    let app = TestApp::start().await;
    for number in 0..120 {
        get(&app, &app.organization.reader, &format!("/ingest/clinical/none-{number}")).await;
    }
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let (mut path, mut records) = ("/admin/audit?event=clinical.read".to_owned(), Vec::new());
    loop {
        let (status, body) = visitor.get(&path).await;
        assert_eq!(status, 200, "{path}");
        let table = body.split("Audit records</caption>").nth(1).unwrap_or_default();
        let rows = table.split("<tr><td class=\"number\">").skip(1);
        records.extend(rows.map(|row| row.split('<').next().unwrap().parse::<i64>().unwrap()));
        let Some(next) = body.split("rel=\"next\" href=\"").nth(1) else { break };
        path = next.split('"').next().unwrap().replace("&amp;", "&");
        assert!(path.contains("event=clinical.read") && path.contains("cursor="), "{path}");
    }
    assert_eq!(records.len(), 120);
    assert!(records.is_sorted_by(|a, b| a > b), "each once, newest first");
}

#[tokio::test]
async fn the_platform_verifies_the_log_from_here_and_a_change_is_named() {
    let app = TestApp::start().await;
    for number in 0..5 {
        get(&app, &app.organization.reader, &format!("/ingest/clinical/none-{number}")).await;
    }
    seal(&app).await;
    let platform = Visitor::of(&app, &app.platform).await;
    let verify = "/admin/audit/verify";
    assert_eq!(platform.post(verify, &[]).await.0, 400);
    let (status, body) = platform.post(verify, &[("reason", "the monthly look")]).await;
    assert!(status == 200 && body.contains("No fault was found."), "{status}: {body}");
    let kept = "select count(*) from audit_records where event = 'audit.verified' and purpose = 'the monthly look'";
    assert_eq!(app.count(kept).await, 1);
    assert!(platform.get("/admin/audit").await.1.contains("intact"));
    let admin = Visitor::of(&app, &app.organization.admin).await;
    assert_eq!(admin.post(verify, &[("reason", "x")]).await.0, 403);
    assert!(!admin.get("/admin/audit").await.1.contains("action=\"/admin/audit/verify\""));
    // Somebody with all rights on the database.
    let mut owner = app.owner().await;
    let mut change = owner.begin().await.unwrap();
    for statement in [
        "alter table audit_records disable trigger audit_records_append_only",
        "alter table audit_records no force row level security",
        "update audit_records set actor = 'key:somebody' where id = (select min(id) from audit_records where event = 'clinical.read')",
        "alter table audit_records enable trigger audit_records_append_only",
        "alter table audit_records force row level security",
    ] {
        sqlx::query(statement).execute(&mut *change).await.unwrap();
    }
    change.commit().await.unwrap();
    let (status, body) = platform.post(verify, &[("reason", "a suspicion")]).await;
    let record = app.count("select min(id) from audit_records where event = 'clinical.read'").await;
    assert!(status == 200 && body.contains("The log was changed"), "{status}: {body}");
    assert!(body.contains(&format!("<td>{record}</td>")), "names record {record}: {body}");
    assert!(platform.get("/admin/audit").await.1.contains("faults"));
}
