//! An organization's settings: what its numbers mean, how its Athena events are to be understood, which web pages may
//! call for it, how many of its jobs run at once.

use super::organizations::{by, not_found, permitted};
use crate::app::App;
use crate::app::settings::{self, SettingsError};
use crate::auth::store::{self, Organization};
use crate::db::{DbError, Scope};
use crate::http::description;
use crate::http::extract::{Authenticated, Segment, object_or_null, read_json, whole, whole_or_null};
use crate::http::problem::{Problem, ProblemDocument};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
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

impl From<settings::RateLimit> for RateLimit {
    fn from(rate: settings::RateLimit) -> Self {
        Self { requests_per_second: rate.requests_per_second, burst: rate.burst }
    }
}

impl From<RateLimit> for settings::RateLimit {
    fn from(rate: RateLimit) -> Self {
        Self { requests_per_second: rate.requests_per_second, burst: rate.burst }
    }
}

impl Settings {
    fn of(organization: &Organization) -> Self {
        let shown = settings::Settings::of(organization);
        Self {
            mrn_systems: shown.mrn_systems,
            mrn_folded_systems: shown.mrn_folded_systems,
            mrn_placeholders: shown.mrn_placeholders,
            running_max: shown.running_max,
            athena_system: shown.athena_system,
            time_zone: shown.time_zone,
            cors_origins: shown.cors_origins,
            rate_limit: shown.rate_limit.map(RateLimit::from),
        }
    }

    fn given(self) -> settings::Settings {
        settings::Settings {
            mrn_systems: self.mrn_systems,
            mrn_folded_systems: self.mrn_folded_systems,
            mrn_placeholders: self.mrn_placeholders,
            running_max: self.running_max,
            athena_system: self.athena_system,
            time_zone: self.time_zone,
            cors_origins: self.cors_origins,
            rate_limit: self.rate_limit.map(settings::RateLimit::from),
        }
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
    let given: Settings = read_json(&headers, body).await?;
    match app.change_settings(id, given.given(), by(caller.clone(), None)).await {
        Ok(organization) => Ok(Json(Settings::of(&organization))),
        Err(SettingsError::Fault(fault)) => Err(Problem::new("invalid_request", fault.detail)),
        Err(error @ SettingsError::NotTheirs) => Err(caller.forbidden(error.to_string())),
        Err(SettingsError::NoOrganization) => Err(not_found()),
        Err(SettingsError::Db(error)) => Err(error.into()),
    }
}
