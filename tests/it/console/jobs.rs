//! Jobs, one job, failures and operations over plain HTTP: filters, pages, exports, acts and what is recorded of them.

use super::{Visitor, scripted_app, send};
use crate::engine::scripted::Act;
use crate::support::app::{TestApp, job_of};
use crate::support::submit::submit;
use chartgate::ids::{JobId, OperationId};
use chartgate::limits::{EXPORTS_OF_ONE_MAX, WATCHERS_OF_ONE_MAX};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What would become markup if it were not text.
const HOSTILE: &str = "\"><script>alert(1)</script> \u{202e}evil";

/// Ids of the jobs that a page links to.
fn jobs_on(page: &str) -> Vec<String> {
    let links = page.split("href=\"/admin/jobs/").skip(1);
    let ids = links.map(|rest| rest.split(['"', '?', '/']).next().unwrap().to_owned());
    ids.filter(|id| id.parse::<JobId>().is_ok()).collect()
}

/// The link with these words, as a path.
fn link_of(page: &str, words: &str) -> Option<String> {
    let before = page.split(&format!(">{words}<")).next().filter(|before| before.len() < page.len())?;
    let link = before.rsplit("href=\"").next()?.split('"').next()?;
    Some(link.replace("&amp;", "&"))
}

/// Of these jobs of the workflow `scripted` the first ones fail, each act for one of them; all have ended.
async fn ended_jobs(
    app: &TestApp,
    scripted: &crate::engine::scripted::Scripted,
    count: usize,
    acts: &[Act],
) -> Vec<String> {
    scripted.script("middle", acts);
    let mut jobs = Vec::new();
    for _ in 0..count {
        jobs.push(submit(app, app.organization.id, "scripted", None).await.job.to_string());
    }
    let workers = app.workers();
    app.run_until_idle().await;
    workers.stop().await;
    jobs
}

