//! What an attack on the reading found, and must not come back.

use super::*;
use serde_json::{Value, json};

fn read_payload(event_type: &str, payload: &Value) -> Reading {
    reading(&event_of(event_type, payload))
}

/// Severity, code and pointer of each issue.
fn issues(reading: &Reading) -> Vec<(&'static str, &'static str, String)> {
    let issue = |issue: &crate::ingest::fhir::issue::Issue| {
        (issue.severity.as_str(), issue.code, issue.pointer.clone().unwrap())
    };
    reading.report.issues.iter().map(issue).collect()
}

fn details(finding: &Finding) -> Value {
    serde_json::from_str(finding.details.as_deref().unwrap()).unwrap()
}

fn bytes(reading: &Reading) -> usize {
    reading.parts.iter().flat_map(|part| &part.findings).map(reader::weight).sum()
}

#[test]
fn texts_that_parts_share_are_cut_once_and_the_findings_of_an_event_are_bounded() {
    let label = "é".repeat(3_900);
    let reading_of = |count: usize| json!({"codedescription": "pulse", "value": "70", "vitalid": count.to_string()});
    let group: Vec<Value> = (0..300).map(|index| json!([reading_of(2 * index), reading_of(2 * index + 1)])).collect();
    let vitals = read_payload("vitals", &json!({"vitals": [{"abbreviation": label, "readings": group}]}));
    assert_eq!(issues(&vitals), [("warning", "too-long", "/payload/vitals/0/abbreviation".to_owned())]);
    assert_eq!(vitals.parts.len(), 300);
    assert!(bytes(&vitals) < 2_000_000, "{}", bytes(&vitals));

    let analytes: Vec<Value> =
        (0..300).map(|index| json!({"analytename": "Iron", "analyteid": index, "value": "1"})).collect();
    let labs = read_payload(
        "lab",
        &json!({"results": [{"description": label, "performinglabname": label, "resultstatus": label, "analytes": analytes}]}),
    );
    assert_eq!((labs.parts.len(), labs.report.total), (300, 3));
    assert!(labs.parts[0].beside.as_ref().is_some_and(|beside| beside.chars().count() < 700));

    let many: Vec<Value> =
        (0..300).map(|_| json!(vec![json!({"codedescription": "pulse", "value": "70"}); 50])).collect();
    let many = read_payload("vitals", &json!({"vitals": [{"key": "HR", "readings": many}]}));
    let findings: usize = many.parts.iter().map(|part| part.findings.len()).sum();
    assert_eq!((findings, many.report.total), (10_000, 1));
    assert_eq!(many.report.issues[0].code, "too-costly");

    let note = "x".repeat(60_000);
    let long = read_payload("problem", &json!(vec![json!({"name": "Gout", "note": note}); 200]));
    assert!(bytes(&long) <= reader::FINDINGS_BYTES_MAX && long.parts.len() > 100, "{}", bytes(&long));
    assert_eq!((long.report.total, long.report.issues[0].code), (1, "too-costly"));
}

#[test]
fn a_long_name_is_cut_and_stands_whole_among_the_details() {
    let name = "x".repeat(600);
    let reading = read_payload("problem", &json!({"name": name}));
    assert_eq!(issues(&reading), [("warning", "too-long", "/payload/name".to_owned())]);
    let finding = &reading.parts[0].findings[0];
    assert_eq!(finding.code.text.as_deref().map(str::len), Some(500));
    assert_eq!(details(finding)["name"], name);
}

#[test]
fn only_an_end_that_was_read_and_has_come_ends_something() {
    for (event_type, part, member) in [
        ("problem", json!({"name": "Gout"}), "resolveddate"),
        ("problem", json!({"name": "Gout"}), "enddate"),
        ("allergy", json!({"allergen": "latex"}), "deactivatedate"),
        ("medication", json!({"medication": "x", "isdiscontinued": false}), "stopdate"),
        ("medication", json!({"medication": "x", "status": "active"}), "enddate"),
        ("document", json!({"title": "Letter", "status": "CLOSED"}), "deleteddate"),
        ("vaccine", json!({"vaccine": "zoster", "status": "administered"}), "deleteddate"),
        ("vaccine", json!({"vaccine": "zoster", "status": "administered"}), "refuseddate"),
    ] {
        let without = read_payload(event_type, &part);
        for (date, severity) in [
            ("not resolved", "warning"),
            ("ongoing", "warning"),
            ("N/A", "warning"),
            ("2099-01-01", "information"),
            ("2026-03-03", "information"),
        ] {
            let mut payload = part.clone();
            payload[member] = json!(date);
            let reading = read_payload(event_type, &payload);
            assert_eq!(issues(&reading), [(severity, "value", format!("/payload/{member}"))], "{payload}");
            let (with, without) = (&reading.parts[0], &without.parts[0]);
            assert_eq!(with.status, without.status, "{payload}");
            assert_eq!(with.findings[0].clinical_status, without.findings[0].clinical_status, "{payload}");
            assert_eq!(with.findings[0].negated, without.findings[0].negated, "{payload}");
            let finding = &with.findings[0];
            let is_kept = details(finding)[member] == date || finding.effective.end_text.as_deref() == Some(date);
            assert!(is_kept, "{payload}");
        }
    }
    let ended = read_payload("problem", &json!({"name": "Gout", "resolveddate": "2026-03-02"}));
    assert_eq!((issues(&ended), ended.parts[0].status.as_deref()), (vec![], Some("resolved")));
}

