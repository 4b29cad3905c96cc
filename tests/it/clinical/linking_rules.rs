//! Every rule of docs/linking.md, on a real database: messages in, links out.

mod contradictions;

use super::{Clinic, bundle, condition};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `system|value` of type MR, or with a leading code: `SS:system|value`.
fn identifier(text: &str) -> Value {
    let (code, number) = text.split_once(':').filter(|(code, _)| code.len() <= 3).unwrap_or(("MR", text));
    let (system, value) = number.split_once('|').unwrap();
    let kind = json!({"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": code}]});
    let mut made = json!({"system": system, "value": value});
    if code != "-" {
        made["type"] = kind;
    }
    made
}

/// A Patient; `who` is `Family Given birth-date`.
pub fn person(id: &str, numbers: &[&str], who: &str) -> Value {
    let words: Vec<&str> = who.split(' ').collect();
    let mut made = json!({"resourceType": "Patient"});
    if !id.is_empty() {
        made["id"] = json!(id);
    }
    if !numbers.is_empty() {
        made["identifier"] = numbers.iter().map(|number| identifier(number)).collect();
    }
    if let [family, given, birth_date] = words.as_slice() {
        made["name"] = json!([{"family": family, "given": [given]}]);
        made["birthDate"] = json!(birth_date);
    }
    made
}

pub fn with(mut resource: Value, mut more: Value) -> Value {
    resource.as_object_mut().unwrap().append(more.as_object_mut().unwrap());
    resource
}

/// A Condition about `subject`: a reference, or `system|value`, or both with a space between.
pub fn about(id: &str, subject: &str) -> Value {
    let mut made = json!({});
    for part in subject.split(' ') {
        match part.strip_prefix("id:") {
            Some(number) => made["identifier"] = identifier(&format!("-:{number}")),
            None => made["reference"] = json!(part),
        }
    }
    with(condition(id, "x"), json!({ "subject": made }))
}

/// `Type/id` → whose: `pending`, `review`, `none`, or a letter for each patient in order of the resources' names.
pub async fn whose(clinic: &Clinic) -> BTreeMap<String, String> {
    let rows: Vec<(String, String, Option<uuid::Uuid>)> = clinic
        .unit(|connection| {
            Box::pin(async move {
                let sql = "select source_label || ' ' || resource_type || '/' || resource_key || ' ' || left(encode(content_sha256, 'hex'), 6),
                                  link_status, patient_id
                           from clinical_events order by 1";
                Ok(sqlx::query_as(sql).fetch_all(connection).await?)
            })
        })
        .await;
    let mut letters = BTreeMap::new();
    rows.into_iter()
        .map(|(name, status, patient)| {
            assert_eq!(status == "linked", patient.is_some(), "{name}");
            let whose = patient.map_or(status, |patient| {
                let next = char::from(b'A' + u8::try_from(letters.len()).unwrap());
                letters.entry(patient).or_insert(next).to_string()
            });
            (name, whose)
        })
        .collect()
}

/// As [`whose`], without source and hash: for messages whose names say enough.
async fn outcome(clinic: &Clinic) -> String {
    let found = whose(clinic).await;
    let short = |name: &str| name.split(' ').nth(1).unwrap().replace("Patient/", "").replace("Condition/", "");
    found.iter().map(|(name, whose)| format!("{}={whose}", short(name))).collect::<Vec<_>>().join(" ")
}

async fn reasons(clinic: &Clinic) -> String {
    let rows: Vec<String> = clinic
        .unit(|connection| {
            Box::pin(async move {
                let sql = "select reason from reviews where status = 'open' order by 1";
                Ok(sqlx::query_scalar(sql).fetch_all(connection).await?)
            })
        })
        .await;
    rows.join(" ")
}

const AMY: &str = "Shaw Amy 1987-02-20";

/// Name, messages (each a Bundle; `lab>` before a source), links, open reviews.
type Rule = (&'static str, Vec<(&'static str, Vec<Value>)>, &'static str, &'static str);

