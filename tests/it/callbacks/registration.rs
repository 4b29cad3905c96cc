//! Registering, changing, rotating and removing.

use super::receiver::Receiver;
use super::{app, callback, deliveries, patch, register, register_url};
use crate::http::call;
use crate::support::app::TestApp;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn each_act_on_a_callback_has_its_audit_record() {
    let app = app().await;
    let (id, secret) = register(
        &app,
        json!({"url": "https://1.1.1.1/hook", "description": "ours", "events": ["job.failed"], "workflows": ["fhir-bundle"]}),
    )
    .await;
    assert!(secret.starts_with("whsec_") && secret.len() > 40);
    let view = callback(&app, &id).await;
    assert_eq!(
        (&view["status"], &view["events"], &view["workflows"], &view["description"]),
        (&json!("active"), &json!(["job.failed"]), &json!(["fhir-bundle"]), &json!("ours"))
    );
    let (status, changed) = patch(&app, &id, &json!({"events": [], "status": "disabled"})).await;
    assert_eq!((status, &changed["events"], &changed["disabledReason"]), (200, &json!([]), &json!("administrator")));
    assert_eq!(changed["workflows"], json!(["fhir-bundle"]), "what is left out stays");
    assert_eq!(patch(&app, &id, &json!({"status": "active"})).await.1["disabledReason"], json!(null));
    let (status, rotated) = app
        .post(&app.organization.admin, &format!("/v1/admin/callbacks/{id}/rotate"), &json!({"overlapHours": 1}))
        .await;
    assert_eq!(status, 200, "{rotated}");
    assert_ne!(rotated["secret"], secret);
    assert!(rotated["callback"]["previousSecretUntil"].is_string());
    let path = format!("/v1/admin/callbacks/{id}");
    assert_eq!(call(&app, Method::DELETE, &path, &app.organization.admin, &[], "").await.status, 204);
    assert_eq!(call(&app, Method::DELETE, &path, &app.organization.admin, &[], "").await.status, 404);
    let events: Vec<String> = sqlx::query_scalar(
        "select event from audit_records where event like 'callback.%' and resource = $1 and actor like 'key:%' order by id",
    )
    .bind(&id)
    .fetch_all(&mut app.owner().await)
    .await
    .unwrap();
    assert_eq!(
        events,
        ["callback.created", "callback.changed", "callback.changed", "callback.rotated", "callback.deleted"]
    );
}

#[tokio::test]
async fn the_secret_is_shown_once_and_stored_sealed() {
    use base64::Engine as _;
    let app = app().await;
    let (id, secret) = register_url(&app, "https://1.1.1.1/hook").await;
    let bytes = base64::engine::general_purpose::STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    assert_eq!(bytes.len(), 32);
    let (_, list) = app.get(&app.organization.admin, "/v1/admin/callbacks").await;
    assert!(!list.to_string().contains("whsec_") && !callback(&app, &id).await.to_string().contains("ecret\":\""));
    let row: String = sqlx::query_scalar(
        "select callbacks::text || encode(secret, 'hex') || encode(secret, 'escape') from callbacks",
    )
    .fetch_one(&mut app.owner().await)
    .await
    .unwrap();
    assert!(!row.contains(&hex::encode(&bytes)) && !row.contains(&secret["whsec_".len()..]));
    let records: String = sqlx::query_scalar("select string_agg(r::text, ' ') from audit_records r")
        .fetch_one(&mut app.owner().await)
        .await
        .unwrap();
    assert!(!records.contains(&secret["whsec_".len()..]) && !records.contains("1.1.1.1"));
}