#[test]
fn refused_and_deleted_vaccines_are_no_vaccines_and_entries_that_deny_are_negations() {
    for (member, value, status, negated) in [
        ("refuseddate", "02/01/2026", "not-done", true),
        ("refusedreason", "Patient objection", "not-done", true),
        ("refusedreason", "N/A", "completed", false),
        ("deleteddate", "02/01/2026", "entered-in-error", false),
    ] {
        let reading = read_payload(
            "vaccine",
            &json!({"vaccines": [{"vaccine": "zoster", "status": "administered", member: value}]}),
        );
        let part = &reading.parts[0];
        assert_eq!((part.status.as_deref(), part.findings[0].negated), (Some(status), negated), "{member} {value}");
        assert_eq!(details(&part.findings[0])[member], value);
    }
    for (event_type, member, name, negated) in [
        ("allergy", "allergenname", "No Known Drug Allergies", true),
        ("allergy", "allergenname", "NKDA", true),
        ("allergy", "allergenname", "No known allergies.", true),
        ("allergy", "allergenname", "No Known Allergies (NKA)", true),
        ("allergy", "allergenname", "nonoxynol", false),
        ("problem", "name", "No known problems", true),
        ("problem", "name", "none", true),
        ("problem", "name", "Nonetiological pain", false),
    ] {
        let reading = read_payload(event_type, &json!([{member: name}]));
        assert_eq!(reading.parts[0].findings[0].negated, negated, "{name}");
    }
}

#[test]
fn statements_on_a_whole_list_are_read_in_wrappers_and_under_each_name() {
    for (event_type, payload, pointer) in [
        ("allergy", json!({"data": {"nkda": true, "allergies": []}}), "/payload/data/nkda"),
        ("allergy", json!({"status": "ok", "data": {"nkda": true, "allergies": []}}), "/payload/data/nkda"),
        ("problem", json!({"result": {"noknownproblems": true, "problems": []}}), "/payload/result/noknownproblems"),
        ("problem", json!({"a": {"b": {"noknownproblems": "true"}}}), "/payload/a/b/noknownproblems"),
        ("allergy", json!({"nkda": false, "noknownallergies": true}), "/payload/noknownallergies"),
    ] {
        let reading = read_payload(event_type, &payload);
        let found: Vec<_> = reading.parts.iter().filter(|part| part.findings[0].negated).collect();
        assert_eq!(found.len(), 1, "{payload}");
        assert_eq!(found[0].findings[0].evidence[0].pointer, pointer);
    }
}

#[test]
fn a_list_of_something_else_is_not_taken_for_the_parts() {
    for (event_type, payload) in [
        ("medication", json!({"rx": "Lisinopril 10 mg", "pharmacies": [{"name": "CVS Main St"}]})),
        ("procedure", json!({"title": "Colonoscopy", "participants": [{"name": "Dr. Smith"}]})),
    ] {
        let reading = read_payload(event_type, &payload);
        assert_eq!(issues(&reading), [("information", "informational", "/payload".to_owned())], "{payload}");
        assert_eq!(reading.parts[0].resource_type, "AthenaOther");
    }
}

#[test]
fn ids_that_are_joined_do_not_collide_and_times_may_be_in_lower_case() {
    let result = |result: &str, analyte: &str| json!({"labresultid": result, "analyteid": analyte, "test": "Iron", "value": "1"});
    let reading = read_payload("lab", &json!([result("1/2", "3"), result("1", "2/3"), result("1%2F2", "3")]));
    assert_eq!(issues(&reading), []);
    assert!(reading.parts.iter().all(|part| matches!(part.identity, Identity::Id(_))));
    let body = r#"{"athena_patient_id":"7","event_type":"vitals","captured_at":"2026-02-28t09:30:00z","payload":{"pulse":70}}"#;
    let reading = reading_of_body(body);
    assert_eq!((issues(&reading), reading.parts[0].clinical_at), (vec![], Some(datetime!(2026-02-28 9:30 UTC))));
}