fn identifier_rules() -> Vec<Rule> {
    let one = |resources: Vec<Value>| vec![("ehr", resources)];
    vec![
        (
            "same number, two sources",
            vec![("ehr", vec![person("a", &["h|1"], AMY)]), ("lab", vec![person("b", &["h|1"], AMY)])],
            "a=A b=A",
            "",
        ),
        (
            "same value, another system",
            one(vec![person("a", &["h|1"], AMY), person("b", &["g|1"], "Bell Bo 1950-01-01")]),
            "a=A b=B",
            "",
        ),
        (
            "leading zeros are significant",
            one(vec![person("a", &["h|0042"], AMY), person("b", &["h|42"], AMY)]),
            "a=A b=B",
            "",
        ),
        ("case is significant", one(vec![person("a", &["h|x1"], AMY), person("b", &["h|X1"], AMY)]), "a=A b=B", ""),
        (
            "in a configured system neither case nor hyphens are",
            one(vec![person("a", &["f|x-1"], AMY), person("b", &["f|X 1"], AMY)]),
            "a=A b=A",
            "",
        ),
        (
            "a configured system needs no type",
            one(vec![person("a", &["-:u|1"], AMY), person("b", &["u|1"], AMY)]),
            "a=A b=A",
            "",
        ),
        (
            "another system without a type is no MRN",
            one(vec![person("a", &["-:h|1"], AMY), person("b", &["-:h|1"], AMY)]),
            "a=A b=B",
            "",
        ),
        (
            "SSN, account, visit, license, passport are no MRNs",
            one(vec![
                person("a", &["SS:h|1", "AN:h|2", "VN:h|3", "DL:h|4", "PPN:h|5"], AMY),
                person("b", &["SS:h|1", "AN:h|2", "VN:h|3", "DL:h|4", "PPN:h|5"], AMY),
            ]),
            "a=A b=B",
            "",
        ),
        (
            "placeholders are nobody's",
            one(vec![
                person("a", &["h|000"], AMY),
                person("b", &["h|000"], AMY),
                person("c", &["h|UNKNOWN"], AMY),
                person("d", &["h|UNKNOWN"], AMY),
            ]),
            "a=A b=B c=C d=D",
            "",
        ),
        (
            "nor are those of the organization",
            one(vec![person("a", &["h|123456"], AMY), person("b", &["h|123456"], AMY)]),
            "a=A b=B",
            "",
        ),
        (
            "retired numbers join nobody",
            one(vec![
                person("a", &["h|1"], AMY),
                with(person("b", &[], AMY), json!({"identifier": [with(identifier("h|1"), json!({"use": "old"}))]})),
                with(
                    person("c", &[], AMY),
                    json!({"identifier": [with(identifier("h|1"), json!({"period": {"end": "2001"}}))]}),
                ),
            ]),
            "a=A b=B c=C",
            "",
        ),
        (
            "a temporary number joins no patients",
            one(vec![person("a", &["MRT:h|t1"], AMY), person("b", &["MRT:h|t1"], AMY)]),
            "a=A b=B",
            "",
        ),
        (
            "a temporary number finds its patient within the source",
            vec![
                ("ehr", vec![with(about("c", "x"), json!({"subject": {"identifier": identifier("MRT:h|t1")}}))]),
                ("lab", vec![with(about("d", "x"), json!({"subject": {"identifier": identifier("MRT:h|t1")}}))]),
                ("ehr", vec![person("a", &["MRT:h|t1"], AMY)]),
            ],
            "c=A a=A d=pending",
            "",
        ),
    ]
}

