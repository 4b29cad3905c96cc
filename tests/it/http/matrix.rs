//! The wall between organizations, as callers meet it: every route × method of the API description × every role × {own,
//! other, no} organization, with the real ids and words of one organization in the other's requests.
//!
//! [`violations`] is the check. It finds nothing. With a policy dropped, nobody sees the table's rows, and the check misses what
//! is the organization's own (the second test, table by table); with every policy open it still finds nothing, because the
//! program asks for one organization's rows everywhere (the third): two walls, of which each stands without the other.

use super::roles::{Belongings, allowed, operations};
use super::{Answer, call, sha256};
use crate::support::app::{TestApp, TestOrganization, job_of};
use chartgate::auth::{NewKey, Role};
use chartgate::ids::{
    CallbackId, EventId, FindingId, HoldId, JobId, OperationId, OrganizationId, PatientId, ReviewId, UploadId,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Words that stand in one organization's data only.
const CANARIES: [&str; 5] = ["Zyxwcanary", "CANARY-MRN-1", "canaryvalue77", "canaryathena55", "canaryname99"];
/// Of these the platform, which sees no clinical data, may see none.
const CLINICAL: [&str; 4] = ["Zyxwcanary", "CANARY-MRN-1", "canaryvalue77", "canaryathena55"];

struct World {
    app: TestApp,
    other: TestOrganization,
    own: Belongings,
}

impl World {
    async fn new() -> Self {
        let app = TestApp::start().await;
        let other = app.organization("Other Hospital").await;
        let workers = app.workers();
        let mut own = Belongings::of(&app, &app.organization, 1).await.with_people(&app, &app.organization).await;
        let patient = json!({
            "fullUrl": "urn:uuid:canary", "resource": {
                "resourceType": "Patient", "id": "canary", "name": [{"family": "Zyxwcanary"}], "birthDate": "1970-01-01",
                "identifier": [{"system": "urn:canary", "value": "CANARY-MRN-1", "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]}}],
            },
        });
        let observation = json!({
            "fullUrl": "urn:uuid:seen", "resource": {
                "resourceType": "Observation", "id": "seen", "status": "final", "code": {"text": "canaryvalue77"},
                "subject": {"reference": "urn:uuid:canary"}, "valueString": "canaryvalue77",
                "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}],
            },
        });
        let body = json!({"resourceType": "Bundle", "type": "collection", "entry": [patient, observation]}).to_string();
        let job = job_of(&app.submit(body.clone()).await.1);
        app.wait_until(&job, "at its end", |view| view["finishedAt"].is_string()).await;
        let event = json!({"athena_patient_id": "A-1", "event_type": "other", "payload": {"note": "canaryathena55"}});
        let (status, event) = app.post(&app.organization.sender, "/ingest/athena", &event).await;
        assert_eq!(status, 202, "{event}");
        app.run_until_idle().await;
        app.post(&app.organization.admin, "/v1/admin/webhook-secrets", &json!({"name": "canaryname99"})).await;
        app.post(&app.organization.admin, "/v1/admin/keys", &json!({"name": "canaryname99", "role": "sender"})).await;
        // The other has data of its own, so that its lists are not just empty.
        let theirs = job_of(&app.submit_as(&other.sender, None, super::small(2)).await.1);
        app.wait_until(&theirs, "at its end", |view| view["finishedAt"].is_string()).await;
        workers.stop().await;
        "CANARY-MRN-1".clone_into(&mut own.mrn);
        own.job = job;
        own.payload = sha256(body.as_bytes());
        Self { app, other, own }
    }
}

/// Ids of the right form that nobody has.
fn nobodys() -> Belongings {
    let hexadecimal = || NewKey::generate().id;
    Belongings {
        job: JobId::new().to_string(),
        upload: UploadId::new().to_string(),
        payload: sha256(hexadecimal().as_bytes()),
        finding: FindingId::new().to_string(),
        mrn: hexadecimal(),
        operation: OperationId::new().to_string(),
        review: ReviewId::new().to_string(),
        patient: PatientId::new().to_string(),
        other_patient: PatientId::new().to_string(),
        event: EventId::new().to_string(),
        callback: CallbackId::new().to_string(),
        spare_callback: CallbackId::new().to_string(),
        key: hexadecimal(),
        rotated: hexadecimal(),
        secret: hexadecimal(),
        hold: HoldId::new().to_string(),
        organization: OrganizationId::new().to_string(),
    }
}

/// An answer without what differs between two requests of the same kind: ids, names of what was asked for, times.
fn shape(answer: &Answer, asked: &Belongings) -> String {
    fn mask(value: &mut Value, asked: &[&str]) {
        match value {
            Value::String(text) => {
                let suffix = text.rsplit_once('_').map(|(_, suffix)| suffix.len());
                let is_time = text.len() >= 20 && text.starts_with("20") && text.contains('T') && text.ends_with('Z');
                if asked.contains(&text.as_str()) || suffix == Some(26) || is_time {
                    "*".clone_into(text);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| mask(item, asked)),
            Value::Object(members) => members.values_mut().for_each(|member| mask(member, asked)),
            _ => {}
        }
    }
    let mut body =
        serde_json::from_slice(&answer.body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&answer.body)));
    mask(&mut body, &[&asked.mrn, &asked.payload, &asked.key, "A-1", "A-999"]);
    if let Some(members) = body.as_object_mut() {
        members.remove("requestId");
    }
    format!("{} {:?} {body}", answer.status, answer.header("content-type"))
}

/// Everything that one organization could learn of another, or could not do with its own. `reads_only` changes nothing,
/// whatever holes there are.
async fn violations(world: &World, reads_only: bool) -> Vec<String> {
    let World { app, other, own } = world;
    let mut found = Vec::new();
    let ask = async |method: &Method, path: &str, key: &str, body: &Value| {
        call(app, method.clone(), path, key, &[("content-type", "application/json")], body.to_string()).await
    };
    for (method, template, operation) in &operations() {
        let is_read = *method == Method::GET || operation == "searchClinical";
        if reads_only && !is_read {
            continue;
        }
        let roles = allowed(operation);
        let unknown = nobodys();
        let (path, body) = (own.path(template), own.body(operation));
        let (unknown_path, unknown_body) = (unknown.path(template).replace("/A-1", "/A-999"), unknown.body(operation));
        let leaks = |answer: &Answer, words: &[&str]| {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            words.iter().find(|word| !word.is_empty() && text.contains(**word)).map(|word| (*word).to_owned())
        };
        // The audit log of the other holds what the other asked for, foreign ids among it.
        let ids = if operation.ends_with("Audit") { Vec::new() } else { own.secrets().to_vec() };
        let words: Vec<&str> = ids.into_iter().chain(CANARIES).collect();
        // Nobody.
        let answer = ask(method, &path, "", &body).await;
        let wanted = if roles.is_empty() { 200 } else { 401 };
        if answer.status != wanted || leaks(&answer, &words).is_some() {
            found.push(format!("{operation} without a key: {}", answer.status));
        }
        if roles.is_empty() {
            continue;
        }
        // The other organization, in each role.
        for (role, key) in [(Role::Sender, &other.sender), (Role::Reader, &other.reader), (Role::Admin, &other.admin)] {
            let answer = ask(method, &path, key, &body).await;
            // What was asked for may be repeated, in the answer of a search that found nothing.
            let echoed: Vec<&str> = words
                .iter()
                .copied()
                .filter(|word| *word != own.mrn || !String::from_utf8_lossy(&answer.body).contains("\"not_found\""))
                .collect();
            if let Some(word) = leaks(&answer, &echoed) {
                found.push(format!("{operation} as {role} of the other: shows {word}"));
            }
            if answer.status >= 500 {
                found.push(format!("{operation} as {role} of the other: {}", answer.status));
            }
            if path != unknown_path || body != unknown_body {
                let nothing = ask(method, &unknown_path, key, &unknown_body).await;
                let (theirs, nobody) = (shape(&answer, own), shape(&nothing, &unknown));
                if theirs != nobody {
                    found.push(format!(
                        "{operation} as {role} of the other tells foreign from unknown: {theirs} / {nobody}"
                    ));
                }
            }
        }
        if !is_read {
            continue;
        }
        // Its own organization, and the platform.
        for (role, key) in [
            (Role::Sender, &app.organization.sender),
            (Role::Reader, &app.organization.reader),
            (Role::Admin, &app.organization.admin),
            (Role::Platform, &app.platform),
        ] {
            let answer = ask(method, &path, key, &body).await;
            let is_missing = operation == "getOutcomes" || template.contains("{operationId}") && role == Role::Platform;
            let wanted = match (roles.contains(&role), is_missing) {
                (false, _) => 403,
                (true, true) => 404,
                (true, false) => 200,
            };
            if answer.status != wanted {
                found.push(format!("{operation} as {role}, own: {}", answer.status));
            }
            if role == Role::Platform
                && let Some(word) = leaks(&answer, &CLINICAL)
            {
                found.push(format!("{operation} shows the platform {word}"));
            }
            let shown = match operation.as_str() {
                "listJobs" | "adminListJobs" | "getJob" => own.job.as_str(),
                "getClinical" | "searchClinical" | "getPayload" => "canaryvalue77",
                "listReviews" | "getReview" => &own.review,
                "getOperation" => &own.operation,
                // The platform's list has its own only.
                "listOperations" if role == Role::Admin => &own.operation,
                "listEvents" => "evt_",
                "getEvidence" => "\"quote\"",
                "listWebhookSecrets" => "canaryname99",
                "getTimeline" => "job.accepted",
                _ => continue,
            };
            if wanted == 200 && leaks(&answer, &[shown]).is_none() {
                found.push(format!("{operation} as {role}, own: does not show {shown}"));
            }
        }
    }
    found
}

#[tokio::test]
async fn no_route_shows_one_organization_anything_of_another() {
    let world = World::new().await;
    let (routes, before) = (operations().len(), world.app.count("select count(*) from audit_records").await);
    let found = violations(&world, false).await;
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
    // And it is as it was.
    assert!(violations(&world, true).await.is_empty());
    let asked = world.app.count("select count(*) from audit_records").await - before;
    println!("{routes} routes, no violation; {asked} audit records");
}

async fn run(connection: &mut PgConnection, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.unwrap();
}

const POLICY: &str = "for all to chartgate_app
    using (array_position((select tenant_organizations()), organization_id) is not null)
    with check (organization_id = any ((select tenant_organizations())::uuid[]))";

/// Tables whose policy, taken away, changes what callers of this test see.
const NOTICED: [&str; 12] = [
    "athena_events",
    "audit_records",
    "clinical_events",
    "finding_evidence",
    "findings",
    "jobs",
    "operations",
    "patient_identifiers",
    "patients",
    "payloads",
    "reviews",
    "webhook_secrets",
];

#[tokio::test]
async fn the_same_check_fails_when_a_policy_is_taken_away() {
    let world = World::new().await;
    let mut owner = PgConnection::connect_with(&world.app.owner_options).await.unwrap();
    assert_eq!(violations(&world, true).await, Vec::<String>::new());
    for table in NOTICED {
        // Without its policy, forced row-level security shows nobody anything: the own organization misses its data.
        run(&mut owner, &format!("drop policy tenant on {table}")).await;
        let found = violations(&world, true).await;
        assert!(!found.is_empty(), "nobody noticed that {table} has no policy");
        println!("{table} without its policy: {} violations, such as: {}", found.len(), found[0]);
        run(&mut owner, &format!("create policy tenant on {table} {POLICY}")).await;
    }
    assert_eq!(violations(&world, true).await, Vec::<String>::new(), "put back, all is well again");
}

#[tokio::test]
async fn the_statements_keep_organizations_apart_also_where_every_policy_is_open() {
    let world = World::new().await;
    let mut owner = PgConnection::connect_with(&world.app.owner_options).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relrowsecurity order by 1",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    for table in &tables {
        let open = "for all to chartgate_app using (true) with check (true)";
        run(&mut owner, &format!("drop policy tenant on {table}; create policy tenant on {table} {open}")).await;
    }
    assert!(tables.len() >= 30);
    assert_eq!(violations(&world, false).await, Vec::<String>::new(), "the first wall stands without the second");
}
