//! What persons decide, and that it stays decided.

use super::linking_rules::{about, person, whose};
use super::{Clinic, bundle, items};
use chartgate::audit::Actor;
use chartgate::db::{DbError, Scope};
use chartgate::ids::{EventId, OrganizationId, PatientId, ReviewId};
use chartgate::ingest::linking::acts::{self, ActError, Answer, By};
use chartgate::ingest::linking::reviews_store::Review;
use futures::future::BoxFuture;
use serde_json::Value;
use sqlx::PgConnection;
use std::sync::Arc;

pub const AMY: &str = "Shaw Amy 1987-02-20";
const LATER: &str = "Shaw Amy 1990-01-01";

fn by() -> By {
    By { actor: Actor { name: "key:admin".to_owned(), ..Actor::default() }, reason: "asked the ward".to_owned() }
}

async fn act<T, F>(clinic: &Clinic, work: F) -> Result<T, ActError>
where
    T: Send + 'static,
    F: for<'c> Fn(&'c mut PgConnection, OrganizationId) -> BoxFuture<'c, Result<T, ActError>> + Clone + Send + 'static,
{
    let organization = clinic.organization;
    loop {
        let work = work.clone();
        let run = clinic.db.unit(Scope::Organization(organization), move |connection| work(connection, organization));
        match run.await {
            Err(ActError::Db(DbError::Conflict(_))) => {}
            other => return other,
        }
    }
}

pub async fn decide(
    clinic: &Clinic,
    review: ReviewId,
    answer: Answer,
    patient: Option<PatientId>,
) -> Result<Review, ActError> {
    act(clinic, move |connection, organization| {
        Box::pin(async move { acts::decide(connection, organization, review, answer, patient, &by()).await })
    })
    .await
}

pub async fn place(clinic: &Clinic, event: EventId, patient: Option<PatientId>) -> Result<acts::Done, ActError> {
    act(clinic, move |connection, organization| {
        Box::pin(async move { acts::place_event(connection, organization, event, patient, &by()).await })
    })
    .await
}

pub async fn merge(clinic: &Clinic, patient: PatientId, into: PatientId) -> Result<acts::Done, ActError> {
    act(clinic, move |connection, organization| {
        Box::pin(async move { acts::merge(connection, organization, patient, into, &by()).await })
    })
    .await
}

pub async fn unmerge(clinic: &Clinic, patient: PatientId) -> Result<acts::Done, ActError> {
    act(clinic, move |connection, organization| {
        Box::pin(async move { acts::unmerge(connection, organization, patient, &by()).await })
    })
    .await
}

