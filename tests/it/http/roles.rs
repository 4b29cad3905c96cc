//! Every route × method × role × own or other organization, taken from the API description itself, so that a new route
//! fails here until somebody has said who may use it.

use super::{call, get, sha256, small};
use crate::clinical::{bundle, patient};
use crate::support::app::{TestApp, TestOrganization, create_key, job_of};
use chartgate::auth::Role;
use chartgate::ids::{JobId, OperationId};
use chartgate::ingest::fhir::sample;
use reqwest::Method;
use serde_json::{Value, json};

/// Who may use a route; empty: everybody, also without a key.
pub(super) fn allowed(operation: &str) -> &'static [Role] {
    match operation {
        "live" | "ready" | "ingestHealth" | "metrics" | "openapi" | "docs" | "docsStyle" | "errorPage" => &[],
        "submitBundle" | "submitEvent" | "submitEvents" | "createUpload" | "completeUpload" => {
            &[Role::Sender, Role::Admin]
        }
        "listJobs" | "getStats" => &[Role::Sender, Role::Reader, Role::Admin],
        "getJob" | "getTimeline" | "explainJob" | "followJob" | "getIssues" | "getOutcomes" => &Role::ALL,
        "cancelJob" => &[Role::Sender, Role::Admin, Role::Platform],
        "getClinical" | "searchClinical" | "getEvidence" | "getPayload" | "listEvents" => &[Role::Reader],
        "listCallbacks"
        | "createCallback"
        | "getCallback"
        | "changeCallback"
        | "deleteCallback"
        | "rotateCallback"
        | "testCallback"
        | "listDeliveries"
        | "resendCallbacks"
        | "listReviews"
        | "getReview"
        | "decideReview"
        | "mergePatient"
        | "unmergePatient"
        | "unlinkEvent"
        | "linkEvent"
        | "listWebhookSecrets"
        | "createWebhookSecret"
        | "revokeWebhookSecret"
        | "purge"
        | "listHolds"
        | "placeHold"
        | "liftHold" => &[Role::Admin],
        "createOrganization" | "listWorkers" | "notifyObjects" | "listRefusedObjects" | "verifyAudit" => {
            &[Role::Platform]
        }
        "adminListJobs" | "listFailures" | "retryJob" | "retryJobs" | "cancelJobs" | "reprocessJobs"
        | "listOperations" | "getOperation" | "listOperationJobs" | "stopOperation" | "resumeOperation"
        | "undoOperation" | "listOrganizations" | "getSettings" | "putSettings" | "pauseOrganization"
        | "resumeOrganization" | "listKeys" | "createKey" | "revokeKey" | "rotateKey" | "listWorkflows"
        | "listBlockedLanes" | "listAudit" | "exportAudit" => &[Role::Admin, Role::Platform],
        other => panic!("say in {} who may use the operation {other}", file!()),
    }
}

/// What one organization has, to be asked for by another.
pub(super) struct Belongings {
    pub(super) job: String,
    pub(super) upload: String,
    pub(super) payload: String,
    pub(super) finding: String,
    pub(super) mrn: String,
    pub(super) operation: String,
    pub(super) review: String,
    pub(super) patient: String,
    pub(super) other_patient: String,
    pub(super) event: String,
    pub(super) key: String,
    pub(super) callback: String,
    /// To be removed, while the other one is asked for.
    pub(super) spare_callback: String,
    pub(super) rotated: String,
    pub(super) secret: String,
    pub(super) hold: String,
    pub(super) organization: String,
}

