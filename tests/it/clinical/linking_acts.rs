//! Acts on acts: what a person did is taken back without touching anybody else.

use super::linking_decisions::{AMY, decide, ingest, merge, one, patient_of, place, unmerge};
use super::linking_rules::{about, person};
use super::{Clinic, items};
use chartgate::ids::{EventId, PatientId, ReviewId};
use chartgate::ingest::linking::acts::{ActError, Answer};
use std::sync::Arc;

const BOB: &str = "Zorn Bob 1950-01-01";
const CID: &str = "Quill Cid 1961-06-06";

/// Amy 1, Bob 2 and Cid 3, each with a problem of their own.
async fn three() -> (Clinic, [PatientId; 3]) {
    let clinic = Clinic::open().await;
    for (id, number, who) in [("a", "h|1", AMY), ("b", "h|2", BOB), ("c", "h|3", CID)] {
        ingest(&clinic, &[person(id, &[number], who), about(&format!("of-{id}"), &format!("id:{number}"))]).await;
    }
    let patients = [patient_of(&clinic, "1").await, patient_of(&clinic, "2").await, patient_of(&clinic, "3").await];
    (clinic, patients)
}

async fn owners(clinic: &Clinic) -> Vec<(PatientId, usize)> {
    let mut owners = Vec::new();
    for number in ["1", "2", "3"] {
        owners.push((patient_of(clinic, number).await, items(&clinic.view(number).await, "problems").len()));
    }
    owners
}

#[tokio::test]
async fn who_is_unmerged_leaves_alone_and_everybody_keeps_their_id() {
    // (who goes, who stays) in this order; who is unmerged; who is who then.
    for (merges, back, expected) in [
        ([(0, 1), (2, 1)], 0, [(0, 1), (1, 2), (1, 2)]),
        ([(0, 1), (2, 1)], 2, [(1, 2), (1, 2), (2, 1)]),
        ([(0, 2), (1, 2)], 0, [(0, 1), (2, 2), (2, 2)]),
        ([(0, 2), (1, 2)], 1, [(2, 2), (1, 1), (2, 2)]),
        ([(0, 1), (1, 2)], 0, [(0, 1), (2, 2), (2, 2)]),
        ([(0, 1), (1, 2)], 1, [(1, 2), (1, 2), (2, 1)]),
        ([(2, 1), (1, 0)], 2, [(0, 2), (0, 2), (2, 1)]),
    ] {
        let (clinic, patients) = three().await;
        let before = owners(&clinic).await;
        for (goes, stays) in merges {
            merge(&clinic, patients[goes], patients[stays]).await.unwrap();
        }
        unmerge(&clinic, patients[back]).await.unwrap();
        let expected: Vec<_> = expected.iter().map(|(index, count)| (patients[*index], *count)).collect();
        assert_eq!(owners(&clinic).await, expected, "{merges:?} {back}");
        for (goes, _) in merges.iter().filter(|(goes, _)| *goes != back) {
            unmerge(&clinic, patients[*goes]).await.unwrap();
        }
        assert_eq!(owners(&clinic).await, before, "{merges:?} {back}");
    }
}

#[tokio::test]
async fn what_was_linked_to_the_one_who_stayed_does_not_leave_with_the_one_who_went() {
    let (clinic, [amy, bob, _]) = three().await;
    merge(&clinic, amy, bob).await.unwrap();
    ingest(&clinic, &[person("x", &["h|2"], "Zorn Bob 1951-01-01"), about("of-x", "urn:uuid:x")]).await;
    let review: ReviewId = one(&clinic, "select id from reviews where status = 'open'").await;
    decide(&clinic, review, Answer::Link, Some(bob)).await.unwrap();
    ingest(&clinic, &[person("y", &["g|9"], "Zorn Robert 1950-01-01"), about("of-y", "urn:uuid:y")]).await;
    let event: EventId =
        one(&clinic, "select id from clinical_events where resource_key = 'y' and resource_type = 'Patient'").await;
    place(&clinic, event, Some(bob)).await.unwrap();
    unmerge(&clinic, amy).await.unwrap();
    assert_eq!(owners(&clinic).await[..2], [(amy, 1), (bob, 3)]);
}