fn subject_rules() -> Vec<Rule> {
    let one = |resources: Vec<Value>| vec![("ehr", resources)];
    let contained = json!([{"resourceType": "Patient", "id": "x", "identifier": [identifier("h|1")]}]);
    vec![
        ("in the Bundle by fullUrl", one(vec![person("a", &["h|1"], AMY), about("c", "urn:uuid:a")]), "c=A a=A", ""),
        ("in the Bundle by type and id", one(vec![about("c", "Patient/a"), person("a", &["h|1"], AMY)]), "c=A a=A", ""),
        (
            "the id within the source",
            vec![
                ("ehr", vec![person("a", &["h|1"], AMY)]),
                ("ehr", vec![about("c", "Patient/a")]),
                ("lab", vec![about("d", "Patient/a")]),
            ],
            "c=A a=A d=pending",
            "",
        ),
        (
            "by number across sources",
            vec![("ehr", vec![person("a", &["h|1"], AMY)]), ("lab", vec![about("d", "id:h|1")])],
            "a=A d=A",
            "",
        ),
        (
            "by number, before the patient",
            vec![("lab", vec![about("d", "id:h|1")]), ("ehr", vec![person("a", &["h|1"], AMY)])],
            "a=A d=A",
            "",
        ),
        (
            "a contained patient's number",
            vec![
                ("ehr", vec![person("a", &["h|1"], AMY)]),
                ("lab", vec![with(about("d", "#x"), json!({ "contained": contained }))]),
            ],
            "a=A d=A",
            "",
        ),
        ("nobody yet", one(vec![about("c", "Patient/a"), about("d", "id:h|1")]), "c=pending d=pending", ""),
        (
            "number and reference agree",
            vec![("ehr", vec![person("a", &["h|1"], AMY)]), ("ehr", vec![about("c", "Patient/a id:h|1")])],
            "c=A a=A",
            "",
        ),
        (
            "number and reference disagree, one question for all",
            vec![
                ("ehr", vec![person("a", &["h|1"], AMY), person("b", &["h|2"], AMY)]),
                ("ehr", vec![about("c", "Patient/a id:h|2"), about("d", "Patient/a id:h|2")]),
            ],
            "c=review d=review a=A b=B",
            "several_patients",
        ),
        (
            "and also when the second is known later",
            vec![
                ("ehr", vec![about("c", "Patient/a id:h|2")]),
                ("ehr", vec![person("b", &["h|2"], AMY)]),
                ("ehr", vec![person("a", &["h|1"], AMY)]),
            ],
            "c=review a=A b=B",
            "several_patients",
        ),
        (
            "display says nothing",
            one(vec![person("a", &["h|1"], AMY), with(about("c", "x"), json!({"subject": {"display": "Amy Shaw"}}))]),
            "c=none a=A",
            "",
        ),
    ]
}

#[tokio::test]
async fn every_rule_gives_its_links_and_its_questions() {
    let settings = json!({"mrn_systems": ["u"], "mrn_folded_systems": ["f"], "mrn_placeholders": ["123456"]});
    let mut faults = Vec::new();
    for (name, messages, links, questions) in [
        identifier_rules(),
        subject_rules(),
        contradictions::several_sayings_rules(),
        contradictions::contradiction_rules(),
    ]
    .into_iter()
    .flatten()
    {
        let clinic = Clinic::with_settings(settings.clone()).await;
        for (source, resources) in messages {
            let accepted = clinic.accept(bundle("batch", &resources).to_string().as_bytes(), source).await;
            clinic.step(accepted, "link_patient", toml::Table::new()).await.unwrap();
        }
        // Resources without an id are named by their bytes.
        let found: Vec<String> =
            outcome(&clinic)
                .await
                .split(' ')
                .map(|word| {
                    if word.starts_with('#') {
                        format!("={}", word.split('=').nth(1).unwrap())
                    } else {
                        word.to_owned()
                    }
                })
                .collect();
        let asked = reasons(&clinic).await;
        if (found.join(" ").as_str(), asked.as_str()) != (links, questions) {
            faults.push(format!("{name}: {} [{asked}], expected {links} [{questions}]", found.join(" ")));
        }
        // Every status is in the history, and the last row of it is the present one.
        let strays = clinic
            .count(
                "select count(*) from clinical_events e
                 left join lateral (select status, patient_id from patient_links l where l.event_id = e.id order by l.id desc limit 1) l on true
                 where (l.status, l.patient_id) is distinct from (e.link_status, e.patient_id) and e.link_status <> 'none'",
            )
            .await;
        assert_eq!(strays, 0, "{name}");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn candidates_are_scored_without_values() {
    let clinic = Clinic::open().await;
    clinic.ingest(&bundle("batch", &[person("a", &["h|1"], "Schmidt Anna 1987-02-20")])).await;
    clinic.ingest(&bundle("batch", &[person("b", &["h|1"], "Schmitt Anna 1987-02-21")])).await;
    let candidates: Value = clinic
        .unit(|connection| {
            Box::pin(
                async move { Ok(sqlx::query_scalar("select candidates from reviews").fetch_one(connection).await?) },
            )
        })
        .await;
    let text = candidates.to_string();
    assert!(!text.contains("1987") && !text.to_lowercase().contains("schmi"), "{text}");
    let reasons: Vec<(&str, &str)> = candidates[0]["reasons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|reason| (reason["field"].as_str().unwrap(), reason["agreement"].as_str().unwrap()))
        .collect();
    assert_eq!(reasons, [("mrn", "agrees"), ("birthDate", "near"), ("family", "near"), ("given", "agrees")]);
    assert_eq!((&candidates[0]["grade"], candidates.as_array().unwrap().len()), (&json!("probable"), 1));
}
