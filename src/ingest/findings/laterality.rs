//! The side of the body, where a body site clearly states one.

use crate::ingest::fhir::node::{Kind, Object};

/// SNOMED CT qualifiers of laterality.
const SNOMED: [(&str, &str); 3] = [("7771000", "left"), ("24028007", "right"), ("51440002", "bilateral")];

/// HL7 v3-ActSite: sites whose code begins with the side.
const ACT_SITES: [(&str, &str); 14] = [
    ("LA", "left"),
    ("LACF", "left"),
    ("LAC", "left"),
    ("LD", "left"),
    ("LG", "left"),
    ("LT", "left"),
    ("LVL", "left"),
    ("RA", "right"),
    ("RACF", "right"),
    ("RAC", "right"),
    ("RD", "right"),
    ("RG", "right"),
    ("RT", "right"),
    ("RVL", "right"),
];

/// Parts of words for organs of which there is one, in halves that are named by side.
const NOT_A_SIDE: [&str; 12] = [
    "atri",
    "ventric",
    "heart",
    "cardi",
    "coronary",
    "bundle",
    "colon",
    "colic",
    "flexure",
    "lobe of liver",
    "handed",
    "of the midline",
];

/// `left`, `right` or `bilateral` of one concept or an array of concepts in a member; none where nothing is stated, or
/// where statements disagree.
pub fn of(object: &Object<'_>, member: &str) -> Option<&'static str> {
    let sites: Vec<Object<'_>> = match object.get(member) {
        Some(node) if node.kind() == Kind::Array => object.objects(member),
        Some(node) => node.object().into_iter().collect(),
        None => Vec::new(),
    };
    let mut stated = sites.iter().map(of_concept);
    let first = stated.next()??;
    stated.all(|side| side == Some(first)).then_some(first)
}

fn of_concept(concept: &Object<'_>) -> Option<&'static str> {
    let codings = concept.objects("coding");
    let coded: Vec<&str> = codings.iter().filter_map(of_coding).collect();
    let texts = codings.iter().filter_map(|coding| coding.owned("display")).chain(concept.owned("text"));
    let stated: Vec<&str> = if coded.is_empty() { texts.flat_map(|text| sides_in(&text)).collect() } else { coded };
    let first = *stated.first()?;
    let side = ["left", "right", "bilateral"].into_iter().find(|side| *side == first)?;
    stated.iter().all(|one| *one == side).then_some(side)
}

fn of_coding(coding: &Object<'_>) -> Option<&'static str> {
    let code = coding.string("code")?;
    let sides: &[(&str, &str)] = match coding.string("system")?.as_ref() {
        "http://snomed.info/sct" => &SNOMED,
        "http://terminology.hl7.org/CodeSystem/v3-ActSite" => &ACT_SITES,
        _ => return None,
    };
    sides.iter().find(|(one, _)| *one == code).map(|(_, side)| *side)
}

/// The side that a text names, if it is one and the same.
pub fn of_text(text: &str) -> Option<&'static str> {
    let stated = sides_in(text);
    let first = *stated.first()?;
    stated.iter().all(|side| *side == first).then_some(first)
}

/// The sides that a text names as words of their own.
fn sides_in(text: &str) -> Vec<&'static str> {
    let text = text.to_lowercase();
    if NOT_A_SIDE.iter().any(|part| text.contains(part)) {
        return Vec::new();
    }
    let words = text.split(|c: char| !c.is_alphanumeric());
    words.filter_map(|word| ["left", "right", "bilateral"].into_iter().find(|side| *side == word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::fhir::node::Node;
    use serde_json::{Value, json};

    fn side(body_site: &Value) -> Option<&'static str> {
        let body = json!({ "bodySite": body_site }).to_string();
        of(&Node::parse(body.as_bytes()).unwrap().object().unwrap(), "bodySite")
    }

    #[test]
    fn a_side_is_taken_from_codes_and_words() {
        let coding = |system: &str, code: &str| json!({"coding": [{"system": system, "code": code}]});
        for (site, expected) in [
            (coding("http://snomed.info/sct", "7771000"), Some("left")),
            (coding("http://snomed.info/sct", "51440002"), Some("bilateral")),
            (coding("http://example.org", "7771000"), None),
            (coding("http://terminology.hl7.org/CodeSystem/v3-ActSite", "RD"), Some("right")),
            (json!({"text": "Left deltoid"}), Some("left")),
            (json!({"coding": [{"display": "Structure of right upper arm"}], "text": "right arm"}), Some("right")),
            (
                json!({"coding": [{"system": "http://snomed.info/sct", "code": "24028007"}], "text": "left"}),
                Some("right"),
            ),
            (json!([{"text": "left eye"}, {"text": "left ear"}]), Some("left")),
            (json!([{"text": "left eye"}, {"text": "right eye"}]), None),
            (json!([{"text": "left eye"}, {"text": "nose"}]), None),
            (json!({"text": "left or right"}), None),
            (json!({"text": "Right atrium"}), None),
            (json!({"text": "leftover"}), None),
            (json!(7), None),
        ] {
            assert_eq!(side(&site), expected, "{site}");
        }
    }
}
