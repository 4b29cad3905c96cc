//! What the table cannot say: comparisons, references, bindings of concepts, and rules about a resource as a whole. The
//! keys (`con-4`, `per-1`, …) are the specification's.

use super::super::checks::narrative;
use super::super::decimal::{self, Decimal};
use super::super::definitions::{Element, Formula, Role, Type, TypeId};
use super::super::issue::Severity;
use super::super::node::{Node, Object};
use super::super::temporal;
use super::bundle::{self, PendingReference};
use super::deep::{self, Deep};
use super::frame::{Fragment, Frame};
use super::primitive;
use super::walk::Walk;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;

// ---- invariants of the table

pub fn invariants(walk: &mut Walk<'_, '_>, of: &'static Type, frame: &Frame, start: usize) {
    for invariant in &of.invariants {
        if holds(walk, &invariant.formula, frame) == Some(false) {
            let severity = if invariant.is_error { Severity::Error } else { Severity::Warning };
            let words = words(of, &invariant.formula);
            let message = format!("{} of {} does not hold: {words}.", invariant.key, of.name);
            walk.issue(severity, "invariant", start, message);
        }
    }
}

/// Three-valued, as FHIRPath: what is unknown breaks nothing.
fn holds(walk: &Walk<'_, '_>, formula: &Formula, frame: &Frame) -> Option<bool> {
    match formula {
        Formula::Exists(group) => Some((frame.seen | frame.siblings) >> group & 1 == 1),
        Formula::Equals(slot, text) => walk.kept(frame, Some(*slot)).map(|value| value == *text),
        Formula::More(slot, count) => Some(frame.count(*slot) > *count),
        Formula::Not(inner) => holds(walk, inner, frame).map(|value| !value),
        Formula::And(one, other) => match (holds(walk, one, frame), holds(walk, other, frame)) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        },
        Formula::Or(one, other) => match (holds(walk, one, frame), holds(walk, other, frame)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        },
        Formula::Xor(one, other) => Some(holds(walk, one, frame)? != holds(walk, other, frame)?),
    }
}

/// The formula for people.
fn words(of: &Type, formula: &Formula) -> String {
    let inner = |formula: &Formula| match formula {
        Formula::And(..) | Formula::Or(..) | Formula::Xor(..) => format!("({})", words(of, formula)),
        _ => words(of, formula),
    };
    match formula {
        Formula::Exists(group) => of.group_name(*group).to_owned(),
        Formula::Equals(slot, text) => format!("{} = {text}", of.slot_key(*slot)),
        Formula::More(slot, count) => format!("more than {count} {}", of.slot_key(*slot)),
        Formula::Not(one) => match one.as_ref() {
            Formula::Exists(group) => format!("no {}", of.group_name(*group)),
            other => format!("not {}", inner(other)),
        },
        Formula::And(one, other) => format!("{} and {}", inner(one), inner(other)),
        Formula::Or(one, other) => format!("{} or {}", inner(one), inner(other)),
        Formula::Xor(one, other) => format!("either {} or {}", inner(one), inner(other)),
    }
}

// ---- rules of single types

