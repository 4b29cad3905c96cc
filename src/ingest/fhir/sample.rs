//! Synthetic Bundles from a seed: people who do not exist, for `demo`, the benchmarks and the tests.
//!
//! The same seed, patients and size give the same bytes. Every Bundle is valid, and every medical record number is its
//! own to the seed, so that two seeds never speak of the same patient.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use std::collections::HashMap;

/// The system of the medical record numbers.
pub const MRN_SYSTEM: &str = "urn:chartgate:sample:mrn";

/// How much is said of each patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A patient, a vital sign and a laboratory result: about 2 KB.
    Small,
    /// A history with every kind of resource that findings are taken from: about 40 KB.
    Full,
}

const FAMILIES: [&str; 10] =
    ["Abend", "Birnbaum", "Castellan", "Dornfeld", "Esker", "Fairweather", "Gruner", "Hollis", "Ivanek", "Jorstad"];
const GIVENS: [&str; 10] = ["Ada", "Bela", "Cleo", "Dario", "Edda", "Femi", "Greta", "Hugo", "Ines", "Jonas"];

/// LOINC code, name, UCUM unit, low and high of the values drawn, decimals.
type Measure = (&'static str, &'static str, &'static str, u32, u32, usize);

const VITALS: [Measure; 6] = [
    ("8867-4", "Heart rate", "/min", 52, 104, 0),
    ("9279-1", "Respiratory rate", "/min", 12, 22, 0),
    ("8310-5", "Body temperature", "Cel", 36, 39, 1),
    ("29463-7", "Body weight", "kg", 48, 118, 1),
    ("8302-2", "Body height", "cm", 150, 198, 1),
    ("2708-6", "Oxygen saturation", "%", 91, 100, 0),
];

/// As [`Measure`], then the reference range.
const LABS: [(Measure, &str, &str); 6] = [
    (("2345-7", "Glucose", "mg/dL", 60, 180, 0), "70", "99"),
    (("718-7", "Hemoglobin", "g/dL", 9, 18, 1), "12.0", "16.0"),
    (("2160-0", "Creatinine", "mg/dL", 0, 3, 2), "0.60", "1.20"),
    (("2823-3", "Potassium", "mmol/L", 3, 6, 1), "3.5", "5.1"),
    (("2093-3", "Total cholesterol", "mg/dL", 130, 290, 0), "125", "200"),
    (("4548-4", "Hemoglobin A1c", "%", 4, 11, 1), "4.0", "5.6"),
];

const CONDITIONS: [(&str, &str); 5] = [
    ("44054006", "Diabetes mellitus type 2"),
    ("38341003", "Hypertensive disorder"),
    ("195967001", "Asthma"),
    ("55822004", "Hyperlipidemia"),
    ("13645005", "Chronic obstructive lung disease"),
];
const MEDICATIONS: [(&str, &str, &str); 4] = [
    ("860975", "Metformin hydrochloride 500 MG Oral Tablet", "1 tablet twice a day"),
    ("314076", "Lisinopril 10 MG Oral Tablet", "1 tablet once a day"),
    ("617311", "Atorvastatin 40 MG Oral Tablet", "1 tablet at bedtime"),
    ("245314", "Albuterol 5 MG/ML Inhalation Solution", "as needed"),
];
const ALLERGIES: [(&str, &str); 3] =
    [("91936005", "Allergy to penicillin"), ("91935009", "Allergy to peanut"), ("300916003", "Latex allergy")];
const VACCINES: [(&str, &str); 3] = [
    ("140", "Influenza, seasonal, injectable, preservative free"),
    ("113", "Td (adult)"),
    ("33", "Pneumococcal polysaccharide"),
];
const PROCEDURES: [(&str, &str); 3] = [
    ("73761001", "Colonoscopy"),
    ("268400002", "12 lead electrocardiogram"),
    ("430193006", "Medication reconciliation"),
];

/// A transaction Bundle of `patients` patients.
#[must_use]
pub fn bundle(seed: u64, patients: usize, size: Size) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut entries = Vec::new();
    for number in 0..patients {
        Person::new(&mut random, seed, number).write(&mut random, size, &mut entries);
    }
    json!({"resourceType": "Bundle", "type": "transaction", "entry": entries}).to_string().into_bytes()
}

