//! The OpenAPI document, made from the routes, with what all of them share: ids as they look, refusals in both media
//! types, `503` wherever the database is asked.

mod errors;
mod examples;

use super::problem::OperationOutcome;
use super::routes;
use utoipa::PartialSchema as _;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{Operation, Parameter};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{
    AllOfBuilder, Array, ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, Required};

const PROBLEM: &str = "application/problem+json";
/// Names the codes that an operation answers with.
pub(super) const ERRORS: &str = "x-error-codes";
const FHIR: &str = "application/fhir+json";

/// 26 characters of Crockford base32, the first of three bits (TypeID specification 0.3).
const ID: &str = "[0-7][0-9a-hjkmnp-tv-z]{25}$";

/// What a path parameter of that name looks like; others are free text.
fn pattern(parameter: &str) -> Option<String> {
    let prefix = match parameter {
        // Of an upload its own id will do.
        "jobId" | "uploadId" => "(job|upload)",
        "callbackId" => "cb",
        "findingId" => "fnd",
        "holdId" => "hold",
        "operationId" => "op",
        "organizationId" => "org",
        "reviewId" => "rev",
        "patientId" => "pat",
        "eventId" => "evt",
        "sha256" => return Some("^[0-9a-f]{64}$".to_owned()),
        "keyId" | "secretId" => return Some("^[0-9a-f]{16}$".to_owned()),
        "code" => return Some("^[a-z_]+$".to_owned()),
        // No control characters, and no sign of broken UTF-8.
        "mrn" => return Some("^[^\\u0000-\\u001f\\u007f-\\u009f\\ufffd]+$".to_owned()),
        _ => return None,
    };
    Some(format!("^{prefix}_{ID}"))
}

/// The OpenAPI 3.1 document.
#[must_use]
pub fn description() -> utoipa::openapi::OpenApi {
    let mut description = routes().into_openapi();
    env!("CARGO_PKG_VERSION").clone_into(&mut description.info.version);
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key or a token: `Authorization: Bearer cgk_…`"))
        .build();
    let webhook = ApiKey::Header(ApiKeyValue::with_description(
        "Chartgate-Key",
        "A signed webhook (Standard Webhooks): the sender's name, beside `webhook-id`, `webhook-timestamp` and `webhook-signature`",
    ));
    for item in description.paths.paths.values_mut() {
        let operations =
            [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch, &mut item.head];
        for operation in operations.into_iter().flatten() {
            complete(operation);
        }
    }
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("api_key", SecurityScheme::Http(scheme));
    components.add_security_scheme("webhook", SecurityScheme::ApiKey(webhook));
    components.schemas.insert("OperationOutcome".to_owned(), OperationOutcome::schema());
    components.schemas.insert("EventBatch".to_owned(), event_batch());
    if let Some(bulk) = components.schemas.get_mut("BulkRetryRequest") {
        either(bulk, &[("filter", Type::Object), ("ids", Type::Array)]);
    }
    description
}

fn complete(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        look(parameter);
    }
    if let Some(body) = operation.request_body.as_mut() {
        // Null stands for a body that is left out.
        let content = body.content.values().next().and_then(|content| content.schema.as_ref());
        let is_optional = matches!(content, Some(RefOr::T(Schema::OneOf(_))));
        body.required = Some(if is_optional { Required::False } else { Required::True });
    }
    if operation.security.is_some() {
        // The key is looked up in the database.
        let content = Content::new(Some(Ref::from_schema_name("ProblemDocument")));
        let away = || ResponseBuilder::new().description("Not now; see Retry-After").content(PROBLEM, content).build();
        operation.responses.responses.entry("503".to_owned()).or_insert_with(|| RefOr::T(away()));
    }
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            offer_outcome(response);
        }
    }
    examples::give(operation);
    // Which codes there can be; `/docs/errors/{code}` explains each.
    operation.extensions = Some(ExtensionsBuilder::new().add(ERRORS, errors::codes_of(operation)).build());
}