pub fn of_object(walk: &mut Walk<'_, '_>, of: &'static Type, frame: &Frame, span: Range<usize>) {
    let broken = match of.role {
        Role::None | Role::Reference => return,
        Role::Period => {
            after(walk, of, frame, "start", "end").then_some(("invariant", "per-1: start must not be after end."))
        }
        Role::Task => after(walk, of, frame, "authoredOn", "lastModified")
            .then_some(("invariant", "inv-1: lastModified must not be before authoredOn.")),
        Role::MedicationDispense => after(walk, of, frame, "whenPrepared", "whenHandedOver")
            .then_some(("invariant", "mdd-1: whenHandedOver must not be before whenPrepared.")),
        Role::Age | Role::Count | Role::Distance | Role::Duration => measure(walk, of, frame),
        Role::List => object(walk, &span).and_then(|one| list(&one)),
        Role::TimingRepeat if frame.seen & of.bit("offset") != 0 && is_at_a_meal(walk, of, frame) => {
            Some(("invariant", "tim-9: an offset needs a time before or after something, not C, CM, CD or CV."))
        }
        Role::TimingRepeat => {
            let is_negative = |key: &str| walk.kept(frame, of.slot(key)).is_some_and(|text| text.starts_with('-'));
            (is_negative("duration") || is_negative("period"))
                .then_some(("invariant", "tim-4, tim-5: duration and period must not be negative."))
        }
        Role::RiskAssessmentPrediction => walk
            .kept(frame, of.slot("probabilityDecimal"))
            .is_some_and(|value| decimal::compare(&value, "100") == Some(Ordering::Greater))
            .then_some(("invariant", "ras-2: a probability must be 100 at most.")),
        Role::QuestionnaireEnableWhen => {
            let is_exists = walk.kept(frame, of.slot("operator")).is_some_and(|text| text == "exists");
            let has_answer = frame.seen & of.bit("answer") != 0;
            let is_boolean = walk.kept(frame, of.slot("answerBoolean")).is_some();
            (is_exists && has_answer && !is_boolean)
                .then_some(("invariant", "que-7: the operator exists needs a boolean answer."))
        }
        Role::Meta => {
            // Of the entry's own meta, not of one in an extension or in a Bundle within.
            if walk.depth_of_path() == ENTRY_META {
                walk.version = walk.kept(frame, of.slot("versionId"));
            }
            return;
        }
        Role::BundleEntryRequest => {
            if walk.depth_of_path() != ENTRY_REQUEST {
                return;
            }
            let slot = of.slot("method");
            let offset = slot.and_then(|slot| frame.span(slot)).map_or(span.start, |span| span.start);
            walk.method = walk.kept(frame, slot).map(|method| (method, offset));
            return;
        }
        Role::BundleEntry => {
            bundle::take_entry(walk, of, frame, span.start);
            return;
        }
        Role::Bundle => {
            if walk.is_in_outer_bundle() {
                bundle::check(walk, of, frame, &span);
            }
            return;
        }
        Role::Attachment => attachment(walk, of, frame),
        Role::Range => object(walk, &span).and_then(|range| range_rule(&range)),
        Role::Observation => {
            let both = of.bit("value") | of.bit("component");
            (frame.seen & both == both).then(|| object(walk, &span)).flatten().and_then(|one| observation(&one))
        }
        Role::Organization => object(walk, &span).and_then(|one| organization(&one)),
        Role::Questionnaire => {
            look_at(walk, deep::Kind::Questionnaire, &span);
            object(walk, &span).and_then(|one| link_ids(&one))
        }
        Role::Condition | Role::AllergyIntolerance => {
            if let Some(one) = object(walk, &span) {
                statuses(walk, of, frame, &one, span.start);
            }
            None
        }
        Role::QuestionnaireResponse => {
            look_at(walk, deep::Kind::QuestionnaireResponse, &span);
            return;
        }
        Role::CodeSystem => {
            look_at(walk, deep::Kind::CodeSystem, &span);
            return;
        }
        Role::ValueSet => {
            look_at(walk, deep::Kind::ValueSet, &span);
            return;
        }
    };
    if let Some((code, message)) = broken {
        walk.error(code, span.start, message);
    }
}

/// To be looked at as a whole when the walk is over.
pub fn look_at(walk: &mut Walk<'_, '_>, kind: deep::Kind, span: &Range<usize>) {
    let (entry, place) = (walk.entry(), walk.place());
    walk.deep.push(Deep { kind, entry, span: span.clone(), place });
}

/// Steps from the body to `Bundle.entry[i].resource.meta` and to `Bundle.entry[i].request`.
const ENTRY_META: usize = 5;
const ENTRY_REQUEST: usize = 4;

type Broken = Option<(&'static str, &'static str)>;

fn object<'a>(walk: &Walk<'a, '_>, span: &Range<usize>) -> Option<Object<'a>> {
    Node::within(walk.body, span.clone()).object()
}

/// The first time is surely after the second, as far as both are precise.
fn after(walk: &Walk<'_, '_>, of: &Type, frame: &Frame, first: &str, second: &str) -> bool {
    let text = |key: &str| walk.kept(frame, of.slot(key));
    let (Some(one), Some(other)) = (text(first), text(second)) else { return false };
    temporal::compare(&one, &other) == Some(Ordering::Greater)
}

fn attachment(walk: &Walk<'_, '_>, of: &Type, frame: &Frame) -> Broken {
    let size: u64 = walk.kept(frame, of.slot("size"))?.parse().ok()?;
    let length = primitive::decoded_length(&walk.kept(frame, of.slot("data"))?)?;
    (size != length).then_some(("structure", "Attachment.size is not the size of its data."))
}

