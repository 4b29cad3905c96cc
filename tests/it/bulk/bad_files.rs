//! Bad files: each has its code, nothing of it is lost, and a bad line hurts no other.

use super::{Bulk, Order, gzip, many_lines, patient_line};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Raw copies of the organization's files.
const KEPT: &str = "select count(*) from payloads where storage_key is not null and body is null";
const EVENTS: &str = "select count(*) from clinical_events";

#[tokio::test]
async fn every_bad_file_has_its_code_and_its_bytes_are_kept() {
    let bulk = Bulk::open().await;
    let good = patient_line("p1", "1");
    let mut cut = gzip(good.as_bytes());
    cut.truncate(cut.len() - 12);
    let mut damaged = gzip("x".repeat(10_000).as_bytes());
    let middle = damaged.len() - 6;
    damaged[middle] ^= 0xff;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("file_empty", Vec::new()),
        ("file_empty", b" \n\n".to_vec()),
        ("file_binary", [0u8, 1, 2, 3].repeat(100)),
        ("gzip_truncated", cut),
        ("gzip_damaged", damaged),
        ("file_not_json", format!("[{good}, ").into_bytes()),
        ("file_not_a_bundle", b"{\n\"resourceType\": \"Patient\"\n}".to_vec()),
        (
            "validation_failed",
            format!(r#"{{"resourceType":"Bundle","type":"searchset","entry":[{{"resource":{good}}}]}}"#).into_bytes(),
        ),
    ];
    let mut kept = 0;
    for (code, body) in cases {
        let (file, ended) = bulk.ingest(&body).await;
        assert_eq!(ended.code(), code, "{:?}", ended.error);
        assert_eq!(ended.outputs["store_raw"]["kept"], true);
        kept += 1;
        assert_eq!(bulk.count(KEPT).await, kept, "{code}");
        let raw = format!("raw/{}/{}", bulk.clinic.organization, hex::encode(Sha256::digest(&body)));
        assert_eq!(bulk.clinic.objects.objects.get(&raw).await.unwrap(), body);
        assert_eq!(ended.result["resources"], 0);
        assert_eq!(bulk.chunks(&file, Order::Forwards).await.len(), 0);
    }
    assert_eq!(bulk.count(EVENTS).await, 0);
}

