//! The links depend on what was accepted and in which order, not on how it was processed.

use super::linking_rules::{about, person, whose, with};
use super::{Accepted, Clinic, bundle};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Two statements of one patient whose birth dates, or all of whose names, differ: none of these messages has a
/// decision or an explicit link, so there must be none.
const CONTRADICTIONS: &str = "select count(*)
    from patient_statements a
    join patient_statements b on b.patient_id = a.patient_id and b.id > a.id
    where left(a.birth_date, least(length(a.birth_date), length(b.birth_date)))
       <> left(b.birth_date, least(length(a.birth_date), length(b.birth_date)))
       or (lower(a.family) <> lower(b.family) and a.given <> b.given)";

/// Numbers that differ within one system in one patient, with no statement that has both.
const RENUMBERED: &str = "select count(*)
    from patient_identifiers a
    join patient_identifiers b on b.patient_id = a.patient_id and b.system = a.system and b.value > a.value
    where not exists (select 1 from patient_statements s
                      where s.patient_id = a.patient_id and s.mrn_values @> array[a.value] and s.mrn_values @> array[b.value])
      and not exists (select 1 from patient_statements s
                      where s.patient_id = a.patient_id and cardinality(s.mrn_values) > 1)";

/// An event that is linked to somebody whom neither its statement nor any of its keys means.
const UNFOUNDED: &str = "select count(*)
    from clinical_events e
    where e.link_status = 'linked'
      and not exists (select 1 from patient_statements s where s.id = e.statement_id and s.patient_id = e.patient_id)
      and not exists (select 1 from patient_statement_keys k join patient_statements s on s.id = k.statement_id
                      where s.patient_id = e.patient_id
                        and k.key in (select e.subject_key union select m.key from event_subjects m where m.event_id = e.id))";

pub struct Messages {
    pub bodies: Vec<(String, &'static str)>,
}

/// A few people, much confusion: numbers that meet, ids that are used again, other birth dates, references of all kinds.
pub fn messages(seed: u64) -> Messages {
    let mut rng = StdRng::seed_from_u64(seed);
    let count = rng.random_range(4..12);
    let people =
        ["Shaw Amy 1987-02-20", "Shaw Amy 1987", "Bell Bo 1950-01-01", "Shaw Bea 1987-02-20", "Shaw Amy 1990-05-05"];
    let numbers = ["h|1", "h|2", "g|1", "g|3", "h|000"];
    let ids = ["a", "b", "c"];
    let mut bodies = Vec::new();
    for message in 0..count {
        let source = *["ehr", "lab"].choose(&mut rng).unwrap();
        let mut resources: Vec<Value> = Vec::new();
        for place in 0..rng.random_range(1..4) {
            let id = *ids.choose(&mut rng).unwrap();
            if rng.random_bool(0.55) {
                let mut own: Vec<&str> = numbers.to_vec();
                own.shuffle(&mut rng);
                own.truncate(rng.random_range(0..3));
                let who = people[if rng.random_bool(0.6) { 0 } else { rng.random_range(0..people.len()) }];
                let mut made = person(if rng.random_bool(0.9) { id } else { "" }, &own, who);
                if rng.random_bool(0.3) {
                    let updated = format!("2026-01-0{}T00:00:00Z", rng.random_range(1..9));
                    made = with(made, json!({"meta": {"lastUpdated": updated}}));
                }
                resources.push(made);
            } else {
                let number = numbers.choose(&mut rng).unwrap();
                let subject = match rng.random_range(0..5) {
                    0 => format!("id:{number}"),
                    1 => format!("Patient/{id} id:{number}"),
                    _ => format!("Patient/{id}"),
                };
                // Some are sent again, in another Bundle or by another source.
                let name = if rng.random_bool(0.3) { format!("again{place}") } else { format!("c{message}-{place}") };
                resources.push(about(&name, &subject));
            }
        }
        let mut body = bundle("batch", &resources);
        for (position, entry) in body["entry"].as_array_mut().unwrap().iter_mut().enumerate() {
            entry["fullUrl"] = json!(format!("urn:uuid:{message}-{position}"));
        }
        bodies.push((body.to_string(), source));
    }
    Messages { bodies }
}

impl Messages {
    /// All accepted, in their order, at a clinic of their own.
    async fn accept(&self) -> (Arc<Clinic>, Vec<Accepted>) {
        let clinic = Clinic::open().await;
        let mut accepted = Vec::new();
        for (body, source) in &self.bodies {
            accepted.push(clinic.accept(body.as_bytes(), source).await);
        }
        (Arc::new(clinic), accepted)
    }
}

async fn link(clinic: &Clinic, accepted: Accepted) {
    clinic.step(accepted, "link_patient", toml::Table::new()).await.unwrap();
}

/// Links, holders of numbers, shown demographics, open questions.
pub async fn state(clinic: &Clinic) -> (BTreeMap<String, String>, Vec<String>) {
    let links = whose(clinic).await;
    let more: Vec<String> = clinic
        .unit(|connection| {
            Box::pin(async move {
                let sql = "select 'number ' || i.system || '|' || i.value || ' of ' || (
                              select min(s.source_label || s.resource_key || encode(s.fingerprint, 'hex'))
                              from patient_statements s where s.patient_id = i.patient_id)
                           from patient_identifiers i
                           union all
                           select 'review ' || reason || encode(fingerprint, 'hex') from reviews
                           where status = 'open' and is_blocking and reason <> 'no_identity'
                           union all
                           select 'shows ' || concat_ws(' ', p.family, p.given::text, p.birth_date) || ' for ' || (
                              select min(s.source_label || s.resource_key || encode(s.fingerprint, 'hex'))
                              from patient_statements s where s.patient_id = p.id)
                           from patients p where exists (select 1 from patient_statements s where s.patient_id = p.id)
                           order by 1";
                Ok(sqlx::query_scalar(sql).fetch_all(connection).await?)
            })
        })
        .await;
    (links, more)
}