pub async fn one<T>(clinic: &Clinic, sql: &'static str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + 'static,
{
    clinic
        .unit(move |connection| Box::pin(async move { Ok(sqlx::query_scalar(sql).fetch_one(connection).await?) }))
        .await
}

pub async fn patient_of(clinic: &Clinic, mrn: &str) -> PatientId {
    clinic.view(mrn).await.patient.unwrap()["id"].as_str().unwrap().parse().unwrap()
}

pub async fn ingest(clinic: &Clinic, resources: &[Value]) {
    clinic.ingest(&bundle("batch", resources)).await;
}

/// A patient with number 1, and another resource with the same number that contradicts it, and has a Condition.
async fn contradicted() -> (Clinic, ReviewId) {
    let clinic = Clinic::open().await;
    ingest(&clinic, &[person("a", &["h|1"], AMY)]).await;
    ingest(&clinic, &[person("b", &["h|1", "g|7"], LATER), about("c", "urn:uuid:b"), about("d", "id:g|7")]).await;
    let review = one(&clinic, "select id from reviews where status = 'open'").await;
    (clinic, review)
}

const OPEN: &str = "select count(*) from reviews where status = 'open'";

#[tokio::test]
async fn a_decided_link_takes_along_what_waits_and_is_not_asked_again() {
    let (clinic, review) = contradicted().await;
    let patient = patient_of(&clinic, "1").await;
    assert!(items(&clinic.view("1").await, "problems").is_empty());
    let decided = decide(&clinic, review, Answer::Link, Some(patient)).await.unwrap();
    assert_eq!((decided.status.as_str(), decided.patient_id), ("decided", Some(patient)));
    assert_eq!(items(&clinic.view("1").await, "problems").len(), 2);
    assert_eq!(patient_of(&clinic, "7").await, patient);
    // The same again is the same; another one is refused.
    let again = decide(&clinic, review, Answer::Link, Some(patient)).await.unwrap();
    assert_eq!(again.decided_at, decided.decided_at);
    let refused = decide(&clinic, review, Answer::Reject, None).await;
    assert!(matches!(refused, Err(ActError::ReviewDecided)));
    // The same said by another resource, and by a new version: not asked. Something else: asked.
    ingest(&clinic, &[person("e", &["h|1", "g|7"], LATER), about("f", "urn:uuid:e")]).await;
    let mut version = person("b", &["g|7", "h|1"], LATER);
    version["active"] = true.into();
    ingest(&clinic, &[version]).await;
    assert_eq!((clinic.count(OPEN).await, items(&clinic.view("1").await, "problems").len()), (0, 3));
    ingest(&clinic, &[person("b", &["h|1", "g|7"], "Shaw Amy 2001-01-01")]).await;
    assert_eq!(clinic.count(OPEN).await, 1);
    let history =
        "select count(*) from patient_links where method = 'decision' and actor = 'key:admin' and status = 'linked'";
    assert_eq!(clinic.count(history).await, 1);
    assert_eq!(
        clinic
            .count("select count(*) from audit_records where event = 'review.decided' and purpose = 'asked the ward'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_new_patient_gets_what_is_free_and_a_rejected_one_nothing() {
    let (clinic, review) = contradicted().await;
    let first = patient_of(&clinic, "1").await;
    let decided = decide(&clinic, review, Answer::NewPatient, None).await.unwrap();
    let second = patient_of(&clinic, "7").await;
    assert!(decided.patient_id == Some(second) && second != first);
    assert_eq!(patient_of(&clinic, "1").await, first);
    assert_eq!(items(&clinic.view("7").await, "problems").len(), 2);

    let (clinic, review) = contradicted().await;
    decide(&clinic, review, Answer::Reject, None).await.unwrap();
    assert_eq!(clinic.count("select count(*) from patients").await, 1);
    assert_eq!(
        clinic.count("select count(*) from clinical_events where resource_key = 'b' and link_status = 'none'").await,
        1
    );
    assert_eq!(clinic.count("select count(*) from clinical_events where link_status = 'pending'").await, 2);
    ingest(&clinic, &[person("z", &["h|1", "g|7"], LATER)]).await;
    assert_eq!(clinic.count(OPEN).await, 0);
}

#[tokio::test]
async fn a_decision_holds_whatever_arrives_in_whatever_order() {
    for order in [[0, 1], [1, 0]] {
        let clinic = Clinic::open().await;
        let mut late = Vec::new();
        for body in [
            bundle("batch", &[person("x", &["g|7"], LATER)]),
            bundle("batch", &[person("y", &["h|1"], AMY), about("w", "id:g|7")]),
        ] {
            late.push(clinic.accept(body.to_string().as_bytes(), "lab").await);
        }
        ingest(&clinic, &[person("a", &["h|1"], AMY)]).await;
        ingest(&clinic, &[person("b", &["h|1", "g|7"], LATER)]).await;
        let review = one(&clinic, "select id from reviews where status = 'open'").await;
        let patient = patient_of(&clinic, "1").await;
        decide(&clinic, review, Answer::Link, Some(patient)).await.unwrap();
        for index in order {
            clinic.step(late[index], "link_patient", toml::Table::new()).await.unwrap();
        }
        // `x` was accepted before: it has the number 7, and is a patient of its own.
        let found: Vec<String> = whose(&clinic).await.into_values().collect();
        let same = |one: usize, other: usize| found[one] == found[other];
        assert!(same(0, 1) && same(0, 4) && same(2, 3) && !same(0, 2), "{order:?} {found:?}");
        assert_eq!(clinic.count(OPEN).await, 0);
    }
}

#[tokio::test]
async fn merged_patients_are_one_by_every_number_and_can_be_taken_apart_again() {
    let clinic = Clinic::open().await;
    ingest(&clinic, &[person("a", &["h|1"], AMY), about("c", "urn:uuid:a")]).await;
    ingest(&clinic, &[person("b", &["h|2"], LATER), about("d", "urn:uuid:b"), about("e", "id:h|2")]).await;
    let (goes, stays) = (patient_of(&clinic, "2").await, patient_of(&clinic, "1").await);
    let event: EventId = one(&clinic, "select id from clinical_events where resource_key = 'c'").await;
    place(&clinic, event, Some(goes)).await.unwrap();
    let before = whose(&clinic).await;
    let done = merge(&clinic, goes, stays).await.unwrap();
    assert_eq!((done.patient, done.relinked), (Some(stays), 4));
    assert_eq!(merge(&clinic, goes, stays).await.unwrap().relinked, 0);
    assert!(matches!(merge(&clinic, stays, goes).await, Err(ActError::MergeConflict)));
    for mrn in ["1", "2"] {
        assert_eq!(patient_of(&clinic, mrn).await, stays);
        assert_eq!(items(&clinic.view(mrn).await, "problems").len(), 3);
    }
    assert_eq!(
        one::<PatientId>(&clinic, "select merged_into from patients where merged_into is not null").await,
        stays
    );
    // What arrives later under either number goes to the one who stayed.
    ingest(&clinic, &[person("z", &["h|2"], LATER), about("y", "urn:uuid:z")]).await;
    assert_eq!((patient_of(&clinic, "2").await, clinic.count(OPEN).await), (stays, 0));
    unmerge(&clinic, goes).await.unwrap();
    assert_eq!((patient_of(&clinic, "2").await, patient_of(&clinic, "1").await), (goes, stays));
    let after = whose(&clinic).await;
    for (name, whose) in &before {
        assert_eq!(after.get(name), Some(whose), "{name}");
    }
    assert!(matches!(unmerge(&clinic, goes).await, Err(ActError::MergeConflict)));
    assert_eq!(clinic.count("select count(*) from link_decisions where kind in ('merge', 'unmerge')").await, 2);
}

#[tokio::test]
async fn an_unlinked_event_stays_unlinked_and_an_unlinked_patient_resource_is_asked_about() {
    let clinic = Clinic::open().await;
    ingest(
        &clinic,
        &[person("a", &["h|1"], AMY), person("b", &["h|1"], AMY), about("c", "urn:uuid:b"), about("d", "id:h|1")],
    )
    .await;
    let event = one(&clinic, "select id from clinical_events where resource_key = 'd'").await;
    assert_eq!(place(&clinic, event, None).await.unwrap().relinked, 1);
    assert_eq!(place(&clinic, event, None).await.unwrap().relinked, 0);
    // Neither a new version of it nor anything about its subject brings it back.
    let mut version = about("d", "id:h|1");
    version["code"] = serde_json::json!({"text": "eczema"});
    ingest(&clinic, &[version, person("a", &["h|1", "g|1"], AMY)]).await;
    assert_eq!(
        clinic.count("select count(*) from clinical_events where resource_key = 'd' and link_status = 'none'").await,
        2
    );
    // Both resources say the same: the question is about both.
    let event = one(&clinic, "select id from clinical_events where resource_key = 'b'").await;
    place(&clinic, event, None).await.unwrap();
    let statuses =
        "select count(*) from clinical_events where (resource_key, link_status) in (('b', 'review'), ('c', 'pending'))";
    assert_eq!(clinic.count(statuses).await, 2);
    let review: ReviewId = one(&clinic, "select id from reviews where status = 'open' and reason = 'unlinked'").await;
    let patient = one(&clinic, "select patient_id from patient_identifiers where system = 'g'").await;
    decide(&clinic, review, Answer::Link, Some(patient)).await.unwrap();
    assert_eq!(
        clinic
            .count(
                "select count(*) from clinical_events where resource_key in ('a', 'b', 'c') and link_status <> 'linked'"
            )
            .await,
        0
    );
    let unknown = place(&clinic, EventId::new(), None).await;
    assert!(matches!(unknown, Err(ActError::EventNotFound)));
    assert!(matches!(place(&clinic, event, Some(PatientId::new())).await, Err(ActError::PatientNotFound)));
}

#[tokio::test]
async fn keys_that_disagree_are_asked_about_once_and_decided_for_all() {
    let clinic = Clinic::open().await;
    ingest(&clinic, &[person("a", &["h|1"], AMY), person("b", &["h|2"], LATER)]).await;
    clinic.ingest(&bundle("batch", &[about("c", "Patient/a id:h|2"), about("d", "Patient/a id:h|2")])).await;
    let review = one(&clinic, "select id from reviews where status = 'open'").await;
    let patient = patient_of(&clinic, "2").await;
    assert!(matches!(decide(&clinic, review, Answer::NewPatient, None).await, Err(ActError::NotPossible(_))));
    decide(&clinic, review, Answer::Link, Some(patient)).await.unwrap();
    ingest(&clinic, &[about("e", "Patient/a id:h|2")]).await;
    assert_eq!((clinic.count(OPEN).await, items(&clinic.view("2").await, "problems").len()), (0, 3));
}

#[tokio::test]
async fn two_administrators_and_a_job_at_once_leave_one_decision() {
    for _ in 0..5 {
        let (clinic, review) = contradicted().await;
        let clinic = Arc::new(clinic);
        let patient = patient_of(&clinic, "1").await;
        let job = clinic.accept(bundle("batch", &[person("k", &["g|7"], LATER)]).to_string().as_bytes(), "lab").await;
        let (first, second, third) = tokio::join!(
            decide(&clinic, review, Answer::Link, Some(patient)),
            decide(&clinic, review, Answer::NewPatient, None),
            clinic.step(job, "link_patient", toml::Table::new()),
        );
        third.unwrap();
        assert_eq!(usize::from(first.is_ok()) + usize::from(second.is_ok()), 1);
        assert_eq!(clinic.count("select count(*) from link_decisions").await, 1);
        assert_eq!(clinic.count("select count(*) from clinical_events where link_status <> 'linked'").await, 0);
        let patients = clinic.count("select count(distinct patient_id) from clinical_events").await;
        assert_eq!(patients, if first.is_ok() { 1 } else { 2 });
    }
}