#[tokio::test]
async fn a_url_that_may_not_be_called_is_refused_and_no_address_is_named() {
    let app = TestApp::start().await;
    let key = &app.organization.admin;
    for url in [
        "http://1.1.1.1/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://[::1]/",
        "https://169.254.169.254/latest",
        "https://2130706433/",
        "https://u:p@1.1.1.1/",
        "https://1.1.1.1:22/",
        "https://1.1.1.1/#x",
        "nothing",
        "",
    ] {
        let body = json!({ "url": url }).to_string();
        let headers = [("content-type", "application/json")];
        let answer = call(&app, Method::POST, "/v1/admin/callbacks", key, &headers, body).await;
        let problem = answer.problem(400, "callback_url_refused");
        assert_eq!(problem["pointer"], "/url", "{url}");
        assert!(!problem["detail"].as_str().unwrap().contains("127."), "{problem}");
    }
    let (id, _) = register_url(&app, "https://1.1.1.1/hook").await;
    assert_eq!(patch(&app, &id, &json!({"url": "https://10.0.0.1/"})).await.1["code"], "callback_url_refused");
    assert_eq!(callback(&app, &id).await["url"], "https://1.1.1.1/hook");
    assert_eq!(app.count("select count(*) from callbacks").await, 1);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_there_are_twenty_at_most() {
    let app = app().await;
    let key = &app.organization.admin;
    for body in [
        json!({}),
        json!({"url": "https://1.1.1.1/", "events": ["job.started"]}),
        json!({"url": "https://1.1.1.1/", "workflows": ["callback"]}),
        json!({"url": "https://1.1.1.1/", "workflows": ["unknown"]}),
        json!({"url": "https://1.1.1.1/", "description": "x".repeat(201)}),
        json!({"url": "https://1.1.1.1/", "status": "active"}),
        json!({"url": "https://1.1.1.1/", "secret": "whsec_mine"}),
    ] {
        let (status, problem) = app.post(key, "/v1/admin/callbacks", &body).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")), "{body}");
    }
    let bodies = (0..25).map(|_| json!({"url": "https://1.1.1.1/"}));
    let posted = futures::future::join_all(bodies.map(|body| {
        let app = &app;
        async move { app.post(&app.organization.admin, "/v1/admin/callbacks", &body).await }
    }))
    .await;
    assert_eq!(posted.iter().filter(|(status, _)| *status == 201).count(), 20);
    let refused = posted.iter().find(|(status, _)| *status != 201).unwrap();
    assert_eq!((refused.0, &refused.1["code"]), (409, &json!("too_many_callbacks")));
    let id = posted.iter().find(|(status, _)| *status == 201).unwrap().1["callback"]["callbackId"].clone();
    let rotate = format!("/v1/admin/callbacks/{}/rotate", id.as_str().unwrap());
    assert_eq!(app.post(key, &rotate, &json!({"overlapHours": 169})).await.0, 400);
}

#[tokio::test]
async fn a_test_is_sent_at_once_and_says_what_came_of_it() {
    let app = app().await;
    let receiver = Receiver::start().await;
    let (id, secret) = register_url(&app, &receiver.url).await;
    patch(&app, &id, &json!({"status": "disabled"})).await;
    let path = format!("/v1/admin/callbacks/{id}/test");
    let (status, sent) = app.post(&app.organization.admin, &path, &json!({})).await;
    assert_eq!((status, &sent["outcome"], &sent["responseStatus"]), (200, &json!("delivered"), &json!(204)), "{sent}");
    let one = &receiver.received()[0];
    assert_eq!((one.json()["type"].as_str(), one.signed_by(&secret)), (Some("callback.test"), 1));
    assert_eq!(one.id(), sent["messageId"].as_str().unwrap());
    receiver.answer_status(500);
    let (_, sent) = app.post(&app.organization.admin, &path, &json!({})).await;
    assert_eq!((&sent["outcome"], &sent["errorCode"]), (&json!("failed"), &json!("callback_rejected")), "{sent}");
    assert_eq!(callback(&app, &id).await["failingSince"], json!(null), "nothing follows from a test");
    let log = deliveries(&app, &id).await;
    assert_eq!((log.len(), &log[0]["event"], &log[0]["jobId"]), (2, &json!("callback.test"), &json!(null)));
    assert_eq!(app.count("select count(*) from audit_records where event = 'callback.tested'").await, 2);
}
