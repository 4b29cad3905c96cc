//! An organization's settings as people give them: checked as a whole, stored with an audit record. HTTP and the console
//! call the same.

use super::App;
use crate::audit::Action;
use crate::auth::administration::{By, record};
use crate::auth::store::{self, Organization};
use crate::config::origins;
use crate::db::{DbError, Scope};
use crate::ids::OrganizationId;
use crate::ingest::settings::{self, AthenaSettings};
use crate::limits::rates::Rate;
use serde_json::{Value, json};

/// Items of a list.
const LIST_MAX: usize = 100;
/// Requests a second, and at once.
const RATE_MAX: u32 = 1_000_000;

/// A rate of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// In the long run, by process.
    pub requests_per_second: u32,
    /// At once after quiet; none: those of one second.
    pub burst: Option<u32>,
}

impl RateLimit {
    fn of(stored: &Value) -> Option<Self> {
        let stored = stored.get("rate_limit")?;
        let rate = Rate::stored(stored)?;
        let burst = stored.get("burst").is_some_and(Value::is_u64).then(|| rate.burst());
        Some(Self { requests_per_second: rate.per_second(), burst })
    }

    fn is_sane(self) -> bool {
        let sane = |number: u32| (1..=RATE_MAX).contains(&number);
        sane(self.requests_per_second) && self.burst.is_none_or(sane)
    }
}

/// An organization's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Identifier systems whose values are MRNs also without the type code MR.
    pub mrn_systems: Vec<String>,
    /// Identifier systems in whose numbers case, spaces and hyphens mean nothing.
    pub mrn_folded_systems: Vec<String>,
    /// Values that are nobody's number.
    pub mrn_placeholders: Vec<String>,
    /// Jobs at once over all workers; none: no cap.
    pub running_max: Option<i32>,
    /// Identifier system of Athena's patient ids; none: the default.
    pub athena_system: Option<String>,
    /// IANA name of the time zone of times that name none; none: UTC.
    pub time_zone: Option<String>,
    /// Web origins that may call for this organization.
    pub cors_origins: Vec<String>,
    /// Requests that it may send; none: as configured for all.
    pub rate_limit: Option<RateLimit>,
}

/// What of the settings cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct SettingsFault {
    /// The member, as the API names it.
    pub member: &'static str,
    /// What is wrong, in a sentence.
    pub detail: String,
}

/// Why settings were not stored. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// See there.
    #[error(transparent)]
    Fault(#[from] SettingsFault),
    /// Only the platform may change the rate.
    #[error("`rateLimit` can be changed with a platform key only.")]
    NotTheirs,
    /// There is no such organization.
    #[error("There is no such organization.")]
    NoOrganization,
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

fn is_sane(text: &str) -> bool {
    (1..=500).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

impl Settings {
    /// Those of an organization, with the defaults in effect.
    #[must_use]
    pub fn of(organization: &Organization) -> Self {
        let stored = &organization.settings;
        let list = |key: &str| settings::list(stored, key);
        let athena = AthenaSettings::of(organization.id, stored);
        Self {
            mrn_systems: list("mrn_systems"),
            mrn_folded_systems: list("mrn_folded_systems"),
            mrn_placeholders: list("mrn_placeholders"),
            running_max: organization.running_max,
            athena_system: Some(athena.system),
            time_zone: Some(athena.time_zone),
            cors_origins: list("cors_origins"),
            rate_limit: RateLimit::of(stored),
        }
    }

    /// As they are stored; nothing that is wrong is stored.
    fn checked(&self, organization: OrganizationId) -> Result<Value, SettingsFault> {
        let bad = |member: &'static str, detail: String| Err(SettingsFault { member, detail });
        for (name, list) in [
            ("mrnSystems", &self.mrn_systems),
            ("mrnFoldedSystems", &self.mrn_folded_systems),
            ("mrnPlaceholders", &self.mrn_placeholders),
        ] {
            if list.len() > LIST_MAX || !list.iter().all(|text| is_sane(text)) {
                return bad(name, format!("`{name}` must hold at most {LIST_MAX} texts of 1 to 500 characters."));
            }
        }
        if self.running_max.is_some_and(|max| max < 1) {
            return bad("runningMax", "`runningMax` must be at least 1, or null.".to_owned());
        }
        if self.athena_system.as_ref().is_some_and(|system| !is_sane(system)) {
            return bad("athenaSystem", "`athenaSystem` must have 1 to 500 characters, or be null.".to_owned());
        }
        let time_zone = self.time_zone.as_deref().map(settings::time_zone);
        if time_zone.as_ref().is_some_and(Option::is_none) {
            let detail = "`timeZone` must be the IANA name of a time zone, such as America/New_York, or null.";
            return bad("timeZone", detail.to_owned());
        }
        let origins: Option<Vec<String>> = self.cors_origins.iter().map(|text| origins::canonical(text)).collect();
        let Some(origins) = origins.filter(|origins| origins.len() <= LIST_MAX) else {
            let detail = format!(
                "`corsOrigins` must hold at most {LIST_MAX} origins such as https://ehr.example or chrome-extension://…, \
                 without a path and without `*`."
            );
            return bad("corsOrigins", detail);
        };
        if !self.rate_limit.is_none_or(RateLimit::is_sane) {
            let detail =
                "`rateLimit` must hold `requestsPerSecond` and, if given, `burst`, each from 1 to 1000000.".to_owned();
            return bad("rateLimit", detail);
        }
        // The default follows the organization, so it is not stored when an answer is sent back as it came.
        let default = settings::default_athena_system(organization);
        Ok(json!({
            "mrn_systems": self.mrn_systems,
            "mrn_folded_systems": self.mrn_folded_systems,
            "mrn_placeholders": self.mrn_placeholders,
            "athena_system": self.athena_system.as_ref().filter(|system| **system != default),
            "time_zone": time_zone.flatten(),
            "cors_origins": origins,
            "rate_limit": self.rate_limit.map(|rate| json!({ "requests_per_second": rate.requests_per_second, "burst": rate.burst })),
        }))
    }
}

impl App {
    /// Replace an organization's settings. What it may send is not its own administrator's to say: of them the stored rate
    /// stays.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub async fn change_settings(
        &self,
        id: OrganizationId,
        settings: Settings,
        by: By,
    ) -> Result<Organization, SettingsError> {
        let stored = settings.checked(id)?;
        let keeps_rate = by.home.is_some();
        let changed = self
            .db
            .unit::<_, SettingsError, _>(Scope::Organization(id), move |connection| {
                Box::pin(async move {
                    let changed =
                        store::set_settings(connection, id, &stored, settings.running_max, keeps_rate).await?;
                    if let Some(organization) = &changed {
                        let kept = RateLimit::of(&organization.settings);
                        if settings.rate_limit.is_some_and(|wanted| Some(wanted) != kept) {
                            return Err(SettingsError::NotTheirs);
                        }
                        let act = ("organization.settings_changed", Action::Update);
                        record(connection, id, act, &by, &id.to_string(), None).await?;
                    }
                    Ok(changed)
                })
            })
            .await?;
        self.wake.signal();
        self.origins.forget().await;
        changed.ok_or(SettingsError::NoOrganization)
    }
}
