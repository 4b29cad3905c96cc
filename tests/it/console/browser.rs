//! An administrator's day in a real browser: from a red page to the mended group, without an error, a refusal by the content
//! security policy, or a request to elsewhere.

use super::figures::count_all;
use super::scripted_app;
use crate::clinical::{bundle, patient};
use crate::engine::scripted::Act;
use crate::support::app::{TestApp, job_of};
use crate::support::browser::Browser;
use crate::support::submit::submit;
use serde_json::json;
use std::time::Duration;

/// Nothing went wrong on the pages since the last look, and nothing was asked of anybody else.
pub async fn nothing_amiss(app: &TestApp, browser: &Browser, where_: &str) {
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{where_}: {complaints:#?}");
    let elsewhere =
        |url: &String| !url.starts_with(&app.url) && !url.starts_with("data:") && !url.starts_with("about:");
    // What the browser itself opens with is none of ours.
    let requests: Vec<String> =
        browser.requests().await.into_iter().filter(elsewhere).filter(|url| !url.starts_with("chrome")).collect();
    assert!(requests.is_empty(), "{where_} asked for {requests:?}");
    assert!(!browser.has_dialog().await, "{where_} opened a dialog");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_job_is_found_understood_retried_and_seen_to_succeed_without_loading_again() {
    let Some(browser) = Browser::start().await else { return };
    let (app, scripted) = scripted_app().await;
    scripted.script("middle", &[Act::Ours]);
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    app.wait_for(&job, "failed").await;

    browser.log_in(&app.url, &app.organization.admin).await;
    nothing_amiss(&app, &browser, "the overview").await;
    browser.goto(&format!("{}/admin/jobs?status=failed", app.url)).await;
    browser.click(&format!("a[href^='/admin/jobs/{job}']")).await;
    browser.wait_for_path(&format!("/admin/jobs/{job}")).await;
    browser.wait_for_text("#live", "test_bug").await;
    // Who must act. Not an element that is held on to: the live part is replaced meanwhile.
    browser.wait_for_text(".explain", "operator").await;
    nothing_amiss(&app, &browser, "the failed job").await;
    browser.screenshot("job-failed").await;

    scripted.script("middle", &[Act::Slow(Duration::from_secs(3))]);
    browser.click("details.act summary").await;
    browser.fill("details[open] input[name=reason]", "the bug is mended").await;
    browser.click("details[open] form button").await;
    browser.wait_for_text("main .note", "next round is open").await;
    browser.run("window.marked = true", json!([])).await;
    browser.wait_for_text("#live .explain .badge", "succeeded").await;
    assert_eq!(browser.run("return window.marked === true", json!([])).await, json!(true), "the page was loaded again");
    assert_eq!(app.job(&job).await["round"], json!(2));
    let reason = "select count(*) from audit_records where event = 'job.retried' and purpose = 'the bug is mended' and actor like 'key:%'";
    assert_eq!(app.count(reason).await, 1);
    nothing_amiss(&app, &browser, "the mended job").await;
    browser.screenshot("job-mended").await;

    browser.click(".who form button").await;
    browser.wait_for_path("/admin/login").await;
    browser.goto(&format!("{}/admin/jobs/{job}", app.url)).await;
    browser.wait_for_path("/admin/login?next=").await;
    nothing_amiss(&app, &browser, "the login page").await;
    workers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_a_thousand_is_retried_behind_a_canary_and_its_progress_is_seen() {
    let Some(browser) = Browser::start().await else { return };
    let (app, scripted) = scripted_app().await;
    scripted.script("middle", &vec![Act::Sender; 1_000]);
    for _ in 0..1_000 {
        submit(&app, app.organization.id, "scripted", None).await;
    }
    let workers = app.workers();
    app.run_until_idle().await;
    assert_eq!(app.count("select count(*) from jobs where status = 'failed'").await, 1_000);
    count_all(&app).await;

    browser.log_in(&app.url, &app.organization.admin).await;
    browser.wait_for_text("#live", "test_bad_data").await;
    browser.goto(&format!("{}/admin/failures", app.url)).await;
    browser.click("a[href*='/admin/operations/new']").await;
    browser.fill("input[name=canary]", "5").await;
    browser.fill("input[name=rate]", "500").await;
    browser.fill("main form.act input[name=reason]", "the sender's data are mended").await;
    browser.click("button[value=count]").await;
    browser.wait_for_text("main [role=status]", "000 jobs").await;
    assert_eq!(app.count("select count(*) from jobs where status = 'failed'").await, 1_000, "counting does nothing");
    browser.click("button[value=start]").await;
    browser.wait_for_path("/admin/operations/op_").await;
    browser.run("window.marked = true", json!([])).await;
    browser.wait_for_text("#live .badge", "succeeded").await;
    assert_eq!(browser.run("return window.marked === true", json!([])).await, json!(true), "the page was loaded again");
    app.run_until_idle().await;
    assert_eq!(app.count("select count(*) from jobs where status = 'succeeded' and round = 2").await, 1_000);
    nothing_amiss(&app, &browser, "the operation").await;
    browser.screenshot("operation").await;
    workers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_review_is_decided_with_its_candidates_side_by_side() {
    let Some(browser) = Browser::start().await else { return };
    let app = TestApp::start().await;
    let workers = app.workers();
    let people = [("a", "1987-02-20"), ("b", "1999-01-01")].map(|(id, born)| patient(id, "MRN-R1", born));
    let job = job_of(&app.submit(bundle("batch", &people).to_string()).await.1);
    app.wait_for(&job, "succeeded").await;
    browser.log_in(&app.url, &app.organization.admin).await;
    browser.goto(&format!("{}/admin/reviews", app.url)).await;
    browser.click("#live a[href*='/admin/reviews/rev_']").await;
    browser.wait_for_path("/admin/reviews/rev_").await;
    browser.wait_for_text("main", "1987-02-20").await;
    assert!(browser.text("main").await.contains("1999-01-01"), "both are shown");
    let read = app.count("select count(*) from audit_records where event = 'review.read' and actor like 'key:%'").await;
    assert!(read >= 1, "who looked is recorded");
    browser.screenshot("review").await;
    nothing_amiss(&app, &browser, "the review").await;
    browser.click("main form[action*='/decide'] input[type=radio]").await;
    browser.fill("main form[action*='/decide'] input[name=reason]", "asked the ward").await;
    browser.click("main form[action*='/decide'] button").await;
    browser.wait_for_text("main .note", "decision is recorded").await;
    assert_eq!(app.count("select count(*) from reviews where status = 'decided'").await, 1);
    nothing_amiss(&app, &browser, "after deciding").await;
    workers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifteen_idle_minutes_lead_to_the_login_page_and_back_to_where_one_was() {
    let Some(browser) = Browser::start().await else { return };
    let app = TestApp::start().await;
    browser.log_in(&app.url, &app.organization.admin).await;
    browser.goto(&format!("{}/admin/overview?range=24h", app.url)).await;
    browser.wait_for_text(".pulse", "live").await;
    // Watching is no activity: the page itself finds that the session is over.
    app.advance(Duration::from_mins(16)).await;
    browser.wait_for_path("/admin/login?next=").await;
    browser.fill("input[name=key]", &app.organization.admin).await;
    browser.click("main button").await;
    browser.wait_for_path("/admin/overview?range=24h").await;
    nothing_amiss(&app, &browser, "after logging in again").await;
}
