//! What runs: workflows and worker processes.

use crate::app::App;
use crate::auth::Role;
use crate::db::{DbError, Scope};
use crate::engine::definition::{Ordering, RunWhen};
use crate::engine::workers_store::{self, WorkerRow};
use crate::http::extract::Authenticated;
use crate::http::problem::{Problem, ProblemDocument};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::sync::Arc;

const ADMINS: &[Role] = &[Role::Admin, Role::Platform];

/// A loaded workflow.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowView {
    /// Name.
    pub name: String,
    /// Version.
    pub version: i32,
    /// One sentence.
    pub summary: String,
    /// organization, patient or none.
    #[schema(value_type = String)]
    pub ordering: Ordering,
    /// SHA-256 of the file.
    pub digest: String,
    /// The steps.
    pub steps: Vec<WorkflowStepView>,
}

/// A step of a workflow.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowStepView {
    /// Name.
    pub name: String,
    /// Handler.
    pub handler: String,
    /// `on_success` or always.
    #[schema(value_type = String)]
    pub run: RunWhen,
    /// Attempts in all.
    pub max_attempts: u16,
}

/// The loaded workflows.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Workflows {
    /// By name.
    pub workflows: Vec<WorkflowView>,
}

/// The workflows that this process has loaded.
#[utoipa::path(
    get, path = "/v1/admin/workflows", tag = "administration", operation_id = "listWorkflows",
    responses((status = 200, description = "The workflows", body = Workflows), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_workflows(State(app): State<Arc<App>>, caller: Authenticated) -> Result<Json<Workflows>, Problem> {
    caller.allow(ADMINS)?;
    let workflows = app
        .catalog
        .latest_all()
        .map(|definition| WorkflowView {
            name: definition.name.clone(),
            version: definition.version,
            summary: definition.summary.clone(),
            ordering: definition.ordering,
            digest: hex::encode(definition.digest),
            steps: definition
                .steps
                .iter()
                .map(|step| WorkflowStepView {
                    name: step.name.clone(),
                    handler: step.handler.clone(),
                    run: step.run,
                    max_attempts: step.retry.attempts,
                })
                .collect(),
        })
        .collect();
    Ok(Json(Workflows { workflows }))
}

/// Worker processes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct WorkerList {
    /// Newest first.
    pub workers: Vec<WorkerRow>,
}

/// Worker processes and their leases (platform role).
#[utoipa::path(
    get, path = "/v1/admin/workers", tag = "administration", operation_id = "listWorkers",
    responses((status = 200, description = "The workers", body = WorkerList), (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json")),
    security(("api_key" = []))
)]
pub async fn list_workers(State(app): State<Arc<App>>, caller: Authenticated) -> Result<Json<WorkerList>, Problem> {
    caller.allow(&[Role::Platform])?;
    let workers = app
        .db
        .unit::<_, DbError, _>(Scope::Global, move |connection| {
            Box::pin(async move { workers_store::list_workers(connection).await })
        })
        .await?;
    Ok(Json(WorkerList { workers }))
}
