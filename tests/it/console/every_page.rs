//! Every page, in every look: no error, no refusal, no request to elsewhere, no fault of accessibility, whatever is stored.

use super::browser::nothing_amiss;
use super::figures::count_all;
use super::scripted_app;
use crate::engine::scripted::Act;
use crate::support::app::TestApp;
use crate::support::browser::Browser;
use crate::support::submit::submit;
use chartgate::console::ROUTES;
use serde_json::{Value, json};
use std::path::PathBuf;

/// axe-core, as `.ci/run` fetches it; `CHARTGATE_TEST_AXE` names another place, and promises that it is there.
fn axe() -> Option<String> {
    let promised = std::env::var_os("CHARTGATE_TEST_AXE");
    let usual = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("tools/axe-core-4.14.1.js");
    let found = std::fs::read_to_string(promised.as_ref().map_or(usual, PathBuf::from)).ok();
    if found.is_none() {
        assert!(promised.is_none(), "axe-core was promised and is not there");
        eprintln!("SKIPPED: accessibility, because there is no axe-core (.ci/run fetches it)");
    }
    found
}

/// Paths of all pages: ids are those of things that exist, where there are some.
async fn pages(app: &TestApp) -> Vec<String> {
    async fn first(app: &TestApp, select: &'static str) -> Option<uuid::Uuid> {
        sqlx::query_scalar(select).fetch_optional(&mut app.owner().await).await.unwrap()
    }
    let job = first(app, "select id from jobs where status = 'failed' limit 1").await.map(chartgate::ids::JobId);
    let operation = first(app, "select id from operations limit 1").await.map(chartgate::ids::OperationId);
    let review = first(app, "select id from reviews limit 1").await.map(chartgate::ids::ReviewId);
    let mut pages = vec!["/admin/jobs?status=failed".to_owned(), "/admin/overview?range=14d".to_owned()];
    for (_, route) in ROUTES.iter().filter(|(method, _)| *method == "GET") {
        let is_none = ["/admin", "/admin/live", "/admin/assets/{file}", "/admin/jobs/export"].contains(route);
        // There is no callback here; console::organizations looks at one.
        if is_none || route.contains("{callback}") {
            continue;
        }
        let id = match route {
            route if route.starts_with("/admin/jobs/") => job.map(|id| id.to_string()),
            route if route.starts_with("/admin/operations/") => operation.map(|id| id.to_string()),
            route if route.starts_with("/admin/reviews/") => review.map(|id| id.to_string()),
            route if route.starts_with("/admin/workflows/") => Some("scripted".to_owned()),
            _ => Some(app.organization.id.to_string()),
        };
        if *route == "/admin/operations/new" {
            pages.push("/admin/operations/new?kind=retry&status=failed".to_owned());
        } else if !route.contains('{') {
            pages.push((*route).to_owned());
        } else if let Some(id) = id {
            let parts = route.split('/').map(|part| if part.starts_with('{') { id.as_str() } else { part });
            pages.push(parts.collect::<Vec<_>>().join("/"));
        }
    }
    pages
}

/// An organization in which something of everything has happened.
async fn lived_in() -> TestApp {
    let (app, scripted) = scripted_app().await;
    let workers = app.workers();
    let people =
        [("a", "1987-02-20"), ("b", "1999-01-01")].map(|(id, born)| crate::clinical::patient(id, "MRN-R1", born));
    app.submit(crate::clinical::bundle("batch", &people).to_string()).await;
    app.run_until_idle().await;
    scripted.script("middle", &[Act::Ours, Act::Sender, Act::Sender]);
    for _ in 0..6 {
        submit(&app, app.organization.id, "scripted", None).await;
    }
    app.run_until_idle().await;
    let body = json!({ "filter": { "status": "failed" }, "reason": "test", "canary": 1, "dryRun": false });
    let (status, answer) = app.post(&app.organization.admin, "/v1/admin/jobs/retry", &body).await;
    assert!(status < 300, "{answer}");
    app.run_until_idle().await;
    scripted.script("first", &[Act::Ours]);
    submit(&app, app.organization.id, "scripted", None).await;
    app.run_until_idle().await;
    workers.stop().await;
    submit(&app, app.organization.id, "scripted", Some("lane")).await;
    count_all(&app).await;
    app
}

