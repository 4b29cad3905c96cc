//! From the post to the open chart: what became of events, whose they are, and where each statement stands.

use super::{events, taken};
use crate::http::get;
use crate::support::app::TestApp;
use serde_json::{Value, json};

async fn chart(app: &TestApp, mrn: &str) -> Value {
    get(app, &app.organization.reader, &format!("/ingest/clinical/{mrn}")).await.json()
}

/// Post events one after another and wait for their jobs; the last job of each.
async fn ingest(app: &TestApp, events: &[Value]) -> Vec<Value> {
    let workers = app.workers();
    let mut jobs = Vec::new();
    for event in events {
        let answer = taken(app, event).await;
        let job = answer["job_id"].as_str().unwrap().to_owned();
        let ended =
            app.wait_until(&job, "ended", |view| view["status"].as_str().unwrap().starts_with("succeeded")).await;
        jobs.push(ended);
    }
    workers.stop().await;
    jobs
}

#[expect(clippy::needless_pass_by_value, reason = "payloads are written in place")]
fn event(patient: &str, kind: &str, captured: Option<&str>, payload: Value) -> Value {
    json!({"athena_patient_id": patient, "event_type": kind, "captured_at": captured, "payload": payload})
}

fn items<'v>(view: &'v Value, category: &str) -> &'v Vec<Value> {
    view["clinical_data"][category].as_array().unwrap()
}

fn names(view: &Value, category: &str) -> Vec<String> {
    items(view, category).iter().map(|item| item["name"].as_str().unwrap_or("?").to_owned()).collect()
}