/// The resources of such a Bundle as lines of NDJSON, referring to each other as `Type/id`.
#[must_use]
pub fn lines(seed: u64, patients: usize, size: Size) -> Vec<String> {
    let bundle: Value = serde_json::from_slice(&bundle(seed, patients, size)).unwrap_or_default();
    let resources: Vec<&Value> =
        bundle["entry"].as_array().into_iter().flatten().map(|entry| &entry["resource"]).collect();
    let name = |resource: &Value, member: &str| resource[member].as_str().unwrap_or_default().to_owned();
    let types: HashMap<String, String> =
        resources.iter().map(|resource| (name(resource, "id"), name(resource, "resourceType"))).collect();
    let line = |resource: &&Value| {
        let text = resource.to_string();
        let mut parts = text.split("urn:uuid:");
        let mut line = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let id = part.split('"').next().unwrap_or_default();
            line.push_str(types.get(id).map_or("", String::as_str));
            line.push('/');
            line.push_str(part);
        }
        line.push('\n');
        line
    };
    resources.iter().map(line).collect()
}

/// The medical record number of a Bundle's n-th patient.
#[must_use]
pub fn mrn(seed: u64, number: usize) -> String {
    format!("{seed:010}-{number:03}")
}

struct Person {
    reference: Value,
    entry: Value,
}

impl Person {
    fn new(random: &mut StdRng, seed: u64, number: usize) -> Self {
        let id = identifier(random);
        let family = FAMILIES.choose(random).unwrap_or(&FAMILIES[0]);
        let given = GIVENS.choose(random).unwrap_or(&GIVENS[0]);
        let gender = if random.random_bool(0.5) { "female" } else { "male" };
        let ssn = format!("999-{:02}-{:04}", random.random_range(10..99), random.random_range(1000..9999));
        let resource = json!({
            "resourceType": "Patient",
            "id": id,
            "identifier": [
                {"type": v2("MR"), "system": MRN_SYSTEM, "value": mrn(seed, number)},
                {"type": v2("SS"), "system": "http://hl7.org/fhir/sid/us-ssn", "value": ssn},
            ],
            "name": [{"use": "official", "family": family, "given": [given]}],
            "gender": gender,
            "birthDate": date(random, 1935, 2005),
            "address": [{"city": "Sampletown", "country": "US"}],
        });
        let entry = entry(&id, "Patient", &resource);
        Self { reference: json!({"reference": format!("urn:uuid:{id}")}), entry }
    }

    fn write(self, random: &mut StdRng, size: Size, entries: &mut Vec<Value>) {
        let Self { reference, entry } = self;
        entries.push(entry);
        let mut writer = Writer { subject: reference, encounter: Value::Null, entries };
        if size == Size::Small {
            writer.vital(random, "2026-01-15");
            writer.lab(random, "2026-01-15");
            return;
        }
        for _ in 0..4 {
            let day = date(random, 2015, 2025);
            writer.encounter(random, &day);
            writer.blood_pressure(random, &day);
            for _ in 0..4 {
                writer.vital(random, &day);
            }
            writer.report(random, &day);
            writer.procedure(random, &day);
        }
        writer.condition(random);
        writer.condition(random);
        writer.medication(random);
        writer.medication(random);
        writer.allergy(random);
        writer.immunization(random);
        writer.immunization(random);
    }
}

struct Writer<'e> {
    subject: Value,
    encounter: Value,
    entries: &'e mut Vec<Value>,
}

