//! What this release knows of FHIR R4 (4.0.1): the names of the resource types, and the shape of the top-level elements
//! of the types that findings are taken from.
//!
//! The tables are written by hand from the `StructureDefinition`s; the generated table of every element takes their place
//! behind the same functions.

use super::node::Kind;

/// The concrete resource types of R4, sorted (the abstract `Resource` and `DomainResource` are left out).
pub const RESOURCE_TYPES: [&str; 146] = [
    "Account",
    "ActivityDefinition",
    "AdverseEvent",
    "AllergyIntolerance",
    "Appointment",
    "AppointmentResponse",
    "AuditEvent",
    "Basic",
    "Binary",
    "BiologicallyDerivedProduct",
    "BodyStructure",
    "Bundle",
    "CapabilityStatement",
    "CarePlan",
    "CareTeam",
    "CatalogEntry",
    "ChargeItem",
    "ChargeItemDefinition",
    "Claim",
    "ClaimResponse",
    "ClinicalImpression",
    "CodeSystem",
    "Communication",
    "CommunicationRequest",
    "CompartmentDefinition",
    "Composition",
    "ConceptMap",
    "Condition",
    "Consent",
    "Contract",
    "Coverage",
    "CoverageEligibilityRequest",
    "CoverageEligibilityResponse",
    "DetectedIssue",
    "Device",
    "DeviceDefinition",
    "DeviceMetric",
    "DeviceRequest",
    "DeviceUseStatement",
    "DiagnosticReport",
    "DocumentManifest",
    "DocumentReference",
    "EffectEvidenceSynthesis",
    "Encounter",
    "Endpoint",
    "EnrollmentRequest",
    "EnrollmentResponse",
    "EpisodeOfCare",
    "EventDefinition",
    "Evidence",
    "EvidenceVariable",
    "ExampleScenario",
    "ExplanationOfBenefit",
    "FamilyMemberHistory",
    "Flag",
    "Goal",
    "GraphDefinition",
    "Group",
    "GuidanceResponse",
    "HealthcareService",
    "ImagingStudy",
    "Immunization",
    "ImmunizationEvaluation",
    "ImmunizationRecommendation",
    "ImplementationGuide",
    "InsurancePlan",
    "Invoice",
    "Library",
    "Linkage",
    "List",
    "Location",
    "Measure",
    "MeasureReport",
    "Media",
    "Medication",
    "MedicationAdministration",
    "MedicationDispense",
    "MedicationKnowledge",
    "MedicationRequest",
    "MedicationStatement",
    "MedicinalProduct",
    "MedicinalProductAuthorization",
    "MedicinalProductContraindication",
    "MedicinalProductIndication",
    "MedicinalProductIngredient",
    "MedicinalProductInteraction",
    "MedicinalProductManufactured",
    "MedicinalProductPackaged",
    "MedicinalProductPharmaceutical",
    "MedicinalProductUndesirableEffect",
    "MessageDefinition",
    "MessageHeader",
    "MolecularSequence",
    "NamingSystem",
    "NutritionOrder",
    "Observation",
    "ObservationDefinition",
    "OperationDefinition",
    "OperationOutcome",
    "Organization",
    "OrganizationAffiliation",
    "Parameters",
    "Patient",
    "PaymentNotice",
    "PaymentReconciliation",
    "Person",
    "PlanDefinition",
    "Practitioner",
    "PractitionerRole",
    "Procedure",
    "Provenance",
    "Questionnaire",
    "QuestionnaireResponse",
    "RelatedPerson",
    "RequestGroup",
    "ResearchDefinition",
    "ResearchElementDefinition",
    "ResearchStudy",
    "ResearchSubject",
    "RiskAssessment",
    "RiskEvidenceSynthesis",
    "Schedule",
    "SearchParameter",
    "ServiceRequest",
    "Slot",
    "Specimen",
    "SpecimenDefinition",
    "StructureDefinition",
    "StructureMap",
    "Subscription",
    "Substance",
    "SubstanceNucleicAcid",
    "SubstancePolymer",
    "SubstanceProtein",
    "SubstanceReferenceInformation",
    "SubstanceSourceMaterial",
    "SubstanceSpecification",
    "SupplyDelivery",
    "SupplyRequest",
    "Task",
    "TerminologyCapabilities",
    "TestReport",
    "TestScript",
    "ValueSet",
    "VerificationResult",
    "VisionPrescription",
];

/// The type of that name, if R4 has it. What it returns is ours, so it may be logged and counted.
#[must_use]
pub fn resource_type(name: &str) -> Option<&'static str> {
    RESOURCE_TYPES.binary_search(&name).ok().map(|index| RESOURCE_TYPES[index])
}

