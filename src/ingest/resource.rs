//! What a resource is, as received: its identity, its version, its section of the clinical view.

use super::events::Origin;
use super::fhir::calendar;
use super::fhir::node::Object;
use super::fhir::split::{Entry, Resource};
use super::fhir::types;
use super::findings;
use crate::ids::EventId;
use sha2::{Digest as _, Sha256};
use std::ops::Range;
use time::OffsetDateTime;

/// A resource of a payload, ready to become a clinical event. `Debug` shows no value of the payload but its id.
#[derive(Clone)]
pub struct Incoming {
    /// The id that it has already: of an Athena event, that of its 202.
    pub id: Option<EventId>,
    /// Of a part of an Athena event: the event.
    pub part_of: Option<EventId>,
    /// Where it stands in a payload that is no Bundle.
    pub pointer: Option<String>,
    /// Position in the Bundle.
    pub entry: u32,
    /// Its bytes in the body at hand ([`Origin::base`]).
    pub span: Range<usize>,
    /// One of R4's types.
    pub resource_type: &'static str,
    /// The sender's id; without one, payload hash and position, so that each occurrence is its own.
    pub resource_key: String,
    /// Hash of its own bytes.
    pub content_sha256: [u8; 32],
    /// `meta.lastUpdated`.
    pub last_updated: Option<OffsetDateTime>,
    /// The time that it speaks of: what the clinical view sorts by.
    pub clinical_at: Option<OffsetDateTime>,
    /// Its section of the clinical view.
    pub category: Option<&'static str>,
    /// `status`, or the code of `clinicalStatus`; `entered-in-error` also when `verificationStatus` says so.
    pub status: Option<String>,
}

impl Incoming {
    /// The resource's identity and its bytes: what sorts resources, wherever many are stored or looked up.
    pub(super) fn bytes(&self) -> (&'static str, &str, &[u8; 32]) {
        (self.resource_type, &self.resource_key, &self.content_sha256)
    }

    /// The resource of an entry; nothing, if the entry has none of a type that R4 knows.
    #[must_use]
    pub fn of(body: &[u8], origin: &Origin, entry: &Entry<'_>) -> Option<Self> {
        let resource = entry.resource.as_ref()?;
        let resource_type = types::resource_type(&resource.resource_type)?;
        let object = &resource.object;
        let span = object.node().span();
        let resource_key = match &resource.id {
            Some(id) => id.clone().into_owned(),
            None => format!("#{}:{}", hex::encode(&origin.payload_sha256), origin.position(span.start)),
        };
        let last_updated = object
            .object("meta")
            .and_then(|meta| meta.string("lastUpdated").and_then(|text| calendar::parse_instant(&text)));
        Some(Self {
            id: None,
            part_of: None,
            pointer: None,
            entry: entry.index,
            content_sha256: Sha256::digest(&body[span.clone()]).into(),
            span,
            resource_type,
            resource_key,
            last_updated,
            clinical_at: findings::clinical_at(resource_type, object),
            category: view_category(resource_type, resource),
            status: status(object),
        })
    }
}

fn status(object: &Object<'_>) -> Option<String> {
    let verification = concept_code(object, "verificationStatus").filter(|code| code == "entered-in-error");
    verification.or_else(|| object.owned("status")).or_else(|| concept_code(object, "clinicalStatus"))
}

/// The code of the first coding of a concept.
#[must_use]
pub fn concept_code(object: &Object<'_>, member: &str) -> Option<String> {
    object.object(member)?.objects("coding").iter().find_map(|coding| coding.owned("code"))
}

/// All codes of the codings of an array of concepts.
#[must_use]
pub fn category_codes(object: &Object<'_>) -> Vec<String> {
    let concepts = object.objects("category");
    concepts.iter().flat_map(|concept| concept.objects("coding")).filter_map(|coding| coding.owned("code")).collect()
}