/// What one has and the other has not.
pub fn difference(
    found: &(BTreeMap<String, String>, Vec<String>),
    expected: &(BTreeMap<String, String>, Vec<String>),
) -> String {
    let lines = |(links, more): &(BTreeMap<String, String>, Vec<String>)| -> BTreeSet<String> {
        links.iter().map(|(name, whose)| format!("{name}: {whose}")).chain(more.iter().cloned()).collect()
    };
    let (found, expected) = (lines(found), lines(expected));
    let extra = found.difference(&expected).map(|line| format!("+ {line}"));
    let missing = expected.difference(&found).map(|line| format!("- {line}"));
    extra.chain(missing).collect::<Vec<_>>().join("\n")
}

pub async fn check_forbidden(clinic: &Clinic, context: &str) {
    for (what, sql) in [("contradictions", CONTRADICTIONS), ("numbers", RENUMBERED), ("unfounded links", UNFOUNDED)] {
        assert_eq!(clinic.count(sql).await, 0, "{what}, {context}");
    }
}

#[tokio::test]
async fn any_order_and_any_interleaving_ends_in_the_same_links() {
    let sets = std::env::var("CHARTGATE_TEST_SETS").ok().and_then(|count| count.parse().ok()).unwrap_or(14);
    let first = std::env::var("CHARTGATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let (mut linked, mut reviewed) = (0, 0);
    for seed in first..first + sets {
        let messages = messages(seed);
        let (clinic, accepted) = messages.accept().await;
        for one in &accepted {
            link(&clinic, *one).await;
        }
        let expected = state(&clinic).await;
        check_forbidden(&clinic, &format!("seed {seed}, in order")).await;
        linked += clinic.count("select count(*) from clinical_events where link_status = 'linked'").await;
        reviewed += clinic.count("select count(*) from reviews where is_blocking").await;
        let mut rng = StdRng::seed_from_u64(seed * 1000);
        for round in 0..4 {
            let (clinic, mut accepted) = messages.accept().await;
            // Retries and repetitions: some are processed twice.
            let again: Vec<Accepted> = accepted.iter().filter(|_| rng.random_bool(0.3)).copied().collect();
            accepted.extend(again);
            accepted.shuffle(&mut rng);
            let context = format!(
                "seed {seed}, round {round}, order {:?}",
                accepted.iter().map(|one| one.seq).collect::<Vec<_>>()
            );
            if round < 2 {
                for one in accepted {
                    link(&clinic, one).await;
                }
            } else {
                let runs = accepted.into_iter().map(|one| {
                    let clinic = Arc::clone(&clinic);
                    tokio::spawn(async move { link(&clinic, one).await })
                });
                futures::future::join_all(runs).await.into_iter().for_each(|run| run.unwrap());
            }
            check_forbidden(&clinic, &context).await;
            let found = state(&clinic).await;
            assert!(found == expected, "{context}\n{}", difference(&found, &expected));
        }
    }
    assert!(linked > 0 && reviewed > 0, "the messages must meet contradictions: {linked} links, {reviewed} reviews");
}

#[tokio::test]
async fn a_message_accepted_first_and_processed_last_takes_its_place() {
    let clinic = Clinic::open().await;
    let first = clinic
        .accept(bundle("batch", &[person("a", &["h|1"], "Shaw Amy 1987-02-20")]).to_string().as_bytes(), "ehr")
        .await;
    let second =
        bundle("batch", &[person("b", &["h|1"], "Bell Bo 1950-01-01"), about("c", "urn:uuid:b"), about("d", "id:h|1")]);
    clinic.ingest_from(second.to_string().as_bytes(), "ehr").await.unwrap();
    let third = bundle("batch", &[about("e", "id:h|1")]);
    clinic.ingest_from(third.to_string().as_bytes(), "ehr").await.unwrap();
    assert_eq!(clinic.view("1").await.patient.unwrap()["birth_date"], "1950-01-01");
    clinic.process(first).await.unwrap();
    let view = clinic.view("1").await;
    assert_eq!(view.patient.unwrap()["birth_date"], "1987-02-20");
    // What names the number follows it; what is about the other resource waits with it, also by its number in its Bundle.
    let statuses = "select count(*) from clinical_events where (resource_key, link_status) in (('a', 'linked'), ('b', 'review'), ('c', 'pending'), ('d', 'pending'), ('e', 'linked'))";
    assert_eq!(clinic.count(statuses).await, 5);
    assert_eq!(
        clinic
            .count("select count(*) from reviews where status = 'open' and reason = 'name' or reason = 'birth_date'")
            .await,
        1
    );
    // The history tells it: linked first, then taken away.
    let history = "select count(*) from patient_links l join patient_links o on o.id = l.supersedes join clinical_events e on e.id = l.event_id
                   where e.resource_key = 'b' and o.status = 'linked' and l.status = 'review'";
    assert_eq!(clinic.count(history).await, 1);
    assert_eq!(clinic.count("select count(*) from patient_links l join clinical_events e on e.id = l.event_id where e.resource_key = 'e' and method = 'reassessed'").await, 1);
}

#[tokio::test]
async fn many_jobs_at_once_about_one_patient_end_in_one_patient() {
    let clinic = Arc::new(Clinic::open().await);
    for round in 0..8 {
        let mut accepted = Vec::new();
        for part in 0..6 {
            let number = format!("h|9{round}");
            let body = match part {
                0 | 1 => bundle(
                    "batch",
                    &[person(
                        &format!("p{round}-{part}"),
                        &[&number, &format!("g{part}|{round}")],
                        "Shaw Amy 1987-02-20",
                    )],
                ),
                2 | 3 => bundle("batch", &[about(&format!("c{round}-{part}"), &format!("id:{number}"))]),
                _ => bundle("batch", &[about(&format!("c{round}-{part}"), &format!("Patient/p{round}-{}", part - 4))]),
            };
            accepted.push(clinic.accept(body.to_string().as_bytes(), "ehr").await);
        }
        let runs = accepted.into_iter().map(|one| {
            let clinic = Arc::clone(&clinic);
            tokio::spawn(async move { link(&clinic, one).await })
        });
        futures::future::join_all(runs).await.into_iter().for_each(|run| run.unwrap());
    }
    assert_eq!(clinic.count("select count(*) from clinical_events where link_status <> 'linked'").await, 0);
    assert_eq!(clinic.count("select count(distinct patient_id) from clinical_events").await, 8);
    assert_eq!(clinic.count("select count(*) from patients").await, 8);
}
