//! Observation: one finding for its own value, one for each component.

use super::{Finding, Value, parts};
use crate::ingest::fhir::node::{Kind, Node, Object};
use crate::ingest::fhir::path::Place;
use crate::ingest::resource::category_codes;

/// LOINC codes of the vital signs (FHIR R4 value set observation-vitalsignresult, and codes met beside it). A code in
/// this list is a vital sign also when the category is missing or misspelt.
const VITAL_SIGNS: [&str; 19] = [
    "85353-1", "9279-1", "8867-4", "2708-6", "59408-5", "8310-5", "8331-1", "8302-2", "9843-4", "29463-7", "39156-5",
    "85354-9", "55284-4", "8480-6", "8462-4", "8478-0", "72514-3", "3141-9", "8287-5",
];

pub fn findings(object: &Object<'_>, place: &Place) -> Vec<Finding> {
    let base = base(object);
    let mut findings = Vec::new();
    let components = object.objects("component");
    let value = value(object, place);
    if value.is_some() || components.is_empty() {
        let mut own = base.clone();
        describe(&mut own, object, place);
        if let Some((value, node, place)) = value {
            own.value = value;
            own.evidence.push(parts::evidence(node, &place, "observation.value"));
            interpret(&mut own, object);
        }
        findings.push(own);
    }
    let list = place.member("component");
    // Items that are no objects are counted all the same, so that the place is right.
    for (index, node) in object.items("component").iter().enumerate() {
        let Some(component) = node.object() else { continue };
        let place = list.item(index);
        let mut part = base.clone();
        part.component_of = parts::member_json(object, "code");
        part.ordinal = i32::try_from(index + 1).unwrap_or(i32::MAX);
        describe(&mut part, &component, &place);
        if let Some((value, _, _)) = self::value(&component, &place) {
            part.value = value;
            interpret(&mut part, &component);
        }
        part.category = if is_vital_sign(&part) { "vital" } else { base.category };
        part.evidence = vec![parts::evidence(*node, &place, "observation.component")];
        findings.push(part);
    }
    findings
}

/// What all findings of the resource have in common.
fn base(object: &Object<'_>) -> Finding {
    let codes = category_codes(object);
    let has = |code: &str| codes.iter().any(|one| one == code);
    let category = if has("vital-signs") {
        "vital"
    } else if has("laboratory") {
        "lab"
    } else if has("social-history") {
        "social"
    } else if has("survey") {
        "survey"
    } else if has("imaging") {
        "imaging"
    } else {
        "other"
    };
    let mut finding = Finding::new(category, "measurement");
    finding.status = object.owned("status");
    finding.effective = parts::effective(object, "effective");
    finding.issued = object.owned("issued");
    finding.performer = parts::member_json(object, "performer");
    finding.encounter = parts::reference(object, "encounter");
    finding.body_site = parts::member_json(object, "bodySite");
    finding
}

fn describe(finding: &mut Finding, object: &Object<'_>, place: &Place) {
    if let Some(concept) = object.object("code") {
        finding.code = parts::code(&concept);
        finding.evidence.push(parts::evidence(concept.node(), &place.member("code"), "observation.code"));
    }
    if is_vital_sign(finding) {
        finding.category = "vital";
    }
}

fn is_vital_sign(finding: &Finding) -> bool {
    let is_loinc = finding.code.system.as_deref() == Some("http://loinc.org");
    is_loinc && finding.code.code.as_deref().is_some_and(|code| VITAL_SIGNS.contains(&code))
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
    let whole = |kind: &'static str| Value { kind: Some(kind), json: parts::json(node), ..Value::default() };
    Some(match member {
        "valueQuantity" => parts::quantity(&node.object()?),
        "valueCodeableConcept" => {
            let concept = node.object()?;
            let code = parts::code(&concept);
            Value { text: code.text.or(code.display).or(code.code), ..whole("code") }
        }
        "valueString" => text("string", node.string()?.into_owned()),
        "valueBoolean" => text("boolean", node.boolean()?.to_string()),
        "valueInteger" => {
            let written = node.number()?;
            Value { number: parts::number(written), ..text("integer", written.to_owned()) }
        }
        "valueTime" | "valueDateTime" => text("datetime", node.string()?.into_owned()),
        "valueRange" => whole("range"),
        "valueRatio" => whole("ratio"),
        "valuePeriod" | "valueSampledData" if node.kind() == Kind::Object => whole("other"),
        _ => return None,
    })
}

/// The declared interpretation; one is derived only where nothing is declared and one normal range clearly applies.
fn interpret(finding: &mut Finding, object: &Object<'_>) {
    finding.reference_range = parts::member_json(object, "referenceRange");
    if let Some(declared) = object.objects("interpretation").iter().find_map(parts::concept_word) {
        finding.interpretation = Some(declared);
        finding.interpretation_source = Some("declared");
    } else if let Some(derived) = derive(&finding.value, &object.objects("referenceRange")) {
        finding.interpretation = Some(derived.to_owned());
        finding.interpretation_source = Some("derived");
    }
}

/// L, N or H by exactly one normal range in the same unit, its bounds included; never a critical flag.
fn derive(value: &Value, ranges: &[Object<'_>]) -> Option<&'static str> {
    let [range] = ranges else { return None };
    let is_normal = parts::word(range, "type").is_none_or(|code| code == "normal");
    if !is_normal || range.get("appliesTo").is_some() || range.get("age").is_some() || value.kind != Some("quantity") {
        return None;
    }
    let number: f64 = value.number.as_deref()?.parse().ok()?;
    let bound = |member: &str| -> Option<Option<f64>> {
        let Some(object) = range.object(member) else { return Some(None) };
        let bound = parts::quantity(&object);
        let same_unit = match (&bound.ucum, &value.ucum) {
            (Some(one), Some(other)) => one == other,
            _ => bound.unit == value.unit,
        };
        if !same_unit || bound.comparator.is_some() {
            return None;
        }
        Some(Some(bound.number?.parse().ok()?))
    };
    let (low, high) = (bound("low")?, bound("high")?);
    match (value.comparator.as_deref(), low, high) {
        (_, None, None) => None,
        (None, Some(low), _) if number < low => Some("L"),
        (None, _, Some(high)) if number > high => Some("H"),
        (None, _, _) => Some("N"),
        (Some("<"), Some(low), _) if number <= low => Some("L"),
        (Some(">"), _, Some(high)) if number >= high => Some("H"),
        _ => None,
    }
}