impl Belongings {
    pub(super) async fn of(app: &TestApp, organization: &TestOrganization, seed: u64) -> Self {
        let body = small(seed);
        let job = job_of(&app.submit_as(&organization.sender, None, body.clone()).await.1);
        app.wait_for(&job, "succeeded").await;
        let mrn = sample::mrn(seed, 0);
        let view = get(app, &organization.reader, &format!("/ingest/clinical/{mrn}")).await.json();
        let finding = view["clinical_data"]["labs"][0]["finding_id"].as_str().unwrap_or_else(|| panic!("{view:#}"));
        let retry = json!({"filter": {"errorCode": "none"}, "reason": "nothing matches"});
        let (status, operation) = app.post(&organization.admin, "/v1/admin/jobs/retry", &retry).await;
        assert_eq!(status, 202, "{operation}");
        let event = json!({"athena_patient_id": "A-1", "event_type": "vitals", "payload": {"pulse": 60}});
        let (status, event) = app.post(&organization.sender, "/ingest/athena", &event).await;
        assert_eq!(status, 202, "{event}");
        app.wait_for(event["job_id"].as_str().unwrap(), "succeeded").await;
        let key = create_key(&app.app, Some(organization.id), Role::Sender).await;
        let callback = json!({"url": "https://1.1.1.1:8443/", "events": ["job.expired"]});
        let spare_callback = app.post(&organization.admin, "/v1/admin/callbacks", &callback).await.1;
        let callback = app.post(&organization.admin, "/v1/admin/callbacks", &callback).await.1;
        let rotated = create_key(&app.app, Some(organization.id), Role::Sender).await;
        let (status, secret) = app.post(&organization.admin, "/v1/admin/webhook-secrets", &json!({})).await;
        assert_eq!(status, 201, "{secret}");
        let hold = json!({"payload": "00".repeat(32), "reason": "x"});
        let (status, hold) = app.post(&organization.admin, "/v1/admin/holds", &hold).await;
        assert_eq!(status, 201, "{hold}");
        let (status, upload) = app.post(&organization.sender, "/v1/ingestion/upload-url", &json!({})).await;
        assert_eq!(status, 200, "{upload}");
        Self {
            job,
            upload: upload["uploadId"].as_str().unwrap().to_owned(),
            payload: sha256(&body),
            finding: finding.to_owned(),
            mrn,
            operation: operation["operationId"].as_str().unwrap().to_owned(),
            review: String::new(),
            event: String::new(),
            patient: String::new(),
            other_patient: String::new(),
            callback: callback["callback"]["callbackId"].as_str().unwrap().to_owned(),
            spare_callback: spare_callback["callback"]["callbackId"].as_str().unwrap().to_owned(),
            key: key.split('_').nth(1).unwrap().to_owned(),
            rotated: rotated.split('_').nth(1).unwrap().to_owned(),
            secret: secret["id"].as_str().unwrap().to_owned(),
            hold: hold["holdId"].as_str().unwrap().to_owned(),
            organization: organization.id.to_string(),
        }
    }

    /// Two patients, and a third about whom somebody must be asked.
    pub(super) async fn with_people(mut self, app: &TestApp, organization: &TestOrganization) -> Self {
        let people = [patient("one", "r1", "1950"), patient("two", "r2", "1950"), patient("three", "r1", "1999")];
        let job = job_of(&app.submit_as(&organization.sender, None, bundle("batch", &people).to_string()).await.1);
        app.wait_for(&job, "succeeded").await;
        let reviews = get(app, &organization.admin, "/v1/admin/reviews").await.json();
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{reviews:#}")).to_owned();
        self.review = text(&reviews["reviews"][0]["reviewId"]);
        self.event = text(&reviews["reviews"][0]["eventId"]);
        self.patient = text(&reviews["reviews"][0]["candidates"][0]["patient"]);
        let view = get(app, &organization.reader, "/ingest/clinical/r2").await.json();
        self.other_patient = text(&view["patient"]["id"]);
        self
    }

    pub(super) fn path(&self, template: &str) -> String {
        template
            .replace("{jobId}", &self.job)
            .replace("{uploadId}", &self.upload)
            .replace("{sha256}", &self.payload)
            .replace("{findingId}", &self.finding)
            .replace("{mrn}", &self.mrn)
            .replace("{athena_patient_id}", "A-1")
            .replace("{operationId}", &self.operation)
            .replace("{reviewId}", &self.review)
            .replace("{patientId}", &self.patient)
            .replace("{eventId}", &self.event)
            .replace("{keyId}/rotate", &format!("{}/rotate", self.rotated))
            .replace("{keyId}", &self.key)
            .replace("{callbackId}", &self.callback)
            .replace("{secretId}", &self.secret)
            .replace("{holdId}", &self.hold)
            .replace("{organizationId}", &self.organization)
            .replace("{code}", "forbidden")
    }

    pub(super) fn body(&self, operation: &str) -> Value {
        match operation {
            "searchClinical" => json!({"mrn": self.mrn}),
            "createOrganization" => json!({"name": JobId::new().to_string()}),
            "retryJobs" | "cancelJobs" | "reprocessJobs" => json!({"ids": [self.job], "reason": "x"}),
            "decideReview" => json!({"decision": "reject", "reason": "x"}),
            "mergePatient" => json!({"into": self.other_patient, "reason": "x"}),
            "retryJob" | "unmergePatient" | "unlinkEvent" | "stopOperation" | "resumeOperation" | "undoOperation" => {
                json!({"reason": "x"})
            }
            "linkEvent" => json!({"patient": self.other_patient, "reason": "x"}),
            "putSettings" => json!({"mrnSystems": ["urn:x"]}),
            "purge" => json!({"payload": self.payload, "reason": "x", "dryRun": true}),
            "placeHold" => json!({"organization": true, "reason": "x"}),
            "createCallback" => json!({"url": "https://1.1.1.1/"}),
            "changeCallback" => json!({"description": "x"}),
            "createKey" => json!({"role": "sender", "organization": self.organization}),
            _ => json!({}),
        }
    }

    /// What must stand in no answer to somebody else.
    pub(super) fn secrets(&self) -> [&str; 13] {
        [
            &self.callback,
            &self.job,
            &self.payload,
            &self.finding,
            &self.operation,
            &self.key,
            &self.rotated,
            &self.secret,
            &self.hold,
            &self.organization,
            &self.review,
            &self.patient,
            &self.event,
        ]
    }
}

pub(super) fn operations() -> Vec<(Method, String, String)> {
    let description = serde_json::to_value(chartgate::http::description()).unwrap();
    let mut operations = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            operations.push((method, path.clone(), operation["operationId"].as_str().unwrap().to_owned()));
        }
    }
    operations
}

