//! athenahealth's shapes and the simpler ones, with invented values.

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

fn id(part: &Part) -> Option<&str> {
    if let Identity::Id(id) = &part.identity { Some(id) } else { None }
}

fn details(finding: &Finding) -> Value {
    serde_json::from_str(finding.details.as_deref().unwrap()).unwrap()
}

fn text(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str)
}

#[test]
fn athenahealths_vitals_are_lists_of_lists_and_a_pair_of_pressures_is_one_part() {
    let element = |id: &str, element: &str, name: &str, code: &str, value: &str| {
        json!({"source": "ENCOUNTER", "value": value, "readingid": "0", "clinicalelementid": element,
               "codedescription": name, "sourceid": "22603", "readingtaken": "07/28/2015 03:00:56", "codeset": "LOINC",
               "vitalid": id, "code": code, "createdby": "jdoe", "createddate": "07/28/2015"})
    };
    let reading = read_payload(
        "vitals",
        &json!({"totalcount": 2, "vitals": [
            {"ordering": 0, "abbreviation": "BP", "key": "BLOODPRESSURE", "readings": [[
                element("1069", "VITALS.BLOODPRESSURE.SYSTOLIC", "Systolic blood pressure", "8480-6", "118"),
                element("1068", "VITALS.BLOODPRESSURE.DIASTOLIC", "Diastolic blood pressure", "8462-4", "76"),
                {"clinicalelementid": "VITALS.BLOODPRESSURE.SITE", "value": "L arm", "vitalid": "1070"},
            ]]},
            {"abbreviation": "T", "key": "TEMPERATURE", "readings": [[
                element("1071", "VITALS.TEMPERATURE", "Body temperature", "8310-5", "98.60"),
                {"clinicalelementid": "VITALS.TEMPERATURE.TYPE", "value": "oral", "vitalid": "1072"},
            ]]},
        ]}),
    );
    assert_eq!(issues(&reading), []);
    let [pressure, temperature] = &reading.parts[..] else { panic!("{} parts", reading.parts.len()) };
    assert_eq!((pressure.resource_type, pressure.category, id(pressure)), ("AthenaVital", "vitals", Some("1068")));
    assert_eq!(pressure.clinical_at, Some(datetime!(2015-07-28 7:00:56 UTC)));
    let [systolic, diastolic, site] = &pressure.findings[..] else { panic!() };
    assert_eq!((systolic.ordinal, diastolic.ordinal, site.ordinal), (1, 2, 3));
    assert_eq!((text(systolic.value.text.as_ref()), text(systolic.value.ucum.as_ref())), (Some("118"), Some("mm[Hg]")));
    assert_eq!(systolic.value.unit, None);
    assert_eq!(details(systolic)["ucum_source"], "element");
    assert_eq!(systolic.code.code.as_deref(), Some("8480-6"));
    assert_eq!(systolic.laterality, Some("left"));
    assert_eq!(text(systolic.encounter.as_ref()), Some("AthenaEncounter/22603"));
    assert!(systolic.component_of.as_deref().unwrap().contains("85354-9"));
    assert_eq!((site.value.kind, text(site.value.text.as_ref())), (Some("string"), Some("L arm")));
    assert_eq!(text(systolic.effective.text.as_ref()), Some("07/28/2015 03:00:56"));
    // The measurement is the part's own finding; how it was taken is a component of it.
    let [degrees, how] = &temperature.findings[..] else { panic!() };
    assert_eq!((degrees.ordinal, how.ordinal), (0, 1));
    assert_eq!((text(degrees.value.text.as_ref()), text(degrees.value.ucum.as_ref())), (Some("98.60"), Some("[degF]")));
    assert!(how.component_of.as_deref().unwrap().contains("8310-5"));
    let place = &systolic.evidence[1];
    assert_eq!(place.pointer, "/payload/vitals/0/readings/0/0/value");
    assert_eq!(place.fhirpath, "payload.vitals[0].readings[0][0].value");
}

