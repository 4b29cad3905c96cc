//! The OpenAPI document as a page: by tag, each operation with what it takes, what it answers, examples, and its errors.

use maud::{DOCTYPE, Markup, html};
use serde_json::{Map, Value};

/// One operation of the document.
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    id: &'a str,
    value: &'a Value,
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

/// Operations of a tag, by path.
fn of_tag<'a>(description: &'a Value, tag: &str) -> Vec<Operation<'a>> {
    let paths = description["paths"].as_object().into_iter().flatten();
    let all = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().into_iter().flatten();
        methods.map(move |(method, value)| Operation { method, path, id: text(value, "operationId"), value })
    });
    all.filter(|one| one.value["tags"][0] == tag).collect()
}

/// The whole page.
pub(super) fn render(description: &Value) -> String {
    let tags: Vec<(&str, &str)> = description["tags"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|tag| (text(tag, "name"), text(tag, "description")))
        .collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Chartgate API" }
                link rel="stylesheet" href="/docs/style.css";
            }
            body {
                a .skip href="#content" { "To the operations" }
                div .frame {
                    nav aria-label="Operations" {
                        @for (tag, _) in &tags {
                            a href={ "#tag-" (tag) } { strong { (tag) } }
                            ul {
                                @for one in of_tag(description, tag) {
                                    li { a href={ "#" (one.id) } { (one.method.to_uppercase()) " " (one.path) } }
                                }
                            }
                        }
                    }
                    main #content {
                        h1 { "Chartgate API " span .soft { (text(&description["info"], "version")) } }
                        p { (text(&description["info"], "description")) }
                        p {
                            "Send " code { "Authorization: Bearer cgk_…" } ". Errors are problems (RFC 9457), or OperationOutcomes for who accepts FHIR only. "
                            "The same as a document: " a href="/openapi.json" { "/openapi.json" } " (OpenAPI 3.1)."
                        }
                        @for (tag, about) in &tags {
                            section aria-labelledby={ "tag-" (tag) } {
                                h2 id={ "tag-" (tag) } { (tag) }
                                p .soft { (about) }
                                @for one in of_tag(description, tag) { (operation(description, &one)) }
                            }
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}

fn operation(description: &Value, one: &Operation<'_>) -> Markup {
    let parameters: Vec<&Value> = one.value["parameters"].as_array().into_iter().flatten().collect();
    let security: Vec<&str> = one.value["security"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|scheme| scheme.as_object()?.keys().next().map(String::as_str))
        .collect();
    let codes: Vec<&str> = one.value[crate::http::description::ERRORS]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    html! {
        article id=(one.id) {
            h3 { span class={ "method " (one.method) } { (one.method.to_uppercase()) } " " code { (one.path) } }
            p { strong { (text(one.value, "summary")) } " " (text(one.value, "description")) }
            p .soft {
                @if security.is_empty() { "No key is needed." }
                @if security.contains(&"api_key") { "Needs a key or token. " }
                @if security.contains(&"webhook") { "Or a signed webhook." }
            }
            @if !parameters.is_empty() {
                h4 { "Parameters" }
                table {
                    thead { tr { th scope="col" { "Name" } th scope="col" { "In" } th scope="col" { "Is" } th scope="col" { "Meaning" } } }
                    tbody {
                        @for parameter in &parameters {
                            tr {
                                td { code { (text(parameter, "name")) } @if parameter["required"] == true { " (required)" } }
                                td { (text(parameter, "in")) }
                                td { (kind(&parameter["schema"])) }
                                td { (text(parameter, "description")) }
                            }
                        }
                    }
                }
            }
            @if let Some((media, content)) = first(&one.value["requestBody"]["content"]) {
                h4 { "Body: " code { (media) } " " @if one.value["requestBody"]["required"] == false { "(may be left out)" } }
                p { (text(&one.value["requestBody"], "description")) }
                (members(description, &content["schema"]))
                (example(&content["example"]))
            }
            h4 { "Answers" }
            @for (status, answer) in one.value["responses"].as_object().into_iter().flatten() {
                p {
                    code { (status) } " " (text(answer, "description"))
                    @for (media, _) in answer["content"].as_object().into_iter().flatten() { " " span .soft { (media) } }
                }
                @if let Some((_, content)) = first(&answer["content"])
                    && status.starts_with('2')
                {
                    (members(description, &content["schema"]))
                    (example(&content["example"]))
                }
            }
            @if !codes.is_empty() {
                h4 { "Errors" }
                ul .codes { @for code in codes { li { a href={ "/docs/errors/" (code) } { code { (code) } } } } }
            }
        }
    }
}

/// The content that comes first.
fn first(content: &Value) -> Option<(&String, &Value)> {
    content
        .as_object()?
        .iter()
        .find(|(media, _)| !media.contains("problem"))
        .or_else(|| content.as_object()?.iter().next())
}

fn example(example: &Value) -> Markup {
    html! {
        @if !example.is_null() {
            details {
                summary { "Example" }
                pre tabindex="0" { code { (serde_json::to_string_pretty(example).unwrap_or_default()) } }
            }
        }
    }
}

/// The schema that a reference names.
fn resolved<'a>(description: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        Some(name) => &description["components"]["schemas"][name],
        None => schema["oneOf"]
            .as_array()
            .and_then(|choices| choices.iter().find(|choice| choice["type"] != "null"))
            .filter(|choice| choice["$ref"].is_string())
            .map_or(schema, |choice| resolved(description, choice)),
    }
}

/// The members of an object, in a table that opens.
fn members(description: &Value, schema: &Value) -> Markup {
    let object = resolved(description, schema);
    let object = object["allOf"].get(0).unwrap_or(object);
    let empty = Map::new();
    let properties = object["properties"].as_object().unwrap_or(&empty);
    let is_required =
        |name: &str| object["required"].as_array().is_some_and(|required| required.iter().any(|one| one == name));
    html! {
        @if !properties.is_empty() {
            details {
                summary { "Members of " (kind(schema)) }
                table {
                    thead { tr { th scope="col" { "Name" } th scope="col" { "Is" } th scope="col" { "Meaning" } } }
                    tbody {
                        @for (name, member) in properties {
                            tr {
                                td { code { (name) } @if !is_required(name) { " " span .soft { "optional" } } }
                                td { (kind(member)) }
                                td { (text(member, "description")) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What a schema is, in a word or two.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return name.to_owned();
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(choices) = schema[choice].as_array() {
            let kinds: Vec<String> = choices.iter().filter(|one| one["type"] != "null").map(kind).collect();
            return kinds.join(" or ");
        }
    }
    let of_types = |types: &Value| match types {
        Value::String(one) => one.clone(),
        Value::Array(several) => {
            several.iter().filter_map(Value::as_str).filter(|one| *one != "null").collect::<Vec<_>>().join(" or ")
        }
        _ => "any".to_owned(),
    };
    let kind_of = of_types(&schema["type"]);
    if kind_of == "array" {
        return format!("list of {}", kind(&schema["items"]));
    }
    match schema["format"].as_str() {
        Some(format) => format!("{kind_of} ({format})"),
        None => kind_of,
    }
}
