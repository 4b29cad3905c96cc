//! Signed webhooks: what is let in, what a repetition gives, and that everything near a right request is refused.

use crate::http::{Answer, BUNDLE, call, get, gzip, small};
use crate::support::app::{Setup, TestApp};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chartgate::app::App;
use chartgate::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const JSON: (&str, &str) = ("content-type", "application/json");
const FHIR: (&str, &str) = ("content-type", "application/fhir+json");

fn now() -> i64 {
    Clock::system().now().unix_timestamp()
}

/// `v1,…` as a sender makes it: its own reading of the specification, not the code that is tested.
fn sign(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> String {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    format!("v1,{}", STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed)))
}

struct Sender {
    name: String,
    secret: String,
    id: String,
}

/// A sender of the organization whose admin this is.
async fn sender(app: &TestApp, admin: &str, body: &Value) -> Sender {
    let (status, made) = app.post(admin, "/v1/admin/webhook-secrets", body).await;
    assert_eq!(status, 201, "{made}");
    let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
    let given = body["secret"].as_str().map(str::to_owned);
    assert_eq!(given.is_some(), made["secret"].is_null(), "only a secret of our own making is shown");
    Sender { name: text("sender"), secret: given.unwrap_or_else(|| text("secret")), id: text("id") }
}

/// A request with headers as they are given; the content type beside them.
async fn send(app: &TestApp, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let kind = if path.starts_with(BUNDLE) { FHIR } else { JSON };
    let headers: Vec<(&str, &str)> = std::iter::once(kind).chain(headers.iter().copied()).collect();
    call(app, Method::POST, path, "", &headers, body.to_vec()).await
}

/// A request that is right.
async fn push(app: &TestApp, sender: &Sender, path: &str, id: &str, at: i64, body: &[u8]) -> Answer {
    let at = at.to_string();
    let signature = sign(&sender.secret, id, &at, body);
    let headers = [
        ("chartgate-key", sender.name.as_str()),
        ("webhook-id", id),
        ("webhook-timestamp", &at),
        ("webhook-signature", &signature),
    ];
    send(app, path, &headers, body).await
}

#[tokio::test]
async fn a_signed_bundle_is_taken_and_its_repetition_gives_the_same_job() {
    let app = TestApp::start().await;
    let admin = app.organization.admin.clone();
    let lab = sender(&app, &admin, &json!({"name": "lab system", "source": "lab"})).await;
    let body = small(1);
    let first = push(&app, &lab, BUNDLE, "msg_1", now(), &body).await;
    assert_eq!(first.status, 202, "{}", String::from_utf8_lossy(&first.body));
    let first = first.json();
    assert_eq!(first["duplicate"], false);
    // The very same request again, and another attempt of the sender's.
    for at in [now(), now() - 200] {
        let again = push(&app, &lab, BUNDLE, "msg_1", at, &body).await;
        assert_eq!(
            (again.status, &again.json()["jobId"], &again.json()["duplicate"]),
            (202, &first["jobId"], &json!(true))
        );
    }
    push(&app, &lab, BUNDLE, "msg_1", now(), &small(2)).await.problem(422, "idempotency_key_reused");
    let other = push(&app, &lab, BUNDLE, "msg_2", now(), &body).await.json();
    assert_ne!(other["jobId"], first["jobId"], "another id is another message");
    // Another sender has ids of its own.
    let ward = sender(&app, &admin, &json!({})).await;
    let ours = push(&app, &ward, BUNDLE, "msg_1", now(), &small(2)).await;
    assert_eq!((ours.status, &ours.json()["duplicate"]), (202, &json!(false)));

    let job = app.job(first["jobId"].as_str().unwrap()).await;
    let hexadecimal = lab.name.rsplit('_').next().unwrap();
    assert_eq!(job["submittedBy"], format!("webhook:{hexadecimal}"));
    assert_eq!(app.count("select count(*) from jobs where source_label = 'lab'").await, 2);
    let accepted = "select count(*) from audit_records where event = 'job.accepted' and authentication = 'webhook' and actor ~ '^webhook:[0-9a-f]{16}$'";
    assert_eq!(app.count(accepted).await, 3);
    assert_eq!(app.count("select count(*) from webhook_replays").await, 3);
    app.advance(Duration::from_hours(24 * 8)).await;
    assert_eq!(chartgate::auth::webhooks::forget_old(&app.app.db).await.unwrap(), 3);
    assert_eq!(app.count("select count(*) from webhook_replays").await, 0);
}