/// age-1, cnt-3, dis-1 and drt-1: Quantities of one dimension.
fn measure(walk: &Walk<'_, '_>, of: &Type, frame: &Frame) -> Broken {
    let text = |key: &str| walk.kept(frame, of.slot(key));
    let (value, code) = (text("value"), text("code"));
    let is_ucum = text("system").is_none_or(|system| system == "http://unitsofmeasure.org");
    let has_unit = value.is_none() || code.is_some();
    let rule = match of.role {
        Role::Age => {
            let is_positive = value.is_none_or(|value| decimal::compare(&value, "0") == Some(Ordering::Greater));
            (has_unit && is_ucum && is_positive, "age-1: an Age has a UCUM code and is more than 0.")
        }
        Role::Count => {
            let is_whole = value.is_none_or(|value| !value.contains('.'));
            let is_one = code.is_none_or(|code| code == "1");
            (has_unit && is_ucum && is_whole && is_one, "cnt-3: a Count is whole and has the UCUM code 1.")
        }
        Role::Duration => {
            let has_system = frame.seen & of.bit("system") != 0;
            let is_good = code.is_none() || (is_ucum && has_system && value.is_some());
            (is_good, "drt-1: a Duration with a code has a value and the system UCUM.")
        }
        _ => (has_unit && is_ucum, "dis-1: a Distance has a UCUM code."),
    };
    (!rule.0).then_some(("invariant", rule.1))
}

/// tim-9, second half: `when` is a meal itself, which has no before and after; or it is missing.
fn is_at_a_meal(walk: &Walk<'_, '_>, of: &Type, frame: &Frame) -> bool {
    let Some(when) = of.slot("when").and_then(|slot| frame.span(slot)) else { return true };
    let events = Node::within(walk.body, when).items();
    events.iter().filter_map(Node::string).any(|event| matches!(event.as_ref(), "C" | "CM" | "CD" | "CV"))
}

/// lst-2 and lst-3.
fn list(one: &Object<'_>) -> Broken {
    let entries = one.objects("entry");
    let mode = one.owned("mode")?;
    if mode != "changes" && entries.iter().any(|entry| entry.get("deleted").is_some()) {
        return Some(("invariant", "lst-2: only a list of changes has deleted entries."));
    }
    (mode != "working" && entries.iter().any(|entry| entry.get("date").is_some()))
        .then_some(("invariant", "lst-3: only a working list has dates of entries."))
}

/// rng-2, where both ends are in the same unit.
fn range_rule(range: &Object<'_>) -> Broken {
    let (low, high) = (range.object("low")?, range.object("high")?);
    let unit = |one: &Object<'_>| one.owned("code").or_else(|| one.owned("unit"));
    let value = |one: &Object<'_>| Decimal::parse(one.get("value")?.number()?);
    let is_wrong = unit(&low) == unit(&high) && value(&low)? > value(&high)?;
    is_wrong.then_some(("invariant", "rng-2: low must not be higher than high."))
}

/// obs-7.
fn observation(one: &Object<'_>) -> Broken {
    let codings = |concept: Object<'_>| -> HashSet<(Option<String>, String)> {
        let coding = |coding: &Object<'_>| Some((coding.owned("system"), coding.owned("code")?));
        concept.objects("coding").iter().filter_map(coding).collect()
    };
    let own = codings(one.object("code")?);
    let is_same =
        |component: &Object<'_>| component.object("code").is_some_and(|code| !own.is_disjoint(&codings(code)));
    one.objects("component").iter().any(is_same).then_some((
        "invariant",
        "obs-7: a component has the Observation's own code, so the Observation must not have a value.",
    ))
}

/// org-2 and org-3.
fn organization(one: &Object<'_>) -> Broken {
    let is_home = |member: &str| one.objects(member).iter().any(|item| item.string("use").as_deref() == Some("home"));
    (is_home("address") || is_home("telecom"))
        .then_some(("invariant", "org-2, org-3: an organization has no home address or telecom."))
}

/// que-2: no linkId twice, however deep.
fn link_ids(questionnaire: &Object<'_>) -> Broken {
    let mut seen = HashSet::new();
    let mut waiting = questionnaire.objects("item");
    while let Some(item) = waiting.pop() {
        if item.owned("linkId").is_some_and(|id| !seen.insert(id)) {
            return Some(("invariant", "que-2: two items have the same linkId."));
        }
        waiting.extend(item.objects("item"));
    }
    None
}

const CONDITION_CLINICAL: &str = "http://terminology.hl7.org/CodeSystem/condition-clinical";
const CONDITION_VERIFICATION: &str = "http://terminology.hl7.org/CodeSystem/condition-ver-status";
const ALLERGY_VERIFICATION: &str = "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification";

