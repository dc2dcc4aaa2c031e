//! `waltree validate -f FILE`: the rules of the API server and of the operator, without either.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use kube::Resource;
use serde::Deserialize;
use serde_json::Value;

use super::{ERROR, OK, REFUSED};
use crate::api::{self, ReplicaTopology};
use crate::model::Desired;
use crate::model::check::Rejection;

/// Arguments of `waltree validate`.
#[derive(Debug, clap::Args)]
pub struct Validate {
    /// A file with one or more YAML or JSON documents, `-` for the standard input; can be given more than once.
    /// Documents of other kinds are passed over.
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What became of one document.
enum Judgement {
    Good,
    OtherKind,
    Refused(Vec<Rejection>),
    Unreadable(String),
}

/// Judges every document of every file; the worst of them decides the exit code.
pub(super) fn run(what: &Validate, out: &mut impl Write) -> anyhow::Result<u8> {
    let mut worst = OK;
    for file in &what.files {
        let text = read(file).with_context(|| format!("read {}", file.display()))?;
        let mut topologies = 0;
        for (index, document) in serde_yaml::Deserializer::from_str(&text).enumerate() {
            let place = format!("{}[{index}]", file.display());
            let (name, judgement) = judge(document);
            topologies += usize::from(!matches!(judgement, Judgement::OtherKind));
            let code = report(out, &place, &name, &judgement)?;
            // 1 (could not be judged) is worse than 3 (judged, and refused).
            worst = if worst == ERROR || code == ERROR { ERROR } else { worst.max(code) };
        }
        if topologies == 0 {
            writeln!(out, "{}: there is no ReplicaTopology in it", file.display())?;
            worst = ERROR;
        }
    }
    Ok(worst)
}

fn read(file: &Path) -> std::io::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
}

fn report(out: &mut impl Write, place: &str, name: &str, judgement: &Judgement) -> std::io::Result<u8> {
    match judgement {
        Judgement::OtherKind => Ok(OK),
        Judgement::Good => writeln!(out, "{place}: {name} is valid").map(|()| OK),
        Judgement::Unreadable(why) => writeln!(out, "{place}: cannot be read: {why}").map(|()| ERROR),
        Judgement::Refused(rejections) => {
            for rejection in rejections {
                writeln!(out, "{place}: {name}: {rejection}")?;
            }
            Ok(REFUSED)
        }
    }
}

fn judge(document: serde_yaml::Deserializer<'_>) -> (String, Judgement) {
    let value = match Value::deserialize(document) {
        Ok(value) => value,
        Err(error) => return (String::new(), Judgement::Unreadable(error.to_string())),
    };
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = format!("ReplicaTopology {}", text("/metadata/name"));
    if text("/kind") != ReplicaTopology::kind(&()) {
        return (name, Judgement::OtherKind);
    }
    let version = ReplicaTopology::api_version(&());
    if text("/apiVersion") != version {
        let message = format!("{:?} is not {version}: correct it", text("/apiVersion"));
        return (name, Judgement::Refused(vec![Rejection::new("apiVersion", message)]));
    }
    let mut rejections = unknown_fields(&value);
    match serde_path(&value) {
        Err(rejection) => rejections.push(rejection),
        Ok(topology) => rejections.extend(Desired::try_from(&topology.spec).err().unwrap_or_default()),
    }
    let judgement = if rejections.is_empty() { Judgement::Good } else { Judgement::Refused(rejections) };
    (name, judgement)
}

/// Reads a document through YAML text again, because only that reader names the path of a wrong type.
fn serde_path(value: &Value) -> Result<ReplicaTopology, Rejection> {
    let refused = |error: serde_yaml::Error| {
        let text = error.to_string();
        // "spec.groups[0].relays: invalid type: ... at line 9 column 11": the line is that of our own text.
        let text = text.split(" at line ").next().unwrap_or(&text).to_owned();
        match text.split_once(": ") {
            Some((path, why)) if !path.contains(' ') => Rejection::new(path, why),
            _ => Rejection::new("spec", text),
        }
    };
    let yaml = serde_yaml::to_string(value).map_err(refused)?;
    serde_yaml::from_str(&yaml).map_err(refused)
}

/// Fields of the spec that the definition does not have. kubectl refuses them by name, other clients may only warn.
fn unknown_fields(document: &Value) -> Vec<Rejection> {
    let mut found = Vec::new();
    let schema = serde_json::to_value(api::crd()).unwrap_or_default();
    let root = schema.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
    if let (Some(schema), Some(spec)) = (root, document.get("spec")) {
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
                match known.get(field) {
                    Some(schema) => walk(schema, value, &path, found),
                    None => {
                        let names: Vec<&str> = known.keys().map(String::as_str).collect();
                        let message = format!("there is no such field: use one of {}", names.join(", "));
                        found.push(Rejection::new(path, message));
                    }
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
