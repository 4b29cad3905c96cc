//! Both NDJSON sets beside the project, where they are present: counts as those of an independent script.

use super::{Bulk, Order, gzip};
use crate::clinical::corpus::{corpus, counted};
use crate::clinical::findings_corpus::counted_as;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The files of a set, by name.
fn files(directory: &Path) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// `system|MRN` by what references to the Patient say.
fn mrns(files: &[(String, String)]) -> HashMap<String, String> {
    let (_, patients) = files.iter().find(|(name, _)| name == "Patient.ndjson").unwrap();
    let mut mrns = HashMap::new();
    for line in patients.lines() {
        let patient: Value = serde_json::from_str(line).unwrap();
        let is_mrn = |identifier: &&Value| identifier["type"]["coding"][0]["code"] == "MR";
        let identifier = patient["identifier"].as_array().unwrap().iter().find(is_mrn).unwrap();
        let key = format!("{}|{}", identifier["system"].as_str().unwrap(), identifier["value"].as_str().unwrap());
        let id = patient["id"].as_str().unwrap();
        mrns.extend([(format!("Patient/{id}"), key.clone()), (format!("urn:uuid:{id}"), key)]);
    }
    mrns
}

/// The counts of every patient, less what was left out; how many items there are.
async fn check(bulk: &Bulk, expected: &Value, left_out: &[Value], mrns: &HashMap<String, String>) -> usize {
    let mut total = 0;
    for (key, counts) in expected.as_object().unwrap() {
        let mut expected: BTreeMap<String, usize> = serde_json::from_value(counts.clone()).unwrap();
        for resource in left_out {
            let subject = resource["subject"]["reference"].as_str().or(resource["patient"]["reference"].as_str());
            if let (Some(of), Some(category)) = (subject.and_then(|subject| mrns.get(subject)), counted_as(resource))
                && of == key
            {
                *expected.get_mut(category).unwrap() -= 1;
            }
        }
        expected.retain(|_, count| *count > 0);
        let (system, mrn) = key.split_once('|').unwrap();
        let view = bulk.clinic.view_with(mrn, Some(system), false).await;
        assert_eq!(counted(&view), expected, "{key}");
        total += expected.values().sum::<usize>();
    }
    total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ndjson_sets_have_the_counts_of_the_independent_script() {
    let Some(directory) = corpus() else { return };
    let expected: Value =
        serde_json::from_slice(&std::fs::read(directory.join("_counts_by_mrn.json")).unwrap()).unwrap();
    let bulk = Bulk::open().await;
    // Synthea: all in one compressed file, the Patients near its beginning, its chunks from the last to the first.
    let synthea = files(&directory.join("synthea-ndjson"));
    let mut all: Vec<&str> = synthea.iter().map(|(_, text)| text.trim_end()).collect();
    all.reverse();
    let file = bulk.take_up(&gzip(all.join("\n").as_bytes()), "default").await;
    let ended = bulk.run(&file, Order::Backwards).await;
    assert_eq!((ended.code(), ended.with_issues), ("none", false), "{ended:?}");
    assert_eq!(check(&bulk, &expected["ndjson"]["synthea-ndjson"], &[], &mrns(&synthea)).await, 4_742);
    // Clinosim: file by file, from the last to the first.
    let clinosim = files(&directory.join("clinosim-ndjson"));
    let mut left_out: Vec<Value> = Vec::new();
    for (name, text) in clinosim.iter().rev() {
        let (file, ended) = bulk.ingest(text.as_bytes()).await;
        assert_eq!(ended.code(), "none", "{name}");
        let lines: Vec<&str> = text.lines().collect();
        for outcome in bulk.outcomes(&file).await {
            let line = usize::try_from(outcome["line"].as_u64().unwrap()).unwrap();
            left_out.push(serde_json::from_str(lines[line - 1]).unwrap());
        }
    }
    // Named and explained in clinical/findings_corpus.rs.
    let counted: Vec<&Value> = left_out.iter().filter(|one| counted_as(one).is_some()).collect();
    assert_eq!((counted.len(), left_out.len()), (15 + 2 + 12, 15 + 2 + 12 + 37 + 8));
    let shown = check(&bulk, &expected["ndjson"]["clinosim-ndjson"], &left_out, &mrns(&clinosim)).await;
    assert_eq!(shown + counted.len(), 4_224);
    assert_eq!(bulk.count(crate::clinical::MISCOUNTED).await, 0);
}
