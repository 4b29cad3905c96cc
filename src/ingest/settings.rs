//! What an organization's settings (`organizations.settings`) say to the clinical domain, read in one place: the MRN
//! rules, and how its Athena events are to be understood. Whatever is missing or unreadable has its default: settings
//! are checked where they are written.

use super::subject::MrnRules;
use crate::ids::OrganizationId;
use serde_json::Value;
use time::OffsetDateTime;

/// The time zone of an organization that names none.
pub const TIME_ZONE_DEFAULT: &str = "UTC";

/// How an organization's Athena events are to be understood.
#[derive(Clone, PartialEq, Eq)]
pub struct AthenaSettings {
    /// The identifier system of its `athena_patient_id`s.
    pub system: String,
    /// IANA name of the zone of times that name none.
    pub time_zone: String,
}

impl AthenaSettings {
    /// Of that organization.
    #[must_use]
    pub fn of(organization: OrganizationId, settings: &Value) -> Self {
        let text = |key: &str| settings.get(key).and_then(Value::as_str).map(str::to_owned);
        Self {
            system: text("athena_system").unwrap_or_else(|| default_athena_system(organization)),
            time_zone: text("time_zone").unwrap_or_else(|| TIME_ZONE_DEFAULT.to_owned()),
        }
    }
}

/// The MRN system of Athena's patients in an organization that configured none.
#[must_use]
pub fn default_athena_system(organization: OrganizationId) -> String {
    format!("urn:chartgate:{organization}:athena")
}

/// A list of texts among the settings.
#[must_use]
pub fn list(settings: &Value, key: &str) -> Vec<String> {
    let list = settings.get(key).cloned();
    list.and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default()
}

/// What an organization says about numbers. Athena's system is one of its MRN systems, so that a FHIR Patient with such
/// an identifier is the patient of the earlier events, also without a type code.
#[must_use]
pub fn mrn_rules(organization: OrganizationId, settings: &Value, accepted_at: Option<OffsetDateTime>) -> MrnRules {
    let mut systems = list(settings, "mrn_systems");
    let athena = AthenaSettings::of(organization, settings).system;
    if !systems.contains(&athena) {
        systems.push(athena);
    }
    MrnRules {
        systems,
        folded_systems: list(settings, "mrn_folded_systems"),
        placeholders: list(settings, "mrn_placeholders"),
        accepted_at,
    }
}

/// The IANA name of a time zone as the database spells it; none for an unknown one. The database is built in: the answer
/// does not depend on the machine.
#[must_use]
pub fn time_zone(name: &str) -> Option<String> {
    let zone = jiff::tz::TimeZone::get(name).ok().filter(|zone| !zone.is_unknown())?;
    zone.iana_name().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn athenas_system_is_an_mrn_system_and_has_a_default() {
        let organization = OrganizationId::new();
        let default = format!("urn:chartgate:{organization}:athena");
        let bare = mrn_rules(organization, &json!({}), None);
        assert_eq!(bare.systems, std::slice::from_ref(&default));
        let both = json!({"mrn_systems": ["urn:a"], "athena_system": "urn:b", "time_zone": "America/New_York"});
        assert_eq!(mrn_rules(organization, &both, None).systems, ["urn:a", "urn:b"]);
        let settings = AthenaSettings::of(organization, &both);
        assert_eq!((settings.system.as_str(), settings.time_zone.as_str()), ("urn:b", "America/New_York"));
        let settings = AthenaSettings::of(organization, &json!({"athena_system": null, "time_zone": null}));
        assert_eq!((settings.system, settings.time_zone.as_str()), (default, "UTC"));
        let same = json!({"mrn_systems": ["urn:b"], "athena_system": "urn:b"});
        assert_eq!(mrn_rules(organization, &same, None).systems, ["urn:b"]);
    }

    #[test]
    fn a_time_zone_is_one_of_the_database() {
        for (given, name) in
            [("UTC", "UTC"), ("America/New_York", "America/New_York"), ("europe/berlin", "Europe/Berlin")]
        {
            assert_eq!(time_zone(given).as_deref(), Some(name));
        }
        for unknown in ["", "Mars/Olympus", "+02:00", "EST5EDT4", "Etc/Unknown", "../UTC", "America/New_York "] {
            assert_eq!(time_zone(unknown), None, "{unknown}");
        }
    }
}
