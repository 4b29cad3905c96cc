//! One policy for JSON on every route that takes it: what is no JSON, or what no later reader may be given, is a 400
//! everywhere, and nothing is ever a 5xx. The routes are those of the API description.

use crate::http::{Answer, call};
use crate::support::app::TestApp;
use chartgate::ids::{EventId, JobId, OperationId, OrganizationId};
use reqwest::Method;
use serde_json::Value;

/// Operation, method, path: all that take a JSON body.
fn operations(app: &TestApp) -> Vec<(String, Method, String)> {
    let description = serde_json::to_value(chartgate::http::description()).unwrap();
    let mut operations = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let takes_json = operation["requestBody"]["content"]
                .as_object()
                .is_some_and(|content| content.keys().any(|kind| kind.contains("json")));
            if takes_json {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                operations.push((operation["operationId"].as_str().unwrap().to_owned(), method, filled(app, path)));
            }
        }
    }
    operations
}

/// With ids of the right kind, so that nothing but the body can be wrong with the form of it.
fn filled(app: &TestApp, path: &str) -> String {
    let event = EventId::new().to_string();
    let other = |prefix: &str| event.replace("evt_", prefix);
    path.replace("{jobId}", &JobId::new().to_string())
        .replace("{operationId}", &OperationId::new().to_string())
        .replace("{organizationId}", &OrganizationId::to_string(&app.organization.id))
        .replace("{eventId}", &event)
        .replace("{patientId}", &other("pat_"))
        .replace("{reviewId}", &other("rev_"))
        .replace("{findingId}", &other("fnd_"))
        .replace("{callbackId}", &other("cb_"))
}

/// What is refused everywhere. Deep ones and escapes stand where a value may stand in each of the bodies.
fn refused() -> Vec<(&'static str, Vec<u8>)> {
    let text = |name, text: &str| (name, text.as_bytes().to_vec());
    let bytes = |name, bytes: &[u8]| (name, bytes.to_vec());
    let mut shapes = vec![
        text("only space", " \n\t "),
        text("no value", "{\"a\":}"),
        text("no end", "{\"a\":1"),
        text("no end of a string", "{\"a\":\"b"),
        text("trailing comma", "{\"a\":1,}"),
        text("trailing comma in an array", "{\"a\":[1,]}"),
        text("two values", "{\"a\":1}{\"a\":1}"),
        text("trailing bytes", "{\"a\":1}x"),
        text("single quotes", "{'a':1}"),
        text("bare name", "{a:1}"),
        text("comment", "{\"a\":1/**/}"),
        text("line comment", "{\"a\":1}//"),
        text("NaN", "{\"a\":NaN}"),
        text("Infinity", "{\"a\":-Infinity}"),
        text("leading zero", "{\"a\":012}"),
        text("leading plus", "{\"a\":+1}"),
        text("bare point", "{\"a\":.5}"),
        text("point at the end", "{\"a\":1.}"),
        text("bare exponent", "{\"a\":1e}"),
        text("hexadecimal", "{\"a\":0x1}"),
        text("True", "{\"a\":True}"),
        text("undefined", "{\"a\":undefined}"),
        text("unknown escape", "{\"a\":\"\\x00\"}"),
        text("short escape", "{\"a\":\"\\u00\"}"),
        text("escaped NUL", "{\"a\":\"\\u0000\"}"),
        text("escaped NUL in a name", "{\"\\u0000\":1}"),
        text("half of a pair", "{\"a\":\"\\ud800\"}"),
        text("other half of a pair", "{\"a\":\"\\udc00\"}"),
        text("pair the wrong way round", "{\"a\":\"\\udc00\\ud800\"}"),
        text("half of a pair in a name", "{\"\\ud83d\":1}"),
        bytes("control character", b"{\"a\":\"\x01\"}"),
        bytes("newline in a string", b"{\"a\":\"\n\"}"),
        bytes("NUL in a string", b"{\"a\":\"\0\"}"),
        bytes("NUL after it", b"{\"a\":1}\0"),
        bytes("byte order mark", b"\xef\xbb\xbf{\"a\":1}"),
        bytes("UTF-16", b"\xff\xfe{\x00\"\x00a\x00\"\x00:\x001\x00}\x00"),
        bytes("stray continuation", b"{\"a\":\"\x80\"}"),
        bytes("overlong slash", b"{\"a\":\"\xc0\xaf\"}"),
        bytes("surrogate in UTF-8", b"{\"a\":\"\xed\xa0\x80\"}"),
        bytes("beyond Unicode", b"{\"a\":\"\xf4\x90\x80\x80\"}"),
        bytes("cut character", b"{\"a\":\"\xe2\x82\"}"),
        bytes("Latin-1", b"{\"a\":\"M\xfcller\"}"),
        bytes("not UTF-8 in a name", b"{\"\xff\":1}"),
        text("a number", "1"),
        text("a string", "\"{}\""),
        text("true", "true"),
    ];
    for (name, open, close) in [("arrays", "[", "]"), ("objects", "{\"a\":", "}")] {
        let deep = |depth: usize| format!("{{\"a\":{}1{}}}", open.repeat(depth), close.repeat(depth));
        shapes.push((name, deep(128).into_bytes()));
        shapes.push((name, deep(20_000 / open.len()).into_bytes()));
        shapes.push((name, open.repeat(20_000 / open.len()).into_bytes()));
    }
    shapes
}

