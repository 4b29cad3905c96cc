//! Lanes in which jobs wait behind another one. Roles admin (the own organization) and platform (all).

use super::organizations::ADMINS;
use crate::app::App;
use crate::engine::lanes::{self, BlockedLane, PAGE_MAX};
use crate::http::extract::{Authenticated, Parameters};
use crate::http::problem::{Problem, ProblemDocument};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Query of the list.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LaneParameters {
    /// `nextCursor` of the page before.
    #[param(pattern = "^org_[0-7][0-9a-hjkmnp-tv-z]{25}\\.[0-9a-f]{16}$")]
    cursor: Option<String>,
    /// Lanes of a page, 1 to 200; 50 without it.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// A page of lanes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockedLanes {
    /// By organization and lane.
    pub lanes: Vec<BlockedLane>,
    /// Give it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// Lanes in which jobs wait behind another one: which job holds them up, since when, and why.
#[utoipa::path(
    get, path = "/v1/admin/lanes/blocked", tag = "administration", operation_id = "listBlockedLanes", params(LaneParameters),
    responses((status = 200, description = "A page", body = BlockedLanes), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_blocked(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Parameters(parameters): Parameters<LaneParameters>,
) -> Result<Json<BlockedLanes>, Problem> {
    caller.allow(ADMINS)?;
    let limit = parameters.limit.unwrap_or(50);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::parameter("limit", "a number from 1 to 200"));
    }
    let bad = || Problem::parameter("cursor", "the nextCursor of an earlier page");
    let after = parameters.cursor.as_deref().map(|text| lanes::parse_cursor(text).ok_or_else(bad)).transpose()?;
    let (lanes, next_cursor) = lanes::blocked(&app.db, &app.catalog, caller.caller.organization, after, limit).await?;
    Ok(Json(BlockedLanes { lanes, next_cursor }))
}
