//! The validator over the corpora beside the project, where they are present: HL7's own validator cases with the verdict
//! of HL7's Java validator, the examples of the specification and of US Core, and the synthetic sets.

use super::corpus::corpus;
use chartgate::ingest::fhir::issue::Report;
use chartgate::ingest::fhir::validate;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What HL7's validator says of a case.
struct Case {
    name: String,
    body: Vec<u8>,
    /// It has errors that need neither a terminology server nor a profile.
    has_errors: bool,
    is_clean: bool,
    /// Where they are.
    places: BTreeSet<String>,
}

/// `Bundle.entry[0].resource/*Patient/1*/.name` without its comments.
fn without_comments(expression: &str) -> String {
    let mut parts = expression.split("/*");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |whole, part| whole + part.split_once("*/").map_or("", |(_, rest)| rest))
}

fn cases(directory: &Path) -> Vec<Case> {
    let directory = directory.join("hl7-validator-cases");
    let expected: Vec<Value> = serde_json::from_slice(&fs::read(directory.join("_expected.json")).unwrap()).unwrap();
    let case = |case: &Value| {
        let issues = case["issues"].as_array().unwrap();
        let errors = issues.iter().filter(|issue| issue["severity"] == "error" || issue["severity"] == "fatal");
        let places = errors.flat_map(|issue| issue["expression"].as_array().unwrap());
        Case {
            name: case["name"].as_str().unwrap().to_owned(),
            body: fs::read(directory.join(case["file"].as_str().unwrap())).unwrap(),
            has_errors: case["java_errors_structural"] != 0 && case["profileTest"] == false,
            is_clean: case["java_errors"] == 0,
            places: places.map(|place| without_comments(place.as_str().unwrap())).collect(),
        }
    };
    expected.iter().map(case).collect()
}

fn error_places(report: &Report) -> BTreeSet<String> {
    let errors = report.issues.iter().filter(|issue| issue.severity.rejects());
    errors.map(|issue| issue.expression.clone().unwrap_or_default()).collect()
}

/// Cases whose errors are not found, with the reason. The rest of those that are not found answer a Questionnaire that the
/// set does not hold (`-qr`); they are found where it is given.
const NOT_FOUND: [(&str, &str); 2] = [
    ("dr-eh", "the error is of US Core's profile: R4 lets a DocumentReference be about a Device"),
    ("bad-markdown-no-html", "HTML in markdown is a warning here, as in HL7's validator without an option"),
];

/// Clean cases that are refused, with the reason.
const ALARMS: [(&str, &str); 1] =
    [("json-comments-1-yes", "comments in JSON: clean under an option of HL7's validator, an error without it")];

#[test]
fn the_errors_of_hl7s_cases_are_found_where_hl7s_validator_finds_them() {
    let Some(directory) = corpus() else { return };
    let cases = cases(&directory);
    // The set's CodeSystems know one another; its Questionnaires are elsewhere.
    let mut context = validate::Context::default();
    for case in &cases {
        let _ = context.add(&case.body);
    }
    let (mut total, mut clean, mut placed) = (0, 0, 0);
    let (mut not_found, mut alarms) = (BTreeSet::new(), BTreeSet::new());
    for case in &cases {
        let found = error_places(&validate::resource_in(&case.body, None, &context));
        if case.is_clean {
            clean += 1;
            if !found.is_empty() {
                alarms.insert(case.name.as_str());
            }
        } else if case.has_errors {
            total += 1;
            placed += usize::from(!found.is_disjoint(&case.places));
            if found.is_empty() {
                not_found.insert(case.name.as_str());
            }
        }
    }
    assert_eq!((total, clean), (67, 67));
    assert_eq!(alarms, ALARMS.iter().map(|(name, _)| *name).collect());
    let unexplained: BTreeSet<&str> = not_found
        .iter()
        .copied()
        .filter(|name| !name.ends_with("-qr") && NOT_FOUND.iter().all(|(known, _)| known != name))
        .collect();
    assert_eq!(unexplained, BTreeSet::new());
    assert_eq!((total - not_found.len(), placed), (44, 43));
}

/// The same with the Questionnaires that the cases name, where somebody put them (`<case>-q.json`): they are part of HL7's
/// test cases, not of the corpus.
#[test]
fn answers_are_checked_against_the_questionnaires_of_hl7s_cases() {
    let (Some(directory), Some(questionnaires)) = (corpus(), std::env::var_os("CHARTGATE_TEST_QUESTIONNAIRES")) else {
        eprintln!("SKIPPED: CHARTGATE_TEST_QUESTIONNAIRES names no directory");
        return;
    };
    let cases = cases(&directory);
    let files: Vec<PathBuf> = fs::read_dir(questionnaires).unwrap().map(|entry| entry.unwrap().path()).collect();
    let bodies: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let mut context = validate::Context::default();
    for body in bodies.iter().chain(cases.iter().map(|case| &case.body)) {
        let _ = context.add(body);
    }
    let errors = |case: &Case| error_places(&validate::resource_in(&case.body, None, &context));
    let found = cases.iter().filter(|case| case.has_errors && !errors(case).is_empty()).count();
    let placed = cases.iter().filter(|case| case.has_errors && !errors(case).is_disjoint(&case.places)).count();
    let alarms = cases.iter().filter(|case| case.is_clean && !errors(case).is_empty()).count();
    assert_eq!((found, placed, alarms), (65, 64, 1));
}

