//! After an erasure everything is as if the payload had never been there: the same messages without it, at another clinic, end in the same.

use super::linking_order::{check_forbidden, difference, messages, state};
use super::linking_rules::{about, person};
use super::{Accepted, Clinic, bundle};
use chartgate::audit::Actor;
use chartgate::ingest::erasure::{EraseError, Eraser, Erasure};
use chartgate::ingest::linking::acts::By;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

pub fn by() -> By {
    By { actor: Actor::internal("test"), reason: "a test".to_owned() }
}

pub fn hash(body: &str) -> [u8; 32] {
    Sha256::digest(body).into()
}

pub async fn purge(clinic: &Clinic, body: &str) -> Result<Erasure, EraseError> {
    let eraser = Eraser::new(clinic.db.clone(), clinic.objects.objects.clone());
    eraser.purge(clinic.organization, hash(body), by(), Duration::from_mins(1)).await
}

pub async fn end_jobs(clinic: &Clinic) {
    clinic
        .unit(|connection| {
            Box::pin(async move {
                sqlx::query("update jobs set status = 'succeeded', finished_at = chartgate_now()")
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await;
}

pub async fn ingest_all(clinic: &Clinic, bodies: &[&(String, &'static str)]) {
    let mut accepted: Vec<Accepted> = Vec::new();
    for (body, source) in bodies {
        accepted.push(clinic.accept(body.as_bytes(), source).await);
    }
    for one in accepted {
        for step in ["store_raw", "link_patient", "extract_findings"] {
            clinic.step(one, step, toml::Table::new()).await.unwrap();
        }
    }
    end_jobs(clinic).await;
}

/// What stands in the tables, without ids and times: versions and where they come from, evidence, statements, counts.
pub async fn rows(clinic: &Clinic) -> Vec<String> {
    clinic
        .unit(|connection| {
            Box::pin(async move {
                let sql = "
                  select concat_ws(' ', 'event', source_label, resource_type, resource_key, encode(content_sha256, 'hex'), is_current,
                                   encode(payload_sha256, 'hex'), entry, byte_start, byte_end, subject_key, link_status,
                                   dense_rank() over (order by job_seq), dense_rank() over (order by seen_seq),
                                   (select string_agg(key, ',' order by key) from event_subjects s where s.event_id = e.id))
                  from clinical_events e
                  union all
                  select concat_ws(' ', 'evidence', encode(v.payload_sha256, 'hex'), v.byte_start, v.byte_end, v.pointer, encode(v.quote, 'hex'))
                  from finding_evidence v join findings f on f.id = v.finding_id join clinical_events e on e.id = f.event_id
                  union all
                  select concat_ws(' ', 'statement', s.source_label, s.resource_key, encode(s.fingerprint, 'hex'), s.first_entry, s.status,
                                   e.source_label, e.resource_key, encode(e.content_sha256, 'hex'))
                  from patient_statements s left join clinical_events e on e.id = s.event_id
                  union all
                  select concat_ws(' ', 'count', c.source_label, c.events,
                                   (select min(s.source_label || s.resource_key || encode(s.fingerprint, 'hex'))
                                    from patient_statements s where s.patient_id = c.patient_id))
                  from patient_event_counts c
                  union all
                  select concat_ws(' ', 'rows', t.name, t.n)
                  from (select 'carriers' as name, count(*) as n from event_carriers union all
                        select 'findings', count(*) from findings union all
                        select 'patients', count(*) from patients p where exists (select from patient_statements s where s.patient_id = p.id) union all
                        select 'identifiers', count(*) from patient_identifiers union all
                        select 'reviews', count(*) from reviews where status = 'open' and is_blocking and reason <> 'no_identity') t
                  order by 1";
                Ok(sqlx::query_scalar(sql).fetch_all(connection).await?)
            })
        })
        .await
}

#[tokio::test]
async fn what_was_erased_was_never_there() {
    let sets = std::env::var("CHARTGATE_TEST_SETS").ok().and_then(|count| count.parse().ok()).unwrap_or(12);
    let first = std::env::var("CHARTGATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let (mut handed_over, mut statements) = (0, 0);
    for seed in first..first + sets {
        let messages = messages(seed);
        let count = messages.bodies.len();
        let all: Vec<_> = messages.bodies.iter().collect();
        let with = Clinic::open().await;
        ingest_all(&with, &all).await;
        // One after the other, until one message is left.
        let mut left = all;
        for round in 0..2.min(count - 1) {
            let victim = usize::try_from(seed).unwrap() * (round + 1) % left.len();
            let gone = left.remove(victim);
            let erasure = purge(&with, &gone.0).await.unwrap();
            assert_eq!(erasure.status, "finished", "{erasure:?}");
            handed_over += erasure.counts.get("handed_over").copied().unwrap_or_default();
            statements += erasure.counts.get("patient_statements").copied().unwrap_or_default();
            let without = Clinic::open().await;
            ingest_all(&without, &left).await;
            let context = format!("seed {seed}, message {victim} of {count} in round {round}");
            check_forbidden(&with, &context).await;
            let (found, expected) = (state(&with).await, state(&without).await);
            assert!(found == expected, "{context}\n{}", difference(&found, &expected));
            let (found, expected) = (rows(&with).await, rows(&without).await);
            let nothing = BTreeMap::new();
            let lines = difference(&(nothing.clone(), found.clone()), &(nothing, expected.clone()));
            assert!(found == expected, "{context}\n{lines}");
        }
    }
    assert!(handed_over > 0 && statements > 0, "{handed_over} events of two payloads, {statements} statements");
}

#[tokio::test]
async fn a_dry_run_counts_and_changes_nothing() {
    let clinic = Clinic::open().await;
    let body = bundle("batch", &[person("a", &["h|1"], "Shaw Amy 1987-02-20"), about("c", "urn:uuid:a")]).to_string();
    ingest_all(&clinic, &[&(body.clone(), "ehr")]).await;
    let before = (rows(&clinic).await, state(&clinic).await);
    let eraser = Eraser::new(clinic.db.clone(), clinic.objects.objects.clone());
    let planned = eraser.rehearse(clinic.organization, hash(&body), by()).await.unwrap();
    assert_eq!((planned.status.as_str(), planned.erasure_id), ("planned", None));
    assert_eq!((rows(&clinic).await, state(&clinic).await), before);
    assert_eq!(clinic.count("select count(*) from erasures").await, 0);
    let done = purge(&clinic, &body).await.unwrap();
    assert_eq!(done.counts, planned.counts, "what was planned is what was done");
    let expected =
        [("clinical_events", 2), ("findings", 1), ("patients", 1), ("patient_statements", 1), ("objects", 1)];
    for (table, count) in expected {
        assert_eq!(done.counts.get(table), Some(&count), "{table} in {done:?}");
    }
    assert_eq!(clinic.view("1").await.event_count, 0);
    let left = "select (select count(*) from patient_links) + (select count(*) from patient_statement_keys)
                     + (select count(*) from shown_events) + (select count(*) from issues)";
    assert_eq!(clinic.count(left).await, 0);
    let tombstone =
        "select count(*) from payloads where purged_at is not null and body is null and storage_key is null";
    assert_eq!(clinic.count(tombstone).await, 1);
    assert!(!Value::from(format!("{done:?}")).to_string().contains("Shaw"));
}

#[tokio::test]
async fn an_erasure_that_was_cut_off_is_finished_by_the_same_call_and_by_the_sweeper() {
    let clinic = Clinic::open().await;
    let bodies = ["a", "b"].map(|id| bundle("batch", &[person(id, &["h|1"], "Shaw Amy 1987-02-20")]).to_string());
    for body in &bodies {
        ingest_all(&clinic, &[&(body.clone(), "ehr")]).await;
    }
    let eraser = Eraser::new(clinic.db.clone(), clinic.objects.objects.clone());
    // No time for more than the decision.
    for body in &bodies {
        let begun = eraser.purge(clinic.organization, hash(body), by(), Duration::ZERO).await.unwrap();
        assert_eq!(begun.status, "rows");
    }
    assert_eq!(clinic.count("select count(*) from payloads where purged_at is null").await, 0, "nobody reads them");
    assert_eq!(clinic.count("select count(*) from clinical_events").await, 2);
    assert_eq!(purge(&clinic, &bodies[0]).await.unwrap().status, "finished");
    assert_eq!(clinic.count("select count(*) from clinical_events").await, 1);
    assert_eq!(eraser.finish_all().await.unwrap(), 1);
    assert_eq!(clinic.count("select count(*) from clinical_events").await, 0);
    assert_eq!(clinic.count("select count(*) from erased_objects where gone_at is null").await, 0);
    assert_eq!(clinic.objects.objects.list("raw/", None, 10).await.unwrap().len(), 0);
    assert_eq!(eraser.finish_all().await.unwrap(), 0);
    let again = purge(&clinic, &bodies[1]).await.unwrap();
    assert_eq!(again.status, "finished");
    let records = "select count(*) from audit_records where event in ('payload.purge_begun', 'payload.purged') and purpose = 'a test'";
    assert_eq!(clinic.count(records).await, 4, "each is told once");
}
