//! Canaries: people who do not exist, of whom every value is unique and easy to find again.
//!
//! Letters begin with [`LETTERS`], whose characters (i, l, o, u) stand neither in hexadecimal nor in our ids; digits with
//! [`DIGITS`]; birth dates lie in [`YEAR`].

use serde_json::{Value, json};

/// How every text of a canary begins.
pub const LETTERS: &str = "Qoizulo";
/// How every number of a canary begins.
pub const DIGITS: &str = "9074185";
/// The year of all birth dates.
pub const YEAR: &str = "1883";
/// How many people there are.
pub const PEOPLE: usize = 46;

/// Somebody of whom every value is a canary.
#[derive(Clone)]
pub struct Person {
    pub family: String,
    pub given: String,
    pub resource_id: String,
    pub mrn: String,
    pub ssn: String,
    pub insurance: String,
    pub birth_date: String,
    pub phone: String,
    pub email: String,
    pub street: String,
    pub note: String,
    pub diagnosis: String,
    pub athena_id: String,
    pub file_name: String,
}

/// A number in four letters.
fn letters(number: usize) -> String {
    let digit = |power: u32| char::from(b'a' + u8::try_from(number / 26_usize.pow(power) % 26).unwrap());
    (0..4).rev().map(digit).collect()
}

impl Person {
    /// The person of that number, the same whenever it is asked for.
    pub fn new(number: usize) -> Self {
        assert!(number < 90, "numbers of two digits");
        let text = |kind: &str| format!("{LETTERS}{kind}{}", letters(number * 131 + 7));
        Self {
            // Something that JSON, URLs and UTF-16 write in several ways.
            family: text("fam") + "é",
            given: text("giv"),
            resource_id: text("res"),
            mrn: text("mrn").to_uppercase(),
            ssn: format!("{}-{}-{}{:02}", &DIGITS[..3], &DIGITS[3..5], &DIGITS[5..], number),
            insurance: format!("{DIGITS}1{number:03}"),
            birth_date: format!("{YEAR}-{:02}-{:02}", number % 12 + 1, number / 12 + 1),
            phone: format!("{DIGITS}2{number:03}"),
            email: text("mail") + "@example.org",
            street: text("str") + " Street \"12\"/b",
            note: text("note") + " says: chest pain\n<since> Tuesday",
            diagnosis: text("diag") + " (suspected)",
            athena_id: format!("{DIGITS}3{number:03}"),
            file_name: text("file") + " scan.ndjson",
        }
    }

    /// Everybody.
    pub fn all() -> Vec<Self> {
        (0..PEOPLE).map(Self::new).collect()
    }

    /// All values.
    pub fn values(&self) -> Vec<&str> {
        let values = [&self.family, &self.given, &self.resource_id, &self.mrn, &self.ssn, &self.insurance];
        let more = [&self.birth_date, &self.phone, &self.email, &self.street, &self.note, &self.diagnosis];
        let last = [&self.athena_id, &self.file_name];
        values.into_iter().chain(more).chain(last).map(String::as_str).collect()
    }

    /// Values that stand in a valid Bundle as they are, to be found again behind it.
    pub fn in_bundles(&self) -> [&str; 8] {
        [
            &self.family,
            &self.given,
            &self.resource_id,
            &self.mrn,
            &self.ssn,
            &self.insurance,
            &self.birth_date,
            &self.phone,
        ]
    }

