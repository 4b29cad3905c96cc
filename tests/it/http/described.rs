//! The API description and its page: examples that are what they are examples of, errors that are explained.

use super::{call, get};
use crate::support::app::TestApp;
use chartgate::http::problem::CODES;
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeSet;

fn description() -> Value {
    serde_json::to_value(chartgate::http::description()).unwrap()
}

/// (METHOD, path, operation).
fn operations(description: &Value) -> Vec<(Method, &str, &Value)> {
    let paths = description["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(move |(method, one)| (method.to_uppercase().parse().unwrap(), path.as_str(), one))
        })
        .collect()
}

/// What is wrong with a value, by the part of JSON Schema that the description uses.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/components/schemas/")) {
        let named = &root["components"]["schemas"][name];
        assert!(!named.is_null(), "{name} is not described");
        return faults(root, named, value, at);
    }
    let mut found = Vec::new();
    for (choice, least, most) in [("oneOf", 1, 1), ("anyOf", 1, usize::MAX)] {
        if let Some(choices) = schema[choice].as_array() {
            let all: Vec<_> = choices.iter().map(|one| faults(root, one, value, at)).collect();
            let good = all.iter().filter(|faults| faults.is_empty()).count();
            if good < least || good > most {
                found.push(format!("{at}: {good} of {choice}: {:?}", all.concat()));
            }
        }
    }
    for one in schema["allOf"].as_array().into_iter().flatten() {
        found.extend(faults(root, one, value, at));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !(types.is_empty() || types.contains(&kind) || kind == "integer" && types.contains(&"number")) {
        found.push(format!("{at} is {kind}, not {types:?}"));
        return found;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{at}: {value} is none of {allowed:?}"));
    }
    if let Some(text) = value.as_str() {
        if schema["format"] == "date-time"
            && time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_err()
        {
            found.push(format!("{at}: {text} is no time"));
        }
        let length = text.chars().count() as u64;
        if schema["minLength"].as_u64().is_some_and(|least| length < least)
            || schema["maxLength"].as_u64().is_some_and(|most| length > most)
        {
            found.push(format!("{at}: {length} characters"));
        }
    }
    if let Some(items) = value.as_array() {
        for (index, item) in items.iter().enumerate() {
            found.extend(faults(root, &schema["items"], item, &format!("{at}[{index}]")));
        }
    }
    if let Some(members) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !members.contains_key(name) {
                found.push(format!("{at} lacks {name}"));
            }
        }
        for (name, member) in members {
            let described = &schema["properties"][name];
            let place = format!("{at}.{name}");
            if !described.is_null() {
                found.extend(faults(root, described, member, &place));
            } else if schema["additionalProperties"].is_object() {
                found.extend(faults(root, &schema["additionalProperties"], member, &place));
            } else if schema["additionalProperties"] == false {
                found.push(format!("{place} is not described"));
            }
        }
    }
    found
}

#[test]
fn every_body_and_every_main_answer_has_an_example_that_fits_its_schema() {
    let description = description();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (method, path, operation) in operations(&description) {
        let mut places: Vec<(String, &Value)> = Vec::new();
        for (media, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            places.push((format!("{method} {path} body {media}"), content));
        }
        for (status, answer) in operation["responses"].as_object().unwrap() {
            let content = &answer["content"]["application/json"];
            // A schema that says nothing but "object" has nothing to be held against.
            let says = content["schema"]["$ref"].is_string() || content["schema"]["properties"].is_object();
            if status.starts_with('2') && says {
                places.push((format!("{method} {path} {status}"), content));
            }
        }
        for (place, content) in places {
            if content["example"].is_null() {
                wrong.push(format!("{place} has no example"));
                continue;
            }
            checked += 1;
            wrong.extend(faults(&description, &content["schema"], &content["example"], &place));
        }
    }
    assert!(wrong.is_empty(), "src/http/examples.json:\n{}", wrong.join("\n"));
    assert!(checked > 60, "{checked}");
}