#[tokio::test]
async fn athena_events_are_pushed_alone_and_in_batches() {
    let app = TestApp::start().await;
    let athena = sender(&app, &app.organization.admin, &json!({"name": "athena"})).await;
    let event = |pulse: u32| json!({"athena_patient_id": "A-1", "event_type": "vitals", "payload": {"pulse": pulse}});
    let body = event(60).to_string();
    let first = push(&app, &athena, "/ingest/athena", "e1", now(), body.as_bytes()).await.json();
    let again = push(&app, &athena, "/ingest/athena", "e1", now(), body.as_bytes()).await.json();
    assert_eq!((&first["status"], &again["status"]), (&json!("accepted"), &json!("duplicate")));
    assert_eq!(first["event_id"], again["event_id"]);
    let changed = push(&app, &athena, "/ingest/athena", "e1", now(), event(61).to_string().as_bytes()).await;
    changed.problem(422, "idempotency_key_reused");
    let batch = json!([event(62), event(60), {"athena_patient_id": ""}]).to_string();
    let batch = push(&app, &athena, "/ingest/athena/batch", "b1", now(), batch.as_bytes()).await;
    let counts = batch.json();
    assert_eq!(
        (batch.status, &counts["accepted"], &counts["duplicates"], &counts["rejected"]),
        (202, &json!(1), &json!(1), &json!(1))
    );
    // A recorded request does no harm on another route either.
    let at = now().to_string();
    let signature = sign(&athena.secret, "e1", &at, body.as_bytes());
    let headers = [
        ("chartgate-key", athena.name.as_str()),
        ("webhook-id", "e1"),
        ("webhook-timestamp", &at),
        ("webhook-signature", &signature),
    ];
    assert_eq!(send(&app, BUNDLE, &headers, body.as_bytes()).await.status, 400);
    // A signature is for submitting; for everything else there are keys.
    for (method, path) in [
        (Method::GET, "/v1/ingestion/jobs"),
        (Method::POST, "/v1/ingestion/upload-url"),
        (Method::GET, "/v1/admin/keys"),
    ] {
        call(&app, method, path, "", &headers, body.clone()).await.problem(401, "unauthenticated");
    }
}

