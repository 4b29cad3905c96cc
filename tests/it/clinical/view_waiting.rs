//! What a reader gets for a number that is nobody's yet, and of events that have parts.

use super::linking_decisions::{decide, one, place};
use super::view::{page, rows_read};
use super::{Clinic, bundle, condition, items, patient};
use chartgate::ids::{EventId, FindingId, ReviewId};
use chartgate::ingest::fhir::sample;
use chartgate::ingest::findings::{self, packed::unpack};
use chartgate::ingest::linking::acts::Answer;
use chartgate::ingest::view::{ClinicalQuery, ClinicalView, ViewStatus, clinical};
use serde_json::{Value, json};

/// A statement of a person that waits for an answer, as one that contradicts the holder of its other number does.
fn contradicting(id: &str, number: &str) -> Value {
    let mut person = patient(id, number, "1950-05-05");
    let mut held = person["identifier"][0].clone();
    held["value"] = json!("held");
    person["identifier"].as_array_mut().unwrap().push(held);
    person
}

#[tokio::test]
async fn a_number_of_a_patient_resource_in_review_shows_what_waits_for_it() {
    let clinic = Clinic::open().await;
    clinic.ingest(&bundle("batch", &[patient("a", "held", "1987-02-20")])).await;
    let within = condition("within", "urn:uuid:b");
    let by_number = json!({"resourceType": "Condition", "id": "number", "subject": {"identifier": {"system": "urn:hospital", "value": "asked"}}});
    clinic.ingest(&bundle("batch", &[contradicting("b", "asked"), within])).await;
    assert_eq!(clinic.count("select count(*) from patient_statements where status = 'review'").await, 1);
    let names = |view: &ClinicalView| {
        let mut names: Vec<&str> =
            items(view, "problems").iter().map(|item| item["resource_id"].as_str().unwrap()).collect();
        names.sort_unstable();
        names.join(" ")
    };
    let view = clinic.view("asked").await;
    assert_eq!((view.status, view.patient.is_none(), view.event_count), (ViewStatus::Found, true, 2));
    assert_eq!((names(&view).as_str(), view.sources), ("within", vec!["default".to_owned()]));
    // What speaks of it by its id, from the same source, and by the number itself.
    clinic.ingest(&bundle("batch", &[condition("reference", "Patient/b"), by_number])).await;
    clinic
        .ingest_from(bundle("batch", &[condition("elsewhere", "Patient/b")]).to_string().as_bytes(), "lab")
        .await
        .unwrap();
    let view = clinic.view("asked").await;
    assert_eq!((names(&view).as_str(), view.event_count), ("number reference within", 4));
    let page = |cursor: Option<String>| {
        let organization = clinic.organization;
        clinic.unit(move |connection| {
            Box::pin(async move {
                let cursor = cursor.map(|cursor| cursor.parse().unwrap());
                clinical(
                    connection,
                    organization,
                    ClinicalQuery { mrn: "asked", system: None, history: true, cursor, limit: 1 },
                )
                .await
            })
        })
    };
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let one = page(cursor).await;
        seen.push(names(&one));
        cursor = one.next.get("problems").cloned();
        if cursor.is_none() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, ["number", "reference", "within"]);
    // The number that somebody has shows that one's events only.
    let held = clinic.view("held").await;
    assert!(held.patient.is_some() && items(&held, "problems").is_empty());
    assert_eq!(clinic.view_with("asked", Some("urn:other"), false).await.status, ViewStatus::NotFound);
    // A second resource that says the number may be somebody else: then only what names the number itself is shown.
    clinic.ingest(&bundle("batch", &[contradicting("c", "asked"), condition("third", "urn:uuid:c")])).await;
    assert_eq!(clinic.count("select count(*) from patient_statements where status = 'review'").await, 2);
    assert_eq!(names(&clinic.view("asked").await), "number");
}

#[tokio::test]
async fn a_person_who_unlinks_or_rejects_is_heard_in_the_view() {
    let clinic = Clinic::open().await;
    clinic
        .ingest(&bundle(
            "batch",
            &[patient("p", "1", "1987"), condition("c", "urn:uuid:p"), condition("d", "urn:uuid:p")],
        ))
        .await;
    assert_eq!(items(&clinic.view("1").await, "problems").len(), 2);
    let event = |kind: &'static str, key: &'static str| {
        clinic.unit(move |connection| {
            Box::pin(async move {
                let sql = "select id from clinical_events where resource_type = $1 and resource_key = $2";
                Ok(sqlx::query_scalar::<_, EventId>(sql).bind(kind).bind(key).fetch_one(connection).await?)
            })
        })
    };
    for (kind, key) in [("Condition", "d"), ("Patient", "p")] {
        place(&clinic, event(kind, key).await, None).await.unwrap();
    }
    let view = clinic.view("1").await;
    assert_eq!((view.status, view.patient.is_none()), (ViewStatus::Found, true));
    // `d` was taken from whoever this is.
    let problems = items(&view, "problems");
    assert_eq!((problems.len(), &problems[0]["resource_id"]), (1, &json!("c")));
    let review: ReviewId = one(&clinic, "select id from reviews where status = 'open'").await;
    decide(&clinic, review, Answer::Reject, None).await.unwrap();
    assert_eq!(clinic.view("1").await.status, ViewStatus::NotFound);
}