/// Reason and event of the records of an act on a job.
async fn reasons(app: &TestApp, event: &str) -> Vec<(String, Option<String>)> {
    sqlx::query_as("select actor, purpose from audit_records where event = $1 order by id")
        .bind(event)
        .fetch_all(&mut app.owner().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_filter_in_the_address_meets_its_jobs_and_no_others() {
    let (app, scripted) = scripted_app().await;
    let jobs = ended_jobs(&app, &scripted, 6, &[Act::Sender, Act::Sender, Act::Ours]).await;
    let other = app.organization("Other Hospital").await;
    let foreign = submit(&app, other.id, "scripted", None).await.job.to_string();
    let queued = submit(&app, app.organization.id, "scripted", None).await.job.to_string();
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let ids = |query: &'static str| {
        let visitor = &visitor;
        async move {
            let (status, page) = visitor.get(&format!("/admin/jobs?{query}")).await;
            assert_eq!(status, 200, "{query}: {page}");
            jobs_on(&page).into_iter().collect::<BTreeSet<_>>()
        }
    };
    let all: BTreeSet<String> = jobs.iter().chain([&queued]).cloned().collect();
    assert_eq!(ids("").await, all);
    assert_eq!(ids("workflow=scripted&source=webhook").await, all);
    assert_eq!(ids("status=queued").await, BTreeSet::from([queued.clone()]));
    assert_eq!(ids("live=1").await, BTreeSet::from([queued.clone()]));
    assert_eq!(ids("status=succeeded").await.len(), 3);
    let failed = ids("status=failed").await;
    assert_eq!(failed.len(), 3);
    let bad = ids("status=failed&code=test_bad_data").await;
    assert_eq!(bad.len(), 2);
    assert_eq!(ids("code=test_bug").await, failed.difference(&bad).cloned().collect());
    assert_eq!(ids("step=middle").await, failed);
    assert_eq!(ids("step=first").await, BTreeSet::new());
    assert_eq!(ids("fingerprint=scripted/2/test_bad_data").await, bad);
    assert_eq!(ids("workflow=fhir-bundle").await, BTreeSet::new());
    assert_eq!(ids("after=2001-01-01T00:00&before=2099-01-01T00:00:00Z").await, all);
    assert_eq!(ids("before=2001-01-01T00:00").await, BTreeSet::new());
    assert_eq!(ids("after=2099-01-01T00:00").await, BTreeSet::new());
    assert_eq!(ids("endedAfter=2001-01-01T00:00").await, jobs.iter().cloned().collect());
    for (query, named) in [
        ("status=no", "status"),
        ("after=tomorrow", "after"),
        ("payload=12", "payload"),
        ("fingerprint=x", "fingerprint"),
        ("cursor=1", "cursor"),
    ] {
        let (status, page) = visitor.get(&format!("/admin/jobs?{query}")).await;
        assert!(status == 400 && page.contains(named), "{query}: {status} {page}");
    }
    // The role platform sees all, or the one that it names, and links keep that.
    let platform = Visitor::of(&app, &app.platform).await;
    let (_, page) = platform.get("/admin/jobs").await;
    assert!(jobs_on(&page).contains(&foreign) && jobs_on(&page).contains(&queued) && page.contains("Other Hospital"));
    let (_, page) = platform.get(&format!("/admin/jobs?organization={}", other.id)).await;
    assert_eq!(jobs_on(&page), std::slice::from_ref(&foreign));
    assert!(page.contains(&format!("/admin/jobs/{foreign}?organization={}", other.id)));
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let (app, scripted) = scripted_app().await;
    let jobs = ended_jobs(&app, &scripted, 120, &[Act::Sender]).await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let mut path = "/admin/jobs?workflow=scripted".to_owned();
    let mut seen = Vec::new();
    let mut pages = 0;
    loop {
        let (status, page) = visitor.get(&path).await;
        assert_eq!(status, 200);
        seen.extend(jobs_on(&page));
        pages += 1;
        match link_of(&page, "Next page") {
            Some(next) => path = next,
            None => break,
        }
        assert!(path.contains("workflow=scripted"), "{path}");
    }
    assert_eq!(pages, 3);
    let mut newest_first = jobs;
    newest_first.reverse();
    assert_eq!(seen, newest_first);
}

#[tokio::test]
async fn a_filter_that_meets_little_is_answered_in_pieces() {
    let (app, scripted) = scripted_app().await;
    let first = ended_jobs(&app, &scripted, 1, &[Act::Ours]).await.remove(0);
    // 30,000 succeeded ones since, by SQL: one page looks through 20,000.
    sqlx::query(
        "insert into jobs (organization_id, id, workflow, workflow_version, source, status, seq, submitted_by, created_at, updated_at, finished_at)
         select j.organization_id, (lpad(to_hex((extract(epoch from j.created_at) * 1000)::bigint + 1000 + i), 12, '0') || '70008000000000000000')::uuid,
                'scripted', 1, 'webhook', 'succeeded', nextval('job_seq'), 'test', j.created_at, j.created_at, j.created_at
         from jobs j, generate_series(1, 30000) i",
    )
    .execute(&mut app.owner().await)
    .await
    .unwrap();
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let (_, page) = visitor.get("/admin/jobs?step=middle").await;
    assert!(jobs_on(&page).is_empty() && page.contains("Looked through the jobs back to"), "{page}");
    let (_, page) = visitor.get(&link_of(&page, "Next page").unwrap()).await;
    assert_eq!(jobs_on(&page), std::slice::from_ref(&first));
    assert_eq!(link_of(&page, "Next page"), None);
    // What an index knows is found at once.
    let (_, page) = visitor.get("/admin/jobs?status=failed&step=middle").await;
    assert_eq!(jobs_on(&page), std::slice::from_ref(&first));
    // Over all organizations the same.
    let platform = Visitor::of(&app, &app.platform).await;
    app.organization("Other Hospital").await;
    let (_, page) = platform.get("/admin/jobs?step=middle").await;
    assert!(page.contains("Looked through the jobs back to"));
    let mut path = link_of(&page, "Next page").unwrap();
    loop {
        let (_, page) = platform.get(&path).await;
        if jobs_on(&page) == std::slice::from_ref(&first) {
            break;
        }
        path = link_of(&page, "Next page").unwrap();
    }
}

#[tokio::test]
async fn an_id_or_a_hash_leads_straight_to_its_job() {
    let app = TestApp::start().await;
    let body = crate::http::small(1);
    let job = job_of(&app.submit(body.clone()).await.1);
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let found = (303, format!("/admin/jobs/{job}"));
    let hash = crate::http::sha256(&body);
    assert_eq!(visitor.get(&format!("/admin/jobs?q={job}")).await, found);
    assert_eq!(visitor.get(&format!("/admin/jobs?q={}", job.replace("job_", "upload_"))).await, found);
    assert_eq!(visitor.get(&format!("/admin/jobs?q={hash}")).await, found);
    assert_eq!(visitor.get(&format!("/admin/jobs?q={}", hash.to_uppercase())).await, found);
    // With a key of its own: no straight way, but in the list.
    let again = job_of(&app.submit_as(&app.organization.sender, Some("own-key"), body).await.1);
    let (_, page) = visitor.get(&format!("/admin/jobs?payload={hash}")).await;
    assert_eq!(jobs_on(&page), [again, job.clone()]);
    let unknown = "0".repeat(64);
    assert_eq!(visitor.get(&format!("/admin/jobs?q={unknown}")).await, (303, format!("/admin/jobs?payload={unknown}")));
    assert_eq!(visitor.get("/admin/jobs?q=test_bug").await, (303, "/admin/jobs?code=test_bug".to_owned()));
    let other = app.organization("Other Hospital").await;
    let stranger = Visitor::of(&app, &other.admin).await;
    assert_eq!(stranger.get(&format!("/admin/jobs?q={job}")).await.0, 404);
    assert_eq!(stranger.get(&format!("/admin/jobs?q={hash}")).await, (303, format!("/admin/jobs?payload={hash}")));
}

#[tokio::test]
async fn exports_are_whole_and_parse() {
    let (app, scripted) = scripted_app().await;
    let jobs: BTreeSet<String> = ended_jobs(&app, &scripted, 230, &[Act::Sender]).await.into_iter().collect();
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let (status, headers, text) =
        send(&app, "GET", "/admin/jobs/export?format=csv&workflow=scripted", Some(&visitor.cookie), None).await;
    assert_eq!(status, 200);
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/csv"));
    assert!(headers["content-disposition"].to_str().unwrap().starts_with("attachment"));
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    assert_eq!(&reader.headers().unwrap()[0], "jobId");
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.iter().map(|record| record[0].to_owned()).collect::<BTreeSet<_>>(), jobs);
    assert_eq!(records.iter().filter(|record| &record[7] == "test_bad_data").count(), 1);

    let (status, lines) = visitor.get("/admin/jobs/export?format=ndjson&status=succeeded").await;
    assert_eq!(status, 200);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 229);
    assert!(lines.iter().all(|job| job["status"] == "succeeded" && jobs.contains(job["jobId"].as_str().unwrap())));
    assert_eq!(visitor.get("/admin/jobs/export?format=xml").await.0, 400);
    let other = app.organization("Other Hospital").await;
    let stranger = Visitor::of(&app, &other.admin).await;
    assert_eq!(stranger.get("/admin/jobs/export?format=ndjson").await, (200, String::new()));
}

