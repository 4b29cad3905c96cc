//! Findings over the whole corpus beside the project, where it is present: both NDJSON sets through the real intake, the
//! specification's and US Core's examples through extraction alone, and derived interpretations against declared ones.

use super::corpus::corpus;
use crate::support::app::{Setup, TestApp, job_of};
use chartgate::engine::EngineOptions;
use chartgate::ingest::fhir::split;
use chartgate::ingest::findings::{Finding, Medications, RULES, of_resource};
use serde_json::{Value, json};
use sqlx::Row as _;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Lines of NDJSON that are wrapped into one Bundle.
const LINES: usize = 500;

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|one| one == extension))
        .collect();
    files.sort();
    files
}

/// A collection Bundle of these resources as they are written.
fn wrap(resources: &[&str]) -> Vec<u8> {
    let entries: Vec<String> = resources.iter().map(|resource| format!(r#"{{"resource":{resource}}}"#)).collect();
    format!(r#"{{"resourceType":"Bundle","type":"collection","entry":[{}]}}"#, entries.join(",\n")).into_bytes()
}

/// The same with the fullUrl that Synthea's references mean, since its NDJSON was taken out of Bundles. A resource that
/// stands there twice has it once (bdl-7).
fn wrap_with_urls(resources: &[&str]) -> Vec<u8> {
    let mut seen = BTreeSet::new();
    let entry = |resource: &&str| {
        let id = serde_json::from_str::<Value>(resource).unwrap()["id"].as_str().unwrap().to_owned();
        let url = if seen.insert(id.clone()) { format!(r#""fullUrl":"urn:uuid:{id}","#) } else { String::new() };
        format!(r#"{{{url}"resource":{resource}}}"#)
    };
    let entries: Vec<String> = resources.iter().map(entry).collect();
    format!(r#"{{"resourceType":"Bundle","type":"collection","entry":[{}]}}"#, entries.join(",\n")).into_bytes()
}

/// A Bundle with the resources that it was made of.
struct Wrapped {
    body: Vec<u8>,
    resources: Vec<Value>,
}

fn ndjson_bundles(directory: &Path, wrap: fn(&[&str]) -> Vec<u8>) -> Vec<Wrapped> {
    let mut bundles = Vec::new();
    for path in files(directory, "ndjson") {
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        bundles.extend(lines.chunks(LINES).map(|lines| Wrapped {
            body: wrap(lines),
            resources: lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect(),
        }));
    }
    bundles
}

/// `system|MRN` by what references to the Patient say.
fn mrns(bundles: &[Wrapped]) -> HashMap<String, String> {
    let mut mrns = HashMap::new();
    let patients = bundles.iter().flat_map(|bundle| &bundle.resources).filter(|one| one["resourceType"] == "Patient");
    for patient in patients {
        let is_mrn = |identifier: &&Value| identifier["type"]["coding"][0]["code"] == "MR";
        let identifier = patient["identifier"].as_array().unwrap().iter().find(is_mrn).unwrap();
        let key = format!("{}|{}", identifier["system"].as_str().unwrap(), identifier["value"].as_str().unwrap());
        let id = patient["id"].as_str().unwrap();
        mrns.extend([(format!("Patient/{id}"), key.clone()), (format!("urn:uuid:{id}"), key)]);
    }
    mrns
}

/// Elements of MedicationAdministration.dosage in the clinosim set that R4 does not have there.
fn has_an_unknown_element(resource: &Value) -> bool {
    let dosage = &resource["dosage"];
    resource["resourceType"] == "MedicationAdministration"
        && ["doseAndRate", "timing"].into_iter().any(|member| dosage.get(member).is_some())
}

/// `mad-1`: a dosage has a dose or a rate.
fn has_no_dose(resource: &Value) -> bool {
    let dosage = &resource["dosage"];
    resource["resourceType"] == "MedicationAdministration"
        && dosage.is_object()
        && ["dose", "rateRatio", "rateQuantity"].into_iter().all(|member| dosage.get(member).is_none())
}

/// An empty code, or a media link to something that is no Media.
fn is_bad_report(resource: &Value) -> bool {
    let links = resource["media"].as_array().into_iter().flatten();
    resource["resourceType"] == "DiagnosticReport"
        && (resource["code"]["coding"].as_array().into_iter().flatten().any(|coding| coding["code"] == "")
            || links.filter_map(|media| media["link"]["reference"].as_str()).any(|link| !link.starts_with("Media/")))
}

/// The category of the independent count; none for types that are not counted.
pub fn counted_as(resource: &Value) -> Option<&'static str> {
    Some(match resource["resourceType"].as_str().unwrap() {
        "MedicationRequest" | "MedicationStatement" | "MedicationAdministration" => "medications",
        "Condition" => "problems",
        "AllergyIntolerance" => "allergies",
        "Immunization" => "immunizations",
        "Procedure" => "procedures",
        "DiagnosticReport" => "reports",
        "Encounter" => "encounters",
        "DocumentReference" => "documents",
        "Observation" => "an observation",
        _ => return None,
    })
}

/// Post the Bundles, wait for the end, and return the resources that validation left out.
async fn ingest<'b>(app: &TestApp, bundles: &'b [Wrapped]) -> Vec<&'b Value> {
    let mut jobs = Vec::new();
    for bundle in bundles {
        let (status, answer) = app.submit(bundle.body.clone()).await;
        assert_eq!(status, 202, "{answer}");
        jobs.push(job_of(&answer));
    }
    app.run_until_idle().await;
    let mut rejected = Vec::new();
    for (bundle, job) in bundles.iter().zip(jobs) {
        let view = app.job(&job).await;
        let (_, issues) = app.get(&app.organization.admin, &format!("/v1/ingestion/jobs/{job}/issues")).await;
        let issues = issues["issues"].as_array().unwrap().clone();
        let is_error = |issue: &&Value| issue["severity"] == "error" || issue["severity"] == "fatal";
        for issue in issues.iter().filter(is_error) {
            println!("left out: {} {}", issue["expression"], issue["message"]);
        }
        let entries: BTreeSet<u64> =
            issues.iter().filter(is_error).map(|issue| issue["entry"].as_u64().unwrap()).collect();
        let expected = if entries.is_empty() { "succeeded" } else { "succeeded_with_issues" };
        assert_eq!(view["status"], expected, "{view:#}");
        rejected.extend(entries.into_iter().map(|entry| &bundle.resources[usize::try_from(entry).unwrap()]));
    }
    rejected
}

async fn check_counts(app: &TestApp, expected: &Value, rejected: &[&Value], mrns: &HashMap<String, String>) -> usize {
    let mut total = 0;
    for (key, counts) in expected.as_object().unwrap() {
        let mut expected: BTreeMap<String, i64> = serde_json::from_value(counts.clone()).unwrap();
        let of_patient = |resource: &&&Value| {
            let subject = resource["subject"]["reference"].as_str().or(resource["patient"]["reference"].as_str());
            subject.and_then(|subject| mrns.get(subject)) == Some(key)
        };
        for resource in rejected.iter().filter(of_patient) {
            if let Some(category) = counted_as(resource) {
                *expected.get_mut(category).unwrap() -= 1;
            }
        }
        expected.retain(|_, count| *count > 0);
        let (system, mrn) = key.split_once('|').unwrap();
        let search = json!({"mrn": mrn, "system": system});
        let (status, view) = app.post(&app.organization.reader, "/v1/clinical/search", &search).await;
        assert_eq!((status, &view["status"]), (200, &json!("found")), "{key}");
        assert!(view.get("next").is_none(), "no category of the corpus fills a page");
        let mut shown: BTreeMap<String, i64> = BTreeMap::new();
        for (category, items) in view["clinical_data"].as_object().unwrap() {
            let Some(items) = items.as_array().filter(|items| !items.is_empty()) else { continue };
            let ids: BTreeSet<&str> = items.iter().map(|item| item["resource_id"].as_str().unwrap()).collect();
            assert_eq!(ids.len(), items.len(), "{key}: {category} shows a resource twice");
            let name = if category == "other" { "other_observations" } else { category };
            shown.insert(name.to_owned(), i64::try_from(items.len()).unwrap());
            total += items.len();
        }
        assert_eq!(shown, expected, "{key}");
    }
    total
}

/// raw[start..end] = quote for every row, and no finding is without evidence.
async fn check_evidence(app: &TestApp, bundles: &[&[Wrapped]]) -> usize {
    use sha2::Digest as _;
    let bodies = bundles.iter().flat_map(|bundles| bundles.iter().map(|bundle| &bundle.body));
    let by_hash: HashMap<Vec<u8>, &Vec<u8>> = bodies.map(|body| (sha2::Sha256::digest(body).to_vec(), body)).collect();
    let sql = "select payload_sha256, byte_start, byte_end, quote, rule from finding_evidence";
    let rows = sqlx::query(sql).fetch_all(&mut app.owner().await).await.unwrap();
    for row in &rows {
        let body = by_hash[&row.get::<Vec<u8>, _>(0)];
        let (start, end): (i64, i64) = (row.get(1), row.get(2));
        let slice = &body[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        assert!(slice == row.get::<Vec<u8>, _>(3));
        assert!(RULES.contains(&row.get::<&str, _>(4)));
    }
    let unproven = "select count(*) from findings f where not exists
                      (select from finding_evidence e where e.organization_id = f.organization_id and e.finding_id = f.id)";
    assert_eq!(app.count(unproven).await, 0);
    rows.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ndjson_sets_have_the_counts_of_the_independent_script_and_exact_evidence() {
    let Some(directory) = corpus() else { return };
    let expected: Value =
        serde_json::from_slice(&std::fs::read(directory.join("_counts_by_mrn.json")).unwrap()).unwrap();
    let engine = EngineOptions {
        lease: Duration::from_secs(30),
        poll: Duration::from_millis(20),
        concurrency: 8,
        ..EngineOptions::default()
    };
    let app = TestApp::with(Setup { engine, ..Setup::default() }).await;
    let workers = app.workers();
    let synthea = ndjson_bundles(&directory.join("synthea-ndjson"), wrap_with_urls);
    let clinosim = ndjson_bundles(&directory.join("clinosim-ndjson"), wrap);
    assert!(ingest(&app, &synthea).await.is_empty(), "nothing of Synthea is invalid");
    let rejected = ingest(&app, &clinosim).await;
    // Of the types that are counted, exactly these are left out, by elements that R4 does not know, by mad-1, by an empty
    // code and by references to other types than R4 allows there.
    let all = || clinosim.iter().flat_map(|bundle| &bundle.resources);
    let counted: Vec<&Value> = rejected.iter().copied().filter(|one| counted_as(one).is_some()).collect();
    for (rule, count) in [(has_an_unknown_element as fn(&Value) -> bool, 15), (has_no_dose, 2), (is_bad_report, 12)] {
        assert_eq!(all().filter(|one| rule(one)).count(), count);
        assert_eq!(counted.iter().filter(|one| rule(one)).count(), count);
    }
    assert_eq!(counted.len(), 15 + 2 + 12);
    // Of the other types: Coverages with an empty array, Organizations with a urn:oid: that is none.
    assert_eq!(rejected.len(), counted.len() + 37 + 8);
    let shown = check_counts(&app, &expected["ndjson"]["synthea-ndjson"], &[], &mrns(&synthea)).await;
    assert_eq!(shown, 4_742);
    let shown = check_counts(&app, &expected["ndjson"]["clinosim-ndjson"], &rejected, &mrns(&clinosim)).await;
    let evidence = check_evidence(&app, &[&synthea, &clinosim]).await;
    println!("NDJSON: 4,742 and {shown} items as counted, {} left out, {evidence} quotes exact", rejected.len());
    assert_eq!(shown + counted.len(), 4_224);
    assert!(evidence > 15_000, "{evidence}");
    workers.stop().await;
}

/// A FHIRPath and a JSON Pointer that go the same way; the path names the element of a choice, the pointer its member.
fn same_place(fhirpath: &str, pointer: &str) -> bool {
    let path = fhirpath.replace('[', ".").replace(']', "");
    let (path, pointer): (Vec<&str>, Vec<&str>) = (path.split('.').collect(), pointer.split('/').collect());
    let is_same = |(name, member): (&&str, &&str)| {
        let choice =
            member.strip_prefix(*name).is_some_and(|data_type| data_type.starts_with(|c: char| c.is_uppercase()));
        name == member || choice
    };
    path[0] == "Bundle" && path.len() == pointer.len() && path[1..].iter().zip(&pointer[1..]).all(is_same)
}

/// The findings of a Bundle, after every piece of their evidence was checked against the bytes and a full parse.
fn checked_findings(body: &[u8]) -> Vec<Finding> {
    let tree: Value = serde_json::from_slice(body).unwrap();
    let bundle = split::split(body).unwrap();
    let medications = Medications::of(&bundle);
    let mut all = Vec::new();
    for entry in &bundle.entries {
        let Some(resource) = &entry.resource else { continue };
        for finding in of_resource(entry.index, resource, &medications) {
            assert!(!finding.evidence.is_empty());
            for evidence in &finding.evidence {
                let slice: Value = serde_json::from_slice(&body[evidence.span.clone()]).unwrap();
                assert_eq!(Some(&slice), tree.pointer(&evidence.pointer), "{}", evidence.pointer);
                assert!(RULES.contains(&evidence.rule));
                assert!(
                    same_place(&evidence.fhirpath, &evidence.pointer),
                    "{} {}",
                    evidence.fhirpath,
                    evidence.pointer
                );
            }
            for json in [&finding.details, &finding.dosage, &finding.reference_range, &finding.value.json] {
                assert!(json.as_deref().is_none_or(|text| serde_json::from_str::<Value>(text).is_ok()));
            }
            all.push(finding);
        }
    }
    all
}

#[test]
fn every_specification_example_yields_findings_with_exact_evidence() {
    let Some(directory) = corpus() else { return };
    let (mut resources, mut findings) = (0, 0);
    for name in ["hl7-r4-examples", "uscore-8.0-examples"] {
        for path in files(&directory.join(name), "json") {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            findings += checked_findings(&wrap(&[text])).len();
            if text.contains(r#""Bundle""#) && split::split(text.as_bytes()).is_ok() {
                findings += checked_findings(text.as_bytes()).len();
            }
            resources += 1;
        }
    }
    println!("examples: {resources} resources, {findings} findings, all evidence exact");
    assert!(resources > 690 && findings > 490, "{resources} {findings}");
}

#[test]
fn derived_interpretations_have_the_direction_of_the_declared_ones() {
    let Some(directory) = corpus() else { return };
    let text = std::fs::read_to_string(directory.join("clinosim-ndjson/Observation.ndjson")).unwrap();
    let (mut declared_with_range, mut compared, mut applies_to_some) = (0, 0, 0);
    let mut severe = 0;
    for line in text.lines() {
        let mut observation: Value = serde_json::from_str(line).unwrap();
        if observation.get("referenceRange").is_none() {
            continue;
        }
        let Some(declared) = observation.as_object_mut().unwrap().remove("interpretation") else { continue };
        declared_with_range += 1;
        applies_to_some += usize::from(observation["referenceRange"][0].get("appliesTo").is_some());
        let finding = checked_findings(&wrap(&[&observation.to_string()])).remove(0);
        let Some(derived) = finding.interpretation else { continue };
        let declared = declared[0]["coding"][0]["code"].as_str().unwrap();
        assert_eq!(finding.interpretation_source, Some("derived"));
        // A critical flag has the same direction; it is never derived.
        assert_eq!(derived, declared[..1], "declared {declared}");
        severe += usize::from(declared.len() > 1);
        compared += 1;
    }
    println!("{declared_with_range} declared with a range, {compared} derived, {severe} of them declared critical");
    // All but those whose range is for one sex only.
    assert_eq!((declared_with_range, compared), (1_186, 1_186 - applies_to_some));
}