#[tokio::test]
async fn the_same_merge_twice_at_once_is_one_merge() {
    for _ in 0..12 {
        let (clinic, [amy, bob, _]) = three().await;
        let before = owners(&clinic).await;
        let clinic = Arc::new(clinic);
        let again = || async { merge(&clinic, amy, bob).await };
        let done = futures::future::join_all([again(), again(), again(), again()]).await;
        assert!(done.iter().all(Result::is_ok), "{done:?}");
        assert_eq!(clinic.count("select count(*) from link_decisions").await, 1);
        unmerge(&clinic, amy).await.unwrap();
        assert_eq!(owners(&clinic).await, before);
    }
}

#[tokio::test]
async fn the_last_word_about_an_event_counts_when_merges_are_taken_back() {
    let (clinic, [amy, bob, cid]) = three().await;
    ingest(&clinic, &[about("o", "id:h|1")]).await;
    let event: EventId = one(&clinic, "select id from clinical_events where resource_key = 'o'").await;
    place(&clinic, event, Some(cid)).await.unwrap();
    merge(&clinic, cid, bob).await.unwrap();
    // It is there already; that a person says so is kept.
    assert_eq!(place(&clinic, event, Some(bob)).await.unwrap().relinked, 0);
    assert_eq!(place(&clinic, event, Some(bob)).await.unwrap().relinked, 0);
    assert_eq!(clinic.count("select count(*) from link_decisions where kind = 'event_link'").await, 2);
    unmerge(&clinic, cid).await.unwrap();
    assert_eq!(owners(&clinic).await, [(amy, 1), (bob, 2), (cid, 1)]);
}

#[tokio::test]
async fn later_versions_of_an_event_that_was_given_come_back_with_the_patient() {
    let (clinic, [amy, bob, cid]) = three().await;
    ingest(&clinic, &[about("o", "id:h|3")]).await;
    let event: EventId = one(&clinic, "select id from clinical_events where resource_key = 'o'").await;
    place(&clinic, event, Some(amy)).await.unwrap();
    let mut version = about("o", "id:h|3");
    version["code"] = serde_json::json!({"text": "eczema"});
    ingest(&clinic, &[version]).await;
    merge(&clinic, amy, bob).await.unwrap();
    merge(&clinic, bob, cid).await.unwrap();
    unmerge(&clinic, bob).await.unwrap();
    assert_eq!(owners(&clinic).await, [(bob, 3), (bob, 3), (cid, 1)]);
    unmerge(&clinic, amy).await.unwrap();
    assert_eq!(owners(&clinic).await, [(amy, 2), (bob, 1), (cid, 1)]);
}

async fn patient_event(clinic: &Clinic) -> EventId {
    one(clinic, "select id from clinical_events where resource_key = 'a' and resource_type = 'Patient'").await
}

#[tokio::test]
async fn who_was_unlinked_and_is_a_patient_again_is_the_one_from_before() {
    for by_review in [true, false] {
        let (clinic, [amy, bob, _]) = three().await;
        let before = owners(&clinic).await;
        let event: EventId = one(&clinic, "select id from clinical_events where resource_key = 'of-a'").await;
        place(&clinic, event, Some(amy)).await.unwrap();
        let own = patient_event(&clinic).await;
        place(&clinic, own, None).await.unwrap();
        assert!(clinic.view("1").await.patient.is_none());
        if by_review {
            let review: ReviewId = one(&clinic, "select id from reviews where status = 'open'").await;
            decide(&clinic, review, Answer::NewPatient, None).await.unwrap();
        } else {
            let other: EventId =
                one(&clinic, "select id from clinical_events where resource_key = 'b' and resource_type = 'Patient'")
                    .await;
            place(&clinic, other, None).await.unwrap();
            // Not somebody else's old id.
            let refused = place(&clinic, own, Some(bob)).await;
            assert!(matches!(refused, Err(ActError::PatientNotFound)));
            place(&clinic, other, Some(bob)).await.unwrap();
            place(&clinic, own, Some(amy)).await.unwrap();
        }
        assert_eq!(owners(&clinic).await, before, "{by_review}");
        assert_eq!(clinic.count("select count(*) from reviews where status = 'open'").await, 0);
    }
}