#[tokio::test]
async fn an_export_cannot_be_watched_and_few_run_at_once() {
    let (app, scripted) = scripted_app().await;
    ended_jobs(&app, &scripted, 2, &[]).await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let watch = |page: &str| {
        let page: String = url::form_urlencoded::byte_serialize(page.as_bytes()).collect();
        let watch = app.client.get(format!("{}/admin/live?page={page}", app.url));
        let watch = watch.header("cookie", &visitor.cookie);
        async move {
            let mut answer = watch.send().await.unwrap();
            let first = answer.chunk().await.unwrap().unwrap_or_default();
            (answer.status().as_u16(), String::from_utf8_lossy(&first).into_owned())
        }
    };
    let (status, shown) = watch("/admin/jobs").await;
    assert!(status == 200 && shown.starts_with("event: live"), "{status} {shown}");
    for page in ["/admin/jobs/export?format=ndjson", "/admin/jobs/export?format=csv", "/admin/assets/none"] {
        let (status, shown) = watch(page).await;
        assert!(status == 200 && shown.starts_with("event: gone"), "{page}: {status} {shown}");
    }
    // Whoever has all the places of a key leaves those of others.
    let key = format!("key:{}", app.organization.admin.split('_').nth(1).unwrap());
    let limits = &app.app.limits;
    let watchers: Vec<_> = std::iter::from_fn(|| limits.watchers.take(key.clone())).collect();
    assert!((1..=WATCHERS_OF_ONE_MAX).contains(&watchers.len()), "{}", watchers.len());
    assert_eq!(watch("/admin/jobs").await.0, 503);
    let exports: Vec<_> = std::iter::from_fn(|| limits.exports.take(key.clone())).collect();
    assert_eq!(exports.len(), EXPORTS_OF_ONE_MAX);
    assert_eq!(visitor.get("/admin/jobs/export?format=csv").await.0, 503);
    let platform = Visitor::of(&app, &app.platform).await;
    assert_eq!(platform.get("/admin/jobs/export?format=csv").await.0, 200);
    drop((watchers, exports));
    assert_eq!(visitor.get("/admin/jobs/export?format=csv").await.0, 200);
}

