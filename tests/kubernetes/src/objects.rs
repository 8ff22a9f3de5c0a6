//! Names of Kubernetes objects.

use serde_json::Value;

/// Kind and name of an object.
pub(crate) fn title_of(object: &Value) -> String {
    format!("{} {}", text_of(&object["kind"]), text_of(&object["metadata"]["name"]))
}

/// A string; empty for any other value.
pub(crate) fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