#[tokio::test]
async fn everything_near_a_right_request_is_refused_alike() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let lab = sender(&app, &app.organization.admin, &json!({})).await;
    let theirs = sender(&app, &other.admin, &json!({})).await;
    let body = small(1);
    let (id, at) = ("msg_1", now().to_string());
    let right = sign(&lab.secret, id, &at, &body);
    let pretty = serde_json::to_vec_pretty(&serde_json::from_slice::<Value>(&body).unwrap()).unwrap();
    let spaced = [&body[..], b" "].concat();
    let moved = lab.name.replace(lab.name.split('_').nth(1).unwrap(), theirs.name.split('_').nth(1).unwrap());
    let unknown = format!("{}0000000000000000", &lab.name[..lab.name.len() - 16]);
    let late = |seconds: i64| (now() - seconds).to_string();
    let (old, young) = (late(301), late(-302));
    let at_old = sign(&lab.secret, id, &old, &body);
    let at_young = sign(&lab.secret, id, &young, &body);
    let dotted = format!("{id}.{at}");
    // The id runs over into the timestamp: the same bytes are signed.
    let run_over = sign(&lab.secret, &dotted, &at, &body);
    let by_other = sign(&theirs.secret, id, &at, &body);
    let versions = format!("{} {}", right.replace("v1,", "v1a,"), right.replace("v1,", "v2,"));
    let many = [by_other.as_str(); 10].join(" ") + " " + &right;
    let long = "x".repeat(201);
    let long_signature = sign(&lab.secret, &long, &at, &body);
    let mut refused = 0;
    for (what, key, id, at, signature, body) in [
        ("no key", "", id, at.as_str(), right.as_str(), &body),
        ("a key that is none", "whs_x", id, &at, &right, &body),
        ("an API key as the sender", &app.organization.sender, id, &at, &right, &body),
        ("a sender that nobody has", &unknown, id, &at, &right, &body),
        ("another organization's name before our sender", &moved, id, &at, &right, &body),
        ("another organization's sender", &theirs.name, id, &at, &right, &body),
        ("another organization's secret", &lab.name, id, &at, &by_other, &body),
        ("no signature", &lab.name, id, &at, "", &body),
        ("a signature that is none", &lab.name, id, &at, "nonsense", &body),
        ("without its version", &lab.name, id, &at, &right[3..], &body),
        ("of other versions only", &lab.name, id, &at, &versions, &body),
        ("truncated", &lab.name, id, &at, &right[..right.len() - 2], &body),
        ("the eleventh signature", &lab.name, id, &at, &many, &body),
        ("another id", &lab.name, "msg_2", &at, &right, &body),
        ("no id", &lab.name, "", &at, &right, &body),
        ("an id with a full stop", &lab.name, &dotted, &at, &run_over, &body),
        ("an id that is too long", &lab.name, &long, &at, &long_signature, &body),
        ("301 s ago", &lab.name, id, &old, &at_old, &body),
        ("302 s ahead", &lab.name, id, &young, &at_young, &body),
        ("another time than was signed", &lab.name, id, &late(1), &right, &body),
        ("no time", &lab.name, id, "", &right, &body),
        ("a time in words", &lab.name, id, "now", &right, &body),
        ("a time with a sign", &lab.name, id, &format!("+{at}"), &right, &body),
        ("a time in milliseconds", &lab.name, id, &format!("{at}000"), &right, &body),
        ("a time in fractions", &lab.name, id, &format!("{at}.0"), &right, &body),
        ("a body that was written anew", &lab.name, id, &at, &right, &pretty),
        ("a space more", &lab.name, id, &at, &right, &spaced),
        ("another body", &lab.name, id, &at, &right, &small(2)),
        ("no body", &lab.name, id, &at, &right, &Vec::new()),
    ] {
        let headers =
            [("chartgate-key", key), ("webhook-id", id), ("webhook-timestamp", at), ("webhook-signature", signature)];
        let answer = send(&app, BUNDLE, &headers, body).await;
        let problem = answer.problem(401, "unauthenticated");
        assert_eq!(problem["detail"], "The request has no valid credentials.", "{what}");
        refused += 1;
    }
    // Each header once, and no second way to say who one is.
    let headers = [
        ("chartgate-key", lab.name.as_str()),
        ("webhook-id", id),
        ("webhook-timestamp", &at),
        ("webhook-signature", &right),
    ];
    for index in 0..headers.len() {
        let doubled: Vec<_> = headers.iter().copied().chain([headers[index]]).collect();
        send(&app, BUNDLE, &doubled, &body).await.problem(401, "unauthenticated");
        let without: Vec<_> = headers.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, one)| *one).collect();
        send(&app, BUNDLE, &without, &body).await.problem(401, "unauthenticated");
        refused += 2;
    }
    let bearer = format!("Bearer {}", app.organization.sender);
    let both: Vec<_> = headers.iter().copied().chain([("authorization", bearer.as_str())]).collect();
    send(&app, BUNDLE, &both, &body).await.problem(401, "unauthenticated");
    let keyed: Vec<_> = headers.iter().copied().chain([("idempotency-key", "mine")]).collect();
    send(&app, BUNDLE, &keyed, &body).await.problem(400, "invalid_idempotency_key");
    println!("{} requests refused", refused + 2);
    assert_eq!(app.count("select count(*) from jobs").await, 0);
    // Within the tolerance, and with the right signature among others, it is taken.
    assert_eq!(push(&app, &lab, BUNDLE, "late", now() - 298, &body).await.status, 202);
    assert_eq!(push(&app, &lab, BUNDLE, "early", now() + 298, &body).await.status, 202);
    let several = format!("{by_other} v1a,AAAA {right}");
    let headers = [
        ("chartgate-key", lab.name.as_str()),
        ("webhook-id", id),
        ("webhook-timestamp", &at),
        ("webhook-signature", &several),
    ];
    assert_eq!(send(&app, BUNDLE, &headers, &body).await.status, 202);
}

