//! Whether what a person wrote has the fields and the types that the API server knows. By the definition itself, so that no
//! field is forgotten; serde would take `zone: 1` for a text, and names neither the place nor the cure.

use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::crd;
use crate::model::check::Rejection;

/// Most characters of a value that a message shows.
const SHOWN_CHARS_MAX: usize = 60;

/// The schema of a whole document: what the definition says, and what every object has.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let definition = serde_json::to_value(crd()).unwrap_or_default();
    let spec = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").cloned();
    let settings = SchemaSettings::default().with(|settings| settings.inline_subschemas = true);
    let mut metadata = settings.into_generator().into_root_schema_for::<ObjectMeta>().to_value();
    metadata["required"] = json!(["name"]);
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "required": ["metadata"],
        // A status in a manifest is one that `kubectl get` printed; nobody reads it.
        "properties": {"apiVersion": text, "kind": text, "metadata": metadata, "spec": spec, "status": {}},
    })
});

/// What of a whole document is no field, or has no value of its type; each with its path, the value and the cure.
pub fn document_faults(document: &Value) -> Vec<Rejection> {
    let mut found = Vec::new();
    walk(&DOCUMENT, document, "", &mut found);
    found
}

/// The same of a spec alone.
pub fn spec_faults(spec: &Value) -> Vec<Rejection> {
    let mut found = Vec::new();
    walk(&DOCUMENT["properties"]["spec"], spec, "spec", &mut found);
    found
}

fn walk(schema: &Value, value: &Value, path: &str, found: &mut Vec<Rejection>) {
    match (schema["type"].as_str(), value) {
        (Some("object"), Value::Object(fields)) => object(schema, fields, path, found),
        (Some("array"), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                walk(&schema["items"], item, &format!("{path}[{index}]"), found);
            }
        }
        (Some("string"), Value::String(text)) => found.extend(not_a_choice(schema, text, path)),
        (Some("integer"), Value::Number(number)) if !number.is_f64() => {
            let fits =
                schema["format"] != "int32" || number.as_i64().is_some_and(|number| i32::try_from(number).is_ok());
            if !fits {
                let message = format!("{number} is not within {}: choose a value in between", bounds(schema));
                found.push(Rejection::new(path, message));
            }
        }
        (None, _) | (Some("boolean"), Value::Bool(_)) => {}
        (Some(wanted), _) => {
            let mut shown = value.to_string();
            if shown.chars().count() > SHOWN_CHARS_MAX {
                shown = shown.chars().take(SHOWN_CHARS_MAX).chain("...".chars()).collect();
            }
            let (is, wants) = (kind(value), wanted_kind(wanted));
            let message = format!("{shown} is {is}, and {wants} wanted: {}", cure(wanted, schema, value, path));
            found.push(Rejection::new(path, message));
        }
    }
}

fn object(schema: &Value, fields: &Map<String, Value>, path: &str, found: &mut Vec<Rejection>) {
    let at = |field: &str| if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
    let known = schema["properties"].as_object();
    let others = schema.get("additionalProperties").filter(|others| others.is_object());
    for (field, value) in fields {
        match (known.and_then(|known| known.get(field)).or(others), known) {
            // The API server takes it for a field that is left out.
            (Some(_), _) if value.is_null() => {}
            (Some(schema), _) => walk(schema, value, &at(field), found),
            (None, Some(known)) => {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                let message = format!("there is no such field: use one of {}", names.join(", "));
                found.push(Rejection::new(at(field), message));
            }
            (None, None) => {}
        }
    }
    for field in names(&schema["required"]) {
        if fields.get(field).is_none_or(Value::is_null) {
            found.push(Rejection::new(at(field), "it is missing: add it"));
        }
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn not_a_choice(schema: &Value, text: &str, path: &str) -> Option<Rejection> {
    let choices = names(&schema["enum"]);
    if choices.is_empty() || choices.contains(&text) {
        return None;
    }
    let likely = choices.iter().find(|choice| same_letters(choice, text));
    let cure = likely.copied().unwrap_or("one of them");
    Some(Rejection::new(path, format!("{text:?} is not one of {}: write {cure}", choices.join(", "))))
}

/// Whether two words differ only in case and in what stands between: `verify-full` and `VerifyFull`.
pub fn same_letters(one: &str, other: &str) -> bool {
    let letters = |text: &str| -> String { text.chars().filter(char::is_ascii_alphanumeric).collect() };
    letters(one).eq_ignore_ascii_case(&letters(other))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a set of fields",
    }
}

fn wanted_kind(wanted: &str) -> &'static str {
    match wanted {
        "string" => "a text is",
        "integer" => "a whole number is",
        "array" => "a list is",
        "object" => "fields are",
        _ => "true or false is",
    }
}

fn bounds(schema: &Value) -> String {
    let bound = |field: &str| schema[field].as_f64().unwrap_or_default();
    format!("{} to {}", bound("minimum"), bound("maximum"))
}

