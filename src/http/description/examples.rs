//! Examples of what is sent and answered, in one file (`http/examples.json`): operation → request, and answers by status. Tests
//! hold them against the schemas, and send the requests.

use serde_json::{Map, Value};
use std::sync::LazyLock;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::Operation;

static EXAMPLES: LazyLock<Map<String, Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("../examples.json")).unwrap_or_default());

const JSON: &str = "application/json";

/// Give an operation its examples.
pub(super) fn give(operation: &mut Operation) {
    let id = operation.operation_id.as_deref().unwrap_or_default();
    let Some(own) = EXAMPLES.get(id) else { return };
    if let (Some(body), Some(example)) = (operation.request_body.as_mut(), own.get("request")) {
        for content in body.content.values_mut() {
            content.example = Some(example.clone());
        }
    }
    for (status, response) in &mut operation.responses.responses {
        if let (RefOr::T(response), Some(example)) = (response, own.get("responses").and_then(|all| all.get(status)))
            && let Some(content) = response.content.get_mut(JSON)
        {
            content.example = Some(example.clone());
        }
    }
}