impl Writer<'_> {
    /// Add a resource of this patient (and of the present encounter), and say how it is referred to.
    fn add(&mut self, random: &mut StdRng, resource_type: &str, subject: &str, mut resource: Value) -> Value {
        let id = identifier(random);
        resource["resourceType"] = json!(resource_type);
        resource["id"] = json!(id);
        resource[subject] = self.subject.clone();
        if !self.encounter.is_null() && resource_type != "Encounter" {
            resource["encounter"] = self.encounter.clone();
        }
        self.entries.push(entry(&id, resource_type, &resource));
        json!({"reference": format!("urn:uuid:{id}")})
    }

    fn encounter(&mut self, random: &mut StdRng, day: &str) {
        let class = json!({"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"});
        let period = json!({"start": format!("{day}T09:00:00Z"), "end": format!("{day}T09:30:00Z")});
        let kind = concept("http://snomed.info/sct", "185349003", "Encounter for check up");
        let resource = json!({"status": "finished", "class": class, "type": [kind], "period": period});
        self.encounter = self.add(random, "Encounter", "subject", resource);
    }

    fn vital(&mut self, random: &mut StdRng, day: &str) {
        let (code, name, unit, low, high, decimals) = *VITALS.choose(random).unwrap_or(&VITALS[0]);
        let mut resource = observation("vital-signs", code, name, day);
        resource["valueQuantity"] = quantity(&value(random, low, high, decimals), unit);
        self.add(random, "Observation", "subject", resource);
    }

    fn lab(&mut self, random: &mut StdRng, day: &str) -> Value {
        let ((code, name, unit, low, high, decimals), range_low, range_high) = *LABS.choose(random).unwrap_or(&LABS[0]);
        let mut resource = observation("laboratory", code, name, day);
        resource["valueQuantity"] = quantity(&value(random, low, high, decimals), unit);
        resource["referenceRange"] = json!([{"low": quantity(range_low, unit), "high": quantity(range_high, unit)}]);
        self.add(random, "Observation", "subject", resource)
    }

    fn blood_pressure(&mut self, random: &mut StdRng, day: &str) {
        let mut resource = observation("vital-signs", "85354-9", "Blood pressure panel", day);
        let systolic = value(random, 98, 168, 0);
        let diastolic = value(random, 58, 104, 0);
        let component = |code: &str, name: &str, value: &str| json!({"code": concept("http://loinc.org", code, name), "valueQuantity": quantity(value, "mm[Hg]")});
        resource["component"] = json!([
            component("8480-6", "Systolic blood pressure", &systolic),
            component("8462-4", "Diastolic blood pressure", &diastolic),
        ]);
        self.add(random, "Observation", "subject", resource);
    }

    fn report(&mut self, random: &mut StdRng, day: &str) {
        let results: Vec<Value> = (0..3).map(|_| self.lab(random, day)).collect();
        let resource = json!({
            "status": "final",
            "category": [concept("http://terminology.hl7.org/CodeSystem/v2-0074", "LAB", "Laboratory")],
            "code": concept("http://loinc.org", "24323-8", "Comprehensive metabolic panel"),
            "effectiveDateTime": format!("{day}T09:10:00Z"),
            "issued": format!("{day}T16:00:00Z"),
            "result": results,
        });
        self.add(random, "DiagnosticReport", "subject", resource);
    }

    fn procedure(&mut self, random: &mut StdRng, day: &str) {
        let (code, name) = *PROCEDURES.choose(random).unwrap_or(&PROCEDURES[0]);
        let period = json!({"start": format!("{day}T09:15:00Z"), "end": format!("{day}T09:25:00Z")});
        let code = concept("http://snomed.info/sct", code, name);
        self.add(
            random,
            "Procedure",
            "subject",
            json!({"status": "completed", "code": code, "performedPeriod": period}),
        );
    }

    fn condition(&mut self, random: &mut StdRng) {
        let (code, name) = *CONDITIONS.choose(random).unwrap_or(&CONDITIONS[0]);
        let clinical = "http://terminology.hl7.org/CodeSystem/condition-clinical";
        let verification = "http://terminology.hl7.org/CodeSystem/condition-ver-status";
        let resource = json!({
            "clinicalStatus": {"coding": [{"system": clinical, "code": "active"}]},
            "verificationStatus": {"coding": [{"system": verification, "code": "confirmed"}]},
            "code": concept("http://snomed.info/sct", code, name),
            "onsetDateTime": date(random, 2005, 2020),
        });
        self.add(random, "Condition", "subject", resource);
    }

    fn medication(&mut self, random: &mut StdRng) {
        let (code, name, sig) = *MEDICATIONS.choose(random).unwrap_or(&MEDICATIONS[0]);
        let resource = json!({
            "status": "active",
            "intent": "order",
            "medicationCodeableConcept": concept("http://www.nlm.nih.gov/research/umls/rxnorm", code, name),
            "authoredOn": date(random, 2018, 2025),
            "dosageInstruction": [{"text": sig}],
        });
        self.add(random, "MedicationRequest", "subject", resource);
    }

    fn allergy(&mut self, random: &mut StdRng) {
        let (code, name) = *ALLERGIES.choose(random).unwrap_or(&ALLERGIES[0]);
        let clinical = "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical";
        let hives = concept("http://snomed.info/sct", "247472004", "Wheal");
        let resource = json!({
            "clinicalStatus": {"coding": [{"system": clinical, "code": "active"}]},
            "code": concept("http://snomed.info/sct", code, name),
            "criticality": "high",
            "recordedDate": date(random, 2005, 2020),
            "reaction": [{"manifestation": [hives], "severity": "moderate"}],
        });
        self.add(random, "AllergyIntolerance", "patient", resource);
    }

    fn immunization(&mut self, random: &mut StdRng) {
        let (code, name) = *VACCINES.choose(random).unwrap_or(&VACCINES[0]);
        let resource = json!({
            "status": "completed",
            "vaccineCode": concept("http://hl7.org/fhir/sid/cvx", code, name),
            "occurrenceDateTime": date(random, 2012, 2025),
        });
        self.add(random, "Immunization", "patient", resource);
    }
}