fn cure(wanted: &str, schema: &Value, value: &Value, path: &str) -> String {
    let scalar = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let is_scalar = !(value.is_null() || value.is_array() || value.is_object());
    match wanted {
        "string" if is_scalar => format!("write \"{scalar}\" with quotes"),
        "string" => "write one text".to_owned(),
        "integer" => match (scalar.trim().parse::<i64>().ok(), counted(&scalar, path)) {
            (Some(number), _) => format!("write {number} without quotes"),
            (None, Some(number)) => format!("write {number}"),
            (None, None) if schema["maximum"].is_number() => format!("write one within {}", bounds(schema)),
            (None, None) => "write one".to_owned(),
        },
        "array" if schema["items"]["type"] == "object" => {
            let fields = names(&schema["items"]["required"]).join(" and ");
            format!("begin each item with \"- \", and give it {fields}")
        }
        "array" if is_scalar => format!("write [{scalar}]"),
        "array" => "begin each item with \"- \"".to_owned(),
        "object" => match names(&schema["required"]).as_slice() {
            [only] if is_scalar && schema["properties"][only]["type"] == "string" => {
                format!("write {{{only}: {scalar}}}")
            }
            _ => {
                let known = schema["properties"].as_object().into_iter().flat_map(Map::keys);
                format!("write those of {}", known.map(String::as_str).collect::<Vec<_>>().join(", "))
            }
        },
        _ => "write true or false".to_owned(),
    }
}

/// The number that a text such as `60s` means in a field whose name ends with its unit.
fn counted(text: &str, path: &str) -> Option<i64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let milliseconds = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let milliseconds = number.parse::<i64>().ok()?.checked_mul(milliseconds)?;
    if path.ends_with("Milliseconds") {
        return Some(milliseconds);
    }
    (path.ends_with("Seconds") && milliseconds % 1_000 == 0).then_some(milliseconds / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(spec: &Value) -> Vec<String> {
        spec_faults(spec).iter().map(ToString::to_string).collect()
    }

    fn group(field: &str, value: Value) -> Value {
        let mut group = json!({"name": "core", "hosts": [{"name": "core-1", "address": "192.0.2.1"}]});
        group[field] = value;
        json!({"groups": [group]})
    }

    fn host(field: &str, value: Value) -> Value {
        let mut host = json!({"name": "core-1", "address": "192.0.2.1"});
        host[field] = value;
        group("hosts", json!([host]))
    }

    #[test]
    fn a_value_of_another_type_is_told_with_its_path_and_what_to_write() {
        let mut seconds = group("relays", json!(0));
        seconds["healing"] = json!({"settleSeconds": "60s", "suspectAfterMilliseconds": "2s", "lagSeconds": "soon"});
        let number = "is a text, and a whole number is wanted: write";
        for (spec, expected) in [
            (host("port", json!("5432")), vec![format!("hosts[0].port: \"5432\" {number} 5432 without quotes")]),
            (
                host("port", json!(99_999_999_999_u64)),
                vec!["hosts[0].port: 99999999999 is not within 1 to 65535: choose a value in between".to_owned()],
            ),
            (
                host("zone", json!(1)),
                vec!["hosts[0].zone: 1 is a number, and a text is wanted: write \"1\" with quotes".to_owned()],
            ),
            (
                seconds,
                vec![
                    format!("lagSeconds: \"soon\" {number} one within 1 to 86400"),
                    format!("settleSeconds: \"60s\" {number} 60"),
                    format!("suspectAfterMilliseconds: \"2s\" {number} 2000"),
                ],
            ),
            (
                group("credentialsSecretRef", json!("orders-sql")),
                vec![
                    "credentialsSecretRef: \"orders-sql\" is a text, and fields are wanted: write {name: orders-sql}"
                        .to_owned(),
                ],
            ),
            (
                group("upstreams", json!("core")),
                vec!["upstreams: \"core\" is a text, and a list is wanted: write [core]".to_owned()],
            ),
            (
                group("hosts", json!({"core-1": "192.0.2.1"})),
                vec![
                    "hosts: {\"core-1\":\"192.0.2.1\"} is a set of fields, and a list is wanted: begin each item with \
                     \"- \", and give it address and name"
                        .to_owned(),
                ],
            ),
            (
                group("sslMode", json!("verify-full")),
                vec![
                    "sslMode: \"verify-full\" is not one of Disable, Require, VerifyCa, VerifyFull: write VerifyFull"
                        .to_owned(),
                ],
            ),
            (
                group("sslMode", json!("prefer")),
                vec!["\"prefer\" is not one of Disable, Require, VerifyCa, VerifyFull: write one of them".to_owned()],
            ),
            (group("name", Value::Null), vec!["spec.groups[0].name: it is missing: add it".to_owned()]),
        ] {
            let mut told = said(&spec);
            told.sort();
            assert_eq!(told.len(), expected.len(), "{told:?}");
            for (told, expected) in told.iter().zip(&expected) {
                assert!(told.ends_with(expected.as_str()), "{told} is not {expected}");
            }
        }
    }

    #[test]
    fn what_every_object_has_is_judged_as_well() {
        let spec = json!({"groups": [{"name": "core", "hosts": [{"name": "core-1", "address": "192.0.2.1"}]}]});
        let document = |metadata: Value| {
            let document = json!({"kind": "ReplicaTopology", "metadata": metadata, "spec": spec, "status": {"old": 1}});
            document_faults(&document).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let exported = json!({
            "name": "orders", "creationTimestamp": null, "generation": 3, "annotations": {"a": "b"},
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        });
        assert_eq!(document(exported), Vec::<String>::new());
        let typo = document(json!({"name": "orders", "lables": {"a": "b"}}));
        assert!(typo[0].starts_with("metadata.lables: there is no such field: use one of annotations, "), "{typo:?}");
        assert_eq!(
            document(json!({"name": 1, "labels": {"a": true}})).len(),
            2,
            "a name and the value of a label are texts"
        );
        assert_eq!(document(json!({})), ["metadata.name: it is missing: add it"]);
    }
}
