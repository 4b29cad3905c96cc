//! What `bulk.link_patient` hands on in memory is a shortcut: with it and without it the same rows come out, and an erasure in
//! between is seen either way.

use super::{Bulk, File};
use chartgate::engine::handler::{Facts, Memo};
use chartgate::ids::EventId;
use chartgate::ingest::findings::packed::unpack;
use serde_json::Value;

const LINES: usize = 40;

/// A patient with observations; two lines say the same, and two have no finding.
fn lines() -> String {
    let mut text = r#"{"resourceType":"Patient","id":"p","identifier":[{"type":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v2-0203","code":"MR"}]},"system":"urn:h","value":"1"}]}
{"resourceType":"Organization","id":"o","name":"H"}
"#
    .to_owned();
    for number in (0..LINES).chain([3]) {
        let line = format!(
            r#"{{"resourceType":"Observation","id":"o{number}","status":"final","code":{{"text":"Weight"}},"subject":{{"reference":"Patient/p"}},"valueQuantity":{{"value":{number},"unit":"kg"}}}}"#
        );
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// Findings with their evidence and what is shown of them, without ids.
type Rows = Vec<(String, i32, String, String, Value)>;

async fn rows(bulk: &Bulk, file: &File) -> Rows {
    let (organization, job) = (bulk.clinic.organization, file.job);
    let rows: Vec<(String, i32, String, String, Vec<u8>)> = bulk
        .clinic
        .unit(move |connection| {
            Box::pin(async move {
                let query = sqlx::query_as(
                    "select e.resource_key, f.ordinal, f.value_text,
                            (select string_agg(x.byte_start || '-' || x.byte_end || convert_from(x.quote, 'UTF8') || x.pointer, ';' order by x.ordinal)
                             from finding_evidence x where x.organization_id = $1 and x.finding_id = f.id),
                            (select s.packed from shown_events s where s.organization_id = $1 and s.event_id = e.id)
                     from findings f
                     join clinical_events e on e.organization_id = $1 and e.id = f.event_id
                     where f.organization_id = $1 and e.job_id = $2
                     order by 1, 2",
                );
                Ok(query.bind(organization).bind(job).fetch_all(connection).await?)
            })
        })
        .await;
    let shown = |packed: &[u8]| {
        let mut shown: Value = serde_json::from_str(&unpack(packed).unwrap()).unwrap();
        shown.as_object_mut().unwrap().remove("finding_id").unwrap();
        shown
    };
    rows.into_iter()
        .map(|(key, ordinal, value, evidence, packed)| (key, ordinal, value, evidence, shown(&packed)))
        .collect()
}

/// A file whose only chunk is linked; what that handed on.
async fn linked(bulk: &Bulk, text: &str, source: &str) -> (File, Memo) {
    let file = bulk.take_up(text.as_bytes(), source).await;
    bulk.validate(&file, super::Order::Forwards).await.unwrap();
    let memo = Memo::default();
    bulk.chunk_with(&file, "bulk.link_patient", 1, &memo).await.unwrap();
    (file, memo)
}

/// Counts of findings: how many the file says, and how many are new.
fn counts(facts: &Facts) -> (u64, u64) {
    (facts["findings"].as_u64().unwrap(), facts["new"].as_u64().unwrap())
}

#[tokio::test]
async fn a_chunk_ends_in_the_same_rows_whether_its_worker_kept_what_it_had_read_or_not() {
    let bulk = Bulk::open().await;
    let text = lines();
    let (kept, memo) = linked(&bulk, &text, "kept").await;
    let by_memo = bulk.chunk_with(&kept, "bulk.extract_findings", 1, &memo).await.unwrap();
    let (read, _) = linked(&bulk, &text, "read").await;
    let by_reading = bulk.chunk_with(&read, "bulk.extract_findings", 1, &Memo::default()).await.unwrap();
    assert_eq!(by_memo, by_reading);
    assert_eq!(counts(&by_memo), (LINES as u64, LINES as u64));
    let rows_kept = rows(&bulk, &kept).await;
    assert_eq!(rows_kept.len(), LINES);
    let of_read = rows(&bulk, &read).await;
    assert_eq!(rows_kept, of_read);
    // Once more, either way: nothing is new.
    for memo in [memo, Memo::default()] {
        let again = bulk.chunk_with(&kept, "bulk.extract_findings", 1, &memo).await.unwrap();
        assert_eq!(counts(&again), (LINES as u64, 0));
    }
    assert_eq!(rows(&bulk, &kept).await, rows_kept);
}

#[tokio::test]
async fn an_event_that_was_erased_after_its_chunk_was_linked_gets_no_findings() {
    let bulk = Bulk::open().await;
    let (file, memo) = linked(&bulk, &lines(), "default").await;
    let organization = bulk.clinic.organization;
    let erased: Vec<EventId> = bulk
        .clinic
        .unit(move |connection| {
            Box::pin(async move {
                let query = sqlx::query_scalar(
                    "delete from clinical_events
                     where organization_id = $1 and resource_type = 'Observation' and resource_key in ('o1', 'o7')
                     returning id",
                );
                Ok(query.bind(organization).fetch_all(connection).await?)
            })
        })
        .await;
    assert_eq!(erased.len(), 2);
    let facts = bulk.chunk_with(&file, "bulk.extract_findings", 1, &memo).await.unwrap();
    assert_eq!(counts(&facts), (LINES as u64 - 2, LINES as u64 - 2));
    let left: i64 = bulk
        .clinic
        .unit(move |connection| {
            Box::pin(async move {
                let query = sqlx::query_scalar(
                    "select (select count(*) from findings where organization_id = $1 and event_id = any ($2))
                          + (select count(*) from shown_events where organization_id = $1 and event_id = any ($2))",
                );
                Ok(query.bind(organization).bind(erased).fetch_one(connection).await?)
            })
        })
        .await;
    assert_eq!(left, 0);
    assert_eq!(rows(&bulk, &file).await.len(), LINES - 2);
}
