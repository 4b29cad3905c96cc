//! Whatever the order of chunks and files: the same links, the same current versions, and each line once.

use super::{Bulk, Order, gzip, many_lines, observation_line, patient_line};
use serde_json::json;

const CURRENT: &str = "select count(*) from clinical_events where is_current";
const LINKED: &str = "select count(*) from clinical_events where link_status = 'linked'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_resolve_across_chunks_whatever_their_order() {
    let mut lines = many_lines(10, 9_000);
    lines.extend((0..10).map(|n| patient_line(&format!("p{n}"), &n.to_string())));
    let text = lines.join("\n");
    for (order, body) in [(Order::Forwards, text.clone().into_bytes()), (Order::Backwards, gzip(text.as_bytes()))] {
        let bulk = Bulk::open().await;
        let file = bulk.take_up(&body, "default").await;
        let ended = bulk.run(&file, order).await;
        assert!(bulk.chunks(&file, order).await.len() > 1);
        assert_eq!((ended.code(), ended.with_issues), ("none", false), "{:?}", ended.error);
        assert_eq!(ended.result["resources"], 9_010);
        assert_eq!(ended.result["findings"], 9_000);
        assert_eq!(bulk.count(LINKED).await, 9_010);
        assert_eq!(bulk.count("select count(*) from patients").await, 10);
        assert_eq!(bulk.count(crate::clinical::MISCOUNTED).await, 0);
        evidence_is_exact(&bulk, text.as_bytes()).await;
    }
}