#[tokio::test]
async fn a_number_that_was_taken_away_does_not_fall_to_somebody_who_contradicts() {
    let (clinic, [amy, ..]) = three().await;
    ingest(&clinic, &[person("z", &["h|1"], BOB), about("of-z", "urn:uuid:z")]).await;
    let own = patient_event(&clinic).await;
    place(&clinic, own, None).await.unwrap();
    assert!(clinic.view("1").await.patient.is_none());
    let waiting = "select count(*) from reviews where status = 'open' and reason in ('unlinked', 'birth_date')";
    assert_eq!(clinic.count(waiting).await, 2);
    // Nor to one who comes later; who says so may have it.
    ingest(&clinic, &[person("y", &["h|1"], CID)]).await;
    assert!(clinic.view("1").await.patient.is_none());
    let review: ReviewId = one(&clinic, "select id from reviews where status = 'open' and reason = 'unlinked'").await;
    decide(&clinic, review, Answer::NewPatient, None).await.unwrap();
    assert_eq!((patient_of(&clinic, "1").await, items(&clinic.view("1").await, "problems").len()), (amy, 1));
}

#[tokio::test]
async fn a_proposal_is_open_again_when_its_merge_is_taken_back() {
    let (clinic, [amy, bob, _]) = three().await;
    ingest(&clinic, &[person("d", &["g|1"], AMY)]).await;
    let sql = "select id from reviews where status = 'open' and reason = 'possible_duplicate'";
    let own = "select patient_id from patient_identifiers where system = 'g'";
    let own: PatientId = one(&clinic, own).await;
    for _ in 0..2 {
        let review: ReviewId = one(&clinic, sql).await;
        let refused = decide(&clinic, review, Answer::Link, Some(bob)).await;
        assert!(matches!(refused, Err(ActError::NotPossible(_))));
        let decided = decide(&clinic, review, Answer::Link, Some(amy)).await.unwrap();
        assert_eq!(decided.patient_id, Some(amy));
        assert_eq!(clinic.count("select count(*) from reviews where status = 'open'").await, 0);
        unmerge(&clinic, own).await.unwrap();
        let holders = "select count(distinct patient_id) from patient_identifiers where value = '1'";
        assert_eq!(clinic.count(holders).await, 2);
        assert_eq!(clinic.count("select count(*) from reviews where status = 'open'").await, 1);
    }
}

#[tokio::test]
async fn a_proposal_about_somebody_who_was_unlinked_goes_away_and_is_not_answered_in_vain() {
    let (clinic, [amy, ..]) = three().await;
    ingest(&clinic, &[person("d", &["g|1"], AMY)]).await;
    let proposal: ReviewId =
        one(&clinic, "select id from reviews where status = 'open' and reason = 'possible_duplicate'").await;
    let own: EventId =
        one(&clinic, "select id from clinical_events where resource_key = 'd' and resource_type = 'Patient'").await;
    place(&clinic, own, None).await.unwrap();
    assert_eq!(clinic.count("select count(*) from reviews where status = 'open' and reason = 'unlinked'").await, 1);
    let refused = decide(&clinic, proposal, Answer::Link, Some(amy)).await;
    assert!(matches!(refused, Err(ActError::ReviewDecided)));
    // One that an earlier release left open.
    clinic
        .unit(move |connection| {
            let sql = "update reviews set status = 'open' where id = $1";
            Box::pin(async move { Ok(sqlx::query(sql).bind(proposal).execute(connection).await?) })
        })
        .await;
    let refused = decide(&clinic, proposal, Answer::Link, Some(amy)).await;
    assert!(matches!(refused, Err(ActError::NotPossible(_))));
    assert_eq!(clinic.count("select count(*) from reviews where status = 'decided'").await, 0);
    // What the refusal advises does it.
    place(&clinic, own, Some(amy)).await.unwrap();
    let holders = "select count(distinct patient_id) from patient_identifiers where value = '1'";
    assert_eq!(clinic.count(holders).await, 1);
    assert_eq!(clinic.count("select count(*) from reviews where status = 'open'").await, 0);
}