fn entry(id: &str, resource_type: &str, resource: &Value) -> Value {
    json!({
        "fullUrl": format!("urn:uuid:{id}"),
        "resource": resource,
        "request": {"method": "POST", "url": resource_type},
    })
}

fn observation(category: &str, code: &str, name: &str, day: &str) -> Value {
    let system = "http://terminology.hl7.org/CodeSystem/observation-category";
    json!({
        "status": "final",
        "category": [{"coding": [{"system": system, "code": category}]}],
        "code": concept("http://loinc.org", code, name),
        "effectiveDateTime": format!("{day}T09:10:00Z"),
        "issued": format!("{day}T16:00:00Z"),
    })
}

fn concept(system: &str, code: &str, display: &str) -> Value {
    json!({"coding": [{"system": system, "code": code, "display": display}], "text": display})
}

fn v2(code: &str) -> Value {
    json!({"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": code}]})
}

/// A quantity whose decimal keeps its text as far as a JSON number can say it.
fn quantity(value: &str, unit: &str) -> Value {
    let number: Value = serde_json::from_str(value).unwrap_or(Value::Null);
    json!({"value": number, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit})
}

fn value(random: &mut StdRng, low: u32, high: u32, decimals: usize) -> String {
    format!("{:.decimals$}", random.random_range(f64::from(low)..f64::from(high)))
}

fn date(random: &mut StdRng, from: u16, to: u16) -> String {
    format!("{}-{:02}-{:02}", random.random_range(from..=to), random.random_range(1..=12), random.random_range(1..=28))
}

fn identifier(random: &mut StdRng) -> String {
    uuid::Builder::from_random_bytes(random.random()).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::fhir::validate;

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_another_patient() {
        assert_eq!(bundle(7, 2, Size::Full), bundle(7, 2, Size::Full));
        assert_ne!(bundle(7, 1, Size::Small), bundle(8, 1, Size::Small));
        assert_ne!(mrn(7, 0), mrn(8, 0));
    }

    #[test]
    fn sizes_are_as_promised() {
        let small = bundle(1, 1, Size::Small).len();
        let full = bundle(1, 1, Size::Full).len();
        assert!((1_500..2_600).contains(&small), "{small}");
        assert!((25_000..60_000).contains(&full), "{full}");
    }

    #[test]
    fn every_sample_is_valid() {
        for seed in 0..20 {
            let issues = validate::validate_bundle(&bundle(seed, 2, Size::Full));
            assert!(issues.is_empty(), "{issues:?}");
        }
    }
}
