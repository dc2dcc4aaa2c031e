//! What the derived schema needs beyond what the derive gives.

use schemars::Schema;
use serde_json::{Map, Value, json};

/// Makes each optional property of a struct just that: may be left out. The derive would also allow an explicit `null`,
/// which the API server then stores and which breaks rules that say `has(...)`; and it would write a default into the
/// schema, which is frozen into every stored object (kubernetes-facts.md): defaults are resolved in the operator.
pub(super) fn plain(schema: &mut Schema) {
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for property in properties.values_mut().filter_map(Value::as_object_mut) {
        property.remove("default");
        one_line(property);
        without_null(property);
    }
}

/// Doc comments break their lines for this source; kubectl breaks them again for the terminal. The default gets a line
/// of its own.
fn one_line(property: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = property.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace(" Default:", "\nDefault:");
    }
}

fn without_null(property: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = property.get("type")
        && let Some(only) = types.iter().find(|kind| *kind != "null").cloned()
    {
        property.insert("type".to_owned(), only);
    }
    if let Some(Value::Array(choices)) = property.get("anyOf")
        && let [Value::Object(one), null] = choices.as_slice()
        && null.get("type") == Some(&json!("null"))
    {
        let one = one.clone();
        property.remove("anyOf");
        for (key, value) in one {
            property.entry(key).or_insert(value);
        }
    }
}