fn has_code(one: &Object<'_>, member: &str, system: &str, codes: &[&str]) -> bool {
    let codings = one.object(member).map(|concept| concept.objects("coding")).unwrap_or_default();
    codings.iter().any(|coding| {
        coding.string("system").is_none_or(|own| own == system)
            && coding.string("code").is_some_and(|code| codes.contains(&code.as_ref()))
    })
}

/// con-3 to con-5, ait-1 and ait-2.
fn statuses(walk: &mut Walk<'_, '_>, of: &Type, frame: &Frame, one: &Object<'_>, start: usize) {
    let has = |name: &str| (frame.seen | frame.siblings) & of.bit(name) != 0;
    let has_status = has("clinicalStatus");
    let mut broken = |severity, message: &str| walk.issue(severity, "invariant", start, message);
    if of.role == Role::AllergyIntolerance {
        match (has_code(one, "verificationStatus", ALLERGY_VERIFICATION, &["entered-in-error"]), has_status) {
            (false, false) => {
                broken(Severity::Error, "ait-1: clinicalStatus is required unless it was entered in error.");
            }
            (true, true) => {
                broken(Severity::Error, "ait-2: what was entered in error has no clinicalStatus.");
            }
            _ => {}
        }
        return;
    }
    let is_error = has_code(one, "verificationStatus", CONDITION_VERIFICATION, &["entered-in-error"]);
    let ended = ["resolved", "remission", "inactive"];
    if has("abatement") && !has_code(one, "clinicalStatus", CONDITION_CLINICAL, &ended) {
        broken(Severity::Error, "con-4: with an abatement, clinicalStatus is inactive, resolved or remission.");
    }
    if is_error && has_status {
        broken(Severity::Error, "con-5: what was entered in error has no clinicalStatus.");
    }
    let is_problem = one
        .objects("category")
        .iter()
        .flat_map(|concept| concept.objects("coding"))
        .any(|coding| coding.string("code").as_deref() == Some("problem-list-item"));
    if is_problem && !has_status && !is_error {
        broken(Severity::Warning, "con-3: a problem list item should have a clinicalStatus.");
    }
}

// ---- bindings of concepts

/// A `Coding` or `CodeableConcept` whose codes come from a required value set.
pub fn binding(walk: &mut Walk<'_, '_>, element: &'static Element, id: TypeId, span: Range<usize>) {
    let (Some(set), Some(one)) = (element.set, object(walk, &span)) else { return };
    let set = walk.table.set(set);
    let is_in = |coding: &Object<'_>| match (coding.string("system"), coding.string("code")) {
        (Some(system), Some(code)) => set.has_coding(&system, &code),
        (None, Some(code)) => set.has(&code),
        _ => false,
    };
    let is_good = match walk.table.get(id).name {
        "Coding" => is_in(&one),
        "CodeableConcept" => {
            // Only an extension may stand in the place of the code.
            one.objects("coding").iter().any(is_in) || (one.get("coding").is_none() && one.get("extension").is_some())
        }
        _ => true,
    };
    if !is_good {
        let message = format!("No code of the required value set {}.", set.url);
        walk.error("code-invalid", span.start, message);
    }
}

// ---- references

pub fn is_reference(walk: &Walk<'_, '_>, id: TypeId) -> bool {
    walk.table.get(id).role == Role::Reference
}

/// A Reference: its form, what it refers to, and whether that is allowed here.
pub fn reference(walk: &mut Walk<'_, '_>, element: &'static Element, id: TypeId, frame: &Frame, span: Range<usize>) {
    let of = walk.table.get(id);
    let slot = of.slot("reference");
    let declared = walk.kept(frame, of.slot("type"));
    let table = walk.table;
    let mut target = None;
    if let Some(text) = walk.kept(frame, slot) {
        let offset = slot.and_then(|slot| frame.span(slot)).map_or(span.start, |span| span.start);
        if text.bytes().any(|byte| byte.is_ascii_whitespace()) {
            walk.error("value", span.start, "A reference must not hold white space.");
            return;
        }
        if let Some(id) = text.strip_prefix('#') {
            fragment(walk, id, offset);
        } else if text.starts_with("urn:") {
            if walk.is_in_outer_bundle() {
                if let Some(named) = walk.bundle.named(&text) {
                    target = named.resource();
                } else {
                    // An entry further on may have it.
                    let entry = walk.entry();
                    let place = (walk.bundle.pending.len() < PLACES_MAX).then(|| walk.place());
                    let start = span.start;
                    walk.bundle.pending.push(PendingReference { text, entry, place, element, start, offset });
                }
            }
        } else {
            target = target_type(&text).and_then(|name| table.resource(name)).map(|id| table.get(id).name);
            if target.is_none() && !text.contains(':') {
                let place = walk.place().member("reference");
                let message = "The reference is neither Type/id nor a URL.";
                walk.issue_at(Severity::Warning, "value", offset, place, message);
            }
        }
    }
    let Some(targets) = element.targets else { return };
    let allowed = table.targets(targets);
    if let Some(name) = target.filter(|name| !allowed.contains(name)) {
        walk.error("structure", span.start, wrong_target(element, allowed, name));
        return;
    }
    // A type of another model is an absolute URL.
    if let Some(declared) = declared.filter(|declared| !declared.contains(':')) {
        match table.resource(&declared).map(|id| table.get(id).name) {
            Some(name) if allowed.contains(&name) => {}
            Some(name) => walk.error("structure", span.start, wrong_target(element, allowed, name)),
            None => walk.error("structure", span.start, "Reference.type names no resource type."),
        }
    }
}