#[tokio::test]
async fn another_organizations_job_is_answered_like_an_unknown_one() {
    let (app, scripted) = scripted_app().await;
    let job = ended_jobs(&app, &scripted, 1, &[Act::Ours]).await.remove(0);
    let other = app.organization("Other Hospital").await;
    let stranger = Visitor::of(&app, &other.admin).await;
    let unknown = stranger.get(&format!("/admin/jobs/{}", JobId::new())).await;
    assert_eq!(unknown.0, 404);
    assert_eq!(stranger.get(&format!("/admin/jobs/{job}")).await, unknown);
    assert_eq!(stranger.get("/admin/jobs/nonsense").await, unknown);
    let own = format!("/admin/jobs/{job}?organization={}", app.organization.id);
    assert_eq!(stranger.get(&own).await, unknown, "an admin cannot choose an organization");
    for act in ["retry", "cancel", "resend"] {
        let fields = [("reason", "mine"), ("organization", &app.organization.id.to_string())];
        assert_eq!(stranger.post(&format!("/admin/jobs/{job}/{act}"), &fields).await, unknown, "{act}");
    }
    assert_eq!(app.job(&job).await["round"], 1);
    // A retry by the platform, in the organization's name.
    let platform = Visitor::of(&app, &app.platform).await;
    assert_eq!(platform.get(&format!("/admin/jobs/{job}")).await.0, 200);
    assert_eq!(platform.get(&format!("/admin/jobs/{job}?organization={}", other.id)).await.0, 404);
    let (status, to) = platform.post(&format!("/admin/jobs/{job}/retry"), &[("reason", "from above")]).await;
    assert_eq!((status, to), (303, format!("/admin/jobs/{job}?note=retried")));
    assert_eq!(app.job(&job).await["round"], 2);
}

#[tokio::test]
async fn a_failed_job_is_explained_drawn_and_retried_with_a_reason() {
    let (app, scripted) = scripted_app().await;
    let job = ended_jobs(&app, &scripted, 1, &[Act::Transient, Act::Ours]).await.remove(0);
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let path = format!("/admin/jobs/{job}");
    let (status, page) = visitor.get(&path).await;
    assert_eq!(status, 200);
    for part in [
        "What happened",
        "An operator of Chartgate must act",
        "test_bug",
        "class=\"chart picture\"",
        "attempt 1 failed",
        "class=\"wait\"",
        "/docs/errors/test_bug",
        "attempt.failed",
    ] {
        assert!(page.contains(part), "{part} is not on {page}");
    }
    for (act, fields) in [("retry", vec![]), ("retry", vec![("reason", " ")]), ("cancel", vec![])] {
        assert_eq!(visitor.post(&format!("{path}/{act}"), &fields).await.0, 400, "{act} without a reason");
    }
    let (status, page) = visitor.post(&format!("{path}/retry"), &[("reason", "x"), ("from", "nowhere")]).await;
    assert!(status == 400 && page.contains("first, kept, middle, last"), "{page}");
    assert_eq!(visitor.post(&format!("{path}/cancel"), &[("reason", "x")]).await.0, 409);
    assert!(reasons(&app, "job.retried").await.is_empty());

    let fields = [("reason", HOSTILE), ("from", "middle"), ("version", "latest")];
    assert_eq!(visitor.post(&format!("{path}/retry"), &fields).await, (303, format!("{path}?note=retried")));
    assert_eq!(visitor.post(&format!("{path}/retry"), &fields).await.0, 409, "it has not ended");
    let actor = format!("key:{}", app.organization.admin.split('_').nth(1).unwrap());
    assert_eq!(reasons(&app, "job.retried").await, [(actor.clone(), Some(HOSTILE.to_owned()))]);
    let (_, page) = visitor.get(&format!("{path}?note=retried")).await;
    // The reason is on the page, as text.
    assert!(
        page.contains("next round is open")
            && page.contains("&lt;script&gt;alert(1)")
            && !page.contains("<script>alert")
    );

    let (status, _) = visitor.post(&format!("{path}/cancel"), &[("reason", "never mind")]).await;
    assert_eq!(status, 303);
    assert_eq!(reasons(&app, "job.cancelled").await, [(actor.clone(), Some("never mind".to_owned()))]);
    assert_eq!(app.job(&job).await["status"], "cancelled");
    assert_eq!(visitor.post(&format!("{path}/resend"), &[("reason", "x")]).await.0, 409, "nobody is to be told");
    visitor.post(&format!("{path}/retry"), &[("reason", "again")]).await;
    let workers = app.workers();
    app.wait_for(&job, "succeeded").await;
    workers.stop().await;
    let (_, page) = visitor.get(&path).await;
    assert!(page.contains("Round 3") && page.contains("middle succeeded"), "{page}");
}