/// How a date is written (FHIR R4, datatypes: date, dateTime, instant).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporal {
    /// `YYYY[-MM[-DD]]`
    Date,
    /// A date, or one with time, seconds and offset.
    DateTime,
    /// Date, time, seconds and offset.
    Instant,
}

impl Temporal {
    /// The datatype's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Date => "date",
            Self::DateTime => "dateTime",
            Self::Instant => "instant",
        }
    }
}

/// What an element must look like at the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A JSON type.
    Json(Kind),
    /// A string that is a date of this kind.
    Time(Temporal),
}

/// A top-level element of a resource type.
#[derive(Debug, Clone, Copy)]
pub struct Element {
    /// The element's name; a choice type has one element for each type that is read here.
    pub name: &'static str,
    /// What its value must look like.
    pub shape: Shape,
}

/// Elements of which one must be there; several are the types of one choice, of which not more than one may be there.
#[derive(Debug, Clone, Copy)]
pub struct Required {
    /// The name as FHIR writes it: `status`, `medication[x]`.
    pub name: &'static str,
    /// The JSON members that satisfy it.
    pub members: &'static [&'static str],
}

/// The shape of one resource type.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// Elements that must be there.
    pub required: &'static [Required],
    /// Elements whose shape is checked where they are.
    pub elements: &'static [Element],
}

const fn string(name: &'static str) -> Element {
    Element { name, shape: Shape::Json(Kind::String) }
}

const fn object(name: &'static str) -> Element {
    Element { name, shape: Shape::Json(Kind::Object) }
}

const fn array(name: &'static str) -> Element {
    Element { name, shape: Shape::Json(Kind::Array) }
}

const fn time(name: &'static str, temporal: Temporal) -> Element {
    Element { name, shape: Shape::Time(temporal) }
}