/// The section of the clinical view; nothing for types that are kept but not shown.
fn view_category(resource_type: &str, resource: &Resource<'_>) -> Option<&'static str> {
    Some(match resource_type {
        "Patient" => "demographics",
        "MedicationRequest" | "MedicationStatement" | "MedicationAdministration" => "medications",
        "Condition" => "problems",
        "AllergyIntolerance" => "allergies",
        "Immunization" => "immunizations",
        "Procedure" => "procedures",
        "Encounter" => "encounters",
        "DocumentReference" => "documents",
        "DiagnosticReport" => "reports",
        "Observation" => match findings::observation_section(&resource.object) {
            "vital" => "vitals",
            "lab" => "labs",
            _ => "other",
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{JobId, OrganizationId};
    use crate::ingest::fhir::split;

    fn incoming(resource: &str) -> Incoming {
        let body = format!(r#"{{"resourceType": "Bundle", "type": "batch", "entry": [{{"resource": {resource}}}]}}"#);
        let bundle = split::split(body.as_bytes()).unwrap();
        let origin = Origin {
            organization: OrganizationId::new(),
            job: JobId::new(),
            seq: 1,
            source: "default".to_owned(),
            payload_sha256: vec![0xab; 32],
            base: 0,
        };
        Incoming::of(body.as_bytes(), &origin, &bundle.entries[0]).unwrap()
    }

    #[test]
    fn a_resource_without_an_id_is_its_place() {
        let one = incoming(r#"{"resourceType": "Condition"}"#);
        assert!(one.resource_key.starts_with("#abab") && one.resource_key.ends_with(":67"), "{}", one.resource_key);
        assert_eq!(incoming(r#"{"resourceType": "Condition", "id": "c1"}"#).resource_key, "c1");
    }

    #[test]
    fn observations_are_sorted_by_their_declared_category() {
        let of = |code: &str| {
            incoming(&format!(
                r#"{{"resourceType": "Observation", "category": [{{"coding": [{{"code": "{code}"}}]}}]}}"#
            ))
            .category
        };
        assert_eq!([of("vital-signs"), of("laboratory"), of("survey")], [Some("vitals"), Some("labs"), Some("other")]);
        assert_eq!(incoming(r#"{"resourceType": "CarePlan"}"#).category, None);
    }

    #[test]
    fn a_vital_sign_is_one_whatever_its_category_says_unless_that_is_laboratory() {
        let of = |categories: &str, code: &str| {
            let code = format!(r#"{{"coding": [{{"system": "http://loinc.org", "code": "{code}"}}]}}"#);
            incoming(&format!(r#"{{"resourceType": "Observation", "code": {code}{categories}}}"#)).category
        };
        let misspelt = r#", "category": [{"coding": [{"code": "vital-sign"}]}]"#;
        let laboratory = r#", "category": [{"coding": [{"code": "laboratory"}]}]"#;
        assert_eq!([of("", "8867-4"), of(misspelt, "8867-4")], [Some("vitals"), Some("vitals")]);
        assert_eq!([of(laboratory, "2708-6"), of(misspelt, "1-8")], [Some("labs"), Some("other")]);
    }

    #[test]
    fn an_item_is_sorted_by_its_time_or_else_by_its_record() {
        let of = |members: &str| incoming(&format!(r#"{{"resourceType": "Condition"{members}}}"#)).clinical_at;
        let at = calendar::parse_instant("2020-03-01T00:00:00Z");
        assert_eq!(of(r#", "onsetDateTime": "2020-03", "recordedDate": "2021""#), at);
        assert_eq!(of(r#", "onsetString": "as a child", "recordedDate": "2020-03-01""#), at);
        assert_eq!(of(""), None);
    }

    #[test]
    fn status_falls_back_to_the_clinical_status() {
        let one = incoming(r#"{"resourceType": "Condition", "clinicalStatus": {"coding": [{"code": "active"}]}}"#);
        assert_eq!(one.status.as_deref(), Some("active"));
    }
}
