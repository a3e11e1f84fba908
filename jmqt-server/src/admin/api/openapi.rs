//! The OpenAPI document, made of the routes.

use std::sync::LazyLock;

use hyper::body::Bytes;
use serde_json::{Map, Value, json};

use super::routes::Route;
use super::schema::{object, schema};
use super::{IDEMPOTENCY_KEY, MOST_BODY_BYTES, PREFIX, all_routes};

pub(super) const PATH: &str = "/api/v1/openapi.json";

/// The document as text.
pub(super) fn text() -> Bytes {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| format!("{:#}\n", document()).into());
    TEXT.clone()
}

fn document() -> Value {
    let mut paths = Map::new();
    for route in all_routes() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Admin API of JMQT servers",
            "version": "1",
            "description": format!(
                "Made from the code: {PREFIX}openapi.json of a server is this document. A request needs a key of ADMIN_KEYS_FILE \
                 in the header Authorization. A body is JSON of at most {MOST_BODY_BYTES} bytes, declared as application/json. \
                 An error says what is wrong, where, and what was expected."
            ),
        },
        "paths": paths,
        "components": {
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Error": {
                "type": "object",
                "required": ["error"],
                "properties": { "error": {
                    "type": "object",
                    "required": ["what", "where", "expected"],
                    "properties": {
                        "what": { "type": "string", "description": "What is wrong." },
                        "where": { "type": "string", "description": "The place: a header, a parameter, a member of the body." },
                        "expected": { "type": "string", "description": "What would be right, and what to do." },
                    },
                } },
            } },
        },
        "security": [{ "key": [] }],
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = route
        .query
        .iter()
        .map(|field| {
            json!({
                "name": field.name, "in": "query", "required": field.is_required,
                "description": field.about, "schema": schema(field.kind),
            })
        })
        .collect();
    if route.is_once {
        parameters.push(json!({
            "name": IDEMPOTENCY_KEY, "in": "header", "required": false,
            "description": "A request with the same key and the same body is done once within ten minutes, by this node.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 128 },
        }));
    }
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.about,
        "description": format!("Needs a key with the scope {}.", route.scope),
        "responses": {
            "200": { "description": "done", "content": content(object(route.answer)) },
            "default": { "description": "refused", "content": content(json!({ "$ref": "#/components/schemas/Error" })) },
        },
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if !route.body.is_empty() {
        operation["requestBody"] = json!({ "required": true, "content": content(object(route.body)) });
    }
    operation
}
