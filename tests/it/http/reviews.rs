//! Reviews over HTTP: pages, what is shown and what is not, audit, codes.

use super::get;
use crate::clinical::{bundle, patient};
use crate::support::app::{TestApp, job_of};
use chartgate::ids::{EventId, PatientId, ReviewId};
use serde_json::{Value, json};

async fn reviewed() -> (TestApp, Vec<Value>) {
    let app = TestApp::start().await;
    let workers = app.workers();
    let people =
        [("a", "1987-02-20"), ("b", "1999-01-01"), ("c", "2001-01-01")].map(|(id, born)| patient(id, "MRN-R1", born));
    let job = job_of(&app.submit(bundle("batch", &people).to_string()).await.1);
    app.wait_for(&job, "succeeded").await;
    workers.stop().await;
    let page = get(&app, &app.organization.admin, "/v1/admin/reviews").await.json();
    let reviews = page["reviews"].as_array().unwrap().clone();
    (app, reviews)
}

#[tokio::test]
async fn the_list_has_pages_and_no_clinical_values() {
    let (app, reviews) = reviewed().await;
    let admin = &app.organization.admin;
    assert_eq!(reviews.len(), 2);
    let text = json!(reviews).to_string();
    for value in ["1987-02-20", "1999-01-01", "Sample", "Ada", "MRN-R1"] {
        assert!(!text.contains(value), "{value}: {text}");
    }
    assert_eq!(
        (&reviews[0]["reason"], &reviews[0]["kind"], &reviews[0]["blocking"]),
        (&json!("birth_date"), &json!("patient"), &json!(true))
    );
    let first = get(&app, admin, "/v1/admin/reviews?limit=1").await.json();
    let next = format!("/v1/admin/reviews?limit=1&cursor={}", first["nextCursor"].as_str().unwrap());
    let second = get(&app, admin, &next).await.json();
    assert_eq!((&first["reviews"][0], &second["reviews"][0]), (&reviews[0], &reviews[1]));
    assert!(second["nextCursor"].is_null());
    assert_eq!(get(&app, admin, "/v1/admin/reviews?status=decided").await.json()["reviews"], json!([]));
    for bad in ["limit=0", "limit=201", "cursor=x", "status=closed", "more=1"] {
        get(&app, admin, &format!("/v1/admin/reviews?{bad}")).await.problem(400, "invalid_parameter");
    }
}

#[tokio::test]
async fn one_review_shows_people_side_by_side_and_the_read_is_audited() {
    let (app, reviews) = reviewed().await;
    let path = format!("/v1/admin/reviews/{}", reviews[0]["reviewId"].as_str().unwrap());
    let answer = get(&app, &app.organization.admin, &path).await;
    let shown = answer.json();
    let number = json!([{"system": "urn:hospital", "value": "MRN-R1"}]);
    assert_eq!((&shown["incoming"]["birthDate"], &shown["incoming"]["identifiers"]), (&json!("2001-01-01"), &number));
    assert_eq!((&shown["people"][0]["birthDate"], &shown["people"][0]["identifiers"]), (&json!("1987-02-20"), &number));
    assert_eq!((&shown["waiting"], &shown["people"][0]["patient"]), (&json!(1), &shown["candidates"][0]["patient"]));
    let read = "select count(*) from audit_records where event = 'review.read' and action = 'R' and patient_id is not null and request_id is not null";
    assert_eq!(app.count(read).await, 1);
}

#[tokio::test]
async fn acts_are_answered_with_their_codes() {
    let (app, reviews) = reviewed().await;
    let admin = app.organization.admin.clone();
    let path = format!("/v1/admin/reviews/{}/decide", reviews[0]["reviewId"].as_str().unwrap());
    let patient = reviews[0]["candidates"][0]["patient"].as_str().unwrap();
    let unknown = PatientId::new();
    for (body, status, code) in [
        (json!({"decision": "link", "reason": "x"}), 400, "invalid_request"),
        (json!({"decision": "reject", "patient": patient, "reason": "x"}), 400, "invalid_request"),
        (json!({"decision": "reject", "reason": " "}), 400, "invalid_request"),
        (json!({"decision": "maybe", "reason": "x"}), 400, "invalid_request"),
        (json!({"decision": "link", "patient": unknown, "reason": "x"}), 404, "patient_not_found"),
        (json!({"decision": "link", "patient": "x", "reason": "x"}), 404, "patient_not_found"),
    ] {
        let (found, problem) = app.post(&admin, &path, &body).await;
        assert_eq!((found, &problem["code"]), (status, &json!(code)), "{body}");
    }
    let decision = json!({"decision": "link", "patient": patient, "reason": "asked the ward"});
    let (status, decided) = app.post(&admin, &path, &decision).await;
    assert_eq!((status, &decided["status"], &decided["patient"]), (200, &json!("decided"), &json!(patient)));
    assert_eq!(app.post(&admin, &path, &decision).await, (200, decided));
    let (status, problem) = app.post(&admin, &path, &json!({"decision": "new_patient", "reason": "x"})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("review_decided")));
    for (path, body, code) in [
        (
            format!("reviews/{}/decide", ReviewId::new()),
            json!({"decision": "reject", "reason": "x"}),
            "review_not_found",
        ),
        (format!("patients/{unknown}/merge"), json!({"into": patient, "reason": "x"}), "patient_not_found"),
        (format!("patients/{patient}/merge"), json!({"into": unknown, "reason": "x"}), "patient_not_found"),
        (format!("patients/{patient}/merge"), json!({"into": patient, "reason": "x"}), "invalid_request"),
        (format!("patients/{patient}/unmerge"), json!({"reason": "x"}), "patient_merged"),
        (format!("patients/{unknown}/unmerge"), json!({"reason": "x"}), "patient_not_found"),
        (format!("events/{}/unlink", EventId::new()), json!({"reason": "x"}), "event_not_found"),
        (format!("events/{}/link", EventId::new()), json!({"patient": patient, "reason": "x"}), "event_not_found"),
    ] {
        let (_, problem) = app.post(&admin, &format!("/v1/admin/{path}"), &body).await;
        assert_eq!(problem["code"], code, "{path}");
    }
    get(&app, &admin, &format!("/v1/admin/reviews/{}", ReviewId::new())).await.problem(404, "review_not_found");
}
