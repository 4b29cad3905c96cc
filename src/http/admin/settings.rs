//! An organization's settings: what its numbers mean, how its Athena events are to be understood, which web pages may
//! call for it, how many of its jobs run at once.

use super::organizations::{not_found, permitted, record};
use crate::app::App;
use crate::audit::Action;
use crate::auth::Role;
use crate::auth::store::{self, Organization};
use crate::config::origins;
use crate::db::{DbError, Scope};
use crate::http::description;
use crate::http::extract::{Authenticated, Segment, object_or_null, read_json, whole, whole_or_null};
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::OrganizationId;
use crate::ingest::settings::{self, AthenaSettings};
use crate::limits::rates::Rate;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// An organization's settings.
#[derive(Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Identifier systems whose values are MRNs also without the type code MR.
    #[serde(default)]
    #[schema(schema_with = description::words)]
    mrn_systems: Vec<String>,
    /// Identifier systems in whose numbers case, spaces and hyphens mean nothing.
    #[serde(default)]
    #[schema(schema_with = description::words)]
    mrn_folded_systems: Vec<String>,
    /// Values that are nobody's number, beside `0`, `UNKNOWN` and the like; compared without case.
    #[serde(default)]
    #[schema(schema_with = description::words)]
    mrn_placeholders: Vec<String>,
    /// Jobs at once over all workers; null: no cap.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    running_max: Option<i32>,
    /// Identifier system of Athena's patient ids, an MRN system too; null: `urn:chartgate:{organizationId}:athena`. The
    /// answer holds the one in effect.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    athena_system: Option<String>,
    /// IANA name of the time zone of times that name none; null: UTC. The answer holds the one in effect.
    #[serde(default)]
    #[schema(example = "America/New_York", format = "time-zone")]
    time_zone: Option<String>,
    /// Web origins that may call for this organization: `scheme://host[:port]`, `chrome-extension://…`,
    /// `moz-extension://…`.
    #[serde(default)]
    #[schema(schema_with = description::origins)]
    cors_origins: Vec<String>,
    /// Requests that it may send; null: as configured for all. Only the platform role may change it; for others null keeps it.
    #[serde(default, deserialize_with = "object_or_null")]
    rate_limit: Option<RateLimit>,
}

/// A rate of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// In the long run, by process.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    requests_per_second: u32,
    /// At once after quiet; null: those of one second.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    burst: Option<u32>,
}

impl RateLimit {
    fn of(stored: &Value) -> Option<Self> {
        let stored = stored.get("rate_limit")?;
        let rate = Rate::stored(stored)?;
        let burst = stored.get("burst").is_some_and(Value::is_u64).then(|| rate.burst());
        Some(Self { requests_per_second: rate.per_second(), burst })
    }

    fn is_sane(self) -> bool {
        let sane = |number: u32| (1..=1_000_000).contains(&number);
        sane(self.requests_per_second) && self.burst.is_none_or(sane)
    }
}

impl Settings {
    fn of(organization: &Organization) -> Self {
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
}

const LIST_MAX: usize = 100;

fn is_sane(text: &str) -> bool {
    (1..=500).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

impl Settings {
    /// As they are stored; nothing that is wrong is stored.
    fn checked(&self, organization: OrganizationId) -> Result<Value, Problem> {
        let bad = |detail: String| Err(Problem::new("invalid_request", detail));
        for (name, list) in [
            ("mrnSystems", &self.mrn_systems),
            ("mrnFoldedSystems", &self.mrn_folded_systems),
            ("mrnPlaceholders", &self.mrn_placeholders),
        ] {
            if list.len() > LIST_MAX || !list.iter().all(|text| is_sane(text)) {
                return bad(format!("`{name}` must hold at most {LIST_MAX} texts of 1 to 500 characters."));
            }
        }
        if self.running_max.is_some_and(|max| max < 1) {
            return bad("`runningMax` must be at least 1, or null.".to_owned());
        }
        if self.athena_system.as_ref().is_some_and(|system| !is_sane(system)) {
            return bad("`athenaSystem` must have 1 to 500 characters, or be null.".to_owned());
        }
        let time_zone = self.time_zone.as_deref().map(settings::time_zone);
        if time_zone.as_ref().is_some_and(Option::is_none) {
            return bad(
                "`timeZone` must be the IANA name of a time zone, such as America/New_York, or null.".to_owned()
            );
        }
        let origins: Option<Vec<String>> = self.cors_origins.iter().map(|text| origins::canonical(text)).collect();
        let Some(origins) = origins.filter(|origins| origins.len() <= LIST_MAX) else {
            return bad(format!(
                "`corsOrigins` must hold at most {LIST_MAX} origins such as https://ehr.example or chrome-extension://…, \
                 without a path and without `*`."
            ));
        };
        if !self.rate_limit.is_none_or(RateLimit::is_sane) {
            return bad(
                "`rateLimit` must hold `requestsPerSecond` and, if given, `burst`, each from 1 to 1000000.".to_owned()
            );
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

/// Settings of an organization.
#[utoipa::path(
    get, path = "/v1/admin/organizations/{organizationId}/settings", tag = "administration", operation_id = "getSettings", params(("organizationId" = String, Path)),
    responses((status = 200, description = "The settings", body = Settings), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn get_settings(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
) -> Result<Json<Settings>, Problem> {
    let id = permitted(&caller, &id)?;
    let found = app
        .db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move { store::find_organization(connection, Some(id), None).await })
        })
        .await?;
    found.map(|organization| Json(Settings::of(&organization))).ok_or_else(not_found)
}

/// Replace the settings of an organization.
#[utoipa::path(
    put, path = "/v1/admin/organizations/{organizationId}/settings", tag = "administration", operation_id = "putSettings", params(("organizationId" = String, Path)), request_body = Settings,
    responses((status = 200, description = "The settings", body = Settings), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn put_settings(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Segment(id): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Settings>, Problem> {
    let id = permitted(&caller, &id)?;
    let settings: Settings = read_json(&headers, body).await?;
    let stored = settings.checked(id)?;
    let running_max = settings.running_max;
    // What an organization may send is not its own administrator's to say.
    let keeps_rate = !caller.caller.has_one_of(&[Role::Platform]);
    let changed = app
        .db
        .unit::<_, Problem, _>(Scope::Organization(id), move |connection| {
            Box::pin(async move {
                let changed = store::set_settings(connection, id, &stored, running_max, keeps_rate).await?;
                if let Some(organization) = &changed {
                    let kept = RateLimit::of(&organization.settings);
                    if settings.rate_limit.is_some_and(|wanted| Some(wanted) != kept) {
                        return Err(caller.forbidden("`rateLimit` can be changed with a platform key only."));
                    }
                    record(
                        connection,
                        id,
                        "organization.settings_changed",
                        Action::Update,
                        &caller.actor,
                        &id.to_string(),
                        None,
                    )
                    .await?;
                }
                Ok(changed)
            })
        })
        .await?;
    app.wake.signal();
    app.origins.forget().await;
    changed.map(|organization| Json(Settings::of(&organization))).ok_or_else(not_found)
}