#[tokio::test]
async fn every_example_of_a_body_is_taken_by_its_route() {
    let app = TestApp::start().await;
    let description = description();
    let platform = app.platform.clone();
    let id = "01h455vb4pex5vsknk084sn02q";
    for (method, path, operation) in operations(&description) {
        for (media, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            // Whatever the ids name: that it is not there is said only after the body was read.
            let mut target = path.to_owned();
            for (name, prefix) in [
                ("jobId", "job"),
                ("uploadId", "upload"),
                ("callbackId", "cb"),
                ("operationId", "op"),
                ("reviewId", "rev"),
                ("patientId", "pat"),
                ("eventId", "evt"),
                ("holdId", "hold"),
            ] {
                target = target.replace(&format!("{{{name}}}"), &format!("{prefix}_{id}"));
            }
            target = target.replace("{organizationId}", &app.organization.id.to_string());
            target = target.replace("{keyId}", "0123456789abcdef").replace("{secretId}", "0123456789abcdef");
            assert!(!target.contains('{'), "{target}");
            let body = content["example"].to_string();
            let mut said = Vec::new();
            for key in [&app.organization.sender, &app.organization.reader, &app.organization.admin, &platform] {
                let answer = call(&app, method.clone(), &target, key, &[("content-type", media)], body.clone()).await;
                said.push((answer.status, String::from_utf8_lossy(&answer.body).into_owned()));
            }
            let bad = said.iter().find(|(status, text)| {
                // Names of this example's hosts cannot be resolved, and the operation of a job that is not there cannot run.
                ([400, 413, 415, 422].contains(status) && !text.contains("callback_url_refused")) || *status >= 500
            });
            assert!(bad.is_none(), "{method} {path}: {bad:?}");
            assert!(said.iter().any(|(status, _)| *status != 403 && *status != 401), "{method} {path}: {said:?}");
        }
    }
}

#[tokio::test]
async fn the_page_shows_every_operation_its_errors_and_nothing_from_elsewhere() {
    let app = TestApp::start().await;
    let page = get(&app, "", "/docs").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let html = String::from_utf8(page.body.clone()).unwrap();
    for foreign in ["<script", " style=", " onclick", "src=", "@import"] {
        assert!(!html.contains(foreign), "{foreign}");
    }
    // No address but in examples and descriptions: nothing is fetched from one.
    let fetched: Vec<&str> = html.split("<link ").skip(1).filter_map(|link| link.split('>').next()).collect();
    assert_eq!(fetched, [r#"rel="stylesheet" href="/docs/style.css""#]);
    let style = get(&app, "", "/docs/style.css").await;
    assert!(style.status == 200 && String::from_utf8(style.body).unwrap().contains("prefers-color-scheme: dark"));
    let description = description();
    let mut explained = BTreeSet::new();
    for (method, path, operation) in operations(&description) {
        let id = operation["operationId"].as_str().unwrap();
        assert_eq!(html.matches(&format!("id=\"{id}\"")).count(), 1, "{method} {path}");
        let codes: Vec<&str> =
            operation["x-error-codes"].as_array().unwrap().iter().map(|code| code.as_str().unwrap()).collect();
        for code in codes {
            assert!(html.contains(&format!("href=\"/docs/errors/{code}\"")), "{code}");
            explained.insert(code.to_owned());
        }
    }
    // Of all codes of HTTP answers only these belong to no route.
    let of_none = ["method_not_allowed"];
    let missing: Vec<&str> = CODES
        .iter()
        .map(|code| code.code)
        .filter(|code| !explained.contains(*code) && !of_none.contains(code))
        .collect();
    assert!(missing.is_empty(), "on no route: {missing:?}");
    for code in explained {
        assert_eq!(get(&app, "", &format!("/docs/errors/{code}")).await.status, 200, "{code}");
    }
    // Every link inside leads somewhere.
    for target in html.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(html.contains(&format!("id=\"{target}\"")), "#{target}");
    }
}