#[test]
fn a_flat_object_of_signs_is_a_part_for_each() {
    let payload = json!({"BP": "120/80", "pulse": 72, "temp": "98.6 F", "O2 Sat": "97%", "weight": "180", "weight_unit": "lbs",
                         "recorded_at": "02/27/2026 10:15", "cuff": "large"});
    let reading = read_payload("vital", &payload);
    assert_eq!(issues(&reading), []);
    let pairs: Vec<_> = reading
        .parts
        .iter()
        .flat_map(|part| &part.findings)
        .map(|finding| {
            let value = &finding.value;
            (
                finding.code.code.as_deref().unwrap(),
                value.text.as_deref().unwrap(),
                value.unit.as_deref(),
                value.ucum.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        pairs,
        [
            ("8480-6", "120", None, Some("mm[Hg]")),
            ("8462-4", "80", None, Some("mm[Hg]")),
            ("8867-4", "72", None, None),
            ("8310-5", "98.6", Some("F"), Some("[degF]")),
            ("59408-5", "97", Some("%"), Some("%")),
            ("29463-7", "180", Some("lbs"), Some("[lb_av]")),
        ]
    );
    let pulse = &reading.parts[1].findings[0];
    assert_eq!(reading.parts[1].identity, Identity::Place);
    assert_eq!(text(pulse.code.text.as_ref()), Some("pulse"));
    assert_eq!(details(pulse)["code_source"], "derived");
    assert_eq!(details(pulse)["cuff"], "large");
    assert_eq!(details(pulse)["time_source"], "payload");
    assert_eq!(reading.parts[3].pointer, "/payload/O2 Sat");
    assert_eq!(reading.parts[3].findings[0].evidence[0].fhirpath, "payload.`O2 Sat`");
}

#[test]
fn vitals_without_a_time_have_that_of_their_capture_and_each_sighting_is_a_reading() {
    let reading = read_payload("vitals", &json!({"hr": 61, "blood_pressure": {"systolic": 101, "diastolic": "63"}}));
    assert_eq!(issues(&reading), []);
    assert!(reading.parts.iter().all(|part| part.identity == Identity::Reading));
    assert_eq!(reading.parts[0].findings.len(), 2);
    let finding = &reading.parts[1].findings[0];
    assert_eq!(text(finding.effective.text.as_ref()), Some("2026-02-28T09:30:00-05:00"));
    assert_eq!(finding.effective.at, Some(datetime!(2026-02-28 14:30 UTC)));
    assert_eq!(details(finding)["time_source"], "captured_at");
    assert!(finding.evidence.iter().any(|evidence| evidence.rule == "athena.captured_at"));
}

#[test]
fn what_a_sign_cannot_be_is_kept_and_said() {
    let reading =
        read_payload("vitals", &json!({"pulse": 900, "spo2": "101", "temp": -3, "resp": "fast", "height": 170}));
    assert_eq!(reading.parts.len(), 5);
    let pointers: Vec<_> = issues(&reading);
    assert_eq!(
        pointers.iter().map(|(_, _, pointer)| pointer.as_str()).collect::<BTreeSet<_>>(),
        BTreeSet::from(["/payload/pulse", "/payload/spo2", "/payload/temp", "/payload/resp"])
    );
    assert!(pointers.iter().all(|(severity, code, _)| (*severity, *code) == ("warning", "value")));
}

#[test]
fn athenahealths_labs_are_a_part_for_each_analyte() {
    let payload = json!({"totalcount": 1, "results": [{
    "labresultid": "501", "description": "Metabolic panel", "resultstatus": "final", "createddatetime": "2026-02-20T08:00:00-05:00",
    "encounterid": "88", "analytes": [
        {"analyteid": "1", "analytename": "glucose, fasting", "loinc": "4548-4", "value": "142", "units": "mg/dL",
         "referencerange": "70-100", "abnormalflag": "high", "analytedate": "02/19/2026", "note": "n"},
        {"analyteid": "2", "analytename": "Sodium", "loinc": "2951-2", "value": "139.0", "units": "mmol/L",
         "referencerange": "136-145"},
        {"analyteid": "3", "analytename": "Strep A", "value": "POSITIVE", "abnormalflag": "abnormal"},
        {"analyteid": "4", "analytename": "Troponin", "value": "<0.01", "referencerange": "<=0.04"},
    ]}]});
    let reading = read_payload("lab", &payload);
    assert_eq!(issues(&reading), [("warning", "conflict", "/payload/results/0/analytes/0/loinc".to_owned())]);
    let ids: Vec<_> = reading.parts.iter().map(|part| id(part).unwrap()).collect();
    assert_eq!(ids, ["501/1", "501/2", "501/3", "501/4"]);
    let said: Vec<_> = reading
        .parts
        .iter()
        .map(|part| &part.findings[0])
        .map(|finding| {
            (
                finding.value.kind.unwrap(),
                finding.value.text.as_deref().unwrap(),
                finding.interpretation.as_deref(),
                finding.interpretation_source,
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("quantity", "142", Some("H"), Some("declared")),
            ("quantity", "139.0", Some("N"), Some("derived")),
            ("string", "POSITIVE", Some("A"), Some("declared")),
            ("quantity", "0.01", None, None),
        ]
    );
    let glucose = &reading.parts[0].findings[0];
    assert_eq!(text(glucose.code.text.as_ref()), Some("glucose, fasting"));
    assert_eq!(glucose.code.code.as_deref(), Some("4548-4"));
    assert_eq!(text(glucose.effective.text.as_ref()), Some("02/19/2026"));
    assert_eq!((text(glucose.status.as_ref()), glucose.effective.precision), (Some("final"), Some("day")));
    assert_eq!(text(glucose.encounter.as_ref()), Some("AthenaEncounter/88"));
    assert_eq!(details(glucose)["abnormalflag"], "high");
    assert_eq!(details(glucose)["note"], "n");
    assert!(glucose.component_of.as_deref().unwrap().contains("Metabolic panel"));
    assert_eq!(text(reading.parts[1].findings[0].effective.text.as_ref()), Some("2026-02-20T08:00:00-05:00"));
}

#[test]
fn flat_labs_stand_alone_in_a_list_or_in_the_only_list_of_an_object() {
    let one = json!({"test_name": "Potassium", "result": 5.9, "unit": "mmol/L", "normal_range": "3.5-5.1", "result_date": "2026-02-01"});
    for payload in [
        one.clone(),
        json!([one]),
        json!({"patient": "x", "rows": [one]}),
        json!({"labs": [one]}),
        json!({"data": {"results": [one]}}),
    ] {
        let reading = read_payload("lab", &payload);
        assert_eq!(issues(&reading), [], "{payload}");
        assert_eq!(reading.parts.len(), 1, "{payload}");
        let finding = &reading.parts[0].findings[0];
        assert_eq!(text(finding.value.text.as_ref()), Some("5.9"));
        assert_eq!(
            (text(finding.interpretation.as_ref()), finding.interpretation_source),
            (Some("H"), Some("derived"))
        );
        assert!(finding.evidence.iter().any(|evidence| evidence.rule == "athena.lab.range"));
    }
}

#[test]
fn athenahealths_medications_have_their_sig_times_and_whether_they_were_stopped() {
    let payload = json!({"lastupdated": "02/01/2026", "nomedicationsreported": "false", "medications": [
        [{"medicationentryid": "H3", "medicationid": "243360", "medication": "benzonatate 100 mg capsule", "isstructuredsig": "true",
          "structuredsig": {"dosageroute": "oral", "dosagequantityvalue": "1"}, "unstructuredsig": "one at night",
          "events": [{"eventdate": "10/15/2025", "type": "START"}, {"eventdate": "10/16/2025", "type": "ENTER"},
                     {"eventdate": "11/01/2025", "type": "END"}],
          "isdiscontinued": "true", "stopreason": "no effect", "prescribedby": "Dr. A", "encounterid": "9"}],
        [{"medicationentryid": "H2", "medication": "fluticasone inhaler", "isdiscontinued": false}]]});
    let reading = read_payload("medications", &payload);
    assert_eq!(issues(&reading), []);
    let [stopped, active] = &reading.parts[..] else { panic!() };
    assert_eq!((id(stopped), text(stopped.status.as_ref())), (Some("H3"), Some("stopped")));
    assert_eq!((id(active), text(active.status.as_ref())), (Some("H2"), Some("active")));
    let finding = &stopped.findings[0];
    assert_eq!(text(finding.effective.text.as_ref()), Some("10/15/2025"));
    assert_eq!(text(finding.effective.end_text.as_ref()), Some("11/01/2025"));
    assert_eq!(text(finding.issued.as_ref()), Some("10/16/2025"));
    let dosage: Value = serde_json::from_str(finding.dosage.as_deref().unwrap()).unwrap();
    assert_eq!(
        dosage,
        json!({"sig": "one at night", "structuredsig": {"dosageroute": "oral", "dosagequantityvalue": "1"}})
    );
    let details = details(finding);
    assert_eq!((&details["stopreason"], &details["medicationid"]), (&json!("no effect"), &json!("243360")));
    assert_eq!(details["events"].as_array().unwrap().len(), 3);
    assert_eq!(active.findings[0].effective.at, Some(datetime!(2026-02-28 14:30 UTC)));
    let none = read_payload("medication", &json!({"nomedicationsreported": true, "medications": []}));
    assert_eq!(none.parts.len(), 1);
    assert!(none.parts[0].findings[0].negated);
}

#[test]
fn flat_medications_are_statements_whose_newest_sighting_counts() {
    let reading = read_payload(
        "medication",
        &json!({"medication_name": "aspirin", "sig": "daily", "dose": "81 mg", "Status": "Active"}),
    );
    assert_eq!(issues(&reading), []);
    let part = &reading.parts[0];
    assert_eq!((&part.identity, text(part.status.as_ref())), (&Identity::Statement, Some("active")));
    let dosage: Value = serde_json::from_str(part.findings[0].dosage.as_deref().unwrap()).unwrap();
    assert_eq!(dosage, json!({"sig": "daily", "dose": "81 mg"}));
}

#[test]
fn athenahealths_problems_have_their_codes_onset_side_and_end() {
    let payload = json!({"noknownproblems": "false", "problems": [
        {"problemid": 45, "name": "Knee pain", "code": "30989003", "codeset": "SNOMED", "bestmatchicd10code": "M25.562",
         "deactivateddate": "01/15/2026",
         "events": [{"eventtype": "START", "startdate": "03/01/2024", "onsetdate": "02/2024", "laterality": "LEFT", "status": "CHRONIC"}]},
        {"problemid": 46, "name": "Asthma", "code": "J45.909", "codeset": "ICD10", "events": []}]});
    let reading = read_payload("problems", &payload);
    assert_eq!(issues(&reading), [("warning", "value", "/payload/problems/0/events/0/onsetdate".to_owned())]);
    let knee = &reading.parts[0].findings[0];
    assert_eq!(id(&reading.parts[0]), Some("45"));
    assert_eq!((text(knee.clinical_status.as_ref()), knee.laterality), (Some("inactive"), Some("left")));
    assert_eq!(text(knee.effective.end_text.as_ref()), Some("01/15/2026"));
    let codings: Value = serde_json::from_str(knee.code.codings.as_deref().unwrap()).unwrap();
    assert_eq!(
        codings,
        json!([{"system": "http://snomed.info/sct", "code": "30989003"},
                               {"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "M25.562"}])
    );
    assert_eq!(reading.parts[1].findings[0].code.system.as_deref(), Some("http://hl7.org/fhir/sid/icd-10-cm"));
    assert_eq!(reading.parts[1].status, None);
    let flat = read_payload(
        "problem",
        &json!({"problem_name": "Gout", "icd10": "gout", "status": "resolved", "onset_date": "13/01/2020"}),
    );
    let codes: Vec<_> = issues(&flat).into_iter().map(|(_, code, pointer)| (code, pointer)).collect();
    assert!(
        codes.contains(&("code-invalid", "/payload/icd10".to_owned()))
            && codes.contains(&("value", "/payload/onset_date".to_owned()))
    );
    let gout = &flat.parts[0].findings[0];
    assert_eq!(
        (text(gout.clinical_status.as_ref()), text(gout.effective.text.as_ref())),
        (Some("resolved"), Some("13/01/2020"))
    );
    assert_eq!(gout.effective.at, None);
}

#[test]
fn no_known_allergies_is_said_only_by_true() {
    for (payload, parts) in [
        (json!({"nkda": true, "allergies": []}), 1),
        (json!({"nkda": "true", "allergies": []}), 1),
        (json!({"nkda": "TRUE"}), 1),
        (json!({"nkda": false, "allergies": []}), 0),
        (json!({"nkda": "false"}), 0),
    ] {
        let reading = read_payload("allergies", &payload);
        assert_eq!((reading.parts.len(), issues(&reading)), (parts, vec![]), "{payload}");
        for part in &reading.parts {
            let finding = &part.findings[0];
            assert_eq!((part.resource_type, finding.kind, finding.negated), ("AthenaAllergy", "negation", true));
            assert_eq!(text(finding.code.text.as_ref()), Some("No known drug allergies"));
            assert_eq!(finding.evidence[0].pointer, "/payload/nkda");
        }
    }
    let odd = read_payload("allergies", &json!({"nkda": "perhaps", "allergies": []}));
    assert_eq!(issues(&odd), [("warning", "value", "/payload/nkda".to_owned())]);
}

#[test]
fn allergies_have_their_reactions_and_the_worst_severity() {
    let payload = json!({"nkda": "true", "sectionnote": "x", "allergies": [
        {"allergenid": "18035", "allergenname": "wasp venom", "onsetdate": "06/01/2010", "rxnormcode": "1007995", "rxnormdescription": "Wasp venom",
         "reactions": [{"reactionname": "hives", "snomedcode": "247472004", "severity": "mild"},
                       {"reactionname": "anaphylaxis", "severity": "severe"}], "note": "carries a pen"},
        {"allergen": "latex", "reaction": "rash", "deactivatedate": "01/01/2020"}]});
    let reading = read_payload("allergy", &payload);
    let beside = ("information", "informational", "/payload/sectionnote".to_owned());
    assert_eq!(issues(&reading), [("warning", "conflict", "/payload/nkda".to_owned()), beside]);
    let [_, wasp, latex] = &reading.parts[..] else { panic!() };
    let finding = &wasp.findings[0];
    assert_eq!((id(wasp), text(finding.severity.as_ref())), (Some("18035"), Some("severe")));
    assert_eq!(finding.code.display.as_deref(), Some("Wasp venom"));
    assert_eq!(details(finding)["note"], "carries a pen");
    assert_eq!(text(latex.findings[0].reactions.as_ref()), Some("[\"rash\"]"));
    assert_eq!(text(latex.status.as_ref()), Some("inactive"));
}

#[test]
fn immunizations_procedures_encounters_and_documents_are_read() {
    let reading = read_payload(
        "immunization",
        &json!({"vaccines": [
        {"vaccineid": "77", "description": "influenza, seasonal", "cvx": 141, "administerdate": "10/01/2025", "status": "ADMINISTERED",
         "administersite": "left deltoid", "amount": "0.5", "units": "mL", "lotnumber": "A1"},
        {"vaccineid": "78", "description": "zoster", "status": "Declined"}]}),
    );
    assert_eq!(issues(&reading), []);
    let flu = &reading.parts[0].findings[0];
    assert_eq!(
        (text(flu.status.as_ref()), flu.laterality, flu.code.code.as_deref()),
        (Some("completed"), Some("left"), Some("141"))
    );
    assert_eq!(flu.code.system.as_deref(), Some("http://hl7.org/fhir/sid/cvx"));
    assert_eq!(details(flu)["lotnumber"], "A1");
    assert!(reading.parts[1].findings[0].negated);

    let reading = read_payload(
        "procedure",
        &json!([{"procedureid": "5", "procedurecode": "27447", "description": "Knee replacement",
        "dateperformed": "05/06/2019", "laterality": "Right"}]),
    );
    assert_eq!(issues(&reading), []);
    let knee = &reading.parts[0].findings[0];
    assert_eq!((knee.code.system.as_deref(), knee.laterality), (Some("http://www.ama-assn.org/go/cpt"), Some("right")));

    let reading = read_payload(
        "appointment",
        &json!({"appointments": [
        {"appointmentid": "378717", "date": "10/10/2025", "starttime": "12:12", "appointmenttype": "Follow Up", "appointmentstatus": "x"},
        {"encounterid": 34960, "encounterdate": "07/15/2025", "encountertype": "VISIT", "encountervisitname": "Office Visit",
         "status": "CLOSED", "diagnoses": [{"description": "d"}], "providerid": 72}]}),
    );
    assert_eq!(issues(&reading), []);
    let [booked, visit] = &reading.parts[..] else { panic!() };
    assert_eq!((id(booked), text(booked.status.as_ref())), (Some("appointment:378717"), Some("cancelled")));
    assert_eq!(booked.clinical_at, Some(datetime!(2025-10-10 16:12 UTC)));
    assert_eq!((id(visit), text(visit.status.as_ref())), (Some("34960"), Some("finished")));
    assert_eq!(details(&visit.findings[0])["providerid"], 72);

    let reading = read_payload(
        "note",
        &json!({"documentid": "9", "documentclass": "CLINICALDOCUMENT", "documentsubclass": "CONSULT",
        "createddatetime": "2026-01-02T10:00:00-05:00", "lastmodifieddatetime": "2026-01-03T10:00:00-05:00", "text": "seen", "status": "CLOSED"}),
    );
    assert_eq!(issues(&reading), []);
    let note = &reading.parts[0].findings[0];
    assert_eq!((text(note.code.text.as_ref()), text(note.value.text.as_ref())), (Some("CONSULT"), Some("seen")));
    assert_eq!(
        (text(note.status.as_ref()), text(note.issued.as_ref())),
        (Some("current"), Some("2026-01-03T10:00:00-05:00"))
    );
}

#[test]
fn what_is_not_known_is_kept_as_other_and_said() {
    for (event_type, payload) in [
        ("insurance", json!({"plan": "gold"})),
        ("vitals", json!({"plan": "gold"})),
        ("lab", json!({})),
        ("medication", json!({"plan": "gold", "rows": [1, 2]})),
        ("problem", json!({"a": {"b": {"c": {"d": {"e": 1}}}}})),
    ] {
        let reading = read_payload(event_type, &payload);
        assert_eq!(issues(&reading), [("information", "informational", "/payload".to_owned())], "{payload}");
        let part = &reading.parts[0];
        assert_eq!((part.resource_type, part.category, part.pointer.as_str()), ("AthenaOther", "other", "/payload"));
        assert_eq!(text(part.findings[0].code.text.as_ref()), Some(event_type));
    }
    let mixed = read_payload("allergies", &json!([{"allergen": "latex"}, {"plan": "gold"}, 7]));
    assert_eq!(mixed.parts.iter().map(|part| part.resource_type).collect::<Vec<_>>(), ["AthenaAllergy", "AthenaOther"]);
    assert_eq!((mixed.report.entries, mixed.report.rejected.len()), (3, 1));
}

#[test]
fn an_unreadable_capture_stays_as_given_and_the_event_stays_usable() {
    let body = r#"{"athena_patient_id":"7","event_type":"vitals","captured_at":"yesterday","event_subtype":7,"payload":{"pulse":70}}"#;
    let reading = reading(body);
    assert_eq!(
        issues(&reading),
        [("error", "value", "/captured_at".to_owned()), ("warning", "structure", "/event_subtype".to_owned())]
    );
    assert_eq!((reading.report.errors, reading.report.unusable, reading.parts.len()), (1, false, 1));
    let finding = &reading.parts[0].findings[0];
    assert_eq!(details(finding)["time_source"], "received");
    assert_eq!(finding.effective.at, Some(context().received_at));
}

#[test]
fn what_a_result_says_of_its_analytes_is_their_content_too() {
    let payload = |status: &str| json!({"results": [{"labresultid": "1", "resultstatus": status, "analytes": [{"analyteid": "2", "analytename": "Iron", "value": "1"}]}]});
    let (one, other) = (read_payload("lab", &payload("preliminary")), read_payload("lab", &payload("final")));
    assert_eq!(one.parts[0].identity, other.parts[0].identity);
    assert_ne!(one.parts[0].beside, other.parts[0].beside);
    assert_eq!(text(other.parts[0].status.as_ref()), Some("final"));
    let flat = read_payload("lab", &json!({"test": "Iron", "value": "1"}));
    assert_eq!(flat.parts[0].beside, None);
}

#[test]
fn a_reading_of_both_pressures_under_one_name_is_a_pair() {
    for payload in [
        json!([{"name": "Blood Pressure", "value": "120/80", "date": "02/01/2026", "vitalid": 5}]),
        json!({"vitals": [{"key": "BP", "readings": [[{"code": "85354-9", "value": "120/80 mmHg", "readingtaken": "02/01/2026", "vitalid": "5"}]]}]}),
    ] {
        let reading = read_payload("vitals", &payload);
        assert_eq!((issues(&reading), id(&reading.parts[0])), (vec![], Some("5")), "{payload}");
        let values: Vec<_> =
            reading.parts[0].findings.iter().map(|one| (one.ordinal, one.value.text.as_deref().unwrap())).collect();
        assert_eq!(values, [(1, "120"), (2, "80")]);
    }
}

#[test]
fn names_that_mean_the_same_twice_and_ids_that_are_there_twice_are_said() {
    let both = read_payload("problem", &json!({"Problem_Name": "Gout", "problemname": "Asthma"}));
    assert_eq!(issues(&both), [("warning", "duplicate", "/payload/problemname".to_owned())]);
    assert_eq!(text(both.parts[0].findings[0].code.text.as_ref()), Some("Asthma"));
    assert_eq!(details(&both.parts[0].findings[0])["Problem_Name"], "Gout");
    let twice = read_payload("problem", &json!([{"problemid": 1, "name": "a"}, {"problemid": "1", "name": "b"}]));
    assert_eq!(issues(&twice), [("warning", "duplicate", "/payload/1".to_owned())]);
    assert_eq!(twice.parts[1].identity, Identity::Statement);
}

#[test]
fn flags_that_contradict_the_value_are_said_and_statuses_are_those_of_the_view() {
    let reading =
        read_payload("lab", &json!({"test": "Iron", "value": "10", "range": "60-170", "flag": "High", "status": "F"}));
    assert_eq!(issues(&reading), [("warning", "conflict", "/payload/flag".to_owned())]);
    assert_eq!(text(reading.parts[0].status.as_ref()), Some("final"));
    for (event_type, payload, status, negated) in [
        ("medication", json!({"name": "x", "status": "Entered in error"}), "entered-in-error", false),
        ("medication", json!({"name": "x", "status": "tapering"}), "tapering", false),
        ("problem", json!({"name": "x", "status": "Ruled out"}), "refuted", true),
        ("procedure", json!({"name": "x", "status": "Not Done"}), "not-done", true),
        (
            "document",
            json!({"title": "x", "deleteddatetime": "2026-01-01T00:00:00Z", "status": "CLOSED"}),
            "entered-in-error",
            false,
        ),
        ("visit", json!({"encounterid": 3, "status": "no show"}), "no show", false),
    ] {
        let reading = read_payload(event_type, &payload);
        let part = &reading.parts[0];
        assert_eq!((text(part.status.as_ref()), part.findings[0].negated), (Some(status), negated), "{payload}");
    }
}