    /// Valid resources.
    pub fn resources(&self) -> Vec<Value> {
        let subject = json!({ "reference": format!("Patient/{}", self.resource_id), "display": self.family });
        let mrn = json!({ "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR" }] });
        vec![
            json!({
                "resourceType": "Patient", "id": self.resource_id, "gender": "female", "birthDate": self.birth_date,
                "identifier": [
                    { "type": mrn, "system": "urn:test:mrn", "value": self.mrn },
                    { "system": "http://hl7.org/fhir/sid/us-ssn", "value": self.ssn },
                    { "system": "urn:test:insurance", "value": self.insurance },
                ],
                "name": [{ "family": self.family, "given": [self.given] }],
                "telecom": [{ "system": "phone", "value": self.phone }, { "system": "email", "value": self.email }],
                "address": [{ "line": [self.street], "city": self.family }],
            }),
            json!({
                "resourceType": "Condition", "id": format!("{}-c", self.resource_id), "subject": subject,
                "code": { "text": self.diagnosis }, "note": [{ "text": self.note }],
                "clinicalStatus": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active" }] },
            }),
            json!({
                "resourceType": "Observation", "id": format!("{}-o", self.resource_id), "status": "final",
                "subject": subject, "code": { "text": self.diagnosis }, "valueString": self.note,
            }),
        ]
    }

    /// A Bundle of resources, each under its own URL.
    pub fn bundle_of(resources: &[Value]) -> Value {
        let entry = |resource: &Value| json!({ "fullUrl": format!("https://example.org/fhir/{}/{}", resource["resourceType"].as_str().unwrap_or("x"), resource["id"].as_str().unwrap_or("x")), "resource": resource });
        json!({ "resourceType": "Bundle", "type": "collection", "entry": resources.iter().map(entry).collect::<Vec<_>>() })
    }

    /// A valid Bundle.
    pub fn bundle(&self) -> Value {
        Self::bundle_of(&self.resources())
    }

    /// Bundles that are refused, or fail in `validate`, each in another way, with this person's values where it hurts.
    pub fn broken_bundles(&self) -> Vec<Vec<u8>> {
        let good = self.bundle().to_string();
        let replaced = |from: &str, to: &str| good.replace(from, to).into_bytes();
        let family = format!("\"{}\"", self.family);
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut bundle = self.bundle();
            change(&mut bundle);
            bundle.to_string().into_bytes()
        };
        let patient = "/entry/0/resource";
        let at = |bundle: &mut Value, path: &str, value: Value| *bundle.pointer_mut(path).unwrap() = value;
        let mut not_utf8 = good.clone().into_bytes();
        let inside = good.find(&self.family).unwrap() + LETTERS.len();
        not_utf8[inside] = 0xff;
        let cut = good.char_indices().map(|(index, _)| index).find(|index| *index > good.len() / 2).unwrap();
        vec![
            good.as_bytes()[..cut].to_vec(),
            not_utf8,
            replaced(&family, &format!("\"{}\\u0000\"", self.family)),
            replaced(&family, &format!("\"{}\\ud800\"", self.family)),
            replaced(&family, &format!("{} ", self.family)),
            replaced("\"collection\"", &format!("\"{}\"", self.given)),
            replaced("\"resourceType\":\"Bundle\"", &format!("\"resourceType\":\"{}\"", self.family)),
            replaced("\"gender\":", &format!("\"gender\":\"{}\",\"gender\":", self.note.replace(['\n', '"'], " "))),
            changed(&|bundle| at(bundle, &format!("{patient}/resourceType"), json!(self.family))),
            changed(&|bundle| at(bundle, &format!("{patient}/birthDate"), json!(self.note))),
            changed(&|bundle| at(bundle, &format!("{patient}/gender"), json!(self.family))),
            changed(&|bundle| at(bundle, &format!("{patient}/name"), json!(self.family))),
            changed(&|bundle| {
                at(bundle, &format!("{patient}/identifier/0/value"), json!({ self.mrn.clone(): self.ssn }));
            }),
            changed(&|bundle| at(bundle, &format!("{patient}/id"), json!(self.note))),
            changed(&|bundle| bundle["entry"][0]["resource"][&self.family] = json!(self.ssn)),
            changed(&|bundle| bundle["entry"][0][&self.given] = json!(self.ssn)),
            changed(&|bundle| bundle["entry"][0]["fullUrl"] = json!(self.note)),
            changed(&|bundle| at(bundle, "/entry/1/resource/subject/reference", json!(self.note))),
            changed(&|bundle| {
                at(bundle, "/entry/1/resource/subject/reference", json!(format!("{}/{}", self.family, self.mrn)));
            }),
            changed(&|bundle| {
                at(
                    bundle,
                    "/entry/1/resource/clinicalStatus",
                    json!({ "coding": [{ "system": self.note, "code": self.diagnosis }] }),
                );
            }),
            changed(&|bundle| at(bundle, "/entry/2/resource/status", json!(self.diagnosis))),
            changed(&|bundle| {
                bundle["entry"][2]["resource"]["valueQuantity"] = json!({ "value": self.ssn, "unit": self.note });
            }),
            changed(&|bundle| {
                bundle["entry"][2]["resource"]["effectiveDateTime"] = json!(format!("{}T99:00", self.birth_date));
            }),
            changed(
                &|bundle| bundle["entry"][2]["resource"]["text"] = json!({ "status": "generated", "div": format!("<div xmlns=\"http://www.w3.org/1999/xhtml\"><{0} {0}=\"{0}\">{1}</{0}>&{0};</div>", self.given, self.ssn) }),
            ),
            changed(&|bundle| {
                bundle["entry"][2]["resource"]["extension"] = json!([{ "url": self.note, "valueCode": self.street }]);
            }),
            [vec![b'['; 200], self.family.clone().into_bytes()].concat(),
            self.note.clone().into_bytes(),
        ]
    }

    /// An Athena event that is taken.
    pub fn event(&self, kind: &str) -> Value {
        json!({
            "athena_patient_id": self.athena_id, "event_type": kind, "event_subtype": self.diagnosis,
            "source_endpoint": format!("/chart/{}/{}", self.athena_id, self.mrn), "captured_at": self.note,
            "payload": {
                "name": self.diagnosis, "value": self.note, "firstName": self.given, "lastName": self.family,
                "dob": self.birth_date, "ssn": self.ssn, "mrn": self.mrn, "date": self.street, "status": self.family,
                "items": [{ "problem": self.diagnosis, "onset": self.birth_date, self.given.clone(): self.note }],
            },
        })
    }

    /// Events that are refused.
    pub fn broken_events(&self) -> Vec<Vec<u8>> {
        let good = self.event("lab").to_string();
        let mut no_patient = self.event("lab");
        no_patient["athena_patient_id"] = json!({ self.mrn.clone(): self.ssn });
        let mut long = self.event("lab");
        long["event_type"] = json!(self.note.repeat(20));
        let mut payload = self.event("lab");
        payload["payload"] = json!(self.note);
        let cut = good.char_indices().map(|(index, _)| index).find(|index| *index > good.len() / 2).unwrap();
        vec![
            no_patient.to_string().into_bytes(),
            long.to_string().into_bytes(),
            payload.to_string().into_bytes(),
            good.as_bytes()[..cut].to_vec(),
            good.replace("\"ssn\":", "\"mrn\":").into_bytes(),
            good.replace(&self.family, &format!("{}\\u0000", self.family)).into_bytes(),
        ]
    }
}
