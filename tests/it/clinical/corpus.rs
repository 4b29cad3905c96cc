//! The Synthea Bundles beside the project, where they are present: counts made by an independent script, and every piece
//! of evidence against the bytes.

use super::{Clinic, items};
use chartgate::ingest::fhir::{envelope, validate};
use serde_json::Value;
use sqlx::Row as _;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The corpus directory, or a plain word that this test says nothing here.
pub fn corpus() -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if directory.join("_counts_by_mrn.json").exists() {
        return Some(directory);
    }
    eprintln!("SKIPPED: no corpus at {}", directory.display());
    None
}

fn bundles(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory.join("synthea-transaction")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let name = format!("synthea-transaction/{}", path.file_name().unwrap().to_str().unwrap());
            (name, std::fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn every_synthea_bundle_is_valid() {
    let Some(directory) = corpus() else { return };
    let bundles = bundles(&directory);
    assert_eq!(bundles.len(), 32);
    for (name, body) in bundles {
        envelope::scan(&body).unwrap();
        let report = validate::report(&body);
        assert_eq!(report.total, 0, "{name}: {:?}", report.issues.first().map(|issue| &issue.message));
    }
}

/// Distinct shown resources of a patient by category, in the words of the independent count.
pub fn counted(view: &chartgate::ingest::view::ClinicalView) -> BTreeMap<String, usize> {
    assert!(view.next.is_empty(), "no category of the corpus fills a page");
    let of = |category: &str| items(view, category).len();
    let all = chartgate::ingest::view::CATEGORIES.map(|category| {
        let name = if category == "other" { "other_observations" } else { category };
        (name.to_owned(), of(category))
    });
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}

async fn check_counts(clinic: &Clinic, expected: &Value) {
    for patients in expected.as_object().unwrap().values() {
        for (key, counts) in patients.as_object().unwrap() {
            let (system, mrn) = key.split_once('|').unwrap();
            let view = clinic.view_with(mrn, Some(system), false).await;
            let expected: BTreeMap<String, usize> = serde_json::from_value(counts.clone()).unwrap();
            assert_eq!(counted(&view), expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synthea_patients_have_the_counts_of_the_independent_script() {
    let Some(directory) = corpus() else { return };
    let expected: Value =
        serde_json::from_slice(&std::fs::read(directory.join("_counts_by_mrn.json")).unwrap()).unwrap();
    let clinic = Clinic::open().await;
    let bundles = bundles(&directory);
    for (_, body) in &bundles {
        let outputs = clinic.ingest_from(body, "default").await.unwrap();
        assert_eq!(outputs["link_patient"]["pending"], 0);
    }
    check_counts(&clinic, &expected["bundles"]).await;
    check_evidence(&clinic, &bundles).await;
    assert_eq!(clinic.count(super::view::MISCOUNTED).await, 0);
    // The same resources in other bytes: nothing new.
    let stored = clinic.count("select count(*) from clinical_events").await;
    let findings = clinic.count("select count(*) from findings").await;
    for (_, body) in bundles.iter().take(4) {
        let mut changed = body.clone();
        changed.extend_from_slice(b"\n\n");
        let outputs = clinic.ingest_from(&changed, "default").await.unwrap();
        assert_eq!(outputs["link_patient"]["events"], 0);
        assert_eq!(outputs["extract_findings"]["new"], 0);
    }
    assert_eq!(clinic.count("select count(*) from clinical_events").await, stored);
    assert_eq!(clinic.count("select count(*) from findings").await, findings);
    check_counts(&clinic, &expected["bundles"]).await;
}

/// raw[start..end] = quote, for every finding of every Bundle.
async fn check_evidence(clinic: &Clinic, bundles: &[(String, Vec<u8>)]) {
    use sha2::Digest as _;
    let by_hash: std::collections::HashMap<Vec<u8>, &Vec<u8>> =
        bundles.iter().map(|(_, body)| (sha2::Sha256::digest(body).to_vec(), body)).collect();
    let rows = clinic
        .unit(|connection| {
            Box::pin(async move {
                let sql = "select payload_sha256, byte_start, byte_end, quote from finding_evidence";
                Ok(sqlx::query(sql).fetch_all(connection).await?)
            })
        })
        .await;
    assert!(rows.len() > 8_000, "{}", rows.len());
    for row in &rows {
        let body = by_hash[&row.get::<Vec<u8>, _>(0)];
        let (start, end): (i64, i64) = (row.get(1), row.get(2));
        let slice = &body[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        assert!(slice == row.get::<Vec<u8>, _>(3));
    }
    let unproven =
        "select count(*) from findings f where not exists (select from finding_evidence e where e.finding_id = f.id)";
    assert_eq!(clinic.count(unproven).await, 0);
}