const fn one(name: &'static str, members: &'static [&'static str]) -> Required {
    Required { name, members }
}

const STATUS: Required = one("status", &["status"]);
const CODE: Required = one("code", &["code"]);
const SUBJECT: Required = one("subject", &["subject"]);
const PATIENT: Required = one("patient", &["patient"]);
const MEDICATION: Required = one("medication[x]", &["medicationCodeableConcept", "medicationReference"]);

/// Elements of every resource.
pub const RESOURCE: Definition =
    Definition { required: &[], elements: &[string("id"), object("meta"), string("language")] };

const OBSERVATION: Definition = Definition {
    required: &[STATUS, CODE],
    elements: &[
        string("status"),
        array("category"),
        object("code"),
        object("subject"),
        object("encounter"),
        time("effectiveDateTime", Temporal::DateTime),
        time("effectiveInstant", Temporal::Instant),
        object("effectivePeriod"),
        time("issued", Temporal::Instant),
        array("performer"),
        object("valueQuantity"),
        object("valueCodeableConcept"),
        string("valueString"),
        Element { name: "valueBoolean", shape: Shape::Json(Kind::Boolean) },
        Element { name: "valueInteger", shape: Shape::Json(Kind::Number) },
        object("valueRange"),
        object("valueRatio"),
        object("valueSampledData"),
        string("valueTime"),
        time("valueDateTime", Temporal::DateTime),
        object("valuePeriod"),
        object("dataAbsentReason"),
        array("interpretation"),
        object("bodySite"),
        array("referenceRange"),
        array("hasMember"),
        array("component"),
    ],
};

const CONDITION: Definition = Definition {
    required: &[SUBJECT],
    elements: &[
        object("clinicalStatus"),
        object("verificationStatus"),
        array("category"),
        object("severity"),
        object("code"),
        array("bodySite"),
        object("subject"),
        object("encounter"),
        time("onsetDateTime", Temporal::DateTime),
        time("abatementDateTime", Temporal::DateTime),
        time("recordedDate", Temporal::DateTime),
    ],
};

const MEDICATION_REQUEST: Definition = Definition {
    required: &[STATUS, one("intent", &["intent"]), MEDICATION, SUBJECT],
    elements: &[
        string("status"),
        string("intent"),
        object("medicationCodeableConcept"),
        object("medicationReference"),
        object("subject"),
        object("encounter"),
        time("authoredOn", Temporal::DateTime),
        object("requester"),
        array("dosageInstruction"),
    ],
};

const MEDICATION_STATEMENT: Definition = Definition {
    required: &[STATUS, MEDICATION, SUBJECT],
    elements: &[
        string("status"),
        object("medicationCodeableConcept"),
        object("medicationReference"),
        object("subject"),
        time("effectiveDateTime", Temporal::DateTime),
        object("effectivePeriod"),
        time("dateAsserted", Temporal::DateTime),
        array("dosage"),
    ],
};

const MEDICATION_ADMINISTRATION: Definition = Definition {
    required: &[STATUS, MEDICATION, SUBJECT, one("effective[x]", &["effectiveDateTime", "effectivePeriod"])],
    elements: &[
        string("status"),
        object("medicationCodeableConcept"),
        object("medicationReference"),
        object("subject"),
        time("effectiveDateTime", Temporal::DateTime),
        object("effectivePeriod"),
        object("dosage"),
    ],
};

const ALLERGY_INTOLERANCE: Definition = Definition {
    required: &[PATIENT],
    elements: &[
        object("clinicalStatus"),
        object("verificationStatus"),
        string("type"),
        array("category"),
        string("criticality"),
        object("code"),
        object("patient"),
        object("encounter"),
        time("onsetDateTime", Temporal::DateTime),
        time("recordedDate", Temporal::DateTime),
        time("lastOccurrence", Temporal::DateTime),
        array("reaction"),
    ],
};

const IMMUNIZATION: Definition = Definition {
    required: &[
        STATUS,
        one("vaccineCode", &["vaccineCode"]),
        PATIENT,
        one("occurrence[x]", &["occurrenceDateTime", "occurrenceString"]),
    ],
    elements: &[
        string("status"),
        object("statusReason"),
        object("vaccineCode"),
        object("patient"),
        object("encounter"),
        time("occurrenceDateTime", Temporal::DateTime),
        string("occurrenceString"),
        time("recorded", Temporal::DateTime),
        time("expirationDate", Temporal::Date),
    ],
};

const PROCEDURE: Definition = Definition {
    required: &[STATUS, SUBJECT],
    elements: &[
        string("status"),
        object("code"),
        object("subject"),
        object("encounter"),
        time("performedDateTime", Temporal::DateTime),
        object("performedPeriod"),
        array("bodySite"),
    ],
};

const ENCOUNTER: Definition = Definition {
    required: &[STATUS, one("class", &["class"])],
    elements: &[
        string("status"),
        object("class"),
        array("type"),
        object("subject"),
        object("period"),
        array("reasonCode"),
    ],
};

const DIAGNOSTIC_REPORT: Definition = Definition {
    required: &[STATUS, CODE],
    elements: &[
        string("status"),
        array("category"),
        object("code"),
        object("subject"),
        object("encounter"),
        time("effectiveDateTime", Temporal::DateTime),
        object("effectivePeriod"),
        time("issued", Temporal::Instant),
        array("result"),
        string("conclusion"),
        array("conclusionCode"),
    ],
};

const DOCUMENT_REFERENCE: Definition = Definition {
    required: &[STATUS, one("content", &["content"])],
    elements: &[
        string("status"),
        object("type"),
        array("category"),
        object("subject"),
        time("date", Temporal::Instant),
        array("content"),
    ],
};

const PATIENT_RESOURCE: Definition = Definition {
    required: &[],
    elements: &[
        array("identifier"),
        array("name"),
        array("telecom"),
        string("gender"),
        time("birthDate", Temporal::Date),
        Element { name: "deceasedBoolean", shape: Shape::Json(Kind::Boolean) },
        time("deceasedDateTime", Temporal::DateTime),
        array("address"),
        array("contact"),
        array("link"),
    ],
};

/// The shape of that type, if it is one that this release looks into.
#[must_use]
pub fn definition(resource_type: &str) -> Option<&'static Definition> {
    Some(match resource_type {
        "Observation" => &OBSERVATION,
        "Condition" => &CONDITION,
        "MedicationRequest" => &MEDICATION_REQUEST,
        "MedicationStatement" => &MEDICATION_STATEMENT,
        "MedicationAdministration" => &MEDICATION_ADMINISTRATION,
        "AllergyIntolerance" => &ALLERGY_INTOLERANCE,
        "Immunization" => &IMMUNIZATION,
        "Procedure" => &PROCEDURE,
        "Encounter" => &ENCOUNTER,
        "DiagnosticReport" => &DIAGNOSTIC_REPORT,
        "DocumentReference" => &DOCUMENT_REFERENCE,
        "Patient" => &PATIENT_RESOURCE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_are_sorted_and_found() {
        assert!(RESOURCE_TYPES.is_sorted());
        assert_eq!(resource_type("Observation"), Some("Observation"));
        assert_eq!(resource_type("Observatio"), None);
        assert_eq!(resource_type("DomainResource"), None);
    }

    #[test]
    fn every_required_member_has_a_shape() {
        for name in RESOURCE_TYPES {
            for required in definition(name).iter().flat_map(|definition| definition.required) {
                for member in required.members {
                    let elements = definition(name).unwrap().elements;
                    assert!(elements.iter().any(|element| element.name == *member), "{name}.{member}");
                }
            }
        }
    }
}