#[tokio::test]
async fn a_jobs_page_shows_its_issues_and_no_clinical_value() {
    let app = TestApp::start().await;
    let mut bundle = crate::http::with_member("birthDate", &"Quarzkristall-1".into());
    bundle["entry"][0]["resource"]["name"] = serde_json::json!([{ "family": "Quarzkristall-2" }]);
    let job = job_of(&app.submit(bundle.to_string()).await.1);
    let workers = app.workers();
    app.run_until_idle().await;
    workers.stop().await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let (status, page) = visitor.get(&format!("/admin/jobs/{job}")).await;
    assert_eq!(status, 200);
    let (_, issues) = app.get(&app.organization.admin, &format!("/v1/ingestion/jobs/{job}/issues")).await;
    let issues = issues["issues"].as_array().unwrap();
    assert!(!issues.is_empty());
    for issue in issues {
        assert!(page.contains(issue["code"].as_str().unwrap()), "{issue}");
        assert!(page.contains("birthDate"), "where it is");
    }
    assert!(page.contains("application/fhir+json") && page.contains("Patient 1"), "facts of the payload");
    assert!(!page.contains("Quarzkristall"), "a clinical value is on the page");
}

#[tokio::test]
async fn a_group_of_failures_is_counted_explained_and_retried_as_a_whole() {
    let (app, scripted) = scripted_app().await;
    let acts = [vec![Act::Sender; 7], vec![Act::Ours]].concat();
    ended_jobs(&app, &scripted, 9, &acts).await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let (status, page) = visitor.get("/admin/failures").await;
    assert_eq!(status, 200);
    assert!(page.contains("<strong>7</strong>") && page.contains("<strong>1</strong>"), "{page}");
    assert!(page.contains("7 in the last 24 hours"), "the sparkline has its words");
    assert!(page.contains("the sender must act") && page.contains("an operator must act"));
    let (_, only) = visitor.get("/admin/failures?class=ours&workflow=scripted").await;
    assert!(only.contains("test_bug") && !only.contains("test_bad_data"));
    let other = app.organization("Other Hospital").await;
    let (_, foreign) = Visitor::of(&app, &other.admin).await.get("/admin/failures").await;
    assert!(foreign.contains("No job is failed here"));

    let (_, only) = visitor.get("/admin/failures?code=test_bad_data").await;
    let form = link_of(&only, "Retry the group").unwrap();
    let (status, page) = visitor.get(&form).await;
    assert!(
        status == 200 && page.contains("Count the jobs") && !page.contains("name=\"act\" value=\"start\""),
        "{page}"
    );
    let mut fields = vec![
        ("kind", "retry"),
        ("fingerprint", "scripted/2/test_bad_data"),
        ("from", "failed_step"),
        ("version", "pinned"),
        ("rate", "1000"),
        ("canary", "2"),
        ("reason", HOSTILE),
        ("act", "count"),
    ];
    let (status, page) = visitor.post("/admin/operations", &fields).await;
    assert!(status == 200 && page.contains("<strong>7 jobs</strong>") && page.contains("Start on 7 jobs"), "{page}");
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script>alert"), "the reason is text");
    assert_eq!(app.count("select count(*) from operations").await, 0, "a dry run starts nothing");
    assert!(page.contains("name=\"counted\" value=\"7\""), "{page}");
    fields.pop();
    fields.push(("act", "start"));
    // Nothing starts on jobs that nobody counted, nor on more than were counted.
    assert_eq!(visitor.post("/admin/operations", &fields).await.0, 200);
    fields.push(("counted", "6"));
    let (status, page) = visitor.post("/admin/operations", &fields).await;
    assert!(status == 200 && page.contains("There were 6 when they were counted"), "{status} {page}");
    assert_eq!(app.count("select count(*) from operations").await, 0);
    fields.pop();
    fields.push(("counted", "7"));
    let (status, to) = visitor.post("/admin/operations", &fields).await;
    assert_eq!(status, 303);
    let path = to.strip_suffix("?note=started").unwrap().to_owned();
    let operation = path.rsplit('/').next().unwrap();
    operation.parse::<OperationId>().unwrap();
    let workers = app.workers();
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let (status, page) = visitor.get(&path).await;
        assert_eq!(status, 200);
        if page.contains("succeeded</span> All jobs are handled.") {
            assert!(page.contains("7 of 7 jobs"), "{page}");
            break;
        }
        assert!(Instant::now() < deadline, "{page}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    workers.stop().await;
    let (_, page) = visitor.get("/admin/failures").await;
    assert!(!page.contains("test_bad_data"));
    let (_, page) = visitor.get(&format!("{path}?state=acted")).await;
    assert_eq!(jobs_on(&page).len(), 7);
    let (_, page) = visitor.get(&format!("{path}?state=failed")).await;
    assert!(page.contains("No jobs here."));
    let (_, page) = visitor.get("/admin/operations").await;
    assert!(page.contains(operation) && page.contains("&lt;script&gt;") && !page.contains("<script>alert"));
    assert_eq!(reasons(&app, "operation.started").await.len(), 1);
    assert_eq!(reasons(&app, "job.retried").await.len(), 7);
    assert_eq!(visitor.post(&format!("{path}/stop"), &[("reason", "late")]).await.0, 409, "it has ended");
    let stranger = Visitor::of(&app, &other.admin).await;
    for act in ["stop", "resume", "undo"] {
        assert_eq!(stranger.post(&format!("{path}/{act}"), &[("reason", "mine")]).await.0, 404, "{act}");
        assert_eq!(visitor.post(&format!("{path}/{act}"), &[]).await.0, 400, "{act} without a reason");
    }
    assert_eq!(stranger.get(&path).await.0, 404);
}

#[tokio::test]
async fn an_operation_is_stopped_resumed_and_undone_with_reasons() {
    let (app, scripted) = scripted_app().await;
    ended_jobs(&app, &scripted, 4, &[Act::Ours, Act::Ours, Act::Ours, Act::Ours]).await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let fields = [
        ("kind", "retry"),
        ("workflow", "scripted"),
        ("rate", "1"),
        ("canary", ""),
        ("reason", "mended"),
        ("act", "start"),
        ("counted", "4"),
    ];
    let (status, to) = visitor.post("/admin/operations", &fields).await;
    assert_eq!(status, 303, "{to}");
    let path = to.strip_suffix("?note=started").unwrap().to_owned();
    for (act, words) in [("stop", "stops"), ("resume", "goes on"), ("undo", "taken back")] {
        let (status, to) = visitor.post(&format!("{path}/{act}"), &[("reason", "as agreed")]).await;
        assert_eq!(status, 303, "{act}");
        let (status, page) = visitor.get(&to).await;
        assert!(status == 200 && page.contains(words), "{act}: {page}");
    }
    for event in ["operation.stopped", "operation.resumed", "operation.undone"] {
        assert_eq!(reasons(&app, event).await.len(), 1, "{event}");
        assert_eq!(reasons(&app, event).await[0].1.as_deref(), Some("as agreed"));
    }
    let bad = [("kind", "retry"), ("rate", "fast"), ("reason", "x"), ("act", "count")];
    assert_eq!(visitor.post("/admin/operations", &bad).await.0, 400);
    let bad = [("kind", "erase"), ("reason", "x")];
    assert_eq!(visitor.post("/admin/operations", &bad).await.0, 400);
    let cancel = [("kind", "cancel"), ("status", "failed"), ("reason", "x"), ("act", "count")];
    let (status, page) = visitor.post("/admin/operations", &cancel).await;
    assert!(status == 400 && page.contains("filter.status"), "{page}");
}
