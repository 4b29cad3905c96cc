//! Synthetic Athena traffic from a seed: charts of people who do not exist, seen by an extension day after day, for `demo`,
//! the benchmarks and the tests.
//!
//! The same seed and number of patients give the same events. Two seeds never speak of the same patient. Every event is
//! accepted; none has an issue of severity error.

use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom as _, IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt::Write as _;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

/// Events that may be sent again.
const RECENT_MAX: usize = 200;

/// SNOMED CT code, name, ICD-10 code.
const PROBLEMS: [(&str, &str, &str); 5] = [
    ("59621000", "Essential hypertension", "I10"),
    ("44054006", "Type 2 diabetes mellitus", "E119"),
    ("195967001", "Asthma", "J45909"),
    ("55822004", "Hyperlipidemia", "E785"),
    ("271737000", "Anemia", "D649"),
];
const MEDICATIONS: [(&str, &str); 6] = [
    ("Claritin 10 mg tablet", "TAKE 1 TABLET BY ORAL ROUTE ONCE DAILY"),
    ("lisinopril 10 mg tablet", "TAKE 1 TABLET EVERY DAY"),
    ("metformin 500 mg tablet", "TAKE 1 TABLET TWICE A DAY WITH MEALS"),
    ("atorvastatin 40 mg tablet", "TAKE 1 TABLET AT BEDTIME"),
    ("albuterol sulfate HFA 90 mcg/actuation aerosol inhaler", "INHALE 2 PUFFS EVERY 4 HOURS AS NEEDED"),
    ("amoxicillin 500 mg capsule", "TAKE 1 CAPSULE 3 TIMES A DAY FOR 10 DAYS"),
];
const ALLERGIES: [(&str, &str, &str); 4] = [
    ("penicillin", "hives", "126485001"),
    ("peanut", "anaphylaxis", "39579001"),
    ("latex", "contact dermatitis", "40275004"),
    ("sulfa (sulfonamide antibiotics)", "rash", "271807003"),
];
/// LOINC code, name, unit, range, low and high of the values drawn, decimals.
type Analyte = (&'static str, &'static str, &'static str, &'static str, u32, u32, u32);
const ANALYTES: [Analyte; 8] = [
    ("2345-7", "glucose", "mg/dL", "65-99", 60, 210, 0),
    ("2160-0", "creatinine", "mg/dL", "0.60-1.20", 5, 22, 1),
    ("2823-3", "potassium", "mmol/L", "3.5-5.3", 30, 60, 1),
    ("2951-2", "sodium", "mmol/L", "135-146", 130, 150, 0),
    ("718-7", "hemoglobin", "g/dL", "11.7-15.5", 90, 180, 1),
    ("2093-3", "cholesterol, total", "mg/dL", "<200", 130, 290, 0),
    ("2085-9", "HDL cholesterol", "mg/dL", ">40", 25, 95, 0),
    ("4548-4", "hemoglobin A1c", "%", "<5.7", 45, 110, 1),
];
const VACCINES: [(&str, &str); 3] =
    [("140", "influenza, seasonal, injectable"), ("115", "Tdap"), ("33", "pneumococcal polysaccharide PPV23")];
const PROCEDURES: [(&str, &str); 3] =
    [("45378", "colonoscopy"), ("93000", "electrocardiogram"), ("29881", "knee arthroscopy")];

/// One post of the extension.
#[derive(Clone)]
pub struct Post {
    /// The body.
    pub body: Vec<u8>,
    /// It says what an earlier post said, in other words.
    pub is_repetition: bool,
    /// It says so of another time.
    pub is_sighting: bool,
}

/// What the extension has seen of one patient.
#[derive(Default)]
struct Chart {
    medications: Vec<Value>,
    problems: Vec<Value>,
    allergies: Vec<Value>,
    next_id: u64,
}

/// An endless stream of posts.
pub struct Traffic {
    random: StdRng,
    seed: u64,
    charts: Vec<Chart>,
    now: OffsetDateTime,
    recent: VecDeque<Value>,
}

/// The Athena number of a patient of a seed.
#[must_use]
pub fn patient_id(seed: u64, number: usize) -> String {
    format!("{}", 1_000_000 + seed * 100_000 + number as u64)
}

impl Traffic {
    /// Of a seed, about so many patients (at most 100,000).
    #[must_use]
    pub fn new(seed: u64, patients: usize) -> Self {
        let charts = (0..patients.clamp(1, 100_000)).map(|_| Chart::default()).collect();
        let now = datetime!(2026-01-05 08:00 UTC);
        Self { random: StdRng::seed_from_u64(seed), seed, charts, now, recent: VecDeque::new() }
    }

