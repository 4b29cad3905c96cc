//! Observation: one finding for its own value, one for each component.

use super::interpretation::interpret;
use super::{Finding, Value, laterality, parts, times};
use crate::ingest::fhir::node::{Kind, Node, Object};
use crate::ingest::fhir::path::Place;
use crate::ingest::resource::category_codes;

/// LOINC codes of the vital signs (FHIR R4 value set observation-vitalsignresult, and codes met beside it). A code in
/// this list is a vital sign also when the category is missing or misspelt.
const VITAL_SIGNS: [&str; 19] = [
    "85353-1", "9279-1", "8867-4", "2708-6", "59408-5", "8310-5", "8331-1", "8302-2", "9843-4", "29463-7", "39156-5",
    "85354-9", "55284-4", "8480-6", "8462-4", "8478-0", "72514-3", "3141-9", "8287-5",
];

/// Members that are kept as they are.
const DETAILS: [&str; 6] = ["hasMember", "derivedFrom", "focus", "specimen", "effectiveTiming", "note"];

/// Which kind of observation it is: vital, lab, social, survey, imaging or other. The view shows its sections by the same
/// word. A declared category counts before the code, so that a blood gas stays a laboratory result.
#[must_use]
pub fn section(object: &Object<'_>) -> &'static str {
    let codes = category_codes(object);
    let has = |code: &str| codes.iter().any(|one| one == code);
    if has("vital-signs") {
        return "vital";
    }
    if has("laboratory") {
        return "lab";
    }
    if is_vital_sign(object) {
        return "vital";
    }
    let others = [("social-history", "social"), ("survey", "survey"), ("imaging", "imaging")];
    let declared = others.into_iter().find(|(code, _)| has(code)).map(|(_, section)| section);
    declared.unwrap_or_else(|| {
        // A panel of vital signs under a code of its own.
        if object.objects("component").iter().any(is_vital_sign) { "vital" } else { "other" }
    })
}

/// By the LOINC codings of an Observation's or a component's code.
fn is_vital_sign(object: &Object<'_>) -> bool {
    let Some(concept) = object.object("code") else { return false };
    concept.objects("coding").iter().any(|coding| {
        coding.string("system").as_deref() == Some("http://loinc.org")
            && coding.string("code").is_some_and(|code| VITAL_SIGNS.contains(&code.as_ref()))
    })
}

pub fn findings(object: &Object<'_>, place: &Place) -> Vec<Finding> {
    let base = base(object);
    let mut findings = Vec::new();
    let components = object.items("component");
    let value = value(object, place);
    if value.is_some() || components.is_empty() {
        let mut own = base.clone();
        describe(&mut own, object);
        if let Some(concept) = object.object("code") {
            own.evidence.push(parts::evidence(concept.node(), &place.member("code"), "observation.code"));
        }
        if let Some((value, node, place)) = value {
            own.value = value;
            own.evidence.push(parts::evidence(node, &place, "observation.value"));
        }
        interpret(&mut own, object, place);
        findings.push(own);
    }
    let list = place.member("component");
    // Items that are no objects are counted all the same, so that the place is right.
    for (index, node) in components.iter().enumerate() {
        let Some(component) = node.object() else { continue };
        let place = list.item(index);
        let mut part = base.clone();
        part.component_of = parts::member_json(object, "code");
        part.ordinal = i32::try_from(index + 1).unwrap_or(i32::MAX);
        part.evidence.push(parts::evidence(*node, &place, "observation.component"));
        describe(&mut part, &component);
        if let Some((value, _, _)) = self::value(&component, &place) {
            part.value = value;
        }
        interpret(&mut part, &component, &place);
        findings.push(part);
    }
    findings
}

/// What all findings of the resource have in common.
fn base(object: &Object<'_>) -> Finding {
    let mut finding = Finding::new(section(object), "measurement");
    finding.status = object.owned("status");
    finding.effective = times::of("Observation", object);
    finding.issued = times::issued("Observation", object);
    finding.performer = parts::member_json(object, "performer");
    finding.encounter = parts::reference(object, "encounter");
    finding.body_site = parts::member_json(object, "bodySite");
    finding.laterality = laterality::of(object, "bodySite");
    let mut details = parts::Details::of(object, &DETAILS);
    // Most observations have the one category that is a column anyway.
    if finding.category == "other" || object.items("category").len() > 1 {
        details.member(object, "category");
    }
    if object.items("interpretation").len() > 1 {
        details.member(object, "interpretation");
    }
    finding.details = details.json();
    finding
}

fn describe(finding: &mut Finding, object: &Object<'_>) {
    if let Some(concept) = object.object("code") {
        finding.code = parts::code(&concept);
    }
}

/// `value[x]`, or else why there is none; with the bytes that say so.
fn value<'a>(object: &Object<'a>, place: &Place) -> Option<(Value, Node<'a>, Place)> {
    let found = object
        .members()
        .filter(|(member, _)| member.starts_with("value"))
        .find_map(|(member, node)| Some((typed(member, node)?, node, place.choice("value", member))));
    if found.is_some() {
        return found;
    }
    let reason = object.object("dataAbsentReason")?;
    let node = reason.node();
    let value =
        Value { kind: Some("absent"), text: parts::concept_word(&reason), json: parts::json(node), ..Value::default() };
    Some((value, node, place.member("dataAbsentReason")))
}

fn typed(member: &str, node: Node<'_>) -> Option<Value> {
    let text = |kind: &'static str, text: String| Value { kind: Some(kind), text: Some(text), ..Value::default() };
    let whole = |kind: &'static str| {
        (node.kind() == Kind::Object).then(|| Value { kind: Some(kind), json: parts::json(node), ..Value::default() })
    };
    Some(match member {
        "valueQuantity" => parts::quantity(&node.object()?),
        "valueCodeableConcept" => {
            let code = parts::code(&node.object()?);
            Value { text: code.text.or(code.display).or(code.code), ..whole("code")? }
        }
        "valueString" => text("string", node.string()?.into_owned()),
        "valueBoolean" => text("boolean", node.boolean()?.to_string()),
        "valueInteger" => {
            let written = node.number()?;
            Value { number: parts::number(written), ..text("integer", written.to_owned()) }
        }
        "valueTime" => text("time", node.string()?.into_owned()),
        "valueDateTime" => text("datetime", node.string()?.into_owned()),
        "valueRange" => whole("range")?,
        "valueRatio" => whole("ratio")?,
        "valuePeriod" => whole("period")?,
        "valueSampledData" => whole("sampled_data")?,
        _ => return None,
    })
}
