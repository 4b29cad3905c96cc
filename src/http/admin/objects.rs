//! Objects below `incoming/` that became no job's.

use crate::app::App;
use crate::auth::Role;
use crate::db::{DbError, Scope};
use crate::http::extract::{Authenticated, Parameters};
use crate::http::problem::{Problem, ProblemDocument};
use crate::ids::OrganizationId;
use crate::uploads::watcher::store::{self, RefusedObject};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Of one page.
const PAGE_MAX: u32 = 500;

/// Which ones.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RefusedParameters {
    /// Only those first seen before this instant (RFC 3339).
    #[param(format = DateTime)]
    before: Option<String>,
    /// So many, 1 to 500, and those that were seen at the same instant as the last of them.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// A refused object. Names of files may be names of patients, so that of its key only the organization and the extension
/// are shown; `etag` and `sizeBytes` find it in a listing of the bucket.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedView {
    /// Bucket.
    pub bucket: String,
    /// Its key, with `…` for what is not shown.
    #[schema(example = "incoming/fhir/org_01h455vb4pex5vsknk084sn02q/….ndjson")]
    pub key: String,
    /// Whose its key says it is, if there is such an organization.
    #[schema(value_type = Option<String>)]
    pub organization_id: Option<OrganizationId>,
    /// `organization_unknown`, `metadata_disagree`, `upload_cancelled`, `upload_repeated` or `too_large`.
    #[schema(example = "metadata_disagree")]
    pub reason: String,
    /// By which hint it was found.
    #[schema(example = "sweep")]
    pub hint: String,
    /// Without quotes.
    pub etag: String,
    /// Bytes.
    pub size_bytes: i64,
    /// When the watcher saw it.
    #[serde(with = "time::serde::rfc3339")]
    pub first_seen_at: OffsetDateTime,
    /// When the watcher deleted it, or found it gone.
    #[serde(with = "time::serde::rfc3339::option")]
    pub removed_at: Option<OffsetDateTime>,
}

/// Refused objects.
#[derive(Serialize, utoipa::ToSchema)]
pub struct RefusedList {
    /// Newest first.
    pub objects: Vec<RefusedView>,
}

/// A key without what others may have written into it.
fn shown(key: &str) -> String {
    let organization = key
        .strip_prefix("incoming/fhir/")
        .and_then(|rest| rest.split_once('/'))
        .and_then(|(organization, _)| organization.parse::<OrganizationId>().ok());
    let extension = [".json.gz", ".ndjson.gz", ".json", ".ndjson"].into_iter().find(|ending| key.ends_with(ending));
    let extension = extension.unwrap_or_default();
    match organization {
        Some(organization) => format!("incoming/fhir/{organization}/…{extension}"),
        None => format!("incoming/…{extension}"),
    }
}

/// Objects below `incoming/` that became no job's, newest first (platform role).
#[utoipa::path(
    get, path = "/v1/admin/objects/refused", tag = "administration", operation_id = "listRefusedObjects",
    params(RefusedParameters),
    responses((status = 200, description = "The objects", body = RefusedList), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_refused(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Parameters(parameters): Parameters<RefusedParameters>,
) -> Result<Json<RefusedList>, Problem> {
    caller.allow(&[Role::Platform])?;
    let before = parameters.before.as_deref().map(|text| OffsetDateTime::parse(text, &Rfc3339)).transpose();
    let before = before.map_err(|_| Problem::parameter("before", "an instant (RFC 3339)"))?;
    let limit = parameters.limit.unwrap_or(100);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::parameter("limit", "a number from 1 to 500"));
    }
    let rows = app
        .db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move { store::refused_objects(connection, before, i64::from(limit)).await })
        })
        .await?;
    let view = |row: RefusedObject| RefusedView {
        key: shown(&row.storage_key),
        bucket: row.bucket,
        organization_id: row.organization_id,
        reason: row.reason,
        hint: row.source,
        etag: row.etag,
        size_bytes: row.size_bytes,
        first_seen_at: row.first_seen_at,
        removed_at: row.removed_at,
    };
    Ok(Json(RefusedList { objects: rows.into_iter().map(view).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_without_what_others_wrote_into_it() {
        let organization = OrganizationId::new();
        for (key, expected) in [
            (format!("incoming/fhir/{organization}/Jane Doe.ndjson"), format!("incoming/fhir/{organization}/….ndjson")),
            (format!("incoming/fhir/{organization}/Jane.Doe"), format!("incoming/fhir/{organization}/…")),
            ("incoming/fhir/Jane Doe/x.json.gz".to_owned(), "incoming/….json.gz".to_owned()),
            ("incoming/Jane".to_owned(), "incoming/…".to_owned()),
        ] {
            assert_eq!(shown(&key), expected);
        }
    }
}
