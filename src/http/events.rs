//! `/v1/events/s3`: notifications of S3 and those that copy it. Hints: nothing of them is believed. docs/bulk.md.

use super::extract::{Authenticated, read_body, require_media_type, require_sane_text};
use super::problem::{Problem, ProblemDocument};
use super::uploads::problem;
use crate::app::App;
use crate::auth::Role;
use crate::uploads::watcher::events::{self, NAMED_MAX, NotNotified};
use crate::uploads::watcher::{AT_ONCE, Hint, TakenUp};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use futures::{StreamExt as _, stream};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;

/// A notification is about a kilobyte for each object that it names.
const BODY_MAX: usize = 1 << 20;

/// What a store sends. Of an object `Records` are read (S3, and those that notify as it does), `detail` (`EventBridge`) and
/// `Message` (SNS); a list names nothing, and is acknowledged.
#[derive(utoipa::ToSchema)]
#[schema(as = Notification)]
#[serde(untagged)]
pub enum NotificationBody {
    /// A notification.
    Object(HashMap<String, serde_json::Value>),
    /// None.
    List(Vec<serde_json::Value>),
}

/// What became of the objects that a notification named.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationAnswer {
    /// Are bytes of their job now.
    pub taken_up: usize,
    /// Were looked at before.
    pub known: usize,
    /// Were refused; see `/v1/admin/objects/refused`.
    pub refused: usize,
    /// Are not there, lie elsewhere, or the record says something else than that an object was created.
    pub ignored: usize,
}

/// Take a notification of S3, or of a server that notifies as it does.
///
/// Answered when everything that it names was looked at; what fails is to be sent again, as often as one likes. Test events
/// name nothing and are acknowledged.
#[utoipa::path(
    post, path = "/v1/events/s3", tag = "operations", operation_id = "notifyObjects",
    request_body(content = NotificationBody, content_type = "application/json"),
    responses(
        (status = 200, description = "Looked at", body = NotificationAnswer),
        (status = "4XX", description = "Refused", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
    ),
    security(("api_key" = []))
)]
pub async fn notify_objects(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<NotificationAnswer>, Problem> {
    caller.allow(&[Role::Platform])?;
    require_media_type(&headers, &["application/json"])?;
    let bytes = read_body(&headers, body, BODY_MAX).await?;
    require_sane_text(&bytes)?;
    if !bytes.trim_ascii_start().starts_with(b"{") && !bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::new("invalid_json", "The body is no JSON object or list."));
    }
    let notified = events::parse(&bytes).map_err(|error| match error {
        NotNotified::NotJson => Problem::new("invalid_json", "The body is not JSON."),
        NotNotified::TooMany => {
            Problem::new("invalid_request", format!("The body names more than {NAMED_MAX} objects."))
        }
    })?;
    let mut answer = NotificationAnswer { ignored: notified.ignored, ..NotificationAnswer::default() };
    let mut failed = None;
    let mut looked = stream::iter(notified.objects)
        .map(|(bucket, key)| {
            let watcher = app.watcher.clone();
            async move { watcher.take_up_named(Hint::Notification, &bucket, &key).await }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(taken) = looked.next().await {
        match taken {
            Ok(TakenUp::Job(..)) => answer.taken_up += 1,
            Ok(TakenUp::Refused(_)) => answer.refused += 1,
            Ok(TakenUp::Known) => answer.known += 1,
            Ok(TakenUp::Absent | TakenUp::Foreign) => answer.ignored += 1,
            Err(error) if error.is_transient() => return Err(problem(error)),
            // The others are taken up all the same.
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(Json(answer)), |error| Err(problem(error)))
}