/// text[start..end] = quote, also of compressed files, whose offsets count decompressed bytes.
async fn evidence_is_exact(bulk: &Bulk, text: &[u8]) {
    let rows: Vec<(i64, i64, Vec<u8>)> = bulk
        .clinic
        .unit(|connection| {
            Box::pin(async move {
                let query = sqlx::query_as("select byte_start, byte_end, quote from finding_evidence");
                Ok(query.fetch_all(connection).await?)
            })
        })
        .await;
    assert!(rows.len() >= 9_000);
    for (start, end, quote) in rows {
        assert_eq!(&text[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()], quote);
    }
    let events: Vec<(i64, i64, Vec<u8>)> = bulk
        .clinic
        .unit(|connection| {
            Box::pin(async move {
                let query = sqlx::query_as("select byte_start, byte_end, content_sha256 from clinical_events");
                Ok(query.fetch_all(connection).await?)
            })
        })
        .await;
    for (start, end, sha256) in events {
        let bytes = &text[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        assert_eq!(<sha2::Sha256 as sha2::Digest>::digest(bytes).to_vec(), sha256);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_resource_in_two_chunks_ends_in_the_same_version_in_either_order() {
    let mut lines = vec![patient_line("p0", "1"), observation_line("twice", "p0", 61)];
    lines.extend(many_lines(1, 9_000));
    lines.push(observation_line("twice", "p0", 99));
    let text = lines.join("\n");
    for order in [Order::Forwards, Order::Backwards] {
        let bulk = Bulk::open().await;
        let file = bulk.take_up(text.as_bytes(), "default").await;
        assert_eq!(bulk.run(&file, order).await.code(), "none");
        let values: Vec<(i32, bool)> = bulk
            .clinic
            .unit(|connection| {
                Box::pin(async move {
                    let sql =
                        "select entry, is_current from clinical_events where resource_key = 'twice' order by entry";
                    Ok(sqlx::query_as(sql).fetch_all(connection).await?)
                })
            })
            .await;
        assert_eq!(values, [(2, false), (9_003, true)]);
        assert_eq!(bulk.count(CURRENT).await, 9_002);
    }
}

#[tokio::test]
async fn the_same_bytes_by_another_url_are_a_duplicate_without_effects() {
    let bulk = Bulk::open().await;
    let body = [patient_line("p1", "1"), observation_line("o1", "p1", 60)].join("\n").into_bytes();
    let (first, ended) = bulk.ingest(&body).await;
    assert!(ended.result.get("duplicateOf").is_none());
    let records = bulk.count("select count(*) from audit_records where event = 'patient.linked'").await;
    let (second, ended) = bulk.ingest(&body).await;
    assert_eq!(ended.code(), "none");
    assert_eq!(ended.result["duplicateOf"], json!(first.job.to_string()));
    assert_eq!((&ended.result["resources"], &ended.result["findings"]), (&json!(0), &json!(0)));
    assert_eq!(bulk.chunks(&second, Order::Forwards).await.len(), 0);
    assert_eq!(bulk.count("select count(*) from audit_records where event = 'patient.linked'").await, records);
    assert_eq!(bulk.count("select count(*) from jobs where duplicate_of is not null").await, 1);
    // Of another source they are other resources.
    let file = bulk.take_up(&body, "other").await;
    assert_eq!(bulk.run(&file, Order::Forwards).await.result["resources"], 2);
}

#[tokio::test]
async fn every_step_may_run_twice_and_a_retry_reads_the_copy() {
    let bulk = Bulk::open().await;
    let body = gzip([patient_line("p1", "1"), "bad".into(), observation_line("o1", "p1", 60)].join("\n").as_bytes());
    let (mut file, _) = bulk.ingest(&body).await;
    for handler in ["bulk.validate", "bulk.link_patient", "bulk.extract_findings"] {
        bulk.chunk(&file, handler, 1).await.unwrap();
    }
    let everything = "select (select count(*) from clinical_events) + 100 * (select count(*) from findings)
                             + 10000 * (select count(*) from issues) + 1000000 * (select count(*) from finding_evidence)";
    let before = bulk.count(everything).await;
    assert_eq!(before % 10_000, 102);
    // The sender's object is gone by now.
    bulk.clinic.objects.objects.delete(&file.key).await.unwrap();
    file.round = 2;
    let again = bulk.run(&file, Order::Forwards).await;
    assert_eq!((again.code(), again.with_issues), ("none", true), "{:?}", again.error);
    assert!(again.result.get("duplicateOf").is_none(), "a retry is asked for its effects");
    assert_eq!(again.outputs["link_patient"]["unchanged"], 2);
    assert_eq!(bulk.count(everything).await, before);
}

#[tokio::test]
async fn a_file_that_is_cut_in_another_way_than_before_is_worked_on_anew() {
    let bulk = Bulk::open().await;
    let mut lines = many_lines(1, 9_000);
    lines[8_500] = "bad".to_owned();
    let mut file = bulk.take_up(lines.join("\n").as_bytes(), "default").await;
    assert_eq!(bulk.run(&file, Order::Forwards).await.code(), "none");
    let rows = "select count(*) from chunk_steps where chunk > 0";
    let cut =
        "select sum(byte_start + 3 * byte_end + 7 * first_line + 11 * lines + 1000000000 * chunk)::bigint from chunks";
    let (chunks, before) = (bulk.chunks(&file, Order::Forwards).await.len(), bulk.count(cut).await);
    assert_eq!((chunks, bulk.count("select count(*) from issues where chunk = 2").await), (2, 1));
    let done = "insert into chunk_steps (organization_id, job_id, step, chunk, round, status, attempts, finished_at)
                select organization_id, job_id, s, chunk, 1, 'succeeded', 1, now() from chunks, generate_series(0, 3) s
                on conflict do nothing";
    bulk.execute(done).await;
    // Cut in the same way: what the chunks did is kept.
    file.round = 2;
    bulk.open_file(&file).await.unwrap();
    assert_eq!((bulk.count(rows).await, bulk.count(cut).await), (8, before));
    // As if another release had cut it: elsewhere; or into more pieces.
    for other in [
        "update chunks set byte_end = byte_end - 1000 where chunk = 1",
        "update chunks set first_line = first_line + 1 where chunk = 2",
        "insert into chunks (organization_id, job_id, chunk, byte_start, byte_end, first_line)
         select organization_id, job_id, 3, byte_end, byte_end + 1, 9001 from chunks where chunk = 2",
        "delete from chunks where chunk = 2",
        "update bulk_plans set shape = 'array'",
    ] {
        bulk.execute(done).await;
        bulk.execute("update chunks set rejected = '{1}'").await;
        bulk.execute(other).await;
        bulk.open_file(&file).await.unwrap();
        assert_eq!(bulk.count(rows).await, 0, "{other}");
        assert_eq!(bulk.count(cut).await, before, "{other}");
        assert_eq!(bulk.count("select count(*) from issues where chunk > 0").await, 0, "{other}");
        assert_eq!(bulk.count("select count(*) from chunks where rejected <> '{}'").await, 0, "{other}");
    }
    // Every line is found in its place again.
    let again = bulk.run(&file, Order::Backwards).await;
    assert_eq!((again.code(), &again.outputs["link_patient"]["unchanged"]), ("none", &json!(8_999)));
    assert_eq!(bulk.count("select count(*) from clinical_events").await, 8_999);
}

#[tokio::test]
async fn arrays_are_read_by_their_items() {
    let bulk = Bulk::open().await;
    let text =
        format!("[{},\n{{\"resourceType\":\"Nope\"}},\n{}]", observation_line("o1", "p1", 60), patient_line("p1", "1"));
    let (file, ended) = bulk.ingest(text.as_bytes()).await;
    assert_eq!((ended.code(), &ended.result["resources"]), ("none", &json!(2)));
    assert_eq!(bulk.count(LINKED).await, 2);
    let outcomes = bulk.outcomes(&file).await;
    assert_eq!((outcomes.len(), &outcomes[0]["entry"], &outcomes[0]["line"]), (1, &json!(1), &json!(null)));
    assert_eq!(
        bulk.count("select count(*) from finding_evidence where pointer like '/0/%'").await,
        bulk.count("select count(*) from finding_evidence").await
    );
}