fn look(parameter: &mut Parameter) {
    if let (Some(pattern), Some(RefOr::T(Schema::Object(schema)))) = (pattern(&parameter.name), &mut parameter.schema) {
        schema.pattern = Some(pattern);
    }
}

/// A refusal is an OperationOutcome for whoever accepts FHIR only.
fn offer_outcome(response: &mut Response) {
    if response.content.contains_key(PROBLEM) {
        let outcome = Content::new(Some(Ref::from_schema_name("OperationOutcome")));
        response.content.insert(FHIR.to_owned(), outcome);
    }
}

/// Exactly one of two members, which the derive cannot say.
fn either(schema: &mut RefOr<Schema>, members: &[(&str, Type); 2]) {
    let RefOr::T(Schema::Object(object)) = schema else { return };
    let mut choice = OneOfBuilder::new();
    let null = || ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null));
    for (index, (name, kind)) in members.iter().enumerate() {
        let given = ObjectBuilder::new().schema_type(SchemaType::Type(kind.clone()));
        let one = ObjectBuilder::new().required(*name).property(*name, given);
        choice = choice.item(one.property(members[1 - index].0, null()));
    }
    let both = AllOfBuilder::new().item(object.clone()).item(choice);
    *schema = RefOr::T(Schema::AllOf(both.build()));
}

fn list(item: ObjectBuilder, items_min: usize, items_max: usize) -> ArrayBuilder {
    ArrayBuilder::new().items(item).min_items(Some(items_min)).max_items(Some(items_max))
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))
}

/// At most 100 texts of 1 to 500 characters, none of them a control character.
pub fn words() -> Array {
    let word = text().min_length(Some(1)).max_length(Some(500)).pattern(Some("^[^\\u0000-\\u001f\\u007f-\\u009f]*$"));
    list(word, 0, 100).build()
}

/// At most 100 web origins.
pub fn origins() -> Array {
    list(text().format(Some(SchemaFormat::Custom("web-origin".to_owned()))), 0, 100)
        .description(Some(
            "Web origins that may call for this organization: `scheme://host[:port]`, `chrome-extension://…`, \
             `moz-extension://…`.",
        ))
        .build()
}

/// 1 to 1,000 ids of jobs, or null.
pub fn job_ids() -> Array {
    let nullable = SchemaType::from_iter([Type::Array, Type::Null]);
    list(text().pattern(Some(format!("^job_{ID}"))), 1, 1000)
        .schema_type(nullable)
        .description(Some("Or exactly these."))
        .build()
}

/// A text, or a whole number.
pub fn athena_patient_id() -> Schema {
    let sound = r"^[^\u0000-\u001f\u007f-\u009f\ufffd]*[^\s\u0000-\u001f\u007f-\u009f\ufffd][^\u0000-\u001f\u007f-\u009f\ufffd]*$";
    let text = text().min_length(Some(1)).max_length(Some(200)).pattern(Some(sound));
    let number = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)).minimum(Some(0));
    let description = "The patient's number in the organization's Athena system: 1 to 200 characters that are no control characters, or a whole number.";
    Schema::OneOf(OneOfBuilder::new().item(text).item(number).description(Some(description)).build())
}

/// What Athena shows.
pub fn object_or_array() -> Object {
    let types = SchemaType::from_iter([Type::Object, Type::Array]);
    ObjectBuilder::new().schema_type(types).description(Some("What Athena shows: an object or an array.")).build()
}

/// 1 to 500 events, in an object or by themselves. An item that is no event is rejected by itself.
fn event_batch() -> RefOr<Schema> {
    let items = || {
        let event = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
        let event = event.description(Some("An `AthenaEvent`; anything else is rejected by itself."));
        ArrayBuilder::new().items(event).min_items(Some(1)).max_items(Some(500))
    };
    let object = ObjectBuilder::new().required("events").property("events", items());
    let description = "1 to 500 events: an object with `events`, or the array itself.";
    RefOr::T(Schema::OneOf(OneOfBuilder::new().item(object).item(items()).description(Some(description)).build()))
}