#[tokio::test]
async fn the_last_word_is_the_last_by_the_databases_clock_not_by_that_of_a_process() {
    let (clinic, [amy, ..]) = three().await;
    ingest(&clinic, &[person("s", &["g|9"], BOB)]).await;
    let own: EventId =
        one(&clinic, "select id from clinical_events where resource_key = 's' and resource_type = 'Patient'").await;
    place(&clinic, own, Some(amy)).await.unwrap();
    assert_eq!(patient_of(&clinic, "9").await, amy);
    // What a process whose clock is behind writes when a person takes it away again.
    clinic
        .unit(move |connection| {
            let sql = "insert into link_decisions (organization_id, id, kind, fingerprint, statement_id, patient_id, event_id, actor, created_at)
                       select organization_id, '01000000-0000-7000-8000-000000000000', 'unlink', fingerprint, statement_id, patient_id,
                              event_id, actor, chartgate_now()
                       from link_decisions where kind = 'link'";
            Box::pin(async move { Ok(sqlx::query(sql).execute(connection).await?) })
        })
        .await;
    let mut version = person("s", &["g|9"], BOB);
    version["active"] = true.into();
    ingest(&clinic, &[version]).await;
    assert!(clinic.view("9").await.patient.is_none(), "taken away later than it was given");
}

#[tokio::test]
async fn what_a_person_said_of_an_event_holds_however_its_subject_is_spelt() {
    let spellings = ["id:h|1", "Patient/a", "urn:uuid:a", "https://elsewhere.example/Patient/77"];
    for (from, first) in spellings.iter().enumerate() {
        for to in [None, Some(2)] {
            let (clinic, patients) = three().await;
            let whose = to.map(|to: usize| patients[to]);
            // With its Patient, which `urn:uuid:a` is the fullUrl of.
            ingest(&clinic, &[person("a", &["h|1"], AMY), about("o", first)]).await;
            let event: EventId = one(&clinic, "select id from clinical_events where resource_key = 'o'").await;
            place(&clinic, event, whose).await.unwrap();
            for subject in spellings.iter().cycle().skip(from + 1).take(3) {
                ingest(&clinic, &[person("a", &["h|1"], AMY), about("o", subject)]).await;
            }
            let placed: Vec<Option<PatientId>> = clinic
                .unit(|connection| {
                    let sql = "select patient_id from clinical_events where resource_key = 'o' and link_pinned";
                    Box::pin(async move { Ok(sqlx::query_scalar(sql).fetch_all(connection).await?) })
                })
                .await;
            assert_eq!(placed, [whose; 4], "{first}");
            // About somebody else: that is another matter, unless nobody knows who the first one was.
            ingest(&clinic, &[about("p", "id:h|1")]).await;
            let event: EventId = one(&clinic, "select id from clinical_events where resource_key = 'p'").await;
            place(&clinic, event, whose).await.unwrap();
            ingest(&clinic, &[about("p", "Patient/b")]).await;
            let moved = "select patient_id from clinical_events where resource_key = 'p' and is_current";
            assert_eq!(one::<Option<PatientId>>(&clinic, moved).await, Some(patients[1]));
        }
    }
}