#[tokio::test]
async fn a_packed_bundle_is_read_whatever_stands_around_its_members() {
    let observation = many_lines(1, 1).remove(0);
    // That no entry has this fullUrl can be told of a whole Bundle only.
    let entry = format!(r#"{{"fullUrl":"urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e","resource":{observation}}}"#);
    let entry = entry.replace("Patient/p0", "urn:uuid:7c9e6679-7425-40de-944b-e07fc1f90ae7");
    let text = format!(r#"{{"resourceType":"Bundle","type":"collection","entry":[{entry}]}}"#);
    let (head, tail) = text.split_at(100);
    let plain = [gzip(head.as_bytes()), gzip(tail.as_bytes())].concat();
    let padded = [gzip(head.as_bytes()), vec![0; 600], gzip(tail.as_bytes()), vec![0; 4_000]].concat();
    // Twenty bytes each: more is stored of it than a Bundle is read as a whole of.
    let swollen = [gzip(text.as_bytes()), gzip(b"").repeat(1_100_000)].concat();
    assert!(swollen.len() > 20 << 20);
    let mut ends = Vec::new();
    for body in [text.clone().into_bytes(), plain, padded, swollen] {
        let bulk = Bulk::open().await;
        let (_, ended) = bulk.ingest(&body).await;
        assert_eq!((ended.code(), &ended.result["resources"]), ("none", &json!(1)), "{:?}", ended.error);
        assert_eq!(bulk.count(EVENTS).await, 1);
        ends.push(ended.result["issues"].as_u64().unwrap());
    }
    assert!(ends[0] > 0 && ends[1] == ends[0] && ends[2] == ends[0], "{ends:?}");
    assert_eq!(ends[3], 0, "this one is read by its entries");
}

#[tokio::test]
async fn a_file_that_is_not_what_was_declared_is_refused() {
    let bulk = Bulk::open().await;
    let body = patient_line("p1", "1").into_bytes();
    let size = i64::try_from(body.len()).unwrap();
    let other = Sha256::digest(b"other").to_vec();
    let file = bulk.take_up_declared(&body, "default", Some(size), Some(other)).await;
    assert_eq!(bulk.run(&file, Order::Forwards).await.code(), "declared_hash_differs");
    let file = bulk.take_up_declared(&body, "default", Some(size + 1), None).await;
    assert_eq!(bulk.run(&file, Order::Forwards).await.code(), "declared_size_differs");
    let hash = Sha256::digest(&body).to_vec();
    let file = bulk.take_up_declared(&body, "default", Some(size), Some(hash)).await;
    assert_eq!(bulk.run(&file, Order::Forwards).await.code(), "none");
    assert_eq!(bulk.count(EVENTS).await, 1);
}

#[tokio::test]
async fn an_object_that_is_replaced_or_deleted_in_the_middle_is_noticed() {
    let bulk = Bulk::open().await;
    let body = patient_line("p1", "1").into_bytes();
    let other = patient_line("p2", "2").into_bytes();
    let objects = bulk.clinic.objects.objects.clone();
    let put = |key: String| objects.put(Box::leak(key.into_boxed_str()), other.clone().into(), "text/plain", &[]);
    // Before it is read.
    let file = bulk.take_up(&body, "default").await;
    put(file.key.clone()).await.unwrap();
    assert_eq!(bulk.run(&file, Order::Forwards).await.code(), "object_changed");
    let file = bulk.take_up(&body, "default").await;
    objects.delete(&file.key).await.unwrap();
    let ended = bulk.run(&file, Order::Forwards).await;
    assert_eq!((ended.code(), &ended.outputs["store_raw"]["kept"]), ("object_gone", &json!(false)));
    // Between the plan and its chunks.
    let file = bulk.take_up(&body, "default").await;
    bulk.open_file(&file).await.unwrap();
    put(file.key.clone()).await.unwrap();
    assert_eq!(bulk.chunk(&file, "bulk.validate", 1).await.unwrap_err().code, "object_changed");
    objects.delete(&file.key).await.unwrap();
    assert_eq!(bulk.chunk(&file, "bulk.validate", 1).await.unwrap_err().code, "object_gone");
    assert_eq!(bulk.count(EVENTS).await, 0);
}

#[tokio::test]
async fn marks_blank_lines_and_line_ends_change_nothing() {
    let lines = [patient_line("p1", "1"), patient_line("p2", "2")];
    let texts = [
        lines.join("\n"),
        lines.join("\n") + "\n",
        lines.join("\r\n") + "\r\n",
        format!("\u{feff}{}", lines.join("\n")),
        format!("\n\n{}\n\n", lines.join("\n \t\n")),
    ];
    for text in texts {
        for body in [text.clone().into_bytes(), gzip(text.as_bytes())] {
            let bulk = Bulk::open().await;
            let (_, ended) = bulk.ingest(&body).await;
            assert_eq!((ended.code(), ended.with_issues), ("none", false), "{ended:?}");
            assert_eq!(ended.result["resources"], 2);
            assert_eq!(ended.result["patients"]["linked"], 2);
            assert_eq!(bulk.count(EVENTS).await, 2);
        }
    }
}

#[tokio::test]
async fn bad_lines_are_left_out_by_their_numbers_and_the_others_go_on() {
    let bulk = Bulk::open().await;
    let mut lines: Vec<Vec<u8>> =
        (1..=9).map(|n| patient_line(&format!("p{n}"), &n.to_string()).into_bytes()).collect();
    lines[2] = b"no json".to_vec();
    lines[4] = format!(r#"{{"resourceType":"Patient","id":"long","x":"{}"}}"#, "y".repeat(20 << 20)).into_bytes();
    lines[6] = b"{\"resourceType\":\"Patient\",\"id\":\"\xff\xfe\"}".to_vec();
    lines[7] = br#"{"resourceType":"Patient","id":"p8","birthDate":"1970-13-01"}"#.to_vec();
    let (file, ended) = bulk.ingest(&lines.join(&b'\n')).await;
    assert_eq!((ended.code(), ended.with_issues), ("none", true), "{ended:?}");
    assert_eq!((&ended.result["resources"], &ended.result["issues"]), (&json!(5), &json!(4)));
    assert_eq!(ended.result["outcomes"]["lines"], 4);
    let outcomes = bulk.outcomes(&file).await;
    let told: Vec<(u64, &Value)> =
        outcomes.iter().map(|one| (one["line"].as_u64().unwrap(), &one["issues"][0]["code"])).collect();
    assert_eq!(
        told,
        [(3, &json!("structure")), (5, &json!("too-long")), (7, &json!("structure")), (8, &json!("value"))]
    );
    assert_eq!(outcomes[3]["issues"][0]["expression"], "Patient.birthDate");
    assert!(!outcomes.iter().any(|one| one.to_string().contains("1970-13-01")));
    assert_eq!(bulk.count(EVENTS).await, 5);
    // The corrected lines as a new upload: the others are there already.
    lines[7] = patient_line("p8", "8").into_bytes();
    let (_, again) = bulk.ingest(&lines.join(&b'\n')).await;
    assert_eq!(again.outputs["link_patient"]["unchanged"], 5);
    assert_eq!(bulk.count(EVENTS).await, 6);
}

#[tokio::test]
async fn of_a_batch_bad_entries_are_left_out_and_a_transaction_has_no_effect_at_all() {
    let entry = |resource: &str| format!(r#"{{"resource":{resource},"request":{{"method":"POST","url":"X"}}}}"#);
    let good = entry(&patient_line("p1", "1"));
    let bad = entry(r#"{"resourceType":"Patient","nope":1}"#);
    let no_json = r#"{"resource":nope,}"#.to_owned();
    let large: Vec<String> = many_lines(1, 9_000).iter().map(|line| entry(line)).collect();
    for (entries, events) in [(vec![good.clone(), bad.clone()], 1), (vec![good.clone(), no_json, bad.clone()], 1)] {
        for gz in [false, true] {
            for (kind, code, events) in [("batch", "none", events), ("transaction", "validation_failed", 0)] {
                let bulk = Bulk::open().await;
                let text = format!(r#"{{"resourceType":"Bundle","type":"{kind}","entry":[{}]}}"#, entries.join(",\n"));
                let body = if gz { gzip(text.as_bytes()) } else { text.into_bytes() };
                let (file, ended) = bulk.ingest(&body).await;
                assert_eq!(ended.code(), code, "{kind} {gz} {ended:?}");
                assert_eq!(bulk.count(EVENTS).await, events);
                let left_out: Vec<_> = bulk.outcomes(&file).await.iter().map(|one| one["entry"].clone()).collect();
                assert_eq!(left_out.len(), entries.len() - 1);
                assert_eq!(left_out[0], 1);
            }
        }
    }
    // Several chunks: the one bad entry is the last of all.
    for (kind, code, events) in [("batch", "none", 9_001), ("transaction", "validation_failed", 0)] {
        let bulk = Bulk::open().await;
        let text = format!(r#"{{"resourceType":"Bundle","type":"{kind}","entry":[{},{good},{bad}]}}"#, large.join(","));
        let (file, ended) = bulk.ingest(text.as_bytes()).await;
        assert!(bulk.chunks(&file, Order::Forwards).await.len() > 1);
        assert_eq!(ended.code(), code, "{kind} {:?}", ended.error);
        assert_eq!(bulk.count(EVENTS).await, events);
        let outcomes = bulk.outcomes(&file).await;
        assert_eq!((outcomes.len(), &outcomes[0]["entry"]), (1, &json!(9_001)));
        assert_eq!(outcomes[0]["issues"][0]["expression"], "Bundle.entry[9001].resource");
        let offset = usize::try_from(outcomes[0]["issues"][0]["offset"].as_u64().unwrap()).unwrap();
        let place = text.find(&bad).unwrap();
        assert!((place..place + bad.len()).contains(&offset), "{offset} {place}");
    }
}