async fn send(app: &TestApp, key: &str, operation: &(String, Method, String), body: Vec<u8>) -> Answer {
    let media_type = [("content-type", "application/json")];
    call(app, operation.1.clone(), &operation.2, key, &media_type, body).await
}

#[tokio::test]
async fn what_is_no_json_or_must_not_be_stored_is_refused_alike_everywhere() {
    let app = TestApp::start().await;
    let operations = operations(&app);
    assert!(operations.len() >= 15, "{operations:?}");
    let keys = [&app.organization.sender, &app.organization.reader, &app.organization.admin, &app.platform];
    let mut faults = Vec::new();
    let shapes = refused();
    for operation in &operations {
        let mut allowed = None;
        for key in keys {
            if send(&app, key, operation, b"[".to_vec()).await.status != 403 {
                allowed = Some(key);
                break;
            }
        }
        let key = allowed.unwrap_or_else(|| panic!("nobody may use {}", operation.0));
        for (name, body) in &shapes {
            let answer = send(&app, key, operation, body.clone()).await;
            let code = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default()["code"].clone();
            let expected = match *name {
                "escaped NUL"
                | "escaped NUL in a name"
                | "half of a pair"
                | "other half of a pair"
                | "pair the wrong way round"
                | "half of a pair in a name" => Some("invalid_string"),
                "UTF-16"
                | "stray continuation"
                | "overlong slash"
                | "surrogate in UTF-8"
                | "beyond Unicode"
                | "cut character"
                | "Latin-1"
                | "not UTF-8 in a name" => Some("invalid_utf8"),
                _ => None,
            };
            if answer.status != 400 || expected.is_some_and(|expected| code != expected) {
                faults.push(format!("{}: {name}: {} {code}", operation.0, answer.status));
            }
        }
    }
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), operations.len() * shapes.len(), faults.join("\n"));
    println!("{} shapes on {} routes: all 400", shapes.len(), operations.len());
    for table in ["jobs", "payloads", "athena_events"] {
        let rows = match table {
            "jobs" => app.count("select count(*) from jobs").await,
            "payloads" => app.count("select count(*) from payloads").await,
            _ => app.count("select count(*) from athena_events").await,
        };
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn a_key_that_is_there_twice_in_an_envelope_is_refused() {
    let app = TestApp::start().await;
    let sender = app.organization.sender.clone();
    let bundle = |text: &str| (Method::POST, "/v1/ingestion/fhir/Bundle", sender.clone(), text.to_owned());
    let event = |text: &str| (Method::POST, "/ingest/athena", sender.clone(), text.to_owned());
    let organization = format!("/v1/admin/organizations/{}/settings", app.organization.id);
    let patient = r#"{"resource":{"resourceType":"Patient"}}"#;
    for (method, path, key, body) in [
        bundle(&format!(r#"{{"resourceType":"Bundle","resourceType":"Bundle","type":"batch","entry":[{patient}]}}"#)),
        bundle(&format!(r#"{{"resourceType":"Bundle","type":"batch","type":"message","entry":[{patient}]}}"#)),
        bundle(&format!(r#"{{"resourceType":"Bundle","type":"batch","entry":[{patient}],"entry":[]}}"#)),
        bundle(&format!(r#"{{"resourceType":"Bundle","type":"batch","ent\u0072y":[{patient}],"entry":[]}}"#)),
        bundle(
            r#"{"resourceType":"Bundle","type":"batch","entry":[{"resource":{"resourceType":"Patient"},"resource":{"resourceType":"Patient"}}]}"#,
        ),
        event(r#"{"athena_patient_id":"1","athena_patient_id":"2","event_type":"lab","payload":{}}"#),
        event(r#"{"athena_patient_id":"1","event_type":"lab","payload":{},"payload":[]}"#),
        (Method::POST, "/ingest/athena/batch", sender.clone(), r#"{"events":[{}],"events":[{}]}"#.to_owned()),
        (Method::POST, "/v1/ingestion/upload-url", sender.clone(), r#"{"sizeBytes":1,"sizeBytes":2}"#.to_owned()),
        (Method::POST, "/v1/clinical/search", app.organization.reader.clone(), r#"{"mrn":"1","mrn":"2"}"#.to_owned()),
        (Method::PUT, organization.as_str(), app.platform.clone(), r#"{"runningMax":1,"runningMax":2}"#.to_owned()),
    ] {
        let answer = call(&app, method, path, &key, &[("content-type", "application/json")], body.clone()).await;
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 400, "{path} {body}: {text}");
    }
    assert_eq!(app.count("select count(*) from jobs").await, 0);
}
