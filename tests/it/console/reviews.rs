//! Reviews in the console: side by side, audited as a clinical read, decided one after another.

use super::Visitor;
use crate::clinical::{bundle, patient};
use crate::support::app::{TestApp, job_of};
use chartgate::ids::ReviewId;
use serde_json::Value;

const READS: &str =
    "select count(*) from audit_records where event = 'review.read' and action = 'R' and patient_id is not null
                     and actor like 'key:%' and request_id is not null";

async fn reviewed() -> (TestApp, Vec<String>, String) {
    let app = TestApp::start().await;
    let workers = app.workers();
    let people =
        [("a", "1987-02-20"), ("b", "1999-01-01"), ("c", "2001-01-01")].map(|(id, born)| patient(id, "MRN-R1", born));
    let job = job_of(&app.submit(bundle("batch", &people).to_string()).await.1);
    app.wait_for(&job, "succeeded").await;
    workers.stop().await;
    let (_, page) = app.get(&app.organization.admin, "/v1/admin/reviews").await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let reviews: Vec<String> =
        page["reviews"].as_array().unwrap().iter().map(|review| text(&review["reviewId"])).collect();
    let candidate = text(&page["reviews"][0]["candidates"][0]["patient"]);
    (app, reviews, candidate)
}

#[tokio::test]
async fn the_list_shows_no_clinical_value_and_one_review_shows_them_side_by_side_and_is_recorded() {
    let (app, reviews, candidate) = reviewed().await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let (status, list) = visitor.get("/admin/reviews").await;
    assert_eq!(status, 200);
    assert!(reviews.iter().all(|review| list.contains(&format!("/admin/reviews/{review}"))));
    for value in ["1987-02-20", "1999-01-01", "2001-01-01", "MRN-R1"] {
        assert!(!list.contains(value), "{value}");
    }
    assert_eq!(app.count(READS).await, 0);
    let path = format!("/admin/reviews/{}", reviews[0]);
    let (status, shown) = visitor.get(&path).await;
    assert_eq!(status, 200);
    for value in ["1987-02-20", "2001-01-01", "MRN-R1", &candidate, "birth date"] {
        assert!(shown.contains(value), "{value}: {shown}");
    }
    assert_eq!(app.count(READS).await, 1);
    // Who only watches reads nothing: neither shown nor recorded.
    let watched = app.client.get(format!("{}/admin/live?page={path}", app.url)).header("cookie", &visitor.cookie);
    let mut watched = watched.send().await.unwrap();
    let first = watched.chunk().await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&first).contains("MRN-R1"));
    assert_eq!(app.count(READS).await, 1);
}

#[tokio::test]
async fn a_decision_needs_a_reason_is_recorded_and_leads_to_the_next_review() {
    let (app, reviews, candidate) = reviewed().await;
    let visitor = Visitor::of(&app, &app.organization.admin).await;
    let decide = format!("/admin/reviews/{}/decide", reviews[0]);
    let link = format!("link:{candidate}");
    for (fields, status) in [
        (vec![("decision", link.as_str())], 400),
        (vec![("reason", "asked the ward")], 400),
        (vec![("decision", "link:pat_1"), ("reason", "x")], 400),
        (vec![("decision", "maybe"), ("reason", "x")], 400),
        (vec![("decision", "link"), ("reason", "x")], 400),
    ] {
        assert_eq!(visitor.post(&decide, &fields).await.0, status, "{fields:?}");
    }
    let decision = [("decision", link.as_str()), ("reason", "asked the ward")];
    assert_eq!(
        visitor.post(&decide, &decision).await,
        (303, format!("/admin/reviews/{}?note=decided", reviews[1])),
        "to the next one"
    );
    // The same again is answered as the first time; another one is a conflict, and says so.
    assert_eq!(visitor.post(&decide, &decision).await.0, 303);
    let (status, body) = visitor.post(&decide, &[("decision", "reject"), ("reason", "x")]).await;
    assert!(status == 409 && body.contains("decided otherwise"), "{status}");
    let (_, shown) = visitor.get(&format!("/admin/reviews/{}", reviews[0])).await;
    assert!(shown.contains("The decision") && !shown.contains("/decide"), "{shown}");
    let kept = "select count(*) from audit_records where purpose = 'asked the ward' and actor like 'key:%'";
    assert!(app.count(kept).await >= 1);
    let last = format!("/admin/reviews/{}/decide", reviews[1]);
    let (status, to) = visitor.post(&last, &[("decision", "new_patient"), ("reason", "two people")]).await;
    assert_eq!((status, to.as_str()), (303, "/admin/reviews?note=decided"));
    assert!(visitor.get("/admin/reviews").await.1.contains("There is no such review."));
    assert_eq!(app.count("select count(*) from reviews where status = 'open'").await, 0);
    let (_, decided) = visitor.get("/admin/reviews?status=decided").await;
    assert!(decided.contains(&reviews[0]) && decided.contains(&reviews[1]));
}

#[tokio::test]
async fn reviews_are_the_organizations_own() {
    let (app, reviews, _) = reviewed().await;
    let other = app.organization("Other Hospital").await;
    let stranger = Visitor::of(&app, &other.admin).await;
    let path = format!("/admin/reviews/{}", reviews[0]);
    let unknown = stranger.get(&format!("/admin/reviews/{}", ReviewId::new())).await;
    assert_eq!(stranger.get(&path).await, unknown);
    assert_eq!(unknown.0, 404);
    let answer = [("decision", "reject"), ("reason", "x")];
    assert_eq!(stranger.post(&format!("{path}/decide"), &answer).await.0, 404);
    // The platform reads nothing clinical, whatever organization it looks at.
    let platform = Visitor::of(&app, &app.platform).await;
    let (status, list) = platform.get(&format!("/admin/reviews?organization={}", app.organization.id)).await;
    assert!(status == 200 && !list.contains(&reviews[0]));
    assert_eq!(platform.get(&format!("{path}?organization={}", app.organization.id)).await.0, 403);
    assert_eq!(platform.post(&format!("{path}/decide?organization={}", app.organization.id), &answer).await.0, 403);
    assert_eq!(app.count("select count(*) from reviews where status = 'open'").await, 2);
    assert_eq!(app.count("select count(*) from audit_records where event = 'review.read'").await, 0);
}
