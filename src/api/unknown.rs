//! Fields of a spec that its definition does not have.

use serde_json::Value;

use super::crd;
use crate::model::check::Rejection;

/// Fields of a spec that the definition does not have, each with those that it has. kubectl refuses them by name, other
/// clients may only warn.
pub fn unknown_fields(spec: &Value) -> Vec<Rejection> {
    let mut found = Vec::new();
    let schema = serde_json::to_value(crd()).unwrap_or_default();
    if let Some(schema) = schema.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec") {
        walk(schema, spec, "spec", &mut found);
    }
    found
}

fn walk(schema: &Value, value: &Value, path: &str, found: &mut Vec<Rejection>) {
    match value {
        Value::Object(fields) => {
            let Some(Value::Object(known)) = schema.get("properties") else { return };
            for (field, value) in fields {
                let path = format!("{path}.{field}");
                if let Some(schema) = known.get(field) {
                    walk(schema, value, &path, found);
                } else {
                    let names: Vec<&str> = known.keys().map(String::as_str).collect();
                    let message = format!("there is no such field: use one of {}", names.join(", "));
                    found.push(Rejection::new(path, message));
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, item) in items.iter().enumerate() {
                walk(schema, item, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}
