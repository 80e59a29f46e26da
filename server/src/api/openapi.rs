//! The OpenAPI document, made of the table of routes and the types' own schemas.

use axum::http::Method;
use riptrace_common::wire::message::Error;
use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::routes::{Answer, Route, table};

const VERSION: &str = "3.1.0";

/// The document.
#[must_use]
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let error = generator.subschema_for::<Error>();
    let mut paths = Map::new();
    for route in table() {
        let operation = operation(&route, &mut generator, &error);
        let path = paths.entry(route.full_path()).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    json!({
        "openapi": VERSION,
        "info": {
            "title": "RipTrace",
            "version": "1",
            "description": "Non-breaking tracepoints on the lines of running Go services, and their hits in one strict order.",
        },
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": generator.take_definitions(true),
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator, error: &Schema) -> Value {
    let mut operation = json!({ "operationId": route.name, "summary": route.summary });
    let mut parameters: Vec<Value> = names_in(route.path)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    if let Some(query) = route.query {
        parameters.extend(query_parameters(&query(generator)));
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = route.body {
        let content = json!({ "application/json": { "schema": body(generator) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    let (kind, schema) = match route.answer {
        Answer::Json(schema) => ("application/json", schema(generator).into()),
        Answer::Events(schema) => ("text/event-stream", schema(generator).into()),
        Answer::Lines(schema) => ("application/jsonl", schema(generator).into()),
        Answer::Text => ("text/plain", json!({ "type": "string" })),
        Answer::Document => ("application/json", json!({ "type": "object" })),
    };
    operation["responses"] = json!({
        "200": { "description": "Done", "content": { kind: { "schema": schema } } },
        "default": { "description": "Why not", "content": { "application/json": { "schema": error } } },
    });
    operation
}

/// The names in braces.
fn names_in(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn query_parameters(schema: &Schema) -> Vec<Value> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let mut parameters = Vec::new();
    for (name, property) in properties.into_iter().flatten() {
        let mut property = property.clone();
        let description = property.as_object_mut().and_then(|property| property.remove("description"));
        let mut parameter = json!({ "name": name, "in": "query", "required": false, "schema": property });
        if let Some(description) = description {
            parameter["description"] = description;
        }
        parameters.push(parameter);
    }
    parameters
}

/// Whether a method of a path is in the document.
#[must_use]
pub fn has(document: &Value, method: &Method, path: &str) -> bool {
    document["paths"][path].get(method.as_str().to_ascii_lowercase()).is_some()
}
