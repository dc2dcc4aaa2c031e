//! What the API server asks of the metadata of every object.

use kube::api::ObjectMeta;

use super::convert::pods;
use super::topology::ReplicaTopology;
use crate::model::check::Rejection;

/// Longest name of an object, in bytes.
const NAME_BYTES_MAX: usize = 253;
/// Longest label of a DNS name, name of a namespace, and value of a Kubernetes label.
const LABEL_BYTES_MAX: usize = 63;

/// Longest name of a StatefulSet, in bytes: with a checksum behind it, it is the value of a label.
const SET_BYTES_MAX: usize = 52;

/// What the API server would not take of the metadata.
pub fn metadata_faults(metadata: &ObjectMeta) -> Vec<Rejection> {
    let mut found = Vec::new();
    if let Some(name) = metadata.name.as_deref().filter(|name| !is_object_name(name)) {
        found.push(Rejection::new("metadata.name", format!("{name:?} is no name: {}", object_name_cure(name))));
    }
    if let Some(name) = metadata.namespace.as_deref().filter(|name| !name.is_empty() && !is_namespace(name)) {
        let message = format!(
            "{name:?} is no name of a namespace: use 1 to {LABEL_BYTES_MAX} lower-case letters, digits and '-', with a \
             letter or digit at both ends{}",
            such_as(name)
        );
        found.push(Rejection::new("metadata.namespace", message));
    }
    let keys = |field: &str, key: &str| {
        let message =
            "it is no key: write letters, digits, '-', '_' and '.', 63 at most, after a DNS name and '/' if at all";
        (!is_key(key)).then(|| Rejection::new(format!("metadata.{field}.{key}"), message))
    };
    for (key, value) in metadata.labels.iter().flatten() {
        found.extend(keys("labels", key));
        if !value.is_empty() && !is_word(value) {
            let message = format!(
                "{value:?} is no value of a label: use up to {LABEL_BYTES_MAX} letters, digits, '-', '_' and '.', with a \
                 letter or digit at both ends"
            );
            found.push(Rejection::new(format!("metadata.labels.{key}"), message));
        }
    }
    found.extend(metadata.annotations.iter().flatten().filter_map(|(key, _)| keys("annotations", key)));
    found
}

/// What of a topology's name does not go with pods: their objects are called by it and by the node's.
pub fn pod_name_faults(topology: &ReplicaTopology) -> Vec<Rejection> {
    let name = topology.metadata.name.as_deref().unwrap_or_default();
    let longest = pods(&topology.spec).into_iter().map(|node| node.as_str().len()).max();
    let Some(longest) = longest else { return Vec::new() };
    let mut found = Vec::new();
    if !is_namespace(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        let message =
            format!("{name:?} is no name for pods: use lower-case letters, digits and '-', beginning with a letter");
        found.push(Rejection::new("metadata.name", message));
    }
    // The Service of a group's readers is called like that of a node.
    let groups = || topology.spec.groups.iter().map(|group| group.name.as_str());
    for (place, group) in groups().enumerate() {
        let service = format!("ro-{group}");
        if pods(&topology.spec).iter().any(|node| node.as_str() == service) {
            let message =
                format!("{group:?} has a Service called {service}, and a node is called so too: rename the group");
            found.push(Rejection::new(format!("spec.groups[{place}].name"), message));
        }
    }
    let length = name.len() + 1 + longest;
    if length > SET_BYTES_MAX {
        let message = format!(
            "{name:?} and the longest name of a node make {length} characters, and a StatefulSet's name has {SET_BYTES_MAX} \
             at most: shorten this, or the name of a group"
        );
        found.push(Rejection::new("metadata.name", message));
    }
    found
}

/// Whether objects of most kinds, Secrets among them, can be called so.
pub(super) fn is_object_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label)
}

/// What to write in place of a name that is none.
pub(super) fn object_name_cure(text: &str) -> String {
    format!(
        "use 1 to {NAME_BYTES_MAX} lower-case letters, digits, '-' and '.', with a letter or digit at both ends and beside \
         each '.'{}",
        such_as(text)
    )
}

/// What was meant, if that is a name.
fn such_as(text: &str) -> String {
    let meant = text.to_ascii_lowercase().replace(['_', ' '], "-");
    if is_namespace(&meant) { format!(", such as {meant}") } else { String::new() }
}

fn is_namespace(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && is_label(text)
}

fn is_label(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(edge) && text.ends_with(edge) && text.chars().all(|c| edge(c) || c == '-')
}

fn is_word(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| edge(c) || "-_.".contains(c);
    text.len() <= LABEL_BYTES_MAX && text.starts_with(edge) && text.ends_with(edge) && text.chars().all(inner)
}

fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        None => is_word(text),
        Some((prefix, name)) => is_object_name(&prefix.to_ascii_lowercase()) && is_word(name),
    }
}