/// A chart in athenahealth's own shapes, a thing of each kind.
fn whole_chart(patient: &str) -> Vec<Value> {
    let at = Some("2026-03-01T10:00:00Z");
    vec![
        event(
            patient,
            "vitals",
            at,
            json!({"totalcount": 1, "vitals": [{"key": "BLOODPRESSURE", "abbreviation": "BP", "ordering": 1, "readings": [[
                {"vitalid": 11, "clinicalelementid": "VITALS.BLOODPRESSURE.SYSTOLIC", "code": "8480-6", "codeset": "LOINC", "value": "128", "readingtaken": "02/27/2026", "readingid": 1, "source": "ENCOUNTER"},
                {"vitalid": 12, "clinicalelementid": "VITALS.BLOODPRESSURE.DIASTOLIC", "code": "8462-4", "codeset": "LOINC", "value": "82", "readingtaken": "02/27/2026", "readingid": 1, "source": "ENCOUNTER"},
            ]]}]}),
        ),
        event(
            patient,
            "labs",
            at,
            json!({"totalcount": 1, "results": [{"labresultid": "77", "description": "BMP", "resultstatus": "final", "analytes": [
                {"analyteid": 5, "analytename": "Glucose", "value": "142", "units": "mg/dL", "referencerange": "70-100", "abnormalflag": "high", "loinc": "2345-7", "analytedate": "02/26/2026"},
                {"analyteid": 6, "analytename": "Potassium", "value": "4.10", "units": "mmol/L", "referencerange": "3.5-5.1", "loinc": "2823-3", "analytedate": "02/26/2026"},
            ]}]}),
        ),
        event(
            patient,
            "medications",
            at,
            json!({"medications": [[
                {"medicationentryid": "H1", "medicationid": 900, "medication": "Claritin 10 mg tablet", "isstructuredsig": "false", "unstructuredsig": "1 tablet daily", "isdiscontinued": "false", "events": [{"type": "START", "eventdate": "01/05/2026"}]},
            ], [
                {"medicationentryid": "H2", "medicationid": 901, "medication": "Lisinopril 10 mg tablet", "isdiscontinued": false, "events": [{"type": "START", "eventdate": "01/06/2026"}]},
            ]]}),
        ),
        event(
            patient,
            "problems",
            at,
            json!({"problems": [{"problemid": 3, "name": "Essential hypertension", "code": "59621000", "codeset": "SNOMED", "bestmatchicd10code": "I10", "events": [{"eventtype": "START", "startdate": "01/02/2020", "status": "CHRONIC"}]}]}),
        ),
        event(
            patient,
            "allergies",
            at,
            json!({"nkda": false, "allergies": [{"allergenid": "9", "allergenname": "penicillin", "reactions": [{"reactionname": "hives", "snomedcode": "126485001", "severity": "moderate"}]}]}),
        ),
        event(patient, "note", at, json!({"title": "Visit note", "text": "Feels well.", "date": "03/01/2026"})),
        event(patient, "insurance", at, json!({"plan": "Gold"})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chart_comes_back_by_category_with_the_bytes_that_say_it() {
    let app = TestApp::start().await;
    let jobs = ingest(&app, &whole_chart("900")).await;
    for job in &jobs {
        assert_eq!(
            (&job["status"], &job["source"], &job["workflow"]),
            (&json!("succeeded"), &json!("athena"), &json!("athena-event")),
            "{job:#}"
        );
        let steps: Vec<&str> =
            job["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect();
        assert_eq!(steps, ["validate", "store_raw", "link_patient", "extract_findings", "audit"]);
    }
    let view = chart(&app, "900").await;
    assert_eq!(
        (&view["status"], &view["patient"], &view["event_count"]),
        (&json!("found"), &Value::Null, &json!(7)),
        "{view:#}"
    );
    assert_eq!(view["sources"], json!(["athena"]));
    assert_eq!(names(&view, "medications"), ["Lisinopril 10 mg tablet", "Claritin 10 mg tablet"]);
    assert_eq!(names(&view, "problems"), ["Essential hypertension"]);
    assert_eq!(names(&view, "allergies"), ["penicillin"]);
    assert_eq!(items(&view, "documents").len(), 1);
    assert_eq!(items(&view, "other").len(), 1);
    let glucose = items(&view, "labs").iter().find(|lab| lab["name"] == "Glucose").unwrap();
    assert_eq!(
        (
            &glucose["value"],
            &glucose["unit"],
            &glucose["interpretation"],
            &glucose["interpretation_source"],
            &glucose["effective"]
        ),
        (&json!("142"), &json!("mg/dL"), &json!("H"), &json!("declared"), &json!("02/26/2026"))
    );
    let potassium = items(&view, "labs").iter().find(|lab| lab["name"] == "Potassium").unwrap();
    assert_eq!((&potassium["value"], &potassium["interpretation_source"]), (&json!("4.10"), &json!("derived")));
    let pressure = &items(&view, "vitals")[0];
    let values: Vec<&str> =
        pressure["components"].as_array().unwrap().iter().map(|part| part["value"].as_str().unwrap()).collect();
    assert_eq!(values, ["128", "82"], "{pressure:#}");
    // Each item names its event; each statement the bytes.
    let listed = events(&app, "900").await;
    let ids: Vec<&Value> = listed.iter().map(|event| &event["event_id"]).collect();
    let mut statements = 0;
    for (category, found) in view["clinical_data"].as_object().unwrap() {
        for item in found.as_array().into_iter().flatten() {
            assert!(ids.contains(&&item["event_id"]), "{category}: {item:#}");
            assert_eq!(item["source"], "athena");
            for statement in std::iter::once(item).chain(item["components"].as_array().into_iter().flatten()) {
                let Some(finding) = statement["finding_id"].as_str() else { continue };
                statements += 1;
                let evidence =
                    get(&app, &app.organization.reader, &format!("/v1/findings/{finding}/evidence")).await.json();
                assert_eq!(evidence["eventId"], item["event_id"]);
                for quote in evidence["evidence"].as_array().unwrap() {
                    let raw = get(
                        &app,
                        &app.organization.reader,
                        &format!("/v1/payloads/{}", quote["sha256"].as_str().unwrap()),
                    )
                    .await
                    .body;
                    let at = |name: &str| usize::try_from(quote[name].as_u64().unwrap()).unwrap();
                    assert_eq!(&raw[at("start")..at("end")], quote["quote"].as_str().unwrap().as_bytes());
                }
            }
        }
    }
    assert!(statements >= 10, "{statements}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_reading_at_another_time_is_a_reading_of_its_own() {
    let app = TestApp::start().await;
    let reading = |captured| event("910", "vitals", captured, json!({"pulse": 72}));
    ingest(
        &app,
        &[
            reading(Some("2026-03-01T10:00:00Z")),
            reading(Some("2026-03-08T10:00:00Z")),
            reading(Some("2026-03-08T10:00:00Z")),
        ],
    )
    .await;
    let view = chart(&app, "910").await;
    let effective: Vec<&str> = items(&view, "vitals").iter().map(|item| item["effective"].as_str().unwrap()).collect();
    assert_eq!(effective, ["2026-03-08T10:00:00Z", "2026-03-01T10:00:00Z"]);
    assert_eq!(view["event_count"], 1);
    // What has a time of its own is the same reading whenever it is captured.
    let dated = |captured| event("911", "vitals", captured, json!({"pulse": 72, "recorded_at": "02/27/2026"}));
    ingest(&app, &[dated(Some("2026-03-01T10:00:00Z")), dated(Some("2026-03-08T10:00:00Z"))]).await;
    assert_eq!(items(&chart(&app, "911").await, "vitals").len(), 1);
    // A statement without a time is shown once, as captured last.
    let medication =
        |captured| event("912", "medication", captured, json!({"medication_name": "Aspirin", "dose": "81 mg"}));
    ingest(&app, &[medication(Some("2026-03-08T10:00:00Z")), medication(Some("2026-03-01T10:00:00Z"))]).await;
    let view = chart(&app, "912").await;
    assert_eq!(names(&view, "medications"), ["Aspirin"]);
    assert_eq!(items(&view, "medications")[0]["effective"], "2026-03-08T10:00:00Z");
    let history = get(&app, &app.organization.reader, "/ingest/clinical/912?history=true").await.json();
    assert_eq!(items(&history, "medications").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_sent_again_changes_what_changed_and_repeats_nothing() {
    let app = TestApp::start().await;
    let list = |captured: &str, discontinued: bool, more: bool| {
        let mut rows = vec![
            json!([{"medicationentryid": "H1", "medication": "Claritin 10 mg tablet", "isdiscontinued": discontinued}]),
        ];
        if more {
            rows.push(
                json!([{"medicationentryid": "H2", "medication": "Lisinopril 10 mg tablet", "isdiscontinued": false}]),
            );
        }
        event("920", "medications", Some(captured), json!({ "medications": rows }))
    };
    // The newer capture arrives first.
    ingest(&app, &[list("2026-03-09T00:00:00Z", true, true), list("2026-03-01T00:00:00Z", false, false)]).await;
    let view = chart(&app, "920").await;
    assert_eq!(view["event_count"], 2);
    let mut shown: Vec<(&str, &str)> = items(&view, "medications")
        .iter()
        .map(|item| (item["name"].as_str().unwrap(), item["status"].as_str().unwrap()))
        .collect();
    shown.sort_unstable();
    assert_eq!(shown, [("Claritin 10 mg tablet", "stopped"), ("Lisinopril 10 mg tablet", "active")]);
    let history = get(&app, &app.organization.reader, "/ingest/clinical/920?history=true").await.json();
    assert_eq!(items(&history, "medications").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fhir_patient_of_that_number_joins_the_earlier_events_and_both_sources_are_one_chart() {
    let app = TestApp::start().await;
    ingest(&app, &whole_chart("930")).await;
    let system = format!("urn:chartgate:{}:athena", app.organization.id);
    let bundle = json!({"resourceType": "Bundle", "type": "collection", "entry": [
        {"fullUrl": "urn:uuid:3f0cbd1c-0000-4000-8000-000000000930", "resource": {"resourceType": "Patient", "id": "p930",
            "identifier": [{"system": system, "value": "930"}], "name": [{"family": "Abend", "given": ["Ada"]}], "birthDate": "1980-05-06"}},
        {"resource": {"resourceType": "Condition", "id": "c930", "subject": {"reference": "Patient/p930"},
            "code": {"text": "Asthma"}, "clinicalStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}}},
    ]});
    let workers = app.workers();
    let (status, accepted) = app.submit(bundle.to_string()).await;
    assert_eq!(status, 202);
    let job = app.wait_for(accepted["jobId"].as_str().unwrap(), "succeeded").await;
    workers.stop().await;
    assert_eq!(job["result"]["patients"]["linked"], 1);
    let view = chart(&app, "930").await;
    assert_eq!(view["status"], "found");
    assert_eq!(view["patient"]["name"]["family"], "Abend");
    assert_eq!(view["sources"], json!(["athena", "default"]));
    assert_eq!(view["event_count"], 9);
    let mut problems = names(&view, "problems");
    problems.sort_unstable();
    assert_eq!(problems, ["Asthma", "Essential hypertension"]);
    let listed = events(&app, "930").await;
    assert!(
        listed.iter().all(|event| event["link_status"] == "linked" && event["patient_id"] == view["patient"]["id"])
    );
    // What comes later belongs to the patient at once.
    ingest(&app, &[event("930", "vitals", None, json!({"pulse": 61}))]).await;
    let view = chart(&app, "930").await;
    assert_eq!(view["event_count"], 10);
    // An administrator takes an event away: its parts go with it.
    let medications = listed.iter().find(|event| event["kind"] == "medication").unwrap();
    let path = format!("/v1/admin/events/{}/unlink", medications["event_id"].as_str().unwrap());
    let (status, done) = app.post(&app.organization.admin, &path, &json!({"reason": "another person's"})).await;
    assert_eq!((status, &done["relinked"]), (200, &json!(3)), "{done}");
    let view = chart(&app, "930").await;
    assert_eq!((items(&view, "medications").len(), &view["event_count"]), (0, &json!(9)));
    // And it stays away when its job runs again.
    let job = medications["job_id"].as_str().unwrap();
    let retry = json!({"from": "start", "reason": "again"});
    assert_eq!(app.post(&app.organization.admin, &format!("/v1/admin/jobs/{job}/retry"), &retry).await.0, 202);
    let workers = app.workers();
    app.wait_until(job, "done again", |view| view["round"] == 2 && view["status"] == "succeeded").await;
    workers.stop().await;
    assert_eq!(items(&chart(&app, "930").await, "medications").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_and_kept() {
    let app = TestApp::start().await;
    let issues = async |job: &Value| {
        let path = format!("/v1/ingestion/jobs/{}/issues", job["jobId"].as_str().unwrap());
        get(&app, &app.organization.reader, &path).await.json()["issues"].as_array().unwrap().clone()
    };
    let jobs = ingest(
        &app,
        &[
            event("940", "vitals", Some("last Tuesday"), json!({"pulse": 72})),
            event("940", "labs", None, json!({"results": "none"})),
            event("UNKNOWN", "vitals", None, json!({"pulse": 50})),
        ],
    )
    .await;
    let statuses: Vec<&str> = jobs.iter().map(|job| job["status"].as_str().unwrap()).collect();
    let first = issues(&jobs[0]).await;
    assert_eq!(
        (first.len(), &first[0]["severity"], &first[0]["pointer"]),
        (1, &json!("error"), &json!("/captured_at"))
    );
    assert_eq!(statuses[0], "succeeded_with_issues");
    let view = chart(&app, "940").await;
    assert_eq!(items(&view, "vitals")[0]["value"], "72");
    let listed = events(&app, "940").await;
    assert_eq!(listed[1]["captured_at"], "last Tuesday");
    assert!(!issues(&jobs[1]).await.is_empty(), "{:#}", jobs[1]);
    // Nobody's number is nobody's, also of two hospitals' unknowns.
    let unknown = issues(&jobs[2]).await;
    assert!(
        unknown.iter().any(|issue| issue["pointer"] == "/athena_patient_id" && issue["severity"] == "warning"),
        "{unknown:#?}"
    );
    assert_eq!(statuses[2], "succeeded");
    assert_eq!(chart(&app, "UNKNOWN").await["status"], "not_found");
    assert_eq!(events(&app, "UNKNOWN").await[0]["link_status"], "none");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_capture_is_current_whatever_comes_when() {
    let app = TestApp::start().await;
    let said = |patient: &str, status: &str, captured: Option<&str>| {
        let list = json!({"medications": [[{"medicationentryid": 1, "medication": "Warfarin", "status": status}]]});
        event(patient, "medications", captured, list)
    };
    // A, B, A again, and then B as it was before the last A.
    ingest(
        &app,
        &[
            said("950", "Active", Some("2026-03-01T00:00:00Z")),
            said("950", "Discontinued", Some("2026-03-02T00:00:00Z")),
            said("950", "Active", Some("2026-03-04T00:00:00Z")),
            said("950", "Discontinued", Some("2026-03-03T00:00:00Z")),
        ],
    )
    .await;
    let shown = async |patient: &str| {
        let view = chart(&app, patient).await;
        items(&view, "medications").iter().map(|item| item["status"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(shown("950").await, [json!("active")]);
    // The time of receipt stands in for a capture that is not said, cannot be read, or has not come yet.
    ingest(&app, &[said("951", "Active", Some("2026-03-01T00:00:00Z")), said("951", "Discontinued", None)]).await;
    assert_eq!(shown("951").await, [json!("stopped")]);
    ingest(&app, &[said("952", "Active", Some("2099-01-01T00:00:00Z")), said("952", "Discontinued", None)]).await;
    assert_eq!(shown("952").await, [json!("stopped")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_taken_away_takes_what_it_says_and_nothing_else() {
    let app = TestApp::start().await;
    let system = format!("urn:chartgate:{}:athena", app.organization.id);
    let people = ["960", "961"].map(|number| {
        json!({"resource": {"resourceType": "Patient", "id": format!("p{number}"),
        "identifier": [{"system": system, "value": number}], "name": [{"family": number}]}})
    });
    let workers = app.workers();
    let (_, accepted) =
        app.submit(json!({"resourceType": "Bundle", "type": "collection", "entry": people}).to_string()).await;
    app.wait_for(accepted["jobId"].as_str().unwrap(), "succeeded").await;
    workers.stop().await;
    let said = |aspirin: &str, captured: &str| {
        let list = json!({"medications": [
            [{"medicationentryid": 1, "medication": "Aspirin", "status": aspirin}],
            [{"medicationentryid": 2, "medication": "Bisoprolol", "status": "Active"}],
        ]});
        event("960", "medications", Some(captured), list)
    };
    ingest(&app, &[said("Active", "2026-03-01T00:00:00Z"), said("Discontinued", "2026-03-02T00:00:00Z")]).await;
    let listed = events(&app, "960").await;
    let act = async |event: &Value, act: &str, body: Value| {
        let path = format!("/v1/admin/events/{}/{act}", event["event_id"].as_str().unwrap());
        let (status, done) = app.post(&app.organization.admin, &path, &body).await;
        assert_eq!(status, 200, "{done}");
    };
    let medications = async |patient: &str| {
        let view = chart(&app, patient).await;
        let mut shown: Vec<String> = items(&view, "medications")
            .iter()
            .map(|item| format!("{} {}", item["name"].as_str().unwrap(), item["status"].as_str().unwrap()))
            .collect();
        shown.sort_unstable();
        shown
    };
    let other = chart(&app, "961").await["patient"]["id"].clone();
    let home = chart(&app, "960").await["patient"]["id"].clone();
    assert_eq!(medications("960").await, ["Aspirin stopped", "Bisoprolol active"]);
    // The newer event is somebody else's: the older one's statements stand again.
    act(&listed[0], "link", json!({"patient": other, "reason": "wrong chart"})).await;
    assert_eq!(medications("960").await, ["Aspirin active", "Bisoprolol active"]);
    assert_eq!(medications("961").await, ["Aspirin stopped", "Bisoprolol active"]);
    // What the patient's own events say next is the patient's.
    ingest(&app, &[said("On hold", "2026-03-03T00:00:00Z")]).await;
    assert_eq!(medications("960").await.len(), 2);
    assert_eq!(medications("961").await, ["Aspirin stopped", "Bisoprolol active"]);
    // Its job again changes nothing.
    let retry = json!({"from": "start", "reason": "again"});
    let job = listed[0]["job_id"].as_str().unwrap();
    assert_eq!(app.post(&app.organization.admin, &format!("/v1/admin/jobs/{job}/retry"), &retry).await.0, 202);
    let workers = app.workers();
    app.wait_until(job, "done again", |view| view["round"] == 2 && view["status"] == "succeeded").await;
    workers.stop().await;
    assert_eq!(medications("961").await, ["Aspirin stopped", "Bisoprolol active"]);
    // It comes back: a version among the others.
    act(&listed[0], "link", json!({"patient": home, "reason": "it was right"})).await;
    assert_eq!(medications("961").await, Vec::<String>::new());
    assert_eq!(medications("960").await.len(), 2);
    // Taking the first event away takes nothing that later ones say too.
    act(&listed[1], "unlink", json!({"reason": "nobody's"})).await;
    assert_eq!(medications("960").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_athena_speaks_through_every_key_of_the_organization() {
    let app = TestApp::start().await;
    let body = json!({"role": "sender", "organization": app.organization.id.to_string(), "source": "clinic2"});
    let (status, key) = app.post(&app.platform, "/v1/admin/keys", &body).await;
    assert_eq!(status, 201, "{key}");
    let said = |status: &str, captured: &str| {
        let list = json!({"medications": [[{"medicationentryid": 1, "medication": "Warfarin", "status": status}]]});
        event("970", "medications", Some(captured), list)
    };
    let first = ingest(&app, &[said("Active", "2026-03-01T00:00:00Z")]).await;
    assert_eq!(first[0]["status"], "succeeded");
    let workers = app.workers();
    for event in [said("Active", "2026-03-02T00:00:00Z"), said("Discontinued", "2026-03-03T00:00:00Z")] {
        let (status, answer) = app.post(key["key"].as_str().unwrap(), "/ingest/athena", &event).await;
        assert_eq!(status, 202, "{answer}");
        app.wait_for(answer["job_id"].as_str().unwrap(), "succeeded").await;
    }
    workers.stop().await;
    let view = chart(&app, "970").await;
    assert_eq!(items(&view, "medications").len(), 1);
    assert_eq!((&items(&view, "medications")[0]["status"], &view["sources"]), (&json!("stopped"), &json!(["athena"])));
}