fn reading_of_body(body: &str) -> Reading {
    reading(body)
}

#[test]
fn a_unit_that_is_said_is_the_unit() {
    for payload in [
        json!([{"name": "Blood pressure", "value": "20/13", "unit": "kPa"}]),
        json!({"systolic": 20, "diastolic": 13, "unit": "kPa"}),
        json!({"systolic": 20, "diastolic": 13, "unit": "kPa", "pulse": 70}),
        json!({"bp": {"systolic": 20, "diastolic": 13, "unit": "kPa"}}),
        json!({"bp": "20/13", "bp_unit": "kPa"}),
        json!({"bp": "20/13 kPa"}),
        json!({"bp": "20/13", "unit": "kPa"}),
    ] {
        let reading = read_payload("vitals", &payload);
        assert_eq!(issues(&reading), [], "{payload}");
        assert_eq!(reading.parts[0].findings.len(), 2, "{payload}");
        for finding in &reading.parts[0].findings {
            let units = (finding.value.unit.as_deref(), finding.value.ucum.as_deref());
            assert_eq!(units, (Some("kPa"), Some("kPa")), "{payload}");
        }
    }
    let odd = read_payload("vitals", &json!({"bp": "120/80", "bp_unit": "cubits"}));
    let value = &odd.parts[0].findings[0].value;
    assert_eq!((value.unit.as_deref(), value.ucum.as_deref()), (Some("cubits"), None));
    for (payload, pointer) in [
        (json!({"weight": "180 lbs", "weight_unit": "kg"}), "/payload/weight"),
        (json!([{"name": "Weight", "value": "180 lbs", "unit": "kg"}]), "/payload/0/value"),
    ] {
        let reading = read_payload("vitals", &payload);
        assert_eq!(issues(&reading), [("warning", "conflict", pointer.to_owned())], "{payload}");
        let value = &reading.parts[0].findings[0].value;
        assert_eq!((value.text.as_deref(), value.ucum.as_deref()), (Some("180"), Some("[lb_av]")), "{payload}");
    }
    let both = read_payload("vitals", &json!({"bp": "120/80 mmHg", "bp_unit": "kPa"}));
    assert_eq!(issues(&both), [("warning", "conflict", "/payload/bp".to_owned())]);
    assert_eq!(both.parts[0].findings[0].value.ucum.as_deref(), Some("mm[Hg]"));
    let whose = read_payload("vitals", &json!({"bp": "120/80", "weight": 80, "height": 170, "unit": "kg"}));
    assert_eq!(issues(&whose), [("warning", "value", "/payload/unit".to_owned())]);
    assert_eq!(details(&whose.parts[1].findings[0])["unit"], "kg");
}

#[test]
fn an_object_of_both_pressures_keeps_its_time_and_what_else_it_says() {
    let reading = read_payload(
        "vitals",
        &json!({"bp": {"systolic": 20, "diastolic": 13, "unit": "kPa", "position": "standing", "recordedat": "2020-01-01"}}),
    );
    assert_eq!(issues(&reading), []);
    let part = &reading.parts[0];
    assert_eq!((part.clinical_at, &part.identity), (Some(datetime!(2020-01-01 5:00 UTC)), &Identity::Place));
    for finding in &part.findings {
        assert_eq!(details(finding)["reading"], json!({"position": "standing"}));
        assert_eq!(finding.effective.text.as_deref(), Some("2020-01-01"));
    }
}