#[tokio::test]
async fn every_route_answers_each_role_of_each_organization_as_it_may() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let workers = app.workers();
    let own = Belongings::of(&app, &app.organization, 1).await.with_people(&app, &app.organization).await;
    Belongings::of(&app, &other, 2).await;
    workers.stop().await;
    let denied_before = app.count("select count(*) from audit_records where event = 'access.denied'").await;
    let mut denials = 0;
    let operations = operations();
    assert!(operations.len() >= 27);
    for (method, template, operation) in &operations {
        let roles = allowed(operation);
        let (mut path, body) = (own.path(template), own.body(operation).to_string());
        if operation == "deleteCallback" {
            path = path.replace(&own.callback, &own.spare_callback);
        }
        let headers: &[(&str, &str)] = &[("content-type", "application/json")];
        let ask = |key: String| {
            let (method, path, body) = (method.clone(), path.clone(), body.clone());
            let app = &app;
            async move { call(app, method, &path, &key, headers, body).await }
        };
        let strangers = ask(String::new()).await;
        if roles.is_empty() {
            assert_eq!(strangers.status, 200, "{operation}");
            continue;
        }
        strangers.problem(401, "unauthenticated");
        denials += 1;
        for (role, key, foreign) in [
            // The other organization first: what belongs to us must still be there afterwards.
            (Role::Sender, &other.sender, true),
            (Role::Reader, &other.reader, true),
            (Role::Admin, &other.admin, true),
            (Role::Sender, &app.organization.sender, false),
            (Role::Reader, &app.organization.reader, false),
            (Role::Admin, &app.organization.admin, false),
            (Role::Platform, &app.platform, false),
        ] {
            let answer = ask(key.clone()).await;
            let context = format!("{method} {template} as {role}, foreign {foreign}: {}", answer.status);
            assert!(answer.status < 500, "{context}");
            if !roles.contains(&role) {
                assert_eq!(answer.problem(403, "forbidden")["code"], "forbidden", "{context}");
                denials += 1;
                continue;
            }
            if foreign {
                check_foreign(&own, template, operation, &answer, &context);
                denials += i64::from(answer.status == 403);
                continue;
            }
            // A platform key sees the operations of the platform only.
            let is_missing = template.contains("{operationId}") && role == Role::Platform
                // Only uploads leave an outcome file.
                || operation == "getOutcomes" && answer.problem(404, "outcomes_not_found")["code"] == "outcomes_not_found"
                // The administrator has revoked it just now; a second time is the same.
                || matches!(operation.as_str(), "submitBundle" | "submitEvent" | "submitEvents");
            assert!(is_missing || ![401, 403, 404].contains(&answer.status), "{context}");
        }
    }
    let denied = app.count("select count(*) from audit_records where event = 'access.denied'").await - denied_before;
    assert_eq!(denied, denials, "each denial is one record");
    let named = app
        .count(
            "select count(*) from audit_records
             where event = 'access.denied' and detail->>'code' = 'forbidden'
               and (actor !~ '^key:' or request_id is null or address is null or resource is null)",
        )
        .await;
    assert_eq!(named, 0, "a denial names its caller");
}