/// The sentence for a reference to a type that is not allowed there.
pub fn wrong_target(element: &Element, allowed: &[&str], name: &str) -> String {
    format!("{} may refer to {}, not to {name}.", element.name, allowed.join(", "))
}

/// References whose exact place is remembered until it is known whether they lead somewhere. Of more than these only the entry is
/// told: the issues that are kept are fewer.
pub const PLACES_MAX: usize = 2_000;

fn fragment(walk: &mut Walk<'_, '_>, id: &str, offset: usize) {
    if id.is_empty() {
        if walk.is_within_contained()
            && let Some(contained) = walk.local.contained.last_mut()
        {
            contained.refers_to_container = true;
        }
        return;
    }
    let place = (walk.local.fragments.len() < PLACES_MAX).then(|| walk.place());
    walk.local.fragments.push(Fragment { id: Cow::Owned(id.to_owned()), is_reference: true, place, offset });
}

/// The resource type in a literal reference: `Patient/1`, `http://server/fhir/Patient/1/_history/2`, `Patient?…`.
fn target_type(text: &str) -> Option<&str> {
    if let Some((name, _)) = text.split_once('?')
        && !name.contains('/')
    {
        return Some(name);
    }
    let text = text.split("/_history/").next()?;
    let mut parts = text.rsplit('/');
    let (_, name) = (parts.next()?, parts.next()?);
    Some(name)
}

// ---- contained resources

/// ref-1 and dom-3, once a resource is over.
pub fn contained(walk: &mut Walk<'_, '_>, of: &'static Type) {
    if walk.local.contained.is_empty() && walk.local.fragments.is_empty() {
        return;
    }
    let local = std::mem::take(&mut walk.local);
    let ids: HashSet<&str> = local.contained.iter().filter_map(|contained| contained.id.as_deref()).collect();
    let mut used: HashSet<&str> = HashSet::new();
    for fragment in &local.fragments {
        used.insert(&fragment.id);
        if fragment.is_reference && !ids.contains(fragment.id.as_ref()) {
            let place = fragment.place.clone().unwrap_or_else(|| walk.place());
            let message = "ref-1: the reference names no contained resource.";
            walk.issue_at(Severity::Error, "invariant", fragment.offset, place, message);
        }
    }
    if !of.is_domain {
        return;
    }
    for contained in &local.contained {
        let is_used = contained.id.as_deref().is_some_and(|id| used.contains(id)) || contained.refers_to_container;
        if !is_used {
            let message = "dom-3: nothing refers to this contained resource, and it does not refer to its container.";
            walk.issue_at(Severity::Error, "invariant", contained.offset, contained.place.clone(), message);
        }
    }
}

/// dom-4 and dom-5.
pub fn contained_meta(walk: &mut Walk<'_, '_>, of: &'static Type, frame: &Frame, span: Range<usize>) {
    if frame.seen & of.bit("meta") == 0 {
        return;
    }
    let Some(meta) = object(walk, &span).and_then(|one| one.object("meta")) else { return };
    if meta.get("versionId").is_some() || meta.get("lastUpdated").is_some() {
        walk.error(
            "invariant",
            span.start,
            "dom-4: a contained resource has no meta.versionId and no meta.lastUpdated.",
        );
    }
    if meta.get("security").is_some() {
        walk.error("invariant", span.start, "dom-5: a contained resource has no security label.");
    }
}

// ---- narrative

/// txt-1 and txt-2.
pub fn narrative(walk: &mut Walk<'_, '_>, text: &str, offset: usize) {
    for problem in narrative::check_div(text) {
        walk.issue(problem.severity, problem.code, offset, problem.message);
    }
}