#[tokio::test]
async fn the_bytes_of_the_wire_are_signed_and_nothing_else_is_decompressed() {
    let app = TestApp::start().await;
    let lab = sender(&app, &app.organization.admin, &json!({})).await;
    let (plain, at) = (small(1), now().to_string());
    let packed = gzip(&plain);
    let post = async |signature: &str, id: &str, body: &[u8]| {
        let headers = [
            ("chartgate-key", lab.name.as_str()),
            ("webhook-id", id),
            ("webhook-timestamp", &at),
            ("webhook-signature", signature),
            ("content-encoding", "gzip"),
        ];
        send(&app, BUNDLE, &headers, body).await
    };
    post(&sign(&lab.secret, "g", &at, &plain), "g", &packed).await.problem(401, "unauthenticated");
    let taken = post(&sign(&lab.secret, "g", &at, &packed), "g", &packed).await;
    assert_eq!(taken.json()["sha256"], crate::http::sha256(&plain));
    // What would be refused for its size once it is unpacked is refused before, without the signature.
    let bomb = gzip(&vec![b' '; 64 << 20]);
    post("v1,AAAA", "b", &bomb).await.problem(401, "unauthenticated");
    post(&sign(&lab.secret, "b", &at, &bomb), "b", &bomb).await.problem(413, "payload_too_large");
}