const FAULTS: &str = "
return axe.run(document, { resultTypes: ['violations'] }).then(found => found.violations
  .filter(fault => fault.impact === 'serious' || fault.impact === 'critical')
  .map(fault => fault.id + ': ' + fault.nodes.slice(0, 3).map(node => node.html.slice(0, 160) + ' — ' + (node.any[0] || node.all[0] || node.none[0] || {}).message).join(' | ')))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_clean_and_accessible_dark_and_light_wide_and_narrow() {
    let Some(browser) = Browser::start().await else { return };
    let axe = axe();
    let app = lived_in().await;
    browser.log_in(&app.url, &app.organization.admin).await;
    let mut pages = pages(&app).await;
    pages.push("/admin/jobs/job_00000000000000000000000000".to_owned());
    let mut faults = Vec::new();
    for (width, dark) in [(1280, false), (1280, true), (360, false), (360, true)] {
        browser.look_as(width, dark).await;
        for page in &pages {
            browser.goto(&format!("{}{page}", app.url)).await;
            let look = format!("{page} at {width} px, {}", if dark { "dark" } else { "light" });
            let wide = browser.run("return document.documentElement.scrollWidth - innerWidth", json!([])).await;
            if wide.as_i64().unwrap() > 0 {
                faults.push(format!("{look}: {wide} px wider than the window"));
            }
            browser.run("document.querySelectorAll('main details').forEach(d => { d.open = true; })", json!([])).await;
            if let Some(axe) = &axe {
                browser.run(axe, json!([])).await;
                let found = browser.run(FAULTS, json!([])).await;
                faults.extend(found.as_array().unwrap().iter().map(|fault| format!("{look}: {fault}")));
            }
            if page.contains("job_0000") {
                // A page that is not there is an error of the network's, too; the next page begins anew.
                browser.complaints().await;
            } else {
                nothing_amiss(&app, &browser, &look).await;
            }
            let name: String = page.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
            browser.screenshot(&format!("{name}-{width}-{}", if dark { "dark" } else { "light" })).await;
        }
    }
    println!("{} pages in four looks, axe-core {}", pages.len(), if axe.is_some() { "asked" } else { "absent" });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What people and machines have given as names.
fn hostile() -> Vec<String> {
    vec![
        "<script>alert(1)</script>".to_owned(),
        "\"><img src=x onerror=alert(1)>".to_owned(),
        "' onmouseover='alert(1)".to_owned(),
        "javascript:alert(1)//".to_owned(),
        "</title></textarea><svg onload=alert(1)>".to_owned(),
        "{{7*7}} ${7*7} <%= 7*7 %>".to_owned(),
        "\u{202e}drowssap\u{202c} \u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{2066}".to_owned(),
        "&lt;b&gt; &amp;lt; &#x3c;script&#x3e;".to_owned(),
        "=HYPERLINK(\"http://evil.example\")".to_owned(),
        "W".repeat(4096),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_names_reasons_and_file_names_are_text_wherever_they_stand() {
    let Some(browser) = Browser::start().await else { return };
    let app = lived_in().await;
    let mut owner = app.owner().await;
    for (number, text) in hostile().iter().enumerate() {
        // Straight into the tables: whatever the API would have refused, a page must stand it.
        let name = format!("{text} {number}");
        let organization = app.organization.id;
        sqlx::query("insert into organizations (id, name) values (gen_random_uuid(), $1)")
            .bind(name.chars().take(200).collect::<String>())
            .execute(&mut owner)
            .await
            .unwrap();
        sqlx::query("insert into api_keys (id, organization_id, role, name, source, secret_sha256) select substr(md5($2), 1, 16), $1, 'sender', left($2, 200), 'default', sha256($2::bytea)")
            .bind(organization)
            .bind(&name)
            .execute(&mut owner)
            .await
            .unwrap();
        sqlx::query("insert into operations (organization_id, id, kind, status, request, reason, actor, created_at) values ($1, gen_random_uuid(), 'retry', 'succeeded', '{}', $2, $2, now())")
            .bind(organization)
            .bind(text)
            .execute(&mut owner)
            .await
            .unwrap();
        sqlx::query("insert into audit_records (organization_id, at, event, action, actor, purpose, resource) values ($1, now(), 'job.cancelled', 'U', $2, $2, $2)")
            .bind(organization)
            .bind(text)
            .execute(&mut owner)
            .await
            .unwrap();
        sqlx::query("update jobs set error_message = $2 where id = (select id from jobs where organization_id = $1 and status = 'failed' order by id limit 1)")
            .bind(organization)
            .bind(text)
            .execute(&mut owner)
            .await
            .unwrap();
    }
    sqlx::query("update organizations set name = $2 where id = $1")
        .bind(app.organization.id)
        .bind(&hostile()[0])
        .execute(&mut owner)
        .await
        .unwrap();
    let mut seen = 0;
    for key in [&app.organization.admin, &app.platform] {
        browser.log_in(&app.url, key).await;
        let mut pages = pages(&app).await;
        for text in hostile().iter().take(9) {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("code", text)
                .append_pair("workflow", text)
                .finish();
            pages.extend([format!("/admin/jobs?{query}"), format!("/admin/failures?{query}")]);
        }
        for page in pages {
            browser.goto(&format!("{}{page}", app.url)).await;
            let state: Value = browser
                .run("return [document.querySelectorAll('img, iframe, object, embed, script:not([src^=\"/admin/assets/\"]), [onload], [onerror], [onmouseover], a[href^=\"javascript:\"]').length, document.documentElement.outerHTML.includes('alert(1)')]", json!([]))
                .await;
            assert_eq!(state[0], json!(0), "{page}: markup was made of a name");
            seen += i32::from(state[1] == json!(true));
            assert!(!browser.has_dialog().await, "{page} opened a dialog");
            // The platform is refused where things belong to one organization: that is no error of the page.
            if key == &app.organization.admin && !page.contains('?') {
                nothing_amiss(&app, &browser, &page).await;
            } else {
                let refusals: Vec<String> = browser
                    .complaints()
                    .await
                    .into_iter()
                    .filter(|said| said.contains("Content Security Policy"))
                    .collect();
                assert!(refusals.is_empty(), "{page}: {refusals:?}");
            }
        }
        browser.click(".who form button").await;
        browser.wait_for_path("/admin/login").await;
    }
    assert!(seen > 5, "the names stand on the pages: {seen}");
}
