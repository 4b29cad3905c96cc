//! The audit log over HTTP: who sees what, filters and pages, verifying, exporting; and what health says of the sealer.

use crate::http::get;
use crate::support::app::TestApp;
use chartgate::audit::archive::verify_export;
use chartgate::audit::sealer::Sealer;
use serde_json::Value;

async fn list(app: &TestApp, key: &str, query: &str) -> Value {
    let answer = get(app, key, &format!("/v1/admin/audit{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

fn events(page: &Value) -> Vec<&str> {
    page["records"].as_array().unwrap().iter().map(|record| record["event"].as_str().unwrap()).collect()
}

async fn seal(app: &TestApp) -> Sealer {
    let mut sealer = Sealer::new(app.app.db.clone(), app.app.objects.clone(), app.app.sealer_options());
    let records = app.count("select count(*) from audit_records").await;
    let leaves = "select coalesce(sum(cardinality(record_ids)), 0)::bigint from audit_leaves";
    while app.count(leaves).await < records {
        sealer.seal_batch().await.unwrap();
    }
    sealer.checkpoint().await.unwrap();
    sealer.publish().await.unwrap();
    sealer
}

#[tokio::test]
async fn an_administrator_sees_the_own_organization_and_the_platform_sees_all() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    for (key, times) in [(&app.organization.reader, 5), (&other.reader, 3)] {
        for number in 0..times {
            get(&app, key, &format!("/ingest/clinical/none-{number}")).await;
        }
    }
    get(&app, &app.organization.sender, "/v1/admin/audit").await.problem(403, "forbidden");
    let own = list(&app, &app.organization.admin, "?event=clinical.read").await;
    assert_eq!(events(&own), ["clinical.read"; 5]);
    let id = app.organization.id.to_string();
    assert!(own["records"].as_array().unwrap().iter().all(|record| record["organizationId"] == id.as_str()), "{own:#}");
    let all = list(&app, &app.platform, "?event=clinical.read").await;
    assert_eq!(events(&all).len(), 8);
    let theirs = list(&app, &app.platform, &format!("?event=clinical.read&organization={}", other.id)).await;
    assert_eq!(events(&theirs).len(), 3);
    let foreign = list(&app, &app.organization.admin, &format!("?organization={}", other.id)).await;
    assert_eq!(events(&foreign).len(), 0, "{foreign:#}");
    // Each look left a record, of who looked.
    let looks = list(&app, &app.organization.admin, "?event=audit.read").await;
    assert_eq!(events(&looks).len(), 3, "{looks:#}");
    // Page by page, newest first, each record once.
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = list(&app, &app.organization.admin, &format!("?event=clinical.read&limit=2{cursor}")).await;
        seen.extend(page["records"].as_array().unwrap().iter().map(|record| record["id"].as_i64().unwrap()));
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by(|a, b| a > b), "{seen:?}");
    for (query, count) in [
        ("?outcome=denied", 1),
        ("?outcome=denied&event=clinical.read", 0),
        ("?actor=key:nobody", 0),
        ("?after=2999-01-01T00:00:00Z", 0),
        ("?before=2999-01-01T00:00:00Z&event=access.denied", 1),
        ("?resource=/v1/admin/audit", 1),
        // The look itself: it is a record that names the job.
        ("?job=job_01h455vb4pex5vsknk084sn02q", 1),
    ] {
        let page = list(&app, &app.organization.admin, query).await;
        assert_eq!(events(&page).len(), count, "{query}: {page:#}");
    }
    for query in [
        "?outcome=maybe",
        "?job=x",
        "?cursor=x",
        "?limit=0",
        "?limit=1001",
        "?after=yesterday",
        "?organization=x",
        "?who=me",
    ] {
        get(&app, &app.organization.admin, &format!("/v1/admin/audit{query}")).await.problem(400, "invalid_parameter");
    }
}

#[tokio::test]
async fn the_platform_verifies_and_exports_and_organizations_export_their_own() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    for key in [&app.organization.reader, &other.reader] {
        get(&app, key, "/ingest/clinical/none").await;
    }
    let status = get(&app, &app.platform, "/health/ready").await.json();
    let audit = status["dependencies"].as_array().unwrap().iter().find(|one| one["name"] == "audit_log").unwrap();
    assert_eq!(audit["ok"], false, "nothing seals here: {status:#}");
    seal(&app).await;
    get(&app, &app.organization.admin, "/v1/admin/audit/verify").await.problem(403, "forbidden");
    let report = get(&app, &app.platform, "/v1/admin/audit/verify").await.json();
    assert_eq!((&report["ok"], &report["trusted"]), (&Value::Bool(true), &Value::Bool(true)), "{report:#}");
    assert_eq!(report["checkpoints"], 1);
    assert!(report["records"].as_u64().unwrap() >= 2);
    let behind = get(&app, &app.platform, "/v1/admin/audit/verify?behind=1").await.json();
    assert_eq!((&behind["ok"], behind["records"].as_u64()), (&Value::Bool(true), Some(0)), "{behind:#}");
    get(&app, &app.platform, "/v1/admin/audit/verify?behind=2").await.problem(400, "invalid_parameter");

    let export = get(&app, &app.platform, "/v1/admin/audit/export").await;
    assert_eq!(export.status, 200);
    let anchors = app.app.audit_anchors().await.unwrap();
    let offline = verify_export(&export.body[..], &anchors).await.unwrap();
    assert!(offline.ok && offline.trusted, "{offline:#?}");
    let last: Value =
        serde_json::from_slice(export.body.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!(last["verdict"]["ok"], true, "{last:#}");

    let own = get(&app, &app.organization.admin, "/v1/admin/audit/export").await;
    let lines: Vec<Value> = own
        .body
        .trim_ascii_end()
        .split(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let id = app.organization.id.to_string();
    assert!(lines.len() >= 2 && lines.iter().all(|record| record["organizationId"] == id.as_str()), "{lines:#?}");
    for event in ["audit.exported", "audit.verified"] {
        let found = list(&app, &app.platform, &format!("?event={event}")).await;
        assert!(!events(&found).is_empty(), "{event}");
    }

    sqlx::raw_sql("set session_replication_role = replica; update audit_records set actor = 'key:nobody' where event = 'clinical.read'")
        .execute(&mut app.owner().await)
        .await
        .unwrap();
    let report = get(&app, &app.platform, "/v1/admin/audit/verify").await.json();
    assert_eq!(report["ok"], false);
    assert!(report["firstBadRecord"].as_i64().is_some(), "{report:#}");
}