#[tokio::test]
async fn secrets_rotate_with_an_overlap_and_end_everywhere_within_five_seconds() {
    let app = TestApp::start().await;
    let admin = app.organization.admin.clone();
    let given = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let old = sender(&app, &admin, &json!({"name": "lab", "source": "lab", "secret": given})).await;
    assert_eq!(push(&app, &old, BUNDLE, "1", now(), &small(1)).await.status, 202);
    let objects = app.objects.objects.clone();
    let other = App::build(app.app.config.clone(), app.owner_options.clone(), objects).await.unwrap();
    let new = sender(&app, &admin, &json!({"sender": old.name, "overlapSeconds": 3600})).await;
    assert_eq!(new.name, old.name);
    assert_eq!(push(&app, &new, BUNDLE, "2", now(), &small(2)).await.status, 202);
    assert_eq!(push(&app, &old, BUNDLE, "3", now(), &small(3)).await.status, 202);
    // Both signatures, as a sender sends them while it rotates.
    let (body, at) = (small(4), now().to_string());
    let both = format!("{} {}", sign(&new.secret, "4", &at, &body), sign(&old.secret, "4", &at, &body));
    let headers = [
        ("chartgate-key", old.name.as_str()),
        ("webhook-id", "4"),
        ("webhook-timestamp", &at),
        ("webhook-signature", &both),
    ];
    assert_eq!(send(&app, BUNDLE, &headers, &body).await.status, 202);
    app.advance(Duration::from_secs(3_601)).await;
    let ends = async |sender: &Sender, number: &str| {
        let since = Instant::now();
        while push(&app, sender, BUNDLE, number, now(), &small(5)).await.status != 401 {
            assert!(since.elapsed() < Duration::from_secs(5), "still good after 5 s");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    ends(&old, "5").await;
    assert_eq!(push(&app, &new, BUNDLE, "6", now(), &small(6)).await.status, 202);

    // Revoked: on this process at once, on others when they look again.
    let verifies = async |app: &App| {
        let (at, body) = (now().to_string(), b"x");
        let signature = sign(&new.secret, "7", &at, body);
        let headers =
            chartgate::auth::webhooks::Headers { key: &new.name, id: "7", timestamp: &at, signature: &signature };
        match app.webhooks.begin(headers).await {
            Ok(pending) => pending.verify(body).is_ok(),
            Err(_) => false,
        }
    };
    assert!(verifies(&other).await);
    let since = Instant::now();
    let path = format!("/v1/admin/webhook-secrets/{}", new.id);
    assert_eq!(call(&app, Method::DELETE, &path, &admin, &[], "").await.status, 204);
    assert!(!verifies(&app.app).await, "at once here");
    while verifies(&other).await {
        assert!(since.elapsed() < Duration::from_secs(5), "still good after 5 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("revoked: refused by the other process after {:?}", since.elapsed());
    let records = "select count(*) from audit_records
        where event in ('webhook_secret.created', 'webhook_secret.revoked') and resource ~ '^webhook_secret:[0-9a-f]{16}$' and actor ~ '^key:'";
    assert_eq!(app.count(records).await, 3);
}

#[tokio::test]
async fn secrets_are_shown_once_stored_sealed_and_kept_to_their_organization() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let admin = app.organization.admin.clone();
    let one = sender(&app, &admin, &json!({"name": "lab"})).await;
    let raw = STANDARD.decode(&one.secret["whsec_".len()..]).unwrap();
    assert_eq!(raw.len(), 32);
    let listed = get(&app, &admin, "/v1/admin/webhook-secrets").await.json();
    assert_eq!((&listed["secrets"][0]["sender"], &listed["secrets"][0]["name"]), (&json!(one.name), &json!("lab")));
    assert!(!listed.to_string().contains(&one.secret["whsec_".len()..]));
    assert_eq!(
        get(&app, &other.admin, "/v1/admin/webhook-secrets").await.json(),
        json!({"secrets": [], "nextCursor": null})
    );
    let plain = "select count(*) from webhook_secrets s where position($1 in s.sealed_secret) > 0";
    let found: i64 = sqlx::query_scalar(plain).bind(&raw).fetch_one(&mut app.owner().await).await.unwrap();
    assert_eq!(found, 0, "no plain secret in the database");
    // A row that is copied to another organization opens nothing there.
    sqlx::query("insert into webhook_secrets (organization_id, id, sender_id, sealed_secret) select $1, id, sender_id, sealed_secret from webhook_secrets")
        .bind(other.id)
        .execute(&mut app.owner().await)
        .await
        .unwrap();
    let own_part = one.name.split('_').nth(1).unwrap();
    let copied = Sender {
        name: one.name.replace(own_part, other.id.to_string().strip_prefix("org_").unwrap()),
        secret: one.secret.clone(),
        id: one.id.clone(),
    };
    push(&app, &copied, BUNDLE, "1", now(), &small(1)).await.problem(401, "unauthenticated");

    let post = async |key: &str, body: Value| {
        call(&app, Method::POST, "/v1/admin/webhook-secrets", key, &[JSON], body.to_string()).await
    };
    for bad in [
        json!({"secret": "whsec_AAAA"}),
        json!({"secret": "x"}),
        json!({"secret": format!("whsec_{}", STANDARD.encode([1; 65]))}),
        json!({"source": ""}),
        json!({"source": "a\nb"}),
        json!({"name": "x".repeat(201)}),
        json!({"overlapSeconds": 1}),
        json!({"sender": one.name, "source": "x"}),
        json!({"sender": one.name, "overlapSeconds": 7_776_001}),
        json!({"stray": 1}),
    ] {
        post(&admin, bad).await.problem(400, "invalid_request");
    }
    for unknown in [
        "whs_x",
        &one.name.replace(own_part, "01h455vb4pex5vsknk084sn02q"),
        &format!("{}0000000000000000", &one.name[..one.name.len() - 16]),
    ] {
        post(&admin, json!({"sender": unknown})).await.problem(404, "webhook_secret_not_found");
    }
    post(&other.admin, json!({"sender": one.name})).await.problem(404, "webhook_secret_not_found");
    for _ in 0..4 {
        assert_eq!(post(&admin, json!({"sender": one.name})).await.status, 201);
    }
    post(&admin, json!({"sender": one.name})).await.problem(400, "invalid_request");
    let path = format!("/v1/admin/webhook-secrets/{}", one.id);
    sqlx::query("delete from webhook_secrets where organization_id = $1")
        .bind(other.id)
        .execute(&mut app.owner().await)
        .await
        .unwrap();
    call(&app, Method::DELETE, &path, &other.admin, &[], "").await.problem(404, "webhook_secret_not_found");
    call(&app, Method::DELETE, "/v1/admin/webhook-secrets/nonsense", &admin, &[], "")
        .await
        .problem(404, "webhook_secret_not_found");
    for refused in [&app.organization.sender, &app.organization.reader, &app.platform] {
        get(&app, refused, "/v1/admin/webhook-secrets").await.problem(403, "forbidden");
    }
}

#[tokio::test]
async fn behind_a_thousand_old_secrets_a_sender_is_found_and_can_be_rotated() {
    let app = TestApp::start().await;
    let admin = app.organization.admin.clone();
    sqlx::query(
        "insert into webhook_secrets (organization_id, id, sender_id, sealed_secret, created_at, revoked_at)
         select $1, n, n, '\\x00', chartgate_now() - interval '1 day', chartgate_now()
         from (select lpad(to_hex(g), 16, '0') n from generate_series(1, 1001) g) s",
    )
    .bind(app.organization.id)
    .execute(&mut app.owner().await)
    .await
    .unwrap();
    let lab = sender(&app, &admin, &json!({"name": "lab"})).await;
    let (status, rotated) = app.post(&admin, "/v1/admin/webhook-secrets", &json!({"sender": lab.name})).await;
    assert_eq!(status, 201, "{rotated}");
    let first = get(&app, &admin, "/v1/admin/webhook-secrets").await.json();
    let secrets = first["secrets"].as_array().unwrap();
    assert_eq!((secrets.len(), &secrets[0]["id"], &secrets[1]["id"]), (1000, &rotated["id"], &json!(lab.id)));
    let next = format!("/v1/admin/webhook-secrets?cursor={}", first["nextCursor"].as_str().unwrap());
    let last = get(&app, &admin, &next).await.json();
    assert_eq!((last["secrets"].as_array().unwrap().len(), &last["nextCursor"]), (3, &Value::Null));
    for bad in ["?cursor=x", "?limit=0", "?limit=1001"] {
        get(&app, &admin, &format!("/v1/admin/webhook-secrets{bad}")).await.problem(400, "invalid_parameter");
    }
    // Two rotations at once do not get past the number of secrets that a sender may have.
    let further = json!({ "sender": lab.name });
    let made = futures::future::join_all((0..6).map(|_| app.post(&admin, "/v1/admin/webhook-secrets", &further))).await;
    assert_eq!(made.iter().filter(|(status, _)| *status == 201).count(), 3, "five at most");
}

#[tokio::test]
async fn what_is_over_a_limit_or_records_nothing_does_not_cost_a_row() {
    let limits = |limits: &mut chartgate::config::LimitsConfig| (limits.requests_per_second, limits.burst) = (1, 2);
    let app = TestApp::with(Setup { limits: Box::new(limits), ..Setup::default() }).await;
    let admin = app.organization.admin.clone();
    let lab = sender(&app, &admin, &json!({"name": "lab"})).await;
    let noted = "select count(*) from webhook_replays";
    let mut answers = std::collections::BTreeMap::<u16, i64>::new();
    for number in 0..10u64 {
        let body = small(number);
        *answers.entry(push(&app, &lab, BUNDLE, &format!("msg_{number}"), now(), &body).await.status).or_default() += 1;
    }
    assert!(answers.len() == 2 && answers.contains_key(&429), "{answers:?}");
    assert_eq!(app.count(noted).await, answers[&202]);

    let app = TestApp::start().await;
    let admin = app.organization.admin.clone();
    let lab = sender(&app, &admin, &json!({"name": "lab"})).await;
    let checked = push(&app, &lab, &format!("{BUNDLE}?validateOnly=true"), "msg_1", now(), &small(1)).await;
    assert_eq!((checked.status, app.count(noted).await), (200, 0));
    // The same id for the body that is to be taken.
    assert_eq!(push(&app, &lab, BUNDLE, "msg_1", now(), &small(2)).await.status, 202);
}

#[tokio::test]
async fn all_that_is_old_is_forgotten_however_much_it_is() {
    let app = TestApp::start().await;
    sqlx::query(
        "insert into webhook_replays (organization_id, sender_id, webhook_id, body_sha256, seen_at)
         select $1, '0123456789abcdef', 'msg_' || g, sha256('x'), chartgate_now() - interval '60 days' from generate_series(1, 25000) g",
    )
    .bind(app.organization.id)
    .execute(&mut app.owner().await)
    .await
    .unwrap();
    assert_eq!(chartgate::auth::webhooks::forget_old(&app.app.db).await.unwrap(), 25_000);
}