/// Resources with errors and the FHIR codes of these, by file.
fn refused(directory: &Path) -> BTreeMap<String, (usize, BTreeSet<&'static str>)> {
    let mut refused = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let body = fs::read(&path).unwrap();
        let documents: Vec<&[u8]> = match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => vec![&body],
            Some("ndjson") => body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect(),
            _ => continue,
        };
        for document in documents {
            let report = validate::resource(document, None);
            let codes: Vec<&'static str> =
                report.issues.iter().filter(|issue| issue.severity.rejects()).map(|issue| issue.code).collect();
            if !codes.is_empty() {
                let of_file: &mut (usize, BTreeSet<&'static str>) = refused.entry(name.clone()).or_default();
                of_file.0 += 1;
                of_file.1.extend(codes);
            }
        }
    }
    refused
}

fn assert_refused(directory: &Path, expected: &[(&str, usize, &[&'static str])]) {
    let expected: BTreeMap<String, (usize, BTreeSet<&'static str>)> = expected
        .iter()
        .map(|(name, count, codes)| ((*name).to_owned(), (*count, codes.iter().copied().collect())))
        .collect();
    assert_eq!(refused(directory), expected, "{}", directory.display());
}

#[test]
fn every_error_in_the_specifications_examples_was_checked_by_hand() {
    let Some(directory) = corpus() else { return };
    assert_refused(&directory.join("uscore-8.0-examples"), &[]);
    assert_refused(
        &directory.join("hl7-r4-examples"),
        &[
            // The narrative is an empty div (txt-2).
            ("ActivityDefinition-heart-valve-replacement", 1, &["invariant"]),
            ("EventDefinition-example", 1, &["invariant"]),
            ("Questionnaire-zika-virus-exposure-assessment", 1, &["invariant"]),
            // The fullUrl ends in pat12, the resource's id is pat2.
            ("Bundle-10bb101f-a121-4264-a920-67be9cb82c74", 1, &["value"]),
            // The fullUrls name other ids than their resources have.
            ("Bundle-lri-example", 1, &["value"]),
            // References to types that the element does not allow.
            ("DeviceMetric-example", 1, &["structure"]),
            ("DeviceUseStatement-example", 1, &["structure"]),
            ("Observation-clinical-gender", 1, &["structure"]),
            // urn:oid:X.Y.Z
            ("Library-zika-virus-intervention-logic", 1, &["value"]),
            // A UUID in upper case.
            ("TerminologyCapabilities-example", 1, &["value"]),
        ],
    );
}

#[test]
fn every_refused_resource_of_the_synthetic_sets_is_accounted_for() {
    let Some(directory) = corpus() else { return };
    assert_refused(&directory.join("synthea-transaction"), &[]);
    assert_refused(&directory.join("synthea-ndjson"), &[]);
    assert_refused(
        &directory.join("clinosim-ndjson"),
        &[
            // An empty extension array, and an identifier system that begins with urn:oid: and is none.
            ("Coverage", 37, &["structure", "value"]),
            // An empty code, and a media link to an ImagingStudy.
            ("DiagnosticReport", 12, &["structure", "value"]),
            // 15 with elements that a dosage does not have (doseAndRate, timing), 2 with a dosage of text only (mad-1).
            ("MedicationAdministration", 17, &["invariant", "structure"]),
            // An identifier system that begins with urn:oid: and is none.
            ("Organization", 8, &["value"]),
        ],
    );
}

#[test]
fn the_committed_table_is_what_the_generator_makes() {
    use chartgate::ingest::fhir::definitions::generate::generate;
    let Some(directory) = corpus() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = fs::read_to_string(root.join("src/ingest/fhir/definitions/r4.tab")).unwrap();
    let generated = generate(&directory.join("definitions"), "R4").unwrap();
    assert!(generated.table == committed, "run `chartgate definitions generate` again");
    // The docs name every invariant that nothing checks: no more, no fewer.
    let docs = fs::read_to_string(root.join("docs/validation.md")).unwrap();
    let (_, section) = docs.split_once("## Invariants that are not checked").unwrap();
    let named: BTreeSet<&str> = section.split("\n## ").next().unwrap().split('`').skip(1).step_by(2).collect();
    let keys: BTreeSet<&str> = generated.untranslated.iter().map(|line| line.split(' ').next().unwrap()).collect();
    let checks = sources(&root.join("src/ingest/fhir"));
    let in_table = |key: &str| committed.contains(&format!("\nI {key} "));
    let left: BTreeSet<&str> = keys.into_iter().filter(|key| !mentions(&checks, key) && !in_table(key)).collect();
    assert_eq!(named, left);
}

/// Whether a text names that invariant, not a longer key that begins with it.
fn mentions(text: &str, key: &str) -> bool {
    text.match_indices(key).any(|(at, _)| {
        let after = text[at + key.len()..].chars().next();
        !after.is_some_and(|next| next.is_ascii_alphanumeric())
    })
}

/// The code of the validator's rules, tests left out.
fn sources(fhir: &Path) -> String {
    fn read(directory: &Path, text: &mut String) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, text);
            } else if path.file_name().is_some_and(|name| name != "tests.rs") {
                text.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut text = String::new();
    read(&fhir.join("validate"), &mut text);
    read(&fhir.join("checks"), &mut text);
    text
}