    /// Every event after that one is captured later than this one was.
    fn post(&mut self) -> Post {
        self.now += Duration::seconds(self.random.random_range(1..90));
        let drawn = self.random.random_range(0..100);
        if drawn < 12 && !self.recent.is_empty() {
            let index = self.random.random_range(0..self.recent.len());
            let mut again = self.recent[index].clone();
            let is_sighting = drawn < 4;
            if is_sighting {
                again["captured_at"] = json!(self.captured());
            }
            let body = self.written(&again);
            return Post { body, is_repetition: true, is_sighting };
        }
        let number = self.random.random_range(0..self.charts.len());
        let event = self.event(number);
        let body = self.written(&event);
        self.recent.push_back(event);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        Post { body, is_repetition: false, is_sighting: false }
    }

    fn captured(&self) -> String {
        crate::clock::rfc3339(self.now).unwrap_or_default()
    }

    fn event(&mut self, number: usize) -> Value {
        let (event_type, subtype, payload) = match self.random.random_range(0..100) {
            0..26 => ("vitals", "flowsheet", self.flowsheet(number)),
            26..36 => ("vital", "manual", self.manual_vitals()),
            36..52 => ("labs", "results", self.lab_results(number)),
            52..58 => ("lab", "point of care", self.point_of_care()),
            58..72 => ("medications", "list", self.medications(number)),
            72..76 => ("medication", "entered", self.entered_medication()),
            76..84 => ("problems", "list", self.problems(number)),
            84..89 => ("allergies", "list", self.allergies(number)),
            89..93 => ("encounter", "visit", self.encounter(number)),
            93..96 => ("document", "note", self.document(number)),
            96..98 => ("immunization", "vaccine", self.immunization(number)),
            98 => ("procedure", "history", self.procedure(number)),
            _ => (
                "insurance",
                "card",
                json!({"plan": "Gold", "copay": self.random.random_range(5..50), "seen": self.captured()}),
            ),
        };
        json!({
            "athena_patient_id": patient_id(self.seed, number),
            "event_type": event_type,
            "event_subtype": subtype,
            "source_endpoint": format!("/chart/{event_type}"),
            "captured_at": self.captured(),
            "indexer_version": "2.4.1",
            "payload": payload,
        })
    }

    fn id(&mut self, number: usize) -> u64 {
        self.charts[number].next_id += 1;
        self.charts[number].next_id
    }

    /// A day up to a year ago, as Athena writes it.
    fn day(&mut self) -> String {
        let day = (self.now - Duration::days(self.random.random_range(0..365))).date();
        format!("{:02}/{:02}/{}", u8::from(day.month()), day.day(), day.year())
    }

    fn time(&self) -> String {
        let (day, time) = (self.now.date(), self.now.time());
        format!(
            "{:02}/{:02}/{} {:02}:{:02}:{:02}",
            u8::from(day.month()),
            day.day(),
            day.year(),
            time.hour(),
            time.minute(),
            time.second()
        )
    }

    /// `low..high` with so many decimals: 45 with one is 4.5.
    fn decimal(&mut self, low: u32, high: u32, decimals: u32) -> String {
        let drawn = self.random.random_range(low..high);
        match decimals {
            0 => drawn.to_string(),
            _ => format!("{}.{}", drawn / 10, drawn % 10),
        }
    }

    /// Athena's own shape: readings in arrays of arrays, values as strings.
    fn flowsheet(&mut self, number: usize) -> Value {
        let taken = self.time();
        let mut groups = Vec::new();
        for (key, abbreviation, elements) in [
            ("BLOODPRESSURE", "BP", &[("SYSTOLIC", "8480-6", 95, 165), ("DIASTOLIC", "8462-4", 55, 100)][..]),
            ("HEARTRATE", "HR", &[("RATE", "8867-4", 52, 104)][..]),
            ("RESPIRATIONRATE", "RR", &[("RATE", "9279-1", 12, 22)][..]),
            ("OXYGENSATURATION", "O2Sat", &[("SATURATION", "2708-6", 92, 100)][..]),
        ] {
            let reading = self.id(number);
            let readings: Vec<Value> = elements
                .iter()
                .map(|(element, code, low, high)| {
                    let vital = self.id(number);
                    json!({
                        "vitalid": vital, "readingid": reading, "clinicalelementid": format!("VITALS.{key}.{element}"),
                        "code": code, "codeset": "LOINC", "value": self.random.random_range(*low..*high).to_string(),
                        "readingtaken": taken, "source": "ENCOUNTER", "sourceid": 7_000 + number,
                        "createdby": "nurse", "createddate": taken.split(' ').next(),
                    })
                })
                .collect();
            groups.push(
                json!({"key": key, "abbreviation": abbreviation, "ordering": groups.len() + 1, "readings": [readings]}),
            );
        }
        json!({"totalcount": groups.len(), "vitals": groups})
    }

