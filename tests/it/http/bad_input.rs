//! Every kind of bad request: its 4xx, as a whole problem document, without any value of the body, and nothing recorded.

use super::{BUNDLE, FHIR, call, content_type, get, gzip, post_bundle, small, with_member};
use crate::support::app::{Setup, TestApp, create_key};
use chartgate::auth::store::{self, KeyGrant};
use chartgate::auth::{NewKey, Role};
use chartgate::db::{DbError, Scope};
use reqwest::Method;
use serde_json::json;
use time::{Duration, OffsetDateTime};

/// Stands in every bad body where a value may stand, and in no answer.
const CANARY: &str = "CANARY-Shaw";

fn bundle(entries: &str) -> String {
    format!(r#"{{"resourceType": "Bundle", "type": "batch", "id": "{CANARY}", "entry": [{entries}]}}"#)
}

fn patient(members: &str) -> String {
    format!(r#"{{"resource": {{"resourceType": "Patient", "name": [{{"family": "{CANARY}"}}]{members}}}}}"#)
}

/// A body, its code, and the place that the problem names.
type Row = (Vec<u8>, &'static str, Option<(&'static str, &'static str)>);

fn bad_bodies() -> Vec<Row> {
    let good = patient("");
    let row = |body: String, code: &'static str| (body.into_bytes(), code, None);
    let at = |body: String, code: &'static str, expression: &'static str, pointer: &'static str| {
        (body.into_bytes(), code, Some((expression, pointer)))
    };
    let second = |entry: &str| bundle(&format!("{good}, {entry}"));
    let mut truncated = second(&good);
    truncated.truncate(truncated.len() - 7);
    let not_a_bundle = |body: &str| at(body.to_owned(), "not_a_bundle", "Bundle.resourceType", "/resourceType");
    let bad_type = |body: String| at(body, "unsupported_bundle_type", "Bundle.type", "/type");
    let empty = |body: String| at(body, "empty_bundle", "Bundle.entry", "/entry");
    let no_resource =
        |entry: &str| at(second(entry), "entry_without_resource", "Bundle.entry[1].resource", "/entry/1/resource");
    let untyped = |resource: &str| {
        let entry = format!(r#"{{"resource": {resource}}}"#);
        at(second(&entry), "entry_without_resource_type", "Bundle.entry[1].resource", "/entry/1/resource")
    };
    let odd_string = |string: &str| {
        at(second(&patient(&format!(r#", "id": "{string}""#))), "invalid_string", "Bundle.entry[1]", "/entry/1")
    };
    let nested = |open: &str, close: &str, levels: usize| {
        let value = format!(", \"x\": {}1{}", open.repeat(levels), close.repeat(levels));
        at(second(&patient(&value)), "too_deep", "Bundle.entry[1]", "/entry/1")
    };
    vec![
        row(String::new(), "empty_body"),
        (b"{\"resourceType\": \"Bundle\xff\"}".to_vec(), "invalid_utf8", None),
        // Latin-1, UTF-16, an overlong slash, an encoded surrogate.
        ([bundle(&good).as_bytes(), b"\xe4"].concat(), "invalid_utf8", None),
        (bundle(&good).encode_utf16().flat_map(u16::to_le_bytes).collect(), "invalid_json", None),
        (b"\xff\xfe{\0}\0".to_vec(), "invalid_utf8", None),
        (b"{\"a\": \"\xc0\xaf\"}".to_vec(), "invalid_utf8", None),
        (b"{\"a\": \"\xed\xa0\x80\"}".to_vec(), "invalid_utf8", None),
        row("MSH|^~\\&|CANARY-Shaw".to_owned(), "invalid_json"),
        row(format!("<Bundle><id value=\"{CANARY}\"/></Bundle>"), "invalid_json"),
        row("   \n".to_owned(), "invalid_json"),
        row("\0".to_owned(), "invalid_json"),
        row(truncated, "invalid_json"),
        row(format!("{} {}", bundle(&good), bundle(&good)), "invalid_json"),
        row(bundle(&patient(", \"x\": 01")), "invalid_json"),
        row(bundle(&patient(", \"x\": NaN")), "invalid_json"),
        row(bundle(&patient(", \"x\": \"a\tb\"")), "invalid_json"),
        row(bundle(&patient(", \"x\": \"\\x41\"")), "invalid_json"),
        row(bundle(&patient(",")), "invalid_json"),
        row("[".repeat(200_000), "invalid_json"),
        not_a_bundle("[]"),
        not_a_bundle("null"),
        not_a_bundle("\"Bundle\""),
        not_a_bundle("{}"),
        not_a_bundle(r#"{"resourceType": "Patient", "id": "CANARY-Shaw"}"#),
        not_a_bundle(r#"{"resourcetype": "Bundle", "type": "batch"}"#),
        not_a_bundle(&format!("[{}]", bundle(&good))),
        bad_type(r#"{"resourceType": "Bundle"}"#.to_owned()),
        bad_type(bundle(&good).replace("batch", "searchset")),
        bad_type(bundle(&good).replace("batch", "CANARY-Shaw")),
        bad_type(bundle(&good).replace("\"batch\"", "[\"batch\"]")),
        bad_type(bundle(&good).replace("batch", "Transaction")),
        empty(r#"{"resourceType": "Bundle", "type": "batch"}"#.to_owned()),
        empty(r#"{"resourceType": "Bundle", "type": "batch", "entry": {"resource": {}}}"#.to_owned()),
        empty(bundle("")),
        no_resource("{}"),
        no_resource("null"),
        no_resource("\"CANARY-Shaw\""),
        no_resource(r#"{"fullUrl": "urn:CANARY-Shaw"}"#),
        no_resource(r#"{"resource": null}"#),
        no_resource(r#"{"resource": "CANARY-Shaw"}"#),
        untyped("{}"),
        untyped(r#"{"id": "CANARY-Shaw"}"#),
        untyped(r#"{"resourceType": 1}"#),
        untyped(r#"{"resourceType": ""}"#),
        at(bundle(&good).replacen('{', "{\"type\": \"batch\", ", 1), "duplicate_key", "Bundle", ""),
        at(
            second(r#"{"resource": {"resourceType": "Patient"}, "resource": {"resourceType": "Patient"}}"#),
            "duplicate_key",
            "Bundle.entry[1]",
            "/entry/1",
        ),
        at(
            second(r#"{"resource": {"resourceType": "Patient", "resourceTyp\u0065": "Patient"}}"#),
            "duplicate_key",
            "Bundle.entry[1]",
            "/entry/1",
        ),
        nested("[", "]", 200),
        nested("{\"a\":", "}", 200),
        nested("[", "]", 200_000),
        odd_string("a\\u0000b"),
        odd_string("\\ud800"),
        odd_string("\\udc00\\ud800"),
        odd_string("\\ud83d x"),
        at(second(&patient(r#", "\u0000": 1"#)), "invalid_string", "Bundle.entry[1]", "/entry/1"),
    ]
}

#[tokio::test]
async fn every_bad_body_is_refused_with_its_code_and_place_and_without_its_values() {
    let app = TestApp::start().await;
    for (body, code, place) in bad_bodies() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        for (headers, sent) in [(vec![FHIR], body.clone()), (vec![FHIR, ("content-encoding", "gzip")], gzip(&body))] {
            let answer = post_bundle(&app, &headers, sent).await;
            assert_eq!(answer.json()["code"], code, "{shown}");
            let problem = answer.problem(400, code);
            let (expression, pointer) =
                place.map_or((None, None), |(expression, pointer)| (Some(expression), Some(pointer)));
            assert_eq!(problem["expression"].as_str(), expression, "{shown}: {problem}");
            assert_eq!(problem["pointer"].as_str(), pointer, "{shown}: {problem}");
            assert!(!String::from_utf8_lossy(&answer.body).contains(CANARY), "{problem}");
        }
    }
    assert_eq!(app.count("select count(*) from jobs").await, 0);
    assert_eq!(app.count("select count(*) from payloads").await, 0);
}

#[tokio::test]
async fn whoever_asks_for_fhir_gets_an_operation_outcome() {
    let app = TestApp::start().await;
    let accept = ("accept", "application/fhir+json");
    let answer = post_bundle(&app, &[FHIR, accept], bundle(&format!("{}, {{}}", patient("")))).await;
    assert_eq!((answer.status, content_type(&answer.headers)), (400, "application/fhir+json"));
    let outcome = answer.json();
    let request = answer.header("x-request-id").unwrap();
    assert_eq!(
        outcome,
        json!({"resourceType": "OperationOutcome", "issue": [{
            "severity": "error",
            "code": "structure",
            "details": {
                "coding": [{"system": "urn:chartgate:error-code", "code": "entry_without_resource"}],
                "text": "Bundle.entry[1] has no resource object.",
            },
            "diagnostics": format!("requestId {request}. Give each entry a resource."),
            "expression": ["Bundle.entry[1].resource"],
        }]})
    );
    for (key, path, status, code) in [
        ("", "/v1/ingestion/jobs", 401, "login"),
        (app.platform.as_str(), "/v1/ingestion/jobs", 403, "forbidden"),
        (app.platform.as_str(), "/v1/ingestion/jobs/job_x", 404, "not-found"),
        ("", "/nowhere", 404, "not-found"),
    ] {
        let answer = call(&app, Method::GET, path, key, &[accept], "").await;
        assert_eq!((answer.status, content_type(&answer.headers)), (status, "application/fhir+json"), "{path}");
        assert_eq!(answer.json()["issue"][0]["code"], code);
    }
}

#[tokio::test]
async fn media_types_and_encodings_that_are_not_known_are_415() {
    let app = TestApp::start().await;
    let sender = &app.organization.sender;
    for media_type in [
        "text/plain",
        "application/xml",
        "application/fhir+xml",
        "application/x-ndjson",
        "*/*",
        "application/jsonx",
        "json",
        ";",
        "",
    ] {
        post_bundle(&app, &[("content-type", media_type)], small(1)).await.problem(415, "unsupported_media_type");
    }
    call(&app, Method::POST, BUNDLE, sender, &[], small(1)).await.problem(415, "unsupported_media_type");
    for encoding in ["br", "deflate", "zstd", "gzip, gzip", "gzip, br", "aws-chunked", "GZIPPED"] {
        let answer = post_bundle(&app, &[FHIR, ("content-encoding", encoding)], small(1)).await;
        answer.problem(415, "unsupported_content_encoding");
    }
}

#[tokio::test]
async fn gzip_that_cannot_be_undone_is_a_400() {
    let app = TestApp::start().await;
    let zipped = gzip(&small(1));
    let mut wrong_sum = zipped.clone();
    let end = wrong_sum.len() - 6;
    wrong_sum[end] ^= 0xff;
    let trailing = [&zipped[..], b"garbage"].concat();
    for body in [small(1), Vec::new(), zipped[..zipped.len() - 9].to_vec(), zipped[..5].to_vec(), wrong_sum, trailing] {
        let answer = post_bundle(&app, &[FHIR, ("content-encoding", "gzip")], body).await;
        answer.problem(400, "invalid_gzip");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_names_the_upload_url() {
    let app = TestApp::start().await;
    let limit = app.app.config.intake_max_body_bytes;
    let sized = |size: usize| {
        let mut body = small(1);
        body.resize(size, b' ');
        body
    };
    let over = post_bundle(&app, &[FHIR], sized(limit + 1)).await.problem(413, "payload_too_large");
    assert!(over["detail"].as_str().unwrap().contains("/v1/ingestion/upload-url"), "{over}");
    // 256 MiB of spaces in 256 KiB: a bomb.
    let bomb = gzip(&vec![b' '; 256 << 20]);
    assert!(bomb.len() < 4 << 20, "{}", bomb.len());
    let over = post_bundle(&app, &[FHIR, ("content-encoding", "gzip")], bomb).await.problem(413, "payload_too_large");
    assert!(over["detail"].as_str().unwrap().contains("/v1/ingestion/upload-url"), "{over}");
    let over = post_bundle(&app, &[FHIR, ("content-encoding", "gzip")], gzip(&sized(limit + 1))).await;
    over.problem(413, "payload_too_large");
    assert_eq!(post_bundle(&app, &[FHIR], sized(limit)).await.status, 202);
}

#[tokio::test]
async fn an_idempotency_key_is_1_to_255_visible_ascii_characters() {
    let app = TestApp::start().await;
    for key in ["", " ", "a b", "caf\u{e9}", "ключ", "a\tb", &"k".repeat(256), &"k".repeat(5_000)] {
        let answer = post_bundle(&app, &[FHIR, ("idempotency-key", key)], small(1)).await;
        answer.problem(400, "invalid_idempotency_key");
    }
    let twice = post_bundle(&app, &[FHIR, ("idempotency-key", "a"), ("idempotency-key", "b")], small(1)).await;
    twice.problem(400, "invalid_idempotency_key");
    assert_eq!(app.count("select count(*) from jobs").await, 0);
    for key in ["~", "sha256:0", "'; drop table jobs; --".replace(' ', "+").as_str(), &"k".repeat(255)] {
        assert_eq!(post_bundle(&app, &[FHIR, ("idempotency-key", key)], small(1)).await.status, 202, "{key}");
    }
}

#[tokio::test]
async fn an_unknown_doubled_or_unreadable_query_parameter_is_a_400() {
    let app = TestApp::start().await;
    for query in [
        "validateonly=true",
        "x=1",
        "validateOnly=maybe",
        "validateOnly",
        "validateOnly=true&validateOnly=false",
        "%ff=1",
        "validateOnly=%ff",
    ] {
        let answer =
            call(&app, Method::POST, &format!("{BUNDLE}?{query}"), &app.organization.sender, &[FHIR], small(1)).await;
        answer.problem(400, "invalid_parameter");
    }
}

async fn expired_key(app: &TestApp) -> String {
    let key = NewKey::generate();
    let text = key.key.clone();
    let organization = Some(app.organization.id);
    let expires_at = Some(OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap() - Duration::days(1));
    app.app
        .db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move {
                let (name, source) = ("test".into(), "default".into());
                let grant = KeyGrant { organization, role: Role::Sender, name, source, expires_at };
                store::insert_key(connection, &key, &grant).await
            })
        })
        .await
        .unwrap();
    text
}

#[tokio::test]
async fn every_way_to_have_no_valid_key_is_the_same_401() {
    let app = TestApp::start().await;
    let sender = app.organization.sender.clone();
    let (head, secret) = sender.rsplit_once('_').unwrap();
    let revoked = create_key(&app.app, Some(app.organization.id), Role::Sender).await;
    let id = revoked.split('_').nth(1).unwrap();
    let path = format!("/v1/admin/keys/{id}");
    assert_eq!(call(&app, Method::DELETE, &path, &app.organization.admin, &[], "").await.status, 204);
    let values = [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        sender.clone(),
        format!("Basic {sender}"),
        format!("Bearer {}", NewKey::generate().key),
        format!("Bearer {head}_{}", "0".repeat(64)),
        format!("Bearer {head}_{}", secret.to_uppercase()),
        format!("Bearer {sender}0"),
        format!("Bearer {}", &sender[..sender.len() - 1]),
        format!("Bearer {sender}, Bearer {sender}"),
        format!("Bearer cgk_{}_{secret}", "%00".repeat(5)),
        "Bearer eyJhbGciOiJub25lIn0.e30.".to_owned(),
        format!("Bearer {}", "x".repeat(8_000)),
        format!("Bearer {revoked}"),
        format!("Bearer {}", expired_key(&app).await),
    ];
    let mut details = std::collections::BTreeSet::new();
    for value in &values {
        let answer = call(&app, Method::POST, BUNDLE, "", &[FHIR, ("authorization", value)], small(1)).await;
        let problem = answer.problem(401, "unauthenticated");
        details.insert(problem["detail"].as_str().unwrap().to_owned());
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert!(!String::from_utf8_lossy(&answer.body).contains("cgk_"), "{problem}");
    }
    call(&app, Method::POST, BUNDLE, "", &[FHIR], small(1)).await.problem(401, "unauthenticated");
    assert_eq!(details.len(), 1, "{details:?}");
    // One after another of the same kind are told by one record and a count.
    app.app.denials.flush().await;
    let counted = "select (count(*) filter (where not detail ? 'repetitions') + coalesce(sum((detail->>'repetitions')::bigint), 0))::bigint
        from audit_records where event = 'access.denied' and outcome = 'denied'";
    let denied = app.count(counted).await;
    assert_eq!(denied, i64::try_from(values.len()).unwrap() + 1);
    // The scheme's case does not matter (RFC 9110, 11.1).
    let answer =
        call(&app, Method::POST, BUNDLE, "", &[FHIR, ("authorization", &format!("bEARER {sender}"))], small(1)).await;
    assert_eq!(answer.status, 202);
}

#[tokio::test]
async fn the_checks_come_in_order_authentication_role_media_type_size_body() {
    let setup = Setup::default();
    let app = TestApp::with(setup).await;
    let big = vec![b'{'; app.app.config.intake_max_body_bytes + 1];
    let reader = app.organization.reader.clone();
    let sender = app.organization.sender.clone();
    let xml = ("content-type", "application/xml");
    for (key, header, body, status, code) in [
        ("", xml, big.clone(), 401, "unauthenticated"),
        (reader.as_str(), xml, big.clone(), 403, "forbidden"),
        (sender.as_str(), xml, big.clone(), 415, "unsupported_media_type"),
        (sender.as_str(), FHIR, big.clone(), 413, "payload_too_large"),
        (sender.as_str(), FHIR, b"{".to_vec(), 400, "invalid_json"),
    ] {
        call(&app, Method::POST, BUNDLE, key, &[header], body).await.problem(status, code);
    }
}

#[tokio::test]
async fn an_unknown_route_is_a_404_and_a_wrong_method_a_405_with_its_alternatives() {
    let app = TestApp::start().await;
    let sender = app.organization.sender.clone();
    for path in [
        "/",
        "/v1",
        "/v1/ingestion/fhir/Bundle/",
        "/V1/ingestion/jobs",
        "/v1//ingestion/jobs",
        "/v1/ingestion/jobs/",
        "/.env",
        "/v1/ingestion/fhir/Patient",
        "/docs/errors/nothing",
        "/ingest/clinical/",
        "/ingest/clinical/a/b",
    ] {
        get(&app, &sender, path).await.problem(404, "not_found");
        get(&app, "", path).await.problem(404, "not_found");
    }
    for (method, path, allowed) in [
        (Method::GET, BUNDLE, vec!["POST"]),
        (Method::PUT, BUNDLE, vec!["POST"]),
        (Method::OPTIONS, BUNDLE, vec!["POST"]),
        (Method::POST, "/v1/ingestion/jobs", vec!["GET", "HEAD"]),
        (Method::DELETE, "/v1/ingestion/jobs/job_x", vec!["GET", "HEAD"]),
        (Method::PATCH, "/v1/admin/keys", vec!["GET", "HEAD", "POST"]),
        (Method::from_bytes(b"BREW").unwrap(), "/health/live", vec!["GET", "HEAD"]),
    ] {
        let answer = call(&app, method, path, &sender, &[], "").await;
        answer.problem(405, "method_not_allowed");
        let mut allow: Vec<&str> = answer.header("allow").unwrap().split(',').map(str::trim).collect();
        allow.sort_unstable();
        assert_eq!(allow, allowed, "{path}");
    }
}

#[tokio::test]
async fn every_code_has_its_page_where_the_problem_points() {
    let app = TestApp::start().await;
    // Those of answers, and those of jobs.
    let codes = chartgate::http::problem::CODES.iter().map(|code| code.code);
    for code in codes.chain(["worker_killed", "validation_failed", "object_store_unavailable"]) {
        let page = get(&app, "", &format!("/docs/errors/{code}")).await;
        assert_eq!((page.status, content_type(&page.headers)), (200, "text/markdown; charset=utf-8"));
        assert!(String::from_utf8(page.body).unwrap().starts_with(&format!("# `{code}`")));
    }
}

#[tokio::test]
async fn a_duplicate_key_deep_inside_is_for_the_validate_step() {
    let app = TestApp::start().await;
    let mut body = with_member("birthDate", &json!("1987-02-20")).to_string();
    body = body.replace("\"birthDate\"", "\"birthDate\":\"1987-02-21\",\"birthDate\"");
    assert_eq!(post_bundle(&app, &[FHIR], body).await.status, 202);
}