#[tokio::test]
async fn a_number_is_found_among_many_that_wait_by_its_index() {
    let clinic = Clinic::open().await;
    clinic
        .unit(|connection| {
            Box::pin(async move {
                sqlx::query(
                    "insert into clinical_events
                       (organization_id, id, job_id, job_seq, seen_seq, source_label, resource_type, resource_key, content_sha256,
                        payload_sha256, byte_start, byte_end, category, subject_key, link_status, is_current, created_at)
                     select (tenant_organizations())[1], gen_random_uuid(), gen_random_uuid(), 1, 1, 'ehr', 'Condition', 'n' || n,
                            sha256(n::text::bytea), sha256('body'), 0, 10, 'problems', 'mrn:urn:hospital|w' || n / 2, 'pending', true,
                            chartgate_now()
                     from generate_series(0, 19999) as n",
                )
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await;
    for analyzed in [false, true] {
        if analyzed {
            sqlx::raw_sql("vacuum analyze").execute(&mut clinic.owner().await).await.unwrap();
        }
        let organization = clinic.organization;
        let read = clinic
            .unit(move |connection| {
                Box::pin(async move {
                    let query = ClinicalQuery { mrn: "w7", system: None, history: false, cursor: None, limit: 10 };
                    let before = rows_read(connection, "clinical_events").await?;
                    let view = clinical(connection, organization, query).await?;
                    assert_eq!(
                        (view.status, view.event_count, items(&view, "problems").len()),
                        (ViewStatus::Found, 2, 2)
                    );
                    Ok(rows_read(connection, "clinical_events").await? - before)
                })
            })
            .await;
        assert!(read <= 10, "{analyzed}: {read} rows");
    }
}

/// An Athena event of two parts, one of them in an older version, as `link_patient` stores them: for whoever waits under this key.
async fn athena(clinic: &Clinic, key: &'static str, event: EventId) {
    clinic
        .unit(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "with stored as (
                       insert into clinical_events
                         (organization_id, id, job_id, job_seq, seen_seq, source_label, resource_type, resource_key, content_sha256,
                          payload_sha256, byte_start, byte_end, category, subject_key, link_status, is_current, clinical_at, created_at,
                          part_of, pointer)
                       select (tenant_organizations())[1], coalesce(p.id, gen_random_uuid()), gen_random_uuid(), 1, 1, 'athena', p.type, p.key,
                              sha256(p.key::bytea || p.is_current::text::bytea), sha256('body'), 0, 10, p.category, $1, 'pending', p.is_current,
                              timestamptz '2026-01-01', chartgate_now(), case when p.category is not null then $2 end, p.pointer
                       from (values ($2, 'AthenaEvent', 'e1', null, null, true),
                                    (null, 'AthenaVital', '7%7C|vital/9', 'vitals', '/payload/vitals/0', true),
                                    (null, 'AthenaVital', '7%7C|vital/9', 'vitals', '/payload/vitals/1', false),
                                    (null, 'AthenaLab', '#e1:/payload/labs/0', 'labs', '/payload/labs/0', true))
                            as p (id, type, key, category, pointer, is_current)
                       returning organization_id, id, resource_type, created_at
                     )
                     insert into findings (organization_id, id, event_id, ordinal, category, kind, extractor_version, created_at)
                     select organization_id, gen_random_uuid(), id, 0, 'vital', 'measurement', 2, created_at
                     from stored
                     where resource_type = 'AthenaVital'",
                )
                .bind(key)
                .bind(event)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await;
}

#[tokio::test]
async fn a_part_is_shown_as_its_event_and_by_its_own_id() {
    let clinic = Clinic::open().await;
    let event = EventId::new();
    athena(&clinic, "mrn:urn:hospital|1", event).await;
    for patient_is_known in [false, true] {
        if patient_is_known {
            clinic.ingest(&bundle("batch", &[patient("p", "1", "1987")])).await;
        }
        let view = clinic.view_with("1", None, true).await;
        assert_eq!((view.patient.is_some(), view.event_count), (patient_is_known, 1 + i64::from(patient_is_known)));
        let vitals = items(&view, "vitals");
        let lab = &items(&view, "labs")[0];
        assert_eq!((vitals.len(), items(&view, "labs").len()), (2, 1));
        let (current, older): (Vec<&Value>, Vec<&Value>) = vitals.iter().partition(|item| item["is_current"] == true);
        assert_eq!((&current[0]["event_id"], &older[0]["event_id"]), (&json!(event), &json!(event)));
        assert_ne!(current[0]["part_id"], older[0]["part_id"]);
        assert_eq!((&current[0]["resource_id"], &lab["resource_id"]), (&json!("vital/9"), &Value::Null));
        assert_eq!(current[0]["resource"]["pointer"], "/payload/vitals/0");
        assert_eq!((&older[0]["superseded_by"], &current[0]["resource_type"]), (&json!(event), &json!("AthenaVital")));
        let finding: FindingId = serde_json::from_value(current[0]["finding_id"].clone()).unwrap();
        let organization = clinic.organization;
        let found = clinic
            .unit(move |connection| Box::pin(findings::store::provenance(connection, organization, finding)))
            .await;
        assert_eq!(found.unwrap().event_id, event);
    }
    // A resource is no part of anything.
    let found = clinic.ingest(&bundle("batch", &[condition("c", "Patient/p")])).await;
    assert!(!found.is_empty());
    assert!(items(&clinic.view("1").await, "problems")[0].get("part_id").is_none());
}

#[tokio::test]
async fn pages_of_parts_go_on_behind_the_part() {
    let clinic = Clinic::open().await;
    athena(&clinic, "mrn:urn:hospital|1", EventId::new()).await;
    let first = page(&clinic, None, 1, true).await;
    let cursor = first.next["vitals"].clone();
    assert_eq!(cursor, format!("vitals:{}", items(&first, "vitals")[0]["part_id"].as_str().unwrap()));
    let second = page(&clinic, Some(&cursor), 1, true).await;
    assert_eq!(items(&second, "vitals").len(), 1);
    assert_ne!(items(&second, "vitals")[0]["part_id"], items(&first, "vitals")[0]["part_id"]);
    assert!(second.next.is_empty());
}

#[tokio::test]
async fn evidence_is_shown_as_its_rows_say_it() {
    let clinic = Clinic::open().await;
    clinic.ingest_from(&sample::bundle(21, 1, sample::Size::Full), "default").await.unwrap();
    let mrn = sample::mrn(21, 0);
    let subject = json!({"identifier": {"system": "urn:hospital", "value": "1"}});
    let medication = json!({"resourceType": "Medication", "id": "m", "code": {"text": "Metformin"}});
    let order = json!({"resourceType": "MedicationRequest", "id": "r", "status": "active", "intent": "order", "subject": subject,
        "medicationReference": {"reference": "Medication/m"}});
    clinic.ingest(&bundle("batch", &[medication])).await;
    clinic.ingest(&bundle("batch", &[patient("p", "1", "1987"), order])).await;
    let beside = [clinic.view(&mrn).await, clinic.view("1").await]
        .map(|view| serde_json::from_slice::<serde_json::Value>(&view.json()).unwrap());
    let ordered = &beside[1]["clinical_data"]["medications"][0];
    assert_eq!((&ordered["name"], ordered["evidence"].as_array().unwrap().len()), (&json!("Metformin"), 2));
    // The medication of another resource is looked up when it is read.
    let apart = "select count(distinct f.event_id) from findings f join shown_events e on e.event_id = f.event_id where num_nonnulls(e.shown, e.packed) = 0";
    assert_eq!(clinic.count(apart).await, 1);
    let rows: Vec<(EventId, Option<Vec<u8>>)> =
        sqlx::query_as("select event_id, packed from shown_events").fetch_all(&mut clinic.owner().await).await.unwrap();
    let texts: Vec<(EventId, Option<String>)> =
        rows.into_iter().map(|(event, packed)| (event, packed.map(|packed| unpack(&packed).unwrap()))).collect();
    let mut owner = clinic.owner().await;
    for (stored, change) in [
        (
            "by an earlier release",
            "update shown_events set packed = null, shown = $2 where event_id = $1 and $2 is not null",
        ),
        (
            "so that it cannot be read",
            "update shown_events set packed = '\\x01', shown = null where event_id = $1 and $2 is not null",
        ),
        ("before there was the table", "delete from shown_events where event_id = $1 and ($2 is null or true)"),
    ] {
        for (event, text) in &texts {
            sqlx::query(change).bind(event).bind(text).execute(&mut owner).await.unwrap();
        }
        let rows = [clinic.view(&mrn).await, clinic.view("1").await]
            .map(|view| serde_json::from_slice::<serde_json::Value>(&view.json()).unwrap());
        assert!(beside == rows, "the same, stored {stored}");
    }
}
