//! What a payload can make the validator do is bounded, whatever it multiplies.

use super::*;

/// Each took time by the square of its size before it was bounded: minutes at these sizes.
#[test]
fn what_multiplies_itself_is_bounded() {
    // The same key, each time with other letters escaped.
    let spelling = |n: usize| -> String {
        let escaped = |(at, letter): (usize, char)| match n >> at & 1 {
            1 => format!("\\u{:04x}", u32::from(letter)),
            _ => letter.to_string(),
        };
        "valueCodeableConcept".chars().enumerate().map(escaped).collect()
    };
    let choices: Vec<String> = (0..20_000).map(|n| format!(r#", "{}": {{"text": "x"}}"#, spelling(n))).collect();
    let choices = choices.concat();
    let text = format!(r#"{{"resourceType": "Parameters", "parameter": [{{"name": "a"{choices}}}]}}"#);
    assert_eq!(resource(text.as_bytes(), None).total, 19_999);

    let coding = |n: usize| json!({"system": "http://s", "code": format!("c{n}")});
    let options: Vec<Value> = (0..8_000).map(|n| json!({"valueCoding": coding(n)})).collect();
    let answers: Vec<Value> = (0..8_000).map(|_| json!({"valueCoding": coding(7_999)})).collect();
    let form = json!({"resourceType": "Questionnaire", "url": "http://q", "status": "active",
        "item": [{"linkId": "1", "type": "choice", "repeats": true, "answerOption": options}]});
    let response = json!({"resourceType": "QuestionnaireResponse", "questionnaire": "http://q", "status": "completed",
        "item": [{"linkId": "1", "answer": answers}]});
    let body =
        json!({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": form}, {"resource": response}]});
    assert_eq!(issues(&body), []);

    let version = "1.".repeat(60_000) + "1";
    let form = json!({"resourceType": "Questionnaire", "url": "http://q", "version": version, "status": "active"});
    let response = json!({"resourceType": "QuestionnaireResponse", "questionnaire": "http://q", "status": "completed"});
    let mut entries = vec![json!({"resource": form})];
    entries.extend(vec![json!({"resource": response}); 2_000]);
    assert_eq!(issues(&json!({"resourceType": "Bundle", "type": "collection", "entry": entries})), []);

    let nested = r#"{"url": "http://x", "extension": ["#.repeat(40);
    let member = r#"{"url": "http://x", "valueReference": {"reference": "\u0023a"}}"#;
    let many = vec![member; 20_000].join(",");
    let text = format!(r#"{{"resourceType": "Patient", "extension": [{nested}{many}{}]}}"#, "]}".repeat(40));
    assert_eq!(resource(text.as_bytes(), None).total, 20_000);
}

mod properties {
    use super::*;
    use crate::ingest::fhir::sample;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// A broken Bundle gives issues, in its own order, each leading somewhere.
        #[test]
        fn no_mutation_panics_and_every_pointer_leads_somewhere(
            seed in 0u64..8, at in 0usize..10_000, with in "[\\[\\]{}\",:0-9a-z\\\\ ]{0,4}", cut in 0usize..6
        ) {
            let mut body = sample::bundle(seed, 1, sample::Size::Small);
            let at = at % body.len();
            let end = (at + cut).min(body.len());
            body.splice(at..end, with.bytes());
            let report = report(&body);
            let value: Option<Value> = serde_json::from_slice(&body).ok();
            prop_assert!(value.is_some() || report.unusable);
            for issue in &report.issues {
                prop_assert!(issue.byte_offset.is_none_or(|offset| offset <= body.len() as u64));
                if let (Some(value), Some(pointer)) = (&value, &issue.pointer) {
                    // What is missing has a parent that is there.
                    let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
                    prop_assert!(value.pointer(pointer).or_else(|| value.pointer(parent)).is_some(), "{pointer}");
                }
            }
            prop_assert!(report.issues.is_sorted_by_key(|issue| issue.byte_offset));
        }
    }
}