/// An allowed role of another organization: nothing of ours, whether it asks for a list or for an id.
fn check_foreign(own: &Belongings, template: &str, operation: &str, answer: &super::Answer, context: &str) {
    let text = String::from_utf8_lossy(&answer.body);
    for secret in own.secrets().into_iter().filter(|secret| !secret.is_empty()) {
        assert!(!text.contains(secret), "{context}: {text}");
    }
    match operation {
        "getClinical" | "searchClinical" => {
            let view = answer.json();
            assert_eq!(
                (answer.status, &view["status"], &view["event_count"]),
                (200, &json!("not_found"), &json!(0)),
                "{context}"
            );
        }
        // The other organization has a patient of this number too.
        "listEvents" => assert_eq!(answer.json()["events"].as_array().map(Vec::len), Some(1), "{context}"),
        "createKey" => assert_eq!(answer.problem(403, "forbidden")["status"], 403, "{context}"),
        "retryJobs" | "cancelJobs" | "reprocessJobs" => assert_eq!(answer.status, 202, "{context}"),
        _ if template.contains('{') => {
            assert_eq!(answer.status, 404, "{context}");
        }
        _ => {}
    }
}

#[tokio::test]
async fn what_another_organization_asked_for_has_not_happened() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let workers = app.workers();
    let own = Belongings::of(&app, &app.organization, 1).await;
    workers.stop().await;
    let waiting = job_of(&app.submit(small(3)).await.1);
    for (path, body) in [
        (format!("/v1/ingestion/jobs/{waiting}/cancel"), json!({})),
        (format!("/v1/admin/jobs/{}/retry", own.job), json!({"reason": "x"})),
        (format!("/v1/admin/organizations/{}/pause", own.organization), json!({})),
    ] {
        assert_eq!(app.post(&other.admin, &path, &body).await.0, 404, "{path}");
    }
    let key_path = format!("/v1/admin/keys/{}", own.key);
    assert_eq!(call(&app, Method::DELETE, &key_path, &other.admin, &[], "").await.status, 404);
    let retry = json!({"ids": [own.job], "reason": "x"});
    let (status, operation) = app.post(&other.admin, "/v1/admin/jobs/retry", &retry).await;
    assert_eq!(status, 202);
    let path = format!("/v1/admin/operations/{}", operation["operationId"].as_str().unwrap());
    for _ in 0..500 {
        if get(&app, &other.admin, &path).await.json()["status"] != "running" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let ended = get(&app, &other.admin, &path).await.json();
    assert_eq!((&ended["status"], &ended["done"]), (&json!("succeeded"), &json!(0)), "{ended}");
    assert_eq!(app.job(&own.job).await["round"], 1);
    assert_eq!(app.job(&waiting).await["status"], "queued");
    assert_eq!(app.count("select count(*) from organizations where status <> 'active'").await, 0);
    assert_eq!(app.count("select count(*) from api_keys where revoked_at is not null").await, 0);
    let missing = format!("/v1/admin/operations/{}", OperationId::new());
    get(&app, &other.admin, &missing).await.problem(404, "operation_not_found");
}

#[tokio::test]
async fn one_organizations_clinical_data_and_audit_records_stay_its_own() {
    let app = TestApp::start().await;
    let other = app.organization("Other Hospital").await;
    let workers = app.workers();
    // The same bytes at both: the same MRN, resource ids and hash.
    let own = Belongings::of(&app, &app.organization, 1).await;
    let theirs = Belongings::of(&app, &other, 1).await;
    workers.stop().await;
    assert_eq!(own.payload, theirs.payload);
    for (reader, belongings, foreign) in [(&app.organization.reader, &own, &theirs), (&other.reader, &theirs, &own)] {
        let view = get(&app, reader, &format!("/ingest/clinical/{}", own.mrn)).await.json();
        assert_eq!((&view["status"], &view["event_count"]), (&json!("found"), &json!(3)));
        assert!(view.to_string().contains(&belongings.finding) && !view.to_string().contains(&foreign.finding));
        let evidence = format!("/v1/findings/{}/evidence", foreign.finding);
        get(&app, reader, &evidence).await.problem(404, "finding_not_found");
        let jobs = get(&app, reader, "/v1/ingestion/jobs").await.json();
        assert_eq!(jobs["jobs"].as_array().unwrap().len(), 3);
        assert_eq!(jobs["jobs"][2]["jobId"], belongings.job);
    }
    // A read is recorded where it was done, also when it found nothing.
    let reads = "select count(*) from audit_records where event in ('clinical.read', 'evidence.read') and action = 'R'
        and request_id is not null and actor ~ '^key:'";
    assert_eq!(app.count(reads).await, 6);
    let not_found = "select count(*) from audit_records where event = 'evidence.read' and detail->>'found' = 'false'";
    assert_eq!(app.count(not_found).await, 2);
    assert_eq!(
        app.count("select count(*) from audit_records where event = 'clinical.read' and patient_id is null").await,
        0
    );
}