#[test]
fn what_stands_beside_a_list_and_is_not_read_is_named() {
    let named = |event_type: &str, payload: Value, parts: usize, expected: &[&str]| {
        let reading = read_payload(event_type, &payload);
        let expected: Vec<_> =
            expected.iter().map(|pointer| ("information", "informational", (*pointer).to_owned())).collect();
        assert_eq!((reading.parts.len(), issues(&reading)), (parts, expected), "{payload}");
        assert!(reading.report.rejected.is_empty());
    };
    let medication = json!({"medication": "aspirin"});
    named(
        "allergies",
        json!({"nkda": false, "sectionnote": "ask again", "totalcount": 1, "allergies": [{"allergenname": "latex"}]}),
        1,
        &["/payload/sectionnote"],
    );
    named(
        "medications",
        json!({"lastupdated": "01/02/2026", "nomedicationsreported": "false", "medications": [[medication]], "prescriptions": [[medication]]}),
        1,
        &["/payload/prescriptions"],
    );
    let analytes = json!([{"analytename": "Iron", "value": "1", "date": "01/02/2026"}]);
    named(
        "labs",
        json!({"results": [{"labresultid": "1", "resultnote": "repeat", "abnormalflag": "high", "attachmentexists": "false", "analytes": analytes}],
            "labs": [{"testname": "Zinc", "value": "2"}]}),
        1,
        &["/payload/labs", "/payload/results/0/abnormalflag", "/payload/results/0/resultnote"],
    );
    named(
        "vitals",
        json!({"vitals": [{"key": "HR", "ordering": 1, "groupnote": "x", "readings": [[{"codedescription": "pulse", "value": "70"}]]}], "pulse": 80}),
        1,
        &["/payload/pulse", "/payload/vitals/0/groupnote"],
    );
    named(
        "problems",
        json!({"patient": "x", "rows": [{"problemname": "gout", "icd10": "M10.9"}], "note": "y"}),
        1,
        &["/payload/note"],
    );
    // What is beside is content of no part.
    let one = read_payload("labs", &json!({"results": [{"labresultid": "1", "analytes": analytes}]}));
    let other =
        read_payload("labs", &json!({"results": [{"labresultid": "1", "resultnote": "x", "analytes": analytes}]}));
    assert_eq!(one.parts[0].beside, other.parts[0].beside);
}

#[test]
fn many_members_beside_a_list_are_named_as_many() {
    let mut payload = json!({"problems": [{"problemname": "gout"}]});
    for index in 0..100 {
        payload[format!("note{index}")] = json!("x");
    }
    let reading = read_payload("problems", &payload);
    assert_eq!(reading.report.total, 21);
    assert!(reading.report.issues.iter().any(|issue| issue.message.contains("further members")));
}

#[test]
fn a_date_is_taken_with_the_time_of_day_beside_it() {
    for (event_type, payload) in [
        ("vitals", json!({"date": "02/01/2026", "time": "08:30", "pulse": 70})),
        (
            "vitals",
            json!({"vitals": [{"key": "HR", "readings": [[
            {"codedescription": "pulse", "value": "70", "readingtaken": "02/01/2026", "time": "8:30 AM"}]]}]}),
        ),
        ("lab", json!({"testname": "Iron", "value": "1", "collectiondate": "2026-02-01", "collectiontime": "08:30"})),
        (
            "lab",
            json!({"results": [{"collecteddate": "2026-02-01", "time": "08:30", "analytes": [{"analytename": "Iron", "value": "1"}]}]}),
        ),
        ("immunization", json!({"vaccines": [{"description": "x", "administerdate": "02/01/2026", "time": "08:30"}]})),
        ("procedure", json!({"procedures": [{"procedurename": "x", "dateperformed": "02/01/2026", "time": "08:30"}]})),
        ("encounter", json!({"encounterid": "1", "date": "02/01/2026", "starttime": "08:30"})),
    ] {
        let reading = read_payload(event_type, &payload);
        assert_eq!(issues(&reading), [], "{payload}");
        let finding = &reading.parts[0].findings[0];
        assert_eq!(finding.effective.precision, Some("second"), "{payload}");
        assert!(finding.effective.text.as_deref().is_some_and(|text| text.contains("30")), "{payload}");
        let details = finding.details.as_deref().unwrap_or_default();
        assert!(!details.contains("\"time\":") && !details.contains("collectiontime"), "{details}");
    }
    // A date that has its own keeps the other one as written.
    let both = read_payload("vitals", &json!({"date": "02/01/2026 09:00", "time": "08:30", "pulse": 70}));
    let finding = &both.parts[0].findings[0];
    assert_eq!((issues(&both), finding.effective.text.as_deref()), (vec![], Some("02/01/2026 09:00")));
    assert_eq!(details(finding)["time"], "08:30");
}

#[test]
fn what_ends_before_it_starts_is_a_conflict() {
    for (start, end, is_conflict) in [
        ("02/02/2026", "02/01/2026", true),
        ("02/02/2026", "02/02/2026", false),
        ("02/02/2026 10:00", "02/02/2026", false),
        ("02/02/2026 10:00", "02/02/2026 09:00", true),
        ("02/02/2026", "2026", false),
        ("02/02/2026", "2025", true),
        ("02/02/2026", "02/03/2026", false),
    ] {
        let payload = json!({"medications": [[{"medication": "aspirin", "startdate": start, "enddate": end}]]});
        let reading = read_payload("medications", &payload);
        let expected = vec![("warning", "conflict", "/payload/medications/0/0/enddate".to_owned())];
        assert_eq!(issues(&reading), if is_conflict { expected } else { vec![] }, "{start} to {end}");
        assert_eq!(reading.parts.len(), 1);
        assert_eq!(reading.parts[0].findings[0].effective.end_text.as_deref(), Some(end));
    }
}