    /// Typed in by hand: no ids, and no time of its own.
    fn manual_vitals(&mut self) -> Value {
        json!({
            "bp": format!("{}/{}", self.random.random_range(95..165), self.random.random_range(55..100)),
            "pulse": self.random.random_range(52..104),
            "resp": self.random.random_range(12..22).to_string(),
            "spo2": self.random.random_range(92..100),
        })
    }

    fn lab_results(&mut self, number: usize) -> Value {
        let (result, day) = (self.id(number), self.day());
        let count = self.random.random_range(3..7);
        let drawn: Vec<Analyte> = ANALYTES.sample(&mut self.random, count).copied().collect();
        let analytes: Vec<Value> = drawn
            .into_iter()
            .map(|(loinc, name, unit, range, low, high, decimals)| {
                let id = self.id(number);
                json!({
                    "analyteid": id, "analytename": name, "loinc": loinc, "value": self.decimal(low, high, decimals), "units": unit,
                    "referencerange": range, "analytedate": day, "resultstatus": "final",
                })
            })
            .collect();
        json!({"totalcount": 1, "results": [{
            "labresultid": result.to_string(), "description": "metabolic panel", "resultstatus": "final", "createddatetime": self.captured(),
            "attachmentexists": "false", "internalnote": "", "analytes": analytes,
        }]})
    }

    fn point_of_care(&mut self) -> Value {
        json!({"test_name": "glucose", "result": self.decimal(60, 210, 0), "unit": "mg/dL", "normal_range": "70-140", "result_date": self.day()})
    }

    /// The list as it is now: one more now and then, one stopped now and then.
    fn medications(&mut self, number: usize) -> Value {
        if self.charts[number].medications.is_empty() || self.random.random_bool(0.3) {
            let (id, day) = (self.id(number), self.day());
            let (name, sig) = MEDICATIONS.choose(&mut self.random).copied().unwrap_or_default();
            let medication = json!({
                "medicationentryid": format!("H{id}"), "medicationid": 240_000 + id, "medication": name, "isstructuredsig": "false",
                "unstructuredsig": sig, "isdiscontinued": "false", "events": [{"type": "START", "eventdate": day}],
            });
            self.charts[number].medications.push(medication);
        }
        if self.random.random_bool(0.2) {
            let day = self.day();
            if let Some(stopped) = self.charts[number].medications.choose_mut(&mut self.random) {
                stopped["isdiscontinued"] = json!("true");
                stopped["stopreason"] = json!("course complete");
                stopped["stopdate"] = json!(day);
            }
        }
        let rows: Vec<Value> = self.charts[number].medications.iter().map(|one| json!([one])).collect();
        json!({"lastupdated": self.day(), "nomedicationsreported": false, "medications": rows})
    }

    fn entered_medication(&mut self) -> Value {
        let (name, sig) = MEDICATIONS.choose(&mut self.random).copied().unwrap_or_default();
        json!({"medication_name": name, "sig": sig, "start_date": self.day(), "status": "active"})
    }

    fn problems(&mut self, number: usize) -> Value {
        if self.charts[number].problems.is_empty() || self.random.random_bool(0.2) {
            let (id, day) = (self.id(number), self.day());
            let (code, name, icd) = PROBLEMS.choose(&mut self.random).copied().unwrap_or_default();
            let problem = json!({
                "problemid": id, "name": name, "code": code, "codeset": "SNOMED", "bestmatchicd10code": icd,
                "events": [{"eventtype": "START", "startdate": day, "status": "CHRONIC", "source": "ENCOUNTER", "diagnoses": []}],
            });
            self.charts[number].problems.push(problem);
        }
        let problems = &self.charts[number].problems;
        json!({"totalcount": problems.len(), "problems": problems})
    }

    fn allergies(&mut self, number: usize) -> Value {
        if self.charts[number].allergies.is_empty() && self.random.random_bool(0.5) {
            return json!({"nkda": true, "allergies": []});
        }
        if self.charts[number].allergies.len() < 3 {
            let id = self.id(number);
            let (name, reaction, code) = ALLERGIES.choose(&mut self.random).copied().unwrap_or_default();
            let severity = ["mild", "moderate", "severe"].choose(&mut self.random).copied();
            let allergy = json!({
                "allergenid": id.to_string(), "allergenname": name, "onsetdate": self.day(),
                "reactions": [{"reactionname": reaction, "snomedcode": code, "severity": severity}],
            });
            self.charts[number].allergies.push(allergy);
        }
        json!({"nkda": false, "allergies": self.charts[number].allergies})
    }

    fn encounter(&mut self, number: usize) -> Value {
        let (id, day) = (self.id(number), self.day());
        json!({"encounterid": id, "encounterdate": day, "encountertype": "VISIT", "encountervisitname": "Follow-up", "status": "CLOSED",
               "providerid": 40 + number % 7, "departmentid": 1, "diagnoses": []})
    }

    fn document(&mut self, number: usize) -> Value {
        let (id, day) = (self.id(number), self.day());
        json!({"documentid": id, "documentclass": "CLINICALDOCUMENT", "documentsubclass": "PROGRESSNOTE", "title": "Progress note",
               "documentdate": day, "text": "Seen for follow-up. No new complaints; plan unchanged. ".repeat(12)})
    }

    fn immunization(&mut self, number: usize) -> Value {
        let (id, day) = (self.id(number), self.day());
        let (cvx, name) = VACCINES.choose(&mut self.random).copied().unwrap_or_default();
        json!({"vaccineid": id.to_string(), "description": name, "cvx": cvx, "administerdate": day, "status": "ADMINISTERED"})
    }

    fn procedure(&mut self, number: usize) -> Value {
        let (id, day) = (self.id(number), self.day());
        let (code, name) = PROCEDURES.choose(&mut self.random).copied().unwrap_or_default();
        json!({"procedureid": id, "procedurecode": code, "description": name, "proceduredate": day})
    }

    /// With the keys in any order, and white space as it comes.
    fn written(&mut self, value: &Value) -> Vec<u8> {
        let mut out = String::new();
        self.write(value, &mut out);
        out.into_bytes()
    }

    fn write(&mut self, value: &Value, out: &mut String) {
        let space = if self.random.random_bool(0.05) { " " } else { "" };
        match value {
            Value::Object(members) => {
                let mut members: Vec<(&String, &Value)> = members.iter().collect();
                members.shuffle(&mut self.random);
                out.push('{');
                for (index, (key, value)) in members.into_iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    let _ = write!(out, "{comma}{space}{}:", json!(key));
                    self.write(value, out);
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { space } else { "," });
                    self.write(item, out);
                }
                out.push(']');
            }
            scalar => {
                let _ = write!(out, "{scalar}");
            }
        }
    }
}

impl Iterator for Traffic {
    type Item = Post;

    fn next(&mut self) -> Option<Post> {
        Some(self.post())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::athena::event::{self, Event};
    use crate::ingest::athena::read::{self, Context};
    use crate::ingest::fhir::issue::Severity;
    use std::collections::{BTreeMap, HashMap};

    #[test]
    fn traffic_is_repeatable_accepted_and_without_errors() {
        let bodies = |seed| Traffic::new(seed, 20).take(2_000).map(|post| post.body).collect::<Vec<_>>();
        assert!(bodies(3) == bodies(3) && bodies(3) != bodies(4));
        let context = Context { received_at: datetime!(2026-11-01 0:00 UTC), time_zone: "UTC".to_owned() };
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        let mut bytes = 0;
        for body in bodies(3) {
            let event = Event::of(event::open(&body).unwrap()).unwrap();
            *kinds.entry(event.kind.as_str()).or_default() += 1;
            bytes += body.len();
            let reading = read::read(&event, &context);
            let worst = reading.report.issues.iter().map(|issue| issue.severity).min();
            assert!(
                worst.is_none_or(|worst| worst > Severity::Error),
                "{}: {:?}",
                event.kind.as_str(),
                reading.report.issues
            );
            assert!(!reading.parts.is_empty(), "{}", event.kind.as_str());
        }
        assert_eq!(kinds.len(), 10, "{kinds:?}");
        assert!((800..3_000).contains(&(bytes / 2_000)), "{} bytes an event", bytes / 2_000);
    }

    #[test]
    fn repetitions_are_repetitions_and_everything_else_is_not() {
        let mut seen: HashMap<[u8; 32], Vec<Option<String>>> = HashMap::new();
        for post in Traffic::new(5, 50).take(4_000) {
            let event = Event::of(event::open(&post.body).unwrap()).unwrap();
            let (key, captured) = (event.idempotency_key().unwrap(), event.captured.key());
            let times = seen.entry(key).or_default();
            // A list that did not change is a repetition, too, seen at another time.
            if post.is_repetition {
                assert!(!times.is_empty());
                assert_eq!(times.contains(&captured), !post.is_sighting);
            }
            times.push(captured);
        }
    }
}
